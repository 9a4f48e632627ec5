"""The protocol of claim, hold, callback, budget and lease, tried in every order of its steps: `model/claim.pml`.

Spin makes a program of the model, which looks at every state that can be reached. Two callers, a callback, a crash and
a person who settles reach 740,000 states (360,000 with a budget of one charge), two with leases 1.6 million
(730,000).
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "model" / "claim.pml"
TIGHT, WIDE, SHARED = ("CALLERS=2", "BUDGET=1"), ("CALLERS=2",), ("CALLERS=2", "CALLS_BACK=0", "SHARED=1")
LENT = (*SHARED, "BUDGET=1")
MANY = ("CALLS_BACK=0",)
EDITS = dict(
    re.findall(r"^#define (\w+) +\(c_expr { wrong\[(\d+)\] }\)$", MODEL.read_text(encoding="utf-8"), re.MULTILINE)
)

pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin and gcc are not there: apt-get install spin gcc"
)


@pytest.fixture(scope="module")
def program_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The program that looks at all of a model, made once for all that is looked for with these settings."""

    @functools.cache
    def made(*settings: str) -> Path:
        folder = tmp_path_factory.mktemp("model")
        options = [f"-D{setting}" for setting in settings]
        for command in (  # to optimize takes longer than it saves
            ["spin", "-a", *options, str(MODEL)],
            ["gcc", "-O0", "-w", "-DSAFETY", "-opan", "pan.c"],
        ):
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return folder / "pan"

    return made


def search(program: Path, wrong: str = "") -> tuple[str, int]:
    """The first promise that is broken, or nothing, and how many states there are until then."""
    env = {**os.environ, "WRONG": EDITS[wrong]} if wrong else None
    said = subprocess.run(
        [program, "-m200000"], cwd=program.parent, env=env, check=True, capture_output=True, text=True
    ).stdout
    assert "max search depth too small" not in said
    states = re.search(r"(\d+) states, stored", said)
    assert states is not None, said
    broken = re.search(r"pan:1: (.*) \(at depth", said)
    assert (broken is None) is ("errors: 0" in said)
    return ("" if broken is None else broken[1]), int(states[1])


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        pytest.param(TIGHT, 200_000, id="callbacks"),
        pytest.param(LENT, 200_000, id="shared, one charge"),
        pytest.param(WIDE, 200_000, id="callbacks, two charges", marks=pytest.mark.long),
        pytest.param(SHARED, 200_000, id="shared", marks=pytest.mark.long),
    ],
)
def test_every_promise_holds(program_of: Callable[..., Path], settings: tuple[str, ...], least: int) -> None:
    broken, states = search(program_of(*settings))
    assert not broken
    assert least < states < 2_000_000


@pytest.mark.parametrize(
    ("wrong", "settings"),
    [
        ("LOOK_FIRST", LENT),
        ("TAKE_OVER", LENT),
        ("GIVEN_TWICE", LENT),
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
def test_a_wrong_edit_is_found(program_of: Callable[..., Path], wrong: str, settings: tuple[str, ...]) -> None:
    assert search(program_of(*settings), wrong)[0].startswith("assertion violated")
