"""A call in a batch, and the states it comes to. The one place in the package that drives a call on its way."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aisolution_async.api import Call, Reply, WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Attempt, Tally
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.inbox import Inbox
from aisolution_async.ledger.store import Ask, Busy, Stored
from aisolution_async.limits import Signal
from aisolution_async.outcome import Answered, Failed, outcome_of
from aisolution_async.sender import Options, Sender, Work


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt is to be made: after so many seconds, or when the same call, under way elsewhere, has ended."""

    wait: float | Busy
    signal: Signal | None


@dataclass(frozen=True, slots=True)
class Awaiting:
    """The answer is to come by callback, which is late after `patience` seconds."""

    patience: float
    signal: Signal | None


@dataclass(frozen=True, slots=True)
class Over:
    """The call has its reply or its error, or nothing more is done for it."""

    signal: Signal | None


State = Again | Awaiting | Over
"""What an attempt came to. `signal` is what it says of the vendor's health; None where nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """How to ask again for numbers that WhatsApp is still "checking", in seconds.

    The first time after `first`, then after twice as long each time, at most `longest`, until `give_up` has
    passed since the first answer: then the reply stays as it is. The contract asks for 20 seconds or more.
    """

    first: float = 20.0
    longest: float = 600.0
    give_up: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest < math.inf or not 0 <= self.give_up < math.inf:
            raise ConfigurationError("Recheck needs 0 < first <= longest and give_up >= 0, in seconds")


class Task:
    """A call in the batch, at its place in the input."""

    __slots__ = ("_checking_since", "_pause", "_work", "call", "index")

    def __init__(
        self, index: int, sender: Sender, options: Options, call: Call[Any], *, tally: Tally, inbox: Inbox | None
    ) -> None:
        self.index = index
        self.call = call
        self._work = Work(sender, options, call, tally, inbox)
        self._checking_since: float | None = None
        self._pause = 0.0

    # ------------------------------------------------------------------------------------------ how it stands

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts made for it."""
        return self._work.attempts

    @property
    def reply(self) -> Reply | None:
        """Its reply; None as long as there is none."""
        return self._work.reply

    @property
    def error(self) -> AISolutionError | None:
        """What it failed with; None if it has not."""
        return self._work.error

    @property
    def is_settled(self) -> bool:
        """Whether it has its reply or its error."""
        return self._work.reply is not None or self._work.error is not None

    @property
    def may_share(self) -> bool:
        """Whether it may have the answer of a call that asks the same. What adds or deletes a face may not."""
        return not self.call.endpoint.never_charges

    @property
    def identity(self) -> bytes | None:
        """What makes another call the same question; None before it was read, and where it cannot be."""
        return self._work.identity

    @property
    def is_repeat(self) -> bool:
        """Whether its next attempt repeats one. To ask again for a number that is checked is a question of its own."""
        return self._work.is_repeat

    @property
    def awaits_callback(self) -> bool:
        """Whether its answer is to come by callback."""
        return self._work.awaits_callback

    @property
    def over(self) -> Over:
        """The state of a call that nothing more is done for."""
        return Over(self._work.signal)

    def outcome(self) -> Answered[Any] | Failed:
        """Its outcome, once it is settled."""
        work = self._work
        return outcome_of(self.index, self.call, work.reply, work.error, work.attempts)

    # ---------------------------------------------------------------------------------------- what is done to it

    def question(self) -> Ask | None:
        """What a ledger is asked of it; None where that is not known yet, or it cannot be sent."""
        return self._work.question()

    def accept(self, stored: Stored) -> bool:
        """Take the answer that a ledger has; False if it cannot be read."""
        return self._work.accept(stored)

    def identify(self, is_known: Callable[[bytes], bool]) -> Coroutine[Any, Any, bool]:
        """Read what it holds. What is known by its identity is not encoded."""
        return self._work.prepare(identify=True, is_known=is_known)

    def attempt(self, *, trial: bool) -> Coroutine[Any, Any, float | Busy | None]:
        """Make one attempt; `trial` if it only tries whether the vendor is there again. `state` says what it means."""
        self._work.trial = trial
        return self._work.attempt()

    def state(self, wait: float | Busy | None) -> State:
        """What the attempt came to."""
        work = self._work
        if wait is not None:
            return Again(wait, work.signal)
        if work.awaits_callback:
            return Awaiting(work.patience_left, work.signal)
        return Over(work.signal)

    def release(self) -> None:
        """Let go of what was read: another call asks the same."""
        self._work.release()

    def fail(self, error: AISolutionError) -> None:
        """End it with `error`, unless it has its reply."""
        if self._work.reply is None:
            self._work.error = error.with_traceback(None)

    def conclude(self, text: str, *, anew: bool = False) -> None:
        """End it as it stands: by what its latest attempt came to, or by `text`, which says why there was none.

        `anew` replaces an error that it has.
        """
        if self._work.reply is None and (anew or self._work.error is None):
            self._work.conclude(text)

    def pause_to_recheck(self, recheck: Recheck, now: float) -> float | None:
        """Seconds until it is asked again because WhatsApp is still checking its number; None if it is not to be."""
        reply = self._work.reply
        if not isinstance(reply, WhatsAppProfile) or reply.whatsapp != WhatsAppState.CHECKING:
            return None
        if getattr(self.call, "callback", None):
            return None  # the answer comes by callback, and the contract forbids asking twice
        if self._checking_since is None:
            self._checking_since, self._pause = now, recheck.first
        else:
            self._pause = min(2 * self._pause, recheck.longest)
        if now + self._pause > self._checking_since + recheck.give_up:
            return None
        self._work.ask_again()
        return self._pause

    # -------------------------------------------------------------------------------------- answers by callback

    def call_back(self, hear: Callable[[Task], None]) -> None:
        """Have `hear` called when its answer came by callback, or when it is time to ask."""
        self._work.call_back = functools.partial(hear, self)

    def wait_for(self, busy: Busy) -> Coroutine[Any, Any, None]:
        """Wait until the same call, under way elsewhere, has ended."""
        return self._work.wait_for(busy)

    def give_up_callback(self) -> bool:
        """The callback is late. Whether the number is to be asked for again, without one."""
        return self._work.give_up_callback()

    def leave_inbox(self, *, share: bool) -> None:
        """It waits for no callback any more. `share`: whether others that do have what came of it."""
        self._work.leave_inbox(share=share)
