"""What of a workbook nobody sees; and inputs of any format that unpack to more than memory holds."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisolution_async import ConfigurationError, WhatsAppDetail
from aisolution_async.bulk import parquet, run_bulk, source, workbooks
from aisolution_async.bulk.rows import Rows, UnreadableInputError

from . import forks
from .commands import run, the_error
from .support import Vendor, client_of, ok_whatsapp

pytestmark = pytest.mark.usefixtures("command_environment")

SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
HEADER = '<?xml version="1.0"?>'
HEAD = (
    '<row r="1"><c r="A1" t="inlineStr"><is><t>phone</t></is></c><c r="B1" t="inlineStr"><is><t>id</t></is></c></row>'
)


def xlsx(rows: str, *, before: str = "", shared: str = "", name: str = "in.xlsx") -> Path:
    """A workbook of one sheet: `rows`, behind the header and what stands before all rows."""
    parts = {
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="a" Type="{RELATIONS}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{RELATIONS}"><sheets>'
        '<sheet name="S" sheetId="1" r:id="a"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}">'
        f'<Relationship Id="a" Type="{RELATIONS}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="b" Type="{RELATIONS}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{SHEET}">{before}<sheetData>{HEAD}{rows}</sheetData>'
        "</worksheet>",
        "xl/sharedStrings.xml": f'<sst xmlns="{SHEET}">{shared}</sst>',
    }
    return zipped(name, parts)


def zipped(name: str, parts: dict[str, str]) -> Path:
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, text in parts.items():
            archive.writestr(part, text if text.startswith("application") else f"{HEADER}{text}")
    return Path(name)


def row(number: int, said: str = "", *, numbered: bool = True) -> str:
    """A row of an .xlsx file; its number may be left out."""
    return (
        f"<row{f' r={chr(34)}{number}{chr(34)}' if numbered else ''} {said}><c><v>{81387300000 + number}</v></c>"
        f"<c><v>{number}</v></c></row>"
    )


def ods(rows: str, *, before: str = "") -> Path:
    """A document of one table."""
    names = "".join(
        f' xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{short}:1.0"' for short in ("office", "table", "text")
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
    table = f'<table:table table:name="S">{before}{line("phone", "id")}{rows}</table:table>'
    parts = {
        "mimetype": kind,
        "META-INF/manifest.xml": f'<m:manifest xmlns:m="{manifest}"><m:file-entry m:full-path="/" '
        f'm:media-type="{kind}"/></m:manifest>',
        "content.xml": f"<office:document-content{names}><office:body><office:spreadsheet>{table}"
        "</office:spreadsheet></office:body></office:document-content>",
    }
    return zipped("in.ods", parts)


def line(*cells: str, said: str = "", cell: str = "") -> str:
    """A row of an .ods file."""
    inner = "".join(
        f'<table:table-cell office:value-type="string" {cell}><text:p>{text}</text:p></table:table-cell>'
        for text in cells
    )
    return f"<table:table-row {said}>{inner}</table:table-row>"


def seen(path: Path, **options: Any) -> tuple[int | None, list[int]]:
    """How many rows are hidden, and which rows there are."""
    with Rows(path, **options) as rows:
        found = [each.line for each in rows]
        assert rows.total == len(found)
        return rows.hidden, found


# -------------------------------------------------------------------------------------------------- what nobody sees


@pytest.mark.parametrize(
    ("said", "hidden"),
    [
        ('hidden="1"', True),
        ("hidden='true'", True),
        ('spans="1:2" ht="15" outlineLevel="1" hidden="1" customHeight="1"', True),
        ('ht="0" customHeight="1"', True),
        ('ht="0.0"', True),
        ('hidden="0"', False),
        ('hidden="false" collapsed="1"', False),
        ('ht="0.75"', False),
        ("", False),
    ],
)
@pytest.mark.parametrize("numbered", [True, False])
def test_hidden_rows_of_an_xlsx_file(said: str, hidden: bool, numbered: bool) -> None:
    path = xlsx(row(2) + row(3, said, numbered=numbered) + row(4, numbered=numbered))
    assert seen(path) == (int(hidden), [2, 3, 4])
    assert seen(path, skip_hidden=True) == (int(hidden), [2, 4] if hidden else [2, 3, 4])


def test_hidden_rows_that_are_no_rows() -> None:
    """Empty ones, and the header's, are none that would be asked; rows that are not written are hidden anyhow."""
    empty = '<row r="3" hidden="1"><c r="A3"/></row>'
    zero = '<sheetFormatPr defaultRowHeight="15" zeroHeight="1"/>'
    assert seen(xlsx(row(2) + empty + row(9), before=zero)) == (0, [2, 9])


