"""Workbooks: .xlsx, .xlsm, .xlsb, .xls and .ods, one sheet of them.

The sheet is read as a whole before its first row comes: about 90 bytes for each cell, which is 0.5 GB for a million
rows of five, and a sheet of Excel's has no more rows. (What streams the rows of a sheet keeps all its different texts,
which is not much less, and takes ten times as long.)

`heading.py` says which row names the columns, where none is given; where one of its cells is merged over several
columns, the names below it are taken. Other columns that have cells get a name. Empty rows are no rows, except between
others where there is one column: as in CSV. Hidden rows are rows, if they are not to be left out, and of merged cells
the first has the value. Numbers are int where they are whole and have at most 17 digits, else float: those that a float
cannot hold (Excel keeps 15) are read from the .xlsx file itself. Dates and times are what the cell's format says, a
date if the time is midnight; a formula is what it came to when the workbook was saved, and where that is an error, its
name as text, and UNCALCULATED where it came to nothing yet (in .xlsx); an empty text is None.
"""

from __future__ import annotations

import html
import posixpath
import re
import shutil
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from aisolution_async.bulk import heading, workbooks
from aisolution_async.bulk.cells import text
from aisolution_async.bulk.heading import letters
from aisolution_async.bulk.source import MAX_COLUMNS, UNCALCULATED, Reader, Row, open_bytes, remedy, what_it_is
from aisolution_async.errors import ConfigurationError

_SAVE_AS = "open it in Excel and save it as .xlsx, without a password"

# A sheet takes room for all cells between its first and its last, whatever is in them. So many may be, or ten for
# each that has something in it. Sheets of one letter's columns never have more.
_MOST_ROOM = 26 * 1_048_576
# Bytes. Of a part that is no larger, each cell is looked at: who builds a file to take all memory builds a small one.
_SMALL_PART = 4 << 20

_PLAIN = 1e16
"""From there on, the shortest text of a float has an exponent."""
_MOST_DIGITS = 1e17

