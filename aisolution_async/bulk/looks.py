"""What is there of a run's files. One that cannot be looked at is told, and never taken for missing."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aisolution_async import names
from aisolution_async.errors import ConfigurationError


def exists(path: Path) -> bool:
    """Whether there is something of that name. Raises ConfigurationError where nobody can tell, as do those below."""
    with _told(path):
        return names.exists(path)


def is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one."""
    with _told(path):
        return names.is_file(path)


def is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one."""
    with _told(path):
        return names.is_folder(path)


def is_taken(path: Path) -> bool:
    """Whether the name is taken, be it by a link that leads nowhere."""
    with _told(path):
        return names.is_taken(path)


def files_in(folder: Path, ending: str) -> list[Path]:
    """What there is in a folder with names that end so, in their order; nothing where there is no folder."""
    return sorted(folder / entry.name for entry in _entries(folder) if entry.name.endswith(ending))


def named_by(pattern: Path) -> list[Path]:
    """What a pattern like `lists/**/*.csv` names, in its order. A folder on the way that cannot be listed is told.

    The functions of `glob` pass such a folder over, and whatever is in it. Else this is as they do it: no `*` stands
    for a name that begins with a dot, and `**` for folders in folders.
    """
    return sorted({*_named_in(Path(pattern.anchor), pattern.parts[bool(pattern.anchor) :])})


def _named_in(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if not glob.has_magic(part):
        if is_taken(folder / part):
            yield from _named_in(folder / part, rest)
        return
    is_deep = part == "**"
    if is_deep and (rest or (folder.parts and is_folder(folder))):
        yield from _named_in(folder, rest)
    for entry in _entries(folder):
        if not fnmatch.fnmatch(entry.name, part) or (entry.name.startswith(".") and not part.startswith(".")):
            continue
        path = folder / entry.name
        if (is_deep or rest) and _leads_on(entry):
            yield from _named_in(path, parts if is_deep else rest)
        elif not rest:
            yield path


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What there is in a folder; nothing where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    else:
        return
    raise ConfigurationError(f"the folder {str(folder)!r} cannot be listed: {problem}; mend that, and do it again")


def _leads_on(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that goes round leads to none."""
    with _told(Path(entry.path)):
        try:
            return entry.is_dir()
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                return False
            raise


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    else:
        return
    raise ConfigurationError(f"{str(path)!r} cannot be looked at: {problem}; mend that, and do it again")
