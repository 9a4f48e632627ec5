"""Rows in: a CSV or TSV file in UTF-8, read one row at a time, so that memory stays flat.

What a file may be like: with or without a BOM, LF or CRLF, quotes, newlines inside cells. The first line that
is not blank names the columns. Blank lines are no rows, except where there is one column: spreadsheets write its
empty cells so, and only a blank line at the very end is none. A row that cannot be used (too few cells, bytes
that are not UTF-8) is still a row: it comes with the problem named, so that it can be reported where it stands.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from aisolution_async.errors import AISolutionError, ConfigurationError

DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""The endings of files of cells, and what stands between the cells."""

MAX_CELL = 64 * 1024 * 1024
"""Characters of one cell: a cell may hold an image as base64."""
MAX_LINE = 4 * MAX_CELL

# Of the cells that a row has more than the header, as they are quoted: how many, and characters of each.
_MOST_SURPLUS = 20
_LONGEST_SURPLUS = 40

_OTHER_FORMATS = {
    b"\xff\xfe": "is UTF-16",
    b"\xfe\xff": "is UTF-16",
    b"PK\x03\x04": "is an Excel workbook (or another ZIP file)",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook",
}
_SAVE_AS = "save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"


class UnreadableInputError(AISolutionError):
    """The input cannot be read any further than it was."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `line` is where it begins in the file, `cells` are as many as the header has.

    `problem` says why it cannot be used, None where it can.
    """

    line: int
    cells: list[str] = field(repr=False)
    problem: str | None = None


