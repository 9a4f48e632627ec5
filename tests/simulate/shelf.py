"""The store of a simulation: the real `Ledger` and `Book`, over one SQLite in memory and without a thread.

Each job waits and is handed back at a time of the loop's, any of its statements may fail, and its process may crash at
any of them. Whoever puts another store in place of it gives a `Shelf` of that.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from aisolution_async.ledger import Ledger, LedgerError, Result, Started, schema
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.grouping import Job, _settle
from aisolution_async.ledger.rows import Row
from aisolution_async.ledger.totals import Limits
from tests.ledgers import RECOUNT

PATH = Path("/simulated/calls.ledger")


class Crash(BaseException):
    """The process ended at this statement."""


class Life(Protocol):
    """The process that uses a ledger."""

    is_dead: bool
    ends_twice: bool

    def event(self, text: str) -> None:
        """Something happened that a strike may follow."""

    def crash(self) -> None:
        """End at once."""

    def store_delay(self) -> float:
        """How long the store takes for what it is asked, or for handing it back."""


class Faults:
    """What goes wrong with a store: `left` statements fail, after `after` that do not."""

    def __init__(self) -> None:
        self.after = self.left = 0
        self.code = sqlite3.SQLITE_FULL
        self.crash_after: int | None = None

    def step(self) -> None:
        """A statement is to be executed."""
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                raise Crash
        if self.left:
            if self.after:
                self.after -= 1
            else:
                self.left -= 1
                fault = sqlite3.OperationalError("a fault")
                fault.sqlite_errorcode = self.code
                raise fault


class Shelf:
    """One store, and all that looks at it from outside. There is one at a time: the next begins with nothing in it."""

    def __init__(self) -> None:
        self.db, clear = _emptied()
        if self.db.in_transaction:  # as a fault of the simulation leaves it
            self.db.rollback()
        self.sql = self.db.cursor().execute
        for statement, values in clear:
            self.sql(statement, values)
        self.alive: dict[str, bool | None] = {}  # by owner; None where nobody can tell
        self.owners = 0

    def ledger(self, life: Life, path: object, **options: Any) -> SimulatedLedger:
        """A ledger of this store for a process."""
        return SimulatedLedger(self, life, **options)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What stands in it."""
        return self.sql(query, values).fetchall()

    def replies(self) -> str:
        """All answers."""
        return b"".join(reply for (reply,) in self.rows("SELECT reply FROM attempts WHERE answer")).decode()

    def stake(self) -> int:
        """How many charges there were, may be or will be."""
        ((stake,),) = self.rows("SELECT ifnull(sum(at_stake), 0) FROM totals")
        return int(stake)

    def is_sound(self) -> bool:
        """Whether its counts are what its rows say."""
        return self.rows("SELECT * FROM totals ORDER BY endpoint") == self.rows(RECOUNT)


@cache
def _emptied() -> tuple[sqlite3.Connection, list[tuple[str, tuple[object, ...]]]]:
    """The database that every shelf of this process has in turn, and what makes it as new.

    Each would else have its statements to prepare again, which is most of what so small a store takes.
    """
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=512)
    for migrate in schema.MIGRATIONS:
        migrate(db)
    db.execute("UPDATE file SET hash_key = ?", (b"k" * 32,))
    clear: list[tuple[str, tuple[object, ...]]] = []
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        rows = db.execute(f"SELECT * FROM {table}").fetchall()
        clear.append((f"DELETE FROM {table}", ()))
        clear += [(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row) for row in rows]
    return db, clear


def is_alive(shelf: Callable[[], Shelf]) -> Callable[[Path, str], bool | None]:
    """In the place of `owners.is_alive`."""
    return lambda path, name: shelf().alive[name]


class _Owner:
    def __init__(self, shelf: Shelf) -> None:
        shelf.owners += 1
        self.name = f"owner{shelf.owners}"
        self._shelf = shelf
        shelf.alive[self.name] = True

    def is_there(self) -> bool:
        return self._shelf.alive[self.name] is True

    def release(self) -> None:
        self._shelf.alive[self.name] = False


