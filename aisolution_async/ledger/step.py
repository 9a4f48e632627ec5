"""One transaction on the ledger's file: what holds while it is open, and what is written when it ends."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

from aisolution_async import clock
from aisolution_async.ledger.rows import HOLDS, Sql, micros
from aisolution_async.ledger.totals import Totals

_ANY = f"""SELECT EXISTS (SELECT 1 FROM outstanding),
    EXISTS (SELECT 1 FROM attempts WHERE holds AND holds = {HOLDS})"""


class Step:
    """A transaction that is open. The functions of `attempts`, `intents` and `callbacks` act within one."""

    __slots__ = ("_last_saved", "any_holding", "any_outstanding", "last_id", "max_charges", "now", "sql", "totals")

    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.now = micros(clock.today())
        self.totals = Totals(sql("SELECT * FROM totals"))
        self.last_id: int
        self.max_charges: int | None
        self.last_id, self.max_charges = sql("SELECT last_id, max_charges FROM file").fetchone()
        self._last_saved: int = self.last_id
        # Most ledgers have neither, and then need not be searched for them.
        any_outstanding, any_holding = sql(_ANY).fetchone()
        self.any_outstanding = bool(any_outstanding)
        self.any_holding = bool(any_holding)

    @property
    def has_grown(self) -> bool:
        """Whether there are attempts that there were not."""
        return self.last_id != self._last_saved

    def new_id(self) -> int:
        """The id of another attempt."""
        self.last_id += 1
        return self.last_id

    def save(self) -> None:
        """Write the counts, before the COMMIT."""
        if self.has_grown:
            self.sql("UPDATE file SET last_id = ?", (self.last_id,))
        self.totals.save(self.sql)
