"""The network of a simulation: the real pool, over sockets that no system has, to a server that does what servers do.

What a client writes takes its time to leave its memory and to arrive. What the server says arrives when the loop looks
at it next. Either end may break a connection at any moment; the vendor has a request when all of it has arrived, and
bills it then, whoever is still there.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx
import pybase64

from aisolution_async.wire.transport import Flight, Origin, PoolTransport, Response

from .vendor import ANSWERED, CHECKING, FLYING, KINDS, UNKNOWN, UNSENT, Request

if TYPE_CHECKING:
    from .world import Process, World

# Both are of the task that runs.
_process: ContextVar[Process] = ContextVar("process")
_request: ContextVar[Request] = ContextVar("request")

enter = _process.set
"""What runs in this context from now on is of this process."""

LONGER = 1e-6
"""Seconds between two things that come one after the other."""


def image_of(question: int, *, is_small: bool = False) -> bytes:
    """An image that is larger than a piece of a body, or not; pieces are small here."""
    return b"\xff\xd8\xff\xdb[q%03d]" % question + bytes(range(30 if is_small else 128))


def question_in(image: bytes) -> int:
    """Which it is."""
    return int(image[6:9])


class Pool(PoolTransport):
    """The real one, of one process."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(max_connections=process.plan.connections)
        self._world, self._process = world, process
        self._is_dead = False

    async def exchange(
        self,
        origin: Origin,
        head: bytes,
        stream: Any,
        length: int,
        flight: Flight,
        timeout: Mapping[str, float | None],
    ) -> Response:
        """See the real one. Whoever asked knows afterwards what this returns or raises."""
        world, process = self._world, self._process
        flight.left = False
        if process.is_dead:
            raise httpx.ConnectError("closed")
        question, text, callback = _asked(b"".join(part for parts in stream._pieces for part in parts))
        endpoint = head[: head.index(b"?")].rpartition(b"/")[2].decode()
        request = world.vendor.take(question, text, process, callback, endpoint)
        request.view = UNSENT
        _request.set(request)
        process.event("a request begins")
        try:
            received = await super().exchange(origin, head, stream, length, flight, timeout)
            if process.is_dead:
                raise httpx.ReadError("dead")
        except BaseException:
            if request.view == FLYING:
                request.view = UNKNOWN
            raise
        said, view = request.said, KINDS[request.behaviour.kind].view
        if said is None or received.body != said.content or (received.early and view in (ANSWERED, CHECKING)):
            view = UNKNOWN
        request.view, request.answered_at = view, world.today()
        process.event("an answer is there")
        return received

    def die(self) -> None:
        """Its process is no more: what it did not hand to the system yet never leaves."""
        for line in self._world.network.lines:
            if line.process is self._process:
                line.abort()
        for request in self._world.vendor.requests:
            if request.process is self._process and request.view == FLYING:
                request.view = UNKNOWN


def _asked(body: bytes) -> tuple[int, str, str | None]:
    """What a form asks: a question, its number, and where to call back."""
    form = parse_qs(body.decode())
    if "number" in form:
        (text,), (callback,) = form["number"], form.get("callback", [None])
        return int(text[-3:]), text, callback
    (image,) = form.get("img1") or form["img"]
    return question_in(pybase64.b64decode(image)), "", None


def _question_of(body: bytes) -> int | None:
    try:
        return _asked(body)[0]
    except (ValueError, LookupError):
        return None  # pieces of several


class Socket:
    """What the pool dials, and looks at."""

    def __init__(self, network: Network) -> None:
        self.line: Line | None = None
        self.unread = b""
        network.sockets.append(self)
        self._number = len(network.sockets) - 1

    def fileno(self) -> int:
        return self._number

    def recv(self, _: int) -> bytes:
        data, self.unread = self.unread, b""
        return data

    def close(self) -> None:
        """There is nothing to close."""


class Network:
    """All connections of a simulation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sockets: list[Socket] = []
        self.lines: list[Line] = []

    async def dial(self) -> Socket:
        """In place of the real one."""
        behaviour = _request.get().behaviour
        await asyncio.sleep(behaviour.connect)
        if KINDS[behaviour.kind].view == UNSENT or _process.get().is_dead:
            raise ConnectionRefusedError("refused")
        return Socket(self)

    async def connect(self, factory: Callable[[], Any], *, sock: Socket, **_: object) -> tuple[Line, Any]:
        """In place of the loop's `create_connection`."""
        protocol = factory()
        line = sock.line = Line(self, _process.get(), protocol, sock)
        self.lines.append(line)
        await asyncio.sleep(0)
        protocol.connection_made(line)
        return line, protocol

    def watch(self, number: int) -> Callable[[int], object]:
        """In place of `connection._watch`."""
        line = self.sockets[number].line
        assert line is not None
        return lambda _: line.inbox


