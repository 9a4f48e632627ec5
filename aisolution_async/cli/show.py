"""What people see: text made harmless, answers, progress, closing summaries."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aisolution_async.batching import Progress
from aisolution_async.bulk import FolderSummary, Forecast, Summary, pretended
from aisolution_async.bulk.durations import clock
from aisolution_async.bulk.results import NOT_SENT
from aisolution_async.bulk.summary import PASSING
from aisolution_async.charges import Charge, Counts, Tally
from aisolution_async.ledger import State
from aisolution_async.ledger.urls import Place

PLAIN_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""
REDRAW_EVERY = 0.2
"""Seconds between two redraws on a terminal."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|\x9b[0-?]*[ -/]*[@-~]?")
# Joiners are part of emoji and of Indian scripts, and move nothing.
_JOINERS = "\u200c\u200d"

_BLANK = " "
_prefix = ContextVar("prefix", default="")
_ROWS_AT_ONCE = 500
_REPEATED = 6  # a line of progress that says nothing new is said so seldom
_SHARDS_NAMED = 20

_COLOURS = {Charge.CHARGED: "yellow", Charge.FREE: "green", Charge.UNKNOWN: "bold red"}
_STATES = {State(charge): colour for charge, colour in _COLOURS.items()}


def clean(text: object) -> str:
    """`text` on one line, without escape sequences and control characters: it may be a stranger's."""
    line = " ".join(_ESCAPES.sub("", str(text)).split())
    return "".join(char for char in line if char.isprintable() or char in _JOINERS)


@contextmanager
def as_worker(name: str) -> Iterator[None]:
    """Say `name` before each line meanwhile: one of several workers, whose lines may be in one log."""
    before = _prefix.set(f"{name}: ")
    try:
        yield
    finally:
        _prefix.reset(before)


def say(text: str) -> None:
    """A line for people, on stderr."""
    _write(clean(text))


def say_command(text: str) -> None:
    """The same of a line that has a command: with all its blanks, which may be in the name of a file."""
    _write(_BLANK.join(map(clean, text.split(_BLANK))))


def _write(line: str) -> None:
    # Not by click, which writes past the progress that is being drawn.
    sys.stderr.write(f"{_prefix.get()}{line}\n")
    sys.stderr.flush()


def json_line(value: Mapping[str, Any]) -> str:
    """A line for machines. ASCII: whatever a stranger wrote, a terminal is safe from it."""
    return f"{json.dumps(value)}\n"


def say_json(value: Mapping[str, Any]) -> None:
    """The same, on stdout."""
    click.echo(json_line(value), nl=False)


def money(tally: Tally) -> Text:
    """The three counts."""
    return _counts(Counts(tally.charged, tally.free, tally.unknown))


def _counts(counts: Counts) -> Text:
    return Text(" · ").join(_charges(counts))


def _charges(counts: Counts | Tally) -> list[Text]:
    known = ((Charge.CHARGED, counts.charged), (Charge.FREE, counts.free), (Charge.UNKNOWN, counts.unknown))
    return [Text(f"{charge.value} {count:,}", _COLOURS[charge] if count else "") for charge, count in known]


def fields(console: Console, rows: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    for name, value in rows:
        shown = value if isinstance(value, Text) else Text(clean(value))
        prefix = _prefix.get() if console.stderr else ""
        console.print(Text.assemble(prefix, (f"{name:<16}", "dim"), shown), soft_wrap=True)


def charge(value: Charge) -> Text:
    """A charge in its colour."""
    return Text(value.value, style=_COLOURS[value])


def table(*columns: str) -> Table:
    """An empty table in the house style."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def columns(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under `names`, on stdout: tables on a terminal, aligned text elsewhere. Numbers stand on the right.

    However many there are, few are held at a time: the widths are those that the first of them need.
    """
    console = Console(highlight=False)
    widths: list[int] = []
    left = iter(rows)
    while chunk := list(islice(left, _ROWS_AT_ONCE)):
        numeric = [isinstance(value, int | Decimal) for value in chunk[0]]
        cells = [[_cell(value) for value in row] for row in chunk]
        if console.is_terminal:
            made = table(*names)
            for column, right in zip(made.columns, numeric, strict=True):
                column.justify = "right" if right else "left"
            for row in cells:
                made.add_row(*row)
            console.print(made)
            continue
        lines = [[cell.plain for cell in row] for row in cells]
        if not widths:
            lines.insert(0, [*names])
            widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            parts = zip(line, widths, numeric, strict=True)
            padded = (" " * (w - cell_len(t)) + t if right else t + " " * (w - cell_len(t)) for t, w, right in parts)
            click.echo("  ".join(padded).rstrip())


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, Decimal):
        return Text(amount(value))
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else clean(value))


