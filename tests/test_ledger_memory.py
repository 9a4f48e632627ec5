"""One file, one ledger: by whatever name it is opened, and whatever became of its files since."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from aisolution_async import Charge, Ledger, LedgerError, WhatsAppDetail
from aisolution_async.ledger import Busy, Started, Stored, owners, schema
from aisolution_async.ledger.peek import Peek

from . import forks
from .ledgers import answered, ask, check, do, fail, limit, pragma, rows, start
from .support import Vendor, client_of, says


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def mark(path: Path) -> Path:
    return path.with_name(f"{path.name}-mark")


# ------------------------------------------------------------------------------------------- one file, two names


async def test_a_symlink_is_the_same_ledger(ledger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    names = [tmp_path / "elsewhere" / "link", tmp_path / "folder" / "calls.ledger", tmp_path / "two"]
    async with Ledger(ledger_path) as first:
        names[0].symlink_to(ledger_path)
        (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
        names[2].symlink_to(names[0])
        started = await start(first)
        for name in names:
            async with Ledger(name, max_charges=9) as second:
                assert second.path == ledger_path
                assert isinstance(await second.begin(ask(second, retry_unknown=9)), Busy)
        await first.end(started, answered())
        assert {file.name for file in names[0].parent.iterdir()} == {"link"}


async def test_a_symlink_that_leads_nowhere_makes_what_it_names(ledger_path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ledger_path.name)
    async with Ledger(link) as ledger:
        await do(ledger, answered())
    assert Ledger(ledger_path).summary().answers == 1


async def test_a_file_with_two_names_is_refused_by_both(ledger_path: Path, tmp_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        started = await start(ledger)
        os.link(ledger_path, tmp_path / "other")
        for name in (ledger_path, tmp_path / "other"):
            with pytest.raises(LedgerError, match="another name .*remove one of the names"):
                await Ledger(name).open()
        # Who had it open before loses nothing.
        await ledger.end(started, answered())
        await do(ledger, answered(), 2)
    (tmp_path / "other").unlink()
    assert Ledger(ledger_path).summary().answers == 2


# ------------------------------------------------------------------------------------- what it was, and what it is


KILLED = """
import asyncio, os, sys
from tests.ledgers import answered, do, start
from aisolution_async import Ledger
async def main():
    ledger = Ledger(sys.argv[1])
    await ledger.open()
    for n in range(30):
        await do(ledger, answered(), n)
    await start(ledger, "under way")
    os._exit(9)
