"""Processes that are forked from one that has imported already what they need: to start each anew costs half a second.

They end as every Python ends, and are no children of the tests. Whoever tests how Python starts, or what is imported,
starts a Python; the same commands are started so in `test_cli_streams`, and by `.ci/run`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CLI = ("aisolution_async.cli.bulk", "aisolution_async.cli.commands", "aisolution_async.cli.ledger")
LARGEST = 1 << 20


class Forked:
    """A process, with what the tests use of `subprocess.Popen`."""

    def __init__(self, reports: socket.socket) -> None:
        self._reports = reports
        self.pid = int(self._reports.recv(100))
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """See Popen."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """See Popen."""
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """See Popen."""
        if self.returncode is None:
            with self._reports:
                self.returncode = int(self._reports.recv(100))
        return self.returncode


def start(
    arguments: list[str],
    *,
    stdout: IO[Any],
    stderr: IO[Any],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
    modules: tuple[str, ...] = CLI,
) -> Forked:
    """Start a Python with `options` and `arguments`, `-m MODULE ...` or `FILE ...`, that has the `modules`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Path(os.devnull).open("rb") as stdin:
        said = json.dumps([arguments, str(cwd or Path.cwd()), dict(os.environ if env is None else env)]).encode()
        files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), theirs.fileno()]
        socket.send_fds(_server(options, modules), [said], files)
    return Forked(ours)


def run(arguments: list[str], *, stdout: IO[Any] | None = None, **how: Any) -> tuple[int, str]:
    """The exit code, and what it says: on stderr, and on stdout if that is nowhere else."""
    with tempfile.TemporaryFile() as said:
        code = start(arguments, stdout=stdout or said, stderr=said, **how).wait()
        said.seek(0)
        return code, said.read().decode()


@functools.cache
def _server(options: tuple[str, ...], modules: tuple[str, ...]) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    with theirs:
        command = [sys.executable, *options, __file__, str(theirs.fileno()), *modules]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/")

    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:  # and not one that a test forked
            ours.close()
            process.kill()
            process.wait()

    atexit.register(end)
    return ours


# -------------------------------------------------------------------------------------------- in the process itself


def _next(requests: socket.socket) -> list[str]:
    """What is to be run here, in a process of its own; does not return in the one that forks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who runs the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        said, files, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not said:
            os._exit(0)
        if os.fork():
            for file in files:
                os.close(file)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        requests.close()
        with socket.socket(fileno=files.pop()) as reports:
            if pid := os.fork():
                for place in (0, 1, 2):  # a pipe ends when its last writer does
                    os.close(place)
                for file in files:
                    os.close(file)
                reports.send(b"%d" % pid)
                with contextlib.suppress(OSError):  # nobody asks any more
                    reports.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os._exit(0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        arguments, folder, environment = json.loads(said)
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        _open_streams()
        return list(arguments)


def _open_streams() -> None:
    """As Python does; they stay open."""
    stdin, stdout, stderr = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = open(0, encoding=stdin.encoding, errors=stdin.errors, closefd=False)  # noqa: SIM115  # see above
    by_line = "PYTHONUNBUFFERED" in os.environ
    sys.stdout = open(1, "w", 1 if by_line else -1, stdout.encoding, stdout.errors, closefd=False)  # noqa: SIM115  # see above
    sys.stderr = open(2, "w", 1, stderr.encoding, stderr.errors, closefd=False)  # noqa: SIM115  # see above
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


if __name__ == "__main__":
    import gc
    import runpy
    import types

    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()
    words = _next(socket.socket(fileno=int(sys.argv[1])))
    if words[0] == "-m":
        sys.path[0], sys.argv = os.getcwd(), words[1:]  # noqa: PTH109  # as Python has it
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        program = Path(words[0]).absolute()
        sys.path[0], sys.argv = str(program.parent), words
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        module.__file__ = str(program)
        exec(compile(program.read_bytes(), program, "exec"), vars(module))  # `runpy` gives it another argv
