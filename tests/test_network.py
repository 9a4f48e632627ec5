"""Company networks, on real sockets: own authorities, client certificates, proxies, Unix sockets; the guide too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from aisolution_async import AsyncClient, Charge, NotSentError
from aisolution_async.sandbox import Sandbox

from . import forks
from .test_readme import NETWORK, NETWORK_COMMANDS, run

pytestmark = pytest.mark.usefixtures("no_proxies")
NUMBER = "+6281387300008"
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def folder(authority: trustme.CA, tmp_path: Path) -> Path:
    """What the examples find where they run."""
    authority.cert_pem.write_to_path(str(tmp_path / "company-ca.pem"))
    authority.issue_cert("us@example.com").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    return tmp_path


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def to(sandbox: Sandbox, heard: list[Any]) -> Callable[..., Awaitable[None]]:
    """A server that hands everything on to the sandbox, as what terminates TLS does."""
    port = httpx.URL(sandbox.url).port

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(writer.get_extra_info("peercert"))
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, ours), copy(theirs, writer))

    return serve


@asynccontextmanager
async def over_tls(
    sandbox: Sandbox,
    authority: trustme.CA,
    *,
    name: str = "127.0.0.1",
    mutual: bool = False,
    **how: Any,
) -> AsyncIterator[tuple[str, list[Any]]]:
    """The sandbox's URL behind TLS, and the client certificates that came."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **how).configure_cert(context)
    if mutual:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    heard: list[Any] = []
    server = await asyncio.start_server(to(sandbox, heard), "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


@asynccontextmanager
async def proxy(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that makes tunnels, and where to."""
    tunnels: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        where = head.split()[1]
        tunnels.append(where)
        host, _, port = where.rpartition(":")
        theirs, ours = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, ours), copy(theirs, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}", tunnels


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# ---------------------------------------------------------------------------------------- the guide's examples


def named(word: str) -> str:
    code: str
    (code,) = [code for code in NETWORK if word in code]
    return code


async def play(code: str, folder: Path, sandbox: Sandbox, **env: str) -> None:
    (folder / "example.py").write_text(code, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")}
    environment |= {"AISOLUTION_TOKEN": sandbox.token, **env}
    how: dict[str, Any] = {"options": ("-X", "dev", "-W", "error"), "modules": ("aisolution_async.client",)}
    status, output = await asyncio.to_thread(forks.run, ["example.py"], cwd=folder, env=environment, **how)
    assert status == 0, output
    assert "whatsapp" in output
    assert (sandbox.bill.charged, len(sandbox.requests)) == (1, 1)


def test_each_example_is_run_here() -> None:
    words = ("load_cert_chain", "COMPANY_PROXY", "uds=")
    assert sorted(NETWORK) == sorted(map(named, words))
    assert len(NETWORK_COMMANDS) == 1


async def test_the_companys_authority_and_a_client_certificate(
    sandbox: Sandbox, authority: trustme.CA, folder: Path
) -> None:
    async with over_tls(sandbox, authority, mutual=True) as (url, heard):
        await play(named("load_cert_chain"), folder, sandbox, AISOLUTION_BASE_URL=url)
    assert [bool(certificate) for certificate in heard] == [True]


async def test_a_proxy(sandbox: Sandbox, authority: trustme.CA, folder: Path) -> None:
    async with over_tls(sandbox, authority) as (url, _), proxy() as (address, tunnels):
        env = {"AISOLUTION_BASE_URL": url, "COMPANY_PROXY": address, "SSL_CERT_FILE": "company-ca.pem"}
        await play(named("COMPANY_PROXY"), folder, sandbox, **env)
    assert tunnels == [url.removeprefix("https://")]


@pytest.mark.skipif(not hasattr(asyncio, "start_unix_server"), reason="there are no Unix sockets here")
async def test_a_unix_socket(sandbox: Sandbox, folder: Path) -> None:
    server = await asyncio.start_unix_server(to(sandbox, []), str(folder / "vendor.sock"))
    async with server:
        await play(named("uds="), folder, sandbox, AISOLUTION_BASE_URL="https://unused.example")


async def test_the_companys_authority_by_the_environment(sandbox: Sandbox, authority: trustme.CA, folder: Path) -> None:
    words = shlex.split(NETWORK_COMMANDS[0])
    assert words[0].startswith("SSL_CERT_FILE=")
    named_in_it = dict(word.split("=", 1) for word in words if word.isupper() or "=" in word)
    command = words[len(named_in_it) :]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    async with over_tls(sandbox, authority) as (url, _):
        env = {"AISOLUTION_TOKEN": sandbox.token, "AISOLUTION_BASE_URL": url, "PATH": path, **named_in_it}
        status, output = await run(command, folder, environment | env)
    assert status == 0, output
    assert sandbox.bill.charged == 1


# -------------------------------------------------------------------------------------------------- ssl_context


async def test_a_context_is_used_by_the_pool_and_through_a_proxy(sandbox: Sandbox, authority: trustme.CA) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    async with over_tls(sandbox, authority) as (url, _), proxy() as (plain, _), proxy(theirs) as (encrypted, tunnels):
        for address in (None, plain, encrypted):
            context = trusting(authority)
            async with AsyncClient(sandbox.token, base_url=url, proxy=address, ssl_context=context) as client:
                assert (await client.whatsapp_detail(NUMBER)).charge is Charge.CHARGED
    assert len(tunnels) == 1
    assert sandbox.bill.charged == 3


async def test_a_context_stands_before_the_environments(
    sandbox: Sandbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "not/there.pem")
    async with (
        over_tls(sandbox, authority) as (url, _),
        AsyncClient(sandbox.token, base_url=url, ssl_context=trusting(authority)) as client,
    ):
        assert (await client.whatsapp_detail(NUMBER)).charge is Charge.CHARGED


# ------------------------------------------------------------------------------ certificates that are not trusted

TRUST = "SSL_CERT_FILE.*ssl_context="
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.mark.parametrize(
    ("how", "trusted", "remedy"),
    [
        ({}, False, TRUST),
        ({"name": "vendor.example"}, True, "for another host: check base_url"),
        ({"name": "127.0.0.2"}, True, "for another host: check base_url"),
        ({"not_after": YESTERDAY}, True, "clock"),
    ],
)
@pytest.mark.parametrize("way", ["pool", "httpx", "proxy"])
async def test_the_remedy_is_said(
    way: str, how: dict[str, Any], trusted: bool, remedy: str, sandbox: Sandbox, authority: trustme.CA
) -> None:
    context = trusting(authority) if trusted else ssl.create_default_context()
    async with over_tls(sandbox, authority, **how) as (url, _), proxy() as (address, _):
        ways: dict[str, dict[str, Any]] = {
            "pool": {"ssl_context": context},
            "httpx": {"transport": httpx.AsyncHTTPTransport(verify=context, trust_env=False)},
            "proxy": {"ssl_context": context, "proxy": address},
        }
        options = ways[way]
        async with AsyncClient(sandbox.token, base_url=url, retry=0, **options) as client:
            with pytest.raises(NotSentError, match=f"CERTIFICATE_VERIFY_FAILED.*{remedy}") as caught:
                await client.whatsapp_detail(NUMBER)
    assert caught.value.charge is Charge.FREE
    assert (TRUST.partition(".")[0] in str(caught.value)) is (remedy == TRUST)
    assert "\n" not in str(caught.value)
    assert len(sandbox.requests) == 0


@pytest.mark.parametrize("way", ["pool", "httpx"])
@pytest.mark.parametrize(
    "words",
    [
        "Name or service not known",
        "Temporary failure in name resolution",
        "nodename nor servname provided, or not known",
        "getaddrinfo failed",
        "No address associated with hostname",
    ],
)
async def test_the_remedy_for_a_name_that_nobody_knows(
    words: str, way: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, words)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    options: dict[str, Any] = {} if way == "pool" else {"transport": httpx.AsyncHTTPTransport(trust_env=False)}
    async with AsyncClient(sandbox.token, base_url="https://localhost:1", retry=0, **options) as client:
        with pytest.raises(NotSentError, match=rf"{words}\): check base_url .*HTTPS_PROXY or proxy=$"):
            await client.whatsapp_detail(NUMBER)


@pytest.mark.parametrize("way", ["pool", "httpx"])
async def test_the_remedy_where_what_answers_is_no_tls(way: str, sandbox: Sandbox) -> None:
    url = sandbox.url.replace("http:", "https:")
    options: dict[str, Any] = {} if way == "pool" else {"transport": httpx.AsyncHTTPTransport(trust_env=False)}
    async with AsyncClient(sandbox.token, base_url=url, retry=0, **options) as client:
        with pytest.raises(NotSentError, match="WRONG_VERSION_NUMBER.*: what answered is no TLS: check base_url"):
            await client.whatsapp_detail(NUMBER)


def at_nobody(**options: Any) -> AsyncClient:
    return AsyncClient("t" * 20, base_url="https://127.0.0.1:1", retry=0, **options)


async def test_a_proxy_whose_certificate_is_not_trusted(sandbox: Sandbox, authority: trustme.CA) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    async with proxy(theirs) as (address, _), at_nobody(proxy=address) as client:
        with pytest.raises(NotSentError, match=f"the proxy 127.0.0.1.*CERTIFICATE_VERIFY_FAILED.*{TRUST}"):
            await client.whatsapp_detail(NUMBER)
