"""What a ledger would be asked of calls, by the checks of the sending itself. Nothing is sent."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from aisolution_async.api import Call
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError
from aisolution_async.ledger import Ask, Store
from aisolution_async.ledger.peek import Peek
from aisolution_async.sending.call import Sending
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.states import Over


class Questions:
    """Turns calls into what a ledger is asked of them: `reuse_for` is how old its answers may be, in seconds."""

    def __init__(self, client: AsyncClient, ledger: Peek, *, reuse_for: float | None = None) -> None:
        self._shared = client.shared
        # Of its store, a journal is only asked for identities and answers here.
        journal = Journal(cast("Store", ledger), owned=False, reuse_for=reuse_for)
        self._options = dataclasses.replace(client.options, journal=journal)

    async def of(self, call: Call[Any], *, as_sent: bool) -> Ask | AISolutionError:
        """The question, or why the call cannot be sent.

        `as_sent`: images are made to fit and encoded too, unless the ledger has the answer. Else what need not be found
        out to know the question is not.
        """
        sending = Sending(self._shared, self._options, call)
        await sending.prepare(is_known=None if as_sent else lambda _: True)
        if isinstance(sending.state, Over) and sending.state.error is not None:
            return sending.state.error
        return sending.ask()
