"""HTTP/1.1 on the sandbox's socket: one client's requests in, their answers out, whole or as a fault has them."""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import sys
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from math import inf
from typing import Any, Protocol, cast

from httptools import (
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from aisolution_async.sandbox import control
from aisolution_async.sandbox.bill import Entry
from aisolution_async.sandbox.desk import Desk
from aisolution_async.sandbox.faults import Fault, garbage
from aisolution_async.sandbox.vendor import DueCallback, Request, Served

LARGEST_BODY = 8 * 1024 * 1024
LARGEST_HEAD = 64 * 1024
MOST_HEADERS = 100
# Requests of one connection that may wait for their answers before no more are read from it.
_MOST_PIPELINED = 8
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


class Host(Protocol):
    """The sandbox, as a connection to it sees it."""

    @property
    def desk(self) -> Desk:
        """What is answered, and what that costs."""

    def joined(self, connection: Visitor) -> bool:
        """Whether a connection that has just come in is welcome."""

    def left(self, connection: Visitor) -> None:
        """A connection is gone."""

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the socket is closed."""

    async def answer(self, request: Request) -> Served:
        """What a request is answered, by the vendor or about the sandbox itself."""

    def account(self, answer: Served) -> Entry | None:
        """Put an answer on the bill."""

    def call_back(self, callbacks: tuple[DueCallback, ...]) -> None:
        """Make these callbacks, one after the other, each when it is due."""


@dataclass(slots=True)
class _Turn:
    """A request that waits for its answer, or one whose answer (a refusal) is known already."""

    request: Request | None = None
    refusal: Served | None = None
    keep_alive: bool = False
    http_1_0: bool = False


class Visitor(asyncio.Protocol):
    """One client: parses what comes in, and answers in the order in which it came."""

    def __init__(self, host: Host) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whoever ends their side while nothing is ever to be answered is taken to be gone.
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.serving: asyncio.Task[None] | None = None
        self._host = host
        self._desk = host.desk
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
        if not self._host.joined(self):
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
        self._host.left(self)
        self.lost.set_result(None)
        if not self._ended.done():
            self._ended.set_result(None)

    def cut(self) -> None:
        """Close at once, whatever is unsent."""
        self._transport.abort()

    def reset(self) -> None:
        """Close at once, and tell the client that it is no orderly end."""
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
        elif self._desk.resets(self._path):
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
        self._desk.received(self._path)
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
            self._take(_Turn(refusal=Served(http_status, why, endpoint=self._desk.received(path))))

    def _take(self, turn: _Turn) -> None:
        self._turns.append(turn)
        self._deaf = not turn.keep_alive
        if not self._serving:
            self._serving = True
            self.serving = self._host.run(self._serve())

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
                answer = await self._host.answer(turn.request)
            entry = self._host.account(answer)
            if answer.callbacks:
                self._host.call_back(answer.callbacks)
            if answer.delay:
                await self._desk.clock.sleep(answer.delay)
            if answer.fault is None:
                whole = self._put(answer, turn)
            else:
                whole = await self._put_wrong(answer.fault, answer, turn)
            if whole and entry is not None:
                self._desk.bill.deliver(entry)
        self._serving = False
        self.serving = None
        if self._deaf:
            self._finish(linger=refused)
        else:
            self._listen()
            self._continue()

    def _put(self, answer: Served, turn: _Turn) -> bool:
        """Send an answer; whether there is anybody to send it to."""
        if self._transport.is_closing():
            return False
        self._transport.write(_written(answer, turn))
        return True

    async def _put_wrong(self, fault: Fault, answer: Served, turn: _Turn) -> bool:
        """Send an answer as `fault` has it; whether it went out whole, and as the vendor meant it."""
        clock = self._desk.clock
        data = _written(answer, turn)
        match fault.kind:
            case "hang":
                await _first(clock.alarm(inf if fault.seconds is None else fault.seconds), self._ended)
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
                        await _first(clock.alarm(pause), self.lost)
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


async def _first(waiting: asyncio.Future[None], other: asyncio.Future[None]) -> None:
    """Wait, but no longer than until `other` is done."""
    try:
        await asyncio.wait((waiting, other), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _written(answer: Served, turn: _Turn) -> bytes:
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
