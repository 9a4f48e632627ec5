"""Whether a run goes on: what the vendor was heard to say, and when it is stopped or given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from aisolution_async import clock
from aisolution_async.api import Call
from aisolution_async.batching import Batch, Progress
from aisolution_async.charges import Attempt
from aisolution_async.errors import AISolutionError, NotSentError
from aisolution_async.ledger import LedgerError
from aisolution_async.outcome import Outcome
from aisolution_async.sending.hooks import call_hook

GIVE_UP_AT_FIRST = 60.0
"""Seconds for which a vendor that has answered nothing at all is tried."""

_LOOK_EVERY = 1.0


class TakenBackError(AISolutionError):
    """In the place of a call whose answer is taken over: nothing is asked."""


class Watch:
    """What is known of a run from outside, and what ends it early.

    A vendor that does not answer any more is given up after `give_up` seconds. `hook` is told of each attempt, too, and
    `seer` of each outcome.
    """

    def __init__(
        self,
        give_up: float,
        hook: Callable[[Call[Any], Attempt], object] | None,
        seer: Callable[[Outcome], object] | None,
    ) -> None:
        self.stopping = False
        """Whether nothing more is to be sent."""
        self.given_up = threading.Event()
        """The same, for threads."""
        self.trouble: str | None = None
        """Why the newest attempt that failed did, in a few words without anything secret; None if none did."""
        self.gave_up: str | None = None
        """Why the vendor is not tried any longer; None where it is."""
        self.problem: str | None = None
        """What the run could not go on for."""
        self._give_up = give_up
        self._hook = hook
        self._seer = seer
        self._unsent = self._taken = 0  # outcomes that are no problems
        self._heard = False  # whether the vendor has said anything at all
        self._answers = 0  # attempts that were answered
        self._batch: Batch[Any] | None = None

    @property
    def progress(self) -> Progress | None:
        """How far the calls are; None before the first. What is not sent, as the run is stopped, is not done."""
        if self._batch is None:
            return None
        now, unsent, taken = self._batch.progress, self._unsent, self._taken
        return replace(now, ok=now.ok + taken, failed=max(0, now.failed - unsent - taken))

    def stop(self, problem: str | None = None) -> None:
        """Send nothing more, and wait for what is under way; for a `problem`, if one is said."""
        self.problem = problem or self.problem
        self.stopping = True
        self.given_up.set()
        if self._batch is not None:
            self._batch.stop()

    def follow(self, batch: Batch[Any]) -> None:
        """Watch this batch from now on."""
        self._batch = batch

    def hear(self, call: Call[Any], attempt: Attempt) -> None:
        """Note what came of an attempt."""
        self._heard = self._heard or attempt.status is not None
        self._answers += attempt.status not in (None, "RETRY_LATER")
        if attempt.error is not None:
            self.trouble = attempt.error
        if self._hook is not None:
            call_hook("on_attempt", self._hook, call, attempt)

    def see(self, outcome: Outcome) -> None:
        """Note what came of a call, if that is no problem of its row: it was not sent, or need not be."""
        if (error := outcome.error) is not None:
            if isinstance(error, TakenBackError):
                self._taken += 1
            elif self.stopping and not outcome.attempts and isinstance(error, NotSentError | LedgerError):
                self._unsent += 1
        if self._seer is not None:
            call_hook("on_outcome", self._seer, outcome)

    @contextmanager
    def watching(self, batch: Batch[Any]) -> Iterator[None]:
        """Stop where the vendor does not answer for so long that nobody would wait any longer."""
        watching = asyncio.create_task(self._watch(batch))
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self, batch: Batch[Any]) -> None:
        since, answers = clock.now(), 0
        while not self.stopping:
            now = clock.now()
            if not batch.braked or answers != self._answers:
                since, answers = now, self._answers
            patience = self._give_up if self._heard else min(self._give_up, GIVE_UP_AT_FIRST)
            if batch.braked and now - since >= patience:
                self.gave_up = self.trouble or "no answer came"
                problem = f"the vendor has not answered for {now - since:.0f} s: {self.gave_up}"
                self.stop(f"{problem}; the run was stopped: run it again to go on")
                return
            await clock.sleep(_LOOK_EVERY)
