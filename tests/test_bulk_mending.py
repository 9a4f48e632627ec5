"""Rows with problems, mended, go into the one output: from either file, in any order, after any end of a run."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import stat
from collections.abc import Callable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pytest
from openpyxl.drawing.image import Image

from aisolution_async import Charge, ConfigurationError, FaceCompare, IdHolding, Ledger, WhatsAppDetail
from aisolution_async.bulk import BulkError, Summary, forecast_bulk, mending, run_bulk
from aisolution_async.bulk.books import records
from aisolution_async.bulk.origins import origin_of
from aisolution_async.bulk.rows import Rows
from aisolution_async.ledger import open_ledger

from .sheets import bulk, left, read, sane, write
from .support import Vendor, client_of, picture, says

SOME = "+62813873000"
LIST = f"id,phone,note\nA,{SOME}01,0007\nB,abc,0008\nC,,x\nD,{SOME}04,=1+1\nE,12,\n"

Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def mend(path: Path, change: Change, **more: Any) -> None:
    """Save the file of problems as a program would: `change` makes another row of each, or none."""
    with Rows(path) as rows:
        found = [dict(zip(rows.header, row.cells, strict=True)) for row in rows]
    changed = [{**row, **more} for row in map(change, found) if row is not None]
    names = [*(found[0] if found else {}), *more]
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        assert book.active is not None
        book.active.append(names)
        for row in changed:
            book.active.append([row.get(name) for name in names])
        book.save(path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(changed)


def phones(**numbers: str) -> Change:
    """Rows get other numbers, by their ids."""
    return lambda row: {**row, "phone": numbers.get(row["id"], row["phone"])}


def results(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".xlsx":
        return [dict(record) for record in records(path)]
    with Rows(path) as rows:
        return [dict(zip(rows.header, row.cells, strict=True)) for row in rows]


class Loop:
    """A list, its output and its file of problems, run again and again."""

    def __init__(self, folder: Path, output: str = "out.csv", problems: str = "mend.csv", source: str = "in.csv"):
        self.folder = folder
        self.vendor = Vendor(sane)
        self.source, self.output, self.problems = folder / source, folder / output, folder / problems
        self.options: dict[str, Any] = {"ledger": folder / f"{output}.ledger", "vendor": self.vendor}

    async def run(self, source: Path | None = None, **options: Any) -> Summary:
        given = {"problems": self.problems, **self.options, **options}
        return await bulk(source or self.source, self.output, **given)

    def ids(self) -> list[str]:
        """The rows that are still to be mended."""
        return [row["id"] for row in results(self.problems)]


@pytest.mark.parametrize("by", ["the same command", "the file", "a copy"])
@pytest.mark.parametrize(
    ("output", "problems"),
    [("out.csv", "mend.csv"), ("out.xlsx", "mend.xlsx"), ("out.parquet", "mend.csv"), ("out.csv", "mend.xlsx")],
)
async def test_two_rounds_end_in_one_file(tmp_path: Path, output: str, problems: str, by: str) -> None:
    """All rows, in order, with what was mended in place; each is paid for once."""
    loop = Loop(tmp_path, output, problems)
    write(loop.source, LIST)
    first = await loop.run()
    assert (first.ok, first.failed, first.tally.charged) == (2, 3, 2)
    assert [str(row["row"]) for row in results(loop.problems)] == ["3", "4", "6"]

    async def again() -> Summary:
        if by == "the same command":
            return await loop.run()
        if by == "the file":
            return await loop.run(loop.problems, problems=None)
        copy = tmp_path / f"copy{loop.problems.suffix}"
        copy.write_bytes(loop.problems.read_bytes())
        return await loop.run(copy)

    def shuffled(row: dict[str, Any]) -> dict[str, Any] | None:  # one is mended, one left as it is, and one taken out
        return None if row["id"] == "E" else phones(B=f"{SOME}02")(row)

    mend(loop.problems, shuffled, remark="see below")
    second = await again()
    assert (second.ok, second.failed, second.tally.charged) == (3, 2, 1)
    if by == "a copy":
        loop.problems.unlink(missing_ok=True)
        second = await loop.run()
    assert loop.ids() == ["C", "E"]
    mend(loop.problems, phones(C=f"{SOME}03", E=f"{SOME}05"))
    third = await again()
    assert (third.ok, third.failed, third.tally.charged) == (5, 0, 2)
    found = results(loop.output)
    assert [row["id"] for row in found] == [*"ABCDE"]
    assert [str(row["phone"]) for row in found] == [f"{SOME}0{n}" for n in range(1, 6)]
    assert str(found[1]["note"]) == "0008"
    assert len(loop.vendor.requests) == 5
    if by != "a copy":
        assert loop.ids() == []
    assert loop.source.read_text() == LIST
    kept = tmp_path / f"{output}.mended"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept, tmp_path / f"{output}.run")] == [0o600, 0o600]
    again_nothing = await loop.run()
    assert (again_nothing.ok, len(loop.vendor.requests)) == (5, 5)


async def test_the_list_itself_is_mended(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))
    await loop.run()
    write(loop.source, LIST.replace("C,,x", f"C,{SOME}03,x"))
    assert (await loop.run()).ok == 4
    # Of a row that was mended in both, the list has the newer one.
    write(loop.source, LIST.replace("C,,x", f"C,{SOME}03,x").replace("B,abc", f"B,{SOME}22"))
    done = await loop.run()
    assert (done.ok, len(loop.vendor.requests)) == (4, 5)
    assert done.warnings == [
        f"row 3 of {str(loop.source)!r} changed after being mended in the file of problems: what the list says now is "
        "taken"
    ]
    assert read(loop.output)[1]["phone"] == f"{SOME}22"


async def test_a_column_that_is_added_changes_no_row(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))
    await loop.run()
    lines = LIST.splitlines()
    write(loop.source, "\n".join([f"new,{lines[0]}", *(f"1,{line}" for line in lines[1:])]) + "\n")
    done = await loop.run()
    assert (done.ok, done.warnings, len(loop.vendor.requests)) == (3, [], 3)


async def test_rows_that_moved_get_nobody_elses_numbers(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02", E=f"{SOME}05"))
    await loop.run()
    write(loop.source, LIST.replace("A,", f"NEW,{SOME}00,\nA,"))
    done = await loop.run()
    assert [row["phone"] for row in read(loop.output)] == [f"{SOME}00", f"{SOME}01", "abc", "", f"{SOME}04", "12"]
    assert done.warnings[0].startswith("rows 3, 6 of ")
    write(loop.source, "\n".join(LIST.splitlines()[:4]) + "\n")
    done = await loop.run()
    assert done.warnings == [f"row 6 of {str(loop.source)!r} had been mended, and is not there any more"]
    assert read(loop.output)[1]["phone"] == f"{SOME}02"


async def test_what_people_wrote_beside_is_kept(tmp_path: Path) -> None:
    """A column of their own changes nothing, and the file is replaced."""
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"), phon=f"{SOME}03")
    before, kept = loop.problems.read_bytes(), tmp_path / "mend-before-1.csv"
    done = await loop.run()
    assert done.ok == 3
    assert done.warnings == [
        f"column 'phon' of {str(loop.problems)!r} is none of the list: the file as it was is kept in {str(kept)!r}"
    ]
    assert kept.read_bytes() == before
    assert loop.problems.read_bytes() != before
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_numbers_of_rows_that_were_swapped(tmp_path: Path) -> None:
    """Nobody gets the place of somebody else."""
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run(key="id")
    mend(loop.problems, lambda row: {**row, "row": {"3": "6", "6": "3"}.get(row["row"], row["row"])})
    before = left(tmp_path), len(loop.vendor.requests)
    with pytest.raises(ConfigurationError, match="row 3 has another key in column 'id' than in the list"):
        await loop.run(key="id")
    assert (left(tmp_path), len(loop.vendor.requests)) == before


async def test_a_total_below_what_was_mended(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))
    with loop.problems.open("a") as file:
        file.write("Total,3,,,\n")
    assert (await loop.run()).ok == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: {("nr" if n == "phone" else n): cell for n, cell in row.items()}, r"no column 'phone', as .*in\."),
        (
            lambda row: {n: cell for n, cell in row.items() if n != "note"},
            r"no column 'note', as .*in\.csv' has: bring",
        ),
        (lambda row: {**row, "row": "99"} if row["id"] == "B" else row, r"row 99 is none of .*in\.csv"),
        (lambda row: {**row, "row": "3", "phone": "1"}, "row 3 is there twice, with different cells"),
        (lambda row: {**row, "row": "2", "phone": "1"} if row["id"] == "B" else row, r"row 2 .*was not among the rows"),
        (lambda row: {**row, "row": "x"}, r"row 2 has 'x' in column 'row', which is no number of a row"),
        (lambda row: {"id": row["id"], "phone": "1"}, "has no column 'row'"),
        (lambda row: {"row": row["row"], "other": "1"}, r"has no column of .*in\.csv"),
    ],
)
async def test_what_cannot_be_told_is_named(tmp_path: Path, change: Change, problem: str) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    with Rows(loop.problems) as rows:
        found = [change(dict(zip(rows.header, row.cells, strict=True))) for row in rows]
    with loop.problems.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*(found[0] or {})])
        writer.writeheader()
        writer.writerows(row for row in found if row is not None)
    before = loop.output.read_bytes(), loop.problems.read_bytes(), left(tmp_path)
    with pytest.raises(ConfigurationError, match=problem):
        await loop.run()
    assert before == (loop.output.read_bytes(), loop.problems.read_bytes(), left(tmp_path))
    assert len(loop.vendor.requests) == 2


async def test_a_row_that_was_changed_in_both(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02", C=f"{SOME}03"))
    write(loop.source, LIST.replace("B,abc", f"B,{SOME}22"))
    with pytest.raises(ConfigurationError, match=r"row 3 \('phone'\) was changed here and in .*in\.csv' too"):
        await loop.run()
    assert not (tmp_path / "out.csv.mended").exists()
    write(loop.source, LIST.replace("B,abc", f"B,{SOME}02"))  # and if both are the same, all is well
    assert (await loop.run()).ok == 4


async def test_what_was_mended_is_kept_before_anything_is_sent(tmp_path: Path) -> None:
    """A run that was killed has it, and what is mended further in the same file goes on from there."""
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B="13", C=f"{SOME}03"))
    kept, sent = [], asyncio.Event()

    async def stuck() -> httpx.Response:
        kept.append(f"{SOME}03" in (tmp_path / "out.csv.mended").read_text())
        sent.set()
        await asyncio.Event().wait()
        raise AssertionError

    running = asyncio.create_task(loop.run(vendor=Vendor(lambda _, __: stuck())))
    await sent.wait()
    for _ in range(3):  # the second and the third end the waiting
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kept == [True]
    mend(loop.problems, phones(B=f"{SOME}02"))
    done = await loop.run(retry_unknown=1)
    assert (done.ok, done.failed) == (4, 1)
    assert [row["phone"] for row in read(loop.output)[:3]] == [f"{SOME}01", f"{SOME}02", f"{SOME}03"]


async def test_what_is_mended_while_it_runs_is_not_replaced(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))

    def script(request: httpx.Request, number: int) -> httpx.Response:
        mend(loop.problems, phones(C=f"{SOME}03"))
        return sane(request, number)

    with pytest.raises(BulkError, match="somebody changed it meanwhile"):
        await loop.run(vendor=Vendor(script))
    assert read(loop.problems)[1]["phone"] == f"{SOME}03"
    assert (await loop.run()).ok == 4


async def test_overwrite_begins_anew(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))
    await loop.run()
    assert (await loop.run(overwrite=True)).ok == 2
    assert not (tmp_path / "out.csv.mended").exists()
    assert loop.ids() == ["B", "C", "E"]


async def test_other_questions_do_not_go_into_it(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    with pytest.raises(ConfigurationError, match=r"has the results of gliswadetail, and these are of facecompare: ask"):
        await loop.run(loop.problems, call=FaceCompare)
    loop.source.unlink()
    with pytest.raises(ConfigurationError, match=r"in\.csv' is not there: put it back"):
        await loop.run(loop.problems)


async def test_two_endpoints_with_photos(tmp_path: Path) -> None:
    """A photo that was not there, and a number; the answer that the row has is not bought again."""
    loop = Loop(tmp_path, "out.xlsx", "mend.xlsx", "in.xlsx")
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["Daftar nasabah"])
    for row in (["id", "foto", "phone"], ["A", "1.jpg", f"{SOME}01"], ["B", "zwei.jpg", f"{SOME}02"]):
        book.active.append(row)
    book.active.append(["C", "2.jpg", "abc"])
    book.save(loop.source)
    options: dict[str, Any] = {"call": [IdHolding, WhatsAppDetail], "columns": {"img": "foto", "number": "phone"}}
    first = await loop.run(**options)
    assert (first.ok, first.failed, first.tally.charged) == (1, 2, 4)
    assert [row["row"] for row in results(loop.problems)] == [4, 5]

    def mended(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "foto": "2.jpg"} if row["id"] == "B" else {**row, "phone": f"{SOME}03"}

    mend(loop.problems, mended)
    done = await loop.run(**options)
    assert (done.ok, done.failed, len(loop.vendor.requests)) == (3, 0, 5)  # both have the same photo
    assert [row["id"] for row in results(loop.output)] == [*"ABC"]


async def test_a_dry_run_knows_what_was_mended(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))
    before = left(tmp_path)
    options = {"ledger": loop.options["ledger"], "problems": loop.problems}
    async with client_of(loop.vendor) as client:
        for source in (loop.source, loop.problems):
            found = await forecast_bulk(client, WhatsAppDetail, source, loop.output, **options)
            assert (found.rows, found.failed, found.from_ledger, found.calls.total()) == (5, 2, 2, 1)
    assert before == left(tmp_path)


async def test_lines_without_cells(tmp_path: Path) -> None:
    """A line of which no cells could be made is mended by filling them in."""
    loop = Loop(tmp_path, source="in.jsonl")
    write(loop.source, f'{{"id": "A", "phone": "{SOME}01"}}\n{{"id": "B", "phone": oops\n{{"id": "C", "n": [1]}}\n')
    await loop.run()
    mend(loop.problems, lambda row: {**row, "id": row["id"] or "B", "phone": f"{SOME}0{row['row']}"})
    done = await loop.run()
    assert (done.ok, done.failed) == (3, 0)
    assert [row["id"] for row in read(loop.output)] == [*"ABC"]


async def test_types_of_parquet_stay(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    loop = Loop(tmp_path, "out.parquet", "mend.csv", "in.parquet")
    table = {"id": ["A", "B"], "phone": [f"{SOME}01", "abc"], "age": pyarrow.array([1, 2], pyarrow.int16())}
    parquet.write_table(pyarrow.table(table), loop.source)
    await loop.run()
    mend(loop.problems, lambda row: {**row, "age": "many"})
    with pytest.raises(ConfigurationError, match=r"row 2: column 'age' of .* holds int16 only"):
        await loop.run()
    mend(loop.problems, lambda row: {**row, "age": "30", "phone": f"{SOME}02"})
    assert (await loop.run()).ok == 2
    assert [row["age"] for row in results(loop.output)] == [1, 30]


async def test_columns_that_are_called_so_already(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, f"row,problem,phone\n9,x,{SOME}01\n8,y,abc\n")
    await loop.run()
    assert [*read(loop.problems)[0]] == ["row", "problem", "phone", "row_2", "problem_2"]
    mend(loop.problems, lambda row: {**row, "phone": f"{SOME}02", "problem": "z"})
    assert (await loop.run()).ok == 2
    assert [(row["row"], row["problem"]) for row in read(loop.output)] == [("9", "x"), ("8", "z")]


SPLIT, LATE, MIDNIGHT = map(
    datetime.fromisoformat, ("2024-11-07T11:11:12.345", "2024-11-07T23:11:12", "2024-11-07T00:00:00")
)


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        ("0812", "812", True),
        ("6281387300008", "6.28139E+12", True),
        ("6281387300008", "6,28139E+12", True),
        ("62813873000081234", "62813873000081200", True),
        ("a\r\nb", "a\nb", True),
        ("=1+1", "'=1+1", True),
        ("true", "TRUE", True),
        (0.1 + 0.2, 0.3, True),
        ("", None, True),
        ("x" * 40_000, "x" * 32_766 + "…", True),
        ("0812", "0813", False),
        ("812", "0812", False),
        ("6281387300008", "6.28238E+12", False),
        ("12345678901234567", "1.23456789012346E+016", True),
        ("12345678901234567", "1.23456789012347E+016", False),
        ("12345678901234567", 12345678901234600.0, True),
        ("12345678901234567", "12345678901234568", False),
        ("12345678901234567", 1.2345678901234568e16, True),
        ("0812", 812, True),
        (0.123456, "0.12", True),
        (0.123456, "0.13", False),
        ("0.123456", "0.12", False),
        ("3.14159265358979323", "3.14159265358979", True),
        ("7.50", "7,5", True),
        (SPLIT, "2024-11-07T11:11:12.345000", True),
        ("2024-11-07 11:11:12.345000", "2024-11-07 11:11:12.345", True),
        ("2024-11-07T11:11:12.345", SPLIT, True),
        (LATE, "07/11/24 23:11", True),
        (LATE, "11/7/2024 11:11:12 PM", True),
        (LATE, "11/7/2024 11:11:12 AM", False),
        (LATE, "07/11/24 23:12", False),
        (LATE, "07/11/24", False),
        ("2024-11-07", "7-Nov-24", True),
        ("2024-11-07", "8-Nov-24", False),
        ("2024-10-07", "7 October 2024", True),
        (date(2024, 11, 7), MIDNIGHT, True),
        (time(23, 11), "23:11:00", True),
        ("2024-11-07", "", False),
        ("2024-11-07", "gone", False),
        ("abc", "ABC", False),
        ("a", "", False),
        ("x" * 40_000, "x" * 10 + "…", False),
    ],
)
def test_what_programs_make_of_a_cell_is_no_change(was: Any, now: Any, same: bool) -> None:
    assert mending.is_same(was, now) is same


async def test_a_note_leads_nowhere_else(tmp_path: Path) -> None:
    """Nothing is written outside of its folder."""
    (tmp_path / "in").mkdir()
    loop = Loop(tmp_path / "in")
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))
    note = json.loads((loop.folder / "out.csv.run").read_text())
    (loop.folder / "out.csv.run").write_text(json.dumps(note | {"problems": "../new.csv"}))
    assert (await loop.run(loop.problems, problems=None)).ok == 3
    assert left(tmp_path) == {"in"}


async def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    for name in ("out.csv.mended", "out.csv.run"):
        kept = (tmp_path / name).read_text() if (tmp_path / name).exists() else None
        (tmp_path / name).write_text("{}\n")
        with pytest.raises(ConfigurationError, match=rf"{name}' cannot be read"):
            await loop.run(loop.problems)
        (tmp_path / name).unlink() if kept is None else (tmp_path / name).write_text(kept)


async def test_a_full_disk_keeps_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was mended cannot be kept, nothing is sent."""
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    await loop.run()
    mend(loop.problems, phones(B=f"{SOME}02"))

    def full(path: Path, lines: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mending, "put_safely", full)
    with pytest.raises(ConfigurationError, match="No space left on device; make room there"):
        await loop.run()
    assert len(loop.vendor.requests) == 2
    assert origin_of(loop.problems) is not None


