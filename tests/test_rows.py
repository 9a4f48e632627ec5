"""Rows in: every format, as people have them, whole and damaged."""

from __future__ import annotations

import codecs
import csv
import datetime
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aisolution_async import DeleteFace, SearchFace
from aisolution_async.bulk import source
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.parquet import column
from aisolution_async.bulk.rows import MISSING, Row, Rows, UnreadableInputError, text
from aisolution_async.errors import ConfigurationError, InputError

from .support import examples

wide = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


NAIVE = datetime.datetime.fromisoformat("2026-01-02 03:04:05")


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **options: Any) -> list[Row]:
    """All rows, as many as `count()` says."""
    with Rows(path, **options) as rows:
        found = list(rows)
        assert rows.total in (None, len(found))
    with Rows(path, **options) as rows:
        assert rows.count(lambda: False) == len(found)
    return found


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Rows(path, **options)
    return str(caught.value).replace(repr(str(path)), "'IN'")


def workbook(path: Path, sheets: dict[str, list[list[Any]]], hide: tuple[str, ...] = ()) -> Path:
    with xlsxwriter.Workbook(path, {"strings_to_numbers": False, "remove_timezone": True}) as book:
        for name, lines in sheets.items():
            sheet = book.add_worksheet(name)
            if name in hide:
                sheet.hide()
            elif hide:
                sheet.activate()
            for number, line in enumerate(lines):
                for place, cell in enumerate(line):
                    if isinstance(cell, datetime.date):
                        style = "yyyy-mm-dd hh:mm:ss" if isinstance(cell, datetime.datetime) else "yyyy-mm-dd"
                        sheet.write_datetime(number, place, cell, book.add_format({"num_format": style}))
                    elif isinstance(cell, str):
                        sheet.write_string(number, place, cell)
                    elif cell is not None:
                        sheet.write(number, place, cell)
    return path


# ------------------------------------------------------------------------------------------------------- CSV, TSV


def delimited(lines: list[list[str]], delimiter: str, encoding: str, errors: str = "strict") -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(lines)
    return file.getvalue().encode(encoding, errors)


def without_end(table: list[list[str]]) -> list[list[str]]:
    """The rows of a table, without empty ones at its end."""
    rows = table[1:]
    while rows and len(rows[-1]) > 1 and not any(rows[-1]):
        rows.pop()
    return rows


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> list[list[str]]:
    width = draw(st.integers(1, 4))
    lines = draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=8))
    return [[f"column {place}" for place in range(width)], *lines]


