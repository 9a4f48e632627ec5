"""New: what the call holds is still to be read. → Prepared, or Over if it cannot be sent or need not be."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import httpx
import pytest

from aisolution_async import (
    AddFace,
    Call,
    FaceCompare,
    FaceComparison,
    Inbox,
    InputError,
    LedgerError,
    NotSentError,
    OutcomeUnknownError,
    WhatsAppDetail,
)
from aisolution_async.charges import Tally
from aisolution_async.ledger import Stored
from aisolution_async.sending.call import Sending
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.states import Again, New, Over, Prepared

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
    reply_of,
    sending_of,
    spent,
)
from .support import NUMBER, client_of, in_turn, ok_whatsapp, picture, virtual

COMPARED = b'{"similarity": 97.5, "result": "SAME PERSON"}'


async def test_what_can_be_read_is_prepared_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    client = client_of(Fallen())
    for call in (WhatsAppDetail(NUMBER), FaceCompare(picture(1), picture(2)), AddFace(tmp_path / "a.jpg")):
        sending = sending_of(client, call)
        assert isinstance(sending.state, New)
        await sending.prepare()
        prepared = sending.state
        assert isinstance(prepared, Prepared)
        assert prepared.form.length > 0
        assert sending.identity
        await sending.prepare()
        assert sending.state is prepared
    assert spent(client) == (0, 0, 0)


async def test_what_cannot_be_read_is_over() -> None:
    client = client_of(Fallen())
    for call in (WhatsAppDetail("12"), AddFace("no such file.jpg"), FaceCompare(b"", b"x")):
        for how in ("prepare", "step"):
            sending: Sending[FaceComparison] = sending_of(client, call)
            await (sending.prepare() if how == "prepare" else sending.step())
            assert isinstance(sending.state, Over)
            assert isinstance(sending.state.error, InputError)
            assert (sending.state.reply, sending.state.signal, sending.attempts) == (None, None, ())
    assert spent(client) == (0, 0, 0)


async def test_what_cannot_be_read_any_more_still_says_what_was_sent(tmp_path: Path) -> None:
    (photo := tmp_path / "a.jpg").write_bytes(picture(1))
    client = client_of(in_turn(httpx.ReadError("lost")), retry_unknown=1)
    sending = sending_of(client, AddFace(photo))
    await sending.step()
    assert isinstance(sending.state, Again)
    photo.unlink()
    await sending.step()
    assert isinstance(sending.state, Over)
    assert isinstance(sending.state.error, InputError)
    assert (error_of(sending).charge, charges(sending)) == (UNKNOWN, [UNKNOWN])


@pytest.mark.parametrize("lost", [True, False])
async def test_images_that_are_not_read_before_the_deadline_are_not_sent(lost: bool, tmp_path: Path) -> None:
    (photo := tmp_path / "a.jpg").write_bytes(picture(1))
    vendor = in_turn(httpx.ReadError("lost"))
    sending = sending_of(client_of(vendor, retry_unknown=9, deadline=60), AddFace(photo))
    if lost:
        await sending.step()
        assert isinstance(sending.state, Again)
    sending.course.spend(60.0)
    await sending.step()
    if lost:  # what was sent is not forgotten
        assert isinstance(error_of(sending), OutcomeUnknownError)
        assert charges(sending) == [UNKNOWN]
    else:
        assert type(error_of(sending)) is NotSentError
        assert "the deadline passed before its images were read" in str(error_of(sending))
        assert sending.attempts == ()
    assert len(vendor.requests) == lost


async def test_what_is_known_already_is_not_encoded() -> None:
    sending = sending_of(client_of(Fallen()), AddFace(picture(1)))
    large = sending_of(client_of(Fallen()), AddFace(b"\xff\xd8\xff" + bytes(200_000)))
    for one in (sending, large):
        await one.prepare(is_known=lambda identity: True)
        assert one.identity is not None
    assert isinstance(sending.state, Prepared)  # it is small: looking would cost more
    assert isinstance(large.state, New)
    await large.prepare(is_known=lambda identity: False)
    assert isinstance(large.state, Prepared)


async def test_what_the_ledger_has_is_not_encoded() -> None:
    store = Notes(stored=Stored(COMPARED, attempt_of()))
    client = client_of(Fallen(), ledger=store)
    photo = b"\xff\xd8\xff" + bytes(200_000)
    for how in ("prepare", "step"):
        sending = sending_of(client, FaceCompare(photo, photo))
        await (sending.prepare() if how == "prepare" else sending.step())
        assert isinstance(sending.state, Over)
        assert sending.state.reply is not None
        assert (reply_of(sending).recorded, reply_of(sending).charge) == (store.stored.attempt, FREE)  # type: ignore[union-attr]
    assert (store.asks, store.results) == ([], [])


async def test_a_ledger_that_cannot_be_opened_or_damaged_answers_end_nothing_silently() -> None:
    store = Notes()
    store.fails_to = {"open"}
    client = client_of(Fallen())
    options = dataclasses.replace(client.options, journal=Journal(store, owned=True, reuse_for=None))
    for how in ("prepare", "step"):
        sending = Sending(client.shared, options, WhatsAppDetail(NUMBER))
        await (sending.prepare() if how == "prepare" else sending.step())
        assert isinstance(sending.state, Over)
        assert isinstance(sending.state.error, LedgerError)
        assert "not sent: no open" in str(sending.state.error)


async def test_cancelled_while_it_is_read_it_is_as_new() -> None:
    store = Notes(blocked=["find"])
    client = client_of(
        in_turn(httpx.Response(200, content=b'{"status": "OK", "message": %s}' % COMPARED)), ledger=store
    )
    photo = b"\xff\xd8\xff" + bytes(200_000)
    sending = sending_of(client, FaceCompare(photo, photo))
    for work in (sending.prepare, sending.step):
        store.reached.clear()
        await cut_off(work(), store.reached)
        assert isinstance(sending.state, New)
        assert (sending.attempts, store.asks, store.results) == ((), [], [])
    store.go.set()
    await sending.step()
    assert isinstance(sending.state, Over)
    assert (charges(sending), len(store.results)) == ([CHARGED], 1)


async def test_only_a_number_that_names_no_callback_of_its_own_waits_for_one() -> None:
    client, inbox = client_of(in_turn(ok_whatsapp("checking"))), Inbox(ADDRESS)
    own = WhatsAppDetail(NUMBER, callback="https://own.example/x")
    for call, waits in ((WhatsAppDetail(NUMBER), True), (own, False), (AddFace(picture(1)), False)):
        assert (sending_of(client, call, inbox=inbox).callback is not None) == waits
    sending = sending_of(client, own, inbox=inbox)
    await sending.step()
    assert (reply_of(sending).whatsapp, inbox.outstanding) == ("checking", 0)
    sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
    await sending.step()
    assert inbox.outstanding == 1
    sending.leave(share=False)
    assert inbox.outstanding == 0


@virtual
async def test_called_back_while_it_is_prepared_it_stays_over() -> None:
    for how in ("prepare", "step"):
        store = Notes(blocked=["open"])
        inbox = Inbox(ADDRESS)
        client = client_of(Fallen())
        options = dataclasses.replace(client.options, journal=Journal(store, owned=True, reuse_for=None))
        sending = Sending(client.shared, options, WhatsAppDetail(NUMBER), Tally(), inbox)
        assert sending.question() is not None  # its number is known
        assert sending.callback is not None
        assert not sending.callback.stands_back()
        working = asyncio.create_task(sending.prepare() if how == "prepare" else sending.step())
        await store.reached.wait()
        await call_back(inbox, NUMBER)
        store.go.set()
        await working
        assert isinstance(sending.state, Over)
        assert sending.state.reply is not None
        assert (reply_of(sending).whatsapp, reply_of(sending).attempts) == ("yes", sending.attempts)
        assert (charges(sending), spent(client)) == ([CHARGED], (1, 0, 0))
        assert (store.asks, store.results, len(store.delivered)) == ([], [], 1)


async def test_a_question_is_known_before_it_is_prepared_where_nothing_has_to_be_read() -> None:
    client = client_of(in_turn(ok_whatsapp()), ledger=Notes())
    calls: list[tuple[Call[FaceComparison] | WhatsAppDetail | AddFace, bool]] = [
        (WhatsAppDetail(NUMBER), True),
        (WhatsAppDetail("12"), False),
        (AddFace(picture(1)), False),
    ]
    for call, known in calls:
        sending = sending_of(client, call)
        assert (sending.question() is not None) == known
        assert isinstance(sending.state, New)