class Rows:
    """An input file, open: its `header`, and its rows, which can be iterated once.

    Raises ConfigurationError for a file that cannot be used as a whole; while iterating,
    UnreadableInputError where the rest of the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        delimiter = DELIMITERS.get(path.suffix.lower())
        if delimiter is None:
            raise ConfigurationError(f"the input {str(path)!r} must end in {' or '.join(DELIMITERS)}: {_SAVE_AS}")
        # The limit is the whole process's: it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
        self._file = _open(path)
        self._ended = False
        self._keeps_blank = self._is_last = False
        self._reader = csv.reader(self._lines(), delimiter=delimiter)
        try:
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise
        self._keeps_blank = len(self.header) == 1

    def __iter__(self) -> Iterator[Row]:
        while (found := self._next()) is not None:
            yield self._row(*found)

    def count(self, given_up: Callable[[], bool]) -> int | None:
        """How many rows are left, or None if `given_up()` became true meanwhile. Uses the rows up."""
        rows = 0
        while self._next() is not None:
            rows += 1
            if given_up():
                return None
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def missing(self, column: str, purpose: str) -> ConfigurationError:
        """The error that there is no such column."""
        shown = [_shown(name) for name in self.header]
        text = f"{str(self.path)!r} has no column {column!r} for {purpose}: its columns are {', '.join(shown)}"
        if "…" in shown:
            text += "; the first line looks like data, and must name the columns"
        elif len(shown) == 1 and ";" in self.header[0]:
            text += "; cells are separated by commas here, not by semicolons"
        return ConfigurationError(text)

    def _lines(self) -> Iterator[str]:
        line = self._file.readline(MAX_LINE)
        while line:
            if len(line) == MAX_LINE:
                raise csv.Error(f"a line of more than {MAX_LINE} characters")
            # Only behind a blank line: a row is not to wait for the next one, which may be unreadable.
            ahead = self._file.readline(MAX_LINE) if not line.strip("\r\n") else None
            self._is_last = ahead == ""
            yield line
            line = self._file.readline(MAX_LINE) if ahead is None else ahead
        # The csv module only asks for a line after the last one while a quote is open.
        self._ended = True

    def _next(self) -> tuple[int, list[str]] | None:
        """The next row, and the line it begins on."""
        while True:
            line = self._reader.line_num + 1
            try:
                cells = next(self._reader, None)
            except csv.Error as exc:
                problem = f"{exc}; is a quote left open there?"
            except OSError as exc:
                problem = exc.strerror or type(exc).__name__
            else:
                if cells is None:
                    return None
                if cells:
                    return line, cells
                if self._keeps_blank and not self._is_last:
                    return line, [""]
                continue
            raise UnreadableInputError(f"{str(self.path)!r} cannot be read on from line {line}: {problem}")

    def _header(self) -> list[str]:
        path = str(self.path)
        try:
            found = self._next()
        except UnreadableInputError as exc:
            raise ConfigurationError(str(exc)) from None
        if found is None:
            raise ConfigurationError(f"{path!r} is empty: its first line must name the columns")
        line, names = found
        if self._ended:
            raise ConfigurationError(f"line {line} of {path!r}: a quote is opened and never closed")
        if any("\0" in name for name in names):
            raise ConfigurationError(f"{path!r} is no CSV in UTF-8 (it may be UTF-16): {_SAVE_AS}")
        for place, name in enumerate(names, 1):
            if not name.strip():
                raise ConfigurationError(f"line {line} of {path!r}: column {place} has no name: name or remove it")
            if name in names[: place - 1]:
                raise ConfigurationError(
                    f"line {line} of {path!r}: two columns are named {_shown(name)}: rename one of them"
                )
        return names

    def _row(self, line: int, cells: list[str]) -> Row:
        width = len(self.header)
        problem = None
        if self._ended:
            problem = "a quote is opened here and never closed: close it, or remove it"
        elif len(cells) != width:
            cause = "a cell with a comma in it needs quotes around it" if len(cells) > width else "add what is missing"
            if self._reader.line_num > line:
                cause = f"the row goes on to line {self._reader.line_num}: is a quote left open?"
            problem = f"{len(cells)} cells where the header has {width}: {cause}"
        elif (place := _undecodable(cells)) is not None:
            problem = f"column {_shown(self.header[place])} is not UTF-8: {_SAVE_AS}"
        if len(cells) > width:
            problem = f"{problem}; {_surplus(cells[width:])}"
        if len(cells) != width:
            cells = [*cells, *[""] * width][:width]
        return Row(line, cells, None if problem is None else f"line {line}: {problem}")


def _open(path: Path) -> TextIO:
    try:
        with path.open("rb") as file:
            head = file.read(4)
        for start, what in _OTHER_FORMATS.items():
            if head.startswith(start):
                raise ConfigurationError(f"the input {str(path)!r} {what}: {_SAVE_AS}")
        # surrogateescape: bytes that are not UTF-8 come out as they went in, and only their row is in trouble.
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except FileNotFoundError:
        problem = "does not exist: check the path"
    except IsADirectoryError:
        problem = "is a directory: name a CSV file in it"
    except PermissionError:
        problem = "may not be read: check the file's permissions"
    except (OSError, ValueError) as exc:
        problem = f"cannot be read ({getattr(exc, 'strerror', None) or type(exc).__name__})"
    raise ConfigurationError(f"the input {str(path)!r} {problem}")


def _undecodable(cells: list[str]) -> int | None:
    """The place of the first cell with bytes that are not UTF-8."""
    for place, cell in enumerate(cells):
        if not cell.isascii():
            try:
                cell.encode()
            except UnicodeEncodeError:
                return place
    return None


def _surplus(cells: list[str]) -> str:
    """Cells that have no column, for a problem's text; shortened, as one may be an image."""
    quoted = [
        repr(cell if len(cell) <= _LONGEST_SURPLUS else f"{cell[: _LONGEST_SURPLUS - 1]}…")
        for cell in cells[:_MOST_SURPLUS]
    ]
    rest = ", …" if len(cells) > _MOST_SURPLUS else ""
    return f"{len(cells)} more cell{'s' if len(cells) > 1 else ''}: {', '.join(quoted)}{rest}"


def _shown(name: str) -> str:
    # Where the file has no header, its first row is taken for one: numbers and images are not to be shown.
    return "…" if len(name) > 40 or re.search(r"\d{5}", re.sub(r"[\s().+-]", "", name)) else repr(name)
