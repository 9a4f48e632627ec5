"""What is watched: programs with a ledger, and `bulk` to its end, against a vendor that remembers what was billed."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs

from aisolution_async import Charge
from aisolution_async.sandbox import Fault, Sandbox
from aisolution_async.sandbox.faults import ENVELOPE_OF_BUSY
from aisolution_async.sandbox.vendor import Request, Served
from tests.crash import said_of

from .trace import command

LEDGER = "run.ledger"

_BATCH = """
import asyncio, os, signal, sys
from aisolution_async import AsyncClient, Ledger, WhatsAppDetail

async def main(url, synchronous, first, last, stop):
    calls = (WhatsAppDetail(f"62813{n:08}", key=f"K62813{n:08}") for n in range(first, last))
    told = 0
    async with Ledger("run.ledger", synchronous=synchronous) as ledger:
        async with AsyncClient("sandbox-token", base_url=url, ledger=ledger, max_retries=2) as client:
            async with client.batch(calls, concurrency=8) as batch:
                async for outcome in batch:
                    told += 1
                    print(f"{'ok' if outcome.ok else 'not'} {outcome.key[1:]}", flush=True)
                    if told == stop:
                        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
"""
_PURGE = """
import asyncio
from aisolution_async import Ledger

async def main():
    async with Ledger("run.ledger") as ledger:
        print("purged", flush=True)
        await ledger.purge(0)

asyncio.run(main())
"""
# What a closed ledger removed is gone by now: systems see to that within seconds.
_REMOVE = """
import os
os.fsync(os.open(".", os.O_RDONLY))
print("removed", flush=True)
os.unlink("run.ledger")
"""
COMMAND = "from aisolution_async.cli import main; main()"


def is_busy(number: str) -> bool:
    """Whether the vendor has no time for the number when it is asked first."""
    return int(number) % 5 == 2


def is_lost(number: str) -> bool:
    """Whether the answer about the number is charged, and lost on its way."""
    return int(number) % 7 == 3


class Vendor(Sandbox):
    """A sandbox that bills, and then loses some of the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.on_request: Callable[[int], object] = lambda _: None
        self.came = 0
        self._seen: set[str] = set()

    async def answer(self, request: Request) -> Served:
        (number,) = parse_qs(request.body.decode())["number"]
        number = number.lstrip("+")
        self.came += 1
        self.on_request(self.came)
        first = number not in self._seen
        self._seen.add(number)
        if first and is_busy(number):
            return Served(200, ENVELOPE_OF_BUSY, "application/json", endpoint="gliswadetail")
        body = json.dumps({"status": "OK", "message": {"number": f"+{number}", **said_of(number)}}).encode()
        answer = Served(200, body, "application/json", endpoint="gliswadetail", charge=Charge.CHARGED, status="OK")
        return replace(answer, fault=Fault("reset-after")) if is_lost(number) else answer


@dataclass(frozen=True, slots=True)
class Program:
    """One that runs in the folder: Python code and its arguments.

    `killed_at` is the request at which it is killed; `leaves` are the files that must be there once it ended.
    """

    code: str
    words: Sequence[str] = ()
    killed_at: int = 0
    leaves: Sequence[str] = ()
    kills_itself: bool = False


def batch(first: int, last: int, *, stop: int = 0, synchronous: str = "full") -> Program:
    """A batch with a ledger. `stop`: it is killed after so many outcomes."""
    return Program(_BATCH, (synchronous, str(first), str(last), str(stop)), kills_itself=stop > 0)


def bulk(source: str, output: str, problems: str, *more: str, killed_at: int = 0) -> Program:
    """A `bulk` with a file of problems."""
    words = ["bulk", "whatsapp-detail", source, "-o", output, "--quiet", "--concurrency", "8", "--no-recheck", *more]
    words += ["--errors", problems] if problems else []
    return Program(COMMAND, words, killed_at, [output, *([problems] if problems else [])])


_WITH_LEDGER = ("--ledger", LEDGER)
PLANS: dict[str, Sequence[Program]] = {
    "batch": (batch(0, 40), batch(20, 90, stop=45), batch(0, 120), Program(_PURGE), batch(100, 130)),
    "bulk": (
        bulk("in.csv", "out.csv", "err.csv", *_WITH_LEDGER, killed_at=14),
        bulk("in.csv", "out.csv", "err.csv", *_WITH_LEDGER),
        bulk("err.csv", "mended.csv", ""),
        bulk("more.csv", "out.csv", "err.csv", *_WITH_LEDGER),
    ),
    "book": (
        bulk("in.csv", "out.xlsx", "err.xlsx", *_WITH_LEDGER, killed_at=20),
        bulk("in.csv", "out.xlsx", "err.xlsx", *_WITH_LEDGER),
        bulk("more.csv", "out.xlsx", "err.xlsx", *_WITH_LEDGER),
    ),
    "anew": (batch(0, 16), Program(_REMOVE), batch(8, 24, stop=10), batch(0, 24)),
    "control": (batch(0, 40, synchronous="off"),),
}
"""Programs that run one after the other in one folder."""


def numbers(count: int) -> list[str]:
    """What the lists have, and batches ask for."""
    return [f"62813{number:08}" for number in range(count)]


def write_lists(folder: Path) -> None:
    """The inputs, which are there before anything runs."""
    for name, count in (("in.csv", 24), ("more.csv", 30)):
        with (folder / name).open("w", newline="") as file:
            rows = [(f"K{number}", f"+{number}") for number in numbers(count)]
            csv.writer(file).writerows([("id", "number"), *rows, ("none", "no number")])


async def watch(program: Program, vendor: Vendor, folder: Path, log: Path) -> int:
    """Run it, traced into `log`. Its exit code; that of a killed one is negative."""
    own = {"AISOLUTION_TOKEN": vendor.token, "AISOLUTION_BASE_URL": vendor.url, "PYTHONPATH": str(Path.cwd())}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AISOLUTION_", "COV"))}
    first = [vendor.url] if program.code == _BATCH else []
    process = await asyncio.create_subprocess_exec(
        *command(log, [sys.executable, "-c", program.code, *first, *program.words]),
        cwd=folder,
        env=kept | own,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    def on_request(came: int) -> None:
        if came - before == program.killed_at:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)

    before, vendor.on_request = vendor.came, on_request
    _, said = await process.communicate()
    vendor.on_request = lambda _: None
    killed = program.killed_at > 0 or program.kills_itself
    code = process.returncode or 0
    good = code in (-signal.SIGKILL, 128 + signal.SIGKILL) if killed else code in (0, 1)
    assert good, f"exit code {code}: {said.decode(errors='replace')}"
    return code
