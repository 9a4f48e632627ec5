"""Rows in: a CSV, TSV, JSONL or Parquet file or a workbook, read one row at a time.

Which of them a file is, is said by its content where that is a workbook or Parquet, or text under the name of a
workbook, else by its ending; how it is written, is found out and said in `Rows.about`. Memory
stays flat, except for workbooks: `sheets.py` says what those need. A row that cannot be used (too few cells, bytes
that are no text, JSON that does not parse) is still a row: it comes with the problem named, so that it can be
reported where it stands. What each format may be like is said in its own module.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aisolution_async.bulk import heading, workbooks
from aisolution_async.bulk.cells import text
from aisolution_async.bulk.source import (
    MAX_CELL,
    MAX_LINE,
    MISSING,
    Missing,
    Reader,
    Row,
    UnreadableInputError,
    open_bytes,
    shown,
    some,
    what_it_is,
)
from aisolution_async.errors import ConfigurationError
from aisolution_async.names import is_file

__all__ = [
    "DELIMITERS",
    "ENDINGS",
    "MAX_CELL",
    "MAX_LINE",
    "MISSING",
    "Missing",
    "Row",
    "Rows",
    "UnreadableInputError",
    "text",
]

DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""The endings of files of cells that are written, and what stands between the cells."""

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xlsb": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
}
ENDINGS = tuple(_FORMATS)
"""What an input file may end in."""

_OPTIONS = {
    "delimiter": ("csv", "tsv"),
    "encoding": ("csv", "tsv", "jsonl"),
    "sheet": ("xlsx",),
    "skip_hidden": ("xlsx",),
    "header_row": ("csv", "tsv", "xlsx", "html"),
}

_HEAD = 4096
_MOST_SHEETS = 20


