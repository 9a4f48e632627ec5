"""The workers: each takes a call that may go, makes one attempt, and puts the call where it belongs then."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from anyio.abc import TaskGroup

from aisolution_async import clock
from aisolution_async.batching.lineup import Lineup, Turn
from aisolution_async.batching.lookup import LOOKERS, Lookup
from aisolution_async.batching.outlet import Outlet, Parked
from aisolution_async.batching.task import Recheck, Task
from aisolution_async.batching.timers import Timers
from aisolution_async.batching.twins import Asks, Follows, Shares, Twins
from aisolution_async.checks import is_cancelled
from aisolution_async.errors import AISolutionError, ConfigurationError, NotSentError
from aisolution_async.ledger.store import Stored
from aisolution_async.sending.states import TO_BE_TOLD, Again, Awaiting, Following, Over, Resting

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stop:
    """Why nothing more is sent, in the words of the outcomes of calls that were not.

    `closed`: the client was closed. The loop is told so once, and those outcomes are kept from it.
    """

    why: str = "the batch was stopped before it was sent"
    closed: bool = False


class Crew:
    """Takes each call through the parts of the batch, one attempt at a time, until it has its outcome.

    A worker is a permit: there are as many as attempts may be under way, and a call that waits holds none. `parked` is
    told how many calls wait for minutes.
    """

    def __init__(
        self,
        lineup: Lineup,
        outlet: Outlet[Any],
        *,
        twins: Twins | None,
        lookup: Lookup | None,
        recheck: Recheck | None,
        parked: Callable[[int], None],
    ) -> None:
        self._lineup = lineup
        self._outlet = outlet
        self._twins = twins
        self._lookup = lookup
        self._recheck = recheck
        self._parked = parked
        self._timers = Timers(self._due)
        self._group: TaskGroup
        self._free: deque[asyncio.Future[Turn]] = deque()  # workers that have nothing to do
        self._stop: Stop | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait: for their turn, between two attempts, or for another call's answer to the same."""
        following = 0 if self._twins is None else self._twins.following
        asked = 0 if self._lookup is None else len(self._lookup)
        return self._lineup.ready + len(self._timers) + following + asked

    @property
    def waiting_for_minutes(self) -> Parked | None:
        """The calls that do so, None if there are none."""
        calls = self._timers.parked
        return Parked(calls, None if self._lineup.places else self._timers.next_in) if calls else None

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more is sent."""
        return self._stop is not None

    def start(self, group: TaskGroup) -> None:
        """Work in `group`, until that is cancelled."""
        self._group = group
        self._lineup.start(clock.now())
        if self._lookup is not None:
            for _ in range(LOOKERS):
                group.start_soon(self._lookup.run, self._looked_up, self.dispatch)

    def take(self, task: Task) -> None:
        """A call was read."""
        if self._stop is not None:
            self._put_away(task)
        elif self._lookup is None or not self._lookup.take(task):
            self._lineup.add(task)
            self.dispatch()

    def dispatch(self) -> None:
        """Hand calls that may go now to workers."""
        while (turn := self._lineup.pick()) is not None:
            while self._free:
                waiter = self._free.popleft()
                if not waiter.done():
                    waiter.set_result(turn)
                    break
            else:
                self._group.start_soon(self._work, turn)

    def stop(self, stop: Stop) -> None:
        """Send nothing more. Calls not under way come out at once, as they stand."""
        self._stop = stop
        for task in [*([] if self._lookup is None else self._lookup.stop()), *self._lineup.stop()]:
            self._put_away(task)
        for task in self._timers.stop():
            self._put_away(task)

    def end(self) -> None:
        """The batch is over."""
        self._lineup.stop()
        if self._twins is not None:
            self._twins.forget()

    def called_back(self, task: Task) -> None:
        """The inbox has the call's answer, or nobody asks in its place any more."""
        if not self._timers.end(task):
            return  # its turn has come, and finds out
        self._parked(self._timers.parked)
        if isinstance(task.state, Over) or self._stop is not None:
            self._put_away(task)
        else:
            self._lineup.add(task)
            self.dispatch()

    # ---------------------------------------------------------------------------------------------- a worker

    async def _work(self, turn: Turn | None) -> None:
        while True:
            if turn is None:
                waiter: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
                self._free.append(waiter)
                turn = await waiter
            task = turn.task
            before = len(task.attempts)
            state: Resting[Any] | Shares | Follows | None = None
            try:
                state = await self._step(turn)
            finally:
                if state is None:
                    state = task.conclude("the batch was cancelled before it was sent")
                # What a closed client's attempts come to says nothing of the vendor.
                closed = self._stop is not None and self._stop.closed
                signal = None if closed or isinstance(state, (Shares, Follows)) else state.signal
                self._lineup.leave(turn, signal, len(task.attempts) != before)
                self._settle(task, state)
            turn = self._lineup.pick()
            if turn is not None and self._lineup.ready and self._lineup.places < self._lineup.concurrency:
                self.dispatch()  # one end may allow more than one start

    async def _step(self, turn: Turn) -> Resting[Any] | Shares | Follows:
        """One attempt of a call that has its place, unless another asks the same. Returns what came of it."""
        task = turn.task
        try:
            if self._twins is not None and task.may_share and (task.identity is None or not self._twins.leads(task)):
                if not task.prepare_at_once():
                    await task.prepare(is_known=self._twins.knows)
                placed = self._twins.place(task)
                if not isinstance(placed, Asks):
                    return placed
            return task.state if isinstance(task.state, Over) else await task.step(trial=turn.trial)
        except AISolutionError as exc:  # the client was closed, or belongs to another loop
            return task.fail(exc) if self._stop is None else task.conclude(self._stop.why)
        except (Exception, asyncio.CancelledError) as exc:  # one call must not take the others down
            if isinstance(exc, asyncio.CancelledError) and is_cancelled():
                raise
            told = {"endpoint": task.call.endpoint.name, "error": type(exc).__name__, "place": _place_of(exc)}
            _log.error("%(endpoint)s: an attempt failed in an unforeseen way: %(error)s in %(place)s", told, extra=told)
            return task.conclude(f"{type(exc).__name__} in the client")

    def _settle(self, task: Task, state: Resting[Any] | Shares | Follows) -> None:
        """What follows from what came of a call."""
        match state:
            case Over():
                self._recheck_or_put_away(task)
            case Follows():
                task.release()
            case Shares():
                task.release()
                self._put_shared(state, task)
            case _ if self._stop is not None:
                self._put_away(task)
            case Again():
                self._timers.pause(task, state.wait)
            case Awaiting() | Following():
                assert task.callback is not None
                self._park(task, task.callback.patience_left)
                if isinstance(state, Awaiting):
                    task.watch(partial(self._timers.has, task), partial(self._not_awaited, task))
            case _:
                assert_never(state)

    # ------------------------------------------------------------------------------------------ from state to state

    def _looked_up(self, task: Task, stored: Stored | None) -> None:
        """What the ledger has of a call."""
        if stored is not None and task.accept(stored):
            placed = self._twins.place(task) if self._twins is not None and task.may_share else Asks()
            match placed:
                case Asks():
                    self._put_away(task)
                case Follows() | Shares():
                    self._settle(task, placed)
                case _:
                    assert_never(placed)
        elif self._stop is not None:
            self._put_away(task)
        else:
            self._lineup.add(task)

    def _due(self, task: Task) -> None:
        """A call has waited for long enough."""
        self._parked(self._timers.parked)
        if isinstance(task.state, TO_BE_TOLD):
            task.give_up_callback()
        if isinstance(task.state, Over):
            self._put_away(task)
            return
        self._lineup.add(task, repeat=task.is_repeat)
        self.dispatch()

    def _not_awaited(self, task: Task) -> None:
        """The ledger waits for a call's callback no more: it came to another process, or is not to come."""
        if isinstance(task.state, Awaiting) and self._timers.end(task):
            self._parked(self._timers.parked)
            if self._stop is None:
                task.look_again()
            self.take(task)

    def _recheck_or_put_away(self, task: Task) -> None:
        pause = None
        if self._recheck is not None and self._stop is None:
            pause = task.pause_to_recheck(self._recheck)
        if pause is None:
            self._put_away(task)
        else:
            self._park(task, pause)

    def _park(self, task: Task, seconds: float) -> None:
        self._timers.park(task, seconds)
        self._parked(self._timers.parked)

    def _put_away(self, task: Task) -> None:
        """Turn a call into its outcome, as it stands, and see to those that follow it."""
        stop = self._stop
        if not isinstance(task.state, Over):
            is_to_come = isinstance(task.state, TO_BE_TOLD)
            task.conclude("its answer is still to come by callback" if is_to_come else (stop or Stop()).why)
        task.leave(share=stop is None)
        self._part(task)
        outcome = task.outcome()
        is_known = self._lookup is not None and outcome.from_ledger
        if self._lookup is not None and is_known:
            self._lookup.hit()
        aside = stop is not None and stop.closed and isinstance(outcome.error, NotSentError | ConfigurationError)
        self._outlet.put(outcome, from_ledger=is_known, aside=aside)

    def _put_shared(self, shares: Shares, task: Task) -> None:
        outcome = shares.outcome(task)
        self._outlet.put(outcome, from_ledger=outcome.from_ledger)

    def _part(self, task: Task) -> None:
        if self._twins is None:
            return
        parting = self._twins.part(task, stopping=self._stop is not None)
        if parting is None:
            return
        for follower in parting.followers:
            if parting.shares is None:
                self._put_away(follower)
            else:
                self._put_shared(parting.shares, follower)
        if parting.heir is not None:
            self._lineup.add(parting.heir)


def _place_of(exc: BaseException) -> str:
    """Where it was raised: not its text, which may quote anything."""
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
