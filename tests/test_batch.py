"""Many calls at once: permits, failures as values, stopping, a client that is closed."""

from __future__ import annotations

import asyncio
import gc
import io
import random
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aisolution_async import (
    AISolutionError,
    Batch,
    Charge,
    ConfigurationError,
    DeleteFace,
    InputError,
    Ledger,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    Recheck,
    Retry,
    RetryLaterError,
    SearchFace,
    WhatsAppDetail,
)
from aisolution_async.batching import GRACE

from .batches import Desk, asks, asks_later, slow, taken
from .steps import Notes
from .support import TOKEN, Vendor, client_of, examples, in_turn, ok_whatsapp, picture, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN


def number_of(request: httpx.Request) -> int:
    return int(request.content.removeprefix(b"number=62813")[:8])


# ------------------------------------------------------------------------------------------------- outcomes


@virtual
async def test_outcomes_of_a_mixed_list() -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        if request.url.path == "/v1/searchface":
            return says("OK", [])
        if request.url.path == "/v1/delface":
            return says("PERSON_ID_NOT_EXIST")
        if b"404" in request.content:
            return httpx.Response(500)
        return ok_whatsapp()

    bad_row = InputError("line 7: no number", key="row 7")
    items = [
        WhatsAppDetail("6281300000", key="a"),
        SearchFace(picture(1), key="b"),
        DeleteFace("p", key="c"),
        WhatsAppDetail("62813404", key="d"),
        WhatsAppDetail("no number", key="e"),
        bad_row,
        "6281300000",
        None,
    ]
    async with client_of(Vendor(script)) as client:
        batch: Batch[Any] = client.batch(items, concurrency=3)  # type: ignore[arg-type]
        outcomes = sorted(await taken(batch), key=lambda outcome: outcome.index)
        assert [o.index for o in outcomes] == list(range(8))
        assert [o.key for o in outcomes] == ["a", "b", "c", "d", "e", "row 7", None, None]
        assert [o.call for o in outcomes] == [*items[:5], None, None, None]
        assert [o.ok for o in outcomes] == [True, True, False, False, False, False, False, False]
        assert [o.charge for o in outcomes] == [CHARGED, CHARGED, FREE, UNKNOWN, FREE, FREE, FREE, FREE]
        assert [len(o.attempts) for o in outcomes] == [1, 1, 1, 1, 0, 0, 0, 0]
        assert [(o.reply is None) != (o.error is None) for o in outcomes] == [True] * 8
        assert outcomes[5].error is bad_row
        assert "item 6 of the input is a str and no call" in str(outcomes[6].error)
        assert (batch.tally.charged, batch.tally.free, batch.tally.unknown) == (2, 1, 1)
        assert batch.tally == client.tally
        assert batch.unread == []
        progress = batch.progress
        assert (progress.read, progress.ok, progress.failed, progress.done, progress.in_flight) == (8, 2, 6, 8, 0)


@pytest.mark.parametrize("calls", [[], (), iter(()), asks(0), asks_later(0)])
async def test_an_empty_list(calls: Any) -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        assert await taken(client.batch(calls)) == []


@virtual
async def test_each_call_comes_out_once_as_they_finish() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(random.random())
        return ok_whatsapp()

    for source in (asks, asks_later):
        async with client_of(Vendor(script)) as client:
            outcomes = await taken(client.batch(source(500), concurrency=40))
            assert sorted(o.index for o in outcomes) == list(range(500))
            assert all(o.key == o.index for o in outcomes)
            assert [o.index for o in outcomes] != list(range(500))


# ------------------------------------------------------------------------------------- intake and permits


@virtual
async def test_no_more_at_once_than_asked_for() -> None:
    vendor = slow(0.5)
    async with client_of(vendor) as client:
        await taken(client.batch(asks(300), concurrency=17))
    assert vendor.most_in_flight == 17


