"""The ledger's file, open for one owner: what `Store` promises, over one SQLite connection and in one thread."""

from __future__ import annotations

import dataclasses
import errno
import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from aisolution_async import clock
from aisolution_async.charges import Charge
from aisolution_async.errors import Key
from aisolution_async.ledger import answers, attempts, callbacks, intents, mark, owners, schema
from aisolution_async.ledger.rows import DIED, HOLDS, LEFT, LIFTED, Row, key_text, micros, moment
from aisolution_async.ledger.step import SqlOfMany, Step
from aisolution_async.ledger.store import (
    Ask,
    Busy,
    Exhausted,
    Expected,
    LedgerError,
    Result,
    Started,
    State,
    Stored,
    Verdict,
)
from aisolution_async.ledger.totals import Limits

_SLOW = 250_000
"""Microseconds from an answer to its record, after which a callback may have been recorded in between."""

_UNKNOWN = State.UNKNOWN  # looked up for every call: an Enum takes its time


class Book:
    """An open ledger file, by one owner.

    `begin`, `end`, `deliver`, `resolve` and `abandon` are done within a `transaction`; many of them may share one.
    """

    def __init__(self, path: Path, limits: Limits, synchronous: schema.Synchronous, busy_timeout: float) -> None:
        self._path = path
        self._limits = limits
        self._owner = owners.Owner(path)
        try:
            self._db = schema.connect(path, synchronous=synchronous, busy_timeout=busy_timeout)
        except BaseException:
            self._owner.release()
            raise
        cursor = self._db.cursor()
        self._sql = cursor.execute
        self._many: SqlOfMany = cursor.executemany
        self.closed = False
        self.unrecorded: Container[int] = ()
        """Attempts of this owner whose end could not be recorded yet."""
        self._mark: mark.Mark | None = None
        self._has_begun = False
        self._is_unseen = False  # its lock file is gone: others take this owner for dead sooner or later
        try:
            found = path.stat()
            self._inode = (found.st_dev, found.st_ino)
            self.hash_key: bytes = self._sql("SELECT hash_key FROM file").fetchone()[0]
            with self.transaction():
                self._sql("UPDATE file SET last_id = last_id")  # a file that cannot be written is refused here
                self._recover()
                last_id = self._step.last_id
            schema.use(self._db)
            self._mark = mark.Mark(path, self.hash_key)
            self._mark.note(last_id)
            if owners.has_others(path, self._owner.name):
                schema.sync_log(self._db)
            with self.transaction():  # so that nobody begins anything meanwhile
                owners.sweep(path, intents.owners_of_any(self._step))
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
            self._owner.close() if leaves else self._owner.release()
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
            self._is_unseen = not self._owner.is_there()
            self._step = step = Step(sql, self._many)
            callbacks.drop_late(step)
            yield
            step.save()
            sql("COMMIT")
            step.earlier.clear()  # the replies in it are large
        finally:
            if self._db.in_transaction:
                sql("ROLLBACK")
        if self._mark is not None and step.has_grown:
            self._mark.note(step.last_id)

    # ------------------------------------------------------------------------- operations, inside a transaction

    def foresee(self, begun: Sequence[Ask], ended: Sequence[Started]) -> None:
        """Look up together what the begins and ends of a group will ask for; without it, each does so by itself."""
        asks = [*begun, *(started.ask for started in ended)] if self._step.any_holding else begun
        identities = [ask.identity for ask in asks if ask.reusable]
        self._step.earlier = answers.of_many(self._step.sql, identities, any_holding=self._step.any_holding)

    def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`: the verdicts come in the order that it promises.

        Only Busy is found out late, where the intent cannot be added because one like it is there: to look for that
        first would cost every call a step of SQLite.
        """
        step, limits = self._step, self._limits
        earlier = answers.look(step.sql, ask, step.now, step.earlier) if ask.reusable else None
        if isinstance(earlier, Stored):
            return earlier
        awaited = callbacks.of_question(step, ask.identity) if step.any_outstanding else None
        callback = None if ask.overdue else ask.callback  # what the request would name
        if callback is not None and awaited is not None and not awaited.is_spent:
            return Expected(moment(awaited.since))
        lender = None
        why = limits.exceeded(step.totals, ask.endpoint, step.max_charges) if ask.may_charge else ""
        if why and awaited is not None and callbacks.can_lend(step, awaited, ask):
            lender = awaited
            why = limits.exceeded(step.totals, ask.endpoint, step.max_charges, lent=awaited.price)
        refusal = earlier or (Exhausted(why) if why else None)
        if refusal is None and (started := self._start(ask)) is not None:
            if callback is not None:
                callbacks.expect(step, callback, started)
            elif lender is not None:
                callbacks.lend(step, lender)
                return dataclasses.replace(started, borrows=True)
            return started
        if ask.reusable and (like := intents.under_way(step, ask.identity)) is not None:
            # Whatever else there is to say, an attempt under way comes first: it may bring the answer.
            return Busy() if self._is_under_way(*like) else self.begin(ask)
        assert refusal is not None, "an intent is added unless one like it is there"
        return refusal

    def _start(self, ask: Ask) -> Started | None:
        """Record the intent; None if the same is under way."""
        if self._is_unseen:
            raise LedgerError(
                f"somebody removed the lock file of this process beside the ledger {self._path}, so that others cannot "
                "see that it is in use: keep tidying programs away from FILE-owner-…, and run again"
            )
        started = intents.add(self._step, ask, self._limits.prices.get(ask.endpoint, 0), self._owner.name)
        self._has_begun = self._has_begun or started is not None
        return started

    def _is_under_way(self, id_: int, owner: str, ends: int) -> bool:
        """Whether that attempt really is; if its owner is dead, all that was his becomes UNKNOWN."""
        if id_ in self.unrecorded:
            raise LedgerError(f"the answer to the same call could not be recorded in the ledger {self._path} yet")
        alive = owner == self._owner.name or owners.is_alive(self._path, owner)
        if alive or (alive is None and self._step.now < ends):
            return True
        self._abandon_dead(owner, is_gone=alive is None)
        return False

    def end(self, started: Started, result: Result) -> None:
        """See `Store.end`."""
        step, ask, attempt = self._step, started.ask, result.attempt
        state, may_charge, answers_it = result.state, ask.may_charge, result.answers
        awaited = callbacks.of_question(step, ask.identity) if step.any_outstanding else None
        called_back = may_charge and ask.callback is not None and not intents.has_charge(step, started.id)
        if called_back:  # it came first, and took the reservation
            may_charge = False
            state = result.state_besides_callback
        identity = ask.identity if ask.reusable and result.sent else None
        holds = 0
        if state is _UNKNOWN:
            is_answered = called_back or answers_it
            holds = HOLDS if result.holds and identity is not None and not is_answered else LIFTED
        outcome = attempts.outcome_of(result, state, holds)
        if step.any_holding and answers_it:
            attempts.lift(step, identity)
        when = (micros(attempt.started_at), round(attempt.elapsed * 1e6))
        if intents.remove(step, started, may_charge=may_charge):
            row = (started.id, identity, ask.endpoint, key_text(ask.key), int(may_charge), started.price, *when)
            attempts.add(step, row, outcome)
        elif not self._end_again(started, result, (identity, *when), outcome):
            return
        if awaited is not None:
            callbacks.settle(step, awaited, started, result)
        if answers_it and step.now > sum(when) + _SLOW and state is State.CHARGED:
            attempts.doubt_callbacks(step, identity, sum(when))

    def _end_again(self, started: Started, result: Result, when: Row, outcome: Row) -> bool:
        """Record what came of an attempt that is over: recorded without a reply, or taken for dead by another process.

        False if its reply was recorded before.
        """
        sql = self._step.sql
        found = sql("SELECT state, may_charge, reply FROM attempts WHERE id = ?", (started.id,)).fetchone()
        if found is None:
            raise LedgerError(f"the ledger {self._path} lacks attempt {started.id}: it is not the file it was begun in")
        was, may_charge, reply = found
        if not result.holds and was == State.UNKNOWN:
            sql("UPDATE attempts SET holds = ? WHERE id = ?", (LIFTED, started.id))
        if reply is not None:
            return False
        before = (started.ask.endpoint, was, may_charge, started.price)
        attempts.amend(self._step, started.id, before, when, outcome)
        return True

    def deliver(self, waited_for: Sequence[bytes], result: Result) -> bool:
        """See `Store.deliver`."""
        return callbacks.deliver(self._step, waited_for, result)

    def resolve(self, call: Key | bytes, charge: Charge, attempt: int | None) -> int:
        """See `Store.resolve`."""
        wanted: Row  # an identity, a key, and the key as a number: a command line gives text
        if isinstance(call, bytes):
            wanted = (call, None, None)
        else:
            wanted = (None, key_text(call), call if isinstance(call, str) and call.lstrip("-").isdigit() else None)
        state = State(charge)
        settled = attempts.settle_by_hand(self._step, (attempt, *wanted), state)
        if state is State.FREE:
            for each in settled:
                callbacks.drop_of_attempt(self._step, each)
        return len(settled) + callbacks.settle_by_hand(self._step, wanted, state)

    def limit(self, max_charges: int | None) -> None:
        """See `Store.limit`."""
        self._step.sql("UPDATE file SET max_charges = ?", (max_charges,))

    def abandon(self, owner: str | None = None) -> None:
        """Make UNKNOWN what this owner has under way, or what another has, who is dead."""
        if owner is None:
            intents.abandon(self._step, self._owner.name, LEFT)
        else:
            intents.abandon(self._step, owner, DIED)

    # ------------------------------------------------------------------------ operations that are not in one

    def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`."""
        return answers.find(self._sql, asks, micros(clock.today()))

    def purge(self, seconds: float) -> int:
        """See `Store.purge`."""
        self._sql("PRAGMA secure_delete = ON")
        with self.transaction():
            before = self._step.now - round(seconds * 1e6)
            emptied = attempts.empty(self._step, before)
            callbacks.drop_older(self._step, before)
        self._sql("VACUUM")
        if self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise LedgerError(
                f"the replies are emptied, but a reader keeps their bytes in {self._path}-wal: "
                "end the other programs that read the ledger, then purge again"
            )
        return emptied

    # ------------------------------------------------------------------------------------------ whose it all is

    def _is_there(self) -> bool:
        """Whether the path still leads to this file: what is written to a removed file is lost."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def _recover(self) -> None:
        """Make UNKNOWN what dead owners have under way."""
        for owner in intents.owners_of_any(self._step):
            alive = owners.is_alive(self._path, owner)
            if not alive:
                self._abandon_dead(owner, is_gone=alive is None)

    def _abandon_dead(self, owner: str, *, is_gone: bool) -> None:
        """Make UNKNOWN what that owner has under way; `is_gone`, where nobody can tell: only what must be over."""
        intents.abandon(self._step, owner, DIED, unless_before=self._step.now if is_gone else None)
