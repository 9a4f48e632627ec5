"""What is there of a run's files. One that cannot be looked at is told, and never taken for missing."""

from __future__ import annotations

from collections.abc import Iterator
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
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    raise ConfigurationError(f"the folder {str(folder)!r} cannot be listed: {problem}; mend that, and do it again")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    else:
        return
    raise ConfigurationError(f"{str(path)!r} cannot be looked at: {problem}; mend that, and do it again")
