"""Lists behind a service of several processes: a file each, run by `bulk`, answered for by whichever process is asked.

```python
lists = Lists("lists", WhatsAppDetail, ledger="service.ledger")

async with AsyncClient(ledger="service.ledger") as client, lists.running(client):  # in each process
    lists.put("monday", [{"key": "A-1", "number": "+6281387300008"}])
    lists.state("monday")  # ListState(status="waiting", …), from any process
    lists.results("monday")  # the file of results, once it is whole
```

Nothing is kept in memory, so every process says the same, also after a restart. In the folder, a list NAME is:

| file | what |
| --- | --- |
| `NAME.jsonl` | the list, whole from the moment that it is there. Whoever runs it holds a lock on it |
| `NAME.state.json` | how far it is, written every second while it is run, and how it ended |
| `NAME.results.jsonl` | the results (`bulk/results.py` has the columns); `.part` behind the name until they are whole |

The lock is the system's and ends with its process. So when a process is killed in the middle, another one goes on with
the list, from the ledger: what was answered is not asked again, and what was under way is held, since it may have been
charged (`ListState.held`). A list that is done stays as it is: to ask again for what failed, put its rows under another
name, since the ledger answers what was answered. To be rid of one, remove `NAME.*`. The folder's disk has to be local.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict, Unpack

from aisolution_async import clock, locks
from aisolution_async.api import Call
from aisolution_async.batching import Recheck
from aisolution_async.bulk import BulkError, BulkOptions, BulkRun
from aisolution_async.bulk.facts import calls_of
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, InputError
from aisolution_async.integrations.problems import title_of
from aisolution_async.ledger.urls import is_there, place_of
from aisolution_async.names import exists

__all__ = ["ListOptions", "ListState", "Lists"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_TELL_EVERY = 1.0
_AGAIN_AFTER = 60.0
_DAY = 86_400.0

_log = logging.getLogger(__name__)


class ListOptions(TypedDict, total=False):
    """The options of `run_bulk` that lists take."""

    columns: Mapping[str, str]
    values: Mapping[str, Any]
    key: str
    images_root: str | os.PathLike[str]
    ordered: bool
    concurrency: int
    reuse_for: float
    retry_unknown: int
    max_charges: int
    prices: Mapping[str, Decimal]
    max_cost: Decimal
    give_up: float
    recheck: Recheck


@dataclass(frozen=True, slots=True)
class ListState:
    """How far a list is. Nothing in it is secret, or of this machine.

    `status` is "running" while a process runs it, "done" once its results are whole, else "waiting". `total` is how
    many rows it has, None before it was begun. `done` rows have their outcome. Of those in the results so far, `ok`
    were answered, `checking` are not settled, since WhatsApp is still looking, and `failed` have problems, `held` of
    these because an attempt, by this run or before, may have been charged: such a row is not sent again.
    `problem` says why the last run ended early, None if it did not; the list is tried again after a minute.
    """

    status: Literal["waiting", "running", "done"]
    total: int | None = None
    done: int = 0
    ok: int = 0
    failed: int = 0
    held: int = 0
    checking: int = 0
    problem: str | None = None


class Lists:
    """Lists of rows that ask `call`, or several calls each, in `folder`, which is made if it is not there.

    `ledger` is the path or URL of the ledger that all lists share, `folder`/lists.ledger unless it is given; it may be
    the client's own. The other options are those of `run_bulk`. Images are read from below `images_root` only, `folder`
    unless it is given: a path in a list may be a stranger's.

    Raises ConfigurationError for calls that are none.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        call: type[Call[Any]] | Sequence[type[Call[Any]]],
        *,
        ledger: str | os.PathLike[str] | None = None,
        **options: Unpack[ListOptions],
    ) -> None:
        self._folder = Path(folder)
        self._calls = calls_of(call)
        self._ledger = self._folder / "lists.ledger" if ledger is None else place_of(ledger)
        self._options: ListOptions = {"images_root": self._folder, **options}

    def put(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Take a list: an object for each row, of the columns that `call` needs. It is safe on the disk on return.

        The same rows under the same name are one list, so a request may be repeated. Raises InputError for a name
        that is none (letters, digits, - and _, 100 at most), for rows that are none or cannot be written as JSON, and
        for other rows under a name that is there already; OSError where it cannot be written. Blocks while it writes.
        """
        path = self._list(name)
        if path is None:
            raise InputError("a list's name has 1 to 100 letters, digits, - and _, and begins with a letter or a digit")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number, new = tempfile.mkstemp(prefix=".", suffix=".new", dir=self._folder)
        try:
            with os.fdopen(number, "wb") as file:
                file.writelines(_line(row) for row in rows)
                is_empty = not file.tell()
                file.flush()
                os.fsync(number)
            if is_empty:
                raise InputError("a list needs one row or more")
            try:
                os.link(new, path)  # unlike a renaming, this replaces nothing
            except FileExistsError:
                if not _same(Path(new), path):
                    raise InputError("a list of this name is there, with other rows: choose another name") from None
        finally:
            Path(new).unlink(missing_ok=True)
        _sync(self._folder)

    def state(self, name: str) -> ListState | None:
        """How far the list is; None where there is no such list."""
        path = self._list(name)
        if path is None or not exists(path):
            return None
        is_running = _is_claimed(path)
        told = self._told(name)  # after the look at the lock: what a run says at its end is there before it lets go
        return replace(told, status="running") if is_running and told.status != "done" else told

    def results(self, name: str) -> Path | None:
        """The file of its results, once they are whole; None before that, and where there is no such list."""
        state, file = self.state(name), self._beside(name, "results.jsonl")
        return file if state is not None and state.status == "done" and exists(file) else None

    @asynccontextmanager
    async def running(self, client: AsyncClient, *, look_every: float = 1.0) -> AsyncIterator[None]:
        """Run the lists that wait, the oldest first and one at a time, for as long as the context lasts.

        Each process of a service does this, and looks for lists every `look_every` seconds: a list that one of them
        left, another one takes. At the end of the context what is under way is answered and recorded, and the rest of
        the list waits for the next process. Raises ConfigurationError for options that cannot work.
        """
        self.bulk_run("any", client)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(self._folder)
        runner = _Runner(self, client, look_every)
        task = asyncio.create_task(runner.run())
        try:
            yield
        finally:
            runner.stop()
            await task

    # ------------------------------------------------------------------------------------------------- for the runner

    def waiting(self, done: set[str]) -> list[str]:
        """The names of the lists that are not done, the oldest first. `done` remembers those that are. Blocks."""
        files = {path.name for path in self._folder.iterdir()}
        done &= {file.removesuffix(".results.jsonl") for file in files if file.endswith(".results.jsonl")}
        found: list[tuple[float, str]] = []
        for file in files:
            name = file.removesuffix(".jsonl")
            if name == file or name in done or not _NAME.fullmatch(name):
                continue
            if self._told(name).status == "done":
                done.add(name)
                continue
            with suppress(FileNotFoundError):  # somebody is rid of it
                found.append(((self._folder / file).stat().st_mtime, name))
        return [name for _, name in sorted(found)]

    @property
    def calls_a_row(self) -> int:
        """How many calls each row makes."""
        return len(self._calls)

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Hold the list, if nobody does and it is not done. Whether it is held."""
        file = _claim(self._beside(name, "jsonl"))
        try:
            yield file is not None and self._told(name).status != "done"
        finally:
            if file is not None:
                file.close()

    def bulk_run(self, name: str, client: AsyncClient) -> BulkRun:
        """The run of a list that is held."""
        results = self._beside(name, "results.jsonl")
        part = self._beside(name, "results.jsonl.part")
        # A purged ledger lacks answers that what a killed run left still has: they are taken from there. Without the
        # ledger nobody knows what was under way when it was killed, and `BulkRun` refuses to begin anew.
        left = [path for path in (part, results) if exists(path)] if is_there(self._ledger) else []
        options = BulkOptions(ledger=self._ledger, overwrite=bool(left), rescued=left, **self._options)
        return BulkRun(client, self._calls, self._beside(name, "jsonl"), results, options)

    def tell(self, name: str, state: ListState) -> None:
        """Write down how far a list is, at one stroke."""
        path = self._beside(name, "state.json")
        new = self._beside(name, "state.new")  # whoever holds the list is alone with it
        new.write_text(json.dumps(asdict(state)), encoding="ascii")
        new.replace(path)

    def _told(self, name: str) -> ListState:
        """What the last run of a list said of it."""
        try:
            state = ListState(**json.loads(self._beside(name, "state.json").read_bytes()))
        except (OSError, ValueError, TypeError):  # there is none, or it was torn by a loss of power
            return ListState("waiting")
        return state if state.status == "done" else replace(state, status="waiting")

    def _list(self, name: str) -> Path | None:
        return self._beside(name, "jsonl") if _NAME.fullmatch(name) else None

    def _beside(self, name: str, ending: str) -> Path:
        return self._folder / f"{name}.{ending}"


class _Runner:
    """One process's share of the running."""

    def __init__(self, lists: Lists, client: AsyncClient, look_every: float) -> None:
        self._lists = lists
        self._client = client
        self._look_every = look_every
        self._stopping = asyncio.Event()
        self._run: BulkRun | None = None
        self._done: set[str] = set()
        self._not_before: dict[str, float] = {}  # of lists whose run ended early

    async def run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._run_waiting()
            except OSError as exc:  # the folder cannot be read
                _log.error("lists cannot be looked for: %s", exc.strerror)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_every):
                    await self._stopping.wait()

    def stop(self) -> None:
        self._stopping.set()
        if self._run is not None:
            self._run.stop()

    async def _run_waiting(self) -> None:
        for name in await asyncio.to_thread(self._lists.waiting, self._done):
            if self._stopping.is_set():
                return
            if self._not_before.get(name, 0.0) <= clock.now():
                with self._lists.claimed(name) as is_held:
                    if is_held:
                        await self._run_one(name)

    async def _run_one(self, name: str) -> None:
        run = self._run = self._lists.bulk_run(name, self._client)
        problem: str | None = None
        telling = asyncio.create_task(self._keep_telling(name, run))
        try:
            await run.run()
        except Exception as exc:  # whatever is wrong with one list, the others go on
            problem = self._problem_of(name, exc)
        finally:
            self._run = None
            telling.cancel()
            with suppress(OSError):  # then a later run says it, from the ledger
                self._lists.tell(name, _state_of(run, run.summary.rows, problem))

    def _problem_of(self, name: str, exc: Exception) -> str:
        """Put the list off, and say why in words for strangers; the log gets those for us."""
        self._not_before[name] = clock.now() + _AGAIN_AFTER
        is_ours = isinstance(exc, AISolutionError)
        _log.error("the list %s was not run to its end: %s", name, exc if is_ours else type(exc).__name__)
        if isinstance(exc, BulkError) and exc.summary.gave_up is not None:
            return "The verification service does not answer"
        return title_of(exc) if isinstance(exc, AISolutionError) else title_of(AISolutionError(""))

    async def _keep_telling(self, name: str, run: BulkRun) -> None:
        while True:
            calls = 0 if run.progress is None else run.progress.done
            with suppress(OSError):
                # Rows are written in order: others behind the next one may be done.
                self._lists.tell(name, _state_of(run, max(run.summary.rows, calls // self._lists.calls_a_row)))
            await clock.sleep(_TELL_EVERY)


def _state_of(run: BulkRun, done: int, problem: str | None = None) -> ListState:
    told = run.summary
    status: Literal["running", "done"] = "done" if told.complete else "running"
    return ListState(status, run.total, done, told.ok, told.failed, told.held, told.checking, problem)


# ------------------------------------------------------------------------------------------------------------- files


def _claim(path: Path) -> BinaryIO | None:
    """The file, locked until it is closed. None where somebody has it locked, or where it is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        locks.close_in_children(file)
        locks.lock(file.fileno())
    except BaseException as exc:
        file.close()
        if isinstance(exc, BlockingIOError):
            return None
        raise
    return file


def _is_claimed(path: Path) -> bool:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        return locks.is_locked(file.fileno())


def _line(row: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(dict(row), allow_nan=False).encode("ascii") + b"\n"
    except (TypeError, ValueError):
        pass
    raise InputError("a list's row is an object of text, numbers and truth values")


def _sweep(folder: Path) -> None:
    """Remove what a process left that was killed while it took a list."""
    for path in folder.glob(".*.new"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _DAY:  # nobody is writing it any more
                path.unlink()


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            piece = first.read(1 << 20)
            if piece != second.read(1 << 20):
                return False
            if not piece:
                return True


def _sync(folder: Path) -> None:
    """Make the names in a folder safe on the disk, where the system opens folders."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
