"""A shared ledger, open for one owner: what `Store` promises, over one connection to a server and in one thread.

Begins and ends are handed to the server in groups, each one call of one function there (`postgres.sql`). When the
connection breaks, nobody knows whether the last group was recorded. After connecting again, the same group is asked
anew: an end that was recorded is so for good, and the intents of begins that nobody was told of are ended as not sent.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from aisolution_async import clock
from aisolution_async.charges import Charge, Owed, of_callback
from aisolution_async.errors import Key
from aisolution_async.ledger import answers, server
from aisolution_async.ledger.rows import (
    BY_HAND,
    DIED,
    HOLDS,
    LEFT,
    LIFTED,
    REPEATED,
    attempt_in,
    key_text,
    micros,
    moment,
    money,
)
from aisolution_async.ledger.store import (
    Ask,
    Busy,
    Exhausted,
    Expected,
    Held,
    Lease,
    LedgerError,
    Result,
    Share,
    Started,
    State,
    Stored,
)
from aisolution_async.ledger.urls import Server

T = TypeVar("T")

End = tuple[Started, Result]

_GRACE = 5.0
"""Seconds for which an attempt is taken to be under way beyond its deadline."""
_TIMES = 5
"""How often two may be in each other's way before it is told."""
_REMEMBER = 1.0
"""Seconds for which the budget is known to be used up, before it is looked at again."""
_OFTEN = 1.0
"""Seconds between two looks at a part of a rate that is to grow."""
_AT_ONCE = 500
_STRAY = "its leave was lost with the connection to the ledger"

_EXCHANGE = "SELECT * FROM ledger.exchange(%s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb)"
_ENTER = """INSERT INTO ledger.owners (host, pid, expires_at)
    VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s)) RETURNING id"""
_LEFT_OVER = """SELECT id, false FROM ledger.owners WHERE NOT ended AND expires_at < clock_timestamp()
    UNION ALL SELECT id, true FROM ledger.intents WHERE owner = %s AND id <> ALL (%s::bigint[]) ORDER BY 2, 1"""
_REMEMBERS = """SELECT hash_key, ARRAY(
        SELECT id FROM ledger.attempts WHERE id = %s UNION SELECT id FROM ledger.intents WHERE owner = %s AND id = %s
        UNION SELECT id FROM ledger.attempts WHERE id = %s
    ) FROM ledger.book"""
_SUMS = """SELECT (SELECT max_charges FROM ledger.book), (SELECT granted FROM ledger.book),
    coalesce(sum(attempts) FILTER (WHERE state = 'charged'), 0)::bigint,
    coalesce(sum(attempts) FILTER (WHERE state = 'unknown'), 0)::bigint,
    (SELECT count(*) FROM ledger.intents) + (SELECT count(*) FROM ledger.outstanding WHERE reserved)
    FROM ledger.rollup"""
_SINCE = """SELECT coalesce(min(s.since), clock_timestamp())
    FROM ledger.shards s JOIN ledger.owners o ON o.id = s.owner
    WHERE s.folder = %s AND NOT o.ended AND o.expires_at > clock_timestamp()"""
# Whether a callback is recorded that came at that moment: the window is what the index on time needs.
_DELIVERED = """SELECT FROM ledger.attempts WHERE started_at >= %s - %s AND started_at + elapsed = %s
    AND http_status IS NULL AND reply = %s"""
