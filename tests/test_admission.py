"""A single call's way past the batches: its turn in the pace, its place, and what both take of its deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aisolution_async import Retry
from aisolution_async.limits import Gate, Rate
from aisolution_async.retry import Course
from aisolution_async.sending.admission import enter
from aisolution_async.sending.shared import Shared

from .steps import Fallen
from .support import client_of, virtual


def shared_of(*, places: int | None = None, rate: float | None = None) -> Shared:
    shared = client_of(Fallen()).shared
    shared.gate, shared.rate = Gate(places), None if rate is None else Rate(rate)
    return shared


@virtual
async def test_with_nothing_in_its_way_it_goes_at_once() -> None:
    course = Course(Retry(), 10)
    assert await enter(shared_of(), course, 60) == ""
    assert course.left == 10


@virtual
async def test_its_turn_is_waited_for_and_counts_against_its_deadline() -> None:
    shared, began = shared_of(rate=0.25), asyncio.get_running_loop().time()
    courses = [Course(Retry(), 10) for _ in range(3)]
    for course in courses:
        assert await enter(shared, course, 60) == ""
    assert asyncio.get_running_loop().time() - began == pytest.approx(8, abs=0.1)
    assert [course.left for course in courses] == [pytest.approx(left, abs=0.1) for left in (10, 6, 6)]


@virtual
async def test_a_turn_that_comes_too_late_is_not_taken() -> None:
    shared = shared_of(rate=0.25)
    assert await enter(shared, Course(Retry(), 10), 60) == ""
    pause = shared.rate.wait(asyncio.get_running_loop().time()) if shared.rate is not None else 0.0
    assert pause > 0
    for left in (pause, pause / 2):
        assert "the rate leaves no time" in await enter(shared, Course(Retry(), left), 60)
    began = asyncio.get_running_loop().time()
    assert await enter(shared, Course(Retry(), 2 * pause), 60) == ""  # it is the next one's
    assert asyncio.get_running_loop().time() - began == pytest.approx(pause)


@pytest.mark.parametrize(("patience", "deadline", "waits"), [(5, 10, 5), (10, 5, 5), (None, 7, 7), (3, None, 3)])
@virtual
async def test_a_place_is_waited_for_as_long_as_both_allow(patience: Any, deadline: Any, waits: float) -> None:
    shared, began = shared_of(places=1), asyncio.get_running_loop().time()
    assert await enter(shared, Course(Retry(), None), None) == ""
    assert await enter(shared, Course(Retry(), deadline), patience) == "no free connection in time"
    assert asyncio.get_running_loop().time() - began == pytest.approx(waits)
    shared.gate.leave()
    assert shared.gate.try_enter()


@virtual
async def test_the_wait_for_a_place_counts_against_its_deadline() -> None:
    shared, course = shared_of(places=1), Course(Retry(), 10)
    assert await enter(shared, Course(Retry(), None), None) == ""
    waiting = asyncio.create_task(enter(shared, course, 60))
    await asyncio.sleep(4)
    shared.gate.leave()
    assert await waiting == ""
    assert course.left == pytest.approx(6)
    assert not shared.gate.try_enter()  # it is taken


@virtual
async def test_cancelled_while_it_waits_it_takes_no_place() -> None:
    shared = shared_of(places=1)
    assert await enter(shared, Course(Retry(), None), None) == ""
    waiting = asyncio.create_task(enter(shared, Course(Retry(), None), None))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait({waiting})
    shared.gate.leave()
    assert shared.gate.try_enter()
