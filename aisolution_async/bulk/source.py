"""What all readers of rows share: a row, what a cell may be, opening a file, and errors that say what to do."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Final

from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.names import exists, is_file, is_folder

MAX_CELL = 64 * 1024 * 1024
"""Characters of one cell: a cell may hold an image as base64."""
MAX_LINE = 4 * MAX_CELL
MAX_VALUES = 1_000_000
"""Values of one line, in lists or between delimiters: each takes many times its room in the file."""
MAX_NAMES = 16 * 1024 * 1024
"""Characters of all names of columns."""
MAX_COLUMNS = 16_384
"""As many as a worksheet can have."""

# Of the cells that a row has more than the header, as they are quoted: how many, and characters of each.
_MOST_SURPLUS = 20
_LONGEST_SURPLUS = 40
_MOST_NAMES = 40

_MAGIC = {
    b"PK\x03\x04": "an Excel workbook (or another ZIP file)",
    b"\xd0\xcf\x11\xe0": "an old or an encrypted Excel workbook",
    b"PAR1": "a Parquet file",
    b"PARE": "an encrypted Parquet file",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
}
_COMPRESSED = "compressed"


class UnreadableInputError(AISolutionError):
    """The input cannot be read any further than it was."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


class Narrow(float):
    """A float that its file holds in so few bits that it may have lost digits."""

    __slots__ = ()


UNCALCULATED: Final = "#UNCALCULATED"
"""The cell of a formula that no program has calculated since it was written."""

MISSING: Final = Missing.MISSING
"""The cell of a JSONL row that lacks the key; one whose value is null is None."""


# Nobody changes one; it is not frozen, as there are very many, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Row:
    """One row: `line` is where a person finds it in the file, `cells` are as many as the header has.

    `line` is the line on which it begins in CSV and JSONL, the row's number in a worksheet (where the header is
    row 1, if nothing stands above it), and the number of the row, counted from 1, in Parquet. `problem` says why the
    row cannot be used, None where it can. `raw` is the line as it stands in the file, where no cells could be made
    of it. `is_total`: it is a total below the others, and nobody is to be asked of it.
    """

    line: int
    cells: list[Any] = field(repr=False)
    problem: str | None = None
    raw: str | None = field(default=None, repr=False)
    is_total: bool = False


class Reader(ABC):
    """The rows of one format. A reader is what `Rows` is in front of, and says the same of itself."""

    format: str
    about: str
    header: list[str]
    schema: Any = None
    delimiter: str | None = None
    encoding: str | None = None
    bom: bytes = b""
    errors: str = "strict"
    total: int | None = None
    hidden: int | None = 0
    hidden_columns: Sequence[str] = ()
    sheet: str | None = None
    """The worksheet that is read."""
    numbers: Sequence[int] = ()
    """Of a worksheet, where in it each column is, from 1."""
    others: Sequence[str] = ()
    """The other sheets of a workbook."""
    notes: Sequence[str] = ()
    """What a person is to be told of how it was read, a line each."""
    left_out = 0
    """How many rows of empty cells stood behind the last row, once it was read: those are none."""
    blank = 0
    """How many stood among the rows, and are none either, once all were read."""

    @abstractmethod
    def __iter__(self) -> Iterator[Row]:
        """The rows, one after the other. Raises UnreadableInputError where the file cannot be read on."""

    def count(self, given_up: Callable[[], bool]) -> int | None:
        """How many rows there are, None if `given_up()` became true meanwhile. Uses the rows up."""
        if self.total is not None:
            return None if given_up() else self.total
        rows = 0
        for _ in self:
            rows += 1
            if given_up():
                return None
        return rows

    def close(self) -> None:  # noqa: B027  # a reader that keeps no file open has nothing to do
        """Close the file."""


def open_bytes(path: Path) -> BinaryIO:
    """The file, open. Raises ConfigurationError."""
    try:
        if exists(path) and not is_file(path) and not is_folder(path):
            raise ConfigurationError(f"the input {str(path)!r} is no regular file: save what it gives to a file first")
        return path.open("rb")
    except FileNotFoundError:
        problem = "does not exist: check the path"
    except IsADirectoryError:
        problem = "is a directory: name a file in it"
    except PermissionError:
        problem = "may not be read: check the file's permissions"
    except (OSError, ValueError) as exc:
        problem = f"cannot be read ({getattr(exc, 'strerror', None) or type(exc).__name__})"
    raise ConfigurationError(f"the input {str(path)!r} {problem}")


def what_it_is(head: bytes) -> str | None:
    """What a file that begins so is, if it is none of text."""
    for start, what in _MAGIC.items():
        if head.startswith(start):
            return what
    return None


def remedy(what: str, save_as: str) -> str:
    """What to do about a file that is `what`."""
    return "unpack it first" if what.startswith(_COMPRESSED) else save_as


def check_names(names: Sequence[str], where: str, label: Callable[[int], str] = str) -> None:
    """Raise ConfigurationError for columns that cannot be told apart by their names.

    `where` says whose they are, and `label` what a person calls the one at a place, counted from 1.
    """
    if len(names) > MAX_COLUMNS:
        raise ConfigurationError(f"{where}: {len(names)} columns, of which there may be {MAX_COLUMNS}")
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise ConfigurationError(f"{where}: column {label(place)} has no name: name or remove it")
        if name in seen:
            raise ConfigurationError(f"{where}: two columns are named {shown(name)}: rename one of them")
        if not is_text(name):
            raise ConfigurationError(f"{where}: the name of column {label(place)} is no text: rename it")
        seen.add(name)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: bytes that were no text, and half a surrogate pair, cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def surplus(cells: Sequence[str], what: str = "more cell") -> str:
    """Cells that have no column, for a problem's text; shortened, as one may be an image."""
    quoted = [
        repr(cell if len(cell) <= _LONGEST_SURPLUS else f"{cell[: _LONGEST_SURPLUS - 1]}…")
        for cell in cells[:_MOST_SURPLUS]
    ]
    rest = ", …" if len(cells) > _MOST_SURPLUS else ""
    return f"{len(cells)} {what}{'s' if len(cells) > 1 else ''}: {', '.join(quoted)}{rest}"


def shown(name: str) -> str:
    """A column's name, for an error; … where it looks like data."""
    # Where the file has no header, its first row is taken for one: numbers and images are not to be shown.
    return "…" if len(name) > 40 or re.search(r"\d{5}", re.sub(r"[\s().+-]", "", name)) else repr(name)


def some(names: Sequence[str]) -> str:
    """The names, for an error."""
    return ", ".join([shown(name) for name in names[:_MOST_NAMES]] + ["…"] * (len(names) > _MOST_NAMES))
