"""An answer that may come by callback: each arrow of `callback`'s drawing, and what comes in the wrong order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from aisolution_async import AISolutionError, Charge, Inbox, LedgerError, WhatsAppDetail, WhatsAppProfile
from aisolution_async.charges import Attempt
from aisolution_async.clock import today
from aisolution_async.sending.callback import Callback, Stage
from aisolution_async.sending.journal import Journal

from .steps import ADDRESS, CHARGED, FREE, UNKNOWN, Notes

DIGITS = "6281387300008"
YES = WhatsAppProfile(whatsapp="yes", number=f"+{DIGITS}")
CHECKING = WhatsAppProfile(whatsapp="checking", number=f"+{DIGITS}")


class Asking:
    """The call that a callback is for, as far as the callback knows it."""

    def __init__(self, inbox: Inbox, store: Notes | None = None) -> None:
        self.digits = DIGITS
        self.identity = b"identity"
        self.journal = None if store is None else Journal(store, owned=False, reuse_for=None)
        self.charges: Mapping[str, Charge] = WhatsAppDetail.endpoint.charges
        self.next_number = 2
        self.counted: list[Attempt] = []
        self.ended: list[WhatsAppProfile] = []
        self.failures: list[AISolutionError | None] = []
        self.rung = 0
        self.callback = Callback(self, inbox)
        self.callback.end_wait = self.ring

    def ring(self) -> None:
        self.rung += 1

    def doubt_callback(self) -> None:
        """Nothing is kept for it here."""

    def count_callback(self, attempt: Attempt) -> None:
        self.counted.append(attempt)

    def end_by_callback(self, reply: WhatsAppProfile) -> WhatsAppProfile:
        self.ended.append(reply)
        return reply.model_copy()

    def follow_failure(self, error: AISolutionError | None) -> None:
        self.failures.append(error)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(ADDRESS, patience=60)


@pytest.fixture
def asking(inbox: Inbox) -> Asking:
    return Asking(inbox)


def asked(asking: Asking) -> Callback:
    callback = asking.callback
    assert not callback.stands_back()
    callback.asked(today())
    return callback


def awaited(asking: Asking) -> Callback:
    callback = asked(asking)
    callback.heard(CHECKING, FREE)
    assert callback.stage is Stage.AWAITED
    return callback


def facts(callback: Callback) -> tuple[Stage, bool, bool, bool]:
    return callback.stage, callback.is_awaited, callback.is_overdue, callback.may_come


# --------------------------------------------------------------------------------------------- the arrows


def test_it_begins_ready(asking: Asking) -> None:
    assert facts(asking.callback) == (Stage.READY, False, False, False)
    assert (asking.callback.patience_left, asking.callback.digits) == (math.inf, DIGITS)


def test_the_request_that_goes_out_names_it(asking: Asking) -> None:
    callback = asked(asking)
    assert facts(callback) == (Stage.ASKED, False, False, False)
    assert 59 < callback.patience_left <= 60


@pytest.mark.parametrize(
    ("reply", "charge", "stage"),
    [
        (CHECKING, FREE, Stage.AWAITED),
        (None, UNKNOWN, Stage.AWAITED),  # lost, or answered by what cannot be read
        (YES, CHARGED, Stage.READY),
        (WhatsAppProfile(whatsapp="unavailable"), FREE, Stage.READY),
        (YES, UNKNOWN, Stage.READY),  # an answer, whatever a user's rules say of its charge
        (None, FREE, Stage.READY),  # refused, or never sent
        (None, CHARGED, Stage.READY),
    ],
)
def test_what_the_request_comes_to_says_whether_it_is_to_come(
    asking: Asking, reply: WhatsAppProfile | None, charge: Charge, stage: Stage
) -> None:
    callback = asked(asking)
    callback.heard(reply, charge)
    assert facts(callback) == (stage, stage is Stage.AWAITED, False, stage is Stage.AWAITED)


def test_an_earlier_run_may_have_asked(asking: Asking) -> None:
    callback = asking.callback
    callback.expected(today() - timedelta(seconds=45))
    assert facts(callback) == (Stage.AWAITED, True, False, True)
    assert 14 < callback.patience_left <= 15
    callback.expected(today() - timedelta(seconds=90))
    assert callback.patience_left == 0
    callback.since = today() + timedelta(hours=1)  # as where the clock was set back
    assert callback.patience_left == callback.inbox.patience


def test_it_is_late(asking: Asking) -> None:
    callback = awaited(asking)
    callback.give_up(for_good=False)
    assert facts(callback) == (Stage.OVERDUE, False, True, True)
    since = callback.since
    callback.asked(today())  # this request names none
    callback.heard(CHECKING, FREE)
    assert (callback.stage, callback.since) == (Stage.OVERDUE, since)
    callback.heard(None, UNKNOWN)
    assert callback.stage is Stage.OVERDUE


def test_it_is_late_for_good(asking: Asking) -> None:
    callback = awaited(asking)
    callback.give_up(for_good=True)
    assert facts(callback) == (Stage.READY, False, False, False)


@pytest.mark.parametrize("stage", [Stage.READY, Stage.ASKED, Stage.AWAITED, Stage.OVERDUE])
async def test_it_comes_whenever_it_comes(asking: Asking, stage: Stage) -> None:
    callback = asking.callback
    if stage is not Stage.READY:
        asked(asking)
    if stage in (Stage.AWAITED, Stage.OVERDUE):
        callback.heard(CHECKING, FREE)
    if stage is Stage.OVERDUE:
        callback.give_up(for_good=False)
    assert callback.stage is stage
    assert await callback.called_back(YES, [DIGITS])
    assert facts(callback) == (Stage.ANSWERED, False, False, False)
    assert callback.answer == YES
    assert [(a.charge, a.status, a.number, a.recorded) for a in asking.counted] == [(CHARGED, "OK", 2, None)]
    assert (asking.ended, asking.rung) == ([YES], 1)


async def test_another_call_asks_for_the_number(inbox: Inbox) -> None:
    first, second = Asking(inbox), Asking(inbox)
    asked(first)
    assert second.callback.stands_back()
    assert facts(second.callback) == (Stage.FOLLOWING, False, False, False)
    assert second.callback.patience_left == math.inf
    first.callback.leave(YES, None)
    assert facts(second.callback) == (Stage.ANSWERED, False, False, False)
    assert (second.callback.answer, second.ended, second.counted, second.rung) == (YES, [YES], [], 1)


async def test_who_asks_gives_up_and_the_next_one_asks(inbox: Inbox) -> None:
    first, second, third = Asking(inbox), Asking(inbox), Asking(inbox)
    asked(first)
    assert second.callback.stands_back()
    assert third.callback.stands_back()
    first.callback.leave(None, None)
    assert (second.failures, second.rung, second.callback.stage) == ([None], 1, Stage.READY)
    assert (third.failures, third.rung, third.callback.stage) == ([], 0, Stage.FOLLOWING)
    assert not second.callback.stands_back()
    second.callback.leave(None, None)
    assert not third.callback.stands_back()


async def test_who_asks_loses_the_answer_and_nobody_asks_again(inbox: Inbox) -> None:
    first, second, third = Asking(inbox), Asking(inbox), Asking(inbox)
    asked(first)
    for other in (second, third):
        assert other.callback.stands_back()
    lost = AISolutionError("lost")
    first.callback.leave(None, lost)
    assert [other.failures for other in (second, third)] == [[lost], [lost]]
    assert [other.rung for other in (second, third)] == [1, 1]
    assert inbox.outstanding == 0


async def test_who_left_and_comes_back_asks_where_nobody_else_does(inbox: Inbox) -> None:
    """It is not told: it looks for itself."""
    first, second = Asking(inbox), Asking(inbox)
    asked(first)
    assert second.callback.stands_back()
    second.callback.leave(None, None)
    first.callback.leave(None, None)
    assert (second.failures, second.callback.stage) == ([], Stage.FOLLOWING)
    assert not second.callback.stands_back()
    assert second.callback.stage is Stage.READY


# ------------------------------------------------------------------------------------- the wrong order


async def test_what_was_answered_stays_answered(inbox: Inbox, asking: Asking) -> None:
    callback = asked(asking)
    await callback.called_back(YES, [DIGITS])
    other = Asking(inbox)
    inbox.forget(callback, YES)
    assert not other.callback.stands_back()
    assert not callback.stands_back()  # though another call asks for the number
    callback.heard(CHECKING, FREE)
    callback.heard(None, UNKNOWN)
    callback.expected(today())
    callback.give_up(for_good=True)
    callback.give_up(for_good=False)
    callback.asked(today())
    assert facts(callback) == (Stage.ANSWERED, False, False, False)
    assert callback.answer == YES


def test_what_was_not_asked_for_is_not_awaited(asking: Asking) -> None:
    asking.callback.heard(None, UNKNOWN)
    asking.callback.heard(CHECKING, FREE)
    assert facts(asking.callback) == (Stage.READY, False, False, False)


def test_who_waits_and_is_told_to_ask_waits_no_longer(asking: Asking) -> None:
    callback = awaited(asking)
    callback.follow(None, None)
    assert (callback.stage, asking.failures, asking.rung) == (Stage.READY, [None], 1)


def test_who_followed_for_too_long_asks_without_one_and_none_is_to_come(inbox: Inbox) -> None:
    first, second = Asking(inbox), Asking(inbox)
    asked(first)
    assert second.callback.stands_back()
    second.callback.give_up(for_good=False)
    assert facts(second.callback) == (Stage.OVERDUE, False, True, False)


def test_a_call_without_a_number_waits_for_nothing(inbox: Inbox, asking: Asking) -> None:
    asking.digits = ""
    asking.callback.leave(YES, None)
    assert inbox.outstanding == 0


async def test_it_can_leave_twice(inbox: Inbox, asking: Asking) -> None:
    callback = awaited(asking)
    for _ in range(2):
        callback.leave(CHECKING, None)
        assert inbox.outstanding == 0


# ------------------------------------------------------------------------------------------ the recording


async def test_it_is_recorded_before_it_is_taken(inbox: Inbox) -> None:
    store = Notes(blocked=["deliver"])
    asking = Asking(inbox, store)
    callback = awaited(asking)
    coming = asyncio.create_task(callback.called_back(YES, ["x", DIGITS]))
    await store.reached.wait()
    assert (callback.stage, asking.counted, asking.ended) == (Stage.AWAITED, [], [])
    settled = asyncio.create_task(callback.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    asking.next_number = 3  # another attempt was counted meanwhile
    store.go.set()
    assert await coming
    await settled
    assert [(a.charge, a.number, a.recorded) for a in asking.counted] == [(CHARGED, 3, True)]
    assert [result.answer for result in store.delivered] == [True]
    assert asking.journal is not None
    assert store.places == [[asking.journal.place(digits) for digits in (DIGITS, "x")]]  # its own comes first
    assert asking.counted[0].started_at == callback.since
    await callback.settled()


async def test_what_the_ledger_has_already_is_taken_and_not_counted(inbox: Inbox) -> None:
    store = Notes()
    store.accepts = False
    asking = Asking(inbox, store)
    assert not await awaited(asking).called_back(YES, [DIGITS])
    assert (asking.counted, asking.ended) == ([], [YES])


async def test_what_cannot_be_recorded_is_not_taken(inbox: Inbox) -> None:
    store = Notes()
    store.fails_to = {"deliver"}
    asking = Asking(inbox, store)
    callback = awaited(asking)
    with pytest.raises(LedgerError):
        await callback.called_back(YES, [DIGITS])
    assert facts(callback) == (Stage.AWAITED, True, False, True)
    assert (asking.counted, asking.ended, callback.answer) == ([], [], None)
    await callback.settled()
    store.fails_to = set()
    assert await callback.called_back(YES, [DIGITS])  # the vendor calls again


async def test_a_recording_that_is_cut_off_keeps_nobody_waiting(inbox: Inbox) -> None:
    store = Notes(blocked=["deliver"])
    callback = awaited(Asking(inbox, store))
    coming = asyncio.create_task(callback.called_back(YES, [DIGITS]))
    await store.reached.wait()
    settled: Any = asyncio.create_task(callback.settled())
    await asyncio.sleep(0)
    coming.cancel()
    await settled
    assert callback.stage is Stage.AWAITED
