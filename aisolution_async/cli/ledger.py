"""`aisolution ledger`: what a ledger says, and what a person can settle in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from pydantic_core import from_json
from rich.console import Console
from rich.text import Text

from aisolution_async.api import CALLS, ENDPOINTS, endpoint_of
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.results import answered
from aisolution_async.bulk.rows import Rows, text
from aisolution_async.charges import Charge
from aisolution_async.cli import show
from aisolution_async.cli.running import Exit, Failed, foreseen, run
from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import SECRET_FIELDS
from aisolution_async.ledger import Ledger, Record, State, Sum
from aisolution_async.outcome import plain

T = TypeVar("T")

_MOST_HELD = 20
"""How many of the attempts that hold their call `show` lists."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group("ledger")
def ledger_group() -> None:
    """Look into a ledger, settle what is open, compare it with an invoice.

    A ledger is the file in which `aisolution bulk` records every attempt and every answer. It holds personal
    data: the answers, and your own keys.
    """


# ------------------------------------------------------------------------------------------------------- to look


@ledger_group.command("show")
@_FILE
@_JSON
def show_command(file: Path, *, as_json: bool) -> None:
    """Counts and cost by endpoint, day and status, and the calls that are held."""
    with foreseen():
        ledger = Ledger(file)
        summary = ledger.summary()
        holding = ledger.held()
        held = list(islice(holding, _MOST_HELD))
        more = sum(1 for _ in holding)
    total = summary.by().get((), Sum())
    days, statuses = summary.by("day", "endpoint"), summary.by("endpoint", "status")
    if as_json:
        show.say_json(
            {
                "ledger": str(file),
                **_numbers(total),
                "held": summary.held,
                "by_day": [{"day": str(day), "endpoint": name, **_numbers(s)} for (day, name), s in days.items()],
                "by_status": [
                    {"endpoint": name, "status": word, **_numbers(s)} for (name, word), s in statuses.items()
                ],
            }
        )
        return
    console = Console(highlight=False)
    parts = ((State.CHARGED, total.charged), (State.FREE, total.free), (State.UNKNOWN, total.unknown))
    counts = Text(" · ").join(Text.assemble(show.state(state), f" {count:,}") for state, count in parts)
    rest = [f" · {name} {count:,}" for name, count in (("not sent", total.not_sent), ("open", total.intended)) if count]
    rows: list[tuple[str, object]] = [("attempts", Text.assemble(counts, *rest))]
    if total.cost or total.at_risk:
        rows.append(("cost", f"{show.amount(total.cost)}, and {show.amount(total.at_risk)} that may have been charged"))
    if total.intended:
        rows.append(("open", "under way, or of a process that has died: the next run finds out"))
    rows.append(("held calls", f"{summary.held:,}"))
    show.fields(console, rows)
    for names, found in ((("day", "endpoint"), days), (("endpoint", "status"), statuses)):
        if found:
            click.echo()
            _sums(names, found)
    if held:
        which = "the last attempt" if len(held) + more == summary.held else "each of these attempts"
        click.echo(f"\nHeld: {which} may have been charged, or was, and its answer is not known")
        show.columns(
            ("id", "key", "endpoint", "started (UTC)", "problem"),
            ((str(r.id), r.key, r.endpoint, f"{r.started_at:%Y-%m-%d %H:%M:%S}", r.error or r.status) for r in held),
        )
        if more:
            click.echo(f"… and {more:,} more: aisolution ledger attempts --unknown")
        times = "1" if len(held) + more == summary.held else "with the number of a call's attempts"
        click.echo(f"Settle them (aisolution ledger resolve), or have them sent again (--retry-unknown {times})")


@ledger_group.command("attempts")
@_FILE
@click.option("--unknown", is_flag=True, help="Only those that may have been charged: nobody knows.")
@_JSON
def attempts_command(file: Path, *, unknown: bool, as_json: bool) -> None:
    """Every attempt, oldest first. With --json, one a line."""
    with foreseen():
        ledger = Ledger(file)
        found = _marked(ledger.attempts(unknown_only=unknown), ledger.held())
        if as_json:
            for record, held in found:
                show.say_json(
                    {
                        "id": record.id,
                        "started_at": record.started_at.isoformat(),
                        "endpoint": record.endpoint,
                        "key": record.key,
                        "state": record.state,
                        "held": held,
                        "status": record.status,
                        "http_status": record.http_status,
                        "elapsed": record.elapsed,
                        "cost": str(record.cost),
                        "error": record.error,
                    }
                )
            return
        show.columns(
            ("id", "started (UTC)", "endpoint", "key", "state", "status", "http", "seconds", "problem"),
            (
                (
                    str(record.id),
                    f"{record.started_at:%Y-%m-%d %H:%M:%S}",
                    record.endpoint,
                    record.key,
                    Text.assemble(show.state(record.state), ", held" if held else ""),
                    record.status,
                    record.http_status and str(record.http_status),
                    f"{record.elapsed:.3f}",
                    record.error,
                )
                for record, held in found
            ),
        )


