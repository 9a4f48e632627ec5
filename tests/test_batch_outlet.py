"""Outcomes on their way out: their order, how many, how fast."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import Failed, InputError, Outcome, WhatsAppProfile
from aisolution_async.batching import WINDOW
from aisolution_async.batching.outlet import Outlet, Pace

from .batches import asks, taken
from .support import Vendor, client_of, in_turn, ok_whatsapp, virtual


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


@virtual
async def test_progress() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.1)
        return ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        batch = client.batch(asks(1000), concurrency=10, total=1000)
        before = batch.progress
        assert (before.done, before.rate, before.left, before.elapsed) == (0, 0, None, 0)
        async with batch:
            async for outcome in batch:
                if outcome.index == 500:
                    break
            now = batch.progress
            assert now.rate == pytest.approx(100, rel=0.1)
            assert now.left == pytest.approx((1000 - now.done) / now.rate)
            assert now.limit == 10
            assert now.elapsed == pytest.approx(5, abs=0.3)
            assert now.in_flight in range(8, 11)
            assert not now.braked
            batch.stop()


async def test_what_comes_from_the_ledger_is_no_speed(tmp_path: Path) -> None:
    vendor = in_turn(ok_whatsapp())
    for sent in (True, False):
        async with client_of(vendor, ledger=tmp_path / "a.ledger") as client:
            batch = client.batch(asks(10), total=20)
            await taken(batch)
            progress = batch.progress
            assert (progress.done, progress.from_ledger) == (10, 0 if sent else 10)
            assert (progress.rate > 0, progress.share, progress.left is None) == (sent, float(sent), not sent)
    assert len(vendor.requests) == 10


def pace(*seconds: tuple[int, int]) -> tuple[float, float]:
    """The rate and the share after seconds in which so many were sent, and so many came from the ledger."""
    made = Pace()
    made.start(100.0, lambda: 100.0)
    for second, (sent, stored) in enumerate(seconds, 100):
        for place in range(sent + stored):
            made.count(second + place / (sent + stored), sent=place < sent)
    made.end(100.0 + len(seconds))
    rate, share, _ = made.look()
    return rate, share


def test_the_pace_of_a_run_that_goes_on_from_a_ledger() -> None:
    assert pace((0, 20_000), (0, 20_000)) == (0.0, 0.0)
    rate, share = pace((0, 20_000), (0, 20_000), (10, 20_000), (100, 0), (100, 0), (100, 0))
    assert rate == pytest.approx(100, rel=0.25)
    rate, share = pace((0, 20_000), (0, 20_000), (10, 20_000), *[(100, 0)] * 6)
    assert rate == pytest.approx(100, rel=0.25)
    assert share == 1.0
    rate, share = pace(*[(100, 1900), (100, 1800), (100, 2000)] * 3)  # what has to be mended is all over the list
    assert rate == pytest.approx(100, rel=0.25)
    assert share == pytest.approx(0.05, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_any_pace_is_within_what_there_was(seconds: list[tuple[int, int]]) -> None:
    rate, share = pace(*seconds)
    assert 0 <= rate <= 1.01 * sum(sent for sent, _ in seconds[-7:])
    assert 0 <= share <= 1
    assert not rate or any(sent for sent, _ in seconds[-7:])


async def test_progress_after_the_loop_is_over() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        batch = client.batch(asks(10))
        await taken(batch)
    first = batch.progress
    assert batch.progress == first
    assert await asyncio.to_thread(lambda: batch.progress.done) == 10


# ------------------------------------------------------------------------------------------------ the outlet by itself


def _failed(index: int) -> Failed:
    return Failed(index, None, None, None, InputError(f"item {index}"), ())


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.booleans(), st.booleans())
def test_each_outcome_comes_out_once(order: list[int], aside: set[int], ordered: bool, fails: bool) -> None:
    """In the input's order if it is to be, without those that are put aside, and then the error, once."""

    @virtual
    async def run() -> None:
        told: list[Outcome] = []
        outlet: Outlet[WhatsAppProfile] = Outlet(ordered=ordered, hook=told.append)
        for number, index in enumerate(order):
            if number == 6:
                outlet.expect(12)
            assert not outlet.complete.is_set()
            outlet.put(_failed(index), aside=index in aside)
        assert outlet.complete.is_set()
        assert [outcome.index for outcome in told] == order
        if fails:
            outlet.fail(LookupError())
            outlet.fail(ValueError())  # the first one counts
        outlet.end()
        expected = [index for index in (sorted(order) if ordered else order) if index not in aside]
        assert [(await outlet.take()).index for _ in expected] == expected
        if fails:
            with pytest.raises(LookupError):
                await outlet.take()
        with pytest.raises(StopAsyncIteration):
            await outlet.take()
        assert {outcome.index for outcome in outlet.left()} == aside
        assert outlet.left() == []

    run()


@virtual
async def test_a_consumer_that_waits_is_woken() -> None:
    outlet: Outlet[WhatsAppProfile] = Outlet(ordered=True, hook=None)
    consumer = asyncio.create_task(outlet.take())
    await asyncio.sleep(1)
    outlet.put(_failed(1))
    await asyncio.sleep(1)
    assert not consumer.done()
    outlet.put(_failed(0))
    assert (await consumer).index == 0
