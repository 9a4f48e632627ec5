"""How a command ends: its exit code, and the one line that says why. `--help` needs no more than this imports."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import IntEnum
from typing import IO, Any

import click

BEGUN = "aisolution_async.running.begun"
"""What the context has once something may have been sent."""


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    PROBLEMS = 1
    USAGE = 2
    UNREACHABLE = 3
    BUDGET = 4
    INTERRUPTED = 130


REPORT_EXIT_CODES = """\b
Exit codes:
  0    the report is made
  1    the results are damaged, or standard output cannot be written
  2    usage, or a file that is not there, or cannot be read or written
  130  interrupted
"""
EXIT_CODES = """\b
Exit codes:
  0    everything was answered
  1    some rows (or the one call) have problems or are still being checked, or the run could not go on
  2    usage, configuration or an unusable ledger: nothing was sent
  3    the vendor could not be reached, or did not answer any more
  4    the limit on spending was reached before all rows were asked
  130  interrupted
"""


class Ending(click.ClickException):
    """The end of a command: one line, and the exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class, and means both

    def show(self, file: IO[Any] | None = None) -> None:  # noqa: ARG002  # click's signature
        """Say it on stderr."""
        from aisolution_async.cli import show  # noqa: PLC0415  # slow to import

        show.say(f"error: {self.message}")


def unwritable(exc: OSError) -> Ending:
    """The end of a command whose stdout cannot be written. Nothing more can be written to it then."""
    # What is left in its buffer would be tried again, and complained of, as the interpreter ends.
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)
    if isinstance(exc, FileNotFoundError):  # no writing ends so: the system was asked where we are
        return Ending("the current folder is there no more: go (cd) into one that is there", Exit.PROBLEMS)
    return Ending(f"standard output cannot be written: {exc.strerror or type(exc).__name__}", Exit.PROBLEMS)
