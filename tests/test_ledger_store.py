"""The ledger: what is promised of one attempt, of the budget, of dead owners, of broken files, of kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aisolution_async import AISolutionError, Attempt, Charge, ConfigurationError, clock
from aisolution_async.ledger import (
    Ask,
    Busy,
    Exhausted,
    Expected,
    Held,
    Ledger,
    LedgerError,
    Result,
    Started,
    State,
    Stored,
    owners,
    schema,
    sqlite,
)
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.rows import AT_STAKE, DIED, LEFT, TO_COME

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
REPLY = b'{"whatsapp": "yes", "number": "+6281387300008"}'
WHATSAPP = "gliswadetail"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.ledger"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with Ledger(path, synchronous="off") as ledger:
        yield ledger


def attempt(charge: Charge, *, ago: float = 0.0, elapsed: float = 0.25, error: str | None = None) -> Attempt:
    began = clock.today() - datetime.timedelta(seconds=ago + elapsed)
    return Attempt(charge, None if error else "OK", None if error else 200, began, elapsed, error)


def answered(ago: float = 0.0, reply: bytes = REPLY) -> Result:
    return Result(attempt(CHARGED, ago=ago), reply=reply, answer=True)


LOST = Result(attempt(UNKNOWN, error="no answer within 30 s"))
LATER = Result(attempt(FREE))
UNSENT = Result(attempt(FREE, error="no connection"), sent=False)


def ask(ledger: Ledger, number: object = 1, **options: Any) -> Ask:
    endpoint = options.pop("endpoint", WHATSAPP)
    return Ask(endpoint, ledger.identity(endpoint, [("number", str(number))]), **options)


async def start(ledger: Ledger, number: object = 1, **options: Any) -> Started:
    started = await ledger.begin(ask(ledger, number, **options))
    assert isinstance(started, Started), started
    return started


async def do(ledger: Ledger, result: Result, number: object = 1, **options: Any) -> Started:
    started = await start(ledger, number, **options)
    await ledger.end(started, result)
    return started


async def book_of(ledger: Ledger) -> Book:
    book: Book = await ledger._submit(lambda book: book)
    return book


async def crash(ledger: Ledger) -> None:
    """As if the process had died: the file is let go, and the lock, and nothing is written."""
    await ledger._submit(lambda book: book.close())


async def fail(ledger: Ledger, statement: str, *codes: int) -> None:
    """From now on, statements that begin like this fail, with these codes in turn and then no more."""
    book = await book_of(ledger)
    real, left = book._sql, list(codes)

    def sql(query: str, *values: Any) -> sqlite3.Cursor:
        if left and query.startswith(statement):
            error = sqlite3.OperationalError("no text of this is shown")
            error.sqlite_errorcode = left.pop(0)
            raise error
        return real(query, *values)

    book._sql = sql


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


RECOUNT = f"""SELECT endpoint, sum(state = 'intended'), sum(state = 'charged'), sum(state = 'free'),
    sum(state = 'not sent'), sum(state = 'unknown'), sum({AT_STAKE}), sum(CASE WHEN {AT_STAKE} THEN price ELSE 0 END)
    FROM (SELECT endpoint, state, may_charge, price FROM attempts
          UNION ALL SELECT endpoint, 'intended', may_charge, price FROM intents
          UNION ALL SELECT endpoint, CASE WHEN answered THEN 'unknown' ELSE 'intended' END, 1, price
          FROM outstanding WHERE reserved)
    GROUP BY endpoint ORDER BY endpoint"""


def check(path: Path) -> None:
    """The file is whole, and its totals are what its rows say."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT * FROM totals ORDER BY endpoint") == rows(path, RECOUNT)


# ------------------------------------------------------------------------------------------------- one attempt


async def test_an_answer_is_stored_and_given_again(ledger: Ledger) -> None:
    result = answered(reply='{"signature": "Ωμέγα 😀"}'.encode())
    await do(ledger, result, key="A-17")
    stored = await ledger.begin(ask(ledger))
    assert isinstance(stored, Stored)
    assert stored.reply == result.reply
    assert stored.attempt == dataclasses.replace(result.attempt, recorded=True)
    assert stored.answered_at == result.attempt.started_at + datetime.timedelta(seconds=0.25)
    assert "Ωμέγα" not in repr(stored) + repr(result)


async def test_the_intent_is_in_the_file_before_begin_returns_and_the_answer_before_end_does(ledger: Ledger) -> None:
    started = await start(ledger, key="A-17")
    assert rows(ledger.path, "SELECT id, key FROM intents") == [(started.id, '"A-17"')]
    assert rows(ledger.path, "SELECT count(*) FROM attempts") == [(0,)]
    await ledger.end(started, answered())
    assert rows(ledger.path, "SELECT count(*) FROM intents") == [(0,)]
    assert rows(ledger.path, "SELECT id, state, reply FROM attempts") == [(started.id, "charged", REPLY)]


@pytest.mark.parametrize(("mode", "level"), [("full", 2), ("normal", 1), ("off", 0)])
async def test_commits_are_synced_as_asked(path: Path, mode: Any, level: int) -> None:
    async with Ledger(path, synchronous=mode) as ledger:
        book = await book_of(ledger)
        pragmas = await ledger._submit(
            lambda _: [book._sql(f"PRAGMA {p}").fetchone()[0] for p in ("synchronous", "journal_mode")]
        )
    assert pragmas == [level, "wal"]


async def test_times_are_whole_microseconds(ledger: Ledger) -> None:
    began = datetime.datetime(2031, 5, 6, 7, 8, 9, 123457, tzinfo=datetime.UTC)
    await do(ledger, Result(Attempt(CHARGED, "OK", 200, began, 0.000003), reply=REPLY, answer=True))
    assert rows(ledger.path, "SELECT started_at, elapsed, typeof(elapsed) FROM attempts") == [
        (1_935_817_689_123_457, 3, "integer")
    ]
    stored = await ledger.begin(ask(ledger))
    assert isinstance(stored, Stored)
    assert (stored.attempt.started_at, stored.attempt.elapsed) == (began, 0.000003)


async def test_reuse_for(ledger: Ledger) -> None:
    await do(ledger, answered(ago=100))
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert isinstance(await ledger.begin(ask(ledger, reuse_for=200)), Stored)
    started = await start(ledger, reuse_for=50)
    # While it is asked anew, the old answer serves whoever takes it.
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    await ledger.end(started, answered(reply=b'{"new": 1}'))
    stored = await ledger.begin(ask(ledger, reuse_for=50))
    assert isinstance(stored, Stored)
    assert stored.reply == b'{"new": 1}'


async def test_an_older_answer_serves_after_attempts_without_one(ledger: Ledger) -> None:
    await do(ledger, answered(ago=100))
    await do(ledger, LATER, reuse_for=50)
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    await do(ledger, LOST, reuse_for=50)
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert isinstance(await ledger.begin(ask(ledger, reuse_for=50)), Held)
    # What holds whoever wants a newer answer is seen.
    assert ledger.summary().held == len(list(ledger.held())) == 1
    await do(ledger, answered(reply=b'{"new": 1}'), reuse_for=50, retry_unknown=1)
    assert ledger.summary().held == 0


@pytest.mark.parametrize(
    "result",
    [
        LATER,
        UNSENT,
        Result(attempt(FREE), reply=b'{"whatsapp": "checking"}', answer=False),
        Result(attempt(CHARGED), reply=None, answer=True),
    ],
)
async def test_what_is_no_answer_is_asked_again(ledger: Ledger, result: Result) -> None:
    await do(ledger, result)
    await do(ledger, result)
    assert [record.state for record in ledger.attempts()] == [result.state] * 2
    assert list(ledger.answers()) == []


async def test_a_call_whose_last_attempt_is_unknown_is_held(ledger: Ledger) -> None:
    await do(ledger, LOST)
    held = await ledger.begin(ask(ledger))
    assert isinstance(held, Held)
    assert held.attempt == dataclasses.replace(LOST.attempt, recorded=True)
    # Neither one that never left nor one that was free lifts the hold.
    for result in (UNSENT, LATER, Result(attempt(FREE), reply=b'{"whatsapp": "checking"}')):
        await do(ledger, result, retry_unknown=1)
        assert isinstance(await ledger.begin(ask(ledger)), Held)
        assert [record.key for record in ledger.held()] == [None]
    await do(ledger, answered(), retry_unknown=1)
    assert list(ledger.held()) == []
    # It is not settled, though the question is answered.
    assert [record.state for record in ledger.attempts(unknown_only=True)] == [State.UNKNOWN]
    assert await ledger.resolve(ask(ledger).identity, CHARGED) == 1
    assert isinstance(await ledger.begin(ask(ledger, reuse_for=-1.0)), Started)


