"""A ledger that is only looked into: what it would say of a call, asked without recording anything."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from aisolution_async import clock
from aisolution_async.errors import Key
from aisolution_async.ledger import answers, schema
from aisolution_async.ledger.identity import Identities
from aisolution_async.ledger.rows import micros
from aisolution_async.ledger.store import Ask, Held, Stored
from aisolution_async.names import exists


class Peek:
    """A look into the ledger `path`, beside whoever uses it. One that is not there, or None, knows nothing.

    Nothing is written, and no file is left beside the ledger. How old an answer is counts until the look is opened.
    Raises LedgerError for a file that is no ledger, or not the one that it was.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, busy_timeout: float = 10.0) -> None:
        self._db: sqlite3.Connection | None = None
        self._now = micros(clock.today())
        key = secrets.token_bytes(32)
        if path is not None:
            file = schema.file_of(path)
            try:
                if exists(file):
                    schema.check_is_ledger(file)
                    self._db = schema.connect_to_read(file, busy_timeout=busy_timeout)
                    (key,) = self._db.execute("SELECT hash_key FROM file").fetchone()
            except (sqlite3.Error, OSError) as exc:
                self.close()
                raise schema.fault(file, exc) from None
        self._identities = Identities(key)

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def identity(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        """See `Store.identity`."""
        return self._identities.of(endpoint, payload, key)

    def look(self, ask: Ask) -> Stored | Held | None:
        """What earlier attempts say: the answer, or that the question is held; None where they say neither."""
        if self._db is None or not ask.reusable:
            return None
        return answers.look(self._db.execute, ask, self._now)

    def knows(self, ask: Ask) -> bool:
        """Whether there was any attempt at this question, whatever came of it."""
        return self._db is not None and answers.knows(self._db.execute, ask)

    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`: it is awaited as that of a ledger is, and does not wait."""
        return [None] * len(asks) if self._db is None else answers.find(self._db.execute, asks, self._now)
