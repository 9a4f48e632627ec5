"""Many calls → a stream of outcomes.

How it is built: one reader takes calls from the input and puts them in a queue; `concurrency` workers take
calls from the queue, make one attempt each, and put the call away: finished calls go to the consumer, calls
that must wait go back to the queue when their wait is over. So a worker is a permit: a call that waits
holds none. The reader takes the next call only while fewer than `concurrency + WINDOW` calls are between the
input and the consumer, whatever their state: that bounds the memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from aisolution_async import clock
from aisolution_async.api import Call, Reply
from aisolution_async.charges import Attempt, Charge, Tally, overall
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError, Key
from aisolution_async.sender import Options, Sender, Work

WINDOW = 64
"""Calls that may be read ahead of, or finished and not yet taken behind, those being worked on."""

DRAIN_TIMEOUT = 30.0
GRACE = 5.0
"""Seconds that a batch cancelled from outside still waits for the answers under way."""

_READ_AT_A_STRETCH = 8

_log = logging.getLogger(__name__)

Item = Call[Any] | AISolutionError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call: `reply` or `error`, never both, never neither.

    `index` is the call's place in the input, from 0; `call` what was asked (None where the input held no
    call), `key` the call's own key. `charge` is what the call cost over all its `attempts`.
    """

    index: int
    key: Key
    call: Call[Any] | None
    reply: Reply | None
    error: AISolutionError | None
    attempts: tuple[Attempt, ...]

    @property
    def ok(self) -> bool:
        """Whether there is a reply."""
        return self.error is None

    @property
    def charge(self) -> Charge:
        """What the call cost."""
        return overall(self.attempts) if self.error is None else self.error.charge


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. Counts of calls; `waiting` are those between two attempts, `elapsed` is in seconds."""

    total: int | None
    read: int
    waiting: int
    in_flight: int
    ok: int
    failed: int
    elapsed: float
    tally: Tally

    @property
    def done(self) -> int:
        """Calls that have their outcome."""
        return self.ok + self.failed


class Batch:
    """Many calls under way, and their outcomes as they finish.

    ```python
    async with client.batch(calls, concurrency=200) as batch:
        async for outcome in batch:
            ...
    ```

    A failure is an outcome, never an exception. Only an exception that the input itself raises reaches the
    loop, after the outcomes of every call read before it. Each call read comes out exactly once: as an
    outcome of the loop or, if the loop or the `async with` is left early, in `unread`. Leaving early stops
    the reading, lets the attempts under way finish for `drain_timeout` seconds, and cancels the rest,
    which are then UNKNOWN if a byte had left. An item of the input that is an AISolutionError becomes that
    call's outcome; one that is no call at all becomes an outcome with an InputError.
    """

    def __init__(
        self,
        sender: Sender,
        options: Options,
        calls: Iterable[Item] | AsyncIterable[Item],
        *,
        concurrency: int,
        ordered: bool,
        total: int | None,
        drain_timeout: float,
    ) -> None:
        if not isinstance(calls, Iterable | AsyncIterable) or isinstance(calls, str | bytes):
            raise ConfigurationError(
                f"a {type(calls).__name__} is no list of calls: pass an iterable or async iterable of calls"
            )
        self.tally = Tally()
        """What the attempts of this batch were charged."""
        self.unread: list[Outcome] = []
        """The outcomes that nobody took, once the `async with` is over."""
        self._sender = sender
        self._options = options
        self._calls = calls
        self._concurrency = concurrency
        self._ordered = ordered
        self._total = total
        self._drain_timeout = drain_timeout

        self._queue: asyncio.Queue[_Task] = asyncio.Queue()
        self._waiting: dict[_Task, asyncio.TimerHandle] = {}
        self._in_flight: set[_Task] = set()
        self._outcomes: deque[Outcome] = deque()
        self._held_back: dict[int, Outcome] = {}  # finished ahead of their turn, where order is kept
        self._next_index = 0
        self._read = self._taken = self._ok = self._failed = 0
        self._started: float | None = None
        self._stopping = False
        self._reading = True
        self._input_error: BaseException | None = None
        self._runner: asyncio.Task[None] | None = None
        self._workers = self._free_workers = 0
        self._group: TaskGroup
        self._reader_scope = anyio.CancelScope()
        self._room = asyncio.Event()  # an outcome was taken, or nothing more is to be read
        self._news = asyncio.Event()  # there is an outcome, or all is over
        self._idle = asyncio.Event()  # the input has ended and every call read has its outcome
        self._over = False

    # ------------------------------------------------------------------------------------------ the consumer

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise ConfigurationError("a batch runs once: make another one with client.batch(…)")
        self._sender.check()
        self._started = clock.now()
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        try:
            await self._drain(GRACE if cancelled else self._drain_timeout)
        finally:
            self.unread.extend(self._outcomes)
            self._outcomes.clear()

    def __aiter__(self) -> Self:
        if self._runner is None:
            raise ConfigurationError(
                "a batch is entered before it is read: async with client.batch(calls) as batch: "
                "async for outcome in batch: …"
            )
        return self

    async def __anext__(self) -> Outcome:
        while not self._outcomes:
            if self._over:
                assert self._runner is not None
                error, self._input_error = self._input_error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self._taken += 1
        self._room.set()
        return self._outcomes.popleft()

    def stop(self) -> None:
        """Ask for a graceful end, from anywhere on the loop: nothing more is read or sent.

        Attempts under way finish; calls read and not yet sent, or waiting for another attempt, come out at
        once, as they stand.
        """
        self._stopping = True
        self._room.set()
        self._reader_scope.cancel()
        while not self._queue.empty():
            self._put_away(self._queue.get_nowait())
        for task, timer in list(self._waiting.items()):
            timer.cancel()
            del self._waiting[task]
            self._put_away(task)

    @property
    def progress(self) -> Progress:
        """How far it is, now."""
        return Progress(
            total=self._total,
            read=self._read,
            waiting=len(self._waiting),
            in_flight=len(self._in_flight),
            ok=self._ok,
            failed=self._failed,
            elapsed=0.0 if self._started is None else clock.now() - self._started,
            tally=self.tally,
        )

    # ------------------------------------------------------------------------------------- reader and workers

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._read_all)
                await self._idle.wait()
                group.cancel_scope.cancel()  # the workers wait for calls that will not come
        finally:
            self._over = True
            self._news.set()

    async def _read_all(self) -> None:
        """Take calls from the input while there is room, until it ends, fails, or the batch is stopped."""
        try:
            with self._reader_scope:
                if isinstance(self._calls, AsyncIterable):
                    await self._read_async(aiter(self._calls))
                else:
                    await self._read_sync(iter(self._calls))
        except Exception as exc:  # it is the input's own, and raised to whoever reads the outcomes
            self._input_error = exc
        finally:
            self._reading = False
            self._check_idle()

    async def _read_async(self, calls: AsyncIterator[Item]) -> None:
        try:
            while await self._has_room():
                try:
                    item = await anext(calls)
                except StopAsyncIteration:
                    return
                self._take(item)
        finally:
            close = getattr(calls, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True):
                    await close()

    async def _read_sync(self, calls: Iterator[Item]) -> None:
        try:
            while await self._has_room():
                try:
                    item = next(calls)
                except StopIteration:
                    return
                self._take(item)
                if self._read % _READ_AT_A_STRETCH == 0:
                    await asyncio.sleep(0)  # reading may be slow, and others use this loop
        finally:
            close = getattr(calls, "close", None)
            if close is not None:
                close()

    async def _has_room(self) -> bool:
        """Wait until another call may be read; False if none is to be read any more."""
        while self._read - self._taken >= self._concurrency + WINDOW and not self._stopping:
            self._room.clear()
            await self._room.wait()
        return not self._stopping

    def _take(self, item: Item) -> None:
        index = self._read
        self._read += 1
        if isinstance(item, Call):
            task = _Task(index, Work(self._sender, self._options, item, self.tally))
            if self._stopping:
                self._put_away(task)
            else:
                self._queue.put_nowait(task)
                if self._queue.qsize() > self._free_workers and self._workers < self._concurrency:
                    self._workers += 1
                    self._group.start_soon(self._work)
        elif isinstance(item, AISolutionError):
            self._emit(Outcome(index, item.key, None, None, item, item.attempts))
        else:
            error = InputError(
                f"item {index} of the input is a {type(item).__name__} and no call: "
                "give FaceCompare(…), WhatsAppDetail(…) or the like"
            )
            self._emit(Outcome(index, None, None, None, error, ()))

    async def _work(self) -> None:
        while True:
            self._free_workers += 1
            try:
                task = await self._queue.get()
            finally:
                self._free_workers -= 1
            self._in_flight.add(task)
            wait: float | None = None
            try:
                wait = await task.work.attempt()
            except AISolutionError as exc:  # the client was closed, or belongs to another loop
                task.work.error = exc.with_traceback(None)
            except Exception as exc:  # one call must not take the others down
                _log.error("an attempt failed in an unforeseen way: %s", type(exc).__name__)
                task.work.conclude(f"{type(exc).__name__} in the client")
            finally:
                self._in_flight.discard(task)
                if wait is None or self._stopping:
                    self._put_away(task)
                else:
                    self._waiting[task] = asyncio.get_running_loop().call_later(wait, self._due, task)

    def _due(self, task: _Task) -> None:
        del self._waiting[task]
        self._queue.put_nowait(task)

    def _put_away(self, task: _Task) -> None:
        """Turn a call into its outcome, as it stands."""
        work = task.work
        if work.reply is None and work.error is None:
            work.conclude("the batch was stopped before it was sent")
        self._emit(Outcome(task.index, work.call.key, work.call, work.reply, work.error, work.attempts))

    def _emit(self, outcome: Outcome) -> None:
        if outcome.ok:
            self._ok += 1
        else:
            self._failed += 1
        if self._ordered:
            self._held_back[outcome.index] = outcome
            while (ready := self._held_back.pop(self._next_index, None)) is not None:
                self._next_index += 1
                self._outcomes.append(ready)
        else:
            self._outcomes.append(outcome)
        self._news.set()
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._reading and self._ok + self._failed == self._read:
            self._idle.set()

    async def _drain(self, seconds: float) -> None:
        """Wait for what is under way, `seconds` at most; then cancel it."""
        runner = self._runner
        assert runner is not None
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.wait({runner}, timeout=seconds)
            finally:
                if not runner.done():
                    runner.cancel()
                    await asyncio.wait({runner})
        if not runner.cancelled() and (bug := runner.exception()) is not None:
            raise bug


class _Task:
    """A call in the batch, and its place in the input."""

    __slots__ = ("index", "work")

    def __init__(self, index: int, work: Work[Any]) -> None:
        self.index = index
        self.work = work
