"""Very many numbers by callback, over HTTP, from a vendor who forgets, repeats, dawdles and is impersonated."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx
import pytest
from aiohttp import web

from aisolution_async import AsyncClient, Charge, Inbox, Ledger, Outcome, Tally, WhatsAppDetail, WhatsAppProfile
from aisolution_async.integrations.aiohttp import inbox_routes
from aisolution_async.integrations.pytest_plugin import skipping
from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.vendor import DueCallback

LATE = 60.0
"""Seconds of the late callbacks: within the inbox's patience, which is 120."""


def number_of(index: int) -> str:
    return f"+62813{index:08}"


def what_becomes_of(index: int) -> str:
    """Of a hundred numbers: 5 are never called back, 5 twice, 5 late, and 1 has a forger."""
    place = index % 100
    return "never" if place < 5 else "twice" if place < 10 else "late" if place < 15 else "forged" if place < 16 else ""


class Careless(Sandbox):
    """A vendor who calls back as `what_becomes_of` says."""

    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[str, str] = {}
        self.forgeries: list[DueCallback] = []

    def call_back(self, callbacks: tuple[DueCallback, ...]) -> None:
        for callback in callbacks:
            said = dict(part.split("=", 1) for part in callback.target.partition("?")[2].split("&"))
            self.truth[callback.number] = said["whatsapp"]
            match what_becomes_of(int(callback.number[6:])):
                case "never":
                    super().call_back((replace(callback, delay=None),))
                case "twice":
                    super().call_back((callback, replace(callback, charge=None)))
                case "late":
                    super().call_back((replace(callback, delay=LATE),))
                case "forged":
                    # The right one is late, so that the forger has the time to be believed.
                    super().call_back((*forged(callback), replace(callback, delay=LATE)))
                case _:
                    super().call_back((callback,))


def forged(callback: DueCallback) -> Iterable[DueCallback]:
    """The opposite of the answer to a wrong address, and a number that nobody asked for to the right one."""
    path, _, query = callback.target.partition("?")
    swapped = query.replace("whatsapp=yes", "whatsapp=").replace("whatsapp=no", "whatsapp=yes")
    swapped = swapped.replace("whatsapp=&", "whatsapp=no&")
    yield replace(callback, target=f"{path[:-1]}{'a' if path[-1] != 'a' else 'b'}?{swapped}", charge=None)
    stranger = urlencode({"number": callback.number.replace("+62813", "+62819"), "whatsapp": "yes"})
    yield replace(callback, target=f"{path}?{stranger}", charge=None)


@asynccontextmanager
async def receiving(inbox: Inbox, sock: socket.socket) -> AsyncIterator[None]:
    app = web.Application()
    app.add_routes(inbox_routes(inbox))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, sock, backlog=1024).start()
        yield
    finally:
        await runner.cleanup()


def charges(tally: Tally) -> tuple[int, int, int]:
    return tally.charged, tally.free, tally.unknown


@pytest.mark.no_cover
@pytest.mark.parametrize("many", [400, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "no ledger"])
async def test_every_number_is_resolved_once_and_the_bill_is_the_tally(
    with_ledger: bool, many: int, tmp_path: Path
) -> None:
    outcomes: list[Outcome] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        address = f"http://127.0.0.1:{sock.getsockname()[1]}/whatsapp"
        async with contextlib.AsyncExitStack() as stack:
            ledger = await stack.enter_async_context(Ledger(tmp_path / "many.ledger")) if with_ledger else None
            sandbox = await stack.enter_async_context(Careless())
            client = await stack.enter_async_context(AsyncClient(sandbox.token, base_url=sandbox.url, ledger=ledger))
            inbox = Inbox(address, ledger=ledger)
            await stack.enter_async_context(receiving(inbox, sock))
            stack.enter_context(skipping(asyncio.get_running_loop()))  # lateness and patience take no time
            calls = (WhatsAppDetail(number_of(index), key=index) for index in range(many))
            async with client.batch(calls, inbox=inbox, concurrency=50) as batch:
                outcomes.extend([outcome async for outcome in batch])
            while len(sandbox.outstanding) > many // 20 or len(sandbox.callbacks) < min(made(many), 10_000):
                await asyncio.sleep(0.02)  # the last repeats

            kinds = Counter(what_becomes_of(index) for index in range(many))
            assert Counter(outcome.key for outcome in outcomes) == dict.fromkeys(range(many), 1)
            for outcome in outcomes:
                assert isinstance(outcome.reply, WhatsAppProfile), outcome
                assert isinstance(outcome.key, int)
                number = number_of(outcome.key)
                assert (outcome.reply.number, outcome.reply.whatsapp) == (number, sandbox.truth[number])
                assert [attempt.charge for attempt in outcome.attempts] == [Charge.FREE, Charge.CHARGED]
                by_request = what_becomes_of(outcome.key) == "never"
                assert (outcome.attempts[-1].http_status is not None) == by_request
            found = inbox.counts
            assert (found.accepted, found.repeated) == (many - kinds["never"], kinds["twice"])
            assert (found.strange, found.unfinished) == (2 * kinds["forged"], 0)
            assert (inbox.outstanding, len(sandbox.outstanding)) == (0, kinds["never"])

            assert charges(client.tally) == charges(sandbox.bill) == (many, many, 0)
            assert batch.tally == client.tally == sandbox.bill == sandbox.bill.delivered
            assert sandbox.bill.by_callback.charged == many - kinds["never"]
            if ledger is not None:
                totals = ledger.summary().by()[()]
                assert (totals.charged, totals.free, totals.unknown, totals.intended) == (many, many, 0, 0)
                # The next run of the same list: nothing is sent, and a callback that comes now is a repeat.
                again = (WhatsAppDetail(number_of(index), key=index) for index in range(many))
                async with client.batch(again, inbox=inbox) as second:
                    assert all([outcome.from_ledger async for outcome in second])
                async with httpx.AsyncClient() as vendor:
                    query = f"number={quote(number_of(7))}&whatsapp=no"
                    assert (await vendor.get(f"{inbox.url}?{query}")).status_code == 200
                assert inbox.counts.repeated == kinds["twice"] + 1
                assert sandbox.bill == client.tally


def made(many: int) -> int:
    """How many callbacks are made in all."""
    kinds = Counter(what_becomes_of(index) for index in range(many))
    return many - kinds["never"] + kinds["twice"] + 2 * kinds["forged"]
