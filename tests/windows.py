"""This interpreter as it would be on Windows, more or less: `python -m tests.windows` is the command line there.

No `fcntl`, no `uvloop`; `msvcrt` with locks of its kind; no file that is open is removed or replaced; names and folders
as there; no signal handlers of the loop; text files in cp1252 unless somebody says otherwise, which is an error here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_MISSING = ["O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fchown", "fork", "getuid", "register_at_fork"]


class Locks(ModuleType):
    """`msvcrt`, what there is of it: each opening of a file locks bytes against all others."""

    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def __init__(self, fcntl: Any) -> None:
        super().__init__("msvcrt")
        self._fcntl = fcntl
        self.looks = 0

    def locking(self, number: int, how: int, count: int) -> None:
        self.looks += 1
        assert count == 1
        assert os.lseek(number, 0, os.SEEK_CUR) > 1 << 30, "there others read"
        if how == self.LK_UNLCK:
            self._fcntl.flock(number, self._fcntl.LOCK_UN)
            return
        assert how == self.LK_NBLCK
        try:
            self._fcntl.flock(number, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


def is_open(path: Any) -> bool:
    """Whether this process has the file open."""
    try:
        found = Path(path).lstat()
        numbers = [int(file.name) for file in Path("/proc/self/fd").iterdir()]
    except OSError:
        return False
    for number in numbers:
        try:
            if os.path.samestat(os.fstat(number), found):
                return True
        except OSError:
            continue
    return False


def _spared(real: Callable[..., Any], *, moves: bool) -> Callable[..., Any]:
    def change(*args: Any, **options: Any) -> Any:
        for path in args[: 1 + moves]:
            if is_open(path):
                raise PermissionError(errno.EACCES, "it is open", os.fspath(path))
        return real(*args, **options)

    return change


def _open(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        name = Path(os.fsdecode(path)).name
        if flags & os.O_CREAT and (set(name) & set('<>:"|?*') or name != name.rstrip(". ")):
            raise OSError(errno.EINVAL, "no such name", name)
        if Path(os.fsdecode(path)).is_dir():
            raise PermissionError(errno.EACCES, "a folder", name)
        return real(path, flags, mode, **options)

    return opened


def _no_handler(*_: object) -> None:
    raise NotImplementedError


def pretend() -> None:
    """From now on, and for good."""
    import fcntl
    import tempfile  # what of the standard library has to know the system it is really on
    from asyncio import unix_events
    from concurrent import futures  # noqa: F401

    warnings.filterwarnings("error", category=EncodingWarning, module=r"aisolution_async\.")
    # The loops are asked for by name: so they are imported before anything is taken away.
    asyncio.new_event_loop().close()
    tempfile.gettempdir()
    modules: dict[str, Any] = sys.modules
    modules["msvcrt"] = Locks(fcntl)
    modules["fcntl"] = modules["uvloop"] = None
    for name in _MISSING:
        if hasattr(os, name):
            delattr(os, name)
    changed: Any = os
    changed.open = _open(os.open)
    changed.unlink = _spared(os.unlink, moves=False)
    changed.replace, changed.rename = _spared(os.replace, moves=True), _spared(os.rename, moves=True)
    loops: Any = unix_events._UnixSelectorEventLoop
    loops.add_signal_handler = _no_handler


if __name__ == "__main__":
    pretend()
    if sys.argv[1:2] == ["-c"]:
        sys.argv.pop(0)
        exec(sys.argv.pop(1))
    else:
        from aisolution_async.cli import main

        main()
