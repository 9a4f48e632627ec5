"""What may go now: asked of every limit in one place. None of them waits; one alarm says when to look again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable

from aisolution_async import clock
from aisolution_async.batching.task import Task
from aisolution_async.ledger.store import WHOLE, Share
from aisolution_async.limits import Adaptive, AdaptiveLimit, Brake, Rate, RetryBudget, Signal
from aisolution_async.sending.shared import Shared
from aisolution_async.values import value_class

# Seconds under which a timer is not worth setting: the limits catch up by more.
_SHORTEST_WAIT = 0.001

_ANSWERED = Signal.ANSWERED  # looked up for every attempt: an Enum takes its time

_log = logging.getLogger(__name__)


@value_class
class Turn:
    """A call may go, and has its place until `Lineup.leave`."""

    task: Task
    lane: Lane
    is_repeat: bool
    """Whether it is another attempt at the same question, which the budget counts."""
    trial: bool
    """Whether it only tries whether the vendor is there again."""
    started: float


class Lane:
    """The calls to one endpoint that are ready to go."""

    __slots__ = ("fresh", "limit", "places", "repeats")

    def __init__(self, limit: AdaptiveLimit | None) -> None:
        self.fresh: deque[Task] = deque()
        self.repeats: deque[Task] = deque()
        self.places = 0
        self.limit = limit


class Lineup:
    """The calls that are ready, by endpoint, and the limits that let them go.

    `share` is what part of the rates is for this process. `wake` is called when one may go that could not before: the
    alarm rang, or the client has a free place. `despair` is called when the brake was on for `give_up` seconds.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        concurrency: int,
        adaptive: Adaptive | None,
        rate: float | None,
        share: Share = WHOLE,
        give_up: float = math.inf,
        wake: Callable[[], None],
        despair: Callable[[], None],
    ) -> None:
        self.ready = 0
        """Calls in the lanes."""
        self.places = 0
        """Places that are taken: attempts under way."""
        self._shared = shared
        self.concurrency = concurrency
        """The most places."""
        self._adaptive = adaptive
        clients = shared.rate
        own = None if rate is None else Rate(rate, share)
        # The client's own ledger, if it has one, is not what divides its rate here.
        divided = clients is not None and share is not WHOLE and share is not clients.share
        here = Rate(clients.per_second, share) if clients is not None and divided else None
        self._rates = tuple(each for each in (own, clients, here) if each is not None)
        self._wake = wake
        self._lanes: dict[str, Lane] = {}
        self._turns: deque[Lane] = deque()
        self._brake = Brake()
        self._budget: RetryBudget
        self._alarm = _Alarm(wake)
        self._patience = _Patience(give_up, self._is_trying, despair)

    @property
    def limit(self) -> float:
        """How many attempts may be in flight now. May be asked from any thread."""
        lanes = tuple(self._lanes.values())  # at once: the loop may go on meanwhile
        limits = [lane.limit.limit for lane in lanes if lane.limit is not None]
        return min(sum(limits) or self.concurrency, self.concurrency, self._shared.gate.places or math.inf)

    @property
    def braked(self) -> bool:
        """Whether it takes the vendor to be down, and only tries. May be asked from any thread."""
        return self._brake.on

    def start(self, now: float) -> None:
        """Calls may go from now on."""
        self._budget = RetryBudget(now)

    def add(self, task: Task, *, repeat: bool = False) -> None:
        """The call is ready to go."""
        lane = self._lanes.get(task.call.endpoint.name)
        if lane is None:
            limit = None if self._adaptive is None else AdaptiveLimit(self._adaptive, clock.now())
            lane = self._lanes[task.call.endpoint.name] = Lane(limit)
            self._turns.append(lane)
        (lane.repeats if repeat else lane.fresh).append(task)
        self.ready += 1

    def pick(self) -> Turn | None:
        """A call that may go now, with its place taken. None if none may: `wake` is called when that changes."""
        if self.places >= self.concurrency or not self.ready:
            return None
        now = clock.now()
        is_free = not self._rates and not self._brake.on and self._shared.paused_until <= now  # as it mostly is
        wait = 0.0 if is_free else self._wait_for_all(now)
        if wait <= 0:
            for _ in range(len(self._turns)):
                self._turns.rotate(-1)  # each endpoint in its turn
                lane = self._turns[0]
                if not lane.fresh and not lane.repeats:
                    continue
                picked = self._pick_from(lane, now)
                if not isinstance(picked, float):
                    return picked
                wait = picked if wait <= 0 else min(wait, picked)
        if 0 < wait < math.inf:
            self._alarm.set(wait, now)
        return None

    def leave(self, turn: Turn, signal: Signal | None, sent: bool) -> None:
        """The attempt is over: give back what it held, and tell the limits how it went.

        `sent`: whether anything was. If not, somebody else had asked, or it could not be: the turn is the next one's.
        """
        limit = turn.lane.limit
        if signal is not None:
            if signal is not _ANSWERED or limit is not None or not self._brake.is_at_rest:
                now = clock.now()
                self._tell_brake(turn, signal, now)
                if limit is not None and not turn.trial:
                    limit.end(signal, turn.started, now)
            if turn.is_repeat and signal is _ANSWERED:
                self._budget.earn()
        elif not sent:
            for each in self._rates:
                each.take_back()
            if limit is not None:
                limit.take_back()
            if turn.is_repeat:
                self._budget.earn()
        self.places -= 1
        turn.lane.places -= 1
        self._shared.gate.leave()

    def stop(self) -> list[Task]:
        """Nothing more goes. Returns the calls that were ready."""
        self._alarm.cancel()
        self._patience.end()
        self._shared.gate.forget(self._wake)
        ready: list[Task] = []
        for lane in self._lanes.values():
            for queue in (lane.fresh, lane.repeats):
                ready.extend(queue)
                queue.clear()
        self.ready = 0
        return ready

    def _wait_for_all(self, now: float) -> float:
        """Seconds during which no call may start; inf if a running attempt's end will look again."""
        wait = self._shared.paused_until - now
        if self._brake.on:
            if self.places:
                return math.inf
            wait = max(wait, self._brake.next_try - now)
        for rate in self._rates:
            wait = max(wait, rate.wait(now))
        return wait

    def _pick_from(self, lane: Lane, now: float) -> Turn | float:
        """A call of the lane, else the seconds until one may go; inf if something else will look again."""
        wait, is_repeat, queue = 0.0, False, lane.fresh
        if lane.limit is not None:
            wait = lane.limit.wait(lane.places, now)
            if wait > 0:
                return wait
        if lane.repeats:
            wait = self._budget.wait(now)
            if wait <= 0:
                is_repeat, queue = True, lane.repeats
        if not queue:
            return wait if wait > 0 else math.inf
        if not self._shared.gate.try_enter():
            self._shared.gate.call_when_free(self._wake)
            return math.inf
        if is_repeat:
            self._budget.repeat()
        else:
            self._budget.first()
        for rate in self._rates:
            rate.start(now)
        if lane.limit is not None:
            lane.limit.start(now)
        self.ready -= 1
        self.places += 1
        lane.places += 1
        return Turn(queue.popleft(), lane, is_repeat, self._brake.on, now)

    def _is_trying(self) -> tuple[bool, float]:
        """Whether a call is tried now, or is to be next; and until when the vendor asks to wait."""
        return bool(self.ready or self.places), self._shared.paused_until

    def _tell_brake(self, turn: Turn, signal: Signal, now: float) -> None:
        brake = self._brake
        before = brake.on
        brake.end(signal, now, trial=turn.trial)
        if brake.on is before:
            self._patience.was_in_vain(now)
            return
        told = {"endpoint": turn.task.call.endpoint.name, "braked": brake.on}
        if brake.on:
            self._patience.begin(now)
            _log.warning("the vendor seems to be down: only single calls are tried until one is answered", extra=told)
        else:
            self._patience.end()
            _log.info("the vendor answers again", extra=told)


