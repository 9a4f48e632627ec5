"""Sheets as people have them: titles above, totals below, columns without a name, and files under a wrong name."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from aisolution_async.bulk import Summary
from aisolution_async.bulk.heading import is_total
from aisolution_async.bulk.rows import Rows
from aisolution_async.cli import show
from aisolution_async.errors import ConfigurationError

from .commands import run, the_error

pytestmark = pytest.mark.usefixtures("command_environment")

NAMES = ["No", "Nama", "NIK", "No HP"]
PEOPLE: list[list[Any]] = [
    [1, "Ayu", "3273010101900001", "081387300008"],
    [2, "Bima", "3273010202910002", "081211002201"],
    [3, "Citra", "3273010303920003", "081211002202"],
]
TITLE = "DAFTAR NASABAH - CABANG BANDUNG"


def sheet(lines: list[list[Any]], name: str = "in.xlsx", **merged: str) -> Path:
    """A workbook of `lines`; `merged` are the texts of ranges of cells."""
    with xlsxwriter.Workbook(name) as book:
        page = book.add_worksheet("Data")
        for number, line in enumerate(lines):
            page.write_row(number, 0, line)
        for cells, said in merged.items():
            page.merge_range(cells.replace("_", ":"), said)
    return Path(name)


def csv_file(lines: list[list[Any]], name: str = "in.csv") -> Path:
    width = max(map(len, lines))
    padded = [[*("" if cell is None else str(cell) for cell in line), *[""] * (width - len(line))] for line in lines]
    Path(name).write_text("".join(";".join(line) + "\n" if any(line) else "\n" for line in padded))
    return Path(name)


FORMATS = pytest.mark.parametrize("write", [sheet, csv_file])


@FORMATS
@pytest.mark.parametrize(
    "above",
    [
        [],
        [[]],
        [[TITLE]],
        [[TITLE], ["Dicetak: 25 November 2026"], []],
        [["Cabang", "Bandung"], ["Tanggal", "25 November 2026"], ["Petugas", "Rina"], []],
        [["Cabang", "Bandung"]] * 12,
        [["Cabang", "Bandung", "Periode"]],
        [[None, None, TITLE], [], [], []],
        [[TITLE, None, None, "Halaman 1"]],
    ],
)
def test_what_stands_above_the_names(write: Any, above: list[list[Any]]) -> None:
    path = write([*above, NAMES, *PEOPLE])
    with Rows(path) as rows:
        assert rows.header == NAMES
        assert [row.line for row in rows] == [len(above) + number for number in (2, 3, 4)]
        where = f"row {len(above) + 1} of sheet 'Data'" if write is sheet else f"line {len(above) + 1}"
        said = f"{where} names the columns, and what stands above is left out: say --header-row (header_row=) if"
        assert [note[: len(said)] for note in rows.notes] == ([said] if any(above) else [])


@FORMATS
@pytest.mark.parametrize(
    ("lines", "header"),
    [
        ([["id", "phone"], *[[n, "0812"] for n in range(30)], [7, "0813", "x", "y"]], ["id", "phone"]),
        ([["phone"], *[["0812"] for _ in range(8)], ["0813", "cek lagi"], ["0814", "ok"]], ["phone"]),
        ([["081211002201", "A"], ["081211002202", "B"]], ["081211002201", "A"]),
        ([["selfie", "card"], ["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]], ["selfie", "card"]),
        ([["selfie", "card", "note"], ["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]], ["selfie", "card", "note"]),
        ([["id", "2024", "2025", "2026"], [1, 2, 3, 4], [5, 6, 7, 8]], ["id", "2024", "2025", "2026"]),
        ([[TITLE], ["id", "2024", "2025"], [1, 2, 3], [4, 5, 6]], ["id", "2024", "2025"]),
    ],
)
def test_names_that_stand_where_they_seem_to(write: Any, lines: list[list[Any]], header: list[str]) -> None:
    """A few cells beside a table make it no wider."""
    with Rows(write(lines)) as rows:
        assert [name for name in rows.header if not name.startswith("column ")] == header


@FORMATS
def test_the_names_are_where_somebody_says(write: Any) -> None:
    path = write([["first", "second"], ["a", "b"], [], ["x", "1"], ["y", "2"]])
    with Rows(path, header_row=2) as rows:
        assert (rows.header, [row.line for row in rows]) == (["a", "b"], [4, 5])
    with Rows(path, header_row=0) as rows:
        assert rows.header == ["column A", "column B"]
        assert [row.line for row in rows] == [1, 2, 4, 5]
    for row in (3, 99):
        with pytest.raises(ConfigurationError, match=str(row)):
            Rows(path, header_row=row)
    with pytest.raises(ConfigurationError, match="header_row must be the number of a row, or 0"):
        Rows(path, header_row=-1)
    result = run("bulk", "whatsapp-detail", path, "--header-row", "0", "--number", "column B", "--dry-run", "--json")
    assert json.loads(result.stdout)["rows"] == 4


def test_names_below_a_cell_that_is_merged() -> None:
    lines: list[list[Any]]
    lines = [["No", "Nama", None, None, "Kota"], [None, None, "HP", "Email", None], [1, "Ayu", "0812", "a@b", "Solo"]]
    path = sheet([*lines, [2, "Bima", "0813", "c@d", "Kudus"]], C1_D1="Kontak", A1_A2="No", B1_B2="Nama", E1_E2="Kota")
    with Rows(path) as rows:
        assert rows.header == ["No", "Nama", "HP", "Email", "Kota"]
        assert next(iter(rows)).cells == [1, "Ayu", "0812", "a@b", "Solo"]


def test_names_whose_cell_is_merged_with_those_above() -> None:
    """Two rows of names, of which the lower is the fuller one: the others stand in the upper one."""
    lines: list[list[Any]]
    lines = [["Data Nasabah"], [], [], ["No", "Kontak", None, "Kota", "Catatan"], [None, "Nama", "HP", None, None]]
    lines += [[1, "Ayu", "081211002200", "Solo", "x"], [2, "Bima", "081211002201", "Kudus", "y"]]
    path = sheet(lines, A1_E1="Data Nasabah", A4_A5="No", D4_D5="Kota", E3_E5="Catatan")
    with Rows(path, header_row=5) as rows:
        assert rows.header == ["No", "Nama", "HP", "Kota", "Catatan"]
        assert [row.cells[0] for row in rows] == [1, 2]
    lines[3:5] = [["No"], [None, "Nama", "HP", "Kota", "Email"]]
    lines[5:] = [[n, "Ayu", "081211002200", "Solo", "a@b"] for n in range(5)]
    with Rows(sheet(lines, A4_A5="No", A1_E1="Data Nasabah")) as rows:
        assert rows.header == ["No", "Nama", "HP", "Kota", "Email"]
        assert not [note for note in rows.notes if "without a name" in note]


@FORMATS
def test_columns_that_have_no_name_or_anothers(write: Any) -> None:
    path = write([["Nama", None, "HP", "Nama", "Nama (2)"], ["Ayu", "x", "0812", "Ibu", "y"]])
    with Rows(path) as rows:
        assert rows.header == ["Nama", "column B", "HP", "Nama (3)", "Nama (2)"]
        assert [row.cells for row in rows] == [["Ayu", "x", "0812", "Ibu", "y"]]
        assert rows.notes == [
            "a column without a name is called 'column B'",
            "columns of the same name are told apart: 'Nama (3)'",
        ]


@FORMATS
@pytest.mark.parametrize(
    "total",
    [
        [None, "TOTAL"],
        ["Jumlah", None, None, 3],
        ["Grand Total:", None, None, "243,000,000"],
        ["Total: 3 nasabah"],
        [None, None, "Tổng cộng", 3],
        [None, "Sub Total", None, None],
    ],
)
def test_totals_at_the_end(write: Any, total: list[Any]) -> None:
    path = write([NAMES, *PEOPLE, [], total])
    unit = "row" if write is sheet else "line"
    with Rows(path) as rows:
        problems = [row.problem for row in rows if any(row.cells)]
    assert problems == [None, None, None, f"{unit} 6: this is a total, and no row to be asked"]
    result = run(
        "bulk", "whatsapp-detail", path, "-o", "out.jsonl", "--number", "No HP", "--country", "ID", "--sandbox"
    )
    assert result.exit_code == 0
    assert "left out        1 total at the end, not asked" in result.stderr
    last = json.loads(Path("out.jsonl").read_text().splitlines()[-1])
    assert (last["ok"], last["charge"], last["attempts"], last["problem"]) == (None, None, None, None)


@FORMATS
@pytest.mark.parametrize(
    "below",
    [
        [["Dibuat oleh: Rina"]],
        [[], ["Dibuat oleh: Rina"]],
        [["Bandung, 25 November 2026"], [None, "Mengetahui"], [None, "Kepala Cabang"], [], [], [None, "( Rina )"]],
        [[], ["Dibuat oleh", None, "Mengetahui"], [], ["Rina", None, "Budi"], ["NIP. 19780101 200501 1 001"]],
        [["25/11/2026"], ["Prepared by:", "Rina"]],
        [[], ["Bandung, 30 Juni 2026"], ["Dibuat oleh: Rina (0812-1111-2222)"]],
        [["Rata-rata", None, None, "1,5"], [], ["Telp. (021) 555-1234, www: https://bank.example"], ["0812-1111-2222"]],
        [["Rata-rata"], [None, "Average"], [None, "Maksimum", None, 9], [], ["Kantor 081211112222", "Rina"]],
    ],
)
def test_who_signs_below_a_total_is_not_asked(write: Any, below: list[list[Any]]) -> None:
    path = write([NAMES, *PEOPLE, [None, "TOTAL", None, 3], *below])
    with Rows(path) as rows:
        found = [row for row in rows if any(row.cells)]
    assert [row.is_total for row in found] == [False] * 3 + [True] * (1 + sum(map(bool, below)))
    result = run(
        "bulk", "whatsapp-detail", path, "-o", "out.jsonl", "--errors", "mend.csv", "--number", "No HP",
        "--country", "ID", "--sandbox", "--json",
    )  # fmt: skip
    assert (result.exit_code, json.loads(result.stdout)["failed"]) == (0, 0)


@FORMATS
@pytest.mark.parametrize(
    "below",
    [
        [4, "Dewi", "3273010404940004", "081211002203"],
        [4, None, None, "081211002203"],
        [None, None, None, "+62 812-1100-2203"],
        [None, None, None, "WA 081211002203"],
        ["A-4", "Dewi", None, None],
        [None, "Dewi", None, "https://wa.me/6281211002203"],
        [None, "Dewi", None, "foto dewi.jpg"],
    ],
)
def test_an_applicant_below_a_total_is_asked(write: Any, below: list[Any]) -> None:
    with Rows(write([NAMES, *PEOPLE, [None, "TOTAL", None, 3], below])) as rows:
        assert not any(row.is_total for row in rows)


@FORMATS
@pytest.mark.parametrize(
    ("below", "asked"),
    [
        ([[], ["Catatan: hubungi Rina, 0812-1111-2222"]], 3),
        ([["Dibuat oleh: Rina (0812-1111-2222)"], ["Hal 1 dari 1"]], 3),
        ([["Dewi"], [None, "Note: only until June"], ["Rina"]], 4),
        ([["Note: Dewi", None, None, "081211002203"]], 4),  # a number to be asked
        ([["Dewi"]], 4),
        ([["Catatan:", "A-4"]], 4),  # an id
    ],
)
def test_a_note_at_the_end_needs_no_total(write: Any, below: list[list[Any]], asked: int) -> None:
    unit = "row" if write is sheet else "line"
    with Rows(write([NAMES, *PEOPLE, *below])) as rows:
        found = [row for row in rows if any(row.cells)]
    assert [row.is_total for row in found] == [place >= asked for place in range(len(found))]
    if asked < len(found):
        assert found[-1].problem == f"{unit} {found[-1].line}: this stands below the list, and no row to be asked"


@FORMATS
def test_a_subtotal_says_what_it_is(write: Any) -> None:
    path = write([NAMES, PEOPLE[0], ["Sub Total", None, None, 1], *PEOPLE[1:], ["Total", None, None, 3]])
    unit = "row" if write is sheet else "line"
    with Rows(path) as rows:
        problems = [row.problem for row in rows]
    assert problems[:4] == [
        None,
        f"{unit} 3: this is a subtotal, and nobody to be asked: delete the row in the list itself",
        None,
        None,
    ]


def test_what_is_no_total() -> None:
    assert not is_total(["Total", "081211002201"])  # every cell is full
    assert not is_total(["Total Motors", "081211002201", None, None])
    assert not is_total(["Totalindo", "0812", None, None])
    assert not is_total(["Jumlahwati", "0812", None, None])
    assert not is_total([None, None])
    path = csv_file([NAMES, ["", "TOTAL", "", ""], *PEOPLE])  # further up it is a row
    with Rows(path) as rows:
        assert [row.problem for row in rows] == [None] * 4


def test_a_row_that_cannot_be_read_comes_behind_all_that_can() -> None:
    Path("in.csv").write_text('a,b\n1,2\n3,4\n5,6\n"' + "x" * 100 + '\n"y,"\n')
    with Rows("in.csv") as rows:
        assert [row.line for row in rows] == [2, 3, 4, 5]


@FORMATS
def test_a_run_that_goes_on_finds_the_same_rows(write: Any) -> None:
    """With its ledger, and with the part file alone of what the ledger lost."""
    path = write([[TITLE], [], NAMES, *PEOPLE, [None, "TOTAL"]])
    command = ["bulk", "whatsapp-detail", path, "-o", "out.csv", "--number", "No HP", "--country", "ID", "--sandbox"]
    first, second = (json.loads(run(*command, "--json").stdout) for _ in range(2))
    assert (first["charged"], second["charged"], second["from_ledger"]) == (3, 0, 3)
    content = Path("out.csv").read_bytes()
    Path("out.csv").rename("kept.csv")
    Path("out.csv.sandbox.ledger").unlink()
    third = json.loads(run(*command, "--json", "--rescued", "kept.csv").stdout)
    assert (third["charged"], third["taken_back"]) == (0, 3)
    assert Path("out.csv").read_bytes() == content


def test_the_other_sheets_are_named() -> None:
    with xlsxwriter.Workbook("in.xlsx") as book:
        book.add_worksheet("Petunjuk").write_column(0, 0, ["Petunjuk pengisian", "1. Isi semua kolom"])
        book.add_worksheet("Data").write_row(0, 0, ["id", "phone"])
        book.add_worksheet("Kosong")
    command = ["bulk", "whatsapp-detail", "in.xlsx", "-o", "out.csv", "--country", "ID", "--sandbox", "--dry-run"]
    error = the_error(run(*command, "--number", "phone"))
    assert error.endswith("; sheet 'Data' has 'id', 'phone': say --sheet (sheet=) if one of them is meant")
    for chosen in ("Data", "data", "2"):
        assert run(*command, "--sheet", chosen).exit_code == 0


def test_sheets_that_are_empty_are_no_lists() -> None:
    with xlsxwriter.Workbook("in.xlsx") as book:
        book.add_worksheet("Sheet1")
        book.add_worksheet("Data").write_column(0, 0, ["phone", "0812"])
    with Rows("in.xlsx") as rows:
        assert rows.about == "XLSX workbook, sheet 'Data' (of 'Sheet1', 'Data')"
    with pytest.raises(ConfigurationError, match="sheet 'Sheet1' of 'in.xlsx' is empty"):
        Rows("in.xlsx", sheet="Sheet1")


# ------------------------------------------------------------------------------------------- what a file really is


def test_content_says_the_format_and_not_the_ending() -> None:
    content = sheet([["id", "phone"], ["A", "0812"]]).read_bytes()
    for name in ("in.xls", "in.csv", "in.ods", "in.dat"):
        Path(name).write_bytes(content)
        with Rows(name) as rows:
            assert rows.about == "XLSX workbook, sheet 'Data'"
            assert [row.cells for row in rows] == [["A", "0812"]]
    pq.write_table(pa.table({"phone": ["0812"]}), "in.xlsx")
    with Rows("in.xlsx") as rows:
        assert (rows.format, [row.cells for row in rows]) == ("parquet", [["0812"]])
    for text, between in (("id\tphone\nA\t0812\n", "tabs"), ("id;phone\nA;0812\n", "';'")):
        for encoding in ("utf-8", "utf-16", "utf-8-sig"):
            Path("in.xls").write_bytes(text.encode(encoding))
            with Rows("in.xls") as rows:
                assert rows.about.startswith(f"CSV, {between} between cells, ")
                assert [row.cells for row in rows] == [["A", "0812"]]


PAGE = """<html xmlns:x="urn:schemas-microsoft-com:office:excel">
<head><meta charset="{charset}"><style>td {{}}</style></head>
<table><tr><td>menu</table><TABLE border=1><tr><td colspan=4>{title}</td></tr>
<tr><th>No<th>Nama<th>&nbsp;<th>No HP</tr>
<tr><td>1<td rowspan=2>José &amp; Ayu<br>Ibu<td><td style="mso-number-format:'@'">081387300008
<tr><td>2</td><td></td><td>081211002201</td></tr><tr><td>Total<td><td><td>2</table></html>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-8-sig"])
def test_a_web_page_under_the_name_of_a_workbook(encoding: str) -> None:
    Path("in.xls").write_bytes(PAGE.format(title=TITLE, charset=encoding).encode(encoding))
    with Rows("in.xls") as rows:
        assert rows.header == ["No", "Nama", "No HP"]
        assert rows.about.startswith("web page under the name of a sheet, the largest of its 2 tables, ")
        found = list(rows)
        assert [(row.line, row.cells) for row in found[:-1]] == [
            (3, ["1", "José & Ayu Ibu", "081387300008"]),
            (4, ["2", None, "081211002201"]),
        ]
        assert found[-1].problem == "row 5: this is a total, and no row to be asked"
    with Rows("in.xls", header_row=0) as rows:
        assert rows.total == 5
    result = run(
        "bulk", "whatsapp-detail", "in.xls", "-o", "out.csv", "--number", "No HP", "--country", "ID", "--sandbox"
    )
    assert (result.exit_code, len(Path("out.csv").read_text().splitlines())) == (0, 4)
    assert "left out        1 total at the end, not asked" in result.stderr


