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
import contextlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from aisolution_async.charges import Charge
from aisolution_async.checks import is_number, is_whole
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.store import WHOLE, Share
from aisolution_async.spending import Spending


class Signal(Enum):
    """What an attempt says of the vendor's health."""

    ANSWERED = "answered"
    """The vendor did its work, whatever came of it."""
    OVERLOADED = "overloaded"
    """The vendor, or what is before it, asks for less: RETRY_LATER, HTTP 429 or 503, a timeout."""
    BROKEN = "broken"
    """No connection, a reset, an answer that is none: says nothing of load, but something of being there."""


_ANSWERED = Signal.ANSWERED  # looked up for every attempt: an Enum takes its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """A concurrency that finds its own height between `min` and `max`, for each endpoint by itself.

    It starts at `min` and doubles with every round of answers ("slow start") until the vendor first says that
    it is too much (RETRY_LATER, HTTP 429 or 503, a timeout; latency says nothing). From then on attempts are
    spaced evenly. Each further "too much" cuts the pace to nine tenths of what was answered over the last
    second, at most once a round; between cuts it climbs along a cubic curve: quickly to just under where it was
    too much, slowly past it, then faster again. It does not climb while it is not used up, and a rejection,
    however fast, makes no room for another attempt.
    """

    min: int = 1
    max: int = 1000

    def __post_init__(self) -> None:
        if not (is_whole(self.min) and is_whole(self.max)):
            raise ConfigurationError("Adaptive(min=…, max=…) must be whole numbers")
        if not 1 <= self.min <= self.max:
            raise ConfigurationError("Adaptive(min=…, max=…) must be 1 or more, and min no more than max")


class AdaptiveLimit:
    """The state of an `Adaptive` for one endpoint.

    Two phases: searching, with a number of places; then pacing, in attempts a second. A pace, and not places,
    since what is rejected in a millisecond would free its place for the next to be rejected; and since a vendor
    that answers in no time is too fast for even one place.
    """

    __slots__ = (
        "_answered",
        "_config",
        "_cut_at",
        "_cuts",
        "_grown_at",
        "_height",
        "_latency",
        "_next_start",
        "_pace",
        "_paced_since",
        "_places",
        "_wanted",
    )

    # A first rejection costs a tenth (Netflix's AIMD); rejections in the rounds right after it cost more.
    _CUTS = (0.9, 0.8, 0.7)
    # The way back: height x (1 + _CUBIC (t - k)^3), t in seconds since the cut, k when it is at the height again.
    _CUBIC = 0.1
    # However long nothing was sent, the pace grows by no more than itself in a second.
    _GROWTH = 1.0
    _SLOWEST = 5.0  # a second, where half of everything is rejected at any pace
    _SHORTEST_ROUND = 0.01
    _CATCH_UP = 0.002  # a loop's timers are about a millisecond late
    _SHORTEST_DOUBLING = 0.1
    _SECOND = 1.0

    def __init__(self, config: Adaptive, now: float) -> None:
        self._config = config
        self._places = float(config.min)
        self._pace: float | None = None  # attempts a second; None while searching
        self._latency = 0.0  # of answers, smoothed
        self._answered: deque[float] = deque()  # when, over the last second
        self._height = self._places  # the pace that was too much; while searching, the places of the last round
        self._cut_at = self._grown_at = self._next_start = now
        self._paced_since = now
        self._cuts = 0  # in rounds one after the other
        self._wanted = False  # somebody was held back by this limit since it last grew

    @property
    def limit(self) -> float:
        """How many at once; below 1, what part of the time."""
        return self._places if self._pace is None else min(self._config.max, self._pace * self._latency)

    @property
    def _round(self) -> float:
        """Seconds that it takes to see what came of the latest cut."""
        return 0.0 if self._pace is None else max(self._latency, 2 / self._pace, self._SHORTEST_ROUND)

    def wait(self, in_flight: int, now: float) -> float:
        """Seconds until another attempt may start; inf while places are taken."""
        if self._pace is None:
            if in_flight < self._places:
                return 0.0
            self._wanted = True
            return math.inf
        # The pace decides; the places are for a vendor that becomes slow.
        if in_flight >= min(self._config.max, max(self._config.min, 2 * self._pace * self._latency + 2)):
            return math.inf
        if now >= self._next_start:
            return 0.0
        self._wanted = True
        return self._next_start - now

    def start(self, now: float) -> None:
        """An attempt starts."""
        if self._pace is not None:
            self._next_start = max(self._next_start, now - self._CATCH_UP) + 1 / self._pace

    def take_back(self) -> None:
        """The attempt that was to start was not made."""
        if self._pace is not None:
            self._next_start -= 1 / self._pace

    def end(self, signal: Signal, started: float, now: float) -> None:
        """An attempt ended."""
        if signal is Signal.OVERLOADED:
            if started >= self._cut_at and now >= self._cut_at + self._round:
                self._cut(now)
        elif signal is Signal.ANSWERED:
            took = now - started
            self._latency = took if not self._answered else self._latency + 0.1 * (took - self._latency)
            self._answered.append(now)
            self._forget(now)
            if self._wanted:
                self._wanted = False
                self._grow(now)

    def _forget(self, now: float) -> None:
        answered = self._answered
        while answered and answered[0] <= now - self._SECOND:
            answered.popleft()

    def _cut(self, now: float) -> None:
        self._forget(now)
        pace = self._pace
        if pace is None:
            lately = max(self._latency, 0.1)
            pace = max(sum(at > now - lately for at in self._answered), 1) / lately
            self._next_start = self._paced_since = now
        if now - self._paced_since < self._SECOND:
            # Too early to know what is answered in a second.
            self._cuts = min(self._cuts + 1, len(self._CUTS) - 1) if now - self._cut_at < 3 * self._round else 0
            self._height = pace
            self._pace = pace * self._CUTS[self._cuts]
        else:
            # What was answered over a second is what the vendor can do; half of the pace at a time is enough.
            self._cuts = 0
            self._height = min(pace, max(len(self._answered) / self._SECOND, 0.5 * pace))
            self._pace = min(pace, max(self._height * self._CUTS[0], self._SLOWEST))
        if self._config.min > 1 and self._latency:
            self._pace = max(self._pace, self._config.min / self._latency)
        self._cut_at = self._grown_at = now

    def _grow(self, now: float) -> None:
        if self._pace is None:
            # One more for each answer doubles them in a round; rounds of a millisecond would overshoot by far.
            if now - self._grown_at >= max(self._latency, self._SHORTEST_DOUBLING):
                self._height, self._grown_at = self._places, now
            self._places = min(self._config.max, self._places + 1.0, max(2.0 * self._height, 2.0))
            return
        back = ((1 - self._CUTS[self._cuts]) / self._CUBIC) ** (1 / 3)
        goal = self._height * (1 + self._CUBIC * (now - self._cut_at - back) ** 3)
        most = self._pace * (1 + self._GROWTH * min(now - self._grown_at, 0.1))
        self._pace = max(self._pace, min(goal, most))
        self._grown_at = now


class Rate:
    """So many attempts a second, evenly spaced, without a burst at the start or after a rest.

    Of a rate that machines share, each has a part. It is kept by a clock that goes as fast as that part: at a half, a
    turn that is a second away takes two. So what waits already is slowed down, too, when the part becomes smaller.
    """

    __slots__ = ("_at", "_behind", "_next", "_part", "_space", "share")

    # A loop wakes up late by a little; without catching up that much the rate would never be reached.
    _CATCH_UP = 0.02
    # Seconds after which to look again whether a part has grown.
    _LOOK = 1.0

    def __init__(self, per_second: float, share: Share = WHOLE) -> None:
        if not is_number(per_second) or not 0 < per_second < math.inf:
            raise ConfigurationError("rate must be a number of calls a second, above 0")
        self._space = 1.0 / per_second
        self._next = -math.inf  # by our clock
        self.share = share
        self._part, self._at = 1.0, 0.0  # the part as it was then
        self._behind = 0.0  # seconds that our clock is behind the loop's

    @property
    def per_second(self) -> float:
        """How many a second, by all who share it."""
        return 1.0 / self._space

    def wait(self, now: float) -> float:
        """Seconds until the next attempt may start, or until that is worth another look."""
        left = self.until(self._next, now)
        return left if self._part == 1.0 else min(left, self._LOOK)

    def until(self, turn: float, now: float) -> float:
        """Seconds until `turn`, as far as anybody can tell: while there is no part, until another look."""
        left = turn - self._clock(now)
        if self._part <= 0.0:
            return self._LOOK
        return max(0.0, left / self._part)

    def take_turn(self, now: float) -> float:
        """Take the turn of the next attempt. Returns when it is, for `until`."""
        turn = max(self._next, self._clock(now))
        self.start(now)
        return turn

    def take_back(self) -> None:
        """The attempt that was to start was not made."""
        self._next -= self._space

    def start(self, now: float) -> None:
        """An attempt starts, or has taken its turn."""
        now = self._clock(now)
        self._next = (
            max(self._next, now - self._CATCH_UP) + self._space if self._next > -math.inf else now + self._space
        )

    def _clock(self, now: float) -> float:
        part = self.share.part  # once: another thread sets it
        if part != 1.0 or self._part != 1.0:
            # Whenever it changed meanwhile, the smaller part counts for all of that time.
            self._behind += (now - self._at) * (1.0 - min(part, self._part))
            self._part = part
        self._at = now
        return now - self._behind


class RetryBudget:
    """Repeats may be a fifth of first attempts, and ten a second besides: what is over that waits.

    A repeat that is answered was worth it, and pays for the next one.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._tokens = _PER_SECOND
        self._at = now

    def first(self) -> None:
        """A first attempt was made."""
        self._tokens = min(_MOST, self._tokens + _RATIO)

    def wait(self, now: float) -> float:
        """Seconds until another repeat may be made."""
        self._tokens = min(_MOST, self._tokens + (now - self._at) * _PER_SECOND)
        self._at = now
        return max(0.0, 1 - self._tokens) / _PER_SECOND

    def repeat(self) -> None:
        """A repeat is made."""
        self._tokens -= 1

    def earn(self) -> None:
        """A repeat was answered, or was not made after all."""
        self._tokens = min(_MOST, self._tokens + 1)


