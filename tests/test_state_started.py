"""Started: the request is out. → Found, whatever comes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

from aisolution_async import (
    AsyncClient,
    Charge,
    DeleteFace,
    Inbox,
    NotSentError,
    OutcomeUnknownError,
    Retry,
    WhatsAppDetail,
)
from aisolution_async.charges import Attempt
from aisolution_async.ledger.store import State
from aisolution_async.limits import Signal
from aisolution_async.sending import finding
from aisolution_async.sending.call import Sending
from aisolution_async.sending.states import Again, Awaiting, Over

from .steps import (
    ADDRESS,
    CHARGED,
    FREE,
    UNKNOWN,
    Fallen,
    HeldVendor,
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
from .support import NUMBER, TOKEN, Vendor, client_of, in_turn, ok_whatsapp, says, virtual


class Telling(httpx.AsyncBaseTransport):
    """A transport that says how far the request got, and then waits, or fails."""

    def __init__(self, left: bool | None, error: Exception | None = None) -> None:
        self.left, self.error, self.reached = left, error, asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["aisolution.flight"].left = self.left
        self.reached.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


def hooked(**options: Any) -> tuple[list[Attempt], dict[str, Any]]:
    told: list[Attempt] = []
    return told, {"on_attempt": lambda _, attempt: told.append(attempt), **options}


async def test_an_answer_is_counted_recorded_and_told_once() -> None:
    store, (told, options) = Notes(), hooked()
    client = client_of(in_turn(ok_whatsapp()), ledger=store, max_charges=2, **options)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (reply_of(sending).whatsapp, sending.state.signal) == ("yes", Signal.ANSWERED)
    assert reply_of(sending).attempts == sending.attempts == tuple(told)
    assert (charges(sending), sending.attempts[0].recorded, sending.attempts[0].number) == ([CHARGED], True, 1)
    assert [(result.state, result.answer, result.sent) for result in store.results] == [(State.CHARGED, True, True)]
    assert (spent(client), money_left(client), client.load.in_flight) == ((1, 0, 0), 1, 0)


@pytest.mark.parametrize(
    ("left", "error", "charge"),
    [
        (False, httpx.ReadError("x"), FREE),
        (True, httpx.ConnectError("x"), UNKNOWN),
        (None, httpx.ReadTimeout("x"), UNKNOWN),
        (None, httpx.ConnectError("x"), FREE),
        (None, RuntimeError("x"), UNKNOWN),
    ],
)
async def test_a_lost_request_is_free_only_where_nothing_left(
    left: bool | None, error: Exception, charge: Charge
) -> None:
    store = Notes()
    client = client_of(Telling(left, error), ledger=store, max_charges=1, retry=0)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    assert type(sending.state.error) is (OutcomeUnknownError if charge is UNKNOWN else NotSentError)
    assert (charges(sending), error_of(sending).charge) == ([charge], charge)
    assert [(result.attempt.charge, result.sent) for result in store.results] == [(charge, charge is UNKNOWN)]
    assert money_left(client) == (1 if charge is FREE else 0)


@pytest.mark.parametrize(("left", "charge"), [(False, FREE), (True, UNKNOWN), (None, UNKNOWN)])
async def test_cancelled_it_is_counted_and_recorded(left: bool | None, charge: Charge) -> None:
    store, transport, (told, options) = Notes(), Telling(left), hooked(max_charges=1)
    client = client_of(transport, ledger=store, **options)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await cut_off(sending.step(), transport.reached)
    assert isinstance(sending.state, Over)
    assert type(sending.state.error) is (OutcomeUnknownError if charge is UNKNOWN else NotSentError)
    assert (charges(sending), error_of(sending).charge, sending.attempts) == ([charge], charge, tuple(told))
    assert (sending.attempts[0].error, sending.attempts[0].recorded) == ("cancelled", True)
    assert [(result.attempt.charge, result.sent) for result in store.results] == [(charge, charge is UNKNOWN)]
    assert money_left(client) == (1 if charge is FREE else 0)
    assert client.load.in_flight == 0


async def test_cancelled_twice_it_is_counted_all_the_same() -> None:
    store, transport = Notes(blocked=["end"]), Telling(True)
    client = client_of(transport, ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    working = asyncio.create_task(sending.step())
    await transport.reached.wait()
    working.cancel()
    await store.reached.wait()
    working.cancel()
    await asyncio.wait({working})
    assert working.cancelled()
    assert isinstance(sending.state, Over)
    assert (charges(sending), len(store.results), money_left(client)) == ([UNKNOWN], 1, 0)


async def test_cancelled_from_outside_again_and_again_it_is_recorded_in_full() -> None:
    """As a task group of anyio cancels what is in it."""
    store, transport = Notes(blocked=["end"]), Telling(True)
    sending = sending_of(client_of(transport, ledger=store), WhatsAppDetail(NUMBER))
    async with anyio.create_task_group() as group:
        group.start_soon(sending.step)
        await transport.reached.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await store.reached.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            store.go.set()
    assert [(attempt.charge, attempt.recorded) for attempt in sending.attempts] == [(UNKNOWN, True)]
    assert len(store.results) == 1


@virtual
async def test_the_deadline_passes_before_or_while_it_is_out() -> None:
    client = client_of(HeldVendor(ok_whatsapp()), deadline=5.0, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    sending.course.spend(5.0)
    await sending.step()
    assert isinstance(sending.state, Over)
    assert type(sending.state.error) is NotSentError
    assert "the deadline passed before it could be sent" in str(sending.state.error)
    assert (charges(sending), money_left(client)) == ([FREE], 1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (charges(sending), money_left(client)) == ([UNKNOWN], 0)
    assert sending.attempts[0].elapsed == pytest.approx(5.0)
    assert sending.course.left <= 0


async def test_a_deadline_that_passes_before_says_nothing_of_the_vendor() -> None:
    """With the client's own pool, too, which looks at the deadline itself."""
    async with AsyncClient(TOKEN, base_url="http://127.0.0.1:9", deadline=5.0) as client:
        sending = Sending(client._shared, client._options, WhatsAppDetail(NUMBER))
        sending.course.spend(5.0)
        await sending.step()
    assert isinstance(sending.state, Over)
    assert type(sending.state.error) is NotSentError
    assert "the deadline passed before it could be sent" in str(sending.state.error)
    assert (sending.state.signal, charges(sending)) == (None, [FREE])