# ------------------------------------------------------------------------------------------------- rows that are held


def losing(*lost: str) -> Callable[[httpx.Request, int], httpx.Response]:
    """A vendor whose answers to some numbers never arrive."""

    def script(request: httpx.Request, number: int) -> httpx.Response:
        if any(request.content.decode().find(f"%2B62813873000{end}") >= 0 for end in lost):
            raise httpx.ReadError("it went away", request=request)
        return sane(request, number)

    return script


@pytest.mark.parametrize("ending", ["csv", "xlsx", "jsonl", "parquet"])
async def test_what_is_held_is_in_a_file_of_its_own(tmp_path: Path, ending: str) -> None:
    """It says what to do; once that is done, the answer comes into the same output, and the file goes."""
    loop = Loop(tmp_path, "out.csv", f"mend.{ending}")
    loop.options["vendor"] = loop.vendor = Vendor(losing("04"))
    write(loop.source, LIST)
    done = await loop.run()
    held = tmp_path / f"out-held.{ending}"
    assert (done.failed, done.held, done.to_settle) == (4, 1, held)
    assert loop.ids() == ["B", "C", "E"]
    [row] = results(held)
    assert (row["id"], str(row["row"])) == ("D", "5")
    assert "held: it may have been charged" in row["problem"]
    ledger = f"{tmp_path}/out.csv.ledger"
    said = row["what to do"]
    assert said.startswith("ask the vendor, or look into the invoice, whether the request gliswadetail of 20")
    assert f"UTC, 'D' was charged. If it was not: aisolution ledger resolve {ledger} D free, and then" in said
    again = f"aisolution bulk --resume {tmp_path}/out.csv --retry-unknown 1"
    assert f"{again}, which sends all rows that are held again, and not only this one" in said
    assert stat.S_IMODE(held.stat().st_mode) == 0o600
    loop.options["vendor"] = loop.vendor = Vendor(sane)
    assert (await loop.run()).to_settle == held
    assert loop.vendor.requests == []
    async with Ledger(ledger) as opened:
        assert await opened.resolve("D", Charge.FREE) == 1
    done = await loop.run()
    assert (done.ok, done.to_settle, len(loop.vendor.requests)) == (2, None, 1)
    assert not held.exists()
    assert read(loop.output)[3]["ok"] == "true"


