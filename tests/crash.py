"""Kill runs, disturb and damage them, until all is done; then hold bill, ledger and output against one another.

`python -m tests.crash ROUNDS [--seed N] [--kind KIND]` runs ROUNDS rounds of every kind, or of the kinds named, and the
test suite runs a few. A round is its kind and its seed: where one fails, the command that runs it again is printed.

batch        a program with a batch, killed at random moments, at a sandbox where nothing goes wrong
one          one `bulk`, killed at random moments; the vendor says RETRY_LATER at first sight of 40 % of the numbers,
             and 30 % of the answers that it charges are lost; then once more with --retry-unknown 1
two, four    so many of them on one list and one ledger at the same time
files        a `bulk` that ends, as if by kill -9, at one of its file operations: seed 0 to 3 at the last, 4 to 7 at the
             last but one, and so on; even ones go on with the same command, odd ones with the file of --errors, and the
             upper two die in the middle of a write, or else behind the operation and not before it
wal-left     the ledger is moved without its -wal after a kill
wal-cut      its -wal is cut off
wal-random   its -wal has random bytes in it
emptied      its file is empty
replaced     its file is another ledger
older        its file is an older copy of it
removed      its file is not there

What is promised: no number is billed more often than --retry-unknown says; charged <= billed <= charged + unknown, by
number, by the vendor's own count; each answer that is billed is in the ledger, or is unknown there; what the output
says is what the vendor said; and a ledger that lacks what the output has is refused: exit code 2, and nothing sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from aisolution_async import Charge, Ledger
from aisolution_async.ledger import State
from aisolution_async.sandbox import Fault, Sandbox
from aisolution_async.sandbox.faults import ENVELOPE_OF_BUSY
from aisolution_async.sandbox.vendor import Request, Served

from . import forks
from .support import LAST_RESORT

CONCURRENCY = 50

# --------------------------------------------------------------------------------------- a batch, killed at random

CHILD = """
import asyncio, sys
from aisolution_async import AsyncClient, WhatsAppDetail

