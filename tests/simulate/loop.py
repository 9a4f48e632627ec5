"""The loop of a simulation: virtual time, of which a little passes with every turn, and sets in one order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any


class Task(asyncio.Task[Any]):
    """A task whose hash is its number: sets of tasks, which anyio cancels in their order, have the same one each time.

    One that is left where its process crashed says nothing.
    """

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], loop: Any, context: Context | None) -> None:
        self._number = number
        super().__init__(coro, loop=loop, context=context)

    def __hash__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return f"task {self._number}"  # the usual one looks at stacks, and anyio asks for it at each cancellation


class SimulatedLoop(asyncio.BaseEventLoop):
    """What a loop is, without anything outside: no sockets, no threads, and no waiting.

    Time passes with every turn: what tries again and again without waiting does not keep the clock from going on.
    Where there is nothing to do, it is at once when the next thing is due.
    """

    turn = 0.0001

    _ready: deque[Any]
    _scheduled: list[Any]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._tasks: list[Task] = []
        self.connect: Callable[..., Awaitable[Any]]
        numbers = itertools.count(1)

        def make(loop: Any, coro: Any, context: Context | None = None, **_: object) -> Task:
            task = Task(next(numbers), coro, loop, context)
            self._tasks.append(task)
            return task

        self.set_task_factory(make)
        self.problems: list[str] = []
        """What no part of a program may leave behind: exceptions of callbacks, and of tasks that nobody asked."""
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now

    def tasks(self) -> list[Task]:
        """Those that are not over."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        """See asyncio: there is only what is pretended."""
        return await self.connect(*arguments, **options)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio: without its checks."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        self.problems.append(f"{context['message']}: {type(exception).__name__}: {exception}")

    def _run_once(self) -> None:
        """A turn, as asyncio's own: what is due is done after what is ready, and what that adds is for the next."""
        ready, scheduled = self._ready, self._scheduled
        self._now += self.turn
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)
        if not ready and not self._stopping:
            if not scheduled:
                raise RuntimeError("it waits for what can never come")
            self._now = max(self._now, scheduled[0]._when)
        due = self._now + 1e-9
        while scheduled and scheduled[0]._when < due:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self.call_exception_handler({"message": f"in {handle!r}", "exception": exc, "handle": handle})
