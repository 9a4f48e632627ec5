"""What is asked of a ledger, how it ends, and what its file must be like afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import sqlite3
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TextIO

import pytest

from aisolution_async import AISolutionError, Attempt, Charge, clock
from aisolution_async.ledger import (
    Ask,
    Ledger,
    LedgerError,
    Result,
    Started,
)
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.grouping import Grouping
from aisolution_async.ledger.rows import AT_STAKE, DIED

from . import forks
from .servers import running

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
REPLY = b'{"whatsapp": "yes", "number": "+6281387300008"}'
WHATSAPP = "gliswadetail"


def attempt(charge: Charge, *, ago: float = 0.0, elapsed: float = 0.25, error: str | None = None) -> Attempt:
    began = clock.today() - datetime.timedelta(seconds=ago + elapsed)
    return Attempt(charge, None if error else "OK", None if error else 200, began, elapsed, error)


def answered(ago: float = 0.0, reply: bytes = REPLY) -> Result:
    return Result(attempt(CHARGED, ago=ago), reply=reply, answer=True)


LOST = Result(attempt(UNKNOWN, error="no answer within 30 s"))
LATER = Result(attempt(FREE))
UNSENT = Result(attempt(FREE, error="no connection"), sent=False)


AnyLedger = Grouping[Any]


def ledger_at(place: Path | str, *, synchronous: Any = "full", **options: Any) -> AnyLedger:
    """A ledger in a file, or on a server: there, how it is synced is the server's business."""
    if isinstance(place, Path):
        return Ledger(place, synchronous=synchronous, **options)
    pytest.importorskip("psycopg")
    from aisolution_async.ledger.postgres import SharedLedger

    return SharedLedger(place, **options)


def where(ledger: AnyLedger) -> Path | str:
    """Where a ledger is."""
    return ledger.path if isinstance(ledger, Ledger) else str(vars(ledger)["place"])


def ask(ledger: AnyLedger, number: object = 1, **options: Any) -> Ask:
    endpoint = options.pop("endpoint", WHATSAPP)
    options.setdefault("within", 60.0)
    return Ask(endpoint, ledger.identity(endpoint, [("number", str(number))]), **options)


async def start(ledger: AnyLedger, number: object = 1, **options: Any) -> Started:
    started = await ledger.begin(ask(ledger, number, **options))
    assert isinstance(started, Started), started
    return started


async def do(ledger: AnyLedger, result: Result, number: object = 1, **options: Any) -> Started:
    started = await start(ledger, number, **options)
    await ledger.end(started, result)
    return started


# Behind the public face, and all that the tests of the ledger do there.


async def on_book(ledger: AnyLedger, work: Callable[[Any], Any]) -> Any:
    """What comes of `work`, in the ledger's own thread and turn."""
    return await ledger._submit(work)


async def book_of(ledger: AnyLedger) -> Any:
    book: Any = await on_book(ledger, lambda book: book)
    return book


async def crash(ledger: AnyLedger) -> None:
    """As if the process had died: the file is let go, and the lock (or its lease is over), and nothing is written."""
    book = await book_of(ledger)
    await on_book(ledger, lambda book: book.close())
    if not isinstance(ledger, Ledger):
        expire(ledger, book._owner)


def expire(ledger: AnyLedger, owner: int | None = None) -> None:
    """As if the lease of an owner were over, or of all that have something under way."""
    whose = "id IN (SELECT owner FROM intents)" if owner is None else f"id = {owner}"
    rows(where(ledger), f"UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE {whose}")


async def see_statements(ledger: Ledger, see: Callable[[str], object]) -> None:
    """From now on, `see` is told of each statement before it is executed, and may raise instead."""
    book = await book_of(ledger)
    real: Callable[..., sqlite3.Cursor] = book._sql

    def sql(query: str, *values: Any) -> sqlite3.Cursor:
        see(query)
        return real(query, *values)

    book._sql = sql


async def fail(ledger: Ledger, statement: str, *codes: int) -> None:
    """From now on, statements that begin like this fail, with these codes in turn and then no more."""
    left = list(codes)

    def see(query: str) -> None:
        if left and query.startswith(statement):
            error = sqlite3.OperationalError("no text of this is shown")
            error.sqlite_errorcode = left.pop(0)
            raise error

    await see_statements(ledger, see)


async def pragma(ledger: Ledger, setting: str) -> Any:
    """What SQLite says of `setting`, or to it."""
    book = await book_of(ledger)
    said = await on_book(ledger, lambda _: book._sql(f"PRAGMA {setting}").fetchone())
    return said and said[0]


async def limit(ledger: Ledger, pages: int) -> None:
    """From now on, the disk is full once the file has so many pages."""
    await pragma(ledger, f"max_page_count = {pages}")


async def take_for_dead(ledger: AnyLedger) -> None:
    """As if `ledger` had found that the one owner who has something under way had died."""
    ((owner,),) = rows(where(ledger), "SELECT DISTINCT owner FROM intents")
    if not isinstance(ledger, Ledger):
        expire(ledger)
        assert await on_book(ledger, lambda book: book._once("SELECT ledger.bury(%s, false, %s)", owner, DIED)) == [
            (True,)
        ]
        # What it sent is over, too: else nothing of it could be settled yet.
        rows(where(ledger), "UPDATE attempts SET over_at = clock_timestamp()")
        return

    def abandon(book: Book) -> None:
        with book.transaction():
            book.abandon(owner)

    await on_book(ledger, abandon)


