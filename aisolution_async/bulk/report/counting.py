"""A ledger counted into figures, in SQL and in one look at the file: no row of an attempt comes out of SQLite.

So memory does not grow with the ledger, and a million attempts take some four seconds. What is counted by is packed
into one number for each attempt, and the numbers come out as one text for many attempts (`_tally`).
"""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json

from aisolution_async.api import ENDPOINTS, Judgment, WhatsAppState
from aisolution_async.bulk.report.buckets import BITS, bucket_in_sql, percentiles
from aisolution_async.bulk.report.figures import (
    IN_A_ROW,
    MOST_HELD,
    OTHERS,
    PAUSE,
    Failure,
    Figures,
    HeldAttempt,
    Money,
    Span,
    Steps,
    moment,
)
from aisolution_async.ledger import State, schema
from aisolution_async.ledger.rows import AT_STAKE, HOLDING
from aisolution_async.ledger.urls import Place, copied

T = TypeVar("T")

_MOST_ENDPOINTS = 12
_MOST_LISTED = 12
_MOST_SAID = 1000  # of which the three most frequent are shown
_LONGEST = 200
_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_DAY = 86_400 * _SECOND
# What lies outside was written by a clock that was wrong, or by somebody else: no axis should stretch to it.
_FROM, _TO = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * _SECOND for year in (2000, 2100))
_LONGEST_ATTEMPT = _DAY
_STATES = (State.CHARGED, State.FREE, State.NOT_SENT, State.UNKNOWN)
_ROLES = ("charged", "free", "free", "unknown")  # of each of these, in a chart
_MOST_PRICE = 10**12
_AT_ONCE = 50_000  # attempts that are counted at once
_BETWEEN = "id > :after AND id <= :last"
_BEFORE_ALL = -(1 << 63)
# Microseconds of a tick: runs are so exact. The shortest one of which there are not too many.
_TICKS = (10_000, 100_000, _SECOND, 5 * _SECOND, 15 * _SECOND, _MINUTE)
_MOST_TICKS = 100_000
_JUDGMENTS = (*Judgment, "another word")
_SAID = tuple(WhatsAppState)
_YES_OR_NO = ("yes", "no")


def read(path: Place, *, prices: Mapping[str, int] | None = None, busy_timeout: float = 10.0) -> Figures:
    """The figures of the ledger at `path`. Raises LedgerError: it is not there, or older, newer, damaged.

    `prices`, in millionths, are for charges that have no recorded price.
    """
    if not isinstance(path, Path):
        with copied(path) as db:
            return _Counting(db, path.name, prices or {}).figures()
    try:
        with closing(schema.connect_to_read(path, busy_timeout=busy_timeout)) as db:
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            db.execute("BEGIN")  # one state of the file, whoever writes meanwhile
            return _Counting(db, path.name, prices or {}).figures()
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
_OF_CAUSE = ("answer", "state", "status", "http_status", "error")

# Columns as they should be. SQLite keeps anything in any column, and somebody may have; what is no number is no number
# between two others either.
_STARTED = f"CASE WHEN started_at BETWEEN {_FROM} AND {_TO} THEN CAST(started_at AS INTEGER) END"
_ELAPSED = f"CASE WHEN elapsed BETWEEN 0 AND {_LONGEST_ATTEMPT} THEN CAST(elapsed AS INTEGER) END"
_PRICE = f"CASE WHEN price BETWEEN 0 AND {_MOST_PRICE} THEN CAST(price AS INTEGER) ELSE 0 END"


def _number_of(expression: str, names: Iterable[str], other: int) -> str:
    """Which of these names it is, in SQL."""
    whens = " ".join(f"WHEN '{name}' THEN {number}" for number, name in enumerate(names))
    return f"CASE {expression} {whens} ELSE {other} END"


