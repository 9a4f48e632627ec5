"""The ledger: its owners, the dead and the alive."""

from __future__ import annotations

import datetime
import fcntl
import sqlite3
from pathlib import Path

import pytest

from aisolution_async import clock, locks
from aisolution_async.ledger import (
    Busy,
    Exhausted,
    Held,
    Ledger,
    LedgerError,
    Started,
    State,
    Stored,
    owners,
)
from aisolution_async.ledger.rows import DIED

from .ledgers import LATER, UNKNOWN, answered, ask, check, child, crash, fail, start
from .test_ledger_file import open_of

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_what_a_dead_process_had_under_way_becomes_unknown(ledger_path: Path) -> None:
    first = Ledger(ledger_path, max_charges=1)
    await first.open()
    await start(first, key="A-17")
    await crash(first)
    assert len(list(ledger_path.parent.glob("*owner*"))) == 1  # it says to others that the process is dead
    async with Ledger(ledger_path, max_charges=1) as ledger:
        assert len(list(ledger_path.parent.glob("*owner*"))) == 1  # its own
        (record,) = ledger.attempts(unknown_only=True)
        assert (record.key, record.state, record.error) == ("A-17", State.UNKNOWN, DIED)
        held = await ledger.begin(ask(ledger))
        assert isinstance(held, Held)
        assert (held.attempt.charge, held.attempt.error) == (UNKNOWN, DIED)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
    check(ledger_path)


async def test_an_owner_that_dies_while_another_runs_is_noticed(file_ledger: Ledger) -> None:
    other = Ledger(file_ledger.path)
    await other.open()
    await start(other, 1)
    await start(other, 2)
    assert isinstance(await file_ledger.begin(ask(file_ledger)), Busy)
    await crash(other)
    assert isinstance(await file_ledger.begin(ask(file_ledger)), Held)
    assert isinstance(await file_ledger.begin(ask(file_ledger, 2, retry_unknown=1)), Started)
    check(file_ledger.path)


async def test_an_owner_whose_lock_file_was_removed(file_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others cannot tell whether it lives: until its attempt must be over, they wait. It finds out, and stops."""
    real, ahead = clock.today, datetime.timedelta()
    monkeypatch.setattr(clock, "today", lambda: real() + ahead)
    mine = set(file_ledger.path.parent.glob("*owner*"))
    other = Ledger(file_ledger.path)
    await other.open()
    started, unlimited = await start(other, within=30.0), await start(other, 2)
    for file in {*file_ledger.path.parent.glob("*owner*")} - mine:
        file.unlink()
    with pytest.raises(LedgerError, match="removed the lock file"):
        await other.begin(ask(other, 3))
    for number in (1, 2):
        assert isinstance(await file_ledger.begin(ask(file_ledger, number, retry_unknown=9)), Busy)
    async with Ledger(file_ledger.path) as third:
        assert isinstance(await third.begin(ask(third, retry_unknown=9)), Busy)
    ahead = datetime.timedelta(seconds=60)
    async with Ledger(file_ledger.path) as third:
        assert isinstance(await third.begin(ask(third)), Held)
        assert isinstance(await third.begin(ask(third, 2)), Busy)
    ahead = datetime.timedelta(days=1)
    async with Ledger(file_ledger.path) as third:
        assert isinstance(await third.begin(ask(third, 2)), Held)
        # What it had under way is recorded all the same.
        await other.end(started, answered())
        await other.end(unlimited, LATER)
        assert isinstance(await third.begin(ask(third)), Stored)
        assert list(third.held()) == []
    await other.aclose()
    check(file_ledger.path)


async def test_an_owner_that_could_not_settle_what_it_had_leaves_its_file(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)
    await ledger.open()
    await start(ledger)
    await fail(ledger, "BEGIN", *[sqlite3.SQLITE_FULL] * 9)
    await ledger.aclose()
    assert len(list(ledger_path.parent.glob("*owner*"))) == 1
    async with Ledger(ledger_path) as ledger:  # so nobody waits for it
        assert isinstance(await ledger.begin(ask(ledger)), Held)


async def test_files_of_dead_owners_are_swept(ledger_path: Path) -> None:
    dead = ledger_path.with_name(f"{ledger_path.name}-owner-0123456789abcdef")
    dead.touch()
    async with Ledger(ledger_path) as first, Ledger(ledger_path) as second:
        assert not dead.exists()
        found = list(ledger_path.parent.glob("*owner*"))
        assert len(found) == 2
        assert {stat.st_mode & 0o777 for stat in map(Path.stat, found)} == {0o600}
        await start(first, 1)
        assert isinstance(await second.begin(ask(second, 1)), Busy)


def test_a_file_swept_before_it_was_locked_is_made_anew(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock
    swept: list[Path] = []

    def flock(fd: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not swept:
            swept.extend(ledger_path.parent.glob("*owner*"))
            swept[0].unlink()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = owners.Owner(ledger_path)
    assert owners.is_alive(ledger_path, owner.name)
    assert not owners.is_alive(ledger_path, swept[0].name.rpartition("-")[2])
    assert open_of(ledger_path) == {f"-owner-{owner.name}"}
    owner.release()
    assert not owners.is_alive(ledger_path, owner.name)


def test_who_looks_whether_an_owner_is_alive_leaves_its_file(ledger_path: Path) -> None:
    """Without it, nobody could tell any more."""
    dead, owner = owners.Owner(ledger_path), owners.Owner(ledger_path)
    assert owners.has_others(ledger_path, owner.name)
    dead.close()
    assert [owners.is_alive(ledger_path, dead.name) for _ in range(2)] == [False, False]
    dead.release()
    assert not owners.has_others(ledger_path, owner.name)
    owner.release()


async def test_a_system_without_file_locks(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(LedgerError, match="needs file locks, and there are none: this system has no file locks"):
        await Ledger(ledger_path).open()
    assert not [*ledger_path.parent.iterdir()]


async def test_a_forked_child_neither_uses_the_ledger_nor_keeps_its_parent_alive(ledger_path: Path) -> None:
    with child(
        """
        async def main():
            ledger = Ledger(sys.argv[1])
            await ledger.open()
            await ledger.begin(ask(ledger, 1))
            asked = ask(ledger, 2)
            import warnings; warnings.simplefilter("ignore")
            if os.fork():
                os._exit(0)
            for operation in (ledger.begin(asked), ledger.aclose()):
                try:
                    await operation
                except Exception as exc:
                    print(type(exc).__name__, exc, flush=True)
            sys.stdin.read()
        asyncio.run(main())
        """,
        ledger_path,
    ) as process:
        for _ in range(2):
            assert "ConfigurationError the ledger was opened before a fork" in process.stdout.readline()
        process.wait()
        async with Ledger(ledger_path) as ledger:  # the grandchild still runs
            assert [record.error for record in ledger.attempts()] == [DIED]