def amount(value: Decimal) -> str:
    """Money, with the digits that it has, and two behind the point at least."""
    whole, _, rest = f"{value:,.6f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2}"


def state(value: State) -> Text:
    """An attempt's state in its colour."""
    return Text(value.value, style=_STATES.get(value, ""))


# -------------------------------------------------------------------------------------------- while it runs


class Display(Protocol):
    """What shows progress; a context manager."""

    every: float
    """Seconds between two updates."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def update(
        self,
        progress: Progress,
        total: int | None,
        trouble: str | None = None,
        *,
        making: bool = False,
        where: str = "",
    ) -> None:
        """Show `progress`; `total` is the number of rows, if it is known, `trouble` why an attempt failed last.

        `making`: all rows have their results, and the workbook is being made. `where`: which shard of a folder it is.
        """


class Lines:
    """Progress as a line now and then: for logs. `each`: calls to a row."""

    def __init__(self, prices: Mapping[str, Decimal] | None = None, each: int = 1) -> None:
        self.every = PLAIN_EVERY
        self._last = ""
        self._repeats = 0
        self._prices = prices or {}
        self._each = each

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def update(
        self,
        progress: Progress,
        total: int | None,
        trouble: str | None = None,
        *,
        making: bool = False,
        where: str = "",
    ) -> None:
        """Say it."""
        where += ": " if where else ""
        of = "" if total is None else f" of {total:,}"
        numbers = _numbers(progress, total, self._each, trouble, making=making)
        spent = [money(progress.tally).plain, *_spent(progress.tally, self._prices)]
        line = f"{where}{progress.done // self._each:,}{of} rows · {' · '.join([*numbers, *spent])}"
        self._repeats = self._repeats + 1 if line == self._last else 0
        self._last = line
        if self._repeats % _REPEATED == 0:
            say(line)


class Bar:
    """Progress as a bar that is redrawn: for a terminal. `each`: calls to a row."""

    def __init__(self, console: Console, prices: Mapping[str, Decimal] | None = None, each: int = 1) -> None:
        self.every = REDRAW_EVERY
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._prices = prices or {}
        self._each = each

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(
        self,
        progress: Progress,
        total: int | None,
        trouble: str | None = None,
        *,
        making: bool = False,
        where: str = "",
    ) -> None:
        """Redraw it."""
        # The terminal's own "^C" behind a line that fills the width would put all out of place.
        width = max(20, self._live.console.width - 4)
        rows = progress.done // self._each
        counted = f"{rows:,} of {'…' if total is None else f'{total:,}'} rows"
        line = Table.grid(padding=(0, 1))
        room = min(60, max(8, width - cell_len(counted) - 1))
        line.add_row(ProgressBar(total=total, completed=rows, width=room, pulse=total is None), counted)
        numbers = [Text(where)] if where else []
        numbers += map(Text, _numbers(progress, total, self._each, trouble, making=making))
        spent = [*_charges(progress.tally), *map(Text, _spent(progress.tally, self._prices))]
        self._live.update(Group(line, *_packed(numbers, width), *_packed(spent, width)), refresh=True)


def display(prices: Mapping[str, Decimal] | None = None, each: int = 1) -> Display:
    """What shows progress here."""
    console = Console(stderr=True, highlight=False)
    return Bar(console, prices, each) if console.is_terminal else Lines(prices, each)


def _numbers(progress: Progress, total: int | None, each: int, trouble: str | None, *, making: bool) -> list[str]:
    if making:
        return ["all rows are done: making the workbook"]
    parked = progress.parked
    if parked and parked.seconds is not None and not progress.braked:
        are = "numbers are" if parked.calls > 1 else "number is"
        look = f"{parked.calls:,} {are} still being checked: next look in {clock(parked.seconds)}"
        return [look, *_state(progress, each, is_idle=True)]
    return [*_pace(progress, total, each, trouble), *_state(progress, each)]


def _pace(progress: Progress, total: int | None, each: int, trouble: str | None) -> list[str]:
    rate = progress.rate / each
    shown = [f"{rate:,.0f} rows/s"]
    if progress.braked:
        cause = f" ({clean(trouble)})" if trouble else ""
        shown = [f"the vendor does not answer{cause}: trying now and then"]
    elif total is not None and (left := progress.time_for(max(0, total * each - progress.done))) is not None:
        shown.append(f"{clock(left)} left")
    return shown


def _state(progress: Progress, each: int, *, is_idle: bool = False) -> list[str]:
    shown = [] if is_idle else [f"{progress.in_flight:,} in flight of {progress.limit:,.0f}"]
    shown.append(f"{progress.failed:,} with problems")
    if progress.parked and not is_idle:
        shown.append(f"{progress.parked.calls:,} still being checked")
    if progress.from_ledger:
        shown.append(f"{progress.from_ledger // each:,} from the ledger")
    return shown


def _packed(parts: Iterable[Text], width: int) -> list[Text]:
    """The parts on as few lines as they fit on; one that fits on none is cut off."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], " · ", part)
        else:
            part.truncate(width, overflow="ellipsis")
            lines.append(part)
    return lines


