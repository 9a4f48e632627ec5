"""The states of a call. Each is a small value that is not changed; `call.Sending.step` leads from one to the next.

```
New ──read, encode──> Prepared ──admit──> Admitted ──begin──> Started ──exchange──> Found ──decide──> Over
 │                       │                   │                                        ├──> Again ──(wait)──> New
 └─> Over (unreadable)   ├─> Following       ├─> Over (stored, held)                  └──> Awaiting
                         └─> Over (budget)   ├─> Again (busy)
                                             └─> Awaiting (asked for by an earlier run)
Awaiting ──called back──> Over     ──late──> New (asks without a callback), or Over
Following ──who asks has the answer──> Over     ──who asks gave up──> New
```
"""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import Generic

from aisolution_async import ledger
from aisolution_async.api import R
from aisolution_async.errors import AISolutionError
from aisolution_async.ledger.store import Busy
from aisolution_async.limits import Signal
from aisolution_async.sending.finding import Finding
from aisolution_async.values import value_class
from aisolution_async.wire.form import Form
from aisolution_async.wire.transport import Flight


@value_class
class New:
    """What the call holds is still to be read. → Prepared, or Over if it cannot be sent or need not be."""


@value_class
class Prepared:
    """Read and encoded. → Admitted; Following where another call asks for the number; Over where the money is spent."""

    form: Form


@value_class
class Admitted:
    """A charge is set aside for it, if one has to be. → Started; Over, Again or Awaiting where the ledger says so."""

    form: Form


@value_class
class Started:
    """Recorded as intended, where there is a ledger: it goes out. → Found."""

    form: Form
    intent: ledger.Started | None
    flight: Flight
    at: datetime
    """When, in UTC."""
    since: float
    """When, on the loop's clock."""


@value_class
class Found(Generic[R]):
    """What came of the attempt, counted. → Over, Again or Awaiting, once it is recorded."""

    finding: Finding[R]
    number: int
    """Which of the call's attempts it is, from 1."""
    intent: ledger.Started | None


@value_class
class Again:
    """Another attempt may be made, after `wait` seconds, or when the same call elsewhere is over. → New."""

    wait: float | Busy
    signal: Signal | None = None

    @property
    def seconds(self) -> float:
        """The wait, as far as it is known."""
        return 0.0 if isinstance(self.wait, Busy) else self.wait


@value_class
class Awaiting(Generic[R]):
    """The answer is to come by callback. → Over, or New when it is late.

    `otherwise` is how the call ends if it does not come: with "checking", or as lost; None if nobody knows yet.
    """

    otherwise: Over[R] | None
    signal: Signal | None = None


@value_class
class Following:
    """Another call asks for the number, and this one is told. → Over, or New where that one gives up."""

    signal: Signal | None = None


@value_class
class Over(Generic[R]):
    """The end: `reply` or `error`, never both or neither. `signal` is what the newest attempt says of the vendor.

    Where it is known, `recorded` is the reply as JSON as a ledger had it, and `body` the answer that it was read from,
    if no secret is in it.
    """

    reply: R | None
    error: AISolutionError | None
    signal: Signal | None = None
    recorded: bytes | None = field(default=None, repr=False)
    body: bytes | None = field(default=None, repr=False)


Resting = Again | Awaiting[R] | Following | Over[R]
"""The states that a step ends in: what is to be done next is not this call's to decide."""
RESTING = (Over, Again, Awaiting, Following)
UNSENT = (New, Prepared)  # made once: `New | Prepared` makes a union each time
TO_BE_TOLD = (Awaiting, Following)
"""Those in which the inbox is to tell the answer."""

State = New | Prepared | Admitted | Started | Found[R] | Again | Awaiting[R] | Following | Over[R]
NEW: New = New()
