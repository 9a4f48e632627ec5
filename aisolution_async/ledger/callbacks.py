"""The questions whose answer may come by callback, and the charge that is set aside for it.

A question is awaited from the request that names a callback on. The charge of the callback is that of this request
while it is under way, lost or charged; once the request has brought an answer that is free and not final, a charge is
set aside here (`reserved`); a request that was refused or never left is owed no answer, and is spent. Answered
otherwise (`answered`), the question keeps what was set aside until the callback is late: it may be charged all the
same. What a callback cost that comes is decided by `charges.of_callback`, and what its request costs besides it by
`charges.besides_callback`.
"""

# ruff: noqa: S608  # the SQL that is put together here is made of our own constants

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aisolution_async.charges import Owed, of_callback
from aisolution_async.ledger import attempts, intents
from aisolution_async.ledger.rows import BY_HAND, HOLDS, LIFTED, REPEATED, Row, key_text
from aisolution_async.ledger.step import Step
from aisolution_async.ledger.store import Ask, Result, Started, State

_SELECT = "SELECT * FROM outstanding WHERE"
_THIS = "WHERE callback = ? AND identity = ?"
_ANSWERED = """SELECT EXISTS (SELECT 1 FROM attempts
    WHERE identity = ? AND answer AND started_at + elapsed > ? AND started_at + elapsed <= ?)"""


@dataclass(slots=True)
class Awaited:
    """A row of `outstanding`."""

    callback: bytes
    identity: bytes
    endpoint: str
    key: str | None
    price: int
    since: int
    reserved: bool
    attempt: int | None
    ends: int
    answered: bool

    def __post_init__(self) -> None:
        self.reserved, self.answered = bool(self.reserved), bool(self.answered)

    @property
    def is_spent(self) -> bool:
        """Whether no answer is owed: its request was refused, or never left. One that comes all the same is taken."""
        return self.attempt is None and not self.reserved

    @property
    def counts_as(self) -> State:
        """What the reservation counts as: a charge to come or, answered otherwise, one that may come all the same."""
        return State.UNKNOWN if self.answered else State.INTENDED


def _all(step: Step, where: str, values: Row) -> list[Awaited]:
    return [Awaited(*row) for row in step.beside(f"{_SELECT} {where}", values).fetchall()]


# ------------------------------------------------------------------------------------------- from begin to end


def of_question(step: Step, identity: bytes) -> Awaited | None:
    """The question, if its answer may come by callback. None need be looked for without `any_outstanding`."""
    row = step.beside(f"{_SELECT} identity = ? AND NOT answered", (identity,)).fetchone()
    return None if row is None else Awaited(*row)


