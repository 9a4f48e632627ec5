"""Rows out: a workbook, CSV, TSV, JSONL or Parquet, under a name that says so until the file is whole.

Rows go to `OUTPUT.part` as they come, each whole or not at all, and straight to the operating system, so that
even a killed process loses none that it had; those of Parquet, which has no single rows, in groups, and those of a
workbook as JSONL, of which it is made in the end (`books.py`). Once all are there, the file is renamed to OUTPUT.
What a file holds depends on its rows alone: not on when, or in how many runs, they came.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from aisolution_async import locks
from aisolution_async.bulk.excel import shielded
from aisolution_async.bulk.results import bare, defused
from aisolution_async.bulk.rows import MISSING, text
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place, place_of
from aisolution_async.names import sync_names

if TYPE_CHECKING:
    from aisolution_async.bulk.books import BookPlan, Workbook

STDOUT = "-"
"""The name that stands for standard output: JSONL."""

GROUP_ROWS = 10_000
"""Rows of a row group of Parquet, at most."""
GROUP_BYTES = 32 * 1024 * 1024
"""Size of the texts of a row group, more or less: a cell may hold an image."""

DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""What stands between the cells, by the ending of a file of text."""
_LINES = (".jsonl", ".ndjson")
BOOK = ".xlsx"
"""The ending of a workbook."""
ENDINGS = (BOOK, *DELIMITERS, *_LINES, ".parquet")
"""What an output file may end in."""

ASIDE = "_bulk"
"""The folder beside results that has what belongs to them, where it is there: whoever reads all results skips it."""

_LONGEST_SIDE = 65_536
_TAKEN = ".taken.jsonl"
_TAKEN_OVER = "another run writes it now"

