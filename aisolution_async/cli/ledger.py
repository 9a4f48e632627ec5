"""`aisolution ledger`: what a ledger says, and what a person can settle in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from pydantic_core import from_json
from rich.console import Console
from rich.text import Text

from aisolution_async.api import CALLS, ENDPOINTS
from aisolution_async.bulk import invoice as invoices
from aisolution_async.bulk.invoice.words import period_of
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.results import answered
from aisolution_async.charges import Charge
from aisolution_async.cli import show
from aisolution_async.cli.ending import Ending, Exit
from aisolution_async.cli.options import KnownLedger, LedgerPlace, prices
from aisolution_async.cli.paths import PATH
from aisolution_async.cli.running import foreseen, run
from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import SECRET_FIELDS
from aisolution_async.ledger import Record, State, Store, Sum, open_ledger
from aisolution_async.ledger.urls import Place, check_is_ledger
from aisolution_async.outcome import plain

T = TypeVar("T")

_MOST_HELD = 20
"""How many of the attempts that hold their call `show` lists."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.argument("file", metavar="LEDGER", type=KnownLedger())


@click.group("ledger")
def ledger_group() -> None:
    """Look into a ledger, settle what is open, compare it with an invoice.

    A ledger is the file in which `aisolution bulk` records every attempt and every answer, or, for many machines, a
    schema of a PostgreSQL server: postgresql://host/database?schema=applicants. It holds personal data: the answers,
    and your own keys.

    \b
    Example:
      aisolution ledger show results.xlsx.ledger
    """


# ------------------------------------------------------------------------------------------------------- to look


@ledger_group.command("show")
@_FILE
@_JSON
def show_command(file: Place, *, as_json: bool) -> None:
    """Counts and cost by endpoint, day and status, and the calls that are held.

    \b
    Example:
      aisolution ledger show results.xlsx.ledger
    """
    with foreseen():
        ledger = open_ledger(file)
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
                "max_charges": summary.max_charges,
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
    if summary.max_charges is not None:
        rows.append(("limit", f"{summary.max_charges:,} charges at most"))
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
def attempts_command(file: Place, *, unknown: bool, as_json: bool) -> None:
    """Every attempt, oldest first. With --json, one a line.

    \b
    Example:
      aisolution ledger attempts results.xlsx.ledger --unknown
    """
    with foreseen():
        ledger = open_ledger(file)
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
    type=PATH,
    help="Where to: .xlsx, .csv, .tsv, .jsonl or .parquet.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists already.")
@_JSON
def export_command(file: Place, output: Path, *, overwrite: bool, as_json: bool) -> None:
    """Write every answer in the ledger to a file, a row for each.

    After your key come the endpoint, when it was answered, charge, status and cost, the fields of the answer
    (answer_…), and the whole answer as JSON. In .csv and .tsv, what a spreadsheet could take for a formula gets
    an apostrophe in front.

    \b
    Example:
      aisolution ledger export results.xlsx.ledger -o answers.csv
    """
    with foreseen():
        ledger = open_ledger(file)
        present = {line.endpoint for line in ledger.summary().lines}
        replies = [call.endpoint.reply for call in CALLS if call.endpoint.name in present]
        fields = list(dict.fromkeys(f for reply in replies for f in reply.model_fields if f not in SECRET_FIELDS))
        target = Output(output, file if isinstance(file, Path) else None)
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
        raise Ending(problem, Exit.PROBLEMS)
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


