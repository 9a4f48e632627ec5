"""What the packed XML of a workbook says before it is read as a whole: how much it unpacks to, and what is hidden.

A workbook is a ZIP file: one of 3 MB may unpack to 3 GB, and one row of an .ods file may stand for a thousand million.
What is over the limits here is refused in a line, with little memory: see `check`. `Hidden` has the rows and columns
of a sheet that nobody sees: hidden by hand, by a filter, or in a group that is folded.
"""

from __future__ import annotations

import copy
import re
import zipfile
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.parsers import expat

from aisolution_async.errors import ConfigurationError

MOST_UNPACKED = 1 << 30
"""Bytes that a part of a workbook may unpack to, and that the texts of all its cells may take."""
MOST_CELLS = 26 * 1_048_576
"""Cells of a sheet, those between them included."""
_MOST_ROWS = 16 * 1_048_576  # more than any program has

_CHUNK = 1 << 20
_LONGEST = 64 << 20  # bytes of one cell: as a cell of any input
_DEFLATES = 1032  # to one, at most
_SMALL_REMEDY = "save the rows that are needed as CSV"
DAMAGED = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError),
)
"""What may be raised of a file that is no ZIP file, or a damaged one."""
_PARTS = (".xml", ".bin", ".rels")
_SHEETS = "xl/worksheets/"
_BEGINS = b"<c ", b":c ", b"<c>", b"<row "

# A list of ids and phones may begin like it.
_SYLK = re.compile(rb"ID;P[^\r\n]{0,40}[\r\n]+(?:[BC];[XY]\d|P;[PFELM]|F;[PWSDNCMR]|O;[LVDPGKE]|NN;|NU;)")
_XML = "XML under the name of a sheet"
_BEFORE_97 = re.compile(rb"\t[\0\2\4\x08][\4\6\x08\x10]\0")

_ROW = re.compile(rb"<(?:\w+:)?row\b([^>]*)>")
_LAST_ROW = re.compile(rb"""<row\s[^>]*?\br\s*=\s*["']([0-9]{1,7})["'][^>]*>""")
_COLUMN = re.compile(rb"<(?:\w+:)?col\b([^>]*)>")
_NUMBER = re.compile(rb"""\br\s*=\s*["']([0-9]{1,7})["']""")
_FROM = re.compile(rb"""\bmin\s*=\s*["']([0-9]{1,7})["']""")
_TO = re.compile(rb"""\bmax\s*=\s*["']([0-9]{1,7})["']""")
# Nothing high or nothing wide is as good as hidden.
_IS_HIDDEN = re.compile(rb"""\bhidden\s*=\s*["'](?:1|true)["']|\b(?:ht|width)\s*=\s*["']0+(?:\.0*)?["']""")
_LOW = re.compile(rb"""ht\s*=\s*["']0""")
_SHARED = re.compile(rb"""\bt\s*=\s*["']s["'][^>]*>\s*<(?:\w+:)?v>\s*([0-9]{1,9})""")
_ITEM_END = re.compile(rb"</(?:\w+:)?si>")


def is_workbook(path: Path) -> bool:
    """Whether a ZIP file is a workbook."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "content.xml" in names and "mimetype" in names:
                return b"spreadsheet" in archive.read("mimetype")
    except DAMAGED:
        return False
    return not names.isdisjoint(("xl/workbook.xml", "xl/workbook.bin"))


def is_page(head: bytes) -> bool:
    """Whether a file that begins so is a web page."""
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").lower()
    return (
        text.startswith(b"<")
        and what_else(head) == _XML
        and any(tag in text for tag in (b"<html", b"<table", b"<meta"))
    )


def what_else(head: bytes) -> str | None:
    """What a file that begins so is, if it is one that only Excel opens, or other programs write for it."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[2:].replace(b"\0", b"").lstrip().lower()
    if text.startswith((b"mime-version:", b"content-type: multipart/", b"from: <saved by")):
        return "a web archive (MHTML), under the name of a sheet"
    if _SYLK.match(head):
        return "a sheet in SYLK, a format of before Excel"
    if text.startswith(b"<") and (b'progid="excel.sheet"' in text or b"microsoft-com:office:spreadsheet" in text):
        return "a sheet in XML of 2003"
    if text.startswith(b"<"):
        return _XML
    if _BEFORE_97.match(head):
        return "a workbook of before Excel 97"
    return None


class Spans:
    """Whole numbers from 1, by the run."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add these, which are behind all others."""
        if self._ends and self._ends[-1] >= first - 1:
            self._ends[-1] = max(last, self._ends[-1])
        else:
            self._starts.append(first)
            self._ends.append(last)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number <= self._ends[place]

    def __bool__(self) -> bool:
        return bool(self._starts)


