"""The mend loop: what people make of the rows with problems goes into the one output.

The file of problems says of each row which one of the input it is. Where somebody changed cells of it, these stand in
the place of the input's from then on. They are kept in OUTPUT.mended, safe on the disk before anything is sent: a line
for each row, with what the row in the input was then. A row of the input that somebody changed afterwards is taken as
it is in the input; where nobody can tell which of two changes is the later one, nothing is sent, and both are named.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aisolution_async.bulk.disk import beside, digest_of, put_aside, put_safely
from aisolution_async.bulk.encoders import plain_text, unicode_text
from aisolution_async.bulk.origins import origin_of, rows_of_note
from aisolution_async.bulk.pictures import refuse_pictures
from aisolution_async.bulk.results import defused
from aisolution_async.bulk.rows import MISSING, Row, Rows, text
from aisolution_async.errors import ConfigurationError

_NAMED = 5  # rows in an error, or a line for people
_MOMENTS: Mapping[str, Any] = {"date": date, "datetime": datetime, "time": time}
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_ROUNDED_DIGITS = 10  # that a program leaves of more, at least
_ISO, _ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), 10
_NOON, _HALVES = 12, ("am", "pm")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_KEPT_DIGITS = 15  # by Excel, of a number
_CUT = 32_000  # characters of a text that a workbook may not hold


@dataclass(frozen=True, slots=True)
class Correction:
    """What somebody made of cells of a row. `was` is what the row of the input was known by, over these `columns`."""

    was: str
    columns: Sequence[str]
    cells: Mapping[str, Any]


class Shown:
    """What the rows of a file of problems were in the input, to be kept in its note."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = [*columns]
        self._rows = array("q")
        self._marks = bytearray()

    def add(self, row: int, mark: str) -> None:
        """Note a row."""
        self._rows.append(row)
        self._marks += bytes.fromhex(mark)

    def lines(self) -> Iterator[str]:
        """The lines of the note."""
        yield json.dumps(self._columns)
        for place, row in enumerate(self._rows):
            yield json.dumps([row, self._marks[place * _SIZE : (place + 1) * _SIZE].hex()])


