"""Time that an event loop skips: what would only be waited for by the clock ends at once, and nothing else does.

The clock jumps when nothing is under way outside the loop, as far as can be seen: jobs of executors and of anyio's
threads, of ledgers and whatever else says so in `clock.elsewhere`, child processes that are written to, read from or
waited for, and other programs that were sent something over TCP and have not answered yet (on Linux, which tells).
Nothing tells of programs that are asked over a Unix socket: time is skipped while they work.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from asyncio.base_subprocess import BaseSubprocessTransport
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from selectors import EVENT_READ, BaseSelector, DefaultSelector, SelectorKey
from typing import Any, Self, cast

from aisolution_async import clock

# The loop must have had nothing to do for so long, in seconds, before time is skipped: what it sent to itself comes
# sooner.
_QUIET = 0.02
# The same for an `InstantLoop`, for which nothing is to work unseen.
_BRIEFLY_QUIET = 0.002
# What is skipped first. Twice as much each time that nothing comes, so that who still works unseen is not timed out.
_FIRST_SKIP = 1.0
# Seconds after which another program that is silent is taken to be so for good, so that its timeouts can be tested.
_PATIENCE = 5.0


@contextmanager
def skipping(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """See `pytest_plugin.skipping`."""
    inside: Any = loop  # whose selector is nobody's business, strictly speaking
    selector = getattr(inside, "_selector", None)
    if isinstance(selector, _Skipper):  # skipped already
        yield
        return
    if not isinstance(selector, BaseSelector):
        raise RuntimeError(
            f"time cannot be skipped on {type(loop).__module__}.{type(loop).__name__}: run this test on asyncio's "
            "SelectorEventLoop"
        )
    skipper = getattr(inside.time, "__self__", None)
    if not isinstance(skipper, _Skipper):
        skipper = _Skipper(inside.time)
        inside.time = skipper.time
    with Elsewhere(loop, selector) as elsewhere:
        inside._selector = skipper.over(selector, elsewhere)  # noqa: SLF001  # no other way to a loop that runs already
        try:
            yield
        finally:
            inside._selector = selector  # noqa: SLF001  # as above


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves by skipping alone: work takes none of its time, and times on it are exact.

    A thread that works for it unseen (see the module) is too late: where the loop has no sockets, time is skipped at
    once.

        with asyncio.Runner(loop_factory=InstantLoop) as runner: ...
    """

    def __init__(self) -> None:
        selector = DefaultSelector()
        self._skipper = _Skipper(lambda: 1000.0, stands=True)
        self._elsewhere = Elsewhere(self, selector)
        # The skipper is a selector by what it does, not by its class.
        super().__init__(cast(BaseSelector, self._skipper.over(selector, self._elsewhere)))
        self._elsewhere.__enter__()

    def time(self) -> float:
        return self._skipper.time()

    def advance(self, seconds: float) -> None:
        """Move the clock on, as if what runs now had taken so long."""
        self._skipper.skip(seconds)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002  # see below
        """Wait for the executor's threads, without a `timeout`: from Python 3.12 on there is one, and it is skipped."""
        await super().shutdown_default_executor()

    def close(self) -> None:
        if not self.is_closed():
            self._elsewhere.__exit__()
        super().close()


class _Skipper:
    """A loop's clock, and its selector, which moves the clock on instead of waiting.

    `time` is what passes by itself; where it `stands`, even the shortest wait is skipped.
    """

    def __init__(self, time: Callable[[], float], *, stands: bool = False) -> None:
        self._time = time
        self._stands = stands
        self._skipped = 0.0
        self._next = _FIRST_SKIP
        self._selector: Any = None
        self._elsewhere: Any = None

    def time(self) -> float:
        return self._time() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += seconds

    def over(self, selector: BaseSelector, elsewhere: Elsewhere) -> Self:
        self._selector, self._elsewhere = selector, elsewhere
        return self

    def select(self, timeout: float | None = None) -> Any:
        passes = 0.0 if self._stands else _QUIET  # of the loop's time, while it is listened whether anything comes
        waits = timeout is not None and timeout > passes
        events = self._selector.select(self._quiet() if waits else timeout)
        self._elsewhere.hear(events)
        if timeout is None or not waits or events or self._elsewhere.is_at_work():
            self._next = _FIRST_SKIP
        else:
            self.skip(min(timeout - passes, self._next))
            self._next *= 2
        return events

    def _quiet(self) -> float:
        if not self._stands:
            return _QUIET
        is_alone = len(self._selector.get_map()) == 1  # a loop always has a socket to wake it
        return 0.0 if is_alone and not self._elsewhere.is_at_work() else _BRIEFLY_QUIET

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


