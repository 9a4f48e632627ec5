"""An answer that may come by callback, beside the response: what is waited for.

The wait itself is the batch's: `batching.crew.Crew.called_back` ends it. (A single call that waits is a batch of one.)

```
READY ──the request names the callback──> ASKED ──"checking", or lost──> AWAITED ──late──> OVERDUE
  │ │                                       │  └──another answer──> READY  ↑ │                │
  │ └────an earlier run asked, says the ledger─────────────────────────────┘ │                │
  │                                         └────────── called back ─────────┴──> ANSWERED <──┘
  └─another call asks─> FOLLOWING ──that one gave up──> READY, ──that one is answered──> ANSWERED
AWAITED ──nobody asks again──> READY
```
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from aisolution_async import clock
from aisolution_async.api import WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Attempt, Charge, Owed, of_callback
from aisolution_async.errors import AISolutionError
from aisolution_async.inbox import Inbox, result_of
from aisolution_async.sending.journal import Journal


class Stage(Enum):
    """How far a callback is."""

    READY = "not asked for yet, or its request was refused"
    FOLLOWING = "another call asks for the number"
    ASKED = "the request that names it is out"
    AWAITED = "to come"
    ANSWERED = "came"
    OVERDUE = "late: the number is asked for without one, and it may still come"


class Asker(Protocol):
    """The call that a callback is for."""

    @property
    def digits(self) -> str:
        """The number that was asked for, without plus or 00."""

    @property
    def journal(self) -> Journal | None:
        """Where attempts are recorded."""

    @property
    def identity(self) -> bytes | None:
        """What its question is known by, once it is."""

    @property
    def charges(self) -> Mapping[str, Charge]:
        """The charge by status."""

    @property
    def next_number(self) -> int:
        """The number of the call's next attempt."""

    def count_callback(self, attempt: Attempt) -> None:
        """The callback came, and is an attempt of its own."""

    def doubt_callback(self) -> None:
        """It came, and its question was answered otherwise before: it may be charged all the same."""

    def end_by_callback(self, reply: WhatsAppProfile) -> WhatsAppProfile:
        """The call is answered. Returns its own copy of `reply`."""

    def follow_failure(self, error: AISolutionError | None) -> None:
        """The call that asked for the number has no answer. If there is an `error`, that may be bought: nobody asks."""


