"""Admitted: a charge is set aside, and the ledger is asked for leave. → Started, Over, Again or Awaiting."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from aisolution_async import (
    AddFace,
    AISolutionError,
    BudgetExhaustedError,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    Inbox,
    LedgerError,
    NotSentError,
    OutcomeUnknownError,
    WhatsAppDetail,
)
from aisolution_async.clock import today
from aisolution_async.ledger import Busy, Started, Stored, Verdict
from aisolution_async.ledger.store import Exhausted, Expected, Held, Lease, State
from aisolution_async.sending.states import Again, Awaiting, New, Over, Prepared

from .steps import (
    ADDRESS,
    CHARGED,
    FREE,
    UNKNOWN,
    Fallen,
    Notes,
    attempt_of,
    call_back,
    charges,
    cut_off,
    error_of,
    money_left,
    reply_of,
    sending_of,
    spent,
)
from .support import NUMBER, client_of, in_turn, ok_whatsapp, picture, says, virtual

HELD = attempt_of(UNKNOWN, status=None)

ENDS: list[tuple[Verdict | AISolutionError, type[AISolutionError], str]] = [
    (Held(HELD), OutcomeUnknownError, "may have been charged"),
    (Held(attempt_of(CHARGED), attempts=2), OutcomeUnknownError, "retry_unknown=2 buys it again"),
    (Exhausted("all is spent"), BudgetExhaustedError, "not sent: all is spent"),
    (Stored(b"what?", attempt_of()), LedgerError, "does not fit this version"),
    (LedgerError("the disk is full"), LedgerError, "not sent: the disk is full"),
]


async def is_free(client: Any) -> bool:
    """Whether the client's only charge is still to be had."""
    other = sending_of(client, WhatsAppDetail("+6281387300001"))
    await other.step()
    return not isinstance(other.state, Over) or not isinstance(other.state.error, BudgetExhaustedError)


@pytest.mark.parametrize(("verdict", "kind", "text"), ENDS, ids=lambda value: getattr(value, "__name__", None))
async def test_without_leave_nothing_is_sent(verdict: Any, kind: type[AISolutionError], text: str) -> None:
    store = Notes(verdict)
    client = client_of(in_turn(ok_whatsapp()), ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER, key="k"))
    await sending.step()
    assert isinstance(sending.state, Over)
    error = sending.state.error
    assert type(error) is kind
    assert text in str(error)
    assert (error.key, error.charge, sending.state.signal) == ("k", FREE, None)
    assert (sending.attempts, store.results, spent(client)) == ((), [], (0, 0, 0))
    assert await is_free(client)


