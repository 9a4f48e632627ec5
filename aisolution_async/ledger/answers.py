"""What a ledger says of a question, read and never written: for who begins an attempt, and for who only looks."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from aisolution_async.ledger.rows import HOLDS, Row, Sql, asked_together, attempt_in, in_lots
from aisolution_async.ledger.store import Ask, Held, Stored

_COLUMNS = "state, started_at, elapsed, status, http_status, error, number, holds, answer, reply"
_EARLIER = f"SELECT {_COLUMNS}, id FROM attempts WHERE identity = ? AND (answer OR holds = {HOLDS}) ORDER BY id DESC"
# Of many questions at once only what `judged` uses: there may be years of answers to each.
_NEWEST = f"""SELECT {_COLUMNS}, id, place FROM asked JOIN attempts ON attempts.id = (SELECT id
    FROM attempts AS other WHERE other.identity = asked.identity AND other.answer ORDER BY other.id DESC LIMIT 1)"""
_NEWEST_AND_HOLDING = f"""{_NEWEST} UNION SELECT {_COLUMNS}, id, place
    FROM asked CROSS JOIN attempts ON attempts.identity = asked.identity WHERE holds = {HOLDS} ORDER BY id DESC"""
_KNOWN = """SELECT EXISTS (SELECT 1 FROM attempts WHERE identity = ?)
    OR EXISTS (SELECT 1 FROM intents WHERE identity = ?)"""
# One row, and so one step: each step of SQLite gives up the interpreter's lock, which a busy event loop gives back
# after 5 ms. The separators are in none of these texts: JSON escapes them, and a status is a word.
_ANSWERS = """SELECT group_concat(concat, char(30)) FROM (
        SELECT place || char(31) || started_at || char(31) || elapsed || char(31) || state || char(31)
            || ifnull(status, '') || char(31) || ifnull(http_status, '') || char(31) || number || char(31)
            || CAST(reply AS TEXT) AS concat
        FROM asked JOIN attempts ON attempts.id = (SELECT id FROM attempts AS other
            WHERE other.identity = asked.identity AND other.answer ORDER BY other.id DESC LIMIT 1))"""

_NOTHING: Mapping[bytes, list[Row]] = MappingProxyType({})


def of_many(sql: Sql, identities: Sequence[bytes], *, any_holding: bool) -> dict[bytes, list[Row]]:
    """By identity, the newest attempt with an answer and those that hold the question, as `judged` takes them."""
    found: dict[bytes, list[Row]] = {identity: [] for identity in identities}
    query = _NEWEST_AND_HOLDING if any_holding else _NEWEST
    for some in in_lots([*found]):
        for row in sql(*asked_together(query, some)):
            found[some[row[-1]]].append(row)
    return found


def look(sql: Sql, ask: Ask, now: int, foreseen: Mapping[bytes, list[Row]] = _NOTHING) -> Stored | Held | None:
    """What earlier attempts say: the answer, or that the question is held; None where they say neither.

    A lost attempt holds its question. A call may be sent again past as many of them as its `retry_unknown` says. (The
    rule for the call's own attempts is `retry.Retry.allows`.) `foreseen` has what `of_many` found, where it is so yet.
    """
    rows = foreseen.get(ask.identity)
    if rows is None:
        rows = sql(_EARLIER, (ask.identity,)).fetchall()
    return judged(rows, ask, now) if rows else None


def judged(rows: Sequence[Row], ask: Ask, now: int) -> Stored | Held | None:
    """See `look`. `rows` are the attempts with an answer, and those that hold the question, the newest first."""
    for row in rows:
        if row[8]:  # the newest answer
            if is_young(row, ask, now):
                return Stored(row[9], attempt_in(row))
            break
    holding = [row for row in rows if row[7] == HOLDS]
    if ask.retry_unknown is None or len(holding) <= ask.retry_unknown:
        return None
    return Held(attempt_in(holding[0], holding[0][10]), holding[0][9], len(holding))


def find(sql: Sql, asks: Sequence[Ask], now: int) -> list[Stored | None]:
    """See `Store.find`: the answers that `look` would give, for many at once."""
    found: list[Stored | None] = []
    for some in in_lots(asks):
        identities = [ask.identity if ask.reusable else None for ask in some]
        answers: list[Stored | None] = [None] * len(some)
        (together,) = sql(*asked_together(_ANSWERS, identities)).fetchone()
        for answer in together.split("\x1e") if together else ():
            place, started_at, elapsed, state, status, http, number, reply = answer.split("\x1f")
            code = int(http) if http else None
            row = (state, int(started_at), int(elapsed), status or None, code, None, int(number))
            if is_young(row, some[int(place)], now):
                answers[int(place)] = Stored(reply.encode(), attempt_in(row))
        found += answers
    return found


def knows(sql: Sql, ask: Ask) -> bool:
    """Whether there was any attempt at this question, whatever came of it."""
    return bool(sql(_KNOWN, (ask.identity, ask.identity)).fetchone()[0])


def is_young(row: Row, ask: Ask, now: int) -> bool:
    """Whether an answer is young enough to be used again."""
    return ask.reuse_for is None or now - row[1] - row[2] <= ask.reuse_for * 1e6
