"""Whether an answer is about the number that was asked."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from enum import Enum
from typing import Protocol

from aisolution_async.ledger.store import Result, Started

_log = logging.getLogger(__name__)

# Digits as people write them. Anything else in it, an asterisk say, and the number proves nothing.
_NUMBER = re.compile(r"\s*\+?[0-9\s()/-]*[0-9][0-9\s()/-]*", re.ASCII)
_NO_DIGIT = re.compile(r"[^0-9]+")
_COMPARED = 6  # digits at the end: what stands before them may be a country's code, or a zero in its place
_FIRST = 3

STOPPED = (
    f"the first {_FIRST} answers that named a number all named another one than was asked, so no answer can be told "
    "from one that belongs to another call; a server for tests must answer with the number that it was asked"
)
"""Why nothing more is sent: see `Echo`."""


def differs(asked: str, said: str | None) -> bool | None:
    """Whether `said` is surely another number than `asked`; None where there is nothing to compare.

    The two may be written in different ways: with the country's code or without it, with a zero in its place or not.
    So the last six digits are compared, or as many as the shorter one has without the zeros before it.
    """
    if not asked or not said:
        return None
    if asked[-_COMPARED:] == said[-_COMPARED:]:
        return False  # nearly always: the rest takes ten times as long
    if not (_NUMBER.fullmatch(asked) and _NUMBER.fullmatch(said)):
        return None
    wanted, given = (_NO_DIGIT.sub("", number).lstrip("0") for number in (asked, said))
    compared = min(_COMPARED, len(wanted), len(given))
    return wanted[-compared:] != given[-compared:] if compared else None


class Recorder(Protocol):
    """Where what came of an attempt is recorded: see `Store.end`."""

    def end(self, started: Started, result: Result) -> Awaitable[None]:
        """Record it."""


class Seen(Enum):
    """What an `Echo` has seen so far."""

    NOTHING = "nothing"
    ECHO = "echo"
    CONVENTION = "convention"


_NOTHING = Seen.NOTHING  # looked up for every answer: an Enum takes its time


class Echo:
    """Whether a vendor's answers name the number that was asked. One for each client; its states:

    NOTHING     no answer has named the number that was asked. The first that does → ECHO. The first three that name a
                number, and another one → CONVENTION. Until then each of these is unknown, and held.
    ECHO        an answer that names another number is another call's: unknown, and held. For good.
    CONVENTION  this server answers so: nothing more is sent to it, and nothing is held for the answers that showed it.
                For good.
    """

    __slots__ = ("_differing", "_held", "state")

    def __init__(self) -> None:
        self.state = Seen.NOTHING
        self._differing = 0
        self._held: list[tuple[Recorder, Started, Result]] = []

    def is_another(self, asked: str, said: str | None) -> bool:
        """Whether the answer that names `said` is surely about another number than `asked`."""
        different = differs(asked, said)
        if self.state is _NOTHING and different is not None:
            self._differing += 1
            if not different:
                self.state = Seen.ECHO
                self._held.clear()
            elif self._differing == _FIRST:
                self.state = Seen.CONVENTION
                _log.error("nothing more is sent: %s", STOPPED)
        return different is True

    @property
    def holds(self) -> bool:
        """Whether an answer about another number holds its call."""
        return self.state is not Seen.CONVENTION

    def keep(self, store: Recorder, started: Started, result: Result) -> None:
        """This attempt, answered for another number, is recorded as holding its call."""
        if self.state is Seen.NOTHING:
            self._held.append((store, started, result))

    def let_go(self) -> list[tuple[Recorder, Started, Result]]:
        """The attempts that hold their calls and are not to: each is given once."""
        if self.holds:
            return []
        held, self._held = self._held, []
        return held
