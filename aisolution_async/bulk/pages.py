"""Web pages under the name of a workbook: what many programs write for Excel. The largest of its tables is read.

All cells are text, as they are written. A cell over several columns, or rows, is one and empty ones, as in a workbook.
The page is read as a whole, and is of at most `MOST` bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from aisolution_async.bulk import heading
from aisolution_async.bulk.charsets import given, guessed
from aisolution_async.bulk.source import MAX_COLUMNS, Reader, Row, open_bytes
from aisolution_async.errors import ConfigurationError

MOST: Final = 64 << 20
"""Bytes of a page. A list that is longer is no page."""

_SAVE_AS = "open it in Excel and save it as .xlsx"
_CHARSET = re.compile(rb"<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_SILENT = ("script", "style", "head", "title")


class PageReader(Reader):
    """The rows of the largest table of one web page; `header_row` is a row of that table, as for a sheet."""

    format = "html"

    def __init__(self, path: Path, *, header_row: int | None = None) -> None:
        with open_bytes(path) as file:
            content = file.read(MOST + 1)
        if len(content) > MOST:
            raise ConfigurationError(f"the web page {str(path)!r} has more than {MOST >> 20} MiB: {_SAVE_AS}")
        found = guessed(content, True, guesses=True)
        if not found.bom and found.encoding != "utf-8" and (said := _CHARSET.search(content[:4096])):
            found = given(content, said[1].decode())
        page = _Page()
        page.feed(content[len(found.bom) :].decode(found.encoding, "replace"))
        page.close()
        tables = sorted(page.tables, key=lambda table: sum(map(len, table)))
        rows = [(n, cells) for n, cells in enumerate(tables[-1] if tables else [], 1) if any(cells)]
        if not rows:
            raise ConfigurationError(f"the input {str(path)!r} is a web page without a table: {_SAVE_AS}")
        width = max(len(cells) for _, cells in rows)
        if width > MAX_COLUMNS:
            raise ConfigurationError(f"{str(path)!r}: {width} columns, of which there may be {MAX_COLUMNS}")
        rows = [(n, [*cells, *[""] * (width - len(cells))]) for n, cells in rows]
        place = -1
        if header_row is None:
            place = heading.find([cells for _, cells in rows[: heading.SAMPLE]])
        elif header_row:
            place = next((place for place, (n, _) in enumerate(rows) if n == header_row), -1)
            if place < 0:
                raise ConfigurationError(f"row {header_row} of the table in {str(path)!r} is empty, or not there")
        self._rows = rows[place + 1 :]
        said_names = rows[place][1] if place >= 0 else [""] * width
        used = [n for n in range(width) if said_names[n] or any(cells[n] for _, cells in self._rows)]
        self._places = used
        self.header, notes = heading.named([said_names[n] for n in used], lambda n: heading.letters(used[n] + 1))
        self.notes = [heading.told(f"row {rows[place][0]}", is_found=header_row is None)] if place > 0 else []
        self.notes += notes
        self.total = len(self._rows)
        first = rows[place][0] if place >= 0 else 0
        self.blank = self._rows[-1][0] - first - self.total if self._rows else 0
        several = f", the largest of its {len(tables)} tables" if len(tables) > 1 else ""
        self.about = f"web page under the name of a sheet{several}, {found.about}"

    def __iter__(self) -> Iterator[Row]:
        for number, cells in self._rows:
            yield Row(number, [cells[place] or None for place in self._places])


class _Page(HTMLParser):
    """The tables of a page, each a list of rows, those inside of others too."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self._open: list[list[list[str]]] = []
        self._cell: list[str] | None = None
        self._span = self._height = 1
        self._over: list[
            dict[int, int]
        ] = []  # columns, by table, that cells of rows above reach into, for how many rows
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        match tag:
            case "table":
                self._end_cell()
                self._open.append([])
                self._over.append({})
                self.tables.append(self._open[-1])
            case "tr" if self._open:
                self._end_cell()
                self._begin_row()
            case "td" | "th" if self._open:
                self._end_cell()
                if not self._open[-1]:
                    self._begin_row()
                said = dict(attrs)
                self._span, self._height = _count(said.get("colspan")), _count(said.get("rowspan"))
                self._cell = []
            case "br" | "p" | "div" if self._cell is not None:
                self._cell.append(" ")
            case _ if tag in _SILENT:
                self._silent += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._end_cell()
        if tag == "table" and self._open:
            self._open.pop()
            self._over.pop()
        elif tag in _SILENT:
            self._silent = max(0, self._silent - 1)

    def handle_data(self, data: str) -> None:
        if self._cell is not None and not self._silent:
            self._cell.append(data)

    def _end_cell(self) -> None:
        if self._cell is not None and self._open and self._open[-1]:
            row, over = self._open[-1][-1], self._over[-1]
            self._put_over(row, over)
            if self._height > 1:
                over.update(dict.fromkeys(range(len(row), len(row) + self._span), self._height))
            row += [_SPACE.sub(" ", "".join(self._cell)).strip(), *[""] * (self._span - 1)]
        self._cell = None

    def _begin_row(self) -> None:
        over = self._over[-1]
        for column in [*over]:
            over[column] -= 1
            if not over[column]:
                del over[column]
        self._open[-1].append([])

    @staticmethod
    def _put_over(row: list[str], over: dict[int, int]) -> None:
        while len(row) in over:
            row.append("")


def _count(said: str | None) -> int:
    return min(max(1, int(said[:6])), MAX_COLUMNS) if said is not None and said.isdecimal() and said.isascii() else 1
