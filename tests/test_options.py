"""The options of a client: one table, what goes out with a request, and what is refused in clear words."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import json
import logging
import os
import pickle
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

import aisolution_async
from aisolution_async import (
    AddFace,
    AISolutionError,
    AsyncClient,
    Call,
    Charge,
    ConfigurationError,
    FaceNotFoundError,
    Inbox,
    InputError,
    Ledger,
    OutcomeUnknownError,
    Recheck,
    RefusedError,
    Retry,
    RetryLaterError,
    StatusError,
    WhatsAppDetail,
)
from aisolution_async.sandbox import Sandbox
from aisolution_async.sending.options import NOT_GIVEN, TABLE
from aisolution_async.spending import Prices, Spending
from aisolution_async.wire.reply_headers import LONGEST, SUPPORT, support_headers

from . import forks
from .support import TOKEN, client_of, in_turn, ok_whatsapp, picture, says, virtual

NUMBER = "+6281387300008"
SECRET = "gw-7f3a/9c%21e0=="


# ---------------------------------------------------------------------------------------------------- one table


def test_the_table_is_what_the_constructor_and_views_take() -> None:
    made = inspect.signature(AsyncClient.__init__).parameters
    changed = inspect.signature(AsyncClient.with_options).parameters
    for name, option in TABLE.items():
        assert made[name].default == option.default, name
        assert changed[name].default is NOT_GIVEN, name
    assert set(changed) == {"self", *TABLE, "retry", "max_retries", "retry_unknown"}
    fields = {field.name for field in dataclasses.fields(client_of(in_turn()).options)}
    assert {option.field or name for name, option in TABLE.items()} | {"retry", "budgets", "journal"} == fields


def test_what_is_not_given_stays() -> None:
    def heard(*given: object) -> None:
        raise AssertionError

    given: dict[str, Any] = {
        "timeout": 3,
        "deadline": 7.5,
        "charge_rules": {"delete_face": {"OK": "charged"}},
        "max_image_bytes": 10,
        "strict_numbers": True,
        "fit": True,
        "keep_metadata": False,
        "on_attempt": heard,
        "on_outcome": heard,
    }
    assert set(given) == set(TABLE)
    plain = client_of(in_turn())
    whole = client_of(in_turn(), **given)
    for name, value in given.items():
        one = plain.with_options(**{name: value}).options
        field = TABLE[name].field or name
        assert getattr(one, field) == getattr(whole.options, field) != getattr(plain.options, field)
        assert dataclasses.replace(one, **{field: getattr(plain.options, field)}) == plain.options
        kept = whole.with_options(**{name: given[name]}).options
        assert kept == whole.options
    with pytest.raises(AttributeError):
        plain.options = whole.options  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.options.deadline = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["retry", "max_retries", "retry_unknown"])
def test_how_often_it_is_repeated_is_not_given_as_none(name: str) -> None:
    given = {"retry": Retry(max_retries=7, first=2.0, unknown=3)}
    none: dict[str, Any] = {name: None}
    client = client_of(in_turn(), **{**none, **given})
    assert client.with_options(**none).options == client.options
    assert client.options.retry == given["retry"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"timeout": 0}, "timeout must be seconds above 0"),
    ({"timeout": float("nan")}, "timeout must be seconds above 0"),
    ({"timeout": True}, "timeout must be seconds above 0"),
    ({"deadline": True}, "deadline must be seconds above 0, or None for no end"),
    ({"deadline": float("nan")}, "deadline must be seconds above 0, or None for no end"),
    ({"max_image_bytes": 0}, "max_image_bytes must be a whole number, 1 or more"),
    ({"strict_numbers": "no"}, "strict_numbers is a str: pass True or False"),
    ({"fit": 1}, "fit is an int: pass True or False"),
    ({"keep_metadata": 0}, "keep_metadata is an int: pass True or False"),
    ({"max_retries": -1}, "max_retries must be a whole number, 0 or more"),
    ({"max_retries": True}, "max_retries must be a whole number, 0 or more"),
    ({"max_retries": 2.0}, "max_retries must be a whole number, 0 or more"),
    ({"max_retries": Retry()}, "max_retries must be a whole number, 0 or more"),
    ({"retry": 1, "max_retries": 1}, r"give either retry= or max_retries=: max_retries=4 says .*Retry\("),
    ({"retry": Retry(), "max_retries": 0}, "give either retry= or max_retries="),
    ({"retry": "2"}, "retry must be a Retry"),
    ({"retry_unknown": True}, "retry_unknown must be a whole number, 0 or more"),
    ({"charge_rules": {"delface": {"ok": "free"}}}, "charge_rules look like"),
    ({"on_outcome": 5}, "on_outcome must be a plain function"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_bad_options_are_refused_in_both_places(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        client_of(in_turn(), **options)
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        client_of(in_turn()).with_options(**options)


def test_an_environment_is_trusted_or_not() -> None:
    with pytest.raises(ConfigurationError, match="^trust_env is a str: pass True or False$"):
        AsyncClient(TOKEN, trust_env="no")  # type: ignore[arg-type]


BAD_OF_BATCHES: list[tuple[dict[str, Any], str]] = [
    ({"ordered": 1}, "ordered is an int: pass True or False"),
    ({"dedupe": "no"}, "dedupe is a str: pass True or False"),
    ({"total": True}, "total must be the number of calls, or None"),
    ({"rate": True}, "rate must be a number of calls a second, above 0"),
    ({"concurrency": True}, "concurrency must be a whole number, 1 or more"),
    ({"drain_timeout": True}, "drain_timeout must be seconds, 0 or more"),
    ({"give_up": -1}, "give_up must be seconds, 0 or more; math.inf tries for ever"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OF_BATCHES)
async def test_bad_options_of_a_batch_are_refused(options: dict[str, Any], words: str) -> None:
    async with client_of(in_turn()) as client:
        with pytest.raises(ConfigurationError, match=f"^{words}$"):
            client.batch([], **options)


@pytest.mark.parametrize("bad", [True, "1", None, float("nan"), float("inf"), -1.0])
def test_bad_waits_are_refused(bad: Any) -> None:
    for name in ("first", "longest"):
        with pytest.raises(ConfigurationError, match="must be seconds with 0 < first <= longest$"):
            Retry(**{name: bad})
    for name in ("first", "longest", "give_up"):
        with pytest.raises(
            ConfigurationError, match="^Recheck needs 0 < first <= longest and give_up >= 0, in seconds$"
        ):
            Recheck(**{name: bad})


@virtual
async def test_max_retries() -> None:
    vendor = in_turn(says("RETRY_LATER", "busy"))
    async with client_of(vendor, max_retries=1) as client:
        patient = client.with_options(retry=Retry(max_retries=3, first=2.0, unknown=1))
        for view, attempts in (
            (client, 2),
            (client.with_options(max_retries=0), 1),
            (patient, 4),
            (patient.with_options(max_retries=2), 3),
            (patient.with_options(retry=2), 3),
            (client.with_options(max_retries=0, retry_unknown=2), 1),
        ):
            with pytest.raises(RetryLaterError) as caught:
                await view.whatsapp_detail(NUMBER)
            assert len(caught.value.attempts) == attempts
    assert patient.with_options(max_retries=2).options.retry == Retry(max_retries=2, first=2.0, unknown=1)
    assert client_of(vendor, max_retries=0, retry_unknown=1).options.retry == Retry(max_retries=0, unknown=1)


async def test_a_view_is_of_the_same_class_and_closed_with_its_client() -> None:
    class Ours(AsyncClient):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            self.team = "payments"

    client = Ours(TOKEN, base_url="https://vendor.example", transport=in_turn(ok_whatsapp()))
    view = client.with_options(deadline=1)
    assert (type(view), view.team) == (Ours, "payments")
    async with client:
        await view.aclose()
        assert [client.is_closed, view.is_closed] == [False, False]
    assert client.is_closed
    assert view.is_closed
    assert view.with_options(deadline=2).is_closed


# ------------------------------------------------------------------------------------------------------- headers

AGENT = f"aisolution-async/{aisolution_async.__version__} python/{sys.version_info[0]}.{sys.version_info[1]}"


class Listener:
    """A server that keeps the head of each request, and answers as the vendor would."""

    def __init__(self) -> None:
        self.heads: list[list[str]] = []

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        self.heads.append(head)
        (length,) = (int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length:"))
        await reader.readexactly(length)
        body = ok_whatsapp().content
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()


def transports() -> list[Callable[[], httpx.AsyncBaseTransport | None]]:
    return [lambda: None, httpx.AsyncHTTPTransport]


@pytest.mark.parametrize("transport", transports(), ids=["pool", "httpx"])
async def test_headers_go_out_with_every_request(transport: Callable[[], Any]) -> None:
    given = {"X-Gateway-Key": SECRET, "Authorization": "Basic eDp5OnpfMTIzNDU2Nzg=", "x-odd": "100% %d", "X-Empty": ""}
    async with (
        Listener() as server,
        AsyncClient(TOKEN, base_url=server.url, transport=transport(), headers=given, trust_env=False) as client,
    ):
        await client.whatsapp_detail(NUMBER)
        await client.with_options(deadline=9).whatsapp_detail(NUMBER)
        async with client.batch([WhatsAppDetail(NUMBER)]) as batch:
            assert [outcome.ok async for outcome in batch] == [True]
    assert len(server.heads) == 3
    for head in server.heads:
        lines = [line.partition(": ")[::2] for line in head[1:]]
        names = [name.lower() for name, _ in lines]
        assert len(names) == len(set(names))
        sent = {name.lower(): value for name, value in lines}
        assert {name.lower(): value for name, value in given.items()}.items() <= sent.items()
        assert sent["user-agent"] == AGENT
        assert sent["accept"] == "application/json"


@pytest.mark.parametrize("transport", transports(), ids=["pool", "httpx"])
async def test_the_user_agent_can_be_replaced(transport: Callable[[], Any]) -> None:
    async with (
        Listener() as server,
        AsyncClient(
            TOKEN, base_url=server.url, transport=transport(), headers={"user-agent": "shop/2 (100%)"}, trust_env=False
        ) as client,
    ):
        await client.whatsapp_detail(NUMBER)
    agents = [line for line in server.heads[0] if line.lower().startswith("user-agent")]
    assert agents == ["user-agent: shop/2 (100%)"]


OWN = """Host Content-Length content-type Content-Encoding Transfer-Encoding Connection Keep-Alive TE Trailer Upgrade
Expect Cookie COOKIE Proxy-Authorization Proxy-Connection Accept Accept-Encoding Range If-Match If-None-Match"""


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        *(({name: SECRET}, f"headers: {name} cannot be set: ") for name in OWN.split()),
        ({"": SECRET}, "a name is letters"),
        ({"X Y": SECRET}, "a name is letters"),
        ({"X\r\nY": SECRET}, "a name is letters"),
        ({"X:": SECRET}, "a name is letters"),
        ({"Xé": SECRET}, "a name is letters"),
        ({"X\n": SECRET}, "a name is letters"),
        ({7: SECRET}, "a name is letters"),
        ({b"X": SECRET}, "a name is letters"),
        ({"X": f"{SECRET}\r\nEvil: 1"}, "the value of X has a line break"),
        ({"X": f"{SECRET}\n"}, "the value of X has a line break"),
        ({"X": f"{SECRET}\r"}, "the value of X has a line break"),
        ({"X": f"{SECRET}\0"}, "the value of X has a line break, or something else"),
        ({"X": f"{SECRET}é"}, "no ASCII text"),
        ({"X": f" {SECRET}"}, "begins or ends with a space"),
        ({"X": f"{SECRET}\t"}, "begins or ends with a space"),
        ({"X": SECRET.encode()}, "the value of X is a bytes: pass it as text"),
        ({"X": 12}, "the value of X is an int: pass it as text"),
        ({"X": None}, "the value of X is None: pass it as text"),
        ({"X-A": SECRET, "x-a": SECRET}, "headers has x-a twice"),
        ([("X", SECRET)], "headers is a list: give them by name"),
        (SECRET, "headers is a str: give them by name"),
    ],
)
def test_headers_that_cannot_be_sent(headers: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        client_of(in_turn(), headers=headers)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in report.stack if "/aisolution_async/" in frame.filename]
    assert ours
    shown = [str(caught.value), *(str(frame.locals) for frame in ours)]
    assert not any(SECRET in text for text in shown)


async def test_what_headers_say_is_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A vendor, or a gateway before it, may say back all that it was sent."""
    caplog.set_level(logging.DEBUG)

    def echo(request: httpx.Request) -> httpx.Response:
        said = f"{request.headers['authorization']} from {request.headers['x-office']}, {TOKEN}"
        if request.url.path.endswith("addface"):
            return says("OK", {"group_id": "G", "person_id": said, "person_count": 1})
        return says("INVALID_INPUT", said, headers={"Via": said, "X-Request-Id": f"r-{SECRET}"})

    given = {"Authorization": f"Bearer {SECRET}", "X-Office": "Jakarta Selatan"}
    ledger = tmp_path / "a.ledger"
    async with client_of(httpx.MockTransport(echo), headers=given, ledger=ledger) as client:
        await client.add_face(picture(1), key="A")
        with pytest.raises(StatusError) as caught:
            await client.whatsapp_detail(NUMBER)
        shown = [repr(client), repr(client.options), repr(vars(client))]
        assert client.redact(f"{TOKEN} {SECRET} Jakarta Selatan") == "… … Jakarta Selatan"
    error = caught.value
    assert error.message == "Bearer … from Jakarta Selatan, …"  # plain words are no secret, and may be an answer's
    assert error.headers["via"] == "Bearer … from Jakarta Selatan, …"
    assert error.headers["x-request-id"] == "r-…"
    shown += [str(error), repr(error), repr(vars(error)), caplog.text, *map(repr, map(vars, caplog.records))]
    shown += [pickle.dumps(error).decode("latin-1"), ledger.read_bytes().decode("latin-1")]
    for text in shown:
        assert SECRET not in text
        assert TOKEN not in text
    with pytest.raises(TypeError, match="neither pickled"):
        pickle.dumps(client)