_QUOTED = ";\t\r\n"
_NEEDS = {
    BOOK: ("xlsxwriter", "workbooks need xlsxwriter: pip install 'aisolution-async[cli]'"),
    ".parquet": ("pyarrow", "Parquet needs pyarrow: pip install 'aisolution-async[cli]'"),
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file of cells is written: as another one that it is to be like.

    `errors` is the codec's handler under which bytes that are no text go out as they came in, `bom` what the file
    begins with. `excel`: cells are written so that Excel shows them as they are.
    """

    delimiter: str
    encoding: str = "utf-8"
    errors: str = "surrogateescape"
    bom: bytes = b""
    excel: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file of problems comes from: the run's `ledger` and `output`, and its `digest` as it was written.

    `added` are the columns that the rows of the input got there, first the one with the number of the row.
    `other` is the ledger of the file that stood there before, where a run was killed while it replaced that by its own,
    and nobody can tell any more which of the two this is: it was changed since. Else None.
    """

    ledger: Place
    output: Path
    digest: str
    added: tuple[str, ...] = ("problem",)
    other: Place | None = None

    def is_as_written(self, path: Path) -> bool:
        """Whether nobody changed the file `path` since it was written. Raises OSError."""
        return _digest(path) == self.digest


def beside(output: Path, name: str) -> Path:
    """The file of that name that belongs to `output`: beside it, or in the folder that is there for such files."""
    here, aside = output.with_name(name), output.parent / ASIDE / name
    return aside if aside.parent.is_dir() and not os.path.lexists(here) else here


def origin_of(path: Path) -> Origin | None:
    """What the file of problems `path` remembers, in PATH.of beside it; None where there is no such file.

    Raises ConfigurationError where there is one that cannot be read: to go without it is to pay twice.
    """
    side = _side(path)
    if not os.path.lexists(side):
        return None
    try:
        return _origin(path)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise ConfigurationError(
        f"{str(side)!r} cannot be read, which says what ledger {str(path)!r} belongs to: "
        "take it away, and name the ledger"
    )


def check_stdout() -> None:
    """Raise ConfigurationError where standard output is closed, or open for reading only."""
    number, is_closed = -1, sys.stdout is None
    with suppress(OSError, ValueError, AttributeError):  # of a stream that is no file, which will do
        number = sys.stdout.fileno()
    if number >= 0:
        try:
            os.write(number, b"")
        except OSError as exc:
            is_closed = exc.errno == errno.EBADF
    if is_closed:
        raise ConfigurationError("standard output is closed, where results were to go: name a file, or open it")


def _origin(path: Path) -> Origin | None:
    side = _side(path)
    if not os.path.lexists(side):
        return None
    with side.open("rb") as file:
        said = json.loads(file.readline(_LONGEST_SIDE))
    found, before = _read_origin(path.parent, said), said.get("before")
    if before is None or not path.is_file():
        return found
    # A run was killed while it gave the file its name: it is the new one, or still the one before.
    former, digest = _read_origin(path.parent, before), _digest(path)
    if digest == former.digest:
        return former
    return (
        found
        if digest == found.digest or former.ledger == found.ledger
        else dataclasses.replace(found, other=former.ledger)
    )


def _read_origin(folder: Path, said: Mapping[str, Any]) -> Origin:
    added = tuple(map(str, said.get("added", ("problem",))))
    place = place_of(said["ledger"])
    ledger = folder / place if isinstance(place, Path) else place
    return Origin(ledger, folder / said["output"], str(said["digest"]), added)


def _note(path: Path, origin: Origin, before: Origin | None, rows: Iterable[str]) -> None:
    """Write PATH.of, with what is said of its `rows` in the lines behind the first."""
    folder = path.parent

    def said(origin: Origin) -> dict[str, Any]:
        ledger = relative(folder, origin.ledger) if isinstance(origin.ledger, Path) else str(origin.ledger)
        output = relative(folder, origin.output)
        return {"ledger": ledger, "output": output, "digest": origin.digest, "added": origin.added}

    whole = said(origin) | ({} if before is None else {"before": said(before)})
    put_safely(_side(path), chain((json.dumps(whole),), rows))


def rows_of_note(path: Path) -> Iterator[Any]:
    """What the note of the file of problems `path` says of its rows, value by value. Raises OSError, ValueError."""
    with _side(path).open(encoding="utf-8") as file:
        file.readline()
        yield from map(json.loads, file)


def put_safely(path: Path, lines: Iterable[str]) -> None:
    """Write a private file at one stroke; it is safe on the disk when this returns. Raises OSError."""
    new = path.with_name(f"{path.name}.part")
    with new.open("w", encoding="utf-8") as file:
        _make_private(file.fileno())
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_names(path.parent)


def put_aside(path: Path) -> Path:
    """A private copy, beside it, of a file that is going to be replaced; safe on the disk. Raises OSError."""
    places = (path.with_name(f"{path.stem}-before-{number}{path.suffix}") for number in count(1))
    place = next(place for place in places if not os.path.lexists(place))
    with place.open("xb") as new, path.open("rb") as old:
        _make_private(new.fileno())
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())
    sync_names(path.parent)
    return place


def _side(path: Path) -> Path:
    return path.parent / f"{path.name}.of"


