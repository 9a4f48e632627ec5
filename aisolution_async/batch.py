"""Many calls → a stream of outcomes.

How it is built. A reader takes calls from the input and lines them up, by endpoint. Workers, `concurrency` of them
at most, take a call that may go now, make one attempt, and put the call away: finished calls go to the consumer,
calls that must wait get a timer and line up again. So a worker is a permit, and a call that waits holds none.
What may go now is asked of the limits (`limits.py`) in one place, `_pick`; none of them waits, and one timer wakes
the batch when the earliest of them allows something. The reader goes on only while fewer than
`concurrency + WINDOW` calls are between the input and the consumer, whatever their state: that bounds the memory.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import math
import traceback
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self

import anyio
from anyio.abc import TaskGroup

from aisolution_async import clock
from aisolution_async.api import Call, R, WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Charge, Tally, overall
from aisolution_async.checks import kind_of
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError, OutcomeUnknownError
from aisolution_async.hiding import NotPickled, forget_locals
from aisolution_async.inbox import Inbox
from aisolution_async.ledger.store import Ask, Busy, Stored
from aisolution_async.limits import Adaptive, AdaptiveLimit, Brake, Rate, RetryBudget, Signal
from aisolution_async.outcome import Answered, Failed, outcome_of
from aisolution_async.sending.call import Sending
from aisolution_async.sending.hooks import call_hook
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.options import Options
from aisolution_async.sending.shared import Shared
from aisolution_async.sending.states import Again, Awaiting, Following, Over

WINDOW = 64
"""Calls that may be read ahead of, or finished and not yet taken behind, those being worked on."""

WAITING = 10_000
"""Calls that wait, for minutes, for a callback or to be asked again: so many of them do not count as read ahead."""

REMEMBERED = 10_000
"""The latest answers of a batch that are kept for calls that ask the same."""

DRAIN_TIMEOUT = 30.0
GRACE = 5.0
"""Seconds that a batch cancelled from outside still waits for the answers under way."""

# How many places in the window must be free before the reader is woken, unless workers have nothing to do.
_READ_AT_LEAST = 16
# How many calls are read before others on the loop get their turn.
_READ_AT_A_STRETCH = 8

# After so many calls in a row that the ledger had no answer to, it is asked for leave only: it may be a new one.
_MOST_MISSES = 1000
_A_DAY = 86_400.0
_LOOKERS = 2  # while one hands out what was found, the other's question is looked up

# Seconds under which a timer is not worth setting: the limits catch up by more.
_SHORTEST_WAIT = 0.001

_log = logging.getLogger(__name__)

Item = Call[Any] | AISolutionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """How to ask again for numbers that WhatsApp is still "checking", in seconds.

    The first time after `first`, then after twice as long each time, at most `longest`, until `give_up` has
    passed since the first answer: then the reply stays as it is. The contract asks for 20 seconds or more.
    """

    first: float = 20.0
    longest: float = 600.0
    give_up: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest < math.inf or not 0 <= self.give_up < math.inf:
            raise ConfigurationError("Recheck needs 0 < first <= longest and give_up >= 0, in seconds")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is, in calls.

    `read` from the input; `waiting` for their turn, between two attempts, or for another call's answer to the same;
    `in_flight` being asked now; `ok` and `failed` have their outcome. `rate` is calls finished a second, over the last
    seconds; `left` the seconds until the end at that rate, None without `total`. `limit` is how many may be in
    flight now. `braked` says that the vendor seems to be down and is only being tried. `elapsed` is in seconds.
    """

    total: int | None
    read: int
    waiting: int
    in_flight: int
    ok: int
    failed: int
    rate: float
    left: float | None
    limit: float
    braked: bool
    elapsed: float
    tally: Tally

    @property
    def done(self) -> int:
        """Calls that have their outcome."""
        return self.ok + self.failed


@dataclass(frozen=True, slots=True)
class Load:
    """What a client is doing now: for gauges.

    `in_flight` attempts are under way, single calls and all `batches` together. `limit` is how many the running batches
    may have in flight, None if none runs. `braked` says that one of them takes the vendor to be down.
    """

    in_flight: int
    limit: float | None
    braked: bool
    batches: int


