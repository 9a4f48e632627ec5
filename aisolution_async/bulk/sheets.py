"""Workbooks: .xlsx, .xlsm, .xlsb, .xls and .ods, one sheet of them.

The sheet is read as a whole before its first row comes: about 90 bytes for each cell, which is 0.5 GB for a million
rows of five, and a sheet of Excel's has no more rows. (What streams the rows of a sheet keeps all its different texts,
which is not much less, and takes ten times as long.)

The first row that is not empty names the columns. Empty rows are no rows, except between others where there is one
column: as in CSV. Hidden rows are rows, if they are not to be left out, and of merged cells the first has the value.
Numbers are int where they are whole and below 2**53, of which a float holds all (Excel keeps 15 digits), else float;
dates and times are what the cell's format says, a date if the time is midnight; a formula is what it came to when the
workbook was saved, and where that is an error, its name as text, and UNCALCULATED where it came to nothing yet (in
.xlsx); an empty text is None.
"""

from __future__ import annotations

import html
import posixpath
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from aisolution_async.bulk import workbooks
from aisolution_async.bulk.cells import EXACT, text
from aisolution_async.bulk.source import Reader, Row, check_names, open_bytes, remedy, surplus, what_it_is
from aisolution_async.errors import ConfigurationError

_SAVE_AS = "open it in Excel and save it as .xlsx, without a password"

# A sheet takes room for all cells between its first and its last, whatever is in them. So many may be, or ten for
# each that has something in it. Sheets of one letter's columns never have more.
_MOST_ROOM = 26 * 1_048_576

