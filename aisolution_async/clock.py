"""The one clock. Every wait of ours goes through here, on the running loop's own time.

A test that runs on a loop with virtual time therefore runs hours of waiting in milliseconds.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol
from weakref import WeakSet


def now() -> float:
    """Seconds on the running loop's monotonic clock."""
    return asyncio.get_running_loop().time()


def today() -> datetime:
    """The wall clock, in UTC: for records, never for measuring."""
    return datetime.now(UTC)


async def sleep(seconds: float) -> None:
    """Wait `seconds` on the running loop's clock."""
    await asyncio.sleep(seconds)


class Worker(Protocol):
    """Something that works for an event loop in a thread or a process of its own."""

    def is_awaited(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether `loop` waits for it now."""


elsewhere: WeakSet[Worker] = WeakSet()
"""All such workers: a clock that skips waits stands while one of them is awaited. Executors need not be here."""