WORDS: dict[str, Any] = {"an answer that does not fit": ("OK", {"odd": 1}), "an unknown status": ("QUOTA", "none left")}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("by", ["settled as free", "settled as charged", "bought again"])
@pytest.mark.parametrize("output", ["out.csv", "out.xlsx", "out.jsonl", "out.parquet"])
async def test_what_came_and_is_no_answer_is_settled_too(tmp_path: Path, output: str, by: str, words: str) -> None:
    """The row that has the vendor's words is held as any other, run after run, until somebody says what it cost."""
    loop = Loop(tmp_path, output)
    loop.options["vendor"] = Vendor(
        lambda request, number: says(*WORDS[words]) if b"300004" in request.content else sane(request, number)
    )
    write(loop.source, LIST)
    held = tmp_path / "out-held.csv"
    for run in range(2):
        done = await loop.run()
        assert (done.failed, done.held, done.to_settle, loop.ids()) == (4, 1, held, ["B", "C", "E"]), run
        assert [row["id"] for row in results(held)] == ["D"]
        assert results(loop.output)[3]["answer_raw"] is not None
    loop.options["vendor"] = vendor = Vendor(sane)
    if by != "bought again":
        async with Ledger(loop.options["ledger"]) as ledger:
            assert await ledger.resolve("D", Charge.FREE if by == "settled as free" else Charge.CHARGED) == 1
    if by == "settled as charged":
        assert (await loop.run()).to_settle == held
        assert "it was charged, and its answer is lost" in results(held)[0]["what to do"]
        assert vendor.requests == []
    done = await loop.run(retry_unknown=0 if by == "settled as free" else 1)
    assert (done.ok, done.held, done.to_settle, len(vendor.requests)) == (2, 0, None, 1)
    assert not held.exists()


