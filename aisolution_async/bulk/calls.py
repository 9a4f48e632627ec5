"""From a row to its calls, one for each endpoint, by the endpoints' tables of parameters."""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisolution_async.api import Call, ImageSource, Kind, Parameter, endpoint_of
from aisolution_async.bulk.photos import NotThere, Photos, Unreadable, is_there
from aisolution_async.bulk.pictures import Pictures
from aisolution_async.bulk.rows import Row, Rows, text
from aisolution_async.bulk.source import Narrow, is_text
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.inputs import images, numbers, texts

_LONGEST_PATH = 4096
_NO_TEXT = "has bytes that are no text as the file is written: save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"
_AS_TEXT = "write the column as text"
_EMPTY = "is empty: fill it in, or take the row out"
_UNCALCULATED = "is a formula that was never calculated: open and save the file in Excel"

# A value that is the same for all rows is checked once, before any row is read.
_CHECKS: Mapping[Kind, Callable[..., object]] = {
    Kind.NUMBER: numbers.normalise,
    Kind.COUNTRY: texts.country,
    Kind.URL: texts.url,
    Kind.TEXT: texts.text,
    Kind.FLAG: texts.flag,
}

# What people call their columns, without case, spaces and signs. A parameter's own name is always among them.
_NUMBERS = """phone phonenumber phoneno phonenum mobile mobilenumber mobileno mobilephone cell cellphone cellnumber
    cellphonenumber msisdn whatsapp whatsappnumber whatsappno wa wanumber nowa nomorwa nowhatsapp nomorwhatsapp hp nohp
    nomorhp handphone nohandphone nomorhandphone telepon notelepon nomortelepon telp notelp nomortelp telephone
    telephonenumber telephoneno tel telno telnumber contactnumber contactno sdt sodienthoai dienthoai"""
_COUNTRIES = "countrycode countryiso countryiso2 isocountry isocountrycode negara kodenegara quocgia bansa"
_PHOTOS = "image photo picture pic foto imagepath photopath imagefile photofile"
_FACES = """selfie selfiephoto selfieimage selfiepath selfiefile fotoselfie swafoto face facephoto faceimage wajah
    fotowajah portrait"""
_CARDS = """image2 photo2 picture2 foto2 ktp ktpphoto ktpimage ktppath ktpfile fotoktp idcard idcardphoto idcardimage
    idcardpath idphoto idimage idcardfile card cardphoto cardimage cardpath cardfile kartu fotokartu"""
_HELD = """idholding idholdingphoto holdingid holding handheld handheldid handheldidcard handheldktp selfiektp ktpselfie
    selfiewithktp selfiewithid selfiewithidcard selfiewithcard selfieid idselfie fotoselfiektp selfiedenganktp"""
_KEYS = """key id ref reference refno referenceid referencenumber externalid applicantid applicant applicantno
    applicationid applicationno applicationnumber application customerid customerno clientid userid loanid loanno
    caseid caseno recordid rowid"""

_BY_KIND: Mapping[Kind, str] = {Kind.NUMBER: _NUMBERS, Kind.COUNTRY: _COUNTRIES, Kind.IMAGE: f"{_PHOTOS} {_FACES}"}
_BY_NAME: Mapping[str, str] = {
    "facecompare.img1": f"image1 photo1 picture1 foto1 {_PHOTOS} {_FACES}",
    "facecompare.img2": _CARDS,
    "idholding.img": f"{_PHOTOS} {_HELD}",
}


