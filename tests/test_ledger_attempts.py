"""The ledger: one attempt, begun and ended."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import Attempt
from aisolution_async.ledger import (
    Held,
    Ledger,
    Result,
    Started,
    Stored,
)

from .ledgers import (
    CHARGED,
    FREE,
    LATER,
    LOST,
    REPLY,
    UNKNOWN,
    UNSENT,
    AnyLedger,
    answered,
    ask,
    attempt,
    check,
    do,
    pragma,
    rows,
    start,
    where,
)

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_an_answer_is_stored_and_given_again(ledger: AnyLedger) -> None:
    result = answered(reply='{"signature": "Ωμέγα 😀"}'.encode())
    await do(ledger, result, key="A-17")
    stored = await ledger.begin(ask(ledger))
    assert isinstance(stored, Stored)
    assert stored.reply == result.reply
    assert stored.attempt == dataclasses.replace(result.attempt, recorded=True)
    assert stored.answered_at == result.attempt.started_at + datetime.timedelta(seconds=0.25)
    assert "Ωμέγα" not in repr(stored) + repr(result)


async def test_the_intent_is_in_the_file_before_begin_returns_and_the_answer_before_end_does(ledger: AnyLedger) -> None:
    started = await start(ledger, key="A-17")
    assert rows(where(ledger), "SELECT id, key FROM intents") == [(started.id, '"A-17"')]
    assert rows(where(ledger), "SELECT count(*) FROM attempts") == [(0,)]
    await ledger.end(started, answered())
    assert rows(where(ledger), "SELECT count(*) FROM intents") == [(0,)]
    assert rows(where(ledger), "SELECT id, state FROM attempts") == [(started.id, "charged")]
    assert [record.reply for record in ledger.answers()] == [REPLY]


@pytest.mark.parametrize(("mode", "level"), [("full", 2), ("normal", 1), ("off", 0)])
async def test_commits_are_synced_as_asked(ledger_path: Path, mode: Any, level: int) -> None:
    async with Ledger(ledger_path, synchronous=mode) as ledger:
        pragmas = [await pragma(ledger, setting) for setting in ("synchronous", "journal_mode", "fullfsync")]
    assert pragmas == [level, "wal", 1]


async def test_times_are_whole_microseconds(file_ledger: Ledger) -> None:
    began = datetime.datetime(2031, 5, 6, 7, 8, 9, 123457, tzinfo=datetime.UTC)
    await do(file_ledger, Result(Attempt(CHARGED, "OK", 200, began, 0.000003), reply=REPLY, answer=True))
    assert rows(file_ledger.path, "SELECT started_at, elapsed, typeof(elapsed) FROM attempts") == [
        (1_935_817_689_123_457, 3, "integer")
    ]
    stored = await file_ledger.begin(ask(file_ledger))
    assert isinstance(stored, Stored)
    assert (stored.attempt.started_at, stored.attempt.elapsed) == (began, 0.000003)


async def test_reuse_for(ledger: AnyLedger) -> None:
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


@pytest.mark.parametrize(
    "result",
    [
        LATER,
        UNSENT,
        Result(attempt(FREE), reply=b'{"whatsapp": "checking"}', answer=False),
        Result(attempt(CHARGED), reply=None, answer=True),
    ],
)
async def test_what_is_no_answer_is_asked_again(ledger: AnyLedger, result: Result) -> None:
    await do(ledger, result)
    await do(ledger, result)
    assert [record.state for record in ledger.attempts()] == [result.state] * 2
    assert list(ledger.answers()) == []


async def test_ending_twice_does_no_harm(ledger: AnyLedger) -> None:
    started = await do(ledger, answered())
    await ledger.end(started, answered(reply=b"{}"))
    again = await do(ledger, LATER, 2)
    await ledger.end(again, LATER)
    assert [record.reply for record in ledger.answers()] == [REPLY]
    check(where(ledger))


async def test_ending_twice_what_cannot_be_read_lifts_nothing(ledger: AnyLedger) -> None:
    odd = Result(attempt(UNKNOWN), reply=b'"odd"')
    await ledger.end(await do(ledger, odd), odd)
    held = await ledger.begin(ask(ledger))
    assert isinstance(held, Held)
    assert held.reply == odd.reply


async def test_calls_that_may_not_be_answered_from_the_ledger(ledger: AnyLedger) -> None:
    """addface without a key: sent as often as asked, at once, and nothing of it is mixed up."""
    options: dict[str, Any] = {"endpoint": "addface", "may_charge": False, "reusable": False}
    first, second = await start(ledger, **options), await start(ledger, **options)
    await ledger.end(first, LOST)
    await ledger.end(second, Result(attempt(FREE), reply=b"{}", answer=True))
    assert isinstance(await ledger.begin(ask(ledger, **options)), Started)
    assert ledger.summary().held == 0


async def test_calls_that_may_not_be_answered_from_the_ledger_say_nothing_to_others(ledger: AnyLedger) -> None:
    for result in (LOST, answered()):
        await do(ledger, result, reusable=False)
        await do(ledger, LATER)
    assert list(ledger.held()) == []
    assert [record.reply for record in ledger.answers()] == [REPLY]


async def test_the_number_of_an_attempt_is_kept(ledger: AnyLedger) -> None:
    await do(ledger, LATER)
    await do(ledger, Result(dataclasses.replace(answered().attempt, number=2), reply=REPLY, answer=True))
    for stored in (await ledger.begin(ask(ledger)), *await ledger.find([ask(ledger)])):
        assert isinstance(stored, Stored)
        assert stored.attempt.number == 2


@pytest.mark.no_cover
async def test_memory_is_flat(file_ledger: Ledger) -> None:
    numbers = itertools.count()

    async def work(count: int) -> None:
        for n in itertools.islice(numbers, count):
            await do(file_ledger, answered(), n)

    await asyncio.gather(*(work(20) for _ in range(50)))
    tracemalloc.start()
    try:
        await asyncio.gather(*(work(20) for _ in range(50)))
        first = tracemalloc.get_traced_memory()[0]
        await asyncio.gather(*(work(60) for _ in range(50)))
        assert tracemalloc.get_traced_memory()[0] < first + 200_000
    finally:
        tracemalloc.stop()