@pytest.mark.parametrize("reference", ["A0:B2", "B2:A1", ""])
def test_a_sheet_that_says_wrongly_where_it_ends(reference: str) -> None:
    content = sheet([["id", "phone"], ["A", "0812"]]).read_bytes()
    said = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(said, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name).replace(b'"A1:B2"', f'"{reference}"'.encode()))
    Path("in.xlsx").write_bytes(said.getvalue())
    with Rows("in.xlsx") as rows:
        assert [row.cells for row in rows] == [["A", "0812"]]


def test_digits_are_those_of_the_file() -> None:
    """Excel keeps 15 of a number; other programs write more."""
    content = sheet([["nik", "phone"], *[[number, f"08138730000{number}"] for number in (1, 2, 3)]]).read_bytes()
    said = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(said, "w") as copy:
        for name in archive.namelist():
            part = archive.read(name)
            for short, digits in (
                (b"1", b"12345678901234567"),
                (b"2", b"9171010101900001"),
                (b"3", b"9.1710101019E+15"),
            ):
                part = part.replace(b'<v>%s</v></c><c r="B' % short, b'<v>%s</v></c><c r="B' % digits)
            copy.writestr(name, part)
    Path("in.xlsx").write_bytes(said.getvalue())
    with Rows("in.xlsx") as rows:
        assert [row.cells[0] for row in rows] == [12345678901234567, 9171010101900001, 9171010101900000]
    result = run("bulk", "whatsapp-detail", "in.xlsx", "-o", "out.csv", "--country", "ID", "--sandbox")
    assert result.exit_code == 0
    assert [line.split(",")[0] for line in Path("out.csv").read_text().splitlines()[1:]] == [
        "12345678901234567", "9171010101900001", "9171010101900000"
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("Иван", "cp1251"),
        ("Анна Кузнецова", "koi8-r"),
        ("王伟", "gb18030"),
        ("王小明", "big5"),
        ("田中太郎", "cp932"),
        ("김민수", "cp949"),
        ("สมชาย ใจดี", "cp874"),
        ("Γιώργος", "cp1253"),
        ("محمد علي", "cp1256"),
        ("Łukasz", "cp1250"),
        ("Nguyê\u0303n Va\u0306n".replace("a\u0306", "ă"), "cp1258"),
        ("José Muñoz", "cp1252"),
        ("Größe", "cp1252"),
        ("it\u2019s €", "cp1252"),
    ],
)
def test_a_name_in_another_encoding(name: str, encoding: str) -> None:
    Path("in.csv").write_bytes(f"id,phone,nama\r\nA-1,081387300008,{name}\r\n".encode(encoding))
    with Rows("in.csv") as rows:
        assert [row.cells for row in rows] == [["A-1", "081387300008", name]]
        assert f"{encoding} (a guess: it is not UTF-8" in rows.about
        if name[0].isalpha() and encoding != "cp1252":
            assert any(f"; it reads {word!r})" in rows.about for word in name.split())


