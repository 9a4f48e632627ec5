"""How many at once, how fast, how often again: each limit is one small class, and none of them waits.

They are asked before an attempt and told after it; the batch does the waiting. All times are seconds on the
loop's clock, given by the caller.

Sources of the constants: windowed AIMD with "no growth while the limit is not used" from Netflix's
concurrency-limits (AIMDLimit, Gradient2Limit); the cubic way back after a cut from botocore's adaptive retry mode
(`standard`/`adaptive` retries, after TCP CUBIC, RFC 9438); the retry budget of a ratio plus a floor from Finagle's
RetryBudget (20 %, 10 a second).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from aisolution_async.errors import ConfigurationError


class Signal(Enum):
    """What an attempt says of the vendor's health."""

    ANSWERED = "answered"
    """The vendor did its work, whatever came of it."""
    OVERLOADED = "overloaded"
    """The vendor, or what is before it, asks for less: RETRY_LATER, HTTP 429 or 503, a timeout."""
    BROKEN = "broken"
    """No connection, a reset, an answer that is none: says nothing of load, but something of being there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """A concurrency that finds its own height between `min` and `max`, for each endpoint by itself.

    It starts at `min` and doubles with every round of answers until the vendor first says it is too much
    (RETRY_LATER, HTTP 429 or 503, a timeout; latency says nothing). Then it is cut, at most once a round,
    and climbs back along a cubic curve: quickly to just under where it was too much, slowly past it, then
    faster again. It does not climb while it is not used up. A rejected attempt keeps its place for as long
    as an answer would have taken, so that fast rejections do not turn into more attempts. Below one at a
    time it spaces attempts out.
    """

    min: int = 1
    max: int = 1000

    def __post_init__(self) -> None:
        for value in (self.min, self.max):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigurationError("Adaptive(min=…, max=…) must be whole numbers")
        if not 1 <= self.min <= self.max:
            raise ConfigurationError("Adaptive(min=…, max=…) must be 1 or more, and min no more than max")


# A first rejection costs a tenth (Netflix's AIMD: 0.9); rejections in the next rounds too, more each time.
_CUTS = (0.9, 0.7, 0.5)
# The way back: limit x (1 + _CUBIC (t - k)^3), t in seconds since the cut, where k is when it is back.
_CUBIC = 0.05
_LOWEST = 0.005  # of one at a time
_SHORTEST_ROUND = 0.001


class AdaptiveLimit:
    """The state of an `Adaptive` for one endpoint."""

    __slots__ = ("_cut_at", "_cuts", "_height", "_lately", "_latency", "_max", "_next_start", "_searching", "limit")

    def __init__(self, config: Adaptive, now: float) -> None:
        self.limit = float(config.min)
        """How many at once; below 1, what part of the time."""
        self._max = float(config.max)
        self._latency: float | None = None  # of answers, smoothed
        self._searching = True  # nothing was too much yet
        self._height = self.limit  # where it was too much
        self._cut_at = now
        self._cuts = 0  # in rounds one after the other
        self._next_start = now
        self._lately = now  # when the last rejected attempt that counted was started

    @property
    def round(self) -> float:
        """Seconds that an answer takes."""
        return max(self._latency or 0.0, _SHORTEST_ROUND)

    def wait(self, in_flight: int, now: float) -> float:
        """Seconds until another attempt may start, as far as time decides it; inf while places are taken."""
        if in_flight >= max(1.0, self.limit):
            return math.inf
        return max(0.0, self._next_start - now)

    def start(self, now: float) -> None:
        """An attempt starts."""
        if self.limit < 1:
            self._next_start = max(self._next_start, now - self.round) + self.round / self.limit

    def end(self, signal: Signal, started: float, in_flight: int, now: float) -> float:
        """An attempt ended. Returns the seconds for which it keeps its place all the same."""
        if signal is Signal.OVERLOADED:
            if started >= self._cut_at:
                self._cut(now)
            return max(0.0, started + self.round - now)
        if signal is Signal.ANSWERED:
            took = now - started
            self._latency = took if self._latency is None else self._latency + 0.1 * (took - self._latency)
            if in_flight + 1 >= 0.8 * self.limit:
                self._grow(now)
        return 0.0

    def _cut(self, now: float) -> None:
        in_a_row = now - self._cut_at < 4 * self.round and not self._searching
        self._cuts = min(self._cuts + 1, len(_CUTS) - 1) if in_a_row else 0
        self._searching = False
        self._height = self.limit
        self.limit = max(_LOWEST, self.limit * _CUTS[self._cuts])
        self._cut_at = now

    def _grow(self, now: float) -> None:
        if self._searching:
            self.limit = min(self._max, self.limit + 1.0)
            return
        back = ((1 - _CUTS[self._cuts]) / _CUBIC) ** (1 / 3)
        goal = self._height * (1 + _CUBIC * (now - self._cut_at - back) ** 3)
        # Never more than doubled in a round, however long nothing was sent.
        self.limit = min(self._max, max(self.limit, min(goal, self.limit * (1 + 1 / max(1.0, self.limit)))))


class Rate:
    """So many attempts a second, evenly spaced, without a burst at the start or after a rest."""

    __slots__ = ("_next", "_space")

    # A loop wakes up late by a little; without catching up that much the rate would never be reached.
    _CATCH_UP = 0.02

    def __init__(self, per_second: float) -> None:
        if isinstance(per_second, bool) or not isinstance(per_second, int | float) or not 0 < per_second < math.inf:
            raise ConfigurationError("rate must be a number of calls a second, above 0")
        self._space = 1.0 / per_second
        self._next = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next attempt may start."""
        return max(0.0, self._next - now)

    def start(self, now: float) -> None:
        """An attempt starts, or will at `now`."""
        self._next = (
            max(self._next, now - self._CATCH_UP) + self._space if self._next > -math.inf else now + self._space
        )


