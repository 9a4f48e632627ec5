"""From a sample to the whole list: between which numbers a count surely lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

CONFIDENCE = 0.95
"""An interval holds the true count in so many of all samples, at least."""

_NEGLIGIBLE = 1e-18


@dataclass(frozen=True, slots=True)
class Interval:
    """How many of a whole have some property: `likely` so many, and surely not fewer than `low` or more than `high`."""

    low: int
    likely: int
    high: int


def interval(whole: int, drawn: int, having: int, confidence: float = CONFIDENCE) -> Interval:
    """How many of `whole` have a property that `having` of the `drawn` have.

    Those were drawn at random, each at most once. The interval is exact (of Clopper and Pearson's kind, by the
    hypergeometric distribution): for any true count, it misses in at most 1 - `confidence` of all samples, so it holds
    for rare properties, small samples, and samples of nearly all.
    """
    if not 0 <= having <= drawn <= whole:
        raise ValueError(f"{having} of {drawn} of {whole} is no sample")
    if not drawn:
        return Interval(0, 0, whole)
    fewest, most, likely = having, whole - (drawn - having), round(having * whole / drawn)
    each = (1 - confidence) / 2
    # A count is ruled out from below where so many in the sample would be too rare, and from above where so few would.
    low = _first(fewest, likely, lambda count: _upper_tail(whole, count, drawn, having) > each)
    high = -_first(-most, -likely, lambda count: _lower_tail(whole, -count, drawn, having) > each)
    return Interval(low, likely, high)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number from `low` for which `holds`, which is so for `high` and stays so."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _lower_tail(whole: int, count: int, drawn: int, having: int) -> float:
    """How likely it is that `having` or fewer of those drawn have what `count` of the whole have."""
    return _upper_tail(whole, whole - count, drawn, drawn - having)


def _upper_tail(whole: int, count: int, drawn: int, having: int) -> float:
    """How likely it is that `having` or more of those drawn have what `count` of the whole have."""
    least, most = max(0, drawn - (whole - count)), min(drawn, count)
    if having <= least:
        return 1.0
    if having > most:
        return 0.0
    # From the likeliest outwards, the terms only fall: on the short side of it few of them have to be added.
    if having > (drawn + 1) * (count + 1) // (whole + 2):
        return _sum(whole, count, drawn, having, 1)
    return 1.0 - _sum(whole, count, drawn, having - 1, -1)


def _sum(whole: int, count: int, drawn: int, at: int, step: int) -> float:
    """The terms of the hypergeometric distribution from `at` on, upwards or downwards (`step`), while they matter."""
    rest = whole - count - drawn
    term = math.exp(_chosen(count, at) + _chosen(whole - count, drawn - at) - _chosen(whole, drawn))
    total = 0.0
    while term > _NEGLIGIBLE * (total or 1.0) or not total:
        total += term
        if step > 0:
            term *= (count - at) * (drawn - at) / ((at + 1) * (rest + at + 1))
        else:
            term *= at * (rest + at) / ((count - at + 1) * (drawn - at + 1))
        at += step
        if term <= 0.0:
            break
    return min(1.0, total)


def _chosen(of: int, some: int) -> float:
    """The logarithm of how many ways there are to choose `some` of `of`."""
    return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)
