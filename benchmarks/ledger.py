"""What the ledger costs: the same batch without one, and with it at each degree of safety; then resuming.

Each measurement is a process of its own: `python -m benchmarks.ledger '{...}'`. The ledger lies in the folder
for temporary files: set TMPDIR to measure another disk.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from aisolution_async import AsyncClient, Ledger, WhatsAppDetail
from aisolution_async.ledger import Store, open_ledger
from benchmarks.compare import cores, run_module
from benchmarks.measure import peak_megabytes
from benchmarks.numbers import number_of
from benchmarks.server import settle
from benchmarks.table import print_table

SUMMARY = "The ledger: calls a second and CPU per call with and without it, at 200 at once; resuming; the file's size"

_ROUNDS = 5
_CALLS, _QUICK_CALLS = 10_000, 500
_STORED, _QUICK_STORED = 1_000_000, 2_000
_AT_ONCE = 200

Synchronous = Literal["full", "normal", "off"]


async def calls(count: int) -> AsyncIterator[WhatsAppDetail]:
    """As many look-ups, no two the same."""
    for number in range(count):
        yield WhatsAppDetail(number_of(number), key=number)


async def run(port: int, count: int, path: str | None, synchronous: Synchronous) -> dict[str, float]:
    """One batch. Wall and CPU time, and the peak memory after a hundredth and at the end."""
    early = 0.0
    async with AsyncClient("benchmark", base_url=f"http://127.0.0.1:{port}", max_connections=_AT_ONCE) as client:
        opened = time.perf_counter()
        ledger: Store | None = None
        if path is not None:
            ledger = open_ledger(path) if "://" in path else Ledger(path, synchronous=synchronous)
        if ledger is not None:
            await ledger.open()
        opened = time.perf_counter() - opened
        wall, cpu, done = time.perf_counter(), time.process_time(), 0
        async with client.batch(calls(count), concurrency=_AT_ONCE, ledger=ledger) as batch:
            async for outcome in batch:
                assert outcome.ok, outcome.error
                done += 1
                if done == max(count // 100, 1):
                    early = peak_megabytes()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if ledger is not None:
            await ledger.aclose()
        charged = client.tally.charged
    return {"wall": wall, "cpu": cpu, "open": opened, "early": early, "late": peak_megabytes(), "charged": charged}


def main(*, quick: bool) -> None:
    """Print both tables."""
    count, stored = (_QUICK_CALLS, _QUICK_STORED) if quick else (_CALLS, _STORED)
    ways: dict[str, Synchronous | None] = {"no ledger": None, "full": "full", "normal": "normal", "off": "off"}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    command = [sys.executable, "-m", "benchmarks.server", json.dumps({"core": cores()[0]})]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for number in range(1 if quick else _ROUNDS):
            for name, synchronous in ways.items():
                path = None if synchronous is None else str(Path(folder) / f"{name}{number}.ledger")
                found[name].append(_child(port, count, path, synchronous or "full"))
        print(f"\n### ledger: {SUMMARY}\n")
        rows = [("synchronous", "calls/s", "CPU/call, µs", "x none")]
        base = statistics.median(one["cpu"] for one in found["no ledger"]) / count
        for name, runs in found.items():
            cpu = statistics.median(one["cpu"] for one in runs) / count
            speed = count / statistics.median(one["wall"] for one in runs)
            rows.append((name, f"{speed:,.0f}", f"{1e6 * cpu:.0f}", f"{cpu / base:.2f}"))
        print_table(rows)

        path = str(Path(folder) / "large.ledger")
        first = _child(port, stored, path, "full")
        size = Path(path).stat().st_size
        again = _child(port, stored, path, "full")
        server.stdin.close()
    print()
    table = [(f"{stored:,} calls", "calls/s", "CPU/call, µs", "peak MB at 1 %", "peak MB at the end")]
    for name, one in (("asked and recorded", first), ("answered from the ledger", again)):
        speed, cpu = stored / one["wall"], 1e6 * one["cpu"] / stored
        table.append((name, f"{speed:,.0f}", f"{cpu:.0f}", f"{one['early']:.0f}", f"{one['late']:.0f}"))
    print_table(table)
    print(f"\nOpened again in {1000 * again['open']:.1f} ms; {size / stored * 100_000 / 1e6:.1f} MB for 100,000 calls.")


def _child(port: int, count: int, path: str | None, synchronous: str) -> dict[str, float]:
    spec = {"port": port, "count": count, "path": path, "synchronous": synchronous, "core": cores()[1]}
    result: dict[str, float] = run_module("benchmarks.ledger", spec)
    if "error" in result:
        raise SystemExit(f"{synchronous}: {result['error']} {result.get('details', '')}")
    return result


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    settle(given["core"])
    print(json.dumps(asyncio.run(run(given["port"], given["count"], given["path"], given["synchronous"]))))
