"""One run: rows in, calls out, outcomes in, rows out, in the order of the input."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from aisolution_async import clock
from aisolution_async.api import Call
from aisolution_async.batch import Batch, Outcome, Progress
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.outputs import Output, Rescue, as_json
from aisolution_async.bulk.results import Results, is_held
from aisolution_async.bulk.rows import Row, Rows, UnreadableInputError
from aisolution_async.charges import Charge, Tally
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError, NotSentError
from aisolution_async.ledger import Ledger, LedgerError, State, schema

CONCURRENCY = 50


@dataclass(slots=True)
class Summary:
    """What a run has done so far, or did.

    `rows` counts the rows that have a result, `ok` those that were answered (`from_ledger` of them by an earlier
    call, `shared` of them by another row that asks the same) and `failed` those that were not, `errors` the
    latter by the error's class. `held` of the failed were not sent because an attempt at the same may have been
    charged. `unsent` rows were
    read when the run was stopped, and were neither asked nor written. `output` is the finished file; where the
    run did not come to its end, `part` is the file that has the rows so far, None if there are none. `rescued`
    says where rows went that could not be written to the output, or whose answer the ledger could not take.
    `seconds` is how long it took.
    """

    rows: int = 0
    ok: int = 0
    from_ledger: int = 0
    shared: int = 0
    failed: int = 0
    held: int = 0
    unsent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    output: Path | None = None
    part: Path | None = None
    rescued: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every row of the input has its row in the output."""
        return self.output is not None

    @property
    def over_budget(self) -> int:
        """How many of the failed were not sent because the budget was used up."""
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


