"""The photographs beside the rows that a person should judge: small, so many at most, and without metadata."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from aisolution_async.bulk.cells import text
from aisolution_async.bulk.report.applicants import Photograph, Photographs, ToJudge
from aisolution_async.errors import InputError
from aisolution_async.inputs import images
from aisolution_async.inputs.fit import thumbnail

MOST_ROWS = 100
"""Rows whose photographs are shown."""
SIDE = 240
"""Pixels of the long side."""

_LONGEST_PATH = 4096


def photographs_of(rows: Iterable[ToJudge], folder: Path, root: Path | None) -> Photographs:
    """The photographs of the first of these rows that have any in their cells; paths are found as `bulk` finds them.

    Relative paths start at `folder`, or at `root`, outside of which nothing is read. Raises ConfigurationError where
    the root is no folder, or Pillow is missing.
    """
    from aisolution_async.bulk.photos import Photos  # noqa: PLC0415  # it imports the words of reports

    found: Photographs = {}
    with closing(Photos(folder, root)) as photos:
        for row in islice((row for row in rows if row.cells), MOST_ROWS):
            found[row.row.number, row.endpoint] = [_photograph(name, cell, photos) for name, cell in row.cells]
    return found


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
