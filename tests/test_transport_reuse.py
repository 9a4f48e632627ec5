"""The pool of connections: what the server has closed, or said unasked, before a connection is used again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import ssl
import struct
from typing import Any

import httpx
import pytest

from aisolution_async.wire.connection import Connection
from aisolution_async.wire.transport import Flight

from .wires import OK, SECRET, Peer, Pool, Server, Taken, ask, bare_connection, echo, everywhere, turns, virtually

pytestmark = pytest.mark.usefixtures("restless")


@pytest.mark.parametrize("how", ["closed", "reset", "spoke"])
@everywhere
async def test_an_idle_connection_is_looked_at_before_it_is_used(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with Taken() as server:
        async with Pool() as transport:

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
            while transport.connections:
                await asyncio.sleep(0.001)
    assert len([r for r in caplog.records if "nobody asked for" in r.getMessage()]) == (how == "spoke")


@pytest.mark.parametrize("spoke", [False, True], ids=["closed", "spoke"])
@everywhere
async def test_a_connection_handed_on_is_looked_at_when_it_is_taken(spoke: bool) -> None:
    with Taken() as server:

        class Meddling(Pool):
            def _release(self, conn: Connection, keep: float | None = None) -> None:
                super()._release(conn, keep)  # to the call in line, whose turn is the next
                if spoke:
                    server.peers[-1].send(OK)
                else:
                    server.peers[-1].close()

        async with Meddling(max_connections=1) as transport:
            flights = [Flight() for _ in range(3)]
            calls = [asyncio.ensure_future(ask(transport, server.url, flight=flight)) for flight in flights]
            for number in range(3):
                await server.request(number)
                assert [flight.left for flight in flights].count(True) == number + 1
                server.peers[number].send(OK)
            assert [answer.text for answer in await asyncio.gather(*calls)] == ["ok"] * 3


@everywhere
async def test_tls_connections_are_looked_at_too_and_fresh_ones_are_not(
    server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    """A fresh connection has the server's session tickets unread."""
    async with (
        Server(context=server_tls("127.0.0.1")) as server,
        Pool(ssl_context=client_tls, max_connections=2) as transport,
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
    async with Server() as server, Pool(max_connections=1, idle_expiry=1000) as transport:
        await ask(transport, server)
        monkeypatch.setattr(Connection, "is_quiet", lambda conn: not conn.requests)
        if handed_on:
            await asyncio.gather(*[ask(transport, server) for _ in range(2)])
        else:
            await ask(transport, server)
        assert len(server.peers) == 2 + handed_on
        assert transport.slots == 1


@everywhere
async def test_a_platform_without_poll_looks_with_select(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    with Taken() as server:
        async with Pool() as transport:
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
    tls: bool, joined: bool, server_tls: Any, client_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
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

    context = server_tls("127.0.0.1") if tls else None
    async with Server(script, context=context) as server, Server() as other:
        async with Pool(ssl_context=client_tls) as transport:
            await asyncio.gather(ask(transport, server), ask(transport, other))
            await server.until(lambda: server.open == 0)
            for _ in range(3):
                assert (await ask(transport, server)).text == "ok"
                assert (await ask(transport, other)).text
            assert [len(server.peers), len(other.peers)] == [4, 1]  # for good, and only there
            # Those in line have their turns.
            await asyncio.gather(*[ask(transport, server) for _ in range(60)])
            assert len(server.peers) == 64
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

    async with Server(script) as server, Pool(idle_expiry=1000) as transport:
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
        heard: list[object] = []
        conn = bare_connection(loop, strange=heard.append)
        conn.end()
        conn.data_received(unasked)
        assert heard == [conn.origin]


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

    async with Server(script) as server, Pool(idle_expiry=1000) as transport:
        await asyncio.gather(*[ask(transport, server) for _ in range(3)])
        await server.until(lambda: server.open == 0)
        assert not transport.connections


@everywhere
async def test_extra_bytes_found_in_the_socket_after_a_failed_send_count_too() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        strange: list[object] = []
        conn = bare_connection(asyncio.get_running_loop(), strange=strange.append)
        conn.sock = ours
        theirs.sendall(OK + OK)
        conn.connection_lost(BrokenPipeError(32, "Broken pipe"))
        assert conn.done
        assert not conn.reusable
        assert strange == [conn.origin]
