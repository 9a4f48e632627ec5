"""Photos on their way from files to a form: the threads that read, and the memory that is read into."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import gc
import io
import os
import random
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from aisolution_async import Charge, FaceCompare, IdHolding, InputError, NotSentError
from aisolution_async.inputs import images
from aisolution_async.integrations.instant import InstantLoop
from aisolution_async.sending import threads
from aisolution_async.sending.threads import Threads

from .pictures import encoded, portrait
from .support import LAST_RESORT, Vendor, client_of, virtual
from .test_location import exif

PLACE_TEXT = b"GPS and cells"  # of `exif`
FACE = b'{"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON"}}'


def photo(seed: int, size: int) -> bytes:
    return b"\xff\xd8\xff\xe0" + random.Random(seed).randbytes(size - 4)


def same_person(_request: httpx.Request, _number: int) -> httpx.Response:
    return httpx.Response(200, content=FACE)


def sent(request: httpx.Request) -> list[bytes]:
    """The images of a form, as a server decodes them."""
    form = parse_qs(request.content.decode("ascii"), strict_parsing=True)
    return [base64.b64decode(form[name][0], validate=True) for name in ("img", "img1", "img2") if name in form]


_earlier = set[threading.Thread]()


@pytest.fixture(autouse=True)
def _of_this_test() -> None:
    _earlier.update(threading.enumerate())


def readers() -> list[threading.Thread]:
    """The threads that read, of this test."""
    alive = set(threading.enumerate()) - _earlier
    return [thread for thread in alive if thread.name == "aisolution-reader"]


# ----------------------------------------------------------------------------------------------------- from files


@pytest.mark.parametrize("in_batch", [True, False])
async def test_each_call_sends_its_own_photos(in_batch: bool, tmp_path: Path) -> None:
    """Whatever was read into the same memory before: larger ones, smaller ones, and at the same time."""
    rng = random.Random(7)
    paths, photos = [], []
    for number in range(24):
        size = rng.choice([1_000, 99_999, 100_000, 150_001, 400_000, 700_000]) + rng.randrange(3)
        photos.append(photo(number, size))
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(photos[-1])
    pairs = [(a, b) for a in range(24) for b in (a, (a + 5) % 24)]
    vendor = Vendor(same_person)
    async with client_of(vendor) as client:
        calls = [FaceCompare(paths[a], str(paths[b])) for a, b in pairs]
        if in_batch:
            assert all(outcome.ok for outcome in await client.collect(calls, concurrency=16))
        else:
            await asyncio.gather(*map(client.send, calls))
    assert sorted(map(sent, vendor.requests)) == sorted([photos[a], photos[b]] for a, b in pairs)


async def test_a_read_that_is_given_up_spoils_no_other_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on in its thread, and writes into its memory whenever it likes."""
    paths = [tmp_path / f"{number}.jpg" for number in range(9)]
    for number, path in enumerate(paths):
        path.write_bytes(photo(number, 200_000))
    real, reading, go = os.readv, threading.Event(), threading.Event()
    to_stick: list[bool] = []

    def slow(file: int, views: list[memoryview]) -> int:
        if to_stick and to_stick.pop():
            reading.set()
            go.wait(LAST_RESORT)
        return real(file, views)

    def script(request: httpx.Request, number: int) -> httpx.Response:
        if number == 3:
            go.set()
        return same_person(request, number)

    monkeypatch.setattr(os, "readv", slow)
    vendor = Vendor(script)
    async with client_of(vendor) as client:
        await client.id_holding(paths[8])  # so that there is a thread, and memory
        to_stick.append(True)
        given_up = asyncio.ensure_future(client.face_compare(paths[0], paths[1]))
        await asyncio.to_thread(reading.wait, LAST_RESORT)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await asyncio.gather(*(client.face_compare(paths[n], paths[n + 1]) for n in range(2, 7)))
    assert sorted(map(sent, vendor.requests[1:])) == [
        [paths[n].read_bytes(), paths[n + 1].read_bytes()]
        for n in sorted(range(2, 7), key=lambda n: paths[n].read_bytes())
    ]


