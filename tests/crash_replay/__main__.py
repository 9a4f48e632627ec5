"""See the package."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from .programs import PLANS
from .replay import record, replay, told
from .trace import STRACE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash_replay")
    parser.add_argument("--states", type=int, default=100_000, help="how many in all  [100000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", action="append", choices=PLANS, help="may be repeated  [all]")
    parser.add_argument("--whole-every", type=int, default=50, help="of how many states one has a whole run  [50]")
    parser.add_argument("--keep", type=Path, help="put the first disk of each kind of problem there")
    given = parser.parse_args()
    if STRACE is None:
        sys.exit("strace is not there, which sees what programs do: apt-get install strace")
    plans = given.plan or list(PLANS)
    failed = False
    for plan in plans:
        # The control fails at once, and again and again.
        states = min(given.states, 1000) if plan == "control" else given.states // max(1, len({*plans} - {"control"}))
        with tempfile.TemporaryDirectory() as place:
            recording = asyncio.run(record(plan, Path(place)))
            keep = given.keep and given.keep / plan
            report = replay(recording, states, seed=given.seed, whole_every=given.whole_every, keep=keep)
        print("\n".join(told(plan, report)), flush=True)
        failed |= bool(report.problems) is not (plan == "control")
    if failed:
        sys.exit("promises were broken, or the control's were not")


if __name__ == "__main__":
    main()
