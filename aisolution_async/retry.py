"""What may be repeated, and how long to wait before it. The only importer of `backoff`.

Of `backoff` only the wait generators are used: its decorators sleep by the wall clock, cannot be cancelled,
and log exception text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import backoff

from aisolution_async.api import Endpoint
from aisolution_async.charges import Attempt, Charge
from aisolution_async.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently an attempt that was free and may pass is repeated.

    `max_retries` is how many such repeats a call gets. The wait before repeat n is drawn evenly from 0 to
    `first` x 2^(n-1) seconds, at most `longest` ("full jitter"), and comes on top of what the server asks for
    by Retry-After. `unknown` is how many attempts of UNKNOWN charge may be repeated: each may be charged
    again, so it is 0 unless you say otherwise. The call's `deadline` ends it all.
    """

    max_retries: int = 4
    first: float = 0.5
    longest: float = 20.0
    unknown: int = 0

    def __post_init__(self) -> None:
        for name in ("max_retries", "unknown"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigurationError(f"Retry({name}=…) must be a whole number, 0 or more")
        if not 0 < self.first <= self.longest < float("inf"):
            raise ConfigurationError("Retry(first=…, longest=…) must be seconds with 0 < first <= longest")

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each repeat, without end."""
        growing = backoff.expo(base=2, factor=self.first, max_value=self.longest)
        next(growing)  # the generator's first value is a start signal
        for longest in growing:
            yield backoff.full_jitter(longest)

    def allows(self, endpoint: Endpoint[Any], attempts: Sequence[Attempt], *, since: int = 0, repeatable: bool) -> bool:
        """Whether the money rule lets the last of a call's `attempts` be followed by another.

        FREE: where it may pass (`repeatable`), as often as `max_retries` says in this round of asking, which began with
        attempt `since`. UNKNOWN: as often as `unknown` says, over all of them, or on an idempotent endpoint. CHARGED:
        never.
        """
        last = attempts[-1].charge
        if last is Charge.FREE:
            return repeatable and sum(attempt.charge is last for attempt in attempts[since:]) <= self.max_retries
        if last is Charge.UNKNOWN:
            most = max(self.max_retries, self.unknown) if endpoint.idempotent else self.unknown
            return sum(attempt.charge is last for attempt in attempts) <= most
        return False
