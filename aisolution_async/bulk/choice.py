"""Which column holds what, where the user does not say: by its name, and where no name says it, by its cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aisolution_async.api import Call, Kind, Parameter
from aisolution_async.bulk.rows import Row, Rows, text
from aisolution_async.bulk.source import shown
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.inputs import columns, numbers
from aisolution_async.inputs.columns import Fit, Role

ROWS_AHEAD = 200
"""Rows that are looked at before anything is sent."""
_CHARACTERS_AHEAD = 4 * 1024 * 1024
_MOST = 0.8
"""Of the filled cells, so many are numbers in a column that no name says to be one."""
_FEWEST = 3
"""Bare digits are only known for phone numbers by comparison."""

_ROLES = {
    "facecompare.img1": Role.FIRST_PHOTO,
    "facecompare.img2": Role.CARD_PHOTO,
    "idholding.img": Role.HELD_PHOTO,
}
_ROLES_BY_KIND = {Kind.NUMBER: Role.NUMBER, Kind.COUNTRY: Role.COUNTRY, Kind.IMAGE: Role.PHOTO}

CountryOf = Callable[[Row], str | None]
"""The country that a row says, None where it says none."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A column, and why it is meant. `told` says so where nobody could know it by the name."""

    column: str
    why: str
    told: str | None = None