class RetryBudget:
    """Repeats may be a fifth of first attempts, and ten a second besides: what is over that waits."""

    __slots__ = ("_at", "_tokens")

    _RATIO = 0.2
    _PER_SECOND = 10.0
    _MOST = 100.0

    def __init__(self, now: float) -> None:
        self._tokens = self._PER_SECOND
        self._at = now

    def first(self) -> None:
        """A first attempt was made."""
        self._tokens = min(self._MOST, self._tokens + self._RATIO)

    def wait(self, now: float) -> float:
        """Seconds until another repeat may be made."""
        self._tokens = min(self._MOST, self._tokens + (now - self._at) * self._PER_SECOND)
        self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._PER_SECOND

    def repeat(self) -> None:
        """A repeat is made."""
        self._tokens -= 1


class Brake:
    """Stops everything when the vendor is down, and tries single calls until one is answered.

    It goes on after `_AFTER` attempts in a row without an answer. Then one call at a time is tried, the first
    after `_FIRST` seconds, each next one after half as long again, `_LONGEST` at most. One answer takes it off.
    """

    __slots__ = ("_failed", "_pause", "next_try", "on")

    _AFTER = 20
    _FIRST = 0.5
    _LONGEST = 5.0

    def __init__(self) -> None:
        self.on = False
        self.next_try = 0.0
        self._failed = 0
        self._pause = self._FIRST

    def end(self, signal: Signal, now: float, *, trial: bool) -> None:
        """An attempt ended; `trial` if it was sent while the brake was on."""
        if signal is Signal.ANSWERED:
            self.on = False
            self._failed = 0
            self._pause = self._FIRST
        elif self.on:
            if trial:
                self._pause = min(self._LONGEST, self._pause * 1.5)
                self.next_try = now + self._pause
        else:
            self._failed += 1
            if self._failed >= self._AFTER:
                self.on = True
                self.next_try = now + self._pause


class Gate:
    """The client's places for attempts at once, shared by single calls and batches.

    A single call that waits gets the next free place; batches get what is left, each in its turn. None for no
    bound.
    """

    __slots__ = ("_batches", "_free", "_singles")

    def __init__(self, places: int | None) -> None:
        self._free: float = math.inf if places is None else places
        self._singles: deque[asyncio.Future[None]] = deque()
        self._batches: deque[Callable[[], None]] = deque()

    def try_enter(self) -> bool:
        """Take a place if one is free now."""
        if self._free < 1:
            return False
        self._free -= 1
        return True

    def call_when_free(self, batch: Callable[[], None]) -> None:
        """Call `batch` once, as soon as a place is free for batches; nothing is taken for it."""
        if batch not in self._batches:
            self._batches.append(batch)

    async def enter(self) -> None:
        """Wait for a place and take it, in the order of asking."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._singles.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.leave()  # the place was given in the same moment
            else:
                self._singles.remove(waiter)
            raise

    def leave(self) -> None:
        """Give a place back."""
        while self._singles:
            waiter = self._singles.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
        if self._batches:
            self._batches.popleft()()
