"""The pool of connections, against servers that answer by a script on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import gzip
import inspect
import itertools
import math
import os
import pickle
import random
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
import types
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from aisolution_async import AsyncClient, Charge, NotSentError, OutcomeUnknownError
from aisolution_async.integrations.instant import InstantLoop
from aisolution_async.wire import connection as connection_module
from aisolution_async.wire import dial as dial_module
from aisolution_async.wire import transport as transport_module
from aisolution_async.wire.connection import MAX_HEAD, Connection, decode_body
from aisolution_async.wire.reuse import Reuse
from aisolution_async.wire.transport import Flight, PoolTransport, default_ssl_context

SECRET = "tok3nS3cret"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_FUTURE = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok"


# The harness.


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> Iterator[None]:
    """Each test ends in a collection, for its ResourceWarnings: it need not go through all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _restless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection rests, so that which one serves which call is plain; except in the tests of the rest itself."""
    if "rests" not in request.node.name:
        monkeypatch.setattr(transport_module, "_rest_is_due", lambda uses: False)


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
                    async with asyncio.timeout(25):
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


# What goes out and what comes back.


@everywhere
async def test_a_call_goes_out_as_given_and_comes_back_whole() -> None:
    answer = b"HTTP/1.1 201 Made\r\nX-One: 1\r\nx-one: 2\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
    async with Server(saying(answer + b'{"a":1}')) as server, PoolTransport() as transport:
        flight = Flight()
        response = await ask(transport, server, "/v1/x?q=%20y", flight=flight, headers={"X-Mine": "yes", "Host": "h"})
        assert flight.left is True
        assert server.peers[0].head == (
            b"POST /v1/x?q=%20y HTTP/1.1\r\nX-Mine: yes\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
        )
        assert server.peers[0].body == b"a=1"
        assert (response.status_code, response.content, response.text) == (201, b'{"a":1}', '{"a":1}')
        assert response.json() == {"a": 1}
        assert response.read() == await response.aread() == b"".join(response.iter_bytes()) == b'{"a":1}'
        assert response.is_closed
        assert response.is_stream_consumed
        assert response.headers.get_list("x-one") == ["1", "2"]
        assert response.headers.raw[0] == (b"X-One", b"1")
        # Nothing is asked for that the caller did not ask for.
        assert b"accept-encoding" not in server.peers[0].head.lower()
        response.request = httpx.Request("POST", "http://h/")
        assert pickle.loads(pickle.dumps(response)).content == b'{"a":1}'


@everywhere
async def test_the_way_without_httpx_objects_is_the_same_way() -> None:
    head = f"POST /x?token={SECRET} HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n".encode()
    async with Server() as server, PoolTransport() as transport:
        for pieces, left in (([b"x" * 200_000] * 3, True), ([SECRET.encode() * 90_000], False)):
            origin, flight = transport_module.origin_of(httpx.URL(server.url())), Flight()
            call = transport.exchange(origin, head, Lazy(pieces), 600_000, flight=flight, timeout={"read": 5.0})
            if left:
                status, headers, body, early, reused = await call
                assert not early
                assert not reused
                assert (status, headers, body) == (200, [(b"Content-Length", b"20")], b"/x?token=" + SECRET.encode())
                assert server.peers[0].head == head + b"\r\n"
                assert server.peers[0].body == b"".join(pieces)
            else:
                with pytest.raises(httpx.LocalProtocolError) as caught:
                    await call
                check_clean(caught.value)
            assert flight.left is left
        assert len(server.peers) == 1


@everywhere
async def test_httpx_client_works_over_it() -> None:
    async with Server() as server, httpx.AsyncClient(transport=PoolTransport()) as client:
        for method in ("GET", "POST", "DELETE"):
            response = await client.request(method, server.url("/hello"), timeout=5)
            assert (response.text, response.reason_phrase) == ("/hello", "OK")
        async with client.stream("GET", server.url("/hello")) as response:
            assert [part async for part in response.aiter_bytes()] == [b"/hello"]
        assert len(server.peers) == 1


@everywhere
async def test_bodies_of_every_kind() -> None:
    async def later() -> AsyncIterator[bytes]:
        for piece in (b"", b"one", b"", b"two"):
            await asyncio.sleep(0)
            yield piece

    class Later(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return later()

    class Empty(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in list[bytes]():
                yield piece

    big = [bytes([n]) * 200_000 for n in range(5)]
    async with Server() as server, PoolTransport() as transport:
        for body, length, sent in (
            (Lazy([b"", b"one", b"", b"two"]), 6, b"onetwo"),
            (Lazy([b"", b"one", b"", b"two"]), None, b"onetwo"),
            (Later(), 6, b"onetwo"),
            (Later(), None, b"onetwo"),
            (Lazy([]), 0, b""),
            (Lazy([]), None, b""),
            (Empty(), None, b""),
            (Lazy(big), 1_000_000, b"".join(big)),
            (Lazy(big), None, b"".join(big)),
        ):
            flight = Flight()
            request = lazy_request(server, body, length, **{"aisolution.flight": flight})
            assert (await transport.handle_async_request(request)).status_code == 200
            peer = server.peers[-1]
            assert (peer.body == sent, flight.left) == (True, True)
            chunked = length is None and sent != b""
            assert (b"transfer-encoding: chunked" in peer.head.lower()) is chunked
        given_by_httpx = await ask(transport, server, content=iter([b"x", b"y"]))
        assert given_by_httpx.status_code == 200
        assert (server.peers[0].body, server.peers[0].head.count(b"chunked")) == (b"xy", 1)
        # Explicitly chunked, and empty.
        assert (await ask(transport, server, content=iter([]))).status_code == 200
        assert len(server.peers) == 1


@everywhere
async def test_a_head_or_body_that_would_mean_something_else_is_not_sent() -> None:
    kind = httpx.LocalProtocolError
    async with Server() as server, PoolTransport(max_connections=1) as transport:
        await ask(transport, server)
        for headers in (
            {"X": f"a\r\nY: {SECRET}"},
            {"X\n": "a"},
            {"X": "a\rb"},
            {"Content-Length": "-1"},
            {"Content-Length": "3", "Transfer-Encoding": "chunked"},
            {"Content-Length": "2"},  # the body is three bytes
        ):
            await fails(kind, False, transport, server, headers=headers)
        await fails(kind, False, transport, server, content=b"", headers={"Content-Length": "3"})
        assert len(server.peers) == 1
        for pieces in ([SECRET.encode()], [SECRET.encode(), b"b" * 90]):
            flight = Flight()
            request = lazy_request(server, Lazy(pieces), 100 - 1, **{"aisolution.flight": flight})
            with pytest.raises(kind) as caught:
                await transport.handle_async_request(request)
            assert flight.left is True
            check_clean(caught.value)
        assert (await ask(transport, server, "/after")).text == "/after"
        assert len(server.peers) == 3


@everywhere
async def test_a_body_that_raises() -> None:
    async with Server() as server, PoolTransport(max_connections=1) as transport:
        await ask(transport, server)
        for fails_at, left, connections in ((0, False, 1), (1, True, 2)):
            flight = Flight()
            body = Lazy([b"a", b"b"], fails_at=fails_at)
            with pytest.raises(KeyError):
                await transport.handle_async_request(lazy_request(server, body, 2, **{"aisolution.flight": flight}))
            assert flight.left is left
            assert (await ask(transport, server, "/after")).text == "/after"
            assert len(server.peers) == connections


@everywhere
async def test_only_http_with_a_host() -> None:
    async with PoolTransport() as transport:
        await fails(httpx.UnsupportedProtocol, False, transport, f"ftp://h/?{SECRET}")
        await fails(httpx.UnsupportedProtocol, False, transport, f"http:///?{SECRET}")


LONG = b"x" * 70_000
LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
TWO = b"Content-Length: 2\r\n\r\nok"
UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
PROTOCOL = httpx.RemoteProtocolError
OVER = "more than 100000 bytes"

ANSWERS: list[tuple[str, bytes, str, int, bytes, bool]] = [
    # what, the answer, what the server does then, status, body, whether the connection serves again
    ("length", OK, "stay", 200, b"ok", True),
    ("no reason phrase", b"HTTP/1.1 200\r\n" + TWO, "stay", 200, b"ok", True),
    ("empty value", LINE + b"Empty:\r\n" + TWO, "stay", 200, b"ok", True),
    ("long body", LINE + b"Content-Length: 70000\r\n\r\n" + LONG, "stay", 200, LONG, True),
    ("close", LINE + b"Connection: close\r\n" + TWO, "close", 200, b"ok", False),
    ("close, but stays", LINE + b"Connection: close\r\n" + TWO, "stay", 200, b"ok", False),
    ("to the end", LINE + b"\r\nok", "close", 200, b"ok", False),
    ("to the end, empty", LINE + b"\r\n", "close", 200, b"", False),
    ("1.0", b"HTTP/1.0 200 OK\r\n\r\nok", "close", 200, b"ok", False),
    ("1.0 kept", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + TWO, "stay", 200, b"ok", True),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", "stay", 204, b"", True),
    ("304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "stay", 304, b"", True),
    ("chunked", CHUNKED + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n", "stay", 200, b"ok", True),
    ("trailers", CHUNKED + b"2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n", "stay", 200, b"ok", True),
    ("100", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, "stay", 200, b"ok", True),
    ("many 1xx", b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n" * 16 + OK, "stay", 200, b"ok", True),
    ("100 that closes", b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + OK, "stay", 200, b"ok", True),
    ("1.0 100", b"HTTP/1.0 100 Continue\r\n\r\n" + OK, "stay", 200, b"ok", True),
    ("redirect", b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "stay", 302, b"", True),
    ("error", b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", "stay", 503, b"no", True),
    ("odd status", b"HTTP/1.1 999 Odd\r\n" + TWO, "stay", 999, b"ok", True),
    ("another answer behind", OK + OK, "stay", 200, b"ok", False),
    ("garbage behind", OK + b"garbage", "stay", 200, b"ok", False),
    ("a body where none may be", b"HTTP/1.1 204 No Content\r\n" + TWO, "stay", 204, b"", False),
    ("reset behind", OK, "reset", 200, b"ok", False),
    ("upgrade offered", LINE + UPGRADE + TWO, "stay", 200, b"ok", True),
    ("gzip", LINE + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"ok"), "close", 200, b"ok", False),
]  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case[0])
@everywhere
async def test_what_servers_do(case: Any) -> None:
    _, answer, then, status, body, again = case
    async with Server(saying(answer, then)) as server, PoolTransport() as transport:
        for _ in range(2):
            response = await ask(transport, server, read=5)
            assert (response.status_code, response.content) == (status, body)
            assert "x-late" not in response.headers
            assert "x-early" not in response.headers
            await turns(5 if then == "stay" else 20)
        assert len(server.peers) == (1 if again else 2)
        assert transport._slots == len(transport._connections) <= 1


BAD: list[tuple[str, bytes, str, type[httpx.TransportError], str]] = [
    # what, the answer, what the server does then, the error, what it says
    ("nothing", b"", "close", PROTOCOL, "without answering"),
    ("nothing, reset", b"", "reset", httpx.ReadError, "lost"),
    ("half a head", OK[:20], "close", PROTOCOL, "without answering"),
    ("half a head, reset", OK[:20], "reset", httpx.ReadError, "lost"),
    ("half a body", OK[:-1], "close", PROTOCOL, "within"),
    ("half a body, reset", OK[:-1], "reset", httpx.ReadError, "lost"),
    ("half a chunk", CHUNKED + b"5\r\nab", "close", PROTOCOL, "within"),
    ("no last chunk", CHUNKED + b"2\r\nab\r\n", "close", PROTOCOL, "within"),
    ("reset to the end", LINE + b"\r\nab", "reset", httpx.ReadError, "lost"),
    ("bad chunk", CHUNKED + b"zz\r\n", "stay", PROTOCOL, "unreadable"),
    ("another coding", LINE + b"Transfer-Encoding: gzip\r\n\r\nab", "close", PROTOCOL, "within"),
    ("length and chunked", LINE + b"Transfer-Encoding: chunked\r\n" + TWO, "stay", PROTOCOL, "unreadable"),
    ("two lengths", LINE + b"Content-Length: 2\r\n" + TWO, "stay", PROTOCOL, "unreadable"),
    ("no HTTP", b"SSH-2.0-OpenSSH\r\n", "stay", PROTOCOL, "unreadable"),
    ("TLS alert", b"\x15\x03\x01\x00\x02\x02F", "stay", PROTOCOL, "unreadable"),
    ("HTTP/2", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "stay", PROTOCOL, "version"),
    ("status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", "stay", PROTOCOL, "unreadable"),
    ("status 099", b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", "stay", PROTOCOL, "status 99"),
    ("101", b"HTTP/1.1 101 Go\r\n\r\n", "stay", PROTOCOL, "status 101"),
    ("101 upgrade", b"HTTP/1.1 101 Go\r\n" + UPGRADE + b"\r\nfoo", "stay", PROTOCOL, "status 101"),
    ("100 for ever", b"HTTP/1.1 100 Go\r\n\r\n" * 17 + OK, "stay", PROTOCOL, "interim"),
    ("only 100", b"HTTP/1.1 100 Go\r\n\r\n", "close", PROTOCOL, "without answering"),
    ("long header", LINE + b"A: " + LONG, "stay", PROTOCOL, "head"),
    ("many headers", LINE + b"A: b\r\n" * 12_000, "stay", PROTOCOL, "head"),
    ("long head, then body", LINE + b"A: " + LONG + b"\r\n" + TWO, "stay", PROTOCOL, "head"),
    ("long trailers", CHUNKED + b"2\r\nok\r\n0\r\nA: " + LONG * 6, "stay", PROTOCOL, "trailers"),
    ("long chunk extension", CHUNKED + b"2;" + LONG, "stay", PROTOCOL, "trailers"),
    ("over the cap", LINE + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000, "stay", PROTOCOL, OVER),
    ("over the cap, chunked", CHUNKED + 11 * (b"2710\r\n" + b"x" * 10_000 + b"\r\n"), "stay", PROTOCOL, OVER),
    ("over the cap, to the end", LINE + b"\r\n" + b"x" * 100_001, "close", PROTOCOL, OVER),
    ("bomb", LINE + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(LONG * 3), "close", PROTOCOL, f"{OVER}, decoded"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[0])
@everywhere
async def test_what_servers_should_not_do(case: Any) -> None:
    _, answer, then, kind, says = case
    async with Server(saying(answer, then)) as server, PoolTransport(max_connections=1, max_body=100_000) as transport:
        for calls in (1, 2):
            assert says in await fails(kind, True, transport, server, read=5)
            await turns(5)
            assert len(server.peers) == calls  # a new connection each time, and one request on each
            assert not transport._connections
            assert transport._slots == 0


@everywhere
async def test_the_cap_itself_is_allowed() -> None:
    body = b"x" * 1000
    packed = zlib.compress(body)
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + body
    coded = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    for answer in (plain, coded):
        async with Server(saying(answer)) as server, PoolTransport(max_body=1000) as transport:
            response = await ask(transport, server)
            assert response.content == body
    assert response.headers["content-encoding"] == "deflate"


@everywhere
async def test_head_has_no_body_whatever_its_head_says() -> None:
    for answer in (OK, OK[:-2], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        async with Server(saying(answer)) as server, PoolTransport() as transport:
            for _ in range(2):
                response = await ask(transport, server, method="HEAD", content=None)
                assert (response.status_code, response.content) == (200, b"")
            assert len(server.peers) == 2


def test_content_codings() -> None:
    bare = zlib.compressobj(wbits=-15)
    raw = bare.compress(b"hello") + bare.flush()
    packed = gzip.compress(b"hello")
    for body, codings in (
        (packed, [b"gzip"]),
        (packed, [b" X-GZip , identity"]),
        (zlib.compress(b"hello"), [b"deflate"]),
        (raw, [b"deflate"]),
        (gzip.compress(zlib.compress(b"hello")), [b"deflate, gzip"]),
        (gzip.compress(zlib.compress(b"hello")), [b"deflate", b"gzip"]),
        (b"hello", [b""]),
    ):
        assert decode_body(body, codings, 20) == b"hello"
    assert decode_body(gzip.compress(b""), [b"gzip, gzip"], 20) == b""
    for body, codings, says in (
        (packed[:-1], [b"gzip"], "cut short"),
        (b"hello", [b"gzip"], "damaged"),
        (b"hello", [b"br"], "other than"),
        (gzip.compress(b"x" * 21), [b"gzip"], "more than 20"),
        (gzip.compress(gzip.compress(b"x" * 10**6)), [b"gzip, gzip"], "more than 20"),
    ):
        with pytest.raises(httpx.RemoteProtocolError, match=says) as caught:
            decode_body(body, codings, 20)
        check_clean(caught.value)


# Cut anywhere, and hostile.

CUT = [
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nTrail: er\r\n\r\n",
]


@everywhere
async def test_an_answer_cut_in_two_at_every_byte() -> None:
    cuts = [(answer, at) for answer in CUT for at in range(1, len(answer))]
    queue = iter(cuts)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            answer, at = next(queue)
            await peer.send(answer[:at])
            await turns(2)
            await peer.send(answer[at:])

    async with Server(script) as server, PoolTransport() as transport:
        for _ in cuts:
            assert (await ask(transport, server)).content == b"hello"
        assert len(server.peers) == 1


@everywhere
async def test_an_answer_cut_off_at_every_byte_is_never_taken_for_whole() -> None:
    for answer in CUT:
        numbers = itertools.count()

        async def script(peer: Peer, answer: bytes = answer, numbers: Iterator[int] = numbers) -> None:
            await peer.request()
            await peer.send(answer[: next(numbers)])

        async with Server(script) as server, PoolTransport() as transport:
            for _ in range(len(answer)):
                await fails(httpx.RemoteProtocolError, True, transport, server)
            assert (await ask(transport, server)).content == b"hello"


class _Wire(asyncio.Transport):
    """A transport that takes everything and says nothing."""

    aborted = False

    def write(self, data: Any) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def bare_connection(loop: asyncio.AbstractEventLoop, max_body: int = 1000) -> Connection:
    conn = Connection(
        ("http", "h", 80), Reuse(4.0), loop=loop, max_body=max_body, gone=lambda _: None, strange=lambda _: None
    )
    conn.connection_made(_Wire())
    conn.begin(headless=False, read_timeout=math.inf, deadline=math.inf)
    return conn


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Go\r\n\r\n", b"HTTP/1.1 413 No\r\n",
                b"Content-Length: 2\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: -1\r\n",
                b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Content-Encoding: gzip\r\n",
                b"Keep-Alive: timeout=0\r\n", b"\r\n", b"\r\n\r\n", b"ok", b"2\r\nok\r\n", b"0\r\n\r\n", b"\n", b"\x00",
                b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b" folded: x\r\n", b"ffffffff\r\n",
                b"HTTP/1.1 204 No\r\n\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=8,
).map(b"".join)  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(answer=HOSTILE, size=st.integers(1, 40), reset=st.booleans())
def test_hostile_answers_end_in_a_response_or_an_error(answer: bytes, size: int, reset: bool) -> None:
    loop = asyncio.new_event_loop()
    try:
        conn = bare_connection(loop)
        for start in range(0, len(answer), size):
            conn.data_received(answer[start : start + size])
        if not reset:
            conn.eof_received()
        conn.connection_lost(ConnectionResetError() if reset else None)
        assert conn.done is not (conn.error is not None)
        assert not conn.usable()
        if conn.error is not None:
            assert isinstance(conn.error, httpx.RemoteProtocolError | httpx.ReadError)
    finally:
        loop.close()


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_hostile_servers_never_answer_another_call(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    hostile = [b""]

    async def script(peer: Peer) -> None:
        while True:
            path = await peer.request()
            if path == b"/hostile":
                await peer.send(hostile[0])
                if not hostile[0].startswith(b"HTTP/1.1 2"):
                    return
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    with asyncio.Runner(loop_factory=factory) as runner:

        async def start() -> tuple[Server, PoolTransport]:
            return await Server(script).__aenter__(), PoolTransport(max_connections=1)

        server, transport = runner.run(start())
        ids = itertools.count()

        async def one() -> None:
            flight = Flight()
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout):
                await ask(transport, server, "/hostile", flight=flight, read=0.01)
            assert flight.left is True
            if not hostile[0].startswith(b"HTTP/1.1 2"):
                # A close that crosses the next request would fail that one, and rightly.
                await server.until(lambda: server.open == 0)
                await turns(5)
            mine = f"/{next(ids)}"
            assert (await ask(transport, server, mine, read=5)).text == mine

        @settings(max_examples=150, deadline=None, derandomize=True, database=None)
        @given(answer=HOSTILE)
        def fuzz(answer: bytes) -> None:
            hostile[0] = answer
            runner.run(one())

        fuzz()

        async def stop() -> None:
            await transport.aclose()
            await server.__aexit__()

        runner.run(stop())


# The pool.


@everywhere
async def test_one_connection_serves_one_call_after_another_and_the_newest_goes_first() -> None:
    async with Server() as server, PoolTransport() as transport:
        await asyncio.gather(*[ask(transport, server) for _ in range(3)])
        assert len(server.peers) == 3
        newest = next(iter(transport._idle.values()))
        last = list(newest)[-1]
        for _ in range(5):
            await ask(transport, server)
            assert list(newest)[-1] is last
        assert len(server.peers) == 3


@everywhere
async def test_calls_wait_in_line_and_go_in_order() -> None:
    order: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            order.append(await peer.request())
            await peer.send(OK)

    async with Server(script) as server, PoolTransport(max_connections=2) as transport:
        await asyncio.gather(*[ask(transport, server, f"/{n}") for n in range(20)])
        assert order[2:] == [b"/%d" % n for n in range(2, 20)]
        assert server.most == 2


@everywhere
async def test_an_origin_gives_way_to_another() -> None:
    async with Server() as one, Server() as two, PoolTransport(max_connections=1) as transport:
        for server in (one, two, one):  # the idle connection is closed for the other
            assert (await ask(transport, server, "/a")).text == "/a"
        assert (len(one.peers), len(two.peers)) == (2, 1)
        calls = [ask(transport, server, f"/{n}") for n in range(4) for server in (one, two)]
        answers = await asyncio.gather(*calls)
        assert [a.text for a in answers] == [f"/{n}" for n in range(4) for _ in "ab"]
        assert one.open + two.open <= 2  # one may not have noticed yet
        assert transport._slots == 1


@virtually
async def test_idle_connections_expire_by_themselves() -> None:
    async with Server() as server, PoolTransport(idle_expiry=4) as transport:
        await asyncio.gather(ask(transport, server), ask(transport, server))
        await asyncio.sleep(3.9)
        assert len(transport._connections) == 2
        await asyncio.sleep(0.2)
        await server.until(lambda: server.open == 0)
        assert (transport._slots, transport._timer) == (0, None)
        await ask(transport, server)
        assert len(server.peers) == 3


@virtually
async def test_idle_time_counts_from_the_last_use() -> None:
    async with Server() as server, PoolTransport(idle_expiry=4) as transport:
        for _ in range(5):
            await ask(transport, server, read=30)
            await asyncio.sleep(3)
        assert len(server.peers) == 1


@virtually
async def test_an_idle_connection_past_its_time_is_not_used_even_if_the_timer_is_late() -> None:
    async with Server() as server, PoolTransport(idle_expiry=4) as transport:
        await ask(transport, server)
        assert transport._timer is not None
        transport._timer.cancel()
        await asyncio.sleep(4.1)
        await ask(transport, server)
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("promise", "kept", "gone"),
    [("timeout=5, max=100", 3.9, 4.1), ("Timeout = 2", 0.9, 1.1), ("timeout=1", 0.4, 0.6), ("max=9", 9.9, 10.1)],
)
@virtually
async def test_a_servers_own_keep_alive_is_beaten(promise: str, kept: float, gone: float) -> None:
    answer = b"HTTP/1.1 200 OK\r\nKeep-Alive: %b\r\nContent-Length: 2\r\n\r\nok" % promise.encode()
    async with Server(saying(answer)) as server, PoolTransport(idle_expiry=10) as transport:
        await ask(transport, server)
        await asyncio.sleep(kept)
        assert len(transport._connections) == 1
        await asyncio.sleep(gone - kept)
        await turns(3)
        assert not transport._connections


@everywhere
async def test_a_connection_without_a_future_is_not_kept() -> None:
    for answer, expiry in (
        (NO_FUTURE, 4.0),
        (OK, 0.0),
    ):
        async with Server(saying(answer)) as server, PoolTransport(idle_expiry=expiry) as transport:
            await ask(transport, server)
            await server.until(lambda server=server: server.open == 0)  # type: ignore[misc]
    async with Server(saying(NO_FUTURE)) as server, PoolTransport(max_connections=1) as transport:
        await asyncio.gather(*[ask(transport, server) for _ in range(3)])  # nor handed to the next in line
        assert len(server.peers) == 3


@everywhere
async def test_a_connection_closed_while_idle_is_noticed_and_replaced() -> None:
    leave = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await leave.wait()
        if peer.number == 1:
            peer.reset()

    async with Server(script) as server, PoolTransport() as transport:
        for calls in (1, 2, 3):
            leave.clear()
            assert (await ask(transport, server)).text == "ok"
            assert len(server.peers) == calls
            leave.set()
            await server.until(lambda: server.open == 0)
            await turns(5)
            assert not transport._connections


@everywhere
async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    speak = asyncio.Event()

    async def script(peer: Peer) -> None:
        path = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
        await speak.wait()
        await peer.send(b"HTTP/1.1 408 Timeout\r\nContent-Length: 4\r\n\r\nlate")
        await peer.reader.read()

    async with Server(script) as server, PoolTransport(idle_expiry=1000) as transport:
        assert (await ask(transport, server, "/1")).text == "/1"
        speak.set()
        await server.until(lambda: server.open == 0)
        assert (await ask(transport, server, "/2")).text == "/2"


@everywhere
async def test_a_connection_known_to_be_closing_is_replaced_before_anything_is_sent() -> None:
    async with Server() as server, PoolTransport() as transport:
        await ask(transport, server)
        (conn,) = transport._connections
        assert conn._transport is not None
        conn._transport.abort()  # as the loop does at a reset: `connection_lost` comes a turn later
        assert (await ask(transport, server, "/x")).text == "/x"
        assert len(server.peers) == 2


@everywhere
async def test_bytes_on_a_reused_connection_are_never_sent_again() -> None:
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        requests.append(await peer.request())
        await peer.send(OK)
        requests.append(await peer.request())

    async with Server(script) as server, PoolTransport() as transport:
        await ask(transport, server, "/1")
        says = await fails(httpx.RemoteProtocolError, True, transport, server, "/2")
        assert "without answering" in says
        assert requests == [b"/1", b"/2"]


@everywhere
async def test_a_connection_that_dies_on_its_way_to_a_waiting_call_is_replaced() -> None:
    order: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            order.append(await peer.request())
            await peer.send(OK)

    async with Server(script) as server, PoolTransport(max_connections=1) as transport:
        await ask(transport, server, "/1")
        (conn,) = transport._connections
        assert transport._take_idle(conn.origin, 0) is conn
        second = asyncio.ensure_future(ask(transport, server, "/2"))
        third = asyncio.ensure_future(ask(transport, server, "/3"))
        await turns(2)
        transport._release(conn)
        conn.drop()
        await asyncio.gather(second, third)
        assert order == [b"/1", b"/2", b"/3"]  # its turn had come, and is not lost
        assert len(server.peers) == 2
        assert transport._slots == 1


@everywhere
async def test_a_call_whose_connection_died_takes_an_idle_one() -> None:
    async with Server() as server, PoolTransport(max_connections=2) as transport:
        await asyncio.gather(ask(transport, server), ask(transport, server))
        origin = next(iter(transport._connections)).origin
        dying, idle = transport._take_idle(origin, 0), transport._take_idle(origin, 0)
        assert dying is not None
        assert idle is not None
        call = asyncio.ensure_future(ask(transport, server, "/x"))
        await turns(2)
        transport._release(dying)
        transport._release(idle)
        dying.drop()
        assert (await call).text == "/x"
        assert len(server.peers) == 2


@everywhere
async def test_many_calls_over_few_connections() -> None:
    async with Server() as server, PoolTransport(max_connections=10) as transport:
        answers = await asyncio.gather(*[ask(transport, server, f"/{n}") for n in range(500)])
        assert [a.text for a in answers] == [f"/{n}" for n in range(500)]
        assert server.most <= 10


def test_options_are_checked() -> None:
    loose = ssl.create_default_context()
    loose.check_hostname = False
    looser = ssl.create_default_context()
    looser.check_hostname = False
    looser.verify_mode = ssl.CERT_NONE
    bad: list[dict[str, Any]] = [
        {"max_connections": 0}, {"idle_expiry": -1}, {"max_body": -1}, {"ssl_context": loose}, {"ssl_context": looser},
    ]  # fmt: skip
    for options in bad:
        with pytest.raises(ValueError, match="must"):
            PoolTransport(**options)


# Early answers and backpressure.

PIECE = 256 * 1024


@pytest.mark.parametrize("then", ["close", "reset"])
@everywhere
async def test_an_early_answer_stops_the_sending_and_reaches_the_caller(then: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if then == "reset":
            await turns(1)
            peer.reset()  # unread bytes in its receive buffer: what a careless server does

    async with Server(script) as server, PoolTransport() as transport:
        for _ in range(20):
            body = Lazy([b"x" * PIECE] * 40)
            flight = Flight()
            request = lazy_request(server, body, 40 * PIECE, **{"aisolution.flight": flight})
            if then == "close":
                response = await transport.handle_async_request(request)
            else:
                # A reset destroys what had not arrived; what had must be found.
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.WriteError, httpx.ReadError):
                    assert flight.left is True
                    continue
            assert (response.status_code, response.text) == (413, "big")
            assert body.made < 40
            await turns(5)
            assert not transport._connections


@everywhere
async def test_an_error_status_stops_the_sending_before_its_body_is_there() -> None:
    stalled, halted = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await stalled.wait()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\n")
        await halted.wait()
        await peer.send(b"big")
        await peer.reader.read()

    async with Server(script) as server, PoolTransport() as transport:
        body = Lazy([b"x" * PIECE] * 100)
        call = asyncio.ensure_future(transport.handle_async_request(lazy_request(server, body, 100 * PIECE)))
        made = -1
        while made != body.made or not body.made or not all(conn.paused for conn in transport._connections):
            made = body.made
            await asyncio.sleep(0.02)
        (conn,) = transport._connections
        assert conn.writing
        stalled.set()
        while conn.status != 413:
            await asyncio.sleep(0.001)
        await turns(3)
        assert not conn.writing
        halted.set()
        assert (await call).text == "big"
        assert body.made == made < 100


@everywhere
async def test_an_early_success_is_taken_when_it_is_whole() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(OK)
        await peer.reader.read()

    async with Server(script) as server, PoolTransport() as transport:
        response = await transport.handle_async_request(lazy_request(server, Lazy([b"x" * PIECE] * 40), 40 * PIECE))
        assert response.text == "ok"
        await turns(5)
        assert not transport._connections  # half a request is on it


@everywhere
async def test_an_answer_found_in_the_socket_after_a_failed_send() -> None:
    """As when the server refuses, closes and resets between two turns of the loop."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        for sent, closed, kind in (
            (b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno", False, None),
            (b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\n", False, httpx.WriteError),
            (b"HTTP/1.1 413 No\r\n\r\nno", True, httpx.WriteError),  # whole or not, nobody can tell
        ):
            conn = bare_connection(asyncio.get_running_loop())
            conn.sock = ours
            conn.writing = True
            theirs.sendall(sent)
            if closed:
                theirs.close()
            conn.connection_lost(BrokenPipeError(32, "Broken pipe"))
            if kind is None:
                assert (conn.done, conn.error, conn.status, b"".join(conn.body)) == (True, None, 413, b"no")
            else:
                assert type(conn.error) is kind
                assert "Broken pipe" in str(conn.error)


@everywhere
async def test_a_connection_reset_while_sending() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await turns(3)
        peer.reset()

    async with Server(script) as server, PoolTransport() as transport:
        flight = Flight()
        request = lazy_request(server, Lazy([b"x" * PIECE] * 100), 100 * PIECE, **{"aisolution.flight": flight})
        with pytest.raises(httpx.WriteError) as caught:
            await transport.handle_async_request(request)
        assert flight.left is True
        check_clean(caught.value)


@virtually
async def test_a_body_is_made_as_fast_as_the_server_reads_and_no_faster() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await go.wait()
        await peer.request()
        await peer.send(OK)

    class Narrow(PoolTransport):
        async def _open(self, conn: Connection) -> None:
            await super()._open(conn)
            assert conn.sock is not None
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    async with Server(script) as server, Narrow() as transport:
        body = Lazy([bytes([n]) * PIECE for n in range(60)])
        call = asyncio.ensure_future(
            transport.handle_async_request(lazy_request(server, body, 60 * PIECE, timeout={"write": 5.0}))
        )
        await asyncio.sleep(1)
        (conn,) = transport._connections
        assert conn._transport is not None
        assert conn._transport.get_write_buffer_size() <= PIECE + 200
        assert body.made <= 20  # what the kernel's buffers hold, and one piece
        go.set()
        assert (await call).text == "ok"
        assert server.peers[0].body == b"".join(body.pieces)
        go.clear()
        body = Lazy([b"x" * PIECE] * 60)
        flight = Flight()
        extensions = {"timeout": {"write": 5.0}, "aisolution.flight": flight}
        with pytest.raises(httpx.WriteTimeout) as caught:
            await transport.handle_async_request(lazy_request(server, body, 60 * PIECE, **extensions))
        assert flight.left is True
        check_clean(caught.value)


# Time.


@virtually
async def test_read_timeout_is_for_silence_not_for_length() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in OK:
            await peer.send(bytes([byte]))
            await asyncio.sleep(2)

    loop = asyncio.get_running_loop()
    async with Server(script) as server, PoolTransport() as transport:
        began = loop.time()
        assert (await ask(transport, server, read=3)).text == "ok"
        assert loop.time() - began > 60
        began = loop.time()
        assert "timed out" in await fails(httpx.ReadTimeout, True, transport, server, read=1)
        assert loop.time() - began == pytest.approx(1, abs=0.1)
        began = loop.time()
        says = await fails(httpx.ReadTimeout, True, transport, server, read=3, flight=Flight(began + 10))
        assert "deadline" in says
        assert loop.time() - began == pytest.approx(10, abs=0.1)
        await turns(3)
        assert not transport._connections


@virtually
async def test_short_timeouts_are_not_held_up_by_long_ones() -> None:
    loop = asyncio.get_running_loop()
    async with Server(silent) as server, PoolTransport() as transport:
        calls = [
            asyncio.ensure_future(fails(httpx.ReadTimeout, True, transport, server, read=read))
            for read in (60.0, 30.0, 0.02, 5.0, 5.01)
        ]
        ended: dict[int, float] = {}
        began = loop.time()
        for number, call in enumerate(calls):
            call.add_done_callback(lambda _, number=number: ended.__setitem__(number, loop.time() - began))  # type: ignore[misc]
        await asyncio.gather(*calls)
        assert ended == pytest.approx({0: 60, 1: 30, 2: 0.02, 3: 5, 4: 5.01}, abs=0.06)
        assert transport._timer is None


@virtually
async def test_a_call_with_no_timeout_waits() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(100_000)
        await peer.send(OK)

    async with Server(script) as server, PoolTransport() as transport:
        assert (await ask(transport, server, read=None)).text == "ok"


@virtually
async def test_pool_timeout_and_deadline_in_line() -> None:
    async with Server(silent) as server, PoolTransport(max_connections=1) as transport:
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(ask(transport, server, flight=Flight()))
        await server.until(lambda: bool(server.peers))
        began = loop.time()
        await fails(httpx.PoolTimeout, False, transport, server, pool=2)
        assert loop.time() - began == pytest.approx(2, abs=0.1)
        await fails(httpx.PoolTimeout, False, transport, server, pool=2, flight=Flight(loop.time() + 1))
        assert loop.time() - began == pytest.approx(3, abs=0.1)
        assert not transport._line
        began = loop.time()
        later = asyncio.ensure_future(fails(httpx.PoolTimeout, False, transport, server, pool=6))
        await fails(httpx.PoolTimeout, False, transport, server, pool=2)
        await later
        assert loop.time() - began == pytest.approx(6, abs=0.1)
        first.cancel()
        await fails(httpx.PoolTimeout, False, transport, server, flight=Flight(loop.time()))


@virtually
async def test_a_deadline_that_passes_while_the_body_is_made() -> None:
    class Slow(httpx.AsyncByteStream):
        def __init__(self, *pieces: bytes) -> None:
            self.pieces = pieces

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self.pieces:
                yield piece
            await asyncio.sleep(60)
            yield b"late"

    class Stops(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            raise TimeoutError("of the caller's own")
            yield b""

    loop = asyncio.get_running_loop()
    async with Server() as server, PoolTransport() as transport:
        for body, kind, left in (
            (Slow(), httpx.PoolTimeout, False),
            (Slow(b"abcd"), httpx.WriteTimeout, True),
            (Stops(), TimeoutError, False),
        ):
            flight = Flight(loop.time() + 5)
            with pytest.raises(kind) as caught:
                await transport.handle_async_request(lazy_request(server, body, 8, **{"aisolution.flight": flight}))
            assert type(caught.value) is kind
            assert flight.left is left
        # A slow producer is no stalled network.
        request = lazy_request(server, Slow(b"abcd"), 8, timeout={"write": 1.0})
        assert (await transport.handle_async_request(request)).status_code == 200
        # The connection fails while the body is still being made.
        call = asyncio.ensure_future(transport.handle_async_request(lazy_request(server, Slow(b"abcd"), 8)))
        await asyncio.sleep(1)
        (conn,) = [conn for conn in transport._connections if conn.busy]
        server.peers[-1].reset()
        with pytest.raises(httpx.WriteError):
            await call
        assert conn.lost


@virtually
async def test_a_deadline_that_passes_while_a_piece_is_encoded_leaves_the_connection_clean() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, InstantLoop)

    class Heavy(Lazy):
        def __iter__(self) -> Iterator[bytes]:
            assert isinstance(loop, InstantLoop)
            loop.advance(3)
            yield b"a=1"

    async with Server() as server, PoolTransport() as transport:
        await ask(transport, server)
        flight = Flight(loop.time() + 2)
        with pytest.raises(httpx.PoolTimeout):
            await transport.handle_async_request(lazy_request(server, Heavy([]), 3, **{"aisolution.flight": flight}))
        assert flight.left is False
        assert (await ask(transport, server)).status_code == 200
        assert len(server.peers) == 1


# Connecting.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def served(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    def make(*names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    return make


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@everywhere
async def test_tls(served: Any, trusting: ssl.SSLContext) -> None:
    names: list[str | None] = []
    context = served("localhost", "127.0.0.1")
    context.sni_callback = lambda _, name, __: names.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    protocols: list[str | None] = []

    async def script(peer: Peer) -> None:
        protocols.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await echo(peer)

    before = sockets()
    async with Server(script, context=context) as server:
        async with PoolTransport(ssl_context=trusting) as transport:
            answers = await asyncio.gather(*[ask(transport, server, f"/{n}") for n in range(5)])
            assert [a.text for a in answers] == [f"/{n}" for n in range(5)]
            pieces = [bytes([n]) * PIECE for n in range(12)]
            request = lazy_request(server, Lazy(pieces), 12 * PIECE)
            assert (await transport.handle_async_request(request)).status_code == 200
            assert any(peer.body == b"".join(pieces) for peer in server.peers)
            assert (await ask(transport, f"https://localhost:{server.port}/n")).text == "/n"
            assert len(server.peers) == 6
            assert names == [None] * 5 + ["localhost"]
            assert protocols == ["http/1.1"] * 6
        await server.until(lambda: server.open == 0)
    await turns(5)
    assert sockets() == before


@everywhere
async def test_tls_refuses_what_it_cannot_trust(served: Any, trusting: ssl.SSLContext) -> None:
    def hush(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The server's side of a refused handshake is not what is tested."""

    asyncio.get_running_loop().set_exception_handler(hush)
    async with Server(context=served("example.org")) as server, PoolTransport(ssl_context=trusting) as transport:
        assert "not valid for" in await fails(httpx.ConnectError, False, transport, server)
        assert transport._slots == 0
    async with Server(context=served("127.0.0.1")) as server, PoolTransport() as transport:
        assert "certificate verify failed" in await fails(httpx.ConnectError, False, transport, server)

    async def no_tls(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Server(no_tls) as server, PoolTransport(ssl_context=trusting) as transport:
        await fails(httpx.ConnectError, False, transport, server.url(scheme="https"))


@everywhere
async def test_tls_answers_that_end_early(served: Any, trusting: ssl.SSLContext) -> None:
    context = served("127.0.0.1")
    for answer, then, kind in (
        (b"", "close", httpx.RemoteProtocolError),
        (OK[:-1], "close", httpx.RemoteProtocolError),
        (b"", "reset", httpx.ReadError),
    ):
        script = saying(answer, then)
        async with Server(script, context=context) as server, PoolTransport(ssl_context=trusting) as transport:
            for _ in range(2):
                flight = Flight()
                with pytest.raises((kind, httpx.RemoteProtocolError)):
                    await ask(transport, server, flight=flight)
                assert flight.left is True
    script = saying(b"HTTP/1.1 200 OK\r\n\r\nto the end", "close")
    async with Server(script, context=context) as server, PoolTransport(ssl_context=trusting) as transport:
        assert (await ask(transport, server)).text == "to the end"


@everywhere
async def test_tls_early_answer(served: Any, trusting: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.reader.read()

    async with Server(script, context=served("127.0.0.1")) as server, PoolTransport(ssl_context=trusting) as transport:
        body = Lazy([b"x" * PIECE] * 40)
        response = await transport.handle_async_request(lazy_request(server, body, 40 * PIECE))
        assert (response.status_code, response.text) == (413, "big")
        assert body.made < 40


@everywhere
async def test_trust_is_loaded_once_and_off_the_loop(
    served: Any, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    loaded: list[bool] = []

    def load() -> ssl.SSLContext:
        loaded.append(threading.current_thread() is threading.main_thread())
        return default_ssl_context()

    monkeypatch.setattr(transport_module, "default_ssl_context", load)
    context = served("127.0.0.1")
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with Server(context=context) as server, PoolTransport() as transport:
        assert loaded == []
        await asyncio.gather(*[ask(transport, server) for _ in range(5)])
        assert loaded == [False]
        for peer in server.peers:
            assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


def test_default_ssl_context_trusts_as_the_environment_says(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    usual = default_ssl_context()
    assert len(usual.get_ca_certs()) > 50
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert default_ssl_context().get_ca_certs() == []  # looked up by hash when needed
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert len(default_ssl_context().get_ca_certs()) == 1
    for context in (usual, default_ssl_context()):
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED


@everywhere
async def test_a_refused_connection_costs_nothing() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with PoolTransport(max_connections=1) as transport:
            for _ in range(3):
                says = await fails(httpx.ConnectError, False, transport, f"http://127.0.0.1:{port}/?{SECRET}")
                assert f"127.0.0.1:{port}" in says
            assert transport._slots == 0
            await fails(httpx.ConnectError, False, transport, f"http://{'a' * 64}.invalid/?{SECRET}")


@virtually
async def test_connect_timeout_covers_the_handshake(served: Any, trusting: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    before = sockets()
    async with Server(silent) as server:
        async with PoolTransport(ssl_context=trusting, max_connections=1) as transport:
            began = loop.time()
            await fails(httpx.ConnectTimeout, False, transport, server.url(scheme="https"), connect=3)
            assert loop.time() - began == pytest.approx(3, abs=0.1)
            flight = Flight(loop.time() + 2)
            await fails(httpx.ConnectTimeout, False, transport, server.url(scheme="https"), connect=3, flight=flight)
            assert loop.time() - began == pytest.approx(5, abs=0.1)
            assert transport._slots == 0
        await server.until(lambda: server.open == 0)
    await turns(5)
    assert sockets() == before


@on("asyncio")
async def test_a_name_is_asked_for_once_by_those_who_want_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        if flags & socket.AI_NUMERICHOST:
            return real(host, port, family, type, proto, flags)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with Server() as server, PoolTransport() as transport:
        url = f"http://pretend.example:{server.port}/x"
        calls = [asyncio.ensure_future(ask(transport, url)) for _ in range(20)]
        await turns(2)
        calls[0].cancel()  # the one who asked
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [a.text for a in answers if isinstance(a, httpx.Response)] == ["/x"] * 19
        assert asked == ["pretend.example"]
        assert transport._shared == {}


@everywhere
async def test_real_names_are_found() -> None:
    async with Server() as server, PoolTransport() as transport:
        assert (await ask(transport, f"http://localhost:{server.port}/x")).text == "/x"


@everywhere
async def test_the_next_address_is_tried_when_one_refuses() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        refusing = reserved.getsockname()

        class Several(PoolTransport):
            async def _addresses(self, host: str, port: int) -> Any:
                kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
                answering = [(socket.AF_INET, *kind, (host, port))] if port else []
                return [(socket.AF_INET, *kind, refusing), (socket.AF_INET, *kind, refusing), *answering]

        async with Server() as server, Several() as transport:
            assert (await ask(transport, server, "/x")).text == "/x"
            _ = await fails(httpx.ConnectError, False, transport, f"http://127.0.0.1:{refusing[1]}/")


@virtually
async def test_happy_eyeballs(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    log: list[tuple[float, str]] = []
    made: list[socket.socket] = []
    began = loop.time()
    six, four = socket.AF_INET6, socket.AF_INET
    plan: dict[str, tuple[float, bool]] = {}

    async def attempt(_: object, address: Any) -> socket.socket:
        name = address[4][0]
        log.append((round(loop.time() - began, 2), name))
        after, connects = plan[name]
        await asyncio.sleep(after)
        if not connects:
            raise ConnectionRefusedError(name)
        made.append(socket.socket())
        return made[-1]

    monkeypatch.setattr(dial_module, "_attempt", attempt)

    def addresses(*names: str) -> list[Any]:
        return [(six if n.startswith("s") else four, socket.SOCK_STREAM, 6, "", (n, 1)) for n in names]

    # Families take turns; a quarter of a second apart; the first to connect wins and the others are stopped.
    plan |= {"s1": (9, True), "s2": (9, True), "f1": (0.4, True)}
    with await dial_module.dial(loop, addresses("s1", "s2", "f1")) as winner:
        assert log == [(0, "s1"), (0.25, "f1"), (0.5, "s2")]
        assert made == [winner]
    # A refusal brings the next at once, and two that connect together leave one.
    log.clear()
    made.clear()
    began = loop.time()
    plan |= {"s1": (0, False), "s2": (0.25, True), "f1": (0.5, True)}
    with await dial_module.dial(loop, addresses("s1", "s2", "f1")) as winner:
        assert log == [(0, "s1"), (0, "f1"), (0.25, "s2")]
        assert len(made) == 2
        assert [sock.fileno() == -1 for sock in made if sock is not winner] == [True]
    # All refuse.
    plan |= {"s2": (0, False), "f1": (0, False)}
    with pytest.raises(ConnectionRefusedError):
        await dial_module.dial(loop, addresses("s1", "s2", "f1"))
    with pytest.raises(OSError, match="no address"):
        await dial_module.dial(loop, [])
    # Cancelled half-way.
    made.clear()
    plan |= {"s1": (5, True), "f1": (5, True)}
    task = asyncio.ensure_future(dial_module.dial(loop, addresses("s1", "f1")))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(10)
    assert made == []


@everywhere
async def test_a_socket_is_closed_when_connecting_is_cancelled() -> None:
    before = sockets()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    address = listening.getsockname()
    with listening, contextlib.ExitStack() as fillers:
        for _ in range(4):  # until the queue is full and connecting hangs
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        held = sockets()
        async with PoolTransport(max_connections=1) as transport:
            for _ in range(3):
                flight = Flight()
                call = asyncio.ensure_future(ask(transport, f"http://127.0.0.1:{address[1]}/", flight=flight))
                await asyncio.sleep(0.005)
                assert sockets() == held + 1
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert flight.left is False
                assert sockets() == held
                assert transport._slots == 0
            await fails(httpx.ConnectTimeout, False, transport, f"http://127.0.0.1:{address[1]}/", connect=0.01)
    assert sockets() == before


@everywhere
async def test_a_connection_made_after_it_was_given_up_is_closed() -> None:
    loop = asyncio.get_running_loop()
    conn = Connection(("http", "h", 80), Reuse(4.0), loop=loop, max_body=1, gone=lambda _: None, strange=lambda _: None)
    conn.drop()
    wire = _Wire()
    conn.connection_made(wire)
    assert wire.aborted


# Cancellation.


@everywhere
async def test_cancelled_with_an_answer_outstanding() -> None:
    async with Server(silent) as server, PoolTransport(max_connections=1) as transport:
        for _ in range(3):
            flight = Flight()
            call = asyncio.ensure_future(ask(transport, server, flight=flight))
            while not flight.left:
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.until(lambda: server.open == 0)
            assert transport._slots == 0


@everywhere
async def test_cancelled_in_line() -> None:
    async with Server(silent) as server, PoolTransport(max_connections=1) as transport:
        first = asyncio.ensure_future(ask(transport, server))
        await server.until(lambda: bool(server.peers))
        flights = [Flight() for _ in range(4)]
        line = [asyncio.ensure_future(ask(transport, server, f"/{n}", flight=f)) for n, f in enumerate(flights)]
        await turns(2)
        assert len(transport._line) == 4
        line[1].cancel()
        await turns(2)
        assert len(transport._line) == 3
        # One is cancelled in the same turn as the slot comes free: the next in line must get it.
        server.script = echo
        line[0].cancel()
        first.cancel()
        assert [(await call).text for call in line[2:]] == ["/2", "/3"]
        assert [flight.left for flight in flights] == [False, False, True, True]


@pytest.mark.parametrize("what", ["connection", "slot"])
@everywhere
async def test_cancelled_as_its_turn_comes(what: str) -> None:
    async with Server() as server, PoolTransport(max_connections=1) as transport:
        await ask(transport, server)
        (conn,) = transport._connections
        taken = transport._take_idle(conn.origin, 0)
        assert taken is conn
        flight = Flight()
        second = asyncio.ensure_future(ask(transport, server, "/2", flight=flight))
        third = asyncio.ensure_future(ask(transport, server, "/3"))
        await turns(2)
        if what == "connection":
            transport._release(conn)
        else:
            transport._give_up(conn)
        second.cancel()  # its future has its result
        with pytest.raises(asyncio.CancelledError):
            await second
        assert flight.left is False
        assert (await third).text == "/3"
        assert transport._slots == 1


@everywhere
async def test_cancelled_as_its_error_comes() -> None:
    async with Server(silent) as server:
        transport = PoolTransport(max_connections=1)
        first = asyncio.ensure_future(ask(transport, server))
        await server.until(lambda: bool(server.peers))
        second = asyncio.ensure_future(ask(transport, server))
        await turns(2)
        closing = asyncio.ensure_future(transport.aclose())
        await asyncio.sleep(0)
        second.cancel()
        await closing
        assert isinstance((await asyncio.gather(first, second, return_exceptions=True))[1], BaseException)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@everywhere
async def test_cancelled_at_random_thousands_of_times(tls: bool, served: Any, trusting: ssl.SSLContext) -> None:
    calls = 1_500 if tls else 10_000
    dice = random.Random(7)

    async def script(peer: Peer) -> None:
        while True:
            path = await peer.request()
            await turns(dice.randrange(3))
            if dice.random() < 0.02:
                return
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path)
            at = dice.randrange(len(answer))
            peer.writer.write(answer[:at])
            await turns(dice.randrange(2))
            await peer.send(answer[at:])

    context = served("127.0.0.1") if tls else None
    if tls:  # the server's side of a broken handshake is not what is tested
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    before = sockets()
    async with Server(script, context=context) as server:
        transport = PoolTransport(max_connections=10, ssl_context=trusting)
        outcomes = {"answered": 0, "cancelled": 0, "failed": 0}
        truly = {True: 0, False: 0}

        async def one(number: int) -> None:
            flight = Flight()
            body = b"x" * dice.choice((3, 3, 3, 300_000))
            try:
                response = await ask(transport, server, f"/{number}", flight=flight, content=body)
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            except httpx.TransportError as exc:
                truly[
                    flight.left is not isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                ] += 1
                outcomes["failed"] += 1
            else:
                assert response.text == f"/{number}"
                assert flight.left is True
                outcomes["answered"] += 1

        running: list[asyncio.Task[None]] = []
        for number in range(calls):
            running.append(asyncio.ensure_future(one(number)))
            if len(running) > 25:
                await turns(dice.randrange(4))
                victim = running.pop(dice.randrange(len(running)))
                victim.cancel()
        for task in running:
            task.cancel()
        for ended in await asyncio.gather(*running, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)  # cancelled before its first step
        await turns(10)
        assert sum(outcomes.values()) > calls * 0.9
        assert outcomes["cancelled"] > calls / 20
        assert truly[False] == 0
        assert not transport._line
        assert transport._slots == len(transport._connections) <= 10
        assert not any(conn.busy for conn in transport._connections)

        server.script = echo
        await server.until(lambda: True)
        for conn in list(transport._connections):  # the old script runs on those
            conn.drop()
        numbers = range(1_000 if not tls else 200)
        answers = await asyncio.gather(*[ask(transport, server, f"/again/{n}") for n in numbers])
        assert [a.text for a in answers] == [f"/again/{n}" for n in numbers]
        await transport.aclose()
        assert (transport._slots, transport._connections) == (0, set())
        await server.until(lambda: server.open == 0)
    await turns(10)
    assert sockets() == before


# Closing.


@everywhere
async def test_closing_ends_everything_and_waits_for_it(trusting: ssl.SSLContext) -> None:
    before = sockets()
    async with Server() as server, Server(silent) as mute:
        own = sockets()
        transport = PoolTransport(max_connections=5, ssl_context=trusting)
        await asyncio.gather(ask(transport, server), ask(transport, server))
        flights = [Flight() for _ in range(5)]
        body = Lazy([b"x" * PIECE] * 100)
        request = lazy_request(mute, body, 100 * PIECE, **{"aisolution.flight": flights[1]})
        calls = [
            asyncio.ensure_future(ask(transport, mute, flight=flights[0])),
            asyncio.ensure_future(transport.handle_async_request(request)),
            asyncio.ensure_future(ask(transport, mute.url(scheme="https"), flight=flights[2])),
            asyncio.ensure_future(ask(transport, mute, flight=flights[3])),
            asyncio.ensure_future(ask(transport, mute, flight=flights[4])),
        ]
        mute.script = silent
        while not (flights[0].left and flights[1].left and flights[3].left) or len(mute.peers) < 4:
            await asyncio.sleep(0.001)
        assert len(transport._line) + len(transport._connections) >= 5
        await asyncio.gather(transport.aclose(), transport.aclose())
        assert not transport._connections
        await turns(30)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(e) for e in ended] == [
            httpx.ReadError, httpx.WriteError, httpx.ConnectError, httpx.ReadError, ended[4].__class__,
        ]  # fmt: skip
        for error, flight in zip(ended, flights, strict=True):
            assert isinstance(error, httpx.TransportError)
            assert "closed" in str(error)
            assert flight.left is not isinstance(error, httpx.ConnectError)
            check_clean(error)
        await server.until(lambda: server.open == 0)
        await mute.until(lambda: mute.open == 0)
        await turns(5)
        assert sockets() == own
        await transport.aclose()
        assert await fails(RuntimeError, False, transport, server) == "the transport is closed"
    await turns(5)
    assert sockets() == before


@everywhere
async def test_closing_waits_for_the_sockets(
    served: Any, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours: set[str] = set()
    real = dial_module.dial

    async def dial(*args: Any) -> socket.socket:
        sock = await real(*args)
        ours.add(str(Path(f"/proc/self/fd/{sock.fileno()}").readlink()))
        return sock

    monkeypatch.setattr(transport_module, "dial", dial)
    async with Server() as idle, Server(silent) as mute, Server(context=served("127.0.0.1")) as secure:
        for busy in (idle, mute, secure, mute.url(scheme="https")):  # idle, waiting, idle, shaking hands
            ours.clear()
            transport = PoolTransport(ssl_context=trusting)
            call = asyncio.ensure_future(ask(transport, busy))
            while not ours:
                await asyncio.sleep(0.001)
            assert ours <= open_sockets()
            await transport.aclose()
            assert not ours & open_sockets()
            await asyncio.gather(call, return_exceptions=True)
        transport = PoolTransport(ssl_context=trusting)
        call = asyncio.ensure_future(ask(transport, mute.url(scheme="https")))
        await asyncio.sleep(0.03)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await transport.aclose()
        assert not ours & open_sockets()


@everywhere
async def test_closing_with_calls_in_line() -> None:
    async with Server(silent) as server:
        transport = PoolTransport(max_connections=1)
        line = [asyncio.ensure_future(fails(httpx.ConnectError, False, transport, server)) for _ in range(3)]
        first = asyncio.ensure_future(fails(httpx.ReadError, True, transport, server))
        line.insert(0, first)
        # The first task made is the one with the connection.
        line = [line[1], line[0], *line[2:]]
        await server.until(lambda: bool(server.peers))
        for task in line:
            task.cancel()
        await asyncio.gather(*line, return_exceptions=True)
        holder = asyncio.ensure_future(ask(transport, server))
        await server.until(lambda: len(server.peers) == 2)
        flights = [Flight() for _ in range(3)]
        waiting = [asyncio.ensure_future(ask(transport, server, flight=flight)) for flight in flights]
        await turns(2)
        await transport.aclose()
        ended = await asyncio.gather(holder, *waiting, return_exceptions=True)
        assert [type(e) for e in ended] == [httpx.ReadError] + [httpx.ConnectError] * 3
        assert [flight.left for flight in flights] == [False] * 3


@pytest.mark.parametrize("what", ["connection", "slot"])
@everywhere
async def test_closing_as_a_calls_turn_comes(what: str) -> None:
    async with Server() as server:
        transport = PoolTransport(max_connections=1)
        await ask(transport, server)
        (conn,) = transport._connections
        assert transport._take_idle(conn.origin, 0) is conn
        call = asyncio.ensure_future(fails(httpx.ConnectError, False, transport, server))
        await turns(2)
        if what == "connection":
            transport._release(conn)
        else:
            transport._give_up(conn)
        await transport.aclose()
        assert "closed" in await call


@on("asyncio")
async def test_closing_while_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = threading.Event()

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        if args[-1] != socket.AI_NUMERICHOST:
            found.wait(5)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    transport = PoolTransport()
    call = asyncio.ensure_future(fails(httpx.ConnectError, False, transport, f"http://pretend.example/?{SECRET}"))
    await turns(3)
    closing = [asyncio.ensure_future(transport.aclose()) for _ in range(2)]
    await asyncio.gather(*closing)
    assert "closed" in await call
    assert transport._shared == {}
    found.set()


@everywhere
async def test_closing_while_a_body_is_awaited() -> None:
    more = asyncio.Event()

    class Later(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await more.wait()
            yield b"a=1"

    async with Server() as server:
        transport = PoolTransport()
        await ask(transport, server)
        flight = Flight()
        request = lazy_request(server, Later(), 3, **{"aisolution.flight": flight})
        call = asyncio.ensure_future(transport.handle_async_request(request))
        await turns(3)
        await transport.aclose()
        more.set()
        with pytest.raises(httpx.ConnectError, match="closed"):
            await call
        assert flight.left is False


# What the server has closed, or said unasked.


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


@pytest.mark.parametrize("how", ["closed", "reset", "spoke"])
@everywhere
async def test_an_idle_connection_is_looked_at_before_it_is_used(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with Taken() as server:
        async with PoolTransport() as transport:

            async def end_it_and_ask() -> httpx.Response:
                """Without a turn of the loop in between."""
                for peer in server.peers[-1:]:
                    if how == "spoke":
                        peer.send(OK)
                    elif how == "reset":
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if how != "spoke":
                        peer.close()
                return await ask(transport, server.url)

            for number in range(3):
                call = asyncio.ensure_future(end_it_and_ask())
                await server.request(number)
                server.peers[number].send(OK)
                assert (await call).text == "ok"
            server.peers[-1].close()
            while transport._connections:
                await asyncio.sleep(0.001)
    assert len([r for r in caplog.records if "nobody asked for" in r.getMessage()]) == (how == "spoke")


@pytest.mark.parametrize("spoke", [False, True], ids=["closed", "spoke"])
@everywhere
async def test_a_connection_handed_on_is_looked_at_when_it_is_taken(spoke: bool) -> None:
    with Taken() as server:

        class Pool(PoolTransport):
            def _release(self, conn: Connection, keep: float | None = None) -> None:
                super()._release(conn, keep)  # to the call in line, whose turn is the next
                if spoke:
                    server.peers[-1].send(OK)
                else:
                    server.peers[-1].close()

        async with Pool(max_connections=1) as transport:
            flights = [Flight() for _ in range(3)]
            calls = [asyncio.ensure_future(ask(transport, server.url, flight=flight)) for flight in flights]
            for number in range(3):
                await server.request(number)
                assert [flight.left for flight in flights].count(True) == number + 1
                server.peers[number].send(OK)
            assert [answer.text for answer in await asyncio.gather(*calls)] == ["ok"] * 3


@everywhere
async def test_tls_connections_are_looked_at_too_and_fresh_ones_are_not(served: Any, trusting: ssl.SSLContext) -> None:
    """A fresh connection has the server's session tickets unread."""
    async with (
        Server(context=served("127.0.0.1")) as server,
        PoolTransport(ssl_context=trusting, max_connections=2) as transport,
    ):
        await asyncio.gather(*[ask(transport, server) for _ in range(60)])
        for _ in range(20):
            await ask(transport, server)
        assert len(server.peers) == 2
        for peer in server.peers:
            sock = peer.writer.get_extra_info("socket")
            with socket.socket(fileno=os.dup(sock.fileno())) as same:
                same.shutdown(socket.SHUT_WR)
        assert (await ask(transport, server, "/x")).text == "/x"  # before the loop has seen the end
        assert len(server.peers) == 3


@pytest.mark.parametrize("handed_on", [False, True])
@virtually
async def test_a_connection_with_something_unread_that_says_nothing_is_closed(
    handed_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a session ticket that comes late."""
    async with Server() as server, PoolTransport(max_connections=1, idle_expiry=1000) as transport:
        await ask(transport, server)
        monkeypatch.setattr(Connection, "is_quiet", lambda conn: False)
        if handed_on:
            await asyncio.gather(*[ask(transport, server) for _ in range(2)])
        else:
            await ask(transport, server)
        assert len(server.peers) == 2 + handed_on
        assert transport._slots == 1


@everywhere
async def test_a_platform_without_poll_looks_with_select(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    with Taken() as server:
        async with PoolTransport() as transport:
            for number in range(2):
                call = asyncio.ensure_future(ask(transport, server.url))
                await server.request(number)
                server.peers[number].send(OK)
                assert (await call).text == "ok"
                server.peers[number].close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
@everywhere
async def test_an_origin_that_says_more_than_it_was_asked_is_not_trusted_again(
    tls: bool, joined: bool, served: Any, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if joined and peer.number == 0:
                await peer.send(OK + OK)
            else:
                await peer.send(OK)
                if peer.number == 0:
                    await turns(5)
                    await peer.send(OK)

    context = served("127.0.0.1") if tls else None
    async with Server(script, context=context) as server, Server() as other:
        async with PoolTransport(ssl_context=trusting) as transport:
            await asyncio.gather(ask(transport, server), ask(transport, other))
            await server.until(lambda: server.open == 0)
            for _ in range(3):
                assert (await ask(transport, server)).text == "ok"
                assert (await ask(transport, other)).text
            assert [len(server.peers), len(other.peers)] == [4, 1]  # for good, and only there
            # Those in line have their turns.
            await asyncio.gather(*[ask(transport, server) for _ in range(200)])
            assert len(server.peers) == 204
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "nobody asked for" in said[0].getMessage()
    assert SECRET not in said[0].getMessage()


@pytest.mark.parametrize(
    "unasked",
    [
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate",
        b"HTTP/1.0 408 Request Time-out\r\nCache-Control: no-cache\r\nContent-Type: text/html\r\n\r\n<h1>408</h1>\n",
        b"HTTP/1.1 408 Request Timeout\nconnection:close\n\n",
    ],
)
@everywhere
async def test_an_idle_connection_that_timed_out_says_nothing_of_its_origin(unasked: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 0:
            await turns(5)
            await peer.send(unasked)
        else:
            await echo(peer)

    async with Server(script) as server, PoolTransport(idle_expiry=1000) as transport:
        await ask(transport, server)
        await server.until(lambda: server.open == 0)
        for _ in range(3):
            await ask(transport, server)
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    "unasked",
    [
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" + OK,
        OK + b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_what_else_comes_unasked_is_strange(unasked: bytes) -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        conn = bare_connection(loop)
        heard: list[object] = []
        conn._strange = heard.append
        conn.end()
        conn.data_received(unasked)
        assert heard == [conn.origin]


@pytest.mark.parametrize("delay", [0.0005, 0.001, 0.004])
@virtually
async def test_a_server_one_answer_behind_is_found_as_its_connection_rests(delay: float) -> None:
    async def script(peer: Peer) -> None:
        for served in itertools.count(1):
            path = await peer.request()
            await asyncio.sleep(0.005)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path)
            await peer.send(answer)
            if served % 10 == 0:  # the next request is here by then
                await asyncio.sleep(delay)
                await peer.send(answer)

    async with Server(script) as server, PoolTransport(max_connections=3) as transport:
        paths = [f"/{n}" for n in range(100)]
        wrong = sum([(await ask(transport, server, path)).text != path for path in paths])
        assert 0 < wrong < 10
        assert [reuse.distrusted for reuse in transport._reuse.values()] == [True]


@pytest.mark.parametrize("connections", [1, 2])
@everywhere
async def test_calls_wait_for_a_connection_that_rests(connections: int) -> None:
    async with Server() as server, PoolTransport(max_connections=connections) as transport:
        paths = [f"/{n}" for n in range(40)]
        answers = await asyncio.gather(*[ask(transport, server, path, pool=20.0) for path in paths])
        assert [answer.text for answer in answers] == paths
        assert len(server.peers) == connections
        for path in paths:
            assert (await ask(transport, server, path, pool=20.0)).text == path
        assert len(server.peers) == connections


@virtually
async def test_a_call_does_not_wait_where_another_connection_may_be_made_while_one_rests() -> None:
    async with Server() as server, PoolTransport() as transport:
        await ask(transport, server)
        await ask(transport, server)
        assert len(server.peers) == len(transport._resting) == 2
        await asyncio.sleep(0.1)
        assert not transport._resting
        await ask(transport, server)
        assert len(server.peers) == 2
        await asyncio.sleep(3.99)  # the rest counts as idle time
        await server.until(lambda: server.open == 0)


@everywhere
async def test_a_connection_that_rests_ends_as_others_do() -> None:
    for how in ("closed by us", "closed by the server", "distrusted", "cancelled"):
        async with Server() as server:
            transport = PoolTransport(max_connections=1)
            await ask(transport, server)
            ((resting, (timer, _)),) = transport._resting.items()
            if how == "closed by the server":
                server.peers[0].writer.close()
            elif how == "distrusted":
                transport.distrust(resting.origin)
            elif how == "cancelled":
                call = asyncio.ensure_future(ask(transport, server))
                await turns(3)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert (await ask(transport, server, "/next")).text == "/next"
                assert len(server.peers) == 1
            if how in ("closed by the server", "distrusted"):
                await server.until(lambda: server.open == 0)
                assert (await ask(transport, server, "/next")).text == "/next"
                assert len(server.peers) == 2
            await transport.aclose()
            assert not transport._resting
            assert not transport._slots
            assert timer.cancelled() or timer.when() <= asyncio.get_running_loop().time() + 0.01  # it is over


@virtually
async def test_a_connection_kept_for_less_than_it_rests_is_closed() -> None:
    async with Server() as server, PoolTransport(idle_expiry=0.001) as transport:
        await ask(transport, server)
        await server.until(lambda: server.open == 0)
        assert not transport._resting


@everywhere
async def test_no_idle_connection_outlives_the_trust_in_its_origin() -> None:
    together = asyncio.Barrier(3)

    async def script(peer: Peer) -> None:
        await peer.request()
        await together.wait()
        if peer.number == 2:
            await turns(20)  # the others are idle by then
        await peer.send(OK + OK if peer.number == 2 else OK)
        await peer.reader.read()

    async with Server(script) as server, PoolTransport(idle_expiry=1000) as transport:
        await asyncio.gather(*[ask(transport, server) for _ in range(3)])
        await server.until(lambda: server.open == 0)
        assert not transport._connections


@everywhere
async def test_extra_bytes_found_in_the_socket_after_a_failed_send_count_too() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        strange: list[object] = []
        conn = bare_connection(asyncio.get_running_loop())
        conn._strange = strange.append
        conn.sock = ours
        theirs.sendall(OK + OK)
        conn.connection_lost(BrokenPipeError(32, "Broken pipe"))
        assert conn.done
        assert not conn.reusable
        assert strange == [conn.origin]


# What is learned from requests that were lost.


@virtually
async def test_a_server_that_closes_early_is_learned_and_forgotten() -> None:
    hasty = True

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        while True:
            await peer.request()
            if hasty:
                return
            await peer.send(OK)

    async def lost(idle: float) -> bool:
        await asyncio.sleep(idle)
        try:
            await ask(transport, server)
        except httpx.RemoteProtocolError:
            return True
        return False

    async with Server(script) as server, PoolTransport() as transport:
        assert not await lost(0)
        assert await lost(2.0)
        assert not await lost(0)  # a connection of its own
        assert await lost(0.8)  # half of two seconds is one
        assert not await lost(0)
        assert not await lost(0.5)  # longer than four tenths
        assert await lost(0.0)  # then not at all
        for _ in range(100):
            assert not await lost(0.0)
        assert len(server.peers) == 104
        hasty = False
        # It comes back, at any pace.
        for _ in range(40):
            assert not await lost(3.5)
        made = len(server.peers)
        for _ in range(20):
            assert not await lost(3.5)
            assert not await lost(0.0)
        assert len(server.peers) == made


@virtually
async def test_a_server_that_never_keeps_connections_costs_a_request_a_trial() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    failures = 0
    async with Server(script) as server, PoolTransport(max_connections=5) as transport:
        for _ in range(600):
            for outcome in await asyncio.gather(*[ask(transport, server) for _ in range(10)], return_exceptions=True):
                failures += isinstance(outcome, httpx.RemoteProtocolError)
            await asyncio.sleep(1.0)
        assert failures <= 5 + 6  # those under way at first, and a trial after each rest, which doubles


@pytest.mark.parametrize("how", ["timeout", "partial", "fresh"])
@virtually
async def test_other_losses_teach_nothing(how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if how == "fresh" and peer.number == 1:
            return
        await peer.send(OK)
        await peer.request()
        if how == "partial" and peer.number == 0:
            await peer.send(OK[:5])
        elif how == "timeout" and peer.number == 0:
            await peer.reader.read()
        elif how == "fresh" and peer.number == 0:
            await peer.send(NO_FUTURE)
        else:
            while True:
                await peer.send(OK)
                await peer.request()

    async with Server(script) as server, PoolTransport() as transport:
        await ask(transport, server)
        if how == "fresh":
            await ask(transport, server)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadTimeout)):
            await ask(transport, server, read=3.0)
        made = len(server.peers)
        for _ in range(5):
            await ask(transport, server)
            await asyncio.sleep(0.1)
        assert len(server.peers) == made + 1


def test_how_reuse_comes_back() -> None:
    reuse = Reuse(4.0)
    assert reuse.longest(0.0) == math.inf
    reuse.lost(1.0, 100.0, trial=False)
    reuse.lost(3.0, 100.0, trial=False)
    assert reuse.limit == reuse.longest(109.9) == 0.5
    assert reuse.longest(110.0) == 1.0
    assert reuse.longest(120.0) == 2.0
    reuse.tried(110.0)
    assert reuse.longest(110.1) == 0.5  # one at a time
    reuse.lost(0.4, 110.2, trial=False)
    reuse.answered(0.9, 110.5)  # it says nothing of what was lost since
    assert reuse.limit == 0.2
    reuse.tried(130.0)
    reuse.answered(0.3, 130.1)
    assert reuse.limit == 0.6
    reuse.tried(130.2)
    reuse.lost(0.7, 130.3, trial=True)
    assert reuse.limit == 0.35
    assert reuse.longest(150.2) == 0.35  # a trial that failed makes the rest longer
    assert reuse.longest(150.4) > 0.6
    reuse.tried(151.0)
    reuse.answered(2.0, 151.0)
    assert reuse.limit == math.inf
    reuse.lost(0.001, 200.0, trial=False)
    assert reuse.limit == 0.0
    assert reuse.longest(10.0**9) < math.inf
    reuse.distrust()
    reuse.answered(0.0, 10.0**9)
    reuse.lost(1.0, 10.0**9, trial=True)
    assert reuse.longest(10.0**9) == 0.0


# Answers that are not ours, and a server that refuses the handshake.


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@everywhere
async def test_an_answer_that_came_before_the_request_was_out_says_so(
    early: bool, tls: bool, served: Any, trusting: ssl.SSLContext
) -> None:
    async def script(peer: Peer) -> None:
        if early:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(OK)
            await peer.reader.read()
        else:
            await saying(OK)(peer)

    context = served("127.0.0.1") if tls else None
    length = 40 * PIECE
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % length
    async with Server(script, context=context) as server, PoolTransport(ssl_context=trusting) as transport:
        origin = transport_module.origin_of(httpx.URL(server.url()))
        for reused in (False, True):
            answer = await transport.exchange(
                origin, head, Lazy([b"x" * PIECE] * 40), length, flight=Flight(), timeout={"read": 5.0}
            )
            assert (answer.status, answer.body, answer.early) == (200, b"ok", early)
            assert answer.reused is (reused and not early)


@pytest.mark.parametrize("how", ["closed", "reset"])
@everywhere
async def test_a_connection_that_is_ended_before_the_request_costs_nothing(how: str) -> None:
    with Taken() as server:

        class Pool(PoolTransport):
            async def _open(self, conn: Connection) -> None:
                await super()._open(conn)
                server.end(reset=how == "reset")

        async with Pool() as transport:
            await fails(httpx.ConnectError, False, transport, server.url)
            assert transport._slots == 0


class Guarded:
    """A TLS server in a thread that wants a client certificate: asyncio's own would close without the alert."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with sock, contextlib.suppress(OSError):
                if not sock.recv(1, socket.MSG_PEEK):
                    return
                # Its own descriptor, so that what follows a refused handshake is read, and the alert not reset away.
                with socket.socket(fileno=os.dup(sock.fileno())) as raw:
                    try:
                        with self._context.wrap_socket(sock, server_side=True) as peer:
                            while b"a=1" not in peer.recv(4096):
                                pass
                            peer.sendall(OK)
                    except ssl.SSLError:
                        raw.shutdown(socket.SHUT_WR)
                        while raw.recv(65536):
                            pass

    def __enter__(self) -> Guarded:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize("size", [3, 12 * PIECE], ids=["small", "large"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@everywhere
async def test_a_client_certificate_that_is_missing_costs_nothing(
    version: str, size: int, authority: trustme.CA, served: Any, trusting: ssl.SSLContext
) -> None:
    context = served("127.0.0.1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    alert = "certificate_required" if version == "TLSv1_3" else "handshake_failure"
    with Guarded(context) as server:
        async with PoolTransport(ssl_context=trusting) as transport:
            for _ in range(5):
                says = await fails(httpx.ConnectError, False, transport, server.url, content=b"x" * size, read=5.0)
                assert alert in says.lower()
        transport = PoolTransport(ssl_context=trusting)
        async with AsyncClient(SECRET, base_url=server.url, transport=transport, retry=0) as client:
            with pytest.raises(NotSentError, match=rf"(?i)no connection \(.*{alert}") as caught:
                await client.delete_face("c5r7jedkujdbnasarhn0")
            assert caught.value.charge is Charge.FREE
        # Through httpx's own transport nobody knows what was read, but why it ended is known.
        theirs = httpx.AsyncHTTPTransport(verify=trusting)
        async with AsyncClient(SECRET, base_url=server.url, transport=theirs, retry=0) as client:
            with pytest.raises((NotSentError, OutcomeUnknownError), match=rf"(?i){alert}"):
                await client.delete_face("c5r7jedkujdbnasarhn0")
        authority.issue_cert("client").configure_cert(trusting)
        async with PoolTransport(ssl_context=trusting) as transport:
            assert (await ask(transport, server.url)).text == "ok"


def test_which_ends_of_a_connection_are_refusals() -> None:
    def end(reason: str, *, requests: int = 1, received: bytes = b"") -> httpx.TransportError:
        loop = asyncio.new_event_loop()
        try:
            conn = bare_connection(loop)
            conn.requests = requests
            if received:
                conn.data_received(received)
            error = ssl.SSLError(1, f"[SSL: {reason}] said")
            error.reason = reason
            conn.connection_lost(error)
            assert conn.error is not None
            assert conn.refused is (type(conn.error) is httpx.ConnectError)
            return conn.error
        finally:
            loop.close()

    for name, number in (
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", 40),
        ("SSLV3_ALERT_BAD_CERTIFICATE", 42),
        ("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", 43),
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", 44),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", 45),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", 46),
        ("SSLV3_ALERT_ILLEGAL_PARAMETER", 47),
        ("TLSV1_ALERT_UNKNOWN_CA", 48),
        ("TLSV1_ALERT_ACCESS_DENIED", 49),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", 116),
    ):
        assert f"alert {number}, {name.partition('ALERT_')[2].lower()}" in str(end(name))
        assert type(end(name, requests=2)) is httpx.ReadError  # the server may have done its work
        assert type(end(name, received=OK[:9])) is httpx.ReadError
    for name in ("TLSV1_ALERT_INTERNAL_ERROR", "SSLV3_ALERT_BAD_RECORD_MAC", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC", ""):
        assert type(end(name)) is httpx.ReadError


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_first_request_that_was_reset_over_tls_hints_at_a_client_certificate(scheme: str) -> None:
    def end(exc: Exception, *, requests: int = 1, received: bytes = b"") -> str:
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            conn = bare_connection(loop)
            conn.origin = (scheme, "h", 443)
            conn.requests = requests
            if received:
                conn.data_received(received)
            conn.connection_lost(exc)
            assert type(conn.error) is httpx.ReadError
            return str(conn.error)

    hint = "; perhaps the server wants a client certificate"
    assert end(ConnectionResetError(errno.ECONNRESET, "reset")).endswith(hint) is (scheme == "https")
    assert hint not in end(ConnectionResetError(errno.ECONNRESET, "reset"), requests=2)
    assert hint not in end(ConnectionResetError(errno.ECONNRESET, "reset"), received=OK[:9])
    assert hint not in end(OSError(errno.ETIMEDOUT, "late"))


@everywhere
async def test_the_hint_at_a_client_certificate_reaches_the_user(served: Any, trusting: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with Server(script, context=served("127.0.0.1")) as server:
        transport = PoolTransport(ssl_context=trusting)
        async with AsyncClient(SECRET, base_url=server.url(), transport=transport, retry=0) as client:
            with pytest.raises(OutcomeUnknownError, match="perhaps the server wants a client certificate") as caught:
                await client.delete_face("c5r7jedkujdbnasarhn0")
            assert SECRET not in str(caught.value)


@everywhere
async def test_a_transport_never_used_closes() -> None:
    transport = PoolTransport()
    await transport.aclose()
    await transport.aclose()
    await fails(RuntimeError, False, transport, "http://127.0.0.1:1/")


def test_a_transport_belongs_to_one_loop() -> None:
    transport = PoolTransport()

    async def use() -> None:
        async with Server() as server:
            await ask(transport, server)
            await transport.aclose()

    asyncio.run(use())

    async def misuse() -> None:
        assert "another event loop" in await fails(RuntimeError, False, transport, "http://127.0.0.1:1/")
        with pytest.raises(RuntimeError, match="another event loop"):
            await transport.aclose()

    asyncio.run(misuse())


# Secrets.


@everywhere
async def test_the_flight_says_so_before_the_first_byte_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    flight = Flight()
    said: list[bool | None] = []
    write = Connection.write

    def spy(self: Connection, data: bytes) -> None:
        said.append(flight.left)
        write(self, data)

    monkeypatch.setattr(Connection, "write", spy)
    assert flight.left is None
    async with Server() as server, PoolTransport() as transport:
        await ask(transport, server, flight=flight)
    assert said == [True]


@everywhere
async def test_an_error_does_not_outlive_its_handling() -> None:
    """A cycle would keep the traceback, and the caller's request in it, until the collector comes by."""
    gc.disable()
    try:
        async with Server(saying(b"", "close")) as server, PoolTransport() as transport:
            for where in (server, "http://127.0.0.1:1/"):
                try:
                    await ask(transport, where)
                except httpx.TransportError as error:
                    gone = weakref.ref(error)
                await turns(5)
                assert gone() is None
    finally:
        gc.enable()


@everywhere
async def test_nothing_shows_a_request() -> None:
    async with Server(silent) as server, PoolTransport(max_connections=1) as transport:
        flight = Flight()
        call = asyncio.ensure_future(ask(transport, server, flight=flight, content=SECRET.encode()))
        while not flight.left:
            await asyncio.sleep(0)
        (conn,) = transport._connections
        for thing in (transport, conn, flight):
            assert SECRET not in repr(thing)
        # And the connection holds none of it.
        assert SECRET not in repr(vars(conn))
        call.cancel()


def test_only_httpx_and_the_standard_library_are_needed() -> None:
    for module in (connection_module, dial_module, transport_module):
        needed = {
            value.__name__.split(".")[0]
            for name, value in vars(module).items()
            if isinstance(value, types.ModuleType) and name[0] != "@"  # pytest's own, for its assertions
        }
        assert needed <= {"httpx", "httptools", "certifi", *sys.stdlib_module_names}
    assert MAX_HEAD == 64 * 1024


@pytest.mark.parametrize("uv", [False, True])
def test_a_connect_timeout_that_is_heard_of_late_loses_no_place(uv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop closes such a connection without a word: it must not be handed out as usable."""
    made = connection_module.Connection.connection_made
    slow = [True, True]

    def late(self: Any, transport: Any) -> None:
        made(self, transport)
        if slow:
            slow.pop()
            time.sleep(0.3)

    monkeypatch.setattr(connection_module.Connection, "connection_made", late)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        transport = transport_module.PoolTransport(max_connections=2)
        extensions = {"timeout": {"connect": 0.2, "pool": 5, "read": 5, "write": 5}}
        codes = []
        for _ in range(6):
            request = httpx.Request("GET", url, extensions=dict(extensions))
            with contextlib.suppress(httpx.ConnectTimeout):
                codes.append((await transport.handle_async_request(request)).status_code)
        assert len(codes) >= 4
        assert set(codes) == {200}
        await asyncio.wait_for(transport.aclose(), 10)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        runner.run(run())


async def test_a_server_that_speaks_first_and_closes_keeps_nobody_waiting() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = transport_module.PoolTransport(max_connections=2)

    async def ask() -> object:
        try:
            return (await transport.handle_async_request(httpx.Request("GET", url))).status_code
        except httpx.TransportError as exc:
            return type(exc)

    async with asyncio.timeout(20):
        await asyncio.gather(*(ask() for _ in range(20)))
        await transport.aclose()
    server.close()
