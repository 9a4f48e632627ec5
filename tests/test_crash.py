"""A few quick rounds of `python -m tests.crash`, which see."""

from __future__ import annotations

import pytest

from .crash import KINDS, play


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("kind", "seed", "rows"),
    [
        ("two", 1, 100),
        ("files", 21, None),
        ("wal-left", 0, 80),
    ],
)
async def test_a_round(kind: str, seed: int, rows: int | None) -> None:
    """Where it fails, `python -m tests.crash 1 --kind KIND --seed SEED --rows ROWS` runs it again."""
    await play(kind, seed, rows)


def test_every_kind_is_told() -> None:
    """Somebody who reads the module's text knows all of them."""
    from . import crash

    for kind in KINDS:
        assert kind in (crash.__doc__ or "")
