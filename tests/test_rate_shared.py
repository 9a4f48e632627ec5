"""A rate that machines share: each has a part of it, and the parts together are never more than the whole."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest

from aisolution_async import NotSentError, clock
from aisolution_async.ledger.store import Share
from aisolution_async.limits import Rate
from benchmarks import adaptive

from .batches import asks, taken
from .ledgers import AnyLedger, book_of, expire, ledger_at, on_book, rows
from .steps import Notes
from .support import Vendor, client_of, in_turn, ok_whatsapp, virtual

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


# ------------------------------------------------------------------------------------------ the pace, by its part


class Shared(Notes):
    """A store whose part of a rate is what the test says."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.mine = Share()
        self.mine.part = part

    @property
    def share(self) -> Share:
        return self.mine


class Timed(Vendor):
    """Answers, and knows when it was asked."""

    def __init__(self) -> None:
        self.times: list[float] = []
        super().__init__(self._answer)

    def _answer(self, request: httpx.Request, number: int) -> httpx.Response:
        self.times.append(asyncio.get_running_loop().time())
        return ok_whatsapp()

    @property
    def took(self) -> float:
        return self.times[-1] - self.times[0]


@pytest.mark.parametrize("whose", ["the client's", "the batch's", "the client's, by the ledger of the batch"])
@virtual
async def test_a_batch_has_its_part_of_the_rate(whose: str) -> None:
    vendor, store = Timed(), Shared(0.25)
    client_has: dict[str, Any] = {"ledger": store, "rate": 20} if whose == "the client's" else {"rate": 20}
    batch_has: dict[str, Any] = {} if whose == "the client's" else {"ledger": store}
    if whose == "the batch's":
        client_has, batch_has = {}, {"ledger": store, "rate": 20}
    async with client_of(vendor, **client_has) as client:
        await taken(client.batch(asks(100), **batch_has))
    assert vendor.took == pytest.approx(99 / 5, rel=0.02)
    assert min(later - earlier for earlier, later in pairwise(vendor.times)) > 0.1


@virtual
async def test_without_a_part_nothing_goes_until_there_is_one() -> None:
    vendor, store = Timed(), Shared(0.0)
    began = asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(60.0, setattr, store.mine, "part", 0.5)
    async with client_of(vendor, ledger=store, rate=10) as client:
        await taken(client.batch(asks(50)))
    assert 60.0 <= vendor.times[0] - began <= 61.1
    assert vendor.took == pytest.approx(49 / 5, rel=0.05)


@virtual
async def test_single_calls_that_wait_for_their_turn_are_slowed_down_with_it() -> None:
    """They took their turns when the whole rate was theirs."""
    vendor, store = Timed(), Shared(1.0)
    loop = asyncio.get_running_loop()
    loop.call_later(5.05, setattr, store.mine, "part", 0.5)
    async with client_of(vendor, ledger=store, rate=10, deadline=None) as client:
        await asyncio.gather(*(client.whatsapp_detail(f"62813{n:08}") for n in range(100)))
    start = vendor.times[0]
    assert sum(at - start <= 5.05 for at in vendor.times) == pytest.approx(51, abs=1)
    assert vendor.took == pytest.approx(5 + 50 / 5, rel=0.05)


@virtual
async def test_a_part_that_grows_is_used() -> None:
    vendor, store = Timed(), Shared(0.1)
    asyncio.get_running_loop().call_later(10.0, setattr, store.mine, "part", 1.0)
    async with client_of(vendor, ledger=store, rate=10) as client:
        await taken(client.batch(asks(110)))
    assert vendor.took == pytest.approx(10 + 100 / 10, rel=0.1)


@virtual
async def test_a_call_whose_turn_comes_too_late_for_its_part_is_not_sent() -> None:
    vendor, store = Timed(), Shared(0.1)
    async with client_of(vendor, ledger=store, rate=1, deadline=5) as client:
        await client.whatsapp_detail("6281300000")
        with pytest.raises(NotSentError, match="the rate leaves no time"):
            await client.whatsapp_detail("6281300001")
        assert store.mine.part == 0.1
        store.mine.part = 0.0
        began = asyncio.get_running_loop().time()
        with pytest.raises(NotSentError, match="the rate leaves no time"):
            await client.whatsapp_detail("6281300002")
        assert asyncio.get_running_loop().time() - began <= 5.0
    assert len(vendor.requests) == 1