@virtual
async def test_a_call_that_waits_holds_no_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backoff.full_jitter", lambda roof: roof)
    loop = asyncio.get_running_loop()
    tries: dict[int, int] = {}

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        which = number_of(request)
        tries[which] = tries.get(which, 0) + 1
        if which < 4 and tries[which] == 1:
            return says("RETRY_LATER", "busy")
        return ok_whatsapp()

    async with client_of(Vendor(script), retry=Retry(first=50, longest=50)) as client:
        start = loop.time()
        done: dict[int, float] = {}
        async with client.batch(asks(40), concurrency=4) as batch:
            async for outcome in batch:
                done[outcome.index] = loop.time() - start
        # All the others went on meanwhile, four at a time.
        assert max(done[i] for i in range(4, 40)) < 15
        assert min(done[i] for i in range(4)) > 50


@virtual
async def test_the_deadline_counts_work_and_not_the_queue() -> None:
    # 60 seconds of work for one permit, and a deadline of 10 for each call.
    async with client_of(slow(2), deadline=10) as client:
        outcomes = await taken(client.batch(asks(30), concurrency=1))
    assert all(outcome.ok for outcome in outcomes)


@virtual
async def test_retry_unknown_of_a_batch() -> None:
    async with client_of(in_turn(httpx.ReadTimeout("x"), ok_whatsapp())) as client:
        (outcome,) = await taken(client.batch(asks(1), retry_unknown=1))
        assert outcome.ok
        assert outcome.charge is CHARGED
        assert [a.charge for a in outcome.attempts] == [UNKNOWN, CHARGED]


# --------------------------------------------------------------------------------------- failing and stopping


@virtual
async def test_leaving_early_loses_nothing() -> None:
    closed = []

    async def source() -> AsyncIterator[WhatsAppDetail]:
        try:
            async for call in asks_later(10_000):
                yield call
        finally:
            closed.append(True)

    vendor = slow(1)
    async with client_of(vendor) as client:
        seen = []
        async with client.batch(source(), concurrency=8) as batch:
            async for outcome in batch:
                seen.append(outcome)
                if len(seen) == 20:
                    break
        everything = seen + batch.unread
        assert sorted(o.index for o in everything) == list(range(batch.progress.read))
        assert batch.tally.charged == len(vendor.requests) == sum(o.ok for o in everything)
        assert batch.tally.unknown == 0
        for outcome in everything:
            if not outcome.ok:
                assert isinstance(outcome.error, NotSentError)
                assert outcome.charge is FREE
                assert "stopped" in str(outcome.error)
        assert closed == [True]


@virtual
async def test_what_does_not_finish_in_time_is_unknown() -> None:
    loop = asyncio.get_running_loop()
    async with client_of(slow(1e4), deadline=None) as client:
        start = loop.time()
        async with client.batch(asks(50), concurrency=5, drain_timeout=3) as batch:
            await asyncio.sleep(0.1)
        assert 3 <= loop.time() - start < 4
        unknown = [o for o in batch.unread if o.charge is UNKNOWN]
        assert len(unknown) == batch.tally.unknown == client.tally.unknown == 5
        assert all(isinstance(o.error, OutcomeUnknownError) for o in unknown)
        assert len(batch.unread) == batch.progress.read


@virtual
async def test_stop_from_elsewhere() -> None:
    vendor = slow(1)
    async with client_of(vendor) as client:
        batch = client.batch(asks(10_000), concurrency=10)
        asyncio.get_running_loop().call_later(3.5, batch.stop)
        outcomes = await taken(batch)
        assert sorted(o.index for o in outcomes) == list(range(batch.progress.read))
        assert sum(o.ok for o in outcomes) == len(vendor.requests) == 40


@virtual
async def test_stop_while_calls_wait_to_be_repeated() -> None:
    vendor = in_turn(httpx.Response(429, headers={"Retry-After": "100"}))
    async with client_of(vendor, deadline=None) as client:
        async with client.batch(asks(5)) as batch:
            await asyncio.sleep(1)
            assert batch.progress.waiting == 5
        assert len(batch.unread) == 5
        assert all(isinstance(o.error, RetryLaterError) and o.charge is FREE for o in batch.unread)
    assert len(vendor.requests) == 5


