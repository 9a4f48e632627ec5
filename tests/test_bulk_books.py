"""Workbooks out, and CSV for Excel: nothing that a spreadsheet would spoil, and no answer lost on the way."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import json
import shutil
import subprocess
import threading
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pyarrow
import pytest
import python_calamine as calamine
import xlsxwriter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from aisolution_async import ConfigurationError, FaceCompare, WhatsAppDetail
from aisolution_async.bulk import BulkError, BulkRun, books, forecast_bulk, run_bulk
from aisolution_async.bulk.books import BookPlan, Workbook, records
from aisolution_async.bulk.excel import separator, shielded, unshielded
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.rows import text

from .sheets import Gate, bulk, jsonl, left, many, read, sane, write
from .support import Vendor, client_of, examples, ok_whatsapp, picture, says

GOOD, BAD, NEUTRAL, HELD, NONE = "FFC6EFCE", "FFFFC7CE", "FFFFEB9C", "FFE4DFEC", "00000000"


def made(path: Path, rows: list[list[Any]], formats: dict[int, str | int] | None = None) -> Path:
    """A workbook with these rows, and number formats by column."""
    book = xlsxwriter.Workbook(str(path))
    sheet = book.add_worksheet("Daftar")
    for number, row in enumerate(rows):
        for place, value in enumerate(row):
            said = (formats or {}).get(place) if number else None
            sheet.write(number, place, value, said and book.add_format({"num_format": said}))
    book.close()
    return path


def when(said: str) -> dt.datetime:
    """A moment as cells have it, without a zone."""
    return dt.datetime.fromisoformat(said)


def cells(path: Path, sheet: str = "Results") -> list[list[Any]]:
    return [[cell.value for cell in row] for row in openpyxl.load_workbook(path)[sheet].iter_rows()]


# ------------------------------------------------------------------------------------------------- what is in it


async def test_columns_keep_their_types_and_formats(tmp_path: Path) -> None:
    """Whatever a format says, and wherever the table stands; digits that a number cannot hold are text."""
    head = ["ID", "No HP", "Lahir", "Jam", "Bunga", "Plafon", "Aktif", "Kode", "Lama", "Angka", "Pukul"]
    formats: dict[int, str | int] = {
        0: "0000",
        2: 14,
        3: "dd mmm yyyy hh:mm",
        4: "0.0%",
        5: '"Rp" #,##0.00',
        8: "[h]:mm",
    }
    formats[10] = "hh:mm"
    day, moment = when("1990-01-05"), when("2024-02-29 23:59:30")
    rows = [
        [n, f"+6281387{n:06}", day, moment, 0.125, 1500000.5, bool(n % 2), "0007", 1.5, 1 / 3 * n, 0.5]
        for n in range(1, 9)
    ]
    book = xlsxwriter.Workbook(str(tmp_path / "in.xlsx"))
    sheet = book.add_worksheet("Daftar")
    for place, name in enumerate(head):
        sheet.write(0, place + 2, name)
        for number, row in enumerate(rows, 1):
            said = book.add_format({"num_format": formats[place]}) if place in formats and number % 3 else None
            sheet.write(number, place + 2, row[place], said)
    book.close()
    await bulk(tmp_path / "in.xlsx", tmp_path / "out.xlsx")
    before = openpyxl.load_workbook(tmp_path / "in.xlsx")["Daftar"]
    after = openpyxl.load_workbook(tmp_path / "out.xlsx")["Results"]
    for number in range(1, len(rows) + 2):
        for place in range(1, len(head) + 1):
            had, has = before.cell(number, place + 2), after.cell(number, place)
            assert (has.value, has.data_type, has.number_format) == (had.value, had.data_type, had.number_format)
    assert (after.freeze_panes, after.auto_filter.ref) == ("A2", f"A1:{after.cell(9, after.max_column).coordinate}")
    assert all(8 <= column.width <= 50 for column in after.column_dimensions.values())
    assert after.column_dimensions["B"].width > len("+6281387000001")


async def test_numbers_of_too_many_digits_are_text(tmp_path: Path) -> None:
    """Of any input. What is as large and no id stays a number."""
    said = [3171234567890123, 31712345678901234, 9171010101900000.0, 123456789012345, 1e300, 0.1 + 0.2, -7]
    source = made(tmp_path / "in.xlsx", [["phone", "nik"], *([f"+6281387{n:06}", nik] for n, nik in enumerate(said))])
    await bulk(source, tmp_path / "out.xlsx")
    found = [row[1] for row in cells(tmp_path / "out.xlsx")[1:]]
    assert found[2:] == ["9171010101900000", 123456789012345, 1e300, 0.3, -7]
    assert (found[0], type(found[1])) == ("3171234567890123", str)
    lines = [{"phone": f"+6281387{n:06}", "nik": nik} for n, nik in enumerate(said)]
    source = write(tmp_path / "in.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    await bulk(source, tmp_path / "other.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "other.xlsx")["Results"]
    found = [sheet.cell(number, 2).value for number in range(2, 9)]
    assert found == ["3171234567890123", "31712345678901234", "9171010101900000", 123456789012345, 1e300, 0.1 + 0.2, -7]
    assert sheet.cell(5, 2).number_format == "0"  # or else it is shown as 1.23E+14


async def test_types_of_parquet(tmp_path: Path) -> None:
    """Days that Excel has not, and what it has no type for, are text."""
    zone = dt.timezone(dt.timedelta(hours=7))
    table = {
        "phone": ["+6281387300001"],
        "amount": [Decimal("12.50")],
        "id": [Decimal(12345678901234567)],
        "born": [dt.date(1850, 1, 1)],
        "day": [dt.date(2024, 2, 29)],
        "at": [dt.datetime(2024, 1, 1, 1, tzinfo=zone)],
        "time": [dt.time(1, 2, 3)],
        "lasts": [dt.timedelta(days=2, seconds=90)],
        "raw": [b"\xff"],
        "many": [[1, 2]],
        "none": [None],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "in.parquet")
    await bulk(tmp_path / "in.parquet", tmp_path / "out.xlsx")
    [row] = cells(tmp_path / "out.xlsx")[1:]
    assert row[1:5] == [12.5, "12345678901234567", "1850-01-01", when("2024-02-29")]
    assert str(row[5]).startswith(("2024-01-01T", "2023-12-31T"))
    assert row[6:11] == [dt.time(1, 2, 3), dt.timedelta(days=2, seconds=90), "/w==", "[1, 2]", None]


ANY = st.text(st.characters(codec="utf-8", exclude_characters="\ufffe\uffff"), max_size=20)
HOSTILE = [
    "=1+1",
    "+62",
    "-1",
    "@SUM(A1)",
    "<r>x</r>",
    "<r></c><c><f>1</f></c></r>",
    "_x0041_",
    "a\r\nb",
    " a ",
    "{=1}",
]
HOSTILE += ["\0", "\x0b\x1f", "https://example.org", "0007", "1e5", "'x", "TRUE", "#N/A", '="0007"']


async def test_days_of_excel_s_first_months_stay_days(tmp_path: Path) -> None:
    """As it has none before 1900, those are texts."""
    days = [1, 1.25, 2.5, 59, 61, 2_958_465.75]
    rows: list[list[Any]] = [["No HP", "Hari"], *([f"+6281387{n:06}", day] for n, day in enumerate(days))]
    source = made(tmp_path / "in.xlsx", rows, {1: "dd mmm yyyy hh:mm"})
    await bulk(source, tmp_path / "out.xlsx")
    assert [row[1] for row in cells(tmp_path / "out.xlsx")] == [row[1] for row in cells(source, "Daftar")]
    assert of_calamine(tmp_path / "out.xlsx") == of_calamine(source)
    sheet = openpyxl.load_workbook(tmp_path / "out.xlsx")["Results"]
    assert {row[1].number_format for row in sheet.iter_rows(min_row=2)} == {"dd mmm yyyy hh:mm"}
    write(tmp_path / "in.jsonl", '{"number": "+6281387300008", "day": "1899-12-31"}\n')
    await bulk(tmp_path / "in.jsonl", tmp_path / "old.xlsx")
    assert cells(tmp_path / "old.xlsx")[1][1] == "1899-12-31"


def of_calamine(path: Path) -> list[Any]:
    """The second column, as calamine reads it."""
    return [row[1] for row in calamine.load_workbook(str(path)).get_sheet_by_index(0).to_python()]


async def test_a_sheet_is_one_to_look_at_and_to_print(tmp_path: Path) -> None:
    """Lines of a text have room, a problem has too, and a wide sheet is printed on several pages side by side."""
    address = "Jl. Merdeka 3\nBandung"
    rows: list[list[Any]] = [["No HP", "Alamat"], ["+6281387300008", address], ["xyz", "Jakarta"], [None, "TOTAL"]]
    await bulk(made(tmp_path / "in.xlsx", rows), tmp_path / "out.xlsx")
    book = openpyxl.load_workbook(tmp_path / "out.xlsx")
    sheet = book["Results"]
    assert (sheet["B2"].value, sheet["B2"].alignment.wrap_text, sheet.row_dimensions[2].height) == (address, True, 30)
    assert (sheet["B3"].alignment.wrap_text, sheet.row_dimensions[3].height) == (None, None)
    last = sheet.cell(1, sheet.max_column)
    assert last.value == "problem"
    assert sheet.column_dimensions[last.column_letter].width > max(48, len(sheet.cell(3, last.column).value))
    assert (sheet.page_setup.fitToWidth or 1, sheet.page_setup.paperSize) == (1, 9)
    said = {str(row[0]): row[1:] for row in cells(tmp_path / "out.xlsx", "Summary") if row[0]}
    assert (said["all"][0], said["problems"][0]) == (2, 1)  # a total is none of them
    wide = [[f"Kolom tambahan {n}" for n in range(40)], ["+6281387300008"] * 40]
    await bulk(made(tmp_path / "wide.xlsx", wide), tmp_path / "o.xlsx", columns={"number": "Kolom tambahan 0"})
    sheet = openpyxl.load_workbook(tmp_path / "o.xlsx")["Results"]
    assert sheet.page_setup.fitToWidth > 2
    assert sheet.print_title_cols == "$A:$A"


@pytest.mark.parametrize("columns", [2, 40])
def test_a_result_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """As many as it takes, each whole, and the same as all of it at once: also where first columns are empty."""
    output = Output(tmp_path / "out.xlsx", None)
    names = [f"n{place}" for place in range(columns)]
    output.open([*names, "ok", "charge"], replace=True)
    values = [None, "a\r_x000D_", 0.5, when("2024-01-15"), True, 7, "</row>", None, 10**16, "é" * 40]
    for number in range(60):
        row = [values[(place + number) % 10] if place % 3 or number % 2 else None for place in range(columns)]
        output.write([row[0] and text(row[0]), *row[1:]], [True, "charged"])
    output.finish()
    output.close()
    expected = [dict(record) for record in records(output.path)]
    assert len(expected) == 60
    reads: list[int] = []
    load = calamine.load_workbook

    def counted(path: Any) -> Any:
        reads.append(1)
        return load(path)

    monkeypatch.setattr(calamine, "load_workbook", counted)
    for size in (300, 1500, 10_000):
        reads.clear()
        monkeypatch.setattr(books, "_PIECE", size)
        assert [dict(record) for record in records(output.path)] == expected
        assert len(reads) > 1 or size > 5000


async def test_a_result_that_another_program_saved_is_read_all_the_same(tmp_path: Path) -> None:
    source = made(tmp_path / "in.xlsx", [["No HP", "Lahir"], ["+6281387300008", when("1990-01-05")]], {1: 14})
    await bulk(source, tmp_path / "out.xlsx")
    expected = [dict(record) for record in records(tmp_path / "out.xlsx")]
    book = openpyxl.load_workbook(tmp_path / "out.xlsx")
    book.save(tmp_path / "saved.xlsx")
    assert [dict(record) for record in records(tmp_path / "saved.xlsx")] == expected


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(ANY | st.sampled_from(HOSTILE), min_size=1, max_size=8))
@example(texts=HOSTILE)
def test_any_text_is_that_text(tmp_path: Path, texts: list[str]) -> None:
    """No formula, no link, no number, nothing lost: of the input's cells, and of what a stranger wrote."""
    output = Output(tmp_path / "out.xlsx", None)
    output.open(["a", "b", "n"], replace=True)
    for number, each in enumerate(texts):
        output.write([each], [each, number])
    output.finish()
    output.close()
    expected = [each or None for each in texts]
    assert [record.get("a") for record in records(output.path)] == expected
    assert [record.get("b") for record in records(output.path)] == expected
    with zipfile.ZipFile(output.path) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in sheet.replace("&lt;f&gt;", "")
    assert "hyperlink" not in sheet