def test_the_same_with_a_prefix() -> None:
    path = xlsx("")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode().partition("?>")[2] for name in archive.namelist()}
    body = HEAD + row(2, 'hidden="1"') + row(3)
    prefixed = re.sub(r"<(/?)(\w)", r"<\1x:\2", body)
    parts["xl/worksheets/sheet1.xml"] = (
        f'<x:worksheet xmlns:x="{SHEET}"><x:sheetData>{prefixed}</x:sheetData></x:worksheet>'
    )
    assert seen(zipped("in.xlsx", parts)) == (1, [2, 3])


@pytest.mark.parametrize("visibility", ["collapse", "filter"])
def test_hidden_rows_of_an_ods_file(visibility: str) -> None:
    hidden = f'table:visibility="{visibility}"'
    rows = line("1", "a") + line("2", "b", said=f'{hidden} table:number-rows-repeated="3"')
    rows += f'<table:table-row-group table:display="false">{line("3", "c")}</table:table-row-group>' + line("4", "d")
    path = ods(rows)
    assert seen(path) == (4, [2, 3, 4, 5, 6, 7])
    assert seen(path, skip_hidden=True) == (4, [2, 7])


def columns_line(path: Path) -> str:
    result = run("bulk", "whatsapp-detail", path, "-o", "out.csv", "--number", "phone", "--country", "ID", "--dry-run")
    return result.stderr


@pytest.mark.parametrize("said", ['min="1" max="1" hidden="1"', 'min="1" max="2" width="0"'])
def test_hidden_columns_that_are_used(said: str) -> None:
    assert "hidden columns are used: 'phone'" in columns_line(xlsx(row(2), before=f"<cols><col {said}/></cols>"))
    assert "hidden columns" not in columns_line(xlsx(row(2), before='<cols><col min="3" max="9" hidden="1"/></cols>'))
    # Who hides a salary has to know that others will see it.
    told = columns_line(xlsx(row(2), before='<cols><col min="2" max="2" hidden="1"/></cols>'))
    assert "1 hidden column is not hidden in the results: " in told
    before = '<table:table-column table:visibility="collapse"/><table:table-column/>'
    assert "hidden columns are used: 'phone'" in columns_line(ods(line("081387300008", "a"), before=before))


def test_hidden_rows_are_told_before_anything_is_sent() -> None:
    path = xlsx(row(2) + row(3, 'hidden="1"') + row(4, 'hidden="1"'))
    command = ["bulk", "whatsapp-detail", path, "-o", "out.jsonl", "--country", "ID", "--sandbox"]
    told = "2 hidden rows are included: say --skip-hidden (skip_hidden=True) to leave them out"
    for dry, rows in (([], 3), (["--dry-run"], 3)):
        result = run(*command, *dry, "--json")
        assert result.stderr.splitlines()[1] == told
        assert (json.loads(result.stdout)["hidden"], json.loads(result.stdout)["rows"]) == (2, rows)
    Path("out.jsonl").unlink()
    for dry in (["--dry-run"], []):
        result = run(*command, *dry, "--json", "--skip-hidden")
        assert result.stderr.splitlines()[1] == "2 hidden rows are left out"
        assert (json.loads(result.stdout)["hidden"], json.loads(result.stdout)["rows"]) == (2, 1)
    assert len(Path("out.jsonl").read_text().splitlines()) == 1


async def test_hidden_rows_by_the_library() -> None:
    path = xlsx(row(2) + row(3, 'hidden="1"'))
    vendor = Vendor(lambda request, number: ok_whatsapp())
    async with client_of(vendor) as client:
        done = await run_bulk(client, WhatsAppDetail, path, "out.csv", skip_hidden=True)
    assert (done.rows, done.hidden, len(vendor.requests)) == (1, 1, 1)