@dataclass(slots=True)
class Hidden:
    """What is hidden of a sheet, by row and column number. `known`: whether that can be told."""

    known: bool = False
    rows: Spans = field(default_factory=Spans)
    columns: Spans = field(default_factory=Spans)


def check(path: Path, *, sheets: bool = True) -> dict[str, Hidden]:
    """Look through the parts of the workbook that are read whichever sheet is; what is hidden, of .ods, by sheet.

    Raises ConfigurationError for what takes more memory than any list of people needs. Of what is no such workbook,
    or is damaged, whoever reads it says what is wrong. `sheets`: those of an .xlsx file, too; whoever looks through one
    by `chunks` sees by that what it unpacks to.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                is_seen = not sheets and _is_sheet(info) and info.file_size <= MOST_UNPACKED
                if info.filename.endswith(_PARTS) and not is_seen:
                    _check_size(path, archive, info)
            if "content.xml" in archive.namelist():
                with unpacked(archive, "content.xml") as file:
                    return _Document(path).read(file)
    except DAMAGED:
        pass
    return {}


def check_sheets(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise ConfigurationError for worksheets that take too much memory: where one is read that is not looked into."""
    for info in filter(_is_sheet, archive.infolist()):
        _check_size(path, archive, info)


def _is_sheet(info: zipfile.ZipInfo) -> bool:
    return info.filename.startswith(_SHEETS) and info.filename.endswith(".xml")


def look_into_sheet(path: Path, archive: zipfile.ZipFile, part: str, see: Callable[[bytes, int, bool], None]) -> Hidden:
    """What is hidden of a sheet of an .xlsx file. Raises ConfigurationError as `check` does.

    `see` is called with each piece of the sheet, with the number of the last row in it or before it, and with whether
    the names of its elements have a prefix.
    """
    hidden = Hidden(known=True)
    number = cells = 0
    for chunk in chunks(path, archive, part):
        prefixed = chunk.count(b":c") if b":" in chunk else 0  # one byte is found at once, or not at all
        cells += chunk.count(b"<c") + prefixed
        if cells > MOST_CELLS:
            raise _too_much(path, f"has more than {MOST_CELLS:,} cells")
        # To look at each row is dear, and most sheets hide none. Columns are hidden before the first.
        hides = number == 0 or b"hidden" in chunk or _LOW.search(chunk) is not None
        last = None if hides else _LAST_ROW.match(chunk, chunk.rfind(b"<row "))
        if last is not None:
            number = int(last[1])
            see(chunk, number, prefixed > 0)
            continue
        for row in _ROW.findall(chunk):
            said = _NUMBER.search(row)
            number = int(said[1]) if said else number + 1
            if _IS_HIDDEN.search(row):
                hidden.rows.add(number, number)
        for column in _COLUMN.findall(chunk):
            begin, end = _FROM.search(column), _TO.search(column)
            if begin and end and _IS_HIDDEN.search(column):
                hidden.columns.add(int(begin[1]), int(end[1]))
        see(chunk, number, prefixed > 0)
    _check_shared(path, archive, part, cells)
    return hidden


def chunks(path: Path, archive: zipfile.ZipFile, part: str) -> Iterator[bytes]:
    """The XML of a sheet by pieces, none of which ends inside of a cell.

    Raises ConfigurationError for a cell without end, and for too many of them.
    """
    with unpacked(archive, part) as file:
        rest = b""
        size = 0
        while piece := file.read(_CHUNK):
            size += len(piece)
            if size > MOST_UNPACKED:
                raise _too_much(path, f"unpacks to more than {MOST_UNPACKED >> 20:,} MiB")
            seen = max(0, len(rest) - 32)
            rest += piece
            end = next((end for begin in _BEGINS if (end := rest.rfind(begin, seen)) > 0), 0)
            end = rest.rfind(b"<", 0, end + 1)  # a prefix stands before the colon
            if end > 0:
                yield rest[:end]
                rest = rest[end:]
            elif len(rest) > _LONGEST:
                raise _too_much(path, f"has a cell of more than {_LONGEST >> 20} MiB")
        yield rest


def unpacked(archive: zipfile.ZipFile, part: str) -> IO[bytes]:
    """A part, whatever the archive says of its size: who reads it after us does not believe that either."""
    info = copy.copy(archive.getinfo(part))
    info.file_size = 1 << 62
    return archive.open(info)