def _spent(tally: Tally, prices: Mapping[str, Decimal]) -> list[str]:
    """What was spent, where prices are known."""
    if not prices:
        return []
    counts = tally.by_endpoint.items()
    cost = sum((prices[name] * count.charged for name, count in counts if name in prices), Decimal(0))
    risk = sum((prices[name] * count.unknown for name, count in counts if name in prices), Decimal(0))
    return [f"cost {amount(cost)}{f', and {amount(risk)} unknown' if risk else ''}"]


# ----------------------------------------------------------------------------------------------- at the end


def whom(asked: str | None) -> None:
    """Say who was asked, if not the vendor."""
    if asked == pretended.SANDBOX:
        say("against the sandbox: the answers are made up, and nothing was really charged")
    elif asked is not None:
        say(f"{pretended.told(asked)}: only who runs it knows whether the answers are the vendor's")


def summary(
    done: Summary, ledger: Place | None, prices: Mapping[str, Decimal] | None = None, told: Collection[str] = ()
) -> None:
    """What a run did, on stderr, without the warnings that it was `told` of already."""
    console = Console(stderr=True, highlight=False)
    sent = _sent(done)
    rate = f", {sent / done.seconds:,.0f} rows/s" if done.seconds and sent else ""
    rows: list[tuple[str, object]] = [
        (
            "rows",
            f"{done.rows:,}"
            if done.rows or done.totals or not done.complete
            else "0: the input has a header and nothing else",
        ),
        ("answered", f"{done.ok:,}{_sources(done)}"),
        *_unsettled(done),
        ("with problems", _counted(done)),
        ("attempts", money(done.tally)),
    ]
    rows += [("", spent) for spent in _spent(done.tally, prices or {})]
    if len(done.tally.by_endpoint) > 1:
        rows += [(f"  {name}", _counts(counts)) for name, counts in done.tally.by_endpoint.items()]
    rows.append(("calls", _calls(done.calls)))
    rows.append(("time", clock(done.seconds) + rate))
    rows += [("note", warning) for warning in done.warnings if warning not in told]
    if done.left_out or done.blank or done.totals:
        rows.append(("left out", left_out(done)))
    passing = done.errors - done.errors_held
    if again := passing["RetryLaterError"] + passing["NotSentError"]:
        rows.append(("to ask again", f"{again:,}: the vendor was busy, or not reached: run it again later"))
    if done.over_budget:
        rows.append(("over the limit", f"{done.over_budget:,} not sent: run it again with a higher limit"))
    results = None if done.output is None else "standard output" if str(done.output) == "-" else done.output
    files = {"results": results, "results so far": done.part}
    files |= {"to be mended": done.problems if is_to_mend(done, ledger) else None, "to be settled": done.to_settle}
    rows += [(name, str(file)) for name, file in files.items() if file is not None]
    if done.rescued:
        rows.append(("rescued rows", ", ".join(done.rescued)))
        if ledger is not None and done.rescued != ["stderr"]:
            streams = done.part is None and str(done.output or "-") == "-"
            rows.append(
                ("", f"make room, and run it again to take them back{', with --rescued FILE' if streams else ''}")
            )
    if ledger is not None:
        rows.append(("ledger", str(ledger)))
    fields(console, rows)