@pytest.mark.parametrize("prefix", ["", "x:"])
@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("chunk", [70, 400, 1 << 20])
def test_what_is_seen_of_a_sheet_does_not_depend_on_its_pieces(
    chunk: int, quote: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is hidden, errors, long numbers, and formulas without a result: wherever a piece begins."""
    monkeypatch.setattr(workbooks, "_CHUNK", chunk)
    odd = {4: '<c r="B4" t="e"><v>#N/A</v></c>', 7: '<c r="B7"><v>31712345678901231</v></c>'}
    odd[9] = '<c r="B9"><f>A1+A2</f><v></v></c>'
    hidden = {6: 'hidden="1"', 8: 'ht="0"', 11: 'ht="0.0" customHeight="1"'}
    cells = [odd.get(number, f'<c r="B{number}"><v>{number}</v></c>') for number in range(2, 13)]
    rows = "".join(
        f'<row r="{number}" {hidden.get(number, "")}><c r="A{number}"><v>1</v></c>{cell}</row>'
        for number, cell in enumerate(cells, 2)
    )
    path = xlsx(rows.replace('"', quote), before='<cols><col min="2" max="2" hidden="1"/></cols>')
    if prefix:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name).decode().removeprefix(HEADER) for name in archive.namelist()}
        sheet = re.sub(r"<(/?)(\w)", r"<\1x:\2", parts["xl/worksheets/sheet1.xml"]).replace("xmlns=", "xmlns:x=")
        path = zipped("in.xlsx", {**parts, "xl/worksheets/sheet1.xml": sheet})
    with Rows(path) as found:
        assert (found.hidden, found.hidden_columns) == (3, ["id"])
        assert [row.cells[1] for row in found] == [
            *(2, 3, "#N/A", 5, 6, 31712345678901231, 8, "#UNCALCULATED", 10, 11, 12)
        ]
    with Rows(path, skip_hidden=True) as found:
        assert [row.line for row in found] == [2, 3, 4, 5, 7, 9, 10, 12]


def test_a_sheet_of_what_no_program_shows_is_empty() -> None:
    path = xlsx("")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode().removeprefix(HEADER) for name in archive.namelist()}
    nothing = '<row r="1"><c r="A1"><v>NaN</v></c></row>'
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"].replace(HEAD, nothing)
    with pytest.raises(ConfigurationError, match=r"sheet 'S' of 'in\.xlsx' is empty"):
        Rows(zipped("in.xlsx", parts))


def test_where_hidden_rows_cannot_be_told_or_are_none() -> None:
    Path("in.csv").write_text("phone\n081387300008\n")
    command = ["bulk", "whatsapp-detail", "in.csv", "--country", "ID", "--dry-run"]
    assert "skip_hidden does not go with 'in.csv'" in the_error(run(*command, "--skip-hidden"))
    assert "hidden" not in run(*command).stderr


# ---------------------------------------------------------------------------- what unpacks to more than memory holds

LIMIT = 400  # MiB that reading may take, of several thousand that the whole would
READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from aisolution_async.bulk.rows import Rows
from aisolution_async.errors import AISolutionError
try:
    with Rows(sys.argv[1]) as rows:
        print(sum(1 for _, row in zip(range(3000), rows)))
except AISolutionError as exc:
    print(exc)
# Not ru_maxrss, which begins with what the process had that started this one.
print(next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def read(path: Path) -> str:
    """What reading it comes to, in a process of its own that must stay small."""
    code, found = forks.run(["-c", READ, str(path)])
    assert code == 0, found
    said, size = found.splitlines()
    assert int(size) < LIMIT
    return said


MANY = 'table:number-rows-repeated="4000000000"'
WIDE = 'table:number-columns-repeated="4000000000"'


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (line("0812", "1", said=MANY), "has more than 27,262,976 cells"),
        (line("0812", "1", cell=WIDE), "has more than 27,262,976 cells"),
        (f"<table:table-row {MANY}><table:table-cell/></table:table-row>{line('0812')}", "has more than"),
        (f"<table:table-row {MANY}><table:table-cell/></table:table-row>", "has more than"),
        (line("x" * 100_000, said='table:number-rows-repeated="1000000"'), "has texts of more than 1,024 MiB"),
        (line("x" * 100_000, cell='table:number-columns-repeated="16000"'), "has texts of more than 1,024 MiB"),
    ],
)
def test_an_ods_file_that_repeats_itself(rows: str, problem: str) -> None:
    said = read(ods(rows))
    assert f"the workbook 'in.ods' {problem}" in said
    assert said.endswith("which is too much to be read: save the rows that are needed as CSV")


def test_an_ods_file_as_programs_write_it() -> None:
    """Down to the last row, and to the last column, there are."""
    end = '<table:table-cell table:number-columns-repeated="16382"/>'
    rows = line("081387300008", "a") + f'<table:table-row table:number-rows-repeated="1048573">{end}</table:table-row>'
    assert seen(ods(rows)) == (0, [2])


def test_a_damaged_ods_file() -> None:
    path = ods(line("1", "a"))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode().partition("?>")[2] for name in archive.namelist()}
    parts["mimetype"] = "application/vnd.oasis.opendocument.spreadsheet"
    parts["content.xml"] = parts["content.xml"].replace("</table:table>", "&nothing;</table:table>")
    with pytest.raises(ConfigurationError, match="is damaged: save the rows that are needed as CSV"):
        Rows(zipped("in.ods", parts))


@pytest.mark.parametrize("lies", [False, True])
def test_an_xlsx_file_that_unpacks_to_too_much(lies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file says of its size."""
    monkeypatch.setattr(workbooks, "MOST_UNPACKED", 1 << 20)
    path = xlsx(row(2) * 30_000)
    if lies:
        data, size = path.read_bytes(), zipfile.ZipFile(path).getinfo("xl/worksheets/sheet1.xml").file_size
        path.write_bytes(data.replace(struct.pack("<L", size), struct.pack("<L", 1000)))
    with pytest.raises(ConfigurationError, match=r"unpacks to more than 1 MiB, which is too much to be read: save the"):
        Rows(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: xlsx(row(2) * 3000), "has more than 5,000 cells"),
        (lambda: xlsx(row(2).replace("<c>", "<c t='n'>") * 3000), "has more than 5,000 cells"),
        (lambda: xlsx(f'<row><c t="inlineStr"><is><t>{"0" * 3_000_000}</t></is></c></row>'), "has a cell of more than"),
        (lambda: xlsx(" " * 3_000_000 + row(2)), "has a cell of more than"),
        (lambda: xlsx("", shared=f"<si><t>{'0' * 3_000_000}</t></si>"), "has a cell of more than"),
        (
            lambda: xlsx('<row><c t="s"><v>0</v></c></row>' * 2000, shared=f"<si><t>{'0' * 30_000}</t></si>"),
            "has texts of more than 50 MiB in its cells",
        ),
    ],
)
def test_an_xlsx_file_that_takes_too_much(
    make: Callable[[], Path], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbooks, "MOST_CELLS", 5000)
    monkeypatch.setattr(workbooks, "MOST_UNPACKED", 50 << 20)
    monkeypatch.setattr(workbooks, "_LONGEST", 1 << 20)
    with pytest.raises(ConfigurationError, match=problem):
        Rows(make())


