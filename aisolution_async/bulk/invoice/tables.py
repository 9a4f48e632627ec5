"""The tables of an invoice's file: of text with some sign between the cells, or the sheets of a workbook.

What it is, its content says, not its ending.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aisolution_async.bulk import source, workbooks
from aisolution_async.bulk.delimited import SAVE_AS, open_text
from aisolution_async.bulk.invoice.reading import Hints, Invoice, Line, Lines, NoTableError, columns_of, understand
from aisolution_async.bulk.source import open_bytes
from aisolution_async.errors import ConfigurationError

_DELIMITERS = ",;\t|"
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_SAVE_AS = "open it in Excel and save it as .xlsx, without a password"


def read(path: Path, hints: Hints, sheet: str | None = None) -> Invoice:
    """Read the invoice in a file; of a workbook the one sheet that is one, or `sheet`.

    Raises ConfigurationError for what cannot be read for sure.
    """
    with open_bytes(path) as file:
        head = file.read(512)
    if head.startswith(_WORKBOOKS):
        return _of_workbook(path, hints, sheet)
    if sheet is not None:
        raise ConfigurationError(f"--sheet is for workbooks, and {str(path)!r} is none")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise ConfigurationError(f"the input {str(path)!r} is a web page or XML: {_SAVE_AS}")
    return _of_text(path, hints)


def _of_text(path: Path, hints: Hints) -> Invoice:
    best, most = ",", 0
    problem: NoTableError | None = None
    for delimiter in _DELIMITERS:
        try:
            columns = columns_of(_lines(path, delimiter), str(path), hints)
        except NoTableError as exc:
            problem = max(problem or exc, exc, key=lambda found: found.fitting)
        else:
            if columns > most:
                best, most = delimiter, columns
    if not most:
        assert problem is not None
        raise problem
    return understand(_lines(path, best), str(path), hints)


def _lines(path: Path, delimiter: str) -> Lines:
    def lines() -> Iterator[Line]:
        csv.field_size_limit(max(csv.field_size_limit(), source.MAX_CELL))
        file, _, _ = open_text(path, open_bytes(path), None, newline="", save_as=SAVE_AS, guesses=True)
        with file:
            # Strict: a quote that is left open takes in the rows behind it, and must not go unseen.
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            line = 1
            while True:
                try:
                    cells = next(reader, None)
                except (csv.Error, UnicodeError) as exc:
                    problem = str(exc) if isinstance(exc, csv.Error) else "it is no text there"
                else:
                    if cells is None:
                        return
                    yield line, cells
                    line = reader.line_num + 1
                    continue
                raise ConfigurationError(
                    f"line {line} of {str(path)!r} cannot be read: {problem}: is a quote left open there? Mend it"
                )

    return lines


def _of_workbook(path: Path, hints: Hints, sheet: str | None) -> Invoice:
    sheets = _sheets(path)
    if sheet is not None:
        names = [name for name in sheets if name.strip().casefold() == sheet.strip().casefold()]
        if not names:
            raise ConfigurationError(
                f"the workbook {str(path)!r} has no sheet {sheet!r}: its sheets are {', '.join(map(repr, sheets))}"
            )
        sheets = {names[0]: sheets[names[0]]}
    fitting: list[str] = []
    problem: NoTableError | None = None
    for name, lines in sheets.items():
        try:
            columns_of(lines, str(path), hints)
        except NoTableError as exc:
            problem = max(problem or exc, exc, key=lambda found: found.fitting)
        except ConfigurationError:  # it is empty
            continue
        else:
            fitting.append(name)
    if len(fitting) > 1:
        several = ", ".join(map(repr, fitting))
        raise ConfigurationError(f"{str(path)!r} has several sheets that can be the invoice: {several}: say --sheet")
    if not fitting:
        raise problem or ConfigurationError(f"{str(path)!r} is empty: it must be an invoice")
    where = str(path) if len(sheets) == 1 else f"{path}, sheet {fitting[0]}"
    return understand(sheets[fitting[0]], where, hints, "row")


def _sheets(path: Path) -> dict[str, Lines]:
    """The sheets that are visible, by name; all where none is."""
    try:
        import python_calamine as calamine  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError("workbooks need python-calamine: pip install 'aisolution-async[cli]'") from None
    with open_bytes(path) as file:
        if file.read(4).startswith(b"PK"):
            workbooks.check(path)
    try:
        with path.open("rb") as file, calamine.load_workbook(file) as book:
            sheets = [found for found in book.sheets_metadata if found.typ == calamine.SheetTypeEnum.WorkSheet]
            visible = [found for found in sheets if found.visible == calamine.SheetVisibleEnum.Visible] or sheets
            rows = {found.name: [*book.get_sheet_by_name(found.name).iter_rows()] for found in visible}
    except BaseException as exc:
        # Of a damaged workbook anything may come, and what a panic in Rust becomes is no Exception.
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        problem = "has a password" if isinstance(exc, calamine.PasswordError) else "is no workbook that can be read"
    else:
        return {name: _of_rows(found) for name, found in rows.items()}
    raise ConfigurationError(f"the input {str(path)!r} {problem}: {_SAVE_AS}")


def _of_rows(rows: list[list[Any]]) -> Callable[[], list[Line]]:
    lines: list[Line] = [*enumerate(rows, 1)]
    return lambda: lines
