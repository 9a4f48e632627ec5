"""What leaves us, by an exception or by pickle, takes nothing along that is nobody's business."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import copy
import gc
import json
import multiprocessing
import pickle
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import (
    AddFace,
    AISolutionError,
    AsyncClient,
    Attempt,
    Charge,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    IdHolding,
    Inbox,
    InputError,
    Ledger,
    LedgerError,
    NotSentError,
    OutcomeUnknownError,
    SearchFace,
    WhatsAppDetail,
)
from aisolution_async import errors as errors_module
from aisolution_async.bulk import BulkError, Summary, run_bulk
from aisolution_async.bulk.source import UnreadableInputError
from aisolution_async.hiding import Secret
from aisolution_async.sandbox import Sandbox
from aisolution_async.wire.form import Form
from aisolution_async.wire.transport import PoolTransport

from .support import LAST_RESORT, Vendor, client_of, ok_whatsapp, picture, raw_server, says, virtual

TOKEN = "tok-3n/secret+value=="
NUMBER = "6281387300008"
PERSON = "c5r7jedkujdbnasarhn0"
CALLBACK = "https://x.example/hidden-callback"
IMAGE = b"\xff\xd8\xff" + b"a-face-" * 100
LARGE = b"\xff\xd8\xff" + b"a-face-" * 60_000
MARKS = ["6281387300008", "81387300008", PERSON, "hidden-callback", "a-face-", TOKEN, "tok-3n"]
MARKS += [base64.b64encode(b"xx"[:n] + b"a-face-" * 6)[8:24].decode() for n in range(3)]


def frames_of(exc: BaseException) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every frame of ours that an error reporter would show, with its locals."""
    waiting, seen = [exc], set()
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        waiting += [e for e in (error.__cause__, error.__context__) if e is not None]
        waiting += error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        trace = error.__traceback__
        while trace is not None:
            name = str(trace.tb_frame.f_globals.get("__name__"))
            if name.partition(".")[0] in ("aisolution_async", "anyio", "httpcore"):
                yield f"{name}:{trace.tb_frame.f_code.co_name}", dict(trace.tb_frame.f_locals)
            trace = trace.tb_next


def shown(value: Any, depth: int = 4) -> str:
    """As reporters show a value: containers gone through, all else by its repr."""
    if depth and isinstance(value, dict):
        return "".join(shown(k, depth - 1) + shown(v, depth - 1) for k, v in value.items())
    if depth and isinstance(value, list | tuple | set | frozenset):
        return "".join(shown(v, depth - 1) for v in value)
    return repr(value)


def assert_hidden(exc: BaseException) -> None:
    for place, variables in frames_of(exc):
        for name, value in variables.items():
            text = shown(value)
            assert not any(mark in text for mark in MARKS), f"{name} in {place} of {exc!r}: {text[:300]}"


