"""Rows that an output could not take: kept in private files of their own, until an output has them."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aisolution_async.bulk.disk import Appender, make_private, reason_of
from aisolution_async.errors import ConfigurationError
from aisolution_async.names import can_list, sync_names

_TAKEN = ".taken.jsonl"
_PIECE = 1 << 20


class Rescue:
    """Where rows go that the output cannot take: a private file beside it or in the temporary folder, else stderr."""

    def __init__(self, output: Path | None = None) -> None:
        self.rows = 0
        self.places: list[str] = []
        """Where rows were put."""
        self._files: list[tuple[str, Appender]] = []
        for folder in (*(() if output is None else (output.absolute().parent,)), None):
            prefix = rescued(output) if folder is not None and output is not None else _rescued_elsewhere(output)
            with suppress(OSError):
                number, name = tempfile.mkstemp(prefix=prefix, suffix=".jsonl", dir=folder)
                make_private(number)
                self._files.append((name, Appender(number)))

    def write(self, line: bytes) -> None:
        """Keep a row."""
        self.rows += 1
        for name, file in self._files:
            with suppress(OSError):
                file.append(line)
                self._note(name)
                return
        sys.stderr.write(line.decode())
        self._note("stderr")

    def close(self) -> None:
        """Close the files, safe on the disk; no empty one stays."""
        for name, file in self._files:
            with suppress(OSError):
                file.sync()
            file.close()
            if name in self.places:
                sync_names(Path(name).parent)
            else:
                Path(name).unlink(missing_ok=True)

    def _note(self, place: str) -> None:
        if place not in self.places:
            self.places.append(place)


def keep(output: Path, lines: Iterable[bytes]) -> Path:
    """Put rows, as lines of JSONL, into a new file of rescued rows beside `output`. Raises ConfigurationError.

    They are safe on the disk when this returns.
    """
    try:
        folder = output.absolute().parent
        number, name = tempfile.mkstemp(prefix=rescued(output), suffix=".jsonl", dir=folder)
        file = Appender(number)
        try:
            for line in lines:
                file.append(line)
            file.sync()
        finally:
            file.close()
        sync_names(folder)
    except OSError as exc:
        problem = reason_of(exc)
    else:
        return Path(name)
    raise ConfigurationError(
        f"answers that only {str(output)!r}.part has cannot be kept beside it: {problem}; make room there"
    )


def copy_of(number: int, output: Path, ending: str) -> Path | None:
    """A private copy of the part file of `output` that is open as `number`, and has no name any more.

    It is beside the output, else in the temporary folder; None where there is no room. `ending` is that of its format.
    """
    for folder, begins in _places(output):
        with suppress(OSError):
            new, name = tempfile.mkstemp(prefix=begins, suffix=f"{ending}.part", dir=folder)
            try:
                with os.fdopen(new, "wb") as file:
                    make_private(new)
                    os.lseek(number, 0, os.SEEK_SET)
                    while piece := os.read(number, _PIECE):
                        file.write(piece)
                    file.flush()
                    os.fsync(new)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
            sync_names(folder)
            return Path(name)
    return None


def rescues_of(output: Path) -> list[Path]:
    """The files of rows that were rescued from `output`: beside it, and in the temporary folder.

    Others write there too: of what is in it, only files count that are the user's own and that nobody else may read.
    Raises ConfigurationError where a folder fails.
    """
    found: list[Path] = []
    for folder, begins in _places(output):
        try:
            paths = _named(folder, begins)
            found += [path for path in paths if begins == rescued(output) or _is_own(path)]
            continue
        except OSError as exc:
            problem = reason_of(exc)
        raise ConfigurationError(f"the folder {str(folder)!r} cannot be searched for rescued rows: {problem}")
    return found


def unlisted(output: Path) -> list[Path]:
    """The folders in which rows rescued from `output` are not found: they may be written, and not be listed."""
    return [folder for folder, _ in _places(output) if not can_list(folder)]


def _places(output: Path) -> list[tuple[Path, str]]:
    """The folders that rows are rescued to, and what the names of the files begin with there."""
    return [
        (output.absolute().parent, rescued(output)),
        (Path(tempfile.gettempdir()), _rescued_elsewhere(output)),
    ]


def _named(folder: Path, begins: str) -> list[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208  # each shard of a folder looks through all names, and few are meant
    except (FileNotFoundError, PermissionError):  # `unlisted` names a folder that may be written and not be listed
        return []
    return sorted(folder / name for name in names if name.startswith(begins) and name.endswith(".jsonl"))


def put_away(rescue: Path, output: Path) -> None:
    """The rows in this file of rescued rows are in the finished output: let its name say so.

    It stays, as the ledger does not have them. From the temporary folder, which is emptied now and then, it comes to
    the output. Files that are elsewhere stay as they are. Raises OSError.
    """
    folder, begins, long = output.absolute().parent, rescued(output), f"{rescued(output)}long.jsonl"
    is_beside = rescue.absolute().parent == folder and rescue.name.startswith(begins)
    is_elsewhere = rescue.name.startswith(_rescued_elsewhere(output))
    if rescue.name.endswith(_TAKEN) or rescue.name == long or not (is_beside or is_elsewhere):
        return
    if is_beside:
        rescue.replace(rescue.with_name(f"{rescue.stem}{_TAKEN}"))
        sync_names(folder)
        return
    with rescue.open("rb") as lines:
        kept = keep(output, lines)
    kept.replace(kept.with_name(f"{kept.stem}{_TAKEN}"))
    sync_names(folder)
    rescue.unlink()


def _is_own(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:  # somebody took it away, who was its owner
        return False
    mine = getattr(os, "getuid", lambda: found.st_uid)()
    return stat.S_ISREG(found.st_mode) and found.st_uid == mine and (os.name == "nt" or not found.st_mode & 0o077)


def rescued(output: Path) -> str:
    return f"{output.name}.rescued-"


def _rescued_elsewhere(output: Path | None) -> str:
    """What the name of such a file in the temporary folder begins with: it says of which output it is."""
    if output is None:
        return "aisolution-rescued-"
    name = hashlib.blake2b(os.fsencode(output.absolute()), digest_size=8).hexdigest()
    return f"aisolution-rescued-{name}-"
