"""The ledger: many at a time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from aisolution_async import Attempt, clock
from aisolution_async.ledger import (
    Ask,
    Busy,
    Held,
    Ledger,
    LedgerError,
    Result,
    Started,
    Stored,
)
from aisolution_async.ledger.peek import Peek

from .ledgers import (
    CHARGED,
    FREE,
    LATER,
    LOST,
    REPLY,
    UNKNOWN,
    WHATSAPP,
    AnyLedger,
    answered,
    ask,
    attempt,
    check,
    do,
    see_statements,
    start,
    take_for_dead,
)

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_the_second_of_two_alike_waits_for_the_first(ledger: AnyLedger, monkeypatch: pytest.MonkeyPatch) -> None:
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
    file_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(clock, "sleep", sleep)
    async with Ledger(file_ledger.path) as other:
        started = await start(other)
        busy = await file_ledger.begin(ask(file_ledger))
        assert isinstance(busy, Busy)
        await busy.wait()
        await other.end(started, answered())
        assert isinstance(await file_ledger.begin(ask(file_ledger)), Stored)
    assert slept == [0.2]


async def test_a_busy_that_is_waited_for_late_returns_at_once(ledger: AnyLedger) -> None:
    started = await start(ledger)
    busy = await ledger.begin(ask(ledger))
    assert isinstance(busy, Busy)
    await ledger.end(started, LATER)
    await busy.wait()


async def test_many_operations_share_one_commit(file_ledger: Ledger) -> None:
    statements: Counter[str] = Counter()
    await see_statements(file_ledger, lambda query: statements.update([query]))
    await asyncio.gather(*(do(file_ledger, answered(), n) for n in range(500)))
    assert 0 < statements["COMMIT"] < 20
    assert len(list(file_ledger.answers())) == 500


@pytest.mark.parametrize("any_holding", [False, True])
async def test_a_group_is_told_together_what_each_would_be_told_alone(file_ledger: Ledger, any_holding: bool) -> None:
    """Of each question, the newest answer and the last of all that hold it."""
    lost = [Result(attempt(UNKNOWN, ago=5.0 - n, error=f"loss {n}")) for n in range(3)]
    told = {n: answered(ago=5.0 - n, reply=b'"answer %d"' % n) for n in range(3)}
    histories = {1: [told[0], told[1], told[2]], 2: [told[1]], 3: [LATER], 4: []}
    if any_holding:
        histories |= {5: lost, 6: [*lost[:2], told[0]], 7: [told[0], lost[0]]}
    for number, results in histories.items():
        for result in results:
            await do(file_ledger, result, number, reuse_for=0.0, retry_unknown=None)
    asks = [ask(file_ledger, number, reuse_for=60.0, retry_unknown=1) for number in histories]
    asks.append(ask(file_ledger, 7, reuse_for=1.0))
    with Peek(file_ledger.path) as peek:
        alone = [peek.look(each) for each in asks]
        assert await peek.find(asks) == [each if isinstance(each, Stored) else None for each in alone]
    statements: Counter[str] = Counter()
    await see_statements(file_ledger, lambda query: statements.update([query]))
    together = await asyncio.gather(*map(file_ledger.begin, asks))
    assert statements["COMMIT"] == 1
    assert [each if isinstance(each, Stored | Held) else None for each in together] == alone
    said = [each.reply if isinstance(each, Stored) else getattr(each, "attempts", None) for each in alone]
    assert said[:4] == [b'"answer 2"', b'"answer 1"', None, None]
    assert said[4:] == ([3, b'"answer 0"', b'"answer 0"', 1] if any_holding else [None])
    if any_holding:
        assert alone[4] == Held(dataclasses.replace(lost[2].attempt, recorded=True), attempts=3)


async def test_an_answer_lifts_the_hold_whatever_ends_beside_it(ledger: AnyLedger) -> None:
    await do(ledger, LOST)
    first, second = await start(ledger, 2), await start(ledger, retry_unknown=1)
    await asyncio.gather(ledger.end(first, LATER), ledger.end(second, answered()))
    assert list(ledger.held()) == []


async def test_one_operation_that_cannot_be_does_not_take_the_others_down(file_ledger: Ledger) -> None:
    good = [file_ledger.begin(ask(file_ledger, n)) for n in range(20)]
    bad = file_ledger.begin(Ask(WHATSAPP, object()))  # type: ignore[arg-type]
    *answers, error = await asyncio.gather(*good, bad, return_exceptions=True)
    assert all(isinstance(answer, Started) for answer in answers)
    assert isinstance(error, LedgerError)
    assert str(file_ledger.path) in str(error)
    started = await start(file_ledger, 99)
    with pytest.raises(LedgerError, match="cannot be recorded"):
        await file_ledger.end(
            started, Result(Attempt(CHARGED, "OK", 10**30, clock.today(), 1.0), reply=REPLY, answer=True)
        )
    await file_ledger.end(started, answered())
    assert len(list(file_ledger.answers())) == 1
    check(file_ledger.path)


async def test_text_that_is_no_unicode_does_not_keep_an_answer_out(ledger: AnyLedger) -> None:
    await do(ledger, Result(Attempt(UNKNOWN, "\ud800", 200, clock.today(), 1.0, "bad \udfff")))
    assert [(r.status, r.error) for r in ledger.attempts()] == [("?", "bad ?")]


async def test_many_make_the_ledger_at_once(tmp_path: Path) -> None:
    for n in range(8):
        ledgers = [Ledger(tmp_path / str(n)) for _ in range(8)]
        await asyncio.gather(*(ledger.open() for ledger in ledgers))
        assert len({ask(ledger) for ledger in ledgers}) == 1
        await asyncio.gather(*(ledger.aclose() for ledger in ledgers))


async def test_who_waits_when_the_ledger_is_closed_is_woken(ledger: AnyLedger) -> None:
    await start(ledger)
    busy = await ledger.begin(ask(ledger))
    assert isinstance(busy, Busy)
    waiting = asyncio.create_task(busy.wait())
    await ledger.aclose()
    await waiting


ENDS = {"an answer": CHARGED, "a loss": UNKNOWN, "a free end": FREE}


@pytest.mark.parametrize("came", ENDS)
@pytest.mark.parametrize("is_held", [False, True], ids=["nothing is held", "another question is held"])
async def test_who_asks_in_the_group_in_which_the_same_ends_is_told_of_it(
    file_ledger: Ledger, came: str, *, is_held: bool
) -> None:
    """What was looked up for the whole group before is not so any more."""
    if is_held:
        await do(file_ledger, Result(attempt(UNKNOWN)), number="held")
    ended = await start(file_ledger)
    begun = [file_ledger.begin(ask(file_ledger)), file_ledger.begin(ask(file_ledger, retry_unknown=1))]
    result = answered() if came == "an answer" else Result(attempt(ENDS[came]))
    _, first, second = await asyncio.gather(file_ledger.end(ended, result), *begun)
    if came == "an answer":
        assert (type(first), type(second)) == (Stored, Stored)
    elif came == "a loss":
        assert (type(first), type(second)) == (Held, Started)
    else:
        assert (type(first), type(second)) == (Started, Busy)
    check(file_ledger.path)


async def test_an_answer_lifts_a_hold_that_came_in_the_same_group(file_ledger: Ledger) -> None:
    """The first attempt was taken for dead, and its end says late that it is lost: the second is answered beside it."""
    first = await start(file_ledger)
    await take_for_dead(file_ledger)
    second = await start(file_ledger, retry_unknown=1)
    await asyncio.gather(file_ledger.end(first, Result(attempt(UNKNOWN))), file_ledger.end(second, answered()))
    assert list(file_ledger.held()) == []
    assert isinstance(await file_ledger.begin(ask(file_ledger)), Stored)
    check(file_ledger.path)


async def test_a_late_answer_is_told_to_who_asks_in_the_group_in_which_it_came(file_ledger: Ledger) -> None:
    """The attempt was taken for dead: its row is changed, and not added."""
    first = await start(file_ledger)
    await take_for_dead(file_ledger)
    assert isinstance(await file_ledger.begin(ask(file_ledger)), Held)
    _, second = await asyncio.gather(file_ledger.end(first, answered()), file_ledger.begin(ask(file_ledger)))
    assert isinstance(second, Stored)
    check(file_ledger.path)


async def test_of_years_of_answers_a_group_reads_the_newest(file_ledger: Ledger) -> None:
    for number in range(3):
        await do(file_ledger, Result(attempt(UNKNOWN)), reuse_for=0, retry_unknown=9)
        await do(file_ledger, answered(reply=b"%d" % number), reuse_for=0, retry_unknown=9)
    await do(file_ledger, Result(attempt(UNKNOWN)), reuse_for=0)
    asks = [ask(file_ledger), ask(file_ledger, reuse_for=0), ask(file_ledger, reuse_for=0, retry_unknown=1)]
    stored, held, started = await asyncio.gather(*map(file_ledger.begin, asks))
    assert isinstance(stored, Stored)
    assert stored.reply == b"2"
    assert isinstance(held, Held)
    assert held.attempts == 1
    assert isinstance(started, Started)
    check(file_ledger.path)


async def test_a_group_larger_than_one_statement_asks_for(file_ledger: Ledger) -> None:
    """Answers, holds and new questions, each told of its own; and what is answered at once is all recorded."""
    many = 300
    for number in range(1, many, 3):
        await do(file_ledger, answered(reply=b"%d" % number), number)
        await do(file_ledger, Result(attempt(UNKNOWN)), number + 1)
    verdicts = await asyncio.gather(*(file_ledger.begin(ask(file_ledger, n, key=f"{n}")) for n in range(many)))
    assert [type(verdict) for verdict in verdicts] == [Started, Stored, Held] * (many // 3)
    replies = [verdict.reply for verdict in verdicts if isinstance(verdict, Stored)]
    assert replies == [b"%d" % number for number in range(1, many, 3)]
    started = [verdict for verdict in verdicts if isinstance(verdict, Started)]
    await asyncio.gather(*(file_ledger.end(each, answered(reply=f"{each.ask.key}".encode())) for each in started))
    found = await file_ledger.find([ask(file_ledger, number) for number in range(many)])
    assert [stored and stored.reply for stored in found] == [
        None if number % 3 == 2 else b"%d" % number for number in range(many)
    ]
    check(file_ledger.path)
