"""A process that was forked is as one that was started: what it finds, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from . import forks

FINDS = """
import asyncio, atexit, os, random, signal, sys, threading

print(sys.argv, sys.path[0], __name__, globals().get('__file__'), os.getcwd(), sys.flags.dev_mode, sys.warnoptions)
print(sorted(os.environ.items()))
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.encoding, stream.errors, stream.line_buffering, stream.isatty())
assert (sys.stdin, sys.stdout, sys.stderr) == (sys.__stdin__, sys.__stdout__, sys.__stderr__)
print(sys.stdin.read(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD)])
print(threading.active_count(), os.getpgrp(), sorted(os.listdir("/proc/self/fd"))[:3])
atexit.register(print, "at the end")
threading.Thread(target=print, args=("in a thread",)).start()
asyncio.run(asyncio.sleep(0))
print("that is all", file=sys.stderr)
"""
ENDS = {
    "well": "",
    "with a code": "raise SystemExit(5)",
    "with a word": "raise SystemExit('not so')",
    "with an error": "1 / 0",
    "by Ctrl-C": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "by force": "import os, signal; sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)",
    "at once": "import os; os._exit(3)",
    "with what nobody closed": "open('/dev/null')",
}
DEV = ("-X", "dev", "-W", "error")

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it asks Linux")


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_as_one_that_was_started(tmp_path: Path, end: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"{FINDS}{end}\n", encoding="utf-8")
    for words in (["program.py", "ä", "b"], ["-c", f"{FINDS}{end}\n", "ä"], *([] if end else [[str(program)]])):
        env = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LC_CTYPE") if name in os.environ}
        env["ONE"] = "ö"
        with (tmp_path / "said").open("wb+") as said:
            command = [sys.executable, *DEV, *words]
            begun = subprocess.run(
                command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
            )
            said.seek(0)
            expected = said.read().decode()
        code, found = forks.run(words, cwd=tmp_path, env=env, options=DEV, modules=("aisolution_async.client",))
        assert code == begun.returncode
        told, was_told = _without_frames(found), _without_frames(expected)
        if words[0] == "-c":  # there, Python flushes stdout after it has told of an error
            told, was_told = sorted(told), sorted(was_told)
        assert told == was_told
        assert "in a thread" in found or code == 3


def _without_frames(said: str) -> list[str]:
    """The lines but for where an error was: of one that was forked, the file that forks is in them."""
    return [line for line in said.splitlines() if not line.startswith("  ")]


async def test_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time; time.sleep(1000)", encoding="utf-8")
    with (tmp_path / "said").open("wb") as said:
        first, second = (forks.start(["program.py"], cwd=tmp_path, stdout=said, stderr=said) for _ in range(2))
    second.kill()
    assert await asyncio.to_thread(second.wait) == second.wait() == -signal.SIGKILL
    os.kill(first.pid, 0)  # the other goes on
    first.send_signal(signal.SIGTERM)
    assert first.wait() == -signal.SIGTERM


STREAMS = """
import os, sys

def told(place):
    try:
        return os.fstat(place).st_rdev
    except OSError:
        return "closed"

streams = [
    (stream and (stream.encoding, stream.errors, stream.line_buffering, stream.fileno()))
    for stream in (sys.stdin, sys.stdout, sys.stderr)
]
files = [told(place) for place in (0, 1, 2)]
open(sys.argv[1], "w").write(repr((streams, files, sys.__stdin__ is sys.stdin, sys.__stdout__ is sys.stdout)))
raise SystemExit(7)
"""


@pytest.mark.parametrize("how", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "1</dev/null", ">/dev/full 2>/dev/full"])
def test_in_a_shell(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # forked, one writes line by line then
    program = tmp_path / "program.py"
    program.write_text(STREAMS, encoding="utf-8")
    begun = subprocess.run(
        ["bash", "-c", f"{sys.executable} {program} {tmp_path}/begun {how}"], stdin=subprocess.DEVNULL, check=False
    )
    forked = forks.shell(f"PROGRAM {program} {tmp_path}/forked {how}", "PROGRAM")
    assert begun.returncode == forked.returncode == 7
    assert (tmp_path / "forked").read_text() == (tmp_path / "begun").read_text()


async def test_its_output_is_read_while_it_runs() -> None:
    program = "import sys; print('one', flush=True); signal.pause()"
    process = await forks.begin(["-c", f"import signal; {program}"], modules=("aisolution_async.client",), options=DEV)
    assert await process.stdout.readline() == b"one\n"
    process.stop()
    assert process.poll() is None
    process.kill()
    process.kill()
    assert await process.communicate() == (b"", None)
    assert process.returncode == process.poll() == -signal.SIGKILL
    process.stop()  # of one that has ended, nothing is left


def test_the_command_line(tmp_path: Path) -> None:
    words = ["-m", "aisolution_async.cli", "ledger", "show", "none.ledger"]
    begun = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert begun.returncode == 2
    assert forks.run(words, cwd=tmp_path) == (2, begun.stderr)
