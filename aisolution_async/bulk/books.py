"""Workbooks out: .xlsx, with the input's types and number formats, coloured by result, and a sheet that sums it up.

A workbook cannot grow row by row and be whole after each. So its rows are in OUTPUT.part as JSONL while a run goes on,
and once all are there, the workbook is made of them in the folder OUTPUT.making and given its name at one stroke.
Memory stays flat: of each row, four bytes are kept, which say what types and formats its cells have.

What is text stays text, whatever it looks like: no cell is a formula, and 0007 and numbers of more than the 15 digits
that Excel keeps are what they were. A cell longer than Excel holds is cut; where that was a result,
OUTPUT.rescued-long.jsonl has all of it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import unicodedata
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from aisolution_async.api import ENDPOINTS, Endpoint
from aisolution_async.bulk.cells import EXACT, text
from aisolution_async.bulk.encoders import as_json, unicode_text
from aisolution_async.bulk.formats import NumberFormat
from aisolution_async.bulk.results import NOT_SENT, Results, RowState, bare, counts_of, defused
from aisolution_async.bulk.rows import MISSING, UnreadableInputError
from aisolution_async.bulk.sheets import part_of
from aisolution_async.bulk.words import (
    ANSWERED,
    CHECKING,
    HELD,
    PROBLEM,
    SERVICES,
    STATES,
    is_held,
    kinds_of,
    place_of,
    remedy_for,
)
from aisolution_async.charges import Charge
from aisolution_async.errors import ConfigurationError

MOST_ROWS = 1_048_575
"""Rows that a sheet of Excel's has below its header."""
MOST_COLUMNS = 16_384
MOST_TEXT = 32_767
"""Characters of a cell, in the UTF-16 that Excel counts in."""
MOST_DIGITS = 15
"""Digits of a number that Excel keeps."""

_LOOK_EVERY = 1000
_WIDEST, _NARROWEST = 48, 8
_WIDEST_LAST = 100  # nothing stands beside the problem
_WIDEST_PAGE = 260  # characters that can still be read when they are printed side by side
_A4 = 9
_MOST_KINDS = 30  # of problems, in the summary
_WIDTHS = 60, 12, 14, 90  # of its columns
_LINE_HEIGHT, _MOST_LINES = 15, 20
_MOST_OF_AN_ID = 20  # digits
_SHOWN_DIGITS = 11  # of a number without a format

# The kinds of cells, and the formats that those of them get that have none.
_TEXT, _NUMBER, _DECIMAL, _TRUTH, _DATE, _MOMENT, _TIME, _SPAN = "snmbdthe"
_KINDS: dict[type, str] = {
    str: _TEXT,
    int: _NUMBER,
    float: _NUMBER,
    Decimal: _DECIMAL,
    bool: _TRUTH,
    datetime: _MOMENT,
    date: _DATE,
    time: _TIME,
    timedelta: _SPAN,
}
_USUAL: dict[str, NumberFormat] = {
    _DATE: "yyyy-mm-dd",
    _MOMENT: "yyyy-mm-dd hh:mm:ss",
    _TIME: "hh:mm:ss",
    _SPAN: "[h]:mm:ss",
}
_DIGITS: NumberFormat = 1  # 0
_AS_TEXT: NumberFormat = 49  # @
_TRUTHS: NumberFormat = '"TRUE";"TRUE";"FALSE"'  # some programs show 1 and 0 of truth values otherwise
_LONGEST_AS_TEXT = 255  # older ones show #### for more
_BEGIN = datetime(1900, 1, 1)  # noqa: DTZ001  # a date of a cell has no zone; Excel has none before it
_SHARED, _FOOT = "xl/sharedStrings.xml", b"</sheetData></worksheet>"
_DIMENSION = re.compile(rb"<dimension\b[^>]*/>")
_PIECE = 1 << 20  # bytes of the XML of rows that are read at once
_MOST_HEAD = 8 << 20  # bytes of what stands before them: something of each column
_SPAN_TEXT = re.compile(r"(?:(-?[0-9]+) days?, )?([0-9]+):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?")