@virtual
async def test_cancelling_from_outside() -> None:
    loop = asyncio.get_running_loop()
    async with client_of(slow(1e4), deadline=None) as client:
        batch = client.batch(asks(50), concurrency=5)

        async def consume() -> None:
            async with batch:
                async for _ in batch:
                    pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(1)
        start = loop.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() - start == pytest.approx(GRACE, abs=0.1)
        assert len(batch.unread) == batch.progress.read
        assert sum(o.charge is UNKNOWN for o in batch.unread) == 5 == client.tally.unknown


@virtual
async def test_cancelling_twice_does_not_wait() -> None:
    loop = asyncio.get_running_loop()
    async with client_of(slow(1e4), deadline=None) as client:
        batch = client.batch(asks(50), concurrency=5)
        task = asyncio.create_task(taken(batch))
        await asyncio.sleep(1)
        start = loop.time()
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() - start < 1
        assert sum(o.charge is UNKNOWN for o in batch.unread) == 5


@pytest.mark.parametrize("times", [2, 3, 5])
@virtual
async def test_cancelling_again_takes_no_outcome_away(times: int) -> None:
    """What was sent is recorded, which takes a while, and comes out."""
    store = Notes(blocked=["end"])
    async with client_of(slow(1e4), deadline=None, ledger=store) as client:
        batch = client.batch(asks(50), concurrency=5)
        task = asyncio.create_task(taken(batch))
        await asyncio.sleep(1)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        store.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(o.index for o in batch.unread) == [*range(batch.progress.read)]
        assert sum(o.charge is UNKNOWN for o in batch.unread) == 5 == client.tally.unknown == len(store.results)


@virtual
async def test_an_error_in_the_loops_body_comes_out_as_it_is() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.batch(asks(5)) as batch:
                async for _ in batch:
                    raise ZeroDivisionError


async def test_misuse() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        with pytest.raises(ConfigurationError, match="async with client.batch"):
            async for _ in client.batch(asks(1)):
                pass
        with pytest.raises(ConfigurationError, match="is no list of calls"):
            client.batch(WhatsAppDetail("6281300000"))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="is no list of calls"):
            client.batch("6281300000")  # type: ignore[arg-type]
        for concurrency in (0, -1, True, 1.5, "9"):
            with pytest.raises(ConfigurationError, match="concurrency"):
                client.batch([], concurrency=concurrency)  # type: ignore[arg-type]
        for options in ({"recheck": 5}, {"drain_timeout": "x"}, {"drain_timeout": -1}, {"total": -1}, {"total": "x"}):
            with pytest.raises(ConfigurationError):
                client.batch([], **options)
        batch = client.batch(asks(1))
        await taken(batch)
        with pytest.raises(ConfigurationError, match="runs once"):
            await taken(batch)


async def test_a_bug_in_one_call_does_not_take_the_others_down() -> None:
    class Odd(WhatsAppDetail):
        @property
        def servstatus(self) -> bool:
            raise RuntimeError("a property that fails")

    odd = object.__new__(Odd)
    for name, value in {"number": "62813", "country": None, "callback": None, "key": "odd"}.items():
        object.__setattr__(odd, name, value)
    async with client_of(in_turn(ok_whatsapp())) as client:
        outcomes = await taken(client.batch([*asks(3), odd, *asks(3)]))
    assert [o.ok for o in sorted(outcomes, key=lambda o: o.index)] == [True, True, True, False, True, True, True]


# --------------------------------------------------------------------------------------------- in the large