def test_a_parquet_file_of_one_text_for_all_rows() -> None:
    """It is there once in the file, and once in memory: 3 GB of 3 MB."""
    one = pa.DictionaryArray.from_arrays(pa.array([0, None] * 500, pa.int32()), ["0" * 3_000_000])
    pq.write_table(pa.table({"phone": one}), "in.parquet", store_schema=False)
    assert Path("in.parquet").stat().st_size < 400_000
    assert read(Path("in.parquet")) == "1000"
    with Rows("in.parquet") as rows:
        assert str(rows.schema.field(0).type) == "string"
        cells = [each.cells[0] for each in rows]
    assert cells == ["0" * 3_000_000, None] * 500


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", None])
def test_a_parquet_file_whose_dictionary_is_not_small(encoding: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the batches are."""
    monkeypatch.setattr(parquet, "_SMALL", 1 << 20)
    monkeypatch.setattr(parquet, "_WORST", 16 << 20)
    chosen = {"use_dictionary": False, "column_encoding": {"phone": encoding}} if encoding else {}
    pq.write_table(pa.table({"phone": ["0" * 2_000_000] * 100}), "in.parquet", data_page_size=1 << 30, **chosen)
    before = pa.total_allocated_bytes()
    with Rows("in.parquet") as rows:
        sizes = [pa.total_allocated_bytes() - before for _ in rows]
    assert len(sizes) == 100
    assert max(sizes) < 60e6


def test_a_parquet_file_of_very_many_rows() -> None:
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000_000, pa.int32()), ["081387300008"])
    pq.write_table(pa.table({"phone": many}), "in.parquet", row_group_size=20_000_000, store_schema=False)
    assert Path("in.parquet").stat().st_size < 100_000
    assert read(Path("in.parquet")) == "3000"


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_string(), pa.large_binary()])
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", None])
def test_texts_of_a_parquet_file_are_as_they_are(kind: pa.DataType, encoding: str | None) -> None:
    """From a dictionary, beside one that was full, and by what an earlier one has."""
    texts = [f"{number % 7}" * (number % 50) if number % 11 else None for number in range(3000)]
    texts += [f"text {number}" for number in range(3000)]
    table = pa.table({"phone": pa.array(texts).cast(kind), "n": range(6000), "l": [["a", "b"]] * 6000})
    chosen = {"use_dictionary": False, "column_encoding": {"phone": encoding}} if encoding else {}
    pq.write_table(
        table, "in.parquet", dictionary_pagesize_limit=2000, data_page_size=3000, row_group_size=2500, **chosen
    )
    with Rows("in.parquet") as rows:
        assert rows.schema == table.schema
        cells = [each.cells for each in rows]
    expected = table.to_pydict()
    assert cells == [list(each) for each in zip(expected["phone"], expected["n"], expected["l"], strict=True)]


def test_a_text_of_a_parquet_file_that_is_none() -> None:
    bad = pa.array([b"good", b"\xff", None, b"\xff"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"phone": bad}), "in.parquet")
    with Rows("in.parquet") as rows:
        found = [(each.cells[0], each.problem is None) for each in rows]
    assert found == [("good", True), ("\udcff", False), (None, True), ("\udcff", False)]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli"])
def test_a_parquet_file_that_unpacks_to_too_much(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_MUCH", 1 << 20)
    table = pa.table({"phone": [f"{number}" + "0" * 100_000 for number in range(50)]})
    pq.write_table(table, "in.parquet", compression=compression, use_dictionary=False)
    with pytest.raises(ConfigurationError, match=r"bytes of column 'phone' unpack to 5,0.+save the columns and rows"):
        Rows("in.parquet")


def test_a_parquet_file_of_lists_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_MANY_VALUES", 1000)
    pq.write_table(pa.table({"phone": [["1"] * 500_000] * 4}), "in.parquet")
    with pytest.raises(ConfigurationError, match=r"unpack to lists of 2,000,000 values"):
        Rows("in.parquet")


def test_lines_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred thousand cells, say: each takes many times its room in the file."""
    monkeypatch.setattr(source, "MAX_VALUES", 1000)
    monkeypatch.setattr(source, "MAX_LINE", 20_000)
    for body, problem in (
        ("," * 2000, "a row of more than 1000 cells"),
        ('0812,"' + '\n","' * 2000, "a row of more than 1000 cells"),
        ('0812,"' + "\n" * 30_000, "a row of more than 20000 characters"),
        ("0" * 30_000, "a line of more than 20000 characters"),
    ):
        Path("in.csv").write_text(f"phone,id\n0812,1\n{body}\n")
        with Rows("in.csv") as rows, pytest.raises(UnreadableInputError, match=problem):
            list(rows)
    Path("in.csv").write_text("phone,id\n" + "0812,1\n" * 3000)  # which is many rows, and no long one
    with Rows("in.csv") as rows:
        assert len(list(rows)) == 3000


@pytest.mark.parametrize("value", ["[" + "[]," * 2000 + "1]", "[" * 2000, '{"a":' * 2000, str([*range(2000)])])
def test_a_line_of_very_many_values(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_VALUES", 1000)
    Path("in.jsonl").write_text(f'{{"phone":"0812"}}\n{{"phone":{value}}}\n')
    with Rows("in.jsonl") as rows:
        problems = [each.problem for each in rows]
    assert problems == [None, "line 2: this has more than 1000 values: leave out what is not needed"]


def test_keys_that_are_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_NAMES", 1000)
    Path("in.jsonl").write_text("".join(f'{{"{number}{"k" * 100}":1}}\n' for number in range(20)))
    with pytest.raises(ConfigurationError, match="keys of more than 1000 characters by line 10: an object a line"):
        Rows("in.jsonl")


@pytest.mark.parametrize("name", ["in.csv.gz", "in.jsonl.zst", "in.csv", "in.jsonl", "in.parquet", "in.xlsx"])
def test_what_is_packed_otherwise(name: str) -> None:
    Path(name).write_bytes(b"\x1f\x8b\x08\x00" + bytes(20))
    with pytest.raises(ConfigurationError, match="unpack it first"):
        Rows(name)


def test_a_trap_is_one_line_and_costs_nothing() -> None:
    path = ods(line("0812", "1", said=MANY))
    result = run("bulk", "whatsapp-detail", path, "-o", "out.csv", "--sandbox")
    assert result.exit_code == 2
    assert the_error(result).startswith("the workbook 'in.ods' has more than 27,262,976 cells")
    assert {each.name for each in Path().iterdir()} == {"in.ods"}