asyncio.run(main())
"""


def killed(path: Path) -> None:
    """A ledger of thirty answers, and a call under way, as a killed process leaves it."""
    modules = ("aisolution_async.client", "aisolution_async.ledger.postgres", "tests.ledgers")
    words, root = ["-c", KILLED, str(path)], Path(__file__).parent.parent
    assert forks.run(words, cwd=root, options=("-W", "error"), modules=modules) == (9, "")
    assert wal(path).stat().st_size > path.stat().st_size


def swap(path: Path) -> None:
    other = path.with_name("other")
    asyncio.run(_make(other))
    shutil.copy(other, path)


async def _make(path: Path) -> None:
    async with Ledger(path) as ledger:
        for n in range(99):
            await do(ledger, answered(), f"other {n}")


def random_bytes(path: Path) -> None:
    size = wal(path).stat().st_size
    with wal(path).open("r+b") as file:
        file.seek(size // 3)
        file.write(os.urandom(size // 3))


def cut(path: Path) -> None:
    with wal(path).open("r+b") as file:
        file.truncate(wal(path).stat().st_size // 2)


def remove_log(path: Path) -> None:
    wal(path).unlink()


def remove_mark(path: Path) -> None:
    mark(path).unlink()


def empty_log(path: Path) -> None:
    wal(path).write_bytes(b"")


def empty(path: Path) -> None:
    path.write_bytes(b"")


BESIDE = "is empty or gone, and calls.ledger-wal beside it"
DAMAGES: dict[str, tuple[Sequence[Callable[[Path], None]], str]] = {
    "without its log": ([remove_log], "was in use when its process ended, and calls.ledger-wal.* is missing"),
    "without its log and mark": ([remove_log, remove_mark], "was in use when its process ended"),
    "log cut": ([cut], r"has \d+ attempts now"),
    "log emptied": ([empty_log], "has 0 attempts now"),
    "log of random bytes": ([random_bytes], r"has \d+ attempts now"),
    "emptied": ([empty], BESIDE),
    "emptied, no log": ([empty, remove_log], "is empty now"),
    "gone": ([Path.unlink], BESIDE),
    "another": ([swap], "is another one than was here"),
    "another, no log": ([swap, remove_log], "is another one than was here"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_ledger_that_is_not_what_it_was_is_refused(ledger_path: Path, damage: str) -> None:
    await asyncio.to_thread(killed, ledger_path)
    steps, why = DAMAGES[damage]
    for step in steps:
        await asyncio.to_thread(step, ledger_path)
    files = {file: file.read_bytes() for file in ledger_path.parent.iterdir() if not file.name.endswith("-shm")}
    vendor = Vendor(lambda request, _: says("OK", {"whatsapp": "yes"}))
    for _ in range(2):
        with pytest.raises(LedgerError, match=why):
            await Ledger(ledger_path).open()
        client = client_of(vendor, ledger=ledger_path)
        with pytest.raises(LedgerError, match=why):
            await client.whatsapp_detail("+6281387300008")
        await client.aclose()
    # Nothing was sent, and what is left can still be put back.
    assert vendor.requests == []
    now = {file: file.read_bytes() for file in ledger_path.parent.iterdir() if not file.name.endswith("-shm")}
    assert {file.name: now.get(file) == data for file, data in files.items()} == {file.name: True for file in files}


@pytest.mark.parametrize("look", [lambda path: Ledger(path).summary(), Peek], ids=["to read", "to peek"])
async def test_who_looks_at_an_emptied_ledger_leaves_its_log(ledger_path: Path, look: Callable[[Path], object]) -> None:
    """SQLite deletes what is beside an empty file, also for who only reads: it has all the answers."""
    await asyncio.to_thread(killed, ledger_path)
    log = wal(ledger_path).read_bytes()
    empty(ledger_path)
    with pytest.raises(LedgerError, match=BESIDE):
        look(ledger_path)
    assert wal(ledger_path).read_bytes() == log


def test_what_is_no_file_is_refused_as_it_is_opened_and_not_before(ledger_path: Path, tmp_path: Path) -> None:
    for path in (ledger_path, tmp_path, tmp_path / "no folder" / "calls.ledger"):
        schema.check_is_ledger(path)
    assert not [*tmp_path.iterdir()]


async def test_a_look_before_the_opening_leaves_no_file(ledger_path: Path, tmp_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        for n in range(3):
            await do(ledger, answered(), n)
    older = ledger_path.read_bytes()
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered(), 3)
    names = sorted(file.name for file in tmp_path.iterdir())
    schema.check_is_ledger(ledger_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    ledger_path.write_bytes(older)  # closed, and restored from a copy
    with pytest.raises(LedgerError, match="has 3 attempts now, and it had 4"):
        schema.check_is_ledger(ledger_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == names


async def test_the_mark_of_a_ledger_that_was_taken_away_does_not_come_back_by_a_loss_of_power(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
    ledger_path.unlink()
    synced: list[set[str]] = []
    sync = os.fsync

    def fsync(number: int) -> None:
        if os.path.samestat(os.fstat(number), ledger_path.parent.stat()):
            synced.append({file.name for file in ledger_path.parent.iterdir() if "-owner-" not in file.name})
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    async with Ledger(ledger_path):
        pass
    # Gone for good before there is another ledger, which would not be the one of the mark.
    assert synced[:1] == [set()]


@pytest.mark.parametrize(
    "is_folded",
    [lambda n, last: n == 0, lambda n, last: n < last, lambda n, last: n > 0, lambda n, last: n % 2 == 0],
    ids=["the first page", "all but the last", "all but the first", "every other"],
)
async def test_a_ledger_whose_log_was_being_folded_into_it_is_not_damaged(
    ledger_path: Path, is_folded: Callable[[int, int], bool]
) -> None:
    page, log = 4096, wal(ledger_path)
    async with Ledger(ledger_path) as ledger:
        before = ledger_path.read_bytes()
        await asyncio.gather(*(do(ledger, answered(), n) for n in range(200)))
        asked, of_log = ask(ledger, 199), log.read_bytes()
        await pragma(ledger, "wal_checkpoint(FULL)")
        after = ledger_path.read_bytes()
    last = len(after) // page - 1
    assert last > len(before) // page + 1  # the file has grown, as its first page says
    ledger_path.write_bytes(before)
    with ledger_path.open("r+b") as file:
        for n in (n for n in range(last + 1) if is_folded(n, last)):
            file.seek(n * page)
            file.write(after[n * page :][:page])
    log.write_bytes(of_log)
    schema.check_is_ledger(ledger_path)
    with Peek(ledger_path) as peek:
        assert isinstance(peek.look(asked), Stored)
    async with Ledger(ledger_path) as ledger:
        assert isinstance(await ledger.begin(asked), Stored)
    check(ledger_path)


def test_a_ledger_that_was_cut_off_as_it_was_made_is_for_its_journal_to_put_back(ledger_path: Path) -> None:
    ledger_path.write_bytes(b"SQLite".ljust(4096, b"\0"))
    with pytest.raises(LedgerError, match="no ledger, or damaged"):
        schema.check_is_ledger(ledger_path)
    ledger_path.with_name(f"{ledger_path.name}-journal").write_bytes(bytes(512))
    schema.check_is_ledger(ledger_path)


async def test_what_a_killed_process_ended_is_safe_before_its_lock_file_goes(
    ledger_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been killed between the writing of the log and the sync."""
    await asyncio.to_thread(killed, ledger_path)
    (tmp_path / f"{ledger_path.name}-owner-{'0' * 16}").touch()
    folded: list[int] = []
    sweep = owners.sweep

    def look_and_sweep(ledger: Path, spared: Collection[str]) -> None:
        alone = shutil.copy(ledger, tmp_path / "alone")
        with closing(sqlite3.connect(f"file:{alone}?mode=ro&immutable=1", uri=True)) as db:
            folded.extend(last_id for (last_id,) in db.execute("SELECT last_id FROM file"))
        sweep(ledger, spared)

    monkeypatch.setattr(owners, "sweep", look_and_sweep)
    async with Ledger(ledger_path):
        assert folded == [row for (row,) in rows(ledger_path, "SELECT last_id FROM file")]
        assert len([*tmp_path.glob("*-owner-*")]) == 1


