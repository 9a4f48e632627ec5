"""A ledger read into figures: counted in SQL, in one look at the file, so that memory does not grow with it."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json

from aisolution_async.api import ENDPOINTS, Judgment, WhatsAppState
from aisolution_async.ledger import State, schema
from aisolution_async.ledger.rows import AT_STAKE, HOLDING
from aisolution_async.ledger.urls import Place, copied

T = TypeVar("T")

MOST_HELD = 30
"""How many of the held calls are listed."""
MOST_BINS = 48
"""How many steps of time a chart has at most."""
PAUSE = 15 * 60
"""Seconds without any answer after which another run is taken to begin."""
IN_A_ROW = 10
"""How many answers in a row must say "busy", or not come, for it to be called a time of trouble."""
OTHERS = "other endpoints"

_MOST_ENDPOINTS = 12
_MOST_LISTED = 12
_LONGEST = 200
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
# What lies outside was written by a clock that was wrong, or by somebody else: no axis should stretch to it.
_FROM, _TO = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * _SECOND for year in (2000, 2100))
_LONGEST_ATTEMPT = _DAY
_FACTOR = 1 << 20
_STATES = (State.CHARGED, State.FREE, State.NOT_SENT, State.UNKNOWN)
_MOST_PRICE = 10**12
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

    def add(self, state: str, count: int, price: int, unpriced: int) -> None:
        """Count attempts of one state in."""
        if state == State.CHARGED:
            self.charged += count
            self.cost += price
            self.unpriced += unpriced
        elif state in (State.FREE, State.NOT_SENT):
            self.free += count
            self.not_sent += count if state == State.NOT_SENT else 0
        else:
            self.unknown += count
            self.at_risk += price


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
    """Of attempts that the vendor answered, whatever it said, in seconds. Exact: of the nearest rank."""

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


def moment(micros: int) -> datetime:
    """Microseconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(micros // _SECOND, UTC) + timedelta(microseconds=micros % _SECOND)


# ------------------------------------------------------------------------------------------------------ the reading


def read(path: Place, *, busy_timeout: float = 10.0) -> Figures:
    """The figures of the ledger at `path`. Raises LedgerError: it is not there, or older, newer, damaged."""
    if not isinstance(path, Path):
        with copied(path) as db:
            return _Reading(db, path.name).figures()
    try:
        with closing(schema.connect_to_read(path, busy_timeout=busy_timeout)) as db:
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            db.execute("BEGIN")  # one state of the file, whoever writes meanwhile
            return _Reading(db, path.name).figures()
    except sqlite3.Error as exc:
        raise schema.fault(path, exc) from None


# Why an attempt brought no answer; NULL where it did. The words of `error` are the client's own.
_CAUSE = """CASE
    WHEN answer THEN NULL
    WHEN state = 'not sent' THEN CASE
        WHEN error LIKE 'no connection%' THEN 'unreachable'
        WHEN error LIKE 'cancelled%' THEN 'cancelled'
        WHEN error LIKE '%deadline%' OR error LIKE 'no free connection%' THEN 'late'
        ELSE 'not sent' END
    WHEN status = 'OK' THEN CASE WHEN error IS NULL THEN NULL ELSE 'unfit' END
    WHEN status IN ('INVALID_REQUEST', 'INVALID_INPUT') THEN 'invalid'
    WHEN status = 'IMAGE_INVALID_SIZE' THEN 'too large'
    WHEN status IN ('FACE_DETECT_FAILED', 'INVALID_FACE_NUM') THEN 'no face'
    WHEN status = 'RETRY_LATER' THEN
        CASE WHEN error LIKE '%FACE_DETECT_FAILED%' OR error LIKE '%no face was found%' THEN 'no face' ELSE 'busy' END
    WHEN status = 'FAIL' THEN 'failed'
    WHEN status = 'PERSON_ID_NOT_EXIST' THEN 'no person'
    WHEN status IS NOT NULL THEN 'undocumented'
    WHEN http_status IN (429, 503) THEN 'busy'
    WHEN http_status IN (401, 403) THEN 'token'
    WHEN http_status BETWEEN 400 AND 499 THEN 'refused'
    WHEN http_status IS NOT NULL THEN 'unreadable'
    WHEN error LIKE 'cancelled%' OR error LIKE '%before the answer;%' OR error LIKE '%before the answer' THEN 'ended'
    ELSE 'lost' END"""

# Causes that say that the vendor is busy or away, and, from _OURS on, those that say nothing of it.
_KINDS = ("busy", "unreachable", "lost", "unreadable", "cancelled", "ended", "late", "not sent")
_OURS = 4

# What came by callback has no HTTP status, and took as long as the vendor liked.
_TIMED = "(elapsed IS NOT NULL AND http_status IS NOT NULL)"

# Columns as they should be. SQLite keeps anything in any column, and somebody may have.
_SEEN = f"""SELECT id, identity, state, status, http_status, error, answer, reply, may_charge, number,
    CASE CAST(endpoint AS TEXT) {" ".join(f"WHEN :e{n} THEN {n}" for n in range(_MOST_ENDPOINTS))}
        ELSE {_MOST_ENDPOINTS} END AS endpoint,
    CASE WHEN typeof(price) = 'integer' AND price BETWEEN 0 AND {_MOST_PRICE} THEN price ELSE 0 END AS price,
    CASE WHEN typeof(started_at) = 'integer' AND started_at BETWEEN {_FROM} AND {_TO} THEN started_at END AS started_at,
    CASE WHEN typeof(elapsed) = 'integer' AND elapsed BETWEEN 0 AND {_LONGEST_ATTEMPT} THEN elapsed END AS elapsed
    FROM attempts"""

_MESSAGE = "CASE WHEN json_valid(CAST(reply AS TEXT)) THEN CAST(reply AS TEXT) END"
_SCORE = "CASE WHEN json_type({0}, '{1}') IN ('integer', 'real') THEN json_extract({0}, '{1}') END"


class _Reading:
    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self._db = db
        self._timed: Counter[tuple[int, int]] = Counter()
        self.found = Figures(name)
        top = db.execute(
            """SELECT CAST(endpoint AS TEXT), count(*) FROM (
                SELECT endpoint FROM attempts UNION ALL SELECT endpoint FROM intents
            ) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?""",
            (_MOST_ENDPOINTS,),
        )
        order = [*ENDPOINTS]
        present = sorted(
            (name for name, _ in top), key=lambda name: (order.index(name) if name in ENDPOINTS else len(order), name)
        )
        # In SQL an endpoint is its number here: numbers are compared faster than names.
        self._names: list[str] = [*present, *[""] * (_MOST_ENDPOINTS - len(present)), OTHERS]
        self._values = {f"e{number}": name for number, name in enumerate(self._names[:_MOST_ENDPOINTS])}

    def figures(self) -> Figures:
        self._count()
        self._fail()
        self._compare()
        self._search()
        self._whatsapp()
        self._follow()
        self._time()
        self._hold()
        return self.found

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        return self._db.execute(query, self._values)

    def _numbers_of(self, names: Iterable[str]) -> str:
        """These endpoints, as a list in SQL."""
        return f"({', '.join(str(self._names.index(name)) for name in names if name in self._names)})"

    def _in_order(self, found: Mapping[str, T]) -> dict[str, T]:
        return {name: found[name] for name in self._names if name in found}

    # ---------------------------------------------------------------------------------------------- what it cost

    def _count(self) -> None:
        found = self.found
        rows = self._rows("SELECT min(started_at), max(started_at), count(*) - count(started_at) FROM (" + _SEEN + ")")
        ((first, last, found.strange_times),) = rows
        if first is not None:
            found.first = moment(first)
            days = (last - first) // _DAY
            found.unit = "day" if days < 45 else "week" if days < 300 else "month" if days < 1500 else "year"
        never = [name for name, endpoint in ENDPOINTS.items() if endpoint.never_charges]
        # All that it is counted by in one number, which is sorted quicker: 5, 2, 2 and 3 bits below the day.
        counted = self._rows(
            f"""SELECT (ifnull(started_at / {_DAY}, -1) << 12) + (endpoint << 7)
                + (CASE state WHEN 'charged' THEN 0 WHEN 'free' THEN 1 WHEN 'not sent' THEN 2 ELSE 3 END << 5)
                + (CASE WHEN answer THEN 1 WHEN {_CAUSE} IS NULL AND reply IS NULL
                    AND (state = 'charged' OR endpoint IN {self._numbers_of(never)}) THEN 2 ELSE 0 END << 3)
                + CASE WHEN typeof(number) = 'integer' THEN max(1, min(number, 6)) ELSE 1 END,
                count(*), sum(CASE WHEN {AT_STAKE} THEN price ELSE 0 END), sum(price = 0)
            FROM ({_SEEN}) GROUP BY 1 ORDER BY 1"""
        )
        for packed, count, price, unpriced in counted:
            day, name, state = packed >> 12, self._names[packed >> 7 & 31], _STATES[packed >> 5 & 3]
            answered, number = packed >> 3 & 3, packed & 7
            places = [found.money, found.by_endpoint.setdefault(name, Money())]
            if day >= 0:
                of_day = found.by_day.setdefault(_period(day, found.unit), {})
                places.append(of_day.setdefault(name, Money()))
            for money in places:
                money.add(state, count, price, unpriced)
            found.answered += count if answered else 0
            found.emptied += count if answered == 2 else 0
            ends = found.numbers.setdefault(number, Counter())
            ends["answered" if answered else "not"] += count
        found.by_endpoint = self._in_order(found.by_endpoint)
        found.numbers = dict(sorted(found.numbers.items()))
        ((found.under_way, price),) = self._rows(
            f"""SELECT count(*), sum(CASE WHEN may_charge AND typeof(price) = 'integer'
                AND price BETWEEN 0 AND {_MOST_PRICE} THEN price ELSE 0 END) FROM intents"""
        )
        found.under_way_price = price or 0

    def _fail(self) -> None:
        """Causes by endpoint, and how many calls each left without an answer."""
        failures: dict[str, Failure] = {}
        later = "SELECT 1 FROM attempts AS other WHERE other.identity = seen.identity AND"
        rows = self._rows(
            f"""SELECT cause, endpoint, count(*), count(identity), sum(identity IS NOT NULL
                AND NOT EXISTS ({later} other.id > seen.id) AND NOT EXISTS ({later} other.answer))
            FROM (SELECT id, identity, endpoint, {_CAUSE} AS cause FROM ({_SEEN})) AS seen
            WHERE cause IS NOT NULL GROUP BY 1, 2"""
        )
        for cause, endpoint, count, tied, left in rows:
            failure = failures.setdefault(cause, Failure(cause))
            failure.attempts += count
            failure.tied += tied
            failure.open += left or 0
            failure.by_endpoint[self._names[endpoint]] += count
        said = self._rows(
            f"""SELECT cause, said, count(*) FROM (
                SELECT {_CAUSE} AS cause, substr(CAST(CASE WHEN status IS NOT NULL AND status <> 'OK' THEN status
                    WHEN http_status IS NOT NULL AND status IS NULL THEN 'HTTP ' || http_status
                    ELSE error END AS TEXT), 1, {_LONGEST}) AS said FROM ({_SEEN})
            ) WHERE cause IS NOT NULL AND said IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 2 LIMIT 100"""
        )
        for cause, words, count in said:
            if cause in failures and len(failures[cause].said) < 3:
                failures[cause].said[words] = count
        self.found.failures = sorted(failures.values(), key=lambda f: (-f.open, -f.attempts, f.cause))

    # --------------------------------------------------------------------------------------- what was answered

    def _compare(self) -> None:
        score = _SCORE.format("message", "$.similarity")
        rows = self._rows(
            f"""SELECT endpoint, judgment, CAST(score / 2 AS INTEGER) * 2 AS low, count(*) FROM (
                SELECT endpoint, json_extract(message, '$.result') AS judgment, {score} AS score FROM (
                    SELECT endpoint, {_MESSAGE} AS message FROM ({_SEEN})
                    WHERE answer AND endpoint IN {self._numbers_of(("facecompare", "idholding"))}))
            WHERE score BETWEEN 0 AND 100 GROUP BY 1, 2, 3"""
        )
        for endpoint, word, low, count in rows:
            judgment = word if word in set(Judgment) else "another word"
            judgments = self.found.similarity.setdefault(self._names[endpoint], {})
            judgments.setdefault(judgment, Counter())[min(low, 98)] += count

    def _search(self) -> None:
        found = self.found
        best = "(SELECT max({}) FROM json_each(message, '$.matches'))".format(_SCORE.format("value", "$.confidence"))
        searched = self._numbers_of(["searchface"])
        rows = self._rows(
            f"""SELECT CAST({best} / 2 AS INTEGER) * 2 AS low, count(*) FROM (
                SELECT {_MESSAGE} AS message FROM ({_SEEN}) WHERE answer AND endpoint IN {searched})
            WHERE json_type(message, '$.matches') = 'array' GROUP BY 1"""
        )
        for low, count in rows:
            found.searched += count
            if low is None:
                found.nobody += count
            elif 0 <= low <= 100:
                found.confidence[min(low, 98)] += count

    def _whatsapp(self) -> None:
        """What was said last of each number: one that is being checked is asked for again."""
        found = self.found
        later = "SELECT 1 FROM attempts AS other WHERE other.identity = seen.identity AND other.id > seen.id"
        fields = [f"json_extract(message, '$.{name}')" for name in ("whatsapp", "business_user", "avatar")]
        rows = self._rows(
            f"""SELECT {", ".join(fields)}, count(*) FROM (
                SELECT {_MESSAGE} AS message FROM ({_SEEN}) AS seen
                WHERE endpoint IN {self._numbers_of(["gliswadetail"])} AND reply IS NOT NULL
                    AND state <> 'unknown' AND (answer OR NOT EXISTS ({later} AND other.reply IS NOT NULL)))
            WHERE json_type(message, '$.whatsapp') IS NOT NULL GROUP BY 1, 2, 3"""
        )
        for said, business, avatar, count in rows:
            found.whatsapp[said if said in set(WhatsAppState) else "another word"] += count
            if said == WhatsAppState.YES:
                found.business[business if business in ("yes", "no") else "not said"] += count
                found.avatar[avatar if avatar in ("yes", "no") else "not said"] += count

    # ------------------------------------------------------------------------------------------- when, how fast

    def _follow(self) -> None:
        """Go through the attempts as they ended: pace, runs, times of trouble."""
        found = self.found
        ended = "started_at + ifnull(elapsed, 0)"
        ((first, last),) = self._rows(f"SELECT min({ended}), max({ended}) FROM ({_SEEN})")
        if first is None:
            return
        found.last = moment(last)
        found.steps = steps = Steps.over(first, last)
        zero, length = steps.first, steps.length
        through = [[0] * steps.count for _ in range(3)]
        found.through = dict(zip(("charged", "free", "unknown"), through, strict=True))
        run = trouble = None
        before, minute, in_minute, most, busiest = first, -1, 0, 0, 0
        kinds = "".join(f" WHEN '{name}' THEN {number}" for number, name in enumerate(_KINDS))
        # Numbers only: a text would be made anew for each row.
        rows = self._rows(
            f"""SELECT {ended}, CASE state WHEN 'charged' THEN 0 WHEN 'free' THEN 1 WHEN 'not sent' THEN 1 ELSE 2 END,
                CASE {_CAUSE} {kinds} ELSE -1 END, endpoint, {_TIMED}
            FROM ({_SEEN}) WHERE started_at IS NOT NULL ORDER BY 1, id"""
        )
        for at, charge, kind, endpoint, timed in rows:
            step = (at - zero) // length
            through[charge][step] += 1
            if timed:
                self._timed[endpoint, step] += 1
            if at // 60_000_000 != minute:
                minute, in_minute = at // 60_000_000, 0
            in_minute += 1
            if in_minute > most:
                most, busiest = in_minute, minute
            if run is None or at - before > PAUSE * _SECOND:
                self._end_run(run, trouble)
                run, trouble = Span(at, at), None
            run.end = before = at
            run.attempts += 1
            if kind < 0:
                self._end_trouble(trouble)
                trouble = None
            elif kind < _OURS:
                if trouble is None:
                    trouble = Span(at, at)
                trouble.end = at
                trouble.attempts += 1
                trouble.kinds[_KINDS[kind]] += 1
        self._end_run(run, trouble)
        found.troubles.sort(key=lambda span: span.start)
        found.busiest = (moment(busiest * 60_000_000), most)

    def _end_run(self, run: Span | None, trouble: Span | None) -> None:
        self._end_trouble(trouble)
        if run is not None:
            self.found.run_count += 1
            self.found.runs = [*self.found.runs[1 - _MOST_LISTED :], run]  # the latest stay

    def _end_trouble(self, trouble: Span | None) -> None:
        if trouble is None or trouble.attempts < IN_A_ROW:
            return
        self.found.trouble_count += 1
        kept = self.found.troubles
        kept.append(trouble)
        if len(kept) > _MOST_LISTED:  # the longest stay
            kept.remove(min(kept, key=lambda span: (span.seconds, span.attempts)))

    def _time(self) -> None:
        """Percentiles by endpoint, in steps of time and over all of it."""
        found, steps = self.found, self.found.steps
        if steps is None:
            return
        step = f"(started_at + elapsed - {steps.first}) / {steps.length}"
        for (endpoint, number), percentiles in self._percentiles(step, self._timed):
            found.latency_over_time.setdefault(self._names[endpoint], {})[number] = percentiles
        totals: Counter[tuple[int, int]] = Counter()
        for (endpoint, _), count in self._timed.items():
            totals[endpoint, 0] += count
        for (endpoint, _), percentiles in self._percentiles("0", totals):
            found.latency[self._names[endpoint]] = percentiles

    def _percentiles(
        self, step: str, totals: Mapping[tuple[int, int], int]
    ) -> Iterator[tuple[tuple[int, int], Percentiles]]:
        # One number for both makes the sorting quicker.
        rows = self._rows(
            f"""SELECT endpoint * {_FACTOR} + {step}, elapsed FROM ({_SEEN})
            WHERE started_at IS NOT NULL AND {_TIMED} ORDER BY 1, 2"""
        )
        for number, timed in groupby(rows, itemgetter(0)):
            place = divmod(number, _FACTOR)
            total = totals[place]
            # The nearest ranks, from 1.
            ranks = [-(-share * total // 100) for share in (50, 90, 99, 100)]
            found: list[float] = []
            for rank, (_, took) in enumerate(timed, 1):
                while len(found) < 4 and rank == ranks[len(found)]:
                    found.append(took / _SECOND)
            yield place, Percentiles(total, *found)

    # ------------------------------------------------------------------------------------------------ what is held

    def _hold(self) -> None:
        found = self.found
        # Ordered, it goes by the index of those that hold, and not by that of all identities.
        held = f"SELECT state FROM attempts WHERE {HOLDING} ORDER BY id LIMIT -1"
        ((found.held_count, found.unsettled),) = self._rows(f"SELECT count(*), total(state = 'unknown') FROM ({held})")
        found.unsettled = int(found.unsettled)
        rows = self._rows(
            f"""SELECT id, CAST(key AS TEXT), endpoint, started_at, state, error, status, price
            FROM ({_SEEN.replace("SELECT id,", "SELECT id, key,", 1)}
                WHERE {HOLDING} ORDER BY id DESC LIMIT {MOST_HELD})"""
        )
        for id_, key, endpoint, started_at, state, error, status, price in rows:
            when = None if started_at is None else moment(started_at)
            problem = str(error or status or "")[:_LONGEST]
            found.held.append(HeldAttempt(id_, _key(key), self._names[endpoint], when, state, problem, price))


def _key(text: str | None) -> str | None:
    """A key as its owner knows it: it is kept as JSON."""
    if text is None:
        return None
    key: Any = text
    with suppress(ValueError):
        key = from_json(text)
    return (key if isinstance(key, str) else text)[:_LONGEST]


def _period(day: int, unit: str) -> int:
    """The day that the period of this day begins with; both count from 1970."""
    if unit == "day":
        return day
    if unit == "week":
        return day - (day + 3) % 7
    date = moment(day * _DAY)
    return day - (date.day - 1) if unit == "month" else day - (date.timetuple().tm_yday - 1)
