"""A call in a batch: its place in the input, and what only a batch asks of a call on its way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from aisolution_async import clock
from aisolution_async.api import Call, WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Tally
from aisolution_async.checks import is_number
from aisolution_async.errors import ConfigurationError
from aisolution_async.inbox import Inbox
from aisolution_async.outcome import Answered, Failed, outcome_of
from aisolution_async.sending.call import Sending
from aisolution_async.sending.options import Options
from aisolution_async.sending.shared import Shared
from aisolution_async.sending.states import Over

_NOT_OVER: Over[Any] = Over(None, None)


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
        good = all(map(is_number, (self.first, self.longest, self.give_up)))
        if not (good and 0 < self.first <= self.longest < math.inf and 0 <= self.give_up < math.inf):
            raise ConfigurationError("Recheck needs 0 < first <= longest and give_up >= 0, in seconds")


class Task(Sending[Any]):
    """A call on its way, at its place in a batch's input."""

    __slots__ = ("_checking_since", "_pause", "index")

    def __init__(  # noqa: PLR0917  # made for each call: to match names takes time
        self, index: int, shared: Shared, options: Options, call: Call[Any], tally: Tally, inbox: Inbox | None
    ) -> None:
        super().__init__(shared, options, call, tally, inbox)
        self.index = index
        self._checking_since: float | None = None
        self._pause = 0.0

    @property
    def end(self) -> Over[Any]:
        """How the call ended; with neither a reply nor an error while it is not over."""
        return self.state if isinstance(self.state, Over) else _NOT_OVER

    @property
    def may_share(self) -> bool:
        """Whether it may have the answer of a call that asks the same. One that adds or deletes a face may not."""
        return not self.call.endpoint.never_charges

    def outcome(self) -> Answered[Any] | Failed:
        """The call's outcome, once it is over."""
        over = self.state
        assert isinstance(over, Over)
        return outcome_of(self.index, self.call, over.reply, over.error, self.attempts)

    def pause_to_recheck(self, recheck: Recheck) -> float | None:
        """Seconds until it is asked again because WhatsApp is still checking its number; None if it is not to be."""
        reply = self.end.reply
        if not isinstance(reply, WhatsAppProfile) or reply.whatsapp != WhatsAppState.CHECKING:
            return None
        if getattr(self.call, "callback", None):
            return None  # the answer comes by callback, and the contract forbids asking twice
        now = clock.now()
        if self._checking_since is None:
            self._checking_since, self._pause = now, recheck.first
        else:
            self._pause = min(2 * self._pause, recheck.longest)
        if now + self._pause > self._checking_since + recheck.give_up:
            return None
        self.ask_again()
        return self._pause
