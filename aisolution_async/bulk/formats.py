"""The number formats of a sheet of an .xlsx file, by row: what makes 0.125 12.5 %, 7 0007, and a number a date."""

from __future__ import annotations

import re
import zipfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from aisolution_async.bulk import workbooks
from aisolution_async.bulk.sheets import part_of, place_of

NumberFormat = int | str
"""One of Excel's own, by its number (0: General), or what it says: `"Rp" #,##0`."""

_TAG = re.compile(rb"<(?:\w+:)?(row|c)\b([^>]*)>")
_PLACE = re.compile(rb"""\sr\s*=\s*["']([A-Z]*)([0-9]{1,7})["']""")
_STYLE = re.compile(rb"""\ss\s*=\s*["']([0-9]{1,6})["']""")
_MOST_STYLES = 16 << 20  # bytes of XML


class NumberFormats:
    """The formats of the cells of a table whose columns stand at `numbers` of the sheet, counted from 1.

    It takes four bytes a row: rows are much alike. Where nothing can be told, all formats are General.
    """

    def __init__(self, path: Path, sheet: str, numbers: Sequence[int]) -> None:
        self._general: tuple[NumberFormat, ...] = (0,) * len(numbers)
        self._places = {number: place for place, number in enumerate(numbers)}
        self._kinds: dict[tuple[NumberFormat, ...], int] = {self._general: 0}
        self._patterns: list[tuple[NumberFormat, ...]] = [self._general]
        self._rows = array("I")
        try:
            with zipfile.ZipFile(path) as archive:
                part = part_of(archive, sheet)
                styles = _styles(archive)
                if part is not None and any(styles):
                    self._read(path, archive, part, styles)
        except workbooks.DAMAGED:
            pass  # what is wrong with it is said by who reads its cells

    def of(self, row: int) -> tuple[NumberFormat, ...]:
        """The formats of the cells in a row of the sheet."""
        return self._patterns[self._rows[row]] if 0 <= row < len(self._rows) else self._general

    def _read(self, path: Path, archive: zipfile.ZipFile, part: str, styles: Sequence[NumberFormat]) -> None:
        number, place = 0, 0
        cells: dict[int, NumberFormat] = {}
        for chunk in workbooks.chunks(path, archive, part):
            for name, attributes in _TAG.findall(chunk):
                said = _PLACE.search(attributes)
                if name == b"row":
                    self._keep(number, cells)
                    cells = {}
                    number, place = int(said[2]) if said else number + 1, 0
                    continue
                place = place_of(said[1]) if said else place + 1
                style = _STYLE.search(attributes)
                if style is not None and place in self._places and int(style[1]) < len(styles):
                    cells[self._places[place]] = styles[int(style[1])]
        self._keep(number, cells)

    def _keep(self, row: int, cells: dict[int, NumberFormat]) -> None:
        if not any(cells.values()) or row > workbooks.MOST_CELLS:
            return
        found = tuple(cells.get(place, 0) for place in range(len(self._general)))
        pattern = self._kinds.setdefault(found, len(self._kinds))
        if pattern == len(self._patterns):
            self._patterns.append(found)
        if row >= len(self._rows):
            self._rows.extend([0] * (row + 1 - len(self._rows)))
        self._rows[row] = pattern


def _styles(archive: zipfile.ZipFile) -> list[NumberFormat]:
    """The number format of each style that a cell can have."""
    own: dict[int, str] = {}
    found: list[NumberFormat] = []
    inside: list[str] = []

    def start(name: str, said: dict[str, Any]) -> None:
        name = name.rpartition(":")[2]
        inside.append(name)
        number = str(said.get("numFmtId", ""))
        if not number.isdecimal():
            number = "0"
        if name == "numFmt":
            own[int(number)] = str(said.get("formatCode", "General"))
        elif inside[-2:] == ["cellXfs", "xf"]:
            found.append(int(number))

    def end(_name: str) -> None:
        inside.pop()

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    with workbooks.unpacked(archive, "xl/styles.xml") as file:
        try:
            parser.Parse(file.read(_MOST_STYLES), True)
        except expat.ExpatError:
            return []
    return [own.get(number, number) if isinstance(number, int) else number for number in found]
