"""The journal of attempts: what was intended, what came of it.

| module | what |
| --- | --- |
| `store` | the interface, and what each operation promises |
| `urls` | where a ledger is: a path or a URL, and `open_ledger` for both |
| `grouping` | what both have in common: a thread, which does in one transaction what was asked meanwhile |
| `sqlite` | `Ledger`: a file |
| `book` | what that thread does: `begin` decides whether an attempt may be made, `end` records what came of it |
| `step` | one transaction, and within it: |
| `totals` | · the counts, and whether the limits allow another charge |
| `intents` | · the attempts under way, each with the charge that it reserves |
| `attempts` | · the attempts that are over, and which of them hold their question |
| `callbacks` | · the answers to come by callback, and the charge set aside for each |
| `answers` | what earlier attempts say of a question: read for `book` and for `peek` |
| `peek` | a look into a ledger, which writes nothing |
| `reading` | counts and records, for people |
| `rows`, `identity` | how the tables say things; what makes two calls the same |
| `schema`, `mark`, `owners` | the file and what can be wrong with it; what it was; who is alive |
| `postgres` | `SharedLedger`: a schema of a PostgreSQL server, for many machines |
| `shared`, `postgres.sql` | what its thread does; and the server, where a group is one call of a function |
| `watching` | what many wait for there, looked up once for all of them |
| `shards`, `taking` | which worker has which of the lists of a folder; on a server |
| `server` | the server and what can be wrong with it |
"""

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
from aisolution_async.ledger.urls import open_ledger

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
    "open_ledger",
]
