"""The pretended vendor on a socket: HTTP/1.1 on one side, `Vendor.answer` on the other."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import re
import socket
import ssl
import struct
import sys
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from math import inf
from types import TracebackType
from typing import Any, Self, cast

from httptools import (
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from aisolution_async.charges import Charge
from aisolution_async.hiding import NotPickled
from aisolution_async.sandbox import control, images
from aisolution_async.sandbox.bill import Bill, Entry
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.faults import ENVELOPE_OF_BUSY, SPOILING, Fate, Fault, Faults, garbage, spoiled
from aisolution_async.sandbox.magic import magic_number
from aisolution_async.sandbox.vendor import Answer, Callback, Request, Vendor

HOST = "127.0.0.1"
LARGEST_BODY = 8 * 1024 * 1024
LARGEST_HEAD = 64 * 1024
MOST_HEADERS = 100
# Requests of one connection that may wait for their answers before no more are read from it.
_MOST_PIPELINED = 8
_CALLBACKS_AT_ONCE = 64
_LINGER = 2.0
_PIECES = 20
_DRIPPING = 2.0
# Real seconds in which half an answer reaches the client before the reset, which would overtake it.
_HEAD_START = 0.01
# Headers that decide who may look at the sandbox itself.
_KEPT = frozenset({b"host", b"origin", b"sec-fetch-site", b"accept"})
_CONTROL = control.PREFIX.rstrip("/").encode()
# Reset instead of an orderly end; Windows has shorter numbers in it.
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback that was made: `http_status` of what the address answered, or `error` why it did not."""

    number: str = field(repr=False)
    url: str = field(repr=False)
    http_status: int | None
    error: str | None

    @property
    def is_accepted(self) -> bool:
        """Whether somebody took it."""
        return self.http_status is not None and 200 <= self.http_status < 300


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A callback that is yet to be made: at `due` on the sandbox's clock, or never."""

    number: str = field(repr=False)
    url: str = field(repr=False)
    due: float | None


