"""A folder of lists, its shards: each is run as a list is, one after the other, and workers divide them.

In the folder of the output, a shard NAME is:

| file | what |
| --- | --- |
| `NAME` | the results, once they are whole; `NAME.part` until then |
| `_bulk/NAME.done` | what came of the shard, and what the list was like then |
| `_bulk/NAME.run`, `_bulk/NAME.mended` | what else belongs to the results: see `notes` and `mending` |
| `_bulk/STEM-held.…` | its rows that are held |

A shard all of whose rows are answered is not looked at again, unless its list has changed, or something else is asked
of it. With a ledger on a server,
workers take shards in turn (`ledger/shards.py`); with one in a file, there is one worker. Nothing of this decides about
money: a shard that is run twice asks the ledger for each of its rows, and buys none of them twice.
"""

from __future__ import annotations

import asyncio
import glob
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast
from uuid import UUID, uuid4

from aisolution_async import clock, locks, names
from aisolution_async.api import Call
from aisolution_async.bulk import looks, notes, pretended
from aisolution_async.bulk.disk import ASIDE, elsewhere, put_safely, reason_of, relative
from aisolution_async.bulk.facts import Asked, calls_of
from aisolution_async.bulk.forecast import SHOWN, Among, Forecast, foresee
from aisolution_async.bulk.notes import Note, Signature
from aisolution_async.bulk.options import BulkOptions, StrPath, by_keyword
from aisolution_async.bulk.outputs import BOOK, ENDINGS, STDOUT
from aisolution_async.bulk.photos import Photos
from aisolution_async.bulk.rows import ENDINGS as READ
from aisolution_async.bulk.run import BulkRun, ShardTurn
from aisolution_async.bulk.summary import PASSING, BulkError, Summary
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.ledger import Balance, LedgerError, Store, open_ledger
from aisolution_async.ledger.shards import OnlyWorker, Shards, Took
from aisolution_async.ledger.urls import Place, Server, is_there, open_peek, place_of
from aisolution_async.names import sync_names
from aisolution_async.sending.hooks import call_hook

P = ParamSpec("P")

_LOOK_EVERY = 1.0
_SAID = 50  # lines on how shards are read
_NAMED = 5
_OTHERWISE = "another worker ran it by another command meanwhile: say the same to all of them, and run it again"
_COUNTS = ("rows", "ok", "failed", "held", "checking")
_RENAMED = {".pq": ".parquet", ".tab": ".tsv", ".txt": ".csv"}


