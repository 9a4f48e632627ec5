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
    AddFace,
    Batch,
    Charge,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    Recheck,
    Retry,
    RetryLaterError,
    WhatsAppDetail,
)
from aisolution_async.limits import Gate

from .support import Vendor, client_of, in_turn, ok_whatsapp, picture, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN


def asks(count: int, *, distinct: int | None = None) -> Iterator[WhatsAppDetail]:
    for number in range(count):
        yield WhatsAppDetail(f"62813{number % (distinct or count):08}", key=number)


async def taken(batch: Batch[Any]) -> list[Outcome]:
    async with batch:
        return [outcome async for outcome in batch]


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


@pytest.mark.parametrize("latency", [0.01, 0.05, 0.2])
@virtual
async def test_adaptive_finds_what_the_vendor_can_do(latency: float) -> None:
    busy = Busy((0, 300), latency=latency)
    await run_for(20, Vendor(busy), concurrency=Adaptive(max=500))
    assert max(busy.answered[second] for second in range(1, 10)) >= 270
    assert sum(busy.answered[second] for second in range(10, 20)) >= 0.9 * 3000
    assert sum(busy.rejected.values()) <= 0.05 * (sum(busy.rejected.values()) + sum(busy.answered.values()))


@virtual
async def test_adaptive_follows_the_vendor_down_and_up() -> None:
    busy = Busy((0, 300), (10, 150), (20, 300))
    await run_for(30, Vendor(busy), concurrency=Adaptive())
    assert sum(busy.answered[second] for second in (12, 13, 14, 15, 16)) >= 0.9 * 750
    assert max(busy.answered[second] for second in range(21, 30)) >= 270
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
        await asyncio.sleep(0.1)
        return ok_whatsapp()

    vendor = Vendor(script)
    braked = []
    async with client_of(vendor) as client:
        batch = client.batch(asks(10_000), concurrency=100)
        loop.call_later(40, lambda: braked.append(batch.progress.braked))
        outcomes = await taken(batch)
    assert len(outcomes) == 10_000
    assert all(outcome.ok for outcome in outcomes)
    assert down < 200
    assert braked == [True]
    assert not batch.progress.braked


# --------------------------------------------------------------------------------------- the same asked twice


@virtual
async def test_the_same_is_asked_once() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.1)
        return ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(1000, distinct=700), concurrency=30))
        assert len(vendor.requests) == client.tally.charged == 700
        shared = [outcome for outcome in outcomes if outcome.answered_by is not None]
        assert len(shared) == 300
        by_index = {outcome.index: outcome for outcome in outcomes}
        for outcome in shared:
            assert outcome.charge is FREE
            assert outcome.attempts == ()
            assert outcome.reply is not None
            assert outcome.reply.charge is FREE
            assert outcome.answered_by is not None
            leader = by_index[outcome.answered_by]
            assert leader.reply == outcome.reply
            assert leader.charge is CHARGED
            assert leader.call.number == outcome.call.number  # type: ignore[union-attr]


@virtual
async def test_what_is_the_same() -> None:
    vendor = in_turn(ok_whatsapp())
    photo = picture(1)
    calls: list[Any] = [
        WhatsAppDetail("+62 813-8730-0008"),
        WhatsAppDetail("+6281387300008"),
        WhatsAppDetail("006281387300008"),
        WhatsAppDetail("6281387300008"),  # a national number, perhaps
        WhatsAppDetail("+6281387300008", country="ID"),
        WhatsAppDetail("6281387300009"),
        FaceCompare(photo, picture(2)),
        FaceCompare(bytearray(photo), picture(2)),
        FaceCompare(picture(2), photo),
        AddFace(photo),
        AddFace(photo),
        DeleteFace("p"),
        DeleteFace("p"),
    ]
    async with client_of(vendor, deadline=None) as client:
        outcomes = await taken(client.batch(calls, ordered=True, concurrency=1))
        assert [o.answered_by for o in outcomes] == [None, 0, 0, None, 0, None, None, 6, *[None] * 5]
        vendor.requests.clear()
        await taken(client.batch(calls, dedupe=False))
        assert len(vendor.requests) == 13


@virtual
async def test_the_same_photo_is_compared_once() -> None:
    vendor = in_turn(says("OK", {"similarity": 97.5, "result": "SAME PERSON"}))
    photo = picture(1)
    async with client_of(vendor, deadline=None) as client:
        calls = [FaceCompare(photo, bytearray(photo)), FaceCompare(photo, photo), FaceCompare(photo, picture(2))]
        outcomes = await taken(client.batch(calls, ordered=True, concurrency=1))
    assert [o.answered_by for o in outcomes] == [None, 0, None]
    assert outcomes[1].reply == outcomes[0].reply


