"""The photographs beside the rows that a person should judge: small, so many at most, and without metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from aisolution_async.api import CALLS, Kind
from aisolution_async.bulk.cells import text
from aisolution_async.bulk.report.applicants import Photograph, Photographs, ToJudge
from aisolution_async.errors import AISolutionError, InputError
from aisolution_async.inputs import images
from aisolution_async.inputs.fit import thumbnail

MOST_ROWS = 100
"""Rows whose photographs are shown."""
SIDE = 240
"""Pixels of the long side."""

_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Noted:
    """The list that results are of, as the note beside them says: how it is read, and where its photos are."""

    source: Path
    reading: Mapping[str, Any]
    root: Path | None
    columns: Mapping[str, str] = field(default_factory=dict)


def noted_of(results: Path, root: Path | None, columns: Mapping[str, str]) -> Noted | None:
    """The list of a file of results; `root` and `columns` are what is said now. None where nobody can tell it."""
    from aisolution_async.bulk import looks, notes  # noqa: PLC0415  # it imports the words of reports

    output = results.with_suffix("") if results.suffix == ".part" else results
    try:
        note = notes.note_of(output)
        if note is None or not looks.is_file(note.source):
            return None
    except AISolutionError:
        return None
    said: dict[str, str] = {}
    for word, value in zip(note.command, note.command[1:], strict=False):
        if word == "--images" and isinstance(value, dict) and "path" in value:
            root = root or output.parent / value["path"]
        elif word in ("--img", "--img1", "--img2"):
            said[word[2:]] = str(value)
        elif word == "--column":
            name, _, column = str(value).partition("=")
            said[name.rpartition(".")[2]] = column
    return Noted(note.source, note.reading, root, {**said, **columns})


def photographs_of(rows: Iterable[ToJudge], folder: Path, root: Path | None, noted: Noted | None = None) -> Photographs:
    """The photographs of the first of these rows that have any in their cells; paths are found as `bulk` finds them.

    Relative paths start at `folder`, or at `root`, outside of which nothing is read. What is not found so, as pictures
    on cells and links, is taken from the list that is `noted`. Raises ConfigurationError where the root is no folder,
    or Pillow is missing.
    """
    from aisolution_async.bulk.photos import Photos  # noqa: PLC0415  # it imports the words of reports

    found: Photographs = {}
    missing: dict[str, dict[int, ToJudge]] = {}
    with closing(Photos(folder, root)) as photos:
        for row in islice((row for row in rows if row.cells), MOST_ROWS):
            own = [_photograph(name, cell, photos) for name, cell in row.cells]
            found[row.row.number, row.endpoint] = own
            if any(photograph.jpeg is None for photograph in own):
                missing.setdefault(row.endpoint, {})[row.row.number] = row
    for endpoint, wanted in missing.items() if noted is not None else ():
        assert noted is not None
        try:
            _take_from_list(endpoint, wanted, noted, found)
        except AISolutionError:  # it was changed or moved since: what is beside each row says what is missing
            continue
    return found


def _take_from_list(endpoint: str, wanted: Mapping[int, ToJudge], noted: Noted, found: Photographs) -> None:
    """Put in the photographs of the rows `wanted`, by their numbers, as `bulk` read them."""
    from aisolution_async.bulk.calls import Calls  # noqa: PLC0415  # it imports the words of reports
    from aisolution_async.bulk.rows import Rows  # noqa: PLC0415

    call = next(call for call in CALLS if call.endpoint.name == endpoint)
    names = [parameter.name for parameter in call.endpoint.parameters if parameter.kind is Kind.IMAGE]
    columns = {name: column for name, column in noted.columns.items() if name in names}
    with Rows(noted.source, **noted.reading) as rows:
        calls = Calls([call], rows, columns=columns, values={}, key=None, images_root=noted.root)
        with closing(calls):
            last = max(wanted)
            for number, row in enumerate(rows, 2):
                if number > last:
                    break
                if number in wanted and _is_same(wanted[number].inputs, dict(zip(rows.header, row.cells, strict=True))):
                    (made,) = calls.make(row)
                    if not isinstance(made, InputError):
                        found[number, endpoint] = [_shown(getattr(made, name), name) for name in names]


def _is_same(record: Mapping[str, Any], cells: Mapping[str, Any]) -> bool:
    """Whether a row of the results is this one of the list, by the cells that formats do not write differently."""
    same = [
        (text(record[name]).strip().lstrip("'"), text(cell).strip().lstrip("'"))
        for name, cell in cells.items()
        if name in record and isinstance(cell, str | int) and not isinstance(cell, bool)
    ]
    return all(one == other for one, other in same)


def _shown(source: Any, name: str) -> Photograph:
    try:
        return Photograph(name, thumbnail(source, name=name, side=SIDE))
    except InputError as exc:
        return Photograph(name, None, str(exc))


def _photograph(name: str, cell: Any, photos: Any) -> Photograph:
    said = text(cell).strip()
    if not said:
        return Photograph(name, None, f"{name} has no path in this file")
    try:
        source: str | Path = said
        if len(said) <= _LONGEST_PATH and not images.begins_like_an_image(said):
            where = photos.find(said)
            if not isinstance(where, Path):
                return Photograph(name, None, f"{name}: {where}")
            source = where
        return Photograph(name, thumbnail(source, name=name, side=SIDE))
    except InputError as exc:
        return Photograph(name, None, str(exc))