class Mended:
    """The corrections of an output's rows. `path` is where they are kept, None where there is nothing to keep them by.

    `is_new`: those that are there are forgotten. Raises ConfigurationError where they cannot be read.
    """

    def __init__(self, path: Path | None = None, *, is_new: bool = False) -> None:
        self.taken: dict[Path, str | None] = {}
        """The files of problems that were read, and what each is known by."""
        self._path = path
        self._is_new = is_new
        self._found = {} if path is None or is_new else _read(path)
        self._marks: dict[int, str] = {}  # of rows that were corrected
        self._stale: dict[int, None] = {}  # rows that were changed in the input since
        self._met: set[int] = set()
        self._changed: dict[str, int] = {}  # by column, a row where something else stands in it now
        self._own: dict[Path, Sequence[str]] = {}  # columns of files of problems that the list has not
        self._aside: list[str] = []

    def over(self, header: Sequence[str], rows: Iterator[Row]) -> Iterator[Row]:
        """The rows of the input, with the cells that were corrected."""
        return (self._over(header, row) for row in rows) if self._found else rows

    def mark(self, row: Row) -> str:
        """What the row is known by that stands in the input in the place of `row`."""
        return self._marks.get(row.line) or _mark(row.cells)

    def keep(self) -> None:
        """Write down what is new, safe on the disk. Raises ConfigurationError."""
        if self._path is None or not (self._is_new or self.taken):
            return
        try:
            for mend, columns in self._own.items():
                names = ", ".join(map(repr, columns))
                self._aside.append(
                    f"column {names} of {str(mend)!r} is none of the list: the file as it was is kept in "
                    f"{str(put_aside(mend))!r}"
                )
            self._own.clear()
            if self._found:
                put_safely(self._path, self._lines())
            else:
                self._path.unlink(missing_ok=True)
        except OSError as exc:
            problem = exc.strerror or type(exc).__name__
        else:
            return
        raise ConfigurationError(f"{str(self._path)!r}, what was mended, cannot be written: {problem}; make room there")

    def check_key(self, column: str | None) -> None:
        """Raise ConfigurationError where a row got the key of `column` of another one, in a file of problems."""
        row = None if column is None else self._changed.get(column)
        if row is not None:
            raise ConfigurationError(
                f"{' and '.join(repr(str(path)) for path in self.taken)}: row {row} has another key in column "
                f"{column!r} than in the list: is the number of the row right? Mend it, or change the key in the list; "
                "nothing was sent"
            )

    def line(self) -> str | None:
        """What a person is to be told beforehand; None if nothing was mended."""
        if not self._found or self._path is None:
            return None
        what = "1 row is" if len(self._found) == 1 else f"{len(self._found):,} rows are"
        where = " and ".join(repr(str(mend)) for mend in self.taken)
        return f"{what} taken as mended{f' in {where}' if where else ' before'} (kept in {str(self._path)!r})"

    def told(self, source: Path, *, is_read: bool) -> list[str]:
        """What a person is to be told of corrections that went nowhere; `is_read` if all rows were read."""
        gone = [row for row in self._found if row not in self._met] if is_read else []
        found = [*self._aside]
        if self._stale:
            found.append(
                f"{_rows(self._stale)} of {str(source)!r} changed after being mended in the file of problems: what the "
                "list says now is taken"
            )
        if gone:
            found.append(f"{_rows(gone)} of {str(source)!r} had been mended, and is not there any more")
        return found

    def _over(self, header: Sequence[str], row: Row) -> Row:
        correction = self._found.get(row.line)
        if correction is None:
            return row
        self._met.add(row.line)
        places = {name: place for place, name in enumerate(header)}
        if _mark_over(places, row, correction.columns) != correction.was:
            if any(
                not is_same(row.cells[places[name]], cell) for name, cell in correction.cells.items() if name in places
            ):
                self._stale[row.line] = None
            return row
        self._marks[row.line] = _mark(row.cells)
        cells = [*row.cells]
        for name, cell in correction.cells.items():
            if name in places:
                cells[places[name]] = cell
        return replace(row, cells=cells, problem=None, raw=None)

    # -------------------------------------------------------------------------------------- from a file of problems

    def take(self, mend: Path, others: Sequence[Path], open_input: Callable[[], Rows]) -> None:
        """Take the corrections from the file `mend`. `others` are files of problems whose notes may know its rows.

        Raises ConfigurationError for a row that cannot be told from others, or was changed in the input too.
        """
        digest = digest_of(mend)
        refuse_pictures(mend)
        with closing(sqlite3.connect("", isolation_level=None)) as db, open_input() as rows:
            db.execute("CREATE TABLE mend (row INTEGER PRIMARY KEY, cells TEXT, was TEXT)")
            db.execute("BEGIN")
            bad, header = _gather(db, mend, _added(mend, others), rows, own := dict[str, None]())
            columns = next((found for path in (mend, *others) if (found := _join_marks(db, path))), [])
            places = {name: place for place, name in enumerate(rows.header)}
            for name in columns or places:
                if name in places and name not in header:  # it may have got another name, with what was mended
                    raise ConfigurationError(
                        f"{str(mend)!r} has no column {name!r}, as {str(rows.path)!r} has: bring it back under that "
                        "name; nothing was sent"
                    )
            for row in rows:
                found = db.execute("SELECT cells, was FROM mend WHERE row = ?", (row.line,)).fetchone()
                if found is not None:
                    db.execute("DELETE FROM mend WHERE row = ?", (row.line,))
                    cells, was = json.loads(found[0]), found[1]
                    if problem := self._compare(rows, places, row, cells, None if was is None else (was, columns)):
                        bad.append(problem)
            bad += [f"row {row} is none of {str(rows.path)!r}" for (row,) in db.execute("SELECT row FROM mend LIMIT 9")]
        if bad:
            raise ConfigurationError(
                f"{str(mend)!r}: {'; '.join(bad[:_NAMED])}{'; …' if len(bad) > _NAMED else ''}: mend that, or take "
                "the row out of it; nothing was sent"
            )
        self.taken[mend] = digest
        if own and mend.absolute() in (other.absolute() for other in others):  # which are replaced
            self._own[mend] = [*own]

    def _compare(
        self,
        rows: Rows,
        places: Mapping[str, int],
        row: Row,
        said: Mapping[str, Any],
        shown: tuple[str, Sequence[str]] | None,
    ) -> str | None:
        """Take what somebody changed of a row; what is wrong, if it cannot be taken."""
        now = self._over(rows.header, row).cells
        cells = {name: _unpacked(cell) for name, cell in said.items()}
        cells = {name: cell for name, cell in cells.items() if not is_same(now[places[name]], cell)}
        if not cells:
            return None
        names = ", ".join(map(repr, cells))
        if shown is None:
            return f"row {row.line} ({names}) was not among the rows with problems: mend it in {str(rows.path)!r}"
        if _mark_over(places, row, shown[1]) != shown[0]:
            return (
                f"row {row.line} ({names}) was changed here and in {str(rows.path)!r} too, and nobody can tell "
                "which is meant: leave one"
            )
        if rows.schema is not None:
            for name, cell in cells.items():
                kind = rows.schema.field(places[name]).type
                try:
                    cells[name] = _typed(cell, kind)
                except ValueError:
                    return f"row {row.line}: column {name!r} of {str(rows.path)!r} holds {kind} only"
        for name in cells:
            if text(now[places[name]]).strip():
                self._changed.setdefault(name, row.line)
        before = self._found.get(row.line)
        if before is not None and row.line not in self._stale:
            cells = {**before.cells, **cells}
        self._found[row.line] = Correction(_mark(row.cells), rows.header, cells)
        self._stale.pop(row.line, None)
        return None

    def _lines(self) -> Iterator[str]:
        columns: Sequence[str] = ()
        for row, correction in sorted(self._found.items()):
            if correction.columns != columns:
                columns = correction.columns
                yield json.dumps({"columns": [*columns]})
            cells = {name: _packed(cell) for name, cell in correction.cells.items()}
            yield json.dumps({"row": row, "was": correction.was, "cells": cells})


