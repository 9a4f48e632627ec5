"""The shards of a folder that workers share by a ledger on a server: see `shards`, and the end of `postgres.sql`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from aisolution_async import clock
from aisolution_async.ledger import server
from aisolution_async.ledger.shards import Finish, Took
from aisolution_async.ledger.urls import Server

_MINE = "SELECT FROM ledger.shards WHERE folder = %s AND name = %s AND owner = %s AND done_at IS NULL FOR UPDATE"
_AGAIN = 0.2  # seconds until a server that is away is looked at again
_DONE = "UPDATE ledger.shards SET owner = NULL, done_at = clock_timestamp() WHERE folder = %s AND name = %s"


class SharedShards:
    """The shards of one folder. `on_book` has the ledger's thread do something, for its owner.

    `patience`: seconds to wait for a server that is away.
    """

    def __init__(
        self,
        place: Server,
        folder: UUID,
        on_book: Callable[[Callable[[Any], Any]], Awaitable[Any]],
        patience: float,
    ) -> None:
        self._place = place
        self._folder = folder
        self._on_book = on_book
        self._patience = patience
        self._since: datetime | None = None
        self._owners: dict[str, int] = {}  # of the shards that this worker has: as which owner it took them

    async def take(self, name: str) -> Took:
        """See `Shards`."""
        if self._since is None:
            self._since = await self._on_book(lambda book: book.shards_since(self._folder))
        since = self._since
        said, owner = await self._on_book(lambda book: book.take_shard(self._folder, name, since))
        took = Took(said)
        if took is Took.TAKEN:
            self._owners[name] = owner
        return took

    async def let_go(self, name: str) -> None:
        """See `Shards`."""
        owner = self._owners.pop(name)
        await self._on_book(lambda book: book.leave_shard(self._folder, name, owner))

    @asynccontextmanager
    async def finishing(self, name: str) -> AsyncIterator[Finish | None]:
        """See `Shards`."""
        locking = asyncio.ensure_future(asyncio.to_thread(self._lock, name))
        try:
            db = await asyncio.shield(locking)
        except asyncio.CancelledError:
            locking.add_done_callback(_close)
            raise
        if db is None:
            yield None
            return
        finish = Finish()
        try:
            yield finish
            if finish.is_done:
                # The results are there. Where that cannot be noted, somebody may make them again, from the ledger.
                with suppress(psycopg.Error):
                    db.execute(server.named(self._place, _DONE), (self._folder, name))
                    db.commit()
        finally:
            db.close()

    def _lock(self, name: str) -> server.Connection | None:
        """A connection that has locked the shard's row, None if that is another worker's. Blocks."""
        until = clock.continuous() + self._patience
        while True:
            try:
                return self._try_to_lock(name)
            except psycopg.Error as exc:
                if not server.is_lost(exc) or clock.continuous() >= until:
                    raise server.fault(self._place, exc) from None
            time.sleep(_AGAIN)

    def _try_to_lock(self, name: str) -> server.Connection | None:
        db = server.connect(self._place)
        try:
            db.autocommit = False
            # Who stands still here keeps nobody out for longer than with its lease. It finds out that its part file is
            # another worker's.
            db.execute(server.STANDS_STILL)
            query = server.named(self._place, _MINE)
            if db.execute(query, (self._folder, name, self._owners[name])).fetchone() is not None:
                return db
        except BaseException:
            db.close()
            raise
        db.close()
        return None


def _close(locking: asyncio.Future[server.Connection | None]) -> None:
    """Let a lock go that nobody waits for any more."""
    if not locking.cancelled() and locking.exception() is None and (db := locking.result()) is not None:
        db.close()
