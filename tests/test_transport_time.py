"""The pool of connections: timeouts and deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import uvloop

from aisolution_async.integrations.instant import InstantLoop
from aisolution_async.wire import connection as connection_module
from aisolution_async.wire.transport import Flight, TooLate

from .support import LAST_RESORT
from .wires import OK, Lazy, Peer, Pool, Server, ask, fails, lazy_request, silent, turns, virtually

pytestmark = pytest.mark.usefixtures("restless")


@virtually
async def test_read_timeout_is_for_silence_not_for_length() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in OK:
            await peer.send(bytes([byte]))
            await asyncio.sleep(2)

    loop = asyncio.get_running_loop()
    async with Server(script) as server, Pool() as transport:
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
        assert not transport.connections


@virtually
async def test_short_timeouts_are_not_held_up_by_long_ones() -> None:
    loop = asyncio.get_running_loop()
    async with Server(silent) as server, Pool() as transport:
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
        assert transport.timer is None


@virtually
async def test_a_call_with_no_timeout_waits() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(100_000)
        await peer.send(OK)

    async with Server(script) as server, Pool() as transport:
        assert (await ask(transport, server, read=None)).text == "ok"


@virtually
async def test_pool_timeout_and_deadline_in_line() -> None:
    async with Server(silent) as server, Pool(max_connections=1) as transport:
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(ask(transport, server, flight=Flight()))
        await server.until(lambda: bool(server.peers))
        began = loop.time()
        await fails(httpx.PoolTimeout, False, transport, server, pool=2)
        assert loop.time() - began == pytest.approx(2, abs=0.1)
        await fails(httpx.PoolTimeout, False, transport, server, pool=2, flight=Flight(loop.time() + 1))
        assert loop.time() - began == pytest.approx(3, abs=0.1)
        assert not transport.line
        began = loop.time()
        later = asyncio.ensure_future(fails(httpx.PoolTimeout, False, transport, server, pool=6))
        await fails(httpx.PoolTimeout, False, transport, server, pool=2)
        await later
        assert loop.time() - began == pytest.approx(6, abs=0.1)
        first.cancel()
        await fails(TooLate, False, transport, server, flight=Flight(loop.time()))


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
    async with Server() as server, Pool() as transport:
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
        (conn,) = [conn for conn in transport.connections if conn.busy]
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

    async with Server() as server, Pool() as transport:
        await ask(transport, server)
        flight = Flight(loop.time() + 2)
        with pytest.raises(httpx.PoolTimeout):
            await transport.handle_async_request(lazy_request(server, Heavy([]), 3, **{"aisolution.flight": flight}))
        assert flight.left is False
        assert (await ask(transport, server)).status_code == 200
        assert len(server.peers) == 1


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
        transport = Pool(max_connections=2)
        extensions = {"timeout": {"connect": 0.2, "pool": LAST_RESORT, "read": LAST_RESORT, "write": LAST_RESORT}}
        codes: list[int] = []
        while len(codes) < 4:  # a busy machine may be late once more than it is told to
            request = httpx.Request("GET", url, extensions=dict(extensions))
            with contextlib.suppress(httpx.ConnectTimeout):
                codes.append((await transport.handle_async_request(request)).status_code)
        assert slow != [True, True]
        assert set(codes) == {200}
        await asyncio.wait_for(transport.aclose(), LAST_RESORT)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        runner.run(run())