def expect(step: Step, callback: bytes, started: Started) -> None:
    """The attempt asks for a callback, in the place of one before it that is spent, or whose answer is too old."""
    ask = started.ask
    for before in _all(step, "callback = ? AND identity = ?", (callback, ask.identity)):
        drop(step, before)
    ends = step.now + round(ask.patience * 1e6)
    row = (callback, ask.identity, ask.endpoint, key_text(ask.key), started.price, step.now, 0, started.id, ends, 0)
    step.beside("INSERT INTO outstanding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    step.any_outstanding = True


def is_late(step: Step, awaited: Awaited, ask: Ask) -> bool:
    """Whether the callback is late: for who asks again, by the patience with which it was asked for.

    To an inbox with less patience it is overdue sooner, and then it may still come in time, and be charged.
    """
    return awaited.ends <= step.now or (ask.overdue and awaited.since + round(ask.patience * 1e6) >= awaited.ends)


def can_lend(step: Step, awaited: Awaited, ask: Ask) -> bool:
    """Whether what was set aside for the callback may be lent to asking again."""
    return awaited.reserved and is_late(step, awaited, ask)


def lend(step: Step, awaited: Awaited) -> None:
    """What was set aside for the callback is now the attempt's, which asks again. A callback is charged besides it."""
    _reserve(step, awaited, -1)


def settle(step: Step, awaited: Awaited, started: Started, result: Result) -> None:
    """What the end of an attempt at the same question means for its callback."""
    values = (awaited.callback, awaited.identity)
    if result.answers:
        if not awaited.reserved or is_late(step, awaited, started.ask):
            drop(step, awaited)  # what is called back now is a repeat
            return
        # The request that asked for the callback may be charged all the same.
        step.totals.count(awaited.endpoint, awaited.counts_as, 1, awaited.price, -1)
        awaited.answered = True
        step.totals.count(awaited.endpoint, awaited.counts_as, 1, awaited.price)
        step.beside(f"UPDATE outstanding SET answered = 1 {_THIS}", values)
    elif awaited.attempt is None and started.borrows and result.state is not State.UNKNOWN:
        _reserve(step, awaited, 1)  # what was lent is given back
    elif awaited.attempt == started.id and result.state is State.NOT_SENT:
        drop(step, awaited)
    elif awaited.attempt == started.id and result.state is State.CHARGED and result.expected:
        pass  # the callback is no other charge
    elif awaited.attempt == started.id and result.state is not State.UNKNOWN:
        # A callback may come, after any answer but a final one; its charge is set aside if it is to come.
        step.beside(f"UPDATE outstanding SET attempt = NULL {_THIS}", values)
        if result.expected:
            _reserve(step, awaited, 1)


def drop(step: Step, awaited: Awaited) -> None:
    """Wait no longer."""
    _reserve(step, awaited, -1)
    step.beside(f"DELETE FROM outstanding {_THIS}", (awaited.callback, awaited.identity))


def drop_late(step: Step) -> None:
    """Give back what was set aside for callbacks that could have been charged, and have not come."""
    if step.any_outstanding:
        for awaited in _all(step, "answered AND ends <= ?", (step.now,)):
            drop(step, awaited)


def drop_older(step: Step, before: int) -> None:
    """Wait no longer for what was asked for before then, unless its request is still out."""
    is_out = "attempt IS NOT NULL AND attempt IN (SELECT id FROM intents)"
    for row in step.sql(f"{_SELECT} since < ? AND NOT ({is_out})", (before,)).fetchall():
        awaited = Awaited(*row)
        drop(step, awaited)


def drop_of_attempt(step: Step, id_: int) -> None:
    """Wait no longer for what this attempt asked for: it never arrived, so no callback comes of it."""
    for awaited in _all(step, "attempt = ?", (id_,)):
        drop(step, awaited)


def _reserve(step: Step, awaited: Awaited, sign: int) -> None:
    """Set a charge aside for the callback, or give it back."""
    if awaited.reserved is not (sign < 0):
        return
    awaited.reserved = sign > 0
    values = (int(awaited.reserved), awaited.callback, awaited.identity)
    step.beside(f"UPDATE outstanding SET reserved = ? {_THIS}", values)
    step.totals.count(awaited.endpoint, awaited.counts_as, 1, awaited.price, sign)


# ------------------------------------------------------------------------------------------ what is called back


def deliver(step: Step, callbacks: Sequence[bytes], result: Result) -> bool:
    """See `Store.deliver`."""
    found = _of_callbacks(step, callbacks[:1]) or _of_callbacks(step, callbacks[1:])
    waiting = [awaited for awaited in found if not awaited.answered]
    for number, awaited in enumerate(waiting):
        drop(step, awaited)
        _answer(step, awaited, result, Owed.NO_CHARGE if number else Owed.ANSWER)
    if found and not waiting:
        _repeat(step, found[0], result)
    return bool(waiting)


def _repeat(step: Step, awaited: Awaited, result: Result) -> None:
    """The question was answered otherwise before."""
    drop(step, awaited)
    when = (awaited.since, step.now - awaited.since)
    row = (step.new_id(), awaited.identity, awaited.endpoint, awaited.key, 1, awaited.price, *when)
    attempt = result.attempt
    state = State(of_callback(attempt.charge, Owed.NOTHING))
    attempts.add(step, row, (state, attempt.status, None, REPEATED, 0, None, attempt.number, LIFTED))


def _of_callbacks(step: Step, callbacks: Sequence[bytes]) -> list[Awaited]:
    """The questions that one of these callbacks answers, first the oldest that is owed an answer.

    None if two callbacks may be meant.
    """
    found = [_all(step, "callback = ?", (callback,)) for callback in callbacks]
    found = [questions for questions in found if questions]
    if len(found) != 1:
        return []
    return sorted(found[0], key=lambda awaited: (awaited.is_spent, awaited.since))


def _answer(step: Step, awaited: Awaited, result: Result, owed: Owed) -> None:
    """Record what was called back."""
    endpoint, price = awaited.endpoint, awaited.price
    when = (awaited.since, step.now - awaited.since)
    if owed is Owed.ANSWER and _is_doubtful(step, awaited):
        owed = Owed.NOTHING
    attempts.lift(step, awaited.identity)
    if awaited.attempt is not None and owed is not Owed.NOTHING:
        query = "SELECT state, may_charge, holds FROM attempts WHERE id = ?"
        was, may_charge, holds = step.sql(query, (awaited.attempt,)).fetchone() or ("", 0, 0)
        if holds:  # it had arrived: this is its answer
            state = State(of_callback(result.attempt.charge, owed) if owed is Owed.ANSWER else was)
            outcome = _called_back(state, result, LIFTED if state is State.UNKNOWN else 0)
            before = (endpoint, was, may_charge, price)
            attempts.amend(step, awaited.attempt, before, (awaited.identity, *when), outcome)
            return
        if was == State.CHARGED:
            owed = Owed.NO_CHARGE
        elif owed is Owed.ANSWER:  # where it is still under way, its charge is this one
            intents.give_up_charge(step, awaited.attempt, endpoint, price)
    row = (step.new_id(), awaited.identity, endpoint, awaited.key, int(owed is not Owed.NO_CHARGE), price, *when)
    state = State(of_callback(result.attempt.charge, owed))
    attempts.add(step, row, _called_back(state, result, LIFTED if owed is Owed.NOTHING else 0))


def _is_doubtful(step: Step, awaited: Awaited) -> bool:
    """Whether it may be the callback of an earlier request: one that was answered, and whose patience is not over.

    The question is asked anew so soon only where its answer was too old at once (`reuse_for`). A callback names its
    number, and no request.
    """
    values = (awaited.identity, step.now - (awaited.ends - awaited.since), awaited.since)
    return step.sql(_ANSWERED, values).fetchone() == (1,) and not _is_paid(step, awaited)


def _is_paid(step: Step, awaited: Awaited) -> bool:
    """Whether its own request was charged: then the callback is no other charge, whosever it is."""
    query = "SELECT EXISTS (SELECT 1 FROM attempts WHERE id = ? AND state = 'charged')"
    return bool(step.sql(query, (awaited.attempt,)).fetchone() == (1,))


def _called_back(state: State, result: Result, holds: int) -> Row:
    attempt = result.attempt
    return (state, attempt.status, None, None, int(result.answer), result.reply, attempt.number, holds)


def settle_by_hand(step: Step, wanted: Row, state: State) -> int:
    """Settle what still waits, of an identity or a key (twice), and has a charge set aside. Returns how many."""
    found = _all(step, "reserved AND (identity = ? OR key IN (?, ?))", wanted)
    for awaited in found:
        drop(step, awaited)
        if state is State.CHARGED:
            row = (step.new_id(), awaited.identity, awaited.endpoint, awaited.key, 1, awaited.price, awaited.since, 0)
            holds = 0 if awaited.answered else HOLDS
            attempts.add(step, row, (state, None, None, BY_HAND, 0, None, 1, holds))
    return len(found)
