"""A ledger on a server, and whole clients that are killed or stopped while their attempts are in flight."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from urllib.parse import parse_qs

import pytest

from aisolution_async.ledger import State
from aisolution_async.sandbox.vendor import Request, Served

from . import forks
from .crash import CountingSandbox
from .ledgers import check, ledger_at, rows

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")

AT_ONCE = 10

WORKER = """
import asyncio, random, sys
from aisolution_async import AsyncClient, WhatsAppDetail

async def main(url, token, ledger, count, at_once, most):
    numbers = list(range(count))
    random.Random(token).shuffle(numbers)
    calls = (WhatsAppDetail(f"62813{number:08}", key=number) for number in numbers)
    async with AsyncClient(token, base_url=url, ledger=ledger, max_charges=most or None) as client:
        async with client.batch(calls, concurrency=at_once) as batch:
            async for outcome in batch:
                name = "ok" if outcome.ok else type(outcome.error).__name__
                print(outcome.key, name, flush=True)

asyncio.run(main(*sys.argv[1:4], *map(int, sys.argv[4:])))
"""


class Storm(CountingSandbox):
    """A vendor that kills who asks, after it has billed: every so many requests, so many times.

    Workers are told apart by their tokens.
    """

    def __init__(self, workers: int, kills: int, every: int, kill: signal.Signals = signal.SIGKILL) -> None:
        self._tokens = [f"worker-{number}" for number in range(workers + kills)]
        super().__init__(tokens=self._tokens)
        self.kills_left, self._every, self._signal = kills, every, kill
        self.begun = 0
        self.workers: dict[str, forks.Piped] = {}
        self.struck: asyncio.Queue[str] = asyncio.Queue()
        self._rng = random.Random(workers)
        self._until = every

    async def answer(self, request: Request) -> Served:
        (token,) = parse_qs(request.query.decode())["token"]
        found = await super().answer(request)
        self._until -= 1
        if self.kills_left and self._until <= 0 and token in self.workers:
            self.kills_left -= 1
            self._until = self._rng.randrange(self._every, 2 * self._every)
            self.workers.pop(token).send_signal(self._signal)
            self.struck.put_nowait(token)
        return found

    async def begin(self, ledger: str, count: int, most: int) -> forks.Piped:
        """One more worker."""
        token = self._tokens[self.begun]
        self.begun += 1
        worker = await forks.begin(["-c", WORKER, self.url, token, ledger, str(count), str(AT_ONCE), str(most)])
        self.workers[token] = worker
        return worker


def bury(url: str, pid: int) -> None:
    """As if the lease of this process were over: its last words may be on their way still, and renew it once more."""
    alive = f"FROM owners WHERE pid = {pid} AND NOT ended"
    while rows(url, f"SELECT 1 {alive}"):
        rows(url, f"UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE pid = {pid} AND NOT ended")
        rows(url, f"SELECT bury(id, false, 'it was killed') {alive}")


async def storm(url: str, workers: int, kills: int, *, calls: int, most: int, every: int) -> None:
    """So many workers over one list and one budget; each that is killed has a successor."""
    async with Storm(workers, kills, every) as vendor:
        told: Counter[str] = Counter()

        async def work() -> int:
            """One worker after the other, until one has gone through the list. Returns how often it was killed."""
            times = 0
            while True:
                worker = await vendor.begin(url, calls, most)
                said, _ = await worker.communicate()
                told.update(line.split()[1] for line in said.decode().splitlines() if len(line.split()) == 2)
                if worker.returncode == 0:
                    return times
                assert worker.returncode == -signal.SIGKILL
                times += 1
                bury(url, worker.pid)

        assert sum(await asyncio.gather(*(work() for _ in range(workers)))) == kills
    assert max(vendor.charged.values()) == 1, "something was paid twice"
    billed = sum(vendor.charged.values())
    assert billed <= most, "over the budget"
    rows(url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s'")
    async with ledger_at(url) as ledger:
        found = Counter(record.state for record in ledger.attempts())
        charged, unknown = found[State.CHARGED], found[State.UNKNOWN]
        assert found[State.INTENDED] == 0
        assert charged <= billed <= charged + unknown <= most
        assert kills <= unknown <= kills * AT_ONCE
        known = {record.key for record in ledger.attempts() if record.state in (State.CHARGED, State.UNKNOWN)}
        assert {int(body.removeprefix(b"number=62813")) for body in vendor.charged} <= known
        assert told["BudgetExhaustedError"] == 0 or charged + unknown == most
    check(url)


async def test_workers_that_are_killed_while_attempts_are_in_flight(server_url: str) -> None:
    await storm(server_url, 3, 4, calls=140, most=120, every=10)


@pytest.mark.long
async def test_a_storm(server_url: str) -> None:
    await storm(server_url, 8, 30, calls=1500, most=1200, every=15)


async def test_a_client_that_is_stopped_beyond_its_lease(server_url: str) -> None:
    """Stopped with attempts in flight, it is taken for dead; its late answers are recorded, and it goes on."""
    async with Storm(1, 1, 20, signal.SIGSTOP) as vendor:
        worker = await vendor.begin(server_url, 100, 0)
        await vendor.struck.get()
        worker.stop()  # it is; until each of its threads is
        bury(server_url, worker.pid)
        async with ledger_at(server_url) as ledger:
            assert ledger.summary().held > 0
            worker.send_signal(signal.SIGCONT)
            said, _ = await worker.communicate()
            assert worker.returncode == 0
            names = Counter(line.split()[1] for line in said.decode().splitlines())
            assert names == {"ok": 100}
            assert ledger.summary().held == 0
            found = Counter(record.state for record in ledger.attempts())
            assert found[State.CHARGED] == len(vendor.charged)
            assert set(found) <= {State.CHARGED, State.FREE, State.NOT_SENT}
        assert set(vendor.charged.values()) == {1}
    check(server_url)