@pytest.mark.parametrize("transport", transports(), ids=["pool", "httpx"])
@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_no_frame_shows_what_headers_say(answer: bytes, transport: Callable[[], Any]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        given = {"X-Gateway-Key": SECRET}
        async with AsyncClient(TOKEN, base_url=url, transport=transport(), headers=given, trust_env=False) as client:
            del given
            with pytest.raises(OutcomeUnknownError) as caught:
                await client.whatsapp_detail(NUMBER)
    chain: list[BaseException] = [caught.value]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    for error in chain:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert SECRET not in "".join(str(frame.locals) for frame in report.stack)


# ------------------------------------------------------------------------------------------------ support headers


def test_support_headers() -> None:
    given = [
        (b"Date", b"Tue, 15 Nov 1994 08:12:31 GMT"),
        (b"X-REQUEST-ID", b"r-1"),
        (b"Via", b"1.1 a"),
        (b"via", b"1.1 b"),
        (b"Set-Cookie", b"session=secret"),
        (b"X-Echo", b"anything"),
        (b"Server", b"nginx\x1b[31m\xff " + b"x" * 1000),
        (b"CF-Ray", b"tok" * 100),
    ]
    found = support_headers(given, lambda text: text.replace("tok", "…"))
    assert found["date"] == "Tue, 15 Nov 1994 08:12:31 GMT"
    assert found["x-request-id"] == "r-1"
    assert found["via"] == "1.1 a, 1.1 b"
    assert found["cf-ray"] == "…" * 100  # redacted before it is cut, so that no part of a secret is left
    assert found["server"].startswith("nginx�[31m� xxx")
    assert len(found["server"]) == LONGEST
    assert set(found) == {"date", "x-request-id", "via", "server", "cf-ray"} <= SUPPORT
    assert all(value.isprintable() for value in found.values())


HEADERS = {"X-Request-Id": "r-7", "Server": "gate", "X-Internal": "no", "Date": "Tue, 15 Nov 1994 08:12:31 GMT"}
KEPT = {"x-request-id": "r-7", "server": "gate", "date": "Tue, 15 Nov 1994 08:12:31 GMT"}


def answering(http: int, body: bytes) -> httpx.Response:
    return httpx.Response(http, content=body, headers=HEADERS)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (answering(200, b'{"status": "FACE_DETECT_FAILED", "message": null}'), FaceNotFoundError),
        (answering(401, b"no"), RefusedError),
        (answering(502, b"<html>"), OutcomeUnknownError),
        (answering(503, b""), RetryLaterError),
        (answering(200, b'{"status": "OK", "message": 7}'), OutcomeUnknownError),
        (answering(200, b'{"status": "OK", "status": "FAIL"}'), OutcomeUnknownError),
    ],
)
async def test_errors_carry_the_headers_that_help_a_support_case(answer: httpx.Response, kind: type[Any]) -> None:
    async with client_of(in_turn(answer), max_retries=0) as client:
        with pytest.raises(kind) as caught:
            await client.whatsapp_detail(NUMBER)
        async with client.batch([WhatsAppDetail(NUMBER, key=n) for n in range(2)]) as batch:
            errors = [outcome.error async for outcome in batch]
    for error in (caught.value, *errors, pickle.loads(pickle.dumps(caught.value))):
        assert error is not None
        assert {name: value for name, value in error.headers.items() if name in KEPT} == KEPT
        assert "x-internal" not in error.headers
        assert "r-7" not in str(error)


