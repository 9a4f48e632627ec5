"""The note beside an output, OUTPUT.run: what a run was told, so that the output's name is enough to go on with it.

It has the input and how that is read, the endpoints, the file of problems, who was asked and, of a command, its
options. It has no token, no group id and no address that may have a secret in it. Only its owner can read it, and it is
safe on the disk before anything is sent. Paths in it are relative to the folder of the output: all may be moved
together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisolution_async.bulk import looks
from aisolution_async.bulk.disk import ASIDE, beside, put_safely, relative
from aisolution_async.bulk.origins import origin_of
from aisolution_async.bulk.outputs import STDOUT
from aisolution_async.bulk.rows import Rows
from aisolution_async.errors import ConfigurationError

_LONGEST = 1 << 20
_READING: Mapping[str, Any] = {
    **dict.fromkeys(("delimiter", "encoding", "sheet"), str | None),
    "skip_hidden": bool,
    "header_row": int | None,
}
Signature = tuple[int, int]
"""The size of a file, and when it was changed."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the note says. `command` are the words of the command, if it was one: a path among them is `{"path": …}`.

    `finished` is what the input was when all its rows were answered; None as long as some are not. `whom` says who was
    asked, if not the vendor: see `pretended.noted`.
    """

    source: Path
    reading: Mapping[str, Any]
    endpoints: tuple[str, ...]
    problems: Path | None = None
    command: Sequence[Any] = ()
    finished: Signature | None = None
    whom: str | None = None


def path_of(output: Path) -> Path:
    """Where the note of an output is: of a file, or of a folder of results. Raises ConfigurationError."""
    return output / ASIDE / "folder.run" if looks.is_folder(output) else beside(output, f"{output.name}.run")


def note_of(output: Path) -> Note | None:
    """The note of an output; None where there is none. Raises ConfigurationError where it cannot be read."""
    if not output.name:  # "." and "/" have no file beside them
        return None
    path, folder = path_of(output), output.parent
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_LONGEST))
        if not all(isinstance(cell, _READING[name]) for name, cell in said["reading"].items()):
            raise TypeError("reading")
        problems, finished, whom = said["problems"], said["finished"], said.get("whom")  # earlier versions had none
        return Note(
            folder / said["input"] if said["input"] != STDOUT else Path(STDOUT),
            dict(said["reading"]),
            tuple(map(str, said["endpoints"])),
            None if problems is None else folder / problems,
            list(said["command"]),
            None if finished is None else (int(finished[0]), int(finished[1])),
            None if whom is None else str(whom),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        pass
    raise ConfigurationError(f"{str(path)!r} cannot be read, which says what {str(output)!r} is of: take it away")


def keep(output: Path, note: Note) -> None:
    """Write the note, unless it says so already. Raises ConfigurationError where that cannot be."""
    path, folder = path_of(output), output.parent
    said = {
        "input": STDOUT if str(note.source) == STDOUT else relative(folder, note.source),
        "reading": dict(note.reading),
        "endpoints": [*note.endpoints],
        "problems": None if note.problems is None else relative(folder, note.problems),
        "command": [*note.command],
        "finished": note.finished,
        **({} if note.whom is None else {"whom": note.whom}),
    }
    line = json.dumps(said)
    try:
        with suppress(OSError, ValueError):
            if path.read_text(encoding="utf-8") == f"{line}\n":
                return
        put_safely(path, [line])
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    else:
        return
    raise ConfigurationError(f"the note {str(path)!r} cannot be written: {problem}; choose another place")


def signature_of(path: Path) -> Signature | None:
    """What tells whether a file was changed; None where it is none."""
    with suppress(OSError, ValueError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return None


def is_finished(output: Path, note: Note) -> bool:
    """Whether all rows of the input are answered in the output, and the input is what it was then.

    Raises ConfigurationError where that cannot be told.
    """
    part = output.with_name(f"{output.name}.part")
    now = signature_of(note.source)
    return now is not None and now == note.finished and looks.is_file(output) and not looks.exists(part)


def is_same(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file."""
    with suppress(OSError, ValueError):
        if one.samefile(other):
            return True
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100  # Path.resolve() follows links


@dataclass(frozen=True, slots=True)
class Whole:
    """The list that rows with problems are of, as its note says, and the file `mend` that they are in."""

    note: Note
    mend: Path


def whole_of(source: Path, output: Path | None) -> Whole | None:
    """What `source` has rows of, if those are rows with problems of `output`; None for any other file.

    A copy under another name is known by its columns. Raises ConfigurationError where the list itself is gone.
    """
    if output is None or STDOUT in (str(source), str(output)):
        return None
    note = note_of(output)
    if note is None or is_same(source, note.source) or not _has_problems_of(source, output, note):
        return None
    if str(note.source) == STDOUT or not looks.is_file(note.source):
        where = "came from standard input" if str(note.source) == STDOUT else f"{str(note.source)!r} is not there"
        raise ConfigurationError(
            f"{str(source)!r} has rows of the list of {str(output)!r}, and that {where}: put it back, or give the "
            "output another name"
        )
    return Whole(note, source)


def _has_problems_of(source: Path, output: Path, note: Note) -> bool:
    origin = origin_of(source)
    if origin is not None:
        return is_same(origin.output, output)
    if not looks.is_file(source):
        return False
    with suppress(ConfigurationError):
        known = None if note.problems is None else origin_of(note.problems)
        if known is not None and len(known.added) > 1 and is_same(known.output, output):
            with Rows(source) as rows:
                return set(known.added) <= {*rows.header}
    return False