def digest_of(path: Path) -> str | None:
    """What a file is known by; None where it cannot be read."""
    with suppress(OSError):
        return _digest(path)
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def relative(folder: Path, path: Path) -> str:
    """`path` as it is to be found from `folder`, so that both may be moved together."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return str(path.absolute())


class Output:
    """The output file of one run.

    It is a workbook, CSV, TSV, JSONL or Parquet by its ending; "-" is standard output. `source` is the file that it
    must not be, None where there is none. `private`: nobody else may read it, whatever the umask. `defuse`: put an
    apostrophe in front of cells that a spreadsheet would take for a formula, in CSV and TSV. `like`: how cells are
    written, where it is not as usual.

    Raises ConfigurationError where it cannot be written; nothing is touched then.
    """

    def __init__(
        self,
        path: Path,
        source: Path | None,
        *,
        private: bool = False,
        defuse: bool = True,
        like: Dialect | None = None,
    ) -> None:
        self.path = path
        self._private = private
        self.part = path.with_name(path.name + ".part")
        self.rows = 0
        self.streams = str(path) == STDOUT
        """Whether it is standard output: then there is no file, and nothing to go on from."""
        self.part_is_idle = False
        """Whether the part file that is there is known to hold nothing."""
        self.part_is_taken = False
        """Whether the answers in the part file that is there are taken over."""
        self._replaces = False
        self._made: Path | None = None  # the workbook, before it has its name
        self._unmade: UnwrittenError | None = None  # why there is none
        self._whole: Path | None = None  # where the rows stay that a workbook cannot hold
        self._file: _Appender | _Stdout | None = None
        self._form: _Format
        self._defuse = defuse
        self._like = like
        if self.streams:
            check_stdout()
        else:
            self._check(source)

    @property
    def as_parquet(self) -> bool:
        """Whether columns have types here."""
        return not self.streams and self.path.suffix.lower() == ".parquet"

    @property
    def as_book(self) -> bool:
        """Whether it is a workbook."""
        return not self.streams and self.path.suffix.lower() == BOOK

    @property
    def between(self) -> str | None:
        """What stands between the cells, None where nothing does."""
        ending = self.path.suffix.lower()
        return self._like.delimiter if self._like is not None else DELIMITERS.get(ending)

    def check_free(self, why: str = "", hint: str = "") -> None:
        """Raise ConfigurationError if there is something that may have been paid for; `why` says more of it.

        `hint` is what else to do about a part file.
        """
        for file, what in ((self.path, "results of an earlier run"), (self.part, "what a stopped run had")):
            is_part = file is self.part
            if self.streams or not os.path.lexists(file) or (is_part and (self.part_is_idle or self.part_is_taken)):
                continue
            also = hint.format(str(file)) if is_part else ""
            raise ConfigurationError(
                f"{str(file)!r} exists already and may hold {what}{why}: {also}move it away, or say --overwrite"
            )

    def check_room(self, rows: int | None) -> None:
        """Raise ConfigurationError where the format has no room for so many rows."""
        if self.as_book:
            from aisolution_async.bulk.books import check_room  # noqa: PLC0415  # only where there is a workbook

            check_room(repr(str(self.path)), rows)

    def check_unchanged(self) -> None:
        """Raise ConfigurationError if there is a file of problems that is not as the last run wrote it."""
        if self.streams or not os.path.lexists(self.path):
            return
        with suppress(ConfigurationError, OSError):
            origin = origin_of(self.path)
            if origin is not None and origin.is_as_written(self.path):
                return
        raise ConfigurationError(
            f"{str(self.path)!r} was changed since it was written, or is no file of an earlier run: move it away, "
            "or say --overwrite"
        )

    def open(
        self,
        names: Sequence[str],
        *,
        replace: bool,
        takes_over: bool = False,
        types: Sequence[Any] | None = None,
        plan: BookPlan | None = None,
    ) -> None:
        """Make the file, with a header where its format has one; `replace` what is there, but no living run's.

        `takes_over`: another run's too, whose list this one has now.

        `types` are the columns' for Parquet: an Arrow type, or bool, int, float, str, or [{name: type}]; else all is
        text. `plan` says what a workbook has besides its rows.
        """
        self._form = self._new_form(names, types, plan)
        if self.streams:
            self._file = _Stdout()
            return
        self._replaces = replace
        try:
            if replace or self.part_is_idle or self.part_is_taken:
                _remove_idle(self.part, takes_over=takes_over)
            mode = 0o600 if self._private else 0o666
            number = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
            if self._private:
                _make_private(number)
            self._file = _Appender(number)
            _lock(self._file)
            self._file.append(self._form.start())
        except BlockingIOError:  # another place would have another ledger, and pay for all of it too
            problem = "another run is writing it; wait until that has ended"
        except OSError as exc:
            problem = f"{_reason(exc)}; choose another place"
        else:
            return
        self.close()
        raise ConfigurationError(f"the output {str(self.part)!r} cannot be written: {problem}")

    def write(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> None:
        """Add a row: the input's cells, then the results. Raises UnwrittenError.

        `formats` are the number formats that the cells had, for a workbook.
        """
        self._put(lambda: self._form.add(cells, values, formats))
        self.rows += 1

    def make(self, given_up: Callable[[], bool] = lambda: False, notes: Sequence[str] = ()) -> list[str]:
        """All rows are there: make a workbook of them, which takes its time; nothing for other formats. Blocks.

        `notes` go into its summary. What is to be told to people. Raises UnwrittenError, and `books.Abandoned` where
        `given_up()` became true meanwhile: the rows are in the part file.
        """
        if self._unmade is not None:
            raise self._unmade
        if not self.as_book or self._made is not None:
            return []
        assert self._file is not None
        if not self._is_ours:
            self._unmade = UnwrittenError(_TAKEN_OVER, [])
            raise self._unmade
        form, folder = cast("Workbook", self._form), self._folder
        try:
            self._file.sync()
            made, cut = form.make(self.part, folder, given_up, notes)
            if self._private:
                made.chmod(0o600)
            with made.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as exc:
            shutil.rmtree(folder, ignore_errors=True)
            self._unmade = UnwrittenError(_reason(exc), [])
            raise self._unmade from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._made = made
        if not cut:
            return []
        self._whole = self.path.with_name(f"{_rescued(self.path)}long.jsonl")
        return [f"{cut:,} results are longer than a cell of Excel's, and were cut: {str(self._whole)!r} has them"]

    @property
    def _folder(self) -> Path:
        return self.path.with_name(f"{self.path.name}.making")

    def finish(
        self,
        ledger: Place | None = None,
        of: Path | None = None,
        added: tuple[str, ...] = ("problem",),
        rows: Callable[[], Iterable[str]] = tuple,
        was: str | None = None,
    ) -> None:
        """All rows are there: give the file its name. Raises UnwrittenError; what was written is in the part file.

        A file of problems is `of` an output, and notes beside it what `ledger` its rows are in, if any: before it has
        its name, so that nobody finds it there and asks its rows without their ledger. The note has the columns that
        were `added`, and what is said of its `rows`. `was` is the digest of the file that stood there as it was read:
        one that somebody changed since is not replaced.
        """
        assert self._file is not None
        self._put(self._form.end)
        self.make()
        made = self._made or self.part
        try:
            self._file.sync()
            is_ours = self._is_ours
            self._file.close()
            if not self.streams:
                if not self._replaces and os.path.lexists(self.path):
                    raise FileExistsError(0, "a file of that name has appeared meanwhile")
                note = None
                if was is not None and self.path.is_file() and _digest(self.path) != was:
                    raise FileExistsError(0, "somebody changed it meanwhile: run it again, and that is taken in")
                if of is not None and ledger is not None:
                    note = Origin(ledger, of, _digest(made), added)
                    _note(self.path, note, _origin(self.path) if self.path.is_file() else None, rows())
                if not is_ours:
                    raise FileNotFoundError(0, _TAKEN_OVER)
                made.replace(self.path)
                sync_names(self.path.parent)
                if made is not self.part:
                    self._put_part_away()
                if note is not None:
                    _note(self.path, note, None, rows())
                elif of is not None:
                    _side(self.path).unlink(missing_ok=True)
        except OSError as exc:
            raise UnwrittenError(_reason(exc), []) from None

    def _put_part_away(self) -> None:
        """The workbook has its name. Its rows stay only where it could not hold all of them."""
        if self._whole is None:
            self.part.unlink()
        else:
            self.part.replace(self._whole)
        sync_names(self.path.parent)
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove(self) -> None:
        """Take away what an earlier run wrote, and its note."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            _side(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the rows in the part file, or nothing where there is none. Idempotent."""
        if self._file is not None:
            with suppress(OSError):
                self._file.append(self._form.end())
            is_ours = self._is_ours
            self._file.close()
            self._file = None
            if self._made is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if not self.rows and not self.streams and is_ours:
                with suppress(OSError):
                    self.part.unlink(missing_ok=True)

    @property
    def _is_ours(self) -> bool:
        """Whether the part file is still the one that was opened here: a run that took over has removed that."""
        if not isinstance(self._file, _Appender):
            return True
        try:
            return os.fstat(self._file.fileno()).st_nlink > 0
        except OSError:
            return False  # another machine removed it
        except ValueError:
            return True  # it is closed, and was looked at before

    def _put(self, what: Callable[[], bytes]) -> None:
        """Append what there is to be appended; where that cannot be, give back all rows that are not in the file."""
        assert self._file is not None
        try:
            if data := what():
                self._file.append(data)
                self._form.settle()
        except OSError as exc:
            lost = self._form.pending()
            self.rows -= max(0, len(lost) - 1)
            self._form = _Ended()
            raise UnwrittenError(_reason(exc), lost) from None

    def _new_form(self, names: Sequence[str], types: Sequence[Any] | None, plan: BookPlan | None) -> _Format:
        ending = ".jsonl" if self.streams else self.path.suffix.lower()
        if ending == BOOK:
            from aisolution_async.bulk import books  # noqa: PLC0415  # only where there is a workbook

            return books.Workbook(names, plan or books.BookPlan())
        if ending in _LINES:
            return _JsonLines(names)
        if ending == ".parquet":
            return _Table(names, types or [str] * len(names))
        return _Cells(names, self._like or Dialect(DELIMITERS[ending]), defuse=self._defuse)

    def _check(self, source: Path | None) -> None:
        path, shown = self.path, repr(str(self.path))
        if path.suffix.lower() not in ENDINGS:
            hint = " (a spreadsheet opens .xlsx)" if path.suffix.lower() in (".xlsm", ".xlsb", ".xls", ".ods") else ""
            raise ConfigurationError(f"the output {shown} must end in {', '.join(ENDINGS)}: that says the format{hint}")
        package, remedy = _NEEDS.get(path.suffix.lower(), ("", ""))
        if package and find_spec(package) is None:
            raise ConfigurationError(f"the output {shown}: {remedy}")
        try:
            if path.is_dir():
                raise ConfigurationError(f"the output {shown} is a directory: name a file in it")
            if not path.parent.is_dir():
                raise ConfigurationError(f"the output's folder {str(path.parent)!r} does not exist: make it first")
            if source is not None and path.exists() and source.exists() and path.samefile(source):
                raise ConfigurationError(f"the output {shown} is the input: give it another name")
            if path.exists() and not path.is_file():
                raise ConfigurationError(f"the output {shown} is not a regular file: give it another name")
        except (OSError, ValueError) as exc:
            problem = _reason(exc)
        else:
            return
        raise ConfigurationError(f"the output {shown} cannot be written: {problem}")