async def test_formulas_stay_harmless_when_they_are_edited(tmp_path: Path) -> None:
    """A cell that somebody opens and leaves is taken for what it looks like, unless its format says that it is text."""
    vendor = Vendor(lambda request, number: says("OK", {"whatsapp": "yes", "signature": "=HYPERLINK(0)"}))
    source = write(tmp_path / "in.csv", "number,note\n+6281387300001,=1+1\n")
    await bulk(source, tmp_path / "out.xlsx", vendor=vendor)
    sheet = openpyxl.load_workbook(tmp_path / "out.xlsx")["Results"]
    for cell in (sheet["A2"], sheet["B2"], sheet["G2"]):
        assert (cell.data_type, cell.number_format) == ("s", "@")
    assert (sheet["B2"].value, sheet["G2"].value) == ("=1+1", "=HYPERLINK(0)")
    assert sheet["B2"].quotePrefix
    assert sheet["G2"].quotePrefix


def state(number: int) -> httpx.Response:
    """What the vendor says of the rows of the next test."""
    if number == 3:
        return httpx.Response(502)  # may have been charged
    if number == 4:
        return says("INVALID_INPUT")
    return says("OK", {"whatsapp": ("yes", "no", "checking")[number]})


async def test_colours_and_the_summary(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "phone\n" + "".join(f"+6281387{n:06}\n" for n in range(5)) + "abc\nxyz\n")
    vendor = Vendor(lambda request, number: state(number))
    prices = {"gliswadetail": Decimal("0.05")}
    options: dict[str, Any] = {"ledger": tmp_path / "a.ledger", "concurrency": 1, "prices": prices}
    done = await bulk(source, tmp_path / "out.xlsx", vendor=vendor, **options)
    assert (done.ok, done.failed, done.checking) == (2, 4, 1)
    book = openpyxl.load_workbook(tmp_path / "out.xlsx")
    assert book.sheetnames == ["Results", "Summary"]
    sheet = book["Results"]
    names = [cell.value for cell in sheet[1]]
    verdict, last = names.index("answer_whatsapp"), names.index("problem")
    assert [row[1].value for row in sheet.iter_rows(min_row=2)] == [True, True, *[False] * 5]
    assert sheet.cell(4, last + 1).value.startswith("WhatsApp is still checking this number: run it again later")
    colours = [[row[place].fill.fgColor.rgb for place in (0, 1, verdict, last)] for row in sheet.iter_rows(min_row=2)]
    assert colours == [
        [NONE, GOOD, GOOD, NONE],
        [NONE, GOOD, BAD, NONE],
        [NONE, NEUTRAL, NEUTRAL, NONE],
        [NONE, HELD, HELD, HELD],
        *([NONE, BAD, BAD, BAD] for _ in range(3)),
    ]
    said = {str(row[0]): row[1:] for row in cells(tmp_path / "out.xlsx", "Summary") if row[0]}
    assert [said[name][0] for name in ("all", "answered", "checking", "held", "problems")] == [7, 2, 1, 1, 3]
    assert "Run the list again later" in said["checking"][2]
    assert "--retry-unknown" in said["held"][2]
    assert said["WhatsApp detail: charged"][:2] == [2, 0.1]
    assert said["WhatsApp detail: free"][0] == 4
    assert said["WhatsApp detail: unknown"][:2] == [1, 0.05]
    [unfit] = [row for name, row in said.items() if "is no phone number" in name]
    assert unfit[:2] == [2, 7]
    assert "Mend the cell" in unfit[2]
    # Run again, with the same answers from the ledger, it is the same.
    before = (tmp_path / "out.xlsx").read_bytes()
    again = Vendor(lambda request, number: says("OK", {"whatsapp": "checking"}) if number == 0 else state(4))
    await bulk(source, tmp_path / "out.xlsx", vendor=again, **options)
    assert (tmp_path / "out.xlsx").read_bytes() == before


