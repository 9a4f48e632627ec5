"""The callbacks that the pretended vendor makes: each once, when it is due, and on the bill."""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from aisolution_async.sandbox.bill import Bill, Entry
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.vendor import DueCallback

_AT_ONCE = 64
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback that was made: `http_status` of what the address answered, or `error` why it did not."""

    number: str = field(repr=False)
    url: str = field(repr=False)
    http_status: int | None
    error: str | None

    @property
    def is_accepted(self) -> bool:
        """Whether somebody took it."""
        return self.http_status is not None and 200 <= self.http_status < 300


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A callback that is yet to be made: at `due` on the sandbox's clock, or never."""

    number: str = field(repr=False)
    url: str = field(repr=False)
    due: float | None


class Callbacks:
    """Makes them: `timeout` is the seconds that an address has, `delay` those until it is called at the earliest."""

    def __init__(self, bill: Bill, clock: Clock, *, timeout: float, delay: float) -> None:
        self.made: deque[Delivery] = deque(maxlen=_REMEMBERED)
        self._bill = bill
        self._clock = clock
        self._timeout = timeout
        self._delay = delay
        self._delivering = asyncio.Semaphore(_AT_ONCE)
        self._outstanding: dict[int, Outstanding] = {}
        self._answered: dict[str, float] = {}  # numbers that were answered to a request, and when

    @property
    def outstanding(self) -> tuple[Outstanding, ...]:
        """The callbacks that were asked for and are not made yet, in the order in which they were asked for."""
        return tuple(self._outstanding.values())

    def clear(self) -> None:
        """Know of none."""
        self.made.clear()
        self._outstanding.clear()
        self._answered.clear()

    def answered(self, number: str) -> None:
        """The number was answered to a request, and charged: a callback asked for before costs nothing more."""
        self._answered[number] = self._clock.now()

    async def make(self, callbacks: Sequence[DueCallback], asked: float) -> None:
        """Make these, one after the other, each when it is due; they were asked for at `asked` on the clock."""
        entry, since = None, asked
        for callback in callbacks:
            due = None if callback.delay is None else since + callback.delay + self._delay
            self._outstanding[id(callback)] = Outstanding(callback.number, callback.url, due)
            try:
                await self._clock.sleep(inf if due is None else due - self._clock.now())
            finally:
                self._outstanding.pop(id(callback), None)
            if callback.charge is not None and self._answered.get(callback.number, -inf) < asked:
                entry = self._bill.enter(Entry(self._clock.now(), "gliswadetail", "callback", callback.charge))
            delivery = await self._deliver(callback)
            if entry is not None and callback.number == callbacks[-1].number and delivery.is_accepted:
                self._bill.deliver(entry)
            since = self._clock.now()

    async def _deliver(self, callback: DueCallback) -> Delivery:
        """Make one, once, and record what came of it."""
        http_status: int | None = None
        error: str | None = None
        if not callback.addresses:
            error = "not made: only loopback addresses are called back"
        else:
            async with self._delivering:
                try:
                    async with asyncio.timeout(self._timeout):
                        http_status = await _get(callback)
                except TimeoutError:
                    error = "timed out"
                except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as failure:
                    error = type(failure).__name__  # its text may hold the URL
        delivery = Delivery(callback.number, callback.url, http_status, error)
        self.made.append(delivery)
        return delivery


async def _get(callback: DueCallback) -> int:
    """GET, without following redirects; the HTTP status. Raises OSError, EOFError or ValueError."""
    reader, writer = await _connect(callback)
    try:
        writer.write(f"GET {callback.target} HTTP/1.1\r\nhost: {callback.host}\r\nconnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    found = re.match(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b", head)
    if found is None:
        raise ValueError("not HTTP")
    return int(found[1])


async def _connect(callback: DueCallback) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # The certificate must name the host of the URL, which is not the address where that is "localhost".
    tls, name = (_tls(), callback.name) if callback.tls else (None, None)
    *others, last = callback.addresses
    for address in others:
        with suppress(ConnectionRefusedError):
            return await asyncio.open_connection(address, callback.port, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(last, callback.port, ssl=tls, server_hostname=name)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
