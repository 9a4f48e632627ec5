"""Over: `reply` or `error`, never both or neither; nothing leads out of it, and nothing changes it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from aisolution_async import ConfigurationError, Inbox, OutcomeUnknownError, Retry, WhatsAppDetail
from aisolution_async.ledger import Stored
from aisolution_async.sending.states import NEW, Over

from .steps import (
    ADDRESS,
    CHARGED,
    UNKNOWN,
    Fallen,
    Notes,
    attempt_of,
    call_back,
    charges,
    error_of,
    reply_of,
    sending_of,
    spent,
)
from .support import NUMBER, client_of, in_turn, ok_whatsapp, says, virtual

ENDS = [ok_whatsapp(), ok_whatsapp("checking"), says("FAIL"), httpx.ReadError("lost"), httpx.Response(500)]


@pytest.mark.parametrize("answer", ENDS, ids=range(len(ENDS)))
async def test_it_stays_as_it_is(answer: Any) -> None:
    client = client_of(in_turn(answer))
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    over = sending.state
    assert isinstance(over, Over)
    assert (over.reply is None) != (over.error is None)
    sending.conclude("stopped")
    sending.fail(ConfigurationError("closed"))
    sending.release()
    await sending.prepare()
    sending.leave(share=True)
    assert sending.state is over
    assert len(sending.attempts) == 1


@virtual
async def test_a_paid_answer_is_not_taken_away_by_a_callback_that_comes_then() -> None:
    inbox, store = Inbox(ADDRESS), Notes()
    store.accepts = False  # it has the answer
    client = client_of(in_turn(ok_whatsapp("yes")), ledger=store)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    await call_back(inbox, NUMBER, "no")
    assert (reply_of(sending).whatsapp, charges(sending), spent(client)) == ("yes", [CHARGED], (1, 0, 0))


@virtual
async def test_a_failure_gives_way_to_a_callback_that_comes_then() -> None:
    inbox = Inbox(ADDRESS)
    client = client_of(in_turn(says("FAIL")))
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert error_of(sending)
    await call_back(inbox, NUMBER, "no")
    assert reply_of(sending).whatsapp == "no"


async def test_what_the_ledger_has_ends_it_before_it_begins() -> None:
    sending = sending_of(client_of(Fallen()), WhatsAppDetail(NUMBER))
    assert not sending.accept(Stored(b"what?", attempt_of()))
    assert sending.state is NEW
    assert sending.accept(Stored(b'{"whatsapp": "no"}', attempt_of()))
    assert (reply_of(sending).whatsapp, reply_of(sending).recorded is not None, charges(sending)) == ("no", True, [])


async def test_a_failure_before_anything_was_sent_is_the_end() -> None:
    sending = sending_of(client_of(Fallen()), WhatsAppDetail(NUMBER))
    assert sending.fail(problem := ConfigurationError("closed")) is sending.state
    assert error_of(sending) is problem
    sending.fail(ConfigurationError("again"))
    assert error_of(sending) is problem


@virtual
async def test_a_hook_hears_of_each_attempt_once_and_of_the_end_once() -> None:
    attempts: list[Any] = []
    outcomes: list[Any] = []
    answers: list[Any] = [says("RETRY_LATER"), httpx.ReadError("lost")]
    async with client_of(
        in_turn(*answers), on_attempt=lambda *told: attempts.append(told), on_outcome=outcomes.append
    ) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.whatsapp_detail(NUMBER)
    assert tuple(attempt for _, attempt in attempts) == caught.value.attempts
    (outcome,) = outcomes
    assert (outcome.error, outcome.attempts) == (caught.value, caught.value.attempts)


@virtual
async def test_a_call_that_is_cancelled_between_two_attempts_has_its_outcome() -> None:
    outcomes: list[Any] = []
    first = asyncio.Event()
    async with client_of(
        in_turn(httpx.ReadError("lost")),
        retry=Retry(first=9, longest=9, unknown=1),
        on_attempt=lambda *_: first.set(),
        on_outcome=outcomes.append,
    ) as client:
        task = asyncio.ensure_future(client.whatsapp_detail(NUMBER))
        await first.wait()
        await asyncio.sleep(0)  # it waits for its repeat
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    (outcome,) = outcomes
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert (outcome.charge, len(outcome.attempts), spent(client)) == (UNKNOWN, 1, (0, 0, 1))


def test_what_a_ledger_said_is_not_shown() -> None:
    assert NUMBER not in repr(Over(None, None, recorded=f'{{"number": "{NUMBER}"}}'.encode()))
