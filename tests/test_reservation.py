"""One charge set aside in every budget, and whose it is: nothing leaks, whatever comes in whatever order."""

from __future__ import annotations

import asyncio
import io
import itertools
import math
import pickle
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aisolution_async import Charge
from aisolution_async.limits import Budget
from aisolution_async.sending.admission import Reservation
from aisolution_async.spending import Spending

from .steps import CHARGED, FREE, UNKNOWN
from .support import examples, virtual

NAME = "gliswadetail"


def budget_of(most: int, *, cost: bool = False) -> Budget:
    if cost:  # the same in money
        return Budget(Spending.of(None, {NAME: Decimal("0.5")}, Decimal("0.5") * most))
    return Budget(Spending.of(most, None, None))


def free_in(budget: Budget) -> int:
    """How many more charges it would set aside."""
    found = 0
    while not budget.reserve(NAME):
        found += 1
    for _ in range(found):
        budget.settle(NAME, FREE)
    return found


def made(reservation: Reservation, *charges: Charge, may_come: bool = False, overdue: bool = False) -> None:
    """An attempt from beginning to end."""
    assert reservation.take() == ""
    for charge in charges:
        reservation.spend(charge)
    reservation.attempt_over(may_come=may_come, overdue=overdue)


@pytest.mark.parametrize(("charge", "left"), [(FREE, 2), (UNKNOWN, 1), (CHARGED, 1)])
@pytest.mark.parametrize("cost", [False, True])
def test_what_was_free_goes_back_and_nothing_else(charge: Charge, left: int, cost: bool) -> None:
    budget = budget_of(2, cost=cost)
    reservation = Reservation((budget,), NAME)
    assert reservation.take() == ""
    assert free_in(budget) == 1
    reservation.spend(charge)
    reservation.attempt_over(may_come=False, overdue=False)
    assert free_in(budget) == left
    reservation.attempt_over(may_come=False, overdue=False)  # once
    reservation.release()
    assert free_in(budget) == left


def test_a_charge_is_set_aside_everywhere_or_nowhere() -> None:
    wide, narrow = budget_of(5), budget_of(0)
    for budgets in ((wide, narrow), (narrow, wide)):
        reservation = Reservation(budgets, NAME)
        assert "max_charges" in reservation.take()
        assert free_in(wide) == 5
        reservation.attempt_over(may_come=False, overdue=False)
        assert free_in(wide) == 5


@pytest.mark.parametrize(("called", "left"), [(CHARGED, 1), (UNKNOWN, 1), (FREE, 2)])
def test_a_free_attempt_leaves_its_charge_to_the_callback(called: Charge, left: int) -> None:
    budget = budget_of(2)
    reservation = Reservation((budget,), NAME)
    made(reservation, FREE, may_come=True)
    assert free_in(budget) == 1
    reservation.called_back(called)
    assert free_in(budget) == left
    reservation.release()
    assert free_in(budget) == left


@pytest.mark.parametrize(("attempt", "left"), [(UNKNOWN, 1), (CHARGED, 0)])
def test_a_callback_after_a_lost_attempt_is_charged_to_that(attempt: Charge, left: int) -> None:
    """After one that is charged, it is a charge of its own."""
    budget = budget_of(2)
    reservation = Reservation((budget,), NAME)
    made(reservation, attempt, may_come=True)
    assert free_in(budget) == 1
    reservation.called_back(CHARGED)
    assert free_in(budget) == left


def test_a_callback_that_nothing_was_set_aside_for_is_counted_if_it_was_charged() -> None:
    budget = budget_of(3)
    reservation = Reservation((budget,), NAME)
    reservation.called_back(FREE)
    assert free_in(budget) == 3
    reservation.called_back(CHARGED)
    assert free_in(budget) == 2
    made(reservation, UNKNOWN, may_come=True, overdue=True)  # this one asked for none
    reservation.called_back(CHARGED)
    assert free_in(budget) == 0
    budget = budget_of(3)
    reservation = Reservation((budget,), NAME)
    made(reservation, UNKNOWN, may_come=False)  # nor did this
    reservation.called_back(CHARGED)
    assert free_in(budget) == 1


@pytest.mark.parametrize(("attempt", "left"), [(FREE, 1), (UNKNOWN, 1), (CHARGED, 1)])
def test_a_callback_during_the_attempt_is_charged_to_it(attempt: Charge, left: int) -> None:
    for order in ("before", "after"):
        budget = budget_of(2)
        reservation = Reservation((budget,), NAME)
        assert reservation.take() == ""
        if order == "before":
            reservation.called_back(CHARGED)
        reservation.spend(attempt)
        if order == "after":
            reservation.called_back(CHARGED)
        reservation.attempt_over(may_come=False, overdue=False)
        assert free_in(budget) == left


