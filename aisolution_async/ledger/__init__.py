"""The journal of attempts: what was intended, what came of it."""

from __future__ import annotations

from aisolution_async.ledger.sqlite import Ledger
from aisolution_async.ledger.store import (
    Ask,
    Balance,
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
    Verdict,
)

__all__ = [
    "Ask",
    "Balance",
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
    "Verdict",
]
