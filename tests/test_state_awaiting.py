"""Awaiting: the answer is to come by callback. → Over, or New when it is late."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import httpx
import pytest

from aisolution_async import AsyncClient, Inbox, NotSentError, OutcomeUnknownError, WhatsAppDetail
from aisolution_async.clock import today
from aisolution_async.ledger.store import Expected, Stored
from aisolution_async.sending.call import Sending
from aisolution_async.sending.states import Awaiting, New, Over

from .steps import (
    ADDRESS,
    CHARGED,
    FREE,
    UNKNOWN,
    Notes,
    attempt_of,
    call_back,
    charges,
    error_of,
    money_left,
    reply_of,
    sending_of,
    spent,
)
from .support import NUMBER, Vendor, client_of, in_turn, ok_whatsapp, says, virtual

CHECKING, LOST = ok_whatsapp("checking"), httpx.ReadError("lost")
UNKNOWNS = (LOST, says("MAYBE"), says("OK", "a text"), httpx.Response(500), httpx.Response(200, content=b"<html>"))


async def awaiting(*answers: Any, **options: Any) -> tuple[Sending[Any], Inbox, AsyncClient, Vendor]:
    inbox, vendor = Inbox(ADDRESS, patience=60), in_turn(*answers)
    client = client_of(vendor, **{"max_charges": 3, **options})
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.prepare()
    await sending.step()
    assert isinstance(sending.state, Awaiting)
    return sending, inbox, client, vendor


@pytest.mark.parametrize(("answer", "charge"), [(CHECKING, FREE), (LOST, UNKNOWN)])
@virtual
async def test_called_back_it_is_over_and_charged_once(answer: Any, charge: Any) -> None:
    told: list[Any] = []
    sending, inbox, client, _ = await awaiting(answer, on_attempt=lambda _, attempt: told.append(attempt))
    rung: list[None] = []
    assert sending.callback is not None
    sending.callback.end_wait = lambda: rung.append(None)
    await call_back(inbox, NUMBER)
    assert reply_of(sending).whatsapp == "yes"
    assert reply_of(sending).attempts == sending.attempts
    assert (charges(sending), len(rung), money_left(client)) == ([charge, CHARGED], 1, 2)
    assert [attempt.number for attempt in sending.attempts] == [1, 2]
    assert told == [*sending.attempts]
    sending.leave(share=True)
    assert (money_left(client), inbox.outstanding) == (2, 0)
    await call_back(inbox, NUMBER)  # once more
    assert (spent(client)[0], inbox.counts.repeated) == (1, 1)


@virtual
async def test_late_it_is_asked_for_again_without_a_callback() -> None:
    sending, inbox, client, vendor = await awaiting(CHECKING, ok_whatsapp("no"))
    sending.course.spend(100.0)
    sending.give_up_callback()
    assert isinstance(sending.state, New)
    assert (sending.course.left, sending.is_repeat) == (120.0, False)  # another asking of the question
    await sending.step()
    assert (reply_of(sending).whatsapp, charges(sending)) == ("no", [FREE, CHARGED])
    assert [b"callback=" in request.content for request in vendor.requests] == [True, False]
    sending.leave(share=True)
    assert (money_left(client), inbox.outstanding) == (2, 0)


@virtual
async def test_late_the_callback_may_still_come_before_it_is_asked_for_again() -> None:
    sending, inbox, client, _ = await awaiting(CHECKING)
    sending.give_up_callback()
    await call_back(inbox, NUMBER)
    assert (reply_of(sending).whatsapp, charges(sending), money_left(client)) == ("yes", [FREE, CHARGED], 2)


@virtual
async def test_late_and_refused_it_ends_as_checking_or_by_the_refusal() -> None:
    for answer, whatsapp in ((CHECKING, "checking"), (says("FAIL"), None)):
        sending, _, client, _ = await awaiting(CHECKING, answer)
        sending.give_up_callback()
        await sending.step()
        assert isinstance(sending.state, Over)
        assert getattr(sending.state.reply, "whatsapp", None) == whatsapp
        sending.leave(share=True)
        assert money_left(client) == 3


@virtual
async def test_late_and_stopped_before_it_goes_again_it_is_still_checking() -> None:
    sending, _, client, _ = await awaiting(CHECKING)
    sending.give_up_callback()
    sending.conclude("stopped")
    assert (reply_of(sending).whatsapp, reply_of(sending).charge) == ("checking", FREE)
    sending.leave(share=False)
    assert money_left(client) == 3


@pytest.mark.parametrize("answer", UNKNOWNS)
@virtual
async def test_a_lost_request_is_not_sent_again_unasked(answer: Any) -> None:
    """Whatever was answered, and whatever error tells of it: its charge is unknown."""
    sending, inbox, client, vendor = await awaiting(answer)
    sending.give_up_callback()
    assert error_of(sending).charge is UNKNOWN
    sending.leave(share=True)
    assert (charges(sending), money_left(client), len(vendor.requests), inbox.outstanding) == ([UNKNOWN], 2, 1, 0)


@virtual
async def test_a_lost_request_is_sent_again_where_that_is_allowed() -> None:
    sending, _, client, vendor = await awaiting(LOST, LOST, retry_unknown=1)
    sending.give_up_callback()
    assert isinstance(sending.state, New)
    assert (sending.is_repeat, sending.course.left) == (True, 120.0)  # the wait is not the call's own
    await sending.step()
    error = error_of(sending)
    assert isinstance(error, OutcomeUnknownError)
    assert (error.holds, charges(sending), len(vendor.requests)) == (2, [UNKNOWN, UNKNOWN], 2)
    sending.leave(share=True)
    assert money_left(client) == 1


@virtual
async def test_a_lost_request_that_may_be_sent_again_and_is_not_ends_as_lost() -> None:
    sending, _, _, _ = await awaiting(LOST, retry_unknown=1)
    sending.give_up_callback()
    sending.conclude("stopped")
    assert isinstance(error_of(sending), OutcomeUnknownError)
    assert error_of(sending).charge is UNKNOWN


@pytest.mark.parametrize(("answer", "kind"), [(CHECKING, None), (LOST, OutcomeUnknownError)])
@virtual
async def test_stopped_it_ends_as_the_request_did_and_keeps_the_money_until_it_is_late(answer: Any, kind: Any) -> None:
    sending, inbox, client, _ = await awaiting(answer)
    sending.conclude("its answer is still to come")
    assert isinstance(sending.state, Over)
    assert type(sending.state.error) is (kind or type(None))
    sending.leave(share=False)
    assert (inbox.outstanding, money_left(client)) == (0, 2)
    await asyncio.sleep(61)
    assert money_left(client) == (3 if answer is CHECKING else 2)


@pytest.mark.parametrize("called", [NUMBER, NUMBER.removeprefix("+")])
@pytest.mark.parametrize("after", [30.0, 90.0])
@virtual
async def test_stopped_it_pays_for_what_is_called_back_in_time(called: str, after: float) -> None:
    """Nobody waits for the answer any more, and it is charged all the same."""
    sending, inbox, client, _ = await awaiting(CHECKING)
    sending.conclude("its answer is still to come")
    sending.leave(share=False)
    await asyncio.sleep(after)
    for _ in range(2):
        await call_back(inbox, called)
    await asyncio.sleep(100)
    assert money_left(client) == (2 if after < 60 else 3)
    await call_back(inbox, called)
    assert money_left(client) == (2 if after < 60 else 3)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("first", "calls", "left"), [(CHECKING, 1, 2), (CHECKING, 2, 1), (LOST, 1, 1), (LOST, 2, 1)])
@virtual
async def test_of_two_that_were_stopped_each_pays_for_one_callback(
    first: Any, calls: int, left: int, at_once: bool
) -> None:
    """A lost request is paid for, so that what comes is charged to the other one."""
    sending, inbox, client, _ = await awaiting(first, CHECKING)
    other = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    sending.conclude("its answer is still to come")
    sending.leave(share=False)
    await other.step()
    other.conclude("its answer is still to come")
    other.leave(share=False)
    assert money_left(client) == 1
    if at_once:
        await asyncio.gather(*(call_back(inbox, NUMBER) for _ in range(calls)))
    else:
        for _ in range(calls):
            await call_back(inbox, NUMBER)
    await asyncio.sleep(61)
    assert money_left(client) == left


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("has_asked", [True, False])
@virtual
async def test_stopped_it_pays_for_what_another_process_took_only_if_it_had_asked(
    accepts: bool, has_asked: bool
) -> None:
    store = Notes(*([] if has_asked else [Expected(today())]))
    store.accepts = accepts
    inbox, vendor = Inbox(ADDRESS, ledger=store, patience=60), in_turn(CHECKING)
    client = client_of(vendor, max_charges=3, ledger=store)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert isinstance(sending.state, Awaiting)
    sending.conclude("its answer is still to come")
    sending.leave(share=False)
    assert money_left(client) == 2
    await call_back(inbox, NUMBER)
    assert money_left(client) == (2 if accepts or has_asked else 3)
    await asyncio.sleep(61)
    assert money_left(client) == (2 if accepts or has_asked else 3)


@pytest.mark.parametrize("accepts", [True, False])
@virtual
async def test_stopped_it_pays_for_what_another_process_took_though_another_call_waits(accepts: bool) -> None:
    """If the answer is news, who waits pays for it."""
    store = Notes()
    inbox, vendor = Inbox(ADDRESS, ledger=store, patience=60), in_turn(CHECKING)
    client = client_of(vendor, max_charges=3, ledger=store)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    sending.conclude("its answer is still to come")
    sending.leave(share=False)
    store.verdicts, store.accepts = [Expected(today())], accepts
    other = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await other.step()
    assert money_left(client) == 1
    await call_back(inbox, NUMBER)
    other.leave(share=True)
    await asyncio.sleep(61)
    assert (reply_of(other).whatsapp, money_left(client), len(vendor.requests)) == ("yes", 2, 1)


@pytest.mark.parametrize("answers", [(LOST,), (LOST, CHECKING)])
@virtual
async def test_who_waits_pays_for_the_callback_of_a_lost_request_and_who_was_stopped_no_more(answers: Any) -> None:
    """Where another is to come besides, its charge is given back, and not that of the lost one."""
    sending, inbox, client, _ = await awaiting(*answers)
    left = [sending]
    if len(answers) == 2:
        left.append(sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox))
    for each in left:
        if each is not sending:
            await each.step()
        each.conclude("its answer is still to come")
        each.leave(share=False)
    other = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await other.prepare()
    assert other.callback is not None
    assert not other.callback.stands_back()
    await call_back(inbox, NUMBER)
    assert money_left(client) == 3 - len(answers)
    other.leave(share=True)
    await asyncio.sleep(61)
    assert (reply_of(other).whatsapp, money_left(client)) == ("yes", 3 - len(answers))


@virtual
async def test_what_an_earlier_run_asked_for_is_asked_for_again_when_it_is_late() -> None:
    store = Notes(Expected(today()))
    sending, _, client, vendor = await awaiting(ok_whatsapp("no"), ledger=store)
    sending.give_up_callback()
    await sending.step()
    assert (reply_of(sending).whatsapp, charges(sending)) == ("no", [CHARGED])
    assert [ask.overdue for ask in store.asks] == [False, True]
    assert b"callback=" not in vendor.requests[0].content
    sending.leave(share=True)
    assert money_left(client) == 2


@virtual
async def test_what_an_earlier_run_asked_for_and_does_not_come_was_not_sent() -> None:
    sending, _, client, vendor = await awaiting(CHECKING, ledger=Notes(Expected(today())))
    sending.conclude("its answer is still to come")
    assert type(error_of(sending)) is NotSentError
    assert "still to come" in str(error_of(sending))
    sending.leave(share=False)
    assert (vendor.requests, charges(sending), money_left(client)) == ([], [], 2)
    await asyncio.sleep(61)
    assert money_left(client) == 3


@pytest.mark.parametrize("ledger", [Notes, lambda: None])
@virtual
async def test_the_ledger_is_to_tell_if_it_is_not_to_come_any_more(ledger: Any) -> None:
    sending, _, _, _ = await awaiting(CHECKING, ledger=(store := ledger()))
    sending.watch(bool, list)
    assert store is None or store.watched == [(sending.identity, bool, list)]


@virtual
async def test_called_back_with_what_another_process_took_its_charge_is_not_given_back() -> None:
    """The ledger counts it to nobody here; whose it is, nobody can say."""
    store = Notes()
    store.accepts = False
    sending, inbox, client, _ = await awaiting(CHECKING, ledger=store)
    await call_back(inbox, NUMBER)
    assert (reply_of(sending).whatsapp, charges(sending)) == ("yes", [FREE])
    sending.leave(share=True)
    await asyncio.sleep(61)
    assert money_left(client) == 2


@pytest.mark.parametrize(("answer", "is_lost"), [(CHECKING, False), (LOST, True)])
@virtual
async def test_a_look_is_a_repeat_of_what_was_lost_and_another_round_of_what_was_not(
    answer: Any, is_lost: bool
) -> None:
    sending, _, _, _ = await awaiting(answer, ledger=Notes(), retry_unknown=1)
    sending.course.spend(100.0)
    sending.look_again()
    assert isinstance(sending.state, New)
    assert sending.is_repeat == is_lost
    assert sending.course.left == pytest.approx(20.0 if is_lost else 120.0)
    sending.conclude("stopped")
    assert isinstance(sending.state, Over)
    assert (sending.state.error is not None) == is_lost  # else it is "checking" still


@pytest.mark.parametrize("has_asked", [True, False])
@virtual
async def test_what_came_to_another_process_is_charged_to_who_asked_for_it(has_asked: bool) -> None:
    store = Notes(*([] if has_asked else [Expected(today())]))
    sending, _, client, vendor = await awaiting(CHECKING, ledger=store)
    store.verdicts = [Stored(b'{"whatsapp": "no"}', came := dataclasses.replace(attempt_of(), http_status=None))]
    sending.look_again()
    await sending.step()
    assert (reply_of(sending).whatsapp, len(vendor.requests)) == ("no", has_asked)
    assert reply_of(sending).recorded == (None if has_asked else came)
    assert charges(sending) == ([FREE, CHARGED] if has_asked else [])
    assert [attempt.number for attempt in sending.attempts] == [1, 2][: len(sending.attempts)]
    sending.leave(share=True)
    await asyncio.sleep(61)
    assert money_left(client) == (2 if has_asked else 3)


@virtual
async def test_what_another_request_was_answered_is_not_the_callback() -> None:
    sending, _, client, _ = await awaiting(CHECKING, ledger=(store := Notes()))
    store.verdicts = [Stored(b'{"whatsapp": "no"}', others := attempt_of())]
    sending.look_again()
    await sending.step()
    assert (reply_of(sending).recorded, charges(sending), spent(client)) == (others, [FREE], (0, 1, 0))


@virtual
async def test_a_client_that_is_closed_ends_it_as_it_stands() -> None:
    sending, _, client, _ = await awaiting(LOST, retry_unknown=1)
    sending.give_up_callback()
    await client.aclose()
    await sending.step()
    assert isinstance(error_of(sending), OutcomeUnknownError)
    assert charges(sending) == [UNKNOWN]