async def test_notes_in_the_file_of_held_rows_stay(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    loop.options["vendor"] = Vendor(losing("04"))
    await loop.run()
    held = tmp_path / "out-held.csv"
    text = held.read_text().replace("D,", "D asked on Monday,")
    held.write_text(text)
    done = await loop.run()
    assert (done.to_settle, held.read_text()) == (tmp_path / "out-held-2.csv", text)
    assert (await loop.run()).to_settle == tmp_path / "out-held-2.csv"
    assert "out-held-3.csv" not in left(tmp_path)


async def test_a_row_that_is_held_and_has_a_bad_cell_is_in_both(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, f"phone,foto\n{SOME}04,gone.jpg\n")
    loop.options["vendor"] = Vendor(losing("04"))
    options: dict[str, Any] = {"call": [IdHolding, WhatsAppDetail], "columns": {"img": "foto"}}
    await loop.run(**options)
    [bad], [held] = read(loop.problems), read(tmp_path / "out-held.csv")
    assert bad["problem"].startswith("id-holding: ")
    assert "whatsapp-detail" not in bad["problem"]
    assert held["problem"].startswith("whatsapp-detail: ")
    assert "resolve" in held["what to do"]
    async with open_ledger(loop.options["ledger"]) as ledger:
        [id_] = [record.id for record in ledger.attempts(unknown_only=True)]
    assert f"--by-id {id_} free, and then " in held["what to do"]


@pytest.mark.parametrize("again", [False, True])
async def test_rows_without_a_key_are_settled_by_the_ids_of_their_attempts(tmp_path: Path, again: bool) -> None:
    """Of the run that lost the answers, and of one that finds them held; a row that asks the same has the same id."""
    loop = Loop(tmp_path)
    write(loop.source, f"phone,foto\n{SOME}04,a\n{SOME}05,a\n{SOME}04,a\n{SOME}06,a\n")
    loop.options["vendor"] = Vendor(losing("04", "05"))
    for _ in range(1 + again):
        await loop.run()
    held = read(tmp_path / "out-held.csv")
    ids = [re.findall(r"--by-id (\d+) (free|charged)", row["what to do"]) for row in held]
    assert [len({id_ for id_, _ in each}) for each in ids] == [1, 1, 1]
    assert ids[0] == ids[2] != ids[1]
    async with open_ledger(loop.options["ledger"]) as ledger:
        assert await ledger.resolve(None, Charge.FREE, attempt=int(ids[1][0][0])) == 1
    loop.options["vendor"] = Vendor(sane)
    await loop.run()
    assert [row["ok"] for row in read(loop.output)] == ["false", "true", "false", "true"]


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        (f"No,phone\n1,{SOME}04\n2,{SOME}05\n", True),
        (f"No,phone\n1,{SOME}04\n1,{SOME}05\n", False),
        (f"No,phone\n1,{SOME}04\n,{SOME}05\n", False),
        (f"ref,phone\n1,{SOME}04\n2,{SOME}05\n", False),
        (f"phone\n{SOME}04\n{SOME}05\n", False),
    ],
)
async def test_a_list_that_may_have_a_key_is_told_so(text: str, is_told: bool, tmp_path: Path) -> None:
    loop, said = Loop(tmp_path), list[str]()
    write(loop.source, text)
    await loop.run(on_start=said.append)
    assert any(line.startswith("no key: ") for line in said) is is_told


