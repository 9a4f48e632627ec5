"""Answers by callback: who is believed, what is recorded, what is asked again, what it costs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import (
    AsyncClient,
    BudgetExhaustedError,
    Charge,
    ConfigurationError,
    Inbox,
    InputError,
    Ledger,
    LedgerError,
    Outcome,
    OutcomeUnknownError,
    Retry,
    StatusError,
    WhatsAppDetail,
    clock,
)
from aisolution_async.inbox import read
from aisolution_async.ledger import State

from .support import Vendor, client_of, ok_whatsapp, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
NUMBER = "+6281387300008"
ADDRESS = "https://app.example.com/whatsapp"

Answer = Callable[[httpx.Request, dict[str, str]], Any]


def form_of(request: httpx.Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.content.decode()).items()}


class CallingVendor:
    """Answers "checking" and, where the form names a callback, calls back by `then`."""

    def __init__(self, inbox: Inbox, *answers: httpx.Response | Exception, delay: float | None = 5.0) -> None:
        self.inbox = inbox
        self.answers = list(answers)
        self.delay = delay
        self.forms: list[dict[str, str]] = []
        self.calls: list[asyncio.Task[None]] = []
        self.transport = Vendor(self.answer)

    async def answer(self, request: httpx.Request, number: int) -> httpx.Response:
        form = form_of(request)
        self.forms.append(form)
        if "callback" in form and self.delay is not None:
            self.calls.append(asyncio.create_task(self.call_back(form, self.delay)))
        found = self.answers.pop(0) if self.answers else ok_whatsapp("checking")
        if isinstance(found, Exception):
            raise found
        return found

    async def call_back(self, form: dict[str, str], delay: float = 0.0, **said: str) -> None:
        await asyncio.sleep(delay)
        address, _, secret = form["callback"].rpartition("/")
        assert address == ADDRESS
        await self.inbox.receive(secret, urlencode({"number": form["number"], "whatsapp": "yes", **said}))


async def taken(client: AsyncClient, calls: list[WhatsAppDetail], inbox: Inbox, **options: Any) -> list[Outcome]:
    async with client.batch(calls, inbox=inbox, ordered=True, **options) as batch:
        return [outcome async for outcome in batch]


def counts(inbox: Inbox) -> tuple[int, int, int, int]:
    found = inbox.counts
    return found.accepted, found.repeated, found.unfinished, found.strange


@virtual
async def test_a_call_is_answered_by_callback_and_charged_once() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox)
    async with client_of(vendor.transport) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox, key="A")
        assert (profile.whatsapp, profile.charge) == ("yes", CHARGED)
        assert [(a.charge, a.status, a.http_status, a.number) for a in profile.attempts] == [
            (FREE, "OK", 200, 1),
            (CHARGED, "OK", None, 2),
        ]
        assert (client.tally.charged, client.tally.free) == (1, 1)
        await vendor.call_back(vendor.forms[0])
        assert client.tally.charged == 1
    assert vendor.forms == [{"callback": inbox.url, "number": NUMBER}]
    assert counts(inbox) == (1, 1, 0, 0)
    assert inbox.outstanding == 0


@virtual
async def test_only_what_was_asked_for_is_believed() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, delay=None)
    async with client_of(vendor.transport) as client, asyncio.TaskGroup() as group:
        waiting = group.create_task(client.whatsapp_detail(NUMBER, wait=inbox))
        await asyncio.sleep(1)
        secret = inbox.url.rpartition("/")[2]
        for wrong in ("", "x" * 32, secret[:-1], secret + "é"):
            await inbox.receive(wrong, f"number={NUMBER[1:]}&whatsapp=no")
        for query in (
            "number=%2B6281387300009&whatsapp=no",
            "whatsapp=no",
            "number=&whatsapp=no",
            f"number={NUMBER[1:]}",
            b"\xff\xfe%ff=%00",
            "number=" + "6" * 9000,
            "&".join(f"a{n}=1" for n in range(100)) + f"&number={NUMBER[1:]}&whatsapp=no",
        ):
            await inbox.receive(secret, query)
        for state in ("checking", "unavailable"):
            await inbox.receive(secret, f"number={NUMBER[1:]}&whatsapp={state}")
        assert not waiting.done()
        assert counts(inbox) == (0, 0, 3, 10)
        await inbox.receive(secret, f"number={NUMBER}&whatsapp=no&signature=a+b")  # the plus arrives as a space
        assert (await waiting).whatsapp == "no"
    assert inbox.counts.accepted == 1


@pytest.mark.parametrize(
    ("asked", "country", "called"),
    [
        ("6281387300008", None, "%2B6281387300008"),
        ("006281387300008", None, "6281387300008"),
        ("+62 813-8730-0008", None, "+6281387300008"),
        ("081387300008", None, "%2B6281387300008"),
    ],
)
@virtual
async def test_however_a_number_is_written(asked: str, country: str | None, called: str) -> None:
    inbox = Inbox(ADDRESS)
    async with client_of(CallingVendor(inbox, delay=None).transport) as client, asyncio.TaskGroup() as group:
        waiting = group.create_task(client.whatsapp_detail(asked, country=country, wait=inbox))
        await asyncio.sleep(1)
        await inbox.receive(inbox.url.rpartition("/")[2], f"number={called}&whatsapp=yes&status_update=20180825")
        assert (await waiting).status_update == "20180825"


@virtual
async def test_an_empty_callback_is_none() -> None:
    """As a sheet's empty cell is: the inbox's is named."""
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox)
    async with client_of(vendor.transport) as client:
        async with client.batch([WhatsAppDetail(NUMBER, callback="")], inbox=inbox) as batch:
            outcomes = [outcome async for outcome in batch]
        assert [outcome.charge for outcome in outcomes] == [CHARGED]
    assert vendor.forms == [{"callback": inbox.url, "number": NUMBER}]


@virtual
async def test_a_late_callback_is_asked_for_again_without_one_and_is_then_a_repeat() -> None:
    inbox = Inbox(ADDRESS, patience=60)
    vendor = CallingVendor(inbox, ok_whatsapp("checking"), ok_whatsapp("no"), delay=100)
    async with client_of(vendor.transport) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox)
        assert profile.whatsapp == "no"
        assert [form.get("callback") for form in vendor.forms] == [inbox.url, None]
        await vendor.calls[0]
        assert (client.tally.charged, client.tally.free) == (1, 1)
    assert counts(inbox) == (0, 1, 0, 0)


@virtual
async def test_a_late_callback_still_answers_while_it_is_asked_for_again() -> None:
    inbox = Inbox(ADDRESS, patience=60)
    vendor = CallingVendor(inbox, delay=70)
    async with client_of(vendor.transport) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox)
    assert (profile.whatsapp, profile.charge) == ("yes", CHARGED)
    assert [form.get("callback") for form in vendor.forms] == [inbox.url, None]


@virtual
async def test_a_number_never_called_back_stays_checking_after_an_hour() -> None:
    inbox = Inbox(ADDRESS, patience=60)
    vendor = CallingVendor(inbox, delay=None)
    async with client_of(vendor.transport) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox)
    assert (profile.whatsapp, profile.charge) == ("checking", FREE)
    assert 5 < len(vendor.forms) < 20
    assert sum("callback" in form for form in vendor.forms) == 1
    assert inbox.outstanding == 0


@virtual
async def test_an_answer_to_the_request_itself_is_the_answer() -> None:
    inbox = Inbox(ADDRESS)
    for first in (ok_whatsapp("yes"), ok_whatsapp("unavailable")):
        vendor = CallingVendor(inbox, first, delay=None)
        async with client_of(vendor.transport) as client:
            profile = await client.whatsapp_detail(NUMBER, wait=inbox)
            assert len(profile.attempts) == 1
    vendor = CallingVendor(inbox, says("INVALID_INPUT", "x"), delay=None)
    async with client_of(vendor.transport) as client:
        with pytest.raises(StatusError):
            await client.whatsapp_detail(NUMBER, wait=inbox)
    assert inbox.outstanding == 0


@virtual
async def test_a_callback_that_comes_before_the_answer_to_the_request() -> None:
    inbox = Inbox(ADDRESS)

    async def answer(request: httpx.Request, number: int) -> httpx.Response:
        await inbox.receive(inbox.url.rpartition("/")[2], f"number={NUMBER[1:]}&whatsapp=yes")
        return ok_whatsapp("checking")

    async with client_of(Vendor(answer), max_charges=1) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox)
        assert (profile.whatsapp, [a.charge for a in profile.attempts]) == ("yes", [CHARGED, FREE])
        with pytest.raises(BudgetExhaustedError):
            await client.whatsapp_detail("+6281387300009", wait=inbox)


@virtual
async def test_what_comes_both_ways_is_charged_once(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)

        async def answer(request: httpx.Request, number: int) -> httpx.Response:
            await inbox.receive(inbox.url.rpartition("/")[2], f"number={NUMBER[1:]}&whatsapp=yes")
            return ok_whatsapp("yes")

        for options in ({}, {"ledger": ledger}):
            async with client_of(Vendor(answer), **options) as client:
                profile = await client.whatsapp_detail(NUMBER, wait=inbox)
                assert [a.charge for a in profile.attempts] == [CHARGED, FREE]
    assert [state for state, *_ in in_ledger(ledger.path)] == [State.FREE, State.CHARGED]


@virtual
async def test_a_lost_request_can_be_answered_by_callback() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, httpx.ReadTimeout("lost"))
    async with client_of(vendor.transport, retry_unknown=1) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox)
    assert (profile.whatsapp, [a.charge for a in profile.attempts]) == ("yes", [UNKNOWN, CHARGED])
    assert len(vendor.forms) == 1


@virtual
async def test_a_lost_request_that_is_not_called_back_is_unknown() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, httpx.ReadTimeout("lost"), delay=None)
    async with client_of(vendor.transport) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.whatsapp_detail(NUMBER, wait=inbox)
    assert len(vendor.forms) == 1
    vendor = CallingVendor(inbox, httpx.ReadTimeout("lost"), ok_whatsapp("no"), delay=None)
    async with client_of(vendor.transport, retry_unknown=1) as client:
        assert (await client.whatsapp_detail(NUMBER, wait=inbox)).whatsapp == "no"
    assert [form.get("callback") for form in vendor.forms] == [inbox.url, None]


@virtual
async def test_the_same_number_is_asked_for_once_at_a_time() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox)
    async with client_of(vendor.transport) as client, asyncio.TaskGroup() as group:
        singles = [group.create_task(client.whatsapp_detail(NUMBER, wait=inbox)) for _ in range(3)]
        outcomes = await taken(client, [WhatsAppDetail(NUMBER[1:])] * 2, inbox, dedupe=False)
        replies = [await single for single in singles] + [outcome.reply for outcome in outcomes]
        assert {reply.whatsapp for reply in replies} == {"yes"}  # type: ignore[union-attr]
        assert sorted(reply.charge for reply in replies) == [CHARGED, *[FREE] * 4]  # type: ignore[union-attr]
    assert len(vendor.forms) == 1


@virtual
async def test_who_waits_for_another_call_asks_when_that_one_is_cancelled() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, delay=50)
    async with client_of(vendor.transport) as client:
        first = asyncio.create_task(client.whatsapp_detail(NUMBER, wait=inbox))
        await asyncio.sleep(1)
        second = asyncio.create_task(client.whatsapp_detail(NUMBER, wait=inbox))
        await asyncio.sleep(1)
        first.cancel()
        assert (await second).whatsapp == "yes"
        await asyncio.wait({first, *vendor.calls})
    assert len(vendor.forms) == 2
    assert counts(inbox) == (1, 1, 0, 0)


@virtual
async def test_many_wait_without_places() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, delay=30)
    calls = [WhatsAppDetail(f"+62813{n:08}") for n in range(60)]
    async with client_of(vendor.transport) as client:
        outcomes = await taken(client, calls, inbox, concurrency=2)
        assert all(outcome.ok and outcome.charge is CHARGED for outcome in outcomes)
        assert (client.tally.charged, client.tally.free, client.tally.unknown) == (60, 60, 0)
    assert len(vendor.forms) == 60


@virtual
async def test_a_batch_that_is_stopped_gives_up_what_is_to_come() -> None:
    inbox = Inbox(ADDRESS)
    async with client_of(CallingVendor(inbox, delay=None).transport) as client:
        async with client.batch([WhatsAppDetail(NUMBER)], inbox=inbox) as batch:
            await asyncio.sleep(1)
            assert batch.progress.waiting == 1
        (outcome,) = batch.unread
        assert outcome.reply is not None
        assert outcome.reply.whatsapp == "checking"
    assert inbox.outstanding == 0


@virtual
async def test_a_budget_keeps_a_charge_for_what_is_to_come() -> None:
    inbox = Inbox(ADDRESS, patience=60)
    vendor = CallingVendor(inbox)
    calls = [WhatsAppDetail(f"+62813{n:08}") for n in range(5)]
    async with client_of(vendor.transport, max_charges=2) as client:
        outcomes = await taken(client, calls, inbox)
        assert [outcome.charge for outcome in outcomes] == [CHARGED, CHARGED, FREE, FREE, FREE]
        assert all(isinstance(outcome.error, BudgetExhaustedError) for outcome in outcomes[2:])
    vendor = CallingVendor(inbox, *[ok_whatsapp("checking")] * 3, says("INVALID_INPUT", "x"), delay=None)
    vendor.answers += [ok_whatsapp("no")]
    async with client_of(vendor.transport, max_charges=1) as client:
        with pytest.raises(StatusError):
            await client.whatsapp_detail(NUMBER, wait=inbox)
        assert (await client.whatsapp_detail(NUMBER)).charge is CHARGED
        with pytest.raises(BudgetExhaustedError):
            await client.whatsapp_detail(NUMBER)


# ------------------------------------------------------------------------------------------------- with a ledger


def in_ledger(path: Path) -> list[tuple[State, str | None, int | None]]:
    return [(record.state, record.status, record.http_status) for record in Ledger(path).attempts()]


@virtual
async def test_the_answer_is_in_the_ledger_before_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    async with Ledger(path, max_charges=1) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, delay=0.01)
        async with client_of(vendor.transport, ledger=ledger) as client:
            profile = await client.whatsapp_detail(NUMBER, wait=inbox)
            assert [a.recorded for a in profile.attempts] == [True, True]
            assert profile.charge is CHARGED
            again = await client.whatsapp_detail(NUMBER)
            assert (again.answered_at is not None, again.whatsapp, again.charge) == (True, "yes", FREE)
            with pytest.raises(BudgetExhaustedError):
                await client.whatsapp_detail("+6281387300009", wait=inbox)
    assert in_ledger(path) == [(State.FREE, "OK", 200), (State.CHARGED, "OK", None)]
    assert NUMBER[1:].encode() not in inbox.url.encode()


@virtual
async def test_what_is_outstanding_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    async with Ledger(path, max_charges=2) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        url = inbox.url
        vendor = CallingVendor(inbox, delay=None)
        async with client_of(vendor.transport, ledger=ledger) as client:
            for number in (NUMBER, "+6281387300009"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.whatsapp_detail(number, wait=inbox)
            with pytest.raises(BudgetExhaustedError):  # both may still be charged
                await client.whatsapp_detail("+6281387300010", wait=inbox)
    assert sorted(state for state, *_ in in_ledger(path)) == [State.FREE] * 2 + [State.INTENDED] * 2
    async with Ledger(path, max_charges=2) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        assert inbox.url == url
        vendor.inbox = inbox
        # One is answered while nobody waits for it.
        for _ in range(2):
            await vendor.call_back(vendor.forms[0])
        assert counts(inbox) == (1, 1, 0, 0)
        async with client_of(vendor.transport, ledger=ledger) as client:
            assert (await client.whatsapp_detail(NUMBER, wait=inbox)).answered_at is not None
            waiting = asyncio.create_task(client.whatsapp_detail("+6281387300009", wait=inbox))
            await asyncio.sleep(0.05)
            await vendor.call_back(vendor.forms[1])
            assert (await waiting).charge is CHARGED
            assert client.tally.charged == 1
    assert len(vendor.forms) == 2  # nothing was asked twice
    assert states_of(in_ledger(path)) == {State.FREE: 2, State.CHARGED: 2}


def states_of(records: list[tuple[State, str | None, int | None]]) -> dict[State, int]:
    return Counter(state for state, *_ in records)


@virtual
async def test_a_late_one_is_asked_for_again_after_a_restart_and_the_callback_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    async with Ledger(path, max_charges=1) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger, patience=1e-6)
        vendor = CallingVendor(inbox, delay=None)
        async with client_of(vendor.transport, ledger=ledger) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.7):
                    await client.whatsapp_detail(NUMBER, wait=inbox)
            assert len(vendor.forms) == 2
            vendor.answers = [says("FAIL", "x"), ok_whatsapp("checking")]
            with pytest.raises(StatusError):  # overdue at once
                await client.whatsapp_detail(NUMBER, wait=inbox)
            assert (await client.whatsapp_detail(NUMBER)).whatsapp == "checking"
        assert [form.get("callback") for form in vendor.forms] == [inbox.url, None, None, None]
        await vendor.call_back(vendor.forms[0])
        assert counts(inbox) == (1, 0, 0, 0)
    assert in_ledger(path)[-1] == (State.CHARGED, "OK", None)


@pytest.mark.parametrize(("after", "charge"), [(30.0, UNKNOWN), (90.0, CHARGED)])
@virtual
async def test_a_callback_soon_after_another_answer_may_be_that_of_the_request_before(
    tmp_path: Path, after: float, charge: Charge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the answer in the ledger was too old at once: the request before named a callback, too."""
    path, began, time = tmp_path / "a.ledger", clock.today(), asyncio.get_running_loop().time
    monkeypatch.setattr(clock, "today", lambda: began + timedelta(seconds=time()))
    async with Ledger(path) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger, patience=60)
        vendor = CallingVendor(inbox, ok_whatsapp("yes"), delay=None)
        async with client_of(vendor.transport, ledger=ledger, reuse_for=0.0) as client:
            assert (await client.whatsapp_detail(NUMBER, wait=inbox)).charge is CHARGED
            await asyncio.sleep(after - 1.0)
            waiting = asyncio.create_task(client.whatsapp_detail(NUMBER, wait=inbox))
            await asyncio.sleep(1.0)
            await vendor.call_back(vendor.forms[-1])
            assert (await waiting).charge is charge
            assert len(vendor.forms) == 2
    assert states_of(in_ledger(path)) == Counter([State.CHARGED, State.FREE, State(charge)])