def test_a_late_callback_during_an_attempt_that_spent_its_charge_is_one_more() -> None:
    budget = budget_of(1)
    reservation = Reservation((budget,), NAME)
    made(reservation, FREE, may_come=True)
    assert reservation.take() == ""
    reservation.called_back(CHARGED, for_request=False)
    reservation.spend(CHARGED)
    reservation.attempt_over(may_come=False, overdue=True)
    reservation.release()
    budget.settle(NAME, FREE)  # of the two charges
    assert free_in(budget) == 0


@pytest.mark.parametrize(("attempt", "left"), [(FREE, 2), (UNKNOWN, 1)])
def test_a_late_callback_during_another_attempt_has_its_own_charge(attempt: Charge, left: int) -> None:
    """One charge is one charge: the attempt that asks again gives back what it does not need."""
    budget = budget_of(3)
    reservation = Reservation((budget,), NAME)
    made(reservation, FREE, may_come=True)
    assert reservation.take() == ""
    assert free_in(budget) == 1
    reservation.called_back(CHARGED)
    reservation.spend(attempt)
    reservation.attempt_over(may_come=False, overdue=False)
    reservation.release()
    assert free_in(budget) == left


def test_a_lost_attempt_whose_callback_is_charged_to_another_is_given_back_once() -> None:
    budget = budget_of(2)
    reservation = Reservation((budget,), NAME)
    made(reservation, UNKNOWN, may_come=True)
    assert free_in(budget) == 1
    assert reservation.called_back_to_another()
    assert free_in(budget) == 2
    assert not reservation.called_back_to_another()
    assert free_in(budget) == 2


@pytest.mark.parametrize("under_way", [False, True])
def test_what_is_set_aside_for_a_callback_in_doubt_is_not_given_back(under_way: bool) -> None:
    budget = budget_of(1)
    reservation = Reservation((budget,), NAME)
    if under_way:
        assert reservation.take() == ""
        reservation.keep()
        reservation.attempt_over(may_come=False, overdue=False)
    else:
        made(reservation, may_come=True)
        reservation.keep()
    reservation.release()
    assert free_in(budget) == 0


def test_what_is_set_aside_for_a_callback_is_spent_on_asking_again() -> None:
    for first, then in ((budget_of(1), budget_of(5)), (budget_of(5), budget_of(1))):
        reservation = Reservation((first, then), NAME)
        made(reservation, FREE, may_come=True)
        assert min(free_in(first), free_in(then)) == 0
        assert max(free_in(first), free_in(then)) == 4
        made(reservation, CHARGED, may_come=True, overdue=True)
        reservation.release()
        assert min(free_in(first), free_in(then)) == 0
        assert max(free_in(first), free_in(then)) == 4


def test_asking_again_for_free_keeps_what_is_the_callbacks() -> None:
    budget = budget_of(2)
    reservation = Reservation((budget,), NAME)
    for _ in range(4):
        made(reservation, FREE, may_come=True, overdue=True)
        assert free_in(budget) == 1
    reservation.release()
    assert free_in(budget) == 2


@virtual
async def test_a_call_that_is_over_keeps_its_charge_until_the_callback_is_late() -> None:
    for late, kept in ((0.0, False), (math.inf, False), (-1.0, False), (60.0, True)):
        budget = budget_of(1)
        reservation = Reservation((budget,), NAME)
        made(reservation, FREE, may_come=True)
        reservation.release(late)
        reservation.release(late)
        assert free_in(budget) == (0 if kept else 1)
        await asyncio.sleep(59)
        assert free_in(budget) == (0 if kept else 1)
        await asyncio.sleep(2)
        assert free_in(budget) == 1


# --------------------------------------------------------------------------- many calls, in whatever order

charges = st.sampled_from([FREE, FREE, UNKNOWN, CHARGED])
moves = st.tuples(st.integers(0, 2), st.sampled_from(["go", "come", "leave"]), charges, st.booleans())


class Model:
    """One call, by what a reader of the bill would count: charges, and what is promised to whom."""

    def __init__(self) -> None:
        self.charged = 0  # for good
        self.attempt: bool = False  # one is promised to the attempt under way
        self.callback = False  # one is promised to the callback
        self.owed = False  # the callback's charge is one that is counted already, as unknown
        self.called = False  # it comes once
        self.cost = FREE

    @property
    def used(self) -> int:
        return self.charged + self.attempt + self.callback