def _check_size(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    most = MOST_UNPACKED
    if info.file_size <= most:
        if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and info.compress_size * _DEFLATES <= most:
            return
        size = 0
        with unpacked(archive, info.filename) as file:
            while size <= most and (piece := file.read(_CHUNK)):
                size += len(piece)
        if size <= most:
            return
    raise _too_much(path, f"unpacks to more than {most >> 20:,} MiB")


def _check_shared(path: Path, archive: zipfile.ZipFile, part: str, cells: int) -> None:
    """Texts are kept once in an .xlsx file, and are there for each of their cells once they are read."""
    strings = "xl/sharedStrings.xml"
    if strings not in archive.namelist():
        return
    sizes = array("L", map(len, _items(path, archive, strings)))
    if max(sizes, default=0) * cells <= MOST_UNPACKED:
        return
    total = 0
    for chunk in chunks(path, archive, part):
        total += sum(sizes[place] for place in map(int, _SHARED.findall(chunk)) if place < len(sizes))
        if total > MOST_UNPACKED:
            raise _too_much(path, f"has texts of more than {MOST_UNPACKED >> 20:,} MiB in its cells")


def _items(path: Path, archive: zipfile.ZipFile, part: str) -> Iterator[bytes]:
    with unpacked(archive, part) as file:
        rest = b""
        while piece := file.read(_CHUNK):
            rest += piece
            *whole, rest = _ITEM_END.split(rest) if b":si>" in rest else rest.split(b"</si>")
            yield from whole
            if len(rest) > _LONGEST:
                raise _too_much(path, f"has a cell of more than {_LONGEST >> 20} MiB")
        yield rest


def _too_much(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(f"the workbook {str(path)!r} {what}, which is too much to be read: {_SMALL_REMEDY}")


class _Document:
    """The tables of an .ods file. A row, and a cell, may say that it stands for any number of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Hidden] = {}
        self._table = Hidden()
        self._folded = 0  # groups around, from the one that is folded
        self._row = self._full_row = self._column = self._width = 0
        self._repeated = 1
        self._texts = 0
        self._cells = self._full_cells = self._weight = 0  # of this row
        self._cell = 0  # how many this cell stands for

    def read(self, file: IO[bytes]) -> dict[str, Hidden]:
        """What is hidden of each. Raises ConfigurationError where they are too large."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._say
        try:
            while piece := file.read(_CHUNK):
                parser.Parse(piece, False)
            parser.Parse(b"", True)
        except expat.ExpatError:
            if not self._found:  # it may have a password
                return {}
        else:
            return self._found
        raise ConfigurationError(f"the workbook {str(self._path)!r} is damaged: {_SMALL_REMEDY}")

    def _start(self, name: str, said: Mapping[str, str]) -> None:
        is_hidden = self._folded > 0 or said.get("table:visibility", "visible") != "visible"
        match name:
            case "table:table":
                self._table = self._found[said.get("table:name", "")] = Hidden(known=True)
                self._row = self._full_row = self._column = self._width = 0
            case "table:table-row-group" | "table:table-column-group":
                if self._folded or said.get("table:display") == "false":
                    self._folded += 1
            case "table:table-column":
                repeated = _count(said, "columns")
                if is_hidden:
                    self._table.columns.add(self._column + 1, self._column + repeated)
                self._column += repeated
            case "table:table-row":
                self._repeated = _count(said, "rows")
                if is_hidden:
                    self._table.rows.add(self._row + 1, self._row + self._repeated)
                self._cells = self._full_cells = self._weight = 0
            case "table:table-cell" | "table:covered-table-cell":
                self._cell = _count(said, "columns")
                self._cells += self._cell
                if "office:value-type" in said or "calcext:value-type" in said:
                    self._full_cells = self._cells

    def _say(self, text: str) -> None:
        if self._cell and not text.isspace():
            self._full_cells = self._cells
            self._weight += len(text) * self._cell

    def _end(self, name: str) -> None:
        match name:
            case "table:table-row-group" | "table:table-column-group":
                self._folded = max(0, self._folded - 1)
            case "table:table-cell" | "table:covered-table-cell":
                self._cell = 0
            case "table:table-row":
                self._row += self._repeated
                if self._full_cells:
                    self._full_row = self._row
                    self._width = max(self._width, self._full_cells)
                    self._texts += self._weight * self._repeated
                if self._full_row * self._width > MOST_CELLS or self._row > _MOST_ROWS:
                    raise _too_much(self._path, f"has more than {MOST_CELLS:,} cells")
                if self._texts > MOST_UNPACKED:
                    raise _too_much(self._path, f"has texts of more than {MOST_UNPACKED >> 20:,} MiB in its cells")


def _count(said: Mapping[str, str], of: str) -> int:
    number = said.get(f"table:number-{of}-repeated", "")
    return max(1, int(number[:18])) if number.isdecimal() else 1