@virtual
async def test_a_lost_request_waits_in_the_ledger_for_its_callback(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    async with Ledger(path, max_charges=1) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger, patience=0.05)
        vendor = CallingVendor(inbox, httpx.ReadTimeout("lost"), delay=None)
        async with client_of(vendor.transport, ledger=ledger) as client:
            for _ in range(2):
                with pytest.raises(OutcomeUnknownError):
                    await client.whatsapp_detail(NUMBER, wait=inbox)
            assert len(vendor.forms) == 1
            with pytest.raises(OutcomeUnknownError):
                await client.whatsapp_detail(NUMBER)
    assert in_ledger(path) == [(State.UNKNOWN, None, None)]
    path = tmp_path / "b.ledger"
    async with Ledger(path, max_charges=1) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, httpx.ReadTimeout("lost"), delay=0.02)
        async with client_of(vendor.transport, ledger=ledger) as client:
            profile = await client.whatsapp_detail(NUMBER, wait=inbox)
            assert (profile.whatsapp, profile.charge) == ("yes", CHARGED)
    assert in_ledger(path) == [(State.CHARGED, "OK", None)]  # one charge for one question


@virtual
async def test_a_callback_that_cannot_be_recorded_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, delay=None)
        async with client_of(vendor.transport, ledger=ledger) as client:
            waiting = asyncio.create_task(client.whatsapp_detail(NUMBER, wait=inbox))
            await asyncio.sleep(0.05)

            async def full(*given: object) -> bool:
                raise LedgerError("the disk is full")

            with monkeypatch.context() as patch:
                patch.setattr(ledger, "deliver", full)
                with pytest.raises(LedgerError):
                    await vendor.call_back(vendor.forms[0])
            assert not waiting.done()
            assert inbox.counts.accepted == 0
            await vendor.call_back(vendor.forms[0])
            assert (await waiting).charge is CHARGED


