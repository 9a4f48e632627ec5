"""Processes that are forked from one that has imported already what they need: to start each anew costs half a second.

They end as every Python ends, and are no children of the tests. Whoever tests how Python starts, or what is imported,
starts a Python; some of the same commands are started so in `test_cli_streams`, and by `.ci/run`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CLI = ("aisolution_async.cli.bulk", "aisolution_async.cli.commands", "aisolution_async.cli.ledger")
LARGEST = 1 << 20
_fork: Any = getattr(os, "fork", None)  # on a Windows that is only pretended, it is taken away


class Forked:
    """A process, with what the tests use of `subprocess.Popen`."""

    def __init__(self, reports: socket.socket) -> None:
        self._reports = reports
        self.pid = int(self._reports.recv(100))
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """See Popen."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """See Popen."""
        self.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Until SIGCONT; return once each of its threads stands still."""
        self.send_signal(signal.SIGSTOP)
        while self.poll() is None:
            with contextlib.suppress(OSError):
                states = [(task / "stat").read_text() for task in Path(f"/proc/{self.pid}/task").iterdir()]
                if all(state.rpartition(")")[2].split()[0] == "T" for state in states):
                    return
            time.sleep(0.001)

    def poll(self) -> int | None:
        """See Popen."""
        if self.returncode is None and select.select([self._reports], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """See Popen."""
        if self.returncode is None:
            with self._reports:
                self.returncode = int(self._reports.recv(100))
        return self.returncode


class Piped(Forked):
    """One whose output is read by the loop, with what the tests use of `asyncio.subprocess.Process`."""

    stdout: asyncio.StreamReader

    async def communicate(self) -> tuple[bytes, None]:
        """See there."""
        said = await self.stdout.read()
        await asyncio.to_thread(self.wait)  # its output has ended, and so will it
        return said, None


def start(arguments: list[str], *, stdout: IO[Any], stderr: IO[Any], **how: Any) -> Forked:
    """Start a Python: see `request`."""
    return Forked(request(arguments, stdout=stdout.fileno(), stderr=stderr.fileno(), **how))


async def begin(arguments: list[str], *, with_stderr: bool = False, **how: Any) -> Piped:
    """Start one whose stdout is a pipe, and its stderr as well, or that of the tests."""
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb"):
        process = Piped(request(arguments, stdout=theirs, stderr=theirs if with_stderr else 2, **how))
    process.stdout = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(process.stdout)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(ours, "rb", 0))
    return process


def run(arguments: list[str], *, stdout: IO[Any] | None = None, **how: Any) -> tuple[int, str]:
    """The exit code, and what it says: on stderr, and on stdout if that is nowhere else."""
    with tempfile.TemporaryFile() as said:
        code = start(arguments, stdout=stdout or said, stderr=said, **how).wait()
        said.seek(0)
        return code, said.read().decode()


def request(
    arguments: list[str],
    *,
    stdout: int,
    stderr: int,
    stdin: int | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
    modules: tuple[str, ...] = CLI,
    path: Path | None = None,
) -> socket.socket:
    """Start a Python with `options` and `arguments`, `-m MODULE ...`, `-c CODE ...` or `FILE ...`, that has `modules`.

    `path` is where it looks for modules first. Of modules, `NAME:FUNCTION` is imported, and the function is called.
    Returns the socket that tells of the process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Path(os.devnull).open("rb") as nothing:
        told = [arguments, str(cwd or Path.cwd()), dict(os.environ if env is None else env), [0, 1, 2]]
        files = [nothing.fileno() if stdin is None else stdin, stdout, stderr, theirs.fileno()]
        socket.send_fds(_server(options, modules, path), [json.dumps(told).encode()], files)
    return ours


_ASKS = """
import json, os, socket, sys

def is_open(place):
    try:
        os.fstat(place)
    except OSError:
        return False
    return True

places = [place for place in (0, 1, 2) if is_open(place)]
server = socket.socket(fileno=int(sys.argv[1]))
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
told = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ), places]).encode()
socket.send_fds(server, [told], [*places, theirs.fileno()])
theirs.close()
ours.recv(100)
code = int(ours.recv(100))
os._exit(code if code >= 0 else 128 - code)
"""


def shell(line: str, program: str, *, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """What a shell's line says, and its exit code. `program` in it is a Python, which has what the shell gives it."""
    server = _server(options, CLI, None)
    words = shlex.join([sys.executable, "-IS", "-c", _ASKS, str(server.fileno())])
    return subprocess.run(
        ["bash", "-c", line.replace(program, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        pass_fds=[server.fileno()],
    )


@functools.cache
def _server(options: tuple[str, ...], modules: tuple[str, ...], path: Path | None) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    with theirs:
        command = [sys.executable, *options, __file__, str(theirs.fileno()), *modules]
        env = None if path is None else {**os.environ, "PYTHONPATH": str(path)}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/", env=env)

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
        if _fork():
            for file in files:
                os.close(file)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        requests.close()
        with socket.socket(fileno=files.pop()) as reports:
            if pid := _fork():
                for place in (0, 1, 2):  # a pipe ends when its last writer does
                    os.close(place)
                for file in files:
                    os.close(file)
                reports.send(b"%d" % pid)
                with contextlib.suppress(OSError):  # nobody asks any more
                    reports.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os._exit(0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        arguments, folder, environment, places = json.loads(said)
        for place, file in zip(places, files, strict=True):
            os.dup2(file, place)
            os.close(file)
        for place in {0, 1, 2}.difference(places):
            os.close(place)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        _open_streams(places)
        return list(arguments)


def _open_streams(places: list[int]) -> None:
    """As Python does, which has none where nothing is open; they stay open."""
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = None
        if place in places:
            was, mode = getattr(sys, name), "w" if place else "r"
            by_line = place == 2 or (place == 1 and "PYTHONUNBUFFERED" in os.environ)
            encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
            errors = (errors or "strict") if encoding and place < 2 else was.errors
            how = (encoding or was.encoding, errors)
            stream = open(place, mode, 1 if by_line else -1, *how, closefd=False)  # noqa: SIM115  # it stays
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    import gc
    import runpy
    import types

    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):  # what is not here is not there either
            imported, _, called = name.partition(":")
            found: Any = importlib.import_module(imported)
            if called:
                getattr(found, called)()
    gc.freeze()
    words = _next(socket.socket(fileno=int(sys.argv[1])))
    if words[0] == "-m":
        sys.path[0], sys.argv = os.getcwd(), words[1:]  # noqa: PTH109  # as Python has it
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[2:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(module))
    else:
        program = Path(words[0]).absolute()
        sys.path[0], sys.argv = str(program.parent), words
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        module.__file__ = str(program)
        exec(compile(program.read_bytes(), program, "exec"), vars(module))  # `runpy` gives it another argv
