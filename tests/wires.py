"""Servers that answer by a script on real sockets, and what is asked of them through the pool of connections."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import math
import re
import socket
import ssl
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from aisolution_async.integrations.instant import InstantLoop
from aisolution_async.wire.connection import Connection
from aisolution_async.wire.reuse import Reuse
from aisolution_async.wire.transport import Flight, Origin, PoolTransport

from .support import LAST_RESORT

SECRET = "tok3nS3cret"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_FUTURE = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok"


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "virtual": InstantLoop,
}


def on(*names: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Runs an async test on the loops named. What a loop's exception handler hears of fails the test."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(loop_name: str, **kwargs: Any) -> None:
            heard: list[dict[str, Any]] = []

            async def main() -> None:
                asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
                if loop_name == "virtual":
                    await test(**kwargs)
                else:
                    async with asyncio.timeout(LAST_RESORT):
                        await test(**kwargs)

            with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
                runner.run(main())
            gc.collect()
            assert heard == []

        given_parameters = inspect.signature(test).parameters.values()
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY), *_keyword_only(given_parameters)]
        )
        parametrized: Callable[..., None] = pytest.mark.parametrize("loop_name", names)(run)
        return parametrized

    return decorate


def _keyword_only(parameters: Any) -> Iterator[inspect.Parameter]:
    for parameter in parameters:
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


everywhere = on("asyncio", "uvloop")
virtually = on("virtual")


class Peer:
    """The server's end of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader, self.writer = reader, writer
        self.head = self.body = b""

    async def request(self) -> bytes:
        """Reads one request; returns its path."""
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", self.head)
        if length:
            self.body = await self.reader.readexactly(int(length[1]))
        elif re.search(rb"(?i)\r\ntransfer-encoding: *chunked", self.head):
            self.body = b""
            while size := int(await self.reader.readline(), 16):
                self.body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            self.body = b""
        return self.head.split(b" ", 2)[1]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


async def echo(peer: Peer) -> None:
    """Answers every request with its own path."""
    while True:
        path = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