class UnwrittenError(OSError):
    """A row cannot be written. `rows` are those that are not in the file, as lines of JSONL."""

    def __init__(self, reason: str, rows: list[bytes]) -> None:
        super().__init__(0, reason)
        self.rows = rows


# ---------------------------------------------------------------------------------------------------- the formats


class _Format(Protocol):
    """A format: rows to bytes."""

    def start(self) -> bytes:
        """What the file begins with."""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:
        """Take a row; what is to be appended now. Raises OSError for what the format cannot hold."""

    def end(self) -> bytes:
        """What the file ends with."""

    def settle(self) -> None:
        """All that was handed out is in the file."""

    def pending(self) -> list[bytes]:
        """The rows that may not be in the file, as lines of JSONL."""


class _Cells:
    """CSV and its like."""

    def __init__(self, names: Sequence[str], like: Dialect, *, defuse: bool) -> None:
        self._names = list(names)
        self._like = like
        self._defuse = defuse
        self._last: tuple[Sequence[Any], Sequence[Any]] = ((), ())

    def start(self) -> bytes:
        return self._like.bom + self._encoded(self._line(map(self._cell, self._names)))

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        self._last = (cells, values)
        return self._encoded(self._line([*map(self._cell, cells), *map(self._value, values)]))

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """One row at a time is on its way."""

    def pending(self) -> list[bytes]:
        return [as_json(self._names, *self._last)]

    def _cell(self, value: Any) -> str:
        return self._safe(value, "" if value is MISSING else text(value))

    def _value(self, value: Any) -> str:
        return self._safe(value, bare(value))

    def _safe(self, value: Any, found: str) -> str:
        if self._like.excel and (shield := shielded(value, found, self._like.delimiter)) is not found:
            return shield
        return defused(found) if self._defuse else found

    def _line(self, cells: Iterable[str]) -> str:
        line = io.StringIO()
        # The csv module quotes what has a character of its line end: so newlines, and what else a spreadsheet
        # may take for the end of a cell, whatever is behind it for a formula.
        quoted = _QUOTED.replace(self._like.delimiter, "")
        csv.writer(line, delimiter=self._like.delimiter, lineterminator=quoted).writerow(cells)
        return line.getvalue()[: -len(quoted)] + "\n"

    def _encoded(self, line: str) -> bytes:
        with suppress(UnicodeEncodeError):
            return line.encode(self._like.encoding, self._like.errors)
        # A problem's text may have characters that the input's encoding lacks.
        return b"".join(map(self._encoded_char, line))

    def _encoded_char(self, char: str) -> bytes:
        with suppress(UnicodeEncodeError):
            return char.encode(self._like.encoding, self._like.errors)
        return char.encode("ascii", "backslashreplace").decode().encode(self._like.encoding)