def test_a_part_that_changes_unseen_counts_as_the_smaller_one() -> None:
    """Another thread sets it, between two looks."""
    share = Share()
    rate = Rate(1, share)
    rate.start(100.0)
    share.part = 0.5
    assert rate.wait(100.5) == 1.0  # of the turn in 0.75 s by our clock, half as fast: another look before
    share.part = 1.0
    assert rate.until(rate.take_turn(101.5), 101.5) == pytest.approx(0.25)


# ------------------------------------------------------------------------------------------ whose part it is


@asynccontextmanager
async def opened(url: str, count: int) -> AsyncIterator[list[AnyLedger]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ledger_at(url)) for _ in range(count)]


async def look(ledger: AnyLedger) -> float:
    """What its part is after the next look of its timer."""
    await on_book(ledger, lambda book: book._do(book._take_share))
    return ledger.share.part


async def test_who_comes_last_waits_until_the_others_have_looked(server_url: str) -> None:
    async with opened(server_url, 1) as (first,):
        assert first.share.part == 1.0
        async with opened(server_url, 2) as (second, third):
            assert [each.share.part for each in (first, second, third)] == [1.0, 0.0, 0.0]
            assert await look(second) == 0.0
            assert await look(first) == pytest.approx(1 / 3)
            assert await look(third) == pytest.approx(1 / 3)
            assert await look(second) == pytest.approx(1 / 3)
            assert await look(first) == pytest.approx(1 / 3)
        assert await look(first) == 1.0  # the others have left


async def test_the_parts_are_never_more_than_the_whole(server_url: str) -> None:
    """However many come and go, and look at one time."""
    total = "SELECT coalesce(sum(share), 0) FROM owners WHERE NOT ended AND expires_at > clock_timestamp()"
    async with opened(server_url, 3) as staying:
        for count in (1, 3, 2):
            async with opened(server_url, count) as coming:
                for _ in range(3):
                    await asyncio.gather(*map(look, staying), *map(look, coming))
                    assert sum(each.share.part for each in (*staying, *coming)) <= 1 + 1e-9
                    assert rows(server_url, total)[0][0] <= 1 + 1e-9
                even = pytest.approx(1 / (3 + count))
                assert all(each.share.part == even for each in (*staying, *coming))
            await asyncio.gather(*map(look, staying))


async def test_who_was_taken_for_dead_has_no_part_until_it_has_looked(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = clock.continuous, 0.0
    monkeypatch.setattr(clock, "continuous", lambda: real() + ahead)
    async with opened(server_url, 2) as (first, second):
        for each in (first, second):  # nobody renews in between
            (await book_of(each)).renews_at = math.inf
        await look(first)
        assert await look(second) == 0.5
        ((owner,),) = rows(server_url, "SELECT min(id) FROM owners")
        expire(first, owner)
        assert await look(second) == 1.0
        # Nor does its timer go off, as the clock is put forward.
        await on_book(second, lambda book: setattr(book, "_share_until", math.inf))
        ahead = 31.0
        await on_book(first, lambda book: book._exchange((), ()))  # it is not buried yet, and goes on
        assert first.share.part == 0.0
        assert await look(first) == 0.0
        assert await look(second) == 0.5
        assert await look(first) == 0.5
        # Buried, it comes again as another.
        expire(first, owner)
        assert rows(server_url, f"SELECT bury({owner}, false, 'x')") == [(True,)]
        await on_book(first, lambda book: book.renew())
        assert first.share.part == pytest.approx(0.5)
        assert len(rows(server_url, "SELECT id FROM owners WHERE NOT ended")) == 2


async def test_it_looks_often_until_its_part_is_even_and_then_with_its_lease(server_url: str) -> None:
    async with opened(server_url, 2) as (first, second):
        one, two = await book_of(first), await book_of(second)
        assert 1.0 < await on_book(first, lambda _: one.keep_share()) <= 10.0
        assert await on_book(second, lambda _: two.keep_share()) <= 1.0
        await look(first)
        await look(second)
        assert 1.0 < await on_book(second, lambda _: two.keep_share()) <= 10.0


async def test_a_file_divides_no_rate(ledger_path: Any) -> None:
    async with ledger_at(ledger_path) as one, ledger_at(ledger_path) as other:
        assert (one.share.part, other.share.part) == (1.0, 1.0)
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor, ledger=ledger_path, rate=1000) as client:
        assert all(outcome.ok for outcome in await taken(client.batch(asks(5))))


@pytest.mark.no_cover
def test_adaptive_workers_need_no_part() -> None:
    """Four that know nothing of each other take what the vendor has, and little more."""
    part, refused = adaptive.together(4, 300, 12.0)
    assert part >= 0.95
    assert refused <= 0.02