async def test_the_headers_are_those_of_the_answer_that_became_the_error() -> None:
    raw = b"HTTP/1.1 503 No\r\nX-Request-Id: r-%d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(raw % served)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncClient(TOKEN, base_url=url, retry=Retry(max_retries=2, first=0.001)) as client:
            with pytest.raises(RetryLaterError) as caught:
                await client.whatsapp_detail(NUMBER)
    assert caught.value.headers["x-request-id"] == "r-3"


async def test_where_there_was_no_response_there_are_no_headers() -> None:
    async with client_of(in_turn(httpx.ReadTimeout("lost"))) as client:
        for ask in (client.whatsapp_detail(NUMBER), client.whatsapp_detail("no number")):
            with pytest.raises(AISolutionError) as caught:
                await ask
            assert caught.value.headers == {}
    assert ConfigurationError("x").headers == {}


# ------------------------------------------------------------------------------------------------- clear refusals


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        (httpx.AsyncClient(), r"transport is an AsyncClient of httpx.*AsyncClient\(transport=httpx.AsyncHTTPTransport"),
        (httpx.Client(), r"transport is a Client of httpx.*AsyncClient\(transport=httpx.AsyncHTTPTransport"),
        (httpx.HTTPTransport(), "transport is an HTTPTransport, which blocks .*httpx.AsyncHTTPTransport"),
        (httpx.AsyncHTTPTransport, r"transport is the class AsyncHTTPTransport: .*AsyncHTTPTransport\("),
        ("https://proxy", "transport is a str: pass an httpx.AsyncBaseTransport, such as"),
        (5, "transport is an int: pass an httpx.AsyncBaseTransport"),
    ],
)
def test_what_is_no_transport(transport: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        client_of(transport)


def test_a_transport_has_a_proxy_and_a_context_of_its_own() -> None:
    context = ssl.create_default_context()
    with pytest.raises(ConfigurationError, match=r"httpx.AsyncHTTPTransport\(verify=ssl_context\)"):
        client_of(in_turn(), ssl_context=context)
    with pytest.raises(ConfigurationError, match=r"httpx.AsyncHTTPTransport\(proxy="):
        client_of(in_turn(), proxy="http://user:hunter2@proxy:1")


def loose(**how: Any) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    for name, value in how.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ("ca.pem", r'ssl_context is a str: pass an ssl.SSLContext, such as ssl.create_default_context\(cafile="'),
        (False, "ssl_context is a bool: pass an ssl.SSLContext"),
        (loose(), "ssl_context must check certificates and host names.*create_default_context"),
        (loose(verify_mode=ssl.CERT_NONE), "ssl_context must check certificates and host names"),
        (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "ssl_context must check certificates and host names"),
    ],
)
@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:1"])
def test_what_is_no_context(context: Any, words: str, proxy: str | None) -> None:
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        AsyncClient(TOKEN, ssl_context=context, proxy=proxy)


