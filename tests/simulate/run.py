"""Many simulations one after the other, and the smallest plan that still breaks a law."""

from __future__ import annotations

import gc
import re
import time

from .plan import Plan, plan_of
from .world import World, simulating


def run(plan: Plan, *, tells: bool = False, store: str = "sqlite") -> tuple[list[str], list[str]]:
    """Carry a plan out: what it breaks, and its history."""
    with simulating(store):
        world = World(plan, tells=tells, store=store)
        return world.run(), world.history


def plan_at(seed: int, store: str) -> Plan:
    """The plan that a seed stands for, over a kind of store."""
    if store == "postgresql":
        from .server_shelf import shared_plan_of

        return shared_plan_of(seed)
    return plan_of(seed)


def run_range(
    seeds: range, store: str = "sqlite", *, until_broken: bool = False
) -> tuple[int, int, float, list[tuple[int, list[str]]]]:
    """Run these: how many, how many events there were, the seconds of CPU, and the seeds that break a law."""
    start, done, events = time.process_time(), 0, 0
    bad: list[tuple[int, list[str]]] = []
    gc.collect()
    gc.freeze()  # what is there now stays, and need not be looked at again and again
    gc.disable()
    with simulating(store):
        for seed in seeds:
            world = World(plan_at(seed, store), store=store)
            if broken := world.run():
                bad.append((seed, broken))
            done, events = done + 1, events + world.events
            if bad and until_broken:
                break
            if seed % 20 == 0:
                gc.collect()
    gc.enable()
    return done, events, time.process_time() - start, bad


def shrink(plan: Plan, broken: list[str], store: str = "sqlite") -> tuple[Plan, list[str], list[str]]:
    """The smallest plan that breaks the same law, what it breaks, and its history."""
    wanted = _law(broken)
    goes_on = True
    while goes_on:
        goes_on = False
        for smaller in plan.smaller():
            found, _ = run(smaller, store=store)
            if found and _law(found) == wanted:
                plan, goes_on = smaller, True
                break
    return plan, *run(plan, tells=True, store=store)


def _law(broken: list[str]) -> str:
    """Which law it is that is broken first, without what differs from plan to plan."""
    return re.sub(r"[0-9'\[\]]+|\(.*?\)|request|q\b", "", broken[0])[:60]