@pytest.mark.parametrize("settled", [*itertools.product([None, CHARGED, FREE], repeat=2)])
async def test_a_question_is_held_by_each_of_its_attempts(ledger: Ledger, settled: tuple[Charge | None, ...]) -> None:
    started = [await do(ledger, LOST), await do(ledger, LOST, retry_unknown=1)]
    held = await ledger.begin(ask(ledger, retry_unknown=1))
    assert isinstance(held, Held)
    assert held.attempts == 2
    for one, charge in zip(started, settled, strict=True):
        if charge is not None:
            assert await ledger.resolve(None, charge, attempt=one.id) == 1
    left = sum(charge is not FREE for charge in settled)
    assert [record.id for record in ledger.held()] == [
        one.id for one, charge in zip(started, settled, strict=True) if charge is not FREE
    ]
    assert ledger.summary().held == (left > 0)
    for allowed in range(4):
        answer = await ledger.begin(ask(ledger, retry_unknown=allowed))
        if allowed < left:
            assert isinstance(answer, Held)
            assert answer.attempts == left
        else:
            assert isinstance(answer, Started)
            await ledger.end(answer, LATER)
    check(ledger.path)


async def test_a_late_answer_lifts_the_hold_of_its_attempt(ledger: Ledger) -> None:
    first, second = await do(ledger, LOST), await do(ledger, LOST, retry_unknown=1)
    await ledger.end(second, LATER)
    held = await ledger.begin(ask(ledger))
    assert isinstance(held, Held)
    assert held.attempts == 1
    await ledger.end(first, answered())
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert list(ledger.held()) == []
    check(ledger.path)


async def test_the_hold_of_an_attempt_can_be_lifted(ledger: Ledger) -> None:
    lost = Result(attempt(UNKNOWN), reply=b'{"number": "1"}')
    started = await do(ledger, lost)
    assert isinstance(await ledger.begin(ask(ledger)), Held)
    await ledger.end(started, dataclasses.replace(lost, holds=False))
    await do(ledger, dataclasses.replace(LOST, holds=False))
    assert ledger.summary().held == 0
    assert [record.state for record in ledger.attempts(unknown_only=True)] == [State.UNKNOWN] * 2
    await start(ledger)
    check(ledger.path)


async def test_ending_twice_does_no_harm(ledger: Ledger) -> None:
    started = await do(ledger, answered())
    await ledger.end(started, answered(reply=b"{}"))
    again = await do(ledger, LATER, 2)
    await ledger.end(again, LATER)
    assert [record.reply for record in ledger.answers()] == [REPLY]
    check(ledger.path)


async def test_calls_that_may_not_be_answered_from_the_ledger(ledger: Ledger) -> None:
    """addface without a key: sent as often as asked, at once, and nothing of it is mixed up."""
    options: dict[str, Any] = {"endpoint": "addface", "may_charge": False, "reusable": False}
    first, second = await start(ledger, **options), await start(ledger, **options)
    await ledger.end(first, LOST)
    await ledger.end(second, Result(attempt(FREE), reply=b"{}", answer=True))
    assert isinstance(await ledger.begin(ask(ledger, **options)), Started)
    assert ledger.summary().held == 0


async def test_identity(ledger: Ledger, tmp_path: Path) -> None:
    identity = ledger.identity
    known = identity("facecompare", [("img1", b"one"), ("img2", b"two")])
    assert known == identity("facecompare", iter([("img1", b"one"), ("img2", b"two")]))
    assert len(known) == 16
    others = [
        identity("idholding", [("img1", b"one"), ("img2", b"two")]),
        identity("facecompare", [("img1", b"onet"), ("img2", b"wo")]),
        identity("facecompare", [("img1", b"one"), ("img2", "two")]),
        identity("facecompare", [("img2", b"two"), ("img1", b"one")]),
        identity("facecompare", [("img1", b"one")]),
        identity("facecompare", [("img1", b"one"), ("img2", b"two")], "A"),
        identity("facecompare", [("img1", b"one"), ("img2", b"two")], 17),
        identity("facecompare", [("img1", b"one"), ("img2", b"two")], "17"),
    ]
    assert len({known, *others}) == len(others) + 1
    async with Ledger(tmp_path / "other") as other:
        assert other.identity("facecompare", [("img1", b"one"), ("img2", b"two")]) != known
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(identity("a", [("b", b"c")])))
    thread.start()
    thread.join()
    assert found == [identity("a", [("b", b"c")])]


async def test_the_same_file_gives_the_same_identity(path: Path) -> None:
    found = []
    for _ in range(2):
        async with Ledger(path) as ledger:
            found.append(ask(ledger))
    assert found[0] == found[1]


@pytest.mark.parametrize("key", ["A-17", 17, -(10**30), "\ud800 \0 '", None])
async def test_any_key(ledger: Ledger, key: Any) -> None:
    await do(ledger, answered(), key=key)
    assert [record.key for record in ledger.attempts()] == [key]


# --------------------------------------------------------------------------------------------- many at a time


async def test_the_second_of_two_alike_waits_for_the_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def sleep(seconds: float) -> None:
        raise AssertionError("somebody polls")

    monkeypatch.setattr(clock, "sleep", sleep)

    async def call() -> bytes:
        nonlocal sent
        while isinstance(answer := await ledger.begin(ask(ledger)), Busy):
            await answer.wait()
        if isinstance(answer, Started):
            sent += 1
            await asyncio.sleep(0.01)
            await ledger.end(answer, answered())
            return REPLY
        assert isinstance(answer, Stored)
        return answer.reply

    assert set(await asyncio.gather(*(call() for _ in range(50)))) == {REPLY}
    assert sent == 1


