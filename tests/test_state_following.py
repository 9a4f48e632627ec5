"""Following: another call asks for the number. → Over, or New where that one gives up."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from aisolution_async import AsyncClient, Inbox, NotSentError, OutcomeUnknownError, WhatsAppDetail
from aisolution_async.sending.call import Sending
from aisolution_async.sending.states import Awaiting, Following, New

from .steps import (
    ADDRESS,
    CHARGED,
    FREE,
    UNKNOWN,
    Notes,
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


class Two:
    """A call that asks, and one that follows it."""

    def __init__(self, *answers: Any, **options: Any) -> None:
        self.inbox = Inbox(ADDRESS, patience=60)
        self.vendor: Vendor = in_turn(*answers)
        self.client: AsyncClient = client_of(self.vendor, **{"max_charges": 3, **options})
        self.first: Sending[Any] = sending_of(self.client, WhatsAppDetail(NUMBER, key=1), inbox=self.inbox)
        self.second: Sending[Any] = sending_of(self.client, WhatsAppDetail(NUMBER, key=2), inbox=self.inbox)
        self.rung = 0
        assert self.second.callback is not None
        self.second.callback.end_wait = self.ring

    def ring(self) -> None:
        self.rung += 1

    async def started(self) -> Two:
        await self.first.step()
        assert isinstance(self.first.state, Awaiting)
        await self.second.step()
        assert self.second.state == Following()
        return self


@virtual
async def test_both_have_what_is_called_back() -> None:
    two = await Two(CHECKING).started()
    await call_back(two.inbox, NUMBER)
    for sending, cost in ((two.first, [FREE, CHARGED]), (two.second, [])):
        assert (reply_of(sending).whatsapp, charges(sending)) == ("yes", cost)
        assert reply_of(sending).attempts == sending.attempts
    assert reply_of(two.first) is not reply_of(two.second)
    for sending in (two.first, two.second):
        sending.leave(share=True)
    assert (spent(two.client), money_left(two.client), two.rung, two.inbox.outstanding) == ((1, 1, 0), 2, 1, 0)


@virtual
async def test_it_has_what_the_other_ends_in() -> None:
    two = await Two(CHECKING).started()
    two.first.conclude("late")
    two.first.leave(share=True)
    assert (reply_of(two.second).whatsapp, charges(two.second), two.rung) == ("checking", [], 1)


@pytest.mark.parametrize("answer", [LOST, says("MAYBE"), says("OK", "a text"), httpx.Response(500)])
@virtual
async def test_what_was_lost_is_not_asked_again_in_its_place(answer: Any) -> None:
    two = await Two(answer).started()
    two.first.conclude("late")
    two.first.leave(share=True)
    error = error_of(two.second)
    assert isinstance(error, OutcomeUnknownError)
    assert (error.key, error.charge, error.attempts, two.rung) == (2, FREE, (), 1)
    assert "another call asked the same" in str(error)
    assert len(two.vendor.requests) == 1


@pytest.mark.parametrize("share", [True, False])
@virtual
async def test_where_the_other_gives_up_it_asks_itself(share: bool) -> None:
    """It failed for free, or is not to share what came of it."""
    two = await Two(CHECKING, says("FAIL"), ok_whatsapp("no")).started()
    if share:
        two.first.give_up_callback()
        await two.first.step()
    else:
        two.first.conclude("stopped")
    two.first.leave(share=share)
    assert isinstance(two.second.state, New)
    assert two.rung == 1
    await two.second.step()
    if share:
        assert (reply_of(two.second).whatsapp, charges(two.second)) == ("no", [CHARGED])
    else:
        assert charges(two.second) == [FREE]
    assert b"callback=" in two.vendor.requests[-1].content


@virtual
async def test_a_lost_answer_that_is_not_shared_is_not_known_to_it() -> None:
    """Only a ledger would hold it."""
    two = await Two(LOST).started()
    two.first.conclude("stopped")
    two.first.leave(share=False)
    assert isinstance(two.second.state, New)


@virtual
async def test_a_step_finds_it_following_still() -> None:
    two = await Two(CHECKING).started()
    await two.second.step()
    assert (two.second.state, two.second.attempts, len(two.vendor.requests)) == (Following(), (), 1)


@virtual
async def test_stopped_it_was_not_sent() -> None:
    two = await Two(CHECKING).started()
    two.second.conclude("the batch was stopped")
    assert type(error_of(two.second)) is NotSentError
    two.second.leave(share=False)
    await call_back(two.inbox, NUMBER)
    assert (reply_of(two.first).whatsapp, type(error_of(two.second))) == ("yes", NotSentError)


@virtual
async def test_stopped_before_the_other_gives_up_it_stays_over() -> None:
    two = await Two(CHECKING).started()
    two.second.conclude("the batch was stopped")
    two.first.conclude("the batch was stopped")
    two.first.leave(share=False)
    assert type(error_of(two.second)) is NotSentError


@virtual
async def test_after_a_day_it_asks_itself_without_a_callback() -> None:
    two = await Two(CHECKING, ok_whatsapp("no")).started()
    two.second.give_up_callback()
    assert isinstance(two.second.state, New)
    two.first.conclude("stopped")
    two.first.leave(share=False)
    await two.second.step()
    assert (reply_of(two.second).whatsapp, charges(two.second)) == ("no", [CHARGED])


@virtual
async def test_it_asks_the_ledger_for_nothing() -> None:
    store = Notes()
    two = await Two(CHECKING, ledger=store).started()
    assert (len(store.asks), len(store.results)) == (1, 1)
    await call_back(two.inbox, NUMBER)
    assert (len(store.asks), len(store.results), len(store.delivered)) == (1, 1, 1)
    assert charges(two.second) == []
    assert UNKNOWN not in charges(two.first)
