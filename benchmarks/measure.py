"""One measurement of one peer, in this process: `python -m benchmarks.measure '{...}'` prints the figures as JSON."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.numbers import number_of
from benchmarks.peers import PEERS, Job, Setting
from benchmarks.server import loop_factory, settle

_TICK = 0.001


class Stalls:
    """The longest time that the loop kept a task waiting which had slept enough.

    Only as far as this process was computing meanwhile: what the machine did for others is not the peer's.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(_TICK)
            late = time.perf_counter() - wall - _TICK
            self.longest = max(self.longest, min(late, time.process_time() - cpu))


def jobs(images: list[str]) -> Iterator[Job]:
    """Calls of which no two ask the same, as our batch would ask that only once."""
    if images:
        yield from itertools.permutations(images, 2)
    else:
        for place in itertools.count():
            yield (number_of(place),)


def peak_megabytes() -> float:
    """The most memory that this process ever held."""
    try:
        # Linux counts into `ru_maxrss` what the process that started this one held.
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def cpu_of(pid: int) -> float:
    """Seconds of CPU that another process has used; 0 where the system does not say."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def busy(core: int | None) -> float:
    """Seconds that a core has worked for anybody; 0 where the system does not say."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    user, nice, system, *_ = next((line.split()[1:] for line in lines if line.startswith(f"cpu{core} ")), ("0",) * 3)
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


async def measure(spec: dict[str, Any]) -> dict[str, float]:
    """Open the peer, warm it up, and make the calls that count."""
    setting = Setting(spec["base_url"], bool(spec["images"]), spec["at_once"], spec["cafile"])
    endless = jobs(spec["images"])
    async with PEERS[spec["peer"]].open(setting) as run:
        await run(list(itertools.islice(endless, spec["warm_up"])))
        mine = list(itertools.islice(endless, spec["calls"]))
        gc.collect()
        stalls = Stalls()
        watcher = asyncio.create_task(stalls.watch())
        await asyncio.sleep(2 * _TICK)
        server, core = cpu_of(spec["server"]), busy(spec["core"])
        cpu, wall = time.process_time(), time.perf_counter()
        answered = await run(mine)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        server, core = cpu_of(spec["server"]) - server, busy(spec["core"]) - core
        memory = peak_megabytes()
        await asyncio.sleep(2 * _TICK)  # the watcher sees the end
        watcher.cancel()
    if answered != len(mine):
        raise RuntimeError(f"{len(mine) - answered} of {len(mine)} calls failed")
    return {
        "cpu": 1000 * cpu / len(mine),
        "rate": len(mine) / wall,
        "memory": memory,
        "stall": 1000 * stalls.longest,
        "server": 100 * server / wall,
        "disturbed": max(0.0, 100 * (core - cpu) / wall),
    }


def main() -> None:
    spec = json.loads(sys.argv[1])
    settle(spec["core"])
    result: dict[str, Any]
    with asyncio.Runner(loop_factory=loop_factory(spec["loop"])) as runner:
        try:
            result = runner.run(measure(spec))
        except Exception as exc:  # a figure like any other: it goes into the table
            result = {"error": f"{type(exc).__name__}", "details": str(exc)[:500]}
        print(json.dumps(result), flush=True)
        # What a failed peer left behind may take minutes to cancel.
        os._exit(0)


if __name__ == "__main__":
    main()
