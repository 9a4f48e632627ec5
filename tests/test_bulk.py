"""Files in, files out: every row comes out, whatever is wrong with it, and nothing paid for is lost."""

from __future__ import annotations

import asyncio
import base64
import codecs
import csv
import errno
import io
import itertools
import json
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aisolution_async import (
    AddFace,
    AsyncClient,
    Call,
    Charge,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    IdHolding,
    Recheck,
    SearchFace,
    WhatsAppDetail,
    locks,
)
from aisolution_async.api import CALLS
from aisolution_async.bulk import BulkError, BulkRun, Summary, delimited, rescue, run_bulk
from aisolution_async.bulk import source as source_module
from aisolution_async.bulk.facts import count_rows
from aisolution_async.ledger import Ledger, LedgerError
from aisolution_async.sandbox import Sandbox

from .sheets import MESSAGES, Gate, bulk, fill_disk, jsonl, left, many, read, sane, write
from .support import GROUP_ID, TOKEN, Vendor, client_of, examples, flat_picture, ok_whatsapp, picture, says, virtual

AFTER = ["charge", "status", "attempts", "error", "problem"]
WHATSAPP = [
    f"answer_{name}" for name in ("whatsapp", "number", "status_update", "signature", "business_user", "avatar")
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.csv", "ref,number\nA,+6281387300001\nB,+6281387300002\nC,+6281387300003\n")


# ------------------------------------------------------------------------------------------- columns of results


@pytest.mark.parametrize(
    ("call", "cells", "columns", "answers"),
    [
        (
            FaceCompare,
            {"img1": "a.jpg", "img2": "a.jpg"},
            ["similarity", "result", "raw"],
            ["97.501", "SAME PERSON", ""],
        ),
        (IdHolding, {"img": "a.jpg"}, ["similarity", "result", "raw"], ["27.501", "SOMETHING NEW", ""]),
        (AddFace, {"img": "a.jpg"}, ["person_id", "person_count"], ["c5r7jedkujdbnasarhn0", "3"]),
        (
            SearchFace,
            {"img": "a.jpg"},
            ["matches", "raw"],
            ['[{"confidence": 100.0, "person_id": "c5r7jedkujdbnasarhn0"}]', ""],
        ),
        (DeleteFace, {"person_id": "c5r7jedkujdbnasarhn0"}, [], []),
        (
            WhatsAppDetail,
            {"number": "081387300008"},
            ["whatsapp", "number", "status_update", "signature", "business_user", "avatar", "raw"],
            ["yes", "081387300008", "20180825", "", "", "no", ""],
        ),
    ],
)
async def test_columns_by_endpoint(
    tmp_path: Path, call: type[Call[Any]], cells: dict[str, str], columns: list[str], answers: list[str]
) -> None:
    """The names are an interface: they change with a version number, not by accident."""
    write(tmp_path / "a.jpg", picture(1))
    source = write(tmp_path / "in.csv", f"{','.join(cells)}\n{','.join(cells.values())}\n")
    charged = "free" if call.endpoint.never_charges else "charged"
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        output = tmp_path / f"out.{ending}"
        summary = await bulk(source, output, call)
        [row] = read(output, delimiter)
        assert list(row) == [*cells, "ok", *(f"answer_{name}" for name in columns), *AFTER]
        assert list(row.values()) == [*cells.values(), "true", *answers, charged, "OK", "1", "", ""]
        assert (summary.rows, summary.ok, summary.failed, summary.output) == (1, 1, 0, output)
    await bulk(source, tmp_path / "out.jsonl", call)
    [typed] = jsonl(tmp_path / "out.jsonl")
    assert list(typed) == list(row)
    assert (typed["ok"], typed["attempts"], typed["error"]) == (True, 1, None)
    for name in ("out.csv", "out.tsv", "out.jsonl"):
        assert GROUP_ID not in (tmp_path / name).read_text()
        assert TOKEN not in (tmp_path / name).read_text()


def test_every_endpoint_is_in_that_test() -> None:
    assert set(MESSAGES) == {call.endpoint.name for call in CALLS}


async def test_typed_values_in_jsonl(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    await bulk(write(tmp_path / "in.csv", "img\na.jpg\n"), tmp_path / "out.jsonl", SearchFace)
    [row] = jsonl(tmp_path / "out.jsonl")
    assert row["answer_matches"] == [{"confidence": 100.0, "person_id": "c5r7jedkujdbnasarhn0"}]


async def test_input_columns_keep_their_names(tmp_path: Path) -> None:
    text = "number,ok,charge,charge_2,answer_whatsapp\n+6281387300001,x,y,z,w\n"
    await bulk(write(tmp_path / "in.csv", text), tmp_path / "out.csv")
    [row] = read(tmp_path / "out.csv")
    assert list(row)[:5] == ["number", "ok", "charge", "charge_2", "answer_whatsapp"]
    assert (row["ok"], row["charge"], row["charge_2"], row["answer_whatsapp"]) == ("x", "y", "z", "w")
    assert (row["ok_2"], row["charge_3"], row["answer_whatsapp_2"]) == ("true", "charged", "yes")


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\rx", "'\rx"),
        (" =1+1", "' =1+1"),
        ("|calc", "'|calc"),
        ("%1", "'%1"),
        ("\ufe621", "'\ufe621"),
        ("\ufe631", "'\ufe631"),
        ("\ufe661+1", "'\ufe661+1"),
        ("\ufe6bA1", "'\ufe6bA1"),
        ("\uff5ccalc", "'\uff5ccalc"),
        ("\u22121+1", "'\u22121+1"),
        ("\u207a1+1", "'\u207a1+1"),
        (" \u200b|calc", "' \u200b|calc"),
        ("a|b", "a|b"),
        ("50%", "50%"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("+6281387300008", "+6281387300008"),
        ("12", "12"),
        ("-12.5", "-12.5"),
        ("-12,5e3", "-12,5e3"),
        ("+62-813", "'+62-813"),
        ("\ufeff=1", "'\ufeff=1"),
        ("\0=1", "'\0=1"),
        ("Saya suka global", "Saya suka global"),
        ('a\0b\nc\rd"e,f', 'a\0b\nc\rd"e,f'),
    ],
)
async def test_formulas_are_defused(tmp_path: Path, said: str, written: str) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        return says("OK", {"whatsapp": "yes", "signature": said})

    source = write(tmp_path / "in.csv", "number,note\n+6281387300001,=2+2\n")
    await bulk(source, tmp_path / "out.csv", vendor=Vendor(script))
    [row] = read(tmp_path / "out.csv")
    assert row["answer_signature"] == written
    assert row["note"] == "'=2+2"
    await bulk(source, tmp_path / "bare.csv", vendor=Vendor(script), defuse=False)
    [row] = read(tmp_path / "bare.csv")
    assert (row["note"], row["answer_signature"]) == ("=2+2", said)
    await bulk(source, tmp_path / "out.jsonl", vendor=Vendor(script))
    [typed] = jsonl(tmp_path / "out.jsonl")
    assert (typed["note"], typed["answer_signature"]) == ("=2+2", said)


@pytest.mark.parametrize(
    ("number", "is_kept"),
    [
        ("+62 813 8730 0001", True),
        ("+62\xa0813\xa08730\xa00001", True),
        (" +62 813 8730 0001", True),
        ("+62 (813) 8730-0001", True),
        ("+62(813)87300001", True),
        ("+62 813-8730-0001", True),
        ("+62.813.8730.0001", True),
        ("+62-813-8730-0001", False),  # a spreadsheet reckons it out
        ("+62 -813 - 87300001", False),
        ("+(62)-81387300001", False),
        ("+62 813 8730 0001+1", False),
        ("+62 813 8730 0001|calc", False),
        ("-62 813 8730 0001", False),
    ],
)
async def test_a_phone_number_of_the_list_stays_as_it_is(tmp_path: Path, number: str, is_kept: bool) -> None:
    """People look rows up by it. Where a spreadsheet would make a formula of it, it has its apostrophe."""
    source = write(tmp_path / "in.csv", f"number,+62 8\n{number},\n")
    await bulk(source, tmp_path / "out.csv")
    [row] = read(tmp_path / "out.csv")
    assert row["number"] == (number if is_kept else f"'{number}")
    assert "'+62 8" in row  # as in every version

    def script(request: httpx.Request, count: int) -> httpx.Response:
        return says("OK", {"whatsapp": "yes", "signature": number})

    write(source, "number\n081387300001\n")
    await bulk(source, tmp_path / "answers.csv", vendor=Vendor(script), values={"country": "ID"})
    [row] = read(tmp_path / "answers.csv")
    assert row["answer_signature"] == f"'{number}"


async def test_answers_beside_a_number_that_had_an_apostrophe_are_taken_over(tmp_path: Path) -> None:
    """Earlier versions put one before each of them."""
    source, number = write(tmp_path / "in.csv", "number\n+62 813 8730 0001\n"), "+62 813 8730 0001"
    await bulk(source, tmp_path / "out.csv")
    part = write(tmp_path / "out.csv.part", (tmp_path / "out.csv").read_bytes().replace(b"+62", b"'+62"))
    (tmp_path / "out.csv").unlink()
    vendor = Vendor(sane)
    summary = await bulk(source, tmp_path / "out.csv", vendor=vendor, rescued=[part])
    assert (summary.ok, vendor.requests) == (1, [])
    assert [row["number"] for row in read(tmp_path / "out.csv")] == [number]


@pytest.mark.parametrize(
    ("name", "encoding", "is_marked"),
    [
        ("in.csv", "cp1252", True),
        ("in.tsv", "cp1252", True),
        ("in.csv", "utf-16", True),
        ("in.csv", "utf-16-le", True),
        ("in.csv", "utf-8-sig", True),
        ("in.tsv", "utf-8-sig", True),
        ("in.csv", "utf-8", False),
        ("in.tsv", "utf-8", False),
        ("in.jsonl", "utf-8", False),
    ],
)
async def test_results_are_marked_as_utf_8_for_who_has_a_list_that_excel_wrote(
    tmp_path: Path, name: str, encoding: str, is_marked: bool
) -> None:
    between = "\t" if name == "in.tsv" else ","
    text = f"number{between}name\n+6281387300001{between}José Muñoz\n"
    if name == "in.jsonl":
        text = '{"number": "+6281387300001", "name": "José Muñoz"}\n'
    source, output = write(tmp_path / name, text.encode(encoding)), tmp_path / "out.csv"
    await bulk(source, output)
    assert output.read_bytes().startswith(codecs.BOM_UTF8) is is_marked
    [row] = read(output)
    assert row["name"] == "José Muñoz"
    await bulk(source, output, ledger=tmp_path / "a.ledger", overwrite=True)
    assert (await bulk(source, output, ledger=tmp_path / "a.ledger")).ok == 1  # it is known again


async def test_who_names_the_encoding_of_a_plain_list_has_plain_results(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "number\n+6281387300001\n")
    for encoding, mark in (("ascii", b""), ("cp1252", codecs.BOM_UTF8)):
        await bulk(source, tmp_path / f"{encoding}.csv", encoding=encoding)
        assert (tmp_path / f"{encoding}.csv").read_bytes()[:3] == (mark or b"num")


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o177])
async def test_who_may_read_the_files(tmp_path: Path, mask: int) -> None:
    """What has problems, and what was recorded: its owner alone, whatever the umask; the results: as the umask says."""
    source = write(tmp_path / "in.csv", "number\n+6281387300001\nx\n")
    before = os.umask(mask)
    try:
        await bulk(source, tmp_path / "out.csv", problems=tmp_path / "mend.csv", ledger=tmp_path / "the.ledger")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path != source}
    assert modes.pop("out.csv") == 0o666 & ~mask
    assert modes.keys() >= {"mend.csv", "mend.csv.of", "the.ledger"}
    assert set(modes.values()) == {0o600}


