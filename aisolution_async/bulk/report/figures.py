"""What is found out about a ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from aisolution_async.ledger import State

MOST_HELD = 30
"""How many of the held calls are listed."""
MOST_BINS = 48
"""How many steps of time a chart has at most."""
PAUSE = 15 * 60
"""Seconds without any answer after which another run is taken to begin."""
IN_A_ROW = 10
"""How many answers in a row must say "busy", or not come, for it to be called a time of trouble."""
OTHERS = "other endpoints"

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
# Currencies in which prices are whole numbers.
_WHOLE = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "IDR", "ISK", "JPY", "KMF", "KRW", "LAK", "MMK", "PYG", "RWF", "UGX", "VND", "VUV")
)
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_LONG_STEPS = (1, 2, 7, 14, 28, 91, 182, 364, 728, 1456)  # days


# ------------------------------------------------------------------------------------------------- what was found


@dataclass(slots=True)
class Money:
    """Counts of attempts, and money in millionths.

    `charged`, `free` and `unknown` are all of them; `not_sent` are those of the free that never left. `unpriced`
    are charged without a recorded price.
    """

    charged: int = 0
    free: int = 0
    unknown: int = 0
    not_sent: int = 0
    cost: int = 0
    at_risk: int = 0
    unpriced: int = 0

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.charged + self.free + self.unknown

    def add(self, state: str, count: int, price: int) -> None:
        """Count attempts of one state and price in."""
        if state == State.CHARGED:
            self.charged += count
            self.cost += count * price
            self.unpriced += 0 if price else count
        elif state in (State.FREE, State.NOT_SENT):
            self.free += count
            self.not_sent += count if state == State.NOT_SENT else 0
        else:
            self.unknown += count
            self.at_risk += count * price


@dataclass(slots=True)
class Failure:
    """Attempts that brought no answer for one cause; `cause` is a name in `words.CAUSES`.

    `open` counts calls whose last attempt this was, and which have no answer: where that can be told (`tied`).
    """

    cause: str
    attempts: int = 0
    open: int = 0
    tied: int = 0
    by_endpoint: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """A call that is held. `key` is the user's, as text; None where it has none. `price` is in millionths."""

    id: int
    key: str | None
    endpoint: str
    started_at: datetime | None
    state: str
    problem: str
    price: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of attempts that the vendor answered, whatever it said, in seconds: of the nearest rank, true to 1 %."""

    count: int
    p50: float
    p90: float
    p99: float
    longest: float


@dataclass(slots=True)
class Span:
    """A stretch of time with attempts in it: a run, or a time of trouble. `kinds` counts what they came to."""

    start: int
    end: int
    attempts: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def seconds(self) -> float:
        """How long it was."""
        return (self.end - self.start) / _SECOND


@dataclass(frozen=True, slots=True)
class Steps:
    """Time in steps of the same length, in microseconds since 1970; `first` is where the first one starts."""

    first: int
    length: int
    count: int

    @classmethod
    def over(cls, first: int, last: int) -> Steps:
        """The fewest and roundest steps from `first` to `last`. Days and weeks begin at midnight UTC."""
        lengths = [*(s * _SECOND for s in _STEPS), *(d * _DAY for d in _LONG_STEPS)]
        for length in lengths:
            # 1970 began on a Thursday: a step of weeks begins on a Monday.
            start = first - (first + (3 * _DAY if length % (7 * _DAY) == 0 else 0)) % length
            count = (last - start) // length + 1
            if count <= MOST_BINS:
                break
        return cls(start, length, count)

    def start(self, number: int) -> datetime:
        """When a step begins."""
        return moment(self.first + number * self.length)


@dataclass(slots=True)
class Figures:
    """All that a report shows. Empty counters where there is nothing."""

    name: str
    currency: str = ""
    money: Money = field(default_factory=Money)
    by_endpoint: dict[str, Money] = field(default_factory=dict)
    by_day: dict[int, dict[str, Money]] = field(default_factory=dict)
    """By the day's number since 1970 (the Monday's, the first of the month's … where there are many) and endpoint."""
    unit: str = "day"
    """What `by_day` is by: day, week, month or year."""
    answered: int = 0
    emptied: int = 0
    """Attempts with an answer that was purged."""
    under_way: int = 0
    under_way_price: int = 0
    strange_times: int = 0
    first: datetime | None = None
    last: datetime | None = None
    failures: list[Failure] = field(default_factory=list)
    similarity: dict[str, dict[str, Counter[int]]] = field(default_factory=dict)
    """By endpoint, judgment and lower end of a bin of two points."""
    searched: int = 0
    nobody: int = 0
    confidence: Counter[int] = field(default_factory=Counter)
    whatsapp: Counter[str] = field(default_factory=Counter)
    business: Counter[str] = field(default_factory=Counter)
    avatar: Counter[str] = field(default_factory=Counter)
    numbers: dict[int, Counter[str]] = field(default_factory=dict)
    """By the number of an attempt within its call, 6 for 6 and more: how many were answered, and were not."""
    steps: Steps | None = None
    through: dict[str, list[int]] = field(default_factory=dict)
    """Attempts that ended in each step, by charge."""
    latency: dict[str, Percentiles] = field(default_factory=dict)
    latency_over_time: dict[str, dict[int, Percentiles]] = field(default_factory=dict)
    busiest: tuple[datetime, int] | None = None
    runs: list[Span] = field(default_factory=list)
    run_count: int = 0
    troubles: list[Span] = field(default_factory=list)
    trouble_count: int = 0
    held: list[HeldAttempt] = field(default_factory=list)
    held_count: int = 0
    unsettled: int = 0
    """Of the held calls, those of which nobody knows whether they were charged."""

    def amount(self, millionths: int) -> str:
        """Money as it is shown."""
        return amount_of(millionths, self.currency)


def amount_of(millionths: int, currency: str) -> str:
    """Money, with the digits that it has, and two behind the point at least, where the currency has such."""
    whole, _, rest = f"{Decimal(millionths).scaleb(-6):,.6f}".partition(".")
    rest = rest.rstrip("0")
    number = whole if currency in _WHOLE and not rest else f"{whole}.{rest:0<2}"
    return f"{currency} {number}".strip()


def moment(micros: int) -> datetime:
    """Microseconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(micros // _SECOND, UTC) + timedelta(microseconds=micros % _SECOND)