@pytest.mark.no_cover
@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_every_call_read_comes_out_exactly_once(data: st.DataObject) -> None:
    """Whatever fails, wherever it is stopped."""
    count = data.draw(st.integers(0, 120))
    concurrency = data.draw(st.integers(1, 30))
    ordered = data.draw(st.booleans())
    leave_after = data.draw(st.none() | st.integers(0, 100))
    cancel_at = data.draw(st.none() | st.floats(0, 4))
    fail_at = data.draw(st.none() | st.integers(0, 120))
    seed = data.draw(st.integers(0, 2**32))

    @virtual
    async def run() -> None:
        rng = random.Random(seed)
        answered = {CHARGED: 0, FREE: 0}
        read = 0

        async def script(request: httpx.Request, number: int) -> httpx.Response:
            await asyncio.sleep(rng.choice([0, 0, 0.01, 0.5, 2]))
            what = rng.random()
            if what < 0.5:
                answered[CHARGED] += 1
                return ok_whatsapp()
            if what < 0.7:
                answered[FREE] += 1
                return says("RETRY_LATER", "busy")
            if what < 0.8:
                answered[FREE] += 1
                return says("FAIL", "no")
            if what < 0.9:
                raise httpx.ReadTimeout("lost")
            answered[FREE] += 1
            return httpx.Response(429, headers={"Retry-After": "2"})

        def source() -> Iterator[WhatsAppDetail]:
            nonlocal read
            for call in asks(count):
                if call.key == fail_at:
                    raise LookupError
                read += 1
                yield call

        seen: list[Outcome] = []
        async with client_of(Vendor(script), retry=Retry(max_retries=2), deadline=20) as client:
            batch = client.batch(source(), concurrency=concurrency, ordered=ordered, drain_timeout=1)

            async def consume() -> None:
                async with batch:
                    async for outcome in batch:
                        seen.append(outcome)
                        if len(seen) == leave_after:
                            break

            task = asyncio.create_task(consume())
            if cancel_at is not None:
                asyncio.get_running_loop().call_later(cancel_at, task.cancel)
            await asyncio.wait({task})
            everything = seen + batch.unread
            assert sorted(o.index for o in everything) == list(range(read)) == list(range(batch.progress.read))
            if ordered:
                assert [o.index for o in seen] == list(range(len(seen)))
            assert batch.tally == client.tally
            assert batch.tally.charged == answered[CHARGED]
            assert batch.tally.free <= answered[FREE] + 30  # cancelled in encoding is nothing; not sent is free
            if task.cancelled():
                assert cancel_at is not None
            elif task.exception() is not None:
                assert fail_at is not None
                assert isinstance(task.exception(), LookupError)
            for outcome in everything:
                assert (outcome.reply is None) != (outcome.error is None)
                assert isinstance(outcome.error, AISolutionError | None)
        assert len(asyncio.all_tasks()) == 1

    run()


@pytest.mark.no_cover
@virtual
async def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.batching.twins.REMEMBERED", 700)
    vendor = Vendor(lambda request, number: ok_whatsapp())
    vendor.requests = _Nothing()
    async with client_of(vendor) as client:
        sizes = []
        tracemalloc.start()
        # So many answers are remembered: it is flat from there.
        async with client.batch(asks(3_000), concurrency=50) as batch:
            async for outcome in batch:
                if outcome.index in (250, 900, 2_900):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 450_000
    assert sizes[2] - sizes[1] < 130_000


class _Nothing(list[httpx.Request]):
    def append(self, _: httpx.Request) -> None:
        pass


# ---------------------------------------------------------------------------------------------- a client closed


@pytest.mark.parametrize("ordered", [True, False])
@virtual
async def test_a_client_closed_meanwhile(ordered: bool) -> None:
    """What was sent comes out of the loop, then one error; what was not sent is in `unread`. Each call once."""
    vendor = slow(1)
    client = client_of(vendor)
    outcomes: list[Outcome] = []
    batch = client.batch(asks(1000), concurrency=100, ordered=ordered)
    with pytest.raises(ConfigurationError, match="the client was closed while the batch was running"):
        async with batch:
            await asyncio.sleep(0.5)
            await client.aclose()
            async for outcome in batch:
                outcomes.append(outcome)  # noqa: PERF401  # those before the error count
    assert len(vendor.requests) == 100
    assert [o.charge for o in outcomes] == [CHARGED] * len(vendor.requests)
    assert sorted(o.index for o in (*outcomes, *batch.unread)) == list(range(batch.progress.read))
    assert {str(o.error) for o in batch.unread} == {"gliswadetail: not sent: the client was closed before it was sent"}
    assert batch.tally.charged == len(vendor.requests)
    assert batch.progress.done == batch.progress.read
    if ordered:
        assert [o.index for o in outcomes] == list(range(len(outcomes)))
    with pytest.raises(StopAsyncIteration):  # it was said once
        await anext(batch)


