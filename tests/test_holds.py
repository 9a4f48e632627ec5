"""A hold binds everyone: whoever asks, whatever its own attempts were, and whatever the ledger's store raises."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aisolution_async import (
    AISolutionError,
    AsyncClient,
    Charge,
    DeleteFace,
    Inbox,
    Ledger,
    LedgerError,
    NotSentError,
    OutcomeUnknownError,
    Retry,
    WhatsAppDetail,
    clock,
)
from aisolution_async.ledger import Ask, Busy, Result, Started, Stored, Verdict

from .support import LAST_RESORT, Vendor, client_of, examples, in_turn, picture, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
NUMBER = "+6281387300008"
LATER = ("RETRY_LATER", "busy")
QUICK = Retry(first=0.01, longest=0.01)


def number_of(request: httpx.Request) -> str:
    return parse_qs(request.content.decode())["number"][0]


def answer(request: httpx.Request, whatsapp: str = "yes") -> httpx.Response:
    return says("OK", {"number": number_of(request), "whatsapp": whatsapp})


async def came_of(client: AsyncClient, number: str = NUMBER, **options: Any) -> Any:
    try:
        return await client.whatsapp_detail(number, **options)
    except AISolutionError as exc:
        return exc


async def test_a_retry_does_not_walk_past_the_hold_of_another(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A is told to come later; B asks the same meanwhile, and loses the answer."""
    waits, b_is_over = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.set()
        await b_is_over.wait()

    monkeypatch.setattr(clock, "sleep", sleep)

    def script(request: httpx.Request, number: int) -> httpx.Response:
        if number == 0:
            return says(*LATER)
        if number == 1:
            raise httpx.ReadError("lost")
        return answer(request)

    vendor = Vendor(script)
    async with client_of(vendor, ledger=ledger_path) as a, client_of(vendor, ledger=ledger_path) as b:
        first = asyncio.create_task(came_of(a))
        await waits.wait()
        lost = await came_of(b)
        b_is_over.set()
        held = await first
    assert isinstance(lost, OutcomeUnknownError)
    assert lost.recorded is None
    assert isinstance(held, OutcomeUnknownError)
    assert held.recorded is not None
    assert held.recorded.charge is UNKNOWN
    assert [attempt.charge for attempt in held.attempts] == [FREE]
    assert "retry_unknown=1" in str(held)
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("allowed", [0, 1, 2, 3])
async def test_a_call_passes_as_many_unknown_attempts_as_it_may_of_whomever(ledger_path: Path, allowed: int) -> None:
    vendor = in_turn(httpx.ReadError("lost"))
    async with client_of(vendor, ledger=ledger_path, retry=QUICK, retry_unknown=1) as client:
        first = await came_of(client)
        assert (len(first.attempts), first.holds) == (2, 2)
    async with client_of(vendor, ledger=ledger_path, retry=QUICK, retry_unknown=allowed) as client:
        second = await came_of(client)
    assert isinstance(second, OutcomeUnknownError)
    assert len(vendor.requests) == 2 + (allowed - 1 if allowed > 1 else 0)
    assert second.holds == len(vendor.requests)
    assert (second.recorded is None) == bool(second.attempts)
    assert Ledger(ledger_path).summary().held == 1
    assert len(list(Ledger(ledger_path).held())) == len(vendor.requests)


async def test_a_free_attempt_after_an_unknown_one_lifts_nothing(ledger_path: Path) -> None:
    for answers in ([says(*LATER)], [says("FAIL", "no")], [says("OK", {"number": NUMBER, "whatsapp": "checking"})]):
        path = ledger_path.with_name(f"{len(answers[0].content)}.ledger")
        vendor = in_turn(httpx.ReadError("lost"), *answers)
        async with client_of(vendor, ledger=path, retry=Retry(max_retries=0, first=0.01, unknown=1)) as client:
            await came_of(client)
            assert len(vendor.requests) == 2
        async with client_of(vendor, ledger=path) as client:
            assert isinstance(await came_of(client), OutcomeUnknownError)
        assert len(vendor.requests) == 2


