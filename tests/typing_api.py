"""The public types, as a user's mypy sees them. Checked in CI by mypy --strict, and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

from aisolution_async import (
    Adaptive,
    AddedFace,
    AddFace,
    AISolutionError,
    Answered,
    AsyncClient,
    Attempt,
    Call,
    Charge,
    DeletedFace,
    DeleteFace,
    FaceCompare,
    FaceComparison,
    FaceMatches,
    Failed,
    IdHolding,
    Judgment,
    NewWord,
    Recheck,
    Retry,
    SearchFace,
    Tally,
    WhatsAppDetail,
    WhatsAppProfile,
    WhatsAppState,
)


async def calls_and_replies(client: AsyncClient) -> None:
    assert_type(await client.send(FaceCompare("a.jpg", Path("b.jpg"), key=7)), FaceComparison)
    assert_type(await client.send(IdHolding(img=b"")), FaceComparison)
    assert_type(await client.send(AddFace(img=bytearray())), AddedFace)
    assert_type(await client.send(SearchFace(memoryview(b""))), FaceMatches)
    assert_type(await client.send(DeleteFace(person_id="p")), DeletedFace)
    assert_type(await client.send(WhatsAppDetail(number="62", country="ID", servstatus=True)), WhatsAppProfile)
    with Path("a.jpg").open("rb") as file:
        face = await client.face_compare(file, "b.jpg", key="k")
    assert_type(face.similarity, float)
    assert_type(face.result, Judgment | NewWord)
    assert_type(face.charge, Charge)
    assert_type(face.attempts, tuple[Attempt, ...])
    profile = await client.whatsapp_detail("62")
    assert_type(profile.whatsapp, WhatsAppState | NewWord)
    assert_type(profile.number, str | None)


async def mixed() -> AsyncIterator[Call[Any]]:
    yield FaceCompare("a", "b")
    yield WhatsAppDetail("62")


async def batches(client: AsyncClient) -> None:
    async with client.batch(mixed(), concurrency=Adaptive(min=2), rate=3.5, recheck=Recheck(first=30)) as batch:
        async for outcome in batch:
            assert_type(outcome, Answered[Any] | Failed)
            assert_type(outcome.error, AISolutionError | None)
            if isinstance(outcome.reply, FaceComparison):
                assert_type(outcome.reply.similarity, float)
    assert_type(batch.tally, Tally)
    assert_type(batch.unread, list[Answered[Any] | Failed])
    client.batch([FaceCompare("a", "b"), DeleteFace("p")])
    client.batch((WhatsAppDetail(n) for n in ("62",)), ledger=Path("x.ledger"), max_cost=Decimal(1))


def views(client: AsyncClient) -> None:
    assert_type(client.with_options(deadline=None, retry=Retry(max_retries=1), timeout=3.0), AsyncClient)
    assert_type(client.tally.by_endpoint["facecompare"].charged, int)


async def mistakes(client: AsyncClient) -> None:
    await client.send("62813")  # type: ignore[arg-type]
    FaceCompare("a")  # type: ignore[call-arg]
    FaceCompare("a", "b", "key")  # type: ignore[call-arg]
    client.batch([], concurrency="many")  # type: ignore[arg-type]