def step(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run it as an event loop that is not asyncio's does."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


async def _in_batch(client: AsyncClient) -> None:
    async with client.batch([WhatsAppDetail(NUMBER)]):
        raise AssertionError


async def _open(thing: AsyncClient | Ledger) -> None:
    async with thing:
        raise AssertionError


def test_no_loop_but_asyncios(tmp_path: Path) -> None:
    client = client_of(in_turn())
    inbox = Inbox("https://app.example/x")
    ledger = tmp_path / "a.ledger"
    for ask in (
        client.whatsapp_detail(NUMBER),
        client.whatsapp_detail(NUMBER, wait=inbox),
        client.send(WhatsAppDetail(NUMBER)),
        client.with_options(deadline=None).face_compare(picture(1), picture(2)),
        client.aclose(),
        _open(client),
        _in_batch(client),
        _open(client_of(in_turn(), ledger=ledger)),
        _open(Ledger(ledger)),
        inbox.receive(inbox.url.rpartition("/")[2], f"number={NUMBER[1:]}&whatsapp=yes"),
    ):
        with pytest.raises(ConfigurationError, match="runs on asyncio only: .*trio") as caught:
            step(ask)
        assert caught.value.__context__ is None
        assert "\n" not in str(caught.value)
    assert not ledger.exists()


async def test_articles(tmp_path: Path) -> None:
    async with client_of(in_turn()) as client:
        for item, words in ((client, "an AsyncClient"), (7, "an int"), (object(), "an object"), ("x", "a str")):
            with pytest.raises(InputError, match=f"^{words} is no call"):
                await client.send(item)  # type: ignore[arg-type]
            items: Any = [item]
            async with client.batch(items) as batch:
                (error,) = [outcome.error async for outcome in batch]
            assert f"is {words} and no call" in str(error)
        with pytest.raises(ConfigurationError, match="^an int is no list of calls"):
            client.batch(7)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="^inbox is an AsyncClient: pass an Inbox"):
            client.batch([], inbox=client)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="^ledger is an int: pass a path or a Ledger"):
        client_of(in_turn(), ledger=7)
    with pytest.raises(ConfigurationError, match="^the token is an int: pass it as text"):
        AsyncClient(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="^prices is an int: give it by endpoint"):
        client_of(in_turn(), prices=7)


