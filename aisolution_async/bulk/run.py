"""One run: rows in, calls out, outcomes in, rows out, in the order of the input."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast

from aisolution_async import clock
from aisolution_async.api import Call
from aisolution_async.batching import Batch, Progress
from aisolution_async.bulk.alike import Alike
from aisolution_async.bulk.assemble import Assembler, DoneRow
from aisolution_async.bulk.earlier import Earlier
from aisolution_async.bulk.facts import Asked, Facts, Input, calls_of, gather, in_thread
from aisolution_async.bulk.files import Files
from aisolution_async.bulk.options import BulkOptions, StrPath, by_keyword
from aisolution_async.bulk.photos import Photos
from aisolution_async.bulk.plan import Plan, plan
from aisolution_async.bulk.results import RowState
from aisolution_async.bulk.resume import count_answers, look_back
from aisolution_async.bulk.rows import Row, UnreadableInputError
from aisolution_async.bulk.sample import Estimate, ListSample, check_list
from aisolution_async.bulk.summary import PASSING, BulkError, Summary
from aisolution_async.bulk.watch import TakenBackError, Watch
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.hiding import forget_locals
from aisolution_async.ledger import Balance, LedgerError, Store, open_ledger
from aisolution_async.outcome import Outcome
from aisolution_async.sending.hooks import call_hook

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class ShardTurn:
    """What a list of a folder is run with: the `ledger`, open, and what was in it as the first list was begun.

    The results get their name within `finishing`, unless it gives False. `takes_over`: whoever has the part file open
    has lost the list. `whole` is the folder of results, which is gone on with to settle what is held. `photos` are
    those of the folder of lists.
    """

    ledger: Store
    balance: Balance
    finishing: Callable[[], AbstractAsyncContextManager[bool]]
    takes_over: bool
    whole: Path
    photos: Photos


class BulkRun:
    """One file through one endpoint, or several; see `run_bulk`. An option may be given by its keyword, too.

    `run()` does it, once. Meanwhile `progress` says how far it is, in calls, and `stop()` ends it early. `summary` is
    true at any time, also after `run()` was cancelled. With a `sample`, only its rows are asked, and it takes what
    comes of them: no file is written but the ledger. A list of a folder is run in its `turn` (`shards.py`).
    """

    def __init__(
        self,
        client: AsyncClient,
        call: Asked,
        source: StrPath,
        output: StrPath,
        options: BulkOptions | None = None,
        *,
        sample: ListSample | None = None,
        turn: ShardTurn | None = None,
        **changed: Any,
    ) -> None:
        options = BulkOptions(**changed) if options is None else dataclasses.replace(options, **changed)
        if sample is not None:
            options = dataclasses.replace(options, ordered=True)  # of rows that ask the same, the first is the dear one
        self.summary = Summary()
        self.total: int | None = None
        """How many rows there are, where that is known without counting them; of a sample, how many are asked."""
        self.making = False
        """Whether all rows have their results, and a workbook is made of them."""
        self.unreadable: str | None = None
        """Why the input could not be read to its end; None where it could."""
        self._input: Input | None = None
        self._asking: _Asking | None = None
        watch = self._watch = Watch(options.give_up, client.options.on_attempt, client.options.on_outcome)
        self._client = client.with_options(
            on_attempt=watch.hear, on_outcome=watch.see, keep_metadata=options.keep_metadata
        )
        self._kinds = calls_of(call)
        self._source = Path(source)
        self._target = Path(output)
        self._options = options
        self._sample = sample
        self._turn = turn

    async def run(self) -> Summary:
        """Run to the end, or until stopped. Raises as `run_bulk` does."""
        started = clock.now()
        try:
            planned = await in_thread(self._plan, Plan.close)
            with closing(planned):
                self.total, self._input = planned.total, planned.facts.source
                self.summary.hidden, self.summary.whom = planned.facts.rows.hidden, planned.facts.whom
                await self._carry_out(planned, started)
        except BaseException as exc:
            forget_locals(exc)  # rows are in them
            raise
        return self.summary

    def count(self, given_up: threading.Event) -> int | None:
        """How many rows there are, None if that cannot be told yet, or `given_up` was set. Blocks."""
        return None if self._input is None else self._input.count(given_up)

    @property
    def totals(self) -> int:
        """How many of the rows read so far are totals: no part of the progress, as nothing is asked of them."""
        return 0 if self._asking is None or self._sample is not None else self._asking.totals

    def stop(self) -> None:
        """Ask for a graceful end: nothing more is sent, what is under way is waited for and written."""
        self._watch.stop()

    @property
    def progress(self) -> Progress | None:
        """How far it is; None before it has begun."""
        return self._watch.progress

    @property
    def trouble(self) -> str | None:
        """Why the newest attempt that failed did, in a few words without anything secret; None if none did."""
        return self._watch.trouble

    def _plan(self) -> Plan:
        if self._sample is not None:
            check_list(self._source, self._options)
        photos = None if self._turn is None else self._turn.photos
        facts = gather(self._kinds, self._source, self._target, self._options, self._client, photos=photos)
        try:
            return plan(facts, self._watch.given_up)
        except BaseException:
            facts.close()
            raise

    async def _carry_out(self, planned: Plan, started: float) -> None:
        facts, options, watch = planned.facts, self._options, self._watch
        if options.on_start is not None:
            for line in filter(None, (*facts.lines(), facts.source.mended.line())):
                options.on_start(line)
        if self._sample is not None:
            await self._sample.draw(facts, self._client, watch.given_up)
            self.total = self._sample.rows
        ledger, opening = self._ledger_of(facts)
        asking = self._asking = _Asking(facts, watch, self.summary, self._sample)
        batch = self._client.batch(
            asking.calls(),
            concurrency=options.concurrency,
            ordered=options.ordered,
            retry_unknown=options.retry_unknown,
            reuse_for=options.reuse_for,
            recheck=options.recheck,
            **(options.budget if ledger is None else {"ledger": ledger}),
        )
        watch.follow(batch)
        self.summary.tally = batch.tally
        async with AsyncExitStack() as stack:
            # What a stopped run left goes only once its ledger is known to be good; a new ledger is only
            # made where there can be an output.
            before = ledger if facts.resumes else None
            if before is not None:
                await stack.enter_async_context(opening)
                balance = await asyncio.to_thread(before.summary) if self._turn is None else self._turn.balance
                answers = count_answers(facts, balance, planned.output, planned.problems)
                if options.on_resume is not None:
                    options.on_resume(answers)
            asking.earlier = await look_back(
                *(facts, planned.output, before, self._client),
                stack=stack,
                given_up=watch.given_up,
                is_known=self._turn is not None,
            )
            if watch.stopping:
                return
            files = asking.files = self._files_of(planned)
            stack.callback(files.close)
            files.open(planned, takes_over=self._turn is not None and self._turn.takes_over)
            self._remember(facts)
            if before is None:
                await stack.enter_async_context(opening)
            finished = False
            try:
                await asking.ask(batch)
                asking.end()
                if not watch.stopping:
                    self.making = any(output.as_book for output in planned.outputs) and self._sample is None
                    await files.make(watch.given_up.is_set)
                    self.making = False
                finished = not watch.stopping and await self._may_finish(stack, files)
            finally:
                asking.end()
                files.settle(self.summary, finished=finished)
                self.unreadable = asking.unreadable
                self.summary.warnings += asking.alike.told
                self.summary.left_out, self.summary.blank = facts.rows.left_out, facts.rows.blank
                self.summary.gave_up = watch.gave_up
                self.summary.seconds = clock.now() - started
            if self.summary.complete and asking.earlier is not None and not planned.output.streams:
                await asyncio.to_thread(asking.earlier.put_away, planned.output.path)
            if self.summary.complete and not self.summary.failed + self.summary.checking:
                with suppress(ConfigurationError):  # all is there, and the next run finds that out by itself
                    self._remember(facts, finished=True)
        if (problem := files.problem or watch.problem) is not None:
            raise BulkError(files.told(problem), self.summary)

    def _ledger_of(self, facts: Facts) -> tuple[Store | None, AbstractAsyncContextManager[object]]:
        """The ledger, and what opens it, where it is not open."""
        if self._turn is not None:
            return self._turn.ledger, nullcontext()
        ledger = None if facts.ledger is None else open_ledger(facts.ledger, **self._options.budget)
        return ledger, ledger or nullcontext()

    def _files_of(self, planned: Plan) -> Files | ListSample:
        whole = None if self._turn is None else self._turn.whole
        if self._sample is not None:
            return self._sample
        return Files(planned, self._watch.stop, whole or planned.output.path)

    async def _may_finish(self, stack: AsyncExitStack, files: Files | ListSample) -> bool:
        """Whether the results may have their name. Of a list of a folder, they may until `stack` is closed.

        If not, they are another worker's to write, and nothing is left of them here.
        """
        if self._turn is None or await stack.enter_async_context(self._turn.finishing()):
            return True
        self._watch.stop("another worker has taken the list over")
        if isinstance(files, Files):
            files.discard()
        return False

    def _remember(self, facts: Facts, *, finished: bool = False) -> None:
        if self._sample is None:  # which leaves all as it is, for the run of the whole
            facts.remember(finished=finished)


class _Asking:
    """The rows of a run on their way: to calls, and from their outcomes to the files."""

    def __init__(self, facts: Facts, watch: Watch, summary: Summary, sample: ListSample | None) -> None:
        self.earlier: Earlier | None = None
        """What earlier runs wrote, before the first row is read."""
        self.files: Files | ListSample
        """Where finished rows go, before the first one is there."""
        self.alike = Alike(facts.calls, facts.columns.results)
        self.unreadable: str | None = None
        """Why the input could not be read to its end."""
        self._facts = facts
        self._watch = watch
        self._summary = summary
        self._sample = sample
        self.totals = 0
        """How many totals were read."""
        self._totals: list[Row] = []
        self._assembler = Assembler(
            facts.columns.results,
            ordered=facts.options.ordered,
            holds=facts.ledger is not None,
            explain=facts.calls.explain,
            unit=facts.calls.unit,
        )

    def calls(self) -> Iterator[Call[Any] | AISolutionError] | AsyncIterator[Call[Any] | AISolutionError]:
        """The calls of all rows; in the place of one that cannot be made, why."""
        return self._read_photos() if self._facts.calls.take_images else self._read()

    def _read(self) -> Iterator[Call[Any] | AISolutionError]:
        for place, row in enumerate(self._rows()):
            yield from self._calls_of(place, row)

    async def _read_photos(self) -> AsyncIterator[Call[Any] | AISolutionError]:
        """The same, where photos may have to be searched for."""
        for place, row in enumerate(self._rows()):
            await self._facts.calls.ready(row)
            for call in self._calls_of(place, row):
                yield call
            await asyncio.sleep(0)  # looking for files is slow, and others use this loop

    def _rows(self) -> Iterator[Row]:
        """The rows to be asked. Totals stand behind all of them, and are kept for the end."""
        for row in self._facts.rows:
            if row.is_total:
                self.totals += 1
                self._totals.append(row)
                self._facts.calls.make(row)  # it was read, as all others
            elif self._sample is None or self._sample.wants(row):
                yield row

    def _calls_of(self, place: int, row: Row) -> Iterator[Call[Any] | AISolutionError]:
        taken = {} if self.earlier is None else self.earlier.take(row)
        self._assembler.expect(place, row, taken)
        for number, call in enumerate(self._facts.calls.make(row)):
            yield TakenBackError("taken from an earlier run") if number in taken else call

    async def ask(self, batch: Batch[Any]) -> None:
        """Ask until all is answered, or the run is stopped."""
        if self._watch.stopping:
            return
        try:
            async with batch:
                with self._watch.watching(batch):
                    async for outcome in batch:
                        self._take(outcome)
        except UnreadableInputError as exc:
            self.unreadable = str(exc)
            self._watch.stop(self.unreadable)
        finally:
            # Answers that came in while the run was being cancelled are paid for too.
            for outcome in batch.unread:
                self._take(outcome)

    def end(self) -> None:
        """Write the rows of which the run was stopped in the middle, or else the totals. Idempotent."""
        for done in self._assembler.rest():
            self._finish(done)
        if not self._watch.stopping:
            for row in self._totals:
                self.files.write_total(row)
                self._summary.totals += 1
            self._totals.clear()

    def _take(self, outcome: Outcome) -> None:
        """Put an outcome to its row, and write the rows that are whole now."""
        if isinstance(outcome.error, LedgerError) and not self._watch.stopping:
            self._watch.stop(f"{outcome.error}; the run was stopped")
        line = self.alike.see(*self._assembler.row_of(outcome), outcome)
        if line is not None and self._facts.options.on_warning is not None:
            call_hook("on_warning", self._facts.options.on_warning, line)
        self._assembler.take(outcome)
        for done in self._assembler.whole():
            self._finish(done)

    def _finish(self, done: DoneRow) -> None:
        """Count a row and write it, if anything was asked of it."""
        if self._watch.stopping and done.is_untouched:
            self._summary.unsent += 1
            return
        self._summary.count(done)
        for number, call in enumerate(done.calls):
            if call.state is RowState.FAILED and not call.is_held and call.error not in PASSING:
                self._summary.show(self._facts.calls.located(done.row, number, call.problem or str(call.error)))
        self.files.write(done)


class RunsBulk(Protocol[P]):
    """`run_bulk`, with the parameters of `BulkOptions` as its own."""

    def __call__(
        self,
        client: AsyncClient,
        call: Asked,
        source: StrPath,
        output: StrPath,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, Summary]:
        """See `run_bulk`."""


def _typed(_: Callable[P, BulkOptions]) -> Callable[[Callable[..., Coroutine[Any, Any, Summary]]], RunsBulk[P]]:
    return lambda function: cast("RunsBulk[P]", by_keyword(function))


@_typed(BulkOptions)
async def run_bulk(client: AsyncClient, call: Asked, source: StrPath, output: StrPath, options: BulkOptions) -> Summary:
    """Ask `call` for every row of the file `source`, and write every row, with its results, to `output`.

    ```python
    async with AsyncClient() as client:
        summary = await run_bulk(client, WhatsAppDetail, "applicants.xlsx", "results.csv", columns={"number": "phone"})
    ```

    `call` may be several, `[FaceCompare, WhatsAppDetail]`: each row is asked all of them, one bad cell stops none of
    the others, and the result columns' names begin with the endpoint's. `source` is CSV, TSV, JSONL, Parquet or a
    workbook (`rows.py` says what it may be like), or "-" for JSONL on standard input. Image cells are paths, relative
    to the folder of `source`, or base64. `output` is a workbook (.xlsx), CSV, TSV, JSONL or Parquet by its ending, or
    "-" for JSONL on standard output; CSV has the delimiter and the byte order mark of an input that is CSV too.
    `results.py` lists the result columns.

    A row that cannot be asked, or that fails, is a row of the output too. A workbook (`books.py`) is made when all rows
    are there. While it runs, the rows are in `output` + ".part"; an existing output or part file is left alone unless
    `overwrite`.

    Where its ledger is there already, the run goes on from it, and the output is begun anew. An answer that the output,
    its part file or a file of rescued rows beside it has, and the ledger has not, is taken over: a row that has one is
    not asked. Where the ledger does not even know the question, it has lost its memory, and the run refuses unless
    `overwrite`. Without a ledger, a Parquet file that was killed in the middle cannot be read.

    Raises ConfigurationError or LedgerError, before anything is sent, for files and columns that cannot be
    used; BulkError when the run has to stop in the middle.
    """
    return await BulkRun(client, call, source, output, options).run()


class Samples(Protocol[P]):
    """`sample_bulk`, with the parameters of `BulkOptions` as its own."""

    def __call__(
        self,
        client: AsyncClient,
        call: Asked,
        source: StrPath,
        output: StrPath,
        size: int,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, Estimate]:
        """See `sample_bulk`."""


def _samples(_: Callable[P, BulkOptions]) -> Callable[[Callable[..., Coroutine[Any, Any, Estimate]]], Samples[P]]:
    return lambda function: cast("Samples[P]", by_keyword(function))


@_samples(BulkOptions)
async def sample_bulk(
    client: AsyncClient, call: Asked, source: StrPath, output: StrPath, size: int, *, options: BulkOptions
) -> Estimate:
    """Ask `size` rows of a list, drawn at random, and say what the whole would cost and answer.

    The rows are really asked, and paid for, with the ledger of the run, which is needed: `run_bulk` with the same
    arguments reuses the answers. The same list has the same sample: what was asked once is not paid for again. Nothing
    is written to `output`. Where the budget ends before the sample does, what was not asked makes the estimate wider.

    Raises as `run_bulk` does.
    """
    sample = ListSample(size)
    await BulkRun(client, call, source, output, options, sample=sample).run()
    assert sample.estimate is not None  # nobody could stop it
    return sample.estimate
