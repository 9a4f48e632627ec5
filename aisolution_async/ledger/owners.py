"""Who is alive: an owner holds a lock on a file of its own beside the ledger, and the system drops it with the process.

It is flock, not a POSIX record lock: those are dropped when any descriptor of the file is closed. A flock is
shared with forked children, so they close their copy at once; else a child would keep its dead parent alive.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import weakref
from collections.abc import Collection
from pathlib import Path

from aisolution_async.ledger.store import LedgerError

_held: weakref.WeakSet[Owner] = weakref.WeakSet()


class Owner:
    """This opening of the ledger: alive until `release`, or until the process ends in whatever way."""

    def __init__(self, ledger: Path) -> None:
        try:
            import fcntl  # noqa: PLC0415  # not there on Windows
        except ImportError:
            raise LedgerError(
                f"the ledger {ledger} needs file locks that this system lacks: use Linux or macOS"
            ) from None
        _watch_forks()
        while True:
            self.name = secrets.token_hex(8)
            self._path = _file(ledger, self.name)
            self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            _held.add(self)
            # Whoever sweeps may have taken the file for a dead owner's before it was locked.
            if os.fstat(self._fd).st_nlink:
                return
            self.release()

    def is_there(self) -> bool:
        """Whether its file still stands beside the ledger: else others cannot know that it lives."""
        try:
            return self._path.stat().st_ino == os.fstat(self._fd).st_ino
        except OSError:
            return False

    def release(self) -> None:
        """Be alive no more."""
        self._path.unlink(missing_ok=True)
        self.let_go()

    def let_go(self) -> None:
        """Close this process's hold on the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_alive(ledger: Path, name: str) -> bool | None:
    """Whether the owner of that name still runs, in whatever container on this host.

    None where nobody can tell: somebody removed its file. A dead owner that had something under way leaves it.
    """
    return _look(_file(ledger, name), remove=False)


def sweep(ledger: Path, spared: Collection[str]) -> None:
    """Remove the files that dead owners left, but for those of `spared`."""
    start = _file(ledger, "").name
    for file in ledger.parent.iterdir():
        if file.name.startswith(start) and file.name.removeprefix(start) not in spared:
            _look(file, remove=True)


def others(ledger: Path, name: str) -> bool:
    """Whether another owner than this one is alive."""
    start = _file(ledger, "").name
    found = [file.name.removeprefix(start) for file in ledger.parent.iterdir() if file.name.startswith(start)]
    return any(other != name and is_alive(ledger, other) for other in found)


def _look(path: Path, *, remove: bool) -> bool | None:
    import fcntl  # noqa: PLC0415  # not there on Windows

    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared, so that two who look do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if remove:  # while it is locked: it may be an owner's that is about to lock it
            with contextlib.suppress(OSError):
                path.unlink()
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _file(ledger: Path, name: str) -> Path:
    return ledger.with_name(f"{ledger.name}-owner-{name}")


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for owner in list(_held):
        owner.let_go()
