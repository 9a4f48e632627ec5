"""`aisolution report` of a ledger of a million attempts: CPU time and memory, each time in a process of its own.

Started as `python -m benchmarks.report '{...}'`, this is one measurement, or makes the ledger.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.compare import run_module
from benchmarks.measure import peak_megabytes
from benchmarks.table import print_table

SUMMARY = "aisolution report: CPU and memory for a ledger of 1,000,000 attempts"

_ROUNDS = 5
_ATTEMPTS, _QUICK_ATTEMPTS = 1_000_000, 2_000
_DAYS = 9
_FIRST = 1_791_187_200 * 10**6  # 2026-10-05 08:00 UTC, a Monday
_HOUR = 3600 * 10**6
_PRICES = {"facecompare": 40_000, "idholding": 50_000, "searchface": 30_000, "gliswadetail": 20_000}
_SECONDS = {"facecompare": 0.9, "idholding": 1.1, "addface": 0.6, "searchface": 0.8, "gliswadetail": 0.35}
_SHARES = (32, 14, 6, 8, 40)
_COLUMNS = (
    "identity endpoint key may_charge price started_at elapsed state status http_status error answer reply number"
)


def attempts(count: int) -> Iterator[tuple[Any, ...]]:
    """Nine working days of a service: an hour in which the vendor is away, busy hours, and some of all that fails."""
    rng, made = random.Random(7), 0
    while made < count:
        day, share = divmod(made * _DAYS / count, 1)
        start = _FIRST + int(day * 24 * _HOUR + share * 9 * _HOUR)
        (endpoint,) = rng.choices([*_SECONDS], _SHARES)
        identity, key = rng.randbytes(16), json.dumps(f"A-{made:07}")
        price = _PRICES.get(endpoint, 0)
        away, busy = day == 3 and 0.1 < share < 0.2, rng.random() < (0.3 if day == 5 and share < 0.1 else 0.02)
        for number in range(1, 5):
            made += 1
            start += rng.randrange(2 * 10**6)
            took = int(_SECONDS[endpoint] * rng.lognormvariate(0, 0.5) * 10**6)
            call = (endpoint, key, price > 0, price, start)
            if away:
                error = "no connection ([Errno 111] Connection refused)"
                yield None, *call, 20_000, "not sent", None, None, error, 0, None, number
            elif busy and number < 4:
                error = "RETRY_LATER: the vendor asks to try again later"
                yield identity, *call, took // 4, "free", "RETRY_LATER", 200, error, 0, None, number
            else:
                yield identity, *call, *_end(rng, endpoint, took), number
                break


def _end(rng: random.Random, endpoint: str, took: int) -> tuple[Any, ...]:
    """Elapsed, state, status, HTTP status, error, whether it is an answer, and the reply."""
    luck = rng.random()
    if luck < 0.03 and endpoint != "gliswadetail":
        error = "RETRY_LATER (IMAGEB_FACE_DETECT_FAILED): no face was found on the photo; use another one"
        return took, "free", "RETRY_LATER", 200, error, 0, None
    if luck < 0.032:
        return 30 * 10**6, "unknown", None, None, "no answer within 30.0 s", 0, None
    reply: dict[str, Any] = {}
    state = "charged"
    if endpoint in ("facecompare", "idholding"):
        alike = round(min(99.99, rng.gauss(91, 5)) if rng.random() < 0.78 else max(0.0, rng.gauss(33, 14)), 3)
        judgment = "SAME PERSON" if alike > 78 else "NOT SURE" if alike > 62 else "NOT SAME PERSON"
        reply = {"similarity": alike, "result": judgment}
    elif endpoint == "addface":
        reply, state = {"person_id": f"p{rng.randrange(10**9)}", "person_count": 1}, "free"
    elif endpoint == "searchface":
        matches = [{"confidence": round(rng.triangular(55, 100, 96), 2), "person_id": "p1"}] * rng.randrange(3)
        reply = {"matches": matches}
    else:
        said = rng.choices(("yes", "no", "unavailable"), (70, 26, 4))[0]
        reply = {"number": f"+62813{rng.randrange(10**8):08}", "whatsapp": said}
        if said == "yes":
            reply |= {"status_update": "20180825", "signature": "at work", "business_user": "no", "avatar": "yes"}
        elif said == "unavailable":
            state = "free"
    return took, state, "OK", 200, None, reply.get("whatsapp") != "unavailable", json.dumps(reply).encode()


def make(path: str, count: int) -> None:
    """A ledger with the attempts in it, as the library would have written them."""
    from aisolution_async import Ledger  # noqa: PLC0415  # what is measured imports its own

    async def begin() -> None:
        async with Ledger(path):
            pass

    asyncio.run(begin())
    columns = _COLUMNS.split()
    marks = ", ".join("?" * len(columns))
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(f"INSERT INTO attempts ({', '.join(columns)}) VALUES ({marks})", attempts(count))
        db.execute("UPDATE attempts SET holds = 1 WHERE state = 'unknown'")
        db.execute("UPDATE file SET last_id = (SELECT max(id) FROM attempts)")
        db.execute(
            """INSERT INTO totals SELECT endpoint, 0, sum(state = 'charged'), sum(state = 'free'),
                sum(state = 'not sent'), sum(state = 'unknown'), sum(state IN ('charged', 'unknown')),
                sum(CASE WHEN state IN ('charged', 'unknown') THEN price ELSE 0 END) FROM attempts GROUP BY 1"""
        )


def measure(path: str) -> dict[str, float]:
    """One report, its imports included."""
    cpu, wall = time.process_time(), time.perf_counter()
    from aisolution_async.bulk.report import make_report  # noqa: PLC0415  # what it costs to import is a part

    size = len(make_report(path))
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "memory": peak_megabytes(),
        "size": size,
    }


def main(*, quick: bool) -> None:
    """Print the table."""
    count = _QUICK_ATTEMPTS if quick else _ATTEMPTS
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "made.ledger")
        _child({"make": path, "count": count})
        runs = [_child({"path": path}) for _ in range(1 if quick else _ROUNDS)]
        size = Path(path).stat().st_size
    print(f"\n### report: {SUMMARY}\n")
    rows = [(f"{count:,} attempts", "CPU, s", "seconds", "peak MB")]
    for name, choose in (("median", statistics.median), ("best", min), ("worst", max)):
        figures = [choose([run[figure] for run in runs]) for figure in ("cpu", "wall", "memory")]
        rows.append((name, f"{figures[0]:.2f}", f"{figures[1]:.2f}", f"{figures[2]:.0f}"))
    print_table(rows)
    print(f"\n{len(runs)} runs; the ledger has {size / 1e6:.0f} MB, the page {runs[0]['size'] / 1e3:.0f} KB.")


def _child(spec: dict[str, Any]) -> dict[str, float]:
    result: dict[str, float] = run_module("benchmarks.report", spec)
    if "error" in result:
        raise SystemExit(f"report: {result['error']} {result.get('details', '')}")
    return result


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "make" in given:
        make(given["make"], given["count"])
        print("{}")
    else:
        print(json.dumps(measure(given["path"])))