def is_folder(source: Path) -> bool:
    """Whether it names many lists: a folder, or a pattern like `lists/*.csv`. Raises ConfigurationError."""
    return looks.is_folder(source) or (
        str(source) != STDOUT and glob.has_magic(str(source)) and not looks.is_taken(source)
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """A list of a folder; `output` is where its results go."""

    path: Path
    output: Path

    @property
    def name(self) -> str:
        """What it is called: as its results are."""
        return self.output.name

    @property
    def note(self) -> Path:
        """Where it stands what came of it."""
        return self.output.parent / ASIDE / f"{self.name}.done"


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a shard: its rows, `problem` where it could not be run, and what its list was like.

    `asked` stands for what was asked of it, and how that was written.
    """

    rows: int = 0
    ok: int = 0
    failed: int = 0
    held: int = 0
    checking: int = 0
    problem: str | None = None
    signature: Signature | None = None
    asked: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be asked."""
        return self.problem is None and self.ok == self.rows


@dataclass(slots=True)
class FolderSummary:
    """What a run over a folder has done so far, or did.

    `run` counts what this run did, as the summary of a list does. Of the `shards`, `finished` are those whose results
    it made, and `elsewhere` those that were made before, or by other workers; `problems` says, by name, why a shard
    could not be run. The others, `left`, were not reached: the run was stopped, or the limit on spending was reached.
    `rows`, `ok`, `failed`, `held` and `checking` are of all results that are there, whoever made them.
    """

    run: Summary = field(default_factory=Summary)
    shards: int = 0
    finished: int = 0
    elsewhere: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    ok: int = 0
    failed: int = 0
    held: int = 0
    checking: int = 0

    @property
    def left(self) -> int:
        """How many shards have no results, and no problem."""
        return self.shards - self.finished - self.elsewhere - len(self.problems)

    @property
    def complete(self) -> bool:
        """Whether each row of each shard has its row in the output."""
        return not self.left and not self.problems

    def count(self, name: str, done: Done, *, here: bool) -> None:
        """Count what came of a shard."""
        if done.problem is not None:
            self.problems[name] = done.problem
            return
        self.finished += here
        self.elsewhere += not here
        for key in _COUNTS:
            setattr(self, key, getattr(self, key) + getattr(done, key))


@dataclass(frozen=True, slots=True)
class Listing:
    """The shards of a folder, by name, and what else is in it, in lines for people."""

    shards: Sequence[Shard]
    lines: Sequence[str]


def list_shards(source: Path, output: Path | None) -> Listing:
    """The lists in a folder, or those that a pattern names. Raises ConfigurationError where they cannot be run.

    Not those in the folders in it, and nothing hidden. Blocks.
    """
    target = output or Path(os.devnull)
    try:
        found, folders = _found_in(source, target)
    except OSError as exc:
        problem = f"{reason_of(exc)}; allow it, or name another one"
        raise ConfigurationError(f"the folder {str(source)!r} cannot be listed: {problem}") from None
    lists = [path for path in found if path.suffix.lower() in READ]
    others = [path.name for path in found if path.suffix.lower() not in READ]
    lines = []
    if others:
        what = "files are no lists by their names, and" if len(others) > 1 else "file is no list by its name, and is"
        lines.append(f"{len(others):,} {what} left out: {_some(others)}")
    if folders:
        what = "folders in it are" if len(folders) > 1 else "folder in it is"
        lines.append(f"{len(folders):,} {what} left out: {_some(folders)}. Run each by itself")
    if not lists:
        more = f" ({'; '.join(lines)})" if lines else ""
        raise ConfigurationError(
            f"there are no lists in {str(source)!r}{more}: a list is a file that ends in {', '.join(READ)}; "
            "photos are named in the cells of one"
        )
    shards = [Shard(path, target / _name_of(path)) for path in lists]
    if output is not None:
        _check_apart(shards, output)
    return Listing(shards, lines)


def _found_in(source: Path, output: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder, and the names of the folders in it."""
    own = Path(os.path.realpath(output))
    if names.is_folder(source):
        paths: Iterable[Path] = source.iterdir()
    else:
        paths = (path for path in looks.named_by(source) if own not in Path(os.path.realpath(path)).parents)
    found, folders = list[Path](), list[str]()
    for path in paths:
        if path.name.startswith((".", "~$")):
            continue
        if not _is_folder(path):
            found.append(path)  # a link that leads nowhere too: whoever named it should know
        elif path.name != ASIDE and os.path.realpath(path) != str(own):
            folders.append(path.name)
    return sorted(found), sorted(folders)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder; not where nobody can tell: whoever opens it as a list says why."""
    with suppress(OSError):
        return names.is_folder(path)
    return False


def _name_of(path: Path) -> str:
    """The name of a list's results: its own, where that is one of an output."""
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return path.name
    return path.with_suffix(_RENAMED.get(ending, BOOK)).name


def _check_apart(shards: Sequence[Shard], output: Path) -> None:
    """Raise ConfigurationError where results would be written over each other, or over a list."""
    own = os.path.realpath(output)
    for folder in {shard.path.parent for shard in shards}:
        if os.path.realpath(folder) == own:
            raise ConfigurationError(f"the output {str(output)!r} is the folder of the lists: name another folder")
    seen: dict[str, Path] = {}
    for shard in shards:
        other = seen.setdefault(os.path.normcase(shard.name), shard.path)
        if other is not shard.path:
            raise ConfigurationError(
                f"the results of {str(other)!r} and {str(shard.path)!r} would both be {shard.name!r}: rename one, or "
                "run their folders by themselves, each with an output of its own"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join([repr(name) for name in names[:_NAMED]] + ["…"] * (len(names) > _NAMED))


class FolderRun:
    """The shards of a folder, one after the other; see `run_folder`. An option may be given by its keyword, too.

    `run()` does it, once. Meanwhile `current` is the run of the shard whose turn it is, None if there is none, `where`
    says which one that is, and `stop()` ends it early. `summary` is true at any time between two shards.
    """

    def __init__(
        self,
        client: AsyncClient,
        call: Asked,
        source: StrPath,
        output: StrPath,
        options: BulkOptions | None = None,
        **changed: Any,
    ) -> None:
        self.summary = FolderSummary()
        self.current: BulkRun | None = None
        self.where = ""
        self._client = client
        self._kinds = calls_of(call)
        self._source = Path(source)
        self._output = Path(output)
        self._options = BulkOptions(**changed) if options is None else replace(options, **changed)
        ledger = None if self._options.ledger is None else place_of(self._options.ledger)
        self._whom = self.summary.run.whom = pretended.whom(client, ledger, self._options.command or ())
        self._asked = _asked(self._kinds, self._options, self._whom)
        self._lines = _Lines(self._options.on_start)
        self._photos = _Folders(self._options)
        self._stopping = False
        self._failed: BulkError | None = None

    def stop(self) -> None:
        """Ask for a graceful end: nothing more is sent, what is under way is waited for and written."""
        self._stopping = True
        if self.current is not None:
            self.current.stop()

    async def run(self) -> FolderSummary:
        """Run to the end, or until stopped. Raises as `run_folder` does."""
        started = clock.now()
        place = _check(self._source, self._output, self._options)
        found = await asyncio.to_thread(list_shards, self._source, self._output)
        self.summary.shards = len(found.shards)
        for line in found.lines:
            self._lines.say(line)
        with ExitStack() as stack, closing(self._photos):
            try:
                await asyncio.to_thread(self._prepare, place, stack)
                await self._run_all(found.shards, place)
            finally:
                self._end()
                self.summary.run.seconds = clock.now() - started
        if self._failed is not None:
            raise BulkError(str(self._failed), self.summary.run)
        return self.summary

    def _prepare(self, place: Place, stack: ExitStack) -> None:
        """Make the folders, and note what is run. Blocks. Raises ConfigurationError where that cannot be."""
        aside, options = self._output / ASIDE, self._options
        problems = None if options.problems is None else Path(options.problems)
        for folder in (self._output, aside, *([] if problems is None else [problems])):
            _make(folder)
        try:
            file = stack.enter_context((aside / "folder.lock").open("ab"))
            locks.close_in_children(file)
            number = file.fileno()
            if isinstance(place, Server):
                is_taken = locks.is_locked(number)
            else:
                is_taken = False
                locks.lock(number)
        except BlockingIOError:
            is_taken = True
        except OSError:
            is_taken = False  # a file system without locks has to do without
        if is_taken:
            raise ConfigurationError(
                f"another run is working on the results {str(self._output)!r}, with a ledger that is a file: wait "
                "until it has ended. Workers share a folder by a ledger on a server (postgresql://…)"
            )
        note = Note(
            self._source,
            options.reading,
            tuple(call.endpoint.name for call in self._kinds),
            problems,
            options.command or (),
            whom=pretended.noted(self._whom),
        )
        try:
            notes.keep(self._output, note)
        except ConfigurationError:
            if notes.note_of(self._output) is None:  # another worker may have written it at the same moment
                raise

    async def _run_all(self, found: Sequence[Shard], place: Place) -> None:
        was_there = await asyncio.to_thread(is_there, place)
        async with open_ledger(place, **self._options.budget) as ledger:
            balance = await asyncio.to_thread(ledger.summary)
            if was_there and self._options.on_resume is not None:
                self._options.on_resume(balance.answers)
            folder = await asyncio.to_thread(_known_as, self._output, ledger, self._options)
            shards: Shards = OnlyWorker()
            if isinstance(place, Server):
                shards = cast("Any", ledger).shards(folder)
            left = [*enumerate(found, 1)]
            is_told = False
            while left and not self._stopping:
                busy = []
                for number, shard in left:
                    if self._stopping:
                        break
                    self.where = f"shard {number:,} of {len(found):,}"
                    visit = _Visit(shard, shards, self._asked, takes_over=isinstance(place, Server))
                    if not await self._visit(visit, ledger, balance):
                        busy.append((number, shard))
                left = busy
                if left and not self._stopping:
                    if not is_told:
                        free = "(a dead one's is free after 30 s)"
                        self._lines.say(f"waiting for shards that other workers have: {len(left):,} {free}")
                    is_told = True
                    await clock.sleep(_LOOK_EVERY)

    async def _visit(self, visit: _Visit, ledger: Store, balance: Balance) -> bool:
        """Run a shard, unless that is done. False where another worker has it."""
        shard, summary = visit.shard, self.summary
        done = await asyncio.to_thread(_done, shard)
        if done is not None and self._is_done(shard, done):
            summary.count(shard.name, done, here=False)
            return True
        took = await visit.shards.take(shard.name)
        if took is Took.DONE:
            done = await asyncio.to_thread(_done, shard) or Done()
            if done.asked not in (None, self._asked):
                done = Done(problem=_OTHERWISE)
            summary.count(shard.name, done, here=False)
        if took is not Took.TAKEN:
            return took is Took.DONE
        problem = _why_not(shard, self._options)
        if problem is None:
            problem = await self._run(visit, ledger, balance)
        if visit.is_lost:
            return False
        if problem is not None:
            await visit.give_up(problem)
        if visit.done is None:
            await visit.shards.let_go(shard.name)
        else:
            summary.count(shard.name, visit.done, here=True)
        return True

    def _is_done(self, shard: Shard, done: Done) -> bool:
        """Whether nothing is left to do: all was answered, to the same question, and is not too old."""
        options = self._options
        if not done.is_whole or options.overwrite or done.asked != self._asked or not _is_there(shard, done):
            return False
        return options.reuse_for is None or clock.today().timestamp() - _made_at(shard) <= options.reuse_for

    async def _run(self, visit: _Visit, ledger: Store, balance: Balance) -> str | None:
        """Run a shard that was taken. Why it cannot be, in words; None where it was, or all is to be stopped."""
        shard = visit.shard
        photos = self._photos.of(shard)
        turn = ShardTurn(ledger, balance, visit.finishing, visit.takes_over, self._output, photos)
        options = self._options_of(shard)
        run = visit.run = self.current = BulkRun(
            self._client, self._kinds, shard.path, shard.output, options, turn=turn
        )
        problem = None
        try:
            await run.run()
        except LedgerError:
            raise
        except BulkError as exc:
            problem = run.unreadable
            if problem is None and not visit.is_lost:
                self._failed = BulkError(f"{shard.name}: {exc}", exc.summary)
                self._stopping = True
        except AISolutionError as exc:
            problem = str(exc)
        finally:
            self.current = None
            done = run.summary
            if visit.is_lost:  # the rows are another worker's
                done = Summary(tally=done.tally, rescued=done.rescued)
            self.summary.run.add(done, shard.name)
        if done.over_budget or done.unreached:
            self._stopping = True  # so it would be with all others
        if done.complete:
            await asyncio.to_thread(_put_away_empty, done)
        return problem

    def _options_of(self, shard: Shard) -> BulkOptions:
        options = self._options
        warn = options.on_warning
        problems = None if options.problems is None else Path(options.problems) / shard.name
        return replace(
            options,
            problems=problems,
            command=_command_of(options.command, self._output, shard.name),
            on_start=self._lines.of(shard.name),
            on_warning=None if warn is None else lambda line: call_hook("on_warning", warn, f"{shard.name}: {line}"),
            on_resume=None,
        )

    def _end(self) -> None:
        """Say where all is."""
        summary, run = self.summary, self.summary.run
        run.output = self._output if summary.complete else None
        run.problems = None if run.problems is None or self._options.problems is None else Path(self._options.problems)
        run.to_settle = None if run.to_settle is None else self._output / ASIDE


class _Visit:
    """A shard on its turn: who has it, and what comes of it."""

    def __init__(self, shard: Shard, shards: Shards, asked: str, *, takes_over: bool) -> None:
        self.shard = shard
        self.shards = shards
        self.takes_over = takes_over
        self.run: BulkRun | None = None
        self.done: Done | None = None
        """What came of it, once all workers know."""
        self.is_lost = False
        """Whether another worker has taken it over."""
        self._nothing = Done(signature=notes.signature_of(shard.path), asked=asked)

    @asynccontextmanager
    async def finishing(self) -> AsyncIterator[bool]:
        """See `ShardTurn`."""
        async with self.shards.finishing(self.shard.name) as finish:
            self.is_lost = finish is None
            yield finish is not None
            if finish is not None and self.run is not None and self.run.summary.complete:
                done = self.run.summary
                counts = {key: getattr(done, key) for key in _COUNTS}
                self._note(replace(self._nothing, **counts))
                finish.is_done = True

    async def give_up(self, problem: str) -> None:
        """It cannot be run: nobody needs to try until somebody runs all again."""
        async with self.shards.finishing(self.shard.name) as finish:
            if finish is not None:
                self._note(replace(self._nothing, problem=problem))
                finish.is_done = True

    def _note(self, done: Done) -> None:
        self.done = done
        with suppress(OSError):  # without it, the shard is looked through once more
            put_safely(self.shard.note, [json.dumps(asdict(done))])


class _KeptPhotos(Photos):
    """Photos that are kept when one list is done with them."""

    def close(self) -> None:
        """See `forget`."""

    def forget(self) -> None:
        """All lists are done with them."""
        super().close()


class _Folders:
    """The photos of each folder that has lists: a folder is searched once for all of them."""

    def __init__(self, options: BulkOptions) -> None:
        self._root = None if options.images_root is None else Path(options.images_root)
        self._found: dict[Path, _KeptPhotos] = {}

    def of(self, shard: Shard) -> Photos:
        """Those of the shard's folder. Raises ConfigurationError where the root is no folder."""
        folder = shard.path.absolute().parent
        if folder not in self._found:
            self._found[folder] = _KeptPhotos(folder, self._root)
        return self._found[folder]

    def close(self) -> None:
        """Forget what was found."""
        for photos in self._found.values():
            photos.forget()


class _Lines:
    """What is said of how shards are read: the same once, as a folder may have ten thousand of them."""

    def __init__(self, on_start: Callable[[str], None] | None) -> None:
        self._on_start = on_start
        self._said: set[str] = set()

    def of(self, name: str) -> Callable[[str], None] | None:
        """What says it of the shard of this name."""
        return None if self._on_start is None else lambda line: self.say(line, name)

    def say(self, line: str, name: str | None = None) -> None:
        """Say it, of the shard of this name, unless it was said of another."""
        if self._on_start is None or line in self._said or len(self._said) > _SAID:
            return
        self._said.add(line)
        self._on_start(line if name is None else f"{name}: {line}")
        if len(self._said) > _SAID:
            self._on_start("more of this kind is not said")


# ------------------------------------------------------------------------------------------------- what is there


def _check(source: Path, output: Path, options: BulkOptions) -> Place:
    """Where the ledger is. Raises ConfigurationError for what goes with one list, and not with a folder."""
    if str(output) == STDOUT or not output.name:
        raise ConfigurationError(f"the results of a folder go to a folder: name one, not {str(output)!r}")
    if options.ledger is None:
        raise ConfigurationError(
            "a folder needs a ledger, to go on from: name a file, or postgresql://…, which machines share"
        )
    if options.rescued:
        raise ConfigurationError(
            "rescued rows are of one list: run that one by itself, with its results in the folder as the output"
        )
    if notes.is_same(source, output):
        raise ConfigurationError(f"the output {str(output)!r} is the folder of the lists: name another folder")
    problems = None if options.problems is None else Path(options.problems)
    if _is_file(output):
        what = "is a directory: name a file in it" if looks.is_folder(source) else "names many lists: name one of them"
        raise ConfigurationError(
            f"the input {str(source)!r} {what}, or else a folder for the results, and no file like {str(output)!r}"
        )
    if problems is not None and _is_file(problems):
        raise ConfigurationError(
            f"{str(problems)!r} is a file, or named like one: the rows with problems of a folder go to a folder, a "
            "file for each shard"
        )
    for path, what in ((output, "folder of the results"), (source, "folder of the lists")):
        if problems is not None and notes.is_same(problems, path):
            raise ConfigurationError(f"the rows with problems would go to the {what}: name another folder")
    return place_of(options.ledger)


def _is_file(path: Path) -> bool:
    """Whether it is a file, or would be one by its name."""
    # In this order: another worker may make the folder meanwhile.
    return not looks.is_folder(path) if looks.is_taken(path) else path.suffix.lower() in ENDINGS


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        problem = f"{str(folder.parent)!r} does not exist: make it first"
    except FileExistsError:
        problem = "a file has that name: choose another one"
    except OSError as exc:
        problem = elsewhere(exc)
    else:
        return
    raise ConfigurationError(f"the folder {str(folder)!r} cannot be made: {problem}")


def _known_as(output: Path, ledger: Store, options: BulkOptions) -> UUID:
    """The name by which all workers know the folder of results. Raises ConfigurationError for another ledger's. Blocks.

    With the name stands what only its ledger makes of it: another one would buy again what that one knows.
    """
    path = output / ASIDE / "folder.id"
    while True:
        try:
            name, _, proof = path.read_text("ascii").strip().partition(" ")
            folder = UUID(name)
        except FileNotFoundError:
            folder = uuid4()
            _put_new(path, f"{folder} {ledger.identity('folder', [('id', str(folder))]).hex()}\n")
            continue
        except (OSError, ValueError):
            break
        if proof == ledger.identity("folder", [("id", str(folder))]).hex():
            return folder
        if not options.overwrite:
            raise ConfigurationError(
                f"the results in {str(output)!r} are of another ledger, and this one would buy again what that one "
                "knows: name that one, give the output another name, or say --overwrite"
            )
        path.unlink(missing_ok=True)
    raise ConfigurationError(f"{str(path)!r} cannot be read, which says what the folder is: take it away")


def _put_new(path: Path, text: str) -> None:
    """Write a file at one stroke, unless it is there. Raises ConfigurationError."""
    try:
        number, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        _fill(number, text)
        try:
            os.link(name, path)  # unlike a renaming, this replaces nothing
        except FileExistsError:
            """Another worker was faster."""
        except OSError:  # a file system without hard links has to do with less than one stroke
            with suppress(FileExistsError):
                _fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), text)
        finally:
            Path(name).unlink()
        sync_names(path.parent)
    except OSError as exc:
        problem = elsewhere(exc)
    else:
        return
    raise ConfigurationError(f"{str(path)!r}, a part of the output, cannot be written: {problem}")


def _fill(number: int, text: str) -> None:
    with os.fdopen(number, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(number)


def _done(shard: Shard) -> Done | None:
    """What came of the shard before; None where nothing did, or where that cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        found = Done(**json.loads(shard.note.read_text("utf-8")))
        return replace(found, signature=None if found.signature is None else (*found.signature,))
    return None


def _asked(kinds: Sequence[type[Call[Any]]], options: BulkOptions, whom: str | None) -> str:
    """What is asked of the lists, of whom, and how that is written: other words for something else. It tells nobody."""
    said = (
        [call.endpoint.name for call in kinds],
        *(sorted((given or {}).items()) for given in (options.columns, options.values)),
        *(options.key, options.reading, options.defuse, options.excel),
        *(() if whom is None else [pretended.host_of(whom)]),
    )
    return sha256(json.dumps(said, default=str).encode()).hexdigest()[:32]


def _made_at(shard: Shard) -> float:
    """When its results were made; 0 where nobody knows."""
    with suppress(OSError):
        return shard.note.stat().st_mtime
    return 0.0


def _is_there(shard: Shard, done: Done) -> bool:
    """Whether the results are there, and of the list as it is now; not where nobody can tell."""
    with suppress(OSError):
        return names.is_file(shard.output) and done.signature == notes.signature_of(shard.path)
    return False


def _why_not(shard: Shard, options: BulkOptions) -> str | None:
    """Why a shard must not be run: in the place of its results is something that is not known to be of its list."""
    try:
        if options.overwrite or looks.is_file(notes.path_of(shard.output)) or not looks.is_taken(shard.output):
            return None
    except ConfigurationError as exc:
        return str(exc)
    return (
        f"{str(shard.output)!r} exists already, and is not known to be of this folder: move it away, or say --overwrite"
    )


def _put_away_empty(done: Summary) -> None:
    """Remove a file of problems that has no rows: of ten thousand, nobody finds the one that has some."""
    if done.problems is None or any(error not in PASSING for error in done.errors - done.errors_held):
        return
    with suppress(OSError):
        done.problems.unlink()
        done.problems.with_name(f"{done.problems.name}.of").unlink(missing_ok=True)
    done.problems = None


def _command_of(command: Sequence[Any] | None, output: Path, name: str) -> Sequence[Any] | None:
    """The words of the command for the note of one shard: paths are seen from the folder, and one file has problems."""
    if command is None:
        return None
    words: list[Any] = []
    for word in command:
        if isinstance(word, dict) and "path" in word:
            path = output.parent / word["path"]
            words.append({"path": relative(output, path / name if words[-1:] == ["--errors"] else path)})
        else:
            words.append(word)
    # Its ledger is not the one beside it: whoever goes on with this shard alone has to name it.
    return words if {"ask": "--ledger"} in words else [*words, {"ask": "--ledger"}]


# -------------------------------------------------------------------------------------------------------- the doors


class RunsFolder(Protocol[P]):
    """`run_folder`, with the parameters of `BulkOptions` as its own."""

    def __call__(
        self,
        client: AsyncClient,
        call: Asked,
        source: StrPath,
        output: StrPath,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, FolderSummary]:
        """See `run_folder`."""


def _typed(_: Callable[P, BulkOptions]) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], RunsFolder[P]]:
    return lambda function: cast("RunsFolder[P]", by_keyword(function))


@_typed(BulkOptions)
async def run_folder(
    client: AsyncClient, call: Asked, source: StrPath, output: StrPath, options: BulkOptions
) -> FolderSummary:
    """Ask `call` for every row of every list in the folder `source`, and write a file of results for each to `output`.

    ```python
    async with AsyncClient() as client:
        summary = await run_folder(client, WhatsAppDetail, "lists", "results", ledger="results.ledger")
    ```

    `source` may be a pattern, like "lists/*.parquet". Each list, a shard, is run as `run_bulk` runs it, and its results
    have its name. A shard all of whose rows are answered is not run again. With a `ledger` at a URL, workers on many
    machines divide the shards of one folder; with one in a file, there is one worker. `problems` is a folder here, and
    `rescued` cannot be.

    A shard that cannot be read stops none of the others: `FolderSummary.problems` says why. Raises ConfigurationError
    or LedgerError, before anything is sent, for what concerns all of them; BulkError where the run has to stop.
    """
    return await FolderRun(client, call, source, output, options).run()


async def foresee_folder(
    client: AsyncClient, call: Asked, source: StrPath, output: StrPath | None, options: BulkOptions
) -> tuple[Forecast, dict[str, str]]:
    """What a run over the folder would do, and why shards cannot be run, by name. Raises ConfigurationError.

    Nothing is sent, and no file is made or changed.
    """
    target = None if output is None else Path(output)
    if target is not None:
        _check(Path(source), target, options)
    found = await asyncio.to_thread(list_shards, Path(source), target)
    lines, whole, problems = _Lines(options.on_start), Forecast(), dict[str, str]()
    for line in found.lines:
        lines.say(line)
    seen: set[int] = set()
    with open_peek(options.ledger) as peek, closing(_Folders(options)) as photos:
        for shard in found.shards:
            own = replace(options, problems=None, on_start=lines.of(shard.name))
            try:
                path = shard.output if target is not None and looks.is_folder(target) else None
                among = Among(peek, seen, photos.of(shard))
                add_forecast(whole, await foresee(client, call, shard.path, path, own, among=among), shard.name)
            except LedgerError:
                raise
            except AISolutionError as exc:
                problems[shard.name] = str(exc)
    whole.cost = None
    if not options.known_prices.missing(whole.charges):
        whole.cost = options.known_prices.cost(whole.charges)
    return whole, problems


def add_forecast(whole: Forecast, part: Forecast, name: str) -> None:
    """Count what a run of one shard would do in."""
    for key in ("rows", "failed", "from_ledger", "shared", "held", "others", "totals", "left_out", "blank"):
        setattr(whole, key, getattr(whole, key) + getattr(part, key))
    whole.holds = max(whole.holds, part.holds)
    whole.hidden = None if whole.hidden is None or part.hidden is None else whole.hidden + part.hidden
    for counted in ("calls", "charges", "errors"):
        getattr(whole, counted).update(getattr(part, counted))
    for said, kind in part.kinds.items():
        if said in whole.kinds:
            whole.kinds[said].calls += kind.calls
        elif len(whole.kinds) < SHOWN:
            kind.example = f"{name}: {kind.example}"
            whole.kinds[said] = kind
        else:
            whole.others += kind.calls
    for told in ("problems", "warnings", "notes", "columns"):
        lines = getattr(whole, told)
        ours = (
            getattr(part, told) if told in ("notes", "columns") else [f"{name}: {line}" for line in getattr(part, told)]
        )
        lines += [line for line in ours if line not in lines][: max(0, SHOWN - len(lines))]
