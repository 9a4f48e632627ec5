"""The one clock. Every wait of ours goes through here, on the running loop's own time.

A test that runs on a loop with virtual time therefore runs hours of waiting in milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol
from weakref import WeakSet


def now() -> float:
    """Seconds on the running loop's monotonic clock."""
    return asyncio.get_running_loop().time()


def today() -> datetime:
    """The wall clock, in UTC: for records, never for measuring."""
    return datetime.now(UTC)


def continuous() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where it has one: for what others count, too."""
    return time.monotonic() if _CONTINUOUS is None else time.clock_gettime(_CONTINUOUS)


# Linux has one beside the monotonic clock; that of macOS is this one, though Python's own is another; on Windows,
# Python's own goes on.
_CONTINUOUS: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


async def sleep(seconds: float) -> None:
    """Wait `seconds` on the running loop's clock."""
    await asyncio.sleep(seconds)


class Worker(Protocol):
    """Something that works for an event loop in a thread or a process of its own."""

    def is_awaited(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether `loop` waits for it now."""


elsewhere: WeakSet[Worker] = WeakSet()
"""All such workers: a clock that skips waits stands while one of them is awaited. Executors need not be here."""


def workers() -> list[Worker]:
    """Those that are `elsewhere` now. Loops in other threads may add theirs meanwhile."""
    while True:
        try:
            return list(elsewhere)
        except RuntimeError:  # one was added: they are looked at anew
            continue
