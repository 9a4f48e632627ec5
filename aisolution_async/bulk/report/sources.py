"""Which files a report is made of: a ledger, the results that stand beside it, or both."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place

_LEDGERS = (".sandbox.ledger", ".ledger")
_KNOWN = (".xlsx", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read. `ending` is the format of the results, `is_part` says that their run is not over.

    `notes` say what could not be found.
    """

    ledger: Place | None
    results: Path | None
    ending: str = ""
    is_part: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def output(self) -> Path | None:
        """The name of the results once they are whole."""
        return self.results.with_suffix("") if self.results is not None and self.is_part else self.results


def files_of(named: Place, *, ledger: Place | None = None, results: Path | None = None) -> Sources:
    """The files that `named` stands for: a ledger or results, with the other of the two beside it, unless it is said.

    Raises ConfigurationError where that cannot be told, or what was said is not there.
    """
    if not isinstance(named, Path) or _is_ledger(named):
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
        ledger = next((path for path in beside if path.is_file()), None)
        if ledger is None:
            notes.append(
                f"No ledger was found beside the results ({beside[0].name}): attempts, their cost and their times are "
                "not on this page. Say --ledger FILE."
            )
    ending = next((suffix.lower() for suffix in reversed(results.suffixes) if suffix.lower() in _KNOWN), None)
    if ending is None:
        known = ", ".join(_KNOWN)
        raise ConfigurationError(f"{str(results)!r} is neither a ledger nor results: name a .ledger, or {known}")
    if results.is_file():
        return Sources(ledger, results, ending, results.suffix == ".part", notes)
    part = Path(f"{results}.part")
    if part.is_file():
        return Sources(ledger, part, ".jsonl" if ending == ".xlsx" else ending, True, notes)
    raise ConfigurationError(f"there are no results {str(results)!r}: check the path")


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
            if output.suffix.lower() in _KNOWN and (output.is_file() or Path(f"{output}.part").is_file()):
                return output
    return None
