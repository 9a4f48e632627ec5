"""The ledger in a schema of a PostgreSQL server, which many machines use at once."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import asyncio
import heapq
import json
import queue
import secrets
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from operator import itemgetter, methodcaller
from typing import Any
from uuid import UUID

import psycopg

from aisolution_async import clock
from aisolution_async.checks import seconds
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger import answers, peek, server
from aisolution_async.ledger.grouping import MOST_CHARGES, Grouping, Job, Work
from aisolution_async.ledger.identity import Identities
from aisolution_async.ledger.rows import COUNTS_AS, TO_COME, micros, millionths, moment, money
from aisolution_async.ledger.shared import End, SharedBook, Terms
from aisolution_async.ledger.store import (
    POLL,
    Ask,
    Balance,
    Busy,
    Held,
    LedgerError,
    Line,
    Record,
    Share,
    State,
    Stored,
    Verdict,
)
from aisolution_async.ledger.taking import SharedShards
from aisolution_async.ledger.urls import Server, place_of
from aisolution_async.ledger.watching import Watching
from aisolution_async.spending import Spending

LEASE = 30.0
"""Seconds after which who says nothing is taken for dead."""

_POLL_CALLBACKS = 1.0
"""Seconds between two looks at whether another process was called back."""

_AT_ONCE = 500  # begins and ends in one statement
_FETCHED = 2_000  # rows at a time


class SharedLedger(Grouping[SharedBook]):
    """A ledger at a URL like `postgresql://host/database?schema=applicants`, made if it is not there.

    ```python
    async with open_ledger("postgresql://host/database?schema=applicants", max_charges=1000) as ledger:
        ...
    ```

    `max_charges`, `prices` and `max_cost` are as in `Ledger`: they count what everybody spends in the ledger, and hold
    for this opening; `limit` sets what holds for all. `lease`: seconds after which a process that says nothing is taken
    for dead. `patience`: seconds to wait for a server that is away.
    """

    def __init__(
        self,
        url: str | Server,
        *,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        lease: float = LEASE,
        patience: float = 10.0,
    ) -> None:
        super().__init__()
        spending = Spending.of(max_charges, prices, max_cost)
        place = place_of(url)
        if not isinstance(place, Server):
            raise ConfigurationError("a shared ledger is at a URL: one in a file is a Ledger")
        self.place = place
        self._terms = Terms(
            None if spending.max_charges is None else min(spending.max_charges, MOST_CHARGES),
            None if spending.max_cost is None else millionths(spending.max_cost),
            {name: millionths(price) for name, price in spending.prices.items()},
            seconds("lease", lease),
            seconds("patience", patience, zero=True),
        )
        # Questions that others ask, and those that wait for a callback, which another may be told.
        self._busy = Watching(POLL, partial(self._look, "still_busy"), tells_faults=True)
        self._awaited = Watching(_POLL_CALLBACKS, partial(self._look, "still_awaited"), tells_faults=False)

    def __repr__(self) -> str:
        return f"<SharedLedger {self.place}>"

    async def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`."""
        if ask.within is None:
            raise ConfigurationError(
                "a shared ledger needs to know when an attempt must be over: give the client a deadline, in seconds"
            )
        return await super().begin(ask)

    @property
    def share(self) -> Share:
        """See `Store.share`: an even part, among all who have the ledger open."""
        return self._terms.share

    def shards(self, folder: UUID) -> SharedShards:
        """The shards of a folder, which workers divide. All of them know the folder by that name."""
        self._check()
        return SharedShards(self.place, folder, self._submit, self._terms.patience)

    # -------------------------------------------------------------------------------------- on the event loop

    def _wait_for(self, ask: Ask, busy: Busy) -> None:
        super()._wait_for(ask, busy)
        if busy.ended is not None or not ask.reusable:
            return
        busy.ended = asyncio.Event()
        self._busy.add(ask.identity, lambda: True, busy.ended.set)

    def watch(self, identity: bytes, waits: Callable[[], bool], tell: Callable[[], object]) -> None:
        """See `Store.watch`."""
        self._awaited.add(identity, waits, tell)

    def _look(self, method: str, asked: list[bytes]) -> asyncio.Future[set[bytes]] | None:
        return self._submit(methodcaller(method, asked)) if self._usable else None

    # ------------------------------------------------------------------------------------ on the writing thread

    def _make_book(self) -> SharedBook:
        return SharedBook(self.place, self._terms)

    def _as_error(self, exc: BaseException) -> LedgerError:
        return server.fault(self.place, exc)

    def _next_jobs(self, book: SharedBook) -> list[Job]:
        # Where the server fails, the next to ask is told. Meanwhile nothing is sent that has leave.
        while True:
            # By the clock, and not once nothing was asked for so long: who waits for others asks all the time.
            pause = self._terms.lease / 3
            with suppress(psycopg.Error, LedgerError):
                pause = book.keep_share()
            if clock.continuous() >= book.renews_at:
                self._live_on(book)
            left = max(book.renews_at - clock.continuous(), 0.0)  # 0 where the server is slow: whoever asks has a turn
            with suppress(queue.Empty):
                return self._queue.get(timeout=min(left, pause))

    def _live_on(self, book: SharedBook) -> None:
        """A third of the lease has passed."""
        book.renews_at = clock.continuous() + self._terms.lease / 3
        try:
            self._do_together(book, [])
            book.renew()
        except (psycopg.Error, LedgerError):
            """The next to ask is told. Meanwhile nothing is sent that has leave."""

    def _do_together(self, book: SharedBook, works: list[Work]) -> list[object]:
        answers: list[object] = []
        again = [work for work in self._unrecorded.values() if isinstance(work, tuple)]
        for start in range(0, max(len(works), 1), _AT_ONCE):
            some = works[start : start + _AT_ONCE]
            if some or again:
                answers += self._in_one(book, again, some)
            again = []
        return answers

    def _in_one(self, book: SharedBook, again: list[End], works: list[Work]) -> list[object]:
        """One group; where the server takes no more than a part of it, each by itself."""
        ends = [*again, *(work for work in works if isinstance(work, tuple))]
        try:
            verdicts = iter(book.together([work for work in works if isinstance(work, Ask)], ends))
        except Exception as exc:  # it goes to who asked
            is_alone = len(works) + len(again) == 1
            may_work_later = isinstance(exc, LedgerError) or server.is_fault_of_server(exc)
            if is_alone or may_work_later:
                for end in ends:
                    if may_work_later:
                        self._unrecorded[end[0].id] = end
                    else:
                        self._unrecorded.pop(end[0].id, None)  # who ended it was told
                return [self._as_error(exc)] * len(works)
            for end in again:
                self._in_one(book, [end], [])
            return [self._in_one(book, [], [work])[0] for work in works]
        for end in ends:
            self._unrecorded.pop(end[0].id, None)
        return [next(verdicts) if isinstance(work, Ask) else None for work in works]

    def _do(self, book: SharedBook, work: Work) -> tuple[object, bool]:
        try:
            assert callable(work)
            return work(book), False
        except Exception as exc:  # it goes to who asked
            return self._as_error(exc), server.is_lost(exc)

    def _leave(self, book: SharedBook) -> None:
        try:
            self._do_together(book, [])
            book.leave()
        finally:
            book.close()

    # ------------------------------------------------------------------------------------------- the read side

    def summary(self) -> Balance:
        """See `Store.summary`."""
        with _reading(self.place) as db:
            return _summary(db, self.place)
        raise AssertionError

    def attempts(self, *, unknown_only: bool = False) -> Iterator[Record]:
        """See `Store.attempts`."""
        if unknown_only:
            return self._records(_ENDED.format("NULL", "holds <> 0 AND state = 'unknown'"))
        return self._records(_ENDED.format("NULL", "true"), _NOT_ENDED.format(now=micros(clock.today())))

    def held(self) -> Iterator[Record]:
        """See `Store.held`."""
        return self._records(_ENDED.format("reply", _HOLDING))

    def answers(self) -> Iterator[Record]:
        """See `Store.answers`."""
        return self._records(_ENDED.format("reply", "answer OR (holds <> 0 AND reply IS NOT NULL)"))

    def _records(self, *queries: str) -> Iterator[Record]:
        """In the order of ids. One index gives each query's: the server would sort all rows of the two together."""
        with ExitStack() as stack:
            db = stack.enter_context(_reading(self.place))
            found = [stack.enter_context(closing(rows(db, self.place, f"{query} ORDER BY 1"))) for query in queries]
            for id_, endpoint, key, state, *row in heapq.merge(*found, key=itemgetter(0)):
                status, http_status, started, elapsed, error, cost, body = row
                mine = None if key is None else json.loads(key)
                reply = None if body is None else body.encode()
                when, took = moment(started), elapsed / 1e6
                yield Record(
                    id_, endpoint, mine, State(state), status, http_status, when, took, error, money(cost), reply
                )