# ------------------------------------------------------------------------------------------------------------ keys

ID = UUID("6f0f4c7e-0a3c-4a52-9b43-2a3d3f6f9a11")
BAD_KEYS: list[Any] = [True, 1.5, b"k", ("a", 1), {"a": 1}, Decimal(1), object()]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: type(key).__name__)
@pytest.mark.parametrize("ledger", [False, True])
async def test_a_key_is_what_its_type_says(key: Any, ledger: bool, tmp_path: Path) -> None:
    vendor = in_turn(ok_whatsapp())
    options: dict[str, Any] = {"ledger": tmp_path / "a.ledger"} if ledger else {}
    words = f"^key is an? {type(key).__name__}: pass text, a whole number, a UUID or None"
    async with client_of(vendor, **options) as client:
        for ask in (client.whatsapp_detail(NUMBER, key=key), client.add_face(picture(1), key=key)):
            with pytest.raises(InputError, match=words) as caught:
                await ask
            assert caught.value.charge is Charge.FREE
        calls: list[Call[Any]] = [
            WhatsAppDetail(NUMBER, key="good"),
            WhatsAppDetail(NUMBER, key=key),
            AddFace(picture(1), key=key),
            WhatsAppDetail("+6281387300009", key=ID),
        ]
        async with client.batch(calls, ordered=True) as batch:
            outcomes = [outcome async for outcome in batch]
    assert [outcome.ok for outcome in outcomes] == [True, False, False, True]
    assert all(isinstance(outcome.error, InputError) for outcome in outcomes[1:3])
    assert outcomes[3].key == ID
    assert len(vendor.requests) == 2