# ---------------------------------------------------------------------------------------------------- odds and ends


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("app.example.com/whatsapp", {}),
        ("ftp://app.example.com", {}),
        ("https://app.example.com/?a=1", {}),
        (ADDRESS, {"secret": "short"}),
        (ADDRESS, {"secret": "with/slash" * 4}),
        (ADDRESS, {"patience": 0}),
        (ADDRESS, {"patience": True}),
    ],
)
def test_an_inbox_that_cannot_be(address: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Inbox(address, **options)


def test_the_address() -> None:
    first, second = Inbox(ADDRESS + "/"), Inbox("http://127.0.0.1:8000", secret="s" * 20)
    assert first.url.startswith(ADDRESS + "/")
    assert len(first.url) > len(ADDRESS) + 30
    assert first.url != Inbox(ADDRESS).url
    assert (first.path, second.path, second.url) == ("/whatsapp", "/", f"http://127.0.0.1:8000/{'s' * 20}")


@virtual
async def test_an_inbox_is_given_to_a_batch() -> None:
    async with client_of(CallingVendor(Inbox(ADDRESS)).transport) as client:
        with pytest.raises(ConfigurationError, match="inbox is a str"):
            client.batch([], inbox="https://x")  # type: ignore[arg-type]


@virtual
async def test_a_callback_of_the_callers_own_is_left_alone() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, delay=None)
    async with client_of(vendor.transport) as client:
        (outcome,) = await taken(client, [WhatsAppDetail(NUMBER, callback="https://mine.example.com/")], inbox)
    assert vendor.forms == [{"callback": "https://mine.example.com/", "number": NUMBER}]
    assert outcome.reply is not None