async def test_two_endpoints(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    source = write(
        tmp_path / "in.csv",
        "selfie,ktp,phone\na.jpg,a.jpg,+6281387300001\na.jpg,none.jpg,+6281387300002\na.jpg,b/c.jpg,+6281387300003\n",
    )
    async with client_of(Vendor(sane)) as client:
        await run_bulk(
            client, [FaceCompare, WhatsAppDetail], source, tmp_path / "out.xlsx", prices={"facecompare": Decimal("1.5")}
        )
    said = {str(row[0]): row[1:] for row in cells(tmp_path / "out.xlsx", "Summary") if row[0]}
    assert [said[name][0] for name in ("all", "answered", "problems")] == [3, 1, 2]
    assert said["Face comparison: charged"][:2] == [1, 1.5]
    assert said["WhatsApp detail: charged"][:2] == [3, None]
    assert "--price whatsapp-detail=" in said["WhatsApp detail: charged"][2]
    assert said["all charged"][:2] == [4, None]
    # Whatever the file, and wherever the row: it is one kind of problem.
    assert [row[:2] for name, row in said.items() if name.startswith("column 'ktp': img2 … does not exist")] == [[2, 3]]


async def test_results_longer_than_a_cell(tmp_path: Path) -> None:
    """They were paid for: all of them is kept beside, where the next run finds it too."""
    long = "\U0001f600" * 20_000
    vendor = Vendor(lambda request, number: says("OK", {"whatsapp": "yes", "signature": long}))
    source = write(tmp_path / "in.csv", f"number,note\n+6281387300001,{'x' * 40_000}\n")
    done = await bulk(source, tmp_path / "out.xlsx", vendor=vendor)
    whole = tmp_path / "out.xlsx.rescued-long.jsonl"
    assert done.warnings == [
        f"1 results are longer than a cell of Excel's, and were cut: {str(whole)!r} has them",
    ]
    [row] = cells(tmp_path / "out.xlsx")[1:]
    assert row[1] == "x" * 32_766 + "…"
    assert row[6] == "\U0001f600" * 16_383 + "…"
    [kept] = jsonl(whole)
    assert (kept["answer_signature"], kept["note"]) == (long, "x" * 40_000)
    assert any("2 cells have more" in str(row[0]) for row in cells(tmp_path / "out.xlsx", "Summary"))
    assert left(tmp_path) == {"in.csv", "out.xlsx", whole.name}
    again = await bulk(source, tmp_path / "again.xlsx", vendor=vendor, rescued=[whole])
    assert (again.taken_back, len(vendor.requests)) == (1, 1)


# -------------------------------------------------------------------------------------------- and how it is made


async def test_while_it_runs_the_rows_are_lines(tmp_path: Path) -> None:
    """Also where it is stopped, and where there is no ledger: then the part file is what has the answers."""
    source, output, gate = many(tmp_path), tmp_path / "out.xlsx", Gate(37, 5)
    async with client_of(gate.vendor) as client:
        run = BulkRun(client, WhatsAppDetail, source, output, concurrency=5)
        running = asyncio.create_task(run.run())
        await gate.full.wait()
        assert {row["ok"] for row in jsonl(tmp_path / "out.xlsx.part")} == {True}
        run.stop()
        gate.opened.set()
        done = await running
        assert (done.complete, done.rows, done.part) == (False, 42, tmp_path / "out.xlsx.part")
        assert not output.exists()
        with pytest.raises(ConfigurationError, match=r"say --rescued '.*out.xlsx.part' to take its answers over, move"):
            await run_bulk(client, WhatsAppDetail, source, output)
        again = await run_bulk(client, WhatsAppDetail, source, output, rescued=[tmp_path / "out.xlsx.part"])
        assert (again.complete, again.ok, again.taken_back, len(gate.vendor.requests)) == (True, 100, 42, 100)
        whole = await run_bulk(client, WhatsAppDetail, source, tmp_path / "whole.xlsx")
    assert whole.output is not None
    assert output.read_bytes() == whole.output.read_bytes()
    [rescued] = tmp_path.glob("out.xlsx.rescued-*")  # a copy of what went with the part file
    assert left(tmp_path) == {"in.csv", "out.xlsx", "whole.xlsx", rescued.name}


async def test_a_part_file_of_another_list_is_not_replaced(tmp_path: Path) -> None:
    source, part = many(tmp_path, 2), tmp_path / "out.xlsx.part"
    await bulk(source, tmp_path / "whole.jsonl")
    write(part, (tmp_path / "whole.jsonl").read_bytes())
    source = write(tmp_path / "in.csv", "number\n+6281300000001\n")
    vendor = Vendor(sane)
    with pytest.raises(ConfigurationError, match="has 1 answers that were paid for and are of no row of the input"):
        await bulk(source, tmp_path / "out.xlsx", vendor=vendor, rescued=[part])
    assert (len(jsonl(part)), vendor.requests) == (2, [])


async def test_stopped_while_the_workbook_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C need not wait for it; the next run makes it of what the ledger has."""
    monkeypatch.setattr(books, "_LOOK_EVERY", 1)
    source, output, vendor = many(tmp_path, 20), tmp_path / "out.xlsx", Vendor(sane)
    add = books._Pages.add
    async with client_of(vendor) as client:
        run = BulkRun(client, WhatsAppDetail, source, output, ledger=tmp_path / "a.ledger")

        def stopping(self: Any, number: int, *arguments: Any) -> None:
            add(self, number, *arguments)
            if number == 5:
                run.stop()

        with monkeypatch.context() as patch:
            patch.setattr(books._Pages, "add", stopping)
            done = await run.run()
        assert (done.complete, done.rows, done.part) == (False, 20, tmp_path / "out.xlsx.part")
        assert left(tmp_path) == {"in.csv", "out.xlsx.part", "a.ledger"}
        (tmp_path / "out.xlsx.making").mkdir()  # as a process leaves it that is killed while it makes one
        write(tmp_path / "out.xlsx.making" / "book.xlsx", "half")
        again = await run_bulk(client, WhatsAppDetail, source, output, ledger=tmp_path / "a.ledger")
    assert (again.complete, again.from_ledger, len(vendor.requests)) == (True, 20, 20)
    assert left(tmp_path) == {"in.csv", "out.xlsx", "a.ledger"}


async def test_cancelled_while_the_workbook_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread ends too, and leaves nothing but the rows."""
    monkeypatch.setattr(books, "_LOOK_EVERY", 1)
    source, output, loop, ended = many(tmp_path, 20), tmp_path / "out.xlsx", asyncio.get_running_loop(), asyncio.Event()
    make, add, cancelled = Output.make, books._Pages.add, threading.Event()

    def making(self: Output, *arguments: Any) -> Any:
        try:
            return make(self, *arguments)
        finally:
            loop.call_soon_threadsafe(ended.set)

    def cancelling(self: Any, number: int, *arguments: Any) -> None:
        if number == 5:
            loop.call_soon_threadsafe(running.cancel)
            cancelled.wait()
        add(self, number, *arguments)

    monkeypatch.setattr(Output, "make", making)
    monkeypatch.setattr(books._Pages, "add", cancelling)
    running = asyncio.create_task(bulk(source, output))
    with pytest.raises(asyncio.CancelledError):
        await running
    cancelled.set()
    await ended.wait()
    assert left(tmp_path) == {"in.csv", "out.xlsx.part"}
    assert len(jsonl(tmp_path / "out.xlsx.part")) == 20


async def test_a_workbook_that_cannot_be_made(tmp_path: Path) -> None:
    """Its rows stay in the part file."""
    source, output = many(tmp_path, 3), tmp_path / "out.xlsx"
    write(tmp_path / "out.xlsx.making", "somebody's")
    with pytest.raises(BulkError, match=r"out\.xlsx' cannot be finished: File exists"):
        await bulk(source, output)
    assert len(jsonl(tmp_path / "out.xlsx.part")) == 3
    assert left(tmp_path) == {"in.csv", "out.xlsx.part", "out.xlsx.making"}


def test_a_part_file_that_was_changed(tmp_path: Path) -> None:
    for said in ("", "no json\n", '{"a": 1}\n'):
        book = Workbook(["a"], BookPlan())
        write(tmp_path / "part", book.add([1], []) + book.add([2], []))
        write(tmp_path / "part", said)
        with pytest.raises(OSError, match="part was changed meanwhile"):
            book.make(tmp_path / "part", tmp_path / "making", lambda: False, [])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
async def test_more_rows_than_a_sheet_has(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said before anything is sent, by a dry run too."""
    for module in ("books", "plan"):
        monkeypatch.setattr(f"aisolution_async.bulk.{module}.MOST_ROWS", 3)
    numbers = [f"+6281387{n:06}" for n in range(4)]
    lines = [*(["number"] if ending == "csv" else []), *numbers]
    said = "".join(f"{line}\n" if ending == "csv" else f"{json.dumps({'number': line})}\n" for line in lines)
    source, vendor = write(tmp_path / f"in.{ending}", said), Vendor(sane)
    problem = (
        r"out\.xlsx' has room for 3 rows below its header, as each sheet of Excel's, and the input has 4: name a \.csv"
    )
    with pytest.raises(ConfigurationError, match=problem):
        await bulk(source, tmp_path / "out.xlsx", vendor=vendor, ledger=tmp_path / "a.ledger")
    async with client_of(vendor) as client:
        with pytest.raises(ConfigurationError, match=problem):
            await forecast_bulk(client, WhatsAppDetail, source, tmp_path / "out.xlsx")
    with pytest.raises(ConfigurationError, match=problem.replace("out", "mend")):
        await bulk(source, tmp_path / "out.csv", vendor=vendor, problems=tmp_path / "mend.xlsx")
    assert (left(tmp_path), vendor.requests) == ({source.name}, [])
    assert (await bulk(source, tmp_path / "out.csv", vendor=vendor)).ok == 4


def test_more_columns_than_a_sheet_has() -> None:
    with pytest.raises(ConfigurationError, match="room for 16,384 columns, not 16,385"):
        Workbook([str(n) for n in range(16_385)], BookPlan())


async def test_what_is_to_be_mended_as_a_workbook(tmp_path: Path) -> None:
    """And with it mended, only that is asked."""
    rows: list[list[Any]] = [
        ["id", "phone", "day"],
        *([n, f"+6281387{n:06}", 45000 + n] for n in range(3)),
        [7, "abc", 45007],
    ]
    source, vendor = made(tmp_path / "in.xlsx", rows, {0: "0000", 2: "dd/mm/yyyy"}), Vendor(sane)
    mend = tmp_path / "mend.xlsx"
    options: dict[str, Any] = {"vendor": vendor, "ledger": tmp_path / "a.ledger"}
    await bulk(source, tmp_path / "out.xlsx", problems=mend, **options)
    book = openpyxl.load_workbook(mend)
    sheet = book["Rows"]
    assert [cell.value for cell in sheet[1]] == ["id", "phone", "day", "row", "problem"]
    assert [cell.number_format for cell in sheet[2]][:3] == ["0000", "General", "dd/mm/yyyy"]
    assert (sheet["A2"].value, sheet["B2"].value, sheet["C2"].value) == (7, "abc", when("2023-03-22"))
    assert mend.stat().st_mode & 0o777 == 0o600
    sheet["B2"] = "+6281387000009"
    book.save(mend)
    done = await bulk(mend, tmp_path / "mended.xlsx", **options)
    assert (done.ok, done.failed, len(vendor.requests)) == (1, 0, 4)
    assert [row[0] for row in cells(tmp_path / "mended.xlsx")[1:]] == [7]
    assert cells(tmp_path / "mended.xlsx")[0][:4] == ["id", "phone", "day", "ok"]


async def test_libreoffice_opens_it(tmp_path: Path) -> None:
    office = shutil.which("soffice")
    if office is None:
        pytest.skip("there is no soffice: LibreOffice is not installed")
    source = made(tmp_path / "in.xlsx", [["id", "phone", "rate"], ["0007", "+6281387000001", 0.125]], {2: "0.0%"})
    await bulk(source, tmp_path / "out.xlsx", vendor=Vendor(lambda request, number: ok_whatsapp()))
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = [
        office,
        profile,
        "--headless",
        "--convert-to",
        "csv",
        "--outdir",
        str(tmp_path),
        str(tmp_path / "out.xlsx"),
    ]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    [row] = read(tmp_path / "out.csv")
    assert (row["id"], row["phone"], row["rate"], row["ok"]) == ("0007", "+6281387000001", "12.5%", "TRUE")


# --------------------------------------------------------------------------------------------------- CSV for Excel


@pytest.mark.parametrize(
    ("text", "delimiter", "bom"),
    [(";", ";", b""), ("|", "|", b"\xef\xbb\xbf"), ("\t", "\t", b"\xff\xfe"), (",", ",", b"\xef\xbb\xbf")],
)
async def test_csv_is_like_the_input(tmp_path: Path, text: str, delimiter: str, bom: bytes) -> None:
    """Its delimiter and its byte order mark, in UTF-8; and a run goes on from an output of another kind."""
    said = f'ref{text}phone{text}note\nA{text}+6281387000001{text}"é{text}x"\n'
    encoding = "utf-16-le" if bom == b"\xff\xfe" else "utf-8"
    source, vendor = write(tmp_path / "in.csv", bom + said.encode(encoding)), Vendor(sane)
    output = tmp_path / "out.csv"
    options: dict[str, Any] = {"vendor": vendor, "ledger": tmp_path / "a.ledger"}
    await bulk(source, output, **options)
    assert output.read_bytes().startswith(b"\xef\xbb\xbfref" if bom else b"ref")
    [row] = read(output, delimiter)
    assert (row["ref"], row["note"], row["ok"]) == ("A", f"é{text}x", "true")
    before = output.read_bytes()
    with output.open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.reader(file, delimiter=delimiter)]
    for between in ",;\t|":
        with output.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=between, lineterminator="\n").writerows(rows)
        again = await bulk(source, output, **options)
        assert (again.from_ledger, output.read_bytes()) == (1, before)
    # The other way round: what it has is taken back where the ledger is lost.
    taken = await bulk(source, tmp_path / "new.csv", vendor=vendor, ledger=tmp_path / "b.ledger", rescued=[output])
    assert (taken.taken_back, len(vendor.requests)) == (1, 1)
    other = await bulk(source, tmp_path / "out.tsv", vendor=vendor)
    assert other.output is not None
    assert other.output.read_bytes().startswith(b"ref\tphone\t")


@pytest.mark.parametrize("between", [",", ";"])
async def test_csv_that_excel_does_not_spoil(tmp_path: Path, between: str) -> None:
    said = [
        "0007",
        "3171234567890123",
        "+62813",
        "1-2",
        "MARCH1",
        "1E5",
        "12",
        "Budi",
        "=1+1",
        "Jl. Raya 5",
        "1.10",
        "x;y",
    ]
    lines = [f"+6281387{n:06}{between}{each}\n" for n, each in enumerate(said) if each != "x;y"]
    source = write(tmp_path / "in.csv", f"number{between}note\n{''.join(lines)}")
    write(tmp_path / "a.jpg", picture(1))
    vendor, output = Vendor(sane), tmp_path / "out.csv"
    await bulk(source, output, vendor=vendor, excel=True, ledger=tmp_path / "a.ledger")
    assert output.read_bytes().startswith(b"\xef\xbb\xbfnumber" + between.encode())
    rows = read(output, between)
    notes = [row["note"] for row in rows]
    assert notes == [
        *('="0007"', '="3171234567890123"', '="+62813"', '="1-2"', '="MARCH1"', '="1E5"', "12", "Budi", "'=1+1"),
        *("Jl. Raya 5", '="1.10"'),
    ]
    assert rows[0]["number"] == '="+6281387000000"'
    # And back: rows are known again, also where the ledger is another.
    again = await bulk(
        source, tmp_path / "new.csv", vendor=vendor, excel=True, ledger=tmp_path / "b.ledger", rescued=[output]
    )
    assert (again.taken_back, len(vendor.requests)) == (len(lines), len(lines))
    assert (tmp_path / "new.csv").read_bytes() == output.read_bytes()


async def test_excel_where_a_comma_is_the_decimal_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.bulk.plan.separator", lambda: ";")
    write(tmp_path / "a.jpg", picture(1))
    source = made(tmp_path / "in.xlsx", [["selfie", "ktp", "rate"], ["a.jpg", "a.jpg", 0.125]])
    vendor = Vendor(sane)
    done = await bulk(source, tmp_path / "out.csv", FaceCompare, vendor=vendor, excel=True)
    [row] = read(tmp_path / "out.csv", ";")
    assert (row["rate"], row["answer_similarity"], row["attempts"]) == ("0,125", "97,501", "1")
    again = await bulk(source, tmp_path / "out.jsonl", FaceCompare, vendor=vendor, rescued=[tmp_path / "out.csv"])
    assert done.output is not None
    assert again.rows == 1
    with pytest.raises(ConfigurationError, match=r"what Excel opens is \.csv or \.xlsx"):
        await bulk(source, tmp_path / "out.tsv", FaceCompare, vendor=vendor, excel=True)


@pytest.mark.parametrize(
    ("environment", "between"),
    [
        ({"LANG": "id_ID.UTF-8"}, ";"),
        ({"LANG": "en_PH.UTF-8"}, ","),
        ({"LANG": "de"}, ";"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "vi_VN"}, ";"),
        ({"LC_NUMERIC": "es_MX.UTF-8", "LANG": "es_ES"}, ","),
        ({"LANG": "hi_IN@x"}, ","),
        ({"LANG": "C.UTF-8"}, ","),
        ({}, ","),
    ],
)
def test_the_list_separator(environment: dict[str, str], between: str) -> None:
    assert separator(environment) == between


@given(st.text(max_size=45), st.sampled_from(",;"))
@example("1" * 40, ",")
@example("+1" * 20, ";")
def test_what_is_shielded_is_no_formula(found: str, between: str) -> None:
    """Nothing in it can end the text, and it comes back as it was."""
    shield = shielded(found, found, between)
    assert shield in (found, f'="{found}"')
    if shield != found:
        assert '"' not in found
        assert unshielded(shield) == found


async def test_problems_are_in_words_for_this_list(tmp_path: Path) -> None:
    """No other service's remedy, no name of the vendor's interface, and one kind for each column that is bad."""

    def answer(request: httpx.Request, number: int) -> httpx.Response:
        if number < 2:
            return says("FAIL" if number % 2 else "INVALID_INPUT", "no")
        return says("OK", ["this does not fit"])

    rows: list[list[Any]] = [["No HP", "Negara"], *([f"+62812110022{n:02}", None] for n in range(3))]
    rows += [["xyz", "Nowhere"], ["xyz", None], [None, "Nowhere"]]
    await bulk(made(tmp_path / "in.xlsx", rows), tmp_path / "out.xlsx", vendor=Vendor(answer), concurrency=1)
    summary = [row for row in cells(tmp_path / "out.xlsx", "Summary") if row[0]]
    text = "\n".join(str(cell) for row in summary for cell in row if cell)
    for other in ("searchface", "gliswadetail", "addface", "Photos", ".message"):
        assert other not in text
    kinds = {str(row[0]): row[1] for row in summary}
    assert [count for said, count in kinds.items() if said.startswith("column 'No HP': number is no ")] == [2]
    assert [count for said, count in kinds.items() if said.startswith("column 'Negara'")] == [2]
    assert any(said.startswith("WhatsApp detail: ") and "see answer_raw" in said for said in kinds)
    problems = [str(row[-1]) for row in cells(tmp_path / "out.xlsx")]
    assert not any(".message" in problem for problem in problems)
