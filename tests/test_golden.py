"""Identity does not move: what was asked with the code of then is the same question to the code of now.

Every file of `golden/` is a ledger as some version wrote it, left by a process that was killed. It is opened again, and
the same questions are asked in every way that is the same, of a vendor who must not be asked anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from aisolution_async import (
    AddedFace,
    AddFace,
    AsyncClient,
    BudgetExhaustedError,
    Call,
    Charge,
    DeleteFace,
    FaceCompare,
    Inbox,
    Ledger,
    Outcome,
    OutcomeUnknownError,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.bulk import run_bulk
from aisolution_async.ledger import State
from aisolution_async.ledger.store import Ask, Expected, Verdict

from .golden import questions
from .golden.make import FOLDER, MESSAGES, MISFIT, Vendor, answer, dump, rebuild, write
from .golden.questions import ANSWERED, AWAITED, BROKEN, FORGIVEN, RESET, SETTLED, STRANGE, UNDER_WAY, Question

VERSIONS = sorted(int(file.stem.removeprefix("v")) for file in FOLDER.glob("v*.sql"))
HELD = (RESET, BROKEN, STRANGE, SETTLED, UNDER_WAY)


class Golden:
    """A ledger as it was left, in a file of its own."""

    def __init__(self, version: int, folder: Path) -> None:
        text = (FOLDER / f"v{version}.sql").read_text(encoding="utf-8")
        self.version = version
        self.folder = folder
        self.path = folder / "golden.ledger"
        rebuild(text, self.path)
        first = text.partition("\n")[0]
        self.inbox = first.removeprefix("-- inbox ") if first.startswith("-- inbox ") else None
        """Where the vendor was told to call back, if it was."""
        self.vendor = Vendor()
        self.sent: list[str] = []
        self.answers = False
        self.vendor.script = self._take

    def _take(self, endpoint: str, form: dict[str, str]) -> Any:
        self.sent.append(endpoint)
        return answer(endpoint, form) if self.answers else AssertionError("it must not be asked")

    def client(self, **options: Any) -> AsyncClient:
        options = {"base_url": questions.VENDOR, "ledger": self.path, "retry": 0, **options}
        return AsyncClient(questions.TOKEN, transport=self.vendor.transport, **options)

    def known(self, asked: Iterable[Question]) -> list[Question]:
        return [question for question in asked if question.since <= self.version]

    def ways(self, asked: Iterable[Question]) -> Iterator[Call[Any]]:
        for question in self.known(asked):
            yield from question.ways(self.folder)


@pytest.fixture(params=VERSIONS, ids=lambda version: f"v{version}")
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


def is_as_it_was(outcome: Outcome) -> bool:
    """Whether it has the answer that was given then."""
    reply = outcome.reply
    if reply is None or outcome.call is None or not outcome.from_ledger or outcome.attempts:
        return False
    if isinstance(reply, AddedFace):
        return (reply.person_id, reply.person_count) == ("c5r7jedkujdbnasarhn0", 3)
    said = reply.model_dump(exclude={"number"})
    expected = MESSAGES[outcome.call.endpoint.name]
    return said == ({"matches": expected} if isinstance(expected, list) else expected or {})


async def one_by_one(client: AsyncClient, calls: Iterable[Call[Any]]) -> list[Outcome]:
    """The outcomes of `send`."""
    outcomes: list[Outcome] = []
    view = client.with_options(on_outcome=outcomes.append)
    for call in calls:
        with contextlib.suppress(OutcomeUnknownError):
            await view.send(call)
    return outcomes


async def together(client: AsyncClient, calls: Iterable[Call[Any]], **options: Any) -> list[Outcome]:
    async with client.batch(calls, **options) as batch:
        return [outcome async for outcome in batch]


OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "made to fit": {"fit": True},
    "by the usual address": {"base_url": None},
    "by another address of the same host": {"base_url": "https://API.aisolution.credit:443/"},
}


@pytest.mark.parametrize(
    ("golden", "options"),
    [
        pytest.param(
            version,
            options,
            id=f"v{version}, {options}",
            marks=[] if options == "as it is" or version in (VERSIONS[0], VERSIONS[-1]) else pytest.mark.long,
        )
        for version in VERSIONS
        for options in OPTIONS
    ],
    indirect=["golden"],
)
async def test_one_by_one(golden: Golden, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AISOLUTION_BASE_URL", raising=False)
    async with golden.client(**OPTIONS[options]) as client:
        outcomes = await one_by_one(client, golden.ways(ANSWERED))
        assert outcomes
        assert all(map(is_as_it_was, outcomes))
        for held in HELD:
            is_held(golden, held, await one_by_one(client, golden.ways(held)))
        assert (client.tally.charged, client.tally.free, client.tally.unknown) == (0, 0, 0)
    assert golden.sent == []


@pytest.mark.parametrize("dedupe", [True, False])
async def test_all_at_once(golden: Golden, dedupe: bool) -> None:
    """In a batch, whatever asks the same as one before it has that one's answer."""
    async with golden.client() as client:
        outcomes = await together(client, golden.ways(ANSWERED), dedupe=dedupe)
        assert all(outcome.ok for outcome in outcomes)
        assert all(is_as_it_was(outcome) for outcome in outcomes if outcome.answered_by is None)
        for held in HELD:
            outcomes = await together(client, golden.ways(held), dedupe=dedupe)
            assert not any(outcome.ok for outcome in outcomes)
            is_held(golden, held, [outcome for outcome in outcomes if outcome.answered_by is None])
        assert (client.tally.charged, client.tally.free, client.tally.unknown) == (0, 0, 0)
    assert golden.sent == []


