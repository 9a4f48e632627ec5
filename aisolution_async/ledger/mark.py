"""What a ledger was when it was last used: a small file beside it, FILE-mark.

A ledger that was emptied, replaced, restored from an older copy, or parted from its -wal looks like a good one with
fewer answers, and what it forgot would be bought again. The mark says whose key it has and how many attempts it had at
least: it is written after each commit, so the ledger never has fewer. It is not synced: after a loss of power it may
say less than the ledger has, never more than was committed.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from aisolution_async.ledger.store import LedgerError
from aisolution_async.names import sync_names

_TEXT = re.compile(rb"key ([0-9a-f]{16}) attempts (\d{20})\n?")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A mark as it was read: the ledger's `key`, as `key_of` says it, and how many `attempts` it had at least."""

    key: str
    attempts: int


class Mark:
    """The mark of an open ledger. A mark that cannot be written is left as it is: it says less, and nothing wrong."""

    def __init__(self, ledger: Path, hash_key: bytes) -> None:
        self._key = key_of(hash_key)
        self._fd = -1
        with suppress(OSError, AttributeError):  # a disk, or a system, without such modes
            self._fd = os.open(_path(ledger), os.O_RDWR | os.O_CREAT, 0o600)
            os.fchmod(self._fd, 0o600)  # whatever the umask took

    def note(self, attempts: int) -> None:
        """Write down that so many attempts are committed."""
        with suppress(OSError):
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, b"key %s attempts %020d\n" % (self._key.encode(), attempts))

    def close(self) -> None:
        """Let go of the file, which stays where it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def key_of(hash_key: bytes) -> str:
    """What tells one ledger from another, and says nothing of its key."""
    return blake2b(hash_key, digest_size=8, person=b"mark").hexdigest()


def seen(ledger: Path) -> Remembered | None:
    """What the mark beside `ledger` says; None where there is none, or none that can be read."""
    try:
        found = _TEXT.match(_path(ledger).read_bytes()[:100])
    except OSError:
        return None
    return None if found is None else Remembered(found[1].decode(), int(found[2]))


def forget(ledger: Path) -> None:
    """Remove the mark, safe on the disk: whoever took the ledger away begins a new one.

    A loss of power must not bring the mark back beside the new ledger.
    """
    with suppress(OSError):
        _path(ledger).unlink()
        sync_names(ledger.parent)


def forgot(ledger: Path, was: Remembered, what: str) -> LedgerError:
    """The error of a ledger that is not what it was; `what` says how that shows."""
    return LedgerError(
        f"the ledger {ledger} {what}, and it had {was.attempts} attempts: what it forgot would be paid for again. "
        f"Put it back together with {ledger.name}-wal, or restore it from a copy; to go on without what is lost, "
        f"delete {_path(ledger)}"
    )


def _path(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}-mark")
