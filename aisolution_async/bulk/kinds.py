"""What the columns of an input hold, for an output that gives them types."""

from __future__ import annotations

import threading
from datetime import date, datetime
from typing import Any

from aisolution_async.bulk.rows import MISSING, Rows

_WIDEST = 2**63
_EXACT = 2**53  # a floating number holds every whole number up to this


def kinds_of(rows: Rows, given_up: threading.Event) -> list[Any]:
    """The type of each column: an Arrow type where the file says it, else bool, int, float, date, datetime or str.

    A column of JSONL or of a workbook has the one type that all its values have (whole and other numbers together
    are float), else it is text. Uses the rows up, except where they are text anyway, or the file says it. Blocks.
    """
    if rows.schema is not None:
        return [rows.schema.field(place).type for place in range(len(rows.header))]
    if rows.delimiter is not None:
        return [str] * len(rows.header)
    found: list[Any] = [None] * len(rows.header)
    for row in rows:
        if given_up.is_set():
            break
        found = [
            seen if seen is str or value is None or value is MISSING else _both(seen, _kind(value))
            for seen, value in zip(found, row.cells, strict=True)
        ]
    return [{None: str, "int": int, "large": int, "float": float}.get(kind, kind) for kind in found]


def _kind(value: Any) -> Any:
    if isinstance(value, bool):
        return bool
    if isinstance(value, int):
        return "int" if abs(value) <= _EXACT else "large" if -_WIDEST <= value < _WIDEST else str
    if isinstance(value, float):
        return "float"
    if isinstance(value, datetime):
        return datetime if value.tzinfo is None else str
    return date if isinstance(value, date) else str


def _both(one: Any, other: Any) -> Any:
    """The type of a column that has both."""
    if one is None or one == other:
        return other
    if {one, other} <= {"int", "large"}:
        return "large"
    return "float" if {one, other} <= {"int", "float"} else str