class _JsonLines:
    """JSONL."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._last = b""

    def start(self) -> bytes:
        return b""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        self._last = as_json(self._names, cells, values)
        return self._last

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """One row at a time is on its way."""

    def pending(self) -> list[bytes]:
        return [self._last]


class _Table:
    """Parquet, a row group at a time. When a group ends depends on the rows alone."""

    def __init__(self, names: Sequence[str], types: Sequence[Any]) -> None:
        import pyarrow  # noqa: PLC0415  # heavy, and an extra
        from pyarrow import parquet  # noqa: PLC0415  # as above

        self._arrow = pyarrow
        self._names = list(names)
        kinds = [_arrow_type(kind) for kind in types]
        self._schema = pyarrow.schema([*zip(self._names, kinds, strict=True)])
        self._is_text = [kind == pyarrow.string() for kind in kinds]
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(pyarrow.PythonFile(self._sink, mode="w"), self._schema)
        self._rows: list[tuple[Sequence[Any], Sequence[Any]]] = []
        self._size = 0
        self._ended = False

    def start(self) -> bytes:
        return self._sink.take()

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        self._rows.append((cells, values))
        self._size += sum(len(value) for value in (*cells, *values) if isinstance(value, str | bytes))
        return self._group() if len(self._rows) >= GROUP_ROWS or self._size >= GROUP_BYTES else b""

    def end(self) -> bytes:
        if self._ended:
            return b""
        data = self._group() if self._rows else b""
        self._ended = True
        self._writer.close()
        return data + self._sink.take()

    def settle(self) -> None:
        self._rows.clear()
        self._size = 0

    def pending(self) -> list[bytes]:
        return [as_json(self._names, *row) for row in self._rows]

    def _group(self) -> bytes:
        columns = zip(*((*cells, *values) for cells, values in self._rows), strict=True)
        arrays = []
        for field, is_text, column in zip(self._schema, self._is_text, columns, strict=True):
            held = [None if value is MISSING else value for value in column]
            if is_text:
                held = [None if value is None else unicode_text(text(value)) for value in held]
            try:
                arrays.append(self._arrow.array(held, type=field.type))
            except (self._arrow.ArrowException, ValueError, TypeError, OverflowError):
                problem = f"the values of column {field.name!r} are not of one type"
            else:
                continue
            raise OSError(0, f"{problem}: choose JSONL")
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema), row_group_size=GROUP_ROWS)
        return self._sink.take()


class _Ended:
    """What is left of a format when its file takes no more."""

    def start(self) -> bytes:
        return b""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        raise OSError(0, "it takes no more rows")

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """Nothing is on its way."""

    def pending(self) -> list[bytes]:
        return []


class _Sink(io.RawIOBase):
    """Where Parquet is written to, to be taken away."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self._size += len(self._chunks[-1])
        return len(self._chunks[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """What was written since the last time."""
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


def _arrow_type(kind: Any) -> Any:
    import pyarrow  # noqa: PLC0415  # heavy, and an extra

    if isinstance(kind, list):
        (fields,) = kind
        return pyarrow.list_(pyarrow.struct([(name, _arrow_type(held)) for name, held in fields.items()]))
    simple = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    simple |= {date: pyarrow.date32(), datetime: pyarrow.timestamp("us")}
    return simple[kind] if isinstance(kind, type) else kind


def as_json(names: Sequence[str], cells: Sequence[Any], values: Sequence[Any]) -> bytes:
    """One line of JSONL. A byte that was no text is a lone surrogate there: \\udc80 to \\udcff."""
    record = {
        name: value if type(value) in (str, int, bool) else _plain(value)
        for name, value in zip(names, (*cells, *values), strict=True)
        if value is not MISSING
    }
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    """`value` as what JSON knows."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return value if value is None or isinstance(value, str | int | float) else text(value)


def plain_text(value: Any) -> str:
    """The text of a cell, the same before it was written as JSON and after."""
    return value if isinstance(value, str) else text(None if value is MISSING else _plain(value))


def unicode_text(found: str) -> str:
    """`found`, with what is no Unicode text written out: Parquet and workbooks take nothing else."""
    return found if found.isascii() else found.encode("utf-8", "backslashreplace").decode()


# ------------------------------------------------------------------------------------------------------ the files


class Rescue:
    """Where rows go that the output cannot take: a private file beside it or in the temporary folder, else stderr."""

    def __init__(self, output: Path | None = None) -> None:
        self.rows = 0
        self.places: list[str] = []
        """Where rows were put."""
        self._files: list[tuple[str, _Appender]] = []
        for folder in (*(() if output is None else (output.absolute().parent,)), None):
            prefix = _rescued(output) if folder is not None and output is not None else _rescued_elsewhere(output)
            with suppress(OSError):
                number, name = tempfile.mkstemp(prefix=prefix, suffix=".jsonl", dir=folder)
                _make_private(number)
                self._files.append((name, _Appender(number)))

    def write(self, line: bytes) -> None:
        """Keep a row."""
        self.rows += 1
        for name, file in self._files:
            with suppress(OSError):
                file.append(line)
                self._note(name)
                return
        sys.stderr.write(line.decode())
        self._note("stderr")

    def close(self) -> None:
        """Close the files, safe on the disk; no empty one stays."""
        for name, file in self._files:
            with suppress(OSError):
                file.sync()
            file.close()
            if name in self.places:
                sync_names(Path(name).parent)
            else:
                Path(name).unlink(missing_ok=True)

    def _note(self, place: str) -> None:
        if place not in self.places:
            self.places.append(place)


def keep(output: Path, lines: Iterable[bytes]) -> Path:
    """Put rows, as lines of JSONL, into a new file of rescued rows beside `output`. Raises ConfigurationError.

    They are safe on the disk when this returns.
    """
    try:
        folder = output.absolute().parent
        number, name = tempfile.mkstemp(prefix=_rescued(output), suffix=".jsonl", dir=folder)
        file = _Appender(number)
        try:
            for line in lines:
                file.append(line)
            file.sync()
        finally:
            file.close()
        sync_names(folder)
    except OSError as exc:
        problem = _reason(exc)
    else:
        return Path(name)
    raise ConfigurationError(
        f"answers that only {str(output)!r}.part has cannot be kept beside it: {problem}; make room there"
    )


def rescues_of(output: Path) -> list[Path]:
    """The files of rows that were rescued from `output`: beside it, and in the temporary folder.

    Others write there too: of what is in it, only files count that are the user's own and that nobody else may read.
    """
    found: list[Path] = []
    for folder, begins in (
        (output.absolute().parent, _rescued(output)),
        (Path(tempfile.gettempdir()), _rescued_elsewhere(output)),
    ):
        with suppress(OSError):  # a folder that may be written and not be listed
            names = os.listdir(folder)  # noqa: PTH208  # each shard of a folder looks through all names, and few are meant
            paths = sorted(folder / name for name in names if name.startswith(begins) and name.endswith(".jsonl"))
            found += [path for path in paths if begins == _rescued(output) or _is_own(path)]
    return found


def put_away(rescue: Path, output: Path) -> None:
    """The rows in this file of rescued rows are in the finished output: let its name say so.

    It stays, as the ledger does not have them. From the temporary folder, which is emptied now and then, it comes to
    the output. Files that are elsewhere stay as they are. Raises OSError.
    """
    folder, begins, long = output.absolute().parent, _rescued(output), f"{_rescued(output)}long.jsonl"
    is_beside = rescue.absolute().parent == folder and rescue.name.startswith(begins)
    is_elsewhere = rescue.name.startswith(_rescued_elsewhere(output))
    if rescue.name.endswith(_TAKEN) or rescue.name == long or not (is_beside or is_elsewhere):
        return
    if is_beside:
        rescue.replace(rescue.with_name(f"{rescue.stem}{_TAKEN}"))
        sync_names(folder)
        return
    with rescue.open("rb") as lines:
        kept = keep(output, lines)
    kept.replace(kept.with_name(f"{kept.stem}{_TAKEN}"))
    sync_names(folder)
    rescue.unlink()


def _is_own(path: Path) -> bool:
    found = path.lstat()
    mine = getattr(os, "getuid", lambda: found.st_uid)()
    return stat.S_ISREG(found.st_mode) and found.st_uid == mine and (os.name == "nt" or not found.st_mode & 0o077)


def _rescued(output: Path) -> str:
    return f"{output.name}.rescued-"


def _rescued_elsewhere(output: Path | None) -> str:
    """What the name of such a file in the temporary folder begins with: it says of which output it is."""
    if output is None:
        return "aisolution-rescued-"
    name = hashlib.blake2b(os.fsencode(output.absolute()), digest_size=8).hexdigest()
    return f"aisolution-rescued-{name}-"


class _Appender:
    """A file that grows by whole lines only."""

    def __init__(self, number: int) -> None:
        self._file = open(number, "wb", buffering=0)  # noqa: SIM115  # closed by close()
        self._size = 0

    def append(self, line: bytes) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # On a full disk half a line may have been taken.
            with suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._size += len(line)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


class _Stdout:
    """Standard output, as a file that is appended to."""

    def append(self, line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    def sync(self) -> None:
        """It is whoever reads it who keeps it."""

    def close(self) -> None:
        """It is not ours to close."""


_BINARY = getattr(os, "O_BINARY", 0)
# Neither what a link leads to, nor to wait for somebody at the other end of a pipe.
_LOOK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _remove_idle(part: Path, *, takes_over: bool) -> None:
    """Remove what a stopped run left. Raises BlockingIOError if that run is still alive, unless this one takes over."""
    try:
        file = open(part, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | _LOOK))  # noqa: SIM115  # `Path.open` has no opener; locks.remove closes it
    except OSError:
        part.unlink(missing_ok=True)
        return
    with file:
        try:
            _lock(file)
        except BlockingIOError:
            if not takes_over:
                raise
            part.unlink(missing_ok=True)  # its run writes on, to a file that has no name any more
            return
        if not os.fstat(file.fileno()).st_nlink:
            raise BlockingIOError  # another run took it away meanwhile, and writes its own
        locks.remove(part, file.close)


def _make_private(number: int) -> None:
    """Let only its owner read and write the open file, whatever the umask gives or takes."""
    with suppress(OSError, AttributeError):  # a file system, or a system, without such modes
        os.fchmod(number, 0o600)


def _lock(file: _Appender | io.FileIO) -> None:
    """Lock the open file as one that a living run writes. Raises BlockingIOError where another run does."""
    locks.close_in_children(file)
    try:
        locks.lock(file.fileno())
    except BlockingIOError:
        raise
    except OSError:
        return  # a file system without locks has to do without


def _reason(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or type(exc).__name__
