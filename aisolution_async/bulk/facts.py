"""What a run is planned from: what was said, what the input is like, and what is there of earlier runs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aisolution_async.api import Call
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.options import BulkOptions, StrPath
from aisolution_async.bulk.outputs import STDOUT, Origin, origin_of
from aisolution_async.bulk.results import Results, columns_of, free_name
from aisolution_async.bulk.rows import Rows
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.ledger import mark

T = TypeVar("T")
Asked = type[Call[Any]] | Sequence[type[Call[Any]]]
"""What is asked of each row: a call, or several."""


@dataclass(frozen=True, slots=True)
class Input:
    """The file that is read, and how."""

    path: Path
    reading: Mapping[str, Any]

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return str(self.path) == STDOUT

    def open(self) -> Rows:
        """Its rows. Blocks."""
        return Rows(self.path, **self.reading)

    def again(self) -> Rows | None:
        """The same rows once more; None for a pipe, which can be read once. Blocks."""
        return self.open() if not self.is_stdin or _rewind_stdin() else None

    def count(self, given_up: threading.Event) -> int | None:
        """How many rows it has, None if that cannot be told or `given_up` was set. Blocks."""
        return count_rows(self.path, given_up, **self.reading)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of the output: those of the input, without the old problem of rows that were mended, and `results`.

    `stale` is the place of that old problem in the input, None where there is none.
    """

    inputs: list[str]
    names: list[str]
    results: list[Results]
    stale: int | None

    def of(self, cells: Sequence[T]) -> list[T]:
        """Of a row's cells, or what else there is for each column of the input, those that go into the output."""
        return [cell for place, cell in enumerate(cells) if place != self.stale]

    @property
    def of_problems(self) -> list[str]:
        """The columns of the file of problems."""
        return [*self.inputs, free_name("problem", self.inputs)]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before anything is decided. `rows` and `calls` are open: `close()` closes them.

    `origin` is where the input comes from, if it is a file of problems. `resumes` says whether there is a ledger to go
    on from, and `is_whole` whether that is known to have forgotten nothing.
    """

    kinds: tuple[type[Call[Any]], ...]
    source: Input
    target: Path | None
    options: BulkOptions
    rows: Rows
    calls: Calls
    columns: Columns
    origin: Origin | None
    resumes: bool
    is_whole: bool

    @property
    def ledger(self) -> Path | None:
        """The path of the ledger."""
        return None if self.options.ledger is None else Path(self.options.ledger)

    @property
    def problems(self) -> Path | None:
        """The path of the file of problems."""
        return None if self.options.problems is None else Path(self.options.problems)

    def close(self) -> None:
        """Close what was opened to be read."""
        self.calls.close()
        self.rows.close()


def gather(
    kinds: tuple[type[Call[Any]], ...],
    source: StrPath,
    target: StrPath | None,
    options: BulkOptions,
    redact: Callable[[str], str],
) -> Facts:
    """Open the input, and look at what is there. `redact` takes the token out of text.

    Blocks: for seconds, where the input is a large workbook. Raises ConfigurationError for files and columns that
    cannot be used.
    """
    read = Input(Path(source), options.reading)
    root = options.images_root
    ledger = None if options.ledger is None else Path(options.ledger)
    with ExitStack() as opened:
        rows = opened.enter_context(read.open())
        calls = Calls(
            kinds,
            rows,
            columns=options.columns or {},
            values=options.values or {},
            key=options.key,
            images_root=None if root is None else Path(root),
        )
        opened.callback(calls.close)
        origin = None if read.is_stdin else origin_of(read.path)
        stale = rows.header.index("problem") if origin is not None and "problem" in rows.header else None
        inputs = [name for place, name in enumerate(rows.header) if place != stale]
        names, results = columns_of(kinds, inputs, redact)
        facts = Facts(
            kinds,
            read,
            None if target is None else Path(target),
            options,
            rows,
            calls,
            Columns(inputs, names, results, stale),
            origin,
            resumes=ledger is not None and ledger.exists(),
            is_whole=ledger is not None and mark.seen(Path(os.path.realpath(ledger))) is not None,
        )
        opened.pop_all()
        return facts


async def in_thread(make: Callable[[], T], close: Callable[[T], object]) -> T:
    """What `make` makes, in a thread. If this is cancelled, what comes all the same is closed."""
    lock, made, is_wanted = threading.Lock(), list[T](), True

    def work() -> None:
        found = make()
        with lock:
            if is_wanted:
                made.append(found)
                return
        close(found)

    try:
        await asyncio.to_thread(work)
    except BaseException:
        with lock:
            is_wanted = False
        for found in made:
            close(found)
        raise
    return made[0]


def calls_of(call: Asked) -> tuple[type[Call[Any]], ...]:
    """The calls that are asked of each row. Raises ConfigurationError."""
    calls = (call,) if isinstance(call, type) else tuple(call)
    if not calls or not all(isinstance(each, type) and issubclass(each, Call) for each in calls):
        raise ConfigurationError("pass a call, like FaceCompare, or several: [FaceCompare, WhatsAppDetail]")
    for place, each in enumerate(calls):
        if each in calls[:place]:
            raise ConfigurationError(f"{each.endpoint.command} is named twice: name each endpoint once")
    return calls


def count_rows(source: Path, given_up: threading.Event, **reading: Any) -> int | None:
    """How many rows the file has, None if it cannot be told or `given_up` was set. Blocks."""
    if str(source) == STDOUT:
        return None  # standard input can be read once
    with suppress(AISolutionError), Rows(source, **reading) as rows:
        return rows.count(given_up.is_set)
    return None


def _rewind_stdin() -> bool:
    """Whether standard input can be read again from its beginning, and will be."""
    try:
        sys.stdin.buffer.seek(0)
    except (OSError, ValueError, AttributeError):
        return False
    return True