class BulkRun:
    """One file through one endpoint; see `run_bulk` for the options.

    `run()` does it, once. Meanwhile `progress` says how far it is, and `stop()` ends it early. `summary` is
    true at any time, also after `run()` was cancelled. `on_resume` is called, before anything is sent, with how
    many answers the ledger has, if it was there before.
    """

    def __init__(
        self,
        client: AsyncClient,
        call: type[Call[Any]],
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        columns: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        key: str | None = None,
        concurrency: int = CONCURRENCY,
        overwrite: bool = False,
        ledger: str | os.PathLike[str] | None = None,
        retry_unknown: int | None = None,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        on_resume: Callable[[int], None] | None = None,
    ) -> None:
        self.summary = Summary()
        self._client = client
        self._call = call
        self._source = Path(source)
        self._target = Path(output)
        self._columns = columns or {}
        self._values = values or {}
        self._key = key
        self._concurrency = concurrency
        self._overwrite = overwrite
        self._ledger = None if ledger is None else Path(ledger)
        self._retry_unknown = retry_unknown
        self._budget: dict[str, Any] = {"max_charges": max_charges, "prices": prices, "max_cost": max_cost}
        self._on_resume = on_resume
        self._in_flight: dict[int, Row] = {}  # rows between the input and the output, by their place
        self._batch: Batch | None = None
        self._stopping = False
        self._is_full = False  # the output takes no more rows
        self._problem: str | None = None
        self._rescue: Rescue | None = None
        self._calls: Calls
        self._results: Results
        self._output: Output

    async def run(self) -> Summary:
        """Run to the end, or until stopped. Raises as `run_bulk` does."""
        started = clock.now()
        with Rows(self._source) as rows:
            self._calls = Calls(self._call, rows, columns=self._columns, values=self._values, key=self._key)
            # The client has no public way to take the token out of what a vendor echoes, and files are kept for long.
            redact = self._client._sender.requests.redact  # noqa: SLF001
            self._results = Results(self._call, rows.header, redact)
            self._names = [*rows.header, *self._results.names]
            resumes = self._check_ledger()
            if self._ledger is not None and resumes:
                await asyncio.to_thread(_check_is_ledger, self._ledger)
            output = self._output = Output(self._target, self._source)
            replaces = self._may_replace(resumes=resumes)
            ledger = None if self._ledger is None else Ledger(self._ledger, **self._budget)
            batch = self._client.batch(
                self._read(rows),
                concurrency=self._concurrency,
                ordered=True,
                retry_unknown=self._retry_unknown,
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
                output.open(self._names, replace=replaces)
                stack.callback(output.close)
                if ledger is not None and not resumes:
                    await stack.enter_async_context(ledger)
                try:
                    await self._ask(batch)
                    finished = not self._stopping
                finally:
                    self._settle(finished=finished)
                    self.summary.seconds = clock.now() - started
        if self._problem is not None:
            raise BulkError(self._problem, self.summary)
        return self.summary

    def stop(self) -> None:
        """Ask for a graceful end: nothing more is sent, what is under way is waited for and written."""
        self._stopping = True
        if self._batch is not None:
            self._batch.stop()

    @property
    def progress(self) -> Progress | None:
        """How far it is; None before it has begun."""
        return None if self._batch is None else self._batch.progress

    def _check_ledger(self) -> bool:
        """Whether there is a ledger to go on from."""
        endpoint, path = self._call.endpoint, self._ledger
        max_cost, prices = self._budget["max_cost"], self._budget["prices"] or {}
        if max_cost is not None and endpoint.name not in prices and not endpoint.never_charges:
            raise ConfigurationError(f"a limit on the cost needs the price of {endpoint.name}")
        if path is None:
            return False
        for other, what in ((self._source, "input"), (self._target, "output")):
            if path.absolute() == other.absolute() or (path.exists() and other.exists() and path.samefile(other)):
                raise ConfigurationError(f"the ledger {str(path)!r} is the {what}: give it a file of its own")
        return path.exists()

    def _may_replace(self, *, resumes: bool) -> bool:
        """Whether what there is of the output may go. Raises ConfigurationError if it may not, and is there."""
        why = ""
        if self._ledger is not None and not resumes:
            why = f", and its ledger {str(self._ledger)!r} is not there"
        elif resumes and self._call.endpoint.never_charges and self._key is None:
            # Such a call does something each time. It is only known to be the same by its key.
            why = ", and without a column of keys all of it would be done again"
        elif resumes:
            return True
        if not self._overwrite:
            self._output.check_free(why)
        return self._overwrite

    async def _look_into(self, ledger: Ledger) -> None:
        """Say how many answers there are, and refuse to buy again what was removed from the ledger."""
        answers, removed = await asyncio.to_thread(_count_answers, ledger)
        if removed and not self._overwrite:
            self._output.check_free(
                f", and {removed} of the answers paid for are not in its ledger any more, and would be paid for again"
            )
        if self._on_resume is not None:
            self._on_resume(answers)

    def _read(self, rows: Rows) -> Iterator[Call[Any] | AISolutionError]:
        for index, row in enumerate(rows):
            self._in_flight[index] = row
            yield self._calls.make(row)

    async def _ask(self, batch: Batch) -> None:
        if self._stopping:
            return
        try:
            async with batch:
                async for outcome in batch:
                    self._put(outcome)
        except UnreadableInputError as exc:
            self._problem = str(exc)
            self._stopping = True
        finally:
            # Answers that came in while the run was being cancelled are paid for too.
            for outcome in batch.unread:
                self._put(outcome)

    def _put(self, outcome: Outcome) -> None:
        """Write one row, wherever it can be written."""
        row, error, summary = self._in_flight.pop(outcome.index), outcome.error, self.summary
        if isinstance(error, LedgerError) and not self._stopping:
            self._problem = f"{error}; the run was stopped"
            self.stop()
        if self._stopping and isinstance(error, NotSentError | LedgerError) and not outcome.attempts:
            summary.unsent += 1
            return
        summary.rows += 1
        problem = None
        if error is None:
            summary.ok += 1
            if outcome.answered_by is not None:
                summary.shared += 1
            elif outcome.from_ledger:
                summary.from_ledger += 1
        else:
            summary.failed += 1
            summary.held += is_held(outcome)
            summary.errors[type(error).__name__] += 1
            problem = self._calls.explain(row, str(error)) if isinstance(error, InputError) else str(error)
        values = self._results.values(outcome, problem)
        # What is in the output and not in the ledger would be lost when another run begins the output anew.
        if not self._write(row, values) or any(attempt.recorded is False for attempt in outcome.attempts):
            if self._rescue is None:
                self._rescue = Rescue()
            self._rescue.write(as_json(self._names, row.cells, values))

    def _write(self, row: Row, values: list[Any]) -> bool:
        """Write it to the output; False if that cannot be."""
        if not self._is_full:
            try:
                self._output.write(row.cells, values)
            except OSError as exc:
                self._problem = f"the output {str(self._output.part)!r} cannot be written: {_reason(exc)}"
                self._problem += "; the run was stopped"
                self._is_full = True
                self.stop()
        return not self._is_full

    def _settle(self, *, finished: bool) -> None:
        """Close the files, and say what is where."""
        output, summary = self._output, self.summary
        if finished:
            try:
                output.finish()
                summary.output = output.path
            except OSError as exc:
                self._problem = f"the output {str(output.path)!r} cannot be finished: {_reason(exc)}"
        output.close()
        if summary.output is None and output.rows:
            summary.part = output.part
        if self._rescue is not None:
            self._rescue.close()
            summary.rescued = self._rescue.places
            if self._problem is not None:
                self._problem += f", and {self._rescue.rows} rows went to {' and '.join(summary.rescued)}"


async def run_bulk(
    client: AsyncClient,
    call: type[Call[Any]],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    key: str | None = None,
    concurrency: int = CONCURRENCY,
    overwrite: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    retry_unknown: int | None = None,
    max_charges: int | None = None,
    prices: Mapping[str, Decimal] | None = None,
    max_cost: Decimal | None = None,
) -> Summary:
    """Ask `call` for every row of the file `source`, and write every row, with its results, to `output`.

    ```python
    async with AsyncClient() as client:
        summary = await run_bulk(client, WhatsAppDetail, "applicants.csv", "results.csv", columns={"number": "phone"})
    ```

    `source` is CSV or TSV in UTF-8 with a header (`rows.py` says what it may be like), `output` CSV, TSV or
    JSONL by its ending. `columns` says which column holds a parameter, where it is not the one of the
    parameter's own name; optional parameters are sent only if they are in `columns` or `values`, which gives
    one value for all rows. `key` names a column for the calls' keys. Image cells are paths, relative to the
    folder of `source`, or base64. `results.py` lists the result columns.

    A row that cannot be asked, or that fails, is a row of the output too. While it runs, the rows are in
    `output` + ".part"; an existing output or part file is left alone unless `overwrite`.

    `ledger` is the path of a ledger for this run. Where it is there already, the run goes on from it: what it
    answers is not asked again, and the output is begun anew, whatever there is of it. `retry_unknown`,
    `max_charges`, `prices` and `max_cost` are as for `client.batch`, the limits over all runs with the ledger.

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
        concurrency=concurrency,
        overwrite=overwrite,
        ledger=ledger,
        retry_unknown=retry_unknown,
        max_charges=max_charges,
        prices=prices,
        max_cost=max_cost,
    )
    return await run.run()


def count_rows(source: Path, given_up: threading.Event) -> int | None:
    """How many rows the file has, None if it cannot be told or `given_up` was set. Blocks."""
    with suppress(AISolutionError), Rows(source) as rows:
        return rows.count(given_up.is_set)
    return None


def _check_is_ledger(path: Path) -> None:
    """Raise LedgerError if the file is something else: to open it as a ledger would close others off from it."""
    path = path.absolute()
    if not path.is_file():
        return  # what is wrong with it is said when it is opened
    try:
        # The ledger's own look at the file. Its public read side refuses what a killed run has only begun to make,
        # and older versions: both are put right when it is opened.
        with closing(schema._open(path, "ro", 10.0)) as db:  # noqa: SLF001
            schema._version(db, path)  # noqa: SLF001
    except sqlite3.Error as exc:
        raise schema.fault(path, exc) from None


def _count_answers(ledger: Ledger) -> tuple[int, int]:
    """How many answers there are to be had, and how many charged ones that there were are not."""
    here: Counter[State] = Counter(record.state for record in ledger.answers())
    lines = ledger.summary().lines
    bought = sum(line.attempts for line in lines if line.state is State.CHARGED and line.status == "OK")
    return here.total(), max(0, bought - here[State.CHARGED])


def _reason(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
