"""Percentiles of durations that are counted in buckets, each about 1.6 % wide: 64 for every doubling.

A duration in microseconds below 128 is its own bucket; of a longer one, the first seven bits are kept. The middle of a
bucket is within 0.8 % of all that is in it. As in an HDR histogram, counts of buckets can be added up.
"""

from __future__ import annotations

from collections.abc import Mapping

from aisolution_async.bulk.report.figures import Percentiles

BITS = 12
"""Of a bucket's number."""

_LARGEST = 30  # bits that are dropped: 2 ** 37 microseconds are more than a day
_SHARES = (50, 90, 99, 100)


def bucket_in_sql(micros: str) -> str:
    """The number of the bucket of an expression, from 0, as SQL has it: a few comparisons, and no logarithm."""

    def among(fewest: int, most: int) -> str:
        if fewest == most:
            return f"{64 * fewest} + ({micros} >> {fewest})"
        half = (fewest + most) // 2
        return f"CASE WHEN {micros} < {1 << (half + 7)} THEN {among(fewest, half)} ELSE {among(half + 1, most)} END"

    return among(0, _LARGEST)


def middle(bucket: int) -> float:
    """What stands for all durations in a bucket, in microseconds."""
    if bucket < 128:
        return bucket
    dropped = bucket // 64 - 1
    return (bucket - 64 * dropped + 0.5) * (1 << dropped)


def percentiles(counts: Mapping[int, int]) -> Percentiles:
    """Of the durations in these buckets: of the nearest rank, in seconds, true to 1 %."""
    total = sum(counts.values())
    # The nearest ranks, from 1.
    ranks = [-(-share * total // 100) for share in _SHARES]
    found: list[float] = []
    below = 0
    for bucket in sorted(counts):
        below += counts[bucket]
        while len(found) < len(ranks) and below >= ranks[len(found)]:
            found.append(middle(bucket) / 1e6)
    return Percentiles(total, *found)
