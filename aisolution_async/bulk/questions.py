"""What a ledger would be asked of calls, by the checks of the sending itself. Nothing is sent."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from aisolution_async.api import Call
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError
from aisolution_async.ledger import Ask, Store
from aisolution_async.ledger.peek import Peek
from aisolution_async.sender import Journal, Work


class Questions:
    """Turns calls into what a ledger is asked of them: `reuse_for` is how old its answers may be, in seconds."""

    def __init__(self, client: AsyncClient, ledger: Peek, *, reuse_for: float | None = None) -> None:
        self._sender = client._sender  # noqa: SLF001  # the checks are those of the sending, which has no public door
        # Of its store, a journal is only asked for identities and answers here.
        journal = Journal(cast("Store", ledger), owned=False, reuse_for=reuse_for)
        self._options = dataclasses.replace(client.options, journal=journal)

    async def of(self, call: Call[Any], *, as_sent: bool) -> Ask | AISolutionError:
        """The question, or why the call cannot be sent.

        `as_sent`: images are made to fit and encoded too, unless the ledger has the answer. Else what need not be found
        out to know the question is not.
        """
        work = Work(self._sender, self._options, call)
        await work.prepare(identify=True, is_known=None if as_sent else lambda _: True)
        work.release()
        if work.error is not None:
            return work.error
        return work._ask()  # noqa: SLF001  # the question that the ledger is asked has no public name yet
