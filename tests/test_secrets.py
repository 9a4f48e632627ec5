"""The token, the group id, images and numbers: in no log, repr, error, chain or traceback."""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from aisolution_async import AddFace, AISolutionError, FaceCompare, SearchFace, WhatsAppDetail
from aisolution_async.errors import quotable

from .support import TOKEN, Vendor, client_of, raw_server, says

GROUP = "LxiKPLIMGFpXzXas"
NUMBER = "6281387300008"
IMAGE = b"\xff\xd8\xff-a-face-" * 40
SECRETS = [TOKEN, quote(TOKEN, safe=""), GROUP, NUMBER, base64.b64encode(IMAGE).decode()[:40], "a-face-"]


def echo(request: httpx.Request) -> str:
    """All that a vendor could throw back at us."""
    return f"{request.url} {GROUP} {request.content.decode()} {NUMBER}"


def _raise(exc: Exception) -> Any:
    raise exc


HOSTILE: dict[str, Any] = {
    "ok": lambda r: says("OK", {"group_id": GROUP, "person_id": "p", "person_count": 1, "echo": echo(r)}),
    "ok search": lambda r: says("OK", [{"confidence": 9, "person_id": "p", "group_id": GROUP}]),
    "ok whatsapp": lambda r: says("OK", {"number": NUMBER, "whatsapp": "yes", "signature": echo(r), "new": echo(r)}),
    "ok that does not fit": lambda r: says("OK", {"similarity": echo(r), echo(r): echo(r)}),
    "message": lambda r: says("INVALID_REQUEST", echo(r)),
    "message object": lambda r: says("FACE_DETECT_FAILED", {"group_id": GROUP, "echo": echo(r)}),
    "retry later": lambda r: says("RETRY_LATER", echo(r)),
    "status": lambda r: says(echo(r), "x"),
    "status is the token": lambda r: says(TOKEN, TOKEN),
    "refused": lambda r: httpx.Response(401, text=echo(r)),
    "redirect": lambda r: httpx.Response(302, headers={"Location": str(r.url)}),
    "garbage": lambda r: httpx.Response(200, text=echo(r)),
    "headers": lambda r: httpx.Response(500, headers={"X-Echo": str(r.url), "Retry-After": str(r.url)}),
    "transport": lambda r: _raise(httpx.ReadError(echo(r), request=r)),
    "connect": lambda r: _raise(httpx.ConnectError(f"no way to {r.url}", request=r)),
    "timeout": lambda r: _raise(httpx.ReadTimeout(echo(r), request=r)),
    "foreign": lambda r: _raise(RuntimeError(echo(r))),
}

CALLS = [
    SearchFace(IMAGE),
    AddFace(IMAGE, key="k"),
    FaceCompare(IMAGE, IMAGE, key="k"),
    WhatsAppDetail(NUMBER, callback=f"https://x.example/{NUMBER}", key="k"),
    FaceCompare(IMAGE * 10_000, IMAGE),
    FaceCompare(base64.b64encode(IMAGE).decode()[:-1] + "*", IMAGE),
    WhatsAppDetail(NUMBER + "x"),
    WhatsAppDetail(NUMBER, country=NUMBER),
]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield caplog
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).setLevel(logging.NOTSET)


