"""What a cell of a workbook has beside its text: pictures on it and in it, and what it links to.

Of .xlsx and .ods files. A picture that was pasted belongs to the cell that its upper left corner is on, or to the next
one where it only touches that. Pictures in cells are those of Excel (which says `#VALUE!` in such a cell) and of WPS
(`=DISPIMG(…)`); links are those of cells, and of `=HYPERLINK("…")`. The XML is read as a stream, and a picture is
unpacked when its turn comes to be sent.
"""

from __future__ import annotations

import html
import posixpath
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple
from xml.parsers import expat

from aisolution_async.bulk import workbooks
from aisolution_async.bulk.heading import letters
from aisolution_async.bulk.photos import Unreadable
from aisolution_async.bulk.rows import Rows
from aisolution_async.bulk.sheets import attributes_of, part_of, place_of
from aisolution_async.errors import ConfigurationError

_MOST = 2_000_000  # pictures and links of a workbook: more than people have photos
_CHUNK = 1 << 20
_WIDEST = 16_384  # columns of a sheet
_LARGEST_RANGE = 10_000  # cells with one link

# Of rows and columns that say nothing of it: in EMU, of which a point has 12700 and a pixel 9525.
_HEIGHT, _WIDTH = 190_500, 609_600
_POINT, _CHARACTER = 12_700, 7 * 9_525

_CELL = rb"<(?:\w+:)?c\s(?=[^>]*\br\s*=\s*[\"']([A-Z]{1,3})([0-9]{1,7})[\"'])"
_RICH_CELL = re.compile(_CELL + rb"[^>]*\bvm\s*=\s*[\"']([0-9]{1,9})[\"']")
_FORMULA_CELL = re.compile(_CELL + rb"[^>]*>\s*<(?:\w+:)?f\b[^>]*>([^<]*(?:HYPERLINK|DISPIMG|IMAGE)\s*\([^<]*)<")
_FORMULA = re.compile(r'\s*(?:of:)?=?\s*(?:_xl\w+\.)*(HYPERLINK|DISPIMG|IMAGE)\s*\(\s*(?:"((?:[^"]|"")*)"\s*[,;)])?')
_LINK = re.compile(rb"<(?:\w+:)?hyperlink\s([^>]*)>")
_ROW = re.compile(rb"<(?:\w+:)?row\s([^>]*)>")
_COLUMN = re.compile(rb"<(?:\w+:)?col\s([^>]*)>")
_DEFAULTS = re.compile(rb"<(?:\w+:)?sheetFormatPr\s([^>]*)>")
_RANGE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})(?::([A-Z]{1,3})([0-9]{1,7}))?")
_DOCUMENT_CELLS = ("table-cell", "covered-table-cell")
_NO_PHOTOS = (".emf", ".wmf", ".emz", ".wmz", ".svg", ".pict", ".pct")
_NO_FILE = ("#", "mailto:", "tel:")
_FROM_THE_WEB = "shows a picture that is fetched from the web: download it, and name its file"
_THERE_ARE = " (there are pictures in this workbook, which cannot be read here: save it as .xlsx)"
_PHOTO = re.compile(rb"\xff\xd8\xff[\xdb\xe0\xe1\xee]|\x89PNG\r\n\x1a\n")
_LONGEST_BEGINNING = 7
_COMPUTED = "has a link that a formula makes: write the file's name"


class Packed:
    """A picture within a workbook, as a file that can be read again and again."""

    def __init__(self, archive: zipfile.ZipFile, part: str) -> None:
        self._archive = archive
        self._part = part
        self._file: IO[bytes] | None = None

    def read(self, size: int, /) -> bytes:
        """See `ImageSource`."""
        if self._file is None:
            self._file = workbooks.unpacked(self._archive, self._part)
        data = self._file.read(size)
        if not data:
            self._file.close()
            self._file = None
        return data


@dataclass(slots=True)
class Spot:
    """What a cell has beside its text: pictures, links, and why a picture that is there cannot be read."""

    parts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    problem: str = ""


