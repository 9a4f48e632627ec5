"""Sheets: what a workbook of results costs, by its rows, and what reading one costs beside calamine alone.

Each measurement is a process of its own: `python -m benchmarks.workbook '{...}'`. The vendor is a transport that
answers at once. The files lie in the folder for temporary files: set TMPDIR to measure another disk.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import python_calamine
import xlsxwriter

from aisolution_async import AsyncClient, WhatsAppDetail
from aisolution_async.bulk import run_bulk
from aisolution_async.bulk.rows import Rows
from benchmarks.compare import cores, run_module
from benchmarks.measure import peak_megabytes
from benchmarks.numbers import number_of
from benchmarks.runner import Instant
from benchmarks.server import settle
from benchmarks.table import print_table

SUMMARY = "Workbooks: memory of CSV to .xlsx at 50,000 to 500,000 rows; CPU of reading .xlsx beside calamine alone"

_ROWS, _QUICK_ROWS = (50_000, 200_000, 500_000), (500, 1000)
_READ, _QUICK_READ = 1_000_000, 1000
_ROUNDS = 3
_HEADER = ("id", "name", "number", "born", "amount")
_NAMES = ("Siti Rahayu", "Budi Santoso", "Nguyễn Thị Hoa", "José Dela Cruz")


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """As many applicants, no two the same."""
    born = datetime.date(1970, 1, 1)
    for number in range(count):
        name = f"{_NAMES[number % len(_NAMES)]} {number}"
        day = born + datetime.timedelta(number % 11_000)
        yield f"A{number:07}", name, number_of(number), day, number % 5000 * 1000.5


async def fill(folder: Path, count: int) -> dict[str, float]:
    """A CSV of `count` rows, asked, recorded, and made a workbook of."""
    source, target = folder / "in.csv", folder / "out.xlsx"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(",".join(map(str, cells)) + "\n" for cells in chain([_HEADER], rows(count)))
    cpu, wall = time.process_time(), time.perf_counter()
    async with AsyncClient("benchmark", base_url="https://vendor.example", transport=Instant()) as client:
        summary = await run_bulk(client, WhatsAppDetail, source, target, ledger=folder / "out.xlsx.ledger")
    assert summary.ok == count, summary
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "memory": peak_megabytes(), "size": target.stat().st_size / 1e6}


def read(path: str, by: str) -> dict[str, float]:
    """All cells of a workbook."""
    cpu = time.process_time()
    if by == "calamine":
        sheet = python_calamine.load_workbook(path).get_sheet_by_index(0)
        found = sum(1 for _ in sheet.iter_rows()) - 1
    else:
        with Rows(path) as opened:
            found = sum(1 for _ in opened)
    return {"cpu": time.process_time() - cpu, "rows": found, "memory": peak_megabytes()}


def main(*, quick: bool) -> None:
    """Print both tables."""
    print(f"\n### workbook: {SUMMARY}\n")
    table: list[tuple[str, ...]] = [("rows, CSV to .xlsx", "peak MB", "CPU/row, µs", "seconds", "MB of .xlsx")]
    for count in _QUICK_ROWS if quick else _ROWS:
        one = _child({"what": "fill", "count": count})
        figures = f"{one['memory']:.0f}", f"{1e6 * one['cpu'] / count:.0f}", f"{one['wall']:.0f}", f"{one['size']:.1f}"
        table.append((f"{count:,}", *figures))
    print_table(table)

    count = _QUICK_READ if quick else _READ
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.xlsx"
        book = xlsxwriter.Workbook(str(path), {"constant_memory": True})
        sheet, day = book.add_worksheet(), book.add_format({"num_format": 14})
        for number, cells in enumerate(chain([_HEADER], rows(count))):
            for place, cell in enumerate(cells):
                sheet.write(number, place, cell, day if isinstance(cell, datetime.date) else None)
        book.close()
        found: dict[str, list[dict[str, float]]] = {"calamine alone": [], "ours": []}
        for _ in range(1 if quick else _ROUNDS):
            for name, runs in found.items():
                runs.append(_child({"what": "read", "path": str(path), "by": name.partition(" ")[0]}))
    print()
    table = [(f"{count:,} rows of {len(_HEADER)} cells, read", "CPU, s", "peak MB")]
    for name, runs in found.items():
        assert {run["rows"] for run in runs} == {count}
        table.append((name, f"{min(run['cpu'] for run in runs):.2f}", f"{max(run['memory'] for run in runs):.0f}"))
    print_table(table)


def _child(spec: dict[str, Any]) -> dict[str, Any]:
    result = run_module("benchmarks.workbook", {**spec, "core": cores()[1]})
    if "error" in result:
        raise SystemExit(f"{spec['what']}: {result['error']} {result.get('details', '')}")
    return result


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    settle(given["core"])
    if given["what"] == "read":
        print(json.dumps(read(given["path"], given["by"])))
    else:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(asyncio.run(fill(Path(place), given["count"]))))