@virtual
async def test_unknown_attempts_of_every_round_of_asking_count_without_a_ledger() -> None:
    """A number that is checking is asked again: that is no new allowance."""
    checking = says("OK", {"number": NUMBER, "whatsapp": "checking"})
    vendor = in_turn(httpx.ReadError("lost"), checking, httpx.ReadError("lost"), says(*LATER))
    inbox = Inbox("https://app.example.com/whatsapp", patience=0.01)
    async with client_of(vendor, retry=QUICK, retry_unknown=1) as client:
        error = await came_of(client, wait=inbox)
    assert isinstance(error, OutcomeUnknownError)
    assert [attempt.charge for attempt in error.attempts].count(UNKNOWN) == 2
    assert len(vendor.requests) == 3


async def test_deleting_twice_does_no_harm_and_is_not_held(ledger_path: Path) -> None:
    vendor = in_turn(httpx.ReadError("lost"), httpx.ReadError("lost"), says("PERSON_ID_NOT_EXIST"))
    async with client_of(vendor, ledger=ledger_path, retry=Retry(max_retries=0)) as client:
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError):
                await client.send(DeleteFace("p", key="A"))
        with pytest.raises(AISolutionError):
            await client.send(DeleteFace("p", key="A"))
    assert len(vendor.requests) == 3


