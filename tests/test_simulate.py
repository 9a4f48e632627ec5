"""The money rule under simulated schedules: see `tests/simulate`. A part of it here, and all of it in the long tests.

Where a seed fails, `python -m tests.simulate --seed SEED` tells its history, and makes it small.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .simulate.laws import Laws
from .simulate.plan import Behaviour, ClientPlan, Job, Plan, Strike, plan_of
from .simulate.planted import BUGS, MOST_SEEDS, ROOT, check, seeds_until_found
from .simulate.run import run, run_range, shrink

QUICKLY_FOUND = (
    "one unknown attempt too many is passed",
    "an answer is never used again",
    "one charge over the ledger's limit",
)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 100), *(pytest.param(*seeds, marks=pytest.mark.long) for seeds in ((100, 400), (500, 500), (1000, 1000)))],
)
def test_every_law_holds(first: int, count: int) -> None:
    _, events, _, broken = run_range(range(first, first + count))
    assert broken == []
    assert events > 40 * count


@pytest.mark.parametrize(
    "seed",
    [
        693,
        5065,
        6533,
        8010,
        24365,
        28870,
        32310,
        2000293,
        3001637,
        3012294,
        3013661,
        3019975,
        3004746,
        3009251,
        3111990,
        3111992,
        3121001,
        3130119,
        3205935,
        3216723,
        3219539,
        3220899,
        3225806,
        3131367,
        10016995,
        10031569,
        10034840,
        10063122,
        10059354,
        200074475,
        200520951,
        200557667,
        300081446,
        300512950,
        300577701,
        300642738,
        300319797,
    ],
)
def test_a_law_that_was_broken_once_holds(seed: int) -> None:
    """A callback that comes while the end of its own request is being recorded, among others."""
    assert run(plan_of(seed))[0] == []


def test_every_bug_can_be_planted() -> None:
    for bug in BUGS.values():
        compile(check(bug), bug.file, "exec")
    assert len(BUGS) >= 40
    assert len({*BUGS.values()}) == len(BUGS)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", QUICKLY_FOUND)
def test_a_bug_is_found(name: str) -> None:
    seeds, what = seeds_until_found(name, 300)
    assert seeds is not None
    assert what


@pytest.mark.no_cover
def test_a_seed_has_one_history() -> None:
    """In every process, whatever came before."""
    here = [run(plan_of(seed), tells=True)[1] for seed in (5, 11, 23)]
    assert here == [run(plan_of(seed), tells=True)[1] for seed in (5, 11, 23)]
    for seed, history, hash_seed in zip((5, 11), here, "12", strict=False):
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulate", "--seed", str(seed)],
            cwd=ROOT.parent,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.splitlines() == [*history, f"seed {seed}: every law holds"]


def test_what_breaks_a_law_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the law is that nothing is ever called back."""
    monkeypatch.setattr(Laws, "callbacks_counted", lambda laws, *_: laws.hold(False, "a callback came") or 0)
    behaviour = Behaviour("checking", 0.02, callbacks=((0.5, "yes"), (0.7, "no")))
    jobs = (Job(1, 0.0, "send", (0,)), Job(0, 1.0, "wait", (1,)), Job(0, 1.5, "batch", (0, 1), ordered=True))
    strikes = (Strike(3, 1, "jump", 0, 10.0), Strike(90, 1, "crash", 1))
    plan = Plan(
        1, clients=(ClientPlan(max_retries=2), ClientPlan()), jobs=jobs, does=((1, 0, behaviour),), strikes=strikes
    )
    broken, _ = run(plan)
    assert broken
    small, broken, history = shrink(plan, broken)
    assert (small.jobs, small.strikes) == ((Job(0, 1.0, "wait", (1,)),), ())
    assert small.clients == (ClientPlan(), ClientPlan())
    assert broken
    assert any("BROKEN: a callback came" in line for line in history)


@pytest.mark.long
def test_every_law_holds_for_very_many() -> None:
    broken = [found for first in range(0, 100_000, 1000) for found in run_range(range(first, first + 1000))[3]]
    assert broken == []


@pytest.mark.long
@pytest.mark.parametrize("name", BUGS)
def test_every_bug_is_found(name: str) -> None:
    seeds, _ = seeds_until_found(name, MOST_SEEDS)
    assert seeds is not None