_LONGEST_PATIENCE = 30 * 86400 * 10**6
# So many attempts are looked at, old ones or not: however many there are, no statement takes long.
_PURGE = """WITH looked AS MATERIALIZED (
        SELECT id, started_at < %s AND started_at + elapsed < %s AND (reply IS NOT NULL OR identity IS NOT NULL)
            AND holds <> 1 AS is_old FROM ledger.attempts WHERE id > %s ORDER BY id LIMIT 5000
    ), old AS MATERIALIZED (  -- as they are now: another purge may have been here since
        SELECT a.id, a.endpoint, a.started_at, a.state, a.status, a.answer, a.reply IS NOT NULL AS replied
        FROM ledger.attempts a JOIN looked USING (id)
        WHERE is_old AND (a.reply IS NOT NULL OR a.identity IS NOT NULL) AND a.holds <> 1 FOR UPDATE OF a
    ), done AS (
        UPDATE ledger.attempts a SET reply = NULL, answer = false, identity = NULL FROM old WHERE a.id = old.id
    ), told AS (
        INSERT INTO ledger.rollup AS r
        SELECT %s, endpoint, started_at / 86400000000, state, coalesce(status, ''), 0, 0,
            -count(*) FILTER (WHERE answer), -count(*) FILTER (WHERE replied)
        FROM old GROUP BY 2, 3, 4, 5
        ON CONFLICT (owner, endpoint, day, state, status) DO UPDATE
            SET answers = r.answers + excluded.answers, replies = r.replies + excluded.replies
    ) SELECT (SELECT max(id) FROM looked), (SELECT count(*) FROM old)"""
