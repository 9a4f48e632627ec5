"""A few of the answers and sheets that are nearly right: `python -m tests.fuzz` tries as many as one likes."""

from __future__ import annotations

from collections import Counter

import pytest

from . import fuzz


@pytest.mark.parametrize(("kind", "seeds"), [("answers", 2000), ("csv", 300), ("jsonl", 300), ("xlsx", 100)])
def test_what_is_nearly_right(kind: str, seeds: int) -> None:
    assert len(Counter(what for _, what in fuzz.run(kind, range(seeds)))) > 1