@virtual
async def test_a_client_closed_while_all_its_batches_wait() -> None:
    """For repeats, for the input, for a free place, for a number that is checked: none of them goes on waiting."""
    loop = asyncio.get_running_loop()

    async def stuck() -> AsyncIterator[WhatsAppDetail]:
        for call in asks(3):
            yield call
        await asyncio.sleep(1e9)

    def script(request: httpx.Request, number: int) -> httpx.Response:
        busy = httpx.Response(429, headers={"Retry-After": "500"})
        return ok_whatsapp("checking") if number_of(request) >= 100 else busy

    client = client_of(Vendor(script), deadline=None)
    batches = [
        client.batch(asks(5)),
        client.batch(stuck()),
        client.batch(asks(5), rate=0.001),
        client.batch(asks(5, first=100), recheck=Recheck()),
    ]
    running = [asyncio.create_task(taken(batch)) for batch in batches]
    await asyncio.sleep(1)
    start = loop.time()
    await client.aclose()
    for error in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(error, ConfigurationError)
    assert loop.time() == start
    for batch in batches:
        assert batch.progress.done == batch.progress.read
        assert batch.progress.waiting == 0


@virtual
async def test_a_client_closed_under_a_batch_that_is_left_or_over() -> None:
    client = client_of(slow(1))
    over, left, stopped = (client.batch(asks(30), concurrency=10) for _ in range(3))
    await taken(over)
    async with left, stopped:
        await anext(left)
        await anext(stopped)
        stopped.stop()
        await left.__aexit__(None, None, None)
        await client.aclose()
        assert all([o.ok or isinstance(o.error, NotSentError) async for o in stopped])  # no error of its own
    with pytest.raises(ConfigurationError, match="the client is closed"):
        await taken(client.batch(asks(1)))


@virtual
async def test_a_client_closed_while_images_are_read() -> None:
    """Calls that are about to be sent are not sent, and no failures of the loop."""
    entered = asyncio.Event()
    go_on = asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        entered.set()
        await go_on.wait()
        return says("OK", [])

    vendor = Vendor(script)
    client = client_of(vendor)
    calls = [SearchFace(_Slow(entered)) for _ in range(20)]
    batch = client.batch([SearchFace(picture(1)), *calls], concurrency=10)
    with pytest.raises(ConfigurationError, match="was closed"):
        async with batch:
            await entered.wait()
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0)
            go_on.set()
            outcomes = []
            async for outcome in batch:
                outcomes.append(outcome)  # noqa: PERF401  # those before the error count
    await closing
    assert [o.charge for o in outcomes] == [CHARGED] * len(vendor.requests)
    assert len(outcomes) + len(batch.unread) == batch.progress.read


class _Slow(io.BytesIO):
    """A file that cannot be read before something was sent."""

    def __init__(self, sent: asyncio.Event) -> None:
        super().__init__(picture(2))
        self._sent = sent

    def read(self, size: int | None = -1, /) -> bytes:
        while not self._sent.is_set():
            time.sleep(0.001)
        return super().read(size)


async def test_a_client_closed_has_a_ledger_that_knows_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    path = tmp_path / "ledger.db"
    async with desk.client(ledger=path) as client:
        batch = client.batch(asks(100), concurrency=30)
        with pytest.raises(ConfigurationError, match="was closed"):
            async with batch:
                for _ in range(30):
                    request = await desk.waiting.get()
                request.answer()
                assert (await anext(batch)).ok
                await client.aclose()
                assert [o.charge async for o in batch] == [UNKNOWN] * (batch.tally.total - batch.tally.charged)
    async with Ledger(path) as ledger:
        summary = ledger.summary()
        assert summary.held == batch.tally.unknown > 0
        assert sum(line.attempts for line in summary.lines) == batch.tally.total
    assert not caplog.records  # nor is the vendor taken to be down


