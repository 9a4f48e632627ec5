"""The attempts that are over: their rows, and the counts that go with them."""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

from aisolution_async.ledger.rows import BY_HAND, HOLDS, LIFTED, Row, blob, storable
from aisolution_async.ledger.step import Step
from aisolution_async.ledger.store import Result, State

_AMEND = """UPDATE attempts SET identity = ?, started_at = ?, elapsed = ?, state = ?, status = ?, http_status = ?,
    error = ?, answer = ?, reply = ?, number = ?, holds = ? WHERE id = ?"""
_LIFT = f"UPDATE attempts SET holds = {LIFTED} WHERE identity = ? AND holds = {HOLDS}"
_ANSWERED_SINCE = "SELECT EXISTS (SELECT 1 FROM attempts WHERE identity = ? AND answer AND id > ?)"
_UNSETTLED = """SELECT id, endpoint, may_charge, price FROM attempts
    WHERE holds AND state = 'unknown' AND (id = ? OR identity = ? OR key IN (?, ?))"""
# What is settled as charged goes on holding, if it did; what is settled as free does not.
_SETTLE = f"""UPDATE attempts SET state = ?, holds = holds = {HOLDS} AND ?,
    error = ifnull(error || '; ', '') || '{BY_HAND}' WHERE id = ?"""
_CALLED_BACK_SINCE = """SELECT id, endpoint, may_charge, price FROM attempts
    WHERE identity = ? AND answer AND http_status IS NULL AND state = 'charged' AND started_at + elapsed > ?"""
_EMPTY = f"""UPDATE attempts SET reply = NULL, answer = 0, identity = NULL
    WHERE started_at + elapsed < ? AND (reply IS NOT NULL OR identity IS NOT NULL) AND holds <> {HOLDS}"""


def outcome_of(result: Result, state: State, holds: int) -> Row:
    """The columns that say what came of an attempt, from `state` to `holds`."""
    attempt = result.attempt
    return (
        state,
        storable(attempt.status),
        attempt.http_status,
        storable(attempt.error),
        int(result.answers),
        blob(result.reply),
        attempt.number,
        holds,
    )


def add(step: Step, row: Row, outcome: Row) -> None:
    """Record an attempt that is over: its columns from `id` to `elapsed`, and the others."""
    id_, identity, endpoint, key, may_charge, price, started_at, elapsed = row
    state, *more = outcome
    written = str.__str__(state)  # a plain text, as `blob` says
    step.added.append((id_, blob(identity), endpoint, key, may_charge, price, started_at, elapsed, written, *more))
    step.earlier.pop(identity, None)  # there is one more now
    step.any_holding = step.any_holding or more[-1] == HOLDS
    step.totals.count(endpoint, state, may_charge, price)


def amend(step: Step, id_: int, was: Row, when: Row, outcome: Row) -> None:
    """Record what came of an attempt after all.

    `was` is its endpoint, state, may_charge and price; `when` its identity, start and seconds.
    """
    step.sql(_AMEND, (*when, *outcome, id_))
    endpoint, state, may_charge, price = was
    step.any_holding = step.any_holding or outcome[-1] == HOLDS
    step.totals.count(endpoint, State(state), may_charge, price, -1)
    step.totals.count(endpoint, outcome[0], may_charge, price)


def lift(step: Step, identity: bytes | None) -> None:
    """The question has a usable answer: no attempt holds it any more."""
    if identity is None:
        return
    foreseen = step.earlier.get(identity)
    if foreseen is None or any(row[7] == HOLDS for row in foreseen):
        step.sql(_LIFT, (identity,))


def is_answered_since(step: Step, identity: bytes | None, id_: int) -> bool:
    """Whether a later attempt at the question brought an answer."""
    return bool(step.sql(_ANSWERED_SINCE, (identity, id_)).fetchone() == (1,))


def doubt_callbacks(step: Step, identity: bytes | None, answered_at: int) -> None:
    """A request was answered and charged before these callbacks came, and nobody knew: only the invoice can tell."""
    for id_, endpoint, may_charge, price in step.sql(_CALLED_BACK_SINCE, (identity, answered_at)).fetchall():
        step.sql(f"UPDATE attempts SET state = '{State.UNKNOWN}', holds = {LIFTED} WHERE id = ?", (id_,))
        step.totals.count(endpoint, State.CHARGED, may_charge, price, -1)
        step.totals.count(endpoint, State.UNKNOWN, may_charge, price)


def settle_by_hand(step: Step, wanted: Row, state: State) -> list[int]:
    """Make CHARGED or FREE what is UNKNOWN of an id, an identity or a key (twice). Returns the ids."""
    rows = step.sql(_UNSETTLED, wanted).fetchall()
    for id_, endpoint, may_charge, price in rows:
        step.sql(_SETTLE, (state, state is State.CHARGED, id_))
        step.totals.count(endpoint, State.UNKNOWN, may_charge, price, -1)
        step.totals.count(endpoint, state, may_charge, price)
    return [row[0] for row in rows]


def empty(step: Step, before: int) -> int:
    """Remove the replies and identities of what ended before then, and holds nothing. Returns of how many."""
    return step.sql(_EMPTY, (before,)).rowcount
