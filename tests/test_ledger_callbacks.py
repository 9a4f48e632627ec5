"""The ledger: answers to come, and what is at stake."""

from __future__ import annotations

import dataclasses
import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import Charge, clock
from aisolution_async.ledger import (
    Exhausted,
    Expected,
    Held,
    Result,
    Started,
    Stored,
)
from aisolution_async.ledger.rows import TO_COME

from .ledgers import (
    CHARGED,
    CHECKING,
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
    crash,
    do,
    ledger_at,
    rows,
    start,
    sums,
    take_for_dead,
    where,
)

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


@pytest.mark.parametrize("settled", [CHARGED, FREE])
async def test_a_callback_after_its_request_was_settled(ledger: AnyLedger, settled: Charge) -> None:
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


async def test_a_number_written_in_two_ways_has_one_callback(ledger: AnyLedger) -> None:
    """One callback answers both questions, and is charged once; nothing stays at stake."""
    await do(ledger, CHECKING, "62813", callback=b"place")
    await do(ledger, CHECKING, "+62813", callback=b"place")
    assert sums(ledger) == (0, 2, 0, 2)
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 3, 0, 0)
    for number in ("62813", "+62813"):
        assert isinstance(await ledger.begin(ask(ledger, number)), Stored)
    assert not await ledger.deliver([b"place"], answered())


async def test_a_callback_is_the_first_that_it_may_be_or_the_only_other(ledger: AnyLedger) -> None:
    for number in (1, 2, 3):
        await do(ledger, CHECKING, number, callback=b"%d" % number)
    assert not await ledger.deliver([b"none", b"2", b"3"], answered())
    assert not await ledger.deliver([], answered())
    assert sums(ledger) == (0, 3, 0, 3)
    assert await ledger.deliver([b"1", b"2"], answered())
    assert isinstance(await ledger.begin(ask(ledger, 1)), Stored)
    assert await ledger.deliver([b"1", b"2", b"none"], answered())
    assert isinstance(await ledger.begin(ask(ledger, 2)), Stored)
    assert sums(ledger) == (2, 3, 0, 1)


async def test_a_callback_lifts_all_that_holds_its_question(ledger: AnyLedger) -> None:
    for allowed in range(3):
        await do(ledger, LOST, callback=b"place", overdue=allowed > 0, retry_unknown=allowed)
    assert ledger.summary().held == 1
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 0, 2, 0)
    assert ledger.summary().held == len(list(ledger.held())) == 0
    assert isinstance(await ledger.begin(ask(ledger, reuse_for=0.0)), Started)


async def test_the_second_writing_was_lost(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, "62813", callback=b"place")
    await do(ledger, LOST, "+62813", callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 1, 1, 0)  # whether the lost one was charged too, nobody knows
    assert isinstance(await ledger.begin(ask(ledger, "+62813")), Stored)
    assert list(ledger.held()) == []
    assert await ledger.resolve(ask(ledger, "+62813").identity, FREE) == 1
    assert sums(ledger) == (1, 2, 0, 0)


@pytest.mark.parametrize("late", [0.0, 60.0])
async def test_the_second_writing_is_under_way(ledger: AnyLedger, late: float) -> None:
    """Its request may be charged besides the callback, which is the first's charge."""
    await do(ledger, CHECKING, "62813", callback=b"place")
    second = await start(ledger, "+62813", callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 2, 0, 1)
    await ledger.end(second, answered(ago=late))
    assert sums(ledger) == (2, 2, 0, 0)