async def main(url, ledger, count, concurrency):
    calls = (WhatsAppDetail(f"62813{number:08}", key=number) for number in range(count))
    async with AsyncClient("sandbox-token", base_url=url, ledger=ledger) as client:
        async with client.batch(calls, concurrency=concurrency) as batch:
            async for outcome in batch:
                name = "ok" if outcome.ok else type(outcome.error).__name__
                print(outcome.key, name, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class CountingSandbox(Sandbox):
    """A sandbox that also counts what it charged for each form it was sent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.charged: Counter[bytes] = Counter()

    async def answer(self, request: Request) -> Served:
        found = await super().answer(request)
        if found.charge is Charge.CHARGED:
            self.charged[request.body] += 1
        return found


async def one_round(folder: Path, rng: random.Random, *, calls: int) -> int:
    """Kill and restart until every call is answered or held. Returns how often it was killed."""
    ledger = folder / "run.ledger"
    kills = 0
    async with CountingSandbox() as sandbox:
        while True:
            child = await forks.begin(["-c", CHILD, sandbox.url, str(ledger), str(calls), str(CONCURRENCY)])
            outcomes: dict[int, str] = {}
            killed = False
            # Not by the clock: after so many outcomes, or never.
            last = rng.randrange(calls) if kills < 6 else calls
            async for line in child.stdout:
                words = line.decode().split()
                if len(words) != 2:  # torn by the kill
                    break
                outcomes[int(words[0])] = words[1]
                if len(outcomes) > last and not killed:
                    killed = True
                    child.kill()
            await child.communicate()
            if child.returncode == 0:
                break
            assert killed, f"the child failed by itself: {child.returncode}"
            kills += 1
        check(ledger, sandbox, outcomes, calls=calls, kills=kills)
    return kills


def check(ledger: Path, sandbox: CountingSandbox, outcomes: dict[int, str], *, calls: int, kills: int) -> None:
    """The promises, one by one."""
    assert set(outcomes) == set(range(calls))
    assert set(outcomes.values()) <= {"ok", "OutcomeUnknownError"}
    assert max(sandbox.charged.values()) == 1, "something was charged twice"
    store = Ledger(ledger)
    unknown = Counter(record.key for record in store.attempts(unknown_only=True))
    answered = {record.key for record in store.answers()}
    assert len(unknown) <= CONCURRENCY * kills
    for body in sandbox.charged:
        key = int(body.removeprefix(b"number=62813"))
        assert key in answered or key in unknown, "a charged answer is neither recorded nor unknown"
    held = {key for key, name in outcomes.items() if name != "ok"}
    assert held <= set(unknown)
    assert {record.state for record in store.attempts()} <= {State.CHARGED, State.FREE, State.UNKNOWN, State.NOT_SENT}


# ---------------------------------------------------------------------------------------------------- the vendor


class BusyVendor(Sandbox):
    """A sandbox that is `busy` at first sight of a share of the numbers, and loses a share of the charged answers.

    Whose they are follows from the seed.
    """

    def __init__(self, seed: int, *, busy: float = 0.0, lost: float = 0.0) -> None:
        super().__init__()
        self.billed: Counter[str] = Counter()
        """How often each number was charged."""
        self.lost: Counter[str] = Counter()
        """How often of these the answer was lost on its way."""
        self.came = 0
        """Requests that came."""
        self.on_request: Callable[[int], object] = lambda _: None
        self._seed = seed
        self._busy = busy
        self._lost = lost
        self._seen: set[str] = set()

    async def answer(self, request: Request) -> Served:
        (number,) = parse_qs(request.body.decode())["number"]
        self.came += 1
        self.on_request(self.came)
        first = number not in self._seen
        self._seen.add(number)
        if first and self._falls("busy", number) < self._busy:
            return Served(200, ENVELOPE_OF_BUSY, "application/json", endpoint="gliswadetail")
        self.billed[number] += 1
        body = json.dumps({"status": "OK", "message": {"number": number, **said_of(number)}}).encode()
        answer = Served(200, body, "application/json", endpoint="gliswadetail", charge=Charge.CHARGED, status="OK")
        if self._falls("lost", number, self.billed[number]) < self._lost:
            self.lost[number] += 1
            return replace(answer, fault=Fault("reset-after"))
        return answer

    def _falls(self, *what: object) -> float:
        return random.Random(repr((self._seed, *what))).random()


def said_of(number: str) -> dict[str, str]:
    """What is answered about a number."""
    return {"whatsapp": "yes" if int(number) % 3 else "no", "signature": f"of {number}"}


# ------------------------------------------------------------------------------------------------------ the runs

RUN = "from aisolution_async.cli import main; main()"

# At the n-th operation that changes a file, the process ends as by kill -9. `how`: "before" it, "behind" it, or in the
# "middle" of it, where it is a write. With n = 0 it goes on to its end. What SQLite does is its own affair.
KILLED_AT_A_FILE = """
import builtins, io, os, sys

log, at, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
done = 0
log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
note, leave = os.write, os._exit

def counted(name, operation, half=None):
    def do(*args, **kwargs):
        global done
        done += 1
        on = args[-1 if name == "replace" else 0] if args else None
        on = os.path.basename(on) if isinstance(on, (str, os.PathLike)) else ""
        note(log, f"{done} {name} {on}\\n".encode())
        if done == at and how == "middle" and half is not None:
            half(*args, **kwargs)
            leave(137)
        if done == at and how == "before":
            leave(137)
        try:
            return operation(*args, **kwargs)
        finally:
            if done == at:
                leave(137)
    return do

class File(io.FileIO):
    def write(self, data):
        write = super().write
        return counted("write", write, lambda data: write(bytes(data)[: len(data) // 2]))(data)

    def truncate(self, size=None):
        return counted("truncate", super().truncate)(size)

usual = io.open

def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if not set(mode) & set("wax+"):
        return usual(file, mode, buffering, encoding, errors, newline, closefd, opener)
    make = File if isinstance(file, int) else counted("open", File)
    raw = make(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw
    buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

from aisolution_async.cli import main

usual_open = os.open

def open_number(path, flags, *args, **kwargs):
    make = flags & (os.O_CREAT | os.O_TRUNC)
    return (counted("open", usual_open) if make else usual_open)(path, flags, *args, **kwargs)

io.open = builtins.open = opened
os.open = open_number
os.write = counted("write", os.write, lambda number, data: note(number, bytes(data)[: len(data) // 2]))
for name in "fsync fdatasync rename replace unlink remove link symlink truncate ftruncate chmod fchmod".split():
    setattr(os, name, counted(name, getattr(os, name)))
main()
"""


@dataclass(slots=True)
class Place:
    """A folder with a list and what runs made of it, and the vendor whom they ask."""

    folder: Path
    vendor: BusyVendor
    rows: int
    concurrency: int
    kills: int = 0

    @property
    def ledger(self) -> Path:
        return self.folder / "run.ledger"

    @property
    def numbers(self) -> list[str]:
        return [f"+62813{row:08}" for row in range(self.rows)]

    def write_list(self, *more: str) -> None:
        with (self.folder / "in.csv").open("w", newline="") as file:
            cells = [*self.numbers, *more]
            csv.writer(file).writerows([("id", "number"), *((f"K{number}", number) for number in cells)])

    @contextlib.contextmanager
    def look(self) -> Iterator[Ledger]:
        """The ledger, to be read. A copy, for a look at it would bring its -wal into it."""
        with tempfile.TemporaryDirectory() as folder:
            for file in self.folder.glob("run.ledger*"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(file, folder)
            yield Ledger(Path(folder) / "run.ledger")

    async def start(self, output: str, *options: str, source: str = "in.csv", code: Sequence[str] = (RUN,)) -> Run:
        """Start a `bulk`; with `--ledger` unless the options say otherwise."""
        words = ["bulk", "whatsapp-detail", source, "-o", output, "--quiet", "--concurrency", str(self.concurrency)]
        own = {"AISOLUTION_TOKEN": self.vendor.token, "AISOLUTION_BASE_URL": self.vendor.url}
        process = await forks.begin(
            ["-c", *code, *words, *(options or ("--ledger", "run.ledger"))],
            cwd=self.folder,
            env={**{name: value for name, value in os.environ.items() if not name.startswith("AISOLUTION_")}, **own},
            with_stderr=True,
        )
        return Run(process)

    async def run(self, output: str, *options: str, source: str = "in.csv", code: Sequence[str] = (RUN,)) -> Ended:
        """The same, to its end."""
        return await (await self.start(output, *options, source=source, code=code)).end()


@dataclass(slots=True)
class Ended:
    """How a run ended."""

    code: int
    said: str

    def check(self, *codes: int) -> None:
        assert self.code in codes, f"exit code {self.code}, and not {' or '.join(map(str, codes))}: {self.said.strip()}"


@dataclass(slots=True)
class Run:
    """A run that is under way."""

    process: forks.Piped
    killed: bool = field(default=False, init=False)

    def kill(self) -> bool:
        """As kill -9 does. False if it was over."""
        if self.process.poll() is not None or self.killed:
            return False
        self.killed = True
        self.process.kill()
        return True

    async def end(self) -> Ended:
        try:
            async with asyncio.timeout(LAST_RESORT):
                said, _ = await self.process.communicate()
        finally:
            self.kill()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, said.decode(errors="replace"))


# -------------------------------------------------------------------------------------------------- the promises


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    """The rows of an output, whole or not, by number."""
    if not file.exists():
        return {}
    with file.open(newline="") as found:
        lines = [line for line in found if line.endswith("\n")]  # the last may have been written in part
    return {row["number"].removeprefix("'"): row for row in csv.DictReader(lines)}


def answers_of(file: Path) -> set[str]:
    """The numbers that an output has the answers of."""
    return {number for number, row in rows_of(file).items() if row["ok"] == "true"}


def hold_against(place: Place, outputs: Sequence[str] = ("out.csv",), *, again: int = 0) -> None:
    """Bill against ledger against output. No run is under way; `again` is what --retry-unknown was at most."""
    vendor, states = place.vendor, Counter[tuple[str, str]]()
    answers: dict[str, Mapping[str, Any]] = {}
    twice = {number: times for number, times in vendor.billed.items() if times > 1 + again}
    assert not twice, f"{len(twice)} of {place.rows} numbers were billed more than {1 + again} times"
    if vendor.billed:
        with place.look() as ledger:
            for record in ledger.attempts():
                states[str(record.key).removeprefix("K"), record.state] += 1
            answers = {str(each.key).removeprefix("K"): json.loads(each.reply or b"") for each in ledger.answers()}
    unknown = Counter[str]()
    for (number, state), times in states.items():
        if state in (State.UNKNOWN, State.INTENDED):
            unknown[number] += times
    for number in {*vendor.billed, *(number for number, _ in states)}:
        charged, billed = states[number, State.CHARGED], vendor.billed[number]
        assert charged <= billed <= charged + unknown[number], (
            f"{number}: {charged} charged, {billed} billed, {unknown[number]} unknown"
        )
        assert charged == (number in answers), f"{number} was charged, and its answer is not in the ledger"
    # A number is unknown once for each answer that was lost, and for each that a kill took.
    assert unknown.total() <= vendor.lost.total() + place.kills * place.concurrency, "too much is unknown"
    for number, answer in answers.items():
        assert {name: answer[name] for name in said_of(number)} == said_of(number), f"{number}: another one's answer"
    for name in outputs:
        for file in (place.folder / name, place.folder / f"{name}.part"):
            for number, row in rows_of(file).items():
                if row["ok"] != "true":
                    continue
                found = {what: row[f"answer_{what}"] for what in said_of(number)}
                assert found == said_of(number), f"{file.name}, {number}: another one's answer"
                assert number in answers, f"{file.name}, {number}: it is answered here, and not in the ledger"


def hold_against_all(place: Place, outputs: Sequence[str] = ("out.csv",), *, again: int = 0) -> None:
    """The same once every run came to its end: every row is there, answered, or held with what is unknown of it."""
    hold_against(place, outputs, again=again)
    with place.look() as ledger:
        unknown = {str(record.key).removeprefix("K") for record in ledger.attempts(unknown_only=True)}
        states = {record.state for record in ledger.attempts()}
    assert State.INTENDED not in states, "something is under way in the ledger, and no run is"
    for name in outputs:
        rows = rows_of(place.folder / name)
        for number in place.numbers:
            assert number in rows, f"{name} lacks {number}"
            held = rows[number]["error"] == "OutcomeUnknownError" and number in unknown
            assert rows[number]["ok"] == "true" or held, f"{name}, {number}: {rows[number]['problem']}"


# ------------------------------------------------------------------------------------- several, killed at random


async def several(folder: Path, seed: int, rows: int, *, processes: int) -> str:
    """Runs on one list and one ledger at the same time, each killed now and then, and started again."""
    rng = random.Random(seed)
    async with BusyVendor(seed, busy=0.4, lost=0.3) as vendor:
        place = Place(folder, vendor, rows, 25)
        place.write_list()
        outputs = [f"out{number}.csv" for number in range(processes)]
        runs: dict[str, Run] = {}
        # Not by the clock: when so many requests came.
        plan = {rng.randrange(1, round(rows * 1.4)): rng.choice(outputs) for _ in range(processes + 1)}

        def on_request(came: int) -> None:
            if came in plan and plan[came] in runs:
                place.kills += runs[plan[came]].kill()

        async def keep_running(output: str, *options: str) -> None:
            while True:
                run = runs[output] = await place.start(output, *options)
                ended = await run.end()
                if not run.killed:
                    ended.check(0, 1)
                    return
                if processes == 1:
                    hold_against(place, outputs)

        vendor.on_request = on_request
        await asyncio.gather(*map(keep_running, outputs))
        hold_against_all(place, outputs)
        vendor.on_request = lambda _: None
        again = ("--ledger", "run.ledger", "--retry-unknown", "1")
        await asyncio.gather(*(keep_running(output, *again) for output in outputs))
        hold_against_all(place, outputs, again=1)
        return f"killed {place.kills} times, {vendor.lost.total()} of {vendor.billed.total()} charged answers lost"


# ---------------------------------------------------------------------------------- killed at one file operation


# A vendor's seed, the same in all of these rounds, so that they are at the same operations: it loses three of eight.
_LOSING = 21


async def at_a_file(folder: Path, seed: int, rows: int) -> str:
    """A run with a file of problems that ends at one operation on a file; then what people would do next."""
    at_end, later = divmod(seed, 4)
    mended_first, how = bool(later % 2), ("before", "middle")[later // 2]
    log = folder / "operations"
    problems = ("--errors", "err.csv", "--ledger", "run.ledger")
    count, place = folder / "count", folder / "place"
    for each in (count, place):
        each.mkdir()

    async def killed(where: Path, vendor: BusyVendor, at: int, how: str) -> tuple[Place, Ended]:
        log.unlink(missing_ok=True)
        found = Place(where, vendor, rows, 1)
        found.write_list("no number")
        code = (KILLED_AT_A_FILE, str(log), str(at), how)
        return found, await found.run("out.csv", *problems, code=code)

    async with BusyVendor(_LOSING, lost=0.4) as vendor:
        (await killed(count, vendor, 0, "before"))[1].check(1)
    operations = log.read_text().splitlines()
    at = len(operations) - at_end % len(operations)
    async with BusyVendor(_LOSING, lost=0.4) as vendor:
        found, ended = await killed(place, vendor, at, how)
        ended.check(137)
        found.kills = 1
        hold_against(found)
        then = ["out.csv"]
        if (place / "err.csv").exists():
            then.insert(0 if mended_first else 1, "mended.csv")
        for output in then:
            came = vendor.came
            if output == "out.csv":
                (await found.run(output, *problems)).check(1)
            else:
                # By itself: the file remembers its ledger.
                ended = await found.run(output, "--no-recheck", source="err.csv")
                ended.check(1, *([2] if vendor.came == came else []))
            hold_against(found, ("out.csv", "mended.csv"))
        hold_against_all(found)
        what = operations[at - 1].partition(" ")[2]
        if how == "middle":
            how = "in the middle of" if what.startswith("write") else "behind"
        return f"{how} operation {at} of {len(operations)}, {what.strip()}; then {' and '.join(then)}"


# ------------------------------------------------------------------------------------------------------- damaged


def _wal(place: Place) -> Path:
    return place.ledger.with_name("run.ledger-wal")


def _leave_wal(place: Place, rng: random.Random) -> None:
    _wal(place).unlink()
    place.ledger.with_name("run.ledger-shm").unlink(missing_ok=True)


def _cut_wal(place: Place, rng: random.Random) -> None:
    os.truncate(_wal(place), rng.randrange(_wal(place).stat().st_size // 2))


def _spoil_wal(place: Place, rng: random.Random) -> None:
    size = _wal(place).stat().st_size
    with _wal(place).open("r+b") as file:
        for _ in range(3):
            file.seek(rng.randrange(size // 2))
            file.write(rng.randbytes(64))


def _empty(place: Place, rng: random.Random) -> None:
    os.truncate(place.ledger, 0)
    _perhaps_without_wal(place, rng)


def _remove(place: Place, rng: random.Random) -> None:
    place.ledger.unlink()
    _perhaps_without_wal(place, rng)


def _perhaps_without_wal(place: Place, rng: random.Random) -> None:
    if rng.random() < 0.5:
        _wal(place).unlink(missing_ok=True)
        place.ledger.with_name("run.ledger-shm").unlink(missing_ok=True)


def _put(place: Place, copy: Path) -> None:
    """Another ledger in the place of this one, all of its files."""
    for name in ("run.ledger", "run.ledger-wal", "run.ledger-shm"):
        (place.folder / name).unlink(missing_ok=True)
        if (copy / name).exists():
            shutil.copy(copy / name, place.folder / name)


WAYS: Mapping[str, Callable[[Place, random.Random], None]] = {
    "wal-left": _leave_wal,
    "wal-cut": _cut_wal,
    "wal-random": _spoil_wal,
    "emptied": _empty,
    "removed": _remove,
}
NEED_WAL = frozenset({"wal-left", "wal-cut", "wal-random"})


async def damaged(folder: Path, seed: int, rows: int, *, way: str) -> str:
    """A ledger that lost its memory between two runs is refused, and once it is put back, the run goes on."""
    rng = random.Random(seed)
    here, safe, other = folder / "here", folder / "safe", folder / "other"
    for each in (here, other):
        each.mkdir()
    async with BusyVendor(seed, lost=0.1) as vendor:
        place = Place(here, vendor, rows, 10)
        place.write_list()
        if way == "replaced":
            await _another(other, seed)
        # Every other round damages a ledger of a run that is over, where that can be.
        killed = way in NEED_WAL or rng.random() < 0.5
        moment = rng.randrange(rows // 2, rows * 9 // 10)
        earlier = rng.randrange(rows // 8, rows // 4)
        for stop in ([earlier] if way == "older" else []) + ([moment] if killed else [rows * 2]):
            await _until(place, stop)
            if stop == earlier:
                shutil.copytree(here, other, dirs_exist_ok=True)
        shutil.copytree(here, safe)
        hold_against(place)
        if way in WAYS:
            WAYS[way](place, rng)
        else:
            _put(place, other)
        lacking = _output_of(place) - _memory_of(place, folder / "look")
        before, asked = _contents(here), vendor.came
        ended = await place.run("out.csv")
        sent = vendor.came - asked
        twice = sum(times > 1 for times in vendor.billed.values())
        if lacking:
            assert (ended.code, sent) == (2, 0), (
                f"{len(lacking)} answers of the output are not in the ledger, and it was not refused: exit code "
                f"{ended.code}, {sent} requests, {twice} numbers billed twice; {ended.said.strip()}"
            )
            assert _contents(here) == before, "the run was refused, and its output is not what it was"
            shutil.rmtree(here)
            shutil.copytree(safe, here)
            ended = await place.run("out.csv")
        ended.check(0, 1)
        hold_against_all(place)
        return f"{'killed' if killed else 'over'}, then {way}: {len(lacking)} answers lacking" + ", refused" * bool(
            lacking
        )


async def _until(place: Place, stop: int) -> None:
    """Run it until so many requests came in all, or to its end."""
    run = await place.start("out.csv")

    def on_request(came: int) -> None:
        if came == stop:
            place.kills += run.kill()

    place.vendor.on_request = on_request
    ended = await run.end()
    place.vendor.on_request = lambda _: None
    if not run.killed:
        ended.check(0, 1)


async def _another(folder: Path, seed: int) -> None:
    """Another list's ledger."""
    async with BusyVendor(seed) as vendor:
        place = Place(folder, vendor, 5, 5)
        place.write_list()
        (await place.run("out.csv")).check(0)


def _contents(folder: Path) -> dict[str, bytes]:
    """Of what is not the ledger's own."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith("run.ledger")}


def _output_of(place: Place) -> set[str]:
    return answers_of(place.folder / "out.csv") | answers_of(place.folder / "out.csv.part")


def _memory_of(place: Place, look: Path) -> set[str]:
    """The numbers whose answers are in what is left of the ledger, as SQLite finds them in a copy."""
    look.mkdir()
    for file in place.folder.glob("run.ledger*"):
        shutil.copy(file, look)
    if not (look / "run.ledger").exists():
        return set()
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(look / "run.ledger")) as db:
        found = db.execute("SELECT key FROM attempts WHERE answer").fetchall()
        return {json.loads(key).removeprefix("K") for (key,) in found}
    return set()


# ------------------------------------------------------------------------------------------------------- rounds


async def in_a_batch(folder: Path, seed: int, calls: int) -> str:
    return f"killed {await one_round(folder, random.Random(seed), calls=calls)} times"


Round = Callable[[Path, int, int], Coroutine[Any, Any, str]]

KINDS: Mapping[str, tuple[Round, int]] = {
    "batch": (in_a_batch, 5000),
    "one": (partial(several, processes=1), 500),
    "two": (partial(several, processes=2), 500),
    "four": (partial(several, processes=4), 500),
    "files": (at_a_file, 8),
    **{way: (partial(damaged, way=way), 300) for way in (*WAYS, "replaced", "older")},
}
"""What there is, and how many rows it has unless told otherwise."""


async def play(kind: str, seed: int, rows: int | None = None) -> str:
    """One round; what there is to say of it. Raises AssertionError where a promise is broken."""
    run, usual = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        return await run(Path(folder), seed, rows or usual)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("rounds", nargs="?", type=int, default=10, help="how many rounds of each kind  [10]")
    parser.add_argument("--seed", type=int, default=0, help="the first round's seed; the others follow  [0]")
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be repeated  [all]")
    parser.add_argument("--rows", type=int, help="how many rows, or calls, a round has")
    given = parser.parse_args()
    failed: Counter[str] = Counter()
    for kind in given.kind or KINDS:
        for seed in range(given.seed, given.seed + given.rounds):
            try:
                said = asyncio.run(play(kind, seed, given.rows))
            except Exception as exc:  # a promise that is broken, or a round that is
                failed[kind] += 1
                rows = f" --rows {given.rows}" if given.rows else ""
                said = f"FAILED: {str(exc) or type(exc).__name__}\n"
                said += f"    python -m tests.crash 1 --seed {seed} --kind {kind}{rows}"
            print(f"{kind} {seed}: {said}", flush=True)
    if failed:
        sys.exit(
            "promises were broken: " + ", ".join(f"{kind} {times} of {given.rounds}" for kind, times in failed.items())
        )


if __name__ == "__main__":
    main()
