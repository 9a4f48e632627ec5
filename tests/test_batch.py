"""Many calls at once: lazy intake, permits, order, failures as values, stopping."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator
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
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    Retry,
    RetryLaterError,
    SearchFace,
    WhatsAppDetail,
)
from aisolution_async.batching import GRACE, WINDOW

from .support import Vendor, client_of, in_turn, ok_whatsapp, picture, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN


def asks(count: int) -> Iterator[WhatsAppDetail]:
    for number in range(count):
        yield WhatsAppDetail(f"62813{number:08}", key=number)


async def asks_later(count: int) -> AsyncIterator[WhatsAppDetail]:
    for call in asks(count):
        await asyncio.sleep(0.001)
        yield call


def number_of(request: httpx.Request) -> int:
    return int(request.content.removeprefix(b"number=62813")[:8])


async def taken(batch: Batch[Any]) -> list[Outcome]:
    async with batch:
        return [outcome async for outcome in batch]


def slow(seconds: float) -> Vendor:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(seconds)
        return ok_whatsapp()

    return Vendor(script)


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


@virtual
async def test_in_the_inputs_order() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(random.random() if number else 60)  # the first one is stuck
        return ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        batch = client.batch(asks(400), concurrency=20, ordered=True)
        async with batch:
            assert (await anext(batch)).index == 0
            assert len(vendor.requests) <= 20 + WINDOW  # the stuck head held back the intake
            assert [o.index async for o in batch] == list(range(1, 400))


# ------------------------------------------------------------------------------------- intake and permits


@virtual
async def test_the_input_is_read_lazily() -> None:
    read = 0

    def counted() -> Iterator[WhatsAppDetail]:
        nonlocal read
        for call in asks(10_000):
            read += 1
            yield call

    async with client_of(slow(0.01)) as client, client.batch(counted(), concurrency=10) as batch:
        await asyncio.sleep(5)  # nobody takes an outcome
        assert read == 10 + WINDOW
        for taken in range(1, 60):
            await anext(batch)
            await asyncio.sleep(1)
            assert read <= 10 + WINDOW + taken
        assert read > 10 + WINDOW + 30
        batch.stop()


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


@pytest.mark.parametrize("source", ["sync", "async"])
@virtual
async def test_an_input_that_fails(source: str) -> None:
    def breaks() -> Iterator[WhatsAppDetail]:
        yield from asks(30)
        raise LookupError("the database went away")

    async def breaks_later() -> AsyncIterator[WhatsAppDetail]:
        for call in breaks():
            yield call

    async with client_of(slow(1)) as client:
        seen = []
        batch = client.batch(breaks() if source == "sync" else breaks_later(), concurrency=7)
        with pytest.raises(LookupError, match="went away"):
            async with batch:
                async for outcome in batch:
                    seen.append(outcome.index)  # noqa: PERF401  # those before the error count
        assert sorted(seen) == list(range(30))
        assert client.tally.charged == 30


@pytest.mark.parametrize("source", ["sync", "async"])
@virtual
async def test_something_cancelled_within_the_input(source: str) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(100))
        task.cancel()
        await task

    async def later() -> AsyncIterator[WhatsAppDetail]:
        for call in asks(3):
            yield call
        await cancelled()

    def now() -> Iterator[WhatsAppDetail]:
        yield from asks(3)
        raise asyncio.CancelledError

    async with client_of(slow(1)) as client:
        seen = []
        with pytest.raises(RuntimeError, match="was cancelled"):
            async with client.batch(later() if source == "async" else now()) as batch:
                async for outcome in batch:
                    seen.append(outcome)  # noqa: PERF401
        assert [outcome.charge for outcome in seen] == [CHARGED] * 3


@virtual
async def test_an_input_that_raises_what_ends_a_loop() -> None:
    class Odd:
        def __iter__(self) -> Iterator[WhatsAppDetail]:
            return self

        def __next__(self) -> WhatsAppDetail:
            raise StopAsyncIteration

    async with client_of(in_turn(ok_whatsapp())) as client:
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await taken(client.batch(Odd()))


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
async def test_a_slow_input_does_not_hold_up_the_stop() -> None:
    async def stuck() -> AsyncIterator[WhatsAppDetail]:
        for call in asks(2):
            yield call
        await asyncio.sleep(1e9)

    async with client_of(in_turn(ok_whatsapp())) as client:
        async with client.batch(stuck()) as batch:
            assert (await anext(batch)).ok
        assert len(batch.unread) == 1


@virtual
async def test_an_input_that_takes_for_ever_to_close() -> None:
    async def source() -> AsyncIterator[WhatsAppDetail]:
        try:
            for call in asks(5):
                yield call
            await asyncio.sleep(1e9)
        finally:
            await asyncio.sleep(1e9)

    loop = asyncio.get_running_loop()
    async with client_of(in_turn(ok_whatsapp())) as client:
        start = loop.time()
        async with client.batch(source(), drain_timeout=3) as batch:
            await anext(batch)
        assert loop.time() - start < 7
        assert len(batch.unread) == 4


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


@virtual
async def test_a_client_closed_meanwhile() -> None:
    client = client_of(slow(1))
    outcomes = []
    async with client.batch(asks(20), concurrency=5) as batch:
        async for outcome in batch:
            outcomes.append(outcome)
            await client.aclose()
    assert sorted(o.index for o in outcomes) == list(range(20))
    assert any(isinstance(o.error, ConfigurationError) for o in outcomes)


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


@settings(max_examples=60, deadline=None)
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


@virtual
async def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.batching.twins.REMEMBERED", 2_000)
    vendor = Vendor(lambda request, number: ok_whatsapp())
    vendor.requests = _Nothing()
    async with client_of(vendor) as client:
        sizes = []
        tracemalloc.start()
        # So many answers are remembered: it is flat from there.
        async with client.batch(asks(7_000), concurrency=50) as batch:
            async for outcome in batch:
                if outcome.index in (500, 2_500, 6_900):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 1_500_000
    assert sizes[2] - sizes[1] < 300_000


class _Nothing(list[httpx.Request]):
    def append(self, _: httpx.Request) -> None:
        pass
