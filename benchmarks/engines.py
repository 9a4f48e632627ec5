"""Ray Data and Spark in steady state, beside one plain `client.batch` with as many calls at once.

The vendor takes 50 ms for an answer, so that the places are what limits, and not the cores. All of them have a shared
ledger on PostgreSQL, and the pace is read from it: of all attempts but the first and the last tenth, which are those of
an engine that starts and ends. What is not installed is skipped. Each measurement is a process of its own:
`python -m benchmarks.engines '{...}'`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from aisolution_async import AsyncClient, WhatsAppDetail
from aisolution_async.ledger import open_ledger
from benchmarks.compare import run_module
from benchmarks.numbers import number_of
from benchmarks.scale import postgres
from benchmarks.table import print_table

SUMMARY = "Ray Data and Spark in steady state, beside client.batch: two workers with 20 calls at once, and one with 40"

_ROUNDS = 3
_CALLS, _QUICK_CALLS = 4_000, 400
_WORKERS, _AT_ONCE, _LATENCY = 2, 20, 0.05
_ENGINES = {"client.batch": None, "Ray Data": "ray", "Spark": "pyspark"}
_TARGET = 0.9


def main(*, quick: bool) -> None:
    """Print the table."""
    print(f"\n### engines: {SUMMARY}\n")
    count = _QUICK_CALLS if quick else _CALLS
    there = [name for name, package in _ENGINES.items() if package is None or importlib.util.find_spec(package)]
    for name in _ENGINES.keys() - set(there):
        print(f"{name} is not installed: skipped (pip install -e '.[{'ray' if name == 'Ray Data' else 'spark'}]')\n")
    paces: dict[str, list[float]] = {name: [] for name in there}
    command = [sys.executable, "-m", "benchmarks.server", json.dumps({"latency": _LATENCY})]
    with (
        postgres() as server,
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as vendor,
    ):
        assert vendor.stdin is not None
        assert vendor.stdout is not None
        port, base = int(vendor.stdout.readline()), server.get_uri()
        _write(Path(folder), count)
        for number in range(1 if quick else _ROUNDS):
            for name in there:
                url = f"{base}{'&' if '?' in base else '?'}schema=s{number}_{list(_ENGINES).index(name)}"
                found = run_module("benchmarks.engines", {"engine": name, "port": port, "url": url, "folder": folder})
                if "error" in found:
                    raise SystemExit(f"{name}: {found['error']} {found.get('details', '')}")
                paces[name].append(_pace(url, count))
        vendor.stdin.close()
    plain = statistics.median(paces["client.batch"])
    rows: list[tuple[str, ...]] = [("", "calls/s", "of client.batch", "from", "to", "target")]
    for name, found_paces in paces.items():
        middle, low, high = statistics.median(found_paces), min(found_paces), max(found_paces)
        target = "" if name == "client.batch" else f"{100 * _TARGET:.0f} %"
        shares = (f"{100 * pace / plain:.0f} %" for pace in (middle, low, high))
        rows.append((name, f"{middle:,.0f}", *shares, target))
    print_table(rows)
    minute, five = os.getloadavg()[:2]
    print(f"\nLoad of the machine over the last minute and the last five: {minute:.1f}, {five:.1f}.")


def _write(folder: Path, count: int) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    table = arrow.table({"id": list(range(count)), "phone": [number_of(n) for n in range(count)]})
    for number, start in enumerate(range(0, count, -(-count // 8))):
        parquet.write_table(table.slice(start, -(-count // 8)), folder / f"part-{number}.parquet")


def _pace(url: str, count: int) -> float:
    """Calls a second, as the ledger has them, without the first and the last tenth."""
    began = sorted(record.started_at for record in open_ledger(url).attempts())
    assert len(began) == count, f"{len(began)} attempts for {count} calls"
    first, last = began[count // 10], began[-count // 10]
    return 0.8 * count / (last - first).total_seconds()


async def _plain(url: str, folder: str) -> int:
    table = importlib.import_module("pyarrow.parquet").read_table(folder).to_pylist()
    calls = (WhatsAppDetail(row["phone"], key=row["id"]) for row in table)
    async with (
        AsyncClient(ledger=url) as client,
        client.batch(calls, concurrency=_WORKERS * _AT_ONCE) as batch,
    ):
        return sum([outcome.ok async for outcome in batch])


def _ray(folder: str, options: dict[str, Any]) -> int:
    ray = importlib.import_module("ray")
    data = importlib.import_module("ray.data")
    calls = importlib.import_module("aisolution_async.integrations.ray").calls
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    data.DataContext.get_current().enable_progress_bars = False
    rows = calls(data.read_parquet(folder), WhatsAppDetail, **options).take_all()
    ray.shutdown()
    return sum(row["ok"] for row in rows)


def _spark(folder: str, options: dict[str, Any]) -> int:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master(f"local[{_WORKERS}]")
    for option, value in (("ui.enabled", "false"), ("driver.host", "127.0.0.1"), ("driver.bindAddress", "127.0.0.1")):
        builder = builder.config(f"spark.{option}", value)
    session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    calls = importlib.import_module("aisolution_async.integrations.spark").calls
    rows = calls(session.read.parquet(folder), WhatsAppDetail, **options).collect()
    session.stop()
    return sum(row["ok"] for row in rows)


def _one(given: dict[str, Any]) -> int:
    os.environ |= {"AISOLUTION_TOKEN": "benchmark", "AISOLUTION_BASE_URL": f"http://127.0.0.1:{given['port']}"}
    if given["engine"] == "client.batch":
        return asyncio.run(_plain(given["url"], given["folder"]))
    options = {"columns": {"number": "phone"}, "key": "id", "ledger": given["url"]}
    options |= {"workers": _WORKERS, "concurrency": _AT_ONCE}
    return (_ray if given["engine"] == "Ray Data" else _spark)(given["folder"], options)


if __name__ == "__main__":
    print(json.dumps({"ok": _one(json.loads(sys.argv[1]))}))
