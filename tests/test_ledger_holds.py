"""The ledger: questions that are held, and what lifts a hold."""

from __future__ import annotations

import dataclasses
import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import Charge, ConfigurationError
from aisolution_async.ledger import (
    Exhausted,
    Held,
    Result,
    Started,
    State,
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
    WHATSAPP,
    AnyLedger,
    answered,
    ask,
    attempt,
    check,
    do,
    ledger_at,
    start,
    take_for_dead,
    where,
)

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_an_older_answer_serves_after_attempts_without_one(ledger: AnyLedger) -> None:
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


async def test_a_call_whose_last_attempt_is_unknown_is_held(ledger: AnyLedger) -> None:
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
async def test_a_question_is_held_by_each_of_its_attempts(
    ledger: AnyLedger, settled: tuple[Charge | None, ...]
) -> None:
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
    check(where(ledger))


async def test_a_late_answer_lifts_the_hold_of_its_attempt(ledger: AnyLedger) -> None:
    first, second = await do(ledger, LOST), await do(ledger, LOST, retry_unknown=1)
    await ledger.end(second, LATER)
    held = await ledger.begin(ask(ledger))
    assert isinstance(held, Held)
    assert held.attempts == 1
    await ledger.end(first, answered())
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert list(ledger.held()) == []
    check(where(ledger))


async def test_an_unknown_attempt_that_answers_or_whose_question_is_another_each_time_holds_nothing(
    ledger: AnyLedger,
) -> None:
    await do(ledger, Result(attempt(UNKNOWN), reply=REPLY, answer=True))
    await do(ledger, LOST, 2, reusable=False)
    assert (ledger.summary().held, list(ledger.held())) == (0, [])
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    await start(ledger, 2, reusable=False)


async def test_the_hold_of_an_attempt_can_be_lifted(ledger: AnyLedger) -> None:
    lost = Result(attempt(UNKNOWN), reply=b'{"number": "1"}')
    started = await do(ledger, lost)
    assert isinstance(await ledger.begin(ask(ledger)), Held)
    await ledger.end(started, dataclasses.replace(lost, holds=False))
    await do(ledger, dataclasses.replace(LOST, holds=False))
    assert ledger.summary().held == 0
    assert [record.state for record in ledger.attempts(unknown_only=True)] == [State.UNKNOWN] * 2
    await start(ledger)
    check(where(ledger))


async def test_resolve(place: Path | str) -> None:
    async with ledger_at(place, max_charges=3, prices={WHATSAPP: Decimal(2)}, synchronous="off") as ledger:
        await do(ledger, LOST, 1, key="A")
        await do(ledger, LOST, 2, key=17)
        await do(ledger, LOST, 3)
        assert isinstance(await ledger.begin(ask(ledger, 4)), Exhausted)
        assert await ledger.resolve("B", FREE) == 0
        assert await ledger.resolve("A", FREE) == 1
        assert await ledger.resolve("A", FREE) == 0
        assert await ledger.resolve("17", CHARGED) == 1  # as a command line has it
        assert await ledger.resolve(17, FREE) == 0  # once and for all
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
    check(place)


async def test_what_never_charges_is_held_where_its_process_ended(place: Path | str) -> None:
    """Whatever came of another question since."""
    options: dict[str, Any] = {"endpoint": "addface", "may_charge": False}
    async with ledger_at(place) as ledger:
        await start(ledger, 1, **options)
        await do(ledger, Result(attempt(FREE), reply=b"{}", answer=True), 2, **options)
    async with ledger_at(place) as ledger:
        assert isinstance(await ledger.begin(ask(ledger, 1, **options)), Held)
        assert [record.state for record in ledger.attempts()] == [State.UNKNOWN, State.FREE]


async def test_an_attempt_settled_as_charged_is_sent_again_when_asked_for(ledger: AnyLedger) -> None:
    await do(ledger, LOST)
    assert await ledger.resolve(ask(ledger).identity, CHARGED) == 1
    await do(ledger, answered(), retry_unknown=1)
    assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert list(ledger.held()) == []
    check(where(ledger))


async def test_an_ok_that_did_not_fit_is_kept_with_its_message(ledger: AnyLedger) -> None:
    await do(ledger, Result(attempt(UNKNOWN), reply=b'{"similarity": "high"}'), key="A")
    held = await ledger.begin(ask(ledger))
    assert isinstance(held, Held)
    assert held.reply == b'{"similarity": "high"}'
    assert "high" not in repr(held)
    assert [record.reply for record in ledger.answers()] == [record.reply for record in ledger.held()] == [held.reply]


async def test_a_hold_that_came_back_ends_by_the_answer_too(ledger: AnyLedger) -> None:
    """A was taken for dead, and settled; B asks; A ends unknown after all; B is answered."""
    async with ledger_at(where(ledger)) as other:
        first = await start(other)
        await take_for_dead(ledger)
        assert await ledger.resolve(ask(ledger).identity, FREE) == 1
        second = await start(ledger)
        await other.end(first, LOST)
        assert ledger.summary().held == 1
        await ledger.end(second, answered())
        assert ledger.summary().held == 0
    check(where(ledger))
