"""The pool of connections: names, addresses, and connections that are refused or ended at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aisolution_async.wire import dial as dial_module
from aisolution_async.wire.connection import Connection
from aisolution_async.wire.reuse import Reuse
from aisolution_async.wire.transport import Flight

from .support import LAST_RESORT
from .wires import (
    OK,
    SECRET,
    Lazy,
    Pool,
    Server,
    Taken,
    Wire,
    ask,
    everywhere,
    fails,
    on,
    sockets,
    turns,
    virtually,
)

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_a_refused_connection_costs_nothing() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with Pool(max_connections=1) as transport:
            for _ in range(3):
                says = await fails(httpx.ConnectError, False, transport, f"http://127.0.0.1:{port}/?{SECRET}")
                assert f"127.0.0.1:{port}" in says
            assert transport.slots == 0
            await fails(httpx.ConnectError, False, transport, f"http://{'a' * 64}.invalid/?{SECRET}")


@on("asyncio")
async def test_a_name_is_asked_for_once_by_those_who_want_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002  # the real one has it
        if flags & socket.AI_NUMERICHOST:
            return real(host, port, family, type, proto, flags)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with Server() as server, Pool() as transport:
        url = f"http://pretend.example:{server.port}/x"
        calls = [asyncio.ensure_future(ask(transport, url)) for _ in range(20)]
        await turns(2)
        calls[0].cancel()  # the one who asked
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [a.text for a in answers if isinstance(a, httpx.Response)] == ["/x"] * 19
        assert asked == ["pretend.example"]
        assert transport.looked_up == {}


@everywhere
async def test_real_names_are_found() -> None:
    async with Server() as server, Pool() as transport:
        assert (await ask(transport, f"http://localhost:{server.port}/x")).text == "/x"


@everywhere
async def test_the_next_address_is_tried_when_one_refuses() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        refusing = reserved.getsockname()

        class Several(Pool):
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
        async with Pool(max_connections=1) as transport:
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
                assert transport.slots == 0
            await fails(httpx.ConnectTimeout, False, transport, f"http://127.0.0.1:{address[1]}/", connect=0.01)
    assert sockets() == before


@everywhere
async def test_a_connection_made_after_it_was_given_up_is_closed() -> None:
    loop = asyncio.get_running_loop()
    conn = Connection(("http", "h", 80), Reuse(4.0), loop=loop, max_body=1, gone=lambda _: None, strange=lambda _: None)
    conn.drop()
    wire = Wire()
    conn.connection_made(wire)
    assert wire.aborted


@pytest.mark.parametrize("how", ["closed", "reset"])
@everywhere
async def test_a_connection_that_is_ended_before_the_request_costs_nothing(how: str) -> None:
    with Taken() as server:

        class Meddling(Pool):
            async def _open(self, conn: Connection) -> None:
                await super()._open(conn)
                server.end(reset=how == "reset")

        async with Meddling() as transport:
            await fails(httpx.ConnectError, False, transport, server.url)
            assert transport.slots == 0


class Blunt:
    """A server in a thread, with one connection. `says` is sent when `speak` is called; if it is asked, OK is."""

    def __init__(self, says: bytes, context: ssl.SSLContext | None) -> None:
        self.says, self._context = says, context
        self.heard = b""
        self._speak, self._spoke = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self._listener.getsockname()[1]}/?{SECRET}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def speak(self) -> None:
        """Returns when it is in the client's socket, where the loop has not read it."""
        self._speak.set()
        self._spoke.wait(LAST_RESORT)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else what is said waits for what was said before
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(sock)
            if self._context is not None:
                sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
            if self.says:
                self._speak.wait(LAST_RESORT)
                sock.sendall(self.says)
                self._spoke.set()
            with contextlib.suppress(OSError):
                while data := sock.recv(65536):
                    self.heard += data
                    sock.sendall(OK)

    def __enter__(self) -> Blunt:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LAST_RESORT)
        self._listener.close()


@pytest.mark.parametrize("when", ["connected", "encoded"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@everywhere
async def test_an_answer_that_is_there_before_the_first_request_answers_nobody(
    tls: bool, when: str, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    with Blunt(OK, server_tls("127.0.0.1") if tls else None) as server:

        class Meddling(Pool):
            async def _open(self, conn: Connection) -> None:
                await super()._open(conn)
                await turns(2)  # uvloop ends the handshake with the turn
                if when == "connected":
                    server.speak()

        class Body(Lazy):
            def __iter__(self) -> Iterator[bytes]:
                if when == "encoded":
                    server.speak()
                return super().__iter__()

        async with Meddling(ssl_context=client_tls) as transport:
            flight = Flight()
            says = await fails(httpx.ConnectError, False, transport, server.url, content=Body([b"a=1"]), flight=flight)
            assert says.endswith("it sent something before it was asked anything")
            await turns(5)
            assert transport.slots == 0
    assert server.heard == b""


@everywhere
async def test_the_session_tickets_of_tls_are_no_answer(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    """However many of them wait to be read before the first request."""
    context = server_tls("127.0.0.1")
    context.num_tickets = 40
    with Blunt(b"", context) as server:

        class Meddling(Pool):
            async def _open(self, conn: Connection) -> None:
                await super()._open(conn)
                await turns(1)  # uvloop ends the handshake with the turn
                for _ in range(10_000):  # in that turn, the loop may have read all that came
                    if conn.is_quiet():
                        time.sleep(0)

        async with Meddling(ssl_context=client_tls) as transport:
            assert (await ask(transport, server.url)).text == "ok"


@virtually
async def test_a_server_that_goes_on_saying_nothing_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by endless messages of TLS itself: an answer could follow them."""
    monkeypatch.setattr(Connection, "is_quiet", lambda conn: False)
    async with Server() as server, Pool() as transport:
        await fails(httpx.ConnectError, False, transport, server)
        assert transport.slots == 0


async def test_a_server_that_speaks_first_and_closes_keeps_nobody_waiting() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = Pool(max_connections=2)

    async def ask() -> object:
        try:
            return (await transport.handle_async_request(httpx.Request("GET", url))).status_code
        except httpx.TransportError as exc:
            return type(exc)

    async with asyncio.timeout(LAST_RESORT):
        await asyncio.gather(*(ask() for _ in range(20)))
        await transport.aclose()
    server.close()