class SimulatedBook(Book):
    """A book whose file is a shelf, and whose process may end at any of its statements."""

    def __init__(self, shelf: Shelf, faults: Faults, limits: Limits) -> None:
        self._path, self._limits, self._shelf, self._faults = PATH, limits, shelf, faults
        self._owner = owner = _Owner(shelf)  # type: ignore[assignment]
        self._db, self._sql, self._many = shelf.db, self._execute, self._execute_many
        self.closed, self.unrecorded, self._mark = False, (), None
        self._has_begun = self._is_unseen = False
        self.hash_key: bytes = b"k" * 32
        try:
            with self.transaction():
                self._sql("UPDATE file SET last_id = last_id")
                self._recover()
        except BaseException:
            owner.release()
            raise

    @property
    def owner(self) -> str:
        return self._owner.name

    def _execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        if query != "ROLLBACK":
            self._faults.step()
        return self._shelf.sql(query, *values)

    def _execute_many(self, query: str, rows: Sequence[Row]) -> None:
        for row in rows:
            self._execute(query, row)

    def _is_there(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self._owner.release()

    def purge(self, seconds: float) -> int:
        """Without the VACUUM, which takes long and has no part in the money."""
        real, self._sql = self._sql, self._but_vacuum
        try:
            return super().purge(seconds)
        finally:
            self._sql = real

    def _but_vacuum(self, query: str, *values: Any) -> sqlite3.Cursor:
        if query == "VACUUM" or query.startswith("PRAGMA"):
            return self._shelf.sql("SELECT 0")
        return self._execute(query, *values)


class SimulatedLedger(Ledger):
    """A ledger whose thread's work is done at times of the loop's."""

    def __init__(
        self,
        shelf: Shelf,
        life: Life,
        *,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
    ) -> None:
        super().__init__(PATH, max_charges=max_charges, prices=prices, max_cost=max_cost)
        self.faults = Faults()
        self.book: SimulatedBook | None = None
        self._shelf, self._life = shelf, life
        self._given: list[Job] = []
        self._is_at_work = False
        self._handed_back_at = 0.0

    async def end(self, started: Started, result: Result) -> None:
        """See `Store.end`: to end twice does no harm."""
        await super().end(started, result)
        if self._life.ends_twice:
            await super().end(started, result)

    def _start(self, opened: asyncio.Future[Book]) -> None:
        self._opened = opened
        self._is_at_work = True
        self._later(self._open)

    def _open(self) -> None:
        if self._life.is_dead:
            _settle(self._opened, LedgerError("dead"))
            return
        try:
            opening = self._open_book()
        except Crash:
            self._life.crash()
            opening = LedgerError("dead")
        if isinstance(opening, Book):
            assert isinstance(opening, SimulatedBook)
            self.book = opening
            self._is_at_work = False
            self._go_on()
        self._life.event("the ledger is open")
        self._later(_settle, self._opened, opening)

    def _make_book(self) -> Book:
        return SimulatedBook(self._shelf, self.faults, self._limits)

    def _give(self, jobs: list[Job]) -> None:
        self._given += jobs
        self._go_on()

    def _go_on(self) -> None:
        if self._given and not self._is_at_work:
            self._is_at_work = True
            self._later(self._do_given)

    def _do_given(self) -> None:
        self._is_at_work = False
        jobs, self._given = self._given, []
        done: list[tuple[Job, object]] = []
        book = self.book
        assert book is not None
        if not self._life.is_dead and not book.closed:
            self._life.event("the store is asked")
        if not self._life.is_dead and not book.closed:
            try:
                done = self._work(book, jobs)
            except Crash:
                self._life.crash()
        if not done:
            done = [(job, LedgerError("dead")) for job in jobs]
        loop = asyncio.get_running_loop()
        self._handed_back_at = max(self._handed_back_at, loop.time() + self._life.store_delay())
        loop.call_at(self._handed_back_at, self._hand_back, done)
        if not self._life.is_dead:
            self._life.event("the store has answered")

    def _hand_back(self, done: list[tuple[Job, object]]) -> None:
        self._deliver(done)
        if not self._life.is_dead:
            self._life.event("the store's answer is there")

    def _later(self, function: Callable[..., object], *arguments: object) -> None:
        asyncio.get_running_loop().call_later(self._life.store_delay(), function, *arguments)

    def _join(self) -> None:
        pass

    def die(self) -> None:
        """Its process is no more."""
        if self.book is not None:
            self.book.close()