PAIR = "number=%2B62813116594289&whatsapp=yes"


@pytest.mark.parametrize(
    ("query", "whatsapp"),
    [
        (f"{PAIR}&signature=x&whatsapp=no&avatar=yes", None),
        (f"{PAIR}&signature=x&number=%2B62811111111&avatar=yes", None),
        (f"{PAIR}&wh%61tsapp=no", None),
        (f"{PAIR}&WhatsApp=no", None),
        (f"{PAIR}&+whatsapp=no", None),
        (f"{PAIR}&whatsapp=", None),
        (f"{PAIR}&number=", None),
        (f"Number=%2B62811111111&{PAIR}", None),
        (f"{PAIR}&signature=a&signature=b", None),
        (f"{PAIR}&avatar=yes&avatar=no", None),
        (f"{PAIR}&{PAIR}", "yes"),
        (f"{PAIR}&number=+62813116594289&whatsapp=YES", "yes"),
        (f"{PAIR}&number=62813116594289", "yes"),
        (f"{PAIR}&signature=Tom+&+Jerry", "yes"),
        (f"{PAIR}&signature=whatsapp%3Dno%26number%3D1", "yes"),
    ],
)
def test_a_callback_that_contradicts_itself_is_not_believed(query: str, whatsapp: str | None) -> None:
    for form in (query, query.encode()):
        found = read(form)
        assert whatsapp == (None if found is None else found.whatsapp)


