"""Numbers that WhatsApp is still checking, in a batch."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import httpx
import pytest

from aisolution_async import Charge, ConfigurationError, Recheck, WhatsAppDetail

from .batches import asks, taken
from .support import Vendor, client_of, in_turn, ok_whatsapp, virtual

CHARGED, FREE = Charge.CHARGED, Charge.FREE


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
            parked = batch.progress.parked
            assert parked is not None
            assert (parked.calls, round(parked.seconds or 0)) == (1, 15)
        replies = [o.reply for o in batch.unread]
    assert len(replies) == 3
    assert [o.ok for o in batch.unread].count(True) == 3
    assert client.tally.total == 1


@pytest.mark.parametrize("options", [{"first": 0}, {"first": 9, "longest": 3}, {"give_up": -1}])
def test_recheck_is_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="Recheck"):
        Recheck(**options)
