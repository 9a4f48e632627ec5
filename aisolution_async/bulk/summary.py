"""What a run did, counted row by row."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from aisolution_async.bulk.assemble import DoneRow
from aisolution_async.bulk.results import RowState, counts_of, holds_of
from aisolution_async.charges import Charge, Tally
from aisolution_async.errors import AISolutionError

PASSING = ("RetryLaterError", "NotSentError", "BudgetExhaustedError")
"""The errors of calls that are free, and that need nothing but to be asked again."""

_WARNINGS = 20
_SHOWN = 5
_DIGITS = re.compile(r"\+?\d[\d ().-]{5,}\d")  # a phone number, perhaps, in the name of a photo


@dataclass(slots=True)
class Summary:
    """What a run has done so far, or did.

    `rows` counts the rows that have a result: `ok` those of which every call was answered (`from_ledger` of them by
    earlier calls, `shared` by other rows that ask the same, `taken_back` by what an earlier run wrote or rescued and
    the ledger lacks), `failed` those with a call that failed, and `checking` the others, which are not settled: the
    vendor is still checking them, or was not available. `errors` counts the calls that failed, by the error's class.
    `calls` counts the calls of these rows by their charge, whichever run they were charged in, with those of the free
    that were not sent; `tally` counts the attempts of this run.
    `held` of the failed may have been charged, now or before, and have no answer: the ledger holds them, and one of
    them has as many such attempts as `holds`. The others that failed, `to_mend`, have problems: `rows` = `ok` +
    `checking` + `held` + `to_mend`. `errors_held` are those of the `errors` that are of calls that are held. `unsent`
    rows were read when the run was stopped, and were neither asked nor written. `left_out` rows of empty cells stood at
    the very end of the input, where spreadsheets leave such, and have no row in the output; `blank` stood among the
    others. `totals` are the rows at
    the end that are totals: they were not asked, and are in the output as they came. `output` is the finished file ("-"
    for standard output); where the run did not come to its end, `part` is the file that has the rows so far, None if
    there are none. `problems` is the file of the rows with problems, if there is to be one: with a ledger, without
    those that need nothing but to be asked again. `to_settle` is that of the rows that are held, with what to do about
    each; None if there are none. `rescued` says where rows went that could not be written to the output, or whose
    answer the ledger could not take. `warnings` are lines on what was sent all the same, as landlines: each once, with
    a count and the first row. `gave_up` is why the vendor was not tried any longer, None where it was not given up.
    `first_problems` has the first rows with problems that are not held, a line for people each, without numbers.
    `hidden` is how many rows of a workbook nobody sees, asked or left out, and None where that cannot be told.
    `whom` says who was asked, if not the vendor: `sandbox`, or an address; None for the vendor. `seconds` is how long
    it took.
    """

    rows: int = 0
    ok: int = 0
    from_ledger: int = 0
    shared: int = 0
    failed: int = 0
    held: int = 0
    holds: int = 1
    checking: int = 0
    unsent: int = 0
    left_out: int = 0
    blank: int = 0
    totals: int = 0
    taken_back: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    errors_held: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    output: Path | None = None
    part: Path | None = None
    problems: Path | None = None
    to_settle: Path | None = None
    rescued: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    gave_up: str | None = None
    first_problems: list[str] = field(default_factory=list)
    hidden: int | None = 0
    whom: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every row of the input has its row in the output."""
        return self.output is not None

    @property
    def to_mend(self) -> int:
        """How many rows failed and are not held."""
        return self.failed - self.held

    @property
    def over_budget(self) -> int:
        """How many calls were not sent because the limit on spending was reached."""
        return self.errors["BudgetExhaustedError"]

    @property
    def unreached(self) -> bool:
        """Whether the vendor could not be reached at all."""
        is_only_that = "NotSentError" in self.errors and self.errors.keys() <= {"InputError", "NotSentError"}
        return is_only_that and not (self.ok or self.checking)

    def count(self, row: DoneRow) -> None:
        """Count a row that has its result."""
        self.rows += 1
        for call in row.calls:
            self.calls.update(counts_of(call.values))
        self.errors.update(call.error for call in row.calls if call.error is not None)
        self.errors_held.update(call.error for call in row.calls if call.is_held and call.error is not None)
        if held := [call for call in row.calls if call.is_held]:
            self.held += 1
            self.holds = max(self.holds, *(holds_of(call.outcome) for call in held))
        if row.state is RowState.FAILED:
            self.failed += 1
        elif row.state is RowState.CHECKING:
            self.checking += 1
        else:
            self.ok += 1
            self._count_source(row)

    def show(self, problem: str) -> None:
        """Keep a problem to be shown, if it is one of the first."""
        line = _DIGITS.sub("…", problem)
        if len(self.first_problems) < _SHOWN and line not in self.first_problems:
            self.first_problems.append(line)

    def add(self, other: Summary, name: str) -> None:
        """Count in what a run of the shard `name` did. Where its files are is not said."""
        for key in (
            *("rows", "ok", "from_ledger", "shared", "failed", "held", "checking", "unsent", "left_out", "totals"),
            *("blank", "taken_back"),
        ):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.holds = max(self.holds, other.holds)
        self.calls.update(other.calls)
        self.errors.update(other.errors)
        self.errors_held.update(other.errors_held)
        for endpoint, counts in other.tally.by_endpoint.items():
            for charge in Charge:
                self.tally.add(endpoint, charge, getattr(counts, charge.value))
        self.problems, self.to_settle = other.problems or self.problems, other.to_settle or self.to_settle
        self.part, self.gave_up = other.part or self.part, other.gave_up or self.gave_up
        self.rescued += other.rescued
        self.warnings += [f"{name}: {line}" for line in other.warnings][: max(0, _WARNINGS - len(self.warnings))]
        for line in other.first_problems:
            self.show(f"{name}: {line}")
        self.hidden = None if self.hidden is None or other.hidden is None else self.hidden + other.hidden
        self.whom = other.whom or self.whom

    def _count_source(self, row: DoneRow) -> None:
        """Count where the answers of a row are from, if they were not asked for now."""
        if any(call.taken is not None for call in row.calls):
            self.taken_back += 1
            return
        bought = [call.outcome for call in row.calls if call.outcome.answered_by is None]
        self.shared += not bought
        self.from_ledger += bool(bought) and all(outcome.from_ledger for outcome in bought)


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
