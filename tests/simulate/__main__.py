"""See the package."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run one, and print its history and its smallest form")
    parser.add_argument("--seeds", metavar="A..B", help="run those from A to B - 1")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite", help="what the ledgers are in")
    parser.add_argument("--plant", metavar="NAME", help="with this bug of tests/simulate/planted.py")
    parser.add_argument("--all", action="store_true", help="do not end at the first seed that breaks a law")
    parser.add_argument("--no-shrinking", action="store_true")
    options = parser.parse_args()
    if options.plant:
        if options.store == "postgresql":
            from .planted_shared import plant
        else:
            from .planted import plant
        plant(options.plant)
    if options.store == "postgresql":
        from .server_shelf import start

        start()
    if options.seed is not None:
        return _show(options.seed, options.store, shrinks=not options.no_shrinking)
    first, _, last = (options.seeds or "0..1000").partition("..")
    return _run_many(int(first), int(last), options)


def _show(seed: int, store: str, *, shrinks: bool) -> int:
    from .run import plan_at, run, shrink

    plan = plan_at(seed, store)
    broken, history = run(plan, tells=True, store=store)
    print("\n".join(history))
    if not broken:
        print(f"seed {seed}: every law holds")
        return 0
    if shrinks:
        plan, broken, history = shrink(plan, broken, store)
        print("-" * 80, *history, plan, sep="\n")
    print(f"seed {seed} breaks:", *broken, sep="\n  ")
    return 1


def _run_many(first: int, last: int, options: argparse.Namespace) -> int:
    from .run import run_range

    start, cpu = time.time(), time.process_time()
    step = 500
    ranges = [range(at, min(at + step, last)) for at in range(first, last, step)]
    work = partial(run_range, store=options.store, until_broken=not options.all)
    done = events = told = 0
    failed: list[tuple[int, list[str]]] = []
    with ProcessPoolExecutor(options.jobs) if options.jobs > 1 else _Here() as pool:
        spent = 0.0
        for count, seen, seconds, bad in pool.map(work, ranges):
            done, events, spent = done + count, events + seen, spent + seconds
            failed += bad
            if (minutes := int((time.time() - start) / 60)) > told:
                told = minutes
                print(f"{minutes} min: {done} of {last - first} done, {len(failed)} broken", flush=True)
            for seed, broken in bad:
                print(f"seed {seed}: {'; '.join(broken)[:300]}", flush=True)
            if failed and not options.all:
                pool.shutdown(cancel_futures=True)
                break
    spent = spent if options.jobs > 1 else time.process_time() - cpu
    print(f"{done} schedules, {events} events, {len(failed)} broken, {spent:.1f} s of CPU, {time.time() - start:.1f} s")
    if failed:
        seed = failed[0][0]
        planted = f" --plant {options.plant}" if options.plant else ""
        print(f"python -m tests.simulate --store {options.store}{planted} --seed {seed}")
    return 1 if failed else 0


class _Here:
    """A pool of this process alone."""

    map = staticmethod(map)

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shutdown(self, **_: object) -> None:
        """There is nothing to end."""


if __name__ == "__main__":
    sys.exit(main())
