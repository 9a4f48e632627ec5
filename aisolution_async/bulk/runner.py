"""One run: rows in, calls out, outcomes in, rows out, in the order of the input."""

from __future__ import annotations

import asyncio
import codecs
import os
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from aisolution_async import clock
from aisolution_async.api import Call
from aisolution_async.batching import Batch, Progress, Recheck
from aisolution_async.bulk.books import MOST_ROWS, Abandoned, Plan
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.earlier import Earlier, Written, is_idle, sources_of
from aisolution_async.bulk.excel import separator
from aisolution_async.bulk.formats import NumberFormats
from aisolution_async.bulk.kinds import kinds_of
from aisolution_async.bulk.outputs import BOOK, STDOUT, Dialect, Output, Rescue, UnwrittenError, as_json, origin_of
from aisolution_async.bulk.results import Results, columns_of, exchanged, free_name, is_held, is_unsettled, problem_of
from aisolution_async.bulk.rows import Row, Rows, UnreadableInputError
from aisolution_async.charges import Attempt, Charge, Tally
from aisolution_async.checks import seconds
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError, NotSentError
from aisolution_async.hiding import forget_locals
from aisolution_async.ledger import LedgerError, Store, mark, open_ledger, urls
from aisolution_async.outcome import Failed, Outcome
from aisolution_async.sending.hooks import call_hook
from aisolution_async.spending import Spending

CONCURRENCY = 50

GIVE_UP = 300.0
"""Seconds for which a vendor that does not answer any more is tried."""
GIVE_UP_AT_FIRST = 60.0
"""Seconds for which one that has answered nothing at all is tried."""

_LOOK_EVERY = 1.0
_T = TypeVar("_T")


@dataclass(slots=True)
class Summary:
    """What a run has done so far, or did.

    `rows` counts the rows that have a result, `ok` those of which every call was answered (`from_ledger` of them by
    earlier calls, `shared` by other rows that ask the same, `taken_back` by what an earlier run wrote or rescued and
    the ledger lacks) and `failed` the others; `errors` counts the calls that failed, by the error's class. `held` of
    the failed were not sent because an attempt at the same may have been charged; one of them has as many as `holds`.
    `unsettled` of the failed, the `held` among them, may have been charged now or before: a ledger holds them.
    `checking` of the ok are not settled: the vendor is still checking them, or was not available. `unsent` rows were
    read when the run was stopped, and were neither asked nor written. `left_out` rows of empty cells stood at the
    very end of the input, where spreadsheets leave such, and have no row in the output. `output` is the finished file
    ("-" for standard output); where the run did not come to its end, `part` is the file that has the rows so far,
    None if there are none. `problems` is the file of the rows with problems, if there is to be one. `rescued` says
    where rows went that could not be written to the output, or whose answer the ledger could not take. `warnings` are
    lines on what was sent all the same, as landlines: each once, with a count and the first row. `gave_up` is why the
    vendor was not tried any longer, None where it was not given up. `hidden` is how many rows of a workbook nobody
    sees, asked or left out, and None where that cannot be told. `seconds` is how long it took.
    """

    rows: int = 0
    ok: int = 0
    from_ledger: int = 0
    shared: int = 0
    failed: int = 0
    held: int = 0
    holds: int = 1
    unsettled: int = 0
    checking: int = 0
    unsent: int = 0
    left_out: int = 0
    taken_back: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    output: Path | None = None
    part: Path | None = None
    problems: Path | None = None
    rescued: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    gave_up: str | None = None
    hidden: int | None = 0

    @property
    def complete(self) -> bool:
        """Whether every row of the input has its row in the output."""
        return self.output is not None

    @property
    def over_budget(self) -> int:
        """How many calls were not sent because the budget was used up."""
        return self.errors["BudgetExhaustedError"]


class BulkError(AISolutionError):
    """The run could not go on: the input cannot be read further, or the output or the ledger not be written.

    `summary` says what it did until then, and where the results are. `charge` is the dearest of any row.
    """

    def __init__(self, text: str, summary: Summary) -> None:
        tally = summary.tally
        super().__init__(
            text, charge=Charge.CHARGED if tally.charged else Charge.UNKNOWN if tally.unknown else Charge.FREE
        )
        self.summary = summary


@dataclass(slots=True)
class _Pending:
    """A row between the input and the output. `left` counts what it waits for."""

    row: Row
    outcomes: list[Outcome | None]
    left: int
    taken: Mapping[int, Written]  # what earlier runs wrote of its calls, which are not asked


class _TakenBackError(AISolutionError):
    """In the place of a call whose answer is taken over: nothing is asked."""