async def test_a_direct_answer_before_the_callback_is_late(place: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that asked for the callback may still be charged: until its patience is over."""
    real, ahead = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + ahead)
    async with ledger_at(place, max_charges=2, prices={WHATSAPP: Decimal(3)}) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=60.0)
        await do(ledger, answered())
        assert sums(ledger) == (1, 1, 1, 0)
        assert ledger.summary().by()[()].at_risk == 3
        assert next(record.error for record in ledger.attempts()) == TO_COME
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        ahead = datetime.timedelta(seconds=61)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Started)
        assert sums(ledger) == (1, 1, 0, 1)


async def test_a_callback_after_a_direct_answer_is_a_repeat(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, callback=b"place", patience=60.0)
    await do(ledger, answered())
    for _ in range(2):
        assert not await ledger.deliver([b"place"], answered(reply=b'{"whatsapp": "no"}'))
        assert sums(ledger) == (1, 1, 1, 0)  # nobody knows whether it is charged: until its patience is over
    assert [record.reply for record in ledger.answers()] == [REPLY]


async def test_a_question_that_was_answered_otherwise_is_no_longer_waited_for(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, callback=b"place", patience=60.0)
    await do(ledger, answered(ago=1.0))
    started = await start(ledger, callback=b"place", patience=60.0, reuse_for=0.0)
    assert isinstance(await ledger.begin(ask(ledger, callback=b"place", reuse_for=0.0)), Expected)
    await ledger.end(started, CHECKING)
    assert sums(ledger) == (1, 2, 0, 1)


async def test_a_repeat_that_came_in_time_may_be_on_the_bill_for_good(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + ahead)
    async with ledger_at(place, max_charges=2) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=60.0, key="A")
        await do(ledger, answered())
        assert not await ledger.deliver([b"place"], answered())
        ahead = datetime.timedelta(seconds=61)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        assert sums(ledger) == (1, 1, 1, 0)
        assert list(ledger.held()) == []
        assert await ledger.resolve("A", FREE) == 1
        assert sums(ledger) == (1, 2, 0, 0)


@pytest.mark.parametrize("budget", [{"max_charges": 1}, {"max_cost": Decimal(3), "prices": {WHATSAPP: Decimal(3)}}])
@pytest.mark.parametrize("patience", [60.0, 120.0])
async def test_a_reserve_is_lent_only_once_the_callback_is_late(
    place: Path | str, patience: float, budget: dict[str, Any]
) -> None:
    async with ledger_at(place, **budget) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=60.0)
        assert isinstance(await ledger.begin(ask(ledger)), Exhausted)
        await do(ledger, answered(), callback=b"place", patience=patience, overdue=True)
        assert sums(ledger) == (1, 1, 0, 0)


async def test_nothing_is_lent_where_the_budget_has_room(place: Path | str) -> None:
    """The late callback may be charged besides: both stay counted."""
    async with ledger_at(place, max_charges=2) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=0.0)
        again = await start(ledger, callback=b"place", overdue=True)
        assert not again.borrows
        assert sums(ledger) == (0, 1, 0, 2)


@pytest.mark.parametrize("first", [LOST, dataclasses.replace(answered(), answer=False, expected=True)])
async def test_a_charge_that_was_or_may_be_made_is_lent_to_nobody(place: Path | str, first: Result) -> None:
    """Only what is set aside can be given back: the callback that is late has the charge of its own request."""
    async with ledger_at(place, max_charges=1) as ledger:
        await do(ledger, first, callback=b"place", patience=0.0)
        asked = ask(ledger, callback=b"place", overdue=True, retry_unknown=1)
        assert isinstance(await ledger.begin(asked), Exhausted)


@pytest.mark.parametrize(
    ("result", "order", "all_"),
    [
        (answered(), "during", (2, 1, 0, 0)),
        (LOST, "during", (1, 1, 1, 0)),
        (LOST, "after", (1, 1, 1, 0)),
        (LATER, "during", (1, 2, 0, 0)),
        (LATER, "after", (1, 2, 0, 0)),
    ],
)
async def test_a_late_callback_is_no_charge_of_the_request_that_was_lent_its_reserve(
    place: Path | str, result: Result, order: str, all_: tuple[int, ...]
) -> None:
    """Both may be on the bill, and both are counted: over the limit, if need be."""
    async with ledger_at(place, max_charges=1) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=0.0)
        second = await start(ledger, callback=b"place", overdue=True)
        if order == "after":
            await ledger.end(second, result)
        assert await ledger.deliver([b"place"], answered())
        if order == "during":
            await ledger.end(second, answered() if result.answers else result)  # after the callback
        assert sums(ledger) == all_
        assert isinstance(await ledger.begin(ask(ledger)), Stored)


@pytest.mark.parametrize("first", [CHECKING, LOST])
async def test_a_callback_that_came_after_an_answer_that_was_recorded_late_may_be_charged(
    place: Path | str, first: Result
) -> None:
    """As where the disk was full meanwhile. One that came before the answer is charged besides."""
    async with ledger_at(place) as ledger:
        options: dict[str, Any] = {"callback": b"place", "patience": 0.0, "retry_unknown": 1}
        for number, late in ((1, 0.0), (2, 60.0)):
            await do(ledger, first, number, **options)
            second = await start(ledger, number, **options, overdue=True)
            assert await ledger.deliver([b"place"], answered())
            await ledger.end(second, answered(ago=late))
        free = 2 * (first is CHECKING)
        assert sums(ledger) == (3, free, 1, 0)
        assert list(ledger.held()) == []
        assert await ledger.resolve(ask(ledger, 2).identity, FREE) == 1
        assert sums(ledger) == (3, free + 1, 0, 0)


async def test_what_was_charged_and_is_no_answer_puts_no_callback_in_doubt(place: Path | str) -> None:
    async with ledger_at(place) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=0.0)
        second = await start(ledger, callback=b"place", overdue=True)
        assert await ledger.deliver([b"place"], answered())
        await ledger.end(second, dataclasses.replace(CHECKING, attempt=attempt(CHARGED, ago=60.0)))
        assert sums(ledger) == (2, 1, 0, 0)


async def test_a_request_that_is_recorded_late_has_no_charge_besides_its_own_callback(place: Path | str) -> None:
    async with ledger_at(place) as ledger:
        started = await start(ledger, callback=b"place")
        assert await ledger.deliver([b"place"], answered())
        await ledger.end(started, answered(ago=60.0))
        assert sums(ledger) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("second", "all_"), [(CHECKING, (1, 1, 1, 0)), (LOST, (1, 0, 2, 0)), (None, (1, 0, 1, 1)), (UNSENT, (1, 0, 0, 0))]
)
@pytest.mark.parametrize("by_callback", [False, True])
async def test_a_callback_may_be_that_of_an_earlier_request_which_was_answered(
    place: Path | str, second: Result | None, all_: tuple[int, ...], by_callback: bool
) -> None:
    """The earlier answer was too old at once. Where its callback is late, this one is the newer request's."""
    async with ledger_at(place, prices={WHATSAPP: Decimal(3)}) as ledger:
        for number, patience in ((1, 60.0), (2, 0.0)):
            options: dict[str, Any] = {"callback": b"%d" % number, "patience": patience, "reuse_for": 0.0}
            started = await start(ledger, number, **options)
            if by_callback:
                assert await ledger.deliver([options["callback"]], answered())
                await ledger.end(started, UNSENT)
            else:
                await ledger.end(started, answered())
            before = sums(ledger)
            started = await start(ledger, number, **options)
            if second is not None:
                await ledger.end(started, second)
            assert await ledger.deliver([options["callback"]], answered()) is (second is not UNSENT)
            if number == 1:
                assert sums(ledger) == all_
                assert len([*ledger.attempts(unknown_only=True)]) == all_[2]
                assert ledger.summary().by()[()].at_risk == 3 * (all_[2] + all_[3])
                assert list(ledger.held()) == []
            elif second is None:
                assert sums(ledger)[0] == before[0] + 1
            if second is None:
                await ledger.end(started, UNSENT)


async def test_a_request_that_nobody_ended_is_in_doubt_beside_a_callback_that_is_in_doubt(place: Path | str) -> None:
    options: dict[str, Any] = {"callback": b"place", "patience": 60.0, "reuse_for": 0.0}
    async with ledger_at(place) as ledger:
        await do(ledger, answered(), **options)
        await start(ledger, **options)
        assert await ledger.deliver([b"place"], answered())
    async with ledger_at(place) as ledger:
        assert sums(ledger) == (1, 0, 2, 0)


@pytest.mark.parametrize("result", [LATER, UNSENT, CHECKING])
async def test_what_was_lent_is_given_back(place: Path | str, result: Result) -> None:
    async with ledger_at(place, max_charges=1) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=0.0)
        await do(ledger, result, callback=b"place", overdue=True)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        assert sums(ledger)[3] == 1


