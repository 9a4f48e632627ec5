"""Locks on files, on this system and as Windows has them; and all of the rest as it goes there."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from aisolution_async import ConfigurationError, locks
from aisolution_async.bulk.outputs import Output

from . import forks
from .commands import settled
from .windows import Locks, is_open


@pytest.fixture(params=["here", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "windows":
        monkeypatch.setattr(locks, "fcntl", None)
        monkeypatch.setattr(locks, "msvcrt", Locks(fcntl))
        real = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if is_open(path):
                raise PermissionError(errno.EACCES, "it is open")
            real(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(b"what others read")
    return made


@pytest.fixture
def two(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    with path.open("r+b", buffering=0) as one, path.open("rb") as other:
        yield one, other


def has_lock(path: Path) -> bool:
    with path.open("rb") as file:
        return locks.is_locked(file.fileno())


def test_one_has_it_until_it_closes_the_file(system: str, path: Path, two: tuple[BinaryIO, BinaryIO]) -> None:
    one, other = two
    one.seek(5)
    assert not has_lock(path)
    locks.lock(one.fileno())
    assert has_lock(path)
    with pytest.raises(BlockingIOError):
        locks.lock(other.fileno())
    assert (one.tell(), other.read()) == (5, b"what others read")
    one.close()
    assert not has_lock(path)
    locks.lock(other.fileno())


def test_who_waits_gets_it_after_those_who_look(
    system: str, two: tuple[BinaryIO, BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    if system == "here":
        monkeypatch.setattr(locks.fcntl, "flock", lambda number, how: asked.append(how))
    asked: list[object] = []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        one.close()

    monkeypatch.setattr(time, "sleep", sleep)
    locks.lock(one.fileno())
    locks.lock(other.fileno(), waits=True)
    assert asked == ([0.01] if system == "windows" else [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX])


def test_what_is_removed_is_not_found_unlocked(system: str, path: Path, two: tuple[BinaryIO, BinaryIO]) -> None:
    one, other = two
    locks.lock(one.fileno())
    seen: list[bool] = []

    def close() -> None:
        seen.append(path.exists())
        one.close()

    if system == "windows":
        with pytest.raises(PermissionError):  # somebody else has it open
            locks.remove(path, close)
        other.close()
    locks.remove(path, close)
    assert (path.exists(), one.closed) == (False, True)
    assert seen[-1] is False


def test_systems_and_disks_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with path.open("rb") as file:
        with pytest.raises(OSError, match="no file locks"):
            locks.lock(file.fileno(), waits=True)

        class Broken(Locks):
            def locking(self, number: int, how: int, count: int) -> None:
                raise OSError(errno.EINVAL, "no locks on this share")

        monkeypatch.setattr(locks, "msvcrt", Broken(fcntl))
        for use in (locks.lock, locks.is_locked):
            with pytest.raises(OSError, match="on this share"):
                use(file.fileno())


def test_it_ends_with_its_process_and_no_child_keeps_it(path: Path) -> None:
    script = """
        import os, sys
        from aisolution_async import locks
        with open(sys.argv[1], "rb") as file:
            locks.close_in_children(file)
            locks.lock(file.fileno())
            if os.fork() == 0:
                assert file.closed
                print("child", flush=True)
                sys.stdin.read()
                os._exit(0)
            sys.stdin.buffer.raw.read(1)
    """
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(line[8:] for line in script.splitlines()), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, path.open("rb") as file:
        assert process.stdout is not None
        assert process.stdout.readline() == b"child\n"
        assert locks.is_locked(file.fileno())
        process.send_signal(signal.SIGKILL)
        os.waitpid(process.pid, 0)
        process.returncode = -9
        assert not locks.is_locked(file.fileno())  # and the child is still there


def test_a_part_that_another_run_took_away_meanwhile_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at what a stopped run left and the lock on it, another run may have put its own there."""
    part = tmp_path / "out.csv.part"
    part.write_text("of a stopped run")
    real = locks.lock

    def lock(number: int, *, waits: bool = False) -> None:
        part.unlink()
        part.write_text("of another run")
        real(number, waits=waits)

    monkeypatch.setattr(locks, "lock", lock)
    with pytest.raises(ConfigurationError, match="another run is writing it"):
        Output(tmp_path / "out.csv", None).open(["a"], replace=True)
    assert part.read_text() == "of another run"


def test_a_part_that_somebody_took_away_meanwhile_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "out.csv.part"
    part.write_text("of a stopped run")
    real = locks.lock

    def lock(number: int, *, waits: bool = False) -> None:
        part.unlink(missing_ok=True)
        monkeypatch.setattr(locks, "lock", real)

    monkeypatch.setattr(locks, "lock", lock)
    output = Output(tmp_path / "out.csv", None)
    output.open(["a"], replace=True)
    assert part.read_text() == "a\n"
    output.close()


