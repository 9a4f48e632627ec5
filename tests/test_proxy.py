"""Through a proxy: what it refuses is called so, and is free; and the certificates that the environment names."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from aisolution_async import AsyncClient, Charge, ConfigurationError, NotSentError, OutcomeUnknownError
from aisolution_async.wire.transport import default_ssl_context

from .support import TOKEN

pytestmark = [
    pytest.mark.usefixtures("no_proxies"),
    pytest.mark.aisolution_network,  # the proxies are on this machine, and the vendor is nowhere
]
NUMBER = "+6281387300008"
ANSWER = b'{"status": "OK", "message": {"number": "+6281387300008", "whatsapp": "yes"}}'
PASSWORD = "hunter2"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """Where a server is that treats each connection so; host and port."""

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(treat, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def client(**options: Any) -> AsyncClient:
    return AsyncClient(TOKEN, base_url="https://vendor.example", retry=0, **options)


def answering(line: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close as soon as the tunnel is asked for."""


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (answering("407 Proxy Authentication Required"), "answered HTTP 407: it wants a user and a password"),
        (answering("403 Forbidden"), "answered HTTP 403: it lets nobody through to the vendor's address"),
        (answering("502 Bad Gateway"), "answered HTTP 502: it cannot reach the vendor"),
        (answering("503 Service Unavailable"), "answered HTTP 503: it is not available"),
        (answering("504 Gateway Timeout"), "answered HTTP 504: the vendor did not answer it"),
        (answering("405 Method Not Allowed"), "answered HTTP 405: it makes no tunnel to the vendor"),
        (answering("302 Found"), "answered HTTP 302: it makes no tunnel to the vendor"),
        (closing, "broke the connection off, or is no HTTP proxy"),
        (babbling, "broke the connection off, or is no HTTP proxy"),
        (silent, "did not answer in time"),
    ],
)
async def test_a_proxy_that_makes_no_tunnel(serve: Serve, words: str) -> None:
    async with listening(serve) as place:
        timeout = httpx.Timeout(None, read=0.05) if serve is silent else 20.0
        async with client(proxy=f"http://user:{PASSWORD}@{place}", timeout=timeout) as asking:
            with pytest.raises(NotSentError) as caught:
                await asking.whatsapp_detail(NUMBER)
    assert f"(the proxy {place} {words}" in str(caught.value)
    assert caught.value.charge is Charge.FREE
    assert PASSWORD not in repr(caught.value)