async def test_a_killed_ledger_goes_on_where_nothing_is_lost(ledger_path: Path) -> None:
    await asyncio.to_thread(killed, ledger_path)
    async with Ledger(ledger_path) as ledger:
        assert isinstance(await ledger.begin(ask(ledger, 29)), Stored)
        assert ledger.summary().held == 1
        await do(ledger, answered(), "more")
    assert mark(ledger_path).read_bytes().endswith(b"%020d\n" % 32)
    check(ledger_path)


async def test_who_takes_a_ledger_away_begins_a_new_one(ledger_path: Path) -> None:
    await asyncio.to_thread(killed, ledger_path)
    ledger_path.unlink()
    wal(ledger_path).unlink()
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered(), 29)
    assert mark(ledger_path).read_bytes().endswith(b"%020d\n" % 1)


async def test_a_new_ledger_that_was_killed_while_it_was_made(ledger_path: Path) -> None:
    """The mark of the one before is gone by then."""
    await asyncio.to_thread(killed, ledger_path)
    ledger_path.unlink()
    wal(ledger_path).unlink()
    schema.connect(ledger_path, synchronous="off", busy_timeout=1).close()
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())


async def test_one_can_go_on_without_what_is_lost(ledger_path: Path) -> None:
    await asyncio.to_thread(killed, ledger_path)
    wal(ledger_path).write_bytes(b"")
    mark(ledger_path).unlink()
    async with Ledger(ledger_path) as ledger:
        assert isinstance(await ledger.begin(ask(ledger, 29)), Started)


async def test_who_looks_takes_no_empty_log_away(ledger_path: Path) -> None:
    """It is there to go on without what is lost."""
    await asyncio.to_thread(killed, ledger_path)
    wal(ledger_path).write_bytes(b"")
    mark(ledger_path).unlink()
    Ledger(ledger_path).summary()
    Peek(ledger_path).close()
    async with Ledger(ledger_path) as ledger:
        assert isinstance(await ledger.begin(ask(ledger, 29)), Started)


async def test_the_ledger_alone_knows_that_it_was_in_use(ledger_path: Path, tmp_path: Path) -> None:
    """Whoever moves or copies it leaves its log behind."""
    async with Ledger(ledger_path) as first, Ledger(ledger_path):
        for n in range(3):
            shutil.copy(ledger_path, tmp_path / f"copy{n}")
            with pytest.raises(LedgerError, match=f"make an empty file copy{n}-wal"):
                await Ledger(tmp_path / f"copy{n}").open()
            assert Ledger(tmp_path / f"copy{n}").summary().held == 0  # it can be read
            await do(first, answered(), n)
    shutil.copy(ledger_path, tmp_path / "closed")
    async with Ledger(tmp_path / "closed") as ledger:
        assert isinstance(await ledger.begin(ask(ledger, 2)), Stored)


