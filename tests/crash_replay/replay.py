"""Watch a plan once, then take the power away as often as one likes."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from .disk import Image
from .programs import LEDGER, PLANS, Program, Vendor, watch, write_lists
from .promises import Judge, Past, identities_in
from .trace import Syncing, Watcher


@dataclass(slots=True)
class Recording:
    """A plan as it went: for each program its trace, and what was in the folder then."""

    folder: Path
    before: Image
    programs: list[tuple[Program, Path, Image]]
    identities: dict[bytes, str]


@dataclass(slots=True)
class Report:
    """What came of it."""

    moments: int = 0
    states: int = 0
    """Disks, each counted once for a moment."""
    different: int = 0
    """Disks that differ."""
    whole_runs: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """For each kind of problem, where it was found first."""
    seconds: float = 0.0


async def record(plan: str, place: Path) -> Recording:
    """Run the programs of a plan in a folder in `place`."""
    folder = place.resolve() / "run"
    folder.mkdir()
    write_lists(folder)
    found = Recording(folder, _files(folder), [], {})
    async with Vendor() as vendor:
        for number, program in enumerate(PLANS[plan]):
            log = place / f"trace{number}"
            await watch(program, vendor, folder, log)
            found.programs.append((program, log, _files(folder)))
            copy = place / f"look{number}"
            copy.mkdir()
            for name, data in found.programs[-1][2].items():
                if name.startswith(LEDGER):
                    (copy / name).write_bytes(data)
            if (copy / LEDGER).exists():
                found.identities |= identities_in(copy / LEDGER)
    return found


def _files(folder: Path) -> Image:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def moments(recording: Recording, without: Callable[[str], bool]) -> Iterator[tuple[Watcher, Past, Program, str]]:
    """The moments just before something is durable, and the end of each program."""
    watcher, past = Watcher(recording.folder, without=without), Past()
    watcher.seed(recording.before)
    for number, (program, log, after) in enumerate(recording.programs):
        for event in watcher.follow(log, after):
            if isinstance(event, Syncing):
                yield watcher, past, program, f"program {number}, before a sync of {watcher.name_of(event.node)}"
            else:
                past.add(event, watcher.disk.whole())
        if not program.killed_at and not program.kills_itself:
            past.leaves |= {name: after[name] for name in program.leaves}
        yield watcher, past, program, f"program {number}, at its end"


def replay(
    recording: Recording,
    states: int,
    *,
    every: int = 1,
    seed: int = 0,
    whole_every: int = 0,
    keep: Path | None = None,
    without: Callable[[str], bool] = lambda _: False,
) -> Report:
    """Look at so many disks, more or less, at each `every`th moment.

    `whole_every`: of how many of them one has the whole next run.
    The first disk of each kind of problem is put into a folder in `keep`.
    """
    report, began = Report(), time.process_time()
    rng = random.Random(seed)
    count = sum(1 for _ in islice(moments(recording, without), 0, None, every))
    disks: set[int] = set()
    with asyncio.Runner() as runner:
        judge = Judge(recording.identities, runner)
        for watcher, past, program, where in islice(moments(recording, without), 0, None, every):
            report.moments += 1
            seen: set[int] = set()
            wanted = max(2, (states - report.states) // (count - report.moments + 1))
            for image in watcher.disk.images(rng, wanted * 3):
                if (known := hash(frozenset(image.items()))) in seen:
                    continue
                seen.add(known)
                disks.add(known)
                report.states += 1
                problem = judge.problem(image, past)
                if not problem and whole_every and report.states % whole_every == 0:
                    report.whole_runs += 1
                    problem = judge.whole_run(image, past, program)
                if problem:
                    kind = re.sub(r"\d{2,}|\b\d\b", "…", problem)[:100]
                    report.problems[kind] += 1
                    if kind not in report.first:
                        report.first[kind] = f"{where}: {problem}"
                        _put(image, keep, len(report.first))
                if len(seen) >= wanted:
                    break
        report.different = len(disks)
    report.seconds = time.process_time() - began
    return report


def _put(image: Image, keep: Path | None, number: int) -> None:
    if keep is None:
        return
    for name, data in image.items():
        path = keep / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def told(plan: str, report: Report) -> Sequence[str]:
    """What there is to say of it, in lines."""
    lines = [
        f"{plan}: {report.states:,} states ({report.different:,} different disks) at {report.moments:,} moments, "
        f"{report.whole_runs:,} whole runs, {report.problems.total():,} broken promises, {report.seconds:.0f} s of CPU"
    ]
    return lines + [
        f"    {times:,} times {kind}; first {report.first[kind]}" for kind, times in report.problems.items()
    ]
