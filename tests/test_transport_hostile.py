"""The pool of connections: answers cut anywhere, and hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from aisolution_async.wire.transport import Flight

from .support import examples
from .wires import Peer, Pool, Server, ask, bare_connection, everywhere, fails, turns

pytestmark = pytest.mark.usefixtures("restless")


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

    async with Server(script) as server, Pool() as transport:
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

        async with Server(script) as server, Pool() as transport:
            for _ in range(len(answer)):
                await fails(httpx.RemoteProtocolError, True, transport, server)
            assert (await ask(transport, server)).content == b"hello"


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


@settings(max_examples=examples(400), deadline=None, derandomize=True, database=None)
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

        async def start() -> tuple[Server, Pool]:
            return await Server(script).__aenter__(), Pool(max_connections=1)

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

        @settings(max_examples=examples(150), deadline=None, derandomize=True, database=None)
        @given(answer=HOSTILE)
        def fuzz(answer: bytes) -> None:
            hostile[0] = answer
            runner.run(one())

        fuzz()

        async def stop() -> None:
            await transport.aclose()
            await server.__aexit__()

        runner.run(stop())
