"""What a callback costs, and its request besides it: one rule, for every store, and for a client with one or without.

The rule is `charges.of_callback` and `charges.besides_callback`. Every end of a request meets every callback, before it
and after it, in time and late.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import Charge, Inbox, WhatsAppDetail, clock
from aisolution_async.charges import Attempt, Owed, besides_callback, of_callback
from aisolution_async.ledger import Exhausted, Expected, Result, Started
from aisolution_async.ledger.store import State

from .ledgers import (
    CHARGED,
    CHECKING,
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
    ledger_at,
    start,
    where,
)
from .steps import ADDRESS, call_back, sending_of
from .support import Vendor, client_of, ok_whatsapp, says

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")

SAYS = (CHARGED, FREE, UNKNOWN)
PLACE = b"place"
UNREADABLE = Result(Attempt(UNKNOWN, None, 500, clock.today(), 0.1, "no answer of the vendor's"))
CHECKING_CHARGED = Result(attempt(CHARGED), reply=b'{"whatsapp": "checking"}', expected=True)
FINAL_FREE, FINAL_UNKNOWN = (Result(attempt(charge), reply=REPLY, answer=True) for charge in (FREE, UNKNOWN))
ENDS = {
    "answered": answered(),
    "answered, free": FINAL_FREE,
    "answered, unknown": FINAL_UNKNOWN,
    "checking": CHECKING,
    "checking, charged": CHECKING_CHARGED,
    "lost": LOST,
    "unreadable": UNREADABLE,
    "refused": LATER,
    "not sent": UNSENT,
}


def test_the_rule() -> None:
    assert {(said, owed): of_callback(said, owed) for said in SAYS for owed in Owed} == {
        **{(said, Owed.ANSWER): said for said in SAYS},
        **{(said, Owed.NO_CHARGE): FREE for said in SAYS},
        **{(said, Owed.NOTHING): UNKNOWN for said in SAYS},
    }
    assert {
        (charge, arrived): besides_callback(charge, arrived=arrived) for charge in SAYS for arrived in (False, True)
    } == {
        **dict.fromkeys(itertools.product(SAYS, (False, True)), FREE),
        (UNKNOWN, True): UNKNOWN,
    }


def called(said: Charge) -> Result:
    return Result(Attempt(said, "OK", None, clock.today(), 1.0, number=2), reply=REPLY, answer=True)


def states(ledger: AnyLedger) -> Counter[State]:
    """How many attempts are in each state, those under way included. The books are checked besides."""
    check(where(ledger))
    return Counter(record.state for record in ledger.attempts() if record.state is not State.INTENDED)


@pytest.mark.parametrize("said", SAYS)
async def test_the_callback_comes_before_the_end(ledger: AnyLedger, said: Charge) -> None:
    for number, result in enumerate(ENDS.values()):
        before, place = states(ledger), b"place %d" % number
        started = await start(ledger, number, callback=place)
        assert await ledger.deliver([place], called(said))
        await ledger.end(started, result)
        own = State.NOT_SENT
        if result.sent:
            own = State(besides_callback(result.attempt.charge, arrived=result.attempt.http_status is not None))
        assert states(ledger) - before == Counter([State(of_callback(said, Owed.ANSWER)), own]), result
        assert list(ledger.held()) == []


@pytest.mark.parametrize("said", SAYS)
async def test_the_callback_comes_after_the_end(ledger: AnyLedger, said: Charge) -> None:
    for number, (name, result) in enumerate(ENDS.items()):
        before, place = states(ledger), b"place %d" % number
        await do(ledger, result, number, callback=place)
        taken = await ledger.deliver([place], called(said))
        found = states(ledger) - before
        if result.state is State.UNKNOWN and not result.answer:  # it had arrived, and this is its answer
            assert (taken, found) == (True, Counter([State(said)])), name
        elif result.answer or not result.sent:  # nothing is waited for
            assert (taken, found) == (False, Counter([result.state])), name
        else:
            owed = Owed.NO_CHARGE if result.state is State.CHARGED else Owed.ANSWER
            assert (taken, found) == (True, Counter([result.state, State(of_callback(said, owed))])), name
        assert list(ledger.held()) == []
        assert not await ledger.deliver([place], called(said)), name
        assert states(ledger) - before == found


@pytest.mark.parametrize("said", SAYS)
@pytest.mark.parametrize("late", [False, True])
async def test_the_question_is_answered_otherwise(
    place: Path | str, said: Charge, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + ahead)
    async with ledger_at(place, synchronous="off") as ledger:
        for number, (name, result) in enumerate(ENDS.items()):
            before, callback = states(ledger), b"place %d" % number
            await do(ledger, CHECKING, number, callback=callback, patience=60.0)
            await do(ledger, result, number)
            if late:
                ahead += datetime.timedelta(seconds=61)
            taken = await ledger.deliver([callback], called(said))
            owed = Owed.NOTHING if result.answer else Owed.ANSWER
            told = [] if result.answer and late else [State(of_callback(said, owed))]
            # What is still set aside for it counts as the state that it may come to, and nobody waits for it.
            assert taken is not result.answer, name
            assert states(ledger) - before == Counter([State.FREE, result.state, *told]), name


@pytest.mark.parametrize("said", SAYS)
async def test_one_callback_answers_two_writings_of_a_number(ledger: AnyLedger, said: Charge) -> None:
    """The older question that is owed an answer has its charge."""
    unanswered = {name: result for name, result in ENDS.items() if not result.answer and result.sent}
    for number, (first, second) in enumerate(itertools.product(unanswered.values(), repeat=2)):
        before, place = states(ledger), b"place %d" % number
        for writing, result in enumerate((first, second)):
            await do(ledger, result, f"{number}/{writing}", callback=place)
        assert await ledger.deliver([place], called(said))
        expected: list[State] = []
        ordered = sorted((first, second), key=lambda result: result is LATER)  # who is owed one comes first
        for place_, result in enumerate(ordered):
            owed = Owed.NO_CHARGE if place_ or result.state is State.CHARGED else Owed.ANSWER
            if result.state is State.UNKNOWN:
                expected.append(State(said) if owed is Owed.ANSWER else State.UNKNOWN)
            else:
                expected += [result.state, State(of_callback(said, owed))]
        assert states(ledger) - before == Counter(expected), (first, second)
        assert list(ledger.held()) == []


@pytest.mark.parametrize(
    ("patience", "ahead", "lends"),
    [(60.0, 0.0, True), (600.0, 0.0, True), (5.0, 0.0, False), (5.0, 59.0, False), (5.0, 60.0, True)],
)
async def test_a_reserve_is_lent_once_the_callback_is_late_by_the_patience_it_was_made_with(
    place: Path | str, patience: float, ahead: float, lends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inbox with less patience may ask again, and has to pay for it: the callback may still come in time."""
    real, passed = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + passed)
    async with ledger_at(place, max_charges=1, synchronous="off") as ledger:
        await do(ledger, CHECKING, callback=PLACE, patience=60.0)
        assert isinstance(await ledger.begin(ask(ledger, callback=PLACE, patience=5.0)), Expected)
        passed = datetime.timedelta(seconds=ahead)
        verdict = await ledger.begin(ask(ledger, callback=PLACE, patience=patience, overdue=True))
        assert isinstance(verdict, Started if lends else Exhausted)
        if isinstance(verdict, Started):
            assert verdict.borrows
            await ledger.end(verdict, answered())
        else:
            assert await ledger.deliver([PLACE], answered())
        assert states(ledger) == Counter([State.FREE, State.CHARGED])  # no more than the limit