@pytest.mark.parametrize("ledger", [True, False])
async def test_what_needs_only_to_be_asked_again_is_not_to_be_mended(tmp_path: Path, ledger: bool) -> None:
    """The vendor was busy: nothing is wrong with the row. Without a ledger, the file is all that is left of it."""
    loop = Loop(tmp_path)
    busy = Vendor(lambda request, n: says("RETRY_LATER") if b"300004" in request.content else sane(request, n))
    write(loop.source, LIST)

    async def run(vendor: Vendor) -> Summary:
        options: dict[str, Any] = {"ledger": loop.options["ledger"] if ledger else None, "problems": loop.problems}
        async with client_of(vendor, max_retries=0) as client:
            return await run_bulk(client, WhatsAppDetail, loop.source, loop.output, **options)

    done = await run(busy)
    assert done.errors == {"RetryLaterError": 1, "InputError": 3}
    assert loop.ids() == ([*"BCE"] if ledger else [*"BCDE"])
    if ledger:
        assert (await loop.run()).ok == 2
        # What was mended and then was not reached is mended all the same.
        mend(loop.problems, phones(B=f"{SOME}94", C=f"{SOME}03", E=f"{SOME}05"))
        lost = Vendor(lambda request, n: says("RETRY_LATER") if b"300094" in request.content else sane(request, n))
        done = await run(lost)
        assert (done.ok, done.to_mend, loop.ids()) == (4, 1, [])
        assert (await loop.run()).ok == 5


