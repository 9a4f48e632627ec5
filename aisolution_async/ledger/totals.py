"""What was spent and what may have been, and whether the limits allow another charge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aisolution_async.ledger.rows import Row, Sql, money
from aisolution_async.ledger.store import State

_COLUMN = {state: state.replace(" ", "_") for state in State}


@dataclass(slots=True)
class Total:
    """A row of `totals`: attempts by state, and how many charges, of what cost, were or may be made."""

    intended: int = 0
    charged: int = 0
    free: int = 0
    not_sent: int = 0
    unknown: int = 0
    at_stake: int = 0
    cost: int = 0
    changed: bool = False


_SAVE = "REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Totals:
    """The counts of the whole file, by endpoint, as they stand within a transaction."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._by_endpoint = {row[0]: Total(*row[1:]) for row in rows}

    def count(self, endpoint: str, state: State, may_charge: object, price: int, sign: int = 1) -> None:
        """An attempt is in this state, or with -1 no more."""
        total = self._by_endpoint.get(endpoint)
        if total is None:
            total = self._by_endpoint[endpoint] = Total()
        total.changed = True
        name = _COLUMN[state]
        setattr(total, name, getattr(total, name) + sign)
        if state is State.CHARGED or (may_charge and state in (State.INTENDED, State.UNKNOWN)):
            total.at_stake += sign
            total.cost += sign * price

    def sum(self, name: str) -> int:
        """A column of all endpoints together."""
        return sum(getattr(total, name) for total in self._by_endpoint.values())

    def save(self, sql: Sql) -> None:
        """Write what changed."""
        for endpoint, total in self._by_endpoint.items():
            if total.changed:
                row = (total.intended, total.charged, total.free, total.not_sent, total.unknown)
                sql(_SAVE, (endpoint, *row, total.at_stake, total.cost))


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
