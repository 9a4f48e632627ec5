"""The pool of connections: what goes out, and what comes back."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aisolution_async.wire import transport as transport_module
from aisolution_async.wire.connection import decode_body
from aisolution_async.wire.transport import Flight

from .support import LAST_RESORT
from .wires import OK, SECRET, Lazy, Pool, Server, ask, check_clean, everywhere, fails, lazy_request, saying, turns

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_a_call_goes_out_as_given_and_comes_back_whole() -> None:
    answer = b"HTTP/1.1 201 Made\r\nX-One: 1\r\nx-one: 2\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
    async with Server(saying(answer + b'{"a":1}')) as server, Pool() as transport:
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
    async with Server() as server, Pool() as transport:
        for pieces, left in (([b"x" * 200_000] * 3, True), ([SECRET.encode() * 90_000], False)):
            origin, flight = transport_module.origin_of(httpx.URL(server.url())), Flight()
            call = transport.exchange(origin, head, Lazy(pieces), 600_000, flight=flight, timeout={"read": 5.0})
            if left:
                found = await call
                assert not found.early
                assert not found.reused
                assert (found.http_status, found.headers, found.body) == (
                    200,
                    [(b"Content-Length", b"20")],
                    b"/x?token=" + SECRET.encode(),
                )
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
    async with Server() as server, httpx.AsyncClient(transport=Pool()) as client:
        for method in ("GET", "POST", "DELETE"):
            response = await client.request(method, server.url("/hello"), timeout=LAST_RESORT)
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
    async with Server() as server, Pool() as transport:
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
    async with Server() as server, Pool(max_connections=1) as transport:
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
    async with Server() as server, Pool(max_connections=1) as transport:
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
    async with Pool() as transport:
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
    async with Server(saying(answer, then)) as server, Pool() as transport:
        for _ in range(2):
            response = await ask(transport, server, read=5)
            assert (response.status_code, response.content) == (status, body)
            assert "x-late" not in response.headers
            assert "x-early" not in response.headers
            await turns(5 if then == "stay" else 20)
        assert len(server.peers) == (1 if again else 2)
        assert transport.slots == len(transport.connections) <= 1


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
    async with Server(saying(answer, then)) as server, Pool(max_connections=1, max_body=100_000) as transport:
        for calls in (1, 2):
            assert says in await fails(kind, True, transport, server, read=5)
            await turns(5)
            assert len(server.peers) == calls  # a new connection each time, and one request on each
            assert not transport.connections
            assert transport.slots == 0


@everywhere
async def test_the_cap_itself_is_allowed() -> None:
    body = b"x" * 1000
    packed = zlib.compress(body)
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + body
    coded = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    for answer in (plain, coded):
        async with Server(saying(answer)) as server, Pool(max_body=1000) as transport:
            response = await ask(transport, server)
            assert response.content == body
    assert response.headers["content-encoding"] == "deflate"


@everywhere
async def test_head_has_no_body_whatever_its_head_says() -> None:
    for answer in (OK, OK[:-2], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        async with Server(saying(answer)) as server, Pool() as transport:
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
