"""What a run is planned from: what was said, what the input is like, and what is there of earlier runs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from aisolution_async.api import Call
from aisolution_async.bulk import looks, mending, notes, pretended, shell
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.mending import Mended
from aisolution_async.bulk.notes import Note, Signature, Whole
from aisolution_async.bulk.options import BulkOptions, StrPath
from aisolution_async.bulk.origins import Origin, origin_of
from aisolution_async.bulk.outputs import STDOUT
from aisolution_async.bulk.photos import Photos
from aisolution_async.bulk.results import Results, columns_of, free_name
from aisolution_async.bulk.rows import Rows
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.ledger import mark
from aisolution_async.ledger.urls import Place, Server, is_there, place_of

T = TypeVar("T")
Asked = type[Call[Any]] | Sequence[type[Call[Any]]]
"""What is asked of each row: a call, or several."""


@dataclass(frozen=True, slots=True)
class Input:
    """The file that is read, and how."""

    path: Path
    reading: Mapping[str, Any]
    mended: Mended

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return str(self.path) == STDOUT

    def open(self) -> Rows:
        """Its rows, with what was mended of them. Blocks."""
        return Rows(self.path, **self.reading, over=self.mended.over)

    def again(self) -> Rows | None:
        """The same rows once more; None for a pipe, which can be read once. Blocks."""
        return self.open() if not self.is_stdin or _rewind_stdin() else None

    def count(self, given_up: threading.Event) -> int | None:
        """How many rows it has, None if that cannot be told or `given_up` was set. Blocks."""
        return count_rows(self.path, given_up, **self.reading)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of the output: those of the input, and `results`.

    `stale` are the places in the input of what an earlier run added to rows with problems: that goes.
    """

    inputs: list[str]
    names: list[str]
    results: list[Results]
    stale: frozenset[int]

    def of(self, cells: Sequence[T]) -> list[T]:
        """Of a row's cells, or what else there is for each column of the input, those that go into the output."""
        return [cell for place, cell in enumerate(cells) if place not in self.stale]

    @property
    def added(self) -> tuple[str, ...]:
        """The columns that the file of problems has besides the input's."""
        return free_name("row", self.inputs), free_name("problem", self.inputs)

    @property
    def added_to_held(self) -> tuple[str, ...]:
        """The columns that the file of rows that are held has besides the input's."""
        return *self.added, free_name("what to do", self.inputs)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before anything is decided. `rows` and `calls` are open: `close()` closes them.

    `origin` is where the input comes from, if it is a file of problems. `resumes` says whether there is a ledger to go
    on from, and `is_whole` whether that is known to have forgotten nothing. `signature` is that of the input.
    `whom` says who is asked, as `pretended.whom` does.
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
    signature: Signature | None
    whom: str | None

    @property
    def ledger(self) -> Place | None:
        """Where the ledger is."""
        return None if self.options.ledger is None else place_of(self.options.ledger)

    @property
    def problems(self) -> Path | None:
        """The path of the file of problems."""
        return None if self.options.problems is None else Path(self.options.problems)

    def lines(self) -> list[str]:
        """What is to be known before the first row is asked, in lines for people."""
        found = self.calls.lines()
        if self.ledger is not None and self.calls.may_have_key:
            found.append("no key: name the column of your own ids (--key COLUMN, key=), by which held rows are settled")
        return found

    def remember(self, *, finished: bool = False) -> None:
        """Keep what was mended, and the note of what was told, for the run that goes on. Raises ConfigurationError.

        `finished`: all rows are answered. Without a ledger there is nothing to go on from.
        """
        if self.target is None or self.ledger is None or str(self.target) == STDOUT:
            return
        if not finished:
            self.source.mended.keep()
        endpoints = tuple(call.endpoint.name for call in self.kinds)
        signature = self.signature if finished else None
        problems = self.problems or _problems_before(self.target)
        command = self.options.command or ()
        note = Note(
            self.source.path, self.source.reading, endpoints, problems, command, signature, pretended.noted(self.whom)
        )
        notes.keep(self.target, note)

    def close(self) -> None:
        """Close what was opened to be read."""
        self.calls.close()
        self.rows.close()


