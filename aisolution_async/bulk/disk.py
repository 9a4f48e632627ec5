"""Files that are private, that grow by whole lines, or that are written at one stroke."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from aisolution_async import locks
from aisolution_async.bulk import looks
from aisolution_async.names import is_taken, sync_names

BINARY = getattr(os, "O_BINARY", 0)
# Neither what a link leads to, nor to wait for somebody at the other end of a pipe.
_LOOK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENXIO)  # a link, by two names, or a socket: no run writes one


def put_safely(path: Path, lines: Iterable[str]) -> None:
    """Write a private file at one stroke; it is safe on the disk when this returns. Raises OSError."""
    new = path.with_name(f"{path.name}.part")
    with new.open("w", encoding="utf-8") as file:
        make_private(file.fileno())
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_names(path.parent)


def put_aside(path: Path) -> Path:
    """A private copy, beside it, of a file that is going to be replaced; safe on the disk. Raises OSError."""
    places = (path.with_name(f"{path.stem}-before-{number}{path.suffix}") for number in count(1))
    place = next(place for place in places if not is_taken(place))
    with place.open("xb") as new, path.open("rb") as old:
        make_private(new.fileno())
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())
    sync_names(path.parent)
    return place


def digest_of(path: Path) -> str | None:
    """What a file is known by; None where it cannot be read."""
    with suppress(OSError):
        return digest_file(path)
    return None


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


ASIDE = "_bulk"
"""The folder beside results that has what belongs to them, where it is there: whoever reads all results skips it."""


def beside(output: Path, name: str) -> Path:
    """The file of that name that belongs to `output`: beside it, or in the folder that is there for such files.

    Raises ConfigurationError where that cannot be told.
    """
    here, aside = output.with_name(name), output.parent / ASIDE / name
    return aside if looks.is_folder(aside.parent) and not looks.is_taken(here) else here


def relative(folder: Path, path: Path) -> str:
    """`path` as it is to be found from `folder`, so that both may be moved together."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return str(path.absolute())


class Appender:
    """A file that grows by whole lines only."""

    def __init__(self, number: int) -> None:
        self._file = open(number, "wb", buffering=0)  # noqa: SIM115  # closed by close()
        self._size = 0

    def append(self, line: bytes) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # On a full disk half a line may have been taken.
            with suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._size += len(line)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


def remove_idle(part: Path, *, takes_over: bool) -> None:
    """Remove what a stopped run left. Raises BlockingIOError if that run is still alive, unless this one takes over."""
    try:
        file = open(part, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | _LOOK))  # noqa: SIM115  # `Path.open` has no opener; locks.remove closes it
    except FileNotFoundError:
        return
    except OSError as exc:
        if not takes_over and exc.errno not in _NO_FILE:
            raise  # a living run may write it
        part.unlink(missing_ok=True)
        return
    with file:
        try:
            lock_open(file)
        except BlockingIOError:
            if not takes_over:
                raise
            part.unlink(missing_ok=True)  # its run writes on, to a file that has no name any more
            return
        if not os.fstat(file.fileno()).st_nlink:
            return  # somebody took it away meanwhile; whoever has made a new one is met as this run makes its own
        locks.remove(part, file.close)


def make_private(number: int) -> None:
    """Let only its owner read and write the open file, whatever the umask gives or takes."""
    with suppress(OSError, AttributeError):  # a file system, or a system, without such modes
        os.fchmod(number, 0o600)


def lock_open(file: Appender | io.FileIO) -> None:
    """Lock the open file as one that a living run writes. Raises BlockingIOError where another run does."""
    locks.close_in_children(file)
    try:
        locks.lock(file.fileno())
    except BlockingIOError:
        raise
    except OSError:
        return  # a file system without locks has to do without


def reason_of(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or type(exc).__name__


def remedy_of(exc: OSError) -> str | None:
    """What lets a file be written that could not be; None where nobody knows."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there"
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow writing there"
    return None


def elsewhere(exc: OSError) -> str:
    """Why a file cannot be written where it is to be, and what to do."""
    remedy = remedy_of(exc)
    return f"{reason_of(exc)}; choose another place{'' if remedy is None else f', or {remedy}'}"