def folder(found: FolderSummary, ledger: Place, prices: Mapping[str, Decimal] | None, told: Collection[str]) -> None:
    """What a run over a folder did, on stderr, and what is there of all its shards, whoever ran them."""
    counts = {"finished": found.finished, "before, or by other workers": found.elsewhere}
    counts |= {"with problems": len(found.problems), "not reached": found.left}
    rows: list[tuple[str, object]] = [
        ("shards", f"{found.shards:,}: {', '.join(f'{count:,} {name}' for name, count in counts.items() if count)}")
    ]
    rows += [("", Text(clean(line), "red")) for line in unread(found)]
    if found.elsewhere:
        parts = {"answered": found.ok, "still checking": found.checking, "held": found.held}
        parts["with problems"] = found.failed - found.held
        said = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count or name == "answered")
        rows.append(("rows of all", f"{found.rows:,}: {said}"))
    is_idle = not (found.finished or found.run.rows or found.run.tally.total)
    if is_idle:
        rows += [("this run", "nothing had to be asked"), ("ledger", str(ledger))]
    elif found.elsewhere:
        rows.append(("", "of these, this run:"))
    fields(Console(stderr=True, highlight=False), rows)
    if not is_idle:
        summary(found.run, ledger, prices, told)


def unread(found: FolderSummary) -> list[str]:
    """Why shards could not be run, a line for each of the first."""
    named = sorted(found.problems.items())
    more = [f"and {len(named) - _SHARDS_NAMED:,} more"] if len(named) > _SHARDS_NAMED else []
    return [f"{name}: {problem}" for name, problem in named[:_SHARDS_NAMED]] + more


def folder_as_json(found: FolderSummary, ledger: Place, prices: Mapping[str, Decimal] | None) -> dict[str, Any]:
    """The same, for machines: what this run did, as of a list, and of `all` shards what is there."""
    every = {name: getattr(found, name) for name in ("rows", "ok", "failed", "held", "checking")}
    shards = {name: getattr(found, name) for name in ("finished", "elsewhere", "problems", "left")}
    return {
        **as_json(found.run, ledger, prices),
        "complete": found.complete,
        "shards": {"count": found.shards, **shards},
        "all": every,
    }


def is_to_mend(done: Summary, ledger: Place | None) -> bool:
    """Whether the file of problems has rows."""
    bad = done.errors if ledger is None else done.errors - done.errors_held
    return any(ledger is None or error not in PASSING for error in bad)


def _sent(done: Summary) -> int:
    """How many rows asked the vendor something. What a ledger answers, or nothing is sent for, is no speed."""
    answered = done.from_ledger + done.shared + done.taken_back
    return max(0, done.rows - answered - done.held - done.over_budget - done.errors["InputError"])


