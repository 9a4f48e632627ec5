"""A client that is closed under single calls: what their callers are told is what its ledger says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import AISolutionError, ConfigurationError, Ledger, NotSentError, WhatsAppDetail
from aisolution_async.ledger.store import State

from .steps import CHARGED, FREE, HeldVendor
from .support import Vendor, client_of, ok_whatsapp, virtual

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


def states(path: Path) -> list[State]:
    return [record.state for record in Ledger(path).attempts()]


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("times", [1, 2])
async def test_what_waits_for_leave_to_send_is_not_sent_and_holds_nothing(
    ledger_path: Path, turns: int, times: int
) -> None:
    vendor = Vendor(lambda request, number: ok_whatsapp())
    client = client_of(vendor, ledger=ledger_path)
    async with client:
        calls = [asyncio.create_task(client.whatsapp_detail(f"+62813873{n:05d}")) for n in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.gather(*(client.aclose() for _ in range(times)))
        said = await asyncio.gather(*calls, return_exceptions=True)
    found = states(ledger_path)
    for outcome in said:
        if isinstance(outcome, AISolutionError):
            assert (type(outcome), outcome.charge) == (NotSentError, FREE)
    answered = [outcome for outcome in said if not isinstance(outcome, BaseException)]
    assert len(vendor.requests) == len(answered) == found.count(State.CHARGED)
    assert set(found) <= {State.CHARGED, State.NOT_SENT}


@pytest.mark.parametrize(("seconds", "recorded"), [(1.0, True), (4.0, True), (60.0, False)])
@pytest.mark.parametrize("cancelled", [False, True])
@virtual
async def test_an_answer_under_way_is_recorded_if_it_comes_soon(
    tmp_path: Path, seconds: float, recorded: bool, cancelled: bool
) -> None:
    """A transport of the user's own may end its requests when it likes. Then the caller has the answer, at least."""
    path, vendor = tmp_path / "calls.ledger", HeldVendor(ok_whatsapp())
    async with client_of(vendor, ledger=path) as client:
        call: asyncio.Task[Any] = asyncio.create_task(client.send(WhatsAppDetail("+6281387300008")))
        await vendor.reached.wait()
        asyncio.get_running_loop().call_later(seconds, vendor.go.set)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0.5)
        if cancelled:
            closing.cancel()
            await asyncio.wait({closing})
            await client.aclose()
        await asyncio.wait({closing})
        found = states(path)
        reply = await call
    assert (reply.charge, [attempt.recorded for attempt in reply.attempts]) == (CHARGED, [recorded])
    assert found == [State.CHARGED if recorded else State.UNKNOWN]
    assert len(vendor.requests) == 1


@virtual
async def test_an_answer_under_way_is_recorded_after_others_that_are_over(tmp_path: Path) -> None:
    path, vendor = tmp_path / "calls.ledger", HeldVendor(ok_whatsapp())
    async with client_of(vendor, ledger=path) as client:
        vendor.go.set()
        await client.send(WhatsAppDetail("+6281387300008"))
        vendor.reached.clear()
        vendor.go.clear()
        call: asyncio.Task[Any] = asyncio.create_task(client.send(WhatsAppDetail("+6281387300009")))
        await vendor.reached.wait()
        asyncio.get_running_loop().call_later(1.0, vendor.go.set)
        await client.aclose()
        assert [attempt.recorded for attempt in (await call).attempts] == [True]
    assert states(path) == [State.CHARGED, State.CHARGED]


@virtual
async def test_a_view_that_reuses_the_ledger_is_waited_for_too(tmp_path: Path) -> None:
    path, vendor = tmp_path / "calls.ledger", HeldVendor(ok_whatsapp())
    async with client_of(vendor, ledger=path) as client:
        outcomes: list[Any] = []

        async def read() -> None:
            calls = [WhatsAppDetail("+6281387300008")]
            async with client.batch(calls, reuse_for=60.0, drain_timeout=0.1) as batch:
                with pytest.raises(ConfigurationError, match="closed while the batch"):
                    async for outcome in batch:
                        outcomes.append(outcome)  # noqa: PERF401  # it raises in the end
            outcomes.extend(batch.unread)

        reading = asyncio.create_task(read())
        await vendor.reached.wait()
        asyncio.get_running_loop().call_later(2.0, vendor.go.set)
        await client.aclose()
        await reading
    assert [attempt.recorded for outcome in outcomes for attempt in outcome.attempts] == [True]
    assert states(path) == [State.CHARGED]
