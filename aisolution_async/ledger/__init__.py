"""The journal of attempts: what was intended, what came of it."""

from __future__ import annotations

from aisolution_async.ledger.sqlite import Ledger
from aisolution_async.ledger.store import (
    Ask,
    Busy,
    Exhausted,
    Expected,
    Held,
    LedgerError,
    Line,
    Record,
    Result,
    Started,
    State,
    Store,
    Stored,
    Sum,
    Summary,
    Verdict,
)

__all__ = [
    "Ask",
    "Busy",
    "Exhausted",
    "Expected",
    "Held",
    "Ledger",
    "LedgerError",
    "Line",
    "Record",
    "Result",
    "Started",
    "State",
    "Store",
    "Stored",
    "Sum",
    "Summary",
    "Verdict",
]
