"""The client against the sandbox, on real sockets: the two count the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import (
    AddFace,
    AsyncClient,
    Call,
    Charge,
    DeleteFace,
    FaceCompare,
    FaceNotFoundError,
    IdHolding,
    ImageTooLargeError,
    InvalidRequestError,
    Judgment,
    NotSentError,
    PersonNotFoundError,
    RefusedError,
    Retry,
    RetryLaterError,
    SearchFace,
    WhatsAppDetail,
    WhatsAppState,
)
from aisolution_async.sandbox import Sandbox
from aisolution_async.wire.transport import PoolTransport

from .support import flat_picture, picture, raw_server


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(sandbox.token, base_url=sandbox.url, retry=Retry(first=0.001, longest=0.001)) as client:
        yield client


async def test_faces(client: AsyncClient, sandbox: Sandbox, tmp_path: Path) -> None:
    selfie, card = tmp_path / "selfie.jpg", tmp_path / "card.jpg"
    selfie.write_bytes(picture(1))
    card.write_bytes(picture(1, (200, 150), quality=60))
    same = await client.face_compare(selfie, card)
    assert same.result is Judgment.SAME_PERSON
    assert same.similarity > 90
    other = await client.face_compare(selfie, picture(2))
    assert other.result is Judgment.NOT_SAME_PERSON
    with pytest.raises(FaceNotFoundError):
        await client.face_compare(selfie, flat_picture())
    with pytest.raises(InvalidRequestError):
        await client.face_compare(selfie, b"\x00\x01 no picture")
    with pytest.raises(FaceNotFoundError):
        await client.id_holding(flat_picture())

    added = await client.add_face(selfie)
    again = await client.add_face(card)
    assert (added.person_id, added.person_count, again.person_count) == (again.person_id, 1, 2)
    found = await client.search_face(picture(1, quality=40))
    assert [match.person_id for match in found.matches] == [added.person_id]
    await client.delete_face(added.person_id)
    assert (await client.search_face(selfie)).matches == []
    with pytest.raises(PersonNotFoundError):
        await client.delete_face(added.person_id)
    assert sandbox.bill == client.tally
    assert (client.tally.charged, client.tally.unknown) == (4, 0)


async def test_a_picture_that_is_too_large_for_the_vendor(client: AsyncClient, sandbox: Sandbox) -> None:
    view = client.with_options(max_image_bytes=4_000_000)
    with pytest.raises(ImageTooLargeError):
        await view.face_compare(picture(1) + bytes(2 * 1024 * 1024), picture(1))
    assert sandbox.bill == client.tally


async def test_whatsapp(client: AsyncClient, sandbox: Sandbox) -> None:
    states = set()
    for number in range(40):
        profile = await client.whatsapp_detail(f"+6281{number:09}", country="ID")
        if profile.whatsapp == WhatsAppState.CHECKING:
            assert profile.charge is Charge.FREE
            profile = await client.whatsapp_detail(f"+6281{number:09}", country="ID")
        states.add(profile.whatsapp)
    assert states == {WhatsAppState.YES, WhatsAppState.NO}
    assert sandbox.bill == client.tally
    assert client.tally.charged == 40


async def test_a_wrong_token(sandbox: Sandbox) -> None:
    async with AsyncClient("wrong", base_url=sandbox.url) as client:
        with pytest.raises(RefusedError, match="401; check the token") as caught:
            await client.whatsapp_detail("6281387300008")
        assert caught.value.http_status == 401
        assert caught.value.charge is Charge.FREE
        assert sandbox.bill == client.tally


async def test_a_token_with_characters_that_need_quoting() -> None:
    token = "a+b/c=d&e%f g#ü?"
    async with Sandbox(token=token) as sandbox, AsyncClient(token, base_url=sandbox.url) as client:
        with pytest.raises(PersonNotFoundError):
            await client.delete_face("nobody")


async def test_nobody_is_there() -> None:
    async with Sandbox() as sandbox:
        url, token = sandbox.url, sandbox.token
    async with AsyncClient(token, base_url=url, retry=Retry(max_retries=1, first=0.001)) as client:
        with pytest.raises(NotSentError, match="no connection") as caught:
            await client.whatsapp_detail("6281387300008")
        assert [a.charge for a in caught.value.attempts] == [Charge.FREE] * 2


def mixed(count: int) -> Iterator[Call[Any]]:
    """Calls of every kind, one in five of them doomed."""
    rng = random.Random(7)
    photos = [picture(seed, (64, 48)) for seed in range(6)]
    flat = flat_picture()
    for key in range(count):
        number = f"62813{rng.randrange(10**8):08}"
        yield rng.choice(
            [
                FaceCompare(rng.choice(photos), rng.choice(photos), key=key),
                FaceCompare(rng.choice(photos), flat, key=key),
                IdHolding(rng.choice([*photos, flat, b"\x00nothing"]), key=key),
                AddFace(rng.choice([*photos, flat, b"\x00nothing"]), key=key),
                SearchFace(rng.choice([*photos, flat]), key=key),
                DeleteFace("nobody", key=key),
                WhatsAppDetail(number, key=key),
                WhatsAppDetail(number, country="ID", servstatus=True, key=key),
                WhatsAppDetail("081" + "9" * 14, key=key),
                WhatsAppDetail("not a number", key=key),
            ]
        )


async def test_the_bill_is_the_tally(client: AsyncClient, sandbox: Sandbox) -> None:
    keys = set()
    async with client.batch(mixed(2_000), concurrency=64) as batch:
        async for outcome in batch:
            keys.add(outcome.key)
    assert keys == set(range(2_000))
    assert batch.progress.failed > 200
    assert sandbox.bill == client.tally == batch.tally
    assert client.tally.unknown == 0
    assert set(client.tally.by_endpoint) == {
        "facecompare",
        "idholding",
        "addface",
        "searchface",
        "delface",
        "gliswadetail",
    }


async def test_a_vendor_that_is_busy_for_a_while(sandbox: Sandbox) -> None:
    """Other transports take part in the same path: here httpx's own, behind a wrapper that refuses at first."""

    class Busy(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            self.inner = httpx.AsyncHTTPTransport()
            self.asked = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.asked % 3 == 0:
                return httpx.Response(503)
            return await self.inner.handle_async_request(request)

        async def aclose(self) -> None:
            await self.inner.aclose()

    async with AsyncClient(
        sandbox.token, base_url=sandbox.url, transport=Busy(), retry=Retry(max_retries=20, first=0.001, longest=0.01)
    ) as client:
        async with client.batch((WhatsAppDetail(f"62813{n:08}") for n in range(100)), concurrency=8) as batch:
            assert all([outcome.ok async for outcome in batch])
        assert client.tally.charged == sandbox.bill.charged
        assert client.tally.free > sandbox.bill.free


async def test_httpx_own_transport_says_what_left(sandbox: Sandbox) -> None:
    """A cancelled or timed out call on httpx's transport: not sent while it connects, unknown after."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        hold.set()
        await reader.read()

    hold = asyncio.Event()
    async with (
        raw_server(accept) as url,
        AsyncClient("t", base_url=url, transport=httpx.AsyncHTTPTransport()) as client,
    ):
        task = asyncio.create_task(client.whatsapp_detail("6281387300008"))
        await hold.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.tally.unknown == 1
        early = asyncio.create_task(client.whatsapp_detail("6281387300008"))
        await asyncio.sleep(0)
        early.cancel()
        with pytest.raises(asyncio.CancelledError):
            await early
        assert client.tally.unknown == 1


async def test_the_pools_short_way_sends_what_any_transport_would() -> None:
    """The library's own pool is asked without httpx's objects; the bytes must be those of the long way."""

    class Plain(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            self.pool = PoolTransport()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await self.pool.handle_async_request(request)

        async def aclose(self) -> None:
            await self.pool.aclose()

    received: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        received.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 429 Slow Down\r\nretry-after: 7200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with raw_server(answer) as place:
        url = f"{place}/pre%20fix/"
        for transport in (None, Plain(), httpx.AsyncHTTPTransport()):
            async with AsyncClient("t %+&=ü", base_url=url, transport=transport) as client:
                for call in (FaceCompare(picture(1), picture(2) * 30), WhatsAppDetail("+6281387300008", country="ID")):
                    with pytest.raises(RetryLaterError) as caught:
                        await client.send(call)
                    assert caught.value.retry_after == 7200
    assert len(received) == 6
    assert received[:2] == received[2:4] == received[4:]
    assert received[0].startswith(
        b"POST /pre%20fix/v1/facecompare?token=t%20%25%2B%26%3D%C3%BC HTTP/1.1\r\nHost: 127.0.0.1:"
    )