@ledger_group.command("reconcile")
@click.argument("files", metavar="LEDGER...", nargs=-1, required=True, type=KnownLedger())
@click.option("--invoice", required=True, type=PATH, help="The invoice: .xlsx, .csv or the like.")
@click.option("--sheet", metavar="NAME", help="Its sheet in a workbook.  [default: the one that is an invoice]")
@click.option("--day", metavar="COLUMN", help="Its column of days or months.  [default: found]")
@click.option("--endpoint", metavar="COLUMN", help="Its column of services, or the one service that it is of.")
@click.option("--count", metavar="COLUMN", help="Its column of charges.  [default: found]")
@click.option("--amount", metavar="COLUMN", help="Its column of amounts of money.  [default: found]")
@click.option("--status", metavar="COLUMN", help="Its column that says what was charged.  [default: found]")
@click.option("--decimal", type=click.Choice([".", ","]), help="What stands before decimals, if not clear.")
@click.option("--dates", type=click.Choice(["dmy", "mdy"]), help="What stands first in days, if not clear.")
@click.option("--period", metavar="DAYS", help="What it is of: 2026-11, or 2026-11-01..2026-11-15.  [default: its own]")
@click.option(
    "--price",
    multiple=True,
    metavar="ENDPOINT=MONEY",
    callback=prices,
    help="What a charge costs, for an invoice of amounts without counts.  [default: what the ledger says]",
)
@_JSON
def reconcile_command(
    files: Sequence[Place],
    invoice: Path,
    sheet: str | None,
    period: str | None,
    price: Mapping[str, Decimal],
    *,
    as_json: bool,
    **said: Any,
) -> None:
    """Compare ledgers with the vendor's invoice, by day (UTC) or month, and endpoint.

    The invoice may be as vendors send it: with lines above and below the table, totals, counts by state, amounts
    without counts, a row for each request, services in their own words. How it was read is said before the difference;
    what can be read in two ways is refused, with the option that says which.

    Only the days that the invoice is of are compared. Attempts of unknown outcome, which may or may not have been
    charged, are what can explain that an invoice charges more than was counted here. The exit code is 1 if there is a
    difference that they do not explain.

    \b
    Example:
      aisolution ledger reconcile results.xlsx.ledger --invoice invoice.xlsx
    """
    with foreseen():
        ledgers = dict.fromkeys(Path(os.path.realpath(file)) if isinstance(file, Path) else file for file in files)
        sums = [open_ledger(file).summary().by("day", "endpoint") for file in ledgers]
        span = None if period is None else period_of(period)
        if period is not None and span is None:
            raise ConfigurationError(f"--period {period!r} is none: it is like 2026-11 or 2026-11-01..2026-11-15")
        hints = invoices.Hints(**said, period=span, prices=price, ledger_prices=_prices_of(sums))
        theirs = invoices.read(invoice, hints, sheet)
    found = invoices.compare(theirs, sums)
    if as_json:
        days = theirs.period
        show.say_json(
            {
                "explained": found.explained,
                "read": list(theirs.about),
                "first_day": None if days is None else str(days.first),
                "last_day": None if days is None else str(days.last),
                "charged_on_other_days": found.outside,
                "totals": [{"endpoint": name, **_compared_numbers(total)} for name, total in found.totals.items()],
                "lines": [
                    {"day": None if when is None else str(when), "endpoint": name, **_compared_numbers(line)}
                    for (when, name), line in found.lines.items()
                ],
            }
        )
    else:
        show.say(f"{invoice} was read like this:")
        for line in theirs.about:
            show.say(f"- {line}")
        rows = [("all days" if when is None else str(when), name, line) for (when, name), line in found.lines.items()]
        if any(when is not None for when, _ in found.lines):
            rows += [("all days", name, total) for name, total in found.totals.items()]
        show.columns(
            ("day", "endpoint", "ours", "unknown", "theirs", "difference", ""),
            [
                (when, name, x.ours, x.unknown, x.theirs, x.difference, Text(x.verdict, "" if x.explained else "red"))
                for when, name, x in rows
            ],
        )
        if not found.explained and found.comes_out_even:
            click.echo("Over all days it comes out even: their days may not begin at midnight UTC, as ours do.")
        if found.outside and (days := theirs.period) is not None:
            click.echo(f"Not compared: {found.outside:,} charged on days before {days.first} or after {days.last}.")
    if not found.explained:
        raise Ending("the invoice and the ledger differ by more than the unknown can explain", Exit.PROBLEMS)


def _compared_numbers(line: invoices.Difference) -> dict[str, Any]:
    return {
        "ours": line.ours,
        "unknown": line.unknown,
        "theirs": line.theirs,
        "difference": line.difference,
        "explained": line.explained,
        "verdict": line.verdict,
    }


def _prices_of(ledgers: Iterable[Mapping[tuple[object, ...], Sum]]) -> dict[str, Decimal]:
    """What a charge costs, by endpoint, where the ledgers know one price."""
    found: dict[str, set[Decimal]] = {}
    for sums in ledgers:
        for (_, name), counts in sums.items():
            if counts.charged:
                found.setdefault(str(name), set()).add(counts.cost / counts.charged)
    return {name: price for name, prices in found.items() if len(prices) == 1 and (price := prices.pop())}


# ----------------------------------------------------------------------------------------------------- to settle