class BulkRun:
    """One file through one endpoint, or several; see `run_bulk` for the options.

    `run()` does it, once. Meanwhile `progress` says how far it is, in calls, and `stop()` ends it early. `summary` is
    true at any time, also after `run()` was cancelled. `on_start` is called, before anything is sent, with each
    line for people on the input and the columns that are used, `on_resume` with how many answers the ledger has, if it
    was there before.
    """

    def __init__(
        self,
        client: AsyncClient,
        call: type[Call[Any]] | Sequence[type[Call[Any]]],
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        columns: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        key: str | None = None,
        images_root: str | os.PathLike[str] | None = None,
        keep_metadata: bool = False,
        delimiter: str | None = None,
        encoding: str | None = None,
        sheet: str | None = None,
        skip_hidden: bool = False,
        header_row: int | None = None,
        ordered: bool = True,
        defuse: bool = True,
        excel: bool = False,
        problems: str | os.PathLike[str] | None = None,
        concurrency: int = CONCURRENCY,
        overwrite: bool = False,
        rescued: Sequence[str | os.PathLike[str]] = (),
        ledger: str | os.PathLike[str] | urls.Server | None = None,
        reuse_for: float | None = None,
        retry_unknown: int | None = None,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        give_up: float = GIVE_UP,
        recheck: Recheck | None = None,
        on_start: Callable[[str], None] | None = None,
        on_resume: Callable[[int], None] | None = None,
    ) -> None:
        self.summary = Summary()
        self.total: int | None = None
        """How many rows the input has, where that is known without counting them."""
        self._client = client.with_options(on_attempt=self._hear, keep_metadata=keep_metadata)
        self._hook = client.options.on_attempt
        self._kinds = calls_of(call)
        self._source = Path(source)
        self._target = Path(output)
        self._columns = columns or {}
        self._values = values or {}
        self._key = key
        self._images_root = None if images_root is None else Path(images_root)
        self._reading: dict[str, Any] = {
            "delimiter": delimiter,
            "encoding": encoding,
            "sheet": sheet,
            "skip_hidden": skip_hidden,
            "header_row": header_row,
        }
        self._ordered = ordered
        self._defuse = defuse
        self._excel = excel
        self._formats: NumberFormats | None = None
        self._told: list[str] = []  # what was told of the workbooks that were made
        self._problems_path = None if problems is None else Path(problems)
        self._concurrency = concurrency
        self._overwrite = overwrite
        self._named = [*map(Path, rescued)]
        self._ledger = None if ledger is None else urls.place_of(ledger)
        self._reuse_for = reuse_for
        self._retry_unknown = retry_unknown
        prices = Spending.of(max_charges, prices).prices
        self._budget: dict[str, Any] = {"max_charges": max_charges, "prices": prices, "max_cost": max_cost}
        self._give_up = seconds("give_up", give_up, zero=True, endless=True, otherwise=": math.inf to try for ever")
        self._recheck = recheck
        self._heard = False  # whether the vendor has said anything at all
        self._answers = 0  # attempts that were answered
        self._trouble: str | None = None
        self._on_start = on_start
        self._on_resume = on_resume
        self._entries: dict[int, _Pending] = {}  # rows between the input and the output, by their place
        self._next = 0  # the row that is to be written next, where order is kept
        self._lent: dict[int, int] = {}  # calls that were asked in the place of an earlier one, and which
        self._batch: Batch[Any] | None = None
        self._stopping = False
        self._is_full = False  # the output takes no more rows
        self._given_up = threading.Event()
        self._problem: str | None = None
        self._is_whole = False  # whether the ledger is known to have forgotten nothing
        self._stale: int | None = None  # the column of the problems that were mended
        self._kept_apart: Counter[bytes] = Counter()  # rows that the ledger could not take
        self._rescue: Rescue | None = None
        self._earlier: Earlier | None = None
        self._calls: Calls
        self._results: list[Results]
        self._output: Output
        self._problems: Output | None = None

    async def run(self) -> Summary:
        """Run to the end, or until stopped. Raises as `run_bulk` does."""
        try:
            return await self._run()
        except BaseException as exc:
            forget_locals(exc)  # rows are in them
            raise

    async def _run(self) -> Summary:
        started = clock.now()
        with ExitStack() as opened:
            rows = opened.enter_context(Rows(self._source, **self._reading))
            self.total = rows.total
            self.summary.hidden = rows.hidden
            self._calls = Calls(
                self._kinds,
                rows,
                columns=self._columns,
                values=self._values,
                key=self._key,
                images_root=self._images_root,
            )
            opened.callback(self._calls.close)
            self._name_results(rows)
            resumes = self._check_ledger()
            if self._ledger is not None and resumes:
                await asyncio.to_thread(urls.check_is_ledger, self._ledger)
            like = dialect_of(self._target, rows, excel=self._excel)
            output = self._output = Output(self._target, self._source, defuse=self._defuse, like=like)
            self._problems = self._problems_output(rows)
            await self._check_room()
            self._look_for_idle_parts(rows)
            replaces = self._may_replace(rows, resumes=resumes)
            if self._on_start is not None:
                for line in self._calls.lines():
                    self._on_start(line)
            types = await self._types_of(rows)
            self._formats = await self._formats_of(rows)
            ledger = None if self._ledger is None else open_ledger(self._ledger, **self._budget)
            batch = self._client.batch(
                self._read_photos(rows) if self._calls.take_images else self._read(rows),
                concurrency=self._concurrency,
                ordered=self._ordered,
                retry_unknown=self._retry_unknown,
                reuse_for=self._reuse_for,
                recheck=self._recheck,
                **(self._budget if ledger is None else {"ledger": ledger}),
            )
            self._batch = batch
            self.summary.tally = batch.tally
            finished = False
            async with AsyncExitStack() as stack:
                # What a stopped run left goes only once its ledger is known to be good; a new ledger is only
                # made where there can be an output.
                if ledger is not None and resumes:
                    await stack.enter_async_context(ledger)
                    await self._look_into(ledger)
                if not await self._look_back(stack, ledger if resumes else None):
                    return self.summary
                output.open(
                    self._names,
                    replace=replaces,
                    types=[*types, *(kind for results in self._results for kind in results.types)],
                    plan=Plan(self._results, self._budget["prices"], f"Results of {self._source.name}"),
                )
                stack.callback(output.close)
                if self._problems is not None:
                    self._problems.open(self._names_of_problems(rows), replace=replaces, types=[*types, str])
                    stack.callback(self._problems.close)
                if ledger is not None and not resumes:
                    await stack.enter_async_context(ledger)
                try:
                    await self._ask(batch)
                    await self._make()
                    finished = not self._stopping
                finally:
                    self._write_the_rest()
                    self._settle(finished=finished)
                    self.summary.left_out = rows.left_out
                    self.summary.seconds = clock.now() - started
        if self._problem is not None:
            raise BulkError(self._problem, self.summary)
        return self.summary

    def stop(self) -> None:
        """Ask for a graceful end: nothing more is sent, what is under way is waited for and written."""
        self._stopping = True
        self._given_up.set()
        if self._batch is not None:
            self._batch.stop()

    @property
    def progress(self) -> Progress | None:
        """How far it is; None before it has begun."""
        return None if self._batch is None else self._batch.progress

    @property
    def trouble(self) -> str | None:
        """Why the newest attempt that failed did, in a few words without anything secret; None if none did."""
        return self._trouble

    # --------------------------------------------------------------------------------------------- before it begins

    def _name_results(self, rows: Rows) -> None:
        if str(self._source) != STDOUT and "problem" in rows.header and origin_of(self._source) is not None:
            self._stale = rows.header.index("problem")
        self._names, self._results = columns_of(self._kinds, self._without_stale(rows.header), self._client.redact)

    def _without_stale(self, cells: Sequence[_T]) -> list[_T]:
        """`cells`, or what else there is for each column, without the old problem of a row that was mended."""
        return [cell for place, cell in enumerate(cells) if place != self._stale]

    async def _types_of(self, rows: Rows) -> list[Any]:
        """The types of the input's columns, where an output has types."""
        return self._without_stale(await self._types_of_all(rows))

    async def _types_of_all(self, rows: Rows) -> list[Any]:
        outputs = [output for output in (self._output, self._problems) if output is not None]
        if not any(output.as_parquet for output in outputs):
            return [str] * len(rows.header)
        if rows.schema is not None or rows.delimiter is not None:
            return kinds_of(rows, self._given_up)
        if str(self._source) == STDOUT and not _rewind_stdin():
            return [str] * len(rows.header)  # a pipe can be read once

        def look() -> list[Any]:
            with Rows(self._source, **self._reading) as again:
                return kinds_of(again, self._given_up)

        return await asyncio.to_thread(look)

    async def _check_room(self) -> None:
        """Raise ConfigurationError where a workbook has no room for all rows, which are counted for that."""
        outputs = [output for output in (self._output, self._problems) if output is not None and output.as_book]
        if outputs and self.total is None and _may_be_many(self._source):
            self.total = await asyncio.to_thread(count_rows, self._source, self._given_up, **self._reading)
        for output in outputs:
            output.check_room(self.total)

    async def _formats_of(self, rows: Rows) -> NumberFormats | None:
        """The number formats of the input, where an output can have them."""
        outputs = [output for output in (self._output, self._problems) if output is not None and output.as_book]
        if not outputs or rows.sheet is None:
            return None
        return await asyncio.to_thread(NumberFormats, self._source, rows.sheet, rows.numbers)

    def _problems_output(self, rows: Rows) -> Output | None:
        """The file of the rows with problems: like the input, if it is of the same format."""
        path = self._problems_path
        if path is None:
            return None
        for other, what in ((self._target, "output"), (self._ledger, "ledger")):
            if isinstance(other, Path) and path.absolute() == other.absolute():
                raise ConfigurationError(f"the file of problems {str(path)!r} is the {what}: give it another name")
        is_alike = rows.delimiter is not None and path.suffix.lower() == f".{rows.format}"
        like = None
        if is_alike and rows.delimiter is not None and rows.encoding is not None:
            like = Dialect(rows.delimiter, rows.encoding, rows.errors, rows.bom)
        # What is to be mended and read again stays as it was; elsewhere it would be text that becomes a formula.
        return Output(path, self._source, private=True, defuse=self._defuse and not is_alike, like=like)

    def _names_of_problems(self, rows: Rows) -> list[str]:
        header = self._without_stale(rows.header)
        return [*header, free_name("problem", header)]

    def _look_for_idle_parts(self, rows: Rows) -> None:
        """A run that was killed before it had asked anything leaves files that nobody needs."""
        with suppress(OSError):
            self._output.part_is_taken = any(named.samefile(self._output.part) for named in self._named)
        for output in (self._output, self._problems):
            if output is not None and not output.streams:
                names = self._names if output is self._output else self._names_of_problems(rows)
                output.part_is_idle = is_idle(output.part, output.path.suffix.lower(), names, output.between)

    def _check_ledger(self) -> bool:
        """Whether there is a ledger to go on from."""
        path = self._ledger
        paid = [call.endpoint.name for call in self._kinds if not call.endpoint.never_charges]
        if self._budget["max_cost"] is not None and (missing := self._budget["prices"].missing(paid)):
            raise ConfigurationError(f"a limit on the cost needs the price of {missing[0]}")
        if path is None:
            return False
        if not isinstance(path, Path):
            return urls.is_there(path)
        part = _beside(self._target, ".part")
        others = [(self._source, "input"), (self._target, "output"), (part, "part file of the output")]
        if (problems := self._problems_path) is not None:
            sides = [_beside(problems, ending) for ending in (".part", ".of", ".of.part")]
            others += [(side, "note beside the file of problems, or its part file") for side in sides]
        for other, what in others:
            if path.absolute() == other.absolute() or (path.exists() and other.exists() and path.samefile(other)):
                raise ConfigurationError(f"the ledger {str(path)!r} is the {what}: give it a file of its own")
        self._is_whole = mark.seen(Path(os.path.realpath(path))) is not None
        return path.exists()

    def _may_replace(self, rows: Rows, *, resumes: bool) -> bool:
        """Whether what there is of the outputs may go. Raises ConfigurationError if it may not, and is there."""
        why = ""
        if self._ledger is not None and not resumes:
            self._check_held(rows)
            why = f", and its ledger {str(self._ledger)!r} is not there"
        elif resumes and any(call.endpoint.never_charges for call in self._kinds) and not self._calls.keyed:
            # Such a call does something each time. It is only known to be the same by its key.
            why = ", and without a column of keys all of it would be done again"
        elif resumes:
            self._check_mended()
            return True
        self._check_free(why)
        return self._overwrite

    def _check_held(self, rows: Rows) -> None:
        """Raise ConfigurationError for a file of problems that lost the note of its ledger, where rows are held."""
        if self._overwrite or self._stale is not None or str(self._source) == STDOUT or "problem" not in rows.header:
            return
        place = rows.header.index("problem")
        with suppress(UnreadableInputError), Rows(self._source, **self._reading) as again:
            if any("held: it " in str(row.cells[place]) for row in again):
                raise ConfigurationError(
                    f"{str(self._source)!r} has rows that an earlier run holds, since they may have been charged, and "
                    "nothing says which ledger is that run's: name it (--ledger), or say --overwrite to send them again"
                )

    def _check_mended(self) -> None:
        """Raise ConfigurationError where somebody's work, or the results of more than this input, would be lost."""
        if self._overwrite:
            return
        if self._problems is not None:
            self._problems.check_unchanged()
        origin = None if str(self._source) == STDOUT else origin_of(self._source)
        if origin is None or self._output.streams or not self._target.exists():
            return
        if self._target.absolute() == origin.output.absolute():
            raise ConfigurationError(
                f"{str(self._target)!r} has the results of all rows, and {str(self._source)!r} only those of them that "
                "had problems: give the output another name, or say --overwrite"
            )

    def _check_free(self, why: str) -> None:
        if not self._overwrite:
            hint = "say --rescued {!r} to take its answers over, " if self._ledger is None else ""
            self._output.check_free(why, hint)
            if self._problems is not None:
                self._problems.check_free(why)

    async def _look_into(self, ledger: Store) -> None:
        """Say how many answers there are, and refuse to buy again what was removed from the ledger."""
        answers, removed = await asyncio.to_thread(_count_answers, ledger)
        if removed:
            self._check_free(
                f", and {removed} of the answers paid for are not in its ledger any more, and would be paid for again"
            )
        if self._on_resume is not None:
            self._on_resume(answers)

    async def _look_back(self, stack: AsyncExitStack, ledger: Store | None) -> bool:
        """Look after the answers that earlier runs wrote. False if the run was stopped meanwhile.

        Raises ConfigurationError where answers that were paid for would go, and be paid for again.
        """
        sources = sources_of(self._output, self._named, resumes=ledger is not None, has_ledger=self._ledger is not None)
        if not sources or self._given_up.is_set():
            return not self._given_up.is_set()
        earlier = Earlier(
            sources,
            self._kinds,
            self._results,
            self._names,
            cells_of=lambda row: self._without_stale(row.cells),
            key=self._calls.key_column,
            is_whole=self._is_whole,
        )
        stack.callback(earlier.close)
        path = None if ledger is None else self._ledger
        try:
            if await asyncio.to_thread(earlier.gather, ledger, self._given_up):
                with ExitStack() as again:
                    whole = None
                    if str(self._source) != STDOUT or _rewind_stdin():
                        whole = again.enter_context(Rows(self._source, **self._reading))
                    await earlier.compare(whole, self._calls, self._client, path, self._given_up)
            if self._given_up.is_set():
                return False
            if earlier.lost and not self._overwrite and self._ledger is None:
                raise ConfigurationError(
                    f"{str(earlier.where)!r} has {earlier.lost} answers that were paid for and are of no row of the "
                    "input: move it away, or say --overwrite"
                )
            if earlier.lost and not self._overwrite:
                where, ledger_path = repr(str(earlier.where)), repr(str(self._ledger))
                raise ConfigurationError(
                    f"{where} has results of an earlier run, and {earlier.lost} of the answers paid for are not in its "
                    f"ledger any more, and would be paid for again: bring back the ledger {ledger_path} as it was, "
                    f"together with its '-wal' file; or say --rescued {where} to take the answers from there, or "
                    "--overwrite to pay again"
                )
            await asyncio.to_thread(earlier.keep, self._target)
        except sqlite3.Error as exc:
            problem = str(exc)
        else:
            self._earlier = earlier
            return True
        raise ConfigurationError(
            f"the temporary folder {tempfile.gettempdir()!r} cannot be used: {problem}; set TMPDIR"
        )

    # ------------------------------------------------------------------------------------------------- while it runs

    def _read(self, rows: Rows) -> Iterator[Call[Any] | AISolutionError]:
        for place, row in enumerate(rows):
            yield from self._calls_of(place, row)

    async def _read_photos(self, rows: Rows) -> AsyncIterator[Call[Any] | AISolutionError]:
        """The same, where photos may have to be searched for."""
        for place, row in enumerate(rows):
            await self._calls.ready(row)
            for call in self._calls_of(place, row):
                yield call
            await asyncio.sleep(0)  # looking for files is slow, and others use this loop

    def _calls_of(self, place: int, row: Row) -> Iterator[Call[Any] | AISolutionError]:
        each = len(self._kinds)
        taken = {} if self._earlier is None else self._earlier.take(row)
        self._entries[place] = _Pending(row, [None] * each, each, taken)
        for number, call in enumerate(self._calls.make(row)):
            yield _TakenBackError("taken from an earlier run") if number in taken else call

    async def _ask(self, batch: Batch[Any]) -> None:
        if self._stopping:
            return
        try:
            async with batch:
                with self._watched(batch):
                    async for outcome in batch:
                        self._take(outcome)
        except UnreadableInputError as exc:
            self._problem = str(exc)
            self._stopping = True
        finally:
            # Answers that came in while the run was being cancelled are paid for too.
            for outcome in batch.unread:
                self._take(outcome)

    def _hear(self, call: Call[Any], attempt: Attempt) -> None:
        self._heard = self._heard or attempt.status is not None
        self._answers += attempt.status not in (None, "RETRY_LATER")
        if attempt.error is not None:
            self._trouble = attempt.error
        if self._hook is not None:
            call_hook("on_attempt", self._hook, call, attempt)

    @contextmanager
    def _watched(self, batch: Batch[Any]) -> Iterator[None]:
        """Stop where the vendor does not answer for so long that nobody would wait any longer."""
        watching = asyncio.create_task(self._watch(batch))
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self, batch: Batch[Any]) -> None:
        since, answers = clock.now(), 0
        while not self._stopping:
            now = clock.now()
            if not batch.braked or answers != self._answers:
                since, answers = now, self._answers
            patience = self._give_up if self._heard else min(self._give_up, GIVE_UP_AT_FIRST)
            if batch.braked and now - since >= patience:
                self.summary.gave_up = self._trouble or "no answer came"
                self._problem = f"the vendor has not answered for {now - since:.0f} s: {self.summary.gave_up}"
                self._problem += "; the run was stopped: run it again to go on"
                self.stop()
                return
            await clock.sleep(_LOOK_EVERY)

    def _take(self, outcome: Outcome) -> None:
        """Put an outcome to its row, and write the rows that are whole now."""
        if isinstance(outcome.error, LedgerError) and not self._stopping:
            self._problem = f"{outcome.error}; the run was stopped"
            self.stop()
        index, waits = outcome.index, False
        if self._ordered:
            if index in self._lent:
                first = self._lent.pop(index)
                earlier = self._outcome(first)
                assert earlier is not None
                earlier, outcome = exchanged(earlier, outcome)
                self._keep(earlier)
            elif outcome.answered_by is not None and outcome.answered_by > index:
                waits = self._lent.setdefault(outcome.answered_by, index) == index
        self._keep(outcome, waits=waits)
        if not self._ordered:
            place = index // len(self._kinds)
            if self._entries[place].left == 0:
                self._put(self._entries.pop(place))
            return
        while (entry := self._entries.get(self._next)) is not None and entry.left == 0:
            self._put(self._entries.pop(self._next))
            self._next += 1

    def _outcome(self, index: int) -> Outcome | None:
        place, number = divmod(index, len(self._kinds))
        return self._entries[place].outcomes[number]

    def _keep(self, outcome: Outcome, *, waits: bool = False) -> None:
        place, number = divmod(outcome.index, len(self._kinds))
        entry = self._entries[place]
        entry.outcomes[number] = outcome
        entry.left -= not waits

    def _write_the_rest(self) -> None:
        """Rows of which the run was stopped in the middle: what there is of them may be paid for."""
        for place in sorted(self._entries):
            self._put(self._entries.pop(place))

    def _put(self, entry: _Pending) -> None:
        """Write one row, wherever it can be written."""
        row, summary = entry.row, self.summary
        outcomes = [
            self._unasked(number) if outcome is None else outcome for number, outcome in enumerate(entry.outcomes)
        ]
        unsent = [o for o in outcomes if isinstance(o.error, NotSentError | LedgerError) and not o.attempts]
        if self._stopping and unsent and not any(o.ok or o.attempts for o in outcomes) and not entry.taken:
            summary.unsent += 1
            return
        asked = [outcome for number, outcome in enumerate(outcomes) if number not in entry.taken]
        failed = [outcome for outcome in asked if not outcome.ok]
        errors = [type(outcome.error).__name__ for outcome in failed]
        errors += [said.error for said in entry.taken.values() if not said.ok]
        summary.rows += 1
        summary.failed += bool(errors)
        summary.ok += not errors
        summary.unsettled += any(
            not outcome.ok and number not in entry.taken and is_unsettled(outcome, self._kinds[number].endpoint)
            for number, outcome in enumerate(outcomes)
        )
        if held := [outcome.error for outcome in failed if is_held(outcome)]:
            summary.held += 1
            summary.holds = max(summary.holds, *(getattr(error, "holds", 1) for error in held))
        summary.errors.update(errors)
        checking = not errors and not all(o.reply is None or o.reply.is_answer for o in asked)
        summary.checking += checking
        if not errors and not checking and entry.taken:
            summary.taken_back += 1
        elif not errors and not checking:
            bought = [outcome for outcome in outcomes if outcome.answered_by is None]
            summary.shared += not bought
            summary.from_ledger += bool(bought) and all(outcome.from_ledger for outcome in bought)
        problems, values = [], []
        for number, (results, outcome) in enumerate(zip(self._results, outcomes, strict=True)):
            said = entry.taken.get(number)
            problems.append(self._problem_of(row, number, outcome) if said is None else said.problem)
            values += results.values(outcome, problems[-1]) if said is None else said.values
        # What is in the output and not in the ledger would be lost when another run begins the output anew.
        if any(attempt.recorded is False for outcome in outcomes for attempt in outcome.attempts):
            line = as_json(self._names, self._without_stale(row.cells), values)
            self._keep_apart([line])
            self._kept_apart[line] += 1
        self._write(row, values)
        if errors and self._problems is not None and not self._is_full:
            self._write_problem(self._problems, row, problems)

    def _unasked(self, number: int) -> Outcome:
        name = self._kinds[number].endpoint.name
        error = NotSentError(f"{name}: not sent: the run was stopped before it was sent", endpoint=name)
        return Failed(-1, None, None, None, error, ())

    def _problem_of(self, row: Row, number: int, outcome: Outcome) -> str | None:
        if outcome.ok:
            return None
        # A problem that was found before there was a call says by itself where.
        if isinstance(outcome.error, InputError) and outcome.call is not None:
            return self._calls.explain(row, number, str(outcome.error))
        return problem_of(outcome, self._kinds[number].endpoint, holds=self._ledger is not None)

    def _write(self, row: Row, values: list[Any]) -> None:
        """Write it to the output, or keep it apart."""
        cells = self._without_stale(row.cells)
        if self._is_full:
            self._keep_the_lost([as_json(self._names, cells, values)])
            return
        try:
            self._output.write(cells, values, self._formats_in(row))
        except UnwrittenError as exc:
            self._fail(self._output, exc)

    def _formats_in(self, row: Row) -> Sequence[int | str]:
        return () if self._formats is None else tuple(self._without_stale(self._formats.of(row.line)))

    def _write_problem(self, output: Output, row: Row, problems: Sequence[str | None]) -> None:
        several = len(self._kinds) > 1 and row.problem is None
        said = dict.fromkeys(
            f"{call.endpoint.command}: {problem}" if several else problem
            for call, problem in zip(self._kinds, problems, strict=True)
            if problem is not None
        )
        if row.raw is not None:
            said[f"it reads: {row.raw}"] = None
        try:
            cells = self._without_stale(row.cells)
            output.write(cells, [" ".join("; ".join(said).split())], self._formats_in(row))
        except UnwrittenError as exc:
            self._problem = f"the file of problems {str(output.part)!r} cannot be written: {exc.strerror}"
            self._problem += "; the run was stopped"
            self._problems = None
            self.stop()

    def _fail(self, output: Output, exc: UnwrittenError) -> None:
        name = "standard output" if output.streams else f"the output {str(output.part)!r}"
        self._problem = f"{name} cannot be written: {exc.strerror}; the run was stopped"
        self._is_full = True
        self._keep_the_lost(exc.rows)
        self.stop()

    def _keep_the_lost(self, lines: Sequence[bytes]) -> None:
        """Keep the rows that the output could not take, those aside that were kept already."""
        for line in lines:
            if self._kept_apart[line] > 0:
                self._kept_apart[line] -= 1
            else:
                self._keep_apart([line])

    def _keep_apart(self, lines: Sequence[bytes]) -> None:
        if self._rescue is None:
            self._rescue = Rescue(None if self._output.streams else self._target)
        for line in lines:
            self._rescue.write(line)

    async def _make(self) -> None:
        """All rows have their results: make workbooks of them, where that is what was asked for."""
        if self._stopping or self._is_full:
            return
        for output in (self._problems, self._output):
            if output is not None:
                notes = self._calls.warnings if output is self._output else []
                try:
                    self._told += await asyncio.to_thread(output.make, self._given_up.is_set, notes)
                except (Abandoned, UnwrittenError):
                    return  # where it cannot be written, that is told when it is finished
                except asyncio.CancelledError:
                    self._given_up.set()  # a thread is not cancelled
                    raise

    def _settle(self, *, finished: bool) -> None:
        """Close the files, and say what is where."""
        output, problems, summary = self._output, self._problems, self.summary
        for file in (problems, output) if finished and not self._is_full else ():
            if file is None:
                continue
            try:
                if file is problems:
                    file.finish(self._ledger, output.path)
                else:
                    file.finish()
            except UnwrittenError as exc:
                self._problem = f"the output {str(file.path)!r} cannot be finished: {exc.strerror}"
                if file is output and exc.rows:
                    self._keep_the_lost(exc.rows)
            else:
                if file is output:
                    summary.output = output.path
        for file in (problems, output):
            if file is not None:
                file.close()
        if problems is not None:
            place = problems.path if finished else problems.part
            summary.problems = place if place.exists() else None
        if summary.output is None and output.rows and not output.streams:
            summary.part = output.part
        summary.warnings = [*self._calls.warnings, *self._told]
        self._settle_rescue()

    def _settle_rescue(self) -> None:
        if self._rescue is None:
            return
        self._rescue.close()
        self.summary.rescued = self._rescue.places
        if self._problem is not None:
            self._problem += f", and {self._rescue.rows} rows went to {' and '.join(self.summary.rescued)}"


