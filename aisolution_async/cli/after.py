"""What is left to do after a run: whether it is finished, the first problems, and by which commands to go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aisolution_async.bulk import FolderSummary, Summary
from aisolution_async.bulk.outputs import STDOUT
from aisolution_async.cli import show
from aisolution_async.cli.resuming import NextCommand
from aisolution_async.ledger.urls import Place
from aisolution_async.names import exists, perhaps

_LIMITS = ("max_charges", "max_cost")


def lines(
    done: Summary, again: NextCommand, ledger: Place | None, *, folder: FolderSummary | None = None
) -> Iterator[str]:
    """What is to be said of a run, a line each; `folder` has what came of all lists, where there are several."""
    whole = done if folder is None else folder
    of = "" if folder is None else f" of all {folder.shards:,} shards"
    if whole.complete and whole.ok == whole.rows:
        yield f"finished: all {whole.rows:,} rows{of} are answered, and nothing is left to do"
        return
    to_ask = {name: done.errors[name] - done.errors_held[name] for name in ("RetryLaterError", "NotSentError")}
    counts = {
        "with problems": whole.failed - whole.held,
        "held": whole.held,
        "still being checked": whole.checking,
    }
    if folder is not None:
        counts |= {"shards that could not be run": len(folder.problems), "not reached": folder.left}
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if whole.complete:
        yield f"{whole.ok:,} of {whole.rows:,} rows{of} are answered; left to do: {said}"
    else:
        where = " in the other shards" if folder is not None and folder.problems else ""
        yield f"not finished: {whole.ok:,} rows are answered so far{where}{f', {said}' if said else ''}"
    yield from (f"- {problem}" for problem in done.first_problems)
    if (more := done.to_mend - len(done.first_problems)) > 0 and done.first_problems:
        yield f"- and so on: the column 'problem' of the results says it of each row ({more:,} more)"
    yield from _commands(done, again, ledger, folder, is_to_ask=any(to_ask.values()))


def _commands(
    done: Summary, again: NextCommand, ledger: Place | None, folder: FolderSummary | None, *, is_to_ask: bool
) -> Iterator[str]:
    is_gone = folder is None and done.part is not None and isinstance(ledger, Path) and not perhaps(exists, ledger)
    if ledger is None or is_gone:
        yield from _without_ledger(done, again)
        return
    whole = done if folder is None else folder
    if not whole.complete:
        yield f"to go on: {again()}"
    elif is_to_ask:
        yield f"to ask again what the vendor did not answer: {again()}"
    if whole.checking:
        yield f"to ask again what is still being checked, until it is known: {again('--recheck')}"
    if done.over_budget:
        limit = next((name for name in _LIMITS if again.given(name)), _LIMITS[0]).replace("_", "-")
        yield f"to ask what was over the limit, with a higher one for N: {again(f'--{limit}', 'N')}"
    if done.to_settle is not None:
        yield f"{done.to_settle} says what to do about what is held; after that: {again()}"
    if whole.complete and show.is_to_mend(done, ledger):
        yield from _mending(done, again)


def _mending(done: Summary, again: NextCommand) -> Iterator[str]:
    mend: Path | None = None if STDOUT in (str(again.output), str(done.problems)) else done.problems
    if mend is not None:
        yield f"once {mend} is mended: {again()}"
    elif not again.source_is_stdin:
        list_ = repr(str(again.source))
        yield f"once the rows are mended in {list_} (--errors FILE puts them into a file of their own): {again()}"


def _without_ledger(done: Summary, again: NextCommand) -> Iterator[str]:
    """There is nothing to go on from but the files."""
    output, mend = again.output, done.problems
    if done.part is not None and done.part.suffix == ".part" and output.suffix.lower() != ".parquet":
        yield f"to go on, with what was answered: {again('--rescued', str(done.part))}"
    elif mend is not None and done.complete and STDOUT not in (str(output), str(mend)) and show.is_to_mend(done, None):
        beside = output.with_name(f"{output.stem}-mended{output.suffix}")
        yield f"once {mend} is mended: {again.whole(mend=mend, output=beside)}"
    else:
        yield (
            "without a ledger, nothing knows what was answered: the same command asks, and pays for, all rows again; "
            "--ledger FILE changes that"
        )