def path_of(output: Path) -> Path:
    """Where the corrections of an output's rows are."""
    return beside(output, f"{output.name}.mended")


def is_same(old: Any, new: Any) -> bool:
    """Whether a cell is what it was, whatever the format, or the program that saved it, made of it."""
    was, now = text(old), text(new)
    if now in (was, defused(was), unicode_text(was)) or _with_lines(now) == _with_lines(was):
        return True
    if was in ("true", "false"):
        return now.lower() == was
    if isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=1e-14)
    if isinstance(old, datetime) and isinstance(new, datetime):
        return old.tzinfo == new.tzinfo and abs(old - new) < timedelta(seconds=1)
    if len(was) > _CUT:
        return now.endswith("…") and was.startswith(now[:-1]) and len(now) > _CUT
    if (moment := _moment(old)) is not None:
        return _is_moment(moment, now)
    if _NUMBER.fullmatch(was) is None:
        return False
    return _is_spoiled(old, was, now) or (isinstance(new, int | float) and float(was) == new)


def _with_lines(found: str) -> str:
    return found.replace("\r\n", "\n").replace("\r", "\n")


def _is_spoiled(old: Any, was: str, now: str) -> bool:
    """Whether that is what a spreadsheet makes of a number in CSV: 812 of 0812, 6.28E+12 of 6281387300008."""
    whole, shown = was.lstrip("+"), now.replace(",", ".").lstrip("+")
    if _NUMBER.fullmatch(shown) is None:
        return False
    before, after = Decimal(whole), Decimal(shown)
    _, figures, exponent = after.as_tuple()
    assert isinstance(exponent, int)
    if "e" in shown.lower():  # the half of its last digit is what it may be away
        return abs(before - after) <= Decimal((0, (5,), exponent - 1))
    digits = whole.lstrip("0")
    if digits.isdigit() and len(digits) > _KEPT_DIGITS:
        lost = len(digits) - _KEPT_DIGITS
        return len(shown) == len(digits) and shown.endswith("0" * lost) and abs(before - after) < 10**lost
    if "." not in whole:
        return shown == digits and len(now) < len(was)
    if before == after:
        return before != before.to_integral_value()
    is_rounded = abs(before - after) <= Decimal((0, (5,), exponent - 1)) and len(shown) < len(whole)
    return is_rounded and (isinstance(old, float | Decimal) or len(figures) >= _ROUNDED_DIGITS)