@given(st.dictionaries(st.text(), st.text()), st.binary(max_size=200))
def test_nothing_that_comes_breaks_it(said: dict[str, str], raw: bytes) -> None:
    for query in (urlencode(said, errors="replace"), raw, json.dumps(said), f"number=62813{len(raw):08}&{said}"):
        found = read(query)
        assert found is None or found.number


# ------------------------------------------------------------------------------------- what could go wrong, and did


@virtual
async def test_two_processes_ask_once_for_a_number_that_is_outstanding(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    async with Ledger(path) as one, Ledger(path) as two:
        inbox = Inbox(ADDRESS, ledger=one)
        elsewhere = Inbox(ADDRESS, ledger=two)
        vendor = CallingVendor(inbox, delay=None)
        async with client_of(vendor.transport, ledger=one) as first, client_of(vendor.transport, ledger=two) as second:
            tasks = [
                asyncio.create_task(first.whatsapp_detail(NUMBER, wait=inbox)),
                asyncio.create_task(second.whatsapp_detail(NUMBER, wait=elsewhere)),
            ]
            await asyncio.sleep(0.5)  # the second looks again after 0.2 s
            assert len(vendor.forms) == 1
            await vendor.call_back(vendor.forms[0])
            await elsewhere.receive(elsewhere.url.rpartition("/")[2], f"number={NUMBER[1:]}&whatsapp=yes")
            charges = [(await task).charge for task in tasks]
        assert sorted(charges) == [CHARGED, FREE]
        assert (inbox.counts.accepted, elsewhere.counts.repeated) == (1, 1)


@virtual
async def test_a_request_that_is_answered_by_garbage_waits_for_its_callback_too() -> None:
    inbox = Inbox(ADDRESS, patience=30)
    vendor = CallingVendor(inbox, httpx.Response(500, content=b"garbage"), delay=20)
    async with client_of(vendor.transport, retry_unknown=1) as client:
        profile = await client.whatsapp_detail(NUMBER, wait=inbox)
    assert [a.charge for a in profile.attempts] == [UNKNOWN, CHARGED]
    assert len(vendor.forms) == 1


@pytest.mark.parametrize("with_ledger", [False, True])
@virtual
async def test_a_second_request_that_is_lost_stays_unknown_when_the_callback_comes(
    tmp_path: Path, with_ledger: bool
) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, patience=0.01)
        vendor = CallingVendor(inbox, ok_whatsapp("checking"), httpx.ReadTimeout("lost"), delay=None)
        options: dict[str, Any] = {"ledger": ledger} if with_ledger else {"max_charges": 2}
        async with client_of(vendor.transport, **options) as client:
            with pytest.raises(OutcomeUnknownError):
                await client.whatsapp_detail(NUMBER, wait=inbox)
            assert client.tally.unknown == 1
        await Inbox(ADDRESS, ledger=ledger, secret=inbox.url.rpartition("/")[2]).receive(
            inbox.url.rpartition("/")[2], f"number={NUMBER[1:]}&whatsapp=yes"
        )
    if with_ledger:
        assert sorted(state for state, *_ in in_ledger(ledger.path)) == [State.CHARGED, State.FREE, State.UNKNOWN]