@ledger_group.command("export")
@_FILE
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Where to: .xlsx, .csv, .tsv, .jsonl or .parquet.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists already.")
@_JSON
def export_command(file: Path, output: Path, *, overwrite: bool, as_json: bool) -> None:
    """Write every answer in the ledger to a file, a row for each.

    After your key come the endpoint, when it was answered, charge, status and cost, the fields of the answer
    (answer_…), and the whole answer as JSON. In .csv and .tsv, what a spreadsheet could take for a formula gets
    an apostrophe in front.
    """
    with foreseen():
        ledger = Ledger(file)
        present = {line.endpoint for line in ledger.summary().lines}
        replies = [call.endpoint.reply for call in CALLS if call.endpoint.name in present]
        fields = list(dict.fromkeys(f for reply in replies for f in reply.model_fields if f not in SECRET_FIELDS))
        target = Output(output, file)
        if not overwrite:
            target.check_free()
        names = [
            "key",
            "endpoint",
            "answered_at",
            "charge",
            "status",
            "cost",
            *(f"answer_{f}" for f in fields),
            "reply",
        ]
        target.open(names, replace=overwrite)
        problem, finished = "", False
        try:
            for record in ledger.answers():
                target.write([], _exported(record, fields))
            target.finish()
            finished = True
        except OSError as exc:
            problem = f"the output {str(output)!r} cannot be written: {exc.strerror or type(exc).__name__}"
        finally:
            target.close()
            if not finished:
                with suppress(OSError):
                    target.part.unlink(missing_ok=True)
    if problem:
        raise Failed(problem, Exit.PROBLEMS)
    if as_json:
        show.say_json({"answers": target.rows, "output": str(output)})
    else:
        show.say(f"{target.rows:,} answers are in {output}")


def _exported(record: Record, fields: Sequence[str]) -> list[Any]:
    assert record.reply is not None
    answer: Mapping[str, Any] = {}
    answered_at = record.started_at + timedelta(seconds=record.elapsed)
    whole = plain(from_json(record.reply))
    if record.endpoint in ENDPOINTS:
        try:
            answer = answered(ENDPOINTS[record.endpoint].reply.from_record(record.reply))
        except ValidationError:
            """Another version wrote it: the whole of it is in the last column."""
    cost = show.amount(record.cost) if record.cost else None
    values = [record.key, record.endpoint, answered_at.isoformat(timespec="milliseconds"), record.state.value]
    return [*values, record.status, cost, *(answer.get(name) for name in fields), whole]


def _marked(records: Iterable[Record], held: Iterator[Record]) -> Iterator[tuple[Record, bool]]:
    """Each record, and whether it is one of those held. Both are in the order of their ids."""
    next_held = next(held, None)
    for record in records:
        while next_held is not None and next_held.id < record.id:
            next_held = next(held, None)
        yield record, next_held is not None and next_held.id == record.id


def _numbers(counts: Sum) -> dict[str, Any]:
    return {
        "charged": counts.charged,
        "free": counts.free,
        "not_sent": counts.not_sent,
        "unknown": counts.unknown,
        "open": counts.intended,
        "cost": str(counts.cost),
        "at_risk": str(counts.at_risk),
    }


def _sums(names: Sequence[str], found: Mapping[tuple[object, ...], Sum]) -> None:
    """A table of sums; what is nought everywhere is left out."""
    columns: dict[str, list[Any]] = {
        "charged": [s.charged for s in found.values()],
        "free": [s.free for s in found.values()],
        "unknown": [s.unknown for s in found.values()],
        "not sent": [s.not_sent for s in found.values()],
        "open": [s.intended for s in found.values()],
        "cost": [s.cost for s in found.values()],
        "at risk": [s.at_risk for s in found.values()],
    }
    shown = {name: values for name, values in columns.items() if name in ("charged", "free", "unknown") or any(values)}
    rows = [(*keys, *values) for keys, *values in zip(found, *shown.values(), strict=True)]
    show.columns((*names, *shown), [tuple("-" if v is None else v for v in row) for row in rows])


# -------------------------------------------------------------------------------------------------- the invoice


