"""Locks on files, the system's own: whoever holds one is alive, since it ends with the process, however that ends.

Linux and macOS have flock. It is not a POSIX record lock: those are dropped when any descriptor of the file is closed.
A flock is shared with forked children, so what `close_in_children` was told of is closed in them at once: else a child
would keep its dead parent's lock. Windows has msvcrt. There a lock keeps others from the bytes that it covers, so it
is put on one that no file of ours reaches: portalocker and filelock, which lock the first ones or empty the file, do
not do for files that others read meanwhile.
"""

from __future__ import annotations

import errno
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

_PLACE = 2**31 - 2
"""The byte that is locked on Windows: the last that its C library can lock."""
_TAKEN = (errno.EACCES, errno.EDEADLK, errno.EAGAIN)
_LOOK_EVERY = 0.01


class _Closes(Protocol):
    def close(self) -> None: ...


_open: weakref.WeakSet[Any] = weakref.WeakSet()


def lock(number: int, *, waits: bool = False) -> None:
    """Lock the open file, until it is closed. `waits`: until nobody else has it locked.

    Raises BlockingIOError where somebody has, and OSError where the file system or the machine has no locks.
    """
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        return
    while True:
        try:
            _on_windows(number, "LK_NBLCK")
        except BlockingIOError:
            if not waits:
                raise
            time.sleep(_LOOK_EVERY)  # whoever only looks has it for a moment
        else:
            return


def is_locked(number: int) -> bool:
    """Whether somebody has the file locked: another process, or this one, by another opening of it.

    Where nobody has, none can take it before the file is closed here (on Windows: during the look).
    Raises OSError where there are no locks.
    """
    try:
        if fcntl is not None:
            # Shared, so that two who look do not take each other for whoever holds it; it ends as the file is closed.
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        else:
            _on_windows(number, "LK_NBLCK")
            _on_windows(number, "LK_UNLCK")
    except BlockingIOError:
        return True
    return False


def remove(path: Path, close: Callable[[], None]) -> None:
    """Remove a file that is open and locked here, then `close` it: nobody finds it there and unlocked.

    Windows removes no file that is open, whoever has it open: there it is closed first.
    """
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        close()
        path.unlink(missing_ok=True)
    else:
        close()


def close_in_children(file: _Closes) -> None:
    """Have `file` closed in every child that this process forks from now on."""
    _open.add(file)


def _on_windows(number: int, how: str) -> None:
    if msvcrt is None:
        raise OSError(errno.ENOLCK, "this system has no file locks")
    position = os.lseek(number, 0, os.SEEK_CUR)
    os.lseek(number, _PLACE, os.SEEK_SET)
    try:
        msvcrt.locking(number, getattr(msvcrt, how), 1)
    except OSError as exc:
        if exc.errno in _TAKEN:
            raise BlockingIOError(exc.errno, "somebody else has it locked") from None
        raise
    finally:
        os.lseek(number, position, os.SEEK_SET)


def _forget() -> None:
    for file in list(_open):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