async def test_a_uuid_is_recorded_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    person = says("OK", {"group_id": "G", "person_id": "p", "person_count": 1})
    vendor = in_turn(person, httpx.ReadTimeout("lost"))
    async with client_of(vendor, ledger=path) as client:
        assert (await client.add_face(picture(1), key=ID)).recorded is None
        # The same key, whether as a UUID or as its text: the same question.
        assert (await client.add_face(picture(1), key=str(ID))).recorded is not None
        assert (await client.add_face(picture(1), key=ID)).recorded is not None
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.whatsapp_detail(NUMBER, key=ID)
        assert caught.value.key == ID
        assert pickle.loads(pickle.dumps(caught.value)).key == ID
    assert len(vendor.requests) == 2
    assert {record.key for record in Ledger(path).attempts()} == {str(ID)}
    async with Ledger(path) as ledger:
        for bad in (True, 1.5):
            with pytest.raises(InputError, match="^key is a"):
                await ledger.resolve(bad, Charge.FREE)  # type: ignore[arg-type]
        assert await ledger.resolve(ID, Charge.FREE) == 1
    assert list(Ledger(path).held()) == []


async def test_a_uuid_is_settled_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    async with client_of(in_turn(httpx.ReadTimeout("lost")), ledger=path) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.whatsapp_detail(NUMBER, key=ID)
    words = ["-m", "aisolution_async.cli", "ledger", "resolve", str(path), str(ID), "free", "--json"]
    said, _ = await (await forks.begin(words)).communicate()
    assert json.loads(said) == {"resolved": 1}


