"""The ledger as an SQLite file, by a thread that owns its connection."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path

from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger import reading, schema
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.grouping import Grouping, Work
from aisolution_async.ledger.rows import millionths
from aisolution_async.ledger.store import (
    Ask,
    Balance,
    LedgerError,
    Record,
)
from aisolution_async.ledger.totals import Limits
from aisolution_async.spending import Spending

_log = logging.getLogger(__name__)


class Ledger(Grouping[Book]):
    """A ledger in the file `path`, made if it is not there, readable by its owner alone.

    ```python
    async with Ledger("applicants.ledger", max_charges=1000) as ledger:
        ...
    ```

    `max_charges`: charges there may ever be in this file, those of unknown outcome and under way included;
    `max_cost`: the same in money, by `prices`, the price of a charge for each endpoint
    ("facecompare"). Both count what every process did and does with the file. `synchronous`: "full" keeps
    every intent and outcome through a loss of power, "normal" and "off" through the end of the process only.
    `busy_timeout`: seconds to wait for another process that writes.

    A ledger holds replies, which are personal data, your keys, and keyed hashes of what was asked with the key to
    them; never an image or the token.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        synchronous: schema.Synchronous = "full",
        busy_timeout: float = 10.0,
    ) -> None:
        super().__init__()
        spending = Spending.of(max_charges, prices, max_cost)
        if synchronous not in ("full", "normal", "off"):
            raise ConfigurationError('synchronous must be "full", "normal" or "off"')
        self.path: Path = schema.file_of(path)
        self._limits = Limits(
            self.path,
            spending.max_charges,
            None if spending.max_cost is None else millionths(spending.max_cost),
            {name: millionths(price) for name, price in spending.prices.items()},
        )
        self._synchronous: schema.Synchronous = synchronous
        self._busy_timeout = busy_timeout

    # ------------------------------------------------------------------------------------ on the writing thread

    def _make_book(self) -> Book:
        return Book(self.path, self._limits, self._synchronous, self._busy_timeout)

    def _as_error(self, exc: BaseException) -> LedgerError:
        return schema.fault(self.path, exc)

    def _do_together(self, book: Book, works: list[Work]) -> list[object]:
        """The answers to begins and ends, done in one transaction; where that fails, each in one of its own.

        The ends that the file would not take before are tried again first. The calls that asked for those were told
        already.
        """
        again = list(self._unrecorded.values())
        try:
            with book.transaction():
                book.foresee(
                    [work for work in works if isinstance(work, Ask)],
                    [work[0] for work in (*again, *works) if isinstance(work, tuple)],
                )
                for work in again:
                    _apply(book, work)
                answers = [_apply(book, work) for work in works]
        except Exception as exc:  # it goes to who asked
            # A locked file would be waited for once for each.
            told = (schema.fault(self.path, exc), True) if schema.is_locked(exc) else None
            found = [(work, *(told or self._do(book, work))) for work in (*again, *works)]
            for work, _, is_fault in found:
                if isinstance(work, tuple) and is_fault:
                    self._unrecorded[work[0].id] = work
                elif isinstance(work, tuple):
                    self._unrecorded.pop(work[0].id, None)
            return [answer for _, answer, _ in found[len(again) :]]
        self._unrecorded.clear()
        return answers

    def _do(self, book: Book, work: Work) -> tuple[object, bool]:
        """The answer, and whether it was the file that failed, so that it may work later."""
        try:
            if callable(work):
                return work(book), False
            with book.transaction():
                return _apply(book, work), False
        except Exception as exc:  # it goes to who asked
            return schema.fault(self.path, exc), schema.is_fault_of_file(exc)

    def _leave(self, book: Book) -> None:
        try:
            self._do_together(book, [])
            with book.transaction():
                book.abandon()
        finally:
            book.close()

    # ------------------------------------------------------------------------------------------- the read side

    def summary(self) -> Balance:
        """See `Store.summary`."""
        with self._reading() as db:  # one look for all of it: another process may be writing
            return reading.summary(db)

    def attempts(self, *, unknown_only: bool = False) -> Iterator[Record]:
        """See `Store.attempts`."""
        with self._reading() as db:
            yield from reading.records(db, reading.UNKNOWN if unknown_only else reading.every_attempt())

    def held(self) -> Iterator[Record]:
        """See `Store.held`."""
        with self._reading() as db:
            yield from reading.records(db, reading.HELD, with_replies=True)

    def answers(self) -> Iterator[Record]:
        """See `Store.answers`."""
        with self._reading() as db:
            yield from reading.records(db, reading.ANSWERS, with_replies=True)

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return reading.reading(self.path, self._busy_timeout)


def _apply(book: Book, work: Work) -> object:
    if isinstance(work, Ask):
        return book.begin(work)
    assert isinstance(work, tuple)
    book.end(*work)
    return None