def writers() -> list[threading.Thread]:
    """The threads of ledgers."""
    return [thread for thread in threading.enumerate() if thread.name == "aisolution-ledger"]


def rows(path: Path | str, query: str) -> list[tuple[Any, ...]]:
    if isinstance(path, str):
        return running().rows(path, query)
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


_WAITING = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'"""


async def waits(url: str, query: str, sessions: int = 1) -> None:
    """Until so many sessions wait for a lock in such a query."""
    while rows(url, _WAITING.format(query)) < [(sessions,)]:
        await asyncio.sleep(0.005)


RECOUNT = f"""SELECT endpoint, sum(state = 'intended'), sum(state = 'charged'), sum(state = 'free'),
    sum(state = 'not sent'), sum(state = 'unknown'), sum({AT_STAKE}), sum(CASE WHEN {AT_STAKE} THEN price ELSE 0 END)
    FROM (SELECT endpoint, state, may_charge, price FROM attempts
          UNION ALL SELECT endpoint, 'intended', may_charge, price FROM intents
          UNION ALL SELECT endpoint, CASE WHEN answered THEN 'unknown' ELSE 'intended' END, 1, price
          FROM outstanding WHERE reserved)
    GROUP BY endpoint ORDER BY endpoint"""


# What there was, may be or will be to pay, by the rows, and by the books of whoever may pay it.
ROWS_AND_BOOKS = """SELECT
    (SELECT coalesce(sum({0} * stake(state, may_charge)), 0) FROM attempts)
    + (SELECT coalesce(sum({0}) FILTER (WHERE may_charge), 0) FROM intents)
    + (SELECT coalesce(sum({0}) FILTER (WHERE reserved), 0) FROM outstanding),
    (SELECT granted{1} FROM book)
    - (SELECT coalesce(sum(granted{1} - used{1}) FILTER (WHERE NOT ended), 0) FROM owners)"""
_ROLLUP = """SELECT endpoint, day, state, status, sum(attempts), sum(cost), sum(answers) FROM rollup
    GROUP BY 1, 2, 3, 4 HAVING sum(attempts) <> 0 OR sum(cost) <> 0 OR sum(answers) <> 0 ORDER BY 1, 2, 3, 4"""
_RECOUNT = """SELECT endpoint, (started_at / 86400000000)::int, state, coalesce(status, ''), count(*)::numeric,
    sum(price * stake(state, may_charge))::numeric, (count(*) FILTER (WHERE answer))::numeric
    FROM attempts GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
ROWS_AND_ROLLUP = (_RECOUNT, _ROLLUP)


def check(path: Path | str) -> None:
    """The ledger is whole, and its totals are what its rows say."""
    if isinstance(path, str):
        for what, cost in (("1", ""), ("price", "_cost")):
            ((by_rows, by_books),) = rows(path, ROWS_AND_BOOKS.format(what, cost))
            assert by_rows == by_books
        by_rows, by_rollup = (rows(path, query) for query in ROWS_AND_ROLLUP)
        assert by_rows == by_rollup
        return
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT * FROM totals ORDER BY endpoint") == rows(path, RECOUNT)


class Child(forks.Forked):
    """A process whose stdin and stdout are pipes; with what the tests use of `subprocess.Popen`."""

    stdin: TextIO
    stdout: TextIO

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()


def child(code: str, *arguments: object) -> Child:
    head = """
        import asyncio, datetime, os, signal, sys, time
        from aisolution_async import Attempt, Charge, clock
        from aisolution_async.ledger import *
        def answered():
            attempt = Attempt(Charge.CHARGED, "OK", 200, clock.today(), 0.01)
            return Result(attempt, reply=b'{"whatsapp": "yes"}', answer=True)
        def ask(ledger, n, **options):
            return Ask("gliswadetail", ledger.identity("gliswadetail", [("number", str(n))]), key=n, **options)
    """
    (given, stdin), (stdout, said) = os.pipe(), os.pipe()
    with os.fdopen(given, "rb"), os.fdopen(said, "wb"):
        process = Child(
            forks.request(
                ["-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
                stdin=given,
                stdout=said,
                stderr=2,
                options=("-W", "error"),
                modules=("aisolution_async.client", "aisolution_async.ledger.postgres"),
            )
        )
    process.stdin, process.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)
    return process


async def refused(path: Path, *words: str) -> None:
    with pytest.raises(LedgerError) as caught:
        await Ledger(path, busy_timeout=0.01).open()
    assert isinstance(caught.value, AISolutionError)
    assert caught.value.charge is FREE
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert caught.value.__context__ is None
    assert list(path.parent.glob("*owner*")) == [] if path.parent.is_dir() else True


async def refused_to_open_locked(path: Path) -> None:
    with pytest.raises(LedgerError, match="locked by another program"):
        await Ledger(path, busy_timeout=0.01).open()


CHECKING = Result(attempt(FREE), reply=b'{"whatsapp": "checking"}', expected=True)


def sums(ledger: AnyLedger) -> tuple[int, int, int, int]:
    """Charged, free, unknown, under way: as the summary says, and as the budget counts them."""
    found = ledger.summary().by().get((), None)
    check(where(ledger))
    return (0, 0, 0, 0) if found is None else (found.charged, found.free, found.unknown, found.intended)
