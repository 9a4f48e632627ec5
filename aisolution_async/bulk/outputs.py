"""Rows out: CSV, TSV or JSONL, under a name that says so until the file is whole.

Rows go to `OUTPUT.part` as they come, each whole or not at all, and straight to the operating system, so that
even a killed process loses none that it had. Once all are there, the file is renamed to OUTPUT.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # on Windows, a file that is open cannot be removed anyhow
    fcntl = None  # type: ignore[assignment]

from aisolution_async.bulk.results import cell
from aisolution_async.bulk.rows import DELIMITERS
from aisolution_async.errors import ConfigurationError

ENDINGS = (*DELIMITERS, ".jsonl")
"""What an output file may end in."""

_QUOTED = ";\t\r\n"


class Output:
    """The output file of one run.

    Raises ConfigurationError where it cannot be written; nothing is touched then.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.rows = 0
        self._replaces = False
        self._file: _Appender | None = None
        self._names: list[str] = []
        self._check(source)

    def check_free(self, why: str = "") -> None:
        """Raise ConfigurationError if there is something that may have been paid for; `why` says more of it."""
        for file, what in ((self.path, "results of an earlier run"), (self.part, "what a stopped run had")):
            if os.path.lexists(file):
                raise ConfigurationError(
                    f"{str(file)!r} exists already and may hold {what}{why}: move it away, or say --overwrite"
                )

    def open(self, names: Sequence[str], *, replace: bool) -> None:
        """Make the file, with a header where its format has one; `replace` what is there, but no living run's."""
        self._names = list(names)
        self._replaces = replace
        claimed = None
        try:
            if replace:
                claimed = _claim(self.part)
                self.part.unlink(missing_ok=True)
            number = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
            _lock(number)
            self._file = _Appender(number)
            if self.path.suffix.lower() in DELIMITERS:
                self._file.append(self._line(self._names))
        except BlockingIOError:
            problem = "another run is writing it"
        except OSError as exc:
            problem = _reason(exc)
        else:
            return
        finally:
            if claimed is not None:
                os.close(claimed)
        self.close()
        raise ConfigurationError(f"the output {str(self.part)!r} cannot be written: {problem}; choose another place")

    def write(self, cells: Sequence[str], values: Sequence[Any]) -> None:
        """Add a row: the input's cells as they were, then the results. Raises OSError; the row is not there then."""
        assert self._file is not None
        if self.path.suffix.lower() in DELIMITERS:
            line = self._line([*cells, *map(cell, values)])
        else:
            line = as_json(self._names, cells, values)
        self._file.append(line)
        self.rows += 1

    def finish(self) -> None:
        """All rows are there: give the file its name. Raises OSError; the rows are in the part file then."""
        assert self._file is not None
        self._file.sync()
        self._file.close()
        if not self._replaces and os.path.lexists(self.path):
            raise FileExistsError(0, "a file of that name has appeared meanwhile")
        self.part.replace(self.path)

    def close(self) -> None:
        """Leave the rows in the part file, or nothing where there is none. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if not self.rows:
                with suppress(OSError):
                    self.part.unlink(missing_ok=True)

    def _line(self, cells: Sequence[str]) -> bytes:
        text = io.StringIO()
        # The csv module quotes what has a character of its line end: so newlines, and what else a spreadsheet
        # may take for the end of a cell, whatever is behind it for a formula.
        csv.writer(text, delimiter=DELIMITERS[self.path.suffix.lower()], lineterminator=_QUOTED).writerow(cells)
        return (text.getvalue()[: -len(_QUOTED)] + "\n").encode("utf-8", "surrogateescape")

    def _check(self, source: Path) -> None:
        path, shown = self.path, repr(str(self.path))
        if path.suffix.lower() not in ENDINGS:
            raise ConfigurationError(f"the output {shown} must end in {', '.join(ENDINGS)}: that says the format")
        try:
            if path.is_dir():
                raise ConfigurationError(f"the output {shown} is a directory: name a file in it")
            if not path.parent.is_dir():
                raise ConfigurationError(f"the output's folder {str(path.parent)!r} does not exist: make it first")
            if path.exists() and path.samefile(source):
                raise ConfigurationError(f"the output {shown} is the input: give it another name")
            if path.exists() and not path.is_file():
                raise ConfigurationError(f"the output {shown} is not a regular file: give it another name")
        except (OSError, ValueError) as exc:
            problem = _reason(exc)
        else:
            return
        raise ConfigurationError(f"the output {shown} cannot be written: {problem}")


class Rescue:
    """Where rows go that the output cannot take: a private file in the temporary folder, else stderr."""

    def __init__(self) -> None:
        self.rows = 0
        self.places: list[str] = []
        """Where rows were put."""
        self._file: _Appender | None = None
        with suppress(OSError):
            number, name = tempfile.mkstemp(prefix="aisolution-rescued-", suffix=".jsonl")
            self._file = _Appender(number)
            self._name = name

    def write(self, line: bytes) -> None:
        """Keep a row."""
        self.rows += 1
        try:
            if self._file is None:
                raise OSError
            self._file.append(line)
            self._note(self._name)
        except OSError:
            sys.stderr.write(line.decode())
            self._note("stderr")

    def close(self) -> None:
        """Close the file; no empty one stays."""
        if self._file is not None:
            self._file.close()
            if self._name not in self.places:
                Path(self._name).unlink(missing_ok=True)

    def _note(self, place: str) -> None:
        if place not in self.places:
            self.places.append(place)


def as_json(names: Sequence[str], cells: Sequence[str], values: Sequence[Any]) -> bytes:
    """One line of JSONL. A byte that was not UTF-8 is a lone surrogate there: \\udc80 to \\udcff."""
    record = dict(zip(names, (*cells, *values), strict=True))
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


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

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


_BINARY = getattr(os, "O_BINARY", 0)
# Neither what a link leads to, nor to wait for somebody at the other end of a pipe.
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _claim(part: Path) -> int | None:
    """What a stopped run left, locked until it is closed. Raises BlockingIOError if that run is still alive."""
    try:
        number = os.open(part, _LOOK)
    except OSError:
        return None
    _lock(number)
    return number


def _lock(number: int) -> None:
    """Lock the open file as one that a living run writes; where it is locked, close it and raise BlockingIOError."""
    if fcntl is None:
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        raise
    except OSError:
        return  # a file system without locks has to do without


def _reason(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or type(exc).__name__
