"""The plan of a run: which files it writes, what they are like, and what may be replaced. Nothing is sent before it."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisolution_async.bulk import looks
from aisolution_async.bulk.books import MOST_ROWS
from aisolution_async.bulk.disk import beside
from aisolution_async.bulk.earlier import is_idle
from aisolution_async.bulk.encoders import Dialect
from aisolution_async.bulk.excel import separator
from aisolution_async.bulk.facts import Facts, Input
from aisolution_async.bulk.formats import NumberFormats
from aisolution_async.bulk.kinds import kinds_of
from aisolution_async.bulk.notes import is_same
from aisolution_async.bulk.origins import origin_of
from aisolution_async.bulk.outputs import BOOK, STDOUT, Output
from aisolution_async.bulk.resume import check_ledger, may_replace
from aisolution_async.bulk.rows import Rows
from aisolution_async.errors import ConfigurationError

_PLAIN = ("utf-8", "ascii")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run reads, asks and writes.

    `problems` is the file of the rows with problems, if there is to be one, and `held` that of the rows that are not to
    be mended but to be settled. `replaces` says whether what is there of the outputs may go. `total` is how many rows
    the input has, where that is known. `types` are those of the input's columns, where an output has types, `formats`
    its number formats, where an output has such.
    """

    facts: Facts
    output: Output
    problems: Output | None
    held: Output | None
    replaces: bool
    total: int | None
    types: Sequence[Any]
    formats: NumberFormats | None

    @property
    def outputs(self) -> list[Output]:
        """All files that are written."""
        return [self.output] if self.problems is None else [self.output, self.problems]

    def close(self) -> None:
        """Close the input."""
        self.facts.close()


def plan(facts: Facts, given_up: threading.Event) -> Plan:
    """Decide what to write, and where. Blocks; where `given_up` is set, what takes long is left out.

    Raises ConfigurationError or LedgerError for what cannot be; nothing was touched then.
    """
    assert facts.target is not None
    options, rows = facts.options, facts.rows
    check_ledger(facts)
    output = Output(
        facts.target,
        facts.source.path,
        defuse=options.defuse,
        like=dialect_of(facts.target, rows, excel=options.excel),
    )
    problems = _problems_output(facts, facts.target)
    held = _held_output(facts, output if problems is None else problems)
    outputs = [output] if problems is None else [output, problems]
    total = _check_room(facts, outputs, given_up)
    _look_for_idle_parts(facts, output, problems)
    return Plan(
        facts,
        output,
        problems,
        held,
        may_replace(facts, output, problems),
        total,
        facts.columns.of(_types_of(facts, outputs, given_up)),
        _formats_of(facts, outputs),
    )


def dialect_of(target: Path, rows: Rows, *, excel: bool) -> Dialect | None:
    """How CSV is written: as the input's, if it is CSV too, or so that Excel opens it; None for what is usual.

    Raises ConfigurationError for another format that is to be CSV for Excel.
    """
    ending = target.suffix.lower()
    if excel and ending not in (".csv", BOOK):
        raise ConfigurationError(f"what Excel opens is .csv or .xlsx: give the output {str(target)!r} such an ending")
    if ending != ".csv":
        return None
    # Who opened the list in Excel opens the results there: it takes them for UTF-8 only where a mark says so.
    is_marked = rows.delimiter is not None and (bool(rows.bom) or rows.encoding not in _PLAIN)
    is_csv = rows.format == "csv" and rows.delimiter is not None
    between = rows.delimiter if is_csv and rows.delimiter is not None else separator() if excel else ","
    return Dialect(between, bom=codecs.BOM_UTF8 if excel or is_marked else b"", excel=excel)


def _problems_output(facts: Facts, target: Path) -> Output | None:
    """The file of the rows with problems: like the input, if it is of the same format."""
    path = facts.problems
    if path is None:
        return None
    held = beside(target, f"{target.stem}-held{path.suffix}")
    for other, what in ((target, "output"), (facts.ledger, "ledger"), (held, "file of the rows that are held")):
        if isinstance(other, Path) and path.absolute() == other.absolute():
            raise ConfigurationError(f"the file of problems {str(path)!r} is the {what}: give it another name")
    return _rows_output(facts, path, "file of problems")


