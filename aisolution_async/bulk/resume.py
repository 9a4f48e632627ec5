"""What earlier runs left: whether it may be replaced, and which answers of it are taken over."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from aisolution_async.api import ENDPOINTS
from aisolution_async.bulk import looks, mending, notes, pretended
from aisolution_async.bulk.earlier import Earlier, sources_of
from aisolution_async.bulk.facts import Facts, in_thread
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.rescue import unlisted
from aisolution_async.bulk.rows import Rows, UnreadableInputError
from aisolution_async.client import AsyncClient
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger import Balance, Store
from aisolution_async.ledger.urls import Place, check_is_ledger


def check_ledger(facts: Facts) -> None:
    """Raise ConfigurationError or LedgerError for a ledger that is none, or that is another file of the run."""
    options, path = facts.options, facts.ledger
    paid = [call.endpoint.name for call in facts.kinds if not call.endpoint.never_charges]
    if options.max_cost is not None and (missing := options.known_prices.missing(paid)):
        price = f"--price {ENDPOINTS[missing[0]].command}=MONEY"
        raise ConfigurationError(f"a limit on the cost needs the price of {missing[0]}: {price}, or prices= in Python")
    if path is None or facts.target is None:
        return
    if isinstance(path, Path):
        _check_apart(facts, facts.target, path)
    if facts.resumes:
        check_is_ledger(path)


def _check_apart(facts: Facts, target: Path, path: Path) -> None:
    """Raise ConfigurationError for a ledger that is another file of the run."""
    part = _beside(target, ".part")
    others = [(facts.source.path, "input"), (target, "output"), (part, "part file of the output")]
    kept = (notes.path_of(target), mending.path_of(target))
    others += [(_beside(path, ending), "note beside the output") for path in kept for ending in ("", ".part")]
    if (problems := facts.problems) is not None:
        sides = [_beside(problems, ending) for ending in (".part", ".of", ".of.part")]
        others += [(side, "note beside the file of problems, or its part file") for side in sides]
    for other, what in others:
        if path.absolute() == other.absolute() or (looks.exists(path) and looks.exists(other) and path.samefile(other)):
            raise ConfigurationError(f"the ledger {str(path)!r} is the {what}: give it a file of its own")


def may_replace(facts: Facts, output: Output, problems: Output | None) -> bool:
    """Whether what there is of the outputs may go. Raises ConfigurationError if it may not, and is there. Blocks."""
    why = ""
    if facts.ledger is not None and not facts.resumes:
        _check_held(facts)
        why = f", and its ledger {str(facts.ledger)!r} is not there"
    elif facts.resumes and any(call.endpoint.never_charges for call in facts.kinds) and not facts.calls.keyed:
        # Such a call does something each time. It is only known to be the same by its key.
        why = ", and without a column of keys all of it would be done again"
    elif facts.resumes:
        _check_whom(facts, output)
        _check_mended(facts, output, problems)
        return True
    check_free(facts, output, problems, why)
    return facts.options.overwrite


def check_free(facts: Facts, output: Output, problems: Output | None, why: str) -> None:
    """Raise ConfigurationError if there is something that may have been paid for; `why` says more of it."""
    if not facts.options.overwrite:
        output.check_free(why, "say --rescued {!r} to take its answers over, " if facts.ledger is None else "")
        if problems is not None:
            problems.check_free(why)


def _check_held(facts: Facts) -> None:
    """Raise ConfigurationError for a file of problems that lost the note of its ledger, where rows are held."""
    header, source = facts.rows.header, facts.source
    if facts.options.overwrite or facts.origin is not None or source.is_stdin or "problem" not in header:
        return
    place = header.index("problem")
    with suppress(UnreadableInputError), source.open() as again:
        if any("held: it " in str(row.cells[place]) for row in again):
            raise ConfigurationError(
                f"{str(source.path)!r} has rows that an earlier run holds, since they may have been charged, and "
                "nothing says which ledger is that run's: name it (--ledger), or say --overwrite to send them again"
            )


def _check_whom(facts: Facts, output: Output) -> None:
    """Raise ConfigurationError where a sandbox's answers would take the place of others'."""
    if facts.options.overwrite or output.streams or facts.whom != pretended.SANDBOX:
        return
    note = notes.note_of(output.path) if looks.exists(output.path) or looks.exists(output.part) else None
    if note is not None and "--sandbox" not in note.command and note.whom != pretended.SANDBOX:
        raise ConfigurationError(
            f"{str(output.path)!r} has answers of the vendor, and this run asks a sandbox, which makes its answers up: "
            "give the output another name, or say --overwrite"
        )


def _check_mended(facts: Facts, output: Output, problems: Output | None) -> None:
    """Raise ConfigurationError where somebody's work, or the results of more than this input, would be lost."""
    if facts.options.overwrite:
        return
    if problems is not None and not any(notes.is_same(taken, problems.path) for taken in facts.source.mended.taken):
        problems.check_unchanged()
    target, origin = output.path, facts.origin
    if origin is None or output.streams or not looks.exists(target):
        return
    if target.absolute() == origin.output.absolute():
        raise ConfigurationError(
            f"{str(target)!r} has the results of all rows, and {str(facts.source.path)!r} only those of them that "
            "had problems: give the output another name, or say --overwrite"
        )