@pytest.mark.parametrize(
    ("behind", "words"),
    [
        (closing, "made a tunnel to the vendor, but it broke off"),
        (silent, "made a tunnel to the vendor, but nobody answered in it in time"),
        (babbling, "made a tunnel to the vendor, but what came through it is no TLS"),
    ],
)
async def test_a_tunnel_with_nobody_at_its_end(behind: Serve, words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await reader.readexactly(5)  # the beginning of the handshake
        await behind(reader, writer)

    async with listening(serve) as place:
        timeout = httpx.Timeout(None, connect=0.05) if behind is silent else 20.0
        async with client(proxy=f"http://user:{PASSWORD}@{place}", timeout=timeout) as asking:
            with pytest.raises(NotSentError) as caught:
                await asking.whatsapp_detail(NUMBER)
    assert f"(the proxy {place} {words}" in str(caught.value)
    assert caught.value.charge is Charge.FREE
    assert PASSWORD not in repr(caught.value)


@pytest.mark.parametrize("scheme", ["", "http://", " ", "socks5://"])
async def test_a_proxy_that_is_not_there(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a scheme it is taken for http://."""
    if scheme == "socks5://":
        pytest.importorskip("socksio")
    async with listening(closing) as place:
        pass
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}user:{PASSWORD}@{place}")
    async with client() as asking:
        with pytest.raises(NotSentError) as caught:
            await asking.whatsapp_detail(NUMBER)
    assert f"(the proxy {place} cannot be reached" in str(caught.value)
    assert "check HTTPS_PROXY" in str(caught.value)
    assert caught.value.charge is Charge.FREE
    assert PASSWORD not in repr(caught.value)


async def test_a_proxy_without_a_scheme_as_an_option() -> None:
    async with listening(answering("403 Forbidden")) as place, client(proxy=place) as asking:
        with pytest.raises(NotSentError, match="answered HTTP 403"):
            await asking.whatsapp_detail(NUMBER)


@pytest.mark.parametrize(
    "proxy", [f"http://u:{PASSWORD}@x:99999", "x:0", "http://", "ftp://x:1", "gopher://x", f"http://{PASSWORD}@:1"]
)
def test_a_proxy_that_cannot_be(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    for options in ({}, {"proxy": proxy}):
        with pytest.raises(ConfigurationError, match="the proxy cannot be used: it is http://host:port") as caught:
            client(**options)
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("answers", [True, False])
async def test_through_a_proxy(
    answers: bool,
    authority: trustme.CA,
    server_tls: Callable[..., ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The vendor's certificate is checked as SSL_CERT_FILE says; a loss behind the tunnel is not the proxy's."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = server_tls("vendor.example")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await writer.start_tls(context)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if answers:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER))
            await writer.drain()

    async with listening(serve) as place:
        monkeypatch.setenv("https_proxy", place)
        async with client() as asking:
            with pytest.raises(NotSentError, match="certificate") as untrusted:
                await asking.whatsapp_detail(NUMBER)
            assert "the proxy" not in str(untrusted.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with client() as asking:
            if answers:
                assert (await asking.whatsapp_detail(NUMBER)).charge is Charge.CHARGED
                return
            with pytest.raises(OutcomeUnknownError) as lost:
                await asking.whatsapp_detail(NUMBER)
    assert "the proxy" not in str(lost.value)


# ------------------------------------------------------------------------------------------------- certificates, ports


def certificates(folder: Path) -> dict[str, str]:
    """Files and folders that SSL_CERT_FILE and SSL_CERT_DIR may name, and which of them are none."""
    trustme.CA().cert_pem.write_to_path(str(folder / "good.pem"))
    good = (folder / "good.pem").read_bytes()
    for name in ("hashed", "empty"):
        (folder / name).mkdir()
    (folder / "hashed" / "0a1b2c3d.0").write_bytes(good)
    (folder / "empty.pem").write_bytes(b"")
    (folder / "text.pem").write_text("no certificate")
    (folder / "der.pem").write_bytes(ssl.PEM_cert_to_DER_cert(good.decode()))
    (folder / "cut.pem").write_bytes(good[: len(good) // 2])
    return {name: str(folder / name) for name in ("good.pem", "hashed", "empty", "gone")}


@pytest.mark.parametrize("name", ["gone.pem", "empty.pem", "text.pem", "der.pem", "cut.pem", "empty", "x" * 300])
@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:1"])
def test_a_certificate_file_that_cannot_be_used(
    name: str, proxy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named at once: nothing is tried, and tried again, with it."""
    certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
    with pytest.raises(
        ConfigurationError, match=r"SSL_CERT_FILE is '.+', which cannot be used: .+; correct it or unset"
    ):
        client(proxy=proxy)
    AsyncClient(TOKEN, base_url="http://127.0.0.1:1")  # which needs none


@pytest.mark.parametrize("names", [["gone"], ["empty"], ["good.pem"], ["gone", "empty"]])
def test_a_certificate_folder_that_cannot_be_used(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_DIR", ":".join(places[name] for name in names))
    with pytest.raises(
        ConfigurationError, match=r"SSL_CERT_DIR is '.+', which cannot be used: .+; correct it or unset"
    ):
        client()


@pytest.mark.parametrize(
    ("variable", "names"),
    [("SSL_CERT_FILE", ["good.pem"]), ("SSL_CERT_DIR", ["hashed"]), ("SSL_CERT_DIR", ["gone", "hashed"])],
)
def test_certificates_that_can_be_used(
    variable: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = certificates(tmp_path)
    monkeypatch.setenv(variable, ":".join(places[name] for name in names))
    client()
    assert default_ssl_context().check_hostname


@pytest.mark.parametrize("port", [0, 65536, 99999, -1])
def test_a_port_that_cannot_be(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"base_url has the port {port}: a port is 1 to 65535"):
        AsyncClient(TOKEN, base_url=f"https://vendor.example:{port}")