class Callback:
    """The callback of one call, and what the inbox knows it by: see `inbox.Waiter`."""

    __slots__ = (
        "_asker",
        "_delivering",
        "_is_ours",
        "answer",
        "end_wait",
        "has_paid",
        "inbox",
        "is_doubtful",
        "is_paid",
        "since",
        "stage",
    )

    def __init__(self, asker: Asker, inbox: Inbox) -> None:
        self.inbox = inbox
        self.stage = Stage.READY
        self.since: datetime | None = None
        """When the callback was asked for, in UTC; None if another call asks for the number."""
        self.answer: WhatsAppProfile | None = None
        """What came."""
        self.has_paid = False
        """Whether its charge, which is counted, is the one of the request that is out."""
        self.is_paid = False
        """Whether the request that named it was answered and charged: a callback to it is no other charge."""
        self.end_wait: Callable[[], None] | None = None
        """Set by the batch that the call waits in: called when there is an answer, or when it is time to ask."""
        self._asker = asker
        self._is_ours = False  # this call asked for it
        self.is_doubtful = False
        """Whether what came may be the callback of an earlier request."""
        self._delivering: asyncio.Event | None = None  # while an answer is being recorded

    @property
    def digits(self) -> str:
        """See `inbox.Waiter`."""
        return self._asker.digits

    @property
    def charges(self) -> Mapping[str, Charge]:
        """See `inbox.Waiter`."""
        return self._asker.charges

    def stands_back(self) -> bool:
        """Whether another call asks for the number: then this one is told, and does not ask."""
        if not self.inbox.expect(self):
            self._to(Stage.FOLLOWING)
        elif self.stage is Stage.FOLLOWING:
            self.stage = Stage.READY
        return self.stage is Stage.FOLLOWING

    def asked(self, at: datetime) -> None:
        """The request goes out; it names the callback, unless that is overdue."""
        if self.stage is not Stage.OVERDUE:
            self._to(Stage.ASKED)
            self.since = at
            self._is_ours = True

    def expected(self, since: datetime) -> None:
        """An earlier run asked, says the ledger."""
        self._to(Stage.AWAITED)
        self.since = since

    def heard(self, reply: object, charge: Charge) -> None:
        """The request that named the callback has ended so: is the answer still to come?"""
        if self.stage is Stage.ASKED:
            unfinished = (
                reply.whatsapp == WhatsAppState.CHECKING
                if isinstance(reply, WhatsAppProfile)
                else charge is Charge.UNKNOWN
            )
            self.stage = Stage.AWAITED if unfinished else Stage.READY
            self.is_paid = charge is Charge.CHARGED
            self._is_ours = unfinished or self.is_paid  # a request that was refused is not called back

    def give_up(self, *, for_good: bool) -> None:
        """The callback is late. `for_good`: nobody asks again."""
        self._to(Stage.READY if for_good else Stage.OVERDUE)

    @property
    def is_overdue(self) -> bool:
        """Whether the number is asked for without a callback."""
        return self.stage is Stage.OVERDUE

    @property
    def is_awaited(self) -> bool:
        """Whether the answer to this call's own request is to come."""
        return self.stage is Stage.AWAITED

    @property
    def has_asked(self) -> bool:
        """See `inbox.Waiter`."""
        return self._is_ours

    @property
    def known_by(self) -> bytes | None:
        """See `inbox.Waiter`."""
        return None if self._asker.journal is None else self._asker.identity

    @property
    def may_come(self) -> bool:
        """Whether a callback may still bring a charge."""
        return self.since is not None and self.stage in (Stage.AWAITED, Stage.OVERDUE)

    @property
    def patience_left(self) -> float:
        """Seconds until it is late."""
        if self.since is None:  # who asks in this call's place looks after it
            return math.inf
        waited = (clock.today() - self.since) / timedelta(seconds=1)
        return min(max(self.inbox.patience - waited, 0.0), self.inbox.patience)  # a clock may be set back

    async def settled(self) -> None:
        """Return once an answer that is on its way in is recorded: the first of the two is counted first."""
        if self._delivering is not None:
            await self._delivering.wait()

    async def called_back(self, reply: WhatsAppProfile, callbacks: Sequence[str], *, doubtful: bool = False) -> bool:
        """See `inbox.Waiter`."""
        asker, journal = self._asker, self._asker.journal
        result = result_of(reply, self.since or clock.today(), asker.charges, number=asker.next_number)
        recorded = None
        self._delivering = asyncio.Event()
        try:
            if journal is not None:
                places = [journal.place(digits) for digits in dict.fromkeys((self.digits, *callbacks))]
                recorded = await journal.deliver(places, result)
            if recorded is not False:  # else it was answered before, or nothing waits for it
                self.has_paid = self.stage is Stage.ASKED  # a request that names none is charged by itself
                owed = Owed.NO_CHARGE if self.is_paid else Owed.ANSWER
                # A ledger knows which request waits: that of this call, if it named a callback after one before it.
                self.is_doubtful = doubtful and (recorded is None or (self._is_ours and not self.is_paid))
                if self.is_doubtful:
                    self.has_paid, owed = False, Owed.NOTHING
                charge = of_callback(result.attempt.charge, owed)
                attempt = dataclasses.replace(
                    result.attempt, charge=charge, recorded=recorded, number=asker.next_number
                )
                try:
                    asker.count_callback(attempt)
                finally:  # the hook that is told of it may raise what ends the program
                    self._take(reply)
            else:
                # What another process asked for is doubtful there, and what was counted is not doubtful.
                if self._is_ours and self.stage is not Stage.ANSWERED:
                    asker.doubt_callback()
                self._take(reply)
        finally:
            self._delivering.set()
            self._delivering = None
        return recorded is not False

    def was_ours(self, recorded: Attempt) -> bool:
        """Whether the answer that the ledger has is the callback that this call asked for: it came to another process.

        Then its charge is counted here, where it was asked for. Nobody else does.
        """
        if not (self._is_ours and self.may_come) or recorded.http_status is not None:
            return False
        charge = of_callback(recorded.charge, Owed.NO_CHARGE if self.is_paid else Owed.ANSWER)
        self._asker.count_callback(dataclasses.replace(recorded, charge=charge, number=self._asker.next_number))
        self._to(Stage.ANSWERED)
        return True

    def follow(self, reply: WhatsAppProfile | None, error: AISolutionError | None) -> None:
        """See `inbox.Waiter`."""
        if reply is not None:
            self._take(reply)
            return
        if self.stage in (Stage.FOLLOWING, Stage.AWAITED):
            self.stage = Stage.READY
        self._asker.follow_failure(error)
        if self.end_wait is not None:
            self.end_wait()

    def leave(self, reply: object, error: AISolutionError | None) -> None:
        """The call is over. Others that wait for the number have what came of it, if that is an answer or a loss."""
        self.inbox.forget(self, reply if isinstance(reply, WhatsAppProfile) else None, error)

    def _to(self, stage: Stage) -> None:
        if self.stage is not Stage.ANSWERED:  # that is for good
            self.stage = stage

    def _take(self, reply: WhatsAppProfile) -> None:
        self.stage = Stage.ANSWERED
        self.answer = self._asker.end_by_callback(reply)
        if self.end_wait is not None:
            self.end_wait()
