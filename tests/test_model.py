"""The protocol of claim, hold, callback, budget and lease, tried in every order of its steps: `model/claim.pml`.

Spin makes a program of the model, which looks at every state that can be reached. Two callers, a callback, a crash and
a person who settles reach 630,000 states (280,000 with a budget of one charge), two with leases 1.4 million (19 million
with a callback), and three without a callback and two crashes 3.2 million.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "model" / "claim.pml"
TIGHT, WIDE, SHARED = ("CALLERS=2", "BUDGET=1"), ("CALLERS=2",), ("CALLERS=2", "CALLS_BACK=0", "SHARED=1")
MANY = ("CALLS_BACK=0",)

pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin and gcc are not there: apt-get install spin gcc"
)


def search(folder: Path, *settings: str) -> tuple[str, int]:
    """The first promise that is broken, or nothing, and how many states there are until then."""
    options = [f"-D{setting}" for setting in settings]
    for command in (  # to optimize takes longer than it saves
        ["spin", "-a", *options, str(MODEL)],
        ["gcc", "-O0", "-w", "-DSAFETY", "-DCOLLAPSE", "-opan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    said = subprocess.run(["./pan", "-m200000"], cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "max search depth too small" not in said
    states = re.search(r"(\d+) states, stored", said)
    assert states is not None, said
    broken = re.search(r"pan:1: (.*) \(at depth", said)
    assert (broken is None) is ("errors: 0" in said)
    return ("" if broken is None else broken[1]), int(states[1])


@pytest.mark.parametrize(("settings", "least"), [(TIGHT, 200_000), (SHARED, 20_000)], ids=["callbacks", "shared"])
def test_every_promise_holds(tmp_path: Path, settings: tuple[str, ...], least: int) -> None:
    broken, states = search(tmp_path, *settings)
    assert not broken
    assert least < states < 2_000_000


@pytest.mark.parametrize(
    ("wrong", "settings"),
    [
        ("LOOK_FIRST", SHARED),
        ("TAKE_OVER", SHARED),
        ("GIVEN_TWICE", SHARED),
        ("SEND_FIRST", TIGHT),
        ("DIED_FREE", TIGHT),
        ("CANCELLED_FREE", TIGHT),
        ("LENT_AWAY", TIGHT),
        ("NOT_SET_ASIDE", TIGHT),
        ("COUNTED_TWICE", TIGHT),
        ("FREE_LIFTS", WIDE),
        ("CALLED_BACK_TWICE", WIDE),
        ("WAIVED", MANY),
    ],
)
def test_a_wrong_edit_is_found(tmp_path: Path, wrong: str, settings: tuple[str, ...]) -> None:
    assert search(tmp_path, *settings, f"{wrong}=1")[0].startswith("assertion violated")
