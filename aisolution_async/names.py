"""Names of files: which text is none, what is there, and how they are safe on the disk."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# A drive of Windows has one letter. A Path has lost one of the slashes. A line that was read from somewhere may begin
# with a blank.
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.:-]+):/")
# As libpq takes the address of a server, too: host=… password=…
_WORDS = re.compile(r"\s*(?:host|hostaddr|port|dbname|user|password|service|sslmode)\s*=\s*\S*\s+[a-z_]+\s*=")


def scheme_of(text: str) -> str | None:
    """The scheme of a URL as it is written, "" for the address of a server in words; None for what may be a path."""
    found = _SCHEME.match(text)
    if found is not None:
        return found[1]
    return "" if _WORDS.match(text) else None


_NO_NAME = 123  # Windows has no file with a * in its name, and says that the name is wrong


def exists(path: Path) -> bool:
    """Whether there is something of that name. Raises OSError where nobody can tell, as do those below.

    `Path.exists` and its like say that what cannot be looked at is not there: from Python 3.14 whatever the error is,
    before where links go round in a circle; `os.path.lexists` says so at all times. And a ledger that is not there is
    begun anew, and what is not there is written over.
    """
    return _seen(path) is not None


def is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one."""
    found = _seen(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one."""
    found = _seen(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_taken(path: Path) -> bool:
    """Whether the name is taken, be it by a link that leads nowhere. One that no file can have is not."""
    try:
        return _seen(path, follow_symlinks=False) is not None
    except OSError as exc:
        if exc.errno in (errno.ENAMETOOLONG, errno.EINVAL) and getattr(exc, "winerror", None) is None:
            return False  # whoever makes such a file is told
        raise


def perhaps(look: Callable[[Path], bool], path: Path) -> bool:
    """What one of those above says of the file; True where nobody can tell."""
    try:
        return look(path)
    except OSError:
        return True


def can_list(folder: Path) -> bool:
    """Whether the names in a folder may be read: one that may be written can keep them to itself.

    Other errors are not told here: whoever reads the names meets them.
    """
    try:
        os.scandir(folder).close()
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def _seen(path: Path, *, follow_symlinks: bool = True) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow_symlinks)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file has a NUL in its name
        return None
    except OSError as exc:
        if getattr(exc, "winerror", None) == _NO_NAME:
            return None
        raise


def sync_names(folder: Path) -> None:
    """Make it safe which files a folder has, and under what names, where the system can do that.

    To sync a file makes safe what is in it, and not that it is there.
    """
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