# ----------------------------------------------------------------------------------------------------------- hooks


class Meter:
    """A hook that is an object, and whose fault is further down."""

    def __call__(self, *given: object) -> None:
        self.count(given)

    def count(self, given: object) -> None:
        json.dumps({"what": given})  # which fails within the library

    def by_method(self, *given: object) -> None:
        raise ValueError(f"{given!r}{NUMBER}")


def _deaf() -> None:
    raise AssertionError


def line_of(function: Callable[..., object]) -> str:
    return f"{__file__}:{inspect.unwrap(function).__code__.co_firstlineno + 1}"


async def test_a_failed_hook_says_which_and_where(caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter()
    told: list[tuple[Any, str, str, str]] = [
        (meter, "TypeError", f"{__name__}.Meter", line_of(Meter.count)),
        (meter.by_method, "ValueError", f"{__name__}.Meter.by_method", line_of(Meter.by_method)),
        (functools.partial(meter.by_method, 1), "ValueError", f"{__name__}.Meter.by_method", line_of(Meter.by_method)),
        (_deaf, "TypeError", f"{__name__}._deaf", f"{__file__}:{_deaf.__code__.co_firstlineno}"),
        ([].clear, "TypeError", "list.clear", "code that is not Python's"),
    ]
    for hook, error, function, where in told:
        for name in ("on_attempt", "on_outcome"):
            caplog.clear()
            async with client_of(in_turn(ok_whatsapp()), **{name: hook}) as client:
                assert (await client.whatsapp_detail(NUMBER)).charge is Charge.CHARGED
            (record,) = caplog.records
            said = record.getMessage()
            assert said.startswith(f"a hook failed: {error} in {name}, ")
            assert function in said
            assert said.endswith(f", at {where}")
            assert NUMBER not in said
            assert record.exc_info is None
            fields = vars(record)
            assert (fields["hook"], fields["error"], fields["where"]) == (name, error, where)


# ------------------------------------------------------------------------------------------------- AISOLUTION_LOG

SCRIPT = """
import asyncio, os, sys
from aisolution_async import AsyncClient, Retry

async def main():
    async with AsyncClient(headers={"X-Gateway-Key": "gw-secret-1234"}) as client:
        await client.whatsapp_detail("+6281387300008")

print("made", file=sys.stderr)
asyncio.run(main())
"""


async def run(script: str, **env: str) -> list[str]:
    async with Sandbox() as sandbox:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")}
        environment |= {"AISOLUTION_TOKEN": sandbox.token, "AISOLUTION_BASE_URL": sandbox.url, **env}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", script, env=environment, stderr=subprocess.PIPE
        )
        _, said = await process.communicate()
        lines = said.decode().splitlines()
        assert process.returncode == 0, lines
        assert not any(secret in said.decode() for secret in (sandbox.token, "gw-secret-1234", "81387300008"))
    return lines


