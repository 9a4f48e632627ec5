"""Rows out: a workbook, CSV, TSV, JSONL or Parquet, under a name that says so until the file is whole.

Rows go to `OUTPUT.part` as they come, each whole or not at all, and straight to the operating system, so that
even a killed process loses none that it had; those of Parquet, which has no single rows, in groups, and those of a
workbook as JSONL, of which it is made in the end (`books.py`). Once all are there, the file is renamed to OUTPUT.
What a file holds depends on its rows alone: not on when, or in how many runs, they came.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aisolution_async.bulk import looks
from aisolution_async.bulk.disk import (
    BINARY,
    Appender,
    digest_file,
    elsewhere,
    lock_open,
    make_private,
    reason_of,
    remedy_of,
    remove_idle,
)
from aisolution_async.bulk.encoders import Cells, Dialect, Encoder, Ended, JsonLines, Table
from aisolution_async.bulk.origins import Origin, origin_of, read_note, side_of, write_note
from aisolution_async.bulk.rescue import copy_of, rescued
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place
from aisolution_async.names import exists, is_file, is_folder, is_taken, sync_names

if TYPE_CHECKING:
    from aisolution_async.bulk.books import BookPlan, Workbook

STDOUT = "-"
"""The name that stands for standard output: JSONL."""

DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""What stands between the cells, by the ending of a file of text."""
_LINES = (".jsonl", ".ndjson")
BOOK = ".xlsx"
"""The ending of a workbook."""
ENDINGS = (BOOK, *DELIMITERS, *_LINES, ".parquet")
"""What an output file may end in."""

_TAKEN_OVER = "another run writes it now"
_REMOVED = "somebody removed its part file meanwhile, or moved it"

_NEEDS = {
    BOOK: ("xlsxwriter", "workbooks need xlsxwriter: pip install 'aisolution-async[cli]'"),
    ".parquet": ("pyarrow", "Parquet needs pyarrow: pip install 'aisolution-async[cli]'"),
}


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


