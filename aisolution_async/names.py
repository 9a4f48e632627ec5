"""Names of files: which text is none, what is there, and how they are safe on the disk."""

from __future__ import annotations

import os
import re
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


def exists(path: Path) -> bool:
    """Whether there is something of that name. Raises OSError where nobody can tell.

    `Path.exists` says, from Python 3.14, that what cannot be looked at is not there; and a ledger that is not there is
    begun anew.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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
