"""Answers that are all alike: as when the wrong column is asked, or each photo is compared with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.results import Results
from aisolution_async.bulk.rows import Row
from aisolution_async.charges import Charge
from aisolution_async.outcome import Outcome

LOOKED_AT = 300
"""So many answers that were paid for are looked at, the first of each endpoint.

Of a true list whose answers are one word for 99 % of its rows, one in twenty begins with 300 of that word (0.99 ** 300
is 0.05), and of one with 95 %, none in a million. After 100, it would be more than every third (0.37). Of a list that
is asked by the wrong column, 300 are the price for knowing it, whatever its length.
"""


class Alike:
    """Looks at the first answers that are paid for, and tells where all say the same."""

    def __init__(self, calls: Calls, results: Sequence[Results]) -> None:
        self.told: list[str] = []
        """What was told, a line for each endpoint."""
        self._calls = calls
        self._results = results
        self._first: list[_First | None] = [None] * len(results)
        self._is_over = [not each.verdicts for each in results]

    def see(self, row: Row, number: int, outcome: Outcome) -> str | None:
        """Look at what came of call `number` of a row. What a person should be told now, if anything."""
        if self._is_over[number] or outcome.reply is None or outcome.charge is not Charge.CHARGED:
            return None  # what comes from a ledger, or from another row, is free
        word = self._results[number].verdict(outcome.reply)
        first = self._first[number]
        if first is None:
            first = self._first[number] = _First(word, self._calls.whence(row, number))
        first.answers += 1
        self._is_over[number] = word != first.word or first.answers == LOOKED_AT
        if word != first.word or first.answers < LOOKED_AT:
            return None
        endpoint = f"{self._results[number].endpoint.command}: " if len(self._results) > 1 else ""
        line = f"{endpoint}the first {LOOKED_AT} answers are all {word!r}: look at {first.whence} before more is paid"
        self.told.append(line)
        return line


@dataclass(slots=True)
class _First:
    """The word of the first answer, where that is from, and how many answers said that word until now."""

    word: str | None
    whence: str
    answers: int = 0