@virtual
async def test_a_client_closed_records_what_is_still_answered(tmp_path: Path) -> None:
    client = client_of(slow(10), ledger=tmp_path / "ledger.db")
    batch = client.batch(asks(5))
    running = asyncio.create_task(taken(batch))
    await asyncio.sleep(1)
    await client.aclose()
    with pytest.raises(ConfigurationError, match="was closed"):
        await running
    assert batch.tally.charged == 5
    async with Ledger(tmp_path / "ledger.db") as ledger:
        assert (ledger.summary().answers, ledger.summary().held) == (5, 0)


async def test_a_client_closed_while_a_batch_is_entered(tmp_path: Path) -> None:
    vendor = slow(1)
    client = client_of(vendor, ledger=tmp_path / "ledger.db")
    entering = asyncio.create_task(taken(client.batch(asks(100))))
    await asyncio.sleep(0)  # the ledger is being opened
    await client.aclose()
    with pytest.raises(ConfigurationError, match="the client is closed"):
        await entering
    assert vendor.requests == []


# ---------------------------------------------------------------------------------------------------- how it looks


@virtual
async def test_how_a_batch_looks() -> None:
    async with client_of(slow(1)) as client:
        batch = client.batch(asks(30), concurrency=10, total=30)
        assert repr(batch) == (
            "<Batch, not entered: 0 of 30 read, 0 waiting, 0 in flight, 0 ok, 0 failed, "
            "Tally(charged=0, free=0, unknown=0)>"
        )
        async with batch:
            await anext(batch)
            assert repr(batch).startswith("<Batch, running: 30 of 30 read, 10 waiting, 10 in flight, 10 ok, 0 failed, ")
            assert await asyncio.to_thread(repr, batch) == repr(batch)
            assert await asyncio.to_thread(lambda: batch.progress) == batch.progress
            batch.stop()
            assert repr(batch).startswith("<Batch, stopping: 30 of 30 read, 0 waiting, 10 in flight, 10 ok, 10 failed")
    assert repr(batch) == (
        "<Batch, over: 30 of 30 read, 0 waiting, 0 in flight, 20 ok, 10 failed, Tally(charged=20, free=0, unknown=0)>"
    )
    assert repr(client.batch([])).startswith("<Batch, not entered: 0 read, ")
    assert TOKEN not in repr(batch)


async def test_a_transport_that_is_cancelled_within_ends_one_call() -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        if number == 1:
            raise asyncio.CancelledError
        return ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        outcomes = await client.collect(asks(5), concurrency=1)
    assert [outcome.charge for outcome in outcomes if outcome.ok] == [Charge.CHARGED] * 4
    assert isinstance(outcomes[1].error, OutcomeUnknownError)
    assert (client.tally.charged, client.tally.unknown) == (4, 1)


async def test_a_client_whose_closing_is_cut_off_closes_all_the_same(tmp_path: Path) -> None:
    go, reached = asyncio.Event(), asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        reached.set()
        await go.wait()
        return ok_whatsapp()

    client = client_of(Vendor(script), ledger=tmp_path / "l")
    batch = client.batch(asks(1))
    running = asyncio.ensure_future(taken(batch))
    await reached.wait()
    closing = asyncio.ensure_future(client.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    again = asyncio.ensure_future(client.aclose())
    go.set()
    await again
    with pytest.raises(ConfigurationError, match="the client was closed"):
        await running
    assert not [thread for thread in threading.enumerate() if thread.name == "aisolution-ledger"]


async def test_an_input_that_closes_the_client_closes_it() -> None:
    class Slow(Vendor):
        async def aclose(self) -> None:
            await asyncio.sleep(0)
            await super().aclose()

    vendor = Slow(lambda request, number: ok_whatsapp())

    async def calls() -> AsyncIterator[WhatsAppDetail]:
        for call in asks(3):
            yield call
        await client.aclose()

    client = client_of(vendor)
    with pytest.raises(ConfigurationError, match="the client was closed"):
        await client.collect(calls())
    await client.aclose()
    assert vendor.closed == 1


async def test_a_batch_that_is_cancelled_as_it_is_entered_closes_its_ledger(tmp_path: Path) -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        entering = asyncio.ensure_future(client.batch(asks(1), ledger=tmp_path / "l").__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait({entering})
        assert entering.cancelled()
        assert not [thread for thread in threading.enumerate() if thread.name == "aisolution-ledger"]
