"""From a row to its calls, one for each endpoint, by the endpoints' tables of parameters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisolution_async.api import Call, ImageSource, Kind, endpoint_of
from aisolution_async.bulk.choice import Choice
from aisolution_async.bulk.photos import NotThere, Photos, Unreadable, Unseen
from aisolution_async.bulk.pictures import Pictures
from aisolution_async.bulk.rows import Row, Rows, text
from aisolution_async.bulk.source import UNCALCULATED, Narrow, is_text, some
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.inputs import images, numbers, texts
from aisolution_async.names import is_taken, perhaps

_LONGEST_PATH = 4096
_NO_TEXT = "has bytes that are no text as the file is written: save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"
_AS_TEXT = "write the column as text"
_EMPTY = "is empty: fill it in, or delete the row in the list itself"
_UNCALCULATED = (
    "is a formula that was never calculated: open and save the list in a spreadsheet program (Excel, LibreOffice), "
    f"which calculates it; until then it reads {UNCALCULATED}"
)
_MANY = 0.2
"""Of the numbers, so many without a calling code are no slips."""
_NOT_AVAILABLE = "NA"
"""As statistics programs write an empty cell; numbers of Indonesia are valid in Namibia."""

# A value that is the same for all rows is checked once, before any row is read.
_CHECKS: Mapping[Kind, Callable[..., object]] = {
    Kind.NUMBER: numbers.normalise,
    Kind.COUNTRY: texts.country,
    Kind.URL: texts.url,
    Kind.TEXT: texts.text,
    Kind.FLAG: texts.flag,
}


@dataclass(frozen=True, slots=True)
class _Cell:
    """Where one parameter comes from."""

    parameter: str
    kind: Kind
    required: bool
    column: str
    place: int
    why: str


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How the call of one endpoint is made of a row."""

    call: type[Call[Any]]
    values: Mapping[str, Any]
    cells: Sequence[_Cell]
    reading: Sequence[_Cell]
    """The same, with the country before the number that is read by it."""


@dataclass(slots=True)
class _Told:
    """What is to be told of some numbers: how many there are, and in which row the first one is."""

    first: str
    calls: int = 0