def test_bytes_that_are_no_text_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a column that nobody uses stop no row, whether there is a detector or not."""
    monkeypatch.setitem(__import__("sys").modules, "chardet", None)
    Path("in.csv").write_bytes(b"id,phone,nama\r\nA-1,081387300008,\xcd\xf5\x81\xb0\r\nA\x81,081387300009,x\r\n")
    command = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--country", "ID", "--sandbox"]
    result = run(*command)
    assert "UTF-8, but for some bytes, which are kept as they are" in result.stderr
    first, second = Path("out.csv").read_bytes().splitlines()[1:]
    assert first.startswith(b"A-1,081387300008,\xcd\xf5\x81\xb0,true,")
    assert second.startswith(b"A\x81,081387300009,x,false,")
    assert b"the key in column 'id' has bytes that are no text" in second


def test_as_many_columns_of_one_name_as_a_sheet_can_have() -> None:
    """Each gets a name of its own, and it takes no longer than it takes to read them."""
    with Rows(sheet([["a"] * 16_384, ["x"] * 16_384])) as rows:
        assert len({*rows.header}) == 16_384
        assert rows.header[:3] + rows.header[-1:] == ["a", "a (2)", "a (3)", "a (16384)"]


def test_numbers_for_columns_of_one_name_that_others_have_already() -> None:
    with Rows(sheet([["a", "a", "a (2)", "a", "", "column E (2)", "column E"], [1, 2, 3, 4, 5, 6, 7]])) as rows:
        assert rows.header == ["a", "a (3)", "a (2)", "a (4)", "column E (3)", "column E (2)", "column E"]


def test_a_detector_that_fails_has_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("chardet.detect", fail)
    Path("in.csv").write_bytes("number;name\n+6281387300008;Łukasz Żółć\n".encode("cp1250"))
    with Rows("in.csv") as rows:
        assert [row.cells[0] for row in rows] == ["+6281387300008"]
        assert "UTF-8" in rows.about


def test_what_is_left_out_at_the_end_is_named_as_what_it_is() -> None:
    done = Summary(totals=1)
    assert show.left_out(done) == "1 total at the end, not asked"
    done.totals = 3
    assert show.left_out(done) == "3 rows at the end, not asked: totals, and what stands below"