class Sandbox(NotPickled):
    """The vendor, pretended, on a socket of 127.0.0.1, in the running event loop.

    ::

        async with Sandbox() as sandbox:
            async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
                ...
            sandbox.bill  # what the server says it charged

    `port` 0 takes a free one. `token` and `tokens` are all accepted, each with face groups of its own.
    `whatsapp_available` may be changed at any time: False is a vendor whose WhatsApp service is down.
    `callbacks_anywhere` lets callbacks go to addresses other than loopback; each is given `callback_timeout`
    seconds, and is made `callback_delay` seconds (on `clock`) after it was asked for. `faults` go wrong from the
    start, and `seed` decides which requests they hit. Raises ValueError for an empty token or delays below 0. What is
    documented by the vendor and what is assumed of it is listed in `aisolution_async.sandbox.vendor`. A sandbox that
    was closed cannot be started again.

    Any documented answer can be had without configuration: `sandbox.number("checking-twice")` is a number that is
    answered so, `sandbox.images.status("FAIL")` such a picture. `{url}/_sandbox/` shows and sets all of this to
    programs in any language on the same machine; see `aisolution_async.sandbox.control`.
    """

    _instead = "it listens on a socket. Hand over its url and token"

    images = images
    """Pictures that say themselves what they are answered: `sandbox.images.person("alice")`."""

    number = staticmethod(magic_number)
    """A number that is answered as its name says: `sandbox.number("no", country="PH")`."""

    def __init__(
        self,
        port: int = 0,
        *,
        token: str = "sandbox-token",  # noqa: S107  # opens nothing but this sandbox
        tokens: Iterable[str] = (),
        whatsapp_available: bool = True,
        callbacks_anywhere: bool = False,
        callback_timeout: float = 5.0,
        callback_delay: float = 0.0,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        accepted = (token, *tokens)
        if not all(accepted):
            raise ValueError("a token is not empty")
        if callback_timeout < 0 or callback_delay < 0:
            raise ValueError("callback_timeout and callback_delay are seconds, 0 or more")
        self.token = token
        """The token that is accepted, or the first of them."""
        self.bill = Bill()
        """What was answered, by endpoint and charge, delivered or not; see `Bill` for what counts."""
        self.requests: Counter[str] = Counter()
        """Whole requests that came in, by endpoint, whatever was answered."""
        self.callbacks: deque[Delivery] = deque(maxlen=10_000)
        """The latest callbacks, in the order in which they ended."""
        self.clock = Clock() if clock is None else clock
        """Its time: `sandbox.clock.advance(20)`."""
        self._first_faults = tuple(faults)
        self.faults = Faults(self._first_faults, seed=seed)
        """What goes wrong: `sandbox.faults.add(Fault("reset-after", rate=0.02))`."""
        self._port = port
        self._first_available = whatsapp_available
        self._vendor = Vendor(
            accepted,
            whatsapp_available=whatsapp_available,
            callbacks_anywhere=callbacks_anywhere,
            now=self.clock.now,
        )
        self._callback_timeout = callback_timeout
        self._callback_delay = callback_delay
        self._delivering = asyncio.Semaphore(_CALLBACKS_AT_ONCE)
        self._server: asyncio.Server | None = None
        self._closing = False
        self._closed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outstanding: dict[int, Outstanding] = {}
        self._answered: dict[str, float] = {}  # numbers that were answered to a request, and when

    def __repr__(self) -> str:
        where = "closed" if self._closing else self.url if self._server is not None else "not started"
        return f"<Sandbox {where}>"

    @property
    def port(self) -> int:
        """The port it listens on. Raises RuntimeError before it was started."""
        if self._server is None:
            raise RuntimeError("the sandbox was not started: `async with Sandbox() as sandbox:`")
        return self._port

    @property
    def url(self) -> str:
        """The base URL, as "http://127.0.0.1:PORT". Raises RuntimeError before it was started."""
        return f"http://{HOST}:{self.port}"

    @property
    def whatsapp_available(self) -> bool:
        """Whether gliswadetail has answers; False is a vendor whose WhatsApp service is down."""
        return self._vendor.whatsapp_available

    @whatsapp_available.setter
    def whatsapp_available(self, available: bool) -> None:
        self._vendor.whatsapp_available = available

    @property
    def faces(self) -> Mapping[str, Mapping[str, int]]:
        """How often each person was added, by person id, by group id."""
        return self._vendor.faces

    @property
    def outstanding(self) -> tuple[Outstanding, ...]:
        """The callbacks that were asked for and are not made yet, in the order in which they were asked for."""
        return tuple(self._outstanding.values())

    def reset(self) -> None:
        """Be as when it was started: nothing asked, added or billed, its first faults, the clock at 0.

        Answers and callbacks under way are dropped, unbilled, and their connections cut; others stay open. Like all of
        this class it belongs to the event loop that the sandbox was started in: from another thread, `POST
        /_sandbox/reset` does the same.
        """
        # It may be asked for by a request to the sandbox itself, which is still to be answered.
        current = asyncio.current_task()
        for connection in self._connections:
            if connection.serving not in (None, current):
                connection.cut()
        for task in self._tasks - {current}:
            task.cancel()
        self._outstanding.clear()
        self._answered.clear()
        self._vendor.forget()
        self._vendor.whatsapp_available = self._first_available
        self.bill.clear()
        self.requests.clear()
        self.callbacks.clear()
        self.faults.clear()
        for fault in self._first_faults:
            self.faults.add(fault)
        if self._server is not None:
            self.clock.start()

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken, RuntimeError if started before or without Pillow."""
        if self._server is not None or self._closing:
            raise RuntimeError("a sandbox can be started once")
        if importlib.util.find_spec("PIL") is None:
            raise RuntimeError("the sandbox needs Pillow: pip install 'aisolution-async[cli]'")
        loop = asyncio.get_running_loop()
        self.clock.start()
        # A client may open a thousand connections at once, and a full backlog costs it a second.
        self._server = await loop.create_server(lambda: _Connection(self), HOST, self._port, backlog=2048)
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop: every connection is cut, and every answer and callback under way is dropped, unbilled."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        while self._tasks or self._connections:
            for task in self._tasks:
                task.cancel()
            for connection in self._connections:
                connection.cut()
            await asyncio.wait([*self._tasks, *(connection.lost for connection in self._connections)])
            # A task leaves its set in a callback that the loop has yet to run.
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
        self._closed.set()

    async def serve_forever(self) -> None:
        """Start if need be, serve until cancelled or closed from elsewhere, and close."""
        if self._server is None:
            await self.start()
        try:
            await self._closed.wait()
        finally:
            await self.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # What the connections use.

    def joined(self, connection: _Connection) -> bool:
        """Whether a connection that has just come in is welcome."""
        self._connections.add(connection)
        return not self._closing

    def left(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the sandbox is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def resets(self, path: str) -> bool:
        """Whether a request to `path` is not to be read any further."""
        endpoint = self._vendor.endpoint(path) if self.faults else None
        return endpoint is not None and self.faults.begins(endpoint, self.clock.now()) is not None

    def received(self, path: str) -> str | None:
        """Count a request; its endpoint, if it has one."""
        endpoint = self._vendor.endpoint(path)
        if endpoint is not None:
            self.requests[endpoint] += 1
        return endpoint

    async def answer(self, request: Request) -> Answer:
        """What the vendor answers, and what goes wrong with it.

        A bug of ours is HTTP 500, and the loop's exception handler is told.
        """
        if control.is_at(request.path):
            return control.answer(self, request)
        endpoint = self._vendor.endpoint(request.path)
        fate = Fate()
        if endpoint is not None and self.faults:
            fate = self.faults.fate(endpoint, request.body, self.clock.now())
        fault = fate.fault
        if fault is None or fault.is_billed:
            try:
                answer = await self._vendor.answer(request)
            except Exception as error:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "the sandbox failed to answer", "exception": error}
                )
                answer = Answer(500, b"the sandbox failed\n", endpoint=endpoint)
            fault = fault or answer.fault
        if fault is None:
            return replace(answer, delay=fate.seconds) if fate.seconds else answer
        assert endpoint is not None
        if not fault.is_billed:
            # The vendor knows nothing of it: what there is to send is somebody's before it who is busy.
            answer = Answer(200, ENVELOPE_OF_BUSY, "application/json", endpoint=endpoint)
        if fault.kind in SPOILING:
            http_status, body, content_type, headers, status = spoiled(
                fault, endpoint, answer.http_status, answer.body, answer.content_type
            )
            answer = replace(
                answer,
                http_status=http_status,
                body=body,
                content_type=content_type,
                headers=headers,
                status=status,
            )
        return replace(answer, fault=fault, delay=fate.seconds)

    def account(self, answer: Answer) -> Entry | None:
        """Put an answer on the bill."""
        if answer.endpoint is None:
            return None
        fault = None if answer.fault is None else answer.fault.kind
        if answer.number is not None and answer.charge is Charge.CHARGED:
            self._answered[answer.number] = self.clock.now()
        entry = Entry(
            self.clock.now(), answer.endpoint, "request", answer.charge, answer.status, answer.http_status, fault
        )
        return self.bill.enter(entry)

    def call_back(self, callbacks: tuple[Callback, ...]) -> None:
        """Make these callbacks, one after the other, each when it is due."""
        if callbacks:
            self.run(self._call_back(callbacks))

    async def _call_back(self, callbacks: tuple[Callback, ...]) -> None:
        entry, asked = None, self.clock.now()
        for callback in callbacks:
            delay = None if callback.delay is None else callback.delay + self._callback_delay
            due = None if delay is None else self.clock.now() + delay
            self._outstanding[id(callback)] = Outstanding(callback.number, callback.url, due)
            try:
                await self.clock.sleep(inf if delay is None else delay)
            finally:
                self._outstanding.pop(id(callback), None)
            if callback.charge is not None and self._answered.get(callback.number, -inf) < asked:
                entry = self.bill.enter(Entry(self.clock.now(), "gliswadetail", "callback", callback.charge))
            delivery = await self.deliver(callback)
            if entry is not None and callback.number == callbacks[-1].number and delivery.is_accepted:
                self.bill.deliver(entry)

    async def deliver(self, callback: Callback) -> Delivery:
        """Make one callback, once, and record what came of it."""
        http_status: int | None = None
        error: str | None = None
        if not callback.addresses:
            error = "not made: only loopback addresses are called back"
        else:
            async with self._delivering:
                try:
                    async with asyncio.timeout(self._callback_timeout):
                        http_status = await _get(callback)
                except TimeoutError:
                    error = "timed out"
                except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as failure:
                    error = type(failure).__name__  # its text may hold the URL
        delivery = Delivery(callback.number, callback.url, http_status, error)
        self.callbacks.append(delivery)
        return delivery


@dataclass(slots=True)
class _Turn:
    """A request that waits for its answer, or one whose answer (a refusal) is known already."""

    request: Request | None = None
    refusal: Answer | None = None
    keep_alive: bool = False
    http_1_0: bool = False


class _Connection(asyncio.Protocol):
    """One client: parses what comes in, and answers in the order in which it came."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whoever ends their side while nothing is ever to be answered is taken to be gone.
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.serving: asyncio.Task[None] | None = None
        self._sandbox = sandbox
        self._parser = HttpRequestParser(self)
        self._turns: deque[_Turn] = deque()
        self._serving = False
        # Nothing more that comes in is a request: it is read and dropped.
        self._deaf = False
        self._lingering: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._messages = 0
        self._begin()

    # From the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if not self._sandbox.joined(self):
            self.cut()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        message = self._messages if self._in_head else None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # raised behind the whole request; on_headers_complete made it the connection's last
        except HttpParserError:
            self._refuse(400, b"not HTTP\n")
        if self._in_head and message == self._messages:
            # One endless header never becomes an event, so what it takes is counted here.
            self._count_head(len(data))
        self._continue()
        if len(self._turns) >= _MOST_PIPELINED:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._deaf = True
        if not self._ended.done():
            self._ended.set_result(None)
        return self._serving  # whoever is done asking may still be listening

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's signature
        self._deaf = True
        self._drained.set()
        if self._lingering is not None:
            self._lingering.cancel()
        self._sandbox.left(self)
        self.lost.set_result(None)
        if not self._ended.done():
            self._ended.set_result(None)

    def cut(self) -> None:
        """Close at once, whatever is unsent."""
        self._transport.abort()

    def reset(self) -> None:
        """The same, and the client is told that it was no orderly end."""
        self._deaf = True
        self._turns.clear()
        with suppress(OSError):
            # Without it, the kernel would end the connection as if all had been said.
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # From the parser.

    def on_message_begin(self) -> None:
        self._messages += 1
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._count_head(len(name) + len(value))
        lower = name.lower()
        if lower in _KEPT and self._target.startswith(_CONTROL):
            self._kept.append((lower.decode(), value.decode("latin-1")))
        match lower:
            case b"expect":
                self._expects = value.lower() == b"100-continue"
            case b"content-length" if not self._deaf and int(value) > LARGEST_BODY:
                self._too_large = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._http_1_0 = self._parser.get_http_version() == "1.0"
        # We upgrade to nothing, and what follows a request to upgrade may be in another protocol.
        self._keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        try:
            url = parse_url(bytes(self._target))
            self._path, self._query = url.path.decode("latin-1"), url.query or b""
        except (HttpParserInvalidURLError, AttributeError):  # a host and port alone have no path
            self._refuse(400, b"not a path\n")
        if self._too_large:
            self._refuse_body()
        elif self._sandbox.resets(self._path):
            self.reset()

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._expects = False
        self._body += body
        if len(self._body) > LARGEST_BODY:
            self._refuse_body()

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        method = self._parser.get_method().decode()
        request = Request(method, self._path, self._query, bytes(self._body))
        if control.is_at(self._path):
            peer = self._transport.get_extra_info("peername") or ("",)
            request = replace(request, headers=tuple(self._kept), peer=str(peer[0]))
        self._sandbox.received(self._path)
        self._expects = False
        self._take(_Turn(request, None, self._keep_alive, self._http_1_0))

    # Ours.

    def _begin(self) -> None:
        self._in_head = True
        self._head = 0
        self._headers = 0
        self._kept: list[tuple[str, str]] = []
        self._target = bytearray()
        self._path, self._query = "", b""
        self._body = bytearray()
        self._expects = False
        self._too_large = False
        self._keep_alive = False
        self._http_1_0 = False

    def _count_head(self, size: int) -> None:
        self._head += size
        if self._head > LARGEST_HEAD or self._headers > MOST_HEADERS:
            self._refuse(431, b"too many headers\n")

    def _refuse_body(self) -> None:
        self._refuse(413, b"too large\n", self._path)

    def _refuse(self, http_status: int, why: bytes, path: str = "") -> None:
        if not self._deaf:
            self._take(_Turn(refusal=Answer(http_status, why, endpoint=self._sandbox.received(path))))

    def _take(self, turn: _Turn) -> None:
        self._turns.append(turn)
        self._deaf = not turn.keep_alive
        if not self._serving:
            self._serving = True
            self.serving = self._sandbox.run(self._serve())

    def _continue(self) -> None:
        # In its turn: a client that pipelines would take it for the beginning of an earlier answer.
        if self._expects and not (self._in_head or self._serving or self._deaf or self._http_1_0):
            self._expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _listen(self) -> None:
        # Asked for first: uvloop raises where asyncio does nothing.
        if not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    async def _serve(self) -> None:
        """Answer what waits. Goes on when the client leaves: the vendor would not notice either."""
        refused = False
        while self._turns:
            turn = self._turns.popleft()
            await self._drained.wait()
            if turn.request is None:
                assert turn.refusal is not None
                answer, refused = turn.refusal, True
            else:
                answer = await self._sandbox.answer(turn.request)
            entry = self._sandbox.account(answer)
            self._sandbox.call_back(answer.callbacks)
            if answer.delay:
                await self._sandbox.clock.sleep(answer.delay)
            if answer.fault is None:
                whole = self._put(answer, turn)
            else:
                whole = await self._put_wrong(answer.fault, answer, turn)
            if whole and entry is not None:
                self._sandbox.bill.deliver(entry)
        self._serving = False
        self.serving = None
        if self._deaf:
            self._finish(linger=refused)
        else:
            self._listen()
            self._continue()

    def _put(self, answer: Answer, turn: _Turn) -> bool:
        """Send an answer; whether there is anybody to send it to."""
        if self._transport.is_closing():
            return False
        self._transport.write(_written(answer, turn))
        return True

    async def _put_wrong(self, fault: Fault, answer: Answer, turn: _Turn) -> bool:
        """Send an answer as `fault` has it; whether it went out whole, and as the vendor meant it."""
        clock = self._sandbox.clock
        data = _written(answer, turn)
        match fault.kind:
            case "hang":
                await _first(clock.sleep(inf if fault.seconds is None else fault.seconds), self._ended)
                self._deaf = True
                self.cut()
            case "reset-after":
                self.reset()
            case "reset-middle":
                self._transport.write(data[: len(data) // 2])
                await asyncio.sleep(_HEAD_START)
                self.reset()
            case "garbage":
                self._transport.write(garbage(answer.body))
                self._deaf = True
                self._turns.clear()
            case "drip":
                pause = (_DRIPPING if fault.seconds is None else fault.seconds) / (_PIECES - 1)
                size = -(-len(data) // _PIECES)
                for at in range(0, len(data), size):
                    if at:
                        await _first(clock.sleep(pause), self.lost)
                    if self._transport.is_closing():
                        return False
                    self._transport.write(data[at : at + size])
                return True
            case _:
                return self._put(answer, turn) and (fault.kind == "content-type" or not fault.is_billed)
        return False

    def _finish(self, *, linger: bool) -> None:
        if not linger or self._transport.is_closing():
            self._transport.close()
            return
        # Closing on a client that is still sending resets the connection, and the refusal is lost with it.
        self._transport.write_eof()
        self._listen()
        self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)


async def _first(waiting: Coroutine[Any, Any, None], other: asyncio.Future[None]) -> None:
    """Wait, but no longer than until `other` is done."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait((task, other), return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()


def _written(answer: Answer, turn: _Turn) -> bytes:
    without = answer.http_status in (204, 304)  # by HTTP itself
    head = [
        f"HTTP/1.1 {answer.http_status} {_phrase(answer.http_status)}",
        *(() if without else (f"content-type: {answer.content_type}", f"content-length: {len(answer.body)}")),
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    if not turn.keep_alive:
        head.append("connection: close")
    elif turn.http_1_0:
        head.append("connection: keep-alive")
    without = without or (turn.request is not None and turn.request.method == "HEAD")
    body = b"" if without else answer.body
    return "\r\n".join((*head, "\r\n")).encode("latin-1") + body


@functools.cache
def _phrase(http_status: int) -> str:
    try:
        return HTTPStatus(http_status).phrase
    except ValueError:
        return "Unknown"


async def _get(callback: Callback) -> int:
    """GET, without following redirects; the HTTP status. Raises OSError, EOFError or ValueError."""
    reader, writer = await _connect(callback)
    try:
        writer.write(f"GET {callback.target} HTTP/1.1\r\nhost: {callback.host}\r\nconnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    found = re.match(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b", head)
    if found is None:
        raise ValueError("not HTTP")
    return int(found[1])


async def _connect(callback: Callback) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # The certificate must name the host of the URL, which is not the address where that is "localhost".
    tls, name = (_tls(), callback.name) if callback.tls else (None, None)
    *others, last = callback.addresses
    for address in others:
        with suppress(ConnectionRefusedError):
            return await asyncio.open_connection(address, callback.port, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(last, callback.port, ssl=tls, server_hostname=name)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
