"""Kill a run at random moments until it is done, and hold its ledger against what the sandbox charged.

`python -m tests.crash 50` runs fifty rounds; the test suite runs a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from aisolution_async import Charge, Ledger
from aisolution_async.ledger import State
from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.vendor import Answer, Request

CONCURRENCY = 50

CHILD = """
import asyncio, sys
from aisolution_async import AsyncClient, WhatsAppDetail

async def main(url, ledger, count, concurrency):
    calls = (WhatsAppDetail(f"62813{number:08}", key=number) for number in range(count))
    async with AsyncClient("sandbox-token", base_url=url, ledger=ledger) as client:
        async with client.batch(calls, concurrency=concurrency) as batch:
            async for outcome in batch:
                name = "ok" if outcome.ok else type(outcome.error).__name__
                print(outcome.key, name, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class CountingSandbox(Sandbox):
    """A sandbox that also counts what it charged for each form it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: Counter[bytes] = Counter()

    async def answer(self, request: Request) -> Answer:
        found = await super().answer(request)
        if found.charge is Charge.CHARGED:
            self.charged[request.body] += 1
        return found


async def one_round(folder: Path, rng: random.Random, *, calls: int) -> int:
    """Kill and restart until every call is answered or held. Returns how often it was killed."""
    ledger = folder / "run.ledger"
    kills = 0
    async with CountingSandbox() as sandbox:
        while True:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, sandbox.url, str(ledger), str(calls), str(CONCURRENCY)),
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdout is not None
            outcomes: dict[int, str] = {}
            killed = False
            # Not by the clock: after so many outcomes, or never.
            last = rng.randrange(calls) if kills < 6 else calls
            async for line in child.stdout:
                words = line.decode().split()
                if len(words) != 2:  # torn by the kill
                    break
                outcomes[int(words[0])] = words[1]
                if len(outcomes) > last and not killed:
                    killed = True
                    with contextlib.suppress(ProcessLookupError):
                        child.send_signal(signal.SIGKILL)
            if await child.wait() == 0:
                break
            assert killed, f"the child failed by itself: {child.returncode}"
            kills += 1
        check(ledger, sandbox, outcomes, calls=calls, kills=kills)
    return kills


def check(ledger: Path, sandbox: CountingSandbox, outcomes: dict[int, str], *, calls: int, kills: int) -> None:
    """The promises, one by one."""
    assert set(outcomes) == set(range(calls))
    assert set(outcomes.values()) <= {"ok", "OutcomeUnknownError"}
    assert max(sandbox.charged.values()) == 1, "something was charged twice"
    store = Ledger(ledger)
    unknown = Counter(record.key for record in store.attempts(unknown_only=True))
    answered = {record.key for record in store.answers()}
    assert len(unknown) <= CONCURRENCY * kills
    for body in sandbox.charged:
        key = int(body.removeprefix(b"number=62813"))
        assert key in answered or key in unknown, "a charged answer is neither recorded nor unknown"
    held = {key for key, name in outcomes.items() if name != "ok"}
    assert held <= set(unknown)
    assert {record.state for record in store.attempts()} <= {State.CHARGED, State.FREE, State.UNKNOWN, State.NOT_SENT}


async def main(rounds: int, calls: int) -> None:
    """Many rounds, each with its own seed."""
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            kills = await one_round(Path(folder), random.Random(number), calls=calls)
        sys.stdout.write(f"round {number}: killed {kills} times, all promises kept\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, 5000))