class Elsewhere:
    """What `loop` waits for outside itself. To be entered, once, and told the events of `selector`, the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, selector: BaseSelector) -> None:
        self._loop = loop
        self._selector = selector
        self._awaited = 0  # futures of `concurrent.futures`, and ends of child processes
        self._answered: dict[tuple[int, int], int] = {}
        """By the ports of a connection, how many segments had been sent when something last came."""

    def __enter__(self) -> Elsewhere:
        futures: Any = asyncio.futures
        self._chain = chain = futures._chain_future  # noqa: SLF001  # where all of `concurrent.futures` meets a loop

        def counted(source: Any, destination: Any) -> None:
            chain(source, destination)
            if asyncio.isfuture(destination) and destination.get_loop() is self._loop:
                self._awaited += 1
                destination.add_done_callback(self._returned)

        futures._chain_future = counted  # noqa: SLF001  # asyncio has no public place for it
        children: Any = BaseSubprocessTransport
        self._wait = wait = children._wait  # noqa: SLF001  # where `wait` and `communicate` of every child end

        async def waited(child: Any) -> int:
            if child._loop is not self._loop:  # noqa: SLF001  # asyncio has no public place for it
                return cast(int, await wait(child))
            self._awaited += 1
            try:
                return cast(int, await wait(child))
            finally:
                self._awaited -= 1

        children._wait = waited  # noqa: SLF001  # asyncio has no public place for it
        self._answered = {found.ports: found.sent for found in self._connections() if found.is_answered}
        return self

    def __exit__(self, *_: object) -> None:
        futures: Any = asyncio.futures
        futures._chain_future = self._chain  # noqa: SLF001  # asyncio has no public place for it
        children: Any = BaseSubprocessTransport
        children._wait = self._wait  # noqa: SLF001  # asyncio has no public place for it

    def _returned(self, _: object) -> None:
        self._awaited -= 1

    def hear(self, events: Iterable[tuple[SelectorKey, int]]) -> None:
        """Something came on these."""
        for key, mask in events:
            if mask & EVENT_READ and (found := _Socket.at(key.fd)) is not None:
                self._answered[found.ports] = found.sent

    def is_at_work(self) -> bool:
        """Whether anything is under way, to be asked when the loop has nothing to do."""
        return (
            self._awaited > 0
            or any(worker.is_awaited(self._loop) for worker in clock.workers())
            or any(_is_working(thread, self._loop) for thread in threading.enumerate())
            or any(_is_pipe_of_child(key) for key in self._keys())
            or self._is_answer_due()
        )

    def _keys(self) -> list[SelectorKey]:
        return list((self._selector.get_map() or {}).values())

    def _connections(self) -> list[_Socket]:
        return [found for key in self._keys() if (found := _Socket.at(key.fd)) is not None]

    def _is_answer_due(self) -> bool:
        connections = self._connections()
        ours = {found.ports for found in connections}
        listening = {found.ports[0] for found in connections if found.state == _LISTENING}
        return any(
            found.state in (_ESTABLISHED, _CONNECTING)
            and found.ports[::-1] not in ours
            and listening.isdisjoint(found.ports)  # who asks this loop may ask again, or not; or it asks itself
            and (found.state == _CONNECTING or found.sent != self._answered.get(found.ports, 0))
            and found.silent < _PATIENCE
            for found in connections
        )


def _is_working(thread: Any, loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is one of anyio's worker threads, and `loop` waits for it."""
    idle = getattr(thread, "idle_workers", None)
    return idle is not None and thread.loop is loop and not thread.stopping and thread not in idle


def _is_pipe_of_child(key: SelectorKey) -> bool:
    """Whether this is a pipe of a child process whose output somebody awaits, or who is to take what it is sent."""
    for handle in key.data if isinstance(key.data, tuple) else ():
        pipe = getattr(getattr(handle, "_callback", None), "__self__", None)
        child = getattr(getattr(pipe, "_protocol", None), "proc", None)
        streams = getattr(child, "_protocol", None)
        if getattr(streams, "_drain_waiters", None) or any(
            getattr(getattr(streams, name, None), "_waiter", None) for name in ("stdout", "stderr")
        ):
            return True
    return False


_ESTABLISHED, _CONNECTING, _LISTENING = 1, 2, 10
# The state, milliseconds since data was sent, and since it came, and how many segments of data were sent.
_TCP_INFO = struct.Struct("=B43xI4xI100xI")


class _Socket:
    """What the system says of a TCP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.state, silent, heard, self.sent = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
        self.silent = silent / 1000
        self.is_answered = heard <= silent  # nearly: the system counts in several milliseconds
        remote = sock.getpeername()[1] if self.state == _ESTABLISHED else 0
        self.ports: tuple[int, int] = (sock.getsockname()[1], remote)

    @classmethod
    def at(cls, fd: int) -> _Socket | None:
        """None where it is no TCP socket, or the system does not say."""
        try:
            own = os.dup(fd)
        except OSError:
            return None
        try:
            sock = socket.socket(fileno=own)
        except OSError:
            os.close(own)
            return None
        with sock:
            is_tcp = sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6)
            if not is_tcp or not hasattr(socket, "TCP_INFO"):
                return None
            try:
                return cls(sock)
            except (OSError, struct.error):
                return None
