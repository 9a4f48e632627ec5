"""The sandbox's own time: it passes by itself, or only where a test says so."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count
from math import inf, isfinite


class Clock:
    """Seconds since the sandbox was started, on which all its delays run: answers, callbacks, outages, capacity.

    `advance(20)` moves it on by 20 seconds at once, and whatever is due by then happens. With `ticking=False` that is
    the only way in which time passes; otherwise it passes by itself too. Timeouts of the sandbox's own requests
    (`callback_timeout`) are in real seconds. It belongs to one sandbox and to its event loop's thread.
    """

    def __init__(self, *, ticking: bool = True) -> None:
        self._ticking = ticking
        self._loop: asyncio.AbstractEventLoop | None = None
        self._since = 0.0
        self._ahead = 0.0
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._serial = count()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin at 0, or begin again there, on the running loop: whoever waits is not woken by it."""
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._ahead = 0.0
        self._set_timer()

    def now(self) -> float:
        """Seconds since it was started; 0 before."""
        passed = self._loop.time() - self._since if self._ticking and self._loop is not None else 0.0
        return passed + self._ahead

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, waking all that is due by then, the earliest first. Raises ValueError below 0."""
        if not (seconds >= 0 and isfinite(seconds)):
            raise ValueError(f"seconds is {seconds}: the clock moves forward only")
        self._ahead += seconds
        self._wake()

    async def sleep(self, seconds: float) -> None:
        """Wait until `seconds` have passed on this clock; for ever where they are infinite."""
        await self.alarm(seconds)

    def alarm(self, seconds: float) -> asyncio.Future[None]:
        """Done when `seconds` have passed on this clock, from this moment on; never where they are infinite."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if seconds <= 0:
            woken.set_result(None)
        elif seconds != inf:
            heappush(self._waiting, (self.now() + seconds, next(self._serial), woken))
            self._set_timer()
        return woken

    def _wake(self) -> None:
        # A timer may come a hair early: the loop's clock is coarser than a float.
        now = self.now() + 1e-6
        while self._waiting and self._waiting[0][0] <= now:
            woken = heappop(self._waiting)[2]
            if not woken.done():  # else it was cancelled
                woken.set_result(None)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticking and self._waiting and self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, self._waiting[0][0] - self.now()), self._wake)