@dataclass(frozen=True, slots=True)
class _Compared:
    """A day of an endpoint: what we count, what nobody knows, what they charge."""

    ours: int
    unknown: int
    theirs: int

    @property
    def difference(self) -> int:
        return self.theirs - self.ours

    @property
    def explained(self) -> bool:
        """Whether there is no difference, or the unknown attempts may be all of it."""
        return 0 <= self.difference <= self.unknown

    @property
    def verdict(self) -> str:
        """In words."""
        more = self.difference
        if more < 0:
            return f"they charge {-more:,} fewer"
        if more > self.unknown:
            return f"they charge {more:,} more, and the unknown explain {self.unknown:,} at most"
        if more:
            return f"they charge {more:,} more, and the unknown may explain it"
        return "agrees, if no unknown was charged" if self.unknown else "agrees"


@ledger_group.command("reconcile")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--invoice", required=True, type=click.Path(path_type=Path), help="The invoice: .csv or .tsv.")
@click.option("--day", metavar="COLUMN", help="Its column of days, like 2026-11-23.  [default: day or date]")
@click.option("--endpoint", metavar="COLUMN", help="Its column of endpoints.  [default: endpoint]")
@click.option("--count", metavar="COLUMN", help="Its column of charges.  [default: charged or count]")
@_JSON
def reconcile_command(
    files: Sequence[Path], invoice: Path, day: str | None, endpoint: str | None, count: str | None, *, as_json: bool
) -> None:
    """Compare ledgers with the vendor's invoice, by day (UTC) and endpoint.

    Only the days from the invoice's first to its last are compared. Attempts of unknown outcome, which may or
    may not have been charged, are what can explain that an invoice charges more than was counted here. The exit
    code is 1 if there is a difference that they do not explain.
    """
    with foreseen():
        theirs = _read_invoice(invoice, day, endpoint, count)
        ledgers = dict.fromkeys(file.resolve() for file in files)
        sums = [Ledger(file).summary().by("day", "endpoint") for file in ledgers]
    ours: Counter[tuple[date, str]] = Counter()
    unknown: Counter[tuple[date, str]] = Counter()
    outside = 0
    first, last = min(d for d, _ in theirs), max(d for d, _ in theirs)
    for found in sums:
        for (when, name), counts in found.items():
            assert isinstance(when, date)
            if not first <= when <= last:
                outside += counts.charged
                continue
            ours[when, str(name)] += counts.charged
            if name not in ENDPOINTS or not ENDPOINTS[str(name)].never_charges:
                unknown[when, str(name)] += counts.unknown + counts.intended
    places = sorted(place for place in {*theirs, *ours, *unknown} if theirs[place] or ours[place] or unknown[place])
    compared = {place: _Compared(ours[place], unknown[place], theirs[place]) for place in places}
    totals = {
        name: _Compared(*(sum(n for (_, e), n in counts.items() if e == name) for counts in (ours, unknown, theirs)))
        for name in sorted({name for _, name in places})
    }
    explained = all(line.explained for line in compared.values())
    if as_json:
        show.say_json(
            {
                "explained": explained,
                "first_day": str(first),
                "last_day": str(last),
                "charged_on_other_days": outside,
                "totals": [{"endpoint": name, **_compared_numbers(total)} for name, total in totals.items()],
                "lines": [
                    {"day": str(when), "endpoint": name, **_compared_numbers(line)}
                    for (when, name), line in compared.items()
                ],
            }
        )
    else:
        rows = [(str(when), name, line) for (when, name), line in compared.items()]
        rows += [("all days", name, total) for name, total in totals.items()]
        show.columns(
            ("day", "endpoint", "ours", "unknown", "theirs", "difference", ""),
            [
                (when, name, x.ours, x.unknown, x.theirs, x.difference, Text(x.verdict, "" if x.explained else "red"))
                for when, name, x in rows
            ],
        )
        if not explained and all(total.explained for total in totals.values()):
            click.echo("Over all days it comes out even: their days may not begin at midnight UTC, as ours do.")
        if outside:
            click.echo(f"Not compared: {outside:,} charged on days before {first} or after {last}.")
    if not explained:
        raise Failed("the invoice and the ledger differ by more than the unknown can explain", Exit.PROBLEMS)


def _compared_numbers(line: _Compared) -> dict[str, Any]:
    return {
        "ours": line.ours,
        "unknown": line.unknown,
        "theirs": line.theirs,
        "difference": line.difference,
        "explained": line.explained,
        "verdict": line.verdict,
    }


