"""Lists as people have them: found columns, several endpoints, every format in and out, killed, dry, mended."""

from __future__ import annotations

import asyncio
import csv
import datetime
import io
import json
import os
import tempfile
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from xlsxwriter import Workbook

from aisolution_async import (
    AsyncClient,
    Call,
    ConfigurationError,
    FaceCompare,
    IdHolding,
    SearchFace,
    WhatsAppDetail,
)
from aisolution_async.bulk import BulkError, BulkRun, Summary, encoders, forecast_bulk, outputs, run_bulk
from aisolution_async.bulk.books import records
from aisolution_async.bulk.disk import Appender
from aisolution_async.bulk.results import defused
from aisolution_async.bulk.rows import Rows
from aisolution_async.inputs import images
from aisolution_async.sandbox import Sandbox

from . import forks
from .commands import settled
from .sheets import Gate, bulk, jsonl, left, many, read, sane, write
from .support import LAST_RESORT, Vendor, client_of, examples, ok_whatsapp, picture, says

SOME = "+62813873000"


def workbook(path: Path, rows: list[list[Any]]) -> Path:
    with Workbook(str(path), {"constant_memory": True, "strings_to_formulas": False}) as book:
        sheet = book.add_worksheet("Applicants")
        for number, row in enumerate(rows):
            for place, value in enumerate(row):
                if isinstance(value, str):
                    sheet.write_string(number, place, value)
                elif value is not None:
                    sheet.write(number, place, value)
    return path


def lines(path: Path, *records: dict[str, Any]) -> Path:
    return write(path, "".join(f"{json.dumps(record)}\n" for record in records))


# ------------------------------------------------------------------------------------------------------ the columns


@pytest.mark.parametrize("column", ["number", "Phone", "no_hp", "No. HP", "WhatsApp Number", "MSISDN", "Nomor Telepon"])
async def test_the_number_is_found(tmp_path: Path, column: str) -> None:
    vendor = Vendor(sane)
    source = write(tmp_path / "in.csv", f"name,{column}\nA,{SOME}01\n")
    assert (await bulk(source, tmp_path / "out.csv", vendor=vendor)).ok == 1
    assert b"number=%2B62813873000" in vendor.requests[0].content


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("phone,mobile", "'phone' and 'mobile' may both be number: say which with --number COLUMN"),
        ("number,WhatsApp", "'number' and 'WhatsApp' may both be number: say which with --number COLUMN"),
        ("phone,country,negara", "'country' and 'negara' may both be country: say which with --country-column COLUMN"),
    ],
)
async def test_what_may_be_two_columns_is_asked(tmp_path: Path, header: str, said: str) -> None:
    source = write(tmp_path / "in.csv", f"{header}\n")
    with pytest.raises(ConfigurationError) as caught:
        await bulk(source, tmp_path / "out.csv")
    assert str(caught.value) == f"{str(source)!r}: {said}"
    assert left(tmp_path) == {"in.csv"}


async def test_what_was_found_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    source = write(tmp_path / "in.csv", "Applicant ID;Selfie;KTP;Negara;No HP\nA;a.jpg;a.jpg;id;081387300008\n")
    said: list[str] = []
    vendor = Vendor(sane)
    calls = [FaceCompare, WhatsAppDetail]
    async with client_of(vendor) as client:
        await outputs_run(client, calls, source, tmp_path / "out.jsonl", on_start=said.append).run()
    [line] = said
    assert line.endswith(
        ": face-compare.img1 from 'Selfie', face-compare.img2 from 'KTP', whatsapp-detail.number from 'No HP', "
        "whatsapp-detail.country from 'Negara', key from 'Applicant ID'"
    )
    assert any(b"country=ID" in request.content for request in vendor.requests)


async def test_a_key_that_may_be_two_is_none(tmp_path: Path) -> None:
    keys = []
    for header in ("id,ref,number", "id,name,number"):
        said: list[str] = []
        source = write(tmp_path / "in.csv", f"{header}\nA,B,{SOME}01\n")
        async with client_of(Vendor(sane)) as client:
            run = outputs_run(
                client, WhatsAppDetail, source, tmp_path / "out.csv", on_start=said.append, overwrite=True
            )
            await run.run()
        keys.append(said[0].rsplit(", ", 1)[1])
    assert keys == ["no key", "key from 'id'"]


