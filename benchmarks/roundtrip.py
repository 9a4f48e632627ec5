"""`python -m benchmarks.roundtrip FOLDER ...`: every sheet in the folders through `aisolution bulk`, and compared.

Test data of other projects makes a good folder: unpack the source distributions of pandas, openpyxl, calamine, xlrd,
csvkit and their like. Each CSV, TSV and workbook is asked of the sandbox, with its first column for the number, into
.xlsx, .csv and .parquet. Each cell of the input's columns is compared, of workbooks as openpyxl (values and number
formats) and calamine (values) read both files. What is printed: what was refused and why, and each cell that differs.
Nothing is downloaded, and nothing in the folders is changed.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import python_calamine
from click.testing import CliRunner
from pyarrow import parquet

from aisolution_async.bulk.rows import Row, Rows, UnreadableInputError, text
from aisolution_async.bulk.source import UNCALCULATED
from aisolution_async.cli.commands import aisolution
from aisolution_async.errors import ConfigurationError

_ENDINGS = (".csv", ".tsv", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_LARGEST = 4 << 20  # bytes: openpyxl would take minutes for more
_MOST_TEXT = 32_767
_MOST_SHOWN = 3  # of a file, and of a kind of difference
_ODD = re.compile(r"'[^']*'|\d[\d,]*")
_ESCAPED = re.compile(r"_x[0-9A-Fa-f]{4}_")


def difference(before: Any, after: Any) -> str:
    """How a cell of the output is another one than that of the input; "" if it is not."""
    before, after = ("" if value is None else value for value in (before, after))
    if type(before) is type(after) and before == after:
        return ""
    if isinstance(before, bool) is isinstance(after, bool):
        if isinstance(before, int | float) and isinstance(after, int | float):
            return "" if before == after else "another number"
        if isinstance(before, dt.date) and isinstance(after, dt.date):
            return "" if _moment(before) == _moment(after) else "another moment"
        if isinstance(before, int | float) and isinstance(after, str) and abs(before) >= 10**15:
            return "" if float(after) == before else "other digits"
        if isinstance(before, str) and isinstance(after, str):
            is_cut = len(after.encode("utf-16-le")) > 2 * (_MOST_TEXT - 2) and before.startswith(after[:-1])
            return "" if is_cut else "another text"
    return f"{type(before).__name__} is {type(after).__name__}"


def _moment(value: dt.date) -> dt.datetime:
    return value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())


class RoundTrip:
    """What came of all files."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: defaultdict[str, list[str]] = defaultdict(list)
        self.differences: defaultdict[str, list[str]] = defaultdict(list)
        self._folder = folder

    def take(self, path: Path) -> None:
        """One file there and back."""
        self.counts["files"] += 1
        try:
            with Rows(path) as rows:
                every = list(rows)
        except (ConfigurationError, UnreadableInputError) as exc:
            self.refused[_ODD.sub("…", str(exc))[:100]].append(path.name)
            return
        if not every:
            self.refused["no rows"].append(path.name)
            return
        self.counts["sheets"] += 1
        self.counts["rows"] += len(every)
        self.counts["cells"] += len(every) * len(rows.header)
        if (out := self._run(path, rows, ".xlsx")) is not None:
            self._compare(path, "xlsx", self._of_workbook(path, rows, every, out))
        if (out := self._run(path, rows, ".csv")) is not None:
            between = rows.delimiter if rows.format == "csv" and rows.delimiter else ","
            whole = out.read_bytes().decode("utf-8-sig", "surrogateescape")
            csv.field_size_limit(1 << 27)
            lines = [line for line in csv.reader(io.StringIO(whole, newline=""), delimiter=between) if line][1:]
            texts = ((where, text(cell), found) for where, cell, found in self._cells(path, every, lines))
            self._compare(path, "csv", texts)
        if (out := self._run(path, rows, ".parquet")) is not None:
            columns = parquet.read_table(out).columns[: len(rows.header)]
            values = [*zip(*(column.to_pylist() for column in columns), strict=True)]
            alike = ((where, *_alike(cell, found)) for where, cell, found in self._cells(path, every, values))
            self._compare(path, "parquet", alike)

    def _run(self, path: Path, rows: Rows, ending: str) -> Path | None:
        out = self._folder / f"out{ending}"
        given = ["bulk", "whatsapp-detail", str(path), "-o", str(out), "--number", rows.header[0], "--country", "ID"]
        options = ["--sandbox", "--no-ledger", "--quiet", "--overwrite", "--no-defuse"]
        out.unlink(missing_ok=True)
        said = CliRunner().invoke(aisolution, [*given, *options])
        if out.exists():
            return out
        why = (said.stderr.strip().splitlines() or [repr(said.exception)])[-1]
        self.refused[f"to {ending}: {_ODD.sub('…', why)[:100]}"].append(path.name)
        return None

    def _pairs(self, path: Path, rows: Sequence[Row], lines: Sequence[Any]) -> Iterator[tuple[Row, Any]]:
        if len(rows) != len(lines):
            self.differences["another number of rows"].append(f"{path}: {len(rows)} are {len(lines)}")
        return zip(rows, lines, strict=False)

    def _cells(self, path: Path, rows: Sequence[Row], lines: Sequence[Any]) -> Iterator[tuple[str, Any, Any]]:
        for row, line in self._pairs(path, rows, lines):
            for cell, found in zip(row.cells, line, strict=False):
                yield f"row {row.line}", cell, found

    def _of_workbook(self, path: Path, rows: Rows, every: list[Row], out: Path) -> Iterator[tuple[str, Any, Any]]:
        with out.open("rb") as file:
            found = python_calamine.load_workbook(file).get_sheet_by_index(0).to_python(skip_empty_area=False)[1:]
        if rows.sheet is None:
            yield from self._cells(path, every, found)
            return
        before, after = _opened(path, rows.sheet), openpyxl.load_workbook(out)["Results"]
        self.counts["sheets that openpyxl reads"] += before is not None
        try:
            with path.open("rb") as file:
                said = (
                    python_calamine.load_workbook(file).get_sheet_by_name(rows.sheet).to_python(skip_empty_area=False)
                )
        except python_calamine.CalamineError:
            said = []
        for place, (row, line) in enumerate(self._pairs(path, every, found), 2):
            for column, number in enumerate(rows.numbers, 1):
                where = f"row {row.line}, column {number}"
                own = said[row.line - 1][number - 1] if row.line <= len(said) else ""
                if before is None:
                    yield where, own, line[column - 1]
                    continue
                cell, other = before.cell(row.line, number), after.cell(place, column)
                value = cell.value
                # calamine has no errors, and openpyxl neither takes out marks of characters, nor trims as Excel does.
                if own != "" and (
                    not isinstance(value, str) or _ESCAPED.search(value) or value.strip() == str(own).strip()
                ):
                    yield where, own, line[column - 1]
                elif other.value != UNCALCULATED:  # a formula that has no result has that text
                    yield where, value, other.value
                if value not in (None, "") and not isinstance(value, str) and isinstance(other.value, type(value)):
                    yield f"{where}, the format", cell.number_format or "General", other.number_format

    def _compare(self, path: Path, kind: str, cells: Iterator[tuple[str, Any, Any]]) -> None:
        for where, before, after in cells:
            self.counts[f"compared in .{kind}"] += 1
            if how := difference(before, after):
                self.counts["differences"] += 1
                known = self.differences[f".{kind}: {how}"]
                if sum(each.startswith(f"{path}:") for each in known) < _MOST_SHOWN:
                    known.append(f"{path}: {where}: {before!r:.60} is {after!r:.60}")


