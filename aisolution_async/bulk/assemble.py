"""From the outcomes of calls to finished rows, in the order of the input."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisolution_async.api import Endpoint
from aisolution_async.batching import REMEMBERED
from aisolution_async.bulk.earlier import Written
from aisolution_async.bulk.results import Results, RowState, exchanged, is_unsettled, problem_of, unsettled_problem
from aisolution_async.bulk.rows import Row
from aisolution_async.errors import InputError, NotSentError
from aisolution_async.ledger import LedgerError
from aisolution_async.outcome import Failed, Outcome


@dataclass(frozen=True, slots=True)
class DoneCall:
    """What came of one call of a row: the `values` of its result columns, and what is wrong, if anything is.

    `is_held`: it may have been charged, now or before, and the ledger holds it. `taken` is what an earlier run wrote of
    it, where that is taken over; `outcome` says nothing then.
    """

    endpoint: Endpoint[Any]
    outcome: Outcome
    values: list[Any]
    problem: str | None
    state: RowState
    is_held: bool = False
    taken: Written | None = None

    @property
    def error(self) -> str | None:
        """The class of the error that the call ended in; None if it did not fail."""
        if self.taken is not None:
            return self.taken.error if self.state is RowState.FAILED else None
        return None if self.outcome.error is None else type(self.outcome.error).__name__


@dataclass(frozen=True, slots=True)
class DoneRow:
    """A row of the input, and what came of each of its calls."""

    row: Row
    calls: Sequence[DoneCall]

    @property
    def values(self) -> list[Any]:
        """The values of all result columns."""
        return [value for call in self.calls for value in call.values]

    @property
    def state(self) -> RowState:
        """What the calls come to together: the worst of them."""
        states = {call.state for call in self.calls}
        return next(state for state in (RowState.FAILED, RowState.CHECKING, RowState.OK) if state in states)

    @property
    def is_untouched(self) -> bool:
        """Whether the run was stopped before anything of the row was sent, or found in a ledger or a file."""
        outcomes = [call.outcome for call in self.calls]
        unsent = any(isinstance(each.error, NotSentError | LedgerError) and not each.attempts for each in outcomes)
        is_known = any(each.ok or each.attempts for each in outcomes) or any(call.taken for call in self.calls)
        return unsent and not is_known

    @property
    def is_unrecorded(self) -> bool:
        """Whether the ledger could not take an attempt."""
        return any(attempt.recorded is False for call in self.calls for attempt in call.outcome.attempts)


@dataclass(slots=True)
class _Pending:
    """A row between the input and the output. `left` counts what it waits for."""

    row: Row
    outcomes: list[Outcome | None]
    left: int
    taken: Mapping[int, Written]


class _LineNumbers:
    """The line of each row, by its place: of very many rows, kept only where a line is not the one after the last."""

    def __init__(self) -> None:
        self._places = array("q")
        self._lines = array("q")

    def add(self, place: int, line: int) -> None:
        if not self._places or line - place != self._lines[-1] - self._places[-1]:
            self._places.append(place)
            self._lines.append(line)

    def at(self, place: int) -> int:
        last = bisect_right(self._places, place) - 1
        return self._lines[last] + place - self._places[last]


class Assembler:
    """Puts outcomes to their rows. `results` are the columns of each call; `ordered`: rows come out as they went in.

    `explain` says of a problem of a row's call where it is, and `unit` is what the file's rows are called there.
    `holds`: a ledger holds what may have been charged.
    """

    def __init__(
        self,
        results: Sequence[Results],
        *,
        ordered: bool,
        holds: bool,
        explain: Callable[[Row, int, str], str],
        unit: str,
    ) -> None:
        self._results = results
        self._ordered = ordered
        self._holds = holds
        self._explain = explain
        self._unit = unit
        self._lines = _LineNumbers()
        self._first: dict[int, int] = {}  # calls of which another row took the answer for its own, and which
        self._entries: dict[int, _Pending] = {}  # rows between the input and the output, by their place
        self._next = 0  # the row that comes out next, where order is kept
        self._whole: deque[int] = deque()  # rows that may come out, where it is not
        self._lent: dict[int, int] = {}  # calls that were asked in the place of an earlier one, and which

    def expect(self, place: int, row: Row, taken: Mapping[int, Written]) -> None:
        """Wait for the calls of a row. `taken` is what earlier runs wrote of some of them, by the place of the call."""
        each = len(self._results)
        self._lines.add(place, row.line)
        self._entries[place] = _Pending(row, [None] * each, each, taken)

    def row_of(self, outcome: Outcome) -> tuple[Row, int]:
        """The row that an outcome belongs to, and the place of the call in it."""
        place, number = divmod(outcome.index, len(self._results))
        return self._entries[place].row, number

    def take(self, outcome: Outcome) -> None:
        """Put an outcome to its row."""
        index, waits = outcome.index, False
        if self._ordered:
            if index in self._lent:
                first = self._lent.pop(index)
                earlier = self._outcome(first)
                assert earlier is not None
                earlier, outcome = exchanged(earlier, outcome)
                self._first[index] = first
                if len(self._first) > REMEMBERED:
                    del self._first[next(iter(self._first))]
                self._keep(earlier)
            elif outcome.answered_by is not None and outcome.answered_by > index:
                waits = self._lent.setdefault(outcome.answered_by, index) == index
        self._keep(outcome, waits=waits)

    def whole(self) -> Iterator[DoneRow]:
        """The rows that may come out now, once each."""
        while self._whole:
            yield self._done(self._entries.pop(self._whole.popleft()))
        while self._ordered and (entry := self._entries.get(self._next)) is not None and entry.left == 0:
            del self._entries[self._next]
            self._next += 1
            yield self._done(entry)

    def rest(self) -> Iterator[DoneRow]:
        """The rows of which the run was stopped in the middle: what there is of them may be paid for."""
        for place in sorted(self._entries):
            yield self._done(self._entries.pop(place))

    def _outcome(self, index: int) -> Outcome | None:
        place, number = divmod(index, len(self._results))
        return self._entries[place].outcomes[number]

    def _keep(self, outcome: Outcome, *, waits: bool = False) -> None:
        place, number = divmod(outcome.index, len(self._results))
        entry = self._entries[place]
        entry.outcomes[number] = outcome
        entry.left -= not waits
        if not self._ordered and entry.left == 0:
            self._whole.append(place)

    def _done(self, entry: _Pending) -> DoneRow:
        each = zip(self._results, entry.outcomes, strict=True)
        return DoneRow(entry.row, [self._call(entry, number, *one) for number, one in enumerate(each)])

    def _call(self, entry: _Pending, number: int, results: Results, outcome: Outcome | None) -> DoneCall:
        endpoint = results.endpoint
        if outcome is None:
            name = endpoint.name
            error = NotSentError(f"{name}: not sent: the run was stopped before it was sent", endpoint=name)
            outcome = Failed(-1, None, None, None, error, ())
        if (taken := entry.taken.get(number)) is not None:
            state = results.state(taken.values)  # what failed and is taken over is an answer that did not fit
            is_held = self._holds and state is RowState.FAILED
            return DoneCall(endpoint, outcome, taken.values, taken.problem, state, is_held, taken)
        problem = self._problem_of(entry.row, number, outcome, endpoint)
        like = None
        if outcome.answered_by is not None:
            asked = self._first.get(outcome.answered_by, outcome.answered_by)
            like = f"the same as {self._unit} {self._lines.at(asked // len(self._results))}"
        values, is_held = results.values(outcome, problem, like), self._holds and is_unsettled(outcome, endpoint)
        return DoneCall(endpoint, outcome, values, problem, RowState.of(outcome), is_held)

    def _problem_of(self, row: Row, number: int, outcome: Outcome, endpoint: Endpoint[Any]) -> str | None:
        if outcome.reply is not None:
            return unsettled_problem(outcome.reply)
        # A problem that was found before there was a call says by itself where.
        if isinstance(outcome.error, InputError) and outcome.call is not None:
            return self._explain(row, number, str(outcome.error))
        return problem_of(outcome, endpoint, holds=self._holds)