async def test_no_image_outside_of_the_root(tmp_path: Path) -> None:
    """Not by dots, not by an absolute path, not by a link; a relative path may start at the list or at the root."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    write(tmp_path / "secret.jpg", picture(1))
    write(folder / "a.jpg", picture(2))
    write(folder / "deep" / "b.jpg", picture(3))
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "fine.jpg").symlink_to(folder / "a.jpg")
    good = ["photos/a.jpg", "a.jpg", "deep/b.jpg", "deep/../a.jpg", str(folder / "a.jpg"), "fine.jpg"]
    bad = ["../secret.jpg", "photos/../../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg"]
    source = lines(tmp_path / "in.jsonl", *({"img": cell} for cell in (*good, *bad, "secret.jpg")))
    summary = await bulk(source, tmp_path / "out.jsonl", SearchFace, images_root=folder)
    found = jsonl(tmp_path / "out.jsonl")
    assert [row["ok"] for row in found] == [True] * len(good) + [False] * (len(bad) + 1)
    for row in found[len(good) : -1]:
        assert row["problem"].endswith("column 'img' leads out of the images' folder (--images): name a file in it")
    assert summary.errors == {"InputError": len(bad) + 1}
    with pytest.raises(ConfigurationError, match="images' folder .*nowhere' is not there"):
        await bulk(source, tmp_path / "other.jsonl", SearchFace, images_root=tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------ several endpoints


async def several(source: Path, output: Path, calls: list[type[Call[Any]]], vendor: Vendor, **options: Any) -> Summary:
    async with client_of(vendor) as client:
        return await run_bulk(client, calls, source, output, **options)


async def test_several_endpoints_in_one_row(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    write(tmp_path / "b.jpg", picture(2))
    source = write(
        tmp_path / "in.csv",
        f"id,selfie,ktp,held,phone\nA,a.jpg,b.jpg,a.jpg,{SOME}01\nB,a.jpg,b.jpg,missing.jpg,abc\nC,,b.jpg,b.jpg,\n",
    )
    vendor = Vendor(sane)
    summary = await several(
        source,
        tmp_path / "out.csv",
        [FaceCompare, IdHolding, WhatsAppDetail],
        vendor,
        columns={"id-holding.img": "held"},
        problems=tmp_path / "mend.csv",
    )
    first, second, third = read(tmp_path / "out.csv")
    assert list(first)[5:9] == [
        "face_compare_ok",
        "face_compare_answer_similarity",
        "face_compare_answer_result",
        "face_compare_answer_raw",
    ]
    oks = [
        [row[f"{name}_ok"] for name in ("face_compare", "id_holding", "whatsapp_detail")]
        for row in read(tmp_path / "out.csv")
    ]
    assert oks == [["true", "true", "true"], ["true", "false", "false"], ["false", "true", "false"]]
    assert second["face_compare_charge"] == "free"  # the same two photos as above
    assert second["id_holding_problem"].startswith("line 3: column 'held': img ")
    assert (
        third["whatsapp_detail_problem"]
        == "line 4: column 'phone' is empty: fill it in, or delete the row in the list itself"
    )
    assert (summary.rows, summary.ok, summary.failed) == (3, 1, 2)
    assert summary.errors == {"InputError": 4}
    assert summary.tally.charged == len(vendor.requests) == 4
    mend = read(tmp_path / "mend.csv")
    assert [row["id"] for row in mend] == ["B", "C"]
    assert mend[0]["problem"].startswith("id-holding: line 3: column 'held': img ")
    assert "; whatsapp-detail: line 3: column 'phone'" in mend[0]["problem"]


async def test_the_same_names_for_one_endpoint(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", f"number\n{SOME}01\n")
    await several(source, tmp_path / "out.csv", [WhatsAppDetail], Vendor(sane))
    assert "answer_whatsapp" in read(tmp_path / "out.csv")[0]


@pytest.mark.parametrize(
    ("calls", "options", "problem"),
    [
        ([], {}, "pass a call, like FaceCompare, or several"),
        ([WhatsAppDetail, WhatsAppDetail], {}, "whatsapp-detail is named twice"),
        ([WhatsAppDetail], {"columns": {"img": "x"}}, "WhatsAppDetail has no 'img': it takes callback, number"),
        ([WhatsAppDetail], {"columns": {"id-holding.img": "x"}}, "WhatsAppDetail has no 'id-holding.img'"),
        ([WhatsAppDetail, IdHolding], {}, "has no column 'img' for img .say which with --column id-holding.img=COLUMN"),
    ],
)
async def test_endpoints_that_do_not_fit(
    tmp_path: Path, calls: list[type[Call[Any]]], options: dict[str, Any], problem: str
) -> None:
    source = write(tmp_path / "in.csv", "number,x\n")
    with pytest.raises(ConfigurationError, match=problem):
        await several(source, tmp_path / "out.csv", calls, Vendor(sane), **options)


async def test_a_row_that_was_half_asked_is_kept(tmp_path: Path) -> None:
    """One call of the row was answered, and paid for, when the run was stopped; the next row was not asked at all."""
    write(tmp_path / "a.jpg", picture(1))
    write(tmp_path / "b.jpg", picture(2))
    source = write(tmp_path / "in.csv", f"img,number\na.jpg,{SOME}01\nb.jpg,{SOME}02\n")
    asked, opened = asyncio.Event(), asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        asked.set()
        await opened.wait()
        return sane(request, number)

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        run = outputs_run(client, [SearchFace, WhatsAppDetail], source, tmp_path / "out.jsonl", concurrency=1)
        running = asyncio.create_task(run.run())
        await asked.wait()
        run.stop()
        opened.set()
        summary = await running
    [row] = jsonl(tmp_path / "out.jsonl.part")
    oks = sorted([row["search_face_ok"], row["whatsapp_detail_ok"]])
    assert oks == [False, True]
    assert {row["search_face_error"], row["whatsapp_detail_error"]} == {None, "NotSentError"}
    assert (summary.rows, summary.unsent, summary.tally.charged, len(vendor.requests)) == (1, 1, 1, 1)


def outputs_run(
    client: AsyncClient, calls: Any, source: Path, output: Path, *, concurrency: int = 2, **options: Any
) -> BulkRun:
    return BulkRun(client, calls, source, output, concurrency=concurrency, **options)


async def test_any_order(tmp_path: Path) -> None:
    """The first row waits, and the others are written."""
    gate = Gate(0, 1)
    vendor = Vendor(lambda request, number: gate.wait() if b"62813" + b"0" * 8 in request.content else ok_whatsapp())
    gate.vendor = vendor
    source = many(tmp_path, 20)
    output = tmp_path / "out.jsonl"
    async with client_of(vendor) as client:
        run = outputs_run(client, WhatsAppDetail, source, output, ordered=False)
        running = asyncio.create_task(run.run())
        while not output.with_name("out.jsonl.part").exists() or len(jsonl(tmp_path / "out.jsonl.part")) < 19:
            await asyncio.sleep(0)
        gate.opened.set()
        assert (await running).rows == 20
    numbers = [row["number"] for row in jsonl(output)]
    assert numbers[-1].endswith("3" + "0" * 8)
    assert sorted(numbers) == [row["number"] for row in read(source)]


async def test_the_first_of_two_that_ask_the_same_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever was sent: a file says the same after every run."""
    for name in ("slow.jpg", "fast.jpg"):
        write(tmp_path / name, picture(1))
    source = write(tmp_path / "in.csv", "img\nslow.jpg\nfast.jpg\nfast.jpg\nslow.jpg\n")
    real, asked, texts = images.load, threading.Event(), set()

    def load(path: Any, **options: Any) -> Any:
        if str(path).endswith("slow.jpg"):
            asked.wait(LAST_RESORT)
        return real(path, **options)

    def script(request: httpx.Request, number: int) -> httpx.Response:
        asked.set()
        return sane(request, number)

    monkeypatch.setattr(images, "load", load)
    for concurrency in (4, 1):
        vendor = Vendor(script)
        await bulk(source, tmp_path / f"{concurrency}.csv", SearchFace, vendor=vendor, concurrency=concurrency)
        assert len(vendor.requests) == 1
        texts.add((tmp_path / f"{concurrency}.csv").read_text())
    assert len(texts) == 1
    charges = [(row["charge"], row["attempts"]) for row in read(tmp_path / "4.csv")]
    assert charges == [("charged", "1"), ("free", "0"), ("free", "0"), ("free", "0")]


