"""The ledger: what is cancelled, closed, or on another event loop."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import AsyncClient, Charge, ConfigurationError, WhatsAppDetail
from aisolution_async.ledger import (
    Ask,
    Ledger,
    Started,
    State,
    grouping,
)
from aisolution_async.ledger.rows import LEFT
from aisolution_async.wire.connection import Connection

from .crash import CountingSandbox
from .ledgers import (
    CHARGED,
    FREE,
    LOST,
    UNSENT,
    WHATSAPP,
    AnyLedger,
    answered,
    ask,
    book_of,
    do,
    fail,
    on_book,
    start,
    writers,
)
from .steps import HeldVendor
from .support import LAST_RESORT, client_of, ok_whatsapp, virtual

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_a_begin_that_is_cancelled_leaves_nothing_under_way(ledger: AnyLedger) -> None:
    for turns in range(40):
        task = asyncio.create_task(ledger.begin(ask(ledger, turns)))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        if turns % 3 == 0:
            time.sleep(0.002)  # it is committed, and the loop has not heard yet
        task.cancel()
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(answer, Started):
            await ledger.end(answer, UNSENT)
    for _ in range(2):  # the last begin arrives, and is taken back
        await book_of(ledger)
    await start(ledger, "other")
    states = Counter(record.state for record in ledger.attempts())
    assert states.pop(State.INTENDED) == 1
    assert set(states) == {State.NOT_SENT}


async def test_a_begin_answered_in_the_turn_of_its_cancellation_is_taken_back(
    ledger: AnyLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ledger._deliver

    def deliver(jobs: Any) -> None:
        real(jobs)
        task.cancel()

    monkeypatch.setattr(ledger, "_deliver", deliver)
    task = asyncio.create_task(ledger.begin(ask(ledger)))
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await do(ledger, answered())
    assert [r.state for r in ledger.attempts()] == [State.NOT_SENT, State.CHARGED]
    monkeypatch.setattr(ledger, "_deliver", deliver)
    task = asyncio.create_task(ledger.begin(ask(ledger)))
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await book_of(ledger)
    assert len(list(ledger.attempts())) == 2


async def test_a_begin_that_fails_in_the_turn_of_its_cancellation_is_cancelled(
    file_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = file_ledger._deliver

    def deliver(jobs: Any) -> None:
        real(jobs)
        task.cancel()

    await fail(file_ledger, "COMMIT", *[sqlite3.SQLITE_FULL] * 2)
    monkeypatch.setattr(file_ledger, "_deliver", deliver)
    task = asyncio.create_task(file_ledger.begin(ask(file_ledger)))
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await start(file_ledger)


async def test_a_begin_that_is_taken_back_and_cannot_be_recorded_so(
    file_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for that: the log says it, and the event loop has no error that nobody took."""
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    await fail(file_ledger, "DELETE FROM intents", *[sqlite3.SQLITE_FULL] * 2)
    task = asyncio.create_task(file_ledger.begin(ask(file_ledger)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for _ in range(2):
        await book_of(file_ledger)
    del task
    gc.collect()
    assert "full" in caplog.text
    assert heard == []
    await start(file_ledger, 2)  # with what comes next, it is recorded
    assert [record.state for record in file_ledger.attempts()] == [State.NOT_SENT, State.INTENDED]


async def test_an_end_that_is_cancelled_is_recorded_all_the_same(
    file_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for number, turns in enumerate((1, 2, 3)):
        started = await start(file_ledger, number)
        task = asyncio.create_task(file_ledger.end(started, answered()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await book_of(file_ledger)
    assert len(list(file_ledger.answers())) == 3
    # And if it cannot be, that is not lost on everybody.
    started = await start(file_ledger, "last")
    await fail(file_ledger, "COMMIT", *[sqlite3.SQLITE_FULL] * 2)
    task = asyncio.create_task(file_ledger.end(started, answered()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await book_of(file_ledger)
    assert "full" in caplog.text


@virtual
async def test_time_is_not_skipped_while_a_ledger_works_and_is_once_it_does_not(tmp_path: Path) -> None:
    loop, go = asyncio.get_running_loop(), threading.Event()
    async with Ledger(tmp_path / "calls.ledger") as ledger:
        loop.call_soon(threading.Timer(0.05, go.set).start)
        before = loop.time()
        async with asyncio.timeout(3600):
            await on_book(ledger, lambda _: go.wait(LAST_RESORT))
        assert loop.time() == before
        await asyncio.sleep(3600)


async def test_closing_waits_for_what_was_asked(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)
    await ledger.open()
    tasks = [asyncio.create_task(ledger.begin(ask(ledger, n))) for n in range(10)]
    started = await start(ledger, "x")
    await asyncio.gather(*tasks)
    end = asyncio.create_task(ledger.end(started, answered()))
    late = asyncio.create_task(ledger.begin(ask(ledger, "late")))
    await asyncio.sleep(0)
    late.cancel()
    closing = asyncio.create_task(ledger.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, late, return_exceptions=True)
    await ledger.aclose()
    await ledger.aclose()
    await end
    states = Counter(record.state for record in ledger.attempts())
    assert states == {State.CHARGED: 1, State.UNKNOWN: 10, State.NOT_SENT: 1}
    assert {r.error for r in ledger.attempts(unknown_only=True)} == {LEFT}
    assert sorted(p.name for p in ledger_path.parent.glob("*owner*")) == []
    assert not any(thread.name == "aisolution-ledger" for thread in threading.enumerate())
    for operation in (ledger.begin(Ask("a", b"")), ledger.end(started, LOST), ledger.purge(1), ledger.resolve(1, FREE)):
        with pytest.raises(ConfigurationError, match="not open"):
            await operation
    with pytest.raises(ConfigurationError, match="once"):
        await ledger.open()


def test_another_loop(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(ledger.open())
        with pytest.raises(ConfigurationError, match="another event loop"):
            second.run(ledger.begin(Ask(WHATSAPP, b"")))
        first.run(ledger.aclose())


def test_a_loop_that_was_closed_over_it_lets_go(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)
    with asyncio.Runner() as runner:
        runner.run(ledger.open())
    ledger._queue.put([])
    for thread in writers():
        thread.join(5)
    assert list(ledger_path.parent.glob("*owner*")) == []


async def test_an_opening_that_is_cancelled_lets_go(ledger_path: Path) -> None:
    for turns in range(3):
        ledger = Ledger(ledger_path)
        opening = asyncio.create_task(ledger.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await ledger.aclose()
        for thread in writers():
            await asyncio.to_thread(thread.join, 5)
    assert list(ledger_path.parent.glob("*owner*")) == []


def test_not_open(ledger_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        Ledger(ledger_path).identity("a", [])


async def test_a_loop_that_is_gone_is_noticed() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert not grouping._call(loop, print)


class _AnswersAsItCloses(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self.asked, self.closed = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        await self.closed.wait()
        for _ in range(20):  # it ends after the transport is closed
            await asyncio.sleep(0)
        message = {"number": "+6281387300001", "whatsapp": "yes"}
        return httpx.Response(200, json={"status": "OK", "message": message})

    async def aclose(self) -> None:
        self.closed.set()


async def test_a_client_that_is_closed_waits_until_single_calls_are_recorded(tmp_path: Path) -> None:
    """Who closes the ledger next would else close it before an answer that was paid for is in it."""
    transport = _AnswersAsItCloses()
    async with Ledger(tmp_path / "calls.ledger") as ledger:
        client = AsyncClient("a-token-of-a-test", transport=transport, ledger=ledger)
        sent = asyncio.create_task(client.whatsapp_detail("+6281387300001"))
        await transport.asked.wait()
        await client.aclose()
    reply = await sent
    assert reply.charge is Charge.CHARGED
    assert [attempt.recorded for attempt in reply.attempts] == [True]


@virtual
async def test_who_waits_for_the_same_call_elsewhere_can_be_cancelled(tmp_path: Path) -> None:
    vendor, call = HeldVendor(ok_whatsapp()), WhatsAppDetail("+6281387300008")
    async with client_of(vendor, ledger=tmp_path / "calls.ledger") as client:
        first = asyncio.create_task(client.send(call))
        await vendor.reached.wait()
        second = asyncio.create_task(client.send(call))
        await asyncio.sleep(0.5)
        second.cancel()
        await asyncio.sleep(0.1)
        assert second.cancelled()
        vendor.go.set()
        assert (await first).charge is CHARGED


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt])
async def test_an_answer_that_came_as_its_call_was_cancelled_is_recorded(
    kind: type[BaseException], ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Connection.wait

    async def cut_off(conn: Connection) -> None:
        while not conn.done:
            await real(conn)
        raise kind

    async with CountingSandbox() as sandbox:
        async with AsyncClient(sandbox.token, base_url=sandbox.url, ledger=ledger_path) as client:
            with monkeypatch.context() as patched:
                patched.setattr(Connection, "wait", cut_off)
                with pytest.raises(kind):
                    await client.whatsapp_detail("+6281387300000")
            assert client.tally.charged == 1
            if kind is asyncio.CancelledError:  # else there is no time for it, and it is held
                assert (await client.whatsapp_detail("+6281387300000")).charge is Charge.FREE
        assert sandbox.charged.total() == 1