class Rows:
    """An input file, open: its `header`, and its rows, which can be iterated once.

    `path` "-" is standard input, as JSONL. `delimiter` (one character) and `encoding` (a codec of Python's) are
    found out where they are not given, `sheet` (a name, or a place from 1) is the first that is visible. `skip_hidden`
    leaves out the rows of a workbook that nobody sees. `header_row` is the row of a sheet, or the line of CSV, that
    names the columns, 0 if none does, and found where it is not given. `over` puts other cells in place of some.

    `format` is "csv", "tsv", "jsonl", "parquet", "xlsx" (any workbook) or "html" (a web page so named), and `about` one
    line for a person on what was found out. `schema` has the types of a Parquet file's columns, and is None for all
    others. For files of text, `encoding` is a codec's name without a byte order mark, `errors` its error handler under
    which bytes that are no text go out as they came in, and `bom` what stands at the beginning of the file; `delimiter`
    is for CSV and TSV.
    `total` is how many rows there are, and None for CSV and TSV: `count()` finds it out. `hidden` is how many rows of a
    workbook are hidden, be they left out or not, and None where that cannot be told; `skips_hidden` says which, and
    `hidden_columns` has the names of columns. `sheet` is the worksheet that is read, and `numbers` has the number of
    each column in it. `notes` are lines for a person on how the file was read. Rows of totals at the very end of a
    sheet or of CSV have a problem that says so. `left_out` is how many rows of empty cells at the very end were taken
    for none, once all others were read, and `blank` how many such stood among the others.

    Raises ConfigurationError for a file that cannot be used as a whole; while iterating,
    UnreadableInputError where the rest of the file cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        delimiter: str | None = None,
        encoding: str | None = None,
        sheet: str | None = None,
        skip_hidden: bool = False,
        header_row: int | None = None,
        over: Callable[[Sequence[str], Iterator[Row]], Iterator[Row]] | None = None,
    ) -> None:
        self.path = Path(path)
        is_stdin = os.fspath(path) == "-"
        found = "jsonl" if is_stdin else format_of(self.path)
        if found is None:
            known = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
            packed = self.path.suffix.lower() in (".gz", ".zip", ".zst", ".bz2", ".xz")
            what = "unpack it first" if packed else "the ending says the format"
            raise ConfigurationError(f"the input {str(self.path)!r} must end in {known}: {what}")
        given: dict[str, Any] = {
            "delimiter": delimiter,
            "encoding": encoding,
            "sheet": sheet,
            "skip_hidden": skip_hidden or None,
            "header_row": header_row,
        }
        if header_row is not None and header_row < 0:
            raise ConfigurationError(
                f"header_row must be the number of a row, or 0 if none names the columns, not {header_row}"
            )
        for name, value in given.items():
            if value is not None and found not in _OPTIONS[name]:
                raise ConfigurationError(f"{name} does not go with {str(self.path)!r}: it is for {_used(name)}")
        self._reader = self._open(found, is_stdin, **given)
        self._ahead: deque[Row] = deque()
        self._broken: UnreadableInputError | None = None
        self.header = self._reader.header
        self.schema = self._reader.schema
        self.format = self._reader.format
        self.about = self._reader.about
        self.delimiter = self._reader.delimiter
        self.encoding = self._reader.encoding
        self.errors = self._reader.errors
        self.bom = self._reader.bom
        self.total = self._reader.total
        self.hidden = self._reader.hidden
        self.skips_hidden = skip_hidden
        self.hidden_columns = self._reader.hidden_columns
        self.sheet = self._reader.sheet
        self.numbers = self._reader.numbers
        self.notes = self._reader.notes
        self._left = iter(self._reader)
        if self.format in _OPTIONS["header_row"]:
            self._left = heading.with_totals(self._reader, "line" if self.delimiter is not None else "row")
        if over is not None:
            self._left = over(self.header, self._left)

    def __iter__(self) -> Iterator[Row]:
        while self._ahead:
            yield self._ahead.popleft()
        if self._broken is not None:
            raise self._broken
        yield from self._left

    def ahead(self, most: int, most_characters: int) -> Sequence[Row]:
        """The first rows, which are iterated all the same: `most` of them, and no more than hold so many characters.

        To be asked before the first row is taken.
        """
        held = sum(map(_size, self._ahead))
        while self._broken is None and len(self._ahead) < most and held < most_characters:
            try:
                row = next(self._left, None)
            except UnreadableInputError as exc:
                self._broken = exc  # whoever comes to it is told
                break
            if row is None:
                break
            self._ahead.append(row)
            held += _size(row)
        return [*self._ahead]

    @property
    def left_out(self) -> int:
        return self._reader.left_out

    @property
    def blank(self) -> int:
        return self._reader.blank

    def count(self, given_up: Callable[[], bool]) -> int | None:
        """How many rows there are, or None if `given_up()` became true meanwhile. Uses the rows up."""
        return self._reader.count(given_up)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def missing(self, column: str, purpose: str) -> ConfigurationError:
        """The error that there is no such column."""
        return self.unfit(f"{str(self.path)!r} has no column {column!r} for {purpose}: its columns are")

    def unfit(self, problem: str) -> ConfigurationError:
        """The error that a column is not there, as `problem` says: with the columns that are."""
        problem = f"{problem} {some(self.header)}"
        if any(shown(name) == "…" for name in self.header):
            problem += "; the first line looks like data, and must name the columns"
        elif len(self.header) == 1 and self.delimiter is not None and not self.header[0].replace("_", "").isalnum():
            problem += f"; it was read as {self.about}"
        return ConfigurationError(f"{problem}{self._elsewhere()}")

    def _elsewhere(self) -> str:
        """What the other sheets of the workbook have."""
        found = []
        for name in self._reader.others[:_MOST_SHEETS]:
            try:
                with Rows(self.path, sheet=name) as other:
                    found.append(f"sheet {name!r} has {some(other.header)}")
            except ConfigurationError:  # it is empty, say
                continue
        return f"; {'; '.join(found)}: say --sheet (sheet=) if one of them is meant" if found else ""

    def _open(
        self,
        found: str,
        is_stdin: bool,
        *,
        delimiter: str | None,
        encoding: str | None,
        sheet: str | None,
        skip_hidden: bool | None,
        header_row: int | None,
    ) -> Reader:
        # Each reader is imported where it is needed: two of them need packages that others do without.
        if found == "parquet":
            from aisolution_async.bulk.parquet import ParquetReader  # noqa: PLC0415  # it needs pyarrow, which is an extra

            return ParquetReader(self.path)
        if found == "xlsx":
            from aisolution_async.bulk.sheets import SheetReader  # noqa: PLC0415  # it needs calamine, which is an extra

            return SheetReader(self.path, sheet, skip_hidden=bool(skip_hidden), header_row=header_row)
        if found == "html":
            from aisolution_async.bulk.pages import PageReader  # noqa: PLC0415  # only the reader that is needed

            return PageReader(self.path, header_row=header_row)
        if found == "jsonl":
            from aisolution_async.bulk.objects import ObjectReader  # noqa: PLC0415  # only the reader that is needed

            return ObjectReader(self.path, _spool() if is_stdin else open_bytes(self.path), encoding)
        from aisolution_async.bulk.delimited import DelimitedReader  # noqa: PLC0415  # only the reader that is needed

        usual = DELIMITERS.get(f".{found}", ",")
        return DelimitedReader(self.path, found, usual, delimiter, encoding, header_row=header_row)


def format_of(path: Path) -> str | None:
    """The format of a file: by its content, where that tells, else by its ending; None if neither does."""
    found = _FORMATS.get(path.suffix.lower())
    try:
        if not is_file(path):
            return found
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return found  # whoever opens it says what is wrong
    if head.startswith(b"PK\x03\x04"):
        return "xlsx" if found == "xlsx" or workbooks.is_workbook(path) else found
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return "xlsx"
    if head.startswith(b"PAR1"):
        return "parquet"
    if found == "xlsx" and workbooks.is_page(head):
        return "html"
    if found == "xlsx" and head and what_it_is(head) is None and workbooks.what_else(head) is None:
        is_text = head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" not in head
        return "csv" if is_text else found
    return found


def _size(row: Row) -> int:
    return sum(len(cell) for cell in row.cells if isinstance(cell, str | bytes))


def _used(option: str) -> str:
    return " and ".join(format_.upper() for format_ in _OPTIONS[option])


def _spool() -> Any:
    """Standard input, all of it, in a temporary file that is gone when it is closed, and that nobody else reads."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the reader closes it
    try:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.seek(0)
    except OSError as exc:
        file.close()
        problem = exc.strerror or type(exc).__name__
    except BaseException:
        file.close()
        raise
    else:
        return file
    raise ConfigurationError(f"standard input cannot be kept in {tempfile.gettempdir()!r}: {problem}; set TMPDIR")