class Output:
    """The output file of one run.

    It is a workbook, CSV, TSV, JSONL or Parquet by its ending; "-" is standard output. `source` is the file that it
    must not be, None where there is none. `private`: nobody else may read it, whatever the umask. `defuse`: put an
    apostrophe in front of cells that a spreadsheet would take for a formula, in CSV and TSV. `like`: how cells are
    written, where it is not as usual. `called`: what it is to people, beside its name.

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
        called: str = "output",
    ) -> None:
        self.path = path
        self.called = called
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
        self._takes_over = False
        self._file: Appender | _Stdout | None = None
        self._encoder: Encoder
        self._defuse = defuse
        self._like = like
        if self.streams:
            check_stdout()
        else:
            self._check(source)
        self._making = _Making(path, self.part) if self.as_book else None

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
            if self.streams or not looks.is_taken(file) or (is_part and (self.part_is_idle or self.part_is_taken)):
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
        if self.streams or not looks.is_taken(self.path):
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
        self._encoder = self._new_encoder(names, types, plan)
        if self.streams:
            self._file = _Stdout()
            return
        self._replaces, self._takes_over = replace, takes_over
        try:
            if replace or self.part_is_idle or self.part_is_taken:
                remove_idle(self.part, takes_over=takes_over)
            mode = 0o600 if self._private else 0o666
            number = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, mode)
            if self._private:
                make_private(number)
            self._file = Appender(number)
            lock_open(self._file)
            self._file.append(self._encoder.start())
        except (BlockingIOError, FileExistsError):  # another place would have another ledger, and pay for all of it too
            problem = "another run is writing it; wait until that has ended"
        except OSError as exc:
            problem = elsewhere(exc)
        else:
            return
        self.close()
        raise ConfigurationError(f"the {self.called} {str(self.part)!r} cannot be written: {problem}")

    def write(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> None:
        """Add a row: the input's cells, then the results. Raises UnwrittenError.

        `formats` are the number formats that the cells had, for a workbook.
        """
        self._put(lambda: self._encoder.add(cells, values, formats))
        self.rows += 1

    def make(self, given_up: Callable[[], bool] = lambda: False, notes: Sequence[str] = ()) -> list[str]:
        """All rows are there: make a workbook of them, which takes its time; nothing for other formats. Blocks.

        `notes` go into its summary. What is to be told to people. Raises UnwrittenError, and `books.Abandoned` where
        `given_up()` became true meanwhile: the rows are in the part file.
        """
        if self._making is None:
            return []
        assert self._file is not None
        if not self._is_ours:
            raise UnwrittenError(self._where_it_went, [])
        return self._making.make(cast("Workbook", self._encoder), self._file, self._private, given_up, notes)

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
        self._put(self._encoder.end)
        self.make()
        made = self.part if self._making is None else self._making.made
        try:
            self._file.sync()
            if not self._is_ours:
                raise FileNotFoundError(0, self._where_it_went)
            self._file.close()
            if not self.streams:
                if not self._replaces and is_taken(self.path):
                    raise FileExistsError(0, "a file of that name has appeared meanwhile")
                note = None
                if was is not None and is_file(self.path) and digest_file(self.path) != was:
                    raise FileExistsError(0, "somebody changed it meanwhile: run it again, and that is taken in")
                if of is not None and ledger is not None:
                    note = Origin(ledger, of, digest_file(made), added)
                    write_note(self.path, note, read_note(self.path) if is_file(self.path) else None, rows())
                made.replace(self.path)
                sync_names(self.path.parent)
                if self._making is not None:
                    self._making.put_part_away()
                if note is not None:
                    write_note(self.path, note, None, rows())
                elif of is not None:
                    side_of(self.path).unlink(missing_ok=True)
        except OSError as exc:
            raise UnwrittenError(reason_of(exc), [], remedy_of(exc)) from None

    def remove(self) -> None:
        """Take away what an earlier run wrote, and its note."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            side_of(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the rows in the part file, or nothing where there is none. Idempotent."""
        if self._file is not None:
            with suppress(OSError):
                self._file.append(self._encoder.end())
            is_ours = self._is_ours
            self._file.close()
            self._file = None
            if self._making is not None:
                self._making.drop()
            if not self.rows and not self.streams and is_ours:
                with suppress(OSError):
                    self.part.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave no part file, unless it is another run's already."""
        self.rows = 0
        self.close()

    @property
    def is_lost(self) -> bool:
        """Whether the part file that is written here has lost its name: somebody removed it, or has taken it over."""
        return not self._is_ours

    def copy(self) -> Path | None:
        """A copy of the part file that has lost its name; None where there is no place for it."""
        assert isinstance(self._file, Appender)
        with suppress(OSError):
            self._file.append(self._encoder.end())
        return copy_of(self._file.fileno(), self.path, _LINES[0] if self.as_book else self.path.suffix.lower())

    @property
    def _is_ours(self) -> bool:
        """Whether the part file is still the one that was opened here: a run that took over has removed that."""
        if not isinstance(self._file, Appender):
            return True
        try:
            found = os.fstat(self._file.fileno())
        except OSError:
            return False  # another machine removed it
        except ValueError:
            return True  # it is closed, and was looked at before
        if not found.st_nlink or os.name == "nt":  # there, what is open is neither moved nor removed
            return found.st_nlink > 0
        try:
            return os.path.samestat(found, self.part.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # it has a name, and nobody can look which

    @property
    def _where_it_went(self) -> str:
        """Why the part file is not the one that was opened here. Another run may have finished its own already."""
        with suppress(OSError):
            if not self._takes_over and not is_taken(self.part):
                return _REMOVED
        return _TAKEN_OVER

    def _put(self, what: Callable[[], bytes]) -> None:
        """Append what there is to be appended; where that cannot be, give back all rows that are not in the file."""
        assert self._file is not None
        try:
            if data := what():
                self._file.append(data)
                self._encoder.settle()
        except OSError as exc:
            lost = self._encoder.pending()
            self.rows -= max(0, len(lost) - 1)
            self._encoder = Ended()
            raise UnwrittenError(reason_of(exc), lost, remedy_of(exc)) from None

    def _new_encoder(self, names: Sequence[str], types: Sequence[Any] | None, plan: BookPlan | None) -> Encoder:
        ending = ".jsonl" if self.streams else self.path.suffix.lower()
        if ending == BOOK:
            from aisolution_async.bulk import books  # noqa: PLC0415  # only where there is a workbook

            return books.Workbook(names, plan or books.BookPlan())
        if ending in _LINES:
            return JsonLines(names)
        if ending == ".parquet":
            return Table(names, types or [str] * len(names))
        return Cells(names, self._like or Dialect(DELIMITERS[ending]), defuse=self._defuse)

    def _check(self, source: Path | None) -> None:
        path, shown = self.path, f"{self.called} {str(self.path)!r}"
        if path.suffix.lower() not in ENDINGS:
            hint = " (a spreadsheet opens .xlsx)" if path.suffix.lower() in (".xlsm", ".xlsb", ".xls", ".ods") else ""
            raise ConfigurationError(f"the {shown} must end in {', '.join(ENDINGS)}: that says the format{hint}")
        package, remedy = _NEEDS.get(path.suffix.lower(), ("", ""))
        if package and find_spec(package) is None:
            raise ConfigurationError(f"the {shown}: {remedy}")
        try:
            is_there = exists(path)
            if is_folder(path):
                raise ConfigurationError(f"the {shown} is a directory: name a file in it")
            if not is_folder(path.parent):
                whose = "the output's folder" if self.called == "output" else f"the folder of the {self.called}"
                raise ConfigurationError(f"{whose} {str(path.parent)!r} does not exist: make it first")
            if source is not None and is_there and exists(source) and path.samefile(source):
                raise ConfigurationError(f"the {shown} is the input: give it another name")
            if is_there and not is_file(path):
                raise ConfigurationError(f"the {shown} is not a regular file: give it another name")
        except (OSError, ValueError) as exc:
            problem = reason_of(exc)
        else:
            return
        raise ConfigurationError(f"the {shown} cannot be written: {problem}")


class _Making:
    """The workbook of `output` that is made of the rows in `part`, in a folder that nobody else has."""

    def __init__(self, output: Path, part: Path) -> None:
        self._output = output
        self._part = part
        self._folder = output.with_name(f"{output.name}.making")
        self._made: Path | None = None
        self._failed: UnwrittenError | None = None
        self._whole: Path | None = None  # where the rows stay that a workbook cannot hold

    @property
    def made(self) -> Path:
        """The workbook, before it has its name."""
        assert self._made is not None
        return self._made

    def make(
        self,
        rows: Workbook,
        file: Appender | _Stdout,
        private: bool,  # as `Output` has it
        given_up: Callable[[], bool],
        notes: Sequence[str],
    ) -> list[str]:
        """See `Output.make`; `file` is the open part file. What failed once fails again, without the work."""
        if self._failed is not None:
            raise self._failed
        if self._made is not None:
            return []
        try:
            file.sync()
            made, cut = rows.make(self._part, self._folder, given_up, notes)
            if private:
                made.chmod(0o600)
            with made.open("rb+") as book:
                os.fsync(book.fileno())
        except OSError as exc:
            self._remove_folder()
            self._failed = UnwrittenError(reason_of(exc), [], remedy_of(exc))
            raise self._failed from None
        except BaseException:
            self._remove_folder()
            raise
        self._made = made
        if not cut:
            return []
        self._whole = self._output.with_name(f"{rescued(self._output)}long.jsonl")
        return [f"{cut:,} results are longer than a cell of Excel's, and were cut: {str(self._whole)!r} has them"]

    def put_part_away(self) -> None:
        """The workbook has its name. Its rows stay only where it could not hold all of them."""
        if self._whole is None:
            self._part.unlink()
        else:
            self._part.replace(self._whole)
        sync_names(self._part.parent)
        self._remove_folder()

    def drop(self) -> None:
        """Take away a workbook that did not get its name."""
        if self._made is not None:
            self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class UnwrittenError(OSError):
    """A row cannot be written. `rows` are those that are not in the file, as lines of JSONL, `remedy` what to do."""

    def __init__(self, reason: str, rows: list[bytes], remedy: str | None = None) -> None:
        super().__init__(0, reason)
        self.rows = rows
        self.remedy = remedy


class _Stdout:
    """Standard output, as a file that is appended to."""

    def append(self, line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    def sync(self) -> None:
        """It is whoever reads it who keeps it."""

    def close(self) -> None:
        """It is not ours to close."""