_SHEET = re.compile(rb"<(?:\w+:)?sheet\s[^>]*>")
_RELATION = re.compile(rb"<(?:\w+:)?Relationship\s[^>]*>")
_ATTRIBUTE = re.compile(rb"([\w:]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_FAR_COLUMN = re.compile(rb"\sr=[\"']([A-Z]{2,3})[0-9]")
_ROW_NUMBER = re.compile(rb"\sr=[\"'][A-Z]*([0-9]{1,7})[\"']")
_FULL_CELL = re.compile(rb"<(?:\w+:)?c\s[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'][^>]*(?<!/)>")
_ERROR_CELL = re.compile(
    rb"<(?:\w+:)?c\s(?=[^>]*\bt=[\"']e[\"'])[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'][^>]*(?<!/)>"
    rb"(?:(?!</(?:\w+:)?c>).)*?<(?:\w+:)?v>([^<]*)<",
    re.DOTALL,
)


_UNCALCULATED_CELL = re.compile(
    rb"<(?:\w+:)?c\s(?![^>]*\bt=[\"']str[\"'])[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'][^>]*(?<!/)>\s*"
    rb"<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
UNCALCULATED: Final = "#UNCALCULATED"
"""The cell of a formula that no program has calculated since it was written."""


class SheetReader(Reader):
    """The rows of one sheet of a workbook: of `sheet`, else of the first that is visible; hidden ones too, or not."""

    format = "xlsx"

    def __init__(self, path: Path, sheet: str | None, *, skip_hidden: bool = False) -> None:
        try:
            import python_calamine as calamine  # noqa: PLC0415  # an extra
        except ImportError:
            raise ConfigurationError("workbooks need python-calamine: pip install 'aisolution-async[cli]'") from None
        self._path = path
        with open_bytes(path) as file:
            head = file.read(512)
        problem = ""
        documents = workbooks.check(path) if head.startswith(b"PK") else {}
        try:
            with calamine.load_workbook(str(path)) as book:
                names = [other.name for other in book.sheets_metadata if other.typ == calamine.SheetTypeEnum.WorkSheet]
                visible = [
                    other.name
                    for other in book.sheets_metadata
                    if other.name in names and other.visible == calamine.SheetVisibleEnum.Visible
                ]
                name = self._chosen(sheet, names, visible)
                self._errors, hidden = _look_into(path, name)
                self._sheet = book.get_sheet_by_name(name)
        except ConfigurationError:
            raise
        except calamine.PasswordError:
            problem = f"has a password: {_SAVE_AS}"
        except BaseException as exc:
            # Of a damaged workbook anything may come, and what a panic in Rust becomes is no Exception.
            if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
                raise
            problem = _explained(head)
        if problem:
            raise ConfigurationError(f"the input {str(path)!r} {problem}")
        others = "" if sheet is not None or len(names) < 2 else f" (of {_list(names)})"
        self.about = f"{path.suffix[1:].upper()} workbook, sheet {name!r}{others}"
        self._offset = (self._sheet.start or (0, 0))[1]
        self._header_row = 0
        self._first = self._last = 0
        self.header = self._header(name, names)
        self.grid = (name, self._first + self._offset + 1)
        self._hidden = hidden = documents.get(name, hidden)
        if skip_hidden and not hidden.known:
            raise ConfigurationError(f"which rows of {str(path)!r} are hidden cannot be told: save it as .xlsx")
        self.hidden_columns = [
            column
            for place, column in enumerate(self.header, self._first + self._offset + 1)
            if place in hidden.columns
        ]
        rows = [number in hidden.rows for number, _ in self._kept()]
        self.hidden = sum(rows) if hidden.known else None
        self._skips = skip_hidden and any(rows)
        self.total = len(rows) - sum(rows) * skip_hidden

    def __iter__(self) -> Iterator[Row]:
        first, last = self._first, self._last
        for number, values in self._kept():
            if self._skips and number in self._hidden.rows:
                continue
            problem = None
            if len(values) > last - first and (outside := self._outside(number, values)):
                problem = (
                    f"row {number}: {surplus(outside, 'cell')} outside the columns that row {self._header_row} names"
                )
            yield Row(number, [_cell(value) for value in values[first:last]], problem)

    def _outside(self, number: int, values: Sequence[Any]) -> list[str]:
        return [
            f"{letters(place + self._offset + 1)}{number}"
            for place, value in enumerate(values)
            if value != "" and not self._first <= place < self._last
        ]

    def _chosen(self, sheet: str | None, names: Sequence[str], visible: Sequence[str]) -> str:
        path = str(self._path)
        if not names:
            raise ConfigurationError(f"the workbook {path!r} has no sheet of cells")
        if sheet is None:
            return (*visible, *names)[0]
        if sheet not in names:
            raise ConfigurationError(f"the workbook {path!r} has no sheet {sheet!r}: its sheets are {_list(names)}")
        return sheet

    def _header(self, name: str, names: Sequence[str]) -> list[str]:
        path = str(self._path)
        for number, values in self._numbered():
            places = [place for place, value in enumerate(values) if value != ""]
            if places:
                self._header_row = number
                self._first, self._last = places[0], places[-1] + 1
                header = [text(_cell(value)) for value in values[self._first : self._last]]
                where = f"row {number} of sheet {name!r} of {path!r}"
                check_names(header, where, lambda place: letters(place + self._first + self._offset))
                return header
        others = [other for other in names if other != name]
        hint = f"; the other sheets are {_list(others)}" if others else ""
        raise ConfigurationError(f"sheet {name!r} of {path!r} is empty: its first row must name the columns{hint}")

    def _kept(self) -> Iterator[tuple[int, list[Any]]]:
        """The rows that are rows, and the number of each."""
        keeps_blank = len(self.header) == 1
        blank: list[tuple[int, list[Any]]] = []
        self.left_out = 0
        for number, values in self._numbered():
            if number <= self._header_row:
                continue
            self.left_out += 1
            if values.count("") < len(values):
                self.left_out = 0
                if blank:
                    yield from blank
                    blank.clear()
                yield number, values
            elif keeps_blank:
                blank.append((number, values))

    def _numbered(self) -> Iterator[tuple[int, list[Any]]]:
        errors = self._errors
        number, width = 0, 0
        for number, values in enumerate(self._sheet.iter_rows(), 1):
            width = len(values)
            if number in errors:
                for place, error in errors[number].items():
                    if 0 <= place - self._offset - 1 < len(values):
                        values[place - self._offset - 1] = error
            yield number, values
        for row in sorted(row for row in errors if row > number):  # behind the last row that has a value
            values = [""] * width
            for place, error in errors[row].items():
                if 0 <= place - self._offset - 1 < width:
                    values[place - self._offset - 1] = error
            yield row, values


def letters(place: int) -> str:
    """What a worksheet calls the column at `place`, counted from 1: A, Z, AA."""
    name = ""
    while place:
        place, letter = divmod(place - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def _place(name: bytes) -> int:
    place = 0
    for letter in name:
        place = place * 26 + letter - ord("A") + 1
    return place


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return None if value == "" else value


def _list(names: Sequence[str]) -> str:
    return ", ".join([repr(name) for name in names[:20]] + ["…"] * (len(names) > 20))


def _explained(head: bytes) -> str:
    """What is wrong with a file that is no workbook."""
    if not head:
        return "is empty: it must be a workbook"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return f"is a web page or XML under the name of a workbook: {_SAVE_AS}"
    if head.startswith(b"PK"):
        return f"is a ZIP file, but no workbook that can be read; it may be cut off or damaged: {_SAVE_AS}"
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return f"is no workbook that can be read; it may be very old, damaged, or have a password: {_SAVE_AS}"
    what = what_it_is(head)
    if what is None and b"\0" not in head:
        return "is text under the name of a workbook: give it the ending .csv"
    return f"is {what or 'no workbook'}: {remedy(what or '', _SAVE_AS)}"


def _look_into(path: Path, sheet: str) -> tuple[dict[int, dict[int, str]], workbooks.Hidden]:
    """What no other reader tells of an .xlsx file's sheet: cells that have errors, by row and column; what is hidden.

    Raises ConfigurationError where a cell is so far from the others that the room between would take all memory.
    """
    errors: dict[int, dict[int, str]] = defaultdict(dict)
    columns = {b"Z"}
    last_row = 0
    try:
        with zipfile.ZipFile(path) as archive:
            part = _part(archive, sheet)
            if part is None:
                return {}, workbooks.Hidden()
            hidden = workbooks.look_into_sheet(path, archive, part)
            for chunk in workbooks.chunks(path, archive, part):
                columns.update(_FAR_COLUMN.findall(chunk))
                if (number := _ROW_NUMBER.search(chunk, chunk.rfind(b"row "))) is not None:
                    last_row = max(last_row, int(number[1]))
                if b't="e"' in chunk or b"t='e'" in chunk:
                    for name, row, error in _ERROR_CELL.findall(chunk):
                        errors[int(row)][_place(name)] = html.unescape(error.decode("utf-8", "replace"))
                if b"<f" in chunk or b":f" in chunk:
                    for name, row in _UNCALCULATED_CELL.findall(chunk):
                        errors[int(row)][_place(name)] = UNCALCULATED
            if max(map(_place, columns)) * last_row > _MOST_ROOM:
                _check_room(path, sheet, archive, part)
    except workbooks.DAMAGED:
        return {}, workbooks.Hidden()  # what is wrong with it is said by who reads it
    return dict(errors), hidden


def _check_room(path: Path, sheet: str, archive: zipfile.ZipFile, part: str) -> None:
    """As cells that are only coloured need no room, look for the last of the others."""
    cells = last_row = last_column = 0
    for chunk in workbooks.chunks(path, archive, part):
        for name, row in _FULL_CELL.findall(chunk):
            cells += 1
            last_column, last_row = max(last_column, _place(name)), max(last_row, int(row))
    if last_column * last_row > max(_MOST_ROOM, 10 * cells):
        raise ConfigurationError(
            f"sheet {sheet!r} of {str(path)!r} reaches to cell {letters(last_column)}{last_row}, far from all others: "
            "empty that cell (in Excel, Ctrl+End goes there), or copy the table to a new workbook"
        )


def _part(archive: zipfile.ZipFile, sheet: str) -> str | None:
    """The name of the sheet's part in the archive."""
    names = set(archive.namelist())
    if not {"xl/workbook.xml", "xl/_rels/workbook.xml.rels"} <= names:
        return None
    for tag in _SHEET.findall(_read(workbooks.unpacked(archive, "xl/workbook.xml"))):
        attributes = _attributes(tag)
        if attributes.get("name") == sheet:
            identity = next((value for name, value in attributes.items() if name.endswith(":id")), None)
            for relation in map(
                _attributes, _RELATION.findall(_read(workbooks.unpacked(archive, "xl/_rels/workbook.xml.rels")))
            ):
                if relation.get("Id") == identity:
                    part = posixpath.normpath(posixpath.join("/xl", relation.get("Target", ""))).lstrip("/")
                    return part if part in names else None
    return None


def _read(file: IO[bytes]) -> bytes:
    with file:
        return file.read(64 << 20)


def _attributes(tag: bytes) -> dict[str, str]:
    return {
        name.decode(): html.unescape((double or single).decode("utf-8", "replace"))
        for name, double, single in _ATTRIBUTE.findall(tag)
    }
