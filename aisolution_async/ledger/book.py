"""The rules of the ledger over one SQLite connection. Synchronous, and used by one thread."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from aisolution_async import clock
from aisolution_async.charges import Attempt, Charge
from aisolution_async.errors import Key
from aisolution_async.ledger import mark, owners, schema
from aisolution_async.ledger.store import (
    Ask,
    Busy,
    Exhausted,
    Expected,
    Held,
    LedgerError,
    Result,
    Started,
    State,
    Stored,
    Verdict,
)

DIED = "the process ended before the answer"
LEFT = "the ledger was closed before the answer"
TO_COME = "the answer may come by callback"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COLUMN = {state: state.replace(" ", "_") for state in State}
_CHARGE = {State.CHARGED: Charge.CHARGED, State.UNKNOWN: Charge.UNKNOWN}

AT_STAKE = "(state = 'charged' OR (may_charge AND state IN ('intended', 'unknown')))"
"""Which attempts count against the budget, in SQL."""

HOLDING = "holds AND holds = 1 AND identity IS NOT NULL"  # the first term is the index's
"""Which attempts hold their question, in SQL."""

_SEEN = "state, started_at, elapsed, status, http_status, error, number, holds, answer, reply"
_ANY = "SELECT EXISTS (SELECT 1 FROM outstanding), EXISTS (SELECT 1 FROM attempts WHERE holds AND holds = 1)"
_EARLIER = f"SELECT {_SEEN} FROM attempts WHERE identity = ? AND (answer OR holds = 1) ORDER BY id DESC"
# One row, and so one step: each step of SQLite gives up the interpreter's lock, which a busy event loop gives back
# after 5 ms. The separators are in none of these texts: JSON escapes them, and a status is a word.
_AT_ONCE = 128
_ANSWERS = f"""WITH asked (place, identity) AS (VALUES {", ".join(f"({place}, ?)" for place in range(_AT_ONCE))})
    SELECT group_concat(concat, char(30)) FROM (
        SELECT place || char(31) || started_at || char(31) || elapsed || char(31) || state || char(31)
            || ifnull(status, '') || char(31) || ifnull(http_status, '') || char(31) || number || char(31)
            || CAST(reply AS TEXT) AS concat
        FROM asked JOIN attempts ON attempts.id = (SELECT id FROM attempts AS other
            WHERE other.identity = asked.identity AND other.answer ORDER BY other.id DESC LIMIT 1))"""
_UNDER_WAY = "SELECT id, owner, ends FROM intents WHERE identity = ?"
_INTEND = "INSERT OR IGNORE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM intents WHERE identity = ? AND id = ?"
_FINISH = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_AMEND = """UPDATE attempts SET identity = ?, started_at = ?, elapsed = ?, state = ?, status = ?, http_status = ?,
    error = ?, answer = ?, reply = ?, number = ?, holds = ? WHERE id = ?"""
_MAY_CHARGE = "SELECT may_charge FROM intents WHERE id = ? UNION ALL SELECT may_charge FROM attempts WHERE id = ?"
_LIFT = "UPDATE attempts SET holds = 2 WHERE identity = ? AND holds = 1"

_ANSWERED_SINCE = "SELECT EXISTS (SELECT 1 FROM attempts WHERE identity = ? AND answer AND id > ?)"

_WAITING = "SELECT * FROM outstanding WHERE"
_UNSETTLED = """SELECT id, endpoint, may_charge, price FROM attempts
    WHERE holds AND state = 'unknown' AND (id = ? OR identity = ? OR key IN (?, ?))"""
# What is settled as charged goes on holding, if it did; what is settled as free does not.
_SETTLE = """UPDATE attempts SET state = ?, holds = holds = 1 AND ?,
    error = ifnull(error || '; ', '') || 'settled by hand' WHERE id = ?"""
_EMPTY = """UPDATE attempts SET reply = NULL, answer = 0, identity = NULL
    WHERE started_at + elapsed < ? AND (reply IS NOT NULL OR identity IS NOT NULL) AND holds <> 1"""

_HOLDS, _LIFTED = 1, 2  # in the column `holds`

# How long an attempt without a deadline may be under way, seconds; and how much longer than its deadline any may be.
_LONGEST = 3600.0
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits, and the price of a charge by endpoint; money in millionths."""

    max_charges: int | None
    max_cost: int | None
    prices: Mapping[str, int]


