"""The pool of connections: how it is closed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async.wire import dial as dial_module
from aisolution_async.wire import transport as transport_module
from aisolution_async.wire.transport import Flight

from .support import LAST_RESORT
from .wires import (
    PIECE,
    SECRET,
    Lazy,
    Pool,
    Server,
    ask,
    check_clean,
    everywhere,
    fails,
    lazy_request,
    on,
    open_sockets,
    silent,
    sockets,
    turns,
)

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_closing_ends_everything_and_waits_for_it(client_tls: ssl.SSLContext) -> None:
    before = sockets()
    async with Server() as server, Server(silent) as mute:
        own = sockets()
        transport = Pool(max_connections=5, ssl_context=client_tls)
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
        assert len(transport.line) + len(transport.connections) >= 5
        await asyncio.gather(transport.aclose(), transport.aclose())
        assert not transport.connections
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
    server_tls: Any, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours: set[str] = set()
    real = dial_module.dial

    async def dial(*args: Any) -> socket.socket:
        sock = await real(*args)
        ours.add(str(Path(f"/proc/self/fd/{sock.fileno()}").readlink()))
        return sock

    monkeypatch.setattr(transport_module, "dial", dial)
    async with Server() as idle, Server(silent) as mute, Server(context=server_tls("127.0.0.1")) as secure:
        for busy in (idle, mute, secure, mute.url(scheme="https")):  # idle, waiting, idle, shaking hands
            ours.clear()
            transport = Pool(ssl_context=client_tls)
            call = asyncio.ensure_future(ask(transport, busy))
            while not ours:
                await asyncio.sleep(0.001)
            assert ours <= open_sockets()
            await transport.aclose()
            assert not ours & open_sockets()
            await asyncio.gather(call, return_exceptions=True)
        transport = Pool(ssl_context=client_tls)
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
        transport = Pool(max_connections=1)
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
        transport = Pool(max_connections=1)
        await ask(transport, server)
        (conn,) = transport.connections
        assert transport.take_idle(conn.origin, 0) is conn
        call = asyncio.ensure_future(fails(httpx.ConnectError, False, transport, server))
        await turns(2)
        if what == "connection":
            transport.release(conn)
        else:
            transport.give_up(conn)
        await transport.aclose()
        assert "closed" in await call


@on("asyncio")
async def test_closing_while_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = threading.Event()

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        if args[-1] != socket.AI_NUMERICHOST:
            found.wait(LAST_RESORT)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    transport = Pool()
    call = asyncio.ensure_future(fails(httpx.ConnectError, False, transport, f"http://pretend.example/?{SECRET}"))
    await turns(3)
    closing = [asyncio.ensure_future(transport.aclose()) for _ in range(2)]
    await asyncio.gather(*closing)
    assert "closed" in await call
    assert transport.looked_up == {}
    found.set()


@everywhere
async def test_closing_while_a_body_is_awaited() -> None:
    more = asyncio.Event()

    class Later(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await more.wait()
            yield b"a=1"

    async with Server() as server:
        transport = Pool()
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


@everywhere
async def test_a_transport_never_used_closes() -> None:
    transport = Pool()
    await transport.aclose()
    await transport.aclose()
    await fails(RuntimeError, False, transport, "http://127.0.0.1:1/")


def test_a_transport_belongs_to_one_loop() -> None:
    transport = Pool()

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