class _Patience:
    """For how long a vendor that is down is tried: `seconds`, and then `despair` is called.

    The time while the vendor asks to wait does not count. Where all that is left waits for something else, as the time
    is over, it has one more try. `is_trying` as in `Lineup`.
    """

    __slots__ = ("_alarm", "_began", "_despair", "_is_due", "_is_trying", "_seconds")

    def __init__(
        self, seconds: float, is_trying: Callable[[], tuple[bool, float]], despair: Callable[[], None]
    ) -> None:
        self._seconds = seconds
        self._is_trying = is_trying
        self._despair = despair
        self._alarm = _Alarm(self._look)
        self._began = 0.0
        self._is_due = False

    def begin(self, now: float) -> None:
        """The vendor is down."""
        self._began = now
        if self._seconds < math.inf:
            self._alarm.set(self._seconds, now)

    def end(self) -> None:
        """The vendor answers again, or nothing more is sent."""
        self._alarm.cancel()
        self._is_due = False

    def was_in_vain(self, now: float) -> None:
        """A call was tried, and the vendor is as it was."""
        if self._is_due:
            self._alarm.set(0.0, now)

    def _look(self) -> None:
        now = clock.now()
        is_trying, paused_until = self._is_trying()
        wait = max(self._began, paused_until) + self._seconds - now
        if wait > _SHORTEST_WAIT:
            self._alarm.set(wait, now)
        elif is_trying or self._is_due:
            self._despair()
        else:
            self._is_due = True


class _Alarm:
    """One timer, for the earliest of the times that it was set to."""

    __slots__ = ("_at", "_ring", "_timer")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, wait: float, now: float) -> None:
        """Ring after `wait` seconds at the latest."""
        at = now + max(wait, _SHORTEST_WAIT)
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = asyncio.get_running_loop().call_later(at - now, self._go_off)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_off(self) -> None:
        self._timer = None  # it may ring a little early, and must then be set again
        self._ring()