class Calls:
    """What makes the calls of a row, one for each of `calls`.

    `columns` says which column a parameter is in, `values` gives a parameter the same value in all rows; both are by
    the parameter's name (`"number"`), or by endpoint and name where two endpoints differ (`"id-holding.img"`). A
    column that nothing is said of is found by its name or its cells (`choice.py`), if it has to be there or says the
    country. `key` names the column of the calls' keys; else that is found too. A relative path of an image starts at
    the input file's folder. With `images_root`, no image outside of that folder is read, and a relative path that
    leads out of it starts there instead; `photos.py` says what a photo may be called, and when it is searched for.
    `photos` are those of that folder, where lists of one folder share the search.
    Raises ConfigurationError where these do not fit the endpoints or the file, or where two columns may be meant.
    """

    def __init__(
        self,
        calls: Sequence[type[Call[Any]]],
        rows: Rows,
        *,
        columns: Mapping[str, str],
        values: Mapping[str, Any],
        key: str | None,
        images_root: Path | None = None,
        photos: Photos | None = None,
    ) -> None:
        self._rows = rows
        self._folder = Path.cwd() if str(rows.path) == "-" else rows.path.absolute().parent
        self._photos = photos or Photos(self._folder, images_root)
        self.unit = "row" if rows.format in ("xlsx", "html", "parquet") else "line"
        """What a row is called, where its number in the file is said."""
        _check_names(calls, columns, values)
        self._choice = Choice(rows, [*columns.values(), *([] if key is None else [key])])
        self._unexpected: list[str] = []
        self._recipes = [self._recipe(call, columns, values, several=len(calls) > 1) for call in calls]
        used = [cell.column for recipe in self._recipes for cell in recipe.cells]
        key = self._choice.key(used) if key is None else key
        self._key = None if key is None else _place(rows, key, "the key")
        self._told: dict[str, _Told] = {}
        images = [cell.place for recipe in self._recipes for cell in recipe.cells if cell.kind is Kind.IMAGE]
        self.take_images = bool(images)
        """Whether the calls have images."""
        self._pictures = Pictures(rows if images else None)
        self._unasked = self._pictures.lines(images)  # rows that have pictures, and may have nothing else
        self._first = self._newest = self._made = 0

    @property
    def keyed(self) -> bool:
        """Whether the calls have keys."""
        return self._key is not None

    @property
    def key_column(self) -> str | None:
        """The column of the keys, if there is one."""
        return None if self._key is None else self._rows.header[self._key]

    @property
    def may_have_key(self) -> bool:
        """Whether there is no key, and a column that may be one: none of its cells is empty, and no two are alike."""
        if self._key is not None:
            return False
        used = {cell.place for recipe in self._recipes for cell in recipe.cells}
        rows = [row.cells for row in self._choice.ahead() if row.problem is None]
        places = (place for place in range(len(self._rows.header)) if place not in used)
        columns = ([text(cells[place]).strip() for cells in rows] for place in places)
        return any(all(column) and len({*column}) == len(column) > 1 for column in columns)

    @property
    def chosen(self) -> str:
        """Which columns are used for what, in one line for people."""
        several = len(self._recipes) > 1
        parts = [
            f"{f'{recipe.call.endpoint.command}.' if several else ''}{cell.parameter} from {cell.column!r}"
            for recipe in self._recipes
            for cell in recipe.cells
        ]
        parts.append("no key" if self._key is None else f"key from {self._rows.header[self._key]!r}")
        return ", ".join(parts)

    def reasons(self) -> list[str]:
        """Which column is used for what, and why, in a line for each."""
        several, found = len(self._recipes) > 1, []
        for recipe in self._recipes:
            command = f"{recipe.call.endpoint.command}." if several else ""
            found += [f"{command}{cell.parameter} is read from {cell.column!r} {cell.why}" for cell in recipe.cells]
        return found

    def lines(self) -> list[str]:
        """What the input is, what of it is used, and what of that nobody sees, in lines for people."""
        rows = self._rows
        found = [f"{rows.about}: {self.chosen}", *rows.notes, *self._unexpected, *self._without_country()]
        if rows.hidden is None:
            found.append("whether rows are hidden cannot be told of this workbook: save it as .xlsx to know")
        elif rows.hidden:
            count = f"{rows.hidden:,} hidden row{'s' * (rows.hidden > 1)} {'are' if rows.hidden > 1 else 'is'}"
            remedy = (
                "left out" if rows.skips_hidden else "included: say --skip-hidden (skip_hidden=True) to leave them out"
            )
            found.append(f"{count} {remedy}")
        used = [cell.column for recipe in self._recipes for cell in recipe.cells]
        used += [] if self._key is None else [rows.header[self._key]]
        unseen = [repr(name) for name in dict.fromkeys(used) if name in rows.hidden_columns]
        if unseen:
            found.append(f"hidden columns are used: {', '.join(unseen)}")
        if rows.hidden_columns:
            is_one = len(rows.hidden_columns) == 1
            found.append(
                f"{len(rows.hidden_columns):,} hidden column{' is' if is_one else 's are'} not hidden in the results: "
                f"{some(rows.hidden_columns)}"
            )
        if self._pictures:
            found.append("the results have the text of the cells, and no pictures or links: keep this list")
        return found

    @property
    def warnings(self) -> list[str]:
        """What a person should be told of the calls made so far that is no error: each once, with an example."""
        found = [
            f"{told.calls:,} number{'s are' if told.calls > 1 else ' is'} {remark}: {told.first}"
            + (" is the first" if told.calls > 1 else "")
            for remark, told in self._told.items()
        ]
        alone = sorted(line for line in self._unasked if line > self._first)
        if alone and self._made == self._rows.total and not self._rows.skips_hidden:
            found.append(
                f"pictures lie on {len(alone):,} row{'s' * (len(alone) > 1)} without any text, which "
                f"{'were' if len(alone) > 1 else 'was'} not asked: write an id into row {alone[0]}"
                + (" and the others" if len(alone) > 1 else "")
            )
        return found

    async def ready(self, row: Row) -> None:
        """Search for the photos that `row` names, off the event loop: `make` would do it on the loop."""
        for recipe in self._recipes:
            for cell in recipe.cells:
                if cell.kind is not Kind.IMAGE or row.problem is not None:
                    continue
                said, spot = text(row.cells[cell.place]).strip(), self._pictures.at(row.line, cell.place)
                names = [said] if said and not _is_base64(said) else []
                names += () if spot is None else spot.links
                if any(map(self._photos.must_search, names)):
                    await asyncio.to_thread(self._photos.search)
                    return

    def close(self) -> None:
        """Forget where the photos are."""
        self._photos.close()
        self._pictures.close()

    def make(self, row: Row) -> list[Call[Any] | InputError]:
        """The calls of `row`; where one cannot be made, why."""
        if row.line > self._newest:  # else the rows are read once more
            self._first, self._newest = self._first or row.line, row.line
            self._made += 1
            self._unasked.discard(row.line)
        key = (text(row.cells[self._key]) or None) if self._key is not None else None
        if key is not None and not is_text(key):
            problem = f"{self.unit} {row.line}: the key in column {self.key_column!r} {_NO_TEXT}"
            return [InputError(problem, endpoint=recipe.call.endpoint.name) for recipe in self._recipes]
        return [self._make(recipe, row, key) for recipe in self._recipes]

    def whence(self, row: Row, place: int) -> str:
        """The columns that call `place` is made of, with the row as an example."""
        names = [cell.column for cell in self._recipes[place].cells if cell.required]
        shown = " and ".join(map(repr, names))
        return f"the column{'s' * (len(names) > 1)} {shown} (first: {self.unit} {row.line})"

    def explain(self, row: Row, place: int, problem: str) -> str:
        """`problem`, which speaks of a parameter of call `place`, with the line and the column to look up."""
        return f"{self.unit} {row.line}: {_explained(self._recipes[place], problem)}"

    def located(self, row: Row, place: int, problem: str) -> str:
        """`problem` of call `place`, with the line and the columns to look up, unless it says the line by itself."""
        where = f"{self.unit} {row.line}: "
        if problem.startswith(where):
            return problem
        names = [repr(cell.column) for cell in self._recipes[place].cells if cell.required]
        return f"{where}column{'s' * (len(names) > 1)} {' and '.join(names)}: {problem}"

    # ------------------------------------------------------------------------------------------------ the columns

    def _recipe(
        self, call: type[Call[Any]], columns: Mapping[str, str], values: Mapping[str, Any], *, several: bool
    ) -> _Recipe:
        command = call.endpoint.command
        fixed: dict[str, Any] = {}
        cells: dict[str, _Cell] = {}
        # The country first: numbers are known by it.
        for parameter in sorted(call.endpoint.parameters, key=lambda each: each.kind is not Kind.COUNTRY):
            name, kind = parameter.name, parameter.kind
            column = _of(columns, call, name)
            value = _of(values, call, name)
            if column is not None and (value is not None or kind is Kind.FLAG):
                raise ConfigurationError(f"{name} comes from a column or is one value for all rows, not both")
            if value is not None:
                if kind in _CHECKS:
                    _checked(name, kind, value)
                fixed[name] = value
                continue
            option = f"--column {command}.{name}=COLUMN" if several else f"--{name.replace('_', '-')} COLUMN"
            why = "as was said"
            if column is None and (parameter.required or kind is Kind.COUNTRY):
                if not parameter.required and not several:
                    option = f"--{name.replace('_', '-')}-column COLUMN"
                found = self._choice.of(call, parameter, option, lambda row: _country(row, fixed, cells.get("country")))
                if found is not None:
                    column, why = found.column, found.why
                    self._unexpected += [] if found.told is None else [found.told]
                elif parameter.required:
                    column = name
            if column is not None:
                place = _place(self._rows, column, f"{name} (say which with {option})")
                cells[name] = _Cell(name, kind, parameter.required, column, place, why)
        ordered = [cells[parameter.name] for parameter in call.endpoint.parameters if parameter.name in cells]
        return _Recipe(call, fixed, ordered, [*cells.values()])

    def _without_country(self) -> list[str]:
        """What is to be known of the numbers before the first of them is sent."""
        found = []
        for recipe in self._recipes:
            country = next((cell for cell in recipe.cells if cell.kind is Kind.COUNTRY), None)
            for cell in recipe.cells:
                if cell.kind is not Kind.NUMBER or recipe.values.get("country"):
                    continue
                rows = [row for row in self._choice.ahead() if row.problem is None and text(row.cells[cell.place])]
                alone = [
                    (row, sent)
                    for row in rows
                    if (sent := _number(text(row.cells[cell.place]))) is not None
                    and _country(row, recipe.values, country) is None
                ]
                national = [row for row, sent in alone if sent[0] == "0"]
                if national:
                    begin = f"begin{'s' * (len(national) == 1)} with 0"
                    found.append(self._ask_country(len(rows), national, begin, cell))
                # A few of them are slips; where it is many, a program dropped the zero.
                bare = [row for row, sent in alone if numbers.lacks_code(sent)]
                if len(bare) >= _MANY * len(rows) > 0:
                    begin = f"begin{'s' * (len(bare) == 1)} with no country's code, nor with the 0 that Excel drops"
                    found.append(self._ask_country(len(rows), bare, begin, cell))
        return found

    def _ask_country(self, looked_at: int, rows: Sequence[Row], what: str, cell: _Cell) -> str:
        return (
            f"{len(rows)} of the first {looked_at} numbers {what}, and nothing says their country "
            f"({self._at(rows[0], cell)}): say it, as in --country ID, or in a column; else the vendor decides whose "
            "they are"
        )

    # --------------------------------------------------------------------------------------------------- the calls

    def _make(self, recipe: _Recipe, row: Row, key: str | None) -> Call[Any] | InputError:
        if row.problem is not None:
            return InputError(row.problem, endpoint=recipe.call.endpoint.name, key=key)
        values = dict(recipe.values)
        problems = []
        bad: dict[str, str] = {}  # images, by their parameter
        for cell in recipe.reading:
            try:
                value = self._value(row, cell, values)
            except InputError as exc:
                problems.append(_explained(recipe, str(exc)))
                continue
            if not isinstance(value, Unreadable):
                if value is not None:
                    values[cell.parameter] = value
            elif cell.kind is Kind.IMAGE:
                bad[cell.parameter] = value
            else:
                problems.append(f"column {cell.column!r} {value}")
        if bad:
            problems += self._all_bad(recipe, bad, values)
        if problems:
            problem = f"{self.unit} {row.line}: {'; '.join(problems)}"
            return InputError(problem, endpoint=recipe.call.endpoint.name, key=key)
        self._tell(row, recipe, values)
        return recipe.call(**values, key=key)

    def _value(self, row: Row, cell: _Cell, values: Mapping[str, Any]) -> Any:
        """What a cell holds for its parameter, None for nothing. `values` has its country. Raises InputError."""
        held = row.cells[cell.place]
        found = text(held)
        if not is_text(found):
            return Unreadable(_NO_TEXT)
        if cell.kind is Kind.IMAGE:
            return self._photo(row, cell, found.strip())
        if not found.strip():
            return Unreadable(_EMPTY) if cell.required else None
        if found == UNCALCULATED:
            return Unreadable(_UNCALCULATED)
        if cell.kind is Kind.NUMBER:
            if isinstance(held, Narrow):
                return Unreadable(f"is a float of 32 bits or fewer, and has lost digits: {_AS_TEXT}")
            country = values.get("country")
            country = None if country is None else texts.country(country, name="country")
            return numbers.normalise(found, name=cell.parameter, country=country)
        if cell.kind is Kind.COUNTRY:
            if found.strip().upper() == _NOT_AVAILABLE:
                return Unreadable("may be Namibia, or not available: write NAM, or leave the cell empty")
            try:
                return texts.written_country(found, name=cell.parameter)
            except InputError:
                if texts.says_none(found):
                    return Unreadable("says that there is none: write the country, or leave the cell empty")
                raise
        return _CHECKS[cell.kind](found, name=cell.parameter)

    def _all_bad(self, recipe: _Recipe, bad: Mapping[str, str], values: dict[str, Any]) -> list[str]:
        """What is wrong with each image of a call; nothing where some of them have yet to be read.

        Then the others are in `values` too, and say what is wrong as they are read.
        """
        cells = {cell.parameter: cell for cell in recipe.cells if cell.kind is Kind.IMAGE}
        said = {
            name: f"{name} {problem}" if isinstance(problem, NotThere) else problem for name, problem in bad.items()
        }
        if len(bad) == len(cells):
            return [
                f"column {cells[name].column!r}{':' if isinstance(bad[name], NotThere) else ''} {problem}"
                for name, problem in said.items()
            ]
        for name, problem in said.items():
            values[name] = _Bad(problem if isinstance(bad[name], NotThere) else f"{name} {problem}")
        return []

    def _photo(self, row: Row, cell: _Cell, said: str) -> ImageSource:
        """The image of a cell, wherever it is, or what is wrong with it."""
        spot = self._pictures.at(row.line, cell.place)
        if spot is None or not (spot.parts or spot.links or spot.problem):
            if said:
                return Unreadable(_UNCALCULATED) if said == UNCALCULATED else self._image(said)
            beside = self._pictures.beside(row.line)
            remark = f" (pictures are on {', '.join(beside)})" if beside else self._pictures.remark
            return Unreadable(f"{_EMPTY}{remark}")
        found = Unreadable(_EMPTY) if _is_no_text(said) else self._image(said)
        links = [self._photos.find(link) for link in spot.links]
        # What cannot be looked at may be what is meant, whatever else is on the cell.
        if isinstance(found, Unseen):
            return found
        if (unseen := next((link for link in links if isinstance(link, Unseen)), None)) is not None:
            return Unreadable(f"has a link that {unseen}")
        linked = next((link for link in links if not isinstance(link, str)), None)
        if not isinstance(found, Unreadable):
            if isinstance(found, Path) and linked is not None and os.path.realpath(found) != os.path.realpath(linked):
                return Unreadable(f"names {found.name!r} and links to {linked.name!r}: leave the one that is meant")
            return found
        if len(spot.parts) > 1:
            return Unreadable(f"has {len(spot.parts)} pictures on it: leave one")
        if spot.parts:
            return self._pictures.open(spot.parts[0])
        if linked is not None:
            return linked
        problem = next(iter(links), None) or spot.problem
        return (
            problem if isinstance(problem, NotThere) else Unreadable(f"has a link that {problem}" if links else problem)
        )

    def _tell(self, row: Row, recipe: _Recipe, values: Mapping[str, Any]) -> None:
        """Count a number of which something is to be told."""
        for cell in recipe.cells:
            if cell.kind is Kind.NUMBER and (remark := numbers.remark(values[cell.parameter])) is not None:
                told = self._told.setdefault(remark, _Told(self._at(row, cell)))
                told.calls += 1

    def _at(self, row: Row, cell: _Cell) -> str:
        return f"{self.unit} {row.line}: column {cell.column!r}"

    def _image(self, cell: str) -> ImageSource:
        """A path, the text if it is base64, or what is wrong with it."""
        if _is_base64(cell):
            return cell
        if images.begins_like_an_image(cell):
            if not perhaps(is_taken, self._folder / cell):
                return cell
            return Unreadable(
                "decodes as a base64 image and also names a file: "
                "put './' before the file's name, or 'data:;base64,' before base64"
            )
        return self._photos.find(cell)


