"""Calls that wait, and hold no place meanwhile: for another attempt, for the same call elsewhere, for a callback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aisolution_async.batching.task import Task
from aisolution_async.ledger.store import Busy

_A_DAY = 86_400.0


class Timers:
    """The timers of the calls that wait. `due` is called with each whose time has come."""

    def __init__(self, due: Callable[[Task], None]) -> None:
        self._due = due
        self._pauses: dict[Task, asyncio.TimerHandle | asyncio.Task[None]] = {}
        self._parked: dict[Task, asyncio.TimerHandle] = {}
        # Made once: a bound method for each call that waits would take 64 bytes of it.
        self._end_pause, self._end_parking = self._pause_ended, self._parking_ended

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._pauses) + len(self._parked)

    @property
    def parked(self) -> int:
        """How many of them wait for minutes: for a callback, or to be asked again."""
        return len(self._parked)

    @property
    def next_in(self) -> float | None:
        """In how many seconds the first of those that wait for minutes has its turn. May be asked from any thread."""
        handles = tuple(self._parked.values())  # at once: the loop may go on meanwhile
        return max(0.0, min(handle.when() for handle in handles) - self._time()) if handles else None

    def pause(self, task: Task, wait: float | Busy) -> None:
        """The call is to be attempted again after so many seconds, or when the same call elsewhere has ended."""
        if isinstance(wait, Busy):
            self._pauses[task] = asyncio.create_task(self._wait_for(task, wait))
        else:
            self._pauses[task] = asyncio.get_running_loop().call_later(wait, self._end_pause, task)

    def park(self, task: Task, seconds: float) -> None:
        """The call waits for minutes: it does not count as read ahead."""
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._parked[task] = loop.call_later(min(seconds, _A_DAY), self._end_parking, task)

    def has(self, task: Task) -> bool:
        """Whether the call waits."""
        return task in self._parked or task in self._pauses

    def end(self, task: Task) -> bool:
        """The call need not wait any longer. False if it does not wait."""
        timer = self._parked.pop(task, None) or self._pauses.pop(task, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def stop(self) -> list[Task]:
        """Nothing waits any longer. Returns the calls that did."""
        waiting = {**self._pauses, **self._parked}
        self._pauses.clear()
        self._parked.clear()
        for timer in waiting.values():
            timer.cancel()
        return list(waiting)

    async def _wait_for(self, task: Task, busy: Busy) -> None:
        await task.rest(busy)
        self._pause_ended(task)

    def _pause_ended(self, task: Task) -> None:
        del self._pauses[task]
        self._due(task)

    def _parking_ended(self, task: Task) -> None:
        del self._parked[task]
        self._due(task)
