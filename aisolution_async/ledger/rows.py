"""How the ledger's tables say things: times, money, keys and states, and what their columns mean in SQL."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from aisolution_async.charges import Attempt, Charge, attempt_of
from aisolution_async.errors import Key
from aisolution_async.ledger.store import State

Sql = Callable[..., sqlite3.Cursor]
"""A cursor's `execute`. One cursor serves all: what is asked is fetched at once."""

Row = tuple[Any, ...]
"""A row of a table, or of what was looked for in one."""

T = TypeVar("T")

DIED = "the process ended before the answer"
LEFT = "the ledger was closed before the answer"
TO_COME = "the answer may come by callback"
REPEATED = "called back after another answer"
BY_HAND = "settled by hand"

AT_STAKE = "(state = 'charged' OR (may_charge AND state IN ('intended', 'unknown')))"
"""Which attempts count against the budget, in SQL."""

HOLDS, LIFTED = 1, 2
"""In the column `holds`: the attempt holds its question; it is not settled, and holds nothing. Else 0."""

HOLDING = "holds AND holds = 1 AND identity IS NOT NULL"  # the first term is the index's
"""Which attempts hold their question, in SQL."""

COUNTS_AS = "CASE WHEN answered THEN 'unknown' ELSE 'intended' END"
"""The state that a reservation for a callback counts as, in SQL: see `callbacks.Awaited.counts_as`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CHARGE: dict[str, Charge] = {State.CHARGED: Charge.CHARGED, State.UNKNOWN: Charge.UNKNOWN}
_FREE = Charge.FREE  # looked up for every row: an Enum takes its time
_json = json.JSONEncoder(default=str).encode  # a UUID as its text


_LOT = 128
"""For how many questions one statement asks: for more of them it is no cheaper a question."""


_NOBODY = bytearray()  # no question's identity


def in_lots(questions: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as one statement asks for."""
    return (questions[start : start + _LOT] for start in range(0, len(questions), _LOT))


def asked_together(query: str, identities: Sequence[bytes | None]) -> tuple[str, Row]:
    """A query from the table `asked` (place, identity) of these, and its values."""
    size = 1 << max(len(identities) - 1, 7).bit_length()  # few sizes, so that few statements are kept
    values = [_NOBODY if identity is None else bytearray(identity) for identity in identities]
    return _asking(query, size), (*values, *[_NOBODY] * (size - len(identities)))


@functools.cache
def _asking(query: str, size: int) -> str:
    return f"WITH asked (place, identity) AS (VALUES {', '.join(f'({place}, ?)' for place in range(size))}) {query}"


def moment(micros: int) -> datetime:
    """Microseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(0, *divmod(micros, 1_000_000))


def micros(when: datetime) -> int:
    """A time as microseconds since 1970."""
    return (when - _EPOCH) // _MICROSECOND


def money(millionths: int) -> Decimal:
    """Millionths as the number they are of."""
    return Decimal(millionths).scaleb(-6)


def millionths(value: Decimal) -> int:
    """Money as the tables have it."""
    return int(value.scaleb(6))


def key_text(key: Key) -> str | None:
    """A user's key as the tables have it."""
    if type(key) is int:
        return repr(key)  # as JSON has it, at a tenth of the time
    return None if key is None else _json(key)


def blob(data: bytes | None) -> bytearray | None:
    """The bytes as a value of a statement.

    Of what is no int, float, str or bytearray, sqlite3 asks first how to adapt it: that takes longer than to store it.
    """
    return None if data is None else bytearray(data)


def storable(text: str | None) -> str | None:
    """The text without what no file takes: whatever the vendor said must not keep its answer from being recorded."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()


def attempt_in(row: Row, id_: int | None = None) -> Attempt:
    """The attempt in a row of state, started_at, elapsed, status, http_status, error, number, and what follows."""
    state, started_at, elapsed, status, http_status, error, number, *_ = row
    return attempt_of(
        _CHARGE.get(state, _FREE),
        status=status,
        http_status=http_status,
        started_at=moment(started_at),
        elapsed=elapsed / 1e6,
        error=error,
        number=number,
        recorded=True,
        id_=id_,
    )
