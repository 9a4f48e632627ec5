"""The three standard streams as this process was given them: they may be closed, or break while it runs."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

# What is open in place of a closed stream. Reading its input ends at once; to write results to it is an error, which
# the mode of its descriptor sees to; messages for people have nobody to read them.
_INSTEAD = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)


class _Unheard(io.FileIO):
    """Standard error: where it cannot be written, nobody is told, and the run goes on."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def mend() -> None:
    """Open what is closed of them, so that no other file, and no event loop, takes the place of one.

    To be called before any file is opened that stays open.
    """
    for number, mode in enumerate(_INSTEAD):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # it stays open
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no "·" is no reason to fail
    if sys.stderr is sys.__stderr__:  # and nobody has put something else in its place
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        raw = io.BufferedWriter(_Unheard(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, encoding=encoding, errors="replace", line_buffering=True)