_PURGE_OUTSTANDING = """WITH old AS (DELETE FROM ledger.outstanding WHERE since < %s
        AND NOT (attempt IS NOT NULL AND attempt IN (SELECT id FROM ledger.intents)) RETURNING reserved, price)
    SELECT ledger.account(-count(*) FILTER (WHERE reserved), -coalesce(sum(price) FILTER (WHERE reserved), 0)::bigint)
    FROM old"""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a shared ledger is used: the opening's own limits and prices, money in millionths; seconds.

    `share` is its part of a rate, as the book takes it.
    """

    max_charges: int | None
    max_cost: int | None
    prices: dict[str, int]
    lease: float
    patience: float
    share: Share = field(default_factory=Share)


class SharedBook:
    """A shared ledger that is open, by one owner. What its operations promise is in `Store`."""

    def __init__(self, place: Server, terms: Terms) -> None:
        self._place = place
        self._terms = terms
        self._db: server.Connection | None = None
        self._lost_at: float | None = None
        self.lease = Lease()
        self._share_until = 0.0  # when to look again what it is
        self._owner = 0
        self._known: dict[int, Started] = {}  # under way, as far as this process knows
        self._last_begun = 0
        self._last_ended = 0
        self._used_up = (0.0, "")  # until when the budget is known to be used up, and how
        self.closed = False
        self.renews_at = clock.continuous() + terms.lease / 3
        """When to tell the others next that this owner is alive, on `clock.continuous`."""
        self.unrecorded: Container[int] = ()
        """Attempts of this owner whose end could not be recorded yet."""
        self._db = server.connect(place)
        try:
            self.hash_key = server.prepare(self._db, place)
            self._do(self._tidy)
            self._enter_anew()
        except BaseException:
            self._disconnect()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        self.closed = True
        self.lease.until = 0.0
        if self._db is not None:
            self._db.close()
            self._db = None

    def leave(self) -> None:
        """Be no owner any more: what is under way becomes UNKNOWN."""
        self.lease.until = 0.0  # nothing more is sent
        self._do(self._end_strays)
        self._once("SELECT ledger.bury(%s, true, %s)", self._owner, LEFT)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Each operation is a transaction of its own here."""
        yield

    # ------------------------------------------------------------------------------------------- begins and ends

    def together(self, asks: Sequence[Ask], ends: Sequence[End]) -> list[object]:
        """Record the ends, and return what `begin` answers to each of `asks`, or the error of it.

        Raises what the driver raises where none of it could be recorded.
        """
        found: list[object] = [None] * len(asks)
        try:
            self._work_off(asks, ends, found)
        except BaseException:
            for each in found:  # nobody is told of it: it is ended as not sent
                if isinstance(each, Started):
                    self._known.pop(each.id, None)
            raise
        return found

    def _work_off(self, asks: Sequence[Ask], ends: Sequence[End], found: list[object]) -> None:
        left = list(range(len(asks)))
        for _ in range(_TIMES):
            rows = self._exchange([asks[n] for n in left], ends)
            for started, _result in ends:
                self._known.pop(started.id, None)
                self._last_ended = started.id
            ends = ()
            if rows and rows[-1][0] == "fenced":
                self._enter_anew()
                continue
            left = self._heed(rows, asks, left, found)
            if not left:
                break
        for n in left:
            found[n] = Busy()

    def renew(self) -> None:
        """Tell the others that this owner is alive, and bury those that are not."""
        if self._exchange((), ()):
            self._enter_anew()
        self._do(self._tidy)

    def keep_share(self) -> float:
        """Take what is this owner's of a rate, where it is time for that. Returns the seconds to the next renewal."""
        now = clock.continuous()
        if now >= self._share_until:
            self._share_until = now + self._often
            self._do(self._take_share)
        return max(min(self._terms.lease / 3, self._share_until - now), 0.0)

    def _exchange(self, asks: Sequence[Ask], ends: Sequence[End]) -> list[tuple[Any, ...]]:
        """One group. Done again after a broken connection, until the server's patience is over."""
        terms, now = self._terms, micros(clock.today())
        begins_text = json.dumps([self._begin(ask, now) for ask in asks])
        ends_text = json.dumps([_ended(started, result) for started, result in ends])
        borrows = clock.continuous() >= self._used_up[0]

        def do(db: server.Connection) -> list[tuple[Any, ...]]:
            values = (self._owner, terms.lease, now, terms.max_charges, terms.max_cost, borrows, begins_text, ends_text)
            sent = clock.continuous()
            if sent >= self.lease.until:  # others may have taken its part of a rate
                self._terms.share.part, self._share_until = 0.0, 0.0
            rows = db.execute(self._sql(_EXCHANGE), values, binary=True).fetchall()
            if not rows or rows[-1][0] != "fenced":
                self.lease.until = sent + terms.lease
            return rows

        return self._do(do)

    def _begin(self, ask: Ask, now: int) -> tuple[Any, ...]:
        price = self._terms.prices.get(ask.endpoint)
        assert ask.within is not None
        return (
            ask.identity.hex(),
            ask.endpoint,
            key_text(ask.key),
            ask.may_charge,
            price if price is not None else 0 if self._terms.max_cost is None else -1,
            ask.reusable,
            None if ask.reuse_for is None else now - round(ask.reuse_for * 1e6),
            ask.retry_unknown,
            ask.within + _GRACE,
            None if ask.callback is None else ask.callback.hex(),
            ask.overdue,
            round(ask.patience * 1e6),
        )

    def _heed(
        self, rows: Sequence[tuple[Any, ...]], asks: Sequence[Ask], left: Sequence[int], found: list[object]
    ) -> list[int]:
        """Put the verdicts into `found`. Returns those of `left` that are to be asked again at once."""
        dead: set[int] = set()
        mine: set[int] = set()
        lent: set[int] = set()
        ids: list[int | None] = []
        said: dict[int, object] = {}
        for row in rows:
            kind, place, id_ = row[:3]
            if kind == "ids":
                ids = row[3]
            elif kind == "lent":
                lent = set(row[3])
            elif kind == "dead":
                dead.add(id_)
            elif kind == "mine" and id_ in self.unrecorded:
                text = f"the answer to the same call could not be recorded in the ledger {self._place} yet"
                said[place] = LedgerError(text)
            elif kind == "mine" and id_ in self._known:
                said[place] = Busy()
            elif kind == "mine":
                mine.add(id_)
            else:
                said[place] = self._verdict(row, asks[left[place - 1]])
        again = []
        for place, (n, id_) in enumerate(zip(left, ids, strict=True), 1):
            if place in said:
                found[n] = said[place]
            elif id_ is None:  # what was in the way is gone, or about to be
                again.append(n)
            else:
                price = max(self._terms.prices.get(asks[n].endpoint, 0), 0)
                found[n] = self._known[id_] = Started(id_, asks[n], price, lease=self.lease, borrows=id_ in lent)
                self._last_begun = max(self._last_begun, id_)
        self._make_way(dead, mine)
        return again

    def _make_way(self, dead: set[int], mine: set[int]) -> None:
        """End what was in the way of a begin: of these owners that are dead, and of the intents that are one's own."""
        for owner in sorted(dead):
            self._once("SELECT ledger.bury(%s, false, %s)", owner, DIED)
        if not mine <= self._known.keys():
            self._do(self._end_strays)

    def _verdict(self, row: tuple[Any, ...], ask: Ask) -> object:
        kind, _, id_, _, state, started_at, elapsed, status, http_status, error, number, reply, holding = row
        if kind == "expected":
            return Expected(moment(started_at))
        if kind in ("busy", "wait"):
            return Busy()
        if kind == "unpriced":
            return Exhausted(f"max_cost is set, and prices says nothing of {ask.endpoint}")
        if kind == "exhausted":
            return Exhausted(self._why())
        attempt = attempt_in((state, started_at, elapsed, status, http_status, error, number), id_)
        if kind == "stored":
            return Stored(reply.encode(), attempt)
        return Held(attempt, None if reply is None else reply.encode(), holding)

    def _why(self) -> str:
        """How the budget is used up."""
        until, why = self._used_up
        if clock.continuous() >= until:
            limit, granted, charged, unknown, intended = self._once(_SUMS)[0]
            limits = [each for each in (limit, self._terms.max_charges) if each is not None]
            if limits and (granted >= min(limits) or self._terms.max_cost is None):
                which = f"max_charges={min(limits)}"
            else:
                which = f"max_cost={money(self._terms.max_cost or 0)}"
            counts = f"{charged} charged, {unknown} unknown, {intended} under way"
            why = f"{which} is reached: {counts} in the ledger {self._place}"
            self._used_up = (clock.continuous() + _REMEMBER, why)
        return why

    # ------------------------------------------------------------------------------------------ other operations

    def still_busy(self, identities: Sequence[bytes]) -> set[bytes]:
        """Those of these questions that are under way with somebody who is alive: one look for all who wait."""
        query = """SELECT q.place FROM unnest(%s::uuid[]) WITH ORDINALITY AS q(identity, place)
            JOIN ledger.intents i ON i.place = q.identity
            JOIN ledger.owners h ON h.id = i.owner AND NOT h.ended AND h.expires_at >= clock_timestamp()"""
        return {identities[place - 1] for (place,) in self._once(query, _uuids(identities))}

    def still_awaited(self, identities: Sequence[bytes]) -> set[bytes]:
        """Those of these questions whose answer is still to come by callback: one look for all who wait."""
        query = """SELECT q.place FROM unnest(%s::uuid[]) WITH ORDINALITY AS q(identity, place)
            WHERE EXISTS (SELECT FROM ledger.outstanding o WHERE o.identity = q.identity AND NOT o.answered
                AND (o.reserved OR o.attempt IS NOT NULL))"""
        return {identities[place - 1] for (place,) in self._once(query, _uuids(identities))}

    def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`."""
        now = micros(clock.today())
        wanted = [(n, ask) for n, ask in enumerate(asks) if ask.reusable]
        found: list[Stored | None] = [None] * len(asks)
        rows = self._once("SELECT * FROM ledger.find(%s::uuid[])", _uuids([ask.identity for _, ask in wanted]))
        for place, state, started_at, elapsed, status, http_status, number, reply in rows:
            n, ask = wanted[place - 1]
            row = (state, started_at, elapsed, status, http_status, None, number)
            if answers.is_young(row, ask, now):
                found[n] = Stored(reply.encode(), attempt_in(row))
        return found

    def deliver(self, waited_for: Sequence[bytes], result: Result) -> bool:
        """See `Store.deliver`."""
        attempt = result.attempt
        said = (
            *(of_callback(attempt.charge, owed) for owed in (Owed.ANSWER, Owed.NO_CHARGE, Owed.NOTHING)),
            _text(attempt.status),
            result.answer,
            _text(_body(result)),
            attempt.number,
            REPEATED,
        )
        now, reply = micros(clock.today()), said[5]
        values = (self._owner, now, list(waited_for), json.dumps(said))
        tries = 0

        def do(db: server.Connection) -> bool:
            nonlocal tries
            tries += 1
            looked = (now, _LONGEST_PATIENCE, now, reply)
            if tries > 1 and db.execute(self._sql(_DELIVERED), looked).fetchone() is not None:
                return True  # it was the answer of the server that was lost
            row = db.execute(self._sql("SELECT ledger.deliver(%s, %s, %s, %s::jsonb)"), values).fetchone()
            assert row is not None
            return bool(row[0])

        delivered = self._do(do)
        self._used_up = (0.0, "")
        return delivered

    def resolve(self, call: Key | bytes, charge: Charge, attempt: int | None) -> int:
        """See `Store.resolve`."""
        identity, keys = None, None
        if attempt is None and isinstance(call, bytes):
            identity = UUID(bytes=call)
        elif attempt is None and not isinstance(call, bytes):
            keys = [key_text(call)]
            if isinstance(call, str) and call.lstrip("-").isdigit():
                keys.append(call)  # a command line gives a number as text
        query = "SELECT ledger.resolve(%s, %s, %s, %s, %s::text[], %s, %s)"
        values = (self._owner, micros(clock.today()), attempt, identity, keys, State(charge).value, BY_HAND)
        is_lost = False

        def do(db: server.Connection) -> int:
            nonlocal is_lost
            if is_lost:
                raise LedgerError(
                    f"the connection to the ledger {self._place} was lost, and nobody knows whether this is settled: "
                    "look with `aisolution ledger show`"
                )
            try:
                row = db.execute(self._sql(query), values).fetchone()
            except psycopg.Error as exc:
                is_lost = server.is_lost(exc)
                raise
            assert row is not None
            return int(row[0])

        count = self._do(do)
        self._used_up = (0.0, "")
        return count

    def purge(self, seconds: float) -> int:
        """See `Store.purge`: a few thousand at a time, so that nobody waits for long."""
        before = micros(clock.today()) - round(seconds * 1e6)
        emptied, last = 0, 0
        while last is not None:
            ((last, count),) = self._once(_PURGE, before, before, last, self._owner, locks=True)
            emptied += count
            self._stay_alive()
        self._once(_PURGE_OUTSTANDING, before, locks=True)
        with ThreadPoolExecutor(1) as beside:
            vacuum = beside.submit(self._vacuum)
            while not wait((vacuum,), self._terms.lease / 3).done:  # it may take longer than a lease
                self._stay_alive()
        vacuum.result()
        return emptied

    def _stay_alive(self) -> None:
        """Within what takes long: renew the lease, when a third of it is over."""
        if clock.continuous() >= self.lease.until - self._terms.lease * 2 / 3:
            self.renew()
            self.keep_share()

    def _vacuum(self) -> None:
        with server.connect(self._place) as db:
            db.execute(self._sql("VACUUM (SKIP_LOCKED) ledger.attempts"))

    def limit(self, max_charges: int | None) -> None:
        """See `Store.limit`."""
        self._once("SELECT ledger.set_limit(%s)", max_charges)
        self._used_up = (0.0, "")

    # ------------------------------------------------------------------------------------------ the shards of a folder

    def shards_since(self, folder: UUID) -> datetime:
        """When those who work through the folder began, which is now if nobody does."""
        moment: datetime = self._once(_SINCE, folder)[0][0]
        return moment

    def take_shard(self, folder: UUID, name: str, since: datetime) -> tuple[str, int]:
        """Take a shard: what became of that, and as which owner it was."""
        while True:
            values = (self._owner, folder, name, since, DIED)
            ((said,),) = self._once("SELECT ledger.take_shard(%s, %s, %s, %s, %s)", *values)
            if said != "fenced":
                return said, self._owner
            self._enter_anew()

    def leave_shard(self, folder: UUID, name: str, owner: int) -> None:
        """Leave a shard that was taken as that owner."""
        query = "UPDATE ledger.shards SET owner = NULL WHERE folder = %s AND name = %s AND owner = %s"
        self._once(query, folder, name, owner)

    # ------------------------------------------------------------------------------- the connection, and whose it is

    def _sql(self, query: str) -> bytes:
        return server.named(self._place, query)

    def _once(self, query: str, *values: Any, locks: bool = False) -> list[tuple[Any, ...]]:
        """The rows of one statement, which may be done twice.

        `locks`: the statement takes locks, and is no function of the schema that waits for them only so long.
        """

        def do(db: server.Connection) -> list[tuple[Any, ...]]:
            with db.transaction() if locks else nullcontext():
                if locks:
                    db.execute(f"{server.STANDS_STILL}; {server.LOCK_TIMEOUT}")
                cursor = db.execute(self._sql(query), values or None)
                return cursor.fetchall() if cursor.description else []

        return self._do(do)

    def _do(self, work: Callable[[server.Connection], T]) -> T:
        """What comes of `work`, done again after a broken connection, and where two were in each other's way."""
        times = 0
        # Who locked it may have done so just before: it has stood still for long enough at the second look.
        until = clock.continuous() + server.STILL + max(self._terms.patience, server.STILL)
        while True:
            try:
                return work(self._connected())
            except psycopg.Error as exc:
                times += 1
                if server.is_locked(exc) and clock.continuous() < until:
                    if self._db is not None:  # else `_connected` has done it
                        server.end_still(self._db, self._place)
                    pause = 0.0  # it has waited
                elif server.is_passing(exc) and times < _TIMES:
                    pause = random.uniform(0.0, 0.02)  # noqa: S311  # so that they do not meet again
                elif server.is_lost(exc):
                    self._disconnect()
                    assert self._lost_at is not None
                    if clock.continuous() >= self._lost_at + self._terms.patience:
                        raise
                    pause = min(0.05 * times, 0.5)
                else:
                    raise
            time.sleep(pause)

    def _disconnect(self) -> None:
        if self._lost_at is None:
            self._lost_at = clock.continuous()
        if self._db is not None:
            with suppress(psycopg.Error):
                self._db.close()
            self._db = None

    def _connected(self) -> server.Connection:
        """The connection, made anew where it was lost."""
        if self._db is not None:
            return self._db
        db = server.connect(self._place)
        try:
            self._look_whether_it_is_the_same(db)
            self._end_strays(db)
        except BaseException as exc:
            if server.is_locked(exc):
                server.end_still(db, self._place)
            db.close()
            raise
        self._db, self._lost_at = db, None
        return db

    def _look_whether_it_is_the_same(self, db: server.Connection) -> None:
        """A copy took the server's place, maybe, which lacks what was recorded last."""
        # A log has commits in their order: where the last one is, all are. The sequence is no evidence, as it is logged
        # ahead.
        values = (self._last_begun, self._owner, self._last_begun, self._last_ended)
        row = db.execute(self._sql(_REMEMBERS), values).fetchone()
        wanted = {0, self._last_begun, self._last_ended}
        if row is None or bytes(row[0]) != self.hash_key or not wanted <= {0, *row[1]}:
            raise LedgerError(
                f"the ledger {self._place} is not what it was: it lacks attempts that were recorded, and what it "
                "forgot would be paid for again. Bring back the server that had them, or settle what was lost; then "
                "run again"
            )

    def _end_strays(self, db: server.Connection) -> None:
        """End the intents of begins whose commit nobody was told of: nothing of them was sent.

        Some come later than the new connection: a server that waits for a lock or a disk does not see that who asked
        is gone.
        """
        query = """SELECT id, place::text, endpoint, key, may_charge, price, started_at, borrows FROM ledger.intents
            WHERE owner = %s AND id <> ALL (%s::bigint[])"""
        rows = db.execute(self._sql(query), (self._owner, list(self._known))).fetchall()
        ends = [
            (
                *(
                    id_,
                    place,
                    None,
                    endpoint,
                    key,
                    may_charge,
                    price,
                    started_at,
                    0,
                    State.NOT_SENT,
                    None,
                    None,
                    _STRAY,
                ),
                *(1, False, True, 0, False, None, False, 0, borrows),
            )
            for id_, place, endpoint, key, may_charge, price, started_at, borrows in rows
        ]
        if ends:
            values = (self._owner, self._terms.lease, micros(clock.today()), None, None, False, "[]", json.dumps(ends))
            db.execute(self._sql(_EXCHANGE), values).fetchall()

    def _enter(self, db: server.Connection) -> None:
        self.lease = Lease()
        sent = clock.continuous()
        row = db.execute(self._sql(_ENTER), (socket.gethostname(), os.getpid(), self._terms.lease)).fetchone()
        assert row is not None
        self._owner = row[0]
        self.lease.until = sent + self._terms.lease

    def _take_share(self, db: server.Connection) -> None:
        row = db.execute(self._sql("SELECT part, owners FROM ledger.take_share(%s)"), (self._owner,)).fetchone()
        assert row is not None
        self._terms.share.part, owners = row
        # Who has less than an even part has it as soon as the others have looked, too.
        is_even = self._terms.share.part * owners > 1 - 1e-9
        self._share_until = clock.continuous() + (self._terms.lease / 3 if is_even else self._often)

    @property
    def _often(self) -> float:
        return min(_OFTEN, self._terms.lease / 3)

    def _enter_anew(self) -> None:
        """Become an owner. What the one before had leave for is not sent any more; its part of a rate is gone."""
        self.lease.until = 0.0
        self._terms.share.part, self._share_until = 0.0, 0.0
        self._do(self._enter)
        self._do(self._take_share)  # apart: where that is asked again, no other owner is made

    def _tidy(self, db: server.Connection) -> None:
        """Bury who is dead, and end what nobody was told of."""
        for id_, is_stray in db.execute(self._sql(_LEFT_OVER), (self._owner, list(self._known))).fetchall():
            if is_stray:
                self._end_strays(db)
                break
            try:
                db.execute(self._sql("SELECT ledger.bury(%s, false, %s)"), (id_, DIED))
            except psycopg.errors.LockNotAvailable:  # its turn comes with another renewal
                server.end_still(db, self._place)


def _ended(started: Started, result: Result) -> tuple[Any, ...]:
    """An end as `exchange` in SQL takes it."""
    ask, attempt, state = started.ask, result.attempt, result.state
    identity = ask.identity.hex() if ask.reusable else None
    recorded = identity if result.sent else None
    holds = 0
    if state is State.UNKNOWN:
        holds = HOLDS if result.holds and recorded is not None and not result.answers else LIFTED
    return (
        started.id,
        identity,
        recorded,
        ask.endpoint,
        key_text(ask.key),
        ask.may_charge,
        started.price,
        micros(attempt.started_at),
        round(attempt.elapsed * 1e6),
        state,
        _text(attempt.status),
        attempt.http_status,
        _text(attempt.error),
        attempt.number,
        result.answers,
        result.holds,
        holds,
        result.expected,
        _text(_body(result)),
        ask.overdue,
        round(ask.patience * 1e6),
        started.borrows,
        result.state_besides_callback,
    )


def _body(result: Result) -> str | None:
    return None if result.reply is None else result.reply.decode(errors="replace")


def _text(text: str | None) -> str | None:
    """The text without what no server takes: whatever the vendor said must not keep its answer from being recorded."""
    return None if text is None else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _uuids(identities: Sequence[bytes]) -> str:
    return "{" + ",".join(identity.hex() for identity in identities) + "}"
