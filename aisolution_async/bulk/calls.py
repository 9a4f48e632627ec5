"""From a row to a call of one endpoint, by the endpoint's table of parameters."""

from __future__ import annotations

import binascii
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pybase64

from aisolution_async.api import Call, ImageSource, Kind
from aisolution_async.bulk.rows import Row, Rows
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.inputs import images, numbers, texts

_LONGEST_PATH = 4096

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


class Calls:
    """What makes the call of a row.

    `columns` says which column a parameter is in (a required one: else the column of its own name), `values`
    gives a parameter the same value in all rows, `key` names the column of the calls' keys. Raises
    ConfigurationError where these do not fit the endpoint or the file.
    """

    def __init__(
        self,
        call: type[Call[Any]],
        rows: Rows,
        *,
        columns: Mapping[str, str],
        values: Mapping[str, Any],
        key: str | None,
    ) -> None:
        self._call = call
        self._folder = rows.path.absolute().parent
        self._values = dict(values)
        self._cells: list[_Cell] = []
        self._key = None if key is None else _place(rows, key, "the key")
        parameters = {parameter.name: parameter for parameter in call.endpoint.parameters}
        for name in (*columns, *values):
            if name not in parameters:
                raise ConfigurationError(f"{call.__name__} has no {name!r}: it takes {', '.join(parameters)}")
            if name in columns and (name in values or parameters[name].kind is Kind.FLAG):
                raise ConfigurationError(f"{name} comes from a column or is one value for all rows, not both")
        for name, parameter in parameters.items():
            if name in values:
                if parameter.kind in _CHECKS:
                    _checked(name, parameter.kind, values[name])
            elif name in columns or parameter.required:
                column = columns.get(name, name)
                place = _place(rows, column, f"{name} (say which with --{name.replace('_', '-')} COLUMN)")
                self._cells.append(_Cell(name, parameter.kind, parameter.required, column, place))

    def make(self, row: Row) -> Call[Any] | InputError:
        """The call of `row`, or why there is none."""
        key = (row.cells[self._key] or None) if self._key is not None else None
        problem = row.problem
        values = dict(self._values)
        for cell in self._cells:
            text = row.cells[cell.place]
            if problem is None and text.strip():
                values[cell.parameter] = self._image(text) if cell.kind is Kind.IMAGE else text
                if values[cell.parameter] is None:
                    problem = (
                        f"line {row.line}: column {cell.column!r} decodes as a base64 image and also names a file: "
                        "put './' before the file's name, or 'data:;base64,' before base64"
                    )
            elif problem is None and cell.required:
                problem = f"line {row.line}: column {cell.column!r} is empty: fill it in, or take the row out"
        if problem is not None:
            return InputError(problem, endpoint=self._call.endpoint.name, key=key)
        return self._call(**values, key=key)

    def explain(self, row: Row, problem: str) -> str:
        """`problem`, which speaks of a parameter, with the line and the column that a person can look up."""
        if problem.startswith("line "):
            return problem
        for cell in self._cells:
            if cell.column != cell.parameter and problem.startswith(f"{cell.parameter} "):
                problem = f"column {cell.column!r}: {problem}"
        return f"line {row.line}: {problem}"

    def _image(self, cell: str) -> ImageSource | None:
        """A path, relative to the input file's folder, or the text if it is base64; None if it may be both."""
        text = cell.strip()
        if text[:5].lower() == "data:" or len(text) > _LONGEST_PATH:
            return text
        path = self._folder / text
        if not _begins_like_an_image(text):
            return path
        return None if os.path.lexists(path) else text


def _begins_like_an_image(text: str) -> bool:
    start = "".join(text[:256].split())[:64]
    try:
        return images.is_image(pybase64.b64decode(start + "=" * (-len(start) % 4), validate=True))
    except (binascii.Error, ValueError):
        return False


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
