"""The ledger: the read side."""

from __future__ import annotations

import asyncio
import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from aisolution_async import clock
from aisolution_async.ledger import (
    Held,
    Ledger,
    LedgerError,
    Result,
    State,
    Stored,
    reading,
)

from .ledgers import (
    CHARGED,
    FREE,
    LATER,
    LOST,
    REPLY,
    UNKNOWN,
    UNSENT,
    WHATSAPP,
    AnyLedger,
    answered,
    ask,
    attempt,
    do,
    ledger_at,
    rows,
    start,
    where,
)

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_the_summary_counts_the_answers_that_are_gone(ledger: AnyLedger) -> None:
    await do(ledger, answered(ago=1000), 1)
    await do(ledger, answered(), 2)
    await do(ledger, Result(attempt(UNKNOWN), reply=b'"odd"'), 3, key="A")
    await do(ledger, LOST, 4, key="B")
    for key in ("A", "B"):  # what was settled has none, and never had
        await ledger.resolve(key, CHARGED)
    assert ledger.summary().lost == 0
    await ledger.purge(500)
    assert (ledger.summary().answers, ledger.summary().lost) == (1, 1)


async def test_what_was_settled_is_not_unknown_any_more(ledger: AnyLedger) -> None:
    await do(ledger, LOST, 1, key="A")
    await do(ledger, LOST, 2, key="B")
    await ledger.resolve("A", CHARGED)
    assert [record.key for record in ledger.attempts(unknown_only=True)] == ["B"]
    assert [record.key for record in ledger.held()] == ["A", "B"]


async def test_the_summary_is_of_one_moment_and_in_the_order_of_days(file_ledger: Ledger) -> None:
    await do(file_ledger, answered(), 1, endpoint="facecompare")
    await do(file_ledger, answered(ago=86_400), 2)
    with reading.reading(file_ledger.path, 1.0) as db:
        before = reading.summary(db)
        await do(file_ledger, LOST, 3)
        assert reading.summary(db) == before
    assert [line.endpoint for line in before.lines] == [WHATSAPP, "facecompare"]


async def test_what_one_thread_begins_to_read_another_may_finish(ledger: AnyLedger) -> None:
    for number in (1, 2):
        await do(ledger, answered(), number)
    reader = ledger.answers()
    next(reader)
    assert len(await asyncio.to_thread(list, reader)) == 1


async def test_what_begin_says_shows_no_reply(ledger: AnyLedger) -> None:
    await do(ledger, answered(), 1)
    await do(ledger, Result(attempt(UNKNOWN), reply=REPLY), 2)
    for number, kind in ((1, Stored), (2, Held)):
        verdict = await ledger.begin(ask(ledger, number))
        assert isinstance(verdict, kind)
        assert verdict.reply == REPLY
        assert "whatsapp" not in repr(verdict)


async def test_a_purge_takes_what_has_a_reply_or_a_question_alone(ledger: AnyLedger) -> None:
    await do(ledger, answered(ago=10.0), 1, reusable=False)
    await do(ledger, Result(attempt(FREE, ago=10.0)), 2)
    assert await ledger.purge(5.0) == 2
    assert await ledger.purge(5.0) == 0
    assert list(ledger.answers()) == []


async def test_find_says_what_begin_would_and_records_nothing(ledger: AnyLedger) -> None:
    await asyncio.gather(*(do(ledger, answered(reply=b'{"n": "%d \\u001f \xc3\xa9"}' % n), n) for n in range(300)))
    await do(ledger, LOST, 300)
    await do(ledger, answered(ago=100), 301)
    await do(ledger, LATER, 302)
    asks = [ask(ledger, n) for n in range(304)]
    asks += [ask(ledger, 301, reuse_for=10), ask(ledger, 1, reusable=False)]
    before = rows(where(ledger), "SELECT * FROM intents")
    found = await ledger.find(asks)
    assert rows(where(ledger), "SELECT * FROM intents") == before
    for question, one in zip(asks, found, strict=True):
        answer = await ledger.begin(question)
        assert one == (answer if isinstance(answer, Stored) else None)
    assert [n for n, one in enumerate(found) if one is None] == [300, 302, 303, 304, 305]
    assert await ledger.find([]) == []
    assert await ledger.find([ask(ledger, 302)]) == [None]


async def test_the_read_side(place: Path | str) -> None:
    prices = {WHATSAPP: Decimal("0.02"), "facecompare": Decimal("0.5")}
    async with ledger_at(place, prices=prices, synchronous="off") as ledger:
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
    assert len(list(ledger_at(place).attempts())) == 6


def test_reading_what_is_not_there(place: Path | str) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        ledger_at(place).summary()
    assert not isinstance(place, Path) or not place.exists()
