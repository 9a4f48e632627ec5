"""What must hold of whatever a loss of power leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from aisolution_async import AsyncClient, OutcomeUnknownError, WhatsAppDetail
from aisolution_async.bulk.origins import origin_of
from aisolution_async.cli.commands import aisolution
from aisolution_async.errors import AISolutionError
from aisolution_async.ledger import Ask, Busy, Ledger, Started, Stored
from tests.ledgers import check
from tests.support import NUMBER, ThreadVendor

from .disk import Image
from .programs import COMMAND, LEDGER, Program, is_busy
from .trace import Event, Named, Sent, Told

WHATSAPP = "gliswadetail"


@dataclass(slots=True)
class Past:
    """What programs did that nobody can take back, up to some moment."""

    billed: set[str] = field(default_factory=set)
    """The numbers whose request may have been billed."""
    known: set[str] = field(default_factory=set)
    """Those whose answer the program told of."""
    whole: dict[str, set[bytes]] = field(default_factory=dict)
    """What a file may have in it, by its name."""
    leaves: dict[str, bytes] = field(default_factory=dict)
    """What a file must have in it."""
    _seen: set[str] = field(default_factory=set)

    def add(self, event: Event, now: Image) -> None:
        match event:
            case Sent(number):
                if number in self._seen or not is_busy(number):
                    self.billed.add(number)
                self._seen.add(number)
            case Told(line):
                word, _, number = line.partition(" ")
                if word == "ok":
                    self.known.add(number)
                elif word == "purged":  # what is answered may be forgotten from now on
                    self.billed -= self.known
                    self.known.clear()
                elif word == "removed":  # the ledger: its user wants to begin anew
                    self.billed.clear()
                    self.known.clear()
            case Named(name):
                self.whole.setdefault(name, set()).add(now[name])
                self.leaves.pop(name, None)


@dataclass(frozen=True, slots=True)
class Found:
    """What a disk was found to have, whatever there should be."""

    problem: str = ""
    claimed: frozenset[str] = frozenset()
    """The numbers that the ledger lets nobody ask."""
    answered: frozenset[str] = frozenset()
    """Those that it has the answers of."""


class Judge:
    """Looks at what is left on disks."""

    def __init__(self, identities: Mapping[bytes, str], runner: asyncio.Runner) -> None:
        self._identities = identities
        self._runner = runner
        self._seen: dict[int, Found] = {}
        memory = Path("/dev/shm")
        self._place = memory if os.access(memory, os.W_OK) else None

    def problem(self, image: Image, past: Past) -> str:
        """Which promise is broken; empty if none is."""
        for name, data in image.items():
            if name in past.whole and data not in past.whole[name]:
                return f"{name} is neither what it was nor what it was to be"
        for name in image:
            if name.endswith(".of") and (problem := self._read_note(image, name)):
                return problem
        for name, data in past.leaves.items():
            if image.get(name) != data:
                return f"{name} was told to be there, and is not"
        of_ledger = {name: data for name, data in image.items() if name.startswith(LEDGER)}
        seen = hash(frozenset(of_ledger.items()))
        found = self._seen.get(seen)
        if found is None:
            found = self._seen[seen] = self._look(of_ledger)
        if found.problem:
            return found.problem
        if again := past.billed - found.claimed:
            return f"numbers that were sent have no claim, and would be paid for again: {len(again)}, {min(again)}"
        if lost := past.known - found.answered:
            return f"answers that were told of are not recorded: {len(lost)}, {min(lost)}"
        return ""

    def _read_note(self, image: Image, name: str) -> str:
        """What is wrong with the note of which ledger a file of problems belongs to."""
        both = {each: image[each] for each in (name, name.removesuffix(".of")) if each in image}
        with self._laid_out(both) as folder:
            try:
                origin_of(folder / name.removesuffix(".of"))
            except AISolutionError as exc:
                return str(exc).replace(str(folder), "")
        return ""

    def _look(self, image: Image) -> Found:
        with self._laid_out(image) as folder:
            try:
                return self._runner.run(self._ask(folder / LEDGER))
            except (AISolutionError, AssertionError, sqlite3.Error, OSError) as exc:
                return Found(f"{type(exc).__name__}: {str(exc).replace(str(folder), '')[:300]}")

    async def _ask(self, path: Path) -> Found:
        async with Ledger(path, synchronous="off", busy_timeout=0.1) as ledger:
            asks = [Ask(WHATSAPP, identity, within=0.0) for identity in self._identities]
            verdicts = await asyncio.gather(*map(ledger.begin, asks))
            check(path)
        if any(isinstance(verdict, Busy) for verdict in verdicts):
            return Found("the next run would wait for a program that is dead")
        claimed, answered = set(), set()
        for number, verdict in zip(self._identities.values(), verdicts, strict=True):
            if not isinstance(verdict, Started):
                claimed.add(number)
            if isinstance(verdict, Stored):
                answered.add(number)
        return Found("", frozenset(claimed), frozenset(answered))

    def whole_run(self, image: Image, past: Past, program: Program) -> str:
        """Which promise the next run breaks, the whole of it; empty if none is."""
        with self._laid_out(image) as folder, _vendor() as vendor, contextlib.chdir(folder):
            if program.code == COMMAND:
                problem = _run_bulk(folder, vendor, program.words)
            else:
                problem = self._runner.run(_run_batch(folder, vendor, sorted({*self._identities.values()})))
            asked = [form["number"][0].lstrip("+") for form in vendor.requests]
        if problem:
            return f"the next run: {problem}"
        if again := past.billed & set(asked):
            return f"the next run asked for numbers that were sent, and would pay again: {len(again)}, {min(again)}"
        return ""

    @contextlib.contextmanager
    def _laid_out(self, image: Image) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._place) as name:
            folder = Path(name)
            for file, data in image.items():
                path = folder / file
                if "/" in file:
                    path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            yield folder


def identities_in(ledger: Path) -> dict[bytes, str]:
    """What makes calls the same, and the number that each asks for, as the ledger has it."""
    with closing(sqlite3.connect(ledger)) as db:
        rows = db.execute("SELECT identity, key FROM attempts WHERE identity IS NOT NULL").fetchall()
    return {identity: json.loads(key).removeprefix("K") for identity, key in rows}


@contextlib.contextmanager
def _vendor() -> Iterator[ThreadVendor]:
    vendor = ThreadVendor(lambda _: {"status": "OK", "message": {"number": NUMBER, "whatsapp": "yes"}})
    thread = threading.Thread(target=vendor.server.serve_forever, args=(0.005,))
    thread.start()
    try:
        yield vendor
    finally:
        vendor.server.shutdown()
        vendor.server.server_close()
        thread.join()


def _run_bulk(folder: Path, vendor: ThreadVendor, words: Sequence[str]) -> str:
    own = {"AISOLUTION_TOKEN": "sandbox-token", "AISOLUTION_BASE_URL": vendor.url}
    result = CliRunner().invoke(aisolution, list(words), env=own, prog_name="aisolution")
    if result.exit_code not in (0, 1) or not isinstance(result.exception, SystemExit | None):
        said = result.output.replace(str(folder), "")
        return f"exit code {result.exit_code}: {said.strip()[-300:] or repr(result.exception)}"
    output = Path(words[words.index("-o") + 1])
    return "" if output.exists() else f"it ended well, and there is no {output}"


async def _run_batch(folder: Path, vendor: ThreadVendor, numbers: Sequence[str]) -> str:
    calls = [WhatsAppDetail(number) for number in numbers]
    async with AsyncClient("sandbox-token", base_url=vendor.url, ledger=folder / LEDGER) as client:
        outcomes = await client.collect(calls, concurrency=4)
    wrong = [
        outcome.error for outcome in outcomes if not (outcome.ok or isinstance(outcome.error, OutcomeUnknownError))
    ]
    return str(wrong[0]) if wrong else ""
