"""The ledger: files and disks that fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aisolution_async.ledger import (
    Busy,
    Ledger,
    LedgerError,
    Result,
    Started,
    State,
    Stored,
    schema,
)
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.rows import DIED

from .ledgers import (
    REPLY,
    answered,
    ask,
    book_of,
    check,
    child,
    do,
    fail,
    limit,
    refused,
    refused_to_open_locked,
    rows,
    start,
)

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_no_folder(tmp_path: Path) -> None:
    await refused(tmp_path / "none" / "ledger", f"make {tmp_path / 'none'} first")


async def test_a_folder_in_its_place(ledger_path: Path) -> None:
    ledger_path.mkdir()
    await refused(ledger_path, "is a folder: name a file in it")
    with pytest.raises(LedgerError, match="is a folder"):
        Ledger(ledger_path).summary()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 100, b"short"])
async def test_not_a_database(ledger_path: Path, content: bytes) -> None:
    ledger_path.write_bytes(content)
    await refused(ledger_path, "no ledger, or damaged", "restore")
    assert ledger_path.read_bytes() == content
    with pytest.raises(LedgerError, match="no ledger, or damaged"):
        Ledger(ledger_path).summary()


async def test_a_database_of_something_else(ledger_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(ledger_path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    await refused(ledger_path, "a database of something else", "a file of its own")
    assert rows(ledger_path, "SELECT name FROM sqlite_master") == [("theirs",)]


async def test_a_damaged_ledger(ledger_path: Path) -> None:
    async with Ledger(ledger_path, synchronous="off") as ledger:
        await asyncio.gather(*(do(ledger, answered(), n) for n in range(300)))
    data = bytearray(ledger_path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    ledger_path.write_bytes(data)
    await refused(ledger_path, "damaged", "copy")
    with pytest.raises(LedgerError, match="damaged"):
        list(Ledger(ledger_path).attempts())


async def test_locked_by_another_program(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0
    transaction = Book.transaction

    def counted(book: Book) -> contextlib.AbstractContextManager[None]:
        nonlocal waited
        waited += 1
        return transaction(book)

    async with Ledger(ledger_path, busy_timeout=0.02) as ledger:
        started = await start(ledger)
        with contextlib.closing(sqlite3.connect(ledger_path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            with monkeypatch.context() as patch:
                patch.setattr(Book, "transaction", counted)
                answers = await asyncio.gather(
                    *(ledger.begin(ask(ledger, n)) for n in range(50)),
                    ledger.end(started, answered()),
                    return_exceptions=True,
                )
            assert waited == 1  # not 51 times
            assert {type(answer) for answer in answers} == {LedgerError}
            assert "locked by another program: end it, or wait" in str(answers[0])
            await refused_to_open_locked(ledger_path)
            with pytest.raises(LedgerError, match="locked"):
                await ledger.purge(0)
        # The end that was refused is made up for.
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
    check(ledger_path)


async def test_a_ledger_that_somebody_else_is_making_for_too_long(ledger_path: Path) -> None:
    ledger_path.touch()
    with contextlib.closing(sqlite3.connect(ledger_path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        await refused_to_open_locked(ledger_path)


async def test_a_full_disk(ledger_path: Path) -> None:
    async with Ledger(ledger_path, max_charges=9, synchronous="off") as ledger:
        started = [await start(ledger, n) for n in range(3)]
        await do(ledger, answered(), "earlier")
        big = answered(reply=b'"' + b"x" * 100_000 + b'"')
        await limit(ledger, 1)  # as many as there are
        with pytest.raises(LedgerError, match=r"disk of the ledger .* is full: make room"):
            await ledger.end(started[0], big)
        # It is under way still, with its reservation; whoever asks for it is told; small things may still fit.
        with pytest.raises(LedgerError, match="could not be recorded"):
            await ledger.begin(ask(ledger, 0))
        assert ledger.summary().by()[()].intended == 3
        assert isinstance(await ledger.begin(ask(ledger, "earlier")), Stored)
        check(ledger_path)
        await limit(ledger, 10**6)
        await ledger.end(started[1], answered())
        stored = await ledger.begin(ask(ledger, 0))
        assert isinstance(stored, Stored)
        assert stored.reply == big.reply
        await ledger.end(started[0], big)  # tried again by the caller, too
    check(ledger_path)


async def test_an_answer_that_could_not_be_recorded_is_recorded_at_the_close(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        started = await start(ledger)
        await fail(ledger, "COMMIT", *[sqlite3.SQLITE_IOERR] * 2)
        with pytest.raises(LedgerError, match=r"disk of the ledger .* failed: look at the disk"):
            await ledger.end(started, answered())
    assert [record.reply for record in ledger.answers()] == [REPLY]


async def test_an_answer_that_could_not_be_recorded_is_recorded_once(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is made up for with others or by itself: no later group carries it along."""
    ended: list[int] = []
    end = Book.end

    def noted(book: Book, started: Started, result: Result) -> None:
        ended.append(started.id)
        end(book, started, result)

    monkeypatch.setattr(Book, "end", noted)
    async with Ledger(ledger_path, synchronous="off") as ledger:
        for fails in (0, 1):  # so often the group fails that makes up for it
            ended.clear()
            started = await start(ledger, fails)
            await fail(ledger, "COMMIT", *[sqlite3.SQLITE_IOERR] * (2 + fails))
            with pytest.raises(LedgerError, match="failed: look at the disk"):
                await ledger.end(started, answered())
            tried = len(ended)
            for n in range(3):
                await start(ledger, f"{fails} {n}")
            assert ended == [started.id] * (tried + 1 + fails)
    assert len(list(ledger.answers())) == 2


