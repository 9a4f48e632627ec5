"""A small part of `python -m tests.crash_replay`, which see; and that it finds what is wrong."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from .crash_replay.disk import ROOT, SECTOR, Disk
from .crash_replay.programs import PLANS
from .crash_replay.replay import Recording, moments, record, replay
from .crash_replay.trace import STRACE, UnclearError

# At every so many moments the power goes; more often in the long tests.
DAILY = {"batch": 12, "book": 6, "bulk": 6, "anew": 6}

needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not there: apt-get install strace")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recording]:
    """A plan, which is watched once for all tests; again where it was not clear what happened."""

    def watched(plan: str) -> Recording:
        for _ in range(4):
            recording = asyncio.run(record(plan, tmp_path_factory.mktemp(plan)))
            with suppress(UnclearError):
                for _ in moments(recording, lambda _: False):
                    pass
                return recording
        pytest.fail("what was followed is not what happened, four times")

    return functools.cache(watched)


@pytest.mark.no_cover
@needs_strace
@pytest.mark.parametrize(
    ("plan", "every"),
    [
        *DAILY.items(),
        *(pytest.param(plan, every, marks=pytest.mark.long) for plan in PLANS if plan != "control" for every in (3, 1)),
    ],
)
def test_no_loss_of_power_breaks_a_promise(recorded: Callable[[str], Recording], plan: str, every: int) -> None:
    recording = recorded(plan)
    report = replay(recording, 160 // every, every=every, whole_every=20)
    assert not report.problems, report.first
    assert report.moments > 40 // every
    assert report.states > 100 // every
    assert report.whole_runs


@pytest.mark.no_cover
@needs_strace
def test_a_ledger_that_does_not_sync_is_found_out(recorded: Callable[[str], Recording]) -> None:
    recording = recorded("control")
    report = replay(recording, 60)
    assert report.problems  # in how many states depends on how many calls were written together


@needs_strace
@pytest.mark.parametrize(
    ("without", "problem"),
    [
        (lambda name: name.endswith("-wal"), "would be paid for again"),
        (lambda name: name == ".", "would be paid for again|was told to be there"),
        (lambda name: name.startswith("out.csv"), "neither what it was nor what it was to be"),
        (lambda name: name.startswith("err.csv.of"), "cannot be read|neither what it was"),
    ],
    ids=["the log", "the folder", "the output", "the note"],
)
def test_a_sync_that_is_missing_is_found_out(
    recorded: Callable[[str], Recording], without: Callable[[str], bool], problem: str
) -> None:
    recording = recorded("bulk")
    report = replay(recording, 100, every=2, without=without)
    assert any(word in first for word in problem.split("|") for first in report.first.values()), report.first


# ------------------------------------------------------------------------------------------------------- the disk


def images(disk: Disk) -> set[tuple[tuple[str, bytes], ...]]:
    return {tuple(sorted(image.items())) for image in disk.images(random.Random(1), 1000)}


def test_a_disk_keeps_what_was_synced_and_any_part_of_the_rest() -> None:
    disk = Disk()
    node = disk.make(ROOT, "a")
    disk.write(node, 0, b"x" * SECTOR * 2)
    assert images(disk) == {
        (),
        (("a", b""),),
        *((("a", one * SECTOR + other * SECTOR),) for one in (b"x", b"\0") for other in (b"x", b"\0")),
    }
    disk.sync(node, disk.mark())
    assert images(disk) == {(), (("a", b"x" * SECTOR * 2),)}
    disk.sync(ROOT, disk.mark())
    disk.move((ROOT, "a"), (ROOT, "b"), node)
    assert images(disk) == {(("a", b"x" * SECTOR * 2),), (("b", b"x" * SECTOR * 2),)}


def test_a_sector_is_as_it_was_at_one_moment() -> None:
    disk = Disk()
    node = disk.make(ROOT, "a")
    disk.sync(ROOT, disk.mark())
    disk.write(node, 0, b"one")
    disk.write(node, 3, b"two")
    found = {dict(image)["a"] for image in images(disk)}
    assert found == {b"", bytes(3), b"one", bytes(6), b"one" + bytes(3), b"onetwo"}


def test_what_was_cut_off_does_not_come_back_where_a_file_grows_again() -> None:
    disk = Disk()
    node = disk.make(ROOT, "a")
    disk.write(node, 0, b"old")
    for each in (node, ROOT):
        disk.sync(each, disk.mark())
    disk.cut(node, 0)
    disk.write(node, 0, b"new")
    assert {dict(image)["a"] for image in images(disk)} == {b"old", b"", bytes(3), b"new"}
