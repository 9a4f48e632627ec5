"""From a row to its calls, one for each endpoint, by the endpoints' tables of parameters."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisolution_async.api import Call, ImageSource, Kind, Parameter, endpoint_of
from aisolution_async.bulk.rows import Row, Rows, text
from aisolution_async.bulk.source import Narrow, is_text
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.inputs import images, numbers, texts

_LONGEST_PATH = 4096
_NO_TEXT = "has bytes that are no text as the file is written: save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"
_AS_TEXT = "write the column as text"

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
    it starts there instead. Raises ConfigurationError where these do not fit the endpoints or the file, or where two
    columns may be meant.
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
        self._root = None if images_root is None else _root(images_root)
        self._unit = "row" if rows.format in ("xlsx", "html", "parquet") else "line"
        _check_names(calls, columns, values)
        self._recipes = [self._recipe(call, columns, values, several=len(calls) > 1) for call in calls]
        used = {cell.place for recipe in self._recipes for cell in recipe.cells}
        self._key = self._find_key(used) if key is None else _place(rows, key, "the key")
        self._told: dict[str, _Told] = {}

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
        return [
            f"{told.calls:,} number{'s are' if told.calls > 1 else ' is'} {remark}: {told.first}"
            + (" is the first" if told.calls > 1 else "")
            for remark, told in self._told.items()
        ]

    def make(self, row: Row) -> list[Call[Any] | InputError]:
        """The calls of `row`; where one cannot be made, why."""
        key = (text(row.cells[self._key]) or None) if self._key is not None else None
        if key is not None and not is_text(key):
            problem = f"{self._unit} {row.line}: the key in column {self.key_column!r} {_NO_TEXT}"
            return [InputError(problem, endpoint=recipe.call.endpoint.name) for recipe in self._recipes]
        return [self._make(recipe, row, key) for recipe in self._recipes]

    def explain(self, row: Row, place: int, problem: str) -> str:
        """`problem`, which speaks of a parameter of call `place`, with the line and the column to look up."""
        for cell in self._recipes[place].cells:
            if cell.column != cell.parameter and problem.startswith(f"{cell.parameter} "):
                problem = f"column {cell.column!r}: {problem}"
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
        for cell in recipe.cells:
            if problem is not None:
                break
            found = text(row.cells[cell.place])
            if not found.strip():
                if cell.required:
                    problem = f"{self._at(row, cell)} is empty: fill it in, or take the row out"
                continue
            if (lost := _lost(cell, found, row.cells[cell.place])) is not None:
                problem = f"{self._at(row, cell)} {lost}"
                continue
            if cell.kind is not Kind.IMAGE:
                values[cell.parameter] = found
                number = number or (cell if cell.kind is Kind.NUMBER else None)
                continue
            image = self._image(found.strip())
            if isinstance(image, _Unreadable):
                problem = f"{self._at(row, cell)} {image}"
            else:
                values[cell.parameter] = image
        if problem is not None:
            return InputError(problem, endpoint=recipe.call.endpoint.name, key=key)
        if number is not None:
            self._tell(row, number, values)
        return recipe.call(**values, key=key)

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

    def _image(self, cell: str) -> ImageSource | _Unreadable:
        """A path, or the text if it is base64."""
        if cell[:5].lower() == "data:" or len(cell) > _LONGEST_PATH:
            return cell
        if os.sep == "/" and not _is_there(self._folder / cell):
            if "://" in cell or cell[:5].lower() == "file:":
                return _Unreadable("is a URL: download the image, and name its file")
            cell = cell.replace("\\", "/")  # as Windows writes paths
        path = self._folder / cell
        if images.begins_like_an_image(cell):
            if not _is_there(path):
                return cell
            return _Unreadable(
                "decodes as a base64 image and also names a file: "
                "put './' before the file's name, or 'data:;base64,' before base64"
            )
        return path if self._root is None else self._inside(cell, self._root)

    def _inside(self, cell: str, root: Path) -> Path | _Unreadable:
        leads_out = False
        for folder in (self._folder, root):
            try:
                # What is opened later is what was looked at here, whatever links there are.
                path = (folder / cell).resolve()
            except (OSError, ValueError, RuntimeError):  # a NUL inside; links that go round in a circle
                continue
            if path.is_relative_to(root):
                if leads_out and not _is_there(path):
                    break
                return path
            leads_out = leads_out or _is_there(self._folder / cell)
        return _Unreadable("leads out of the images' folder (--images-root): name a file in it")


def _lost(cell: _Cell, found: str, value: Any) -> str | None:
    """Why the text of a cell is not what somebody wrote, None where it is."""
    if not is_text(found):
        return _NO_TEXT
    if found == "#UNCALCULATED":
        return "is a formula that was never calculated: open and save the file in Excel"
    if cell.kind is Kind.NUMBER and isinstance(value, Narrow):
        return f"is a float of 32 bits or fewer, and has lost digits: {_AS_TEXT}"
    return None


class _Unreadable(str):
    """Why a cell is no image that may be read."""

    __slots__ = ()


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


def _root(folder: Path) -> Path:
    try:
        root = folder.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        root = None
    if root is None or not root.is_dir():
        raise ConfigurationError(f"the images' folder {str(folder)!r} is not there, or no folder: check the path")
    return root


def _is_there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL inside
        return False


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
