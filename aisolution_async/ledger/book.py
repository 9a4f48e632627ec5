"""The rules of the ledger over one SQLite connection. Synchronous, and used by one thread."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import errno
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from aisolution_async import clock
from aisolution_async.charges import Attempt, Charge
from aisolution_async.errors import Key
from aisolution_async.ledger import owners, schema
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

# The last attempt of its call that left. Those that did not leave have no identity.
_LAST_HOLDING = """holds AND identity IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM attempts AS other WHERE other.identity = attempts.identity AND other.id > attempts.id)"""

HOLDING = f"""{_LAST_HOLDING} AND NOT EXISTS (
    SELECT 1 FROM attempts AS other WHERE other.identity = attempts.identity AND other.answer)"""
"""Which attempts hold their call, in SQL."""

_SEEN = "state, started_at, elapsed, status, http_status, error, number, holds, answer, reply"
_LAST = f"SELECT {_SEEN} FROM attempts WHERE identity = ? ORDER BY id DESC LIMIT 1"
_LAST_ANSWER = f"SELECT {_SEEN} FROM attempts WHERE identity = ? AND answer ORDER BY id DESC LIMIT 1"
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
_UNDER_WAY = "SELECT id, owner FROM intents WHERE identity = ?"
_INTEND = "INSERT OR IGNORE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM intents WHERE identity = ? AND id = ?"
_FINISH = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_AMEND = """UPDATE attempts SET identity = ?, started_at = ?, elapsed = ?, state = ?, status = ?, http_status = ?,
    error = ?, answer = ?, reply = ?, number = ?, holds = ? WHERE id = ?"""

_WAITING = "SELECT * FROM outstanding WHERE"
_UNSETTLED = """SELECT id, endpoint, may_charge, price FROM attempts
    WHERE holds AND state = 'unknown' AND (id = ? OR identity = ? OR key IN (?, ?))"""
_SETTLE = """UPDATE attempts SET state = ?, holds = ?, error = ifnull(error || '; ', '') || 'settled by hand'
    WHERE id = ?"""
_EMPTY = f"""UPDATE attempts SET reply = NULL, answer = 0, identity = NULL
    WHERE started_at + elapsed < ? AND (reply IS NOT NULL OR identity IS NOT NULL)
    AND id NOT IN (SELECT id FROM attempts WHERE {_LAST_HOLDING})"""


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

    def __post_init__(self) -> None:
        self.reserved = bool(self.reserved)


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
        self._totals: dict[str, Total] = {}
        self._last_id = self._now = self._any_outstanding = 0
        try:
            found = path.stat()
            self._inode = (found.st_dev, found.st_ino)
            self.hash_key: bytes = self._sql("SELECT hash_key FROM file").fetchone()[0]
            with self.transaction():
                self._sql("UPDATE file SET last_id = last_id")  # a file that cannot be written is refused here
                self._recover()
            owners.sweep(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file and the lock."""
        self.closed = True
        try:
            self._db.close()
        finally:
            self._owner.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic step: all that is done in it is durable when it is left, or was never done."""
        sql = self._sql
        if not self._is_there():
            raise OSError(errno.ESTALE, "removed or replaced")
        sql("BEGIN IMMEDIATE")
        try:
            self._now = _micros(clock.today())
            self._totals = {row[0]: Total(*row[1:]) for row in sql("SELECT * FROM totals")}
            (last_id,) = sql("SELECT last_id FROM file").fetchone()
            self._last_id = last_id
            (self._any_outstanding,) = sql("SELECT EXISTS (SELECT 1 FROM outstanding)").fetchone()
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

    # ------------------------------------------------------------------------- operations, inside a transaction

    def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`."""
        found = self._find(ask) if ask.reusable else None
        if isinstance(found, Stored):
            return found
        waiting = self._waiting(ask) if self._any_outstanding else None
        if waiting is not None and ask.callback is not None and not ask.overdue:
            return Expected(moment(waiting.since))
        price = self._budget.prices.get(ask.endpoint)
        why = self._exceeded(ask.endpoint, price) if ask.may_charge else ""
        borrowed = bool(why and found is None and waiting is not None and waiting.reserved)
        if borrowed:  # what was set aside for its callback is spent on asking again
            assert waiting is not None
            self._reserve(waiting, -1)
            why = self._exceeded(ask.endpoint, price)
        if found is None and not why:
            started = Started(self._last_id + 1, ask, price or 0)
            row = (started.id, _place(started), ask.endpoint, _json(ask.key), int(ask.may_charge), started.price)
            if self._sql(_INTEND, (*row, self._now, self._owner.name)).rowcount:
                self._last_id += 1
                self._count(ask.endpoint, State.INTENDED, ask.may_charge, started.price, 1)
                if ask.callback is not None and waiting is None:
                    self._sql(
                        "INSERT OR REPLACE INTO outstanding VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                        (ask.callback, ask.identity, *row[2:4], started.price, self._now, started.id),
                    )
                    self._any_outstanding = 1
                elif borrowed:
                    assert waiting is not None
                    self._sql("UPDATE outstanding SET attempt = ? WHERE callback = ?", (started.id, waiting.callback))
                return started
        if borrowed:
            assert waiting is not None
            self._reserve(waiting, 1)
        # Whatever else there is to say, an attempt under way comes first: it may bring the answer.
        if ask.reusable and (row := self._sql(_UNDER_WAY, (ask.identity,)).fetchone()):
            id_, owner = row
            if id_ in self.unrecorded:
                raise LedgerError(f"the answer to the same call could not be recorded in the ledger {self._path} yet")
            if owner == self._owner.name or owners.is_alive(self._path, owner):
                return Busy()
            self._abandon(owner, DIED)
            return self.begin(ask)
        return found or Exhausted(why)

    def end(self, started: Started, result: Result) -> None:
        """See `Store.end`."""
        ask, attempt, state = started.ask, result.attempt, result.state
        charge = int(ask.may_charge)
        waiting = self._waiting(ask) if self._any_outstanding else None
        if ask.callback is not None and self._sql(
            "SELECT may_charge FROM intents WHERE id = ?", (started.id,)
        ).fetchone() == (0,):
            charge = 0  # the callback came first, and took the reservation: what it said is charged once
            state = State.FREE if state is State.CHARGED else state
        identity = ask.identity if ask.reusable and result.sent else None
        when, elapsed = _micros(attempt.started_at), round(attempt.elapsed * 1e6)
        outcome = (
            state,
            _text(attempt.status),
            attempt.http_status,
            _text(attempt.error),
            int(result.answer and result.reply is not None),
            result.reply,
            attempt.number,
            int(state is State.UNKNOWN),
        )
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
        waiting = self._waiting_for(callbacks[:1]) or self._waiting_for(callbacks[1:])
        if waiting is None:
            return False
        self._sql("DELETE FROM outstanding WHERE callback = ?", (waiting.callback,))
        self._reserve(waiting, -1)
        attempt, state = result.attempt, result.state
        outcome = (state, attempt.status, None, None, int(result.answer), result.reply, attempt.number, 0)
        when, elapsed, price = waiting.since, self._now - waiting.since, waiting.price
        if waiting.attempt is not None:
            lost = self._sql(
                "SELECT may_charge FROM attempts WHERE id = ? AND state = 'unknown'", (waiting.attempt,)
            ).fetchone()
            if lost is not None:  # it had arrived: this is its answer
                self._sql(_AMEND, (waiting.identity, when, elapsed, *outcome, waiting.attempt))
                self._count(waiting.endpoint, State.UNKNOWN, lost[0], price, -1)
                self._count(waiting.endpoint, state, lost[0], price, 1)
                return True
            if self._sql(
                "UPDATE intents SET may_charge = 0 WHERE id = ? AND may_charge", (waiting.attempt,)
            ).rowcount:  # still under way: its charge is this one
                self._count(waiting.endpoint, State.INTENDED, 1, price, -1)
                self._count(waiting.endpoint, State.INTENDED, 0, price, 1)
        self._last_id += 1
        row = (self._last_id, waiting.identity, waiting.endpoint, waiting.key, 1, price, when, elapsed)
        self._sql(_FINISH, (*row, *outcome))
        self._count(waiting.endpoint, state, 1, price, 1)
        return True

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
            self._sql(_SETTLE, (state, int(state is State.CHARGED), id_))
            self._count(endpoint, State.UNKNOWN, may_charge, price, -1)
            self._count(endpoint, state, may_charge, price, 1)
        return len(rows) + self._resolve_waiting(values[1:], state)

    def _resolve_waiting(self, values: tuple[Any, ...], state: State) -> int:
        """Settle what still waits for a callback, and is reserved."""
        found = self._sql(f"{_WAITING} reserved AND (identity = ? OR key IN (?, ?))", values).fetchall()
        for row in found:
            waiting = Waiting(*row)
            self._sql("DELETE FROM outstanding WHERE callback = ?", (waiting.callback,))
            self._reserve(waiting, -1)
            if state is State.CHARGED:
                self._last_id += 1
                values = (waiting.identity, waiting.endpoint, waiting.key, 1, waiting.price, waiting.since, 0)
                outcome = (state, None, None, "settled by hand", 0, None, 1, 1)
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
                self._sql("DELETE FROM outstanding WHERE callback = ?", (row[0],))
                self._reserve(Waiting(*row), -1)
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

    def _find(self, ask: Ask) -> Stored | Held | None:
        """What earlier attempts of the call say."""
        last = self._sql(_LAST, (ask.identity,)).fetchall()
        if not last:
            return None
        *_, holds, is_answer, reply = last[0]
        answer = last if is_answer else self._sql(_LAST_ANSWER, (ask.identity,)).fetchall()
        if answer and (stored := self._stored(answer[0], ask.reuse_for)):
            return stored
        return Held(_attempt(last[0]), reply) if holds and not ask.resend_unknown else None

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
            if not owners.is_alive(self._path, owner):
                self._abandon(owner, DIED)

    def _abandon(self, owner: str, error: str) -> None:
        rows = self._sql("SELECT * FROM intents WHERE owner = ?", (owner,)).fetchall()
        for id_, place, endpoint, key, may_charge, price, started_at, _ in rows:
            identity = None if place == _place_of(id_) else place
            self._sql(_FORGET, (place, id_))
            row = (id_, identity, endpoint, key, may_charge, price, started_at, 0)
            self._sql(_FINISH, (*row, State.UNKNOWN, None, None, error, 0, None, 1, 1))
            self._count(endpoint, State.INTENDED, may_charge, price, -1)
            self._count(endpoint, State.UNKNOWN, may_charge, price, 1)

    # -------------------------------------------------------------------------------------------- by callback

    def _waiting(self, ask: Ask) -> Waiting | None:
        """The same question, if its answer may come by callback."""
        row = self._sql(f"{_WAITING} identity = ?", (ask.identity,)).fetchone()
        return None if row is None else Waiting(*row)

    def _waiting_for(self, callbacks: Sequence[bytes]) -> Waiting | None:
        rows = [self._sql(f"{_WAITING} callback = ?", (callback,)).fetchone() for callback in callbacks]
        found = [Waiting(*row) for row in rows if row is not None]
        return found[0] if len(found) == 1 else None

    def _settle_waiting(self, waiting: Waiting, started: Started, result: Result) -> None:
        """What an attempt at the same question means for its callback."""
        if result.answer and result.reply is not None:
            self._sql("DELETE FROM outstanding WHERE callback = ?", (waiting.callback,))
            self._reserve(waiting, -1)  # what is called back now is a repeat
        elif waiting.attempt == started.id and result.state is not State.UNKNOWN:
            # A callback may come, after any answer but a final one; its charge is set aside if it is to come.
            self._sql("UPDATE outstanding SET attempt = NULL WHERE callback = ?", (waiting.callback,))
            if result.expected or started.ask.overdue:
                self._reserve(waiting, 1)

    def _reserve(self, waiting: Waiting, sign: int) -> None:
        """Set a charge aside for the callback, or give it back."""
        if waiting.reserved is not (sign < 0):
            return
        waiting.reserved = sign > 0
        values = (int(waiting.reserved), waiting.callback)
        self._sql("UPDATE outstanding SET reserved = ? WHERE callback = ?", values)
        self._count(waiting.endpoint, State.INTENDED, 1, waiting.price, sign)


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
    return None if key is None else json.dumps(key)


def _attempt(row: tuple[Any, ...]) -> Attempt:
    state, started_at, elapsed, status, http_status, error, number, *_ = row
    charge = _CHARGE.get(state, Charge.FREE)
    return Attempt(charge, status, http_status, moment(started_at), elapsed / 1e6, error, True, number)
