"""The ledger: what its file is, and holds."""

from __future__ import annotations

import asyncio
import datetime
import errno
import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aisolution_async import ConfigurationError
from aisolution_async.ledger import (
    Held,
    Ledger,
    LedgerError,
    Result,
    Started,
    Stored,
    schema,
)
from aisolution_async.ledger.peek import Peek
from aisolution_async.ledger.urls import is_there

from .ledgers import FREE, REPLY, UNKNOWN, answered, ask, attempt, check, do, refused, rows

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
async def test_only_its_owner_can_read_it(ledger_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        async with Ledger(ledger_path) as ledger:
            await do(ledger, answered())
            files = {
                file.name: file.stat().st_mode & 0o777
                for file in ledger_path.parent.iterdir()
                if "owner" not in file.name
            }
    finally:
        os.umask(before)
    assert files == dict.fromkeys(("calls.ledger", "calls.ledger-wal", "calls.ledger-shm", "calls.ledger-mark"), 0o600)
    ledger_path.chmod(0o644)
    async with Ledger(ledger_path):
        assert ledger_path.stat().st_mode & 0o777 == 0o600


async def test_a_path_with_anything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory&b#c %41 é.db"
    async with Ledger(path) as ledger:
        await do(ledger, answered())
    assert path.exists()
    assert len(list(Ledger(str(path)).answers())) == 1


async def said_by_all(path: Path) -> set[str]:
    """How each door says that it cannot open the ledger."""
    said = set()
    for door in (lambda: Peek(path), lambda: is_there(path), Ledger(path).summary):
        with pytest.raises(LedgerError) as caught:
            door()
        said.add(str(caught.value))
    with pytest.raises(LedgerError) as caught:
        async with Ledger(path):
            pass
    return said | {str(caught.value)}


async def test_a_way_to_sync_that_there_is_not(ledger_path: Path) -> None:
    """A word that is not understood must not weaken what the file keeps."""
    with pytest.raises(ConfigurationError, match='synchronous must be "full", "normal" or "off"'):
        Ledger(ledger_path, synchronous="FULL")  # type: ignore[arg-type]  # what is refused
    assert not ledger_path.exists()


async def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 300}.db"
    said = f"the name of the ledger {path} is too long for its file system: choose a shorter one"
    assert await said_by_all(path) == {said}
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO, errno.ESTALE])
async def test_a_ledger_that_cannot_be_looked_at(ledger_path: Path, monkeypatch: pytest.MonkeyPatch, why: int) -> None:
    """It is not taken for one that is not there, and what is known of it is not forgotten."""
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
    before = {path: path.read_bytes() for path in ledger_path.parent.iterdir()}
    look = Path.stat

    def fail(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.name == ledger_path.name:
            raise OSError(why, os.strerror(why))
        return look(self, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fail)
        (said,) = await said_by_all(ledger_path)
    assert f"the ledger {ledger_path} " in said
    assert {path: path.read_bytes() for path in ledger_path.parent.iterdir()} == before
    assert len(list(Ledger(ledger_path).answers())) == 1


def found_in(folder: Path, text: str) -> list[str]:
    """The files that hold `text`. Read by another process: closing them in this one would drop SQLite's locks."""
    grep = ["grep", "-arlF", text, str(folder)]
    return subprocess.run(grep, check=False, capture_output=True, text=True).stdout.split()


async def test_a_purge_leaves_no_byte_of_a_reply(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        await asyncio.gather(
            *(
                do(ledger, answered(ago=1000, reply=b'{"signature": "old-reply-%d"}' % n), n, key=f"key-{n}")
                for n in range(300)
            )
        )
        await do(ledger, answered(ago=1000, reply=b'"old-reply-' + b"y" * 20_000 + b'"'), "long")
        await do(ledger, Result(attempt(UNKNOWN, ago=1000)), "lost")
        await do(ledger, Result(attempt(UNKNOWN, ago=1000)), "resent")
        await do(ledger, answered(ago=1000), "resent", retry_unknown=1)
        await do(ledger, answered(ago=1000, reply=b'"old-reply of no question"'), "alone", reusable=False)
        await do(ledger, Result(attempt(FREE, ago=1000)), "refused")
        await do(ledger, answered(reply=b'{"signature": "young-reply"}'), "young")
        identities = [
            identity for (identity,) in rows(ledger_path, "SELECT identity FROM attempts WHERE key <> '\"key-1\"'")
        ]
        before = ledger.summary().lines
        assert await ledger.purge(datetime.timedelta(seconds=500)) == 305
        assert await ledger.purge(500) == 0
        assert found_in(ledger_path.parent, "old-reply") == found_in(ledger_path.parent, "yyyyyyyy") == []
        assert found_in(ledger_path.parent, "young-reply") != []
        assert ledger.summary().lines == before
        assert ledger.summary().answers == 1
        assert isinstance(await ledger.begin(ask(ledger, "lost")), Held)
        assert isinstance(await ledger.begin(ask(ledger, "young")), Stored)
        assert isinstance(await ledger.begin(ask(ledger, "resent")), Started)
        assert isinstance(await ledger.begin(ask(ledger, 1)), Started)
    data = ledger_path.read_bytes()
    assert not any(identity in data for identity in identities)
    check(ledger_path)


async def test_a_purge_beside_a_reader_says_that_bytes_are_left(ledger_path: Path) -> None:
    async with Ledger(ledger_path, busy_timeout=0.02) as ledger:
        await asyncio.gather(*(do(ledger, answered(ago=9), n) for n in range(10)))
        reader = ledger.answers()
        next(reader)
        with pytest.raises(LedgerError, match="end the other programs that read the ledger, then purge again"):
            await ledger.purge(1)
        assert len(list(reader)) == 9
        assert await ledger.purge(1) == 0
    assert REPLY not in ledger_path.read_bytes()


async def test_what_is_no_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes")
    other.chmod(0o644)
    await refused(other, "is no ledger")
    assert stat.S_IMODE(other.stat().st_mode) == 0o644


async def test_looking_leaves_no_files_beside_the_ledger(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
    names = [ledger_path.name, f"{ledger_path.name}-mark"]
    assert sorted(file.name for file in ledger_path.parent.iterdir()) == names
    assert Ledger(ledger_path).summary().answers == len(list(Ledger(ledger_path).answers())) == 1
    assert sorted(file.name for file in ledger_path.parent.iterdir()) == names


def open_of(ledger: Path) -> set[str]:
    """The ledger's files that this process has open."""
    links = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.add(str(link.readlink()))
    return {link.removeprefix(str(ledger)) for link in links if link.startswith(str(ledger))}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which files are open is told by /proc")
async def test_a_closed_ledger_has_no_file_open(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
        assert {"", "-wal", "-mark"} <= open_of(ledger_path)
    assert open_of(ledger_path) == set()


async def test_a_question_is_looked_up_and_not_searched_for(ledger_path: Path) -> None:
    async with Ledger(ledger_path):
        pass
    for where in ("identity = x'00' AND answer", "holds AND holds = 1"):
        (plan,) = rows(ledger_path, f"EXPLAIN QUERY PLAN SELECT 1 FROM attempts WHERE {where}")
        assert " USING INDEX " in plan[-1]


def test_a_first_opening_between_two_looks_loses_nothing(tmp_path: Path) -> None:
    """There was no log, and then the file says that it is in use: by whoever opened it meanwhile, and made the log."""
    path = tmp_path / "a.ledger"
    other = schema.connect(path, synchronous="full", busy_timeout=1.0)
    schema.use(other)
    schema._check_closed(path, 1.0)
    schema.close(other, path, others=False)


def test_a_last_close_between_two_looks_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file said that it is in use, and then its log was gone: it was folded in by whoever closed it meanwhile."""
    path = tmp_path / "a.ledger"
    other = schema.connect(path, synchronous="full", busy_timeout=1.0)
    schema.use(other)
    looked: list[Path] = []

    @contextmanager
    def closing_after(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        yield db
        db.close()
        if not looked:
            looked.append(path)
            schema.close(other, path, others=False)

    monkeypatch.setattr(schema, "closing", closing_after)
    schema._check_closed(path, 1.0)
    assert looked