@ledger_group.command("resolve")
@_FILE
@click.argument("key")
@click.argument("charge", type=click.Choice([Charge.CHARGED.value, Charge.FREE.value]))
@click.option("--by-id", is_flag=True, help="KEY is the id of an attempt, as 'ledger attempts' shows it.")
@_JSON
def resolve_command(file: Place, key: str, charge: str, *, by_id: bool, as_json: bool) -> None:
    """Settle the attempts of KEY that nobody knew the outcome of: the invoice says whether they were charged.

    What was free is no longer held: the next run sends it again. What was charged stays held, as its answer is lost
    and another would be paid for again: a run with --retry-unknown 1 buys it. A call that has more than one such
    attempt is held until all are settled, or by --retry-unknown with their number.

    \b
    Examples:
      aisolution ledger resolve results.xlsx.ledger A-17 free
      aisolution ledger resolve results.xlsx.ledger 42 charged --by-id
    """
    if by_id and not re.fullmatch(r"[0-9]{1,18}", key):
        raise Ending(f"--by-id: {key!r} is no id of an attempt: aisolution ledger attempts shows them", Exit.USAGE)

    async def settle(ledger: Store) -> int:
        if by_id:
            return await ledger.resolve(None, Charge(charge), attempt=int(key))
        return await ledger.resolve(key, Charge(charge))

    settled = _change(file, settle)
    if as_json:
        show.say_json({"resolved": settled})
    if not settled:
        raise Ending(
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
def purge_command(file: Place, older_than: str, *, as_json: bool) -> None:
    """Remove the answers that are older than AGE, for good.

    The counts stay, and so do calls that are held. What is removed would be asked, and paid for, again. A server's
    backups and WAL archives keep what was in them: remove it there too.

    \b
    Example:
      aisolution ledger purge results.xlsx.ledger --older-than 90d
    """
    found = re.fullmatch(r"(\d{1,6})([smhdw])", older_than.strip())
    if found is None:
        raise Ending(f"--older-than {older_than!r} is no age: it is like 90d, 12h or 0d", Exit.USAGE)
    age = timedelta(seconds=int(found[1]) * _UNITS[found[2]])

    async def empty(ledger: Store) -> int:
        return await ledger.purge(age)

    emptied = _change(file, empty)
    if as_json:
        show.say_json({"purged": emptied})
    else:
        show.say(f"{emptied:,} attempts were emptied: what they answered would be asked, and paid for, again")
        if not isinstance(file, Path):
            show.say("backups and WAL archives of the server keep what they have of it")


@ledger_group.command("limit")
@click.argument("file", metavar="LEDGER", type=LedgerPlace())
@click.option("--max-charges", metavar="N", help="Allow N charges at most, by whoever uses the ledger.")
@click.option("--no-limit", is_flag=True, help="Allow any number again.")
@_JSON
def limit_command(file: Place, max_charges: str | None, *, no_limit: bool, as_json: bool) -> None:
    """Set how many charges there may ever be in a ledger, over all runs, processes and machines that use it.

    Charges that were made, may have been made and are under way count. A run's own --max-charges goes on holding
    besides: the smaller of the two does. A ledger that is not there is made.

    \b
    Example:
      aisolution ledger limit results.xlsx.ledger --max-charges 1000
    """
    source = click.get_current_context().get_parameter_source("max_charges")
    if source is click.core.ParameterSource.DEFAULT_MAP:
        max_charges = None  # a file of options says what a run may spend, and not what all of them may
    if (max_charges is None) is not no_limit:
        raise Ending("say either --max-charges N or --no-limit", Exit.USAGE)
    if max_charges is not None and not re.fullmatch(r"[0-9]{1,15}", max_charges):
        raise Ending(f"--max-charges {max_charges!r} is no number of charges", Exit.USAGE)
    limit = None if max_charges is None else int(max_charges)

    async def change() -> int:
        check_is_ledger(file)
        async with open_ledger(file) as ledger:
            await ledger.limit(limit)
        total = ledger.summary().by().get((), Sum())
        return total.charged + total.unknown + total.intended

    spent = run(change())
    if as_json:
        show.say_json({"max_charges": limit, "spent": spent})
    else:
        most = "any number of charges" if limit is None else f"{limit:,} charges at most"
        show.say(f"the ledger allows {most}; {spent:,} were made, may have been, or are under way")


def _change(file: Place, change: Callable[[Store], Any]) -> int:
    """Open the ledger, which must be there, and do it."""

    async def opened() -> int:
        # To open one makes it, and closes others off from it; so first see that it is one.
        next(open_ledger(file).held(), None)
        async with open_ledger(file) as ledger:
            done: int = await change(ledger)
        return done

    return run(opened())
