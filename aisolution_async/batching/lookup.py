"""What a ledger has answered already, looked up many calls at a time before they line up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aisolution_async.batching.task import Task
from aisolution_async.errors import AISolutionError
from aisolution_async.ledger.store import Ask, Stored
from aisolution_async.sending.journal import Journal

LOOKERS = 2
"""While one hands out what was found, the other's question is looked up."""

# After so many calls in a row that the ledger had no answer to, it is asked for leave only: it may be a new one.
_MOST_MISSES = 1000


class Lookup:
    """Asks a ledger which calls it has the answers of.

    A resumed run would else spend on each of them the place, the turn and the hop to the ledger of a call that is sent.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._asked: list[tuple[Task, Ask]] = []
        self._news = asyncio.Event()
        self._misses = 0

    def __len__(self) -> int:
        """How many calls it is asked for and has not begun to look up."""
        return len(self._asked)

    def take(self, task: Task) -> bool:
        """Look the call up. False where that is not worth it, or not possible: then it lines up."""
        if self._misses >= _MOST_MISSES or (ask := task.question()) is None:
            return False
        self._asked.append((task, ask))
        self._news.set()
        return True

    async def run(self, tell: Callable[[Task, Stored | None], None], then: Callable[[], None]) -> None:
        """For ever: `tell` of each call what was found, and do `then` after each lot."""
        while True:
            await self._news.wait()
            self._news.clear()
            asked, self._asked = self._asked, []
            found: list[Stored | None] = []
            try:
                found = await self._journal.find([ask for _, ask in asked])
            except AISolutionError:
                pass  # each of them is told when it asks for leave
            finally:
                for number, (task, _) in enumerate(asked):
                    stored = found[number] if found else None
                    self._misses = self._misses + 1 if stored is None else 0
                    tell(task, stored)
            then()

    def hit(self) -> None:
        """A call that was not looked up turned out to be in the ledger: it is worth asking again."""
        self._misses = 0

    def stop(self) -> list[Task]:
        """Look up nothing more. Returns the calls that were to be."""
        asked, self._asked = self._asked, []
        return [task for task, _ in asked]
