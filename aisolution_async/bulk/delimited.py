"""CSV and TSV: lines of cells, with one character between them.

What a file may be like: LF, CRLF or CR, quotes (doubled inside), newlines in cells, a first line `sep=;` as Excel
understands it. What stands between the cells is, where it is not given, the one of , ; tab and | that makes as many
cells of the first rows as it makes of the header. The encoding is UTF-8 or UTF-16, known by a byte order mark, by
the NULs of the first line, or by being valid; what is neither is taken for cp1252, which Excel writes, if all of
its bytes are in that, and more of them are out of place in UTF-8 than in place. Both are found out from the first MiB:
bytes further on that do not fit put their row in trouble, and no other.

The first line that is not blank names the columns. Blank lines are no rows, except where there is one column:
spreadsheets write its empty cells so, and only a blank line at the very end is none. Of more columns, rows of empty
cells at the very end are none either, and last columns that have no name are none where they are empty.
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

from aisolution_async.bulk import source
from aisolution_async.bulk.source import (
    Reader,
    Row,
    UnreadableInputError,
    check_names,
    is_text,
    open_bytes,
    remedy,
    shown,
    surplus,
    what_it_is,
)
from aisolution_async.errors import ConfigurationError

SAVE_AS = "save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"

_SAMPLE = 1 << 20
_SAMPLE_ROWS = 200
_CANDIDATES = ",;\t|"
_NAMES = {"\t": "tabs"}
_SEP = re.compile(r'"?sep=([^\r\n"])"?(\r\n|\r|\n)', re.IGNORECASE)
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    # Before that of UTF-16, with which it begins.
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# What UTF-8 has more than one byte for.
_SEQUENCE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_HIGH = re.compile(rb"[\x80-\xff]+")
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


class DelimitedReader(Reader):
    """The rows of one CSV or TSV file; `usual` is the delimiter where the file does not tell."""

    def __init__(self, path: Path, format_: str, usual: str, delimiter: str | None, encoding: str | None) -> None:
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
        self._taken = self._cells = 0  # characters and, of a large one, cells of the row that is being read
        try:
            sep = _SEP.match(sample.text)
            if sep is not None:
                self._file.readline()
                self._lines_before = 1
                sample = Sample(sample.text[sep.end() :], sample.is_whole)
            self.delimiter = delimiter or (sep and sep[1]) or _delimiter(sample, usual)
            self._reader = csv.reader(self._lines(), delimiter=self.delimiter)
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise
        self._keeps_blank = len(self.header) == 1
        between = _NAMES.get(self.delimiter, repr(self.delimiter))
        self.about = f"{format_.upper()}, {between} between cells, {said.about}"

    def __iter__(self) -> Iterator[Row]:
        # Spreadsheets write rows that were emptied. They are held back by their lines alone: there may be a million.
        empty = array("q")
        while (found := self._next()) is not None:
            line, cells = found
            if len(cells) > 1 and not any(cells) and not self._ended:
                empty.append(line)
                continue
            for number in empty:
                yield Row(number, [""] * len(self.header))
            del empty[:]
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
                continue
            raise UnreadableInputError(f"{str(self._path)!r} cannot be read on from line {line}: {problem}")

    def _header(self) -> list[str]:
        path = str(self._path)
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
            raise ConfigurationError(f"{path!r} is no CSV: its first line has NUL bytes; {SAVE_AS}")
        self._written = len(names)
        while len(names) > 1 and not names[-1].strip():  # spreadsheets write columns that were emptied
            names = names[:-1]
        check_names(names, f"line {line} of {path!r}")
        return names

    def _row(self, line: int, cells: list[str]) -> Row:
        width = len(self.header)
        problem = None
        if width < len(cells) <= self._written:
            if any(cell.strip() for cell in cells[width:]):
                return Row(
                    line,
                    cells[:width],
                    f"line {line}: {surplus(cells[width:])}, in columns that the header does not name",
                )
            cells = cells[:width]
        if self._ended:
            problem = "a quote is opened here and never closed: close it, or remove it"
        elif len(cells) != width:
            between = {",": "comma", "\t": "tab"}.get(self.delimiter or "", repr(self.delimiter))
            cause = (
                f"a cell with a {between} in it needs quotes around it" if len(cells) > width else "add what is missing"
            )
            last = self._reader.line_num + self._lines_before
            if last > line:
                cause = f"the row goes on to line {last}: is a quote left open?"
            problem = f"{len(cells)} cells where the header has {width}: {cause}"
        elif (place := next((place for place, cell in enumerate(cells) if not is_text(cell)), None)) is not None:
            name = "UTF-8" if self.encoding == "utf-8" else self.encoding
            problem = f"column {shown(self.header[place])} is not {name}: {SAVE_AS}"
        if len(cells) > width:
            problem = f"{problem}; {surplus(cells[width:])}"
        if len(cells) != width:
            cells = [*cells, *[""] * width][:width]
        return Row(line, cells, None if problem is None else f"line {line}: {problem}")


class Sample:
    """The beginning of a text: `is_whole` if there is no more of it."""

    def __init__(self, text: str, is_whole: bool) -> None:
        self.text = text
        self.is_whole = is_whole


class Encoding:
    """How a file is written: the codec and its error handler, what stands before the text, and all in words."""

    def __init__(self, encoding: str, *, bom: bytes = b"", about: str | None = None) -> None:
        self.encoding = encoding
        self.bom = bom
        # surrogateescape: bytes that are no text come out as they went in, and only their row is in trouble.
        self.errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self.about = about or {"utf-8": "UTF-8", "utf-16-le": "UTF-16 LE", "utf-16-be": "UTF-16 BE"}.get(
            encoding, encoding
        )


def open_text(
    path: Path, file: BinaryIO, encoding: str | None, *, newline: str, save_as: str, guesses: bool
) -> tuple[io.TextIOWrapper, Sample, Encoding]:
    """The file as text, at its beginning and without a byte order mark; `guesses` if it may be cp1252.

    Closes `file` where it raises ConfigurationError.
    """
    try:
        head = file.read(_SAMPLE)
        is_whole = len(head) < _SAMPLE
        if (what := what_it_is(head)) is not None:
            raise ConfigurationError(f"the input {str(path)!r} is {what}: {remedy(what, save_as)}")
        said = _given(head, encoding) if encoding is not None else _encoding(head, is_whole, guesses=guesses)
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


def _given(head: bytes, encoding: str) -> Encoding:
    try:
        codec = codecs.lookup(encoding)
        "".encode(encoding)
        b"".decode(encoding)
    except (LookupError, ValueError):
        codec = None
    if codec is None:
        raise ConfigurationError(f"encoding must be one that Python knows, like utf-8 or cp1252, not {encoding!r}")
    name = codec.name
    if name in ("utf-16", "utf-32"):
        found = _by_bom(head)
        return found if found is not None and found.encoding.startswith(name) else Encoding(f"{name}-le")
    name = "utf-8" if name == "utf-8-sig" else name
    bom = next((bom for bom, own in _BOMS.items() if own == name and head.startswith(bom)), b"")
    return Encoding(name, bom=bom)


def _by_bom(head: bytes) -> Encoding | None:
    for bom, name in _BOMS.items():
        if head.startswith(bom):
            return Encoding(name, bom=bom)
    return None


def _encoding(head: bytes, is_whole: bool, *, guesses: bool) -> Encoding:
    """How the file is written that begins so."""
    if (found := _by_bom(head)) is not None:
        return found
    # Text has no NULs, and the first line, if any, has characters of one byte of two: those beside the others.
    first = head[: head.find(b"\n") + 1] or head
    even, odd = first[::2].count(0), first[1::2].count(0)
    if even != odd:
        name = "utf-16-le" if odd > even else "utf-16-be"
        return Encoding(name, about=f"UTF-16 {name[-2:].upper()} (a guess, by its NULs)")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, is_whole)
    except UnicodeDecodeError:
        if guesses and _NOT_CP1252.search(head) is None:
            good = len(_SEQUENCE.findall(head))
            bad = len(_HIGH.findall(_SEQUENCE.sub(b"", head)))
            if bad > good:
                return Encoding("cp1252", about="cp1252 (a guess: it is not UTF-8)")
    return Encoding("utf-8")


def _delimiter(sample: Sample, usual: str) -> str:
    """What stands between the cells: what makes as many of the rows as of the header."""
    best, best_score = usual, (0.5, 1)
    for candidate in dict.fromkeys(usual + _CANDIDATES):
        widths = _widths(sample, candidate)
        if widths and widths[0] > 1:
            rows = widths[1:]
            score = (sum(width == widths[0] for width in rows) / len(rows) if rows else 1.0, widths[0])
            if score > best_score:
                best, best_score = candidate, score
    return best


def _widths(sample: Sample, delimiter: str) -> list[int]:
    """How many cells the first rows have, the header among them, blank lines not."""
    widths: list[int] = []
    try:
        for cells in csv.reader(io.StringIO(sample.text, newline=""), delimiter=delimiter):
            if cells:
                widths.append(len(cells))
            if len(widths) > _SAMPLE_ROWS:
                return widths
    except csv.Error:
        pass
    # The sample may end in the middle of a row.
    return widths if sample.is_whole or len(widths) < 2 else widths[:-1]