class Choice:
    """What chooses among the columns of `rows`; those of `taken` are used for something else."""

    def __init__(self, rows: Rows, taken: Collection[str]) -> None:
        self._rows = rows
        self._taken = taken

    def ahead(self) -> Sequence[Row]:
        """The first rows."""
        return self._rows.ahead(ROWS_AHEAD, _CHARACTERS_AHEAD)

    def of(self, call: type[Call[Any]], parameter: Parameter, option: str, country_of: CountryOf) -> Chosen | None:
        """The column of a parameter, None if there is none. `option` is how the user would say it.

        Raises ConfigurationError where two columns may be meant, and where none looks like a phone number.
        """
        role = _ROLES.get(f"{call.endpoint.name}.{parameter.name}") or _ROLES_BY_KIND.get(parameter.kind)
        fits = self._fits(role, parameter.name)
        if role is Role.NUMBER:
            return self._number(parameter.name, fits, option, country_of)
        found = fits[Fit.SURE]
        if not found:
            found = [name for name in fits[Fit.WEAK] if role is not Role.CARD_PHOTO or not self._holds_ids(name)]
        return self._one(parameter.name, found, option) if found else None

    def key(self, used: Iterable[str]) -> str | None:
        """The column of the keys, None if there is none, or if there may be two."""
        fits = self._fits(Role.KEY, None)
        for fit in (Fit.SURE, Fit.WEAK):
            found = [name for name in fits[fit] if name not in used]
            if found:
                return found[0] if len(found) == 1 else None
        return None

    def _fits(self, role: Role | None, own: str | None) -> dict[Fit, list[str]]:
        """The columns by how well their names fit; a parameter's own name always does."""
        found: dict[Fit, list[str]] = {fit: [] for fit in Fit}
        for name in self._rows.header:
            is_own = own is not None and columns.bare(name) == columns.bare(own)
            fit = Fit.SURE if is_own else Fit.UNKNOWN if role is None else columns.fit(name, role)
            found[fit].append(name)
        return found

    def _one(self, parameter: str, found: Sequence[str], option: str) -> Chosen:
        if len(found) > 1:
            raise self._asked(parameter, found, option)
        return Chosen(found[0], "by its name")

    def _asked(self, parameter: str, found: Sequence[str], option: str, what: str = "") -> ConfigurationError:
        may = "may both be" if len(found) == 2 else "may be" if len(found) == 1 else "may each be"
        names = " and ".join(map(shown, found))
        return ConfigurationError(f"{self._file}: {names} {may} {parameter}{what}: say which with {option}")

    # ------------------------------------------------------------------------------------------------- phone numbers

    def _number(self, name: str, fits: dict[Fit, list[str]], option: str, country_of: CountryOf) -> Chosen:
        sure = fits[Fit.SURE]
        if len(sure) == 1:
            return Chosen(sure[0], "by its name")
        if sure:
            return self._by_cells_of_the_named(name, sure, option, country_of)
        weak = [column for column in fits[Fit.WEAK] if self._looks(column, country_of).may_be]
        if weak:
            return self._one(name, weak, option)
        for candidates in (fits[Fit.LIKELY], [*fits[Fit.WEAK], *fits[Fit.UNKNOWN]]):
            if (chosen := self._by_cells(name, candidates, option, country_of)) is not None:
                return chosen
        others = [*fits[Fit.OTHER], *fits[Fit.LIKELY]]
        if others := [column for column in others if self._looks(column, country_of).possible]:
            raise self._asked(name, others, option, ", or somebody else's")
        problem = f"{self._file}: no column looks like a phone number (say which with {option}): these are the columns:"
        raise self._rows.unfit(problem)

    def _by_cells(self, name: str, candidates: Sequence[str], option: str, country_of: CountryOf) -> Chosen | None:
        """The one column that holds phone numbers, whatever it is named."""
        if any(_is_number(column) for column in self._rows.header):
            return None  # the first line is no header: who takes it for one loses a row
        looks = {column: self._looks(column, country_of) for column in candidates if column not in self._taken}
        found = [column for column in looks if looks[column].is_surely]
        if len(found) > 1:
            raise self._asked(name, found, option, ", by their cells")
        if not found:
            return None
        filled = looks[found[0]].filled
        cells = f"{looks[found[0]].numbers} of its first {filled} cells are" if filled > 1 else "its one cell is"
        why = f"by its cells: no column is named like a phone number, and {cells} one"
        return Chosen(found[0], why, f"{name} is read from {shown(found[0])} {why}; {option} says another column")

    def _by_cells_of_the_named(self, name: str, sure: Sequence[str], option: str, country_of: CountryOf) -> Chosen:
        """Of more columns that are named like a phone number, the one that has any."""
        held = [column for column in sure if self._looks(column, country_of).possible]
        if len(held) != 1:
            raise self._asked(name, sure, option)
        others = " and ".join(shown(column) for column in sure if column != held[0])
        have = "has" if len(sure) == 2 else "have"
        why = f"by its name and its cells: in the first {len(self.ahead())} rows, {others} {have} no phone number"
        return Chosen(held[0], why, f"{name} is read from {shown(held[0])} {why}; {option} says another column")

    def _looks(self, column: str, country_of: CountryOf) -> _Looks:
        place = self._rows.header.index(column)
        cells = [(row, text(row.cells[place]).strip()) for row in self.ahead() if row.problem is None]
        cells = [(row, cell) for row, cell in cells if cell]
        said = [numbers.mobile_of(cell, country=country_of(row)) for row, cell in cells]
        found = [each for each in said if each is not None]
        return _Looks(
            len(cells),
            sum(_is_number(cell) for _, cell in cells),
            [number for number, _ in found],
            sum(by_itself for _, by_itself in found),
        )

    def _holds_ids(self, column: str) -> bool:
        """Whether the cells of a column are numbers as on a card, and no photos."""
        place = self._rows.header.index(column)
        cells = [text(row.cells[place]).strip(" '\"") for row in self.ahead() if row.problem is None]
        filled = [cell.replace(" ", "").replace("-", "").replace(".", "") for cell in cells if cell]
        return bool(filled) and sum(map(str.isdecimal, filled)) * 2 > len(filled)

    @property
    def _file(self) -> str:
        return repr(str(self._rows.path))


def _is_number(text: str) -> bool:
    """Whether it can be a phone number of some country."""
    try:
        return bool(numbers.normalise(text))
    except InputError:
        return False


class _Looks:
    """What the first cells of a column look like: how many are filled, can be phone numbers, and surely are."""

    def __init__(self, filled: int, possible: int, found: Sequence[str], by_themselves: int) -> None:
        self.filled = filled
        self.possible = possible
        self.numbers = len(found)
        self.may_be = possible * 2 >= filled
        # Ids that were given one after the other are in some range as well; an office's line stands in each row.
        ascends = all(one < other for one, other in pairwise(found))
        are_told = by_themselves * 2 >= self.numbers or (self.numbers >= _FEWEST and not ascends)
        is_one = self.numbers >= _FEWEST and len(set(found)) == 1
        self.is_surely = 0 < filled * _MOST <= self.numbers and are_told and not is_one
