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


BY_HAND = "the process ended before the answer; settled by hand"

# Attempts of version 2: the identity, state, holds, answer, error. Last, what `holds` is in version 3.
BEFORE: list[tuple[str | None, str, int, int, str | None, int]] = [
    ("held", "unknown", 1, 0, None, 1),
    ("held", "free", 0, 0, None, 0),  # a free attempt lifts nothing
    (None, "unknown", 1, 0, None, 2),
    ("answered since", "unknown", 1, 0, None, 2),
    ("answered since", "charged", 0, 1, None, 0),
    ("answered before", "charged", 0, 1, None, 0),
    ("answered before", "unknown", 1, 0, None, 1),
    ("settled", "charged", 0, 0, BY_HAND, 1),
    ("settled", "charged", 1, 0, BY_HAND, 1),
    ("settled", "free", 0, 0, BY_HAND, 0),
    ("settled, answered late", "charged", 0, 1, BY_HAND, 0),
    (None, "charged", 0, 0, BY_HAND, 0),
    ("settled, answered since", "charged", 0, 0, BY_HAND, 0),
    ("settled, answered since", "charged", 0, 1, None, 0),
    ("settled, answered before", "charged", 0, 1, None, 0),
    ("settled, answered before", "charged", 0, 0, BY_HAND, 1),
    ("settled, not answered since", "charged", 0, 0, BY_HAND, 1),
    ("settled, not answered since", "charged", 0, 0, None, 0),  # charged, with a message that did not fit
    ("refused", "free", 0, 0, None, 0),
    ("not sent", "not sent", 0, 0, None, 0),
]


async def test_a_ledger_of_version_2_is_brought_up(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        schema.connect(ledger_path, synchronous="off", busy_timeout=1).close()
    with contextlib.closing(sqlite3.connect(ledger_path, isolation_level=None)) as db:
        for number, (identity, state, holds, answer, error, _) in enumerate(BEFORE, 1):
            blob = None if identity is None else identity.encode()
            db.execute(
                "INSERT INTO attempts VALUES (?, ?, 'facecompare', NULL, ?, 7, 5, 5, ?, NULL, NULL, ?, ?, NULL, 1, ?)",
                (number, blob, number % 2, state, error, answer, holds),
            )
        for number in (21, 22):
            values = (number, b"%d" % number, number - 21)
            db.execute("INSERT INTO intents VALUES (?, ?, 'idholding', NULL, ?, 5, 5, 'nobody')", values)
        for number in (0, 1):
            waiting = (b"%d" % number, b"number %d" % number, 10**9 + number, number)
            db.execute("INSERT INTO outstanding VALUES (?, ?, 'gliswadetail', '\"A\"', 3, ?, ?, NULL)", waiting)
        # The version before could leave a reservation in them.
        db.execute("INSERT INTO totals VALUES ('facecompare', 9, 9, 9, 9, 9, 9, 9), ('delface', 1, 0, 0, 0, 0, 1, 1)")
        db.execute("UPDATE file SET last_id = 22")
    schema.connect(ledger_path, synchronous="off", busy_timeout=1).close()
    check(ledger_path)
    assert rows(ledger_path, "SELECT holds FROM attempts ORDER BY id") == [(row[-1],) for row in BEFORE]
    assert rows(ledger_path, "SELECT * FROM outstanding ORDER BY callback") == [
        (b"%d" % n, b"number %d" % n, "gliswadetail", '"A"', 3, 10**9 + n, n, None, 10**9 + n + 120_000_000, 0)
        for n in (0, 1)
    ]
    assert rows(ledger_path, "SELECT last_id, in_use, max_charges FROM file") == [(22, 0, None)]
    assert rows(ledger_path, "PRAGMA application_id") == [(0x41495341,)]  # that of every ledger there is
    async with Ledger(ledger_path) as ledger:
        # Those under way were an owner's who is not there any more.
        assert ledger.summary().held == len({row[0] for row in BEFORE if row[-1] == 1}) + 2
    check(ledger_path)