class _Counting:
    def __init__(self, db: sqlite3.Connection, name: str, prices: Mapping[str, int]) -> None:
        self._db = db
        self._prices = prices
        self._tick = _MINUTE
        self._bounds = [_BEFORE_ALL]  # ids, between which there are so many attempts as are counted at once
        self.found = Figures(name)
        top = db.execute(
            """SELECT CAST(endpoint AS TEXT), sum(intended + charged + free + not_sent + unknown) FROM totals
            GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?""",
            (_MOST_ENDPOINTS,),
        ).fetchall()
        order = [*ENDPOINTS]
        self._names = sorted(
            (name for name, _ in top), key=lambda name: (order.index(name) if name in ENDPOINTS else len(order), name)
        )
        self._names.append(OTHERS)
        self._values = {f"e{number}": name for number, name in enumerate(self._names[:-1])}
        # In SQL an endpoint is its number here: numbers are compared faster than names. The most frequent come first.
        numbers = [self._names.index(name) for name, _ in top]
        whens = " ".join(f"WHEN :e{number} THEN {number}" for number in numbers)
        endpoint = f"CASE endpoint {whens} ELSE {len(top)} END" if top else "0"
        self._columns = {"endpoint": endpoint, "price": _PRICE, "started_at": _STARTED, "elapsed": _ELAPSED}

    def figures(self) -> Figures:
        if self._time():
            self._trouble()
        self._count()
        self._fail()
        self._answer()
        self._hold()
        return self.found

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        return self._db.execute(query, self._values)

    def _seen(self, *columns: str, where: str = "TRUE", most: int = -1) -> str:
        """A table of these columns, as they should be, of the attempts `where` the columns are so, as they are.

        LIMIT keeps SQLite from computing a column anew wherever it is used.
        """
        listed = ", ".join(f"{self._columns[name]} AS {name}" if name in self._columns else name for name in columns)
        return f"(SELECT {listed} FROM attempts WHERE {where} LIMIT {most})"

    def _tally(self, source: str, *keys: str) -> list[Counter[str]]:
        """How often each of the `keys` is what, in the table `source`, which says where :after and :last go.

        They come out of SQLite as one text for many attempts, which Python counts several times faster than SQLite
        sorts. NULL is not counted.
        """
        listed = ", ".join(f"group_concat({key}, char(10))" for key in keys)
        found: list[Counter[str]] = [Counter() for _ in keys]
        for after, last in pairwise(self._bounds):
            values = {**self._values, "after": after, "last": last}
            for counted, text in zip(
                found, self._db.execute(f"SELECT {listed} FROM {source}", values).fetchone(), strict=True
            ):
                counted.update(text.split("\n") if text else ())
        return found

    def _in_order(self, found: Mapping[str, T]) -> dict[str, T]:
        return {name: found[name] for name in self._names if name in found}

    # ------------------------------------------------------------------------------------------- when, how fast

    def _time(self) -> bool:
        """When it was: the steps of time that charts have. Whether there is any."""
        found = self.found
        rows = self._rows(
            f"""SELECT (SELECT count(*) FROM attempts) - count(*), min(started_at), max(started_at),
                max(CASE WHEN elapsed BETWEEN 0 AND {_LONGEST_ATTEMPT} THEN started_at + elapsed END)
            FROM attempts WHERE started_at BETWEEN {_FROM} AND {_TO}"""
        )
        ((found.strange_times, first, last, ended),) = rows
        following = f"SELECT max(id) FROM (SELECT id FROM attempts WHERE id > ? ORDER BY id LIMIT {_AT_ONCE})"
        while (bound := self._db.execute(following, self._bounds[-1:]).fetchone()[0]) is not None:
            self._bounds.append(bound)
        if first is None:
            return False
        first, last = int(first), int(max(last, ended or 0))
        found.first, found.last, found.steps = moment(first), moment(last), Steps.over(first, last)
        days = (last - first) // _DAY
        found.unit = "day" if days < 45 else "week" if days < 300 else "month" if days < 1500 else "year"
        self._tick = next(tick for tick in _TICKS if (last - first) // tick < _MOST_TICKS or tick == _MINUTE)
        return True

    def _follow(self, ticks: Mapping[int, int]) -> None:
        """Go through the attempts by when they ended: runs, and the busiest minute. A tick is a short time."""
        minutes: Counter[int] = Counter()
        run: Span | None = None
        for tick, count in sorted(ticks.items()):
            start = tick * self._tick
            minutes[start // _MINUTE] += count
            if run is None or start - run.end > PAUSE * _SECOND:
                self._end_run(run)
                run = Span(start, start)
            run.end = start + self._tick
            run.attempts += count
        self._end_run(run)
        if minutes:
            busiest, most = max(minutes.items(), key=lambda each: (each[1], -each[0]))
            self.found.busiest = (moment(busiest * _MINUTE), most)

    def _end_run(self, run: Span | None) -> None:
        if run is not None:
            self.found.run_count += 1
            self.found.runs = [*self.found.runs[1 - _MOST_LISTED :], run]  # the latest stay

    def _trouble(self) -> None:
        """Times in which the vendor was busy or away: attempts, as they were begun, with none in between answered."""
        kinds = ", ".join(f"count(*) FILTER (WHERE kind = {number})" for number in range(_OURS))
        rows = self._rows(
            f"""WITH bad AS (
                SELECT id, ended, kind, lag(id) OVER (ORDER BY id) AS before, lag(ended) OVER (ORDER BY id) AS was
                FROM (SELECT id, started_at + ifnull(elapsed, 0) AS ended, {_number_of(_CAUSE, _KINDS, -1)} AS kind
                    FROM {self._seen(*_OF_CAUSE, "id", "started_at", "elapsed", where="NOT answer")}
                    WHERE started_at IS NOT NULL) WHERE kind >= 0),
            parted AS (
                SELECT ended, kind, sum(before IS NULL OR ended - was > {PAUSE * _SECOND} OR (before < id - 1
                    AND EXISTS (SELECT 1 FROM attempts AS other WHERE other.id > before AND other.id < bad.id)))
                    OVER (ORDER BY id) AS time FROM bad)
            SELECT min(ended) FILTER (WHERE kind < {_OURS}) AS start, max(ended) FILTER (WHERE kind < {_OURS}) AS stop,
                count(*) FILTER (WHERE kind < {_OURS}) AS many, count(*) OVER (), {kinds}
            FROM parted GROUP BY time HAVING many >= {IN_A_ROW} ORDER BY stop - start DESC, many DESC, start
            LIMIT {_MOST_LISTED}"""  # the longest stay
        )
        for start, end, many, total, *counts in rows:
            self.found.trouble_count = total
            kinds_of = {kind: count for kind, count in zip(_KINDS, counts, strict=False) if count}
            self.found.troubles.append(Span(start, end, many, Counter(kinds_of)))
        self.found.troubles.sort(key=lambda span: span.start)

    # -------------------------------------------------------------------------- what it cost, and how long it took

    def _count(self) -> None:
        """Everything that is counted of every attempt, in one pass."""
        found, steps = self.found, self.found.steps
        # From the right: how long it took, the number within its call, whether it was answered, the state, the
        # endpoint, the step in which it ended, and the day. What is purged has no reply any more.
        never = ", ".join(f"'{name}'" for name, endpoint in ENDPOINTS.items() if endpoint.never_charges)
        kind = f"""({self._columns["endpoint"]} << 7) + ({_number_of("state", _STATES[:3], 3)} << 5)
            + (CASE WHEN answer THEN 1 WHEN reply IS NULL AND status = 'OK' AND error IS NULL
                AND (state = 'charged' OR (state <> 'not sent' AND endpoint IN ({never}))) THEN 2 ELSE 0 END << 3)
            + CASE WHEN number = 1 THEN 1 WHEN typeof(number) = 'integer' THEN max(1, min(number, 6)) ELSE 1 END
            AS kind"""
        price = f"CASE WHEN {AT_STAKE} THEN {_PRICE} ELSE 0 END AS price"
        # What came by callback has no HTTP status, and took as long as the vendor liked.
        timed = "http_status IS NOT NULL AS timed"
        source = self._seen(kind, price, timed, "started_at", "elapsed", where=_BETWEEN)
        ended = "started_at + ifnull(elapsed, 0)"
        step = "0" if steps is None else f"({ended} - {steps.first}) / {steps.length} + 1"
        packed = f"""(ifnull((started_at / {_DAY} + 1 << 7) + {step}, 0) << {BITS + 11}) + (kind << {BITS})
            + CASE WHEN timed AND elapsed IS NOT NULL AND started_at IS NOT NULL
                THEN 1 + {bucket_in_sql("elapsed")} ELSE 0 END"""
        cells, ticks = self._tally(
            source, f"CASE price WHEN 0 THEN {packed} ELSE ({packed}) || ':' || price END", f"({ended}) / {self._tick}"
        )
        self._follow({int(tick): count for tick, count in ticks.items()})
        if steps is not None:
            found.through = {name: [0] * steps.count for name in ("charged", "free", "unknown")}
        whole: Counter[tuple[int, int]] = Counter()
        latencies: dict[tuple[int, int], Counter[int]] = {}
        for cell, count in cells.items():
            text, _, price = cell.partition(":")
            number = int(text)
            bucket, rest = number & (1 << BITS) - 1, number >> BITS
            whole[rest, int(price or 0)] += count
            if bucket:
                latencies.setdefault((rest >> 7 & 15, rest >> 11 & 127), Counter())[bucket - 1] += count
        for (rest, each), count in whole.items():
            self._add(rest, each, count)
        found.by_endpoint = self._in_order(found.by_endpoint)
        found.numbers = dict(sorted(found.numbers.items()))
        found.by_day = dict(sorted(found.by_day.items()))
        self._percentiles(latencies)
        ((found.under_way, stake),) = self._rows(
            f"SELECT count(*), sum(CASE WHEN may_charge THEN {_PRICE} ELSE 0 END) FROM intents"
        )
        found.under_way_price = stake or 0

    def _add(self, rest: int, price: int, count: int) -> None:
        """Count attempts in that are alike: `rest` is all of the packed number but how long it took."""
        found = self.found
        number, answered, state, name = rest & 7, rest >> 3 & 3, rest >> 5 & 3, self._names[rest >> 7 & 15]
        step, day = rest >> 11 & 127, (rest >> 18) - 1
        if not price and _STATES[state] in (State.CHARGED, State.UNKNOWN):
            price = self._prices.get(name, 0)
        places = [found.money, found.by_endpoint.setdefault(name, Money())]
        if day >= 0:
            of_day = found.by_day.setdefault(_period(day, found.unit), {})
            places.append(of_day.setdefault(name, Money()))
        for money in places:
            money.add(_STATES[state], count, price)
        if step:
            found.through[_ROLES[state]][step - 1] += count
        found.answered += count if answered else 0
        found.emptied += count if answered == 2 else 0
        ends = found.numbers.setdefault(number, Counter())
        ends["answered" if answered else "not"] += count

    def _percentiles(self, times: Mapping[tuple[int, int], Counter[int]]) -> None:
        """Of each endpoint, in steps of time and over all of it."""
        found = self.found
        totals: dict[int, Counter[int]] = {}
        for (endpoint, step), counts in sorted(times.items()):
            found.latency_over_time.setdefault(self._names[endpoint], {})[step - 1] = percentiles(counts)
            totals.setdefault(endpoint, Counter()).update(counts)
        found.latency = {self._names[endpoint]: percentiles(counts) for endpoint, counts in totals.items()}

    def _fail(self) -> None:
        """Causes by endpoint, how many calls each left without an answer, and what was said."""
        failures: dict[str, Failure] = {}
        said = f"""substr(CAST(CASE WHEN status IS NOT NULL AND status <> 'OK' THEN status
            WHEN http_status IS NOT NULL AND status IS NULL THEN 'HTTP ' || http_status
            ELSE error END AS TEXT), 1, {_LONGEST}) AS said"""
        later = "SELECT 1 FROM attempts AS other WHERE other.identity = seen.identity AND"
        rows = self._rows(
            f"""SELECT cause, endpoint, said, count(*), count(identity), sum(identity IS NOT NULL
                AND NOT EXISTS ({later} other.id > seen.id) AND NOT EXISTS ({later} other.answer))
            FROM (SELECT id, identity, endpoint, said, {_CAUSE} AS cause
                FROM {self._seen("id", "identity", "endpoint", said, *_OF_CAUSE, where="NOT answer")} LIMIT -1) AS seen
            WHERE cause IS NOT NULL GROUP BY 1, 2, 3"""
        )
        for cause, endpoint, words, count, tied, left in rows:
            failure = failures.setdefault(cause, Failure(cause))
            failure.attempts += count
            failure.tied += tied
            failure.open += left or 0
            failure.by_endpoint[self._names[endpoint]] += count
            if words is not None and (words in failure.said or len(failure.said) < _MOST_SAID):
                failure.said[words] += count
        for failure in failures.values():
            failure.said = Counter(dict(sorted(failure.said.items(), key=lambda each: (-each[1], each[0]))[:3]))
        self.found.failures = sorted(failures.values(), key=lambda f: (-f.open, -f.attempts, f.cause))

    # --------------------------------------------------------------------------------------- what was answered

    def _answer(self) -> None:
        """What was answered; of a number, what was said last: one that is being checked is asked for again."""
        text = "CAST(reply AS TEXT) AS message"

        def replies(where: str, *names: str) -> str:
            held = ", ".join(f"'{name}'" for name in names)
            return self._seen("endpoint", text, where=f"{_BETWEEN} AND endpoint IN ({held}) AND {where}")

        faces = f"""(SELECT endpoint, json_extract(message, '$.result') AS said,
            json_extract(message, '$.similarity') AS score
            FROM {replies("answer", "facecompare", "idholding")} WHERE json_valid(message) LIMIT -1)"""
        judgment = _number_of("said", Judgment, len(Judgment))
        is_score = "typeof(score) IN ('integer', 'real') AND score BETWEEN 0 AND 100"
        low = f"CASE WHEN {is_score} THEN min(98, CAST(score / 2 AS INTEGER) * 2) END"
        for cell, count in self._tally(faces, f"(endpoint << 12) + ({judgment} << 8) + {low}")[0].items():
            packed = int(cell)
            judgments = self.found.similarity.setdefault(self._names[packed >> 12], {})
            judgments.setdefault(_JUDGMENTS[packed >> 8 & 15], Counter())[packed & 255] += count

        best = """SELECT max(CASE WHEN json_type(value, '$.confidence') IN ('integer', 'real')
            THEN json_extract(value, '$.confidence') END) FROM json_each(message, '$.matches')"""
        searches = f"""(SELECT ({best}) AS score FROM {replies("answer", "searchface")}
            WHERE json_valid(message) AND json_type(message, '$.matches') = 'array' LIMIT -1)"""
        for cell, count in self._tally(searches, f"ifnull({low}, 'nobody')")[0].items():
            self.found.searched += count
            if cell == "nobody":
                self.found.nobody += count
            else:
                self.found.confidence[int(cell)] += count

        later = "SELECT 1 FROM attempts AS other WHERE other.identity = attempts.identity AND other.id > attempts.id"
        last = f"(answer OR NOT EXISTS ({later} AND other.reply IS NOT NULL))"
        lookups = replies(f"reply IS NOT NULL AND state <> 'unknown' AND {last}", "gliswadetail")
        said = f"""CASE WHEN json_valid(message)
            THEN substr(json_extract(message, '$.whatsapp', '$.business_user', '$.avatar'), 1, {_LONGEST}) END"""
        for cell, count in self._tally(lookups, said)[0].items():
            self._add_lookups(cell, count)

    def _add_lookups(self, said: str, count: int) -> None:
        """Count numbers in of which that was said: whatsapp, business_user and avatar, as JSON."""
        try:
            whatsapp, business, avatar = from_json(said)
        except ValueError:  # it is longer than any word of the vendor's
            whatsapp, business, avatar = "", None, None
        if whatsapp is None:
            return
        found = self.found
        word = whatsapp if whatsapp in _SAID else "another word"
        found.whatsapp[word] += count
        if word == WhatsAppState.YES:
            found.business[business if business in _YES_OR_NO else "not said"] += count
            found.avatar[avatar if avatar in _YES_OR_NO else "not said"] += count

    # ------------------------------------------------------------------------------------------------ what is held

    def _hold(self) -> None:
        found = self.found
        # Ordered, it goes by the index of those that hold, and not by that of all identities.
        held = f"SELECT state FROM attempts WHERE {HOLDING} ORDER BY id LIMIT -1"
        ((found.held_count, found.unsettled),) = self._rows(f"SELECT count(*), total(state = 'unknown') FROM ({held})")
        found.unsettled = int(found.unsettled)
        newest = f"id IN (SELECT id FROM attempts WHERE {HOLDING} ORDER BY id DESC LIMIT {MOST_HELD})"
        columns = ("id", "CAST(key AS TEXT)", "endpoint", "started_at", "state", "error", "status", "price")
        rows = self._rows(f"SELECT * FROM {self._seen(*columns, where=newest)} ORDER BY id DESC")
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
