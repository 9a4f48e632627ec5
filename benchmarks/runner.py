"""What the batch runner itself costs: a batch over a transport that answers at once, less `client.send` in a loop.

Each measurement is a process of its own: `python -m benchmarks.runner '{...}'`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx

from aisolution_async import AsyncClient, WhatsAppDetail
from benchmarks.compare import cores, run_module
from benchmarks.measure import peak_megabytes
from benchmarks.numbers import number_of
from benchmarks.server import settle
from benchmarks.table import print_table

SUMMARY = "The batch runner alone: CPU per call beside client.send in a loop, and of hooks; 10,000 and 1,000,000 calls"

_ROUNDS = 7
_CALLS = 10_000
_FEW, _MANY, _QUICK_MANY = 10_000, 1_000_000, 20_000
_MANY_ROUNDS = 3
_AT_ONCE = 100


class Instant(httpx.AsyncBaseTransport):
    """Answers before it is asked."""

    def __init__(self) -> None:
        self._response = httpx.Response(200, content=b'{"status":"OK","message":{"whatsapp":"yes"}}')

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002  # the interface
        return self._response


async def calls(count: int) -> AsyncIterator[WhatsAppDetail]:
    """As many look-ups, no two the same."""
    for number in range(count):
        yield WhatsAppDetail(number_of(number))


async def send(client: AsyncClient, count: int) -> dict[str, float]:
    """One call after the other."""
    start = time.process_time()
    async for call in calls(count):
        await client.send(call)
    return {"cpu": 1000 * (time.process_time() - start) / count}


async def batch(client: AsyncClient, count: int) -> dict[str, float]:
    """The same calls in a batch; the memory once `_FEW` are done, and at the end."""
    start = time.process_time()
    done = 0
    few = 0.0
    async with client.batch(calls(count), concurrency=_AT_ONCE) as outcomes:
        async for outcome in outcomes:
            done += outcome.ok
            if done == _FEW:
                few = peak_megabytes()
    return {"cpu": 1000 * (time.process_time() - start) / done, "few": few, "many": peak_megabytes()}


async def measure(what: str, count: int) -> dict[str, float]:
    """`what` is "send", "batch" or "hooks": a batch with both of them."""
    run = send if what == "send" else batch
    told: Counter[str] = Counter()
    hooks: dict[str, Any] = {}
    if what == "hooks":
        hooks["on_attempt"] = lambda call, attempt: told.update(attempts=1)  # noqa: ARG005  # the interface
        hooks["on_outcome"] = lambda outcome: told.update(outcomes=1)  # noqa: ARG005
    async with AsyncClient("benchmark", base_url="https://vendor.example", transport=Instant(), **hooks) as client:
        await run(client, 500)
        gc.collect()
        return await run(client, count)


def main(*, quick: bool) -> None:
    """Print both tables."""
    runs: dict[str, list[float]] = {"batch": [], "hooks": [], "send": []}
    for _ in range(1 if quick else _ROUNDS):
        for what, figures in runs.items():
            figures.append(_child(what, 1000 if quick else _CALLS)["cpu"])
    costs = {what: 1000 * statistics.median(figures) for what, figures in runs.items()}
    print(f"\n### runner: {SUMMARY}\n")
    print_table(
        [
            ("", "CPU/call, µs"),
            ("batch", f"{costs['batch']:.1f}"),
            ("client.send in a loop", f"{costs['send']:.1f}"),
            ("the runner itself", f"{costs['batch'] - costs['send']:.1f}"),
            ("on_attempt and on_outcome, which count", f"{costs['hooks'] - costs['batch']:.1f}"),
        ]
    )

    count = _QUICK_MANY if quick else _MANY
    few, many = [], []
    for _ in range(1 if quick else _MANY_ROUNDS):  # in turn: what disturbs the machine is the same for both
        few.append(_child("batch", _FEW)["cpu"])
        many.append(_child("batch", count))
    memory = many[0]
    ratios = sorted(each["cpu"] / one for one, each in zip(few, many, strict=True))
    print()
    print_table(
        [
            ("calls from an async generator", "peak MB", "CPU/call, µs"),
            (f"{_FEW:,}", f"{memory['few']:.1f}", f"{1000 * statistics.median(few):.1f}"),
            (f"{count:,}", f"{memory['many']:.1f}", f"{1000 * statistics.median(each['cpu'] for each in many):.1f}"),
            ("difference", f"{memory['many'] - memory['few']:.1f}", ""),
            ("of the CPU, in pairs", "", f"x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"),
        ]
    )


def _child(what: str, count: int) -> dict[str, Any]:
    result = run_module("benchmarks.runner", {"what": what, "count": count, "core": cores()[1]})
    if "error" in result:
        raise SystemExit(f"{what}: {result['error']} {result.get('details', '')}")
    return result


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    settle(given["core"])
    print(json.dumps(asyncio.run(measure(given["what"], given["count"]))))