@dataclass(slots=True)
class Waiting:
    """A row of `outstanding`."""

    callback: bytes
    identity: bytes
    endpoint: str
    key: str | None
    price: int
    since: int
    reserved: bool
    attempt: int | None
    ends: int
    answered: bool

    def __post_init__(self) -> None:
        self.reserved, self.answered = bool(self.reserved), bool(self.answered)

    @property
    def is_spent(self) -> bool:
        """Whether no answer is owed: its request was refused, or never left. One that comes all the same is taken."""
        return self.attempt is None and not self.reserved

    @property
    def counts_as(self) -> State:
        """What its reservation counts as: a charge to come or, answered otherwise, one that may come all the same."""
        return State.UNKNOWN if self.answered else State.INTENDED


@dataclass(slots=True)
class Total:
    """A row of `totals`."""

    intended: int = 0
    charged: int = 0
    free: int = 0
    not_sent: int = 0
    unknown: int = 0
    at_stake: int = 0
    cost: int = 0
    changed: bool = False


class Book:
    """An open ledger file, by one owner."""

    def __init__(self, path: Path, budget: Budget, synchronous: schema.Synchronous, busy_timeout: float) -> None:
        self._path = path
        self._budget = budget
        self._owner = owners.Owner(path)
        try:
            self._db = schema.connect(path, synchronous=synchronous, busy_timeout=busy_timeout)
        except BaseException:
            self._owner.release()
            raise
        self._sql = self._db.cursor().execute  # one cursor for all: what is asked is fetched at once
        self.closed = False
        self.unrecorded: Container[int] = ()
        """Attempts of this owner whose end could not be recorded yet."""
        self._mark: mark.Mark | None = None
        self._has_begun = False
        self._is_unseen = False  # its lock file is gone: others take this owner for dead sooner or later
        self._totals: dict[str, Total] = {}
        self._last_id = self._now = self._any_outstanding = self._any_holding = 0
        try:
            found = path.stat()
            self._inode = (found.st_dev, found.st_ino)
            self.hash_key: bytes = self._sql("SELECT hash_key FROM file").fetchone()[0]
            with self.transaction():
                self._sql("UPDATE file SET last_id = last_id")  # a file that cannot be written is refused here
                self._recover()
                attempts = self._last_id
            schema.use(self._db)
            self._mark = mark.Mark(path, self.hash_key)
            self._mark.note(attempts)
            with self.transaction():  # so that nobody begins anything meanwhile
                owners.sweep(path, [owner for (owner,) in self._sql("SELECT DISTINCT owner FROM intents").fetchall()])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file and the lock."""
        self.closed = True
        # Who leaves something under way leaves its file too, so that others know that it is dead.
        leaves = self._has_begun
        try:
            with suppress(sqlite3.Error):
                owned = "SELECT EXISTS (SELECT 1 FROM intents WHERE owner = ?)"
                leaves = self._sql(owned, (self._owner.name,)).fetchone() != (0,)
            schema.close(self._db, self._path, others=owners.others(self._path, self._owner.name))
        finally:
            self._owner.let_go() if leaves else self._owner.release()
            if self._mark is not None:
                self._mark.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic step: all that is done in it is durable when it is left, or was never done."""
        sql = self._sql
        if not self._is_there():
            raise OSError(errno.ESTALE, "removed or replaced")
        sql("BEGIN IMMEDIATE")
        try:
            self._now = _micros(clock.today())
            self._is_unseen = not self._owner.is_there()
            self._totals = {row[0]: Total(*row[1:]) for row in sql("SELECT * FROM totals")}
            (last_id,) = sql("SELECT last_id FROM file").fetchone()
            self._last_id = last_id
            self._any_outstanding, self._any_holding = sql(_ANY).fetchone()
            if self._any_outstanding:
                for row in sql(f"{_WAITING} answered AND ends <= ?", (self._now,)).fetchall():
                    self._drop(Waiting(*row))  # no callback came that could have been charged
            yield
            if self._last_id != last_id:
                sql("UPDATE file SET last_id = ?", (self._last_id,))
            for endpoint, total in self._totals.items():
                if total.changed:
                    row = (total.intended, total.charged, total.free, total.not_sent, total.unknown)
                    values = (endpoint, *row, total.at_stake, total.cost)
                    sql("REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            sql("COMMIT")
        finally:
            if self._db.in_transaction:
                sql("ROLLBACK")
        if self._mark is not None and self._last_id != last_id:
            self._mark.note(self._last_id)

    # ------------------------------------------------------------------------- operations, inside a transaction

    def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`."""
        found = self.look(ask) if ask.reusable else 0
        if isinstance(found, Stored):
            return found
        waiting = self._waiting(ask.identity) if self._any_outstanding else None
        awaits = ask.callback is not None and not ask.overdue  # whether the request would name a callback
        if awaits and waiting is not None and not waiting.is_spent:
            return Expected(moment(waiting.since))
        price = self._budget.prices.get(ask.endpoint)
        why = self._exceeded(ask.endpoint, price) if ask.may_charge else ""
        # Once the callback is late, what was set aside for it is lent to asking again.
        lender = None
        is_late = waiting is not None and waiting.reserved and (ask.overdue or waiting.ends <= self._now)
        if why and is_late and not isinstance(found, Held):
            lender = waiting
            assert lender is not None
            self._reserve(lender, -1)
            why = self._exceeded(ask.endpoint, price)
        if not isinstance(found, Held) and not why and (started := self._intend(ask, price or 0)) is not None:
            if awaits and ask.callback is not None:
                self._await(ask, ask.callback, started)
            elif lender is not None:
                values = (started.id, lender.callback, lender.identity)
                self._sql("UPDATE outstanding SET attempt = ? WHERE callback = ? AND identity = ?", values)
            return started
        if lender is not None:
            self._reserve(lender, 1)
        # Whatever else there is to say, an attempt under way comes first: it may bring the answer.
        if ask.reusable and (row := self._sql(_UNDER_WAY, (ask.identity,)).fetchone()):
            id_, owner, ends = row
            if id_ in self.unrecorded:
                raise LedgerError(f"the answer to the same call could not be recorded in the ledger {self._path} yet")
            alive = owner == self._owner.name or owners.is_alive(self._path, owner)
            if alive or (alive is None and self._now < ends):
                return Busy()
            self._abandon(owner, DIED, unless_before=None if alive is False else self._now)
            return self.begin(ask)
        return found if isinstance(found, Held) else Exhausted(why)

    def look(self, ask: Ask) -> Stored | Held | int:
        """What earlier attempts say: the answer, or that the question is held, or how many holds the call passes."""
        rows = self._sql(_EARLIER, (ask.identity,)).fetchall()
        if not rows:
            return 0
        answers = [row for row in rows if row[-2]]
        if answers and (stored := self._stored(answers[0], ask.reuse_for)):
            return stored
        holding = [row for row in rows if row[-3] == _HOLDS]
        if holding and ask.retry_unknown is not None and len(holding) > ask.retry_unknown:
            return Held(_attempt(holding[0]), holding[0][-1], len(holding))
        return len(holding)

    def _intend(self, ask: Ask, price: int) -> Started | None:
        """Record the intent; None if the same is under way."""
        if self._is_unseen:
            raise LedgerError(
                f"somebody removed the lock file of this process beside the ledger {self._path}, so that others cannot "
                "see that it is in use: keep tidying programs away from FILE-owner-…, and run again"
            )
        started = Started(self._last_id + 1, ask, price)
        ends = self._now + round(((_LONGEST if ask.within is None else ask.within) + _GRACE) * 1e6)
        row = (started.id, _place(started), ask.endpoint, _json(ask.key), int(ask.may_charge), price)
        if not self._sql(_INTEND, (*row, self._now, self._owner.name, ends)).rowcount:
            return None
        self._last_id += 1
        self._has_begun = True
        self._count(ask.endpoint, State.INTENDED, ask.may_charge, price, 1)
        return started

    def end(self, started: Started, result: Result) -> None:
        """See `Store.end`."""
        ask, attempt, state = started.ask, result.attempt, result.state
        charge = int(ask.may_charge)
        waiting = self._waiting(ask.identity) if self._any_outstanding else None
        if charge and ask.callback is not None and self._sql(_MAY_CHARGE, (started.id, started.id)).fetchone() == (0,):
            # The callback came first, and took the reservation: the question is charged once, and answered.
            charge = 0
            state = State.NOT_SENT if state is State.NOT_SENT else State.FREE
        identity = ask.identity if ask.reusable and result.sent else None
        when, elapsed = _micros(attempt.started_at), round(attempt.elapsed * 1e6)
        is_answer = result.answer and result.reply is not None
        holds = 0
        if state is State.UNKNOWN:
            holds = _HOLDS if result.holds and identity is not None else _LIFTED
        outcome = (
            state,
            _text(attempt.status),
            attempt.http_status,
            _text(attempt.error),
            int(is_answer),
            result.reply,
            attempt.number,
            holds,
        )
        if is_answer and self._any_holding:
            self._sql(_LIFT, (identity,))
        self._any_holding = self._any_holding or holds == _HOLDS
        if self._sql(_FORGET, (_place(started), started.id)).rowcount:
            row = (started.id, identity, ask.endpoint, _json(ask.key), charge, started.price)
            self._sql(_FINISH, (*row, when, elapsed, *outcome))
            self._count(ask.endpoint, State.INTENDED, charge, started.price, -1)
        else:
            found = self._sql("SELECT state, may_charge, reply FROM attempts WHERE id = ?", (started.id,)).fetchone()
            if found is None:
                raise LedgerError(
                    f"the ledger {self._path} lacks attempt {started.id}: it is not the file it was begun in"
                )
            was, charge, reply = found
            if not result.holds and was == State.UNKNOWN:
                self._sql("UPDATE attempts SET holds = ? WHERE id = ?", (_LIFTED, started.id))
            if reply is not None:
                return  # recorded before
            # Recorded before without a reply, or another process thought this one dead.
            self._sql(_AMEND, (identity, when, elapsed, *outcome, started.id))
            self._count(ask.endpoint, State(was), charge, started.price, -1)
        self._count(ask.endpoint, state, charge, started.price, 1)
        if waiting is not None:
            self._settle_waiting(waiting, started, result)

    def deliver(self, callbacks: Sequence[bytes], result: Result) -> bool:
        """See `Store.deliver`."""
        waited = self._waiting_for(callbacks[:1]) or self._waiting_for(callbacks[1:])
        first = True
        for waiting in waited:
            if not waiting.answered:  # else it is a repeat, which may be charged: its place stays until it is late
                self._drop(waiting)
                self._answer(waiting, result, charged=first)
                first = False
        return not first

    def _answer(self, waiting: Waiting, result: Result, *, charged: bool) -> None:
        """Record what was called back. Of the questions that one callback answers, one is charged for it."""
        state = result.state if charged else State.FREE
        when, elapsed, price = waiting.since, self._now - waiting.since, waiting.price
        self._sql(_LIFT, (waiting.identity,))
        if waiting.attempt is not None:
            lost = self._sql(
                "SELECT state, may_charge FROM attempts WHERE id = ? AND holds", (waiting.attempt,)
            ).fetchone()
            if lost is not None:  # it had arrived: this is its answer
                was = State(lost[0])
                state = result.state if charged else was
                outcome = self._called_back(state, result, holds=_LIFTED if state is State.UNKNOWN else 0)
                self._sql(_AMEND, (waiting.identity, when, elapsed, *outcome, waiting.attempt))
                self._count(waiting.endpoint, was, lost[1], price, -1)
                self._count(waiting.endpoint, state, lost[1], price, 1)
                return
            if (
                charged
                and self._sql(
                    "UPDATE intents SET may_charge = 0 WHERE id = ? AND may_charge", (waiting.attempt,)
                ).rowcount
            ):  # still under way: its charge is this one
                self._count(waiting.endpoint, State.INTENDED, 1, price, -1)
                self._count(waiting.endpoint, State.INTENDED, 0, price, 1)
        self._last_id += 1
        row = (self._last_id, waiting.identity, waiting.endpoint, waiting.key, int(charged), price, when, elapsed)
        self._sql(_FINISH, (*row, *self._called_back(state, result, holds=0)))
        self._count(waiting.endpoint, state, charged, price, 1)

    def _called_back(self, state: State, result: Result, *, holds: int) -> tuple[Any, ...]:
        attempt = result.attempt
        return (state, attempt.status, None, None, int(result.answer), result.reply, attempt.number, holds)

    def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`."""
        self._now = _micros(clock.today())
        found: list[Stored | None] = []
        for start in range(0, len(asks), _AT_ONCE):
            some = asks[start : start + _AT_ONCE]
            identities = [ask.identity if ask.reusable else None for ask in some]
            identities += [None] * (_AT_ONCE - len(some))
            answers: list[Stored | None] = [None] * len(some)
            (together,) = self._sql(_ANSWERS, identities).fetchone()
            for answer in together.split("\x1e") if together else ():
                place, started_at, elapsed, state, status, http, number, reply = answer.split("\x1f")
                code = int(http) if http else None
                row = (state, int(started_at), int(elapsed), status or None, code, None, int(number), reply.encode())
                answers[int(place)] = self._stored(row, some[int(place)].reuse_for)
            found += answers
        return found

    def resolve(self, call: Key | bytes, charge: Charge, attempt: int | None) -> int:
        """See `Store.resolve`."""
        if attempt is not None:
            values: tuple[int | bytes | str | None, ...] = (attempt, None, None, None)
        elif isinstance(call, bytes):
            values = (None, call, None, None)
        else:
            # From a command line, a number comes as text.
            as_number = call if isinstance(call, str) and call.lstrip("-").isdigit() else None
            values = (None, None, _json(call), as_number)
        state = State(charge)
        rows = self._sql(_UNSETTLED, values).fetchall()
        for id_, endpoint, may_charge, price in rows:
            self._sql(_SETTLE, (state, state is State.CHARGED, id_))
            self._count(endpoint, State.UNKNOWN, may_charge, price, -1)
            self._count(endpoint, state, may_charge, price, 1)
            if state is State.FREE:  # it never arrived, so no callback comes of it
                for row in self._sql(f"{_WAITING} attempt = ?", (id_,)).fetchall():
                    self._drop(Waiting(*row))
        return len(rows) + self._resolve_waiting(values[1:], state)

    def _resolve_waiting(self, values: tuple[Any, ...], state: State) -> int:
        """Settle what still waits for a callback, and is reserved."""
        found = self._sql(f"{_WAITING} reserved AND (identity = ? OR key IN (?, ?))", values).fetchall()
        for row in found:
            waiting = Waiting(*row)
            self._drop(waiting)
            if state is State.CHARGED:
                self._last_id += 1
                values = (waiting.identity, waiting.endpoint, waiting.key, 1, waiting.price, waiting.since, 0)
                outcome = (state, None, None, "settled by hand", 0, None, 1, 0 if waiting.answered else _HOLDS)
                self._sql(_FINISH, (self._last_id, *values, *outcome))
                self._count(waiting.endpoint, state, 1, waiting.price, 1)
        return len(found)

    def abandon_own(self) -> None:
        """Make UNKNOWN what this owner has under way."""
        self._abandon(self._owner.name, LEFT)

    # ------------------------------------------------------------------------ operations that are not in one

    def purge(self, seconds: float) -> int:
        """See `Store.purge`."""
        self._sql("PRAGMA secure_delete = ON")
        with self.transaction():
            before = self._now - round(seconds * 1e6)
            emptied: int = self._sql(_EMPTY, (before,)).rowcount
            for row in self._sql(f"{_WAITING} since < ?", (before,)).fetchall():  # no callback comes so late
                self._drop(Waiting(*row))
        self._sql("VACUUM")
        if self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise LedgerError(
                f"the replies are emptied, but a reader keeps their bytes in {self._path}-wal: "
                "end the other programs that read the ledger, then purge again"
            )
        return emptied

    # ------------------------------------------------------------------------------------------------ the rules

    def _is_there(self) -> bool:
        """Whether the path still leads to this file: what is written to a removed file is lost."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def _stored(self, row: tuple[Any, ...], reuse_for: float | None) -> Stored | None:
        _, started_at, elapsed, *_, reply = row
        if reuse_for is not None and self._now - started_at - elapsed > reuse_for * 1e6:
            return None
        return Stored(reply, _attempt(row))

    def _exceeded(self, endpoint: str, price: int | None) -> str:
        """Why the budget does not allow another charge; empty if it does."""
        limits, totals = self._budget, self._totals.values()
        if limits.max_charges is not None and sum(t.at_stake for t in totals) >= limits.max_charges:
            return f"max_charges={limits.max_charges} is reached{self._spent()}"
        if limits.max_cost is not None:
            if price is None:
                return f"max_cost is set, and prices says nothing of {endpoint}"
            if sum(t.cost for t in totals) + price > limits.max_cost:
                return f"max_cost={money(limits.max_cost)} is reached{self._spent()}"
        return ""

    def _spent(self) -> str:
        totals = self._totals.values()
        charged, unknown, intended = (sum(getattr(t, n) for t in totals) for n in ("charged", "unknown", "intended"))
        return f": {charged} charged, {unknown} unknown, {intended} under way in the ledger {self._path}"

    def _count(self, endpoint: str, state: State, may_charge: object, price: int, sign: int) -> None:
        total = self._totals.get(endpoint)
        if total is None:
            total = self._totals[endpoint] = Total()
        total.changed = True
        name = _COLUMN[state]
        setattr(total, name, getattr(total, name) + sign)
        if state is State.CHARGED or (may_charge and state in (State.INTENDED, State.UNKNOWN)):
            total.at_stake += sign
            total.cost += sign * price

    def _recover(self) -> None:
        for (owner,) in self._sql("SELECT DISTINCT owner FROM intents").fetchall():
            alive = owners.is_alive(self._path, owner)
            if not alive:
                self._abandon(owner, DIED, unless_before=None if alive is False else self._now)

    def _abandon(self, owner: str, error: str, *, unless_before: int | None = None) -> None:
        """Make UNKNOWN what the owner has under way, or only what must be over before then."""
        rows = self._sql("SELECT * FROM intents WHERE owner = ?", (owner,)).fetchall()
        for id_, place, endpoint, key, may_charge, price, started_at, _, ends in rows:
            if unless_before is not None and ends > unless_before:
                continue
            identity = None if place == _place_of(id_) else place
            self._sql(_FORGET, (place, id_))
            row = (id_, identity, endpoint, key, may_charge, price, started_at, 0)
            state, holds = State.UNKNOWN, _LIFTED if identity is None else _HOLDS
            if not may_charge and self._sql(_ANSWERED_SINCE, (identity, id_)).fetchone() == (1,):
                state, holds = State.FREE, 0  # the callback came first: the question is charged once, and answered
            self._sql(_FINISH, (*row, state, None, None, error, 0, None, 1, holds))
            self._any_holding = self._any_holding or holds == _HOLDS
            self._count(endpoint, State.INTENDED, may_charge, price, -1)
            self._count(endpoint, state, may_charge, price, 1)

    # -------------------------------------------------------------------------------------------- by callback

    def _waiting(self, identity: bytes) -> Waiting | None:
        """The question, if its answer may come by callback."""
        row = self._sql(f"{_WAITING} identity = ? AND NOT answered", (identity,)).fetchone()
        return None if row is None else Waiting(*row)

    def _waiting_for(self, callbacks: Sequence[bytes]) -> list[Waiting]:
        """The questions that one of these callbacks answers, first the oldest that is owed an answer.

        None if two callbacks may be meant.
        """
        found = [self._sql(f"{_WAITING} callback = ?", (callback,)).fetchall() for callback in callbacks]
        found = [rows for rows in found if rows]
        if len(found) != 1:
            return []
        return sorted((Waiting(*row) for row in found[0]), key=lambda waiting: (waiting.is_spent, waiting.since))

    def _await(self, ask: Ask, callback: bytes, started: Started) -> None:
        """The attempt asks for a callback, in the place of one before it that is spent, or whose answer is too old."""
        for row in self._sql(f"{_WAITING} callback = ? AND identity = ?", (callback, ask.identity)).fetchall():
            self._drop(Waiting(*row))
        ends = self._now + round(ask.patience * 1e6)
        row = (callback, ask.identity, ask.endpoint, _json(ask.key), started.price, self._now, 0, started.id, ends, 0)
        self._sql("INSERT INTO outstanding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._any_outstanding = 1

    def _settle_waiting(self, waiting: Waiting, started: Started, result: Result) -> None:
        """What an attempt at the same question means for its callback."""
        where, values = "WHERE callback = ? AND identity = ?", (waiting.callback, waiting.identity)
        if result.answer and result.reply is not None:
            is_late = started.ask.overdue and waiting.since + started.ask.patience * 1e6 >= waiting.ends
            if not waiting.reserved or is_late or waiting.ends <= self._now:
                self._drop(waiting)  # what is called back now is a repeat
                return
            # The request that asked for the callback may be charged all the same.
            self._count(waiting.endpoint, waiting.counts_as, 1, waiting.price, -1)
            waiting.answered = True
            self._count(waiting.endpoint, waiting.counts_as, 1, waiting.price, 1)
            self._sql(f"UPDATE outstanding SET answered = 1 {where}", values)
        elif waiting.attempt == started.id and result.state is State.NOT_SENT and not started.ask.overdue:
            self._drop(waiting)
        elif waiting.attempt == started.id and result.state is not State.UNKNOWN:
            # A callback may come, after any answer but a final one; its charge is set aside if it is to come.
            self._sql(f"UPDATE outstanding SET attempt = NULL {where}", values)
            if result.expected or started.ask.overdue:
                self._reserve(waiting, 1)

    def _drop(self, waiting: Waiting) -> None:
        """Wait no longer."""
        self._reserve(waiting, -1)
        values = (waiting.callback, waiting.identity)
        self._sql("DELETE FROM outstanding WHERE callback = ? AND identity = ?", values)

    def _reserve(self, waiting: Waiting, sign: int) -> None:
        """Set a charge aside for the callback, or give it back."""
        if waiting.reserved is not (sign < 0):
            return
        waiting.reserved = sign > 0
        values = (int(waiting.reserved), waiting.callback, waiting.identity)
        self._sql("UPDATE outstanding SET reserved = ? WHERE callback = ? AND identity = ?", values)
        self._count(waiting.endpoint, waiting.counts_as, 1, waiting.price, sign)


def moment(micros: int) -> datetime:
    """Microseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(0, *divmod(micros, 1_000_000))


def money(millionths: int) -> Decimal:
    """Millionths as the number they are of."""
    return Decimal(millionths).scaleb(-6)


def _place(started: Started) -> bytes:
    """Where its intent stands: one place for all calls that are the same, or one of its own."""
    return started.ask.identity if started.ask.reusable else _place_of(started.id)


def _place_of(id_: int) -> bytes:
    return id_.to_bytes(16, "big")


def _micros(when: datetime) -> int:
    return (when - _EPOCH) // _MICROSECOND


def _text(text: str | None) -> str | None:
    # Whatever the vendor said must not keep its answer from being recorded.
    return None if text is None else text.encode("utf-8", "replace").decode()


def _json(key: Key) -> str | None:
    return None if key is None else json.dumps(key, default=str)  # a UUID as its text


def _attempt(row: tuple[Any, ...]) -> Attempt:
    state, started_at, elapsed, status, http_status, error, number, *_ = row
    charge = _CHARGE.get(state, Charge.FREE)
    return Attempt(charge, status, http_status, moment(started_at), elapsed / 1e6, error, True, number)