def is_held(golden: Golden, asked: tuple[Question, ...], outcomes: list[Outcome]) -> None:
    """Assert that all of them are, for the reason that there was."""
    charge = Charge.CHARGED if asked is SETTLED else Charge.UNKNOWN
    message: object = MISFIT if asked is BROKEN else None
    if asked is STRANGE and golden.version > 2:  # what cannot be read was not kept before
        message = "no more"
    assert len(outcomes) >= len(golden.known(asked))
    for outcome in outcomes:
        error = outcome.error
        assert isinstance(error, OutcomeUnknownError), outcome.key
        assert error.recorded is not None
        assert (error.recorded.charge, error.message, outcome.attempts) == (charge, message, ())


async def test_through_a_file(golden: Golden) -> None:
    """`bulk` asks many calls of the ledger at a time."""
    calls = [call for call in golden.ways(ANSWERED) if isinstance(call, WhatsAppDetail)]
    source, output = golden.folder / "list.csv", golden.folder / "out.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("number", "country"), *((call.number, call.country or "") for call in calls)])
    async with golden.client() as client:
        summary = await run_bulk(client, WhatsAppDetail, source, output, ledger=golden.path)
    assert golden.sent == []
    assert (summary.rows, summary.ok, summary.failed) == (len(calls), len(calls), 0)
    assert summary.from_ledger + summary.shared == len(calls)


async def test_what_was_under_way_is_unknown(golden: Golden) -> None:
    with closing(sqlite3.connect(golden.path)) as db:
        before = Counter(state for (state,) in db.execute("SELECT state FROM attempts"))
    async with golden.client() as client:
        await one_by_one(client, golden.ways(UNDER_WAY))
    assert golden.sent == []
    found = {record.key: record for record in Ledger(golden.path).attempts() if record.state is State.UNKNOWN}
    names = [*(question.name for question in UNDER_WAY), *(["sent"] if golden.inbox else [])]
    for name in [*names, None]:  # None is a face that was added without a key
        assert found[name].error == "the process ended before the answer"
    after = Counter(str(record.state) for record in Ledger(golden.path).attempts() if record.state != State.INTENDED)
    assert after == before + Counter(unknown=len(names) + 1)


async def test_the_budget_goes_on(golden: Golden) -> None:
    async with golden.client(max_charges=0) as client:
        (outcome,) = await together(client, [WhatsAppDetail("+6281387300099")])
    assert isinstance(outcome.error, BudgetExhaustedError)
    records = list(Ledger(golden.path).attempts())
    spent = sum(record.state is State.CHARGED for record in records)
    spent += sum(record.state is State.UNKNOWN and record.endpoint != "addface" for record in records)
    spent += 2 if golden.inbox else 0  # set aside for callbacks
    for limit, left in ((spent, 0), (spent + 1, 1)):
        golden.answers = True
        async with golden.client(max_charges=limit) as client:
            (outcome,) = await together(client, [WhatsAppDetail(f"+62813873001{left:02}")])
        assert outcome.ok is bool(left), limit


# ----------------------------------------------------------------------------------------------- other questions


async def test_other_questions_are_others(golden: Golden) -> None:
    """Nothing is taken for the same that is not."""
    bmp, jpeg = questions.BMP, questions.JPEG
    golden.answers = True
    others: list[Call[Any]] = [
        WhatsAppDetail("+6281387300099"),
        WhatsAppDetail("+84912345677"),
        FaceCompare(jpeg, bmp),
        FaceCompare(bmp, bmp),
        FaceCompare(bmp, jpeg + b"\0"),
        AddFace(jpeg, key="another"),
        AddFace(jpeg),
        AddFace(bmp, key="add-face"),
        DeleteFace("c5r7jedkujdbnasarhn0", key="another"),
        DeleteFace("c5r7jedkujdbnasarhn1", key="delete-face"),
        next(FORGIVEN[0].ways(golden.folder)),
    ]
    async with golden.client() as client:
        await together(client, others, dedupe=False)
    assert len(golden.sent) == len(others)


