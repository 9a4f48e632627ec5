"""Phone numbers in lists: what cells of every format become, what is told, and that a dry run says the same."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet
from xlsxwriter import Workbook

from aisolution_async import IdHolding, InputError, WhatsAppDetail
from aisolution_async.bulk import Forecast, Summary, forecast_bulk, run_bulk
from aisolution_async.cli.commands import aisolution

from .sheets import jsonl, read, sane, write
from .support import Vendor, client_of, ok_whatsapp, picture


async def both(source: Path, **options: Any) -> tuple[list[str], list[str], Summary]:
    """The numbers that a run of `source` sends, and the problems of its rows; a dry run must have said the same."""
    vendor = Vendor(lambda request, number: ok_whatsapp())
    async with client_of(vendor) as client:
        dry: Forecast = await forecast_bulk(client, WhatsAppDetail, source, **options)
        assert not vendor.requests
        done = await run_bulk(client, WhatsAppDetail, source, source.with_name("out.jsonl"), **options)
    sent = [parse_qs(request.content.decode())["number"][0] for request in vendor.requests]
    problems = [row["problem"] for row in jsonl(source.with_name("out.jsonl")) if row["problem"] is not None]
    assert dry.problems == problems
    assert dry.warnings == done.warnings
    assert dry.calls.total() == len(sent)
    assert (dry.rows, dry.failed) == (done.rows, done.failed)
    return sent, problems, done


def table(path: Path, cells: list[Any], kind: Any) -> Path:
    parquet.write_table(pa.table({"phone": pa.array(cells, kind)}), str(path))
    return path


async def test_cells_of_a_workbook(tmp_path: Path) -> None:
    source = tmp_path / "in.xlsx"
    with Workbook(str(source)) as book:
        sheet = book.add_worksheet()
        date, clock = book.add_format({"num_format": "yyyy-mm-dd"}), book.add_format({"num_format": "hh:mm"})
        sheet.write(0, 0, "phone")
        sheet.write_datetime(1, 0, datetime.date(2024, 1, 15), date)
        sheet.write_datetime(2, 0, datetime.datetime.fromisoformat("2024-01-15T12:00:00"), date)
        sheet.write_datetime(3, 0, datetime.time(12), clock)
        sheet.write_number(4, 0, 81387300008.5)
        sheet.write_number(5, 0, 3273010101900001)
        sheet.write_number(6, 0, 6.281387300008e12)
        sheet.write_number(7, 0, 81387300009, date)  # which is beyond the last date
    sent, problems, _ = await both(source, values={"country": "ID"})
    assert sent == ["+6281387300008", "+6281387300009"]
    for problem, words in zip(
        problems, ("is a date", "is a date", "is a time", "is a fraction", "16 digits: an ID-card"), strict=True
    ):
        assert problem.startswith(f"row {problems.index(problem) + 2}: column 'phone': number ")
        assert words in problem


@pytest.mark.parametrize(
    ("kind", "good", "bad", "words"),
    [
        (pa.float32(), [16777216.0], [81387300008.0, 16777220.0], "is a float of 32 bits or fewer"),
        (pa.float16(), [], [2050.0], "is a float of 32 bits or fewer"),
        (pa.float64(), [81387300008.0], [81387300008.5], "is a fraction"),
        (pa.date32(), [], [datetime.date(2024, 1, 15)], "is a date"),
        (pa.timestamp("ns"), [], [datetime.datetime.fromisoformat("2024-01-15T12:00:00")], "is a date"),
        (pa.time32("s"), [], [datetime.time(12)], "is a time of day"),
        (pa.decimal128(13, 2), [Decimal("81387300008.00")], [Decimal("81387300008.50")], "is a fraction"),
        (pa.int64(), [81387300008], [3273010101900001], "16 digits"),
    ],
)
async def test_cells_of_parquet(tmp_path: Path, kind: Any, good: list[Any], bad: list[Any], words: str) -> None:
    sent, problems, _ = await both(table(tmp_path / "in.parquet", [*good, *bad], kind), values={"country": "ID"})
    assert sent == [f"+62{cell:.0f}" for cell in good]
    assert [words in problem for problem in problems] == [True] * len(bad)
    assert all(problem.startswith("row ") and "column 'phone'" in problem for problem in problems)


async def test_narrow_floats_go_out_as_they_came(tmp_path: Path) -> None:
    source = table(tmp_path / "in.parquet", [81387300008.0, None], pa.float32())
    async with client_of(Vendor(lambda request, number: ok_whatsapp())) as client:
        await run_bulk(client, WhatsAppDetail, source, tmp_path / "out.parquet", values={"country": "ID"})
    out = parquet.read_table(tmp_path / "out.parquet")
    assert out.schema.field("phone").type == pa.float32()
    assert out["phone"].to_pylist() == [81387298816.0, None]


async def test_cells_of_jsonl(tmp_path: Path) -> None:
    cells = [81387300008, 6281387300009.0, 81387300008.5, 3273010101900001, True, [81387300008], "2024-01-15"]
    source = write(tmp_path / "in.jsonl", "".join(f"{json.dumps({'phone': cell})}\n" for cell in cells))
    sent, problems, _ = await both(source, values={"country": "ID"})
    assert sent == ["+6281387300008", "+6281387300009"]
    assert [next(w for w in ("fraction", "16 digits", "date", "no phone") if w in p) for p in problems] == [
        "fraction",
        "16 digits",
        "no phone",
        "no phone",
        "date",
    ]


async def test_what_is_sent_and_told_once(tmp_path: Path) -> None:
    numbers = ["0813-8730-0008", "(021) 5551234", "08888888888", "+44 20 7946 0018", "081387300008", "1800123456789"]
    source = write(tmp_path / "in.csv", "phone\n" + "".join(f"{number}\n" for number in numbers))
    sent, problems, done = await both(source, values={"country": "ID"})
    assert sent[:4] == ["+6281387300008", "+62215551234", "+628888888888", "+442079460018"]
    assert done.failed == len(problems) == 1
    assert done.warnings == [
        "2 numbers are in a range of landlines or service numbers, which are seldom on WhatsApp: "
        "line 3: column 'phone' is the first",
        "1 number is one digit over and over, as in a filler, but in a range of their country: line 4: column 'phone'",
    ]
    assert not any(digits in line for line in done.warnings for digits in ("5551234", "8888"))


async def test_nothing_is_told_of_mobile_numbers(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "phone\n+6281387300008\n+639171234567\n81387300008\n")
    sent, _, done = await both(source)
    assert sent == ["+6281387300008", "+639171234567", "81387300008"]
    assert done.warnings == []


def test_the_command_line_tells(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.csv", "phone\n(021) 5551234\n"), str(tmp_path / "out.csv")
    command = ["bulk", "whatsapp-detail", str(source), "--country", "ID", "--sandbox", "--json"]
    for options in (["--dry-run"], ["-o", output]):
        result = CliRunner().invoke(aisolution, [*command, *options])
        said = json.loads(result.stdout)
        assert said["warnings"] == [
            "1 number is in a range of landlines or service numbers, which are seldom on WhatsApp: "
            "line 2: column 'phone'"
        ]
        assert said["warnings"][0] in result.stderr


async def test_the_library_refuses_in_the_same_words() -> None:
    vendor = Vendor(lambda request, number: httpx.Response(500))
    async with client_of(vendor) as client:
        with pytest.raises(InputError, match="number has 16 digits: an ID-card or card number"):
            await client.whatsapp_detail("3273010101900001")
        with pytest.raises(InputError, match="number is a date"):
            await client.whatsapp_detail("2024-01-15", country="ID")
        calls = [WhatsAppDetail("0812345678-79", country="ID"), WhatsAppDetail("000000000")]
        async with client.batch(calls, ordered=True) as batch:
            outcomes = [outcome async for outcome in batch]
    assert ["digits behind it" in str(outcomes[0].error), "one digit" in str(outcomes[1].error)] == [True, True]
    assert not vendor.requests


async def test_cells_that_say_that_there_is_none(tmp_path: Path) -> None:
    """Of a number, a country and a photo alike; a file that is called so is a file."""
    (tmp_path / "kosong").write_bytes(picture(1))
    rows = ["081200000000,belum ada,kosong", "n/a,ID,tidak ada", "40612345,NO,-", "HP: 081200000002,ID,kosong"]
    source = write(tmp_path / "in.csv", "phone,country,img\n" + "".join(f"{row}\n" for row in rows))
    async with client_of(Vendor(sane)) as client:
        await run_bulk(client, [WhatsAppDetail, IdHolding], source, tmp_path / "out.csv")
    found = read(tmp_path / "out.csv")
    said = [row["whatsapp_detail_problem"].partition(": ")[2] for row in found]
    assert said == [
        "column 'country' says that there is none: write the country, or leave the cell empty",
        "column 'phone': number says that there is none: fill it in, or delete the row in the list itself",
        "",
        "",
    ]
    said = [row["id_holding_problem"].partition(": ")[2] for row in found]
    names_none = "which names no photo: fill it in, or delete the row in the list itself"
    assert said == ["", f"column 'img' says 'tidak ada', {names_none}", f"column 'img' says '-', {names_none}", ""]
