"""Threads that do what blocks: the way there and back costs a third of what it does by anyio's or an executor's."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from aisolution_async import clock
from aisolution_async.hiding import NotPickled

T = TypeVar("T")

_PATIENCE = 10.0  # seconds that a thread waits for something to do, by the machine's clock


class Threads(NotPickled):
    """What is done in threads for one event loop: in another one whenever none is free. Who asks bounds how many.

    A thread that is stuck (on a network's disk, say) keeps nobody waiting but who awaits its result: neither other
    work, nor the end of the program. `when_idle` is called in one that has had nothing to do for long, before it ends.
    """

    def __init__(self, when_idle: Callable[[], None]) -> None:
        self._when_idle = when_idle
        self._done: deque[_Job] = deque()
        self._told = False  # the loop is to look at `_done`
        self._free: list[_Jobs] = []  # of threads that have nothing to do; who takes one out decides what it does next
        self._awaited = 0
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """What `work()` returns, called in a thread. If this is cancelled, `work` is left to itself."""
        loop = self._loop
        if loop is None:
            self._loop = loop = asyncio.get_running_loop()
            clock.elsewhere.add(self)
        jobs: _Jobs
        try:
            jobs = self._free.pop()  # in one step: threads take themselves out meanwhile
        except IndexError:
            jobs = SimpleQueue()
            threading.Thread(target=self._serve, args=(loop, jobs), name="aisolution-reader", daemon=True).start()
        job = _Job(work, copy_context(), loop.create_future())
        jobs.put(job)
        self._awaited += 1
        try:
            await job.end
        finally:
            self._awaited -= 1
        error, job.error = job.error, None  # its traceback holds the job, and what was read
        if error is not None:
            try:
                raise error
            finally:
                del error  # which its traceback would hold, too
        return cast(T, job.result)

    def end(self) -> None:
        """No more is asked: threads end as soon as they have nothing to do."""
        self._ended = True
        with suppress(IndexError):
            while True:
                self._free.pop().put(None)

    def is_awaited(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `clock.Worker`."""
        return self._awaited > 0 and loop is self._loop

    def _tell(self) -> None:
        self._told = False  # first: what is done from here on is told anew
        while self._done:
            job = self._done.popleft()
            if not job.end.done():
                job.end.set_result(None)

    def _leaves(self, jobs: _Jobs) -> bool:
        """Whether the thread of `jobs` ends, which asks: not where there is something for it by now."""
        try:
            self._free.remove(jobs)
        except ValueError:
            return False
        return True

    def _serve(self, loop: asyncio.AbstractEventLoop, jobs: _Jobs) -> None:
        """What a thread does. It has `jobs` of its own: where two wait at one queue, `get` may forget its timeout.

        It ends without the loop: one that is stopped, and not closed, would never say so.
        """
        try:
            while True:
                try:
                    job = jobs.get(timeout=_PATIENCE)
                except Empty:
                    self._when_idle()
                    if self._leaves(jobs):
                        return
                    continue
                if job is None:
                    return
                job.do()
                self._free.append(jobs)  # first: who is told of the end may have something else to be done
                self._done.append(job)
                del job  # and what it holds, while the next one is waited for
                if not self._told:
                    self._told = True
                    loop.call_soon_threadsafe(self._tell)
                if self._ended and self._leaves(jobs):
                    return
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


@dataclass(slots=True, eq=False)
class _Job:
    """Something to do, and what came of it once `end` is there."""

    work: Callable[[], Any] | None
    context: Context
    end: asyncio.Future[None]
    result: Any = None
    error: BaseException | None = None

    def do(self) -> None:
        work, self.work = self.work, None
        assert work is not None
        try:
            self.result = self.context.run(work)
        except BaseException as exc:
            self.error = exc


_Jobs = SimpleQueue[_Job | None]
"""What one thread is to do; None to end."""