METHODS: dict[str, Callable[[AsyncClient, bytes], Awaitable[Any]]] = {
    "face_compare": lambda client, image: client.face_compare(image, image),
    "face_compare base64": lambda client, image: client.face_compare(base64.b64encode(image).decode(), image),
    "id_holding": lambda client, image: client.id_holding(image),
    "add_face": lambda client, image: client.add_face(image),
    "search_face": lambda client, image: client.search_face(image),
    "delete_face": lambda client, image: client.delete_face(PERSON),
    "whatsapp_detail": lambda client, image: client.whatsapp_detail(NUMBER, country="ID", callback=CALLBACK),
    "whatsapp_detail inbox": lambda client, image: client.whatsapp_detail(
        NUMBER, wait=Inbox("https://x.example/in", patience=1e-6)
    ),
    "send": lambda client, image: client.send(WhatsAppDetail(NUMBER, callback=CALLBACK)),
    "send image": lambda client, image: client.send(SearchFace(image)),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
sizes = pytest.mark.parametrize("image", [IMAGE, LARGE], ids=["small", "large"])


def fails(request: httpx.Request, kind: str) -> httpx.Response:
    echo = f"{request.url} {request.content[:4000].decode()} {NUMBER} {PERSON}"
    if kind == "status":
        return says("FAIL", echo)
    if kind == "new status":
        return says(echo, {"echo": echo})
    if kind == "unfit":
        return says("OK", {"similarity": echo, "person_id": 7, "whatsapp": [echo]})
    if kind == "garbage":
        return httpx.Response(500, text=echo)
    if kind == "refused":
        return httpx.Response(403, text=echo)
    if kind == "timeout":
        raise httpx.ReadTimeout(echo, request=request)
    raise RuntimeError(echo)


KINDS = ["status", "new status", "unfit", "garbage", "refused", "timeout", "bug"]


@methods
@sizes
@pytest.mark.parametrize("kind", KINDS)
async def test_no_error_takes_the_question_along(method: Any, image: bytes, kind: str, tmp_path: Path) -> None:
    async with client_of(Vendor(lambda r, n: fails(r, kind)), retry=0, ledger=tmp_path / "a.ledger") as client:
        try:
            await method(client, image)
        except AISolutionError as exc:
            assert_hidden(exc)
            assert "tok-3n" not in repr(vars(exc))
        else:
            assert (method, kind) == (METHODS["delete_face"], "unfit")  # which takes any OK


@methods
@sizes
@pytest.mark.parametrize("fit", [False, True])
async def test_no_bug_of_ours_takes_the_question_along(
    method: Any, image: bytes, fit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised, wherever it is raised: no place of ours has to be careful."""

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RecursionError("a fault of ours")

    places = [
        "Form._encode",
        "sending.prepare.digits_of",
        "sending.finding.envelope.read",
        "sending.prepare.images.load",
        "wire.exchange._is_over",
    ]
    for place in ("wire.form._quoted", "wire.form._encoded", *places):
        with monkeypatch.context() as patched:
            target = place if "." in place and place[0].islower() else f"wire.form.{place}"
            patched.setattr(f"aisolution_async.{target}", broken)
            async with client_of(Vendor(lambda r, n: ok_whatsapp()), retry=0, fit=fit) as client:
                try:
                    await method(client, image)
                except BaseException as exc:
                    assert_hidden(exc)


@methods
@pytest.mark.parametrize("ours", [True, False], ids=["pool", "transport"])
@sizes
async def test_a_cancelled_call_takes_nothing_along(method: Any, ours: bool, image: bytes) -> None:
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read(-1)

    transport = None if ours else httpx.AsyncHTTPTransport()
    async with raw_server(hang) as url, AsyncClient(TOKEN, base_url=url, transport=transport) as client:
        task = asyncio.ensure_future(method(client, image))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert_hidden(caught.value)
        asked.clear()
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(None) as limit:
                task = asyncio.ensure_future(method(client, image))
                task.add_done_callback(lambda _: None)
                await asked.wait()
                limit.reschedule(0)
                await task
        assert_hidden(late.value)


class SlowFile:
    """A file whose reading waits until it is let go."""

    def __init__(self) -> None:
        self.reading, self.go = threading.Event(), threading.Event()
        self._data = LARGE

    def read(self, size: int) -> bytes:
        self.reading.set()
        self.go.wait(LAST_RESORT)
        data, self._data = self._data, b""
        return data


async def test_a_call_that_is_cancelled_while_it_reads_or_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(Vendor(lambda r, n: ok_whatsapp()))
    file = SlowFile()
    file_of_user: Any = file
    task = asyncio.ensure_future(client.face_compare(LARGE, file_of_user))
    await asyncio.to_thread(file.reading.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    file.go.set()
    assert_hidden(caught.value)

    turns = Form.in_turns
    encoding = asyncio.Event()

    async def slow(fields: Any) -> Form:
        encoding.set()
        await asyncio.sleep(3600)
        return await turns(fields)

    monkeypatch.setattr(Form, "in_turns", slow)
    makes: list[Any] = [lambda: client.face_compare(LARGE, IMAGE), lambda: client.send(AddFace(LARGE))]
    for make in makes:
        encoding.clear()
        other = asyncio.ensure_future(make())
        await encoding.wait()
        other.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await other
        assert_hidden(caught.value)
    await client.aclose()


@pytest.mark.parametrize(
    "make",
    [
        lambda client: client.face_compare(IMAGE, b""),
        lambda client: client.face_compare(base64.b64encode(IMAGE).decode()[:-1] + "*", IMAGE),
        lambda client: client.face_compare(LARGE, LARGE * 10),
        lambda client: client.face_compare(LARGE.decode("latin-1"), 7),
        lambda client: client.id_holding(IMAGE.decode("latin-1")),
        lambda client: client.add_face(""),
        lambda client: client.search_face(None),
        lambda client: client.delete_face(PERSON * 1000),
        lambda client: client.delete_face(f"{PERSON}\x00"),
        lambda client: client.whatsapp_detail(NUMBER + "x"),
        lambda client: client.whatsapp_detail(NUMBER, country=NUMBER),
        lambda client: client.whatsapp_detail(NUMBER, callback=f"ftp{CALLBACK}"),
        lambda client: client.whatsapp_detail(
            NUMBER, callback=CALLBACK, wait=Inbox("https://x.example/in", patience=1e-6)
        ),
        lambda client: client.whatsapp_detail([NUMBER]),
        lambda client: client.send(NUMBER),
        lambda client: client.send([WhatsAppDetail(NUMBER), NUMBER]),
    ],
)
@pytest.mark.parametrize("fit", [False, True])
async def test_what_cannot_be_sent_is_not_taken_along(make: Any, fit: bool) -> None:
    async with client_of(Vendor(lambda r, n: ok_whatsapp()), fit=fit) as client:
        with pytest.raises(InputError) as caught:
            await make(client)
        assert_hidden(caught.value)
        assert not any(mark in str(caught.value) for mark in MARKS if mark != NUMBER)


async def test_a_closed_client_takes_nothing_along() -> None:
    client = client_of(Vendor(lambda r, n: ok_whatsapp()))
    await client.aclose()
    for method in METHODS.values():
        with pytest.raises(ConfigurationError) as caught:
            await method(client, IMAGE)
        assert_hidden(caught.value)


async def test_the_users_own_frames_are_theirs() -> None:
    seen: list[Any] = []

    async def mine(request: httpx.Request, number: int) -> httpx.Response:
        precious = "my own"
        try:
            raise asyncio.CancelledError(precious)
        except asyncio.CancelledError as exc:
            seen.append(exc)
            raise

    async with client_of(Vendor(mine)) as client:
        with pytest.raises(asyncio.CancelledError) as caught:
            await client.whatsapp_detail(NUMBER)
    assert_hidden(caught.value)
    frames = []
    trace = caught.value.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    (own,) = [frame for frame in frames if frame.f_code.co_name == "mine"]
    assert own.f_locals["precious"] == "my own"


async def test_a_batch_and_its_input() -> None:
    async def calls() -> AsyncIterator[Any]:
        yield WhatsAppDetail(NUMBER)
        yield FaceCompare(LARGE, LARGE)
        raise ValueError("the input broke")

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async with client_of(Vendor(lambda r, n: fails(r, "status"))) as client:
        with pytest.raises(ValueError, match="broke") as caught:
            async with client.batch(calls()) as batch:
                async for outcome in batch:
                    assert outcome.error is not None
                    assert_hidden(outcome.error)
        assert_hidden(caught.value)
    entered = asyncio.Event()

    async def run() -> None:
        async with client_of(Vendor(hang)) as client:
            async with client.batch([WhatsAppDetail(NUMBER), IdHolding(LARGE)], drain_timeout=0) as batch:
                entered.set()
                async for _ in batch:
                    pass

    task = asyncio.ensure_future(run())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    assert_hidden(cancelled.value)


async def test_a_callback_that_cannot_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox("https://x.example/in", ledger=ledger)
        secret = inbox.url.rpartition("/")[2]

        async def full(*arguments: Any) -> bool:
            raise LedgerError("the disk is full")

        monkeypatch.setattr(ledger, "deliver", full)
        with pytest.raises(LedgerError) as caught:
            await inbox.receive(secret, f"number=%2B{NUMBER}&whatsapp=yes&signature=hidden-callback")
        assert_hidden(caught.value)
        assert not any(secret in shown(variables) for _, variables in frames_of(caught.value))


@virtual
async def test_bulk_takes_no_row_along(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"id,number\n1,{NUMBER}\n2,{NUMBER}1\n")
    asked = asyncio.Event()

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        asked.set()
        await asyncio.sleep(3600)
        raise AssertionError

    async with client_of(Vendor(hang)) as client:
        task = asyncio.ensure_future(run_bulk(client, WhatsAppDetail, tmp_path / "in.csv", tmp_path / "out.csv"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert_hidden(caught.value)


@pytest.mark.parametrize("proxy", ["hidden-callback://u:p@x", "ftp://u:hidden-callback@x"])
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AsyncClient(TOKEN, proxy=proxy)
    assert_hidden(caught.value)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigurationError) as caught:
        AsyncClient(TOKEN)
    assert_hidden(caught.value)


# --------------------------------------------------------------------------------------------------------- pickles


CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def within(thing: object) -> list[Any]:
    """All that `thing` holds, itself included, by whatever names; but for code."""
    found: dict[int, Any] = {}
    left = [thing]
    while left:
        one = left.pop()
        if id(one) not in found and not isinstance(one, CODE):
            found[id(one)] = one
            left += gc.get_referents(one)
    return [*found.values()]


def shows(thing: object, secret: str) -> bool:
    return any(secret in str(one) for one in within(thing) if isinstance(one, str | bytes))


async def test_what_holds_a_secret_or_a_socket_is_not_pickled(tmp_path: Path) -> None:
    client = AsyncClient(TOKEN, ledger=tmp_path / "a.ledger")
    inside = [one for one in within(client) if type(one).__module__.startswith("aisolution_async.")]
    inside = [one for one in inside if not isinstance(one, Ledger)]
    secretive = [one for one in inside if shows(one, "tok-3n")]  # as a URL has it, too
    assert client in secretive
    assert len(secretive) > 5
    open_files = [one for one in inside if one not in secretive and any(isinstance(it, Ledger) for it in within(one))]
    things: list[Any] = [
        *secretive,
        *open_files,
        client.with_options(retry=0),
        client.batch([]),
        Inbox("https://x.example/in", secret="s" * 20),
        Ledger(tmp_path / "b.ledger"),
        Sandbox(),
        PoolTransport(),
        Secret("x"),
    ]
    for thing in things:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy, lambda thing: pickle.dumps({"x": [thing]})):
            if attempt is copy.copy and (isinstance(thing, Ledger) or thing in open_files):
                continue
            with pytest.raises(TypeError) as caught:
                attempt(thing)
            assert TOKEN not in str(caught.value)
    for thing in inside:
        with contextlib.suppress(TypeError):
            assert b"tok-3n" not in pickle.dumps(thing)
    with pytest.raises(TypeError, match="AISOLUTION_TOKEN.*with_options"):
        pickle.dumps(client)
    await client.aclose()


def test_calls_are_pickled() -> None:
    photo = picture(1)
    for call in (
        FaceCompare(photo, "b.jpg", key="k"),
        IdHolding(photo),
        AddFace(photo, key=3),
        SearchFace(photo),
        DeleteFace(PERSON),
        WhatsAppDetail(NUMBER, "ID", CALLBACK, True, key="k"),
    ):
        for there in (pickle.loads(pickle.dumps(call)), copy.copy(call), copy.deepcopy(call)):
            assert there == call


GROUP = "LxiKPLIMGFpXzXas"
ATTEMPTS = (
    Attempt(Charge.UNKNOWN, None, None, datetime(2026, 1, 2, tzinfo=UTC), 1.5, "no answer"),
    Attempt(Charge.CHARGED, "OK", 200, datetime(2026, 1, 2, tzinfo=UTC), 0.5, recorded=True, number=2),
)
EVERY_ERROR = [
    *(kind for kind in vars(errors_module).values() if isinstance(kind, type) and issubclass(kind, AISolutionError)),
    LedgerError,
    UnreadableInputError,
]


def made(kind: type[AISolutionError]) -> AISolutionError:
    error = kind("facecompare: what was wrong", endpoint="facecompare", key="A-1", attempts=ATTEMPTS)
    for name in vars(error):
        if name == "message":
            error.message = {"group_id": GROUP, "deep": [{"group_id": GROUP, "n": 1}]}  # type: ignore[attr-defined]
        elif name == "body":
            error.body = b'<p>{"group_id": "%s", "x": 1}' % GROUP.encode()  # type: ignore[attr-defined]
        elif getattr(error, name) is None:
            setattr(error, name, 7)
    error.add_note("a note")
    return error


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_errors_are_pickled_whole_but_for_the_group_id(kind: type[AISolutionError]) -> None:
    error = made(kind)
    data = pickle.dumps(error)
    assert GROUP.encode() not in data
    there = pickle.loads(data)
    assert (type(there), str(there), there.charge) == (kind, str(error), Charge.CHARGED)
    assert vars(there) | {"message": 0, "body": 0} == vars(error) | {"message": 0, "body": 0}
    if hasattr(error, "message"):
        assert there.message == {"deep": [{"n": 1}]}
    if hasattr(error, "body"):
        assert there.body == b'<p>{"group_id": "", "x": 1}'
    assert vars(copy.copy(error)) == vars(error)


def test_an_error_of_a_whole_run_is_pickled() -> None:
    error = BulkError("the disk is full", Summary(rows=3, ok=2))
    error.summary.tally.add("facecompare", Charge.CHARGED)
    there = pickle.loads(pickle.dumps(error))
    assert (str(there), there.summary.rows, there.summary.tally.charged) == ("the disk is full", 3, 1)


def _fails_elsewhere(kind: type[AISolutionError]) -> None:
    raise made(kind)


def test_errors_come_back_from_other_processes() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind in (OutcomeUnknownError, NotSentError, InputError):
            error = pool.submit(_fails_elsewhere, kind).exception(60)
            assert type(error) is kind
            assert isinstance(error, AISolutionError)
            assert (error.charge, error.attempts, error.key) == (Charge.CHARGED, ATTEMPTS, "A-1")


async def test_outcomes_are_pickled() -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        if "addface" in request.url.path:
            return says("OK", {"group_id": GROUP, "person_id": PERSON, "person_count": 1})
        return says("FACE_DETECT_FAILED", {"group_id": GROUP, "echo": str(request.url)})

    async with client_of(Vendor(script)) as client, client.batch([AddFace(IMAGE), SearchFace(IMAGE)]) as batch:
        outcomes = [outcome async for outcome in batch]
    data = pickle.dumps(outcomes)
    assert GROUP.encode() not in data
    assert b"tok-3n" not in data
    there = pickle.loads(data)
    assert [o.charge for o in there] == [o.charge for o in outcomes]
    assert [o.attempts for o in there] == [o.attempts for o in outcomes]
    assert [json.dumps(o.ok) for o in there] == [json.dumps(o.ok) for o in outcomes]
