"""The attempts under way: each is recorded before its first byte leaves, and holds the reservation of a charge."""

from __future__ import annotations

from aisolution_async.ledger import attempts
from aisolution_async.ledger.rows import HOLDS, LIFTED, Row, key_text
from aisolution_async.ledger.step import Step
from aisolution_async.ledger.store import Ask, Started, State, started_of

# How long an attempt without a deadline may be under way, seconds; and how much longer than its deadline any may be.
_LONGEST = 3600.0
_GRACE = 5.0

_ADD = "INSERT OR IGNORE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM intents WHERE identity = ? AND id = ?"
_UNDER_WAY = "SELECT id, owner, ends FROM intents WHERE identity = ?"
_OWNERS = "SELECT DISTINCT owner FROM intents"

_INTENDED = State.INTENDED  # looked up for every call: an Enum takes its time


def add(step: Step, ask: Ask, price: int, owner: str) -> Started | None:
    """Record the intent; None if the same is under way."""
    id_, now, may_charge = step.last_id + 1, step.now, int(ask.may_charge)
    place = ask.identity if ask.reusable else _place_of(id_)
    ends = now + round(((_LONGEST if ask.within is None else ask.within) + _GRACE) * 1e6)
    row = (id_, bytearray(place), ask.endpoint, key_text(ask.key), may_charge, price, now, owner, ends)
    if not step.beside(_ADD, row).rowcount:
        return None
    step.last_id = id_
    step.totals.count(ask.endpoint, _INTENDED, may_charge, price)
    return started_of(id_, ask, price)


def remove(step: Step, started: Started, *, may_charge: bool) -> bool:
    """The attempt is under way no more. False if it was not; `may_charge` is what it has reserved."""
    ask = started.ask
    place = ask.identity if ask.reusable else _place_of(started.id)
    if not step.beside(_REMOVE, (bytearray(place), started.id)).rowcount:
        return False
    step.totals.count(ask.endpoint, _INTENDED, may_charge, started.price, -1)
    return True


def under_way(step: Step, identity: bytes) -> tuple[int, str, int] | None:
    """The attempt at this question that is under way: its id, whose it is, and when it must be over."""
    row: tuple[int, str, int] | None = step.beside(_UNDER_WAY, (identity,)).fetchone()
    return row


def owners_of_any(step: Step) -> list[str]:
    """The owners that have anything under way."""
    return [owner for (owner,) in step.beside(_OWNERS).fetchall()]


def give_up_charge(step: Step, id_: int, endpoint: str, price: int) -> None:
    """Another takes the charge that the attempt has reserved, if it is under way and has reserved one."""
    if step.beside("UPDATE intents SET may_charge = 0 WHERE id = ? AND may_charge", (id_,)).rowcount:
        step.totals.count(endpoint, State.INTENDED, 1, price, -1)
        step.totals.count(endpoint, State.INTENDED, 0, price)


def has_charge(step: Step, id_: int) -> bool:
    """Whether a charge of an attempt that may charge is still its own: a callback that comes first takes it."""
    query = "SELECT may_charge FROM intents WHERE id = ? UNION ALL SELECT may_charge FROM attempts WHERE id = ?"
    return bool(step.sql(query, (id_, id_)).fetchone() != (0,))


def abandon(step: Step, owner: str, error: str, *, unless_before: int | None = None) -> None:
    """Make UNKNOWN what the owner has under way, or only what must be over before then."""
    rows = step.beside("SELECT * FROM intents WHERE owner = ?", (owner,)).fetchall()
    for id_, place, endpoint, key, may_charge, price, started_at, _, ends in rows:
        if unless_before is not None and ends > unless_before:
            continue
        identity = None if place == _place_of(id_) else place
        step.beside(_REMOVE, (place, id_))
        step.totals.count(endpoint, State.INTENDED, may_charge, price, -1)
        state, holds = State.UNKNOWN, LIFTED if identity is None else HOLDS
        if not may_charge and attempts.is_answered_since(step, identity, id_):
            state, holds = State.FREE, 0  # the callback came first: the question is charged once, and answered
        row: Row = (id_, identity, endpoint, key, may_charge, price, started_at, 0)
        attempts.add(step, row, (state, None, None, error, 0, None, 1, holds))


def _place_of(id_: int) -> bytes:
    """Where the intent stands of a call for which others that are the same need not wait: else at its identity."""
    return id_.to_bytes(16, "big")