async def test_another_vendor_is_asked(golden: Golden) -> None:
    golden.answers = True
    asked = golden.known(ANSWERED + RESET + BROKEN + STRANGE + SETTLED + UNDER_WAY)
    async with golden.client(base_url="https://vendor.example") as client:
        await together(client, [question.asked(golden.folder) for question in asked])
    assert len(golden.sent) == len(asked)


async def test_held_ones_are_sent_where_that_is_allowed(golden: Golden) -> None:
    golden.answers = True
    asked = golden.known(RESET + SETTLED)
    async with golden.client() as client:
        await together(client, [question.asked(golden.folder) for question in asked], retry_unknown=1)
    assert len(golden.sent) == len(asked)


# --------------------------------------------------------------------------------------------------- by callback


class Watched(Ledger):
    """A ledger that says what it was asked last."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.verdict: asyncio.Queue[Verdict] = asyncio.Queue()

    async def begin(self, ask: Ask) -> Verdict:
        verdict = await super().begin(ask)
        self.verdict.put_nowait(verdict)
        return verdict


@pytest.fixture(params=VERSIONS[1:], ids=lambda version: f"v{version}")  # the first knew no callbacks
async def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Golden, Watched, Inbox]]:
    """A ledger whose callbacks are outstanding, and their inbox."""
    golden = Golden(request.param, tmp_path)
    async with Watched(golden.path) as ledger:
        yield golden, ledger, Inbox(questions.INBOX, ledger=ledger, patience=1e9)


def said(digits: str) -> str:
    return urlencode({"number": f"+{digits}", "whatsapp": "no"})


@pytest.mark.parametrize("name", AWAITED)
async def test_a_callback_after_the_restart(waiting: tuple[Golden, Watched, Inbox], name: str) -> None:
    """Nobody asks any more, and what is called back is believed, once, and answers who asks later."""
    golden, ledger, inbox = waiting
    assert inbox.url == golden.inbox
    number, digits = AWAITED[name]
    secret = inbox.url.rpartition("/")[2]
    await inbox.receive(secret, said("6281387300059"))
    assert inbox.counts.strange == 1
    await inbox.receive(secret, said(digits))
    await inbox.receive(secret, said(digits))
    assert (inbox.counts.accepted, inbox.counts.repeated, inbox.counts.strange) == (1, 1, 1)
    async with golden.client(ledger=ledger) as client:
        outcomes = await one_by_one(client, [WhatsAppDetail(number), WhatsAppDetail(number, servstatus=True)])
        outcomes += await together(client, [WhatsAppDetail(number)], inbox=inbox)
    assert golden.sent == []
    for outcome in outcomes:
        assert isinstance(outcome.reply, WhatsAppProfile)
        assert (outcome.reply.whatsapp, outcome.from_ledger) == ("no", True)


@pytest.mark.parametrize("name", AWAITED)
async def test_a_callback_to_who_asks_again(waiting: tuple[Golden, Watched, Inbox], name: str) -> None:
    """Whoever asks again sends nothing, and waits for the callback that was asked for then."""
    golden, ledger, inbox = waiting
    number, digits = AWAITED[name]
    async with golden.client(ledger=ledger) as client:
        task = asyncio.create_task(together(client, [WhatsAppDetail(number)], inbox=inbox))
        assert isinstance(await ledger.verdict.get(), Expected)
        await inbox.receive(inbox.url.rpartition("/")[2], said(digits))
        (outcome,) = await task
    assert isinstance(outcome.reply, WhatsAppProfile)
    assert outcome.reply.whatsapp == "no"
    assert golden.sent == []
    assert inbox.counts.accepted == 1


@pytest.mark.parametrize("name", ["lost", "sent"])
async def test_what_was_lost_is_held_whoever_asks(waiting: tuple[Golden, Watched, Inbox], name: str) -> None:
    """A callback may come for it, and who asks without one is not to pay for it twice."""
    golden, ledger, _ = waiting
    async with golden.client(ledger=ledger) as client:
        (outcome,) = await one_by_one(client, [WhatsAppDetail(AWAITED[name][0])])
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert golden.sent == []


# -------------------------------------------------------------------------------------------------------- making


async def test_the_code_of_now_writes_what_it_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A golden ledger for the version of now can be made at any time; one for a new version has to be."""
    text = await write(tmp_path / "first.ledger", tmp_path)
    rebuild(text, tmp_path / "second.ledger")
    again = dump(tmp_path / "second.ledger", text.partition("\n")[0].removeprefix("-- inbox "))
    assert again == text
    (version,) = (line for line in text.splitlines() if line.startswith("PRAGMA user_version"))
    assert version == f"PRAGMA user_version = {VERSIONS[-1]};", "python -m tests.golden.make makes one of this version"
