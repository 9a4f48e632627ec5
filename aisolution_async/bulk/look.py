"""A ledger that is only looked into: what it would say of a call, asked without recording anything."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from aisolution_async import clock
from aisolution_async.ledger import Ask, Held, Ledger, Stored, schema
from aisolution_async.ledger.book import Book


class Look(Ledger):
    """A ledger that is only looked into. One that is not there has no answers."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(os.devnull if path is None else path)
        self.exists = path is not None and path.exists()
        self._page: _Page | None = None

    async def open(self) -> None:
        """See `Ledger.open`."""
        key = secrets.token_bytes(32)
        if self.exists:
            schema.check_is_ledger(self.path)
            try:
                self._page = _Page(self.path)
            except (sqlite3.Error, OSError) as exc:
                raise schema.fault(self.path, exc) from None
            key = self._page.hash_key
        self._hash = blake2b(digest_size=16, key=key)
        self._pid = os.getpid()
        self._usable = True

    async def aclose(self) -> None:
        """See `Ledger.aclose`."""
        self._usable = False
        if self._page is not None:
            self._page.close()

    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`."""
        found = [self.look(ask) if ask.reusable else None for ask in asks]
        return [stored if isinstance(stored, Stored) else None for stored in found]

    def look(self, ask: Ask) -> Stored | Held | None:
        """What earlier attempts of the call say."""
        found = None if self._page is None else self._page.look(ask)
        return None if isinstance(found, int) else found

    def knows(self, ask: Ask) -> bool:
        """Whether there was any attempt at this question, whatever came of it."""
        return self._page is not None and self._page.knows(ask)


class _Page(Book):
    """The rules of a ledger, over a file that is not written."""

    def __init__(self, path: Path) -> None:
        self._db = schema.connect_to_read(path, busy_timeout=10.0)
        self._sql = self._db.cursor().execute
        self._now = round(clock.today().timestamp() * 1e6)
        self.hash_key = self._sql("SELECT hash_key FROM file").fetchone()[0]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def knows(self, ask: Ask) -> bool:
        """Whether there was any attempt at this question."""
        query = """SELECT EXISTS (SELECT 1 FROM attempts WHERE identity = ?1)
            OR EXISTS (SELECT 1 FROM intents WHERE identity = ?1)"""
        return bool(self._sql(query, (ask.identity,)).fetchone()[0])
