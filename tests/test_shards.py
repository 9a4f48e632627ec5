"""Folders of lists: shards that are run one after the other, and divided by workers that share a ledger."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID, uuid4

import httpx
import pytest

from aisolution_async import ConfigurationError, FaceCompare, IdHolding, LedgerError, WhatsAppDetail
from aisolution_async.bulk import BulkError, BulkOptions, BulkRun, FolderRun, FolderSummary, looks, run_folder
from aisolution_async.bulk.outputs import Output, UnwrittenError
from aisolution_async.bulk.photos import _Match
from aisolution_async.bulk.shards import foresee_folder
from aisolution_async.ledger.shards import Took

from . import forks
from .commands import COMMAND, run, settled, the_error
from .crash import CountingSandbox
from .ledgers import AnyLedger, book_of, expire, ledger_at, rows
from .servers import running
from .sheets import fill_disk, sane
from .support import Vendor, client_of, ok_whatsapp, picture, says

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


def write_lists(folder: Path, *sizes: int, ending: str = ".csv") -> list[str]:
    """Lists of so many rows each, and all their numbers."""
    folder.mkdir(exist_ok=True)
    every = [f"+62813{shard:03}{row:05}" for shard, size in enumerate(sizes) for row in range(size)]
    left = iter(every)
    for shard, size in enumerate(sizes):
        lines = [next(left) for _ in range(size)]
        (folder / f"part-{shard}{ending}").write_text("\n".join(["number", *lines, ""]))
    return every


def results(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The rows in each file of results."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            found[path.name] = list(csv.DictReader(file))
    return found


def answered(folder: Path) -> list[str]:
    """The numbers that have an answer in the results, each as often as it has."""
    return [row["number"] for shard in results(folder).values() for row in shard if row["ok"] == "true"]


def asked(vendor: Vendor) -> list[str]:
    return [parse_qs(request.content.decode())["number"][0] for request in vendor.requests]


async def folder_run(
    source: Path | str, output: Path, place: Path | str, vendor: Vendor | None = None, **options: Any
) -> FolderSummary:
    async with client_of(vendor or Vendor(sane)) as client:
        return await run_folder(client, WhatsAppDetail, source, output, ledger=place, **options)


# ---------------------------------------------------------------------------------------------------- one worker


async def test_each_list_has_a_file_of_results_of_its_name(tmp_path: Path, place: Path | str) -> None:
    numbers = write_lists(tmp_path / "lists", 5, 3, 0)
    vendor, told = Vendor(sane), list[str]()
    done = await folder_run(tmp_path / "lists", tmp_path / "out", place, vendor, on_start=told.append)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_bulk", *(f"part-{n}.csv" for n in range(3))]
    assert sorted(answered(tmp_path / "out")) == sorted(asked(vendor)) == numbers
    assert (done.shards, done.finished, done.elsewhere, done.left, done.problems) == (3, 3, 0, 0, {})
    assert (done.rows, done.ok, done.run.rows, done.run.tally.charged) == (8, 8, 8, 8)
    assert done.complete
    assert done.run.output == tmp_path / "out"
    assert len(told) == 1  # how they are read is the same for all of them


async def test_what_is_done_is_not_run_again_unless_its_list_changed(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 4, 4)
    await folder_run(lists, out, place)
    before = (out / "part-0.csv").stat()
    with (lists / "part-1.csv").open("a") as file:
        file.write("+6281999900001\n")
    (lists / "late.csv").write_text("number\n+6281999900002\n")
    vendor, known = Vendor(sane), list[int]()
    done = await folder_run(lists, out, place, vendor, on_resume=known.append)
    assert sorted(asked(vendor)) == ["+6281999900001", "+6281999900002"]
    assert (done.finished, done.elsewhere, done.rows, known) == (2, 1, 10, [8])
    after = (out / "part-0.csv").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (out / "part-0.csv").unlink()
    assert (await folder_run(lists, out, place, vendor)).finished == 1
    assert len(vendor.requests) == 2
    assert len(answered(out)) == 10


async def test_a_disk_without_hard_links_will_do(
    tmp_path: Path, place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 2)
    for finished in (1, 0):
        assert (await folder_run(lists, out, place)).finished == finished
    assert {path.name for path in (out / "_bulk").iterdir()} == {
        *("folder.id", "folder.lock", "folder.run", "part-0.csv.done", "part-0.csv.run")
    }


async def test_what_is_asked_otherwise_is_not_done(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    lists.mkdir()
    (lists / "part-0.csv").write_text("number,other\n+6281300000001,+6281300000002\n")
    vendor = Vendor(sane)
    for options, new in (
        ({}, ["+6281300000001"]),
        ({"columns": {"number": "other"}}, ["+6281300000002"]),
        ({"columns": {"number": "other"}, "key": "number"}, []),
        ({"columns": {"number": "other"}, "excel": True}, []),
    ):
        for is_done in (False, True):
            before = len(vendor.requests)
            done = await folder_run(lists, out, place, vendor, **options)
            assert (done.finished, done.elsewhere, done.ok) == (not is_done, is_done, 1)
            assert asked(vendor)[before:] == ([] if is_done else new)
    async with client_of(vendor) as client:
        calls = [WhatsAppDetail, IdHolding]
        both = await run_folder(client, calls, lists, out, ledger=place, columns={"img": "other", "number": "number"})
    assert (both.finished, both.ok) == (1, 0)  # there is no such photo


async def test_what_is_done_is_looked_at_again_where_answers_grow_too_old(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 2, 2)
    await folder_run(lists, out, place)
    note = out / "_bulk" / "part-0.csv.done"
    before = note.stat().st_mtime - 7200.0
    os.utime(note, (before, before))
    done = await folder_run(lists, out, place, reuse_for=3600.0)
    assert (done.finished, done.elsewhere) == (1, 1)


async def test_workers_that_ask_otherwise_are_told(tmp_path: Path, server_url: str) -> None:
    """As if two machines were started with different commands: results that somebody has just made are not replaced."""
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 2)
    await folder_run(lists, out, server_url)
    folder = UUID((out / "_bulk" / "folder.id").read_text().split()[0])
    (lists / "part-1.csv").write_text("number\n+6281999900001\n")
    async with ledger_at(server_url) as another:
        assert await shards_of(another, folder).take("any") is Took.TAKEN  # while it is at it, this is one pass
        await folder_run(lists, out, server_url)
        made = (out / "part-1.csv").read_bytes()
        done = await folder_run(lists, out, server_url, excel=True)
        assert (done.finished, list(done.problems)) == (1, ["part-1.csv"])
        assert "another command" in done.problems["part-1.csv"]
        assert (out / "part-1.csv").read_bytes() == made
    assert (await folder_run(lists, out, server_url, excel=True)).problems == {}


async def test_a_shard_that_cannot_be_read_stops_no_other(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 3, 3)
    (lists / "a-empty.csv").write_bytes(b"")
    (lists / "b-other.csv").write_text("town\nManila\n")
    (lists / "c-cut.parquet").write_bytes(b"PAR1 and no more")
    (lists / "d-gone.csv").symlink_to(tmp_path / "nowhere.csv")
    damaged_parquet(lists / "e-damaged.parquet")
    vendor = Vendor(sane)
    done = await folder_run(lists, out, place, vendor, concurrency=1)
    assert [*done.problems] == ["a-empty.csv", "b-other.csv", "c-cut.parquet", "d-gone.csv", "e-damaged.parquet"]
    for name, word in zip(
        done.problems, ("empty", "number", "Parquet", "does not exist", "cannot be read on"), strict=True
    ):
        assert word in done.problems[name], done.problems[name]
    assert (done.finished, done.left, done.complete, len(answered(out))) == (2, 0, False, 6)
    # They are tried again, and what was asked of the damaged one is not paid for twice.
    paid = len(vendor.requests)
    (lists / "a-empty.csv").write_text("number\n+6281999900001\n")
    done = await folder_run(lists, out, place, vendor, concurrency=1)
    assert (done.finished, done.elsewhere, len(done.problems), len(vendor.requests)) == (1, 2, 4, paid + 1)


def damaged_parquet(path: Path) -> None:
    """A file of two row groups of which the second cannot be read."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"number": [f"+6281777{n:05}" for n in range(40)]})
    parquet.write_table(table, path, row_group_size=20, use_dictionary=False, write_page_checksum=True)
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    at = column.data_page_offset + column.total_compressed_size - 10
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