async def test_result_cells_are_not_cut_at_other_separators(tmp_path: Path) -> None:
    """Where cells are separated by semicolons, or tabs, a spreadsheet may take what is behind one for a formula."""
    said = ["abc;=HYPERLINK(0)", "abc\t=1+1"]
    vendor = Vendor(lambda request, number: says("OK", {"whatsapp": "yes", "signature": said[number]}))
    source = write(tmp_path / "in.csv", "number\n+6281387300001\n+6281387300002\n")
    await bulk(source, tmp_path / "out.csv", vendor=vendor, concurrency=1)
    text = (tmp_path / "out.csv").read_text()
    assert all(f',"{signature}",' in text for signature in said)
    assert [row["answer_signature"] for row in read(tmp_path / "out.csv")] == said


async def test_an_answer_that_does_not_fit_is_kept(source: Path, tmp_path: Path) -> None:
    """It may have been paid for."""

    def script(request: httpx.Request, number: int) -> httpx.Response:
        return says("OK", {"similarity": 50, "group_id": GROUP_ID})

    await bulk(source, tmp_path / "out.csv", vendor=Vendor(script))
    for row in read(tmp_path / "out.csv"):
        assert (row["ok"], row["charge"], row["error"]) == ("false", "unknown", "OutcomeUnknownError")
        assert row["answer_raw"] == '{"similarity": 50}'


async def test_an_answer_that_cannot_be_read_is_kept(source: Path, tmp_path: Path) -> None:
    """Also where a later run finds it held."""
    body = '{"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON",}}'
    vendor = Vendor(lambda request, number: httpx.Response(200, content=body))
    for name in ("out.csv", "again.csv"):
        await bulk(source, tmp_path / name, vendor=vendor, ledger=tmp_path / "ledger")
        for row in read(tmp_path / name):
            assert (row["ok"], row["charge"], row["error"]) == ("false", "unknown", "OutcomeUnknownError")
            assert json.loads(row["answer_raw"]) == body


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
async def test_a_token_that_is_echoed_stays_out(tmp_path: Path, ending: str) -> None:
    """Raw or quoted, in an answer that fits or not, from the vendor or from the ledger."""
    quoted = quote(TOKEN, safe="")
    answers: list[dict[str, Any]] = [
        {"echo": f"https://vendor.example/v1/gliswadetail?token={quoted}", TOKEN: [TOKEN]},
        {"number": f"+62 {TOKEN}", "whatsapp": "yes", "signature": f"a {TOKEN} b {quoted}"},
        {"whatsapp": f"{TOKEN} "},
    ]

    def script(request: httpx.Request, number: int) -> httpx.Response:
        # An escape that is no need of JSON's, but may be in it.
        said = json.dumps({"status": "OK", "message": answers[number]}).replace("/", "\\/")
        return httpx.Response(200, content=said)

    source = write(tmp_path / "in.csv", "number\n+6281387300001\n+6281387300002\n+6281387300003\n")
    output, vendor, texts = tmp_path / f"out.{ending}", Vendor(script), []
    for _ in range(2):
        await bulk(source, output, vendor=vendor, ledger=tmp_path / "ledger", concurrency=1)
        texts.append(output.read_text(encoding="utf-8"))
    for text in texts:
        assert not any(secret in text for secret in (TOKEN, quoted, json.dumps(TOKEN)[1:-1]))
        assert "a … b …" in text
    assert "token=…" in texts[0]
    assert "+62 …" in texts[0]


# ---------------------------------------------------------------------------------------------- against a vendor


