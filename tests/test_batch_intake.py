"""The input of a batch: read lazily, whatever it does, and what its items may be."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import AsyncClient, Charge, ConfigurationError, InputError, WhatsAppDetail, clock
from aisolution_async.batching import WINDOW
from aisolution_async.batching.intake import Intake, Item

from .batches import asks, slow, taken
from .support import client_of, in_turn, ok_whatsapp, picture, virtual

CHARGED = Charge.CHARGED


@virtual
async def test_the_input_is_read_lazily() -> None:
    read = 0

    def counted() -> Iterator[WhatsAppDetail]:
        nonlocal read
        for call in asks(10_000):
            read += 1
            yield call

    async with client_of(slow(0.01)) as client, client.batch(counted(), concurrency=10) as batch:
        await asyncio.sleep(5)  # nobody takes an outcome
        assert read == 10 + WINDOW
        for taken in range(1, 60):
            await anext(batch)
            await asyncio.sleep(1)
            assert read <= 10 + WINDOW + taken
        assert read > 10 + WINDOW + 30
        batch.stop()


@pytest.mark.parametrize("source", ["sync", "async"])
@virtual
async def test_an_input_that_fails(source: str) -> None:
    def breaks() -> Iterator[WhatsAppDetail]:
        yield from asks(30)
        raise LookupError("the database went away")

    async def breaks_later() -> AsyncIterator[WhatsAppDetail]:
        for call in breaks():
            yield call

    async with client_of(slow(1)) as client:
        seen = []
        batch = client.batch(breaks() if source == "sync" else breaks_later(), concurrency=7)
        with pytest.raises(LookupError, match="went away"):
            async with batch:
                async for outcome in batch:
                    seen.append(outcome.index)  # noqa: PERF401  # those before the error count
        assert sorted(seen) == list(range(30))
        assert client.tally.charged == 30


@pytest.mark.parametrize("source", ["sync", "async"])
@virtual
async def test_something_cancelled_within_the_input(source: str) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(100))
        task.cancel()
        await task

    async def later() -> AsyncIterator[WhatsAppDetail]:
        for call in asks(3):
            yield call
        await cancelled()

    def now() -> Iterator[WhatsAppDetail]:
        yield from asks(3)
        raise asyncio.CancelledError

    async with client_of(slow(1)) as client:
        seen = []
        with pytest.raises(RuntimeError, match="was cancelled"):
            async with client.batch(later() if source == "async" else now()) as batch:
                async for outcome in batch:
                    seen.append(outcome)  # noqa: PERF401  # those before the error count
        assert [outcome.charge for outcome in seen] == [CHARGED] * 3


@virtual
async def test_an_input_that_raises_what_ends_a_loop() -> None:
    class Odd:
        def __iter__(self) -> Iterator[WhatsAppDetail]:
            return self

        def __next__(self) -> WhatsAppDetail:
            raise StopAsyncIteration

    async with client_of(in_turn(ok_whatsapp())) as client:
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await taken(client.batch(Odd()))


@virtual
async def test_a_slow_input_does_not_hold_up_the_stop() -> None:
    async def stuck() -> AsyncIterator[WhatsAppDetail]:
        for call in asks(2):
            yield call
        await asyncio.sleep(1e9)

    async with client_of(in_turn(ok_whatsapp())) as client:
        async with client.batch(stuck()) as batch:
            assert (await anext(batch)).ok
        assert len(batch.unread) == 1


@virtual
async def test_an_input_that_takes_for_ever_to_close() -> None:
    async def source() -> AsyncIterator[WhatsAppDetail]:
        try:
            for call in asks(5):
                yield call
            await asyncio.sleep(1e9)
        finally:
            await asyncio.sleep(1e9)

    loop = asyncio.get_running_loop()
    async with client_of(in_turn(ok_whatsapp())) as client:
        start = loop.time()
        async with client.batch(source(), drain_timeout=3) as batch:
            await anext(batch)
        assert loop.time() - start < 7
        assert len(batch.unread) == 4


# ---------------------------------------------------------------------------------------------- items that are no call


async def _called(client: AsyncClient) -> list[tuple[Any, str]]:
    photo = picture(1)
    return [
        (
            client.face_compare(photo, photo),
            "a coroutine and no call: pass the call, do not call the method: FaceCompare(…)",
        ),
        (client.whatsapp_detail("62813"), "do not call the method: WhatsAppDetail(…)"),
        (client.delete_face("p"), "do not call the method: DeleteFace(…)"),
        (client.send(WhatsAppDetail("62813")), "pass the call, do not call the method: FaceCompare(…)"),
        (asyncio.get_running_loop().create_future(), "a Future and no call: pass the call, do not call the method"),
        (5, "an int and no call: pass FaceCompare(…)"),
        ({"number": "62813"}, "a dict and no call: pass FaceCompare(…)"),
        (client.face_compare, "a method and no call: pass FaceCompare(…)"),
        (WhatsAppDetail, "the class WhatsAppDetail and no call: pass an object of it, WhatsAppDetail(…)"),
        (int, "the class int and no call: pass FaceCompare(…)"),
        (None, "None and no call: pass FaceCompare(…)"),
    ]


@pytest.mark.parametrize("source", ["list", "generator", "async generator"])
async def test_what_is_no_call_is_told_so(source: str) -> None:
    """And a coroutine is closed: nothing warns that it was never awaited, and nothing of it was sent."""

    async def later(items: list[Any]) -> AsyncIterator[Any]:
        for item in items:
            yield item

    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor) as client:
        wrong = await _called(client)
        items = [item for item, _ in wrong]
        given: Any = {"list": items, "generator": iter(items), "async generator": later(items)}[source]
        outcomes = await taken(client.batch([*asks(1)])) + await taken(client.batch(given, ordered=True))
        assert len(vendor.requests) == 1
    for number, (outcome, (_, text)) in enumerate(zip(outcomes[1:], wrong, strict=True)):
        assert isinstance(outcome.error, InputError)
        assert str(outcome.error).startswith(f"item {number} of the input is ")
        assert text in str(outcome.error)
        assert outcome.charge is Charge.FREE


async def test_a_single_call_is_told_so_as_well() -> None:
    async with client_of(in_turn()) as client:
        for wrong, text in await _called(client):
            with pytest.raises(InputError) as caught:
                await client.send(wrong)
            assert text.replace("and no call", "is no call") in str(caught.value)


async def test_what_runs_already_is_let_run() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    async with client_of(in_turn(ok_whatsapp())) as client:
        task = asyncio.create_task(work())
        begun: Any = work()
        begun.send(None)
        outcomes = await taken(client.batch([task, begun]))  # type: ignore[list-item]
        assert [isinstance(outcome.error, InputError) for outcome in outcomes] == [True, True]
        assert await task == 5
        with pytest.raises(StopIteration):
            begun.send(None)


async def test_a_coroutine_in_place_of_the_list() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        lost: Any = client.whatsapp_detail("6281387300008")
        with pytest.raises(ConfigurationError, match="a coroutine is no list of calls"):
            client.batch(lost)


async def test_a_future_in_place_of_the_list() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        made: Any = asyncio.ensure_future(asyncio.sleep(0, [WhatsAppDetail("6281387300008")]))
        await made
        with pytest.raises(ConfigurationError, match="a Task is no list of calls"):
            client.batch(made)


# ------------------------------------------------------------------------------------------------ the reader by itself


@pytest.mark.no_cover
@given(st.data())
def test_the_reader_is_never_further_ahead_than_it_may(data: st.DataObject) -> None:
    """And never stands still where nothing else would wake it, whatever is taken and parked meanwhile."""
    ahead = data.draw(st.integers(1, 40))
    count = data.draw(st.integers(0, 200))

    @virtual
    async def run() -> None:
        read = 0

        def take(index: int, item: Item) -> None:
            nonlocal read
            assert index == read
            read += 1

        intake = Intake(asks(count), ahead=ahead, stretch=32, close_within=1, is_busy=lambda: False)
        reading = asyncio.create_task(intake.run(take))
        out = parked = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            assert read <= ahead + out + parked
            assert read in (count, ahead + out + parked)  # as far as it may
            if read > out + parked and data.draw(st.booleans()):
                out += 1
                intake.taken()
            elif read > out + parked:
                parked += 1
                intake.allow(parked)
            elif parked:
                parked -= 1
                intake.allow(parked)
        assert read == intake.read == count
        assert await reading is None

    run()


@virtual
async def test_a_busy_reader_is_woken_for_several_at_a_time() -> None:
    read: list[int] = []
    intake = Intake(asks(100), ahead=20, stretch=32, close_within=1, is_busy=lambda: True)
    reading = asyncio.create_task(intake.run(lambda index, item: read.append(index)))
    await asyncio.sleep(1)
    for _ in range(15):
        intake.taken()
    await asyncio.sleep(1)
    assert len(read) == 20
    intake.taken()
    await asyncio.sleep(1)
    assert len(read) == 36
    intake.stop()
    assert await reading is None
    assert intake.read == 36


@pytest.mark.parametrize(("seconds", "at_a_stretch"), [(0.0, 32), (0.00001, 32), (0.00004, 16), (1.0, 8)])
async def test_others_have_their_turn_while_an_input_is_read(
    seconds: float, at_a_stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item takes so many seconds to be made, on the loop."""
    now = 0.0
    monkeypatch.setattr(clock, "now", lambda: now)

    def made() -> Iterator[WhatsAppDetail]:
        nonlocal now
        for call in asks(96):
            now += seconds
            yield call

    read: list[int] = []
    reader = Intake(made(), ahead=1000, stretch=32, close_within=1.0, is_busy=lambda: True)
    running = asyncio.create_task(reader.run(lambda index, _: read.append(index)))
    turns = [0]
    while not running.done():
        await asyncio.sleep(0)
        turns.append(len(read))
    assert await running is None
    assert max(after - before for before, after in itertools.pairwise(turns)) == at_a_stretch
    assert len(read) == 96