async def test_what_others_lost_is_told_with_their_attempt() -> None:
    sending = sending_of(client_of(Fallen(), ledger=Notes(Held(HELD, b'"what came"', 3))), WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    error = sending.state.error
    assert isinstance(error, OutcomeUnknownError)
    assert (error.recorded, error.holds, error.message) == (HELD, 3, "what came")


async def test_an_answer_of_the_ledger_is_the_answer() -> None:
    store = Notes(Stored(b'{"whatsapp": "no"}', attempt_of()))
    client = client_of(Fallen(), ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (reply_of(sending).whatsapp, reply_of(sending).charge, charges(sending)) == ("no", FREE, [])


async def test_a_ledger_that_is_closed_is_told_as_it_is() -> None:
    store = Notes(ConfigurationError("the ledger is not open"))
    sending = sending_of(client_of(Fallen(), ledger=store), WhatsAppDetail(NUMBER))
    with pytest.raises(ConfigurationError, match="the ledger is not open"):
        await sending.step()
    assert (sending.attempts, store.results) == ((), [])


@pytest.mark.parametrize("where", ["find", "begin"])
@virtual
async def test_a_client_closed_before_it_goes_sends_nothing(where: str) -> None:
    """While images are prepared, it asks for no leave; while it asks for that, it is ended as not sent."""
    store, vendor = Notes(blocked=[where]), in_turn(says("OK", {"similarity": 1, "result": "NOT SURE"}))
    client = client_of(vendor, ledger=store, max_charges=1)
    photo = b"\xff\xd8\xff" + bytes(200_000)
    sending = sending_of(client, FaceCompare(photo, photo))
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)
    store.go.set()
    await asyncio.wait({working, closing})
    assert type(error_of(sending)) is NotSentError
    assert "the client was closed before it was sent" in str(error_of(sending))
    assert (vendor.requests, money_left(client)) == ([], 1)
    assert [(result.state, result.sent) for result in store.results] == [(State.NOT_SENT, False)] * (where == "begin")
    assert len(store.asks) == (where == "begin")


async def test_a_leave_that_is_over_sends_nothing() -> None:
    """Others took this process for dead, and may have sent the same."""
    store, vendor = Notes(), in_turn(ok_whatsapp())
    client = client_of(vendor, ledger=store, max_charges=1, retry=0)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.prepare()
    store.verdicts = [Started(1, sending.ask(), lease=Lease())]
    await sending.step()
    assert type(error_of(sending)) is NotSentError
    assert (vendor.requests, charges(sending), money_left(client)) == ([], [FREE], 1)
    assert [result.state for result in store.results] == [State.NOT_SENT]


@virtual
async def test_the_same_under_way_elsewhere_is_waited_for_without_a_deadline() -> None:
    store = Notes(busy := Busy())
    sending = sending_of(client_of(in_turn(ok_whatsapp()), ledger=store, deadline=None), WhatsAppDetail(NUMBER))
    assert await sending.step() == Again(busy)
    assert await sending.enter()
    await sending.step()
    assert (charges(sending), [ask.within for ask in store.asks]) == ([CHARGED], [None, None])


@virtual
async def test_the_same_under_way_elsewhere_is_waited_for_until_the_deadline() -> None:
    busy = Busy()
    client = client_of(in_turn(ok_whatsapp()), ledger=Notes(busy, Busy()), deadline=10.0, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert sending.state == Again(busy)
    assert sending.state.seconds == 0.0
    assert await sending.enter()  # after the look of half a minute
    client.shared.gate.leave()
    assert sending.course.left < 10.0
    sending.course.spend(10.0)
    await sending.step()
    assert isinstance(sending.state, Over)
    assert type(sending.state.error) is NotSentError
    assert "under way elsewhere" in str(sending.state.error)
    assert sending.attempts == ()
    assert await is_free(client)


@virtual
async def test_what_an_earlier_run_asked_for_is_awaited() -> None:
    inbox = Inbox(ADDRESS, patience=60)
    since = today() - timedelta(seconds=40)
    store = Notes(Expected(since))
    client = client_of(Fallen(), ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert sending.state == Awaiting(None)
    assert sending.callback is not None
    assert 19 < sending.callback.patience_left <= 20
    assert sending.attempts == ()
    other = sending_of(client, WhatsAppDetail("+6281387300001"))
    await other.step()  # what may be called back is to be paid too
    assert isinstance(other.state, Over)
    assert isinstance(other.state.error, BudgetExhaustedError)
    await call_back(inbox, NUMBER)
    assert isinstance(sending.state, Over)
    assert (charges(sending), spent(client)) == ([CHARGED], (1, 0, 0))


@pytest.mark.parametrize("prepared", [True, False])
async def test_cancelled_while_leave_is_asked_for_nothing_happened(prepared: bool) -> None:
    store = Notes(blocked=["begin"])
    client = client_of(in_turn(ok_whatsapp()), ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    if prepared:
        await sending.prepare()
    await cut_off(sending.step(), store.reached)
    assert isinstance(sending.state, Prepared if prepared else New)
    assert (sending.attempts, store.results, spent(client)) == ((), [], (0, 0, 0))
    store.go.set()
    await sending.step()  # and is sent as if nothing had been
    assert isinstance(sending.state, Over)
    assert (charges(sending), spent(client)) == ([CHARGED], (1, 0, 0))


@pytest.mark.parametrize("fails", [False, True])
@virtual
async def test_called_back_while_leave_is_asked_for_it_is_taken_back(fails: bool) -> None:
    store, inbox = Notes(blocked=["begin"]), Inbox(ADDRESS)
    client = client_of(Fallen(), ledger=store, max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    await call_back(inbox, NUMBER)
    store.go.set()
    store.fails_to = {"end"} if fails else set()
    await working
    assert isinstance(sending.state, Over)
    assert reply_of(sending).whatsapp == "yes"
    assert (charges(sending), spent(client)) == ([CHARGED], (1, 0, 0))
    assert [(result.state, result.attempt.charge) for result in store.results] == [(State.NOT_SENT, FREE)]
    assert [(result.sent, result.attempt.elapsed, result.attempt.number) for result in store.results] == [
        (False, 0.0, 2)
    ]
    store.fails_to = set()
    assert await is_free(client)  # one of the two
    assert not await is_free(client)


@pytest.mark.parametrize("verdict", [Expected(today()), Busy(), Held(HELD), Exhausted("all is spent")])
@virtual
async def test_called_back_while_leave_is_asked_for_the_answer_stands_whatever_the_ledger_says(
    verdict: Verdict,
) -> None:
    store, inbox = Notes(verdict, blocked=["begin"]), Inbox(ADDRESS)
    client = client_of(Fallen(), ledger=store, max_charges=1)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    await call_back(inbox, NUMBER)
    store.go.set()
    await working
    assert isinstance(sending.state, Over)
    assert reply_of(sending).whatsapp == "yes"
    assert (charges(sending), store.results) == ([CHARGED], [])
    sending.leave(share=True)
    assert not await is_free(client)


@virtual
async def test_called_back_and_cancelled_while_leave_is_asked_for_the_answer_stands() -> None:
    store, inbox = Notes(blocked=["begin"]), Inbox(ADDRESS)
    client = client_of(Fallen(), ledger=store)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    working = asyncio.create_task(sending.step())
    await store.reached.wait()
    await call_back(inbox, NUMBER)
    working.cancel()
    await asyncio.wait({working})
    assert isinstance(sending.state, Over)
    assert (reply_of(sending).whatsapp, charges(sending)) == ("yes", [CHARGED])


async def test_what_the_ledger_is_asked() -> None:
    store, inbox = Notes(Exhausted("enough")), Inbox(ADDRESS, patience=77)
    client = client_of(Fallen(), ledger=store, deadline=50.0, retry_unknown=2)
    await sending_of(client, WhatsAppDetail(NUMBER, key="k"), inbox=inbox).step()
    (ask,) = store.asks
    assert (ask.endpoint, ask.key, ask.may_charge, ask.reusable) == ("gliswadetail", "k", True, True)
    assert (ask.retry_unknown, ask.patience, ask.overdue) == (2, 77, False)
    assert ask.callback is not None
    assert 49 < (ask.within or 0) <= 50
    for call in (WhatsAppDetail(NUMBER), AddFace(picture(1)), AddFace(picture(1), key="k"), DeleteFace("p")):
        store.verdicts = [Exhausted("enough")]
        await sending_of(client, call).step()
    told = [(ask.callback, ask.may_charge, ask.reusable, ask.retry_unknown) for ask in store.asks[1:]]
    assert {(ask.patience, ask.overdue) for ask in store.asks[1:]} == {(0.0, False)}
    # What does something each time is answered by the ledger only under its key; a deletion may always be repeated.
    assert told == [(None, True, True, 2), (None, False, False, 2), (None, False, True, 2), (None, False, False, None)]