# ------------------------------------------------------------------------------------------ a client's own count

ANSWERS: dict[str, Any] = {
    "answered": ok_whatsapp(),
    "checking": ok_whatsapp("checking"),
    "lost": httpx.ReadError("reset"),
    "unreadable": httpx.Response(500, content=b"<html>"),
    "another's": says("OK", {"whatsapp": "yes", "number": "+6281111111111"}),
    "refused": says("INVALID_INPUT"),
    "not sent": httpx.ConnectError("no"),
}


class Held(Vendor):
    """A vendor that answers, or fails, when `go` is set."""

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

        async def script(request: httpx.Request, number: int) -> httpx.Response:
            self.reached.set()
            await self.go.wait()
            if isinstance(answer, Exception):
                raise answer
            return answer

        super().__init__(script)


# On a server, each answer comes before and after the callback under each rule, and under all pairs of rules in a file.
COUNTED = [
    pytest.param(*case, marks=[] if case[0] == "file" or sum(places) % 3 == 0 else pytest.mark.long)
    for values in [(["file", "server"], ["callback", "end"], list(ANSWERS), list(SAYS), [FREE, CHARGED])]
    for case, (_, *places) in zip(
        itertools.product(*values), itertools.product(*(range(len(each)) for each in values)), strict=True
    )
]


