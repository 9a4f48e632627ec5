"""What is noted beside a file of problems: the ledger that its rows are in, and how it was written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from aisolution_async.bulk import looks
from aisolution_async.bulk.disk import digest_file, put_safely, relative
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place, place_of
from aisolution_async.names import is_file, is_taken

_LONGEST_SIDE = 65_536


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file of problems comes from: the run's `ledger` and `output`, and its `digest` as it was written.

    `added` are the columns that the rows of the input got there, first the one with the number of the row.
    `other` is the ledger of the file that stood there before, where a run was killed while it replaced that by its own,
    and nobody can tell any more which of the two this is: it was changed since. Else None.
    """

    ledger: Place
    output: Path
    digest: str
    added: tuple[str, ...] = ("problem",)
    other: Place | None = None

    def is_as_written(self, path: Path) -> bool:
        """Whether nobody changed the file `path` since it was written. Raises OSError."""
        return digest_file(path) == self.digest


def origin_of(path: Path) -> Origin | None:
    """What the file of problems `path` remembers, in PATH.of beside it; None where there is no such file.

    Raises ConfigurationError where there is one that cannot be read: to go without it is to pay twice.
    """
    side = side_of(path)
    if not looks.is_taken(side):
        return None
    try:
        return read_note(path)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise ConfigurationError(
        f"{str(side)!r} cannot be read, which says what ledger {str(path)!r} belongs to: "
        "take it away, and name the ledger"
    )


def read_note(path: Path) -> Origin | None:
    """The same. Raises OSError, ValueError, TypeError or KeyError for one that cannot be read."""
    side = side_of(path)
    if not is_taken(side):
        return None
    with side.open("rb") as file:
        said = json.loads(file.readline(_LONGEST_SIDE))
    found, before = _read_origin(path.parent, said), said.get("before")
    if before is None or not is_file(path):
        return found
    # A run was killed while it gave the file its name: it is the new one, or still the one before.
    former, digest = _read_origin(path.parent, before), digest_file(path)
    if digest == former.digest:
        return former
    return (
        found
        if digest == found.digest or former.ledger == found.ledger
        else dataclasses.replace(found, other=former.ledger)
    )


def _read_origin(folder: Path, said: Mapping[str, Any]) -> Origin:
    added = tuple(map(str, said.get("added", ("problem",))))
    place = place_of(said["ledger"])
    ledger = folder / place if isinstance(place, Path) else place
    return Origin(ledger, folder / said["output"], str(said["digest"]), added)


def write_note(path: Path, origin: Origin, before: Origin | None, rows: Iterable[str]) -> None:
    """Write PATH.of, with what is said of its `rows` in the lines behind the first."""
    folder = path.parent

    def said(origin: Origin) -> dict[str, Any]:
        ledger = relative(folder, origin.ledger) if isinstance(origin.ledger, Path) else str(origin.ledger)
        output = relative(folder, origin.output)
        return {"ledger": ledger, "output": output, "digest": origin.digest, "added": origin.added}

    whole = said(origin) | ({} if before is None else {"before": said(before)})
    put_safely(side_of(path), chain((json.dumps(whole),), rows))


def rows_of_note(path: Path) -> Iterator[Any]:
    """What the note of the file of problems `path` says of its rows, value by value. Raises OSError, ValueError."""
    with side_of(path).open(encoding="utf-8") as file:
        file.readline()
        yield from map(json.loads, file)


def side_of(path: Path) -> Path:
    return path.parent / f"{path.name}.of"
