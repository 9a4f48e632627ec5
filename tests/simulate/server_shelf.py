"""The store of a simulation on a server: the real `SharedLedger` and `SharedBook`, over a real PostgreSQL.

The thread of each ledger takes turns with the loop, and waits by the loop's time: on the way to the server, on the way
back, and before it connects again. The server's clock is the loop's, too: a function of its name stands before the
real one. Any statement may be refused, or lose its connection before or after it is done; the server may restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, LiteralString
from unittest import mock

import psycopg

from aisolution_async import clock
from aisolution_async.ledger import LedgerError, Result, Started, grouping, server, shared
from aisolution_async.ledger.postgres import SharedLedger
from aisolution_async.ledger.shared import SharedBook
from aisolution_async.ledger.urls import Server, place_of
from tests.ledgers import ROWS_AND_BOOKS, ROWS_AND_ROLLUP
from tests.servers import PostgresServer

from .plan import Behaviour, ClientPlan, Job, Plan, Strike, plan_of

if TYPE_CHECKING:
    from .loop import SimulatedLoop
    from .world import Process

_STRIKES = ("stall", "stall", "stall", "restart", "restart", "locked", "locked", "disk", "crash")


def shared_plan_of(seed: int) -> Plan:
    """The plan that a seed stands for, and what can only happen on a server."""
    rng = random.Random(seed + 0.25)
    if rng.random() < 0.25:
        return _cut_off(rng, seed)
    plan = plan_of(seed)
    strikes = [
        strike._replace(kind="stall", amount=rng.uniform(0, 90)) if strike.kind == "unseen" else strike
        for strike in plan.strikes
    ]
    while rng.random() < 0.5 and len(strikes) < 6:
        kind = rng.choice(_STRIKES)
        amount = {"stall": rng.choice((1.0, 20.0, 40.0, 90.0)), "restart": rng.uniform(0, 15)}.get(kind, 1.0)
        event = rng.choice(("", "the store is asked", "the store has answered", "a request begins", "a request left"))
        at = int(rng.expovariate(1 / 2 if event else 1 / 25))
        strikes.append(Strike(at, rng.choice((0, 0, 1, 3)), kind, rng.randrange(len(plan.clients)), amount, event))
    return dataclasses.replace(plan, has_ledger=True, strikes=tuple(strikes), behaviours={})


def _cut_off(rng: random.Random, seed: int) -> Plan:
    """A few clients that ask the same, and may pass what is unknown; one is cut off, and taken for dead, meanwhile."""
    chance, choice, uniform = rng.random, rng.choice, rng.uniform
    clients = tuple(
        ClientPlan(
            retry_unknown=choice((0, 1, 1, 2)), max_retries=choice((0, 1, 2)), deadline=choice((10.0, 20.0, 60.0))
        )
        for _ in range(choice((2, 2, 3)))
    )
    jobs = tuple(
        Job(client, at, choice(("send", "batch")), (0,) * choice((1, 1, 2)))
        for at, client in sorted(
            (choice((0.0, uniform(0, 5), uniform(0, 60))), client) for client in [*range(len(clients))] * 2
        )
    )
    kinds = ("ok", "ok", "no", "lost", "silent", "lost-unbilled", "later", "unconnected")
    does = tuple(
        (
            0,
            turn,
            Behaviour(
                choice(kinds), choice((0.01, uniform(0, 10))), 0.01, choice((0.1, uniform(5, 20), uniform(5, 20)))
            ),
        )
        for turn in range(4)
    )
    moments = ("a request begins", "the store is asked", "the store has answered", *("a request left",) * 3)
    strikes = tuple(
        Strike(
            choice((0, 0, 1, 2)),
            choice((0, 1, 3)),
            choice(("stall", "stall", "stall", "restart", "locked")),
            rng.randrange(len(clients)),
            choice((1.0, 10.0, 20.0, 40.0)),
            choice(moments),
        )
        for _ in range(choice((1, 2, 2, 3)))
    )
    most = choice((1, 2, 3)) if chance() < 0.3 else None
    return Plan(seed, most=most, clients=clients, jobs=jobs, does=does, strikes=strikes, lease=choice((3.0, 3.0, 8.0)))


class Crash(BaseException):
    """The process ended at this statement."""


class Aside:
    """A thread that goes on only while the loop stands: what both do has one order."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._work: Callable[[], None] | None = None
        self._then: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self.is_over = False

    def do(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Do `work` there, and `then` on the loop."""
        if self.is_over:
            return
        self._work, self._then = work, then
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._go_on()

    def pause(self, seconds: float) -> None:
        """Wait, in the thread. Raises Crash where it is not to go on."""
        if not self.is_over:
            self._loop.call_later(seconds, self._go_on)
            self._theirs.release()
            self._mine.acquire()
        if self.is_over:
            raise Crash

    def end(self) -> None:
        """Go on no more, wherever it is."""
        if not self.is_over:
            self.is_over = True
            if self._thread is not None:
                self._mine.release()
                self._thread.join()

    def _go_on(self) -> None:
        if self.is_over:
            return
        self._mine.release()
        self._theirs.acquire()
        if self._work is None:
            self._then()

    def _run(self) -> None:
        self._mine.acquire()
        while not self.is_over:
            assert self._work is not None
            with contextlib.suppress(Crash):
                self._work()
            self._work = None
            if not self.is_over:
                self._theirs.release()
                self._mine.acquire()


class Faults:
    """What goes wrong with a connection: `left` statements, after `after` that do not."""

    def __init__(self) -> None:
        self.after = self.left = 0
        self.code = sqlite3.SQLITE_FULL
        self.crash_after: int | None = None

    def step(self) -> str:
        """What becomes of the next statement."""
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                return "crash"
        if self.left:
            if self.after:
                self.after -= 1
            else:
                self.left -= 1
                return "refused" if self.code == sqlite3.SQLITE_FULL else "lost"
        return ""


class Shelf:
    """One schema of a server, and all that looks at it from outside."""

    def __init__(self, loop: SimulatedLoop, plan: Plan) -> None:
        self.loop, self.plan = loop, plan
        self.rng = random.Random(plan.seed + 0.75)
        self.database = _database()
        self.database.clear()
        self.alive: dict[Any, bool | None] = {}  # as others see it: here that is the server's business
        self.away_until = 0.0
        self.connections: list[Connection] = []
        self._ledgers: list[SimulatedSharedLedger] = []

    def ledger(self, life: Process, path: object, **options: Any) -> SimulatedSharedLedger:
        """A ledger of this store for a process."""
        ledger = SimulatedSharedLedger(self, life, **options)
        self._ledgers.append(ledger)
        return ledger

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What stands in it."""
        found: list[tuple[Any, ...]] = self.database.execute(
            self.loop.time(), query.replace("?", "%s"), values
        ).fetchall()
        return found

    def replies(self) -> str:
        """All answers."""
        return "".join(reply for (reply,) in self.rows("SELECT reply FROM attempts WHERE answer"))

    def stake(self) -> int:
        """How many charges there were, may be or will be."""
        ((by_rows, _),) = self.rows(ROWS_AND_BOOKS.format("1", ""))
        return int(by_rows)

    def is_sound(self) -> bool:
        """Whether its counts are what its rows say."""
        sums = [self.rows(ROWS_AND_BOOKS.format(*which))[0] for which in (("1", ""), ("price", "_cost"))]
        by_rows, by_rollup = (self.rows(query) for query in ROWS_AND_ROLLUP)
        return all(one == other for one, other in sums) and by_rows == by_rollup

    def restart(self, seconds: float) -> None:
        """The server ends in the middle of what it does, and is back after so many seconds."""
        self.away_until = self.loop.time() + seconds
        for connection in self.connections:
            connection.is_lost = True

    def close(self) -> None:
        """End its threads."""
        for ledger in self._ledgers:
            ledger.aside.end()


_PLACE = "postgresql://simulated/"
_EPOCH = 1767225600


class _Database:
    """The schema that all simulations of this process have in turn, and the one connection to it."""

    def __init__(self) -> None:
        self.schema = f"simulated_{os.getpid()}"
        place = place_of(_server().url(schema=self.schema))
        assert isinstance(place, Server)
        self._place = place
        address = place.address.value
        self._db = psycopg.connect(address, autocommit=True, prepare_threshold=0)
        self._db.execute(
            f"""DROP SCHEMA IF EXISTS {self.schema} CASCADE; CREATE SCHEMA {self.schema};
            CREATE SCHEMA IF NOT EXISTS simulated_clock;
            CREATE OR REPLACE FUNCTION simulated_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
                $$ SELECT to_timestamp({_EPOCH} + current_setting('simulated.now')::float8) $$;
            SET search_path = simulated_clock, {self.schema}, pg_catalog""".encode(),
            prepare=False,
        )
        self._db.execute(server.named(place, server.definition()), prepare=False)
        tables = self._names("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename")
        clear = [f"DELETE FROM {table}" for table in tables]
        values = f"{server.VERSION}, decode(repeat('6b', 32), 'hex')"
        clear.append(f"INSERT INTO {self.schema}.book (version, hash_key) VALUES ({values})")
        sequences = self._names("SELECT sequencename FROM pg_sequences WHERE schemaname = %s")
        clear += [f"SELECT setval('{sequence}', 1, false)" for sequence in sequences]
        self._clear, self._truncate = "; ".join(clear).encode(), f"TRUNCATE {', '.join(tables)}".encode()
        self._times = 0

    def _names(self, query: LiteralString) -> list[str]:
        return [f"{self.schema}.{name}" for (name,) in self._db.execute(query, (self.schema,))]

    def clear(self) -> None:
        """Begin with nothing."""
        if self._times % 200 == 0:
            self._db.execute(self._truncate, prepare=False)
        self._times += 1
        self._db.execute(self._clear, prepare=False)

    def execute(self, now: float, query: str | bytes, values: Any = None, *, binary: bool = False) -> Any:
        """Do a statement at this time."""
        self._db.execute("SELECT set_config('simulated.now', %s, false)", (f"{now:.6f}",))
        text = query if isinstance(query, bytes) else query.encode()
        text = text.replace(b'"simulated_place".', f"{self.schema}.".encode())
        return self._db.execute(text, values or None, binary=binary)


@cache
def _server() -> PostgresServer:
    """A server for simulations alone: it need not keep what it has."""
    started = PostgresServer()
    with started.connect() as db:
        db.execute("ALTER SYSTEM SET fsync = off")
        db.execute("SELECT pg_reload_conf()")
    return started


@cache
def _database_of(_pid: int) -> _Database:
    return _Database()


def _database() -> _Database:
    return _database_of(os.getpid())


def start() -> None:
    """Have a server, for the processes that are started from here."""
    _server()


class Connection:
    """A connection to the server, as the thread of a ledger has it."""

    def __init__(self, ledger: SimulatedSharedLedger) -> None:
        self._ledger, self._shelf = ledger, ledger.shelf
        self.is_lost = False
        self._shelf.connections.append(self)

    def execute(self, query: bytes | str, values: Any = None, *, binary: bool = False) -> Any:
        """Do a statement: it takes time there and back, and others are at theirs meanwhile."""
        self._check()
        becomes = self._ledger.faults.step()
        try:
            self._ledger.wait()
        except Crash:  # it may be on its way
            if self._shelf.rng.random() < 0.5:
                self._do(query, values)
            raise
        self._check()
        if becomes == "refused":
            raise psycopg.errors.DiskFull
        if becomes and self._shelf.rng.random() < 0.5:  # before it is done, or afterwards
            self._end(becomes)
        cursor = self._do(query, values, binary=binary)
        if becomes:
            self._end(becomes)
        self._ledger.wait()
        self._check()
        return cursor

    def close(self) -> None:
        """Let go of it."""
        self.is_lost = True

    def _do(self, query: bytes | str, values: Any, *, binary: bool = False) -> Any:
        if b"VACUUM" in (query if isinstance(query, bytes) else query.encode()):
            return SimpleNamespace(description=None)
        return self._shelf.database.execute(self._shelf.loop.time(), query, values, binary=binary)

    def _end(self, becomes: str) -> None:
        if becomes == "crash":
            raise Crash
        self.is_lost = True
        self._check()

    def _check(self) -> None:
        if self.is_lost:
            raise psycopg.OperationalError("the connection is lost")


class SimulatedSharedBook(SharedBook):
    """A book whose owner has a name."""

    owner = property(lambda self: self._owner)


class SimulatedSharedLedger(SharedLedger):
    """A ledger whose thread takes turns with the loop."""

    def __init__(
        self,
        shelf: Shelf,
        life: Process,
        *,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
    ) -> None:
        choice = shelf.rng.choice
        super().__init__(
            "postgresql://simulated/?schema=simulated_place",
            max_charges=max_charges,
            prices=prices,
            max_cost=max_cost,
            lease=shelf.plan.lease or choice((30.0, 30.0, 8.0, 3.0)),
            patience=choice((0.0, 1.0, 10.0)),
        )
        self.shelf, self.aside = shelf, Aside(shelf.loop)
        self.faults = Faults()
        self.book: SimulatedSharedBook | None = None
        self._life = life
        self._given: list[grouping.Job] = []
        self._at_work: list[grouping.Job] | None = []  # what the thread does; None where it does nothing
        self._done: list[tuple[grouping.Job, object]] = []
        self._found: SharedBook | LedgerError = LedgerError("dead")
        self._crashed = False
        self._handed_back_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def end(self, started: Started, result: Result) -> None:
        """See `Store.end`: to end twice does no harm."""
        await super().end(started, result)
        if self._life.ends_twice:
            await super().end(started, result)

    def die(self) -> None:
        """Its process is no more."""
        self.aside.end()
        if self._timer is not None:
            self._timer.cancel()
        if self.book is not None:
            self.book.close()
        dead: list[tuple[grouping.Job, object]] = [
            (job, LedgerError("dead")) for job in (*(self._at_work or ()), *self._given)
        ]
        self._given, self._at_work = [], None
        self._hand_over_at(dead)
        self.shelf.loop.call_soon(self._say, LedgerError("dead"))

    # ------------------------------------------------------------------------------------------------ the thread

    def wait(self) -> None:
        """A way to the server, or back."""
        self.aside.pause(self._delay() / 2)

    def _delay(self) -> float:
        return self._life.store_delay() + max(self._life.stalled_until - self.shelf.loop.time(), 0.0)

    def _there(self, work: Callable[[], None]) -> None:
        _local.ledger = self
        try:
            work()
        except Crash:
            self._crashed = True

    # -------------------------------------------------------------------------------------- in place of `_write`

    def _start(self, opened: asyncio.Future[SharedBook]) -> None:
        self._opened = opened
        self.shelf.loop.call_later(self._delay(), self._open)

    def _open(self) -> None:
        def work() -> None:
            self._found = self._open_book()

        if not self._life.is_dead:
            self.aside.do(partial(self._there, work), self._is_open)

    def _make_book(self) -> SharedBook:
        return SimulatedSharedBook(self.place, self._terms)

    def _is_open(self) -> None:
        if self._crashed:
            self._life.crash()
            return
        if isinstance(self._found, SimulatedSharedBook):
            self.book = self._found
            self._is_idle()
        self._life.event("the ledger is open")
        self.shelf.loop.call_later(self._delay(), self._say, self._found)

    def _say(self, opened: SharedBook | LedgerError) -> None:
        if not self._opened.done():
            grouping._settle(self._opened, opened)

    def _give(self, jobs: list[grouping.Job]) -> None:
        self._given += jobs
        if self._life.is_dead or self.book is None or self.book.closed:
            self._hand_over_at([(job, LedgerError("dead")) for job in self._given])
            self._given = []
        elif self._at_work is None:
            self._go_on()

    def _is_idle(self) -> None:
        self._at_work = None
        if self._timer is not None:
            self._timer.cancel()
        if self.book is None or self.book.closed or self._life.is_dead:
            self.aside.end()
        elif self.shelf.loop.time() >= self.book.renews_at:
            self._renew()
        elif self._given:
            self._go_on()
        else:
            self._timer = self.shelf.loop.call_at(self.book.renews_at, self._renew)

    def _go_on(self) -> None:
        self._at_work, self._given = self._given, []
        if self._timer is not None:
            self._timer.cancel()
        self.shelf.loop.call_later(self._delay(), self._do_given)

    def _do_given(self) -> None:
        jobs, book = self._at_work, self.book
        if self._life.is_dead or jobs is None:
            return
        assert book is not None

        def work() -> None:
            self._done = self._work(book, jobs)

        self._life.event("the store is asked")
        self.aside.do(partial(self._there, work), self._have_done)

    def _have_done(self) -> None:
        if self._crashed:
            self._life.crash()
            return
        self._hand_over_at(self._done)
        self._is_idle()
        self._life.event("the store has answered")

    def _renew(self) -> None:
        book = self.book
        assert book is not None
        if self._at_work is None and not self._life.is_dead:
            self._at_work = []
            self.aside.do(partial(self._there, partial(self._live_on, book)), self._have_renewed)

    def _have_renewed(self) -> None:
        if self._crashed:
            self._life.crash()
        else:
            self._is_idle()

    def _hand_over_at(self, done: list[tuple[grouping.Job, object]]) -> None:
        if done:
            self._handed_back_at = max(self._handed_back_at, self.shelf.loop.time() + self._delay())
            self.shelf.loop.call_at(self._handed_back_at, self._hand_back, done)

    def _hand_back(self, done: list[tuple[grouping.Job, object]]) -> None:
        self._deliver(done)
        if not self._life.is_dead:
            self._life.event("the store's answer is there")

    def _join(self) -> None:
        self.aside.end()


_local = threading.local()


def _connect(place: Server) -> Connection:
    ledger: SimulatedSharedLedger = _local.ledger
    ledger.wait()
    if ledger.shelf.loop.time() < ledger.shelf.away_until:
        raise psycopg.OperationalError("nobody is there")
    return Connection(ledger)


def _sleep(seconds: float) -> None:
    ledger: SimulatedSharedLedger = _local.ledger
    ledger.aside.pause(seconds)


@contextlib.contextmanager
def simulating(now: Callable[[], float]) -> Iterator[None]:
    """Within it, ledgers are on a server that is simulated. `now` tells the loop's time."""
    with (
        mock.patch.object(server, "connect", _connect),
        mock.patch.object(server, "prepare", return_value=b"k" * 32),
        mock.patch.object(shared, "time", SimpleNamespace(sleep=_sleep)),
        mock.patch.object(clock, "continuous", now),
    ):
        yield