class Batch(NotPickled, Generic[R]):
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

    _instead = "it runs on its client's connections. Make it where it is read; calls and outcomes can be pickled"

    def __init__(
        self,
        shared: Shared,
        options: Options,
        calls: Iterable[Call[R] | AISolutionError] | AsyncIterable[Call[R] | AISolutionError],
        *,
        concurrency: int | Adaptive,
        rate: float | None,
        ordered: bool,
        dedupe: bool,
        total: int | None,
        recheck: Recheck | None,
        drain_timeout: float,
        journal: Journal | None,
        inbox: Inbox | None,
    ) -> None:
        if recheck is not None and not isinstance(recheck, Recheck):
            raise ConfigurationError("recheck must be a Recheck(…), or None")
        if isinstance(drain_timeout, bool) or not isinstance(drain_timeout, int | float) or not drain_timeout >= 0:
            raise ConfigurationError("drain_timeout must be seconds, 0 or more")
        if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 0):
            raise ConfigurationError("total must be the number of calls, or None")
        if not isinstance(calls, Iterable | AsyncIterable) or isinstance(calls, str | bytes):
            raise ConfigurationError(
                f"{kind_of(calls)} is no list of calls: pass an iterable or async iterable of calls"
            )
        self.tally = Tally()
        """What the attempts of this batch were charged."""
        self.unread: list[Answered[R] | Failed] = []
        """The outcomes that nobody took, once the `async with` is over."""
        self._shared = shared
        self._options = options
        self._calls = calls
        self._adaptive = concurrency if isinstance(concurrency, Adaptive) else None
        self._concurrency = concurrency.max if isinstance(concurrency, Adaptive) else concurrency
        self._rate = None if rate is None else Rate(rate)
        self._ordered = ordered
        self._dedupe = dedupe
        self._total = total
        self._recheck = recheck
        self._drain_timeout = drain_timeout
        self._journal = journal  # this batch's own
        self._inbox = inbox

        self._lanes: dict[str, _Lane] = {}
        self._turns: deque[_Lane] = deque()
        self._ready = 0  # calls in the lanes
        self._brake = Brake()
        self._budget: RetryBudget
        self._timers: dict[_Task, asyncio.TimerHandle | asyncio.Task[None]] = {}  # of calls that wait for their turn
        self._alarm: asyncio.TimerHandle | None = None  # for when the earliest limit allows something
        self._alarm_at = 0.0
        self._looked_up: list[tuple[_Task, Ask]] = []  # calls whose answer the ledger may have
        self._look = asyncio.Event()
        self._misses = 0
        self._parked = 0
        self._running: set[_Task] = set()
        self._places = 0  # taken
        self._leaders: dict[bytes, _Task] = {}
        # As JSON, which takes a third of the memory of a reply.
        self._answers: OrderedDict[bytes, tuple[int, bytes | AISolutionError]] = OrderedDict()

        self._outcomes: deque[Answered[R] | Failed] = deque()
        self._held_back: dict[int, Answered[R] | Failed] = {}  # finished ahead of their turn, where order is kept
        self._next_index = 0
        self._read = self._taken = self._ok = self._failed = self._following = 0
        self._pace = _Pace()
        self._started: float | None = None
        self._ended: float | None = None
        self._stopping = False
        self._reading = True
        self._over = False
        self._input_error: BaseException | None = None
        self._runner: asyncio.Task[None] | None = None
        self._group: TaskGroup
        self._workers = 0
        self._free_workers: deque[asyncio.Future[_Task]] = deque()
        self._reader_scope = anyio.CancelScope()
        self._room = asyncio.Event()  # enough outcomes were taken, or nothing more is to be read
        self._news = asyncio.Event()  # there is an outcome, or all is over
        self._idle = asyncio.Event()  # the input has ended and every call read has its outcome

    # ------------------------------------------------------------------------------------------ the consumer

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise ConfigurationError("a batch runs once: make another one with client.batch(…)")
        self._shared.check()
        if self._options.journal is not None:
            await self._options.journal.open()  # so that a ledger that cannot be used is known at once
        self._started = clock.now()
        self._shared.batches.add(self)
        self._budget = RetryBudget(self._started)
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        try:
            await self._drain(min(GRACE, self._drain_timeout) if cancelled else self._drain_timeout)
        finally:
            self.unread.extend(self._outcomes)
            self._outcomes.clear()
            if self._journal is not None:
                await self._journal.aclose()

    def __aiter__(self) -> Self:
        if self._runner is None:
            raise ConfigurationError(
                "a batch is entered before it is read: async with client.batch(calls) as batch: "
                "async for outcome in batch: …"
            )
        return self

    async def __anext__(self) -> Answered[R] | Failed:
        while not self._outcomes:
            if self._over:
                error, self._input_error = self._input_error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self._taken += 1
        outcome = self._outcomes.popleft()
        self._let_read()
        return outcome

    def stop(self) -> None:
        """Ask for a graceful end, from anywhere on the loop: nothing more is read or sent.

        Attempts under way finish; calls read and not yet sent, or waiting for another attempt, come out at
        once, as they stand.
        """
        if self._stopping:
            return  # also where something that hears of an outcome stops it again
        self._stopping = True
        self._room.set()
        self._reader_scope.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._shared.gate.forget(self._dispatch)
        while self._looked_up:
            self._put_away(self._looked_up.pop()[0])
        for lane in self._lanes.values():
            for queue in (lane.fresh, lane.repeats):
                while queue:
                    self._put_away(queue.popleft())
        self._ready = 0
        while self._timers:
            task, timer = self._timers.popitem()
            timer.cancel()
            self._put_away(task)

    @property
    def limit(self) -> float:
        """How many of its attempts may be in flight now. May be asked from any thread."""
        lanes = tuple(self._lanes.values())  # at once: the loop may go on meanwhile
        limits = [lane.limit.limit for lane in lanes if lane.limit is not None]
        return min(sum(limits) or self._concurrency, self._concurrency, self._shared.gate.places or math.inf)

    @property
    def braked(self) -> bool:
        """Whether it takes the vendor to be down, and only tries. May be asked from any thread."""
        return self._brake.on

    @property
    def progress(self) -> Progress:
        """How far it is, now."""
        now = 0.0
        if self._started is not None:
            now = clock.now() if self._ended is None else self._ended
        rate = self._pace.per_second(now)
        to_do = None if self._total is None else max(0, self._total - self._ok - self._failed)
        return Progress(
            total=self._total,
            read=self._read,
            waiting=len(self._looked_up) + len(self._timers) + self._following + self._ready,
            in_flight=len(self._running),
            ok=self._ok,
            failed=self._failed,
            rate=rate,
            left=to_do / rate if to_do is not None and rate else None,
            limit=self.limit,
            braked=self.braked,
            elapsed=now - (self._started or now),
            tally=self.tally,
        )

    # ------------------------------------------------------------------------------------------- the reader

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._read_all)
                if self._options.journal is not None:
                    for _ in range(_LOOKERS):
                        group.start_soon(self._look_up, self._options.journal)
                await self._idle.wait()
                group.cancel_scope.cancel()  # the workers wait for calls that will not come
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            self._shared.gate.forget(self._dispatch)
            self._shared.batches.discard(self)
            self._ended = clock.now()
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
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping or (task is not None and task.cancelling()):
                raise
            # Not meant for us: something within the input was cancelled. What is under way must not suffer for it.
            self._input_error = RuntimeError("something that the batch's input waited for was cancelled")
        except StopAsyncIteration:
            self._input_error = RuntimeError("the batch's input raised StopAsyncIteration")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # it is the input's own, and raised to whoever reads the outcomes
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
                # It is the user's code, and may take for ever.
                with anyio.move_on_after(self._drain_timeout, shield=True):
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

    def _let_read(self) -> None:
        if not self._room.is_set() and self._is_worth_reading():
            self._room.set()

    @property
    def _free(self) -> int:
        """How many more calls may be read."""
        held = self._read - self._taken - min(self._parked, WAITING)
        return self._concurrency + WINDOW - held

    async def _has_room(self) -> bool:
        """Wait until another call may be read; False if none is to be read any more."""
        if self._free <= 0:
            while not self._stopping and not self._is_worth_reading():
                self._room.clear()
                await self._room.wait()
        return not self._stopping

    def _is_worth_reading(self) -> bool:
        free = self._free
        return free >= _READ_AT_LEAST or (free > 0 and not self._running)

    def _take(self, item: Item) -> None:
        index = self._read
        task = None
        if isinstance(item, Call):
            task = _Task(index)
            task.work = Sending(self._shared, self._options, item, self.tally, self._inbox)
            if task.work.callback is not None:
                task.work.callback.ring = functools.partial(self._called_back, task)
        self._read += 1
        if task is not None:
            if self._stopping:
                self._put_away(task)
            elif (
                self._options.journal is not None
                and self._misses < _MOST_MISSES
                and (ask := task.work.question()) is not None
            ):
                self._looked_up.append((task, ask))
                self._look.set()
            else:
                self._line_up(task)
                if self._places < self._concurrency:
                    self._dispatch()
        elif isinstance(item, AISolutionError):
            self._emit(Failed(index, item.key, None, None, item, item.attempts))
        else:
            error = InputError(
                f"item {index} of the input is {kind_of(item)} and no call: "
                "give FaceCompare(…), WhatsAppDetail(…) or the like"
            )
            self._emit(Failed(index, None, None, None, error, ()))

    async def _look_up(self, journal: Journal) -> None:
        """Answer from the ledger what it has, many calls at a time; the others line up.

        A resumed run would else spend on each of them the place, the turn and the hop to the ledger of a call that is
        sent.
        """
        while True:
            await self._look.wait()
            self._look.clear()
            asked, self._looked_up = self._looked_up, []
            found: list[Stored | None] = []
            try:
                found = await journal.find([ask for _, ask in asked])
            except AISolutionError:
                pass  # each of them is told when it asks for leave
            finally:
                for number, (task, _) in enumerate(asked):
                    stored = found[number] if found else None
                    self._misses = self._misses + 1 if stored is None else 0
                    if stored is not None and task.work.accept(stored):
                        shares = self._dedupe and not task.work.call.endpoint.never_charges
                        if not shares or self._stands_first(task):
                            self._put_away(task)
                    elif self._stopping:
                        self._put_away(task)
                    else:
                        self._line_up(task)
            self._dispatch()

    def _lane(self, task: _Task) -> _Lane:
        name = task.work.call.endpoint.name
        lane = self._lanes.get(name)
        if lane is None:
            limit = None if self._adaptive is None else AdaptiveLimit(self._adaptive, clock.now())
            lane = self._lanes[name] = _Lane(limit)
            self._turns.append(lane)
        return lane

    def _line_up(self, task: _Task, *, repeat: bool = False) -> None:
        lane = self._lane(task)
        (lane.repeats if repeat else lane.fresh).append(task)
        self._ready += 1

    # ------------------------------------------------------------------------------------------ what may go

    def _dispatch(self) -> None:
        """Hand calls that may go now to workers."""
        while (task := self._pick()) is not None:
            while self._free_workers:
                waiter = self._free_workers.popleft()
                if not waiter.done():
                    waiter.set_result(task)
                    break
            else:
                self._workers += 1
                self._group.start_soon(self._work, task)

    def _pick(self) -> _Task | None:
        """A call that may go now, with its place taken; else None, with the alarm set for when one may."""
        if self._stopping or self._places >= self._concurrency or not self._ready:
            return None
        now = clock.now()
        wait = self._wait_for_all(now)
        if wait <= 0:
            for _ in range(len(self._turns)):
                self._turns.rotate(-1)  # each endpoint in its turn
                lane = self._turns[0]
                if not lane.fresh and not lane.repeats:
                    continue
                task, patience = self._pick_from(lane, now)
                if task is not None:
                    return task
                wait = patience if wait <= 0 else min(wait, patience)
        if 0 < wait < math.inf:
            self._wake_after(wait, now)
        return None

    def _wait_for_all(self, now: float) -> float:
        """Seconds that nothing at all may go for; inf if that ends by itself."""
        wait = self._shared.paused_until - now
        if self._brake.on:
            if self._running:
                return math.inf  # an attempt is under way, and its end looks again
            wait = max(wait, self._brake.next_try - now)
        for rate in (self._rate, self._shared.rate):
            if rate is not None:
                wait = max(wait, rate.wait(now))
        return wait

    def _pick_from(self, lane: _Lane, now: float) -> tuple[_Task | None, float]:
        wait = 0.0
        if lane.limit is not None:
            wait = lane.limit.wait(lane.places, now)
            if wait > 0:
                return None, wait
        if lane.repeats:
            wait = self._budget.wait(now)
        queue = lane.repeats if lane.repeats and wait <= 0 else lane.fresh
        if not queue:
            return None, wait if wait > 0 else math.inf
        if not self._shared.gate.try_enter():
            self._shared.gate.call_when_free(self._dispatch)
            return None, math.inf
        task = queue.popleft()
        task.repeats = queue is lane.repeats
        task.before = len(task.work.attempts)
        if not task.repeats:
            self._budget.first()
        else:
            self._budget.repeat()
        for rate in (self._rate, self._shared.rate):
            if rate is not None:
                rate.start(now)
        if lane.limit is not None:
            lane.limit.start(now)
        self._ready -= 1
        task.trial = self._brake.on
        self._places += 1
        lane.places += 1
        self._running.add(task)
        return task, 0.0

    def _wake_after(self, wait: float, now: float) -> None:
        wait = max(wait, _SHORTEST_WAIT)
        if self._alarm is not None:
            if self._alarm_at <= now + wait:
                return
            self._alarm.cancel()
        self._alarm_at = now + wait
        self._alarm = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        self._alarm = None  # it may ring a little early, and must then be set again
        self._dispatch()

    # ------------------------------------------------------------------------------------------- the workers

    async def _work(self, task: _Task | None) -> None:
        while True:
            if task is None:
                waiter: asyncio.Future[_Task] = asyncio.get_running_loop().create_future()
                self._free_workers.append(waiter)
                task = await waiter
            await self._make_attempt(task)
            task = self._pick()
            if task is not None:
                self._dispatch()  # one end may allow more than one start

    async def _make_attempt(self, task: _Task) -> None:
        """One attempt of a call that has its place, and what follows from it."""
        work = task.work
        lane = self._lane(task)
        started = clock.now()
        leads = True
        try:
            leads = not self._dedupe or work.call.endpoint.never_charges or await self._is_first(task)
            if leads and not isinstance(work.state, Over):
                await work.step(trial=task.trial)
        except AISolutionError as exc:  # the client was closed, or belongs to another loop
            work.fail(exc.with_traceback(None))
        except Exception as exc:  # one call must not take the others down
            told = {"endpoint": work.call.endpoint.name, "error": type(exc).__name__, "place": _place_of(exc)}
            _log.error("%(endpoint)s: an attempt failed in an unforeseen way: %(error)s in %(place)s", told, extra=told)
            work.conclude(f"{type(exc).__name__} in the client")
        except asyncio.CancelledError:
            work.conclude("the batch was cancelled before it was sent")
            raise
        finally:
            self._leave(task, lane, started)
            if leads:
                self._follow_up(task)

    def _leave(self, task: _Task, lane: _Lane, started: float) -> None:
        """Give back what the attempt held, and tell the limits how it went."""
        self._running.discard(task)
        work, now = task.work, clock.now()
        signal = getattr(work.state, "signal", None)
        if signal is not None:
            braked = self._brake.on
            self._brake.end(signal, now, trial=task.trial)
            if self._brake.on is not braked:
                told = {"endpoint": work.call.endpoint.name, "braked": self._brake.on}
                if self._brake.on:
                    _log.warning(
                        "the vendor seems to be down: only single calls are tried until one is answered", extra=told
                    )
                else:
                    _log.info("the vendor answers again", extra=told)
            if lane.limit is not None and not task.trial:
                lane.limit.end(signal, started, now)
            if task.repeats and signal is Signal.ANSWERED:
                self._budget.earn()
        elif len(work.attempts) == task.before:
            # Nothing was sent: somebody else had asked, or it could not be. The turn is the next one's.
            for limit in (self._rate, self._shared.rate, lane.limit):
                if limit is not None:
                    limit.take_back()
            if task.repeats:
                self._budget.earn()
        self._places -= 1
        lane.places -= 1
        self._shared.gate.leave()

    def _follow_up(self, task: _Task) -> None:
        state, wait = task.work.state, None
        if not self._stopping:
            if isinstance(state, Again):
                if isinstance(state.wait, Busy):
                    self._timers[task] = asyncio.create_task(self._wait_for(task, state.wait))
                else:
                    self._timers[task] = asyncio.get_running_loop().call_later(state.wait, self._due, task)
                return
            wait = self._wait_to_recheck(task)
        if wait is None:
            self._put_away(task)
            return
        task.parked = True
        self._parked += 1
        self._let_read()
        self._timers[task] = asyncio.get_running_loop().call_later(wait, self._due, task)

    async def _wait_for(self, task: _Task, busy: Busy) -> None:
        """The same call is under way elsewhere: look again when it has ended."""
        await task.work.rest(busy)
        self._due(task)

    def _due(self, task: _Task) -> None:
        del self._timers[task]
        work = task.work
        if task.parked:
            self._parked -= 1
            task.parked = False
            if isinstance(work.state, Awaiting | Following):
                work.give_up_callback()
                if isinstance(work.state, Over):
                    self._put_away(task)
                    return
        # Asking again for a number is a question of its own, and no repeat that the budget counts.
        self._line_up(task, repeat=task.work.is_repeat)
        self._dispatch()

    def _wait_to_recheck(self, task: _Task) -> float | None:
        """Seconds until the call is asked again because WhatsApp is still checking; None if it is not to be."""
        recheck, work, state = self._recheck, task.work, task.work.state
        if isinstance(state, Awaiting | Following):
            assert work.callback is not None
            return min(work.callback.patience_left, _A_DAY)
        if self._inbox is not None and recheck is None:
            recheck = Recheck()
        reply = state.reply if isinstance(state, Over) else None
        if recheck is None or not isinstance(reply, WhatsAppProfile) or reply.whatsapp != WhatsAppState.CHECKING:
            return None
        if getattr(work.call, "callback", None):
            return None  # the answer comes by callback, and the contract forbids asking twice
        now = clock.now()
        if task.checking_since is None:
            task.checking_since, task.pause = now, recheck.first
        else:
            task.pause = min(2 * task.pause, recheck.longest)
        if now + task.pause > task.checking_since + recheck.give_up:
            return None
        work.ask_again()
        return task.pause

    def _called_back(self, task: _Task) -> None:
        """The inbox has the answer, or nobody asks in this call's place any more."""
        timer = self._timers.pop(task, None)
        if timer is None:
            return  # its turn has come, and finds out
        timer.cancel()
        if task.parked:
            self._parked -= 1
            task.parked = False
        if isinstance(task.work.state, Over) or self._stopping:
            self._put_away(task)
        else:
            self._line_up(task)
            self._dispatch()

    # ----------------------------------------------------------------------------------- the same asked twice

    async def _is_first(self, task: _Task) -> bool:
        """Whether the call must be asked; else its answer is here, or it follows the call that asks the same."""
        work = task.work
        if task.leads:
            return True
        await work.prepare(is_known=self._is_known)
        return work.identity is None or self._stands_first(task)

    def _is_known(self, identity: bytes) -> bool:
        return identity in self._answers or identity in self._leaders

    def _stands_first(self, task: _Task) -> bool:
        work, identity = task.work, task.work.identity
        assert identity is not None
        if (answer := self._answers.get(identity)) is not None:
            self._answers.move_to_end(identity)
            index, found = answer
            work.release()
            if isinstance(found, bytes):
                self._emit_shared(task, index, work.call.endpoint.reply.model_validate_json(found))
            else:
                self._emit_error(task, index, found)
            return False
        leader = self._leaders.setdefault(identity, task)
        if leader is task:
            task.leads = True
            return True
        if leader.followers is None:
            leader.followers = []
        leader.followers.append(task)
        work.release()
        self._following += 1
        return False

    def _dismiss(self, leader: _Task) -> None:
        """A call that others follow is over: they share its answer, or one of them asks in its place."""
        work = leader.work
        identity = work.identity
        if identity is None or self._leaders.get(identity) is not leader:
            return
        del self._leaders[identity]
        assert isinstance(work.state, Over)
        reply, error = work.state.reply, work.state.error
        # What cost money, or may have, is not bought again for who asks the same.
        bought = error is not None and (
            overall(work.attempts) is not Charge.FREE or isinstance(error, OutcomeUnknownError)
        )
        if reply is not None and reply.is_answer:
            self._remember(identity, leader.index, reply.model_dump_json().encode())
        elif error is not None and bought:
            self._remember(identity, leader.index, error)
        followers, leader.followers = leader.followers or [], None
        self._following -= len(followers)
        for task in followers:
            if reply is not None:
                self._emit_shared(task, leader.index, reply)
            elif error is not None and bought:
                self._emit_error(task, leader.index, error)
            elif self._stopping:
                self._put_away(task)
        if followers and reply is None and not bought and not self._stopping:
            first, *rest = followers
            self._leaders[identity] = first
            first.leads = True
            first.followers = rest
            self._following += len(rest)
            self._line_up(first)

    def _remember(self, identity: bytes, index: int, answer: bytes | AISolutionError) -> None:
        self._answers[identity] = (index, answer)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    def _emit_shared(self, task: _Task, index: int, reply: R) -> None:
        call = task.work.call
        self._emit(Answered(task.index, call.key, call, reply.model_copy().made_by(()), None, (), index))

    def _emit_error(self, task: _Task, index: int, error: AISolutionError) -> None:
        call = task.work.call
        shared = copy.copy(error)
        shared.args = (f"{call.endpoint.name}: not sent: item {index} asked the same, and that ended so: {error}",)
        shared.key, shared.attempts, shared.charge = call.key, (), Charge.FREE
        self._emit(Failed(task.index, call.key, call, None, shared, (), index))

    # ------------------------------------------------------------------------------------------ the outcomes

    def _put_away(self, task: _Task) -> None:
        """Turn a call into its outcome, as it stands."""
        work = task.work
        late = "its answer is still to come by callback"
        waits = isinstance(work.state, Awaiting | Following)
        work.conclude(late if waits else "the batch was stopped before it was sent")
        over = work.state
        assert isinstance(over, Over)
        work.leave(share=not self._stopping)
        self._dismiss(task)
        if over.reply is not None and over.reply.recorded is not None:
            self._misses = 0
        self._emit(outcome_of(task.index, work.call, over.reply, over.error, work.attempts))

    def _emit(self, outcome: Answered[R] | Failed) -> None:
        if self._options.on_outcome is not None:
            call_hook("on_outcome", self._options.on_outcome, outcome)
        if outcome.ok:
            self._ok += 1
        else:
            self._failed += 1
        self._pace.count(clock.now())
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
            forget_locals(bug)
            raise bug


