"""A store that does what is asked in a thread of its own, and in groups.

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
import threading
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from aisolution_async import clock
from aisolution_async.charges import Attempt, Charge
from aisolution_async.checks import key as check_key
from aisolution_async.checks import running_loop, whole
from aisolution_async.errors import ConfigurationError, Key
from aisolution_async.ledger.identity import Identities
from aisolution_async.ledger.store import Ask, Busy, LedgerError, Result, Started, Store, Stored, Verdict

_log = logging.getLogger(__name__)


class OpenBook(Protocol):
    """A ledger that is open for one owner, as the thread has it."""

    unrecorded: Container[int]

    @property
    def hash_key(self) -> bytes: ...
    @property
    def closed(self) -> bool: ...
    def transaction(self) -> AbstractContextManager[None]: ...
    def deliver(self, waited_for: Sequence[bytes], result: Result, /) -> bool: ...
    def find(self, asks: Sequence[Ask], /) -> list[Stored | None]: ...
    def resolve(self, call: Key | bytes, charge: Charge, attempt: int | None, /) -> int: ...
    def purge(self, seconds: float, /) -> int: ...
    def limit(self, max_charges: int | None, /) -> None: ...
    def close(self) -> None: ...


B = TypeVar("B", bound=OpenBook)

MOST_CHARGES = 1 << 62
"""A limit above this is as good as none, and no database takes one that is much larger."""


class Grouping(Store, Generic[B]):
    """What stores with a thread have in common. A subclass opens the book, and does the groups."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._usable = False
        self._closing: asyncio.Task[None] | None = None
        self._identities = Identities(b"")
        self._jobs: list[Job] = []  # asked in this turn of the loop
        self._queue: queue.SimpleQueue[list[Job]] = queue.SimpleQueue()
        self._unrecorded: dict[int, Work] = {}  # ends that the store would not take, by attempt
        self._under_way: dict[bytes, asyncio.Event | None] = {}  # this object's, with who waits for their end
        self._handed_over = 0  # jobs that the writing thread has

    # ------------------------------------------------------------------------- what a store brings, on the thread

    @abstractmethod
    def _make_book(self) -> B:
        """Open the book. Whatever it raises goes to who opens, by `_as_error`."""

    @abstractmethod
    def _as_error(self, exc: BaseException) -> LedgerError:
        """`exc` as an error that names the ledger and the remedy, and nothing that was to be written."""

    @abstractmethod
    def _do_together(self, book: B, works: list[Work]) -> list[object]:
        """The answers to begins and ends, or errors. The ends that were not recorded before are tried again first."""

    @abstractmethod
    def _do(self, book: B, work: Work) -> tuple[object, bool]:
        """The answer, and whether it was the store that failed, so that it may work later."""

    @abstractmethod
    def _leave(self, book: B) -> None:
        """Record what is left, make UNKNOWN what is under way, and close the book."""

    def _next_jobs(self, book: B) -> list[Job]:  # noqa: ARG002  # for those who do something while they wait
        """What was asked, waited for."""
        return self._queue.get()

    # ------------------------------------------------------------------------------------------- open and close

    async def open(self) -> None:
        """See `Store.open`."""
        if self._loop is not None:
            raise ConfigurationError("a ledger is opened once: make another of the same path")
        self._loop = running_loop()
        self._pid = os.getpid()
        opened: asyncio.Future[B] = self._loop.create_future()
        clock.elsewhere.add(self)
        self._handed_over += 1
        self._start(opened)
        try:
            book = await opened
        except asyncio.CancelledError:
            self._give([(self._leave, self._loop.create_future())])
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

        def record(book: B) -> bool:
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

        def settle(book: B) -> int:
            with book.transaction():
                return book.resolve(call, charge, attempt)

        count: int = await self._submit(settle)
        return count

    async def purge(self, older_than: timedelta | float) -> int:
        """See `Store.purge`. Other calls wait meanwhile; of a file, the disk holds it twice."""
        self._check()
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        count: int = await self._submit(lambda book: book.purge(seconds))
        return count

    async def limit(self, max_charges: int | None) -> None:
        """See `Store.limit`."""
        if max_charges is not None:
            whole("max_charges", max_charges, 0, otherwise=", or None for no limit")
            max_charges = min(max_charges, MOST_CHARGES)
        self._check()

        def change(book: B) -> None:
            with book.transaction():
                book.limit(max_charges)

        await self._submit(change)

    # -------------------------------------------------------------------------------------- on the event loop

    def is_awaited(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `clock.Worker`."""
        return self._handed_over > 0 and loop is self._loop

    def _check(self) -> None:
        if not self._usable:
            raise ConfigurationError("the ledger is not open: async with open_ledger(…) as ledger: …")
        if self._pid != os.getpid():
            raise ConfigurationError("the ledger was opened before a fork: open it in the process that uses it")

    def _submit(self, work: Work) -> asyncio.Future[Any]:
        loop = self._loop
        if loop is not asyncio.get_running_loop():
            raise ConfigurationError("the ledger was opened on another event loop: make one for each (asyncio.run)")
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.append((work, future))
        if len(self._jobs) == 1:
            loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        self._handed_over += len(self._jobs)
        self._give(self._jobs)
        self._jobs = []

    def _deliver(self, done: list[tuple[Job, object]]) -> None:
        self._handed_over -= len(done)
        for (work, future), answer in done:
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
            elif isinstance(answer, Busy) and isinstance(work, Ask):
                self._wait_for(work, answer)
            if isinstance(answer, LedgerError) or future.cancelled():
                _settle(future, answer)
            else:
                future.set_result(answer)

    def _wait_for(self, ask: Ask, busy: Busy) -> None:
        """Have whoever waits for `busy` be told of the end of the attempt under way, where it is this object's."""
        if ask.identity in self._under_way:
            busy.ended = self._under_way[ask.identity] = self._under_way[ask.identity] or asyncio.Event()

    def _take_back(self, answer: object) -> None:
        """End an attempt that nobody will make."""
        if isinstance(answer, Started):
            attempt = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "cancelled before it was sent")
            # Nobody waits for it: where it cannot be recorded, that is logged.
            self._submit((answer, Result(attempt, sent=False))).cancel()

    # ------------------------------------- the writing thread: all that is known of it is in these three, and `_write`

    def _start(self, opened: asyncio.Future[B]) -> None:
        self._thread = threading.Thread(target=self._write, args=(opened,), name="aisolution-ledger", daemon=True)
        self._thread.start()

    def _give(self, jobs: list[Job]) -> None:
        self._queue.put(jobs)

    def _join(self) -> None:
        self._thread.join()

    def _write(self, opened: asyncio.Future[B]) -> None:
        loop = self._loop
        assert loop is not None
        opening = self._open_book()
        if isinstance(opening, LedgerError):
            _call(loop, _settle, opened, opening)
            return
        try:
            alive = _call(loop, _settle, opened, opening)
            while alive and not opening.closed:
                jobs = self._next_jobs(opening)
                while not self._queue.empty():
                    jobs += self._queue.get()
                alive = _call(loop, self._deliver, self._work(opening, jobs))
        finally:
            opening.close()

    # ------------------------------------------------------------------------------------ on the writing thread

    def _open_book(self) -> B | LedgerError:
        try:
            book = self._make_book()
        except Exception as exc:  # whatever it is, it goes to who opens
            return self._as_error(exc)
        book.unrecorded = self._unrecorded
        return book

    def _work(self, book: B, jobs: list[Job]) -> list[tuple[Job, object]]:
        """Do what was asked, and as much of it as may be in one group. Returns the answers."""
        answers: list[object] = []
        for is_alone, group in itertools.groupby([work for work, _ in jobs], callable):
            if is_alone:
                for work in group:
                    if self._unrecorded:  # what came to pass before it is recorded before it
                        self._do_together(book, [])
                    answers.append(self._do(book, work)[0])
            else:
                answers += self._do_together(book, [*group])
        return list(zip(jobs, answers, strict=True))


Work = Ask | tuple[Started, Result] | Callable[[Any], object]
"""A begin, an end, or anything else, which is done alone."""


Job = tuple[Work, asyncio.Future[Any]]
"""Something asked, and who waits for the answer (or the error)."""


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
