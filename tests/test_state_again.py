"""Again: another attempt may be made, after a wait. → New, with what was read, counted and decided before."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from aisolution_async import (
    AddFace,
    AISolutionError,
    BudgetExhaustedError,
    ConfigurationError,
    Inbox,
    Ledger,
    NotSentError,
    OutcomeUnknownError,
    Retry,
    RetryLaterError,
    WhatsAppDetail,
)
from aisolution_async.echo import Seen
from aisolution_async.ledger import Busy
from aisolution_async.ledger.store import POLL, Exhausted
from aisolution_async.limits import Gate
from aisolution_async.sending.states import Again, Over

from .steps import (
    ADDRESS,
    CHARGED,
    FREE,
    UNKNOWN,
    Notes,
    call_back,
    charges,
    cut_off,
    error_of,
    money_left,
    reply_of,
    sending_of,
    spent,
)
from .support import NUMBER, Vendor, client_of, in_turn, ok_whatsapp, picture, says, virtual

LATER = says("RETRY_LATER", "busy")
LOST = httpx.ReadError("lost")
QUICK = Retry(first=1, longest=1, unknown=1)


@virtual
async def test_the_next_attempt_is_the_next_of_the_same_call() -> None:
    vendor = in_turn(LATER, LATER, ok_whatsapp())
    client = client_of(vendor, max_charges=1, ledger=(store := Notes()))
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    for number in (1, 2):
        await sending.step()
        assert isinstance(sending.state, Again)
        assert (charges(sending), sending.is_repeat, money_left(client)) == ([FREE] * number, True, 1)
    await sending.step()
    assert reply_of(sending).attempts == sending.attempts
    assert [(attempt.number, attempt.recorded) for attempt in sending.attempts] == [(1, True), (2, True), (3, True)]
    assert (charges(sending), spent(client)) == ([FREE, FREE, CHARGED], (1, 2, 0))
    assert [(result.attempt.number, result.attempt.charge) for result in store.results] == [
        (1, FREE),
        (2, FREE),
        (3, CHARGED),
    ]


async def test_a_file_that_can_be_read_once_is_sent_twice() -> None:
    vendor = in_turn(LATER, says("OK", {"group_id": "g", "person_id": "p", "person_count": 1}))
    sending = sending_of(client_of(vendor), AddFace(io.BytesIO(picture(1))))
    await sending.step()
    await sending.step()
    assert reply_of(sending).person_id == "p"
    assert vendor.requests[0].content == vendor.requests[1].content


@virtual
async def test_the_wait_is_waited_and_counts_against_the_deadline() -> None:
    client = client_of(in_turn(says("RETRY_LATER", headers={"Retry-After": "30"})), retry=QUICK, deadline=100)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    loop = asyncio.get_running_loop()
    assert await sending.enter()
    await sending.step()
    assert isinstance(sending.state, Again)
    assert 30 <= sending.state.seconds <= 31
    assert sending.course.left == pytest.approx(100 - sending.state.seconds)
    wait, began = sending.state.seconds, loop.time()
    assert await sending.enter()
    assert loop.time() - began == pytest.approx(wait)
    assert sending.course.left == pytest.approx(100 - wait)


@virtual
async def test_who_waits_for_the_same_elsewhere_goes_on_when_that_is_over() -> None:
    busy = Busy()
    busy.ended = asyncio.Event()
    sending = sending_of(client_of(in_turn(ok_whatsapp()), ledger=Notes(busy)), WhatsAppDetail(NUMBER))
    await sending.step()
    waiting = asyncio.create_task(sending.enter())
    await asyncio.sleep(20)
    assert not waiting.done()
    busy.ended.set()
    assert await waiting
    assert sending.course.left == pytest.approx(100)
    await sending.step()
    assert charges(sending) == [CHARGED]


@virtual
async def test_who_waits_for_the_same_elsewhere_looks_again_at_the_deadline() -> None:
    busy = Busy()
    busy.ended = asyncio.Event()
    client = client_of(in_turn(ok_whatsapp()), ledger=Notes(busy, Busy()), deadline=10)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert await sending.enter()
    assert sending.course.left == pytest.approx(0, abs=1e-6)
    await sending.step()
    assert type(error_of(sending)) is NotSentError


@virtual
async def test_a_wait_that_fails_is_a_look_a_little_later() -> None:
    class Restless(Busy):
        async def wait(self) -> None:
            raise RuntimeError("secret")

    sending = sending_of(client_of(in_turn(ok_whatsapp()), ledger=Notes(Restless())), WhatsAppDetail(NUMBER))
    await sending.step()
    began = asyncio.get_running_loop().time()
    assert await sending.enter()
    assert asyncio.get_running_loop().time() - began == pytest.approx(POLL)


@virtual
async def test_cancelled_while_it_waits_nothing_is_counted() -> None:
    client = client_of(in_turn(LATER, ok_whatsapp()), max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    before = sending.state
    waiting = asyncio.create_task(sending.enter())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert sending.state is before
    sending.conclude("stopped")  # and ends by what its last attempt came to
    assert isinstance(error_of(sending), RetryLaterError)
    assert (charges(sending), money_left(client)) == ([FREE], 1)


@virtual
async def test_cancelled_before_it_goes_again_it_ends_by_its_last_attempt_and_says_nothing_new_of_the_vendor() -> None:
    store = Notes()
    client = client_of(in_turn(LOST), ledger=store, retry=QUICK, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Again)
    store.blocked = {"begin"}
    await cut_off(sending.step(), store.reached)
    assert isinstance(sending.state, Again)
    sending.conclude("stopped")
    assert isinstance(error_of(sending), OutcomeUnknownError)
    assert isinstance(sending.state, Over)
    assert (sending.state.signal, charges(sending), len(store.results)) == (None, [UNKNOWN], 1)
    assert money_left(client) == 1


@pytest.mark.parametrize("how", ["budget", "ledger", "echo", "late"])
@virtual
async def test_a_lost_attempt_is_remembered_whatever_ends_the_call(how: str) -> None:
    store = Notes()
    client = client_of(in_turn(LOST), ledger=store, retry=QUICK, max_charges=1 if how == "budget" else 9, rate=0.5)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    assert await sending.enter()
    await sending.step()
    assert isinstance(sending.state, Again)
    if how == "ledger":
        store.verdicts = [Exhausted("enough")]
    elif how == "echo":
        client.shared.echo.state = Seen.CONVENTION
    elif how == "late":
        sending.course.spend(119.5)
    if await sending.enter():
        await sending.step()
    error = error_of(sending)
    assert (
        type(error)
        is {
            "budget": BudgetExhaustedError,
            "ledger": BudgetExhaustedError,
            "echo": OutcomeUnknownError,
            "late": NotSentError,
        }[how]
    )
    assert (error.charge, error.attempts) == (UNKNOWN, sending.attempts)
    assert isinstance(sending.state, Over)
    assert sending.state.signal is None
    assert charges(sending) == ([UNKNOWN, FREE] if how == "late" else [UNKNOWN])


@pytest.mark.parametrize(("answer", "kind"), [(LOST, OutcomeUnknownError), (LATER, RetryLaterError)])
@pytest.mark.parametrize("how", ["enter", "step", "send", "batch"])
@virtual
async def test_a_client_closed_meanwhile_forgets_no_charge(
    answer: Any, kind: type[AISolutionError], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoff.full_jitter", lambda longest: longest)
    client = client_of(in_turn(answer), retry=QUICK)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    error: Any = None
    if how in ("enter", "step"):
        await sending.step()
        assert isinstance(sending.state, Again)
        await client.aclose()
        if how == "enter":
            assert not await sending.enter()
        else:
            assert await sending.step() is sending.state
        error = error_of(sending)
    elif how == "send":
        asking = asyncio.create_task(client.send(WhatsAppDetail(NUMBER)))
        await asyncio.sleep(0.0001)
        await client.aclose()
        with pytest.raises(kind) as caught:
            await asking
        error = caught.value
    else:
        async with client.batch([WhatsAppDetail(NUMBER)]) as batch:
            await asyncio.sleep(0.0001)
            await client.aclose()
            outcomes = []
            with pytest.raises(ConfigurationError, match="closed while the batch was running"):
                async for outcome in batch:
                    outcomes.append(outcome)  # noqa: PERF401  # a comprehension that is cut off has none
        error = cast("Any", outcomes[0].error)
    assert type(error) is kind
    assert len(error.attempts) == 1
    assert error.charge is (UNKNOWN if answer is LOST else FREE)
    assert sum(spent(client)) == 1


async def test_a_closed_client_is_refused_where_nothing_was_sent() -> None:
    client = client_of(in_turn(LATER))
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await client.aclose()
    for work in (sending.enter, sending.step):
        with pytest.raises(ConfigurationError, match="the client is closed"):
            await work()
    sending.fail(ConfigurationError("closed"))
    assert isinstance(error_of(sending), ConfigurationError)


@virtual
async def test_a_place_that_does_not_come_free_in_time_is_an_attempt_that_was_not_made() -> None:
    told: list[Any] = []
    client = client_of(in_turn(LOST), retry=QUICK, timeout=httpx.Timeout(5.0), on_attempt=lambda *one: told.append(one))
    gate = client.shared.gate = Gate(1)
    assert gate.try_enter()
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    assert not await sending.enter()
    assert type(error_of(sending)) is NotSentError
    assert "no free connection in time" in str(error_of(sending))
    assert (charges(sending), sending.attempts[0].elapsed, len(told)) == ([FREE], 0.0, 1)
    gate.leave()
    assert gate.try_enter()  # no place was lost


@virtual
async def test_called_back_while_it_waits_it_is_over() -> None:
    inbox = Inbox(ADDRESS)
    client = client_of(in_turn(LATER), max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert isinstance(sending.state, Again)
    await call_back(inbox, NUMBER)
    assert reply_of(sending).whatsapp == "yes"
    assert (charges(sending), money_left(client)) == ([FREE, CHARGED], 0)


@virtual
async def test_a_request_that_is_repeated_names_the_callback_again() -> None:
    inbox = Inbox(ADDRESS)
    vendor: Vendor = in_turn(LATER, ok_whatsapp("checking"))
    sending = sending_of(client_of(vendor), WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    await sending.step()
    assert [b"callback=" in request.content for request in vendor.requests] == [True, True]


@virtual
async def test_a_ledger_that_is_closed_between_two_attempts_does_not_make_the_first_one_free(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    await ledger.open()
    client = client_of(in_turn(httpx.ReadError("lost")), ledger=ledger, retry_unknown=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    assert isinstance(await sending.step(), Again)
    await ledger.aclose()
    await sending.step()
    error = error_of(sending)
    assert isinstance(error, OutcomeUnknownError)
    assert (error.charge, error.attempts) == (UNKNOWN, sending.attempts)
