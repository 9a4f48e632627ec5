"""The read side of a ledger's file: counts and records, beside whoever writes."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

from aisolution_async import clock
from aisolution_async.ledger import schema
from aisolution_async.ledger.rows import AT_STAKE, COUNTS_AS, HOLDING, TO_COME, moment, money
from aisolution_async.ledger.store import Balance, Line, Record, State

UNKNOWN = "attempts WHERE holds AND state = 'unknown'"
HELD = f"attempts WHERE {HOLDING}"
ANSWERS = "attempts WHERE answer OR (holds AND reply IS NOT NULL)"


def every_attempt() -> str:
    """All attempts in SQL, with those under way and the charges that are set aside for callbacks."""
    return f"""(SELECT id, endpoint, key, state, status, http_status, started_at, elapsed, error, may_charge, price
        FROM attempts UNION ALL
        SELECT id, endpoint, key, 'intended', NULL, NULL, started_at, 0, NULL, may_charge, price
        FROM intents UNION ALL
        SELECT 0, endpoint, key, {COUNTS_AS}, NULL, NULL, since, 0, '{TO_COME}', 1, price
        FROM outstanding WHERE {_is_set_aside()})"""


@contextmanager
def reading(path: Path, busy_timeout: float) -> Iterator[sqlite3.Connection]:
    """The file as it is now, for as long as this is open. Raises LedgerError."""
    try:
        with closing(schema.connect_to_read(path, busy_timeout=busy_timeout)) as db:
            db.execute("BEGIN")
            yield db
    except (sqlite3.Error, OSError) as exc:
        raise schema.fault(path, exc) from None


def summary(db: sqlite3.Connection) -> Balance:
    """See `Store.summary`."""
    lines = db.execute(
        f"""SELECT endpoint, date(started_at / 1000000, 'unixepoch'), state, status, count(*),
            sum(CASE WHEN {AT_STAKE} THEN price ELSE 0 END)
        FROM {every_attempt()} GROUP BY 1, 2, 3, 4 ORDER BY 2, 1, 3, 4"""
    ).fetchall()
    # In the order of ids, so that SQLite looks at those that hold and not at all identities.
    holding = f"SELECT identity FROM attempts WHERE {HOLDING} ORDER BY id LIMIT -1"
    ((held,),) = db.execute(f"SELECT count(DISTINCT identity) FROM ({holding})")
    ((answers, lost),) = db.execute(
        """SELECT count(*) FILTER (WHERE answer),
            count(*) FILTER (WHERE state = 'charged' AND status = 'OK' AND reply IS NULL) FROM attempts"""
    )
    ((limit,),) = db.execute("SELECT max_charges FROM file")
    return Balance(
        tuple(
            Line(endpoint, date.fromisoformat(day), State(state), status, count, money(cost))
            for endpoint, day, state, status, count, cost in lines
        ),
        held=held,
        answers=answers,
        lost=lost,
        max_charges=limit,
    )


def records(db: sqlite3.Connection, source: str, *, with_replies: bool = False) -> Iterator[Record]:
    """The attempts of `source`, in SQL, oldest first."""
    query = f"""SELECT id, endpoint, key, state, status, http_status, started_at, elapsed, error,
        CASE WHEN {AT_STAKE} THEN price ELSE 0 END, {"reply" if with_replies else "NULL"} FROM {source} ORDER BY id"""
    for id_, endpoint, key, state, status, http, started, elapsed, error, cost, body in db.execute(query):
        mine = None if key is None else json.loads(key)
        when, took = moment(started), elapsed / 1e6
        yield Record(id_, endpoint, mine, State(state), status, http, when, took, error, money(cost), body)


def _is_set_aside() -> str:
    """Which callbacks have a charge set aside, in SQL: one that may come after another answer, until it is late."""
    return f"reserved AND NOT (answered AND ends <= {clock.today().timestamp() * 1e6:.0f})"