class SharedPeek(peek.Peek):
    """A look into a shared ledger: see `Peek`. One that is not there knows nothing."""

    def __init__(self, place: Server) -> None:
        super().__init__(None)
        self._place = place
        self._server: server.Connection | None = None
        with server.faults(place):
            if server.is_there(place):
                self._server = server.connect_to_read(place)
                ((key,),) = self._rows("SELECT hash_key FROM ledger.book")
                self._identities = Identities(bytes(key))

    def close(self) -> None:
        """Let go of the server."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def look(self, ask: Ask) -> Stored | Held | None:
        """See `Peek.look`."""
        if not ask.reusable:
            return None
        found = self._rows(
            """SELECT state::text, started_at, elapsed, status, http_status, error, number, holds, answer, reply, id
            FROM ledger.attempts WHERE identity = %s AND (answer OR holds = 1) ORDER BY id + 0 DESC""",
            UUID(bytes=ask.identity),
        )
        return answers.judged([(*row[:9], row[9] and row[9].encode(), row[10]) for row in found], ask, self._now)

    def knows(self, ask: Ask) -> bool:
        """See `Peek.knows`."""
        query = """SELECT EXISTS (SELECT FROM ledger.attempts WHERE identity = %s)
            OR EXISTS (SELECT FROM ledger.intents WHERE place = %s)"""
        identity = UUID(bytes=ask.identity)
        return (True,) in self._rows(query, identity, identity)

    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Peek.find`."""
        found = [self.look(ask) for ask in asks]
        return [each if isinstance(each, Stored) else None for each in found]

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        if self._server is not None:
            with server.faults(self._place):
                found = self._server.execute(server.named(self._place, query), values or None).fetchall()
        return found