@virtual
async def test_a_leader_that_fails_free_takes_nobody_down() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        return says("FAIL", "not this time") if number == 0 else ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(5, distinct=1), concurrency=5, ordered=True))
    assert [o.ok for o in outcomes] == [False, True, True, True, True]
    assert [o.answered_by for o in outcomes] == [None, None, 1, 1, 1]
    assert len(vendor.requests) == 2


@virtual
async def test_nobody_buys_again_what_may_have_been_charged() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        raise httpx.ReadTimeout("lost")

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(3, distinct=1), ordered=True))
        assert len(vendor.requests) == client.tally.unknown == 1
    assert all(isinstance(o.error, OutcomeUnknownError) for o in outcomes)
    assert [o.charge for o in outcomes] == [UNKNOWN, FREE, FREE]
    assert [o.answered_by for o in outcomes] == [None, 0, 0]


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(
    ("answer", "charge"),
    [(httpx.ReadTimeout("lost"), UNKNOWN), (says("WEIRD"), UNKNOWN), (says("FAIL"), CHARGED)],
    ids=["lost", "undocumented", "charged"],
)
@virtual
async def test_nobody_buys_again_whenever_it_is_read(answer: Any, charge: Charge, concurrency: int) -> None:
    vendor = in_turn(answer)
    rules = {"gliswadetail": {"FAIL": Charge.CHARGED}}
    async with client_of(vendor, charge_rules=rules) as client:
        outcomes = await taken(client.batch(asks(5, distinct=1), concurrency=concurrency, ordered=True))
    assert len(vendor.requests) == 1
    assert [o.charge for o in outcomes] == [charge, FREE, FREE, FREE, FREE]
    assert [o.answered_by for o in outcomes] == [None, 0, 0, 0, 0]
    assert len({type(o.error) for o in outcomes}) == 1
    assert all(o.error is not None and o.error.key == o.key for o in outcomes)


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


@virtual
async def test_a_place_that_one_batch_cannot_use_is_the_next_ones() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        return ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        client._sender.gate = Gate(1)
        single = asyncio.create_task(client.whatsapp_detail("6289900000"))
        await asyncio.sleep(0.1)
        async with client.batch(asks(5), drain_timeout=5) as stopped, client.batch(asks(5), dedupe=False) as other:
            await asyncio.sleep(0.1)
            stopped.stop()
            await single
            assert [outcome.ok async for outcome in other] == [True] * 5


@virtual
async def test_followers_of_a_stopped_call() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        return says("RETRY_LATER", "busy")

    async with client_of(Vendor(script), retry=Retry(first=100, longest=100)) as client:
        async with client.batch(asks(6, distinct=2), concurrency=6) as batch:
            await asyncio.sleep(2)
        kinds = Counter(type(o.error) for o in batch.unread)
    assert kinds == {RetryLaterError: 2, NotSentError: 4}
    assert sorted(o.index for o in batch.unread) == list(range(6))


@virtual
async def test_unavailable_is_no_answer_to_remember() -> None:
    vendor = in_turn(ok_whatsapp("unavailable"), ok_whatsapp())
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(3, distinct=1), concurrency=1, ordered=True))
    assert [o.reply.whatsapp for o in outcomes] == ["unavailable", "yes", "yes"]  # type: ignore[union-attr]
    assert [o.answered_by for o in outcomes] == [None, None, 1]


@virtual
async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.batching.twins.REMEMBERED", 10)
    vendor = in_turn(ok_whatsapp())
    calls = [*asks(10), *asks(5), *asks(30), *asks(1)]
    async with client_of(vendor) as client:
        await taken(client.batch(calls, concurrency=1))
    assert len(vendor.requests) == 31


# ------------------------------------------------------------------------------------------------- checking


@virtual
async def test_checking_is_asked_again_until_it_resolves() -> None:
    loop = asyncio.get_running_loop()
    times: dict[bytes, list[float]] = {}

    def script(request: httpx.Request, number: int) -> httpx.Response:
        asked = times.setdefault(request.content, [])
        asked.append(loop.time())
        return ok_whatsapp("checking" if len(asked) < 5 and request.content.endswith(b"0") else "yes")

    async with client_of(Vendor(script)) as client:
        batch = client.batch(asks(100), concurrency=2, recheck=Recheck(first=20, longest=60, give_up=3600))
        outcomes = await taken(batch)
        assert all(o.reply.whatsapp == "yes" for o in outcomes)  # type: ignore[union-attr]
        asked = next(iter(times.values()))
        assert [round(b - a) for a, b in pairwise(asked)] == [20, 40, 60, 60]
        checked = next(o for o in outcomes if o.index == 0)
        assert [a.charge for a in checked.attempts] == [FREE] * 4 + [CHARGED]
        assert (client.tally.charged, client.tally.free) == (100, 40)