async def test_the_file_of_problems_is_not_that_of_held_rows(tmp_path: Path) -> None:
    loop = Loop(tmp_path, problems="out-held.csv")
    write(loop.source, LIST)
    with pytest.raises(
        ConfigurationError, match=r"out-held\.csv' is the file of the rows that are held: give it anoth"
    ):
        await loop.run()
    assert left(tmp_path) == {"in.csv"}


async def test_without_a_ledger_nothing_is_held(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    write(loop.source, LIST)
    done = await loop.run(vendor=Vendor(losing("04")), ledger=None)
    assert (loop.ids(), done.to_settle) == ([*"BCDE"], None)
    assert left(tmp_path) == {"in.csv", "out.csv", "mend.csv"}


# -------------------------------------------------------------------------------------------------------------- totals


@pytest.mark.parametrize("output", ["out.csv", "out.xlsx", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_totals_are_counted_apart(tmp_path: Path, output: str, ordered: bool) -> None:
    """They are no problem, nothing is to be mended of them, and they are in the output as they came."""
    loop = Loop(tmp_path, output)
    write(loop.source, f"{LIST}Jumlah,,5\nTotal,,5\n")
    first = await loop.run(ordered=ordered)
    assert (first.rows, first.ok, first.failed, first.totals, first.errors.total()) == (5, 2, 3, 2, 3)
    assert loop.ids() == ["B", "C", "E"]
    mend(loop.problems, phones(B=f"{SOME}02", C=f"{SOME}03", E=f"{SOME}05"))
    done = await loop.run(ordered=ordered)
    assert (done.rows, done.ok, done.totals, len(loop.vendor.requests)) == (5, 5, 2, 5)
    found = results(loop.output)
    assert [row["id"] for row in found[5:]] == ["Jumlah", "Total"]
    assert {row.get(name) or None for row in found[5:] for name in ("ok", "charge", "problem", "error")} == {None}
    if output.endswith("xlsx"):
        book = openpyxl.load_workbook(loop.output)
        counted = {row[0].value: row[1].value for row in book["Summary"].iter_rows()}
        assert (counted["all"], counted["answered"], counted["problems"]) == (5, 5, 0)


async def test_a_dry_run_leaves_totals_out(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", f"{LIST}Total,,5\n")
    async with client_of(Vendor(sane)) as client:
        found = await forecast_bulk(client, WhatsAppDetail, source)
    assert (found.rows, found.failed, found.totals) == (5, 3, 1)


async def test_a_picture_that_was_pasted_is_refused_and_not_lost(tmp_path: Path) -> None:
    loop = Loop(tmp_path, "out.xlsx", "mend.xlsx")
    write(loop.source, LIST)
    await loop.run()
    book = openpyxl.load_workbook(loop.problems)
    assert book.active is not None
    book.active.add_image(Image(io.BytesIO(picture(1))), "B3")
    book.save(loop.problems)
    before, asked = loop.problems.read_bytes(), len(loop.vendor.requests)
    with pytest.raises(ConfigurationError, match=r"mend\.xlsx' has pictures \(row 3\).* write the file's name"):
        await loop.run()
    assert (loop.problems.read_bytes(), len(loop.vendor.requests)) == (before, asked)
    mend(loop.problems, phones(B=f"{SOME}02"))
    assert (await loop.run()).ok == 3