class Line(asyncio.Transport):
    """A connection: the client's side of it, which the pool knows as its transport, and the server."""

    def __init__(self, network: Network, process: Process, protocol: Any, sock: Socket) -> None:
        super().__init__()
        self.process = process
        self.inbox: deque[bytes | Exception | None] = deque()
        """What the client has not looked at yet; None for the end, an exception for a reset."""
        self._world, self._protocol, self._sock = network.world, protocol, sock
        self._loop = network.world.loop
        self._is_closing = self._is_paused = False
        self._buffer: deque[bytes] = deque()  # in the client's memory
        self._arrives_at = 0.0
        self._coming: deque[Request] = deque()  # asked on this connection, and not begun to arrive
        self._arrived = b""
        self._request: Request | None = None  # of which some has arrived
        self._is_gone = False  # the server's end
        self._is_deaf = False  # it reads, and does not listen

    # --------------------------------------------------------------------------------------------- the client's

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """One byte is too much, as the pool wants it."""

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        request = _request.get()
        if request.view == UNSENT:
            self._world.laws.departure(request)
            request.view = FLYING
            request.left_at = self._loop.time()
            self._coming.append(request)
            self.process.event("a request left")
        if slow := request.behaviour.slow:
            self._buffer.append(bytes(data))
            if not self._is_paused:
                self._is_paused = True
                self._protocol.pause_writing()
                self._loop.call_later(slow, self._drain, slow)
        else:
            self._hand_over(bytes(data), request.behaviour.receive)

    def _drain(self, slow: float) -> None:
        if not self._buffer or self._is_deaf:  # it was closed, or the server takes no more
            return
        self._hand_over(self._buffer.popleft(), 0.01)
        if self._buffer:
            self._loop.call_later(slow, self._drain, slow)
        else:
            self._is_paused = False
            self._protocol.resume_writing()

    def _hand_over(self, data: bytes, takes: float) -> None:
        """It leaves the client's memory."""
        self._arrives_at = max(self._arrives_at + LONGER, self._loop.time() + takes)
        self._loop.call_at(self._arrives_at, self._arrive, data)

    def abort(self) -> None:
        if not self._is_closing:
            self._end(None)

    close = abort

    def _end(self, why: Exception | None) -> None:
        self._is_closing = True
        self._buffer.clear()
        self._loop.call_soon(self._protocol.connection_lost, why)
        self._loop.call_at(self._arrives_at + 2 * LONGER, self._client_is_gone)

    def _look(self) -> None:
        """What has come is handed to the pool."""
        if self._is_closing or not self.inbox:
            return
        item = self.inbox.popleft()
        if isinstance(item, bytes):
            self._protocol.data_received(item)
        else:
            if item is None:
                self._protocol.eof_received()
            if not self._is_closing:
                self._end(item)
        if self.inbox:
            self._loop.call_soon(self._look)

    # --------------------------------------------------------------------------------------------- the server's

    def _say(self, *items: bytes | Exception | None) -> None:
        if self._is_closing or self._is_gone:
            return
        if not self.inbox:
            self._loop.call_soon(self._look)
        self.inbox += items
        if not isinstance(items[-1], bytes):
            self._is_gone = True

    def _client_is_gone(self) -> None:
        """No more of a request will come."""
        for request in (self._request, *self._coming):
            self._is_not_to_be(request)
        self._coming.clear()

    def _is_not_to_be(self, request: Request | None) -> None:
        if request is not None and not request.has_arrived:
            request.is_over = request.has_arrived = True
            request.is_over_at = self._loop.time()

    def _arrive(self, data: bytes) -> None:
        if self._is_gone:  # the server's system resets
            self._client_is_gone()
            if not self._is_closing:
                self.inbox.clear()
                self.inbox.append(ConnectionResetError("reset"))
                self._loop.call_soon(self._look)
            return
        if self._is_deaf:
            return
        if self._request is None:
            self._request = self._coming.popleft()
            self._world.laws.hold(data[:5] == b"POST ", f"the pieces of {self._request} are mixed with another's")
        self._arrived += data
        head, _, body = self._arrived.partition(b"\r\n\r\n")
        found = re.search(rb"Content-Length: ([0-9]+)", head)
        request = self._request
        if found is not None and len(body) >= int(found[1]):
            self._world.laws.hold(_question_of(body) == request.question, f"{request} is another when it arrives")
            self._arrived, self._request = b"", None
            self._take(request)
        elif request.behaviour.manner == "early" and self._buffer:
            self._is_deaf = True  # what the client has in its memory stays there: it knows that not all has left
            self._take(request, is_whole=False)
        elif request.behaviour.kind == "half-written":
            self._is_not_to_be(request)
            self._say(ConnectionResetError("reset"))

    def _take(self, request: Request, *, is_whole: bool = True) -> None:
        request.has_arrived = True
        request.answer_here = lambda answer: self._answer(request, answer)
        self._world.vendor.receive(request, is_whole=is_whole)

    def _answer(self, request: Request, answer: httpx.Response | Exception | None) -> None:
        manner = request.behaviour.manner
        if isinstance(answer, Exception):
            self._say(None if manner == "close" else ConnectionResetError("reset"))
        if not isinstance(answer, httpx.Response):
            return
        request.said = answer
        more = b"" if manner != "close" else b"Connection: close\r\n"
        length = b"" if manner == "endless" else b"Content-Length: %d\r\n" % len(answer.content)
        said = b"".join(b"%s: %s\r\n" % each for each in answer.headers.raw if each[0].lower() != b"content-length")
        raw = b"HTTP/1.1 %d So\r\n%s%s%s\r\n%s" % (answer.status_code, said, length, more, answer.content)
        match manner:
            case "close" | "endless":
                self._say(raw, None)
            case "in parts":
                self._say(raw[:20])
                self._loop.call_later(0.02, self._say, raw[20:-2])
                self._loop.call_later(0.04, self._say, raw[-2:])
            case "twice":
                self._say(raw, raw)
            case "twice at once":
                self._say(raw + raw)
            case "interim":
                self._say(b"HTTP/1.1 100 Continue\r\n\r\n", raw)
            case "cut":
                self._say(raw[:-2], None)
            case "stuck":
                self._say(raw[:-2])
            case "unread":
                # The client's next piece meets a reset, and the answer is still unread in its socket.
                self._sock.unread = raw
                self._say(ConnectionResetError("reset"))
            case "early" if self._is_deaf:
                self._say(raw, None)
            case "not for long":
                self._say(raw)
                self._loop.call_later(request.behaviour.answer % 0.05, self._say, None)
            case _:
                self._say(raw)
