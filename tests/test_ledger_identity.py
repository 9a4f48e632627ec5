"""The ledger: what makes two calls the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from .ledgers import AnyLedger, answered, ask, do, ledger_at

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_identity(ledger: AnyLedger, tmp_path: Path) -> None:
    identity = ledger.identity
    known = identity("facecompare", [("img1", b"one"), ("img2", b"two")])
    assert known == identity("facecompare", iter([("img1", b"one"), ("img2", b"two")]))
    assert len(known) == 16
    others = [
        identity("idholding", [("img1", b"one"), ("img2", b"two")]),
        identity("facecompare", [("img1", b"onet"), ("img2", b"wo")]),
        identity("facecompare", [("img1", b"one"), ("img2", "two")]),
        identity("facecompare", [("img2", b"two"), ("img1", b"one")]),
        identity("facecompare", [("img1", b"one")]),
        identity("facecompare", [("img1", b"one"), ("img2", b"two")], "A"),
        identity("facecompare", [("img1", b"one"), ("img2", b"two")], 17),
        identity("facecompare", [("img1", b"one"), ("img2", b"two")], "17"),
    ]
    assert len({known, *others}) == len(others) + 1
    async with ledger_at(tmp_path / "other") as other:
        assert other.identity("facecompare", [("img1", b"one"), ("img2", b"two")]) != known
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(identity("a", [("b", b"c")])))
    thread.start()
    thread.join()
    assert found == [identity("a", [("b", b"c")])]


async def test_the_same_file_gives_the_same_identity(place: Path | str) -> None:
    found = []
    for _ in range(2):
        async with ledger_at(place) as ledger:
            found.append(ask(ledger))
    assert found[0] == found[1]


@pytest.mark.parametrize("key", ["A-17", 17, -(10**30), "\ud800 \0 '", None])
async def test_any_key(ledger: AnyLedger, key: Any) -> None:
    await do(ledger, answered(), key=key)
    assert [record.key for record in ledger.attempts()] == [key]
