"""Prepared: read and encoded. → Admitted; Following where another call asks; Over where the money is spent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import (
    BudgetExhaustedError,
    FaceCompare,
    Inbox,
    NotSentError,
    WhatsAppDetail,
)
from aisolution_async.echo import Seen
from aisolution_async.ledger import Stored
from aisolution_async.sending.states import Following, New, Over, Prepared

from .steps import (
    ADDRESS,
    CHARGED,
    FREE,
    Fallen,
    HeldVendor,
    Notes,
    attempt_of,
    call_back,
    charges,
    cut_off,
    reply_of,
    sending_of,
    spent,
)
from .support import NUMBER, client_of, in_turn, ok_whatsapp, picture, says, virtual

YES = b'{"whatsapp": "yes"}'


async def test_what_was_prepared_is_sent_as_it_was(tmp_path: Path) -> None:
    (photo := tmp_path / "a.jpg").write_bytes(picture(1))
    vendor = in_turn(says("OK", {"similarity": 1, "result": "NOT SURE"}))
    sending = sending_of(client_of(vendor), FaceCompare(photo, picture(2)))
    await sending.prepare()
    assert isinstance(sending.state, Prepared)
    length = sending.state.form.length
    photo.unlink()  # it is not read again
    await sending.step()
    assert isinstance(sending.state, Over)
    assert int(vendor.requests[0].headers["Content-Length"]) == length == len(vendor.requests[0].content)


async def test_what_is_let_go_of_is_prepared_again() -> None:
    vendor = in_turn(ok_whatsapp())
    sending = sending_of(client_of(vendor), WhatsAppDetail(NUMBER))
    await sending.prepare()
    sending.release()
    assert isinstance(sending.state, New)
    await sending.step()
    assert charges(sending) == [CHARGED]


async def test_where_the_money_is_spent_it_is_over() -> None:
    vendor = in_turn(ok_whatsapp())
    client = client_of(vendor, max_charges=1)
    first, second = sending_of(client, WhatsAppDetail(NUMBER)), sending_of(client, WhatsAppDetail(NUMBER))
    await first.step()
    await second.step()
    assert isinstance(second.state, Over)
    assert isinstance(second.state.error, BudgetExhaustedError)
    assert (second.state.signal, second.attempts, len(vendor.requests), spent(client)) == (None, (), 1, (1, 0, 0))


async def test_what_never_charges_needs_no_money() -> None:
    client = client_of(in_turn(ok_whatsapp()), charge_rules={"gliswadetail": {"OK": "free"}}, max_charges=1)
    for _ in range(3):
        sending = sending_of(client, WhatsAppDetail(NUMBER))
        await sending.step()
        assert charges(sending) == [FREE]


@pytest.mark.parametrize("stopped", [True, False])
async def test_what_is_in_the_ledger_needs_no_money_and_no_vendor_to_be_trusted(stopped: bool) -> None:
    store = Notes(stored=Stored(YES, attempt_of()))
    vendor = in_turn(ok_whatsapp())
    client = client_of(vendor, ledger=store, max_charges=1)
    await sending_of(client, WhatsAppDetail("+6281387300001")).step()  # the only charge
    if stopped:
        client.shared.echo.state = Seen.CONVENTION
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.step()
    assert isinstance(sending.state, Over)
    assert sending.state.reply is not None
    assert reply_of(sending).recorded == attempt_of_store(store)
    assert (len(vendor.requests), len(store.asks), sending.attempts) == (1, 1, ())


def attempt_of_store(store: Notes) -> object:
    assert store.stored is not None
    return store.stored.attempt


@pytest.mark.parametrize("options", [{}, {"max_charges": 1}])
async def test_a_vendor_whose_answers_cannot_be_told_apart_is_asked_nothing(options: dict[str, Any]) -> None:
    client = client_of(Fallen(), **options)
    client.shared.echo.state = Seen.CONVENTION
    for _ in range(2):  # nothing is set aside
        sending = sending_of(client, WhatsAppDetail(NUMBER))
        await sending.step()
        assert isinstance(sending.state, Over)
        assert type(sending.state.error) is NotSentError
        assert sending.attempts == ()


async def test_cancelled_where_the_ledger_is_looked_into_it_stays_prepared() -> None:
    store = Notes(blocked=["find"])
    client = client_of(in_turn(ok_whatsapp()), ledger=store, max_charges=1)
    await sending_of(client, WhatsAppDetail("+6281387300001")).step()
    sending = sending_of(client, WhatsAppDetail(NUMBER))
    await sending.prepare()
    prepared = sending.state
    await cut_off(sending.step(), store.reached)
    assert sending.state is prepared
    assert (sending.attempts, spent(client), len(store.results)) == ((), (1, 0, 0), 1)
    store.go.set()
    await sending.step()
    assert isinstance(sending.state, Over)
    assert isinstance(sending.state.error, BudgetExhaustedError)


@virtual
async def test_called_back_before_it_goes_it_does_not_go() -> None:
    inbox = Inbox(ADDRESS)
    client = client_of(Fallen(), max_charges=2)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.prepare()
    assert sending.callback is not None
    assert not sending.callback.stands_back()
    await call_back(inbox, NUMBER)
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (charges(sending), spent(client)) == ([CHARGED], (1, 0, 0))


@virtual
async def test_where_another_call_asks_for_the_number_it_follows() -> None:
    inbox = Inbox(ADDRESS)
    vendor = HeldVendor(ok_whatsapp())
    client = client_of(vendor, max_charges=1)
    first = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    asking = asyncio.create_task(first.step())
    await vendor.reached.wait()
    second = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await second.step()  # and needs no money
    assert isinstance(second.state, Following)
    assert second.attempts == ()
    vendor.go.set()
    await asking
    first.leave(share=True)
    assert isinstance(second.state, Over)
    assert second.state.reply == ok_reply(first.state)
    assert (charges(second), spent(client), len(vendor.requests)) == ([], (1, 0, 0), 1)


def ok_reply(state: object) -> object:
    assert isinstance(state, Over)
    return state.reply
