"""What is asked of a sandbox over HTTP, and what it says, calls back and bills."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx

from aisolution_async.charges import Charge, Tally
from aisolution_async.sandbox import Sandbox, vendor

from .support import LAST_RESORT

ENDPOINTS = ("facecompare", "idholding", "addface", "searchface", "delface", "gliswadetail")
TOKEN = "sandbox-token"


def http_client_of(sandbox: Sandbox) -> httpx.AsyncClient:
    # Without certificates, which there is no use for here: they take longer to load than most tests to run.
    return httpx.AsyncClient(base_url=sandbox.url, trust_env=False, verify=False, timeout=LAST_RESORT)


async def ask(http_client: httpx.AsyncClient, endpoint: str, token: str = TOKEN, **form: str) -> tuple[str, Any]:
    response = await http_client.post(f"/v1/{endpoint}", params={"token": token}, data=form)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    envelope = response.json()
    assert list(envelope) == ["status", "message"]
    return envelope["status"], envelope["message"]


def bill(**counts: tuple[int, int]) -> Tally:
    """Charged and free, by endpoint."""
    tally = Tally()
    for endpoint, (charged, free) in counts.items():
        tally.add(endpoint, Charge.CHARGED, charged)
        tally.add(endpoint, Charge.FREE, free)
    return tally


def numbers(whatsapp: str) -> list[str]:
    """Numbers that have this answer at once; "checking" are those that have none at first."""
    found_numbers = []
    for serial in range(300):
        number = f"+62813873{serial:05d}"
        slow = sha256(b"slow" + number.encode()).digest()[0] % 10 == 0
        if (whatsapp == "checking") == slow and (slow or vendor._profile(number)["whatsapp"] == whatsapp):
            found_numbers.append(number)
    return found_numbers


YES, NO, SLOW = numbers("yes")[0], numbers("no")[0], numbers("checking")[0]


async def settled(sandbox: Sandbox) -> None:
    """Until nothing is under way in the sandbox."""
    while sandbox._tasks:
        await asyncio.wait(sandbox._tasks)


@asynccontextmanager
async def receiver(
    answer: bytes | None = b"HTTP/1.1 204 No Content\r\n\r\n",
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[str, list[str]]]:
    """An address that is called back, and what came in there. With no `answer` it hangs."""
    heads: list[str] = []
    gone = asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if answer is None:
            await gone.wait()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    serving = await asyncio.start_server(receive, host, 0, ssl=tls)
    async with serving:
        port = serving.sockets[0].getsockname()[1]
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", heads
        gone.set()


def post(
    form: dict[str, str] | None = None,
    *headers: str,
    endpoint: str = "gliswadetail",
    version: str = "1.1",
) -> bytes:
    body = urlencode({"number": YES} if form is None else form).encode()
    lines = (
        f"POST /v1/{endpoint}?token={TOKEN} HTTP/{version}",
        "host: 127.0.0.1",
        f"content-length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "\r\n")).encode() + body


@asynccontextmanager
async def connected(sandbox: Sandbox) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def one_answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", head)
    return int(head.split()[1]), head, await reader.readexactly(int(length[1]) if length else 0)


async def last_answer(sandbox: Sandbox, data: bytes) -> tuple[int, str, bytes]:
    """The answer to `data` from a server that closes the connection afterwards."""
    async with connected(sandbox) as (reader, writer):
        writer.write(data)
        answer = await one_answer(reader)
        writer.write_eof()
        assert await reader.read() == b""
        return answer


def said_by_page(number: str, **differences: str) -> dict[str, str]:
    """The page's own example."""
    return {
        "number": number,
        "whatsapp": "yes",
        "status_update": "20180825",
        "signature": "Saya suka global",
        "business_user": "no",
        "avatar": "yes",
    } | differences


def called(heads: list[str]) -> list[dict[str, str]]:
    return [dict(parse_qsl(head.split(" ")[1].partition("?")[2])) for head in heads]