def dialect_of(target: Path, rows: Rows, *, excel: bool) -> Dialect | None:
    """How CSV is written: as the input's, if it is CSV too, or so that Excel opens it; None for what is usual.

    Raises ConfigurationError for another format that is to be CSV for Excel.
    """
    if target.suffix.lower() != ".csv":
        if excel and target.suffix.lower() != BOOK:
            raise ConfigurationError(
                f"what Excel opens is .csv or .xlsx: give the output {str(target)!r} such an ending"
            )
        return None
    is_csv = rows.format == "csv" and rows.delimiter is not None
    between = rows.delimiter if is_csv and rows.delimiter is not None else separator() if excel else ","
    return Dialect(between, bom=codecs.BOM_UTF8 if excel or (is_csv and rows.bom) else b"", excel=excel)


def _may_be_many(source: Path) -> bool:
    """Whether a file is so large that it may have more rows than a sheet. A row takes a byte at least."""
    try:
        return str(source) != STDOUT and source.stat().st_size > MOST_ROWS
    except OSError:
        return True


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


async def run_bulk(
    client: AsyncClient,
    call: type[Call[Any]] | Sequence[type[Call[Any]]],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    key: str | None = None,
    images_root: str | os.PathLike[str] | None = None,
    keep_metadata: bool = False,
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    skip_hidden: bool = False,
    header_row: int | None = None,
    ordered: bool = True,
    defuse: bool = True,
    excel: bool = False,
    problems: str | os.PathLike[str] | None = None,
    concurrency: int = CONCURRENCY,
    overwrite: bool = False,
    rescued: Sequence[str | os.PathLike[str]] = (),
    ledger: str | os.PathLike[str] | urls.Server | None = None,
    reuse_for: float | None = None,
    retry_unknown: int | None = None,
    max_charges: int | None = None,
    prices: Mapping[str, Decimal] | None = None,
    max_cost: Decimal | None = None,
    give_up: float = GIVE_UP,
    recheck: Recheck | None = None,
) -> Summary:
    """Ask `call` for every row of the file `source`, and write every row, with its results, to `output`.

    ```python
    async with AsyncClient() as client:
        summary = await run_bulk(client, WhatsAppDetail, "applicants.xlsx", "results.csv", columns={"number": "phone"})
    ```

    `call` may be several, `[FaceCompare, WhatsAppDetail]`: each row is asked all of them, one bad cell stops none of
    the others, and the result columns' names begin with the endpoint's. `source` is CSV, TSV, JSONL, Parquet or a
    workbook (`rows.py` says what it may be like; `delimiter`, `encoding`, `sheet` and `header_row` say what cannot be
    found out, and `skip_hidden` leaves out the rows of a workbook that nobody sees), or "-" for JSONL on standard
    input. `output` is a workbook (.xlsx), CSV, TSV, JSONL or Parquet by its ending, or "-" for JSONL on standard
    output; CSV has the delimiter and the byte order mark of an input that is CSV too. `columns` says
    which column holds a parameter, and `values` gives one value for all rows: by the parameter's name or, where two
    endpoints differ, as `"id-holding.img"`. What neither names is found by the columns' names, a phone number's also by
    its cells (`choice.py`). `key` names a column for the calls' keys, else found by its name. Image cells are paths,
    relative to the folder of `source`, or base64; what is not there is searched for by its name in `images_root`, else
    in that folder (`photos.py`), and no image outside of `images_root` is read. Where a photo was taken (GPS) is not
    sent with it, unless `keep_metadata`. `results.py` lists the result columns.

    A row that cannot be asked, or that fails, is a row of the output too, and if `problems` names a file (of any of
    these formats), also of that: as it came, with a column that says what is wrong, to be mended and run.
    `ordered=False` writes rows as they finish. `defuse=False` leaves cells of CSV and TSV that a spreadsheet takes for
    formulas as they are; `excel=True` writes CSV for Excel, as `excel.py` has it. A workbook (`books.py`) is made when
    all rows are there. While it runs, the rows are in `output` + ".part"; an existing output or part file is left
    alone unless `overwrite`.

    `ledger` is the path or URL of a ledger for this run. Where it is there already, the run goes on from it: what it
    answers is not asked again, and the output is begun anew. An answer that the output, its part file or a file of
    rescued rows beside it has, and the ledger has not, is taken over: a row that has one is not asked. `rescued` names
    more files to take answers from. Where the ledger does not even know the question, it has lost its memory, and the
    run refuses unless `overwrite`. `reuse_for`, `retry_unknown`,
    `max_charges`, `prices` and `max_cost` are as for `client.batch`, the limits over all runs with the ledger.
    Without a ledger, a Parquet file that was killed in the middle cannot be read. The file `problems` remembers its
    ledger in a small file beside it, `problems` + ".of", and is not replaced unless `overwrite` once somebody
    changed it.

    A vendor that does not answer is tried for `give_up` seconds (for 60 at most if it has answered nothing yet), and
    then the run stops as `stop()` stops it. `recheck` asks again for numbers that WhatsApp is still checking: where
    order is kept, the rows behind such a one wait for it.

    Raises ConfigurationError or LedgerError, before anything is sent, for files and columns that cannot be
    used; BulkError when the run has to stop in the middle.
    """
    run = BulkRun(
        client,
        call,
        source,
        output,
        columns=columns,
        values=values,
        key=key,
        images_root=images_root,
        keep_metadata=keep_metadata,
        delimiter=delimiter,
        encoding=encoding,
        sheet=sheet,
        skip_hidden=skip_hidden,
        header_row=header_row,
        ordered=ordered,
        defuse=defuse,
        excel=excel,
        problems=problems,
        concurrency=concurrency,
        overwrite=overwrite,
        rescued=rescued,
        ledger=ledger,
        reuse_for=reuse_for,
        retry_unknown=retry_unknown,
        max_charges=max_charges,
        prices=prices,
        max_cost=max_cost,
        give_up=give_up,
        recheck=recheck,
    )
    return await run.run()


def calls_of(call: type[Call[Any]] | Sequence[type[Call[Any]]]) -> tuple[type[Call[Any]], ...]:
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


def _count_answers(ledger: Store) -> tuple[int, int]:
    """How many answers there are to be had, and how many charged ones that there were are not.

    By one look: another run may be writing, and what it adds between two of them would seem to be lost.
    """
    summary = ledger.summary()
    return summary.answers, summary.lost
