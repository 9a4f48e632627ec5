"""What the tests of batches share: lists of calls, and vendors that take their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from aisolution_async import AsyncClient, Batch, Outcome, WhatsAppDetail

from .support import TOKEN, Vendor, echo_number, ok_whatsapp


def asks(count: int, *, distinct: int | None = None, first: int = 0) -> Iterator[WhatsAppDetail]:
    """So many look-ups, the numbers of which are distinct or come again."""
    for number in range(count):
        yield WhatsAppDetail(f"62813{first + number % (distinct or count):08}", key=number)


async def asks_later(count: int) -> AsyncIterator[WhatsAppDetail]:
    """The same, one after the other."""
    for call in asks(count):
        await asyncio.sleep(0.001)
        yield call


async def taken(batch: Batch[Any]) -> list[Outcome]:
    """All outcomes of a batch."""
    async with batch:
        return [outcome async for outcome in batch]


def slow(seconds: float) -> Vendor:
    """A vendor that needs so long for an answer."""

    async def script(request: object, number: int) -> Any:
        await asyncio.sleep(seconds)
        return ok_whatsapp()

    return Vendor(script)


class Desk:
    """A vendor on a real socket that answers when it is told to."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Request] = asyncio.Queue()
        """The requests that came, oldest first."""
        self._came: list[Request] = []

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[AsyncClient]:
        """A client of it, on the library's own pool."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                async with AsyncClient(TOKEN, base_url=f"http://127.0.0.1:{port}", **options) as client:
                    yield client
            finally:
                for request in self._came:  # a server ends when its connections have, and nobody answers these any more
                    request.body.cancel()

    async def answer_all(self) -> None:
        """From now on, answer each request as it comes."""
        while True:
            (await self.waiting.get()).answer()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                request = Request(parse_qs((await reader.readexactly(length)).decode()))
                self._came.append(request)
                self.waiting.put_nowait(request)
                body = await request.body
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # nobody asks any more, or waits for an answer
        finally:
            writer.close()


class Request:
    """A request that waits for its answer."""

    def __init__(self, form: dict[str, list[str]]) -> None:
        self.number = form["number"][0]
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._form = form

    def answer(self) -> None:
        """The number is on WhatsApp."""
        self.body.set_result(echo_number(ok_whatsapp().content, self._form))