def gather(
    kinds: tuple[type[Call[Any]], ...],
    source: StrPath,
    target: StrPath | None,
    options: BulkOptions,
    client: AsyncClient,
    *,
    photos: Photos | None = None,
) -> Facts:
    """Open the input, and look at what is there. `client` is the one that will ask.

    `photos` are those of the input's folder, where lists share the search for them.

    Blocks: for seconds, where the input is a large workbook. Raises ConfigurationError for files and columns that
    cannot be used.
    """
    path, target = Path(source), None if target is None else Path(target)
    ledger = None if options.ledger is None else place_of(options.ledger)
    mends: list[Path] = []
    for place in (target, ledger, options.problems):
        if place is not None and not isinstance(place, Server) and not Path(place).name:
            raise ConfigurationError(f"{str(place)!r} is a directory: name a file in it")
    if ledger is not None and not options.overwrite and (whole := notes.whole_of(path, target)) is not None:
        assert target is not None
        path, options = whole.note.source, _as_noted(whole, target.parent, kinds, options)
        mends.append(whole.mend)
    read = Input(path, options.reading, _mended(path, target, options, mends))
    signature = notes.signature_of(path)
    root = options.images_root
    with ExitStack() as opened:
        rows = opened.enter_context(read.open())
        calls = Calls(
            kinds,
            rows,
            columns=options.columns or {},
            values=options.values or {},
            key=options.key,
            images_root=None if root is None else Path(root),
            photos=photos,
        )
        opened.callback(calls.close)
        read.mended.check_key(calls.key_column)
        origin = None if read.is_stdin else origin_of(read.path)
        added = () if origin is None else origin.added
        stale = frozenset(place for place, name in enumerate(rows.header) if name in added)
        inputs = [name for place, name in enumerate(rows.header) if place not in stale]
        names, results = columns_of(kinds, inputs, client.redact)
        facts = Facts(
            kinds,
            read,
            target,
            options,
            rows,
            calls,
            Columns(inputs, names, results, stale),
            origin,
            resumes=ledger is not None and is_there(ledger),
            is_whole=isinstance(ledger, Path) and mark.seen(Path(os.path.realpath(ledger))) is not None,
            signature=signature,
            whom=pretended.whom(client, ledger, options.command or ()),
        )
        opened.pop_all()
        return facts


def _as_noted(whole: Whole, folder: Path, kinds: Sequence[type[Call[Any]]], options: BulkOptions) -> BulkOptions:
    """The options for the list that a file has rows with problems of. Raises ConfigurationError for other questions."""
    note = whole.note
    asked = [call.endpoint.name for call in kinds]
    if sorted(asked) != sorted(note.endpoints):
        raise ConfigurationError(
            f"the output has the results of {' and '.join(note.endpoints)}, and these are of {' and '.join(asked)}: "
            "ask the same, or give the output another name"
        )
    reading: dict[str, Any] = {**options.reading, **note.reading}
    problems = options.problems
    if problems is None and note.problems is not None:
        # A note may be anybody's: nothing is written outside of its folder but over what was named.
        is_near = Path(os.path.realpath(note.problems)).is_relative_to(os.path.realpath(folder))
        problems = note.problems if is_near or notes.is_same(note.problems, whole.mend) else None
    return replace(options, **reading, problems=problems)


def _mended(path: Path, target: Path | None, options: BulkOptions, mends: Sequence[Path]) -> Mended:
    """What was mended of the list `path`, in the files `mends` and in the file of problems that somebody changed."""
    if target is None or options.ledger is None or str(target) == STDOUT:
        return Mended()
    problems = None if options.problems is None else Path(options.problems)
    if str(path) == STDOUT:
        if problems is not None and not options.overwrite and _is_mended(problems, target, ()):
            again = shell.go_on_with(target, place_of(options.ledger), options.command or ())
            raise ConfigurationError(
                f"{str(problems)!r} has rows that were mended, and goes with a file, not with standard input: put the "
                f"rows that came from there into one, and say {shell.shown(*again, '--input', 'FILE')}"
            )
        return Mended()
    mended = Mended(mending.path_of(target), is_new=options.overwrite)
    if options.overwrite or not is_there(place_of(options.ledger)):
        return mended
    before = _problems_before(target)

    if problems is not None and _is_mended(problems, target, mends):
        mends = [problems, *mends]
    if before is not None and _is_mended(before, target, mends):
        raise ConfigurationError(
            f"{str(before)!r} has rows of {str(target)!r} that were mended, and would be left behind: name it as the "
            "file of problems (--errors), or move it away"
        )
    others = [other for other in (problems, before) if other is not None]
    for mend in mends:
        mended.take(mend, others, lambda: Rows(path, **options.reading))
    return mended


def _problems_before(target: Path) -> Path | None:
    """The file of problems that the output had until now."""
    note = notes.note_of(target)
    return None if note is None else note.problems


def _is_mended(problems: Path, target: Path, mends: Sequence[Path]) -> bool:
    """Whether somebody changed the file of problems of the output since it was written. It is none of `mends`."""
    if not looks.is_file(problems) or any(notes.is_same(problems, mend) for mend in mends):
        return False
    origin = origin_of(problems)
    return origin is not None and notes.is_same(origin.output, target) and not origin.is_as_written(problems)


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
