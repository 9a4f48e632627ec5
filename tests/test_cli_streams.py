"""Standard streams that are closed or break, and signals that a terminal or a shell sends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aisolution_async import AsyncClient, ConfigurationError, WhatsAppDetail
from aisolution_async.bulk import run_bulk
from aisolution_async.cli import show
from aisolution_async.cli.running import on_interrupt

from . import forks
from .commands import COMMAND, PROFILE, Stall, left, numbers, ok, run, the_error
from .support import TOKEN, VendorOf

pytestmark = pytest.mark.usefixtures("command_environment")

BULK = "bulk whatsapp-detail in.csv -o out.csv --sandbox"
STARTED = ("<&- >&- 2>&-", "1</dev/null")
"""With these, a Python is started; with others, it is forked with what the shell gives it, as in `test_forks`."""


def shell(words: str) -> subprocess.CompletedProcess[str]:
    """What a shell's line says, and its exit code."""
    if not words.endswith(STARTED):
        return forks.shell(words.replace("aisolution", "PYTHON -m aisolution_async.cli"), "PYTHON")
    program = " ".join(COMMAND)
    line = words.replace("aisolution", program)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


# ------------------------------------------------------------------------------------------------ closed from the start


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream(closed: str) -> None:
    """No event loop, ledger or socket gets its number: the run is as any other."""
    numbers(3)
    done = shell(f"aisolution {BULK} {closed}")
    assert done.returncode == 0, done.stderr
    assert len(Path("out.csv").read_text().splitlines()) == 4
    assert left() == {"in.csv", "out.csv", "out.csv.sandbox.ledger"}


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ("bulk whatsapp-detail in.csv -o - --sandbox", ">&-"),
        ("bulk whatsapp-detail in.csv -o - --sandbox", "1</dev/null"),
        ("bulk whatsapp-detail in.csv -o out.csv --sandbox --json", ">&-"),
        ("bulk whatsapp-detail in.csv -o - --dry-run", ">&-"),
        ("call whatsapp-detail +6281387300008 --sandbox", "1</dev/null"),
        ("call whatsapp-detail +6281387300008 --sandbox --json", ">&-"),
    ],
)
def test_results_that_were_to_go_to_a_closed_stdout(words: str, how: str) -> None:
    """They are not paid for."""
    numbers(1)
    done = shell(f"aisolution {words} {how}")
    assert done.returncode == 2
    problem = "standard output is closed, where results were to go: name a file, or open it"
    assert done.stderr == f"error: {problem}\n"
    assert left() == {"in.csv"}


@pytest.mark.parametrize("words", ["--version", "--help", "bulk --help"])
def test_other_words_for_a_closed_stdout(words: str) -> None:
    done = shell(f"aisolution {words} >&-")
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written: ")


def test_rows_from_a_closed_stdin() -> None:
    done = shell("aisolution bulk whatsapp-detail - -o out.csv --sandbox <&-")
    assert (done.returncode, left()) == (2, set())
    assert "error: standard input is empty: it must have one JSON object a line" in done.stderr


async def test_a_program_without_a_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    numbers(1)
    async with AsyncClient(TOKEN) as client:
        with pytest.raises(ConfigurationError, match="standard output is closed"):
            await run_bulk(client, WhatsAppDetail, "in.csv", "-")


# --------------------------------------------------------------------------------------------------- broken on the way


@pytest.mark.parametrize("broken", ["2>/dev/full", "2</dev/null", "2> >(:)", "2> >(head -c 1 >/dev/null)"])
def test_a_stderr_that_cannot_be_written(broken: str) -> None:
    """Words for people that nobody hears: the run goes on, and ends as it would."""
    numbers(3)
    done = shell(f"aisolution {BULK} --json {broken}")
    assert done.returncode == 0
    assert json.loads(done.stdout)["complete"]
    assert shell(f"aisolution {BULK.replace('in.csv', 'nowhere.csv')} {broken}").returncode == 2


# ------------------------------------------------------------------------------------------------------------ signals


@pytest.fixture
def restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_terminal_that_is_closed(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Ctrl-C the answers under way are waited for, however often it is said."""
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    stall = Stall(20, signal.SIGHUP)
    vendor = vendor_of(stall)
    say = show.say

    def said(text: str) -> None:
        say(text)
        if text.startswith("stopping"):
            os.kill(os.getpid(), signal.SIGHUP)
            asyncio.get_running_loop().call_later(0, stall.released.set)

    monkeypatch.setattr(show, "say", said)
    numbers(1000)
    result = run(
        "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--concurrency", 5, "--json"
    )
    assert result.exit_code == 130
    assert the_error(result) == "interrupted: the rows so far are in 'out.csv.part'"
    done = json.loads(result.stdout)
    assert (done["unknown"], done["charged"]) == (0, len(vendor.requests))


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
async def test_a_signal_that_is_ignored_stays_so(ignored: signal.Signals) -> None:
    """nohup ignores SIGHUP, and a shell's script SIGINT for what it starts in the background."""
    pressed: list[None] = []
    signal.signal(ignored, signal.SIG_IGN)
    others = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM} - {ignored}
    with on_interrupt(lambda: pressed.append(None)):
        assert signal.getsignal(ignored) is signal.SIG_IGN
        assert all(signal.getsignal(other) is not signal.SIG_IGN for other in others)
    assert signal.getsignal(ignored) is signal.SIG_IGN


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("sent", "counted"),
    [("HH", 1), ("TH", 1), ("IH", 1), ("II", 2), ("HI", 2), ("HT", 2), ("HTHIH", 3)],
)
async def test_a_terminal_that_is_closed_is_no_second_ctrl_c(sent: str, counted: int) -> None:
    """The system and the shell both tell of it, and some send it after SIGTERM."""
    pressed: list[None] = []
    known = {"H": signal.SIGHUP, "I": signal.SIGINT, "T": signal.SIGTERM}
    with on_interrupt(lambda: pressed.append(None)):
        for letter in sent:
            before = len(pressed)
            os.kill(os.getpid(), known[letter])
            for _ in range(100):
                if len(pressed) > before:
                    break
                await asyncio.sleep(0)
    assert len(pressed) == counted


def test_nohup(vendor_of: VendorOf) -> None:
    """A run that ignores the terminal's end goes on to its own."""
    process: list[subprocess.Popen[bytes]] = []

    def answer(number: int) -> object:
        if number == 1:
            process[0].send_signal(signal.SIGHUP)
        return ok(PROFILE)

    vendor = vendor_of(answer)
    numbers(40)
    command = [*COMMAND, "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--concurrency", "1", "--quiet"]
    process.append(
        subprocess.Popen(
            ["nohup", *command],
            env={**os.environ, "AISOLUTION_TOKEN": TOKEN, "AISOLUTION_BASE_URL": vendor.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    assert process[0].wait() == 0
    assert len(Path("out.csv").read_text().splitlines()) == 41
