"""A call in a batch: its place in the input, and what only a batch asks of a call on its way."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aisolution_async.api import Call, Reply, WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Attempt
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.ledger.store import Ask, Busy, Stored
from aisolution_async.outcome import Answered, Failed, outcome_of
from aisolution_async.sending.call import Sending
from aisolution_async.sending.states import Awaiting, Following, New, Over, Prepared, Resting


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

    __slots__ = ("_checking_since", "_pause", "_sending", "index")

    def __init__(self, index: int, sending: Sending[Any]) -> None:
        self.index = index
        self._sending = sending
        self._checking_since: float | None = None
        self._pause = 0.0

    # ------------------------------------------------------------------------------------------ how it stands

    @property
    def call(self) -> Call[Any]:
        """What is asked."""
        return self._sending.call

    @property
    def state(self) -> New | Prepared | Resting[Any]:
        """How far it is."""
        return self._sending.state

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts made for it."""
        return self._sending.attempts

    @property
    def end(self) -> tuple[Reply | None, AISolutionError | None]:
        """Its reply, or what it failed with; neither as long as it is not over."""
        state = self._sending.state
        return (state.reply, state.error) if isinstance(state, Over) else (None, None)

    @property
    def is_over(self) -> bool:
        """Whether it has its reply or its error."""
        return isinstance(self._sending.state, Over)

    @property
    def may_share(self) -> bool:
        """Whether it may have the answer of a call that asks the same. What adds or deletes a face may not."""
        return not self.call.endpoint.never_charges

    @property
    def identity(self) -> bytes | None:
        """What makes another call the same question; None before it was read, and where it cannot be."""
        return self._sending.identity

    @property
    def is_repeat(self) -> bool:
        """Whether its next attempt repeats one. To ask again for a number that is checked is a question of its own."""
        return self._sending.is_repeat

    @property
    def patience(self) -> float:
        """Seconds until its callback is late."""
        callback = self._sending.callback
        assert callback is not None
        return callback.patience_left

    def outcome(self) -> Answered[Any] | Failed:
        """Its outcome, once it is over."""
        reply, error = self.end
        return outcome_of(self.index, self.call, reply, error, self.attempts)

    # ---------------------------------------------------------------------------------------- what is done to it

    def question(self) -> Ask | None:
        """What a ledger is asked of it; None where that is not known yet, or it cannot be sent."""
        return self._sending.question()

    def accept(self, stored: Stored) -> bool:
        """Take the answer that a ledger has; False if it cannot be read."""
        return self._sending.accept(stored)

    def identify(self, is_known: Callable[[bytes], bool]) -> Coroutine[Any, Any, None]:
        """Read what it holds. What is known by its identity is not encoded."""
        return self._sending.prepare(is_known=is_known)

    async def attempt(self, *, trial: bool) -> Resting[Any]:
        """Make one attempt; `trial` if it only tries whether the vendor is there again. What it came to."""
        return await self._sending.step(trial=trial)

    def release(self) -> None:
        """Let go of what was read: another call asks the same."""
        self._sending.release()

    def fail(self, error: AISolutionError) -> Over[Any]:
        """End it with `error`, unless it is over."""
        return self._sending.fail(error.with_traceback(None))

    def conclude(self, text: str) -> Over[Any]:
        """End it as it stands: by what its latest attempt came to, or by `text`, which says why there was none."""
        return self._sending.conclude(text)

    def rest(self, busy: Busy) -> Coroutine[Any, Any, None]:
        """Wait until the same call, under way elsewhere, has ended."""
        return self._sending.rest(busy)

    def pause_to_recheck(self, recheck: Recheck, now: float) -> float | None:
        """Seconds until it is asked again because WhatsApp is still checking its number; None if it is not to be."""
        reply, _ = self.end
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
        self._sending.ask_again()
        return self._pause

    # -------------------------------------------------------------------------------------- answers by callback

    def call_back(self, hear: Callable[[Task], None]) -> None:
        """Have `hear` called when its answer came by callback, or when it is time to ask."""
        if self._sending.callback is not None:
            self._sending.callback.ring = functools.partial(hear, self)

    def give_up_callback(self) -> None:
        """The callback, if it waits for one, is late: its number is asked for again without, or the call is over."""
        if isinstance(self._sending.state, Awaiting | Following):
            self._sending.give_up_callback()

    def leave_inbox(self, *, share: bool) -> None:
        """It waits for no callback any more. `share`: whether others that do have what came of it."""
        self._sending.leave(share=share)