async def test_bill_and_tally_agree(tmp_path: Path) -> None:
    numbers = [f"+62813{n:08}" if n % 9 else ("", "6.28E+12", "abc")[n // 9 % 3] for n in range(400)]
    source = write(tmp_path / "in.csv", "n,phone\n" + "".join(f"{n},{phone}\n" for n, phone in enumerate(numbers)))
    async with Sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        summary = await run_bulk(
            client,
            WhatsAppDetail,
            source,
            tmp_path / "out.csv",
            columns={"number": "phone"},
            values={"country": "ID"},
            key="n",
            concurrency=20,
        )
        assert summary.tally == sandbox.bill == client.tally
    found = read(tmp_path / "out.csv")
    assert [row["n"] for row in found] == [str(n) for n in range(400)]
    bad = [not (n % 9) for n in range(400)]
    assert [row["error"] == "InputError" for row in found] == bad
    checking = [row for row in found if row["answer_whatsapp"] == "checking"]
    assert all(row["ok"] == "false" and "still checking" in row["problem"] for row in checking)
    assert [row["ok"] for row in found].count("true") == summary.ok == 400 - sum(bad) - len(checking)
    assert (summary.rows, summary.failed, summary.errors) == (400, sum(bad), {"InputError": sum(bad)})
    assert sum(row["charge"] == "charged" for row in found) == summary.tally.charged
    assert found[0]["problem"] == "line 2: column 'phone' is empty: fill it in, or delete the row in the list itself"
    assert found[9]["problem"].startswith("line 11: column 'phone': number was shortened by a spreadsheet")
    assert found[18]["problem"].startswith("line 20: column 'phone': number is no phone number")
    assert summary.seconds > 0
    assert summary.complete


async def test_the_same_question_is_asked_once(tmp_path: Path) -> None:
    vendor = Vendor(sane)
    source = write(tmp_path / "in.csv", "number,note\n+6281387300001,a\n+6281387300001,b\n")
    summary = await bulk(source, tmp_path / "out.csv", vendor=vendor)
    first, second = read(tmp_path / "out.csv")
    assert (len(vendor.requests), summary.tally.charged, summary.ok) == (1, 1, 2)
    assert (first["charge"], first["attempts"]) == ("charged", "1")
    assert (second["charge"], second["attempts"], second["status"]) == ("free", "0", "the same as line 2")
    assert second["answer_whatsapp"] == first["answer_whatsapp"] == "yes"


async def test_images(tmp_path: Path) -> None:
    """Paths are relative to the file, whatever the current directory; or the image stands in the cell."""
    folder = tmp_path / "a.list"  # without a dot it might be base64, and would not be shown
    folder.mkdir()
    write(folder / "a.jpg", picture(1))
    write(tmp_path / "b.jpg", picture(2))
    write(folder / "flat.jpg", flat_picture())
    write(folder / "text.jpg", "this is a letter, and no photo")
    write(folder / "empty.jpg", b"")
    write(folder / "huge.jpg", picture(1) + bytes(20_000_000))
    tiny = base64.b64encode(picture(3, (8, 8), quality=1)).decode()
    big = base64.b64encode(picture(1, (800, 600))).decode()
    assert len(tiny) < 4096 < len(big)
    named = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(4)).decode()
    cells = [
        ("a.jpg", True, ""),
        (f" {tmp_path / 'b.jpg'} ", True, ""),
        ("../b.jpg", True, ""),
        (tiny, True, ""),
        (big, True, ""),
        (f"data:image/jpeg;base64,{tiny}", True, ""),
        ("missing.jpg", False, "line 8: column 'photo': img 'FOLDER/missing.jpg' does not exist: check the path"),
        (".", False, "line 9: column 'photo': img 'FOLDER' is a directory: name an image file in it"),
        (
            "text.jpg",
            False,
            "line 10: column 'photo': img 'FOLDER/text.jpg' is not an image but text: name a JPEG or PNG",
        ),
        ("empty.jpg", False, "line 11: column 'photo': img 'FOLDER/empty.jpg' is empty: there is no image to send"),
        (
            "huge.jpg",
            False,
            "line 12: column 'photo': img 'FOLDER/huge.jpg' is 19.1 MiB, over the limit of 2 MiB",
        ),
        ("", False, "line 13: column 'photo' is empty: fill it in, or delete the row in the list itself"),
        (f"{big}*", False, f"line 14: column 'photo': img is text of {len(big) + 1} characters, too long for a path"),
        ("flat.jpg", False, "searchface: FACE_DETECT_FAILED: no face was found on the photo; use another one"),
        (named, False, "line 16: column 'photo' decodes as a base64 image and also names a file: put './' before"),
    ]
    write(folder / named, picture(1))
    source = write(folder / "in.csv", "photo\n" + "".join(f'"{cell}"\n' for cell, *_ in cells))
    async with Sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        await run_bulk(client, SearchFace, source, tmp_path / "out.csv", columns={"img": "photo"})
        assert sandbox.bill == client.tally
    for row, (cell, ok, problem) in zip(read(tmp_path / "out.csv"), cells, strict=True):
        assert row["photo"] == cell
        if cell:
            assert (row["ok"] == "true") is ok, (cell[:40], row["problem"])
            assert row["problem"].replace(str(folder), "FOLDER").startswith(problem)
            assert "\n" not in row["problem"]


# --------------------------------------------------------------------------------------------------- rows in


async def test_what_files_may_be_like(tmp_path: Path) -> None:
    text = (
        "\ufeffref,number,note\r\n"
        'A,+6281387300001,"he said ""hi"", twice"\r\n'
        "\r\n"
        'B,+6281387300002,"two\r\nlines"\r\n'
        '"C,c",+6281387300003,\r\n'
        "D,,last line without an end"
    )
    await bulk(write(tmp_path / "in.csv", text), tmp_path / "out.csv", key="ref")
    found = read(tmp_path / "out.csv")
    assert [(row["ref"], row["note"]) for row in found] == [
        ("A", 'he said "hi", twice'),
        ("B", "two\r\nlines"),
        ("C,c", ""),
        ("D", "last line without an end"),
    ]
    assert [row["ok"] for row in found] == ["true", "true", "true", "false"]
    assert found[3]["problem"].startswith("line 7: column 'number' is empty")


async def test_tab_separated(tmp_path: Path) -> None:
    source = write(tmp_path / "in.tsv", "number\tnote\n+6281387300001\ta,b\n")
    await bulk(source, tmp_path / "out.tsv")
    assert read(tmp_path / "out.tsv", "\t")[0]["note"] == "a,b"


async def test_rows_that_cannot_be_used_are_rows_all_the_same(tmp_path: Path) -> None:
    text = (
        b"ref,number,name\n"
        b"A,+6281387300001,ok\n"
        b"B,+6281387300002\n"
        b"C,+6281387300003,Jalan 1, Jakarta\n"
        b"D,+6281387300004,Jos\xe9\n"
        b"E,+6281387300005,\xc3\xa9\n"
        b'F,"+6281387300006,x\n'
        b'G,+6281387300007",y,z,1\n'
        b'H,+6281387300008,"never closed\n'
        b"I,+6281387300009,swallowed\n"
    )
    vendor = Vendor(sane)
    summary = await bulk(write(tmp_path / "in.csv", text), tmp_path / "out.csv", vendor=vendor, key="ref")
    found = read(tmp_path / "out.csv")
    assert [row["problem"] for row in found] == [
        "",
        "",
        "line 4: 4 cells where the header has 3: a cell with a comma in it needs quotes around it; "
        "1 more cell: ' Jakarta'",
        "",
        "",
        "line 7: 5 cells where the header has 3: the row goes on to line 8: is a quote left open?; "
        "2 more cells: 'z', '1'",
        "line 9: a quote is opened here and never closed: close it, or remove it",
    ]
    assert {row["error"] for row in found} == {"", "InputError"}
    assert summary.failed == 3
    assert len(vendor.requests) == 4
    assert found[1]["name"] == ""
    # The bytes are those of the input.
    assert found[3]["name"].encode("utf-8", "surrogateescape") == b"Jos\xe9"
    assert b"D,+6281387300004,Jos\xe9,true" in (tmp_path / "out.csv").read_bytes()
    assert found[6]["name"] == "never closed\nI,+6281387300009,swallowed\n"
    await bulk(tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert jsonl(tmp_path / "out.jsonl")[3]["name"] == "Jos\udce9"


@pytest.mark.parametrize(
    ("surplus", "shown"),
    [
        (["zzz", "y"], "2 more cells: 'zzz', 'y'"),
        (["x" * 40, "y" * 41], f"2 more cells: '{'x' * 40}', '{'y' * 39}…'"),
        (["z"] * 21, "21 more cells: " + "'z', " * 20 + "…"),
        (["a\nb", '"never closed'], "2 more cells: 'a\\nb', 'never closed\\n'"),
    ],
)
async def test_surplus_cells_are_not_lost(tmp_path: Path, surplus: list[str], shown: str) -> None:
    cells = ",".join(f'"{cell}"' if "\n" in cell else cell for cell in surplus)
    await bulk(write(tmp_path / "in.csv", f"number\n+6281387300001,{cells}\n"), tmp_path / "out.csv")
    [row] = read(tmp_path / "out.csv")
    assert row["number"] == "+6281387300001"
    assert row["problem"].endswith(f"; {shown}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "cells"),
    [
        (["phone", "6281234567", "", "6281234568", ""], ["6281234567", "", "6281234568"]),
        (["", "phone", "", "", "6281234567"], ["", "", "6281234567"]),
        (["phone", "6281234567", "", ""], ["6281234567"]),
        (["phone", "6281234567", "", "", ""], ["6281234567", ""]),
        (["phone", '"6281', "", '1"', ""], ["6281\n\n1"]),
        (["phone,note", "6281234567,", "", "6281234568,", ""], ["6281234567", "6281234568"]),
    ],
)
async def test_blank_lines(tmp_path: Path, lines: list[str], cells: list[str], end: str) -> None:
    """Of one column they are rows, and so is every one but the last."""
    source = write(tmp_path / "in.csv", end.join(lines))
    await bulk(source, tmp_path / "out.csv", columns={"number": "phone"})
    found = read(tmp_path / "out.csv")
    assert [row["phone"] for row in found] == [cell.replace("\n", end) for cell in cells]
    first = lines.index("phone") + 2 if "phone" in lines else 0
    for number, row in enumerate(found):
        if not row["phone"]:
            assert row["problem"].startswith(f"line {first + number}: column 'phone' is empty")
    assert count_rows(source, threading.Event()) == len(found)


NO_NUMBER = "'IN': no column looks like a phone number (say which with --number COLUMN): these are the columns:"
MUST = ", and must name the columns"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("in.csv", b"", "'IN' is empty: its first line must name the columns"),
        ("in.csv", b"\n\r\n", "'IN' is empty: its first line must name the columns"),
        ("in.csv", b"\xef\xbb\xbf", "'IN' is empty: its first line must name the columns"),
        ("in.csv", b"ref,fon\nA,1\n", f"{NO_NUMBER} 'ref', 'fon'"),
        ("in.csv", b"A,+62 813-8730-0008\n", f"{NO_NUMBER} 'A', …; the first line looks like data{MUST}"),
        ("in.csv", b'number,"b\n1,2\n', "line 1 of 'IN': a quote is opened and never closed"),
        ("in.csv", None, "the input 'IN' does not exist: check the path"),
        ("a\0b.csv", None, "the input 'IN' cannot be read (ValueError)"),
    ],
)  # fmt: skip
async def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    vendor = Vendor(sane)
    source = tmp_path / name
    if content is not None:
        write(source, content)
    before = left(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        await bulk(source, tmp_path / "out.csv", vendor=vendor)
    assert str(caught.value).replace(repr(str(source)), "'IN'") == problem
    assert left(tmp_path) == before
    assert not vendor.requests


async def test_a_directory_or_a_secret_file_as_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.csv").mkdir()
    with pytest.raises(ConfigurationError, match="is a directory: name a file in it"):
        await bulk(tmp_path / "in.csv", tmp_path / "out.csv")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything
    with pytest.raises(ConfigurationError, match="may not be read: check the file's permissions"):
        await bulk(tmp_path / "other.csv", tmp_path / "out.csv")


async def test_a_header_and_nothing_else(tmp_path: Path) -> None:
    summary = await bulk(write(tmp_path / "in.csv", "number\r\n"), tmp_path / "out.csv")
    assert (summary.rows, summary.complete) == (0, True)
    assert (tmp_path / "out.csv").read_text().split("\n") == [
        ",".join(["number", "ok", *WHATSAPP, "answer_raw", *AFTER]),
        "",
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"key": "id"}, "has no column 'id' for the key: its columns are 'ref', 'number'"),
        (
            {"columns": {"phone": "ref"}},
            "WhatsAppDetail has no 'phone': it takes callback, number, country, servstatus",
        ),
        ({"columns": {"country": "ref"}, "values": {"country": "ID"}}, "country comes from a column or is one value"),
        ({"columns": {"servstatus": "ref"}}, "servstatus comes from a column or is one value for all rows, not both"),
        ({"values": {"country": "Indonesia"}}, "country is no two-letter country code"),
        ({"values": {"callback": "nowhere"}}, "callback is no http"),
        ({"concurrency": 0}, "concurrency must be a whole number"),
    ],
)
async def test_options_that_do_not_fit(source: Path, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    vendor = Vendor(sane)
    with pytest.raises(ConfigurationError) as caught:
        await bulk(source, tmp_path / "out.csv", vendor=vendor, **options)
    assert problem in str(caught.value)
    assert left(tmp_path) == {"in.csv"}
    assert not vendor.requests


async def test_an_optional_column_may_be_empty(tmp_path: Path) -> None:
    vendor = Vendor(sane)
    source = write(tmp_path / "in.csv", "number,land\n081387300008,ID\n081387300009,\n081387300009,Java\n")
    await bulk(source, tmp_path / "out.csv", vendor=vendor, columns={"country": "land"})
    assert sorted(b"country=ID" in request.content for request in vendor.requests) == [False, True]
    assert read(tmp_path / "out.csv")[2]["problem"].startswith("line 4: column 'land': country is no two-letter")


async def test_one_image_for_all_rows(tmp_path: Path) -> None:
    vendor = Vendor(sane)
    write(tmp_path / "a.jpg", picture(1))
    write(tmp_path / "b.jpg", picture(3))
    source = write(tmp_path / "in.csv", "img2\na.jpg\nb.jpg\n")
    summary = await bulk(source, tmp_path / "out.csv", FaceCompare, vendor=vendor, values={"img1": picture(2)})
    assert (summary.ok, len(vendor.requests)) == (2, 2)


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    limit = csv.field_size_limit(1000)
    monkeypatch.setattr(source_module, "MAX_CELL", 1000)
    monkeypatch.setattr(source_module, "MAX_LINE", 3000)
    yield
    csv.field_size_limit(limit)


@pytest.mark.usefixtures("small_cells")
@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        (f'C,"{"x" * 1001}"\nD,4\n', "field larger than field limit (1000); is a quote left open there?"),
        (f"C,{'x' * 5000}\nD,4\n", "a line of more than 3000 characters; is a quote left open there?"),
    ],
)
async def test_an_input_that_cannot_be_read_to_its_end(tmp_path: Path, rest: str, problem: str) -> None:
    """The rows before it have been asked and paid for: they are kept, and the run says why it stopped."""
    source = write(tmp_path / "in.csv", f"ref,number\nA,+6281387300001\nB,+6281387300002\n{rest}")
    with pytest.raises(BulkError) as caught:
        await bulk(source, tmp_path / "out.csv")
    assert str(caught.value) == f"{str(source)!r} cannot be read on from line 4: {problem}"
    assert (caught.value.summary.rows, caught.value.charge) == (2, Charge.CHARGED)
    assert caught.value.summary.part == tmp_path / "out.csv.part"
    assert left(tmp_path) == {"in.csv", "out.csv.part"}
    assert [row["ref"] for row in read(tmp_path / "out.csv.part")] == ["A", "B"]
    assert count_rows(source, threading.Event()) is None