async def test_who_waits_for_an_answer_that_cannot_be_recorded_is_told(file_ledger: Ledger) -> None:
    started = await start(file_ledger)
    busy = await file_ledger.begin(ask(file_ledger))
    assert isinstance(busy, Busy)
    await fail(file_ledger, "DELETE", *[sqlite3.SQLITE_FULL] * 4)
    with pytest.raises(LedgerError, match="full"):
        await file_ledger.end(started, answered())
    await busy.wait()
    with pytest.raises(LedgerError, match="could not be recorded"):
        await file_ledger.begin(ask(file_ledger))
    await book_of(file_ledger)
    assert isinstance(await file_ledger.begin(ask(file_ledger)), Stored)


async def test_a_close_that_cannot_write_leaves_it_to_the_next_opening(
    ledger_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(ledger_path)
    await ledger.open()
    await start(ledger)
    await fail(ledger, "BEGIN", *[sqlite3.SQLITE_FULL] * 9)
    await ledger.aclose()
    assert "full" in caplog.text
    async with Ledger(ledger_path) as ledger:
        assert [record.error for record in ledger.attempts()] == [DIED]


async def test_a_file_size_limit(ledger_path: Path) -> None:
    with child(
        """
        import resource
        async def main():
            async with Ledger(sys.argv[1]) as ledger:
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
                sent = 0
                try:
                    for n in range(1000):
                        started = await ledger.begin(ask(ledger, n))
                        sent += 1
                        await ledger.end(started, answered())
                except LedgerError as exc:
                    print(exc)
                print(sent)
        asyncio.run(main())
        """,
        ledger_path,
    ) as process:
        out = process.stdout.read()
    error, sent = out.splitlines()
    assert "failed: look at the disk, and at its quota" in error
    async with Ledger(ledger_path) as ledger:
        assert len(list(ledger.attempts())) >= int(sent)
    check(ledger_path)


@pytest.mark.parametrize("number", [13, 30, 1])
async def test_a_folder_that_cannot_be_written(ledger_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def denied(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number), "secret")

    monkeypatch.setattr(os, "open", denied)
    await refused(ledger_path, "cannot be written: allow writing to the file and to its folder")


async def test_a_file_that_cannot_be_written(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(ledger_path):
        pass
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, **how: real(file.replace("mode=rw", "mode=ro"), **how))
    await refused(ledger_path, "cannot be written")


async def test_a_file_system_without_a_log(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: real(":memory:", check_same_thread=False))
    await refused(ledger_path, "put it on a local disk")


@pytest.mark.parametrize(
    ("codes", "said", "looks"),
    [
        ([sqlite3.SQLITE_BUSY] * 3, None, 4),
        ([sqlite3.SQLITE_IOERR], "failed: look at the disk", 1),
        ([sqlite3.SQLITE_BUSY] * 10**5, "locked by another program", None),
    ],
    ids=["for a moment", "a fault", "for too long"],
)
async def test_another_process_sets_up_the_log(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int], said: str | None, looks: int | None
) -> None:
    real, looked = sqlite3.connect, 0

    class Contended(sqlite3.Connection):
        def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
            nonlocal looked
            if query.startswith("PRAGMA journal_mode"):
                looked += 1
                if looked <= len(codes):
                    error = sqlite3.OperationalError("no text of this is shown")
                    error.sqlite_errorcode = codes[looked - 1]
                    raise error
            return super().execute(query, *values)

    monkeypatch.setattr(sqlite3, "connect", lambda file, **how: real(file, factory=Contended, **how))
    if said is None:
        async with Ledger(ledger_path) as ledger:
            await do(ledger, answered())
    else:
        await refused(ledger_path, said)
    assert looked == looks or (looks is None and looked > 0)


async def test_an_error_nobody_thought_of(ledger_path: Path) -> None:
    error = sqlite3.OperationalError("secret")
    error.sqlite_errorcode = sqlite3.SQLITE_NOLFS
    assert (
        str(schema.fault(ledger_path, error)) == f"the ledger {ledger_path} failed (SQLite error 22): look at its disk"
    )


async def test_a_ledger_removed_or_replaced_while_in_use(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        started = await start(ledger)
        away = ledger_path.rename(ledger_path.with_name("away"))
        for _ in range(2):
            with pytest.raises(LedgerError, match="was removed or replaced while in use: put it back"):
                await ledger.begin(ask(ledger, 2))
            ledger_path.touch()
        with pytest.raises(LedgerError, match="removed or replaced"):
            await ledger.end(started, answered())
        away.rename(ledger_path)
        assert isinstance(await ledger.begin(ask(ledger)), Stored)


async def test_an_attempt_of_another_file(file_ledger: Ledger, tmp_path: Path) -> None:
    async with Ledger(tmp_path / "other") as other:
        started = await start(other)
        with pytest.raises(LedgerError, match="lacks attempt 1"):
            await file_ledger.end(started, answered())
    # It is not kept for later: what has that number here one day is another attempt.
    assert (await start(file_ledger, 2)).id == started.id
    assert isinstance(await file_ledger.begin(ask(file_ledger, 2)), Busy)
    assert [record.state for record in file_ledger.attempts()] == [State.INTENDED]