@given(data=st.data())
@settings(max_examples=examples(50), deadline=None)
def test_the_bill_whatever_the_vendor_does_and_whoever_asks(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Several clients on one ledger, each asking a few numbers in its own order, with its own allowance."""
    billed: Counter[str] = Counter()
    does = st.sampled_from(["later", "fail", "lose", "lose", "answer", "checking"])
    scripts = {f"+628138730000{n}": data.draw(st.lists(does, min_size=4, max_size=12)) for n in range(3)}

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        left = scripts[number_of(request)]
        what = left.pop(0) if left else "answer"
        await asyncio.sleep(0)
        if what == "later":
            return says(*LATER)
        if what == "fail":
            return says("FAIL", "no")
        if what == "checking":
            return answer(request, "checking")
        billed[number_of(request)] += 1
        if what == "lose":
            raise httpx.ReadError("lost")
        return answer(request)

    allowances = data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=3))
    orders = [data.draw(st.permutations(range(3))) for _ in allowances]
    path = tmp_path_factory.mktemp("bill") / "run.ledger"
    vendor = Vendor(script)

    @virtual
    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    client_of(vendor, ledger=path, retry=Retry(max_retries=3, first=0.1, unknown=allowed))
                )
                for allowed in allowances
            ]

            async def ask(client: AsyncClient, order: Sequence[int]) -> None:
                calls = [WhatsAppDetail(f"+628138730000{n}") for n in order]
                async with client.batch(calls, concurrency=2) as batch:
                    async for _ in batch:
                        pass

            await asyncio.gather(*map(ask, clients, orders))
            charged = sum(client.tally.charged for client in clients)
            unknown = sum(client.tally.unknown for client in clients)
            assert charged <= billed.total() <= charged + unknown

    run()
    assert max(billed.values(), default=0) <= 1 + max(allowances)
    whole = Ledger(path).summary().by().get((), None)
    assert (0 if whole is None else whole.charged + whole.unknown) == billed.total()


async def test_a_vendor_that_names_other_numbers_is_stopped_and_holds_nobody(ledger_path: Path) -> None:
    """Its convention, or a test server's one fixed answer: whoever mends that can ask all of them again."""
    vendor = in_turn(says("OK", {"number": "+6281299999999", "whatsapp": "yes"}))
    async with client_of(vendor, ledger=ledger_path) as client:
        calls = [WhatsAppDetail(f"+62813873000{n:02}", key=n) for n in range(40)]
        async with client.batch(calls, concurrency=1) as batch:
            outcomes = [outcome async for outcome in batch]
    assert len(vendor.requests) == 3
    assert [outcome.charge for outcome in outcomes].count(UNKNOWN) == 3
    assert sum(isinstance(outcome.error, NotSentError) for outcome in outcomes) == 37
    summary = Ledger(ledger_path).summary()
    assert (summary.held, summary.by()[()].unknown) == (0, 3)
    vendor = Vendor(lambda request, _: answer(request))
    async with client_of(vendor, ledger=ledger_path) as client, client.batch(calls) as batch:
        assert all([outcome.ok async for outcome in batch])
    assert len(vendor.requests) == 40


async def test_an_answer_for_another_number_is_held_once_the_vendor_is_known_to_echo(ledger_path: Path) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        return says("OK", {"number": "+6281299999999", "whatsapp": "yes"}) if number == 1 else answer(request)

    vendor = Vendor(script)
    async with client_of(vendor, ledger=ledger_path) as client:
        assert (await came_of(client, "+6281387300001")).charge is CHARGED
        for _ in range(2):
            assert isinstance(await came_of(client), OutcomeUnknownError)
        assert (await came_of(client, "+6281387300002")).charge is CHARGED
    assert len(vendor.requests) == 3
    assert [record.reply is not None for record in Ledger(ledger_path).held()] == [True]


# ------------------------------------------------------------------------------------- who waits for the same


async def test_who_asks_the_same_is_woken_when_it_is_answered(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks again and again meanwhile."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(clock, "sleep", sleep)
    go = asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await go.wait()
        return answer(request)

    vendor = Vendor(script)
    async with (
        Ledger(ledger_path) as ledger,
        client_of(vendor, ledger=ledger) as one,
        client_of(vendor, ledger=ledger) as two,
    ):
        asked = [asyncio.create_task(came_of(client)) for client in (one, two, one)]
        async with two.batch([WhatsAppDetail(NUMBER)] * 2, dedupe=False) as batch:
            while not (vendor.requests and batch.progress.waiting == 2):
                await asyncio.sleep(0)
            go.set()
            outcomes = [outcome async for outcome in batch]
        answers = await asyncio.gather(*asked)
    assert all(outcome.ok for outcome in outcomes)
    assert [reply.whatsapp for reply in answers] == ["yes"] * 3
    assert len(vendor.requests) == 1
    assert slept == []


async def test_who_waits_for_the_same_gives_up_at_its_deadline(ledger_path: Path) -> None:
    never = asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await never.wait()
        return answer(request)

    vendor = Vendor(script)
    async with Ledger(ledger_path) as ledger, client_of(vendor, ledger=ledger) as one:
        asked = asyncio.create_task(came_of(one))
        while not vendor.requests:
            await asyncio.sleep(0)
        error = await came_of(one.with_options(deadline=0.05))
        assert isinstance(error, NotSentError)
        assert "under way elsewhere" in str(error)
        never.set()
        assert (await asked).whatsapp == "yes"


# ------------------------------------------------------------------------------------ whatever a store raises


class Foreign(Ledger):
    """A store that raises, or answers, what no store should."""

    def __init__(self, path: Path, **faults: object) -> None:
        super().__init__(path)
        self.faults = faults

    def _fault(self, name: str) -> Any:
        found = self.faults.get(name)
        if isinstance(found, BaseException):
            raise found
        return found

    def identity(self, endpoint: str, payload: Any, key: Any = None) -> bytes:
        self._fault("identity")
        return super().identity(endpoint, payload, key)

    async def begin(self, ask: Ask) -> Verdict:
        found = self._fault("begin")
        return await super().begin(ask) if found is None else found

    async def end(self, started: Started, result: Result) -> None:
        self._fault("end")
        await super().end(started, result)

    async def deliver(self, callbacks: Sequence[bytes], result: Result) -> bool:
        self._fault("deliver")
        return await super().deliver(callbacks, result)

    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        found = self._fault("find")
        return await super().find(asks) if found is None else found


class Restless(Busy):
    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self.fault = fault

    async def wait(self) -> None:
        raise self.fault


class Panic(BaseException):
    """What extensions in Rust raise."""


FAULTS: list[BaseException] = [
    RuntimeError("secret"),
    KeyError("secret"),
    asyncio.CancelledError(),
    OSError(5, "secret"),
    Panic("secret"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("where", ["identity", "begin", "end", "find"])
async def test_a_batch_ends_every_call_with_its_own_outcome(ledger_path: Path, where: str, fault: object) -> None:
    vendor = Vendor(lambda request, _: answer(request))
    calls = [WhatsAppDetail(f"+62813873000{n:02}", key=n) for n in range(20)]
    async with Foreign(ledger_path, **{where: fault}) as store, client_of(vendor, ledger=store) as client:
        async with asyncio.timeout(LAST_RESORT), client.batch(calls) as batch:
            outcomes = [outcome async for outcome in batch]
        assert sorted(cast(int, outcome.key) for outcome in outcomes) == list(range(20))
        for outcome in outcomes:
            if where in ("end", "find"):  # what was paid for is handed over; what cannot be looked up is asked
                assert outcome.ok, outcome.error
                assert outcome.attempts[-1].recorded is (where == "find")
            else:
                assert isinstance(outcome.error, LedgerError)
                assert outcome.charge is FREE
                assert "secret" not in str(outcome.error)
        assert len(vendor.requests) == (20 if where in ("end", "find") else 0)
        single = await came_of(client, number="+6281387300099")
        assert isinstance(single, LedgerError) == (where in ("identity", "begin"))
        if isinstance(single, LedgerError):
            assert single.__context__ is None


async def test_a_store_that_is_cancelled_where_an_image_is_read(ledger_path: Path, tmp_path: Path) -> None:
    """On a thread, where there is no task of whom to ask what was cancelled."""
    vendor = Vendor(lambda request, _: says(*LATER))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture(1))
    async with Foreign(ledger_path, identity=asyncio.CancelledError()) as store, client_of(vendor, ledger=store) as one:
        with pytest.raises(LedgerError, match="what it waited for was cancelled"):
            await one.face_compare(photo, photo)
    assert vendor.requests == []


JUNK = [
    ("begin", "Started"),
    ("begin", Restless(RuntimeError("secret"))),
    ("begin", Restless(asyncio.CancelledError())),
    ("find", [None]),
    ("find", [object()] * 3),
    ("find", dict.fromkeys(range(3))),
    ("find", None.__class__),
]


@pytest.mark.parametrize(("where", "given"), JUNK)
async def test_a_store_that_answers_what_no_store_should(ledger_path: Path, where: str, given: object) -> None:
    vendor = Vendor(lambda request, _: answer(request))
    calls = [WhatsAppDetail(f"+62813873000{n:02}", key=n) for n in range(3)]
    async with Foreign(ledger_path, **{where: given}) as store, client_of(vendor, ledger=store, deadline=0.3) as client:
        async with asyncio.timeout(LAST_RESORT), client.batch(calls) as batch:
            outcomes = [outcome async for outcome in batch]
    assert len(outcomes) == 3
    assert all(outcome.ok == (where == "find") for outcome in outcomes)
    assert {outcome.charge for outcome in outcomes} == {CHARGED if where == "find" else FREE}


async def test_an_inbox_whose_store_raises_anything(ledger_path: Path) -> None:
    async with Foreign(ledger_path, deliver=RuntimeError("secret")) as store:
        inbox = Inbox("https://app.example.com/whatsapp", ledger=store)
        with pytest.raises(LedgerError, match="the ledger failed: RuntimeError") as caught:
            await inbox.receive(inbox.url.rpartition("/")[2], "number=%2B6281387300008&whatsapp=yes")
        assert caught.value.__context__ is None


@virtual
async def test_a_free_refusal_costs_no_patience(ledger_path: Path) -> None:
    """With a ledger and an inbox, a request that was refused is made again, and asks for a callback again."""
    inbox: Inbox
    forms: list[dict[str, list[str]]] = []

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        forms.append(parse_qs(request.content.decode()))
        if number == 0:
            raise httpx.ConnectError("refused")
        if number == 1:
            return says(*LATER)
        asyncio.get_running_loop().call_later(5, lambda: calls.append(asyncio.ensure_future(call_back())))
        return answer(request, "checking")

    async def call_back() -> None:
        await inbox.receive(inbox.url.rpartition("/")[2], f"number={NUMBER.replace('+', '%2B')}&whatsapp=yes")

    calls: list[asyncio.Future[None]] = []
    async with Ledger(ledger_path) as ledger:
        inbox = Inbox("https://app.example.com/whatsapp", ledger=ledger)
        async with client_of(Vendor(script), ledger=ledger) as client:
            began = asyncio.get_running_loop().time()
            profile = await client.whatsapp_detail(NUMBER, wait=inbox)
            assert asyncio.get_running_loop().time() - began < 60
    assert profile.charge is CHARGED
    assert ["callback" in form for form in forms] == [True] * 3


async def test_a_ledger_closed_under_a_call_takes_no_answer_away(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:

        async def script(request: httpx.Request, number: int) -> httpx.Response:
            await ledger.aclose()
            return answer(request)

        async with client_of(Vendor(script), ledger=ledger) as client:
            reply = await client.whatsapp_detail(NUMBER)
            assert (reply.whatsapp, reply.charge, reply.attempts[0].recorded) == ("yes", CHARGED, False)
    assert Ledger(ledger_path).summary().held == 1