def _held_output(facts: Facts, like: Output) -> Output | None:
    """The file of the rows that are held, beside the output, of the format of `like`; None where there is to be none.

    One that somebody changed stays as it is.
    """
    assert facts.target is not None
    # People look beside an output; a program that has named no file of problems reads the output itself.
    if facts.ledger is None or like.streams or (facts.problems is None and not facts.options.command):
        return None
    near = like.path if str(facts.target) == STDOUT else facts.target
    number, path = 1, beside(near, f"{near.stem}-held{like.path.suffix}")
    while looks.is_taken(path) and not _is_ours(path, facts.target):
        number += 1
        path = beside(near, f"{near.stem}-held-{number}{like.path.suffix}")
    return _rows_output(facts, path, "file of held rows")


def _is_ours(path: Path, target: Path) -> bool:
    """Whether a file of rows is as an earlier run of this output wrote it."""
    with suppress(ConfigurationError, OSError):
        origin = origin_of(path)
        return origin is not None and is_same(origin.output, target) and origin.is_as_written(path)
    return False


def _rows_output(facts: Facts, path: Path, called: str) -> Output:
    """A file of rows as they came: like the input, if it is of the same format."""
    rows = facts.rows
    is_alike = rows.delimiter is not None and path.suffix.lower() == f".{rows.format}"
    like = None
    if is_alike and rows.delimiter is not None and rows.encoding is not None:
        like = Dialect(rows.delimiter, rows.encoding, rows.errors, rows.bom)
    # What is to be mended and read again stays as it was; elsewhere it would be text that becomes a formula.
    defuse = facts.options.defuse and not is_alike
    return Output(path, facts.source.path, private=True, defuse=defuse, like=like, called=called)


def _check_room(facts: Facts, outputs: Sequence[Output], given_up: threading.Event) -> int | None:
    """How many rows there are, where that is known: they are counted where a workbook may have no room for all.

    Raises ConfigurationError where it has none.
    """
    total = facts.rows.total
    if total is None and any(output.as_book for output in outputs) and _may_be_many(facts.source):
        total = facts.source.count(given_up)
    for output in outputs:
        output.check_room(total)
    return total


def _may_be_many(source: Input) -> bool:
    """Whether a file is so large that it may have more rows than a sheet. A row takes a byte at least."""
    try:
        return not source.is_stdin and source.path.stat().st_size > MOST_ROWS
    except OSError:
        return True


def _look_for_idle_parts(facts: Facts, output: Output, problems: Output | None) -> None:
    """A run that was killed before it had asked anything leaves files that nobody needs."""
    output.part_is_taken = any(_is_same(Path(named), output.part) for named in facts.options.rescued)
    look_at_part(output, facts.columns.names)
    if problems is not None:
        look_at_part(problems, [*facts.columns.inputs, *facts.columns.added])


def look_at_part(output: Output, names: Sequence[str]) -> None:
    """Find out whether the part file of `output`, with the columns `names`, holds nothing."""
    if not output.streams:
        output.part_is_idle = is_idle(output.part, output.path.suffix.lower(), names, output.between)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _types_of(facts: Facts, outputs: Sequence[Output], given_up: threading.Event) -> list[Any]:
    """The types of the input's columns, where an output has types."""
    rows, text = facts.rows, [str] * len(facts.rows.header)
    if not any(output.as_parquet for output in outputs):
        return text
    if rows.schema is not None or rows.delimiter is not None:
        return kinds_of(rows, given_up)
    again = facts.source.again()
    if again is None:
        return text
    with again:
        return kinds_of(again, given_up)


def _formats_of(facts: Facts, outputs: Sequence[Output]) -> NumberFormats | None:
    """The number formats of the input, where an output can have them."""
    rows = facts.rows
    if rows.sheet is None or not any(output.as_book for output in outputs):
        return None
    return NumberFormats(facts.source.path, rows.sheet, rows.numbers)
