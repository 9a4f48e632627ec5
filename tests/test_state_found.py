"""Found: judged and counted. → Over, Again or Awaiting, once it is recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from aisolution_async import (
    Charge,
    FaceCompare,
    Inbox,
    NotSentError,
    OutcomeUnknownError,
    Retry,
    RetryLaterError,
    WhatsAppDetail,
)
from aisolution_async.charges import Attempt
from aisolution_async.echo import Seen
from aisolution_async.ledger.store import State
from aisolution_async.limits import Signal
from aisolution_async.sending.states import Again, Awaiting, Over

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

LOST = httpx.ReadError("lost")
ANOTHER = says("OK", {"number": "+6281387300009", "whatsapp": "yes"})


async def test_it_is_recorded_before_the_hook_is_told() -> None:
    store, told = Notes(), list[tuple[int, bool | None]]()
    client = client_of(
        in_turn(ok_whatsapp()),
        ledger=store,
        on_attempt=lambda _, attempt: told.append((len(store.results), attempt.recorded)),
    )
    await sending_of(client, WhatsAppDetail(NUMBER)).step()
    assert told == [(1, True)]


async def test_an_answer_that_cannot_be_recorded_is_kept_and_says_so() -> None:
    store = Notes()
    store.fails_to = {"end"}
    sending = sending_of(client_of(in_turn(ok_whatsapp()), ledger=store), WhatsAppDetail(NUMBER))
    await sending.step()
    assert reply_of(sending).charge is CHARGED
    assert [attempt.recorded for attempt in sending.attempts] == [False]


@pytest.mark.parametrize(
    ("answer", "charge"),
    [(ok_whatsapp(), CHARGED), (says("RETRY_LATER"), FREE), (LOST, UNKNOWN), (says("NEW"), UNKNOWN)],
)
async def test_cancelled_while_it_is_recorded_it_ends_as_it_was_found(answer: Any, charge: Charge) -> None:
    store, told = Notes(blocked=["end"]), list[Attempt]()
    client = client_of(
        in_turn(answer),
        ledger=store,
        max_charges=1,
        on_attempt=lambda _, attempt: told.append(attempt),
        retry_unknown=1,
    )
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await cut_off(sending.step(), store.reached)
    assert isinstance(sending.state, Over)
    assert (sending.state.reply is not None) == (charge is CHARGED)
    assert (charges(sending), [attempt.charge for attempt in told]) == ([charge], [charge])
    assert [result.attempt.charge for result in store.results] == [charge]
    assert [attempt.recorded for attempt in told] == [False]  # as far as anybody knows
    assert money_left(client) == (1 if charge is FREE else 0)
    assert sending.state.signal is not None


@virtual
async def test_cancelled_while_it_is_recorded_the_callback_keeps_its_charge_until_it_is_late() -> None:
    store, inbox = Notes(blocked=["end"]), Inbox(ADDRESS, patience=60)
    client = client_of(in_turn(ok_whatsapp("checking")), ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await cut_off(sending.step(), store.reached)
    assert reply_of(sending).whatsapp == "checking"
    assert [(result.state, result.expected) for result in store.results] == [(State.FREE, True)]
    sending.leave(share=False)
    assert (money_left(client), inbox.outstanding) == (0, 0)
    await asyncio.sleep(61)
    assert money_left(client) == 1


@pytest.mark.parametrize(("answer", "whatsapp"), [("checking", "no"), ("yes", "yes")])
@virtual
async def test_called_back_while_it_is_recorded(answer: str, whatsapp: str) -> None:
    """What the ledger takes first is counted; the second time it says so."""
    store, inbox = Notes(blocked=["end"]), Inbox(ADDRESS)
    store.accepts = answer == "checking"
    client = client_of(in_turn(ok_whatsapp(answer)), ledger=store, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    await call_back(inbox, NUMBER, "no")
    store.go.set()
    await working
    assert reply_of(sending).whatsapp == whatsapp
    assert reply_of(sending).attempts == sending.attempts
    assert charges(sending) == ([FREE, CHARGED] if answer == "checking" else [CHARGED])
    sending.leave(share=True)
    assert (money_left(client), spent(client)[0]) == (1, 1)


@virtual
async def test_a_lost_request_that_is_called_back_while_it_is_recorded_is_paid_for_once() -> None:
    store, inbox = Notes(blocked=["end"]), Inbox(ADDRESS)
    client = client_of(in_turn(LOST), ledger=store, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    await call_back(inbox, NUMBER, "no")
    store.go.set()
    await working
    assert (reply_of(sending).whatsapp, charges(sending)) == ("no", [UNKNOWN, CHARGED])
    sending.leave(share=True)
    assert money_left(client) == 1


async def test_called_back_and_cancelled_while_it_is_recorded() -> None:
    store, inbox = Notes(blocked=["end"]), Inbox(ADDRESS)
    client = client_of(in_turn(ok_whatsapp("checking")), ledger=store, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    await call_back(inbox, NUMBER, "no")
    working.cancel()
    await asyncio.wait({working})
    assert (reply_of(sending).whatsapp, charges(sending), money_left(client)) == ("no", [FREE, CHARGED], 1)


@virtual
async def test_what_follows() -> None:
    """The answer, and what may be repeated: → this state, with this signal."""
    rows: list[tuple[Any, dict[str, Any], type, Signal | None]] = [
        (ok_whatsapp("checking"), {}, Over, Signal.ANSWERED),
        (says("RETRY_LATER"), {}, Again, Signal.OVERLOADED),
        (says("RETRY_LATER"), {"retry": 0}, Over, Signal.OVERLOADED),
        (says("RETRY_LATER", headers={"Retry-After": "60"}), {"deadline": 60}, Over, Signal.OVERLOADED),
        (says("RETRY_LATER", headers={"Retry-After": "60"}), {"deadline": None}, Again, Signal.OVERLOADED),
        (says("FAIL"), {}, Over, Signal.ANSWERED),
        (httpx.Response(404), {}, Over, Signal.ANSWERED),
        (httpx.Response(429), {}, Again, Signal.OVERLOADED),
        (httpx.Response(500), {}, Over, Signal.BROKEN),
        (httpx.Response(500), {"retry_unknown": 1}, Again, Signal.BROKEN),
        (httpx.ConnectError("x"), {}, Again, Signal.BROKEN),
        (httpx.ReadError("x"), {}, Over, Signal.BROKEN),
        (httpx.ReadTimeout("x"), {}, Over, Signal.OVERLOADED),
        (httpx.ReadTimeout("x"), {"retry_unknown": 1}, Again, Signal.OVERLOADED),
    ]
    for answer, options, kind, signal in rows:
        sending = sending_of(client_of(in_turn(answer), **options), WhatsAppDetail(NUMBER))
        await sending.step()
        assert type(sending.state) is kind, (answer, options)
        assert getattr(sending.state, "signal", None) is signal


async def test_what_is_lost_with_the_client_is_not_tried_again() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await client.aclose()
        raise httpx.ConnectError("closed")

    client = client_of(Vendor(script))
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert type(error_of(sending)) is NotSentError
    assert charges(sending) == [FREE]


@virtual
async def test_a_trial_uses_up_no_repeat_and_no_time() -> None:
    client = client_of(in_turn(says("RETRY_LATER")), retry=Retry(max_retries=1, first=1, longest=1), deadline=10)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    for _ in range(20):
        await sending.step(trial=True)
        assert isinstance(sending.state, Again)
    assert sending.course.left == 10
    await sending.step()
    assert isinstance(sending.state, Again)
    assert sending.course.left < 10
    await sending.step()
    assert isinstance(error_of(sending), RetryLaterError)
    assert len(sending.attempts) == 22


@virtual
async def test_where_a_callback_is_to_come_it_is_awaited() -> None:
    for answer, charge in ((ok_whatsapp("checking"), FREE), (LOST, UNKNOWN), (httpx.Response(500), UNKNOWN)):
        inbox, store = Inbox(ADDRESS), Notes()
        client = client_of(in_turn(answer), ledger=store, max_charges=1, retry_unknown=1)
        sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
        await sending.step()
        assert isinstance(sending.state, Awaiting)
        assert sending.state.otherwise is not None
        assert sending.state.signal is sending.state.otherwise.signal is not None
        assert (sending.state.otherwise.reply is not None) == (charge is FREE)
        assert [(result.attempt.charge, result.expected) for result in store.results] == [(charge, True)]
        assert not any(result.answer for result in store.results)  # "checking" is a reply, and no answer
        assert money_left(client) == 0


@virtual
async def test_where_none_is_to_come_it_is_not() -> None:
    for answer, kind in ((says("RETRY_LATER"), Again), (httpx.ConnectError("x"), Again), (says("FAIL"), Over)):
        inbox, store = Inbox(ADDRESS), Notes()
        client = client_of(in_turn(answer), ledger=store, max_charges=1)
        sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
        await sending.step()
        assert type(sending.state) is kind
        assert [result.expected for result in store.results] == [False]
        assert money_left(client) == 1


async def test_an_answer_about_another_number_holds_unless_the_vendor_names_others_to_everybody() -> None:
    store = Notes()
    client = client_of(in_turn(ANOTHER), ledger=store, retry_unknown=9)
    for number in range(3):
        sending = sending_of(client, WhatsAppDetail(f"+628138730010{number}"))
        await sending.step()
        assert charges(sending) == [UNKNOWN]
    assert isinstance(error_of(sending), OutcomeUnknownError)  # stopped: it is not asked again, though it might be
    assert client.shared.echo.state is Seen.CONVENTION
    assert [result.holds for result in store.results] == [True, True, False, False, False]  # the last two: let go


async def test_what_is_lost_holds_its_call_though_the_vendor_names_others_to_everybody() -> None:
    store = Notes()
    client = client_of(in_turn(LOST), ledger=store, retry=0)
    client.shared.echo.state = Seen.CONVENTION
    await sending_of(client, FaceCompare(picture(1), picture(2))).step()
    assert [(result.state, result.holds) for result in store.results] == [(State.UNKNOWN, True)]


async def test_the_secret_of_a_callback_is_not_quoted_from_an_answer() -> None:
    inbox, store = Inbox(ADDRESS), Notes()
    secret = inbox.url.rpartition("/")[2]
    client = client_of(in_turn(says("NEW", f"we will call {inbox.url}")), ledger=store)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert sending.conclude("stopped").error is not None
    assert "we will call" in str(error_of(sending))
    assert secret not in f"{error_of(sending)} {getattr(error_of(sending), 'message', None)}"
    (result,) = store.results
    assert secret.encode() not in (result.reply or b"")


async def test_a_secret_in_an_answer_is_not_recorded() -> None:
    store = Notes()
    client = client_of(
        in_turn(says("OK", {"number": NUMBER, "whatsapp": "yes", "group_id": "g-1", "x": "tok-3n/secret+value=="})),
        ledger=store,
    )
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    (result,) = store.results
    assert result.reply is not None
    assert b"secret" not in result.reply
    assert b"g-1" not in result.reply
    assert result.answer