def as_json(done: Summary, ledger: Place | None, prices: Mapping[str, Decimal] | None = None) -> dict[str, Any]:
    """What a run did, for machines."""
    tally = done.tally
    known = prices or {}
    cost = sum((known[name] * c.charged for name, c in tally.by_endpoint.items() if name in known), Decimal(0))
    return {
        "complete": done.complete,
        "rows": done.rows,
        "ok": done.ok,
        "from_ledger": done.from_ledger,
        "shared": done.shared,
        "failed": done.failed,
        "held": done.held,
        "checking": done.checking,
        "over_budget": done.over_budget,
        "unsent": done.unsent,
        "left_out": done.left_out,
        "taken_back": done.taken_back,
        "errors": dict(done.errors),
        "charged": tally.charged,
        "free": tally.free,
        "unknown": tally.unknown,
        "by_endpoint": {
            name: {"charged": counts.charged, "free": counts.free, "unknown": counts.unknown}
            for name, counts in tally.by_endpoint.items()
        },
        "cost": str(cost) if known else None,
        "seconds": round(done.seconds, 3),
        "output": None if done.output is None else str(done.output),
        "part": None if done.part is None else str(done.part),
        "problems": None if done.problems is None else str(done.problems),
        "rescued": done.rescued,
        "warnings": done.warnings,
        "gave_up": done.gave_up,
        **({} if done.whom is None else {"whom": done.whom}),
        **({} if done.to_settle is None else {"to_settle": str(done.to_settle)}),
        **({} if not done.totals else {"totals": done.totals}),
        **({} if not done.blank else {"blank": done.blank}),
        **hidden(done),
        "ledger": None if ledger is None else str(ledger),
    }


def left_out(of: Summary | Forecast) -> str:
    """Which rows were no applicants."""
    said = []
    if of.totals == 1:
        said = ["1 total at the end, not asked"]
    if of.totals > 1:
        said = [f"{of.totals:,} rows at the end, not asked: totals, and what stands below"]
    ends = ((of.blank, "among the others"), (of.left_out, "at the end of the input"))
    said += [f"{count:,} empty row{'s' * (count > 1)} {where}" for count, where in ends if count]
    return ", ".join(said)


def held(of: Summary | Forecast) -> str:
    """How many are held, and what to do."""
    before = " before" if isinstance(of, Forecast) else ""
    return f"{of.held:,}: may have been charged{before}: settle them, or say --retry-unknown {of.holds}"


def hidden(of: Summary | Forecast) -> dict[str, int | None]:
    """Only workbooks have such rows, and few of them."""
    return {} if of.hidden == 0 else {"hidden": of.hidden}


def _calls(calls: Counter[str]) -> Text:
    """What the calls of all rows were charged, as the workbook's summary has it."""
    counts = Counts(*(calls[charge] for charge in (Charge.CHARGED, Charge.FREE, Charge.UNKNOWN)))
    unsent = f": {calls[NOT_SENT]:,} of the free were not sent" if calls[NOT_SENT] else ""
    return Text.assemble(_counts(counts), unsent)


def _sources(done: Summary) -> str:
    counts = {"from the ledger": done.from_ledger, "like another row": done.shared, "taken back": done.taken_back}
    others = [f"{count:,} {name}" for name, count in counts.items() if count]
    return f": {', '.join([f'{done.ok - sum(counts.values()):,} now', *others])}" if others else ""


def _unsettled(done: Summary) -> Iterator[tuple[str, str]]:
    """The rows that are neither answered nor have a problem."""
    if done.checking:
        yield "still checking", f"{done.checking:,}: still being checked, or not available: run it again"
    if done.held:
        yield "held", held(done)


def _counted(done: Summary) -> Text:
    causes = ", ".join(f"{name} {count:,}" for name, count in (done.errors - done.errors_held).most_common())
    return Text.assemble((f"{done.to_mend:,}", "red" if done.to_mend else ""), f"  ({causes})" if causes else "")
