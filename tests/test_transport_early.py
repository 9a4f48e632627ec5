"""The pool of connections: answers that come before the request is out, and servers that read slowly."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import httpx
import pytest

from aisolution_async.wire import transport as transport_module
from aisolution_async.wire.connection import Connection
from aisolution_async.wire.transport import Flight

from .wires import (
    OK,
    PIECE,
    Lazy,
    Peer,
    Pool,
    Server,
    bare_connection,
    check_clean,
    everywhere,
    lazy_request,
    saying,
    turns,
    virtually,
)

pytestmark = pytest.mark.usefixtures("restless")


@pytest.mark.parametrize("then", ["close", "reset"])
@everywhere
async def test_an_early_answer_stops_the_sending_and_reaches_the_caller(then: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if then == "reset":
            await turns(1)
            peer.reset()  # unread bytes in its receive buffer: what a careless server does

    async with Server(script) as server, Pool() as transport:
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
            assert not transport.connections


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

    async with Server(script) as server, Pool() as transport:
        body = Lazy([b"x" * PIECE] * 100)
        call = asyncio.ensure_future(transport.handle_async_request(lazy_request(server, body, 100 * PIECE)))
        made = -1
        while made != body.made or not body.made or not all(conn.paused for conn in transport.connections):
            made = body.made
            await asyncio.sleep(0.02)
        (conn,) = transport.connections
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

    async with Server(script) as server, Pool() as transport:
        response = await transport.handle_async_request(lazy_request(server, Lazy([b"x" * PIECE] * 40), 40 * PIECE))
        assert response.text == "ok"
        await turns(5)
        assert not transport.connections  # half a request is on it


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

    async with Server(script) as server, Pool() as transport:
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

    class Narrow(Pool):
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
        (conn,) = transport.connections
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


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@everywhere
async def test_an_answer_that_came_before_the_request_was_out_says_so(
    early: bool, tls: bool, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    async def script(peer: Peer) -> None:
        if early:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(OK)
            await peer.reader.read()
        else:
            await saying(OK)(peer)

    context = server_tls("127.0.0.1") if tls else None
    length = 40 * PIECE
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % length
    async with Server(script, context=context) as server, Pool(ssl_context=client_tls) as transport:
        origin = transport_module.origin_of(httpx.URL(server.url()))
        for reused in (False, True):
            answer = await transport.exchange(
                origin, head, Lazy([b"x" * PIECE] * 40), length, flight=Flight(), timeout={"read": 5.0}
            )
            assert (answer.http_status, answer.body, answer.early) == (200, b"ok", early)
            assert answer.reused is (reused and not early)