def _read_invoice(path: Path, day: str | None, endpoint: str | None, count: str | None) -> Counter[tuple[date, str]]:
    """The charges by day and endpoint. Raises ConfigurationError for what cannot be understood."""
    theirs: Counter[tuple[date, str]] = Counter()
    with Rows(path) as rows:
        places = (
            _column(rows, day, "--day", "day", "date"),
            _column(rows, endpoint, "--endpoint", "endpoint"),
            _column(rows, count, "--count", "charged", "count"),
        )
        for row in rows:
            if row.problem is not None:
                raise ConfigurationError(f"{str(path)!r}: {row.problem}")
            when, name, number = (text(row.cells[place]).strip() for place in places)
            where = f"line {row.line} of {str(path)!r}"
            charges = _understood(_count, number, f"{where}: {number[:40]!r} is no count of charges")
            found = _understood(_day, when, f"{where}: {when[:40]!r} is no day like 2026-11-23")
            endpoint_meant = endpoint_of(name)
            theirs[found, name if endpoint_meant is None else endpoint_meant.name] += charges
    if not theirs:
        raise ConfigurationError(f"{str(path)!r} has no rows")
    return theirs


def _column(rows: Rows, chosen: str | None, option: str, *usual: str) -> int:
    for place, name in enumerate(rows.header):
        if name == chosen or (chosen is None and name.strip().lower() in usual):
            return place
    raise rows.missing(chosen or usual[0], f"the invoice (say which with {option} COLUMN)")


def _understood(read: Callable[[str], T], text: str, problem: str) -> T:
    try:
        return read(text)
    except ValueError:
        pass
    raise ConfigurationError(f"{problem}: mend it, or take the row out")


def _day(text: str) -> date:
    found = re.match(r"(\d{4})([-/]?)(\d\d)\2(\d\d)(?!\d)", text)
    if found is None:
        raise ValueError
    return date(int(found[1]), int(found[3]), int(found[4]))


def _count(text: str) -> int:
    if not re.fullmatch(r"-?(\d{1,15}|\d{1,3}(,\d{3}){1,4})(\.0+)?", text):
        raise ValueError
    return int(text.partition(".")[0].replace(",", ""))


# ----------------------------------------------------------------------------------------------------- to settle


@ledger_group.command("resolve")
@_FILE
@click.argument("key")
@click.argument("charge", type=click.Choice([Charge.CHARGED.value, Charge.FREE.value]))
@click.option("--by-id", is_flag=True, help="KEY is the id of an attempt, as 'ledger attempts' shows it.")
@_JSON
def resolve_command(file: Path, key: str, charge: str, *, by_id: bool, as_json: bool) -> None:
    """Settle the attempts of KEY that nobody knew the outcome of: the invoice says whether they were charged.

    What was free is no longer held: the next run sends it again. What was charged stays held, as its answer is lost
    and another would be paid for again: a run with --retry-unknown 1 buys it. A call that has more than one such
    attempt is held until all are settled, or by --retry-unknown with their number.
    """
    if by_id and not re.fullmatch(r"[0-9]{1,18}", key):
        raise Failed(f"--by-id: {key!r} is no id of an attempt: aisolution ledger attempts shows them", Exit.USAGE)

    async def settle(ledger: Ledger) -> int:
        if by_id:
            return await ledger.resolve(None, Charge(charge), attempt=int(key))
        return await ledger.resolve(key, Charge(charge))

    settled = _change(file, settle)
    if as_json:
        show.say_json({"resolved": settled})
    if not settled:
        raise Failed(
            f"no attempt of {key!r} is unknown: aisolution ledger attempts --unknown lists them", Exit.PROBLEMS
        )
    if not as_json:
        then = "the next run that asks for it sends it again"
        if charge == Charge.CHARGED:
            then = "it stays held, and --retry-unknown 1 buys the answer again"
        show.say(f"{settled:,} of {key!r} settled as {charge}: {then}")


@ledger_group.command("purge")
@_FILE
@click.option("--older-than", required=True, metavar="AGE", help="How old: 90d, 12h, 30m; 0d for all of them.")
@_JSON
def purge_command(file: Path, older_than: str, *, as_json: bool) -> None:
    """Remove the answers that are older than AGE, for good.

    The counts stay, and so do calls that are held. What is removed would be asked, and paid for, again.
    """
    found = re.fullmatch(r"(\d{1,6})([smhdw])", older_than.strip())
    if found is None:
        raise Failed(f"--older-than {older_than!r} is no age: it is like 90d, 12h or 0d", Exit.USAGE)
    age = timedelta(seconds=int(found[1]) * _UNITS[found[2]])

    async def empty(ledger: Ledger) -> int:
        return await ledger.purge(age)

    emptied = _change(file, empty)
    if as_json:
        show.say_json({"purged": emptied})
    else:
        show.say(f"{emptied:,} attempts were emptied: what they answered would be asked, and paid for, again")


def _change(file: Path, change: Callable[[Ledger], Any]) -> int:
    """Open the ledger, which must be there, and do it."""

    async def opened() -> int:
        # To open one makes it, and closes others off from it; so first see that it is one.
        next(Ledger(file).held(), None)
        async with Ledger(file) as ledger:
            done: int = await change(ledger)
        return done

    return run(opened())