@pytest.mark.parametrize("call", [WhatsAppDetail(NUMBER), DeleteFace("p")], ids=lambda call: call.endpoint.name)
async def test_a_fault_of_ours_is_unknown_and_not_repeated(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may be repeated: what cannot be read now cannot be read then."""

    def of_response(*_: object, **__: object) -> None:
        raise RecursionError("secret")

    monkeypatch.setattr(finding, "of_response", of_response)
    store = Notes()
    client = client_of(in_turn(ok_whatsapp()), ledger=store, retry=Retry(unknown=3))
    sending = sending_of(client, call)
    await sending.step()
    assert isinstance(sending.state, Over)
    assert isinstance(sending.state.error, OutcomeUnknownError)
    assert (charges(sending), [result.sent for result in store.results]) == ([UNKNOWN], [True])


async def test_a_fault_while_an_answer_is_doubted_loses_no_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(in_turn(says("OK", {"number": "+6281387300009", "whatsapp": "yes"})), max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))

    def doubt(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(type(sending), "_doubt", doubt)
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (charges(sending), spent(client), money_left(client)) == ([UNKNOWN], (0, 0, 1), 0)


async def test_too_much_is_told_to_everybody() -> None:
    client = client_of(in_turn(says("RETRY_LATER", "busy", headers={"Retry-After": "30"})), retry=0)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    assert sending.state.signal is Signal.OVERLOADED
    assert 29 < client.shared.paused_until - asyncio.get_running_loop().time() <= 30


# ------------------------------------------------------------------------------- where a callback may come


@virtual
async def test_cancelled_where_a_callback_is_to_come_it_is_recorded_as_expected() -> None:
    store, inbox, transport = Notes(), Inbox(ADDRESS), Telling(True)
    client = client_of(transport, ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await cut_off(sending.step(), transport.reached)
    assert isinstance(sending.state, Over)
    assert [(result.state, result.expected) for result in store.results] == [(State.UNKNOWN, True)]
    await call_back(inbox, NUMBER)  # before the call has left: it is charged to the attempt that was lost
    assert isinstance(sending.state, Over)
    assert reply_of(sending).whatsapp == "yes"
    assert (charges(sending), money_left(client)) == ([UNKNOWN, CHARGED], 0)


@pytest.mark.parametrize("whatsapp", ["yes", "checking"])
@pytest.mark.parametrize("times", [1, 2])
@virtual
async def test_cancelled_while_a_callback_is_recorded_nothing_is_lost_and_one_is_charged(
    whatsapp: str, times: int
) -> None:
    """The vendor calls back, answers the request too, and the call is cancelled before either is taken."""
    store, inbox, vendor = Notes(blocked=["deliver"]), Inbox(ADDRESS), HeldVendor(ok_whatsapp(whatsapp))
    client = client_of(vendor, ledger=store, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await vendor.reached.wait()
    calling = asyncio.create_task(call_back(inbox, NUMBER, "no"))
    await store.reached.wait()
    vendor.go.set()
    for _ in range(10):
        await asyncio.sleep(0)  # the answer is here, and waits for the recording
    for _ in range(times):
        working.cancel()
        await asyncio.sleep(0)
    store.go.set()
    await calling
    await asyncio.wait({working})
    assert working.cancelled()
    assert isinstance(sending.state, Over)
    assert sending.state.reply is not None
    assert reply_of(sending).whatsapp == ("yes" if whatsapp == "yes" else "no")
    assert len(sending.attempts) == len(store.results) + len(store.delivered) == 2
    if times == 1:  # else who cancels does not wait to see which came first
        assert sorted(charges(sending)) == [CHARGED, FREE]
        assert money_left(client) == 1


@virtual
async def test_cancelled_while_a_callback_is_recorded_and_no_answer_is_there_one_is_charged() -> None:
    """The lost request is the one that is called back: its charge is known once that is recorded."""
    store, inbox, vendor = Notes(blocked=["deliver"]), Inbox(ADDRESS), HeldVendor(ok_whatsapp())
    client = client_of(vendor, ledger=store, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await vendor.reached.wait()
    calling = asyncio.create_task(call_back(inbox, NUMBER, "no"))
    await store.reached.wait()
    working.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert (charges(sending), store.results) == ([], [])
    store.go.set()
    await calling
    await asyncio.wait({working})
    assert working.cancelled()
    assert (reply_of(sending).whatsapp, charges(sending), money_left(client)) == ("no", [CHARGED, FREE], 1)
    assert [result.attempt.charge for result in store.results] == [FREE]


@virtual
async def test_a_callback_during_the_request_is_charged_once_whatever_comes_of_that() -> None:
    answers: list[tuple[httpx.Response | Exception, Charge, str]] = [
        (ok_whatsapp("yes"), FREE, "yes"),
        (ok_whatsapp("checking"), FREE, "no"),
        (says("RETRY_LATER"), FREE, "no"),
        (says("FAIL"), FREE, "no"),
        (httpx.ReadError("lost"), FREE, "no"),
        (httpx.Response(500), UNKNOWN, "no"),  # what that is, nobody knows
    ]
    for answer, charge, whatsapp in answers:
        inbox = Inbox(ADDRESS)

        async def script(request: httpx.Request, _: int, inbox: Inbox = inbox, answer: Any = answer) -> httpx.Response:
            await call_back(inbox, NUMBER, "no")
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

        client = client_of(Vendor(script), max_charges=2)
        sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
        await sending.step()
        assert isinstance(sending.state, Over)
        assert (reply_of(sending).whatsapp, charges(sending)) == (whatsapp, [CHARGED, charge])
        assert reply_of(sending).attempts == sending.attempts
        sending.leave(share=True)
        assert money_left(client) == 1
        assert inbox.outstanding == 0


@virtual
async def test_a_late_callback_while_the_number_is_asked_for_again_is_one_charge() -> None:
    inbox = Inbox(ADDRESS, patience=60)

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        if number == 1:
            await call_back(inbox, NUMBER, "no")
        return ok_whatsapp("checking")

    client = client_of(Vendor(script), max_charges=3)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert isinstance(sending.state, Awaiting)
    assert money_left(client) == 2
    sending.give_up_callback()
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (reply_of(sending).whatsapp, charges(sending)) == ("no", [FREE, CHARGED, FREE])
    sending.leave(share=True)
    assert money_left(client) == 2


@pytest.mark.parametrize(
    ("answer", "charge"), [(ok_whatsapp(), CHARGED), (httpx.ReadError("lost"), UNKNOWN), (says("MAYBE"), UNKNOWN)]
)
@virtual
async def test_a_late_callback_says_nothing_of_what_the_second_request_costs(answer: Any, charge: Charge) -> None:
    """It is the answer to the first request, which named it: the second one is charged by itself."""
    inbox = Inbox(ADDRESS, patience=60)

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        if number == 0:
            return ok_whatsapp("checking")
        await call_back(inbox, NUMBER, "no")
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    client = client_of(Vendor(script), max_charges=3)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    sending.give_up_callback()
    await sending.step()
    assert charges(sending) == [FREE, CHARGED, charge]
    sending.leave(share=True)
    assert money_left(client) == 1


@virtual
async def test_a_callback_right_after_the_answer_is_no_other_charge() -> None:
    """The request that named it was charged; the ledger, which recorded the callback first, counts one, too."""
    inbox = Inbox(ADDRESS)
    client = client_of(in_turn(ok_whatsapp("no")), max_charges=2, ledger=Notes())
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    await call_back(inbox, NUMBER)
    assert charges(sending) == [CHARGED, FREE]
    sending.leave(share=True)
    assert money_left(client) == 1


@virtual
async def test_a_callback_that_is_no_longer_waited_for_pays_for_nothing() -> None:
    """Another process had it recorded, or somebody purged: this request is lost all the same, as far as it is known."""
    inbox, store = Inbox(ADDRESS), Notes()
    store.accepts = False

    async def script(request: httpx.Request, _: int) -> httpx.Response:
        await call_back(inbox, NUMBER, "no")
        raise httpx.ReadError("lost")

    sending = sending_of(client_of(Vendor(script), ledger=store), WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert (reply_of(sending).whatsapp, charges(sending)) == ("no", [UNKNOWN])


@virtual
async def test_an_answer_that_was_free_and_may_pass_is_asked_for_again() -> None:
    sending = sending_of(client_of(in_turn(says("RETRY_LATER"), ok_whatsapp())), WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Again)
    assert (sending.state.signal, charges(sending)) == (Signal.OVERLOADED, [FREE])


async def test_when_it_was_asked_is_when_it_went_out() -> None:
    sending = sending_of(client_of(in_turn(ok_whatsapp("checking"))), WhatsAppDetail(NUMBER), inbox=Inbox(ADDRESS))
    await sending.step()
    assert sending.callback is not None
    assert sending.callback.since == sending.attempts[0].started_at
    assert sending.attempts[0].elapsed >= 0
    assert sending.attempts[0].started_at.utcoffset() == timedelta(0)


async def test_nothing_goes_out_of_a_client_that_is_closed() -> None:
    client = client_of(Fallen())
    await client.aclose()
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    with pytest.raises(Exception, match="the client is closed"):
        await sending.step()
    assert sending.attempts == ()


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_out_when_the_program_ends_is_counted(how: type[BaseException]) -> None:
    store, (told, options) = Notes(), hooked()
    client = client_of(HeldVendor(ok_whatsapp()), ledger=store, max_charges=2, **options)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    step = sending.step()
    step.send(None)
    with pytest.raises(how):
        step.throw(how)
    assert isinstance(error_of(sending), OutcomeUnknownError)
    assert (charges(sending), sending.attempts, store.results) == ([UNKNOWN], tuple(told), [])
    assert (spent(client), money_left(client), client.load.in_flight) == ((0, 0, 1), 1, 0)