# Tones: the colours that Excel's own "good", "bad" and "neutral" have, and one for what may have been charged.
_GOOD, _BAD, _NEUTRAL, _HELD = "good", "bad", "neutral", "held"
_TONES: dict[str, dict[str, Any]] = {
    _GOOD: {"bg_color": "#C6EFCE", "font_color": "#006100"},
    _BAD: {"bg_color": "#FFC7CE", "font_color": "#9C0006"},
    _NEUTRAL: {"bg_color": "#FFEB9C", "font_color": "#7F6000"},
    _HELD: {"bg_color": "#E4DFEC", "font_color": "#5F2C91"},
}
_VERDICTS = {
    "SAME PERSON": _GOOD,
    "NOT SAME PERSON": _BAD,
    "NOT SURE": _NEUTRAL,
    "yes": _GOOD,
    "no": _BAD,
    "checking": _NEUTRAL,
    "unavailable": _NEUTRAL,
}
_HEADER = {"bold": True, "bottom": 1, "valign": "top", "text_wrap": True}

_DIGIT_MARKS = re.compile(r"[#0?,._*\"\\]|\[[^\]]*\]")


class Abandoned(Exception):  # noqa: N818  # it is no error: somebody asked for it
    """The workbook was not made, since the run was stopped meanwhile. Its rows are in the part file."""


@dataclass(frozen=True, slots=True)
class BookPlan:
    """What a workbook has besides its rows: the `results` whose columns are coloured and summed up, at their `prices`.

    Without results there is no summary. `about` says what the rows are of, `notice` who was asked, if not the vendor.
    """

    results: Sequence[Results] = ()
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    about: str = ""
    notice: str = ""


def check_room(shown: str, rows: int | None) -> None:
    """Raise ConfigurationError where a sheet has no room for so many rows. `shown` is the name of the output."""
    if rows is not None and rows > MOST_ROWS:
        raise ConfigurationError(
            f"the output {shown} has room for {MOST_ROWS:,} rows below its header, as each sheet of Excel's, and the "
            f"input has {rows:,}: name a .csv or .parquet file, or split the input"
        )


class Workbook:
    """A workbook as a format of an output: lines of JSONL first, and the file that is made of them in the end."""

    def __init__(self, names: Sequence[str], plan: BookPlan) -> None:
        if len(names) > MOST_COLUMNS:
            raise ConfigurationError(
                f"a workbook has room for {MOST_COLUMNS:,} columns, not {len(names):,}: name a .csv"
            )
        self._names = list(names)
        self._plan = plan
        self._last = b""
        self._patterns: dict[tuple[str, Sequence[NumberFormat]], int] = {}
        self._rows = array("I")  # the pattern of each
        self._most = [*[_WIDEST] * (len(names) - 1), _WIDEST_LAST]
        self._widths = [min(_WIDEST, _width(name) + 3) for name in names]  # the filter's arrow stands beside the name

    def start(self) -> bytes:
        return b""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[NumberFormat] = ()) -> bytes:
        if len(self._rows) >= MOST_ROWS:
            raise OSError(0, f"a sheet of Excel's has room for {MOST_ROWS:,} rows")
        self._last = line = as_json(self._names, cells, values)
        kinds = "".join([_KINDS.get(type(value)) or _kind(value) for value in cells])
        pattern = self._patterns.setdefault((kinds, formats), len(self._patterns))
        widths, most = self._widths, self._most
        for place, value in enumerate((*cells, *values)):
            if value is not None and value is not MISSING and widths[place] < most[place]:
                if type(value) is str and value.isascii():
                    needs = len(value)
                else:
                    needs = _width(value, formats[place] if place < len(formats) else 0)
                if needs >= widths[place]:
                    widths[place] = min(most[place], needs + 1)
        self._rows.append(pattern)
        return line

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """One row at a time is on its way."""

    def pending(self) -> list[bytes]:
        return [self._last]

    def make(self, part: Path, folder: Path, given_up: Callable[[], bool], notes: Sequence[str]) -> tuple[Path, int]:
        """Make the workbook of the rows in `part`, in the `folder`, which nobody else has. Blocks.

        The file, and how many cells with results were cut. Raises Abandoned, and OSError.
        """
        import xlsxwriter  # noqa: PLC0415  # an extra
        from xlsxwriter.exceptions import XlsxWriterException  # noqa: PLC0415  # as above

        made = folder / "book.xlsx"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(mode=0o700)
        options = {"constant_memory": True, "tmpdir": str(folder), "use_zip64": True}
        book = xlsxwriter.Workbook(str(made), options)
        try:
            # When it was made is not of its rows.
            book.set_properties({"created": datetime(2000, 1, 1), "title": self._plan.about})  # noqa: DTZ001
            pages = _Pages(book, self._names, self._plan)
            with part.open("rb") as file:
                kinds = list(self._patterns)
                for number, (line, pattern) in enumerate(zip(file, self._rows, strict=False), 1):
                    if number % _LOOK_EVERY == 0 and given_up():
                        raise Abandoned
                    pages.add(number, json.loads(line), *kinds[pattern])
            pages.finish(self._widths, notes)
            if given_up():
                raise Abandoned
            book.close()
            if pages.rows == len(self._rows):
                return made, pages.cut_results
            problem = f"{part.name} was changed meanwhile"
        except XlsxWriterException as exc:
            problem = " ".join(str(exc).split())
        except json.JSONDecodeError:
            problem = f"{part.name} was changed meanwhile"
        finally:
            _close_quietly(book)
        raise OSError(0, problem)