async def test_what_another_row_was_told(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", f"number\n{SOME}01\n{SOME}01\n")
    await bulk(source, tmp_path / "out.csv", vendor=Vendor(lambda request, number: httpx.Response(500)))
    first, second = read(tmp_path / "out.csv")
    assert second["problem"].endswith(f"not sent: another row asked the same, and that ended so: {first['problem']}")
    assert (first["charge"], second["charge"]) == ("unknown", "free")


# ------------------------------------------------------------------------------------------------------ the formats

TYPED = [
    {"ref": 1, "phone": f"{SOME}01", "score": 1.5, "on": True, "note": "=1+1", "more": {"a": [1]}},
    {"ref": 2, "phone": "abc", "score": 2, "on": None, "note": "ü"},
    {"ref": 3, "phone": f"{SOME}03", "score": None, "on": False, "note": "x\ny", "more": None},
]


async def test_jsonl_keeps_what_it_had(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", *TYPED)
    await bulk(source, tmp_path / "out.jsonl")
    for before, after in zip(TYPED, jsonl(tmp_path / "out.jsonl"), strict=True):
        assert {name: after[name] for name in before} == before
        assert "more" in after if "more" in before else "more" not in after
    source = lines(tmp_path / "in.jsonl", {"phone": "abc"}, {"phone": "abc", "b": None})
    await bulk(source, tmp_path / "gaps.jsonl")
    first, second = jsonl(tmp_path / "gaps.jsonl")
    assert "b" not in first
    assert second["b"] is None


async def test_parquet_has_types(tmp_path: Path) -> None:
    source = workbook(
        tmp_path / "in.xlsx",
        [["ref", "phone", "score", "note", "none"], [1, f"{SOME}01", 1.5, "=1", None], [2, "abc", 2, 7, None]],
    )
    await bulk(source, tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert types["ref"] == types["attempts"] == pa.int64()
    assert types["score"] == pa.float64()
    assert types["note"] == types["none"] == types["phone"] == types["problem"] == pa.string()
    assert types["ok"] == pa.bool_()
    first, second = table.to_pylist()
    assert (first["ref"], first["score"], first["note"], first["ok"]) == (1, 1.5, "=1", True)
    assert (second["score"], second["note"], second["error"]) == (2.0, "7", "InputError")


async def test_lists_in_parquet(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    await bulk(write(tmp_path / "in.csv", "img\na.jpg\n"), tmp_path / "out.parquet", SearchFace)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.field("answer_matches").type == pa.list_(
        pa.struct([("confidence", pa.float64()), ("person_id", pa.string())])
    )
    assert table.to_pylist()[0]["answer_matches"] == [{"confidence": 100.0, "person_id": "c5r7jedkujdbnasarhn0"}]


async def test_parquet_keeps_the_types_of_parquet(tmp_path: Path) -> None:
    columns = {
        "phone": pa.array([f"{SOME}01", None]),
        "small": pa.array([1, None], pa.int8()),
        "money": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
        "when": pa.array(
            [datetime.datetime(2026, 11, 24, 1, 2, 3, tzinfo=datetime.UTC), None], pa.timestamp("ms", "UTC")
        ),
        "tags": pa.array([["a"], None], pa.list_(pa.string())),
        "raw": pa.array([b"\xff", None], pa.binary()),
    }
    before = pa.table(columns)
    parquet.write_table(before, tmp_path / "in.parquet")
    await bulk(tmp_path / "in.parquet", tmp_path / "out.parquet")
    after = parquet.read_table(tmp_path / "out.parquet")
    assert after.select(before.schema.names).equals(before)
    await bulk(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert jsonl(tmp_path / "out.jsonl")[0]["money"] == "1.50"


async def test_row_groups_go_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "GROUP_ROWS", 7)
    await bulk(many(tmp_path, 20), tmp_path / "out.parquet")
    found = parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert [found.row_group(group).num_rows for group in range(found.num_row_groups)] == [7, 7, 6]
    found, sizes = outputs.Output(tmp_path / "more.parquet", None), []
    found.open(["a"], replace=False)
    for row in range(15):
        found.write([str(row)], [])
        sizes.append(found.part.stat().st_size)
    found.finish()
    assert len(set(sizes)) == 3  # memory holds a group at most


async def test_a_parquet_file_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file has not, is kept apart: nothing that was paid for is lost."""
    monkeypatch.setattr(encoders, "GROUP_ROWS", 10)

    append = Appender.append

    def fill(self: Any, line: bytes) -> None:
        if self._size > 4000 and line[:1] != b"{":
            raise OSError(28, "No space left on device")
        append(self, line)

    monkeypatch.setattr(Appender, "append", fill)
    vendor = Vendor(sane)
    with pytest.raises(BulkError, match="No space left on device; the run was stopped, and") as caught:
        await bulk(many(tmp_path), tmp_path / "out.parquet", vendor=vendor, concurrency=5)
    summary = caught.value.summary
    rescued = jsonl(Path(summary.rescued[0]))
    Path(summary.rescued[0]).unlink()
    assert len(rescued) % 10 != 0 or rescued
    assert summary.rows == len(vendor.requests)
    assert [row["number"] for row in rescued] == [f"+62813{n:08}" for n in range(summary.rows)][-len(rescued) :]


@pytest.mark.parametrize("output", ["-", "out.parquet"])
def test_from_and_to_streams(tmp_path: Path, output: str) -> None:
    """A pipe is read once, and its values have their types all the same."""
    source = lines(tmp_path / "in.jsonl", {"ref": 1, "phone": "+6281387300008"}, {"ref": 2, "phone": "abc"})
    command = ["-m", "aisolution_async.cli", "bulk", "whatsapp-detail", "-", "-o", output, "--sandbox", "--key", "ref"]
    reading, writing = os.pipe()
    os.write(writing, source.read_bytes())
    os.close(writing)
    with os.fdopen(reading, "rb") as given, tempfile.TemporaryFile() as printed:
        code, said = forks.run(command, stdin=given.fileno(), stdout=printed, cwd=tmp_path)
        printed.seek(0)
        results = printed.read().decode().splitlines()
    assert code == 1, said
    found = [json.loads(line) for line in results] if output == "-" else _rows(tmp_path / output)
    assert [(row["ref"], row["ok"]) for row in found] == [(1, True), (2, False)]
    if output == "-":
        assert "results         standard output" in said
        assert left(tmp_path) == {"in.jsonl"}


@pytest.mark.parametrize(
    ("encoding", "delimiter", "bom"),
    [("utf-8", ",", b""), ("utf-8", ";", b"\xef\xbb\xbf"), ("cp1252", ";", b""), ("utf-16-le", "\t", b"\xff\xfe")],
)
async def test_what_is_to_be_mended_is_as_it_came(tmp_path: Path, encoding: str, delimiter: str, bom: bytes) -> None:
    """And with it mended, only that is asked."""
    rows = [["ref", "phone", "note"], ["A", f"{SOME}01", "é"], ["B", "abc", '=1+"é";,'], ["C", "", "ü\nx"]]
    rows += [[f"D{n}", f"{SOME}1{n}", "é"] for n in range(5)]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    source = write(tmp_path / "in.csv", bom + text.getvalue().encode(encoding))
    mend, vendor = tmp_path / "mend.csv", Vendor(sane)
    options: dict[str, Any] = {"vendor": vendor, "ledger": tmp_path / "a.ledger"}
    summary = await bulk(source, tmp_path / "out.csv", problems=mend, **options)
    assert (summary.failed, summary.problems) == (2, mend)
    assert mend.read_bytes().startswith(bom)
    found = [*csv.reader(io.StringIO(mend.read_bytes()[len(bom) :].decode(encoding), newline=""), delimiter=delimiter)]
    assert [row[:3] for row in found] == [rows[0], rows[2], rows[3]]
    assert found[0][3:] == ["row", "problem"]
    assert found[1][3] == "3"
    assert "column 'phone'" in found[1][4]
    mended = mend.read_bytes()[len(bom) :].decode(encoding).replace("abc", f"{SOME}02")
    write(mend, bom + mended.encode(encoding))
    summary = await bulk(mend, tmp_path / "again.csv", problems=tmp_path / "mend2.csv", **options)
    assert (summary.ok, summary.failed, summary.tally.charged, len(vendor.requests)) == (1, 1, 1, 7)
    assert list(read(tmp_path / "again.csv", delimiter)[0])[:4] == ["ref", "phone", "note", "ok"]
    assert "problem_2" not in read(tmp_path / "again.csv", delimiter)[0]
    with Rows(tmp_path / "mend2.csv") as again:
        assert again.header == ["ref", "phone", "note", "row", "problem"]
        assert "column 'phone'" in next(iter(again)).cells[4]


async def test_what_somebody_mended_is_not_replaced(tmp_path: Path) -> None:
    source, vendor = write(tmp_path / "in.csv", f"phone\n{SOME}01\nabc\n"), Vendor(sane)
    mend = tmp_path / "mend.csv"
    options: dict[str, Any] = {"vendor": vendor, "ledger": tmp_path / "a.ledger", "problems": mend}
    for _ in range(2):
        await bulk(source, tmp_path / "out.csv", **options)  # as it was written, it may go
    results = (tmp_path / "out.csv").read_bytes()
    mended = mend.read_bytes().replace(b"abc", f"{SOME}02".encode())
    mend.write_bytes(mended)
    with pytest.raises(ConfigurationError, match=r"mend.csv' was changed since .* or say --overwrite"):
        await bulk(source, tmp_path / "other.csv", **options)  # it is of another output
    options.pop("problems")
    (tmp_path / "out.csv.run").unlink()
    with pytest.raises(ConfigurationError, match=r"out.csv' has the results of all rows, and .*mend.csv' only those"):
        await bulk(mend, tmp_path / "out.csv", **options)
    assert ((tmp_path / "out.csv").read_bytes(), mend.read_bytes()) == (results, mended)
    assert len(vendor.requests) == 1
    await bulk(source, tmp_path / "out.csv", **options, problems=mend, overwrite=True)
    assert b"abc" in mend.read_bytes()
    (tmp_path / "mend.csv.of").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"mend.csv.of' cannot be read"):
        await bulk(mend, tmp_path / "again.csv", **options)


@pytest.mark.parametrize("ending", ["jsonl", "tsv", "parquet", "xlsx"])
async def test_problems_in_other_forms(tmp_path: Path, ending: str) -> None:
    source = workbook(tmp_path / "in.xlsx", [["id", "phone"], [1, f"{SOME}01"], [2, "=1+1"], [3, 6281387300003]])
    mend = tmp_path / f"mend.{ending}"
    await bulk(source, tmp_path / "out.csv", problems=mend)
    with Rows(mend) as rows:
        [row] = rows
        assert rows.header == ["id", "phone", "row", "problem"]
    assert str(row.cells[0]) == "2"
    assert row.cells[1] == ("'=1+1" if ending == "tsv" else "=1+1")
    assert str(row.cells[2]) == "3"
    assert row.cells[3].startswith("row 3: column 'phone': ")


async def test_lines_that_are_no_json_are_told_in_full(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", f'{{"phone": "{SOME}01"}}\n{{"phone": oops\n')
    await bulk(source, tmp_path / "out.csv", problems=tmp_path / "mend.csv")
    assert [row["ok"] for row in read(tmp_path / "out.csv")] == ["true", "false"]
    assert read(tmp_path / "mend.csv")[0]["problem"].endswith('; it reads: {"phone": oops')


# ------------------------------------------------------------------------------------------------------------- dry


def nobody() -> Vendor:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        raise AssertionError("a dry run sends nothing")

    return Vendor(script)


async def test_a_dry_run(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    write(tmp_path / "no.jpg", "this is no photo")
    cells = [("a.jpg", f"{SOME}01"), ("no.jpg", f"{SOME}02"), ("a.jpg", f"{SOME}01"), ("missing.jpg", "abc")]
    source = write(tmp_path / "in.csv", "id,img,number\n" + "".join(f"{n},{a},{b}\n" for n, (a, b) in enumerate(cells)))
    prices = {"searchface": Decimal("0.10"), "gliswadetail": Decimal("0.02")}
    calls = [SearchFace, WhatsAppDetail]
    before = left(tmp_path)
    ledger, output = tmp_path / "a.ledger", tmp_path / "out.csv"
    async with client_of(nobody()) as client:
        found = await forecast_bulk(client, calls, source, output, ledger=ledger, prices=prices)
        assert (found.rows, found.failed, found.shared, found.from_ledger) == (4, 2, 2, 0)
        assert found.calls == found.charges == {"searchface": 1, "gliswadetail": 2}
        assert found.cost == Decimal("0.14")
        assert len(found.problems) == 3
        assert "line 3: img" in found.problems[0]
        assert left(tmp_path) == before
    await several(source, output, calls, Vendor(sane), ledger=ledger)
    before, content = left(tmp_path), ledger.read_bytes()
    async with client_of(nobody()) as client:
        found = await forecast_bulk(client, calls, source, output, ledger=ledger, prices=prices)
        assert (found.from_ledger, found.shared, found.calls.total(), found.cost) == (3, 2, 0, Decimal(0))
        again = await forecast_bulk(client, calls, source, output, ledger=ledger, reuse_for=0)
        assert (again.calls.total(), again.cost) == (3, None)
    assert left(tmp_path) == before
    assert ledger.read_bytes() == content


async def test_a_dry_run_knows_what_is_held(tmp_path: Path) -> None:
    source, ledger = write(tmp_path / "in.csv", f"number\n{SOME}01\n"), tmp_path / "a.ledger"
    await bulk(source, tmp_path / "out.csv", vendor=Vendor(lambda request, number: httpx.Response(500)), ledger=ledger)
    async with client_of(nobody()) as client:
        held = await forecast_bulk(client, WhatsAppDetail, source, ledger=ledger)
        sent = await forecast_bulk(client, WhatsAppDetail, source, ledger=ledger, retry_unknown=1)
    assert (held.held, held.failed, held.calls.total()) == (1, 1, 0)
    assert (sent.held, sent.calls, sent.charges) == (0, {"gliswadetail": 1}, {"gliswadetail": 2})


async def test_a_dry_run_without_a_ledger_is_never_too_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch forgets old answers, and asks again."""
    monkeypatch.setattr("aisolution_async.bulk.forecast.REMEMBERED", 2)
    numbers = ["01", "02", "03", "04", "01", "01"]
    source = write(tmp_path / "in.csv", "number\n" + "".join(f"{SOME}{n}\n" for n in numbers))
    async with client_of(nobody()) as client:
        assert (await forecast_bulk(client, WhatsAppDetail, source)).calls.total() == 5
        kept = await forecast_bulk(client, WhatsAppDetail, source, ledger=tmp_path / "a.ledger")
    assert kept.calls.total() == 4
    assert left(tmp_path) == {"in.csv"}


# ---------------------------------------------------------------------------------------- a workbook, and its faults

BROKEN: list[Any] = [
    None, "", "   ", "abc", "12", "6.28139E+12", "+62 813 8730 0008 ext 5", "0813 or 0814", "+", "?", "#REF!", "-",
    "n/a", "belum ada", 1, True, 1.5, "+1234567890123456789", "(021)", "nol delapan",
]  # fmt: skip


async def check_workbook(tmp_path: Path, count: int, broken: int) -> None:
    """Rows in are rows out, each fault is named in its row, the bill is the tally, and a second run is free."""
    every = count // broken
    rows: list[list[Any]] = [["Applicant ID", "Name", "No. HP", "Negara"]]
    for n in range(count):
        number: Any = f"0813{n:08}" if n % 3 else 62813_00000000 + n
        if n % every == 0:
            number = BROKEN[n // every % len(BROKEN)]
        rows.append([f"A-{n}", f"Name {n}", number, "ID"])
    source = workbook(tmp_path / "applicants.xlsx", rows)
    async with Sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        options: dict[str, Any] = {"ledger": tmp_path / "a.ledger", "concurrency": 100}
        summary = await run_bulk(
            client, WhatsAppDetail, source, tmp_path / "out.csv", problems=tmp_path / "mend.csv", **options
        )
        found = read(tmp_path / "out.csv")
        assert [row["Applicant ID"] for row in found] == [f"A-{n}" for n in range(count)]
        bad = {f"A-{n}" for n in range(0, count, every)}
        assert {row["Applicant ID"] for row in found if row["error"]} == bad
        for place, row in enumerate(found):
            if row["error"]:
                assert row["problem"].startswith(f"row {place + 2}: column 'No. HP'"), row
        assert {row["Applicant ID"] for row in read(tmp_path / "mend.csv")} == bad
        assert summary.errors == {"InputError": len(bad)}
        assert (sandbox.bill.charged, sandbox.bill.free) == (summary.tally.charged, summary.tally.free)
        assert sum(row["charge"] == "charged" for row in found) == summary.tally.charged
        waiting = sum(row["answer_whatsapp"] == "checking" for row in found)
        assert sum(row["ok"] == "false" for row in found) == len(bad) + waiting
        again = await run_bulk(client, WhatsAppDetail, source, tmp_path / "out.csv", overwrite=True, **options)
        assert again.tally.total == waiting
        last = await run_bulk(client, WhatsAppDetail, source, tmp_path / "out.csv", **options)
        assert (last.tally.total, last.from_ledger + last.shared, last.failed) == (0, count - len(bad), len(bad))
        assert sandbox.bill.charged == summary.tally.charged + again.tally.charged


@pytest.mark.no_cover
@pytest.mark.parametrize("rows", [700, pytest.param(10_000, marks=pytest.mark.long)])
async def test_a_workbook_with_faults(tmp_path: Path, rows: int) -> None:
    await check_workbook(tmp_path, rows, rows * 3 // 100)


# ------------------------------------------------------------------------------------------------------ killed


KILLED = """
import asyncio, sys
from aisolution_async import AsyncClient, WhatsAppDetail
from aisolution_async.bulk import run_bulk

async def main():
    async with AsyncClient(sys.argv[1], base_url=sys.argv[2]) as client:
        await run_bulk(client, WhatsAppDetail, "in.csv", sys.argv[3], ledger="a.ledger", concurrency=10, key="id")

asyncio.run(main())
"""


@pytest.mark.no_cover
@pytest.mark.parametrize(("ending", "at"), [("csv", 61), ("jsonl", 233), ("parquet", 170), ("xlsx", 90)])
async def test_killed_at_any_row(tmp_path: Path, ending: str, at: int) -> None:
    """And run again: the file is that of an unbroken run, byte for byte."""
    numbers = settled(400)
    cells = "".join(f"{n},{number},=note {n}\n" for n, number in enumerate([*numbers, *numbers[:100]]))
    source = write(tmp_path / "in.csv", f"id,number,note\n{cells}")
    output, whole = tmp_path / f"out.{ending}", tmp_path / f"whole.{ending}"
    async with Sandbox() as sandbox:
        process = await forks.begin(["-c", KILLED, sandbox.token, sandbox.url, output.name], cwd=tmp_path)
        while sandbox.bill.total < at:
            assert process.poll() is None
            await asyncio.sleep(0.001)
        process.kill()
        await process.communicate()
        assert not output.exists()
        async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
            # What was under way is held; sent again, it may be paid for twice, and no row is without its answer.
            resumed = await run_bulk(
                client, WhatsAppDetail, source, output, ledger=tmp_path / "a.ledger", retry_unknown=1, concurrency=10
            )
            assert (resumed.complete, resumed.failed, resumed.rows) == (True, 0, 500)
            assert resumed.from_ledger >= at - 10
            assert sandbox.bill.charged <= 400 + 10
            await run_bulk(client, WhatsAppDetail, source, whole, concurrency=10)
    assert output.read_bytes() == whole.read_bytes()


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    if path.suffix == ".xlsx":
        return [dict(record) for record in records(path)]
    return read(path) if path.suffix == ".csv" else jsonl(path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "xlsx"])
async def test_stopped_and_run_again(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "GROUP_ROWS", 30)
    source, output = many(tmp_path), tmp_path / f"out.{ending}"
    gate = Gate(37, 5)
    async with client_of(gate.vendor) as client:
        run = outputs_run(client, WhatsAppDetail, source, output, ledger=tmp_path / "a.ledger")
        running = asyncio.create_task(run.run())
        while gate.vendor.in_flight < 2 or len(gate.vendor.requests) < 39:
            await asyncio.sleep(0)
        run.stop()
        gate.opened.set()
        summary = await running
        assert summary.part == tmp_path / f"out.{ending}.part"
        assert not output.exists()
        if ending == "parquet":
            assert parquet.read_table(summary.part).num_rows == summary.rows
        assert (await run_bulk(client, WhatsAppDetail, source, output, ledger=tmp_path / "a.ledger")).complete
        await run_bulk(client, WhatsAppDetail, source, tmp_path / f"whole.{ending}")
    assert len(gate.vendor.requests) == 200
    assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


# ------------------------------------------------------------------------------------------------ any rows at all

TEXT = st.text(max_size=12)
VALUE = st.one_of(
    TEXT.filter(lambda text: all(not 0xD800 <= ord(char) < 0xE000 for char in text)),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(), max_size=2),
    st.just("=cmd|'/C calc'!A0"),
    st.just(f"{SOME}01"),
)


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["phone", "a", "=b"]), VALUE, min_size=1), min_size=1, max_size=8),
    said=TEXT,
)
def test_any_rows(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    """No row is lost, no cell is a formula, and nothing breaks, from JSONL to every format."""
    rows = [{"phone": None, "a": 1, "=b": 2}, *rows]
    source = write(tmp_path / "in.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    vendor = Vendor(lambda request, number: says("OK", {"whatsapp": "yes", "signature": said}))
    for ending in ("csv", "tsv", "jsonl", "parquet", "xlsx"):
        output = tmp_path / f"out.{ending}"
        summary = asyncio.run(bulk(source, output, vendor=vendor, overwrite=True, problems=tmp_path / f"mend.{ending}"))
        assert summary.rows == len(rows) == len(_everything(output))
        assert len(_everything(tmp_path / f"mend.{ending}")) == summary.failed
        if ending in ("csv", "tsv"):
            for row in _everything(output):
                assert all(defused(cell) == cell for cell in row), row
    for before, after in zip(rows, jsonl(tmp_path / "out.jsonl"), strict=True):
        assert {name: after[name] for name in before} == before


def _everything(path: Path) -> list[Any]:
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8", newline="") as file:
            return [*csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")][1:]
    return _rows(path)
