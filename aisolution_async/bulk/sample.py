"""A sample: some rows of a list, drawn at random and really asked, and what the whole list would then cost and answer.

Each row has a number that looks random and is made of its cells, and the rows with the lowest numbers are drawn. So the
same list has the same sample, which is paid for once, however often it is asked for; a larger sample has the rows of a
smaller one among its own; and a row that is mended, or moved, changes the sample of the others little. The ledger has
the answers, and the run of the whole list reuses them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from threading import Event
from typing import Any

from aisolution_async.bulk.assemble import DoneCall, DoneRow
from aisolution_async.bulk.encoders import as_json
from aisolution_async.bulk.facts import Facts, in_thread
from aisolution_async.bulk.forecast import Forecast, Foreseen, foretell
from aisolution_async.bulk.intervals import CONFIDENCE, Interval, interval
from aisolution_async.bulk.options import BulkOptions
from aisolution_async.bulk.outputs import STDOUT
from aisolution_async.bulk.plan import Plan
from aisolution_async.bulk.rescue import Rescue
from aisolution_async.bulk.results import Results, RowState
from aisolution_async.bulk.rows import Row, Rows
from aisolution_async.bulk.summary import Summary
from aisolution_async.charges import Charge
from aisolution_async.client import AsyncClient
from aisolution_async.errors import ConfigurationError

# Asked again, such a call ends in the same way, and is free again.
_FREE_FOR_GOOD = ("InputError", "InvalidRequestError", "ImageTooLargeError", "FaceNotFoundError", "PersonNotFoundError")

# Of such a call, nobody knows what would have come of it.
_NOT_ASKED = ("NotSentError", "BudgetExhaustedError", "LedgerError")


@dataclass(frozen=True, slots=True)
class Charges:
    """What the distinct `questions` of a list come to on one endpoint.

    `whole` is how many of them are charged when each has its answer: what the vendor is still checking, and what has no
    answer yet, makes it wider, and is not in what is likely. `paid` of them are paid for already, by the sample and
    before it.
    """

    questions: int
    whole: Interval
    paid: int


@dataclass(frozen=True, slots=True)
class Cost:
    """The same as money."""

    low: Decimal
    likely: Decimal
    high: Decimal
    paid: Decimal


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sample says of its list. Each interval is right for 95 of 100 samples, at least.

    `rows` of the list, of which `failed` have a problem in each call and cannot be asked; `asked` is how many the
    sample has of the others. `answers` is by the vendor's name of the endpoint, then by what came (its verdict, or the
    class of an error): in how many rows of the whole list, of those that can be asked it, which are `asks`; `drawn` is
    the same for the rows of the sample, with those that could not be asked, as for want of budget. `charges`
    are by endpoint, of those that charge; for several endpoints their intervals are right together, and so is `cost`,
    which is None where a price is not known. `unknown` attempts of the sample may have been charged besides. `foreseen`
    is what was found out of the whole list before.
    """

    rows: int
    failed: int
    asked: int
    answers: Mapping[str, Mapping[str, Interval]]
    asks: Mapping[str, int]
    drawn: Mapping[str, Mapping[str, int]]
    charges: Mapping[str, Charges]
    cost: Cost | None
    unknown: int
    foreseen: Forecast = field(repr=False)
    confidence: float = CONFIDENCE


