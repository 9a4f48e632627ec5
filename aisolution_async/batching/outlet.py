"""Outcomes on their way to the consumer: their order, how many there are, how fast they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic

from aisolution_async import clock
from aisolution_async.api import R
from aisolution_async.charges import Tally
from aisolution_async.outcome import Answered, Failed
from aisolution_async.sending.hooks import call_hook


@dataclass(frozen=True, slots=True)
class Parked:
    """How many `calls` wait for minutes, to be asked again or for a callback, and in how many seconds the next one's
    wait is over; None as long as others are in flight."""

    calls: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is, in calls.

    `read` from the input; `waiting` for their turn, between two attempts, or for another call's answer to the same;
    `in_flight` being asked now; `ok` and `failed` have their outcome, `from_ledger` of the ok without being asked.
    `rate` is calls that were sent and finished a second, over the last seconds, and `share` what part they were of all
    that finished; `left` the seconds until the end at that rate, None without `total`. `limit` is how many may be in
    flight now. `braked` says that the vendor seems to be down and is only being tried. `elapsed` is in seconds.
    `parked` are those of the waiting that do so for minutes, None if there are none.
    """

    total: int | None
    read: int
    waiting: int
    in_flight: int
    ok: int
    failed: int
    from_ledger: int
    rate: float
    share: float
    left: float | None
    limit: float
    braked: bool
    elapsed: float
    tally: Tally
    parked: Parked | None = None

    @property
    def done(self) -> int:
        """Calls that have their outcome."""
        return self.ok + self.failed

    def time_for(self, calls: float) -> float | None:
        """The seconds that so many more calls take, if they are like the last; None if nobody knows."""
        return calls * self.share / self.rate if self.rate and self.share else None


class Outlet(Generic[R]):
    """Takes each call's outcome once, and gives them to the consumer: as they come, or in the input's order.

    `hook` is told of each. `complete` is set when every item that was read has its outcome, and no more will be read.
    """

    def __init__(self, *, ordered: bool, hook: Callable[[Any], object] | None) -> None:
        self.ok = self.failed = self.from_ledger = 0
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

    def put(self, outcome: Answered[R] | Failed, *, from_ledger: bool = False, aside: bool = False) -> None:
        """A call is over, `from_ledger` or not. `aside`: its outcome is not for the loop, only for `left`."""
        if self._hook is not None:
            call_hook("on_outcome", self._hook, outcome)
        if outcome.error is None:
            self.ok += 1
            self.from_ledger += from_ledger
        else:
            self.failed += 1
        self.pace.count(clock.now(), bool(outcome.attempts))
        if aside:
            self._aside.append(outcome)
        if self._ordered:
            self._ahead[outcome.index] = None if aside else outcome
            self._let_out()
        elif not aside:
            self._ready.append(outcome)
        self._news.set()
        if self.ok + self.failed == self._expected:
            self.complete.set()

    def expect(self, count: int) -> None:
        """`count` outcomes will come in all."""
        self._expected = count
        if self.done == count:
            self.complete.set()

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
        while (outcome := self.take_at_once()) is None:
            if self.is_over:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return outcome

    def take_at_once(self) -> Answered[R] | Failed | None:
        """The next outcome, if it is there already."""
        return self._ready.popleft() if self._ready else None

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


class Pace:
    """How many calls were sent and finished a second, over the last few seconds; and for how long it has been going.

    What comes from a ledger, or fails before it is sent, takes no time, and says nothing of how fast the others go.
    """

    __slots__ = ("_clock", "_counts", "_ended", "_first", "_started")

    _SECONDS = 5

    def __init__(self) -> None:
        self._counts: deque[list[int]] = deque(maxlen=self._SECONDS + 1)  # second, sent, all
        self._first: float | None = None
        self._started: float | None = None
        self._ended: float | None = None

    def start(self, now: float, clock: Callable[[], float]) -> None:
        """The batch starts now. `clock` is asked of who looks, from any thread."""
        self._started = now
        self._clock = clock

    def end(self, now: float) -> None:
        """The batch is over now."""
        self._ended = now

    def count(self, now: float, sent: bool = True) -> None:
        """One more, now; `sent`, or not."""
        if self._first is None and sent:
            self._first = now
        counts = self._counts[-1] if self._counts else None
        if counts is not None and counts[0] <= now < counts[0] + 1:
            counts[1] += sent
            counts[2] += 1
        else:
            self._counts.append([int(now), int(sent), 1])

    def look(self) -> tuple[float, float, float]:
        """How many were sent a second, what part of all that was, and the seconds since the start.

        After the end, as it was then.
        """
        if self._started is None:
            return 0.0, 0.0, 0.0
        at = self._clock() if self._ended is None else self._ended
        counted = [
            counts for counts in tuple(self._counts) if counts[0] > at - self._SECONDS - 1
        ]  # at once: see `_clock`
        return self._per_second(at, counted), _share(counted), at - self._started

    def _per_second(self, now: float, counted: list[list[int]]) -> float:
        sent = [(second, count) for second, count, _ in counted if count]
        if self._first is None or not sent:
            return 0.0
        since = max(self._first, sent[0][0])
        return sum(count for _, count in sent) / max(now - since, 1.0)


def _share(counted: list[list[int]]) -> float:
    """What part was sent of what finished: that of the middle one of the seconds, however many finished in each.

    A ledger answers very many in its first seconds: over all together, its share would be believed too long.
    """
    return median(sent / finished for _, sent, finished in counted) if counted else 0.0