_SHEET = re.compile(rb"<(?:\w+:)?sheet\s[^>]*>")
_DIMENSION = re.compile(rb"<(?:\w+:)?dimension\b[^>]*/>")
_RELATION = re.compile(rb"<(?:\w+:)?Relationship\s[^>]*>")
_ATTRIBUTE = re.compile(rb"([\w:]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
# Patterns that begin with their own text are found many times faster.
_FAR_CELL = re.compile(rb'r="([A-Za-z]{2,3}(?=[0-9])|[A-Za-z][0-9]{7,10})')
_FAR_CELL_IN_OTHER_QUOTES = re.compile(rb"r='([A-Za-z]{2,3}(?=[0-9])|[A-Za-z][0-9]{7,10})")
_FAR_BOTH_WAYS = re.compile(rb"r=[\"'][A-Za-z]{2,3}([0-9]{7,10})")
_FULL_CELL = re.compile(rb"<(?:\w+:)?c\s[^>]*?\br\s*=\s*[\"']([A-Za-z]{1,3})([0-9]{1,10})[\"'][^>]*(?<!/)>")
_ERROR_CELL = re.compile(
    rb"<(?:\w+:)?c\s(?=[^>]*\bt=[\"']e[\"'])[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'][^>]*(?<!/)>"
    rb"(?:(?!</(?:\w+:)?c>).)*?<(?:\w+:)?v>([^<]*)<",
    re.DOTALL,
)


# A whole number of more digits than a float holds.
_LONG_CELL = re.compile(
    rb"<(?:\w+:)?c\s(?![^>]*\bt=[\"'](?!n[\"']))[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'][^>]*(?<!/)>\s*"
    rb"<(?:\w+:)?v>\s*(-?(?:9[0-9]{15}|[0-9]{17}))(?:\.0+)?\s*<"
)
_LONG_NUMBER = re.compile(rb"v>-?(?:9[0-9]{15}|[0-9]{17})[<.]")
_UNCALCULATED_CELL = re.compile(
    rb"<(?:\w+:)?c\s(?![^>]*\bt=[\"']str[\"'])[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'][^>]*(?<!/)>\s*"
    rb"<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)


class SheetReader(Reader):
    """The rows of one sheet of a workbook: of `sheet`, else of the first that is visible; hidden ones too, or not.

    `sheet` is its name, or its place from 1. `header_row` is the number of the row that names the columns, 0 if none
    does; None for the one that looks like it.
    """

    format = "xlsx"

    def __init__(
        self, path: Path, sheet: str | None, *, skip_hidden: bool = False, header_row: int | None = None
    ) -> None:
        try:
            import python_calamine as calamine  # noqa: PLC0415  # an extra
        except ImportError:
            raise ConfigurationError("workbooks need python-calamine: pip install 'aisolution-async[cli]'") from None
        self._path = path
        with open_bytes(path) as file:
            head = file.read(512)
        problem = ""
        documents = workbooks.check(path, sheets=False) if head.startswith(b"PK") else {}
        try:
            with _open(calamine, path) as book:
                names = [other.name for other in book.sheets_metadata if other.typ == calamine.SheetTypeEnum.WorkSheet]
                visible = [
                    other.name
                    for other in book.sheets_metadata
                    if other.name in names and other.visible == calamine.SheetVisibleEnum.Visible
                ]
                for name in self._chosen(sheet, names, visible):
                    self._instead, hidden = _look_into(path, name)
                    try:
                        self._sheet = book.get_sheet_by_name(name)
                    except calamine.CalamineError:
                        with _mended(path, name) as copy, calamine.load_workbook(copy) as mended:
                            self._sheet = mended.get_sheet_by_name(name)
                    if self._sheet.start is not None or self._instead:
                        break
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
        self.about = f"{_kind(path, head)} workbook, sheet {name!r}{others}"
        self.others = [other for other in names if other != name]
        self._offset = (self._sheet.start or (0, 0))[1]
        self._header_row = 0
        self.notes: list[str] = []
        self.header = self._header(name, names, header_row)
        self.sheet = name
        self.numbers = [place + self._offset + 1 for place in self._places]
        self._hidden = hidden = documents.get(name, hidden)
        if skip_hidden and not hidden.known:
            raise ConfigurationError(f"which rows of {str(path)!r} are hidden cannot be told: save it as .xlsx")
        self.hidden_columns = [
            column
            for place, column in zip(self._places, self.header, strict=True)
            if place + self._offset + 1 in hidden.columns
        ]
        rows = unseen = 0
        for number, _ in self._kept():
            rows += 1
            unseen += number in hidden.rows if hidden.rows else 0
        self.hidden = unseen if hidden.known else None
        self._skips = skip_hidden and unseen > 0
        self.total = rows - unseen * skip_hidden

    def __iter__(self) -> Iterator[Row]:
        places, first, last = self._places, self._places[0], self._places[-1] + 1
        is_whole, skips = last - first == len(places), self._skips
        for number, values in self._kept():
            if not (skips and number in self._hidden.rows):
                used = values[first:last] if is_whole else [values[place] for place in places]
                # To call a function for each text would be dear.
                yield Row(number, [value if value and type(value) is str else _cell(value) for value in used])

    def _chosen(self, sheet: str | None, names: Sequence[str], visible: Sequence[str]) -> Sequence[str]:
        """The sheets of which the first that is not empty is read."""
        path = str(self._path)
        if not names:
            raise ConfigurationError(f"the workbook {path!r} has no sheet of cells")
        if sheet is None:
            return visible or names
        if sheet in names:
            return [sheet]
        if sheet.isdecimal() and 1 <= int(sheet[:9]) <= len(names):
            return [names[int(sheet) - 1]]
        alike = [name for name in names if name.strip().casefold() == sheet.strip().casefold()]
        if len(alike) == 1:
            return alike
        raise ConfigurationError(f"the workbook {path!r} has no sheet {sheet!r}: its sheets are {_list(names)}")

    def _header(self, name: str, names: Sequence[str], chosen: int | None) -> list[str]:
        path = str(self._path)
        first: list[tuple[int, list[Any]]] = []  # rows that are not empty
        for number, values in self._numbered():
            if values.count("") < len(values):
                first.append((number, values))
                if len(first) > heading.SAMPLE and number >= (chosen or 0):
                    break
        if not first:
            raise self._empty(name, names)
        if chosen is None:
            place = heading.find([values for _, values in first[: heading.SAMPLE]])
        else:
            place = next((place for place, (number, _) in enumerate(first) if number == chosen), -1)
        if chosen and place < 0:
            raise ConfigurationError(f"row {chosen} of sheet {name!r} of {path!r} is empty, and names no columns")
        said: list[str] = [""] * len(first[0][1])
        if chosen != 0:
            self._header_row, values = first[place]
            said = [text(_cell(value)) for value in values]
            self._take_from_above(said, dict(first))
            if place + 1 < len(first) and first[place + 1][0] == self._header_row + 1:
                self._put_below(said, first[place + 1][1])
            if place:
                self.notes.append(heading.told(f"row {self._header_row} of sheet {name!r}", is_found=chosen is None))
        used = [place for place, own in enumerate(said) if own.strip()]
        used += self._used({*range(len(said))}.difference(used))
        self._places = sorted(used)
        if not used:  # what is there, no program shows: NaN, say
            raise self._empty(name, names)
        if len(used) > MAX_COLUMNS:
            raise ConfigurationError(
                f"sheet {name!r} of {path!r}: {len(used)} columns, of which there may be {MAX_COLUMNS}"
            )
        header, notes = heading.named(
            [said[place] for place in self._places],
            lambda place: letters(self._places[place] + self._offset + 1),
        )
        self.notes += notes
        return header

    def _empty(self, name: str, names: Sequence[str]) -> ConfigurationError:
        others = [other for other in names if other != name]
        hint = f"; the other sheets are {_list(others)}" if others else ""
        return ConfigurationError(
            f"sheet {name!r} of {str(self._path)!r} is empty: its first row must name the columns{hint}"
        )

    def _put_below(self, said: list[str], below: Sequence[Any]) -> None:
        """Where a cell of the names is merged over several columns, their names are in the row below it."""
        top, left = self._header_row - 1, self._offset
        found = False
        for (row, start), (last_row, end) in self._sheet.merged_cell_ranges or ():
            under = below[start - left : end - left + 1]
            if row == last_row == top and end > start and under and all(isinstance(v, str) and v for v in under):
                said[start - left : end - left + 1] = under
                found = True
        if found:
            self._header_row += 1

    def _take_from_above(self, said: list[str], rows: Mapping[int, Sequence[Any]]) -> None:
        """Where a cell is merged from above down to the row of names, its text is in the uppermost row."""
        if all(map(str.strip, said)):
            return
        for (row, start), (last_row, _) in self._sheet.merged_cell_ranges or ():
            place = start - self._offset
            if row < self._header_row - 1 <= last_row and 0 <= place < len(said) and not said[place].strip():
                above = rows.get(row + 1, ())
                said[place] = text(_cell(above[place])) if place < len(above) else ""

    def _used(self, places: set[int]) -> list[int]:
        """Those of `places` that have anything in them, in a row that is one."""
        found: list[int] = []
        for number, values in self._numbered() if places else ():
            if number > self._header_row and places:
                here = [place for place in places if values[place] != ""]
                found += here
                places.difference_update(here)
        return found

    def _kept(self) -> Iterator[tuple[int, list[Any]]]:
        """The rows that are rows, and the number of each."""
        keeps_blank = len(self.header) == 1
        blank: list[tuple[int, list[Any]]] = []
        left_out = passed = 0
        number = last = self._header_row
        for number, values in self._numbered():
            if number <= self._header_row:
                continue
            if values.count("") < len(values):
                last, left_out = number, passed
                if blank:
                    yield from blank
                    blank.clear()
                yield number, values
            elif keeps_blank:
                blank.append((number, values))
            else:
                passed += 1
        self.blank = left_out
        self.left_out = max(0, number - last)

    def _numbered(self) -> Iterator[tuple[int, list[Any]]]:
        rows = enumerate(self._sheet.iter_rows(), 1)
        return self._mended_rows(rows) if self._instead else rows

    def _mended_rows(self, rows: Iterable[tuple[int, list[Any]]]) -> Iterator[tuple[int, list[Any]]]:
        instead = self._instead
        number, width = 0, 0
        for number, values in rows:
            width = len(values)
            if number in instead:
                for place, value in instead[number].items():
                    if 0 <= place - self._offset - 1 < len(values):
                        values[place - self._offset - 1] = value
            yield number, values
        for row in sorted(row for row in instead if row > number):  # behind the last row that has a value
            values = [""] * width
            for place, value in instead[row].items():
                if 0 <= place - self._offset - 1 < width:
                    values[place - self._offset - 1] = value
            yield row, values


def place_of(name: bytes) -> int:
    """The number of a column by what a worksheet calls it; see `letters`."""
    place = 0
    for letter in name.upper():
        place = place * 26 + letter - ord("A") + 1
    return place


def _cell(value: Any) -> Any:
    if isinstance(value, float) and abs(value) < _MOST_DIGITS and value.is_integer():
        return int(value) if abs(value) < _PLAIN else int(Decimal(repr(value)))
    return None if value == "" else value


def _list(names: Sequence[str]) -> str:
    return ", ".join([repr(name) for name in names[:20]] + ["…"] * (len(names) > 20))


def _explained(head: bytes) -> str:
    """What is wrong with a file that is no workbook."""
    if not head:
        return "is empty: it must be a workbook"
    if head.startswith(b"PK"):
        return f"is a ZIP file, but no workbook that can be read; it may be cut off or damaged: {_SAVE_AS}"
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return f"is no workbook that can be read; it may be very old, damaged, or have a password: {_SAVE_AS}"
    what = workbooks.what_else(head) or what_it_is(head)
    return f"is {what or 'no workbook'}: {remedy(what or '', _SAVE_AS)}"


def _look_into(path: Path, sheet: str) -> tuple[dict[int, dict[int, Any]], workbooks.Hidden]:
    """What no other reader tells of an .xlsx file's sheet: what is in cells that have errors, or more digits than a
    float holds, by row and column; what is hidden.

    Raises ConfigurationError where a cell is so far from the others that the room between would take all memory.
    """
    errors: dict[int, dict[int, Any]] = defaultdict(dict)
    reach = _Reach()

    # To look for one byte that is not there takes a twentieth of the time that two take.
    def see(chunk: bytes, number: int, is_prefixed: bool) -> None:
        has_other_quotes = b"'" in chunk
        reach.see(chunk, number, has_other_quotes=has_other_quotes)
        if b't="e"' in chunk or (has_other_quotes and b"t='e'" in chunk):
            for name, row, error in _ERROR_CELL.findall(chunk):
                errors[int(row)][place_of(name)] = html.unescape(error.decode("utf-8", "replace"))
        for name, row, digits in _LONG_CELL.findall(chunk) if _LONG_NUMBER.search(chunk) else ():
            if (exact := int(digits)) != _cell(float(digits)):
                errors[int(row)][place_of(name)] = exact
        if b"f" in chunk and (b"<f" in chunk or (is_prefixed and b":f" in chunk)):
            for name, row in _UNCALCULATED_CELL.findall(chunk):
                errors[int(row)][place_of(name)] = UNCALCULATED

    try:
        with zipfile.ZipFile(path) as archive:
            part = part_of(archive, sheet)
            if part is None:
                workbooks.check_sheets(path, archive)
                return {}, workbooks.Hidden()
            hidden = workbooks.look_into_sheet(path, archive, part, see)
            if reach.may_be_far:
                _check_room(path, sheet, archive, part)
    except workbooks.DAMAGED:
        return {}, workbooks.Hidden()  # what is wrong with it is said by who reads it
    return dict(errors), hidden


class _Reach:
    """How far the cells of a sheet may reach, as it is gone through."""

    def __init__(self) -> None:
        self._size = 0
        self._last_row = 0
        self._columns = {b"Z"}

    def see(self, chunk: bytes, number: int, *, has_other_quotes: bool) -> None:
        """See a piece of the sheet, the last row of which is the `number`th by what it says itself."""
        self._size += len(chunk)
        self._last_row = max(self._last_row, number)
        far = {*_FAR_CELL.findall(chunk)}
        if has_other_quotes:
            far.update(_FAR_CELL_IN_OTHER_QUOTES.findall(chunk))
        if far:
            # A cell says its row, too, and may be in another one than the row around it.
            self._columns.update(name[:1] if name[-1:].isdigit() else name for name in far)
            rows = [*(name[1:] for name in far if name[-1:].isdigit()), *_FAR_BOTH_WAYS.findall(chunk)]
            self._last_row = max(self._last_row, *map(int, rows), 0)

    @property
    def may_be_far(self) -> bool:
        return self._size <= _SMALL_PART or max(map(place_of, self._columns)) * self._last_row > _MOST_ROOM


def _check_room(path: Path, sheet: str, archive: zipfile.ZipFile, part: str) -> None:
    """As cells that are only coloured need no room, look for the last of the others."""
    cells = last_row = last_column = 0
    for chunk in workbooks.chunks(path, archive, part):
        for name, row in _FULL_CELL.findall(chunk):
            cells += 1
            last_column, last_row = max(last_column, place_of(name)), max(last_row, int(row))
    if last_column * last_row > max(_MOST_ROOM, 10 * cells):
        raise ConfigurationError(
            f"sheet {sheet!r} of {str(path)!r} reaches to cell {letters(last_column)}{last_row}, far from all others: "
            "empty that cell (in Excel, Ctrl+End goes there), or copy the table to a new workbook"
        )


def part_of(archive: zipfile.ZipFile, sheet: str | None) -> str | None:
    """The name of the sheet's part in the archive; of the first, where it is None."""
    names = set(archive.namelist())
    if not {"xl/workbook.xml", "xl/_rels/workbook.xml.rels"} <= names:
        return None
    for tag in _SHEET.findall(_read(workbooks.unpacked(archive, "xl/workbook.xml"))):
        attributes = attributes_of(tag)
        if sheet is None or attributes.get("name") == sheet:
            identity = next((value for name, value in attributes.items() if name.endswith(":id")), None)
            for relation in map(
                attributes_of, _RELATION.findall(_read(workbooks.unpacked(archive, "xl/_rels/workbook.xml.rels")))
            ):
                if relation.get("Id") == identity:
                    part = posixpath.normpath(posixpath.join("/xl", relation.get("Target", ""))).lstrip("/")
                    return part if part in names else None
    return None


def _mended(path: Path, sheet: str) -> IO[bytes]:
    """A copy of an .xlsx file that does not say where its sheet begins and ends: some programs say it wrongly."""
    copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # who asked for it closes it
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as to:
            part = part_of(archive, sheet)
            for info in archive.infolist():
                with archive.open(info) as file, to.open(info.filename, "w", force_zip64=True) as target:
                    if info.filename == part:
                        target.write(_DIMENSION.sub(b"", file.read(1 << 16), count=1))
                    shutil.copyfileobj(file, target, 1 << 20)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _open(calamine: Any, path: Path) -> Any:
    """The workbook, by its name (only so it is known to have a password), else by its content."""
    try:
        return calamine.load_workbook(str(path))
    except calamine.PasswordError:
        raise
    except calamine.CalamineError:
        with path.open("rb") as file:
            return calamine.load_workbook(file)


def _kind(path: Path, head: bytes) -> str:
    """What a workbook is, by its content."""
    if not head.startswith(b"PK"):
        return "XLS"
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except workbooks.DAMAGED:
        names = set()
    if "content.xml" in names:
        return "ODS"
    return "XLSB" if "xl/workbook.bin" in names else "XLSM" if "xl/vbaProject.bin" in names else "XLSX"


def _read(file: IO[bytes]) -> bytes:
    with file:
        return file.read(64 << 20)


def attributes_of(tag: bytes) -> dict[str, str]:
    """What a tag of XML says."""
    return {
        name.decode(): html.unescape((double or single).decode("utf-8", "replace"))
        for name, double, single in _ATTRIBUTE.findall(tag)
    }