def copy_into(db: sqlite3.Connection, place: Server) -> None:
    """Copy the attempts, the intents and their totals into the tables of a file. Raises LedgerError."""
    # An index that grows with each row takes most of the time: it is made of all of them at once.
    ((index,),) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'attempts_by_identity'")
    db.execute("DROP INDEX attempts_by_identity")
    with _reading(place) as source:
        for query, insert in _COPIES:
            db.execute("BEGIN")
            db.executemany(insert, rows(source, place, query))
            db.execute("COMMIT")
    db.execute(index)


# --------------------------------------------------------------------------------------------------------- reading

_COPIES = (
    (
        """SELECT id, uuid_send(identity), endpoint, key, may_charge::int, price, started_at, elapsed, state::text,
            status, http_status, error, answer::int, convert_to(reply, 'UTF8'), number, holds FROM ledger.attempts""",
        """INSERT INTO attempts (id, identity, endpoint, key, may_charge, price, started_at, elapsed, state, status,
            http_status, error, answer, reply, number, holds)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    ),
    (
        "SELECT id, uuid_send(place), endpoint, key, may_charge::int, price, started_at, '', 0 FROM ledger.intents",
        """INSERT INTO intents (id, identity, endpoint, key, may_charge, price, started_at, owner, ends)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    ),
    (
        """SELECT endpoint, coalesce(sum(n) FILTER (WHERE state = 'intended'), 0)::bigint,
            coalesce(sum(n) FILTER (WHERE state = 'charged'), 0)::bigint,
            coalesce(sum(n) FILTER (WHERE state = 'free'), 0)::bigint,
            coalesce(sum(n) FILTER (WHERE state = 'not sent'), 0)::bigint,
            coalesce(sum(n) FILTER (WHERE state = 'unknown'), 0)::bigint,
            coalesce(sum(n) FILTER (WHERE state IN ('intended', 'charged', 'unknown')), 0)::bigint, sum(cost)::bigint
        FROM (SELECT endpoint, state::text, attempts AS n, cost FROM ledger.rollup
            UNION ALL SELECT endpoint, 'intended', 1, price FROM ledger.intents) AS every_line GROUP BY 1""",
        "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    ),
)

_HOLDING = "holds <> 0 AND holds = 1 AND identity IS NOT NULL"  # the first term is the index's


# What a record is made of: of the attempts that are over, and (with `now`) of those under way and the charges that are
# set aside for callbacks.
_ENDED = """SELECT id, endpoint, key, state::text, status, http_status, started_at, elapsed, error,
        price * ledger.stake(state, may_charge), {} FROM ledger.attempts WHERE {}"""
_NOT_ENDED = f"""SELECT id, endpoint, key, 'intended', NULL, NULL, started_at, 0, NULL,
        CASE WHEN may_charge THEN price ELSE 0 END, NULL FROM ledger.intents
    UNION ALL SELECT 0, endpoint, key, {COUNTS_AS}, NULL, NULL, since, 0, '{TO_COME}', price, NULL
        FROM ledger.outstanding WHERE reserved AND NOT (answered AND ends <= {{now}})"""
_HELD = f"""SELECT (SELECT count(DISTINCT identity) FROM ledger.attempts WHERE {_HOLDING}), max_charges
    FROM ledger.book"""
# A status '' is none.
_LINES = f"""SELECT endpoint, day, state, nullif(status, ''), sum(attempts)::bigint, sum(cost)::bigint,
        sum(answers)::bigint, sum(replies)::bigint
    FROM (
        SELECT endpoint, day, state::text AS state, status, attempts, cost, answers, replies FROM ledger.rollup
            UNION ALL
        SELECT endpoint, (started_at / 86400000000)::int, 'intended', '', 1, CASE WHEN may_charge THEN price ELSE 0 END,
            0, 0 FROM ledger.intents UNION ALL
        SELECT endpoint, (since / 86400000000)::int, {COUNTS_AS}, '', 1, price, 0, 0
            FROM ledger.outstanding WHERE reserved AND NOT (answered AND ends <= %s)
    ) AS every_line GROUP BY 1, 2, 3, 4 HAVING sum(attempts) > 0"""


@contextmanager
def _reading(place: Server) -> Iterator[server.Connection]:
    """The ledger as it is now, for as long as this is open. Raises LedgerError."""
    with server.faults(place), server.connect_to_read(place) as db:
        yield db


def rows(db: server.Connection, place: Server, query: str) -> Generator[tuple[Any, ...], None, None]:
    """The rows, some at a time, so that memory does not grow with their number."""
    with db.cursor(f"rows_{secrets.token_hex(4)}") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(server.named(place, query))
        yield from cursor


def _summary(db: server.Connection, place: Server) -> Balance:
    lines = db.execute(server.named(place, _LINES), (micros(clock.today()),)).fetchall()
    lines.sort(key=lambda line: (line[1], line[0], line[2], line[3] or ""))
    ((held, limit),) = db.execute(server.named(place, _HELD)).fetchall()
    first = date(1970, 1, 1)
    return Balance(
        tuple(
            Line(endpoint, first + timedelta(days=day), State(state), status, count, money(cost))
            for endpoint, day, state, status, count, cost, _, _ in lines
        ),
        held=held,
        answers=sum(line[6] for line in lines),
        lost=sum(line[4] - line[7] for line in lines if line[2:4] == (State.CHARGED, "OK")),
        max_charges=limit,
    )
