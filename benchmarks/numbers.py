"""The numbers that are looked up: as many as are wanted, no two the same, and no two that follow one another alike."""

from __future__ import annotations

_STRIDE, _ALL = 617_283_947, 10**9  # without a common divisor: each number comes once before any comes again


def number_of(place: int) -> str:
    """The number at that place of the row."""
    return f"+6281{place * _STRIDE % _ALL:09}"
