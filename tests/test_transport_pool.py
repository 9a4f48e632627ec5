"""The pool of connections: who is served by which, who waits, and how long one is kept."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx
import pytest

from .wires import NO_FUTURE, OK, Peer, Pool, Server, ask, everywhere, fails, saying, turns, virtually

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_one_connection_serves_one_call_after_another_and_the_newest_goes_first() -> None:
    async with Server() as server, Pool() as transport:
        await asyncio.gather(*[ask(transport, server) for _ in range(3)])
        assert len(server.peers) == 3
        newest = next(iter(transport.idle.values()))
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

    for most in (1, 2):
        order.clear()
        async with Server(script) as server, Pool(max_connections=most) as transport:
            await asyncio.gather(*[ask(transport, server, f"/{n}") for n in range(20)])
            # Of two that are under way, the server may read either first.
            assert most == 2 or order == [b"/%d" % n for n in range(20)]
            assert server.most == most


@everywhere
async def test_an_origin_gives_way_to_another() -> None:
    async with Server() as one, Server() as two, Pool(max_connections=1) as transport:
        for server in (one, two, one):  # the idle connection is closed for the other
            assert (await ask(transport, server, "/a")).text == "/a"
        assert (len(one.peers), len(two.peers)) == (2, 1)
        calls = [ask(transport, server, f"/{n}") for n in range(4) for server in (one, two)]
        answers = await asyncio.gather(*calls)
        assert [a.text for a in answers] == [f"/{n}" for n in range(4) for _ in "ab"]
        assert one.open + two.open <= 2  # one may not have noticed yet
        assert transport.slots == 1


@virtually
async def test_idle_connections_expire_by_themselves() -> None:
    async with Server() as server, Pool(idle_expiry=4) as transport:
        await asyncio.gather(ask(transport, server), ask(transport, server))
        await asyncio.sleep(3.9)
        assert len(transport.connections) == 2
        await asyncio.sleep(0.2)
        await server.until(lambda: server.open == 0)
        assert (transport.slots, transport.timer) == (0, None)
        await ask(transport, server)
        assert len(server.peers) == 3


@virtually
async def test_idle_time_counts_from_the_last_use() -> None:
    async with Server() as server, Pool(idle_expiry=4) as transport:
        for _ in range(5):
            await ask(transport, server, read=30)
            await asyncio.sleep(3)
        assert len(server.peers) == 1


@virtually
async def test_an_idle_connection_past_its_time_is_not_used_even_if_the_timer_is_late() -> None:
    async with Server() as server, Pool(idle_expiry=4) as transport:
        await ask(transport, server)
        assert transport.timer is not None
        transport.timer.cancel()
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
    async with Server(saying(answer)) as server, Pool(idle_expiry=10) as transport:
        await ask(transport, server)
        await asyncio.sleep(kept)
        assert len(transport.connections) == 1
        await asyncio.sleep(gone - kept)
        await turns(3)
        assert not transport.connections


@everywhere
async def test_a_connection_without_a_future_is_not_kept() -> None:
    for answer, expiry in (
        (NO_FUTURE, 4.0),
        (OK, 0.0),
    ):
        async with Server(saying(answer)) as server, Pool(idle_expiry=expiry) as transport:
            await ask(transport, server)
            await server.until(lambda server=server: server.open == 0)  # type: ignore[misc]
    async with Server(saying(NO_FUTURE)) as server, Pool(max_connections=1) as transport:
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

    async with Server(script) as server, Pool() as transport:
        for calls in (1, 2, 3):
            leave.clear()
            assert (await ask(transport, server)).text == "ok"
            assert len(server.peers) == calls
            leave.set()
            await server.until(lambda: server.open == 0)
            await turns(5)
            assert not transport.connections


@everywhere
async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    speak = asyncio.Event()

    async def script(peer: Peer) -> None:
        path = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
        await speak.wait()
        await peer.send(b"HTTP/1.1 408 Timeout\r\nContent-Length: 4\r\n\r\nlate")
        await peer.reader.read()

    async with Server(script) as server, Pool(idle_expiry=1000) as transport:
        assert (await ask(transport, server, "/1")).text == "/1"
        speak.set()
        await server.until(lambda: server.open == 0)
        assert (await ask(transport, server, "/2")).text == "/2"


@everywhere
async def test_a_connection_known_to_be_closing_is_replaced_before_anything_is_sent() -> None:
    async with Server() as server, Pool() as transport:
        await ask(transport, server)
        (conn,) = transport.connections
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

    async with Server(script) as server, Pool() as transport:
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

    async with Server(script) as server, Pool(max_connections=1) as transport:
        await ask(transport, server, "/1")
        (conn,) = transport.connections
        assert transport.take_idle(conn.origin, 0) is conn
        second = asyncio.ensure_future(ask(transport, server, "/2"))
        third = asyncio.ensure_future(ask(transport, server, "/3"))
        await turns(2)
        transport.release(conn)
        conn.drop()
        await asyncio.gather(second, third)
        assert order == [b"/1", b"/2", b"/3"]  # its turn had come, and is not lost
        assert len(server.peers) == 2
        assert transport.slots == 1


@everywhere
async def test_a_call_whose_connection_died_takes_an_idle_one() -> None:
    async with Server() as server, Pool(max_connections=2) as transport:
        await asyncio.gather(ask(transport, server), ask(transport, server))
        origin = next(iter(transport.connections)).origin
        dying, idle = transport.take_idle(origin, 0), transport.take_idle(origin, 0)
        assert dying is not None
        assert idle is not None
        call = asyncio.ensure_future(ask(transport, server, "/x"))
        await turns(2)
        transport.release(dying)
        transport.release(idle)
        dying.drop()
        assert (await call).text == "/x"
        assert len(server.peers) == 2


@everywhere
async def test_many_calls_over_few_connections() -> None:
    async with Server() as server, Pool(max_connections=10) as transport:
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
            Pool(**options)