@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO])
def test_a_part_that_cannot_be_opened_may_be_a_living_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    """Another user's, in a folder that both may write to. A link is no run's, and goes."""
    part, real = tmp_path / "out.csv.part", os.open
    part.write_text("of another user")

    def refuse(path: Any, *given: Any) -> int:
        if Path(path) == part and not given[0] & os.O_CREAT:
            raise OSError(why, os.strerror(why))
        return real(path, *given)

    output = Output(tmp_path / "out.csv", None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(ConfigurationError, match=os.strerror(why)):
            output.open(["a"], replace=True)
    assert part.read_text() == "of another user"
    part.unlink()
    part.symlink_to("nowhere")
    output.open(["a"], replace=True)
    assert not part.is_symlink()
    output.close()


# ------------------------------------------------------------------------------------------------------ on Windows


ENCODINGS = ("-X", "warn_default_encoding")


def on_windows(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command, or a script after `-c`: forked from one that has imported all of it there."""
    words = arguments if arguments[0] == "-c" else ("-m", "aisolution_async.cli", *arguments)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        process = forks.start(
            [*words],
            stdout=said,
            stderr=complained,
            env={**os.environ, "PYTHONIOENCODING": "cp1252", **environment},
            options=ENCODINGS,
            modules=("windows:pretend", *forks.CLI),
        )
        code = process.wait()
        for file in (said, complained):
            file.seek(0)
        return _without_traceback(subprocess.CompletedProcess(words, code, said.read(), complained.read()))


def started_on_windows(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The same, by a Python that is started."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.getenv("PYTHONPATH")])])
    return _without_traceback(
        subprocess.run(
            [sys.executable, *ENCODINGS, "-m", "tests.windows", *arguments],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "cp1252"},
        )
    )


def _without_traceback(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[bytes]:
    assert b"Traceback" not in done.stderr, done.stderr.decode("cp1252")
    return done


def test_all_of_it_can_be_imported_there() -> None:
    script = """
import importlib, pkgutil, aisolution_async
for found in pkgutil.walk_packages(aisolution_async.__path__, "aisolution_async."):
    if not found.name.endswith(("__main__", ".ray", ".spark")):  # these two engines need not be there
        importlib.import_module(found.name)
"""
    assert started_on_windows("-c", script).returncode == 0


def test_a_list_goes_through_there_and_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ledger, an output and a file of problems beside it; into a pipe whose characters are those of cp1252."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("ref,number\n" + "".join(f"कखग {n},{n}\n" for n in [*settled(5), "bad"]), "utf-8")
    command = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--errors", "bad.csv", "--key", "ref", "--sandbox"]
    first, again = started_on_windows(*command), on_windows(*command, "--overwrite")
    for result in (first, again):
        assert result.returncode == 1, result.stderr
        assert b"charged" in result.stderr
    assert b"5 answers are in the ledger already" in again.stderr
    assert sorted(path.name for path in Path().iterdir()) == [
        *("bad.csv", "bad.csv.of", "in.csv", "out.csv", "out.csv.run"),
        *("out.csv.sandbox.ledger", "out.csv.sandbox.ledger-mark"),
    ]
    for words in (["show"], ["attempts"], ["export", "-o", "all.csv"]):
        said = on_windows("ledger", words[0], "out.csv.sandbox.ledger", *words[1:])
        assert said.returncode == 0, said.stderr
    assert on_windows("report", "out.csv.sandbox.ledger", "-o", "report.html").returncode == 0


@pytest.mark.parametrize("page", ["cp437", "cp932"])
def test_what_a_code_page_lacks_is_no_reason_to_fail(page: str) -> None:
    """On a console of Windows or in a file, as here and there people have them."""
    result = on_windows("demo", PYTHONIOENCODING=page, COLUMNS="60")
    assert result.returncode == 0, result.stderr
    script = """
from aisolution_async.cli import show, streams
streams.mend()
show.say("2 rows · 3 … कख")
print("·…")
"""
    result = on_windows("-c", script, PYTHONIOENCODING=page)
    dot, dots = {"cp437": ("·", "..."), "cp932": ("-", "…")}[page]
    assert result.stderr.decode(page) == f"2 rows {dot} 3 {dots} ??\n"
    assert result.stdout.decode(page) == f"{dot}{dots}\n"


def test_two_runs_of_one_output_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = """
import pathlib
from aisolution_async import ConfigurationError
from aisolution_async.bulk.outputs import Output
from aisolution_async.integrations.lists import _claim, _is_claimed
from aisolution_async.ledger import owners

one = Output(pathlib.Path("out.csv"), None)
one.open(["a"], replace=False)
one.write([], ["1"])
try:
    Output(pathlib.Path("out.csv"), None).open(["a"], replace=True)
except ConfigurationError as exc:
    print(exc)
one.close()
two = Output(pathlib.Path("out.csv"), None)
two.open(["a"], replace=True)
two.write([], ["2"])
two.finish()
print(pathlib.Path("out.csv").read_text("utf-8").split())

with _claim(pathlib.Path("out.csv")) as file:
    print(_is_claimed(pathlib.Path("out.csv")), _claim(pathlib.Path("out.csv")))
print(_is_claimed(pathlib.Path("out.csv")))

ledger = pathlib.Path("a.ledger")
owner, dead = owners.Owner(ledger), owners.Owner(ledger)
dead.close()
print(owners.is_alive(ledger, owner.name), owners.is_alive(ledger, dead.name), owners.others(ledger, dead.name))
owners.sweep(ledger, [])
print(owners.is_alive(ledger, owner.name), owners.is_alive(ledger, dead.name), owner.is_there())
owner.release()
print(sorted(path.name for path in pathlib.Path().iterdir()))
"""
    result = on_windows("-c", script)
    assert result.stdout.decode().splitlines() == [
        "the output 'out.csv.part' cannot be written: another run is writing it; wait until that has ended",
        "['a', '2']",
        "True None",
        "False",
        "True False True",
        "True None True",
        "['out.csv']",
    ], result.stderr


def test_the_first_ctrl_c_waits_for_the_answers_there_too() -> None:
    script = """
import asyncio, os, signal
from aisolution_async.cli.running import on_interrupt

async def main():
    pressed = asyncio.Event()
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt(pressed.set):
        os.kill(os.getpid(), signal.SIGINT)
        await pressed.wait()
    print(signal.getsignal(signal.SIGINT) is before)

asyncio.run(main())
"""
    assert on_windows("-c", script).stdout == b"True\n"
