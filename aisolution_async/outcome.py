"""What came of one call of a batch: an answer or a failure, each a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal

from aisolution_async.api import Call, R, R_co, Reply
from aisolution_async.charges import Attempt, Charge, overall
from aisolution_async.errors import AISolutionError, Key


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call: `reply` or `error`, never both, never neither. It is an `Answered` or a `Failed`.

    `index` is the call's place in the input, from 0; `call` what was asked (None where the input held no
    call), `key` the call's own key. `charge` is what the call cost over all its `attempts`. `answered_by` is
    the index of the call whose answer this is, where the same was asked before: then nothing was sent for
    this one, and it was free. So it is with a reply `from_ledger`.
    """

    index: int
    key: Key
    call: Call[Any] | None
    reply: Reply | None
    error: AISolutionError | None
    attempts: tuple[Attempt, ...]
    answered_by: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a reply."""
        return self.error is None

    @property
    def charge(self) -> Charge:
        """What the call cost."""
        return overall(self.attempts) if self.error is None else self.error.charge

    @property
    def from_ledger(self) -> bool:
        """Whether the reply was in the ledger, from an earlier call; `reply.answered_at` says when."""
        return self.reply is not None and self.reply.recorded is not None

    @property
    def recorded(self) -> Attempt | None:
        """The attempt of an earlier call that the ledger answers from, or holds this call for; else None.

        `recorded.charge` is what that call cost then, and `recorded.number` how many attempts it took.
        """
        return getattr(self.error if self.reply is None else self.reply, "recorded", None)


@dataclass(frozen=True, slots=True)
class Answered(Outcome, Generic[R_co]):
    """The vendor answered, now or before: `case Answered(key, reply)`."""

    __match_args__ = ("key", "reply")

    call: Call[R_co]
    reply: R_co
    error: None

    @property
    def ok(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class Failed(Outcome):
    """There is no answer: `case Failed(key, error)`. `error.charge` says what that cost."""

    __match_args__ = ("key", "error")

    reply: None
    error: AISolutionError

    @property
    def ok(self) -> Literal[False]:
        return False


def outcome_of(
    index: int, call: Call[R], reply: R | None, error: AISolutionError | None, attempts: tuple[Attempt, ...]
) -> Answered[R] | Failed:
    """The outcome of a call that ended in `reply` or in `error`."""
    if reply is not None:
        return Answered(index, call.key, call, reply, None, attempts)
    assert error is not None
    return Failed(index, call.key, call, None, error, attempts)