Calls = list[tuple[Reservation, Model]]


def moved(budgets: tuple[Budget, ...], call: tuple[Reservation, Model], move: str, charge: Charge, flag: bool) -> None:
    """One thing happens to the call, and to what a reader of the bill would count."""
    reservation, model = call
    if move == "go" and not model.attempt:
        room = min(free_in(budget) for budget in budgets) > 0
        why = reservation.take()
        assert (why == "") == (room or model.callback)
        if not room:
            model.callback = False
        model.attempt, model.cost = why == "", FREE
    elif move == "go":
        reservation.spend(charge)
        cost = charge if model.cost is FREE else model.cost
        may_come, overdue = flag and not model.called, model.callback
        reservation.attempt_over(may_come=may_come, overdue=overdue)
        model.attempt = False
        if cost is FREE and may_come and not model.callback:
            model.callback = True
        else:
            model.owed = may_come and charge is UNKNOWN and cost is UNKNOWN and not overdue
            model.charged += cost is not FREE
    elif move == "come" and not model.called:
        model.called = True
        reservation.called_back(charge)
        if model.callback:
            model.callback = False
            model.charged += charge is not FREE
        elif model.attempt:
            model.cost = charge if charge is not FREE else model.cost
        elif not model.owed:
            model.charged += charge is not FREE
    elif move == "leave":
        reservation.release()
        model.callback = False


def check_counts(budgets: tuple[Budget, ...], calls: Calls, most: tuple[int, int]) -> None:
    """What is left is what nobody has: nothing was given back twice, and nothing is lost."""
    used = sum(model.used for _, model in calls)
    assert [free_in(budget) for budget in budgets] == [max(limit - used, 0) for limit in most]


def finished(budgets: tuple[Budget, ...], calls: Calls, most: tuple[int, int]) -> None:
    """All calls are over, wherever they are: what was charged, or may have been, is gone, and nothing else."""
    for reservation, model in calls:
        reservation.attempt_over(may_come=False, overdue=False)
        reservation.release()
        model.charged += model.attempt and model.cost is not FREE
        model.attempt = model.callback = False
    check_counts(budgets, calls, most)


@settings(max_examples=examples(400))
@given(st.lists(moves, max_size=40), st.integers(0, 4), st.integers(0, 4))
def test_nothing_leaks_and_nothing_is_forgotten(steps: list[Any], most: int, other: int) -> None:
    budgets = (budget_of(most), budget_of(other, cost=True))
    calls = [(Reservation(budgets, NAME), Model()) for _ in range(3)]
    for number, move, charge, flag in steps:
        moved(budgets, calls[number], move, charge, flag)
        check_counts(budgets, calls, (most, other))
    finished(budgets, calls, (most, other))


EVERY_MOVE = [
    *itertools.product(["go"], [FREE, UNKNOWN, CHARGED], [False, True]),
    *itertools.product(["come"], [FREE, UNKNOWN, CHARGED], [False]),
    ("leave", FREE, False),
]


def read_only(prices: dict[str, Decimal]) -> MappingProxyType[str, Decimal]:
    return MappingProxyType(prices)


def packed(budgets: tuple[Budget, ...], calls: Calls) -> bytes:
    """A state, to be compared and copied."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    pickler.dispatch_table = {MappingProxyType: lambda prices: (read_only, (dict(prices),))}
    pickler.dump((budgets, calls))
    return file.getvalue()


@pytest.mark.parametrize("most", [(1, 1), (1, 2), (3, 2)])
def test_two_calls_in_every_order(most: tuple[int, int]) -> None:
    """Every state that two calls on two limits can reach, until no move leads to a new one."""
    budgets = (budget_of(most[0]), budget_of(most[1], cost=True))
    first = packed(budgets, [(Reservation(budgets, NAME), Model()) for _ in range(2)])
    seen, left = {first}, [first]
    while left:
        state = left.pop()
        for number, (move, charge, flag) in itertools.product(range(2), EVERY_MOVE):
            budgets, calls = pickle.loads(state)
            moved(budgets, calls[number], move, charge, flag)
            check_counts(budgets, calls, most)
            after = packed(budgets, calls)
            if after not in seen:
                seen.add(after)
                left.append(after)
                finished(budgets, calls, most)
    assert len(seen) > 100
