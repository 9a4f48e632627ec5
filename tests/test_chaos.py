"""A small round of `python -m tests.chaos`, and proof that it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisolution_async import Tally
from aisolution_async.charges import Charge
from aisolution_async.sandbox.faults import KINDS

from .chaos import Noted, Run, Told, one_run
from .support import LAST_RESORT


@pytest.mark.no_cover
@pytest.mark.parametrize("calls", [600, pytest.param(1500, marks=pytest.mark.long)])
async def test_everything_goes_wrong_and_everything_adds_up(tmp_path: Path, calls: int) -> None:
    """`python -m tests.chaos 100000` asks a hundred thousand calls."""
    summary = await one_run(tmp_path, calls=calls, seed=1, timeout=10, patience=LAST_RESORT)
    assert summary.hits.keys() == KINDS.keys()
    assert all(summary.hits.values())
    assert sum(summary.ended.values()) == calls
    charged, free, unknown = summary.charges
    assert min(charged, free, unknown) > calls // 8
    assert summary.again.keys() == {"answered", "held", "sent"}


def noted(
    key: int, endpoint: str, *, charged: bool = True, fault: str | None = None, delivered: bool = True
) -> dict[int, list[Noted]]:
    return {key: [Noted(key, endpoint, charged, "OK", 200, fault, delivered)]}


@pytest.mark.parametrize(
    ("how", "requests", "why"),
    [
        ("FaceComparison C answered", noted(0, "facecompare"), None),
        ("FaceComparison F answered", noted(0, "facecompare"), "call 0 is"),
        ("FaceMatches C answered", noted(0, "facecompare"), "call 0 is"),
        ("FaceComparison C answered", {}, "call 0 is"),
        ("FaceComparison C answered", noted(0, "facecompare", fault="reset-after", delivered=False), "call 0 is"),
        ("OutcomeUnknownError U open", noted(0, "facecompare", fault="reset-after", delivered=False), None),
        ("OutcomeUnknownError U open", {}, None),
        ("FaceComparison UC answered", noted(0, "facecompare"), "sent again"),
        ("FaceComparison - recorded", noted(0, "facecompare"), "call 0 was asked again"),
        ("", {}, "did not end"),
    ],
)
def test_what_is_not_as_it_must_be_is_noticed(how: str, requests: dict[int, list[Noted]], why: str | None) -> None:
    run = Run(range(1), 1)
    run.ended[0] = how
    if why is None:
        run.check(Told(requests, 0, 0, {}))
    else:
        with pytest.raises(AssertionError, match=why):
            run.check(Told(requests, 0, 0, {}))


def test_a_charge_that_is_on_one_side_only_is_noticed() -> None:
    run = Run(range(1), 1)
    run.ended[0] = "FaceComparison C answered"
    run.tally = Tally()
    run.tally.add("facecompare", Charge.CHARGED)
    ((line,),) = noted(0, "facecompare").values()
    assert run.add_up([line]) == (1, 0, 0)
    for wrong in ([], [line, line]):
        with pytest.raises(AssertionError):
            run.add_up(wrong)