@dataclass(frozen=True, slots=True)
class _Cell:
    """Where one parameter comes from."""

    parameter: str
    kind: Kind
    required: bool
    column: str
    place: int


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How the call of one endpoint is made of a row."""

    call: type[Call[Any]]
    values: Mapping[str, Any]
    cells: Sequence[_Cell]


@dataclass(slots=True)
class _Told:
    """What is to be told of some numbers: how many there are, and in which row the first one is."""

    first: str
    calls: int = 0


class Calls:
    """What makes the calls of a row, one for each of `calls`.

    `columns` says which column a parameter is in, `values` gives a parameter the same value in all rows; both are by
    the parameter's name (`"number"`), or by endpoint and name where two endpoints differ (`"id-holding.img"`). A
    column that nothing is said of is found by the usual names, if it has to be there or says the country. `key`
    names the column of the calls' keys; else that is found too. A relative path of an image starts at the input
    file's folder. With `images_root`, no image outside of that folder is read, and a relative path that leads out of
    it starts there instead; `photos.py` says what a photo may be called, and when it is searched for. Raises
    ConfigurationError where these do not fit the endpoints or the file, or where two columns may be meant.
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
    ) -> None:
        self._rows = rows
        self._folder = Path.cwd() if str(rows.path) == "-" else rows.path.absolute().parent
        self._photos = Photos(self._folder, images_root)
        self._unit = "row" if rows.format in ("xlsx", "html", "parquet") else "line"
        _check_names(calls, columns, values)
        self._recipes = [self._recipe(call, columns, values, several=len(calls) > 1) for call in calls]
        used = {cell.place for recipe in self._recipes for cell in recipe.cells}
        self._key = self._find_key(used) if key is None else _place(rows, key, "the key")
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

    def lines(self) -> list[str]:
        """What the input is, what of it is used, and what of that nobody sees, in lines for people."""
        rows = self._rows
        found = [f"{rows.about}: {self.chosen}"]
        found += rows.notes
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
            problem = f"{self._unit} {row.line}: the key in column {self.key_column!r} {_NO_TEXT}"
            return [InputError(problem, endpoint=recipe.call.endpoint.name) for recipe in self._recipes]
        return [self._make(recipe, row, key) for recipe in self._recipes]

    def explain(self, row: Row, place: int, problem: str) -> str:
        """`problem`, which speaks of a parameter of call `place`, with the line and the column to look up."""
        for cell in self._recipes[place].cells:
            if cell.column != cell.parameter:
                # Of several images each may have a problem.
                where = f"column {cell.column!r}: "
                problem = "; ".join(
                    where + each if each.startswith(f"{cell.parameter} ") else each for each in problem.split("; ")
                )
        return f"{self._unit} {row.line}: {problem}"

    # ------------------------------------------------------------------------------------------------ the columns

    def _recipe(
        self, call: type[Call[Any]], columns: Mapping[str, str], values: Mapping[str, Any], *, several: bool
    ) -> _Recipe:
        command = call.endpoint.command
        fixed, cells = {}, []
        for parameter in call.endpoint.parameters:
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
            if column is None and (parameter.required or kind is Kind.COUNTRY):
                if not parameter.required and not several:
                    option = f"--{name.replace('_', '-')}-column COLUMN"
                column = self._find(call, parameter, option)
            if column is not None:
                place = _place(self._rows, column, f"{name} (say which with {option})")
                cells.append(_Cell(name, kind, parameter.required, column, place))
        return _Recipe(call, fixed, cells)

    def _find(self, call: type[Call[Any]], parameter: Parameter, option: str) -> str | None:
        """The column of a parameter by the usual names; its own name if there is none and it has to be there."""
        usual = _BY_NAME.get(f"{call.endpoint.name}.{parameter.name}") or _BY_KIND.get(parameter.kind, "")
        found = self._named(f"{parameter.name} {usual}")
        if len(found) > 1:
            raise ConfigurationError(
                f"{self._file}: {' and '.join(map(repr, found))} may both be {parameter.name}: say which with {option}"
            )
        return found[0] if found else parameter.name if parameter.required else None

    def _find_key(self, used: Iterable[int]) -> int | None:
        found = [place for name in self._named(_KEYS) if (place := self._rows.header.index(name)) not in used]
        return found[0] if len(found) == 1 else None

    def _named(self, names: str) -> list[str]:
        wanted = {_bare(name) for name in names.split()}
        return [name for name in self._rows.header if _bare(name) in wanted]

    @property
    def _file(self) -> str:
        return repr(str(self._rows.path))

    # --------------------------------------------------------------------------------------------------- the calls

    def _make(self, recipe: _Recipe, row: Row, key: str | None) -> Call[Any] | InputError:
        problem, number = row.problem, None
        values = dict(recipe.values)
        bad: dict[str, str] = {}  # images, by their parameter
        for cell in recipe.cells:
            if problem is not None:
                break
            found = text(row.cells[cell.place])
            if cell.kind is Kind.IMAGE:
                image = self._photo(row, cell, found.strip()) if is_text(found) else Unreadable(_NO_TEXT)
                if isinstance(image, Unreadable):
                    bad[cell.parameter] = image
                else:
                    values[cell.parameter] = image
                continue
            if not found.strip():
                if cell.required:
                    problem = f"{self._at(row, cell)} {_EMPTY}"
                continue
            if (lost := _lost(cell, found, row.cells[cell.place])) is not None:
                problem = f"{self._at(row, cell)} {lost}"
                continue
            values[cell.parameter] = found
            number = number or (cell if cell.kind is Kind.NUMBER else None)
        if problem is None and bad:
            problem = self._all_bad(recipe, row, bad, values)
        if problem is not None:
            return InputError(problem, endpoint=recipe.call.endpoint.name, key=key)
        if number is not None:
            self._tell(row, number, values)
        return recipe.call(**values, key=key)

    def _all_bad(self, recipe: _Recipe, row: Row, bad: Mapping[str, str], values: dict[str, Any]) -> str | None:
        """What is wrong with all the images of a call; None where some of them have yet to be read.

        Then the others are in `values` too, and say what is wrong as they are read.
        """
        cells = {cell.parameter: cell for cell in recipe.cells if cell.kind is Kind.IMAGE}
        said = {
            name: f"{name} {problem}" if isinstance(problem, NotThere) else problem for name, problem in bad.items()
        }
        if len(bad) == len(cells):
            first, *others = (
                f"column {cells[name].column!r}{':' if isinstance(bad[name], NotThere) else ''} {problem}"
                for name, problem in said.items()
            )
            return "; ".join([f"{self._unit} {row.line}: {first}", *others])
        for name, problem in said.items():
            values[name] = _Bad(problem if isinstance(bad[name], NotThere) else f"{name} {problem}")
        return None

    def _photo(self, row: Row, cell: _Cell, said: str) -> ImageSource:
        """The image of a cell, wherever it is, or what is wrong with it."""
        spot = self._pictures.at(row.line, cell.place)
        if spot is None or not (spot.parts or spot.links or spot.problem):
            if said:
                return Unreadable(_UNCALCULATED) if said == "#UNCALCULATED" else self._image(said)
            beside = self._pictures.beside(row.line)
            remark = f" (pictures are on {', '.join(beside)})" if beside else self._pictures.remark
            return Unreadable(f"{_EMPTY}{remark}")
        found = Unreadable(_EMPTY) if _is_no_text(said) else self._image(said)
        links = [self._photos.find(link) for link in spot.links]
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

    def _tell(self, row: Row, cell: _Cell, values: dict[str, Any]) -> None:
        """Count a number of which something is to be told. It is read here, and found as it is sent when it is sent."""
        country = values.get("country")
        try:
            number = numbers.normalise(
                values[cell.parameter], country=None if country is None else texts.country(country, name="country")
            )
        except InputError:
            return  # whoever sends it says so
        values[cell.parameter] = number
        if (remark := numbers.remark(number)) is not None:
            told = self._told.setdefault(remark, _Told(self._at(row, cell)))
            told.calls += 1

    def _at(self, row: Row, cell: _Cell) -> str:
        return f"{self._unit} {row.line}: column {cell.column!r}"

    def _image(self, cell: str) -> ImageSource:
        """A path, the text if it is base64, or what is wrong with it."""
        if _is_base64(cell):
            return cell
        if images.begins_like_an_image(cell):
            if not is_there(self._folder / cell):
                return cell
            return Unreadable(
                "decodes as a base64 image and also names a file: "
                "put './' before the file's name, or 'data:;base64,' before base64"
            )
        return self._photos.find(cell)


def _lost(cell: _Cell, found: str, value: Any) -> str | None:
    """Why the text of a cell is not what somebody wrote, None where it is."""
    if not is_text(found):
        return _NO_TEXT
    if found == "#UNCALCULATED":
        return _UNCALCULATED
    if cell.kind is Kind.NUMBER and isinstance(value, Narrow):
        return f"is a float of 32 bits or fewer, and has lost digits: {_AS_TEXT}"
    return None


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


def _bare(name: str) -> str:
    """A column's name without what people vary: case, spaces, underscores and other signs."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))


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
