"""Who is alive: an owner locks a file of its own beside the ledger, and the system drops the lock with the process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from aisolution_async import locks
from aisolution_async.ledger.store import LedgerError
from aisolution_async.names import can_list


class Owner:
    """This opening of the ledger: alive until `release`, or until the process ends in whatever way."""

    def __init__(self, ledger: Path) -> None:
        if not can_list(ledger.parent):
            raise LedgerError(
                f"the folder of the ledger {ledger} cannot be listed, and it says who else uses the ledger: allow "
                "reading the folder, or use a ledger in another folder"
            )
        while True:
            self.name = secrets.token_hex(8)
            self._path = _file(ledger, self.name)
            self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            locks.close_in_children(self)
            self._lock(ledger)
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
        with suppress(OSError):  # on Windows, somebody is looking at it; or the folder is shut: it is swept later
            locks.remove(self._path, self.close)
        self.close()

    def close(self) -> None:
        """Close this process's hold on the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self, ledger: Path) -> None:
        try:
            locks.lock(self._fd, waits=True)
        except OSError as exc:
            problem = exc.strerror or type(exc).__name__
        else:
            return
        self.release()
        raise LedgerError(f"the ledger {ledger} needs file locks, and there are none: {problem}; use another disk")


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


def has_others(ledger: Path, name: str) -> bool:
    """Whether there is a file of another owner than this one, alive or dead."""
    start = _file(ledger, "").name
    return any(file.name.startswith(start) and file.name != f"{start}{name}" for file in ledger.parent.iterdir())


def others(ledger: Path, name: str) -> bool | None:
    """Whether another owner than this one is alive. None where nobody can tell: the folder was shut meanwhile, say."""
    start = _file(ledger, "").name
    try:
        found = [file.name.removeprefix(start) for file in ledger.parent.iterdir() if file.name.startswith(start)]
        return any(other != name and is_alive(ledger, other) for other in found)
    except OSError:
        return None


def _look(path: Path, *, remove: bool) -> bool | None:
    try:
        file = path.open("r+b", buffering=0)
    except FileNotFoundError:
        return None
    with file:
        if locks.is_locked(file.fileno()):
            return True
        if remove:  # while it is locked: it may be an owner's that is about to lock it
            with suppress(OSError):
                locks.remove(path, file.close)
    return False


def _file(ledger: Path, name: str) -> Path:
    return ledger.with_name(f"{ledger.name}-owner-{name}")
