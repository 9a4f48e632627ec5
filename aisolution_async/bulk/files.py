"""Where finished rows go: the output, the file of problems, and what keeps the rows that an output cannot take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from aisolution_async.bulk import pretended, shell
from aisolution_async.bulk.assemble import DoneCall, DoneRow
from aisolution_async.bulk.books import Abandoned, BookPlan
from aisolution_async.bulk.disk import digest_of
from aisolution_async.bulk.encoders import as_json
from aisolution_async.bulk.facts import Facts
from aisolution_async.bulk.mending import Shown
from aisolution_async.bulk.outputs import Output, UnwrittenError
from aisolution_async.bulk.plan import Plan
from aisolution_async.bulk.rescue import Rescue
from aisolution_async.bulk.results import RowState, holds_of, unknown_of
from aisolution_async.bulk.rows import Row
from aisolution_async.bulk.summary import PASSING, Summary
from aisolution_async.charges import Charge
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place
from aisolution_async.names import exists, perhaps


class Files:
    """The files that a run writes, as `plan` says.

    `again` is the output to go on with. Where one cannot be written, `problem` says why, and `stop` is called. It is to
    `open()`, to `write()` each row, to `make()` once all are there, and in the end to `settle()`.
    """

    def __init__(self, plan: Plan, stop: Callable[[], None], again: Path) -> None:
        self.problem: str | None = None
        self._again = again
        self._facts = plan.facts
        self._columns = plan.facts.columns
        self._formats = plan.formats
        self._output = plan.output
        self._problems = (
            None if plan.problems is None else _RowsToDo(plan.problems, plan.facts, plan.facts.columns.added)
        )
        self._held = None if plan.held is None else _RowsToDo(plan.held, plan.facts, plan.facts.columns.added_to_held)
        self._stop = stop
        self._is_full = False  # the output takes no more rows
        self._remedy: str | None = None  # what to do before the run goes on
        self._told: list[str] = []  # what was told of the workbooks that were made
        self._kept_apart: Counter[bytes] = Counter()  # rows that the ledger could not take
        self._rescue: Rescue | None = None

    def open(self, plan: Plan, *, takes_over: bool = False) -> None:
        """Make the part files; `takes_over`: in the place of another run's. Raises ConfigurationError."""
        columns, types, about = self._columns, plan.types, f"Results of {self._facts.source.path.name}"
        self._output.open(
            columns.names,
            replace=plan.replaces,
            takes_over=takes_over,
            types=[*types, *(kind for results in columns.results for kind in results.types)],
            plan=BookPlan(columns.results, self._facts.options.known_prices, about, pretended.told(self._facts.whom)),
        )
        if self._problems is not None:
            self._problems.open(replace=plan.replaces, takes_over=takes_over, types=types)
        if self._held is not None:
            self._held.open(replace=True, takes_over=takes_over, types=types, late=True)

    def close(self) -> None:
        """Leave what there is in the part files. Idempotent."""
        for file in (self._problems, self._held):
            if file is not None:
                file.output.close()
        self._output.close()

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
        if done.state is RowState.FAILED:
            self._write_problems(done)

    def write_total(self, row: Row) -> None:
        """Write a row of which nothing is asked."""
        cells = self._columns.of(row.cells)
        values = [None for results in self._columns.results for _ in results.names]
        if not self._is_full:
            try:
                self._output.write(cells, values, self._formats_in(row))
            except UnwrittenError as exc:
                self._fail(exc)

    def _write_problems(self, done: DoneRow) -> None:
        """Write a row where somebody finds what to do about it: what is held is not to be mended."""
        failed = [call for call in done.calls if call.state is RowState.FAILED]
        held = [] if self._held is None else [call for call in failed if call.is_held]
        bad = [call for call in failed if call not in held and self._is_to_mend(call)]
        row = done.row.line
        if bad and self._problems is not None:
            self._put(self._problems, done, [row, problems_of(done, bad)])
        if held and self._held is not None:
            ledger, command = self._facts.ledger, self._facts.options.command or ()
            assert ledger is not None
            again = None if self._output.streams else shell.go_on_with(self._again, ledger, command)
            remedies = dict.fromkeys(remedy_of(call, ledger, again) for call in held)
            self._put(self._held, done, [row, problems_of(done, held), "; ".join(remedies)])

    def _is_to_mend(self, call: DoneCall) -> bool:
        """Whether a call that failed would fail again. Without a ledger, only the file knows what to ask again."""
        return self._facts.ledger is None or call.error not in PASSING

    def _put(self, file: _RowsToDo, done: DoneRow, said: Sequence[Any]) -> None:
        try:
            file.write(done.row, self._columns.of(done.row.cells), said, self._formats_in(done.row))
        except (UnwrittenError, ConfigurationError) as exc:
            problem = str(exc)
            if isinstance(exc, UnwrittenError):
                problem = f"the {file.output.called} {str(file.output.part)!r} cannot be written: {exc.strerror}"
                self._remedy = exc.remedy
            self.problem = f"{problem}; the run was stopped"
            self._problems = self._held = None
            self._stop()

    def _formats_in(self, row: Row) -> Sequence[int | str]:
        return () if self._formats is None else tuple(self._columns.of(self._formats.of(row.line)))

    def _fail(self, exc: UnwrittenError) -> None:
        name = "standard output" if self._output.streams else f"the output {str(self._output.part)!r}"
        self.problem = f"{name} cannot be written: {exc.strerror}; the run was stopped"
        self._is_full, self._remedy = True, exc.remedy
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
        files = [file.output for file in (self._problems, self._held) if file is not None and file.is_open]
        for output in (*files, self._output):
            notes = self._facts.calls.warnings if output is self._output else []
            try:
                self._told += await asyncio.to_thread(output.make, is_given_up, notes)
            except (Abandoned, UnwrittenError):
                return  # where it cannot be written, that is told when it is finished
            except asyncio.CancelledError:
                self._stop()  # a thread is not cancelled
                raise

    def discard(self) -> None:
        """Leave no part files, but for those that are another run's already."""
        for output in (self._output, *(file.output for file in (self._problems, self._held) if file is not None)):
            output.discard()

    def settle(self, summary: Summary, *, finished: bool) -> None:
        """Close the files, and say in `summary` what is where. `finished`: all rows have their results."""
        output, to_do = self._output, [file for file in (self._problems, self._held) if file is not None]
        if finished and not self._is_full:
            for file in to_do:
                if file is self._held and not file.output.rows:
                    file.remove()
                else:
                    self._finish(file.output, partial(file.finish, output.path))
            if self._finish(output):
                summary.output = output.path
        is_lost = output.is_lost
        copy = self._copy_of_lost() if is_lost and output.rows and self._is_alone else None
        self.close()
        for file in to_do:
            place = file.output.path if finished else file.output.part
            if file is self._problems:
                summary.problems = place if perhaps(exists, place) else None
            elif file.output.rows:
                summary.to_settle = place if perhaps(exists, place) else None
        if summary.output is None and output.rows and not output.streams:
            summary.part = copy if is_lost else output.part
        mended = self._facts.source.mended.told(self._facts.source.path, is_read=finished)
        summary.warnings = [*self._facts.calls.warnings, *mended, *self._told]
        if self._rescue is not None:
            self._rescue.close()
            summary.rescued = self._rescue.places

    @property
    def _is_alone(self) -> bool:
        """Whether only the part file has the rows: there is no ledger, or somebody removed it too."""
        ledger = self._facts.ledger
        return ledger is None or (isinstance(ledger, Path) and not perhaps(exists, ledger))

    def _copy_of_lost(self) -> Path | None:
        """Keep the rows of a part file that has lost its name, where nothing else has them."""
        copy = self._output.copy()
        where = "there was no room for a copy" if copy is None else f"{self._output.rows} rows went to {str(copy)!r}"
        problem = self.problem or f"the part file {str(self._output.part)!r} was removed while the run wrote it"
        self.problem = f"{problem}; {where}"
        return copy

    def _finish(self, file: Output, finish: Callable[[], None] | None = None) -> bool:
        """Give a file its name. Whether it has it."""
        try:
            (finish or file.finish)()
        except UnwrittenError as exc:
            self.problem = f"the {file.called} {str(file.path)!r} cannot be finished: {exc.strerror}"
            self._remedy = exc.remedy
            is_there = not file.streams and not file.is_lost and exists(file.part)
            if file is self._output and not exc.rows and is_there:
                self.problem += f"; the rows are safe in {str(file.part)!r}"
            if file is self._output and exc.rows:
                self._keep_the_lost(exc.rows)
            return False
        return True

    def told(self, problem: str) -> str:
        """`problem`, with where the rows went that were kept, and what to do then."""
        if self._rescue is not None:
            problem = f"{problem}, and {self._rescue.rows} rows went to {' and '.join(self._rescue.places)}"
        return problem if self._remedy is None else f"{problem}: {self._remedy} first"


