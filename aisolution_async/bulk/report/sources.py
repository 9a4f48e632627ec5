"""Which files a report is made of: a ledger, the results that stand beside it, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aisolution_async.bulk import looks
from aisolution_async.bulk.disk import ASIDE
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place

_LEDGERS = (".sandbox.ledger", ".ledger")
_KNOWN = (".xlsx", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_EXAMPLE = "postgresql://host/database?schema=applicants"
_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read. `ending` is the format of the results, `is_part` says that their run is not over.

    Where the results are a folder, `shards` are the files in it that are whole. `notes` say what could not be found.
    """

    ledger: Place | None
    results: Path | None
    ending: str = ""
    is_part: bool = False
    notes: list[str] = field(default_factory=list)
    shards: Sequence[Path] = ()

    @property
    def output(self) -> Path | None:
        """The name of the results once they are whole."""
        return self.results.with_suffix("") if self.results is not None and self.is_part else self.results


def files_of(named: Place, *, ledger: Place | None = None, results: Path | None = None) -> Sources:
    """The files that `named` stands for: a ledger or results, with the other of the two beside it, unless it is said.

    Raises ConfigurationError where that cannot be told, or what was said is not there.
    """
    is_lost = isinstance(named, Path) and ledger is not None and not looks.exists(named)  # then its name says nothing
    if not isinstance(named, Path) or (not is_lost and not looks.is_folder(named) and _is_ledger(named)):
        if ledger is not None:
            raise ConfigurationError(f"{str(named)!r} is a ledger, and --ledger names another one: leave one out")
        ledger = named
    elif results is not None:
        raise ConfigurationError(f"{str(named)!r} is taken for results, and --results names others: leave one out")
    else:
        results = named
    notes: list[str] = []
    if results is None:
        assert ledger is not None
        results = _output_of(ledger) if isinstance(ledger, Path) else None
        if results is None:
            where = "were found beside" if isinstance(ledger, Path) else "are known of"
            notes.append(
                f"No results {where} the ledger: what never became an attempt, as a row with a bad number or "
                "photo, is not on this page. Say --results FILE."
            )
            return Sources(ledger, None, notes=notes)
    if ledger is None:
        beside = [Path(f"{results}{ending}") for ending in reversed(_LEDGERS)]
        ledger = next((path for path in beside if looks.is_file(path)), None)
        if ledger is None:
            notes.append(
                f"No ledger was found beside the results ({beside[0].name}): attempts, their cost and their times are "
                f"not on this page. Say where it is, a file or a URL: --ledger {_EXAMPLE!r}."
            )
    if looks.is_folder(results):
        return _folder(results, ledger, notes)
    ending = next((suffix.lower() for suffix in reversed(results.suffixes) if suffix.lower() in _KNOWN), None)
    if ending is None and not is_lost:
        known = ", ".join(_KNOWN)
        raise ConfigurationError(f"{str(results)!r} is neither a ledger nor results: name a .ledger, or {known}")
    if ending is not None and looks.is_file(results):
        return Sources(ledger, results, ending, results.suffix == ".part", notes)
    part = Path(f"{results}.part")
    if ending is not None and looks.is_file(part):
        return Sources(ledger, part, ".jsonl" if ending == ".xlsx" else ending, True, notes)
    raise ConfigurationError(f"there are no results {str(results)!r}: check the path")


def _folder(results: Path, ledger: Place | None, notes: list[str]) -> Sources:
    """The results of a folder of lists. Raises ConfigurationError where it has none."""
    done = looks.files_in(results / ASIDE, ".done")
    begun = looks.files_in(results, ".part")  # says so where it may not be looked into
    shards = [path for path in (results / note.name.removesuffix(".done") for note in done) if looks.is_file(path)]
    if not shards:
        raise ConfigurationError(f"there are no results in the folder {str(results)!r}: check the path")
    if others := len(done) - len(shards) + len(begun):
        notes.append(f"Shards without results yet, whose rows are not on this page: {others:,}.")
    return Sources(ledger, results, notes=notes, shards=shards)


def _is_ledger(path: Path) -> bool:
    """By its content; where there is none to look at, by its name."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE))
    except OSError:
        head = b""
    return head == _SQLITE if head else path.suffix.lower() not in (*_KNOWN, ".part")


def _output_of(ledger: Path) -> Path | None:
    for ending in _LEDGERS:
        if ledger.name.endswith(ending) and len(ledger.name) > len(ending):
            output = ledger.with_name(ledger.name.removesuffix(ending))
            if output.suffix.lower() in _KNOWN and (looks.is_file(output) or looks.is_file(Path(f"{output}.part"))):
                return output
            if looks.is_folder(output / ASIDE):
                return output
    return None
