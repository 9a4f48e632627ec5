"""Outcomes on their way to the consumer: their order, how many there are, how fast they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from aisolution_async import clock
from aisolution_async.api import R
from aisolution_async.charges import Tally
from aisolution_async.outcome import Answered, Failed
from aisolution_async.sending.hooks import call_hook


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


class Outlet(Generic[R]):
    """Takes each call's outcome once, and gives them to the consumer: as they come, or in the input's order.

    `hook` is told of each. `complete` is set when every item that was read has its outcome, and no more will be read.
    """

    def __init__(self, *, ordered: bool, hook: Callable[[Any], object] | None) -> None:
        self.ok = self.failed = 0
        """Outcomes so far."""
        self.complete = asyncio.Event()
        self.pace = Pace()
        self.is_over = False
        """Whether nothing more will come."""
        self._hook = hook
        self._ready: deque[Answered[R] | Failed] = deque()
        self._aside: list[Answered[R] | Failed] = []  # not for the loop
        self._ordered = ordered
        self._ahead: dict[int, Answered[R] | Failed | None] = {}  # of their turn; None is one that is put aside
        self._next_index = 0
        self._expected: int | None = None
        self._error: BaseException | None = None
        self._news = asyncio.Event()  # there is an outcome, or all is over

    @property
    def done(self) -> int:
        """Outcomes so far."""
        return self.ok + self.failed

    def put(self, outcome: Answered[R] | Failed, *, aside: bool = False) -> None:
        """A call is over. `aside`: its outcome is not for the loop, only for `left`."""
        if self._hook is not None:
            call_hook("on_outcome", self._hook, outcome)
        if outcome.error is None:
            self.ok += 1
        else:
            self.failed += 1
        self.pace.count(clock.now())
        if aside:
            self._aside.append(outcome)
        if self._ordered:
            self._ahead[outcome.index] = None if aside else outcome
            self._let_out()
        elif not aside:
            self._ready.append(outcome)
        self._news.set()
        self._check()

    def expect(self, count: int) -> None:
        """`count` outcomes will come in all."""
        self._expected = count
        self._check()

    def fail(self, error: BaseException) -> None:
        """Raise `error` to the consumer after the outcomes. The first one counts."""
        if self._error is None:
            self._error = error

    def end(self) -> None:
        """Nothing more will come."""
        self.is_over = True
        self.pace.end(clock.now())
        self._news.set()

    async def take(self) -> Answered[R] | Failed:
        """Wait for the next outcome. When all were taken, raises what it was to, once; then StopAsyncIteration."""
        while not self._ready:
            if self.is_over:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._ready.popleft()

    def left(self) -> list[Answered[R] | Failed]:
        """The outcomes that the consumer did not take, or was not given."""
        left = [*self._ready, *self._aside]
        self._ready.clear()
        self._aside.clear()
        return left

    def _let_out(self) -> None:
        while self._next_index in self._ahead:
            outcome = self._ahead.pop(self._next_index)
            self._next_index += 1
            if outcome is not None:
                self._ready.append(outcome)

    def _check(self) -> None:
        if self._expected is not None and self.ok + self.failed == self._expected:
            self.complete.set()


class Pace:
    """How many calls were finished a second, over the last few seconds; and for how long it has been going."""

    __slots__ = ("_clock", "_counts", "_ended", "_first", "_started")

    _SECONDS = 5

    def __init__(self) -> None:
        self._counts: deque[list[int]] = deque(maxlen=self._SECONDS + 1)
        self._first: float | None = None
        self._started: float | None = None
        self._ended: float | None = None

    def start(self, now: float) -> None:
        """The batch starts now."""
        self._started = now
        self._clock = asyncio.get_running_loop().time  # for who looks from another thread

    def end(self, now: float) -> None:
        """The batch is over now."""
        self._ended = now

    def count(self, now: float) -> None:
        """One more, now."""
        second = int(now)
        if self._first is None:
            self._first = now
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1][1] += 1
        else:
            self._counts.append([second, 1])

    def look(self) -> tuple[float, float]:
        """How many a second, and the seconds since the start. After the end, as it was then."""
        if self._started is None:
            return 0.0, 0.0
        at = self._clock() if self._ended is None else self._ended
        return self._per_second(at), at - self._started

    def _per_second(self, now: float) -> float:
        counts = tuple(self._counts)  # at once: the loop may go on meanwhile
        counted = [(second, count) for second, count in counts if second > now - self._SECONDS - 1]
        if self._first is None or not counted:
            return 0.0
        since = max(self._first, counted[0][0])
        return sum(count for _, count in counted) / max(now - since, 1.0)