class _RowsToDo:
    """A file of rows about which somebody has to do something, with the columns that they get."""

    def __init__(self, output: Output, facts: Facts, added: tuple[str, ...]) -> None:
        self.output = output
        self._facts = facts
        self._added = added
        self._shown = Shown(facts.rows.header)
        self._was: str | None = None  # the file as it was read
        self._open: Callable[[], None] | None = None  # makes the part file, as long as there is none

    @property
    def is_open(self) -> bool:
        """Whether there is a part file."""
        return self._open is None

    def open(self, *, replace: bool, takes_over: bool, types: Sequence[Any], late: bool = False) -> None:
        """Make the part file, or only with its first row, where that is `late`. Raises ConfigurationError."""
        mended, path = self._facts.source.mended, self.output.path
        if not self._facts.options.overwrite:
            self._was = mended.taken.get(path) or digest_of(path)
        kinds = [*types, int, *(str for _ in self._added[1:])]
        names = [*self._facts.columns.inputs, *self._added]
        self._open = partial(self.output.open, names, replace=replace, takes_over=takes_over, types=kinds)
        if not late:
            self._make()

    def _make(self) -> None:
        if self._open is not None:
            self._open()
            self._open = None

    def write(self, row: Row, cells: Sequence[Any], said: Sequence[Any], formats: Sequence[int | str]) -> None:
        """Add a row. Raises UnwrittenError; ConfigurationError where the part file cannot be made."""
        self._make()
        self.output.write(cells, said, formats)
        self._shown.add(row.line, self._facts.source.mended.mark(row))

    def finish(self, of: Path) -> None:
        """Give the file its name, and note where its rows come from. Raises UnwrittenError."""
        self.output.finish(self._facts.ledger, of, self._added, self._shown.lines, self._was)

    def remove(self) -> None:
        """There is nothing to do any more."""
        self.output.close()
        with suppress(OSError):
            self.output.part.unlink(missing_ok=True)  # one that was killed left it
        self.output.remove()