class ListSample:
    """A sample of `size` rows, or of all where there are no more, in the place of the files that a run writes.

    Nothing is written. `estimate` is there when the run came to its end.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ConfigurationError(f"a sample must be of 1 row at least, not {size}")
        self.estimate: Estimate | None = None
        self.problem: str | None = None
        self._size = size
        self._drawn: dict[int, Sequence[Foreseen]] = {}  # what was foreseen of each row, by its line
        self._list: Forecast
        self._askable = 0  # rows that can be asked
        self._frames: list[Counter[Foreseen]] = []  # what was foreseen of all rows, by the place of the call
        self._charging: list[bool] = []
        self._seen: list[_Seen] = []
        self._facts: Facts
        self._rescue: Rescue | None = None

    @property
    def rows(self) -> int:
        """How many rows were drawn."""
        return len(self._drawn)

    async def draw(self, facts: Facts, client: AsyncClient, given_up: Event) -> None:
        """Look at the whole list, and draw. Raises ConfigurationError for calls that would be made twice."""
        _check_calls(facts)
        self._facts = facts
        self._list = Forecast(hidden=facts.rows.hidden, notes=facts.lines(), columns=facts.calls.reasons())
        self._frames = [Counter() for _ in facts.kinds]
        self._charging = [client.options.may_charge(kind.endpoint) for kind in facts.kinds]
        self._seen = [_Seen() for _ in facts.kinds]
        lots, lowest = _Lots(), list[tuple[int, int, Sequence[Foreseen]]]()  # a heap: the highest of them comes first
        rows = await in_thread(facts.source.open, Rows.close)
        with closing(rows):
            async with aclosing(foretell(client, facts, rows, self._list, as_sent=False)) as foreseen:
                async for row, fates in foreseen:
                    if given_up.is_set():
                        return
                    for frame, fate in zip(self._frames, fates, strict=True):
                        frame[fate] += 1
                    if all(fate is Foreseen.PROBLEM for fate in fates):
                        continue
                    self._askable += 1
                    lot = (-lots.of(facts.columns.of(row.cells)), row.line, fates)
                    if len(lowest) < self._size:
                        heapq.heappush(lowest, lot)
                    else:
                        heapq.heappushpop(lowest, lot)
        self._drawn = {line: fates for _, line, fates in lowest}

    def wants(self, row: Row) -> bool:
        """Whether this row was drawn."""
        return row.line in self._drawn

    # ------------------------------------------------------------------------------------- in the place of the files

    def open(self, plan: Plan, *, takes_over: bool = False) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """What is kept is closed when it is told where."""

    def write(self, done: DoneRow) -> None:
        """Count what came of a row. What the ledger could not take is kept: it may be paid for."""
        if done.is_unrecorded:
            if self._rescue is None:
                self._rescue = Rescue(self._facts.target)
            columns = self._facts.columns
            self._rescue.write(as_json(columns.names, columns.of(done.row.cells), done.values))
        fates = self._drawn[done.row.line]
        for number, (call, fate) in enumerate(zip(done.calls, fates, strict=True)):
            if fate is not Foreseen.PROBLEM:
                self._seen[number].count(call, self._facts.columns.results[number], fate)

    def write_total(self, row: Row) -> None:
        """A total is not asked, and nothing is written."""

    async def make(self, is_given_up: Any) -> None:
        """There is nothing to be made."""

    def settle(self, summary: Summary, *, finished: bool) -> None:
        """Say what came of it. `finished`: all rows have their results."""
        summary.warnings = self._list.warnings = self._facts.calls.warnings
        if self._rescue is not None:
            self._rescue.close()
            summary.rescued = self._rescue.places
        if finished:
            self.estimate = self._estimate(summary)

    def told(self, problem: str) -> str:
        """`problem`, with where the rows went that were kept."""
        if self._rescue is None:
            return problem
        return f"{problem}, and {self._rescue.rows} rows went to {' and '.join(self._rescue.places)}"

    # --------------------------------------------------------------------------------------------- the whole list

    def _estimate(self, summary: Summary) -> Estimate:
        names = [kind.endpoint.name for kind in self._facts.kinds]
        charges = {name: self._charges(number, summary) for number, name in enumerate(names) if self._charging[number]}
        return Estimate(
            rows=self._list.rows,
            failed=self._list.rows - self._askable,
            asked=self.rows,
            answers={name: self._answers(number) for number, name in enumerate(names)},
            asks={name: self._asks(number) for number, name in enumerate(names)},
            drawn={name: dict(self._seen[number].said) for number, name in enumerate(names)},
            charges=charges,
            cost=self._cost(charges),
            unknown=summary.tally.unknown,
            foreseen=self._list,
        )

    def _answers(self, number: int) -> dict[str, Interval]:
        said, whole = self._seen[number].said, self._asks(number)
        unasked = sum(said[word] for word in _NOT_ASKED)
        found = {}
        for word, count in said.most_common():
            if word not in _NOT_ASKED:
                low = interval(whole, said.total(), count).low
                high = interval(whole, said.total(), count + unasked).high
                likely = round(count * whole / (said.total() - unasked))
                found[word] = Interval(low, min(max(low, likely), high), high)
        return found

    def _asks(self, number: int) -> int:
        """How many rows of the list can be asked this."""
        return self._frames[number].total() - self._frames[number][Foreseen.PROBLEM]

    def _charges(self, number: int, summary: Summary) -> Charges:
        """Of the distinct questions, those of the sample are as good as drawn themselves: by their first row."""
        frame, seen = self._frames[number], self._seen[number]
        questions = self._asks(number) - frame[Foreseen.SHARED]
        drawn = seen.charged + seen.free + seen.open
        sure = 1 - (1 - CONFIDENCE) / sum(self._charging)
        found = interval(questions, drawn, seen.charged, sure)
        counts = summary.tally.by_endpoint.get(self._facts.kinds[number].endpoint.name)
        paid = frame[Foreseen.PAID] + seen.taken + (0 if counts is None else counts.charged)
        high = interval(questions, drawn, drawn - seen.free, sure).high
        # Of rows that an earlier run asked, what they cost is known.
        high = min(high, questions - frame[Foreseen.STORED])
        low = min(max(found.low, paid), high)
        return Charges(questions, Interval(low, min(max(found.likely, low), high), high), paid)

    def _cost(self, charges: Mapping[str, Charges]) -> Cost | None:
        prices = self._facts.options.known_prices
        if prices.missing(charges):
            return None

        def cost(counts: Mapping[str, int]) -> Decimal:
            return prices.cost(Counter(counts))

        return Cost(
            low=cost({name: found.whole.low for name, found in charges.items()}),
            likely=cost({name: found.whole.likely for name, found in charges.items()}),
            high=cost({name: found.whole.high for name, found in charges.items()}),
            paid=cost({name: found.paid for name, found in charges.items()}),
        )


def check_list(source: Path, options: BulkOptions) -> None:
    """Raise ConfigurationError for what a sample cannot be of."""
    if options.ledger is None:
        raise ConfigurationError(
            "a sample needs a ledger (--ledger FILE, ledger=): without one, its answers would be bought again by the "
            "run of the whole list"
        )
    if str(source) == STDOUT:
        raise ConfigurationError("a sample reads its list twice: write what comes by standard input into a file first")


def _check_calls(facts: Facts) -> None:
    once = [kind.endpoint.command for kind in facts.kinds if kind.endpoint.never_charges]
    if once and not facts.calls.keyed:
        raise ConfigurationError(
            f"{once[0]} is free, and does something each time: without a column of keys (--key, key=), the run of the "
            "whole list would do it again for the rows of the sample"
        )


class _Lots:
    """Numbers that look random, of the cells of rows. Of rows that are alike, each has its own."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._times: Counter[int] = Counter()  # of those that were seen again

    def of(self, cells: Sequence[Any]) -> int:
        said = repr(cells).encode("utf-8", "backslashreplace")
        lot = int.from_bytes(blake2b(said, digest_size=8, person=b"sample").digest())
        if lot not in self._seen:
            self._seen.add(lot)
            return lot
        self._times[lot] += 1
        again = b"%d %d" % (lot, self._times[lot])
        return int.from_bytes(blake2b(again, digest_size=8, person=b"sample").digest())


class _Seen:
    """What came of the calls of one endpoint in the sample.

    `said` counts all of them. The others count each distinct question once, by the first row of the list that asks it:
    those that were `charged`, that are `free` for good, and that are still `open`. `taken` of the charged are in what
    an earlier run wrote, and not in the ledger.
    """

    __slots__ = ("charged", "free", "open", "said", "taken")

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.charged = self.free = self.open = self.taken = 0

    def count(self, call: DoneCall, results: Results, fate: Foreseen) -> None:
        """Count a call, with these result columns, of which `fate` was foreseen."""
        failed, charge = call.state is RowState.FAILED, results.charge(call.values)
        self.said[call.error or "no answer" if failed else results.said(call.values)] += 1
        if fate is Foreseen.SHARED:
            return
        if charge == Charge.CHARGED:
            self.charged += 1
            self.taken += call.taken is not None
        elif charge == Charge.FREE and (call.state is RowState.OK or call.error in _FREE_FOR_GOOD):
            self.free += 1
        else:
            self.open += 1
