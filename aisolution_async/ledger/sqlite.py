"""The ledger as an SQLite file.

One thread owns the connection. What is asked during one turn of the event loop is handed to it together; it takes
all that has come, does it in one transaction with one sync, and hands all answers back together. So the price of
a sync, and of a change of threads, is shared by as many calls as are under way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from aisolution_async import clock
from aisolution_async.charges import Attempt, Charge
from aisolution_async.checks import key as check_key
from aisolution_async.checks import running_loop
from aisolution_async.errors import ConfigurationError, Key
from aisolution_async.ledger import reading, schema
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.identity import Identities
from aisolution_async.ledger.rows import millionths
from aisolution_async.ledger.store import (
    Ask,
    Balance,
    Busy,
    LedgerError,
    Record,
    Result,
    Started,
    Store,
    Stored,
    Verdict,
)
from aisolution_async.ledger.totals import Limits
from aisolution_async.spending import Spending

_log = logging.getLogger(__name__)


class Ledger(Store):
    """A ledger in the file `path`, made if it is not there, readable by its owner alone.

    ```python
    async with Ledger("applicants.ledger", max_charges=1000) as ledger:
        ...
    ```

    `max_charges`: charges there may ever be in this file, those of unknown outcome and under way included;
    `max_cost`: the same in money, by `prices`, the price of a charge for each endpoint
    ("facecompare"). Both count what every process did and does with the file. `synchronous`: "full" keeps
    every intent and outcome through a loss of power, "normal" and "off" through the end of the process only.
    `busy_timeout`: seconds to wait for another process that writes.

    A ledger holds replies, which are personal data, your keys, and keyed hashes of what was asked with the key to
    them; never an image or the token.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        synchronous: schema.Synchronous = "full",
        busy_timeout: float = 10.0,
    ) -> None:
        spending = Spending.of(max_charges, prices, max_cost)
        if synchronous not in ("full", "normal", "off"):
            raise ConfigurationError('synchronous must be "full", "normal" or "off"')
        self.path: Path = schema.file_of(path)
        self._limits = Limits(
            self.path,
            spending.max_charges,
            None if spending.max_cost is None else millionths(spending.max_cost),
            {name: millionths(price) for name, price in spending.prices.items()},
        )
        self._synchronous: schema.Synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._usable = False
        self._closing: asyncio.Task[None] | None = None
        self._identities = Identities(b"")
        self._jobs: list[_Job] = []  # asked in this turn of the loop
        self._queue: queue.SimpleQueue[list[_Job]] = queue.SimpleQueue()
        self._unrecorded: dict[int, _Work] = {}  # ends that the file would not take, by attempt
        self._under_way: dict[bytes, asyncio.Event | None] = {}  # this object's, with who waits for their end
        self._handed_over = 0  # jobs that the writing thread has

    # ------------------------------------------------------------------------------------------- open and close

    async def open(self) -> None:
        """See `Store.open`."""
        if self._loop is not None:
            raise ConfigurationError("a ledger is opened once: make another Ledger of the same path")
        self._loop = running_loop()
        self._pid = os.getpid()
        opened: asyncio.Future[Book] = self._loop.create_future()
        clock.elsewhere.add(self)
        self._handed_over += 1
        self._start(opened)
        try:
            book = await opened
        except asyncio.CancelledError:
            self._give([_Job(self._leave, self._loop.create_future())])
            raise
        finally:
            self._handed_over -= 1
        self._identities = Identities(book.hash_key)
        self._usable = True

    async def aclose(self) -> None:
        """See `Store.aclose`. Closing twice does no harm, and an aclose that is cancelled still closes."""
        if self._usable:
            self._check()
            self._usable = False
            self._closing = asyncio.create_task(self._close())
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Begins that were cancelled on their way are ended as they arrive, and they arrive before this does.
        await self._submit(lambda _: None)
        for waiting in self._under_way.values():
            if waiting is not None:
                waiting.set()  # who waits for what nobody will end asks again, and is told
        self._under_way.clear()
        try:
            await self._submit(self._leave)
        except LedgerError as exc:
            _log.error("%s", exc)  # what is left is put right when it is opened next
        self._join()

    # ---------------------------------------------------------------------------------------------- operations

    def identity(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        """See `Store.identity`."""
        self._check()
        return self._identities.of(endpoint, payload, key)

    async def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`."""
        self._check()
        future = self._submit(ask)
        try:
            answer: Verdict = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._take_back(future.result())  # it came in the same turn as the cancellation
            raise
        return answer

    async def end(self, started: Started, result: Result) -> None:
        """See `Store.end`."""
        self._check()
        await self._submit((started, result))

    async def deliver(self, callbacks: Sequence[bytes], result: Result) -> bool:
        """See `Store.deliver`."""
        self._check()

        def record(book: Book) -> bool:
            with book.transaction():
                return book.deliver(callbacks, result)

        delivered: bool = await self._submit(record)
        return delivered

    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`."""
        self._check()
        found: list[Stored | None] = await self._submit(lambda book: book.find(asks))
        return found

    async def resolve(self, call: Key | bytes, charge: Charge, *, attempt: int | None = None) -> int:
        """See `Store.resolve`. A key that is a number may be given as text."""
        self._check()
        if (call is None) is (attempt is None) or Charge(charge) is Charge.UNKNOWN:
            raise ConfigurationError(
                "resolve takes a key or an identity (or None, and attempt=), and Charge.CHARGED or Charge.FREE"
            )

        if not isinstance(call, bytes):
            check_key(call)

        def settle(book: Book) -> int:
            with book.transaction():
                return book.resolve(call, charge, attempt)

        count: int = await self._submit(settle)
        return count

    async def purge(self, older_than: timedelta | float) -> int:
        """See `Store.purge`. The file is written anew: other calls wait, and the disk holds it twice meanwhile."""
        self._check()
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        count: int = await self._submit(lambda book: book.purge(seconds))
        return count

    # -------------------------------------------------------------------------------------- on the event loop

    def is_awaited(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `clock.Worker`."""
        return self._handed_over > 0 and loop is self._loop

    def _check(self) -> None:
        if not self._usable:
            raise ConfigurationError("the ledger is not open: async with Ledger(path) as ledger: …")
        if self._pid != os.getpid():
            raise ConfigurationError("the ledger was opened before a fork: open it in the process that uses it")

    def _submit(self, work: _Work) -> asyncio.Future[Any]:
        loop = self._loop
        if loop is not asyncio.get_running_loop():
            raise ConfigurationError("the ledger was opened on another event loop: make one for each (asyncio.run)")
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.append(_Job(work, future))
        if len(self._jobs) == 1:
            loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        self._handed_over += len(self._jobs)
        self._give(self._jobs)
        self._jobs = []

    def _deliver(self, done: list[tuple[_Job, object]]) -> None:
        self._handed_over -= len(done)
        for job, answer in done:
            work, future = job.work, job.future
            if isinstance(work, tuple):
                ask = work[0].ask
                # Also where it could not be recorded: who waits asks again, and is told.
                if ask.reusable and (waiting := self._under_way.pop(ask.identity, None)) is not None:
                    waiting.set()
            elif isinstance(answer, Started):
                if future.cancelled():
                    self._take_back(answer)
                elif answer.ask.reusable:
                    self._under_way[answer.ask.identity] = None
            elif isinstance(answer, Busy) and isinstance(work, Ask) and work.identity in self._under_way:
                answer.ended = self._under_way[work.identity] = self._under_way[work.identity] or asyncio.Event()
            _settle(future, answer)

    def _take_back(self, answer: object) -> None:
        """End an attempt that nobody will make."""
        if isinstance(answer, Started):
            attempt = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "cancelled before it was sent")
            self._submit((answer, Result(attempt, sent=False)))

    # ------------------------------------- the writing thread: all that is known of it is in these three, and `_write`

    def _start(self, opened: asyncio.Future[Book]) -> None:
        self._thread = threading.Thread(target=self._write, args=(opened,), name="aisolution-ledger", daemon=True)
        self._thread.start()

    def _give(self, jobs: list[_Job]) -> None:
        self._queue.put(jobs)

    def _join(self) -> None:
        self._thread.join()

    def _write(self, opened: asyncio.Future[Book]) -> None:
        loop = self._loop
        assert loop is not None
        opening = self._open_book()
        if not isinstance(opening, Book):
            _call(loop, _settle, opened, opening)
            return
        try:
            alive = _call(loop, _settle, opened, opening)
            while alive and not opening.closed:
                jobs = self._queue.get()
                while not self._queue.empty():
                    jobs += self._queue.get()
                alive = _call(loop, self._deliver, self._work(opening, jobs))
        finally:
            opening.close()

    # ------------------------------------------------------------------------------------ on the writing thread

    def _open_book(self) -> Book | LedgerError:
        try:
            book = self._make_book()
        except Exception as exc:  # whatever it is, it goes to who opens
            return schema.fault(self.path, exc)
        book.unrecorded = self._unrecorded
        return book

    def _make_book(self) -> Book:
        return Book(self.path, self._limits, self._synchronous, self._busy_timeout)

    def _work(self, book: Book, jobs: list[_Job]) -> list[tuple[_Job, object]]:
        """Do what was asked, and as much of it as may be in one transaction. Returns the answers."""
        answers: list[object] = []
        for alone, group in itertools.groupby(jobs, lambda job: callable(job.work)):
            if alone:
                answers += [self._do(book, job.work)[0] for job in group]
            else:
                answers += self._do_together(book, [job.work for job in group])
        return list(zip(jobs, answers, strict=True))

    def _do_together(self, book: Book, works: list[_Work]) -> list[object]:
        """The answers to begins and ends, done in one transaction; where that fails, each in one of its own.

        The ends that the file would not take before are tried again first. The calls that asked for those were told
        already.
        """
        again = list(self._unrecorded.values())
        try:
            with book.transaction():
                for work in again:
                    _apply(book, work)
                answers = [_apply(book, work) for work in works]
        except Exception as exc:  # it goes to who asked
            # A locked file would be waited for once for each.
            told = (schema.fault(self.path, exc), True) if schema.is_locked(exc) else None
            found = [(work, *(told or self._do(book, work))) for work in (*again, *works)]
            for work, _, is_fault in found:
                if isinstance(work, tuple) and is_fault:
                    self._unrecorded[work[0].id] = work
                elif isinstance(work, tuple):
                    self._unrecorded.pop(work[0].id, None)
            return [answer for _, answer, _ in found[len(again) :]]
        self._unrecorded.clear()
        return answers

    def _do(self, book: Book, work: _Work) -> tuple[object, bool]:
        """The answer, and whether it was the file that failed, so that it may work later."""
        try:
            if callable(work):
                return work(book), False
            with book.transaction():
                return _apply(book, work), False
        except Exception as exc:  # it goes to who asked
            return schema.fault(self.path, exc), schema.is_fault_of_file(exc)

    def _leave(self, book: Book) -> None:
        try:
            self._do_together(book, [])
            with book.transaction():
                book.abandon()
        finally:
            book.close()

    # ------------------------------------------------------------------------------------------- the read side

    def summary(self) -> Balance:
        """See `Store.summary`."""
        with self._reading() as db:  # one look for all of it: another process may be writing
            return reading.summary(db)

    def attempts(self, *, unknown_only: bool = False) -> Iterator[Record]:
        """See `Store.attempts`."""
        with self._reading() as db:
            yield from reading.records(db, reading.UNKNOWN if unknown_only else reading.every_attempt())

    def held(self) -> Iterator[Record]:
        """See `Store.held`."""
        with self._reading() as db:
            yield from reading.records(db, reading.HELD, with_replies=True)

    def answers(self) -> Iterator[Record]:
        """See `Store.answers`."""
        with self._reading() as db:
            yield from reading.records(db, reading.ANSWERS, with_replies=True)

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return reading.reading(self.path, self._busy_timeout)


_Work = Ask | tuple[Started, Result] | Callable[[Book], object]


@dataclass(slots=True, eq=False)
class _Job:
    """Something asked, and who waits for the answer (or the error)."""

    work: _Work
    future: asyncio.Future[Any]


def _apply(book: Book, work: _Work) -> object:
    if isinstance(work, Ask):
        return book.begin(work)
    assert isinstance(work, tuple)
    book.end(*work)
    return None


def _settle(future: asyncio.Future[Any], answer: object) -> None:
    if future.cancelled():
        if isinstance(answer, LedgerError):
            _log.error("%s", answer)  # nobody else would hear of it
    elif isinstance(answer, LedgerError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> bool:
    """Have the loop do it. False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return False
    return True