@virtual
async def test_a_budget_counts_a_callback_that_comes_after_it_was_asked_again() -> None:
    inbox = Inbox(ADDRESS, patience=60)
    async with client_of(CallingVendor(inbox, delay=65).transport, max_charges=1) as client:
        assert (await client.whatsapp_detail(NUMBER, wait=inbox)).charge is CHARGED
        with pytest.raises(BudgetExhaustedError):
            await client.whatsapp_detail("+6281387300009", wait=inbox)


@virtual
async def test_a_callback_to_a_request_that_was_told_to_come_later_is_kept(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, says("RETRY_LATER", "x"), delay=0.02)
        async with client_of(vendor.transport, ledger=ledger, retry=Retry(first=0.2, longest=0.2)) as client:
            profile = await client.whatsapp_detail(NUMBER, wait=inbox)
            assert profile.charge is CHARGED
        assert len(list(ledger.answers())) == 1


@virtual
async def test_an_answer_asked_for_again_is_taken_again(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, delay=0.01)
        async with client_of(vendor.transport, ledger=ledger, reuse_for=0) as client:
            await client.whatsapp_detail(NUMBER, wait=inbox)
            vendor.delay = None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.whatsapp_detail(NUMBER, wait=inbox)
            await vendor.call_back(vendor.forms[1])
        assert counts(inbox) == (2, 0, 0, 0)
        assert len(list(ledger.answers())) == 2


