"""The ledger: files of older and newer versions."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest

from aisolution_async.ledger import (
    Ask,
    Held,
    Ledger,
    LedgerError,
    State,
    Stored,
    schema,
)

from .ledgers import WHATSAPP, answered, ask, check, do, refused, rows

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_a_newer_ledger(ledger_path: Path) -> None:
    async with Ledger(ledger_path):
        pass
    with contextlib.closing(sqlite3.connect(ledger_path)) as db:
        db.execute("PRAGMA user_version = 99")
    await refused(ledger_path, "version 99", "install the newer aisolution-async")
    with pytest.raises(LedgerError, match="newer"):
        Ledger(ledger_path).summary()


async def test_an_older_ledger_is_brought_up(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered(), key="A")
    old, steps = schema.MIGRATIONS, []

    def fourth(db: sqlite3.Connection) -> None:
        steps.append("fourth")
        db.execute("ALTER TABLE file ADD COLUMN note TEXT")

    def broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (x)")
        raise OSError(28, "full")

    monkeypatch.setattr(schema, "MIGRATIONS", [*old, fourth])
    with pytest.raises(LedgerError, match="older version: open it once"):
        Ledger(ledger_path).summary()
    for _ in range(2):
        async with Ledger(ledger_path) as ledger:
            assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert steps == ["fourth"]
    assert rows(ledger_path, "PRAGMA user_version") == [(len(old) + 1,)]
    monkeypatch.setattr(schema, "MIGRATIONS", [*old, fourth, broken])
    await refused(ledger_path, "full")
    assert rows(ledger_path, "PRAGMA user_version") == [(len(old) + 1,)]
    assert rows(ledger_path, "SELECT name FROM sqlite_master WHERE name = 'half'") == []


async def test_a_ledger_of_version_1_is_brought_up(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.connect(ledger_path, synchronous="off", busy_timeout=1).close()
    with contextlib.closing(sqlite3.connect(ledger_path, isolation_level=None)) as db:
        (key,) = db.execute("SELECT hash_key FROM file").fetchone()
        digest = hashlib.blake2b(digest_size=16, key=key)
        digest.update(f"{len(WHATSAPP)} {WHATSAPP} 6 number True 1 1".encode())
        for number, state in ((1, "unknown"), (2, "charged")):
            row = (number, digest.digest() if number == 1 else None, WHATSAPP, 1, 0, 5, 5, state, 0)
            db.execute(
                "INSERT INTO attempts (id, identity, endpoint, may_charge, price, started_at, elapsed, state, answer)"
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        db.execute("INSERT INTO totals VALUES (?, 0, 1, 0, 0, 1, 2, 0)", (WHATSAPP,))
        db.execute("UPDATE file SET last_id = 2")
    async with Ledger(ledger_path) as ledger:
        assert [record.state for record in ledger.held()] == [State.UNKNOWN]
        identity = ledger.identity(WHATSAPP, [("number", "1")])
        assert isinstance(await ledger.begin(Ask(WHATSAPP, identity)), Held)
    check(ledger_path)