@pytest.mark.usefixtures("small_cells")
async def test_a_header_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read on from line 1: field larger"):
        await bulk(write(tmp_path / "in.csv", "x" * 2000), tmp_path / "out.csv")


async def test_a_disk_that_fails_while_reading(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self) -> None:
            self._lines = iter(source.read_text().splitlines(keepends=True)[:3])

        def readline(self, size: int) -> str:
            for line in self._lines:
                return line
            raise OSError(errno.EIO, "Input/output error")

        def close(self) -> None:
            """Nothing is open."""

    real = delimited.open_text

    def failing(*arguments: Any, **options: Any) -> Any:
        file, *rest = real(*arguments, **options)
        file.close()
        return (Failing(), *rest)

    monkeypatch.setattr(delimited, "open_text", failing)
    with pytest.raises(BulkError, match="cannot be read on from line 4: Input/output error") as caught:
        await bulk(source, tmp_path / "out.csv")
    assert caught.value.summary.rows == 2


def test_count_rows(source: Path) -> None:
    given_up = threading.Event()
    assert count_rows(source, given_up) == 3
    given_up.set()
    assert count_rows(source, given_up) is None


# --------------------------------------------------------------------------------------------------- rows out


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (
            "out.xls",
            "the output 'OUT' must end in .xlsx, .csv, .tsv, .jsonl, .ndjson, .parquet: that says the format "
            "(a spreadsheet opens .xlsx)",
        ),
        ("out", "the output 'OUT' must end in .xlsx, .csv, .tsv, .jsonl, .ndjson, .parquet: that says the format"),
        ("folder.csv", "the output 'OUT' is a directory: name a file in it"),
        ("nowhere/out.csv", "the output's folder 'FOLDER/nowhere' does not exist: make it first"),
        ("in.csv", "the output 'OUT' is the input: give it another name"),
        ("link.csv", "the output 'OUT' is the input: give it another name"),
        ("fifo.csv", "the output 'OUT' is not a regular file: give it another name"),
        ("old.csv", "'OUT' exists already and may hold results of an earlier run: move it away, or say --overwrite"),
        (
            "stopped.csv",
            "'OUT.part' exists already and may hold what a stopped run had: say --rescued 'OUT.part' to take its "
            "answers over, move it away, or say --overwrite",
        ),
        ("x" * 300 + ".csv", "the output 'OUT' cannot be written: File name too long"),
    ],
)
async def test_outputs_that_cannot_be_written(source: Path, tmp_path: Path, output: str, problem: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(source)
    os.mkfifo(tmp_path / "fifo.csv")
    write(tmp_path / "old.csv", "paid for")
    write(tmp_path / "stopped.csv.part", "paid for too")
    before = left(tmp_path)
    vendor = Vendor(sane)
    with pytest.raises(ConfigurationError) as caught:
        await bulk(source, tmp_path / output, vendor=vendor)
    assert str(caught.value).replace(str(tmp_path / output), "OUT").replace(str(tmp_path), "FOLDER") == problem
    assert left(tmp_path) == before
    assert (tmp_path / "old.csv").read_text() == "paid for"
    assert not vendor.requests
    assert source.read_text().startswith("ref,number\n")


async def test_overwrite(source: Path, tmp_path: Path) -> None:
    write(tmp_path / "out.csv", "old")
    (tmp_path / "out.csv.part").symlink_to(write(tmp_path / "precious", "precious"))
    await bulk(source, tmp_path / "out.csv", overwrite=True)
    assert len(read(tmp_path / "out.csv")) == 3
    assert left(tmp_path) == {"in.csv", "out.csv", "precious"}
    assert (tmp_path / "precious").read_text() == "precious"
    with pytest.raises(ConfigurationError, match="is the input"):
        await bulk(source, source, overwrite=True)


@pytest.fixture
def rescues(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("rescues")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def test_a_full_disk_at_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 20)
    vendor = Vendor(sane)
    with pytest.raises(ConfigurationError, match=r"cannot be written: No space left on device; choose another place"):
        await bulk(many(tmp_path), tmp_path / "out.csv", vendor=vendor)
    assert left(tmp_path) == {"in.csv"}
    assert not vendor.requests


async def test_a_full_disk_in_the_middle(tmp_path: Path, rescues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is asked, and every answer that was paid for is somewhere."""
    fill_disk(monkeypatch, 3000)
    vendor = Vendor(sane)
    with pytest.raises(BulkError) as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", vendor=vendor, concurrency=10)
    summary = caught.value.summary
    assert left(rescues) == set()
    [rescued] = tmp_path.glob("out.csv.rescued-*.jsonl")
    assert str(caught.value) == (
        f"the output '{tmp_path}/out.csv.part' cannot be written: No space left on device; "
        f"the run was stopped, and {len(jsonl(rescued))} rows went to {rescued}: "
        "make room there first"
    )
    assert summary.rescued == [str(rescued)]
    assert stat.S_IMODE(rescued.stat().st_mode) == 0o600
    kept = [row["number"] for row in read(tmp_path / "out.csv.part")] + [row["number"] for row in jsonl(rescued)]
    assert kept == [f"+62813{n:08}" for n in range(len(kept))]
    assert len(kept) == len(vendor.requests) == summary.rows == summary.tally.charged < 100
    assert all(row["answer_whatsapp"] == "yes" for row in jsonl(rescued))
    assert left(tmp_path) == {"in.csv", "out.csv.part", rescued.name}
    assert (tmp_path / "out.csv.part").read_bytes().endswith(b"\n")  # half a row was taken back


async def test_no_disk_at_all(
    tmp_path: Path, rescues: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_disk(monkeypatch, 1500, rescue_too=True)
    vendor = Vendor(sane)
    with pytest.raises(BulkError) as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", vendor=vendor, concurrency=10)
    [beside] = tmp_path.glob("*.jsonl")
    [elsewhere] = rescues.iterdir()
    assert caught.value.summary.rescued == [str(beside), str(elsewhere), "stderr"]
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    rows = (*read(tmp_path / "out.csv.part"), *jsonl(beside), *jsonl(elsewhere), *said)
    kept = [row["number"] for row in rows]
    assert kept == [f"+62813{n:08}" for n in range(len(vendor.requests))]


async def test_no_folder_to_rescue_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    fill_disk(monkeypatch, 1500)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(BulkError) as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", concurrency=10)
    assert caught.value.summary.rescued == ["stderr"]
    assert len(capsys.readouterr().err.splitlines()) + len(read(tmp_path / "out.csv.part")) == caught.value.summary.rows


@pytest.mark.parametrize("ending", ["csv", "jsonl", "xlsx", "parquet"])
@pytest.mark.parametrize("has_ledger", [False, True])
@pytest.mark.parametrize("how", ["removed", "removed with its folder", "moved away", "replaced", "removed and stopped"])
async def test_a_part_file_that_somebody_takes_away(
    tmp_path: Path, rescues: Path, ending: str, has_ledger: bool, how: str
) -> None:
    """Rows that are paid for, and that nothing else has, are copied. No other run is said to have them."""
    source, folder = many(tmp_path, 20), tmp_path / "out"
    folder.mkdir()
    out, kept = folder / f"out.{ending}", tmp_path / "kept"
    part = Path(f"{out}.part")
    options: dict[str, Any] = {"ledger": tmp_path / "a.ledger"} if has_ledger else {}

    def answer(request: httpx.Request, number: int) -> httpx.Response:
        if number == 15:
            if how == "moved away":
                part.rename(kept)
            elif how == "removed with its folder":
                shutil.rmtree(folder)
            else:
                part.unlink()
            if how == "replaced":
                write(part, "somebody's")
            if how == "removed and stopped":
                run.stop()
        return sane(request, number)

    vendor = Vendor(answer)
    async with client_of(vendor) as client:
        run = BulkRun(client, WhatsAppDetail, source, out, concurrency=1, **options)
        if how == "removed and stopped" and has_ledger:
            summary = await run.run()
        else:
            with pytest.raises(BulkError) as caught:
                await run.run()
            summary, said = caught.value.summary, str(caught.value)
            assert ("another run writes it now" in said) == (how == "replaced")
            assert ("somebody removed its part file meanwhile, or moved it" in said) == (
                how not in ("replaced", "removed and stopped")
            )
    asked = len(vendor.requests)
    assert summary.tally.charged == asked
    assert (asked < 20) == (how == "removed and stopped")
    assert part.exists() == (how == "replaced")
    if how == "replaced":
        assert part.read_text() == "somebody's"  # what is not ours does not become the results
        part.unlink()
    assert not out.exists()
    folder.mkdir(exist_ok=True)
    if has_ledger:
        assert summary.part is None
        assert not [*rescues.iterdir(), *folder.glob("*.rescued-*.part")]
    else:
        assert summary.part is not None
        assert f"; {summary.rows} rows went to {str(summary.part)!r}" in said
        assert stat.S_IMODE(summary.part.stat().st_mode) == 0o600
        assert summary.part.parent == (rescues if how == "removed with its folder" else folder)
        options["rescued"] = [summary.part]
    again = await bulk(source, out, vendor=vendor, **options)
    assert (again.ok, len(vendor.requests)) == (20, 20)


async def test_a_part_file_that_goes_together_with_the_ledger(tmp_path: Path, rescues: Path) -> None:
    source, out, ledger = many(tmp_path, 20), tmp_path / "out.csv", tmp_path / "a.ledger"

    def answer(request: httpx.Request, number: int) -> httpx.Response:
        if number == 15:
            for file in (*tmp_path.glob("a.ledger*"), tmp_path / "out.csv.part"):
                file.unlink()
        return sane(request, number)

    vendor = Vendor(answer)
    async with client_of(vendor) as client:
        run = BulkRun(client, WhatsAppDetail, source, out, concurrency=1, ledger=ledger)
        with pytest.raises(BulkError, match=r"was removed while the run wrote it; \d+ rows went to"):
            await run.run()
    asked = len(vendor.requests)
    assert run.summary.part is not None
    named = [run.summary.part, *map(Path, run.summary.rescued)]
    done = await bulk(source, out, vendor=vendor, ledger=ledger, rescued=named)
    assert (done.ok, done.tally.charged, len(vendor.requests)) == (20, 20 - asked, 20)
    assert not [*rescues.iterdir()]


async def test_the_names_of_rescued_rows_are_safe_on_the_disk(
    tmp_path: Path, rescues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[Path, set[str]] = {}
    sync = os.fsync

    def fsync(number: int) -> None:
        for folder in (tmp_path, rescues):
            if os.path.samestat(os.fstat(number), folder.stat()):
                synced[folder] = left(folder)
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    kept = rescue.Rescue(tmp_path / "out.csv")
    kept.write(b"{}\n")
    kept.close()
    assert kept.places == [str(tmp_path / name) for name in synced[tmp_path] if name.startswith("out.csv.rescued-")]
    assert set(synced) == {tmp_path}


async def test_an_unused_rescue_file_goes(rescues: Path) -> None:
    kept = rescue.Rescue()
    kept.close()
    assert left(rescues) == set()


async def test_a_file_that_cannot_be_finished(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(BulkError, match=r"out.csv' cannot be finished: Input/output error") as caught:
        await bulk(source, tmp_path / "out.csv")
    assert caught.value.summary.part == tmp_path / "out.csv.part"
    assert left(tmp_path) == {"in.csv", "out.csv.part"}


async def test_an_output_that_appears_meanwhile(source: Path, tmp_path: Path) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        write(tmp_path / "out.csv", "somebody else's")
        return ok_whatsapp()

    with pytest.raises(BulkError, match="a file of that name has appeared meanwhile"):
        await bulk(source, tmp_path / "out.csv", vendor=Vendor(script))
    assert (tmp_path / "out.csv").read_text() == "somebody else's"
    assert len(read(tmp_path / "out.csv.part")) == 3


# ------------------------------------------------------------------------------------- a vendor that is not there


@virtual
async def test_a_vendor_that_is_not_there_is_given_up(tmp_path: Path) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    started = asyncio.get_running_loop().time()
    with pytest.raises(BulkError, match=r"^the vendor has not answered for 6\d s: .*run it again to go on$") as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", vendor=Vendor(script))
    assert 60 <= asyncio.get_running_loop().time() - started < 80
    summary = caught.value.summary
    assert summary.gave_up
    assert summary.gave_up in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert (summary.complete, caught.value.charge) == (False, Charge.FREE)


@virtual
async def test_a_vendor_that_goes_away_is_tried_for_longer(tmp_path: Path) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        if number >= 10:
            raise httpx.ConnectError("refused", request=request)
        return ok_whatsapp()

    started = asyncio.get_running_loop().time()
    with pytest.raises(BulkError, match="has not answered for 30") as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", vendor=Vendor(script), concurrency=10)
    assert 300 <= asyncio.get_running_loop().time() - started < 330
    assert caught.value.summary.ok == 10
    assert caught.value.summary.part == tmp_path / "out.csv.part"
    started = asyncio.get_running_loop().time()
    with pytest.raises(BulkError):
        await bulk(many(tmp_path), tmp_path / "two.csv", vendor=Vendor(script), concurrency=10, give_up=20)
    assert asyncio.get_running_loop().time() - started < 50


@virtual
async def test_a_vendor_that_comes_back_is_not_given_up(tmp_path: Path) -> None:
    """However often: what counts is how long it is away without a break."""
    loop = asyncio.get_running_loop()
    back, answered = loop.time() + 45, 0

    def script(request: httpx.Request, number: int) -> httpx.Response:
        nonlocal back, answered
        if loop.time() < back:
            raise httpx.ConnectError("refused", request=request)
        answered += 1
        if answered % 30 == 0:
            back = loop.time() + 45
        return ok_whatsapp()

    started = loop.time()
    summary = await bulk(many(tmp_path), tmp_path / "out.csv", vendor=Vendor(script), give_up=60)
    assert (summary.ok, summary.complete, summary.gave_up) == (100, True, None)
    assert loop.time() - started > 120


async def test_the_clients_own_hook_is_called(source: Path, tmp_path: Path) -> None:
    seen: list[Charge] = []
    async with client_of(Vendor(sane), on_attempt=lambda call, attempt: seen.append(attempt.charge)) as client:
        await run_bulk(client, WhatsAppDetail, source, tmp_path / "out.csv")
    assert seen == [Charge.CHARGED] * 3


@pytest.mark.parametrize("give_up", [-1, True, "5"])
async def test_times_to_give_up_that_cannot_be(source: Path, tmp_path: Path, give_up: Any) -> None:
    with pytest.raises(ConfigurationError, match="give_up must be seconds"):
        await bulk(source, tmp_path / "out.csv", give_up=give_up)


# ------------------------------------------------------------------------------------------------- stopped


async def test_stop_waits_for_what_is_under_way(tmp_path: Path) -> None:
    gate = Gate(20, 5)
    async with client_of(gate.vendor) as client:
        run = BulkRun(client, WhatsAppDetail, many(tmp_path), tmp_path / "out.csv", concurrency=5)
        assert run.progress is None
        running = asyncio.create_task(run.run())
        await gate.full.wait()
        run.stop()
        gate.opened.set()
        summary = await running
        assert run.progress is not None
    assert (summary.rows, summary.ok, summary.complete, summary.output) == (25, 25, False, None)
    assert summary.unsent > 0
    assert summary.part == tmp_path / "out.csv.part"
    assert left(tmp_path) == {"in.csv", "out.csv.part"}
    assert [row["number"] for row in read(summary.part)] == [f"+62813{n:08}" for n in range(25)]
    with pytest.raises(ConfigurationError, match="may hold what a stopped run had"):
        await bulk(tmp_path / "in.csv", tmp_path / "out.csv")


async def test_cancelled_without_waiting(tmp_path: Path) -> None:
    """What was in flight is in the file as what it is: unknown."""
    gate = Gate(20, 5)
    async with client_of(gate.vendor) as client:
        run = BulkRun(client, WhatsAppDetail, many(tmp_path), tmp_path / "out.csv", concurrency=5)
        running = asyncio.create_task(run.run())
        await gate.full.wait()
        run.stop()
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # not even the grace
        with pytest.raises(asyncio.CancelledError):
            await running
    summary = run.summary
    assert (summary.rows, summary.ok, summary.tally.unknown) == (25, 20, 5)
    unknown = [row for row in read(tmp_path / "out.csv.part") if row["charge"] == "unknown"]
    assert len(unknown) == 5
    assert all("may have been charged" in row["problem"] for row in unknown)


async def test_stopped_before_it_began(source: Path, tmp_path: Path) -> None:
    vendor = Vendor(sane)
    async with client_of(vendor) as client:
        run = BulkRun(client, WhatsAppDetail, source, tmp_path / "out.csv")
        run.stop()
        summary = await run.run()
    assert (summary.rows, summary.part, summary.complete) == (0, None, False)
    assert left(tmp_path) == {"in.csv"}
    assert not vendor.requests


async def test_a_closed_client(source: Path, tmp_path: Path) -> None:
    client = client_of(Vendor(sane))
    await client.aclose()
    with pytest.raises(ConfigurationError, match="the client is closed"):
        await run_bulk(client, WhatsAppDetail, source, tmp_path / "out.csv")
    assert left(tmp_path) == {"in.csv"}


async def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """Whatever kills the process, what was written is there."""
    gate = Gate(0, 5)
    # By row: the first thirty requests are not always those of the first thirty rows.
    vendor = Vendor(lambda request, _: ok_whatsapp() if int(request.content[-8:]) < 30 else gate.wait())
    gate.vendor = vendor
    async with client_of(vendor) as client:
        run = BulkRun(client, WhatsAppDetail, many(tmp_path), tmp_path / "out.jsonl", concurrency=5)
        running = asyncio.create_task(run.run())
        await gate.full.wait()
        while len(jsonl(tmp_path / "out.jsonl.part")) < 30:
            await asyncio.sleep(0)
        assert not (tmp_path / "out.jsonl").exists()
        gate.opened.set()
        assert (await running).rows == 100
    assert left(tmp_path) == {"in.csv", "out.jsonl"}


def test_charge_of_a_run_that_failed() -> None:
    summary = Summary()
    assert BulkError("x", summary).charge is Charge.FREE
    summary.tally.add("delface", Charge.UNKNOWN)
    assert BulkError("x", summary).charge is Charge.UNKNOWN


# ------------------------------------------------------------------------------------------- with a ledger


async def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    """Nothing is asked twice, and the file is that of an unbroken run, byte for byte."""
    numbers = many(tmp_path)
    await bulk(numbers, tmp_path / "whole.csv")
    gate = Gate(20, 5)
    options: dict[str, Any] = {"ledger": tmp_path / "a.ledger", "concurrency": 5}
    resumed: list[int] = []
    async with client_of(gate.vendor) as client:
        run = BulkRun(client, WhatsAppDetail, numbers, tmp_path / "out.csv", on_resume=resumed.append, **options)
        running = asyncio.create_task(run.run())
        await gate.full.wait()
        run.stop()
        gate.opened.set()
        assert (await running).rows == 25
        run = BulkRun(client, WhatsAppDetail, numbers, tmp_path / "out.csv", on_resume=resumed.append, **options)
        summary = await run.run()
        assert (summary.ok, summary.from_ledger, summary.tally.charged, summary.held) == (100, 25, 75, 0)
        assert resumed == [25]
        assert len(gate.vendor.requests) == 100
        again = await run_bulk(client, WhatsAppDetail, numbers, tmp_path / "out.csv", **options)
        assert (again.from_ledger, again.tally.total) == (100, 0)
    assert left(tmp_path) == {"in.csv", "whole.csv", "out.csv", "a.ledger"}
    vendor = Vendor(lambda request, number: ok_whatsapp())
    await bulk(numbers, tmp_path / "whole.csv", vendor=vendor, overwrite=True)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_row_is_the_same_from_the_ledger(tmp_path: Path, call: type[Call[Any]], ending: str) -> None:
    write(tmp_path / "a.jpg", picture(1))
    cells = {
        parameter.name: "a.jpg" if parameter.name.startswith("img") else "+6281387300001"
        for parameter in call.endpoint.parameters
        if parameter.required
    }
    line = ",".join(cells.values())
    source = write(tmp_path / "in.csv", f"ref,{','.join(cells)}\nA,{line}\nA,{line}\nB,{line}\n")
    vendor, output, texts = Vendor(sane), tmp_path / f"out.{ending}", set()
    for _ in range(3):
        summary = await bulk(source, output, call, vendor=vendor, key="ref", ledger=tmp_path / "ledger", concurrency=1)
        texts.add(output.read_text())
    assert len(texts) == 1
    assert GROUP_ID not in texts.pop()
    assert (summary.from_ledger, summary.shared) == ((3, 0) if call.endpoint.never_charges else (1, 2))
    assert len(vendor.requests) == (2 if call.endpoint.never_charges else 1)


@pytest.mark.parametrize("word", ["checking", "unavailable"])
async def test_what_is_not_settled_is_counted(source: Path, tmp_path: Path, word: str) -> None:
    said = ["yes", word, "no"]
    vendor = Vendor(lambda request, number: ok_whatsapp(said[number]))
    summary = await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=tmp_path / "ledger", concurrency=1)
    assert (summary.ok, summary.checking) == (2, 1)


@virtual
async def test_checking_is_waited_for(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "number\n+6281387300001\n")
    said = ["checking", "checking", "yes"]
    vendor = Vendor(lambda request, number: ok_whatsapp(said[number]))
    summary = await bulk(source, tmp_path / "out.csv", vendor=vendor, recheck=Recheck(give_up=600))
    assert [row["answer_whatsapp"] for row in read(tmp_path / "out.csv")] == ["yes"]
    assert (summary.ok, summary.checking) == (1, 0)


async def test_checking_is_asked_again(source: Path, tmp_path: Path) -> None:
    said = ["yes", "checking", "no", "yes"]
    vendor, found = Vendor(lambda request, number: ok_whatsapp(said[number])), []
    for _ in range(2):
        await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=tmp_path / "ledger", concurrency=1)
        found.append([(row["answer_whatsapp"], row["charge"]) for row in read(tmp_path / "out.csv")])
    assert found == [
        [("yes", "charged"), ("checking", "free"), ("no", "charged")],
        [("yes", "charged"), ("yes", "charged"), ("no", "charged")],
    ]


async def test_what_may_have_been_charged_is_held(source: Path, tmp_path: Path) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        if number < 3:
            raise httpx.ReadError("gone")
        return ok_whatsapp()

    vendor = Vendor(script)
    options: dict[str, Any] = {"ledger": tmp_path / "ledger", "key": "ref"}
    await bulk(source, tmp_path / "out.csv", vendor=vendor, **options)
    asked = read(tmp_path / "out.csv")
    summary = await bulk(source, tmp_path / "out.csv", vendor=vendor, **options)
    held = read(tmp_path / "out.csv")
    assert (summary.held, summary.failed, summary.tally.total, len(vendor.requests)) == (3, 3, 0, 3)
    for row, before in zip(held, asked, strict=True):
        assert row == before
        assert row["problem"] == (
            "gliswadetail: the connection broke before the answer was whole; held: it may have been charged: "
            "settle it in the ledger, or say --retry-unknown 1 to send it again"
        )
        assert (row["charge"], row["attempts"]) == ("unknown", "1")
    summary = await bulk(source, tmp_path / "out.csv", vendor=vendor, retry_unknown=1, **options)
    assert (summary.ok, summary.held, summary.tally.charged) == (3, 0, 3)


async def test_a_held_row_stays_as_it_was(tmp_path: Path) -> None:
    """Each keeps why nobody knows its answer, and the file is the same, byte for byte."""
    said = [httpx.Response(500, content=b"oops"), says("QUOTA_EXCEEDED", "ask sales"), says("OK", "yes")]
    source = write(tmp_path / "in.csv", "ref,number\nA,+6281387300001\nB,+6281387300002\nC,+6281387300003\nA,\n")
    vendor, texts = Vendor(lambda request, number: said[number]), set()
    for _ in range(2):
        await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=tmp_path / "ledger", concurrency=1)
        texts.add((tmp_path / "out.csv").read_text())
    [text] = texts
    assert len(vendor.requests) == 3
    for reason in ("HTTP 500", "QUOTA_EXCEEDED", "does not fit"):
        assert reason in text
    assert [row["problem"].count("; held: it may have been charged") for row in read(tmp_path / "out.csv")] == [
        1,
        1,
        1,
        0,
    ]


async def test_the_same_asked_twice_and_not_answered_stays_as_it_was(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "number\n+6281387300001\n+6281387300001\n")
    vendor, texts = Vendor(lambda request, number: httpx.Response(500)), set()
    for _ in range(2):
        await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=tmp_path / "ledger", concurrency=1)
        texts.add((tmp_path / "out.csv").read_text())
    assert len(texts) == 1
    assert "another row asked the same, which is held" in texts.pop()


async def test_asking_the_same_as_a_call_that_is_held(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "number\n+6281387300001\n+6281387300001\n")
    vendor = Vendor(lambda request, number: httpx.Response(500))
    for _ in range(2):
        summary = await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=tmp_path / "ledger")
        assert summary.held == 2
        found = [(row["charge"], row["attempts"]) for row in read(tmp_path / "out.csv")]
        assert found == [("unknown", "1"), ("free", "0")]
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("with_ledger", [True, False])
async def test_the_budget(source: Path, tmp_path: Path, with_ledger: bool) -> None:
    vendor = Vendor(sane)
    options: dict[str, Any] = {"ledger": tmp_path / "ledger" if with_ledger else None, "vendor": vendor}
    summary = await bulk(source, tmp_path / "out.csv", max_charges=1, concurrency=1, **options)
    assert (summary.ok, summary.over_budget, summary.complete, len(vendor.requests)) == (1, 2, True, 1)
    assert [row["error"] for row in read(tmp_path / "out.csv")] == ["", *["BudgetExhaustedError"] * 2]
    prices = {"gliswadetail": Decimal("0.05")}
    for cost, more in (("0.07", 1), ("0.15", 1)) if with_ledger else ():
        # What was spent before counts, by the prices that were known then.
        summary = await bulk(source, tmp_path / "out.csv", prices=prices, max_cost=Decimal(cost), **options)
        assert summary.tally.charged == more
    with pytest.raises(ConfigurationError, match="a limit on the cost needs the price of gliswadetail"):
        await bulk(source, tmp_path / "out.csv", max_cost=Decimal(1), overwrite=True, **options)


async def test_results_without_their_ledger(source: Path, tmp_path: Path) -> None:
    ledger, vendor = tmp_path / "ledger", Vendor(sane)
    for name in ("out.csv", "out.csv.part"):
        write(tmp_path / name, "paid for")
        with pytest.raises(ConfigurationError, match=rf"{name}' exists .* its ledger '{ledger}' is not there: move it"):
            await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=ledger)
        assert (tmp_path / name).read_text() == "paid for"
        assert not ledger.exists()
        (tmp_path / name).rename(tmp_path / "moved")
    write(tmp_path / "out.csv", "paid for")
    await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=ledger, overwrite=True)
    assert len(read(tmp_path / "out.csv")) == len(vendor.requests) == 3


async def test_answers_that_were_removed_are_not_bought_again_by_themselves(source: Path, tmp_path: Path) -> None:
    vendor, path = Vendor(sane), tmp_path / "ledger"
    await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=path)
    async with Ledger(path) as ledger:
        await ledger.purge(0)
    paid_for = (tmp_path / "out.csv").read_bytes()
    with pytest.raises(ConfigurationError, match="3 of the answers paid for are not in its ledger any more"):
        await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=path)
    assert (tmp_path / "out.csv").read_bytes() == paid_for
    assert len(vendor.requests) == 3
    await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=path, overwrite=True)
    assert len(vendor.requests) == 6


async def test_what_is_done_again_without_keys(tmp_path: Path) -> None:
    """To add a face twice is to count it twice."""
    write(tmp_path / "a.jpg", picture(1))
    source, vendor = write(tmp_path / "in.csv", "who,img\nA,a.jpg\n"), Vendor(sane)
    options: dict[str, Any] = {"vendor": vendor, "ledger": tmp_path / "ledger"}
    await bulk(source, tmp_path / "out.csv", AddFace, **options)
    with pytest.raises(ConfigurationError, match="without a column of keys all of it would be done again: move it"):
        await bulk(source, tmp_path / "out.csv", AddFace, **options)
    for _ in range(2):
        await bulk(source, tmp_path / "keyed.csv", AddFace, key="who", **options)
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("name", ["in.csv", "out.csv", "link"])
async def test_ledgers_that_are_something_else(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(source)
    before = left(tmp_path)
    with pytest.raises(ConfigurationError, match=r"is the (in|out)put: give it a file of its own"):
        await bulk(source, tmp_path / "out.csv", ledger=tmp_path / name)
    assert left(tmp_path) == before


async def test_a_ledger_that_cannot_be_used(source: Path, tmp_path: Path) -> None:
    """What a stopped run left stays as long as its ledger is not known to be good."""
    write(tmp_path / "out.csv.part", "paid for")
    write(tmp_path / "ledger", "no ledger")
    before = left(tmp_path)
    vendor = Vendor(sane)
    with pytest.raises(LedgerError, match="is no ledger, or damaged"):
        await bulk(source, tmp_path / "out.csv", vendor=vendor, ledger=tmp_path / "ledger")
    assert (tmp_path / "out.csv.part").read_text() == "paid for"
    with pytest.raises(LedgerError, match="has no folder to be in"):
        await bulk(source, tmp_path / "other.csv", vendor=vendor, ledger=tmp_path / "nowhere" / "ledger")
    assert left(tmp_path) == before
    assert not vendor.requests


@pytest.mark.parametrize("kind", ["text", "database"])
async def test_a_file_of_something_else_is_not_touched(source: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.txt"
    if kind == "text":
        write(path, "a letter " * 200)
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE x (y)")
    path.chmod(0o644)
    before, content = path.stat(), path.read_bytes()
    with pytest.raises(LedgerError, match=r"some.txt is (no ledger|a database of something else)"):
        await bulk(source, tmp_path / "out.csv", ledger=path)
    after = path.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert path.read_bytes() == content
    assert left(tmp_path) == {"in.csv", "some.txt"}


@pytest.mark.parametrize("killed", ["before it was filled", "before it was begun"])
async def test_a_ledger_that_a_killed_run_began_to_make(source: Path, tmp_path: Path, killed: str) -> None:
    path = write(tmp_path / "ledger", b"")
    if killed == "before it was filled":
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
    assert (await bulk(source, tmp_path / "out.csv", ledger=path)).ok == 3


async def test_a_ledger_that_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is sent, and the next run goes on."""
    begin, begun = Ledger.begin, 0

    async def failing(self: Ledger, ask: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun > 30:
            raise LedgerError("the disk of the ledger is full: make room there, then run again")
        return await begin(self, ask)

    monkeypatch.setattr(Ledger, "begin", failing)
    vendor = Vendor(sane)
    options: dict[str, Any] = {"ledger": tmp_path / "ledger"}
    with pytest.raises(
        BulkError, match="gliswadetail: not sent: the disk .* run again; the run was stopped$"
    ) as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", vendor=vendor, **options)
    summary = caught.value.summary
    assert summary.rows == len(vendor.requests) == 30
    assert summary.unsent > 0
    assert len(read(tmp_path / "out.csv.part")) == 30
    monkeypatch.setattr(Ledger, "begin", begin)
    assert (await bulk(many(tmp_path), tmp_path / "out.csv", vendor=vendor, **options)).from_ledger == 30
    assert len(vendor.requests) == 100


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_answers_that_the_ledger_cannot_take(
    source: Path, tmp_path: Path, rescues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept elsewhere too, and another run, which begins the output anew, takes them from there."""
    end = Ledger.end

    async def failing(self: Ledger, started: Any, result: Any) -> None:
        if started.ask.key == "B":
            raise LedgerError("the disk is full")
        await end(self, started, result)

    monkeypatch.setattr(Ledger, "end", failing)
    summary = await bulk(source, tmp_path / "out.csv", ledger=tmp_path / "ledger", key="ref")
    assert (summary.ok, summary.complete) == (3, True)
    assert left(rescues) == set()
    [rescued] = tmp_path.glob("*.jsonl")
    assert summary.rescued == [str(rescued)]
    assert [(row["ref"], row["answer_whatsapp"]) for row in jsonl(rescued)] == [("B", "yes")]
    monkeypatch.setattr(Ledger, "end", end)
    written = (tmp_path / "out.csv").read_bytes()
    again = await bulk(source, tmp_path / "out.csv", ledger=tmp_path / "ledger", key="ref")
    assert (again.held, again.ok, again.from_ledger, again.taken_back, again.tally.total) == (0, 3, 2, 1, 0)
    assert (tmp_path / "out.csv").read_bytes() == written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_no_row_is_rescued_twice(tmp_path: Path, rescues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the ledger nor the output takes anything: one disk."""

    async def failing(self: Ledger, started: Any, result: Any) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(Ledger, "end", failing)
    fill_disk(monkeypatch, 1500)
    with pytest.raises(BulkError) as caught:
        await bulk(many(tmp_path), tmp_path / "out.csv", ledger=tmp_path / "ledger", concurrency=5)
    rescued = [row["number"] for place in caught.value.summary.rescued for row in jsonl(Path(place))]
    assert len(rescued) == len({*rescued}) == caught.value.summary.rows
    assert rescued


async def test_two_runs_of_one_output(tmp_path: Path) -> None:
    """What a living run writes is not taken for what a stopped one left."""
    gate, numbers = Gate(20, 5), many(tmp_path)
    options: dict[str, Any] = {"ledger": tmp_path / "ledger", "concurrency": 5}
    async with client_of(gate.vendor) as client:
        running = asyncio.create_task(run_bulk(client, WhatsAppDetail, numbers, tmp_path / "out.csv", **options))
        await gate.full.wait()
        for other in (options, {"overwrite": True}):
            with pytest.raises(ConfigurationError, match=r"cannot be written: another run is writing it"):
                await run_bulk(client, WhatsAppDetail, numbers, tmp_path / "out.csv", **other)
        gate.opened.set()
        assert (await running).complete
    assert len(read(tmp_path / "out.csv")) == len(gate.vendor.requests) == 100


@pytest.mark.parametrize("problem", [None, OSError(errno.ENOLCK, "No locks available")])
async def test_file_systems_without_locks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: OSError | None
) -> None:
    def refuse(*arguments: object) -> None:
        assert problem is not None
        raise problem

    fake = None if problem is None else SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_NB=4)
    monkeypatch.setattr(locks, "fcntl", fake)
    write(tmp_path / "out.csv.part", "old")
    await bulk(source, tmp_path / "out.csv", overwrite=True)
    assert len(read(tmp_path / "out.csv")) == 3


# ----------------------------------------------------------------------------------------------- any cells at all

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANY_BYTES = st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape"))
HARD = st.sampled_from(['"', '""', ",", "\n", "\r", "\r\n", "\0", "\ufeff", "\x85", "\u2028", " ", "'", "=1", ""])
CELL = st.one_of(ANY_TEXT, ANY_BYTES, HARD, st.lists(HARD, max_size=4).map("".join))


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.tuples(CELL, st.sampled_from(["+6281387300001", "bad", "", "\0"]), CELL), max_size=6),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    delimiter=st.sampled_from([",", "\t"]),
    said=ANY_TEXT,
)
@example(table=[("\r", "bad", "\n")], quoting=csv.QUOTE_ALL, delimiter=",", said="\r=")
@example(table=[("", "", "")], quoting=csv.QUOTE_ALL, delimiter=",", said="")
@example(
    table=[("", "", ""), ("", "bad", ""), ("", "", ""), ("", "", "")],
    quoting=csv.QUOTE_MINIMAL,
    delimiter="\t",
    said="",
)
def test_any_cells(tmp_path: Path, table: list[tuple[str, str, str]], quoting: Any, delimiter: str, said: str) -> None:
    """Rows in are rows out, but for empty ones at the very end, and every cell of theirs is what it was."""
    text = io.StringIO()
    # "\r\n" makes the csv module quote both; what it leaves bare is the same in every dialect.
    writer = csv.writer(text, quoting=quoting, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([("a", "number", "b"), *table])
    ending = ".csv" if delimiter == "," else ".tsv"
    source = write(tmp_path / f"in{ending}", text.getvalue().encode("utf-8", "surrogateescape"))

    def script(request: httpx.Request, number: int) -> httpx.Response:
        return says("OK", {"whatsapp": "yes", "signature": said})

    cells, lines = tmp_path / f"out{ending}", tmp_path / "out.jsonl"
    # With its delimiter: what is found out of so few cells may be another.
    for output in (cells, lines):
        options: dict[str, Any] = {"overwrite": True, "delimiter": delimiter, "encoding": "utf-8"}
        summary = asyncio.run(bulk(source, output, vendor=Vendor(script), **options))
        assert summary.left_out == sum(1 for _ in itertools.takewhile(lambda row: not any(row), reversed(table)))
    table = table[: len(table) - summary.left_out]
    found = read(cells, delimiter)
    for row, came in zip(found, table, strict=True):
        for written, cell in zip((row["a"], row["number"], row["b"]), came, strict=True):
            assert written in (cell, f"'{cell}")
            assert not written.startswith(("=", "@", "\t", "\r"))
    assert [(row["a"], row["number"], row["b"]) for row in jsonl(lines)] == table
    for row, typed in zip(found, jsonl(lines), strict=True):
        added = dict(list(row.items())[3:])
        assert all(not value.startswith(("=", "-", "@", "\t", "\r")) for value in added.values())
        assert row["ok"] == str(typed["ok"]).lower()
        if typed["ok"]:
            assert typed["answer_signature"] == said
            assert added["answer_signature"] in (said, f"'{said}")
        else:
            assert row["problem"].startswith("line ")
