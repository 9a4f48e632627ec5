"""Commands as a user gives them, and what they say."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

from click.testing import CliRunner, Result

from aisolution_async.cli.commands import aisolution

from . import forks
from .support import LAST_RESORT, NUMBER, TOKEN

PROFILE = {"number": NUMBER, "whatsapp": "yes"}
COMMAND = [sys.executable, "-m", "aisolution_async.cli"]


def ok(message: object) -> dict[str, object]:
    return {"status": "OK", "message": message}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(aisolution, [str(argument) for argument in arguments], prog_name="aisolution")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert TOKEN not in result.output
    return result


def python(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a process of its own says."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


MAIN = "from aisolution_async.cli import main; main()"


def the_error(result: Result) -> str:
    """The one line that says what is wrong."""
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("error: "), result.stderr
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1].removeprefix("error: ")


def numbers(count: int, name: str = "in.csv") -> Path:
    path = Path(name)
    path.write_text("number\n" + "".join(f"+62813{n:08}\n" for n in range(count)))
    return path


def left() -> set[str]:
    """The files, without what a ledger was when it was last used, and the notes of runs."""
    return {path.name for path in Path().iterdir() if not path.name.endswith(("-mark", ".run"))}


def settled(count: int) -> list[str]:
    """Numbers that the sandbox knows all about at once."""
    found = (f"+62813{number:08}" for number in itertools.count())
    return [*itertools.islice((n for n in found if sha256(b"slow" + n.encode()).digest()[0] % 10), count)]


class Stall:
    """Answers at once until request `at`, then presses Ctrl-C and keeps the answers back until `released`."""

    def __init__(self, at: int, press: int = signal.SIGINT) -> None:
        self.released = threading.Event()
        self._at = at
        self._press = press

    def __call__(self, number: int) -> object:
        if number >= self._at:
            if number == self._at:
                os.kill(os.getpid(), self._press)
            self.released.wait(LAST_RESORT)
        return ok(PROFILE)


def onto_a_full_disk(*arguments: str) -> subprocess.CompletedProcess[str]:
    with Path("/dev/full").open("wb") as full:
        code, said = forks.run([*COMMAND[1:], *arguments], stdout=full)
    return subprocess.CompletedProcess(arguments, code, stderr=said)


FULL = "error: standard output cannot be written: No space left on device"
