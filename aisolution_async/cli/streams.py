"""The three standard streams as this process was given them: they may be closed, or break while it runs."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any

# What is open in place of a closed stream. Reading its input ends at once; to write results to it is an error, which
# the mode of its descriptor sees to; messages for people have nobody to read them.
_INSTEAD = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)


_LOOKS_LIKE = {"·": "-", "…": "...", "▏": "|"}


def _replaced(exc: UnicodeError) -> tuple[str, int]:
    """What a terminal or a file is given for characters that its code page lacks: no reason to fail."""
    if not isinstance(exc, UnicodeEncodeError):
        raise exc
    lacking = exc.object[exc.start : exc.end]
    return "".join(_LOOKS_LIKE.get(char, "?") for char in lacking), exc.end


codecs.register_error("aisolution", _replaced)


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
            stream.reconfigure(errors="aisolution")
    if sys.stderr is sys.__stderr__:  # and nobody has put something else in its place
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        raw = io.BufferedWriter(_Unheard(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, encoding=encoding, errors="aisolution", line_buffering=True)
