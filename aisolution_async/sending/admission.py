"""May the next attempt be made: its turn in the client's pace, its place, and the charge that is set aside for it."""

from __future__ import annotations

import asyncio
import math

import anyio

from aisolution_async import clock
from aisolution_async.charges import Charge
from aisolution_async.limits import Budget, Rate
from aisolution_async.retry import Course
from aisolution_async.sending.shared import Shared


class Reservation:
    """One charge set aside in every budget, and whose it is.

    It is the attempt's while one is under way. Where the attempt was free and its answer may come by callback, it is
    the callback's, until that comes, is late, or is spent on asking again. Where the attempt is unknown, a callback
    that comes after it is charged to that one, and nothing is set aside for it. A callback that comes while the attempt
    that named it is under way is charged to that attempt, unless a charge is set aside for the callback.

    This is for limits that are kept in memory. A ledger given by path keeps its own, and `ledger.intents.add` reserves
    in it.
    """

    __slots__ = ("_budgets", "_charge", "_endpoint", "_is_callbacks", "_is_covered", "_is_flying")

    def __init__(self, budgets: tuple[Budget, ...], endpoint: str) -> None:
        self._budgets = budgets
        self._endpoint = endpoint
        self._is_flying = False  # an attempt is under way
        self._charge = Charge.FREE  # what it cost, as far as is known
        self._is_callbacks = False
        self._is_covered = False  # a callback is charged to an attempt which is unknown

    def take(self) -> str:
        """Set a charge aside for an attempt. Returns why not, or nothing."""
        for number, budget in enumerate(self._budgets):
            if why := budget.reserve(self._endpoint):
                for earlier in self._budgets[:number]:
                    earlier.settle(self._endpoint, Charge.FREE)
                if not self._is_callbacks:
                    return why
                self._is_callbacks = False  # what was set aside for the callback is spent on asking again
                break
        self._is_flying, self._charge = True, Charge.FREE
        return ""

    def spend(self, charge: Charge) -> None:
        """The attempt cost this."""
        if charge is not Charge.FREE:
            self._charge = charge

    def attempt_over(self, *, may_come: bool, overdue: bool) -> None:
        """The attempt is over. `may_come`: whether a callback may still bring a charge; `overdue`: a late one."""
        if not self._is_flying:
            return
        self._is_flying, charge = False, self._charge
        if may_come and charge is Charge.FREE and not self._is_callbacks:
            self._is_callbacks = True
            return
        self._is_covered = may_come and charge is Charge.UNKNOWN and not overdue
        self._settle(charge)

    def called_back(self, charge: Charge, *, for_request: bool = True) -> None:
        """The callback came, and cost this. `for_request`: it is the one of the attempt under way, if there is one."""
        if self._is_callbacks:
            self._is_callbacks = False
            self._settle(charge)
        elif self._is_flying and for_request:
            self.spend(charge)
        elif not self._is_covered:
            self.add(charge)

    def add(self, charge: Charge) -> None:
        """Something for which nothing was set aside cost this."""
        if charge is not Charge.FREE:
            for budget in self._budgets:
                budget.add(self._endpoint)

    def called_back_late(self, charge: Charge) -> bool:
        """The call is over, and its callback came after all. False if nothing is set aside for it."""
        was_set_aside = self._is_callbacks
        if was_set_aside:
            self.called_back(charge)
        return was_set_aside

    def called_back_to_another(self) -> bool:
        """The call is over, and another has the charge of its callback: the unknown attempt is charged with that.

        False if no attempt is.
        """
        was_covered, self._is_covered = self._is_covered, False
        if was_covered:
            self._settle(Charge.FREE)
        return was_covered

    def keep(self) -> None:
        """The callback came, and nobody knows whether it is charged: what is set aside for it is not given back."""
        if self._is_callbacks:
            self._is_callbacks = False
            self._settle(Charge.UNKNOWN)
        elif self._is_flying:
            self.spend(Charge.UNKNOWN)

    def release(self, late: float = 0.0) -> None:
        """The call is over. What is the callback's stays set aside for `late` seconds: it may come and be charged."""
        if self._is_callbacks and 0 < late < math.inf:
            asyncio.get_running_loop().call_later(late, self._give_up)
        else:
            self._give_up()

    def _give_up(self) -> None:
        if self._is_callbacks:  # else it has come
            self._is_callbacks = False
            self._settle(Charge.FREE)

    def _settle(self, charge: Charge) -> None:
        for budget in self._budgets:
            budget.settle(self._endpoint, charge)


async def enter(shared: Shared, course: Course, patience: float | None) -> str:
    """Wait for a single call's turn in the client's pace, and take a place. Returns why not, or nothing.

    `patience` is how many seconds it may wait for the place; None for no end but the call's deadline.
    """
    if shared.rate is not None and not await _wait_for_turn(shared.rate, course):
        return "the rate leaves no time for it before the deadline"
    if shared.gate.try_enter():
        return ""
    start = clock.now()
    with anyio.move_on_after(min(math.inf if patience is None else patience, course.left)):
        await shared.gate.enter()
        course.spend(clock.now() - start)
        return ""
    return "no free connection in time"


async def _wait_for_turn(rate: Rate, course: Course) -> bool:
    """False if the turn comes too late."""
    turn = rate.take_turn(clock.now())
    while (pause := rate.until(turn, clock.now())) > 0:
        if pause >= course.left:
            rate.take_back()
            return False
        await clock.sleep(pause)
        course.spend(pause)
    return True