def _moment(old: Any) -> date | time | None:
    """The date or the time that a cell holds, or says in ISO 8601."""
    if isinstance(old, date | time):
        return old
    if isinstance(old, str) and _ISO.match(old):
        with suppress(ValueError):
            return datetime.fromisoformat(old) if len(old) > _ISO_DATE else date.fromisoformat(old)
    return None


def _is_moment(moment: date | time, now: str) -> bool:
    """Whether `now` shows the moment, in the way of any country, as far as it shows it."""
    words: list[str] = re.findall(r"[0-9]+|[a-z]+", re.sub("(?<=[0-9])t(?=[0-9])", " ", now.lower()))
    words = [str(_MONTHS.index(word[:3]) + 1) if word[:3] in _MONTHS else word for word in words]
    if getattr(moment, "tzinfo", None) is not None or not all(word.isdigit() for word in words if word not in _HALVES):
        with suppress(ValueError):
            return datetime.fromisoformat(now) == moment
        return False
    found = [int(word) for word in words if word.isdigit()]
    if isinstance(moment, date):
        years, month, day = (moment.year, moment.year % 100), moment.month, moment.day
        ways = [way for year in years for way in ((year, month, day), (day, month, year), (month, day, year))]
        if tuple(found[:3]) not in ways:
            return False
        del found[:3]
    if not isinstance(moment, datetime | time):
        return not any(found)  # a date is midnight to some
    hour = moment.hour % 12 or 12 if any(word in _HALVES for word in words) else moment.hour
    if ("am" if moment.hour >= _NOON else "pm") in words:
        return False
    parts = (hour, moment.minute, moment.second)
    return len(found) != 1 and tuple(found[:3]) == parts[: len(found)] and (bool(found) or not any(parts))


# ----------------------------------------------------------------------------------------------- what rows are known by

_SIZE = 8


def _mark(cells: Iterable[Any]) -> str:
    return blake2b(json.dumps([plain_text(cell) for cell in cells]).encode(), digest_size=_SIZE).hexdigest()


def _mark_over(places: Mapping[str, int], row: Row, columns: Sequence[str]) -> str:
    """What a row is known by, over the columns that there were."""
    return _mark(row.cells[places[name]] if name in places else MISSING for name in columns)


def _rows(numbers: Iterable[int]) -> str:
    found = [*map(str, numbers)]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"row{'s' * (len(found) > 1)} {', '.join(found[:_NAMED])}{more}"


# --------------------------------------------------------------------------------------------------------- the files


def _read(path: Path) -> dict[int, Correction]:
    found: dict[int, Correction] = {}
    columns: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for said in map(json.loads, file):
                if "columns" in said:
                    columns = said["columns"]
                else:
                    cells = {name: _unpacked(cell) for name, cell in said["cells"].items()}
                    found[int(said["row"])] = Correction(said["was"], columns, cells)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        raise ConfigurationError(
            f"{str(path)!r} cannot be read, which has what was mended: bring it back, or take it away to mend again"
        ) from None
    return found