class Pictures:
    """What the cells of `rows` have beside their text, if those are of a workbook; without rows, nothing.

    Raises ConfigurationError where that is more than any list has.
    """

    def __init__(self, rows: Rows | None) -> None:
        self._numbers = () if rows is None else rows.numbers
        self._spots: Mapping[int, Spot] = {}
        self._archive: zipfile.ZipFile | None = None
        self.remark = ""
        """Of a workbook whose pictures nobody sees here: what to say of an empty cell."""
        if rows is None or rows.sheet is None:
            return
        has_some = _has_photos(rows.path)
        self.remark = _THERE_ARE if has_some else " (pictures in this workbook cannot be seen here: save it as .xlsx)"
        try:
            self._archive = zipfile.ZipFile(rows.path)
            reading = _Parsing(rows.path, self._archive)
            if (part := part_of(self._archive, rows.sheet)) is not None:
                self._spots, self.remark = reading.of_sheet(part), ""
            elif "content.xml" in self._archive.namelist():
                self._spots, self.remark = reading.of_document(rows.sheet), ""
        except (*workbooks.DAMAGED, expat.ExpatError):
            pass
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        """Whether there are any, or links."""
        return bool(self._spots)

    def at(self, line: int, place: int) -> Spot | None:
        """What the cell in this row, and at this place in it, has."""
        return self._spots.get(line * _WIDEST + self._numbers[place]) if self._spots else None

    def open(self, part: str) -> Packed | Unreadable:
        """A picture that `at` names."""
        assert self._archive is not None
        ending = posixpath.splitext(part)[1].lower()
        if ending in _NO_PHOTOS:
            return Unreadable(f"has a drawing on it ({ending}), and no photo: put in a JPEG or PNG")
        return Packed(self._archive, part)

    def beside(self, line: int) -> list[str]:
        """The cells of a row that have pictures."""
        row = line * _WIDEST
        numbers = range(1, 200) if self._spots else ()
        return [
            f"{letters(number)}{line}"
            for number in numbers
            if (spot := self._spots.get(row + number)) is not None and spot.parts
        ]

    def lines(self, places: Sequence[int]) -> set[int]:
        """The rows that have pictures, in the columns at these places."""
        columns = {self._numbers[place] for place in places} if self._spots else set()
        return {at // _WIDEST for at, spot in self._spots.items() if spot.parts and at % _WIDEST in columns}

    def close(self) -> None:
        """Close the workbook."""
        if self._archive is not None:
            self._archive.close()


class _Side(NamedTuple):
    """Where an anchored picture is, down or across: where it begins, and where it ends or how long it is."""

    start: int
    offset: int
    end: int | None
    end_offset: int
    length: int

    def place(self, size: Callable[[int], int]) -> int:
        """The row, or the column, that it belongs to."""
        here, room = size(self.start), max(0, size(self.start) - self.offset)
        if self.end is None:
            covered = min(room, self.length)
            beyond = min(self.length - covered, size(self.start + 1))
        else:
            covered = room
            beyond = 0 if self.end <= self.start else self.end_offset
            beyond = size(self.start + 1) if self.end > self.start + 1 else beyond
        return self.start + (covered * 2 < here and beyond > covered)


class _Anchor(NamedTuple):
    down: _Side
    across: _Side
    parts: tuple[str, ...]


class _Relation(NamedTuple):
    kind: str
    target: str
    is_outside: bool


class _Sizes:
    """How high the rows are, and how wide the columns, as far as they differ from the others."""

    def __init__(self, rows: set[int]) -> None:
        self._wanted = rows
        self._heights: dict[int, int] = {}
        self._widths: list[tuple[int, int, int]] = []
        self._height, self._width = _HEIGHT, _WIDTH

    def see(self, chunk: bytes) -> None:
        """Take notice of a piece of the sheet."""
        if not self._wanted:
            return
        for said in map(attributes_of, _DEFAULTS.findall(chunk)):
            self._height = _emu(said.get("defaultRowHeight"), _POINT, self._height)
            self._width = _emu(said.get("defaultColWidth"), _CHARACTER, self._width)
        for said in map(attributes_of, _COLUMN.findall(chunk)):
            width = _emu(said.get("width"), _CHARACTER, self._width)
            self._widths.append((_number(said.get("min")), _number(said.get("max")), width))
        for tag in _ROW.findall(chunk):
            said = attributes_of(tag)
            if "ht" in said and (row := _number(said.get("r"))) in self._wanted:
                self._heights[row] = _emu(said["ht"], _POINT, self._height)

    def height(self, row: int) -> int:
        return self._heights.get(row, self._height)

    def width(self, column: int) -> int:
        return next((width for first, last, width in self._widths if first <= column <= last), self._width)


class _Parsing:
    """Reads the parts of a workbook that say what is on, in and behind its cells."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._names = set(archive.namelist())
        self._spots: dict[int, Spot] = {}

    def of_sheet(self, part: str) -> Mapping[int, Spot]:
        """What the cells of a sheet have, by row and column: see `Pictures.at`."""
        related = self._related(part)
        drawings = [each.target for each in related.values() if each.kind == "drawing" and each.target in self._names]
        anchors = [
            anchor for drawing in drawings for anchor in _Drawing(self._related(drawing)).read(self._file(drawing))
        ]
        sizes = _Sizes({anchor.down.start + below for anchor in anchors for below in (0, 1)})
        in_cells = self._of_excel() if "xl/metadata.xml" in self._names else []
        of_wps = self._of_wps() if "xl/cellimages.xml" in self._names else {}
        for chunk in workbooks.chunks(self._path, self._archive, part):
            sizes.see(chunk)
            self._see_rich(chunk, in_cells)
            self._see_formulas(chunk, of_wps)
            self._see_links(chunk, related)
        for anchor in anchors:
            spot = self._spot(anchor.down.place(sizes.height), anchor.across.place(sizes.width))
            spot.parts += [picture for picture in anchor.parts if picture not in spot.parts]
        return self._spots

    def of_document(self, sheet: str) -> Mapping[int, Spot]:
        """The same of a table of an .ods file, where pictures stand in their cells."""
        row = column = 0
        repeated = [1, 1]
        is_read = False

        def start(name: str, said: Mapping[str, str], around: Sequence[str]) -> None:
            nonlocal row, column, is_read
            if name == "table":
                is_read, row = said.get("name") == sheet, 0
            elif name == "table-row":
                row, column, repeated[0] = row + 1, 0, _number(said.get("number-rows-repeated")) or 1
            elif name in _DOCUMENT_CELLS:
                column, repeated[1] = column + 1, _number(said.get("number-columns-repeated")) or 1
                if is_read and (found := _FORMULA.match(said.get("formula", ""))) is not None:
                    self._see_formula(self._spot(row, column), found, {})
            elif is_read and name in ("a", "image") and "table-row" in around:
                target = said.get("href", "").removeprefix("./")
                spot = self._spot(row, column)
                if target in self._names:
                    spot.parts += [target] if target not in spot.parts else []
                elif target and not target.startswith(_NO_FILE):
                    spot.links.append(target.removeprefix("../"))  # which is the folder that the document is in

        def content(name: str, _: str, __: Sequence[str]) -> None:
            nonlocal row, column
            row += repeated[0] - 1 if name == "table-row" else 0
            column += repeated[1] - 1 if name in _DOCUMENT_CELLS else 0

        self._parse("content.xml", start, content)
        return self._spots

    def _see_rich(self, chunk: bytes, in_cells: Sequence[str]) -> None:
        for name, row, number in _RICH_CELL.findall(chunk) if b"vm=" in chunk else ():
            at = int(number) - 1
            picture = in_cells[at] if 0 <= at < len(in_cells) else ""
            if picture:
                self._spot(int(row), place_of(name)).parts.append(picture)
            elif in_cells:
                self._spot(int(row), place_of(name)).problem = _FROM_THE_WEB

    def _see_formulas(self, chunk: bytes, of_wps: Mapping[str, str]) -> None:
        if b"HYPERLINK" not in chunk and b"DISPIMG" not in chunk and b"IMAGE" not in chunk:
            return
        for name, row, formula in _FORMULA_CELL.findall(chunk):
            found = _FORMULA.match(html.unescape(formula.decode("utf-8", "replace")))
            if found is None:
                continue
            self._see_formula(self._spot(int(row), place_of(name)), found, of_wps)

    def _see_formula(self, spot: Spot, found: re.Match[str], of_wps: Mapping[str, str]) -> None:
        function, said = found[1], None if found[2] is None else found[2].replace('""', '"')
        if function == "IMAGE":
            spot.problem = _FROM_THE_WEB
        elif said is None:
            spot.problem = _COMPUTED
        elif function == "HYPERLINK":
            spot.links += [] if said.startswith(_NO_FILE) else [said]
        elif said in of_wps:
            spot.parts.append(of_wps[said])

    def _see_links(self, chunk: bytes, related: Mapping[str, _Relation]) -> None:
        for tag in _LINK.findall(chunk) if b"hyperlink" in chunk else ():
            said = attributes_of(tag)
            identity = next((value for name, value in said.items() if name.endswith(":id")), "")
            relation, cells = related.get(identity), _RANGE.match(said.get("ref", ""))
            if relation is None or not relation.is_outside or cells is None or relation.target.startswith(_NO_FILE):
                continue
            first, last = int(cells[2]), int(cells[4] or cells[2])
            left, right = (place_of((cells[group] or cells[1]).encode()) for group in (1, 3))
            if (last - first + 1) * (right - left + 1) <= _LARGEST_RANGE:
                for row in range(first, last + 1):
                    for column in range(left, right + 1):
                        self._spot(row, column).links.append(relation.target)

    def _spot(self, row: int, column: int) -> Spot:
        at = row * _WIDEST + column
        found = self._spots.get(at)
        if found is None:
            self._check(len(self._spots))
            found = self._spots[at] = Spot()
        return found

    # ------------------------------------------------------------------------------------------ parts of the workbook

    def _of_excel(self) -> list[str]:
        """The pictures in cells, by the number that a cell has: "" for what is none."""
        blocks: list[int] = []
        values: list[tuple[int, int]] = []
        types: list[str] = []

        def metadata(name: str, said: Mapping[str, str], around: Sequence[str]) -> None:
            if name == "metadataType":
                types.append(said.get("name", ""))
            elif name == "rvb" and "futureMetadata" in around:
                blocks.append(_number(said.get("i")))
            elif name == "rc" and "valueMetadata" in around:
                values.append((_number(said.get("t")), _number(said.get("v"))))

        self._parse("xl/metadata.xml", metadata)
        pictures = self._rich_values()
        found = []
        for kind, block in values:
            is_rich = 0 < kind <= len(types) and types[kind - 1] == "XLRICHVALUE" and block < len(blocks)
            at = blocks[block] if is_rich else len(pictures)
            found.append(pictures[at] if at < len(pictures) else "")
        return found

    def _rich_values(self) -> list[str]:
        keys: list[list[str]] = []  # of each structure that a value may have
        places: list[int | None] = []
        pictures: list[str] = []
        relations = self._related("xl/richData/richValueRel.xml")

        def structure(name: str, said: Mapping[str, str], _: Sequence[str]) -> None:
            if name == "s":
                keys.append([])
            elif name == "k" and keys:
                keys[-1].append(said.get("n", ""))

        def relation(name: str, said: Mapping[str, str], _: Sequence[str]) -> None:
            if name == "rel":
                found = relations.get(said.get("id", ""))
                pictures.append(found.target if found is not None and found.target in self._names else "")

        self._parse("xl/richData/rdrichvaluestructure.xml", structure)
        self._parse("xl/richData/richValueRel.xml", relation)
        local = "_rvRel:LocalImageIdentifier"
        wanted: int | None = None
        count = 0

        def value(name: str, said: Mapping[str, str], _: Sequence[str]) -> None:
            nonlocal wanted, count
            if name == "rv":
                of = _number(said.get("s"))
                names = keys[of] if of < len(keys) else []
                wanted, count = names.index(local) if local in names else None, 0
                places.append(None)

        def content(name: str, text: str, _: Sequence[str]) -> None:
            nonlocal count
            if name == "v":
                if count == wanted and places:
                    places[-1] = _number(text)
                count += 1

        self._parse("xl/richData/rdrichvalue.xml", value, content)
        return ["" if at is None or at >= len(pictures) else pictures[at] for at in places]

    def _of_wps(self) -> dict[str, str]:
        """The pictures in cells, by their names."""
        related = self._related("xl/cellimages.xml")
        found: dict[str, str] = {}
        name = ""

        def start(tag: str, said: Mapping[str, str], _: Sequence[str]) -> None:
            nonlocal name
            if tag == "cNvPr":
                name = said.get("name", "")
            elif tag == "blip" and (picture := related.get(said.get("embed", ""))) and picture.target in self._names:
                self._check(len(found))
                found[name] = picture.target

        self._parse("xl/cellimages.xml", start)
        return found

    def _related(self, part: str) -> dict[str, _Relation]:
        """The parts, and the files outside, that a part names by ids."""
        folder, _, name = part.rpartition("/")
        found: dict[str, _Relation] = {}

        def start(tag: str, said: Mapping[str, str], _: Sequence[str]) -> None:
            if tag == "Relationship":
                self._check(len(found))
                target, is_outside = said.get("Target", ""), said.get("TargetMode") == "External"
                if not is_outside:
                    target = posixpath.normpath(posixpath.join(f"/{folder}", target)).lstrip("/")
                found[said.get("Id", "")] = _Relation(said.get("Type", "").rpartition("/")[2], target, is_outside)

        self._parse(f"{folder}/_rels/{name}.rels", start)
        return found

    def _parse(self, part: str, start: _Start, content: _Content | None = None) -> None:
        if part in self._names:
            with self._file(part) as file:
                _parse(file, start, content)

    def _file(self, part: str) -> IO[bytes]:
        return workbooks.unpacked(self._archive, part)

    def _check(self, count: int) -> None:
        if count >= _MOST:
            raise ConfigurationError(f"the workbook {str(self._path)!r} has more than {_MOST:,} pictures or links")


class _Drawing:
    """The pictures that lie on a sheet."""

    def __init__(self, related: Mapping[str, _Relation]) -> None:
        self._related = related
        self._numbers: dict[tuple[str, str], int] = {}
        self._size: Mapping[str, str] = {}
        self._parts: list[str] = []
        self._found: list[_Anchor] = []

    def read(self, file: IO[bytes]) -> list[_Anchor]:
        with file:
            _parse(file, self._start, self._content)
        return self._found

    def _start(self, name: str, said: Mapping[str, str], around: Sequence[str]) -> None:
        if name in _ANCHORS:
            self._numbers, self._size, self._parts = {}, {}, []
        elif name == "ext" and around[-1:] == ["oneCellAnchor"]:
            self._size = said
        elif name == "blip" and "Fallback" not in around:
            picture = self._related.get(said.get("embed", ""))
            if picture is not None and not picture.is_outside:
                self._parts.append(picture.target)

    def _content(self, name: str, text: str, around: Sequence[str]) -> None:
        if around[-1:] in (["from"], ["to"]):
            self._numbers[around[-1], name] = _number(text)
        elif name in _ANCHORS and self._parts and ("from", "row") in self._numbers:
            down, across = self._side("row", "cy"), self._side("col", "cx")
            self._found.append(_Anchor(down, across, tuple(self._parts)))

    def _side(self, name: str, length: str) -> _Side:
        numbers = self._numbers
        end = numbers.get(("to", name))
        return _Side(
            numbers.get(("from", name), 0) + 1,
            numbers.get(("from", f"{name}Off"), 0),
            None if end is None else end + 1,
            numbers.get(("to", f"{name}Off"), 0),
            _number(self._size.get(length)),
        )


_ANCHORS = ("oneCellAnchor", "twoCellAnchor")
_Start = Callable[[str, Mapping[str, str], Sequence[str]], None]
_Content = Callable[[str, str, Sequence[str]], None]


def _parse(file: IO[bytes], start: _Start, content: _Content | None = None) -> None:
    """Read XML as a stream. `start` is told each element with its attributes, `content` each with its text at its end.

    Both get names without their namespaces, and those of the elements around. Raises ExpatError or ValueError.
    """
    around: list[str] = []
    text: list[str] = []

    def begin(name: str, said: Mapping[str, str]) -> None:
        name = name.rpartition(" ")[2]
        start(name, {key.rpartition(" ")[2]: value for key, value in said.items()}, around)
        around.append(name)
        text.clear()

    def end(_: str) -> None:
        name = around.pop()
        if content is not None:
            content(name, "".join(text), around)
        text.clear()

    def refuse(*_: object) -> None:
        raise ValueError("a workbook's parts have no document type, which could make them endless")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    if content is not None:
        parser.CharacterDataHandler = text.append
    while piece := file.read(_CHUNK):
        parser.Parse(piece, False)
    parser.Parse(b"", True)


def _has_photos(path: Path) -> bool:
    """Whether there are photos in a workbook whose format says not here where they are: .xlsb or .xls."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/media/") for name in archive.namelist())
    except workbooks.DAMAGED:
        pass
    try:
        with path.open("rb") as file:
            rest = b""
            while piece := file.read(_CHUNK):
                if _PHOTO.search(rest + piece):
                    return True
                rest = piece[-_LONGEST_BEGINNING:]
    except OSError:
        pass
    return False


def _number(text: str | None) -> int:
    text = (text or "").strip()
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def _emu(text: str | None, unit: int, otherwise: int) -> int:
    try:
        return round(float(text or "") * unit)
    except (ValueError, OverflowError):
        return otherwise


def refuse_pictures(path: Path) -> None:
    """Raise ConfigurationError where a file of problems has pictures: none is taken from there, and it is replaced."""
    with Rows(path) as rows:
        pictures = Pictures(rows)
        lines = sorted(pictures.lines(range(len(rows.header))))
        pictures.close()
    if lines:
        shown = ", ".join(map(str, lines[:5])) + ", …" * (len(lines) > 5)
        raise ConfigurationError(
            f"{str(path)!r} has pictures (row {shown}), which are not taken from there, and would be lost: save "
            "each as a file, write the file's name into the cell, and take the picture away; nothing was sent"
        )