_RATIO, _PER_SECOND, _MOST = 0.2, 10.0, 100.0  # of a `RetryBudget`


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

    @property
    def is_at_rest(self) -> bool:
        """Whether the last attempt was answered, and another answer changes nothing."""
        return not (self.on or self._failed)

    def end(self, signal: Signal, now: float, *, trial: bool) -> None:
        """An attempt ended; `trial` if it was sent while the brake was on."""
        if signal is _ANSWERED:
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

    __slots__ = ("_batches", "_free", "_singles", "places")

    def __init__(self, places: int | None) -> None:
        self.places = places
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
                with contextlib.suppress(ValueError):  # whoever gave a place back may have passed it over already
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
        if not self._batches:
            return
        # A batch may have no use for it just now; then it is the next one's turn.
        for _ in range(len(self._batches)):
            if self._free < 1 or not self._batches:
                break
            self._batches.popleft()()

    def forget(self, batch: Callable[[], None]) -> None:
        """`batch` is over, and not to be called."""
        with contextlib.suppress(ValueError):
            self._batches.remove(batch)


class Budget:
    """A spend limit in memory: `charged + unknown + reserved` attempts never exceed it, nor does their cost."""

    def __init__(self, spending: Spending) -> None:
        self._max_charges = spending.max_charges
        self._max_cost = spending.max_cost
        self._prices = spending.prices
        self._charges = 0
        self._cost = Decimal(0)

    def reserve(self, endpoint: str) -> str:
        """Set one charge aside. Returns why not, or nothing."""
        if self._max_charges is not None and self._charges >= self._max_charges:
            return f"all {self._max_charges} charges of max_charges are spent, unknown or under way"
        if self._max_cost is not None:
            if self._prices.missing([endpoint]):
                return f"there is no price of {endpoint} in prices, and max_cost is set: add it"
            price = self._prices.of(endpoint)
            if self._cost + price > self._max_cost:
                return f"max_cost of {self._max_cost} is spent, unknown or under way"
            self._cost += price
        self._charges += 1
        return ""

    def add(self, endpoint: str) -> None:
        """Count a charge that nothing was set aside for."""
        self._charges += 1
        if self._max_cost is not None:
            self._cost += self._prices.cost({endpoint: 1})

    def settle(self, endpoint: str, charge: Charge) -> None:
        """The attempt is over; what was free goes back."""
        if charge is Charge.FREE:
            self._charges -= 1
            if self._max_cost is not None:
                self._cost -= self._prices.of(endpoint)
