"""What a client tells of itself: the hooks, the load, the log."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import httpx
import pytest

from aisolution_async import (
    Attempt,
    Call,
    Charge,
    ConfigurationError,
    Inbox,
    Load,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    Retry,
    StatusError,
    WhatsAppDetail,
)

from .steps import ADDRESS, Notes, call_back, money_left, reply_of, sending_of
from .support import TOKEN, Vendor, client_of, in_turn, ok_whatsapp, says, virtual

NUMBER = "6281387300008"
who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Told:
    """Keeps what the hooks are given."""

    def __init__(self) -> None:
        self.attempts: list[tuple[Call[Any], Attempt, str]] = []
        self.outcomes: list[tuple[Outcome, str]] = []

    def on_attempt(self, call: Call[Any], attempt: Attempt) -> None:
        self.attempts.append((call, attempt, who.get()))

    def on_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append((outcome, who.get()))

    @property
    def hooks(self) -> dict[str, Any]:
        return {"on_attempt": self.on_attempt, "on_outcome": self.on_outcome}


async def test_every_attempt_and_every_call_is_told_in_the_context_of_who_asked() -> None:
    told = Told()
    vendor = in_turn(says("RETRY_LATER", "x"), ok_whatsapp(), httpx.ReadTimeout("lost"), ok_whatsapp())
    async with client_of(vendor, retry=Retry(first=0.001), **told.hooks) as client:
        who.set("single")
        reply = await client.whatsapp_detail(NUMBER, key="A")
        with pytest.raises(OutcomeUnknownError):
            await client.whatsapp_detail(NUMBER)
        who.set("batch")
        calls = [WhatsAppDetail(NUMBER, key="B"), WhatsAppDetail(NUMBER, key="C"), WhatsAppDetail("no number")]
        async with client.batch(calls) as batch:
            who.set("later")
            taken = [outcome async for outcome in batch]
    assert [attempt for _, attempt, _ in told.attempts[:2]] == list(reply.attempts)
    assert [attempt.charge for _, attempt, _ in told.attempts] == [
        Charge.FREE,
        Charge.CHARGED,
        Charge.UNKNOWN,
        Charge.CHARGED,
    ]
    assert [name for _, _, name in told.attempts] == ["single", "single", "single", "batch"]
    assert told.attempts[0][0].key == "A"
    singles, batched = told.outcomes[:2], told.outcomes[2:]
    assert [(outcome.index, outcome.ok, outcome.charge) for outcome, _ in singles] == [
        (0, True, Charge.CHARGED),
        (0, False, Charge.UNKNOWN),
    ]
    assert [outcome for outcome, _ in batched] == taken
    assert {name for _, name in batched} == {"batch"}


async def test_a_call_that_is_cancelled_or_never_sent_is_told_too() -> None:
    told = Told()
    entered = asyncio.Event()

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        entered.set()
        await asyncio.sleep(1e6)
        raise AssertionError

    async with client_of(Vendor(hang), **told.hooks) as client:
        task = asyncio.create_task(client.whatsapp_detail(NUMBER))
        await entered.wait()
        assert client.load == Load(in_flight=1, limit=None, braked=False, batches=0)
        task.cancel()
        await asyncio.wait({task})
        assert client.load.in_flight == 0
        with pytest.raises(NotSentError):
            await client.with_options(deadline=1e-9).whatsapp_detail(NUMBER)
    assert [outcome.charge for outcome, _ in told.outcomes] == [Charge.UNKNOWN, Charge.FREE]
    assert len(told.attempts) == 2


async def test_a_hook_that_fails_harms_nothing_and_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError(f"{given!r} {NUMBER}")

    async with client_of(in_turn(ok_whatsapp()), on_attempt=fail, on_outcome=fail) as client:
        assert (await client.whatsapp_detail(NUMBER)).charge is Charge.CHARGED
        async with client.batch([WhatsAppDetail(NUMBER)]) as batch:
            assert [outcome.ok async for outcome in batch] == [True]
    line = fail.__code__.co_firstlineno + 1
    assert {record.getMessage() for record in caplog.records} == {
        f"a hook failed: RuntimeError in {name}, {__name__}.{fail.__qualname__}, at {__file__}:{line}"
        for name in ("on_attempt", "on_outcome")
    }
    assert NUMBER not in caplog.text


@pytest.mark.parametrize("name", ["on_attempt", "on_outcome"])
def test_a_hook_is_a_plain_function(name: str) -> None:
    async def hook(*given: object) -> None:
        raise AssertionError

    for bad in (hook, 5):
        with pytest.raises(ConfigurationError, match=f"{name} must be a plain function"):
            client_of(in_turn(), **{name: bad})


async def test_a_view_has_hooks_of_its_own() -> None:
    first, second = Told(), Told()
    async with client_of(in_turn(ok_whatsapp()), **first.hooks) as client:
        await client.with_options(on_attempt=second.on_attempt, on_outcome=None).whatsapp_detail(NUMBER)
        assert (len(first.attempts), len(first.outcomes), len(second.attempts)) == (0, 0, 1)
        await client.with_options(deadline=5).whatsapp_detail(NUMBER)
        assert (len(first.attempts), len(first.outcomes)) == (1, 1)


async def test_the_load_of_running_batches() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        async with (
            client.batch([WhatsAppDetail(NUMBER)], concurrency=3) as one,
            client.batch([WhatsAppDetail(NUMBER)], concurrency=4) as two,
        ):
            assert (client.load.batches, client.load.limit) == (2, 7)
            async for _ in one:
                assert client.load.in_flight <= 2
            async for _ in two:
                pass
        assert client.load == Load(in_flight=0, limit=None, braked=False, batches=0)
        assert client.base_url.startswith("http")
        assert TOKEN not in client.base_url


async def test_the_log_is_quiet_and_says_what_was_attempted(caplog: pytest.LogCaptureFixture) -> None:
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("aisolution_async").handlers)
    with caplog.at_level(logging.DEBUG, "aisolution_async"):
        async with client_of(in_turn(ok_whatsapp())) as client:
            await client.whatsapp_detail(NUMBER, key="A-1")
    (record,) = (r for r in caplog.records if r.name == "aisolution_async.sending.call")
    fields = ("endpoint", "attempt", "charge", "status", "http_status")
    assert [getattr(record, name) for name in fields] == ["gliswadetail", 1, "charged", "OK", 200]
    assert NUMBER not in caplog.text
    assert "A-1" not in caplog.text


async def test_the_log_holds_no_word_of_the_vendors(caplog: pytest.LogCaptureFixture) -> None:
    vendor = in_turn(says("BUDI_SANTOSO", "Budi Santoso"), says("FAIL", "Budi Santoso"))
    with caplog.at_level(logging.DEBUG, "aisolution_async"):
        async with client_of(vendor) as client:
            for _ in range(2):
                with pytest.raises(StatusError):
                    await client.whatsapp_detail(NUMBER)
    assert [getattr(record, "status", "") for record in caplog.records] == [None, "FAIL"]
    assert "budi" not in caplog.text.lower()


@virtual
async def test_a_vendor_that_is_down_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = [says("RETRY_LATER", "x")] * 40 + [ok_whatsapp()]
    with caplog.at_level(logging.INFO, "aisolution_async"):
        async with client_of(in_turn(*answers)) as client:
            async with client.batch([WhatsAppDetail(f"62813{n:08}") for n in range(30)]) as batch:
                async for _ in batch:
                    pass
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("name", ["on_attempt", "on_outcome"])
async def test_a_hook_that_looks_at_a_cancelled_future_cancels_no_call(name: str) -> None:
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    options: dict[str, Any] = {name: lambda *_: cancelled.result()}
    async with client_of(in_turn(ok_whatsapp()), max_charges=9, **options) as client:
        assert (await client.whatsapp_detail(NUMBER)).whatsapp == "yes"
        outcomes = await client.collect([WhatsAppDetail(f"62813873000{n:02}") for n in range(5)], concurrency=1)
        assert [outcome.ok for outcome in outcomes] == [True] * 5
        assert client.tally.charged == 6


class TheEnd(BaseException):
    """What ends a program, as KeyboardInterrupt does."""


@pytest.mark.parametrize(
    "answer", [ok_whatsapp(), says("INVALID_INPUT"), says("RETRY_LATER"), httpx.ReadError("reset")]
)
@pytest.mark.parametrize("many", [False, True])
@virtual
async def test_a_hook_that_ends_the_program_loses_no_answer_and_no_reservation(answer: Any, many: bool) -> None:
    told: list[Attempt] = []
    ended: list[Any] = []
    read: list[Any] = []

    def on_attempt(call: Call[Any], attempt: Attempt) -> None:
        told.append(attempt)
        raise TheEnd

    async with client_of(in_turn(answer), max_charges=3, on_attempt=on_attempt, on_outcome=ended.append) as client:
        batch = client.batch([WhatsAppDetail(NUMBER)])
        with pytest.raises(BaseException) as caught:  # a group, where there are many
            if many:
                async with batch:
                    async for outcome in batch:
                        read.append(outcome)  # noqa: PERF401  # it raises in the end
            else:
                await client.whatsapp_detail(NUMBER)
        assert isinstance(caught.value, TheEnd) or caught.group_contains(TheEnd)
        (outcome,) = ended
        assert (outcome.attempts, len(told)) == ((told[0],), 1)
        is_paid = isinstance(answer, httpx.Response) and b"yes" in answer.content
        assert (outcome.ok, client.tally.charged) == (is_paid, is_paid)
        assert [*read, *batch.unread] == ([outcome] if many else [])
        assert money_left(client) == 3 - client.tally.charged - client.tally.unknown


@pytest.mark.parametrize("recorded", [False, True])
@virtual
async def test_a_hook_that_ends_the_program_as_a_callback_is_counted_loses_nothing(recorded: bool) -> None:
    def on_attempt(call: Call[Any], attempt: Attempt) -> None:
        if attempt.charge is Charge.CHARGED:
            raise TheEnd

    inbox, vendor = Inbox(ADDRESS), in_turn(ok_whatsapp("checking"))
    ledger: dict[str, Any] = {"ledger": Notes()} if recorded else {}
    async with client_of(vendor, max_charges=3, on_attempt=on_attempt, **ledger) as client:
        sending = sending_of(client, WhatsAppDetail(NUMBER), inbox=inbox)
        await sending.step()
        with pytest.raises(TheEnd):
            await call_back(inbox, NUMBER)
        assert reply_of(sending).whatsapp == "yes"
        assert (client.tally.charged, money_left(client)) == (1, 2)
        sending.leave(share=True)
        assert money_left(client) == 2
