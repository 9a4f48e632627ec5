"""One pool and its account: what every call and batch on a client shares."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection
from typing import Any

import httpx

from aisolution_async import clock
from aisolution_async.charges import Tally
from aisolution_async.checks import running_loop
from aisolution_async.echo import Echo
from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import NotPickled
from aisolution_async.ledger.store import WHOLE
from aisolution_async.limits import Gate, Rate
from aisolution_async.retry import LONGEST_PAUSE
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.prepare import Readers
from aisolution_async.wire.request import Requests
from aisolution_async.wire.transport import PoolTransport


class Shared(NotPickled):
    """One pool and its account: what every call and batch on a client shares.

    States: open, then closed for good. It belongs to the event loop that first uses it. `places` bounds the
    attempts at once and `rate` their pace, over all calls and batches; None for no bound of ours.
    """

    def __init__(
        self,
        requests: Requests,
        transport: httpx.AsyncBaseTransport,
        *,
        places: int | None = None,
        rate: float | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.tally = Tally()
        self.journal = journal  # to be closed with the pool
        self.echo = Echo()
        self.gate = Gate(places)
        self.rate = None if rate is None else Rate(rate, WHOLE if journal is None else journal.share)
        self.paused_until = -math.inf
        self.requests = requests
        self.transport = transport
        self.readers = Readers()
        self.in_flight = 0
        self.batches: set[Any] = set()
        """The batches that are running."""
        self.closed = False
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hush(True)

    def check(self) -> None:
        """Raise ConfigurationError unless this may be used here and now."""
        if self.closed:
            raise ConfigurationError("the client is closed: make a new one, and keep it open while calls are made")
        loop = running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "the client was first used on another event loop: make one client for each loop (asyncio.run)"
            )

    def pause(self, seconds: float) -> None:
        """The vendor asks everybody to wait: no batch starts an attempt for so long."""
        until = clock.now() + min(seconds, LONGEST_PAUSE)
        self.paused_until = max(self.paused_until, until)

    def _hush(self, on: bool) -> None:
        """Keep the token out of httpcore's debug log, where what a server echoes is written as it comes."""
        if not isinstance(self.transport, PoolTransport):
            for name in ("http11", "http2", "proxy", "connection"):
                logger = logging.getLogger(f"httpcore.{name}")
                (logger.addFilter if on else logger.removeFilter)(self._censor)

    def _censor(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        shown = self.requests.redact(said)
        if shown != said:
            record.msg, record.args = shown, ()
        return True

    async def aclose(self) -> None:
        """Close the pool; what is in flight ends in an error. Idempotent; one that is cancelled still closes."""
        if not self.closed:
            if self._loop not in (None, running_loop()):
                raise ConfigurationError("the client belongs to another event loop: close it there")
            self.closed = True
            running = tuple(self.batches)
            for batch in running:
                batch.client_closed()  # at once, or calls about to be sent would fail for it
            self._closing = asyncio.create_task(self._close(running))
            await asyncio.shield(self._closing)
        elif self._closing is not None and not self._closing.done():
            await asyncio.shield(self._closing)

    async def _close(self, running: Collection[Any]) -> None:
        """In a task of its own: the input of a batch that closes the client is ended by that."""
        self._hush(False)
        try:
            await self.transport.aclose()
            await asyncio.gather(*(batch.ended() for batch in running))
        finally:
            await self.readers.aclose()
            if self.journal is not None:
                await self.journal.aclose()