def remedy_of(call: DoneCall, ledger: Place, go_on: Sequence[str] | None) -> str:
    """What to do about a call that may have been charged, and is not sent again by itself.

    `go_on` are the words of the command that goes on with the run; None where there is none but the run's own.
    """
    outcome, name = call.outcome, call.endpoint.name
    unknown = unknown_of(outcome)
    attempt = unknown[-1] if unknown else outcome.recorded
    again = "run it again" if go_on is None else shell.shown(*go_on)
    times = holds_of(outcome)
    buy = f"{again} --retry-unknown {times}"
    if attempt is not None and attempt.charge is Charge.CHARGED:
        return f"it was charged, and its answer is lost: {buy} buys it again, and all other rows that are held"
    when = "" if attempt is None else f" of {attempt.started_at:%Y-%m-%d %H:%M:%S} UTC"
    key = None if outcome.key is None else str(outcome.key)
    whose = "" if key is None else f", {key!r}"
    settle, hint = shell.shown("aisolution", "ledger", "resolve", ledger), ""
    if key is not None:
        named = [shell.shown(*(["--"] if key.startswith("-") else []), key)]
    else:
        known = unknown or ([] if attempt is None else [attempt])
        ids = [each.id for each in known if each.id is not None]
        named = [f"--by-id {id_}" for id_ in ids] or ["--by-id ID"]
        hint = "" if ids else f" ({shell.shown('aisolution', 'ledger', 'attempts', '--unknown', ledger)} shows the ID)"
    free, charged = (" and ".join(f"{settle} {each} {how}" for each in named) for how in ("free", "charged"))
    return (
        f"ask the vendor, or look into the invoice, whether the request {name}{when}{whose} was charged. If it was "
        f"not: {free}{hint}, and then {again}, which sends it again. If it was: {charged}. To have the "
        f"answer, even if it is paid for twice: {buy}, which sends all rows that are held again, and not only this one"
    )


def problems_of(done: DoneRow, calls: Sequence[DoneCall]) -> str:
    """What is wrong with those calls of a row that failed, in one line."""
    several = len(done.calls) > 1 and done.row.problem is None
    said = dict.fromkeys(_said(call, several=several) for call in calls)
    if done.row.raw is not None:
        said[f"it reads: {done.row.raw}"] = None
    return " ".join("; ".join(said).split())


def _said(call: DoneCall, *, several: bool) -> str:
    problem = call.problem or ""
    return f"{call.endpoint.command}: {problem}" if several else problem