def _place_of(exc: BaseException) -> str:
    """Where it was raised: not its text, which may quote anything."""
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


class _Task:
    """A call in the batch: its place in the input, and what it waits for."""

    __slots__ = (
        "before",
        "checking_since",
        "followers",
        "index",
        "leads",
        "parked",
        "pause",
        "repeats",
        "trial",
        "work",
    )

    work: Sending[Any]

    def __init__(self, index: int) -> None:
        self.index = index
        self.parked = False  # it waits for a callback, or to be asked again
        self.leads = False  # it is the one of its kind that is asked
        self.followers: list[_Task] | None = None  # calls that ask the same, and wait for this one's answer
        self.trial = False  # sent while the brake was on
        self.repeats = False  # its newest turn was for another attempt at the same question
        self.before = 0  # attempts before its newest turn
        self.checking_since: float | None = None
        self.pause = 0.0


class _Lane:
    """The calls to one endpoint that are ready to go."""

    __slots__ = ("fresh", "limit", "places", "repeats")

    def __init__(self, limit: AdaptiveLimit | None) -> None:
        self.fresh: deque[_Task] = deque()
        self.repeats: deque[_Task] = deque()
        self.places = 0
        self.limit = limit


class _Pace:
    """How many calls were finished a second, over the last few seconds."""

    __slots__ = ("_counts", "_first")

    _SECONDS = 5

    def __init__(self) -> None:
        self._counts: deque[list[int]] = deque(maxlen=self._SECONDS + 1)
        self._first: float | None = None

    def count(self, now: float) -> None:
        """One more, now."""
        second = int(now)
        if self._first is None:
            self._first = now
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1][1] += 1
        else:
            self._counts.append([second, 1])

    def per_second(self, now: float) -> float:
        """The rate, now."""
        counted = [(second, count) for second, count in self._counts if second > now - self._SECONDS - 1]
        if self._first is None or not counted:
            return 0.0
        since = max(self._first, counted[0][0])
        return sum(count for _, count in counted) / max(now - since, 1.0)