def _opened(path: Path, sheet: str) -> Any:
    if path.suffix.lower() not in (".xlsx", ".xlsm"):
        return None
    try:
        return openpyxl.load_workbook(path, data_only=True)[sheet]
    except Exception:  # of others' files anything may come
        return None


def _alike(cell: Any, found: Any) -> tuple[Any, Any]:
    """Both as text where a column of Parquet is one of texts, which it is where its cells are of several types."""
    if isinstance(found, str):
        return text(cell).encode("utf-8", "backslashreplace").decode(), found
    return cell, found


def main(folders: Sequence[str]) -> int:
    """Take all files there are; 1 if anything differs."""
    warnings.simplefilter("ignore")
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in _ENDINGS]
    with tempfile.TemporaryDirectory() as folder:
        trip = RoundTrip(Path(folder))
        for path in paths:
            if path.is_file() and path.stat().st_size <= _LARGEST:
                trip.take(path)
    print(", ".join(f"{name}: {count:,}" for name, count in trip.counts.items()))
    for why, names in sorted(trip.refused.items(), key=lambda each: -len(each[1])):
        print(f"refused, {len(names)}: {why} ({', '.join(names[:_MOST_SHOWN])})")
    for how, cells in trip.differences.items():
        print(f"differs, {how}")
        for cell in cells:
            print(f"  {cell}")
    return 1 if trip.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
