"""A call's way through its repeats: rounds, the deadline, what is forgiven. Nothing is sent here, and nobody waits."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import Charge, DeleteFace, Retry, WhatsAppDetail
from aisolution_async.api import Endpoint
from aisolution_async.charges import Attempt
from aisolution_async.retry import LONGEST_PAUSE, Course

from .steps import CHARGED, FREE, UNKNOWN, attempt_of

LOOK_UP: Endpoint[Any] = WhatsAppDetail.endpoint
DELETE: Endpoint[Any] = DeleteFace.endpoint  # idempotent


def again(course: Course, *charges: Charge, endpoint: Endpoint[Any] = LOOK_UP, **how: Any) -> float | None:
    """What follows the last of these attempts."""
    attempts = [attempt_of(charge) for charge in charges]
    return course.again(endpoint, attempts, **{"repeatable": True, "asked": None, "left": math.inf, **how})


def course_of(deadline: float | None = None, **retry: Any) -> Course:
    return Course(Retry(**{"first": 1.0, "longest": 1.0, **retry}), deadline)


# --------------------------------------------------------------------------------------------- how often


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_free_attempt_that_may_pass_is_repeated_as_often_as_allowed(most: int) -> None:
    course = course_of(max_retries=most)
    for number in range(1, most + 1):
        assert again(course, *[FREE] * number) is not None
    assert again(course, *[FREE] * (most + 1)) is None


def test_what_will_not_pass_is_not_repeated() -> None:
    assert again(course_of(), FREE, repeatable=False) is None


def test_what_was_charged_is_never_repeated() -> None:
    for endpoint in (LOOK_UP, DELETE):
        for repeatable in (True, False):
            course = course_of(unknown=9)
            assert again(course, FREE, CHARGED, endpoint=endpoint, repeatable=repeatable, forgiven=True) is None


@pytest.mark.parametrize("most", [0, 1, 2])
def test_an_unknown_attempt_is_repeated_as_often_as_somebody_says(most: int) -> None:
    course = course_of(unknown=most)
    for number in range(1, most + 1):
        # Whether it may pass, nobody knows of it.
        assert again(course, *[UNKNOWN] * number, repeatable=False) is not None
    assert again(course, *[UNKNOWN] * (most + 1)) is None
    assert again(course, *[UNKNOWN] * (most + 1), FREE) is not None  # the newest was free; the ledger asks about holds


def test_unknown_attempts_count_over_all_rounds_and_free_ones_in_theirs() -> None:
    course = course_of(max_retries=1, unknown=1)
    assert again(course, FREE) is not None
    assert again(course, FREE, FREE) is None
    course.start_round(2)
    assert again(course, FREE, FREE, FREE) is not None
    assert again(course, FREE, FREE, FREE, FREE) is None
    course = course_of(unknown=1)
    assert again(course, UNKNOWN) is not None
    course.start_round(1)
    assert again(course, UNKNOWN, UNKNOWN) is None


def test_deleting_is_repeated_unasked_where_nobody_knows() -> None:
    course = course_of(max_retries=2)
    assert again(course, UNKNOWN, UNKNOWN, endpoint=DELETE) is not None
    assert again(course, UNKNOWN, UNKNOWN, UNKNOWN, endpoint=DELETE) is None
    assert again(course_of(max_retries=0, unknown=1), UNKNOWN, endpoint=DELETE) is not None


def test_a_trial_uses_up_no_repeat() -> None:
    course = course_of(max_retries=1)
    charges = [FREE]
    for _ in range(50):
        assert again(course, *charges, forgiven=True) is not None
        charges.append(FREE)
    assert again(course, *charges) is not None  # the first that counts
    assert again(course, *charges, FREE) is None


@pytest.mark.parametrize(("charge", "repeatable"), [(FREE, False), (UNKNOWN, True), (CHARGED, True)])
def test_a_trial_is_forgiven_only_where_it_was_free_and_may_pass(charge: Charge, repeatable: bool) -> None:
    course = course_of(max_retries=0)
    assert again(course, charge, repeatable=repeatable, forgiven=True) is None
    assert course.is_repeat(1)  # nothing was forgiven


def test_what_is_a_repeat() -> None:
    course = course_of()
    assert not course.is_repeat(0)
    assert course.is_repeat(1)
    course.start_round(1)
    assert not course.is_repeat(1)
    assert course.is_repeat(2)
    again(course, FREE, FREE, forgiven=True)
    assert not course.is_repeat(2)


# ------------------------------------------------------------------------------------------------ how long


def test_the_waits_grow_in_a_round_and_begin_anew_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backoff.full_jitter", lambda longest: longest)
    course = course_of(first=0.5, longest=3.0, max_retries=99)
    assert [again(course, FREE) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    course.start_round(0)
    assert again(course, FREE) == 0.5


def test_what_the_server_asks_for_comes_first_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backoff.full_jitter", lambda longest: longest)
    assert again(course_of(), FREE, asked=30.0) == 31.0
    assert again(course_of(), FREE, asked=1e9) == LONGEST_PAUSE + 1.0


def test_a_wait_past_the_deadline_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backoff.full_jitter", lambda longest: longest)
    assert again(course_of(), FREE, asked=10.0, left=10.0) is None
    assert again(course_of(), FREE, asked=1e9, left=700.0) is None  # though it would be cut to less
    assert again(course_of(), FREE, asked=9.5, left=10.0) == 9.5  # without what comes on top
    assert again(course_of(), FREE, asked=9.0, left=10.1) == 10.0
    assert again(course_of(), FREE, left=0.5) == 0.0
    assert again(course_of(), FREE, left=0.0) is None
    assert again(course_of(), FREE, left=-1.0) is None


def test_the_deadline_is_of_the_round() -> None:
    course = course_of(10.0)
    assert (course.left, course.ends(100.0)) == (10.0, 110.0)
    course.spend(4.0)
    assert (course.left, course.ends(100.0)) == (6.0, 106.0)
    course.spend(7.0)
    assert course.left == -1.0
    course.start_round(3)
    assert course.left == 10.0
    endless = course_of(None)
    endless.spend(1e9)
    assert (endless.left, endless.ends(5.0)) == (math.inf, None)


# ------------------------------------------------------------------------------------- against a model of it


class Model:
    """The same, counted by hand."""

    def __init__(self, most: int, unknown: int, *, idempotent: bool) -> None:
        self.most, self.unknown = most, max(most, unknown) if idempotent else unknown
        self.free = self.lost = 0  # in this round; in all

    def allows(self, charge: Charge, *, repeatable: bool, forgiven: bool) -> bool:
        if charge is UNKNOWN:
            self.lost += 1
            return self.lost <= self.unknown
        if charge is CHARGED:
            return False
        self.free += 1
        if forgiven and repeatable:
            self.free = 0
            return True
        return repeatable and self.free <= self.most


attempts = st.tuples(
    st.sampled_from([FREE, FREE, FREE, UNKNOWN, CHARGED]),
    st.booleans(),  # may it pass?
    st.none() | st.floats(0, 2000),  # Retry-After
    st.floats(-1, 2000) | st.just(math.inf),  # what is left
    st.booleans(),  # is it a trial?
)


@given(
    st.lists(attempts | st.just(None), max_size=20),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([LOOK_UP, DELETE]),
)
def test_it_is_its_model(steps: list[Any], most: int, unknown: int, endpoint: Endpoint[Any]) -> None:
    course, model = course_of(max_retries=most, unknown=unknown), Model(most, unknown, idempotent=endpoint.idempotent)
    made: list[Attempt] = []
    for step in steps:
        if step is None:
            course.start_round(len(made))
            model.free = 0
            continue
        charge, repeatable, asked, left, forgiven = step
        made.append(attempt_of(charge))
        wait = course.again(endpoint, made, repeatable=repeatable, asked=asked, left=left, forgiven=forgiven)
        if not model.allows(charge, repeatable=repeatable, forgiven=forgiven) or (asked or 0.0) >= left:
            assert wait is None
            continue
        assert wait is not None
        assert wait < left
        asked = asked or 0.0
        assert wait == asked or min(asked, LONGEST_PAUSE) <= wait <= min(asked, LONGEST_PAUSE) + 1.0
