"""How many at once, how fast, how often again: shown on whole batches, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from aisolution_async import (
    Adaptive,
    Batch,
    Charge,
    ConfigurationError,
    DeleteFace,
    NotSentError,
    Retry,
    WhatsAppDetail,
)
from aisolution_async.limits import Gate

from .batches import Desk, asks, taken
from .support import LAST_RESORT, Vendor, client_of, in_turn, ok_whatsapp, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN


class Busy:
    """A vendor that can do so many calls a second (with a little slack), and says RETRY_LATER to the others."""

    def __init__(self, *steps: tuple[float, float], latency: float = 0.05) -> None:
        self.steps = steps
        self.latency = latency
        self.answered: Counter[int] = Counter()
        self.rejected: Counter[int] = Counter()
        self._start = self._at = asyncio.get_running_loop().time()
        self._tokens = 20.0
        self._rng = random.Random(3)

    def time(self) -> float:
        return asyncio.get_running_loop().time() - self._start

    async def __call__(self, request: httpx.Request, number: int) -> httpx.Response:
        now = self.time()
        capacity = [calls for since, calls in self.steps if now >= since][-1]
        self._tokens = min(20.0, self._tokens + (now + self._start - self._at) * capacity)
        self._at = now + self._start
        if self._tokens < 1:
            self.rejected[int(now)] += 1
            await asyncio.sleep(0.001)
            return says("RETRY_LATER", "busy")
        self._tokens -= 1
        self.answered[int(now)] += 1
        await asyncio.sleep(self.latency * self._rng.uniform(0.7, 1.3))
        return ok_whatsapp()


async def run_for(seconds: float, vendor: Vendor, **options: Any) -> None:
    async with client_of(vendor, retry=Retry(max_retries=50), deadline=None) as client:
        async with client.batch(asks(10**7), drain_timeout=0, **options) as batch:
            asyncio.get_running_loop().call_later(seconds, batch.stop)
            async for _ in batch:
                pass


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("most", "latency"),
    [(100, 0.2), *(pytest.param(300, latency, marks=pytest.mark.long) for latency in (0.01, 0.05, 0.2))],
)
@virtual
async def test_adaptive_finds_what_the_vendor_can_do(most: int, latency: float) -> None:
    busy = Busy((0, most), latency=latency)
    await run_for(20, Vendor(busy), concurrency=Adaptive(max=500))
    assert max(busy.answered[second] for second in range(1, 10)) >= 0.9 * most
    assert sum(busy.answered[second] for second in range(10, 20)) >= 0.9 * 10 * most
    assert sum(busy.rejected.values()) <= 0.05 * (sum(busy.rejected.values()) + sum(busy.answered.values()))


@pytest.mark.no_cover
@pytest.mark.parametrize("most", [100, pytest.param(300, marks=pytest.mark.long)])
@virtual
async def test_adaptive_follows_the_vendor_down_and_up(most: int) -> None:
    busy = Busy((0, most), (10, most / 2), (20, most))
    await run_for(30, Vendor(busy), concurrency=Adaptive())
    assert sum(busy.answered[second] for second in (12, 13, 14, 15, 16)) >= 0.9 * 5 * most / 2
    assert max(busy.answered[second] for second in range(21, 30)) >= 0.9 * most
    assert sum(busy.rejected.values()) <= 0.05 * (sum(busy.rejected.values()) + sum(busy.answered.values()))


@virtual
async def test_adaptive_has_bounds_and_does_not_grow_unused() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.1)
        return ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        await taken(client.batch(asks(500), concurrency=Adaptive(min=2, max=9)))
        assert vendor.most_in_flight == 9

        async def drops() -> AsyncIterator[WhatsAppDetail]:
            for call in asks(40):
                await asyncio.sleep(0.3)
                yield call

        batch = client.batch(drops(), concurrency=Adaptive(min=2, max=9), dedupe=False)
        await taken(batch)
        assert batch.progress.limit <= 3


@pytest.mark.no_cover
@virtual
async def test_adaptive_is_per_endpoint() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    done: dict[str, float] = {}

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.05)
        if request.url.path == "/v1/delface":
            return says("RETRY_LATER", "busy") if number % 3 else says("OK")  # at whatever pace
        return ok_whatsapp()

    def mixed() -> Iterator[Any]:
        for number, call in enumerate(asks(3000)):
            yield call
            if number % 100 == 0:
                yield DeleteFace(f"p{number}")

    async with client_of(Vendor(script), retry=Retry(max_retries=100, first=0.05, longest=0.1)) as client:
        async with client.batch(mixed(), concurrency=Adaptive()) as batch:
            async for outcome in batch:
                assert outcome.ok
                assert outcome.call is not None
                done[outcome.call.endpoint.name] = loop.time() - start
    assert done["gliswadetail"] < 6
    assert 6 < done["delface"] < 60


@pytest.mark.parametrize("bounds", [{"min": 0}, {"min": 5, "max": 4}, {"max": 1.5}, {"min": True}])
def test_adaptive_checks_its_bounds(bounds: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Adaptive"):
        Adaptive(**bounds)


# ------------------------------------------------------------------------------------------------- the rate


@virtual
async def test_a_rate_is_smooth_and_has_no_opening_burst() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def script(request: httpx.Request, number: int) -> httpx.Response:
        times.append(loop.time())
        return ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        await taken(client.batch(asks(200), rate=20))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[-1] - times[0] == pytest.approx(199 / 20, rel=0.02)
    assert min(gaps) > 0.02


@virtual
async def test_a_clients_rate_is_shared_by_its_batches_and_single_calls() -> None:
    loop = asyncio.get_running_loop()
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor, rate=50) as client:
        start = loop.time()
        await asyncio.gather(
            taken(client.batch(asks(100))),
            taken(client.batch(asks(100), dedupe=False)),
            *(client.whatsapp_detail(f"62813{n:08}") for n in range(50)),
        )
        assert loop.time() - start == pytest.approx(250 / 50, rel=0.1)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), True, "9"])
async def test_a_rate_is_checked(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate"):
        client_of(in_turn(ok_whatsapp()), rate=rate)
    async with client_of(in_turn(ok_whatsapp())) as client:
        with pytest.raises(ConfigurationError, match="rate"):
            client.batch([], rate=rate)


@virtual
async def test_a_rate_that_leaves_no_time_is_known_at_once() -> None:
    loop = asyncio.get_running_loop()
    async with client_of(in_turn(ok_whatsapp()), rate=0.1, deadline=3) as client:
        await client.whatsapp_detail("6281300000")
        start = loop.time()
        with pytest.raises(NotSentError, match="the rate leaves no time"):
            await client.whatsapp_detail("6281300001")
        assert loop.time() == start


@virtual
async def test_retry_after_stops_everyone() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        times.append(loop.time())
        await asyncio.sleep(0.1)
        return httpx.Response(429, headers={"Retry-After": "40"}) if number == 20 else ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        first, second = client.batch(asks(60), concurrency=5), client.batch(asks(60), concurrency=5, dedupe=False)
        outcomes = await asyncio.gather(taken(first), taken(second))
    assert all(outcome.ok for batch in outcomes for outcome in batch)
    gap = max(later - earlier for earlier, later in pairwise(times))
    assert 39 < gap <= 41


# --------------------------------------------------------------------------------- repeats and the brake


@virtual
async def test_repeats_are_rationed_and_not_failed() -> None:
    """Half of the attempts fail; repeats in vain stay within a fifth of first attempts and ten a second."""
    loop = asyncio.get_running_loop()
    tries: Counter[bytes] = Counter()
    repeats: list[float] = []
    rng = random.Random(1)

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.05)
        tries[request.content] += 1
        if rng.random() < 0.5:
            if tries[request.content] > 1:
                repeats.append(loop.time())
            return says("RETRY_LATER", "busy")
        return ok_whatsapp()

    async with client_of(Vendor(script), retry=Retry(max_retries=30, first=0.01, longest=0.1)) as client:
        start = loop.time()
        outcomes = await taken(client.batch(asks(400), concurrency=40))
        took = loop.time() - start
    assert all(outcome.ok for outcome in outcomes)
    assert len(repeats) <= 0.2 * 400 + 10 * took + 20


@pytest.mark.no_cover
@virtual
async def test_a_vendor_that_is_down_for_a_minute() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    down = 0

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        nonlocal down
        if 5 <= loop.time() - start < 65:
            down += 1
            await asyncio.sleep(0.01)
            raise httpx.ConnectError("refused")
        await asyncio.sleep(0.5)
        return ok_whatsapp()

    vendor = Vendor(script)
    braked = []
    async with client_of(vendor) as client:
        batch = client.batch(asks(1_000), concurrency=40)
        loop.call_later(40, lambda: braked.append(batch.progress.braked))
        outcomes = await taken(batch)
    assert len(outcomes) == 1_000
    assert all(outcome.ok for outcome in outcomes)
    assert down < 200
    assert braked == [True]
    assert not batch.progress.braked


@virtual
async def test_a_batch_gives_a_vendor_up_that_stays_down() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.5)
        if 5 <= loop.time() - start < 65 or loop.time() - start > 100:
            raise httpx.ConnectError("refused")
        return ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        batch = client.batch(asks(10**6), concurrency=10, give_up=120)
        outcomes = await taken(batch)
    left = [outcome for outcome in outcomes if not outcome.ok]
    assert 0 < len(left) == batch.progress.failed <= 10 + 64
    for outcome in left:
        assert isinstance(outcome.error, NotSentError)
        assert outcome.charge is FREE
        assert not outcome.attempts or outcome.attempts[-1].error is not None
    words = "the vendor has not answered for 120 s, and the batch gave up"
    assert any(words in str(outcome.error) for outcome in left)
    assert 220 < loop.time() - start < 230  # a minute without answers is no reason yet


@virtual
async def test_what_is_not_sent_takes_no_turn_of_the_rate() -> None:
    loop = asyncio.get_running_loop()
    async with client_of(in_turn(ok_whatsapp())) as client:
        start = loop.time()
        await taken(client.batch(asks(200, distinct=1), rate=10))
        await taken(client.batch([WhatsAppDetail("12")] * 200, rate=10))
        assert loop.time() - start < 1


@virtual
async def test_a_long_outage_uses_up_no_repeats() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()

    def script(request: httpx.Request, number: int) -> httpx.Response:
        return ok_whatsapp() if loop.time() - start > 1800 else httpx.Response(503)

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(300), concurrency=50))
    assert all(outcome.ok for outcome in outcomes)
    assert len(vendor.requests) < 300 + 600


# ------------------------------------------------------------------------------------------ sharing the client


async def test_a_single_call_gets_past_a_batch() -> None:
    desk = Desk()
    async with desk.client(max_connections=10) as client, client.batch(asks(1000), concurrency=200) as batch:
        under_way = [await desk.waiting.get() for _ in range(10)]
        for number in range(3):
            single = asyncio.create_task(client.whatsapp_detail(f"628999990000{number}"))
            await asyncio.sleep(0)
            under_way.pop(0).answer()
            request = await desk.waiting.get()  # the next to be sent, of all that wait
            assert request.number == f"628999990000{number}"
            request.answer()
            assert (await single).whatsapp == "yes"
            under_way.append(await desk.waiting.get())
        batch.stop()
        for request in under_way:
            request.answer()


async def test_batches_take_turns() -> None:
    desk = Desk()
    done: Counter[str] = Counter()
    async with desk.client(max_connections=10) as client:
        first = client.batch(asks(10_000), concurrency=100)
        other = client.batch(asks(10_000, first=50_000_000), concurrency=100)
        async with first, other:
            consumers = [asyncio.create_task(_consume(batch)) for batch in (first, other)]
            for _ in range(1000):
                request = await desk.waiting.get()
                done[request.number[5]] += 1
                request.answer()
            first.stop()
            other.stop()
            answering = asyncio.create_task(desk.answer_all())
            await asyncio.gather(*consumers)
            answering.cancel()
    assert 0.5 < done["0"] / done["5"] < 2


async def _consume(batch: Batch[Any]) -> None:
    async for _ in batch:
        pass


async def test_single_calls_wait_their_turn_and_give_up_in_time() -> None:
    desk = Desk()
    async with desk.client(max_connections=1, retry=0) as client:
        first = asyncio.create_task(client.whatsapp_detail("6281300001"))
        request = await desk.waiting.get()
        with pytest.raises(NotSentError, match="no free connection") as caught:
            await client.with_options(timeout=httpx.Timeout(30, pool=0.01)).whatsapp_detail("6281300002")
        assert caught.value.charge is FREE
        waiting = asyncio.create_task(client.whatsapp_detail("6281300003"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        request.answer()
        assert (await first).whatsapp == "yes"
        last = asyncio.create_task(client.whatsapp_detail("6281300004"))
        (await desk.waiting.get()).answer()
        assert (await last).whatsapp == "yes"


async def test_a_place_that_one_batch_cannot_use_is_the_next_ones() -> None:
    desk = Desk()
    async with desk.client(max_connections=1) as client:
        single = asyncio.create_task(client.whatsapp_detail("6289900000"))
        request = await desk.waiting.get()
        async with client.batch(asks(5)) as stopped, client.batch(asks(5)) as other:
            while stopped.progress.waiting < 5 or other.progress.waiting < 5:
                await asyncio.sleep(0)
            stopped.stop()
            request.answer()
            await single
            answering = asyncio.create_task(desk.answer_all())
            assert [outcome.ok async for outcome in other] == [True] * 5
            answering.cancel()


@virtual
async def test_a_waiter_cancelled_as_its_place_comes_free() -> None:
    for cancel_first in (True, False):
        gate = Gate(1)
        assert gate.try_enter()
        waiter = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        if cancel_first:
            waiter.cancel()
            gate.leave()
        else:
            gate.leave()
            waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert gate.try_enter()
        assert not gate.try_enter()


@virtual
async def test_the_gate_loses_no_place_to_cancelled_waiters() -> None:
    gate = Gate(3)
    rng = random.Random(5)

    async def visit() -> None:
        if not gate.try_enter():
            await gate.enter()
        try:
            await asyncio.sleep(rng.random())
        finally:
            gate.leave()

    tasks = deque(asyncio.create_task(visit()) for _ in range(300))
    for task in list(tasks):
        await asyncio.sleep(0.01)
        if rng.random() < 0.5:
            task.cancel()
    await asyncio.wait(tasks)
    assert [gate.try_enter() for _ in range(4)] == [True, True, True, False]


def test_batches_keep_going_on_uvloop() -> None:
    """Its timers fire a little early."""
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with client_of(in_turn(ok_whatsapp())) as client:
            for options in ({"rate": 3000}, {"concurrency": Adaptive()}):
                outcomes = await taken(client.batch(asks(150), **options))
                assert len(outcomes) == 150

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), LAST_RESORT))