@virtual
async def test_recording_goes_on_when_the_vendor_hangs_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, delay=None)
        deliver, entered = ledger.deliver, asyncio.Event()

        async def slow(*given: Any) -> bool:
            entered.set()
            await asyncio.sleep(0.05)
            return await deliver(*given)

        monkeypatch.setattr(ledger, "deliver", slow)
        async with client_of(vendor.transport, ledger=ledger) as client:
            callers = [asyncio.create_task(client.whatsapp_detail(NUMBER, wait=inbox)) for _ in range(2)]
            await asyncio.sleep(0.05)
            call = asyncio.create_task(vendor.call_back(vendor.forms[0]))
            await entered.wait()
            again = asyncio.create_task(vendor.call_back(vendor.forms[0]))
            await asyncio.sleep(0)
            call.cancel()
            assert sorted([(await caller).charge for caller in callers]) == [CHARGED, FREE]
            await again
            await asyncio.wait({call})
            assert client.tally.charged == 1
        assert counts(inbox) == (1, 1, 0, 0)


@virtual
async def test_what_waits_for_a_callback_can_be_settled_and_purged(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "a.ledger", max_charges=3) as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        vendor = CallingVendor(inbox, delay=None)
        async with client_of(vendor.transport, ledger=ledger) as client:
            for key, number in enumerate(("+6281387300001", "+6281387300002", "+6281387300003")):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.whatsapp_detail(number, wait=inbox, key=key)
            assert ledger.summary().by()[()].intended == 3
            assert await ledger.resolve(0, FREE) == 1
            assert await ledger.resolve("1", CHARGED) == 1
            assert [record.key for record in ledger.held()] == [1]
            await ledger.purge(0)
            assert ledger.summary().by()[()].intended == 0
            assert ledger.summary().by()[()].charged == 1


