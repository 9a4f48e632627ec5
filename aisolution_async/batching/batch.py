"""The batch itself: entered, read, stopped, left."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Generic, Self

import anyio

from aisolution_async import clock
from aisolution_async.api import Call, R
from aisolution_async.batching.crew import Crew, Stop
from aisolution_async.batching.intake import STRETCH, STRETCH_FOR_LEDGER, WINDOW, Intake, Item, call_of, close_unused
from aisolution_async.batching.lineup import Lineup
from aisolution_async.batching.lookup import Lookup
from aisolution_async.batching.outlet import Outlet, Progress
from aisolution_async.batching.task import Recheck, Task
from aisolution_async.batching.twins import Twins
from aisolution_async.charges import Tally
from aisolution_async.checks import flag, is_whole, kind_of, seconds
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.hiding import NotPickled, forget_locals
from aisolution_async.inbox import Inbox
from aisolution_async.ledger.store import WHOLE
from aisolution_async.limits import Adaptive
from aisolution_async.outcome import Answered, Failed
from aisolution_async.sending.journal import CLOSED, Journal
from aisolution_async.sending.options import Options
from aisolution_async.sending.shared import Shared

_log = logging.getLogger(__name__)

DRAIN_TIMEOUT = 30.0
GRACE = 5.0
"""Seconds that a batch cancelled from outside still waits for the answers under way."""


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

    A call that fails is an outcome, never an exception. Only two things are raised in the loop, after the outcomes of
    every call that was read before: an exception of the input itself, and, once, a ConfigurationError if the client is
    closed under the batch.

    Each call that was read comes out exactly once: as an outcome of the loop, or in `unread` if the loop or the `async
    with` is left early. Calls that a closed client could not send are in `unread` too. Leaving early stops the reading,
    lets the attempts under way finish for `drain_timeout` seconds, and cancels the rest, which are then UNKNOWN if a
    byte had left.

    An item of the input that is an AISolutionError becomes that call's outcome. An item that is no call at all becomes
    an outcome with an InputError.

    `tally` counts what the attempts of this batch were charged, `progress` says how far the batch is, and `stop()` ends
    it.
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
        give_up: float,
        journal: Journal | None,
        inbox: Inbox | None,
    ) -> None:
        if recheck is not None and not isinstance(recheck, Recheck):
            raise ConfigurationError("recheck must be a Recheck(…), or None")
        flag("ordered", ordered)
        flag("dedupe", dedupe)
        seconds("drain_timeout", drain_timeout, zero=True, endless=True)
        seconds("give_up", give_up, zero=True, endless=True, otherwise="; math.inf tries for ever")
        if total is not None and not (is_whole(total) and total >= 0):
            raise ConfigurationError("total must be the number of calls, or None")
        # A future is an iterable to Python.
        if not isinstance(calls, Iterable | AsyncIterable) or isinstance(calls, str | bytes | asyncio.Future):
            close_unused(calls)
            raise ConfigurationError(
                f"{kind_of(calls)} is no list of calls: pass an iterable or async iterable of calls"
            )
        self.tally = Tally()
        """What the attempts of this batch were charged."""
        self.unread: list[Answered[R] | Failed] = []
        """The outcomes that nobody took, once the `async with` is over."""
        self._shared = shared
        self._options = options
        self._inbox = inbox
        self._total = total
        self._drain_timeout = drain_timeout
        self._give_up = give_up
        self._journal = journal  # this batch's own
        places = concurrency.max if isinstance(concurrency, Adaptive) else concurrency
        self._lineup = Lineup(
            shared,
            concurrency=places,
            adaptive=concurrency if isinstance(concurrency, Adaptive) else None,
            rate=rate,
            share=WHOLE if options.journal is None else options.journal.share,
            give_up=give_up,
            wake=self._wake,
            despair=self._despair,
        )
        self._intake = Intake(
            calls,
            ahead=places + WINDOW,
            stretch=STRETCH if options.journal is None else STRETCH_FOR_LEDGER,
            close_within=drain_timeout,
            is_busy=lambda: self._lineup.places > 0,
        )
        self._outlet: Outlet[R] = Outlet(ordered=ordered, hook=options.on_outcome)
        self._crew = Crew(
            self._lineup,
            self._outlet,
            twins=Twins() if dedupe else None,
            lookup=None if options.journal is None else Lookup(options.journal),
            recheck=Recheck() if recheck is None and inbox is not None else recheck,
            parked=self._intake.allow,
        )
        self._runner: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------ the consumer

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise ConfigurationError("a batch runs once: make another one with client.batch(…)")
        self._shared.check()
        if self._options.journal is not None:
            try:
                await self._options.journal.open()  # so that a ledger that cannot be used is known at once
                self._shared.check()  # nobody tells a batch that is not running
            except BaseException:
                if self._journal is not None:
                    with anyio.CancelScope(shield=True):
                        await self._journal.aclose()
                raise
        self._outlet.pace.start(clock.now(), asyncio.get_running_loop().time)
        self._shared.batches.add(self)
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
            self.unread.extend(self._outlet.left())
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
        outcome = self._outlet.take_at_once() or await self._outlet.take()
        self._intake.taken()
        return outcome

    def stop(self) -> None:
        """Ask for a graceful end, from anywhere on the loop: nothing more is read or sent.

        Attempts under way finish; calls read and not yet sent, or waiting for another attempt, come out at
        once, as they stand.
        """
        self._stop(Stop())

    def client_closed(self) -> None:
        """The client was closed: stop, and tell the loop so once, after the outcomes of the calls that were sent."""
        if self._crew.is_stopping:
            return  # nothing more was to be sent anyway
        self._outlet.fail(
            ConfigurationError(
                "the client was closed while the batch was running: keep it open until the batch is over. "
                "What was sent has its outcome; the calls that were read and not sent are in batch.unread"
            )
        )
        self._stop(Stop(CLOSED, closed=True))

    async def ended(self) -> None:
        """Wait until no attempt of a stopped batch is under way, for as long as leaving it would."""
        if self._runner is not None:
            await asyncio.wait({self._runner}, timeout=self._drain_timeout)

    @property
    def limit(self) -> float:
        """How many of its attempts may be in flight now. May be asked from any thread."""
        return self._lineup.limit

    @property
    def braked(self) -> bool:
        """Whether it takes the vendor to be down, and only tries. May be asked from any thread."""
        return self._lineup.braked

    @property
    def progress(self) -> Progress:
        """How far it is, now. May be asked from any thread."""
        outlet = self._outlet
        rate, share, elapsed = outlet.pace.look()
        progress = Progress(
            total=self._total,
            read=self._intake.read,
            waiting=self._crew.waiting,
            in_flight=self._lineup.places,
            ok=outlet.ok,
            failed=outlet.failed,
            from_ledger=outlet.from_ledger,
            rate=rate,
            share=share,
            left=None,
            limit=self.limit,
            braked=self.braked,
            elapsed=elapsed,
            tally=self.tally,
            parked=self._crew.waiting_for_minutes,
        )
        if self._total is None:
            return progress
        return replace(progress, left=progress.time_for(max(0, self._total - progress.done)))

    def __repr__(self) -> str:
        if self._runner is None:
            state = "not entered"
        elif self._outlet.is_over:
            state = "over"
        else:
            state = "stopping" if self._crew.is_stopping else "running"
        ok, failed, read = self._outlet.ok, self._outlet.failed, self._intake.read
        of = "" if self._total is None else f" of {self._total}"
        return (
            f"<Batch, {state}: {read}{of} read, {self._crew.waiting} waiting, {self._lineup.places} in flight, "
            f"{ok} ok, {failed} failed, {self.tally!r}>"
        )

    # --------------------------------------------------------------------------------------------- the run

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._crew.start(group)
                group.start_soon(self._read)
                await self._outlet.complete.wait()
                group.cancel_scope.cancel()  # the workers wait for calls that will not come
        finally:
            self._crew.end()
            self._shared.batches.discard(self)
            self._outlet.end()

    async def _read(self) -> None:
        try:
            error = await self._intake.run(self._take)
            if error is not None:
                self._outlet.fail(error)
        finally:
            self._outlet.expect(self._intake.read)

    def _take(self, index: int, item: Item) -> None:
        call = call_of(index, item)
        if isinstance(call, Failed):
            self._outlet.put(call)
            return
        task = Task(index, self._shared, self._options, call, self.tally, self._inbox)
        if task.callback is not None:
            task.callback.end_wait = functools.partial(self._crew.called_back, task)
        self._crew.take(task)

    def _wake(self) -> None:
        self._crew.dispatch()

    def _despair(self) -> None:
        why = f"the vendor has not answered for {self._give_up:g} s, and the batch gave up"
        _log.error("%s", why)
        self._stop(Stop(why))

    def _stop(self, stop: Stop) -> None:
        if not self._crew.is_stopping:  # also where something that hears of an outcome stops it again
            self._intake.stop()
            self._crew.stop(stop)

    async def _drain(self, seconds: float) -> None:
        """Wait for what is under way, `seconds` at most; then cancel it.

        Cancelled meanwhile, it does so at once: what is under way is recorded and has its outcome all the same.
        """
        runner = self._runner
        assert runner is not None
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.wait({runner}, timeout=seconds)
            finally:
                if not runner.done():
                    runner.cancel()
                    await _over(runner)
        if not runner.cancelled() and (bug := runner.exception()) is not None:
            forget_locals(bug)
            raise bug


async def _over(runner: asyncio.Task[None]) -> None:
    """Wait for the end of a task that was cancelled. Cancelling the wait does not end it, and is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not runner.done():
        try:
            await asyncio.wait({runner})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled  # it refers to this frame