@wide
@given(
    table=tables(st.text()),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    ending=st.sampled_from(["csv", "tsv", "txt"]),
)
def test_any_cells_come_as_they_were_written(
    tmp_path: Path, table: list[list[str]], delimiter: str, encoding: str, ending: str
) -> None:
    path = write(tmp_path / f"in.{ending}", delimited(table, delimiter, encoding))
    # Of one column, nobody can tell.
    given_: dict[str, Any] = {"delimiter": delimiter} if len(table[0]) == 1 else {}
    assert [row.cells for row in read(path, **given_)] == without_end(table)
    with Rows(path, **given_) as rows:
        assert rows.header == table[0]
        assert rows.encoding == {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(encoding, encoding)
        assert rows.delimiter == delimiter
        # A file in the input's own form.
        assert rows.encoding is not None
        copy = rows.bom + delimited(table, delimiter, rows.encoding, rows.errors)
        assert all(row.problem is None for row in rows)
    assert copy == path.read_bytes()


@wide
@given(
    table=tables(st.lists(st.sampled_from(["José", "Müller,x", "Größe\nb", "ÑOÑO", ";a", "\t", "a"])).map(" ".join)),
    delimiter=st.sampled_from(",;\t|"),
)
def test_cells_in_cp1252(tmp_path: Path, table: list[list[str]], delimiter: str) -> None:
    table.append([f"René{place}" for place in range(len(table[0]))])
    path = write(tmp_path / "in.csv", delimited(table, delimiter, "cp1252"))
    assert [row.cells for row in read(path, delimiter=delimiter)] == without_end(table)
    with Rows(path) as rows:
        assert re.search(
            r", cp1252 \(a guess: it is not UTF-8; it reads '(René|Müller|Größe|José|ÑOÑO)'\)$", rows.about
        )


@wide
@given(content=st.binary(max_size=200), ending=st.sampled_from(["csv", "tsv", "txt", "jsonl"]))
def test_bytes_of_any_kind_are_read_or_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = write(tmp_path / f"in.{ending}", content)
    try:
        found = read(path)
    except (ConfigurationError, UnreadableInputError):
        return
    with Rows(path) as rows:
        assert all(len(row.cells) == len(rows.header) for row in found)


@pytest.mark.parametrize(
    ("content", "about", "cells"),
    [
        (b"ref;n\nA;1,5\nB;2,5\n", "CSV, ';' between cells, UTF-8", ["A", "1,5"]),
        (b"ref;n\n", "CSV, ';' between cells, UTF-8", None),
        (b"a, b;n;m\nx, y;1;2\n", "CSV, ';' between cells, UTF-8", ["x, y", "1", "2"]),
        (b"a,n;m\nx,1\ny,2\n", "CSV, ',' between cells, UTF-8", ["x", "1"]),
        (b"a;b\nx\ny\n", "CSV, ',' between cells, UTF-8", ["x"]),
        (b"a;b\nx;1\ny\nz;1;2\nz;1\n", "CSV, ';' between cells, UTF-8", ["x", "1"]),
        (b"sep=|\r\na|b\r\nx|1;2\r\n", "CSV, '|' between cells, UTF-8", ["x", "1;2"]),
        (b'\xef\xbb\xbf"SEP=!"\na!b\nx!1\n', "CSV, '!' between cells, UTF-8", ["x", "1"]),
        ("sep=\t\na\tb\nx\t1\n".encode("utf-16"), "CSV, tabs between cells, UTF-16 LE", ["x", "1"]),
        ("a,b\nx,1\n".encode("utf-32"), "CSV, ',' between cells, utf-32-le", ["x", "1"]),
        ("a,b\nx,é\n".encode("utf-16-be"), "CSV, ',' between cells, UTF-16 BE (a guess, by its NULs)", ["x", "é"]),
        (b"a,b\rx,1\ry,2\r", "CSV, ',' between cells, UTF-8", ["x", "1"]),
        (b"a,b\nx,\0\n", "CSV, ',' between cells, UTF-8", ["x", "\0"]),
        (b"a;b;\nx;1;\ny;2\n", "CSV, ';' between cells, UTF-8", ["x", "1"]),
        (b"a;b;\nx;1\ny;2\n", "CSV, ';' between cells, UTF-8", ["x", "1"]),
        (b"a;b\nx;1;\ny;2;\n", "CSV, ';' between cells, UTF-8", ["x", "1"]),
        (b"A list, of 2026\n\na;b;c\nx;1;2\n", "CSV, ';' between cells, UTF-8", ["x", "1", "2"]),
        (b"a;b;c;d\nx;1\ny;1;2\nz;1;2;3\n", "CSV, ';' between cells, UTF-8", ["x", "1", "", ""]),
    ],
)
def test_what_is_found_out(tmp_path: Path, content: bytes, about: str, cells: list[str] | None) -> None:
    path = write(tmp_path / "in.csv", content)
    with Rows(path) as rows:
        assert rows.about == about
        assert rows.format == "csv"
    found = read(path)
    assert (found[0].cells if found else None) == cells


def test_what_is_given_is_not_found_out(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", "a;b,c\nŻ;1,2\n".encode("cp1250"))
    with Rows(path, delimiter=",", encoding="CP1250") as rows:
        assert (rows.header, rows.delimiter, rows.encoding) == (["a;b", "c"], ",", "cp1250")
        assert next(iter(rows)).cells == ["Ż;1", "2"]
    assert read(write(tmp_path / "sep.csv", "sep=;\na,b\n1,2\n"), delimiter=",")[0].cells == ["1", "2"]
    utf16 = write(tmp_path / "16.csv", "a,b\n1,2\n".encode("utf-16-be"))
    assert read(utf16, encoding="utf-16-be")[0].cells == ["1", "2"]
    marked = write(tmp_path / "marked.csv", codecs.BOM_UTF16_BE + "a,b\n1,2\n".encode("utf-16-be"))
    assert read(marked, encoding="utf-16")[0].cells == ["1", "2"]
    assert read(write(tmp_path / "8.csv", "\ufeffa,b\n1,2\n"), encoding="utf-8-sig")[0].cells == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("in.csv", {"delimiter": "::"}, "delimiter must be one character, and no quote or newline, not '::'"),
        ("in.csv", {"encoding": "klingon"}, "encoding must be one that Python knows, like utf-8 or cp1252, not"),
        ("in.csv", {"encoding": "base64"}, "encoding must be one that Python knows"),
        ("in.csv", {"sheet": "A"}, "sheet does not go with 'IN': it is for XLSX"),
        ("in.jsonl", {"delimiter": ";"}, "delimiter does not go with 'IN': it is for CSV and TSV"),
        ("in.parquet", {"encoding": "utf-8"}, "encoding does not go with 'IN': it is for CSV and TSV and JSONL"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, name: str, options: dict[str, Any], problem: str) -> None:
    assert refused(write(tmp_path / name, "a,b\n"), **options).startswith(problem)


def problems_of(path: Path, column: str, key: str | None = None) -> list[str]:
    """What is wrong with the rows whose person is in that column."""
    with Rows(path) as rows:
        calls = Calls([DeleteFace], rows, columns={"person_id": column}, values={}, key=key)
        with closing(calls):
            made = [call for row in rows for call in calls.make(row)]
    return [str(call) for call in made if isinstance(call, InputError)]


def test_bad_bytes_far_down_are_trouble_of_their_cell_alone(tmp_path: Path) -> None:
    filler = "".join(f"{number},é{'x' * 100}\n" for number in range(12_000)).encode()
    path = write(tmp_path / "in.csv", b"a,b\n" + filler + b"bad,Jos\xe9\n" + b"good,x\n")
    found = read(path)
    assert {row.problem for row in found} == {None}
    assert problems_of(path, "b") == [
        "line 12002: column 'b' has bytes that are no text as the file is written: "
        "save the file as CSV in UTF-8 (in Excel: 'CSV UTF-8')"
    ]
    assert problems_of(path, "a") == []
    assert found[-2].cells[1].encode("utf-8", "surrogateescape") == b"Jos\xe9"
    latin = filler.decode().encode("cp1252")
    path = write(tmp_path / "latin.csv", b"a,b\n" + latin + "utf,é\n".encode() + b"undefined,\x81\n")
    found = read(path)
    assert found[-2].cells == ["utf", "Ã©"]
    assert [problem[:41] for problem in problems_of(path, "b")] == ["line 12003: column 'b' has bytes that are"]


def test_half_of_a_surrogate_pair_in_utf_16(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", "\ufeffa,b\n\ud800,1\nx,2\n".encode("utf-16-le", "surrogatepass"))
    bad, good = read(path)
    assert (bad.cells, good.cells) == (["\ud800", "1"], ["x", "2"])
    assert [problem[:33] for problem in problems_of(path, "a")] == ["line 2: column 'a' has bytes that"]
    assert [problem[:37] for problem in problems_of(path, "b", key="a")] == ["line 2: the key in column 'a' has byt"]
    path = write(tmp_path / "cut.csv", "\ufeffa,b\n1,2\n3,4".encode("utf-16-le")[:-1])
    with pytest.raises(UnreadableInputError, match="cannot be read on from line 3: it is not utf-16-le there"):
        read(path)


def test_what_spreadsheets_leave_at_the_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", "phone,nama,,\n1,A,,\n,,,\n2,B\n3,C,,x\n4,D,,,\n,,,\n,,,\n")
    with Rows(path) as rows:
        assert rows.header == ["phone", "nama", "column C", "column D"]
        assert rows.notes == ["columns without a name are called 'column C', 'column D'"]
    path = write(tmp_path / "in.csv", "phone,nama,,\n1,A,,\n,,,\n2,B\n4,D,,,\n" + "5,E\n" * 300 + "3,C,,x\n,,,\n,,,\n")
    with Rows(path) as rows:
        assert rows.header == ["phone", "nama"]
    found = read(path)
    assert [(row.line, row.cells) for row in found] == [
        (2, ["1", "A"]), (3, ["", ""]), (4, ["2", "B"]), (5, ["4", "D"]),
        *[(line, ["5", "E"]) for line in range(6, 306)], (306, ["3", "C"]),
    ]  # fmt: skip
    assert {row.problem for row in found[:-1]} == {None}
    assert found[-1].problem == "line 306: 2 more cells: '', 'x', in columns that the header does not name"


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", 'sep=,\n\na,b\n"1\n2",x\n\n3\n"open,\n')
    found = read(path)
    assert [row.line for row in found] == [4, 7, 8]
    assert [row.problem for row in found] == [
        None,
        None,
        "line 8: a quote is opened here and never closed: close it, or remove it",
    ]


def test_a_cell_of_an_image(tmp_path: Path) -> None:
    image = "A" * (5 << 20)
    for name, content in (
        ("in.csv", f"ref;img\nA;{image}\n"),
        ("in.jsonl", json.dumps({"ref": "A", "img": image}) + "\n"),
    ):
        assert read(write(tmp_path / name, content))[0].cells == ["A", image]


# ---------------------------------------------------------------------------------------------------------- JSONL


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@wide
@given(
    objects=st.lists(st.dictionaries(st.text(), JSON, max_size=5), max_size=8),
    is_ascii=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_objects_come_as_they_were_written(
    tmp_path: Path, objects: list[dict[str, Any]], is_ascii: bool, encoding: str
) -> None:
    objects = [{"first": 1}, *objects]
    lines = "".join(json.dumps(value, ensure_ascii=is_ascii) + "\r\n\n" for value in objects)
    path = write(tmp_path / "in.jsonl", lines.encode(encoding))
    found = read(path)
    with Rows(path) as rows:
        assert rows.header == list(dict.fromkeys(key for value in objects for key in value))
    for row, value in zip(found, objects, strict=True):
        assert row.problem is None
        held = {name: cell for name, cell in zip(rows.header, row.cells, strict=True) if cell is not MISSING}
        assert json.dumps(held, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_lines_of_jsonl_that_cannot_be_used(tmp_path: Path) -> None:
    deep = "[" * 100_000
    lines = [
        '{"a": 1, "b": null}',
        '{"c": 2}',
        "",
        "not json",
        "[1, 2]",
        '{"a": 1, "a": 2}',
        '{"a": "\\ud800"}',
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": ' + "9" * 5000 + "}",
        deep,
        '{"a": {"x": 1, "x": 2}, "\\udfff": 3}',
        '{"a": 1',
    ]
    path = write(tmp_path / "in.jsonl", "\n".join(lines).encode() + b'\n{"a": "Jos\xe9"}')
    found = read(path)
    assert [row.line for row in found] == [1, 2, *range(4, 15)]
    assert [row.cells for row in found[:2]] == [[1, None, MISSING], [MISSING, MISSING, 2]]
    assert [row.problem for row in found] == [
        None,
        None,
        "line 4: this is no JSON: Expecting value at column 1",
        "line 5: this is an array and not an object",
        "line 6: the key 'a' is there twice: remove one of them",
        "line 7: this has half of a surrogate pair in it, which is no text: remove it",
        "line 8: this cannot be kept: it has a number that is too large",
        "line 9: this cannot be kept: NaN is no JSON",
        "line 10: this cannot be kept: it has a number of too many digits",
        "line 11: this is nested too deeply",
        "line 12: the key 'x' is there twice: remove one of them; 1 more cell: '\\udfff: 3'",
        "line 13: this is no JSON: Expecting ',' delimiter at column 9",
        "line 14: this is not utf-8: save the file as JSONL in UTF-8: one object a line",
    ]
    assert [row.raw for row in found if row.raw is not None] == [*lines[3:5], *lines[7:11], lines[12]]
    assert found[-1].cells[0] == "Jos\udce9"
    with Rows(path) as rows:
        assert rows.header == ["a", "b", "c"]


def test_standard_input_is_jsonl_that_can_be_read_twice(tmp_path: Path) -> None:
    code = """
import os, stat, sys, tempfile
from aisolution_async.bulk.rows import Rows
with Rows("-") as rows:
    file = rows._reader._file
    print(rows.header, rows.total, [row.cells for row in rows], rows.path.absolute().parent == rows.path.cwd())
    print(oct(stat.S_IMODE(os.fstat(file.fileno()).st_mode)), os.fstat(file.fileno()).st_nlink, os.listdir(sys.argv[1]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=b'{"a": 1}\n{"b": 2}\n',
        capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=True,
    )
    assert ran.stdout.decode().splitlines() == ["['a', 'b'] 2 [[1, MISSING], [MISSING, 2]] True", "0o600 0 []"]


def test_a_file_that_grows_meanwhile(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", '{"a": 1}\n')
    with Rows(path) as rows:
        write(path, '{"a": 1}\n{"new": 2}\n')
        assert [row.problem for row in rows] == [
            None,
            "line 2: keys that were not there when the file was read before: was it changed meanwhile?; "
            "1 more cell: 'new: 2'",
        ]


def test_keys_that_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_COLUMNS", 10)
    path = write(tmp_path / "in.jsonl", "".join(f'{{"{number}": 1}}\n' for number in range(20)))
    assert refused(path).startswith("'IN' has more than 10 different keys by line 11: ")


# -------------------------------------------------------------------------------------------------------- Parquet


TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text()),
    (pa.large_string(), st.text()),
    (pa.dictionary(pa.int32(), pa.string()), st.text(max_size=3)),
    (pa.binary(), st.binary()),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint8(), st.integers(0, 255)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.date32(), st.dates()),
    (pa.timestamp("us"), st.datetimes(NAIVE.replace(year=1800), NAIVE.replace(year=9000))),
    (pa.timestamp("ms", "UTC"), st.just(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))),
    (pa.decimal128(20, 2), st.integers(-(10**15), 10**15).map(lambda cents: Decimal(cents).scaleb(-2))),
    (pa.list_(pa.int64()), st.lists(st.integers(0, 9), max_size=3)),
    (pa.struct([("x", pa.string())]), st.fixed_dictionaries({"x": st.text()})),
]


@wide
@given(data=st.data(), kinds=st.lists(st.sampled_from(TYPES), min_size=1, max_size=5), rows=st.integers(0, 20))
def test_any_table_comes_as_it_was_written(tmp_path: Path, data: st.DataObject, kinds: list[Any], rows: int) -> None:
    values = [data.draw(st.lists(st.none() | cells, min_size=rows, max_size=rows)) for _, cells in kinds]
    arrays = [pa.array(cells, type_) for cells, (type_, _) in zip(values, kinds, strict=True)]
    path = tmp_path / "in.parquet"
    table = pa.table(arrays, names=[f"c{place}" for place in range(len(arrays))])
    pq.write_table(table, path, row_group_size=7)
    found = read(path)
    assert [row.line for row in found] == list(range(1, rows + 1))
    assert [list(cells) for cells in zip(*(row.cells for row in found), strict=True)] == (values if rows else [])
    with Rows(path) as rows_:
        assert rows_.schema.equals(pq.read_schema(path))
        again = [column([row.cells[place] for row in found], type_) for place, type_ in enumerate(rows_.schema.types)]
    assert pa.table(again, names=table.column_names).equals(pq.read_table(path))


def test_what_python_has_no_value_for(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    invalid = pa.array([b"fine", b"Jos\xe9"]).view(pa.string())
    table = pa.table(
        {
            "ns": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "UTC")),
            "year": pa.array([253_500_000_000_000, 0], pa.timestamp("ms")),
            "time": pa.array([1_001, 2_000], pa.time64("ns")),
            "name": invalid,
        }
    )
    pq.write_table(table, path)
    first, second = read(path)
    assert first.cells[0] == "2023-11-14 22:13:20.123456789Z"
    assert first.cells[1] == 253_500_000_000_000
    assert first.problem is None
    assert second.cells[3] == "Jos\udce9"
    assert second.problem == "row 2: column 'name' is not UTF-8: write the file anew as Parquet"
    with Rows(path) as rows:
        for place in range(3):
            cells = [row.cells[place] for row in (first, second)]
            assert column(cells, rows.schema.types[place]).equals(table.column(place).combine_chunks()), place


def test_a_row_group_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    table = pa.table({"number": [str(random.Random(n).random()) for n in range(2000)]})
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0xFF
    write(path, bytes(content))
    seen: list[int] = []
    with (
        Rows(path) as rows,
        pytest.raises(UnreadableInputError, match=r"cannot be read on from row 1\d{3}: .*copy") as c,
    ):
        seen.extend(row.line for row in rows)
    assert len(seen) >= 1000
    assert "\n" not in str(c.value)


# ------------------------------------------------------------------------------------------------------ workbooks


def _is_whole(value: float) -> bool:
    return value.is_integer() and abs(value) < 1e17


XLSX = (
    st.none()
    | st.booleans()
    | st.integers(-(10**14), 10**14)
    | st.floats(-1e300, 1e300).map(lambda value: float(f"{value:.15g}"))
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff"), min_size=1, max_size=20)
    | st.dates(datetime.date(1900, 3, 1))
)


@wide
@given(table=st.lists(st.lists(XLSX, min_size=3, max_size=3), max_size=6))
def test_any_sheet_comes_as_it_was_written(tmp_path: Path, table: list[list[Any]]) -> None:
    path = workbook(tmp_path / "in.xlsx", {"A": [["a", "b", "c"], *table]})
    found = read(path)
    # Of a float that is whole, the digits are those of its text.
    wanted = [line for line in table if line != [None] * 3]
    exact = [[int(Decimal(repr(v))) if type(v) is float and _is_whole(v) else v for v in line] for line in wanted]
    assert [row.cells for row in found] == exact
    assert [row.line for row in found] == [n for n, line in enumerate(table, 2) if line != [None] * 3]
    assert all(row.problem is None for row in found)


def test_numbers_and_dates_of_a_sheet(tmp_path: Path) -> None:
    cells = [
        6281234567890,
        "081234567890",
        1.5,
        True,
        NAIVE,
        "1,234",
        3174012345678901.0,
    ]
    path = workbook(tmp_path / "in.xlsx", {"A": [[f"c{place}" for place in range(len(cells))], cells]})
    [row] = read(path)
    assert row.cells[:-1] == cells[:-1]
    assert type(row.cells[0]) is int
    assert [text(cell) for cell in row.cells] == [
        "6281234567890", "081234567890", "1.5", "true", "2026-01-02T03:04:05", "1,234", "3174012345678901"
    ]  # fmt: skip


def test_where_a_table_stands(tmp_path: Path) -> None:
    none: list[Any] = []
    lines = [none, [None, None, "ref", "phone"], [None, None, "A", 1], none, [None, "x", "B", 2, None, "y"], none]
    path = workbook(tmp_path / "in.xlsx", {"A": lines})
    first, second = read(path)
    assert (first.line, first.cells, first.problem) == (3, [None, "A", 1, None], None)
    assert (second.line, second.cells, second.problem) == (5, ["x", "B", 2, "y"], None)
    with Rows(path) as rows:
        assert rows.header == ["column B", "ref", "phone", "column F"]
        assert rows.notes == ["columns without a name are called 'column B', 'column F'"]
    path = workbook(tmp_path / "one.xlsx", {"A": [["phone"], ["1"], none, ["2"], none]})
    assert [(row.line, row.cells) for row in read(path)] == [(2, ["1"]), (3, [None]), (4, ["2"])]
    gap = workbook(tmp_path / "gap.xlsx", {"A": [none, [None, "ref", None, None, "phone"], [None, 1, None, 2, 3]]})
    with Rows(gap) as rows:
        assert rows.header == ["ref", "column D", "phone"]
        assert [row.cells for row in rows] == [[1, 2, 3]]


def test_sheets(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "in.xlsx",
        {"Old": [["a"], ["0"]], "New & <b>": [["a"], ["1"]], "2": [["a"], ["2"]], "Empty": []},
        hide=("Old",),
    )
    with Rows(path) as rows:
        assert rows.about == "XLSX workbook, sheet 'New & <b>' (of 'Old', 'New & <b>', '2', 'Empty')"
        assert rows.format == "xlsx"
    assert read(path)[0].cells == ["1"]
    assert read(path, sheet="2")[0].cells == ["2"]
    assert read(path, sheet="Old")[0].cells == ["0"]
    assert read(path, sheet="1")[0].cells == ["0"]
    assert read(path, sheet="new & <B> ")[0].cells == ["1"]
    names = "'Old', 'New & <b>', '2', 'Empty'"
    assert refused(path, sheet="Nope") == f"the workbook 'IN' has no sheet 'Nope': its sheets are {names}"
    assert refused(path, sheet="Empty").startswith("sheet 'Empty' of 'IN' is empty: its first row must name the col")


def test_errors_and_formulas_of_a_sheet(tmp_path: Path) -> None:
    path = tmp_path / "in.xlsx"
    with xlsxwriter.Workbook(path) as book:
        book.add_worksheet("Other").write_formula(1, 0, "=1/0", None, "#DIV/0!")
        sheet = book.add_worksheet("A <&> 'b' c")
        sheet.write_row(0, 1, ["ref", "phone"])
        sheet.write_formula(1, 1, "=X", None, "#REF!")
        sheet.write_formula(1, 2, "=1+1", None, 2)
        sheet.write_row(2, 1, ["B", "3"])
        sheet.write_formula(3, 2, "=1/0", None, "#N/A")
    assert [row.cells for row in read(path, sheet="A <&> 'b' c")] == [["#REF!", 2], ["B", "3"], [None, "#N/A"]]


def test_formulas_that_were_never_calculated(tmp_path: Path) -> None:
    path = tmp_path / "in.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("A")
        sheet.write_row(0, 0, ["ref", "img"])
        sheet.write_row(1, 0, ["A", "a.jpg"])
        for row in (2, 4):
            sheet.write_formula(row, 0, "=A1&A2", None, "")
            sheet.write_formula(row, 1, "=B2", None, "")
        sheet.write_formula(3, 0, "=1+1", None, 2)
    never = ["#UNCALCULATED"] * 2
    assert [row.cells for row in read(path)] == [["A", "a.jpg"], never, [2, None], never]
    with Rows(path) as rows:
        with closing(Calls([SearchFace], rows, columns={}, values={}, key="ref")) as calls:
            problem = str([calls.make(row)[0] for row in rows][1])
    assert "row 3: column 'img' is a formula that was never calculated: open and save" in problem


def test_a_cell_far_from_all_others(tmp_path: Path) -> None:
    """The room between would be 550 GB, and to ask for it ends the process."""
    path = tmp_path / "in.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("A")
        sheet.write(0, 0, "phone")
        sheet.write(1048575, 16383, " ")
    assert refused(path).startswith(
        "sheet 'A' of 'IN' reaches to cell XFD1048576, far from all others: empty that cell"
    )
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("A")
        sheet.write_column(0, 0, ["phone", "1"])
        sheet.write_blank(1048575, 16383, None, book.add_format({"bold": True}))
    assert [row.cells for row in read(path)] == [["1"]]


FAR = ["r='ZZZ9999999'", 'r="zzz9999999"', 'r="A99999999"', "r='A1999999999'", 'r="XFD1048576"']


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("cell", "rows"),
    [
        *((cell, 1) for cell in (*FAR, 'r = "ZZZ9999999"')),
        (FAR[1], 60_000),
        *(pytest.param(cell, 60_000, marks=pytest.mark.long) for cell in (FAR[0], *FAR[2:])),
    ],
)
def test_a_cell_that_says_another_row_than_the_one_around_it(tmp_path: Path, cell: str, rows: int) -> None:
    """In a large sheet, only as programs write it: to look for it in other forms would be dear."""
    path = tmp_path / "in.xlsx"
    whole = workbook(
        tmp_path / "whole.xlsx", {"A": [["phone", "name"], *[[f"+62{n:011}", "name"] for n in range(rows)]]}
    )
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as to:
        for name in archive.namelist():
            part = archive.read(name)
            if name.endswith("sheet1.xml"):
                part = part.replace(b"</row>", f"<c {cell}><v>1</v></c></row>".encode(), 1)
            to.writestr(name, part)
    assert "far from all others: empty that cell" in refused(path)


# ---------------------------------------------------------------------------------------- files that are of no use


def damaged_workbook(tmp_path: Path) -> bytes:
    content = workbook(tmp_path / "whole.xlsx", {"A": [["a"], *[[str(n)] for n in range(5000)]]}).read_bytes()
    return content[: len(content) // 2]


def no_workbook(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "b")
    return (tmp_path / "x.zip").read_bytes()


def parquet(tmp_path: Path, names: tuple[str, ...] = ("a",)) -> bytes:
    pq.write_table(pa.table([pa.array([1])] * len(names), names=names), tmp_path / "whole.parquet")
    return (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(
    ("name", "make", "problem"),
    [
        ("in.csv", b"", "'IN' is empty: its first line must name the columns"),
        ("in.csv", b"sep=;\n", "'IN' is empty: its first line must name the columns"),
        ("in.csv", b"\xff\xfe", "'IN' is empty: its first line must name the columns"),
        ("in.csv", gzip.compress(b"a", mtime=0), "the input 'IN' is compressed with gzip: unpack it first"),
        ("in.csv", no_workbook, "the input 'IN' is an Excel workbook (or another ZIP file): save the file as CSV"),
        ("in.csv", b"a\0,b\0c\n", "'IN' is no CSV: its first line has NUL bytes; save the file as CSV"),
        ("in.csv", b",,\n \n", "'IN' is empty: its first line must name the columns"),
        ("in.jsonl", b"", "'IN' is empty: it must have one JSON object a line"),
        ("in.jsonl", b"\n \n", "'IN' is empty: it must have one JSON object a line"),
        ("in.jsonl", b"{}\n", "'IN' has no keys: its objects must name the columns"),
        ("in.jsonl", b'[\n{"a": 1},\n{"a": 2}\n]\n', "'IN' is a JSON array: it must have one object a line, as `jq -c"),
        ("in.jsonl", b'[{"a": 1}, {"a": 2}]', "'IN' is a JSON array: it must have one object a line, as `jq -c '.[]'`"),
        ("in.jsonl", b'{\n"a": 1\n}\n', "'IN' is no JSONL, which has one object a line"),
        ("in.ndjson", gzip.compress(b"{}", mtime=0), "the input 'IN' is compressed with gzip: unpack it first"),
        ("in.parquet", b"", "the input 'IN' is empty: it must be a Parquet file"),
        ("in.parquet", b"a,b\n", "the input 'IN' is no Parquet file: write the file anew as Parquet"),
        ("in.parquet", b"PARE" + b"x" * 100, "the input 'IN' is an encrypted Parquet file: write the file anew"),
        ("in.parquet", lambda path: parquet(path)[:-60], "the input 'IN' cannot be read as Parquet (Parquet magic"),
        ("in.parquet", lambda path: parquet(path)[:100], "the input 'IN' cannot be read as Parquet (Parquet magic"),
        ("in.parquet", lambda path: parquet(path, ("a", "a")), "'IN': two columns are named 'a': rename one of them"),
        ("in.parquet", lambda path: parquet(path, ("a", "")), "'IN': column 2 has no name: name or remove it"),
        ("in.xlsx", b"", "the input 'IN' is empty: it must be a workbook"),
        ("in.xlsx", no_workbook, "the input 'IN' is a ZIP file, but no workbook that can be read; it may be cut"),
        ("in.xlsx", damaged_workbook, "the input 'IN' is a ZIP file, but no workbook that can be read; it may be cut"),
        ("in.xlsx", b"\xd0\xcf\x11\xe0" + b"\0" * 2000, "the input 'IN' is no workbook that can be read; it may be"),
        ("in.xls", b"<html><table>", "the input 'IN' is a web page without a table: open it in Excel"),
        ("in.xls", b"<a/>", "the input 'IN' is XML under the name of a sheet: open it in Excel and save it as"),
        ("in.xls", b"MIME-Version: 1.0\r\n", "the input 'IN' is a web archive (MHTML), un"),
        ("in.xls", b"ID;PWXL;N;E\r\nP;PGeneral\r\n", "the input 'IN' is a sheet in SYLK, a format of before Excel"),
        ("in.xls", b'<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>', "the input 'IN' is a sheet in"),
        ("in.xls", b"\x09\x04\x06\x00\x00\x00\x10\x00", "the input 'IN' is a workbook of before Excel 97: open it in"),
        ("in.xlsx", b"PAR1", "the input 'IN' cannot be read as Parquet (Parquet file size is 4 bytes"),
        ("in.csv.gz", b"", "the input 'IN' must end in .csv, .tsv, .tab, .txt, .jsonl, .ndjson, .parquet, .pq, "),
        ("in.json", b"", "the input 'IN' must end in "),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(
    tmp_path: Path, name: str, make: bytes | Callable[[Path], bytes], problem: str
) -> None:
    path = write(tmp_path / name, make if isinstance(make, bytes) else make(tmp_path))
    assert refused(path).startswith(problem)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "xlsx", "ods"])
def test_files_that_are_none(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"in.{ending}"
    assert refused(path) == "the input 'IN' does not exist: check the path"
    path.mkdir()
    assert refused(path) == "the input 'IN' is a directory: name a file in it"
    path.rmdir()
    os.mkfifo(path)
    assert refused(path) == "the input 'IN' is no regular file: save what it gives to a file first"
    path.unlink()
    write(path, "a")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything
    assert refused(path) == "the input 'IN' may not be read: check the file's permissions"


@pytest.mark.parametrize(
    ("name", "module", "what"),
    [
        ("in.parquet", "pyarrow", "Parquet needs pyarrow"),
        ("in.xlsx", "python_calamine", "workbooks need python-calamine"),
    ],
)
def test_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, what: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert refused(write(tmp_path / name, b"PK\x03\x04")) == f"{what}: pip install 'aisolution-async[cli]'"


def test_heavy_packages_are_not_imported_for_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", "a\n1\n")
    code = "import sys; from aisolution_async.bulk.rows import Rows; list(Rows(sys.argv[1]).__enter__())"
    code += "; print([name for name in ('pyarrow', 'python_calamine') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, check=True)
    assert ran.stdout.decode().strip() == "[]"


def test_a_column_that_is_missing(tmp_path: Path) -> None:
    with Rows(write(tmp_path / "in.csv", "ref:number\n1:2\n")) as rows:
        problem = str(rows.missing("number", "number"))
    assert problem.endswith("its columns are 'ref:number'; it was read as CSV, ',' between cells, UTF-8")
    with Rows(write(tmp_path / "data.csv", "A,6281387300008\n")) as rows:
        problem = str(rows.missing("number", "number"))
    assert problem.endswith("columns are 'A', …; the first line looks like data, and must name the columns")


# ----------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("0812", "0812"),
        (None, ""),
        (MISSING, ""),
        (6281234567890, "6281234567890"),
        (6281234567890.0, "6281234567890"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (999_999_999_999_999.0, "999999999999999"),
        (3171234567890123.0, "3171234567890123"),
        (2.0**53, "9.007199254740992e+15"),
        (1e300, "1e+300"),
        (float("nan"), ""),
        (float("inf"), "inf"),
        (True, "true"),
        (False, "false"),
        (Decimal("6.28E+12"), "6280000000000"),
        (Decimal("6281234567890.00"), "6281234567890"),
        (Decimal("1.50"), "1.50"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (NAIVE, "2026-01-02T03:04:05"),
        (datetime.time(3, 4), "03:04:00"),
        (b"+62812", "+62812"),
        (b"\xff\xd8", "/9g="),
        (["é", {"a": datetime.date(2026, 1, 2)}], '["é", {"a": "2026-01-02"}]'),
    ],
)
def test_text(cell: Any, expected: str) -> None:
    assert text(cell) == expected


# ---------------------------------------------------------------------------------------------------------- images


def test_how_images_are_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    write(photos / "a.jpg", b"\xff\xd8\xff")
    (photos / "link.jpg").symlink_to("/etc/hostname")
    names = ["photos\\a.jpg", "..\\a.jpg", "https://example.com/a.jpg", "file:///a.jpg", "photos/link.jpg", "a.jpg"]
    with Rows(write(tmp_path / "in.csv", "img\n" + "\n".join(names))) as rows:
        calls = Calls([SearchFace], rows, columns={}, values={}, key=None, images_root=photos)
        found = [calls.make(row)[0] for row in rows]
        calls.close()
    out = "leads out of the images' folder (--images): name a file in it"
    url = "is a URL: download the image, and name its file"
    assert [call.img if isinstance(call, SearchFace) else str(call).partition("'img' ")[2] for call in found] == [
        photos / "a.jpg", out, url, photos / "a.jpg", out, photos / "a.jpg"
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- memory


def csv_lines() -> Iterator[str]:
    yield "ref;number;note\n"
    for number in range(60_000):
        yield f"A{number};62813{number:08};something about é\n"


def json_lines() -> Iterator[str]:
    for number in range(35_000):
        yield f'{{"ref": "A{number}", "number": 62813{number:08}, "note": "something about é"}}\n'


@pytest.mark.no_cover
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_memory_stays_flat(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.{ending}"
    if ending == "parquet":
        table = pa.table({"img": [os.urandom(100_000).hex() for _ in range(200)]})  # 40 MB
        pq.write_table(table, path, write_batch_size=5)  # a page is read as a whole, and is of so many rows at least
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(csv_lines() if ending == "csv" else json_lines())
    before = pa.total_allocated_bytes()
    pool = 0
    tracemalloc.start()
    try:
        with Rows(path) as rows:
            for _ in rows:
                pool = max(pool, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The sample is 1 MiB, three times; a batch of Parquet is of 16 MiB, in Arrow and in Python.
    assert peak < {"csv": 16e6, "jsonl": 16e6, "parquet": 36e6}[ending]
    assert pool < 40e6
