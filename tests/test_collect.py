"""The whole list at once: in the input's order, and nothing lost where it ends early."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest

from aisolution_async import (
    AISolutionError,
    Answered,
    AsyncClient,
    Charge,
    ConfigurationError,
    Failed,
    InputError,
    OutcomeUnknownError,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.client import BatchOptions

from .support import Vendor, client_of, ok_whatsapp, says, virtual

Outcomes = list[Answered[WhatsAppProfile] | Failed]


def asks(count: int) -> Iterator[WhatsAppDetail]:
    for number in range(count):
        yield WhatsAppDetail(f"62813{number:08}", key=number)


def slower_each() -> Vendor:
    """Answers the later calls first."""

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1 / (number + 1))
        return ok_whatsapp()

    return Vendor(script)


def half_of() -> tuple[Vendor, asyncio.Event]:
    """Answers two calls and no more; the event says that the third was asked."""
    stuck = asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        if number >= 2:
            stuck.set()
            await asyncio.Event().wait()
        return ok_whatsapp()

    return Vendor(script), stuck


def what_came(outcomes: Any) -> list[tuple[int, Charge]]:
    return [(outcome.index, outcome.charge) for outcome in outcomes]


@virtual
async def test_outcomes_are_in_the_input_s_order() -> None:
    async def calls() -> AsyncIterator[WhatsAppDetail | AISolutionError]:
        for call in asks(5):
            yield call
        yield InputError("row 6 has no number")

    async with client_of(slower_each()) as client:
        into: Outcomes = []
        outcomes = await client.collect(calls(), into=into)
        assert into is outcomes
        assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4, 5]
        assert [type(outcome) for outcome in outcomes] == [Answered] * 5 + [Failed]
        assert await client.collect([]) == []


@dataclass(frozen=True)
class FrozenError(Exception):
    """One on which no attribute can be set."""

    text: str


@virtual
async def test_an_input_that_raises_takes_no_answer_away() -> None:
    error = FrozenError("the file ended in the middle of a line")

    def calls() -> Iterator[WhatsAppDetail]:
        yield from asks(3)
        raise error

    async with client_of(slower_each()) as client:
        with pytest.raises(FrozenError) as caught:
            await client.collect(calls())
        assert what_came(vars(caught.value)["collected"]) == [(n, Charge.CHARGED) for n in range(3)]
        # Raised again, by an input that has one error for all.
        into: Outcomes = []
        with pytest.raises(FrozenError):
            await client.collect(calls(), into=into)
        assert what_came(into) == [(n, Charge.CHARGED) for n in range(3)]
        assert len(vars(error)["collected"]) == 6
        vars(error)["collected"] = 7  # the user's own
        with pytest.raises(FrozenError):
            await client.collect(calls())
        assert len(vars(error)["collected"]) == 3


@virtual
async def test_cancelled_it_leaves_what_was_answered_and_what_may_have_been_charged() -> None:
    vendor, stuck = half_of()
    async with client_of(vendor) as client:
        into: Outcomes = []
        task = asyncio.create_task(client.collect(asks(4), into=into, concurrency=1))
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    expected = [(0, Charge.CHARGED), (1, Charge.CHARGED), (2, Charge.UNKNOWN), (3, Charge.FREE)]
    assert what_came(into) == what_came(vars(caught.value)["collected"]) == expected
    assert isinstance(into[2].error, OutcomeUnknownError)
    assert client.tally.charged == 2


@pytest.mark.parametrize("how", ["timeout", "wait_for", "move_on_after", "task group"])
@virtual
async def test_whatever_cancels_it(how: str) -> None:
    vendor, stuck = half_of()
    async with client_of(vendor) as client:
        into: Outcomes = []
        work = client.collect(asks(3), into=into, concurrency=3)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await work
        elif how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work, 5)
        elif how == "move_on_after":
            with anyio.move_on_after(5):
                await work
        else:
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(work)
                    await stuck.wait()
                    raise ValueError
    assert sorted(outcome.charge for outcome in into) == ["charged", "charged", "unknown"]


async def test_what_it_cannot_work_with_is_refused_before_anything_is_sent() -> None:
    async with client_of(Vendor(lambda request, number: says("OK"))) as client:
        full: Outcomes = [Failed(0, None, None, None, InputError("x"), ())]
        for into in (full, (), "x"):
            with pytest.raises(ConfigurationError, match="into must be an empty list"):
                await client.collect(asks(1), into=into)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no list of calls"):
            await client.collect(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'concurency'"):
            client.batch(asks(1), concurency=3)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="'concurency'"):
            await client.collect(asks(1), concurency=3)  # type: ignore[call-arg]
        assert client.tally.total == 0


def test_every_option_is_explained_and_the_same_for_both() -> None:
    signature = inspect.signature(AsyncClient.batch)
    options = {
        name: given.annotation for name, given in signature.parameters.items() if given.kind is given.KEYWORD_ONLY
    }
    assert {name: hint.__forward_arg__ for name, hint in BatchOptions.__annotations__.items()} == options
    for name in BatchOptions.__annotations__:
        assert f"`{name}`" in (inspect.getdoc(AsyncClient.batch) or "")
