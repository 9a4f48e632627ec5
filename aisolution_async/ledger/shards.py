"""Which worker has which shard: a shard is one of the lists of a folder that workers run together, by one ledger.

A shard is taken under the lease that an owner of the ledger has. Who is taken for dead loses it, and finds out before
it gives its results their name: nobody can take it meanwhile. A shard says nothing of what was paid for: its calls do,
one by one, as all calls do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Took(Enum):
    """What became of taking a shard."""

    TAKEN = "taken"
    """It is this worker's now."""
    BUSY = "busy"
    """Another worker has it, and is alive."""
    DONE = "done"
    """A worker did it, since the one of those at work began that began first."""


@dataclass(slots=True)
class Finish:
    """The end of a shard. `is_done`: its results are there, and nobody needs to take it any more."""

    is_done: bool = False


class Shards(Protocol):
    """The shards of a folder, as its workers divide them. All raise LedgerError where the ledger fails."""

    async def take(self, name: str) -> Took:
        """Take a shard, if it is not done, and nobody has it who is alive."""

    async def let_go(self, name: str) -> None:
        """Leave a shard that was taken to whoever comes next."""

    def finishing(self, name: str) -> AbstractAsyncContextManager[Finish | None]:
        """Give the results of a shard that was taken their name in here; None where another worker has it now."""


class OnlyWorker:
    """The shards of a folder that has one worker, since its ledger is a file."""

    async def take(self, name: str) -> Took:  # noqa: ARG002  # whichever it is
        """See `Shards`."""
        return Took.TAKEN

    async def let_go(self, name: str) -> None:
        """See `Shards`."""

    @asynccontextmanager
    async def finishing(self, name: str) -> AsyncIterator[Finish | None]:  # noqa: ARG002  # whichever it is
        """See `Shards`."""
        yield Finish()
