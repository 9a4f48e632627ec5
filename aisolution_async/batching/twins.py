"""Calls that ask the same: one of them is asked, the others have its answer."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from aisolution_async.api import Endpoint, Reply
from aisolution_async.batching.task import Task
from aisolution_async.charges import Charge
from aisolution_async.errors import AISolutionError, OutcomeUnknownError
from aisolution_async.outcome import Answered, Failed
from aisolution_async.sending.finding import may_be_bought
from aisolution_async.wire import envelope

REMEMBERED = 10_000
"""The latest answers of a batch that are kept for calls that ask the same."""


@dataclass(frozen=True, slots=True)
class Asks:
    """The call is the first of its kind: it has to be asked."""


@dataclass(frozen=True, slots=True)
class Follows:
    """Another call asks the same just now: when that is over, `Twins.part` says what becomes of this one."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Item `index` of the input asked the same, and this came of it."""

    index: int
    answer: Reply | AISolutionError

    def outcome(self, task: Task) -> Answered[Any] | Failed:
        """The outcome of a call that shares it: nothing was sent for it, and it was free."""
        call, answer = task.call, self.answer
        if isinstance(answer, Reply):
            reply = answer.model_copy().made_by(())
            return Answered(task.index, call.key, call, reply, None, (), self.index)
        error = copy.copy(answer)
        name = call.endpoint.name
        error.args = (f"{name}: not sent: item {self.index} asked the same, and that ended so: {answer}",)
        error.key, error.attempts, error.charge = call.key, (), Charge.FREE
        if isinstance(error, OutcomeUnknownError) and error.recorded is None:
            held = [each for each in answer.attempts if each.charge is Charge.UNKNOWN and each.recorded]
            error.recorded = held[-1] if held else None  # of another call, as this one sees it
        return Failed(task.index, call.key, call, None, error, (), self.index)


@dataclass(frozen=True, slots=True)
class Parting:
    """What becomes of the calls that followed one that is over.

    `followers` are over with it: with what they share, or as they stand. Else one of them, the `heir`, asks in its
    place, and the others follow that one.
    """

    followers: list[Task]
    shares: Shares | None
    heir: Task | None


# The item that was asked, and what came of it: an error, or the reply as JSON or as the body that it was read from.
# Either takes a third of the reply's memory, and a reply is seldom asked for again.
_Known = tuple[int, AISolutionError | None, bytes | None, bytes | None]


def _shared(known: _Known, endpoint: Endpoint[Any]) -> Shares:
    index, error, recorded, body = known
    if error is not None:
        return Shares(index, error)
    if body is not None:
        reply = envelope.read(endpoint, 200, body).reply
    else:
        assert recorded is not None
        reply = endpoint.reply.from_record(recorded)
    assert reply is not None  # it was read from the same before
    return Shares(index, reply)


class Twins:
    """Who asks what, who follows whom, and the latest answers. A call is known by its identity."""

    def __init__(self) -> None:
        self.following = 0
        """How many calls follow another."""
        self._leaders: dict[bytes, Task] = {}
        self._followers: dict[bytes, list[Task]] = {}  # only of leaders that have any
        self._answers: OrderedDict[bytes, _Known] = OrderedDict()

    def leads(self, task: Task) -> bool:
        """Whether the call is the one of its kind that is asked."""
        identity = task.identity
        return identity is not None and self._leaders.get(identity) is task

    def knows(self, identity: bytes) -> bool:
        """Whether the same is answered, or being asked."""
        return identity in self._answers or identity in self._leaders

    def place(self, task: Task) -> Asks | Shares | Follows:
        """What the call does: ask, share what was answered, or follow another. Without an identity it asks."""
        identity = task.identity
        if identity is None:
            return _ASKS
        if (known := self._answers.get(identity)) is not None:
            self._answers.move_to_end(identity)
            return _shared(known, task.call.endpoint)
        if self._leaders.setdefault(identity, task) is task:
            return _ASKS
        self._followers.setdefault(identity, []).append(task)
        self.following += 1
        return _FOLLOWS

    def part(self, leader: Task, *, stopping: bool) -> Parting | None:
        """The call is over, and its answer remembered. None if no other followed it.

        `stopping`: whether nothing more is asked, so that there is no heir.
        """
        identity = leader.identity
        if identity is None or self._leaders.get(identity) is not leader:
            return None
        del self._leaders[identity]
        end = leader.end
        reply, error = end.reply, end.error
        shared: Reply | AISolutionError | None = reply
        if reply is not None:
            if reply.is_answer:
                recorded = end.recorded
                if recorded is None and end.body is None:
                    recorded = reply.to_json()
                self._remember(identity, (leader.index, None, recorded, end.body))
        elif error is not None and may_be_bought(leader.attempts, error):
            shared = error
            self._remember(identity, (leader.index, error, None, None))
        followers = self._followers.pop(identity, None)
        if followers is None:
            return None
        self.following -= len(followers)
        if shared is not None or stopping:
            return Parting(followers, None if shared is None else Shares(leader.index, shared), None)
        heir, *others = followers
        self._leaders[identity] = heir
        if others:
            self._followers[identity] = others
            self.following += len(others)
        return Parting([], None, heir)

    def forget(self) -> None:
        """The batch is over."""
        self._answers.clear()

    def _remember(self, identity: bytes, known: _Known) -> None:
        self._answers[identity] = known
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)


_ASKS, _FOLLOWS = Asks(), Follows()