@virtual
async def test_checking_that_never_resolves() -> None:
    loop = asyncio.get_running_loop()
    vendor = in_turn(ok_whatsapp("checking"))
    async with client_of(vendor) as client:
        start = loop.time()
        (outcome,) = await taken(client.batch(asks(1), recheck=Recheck(first=20, longest=100, give_up=300)))
        assert outcome.reply.whatsapp == "checking"  # type: ignore[union-attr]
        assert loop.time() - start <= 300
        assert len(outcome.attempts) == len(vendor.requests) == 5
        # Without it, the reply is what it is.
        (outcome,) = await taken(client.batch(asks(1)))
        assert len(outcome.attempts) == 1
        # With a callback the answer comes by itself, and asking twice is forbidden.
        call = WhatsAppDetail("6281387300008", callback="https://x.example/")
        (outcome,) = await taken(client.batch([call], recheck=Recheck()))
        assert len(outcome.attempts) == 1


@virtual
async def test_stopping_while_numbers_are_checked() -> None:
    async with client_of(in_turn(ok_whatsapp("checking"))) as client:
        async with client.batch(asks(3, distinct=1), recheck=Recheck()) as batch:
            await asyncio.sleep(5)
            assert batch.progress.waiting == 3
        replies = [o.reply for o in batch.unread]
    assert len(replies) == 3
    assert [o.ok for o in batch.unread].count(True) == 3
    assert client.tally.total == 1


@pytest.mark.parametrize("options", [{"first": 0}, {"first": 9, "longest": 3}, {"give_up": -1}])
def test_recheck_is_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="Recheck"):
        Recheck(**options)


# ------------------------------------------------------------------------------------------ sharing the client


class Pool(Vendor):
    """A vendor behind ten connections, as the library's own pool would have them."""


@virtual
async def test_a_single_call_gets_past_a_batch() -> None:
    loop = asyncio.get_running_loop()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        return ok_whatsapp()

    client = client_of(Vendor(script))
    client._sender.gate = Gate(10)
    waits = []
    async with client, client.batch(asks(10_000), concurrency=200, drain_timeout=5) as batch:
        for _ in range(3):
            await asyncio.sleep(1.5)
            start = loop.time()
            await client.whatsapp_detail("6285550000")
            waits.append(loop.time() - start)
        batch.stop()
    assert max(waits) <= 2.01  # until a place is free, and the call itself


@virtual
async def test_batches_take_turns() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.1)
        return ok_whatsapp()

    client = client_of(Vendor(script))
    client._sender.gate = Gate(10)
    done: dict[str, int] = {}

    async def consume(name: str, concurrency: int) -> None:
        async with client.batch(asks(10_000), concurrency=concurrency, dedupe=False, drain_timeout=5) as batch:
            asyncio.get_running_loop().call_later(30, batch.stop)
            async for outcome in batch:
                done[name] = done.get(name, 0) + outcome.ok

    async with client:
        await asyncio.gather(consume("long", 100), consume("other", 100))
    assert sum(done.values()) >= 0.95 * 3000
    assert 0.5 < done["long"] / done["other"] < 2


@virtual
async def test_single_calls_wait_their_turn_and_give_up_in_time() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(10)
        return ok_whatsapp()

    timeout = httpx.Timeout(30, pool=3)
    async with client_of(Vendor(script), timeout=timeout, retry=0) as client:
        client._sender.gate = Gate(1)
        first = asyncio.create_task(client.whatsapp_detail("6281300001"))
        await asyncio.sleep(0)
        with pytest.raises(NotSentError, match="no free connection") as caught:
            await client.whatsapp_detail("6281300002")
        assert caught.value.charge is FREE
        waiting = asyncio.create_task(client.with_options(timeout=60).whatsapp_detail("6281300003"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await first).whatsapp == "yes"
        assert (await client.whatsapp_detail("6281300004")).whatsapp == "yes"


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


# ------------------------------------------------------------------------------------------------- progress


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


def test_batches_keep_going_on_uvloop() -> None:
    """Its timers fire a little early."""
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with client_of(in_turn(ok_whatsapp())) as client:
            for options in ({"rate": 3000}, {"concurrency": Adaptive()}):
                outcomes = await taken(client.batch(asks(150), **options))
                assert len(outcomes) == 150

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), 20))


async def test_progress_after_the_loop_is_over() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        batch = client.batch(asks(10))
        await taken(batch)
    first = batch.progress
    assert batch.progress == first
    assert await asyncio.to_thread(lambda: batch.progress.done) == 10