async def test_what_is_no_list_is_left_out_and_told(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    write_lists(lists, 1)
    for name in ("_SUCCESS", ".hidden.csv", "part-9.csv.part", "photo.jpg", "~$part-0.xlsx"):
        (lists / name).write_text("number\n+6281999900001\n")
    write_lists(lists / "inner", 1)
    told = list[str]()
    vendor = Vendor(sane)
    done = await folder_run(lists, lists / "out", tmp_path / "ledger", vendor, on_start=told.append)
    assert (done.shards, len(vendor.requests)) == (1, 1)
    assert told[0] == "3 files are no lists by their names, and left out: '_SUCCESS', 'part-9.csv.part', 'photo.jpg'"
    assert told[1] == "1 folder in it is left out: 'inner'. Run each by itself"
    assert (await folder_run(lists, lists / "out", tmp_path / "ledger", vendor)).elsewhere == 1


async def test_a_pattern_names_lists_too(tmp_path: Path) -> None:
    write_lists(tmp_path / "a", 2, 2)
    write_lists(tmp_path / "b", 2, ending=".tsv")
    done = await folder_run(str(tmp_path / "*" / "part-[02]*"), tmp_path / "out", tmp_path / "ledger")
    assert done.shards == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_bulk", "part-0.csv", "part-0.tsv"}


async def test_the_format_of_results_is_that_of_the_list_where_it_can_be_written(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.txt").write_text("number;town\n+6281999900001;X\n")
    (lists / "b.jsonl").write_text('{"number": "+6281999900002"}\n')
    parquet.write_table(pa.table({"number": ["+6281999900003"]}), lists / "c.pq")
    done = await folder_run(lists, tmp_path / "out", tmp_path / "ledger")
    assert done.complete, done
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_bulk", "a.csv", "b.jsonl", "c.parquet"}
    assert parquet.read_table(tmp_path / "out" / "c.parquet").num_rows == 1


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda at: (at / "lists" / "a.txt").write_text("number\n1\n"), {}, "would both be 'a.csv'"),
        (lambda at: (at / "out").write_text(""), {}, "or else a folder for the results, and no file like 'out'"),
        (lambda at: None, {"output": "lists"}, "is the folder of the lists"),
        (lambda at: None, {"output": "new.csv"}, "'lists' is a directory: name a file in it, or else a folder"),
        (lambda at: None, {"output": "no/out"}, "does not exist: make it first"),
        (lambda at: None, {"problems": "mend.csv"}, "the rows with problems of a folder go to a folder"),
        (lambda at: None, {"problems": "out"}, "would go to the folder of the results"),
        (lambda at: None, {"problems": "lists"}, "would go to the folder of the lists"),
        (lambda at: None, {"rescued": ["rows.jsonl"]}, "rescued rows are of one list"),
        (lambda at: None, {"ledger": None}, "a folder needs a ledger"),
        (lambda at: (at / "lists" / "a.csv").unlink(), {}, "there are no lists in 'lists'"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], options: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    Path("lists/a.csv").write_text("number\n+6281999900001\n")
    make(tmp_path)
    options = {"output": "out", "ledger": "ledger", **options}
    vendor = Vendor(sane)
    async with client_of(vendor) as client:
        with pytest.raises(ConfigurationError, match=words):
            await run_folder(client, WhatsAppDetail, "lists", **options)
    assert vendor.requests == []
    assert not Path("ledger").exists()


async def test_two_folders_with_lists_of_one_name_are_refused(tmp_path: Path) -> None:
    write_lists(tmp_path / "a", 1)
    write_lists(tmp_path / "b", 1)
    with pytest.raises(ConfigurationError, match=r"would both be 'part-0\.csv'"):
        await folder_run(str(tmp_path / "[ab]" / "*.csv"), tmp_path / "out", tmp_path / "ledger")


async def test_a_file_that_is_not_of_the_folder_is_not_replaced(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 1, 1)
    out.mkdir()
    (out / "part-0.csv").write_text("mine\n")
    done = await folder_run(lists, out, place)
    assert "is not known to be of this folder" in done.problems["part-0.csv"]
    assert (out / "part-0.csv").read_text() == "mine\n"
    assert (await folder_run(lists, out, place, overwrite=True)).complete


async def test_another_ledger_is_refused(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 2)
    await folder_run(lists, out, place)
    vendor = Vendor(sane)
    with pytest.raises(ConfigurationError, match="are of another ledger"):
        await folder_run(lists, out, tmp_path / "other", vendor)
    assert vendor.requests == []
    assert (await folder_run(lists, out, tmp_path / "other", vendor, overwrite=True)).complete


async def test_the_limit_on_spending_is_of_all_shards(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 4, 4, 4)
    vendor = Vendor(sane)
    done = await folder_run(lists, out, place, vendor, max_charges=6)
    assert (done.run.over_budget, done.finished, done.left, len(vendor.requests)) == (2, 2, 1, 6)
    done = await folder_run(lists, out, place, vendor, max_charges=12)
    assert (done.complete, done.ok, len(vendor.requests), len(answered(out))) == (True, 12, 12, 12)


async def test_a_run_that_is_stopped_goes_on(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    numbers = write_lists(lists, 3, 3, 3)

    def stops(request: httpx.Request, number: int) -> httpx.Response:
        if number == 4:
            folder.stop()
        return ok_whatsapp()

    vendor = Vendor(stops)
    async with client_of(vendor) as client:
        folder = FolderRun(client, WhatsAppDetail, lists, out, ledger=place, concurrency=1)
        done = await folder.run()
    assert (done.finished, done.left, folder.where, folder.current) == (1, 2, "shard 2 of 3", None)
    assert (out / "part-1.csv.part").exists()
    done = await folder_run(lists, out, place, vendor)
    assert (done.complete, done.elsewhere, sorted(answered(out))) == (True, 1, numbers)
    assert Counter(asked(vendor)) == dict.fromkeys(numbers, 1)
    assert not (out / "part-1.csv.part").exists()


async def test_a_vendor_that_is_gone_stops_the_folder(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists", 2, 2)

    def gone(request: httpx.Request, number: int) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)

    done = await folder_run(tmp_path / "lists", tmp_path / "out", tmp_path / "ledger", Vendor(gone))
    assert (done.finished, done.left, done.run.errors) == (1, 1, {"NotSentError": 2})


async def test_an_output_that_cannot_be_written_stops_the_folder(
    tmp_path: Path, place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    numbers = write_lists(lists, 3, 3, 3)
    vendor = Vendor(sane)
    with monkeypatch.context() as patched:
        fill_disk(patched, 300)
        with pytest.raises(BulkError, match=r"^part-0\.csv: the output .* cannot be written: No space left") as caught:
            await folder_run(lists, out, place, vendor, concurrency=1)
    assert caught.value.summary.rescued
    done = await folder_run(lists, out, place, vendor)
    assert (done.complete, sorted(answered(out)), sorted(asked(vendor))) == (True, numbers, numbers)


async def test_rows_with_problems_are_mended_shard_by_shard(tmp_path: Path, place: Path | str) -> None:
    lists, out, mend = tmp_path / "lists", tmp_path / "out", tmp_path / "mend"
    write_lists(lists, 2, 2)
    with (lists / "part-1.csv").open("a") as file:
        file.write("12\n")
    vendor = Vendor(sane)
    done = await folder_run(lists, out, place, vendor, problems=mend)
    assert (done.failed, done.run.problems) == (1, mend)
    assert {path.name for path in mend.iterdir()} == {"part-1.csv", "part-1.csv.of"}
    text = (mend / "part-1.csv").read_text()
    (mend / "part-1.csv").write_text(text.replace("12,", "+6281999900001,", 1))
    done = await folder_run(lists, out, place, vendor, problems=mend)
    assert (done.complete, done.ok, done.failed, [*mend.iterdir()]) == (True, 5, 0, [])
    assert len(vendor.requests) == 5


async def test_held_rows_are_aside_and_say_how_to_go_on(tmp_path: Path, place: Path | str) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 2, 2)

    def loses(request: httpx.Request, number: int) -> httpx.Response:
        if number == 0:
            raise httpx.ReadTimeout("lost", request=request)
        return ok_whatsapp()

    done = await folder_run(lists, out, place, Vendor(loses), concurrency=1, command=["whatsapp-detail"])
    assert (done.held, done.run.to_settle) == (1, out / "_bulk")
    assert {path.name for path in out.iterdir()} == {"_bulk", "part-0.csv", "part-1.csv"}
    (held,) = results(out / "_bulk")["part-0-held.csv"]
    assert f"aisolution bulk --resume {out} " in held["what to do"]


async def test_photos_that_stand_in_parquet_are_read(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = tmp_path / "lists"
    lists.mkdir()
    photos = [picture(n) for n in range(4)]
    table = pa.table({"id": ["A", "B"], "selfie": photos[:2], "ktp": pa.array(photos[2:], pa.large_binary())})
    parquet.write_table(table, lists / "one.parquet")
    (lists / "selfie.jpg").write_bytes(photos[0])
    (lists / "two.csv").write_text("id,selfie,ktp\nC,selfie.jpg,selfie.jpg\n")
    vendor = Vendor(lambda request, number: says("OK", {"similarity": 97.5, "result": "SAME PERSON"}))
    columns = {"img1": "selfie", "img2": "ktp"}
    async with client_of(vendor) as client:
        done = await run_folder(
            client, FaceCompare, lists, tmp_path / "out", ledger=tmp_path / "ledger", columns=columns
        )
    assert (done.ok, done.rows, len(vendor.requests)) == (3, 3, 3)
    found = parquet.read_table(tmp_path / "out" / "one.parquet").to_pydict()
    assert found["selfie"] == photos[:2]
    assert found["answer_result"] == ["SAME PERSON"] * 2


async def test_a_folder_is_searched_for_photos_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists, found = tmp_path / "lists", list[Path]()
    (lists / "photos").mkdir(parents=True)
    (lists / "photos" / "Selfie A.JPG").write_bytes(picture(1))
    for shard in range(3):
        (lists / f"{shard}.csv").write_text(f"id,img1,img2\n{shard},selfie a,selfie b\n")
    walk = _Match._walk

    def counted(self: Any, base: Path) -> Any:
        found.append(base)
        return walk(self, base)

    monkeypatch.setattr(_Match, "_walk", counted)
    options = BulkOptions(ledger=tmp_path / "ledger")
    async with client_of(Vendor(sane)) as client:
        done = await run_folder(client, FaceCompare, lists, tmp_path / "out", ledger=tmp_path / "ledger")
        found_ahead, _ = await foresee_folder(client, FaceCompare, lists, tmp_path / "out", options)
    assert (done.failed, found_ahead.failed, found) == (3, 3, [lists, lists])


# ---------------------------------------------------------------------------------------------------- many workers


async def test_a_second_worker_with_a_ledger_in_a_file_is_told_so(tmp_path: Path, ledger_path: Path) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 1)
    begun, opened = asyncio.Event(), asyncio.Event()

    async def waits() -> httpx.Response:
        begun.set()
        await opened.wait()
        return ok_whatsapp()

    first = asyncio.create_task(folder_run(lists, out, ledger_path, Vendor(lambda request, number: waits())))
    await begun.wait()
    for place in (ledger_path, running().url()):
        with pytest.raises(ConfigurationError, match="another run is working on the results"):
            await folder_run(lists, out, place)
    opened.set()
    assert (await first).complete


async def test_who_takes_a_shard(server_url: str) -> None:
    folder = uuid4()
    async with ledger_at(server_url) as one, ledger_at(server_url) as two:
        mine, theirs = shards_of(one, folder), shards_of(two, folder)
        assert await mine.take("a") is await mine.take("a") is Took.TAKEN
        assert await theirs.take("a") is Took.BUSY
        assert await theirs.take("b") is Took.TAKEN
        async with mine.finishing("a") as finish:
            assert await theirs.take("a") is Took.BUSY  # and nobody waits
            assert finish is not None
            finish.is_done = True
        assert await theirs.take("a") is await mine.take("a") is Took.DONE
        assert await shards_of(two, uuid4()).take("a") is Took.TAKEN  # another folder's
        await theirs.let_go("b")
        assert await mine.take("b") is Took.TAKEN
        # Who begins while somebody is at it goes on with that; who begins later does all anew.
        async with ledger_at(server_url) as three:
            assert await shards_of(three, folder).take("a") is Took.DONE
            await mine.let_go("b")
            assert await shards_of(three, folder).take("a") is Took.TAKEN


def shards_of(ledger: AnyLedger, folder: Any) -> Any:
    found: Any = ledger
    return found.shards(folder)


async def test_a_shard_is_lost_with_its_lease(server_url: str) -> None:
    folder = uuid4()
    async with ledger_at(server_url) as one, ledger_at(server_url) as two:
        mine, theirs = shards_of(one, folder), shards_of(two, folder)
        for name in ("a", "b", "c"):
            assert await mine.take(name) is Took.TAKEN
        expire(one, (await book_of(one))._owner)
        assert await theirs.take("a") is Took.TAKEN
        async with mine.finishing("a") as finish:
            assert finish is None
        async with mine.finishing("b") as finish:  # nobody has taken that one
            assert finish is not None
            assert await theirs.take("b") is Took.BUSY
            finish.is_done = True
        assert await theirs.take("b") is Took.DONE
        assert await mine.take("c") is Took.TAKEN  # as a new owner
        assert await theirs.take("c") is Took.BUSY
        await mine.let_go("a")
        assert await mine.take("a") is Took.BUSY


async def test_who_stands_still_as_it_finishes_a_shard_loses_it(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the session that has the shard's row locked: nobody waits for that process for ever."""
    from aisolution_async.ledger import server

    folder = uuid4()
    async with ledger_at(server_url) as one, ledger_at(server_url) as two:
        monkeypatch.setattr(server, "STANDS_STILL", server.STANDS_STILL.replace("30s", "200ms"))
        mine, theirs = shards_of(one, folder), shards_of(two, folder)
        assert await mine.take("a") is Took.TAKEN
        async with mine.finishing("a") as finish:
            assert finish is not None
            expire(one, (await book_of(one))._owner)
            while await theirs.take("a") is Took.BUSY:
                pass
            finish.is_done = True  # it goes on, and cannot say so
        assert await theirs.take("a") is Took.TAKEN
        async with theirs.finishing("a") as finish:
            assert finish is not None


async def test_a_results_name_that_could_not_be_given_leaves_the_shard(server_url: str) -> None:
    async with ledger_at(server_url) as one, ledger_at(server_url) as two:
        folder = uuid4()
        mine, theirs = shards_of(one, folder), shards_of(two, folder)
        assert await mine.take("a") is Took.TAKEN
        with contextlib.suppress(OSError):
            async with mine.finishing("a"):
                raise OSError("the disk is full")
        assert await theirs.take("a") is Took.BUSY
        await mine.let_go("a")
        assert await theirs.take("a") is Took.TAKEN


@pytest.mark.parametrize("patience", [10.0, 0.0])
async def test_a_server_that_is_away_when_a_shard_is_done_is_waited_for(
    server_url: str, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    from aisolution_async.ledger import server

    real, times = server.connect, []

    def connect(*given: Any) -> Any:
        times.append(given)
        if len(times) < 3:
            raise running().psycopg.OperationalError("the database system is starting up")
        return real(*given)

    async with ledger_at(server_url, patience=patience) as ledger:
        shards = shards_of(ledger, uuid4())
        assert await shards.take("a") is Took.TAKEN
        monkeypatch.setattr(server, "connect", connect)
        if patience:
            async with shards.finishing("a") as finish:
                assert finish is not None
        else:
            with pytest.raises(LedgerError, match="starting up"):
                async with shards.finishing("a"):
                    """Nobody comes here."""


async def test_a_ledger_of_version_1_is_brought_up(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aisolution_async.ledger import server

    whole = server.definition()
    with monkeypatch.context() as patched:
        patched.setattr(server, "definition", lambda: whole.partition("-- Version 2")[0])
        patched.setattr(server, "VERSION", 1)
        async with ledger_at(server_url):
            """It is made."""
    async with ledger_at(server_url) as ledger:
        assert await shards_of(ledger, uuid4()).take("a") is Took.TAKEN
    assert rows(server_url, "SELECT version FROM book") == [(server.VERSION,)]


async def test_a_worker_that_was_taken_for_dead_does_not_write_over_the_other(tmp_path: Path, server_url: str) -> None:
    """It is paused in the middle of a shard for longer than its lease, which another worker then runs."""
    lists, out = tmp_path / "lists", tmp_path / "out"
    numbers = write_lists(lists, 4, 4)
    begun, opened = asyncio.Event(), asyncio.Event()

    async def waits() -> httpx.Response:
        begun.set()
        await opened.wait()
        return ok_whatsapp()

    def pauses(request: httpx.Request, number: int) -> httpx.Response | Awaitable[httpx.Response]:
        return ok_whatsapp() if number != 2 else waits()

    paused, other = Vendor(pauses), Vendor(sane)
    first = asyncio.create_task(folder_run(lists, out, server_url, paused, concurrency=1))
    await begun.wait()
    expire_all(server_url)
    done = await folder_run(lists, out, server_url, other)
    assert (done.finished, done.held, done.ok) == (2, 1, 7)  # what was under way may have been charged
    before = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    opened.set()
    late = await first
    assert {path.name: path.read_bytes() for path in out.glob("*.csv*")} == before
    assert (late.finished, late.elsewhere, late.run.rows, late.run.tally.charged) == (0, 2, 0, 3)
    assert Counter(asked(paused) + asked(other)) == dict.fromkeys(numbers, 1)
    # Its late answer is in the ledger.
    done = await folder_run(lists, out, server_url, other)
    assert (done.complete, done.ok, len(answered(out)), len(other.requests)) == (True, 8, 8, 5)


def expire_all(url: str) -> None:
    rows(url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE NOT ended")


async def test_a_folder_of_results_that_another_worker_makes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a file, whichever look it comes after."""
    lists, out = tmp_path / "lists", tmp_path / "out"
    write_lists(lists, 1, 1)

    def then_made(look: Callable[[Path], bool]) -> Callable[[Path], bool]:
        def made(path: Path) -> bool:
            found = look(path)
            if path == out:
                out.mkdir(exist_ok=True)
            return found

        return made

    for look in ("is_folder", "is_taken"):
        monkeypatch.setattr(looks, look, then_made(getattr(looks, look)))
    assert (await folder_run(lists, out, tmp_path / "a.ledger")).complete


async def test_who_took_a_part_file_over_finishes_it(tmp_path: Path) -> None:
    first, second = (Output(tmp_path / "out.csv", None) for _ in range(2))
    first.open(["number"], replace=True)
    with pytest.raises(ConfigurationError, match="another run is writing it"):
        second.open(["number"], replace=True)
    second.open(["number"], replace=True, takes_over=True)
    first.write(["1"], [])
    with pytest.raises(UnwrittenError, match="another run writes it now"):
        first.finish()
    first.close()
    second.write(["2"], [])
    second.finish()
    second.close()
    assert (tmp_path / "out.csv").read_text() == "number\n2\n"


async def test_who_lost_a_part_file_leaves_that_of_the_other(tmp_path: Path) -> None:
    first, second = (Output(tmp_path / "out.csv", None) for _ in range(2))
    first.open(["number"], replace=True)
    second.open(["number"], replace=True, takes_over=True)
    first.close()  # it has no row: of its own, nothing would stay
    assert second.part.exists()
    second.close()


async def test_who_stood_still_before_its_part_file_leaves_none(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took a shard, and others finished that before it wrote anything: what it writes then is nobody's."""
    lists, out = tmp_path / "lists", tmp_path / "out"
    numbers = write_lists(lists, 2, 2)
    vendor, real, stood = Vendor(sane), FolderRun._run, list[FolderSummary]()

    async def still(self: FolderRun, *given: Any) -> Any:
        if not stood:
            stood.append(FolderSummary())
            rows(server_url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE NOT ended")
            stood.append(await folder_run(lists, out, server_url, vendor))
        return await real(self, *given)

    monkeypatch.setattr(FolderRun, "_run", still)
    done = await folder_run(lists, out, server_url, vendor, problems=tmp_path / "problems")
    assert stood[1].complete
    assert done.complete
    assert sorted(asked(vendor)) == sorted(answered(out)) == numbers
    assert {path.name for path in out.glob("*.csv*")} >= {"part-0.csv", "part-1.csv"}
    assert not [*out.rglob("*.part")]
    assert not [*(tmp_path / "problems").rglob("*.part")]


async def test_who_stood_still_as_it_finished_does_not_write_over_the_other(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aisolution_async.ledger import server

    lists, out = tmp_path / "lists", tmp_path / "out"
    numbers = write_lists(lists, 2, 2)
    vendor, real, other = Vendor(sane), BulkRun._may_finish, list[FolderSummary]()
    results = dict[str, tuple[int, bytes]]()

    async def stands(self: BulkRun, *given: Any) -> bool:
        may = await real(self, *given)
        if not results:
            results["?"] = (0, b"")
            rows(server_url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE NOT ended")
            other.append(await folder_run(lists, out, server_url, vendor))
            results.update(files_of(out))
        return may

    async with ledger_at(server_url):
        """It is made."""
    monkeypatch.setattr(server, "STANDS_STILL", server.STANDS_STILL.replace("30s", "200ms"))
    monkeypatch.setattr(BulkRun, "_may_finish", stands)
    with pytest.raises(BulkError, match="another run writes it now"):
        await folder_run(lists, out, server_url, vendor, problems=tmp_path / "problems")
    assert other[0].complete
    assert sorted(asked(vendor)) == sorted(answered(out)) == numbers
    assert files_of(out).items() <= results.items()
    assert not [*out.rglob("*.part")]


def files_of(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.glob("*.csv*")}


class SignallingSandbox(CountingSandbox):
    """A sandbox that sends a process a signal as a request comes in."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__()
        self.victim: forks.Piped | None = None
        self.sent = asyncio.Event()
        self._left = at
        self._number = number

    async def answer(self, request: Any) -> Any:
        self._left -= 1
        if self._left == 0 and self.victim is not None:
            self.victim.send_signal(self._number)
            self.sent.set()
        return await super().answer(request)


async def age(url: str, pid: int) -> None:
    """The leases of a process are over, whatever it had under way to renew them."""
    while True:
        rows(url, f"UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE pid = {pid} AND NOT ended")
        await asyncio.sleep(0.1)


async def worker(sandbox: CountingSandbox, lists: Path, out: Path, url: str, *more: str) -> forks.Piped:
    words = [*COMMAND[1:], "bulk", "whatsapp-detail", str(lists), "-o", str(out), "--ledger", url, "--json", "--quiet"]
    env = {**os.environ, "AISOLUTION_TOKEN": sandbox.token}
    return await forks.begin([*words, "--base-url", sandbox.url, *more], env=env)


async def said_by(process: forks.Piped) -> dict[str, Any]:
    out, _ = await process.communicate()
    found: dict[str, Any] = json.loads(out)
    return found


def bill_of(sandbox: CountingSandbox) -> Counter[str]:
    return Counter({parse_qs(body.decode())["number"][0]: count for body, count in sandbox.charged.items()})


async def test_two_processes_share_a_folder(tmp_path: Path, server_url: str) -> None:
    lists, out, numbers = tmp_path / "lists", tmp_path / "out", sorted(settled(240))
    lists.mkdir()
    # None of them is "checking": a shard with one is run again by who begins while nobody is at any.
    for shard in range(8):
        (lists / f"part-{shard}.csv").write_text("\n".join(["number", *numbers[shard * 30 : shard * 30 + 30], ""]))
    async with CountingSandbox() as sandbox:
        processes = [await worker(sandbox, lists, out, server_url, "--concurrency", "4") for _ in range(2)]
        told = [await said_by(process) for process in processes]
        assert set(bill_of(sandbox).values()) == {1}
        charged = bill_of(sandbox).total()
    assert sum(each["shards"]["finished"] for each in told) == 8
    assert sum(each["rows"] for each in told) == sum(each["ok"] for each in told) == 240
    assert [each["all"]["rows"] for each in told] == [240, 240]
    assert sum(each["charged"] for each in told) == charged == len(answered(out))
    assert sorted(row["number"] for shard in results(out).values() for row in shard) == numbers
    assert not [*out.glob("*.part")]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
async def test_a_worker_that_is_killed_or_stopped_in_the_middle_of_a_shard(
    tmp_path: Path, server_url: str, name: str
) -> None:
    lists, out, numbers = tmp_path / "lists", tmp_path / "out", sorted(settled(160))
    lists.mkdir()
    for shard in range(4):
        (lists / f"part-{shard}.csv").write_text("\n".join(["number", *numbers[shard * 40 : shard * 40 + 40], ""]))
    async with SignallingSandbox(60, getattr(signal, name)) as sandbox:
        victim = sandbox.victim = await worker(sandbox, lists, out, server_url, "--concurrency", "4")
        other = await worker(sandbox, lists, out, server_url, "--concurrency", "4")
        await sandbox.sent.wait()
        ageing = asyncio.create_task(age(server_url, victim.pid))
        told = await said_by(other)
        ageing.cancel()
        before = {path.name: path.read_bytes() for path in out.glob("*.csv*")}
        victim.send_signal(signal.SIGCONT)
        await victim.communicate()
        assert {path.name: path.read_bytes() for path in out.glob("*.csv*")} == before
        assert victim.returncode in ((-signal.SIGKILL,) if name == "SIGKILL" else (0, 1))
        bill = bill_of(sandbox)
    assert set(bill.values()) == {1}
    assert (told["shards"]["left"], told["all"]["rows"]) == (0, 160)
    assert sorted(row["number"] for shard in results(out).values() for row in shard) == numbers
    held = [row["number"] for shard in results(out).values() for row in shard if row["error"] == "OutcomeUnknownError"]
    assert len(held) == told["all"]["held"] <= 4
    assert set(bill) - set(answered(out)) <= set(held)


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.usefixtures("command_environment")
class TestCommand:
    def test_a_folder_and_again(self) -> None:
        write_lists(Path("lists"), 3, 3)
        Path("lists/bad.csv").write_text("")
        result = run("bulk", "whatsapp-detail", "lists", "-o", "out", "--sandbox", "--recheck", "--recheck-for", "0s")
        assert result.exit_code == 1
        assert "shards          3: 2 finished, 1 with problems" in result.stderr
        assert "bad.csv: 'lists/bad.csv' is empty" in result.stderr
        quiet = run("bulk", "--resume", "out", "--quiet")
        assert (quiet.exit_code, quiet.stderr.count("\n")) == (1, 1)
        assert quiet.stderr.startswith("error: bad.csv: 'lists/bad.csv' is empty")
        Path("lists/bad.csv").unlink()
        again = run("bulk", "--resume", "out", "--json")
        told = json.loads(again.stdout)
        assert (told["shards"]["left"], told["charged"], told["all"]["rows"]) == (0, 0, 6)
        assert told["ledger"] == "out.sandbox.ledger"

    def test_one_report_of_all_shards(self) -> None:
        write_lists(Path("lists"), 3, 3)
        with Path("lists/part-1.csv").open("a") as file:
            file.write("12\n")
        Path("lists/bad.csv").write_text("")
        run("bulk", "whatsapp-detail", "lists", "-o", "out", "--sandbox", "--recheck")
        for named, output in (("out", "one.html"), ("out.sandbox.ledger", "two.html")):
            result = run("report", named, "-o", output)
            assert result.exit_code == 0, result.stderr
        page = Path("one.html").read_text()
        assert "<span>part-1.csv, row 5" in page.replace(' class="row"', "")
        assert "Shards without results yet, whose rows are not on this page: 1." in page
        assert "part-1.csv, row 5" in Path("two.html").read_text()
        assert "photos are shown of one list" in the_error(run("report", "out", "-o", "three.html", "--photos"))

    def test_one_shard_alone_wants_its_ledger(self) -> None:
        write_lists(Path("lists"), 1)
        run("bulk", "whatsapp-detail", "lists", "-o", "out", "--sandbox")
        refused = run("bulk", "--resume", "out/part-0.csv")
        assert refused.exit_code == 2 or "is finished" in refused.stderr
        Path("lists/part-0.csv").write_text("number\n+6281999900001\n")
        refused = run("bulk", "--resume", "out/part-0.csv")
        assert "--ledger is not kept" in the_error(refused)
        assert run("bulk", "--resume", "out/part-0.csv", "--ledger", "out.sandbox.ledger").exit_code in (0, 1)

    def test_a_dry_run_counts_what_two_shards_ask_once(self) -> None:
        write_lists(Path("lists"), 3)
        Path("lists/same.csv").write_text(Path("lists/part-0.csv").read_text())
        Path("lists/bad.csv").write_text("")
        result = run("bulk", "whatsapp-detail", "lists", "--dry-run", "--json", "--plan", "plan.json")
        told = json.loads(result.stdout)
        assert (result.exit_code, told["rows"], told["shared"], told["charges"]) == (1, 6, 3, {"gliswadetail": 3})
        assert [*told["unread"]] == ["bad.csv"]
        assert json.loads(Path("plan.json").read_text()) == told
        assert {path.name for path in Path().iterdir()} == {"lists", "plan.json"}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["-o", "out", "--sample", "2"], "--sample draws from one list"),
            (["-o", "out", "--no-ledger"], "leave --no-ledger out"),
            (["-o", "."], "name another one"),
            (["-o", "-"], "go to a folder"),
            ([], "say which folder the results of 'lists' go to"),
            (["-o", "out", "--rescued", "x.jsonl"], "run that one by itself"),
        ],
    )
    def test_what_goes_with_one_list_only(self, options: list[str], words: str) -> None:
        write_lists(Path("lists"), 1)
        result = run("bulk", "whatsapp-detail", "lists", *options, "--sandbox")
        assert (result.exit_code, words in the_error(result)) == (2, True), result.stderr
        assert {path.name for path in Path().iterdir()} == {"lists"}

    def test_a_folder_of_photos_is_no_list(self) -> None:
        Path("photos").mkdir()
        Path("photos/a.jpg").write_bytes(picture(1))
        result = run("bulk", "face-compare", "photos", "-o", "out", "--sandbox")
        assert "photos are named in the cells of one" in the_error(result)

    def test_the_limit_on_spending(self) -> None:
        write_lists(Path("lists"), 5, 5, 5)
        result = run("bulk", "whatsapp-detail", "lists", "-o", "out", "--sandbox", "--max-charges", "4")
        assert result.exit_code == 4
        assert "not reached" in result.stderr