def count_answers(facts: Facts, summary: Balance, output: Output, problems: Output | None) -> int:
    """How many answers the ledger has. Raises ConfigurationError where what was removed from it would be bought again.

    By one look: another run may be writing, and what it adds between two of them would seem to be lost.
    """
    if summary.lost:
        check_free(
            facts,
            output,
            problems,
            f", and {summary.lost} of the answers paid for are not in its ledger any more, and would be paid for again",
        )
    return summary.answers


async def look_back(
    facts: Facts,
    output: Output,
    ledger: Store | None,
    client: AsyncClient,
    *,
    stack: AsyncExitStack,
    given_up: threading.Event,
    is_known: bool = False,
) -> Earlier | None:
    """The answers that earlier runs wrote, and that are taken over; `stack` closes them. None if there are none.

    `ledger` is the one to go on from, if there is one. `is_known`: it is known to be the one that the output is of, and
    only the part is looked into, since each look goes through the ledger. Raises ConfigurationError where answers that
    were paid for would go, and be paid for again.
    """
    has_ledger = facts.ledger is not None
    named = [*map(Path, facts.options.rescued)]
    if has_ledger and not (output.streams or named):
        _tell_unlisted(facts, output)
    sources = sources_of(output, named, resumes=ledger is not None, has_ledger=has_ledger)
    if is_known:
        sources = [source for source in sources if source.path != output.path]
    if not sources or given_up.is_set():
        return None
    earlier = Earlier(
        sources,
        facts.kinds,
        facts.columns.results,
        facts.columns.names,
        cells_of=lambda row: facts.columns.of(row.cells),
        key=facts.calls.key_column,
        is_whole=facts.is_whole,
    )
    stack.callback(earlier.close)
    try:
        if await asyncio.to_thread(earlier.gather, ledger, given_up):
            again = await in_thread(facts.source.again, _close)
            try:
                path, retries = None if ledger is None else facts.ledger, facts.options.retry_unknown
                asking = client if retries is None else client.with_options(retry_unknown=retries)
                await earlier.compare(again, facts.calls, asking, path, given_up)
            finally:
                _close(again)
        if given_up.is_set():
            return None
        if earlier.lost and not facts.options.overwrite:
            raise _losing(earlier, facts.ledger)
        await asyncio.to_thread(earlier.keep, output.path)
    except sqlite3.Error as exc:
        problem = str(exc)
    else:
        return earlier
    raise ConfigurationError(f"the temporary folder {tempfile.gettempdir()!r} cannot be used: {problem}; set TMPDIR")


def _tell_unlisted(facts: Facts, output: Output) -> None:
    """Say, before anything is asked, where rescued rows are not looked for."""
    tell = facts.options.on_start
    if tell is None:
        return
    for folder in unlisted(output.path):
        tell(
            f"the folder {str(folder)!r} cannot be listed: if an earlier run put rescued rows there, name them with "
            "--rescued FILE, or they may be paid for again"
        )


def _losing(earlier: Earlier, ledger: Place | None) -> ConfigurationError:
    """The error that answers would be lost, and how to keep them."""
    where = repr(str(earlier.where))
    if ledger is None:
        return ConfigurationError(
            f"{where} has {earlier.lost} answers that were paid for and are of no row of the input: move it away, or "
            "say --overwrite"
        )
    beside = ", together with its '-wal' file" if isinstance(ledger, Path) else ""
    return ConfigurationError(
        f"{where} has results of an earlier run, and {earlier.lost} of the answers paid for are not in its ledger any "
        f"more, and would be paid for again: bring back the ledger {str(ledger)!r} as it was{beside}; or say "
        f"--rescued {where} to take the answers from there, or --overwrite to pay again"
    )


def _close(rows: Rows | None) -> None:
    if rows is not None:
        rows.close()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")
