"""What may go now, by itself: the endpoints' turns, repeats, places, the alarm."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import Adaptive, Call, DeleteFace, WhatsAppDetail
from aisolution_async.batching.lineup import Lineup, Turn
from aisolution_async.limits import Gate, Rate, Signal

from .support import virtual


class Line:
    """A lineup, and how often it asked to be looked at."""

    def __init__(self, *, places: int | None = None, concurrency: int = 10, **options: Any) -> None:
        self.woken = self.lost = 0
        shared: Any = SimpleNamespace(gate=Gate(places), rate=options.pop("shared", None), paused_until=-math.inf)
        self.shared = shared
        settings = {"adaptive": None, "rate": None, **options}
        self.lineup = Lineup(shared, concurrency=concurrency, wake=self._wake, despair=self._lose, **settings)
        self.lineup.start(asyncio.get_running_loop().time())

    def _wake(self) -> None:
        self.woken += 1

    def _lose(self) -> None:
        self.lost += 1

    def add(self, call: Call[Any], *, repeat: bool = False) -> None:
        task: Any = SimpleNamespace(call=call)
        self.lineup.add(task, repeat=repeat)

    def brake(self, signal: Signal = Signal.BROKEN) -> None:
        """So many attempts are in vain that the vendor is taken to be down."""
        for _ in range(30):
            self.add(LOOK)
        for turn in self.picked():
            self.leave(turn, signal)

    def picked(self) -> list[Turn]:
        """All that may go now."""
        turns = []
        while (turn := self.lineup.pick()) is not None:
            turns.append(turn)
        return turns

    def leave(self, turn: Turn, signal: Signal | None = Signal.ANSWERED, *, sent: bool = True) -> None:
        self.lineup.leave(turn, signal, sent=sent)


LOOK, DELETE = WhatsAppDetail("62813"), DeleteFace("p")


def names(turns: list[Turn]) -> list[str]:
    return [turn.task.call.endpoint.name for turn in turns]


@virtual
async def test_each_endpoint_in_its_turn() -> None:
    line = Line(concurrency=5)
    for _ in range(100):
        line.add(LOOK)
    line.add(DELETE)
    line.add(DELETE)
    turns = line.picked()
    assert names(turns).count("delface") == 2
    assert len(turns) == line.lineup.places == 5
    assert line.lineup.ready == 97
    line.leave(turns[0])
    assert len(line.picked()) == 1


@virtual
async def test_repeats_go_first_while_the_budget_lasts() -> None:
    line = Line(concurrency=1000)
    for _ in range(30):
        line.add(LOOK)
        line.add(LOOK, repeat=True)
    turns = line.picked()
    assert all(turn.is_repeat for turn in turns[:10])
    assert sum(turn.is_repeat for turn in turns) == 10 + 30 // 5
    assert sum(not turn.is_repeat for turn in turns) == 30
    assert line.woken == 0
    await asyncio.sleep(0.11)
    assert line.woken == 1
    assert [turn.is_repeat for turn in line.picked()] == [True]


@virtual
async def test_the_alarm_rings_once_for_the_earliest() -> None:
    line = Line(rate=10, shared=Rate(2))
    for _ in range(3):
        line.add(LOOK)
    assert len(line.picked()) == 1
    line.shared.paused_until = asyncio.get_running_loop().time() + 0.2
    assert line.picked() == []
    await asyncio.sleep(0.4)
    assert line.woken == 0
    await asyncio.sleep(0.11)
    assert line.woken == 1
    assert len(line.picked()) == 1
    line.lineup.stop()
    await asyncio.sleep(10)
    assert line.woken == 1


@virtual
async def test_a_turn_that_was_not_used_is_the_next_ones() -> None:
    line = Line(rate=0.1)
    line.add(LOOK)
    line.add(LOOK)
    (turn,) = line.picked()
    line.leave(turn, None, sent=False)
    assert len(line.picked()) == 1


@virtual
async def test_one_call_at_a_time_is_tried_where_the_vendor_is_down() -> None:
    line = Line(concurrency=30)
    for _ in range(60):
        line.add(LOOK)
    for turn in line.picked():
        assert not turn.trial
        line.leave(turn, Signal.BROKEN)
    assert line.lineup.braked
    assert line.picked() == []
    await asyncio.sleep(0.51)
    assert line.woken == 1
    (trial,) = line.picked()
    assert trial.trial
    line.leave(trial, Signal.ANSWERED)
    assert not line.lineup.braked
    assert len(line.picked()) == 29


@virtual
async def test_a_vendor_that_is_down_is_given_up_where_it_was_tried_for_long_enough() -> None:
    line = Line(concurrency=30, give_up=60.0)
    line.brake()
    await asyncio.sleep(60.1)
    assert line.lost == 0  # nothing was there to try it with
    line.add(LOOK)
    (trial,) = line.picked()
    line.leave(trial, Signal.BROKEN)
    await asyncio.sleep(0.1)
    assert line.lost == 1


@virtual
async def test_a_vendor_that_asks_to_wait_is_given_up_later() -> None:
    line = Line(concurrency=30, give_up=60.0)
    line.brake(Signal.OVERLOADED)
    line.add(LOOK)
    line.shared.paused_until = asyncio.get_running_loop().time() + 100
    await asyncio.sleep(159)
    assert line.lost == 0
    await asyncio.sleep(1.1)
    assert line.lost == 1


@virtual
async def test_patience_is_that_of_the_newest_time_that_the_vendor_is_down() -> None:
    line = Line(concurrency=30, give_up=60.0)
    for times in range(2):
        line.brake()
        line.add(LOOK)
        await asyncio.sleep(59)
        assert line.lost == 0
        if not times:
            (trial,) = line.picked()
            line.leave(trial, Signal.ANSWERED)
    await asyncio.sleep(1.1)
    assert line.lost == 1


@virtual
async def test_a_client_without_a_free_place_wakes_who_waits_for_one() -> None:
    line = Line(places=1)
    assert line.shared.gate.try_enter()
    line.add(LOOK)
    assert line.picked() == []
    line.shared.gate.leave()
    assert line.woken == 1
    assert len(line.picked()) == 1
    assert line.lineup.limit == 1


@given(
    st.lists(st.sampled_from(["look", "delete", "repeat", "pick", "leave", "unsent", "wait"]), max_size=60), st.data()
)
def test_no_call_is_lost_or_goes_twice(steps: list[str], data: st.DataObject) -> None:
    """Whatever limits there are: a call is ready, has its turn, or is given back by the stop; places are kept."""
    options: dict[str, Any] = {
        "places": data.draw(st.none() | st.integers(1, 5)),
        "concurrency": data.draw(st.integers(1, 8)),
        "rate": data.draw(st.none() | st.floats(0.5, 50)),
        "adaptive": data.draw(st.none() | st.just(Adaptive(max=4))),
    }
    signals = st.sampled_from(Signal)

    @virtual
    async def run() -> None:
        line = Line(**options)
        most = min(options["places"] or 99, options["concurrency"], 99 if options["adaptive"] is None else 8)
        added = 0
        turns: list[Turn] = []
        gone: list[Turn] = []
        for step in steps:
            if step in ("look", "delete", "repeat"):
                line.add(DELETE if step == "delete" else LOOK, repeat=step == "repeat")
                added += 1
            elif step == "pick":
                turns += line.picked()
            elif step == "wait":
                await asyncio.sleep(1)
            elif turns:
                gone.append(turns.pop())
                line.leave(gone[-1], None if step == "unsent" else data.draw(signals), sent=step != "unsent")
            assert len(turns) == line.lineup.places <= most
            assert line.lineup.ready == added - len(turns) - len(gone)
        left = line.lineup.stop()
        everything = [*(turn.task for turn in (*turns, *gone)), *left]
        assert len({id(task) for task in everything}) == len(everything) == added
        for turn in turns:
            line.leave(turn)
        assert line.lineup.pick() is None

    run()
