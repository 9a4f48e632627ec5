"""What is known before a list is paid for: of a dry run, and of a sample; for people, for machines, and as a file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from aisolution_async.api import ENDPOINTS
from aisolution_async.bulk import Estimate, Forecast, looks
from aisolution_async.bulk.intervals import Interval
from aisolution_async.cli import show
from aisolution_async.cli.ending import Ending, Exit
from aisolution_async.cli.running import foreseen

Lines = Sequence[tuple[str, object]]
"""What is said: names and values."""

_ENDINGS = (".txt", ".md", ".json")
_WIDE = 1_000_000
_SHARDS = 20


def dry_run(found: Forecast, prices: Mapping[str, Decimal]) -> Lines:
    """What a run would do."""
    unpriced = [ENDPOINTS[name].command for name in found.charges if name not in prices]
    calls = found.calls.total()
    cost = f"{show.amount(found.cost or Decimal(0))} at most"
    if unpriced:
        cost = f"not known: say --price {unpriced[0]}=MONEY"
    return [
        ("rows", f"{found.rows:,}"),
        ("with problems", Text(f"{found.failed:,}", style="red" if found.failed else "")),
        *(("", problem) for problem in _problems(found)),
        *(("note", warning) for warning in found.warnings),
        ("from the ledger", f"{found.from_ledger:,}: answered already"),
        ("asked already", f"{found.shared:,}: the same as another call"),
        ("to be sent", f"{calls:,} call{'s' * (calls != 1)}"),
        *((f"  {name}", f"{count:,}") for name, count in found.calls.items() if len(found.calls) > 1),
        ("charges", f"{found.charges.total():,} at most"),
        *([("held", show.held(found))] if found.held else []),
        *([("left out", show.left_out(found))] if found.totals or found.left_out or found.blank else []),
        ("cost", cost),
    ]


def unread(problems: Mapping[str, str] | None) -> Lines:
    """Which shards of a folder cannot be run."""
    if not problems:
        return []
    named = [("", Text(show.clean(f"{name}: {problem}"), "red")) for name, problem in problems.items()]
    return [("shards unread", f"{len(problems):,}"), *named[:_SHARDS]]


def _problems(found: Forecast) -> Iterator[str]:
    """One problem of each kind, the most frequent first."""
    for kind in sorted(found.kinds.values(), key=lambda each: -each.calls):
        more = kind.calls - 1
        yield f"{kind.example} (and {more:,} more like it)" if more else kind.example
    if found.others:
        yield f"and {found.others:,} of other kinds"


def dry_run_as_json(found: Forecast) -> dict[str, Any]:
    """The same, for machines."""
    return {
        "dry_run": True,
        "rows": found.rows,
        "failed": found.failed,
        "errors": dict(found.errors),
        "problems": found.problems,
        "kinds": _kinds(found),
        "warnings": found.warnings,
        "notes": found.notes,
        "columns": found.columns,
        "from_ledger": found.from_ledger,
        "shared": found.shared,
        "held": found.held,
        **show.hidden(found),
        "calls": dict(found.calls),
        "charges": dict(found.charges),
        "cost": None if found.cost is None else str(found.cost),
    }


def _kinds(found: Forecast) -> list[dict[str, Any]]:
    return [{"calls": kind.calls, "example": kind.example} for kind in found.kinds.values()]


def sample(found: Estimate) -> Lines:
    """What a sample says of its list."""
    askable = found.rows - found.failed
    lines: list[tuple[str, object]] = [
        ("rows", f"{found.rows:,}"),
        ("with problems", Text(f"{found.failed:,}", style="red" if found.failed else "")),
        *(("", problem) for problem in _problems(found.foreseen)),
        *(("note", warning) for warning in found.foreseen.warnings),
        ("sample", f"{found.asked:,} of the {askable:,} rows that can be asked"),
    ]
    for name, answers in found.answers.items():
        lines.append((name, "" if answers else "no row of the sample asks it"))
        whole = found.asks[name]
        lines += [(f"  {word} ", _share(count, whole)) for word, count in answers.items()]
        if unasked := found.drawn[name].keys() - answers.keys():
            count = sum(found.drawn[name][word] for word in unasked)
            lines.append(("  not asked", f"{count:,} ({', '.join(sorted(unasked))})"))
    for name, charges in found.charges.items():
        of = f"{_range(charges.whole)} of {charges.questions:,} different questions: {charges.paid:,} paid already"
        lines.append(("charges" if len(found.charges) == 1 else f"  {name} ", of))
    if found.cost is not None:
        cost = found.cost
        low, likely, high, paid = map(show.amount, (cost.low, cost.likely, cost.high, cost.paid))
        lines.append(("cost of all", f"{low} to {high}, likely {likely}: {paid} paid already"))
        left = [show.amount(max(Decimal(0), each - cost.paid)) for each in (cost.low, cost.high)]
        lines.append(("to be paid", f"{left[0]} to {left[1]}"))
    elif found.charges:
        unpriced = ENDPOINTS[next(iter(found.charges))].command
        lines.append(("cost of all", f"not known: say --price {unpriced}=MONEY"))
    if found.unknown:
        lines.append(("unknown", f"{found.unknown:,} attempts of the sample may have been charged besides"))
    lines.append(("", "each range is right for 95 of 100 samples, at least"))
    return lines


def _share(count: Interval, whole: int) -> str:
    """How many rows, and what part of all."""
    parts = [f"{100 * each / whole:.1f}" for each in (count.low, count.high, count.likely)]
    return f"{parts[0]} to {parts[1]} %, likely {parts[2]} %: {count.low:,} to {count.high:,} rows"


def _range(count: Interval) -> str:
    return f"{count.low:,} to {count.high:,}, likely {count.likely:,},"


def sample_as_json(found: Estimate, whom: str | None) -> dict[str, Any]:
    """The same, for machines."""
    return {
        "sample": True,
        "rows": found.rows,
        "failed": found.failed,
        "kinds": _kinds(found.foreseen),
        "warnings": found.foreseen.warnings,
        "notes": found.foreseen.notes,
        "columns": found.foreseen.columns,
        "asked": found.asked,
        "answers": {
            name: {word: {"drawn": found.drawn[name][word], **_bounds(count)} for word, count in answers.items()}
            for name, answers in found.answers.items()
        },
        "asks": dict(found.asks),
        "charges": {
            name: {"questions": charges.questions, **_bounds(charges.whole), "paid": charges.paid}
            for name, charges in found.charges.items()
        },
        "cost": None
        if found.cost is None
        else {name: str(getattr(found.cost, name)) for name in ("low", "likely", "high", "paid")},
        "unknown": found.unknown,
        "confidence": found.confidence,
        **({} if whom is None else {"whom": whom}),
    }


def _bounds(count: Interval) -> dict[str, int]:
    return {"low": count.low, "likely": count.likely, "high": count.high}


def check(plan: Path | None, sample: int | None, *, is_dry: bool, no_ledger: bool) -> None:
    """Raise Ending for options that do not go together."""
    problem = ""
    if sample is not None and is_dry:
        problem = "--sample asks the vendor, and --dry-run does not: give one of them"
    elif sample is not None and no_ledger:
        problem = "--sample needs its ledger: with --no-ledger, the run of the whole list would buy its answers again"
    elif plan is not None and not is_dry and sample is None:
        problem = "--plan is for what --dry-run or --sample says: give one of them"
    if problem:
        raise Ending(problem, Exit.USAGE)


def say(lines: Lines, as_json: Mapping[str, Any] | None, *, quiet: bool) -> None:
    """Say it to people, and on stdout to machines."""
    if as_json is not None:
        show.say_json(as_json)
    if not quiet:
        show.fields(Console(stderr=True, highlight=False), lines)


class PlanFile:
    """The file of `--plan`, which replaces none. Raises Ending where it cannot be one, before anything is sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() not in _ENDINGS:
            raise Ending(f"the plan {str(path)!r} must end in .txt or .md, for people, or in .json", Exit.USAGE)
        with foreseen():
            is_there = looks.is_taken(path)
        if is_there:
            raise self._taken()

    def write(self, notes: Sequence[str], lines: Lines, as_json: Mapping[str, Any]) -> None:
        """Write what is said: `notes`, then `lines`; or `as_json`."""
        if self.path.suffix.lower() == ".json":
            text = json.dumps(as_json, indent=2) + "\n"
        else:
            said = io.StringIO()
            for note in notes:
                said.write(f"{show.clean(note)}\n")
            show.fields(Console(file=said, width=_WIDE, highlight=False), lines)
            text = said.getvalue()
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise self._taken() from None
        except OSError as exc:
            problem = f"the plan {str(self.path)!r} cannot be written: {exc.strerror or type(exc).__name__}"
        else:
            return
        raise Ending(problem, Exit.PROBLEMS)

    def _taken(self) -> Ending:
        return Ending(f"the plan {str(self.path)!r} is there already: name another file", Exit.USAGE)