def _added(mend: Path, others: Sequence[Path]) -> Sequence[str]:
    """The columns that the file of problems has besides the input's."""
    origins = (origin_of(path) for path in (mend, *others))
    return next((origin.added for origin in origins if origin is not None), ())


def _gather(
    db: sqlite3.Connection, mend: Path, added: Sequence[str], rows: Rows, own: dict[str, None]
) -> tuple[list[str], Sequence[str]]:
    """Put the rows of a file of problems into `db`, and people's own columns into `own`.

    Returns what is wrong with some, and the columns.
    """
    bad = []
    with Rows(mend) as found:
        if len(added) < 2 or added[0] not in found.header:
            name = added[0] if len(added) > 1 else "row"
            raise ConfigurationError(
                f"{str(mend)!r} has no column {name!r}, which says what row of {str(rows.path)!r} each is: bring it "
                "back, or move the file away"
            )
        place = found.header.index(added[0])
        columns = [(name, n) for n, name in enumerate(found.header) if name in rows.header and name not in added]
        more = [n for n, name in enumerate(found.header) if name not in rows.header and name not in added]
        if not columns:
            raise ConfigurationError(f"{str(mend)!r} has no column of {str(rows.path)!r}: bring one back")
        for row in found:
            if not any(text(cell).strip() for cell in row.cells):
                continue
            own.update((found.header[n], None) for n in more if text(row.cells[n]).strip())
            number = text(row.cells[place]).strip()
            if row.is_total and not number.isdigit():
                continue
            if row.problem is not None and not row.is_total:
                bad.append(row.problem)
            elif not re.fullmatch(r"[0-9]{1,18}", number):
                bad.append(
                    f"its row {row.line} has {number[:20]!r} in column {added[0]!r}, which is no number of a row"
                )
            else:
                cells = json.dumps({name: _packed(row.cells[n]) for name, n in columns})
                before = db.execute("SELECT cells FROM mend WHERE row = ?", (int(number),)).fetchone()
                if before is None:
                    db.execute("INSERT INTO mend VALUES (?, ?, NULL)", (int(number), cells))
                elif before[0] != cells:
                    bad.append(f"row {number} is there twice, with different cells")
    return bad, found.header


def _join_marks(db: sqlite3.Connection, path: Path) -> list[str]:
    """Put what the note of `path` says of rows beside them; the columns that it speaks of, if it has rows."""
    try:
        said = rows_of_note(path)
        columns = next(said, None)
        if isinstance(columns, list):
            db.executemany("UPDATE mend SET was = ? WHERE row = ?", ((str(mark), int(row)) for row, mark in said))
            return [*map(str, columns)]
    except (OSError, ValueError, TypeError):
        pass
    return []


def _packed(cell: Any) -> Any:
    """A cell as JSON has it, so that it becomes one of its kind again."""
    if cell is MISSING or cell is None or isinstance(cell, str | bool | int):
        return None if cell is MISSING else cell
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, date | time):
        return {type(cell).__name__: cell.isoformat()}
    return {"value": json.loads(json.dumps(cell, default=text))} if isinstance(cell, list | dict) else text(cell)


def _unpacked(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    [(kind, said)] = cell.items()
    return _MOMENTS[kind].fromisoformat(said) if kind in _MOMENTS else said


def _typed(cell: Any, kind: Any) -> Any:
    """A cell as a column of Parquet holds it. Raises ValueError."""
    import pyarrow  # noqa: PLC0415  # heavy, and an extra

    if cell is None or cell == "":
        return "" if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) else None
    try:
        return pyarrow.scalar(text(cell)).cast(kind).as_py()
    except (pyarrow.ArrowException, TypeError) as exc:
        raise ValueError(str(exc)) from None