async def test_who_closes_a_ledger_that_another_has_open_leaves_it_in_use(ledger_path: Path, tmp_path: Path) -> None:
    async with Ledger(ledger_path) as first:
        async with Ledger(ledger_path) as second:
            await do(second, answered(), 1)
        await do(first, answered(), 2)
        assert mark(ledger_path).read_bytes().endswith(b"%020d\n" % 2)
        await pragma(first, "wal_checkpoint(FULL)")
        shutil.copy(ledger_path, tmp_path / "copy")
        with pytest.raises(LedgerError, match="make an empty file copy-wal"):
            await Ledger(tmp_path / "copy").open()


async def test_who_looks_at_a_killed_ledger_leaves_its_log(ledger_path: Path) -> None:
    await asyncio.to_thread(killed, ledger_path)
    log = wal(ledger_path).read_bytes()
    for _ in range(2):
        assert Ledger(ledger_path).summary().answers == 30
    assert wal(ledger_path).read_bytes() == log
    async with Ledger(ledger_path) as ledger:
        assert ledger.summary().answers == 30
    assert not wal(ledger_path).exists()


async def test_a_close_that_cannot_write_is_no_loss(ledger_path: Path) -> None:
    """On a full disk, what is in the log is folded in all the same, and the next opening goes on."""
    ledger = Ledger(ledger_path)
    await ledger.open()
    await do(ledger, answered())
    await fail(ledger, "BEGIN", *[sqlite3.SQLITE_FULL] * 9)
    await limit(ledger, 1)
    await pragma(ledger, "query_only = ON")  # so that not even the note can be taken away
    await ledger.aclose()
    async with Ledger(ledger_path) as ledger:
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
    assert not wal(ledger_path).exists()


async def test_the_file_alone_knows_its_key_from_the_first_opening(ledger_path: Path, tmp_path: Path) -> None:
    """What a kill leaves in the log alone is young: the key to all identities is not."""
    async with Ledger(ledger_path) as ledger:
        shutil.copy(ledger_path, tmp_path / "alone")
        assert rows(tmp_path / "alone", "SELECT hash_key FROM file") == rows(ledger_path, "SELECT hash_key FROM file")
        for n in range(300):
            await do(ledger, answered(), n)
        shutil.copy(ledger_path, tmp_path / "later")
    with closing(sqlite3.connect(tmp_path / "later")) as db:
        assert db.execute("SELECT count(*) FROM attempts").fetchone()[0] > 100


async def test_an_empty_file_is_no_ledger_of_an_older_version(ledger_path: Path) -> None:
    ledger_path.touch()
    with pytest.raises(LedgerError, match=r"is empty: nothing was recorded in it, or it lost calls\.ledger-wal"):
        Ledger(ledger_path).summary()
    async with Ledger(ledger_path) as ledger:  # nobody ever opened it
        await do(ledger, answered())


@pytest.mark.parametrize("said", [b"", b"nonsense", b"key 0123 attempts 5\n", os.urandom(200)])
async def test_a_mark_that_cannot_be_read_proves_nothing(ledger_path: Path, said: bytes) -> None:
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
    mark(ledger_path).write_bytes(said)
    async with Ledger(ledger_path) as ledger:
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
    async with Ledger(ledger_path):  # it is written anew
        assert mark(ledger_path).read_bytes().startswith(b"key ")


async def test_a_mark_that_cannot_be_written_stops_nobody(ledger_path: Path) -> None:
    mark(ledger_path).mkdir()
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
    assert Ledger(ledger_path).summary().answers == 1


# -------------------------------------------------------------------------------------- failed ends, read as such


async def test_what_is_said_to_be_recorded_is_in_the_ledger(ledger_path: Path) -> None:
    """On a full disk some ends fail, are tried again with the next group, and fail again."""
    said: dict[tuple[int, object], bool | None] = {}

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0)
        return says("OK", {"whatsapp": "yes", "signature": "x" * 300})

    for pages in range(40, 80, 8):
        file = ledger_path.with_name(f"{pages}.ledger")
        async with Ledger(file, synchronous="off") as ledger:
            await limit(ledger, pages)
            async with client_of(Vendor(script), ledger=ledger) as client:
                calls = (WhatsAppDetail(f"+62812{n:06}0001", key=n) for n in range(400))
                async with client.batch(calls, concurrency=50) as batch:
                    async for outcome in batch:
                        if outcome.ok:
                            said[pages, outcome.key] = outcome.attempts[-1].recorded
                        assert outcome.charge is (Charge.CHARGED if outcome.ok else Charge.FREE)
            # The limit goes with the connection, as a disk that has room again; what waits is recorded at the close.
        here = {(pages, record.key) for record in Ledger(file).answers()}
        assert {place for place, recorded in said.items() if recorded and place[0] == pages} <= here
    assert set(said.values()) == {True, False}