@pytest.mark.parametrize("result", [LATER, UNSENT])
async def test_a_charge_that_was_lent_and_not_used_is_the_callbacks_again(place: Path | str, result: Result) -> None:
    """The callback is late, and may come all the same: there is a charge for it, and its answer is taken."""
    async with ledger_at(place, max_charges=1) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=0.0)
        await do(ledger, result)
        assert isinstance(await ledger.begin(ask(ledger, "another")), Exhausted)
        await do(ledger, result)
        assert await ledger.deliver([b"place"], answered())
        assert sums(ledger) == (1, 1 + 2 * result.sent, 0, 0)
        assert isinstance(await ledger.begin(ask(ledger)), Stored)


async def test_a_late_callback_is_taken_though_asking_again_was_settled_as_free(place: Path | str) -> None:
    async with ledger_at(place, max_charges=1) as ledger:
        await do(ledger, CHECKING, callback=b"place", patience=0.0)
        lost = await do(ledger, LOST)
        assert await ledger.resolve(None, FREE, attempt=lost.id) == 1
        assert sums(ledger) == (0, 2, 0, 0)
        assert await ledger.deliver([b"place"], answered())
        assert sums(ledger) == (1, 2, 0, 0)
        assert isinstance(await ledger.begin(ask(ledger)), Stored)


@pytest.mark.parametrize("result", [LOST, answered(), LATER])
async def test_the_callback_came_first_and_the_request_ends_somehow(ledger: AnyLedger, result: Result) -> None:
    started = await start(ledger, callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    await ledger.end(started, result)
    assert sums(ledger) == (1, 1, 0, 0)
    assert list(ledger.attempts(unknown_only=True)) == []
    assert isinstance(await ledger.begin(ask(ledger)), Stored)


async def test_the_callback_came_first_and_what_came_to_the_request_cannot_be_read(ledger: AnyLedger) -> None:
    started, another = await start(ledger, callback=b"place"), await start(ledger, 2)
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 0, 0, 2)
    await ledger.end(started, Result(attempt(UNKNOWN), reply=b'"odd"'))
    await ledger.end(another, LATER)
    assert sums(ledger) == (1, 1, 1, 0)
    assert list(ledger.held()) == []
    assert [record.id for record in ledger.attempts(unknown_only=True)] == [started.id]