async def test_who_waits_for_another_ledger_of_the_file_looks_now_and_then(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(clock, "sleep", sleep)
    async with Ledger(ledger.path) as other:
        started = await start(other)
        busy = await ledger.begin(ask(ledger))
        assert isinstance(busy, Busy)
        await busy.wait()
        await other.end(started, answered())
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert slept == [0.2]


async def test_a_busy_that_is_waited_for_late_returns_at_once(ledger: Ledger) -> None:
    started = await start(ledger)
    busy = await ledger.begin(ask(ledger))
    assert isinstance(busy, Busy)
    await ledger.end(started, LATER)
    await busy.wait()


async def test_many_operations_share_one_commit(ledger: Ledger) -> None:
    book = await book_of(ledger)
    real, commits = book._sql, 0

    def sql(query: str, *values: Any) -> sqlite3.Cursor:
        nonlocal commits
        commits += query == "COMMIT"
        return real(query, *values)

    book._sql = sql
    await asyncio.gather(*(do(ledger, answered(), n) for n in range(500)))
    assert commits < 20
    assert len(list(ledger.answers())) == 500


async def test_one_operation_that_cannot_be_does_not_take_the_others_down(ledger: Ledger) -> None:
    good = [ledger.begin(ask(ledger, n)) for n in range(20)]
    bad = ledger.begin(Ask(WHATSAPP, object()))  # type: ignore[arg-type]
    *answers, error = await asyncio.gather(*good, bad, return_exceptions=True)
    assert all(isinstance(answer, Started) for answer in answers)
    assert isinstance(error, LedgerError)
    assert str(ledger.path) in str(error)
    started = await start(ledger, 99)
    with pytest.raises(LedgerError, match="cannot be recorded"):
        await ledger.end(started, Result(Attempt(CHARGED, "OK", 10**30, clock.today(), 1.0), reply=REPLY, answer=True))
    await ledger.end(started, answered())
    assert len(list(ledger.answers())) == 1
    check(ledger.path)


async def test_text_that_is_no_unicode_does_not_keep_an_answer_out(ledger: Ledger) -> None:
    await do(ledger, Result(Attempt(UNKNOWN, "\ud800", 200, clock.today(), 1.0, "bad \udfff")))
    assert [(r.status, r.error) for r in ledger.attempts()] == [("?", "bad ?")]


# ------------------------------------------------------------------------------------------------ cancellation


async def test_a_begin_that_is_cancelled_leaves_nothing_under_way(ledger: Ledger) -> None:
    for turns in range(40):
        task = asyncio.create_task(ledger.begin(ask(ledger, turns)))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        if turns % 3 == 0:
            time.sleep(0.002)  # it is committed, and the loop has not heard yet
        task.cancel()
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(answer, Started):
            await ledger.end(answer, UNSENT)
    for _ in range(2):  # the last begin arrives, and is taken back
        await book_of(ledger)
    await start(ledger, "other")
    states = Counter(record.state for record in ledger.attempts())
    assert states.pop(State.INTENDED) == 1
    assert set(states) == {State.NOT_SENT}


async def test_a_begin_answered_in_the_turn_of_its_cancellation_is_taken_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ledger._deliver

    def deliver(jobs: Any) -> None:
        real(jobs)
        task.cancel()

    monkeypatch.setattr(ledger, "_deliver", deliver)
    task = asyncio.create_task(ledger.begin(ask(ledger)))
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await do(ledger, answered())
    assert [r.state for r in ledger.attempts()] == [State.NOT_SENT, State.CHARGED]
    monkeypatch.setattr(ledger, "_deliver", deliver)
    task = asyncio.create_task(ledger.begin(ask(ledger)))
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await book_of(ledger)
    assert len(list(ledger.attempts())) == 2


async def test_an_end_that_is_cancelled_is_recorded_all_the_same(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for number, turns in enumerate((1, 2, 3)):
        started = await start(ledger, number)
        task = asyncio.create_task(ledger.end(started, answered()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await book_of(ledger)
    assert len(list(ledger.answers())) == 3
    # And if it cannot be, that is not lost on everybody.
    started = await start(ledger, "last")
    await fail(ledger, "COMMIT", *[sqlite3.SQLITE_FULL] * 2)
    task = asyncio.create_task(ledger.end(started, answered()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await book_of(ledger)
    assert "full" in caplog.text


async def test_closing_waits_for_what_was_asked(path: Path) -> None:
    ledger = Ledger(path)
    await ledger.open()
    tasks = [asyncio.create_task(ledger.begin(ask(ledger, n))) for n in range(10)]
    started = await start(ledger, "x")
    await asyncio.gather(*tasks)
    end = asyncio.create_task(ledger.end(started, answered()))
    late = asyncio.create_task(ledger.begin(ask(ledger, "late")))
    await asyncio.sleep(0)
    late.cancel()
    closing = asyncio.create_task(ledger.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, late, return_exceptions=True)
    await ledger.aclose()
    await ledger.aclose()
    await end
    states = Counter(record.state for record in ledger.attempts())
    assert states == {State.CHARGED: 1, State.UNKNOWN: 10, State.NOT_SENT: 1}
    assert {r.error for r in ledger.attempts(unknown_only=True)} == {LEFT}
    assert sorted(p.name for p in path.parent.glob("*owner*")) == []
    assert not any(thread.name == "aisolution-ledger" for thread in threading.enumerate())
    for operation in (ledger.begin(Ask("a", b"")), ledger.end(started, LOST), ledger.purge(1), ledger.resolve(1, FREE)):
        with pytest.raises(ConfigurationError, match="not open"):
            await operation
    with pytest.raises(ConfigurationError, match="once"):
        await ledger.open()


# ------------------------------------------------------------------------------------------------------ budget


async def test_the_budget_holds_at_every_instant(path: Path) -> None:
    async with Ledger(path, max_charges=10, synchronous="off") as ledger:
        answers = await asyncio.gather(*(ledger.begin(ask(ledger, n)) for n in range(30)))
        started = [answer for answer in answers if isinstance(answer, Started)]
        assert len(started) == 10
        refused = next(answer for answer in answers if isinstance(answer, Exhausted))
        assert "max_charges=10 is reached: 0 charged, 0 unknown, 10 under way" in refused.why
        # What never charges is not refused, and takes nothing.
        await do(ledger, LOST, endpoint="delface", may_charge=False)
        await ledger.end(started[0], LATER)
        await ledger.end(started[1], UNSENT)
        await ledger.end(started[2], answered())
        await ledger.end(started[3], LOST)
        again = await asyncio.gather(*(ledger.begin(ask(ledger, n)) for n in range(100, 105)))
        assert [type(answer) for answer in again] == [Started, Started, Exhausted, Exhausted, Exhausted]
        # Stored answers cost nothing.
        assert isinstance(await ledger.begin(ask(ledger, answers.index(started[2]))), Stored)
    async with Ledger(path, max_charges=10) as ledger:
        assert isinstance(await ledger.begin(ask(ledger, "new")), Exhausted)
    async with Ledger(path, max_charges=11) as ledger, Ledger(path, max_charges=11) as other:
        assert isinstance(await other.begin(ask(ledger, "new")), Started)
        assert isinstance(await ledger.begin(ask(ledger, "newer")), Exhausted)
    check(path)


async def test_the_budget_in_money_is_exact(path: Path) -> None:
    prices = {WHATSAPP: Decimal("0.1"), "facecompare": Decimal("0.000001")}
    async with Ledger(path, prices=prices, max_cost=Decimal("0.300001"), synchronous="off") as ledger:
        for n in range(3):  # 0.1 three times is not 0.3 in floats
            await do(ledger, answered(), n)
        refused = await ledger.begin(ask(ledger, 3))
        assert isinstance(refused, Exhausted)
        assert "max_cost=0.300001 is reached" in refused.why
        assert isinstance(await ledger.begin(ask(ledger, 3, endpoint="facecompare")), Started)
        refused = await ledger.begin(ask(ledger, 3, endpoint="searchface"))
        assert isinstance(refused, Exhausted)
        assert "prices says nothing of searchface" in refused.why
        sums = ledger.summary().by("endpoint")
        assert sums[WHATSAPP,].cost == Decimal("0.3")
        assert sums["facecompare",].at_risk == Decimal("0.000001")
    check(path)


@pytest.mark.parametrize(
    "options",
    [
        {"max_charges": -1},
        {"max_charges": True},
        {"max_charges": 1.5},
        {"max_cost": 1.5},
        {"max_cost": Decimal("0.0000001")},
        {"max_cost": Decimal(-1)},
        {"max_cost": Decimal("NaN")},
        {"prices": {WHATSAPP: 1}},
        {"prices": {"whatsapp": Decimal(1)}},
        {"synchronous": "maybe"},
    ],
)
def test_options_that_cannot_be(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Ledger(path, **options)
    assert not path.exists()


class Money(RuleBasedStateMachine):
    """Two owners of one file, ends of every kind, files that fail, owners that die: the budget holds throughout."""

    LIMIT = 4
    COST = 11 * 10**6

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"aisolution-ledger-{uuid.uuid4().hex}"
        self.folder.mkdir()
        self.path = self.folder / "ledger"
        self.runner = asyncio.Runner()
        self.ledgers: list[Ledger] = [self.opened(), self.opened()]
        self.under_way: list[tuple[Ledger, Started]] = []
        self.tried: set[int] = set()  # ends that failed: made up for at any time

    def opened(self) -> Ledger:
        prices = {WHATSAPP: Decimal(3), "facecompare": Decimal(2)}
        ledger = Ledger(self.path, max_charges=self.LIMIT, prices=prices, max_cost=Decimal(11), synchronous="off")
        self.runner.run(ledger.open())
        return ledger

    @rule(
        who=st.integers(0, 1),
        number=st.integers(0, 3),
        endpoint=st.sampled_from([WHATSAPP, "facecompare", "delface"]),
        resend=st.booleans(),
        reuse=st.sampled_from([None, -1.0]),
        called_back=st.sampled_from(["", "in time", "late"]),
    )
    def begin(self, who: int, number: int, endpoint: str, resend: bool, reuse: float | None, called_back: str) -> None:
        ledger = self.ledgers[who]
        question = ask(
            ledger,
            number,
            endpoint=endpoint,
            may_charge=endpoint != "delface",
            retry_unknown=1 if resend else 0,
            reuse_for=reuse,
            callback=self.callback(number) if called_back and endpoint == WHATSAPP else None,
            overdue=called_back == "late",
        )
        with contextlib.suppress(LedgerError):
            answer = self.runner.run(ledger.begin(question))
            if isinstance(answer, Started):
                asked = {started.ask.identity for _, started in self.under_way if started.id not in self.tried}
                assert question.identity not in asked
                self.under_way.append((ledger, answer))
            if isinstance(answer, Stored):
                assert reuse is None
            if isinstance(answer, Held):
                assert answer.attempts > resend

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), kind=st.sampled_from(["charged", "free", "not sent", "unknown"]))
    def end(self, data: st.DataObject, kind: str) -> None:
        ledger, started = self.under_way[data.draw(st.integers(0, len(self.under_way) - 1))]
        if kind == "charged" and not started.ask.may_charge:
            kind = "free"
        result = {"charged": answered(), "free": LATER, "not sent": UNSENT, "unknown": LOST}[kind]
        expected = started.ask.callback is not None and kind in ("free", "unknown") and data.draw(st.booleans())
        result = dataclasses.replace(result, expected=expected)
        self.tried.add(started.id)
        with contextlib.suppress(LedgerError):
            self.runner.run(ledger.end(started, result))
            self.under_way.remove((ledger, started))

    def callback(self, number: int) -> bytes:
        return b"callback %d" % number

    @rule(who=st.integers(0, 1), number=st.integers(0, 3))
    def deliver(self, who: int, number: int) -> None:
        with contextlib.suppress(LedgerError):
            before = self.runner.run(self.ledgers[who].find([ask(self.ledgers[who], number)]))
            delivered = self.runner.run(self.ledgers[who].deliver([self.callback(number)], answered()))
            after = self.runner.run(self.ledgers[who].find([ask(self.ledgers[who], number)]))
            assert after != [None] if delivered else after == before
            assert not self.runner.run(self.ledgers[who].deliver([self.callback(number)], answered()))

    @rule(
        who=st.integers(0, 1),
        statement=st.sampled_from(["BEGIN", "INSERT", "DELETE", "REPLACE", "COMMIT"]),
        code=st.sampled_from([sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY]),
        times=st.integers(1, 4),
    )
    def break_down(self, who: int, statement: str, code: int, times: int) -> None:
        self.runner.run(fail(self.ledgers[who], statement, *[code] * times))

    @rule(who=st.integers(0, 1))
    def die(self, who: int) -> None:
        self.runner.run(crash(self.ledgers[who]))
        self.replace(who)

    @rule(who=st.integers(0, 1))
    def close(self, who: int) -> None:
        self.runner.run(self.ledgers[who].aclose())
        self.replace(who)

    def replace(self, who: int) -> None:
        self.under_way = [pair for pair in self.under_way if pair[0] is not self.ledgers[who]]
        self.ledgers[who] = self.opened()

    @rule(who=st.integers(0, 1), number=st.integers(0, 3), charge=st.sampled_from([CHARGED, FREE]))
    def resolve(self, who: int, number: int, charge: Charge) -> None:
        with contextlib.suppress(LedgerError):
            self.runner.run(self.ledgers[who].resolve(ask(self.ledgers[who], number).identity, charge))

    @invariant()
    def the_budget_holds(self) -> None:
        totals = rows(self.path, "SELECT * FROM totals ORDER BY endpoint")
        assert totals == rows(self.path, RECOUNT)
        assert sum(row[6] for row in totals) <= self.LIMIT
        assert sum(row[7] for row in totals) <= self.COST
        # What the books call under way, unknown or charged covers all that may ever be charged, but for callbacks of
        # requests that were refused.
        known = {started.id for _, started in self.under_way} - self.tried
        assert known <= {id_ for (id_,) in rows(self.path, "SELECT id FROM intents")}

    def teardown(self) -> None:
        for ledger in self.ledgers:
            self.runner.run(ledger.aclose())
        self.runner.close()
        check(self.path)
        shutil.rmtree(self.folder)


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


# ----------------------------------------------------------------------------------------- the dead and the alive


async def test_what_a_dead_process_had_under_way_becomes_unknown(path: Path) -> None:
    first = Ledger(path, max_charges=1)
    await first.open()
    await start(first, key="A-17")
    await crash(first)
    assert len(list(path.parent.glob("*owner*"))) == 1  # it says to others that the process is dead
    async with Ledger(path, max_charges=1) as ledger:
        assert len(list(path.parent.glob("*owner*"))) == 1  # its own
        (record,) = ledger.attempts(unknown_only=True)
        assert (record.key, record.state, record.error) == ("A-17", State.UNKNOWN, DIED)
        held = await ledger.begin(ask(ledger))
        assert isinstance(held, Held)
        assert (held.attempt.charge, held.attempt.error) == (UNKNOWN, DIED)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
    check(path)


async def test_an_owner_that_dies_while_another_runs_is_noticed(ledger: Ledger) -> None:
    other = Ledger(ledger.path)
    await other.open()
    await start(other, 1)
    await start(other, 2)
    assert isinstance(await ledger.begin(ask(ledger)), Busy)
    await crash(other)
    assert isinstance(await ledger.begin(ask(ledger)), Held)
    assert isinstance(await ledger.begin(ask(ledger, 2, retry_unknown=1)), Started)
    check(ledger.path)


async def test_an_owner_whose_lock_file_was_removed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others cannot tell whether it lives: until its attempt must be over, they wait. It finds out, and stops."""
    real, ahead = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + ahead)
    mine = set(ledger.path.parent.glob("*owner*"))
    other = Ledger(ledger.path)
    await other.open()
    started, unlimited = await start(other, within=30.0), await start(other, 2)
    for file in {*ledger.path.parent.glob("*owner*")} - mine:
        file.unlink()
    with pytest.raises(LedgerError, match="removed the lock file"):
        await other.begin(ask(other, 3))
    for number in (1, 2):
        assert isinstance(await ledger.begin(ask(ledger, number, retry_unknown=9)), Busy)
    async with Ledger(ledger.path) as third:
        assert isinstance(await third.begin(ask(third, retry_unknown=9)), Busy)
    ahead = datetime.timedelta(seconds=60)
    async with Ledger(ledger.path) as third:
        assert isinstance(await third.begin(ask(third)), Held)
        assert isinstance(await third.begin(ask(third, 2)), Busy)
    ahead = datetime.timedelta(days=1)
    async with Ledger(ledger.path) as third:
        assert isinstance(await third.begin(ask(third, 2)), Held)
        # What it had under way is recorded all the same.
        await other.end(started, answered())
        await other.end(unlimited, LATER)
        assert isinstance(await third.begin(ask(third)), Stored)
        assert list(third.held()) == []
    await other.aclose()
    check(ledger.path)


async def test_an_owner_that_could_not_settle_what_it_had_leaves_its_file(path: Path) -> None:
    ledger = Ledger(path)
    await ledger.open()
    await start(ledger)
    await fail(ledger, "BEGIN", *[sqlite3.SQLITE_FULL] * 9)
    await ledger.aclose()
    assert len(list(path.parent.glob("*owner*"))) == 1
    async with Ledger(path) as ledger:  # so nobody waits for it
        assert isinstance(await ledger.begin(ask(ledger)), Held)


async def test_files_of_dead_owners_are_swept(path: Path) -> None:
    dead = path.with_name(f"{path.name}-owner-0123456789abcdef")
    dead.touch()
    async with Ledger(path) as first, Ledger(path) as second:
        assert not dead.exists()
        found = list(path.parent.glob("*owner*"))
        assert len(found) == 2
        assert {stat.st_mode & 0o777 for stat in map(Path.stat, found)} == {0o600}
        await start(first, 1)
        assert isinstance(await second.begin(ask(second, 1)), Busy)


def test_a_file_swept_before_it_was_locked_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock
    swept: list[Path] = []

    def flock(fd: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not swept:
            swept.extend(path.parent.glob("*owner*"))
            swept[0].unlink()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = owners.Owner(path)
    assert owners.is_alive(path, owner.name)
    assert not owners.is_alive(path, swept[0].name.rpartition("-")[2])
    owner.release()
    assert not owners.is_alive(path, owner.name)


async def test_a_system_without_file_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(LedgerError, match="file locks"):
        await Ledger(path).open()


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    head = """
        import asyncio, datetime, os, signal, sys, time
        from aisolution_async import Attempt, Charge, clock
        from aisolution_async.ledger import *
        def answered():
            attempt = Attempt(Charge.CHARGED, "OK", 200, clock.today(), 0.01)
            return Result(attempt, reply=b'{"whatsapp": "yes"}', answer=True)
        def ask(ledger, n, **options):
            return Ask("gliswadetail", ledger.identity("gliswadetail", [("number", str(n))]), key=n, **options)
    """
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": ""},
        **options,
    )


async def test_a_forked_child_neither_uses_the_ledger_nor_keeps_its_parent_alive(path: Path) -> None:
    with child(
        """
        async def main():
            ledger = Ledger(sys.argv[1])
            await ledger.open()
            await ledger.begin(ask(ledger, 1))
            import warnings; warnings.simplefilter("ignore")
            if os.fork():
                os._exit(0)
            try:
                await ledger.begin(ask(ledger, 2))
            except Exception as exc:
                print(type(exc).__name__, exc, flush=True)
            sys.stdin.read()
        asyncio.run(main())
        """,
        path,
    ) as process:
        assert process.stdout is not None
        assert "ConfigurationError the ledger was opened before a fork" in process.stdout.readline()
        process.wait()
        async with Ledger(path) as ledger:  # the grandchild still runs
            assert [record.error for record in ledger.attempts()] == [DIED]


WORKER = """
    # Works through the calls; each that is sent is written on the vendor's bill.
    path, calls, at_once = sys.argv[1], int(sys.argv[3]), int(sys.argv[4])
    bill = os.open(sys.argv[2], os.O_APPEND | os.O_WRONLY)
    async def main():
        async with Ledger(path, max_charges=calls) as ledger:
            numbers = iter(range(calls))
            async def work():
                for n in numbers:
                    while isinstance(answer := await ledger.begin(ask(ledger, n)), Busy):
                        await answer.wait()
                    if isinstance(answer, Started):
                        os.write(bill, f"{n}\\n".encode())
                        await asyncio.sleep(0)
                        await ledger.end(answer, answered())
                    else:
                        assert isinstance(answer, Stored | Held), answer
            await asyncio.gather(*(work() for _ in range(at_once)))
    asyncio.run(main())
"""


def billed(bill: Path) -> list[int]:
    return [int(line) for line in bill.read_text().split()]


def obeys(path: Path, bill: Path, at_once: int, kills: int) -> None:
    """No call is on the bill twice, and each one that is, is answered or unknown in the ledger."""
    sent = billed(bill)
    assert len(sent) == len(set(sent))
    states = {record.key: record.state for record in Ledger(path).attempts()}
    assert {states[n] for n in sent} <= {State.CHARGED, State.UNKNOWN}
    assert sum(state is State.UNKNOWN for state in states.values()) <= at_once * kills
    check(path)


async def test_kill_9(path: Path, tmp_path: Path) -> None:
    calls, at_once, kills = 2000, 40, 0
    bill = tmp_path / "bill"
    bill.touch()
    rng = random.Random(5)
    while True:
        with child(WORKER, path, bill, calls, at_once) as process:
            target = bill.stat().st_size + rng.randrange(200, 4000)
            while process.poll() is None and bill.stat().st_size < target:
                time.sleep(0.002)
            process.kill()
        kills += process.returncode != 0
        async with Ledger(path):
            obeys(path, bill, at_once, kills)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills > 2
    assert len(Counter(record.key for record in Ledger(path).attempts())) == calls


def test_two_processes_over_one_ledger(path: Path, tmp_path: Path) -> None:
    bill = tmp_path / "bill"
    bill.touch()
    with child(WORKER, path, bill, 1000, 30) as one, child(WORKER, path, bill, 1000, 30) as two:
        assert (one.wait(), two.wait()) == (0, 0)
    assert sorted(billed(bill)) == list(range(1000))
    assert Ledger(path).summary().by()[()].charged == 1000
    obeys(path, bill, 0, 0)


async def test_copies_of_the_files_taken_at_any_moment_obey(path: Path, tmp_path: Path) -> None:
    """What a loss of power leaves: the files as they are at one instant."""
    calls, at_once = 6000, 40
    bill = tmp_path / "bill"
    bill.touch()
    rng = random.Random(7)
    with child(WORKER, path, bill, calls, at_once) as process:
        for copy in range(8):
            target = bill.stat().st_size + rng.randrange(1, 1500)
            while process.poll() is None and bill.stat().st_size < target:
                time.sleep(0.001)
            if process.poll() is not None:
                assert copy > 2
                break
            folder = tmp_path / f"copy{copy}"
            folder.mkdir()
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            for file in (*path.parent.glob(f"{path.name}*"), bill):
                if not file.name.endswith("-shm"):
                    shutil.copy(file, folder)
            process.send_signal(signal.SIGCONT)
        process.kill()
    for folder in tmp_path.glob("copy*"):
        async with Ledger(folder / path.name):
            obeys(folder / path.name, folder / bill.name, at_once, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_a_log_whose_end_was_torn_off_opens(path: Path, tmp_path: Path, seed: int) -> None:
    with child(
        """
        async def main():
            ledger = Ledger(sys.argv[1])
            await ledger.open()
            for n in range(20):
                started = await ledger.begin(ask(ledger, n))
                await ledger.end(started, answered())
            os._exit(0)
        asyncio.run(main())
        """,
        path,
    ) as process:
        assert process.wait() == 0
    log = Path(f"{path}-wal")
    size = random.Random(seed).randrange(log.stat().st_size // 2, log.stat().st_size)
    with log.open("r+b") as file:
        file.truncate(size)
    before = log.read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerError, match=rf"and it had 20 attempts: .* delete {path}-mark"):
            await Ledger(path).open()
    assert log.read_bytes() == before
    Path(f"{path}-mark").unlink()
    async with Ledger(path) as ledger:
        check(path)
        found = [record.key for record in ledger.attempts()]
        assert found == list(range(len(found)))
        assert 0 < len(found) < 20


# ------------------------------------------------------------------------------------------------------- faults


async def refused(path: Path, *words: str) -> None:
    with pytest.raises(LedgerError) as caught:
        await Ledger(path, busy_timeout=0.01).open()
    assert isinstance(caught.value, AISolutionError)
    assert caught.value.charge is FREE
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert caught.value.__context__ is None
    assert list(path.parent.glob("*owner*")) == [] if path.parent.is_dir() else True


async def test_no_folder(tmp_path: Path) -> None:
    await refused(tmp_path / "none" / "ledger", f"make {tmp_path / 'none'} first")


async def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    await refused(path, "is a folder: name a file in it")
    with pytest.raises(LedgerError, match="is a folder"):
        Ledger(path).summary()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 100, b"short"])
async def test_not_a_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await refused(path, "no ledger, or damaged", "restore")
    assert path.read_bytes() == content
    with pytest.raises(LedgerError, match="no ledger, or damaged"):
        Ledger(path).summary()


async def test_a_database_of_something_else(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    await refused(path, "a database of something else", "a file of its own")
    assert rows(path, "SELECT name FROM sqlite_master") == [("theirs",)]


async def test_a_damaged_ledger(path: Path) -> None:
    async with Ledger(path, synchronous="off") as ledger:
        await asyncio.gather(*(do(ledger, answered(), n) for n in range(300)))
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    await refused(path, "damaged", "copy")
    with pytest.raises(LedgerError, match="damaged"):
        list(Ledger(path).attempts())


async def test_a_newer_ledger(path: Path) -> None:
    async with Ledger(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    await refused(path, "version 99", "install the newer aisolution-async")
    with pytest.raises(LedgerError, match="newer"):
        Ledger(path).summary()


async def test_an_older_ledger_is_brought_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(path) as ledger:
        await do(ledger, answered(), key="A")
    old, steps = schema.MIGRATIONS, []

    def fourth(db: sqlite3.Connection) -> None:
        steps.append("fourth")
        db.execute("ALTER TABLE file ADD COLUMN note TEXT")

    def broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (x)")
        raise OSError(28, "full")

    monkeypatch.setattr(schema, "MIGRATIONS", [*old, fourth])
    with pytest.raises(LedgerError, match="older version: open it once"):
        Ledger(path).summary()
    for _ in range(2):
        async with Ledger(path) as ledger:
            assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert steps == ["fourth"]
    assert rows(path, "PRAGMA user_version") == [(4,)]
    monkeypatch.setattr(schema, "MIGRATIONS", [*old, fourth, broken])
    await refused(path, "full")
    assert rows(path, "PRAGMA user_version") == [(4,)]
    assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'half'") == []


async def test_locked_by_another_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0
    transaction = Book.transaction

    def counted(book: Book) -> contextlib.AbstractContextManager[None]:
        nonlocal waited
        waited += 1
        return transaction(book)

    async with Ledger(path, busy_timeout=0.02) as ledger:
        started = await start(ledger)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            with monkeypatch.context() as patch:
                patch.setattr(Book, "transaction", counted)
                answers = await asyncio.gather(
                    *(ledger.begin(ask(ledger, n)) for n in range(50)),
                    ledger.end(started, answered()),
                    return_exceptions=True,
                )
            assert waited == 1  # not 51 times
            assert {type(answer) for answer in answers} == {LedgerError}
            assert "locked by another program: end it, or wait" in str(answers[0])
            await refused_to_open_locked(path)
            with pytest.raises(LedgerError, match="locked"):
                await ledger.purge(0)
        # The end that was refused is made up for.
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
    check(path)


async def test_many_make_the_ledger_at_once(tmp_path: Path) -> None:
    for n in range(8):
        ledgers = [Ledger(tmp_path / str(n)) for _ in range(8)]
        await asyncio.gather(*(ledger.open() for ledger in ledgers))
        assert len({ask(ledger) for ledger in ledgers}) == 1
        await asyncio.gather(*(ledger.aclose() for ledger in ledgers))


async def test_a_ledger_that_somebody_else_is_making_for_too_long(path: Path) -> None:
    path.touch()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        await refused_to_open_locked(path)


async def refused_to_open_locked(path: Path) -> None:
    with pytest.raises(LedgerError, match="locked by another program"):
        await Ledger(path, busy_timeout=0.01).open()


async def test_a_full_disk(path: Path) -> None:
    async with Ledger(path, max_charges=9, synchronous="off") as ledger:
        started = [await start(ledger, n) for n in range(3)]
        await do(ledger, answered(), "earlier")
        book = await book_of(ledger)

        def room(pages: int) -> Callable[[Book], object]:
            return lambda _: book._sql(f"PRAGMA max_page_count = {pages}").fetchone()

        big = answered(reply=b'"' + b"x" * 100_000 + b'"')
        await ledger._submit(room(1))  # as many as there are
        with pytest.raises(LedgerError, match=r"disk of the ledger .* is full: make room"):
            await ledger.end(started[0], big)
        # It is under way still, with its reservation; whoever asks for it is told; small things may still fit.
        with pytest.raises(LedgerError, match="could not be recorded"):
            await ledger.begin(ask(ledger, 0))
        assert ledger.summary().by()[()].intended == 3
        assert isinstance(await ledger.begin(ask(ledger, "earlier")), Stored)
        check(path)
        await ledger._submit(room(10**6))
        await ledger.end(started[1], answered())
        stored = await ledger.begin(ask(ledger, 0))
        assert isinstance(stored, Stored)
        assert stored.reply == big.reply
        await ledger.end(started[0], big)  # tried again by the caller, too
    check(path)


async def test_an_answer_that_could_not_be_recorded_is_recorded_at_the_close(path: Path) -> None:
    async with Ledger(path) as ledger:
        started = await start(ledger)
        await fail(ledger, "COMMIT", *[sqlite3.SQLITE_IOERR] * 2)
        with pytest.raises(LedgerError, match=r"disk of the ledger .* failed: look at the disk"):
            await ledger.end(started, answered())
    assert [record.reply for record in ledger.answers()] == [REPLY]


async def test_who_waits_for_an_answer_that_cannot_be_recorded_is_told(ledger: Ledger) -> None:
    started = await start(ledger)
    busy = await ledger.begin(ask(ledger))
    assert isinstance(busy, Busy)
    await fail(ledger, "DELETE", *[sqlite3.SQLITE_FULL] * 4)
    with pytest.raises(LedgerError, match="full"):
        await ledger.end(started, answered())
    await busy.wait()
    with pytest.raises(LedgerError, match="could not be recorded"):
        await ledger.begin(ask(ledger))
    await book_of(ledger)
    assert isinstance(await ledger.begin(ask(ledger)), Stored)


async def test_a_close_that_cannot_write_leaves_it_to_the_next_opening(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(path)
    await ledger.open()
    await start(ledger)
    await fail(ledger, "BEGIN", *[sqlite3.SQLITE_FULL] * 9)
    await ledger.aclose()
    assert "full" in caplog.text
    async with Ledger(path) as ledger:
        assert [record.error for record in ledger.attempts()] == [DIED]


async def test_a_file_size_limit(path: Path) -> None:
    with child(
        """
        import resource
        async def main():
            async with Ledger(sys.argv[1]) as ledger:
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
                sent = 0
                try:
                    for n in range(1000):
                        started = await ledger.begin(ask(ledger, n))
                        sent += 1
                        await ledger.end(started, answered())
                except LedgerError as exc:
                    print(exc)
                print(sent)
        asyncio.run(main())
        """,
        path,
    ) as process:
        out, _ = process.communicate()
    error, sent = out.splitlines()
    assert "failed: look at the disk, and at its quota" in error
    async with Ledger(path) as ledger:
        assert len(list(ledger.attempts())) >= int(sent)
    check(path)


@pytest.mark.parametrize("number", [13, 30, 1])
async def test_a_folder_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def denied(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number), "secret")

    monkeypatch.setattr(os, "open", denied)
    await refused(path, "cannot be written: allow writing to the file and to its folder")


async def test_a_file_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(path):
        pass
    real = schema._open
    monkeypatch.setattr(schema, "_open", lambda path, mode, timeout: real(path, "ro", timeout))
    await refused(path, "cannot be written")


async def test_a_file_system_without_a_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_open", lambda *_: sqlite3.connect(":memory:", check_same_thread=False))
    await refused(path, "put it on a local disk")


async def test_an_error_nobody_thought_of(path: Path) -> None:
    error = sqlite3.OperationalError("secret")
    error.sqlite_errorcode = sqlite3.SQLITE_NOLFS
    assert str(schema.fault(path, error)) == f"the ledger {path} failed (SQLite error 22): look at its disk"


async def test_a_ledger_removed_or_replaced_while_in_use(path: Path) -> None:
    async with Ledger(path) as ledger:
        started = await start(ledger)
        away = path.rename(path.with_name("away"))
        for _ in range(2):
            with pytest.raises(LedgerError, match="was removed or replaced while in use: put it back"):
                await ledger.begin(ask(ledger, 2))
            path.touch()
        with pytest.raises(LedgerError, match="removed or replaced"):
            await ledger.end(started, answered())
        away.rename(path)
        assert isinstance(await ledger.begin(ask(ledger)), Stored)


async def test_an_attempt_of_another_file(ledger: Ledger, tmp_path: Path) -> None:
    async with Ledger(tmp_path / "other") as other:
        started = await start(other)
        with pytest.raises(LedgerError, match="lacks attempt 1"):
            await ledger.end(started, answered())


def test_another_loop(path: Path) -> None:
    ledger = Ledger(path)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(ledger.open())
        with pytest.raises(ConfigurationError, match="another event loop"):
            second.run(ledger.begin(Ask(WHATSAPP, b"")))
        first.run(ledger.aclose())


def test_a_loop_that_was_closed_over_it_lets_go(path: Path) -> None:
    ledger = Ledger(path)
    with asyncio.Runner() as runner:
        runner.run(ledger.open())
    ledger._queue.put([])
    ledger._thread.join(5)
    assert list(path.parent.glob("*owner*")) == []


async def test_an_opening_that_is_cancelled_lets_go(path: Path) -> None:
    for turns in range(3):
        ledger = Ledger(path)
        opening = asyncio.create_task(ledger.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await ledger.aclose()
        if turns:
            await asyncio.to_thread(ledger._thread.join, 5)
    assert list(path.parent.glob("*owner*")) == []


def test_not_open(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        Ledger(path).identity("a", [])


# ------------------------------------------------------------------------------------ what the file is and holds


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
async def test_only_its_owner_can_read_it(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        async with Ledger(path) as ledger:
            await do(ledger, answered())
            files = {
                file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir() if "owner" not in file.name
            }
    finally:
        os.umask(before)
    assert files == dict.fromkeys(("calls.ledger", "calls.ledger-wal", "calls.ledger-shm", "calls.ledger-mark"), 0o600)
    path.chmod(0o644)
    async with Ledger(path):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_path_with_anything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory&b#c %41 é.db"
    async with Ledger(path) as ledger:
        await do(ledger, answered())
    assert path.exists()
    assert len(list(Ledger(str(path)).answers())) == 1


def found_in(folder: Path, text: str) -> list[str]:
    """The files that hold `text`. Read by another process: closing them in this one would drop SQLite's locks."""
    grep = ["grep", "-arlF", text, str(folder)]
    return subprocess.run(grep, check=False, capture_output=True, text=True).stdout.split()


async def test_a_purge_leaves_no_byte_of_a_reply(path: Path) -> None:
    async with Ledger(path) as ledger:
        await asyncio.gather(
            *(
                do(ledger, answered(ago=1000, reply=b'{"signature": "old-reply-%d"}' % n), n, key=f"key-{n}")
                for n in range(300)
            )
        )
        await do(ledger, answered(ago=1000, reply=b'"old-reply-' + b"y" * 20_000 + b'"'), "long")
        await do(ledger, Result(attempt(UNKNOWN, ago=1000)), "lost")
        await do(ledger, Result(attempt(UNKNOWN, ago=1000)), "resent")
        await do(ledger, answered(ago=1000), "resent", retry_unknown=1)
        await do(ledger, answered(reply=b'{"signature": "young-reply"}'), "young")
        identities = [identity for (identity,) in rows(path, "SELECT identity FROM attempts WHERE key <> '\"key-1\"'")]
        before = ledger.summary().lines
        assert await ledger.purge(datetime.timedelta(seconds=500)) == 303
        assert await ledger.purge(500) == 0
        assert found_in(path.parent, "old-reply") == found_in(path.parent, "yyyyyyyy") == []
        assert found_in(path.parent, "young-reply") != []
        assert ledger.summary().lines == before
        assert ledger.summary().answers == 1
        assert isinstance(await ledger.begin(ask(ledger, "lost")), Held)
        assert isinstance(await ledger.begin(ask(ledger, "young")), Stored)
        assert isinstance(await ledger.begin(ask(ledger, "resent")), Started)
        assert isinstance(await ledger.begin(ask(ledger, 1)), Started)
    data = path.read_bytes()
    assert not any(identity in data for identity in identities)
    check(path)


async def test_a_purge_beside_a_reader_says_that_bytes_are_left(path: Path) -> None:
    async with Ledger(path, busy_timeout=0.02) as ledger:
        await asyncio.gather(*(do(ledger, answered(ago=9), n) for n in range(10)))
        reader = ledger.answers()
        next(reader)
        with pytest.raises(LedgerError, match="end the other programs that read the ledger, then purge again"):
            await ledger.purge(1)
        assert len(list(reader)) == 9
        assert await ledger.purge(1) == 0
    assert REPLY not in path.read_bytes()


async def test_resolve(path: Path) -> None:
    async with Ledger(path, max_charges=3, prices={WHATSAPP: Decimal(2)}, synchronous="off") as ledger:
        await do(ledger, LOST, 1, key="A")
        await do(ledger, LOST, 2, key=17)
        await do(ledger, LOST, 3)
        assert isinstance(await ledger.begin(ask(ledger, 4)), Exhausted)
        assert await ledger.resolve("B", FREE) == 0
        assert await ledger.resolve("A", FREE) == 1
        assert await ledger.resolve("A", FREE) == 0
        assert await ledger.resolve("17", CHARGED) == 1  # as a command line has it
        assert await ledger.resolve(ask(ledger, 3).identity, FREE) == 1
        assert [(r.state, r.cost, r.error) for r in ledger.attempts()] == [
            (State.FREE, Decimal(0), "no answer within 30 s; settled by hand"),
            (State.CHARGED, Decimal(2), "no answer within 30 s; settled by hand"),
            (State.FREE, Decimal(0), "no answer within 30 s; settled by hand"),
        ]
        assert isinstance(await ledger.begin(ask(ledger, 1)), Started)
        # What was charged is not bought again unasked: its answer is lost.
        assert [record.key for record in ledger.held()] == [17]
        held = await ledger.begin(ask(ledger, 2))
        assert isinstance(held, Held)
        assert held.attempt.charge is CHARGED
        await do(ledger, LOST, 5)
        *_, last = ledger.attempts()
        assert await ledger.resolve(None, FREE, attempt=last.id + 1) == 0
        assert await ledger.resolve(None, FREE, attempt=last.id) == 1
        for call, charge, id_ in ((None, FREE, None), ("A", UNKNOWN, None), ("A", FREE, 1)):
            with pytest.raises(ConfigurationError):
                await ledger.resolve(call, charge, attempt=id_)
    check(path)


async def test_an_attempt_settled_as_charged_is_sent_again_when_asked_for(ledger: Ledger) -> None:
    await do(ledger, LOST)
    assert await ledger.resolve(ask(ledger).identity, CHARGED) == 1
    await do(ledger, answered(), retry_unknown=1)
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert list(ledger.held()) == []
    check(ledger.path)


async def test_an_ok_that_did_not_fit_is_kept_with_its_message(ledger: Ledger) -> None:
    await do(ledger, Result(attempt(UNKNOWN), reply=b'{"similarity": "high"}'), key="A")
    held = await ledger.begin(ask(ledger))
    assert isinstance(held, Held)
    assert held.reply == b'{"similarity": "high"}'
    assert "high" not in repr(held)
    assert [record.reply for record in ledger.answers()] == [record.reply for record in ledger.held()] == [held.reply]


# ------------------------------------------------------------------------------ answers to come, and what is at stake

CHECKING = Result(attempt(FREE), reply=b'{"whatsapp": "checking"}', expected=True)


def sums(ledger: Ledger) -> tuple[int, int, int, int]:
    """Charged, free, unknown, under way: as the summary says, and as the budget counts them."""
    found = ledger.summary().by().get((), None)
    check(ledger.path)
    return (0, 0, 0, 0) if found is None else (found.charged, found.free, found.unknown, found.intended)


@pytest.mark.parametrize("settled", [CHARGED, FREE])
async def test_a_callback_after_its_request_was_settled(ledger: Ledger, settled: Charge) -> None:
    """Settled as charged, it is that charge; settled as free, the request never arrived, and nothing is waited for."""
    options: dict[str, Any] = {"callback": b"place", "key": "A"}
    await do(ledger, LOST, **options)
    assert await ledger.resolve("A", settled) == 1
    assert await ledger.deliver([b"place"], answered()) == (settled is CHARGED)
    if settled is CHARGED:
        assert sums(ledger) == (1, 0, 0, 0)
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
    else:
        assert sums(ledger) == (0, 1, 0, 0)
        await do(ledger, CHECKING, **options)
        assert await ledger.deliver([b"place"], answered())
        assert sums(ledger) == (1, 2, 0, 0)


async def test_a_number_written_in_two_ways_has_one_callback(ledger: Ledger) -> None:
    """One callback answers both questions, and is charged once; nothing stays at stake."""
    await do(ledger, CHECKING, "62813", callback=b"place")
    await do(ledger, CHECKING, "+62813", callback=b"place")
    assert sums(ledger) == (0, 2, 0, 2)
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 3, 0, 0)
    for number in ("62813", "+62813"):
        assert isinstance(await ledger.begin(ask(ledger, number)), Stored)
    assert not await ledger.deliver([b"place"], answered())


async def test_the_second_writing_was_lost(ledger: Ledger) -> None:
    await do(ledger, CHECKING, "62813", callback=b"place")
    await do(ledger, LOST, "+62813", callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 1, 1, 0)  # whether the lost one was charged too, nobody knows
    assert isinstance(await ledger.begin(ask(ledger, "+62813")), Stored)
    assert list(ledger.held()) == []


async def test_a_direct_answer_before_the_callback_is_late(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that asked for the callback may still be charged: until its patience is over."""
    real, ahead = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + ahead)
    async with Ledger(path, max_charges=2, prices={WHATSAPP: Decimal(3)}) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=60.0)
        await do(ledger, answered())
        assert sums(ledger) == (1, 1, 1, 0)
        assert ledger.summary().by()[()].at_risk == 3
        assert next(record.error for record in ledger.attempts()) == TO_COME
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        ahead = datetime.timedelta(seconds=61)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Started)
        assert sums(ledger) == (1, 1, 0, 1)


async def test_a_callback_after_a_direct_answer_is_a_repeat(ledger: Ledger) -> None:
    await do(ledger, CHECKING, callback=b"place", patience=60.0)
    await do(ledger, answered())
    for _ in range(2):
        assert not await ledger.deliver([b"place"], answered(reply=b'{"whatsapp": "no"}'))
        assert sums(ledger) == (1, 1, 1, 0)  # nobody knows whether it is charged: until its patience is over
    assert [record.reply for record in ledger.answers()] == [REPLY]


async def test_a_reserve_is_lent_only_once_the_callback_is_late(path: Path) -> None:
    async with Ledger(path, max_charges=1) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=60.0)
        assert isinstance(await ledger.begin(ask(ledger)), Exhausted)
        await do(ledger, answered(), callback=b"place", overdue=True)
        assert sums(ledger) == (1, 1, 0, 0)


@pytest.mark.parametrize("result", [LOST, answered(), LATER])
async def test_the_callback_came_first_and_the_request_ends_somehow(ledger: Ledger, result: Result) -> None:
    started = await start(ledger, callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    await ledger.end(started, result)
    assert sums(ledger) == (1, 1, 0, 0)
    assert list(ledger.attempts(unknown_only=True)) == []
    assert isinstance(await ledger.begin(ask(ledger)), Stored)


@pytest.mark.parametrize("end", ["closed", "taken for dead", "killed"])
async def test_the_callback_came_first_and_then_the_process_ended(path: Path, end: str) -> None:
    """One charge: the request is settled by its callback, whoever finds it under way, and whatever it still brings."""
    ledger, other = Ledger(path), Ledger(path)
    await ledger.open()
    await other.open()
    started = await start(ledger, callback=b"place", key="A")
    assert await ledger.deliver([b"place"], answered())
    if end == "taken for dead":
        await other._submit(lambda book: within(book, lambda: book.abandon(started_owner(path))))
        await ledger.end(started, answered())
    await (crash(ledger) if end == "killed" else ledger.aclose())
    await other.aclose()
    async with Ledger(path) as ledger:
        assert sums(ledger) == (1, 1, 0, 0)
        assert ledger.summary().held == 0
        assert await ledger.resolve("A", CHARGED) == 0


def within(book: Book, what: Callable[[], object]) -> None:
    with book.transaction():
        what()


def started_owner(path: Path) -> str:
    ((owner,),) = rows(path, "SELECT DISTINCT owner FROM intents")
    return str(owner)


async def test_a_callback_is_charged_to_a_request_that_is_owed_one(ledger: Ledger) -> None:
    """The first writing's request was refused; the callback is the second's."""
    await do(ledger, LATER, "62813", callback=b"place")
    second = await start(ledger, "+62813", callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    await ledger.end(second, answered())
    assert sums(ledger) == (1, 3, 0, 0)


@pytest.mark.parametrize("result", [LATER, UNSENT])
async def test_a_refused_request_is_owed_no_callback(ledger: Ledger, result: Result) -> None:
    await do(ledger, result, callback=b"place")
    started = await do(ledger, CHECKING, callback=b"place")
    assert isinstance(await ledger.begin(ask(ledger, callback=b"place")), Expected)
    assert rows(ledger.path, "SELECT reserved, attempt FROM outstanding") == [(1, None)]
    assert started.id == 2
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 2 - (result is UNSENT), 0, 0)


async def test_a_late_question_asks_for_no_callback_and_reserves_nothing(ledger: Ledger) -> None:
    await do(ledger, CHECKING, callback=b"place", key="A")
    assert await ledger.resolve("A", FREE) == 1
    await do(ledger, LATER, callback=b"place", overdue=True)
    assert sums(ledger) == (0, 2, 0, 0)
    assert rows(ledger.path, "SELECT * FROM outstanding") == []


async def test_an_impatient_inbox_takes_no_reserve_of_a_patient_one(ledger: Ledger) -> None:
    await do(ledger, CHECKING, callback=b"place", patience=600.0)
    await do(ledger, answered(), callback=b"place", patience=1.0, overdue=True)
    assert sums(ledger) == (1, 1, 1, 0)


async def test_a_hold_that_came_back_ends_by_the_answer_too(ledger: Ledger) -> None:
    """A was taken for dead, and settled; B asks; A ends unknown after all; B is answered."""
    async with Ledger(ledger.path) as other:
        first = await start(other)
        await ledger._submit(lambda book: within(book, lambda: book.abandon(started_owner(ledger.path))))
        assert await ledger.resolve(ask(ledger).identity, FREE) == 1
        second = await start(ledger)
        await other.end(first, LOST)
        assert ledger.summary().held == 1
        await ledger.end(second, answered())
        assert ledger.summary().held == 0
    check(ledger.path)


async def test_who_waits_when_the_ledger_is_closed_is_woken(ledger: Ledger) -> None:
    await start(ledger)
    busy = await ledger.begin(ask(ledger))
    assert isinstance(busy, Busy)
    waiting = asyncio.create_task(busy.wait())
    await ledger.aclose()
    await waiting


async def test_settling_what_is_reserved_after_the_answer_holds_nothing(ledger: Ledger) -> None:
    await do(ledger, CHECKING, callback=b"place", key="A")
    await do(ledger, answered(), key="A")
    assert await ledger.resolve("A", CHARGED) == 1
    assert sums(ledger) == (2, 1, 0, 0)
    assert list(ledger.held()) == []


async def test_the_summary_counts_the_answers_that_are_gone(ledger: Ledger) -> None:
    await do(ledger, answered(ago=1000), 1)
    await do(ledger, answered(), 2)
    await do(ledger, Result(attempt(UNKNOWN), reply=b'"odd"'), 3, key="A")
    await do(ledger, LOST, 4, key="B")
    for key in ("A", "B"):  # what was settled has none, and never had
        await ledger.resolve(key, CHARGED)
    assert ledger.summary().lost == 0
    await ledger.purge(500)
    assert (ledger.summary().answers, ledger.summary().lost) == (1, 1)


async def test_find_says_what_begin_would_and_records_nothing(ledger: Ledger) -> None:
    await asyncio.gather(*(do(ledger, answered(reply=b'{"n": "%d \\u001f \xc3\xa9"}' % n), n) for n in range(300)))
    await do(ledger, LOST, 300)
    await do(ledger, answered(ago=100), 301)
    await do(ledger, LATER, 302)
    asks = [ask(ledger, n) for n in range(304)]
    asks += [ask(ledger, 301, reuse_for=10), ask(ledger, 1, reusable=False)]
    before = rows(ledger.path, "SELECT * FROM intents")
    found = await ledger.find(asks)
    assert rows(ledger.path, "SELECT * FROM intents") == before
    for question, one in zip(asks, found, strict=True):
        answer = await ledger.begin(question)
        assert one == (answer if isinstance(answer, Stored) else None)
    assert [n for n, one in enumerate(found) if one is None] == [300, 302, 303, 304, 305]
    assert await ledger.find([]) == []


async def test_the_number_of_an_attempt_is_kept(ledger: Ledger) -> None:
    await do(ledger, LATER)
    await do(ledger, Result(dataclasses.replace(answered().attempt, number=2), reply=REPLY, answer=True))
    for stored in (await ledger.begin(ask(ledger)), *await ledger.find([ask(ledger)])):
        assert isinstance(stored, Stored)
        assert stored.attempt.number == 2


async def test_a_ledger_of_version_1_is_brought_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.connect(path, synchronous="off", busy_timeout=1).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        (key,) = db.execute("SELECT hash_key FROM file").fetchone()
        digest = hashlib.blake2b(digest_size=16, key=key)
        digest.update(f"{len(WHATSAPP)} {WHATSAPP} 6 number True 1 1".encode())
        for number, state in ((1, "unknown"), (2, "charged")):
            row = (number, digest.digest() if number == 1 else None, WHATSAPP, 1, 0, 5, 5, state, 0)
            db.execute(
                "INSERT INTO attempts (id, identity, endpoint, may_charge, price, started_at, elapsed, state, answer)"
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        db.execute("INSERT INTO totals VALUES (?, 0, 1, 0, 0, 1, 2, 0)", (WHATSAPP,))
        db.execute("UPDATE file SET last_id = 2")
    async with Ledger(path) as ledger:
        assert [record.state for record in ledger.held()] == [State.UNKNOWN]
        identity = ledger.identity(WHATSAPP, [("number", "1")])
        assert isinstance(await ledger.begin(Ask(WHATSAPP, identity)), Held)
    check(path)


async def test_what_is_no_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes")
    other.chmod(0o644)
    await refused(other, "is no ledger")
    assert stat.S_IMODE(other.stat().st_mode) == 0o644


async def test_looking_leaves_no_files_beside_the_ledger(path: Path) -> None:
    async with Ledger(path) as ledger:
        await do(ledger, answered())
    names = [path.name, f"{path.name}-mark"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    assert Ledger(path).summary().answers == len(list(Ledger(path).answers())) == 1
    assert sorted(file.name for file in path.parent.iterdir()) == names


async def test_the_read_side(path: Path) -> None:
    prices = {WHATSAPP: Decimal("0.02"), "facecompare": Decimal("0.5")}
    async with Ledger(path, prices=prices, synchronous="off") as ledger:
        await do(ledger, answered(), 1, key="A")
        await do(ledger, LOST, 2, key="B", endpoint="facecompare")
        await do(ledger, Result(attempt(FREE, ago=86_400)), 3, key="C")
        await do(ledger, UNSENT, 4)
        await start(ledger, 5, key=9)
        summary = ledger.summary()
        today = clock.today().date()
        whole = summary.by()[()]
        assert (whole.charged, whole.free, whole.not_sent, whole.unknown, whole.intended) == (1, 1, 1, 1, 1)
        assert (whole.cost, whole.at_risk) == (Decimal("0.02"), Decimal("0.52"))
        assert summary.by("day", "endpoint")[today - datetime.timedelta(days=1), WHATSAPP].free == 1
        assert summary.by("status")[None,].unknown == 1
        assert summary.held == 1
        assert [(r.key, r.state) for r in ledger.attempts()] == [
            ("A", State.CHARGED),
            ("B", State.UNKNOWN),
            ("C", State.FREE),
            (None, State.NOT_SENT),
            (9, State.INTENDED),
        ]
        assert [r.key for r in ledger.attempts(unknown_only=True)] == ["B"]
        assert [(r.key, r.reply) for r in ledger.answers()] == [("A", REPLY)]
        assert REPLY.decode() not in repr(list(ledger.answers()))
        # A reader that is left early holds nothing; one that goes on sees the ledger as it was.
        reader = ledger.attempts()
        next(reader)
        await do(ledger, answered(), 6)
        assert len(list(reader)) == 4
        early = ledger.attempts()
        next(early)
        del early
    assert len(list(Ledger(path).attempts())) == 6


def test_reading_what_is_not_there(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(path).summary()
    assert not path.exists()


async def test_memory_is_flat(ledger: Ledger) -> None:
    numbers = itertools.count()

    async def work(count: int) -> None:
        for n in itertools.islice(numbers, count):
            await do(ledger, answered(), n)

    await asyncio.gather(*(work(20) for _ in range(50)))
    tracemalloc.start()
    try:
        await asyncio.gather(*(work(20) for _ in range(50)))
        first = tracemalloc.get_traced_memory()[0]
        await asyncio.gather(*(work(60) for _ in range(50)))
        assert tracemalloc.get_traced_memory()[0] < first + 200_000
    finally:
        tracemalloc.stop()


async def test_a_loop_that_is_gone_is_noticed() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert not sqlite._call(loop, print)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name == "aisolution-ledger" and not t.daemon] == []
