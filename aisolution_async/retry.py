"""What may be repeated, a lost answer included, and how long to wait before it. The only importer of `backoff`.

This is the rule for a call's own attempts. For attempts that a ledger knows of, of other calls, runs and machines, see
`ledger.answers.look`. `sending.call` asks both.

Of `backoff` only the wait generators are used: its decorators sleep by the wall clock, cannot be cancelled,
and log exception text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import backoff

from aisolution_async.api import Endpoint
from aisolution_async.charges import Attempt, Charge
from aisolution_async.checks import is_number, whole
from aisolution_async.errors import ConfigurationError

LONGEST_PAUSE = 600.0
"""Seconds that one Retry-After can hold a call, or the batches, up for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently an attempt is repeated that was free, and may work the next time.

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
            whole(f"Retry({name}=…)", getattr(self, name), 0)
        good = is_number(self.first) and is_number(self.longest)
        if not (good and 0 < self.first <= self.longest < math.inf):
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
        attempt `since`. UNKNOWN, the answer of a request that left is lost: as often as `unknown` says, over all of
        them; on an idempotent endpoint as often as the larger of `unknown` and `max_retries` says. CHARGED: never.
        """
        last = attempts[-1].charge
        if last is Charge.FREE:
            return repeatable and sum(attempt.charge is last for attempt in attempts[since:]) <= self.max_retries
        if last is Charge.UNKNOWN:
            most = max(self.max_retries, self.unknown) if endpoint.idempotent else self.unknown
            return sum(attempt.charge is last for attempt in attempts) <= most
        return False


class Course:
    """One call's way through its repeats and its deadline.

    A round of attempts belongs to one asking of the question: a number that is asked for again later begins another.
    """

    __slots__ = ("_deadline", "_retry", "_round", "_spent", "_waits")

    def __init__(self, retry: Retry, deadline: float | None) -> None:
        self._retry = retry
        self._deadline = deadline
        self._spent = 0.0
        self._round = 0  # attempts before this round
        self._waits: Iterator[float] | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline; inf if there is none."""
        return math.inf if self._deadline is None else self._deadline - self._spent

    def ends(self, now: float) -> float | None:
        """When the deadline is, on the clock of `now`; None if there is none."""
        return None if self._deadline is None else now + self._deadline - self._spent

    def spend(self, seconds: float) -> None:
        """The call took so long, of its deadline."""
        self._spent += seconds

    def start_round(self, attempts: int) -> None:
        """The question is asked anew, after so many attempts."""
        self._round = attempts
        self._waits = None
        self._spent = 0.0

    def is_repeat(self, attempts: int) -> bool:
        """Whether the next attempt, after so many, is a repeat in its round."""
        return attempts > self._round

    def allows(self, endpoint: Endpoint[Any], attempts: Sequence[Attempt], *, repeatable: bool) -> bool:
        """Whether the last of `attempts` may be followed by another: see `Retry.allows`."""
        return self._retry.allows(endpoint, attempts, since=self._round, repeatable=repeatable)

    def again(
        self,
        endpoint: Endpoint[Any],
        attempts: Sequence[Attempt],
        *,
        repeatable: bool,
        asked: float | None,
        left: float,
        forgiven: bool = False,
    ) -> float | None:
        """Seconds to wait before another attempt; None if there may be none, or no time for one.

        `asked` is what the server asks to wait, and `left` what is left until the deadline, in seconds. A `forgiven`
        attempt only tried whether the vendor is there again, and uses up no repeat.
        """
        if forgiven and repeatable and attempts[-1].charge is Charge.FREE:
            self._round = len(attempts)
        elif not self.allows(endpoint, attempts, repeatable=repeatable):
            return None
        if self._waits is None:
            self._waits = self._retry.waits()
        asked = asked or 0.0
        if asked >= left:
            return None
        wait = min(asked, LONGEST_PAUSE) + next(self._waits)
        return wait if wait < left else asked
