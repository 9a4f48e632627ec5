"""The loop of a simulation: virtual time, of which a little passes with every turn, and sets in one order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from aisolution_async.integrations.instant import InstantLoop


class Task(asyncio.Task[Any]):
    """A task whose hash is its number: sets of tasks, which anyio cancels in their order, have the same one each time.

    One that is left where its process crashed says nothing.
    """

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], loop: Any, context: Context | None) -> None:
        self._number = number
        super().__init__(coro, loop=loop, context=context)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(InstantLoop):
    """Time passes with every turn: what tries again and again without waiting does not keep the clock from going on."""

    turn = 0.0001

    def __init__(self) -> None:
        super().__init__()
        self._elsewhere.is_at_work = lambda: False  # type: ignore[method-assign]  # all of it is on this loop
        numbers = itertools.count(1)
        self.set_task_factory(lambda loop, coro, context=None, **_: Task(next(numbers), coro, loop, context))
        self.problems: list[str] = []
        """What no part of a program may leave behind: exceptions of callbacks, and of tasks that nobody asked."""
        self.set_exception_handler(self._note)

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        self.problems.append(f"{context['message']}: {type(exception).__name__}: {exception}")

    def _run_once(self) -> None:
        self.advance(self.turn)
        super()._run_once()  # type: ignore[misc]
