"""One transaction on the ledger's file: what holds while it is open, and what is written when it ends."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from aisolution_async import clock
from aisolution_async.ledger.rows import HOLDS, Row, Sql, micros
from aisolution_async.ledger.totals import Totals

SqlOfMany = Callable[[str, list[Row]], object]
"""A cursor's `executemany`."""

_ADD = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Most ledgers have neither what is outstanding nor what holds, and then need not be searched for them.
_LOOK = f"""SELECT last_id, max_charges, EXISTS (SELECT 1 FROM outstanding),
    EXISTS (SELECT 1 FROM attempts WHERE holds AND holds = {HOLDS}) FROM file"""


class Step:
    """A transaction that is open. The functions of `attempts`, `intents` and `callbacks` act within one.

    Of the table `attempts`, which is large, a group of calls is looked up together (`earlier`) and written together
    (`added`): a statement for each call takes most of its time to begin and to end.
    """

    __slots__ = (
        "_last_saved",
        "_many",
        "added",
        "any_holding",
        "any_outstanding",
        "beside",
        "earlier",
        "last_id",
        "max_charges",
        "now",
        "totals",
    )

    def __init__(self, sql: Sql, many: SqlOfMany) -> None:
        self.beside = sql
        """Do a statement on any table but `attempts`."""
        self.now = micros(clock.today())
        self.totals = Totals(sql("SELECT * FROM totals"))
        self.last_id: int
        self.max_charges: int | None
        self.last_id, self.max_charges, any_outstanding, any_holding = sql(_LOOK).fetchone()
        self.any_outstanding = bool(any_outstanding)
        self.any_holding = bool(any_holding)
        self.earlier: dict[bytes, list[Row]] = {}
        """What `answers.of_many` found, by identity, where it is so yet."""
        self.added: list[Row] = []
        """Rows of `attempts` that are to be written: before another statement sees the table, or the end."""
        self._many = many
        self._last_saved: int = self.last_id

    def sql(self, query: str, values: Row = ()) -> sqlite3.Cursor:
        """Do a statement. It sees all that was to be added; what was looked up before it may not be so any more."""
        self._add()
        self.earlier.clear()
        return self.beside(query, values)

    @property
    def has_grown(self) -> bool:
        """Whether there are attempts that there were not."""
        return self.last_id != self._last_saved

    def new_id(self) -> int:
        """The id of another attempt."""
        self.last_id += 1
        return self.last_id

    def save(self) -> None:
        """Write what was to be added, and the counts, before the COMMIT."""
        self._add()
        if self.has_grown:
            self.beside("UPDATE file SET last_id = ?", (self.last_id,))
        self.totals.save(self.beside)

    def _add(self) -> None:
        if self.added:
            added, self.added = self.added, []
            self._many(_ADD, added)
