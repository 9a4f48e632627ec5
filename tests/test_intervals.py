"""From a sample to the whole: how often an interval holds what is true."""

from __future__ import annotations

import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async.bulk.intervals import Interval, interval


@pytest.mark.parametrize("whole", [1, 2, 3, 7, 19, 40])
def test_it_holds_for_every_true_count(whole: int) -> None:
    """Not by chance: with the probability of each sample that may be drawn."""
    for drawn in range(1, whole + 1):
        intervals = [interval(whole, drawn, having) for having in range(drawn + 1)]
        for true in range(whole + 1):
            possible = range(max(0, drawn - (whole - true)), min(drawn, true) + 1)
            ways = sum(
                comb(true, having) * comb(whole - true, drawn - having)
                for having in possible
                if intervals[having].low <= true <= intervals[having].high
            )
            assert ways / comb(whole, drawn) >= 0.95, (whole, drawn, true)


def test_it_holds_for_simulated_lists() -> None:
    """Of all sizes and mixes, with words that are rare or in each row, and samples from one row to all."""
    rng, held, lists = random.Random(14), 0, 2000
    for _ in range(lists):
        whole = round(10 ** rng.uniform(0, 5))
        true = min(whole, rng.choice([0, 1, whole, whole - 1, whole // 100, rng.randint(0, whole)]))
        drawn = rng.choice([1, whole, min(whole, round(10 ** rng.uniform(0, 3)))]) if whole < 2000 else 200
        having = sum(place < true for place in rng.sample(range(whole), drawn))
        found = interval(whole, drawn, having)
        held += found.low <= true <= found.high
    assert held >= 0.95 * lists


@given(st.data())
def test_it_is_in_order_and_possible(data: st.DataObject) -> None:
    whole = data.draw(st.integers(1, 3_000_000))
    drawn = data.draw(st.integers(1, min(whole, 50_000)))
    having = data.draw(st.integers(0, drawn))
    found = interval(whole, drawn, having)
    assert having <= found.low <= found.likely <= found.high <= whole - (drawn - having)
    # What has the property and what has it not come to the whole.
    others = interval(whole, drawn, drawn - having)
    assert (others.low, others.high) == (whole - found.high, whole - found.low)
    wider = interval(whole, drawn, having, 0.99)
    assert wider.low <= found.low
    assert found.high <= wider.high


def test_a_few_that_are_known() -> None:
    assert interval(1_000, 1_000, 17) == Interval(17, 17, 17)
    assert interval(1_000, 0, 0) == Interval(0, 0, 1_000)
    # Nearly the same as without an end: 0 to 3.6 of 100 (Clopper and Pearson).
    assert interval(1_000_000, 100, 0).high == pytest.approx(36_217, abs=20)
    with pytest.raises(ValueError, match="3 of 2 of 9 is no sample"):
        interval(9, 2, 3)
