"""CSV and TSV: lines of cells, with one character between them.

What a file may be like: LF, CRLF or CR, quotes (doubled inside), newlines in cells, a first line `sep=;` as Excel
understands it. What stands between the cells is, where it is not given, the one of , ; tab and | that makes as many
cells of the first rows as it makes of the first, or else of most. The encoding is UTF-8 or UTF-16, known by a byte
order mark, by the NULs of the first line, or by being valid; what is neither, and has many bytes that are out of place
in UTF-8, is taken for cp1252, which Excel writes, where that makes words of it, and else for what a detector says. Both
are found out from the first MiB: bytes further on that do not fit are kept as they are, and are in the way only where
their cell is needed.

`heading.py` says which line names the columns, where none is given; what stands above it is left out. Blank lines are
no rows, except where there is one column: spreadsheets write its empty cells so, and only a blank line at the very end
is none. Of more columns, rows of empty cells at the very end are none either, and last columns that have no name are
none where they are empty. Cells that a row lacks at its end are empty, and empty ones that it has too many are none.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aisolution_async.bulk import heading, source
from aisolution_async.bulk.charsets import Encoding, given, guessed
from aisolution_async.bulk.source import (
    MAX_COLUMNS,
    Reader,
    Row,
    UnreadableInputError,
    open_bytes,
    remedy,
    surplus,
    what_it_is,
)
from aisolution_async.errors import ConfigurationError

SAVE_AS = "save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"

_SAMPLE = 1 << 20
_CANDIDATES = ",;\t|"
_NAMES = {"\t": "tabs"}
_SEP = re.compile(r'"?sep=([^\r\n"])"?(\r\n|\r|\n)', re.IGNORECASE)


class DelimitedReader(Reader):
    """The rows of one CSV or TSV file; `usual` is the delimiter where the file does not tell.

    `header_row` is the line that names the columns, 0 if none does; None for the one that looks like it.
    """

    def __init__(
        self,
        path: Path,
        format_: str,
        usual: str,
        delimiter: str | None,
        encoding: str | None,
        *,
        header_row: int | None = None,
    ) -> None:
        self.format = format_
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"\0'):
            raise ConfigurationError(f"delimiter must be one character, and no quote or newline, not {delimiter!r}")
        self._path = path
        # The limit is the whole process's: it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), source.MAX_CELL))
        file, sample, said = open_text(path, open_bytes(path), encoding, newline="", save_as=SAVE_AS, guesses=True)
        self._file = file
        self.encoding, self.errors, self.bom = said.encoding, said.errors, said.bom
        self._lines_before = 0
        self._ended = False
        self._keeps_blank = self._is_last = False
        self._passed = 0
        self._taken = self._cells = 0  # characters and, of a large one, cells of the row that is being read
        try:
            sep = _SEP.match(sample.text)
            if sep is not None:
                self._file.readline()
                self._lines_before = 1
                sample = Sample(sample.text[sep.end() :], sample.is_whole)
            self.delimiter = delimiter or (sep and sep[1]) or _delimiter(sample, usual)
            self._reader = csv.reader(self._lines(), delimiter=self.delimiter)
            self.notes: list[str] = []
            self.header = self._header(sample.rows(self.delimiter), header_row)
        except BaseException:
            self._file.close()
            raise
        self._keeps_blank = len(self.header) == 1
        between = _NAMES.get(self.delimiter, repr(self.delimiter))
        self.about = f"{format_.upper()}, {between} between cells, {said.about}"

    def __iter__(self) -> Iterator[Row]:
        # Spreadsheets write rows that were emptied. They are held back by their lines alone: there may be a million.
        empty = array("q")
        self._passed = 0
        while (found := self._next()) is not None:
            line, cells = found
            if len(cells) > 1 and not any(cells) and not self._ended:
                empty.append(line)
                continue
            for number in empty:
                yield Row(number, [""] * len(self.header))
            del empty[:]
            self.blank = self._passed
            yield self._row(line, cells)
        self.left_out = len(empty)

    def close(self) -> None:
        self._file.close()

    def _lines(self) -> Iterator[str]:
        line = self._file.readline(source.MAX_LINE)
        while line:
            if len(line) == source.MAX_LINE:
                raise csv.Error(f"a line of more than {source.MAX_LINE} characters")
            # Only behind a blank line: a row is not to wait for the next one, which may be unreadable.
            ahead = self._file.readline(source.MAX_LINE) if not line.strip("\r\n") else None
            self._is_last = ahead == ""
            self._weigh(line)
            yield line
            line = self._file.readline(source.MAX_LINE) if ahead is None else ahead
        # The csv module only asks for a line after the last one while a quote is open.
        self._ended = True

    def _weigh(self, line: str) -> None:
        """Raise csv.Error for a row of so many lines or cells that it would take all memory."""
        self._taken += len(line)
        if self._taken > source.MAX_VALUES:
            self._cells += line.count(self.delimiter or ",")
            if self._cells > source.MAX_VALUES:
                raise csv.Error(f"a row of more than {source.MAX_VALUES} cells")
            if self._taken > source.MAX_LINE:
                raise csv.Error(f"a row of more than {source.MAX_LINE} characters")

    def _next(self) -> tuple[int, list[str]] | None:
        """The next row, and the line it begins on."""
        while True:
            line = self._reader.line_num + 1 + self._lines_before
            self._taken = self._cells = 0
            try:
                cells = next(self._reader, None)
            except csv.Error as exc:
                problem = f"{exc}; is a quote left open there?"
            except UnicodeError:
                problem = f"it is not {self.encoding} there; {SAVE_AS}"
            except OSError as exc:
                problem = exc.strerror or type(exc).__name__
            else:
                if cells is None:
                    return None
                if cells:
                    return line, cells
                if self._keeps_blank and not self._is_last:
                    return line, [""]
                self._passed += 1  # a blank line
                continue
            raise UnreadableInputError(f"{str(self._path)!r} cannot be read on from line {line}: {problem}")

    def _header(self, sample: list[tuple[int, list[str]]], chosen: int | None) -> list[str]:
        path = str(self._path)
        full = [(line + self._lines_before, cells) for line, cells in sample if any(map(str.strip, cells))]
        if not full and sample and not chosen:
            raise ConfigurationError(f"{path!r} is empty: its first line must name the columns")
        if chosen == 0:
            return self._unnamed([cells for _, cells in full])
        wanted = chosen or (full[heading.find([cells for _, cells in full])][0] if full else 0)
        try:
            found = self._next()
            while found is not None and found[0] < wanted:
                found = self._next()
        except UnreadableInputError as exc:
            raise ConfigurationError(str(exc)) from None
        if found is None or (chosen and (found[0] != chosen or not any(map(str.strip, found[1])))):
            what = (
                f"has no names of columns in line {chosen}"
                if chosen
                else "is empty: its first line must name the columns"
            )
            raise ConfigurationError(f"{path!r} {what}")
        line, names = found
        if self._ended:
            raise ConfigurationError(f"line {line} of {path!r}: a quote is opened and never closed")
        if any("\0" in name for name in names):
            raise ConfigurationError(f"{path!r} is no CSV: its first line has NUL bytes; {SAVE_AS}")
        self._written = len(names)
        width = _width([cells for number, cells in full if number > line])
        while len(names) > max(1, width) and not names[-1].strip():  # spreadsheets write columns that were emptied
            names = names[:-1]
        if len(names) > MAX_COLUMNS:
            raise ConfigurationError(
                f"line {line} of {path!r}: {len(names)} columns, of which there may be {MAX_COLUMNS}"
            )
        if any(number < line for number, _ in full):
            self.notes.append(heading.told(f"line {line}", is_found=chosen is None))
        header, notes = heading.named(names, lambda place: heading.letters(place + 1))
        self.notes += notes
        return header

    def _unnamed(self, rows: list[list[str]]) -> list[str]:
        self._written = max(1, _width(rows))
        header, notes = heading.named([""] * self._written, lambda place: heading.letters(place + 1))
        self.notes += notes
        return header

    def _row(self, line: int, cells: list[str]) -> Row:
        width = len(self.header)
        if len(cells) == width and not self._ended:
            return Row(line, cells)
        problem = None
        if len(cells) > width and not any(map(str.strip, cells[width:])):
            cells = cells[:width]
        if width < len(cells) <= self._written:
            return Row(
                line, cells[:width], f"line {line}: {surplus(cells[width:])}, in columns that the header does not name"
            )
        last = self._reader.line_num + self._lines_before
        if self._ended:
            problem = "a quote is opened here and never closed: close it, or remove it"
        elif len(cells) > width or (len(cells) < width and last > line):
            between = {",": "comma", "\t": "tab"}.get(self.delimiter or "", repr(self.delimiter))
            cause = f"a cell with a {between} in it needs quotes around it"
            if last > line:
                cause = f"the row goes on to line {last}: is a quote left open?"
            problem = f"{len(cells)} cells where the header has {width}: {cause}"
        elif len(cells) == 1 < width and (self.delimiter or ",") in cells[0]:
            problem = f"the whole row is one cell where the header has {width}: remove the quotes around the row"
        if len(cells) > width:
            problem = f"{problem}; {surplus(cells[width:])}"
        if len(cells) != width:
            cells = [*cells, *[""] * width][:width]
        return Row(line, cells, None if problem is None else f"line {line}: {problem}")


def _width(rows: list[list[str]]) -> int:
    """How many cells the widest of the rows has, without empty ones at its end."""
    return max((place for cells in rows for place, cell in enumerate(cells, 1) if cell.strip()), default=0)


class Sample:
    """The beginning of a text: `is_whole` if there is no more of it."""

    def __init__(self, text: str, is_whole: bool) -> None:
        self.text = text
        self.is_whole = is_whole

    def rows(self, delimiter: str) -> list[tuple[int, list[str]]]:
        """The first rows that are not blank, and the line on which each begins."""
        found: list[tuple[int, list[str]]] = []
        line = 1
        try:
            reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter)
            for cells in reader:
                if cells:
                    found.append((line, cells))
                line = reader.line_num + 1
                if len(found) > heading.SAMPLE:
                    return found
        except csv.Error:
            pass
        # The sample may end in the middle of a row.
        return found if self.is_whole or len(found) < 2 else found[:-1]


def open_text(
    path: Path, file: BinaryIO, encoding: str | None, *, newline: str, save_as: str, guesses: bool
) -> tuple[io.TextIOWrapper, Sample, Encoding]:
    """The file as text, at its beginning and without a byte order mark; `guesses` if it may be no Unicode.

    Closes `file` where it raises ConfigurationError.
    """
    try:
        head = file.read(_SAMPLE)
        is_whole = len(head) < _SAMPLE
        if (what := what_it_is(head)) is not None:
            raise ConfigurationError(f"the input {str(path)!r} is {what}: {remedy(what, save_as)}")
        said = given(head, encoding) if encoding is not None else guessed(head, is_whole, guesses=guesses)
        decoder = codecs.getincrementaldecoder(said.encoding)("replace")
        sample = Sample(decoder.decode(head[len(said.bom) :], final=is_whole), is_whole)
        file.seek(len(said.bom))
        text = io.TextIOWrapper(file, encoding=said.encoding, errors=said.errors, newline=newline)
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    except BaseException:
        file.close()
        raise
    else:
        return text, sample, said
    file.close()
    raise ConfigurationError(f"the input {str(path)!r} cannot be read ({problem})")


def _delimiter(sample: Sample, usual: str) -> str:
    """What stands between the cells: what makes as many of the rows as of the first, else as many of most of them."""
    best, best_score = usual, (0.5, 1)
    candidates = {candidate: _widths(sample, candidate) for candidate in dict.fromkeys(usual + _CANDIDATES)}
    for candidate, (widths, _) in candidates.items():
        if widths and widths[0] > 1:
            rows = widths[1:]
            score = (sum(width == widths[0] for width in rows) / len(rows) if rows else 1.0, widths[0])
            if score > best_score:
                best, best_score = candidate, score
    if best_score > (0.5, 1):
        return best
    # A title stands above, rows end in a delimiter more than the header, or are short of cells.
    for candidate, (_, widths) in candidates.items():
        usual_width = max((width for width in widths if width > 1), key=widths.count, default=0)
        if usual_width:
            score = (sum(width > 1 for width in widths) / len(widths), widths.count(usual_width))
            if score > best_score:
                best, best_score = candidate, score
    return best


def _widths(sample: Sample, delimiter: str) -> tuple[list[int], list[int]]:
    """How many cells the first rows have that are not blank: with those at their end that are empty, and without."""
    widths: list[int] = []
    full: list[int] = []
    for _, cells in sample.rows(delimiter):
        widths.append(len(cells))
        full.append(len(cells))
        while full[-1] and not cells[full[-1] - 1]:
            full[-1] -= 1
    return widths, full