class _Bad:
    """An image that there is not: who reads it is told why, together with what is wrong with the row's other one."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def read(self, size: int, /) -> bytes:  # noqa: ARG002  # a file's signature
        """See `ImageSource`."""
        raise InputError(self._problem)


def _is_no_text(cell: str) -> bool:
    """Whether it is what programs put where a picture is."""
    return not cell or cell[0] in "#="


def _is_base64(cell: str) -> bool:
    return cell[:5].lower() == "data:" or len(cell) > _LONGEST_PATH


def _explained(recipe: _Recipe, problem: str) -> str:
    """`problem`, which speaks of parameters, with the columns to look up."""
    for cell in recipe.cells:
        if cell.column != cell.parameter:
            # Of several images each may have a problem.
            where = f"column {cell.column!r}: "
            problem = "; ".join(
                where + each if each.startswith(f"{cell.parameter} ") else each for each in problem.split("; ")
            )
    return problem


def _country(row: Row, values: Mapping[str, Any], cell: _Cell | None) -> str | None:
    """The country of a row, None if neither `values` nor a `cell` says it."""
    try:
        if (held := values.get("country")) is not None:
            return texts.country(held, name="country")
        return None if cell is None else texts.written_country(text(row.cells[cell.place]).strip(), name="country")
    except InputError:
        return None


def _number(cell: str) -> str | None:
    """The number of a cell as it is sent without a country, None if it is none."""
    try:
        return numbers.normalise(cell)
    except InputError:
        return None


def _of(given: Mapping[str, Any], call: type[Call[Any]], name: str) -> Any:
    """What is given for a parameter of `call`: by endpoint and name, or by name."""
    for full, value in given.items():
        prefix, _, own = full.rpartition(".")
        if own == name and endpoint_of(prefix) is call.endpoint:
            return value
    return given.get(name)


def _check_names(calls: Sequence[type[Call[Any]]], columns: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a name that no endpoint has."""
    known = [(call.endpoint, parameter.name) for call in calls for parameter in call.endpoint.parameters]
    takes = ", ".join(dict.fromkeys(p.name for call in calls for p in call.endpoint.parameters))
    who = " and ".join(call.__name__ for call in calls)
    for name in (*columns, *values):
        prefix, dot, own = name.rpartition(".")
        if not any(own == its and (not dot or endpoint_of(prefix) is endpoint) for endpoint, its in known):
            raise ConfigurationError(f"{who} has no {name!r}: it takes {takes}")


def _place(rows: Rows, column: str, purpose: str) -> int:
    if column not in rows.header:
        raise rows.missing(column, purpose)
    return rows.header.index(column)


def _checked(name: str, kind: Kind, value: object) -> None:
    try:
        _CHECKS[kind](value, name=name)
    except InputError as exc:
        problem = str(exc)
    else:
        return
    raise ConfigurationError(problem)
