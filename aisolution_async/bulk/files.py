"""Where finished rows go: the output, the file of problems, and what keeps the rows that an output cannot take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from aisolution_async.bulk.assemble import DoneCall, DoneRow
from aisolution_async.bulk.books import Abandoned, BookPlan
from aisolution_async.bulk.mending import Shown
from aisolution_async.bulk.outputs import Output, Rescue, UnwrittenError, as_json, digest_of
from aisolution_async.bulk.plan import Plan
from aisolution_async.bulk.results import RowState
from aisolution_async.bulk.rows import Row
from aisolution_async.bulk.summary import Summary


class Files:
    """The files that a run writes, as `plan` says.

    Where one cannot be written, `problem` says why, and `stop` is called. It is to `open()`, to `write()` each row, to
    `make()` once all are there, and in the end to `settle()`.
    """

    def __init__(self, plan: Plan, stop: Callable[[], None]) -> None:
        self.problem: str | None = None
        self._facts = plan.facts
        self._columns = plan.facts.columns
        self._formats = plan.formats
        self._output = plan.output
        self._problems = plan.problems
        self._stop = stop
        self._is_full = False  # the output takes no more rows
        self._told: list[str] = []  # what was told of the workbooks that were made
        self._kept_apart: Counter[bytes] = Counter()  # rows that the ledger could not take
        self._rescue: Rescue | None = None
        self._shown = Shown(plan.facts.rows.header)  # the rows in the file of problems
        self._was: str | None = None  # the file of problems as it was read

    def open(self, plan: Plan) -> None:
        """Make the part files. Raises ConfigurationError where one cannot be made."""
        columns, types, about = self._columns, plan.types, f"Results of {self._facts.source.path.name}"
        self._output.open(
            columns.names,
            replace=plan.replaces,
            types=[*types, *(kind for results in columns.results for kind in results.types)],
            plan=BookPlan(columns.results, self._facts.options.known_prices, about),
        )
        if self._problems is not None:
            if not self._facts.options.overwrite:
                taken = self._facts.source.mended.taken
                self._was = taken.get(self._problems.path) or digest_of(self._problems.path)
            self._problems.open(columns.of_problems, replace=plan.replaces, types=[*types, int, str])

    def close(self) -> None:
        """Leave what there is in the part files. Idempotent."""
        for file in (self._problems, self._output):
            if file is not None:
                file.close()

    # ----------------------------------------------------------------------------------------------------- one row

    def write(self, done: DoneRow) -> None:
        """Write a row, wherever it can be written."""
        cells, values = self._columns.of(done.row.cells), done.values
        # What is in the output and not in the ledger would be lost when another run begins the output anew.
        if done.is_unrecorded:
            line = as_json(self._columns.names, cells, values)
            self._keep_apart(line)
            self._kept_apart[line] += 1
        if self._is_full:
            self._keep_the_lost([as_json(self._columns.names, cells, values)])
            return
        try:
            self._output.write(cells, values, self._formats_in(done.row))
        except UnwrittenError as exc:
            self._fail(exc)
            return
        if done.state is RowState.FAILED and self._problems is not None:
            self._write_problem(self._problems, done)

    def _write_problem(self, file: Output, done: DoneRow) -> None:
        try:
            said = [done.row.line, problems_of(done)]
            file.write(self._columns.of(done.row.cells), said, self._formats_in(done.row))
            self._shown.add(done.row.line, self._facts.source.mended.mark(done.row))
        except UnwrittenError as exc:
            problem = f"the file of problems {str(file.part)!r} cannot be written: {exc.strerror}"
            self.problem = f"{problem}; the run was stopped"
            self._problems = None
            self._stop()

    def _formats_in(self, row: Row) -> Sequence[int | str]:
        return () if self._formats is None else tuple(self._columns.of(self._formats.of(row.line)))

    def _fail(self, exc: UnwrittenError) -> None:
        name = "standard output" if self._output.streams else f"the output {str(self._output.part)!r}"
        self.problem = f"{name} cannot be written: {exc.strerror}; the run was stopped"
        self._is_full = True
        self._keep_the_lost(exc.rows)
        self._stop()

    def _keep_the_lost(self, lines: Sequence[bytes]) -> None:
        """Keep the rows that the output could not take, those aside that were kept already."""
        for line in lines:
            if self._kept_apart[line] > 0:
                self._kept_apart[line] -= 1
            else:
                self._keep_apart(line)

    def _keep_apart(self, line: bytes) -> None:
        if self._rescue is None:
            self._rescue = Rescue(None if self._output.streams else self._output.path)
        self._rescue.write(line)

    # ------------------------------------------------------------------------------------------------- in the end

    async def make(self, is_given_up: Callable[[], bool]) -> None:
        """All rows have their results: make workbooks of them, where that is what was asked for."""
        if self._is_full:
            return
        for output in (self._problems, self._output):
            if output is not None:
                notes = self._facts.calls.warnings if output is self._output else []
                try:
                    self._told += await asyncio.to_thread(output.make, is_given_up, notes)
                except (Abandoned, UnwrittenError):
                    return  # where it cannot be written, that is told when it is finished
                except asyncio.CancelledError:
                    self._stop()  # a thread is not cancelled
                    raise

    def settle(self, summary: Summary, *, finished: bool) -> None:
        """Close the files, and say in `summary` what is where. `finished`: all rows have their results."""
        output, problems = self._output, self._problems
        if finished and not self._is_full:
            if problems is not None:
                self._finish_problems(problems)
            if self._finish(output):
                summary.output = output.path
        self.close()
        if problems is not None:
            place = problems.path if finished else problems.part
            summary.problems = place if place.exists() else None
        if summary.output is None and output.rows and not output.streams:
            summary.part = output.part
        mended = self._facts.source.mended.told(self._facts.source.path, is_read=finished)
        summary.warnings = [*self._facts.calls.warnings, *mended, *self._told]
        if self._rescue is not None:
            self._rescue.close()
            summary.rescued = self._rescue.places

    def _finish_problems(self, file: Output) -> None:
        """Give the file of problems its name, and note where its rows come from."""
        of, added = self._output.path, self._columns.added
        self._finish(file, lambda: file.finish(self._facts.ledger, of, added, self._shown.lines, self._was))

    def _finish(self, file: Output, finish: Callable[[], None] | None = None) -> bool:
        """Give a file its name. Whether it has it."""
        try:
            (finish or file.finish)()
        except UnwrittenError as exc:
            self.problem = f"the output {str(file.path)!r} cannot be finished: {exc.strerror}"
            if file is self._output and exc.rows:
                self._keep_the_lost(exc.rows)
            return False
        return True

    def told(self, problem: str) -> str:
        """`problem`, with where the rows went that were kept."""
        if self._rescue is None:
            return problem
        return f"{problem}, and {self._rescue.rows} rows went to {' and '.join(self._rescue.places)}"


def problems_of(done: DoneRow) -> str:
    """What is wrong with a row that failed, in one line, to be mended."""
    several = len(done.calls) > 1 and done.row.problem is None
    said = dict.fromkeys(_said(call, several=several) for call in done.calls if call.state is RowState.FAILED)
    if done.row.raw is not None:
        said[f"it reads: {done.row.raw}"] = None
    return " ".join("; ".join(said).split())


def _said(call: DoneCall, *, several: bool) -> str:
    problem = call.problem or ""
    return f"{call.endpoint.command}: {problem}" if several else problem