@virtual
async def test_a_number_without_its_country_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    for number in ("081387300008", "6281387300009"):
        async with Ledger(path) as ledger:
            inbox = Inbox(ADDRESS, ledger=ledger)
            vendor = CallingVendor(inbox, delay=None)
            async with client_of(vendor.transport, ledger=ledger) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.whatsapp_detail(number, wait=inbox)
        async with Ledger(path) as ledger:
            inbox = Inbox(ADDRESS, ledger=ledger)
            international = number if number[0] != "0" else "62" + number[1:]
            await inbox.receive(inbox.url.rpartition("/")[2], f"number=%2B{international}&whatsapp=yes")
            assert counts(inbox) == (1, 0, 0, 0)


@virtual
async def test_very_many_can_be_outstanding() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, delay=100)
    calls = [WhatsAppDetail(f"+62813{n:08}") for n in range(2000)]
    async with client_of(vendor.transport) as client:
        began = asyncio.get_running_loop().time()
        outcomes = await taken(client, calls, inbox, concurrency=10)
        assert asyncio.get_running_loop().time() - began < 110  # and not 2000 / 74 x 100
    assert all(outcome.ok for outcome in outcomes)


@virtual
async def test_callers_of_one_number_that_is_never_answered_end_together() -> None:
    inbox = Inbox(ADDRESS)
    vendor = CallingVendor(inbox, delay=None)
    async with client_of(vendor.transport) as client:
        replies = await asyncio.gather(*(client.whatsapp_detail(NUMBER, wait=inbox) for _ in range(3)))
    assert {reply.whatsapp for reply in replies} == {"checking"}
    assert sum("callback" in form for form in vendor.forms) == 1


@virtual
async def test_a_hook_may_stop_the_batch(tmp_path: Path) -> None:
    inbox = Inbox(ADDRESS)
    stops: list[Callable[[], None]] = []
    client = client_of(CallingVendor(inbox, delay=None).transport, on_outcome=lambda outcome: stops[0]())
    async with client:
        calls = [WhatsAppDetail(NUMBER), WhatsAppDetail(NUMBER), WhatsAppDetail("+6281387300009")]
        batch = client.batch(calls, inbox=inbox, dedupe=False)
        stops.append(batch.stop)
        async with batch:
            await asyncio.sleep(1)
            batch.stop()
        assert len(batch.unread) == 3


@virtual
async def test_the_vendor_that_repeats_the_address_does_not_put_it_into_the_ledger(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "a.ledger") as ledger:
        inbox = Inbox(ADDRESS, ledger=ledger)
        said = {"number": NUMBER, "whatsapp": "yes", "callback": inbox.url}
        vendor = CallingVendor(inbox, says("OK", said), delay=None)
        async with client_of(vendor.transport, ledger=ledger) as client:
            await client.whatsapp_detail(NUMBER, wait=inbox)
    assert inbox.url.rpartition("/")[2].encode() not in ledger.path.read_bytes()


async def test_callback_and_wait_are_not_both() -> None:
    async with client_of(CallingVendor(Inbox(ADDRESS)).transport) as client:
        with pytest.raises(InputError, match="either callback= or wait="):
            await client.whatsapp_detail(NUMBER, callback="https://x.example/", wait=Inbox(ADDRESS))
