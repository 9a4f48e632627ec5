"""What was spent and what may have been, and whether the limits allow another charge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aisolution_async.ledger.rows import Row, Sql, money
from aisolution_async.ledger.store import State

_COLUMNS = ("intended", "charged", "free", "not_sent", "unknown", "at_stake", "cost")
_PLACES = {state: _COLUMNS.index(state.replace(" ", "_")) for state in State}
_AT_STAKE, _COST = _COLUMNS.index("at_stake"), _COLUMNS.index("cost")
_CHARGED, _OPEN = State.CHARGED, frozenset({State.INTENDED, State.UNKNOWN})  # looked up for every call

_SAVE = "REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Totals:
    """The counts of the whole file, by endpoint, as they stand within a transaction."""

    def __init__(self, rows: Iterable[Row]) -> None:
        # Attempts by state, and how many charges, of what cost, were or may be made.
        self._by_endpoint: dict[str, list[int]] = {row[0]: [*row[1:]] for row in rows}
        self._changed: set[str] = set()

    def count(self, endpoint: str, state: State, may_charge: object, price: int, sign: int = 1) -> None:
        """An attempt is in this state, or with -1 no more."""
        total = self._by_endpoint.get(endpoint)
        if total is None:
            total = self._by_endpoint[endpoint] = [0] * len(_COLUMNS)
        self._changed.add(endpoint)
        total[_PLACES[state]] += sign
        if state is _CHARGED or (may_charge and state in _OPEN):
            total[_AT_STAKE] += sign
            total[_COST] += sign * price

    def sum(self, name: str) -> int:
        """A column of all endpoints together."""
        place = _COLUMNS.index(name)
        return sum([total[place] for total in self._by_endpoint.values()])

    def save(self, sql: Sql) -> None:
        """Write what changed."""
        for endpoint in self._changed:
            sql(_SAVE, (endpoint, *self._by_endpoint[endpoint]))


@dataclass(frozen=True, slots=True)
class Limits:
    """What an opening may spend in the ledger `path`, and the price of a charge by endpoint; money in millionths."""

    path: Path
    max_charges: int | None
    max_cost: int | None
    prices: Mapping[str, int]

    def exceeded(self, totals: Totals, endpoint: str, most: int | None, *, lent: int | None = None) -> str:
        """Why there must not be another charge; empty if there may.

        `most`: the charges that the ledger itself allows. `lent`: the price of one that is given back.
        """
        limit = most if self.max_charges is None else self.max_charges if most is None else min(self.max_charges, most)
        if limit is not None and totals.sum("at_stake") - (lent is not None) >= limit:
            return f"max_charges={limit} is reached{self._spent(totals)}"
        if self.max_cost is not None:
            price = self.prices.get(endpoint)
            if price is None:
                return f"max_cost is set, and prices says nothing of {endpoint}"
            if totals.sum("cost") - (lent or 0) + price > self.max_cost:
                return f"max_cost={money(self.max_cost)} is reached{self._spent(totals)}"
        return ""

    def _spent(self, totals: Totals) -> str:
        charged, unknown, intended = map(totals.sum, ("charged", "unknown", "intended"))
        return f": {charged} charged, {unknown} unknown, {intended} under way in the ledger {self.path}"
