"""The input → calls, one after the other, while there is room for them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio

from aisolution_async import clock
from aisolution_async.api import CALLS, Call
from aisolution_async.checks import kind_of
from aisolution_async.errors import AISolutionError, InputError
from aisolution_async.outcome import Failed

Item = Call[Any] | AISolutionError

WINDOW = 64
"""Calls that may be read ahead of, or finished and not yet taken behind, those being worked on."""

MOST_PARKED = 10_000
"""Calls that wait, for minutes, for a callback or to be asked again: so many of them do not count as read ahead."""

STRETCH = 16
"""Calls that are read before others on the loop get their turn: so few that they are in the processor's caches still
when they are sent."""

STRETCH_FOR_LEDGER = 32
"""The same where a ledger records them: it writes in one group what is asked in one turn."""

# Where the input takes its time, others get their turn after every few calls, if so many seconds have passed.
_FEW = 8
_LONGEST_STRETCH = 0.0005


class Intake:
    """Reads the input only while fewer than `ahead` items are between it and the consumer, whatever their state.

    The memory is bounded so. `is_busy` says whether an attempt is under way: where none is, one free place is enough
    to read on; else the reader is woken when half a `stretch` may be read. An input that has to be closed has
    `close_within` seconds for it.
    """

    def __init__(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        ahead: int,
        stretch: int,
        close_within: float,
        is_busy: Callable[[], bool],
    ) -> None:
        self.read = 0
        """Items read so far."""
        self._items = items
        self._ahead = ahead
        self._stretch = stretch
        self._close_within = close_within
        self._is_busy = is_busy
        self._taken = 0
        self._parked = 0
        self._stopped = False
        self._waits = False  # for room
        self._room = asyncio.Event()  # enough outcomes were taken, or nothing more is to be read
        self._scope = anyio.CancelScope()

    async def run(self, take: Callable[[int, Item], None]) -> BaseException | None:
        """Give each item to `take`, until the input ends or `stop`. Returns what the input raised, if it did."""
        try:
            with self._scope:
                if isinstance(self._items, AsyncIterable):
                    await self._read_async(aiter(self._items), take)
                else:
                    await self._read_sync(iter(self._items), take)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopped or (task is not None and task.cancelling()):
                raise
            # Not meant for us: something within the input was cancelled. What is under way must not suffer for it.
            return RuntimeError("something that the batch's input waited for was cancelled")
        except StopAsyncIteration:
            return RuntimeError("the batch's input raised StopAsyncIteration")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # it is the input's own, and raised to whoever reads the outcomes
            return exc
        return None

    def taken(self) -> None:
        """The consumer took an outcome."""
        self._taken += 1
        if self._waits:
            self._let_read()

    def allow(self, parked: int) -> None:
        """`parked` of the calls that were read wait for minutes."""
        self._parked = min(parked, MOST_PARKED)
        self._let_read()

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped = True
        self._room.set()
        self._scope.cancel()

    async def _read_async(self, items: AsyncIterator[Item], take: Callable[[int, Item], None]) -> None:
        try:
            while not self._is_full or await self._has_room():
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                self._hand_on(item, take)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                # It is the user's code, and may take for ever.
                with anyio.move_on_after(self._close_within, shield=True):
                    await close()

    async def _read_sync(self, items: Iterator[Item], take: Callable[[int, Item], None]) -> None:
        since = clock.now()
        try:
            while not self._is_full or await self._has_room():
                try:
                    item = next(items)
                except StopIteration:
                    return
                self._hand_on(item, take)
                if self.read % _FEW == 0 and (self.read % self._stretch == 0 or clock.now() - since > _LONGEST_STRETCH):
                    await asyncio.sleep(0)
                    since = clock.now()
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _hand_on(self, item: Item, take: Callable[[int, Item], None]) -> None:
        index = self.read
        self.read += 1
        take(index, item)

    @property
    def _is_full(self) -> bool:
        """Whether no item may be read now."""
        return self._stopped or self.read - self._taken - self._parked >= self._ahead

    async def _has_room(self) -> bool:
        """Wait until another item may be read; False if none is to be read any more."""
        if self._is_full:
            self._waits = True
            while not self._stopped and not self._is_worth_reading():
                self._room.clear()
                await self._room.wait()
            self._waits = False
        return not self._stopped

    def _let_read(self) -> None:
        if not self._room.is_set() and self._is_worth_reading():
            self._room.set()

    def _is_worth_reading(self) -> bool:
        free = self._ahead - self.read + self._taken + self._parked
        return free >= self._stretch // 2 or (free > 0 and not self._is_busy())


_CALLS_BY_METHOD = {call.endpoint.command.replace("-", "_"): call.__name__ for call in CALLS}


def call_of(index: int, item: object) -> Call[Any] | Failed:
    """The call that an item of the input is, else its outcome."""
    if isinstance(item, Call):
        return item
    if isinstance(item, AISolutionError):
        return Failed(index, item.key, None, None, item, item.attempts)
    what = f"item {index} of the input is {kind_of(item)} and no call: {call_instead(item)}"
    return Failed(index, None, None, None, InputError(what), ())


def call_instead(item: object) -> str:
    """What to pass in place of what is no call. A coroutine that nobody has awaited is closed."""
    if inspect.isawaitable(item):
        close_unused(item)
        named = _CALLS_BY_METHOD.get(getattr(item, "__name__", ""))
        return f"pass the call, do not call the method: {named or 'FaceCompare'}(…)"
    if isinstance(item, type) and issubclass(item, Call):
        return f"pass an object of it, {item.__name__}(…)"
    return "pass FaceCompare(…), WhatsAppDetail(…) or the like"


def close_unused(item: object) -> None:
    """Close a coroutine that nobody has awaited: else Python warns, where nobody sees why. One that runs is let run."""
    if inspect.iscoroutine(item) and inspect.getcoroutinestate(item) == inspect.CORO_CREATED:
        item.close()