@pytest.mark.parametrize("level", ["debug", " DEBUG "])
async def test_the_log_by_the_environment(level: str) -> None:
    made, *lines = await run(SCRIPT, AISOLUTION_LOG=level)
    assert made == "made"
    assert len(lines) == 1
    assert lines[0].endswith(" s")
    assert "DEBUG] gliswadetail attempt 1: charged, OK, HTTP 200" in lines[0]


@pytest.mark.parametrize("level", ["info", ""])
async def test_no_more_than_was_asked_for(level: str) -> None:
    assert await run(SCRIPT, AISOLUTION_LOG=level) == ["made"]


async def test_a_level_that_is_none() -> None:
    line, made = await run(SCRIPT, AISOLUTION_LOG="gw-secret-1234")
    assert made == "made"
    assert "AISOLUTION_LOG is neither debug nor info" in line


async def test_each_record_is_written_once() -> None:
    setup = """
import logging, importlib, aisolution_async
logging.basicConfig(format="ours %(message)s", level=LEVEL)
importlib.reload(aisolution_async)
"""
    lines = await run(setup.replace("LEVEL", "0") + SCRIPT, AISOLUTION_LOG="debug")
    attempts = [line for line in lines if "attempt 1" in line]
    assert len(attempts) == 1
    assert attempts[0].startswith("ours ")
    # A handler of the application's that would leave it out is no reason to say nothing.
    quiet = setup.replace("LEVEL", "0") + "logging.getLogger().handlers[0].setLevel(40)\n"
    lines = await run(quiet + SCRIPT, AISOLUTION_LOG="debug")
    assert len([line for line in lines if "attempt 1" in line]) == 1


# ---------------------------------------------------------------------------------------------------- prices


def test_prices() -> None:
    cents = Decimal("0.05")
    given = {"face-compare": cents, "whatsapp_detail": Decimal(1), AddFace: Decimal(0)}
    prices = Prices.given(given)
    assert prices == {"facecompare": cents, "gliswadetail": Decimal(1), "addface": Decimal(0)}
    assert prices.of("FaceCompare") == prices.of("facecompare") == prices["facecompare"] == cents
    assert prices.missing(["delface", "addface", "idholding"]) == ["delface", "idholding"]
    assert prices.cost({"facecompare": 3, "gliswadetail": 1, "idholding": 5}) == Decimal("1.15")
    for name in ("idholding", "nothing", "", 7):
        with pytest.raises(KeyError):
            prices.of(name)
    given["face-compare"] = Decimal(9)
    assert prices.of("facecompare") == cents
    with pytest.raises(TypeError):
        prices.known["facecompare"] = cents  # type: ignore[index]
    assert Prices.given(prices) == prices == Spending.of(prices=prices).prices
    assert not Prices.given(None)
    for bad in ({"nothing": cents}, {"facecompare": 0.05}, {"facecompare": cents, "FaceCompare": cents}, [1]):
        with pytest.raises(ConfigurationError):
            Prices.given(bad)
