"""What an attempt cost: the three states, the record of one attempt, and the count of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, assert_never


class Charge(StrEnum):
    """What is known of the money after an attempt.

    - CHARGED: the vendor's answer is one that the contract marks as charged.
    - FREE: the answer is one that the contract marks as free, or the request was refused, or none of its bytes left.
    - UNKNOWN: bytes left, and no usable answer came back. Only the invoice can tell.
    """

    CHARGED = "charged"
    FREE = "free"
    UNKNOWN = "unknown"

    __hash__ = str.__hash__  # that of an Enum is of its name, and written in Python


_CHARGED, _FREE = Charge.CHARGED, Charge.FREE  # looked up for every attempt: an Enum takes its time


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request on the wire, or one that never got there.

    - `charge`: what it cost, a `Charge`.
    - `status`: the vendor's status, such as "OK". `http_status`: the HTTP code. Each is None if none came.
    - `started_at`: when it began, in UTC. `elapsed`: how long it took, in seconds.
    - `error`: in a few words, why no usable answer came; None if one came. It never holds anything secret.
    - `recorded`: whether the ledger has it; None if there is no ledger.
    - `number`: its place among the attempts of its call, from 1.
    - `id`: what the ledger calls it; None if it has none there, or where nobody needs it.
    """

    charge: Charge
    status: str | None
    http_status: int | None
    started_at: datetime
    elapsed: float
    error: str | None = None
    recorded: bool | None = None
    number: int = 1
    id: int | None = field(default=None, compare=False, repr=False)


class _OpenAttempt:
    """An `Attempt` while it is made."""

    __slots__ = Attempt.__slots__


def attempt_of(  # noqa: PLR0917  # made for each call: to match names takes time
    charge: Charge,
    status: str | None,
    http_status: int | None,
    started_at: datetime,
    elapsed: float,
    error: str | None,
    recorded: bool | None,
    number: int,
    id_: int | None = None,
) -> Attempt:
    """An attempt, at a fifth of the time that a frozen class takes to set its fields."""
    made: Any = _OpenAttempt()
    made.charge, made.status, made.http_status = charge, status, http_status
    made.started_at, made.elapsed, made.error = started_at, elapsed, error
    made.recorded, made.number, made.id = recorded, number, id_
    made.__class__ = Attempt
    return made  # type: ignore[no-any-return]  # what it is from now on


def noted(attempt: Attempt, *, recorded: bool, id_: int) -> Attempt:
    """The same attempt, with what is known of its record."""
    return attempt_of(
        attempt.charge,
        attempt.status,
        attempt.http_status,
        attempt.started_at,
        attempt.elapsed,
        attempt.error,
        recorded,
        attempt.number,
        id_,
    )


class Owed(Enum):
    """What is known of a question when its answer is called back: see `of_callback`."""

    ANSWER = "its answer, whose charge is nobody's yet, or is that of the request that named the callback"
    NO_CHARGE = "its answer, and the charge was counted: with its request, or with another writing of the number"
    NOTHING = "answered otherwise, by a later request; or it may be the callback of an earlier one"


def of_callback(said: Charge, owed: Owed) -> Charge:
    """What a callback cost. `said` is the charge of such an answer, were it the one to a request.

    A request and the callback that it named are one charge, and one callback is one charge. Whether a request that was
    answered is charged besides an earlier one whose callback comes all the same, only the invoice can tell.
    """
    match owed:
        case Owed.ANSWER:
            return said
        case Owed.NO_CHARGE:
            return _FREE
        case Owed.NOTHING:
            return Charge.UNKNOWN
        case _:
            assert_never(owed)


def besides_callback(charge: Charge, *, arrived: bool) -> Charge:
    """What a request cost that was answered by callback before it ended: the callback has the charge of both.

    `charge` is what the request would have cost alone, and `arrived` whether anything came back to it. What came and
    is not its answer, or cannot be read, says nothing of the callback's question: that stays UNKNOWN.
    """
    return charge if charge is Charge.UNKNOWN and arrived else _FREE


def overall(attempts: Iterable[Attempt]) -> Charge:
    """The charge of a call made of these attempts: the dearest thing that is known of any of them.

    CHARGED if one was charged (others may be UNKNOWN besides: the attempts say), else UNKNOWN if one is
    unknown, else FREE. No attempts at all are FREE.
    """
    found = {attempt.charge for attempt in attempts}
    for charge in (Charge.CHARGED, Charge.UNKNOWN):
        if charge in found:
            return charge
    return Charge.FREE


@dataclass(slots=True)
class Counts:
    """How many attempts ended in each state."""

    charged: int = 0
    free: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All attempts, whatever their charge."""
        return self.charged + self.free + self.unknown


class Tally:
    """A running count of attempts by endpoint and charge.

    `charged`, `free` and `unknown` are whole numbers of attempts; `by_endpoint` has the same three for each
    endpoint that was used, by the vendor's name for it (`"facecompare"`). Two tallies are equal when their
    counts are.
    """

    __slots__ = ("_by_endpoint",)

    def __init__(self) -> None:
        self._by_endpoint: dict[str, Counts] = {}

    def add(self, endpoint: str, charge: Charge, times: int = 1) -> None:
        """Count `times` more attempts on `endpoint` that ended as `charge`."""
        counts = self._by_endpoint.get(endpoint)
        if counts is None:
            counts = self._by_endpoint[endpoint] = Counts()
        if charge is _FREE:
            counts.free += times
        elif charge is _CHARGED:
            counts.charged += times
        else:
            counts.unknown += times

    @property
    def charged(self) -> int:
        """Attempts that were charged, on all endpoints."""
        return sum(counts.charged for counts in self._by_endpoint.values())

    @property
    def free(self) -> int:
        """Attempts that were free, on all endpoints."""
        return sum(counts.free for counts in self._by_endpoint.values())

    @property
    def unknown(self) -> int:
        """Attempts that may have been charged, on all endpoints: only the invoice can tell."""
        return sum(counts.unknown for counts in self._by_endpoint.values())

    @property
    def total(self) -> int:
        """All attempts, on all endpoints."""
        return self.charged + self.free + self.unknown

    @property
    def by_endpoint(self) -> Mapping[str, Counts]:
        """The same counts for each endpoint that was used, by the vendor's name for it (`"facecompare"`)."""
        return MappingProxyType(self._by_endpoint)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        return self._by_endpoint == other._by_endpoint

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # it changes as it counts

    def __repr__(self) -> str:
        return f"Tally(charged={self.charged}, free={self.free}, unknown={self.unknown})"