class OpenFile:
    """A file object that is a path, too: as those of fsspec's local files are."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)

    def read(self, _size: int = -1) -> bytes:
        return self._path.read_bytes()


@virtual
async def test_another_attempt_sends_the_photo_of_its_call(tmp_path: Path) -> None:
    """And not what was read into the same memory since."""

    def script(_request: httpx.Request, number: int) -> httpx.Response:
        return httpx.Response(503) if number < 3 else httpx.Response(200, content=FACE)

    files, photos = [], []
    for number in range(9):
        photos.append([photo(number, 200_000)])
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(photos[-1][0])
    vendor = Vendor(script)
    async with client_of(vendor, max_retries=3) as client:
        kinds = (OpenFile, Path, str)
        calls = [IdHolding(kinds[number % 3](file)) for number, file in enumerate(files)]
        assert all(outcome.ok for outcome in await client.collect(calls, concurrency=1))
    everything = [*map(sent, vendor.requests)]
    assert len(everything) == 12
    assert sorted(everything[3:]) == sorted(photos)


@pytest.mark.parametrize("with_ledger", [False, True], ids=["batch", "ledger"])
@pytest.mark.parametrize("size", [10_000, 300_000])
@virtual
async def test_a_photo_that_is_changed_between_two_attempts_is_not_sent_in_the_place_of_the_first(
    size: int, with_ledger: bool, tmp_path: Path
) -> None:
    """Who asks about the first one would get the answer of the other, and that one would be bought once more."""
    one, other = photo(1, size), photo(2, size)
    path = tmp_path / "photo.jpg"
    path.write_bytes(one)

    def script(_request: httpx.Request, number: int) -> httpx.Response:
        if number:
            return httpx.Response(200, content=FACE)
        path.write_bytes(other)
        return httpx.Response(503)

    vendor = Vendor(script)
    async with client_of(vendor, max_retries=3, ledger=tmp_path / "ledger" if with_ledger else None) as client:
        calls = [IdHolding(path), IdHolding(one), IdHolding(path)]
        changed, *others = await client.collect(calls, concurrency=1)
    assert isinstance(changed.error, InputError)
    assert "a photo was changed after it was first read" in str(changed.error)
    assert [attempt.charge for attempt in changed.attempts] == [Charge.FREE]
    assert [outcome.answered_by for outcome in others if outcome.ok] == [None, None]
    first, *rest = map(sent, vendor.requests)
    assert (first, sorted(rest)) == ([one], sorted([[one], [other]]))


@pytest.mark.parametrize("size", [10_000, 300_000])
async def test_the_place_is_taken_out_of_a_file_too(size: int, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(portrait(1), exif=exif()) + bytes(size))
    assert PLACE_TEXT in path.read_bytes()
    vendor = Vendor(same_person)
    async with client_of(vendor, keep_metadata=False) as client:
        await client.face_compare(path, path)
    for image in sent(vendor.requests[0]):
        assert PLACE_TEXT not in image
        assert len(image) == path.stat().st_size


def test_buffers_are_used_again() -> None:
    buffers = images.Buffers()
    first = buffers.take(1000)
    assert len(first) == 1000
    assert buffers.take(1000).obj is not first.obj  # it is in use
    buffers.give_back(first)
    smaller = buffers.take(10)
    assert smaller.obj is first.obj
    assert len(smaller) == 10
    buffers.give_back(smaller)
    larger = buffers.take(1001)
    assert larger.obj is not first.obj
    buffers.give_back(larger)
    buffers.clear()
    assert buffers.take(10).obj is not larger.obj


async def test_files_are_read_into_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.readv, set[int]()

    def noted(file: int, views: list[memoryview]) -> int:
        seen.add(id(views[0].obj))
        return real(file, views)

    monkeypatch.setattr(os, "readv", noted)
    paths = [tmp_path / f"{number}.jpg" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(photo(number, 300_000))
    async with client_of(Vendor(same_person)) as client:
        for path in paths:
            await client.send(IdHolding(path))
        # Known ones are given back, too.
        await client.collect([FaceCompare(paths[0], paths[1])] * 20, concurrency=1)
    assert len(seen) <= 3  # one of single calls, two of the batch


# -------------------------------------------------------------------------------------------------- their threads


def nothing() -> None:
    """Who has nothing to do when a thread is idle."""


async def test_it_is_done_in_a_thread() -> None:
    hands = Threads(nothing)
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    assert await hands.run(threading.get_ident) != threading.get_ident()
    assert await hands.run(variable.get) == 7

    def fail() -> None:
        raise LookupError("gone")

    def stop() -> None:
        raise StopIteration

    with pytest.raises(LookupError, match="gone"):
        await hands.run(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await hands.run(stop)
    assert await hands.run(lambda: "and it goes on") == "and it goes on"
    assert len(readers()) == 1
    await ended(hands)


async def test_an_error_takes_what_was_read_along() -> None:
    """No photo stays in memory until the collector comes by."""

    class Photo(bytearray):
        pass

    left: list[weakref.ref[Photo]] = []

    def fail() -> None:
        photo = Photo(1000)
        left.append(weakref.ref(photo))
        raise LookupError("gone")

    hands = Threads(nothing)
    gc.disable()
    try:
        with suppress(LookupError):
            await hands.run(fail)
        await ended(hands)
        assert left[0]() is None
    finally:
        gc.enable()


async def test_a_thread_that_is_stuck_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 2 * LAST_RESORT)
    hands = Threads(nothing)
    go = threading.Event()
    stuck = asyncio.ensure_future(hands.run(lambda: go.wait(LAST_RESORT)))
    assert [await hands.run(lambda n=n: n) for n in range(5)] == [*range(5)]  # type: ignore[misc]  # mypy's lambdas
    assert len(readers()) == 2
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    assert await hands.run(lambda: "done") == "done"
    hands.end()
    go.set()  # and it ends too, once it can
    while readers():
        await asyncio.sleep(0)


async def ended(hands: Threads) -> None:
    hands.end()
    while readers():
        await asyncio.sleep(0)


async def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 0.001)
    idle = 0

    def count() -> None:
        nonlocal idle
        idle += 1

    hands = Threads(count)
    together = threading.Barrier(3)
    for _ in range(30):  # whichever of them waits for how long
        await asyncio.gather(*(hands.run(together.wait) for _ in range(3)))
        while readers():  # no `end`: they see to it themselves
            await asyncio.sleep(0)
    assert idle >= 3 * 30
    assert await hands.run(lambda: "again") == "again"
    await ended(hands)


def test_threads_whose_loop_is_closed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 0.001)
    go, reached = threading.Event(), threading.Event()

    def work() -> None:
        reached.set()
        go.wait(LAST_RESORT)

    async def main() -> None:
        hands = Threads(nothing)
        await hands.run(lambda: None)
        asking = asyncio.ensure_future(hands.run(work))
        await asyncio.to_thread(reached.wait, LAST_RESORT)
        asking.cancel()

    asyncio.run(main())
    go.set()
    for thread in readers():
        thread.join(LAST_RESORT)
    assert not readers()


@pytest.mark.parametrize("given_up", [False, True])
def test_threads_whose_loop_is_stopped_end(monkeypatch: pytest.MonkeyPatch, given_up: bool) -> None:
    """As in a notebook, between two cells. The loop can go on."""
    monkeypatch.setattr(threads, "_PATIENCE", 0.001)
    go, reached = threading.Event(), threading.Event()
    hands = Threads(nothing)

    def work() -> None:
        reached.set()
        go.wait(LAST_RESORT)

    async def main() -> None:
        working = [asyncio.ensure_future(hands.run(work)) for _ in range(3)]
        await asyncio.to_thread(reached.wait, LAST_RESORT)
        if given_up:
            for each in working:
                each.cancel()
        else:
            go.set()
        await asyncio.wait(working)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    go.set()
    for thread in readers():
        thread.join(LAST_RESORT)
    assert not readers()
    assert loop.run_until_complete(hands.run(lambda: "it goes on")) == "it goes on"
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    for thread in readers():
        thread.join(LAST_RESORT)


async def test_threads_that_end_as_they_are_given_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 0.0)
    hands = Threads(nothing)
    for n in range(50):
        both = await asyncio.gather(hands.run(lambda n=n: n), hands.run(lambda: -1))  # type: ignore[misc]  # as above
        assert [*both] == [n, -1]
    await ended(hands)


class Stuck(io.RawIOBase):
    """A photo that cannot be read to its end before `go` is set."""

    def __init__(self, go: threading.Event, begun: list[None]) -> None:
        super().__init__()
        self._go, self._begun = go, begun

    def read(self, _size: int = -1) -> bytes:
        self._begun.append(None)
        self._go.wait(LAST_RESORT)
        return b""


async def begun_are(begun: list[None], number: int) -> None:
    while len(begun) < number:
        await asyncio.sleep(0)


@virtual
async def test_a_single_call_waits_in_line_no_longer_than_its_deadline() -> None:
    go, begun, vendor = threading.Event(), list[None](), Vendor(same_person)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, InstantLoop)
    async with client_of(vendor, deadline=1.0) as client:
        calls = [asyncio.create_task(client.id_holding(Stuck(go, begun))) for _ in range(6)]
        await begun_are(begun, 4)
        loop.advance(1.0)
        while not all(call.done() for call in calls):
            assert len(begun) == 4
            await asyncio.sleep(0)
        for call in calls:
            assert isinstance(error := call.exception(), NotSentError)
            assert "the deadline passed before its images were read" in str(error)
        go.set()
        assert (await client.id_holding(photo(1, 200_000))).charge is Charge.CHARGED  # the places are free
    assert len(vendor.requests) == 1


@virtual
async def test_a_call_of_a_batch_waits_in_line_for_as_long_as_it_takes(tmp_path: Path) -> None:
    """Its turn comes when others have had theirs, however many there are: the deadline is for its own reading."""
    go, begun, vendor = threading.Event(), list[None](), Vendor(same_person)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, InstantLoop)
    (tmp_path / "a.jpg").write_bytes(photo(1, 200_000))
    sources: list[Any] = [*(Stuck(go, begun) for _ in range(4)), *[tmp_path / "a.jpg"] * 2]
    async with client_of(vendor, deadline=1.0) as client:
        calls = [IdHolding(source, key=n) for n, source in enumerate(sources)]
        asking = asyncio.create_task(client.collect(calls, concurrency=6))
        await begun_are(begun, 4)
        loop.advance(2.0)
        outcomes = await asking
        go.set()
    assert [type(outcome.error) for outcome in outcomes] == [NotSentError] * 4 + [type(None)] * 2


def test_time_is_not_skipped_while_a_thread_works() -> None:
    @virtual
    async def main() -> None:
        hands = Threads(nothing)
        go = threading.Event()
        asyncio.get_running_loop().call_soon(threading.Timer(0.05, go.set).start)
        before = asyncio.get_running_loop().time()
        async with asyncio.timeout(3600):
            await hands.run(lambda: go.wait(LAST_RESORT))
        assert asyncio.get_running_loop().time() == before
        await ended(hands)

    main()


async def test_a_client_leaves_no_thread(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo(1, 200_000))
    async with client_of(Vendor(same_person)) as client:
        await client.collect([FaceCompare(path, path, key=n) for n in range(8)], dedupe=False)
        await client.face_compare(path, path)
        working = readers()
        assert working
    for thread in working:
        await asyncio.to_thread(thread.join, LAST_RESORT)
    assert not any(thread.is_alive() for thread in working)