def saying(answer: bytes, then: str = "stay") -> Script:
    """Answers every request with `answer`, and then stays, closes or resets."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer)
            if then == "close":
                return
            if then == "reset":
                await turns(3)
                peer.reset()
                return

    return script


async def silent(peer: Peer) -> None:
    await peer.reader.read()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Server:
    """`async with Server(script) as server`: runs `script` for each connection, closes it when the script ends."""

    def __init__(
        self, script: Script = echo, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.script, self.context, self.host = script, context, host
        self.peers: list[Peer] = []
        self.open = self.most = 0
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.context, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        self.tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await self.until(lambda: not self.tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        self.open += 1
        self.most = max(self.most, self.open)
        self._changed.set()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                await self.script(peer)
        finally:
            if not writer.transport.is_closing():
                writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self.open -= 1
            self.tasks.discard(task)
            self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._changed.clear()
            await self._changed.wait()

    def url(self, path: str = "/", scheme: str = "") -> str:
        return f"{scheme or ('https' if self.context else 'http')}://{self.host}:{self.port}{path}"


class Pool(PoolTransport):
    """The pool, with what it keeps to itself in the open."""

    @property
    def connections(self) -> set[Connection]:
        return self._connections

    @property
    def slots(self) -> int:
        """Connections that count towards the limit, those under way included."""
        return self._slots

    @property
    def line(self) -> Collection[object]:
        """The calls that wait."""
        return self._line

    @property
    def idle(self) -> Mapping[Origin, Mapping[Connection, None]]:
        return self._idle

    @property
    def resting(self) -> Collection[Connection]:
        return self._resting

    @property
    def rest_timer(self) -> asyncio.TimerHandle | None:
        return self._rest_timer

    @property
    def timer(self) -> asyncio.TimerHandle | None:
        return self._timer

    @property
    def looked_up(self) -> Mapping[object, object]:
        """Names whose addresses are looked up now."""
        return self._shared

    @property
    def reuse(self) -> Mapping[Origin, Reuse]:
        return self._reuse

    def take_idle(self, origin: Origin, now: float) -> Connection | None:
        return self._take_idle(origin, now)

    def release(self, conn: Connection) -> None:
        self._release(conn)

    def give_up(self, conn: Connection) -> None:
        self._give_up(conn)


async def ask(
    transport: PoolTransport,
    where: Server | str,
    path: str = f"/?token={SECRET}",
    *,
    method: str = "POST",
    content: Any = b"a=1",
    flight: Flight | None = None,
    headers: dict[str, str] | None = None,
    **timeout: float | None,
) -> httpx.Response:
    url = where if isinstance(where, str) else where.url(path)
    extensions = {"timeout": timeout, "aisolution.flight": flight} if flight else {"timeout": timeout}
    request = httpx.Request(method, url, content=content, headers=headers, extensions=extensions)
    return await transport.handle_async_request(request)


async def fails(
    kind: type[BaseException], left: bool, transport: PoolTransport, where: Server | str, *args: Any, **kwargs: Any
) -> str:
    """Calls, expects exactly `kind` with the flight saying `left`, and returns what the error says."""
    flight = kwargs.pop("flight", None) or Flight()
    with pytest.raises(kind) as caught:
        await ask(transport, where, *args, flight=flight, **kwargs)
    assert type(caught.value) is kind
    assert flight.left is left
    check_clean(caught.value)
    return str(caught.value)


def check_clean(error: BaseException) -> None:
    """No chain, and no token in the text, nor in what the frames of the transport hold."""
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in f"{error}{error!r}"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith("aisolution_async.wire."):
            assert SECRET not in repr(frame.f_locals), frame


def open_sockets() -> set[str]:
    links = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.add(str(link.readlink()))
    return {link for link in links if link.startswith("socket:")}


def sockets() -> int:
    return len(open_sockets())


class Lazy(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body of several pieces, made one by one; `made` counts them."""

    def __init__(self, pieces: list[bytes], *, fails_at: int = -1) -> None:
        self.pieces, self.made, self.fails_at = pieces, 0, fails_at

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if self.made == self.fails_at:
                raise KeyError("no such picture")
            self.made += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("a synchronous body is not awaited")
        yield b""


def lazy_request(server: Server, body: httpx.AsyncByteStream, length: int | None, **extensions: Any) -> httpx.Request:
    headers = {"Host": "h"} if length is None else {"Host": "h", "Content-Length": str(length)}
    return httpx.Request("POST", server.url(f"/?{SECRET}"), headers=headers, stream=body, extensions=extensions)


class Wire(asyncio.Transport):
    """A transport that takes everything and says nothing."""

    aborted = False

    def write(self, data: Any) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def bare_connection(
    loop: asyncio.AbstractEventLoop, max_body: int = 1000, strange: Callable[[Origin], None] = lambda _: None
) -> Connection:
    conn = Connection(("http", "h", 80), Reuse(4.0), loop=loop, max_body=max_body, gone=lambda _: None, strange=strange)
    conn.connection_made(Wire())
    conn.begin(headless=False, read_timeout=math.inf, deadline=math.inf)
    return conn


PIECE = 256 * 1024


class Taken:
    """The server's end of plain connections, on blocking sockets: what it does, the client's loop has not seen yet."""

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    async def request(self, peer: int) -> None:
        """Waits for a request on the connection of that number, accepting it if it is new."""
        loop = asyncio.get_running_loop()
        if peer == len(self.peers):
            sock, _ = await loop.sock_accept(self._listener)
            sock.setblocking(False)
            self.peers.append(sock)
        data = b""
        while not data.endswith(b"a=1"):
            received = await loop.sock_recv(self.peers[peer], 4096)
            assert received
            data += received

    def end(self, *, reset: bool) -> None:
        """Accepts a connection, and ends it."""
        sock, _ = self._listener.accept()
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def __enter__(self) -> Taken:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self.peers):
            sock.close()