def _close_quietly(book: Any) -> None:
    """Close the temporary files of a workbook that was not made."""
    for sheet in book.worksheets():
        if (file := getattr(sheet, "row_data_fh", None)) is not None and not file.closed:
            file.close()
    book.fileclosed = True  # or else it warns, when it is collected, that nobody closed it


def _print_on_a4(sheet: Any) -> None:
    sheet.set_landscape()
    sheet.set_paper(_A4)
    sheet.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.5)


class _Pages:
    """The sheets of a workbook that is being made."""

    def __init__(self, book: Any, names: Sequence[str], plan: BookPlan) -> None:
        self._book = book
        self._names = names
        self._plan = plan
        self._formats: dict[tuple[NumberFormat, str, bool, bool], Any] = {}
        self.rows = 0
        self._sheet = book.add_worksheet("Results" if plan.results else "Rows")
        self._sheet.freeze_panes(1, 0)
        self._sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{MOST_ROWS + 1}"})
        _print_on_a4(self._sheet)
        self._sheet.repeat_rows(0)
        self._groups = [_Kind(results) for results in plan.results]
        self._inputs = len(names) - sum(len(group.names) for group in self._groups)
        self._cut = 0
        self._lines = 1  # of the cell in this row that has most
        self.cut_results = 0
        self._count = _Counts(self._groups)
        for place, name in enumerate(names):
            colour = "#DDEBF7" if place < self._inputs else "#EDEDED"
            self._text(0, place, name, book.add_format({**_HEADER, "bg_color": colour}))

    def add(self, number: int, record: Mapping[str, Any], kinds: str, formats: Sequence[NumberFormat]) -> None:
        """Write a row."""
        self._write(number, record, kinds, formats)
        if self._lines > 1:
            self._sheet.set_row(number, _LINE_HEIGHT * min(self._lines, _MOST_LINES))
            self._lines = 1
        self.rows = number

    def _write(self, number: int, record: Mapping[str, Any], kinds: str, formats: Sequence[NumberFormat]) -> None:
        for place, kind in enumerate(kinds):
            value = record.get(self._names[place])
            if value is not None:
                self._cell(number, place, value, kind, formats[place] if formats else None)
        # What a file of problems has behind the input's cells is text.
        place = len(kinds)
        if not self._groups:
            for name in self._names[place:]:
                if (value := record.get(name)) is not None:
                    self._result(number, place, value, "")
                place += 1
            return
        if all(record.get(group.names[0]) is None for group in self._groups):
            return  # a total, of which nothing was asked
        states = []
        for group in self._groups:
            values = [record.get(name) for name in group.names]
            state = group.state(values)
            states.append(state)
            tones = group.tones(state, values)
            for value, tone in zip(values, tones, strict=True):
                if value is not None:
                    self._result(number, place, value, tone)
                elif tone:
                    self._sheet.write_blank(number, place, None, self._format(0, tone))
                place += 1
            self._count.call(group, state, values, number + 1)
        self._count.row(states)

    def finish(self, widths: Sequence[int], notes: Sequence[str]) -> None:
        """Fit the sheet, and sum it up on another."""
        for place, width in enumerate(widths):
            self._sheet.set_column(place, place, max(_NARROWEST, width))
        pages = max(1, round(sum(widths) / _WIDEST_PAGE))
        self._sheet.fit_to_pages(pages, 0)
        if pages > 1:
            self._sheet.repeat_columns(0)
        if self._names:
            self._sheet.autofilter(0, 0, max(1, self.rows), len(self._names) - 1)
        if self._cut:
            notes = [
                *notes,
                f"{self._cut:,} cells have more than the {MOST_TEXT:,} characters of Excel's, and were cut.",
            ]
        if self._groups:
            _Summary(self._book, self._count, self._plan).write(notes)

    # -------------------------------------------------------------------------------------------------- one cell

    def _cell(self, row: int, place: int, value: Any, kind: str, had: NumberFormat | None) -> None:
        """A cell of the input: what it was, in the format that it `had`, if that is known."""
        said = had or 0
        usual = _USUAL.get(kind)
        if usual is not None:
            moment = _moment(value, kind)
            if isinstance(moment, datetime) and moment.date() == _BEGIN.date():
                # xlsxwriter takes that day for none, and writes the time alone.
                self._sheet.write_number(row, place, 1 + (moment - _BEGIN) / timedelta(1), self._format(said or usual))
                return
            if moment is not None:
                self._sheet.write_datetime(row, place, moment, self._format(said or usual))
                return
        elif kind == _TRUTH:
            self._sheet.write_boolean(row, place, value, self._format(said))
            return
        elif kind in (_NUMBER, _DECIMAL) and (number := _number(value)) is not None:
            if had is None and isinstance(number, int) and abs(number) >= 10**_SHOWN_DIGITS:
                said = _DIGITS
            self._sheet.write_number(row, place, number, self._format(said))
            return
        elif kind == _NUMBER:
            value, had = str(int(value)), None
        found = unicode_text(value if isinstance(value, str) else text(value))
        self._text(row, place, found, self._text_format(found, had))

    def _result(self, row: int, place: int, value: Any, tone: str) -> None:
        if isinstance(value, bool):
            self._sheet.write_boolean(row, place, value, self._format(_TRUTHS, tone))
        elif isinstance(value, int | float) and (number := _number(value)) is not None:
            self._sheet.write_number(row, place, number, self._format(0, tone))
        else:
            found = unicode_text(bare(value))
            self.cut_results += self._text(row, place, found, self._text_format(found, None, tone))

    def _text(self, row: int, place: int, found: str, format_: Any) -> bool:
        """Write text as text; whether it had to be cut."""
        is_cut = 2 * len(found) > MOST_TEXT and len(found.encode("utf-16-le")) > 2 * MOST_TEXT
        if is_cut:
            self._cut += 1
            found = found.encode("utf-16-le")[: 2 * (MOST_TEXT - 1)].decode("utf-16-le", "ignore") + "…"
        # What begins and ends so, xlsxwriter takes for markup of its own, and puts it into the sheet as it is.
        if found.startswith("<r>") and found.endswith("</r>"):
            plain = self._book.add_format({}) if format_ is None else format_
            self._sheet.write_rich_string(row, place, found[:1], plain, found[1:], plain)
        elif found:
            self._sheet.write_string(row, place, found, format_)
        return is_cut

    def _text_format(self, found: str, had: NumberFormat | None, tone: str = "") -> Any:
        # As a text it stays one also when somebody edits it; and the apostrophe keeps what would be a formula then.
        if had is None:
            had = _AS_TEXT if len(found) <= _LONGEST_AS_TEXT else 0
        # Some programs write lines that are not wrapped, or have no room, over the row above.
        wraps = "\n" in found and len(found) <= _LONGEST_AS_TEXT
        if wraps:
            self._lines = max(self._lines, sum(-(-len(line) // _WIDEST) or 1 for line in found.split("\n")))
        return self._format(had, tone, quoted=defused(found) is not found, wraps=wraps)

    def _format(self, said: NumberFormat, tone: str = "", *, quoted: bool = False, wraps: bool = False) -> Any:
        key = said, tone, quoted, wraps
        if key not in self._formats:
            properties: dict[str, Any] = {**_TONES.get(tone, {})}
            if said:
                properties["num_format"] = said
            if quoted:
                properties["quote_prefix"] = True
            if wraps:
                properties["text_wrap"] = True
            self._formats[key] = self._book.add_format(properties) if properties else None
        return self._formats[key]


class _Kind:
    """The result columns of one endpoint."""

    def __init__(self, results: Results) -> None:
        self.endpoint: Endpoint[Any] = results.endpoint
        self.names = results.names
        self._results = results
        self._verdicts = results.verdicts

    def state(self, values: Sequence[Any]) -> str:
        """What came of the call."""
        state = self._results.state(values)
        if state is not RowState.FAILED:
            return ANSWERED if state is RowState.OK else CHECKING
        return HELD if is_held(str(values[-1])) else PROBLEM

    def tones(self, state: str, values: Sequence[Any]) -> list[str]:
        """The colour of each cell."""
        if state in (PROBLEM, HELD):
            return [_BAD if state == PROBLEM else _HELD] * len(values)
        tones = [""] * len(values)
        tones[0] = _GOOD if state == ANSWERED else _NEUTRAL
        for place in self._verdicts:
            tones[place] = _VERDICTS.get(str(values[place]), "")
        return tones


@dataclass(slots=True)
class _Problem:
    """What calls had in common, where it was first, and how to mend it."""

    said: str
    remedy: str
    first: int | str
    calls: int = 0


class _Counts:
    """What the rows of a sheet come to."""

    def __init__(self, groups: Sequence[_Kind]) -> None:
        self.rows: Counter[str] = Counter()
        self.charges: dict[str, Counter[str]] = {group.endpoint.name: Counter() for group in groups}
        self.problems: dict[str, _Problem] = {}
        self.others = 0

    def row(self, states: Sequence[str]) -> None:
        self.rows[next(state for state in (HELD, PROBLEM, CHECKING, ANSWERED) if state in states)] += 1

    def call(self, group: _Kind, state: str, values: Sequence[Any], number: int) -> None:
        self.charges[group.endpoint.name].update(counts_of(values))
        if state not in (PROBLEM, HELD):
            return
        problem = str(values[-1] or values[-2])
        for said in kinds_of(problem):
            found = self.problems.get(said)
            if found is None:
                if len(self.problems) >= _MOST_KINDS:
                    self.others += 1
                    continue
                place = place_of(problem, number)
                first = number if place is None else f"{number} ({place})"
                remedy = STATES[HELD] if is_held(said) else remedy_for(str(values[-2]), group.endpoint.name)
                found = self.problems[said] = _Problem(said, remedy, first)
            found.calls += 1


class _Summary:
    """The second sheet."""

    def __init__(self, book: Any, count: _Counts, plan: BookPlan) -> None:
        self._sheet = book.add_worksheet("Summary")
        self._count = count
        self._plan = plan
        self._row = 0
        self._title = book.add_format({"bold": True, "font_size": 14})
        self._warning = book.add_format({"bold": True, "font_size": 14, "font_color": "#C00000"})
        self._head = book.add_format({**_HEADER, "bg_color": "#EDEDED"})
        self._right = book.add_format({**_HEADER, "bg_color": "#EDEDED", "align": "right"})
        self._remark_head = book.add_format({**_HEADER, "bg_color": "#EDEDED", "align": "left", "indent": 1})
        self._remark = book.add_format({"text_wrap": True, "valign": "top", "align": "left", "indent": 1})
        self._wrap = book.add_format({"text_wrap": True, "valign": "top"})
        self._whole = book.add_format({"num_format": "#,##0", "valign": "top"})
        self._money = book.add_format({"num_format": "#,##0.00####", "valign": "top"})
        self._state = {
            state: book.add_format({**_TONES[tone], "valign": "top"})
            for state, tone in ((ANSWERED, _GOOD), (CHECKING, _NEUTRAL), (PROBLEM, _BAD), (HELD, _HELD))
        }

    def write(self, notes: Sequence[str]) -> None:
        """Write it, from the top to the bottom."""
        sheet, rows = self._sheet, self._count.rows
        for place, width in enumerate(_WIDTHS):
            sheet.set_column(place, place, width)
        _print_on_a4(sheet)
        sheet.fit_to_pages(1, 0)
        if self._plan.notice:
            self._line([(self._plan.notice, self._warning)])
        self._line([(self._plan.about, self._title)])
        self._line([])
        self._heads("rows", "rows", "")
        self._line([("all", None), (rows.total(), self._whole)])
        for state, name in ((ANSWERED, "answered"), (CHECKING, "checking"), (HELD, "held"), (PROBLEM, "problems")):
            remedy = STATES[state] if rows[state] else ""
            self._line([(name, self._state[state]), (rows[state], self._whole), ("", None), (remedy, self._remark)])
        self._line([])
        self._write_money()
        if self._count.problems:
            self._write_problems()
        for note in notes:
            self._line([(note, None)])

    def _write_money(self) -> None:
        self._heads("charges", "calls", "cost")
        for name, counts in self._count.charges.items():
            self._write_charges(name, counts, self._plan.prices.get(name))
        if len(charges := self._count.charges) > 1:
            costs = [self._plan.prices.get(name) for name in charges]
            spent = None
            if None not in costs:
                spent = sum((price * counts[Charge.CHARGED] for price, counts in self._priced()), Decimal(0))
            total = sum(counts[Charge.CHARGED] for counts in charges.values())
            self._line([("all charged", None), (total, self._whole), ("" if spent is None else spent, self._money)])
        self._line([])

    def _priced(self) -> Iterator[tuple[Decimal, Counter[str]]]:
        for name, counts in self._count.charges.items():
            yield self._plan.prices[name], counts

    def _write_charges(self, name: str, counts: Counter[str], price: Decimal | None) -> None:
        at = (
            f"At {price} each."
            if price is not None
            else f"The cost is not known: say --price {ENDPOINTS[name].command}=MONEY."
        )
        remarks = {
            Charge.CHARGED: at,
            Charge.FREE: f"Not charged, or not sent: {counts[NOT_SENT]:,} not sent.",
            Charge.UNKNOWN: "May have been charged, and cost so much more." if counts[Charge.UNKNOWN] else "",
        }
        for charge, remark in remarks.items():
            cost = "" if price is None or charge is Charge.FREE else price * counts[charge]
            said = f"{SERVICES[name]}: {charge.value}"
            self._line([(said, None), (counts[charge], self._whole), (cost, self._money), (remark, self._remark)])

    def _write_problems(self) -> None:
        self._heads("problems, by kind", "calls", "first in row")
        for found in sorted(self._count.problems.values(), key=lambda each: -each.calls):
            first = (found.first, self._whole if isinstance(found.first, int) else self._wrap)
            self._line([(found.said, self._wrap), (found.calls, self._whole), first, (found.remedy, self._remark)])
        if self._count.others:
            self._line([("others", None), (self._count.others, self._whole)])
        self._line([])

    def _heads(self, what: str, *numbers: str) -> None:
        self._line([(what, self._head), *((each, self._right) for each in numbers), ("what to do", self._remark_head)])

    def _line(self, cells: Sequence[tuple[Any, Any]]) -> None:
        # Not every program makes room by itself for text that goes on in another line.
        wrapped = (
            -(-len(value) // width)
            for (value, _), width in zip(cells, _WIDTHS, strict=False)
            if value and isinstance(value, str)
        )
        if (lines := max(wrapped, default=1)) > 1 and len(cells) > 1:
            self._sheet.set_row(self._row, _LINE_HEIGHT * min(lines, _MOST_LINES))
        for place, (value, format_) in enumerate(cells):
            if isinstance(value, int | Decimal):
                self._sheet.write_number(self._row, place, _exact(value), format_)
            elif value:
                self._sheet.write_string(self._row, place, unicode_text(value)[:MOST_TEXT], format_)
            elif format_ is not None:
                self._sheet.write_blank(self._row, place, None, format_)
        self._row += 1


# ------------------------------------------------------------------------------------------------------- values


class _Float(float):
    """A number that is written with all of its digits: xlsxwriter asks for 16, and some need 17."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return repr(float(self)).removesuffix(".0")


def _exact(value: Decimal | float) -> float:
    return value if isinstance(value, int) else _Float(value)


def _number(value: Any) -> int | float | None:
    """A number of the part file as Excel takes it; None for what is to be text.

    That is one of more digits than Excel keeps: it is an id, unless it is so large that nobody would number people so.
    """
    if isinstance(value, str):  # what was a Decimal
        if not value:
            return None
        digits = value.lstrip("-0.").replace(".", "")
        return _Float(value) if len(digits) <= MOST_DIGITS else None
    if isinstance(value, int):
        return value if abs(value) < 10**MOST_DIGITS else None
    return None if value.is_integer() and 10**MOST_DIGITS <= abs(value) < 10**_MOST_OF_AN_ID else _Float(value)


def _moment(value: str, kind: str) -> Any:
    """A date or time of the part file; None for one that Excel has not."""
    if kind == _SPAN:
        found = _SPAN_TEXT.fullmatch(value)
        if found is None:
            return None
        days, hours, minutes, seconds, rest = found.groups("0")
        span = timedelta(int(days), int(seconds), int(rest.ljust(6, "0")), 0, int(minutes), int(hours))
        return span if span >= timedelta(0) else None
    moment = time.fromisoformat(value) if kind == _TIME else datetime.fromisoformat(value)
    if moment.tzinfo is not None or (isinstance(moment, datetime) and moment < _BEGIN):
        return None
    return moment


def _kind(value: Any) -> str:
    """The kind of a cell that is of no type of its own."""
    if isinstance(value, bool):
        return _TRUTH
    return next((kind for type_, kind in _KINDS.items() if isinstance(value, type_)), _TEXT)


def _width(value: Any, had: NumberFormat = 0) -> int:
    """How wide a cell is, in characters, or as much of it as matters."""
    if isinstance(value, float | int | Decimal) and not isinstance(value, bool):
        if not isinstance(had, str):
            return len(f"{value:.10g}")
        # Marks between thousands, decimals, and what the format has beside the digits.
        return len(f"{value:,.2f}") + len(_DIGIT_MARKS.sub("", had.partition(";")[0]))
    if isinstance(value, date) and had:
        return max(10, len(had)) if isinstance(had, str) else 16
    found = bare(value) if isinstance(value, str | bool | list | dict) else text(value)
    begin = found[:_WIDEST]
    return len(begin) if begin.isascii() else sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in begin)


# --------------------------------------------------------------------------------------------- and back again


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a workbook that a run wrote, in little memory. Raises UnreadableInputError."""
    header: list[str] | None = None
    for rows in _tables(path):
        for row in rows:
            if header is None:
                header = [text(name) for name in row]
            else:
                yield dict(zip_longest(header, map(_plain, row[: len(header)])))


def _tables(path: Path) -> Iterator[list[list[Any]]]:
    """The cells of the first sheet, some thousand rows after the others."""
    import python_calamine as calamine  # noqa: PLC0415  # an extra

    try:
        for piece in _pieces(path):
            with calamine.load_workbook(piece) as book:
                sheet = book.get_sheet_by_index(0)
            offset = [""] * (sheet.start or (0, 0))[1]
            yield [offset + row for row in sheet.to_python(skip_empty_area=True)]
    except BaseException as exc:
        # Of a damaged workbook anything may come, and what a panic in Rust becomes is no Exception.
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
    else:
        return
    raise UnreadableInputError(f"{str(path)!r} is no workbook that can be read")


def _pieces(path: Path) -> Iterator[str | IO[bytes]]:
    """The workbook as several, each with some of the rows of its first sheet: a reader has all rows in memory at once.

    It is one where its texts stand in a part of their own, as in what Excel has saved.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        part = None if _SHARED in names else part_of(archive, None)
        if part is None:
            yield str(path)
            return
        with archive.open(part) as file:
            head = begin = rows = b""
            while not begin and len(head) < _MOST_HEAD and (more := file.read(_PIECE)):
                head, begin, rows = (head + more).partition(b"<sheetData>")
            head = _DIMENSION.sub(b"", head) + begin
            while begin:
                more = file.read(_PIECE)
                if not more:
                    yield _piece(archive, part, head + rows)
                    return
                whole, end, rest = (rows + more).rpartition(b"</row>")
                if end:
                    yield _piece(archive, part, head + whole + end + _FOOT)
                rows = rest
    yield str(path)  # of another program, whose XML is otherwise


def _piece(archive: zipfile.ZipFile, part: str, sheet: bytes) -> IO[bytes]:
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as to:
        for name in archive.namelist():
            # Other sheets are not read.
            if name == part or not name.startswith("xl/worksheets/"):
                to.writestr(name, sheet if name == part else archive.read(name))
    copy.seek(0)
    return copy


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return None if value == "" else value
