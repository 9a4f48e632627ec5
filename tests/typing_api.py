"""The public types, as a user's mypy and pyright see them.

Checked in CI by both, strict (`python -m tests.check_readme`), and never run. A mistake is marked as one for each:
`# type: ignore[…]  # pyright: ignore[…]`; both say so where it is none.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import assert_never, assert_type
from uuid import UUID

from aiohttp import web
from fastapi import UploadFile

from aisolution_async import (
    Adaptive,
    AddedFace,
    AddFace,
    AISolutionError,
    Answered,
    AsyncClient,
    Attempt,
    Batch,
    Call,
    Charge,
    DeletedFace,
    DeleteFace,
    FaceCompare,
    FaceComparison,
    FaceMatches,
    Failed,
    IdHolding,
    InputError,
    Judgment,
    NewWord,
    Outcome,
    Recheck,
    Reply,
    Retry,
    SearchFace,
    Tally,
    WhatsAppDetail,
    WhatsAppProfile,
    WhatsAppState,
)
from aisolution_async.bulk import (
    BulkOptions,
    Estimate,
    FolderSummary,
    Forecast,
    Summary,
    forecast_bulk,
    run_bulk,
    run_folder,
    sample_bulk,
)


async def lists_in_files(client: AsyncClient) -> None:
    done = await run_bulk(client, [FaceCompare, WhatsAppDetail], "in.csv", Path("out.csv"), key="id", concurrency=9)
    assert_type(done, Summary)
    assert_type(await forecast_bulk(client, call=WhatsAppDetail, source="in.csv", ledger="a.ledger"), Forecast)
    assert_type(await run_folder(client, WhatsAppDetail, "lists", "results", ledger="a.ledger"), FolderSummary)
    assert_type(await sample_bulk(client, WhatsAppDetail, "in.csv", "out.csv", 100, ledger="a.ledger"), Estimate)
    assert_type(BulkOptions(prices={"whatsapp-detail": Decimal("0.05")}).concurrency, int)
    await run_bulk(client, WhatsAppDetail, "in.csv", "out.csv", key=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_bulk(client, WhatsAppDetail, "in.csv", "out.csv", kye="id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def calls_and_replies(client: AsyncClient) -> None:
    assert_type(await client.send(FaceCompare("a.jpg", Path("b.jpg"), key=7)), FaceComparison)
    assert_type(await client.send(IdHolding(img=b"")), FaceComparison)
    assert_type(await client.send(AddFace(img=bytearray())), AddedFace)
    assert_type(await client.send(SearchFace(memoryview(b""))), FaceMatches)
    assert_type(await client.send(DeleteFace(person_id="p")), DeletedFace)
    assert_type(await client.send(WhatsAppDetail(number="62", country="ID", servstatus=True)), WhatsAppProfile)
    face = await client.face_compare("a.jpg", "b.jpg", key="k")
    assert_type(face.similarity, float)
    assert_type(face.result, Judgment | NewWord)
    assert_type(face.charge, Charge)
    assert_type(face.attempts, tuple[Attempt, ...])
    profile = await client.whatsapp_detail("62")
    assert_type(profile.whatsapp, WhatsAppState | NewWord)
    assert_type(profile.number, str | None)


async def images(client: AsyncClient, form: web.FileField, upload: UploadFile, archive: zipfile.ZipFile) -> None:
    await client.id_holding(form.file)
    await client.id_holding(upload.file)
    with Path("a.jpg").open("rb") as file:
        await client.id_holding(file)
    with Path("a.jpg").open("rb", buffering=0) as raw:
        await client.id_holding(raw)
    with archive.open("a.jpg") as member:
        await client.id_holding(member)
    with tempfile.TemporaryFile() as temporary, tempfile.SpooledTemporaryFile() as spooled:
        await client.face_compare(temporary, spooled)
    await client.id_holding(io.BytesIO())
    with Path("a.jpg").open() as text:
        await client.id_holding(text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.id_holding(upload)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.id_holding(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def listed_words(face: FaceComparison, profile: WhatsAppProfile) -> str:
    match face.result:
        case Judgment.SAME_PERSON:
            pass
        case Judgment.NOT_SAME_PERSON:
            pass
        case Judgment.NOT_SURE:
            pass
        case word:
            assert_type(word, NewWord)
    match face.result:
        case Judgment.SAME_PERSON | Judgment.NOT_SAME_PERSON:
            pass
        case word:  # one was forgotten, and is told from a new word
            assert_type(word, NewWord)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    match profile.whatsapp:
        case WhatsAppState.YES | WhatsAppState.NO:
            return "answered"
        case WhatsAppState.CHECKING | WhatsAppState.UNAVAILABLE:
            return "not yet"
        case str(word):
            assert_type(word, NewWord)
            return word


def as_text(face: FaceComparison) -> bool:
    text: str = face.result
    return face.result == "SAME PERSON" or face.result in ("NOT SURE", Judgment.NOT_SAME_PERSON) or text == "a new word"


def listed_words_alone(face: FaceComparison) -> int:
    if isinstance(face.result, Judgment):
        assert_type(face.result, Judgment)
        match face.result:
            case Judgment.SAME_PERSON | Judgment.NOT_SURE:
                return 1
            case Judgment.NOT_SAME_PERSON:
                return 0
            case _:
                assert_never(face.result)
    assert_type(face.result, NewWord)
    return len(face.result)


def by_match(outcome: Answered[WhatsAppProfile] | Failed) -> str:
    match outcome:
        case Answered(key, reply):
            assert_type(key, str | int | UUID | None)
            assert_type(reply, WhatsAppProfile)
            return reply.whatsapp
        case Failed(_, error):
            assert_type(error, AISolutionError)
            return error.charge


def by_class(outcome: Answered[WhatsAppProfile] | Failed) -> None:
    assert isinstance(outcome, Outcome)
    if isinstance(outcome, Answered):
        assert_type(outcome, Answered[WhatsAppProfile])
        assert_type(outcome.reply, WhatsAppProfile)
        assert_type(outcome.call, Call[WhatsAppProfile])
    else:
        assert_type(outcome, Failed)
        assert_type(outcome.error, AISolutionError)


def by_error(outcome: Answered[WhatsAppProfile] | Failed) -> None:
    if outcome.error is None:
        assert_type(outcome, Answered[WhatsAppProfile])
        assert_type(outcome.reply, WhatsAppProfile)
    else:
        assert_type(outcome, Failed)
    if outcome.ok is True:
        assert_type(outcome.reply, WhatsAppProfile)
    else:
        assert_type(outcome.error, AISolutionError)
    if outcome.reply is not None:
        assert_type(outcome, Answered[WhatsAppProfile])


def of_any(outcome: Outcome) -> None:
    assert_type(outcome.charge, Charge)
    assert_type(outcome.reply, Reply | None)
    if isinstance(outcome.reply, FaceComparison):
        assert_type(outcome.reply.similarity, float)
    if isinstance(outcome, Failed):
        assert_type(outcome.error, AISolutionError)
    assert_type(outcome.to_dict(), dict[str, bool | int | float | str | None])


async def numbers() -> AsyncIterator[WhatsAppDetail | AISolutionError]:
    yield WhatsAppDetail("62", key="A-1")
    yield InputError("row 2 has no number", key="A-2")


def faces() -> Iterator[FaceCompare | IdHolding]:
    yield FaceCompare("a", "b")
    yield IdHolding("c")


async def one_kind(client: AsyncClient) -> None:
    async with client.batch(numbers(), concurrency=Adaptive(min=2), rate=3.5, recheck=Recheck(first=30)) as batch:
        async for outcome in batch:
            assert_type(outcome, Answered[WhatsAppProfile] | Failed)
    assert_type(batch, Batch[WhatsAppProfile])
    assert_type(batch.tally, Tally)
    assert_type(batch.unread, list[Answered[WhatsAppProfile] | Failed])
    assert_type(client.batch(faces()), Batch[FaceComparison])
    assert_type(client.batch([DeleteFace("p")]), Batch[DeletedFace])
    generated = client.batch((WhatsAppDetail(n) for n in ("62",)), ledger=Path("x.ledger"), max_cost=Decimal(1))
    assert_type(generated, Batch[WhatsAppProfile])
    listed: list[WhatsAppDetail | AISolutionError] = [WhatsAppDetail("62"), InputError("row 2 has no number")]
    assert_type(client.batch(listed), Batch[WhatsAppProfile])
    # Of a list written in place, mypy has to be told what its calls answer.
    told: Batch[WhatsAppProfile] = client.batch([WhatsAppDetail("62"), InputError("row 2 has no number")])
    assert_type(told, Batch[WhatsAppProfile])


async def a_mix(client: AsyncClient) -> None:
    batch: Batch[FaceComparison | WhatsAppProfile] = client.batch([FaceCompare("a", "b"), WhatsAppDetail("62")])
    async with batch:
        async for outcome in batch:
            match outcome:
                case Answered(_, FaceComparison() as face):
                    assert_type(face.similarity, float)
                case Answered(_, WhatsAppProfile() as profile):
                    assert_type(profile.number, str | None)
                case Answered(_, reply):
                    print(reply)
                case Failed(_, error):
                    assert_type(error.charge, Charge)
    # Without the annotation, pyright says the union, and mypy Batch[Reply].
    unsaid = client.batch([FaceCompare("a", "b"), WhatsAppDetail("62")])
    async with unsaid:
        async for each in unsaid:
            if each.ok is True and isinstance(each.reply, FaceComparison):
                assert_type(each.reply.similarity, float)
    said: Batch[FaceComparison | WhatsAppProfile]
    said = client.batch([FaceCompare("a", "b"), WhatsAppDetail("62"), InputError("row 3 is empty")])
    assert_type(said.unread, list[Answered[FaceComparison | WhatsAppProfile] | Failed])


async def lists(client: AsyncClient) -> None:
    assert_type(await client.collect(numbers()), list[Answered[WhatsAppProfile] | Failed])
    assert_type(await client.collect(faces(), total=2, max_charges=1), list[Answered[FaceComparison] | Failed])
    into: list[Answered[FaceComparison | DeletedFace] | Failed] = []
    mixed: list[FaceCompare | DeleteFace] = [FaceCompare("a", "b"), DeleteFace("p")]
    assert_type(await client.collect(mixed, into=into), list[Answered[FaceComparison | DeletedFace] | Failed])


def views(client: AsyncClient) -> None:
    assert_type(client.with_options(deadline=None, retry=Retry(max_retries=1), timeout=3.0), AsyncClient)
    assert_type(client.tally.by_endpoint["facecompare"].charged, int)


async def mistakes(client: AsyncClient, outcome: Answered[WhatsAppProfile] | Failed) -> None:
    await client.send("62813")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FaceCompare("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    FaceCompare("a", "b", "key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.batch([], concurrency="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.batch([], concurency=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.batch(["62813"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.batch(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.collect([], ordered="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(outcome.reply.whatsapp)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    print(outcome.error.charge)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    outcome.index = 7  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