@pytest.mark.parametrize("end", ["closed", "taken for dead", "killed"])
async def test_the_callback_came_first_and_then_the_process_ended(place: Path | str, end: str) -> None:
    """One charge: the request is settled by its callback, whoever finds it under way, and whatever it still brings."""
    ledger, other = ledger_at(place), ledger_at(place)
    await ledger.open()
    await other.open()
    started = await start(ledger, callback=b"place", key="A")
    assert await ledger.deliver([b"place"], answered())
    if end == "taken for dead":
        await take_for_dead(other)
        await ledger.end(started, answered())
    await (crash(ledger) if end == "killed" else ledger.aclose())
    await other.aclose()
    async with ledger_at(place) as ledger:
        assert sums(ledger) == (1, 1, 0, 0)
        assert ledger.summary().held == 0
        assert await ledger.resolve("A", CHARGED) == 0


async def test_a_callback_is_charged_to_a_request_that_is_owed_one(ledger: AnyLedger) -> None:
    """The first writing's request was refused; the callback is the second's."""
    await do(ledger, LATER, "62813", callback=b"place")
    second = await start(ledger, "+62813", callback=b"place")
    assert await ledger.deliver([b"place"], answered())
    await ledger.end(second, answered())
    assert sums(ledger) == (1, 3, 0, 0)


@pytest.mark.parametrize("result", [LATER, UNSENT])
async def test_a_refused_request_is_owed_no_callback(ledger: AnyLedger, result: Result) -> None:
    await do(ledger, result, callback=b"place")
    started = await do(ledger, CHECKING, callback=b"place")
    assert isinstance(await ledger.begin(ask(ledger, callback=b"place")), Expected)
    assert rows(where(ledger), "SELECT reserved, attempt FROM outstanding") == [(1, None)]
    assert started.id == 2
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 2 - (result is UNSENT), 0, 0)


async def test_asking_again_sets_nothing_aside_for_a_callback_that_nobody_owes(ledger: AnyLedger) -> None:
    await do(ledger, LATER, callback=b"place")
    await do(ledger, LATER)
    assert sums(ledger) == (0, 2, 0, 0)


async def test_a_charged_request_and_its_callback_are_one_charge(ledger: AnyLedger) -> None:
    charged = dataclasses.replace(CHECKING, attempt=attempt(CHARGED))
    await do(ledger, charged, callback=b"place")
    assert sums(ledger) == (1, 0, 0, 0)
    assert await ledger.deliver([b"place"], answered())
    assert sums(ledger) == (1, 1, 0, 0)


async def test_a_late_question_asks_for_no_callback_and_reserves_nothing(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, callback=b"place", key="A")
    assert await ledger.resolve("A", FREE) == 1
    await do(ledger, LATER, callback=b"place", overdue=True)
    assert sums(ledger) == (0, 2, 0, 0)
    assert rows(where(ledger), "SELECT * FROM outstanding") == []


async def test_an_impatient_inbox_takes_no_reserve_of_a_patient_one(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, callback=b"place", patience=600.0)
    await do(ledger, answered(), callback=b"place", patience=1.0, overdue=True)
    assert sums(ledger) == (1, 1, 1, 0)


async def test_a_purge_leaves_the_callback_of_a_request_that_is_out(ledger: AnyLedger) -> None:
    started = await start(ledger, callback=b"place")
    await ledger.purge(0.0)
    assert await ledger.deliver([b"place"], answered())
    await ledger.end(started, LOST)
    assert sums(ledger) == (1, 1, 0, 0)


async def test_a_callback_that_is_settled_as_charged_holds_its_question(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, callback=b"place", key="A")
    assert await ledger.resolve("A", CHARGED) == 1
    assert sums(ledger) == (1, 1, 0, 0)
    assert [record.key for record in ledger.held()] == ["A"]
    assert isinstance(await ledger.begin(ask(ledger, callback=b"place")), Held)


async def test_settling_what_is_reserved_after_the_answer_holds_nothing(ledger: AnyLedger) -> None:
    await do(ledger, CHECKING, callback=b"place", key="A")
    await do(ledger, answered(), key="A")
    assert await ledger.resolve("A", CHARGED) == 1
    assert sums(ledger) == (2, 1, 0, 0)
    assert list(ledger.held()) == []
