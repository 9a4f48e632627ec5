"""The pool of connections: TLS, whom it trusts, and servers that refuse the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self
from unittest import mock

import httpx
import pytest
import trustme

from aisolution_async import AsyncClient, Charge, NotSentError, OutcomeUnknownError
from aisolution_async.wire import transport as transport_module
from aisolution_async.wire.tls import Inner, Tls
from aisolution_async.wire.transport import Flight, default_ssl_context

from .wires import (
    OK,
    PIECE,
    SECRET,
    Lazy,
    Peer,
    Pool,
    Server,
    ask,
    bare_connection,
    check_clean,
    echo,
    everywhere,
    fails,
    lazy_request,
    saying,
    silent,
    sockets,
    turns,
    virtually,
)

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_tls(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    context = server_tls("localhost", "127.0.0.1")
    context.sni_callback = lambda _, name, __: names.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    protocols: list[str | None] = []

    async def script(peer: Peer) -> None:
        protocols.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await echo(peer)

    before = sockets()
    async with Server(script, context=context) as server:
        async with Pool(ssl_context=client_tls) as transport:
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
async def test_tls_refuses_what_it_cannot_trust(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    def hush(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The server's side of a refused handshake is not what is tested."""

    asyncio.get_running_loop().set_exception_handler(hush)
    async with Server(context=server_tls("example.org")) as server, Pool(ssl_context=client_tls) as transport:
        assert "not valid for" in await fails(httpx.ConnectError, False, transport, server)
        assert transport.slots == 0
    async with Server(context=server_tls("127.0.0.1")) as server, Pool() as transport:
        assert "certificate verify failed" in await fails(httpx.ConnectError, False, transport, server)

    async def no_tls(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Server(no_tls) as server, Pool(ssl_context=client_tls) as transport:
        await fails(httpx.ConnectError, False, transport, server.url(scheme="https"))


@everywhere
async def test_tls_answers_that_end_early(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    context = server_tls("127.0.0.1")
    for answer, then, kind in (
        (b"", "close", httpx.RemoteProtocolError),
        (OK[:-1], "close", httpx.RemoteProtocolError),
        (b"", "reset", httpx.ReadError),
    ):
        script = saying(answer, then)
        async with Server(script, context=context) as server, Pool(ssl_context=client_tls) as transport:
            for _ in range(2):
                flight = Flight()
                with pytest.raises((kind, httpx.RemoteProtocolError)):
                    await ask(transport, server, flight=flight)
                assert flight.left is True
    script = saying(b"HTTP/1.1 200 OK\r\n\r\nto the end", "close")
    async with Server(script, context=context) as server, Pool(ssl_context=client_tls) as transport:
        assert (await ask(transport, server)).text == "to the end"


@everywhere
async def test_tls_early_answer(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.reader.read()

    async with (
        Server(script, context=server_tls("127.0.0.1")) as server,
        Pool(ssl_context=client_tls) as transport,
    ):
        body = Lazy([b"x" * PIECE] * 40)
        response = await transport.handle_async_request(lazy_request(server, body, 40 * PIECE))
        assert (response.status_code, response.text) == (413, "big")
        assert body.made < 40


@everywhere
async def test_trust_is_loaded_once_and_off_the_loop(
    server_tls: Any, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    loaded: list[bool] = []

    def load() -> ssl.SSLContext:
        loaded.append(threading.current_thread() is threading.main_thread())
        return default_ssl_context()

    monkeypatch.setattr(transport_module, "default_ssl_context", load)
    context = server_tls("127.0.0.1")
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with Server(context=context) as server, Pool() as transport:
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


@virtually
async def test_connect_timeout_covers_the_handshake(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    before = sockets()
    async with Server(silent) as server:
        async with Pool(ssl_context=client_tls, max_connections=1) as transport:
            began = loop.time()
            await fails(httpx.ConnectTimeout, False, transport, server.url(scheme="https"), connect=3)
            assert loop.time() - began == pytest.approx(3, abs=0.1)
            flight = Flight(loop.time() + 2)
            await fails(httpx.ConnectTimeout, False, transport, server.url(scheme="https"), connect=3, flight=flight)
            assert loop.time() - began == pytest.approx(5, abs=0.1)
            assert transport.slots == 0
        await server.until(lambda: server.open == 0)
    await turns(5)
    assert sockets() == before


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
    version: str, size: int, authority: trustme.CA, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    context = server_tls("127.0.0.1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    alert = "certificate_required" if version == "TLSv1_3" else "handshake_failure"
    with Guarded(context) as server:
        async with Pool(ssl_context=client_tls) as transport:
            for _ in range(5):
                says = await fails(httpx.ConnectError, False, transport, server.url, content=b"x" * size, read=5.0)
                assert alert in says.lower()
        transport = Pool(ssl_context=client_tls)
        async with AsyncClient(SECRET, base_url=server.url, transport=transport, retry=0) as client:
            with pytest.raises(NotSentError, match=rf"(?i)no connection \(.*{alert}") as caught:
                await client.delete_face("c5r7jedkujdbnasarhn0")
            assert caught.value.charge is Charge.FREE
        # Through httpx's own transport nobody knows what was read, but why it ended is known.
        theirs = httpx.AsyncHTTPTransport(verify=client_tls)
        async with AsyncClient(SECRET, base_url=server.url, transport=theirs, retry=0) as client:
            with pytest.raises((NotSentError, OutcomeUnknownError), match=rf"(?i){alert}"):
                await client.delete_face("c5r7jedkujdbnasarhn0")
        authority.issue_cert("client").configure_cert(client_tls)
        async with Pool(ssl_context=client_tls) as transport:
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
async def test_the_hint_at_a_client_certificate_reaches_the_user(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with Server(script, context=server_tls("127.0.0.1")) as server:
        transport = Pool(ssl_context=client_tls)
        async with AsyncClient(SECRET, base_url=server.url(), transport=transport, retry=0) as client:
            with pytest.raises(OutcomeUnknownError, match="perhaps the server wants a client certificate") as caught:
                await client.delete_face("c5r7jedkujdbnasarhn0")
            assert SECRET not in str(caught.value)


# ------------------------------------------------------------------------------------------- the bytes on the wire


class Records:
    """A server that has TLS in its own hands: what it is to send is bytes, to be sent when and as a script wants."""

    def __init__(self, context: ssl.SSLContext, script: Callable[[Records], Awaitable[None]]) -> None:
        self._context = context
        self._script = script
        self.heard = b""
        """What came after the script, not decrypted."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.served

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.served = task
        self._reader, self.writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = self._context.wrap_bio(self._in, self._out, server_side=True)
        with contextlib.suppress(OSError, EOFError):
            await self._script(self)
            self.heard = await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _do(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self.send(self._out.read())
                data = await self._reader.read(65536)
                if not data:
                    raise EOFError from None
                self._in.write(data)

    async def shake_hands(self) -> bytes:
        """The last of the handshake, which is still to be sent."""
        await self._do(self.ssl.do_handshake)
        return self._out.read()

    async def request(self) -> bytes:
        """What is asked, without its body's length being looked at."""
        asked: bytes = await self._do(lambda: self.ssl.read(65536))
        return asked

    def encrypted(self, data: bytes) -> bytes:
        """The data in records."""
        self.ssl.write(data)
        return self._out.read()

    def goodbye(self) -> bytes:
        """What says that there is no more."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        return self._out.read()

    async def send(self, data: bytes, piece: int = 0) -> None:
        """Send it, `piece` after piece, each in a packet of its own."""
        for at in range(0, len(data), piece or len(data) or 1):
            self.writer.write(data[at : at + (piece or len(data))])
            await self.writer.drain()
            await turns(2)


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("piece", [1, 7, 1000, 0])
@everywhere
async def test_tls_comes_in_any_pieces(version: str, piece: int, server_tls: Any, client_tls: ssl.SSLContext) -> None:
    context = server_tls("127.0.0.1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    bodies = [b"one", b"2" * 20_000 if piece != 1 else b"two", b""]  # more than a record holds

    async def script(server: Records) -> None:
        await server.send(await server.shake_hands(), piece)
        for body in bodies:
            assert await server.request()
            await server.send(server.encrypted(whole(body)[:20]) + server.encrypted(whole(body)[20:]), piece)

    async with Records(context, script) as server, Pool(ssl_context=client_tls) as transport:
        for body in bodies:
            assert (await ask(transport, server.url)).content == body


@pytest.mark.parametrize("comes", ["with the answer", "while it rests", "while it idles"])
@everywhere
async def test_a_record_that_has_only_begun_ends_the_connection(
    comes: str, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    """It may be an answer too many. With the rest of it, it would be the next request's."""
    may_come = asyncio.Event()

    async def script(server: Records) -> None:
        await server.send(await server.shake_hands())
        await server.request()
        answer, extra = server.encrypted(whole(b"first")), server.encrypted(whole(b"one too many"))
        if comes == "with the answer":
            await server.send(answer + extra[:20])
        else:
            await server.send(answer)
            await may_come.wait()
            await server.send(extra[:20])

    async with (
        Records(server_tls("127.0.0.1"), script) as server,
        Pool(ssl_context=client_tls, idle_expiry=1000) as transport,
    ):
        assert (await ask(transport, server.url)).content == b"first"
        while comes == "while it idles" and transport.resting:
            await asyncio.sleep(0.001)
        may_come.set()
        while transport.connections:
            await asyncio.sleep(0.001)
        assert not transport.slots


@pytest.mark.parametrize("says", ["no", "no and goodbye", "half of it", "an alert", "nothing"])
@everywhere
async def test_what_had_come_before_a_failed_send_is_read(
    says: str, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    """As when the server refuses a long request, closes and resets between two turns of the loop."""
    context = server_tls("127.0.0.1")
    context.num_tickets = 0
    listener = socket.create_server(("127.0.0.1", 0))
    asked, ended = threading.Event(), threading.Event()
    no = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"

    def serve() -> None:
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = context.wrap_bio(inward, outward, server_side=True)
        with contextlib.ExitStack() as afterwards, listener.accept()[0] as sock:
            afterwards.callback(ended.set)
            while True:
                try:
                    peer.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outward.read())
                    inward.write(sock.recv(65536))
            sock.sendall(outward.read())
            asked.wait()
            if says == "an alert":
                inward.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # it answers what it cannot read by an alert
                with contextlib.suppress(ssl.SSLError):
                    while peer.read(65536):
                        pass
            elif says != "nothing":
                peer.write(no if says != "half of it" else no[:-1])
                if says == "no and goodbye":
                    with contextlib.suppress(ssl.SSLError):  # no answer of the client's
                        peer.unwrap()
            sock.sendall(outward.read())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    class Hasty(Lazy):
        def __iter__(self) -> Iterator[bytes]:
            for piece in super().__iter__():
                if self.made == 3:
                    asked.set()
                    ended.wait()
                yield piece

    with listener:
        thread = threading.Thread(target=serve)
        thread.start()
        flight = Flight()
        async with Pool(ssl_context=client_tls) as transport:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/?{SECRET}"
            headers = {"Host": "h", "Content-Length": "5000"}
            body = Hasty([b"x" * 1000] * 5)
            request = httpx.Request("POST", url, headers=headers, stream=body, extensions={"aisolution.flight": flight})
            if says in ("no", "no and goodbye"):
                assert (await transport.handle_async_request(request)).content == b"no"
            else:
                with pytest.raises((httpx.WriteError, httpx.ReadError)) as caught:
                    await transport.handle_async_request(request)
                check_clean(caught.value)
            assert flight.left is True
            while transport.connections:
                await turns(1)
        thread.join()


@pytest.mark.parametrize("says_goodbye", [True, False])
@pytest.mark.parametrize(
    ("answer", "is_whole"),
    [(whole(b"ok"), True), (b"HTTP/1.1 200 OK\r\n\r\nto the end", True), (whole(b"ok")[:-1], False), (b"", False)],
    ids=["whole", "to the end", "cut off", "none"],
)
@everywhere
async def test_a_server_that_closes_tls(
    answer: bytes, is_whole: bool, says_goodbye: bool, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    """With the words for it or without: whether an answer is whole is for its length to say, and one to the end is."""

    async def script(server: Records) -> None:
        await server.send(await server.shake_hands())
        await server.request()
        data = server.encrypted(answer) if answer else b""
        if says_goodbye:
            data += server.goodbye() + b"\x17\x03\x03\x00\x05hello"  # what stands behind the end is nobody's
        await server.send(data)
        server.writer.write_eof()

    async with Records(server_tls("127.0.0.1"), script) as server, Pool(ssl_context=client_tls) as transport:
        if is_whole:
            assert (await ask(transport, server.url)).content == answer.partition(b"\r\n\r\n")[2]
        else:
            await fails(httpx.RemoteProtocolError, True, transport, server.url)


@pytest.mark.parametrize(
    "rubbish", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x17\x03\x03\x00\x20" + bytes(32)], ids=["plain", "bad"]
)
@everywhere
async def test_what_is_no_tls_breaks_the_connection_off(
    rubbish: bytes, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    """The request may have been read, and its answer is lost; the server is told why."""

    async def script(server: Records) -> None:
        await server.send(await server.shake_hands())
        await server.request()
        await server.send(rubbish)

    async with Records(server_tls("127.0.0.1"), script) as server:
        async with Pool(ssl_context=client_tls) as transport:
            await fails(httpx.ReadError, True, transport, server.url)
            assert transport.slots == 0
        await server.served
        assert server.heard[:3] == b"\x17\x03\x03"  # an alert, encrypted


@everywhere
async def test_cancelled_within_the_handshake(client_tls: ssl.SSLContext) -> None:
    before = sockets()
    async with Server(silent) as server, Pool(ssl_context=client_tls) as transport:
        asking = asyncio.create_task(ask(transport, server.url(scheme="https")))
        await server.until(lambda: server.open == 1)
        await turns(3)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert transport.slots == 0
        await server.until(lambda: server.open == 0)
    await turns(5)
    assert sockets() == before


@everywhere
async def test_a_handshake_that_cannot_even_start_closes_its_socket_once(client_tls: ssl.SSLContext) -> None:
    """uvloop closes the descriptor, and the socket object must not close whatever has the same number by then."""
    client_tls.maximum_version = ssl.TLSVersion.TLSv1_2
    client_tls.minimum_version = ssl.TLSVersion.TLSv1_3
    async with Server(silent) as server, Pool(ssl_context=client_tls) as transport:
        gc.disable()
        try:
            await fails(httpx.ConnectError, False, transport, server.url(scheme="https"))
            await turns(5)
            others = [socket.socket() for _ in range(10)]
        finally:
            gc.enable()
        gc.collect()
        for other in others:
            assert os.fstat(other.fileno())
            other.close()


@pytest.mark.parametrize("kind", [OSError, ValueError])
@pytest.mark.parametrize("call", [1, 2])
@everywhere
async def test_a_handshake_of_the_callers_context_that_raises(
    call: int, kind: type[Exception], server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    """As where the log of keys cannot be written, or truststore asks Windows in vain."""
    calls = 0

    class Raising(ssl.SSLObject):
        def do_handshake(self) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise kind("no space")
            super().do_handshake()

    async def script(server: Records) -> None:
        await server.shake_hands()

    client_tls.sslobject_class = Raising
    async with Records(server_tls("127.0.0.1"), script) as server:
        async with Pool(ssl_context=client_tls) as transport:
            assert "no space" in await fails(httpx.ConnectError, False, transport, server.url)
            assert not transport.slots


@pytest.mark.parametrize("name", ["read", "write"])
@everywhere
async def test_records_that_the_callers_context_fails_to_make_or_read(
    name: str, server_tls: Any, client_tls: ssl.SSLContext
) -> None:
    async def script(server: Records) -> None:
        await server.send(await server.shake_hands())
        if name == "read":
            await server.request()
            await server.send(server.encrypted(OK))

    class Raising(ssl.SSLObject):
        def read(self, *args: Any) -> Any:
            super().read(*args)
            raise OSError(errno.ENOSPC, "no space")

        def write(self, data: Any) -> int:
            if name == "write":
                raise OSError(errno.ENOSPC, "no space")
            return super().write(data)

    client_tls.sslobject_class = Raising
    async with Records(server_tls("127.0.0.1"), script) as server, Pool(ssl_context=client_tls) as transport:
        url = f"{server.url}?{SECRET}"
        kind = httpx.ReadError if name == "read" else httpx.WriteError
        assert "no space" in await fails(kind, True, transport, url, content=SECRET.encode())


@everywhere
async def test_what_tls_held_is_free_without_the_collector(server_tls: Any, client_tls: ssl.SSLContext) -> None:
    """It counts objects, and not what OpenSSL keeps for each: half a megabyte for each connection of large requests."""

    async def closes(peer: Peer) -> None:
        """Within the handshake."""

    def layers() -> int:
        return sum(isinstance(thing, Tls) for thing in gc.get_objects())

    gc.disable()
    try:
        before = layers()
        async with Server(saying(OK, "close"), context=server_tls("127.0.0.1")) as server, Server(closes) as refusing:
            async with Pool(ssl_context=client_tls) as transport:
                for _ in range(3):
                    assert (await ask(transport, server, headers={"Connection": "close"})).text == "ok"
                    await fails(httpx.ConnectError, False, transport, refusing.url(scheme="https"))
                while transport.connections:
                    await turns(1)
                await turns(5)
                assert layers() == before
    finally:
        gc.enable()


async def test_a_server_that_wants_new_keys_first_gets_the_rest_later() -> None:
    """TLS 1.2 lets it ask in the middle of a request (IIS does, for a certificate), and nothing is sent meanwhile."""
    agreed = False
    told: list[object] = []

    class Object:
        def do_handshake(self) -> None:
            pass

        def write(self, data: bytes) -> int:
            if sent.getvalue() and not agreed:
                raise ssl.SSLWantReadError
            return sent.write(data[:4])

        def read(self, _: int) -> bytes:
            nonlocal agreed
            layer._incoming.read()
            agreed = True
            raise ssl.SSLWantReadError

    class Told(Inner):
        def pause_writing(self) -> None:
            told.append("pause")

        def resume_writing(self) -> None:
            told.append("resume")

    sent = io.BytesIO()
    context, raw = mock.Mock(), mock.Mock()
    context.wrap_bio.return_value = Object()
    raw.get_write_buffer_size.return_value = 0
    layer = Tls(Told(), context, "host")
    layer.connection_made(raw)
    layer.write(b"the request")
    assert (sent.getvalue(), told) == (b"the ", ["pause"])
    layer.resume_writing()  # the socket has room: that is not what it waits for
    assert told == ["pause"]
    layer.data_received(b"new keys")
    assert (sent.getvalue(), told) == (b"the request", ["pause", "resume"])