@pytest.mark.parametrize(("place", "first", "name", "yes", "checking"), COUNTED, indirect=["place"])
async def test_a_client_counts_as_its_ledger_does(
    place: Path | str, name: str, yes: Charge, checking: Charge, first: str
) -> None:
    """A tally does not take back that a request was lost; the ledger does, once a callback answers that one."""
    rules = {"gliswadetail": {"OK": CHARGED, "OK:yes": yes, "OK:checking": checking}}
    tallies = []
    for store in (ledger_at(place, synchronous="off"), None):
        inbox, vendor = Inbox(ADDRESS, ledger=store, secret="secret-of-the-address"), Held(ANSWERS[name])
        options: dict[str, Any] = {"charge_rules": rules, "max_retries": 0}
        if store is not None:
            await store.open()
            options["ledger"] = store
        client = client_of(vendor, **options)
        sending = sending_of(client, WhatsAppDetail("+6281387300008"), inbox=inbox)
        step = asyncio.create_task(sending.step())
        await vendor.reached.wait()
        if first == "callback":
            await call_back(inbox, "+6281387300008")
        vendor.go.set()
        await step
        is_over = sending.callback is None or not sending.callback.is_awaited
        if first == "end" and not is_over:
            await call_back(inbox, "+6281387300008")
        sending.leave(share=True)
        tally = client.tally
        tallies.append((tally.charged, tally.free, tally.unknown))
        if store is not None:
            found = states(store)
            settled = tally.unknown - found[State.UNKNOWN]
            assert settled in ((0, 1) if first == "end" and name in ("lost", "unreadable", "another's") else (0,))
            # The callback of a lost request is its charge; the tally has both.
            assert found[State.CHARGED] == tally.charged
            assert found[State.FREE] + found[State.NOT_SENT] + settled * (yes is FREE) >= tally.free
            assert list(store.held()) == []
            await store.aclose()
        await client.aclose()
    assert tallies[0] == tallies[1]


@pytest.mark.parametrize("yes", SAYS)
async def test_a_callback_that_nobody_waits_for_any_more_costs_what_the_users_rules_say(
    ledger_path: Path, yes: Charge
) -> None:
    rules = {"gliswadetail": {"OK": CHARGED, "OK:yes": yes, "OK:checking": FREE}}
    async with ledger_at(ledger_path, synchronous="off") as store:
        inbox, vendor = Inbox(ADDRESS, ledger=store), Vendor(lambda request, number: ok_whatsapp("checking"))
        async with client_of(vendor, ledger=store, charge_rules=rules) as client:
            sending = sending_of(client, WhatsAppDetail("+6281387300008"), inbox=inbox)
            await sending.step()
            sending.leave(share=False)
            await call_back(inbox, "+6281387300008")
        assert states(store) == Counter([State.FREE, State(yes)])
