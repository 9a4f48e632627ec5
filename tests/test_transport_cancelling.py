"""The pool of connections: calls that are cancelled."""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Any

import httpx
import pytest

from aisolution_async.wire.connection import Connection
from aisolution_async.wire.transport import Flight

from .wires import Peer, Pool, Server, ask, echo, everywhere, silent, sockets, turns

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_cancelled_with_an_answer_outstanding() -> None:
    async with Server(silent) as server, Pool(max_connections=1) as transport:
        for _ in range(3):
            flight = Flight()
            call = asyncio.ensure_future(ask(transport, server, flight=flight))
            while not flight.left:
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.until(lambda: server.open == 0)
            assert transport.slots == 0


@everywhere
async def test_cancelled_as_its_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is paid for: whoever counts the request is to know it."""
    real, calls = Connection.data_received, list[asyncio.Future[Any]]()

    def received(conn: Connection, data: bytes) -> None:
        real(conn, data)
        if conn.done and calls:
            calls[-1].cancel()

    monkeypatch.setattr(Connection, "data_received", received)
    async with Server() as server, Pool(max_connections=1) as transport:
        for path in ("/1", "/2"):
            flight = Flight()
            calls.append(asyncio.ensure_future(ask(transport, server, path, flight=flight)))
            with pytest.raises(asyncio.CancelledError):
                await calls[-1]
            assert flight.answer is not None
            assert (flight.answer.http_status, flight.answer.body) == (200, path.encode())
        calls.clear()
        assert (await ask(transport, server, "/3")).text == "/3"
        assert len(server.peers) == 1


@everywhere
async def test_cancelled_in_line() -> None:
    async with Server(silent) as server, Pool(max_connections=1) as transport:
        first = asyncio.ensure_future(ask(transport, server))
        await server.until(lambda: bool(server.peers))
        flights = [Flight() for _ in range(4)]
        line = [asyncio.ensure_future(ask(transport, server, f"/{n}", flight=f)) for n, f in enumerate(flights)]
        await turns(2)
        assert len(transport.line) == 4
        line[1].cancel()
        await turns(2)
        assert len(transport.line) == 3
        # One is cancelled in the same turn as the slot comes free: the next in line must get it.
        server.script = echo
        line[0].cancel()
        first.cancel()
        assert [(await call).text for call in line[2:]] == ["/2", "/3"]
        assert [flight.left for flight in flights] == [False, False, True, True]


@pytest.mark.parametrize("what", ["connection", "slot"])
@everywhere
async def test_cancelled_as_its_turn_comes(what: str) -> None:
    async with Server() as server, Pool(max_connections=1) as transport:
        await ask(transport, server)
        (conn,) = transport.connections
        taken = transport.take_idle(conn.origin, 0)
        assert taken is conn
        flight = Flight()
        second = asyncio.ensure_future(ask(transport, server, "/2", flight=flight))
        third = asyncio.ensure_future(ask(transport, server, "/3"))
        await turns(2)
        if what == "connection":
            transport.release(conn)
        else:
            transport.give_up(conn)
        second.cancel()  # its future has its result
        with pytest.raises(asyncio.CancelledError):
            await second
        assert flight.left is False
        assert (await third).text == "/3"
        assert transport.slots == 1


@everywhere
async def test_cancelled_as_its_error_comes() -> None:
    async with Server(silent) as server:
        transport = Pool(max_connections=1)
        first = asyncio.ensure_future(ask(transport, server))
        await server.until(lambda: bool(server.peers))
        second = asyncio.ensure_future(ask(transport, server))
        await turns(2)
        closing = asyncio.ensure_future(transport.aclose())
        await asyncio.sleep(0)
        second.cancel()
        await closing
        assert isinstance((await asyncio.gather(first, second, return_exceptions=True))[1], BaseException)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("tls", "calls"),
    [
        pytest.param(False, 600, id="plain"),
        pytest.param(True, 200, id="tls"),
        pytest.param(False, 6_000, id="plain, for long", marks=pytest.mark.long),
        pytest.param(True, 2_000, id="tls, for long", marks=pytest.mark.long),
    ],
)
@everywhere
async def test_cancelled_at_random_very_often(
    tls: bool, calls: int, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
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

    context = server_tls("127.0.0.1") if tls else None
    if tls:  # the server's side of a broken handshake is not what is tested
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    before = sockets()
    async with Server(script, context=context) as server:
        transport = Pool(max_connections=10, ssl_context=client_tls)
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
        assert not transport.line
        assert transport.slots == len(transport.connections) <= 10
        assert not any(conn.busy for conn in transport.connections)

        server.script = echo
        await server.until(lambda: True)
        for conn in list(transport.connections):  # the old script runs on those
            conn.drop()
        numbers = range(100)
        answers = await asyncio.gather(*[ask(transport, server, f"/again/{n}") for n in numbers])
        assert [a.text for a in answers] == [f"/again/{n}" for n in numbers]
        await transport.aclose()
        assert (transport.slots, transport.connections) == (0, set())
        await server.until(lambda: server.open == 0)
    await turns(10)
    assert sockets() == before