def everything_shown(error: BaseException) -> Iterator[str]:
    """An error as a log or an error reporter shows it: with its chain and with the locals of its frames."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    for one in chain:
        yield repr(one)
        yield str(one)
        report = traceback.TracebackException.from_exception(one, capture_locals=True)
        frames = [f for f in report.stack if "aisolution_async" in f.filename]
        yield from (str(frame.locals) for frame in frames)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: type(call).__name__)
@pytest.mark.parametrize("hostile", HOSTILE)
async def test_nothing_shows_a_secret(hostile: str, call: Any, logged: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    vendor = Vendor(lambda request, number: HOSTILE[hostile](request))
    async with client_of(vendor, retry=0) as client:
        shown += [repr(client), repr(client.with_options(retry=1)), repr(call), str(call)]
        try:
            reply = await client.send(call)
        except AISolutionError as exc:
            shown += everything_shown(exc)
            shown.append(repr(exc.attempts))
        else:
            shown += [repr(reply), str(reply), repr(reply.attempts)]
        async with client.batch([call, call]) as batch:
            shown.append(repr(batch))
            async for outcome in batch:
                shown.append(repr(outcome))
        shown += [repr(client.tally), repr(batch.progress)]
    shown += [repr(request) for request in vendor.requests]
    shown += [repr(request.url) for request in vendor.requests]
    shown += [record.getMessage() + repr(record.__dict__) for record in logged.records]
    assert shown
    for text in shown:
        for secret in SECRETS:
            assert secret not in text, f"{secret!r} is shown: {text[:2000]}"


@pytest.mark.parametrize(
    "options",
    [{"deadline": -1}, {"base_url": "http://10.0.0.1/?x=" + TOKEN}, {"retry": "x"}],
)
def test_a_client_that_cannot_be_made_shows_nothing(options: dict[str, Any]) -> None:
    from aisolution_async import AsyncClient

    for token in (TOKEN, TOKEN + "\x00", TOKEN + "\udc80", TOKEN.encode()):
        with pytest.raises(AISolutionError) as caught:
            AsyncClient(token, **options)  # type: ignore[arg-type]
        for text in everything_shown(caught.value):
            assert TOKEN not in text, text


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 %s\r\nContent-Length: 0\r\n\r\n",
        b"%s\r\n\r\n",
    ],
)
@pytest.mark.parametrize("own", [True, False])
async def test_a_server_that_echoes_on_every_transport(
    answer: bytes, own: bool, logged: pytest.LogCaptureFixture
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.read(10)
        writer.write(answer % head.split(b" ")[1])

    from aisolution_async import AsyncClient, Retry

    transport = None if own else httpx.AsyncHTTPTransport()
    options: dict[str, Any] = {"transport": transport, "retry": Retry(first=0.001)}
    async with raw_server(serve) as url, AsyncClient(TOKEN, base_url=url, **options) as client:
        with pytest.raises(AISolutionError) as caught:
            await client.delete_face("p")
    shown = [*everything_shown(caught.value), *(record.getMessage() for record in logged.records)]
    assert any("aisolution" in record.name for record in logged.records)
    assert any("httpcore" in record.name for record in logged.records) is not own
    for text in shown:
        assert not any(secret in text for secret in SECRETS[:2]), text


async def test_a_cancelled_call_shows_nothing(logged: pytest.LogCaptureFixture) -> None:
    entered = asyncio.Event()

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        entered.set()
        await asyncio.sleep(1e6)
        raise AssertionError

    async with client_of(Vendor(hang)) as client:
        task = asyncio.create_task(client.send(CALLS[0]))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    for text in everything_shown(caught.value):
        assert not any(secret in text for secret in SECRETS), text


def test_the_attempts_are_logged(logged: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with client_of(Vendor(lambda r, n: says("FAIL", "x"))) as client, client.batch([CALLS[3]]) as batch:
            async for _ in batch:
                pass

    asyncio.run(run())
    (record,) = [r for r in logged.records if r.name.startswith("aisolution_async")]
    assert record.getMessage().startswith("gliswadetail attempt 1: free, FAIL, HTTP 200, ")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("image larger than 2M", "image larger than 2M"),
        ("IMAGEB_FACE_DETECT_FAILED", "IMAGEB_FACE_DETECT_FAILED"),
        ("0 faces found", "0 faces found"),
        ("img1 is required.", "img1 is required."),
        (f"unknown group {GROUP}", "unknown group …"),
        (f"number {NUMBER} is bad", "number … is bad"),
        ("\x1b[31mred", "…"),
        ({"group_id": GROUP}, ""),
        (None, ""),
        ("x " * 1000, "x " * 99 + "x"),
    ],
)
def test_what_of_the_vendors_words_may_be_quoted(message: object, words: str) -> None:
    assert quotable(message) == words
