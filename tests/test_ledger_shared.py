"""A ledger on a server: processes that race, die, are stopped and go on, and a server that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
import signal
import socket
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import AddFace, Attempt, ConfigurationError, LedgerError, clock
from aisolution_async.ledger import Ask, Busy, Exhausted, Held, Result, Started, State, Stored
from aisolution_async.ledger.rows import DIED

from . import forks
from .batches import asks, taken
from .crash import CHILD, CountingSandbox
from .ledgers import (
    CHARGED,
    CHECKING,
    FREE,
    LATER,
    LOST,
    UNSENT,
    WHATSAPP,
    AnyLedger,
    Child,
    answered,
    ask,
    book_of,
    check,
    child,
    do,
    expire,
    ledger_at,
    on_book,
    rows,
    start,
    sums,
    waits,
    where,
)
from .servers import running
from .support import GROUP_ID, TOKEN, Vendor, client_of, in_turn, ok_whatsapp, picture, says

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


# --------------------------------------------------------------------------------------------- processes that race

WORKER = """
    # Works through the calls; each that is sent is written on the vendor's bill.
    import random
    from aisolution_async.ledger.postgres import SharedLedger
    url, calls, at_once, seed = sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    options = eval(sys.argv[6])
    bill = os.open(sys.argv[2], os.O_APPEND | os.O_WRONLY)
    async def main():
        async with SharedLedger(url, **options) as ledger:
            order = list(range(calls))
            random.Random(seed // 2).shuffle(order)  # two and two are at the same calls
            numbers = iter(order)
            async def work():
                for n in numbers:
                    while isinstance(answer := await ledger.begin(ask(ledger, n, within=0.5)), Busy):
                        await answer.wait()
                    if isinstance(answer, Started):
                        if not answer.lease.is_good():
                            late = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "not sent")
                            await ledger.end(answer, Result(late, sent=False))
                            continue
                        os.write(bill, f"{n}\\n".encode())
                        await asyncio.sleep(0)
                        await ledger.end(answer, answered())
                    else:
                        assert isinstance(answer, Stored | Held | Exhausted), answer
            await asyncio.gather(*(work() for _ in range(at_once)))
    asyncio.run(main())
"""


def billed(bill: Path) -> list[int]:
    return [int(line) for line in bill.read_text().split()]


def race(url: str, bill: Path, calls: int, *, processes: int = 4, at_once: int = 50, **options: Any) -> None:
    """So many processes work through the same calls, to the end."""
    bill.touch()
    with contextlib.ExitStack() as stack:
        arguments = (url, bill, calls, at_once)
        started = [stack.enter_context(child(WORKER, *arguments, seed, repr(options))) for seed in range(processes)]
        assert [process.wait() for process in started] == [0] * processes


@pytest.mark.parametrize("calls", [700, pytest.param(5000, marks=pytest.mark.long)])
def test_four_processes_over_one_list_pay_once(server_url: str, tmp_path: Path, calls: int) -> None:
    race(server_url, tmp_path / "bill", calls)
    assert sorted(billed(tmp_path / "bill")) == list(range(calls))
    check(server_url)


@pytest.mark.parametrize("looks_first", [False, True])
async def test_the_look_before_the_intent_pays_twice(
    server_url: str, monkeypatch: pytest.MonkeyPatch, looks_first: bool
) -> None:
    """Of two that begin one call, the first is stopped between its two steps until the other has its answer."""
    from aisolution_async.ledger import server

    whole, gate = server.definition(), random.getrandbits(31)
    (intents,), (look,) = (
        re.findall(rf"(?s)  -- <{part}>\n.*?  -- </{part}>\n", whole) for part in ("intents", "look")
    )
    stop = f"""
  IF p_owner = (SELECT min(id) FROM ledger.owners) THEN
    PERFORM pg_advisory_xact_lock({gate});
  END IF;
"""
    order = look + stop + intents if looks_first else intents + stop
    planted = (whole.replace(look, "") if looks_first else whole).replace(intents, order)
    assert planted != whole
    monkeypatch.setattr(server, "definition", lambda: planted)
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        with running().connect(server_url) as db, db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", (gate,))
            first = asyncio.create_task(ledger.begin(ask(ledger)))
            await waits(server_url, "exchange(")
            second = asyncio.create_task(other.begin(ask(other)))
            if looks_first:
                started = await second
                assert isinstance(started, Started)
                await other.end(started, answered())
            else:
                await waits(server_url, "exchange(", 2)  # for what the first has intended
        assert isinstance(await first, Started)
        if not looks_first:
            assert isinstance(await second, Busy)


def test_a_budget_equal_to_the_need_over_four_processes(server_url: str, tmp_path: Path) -> None:
    race(server_url, tmp_path / "bill", 400, at_once=10, max_charges=400)
    assert sorted(billed(tmp_path / "bill")) == list(range(400))
    assert rows(server_url, "SELECT granted FROM book") == [(400,)]
    check(server_url)


# --------------------------------------------------------------------------------- processes that die, or are stopped


@pytest.mark.no_cover
def test_kill_9_under_a_budget(server_url: str, tmp_path: Path) -> None:
    """Killed again and again while attempts are in flight: never over, nothing twice, unknown what was in flight."""
    bill, calls, budget, at_once, kills = tmp_path / "bill", 900, 600, 20, 0
    bill.touch()
    rng = random.Random(3)
    options = repr({"max_charges": budget, "lease": 1.0})
    workers: dict[int, Child] = {}
    with contextlib.ExitStack() as stack:
        seed = 0
        for _ in range(8):
            while len(workers) < 4:
                seed += 1
                workers[seed] = stack.enter_context(child(WORKER, server_url, bill, calls, at_once, seed, options))
            target = min(len(billed(bill)) + rng.randrange(10, 60), budget)
            while len(billed(bill)) < target and all(worker.poll() is None for worker in workers.values()):
                time.sleep(0.002)
            victim = workers.pop(rng.choice(sorted(workers)))
            victim.kill()
            kills += victim.wait() == -signal.SIGKILL
        # The others go through all calls, whatever became of each.
        assert [worker.wait() for worker in workers.values()] == [0] * len(workers)
    sent = billed(bill)
    assert kills > 5
    assert len(sent) == len(set(sent)) <= budget
    rows(server_url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s'")

    async def look() -> None:
        async with ledger_at(server_url) as ledger:
            states = Counter(record.state for record in ledger.attempts())
            assert states[State.INTENDED] == 0
            assert states[State.UNKNOWN] <= at_once * kills
            assert states[State.CHARGED] + states[State.UNKNOWN] <= budget
            known = {record.key for record in ledger.attempts() if record.state in (State.CHARGED, State.UNKNOWN)}
            assert set(sent) <= known
            check(server_url)

    asyncio.run(look())


@pytest.mark.no_cover
async def test_batches_that_are_killed_over_a_real_wire(server_url: str) -> None:
    """Whole clients, with a sandbox to ask: killed in the middle, and gone on with, by two at a time."""
    calls, at_once, kills = 400, 20, 0
    rng = random.Random(2)
    url = server_url
    async with CountingSandbox() as sandbox:
        for turn in range(4):
            children = [await forks.begin(["-c", CHILD, sandbox.url, url, str(calls), str(at_once)]) for _ in range(2)]
            victim = children[0]
            last, seen = rng.randrange(20, 150), 0
            if turn < 3:
                async for _ in victim.stdout:
                    seen += 1
                    if seen > last:
                        victim.kill()
                        break
                await victim.communicate()
                # The other need not wait for the lease of the dead, which its last words may have renewed.
                gone = (
                    f"UPDATE owners SET expires_at = '2026-01-01' WHERE pid = {victim.pid} AND NOT ended RETURNING id"
                )
                while victim.returncode and rows(url, gone):
                    await asyncio.sleep(0.05)
                    rows(url, f"SELECT bury(id, false, 'killed') FROM owners WHERE pid = {victim.pid} AND NOT ended")
            for each in children:
                await each.communicate()
            kills += victim.returncode == -signal.SIGKILL
        assert kills
        assert max(sandbox.charged.values()) == 1, "something was charged twice"
        async with ledger_at(url) as ledger:
            unknown = {record.key for record in ledger.attempts(unknown_only=True)}
            found = {record.key for record in ledger.answers()}
            assert len(unknown) <= at_once * kills
            assert {int(body.removeprefix(b"number=62813")) for body in sandbox.charged} <= found | unknown
            assert found | unknown == set(range(calls))
        check(url)


STOPPED = """
    from aisolution_async.ledger.postgres import SharedLedger
    async def main():
        async with SharedLedger(sys.argv[1], lease=1.0) as ledger:
            sent = await ledger.begin(ask(ledger, 1, within=30.0))
            held_back = await ledger.begin(ask(ledger, 2, within=30.0))
            print(sent.lease.is_good(), flush=True)
            sys.stdin.readline()
            print(held_back.lease.is_good(), flush=True)
            await ledger.end(sent, answered())
            late = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "not sent")
            await ledger.end(held_back, Result(late, sent=False))
            again = await ledger.begin(ask(ledger, 2, within=30.0))
            print(type(again).__name__, again.lease.is_good(), again.lease is not sent.lease, flush=True)
            await ledger.end(again, answered())
    asyncio.run(main())
"""


async def test_a_process_that_was_stopped_finds_out_and_goes_on(server_url: str) -> None:
    async with ledger_at(server_url) as ledger:
        with child(STOPPED, server_url) as process:
            assert process.stdout.readline() == "True\n"
            process.stop()
            expired = "SELECT count(*) FROM owners WHERE expires_at < clock_timestamp()"
            while rows(server_url, expired) != [(1,)]:
                await asyncio.sleep(0.05)
            for number in (1, 2):
                assert isinstance(await ledger.begin(ask(ledger, number)), Held)
                # Being wrong costs held rows: as long as it may be sent, nobody sends it again, and none calls it free.
                assert isinstance(await ledger.begin(ask(ledger, number, retry_unknown=1)), Busy)
                with pytest.raises(LedgerError, match="may still be sent until"):
                    await ledger.resolve(ask(ledger, number).identity, FREE)
            process.send_signal(signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "False\n"
            assert process.stdout.readline() == "Started True True\n"
            assert process.wait() == 0
        assert Counter(record.state for record in ledger.attempts()) == {State.CHARGED: 2, State.NOT_SENT: 1}
        assert ledger.summary().held == 0
    check(server_url)


async def test_who_was_taken_for_dead_sends_nothing_that_it_had_leave_for(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is over between the leave and the first byte: the call asks anew, as a new owner, and is sent once."""
    real, ahead = clock.continuous, 0.0
    monkeypatch.setattr(clock, "continuous", lambda: real() + ahead)
    vendor = in_turn(ok_whatsapp())
    async with (
        ledger_at(server_url) as other,
        ledger_at(server_url) as ledger,
        client_of(vendor, ledger=ledger) as client,
    ):
        begin, times = ledger.begin, 0
        (await book_of(ledger)).renews_at = math.inf  # or its thread may see first that it is late

        async def slow(question: Ask) -> Any:
            nonlocal ahead, times
            verdict = await begin(question)
            times += 1
            if times == 1:
                ahead += 31.0
                expire(ledger)
                assert isinstance(await other.begin(question), Held)
            return verdict

        monkeypatch.setattr(ledger, "begin", slow)
        reply = await client.whatsapp_detail("6281387300008")
        assert "took this process for dead" in str(reply.attempts[0].error)
        assert len(vendor.requests) == 1
        assert times == 2
        assert Counter(record.state for record in ledger.attempts()) == {State.CHARGED: 1, State.NOT_SENT: 1}
    check(server_url)


async def test_a_late_answer_replaces_unknown_once(
    ledger_of_another: tuple[AnyLedger, AnyLedger], server_url: str
) -> None:
    ledger, other = ledger_of_another
    first, second, third = [await start(ledger, number) for number in range(3)]
    expire(ledger)
    assert isinstance(await other.begin(ask(other, 0)), Held)
    await asyncio.gather(ledger.end(first, answered()), ledger.end(second, LATER), ledger.end(third, LOST))
    await ledger.end(first, answered(reply=b'{"another": 1}'))
    assert isinstance(await other.begin(ask(other, 0)), Stored)
    assert [record.state for record in other.attempts()] == [State.CHARGED, State.FREE, State.UNKNOWN]
    check(server_url)
    # Once it is known, nothing keeps it from being settled.
    assert await other.resolve(ask(other, 2).identity, FREE) == 1
    check(server_url)


@pytest.fixture
async def ledger_of_another(server_url: str) -> Any:
    """Two owners of one ledger."""
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        yield ledger, other


async def test_who_renews_is_not_buried(ledger_of_another: tuple[AnyLedger, AnyLedger]) -> None:
    ledger, other = ledger_of_another
    await start(ledger)
    expire(ledger)
    await do(ledger, answered(), 2)  # any group renews
    assert isinstance(await other.begin(ask(other)), Busy)
    bury = "SELECT ledger.bury(%s, false, %s)"
    owner = (await book_of(ledger))._owner
    assert await on_book(other, lambda book: book._once(bury, owner, DIED)) == [(False,)]


async def test_what_must_be_over_may_be_sent_again(ledger_of_another: tuple[AnyLedger, AnyLedger]) -> None:
    ledger, other = ledger_of_another
    await start(ledger)
    expire(ledger)
    assert isinstance(await other.begin(ask(other, retry_unknown=1)), Busy)
    assert await other.resolve(ask(other).identity, CHARGED) == 1  # that is no leave to send
    await start(ledger, 2)
    expire(ledger)
    assert isinstance(await other.begin(ask(other, 2)), Held)
    rows(where(other), "UPDATE attempts SET over_at = clock_timestamp() - interval '1 ms'")
    assert isinstance(await other.begin(ask(other, 2, retry_unknown=1)), Started)


async def test_an_attempt_needs_a_deadline(server_url: str) -> None:
    async with (
        ledger_at(server_url) as ledger,
        client_of(in_turn(ok_whatsapp()), ledger=ledger, deadline=None) as client,
    ):
        with pytest.raises(ConfigurationError, match="deadline"):
            await client.whatsapp_detail("6281387300008")


# ------------------------------------------------------------------------------------------- a server that goes away


async def test_a_server_restarted_in_the_middle_of_commits(server_url: str, tmp_path: Path) -> None:
    """What nobody knows to be recorded is not sent; what was answered is recorded; nothing stays under way."""
    sent: Counter[int] = Counter()
    async with ledger_at(server_url, patience=30.0) as ledger:

        async def work(numbers: range) -> None:
            for number in numbers:
                while isinstance(verdict := await ledger.begin(ask(ledger, number)), Busy):
                    await verdict.wait()
                assert isinstance(verdict, Started)
                sent[number] += 1
                await ledger.end(verdict, answered())

        working = [asyncio.create_task(work(range(n * 30, n * 30 + 30))) for n in range(20)]
        for _ in range(2):
            before = sum(sent.values())
            while sum(sent.values()) < before + 150:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(running().restart)
        await asyncio.gather(*working)
        states = Counter(record.state for record in ledger.attempts())
        assert states[State.CHARGED] == 600
        assert set(states) <= {State.CHARGED, State.NOT_SENT}
        assert set(sent.values()) == {1}
        check(server_url)


def losing(book: Any, monkeypatch: pytest.MonkeyPatch, what: bytes = b"exchange") -> Callable[[], None]:
    """What loses the connection with the next statement of this name, which is carried out."""
    import psycopg

    real, fails = type(book._db).execute, False

    def execute(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        nonlocal fails
        cursor = real(self, query, *args, **options)
        if self is book._db and what in query and fails:
            fails = False
            self.close()
            raise psycopg.OperationalError("the connection is lost")
        return cursor

    def lose() -> None:
        nonlocal fails
        fails = True

    monkeypatch.setattr(type(book._db), "execute", execute)
    return lose


async def test_what_was_lent_to_a_begin_that_nobody_was_told_of_is_given_back(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger_at(server_url, patience=0.0, max_charges=1) as ledger:
        lose = losing(await book_of(ledger), monkeypatch)
        await do(ledger, CHECKING, callback=b"place", patience=60.0)
        lose()
        with pytest.raises(LedgerError, match="cannot be reached"):
            await ledger.begin(ask(ledger, callback=b"place", overdue=True))
        assert rows(server_url, "SELECT borrows FROM intents") == [(True,)]
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        assert rows(server_url, "SELECT reserved FROM outstanding") == [(True,)]
        assert await ledger.deliver([b"place"], answered())
        check(server_url)


async def test_the_begins_of_a_group_that_fails_behind_them_are_ended_as_not_sent(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead owner is in the way of one, and the connection is lost as it is buried: nobody is told of the others."""
    async with ledger_at(server_url) as dead, ledger_at(server_url, patience=0.0) as ledger:
        await start(dead)
        expire(dead)
        losing(await book_of(ledger), monkeypatch, b"bury(")()
        begun = [asyncio.create_task(ledger.begin(ask(ledger, number))) for number in (1, 2, 3)]
        assert {type(each) for each in await asyncio.gather(*begun, return_exceptions=True)} == {LedgerError}
        assert await ledger.find([ask(ledger, 4)]) == [None]  # it is connected again
        for number in (2, 3):
            await start(ledger, number)
        assert isinstance(await ledger.begin(ask(ledger)), Held)
        assert [record.state for record in ledger.attempts()].count(State.NOT_SENT) == 2


async def test_a_callback_whose_record_is_not_known_of_is_recorded_once(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger_at(server_url) as ledger:
        await do(ledger, CHECKING, callback=b"place")
        losing(await book_of(ledger), monkeypatch, b"deliver(")()
        assert await ledger.deliver([b"place"], answered())
        assert not await ledger.deliver([b"place"], answered())
        assert [record.state for record in ledger.attempts()].count(State.CHARGED) == 1
        check(server_url)


async def test_that_nobody_knows_whether_something_is_settled_is_said(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger_at(server_url) as ledger:
        started = await do(ledger, LOST)
        losing(await book_of(ledger), monkeypatch, b"resolve(")()
        with pytest.raises(LedgerError, match="nobody knows whether this is settled"):
            await ledger.resolve(started.ask.identity, FREE)
        assert isinstance(await ledger.begin(ask(ledger)), Started)  # it is


async def test_two_purge_at_once(server_url: str) -> None:
    from aisolution_async.ledger import server
    from aisolution_async.ledger.shared import _PURGE
    from aisolution_async.ledger.urls import Server

    async with ledger_at(server_url) as ledger:
        for number in range(3):
            await do(ledger, answered(), number)
        with running().connect(server_url) as db, db.transaction():
            later = 10**16
            db.execute(server.named(Server(server_url), _PURGE), (later, later, 0, 1))
            purging = asyncio.create_task(ledger.purge(-1.0))
            await waits(server_url, "looked AS")
        assert await purging == 0
        assert sum(record.reply is not None for record in ledger.answers()) == 0
        check(server_url)


async def test_a_begin_whose_commit_is_unknown_is_ended_as_not_sent(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger_at(server_url, patience=0.0) as ledger:
        lose = losing(await book_of(ledger), monkeypatch)
        lose()
        with pytest.raises(LedgerError, match="cannot be reached"):
            await ledger.begin(ask(ledger))
        assert rows(server_url, "SELECT count(*) FROM intents") == [(1,)]  # it was recorded, and nobody was told
        started = await start(ledger)
        lose()
        with pytest.raises(LedgerError, match="cannot be reached"):
            await ledger.end(started, answered())
        assert isinstance(await ledger.begin(ask(ledger)), Stored)  # it is done again by itself
        assert [record.state for record in ledger.attempts()] == [State.NOT_SENT, State.CHARGED]
        check(server_url)


@contextlib.asynccontextmanager
async def going_on_without(url: str, ledger: AnyLedger, *asks: Ask) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Begins in a group that the server is still at when its connection is lost; at the end of this, it goes on."""
    book = await book_of(ledger)
    with running().connect(url) as db, db.transaction():
        db.execute("SELECT FROM book FOR UPDATE")
        begun = [asyncio.create_task(ledger.begin(each)) for each in asks]
        await waits(url, "exchange(")
        with socket.socket(fileno=os.dup(book._db.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
        yield begun


async def test_a_server_that_goes_on_after_its_connection_was_lost(server_url: str) -> None:
    """What it records then is in nobody's way: neither in that of who asked, nor in that of others."""
    async with ledger_at(server_url, max_charges=2) as ledger:
        async with going_on_without(server_url, ledger, ask(ledger, 1), ask(ledger, 2)) as begun:
            await waits(server_url, "exchange(", 2)  # the same group, asked anew
        started = await asyncio.gather(*begun)
        assert all(isinstance(each, Started) for each in started)
        for each in started:
            await ledger.end(each, answered())
        assert isinstance(await ledger.begin(ask(ledger, 1)), Stored)
        assert sums(ledger) == (2, 0, 0, 0)


@pytest.mark.parametrize("ends", ["renewed", "closed"])
async def test_what_a_server_records_too_late_for_who_asked(server_url: str, ends: str) -> None:
    async with ledger_at(server_url) as other:
        async with ledger_at(server_url, patience=0.0) as ledger:
            async with going_on_without(server_url, ledger, ask(ledger)) as begun:
                with pytest.raises(LedgerError, match="cannot be reached"):
                    await begun[0]
                assert await ledger.find([ask(ledger)]) == [None]  # by a new connection
            while rows(server_url, "SELECT count(*) FROM intents") == [(0,)]:
                await asyncio.sleep(0.005)
            assert isinstance(await other.begin(ask(other)), Busy)
            if ends == "renewed":
                await on_book(ledger, lambda book: book.renew())
                assert isinstance(await other.begin(ask(other)), Started)
        assert rows(server_url, "SELECT state, holds FROM attempts") == [("not sent", 0)]
        if ends == "closed":
            await start(other)


@pytest.mark.parametrize("last", ["begin", "end"])
async def test_a_server_that_lost_its_memory_is_refused(server_url: str, last: str) -> None:
    """As a standby is that took over, and lacks the last commit. Its sequence is ahead of its rows."""
    async with ledger_at(server_url, patience=0.0) as ledger:
        ended, started = await start(ledger, 1), await start(ledger, 2)
        await ledger.end(ended, answered())
        lost = "attempts"
        if last == "begin":
            started = await start(ledger, 3)
            lost = f"intents WHERE id = {started.id}"
        rows(server_url, f"CREATE TABLE kept AS SELECT * FROM {lost}; DELETE FROM {lost}")
        await on_book(ledger, lambda book: book._disconnect())
        for _ in range(2):
            with pytest.raises(LedgerError, match="is not what it was"):
                await ledger.begin(ask(ledger, 4))
        with pytest.raises(LedgerError, match="is not what it was"):
            await ledger.end(started, answered())
        rows(server_url, f"INSERT INTO {lost.partition(' ')[0]} SELECT * FROM kept")
        assert isinstance(await ledger.begin(ask(ledger, 3 if last == "begin" else 2)), Stored)


async def test_a_server_that_was_made_anew_is_refused(server_url: str) -> None:
    async with ledger_at(server_url, patience=0.0) as ledger:
        rows(server_url, "UPDATE book SET hash_key = 'another'")
        await on_book(ledger, lambda book: book._disconnect())
        with pytest.raises(LedgerError, match="is not what it was"):
            await ledger.begin(ask(ledger))


async def test_who_waits_for_others_asks_once_for_all(ledger_of_another: tuple[AnyLedger, AnyLedger]) -> None:
    ledger, other = ledger_of_another
    started = [await start(ledger, number) for number in range(30)]
    book = await book_of(other)
    looks: list[int] = []
    real = book.still_busy

    def still_busy(identities: Any) -> Any:
        looks.append(len(identities))
        return real(identities)

    book.still_busy = still_busy

    async def wait(number: int) -> None:
        while isinstance(verdict := await other.begin(ask(other, number)), Busy):
            await verdict.wait()
        assert isinstance(verdict, Stored)

    waiting = [asyncio.create_task(wait(number)) for number in range(30)]
    while not looks:
        await asyncio.sleep(0.01)
    for each in started:
        await ledger.end(each, answered())
    await asyncio.gather(*waiting)
    assert looks[0] == 30
    assert len(looks) < 5


# ------------------------------------------------------------------------------------ servers and poolers of all kinds


async def test_a_role_whose_transactions_are_of_another_kind(server_url: str) -> None:
    """REPEATABLE READ keeps the old snapshot, and pays twice: it is put right or, where that does not last, refused."""
    name = f"role_{os.urandom(4).hex()}"
    rows(server_url, f"CREATE ROLE {name} LOGIN SUPERUSER")
    rows(server_url, f"ALTER ROLE {name} SET default_transaction_isolation = 'repeatable read'")
    rows(server_url, f"ALTER ROLE {name} SET synchronous_commit = off")
    url = server_url.replace("postgres@", f"{name}@")
    async with ledger_at(url) as ledger:
        await do(ledger, answered())
        synced = "SELECT current_setting('synchronous_commit')"
        assert await on_book(ledger, lambda book: book._once(synced)) == [("off",)]

        def within(book: Any) -> Any:  # and what the function does lasts until its commit
            with book._db.transaction():
                book.renew()
                return book._once(synced)

        assert await on_book(ledger, within) == [("on",)]
        # A pooler gives each transaction a session as it was made.
        await on_book(ledger, lambda book: book._db.execute("DISCARD ALL"))
        with pytest.raises(LedgerError, match="READ COMMITTED"):
            await ledger.begin(ask(ledger, 2))
        rows(server_url, f"ALTER ROLE {name} RESET ALL")
        await on_book(ledger, lambda book: book._disconnect())
        await start(ledger, 2)


async def test_nothing_is_kept_in_a_session(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind PgBouncer, which may give each transaction another session."""
    async with ledger_at(server_url) as ledger:
        book = await book_of(ledger)
        real = type(book._db).execute

        def execute(self: Any, query: Any, *args: Any, **options: Any) -> Any:
            if self is book._db and not self.info.transaction_status:
                real(self, "DISCARD ALL")
            return real(self, query, *args, **options)

        monkeypatch.setattr(type(book._db), "execute", execute)
        await asyncio.gather(*(do(ledger, answered(), number) for number in range(20)))
        await do(ledger, LOST, 20, key="A")
        assert await ledger.resolve("A", FREE) == 1
        assert len(await ledger.find([ask(ledger, 3)])) == 1
        await ledger.limit(30)
        assert len(list(ledger.attempts())) == 21
        assert await ledger.purge(-1.0) == 21
        await do(ledger, UNSENT, 21)
        check(server_url)


async def test_two_in_each_others_way(server_url: str) -> None:
    """A deadlock is undone by the server, and the group is asked again."""
    import psycopg

    async with ledger_at(server_url) as ledger:
        book = await book_of(ledger)
        left = [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure]
        real = book._sql

        def sql(query: str) -> bytes:
            if left and "exchange" in query:
                raise left.pop()("not told")
            found: bytes = real(query)
            return found

        book._sql = sql
        await do(ledger, answered())
        assert not left


async def test_schemas_that_are_no_ledger(server_url: str) -> None:
    schema = server_url.partition("schema=")[2]
    rows(server_url, f"CREATE SCHEMA {schema}")
    async with ledger_at(server_url):
        """An empty schema, which somebody made for it, will do."""
    for table in (
        "book AS SELECT 1 AS x",
        "other AS SELECT 1 AS x",
        "book AS SELECT 'Emma' AS title, 1 AS version",  # as of many other programs
        "book AS SELECT 'Emma' AS title, 0 AS version",
        "book AS SELECT '1.0' AS version, ''::bytea AS hash_key",
        "book AS SELECT NULL::int AS version, ''::bytea AS hash_key",
    ):
        rows(server_url, f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table}")
        before = rows(server_url, f"SELECT * FROM {table.split()[0]}")
        with pytest.raises(LedgerError, match="a schema of something else"):
            await ledger_at(server_url).open()
        with pytest.raises(LedgerError, match="a schema of something else|there is no ledger"):
            ledger_at(server_url).summary()
        assert rows(server_url, f"SELECT * FROM {table.split()[0]}") == before
        assert rows(server_url, f"SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'") == [(1,)]
    rows(server_url, f"DROP SCHEMA {schema} CASCADE")
    async with ledger_at(server_url):
        rows(server_url, "UPDATE book SET version = 99")
    with pytest.raises(LedgerError, match="install the newer"):
        await ledger_at(server_url).open()
    with pytest.raises(LedgerError, match="install the newer"):
        ledger_at(server_url).summary()


async def test_a_user_who_may_not(server_url: str) -> None:
    name = f"role_{os.urandom(4).hex()}"
    rows(server_url, f"CREATE ROLE {name} LOGIN")
    url = server_url.replace("postgres@", f"{name}@")
    with pytest.raises(LedgerError, match="this user may not use the ledger"):
        await ledger_at(url).open()
    async with ledger_at(server_url) as ledger:
        await do(ledger, answered())
    with pytest.raises(LedgerError, match="this user may not use the ledger"):
        ledger_at(url).summary()
    with pytest.raises(LedgerError, match="does not exist"):
        await ledger_at(server_url.replace("/postgres?", "/nowhere?")).open()


async def test_many_make_the_ledger_at_once(server_url: str) -> None:
    ledgers = [ledger_at(server_url) for _ in range(8)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    assert len({ask(ledger) for ledger in ledgers}) == 1
    await asyncio.gather(*(ledger.aclose() for ledger in ledgers))


async def test_one_operation_that_cannot_be_does_not_take_the_others_down(server_url: str) -> None:
    async with ledger_at(server_url) as ledger:
        good = [ledger.begin(ask(ledger, n)) for n in range(20)]
        bad = ledger.begin(Ask(WHATSAPP, object(), within=1.0))  # type: ignore[arg-type]
        *answers, error = await asyncio.gather(*good, bad, return_exceptions=True)
        assert all(isinstance(answer, Started) for answer in answers)
        assert isinstance(error, LedgerError)
        started = await start(ledger, 99)
        huge = Result(Attempt(CHARGED, "OK", 10**30, clock.today(), 1.0), reply=b"{}", answer=True)
        good_ends = [ledger.end(answer, answered()) for answer in answers if isinstance(answer, Started)]
        *done, failed = await asyncio.gather(*good_ends, ledger.end(started, huge), return_exceptions=True)
        assert done == [None] * 20
        assert isinstance(failed, LedgerError)
        assert ledger._unrecorded == {}  # no later group has to try it again
        await ledger.end(started, answered())
        assert len(list(ledger.answers())) == 21
        check(server_url)


async def test_text_that_no_server_takes(server_url: str) -> None:
    async with ledger_at(server_url) as ledger:
        await do(ledger, Result(Attempt(CHARGED, "a\0b", 200, clock.today(), 1.0, "bad \udfff"), reply=b'"\\u0000"'))
        assert [(r.status, r.error) for r in ledger.attempts()] == [("a\ufffdb", "bad ?")]
        assert rows(server_url, "SELECT reply FROM attempts") == [('"\\u0000"',)]


async def test_no_local_of_an_error_has_a_password(server_url: str) -> None:
    """A server that a ledger cannot be on is refused where the connection is made."""
    name = f"ascii_{random.getrandbits(31)}"
    rows(server_url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    ledger = ledger_at(f"{server_url.replace('/postgres?', f'/{name}?')}&password={'-'.join(['s3', 'cret'])}")
    for read in (ledger.summary, lambda: [*ledger.attempts()]):
        with pytest.raises(LedgerError, match="needs a database in UTF8") as caught:
            read()
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert "s3-cret" not in "".join(shown.format())
    rows(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_no_secret_is_on_the_server(server_url: str) -> None:
    def script(request: httpx.Request, number: int) -> httpx.Response:
        if request.url.path == "/v1/addface":
            return says("OK", {"group_id": GROUP_ID, "person_id": "p", "person_count": 1})
        return says("OK", {"unfit": TOKEN}) if number % 3 == 0 else says("INVALID_INPUT", f"token {TOKEN}")

    async with client_of(Vendor(script), ledger=server_url) as client:
        await taken(client.batch([AddFace(picture(1), key="k"), *asks(6)], concurrency=1))
    content = ""
    for table in ("book", "owners", "intents", "attempts", "outstanding", "rollup"):
        content += "".join(line for (line,) in rows(server_url, f"SELECT t::text FROM {table} t"))
    assert "unfit" in content
    for secret in (TOKEN, GROUP_ID, "62813"):
        assert secret not in content


async def test_the_lease_is_renewed_while_nothing_is_asked(server_url: str) -> None:
    async with ledger_at(server_url, lease=0.3) as ledger:
        await start(ledger)
        first = rows(server_url, "SELECT expires_at FROM owners")
        while rows(server_url, "SELECT expires_at FROM owners") == first:
            await asyncio.sleep(0.02)
        assert (await book_of(ledger)).lease.is_good()


MANY = """INSERT INTO attempts
    (id, identity, started_at, elapsed, price, number, state, holds, may_charge, answer, endpoint, status, reply)
    SELECT nextval('ids'), md5(n::text)::uuid, extract(epoch FROM now())::bigint * 1000000 - {ago} * 1000000, 0, 0, 1,
        'charged', 0, true, true, 'gliswadetail', 'OK', '{{}}' FROM generate_series(1, {count}) AS n"""


async def test_a_purge_of_very_many_stays_alive_whether_they_are_old_or_not(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on behind those that are young, and renews its lease on its way, and while the server cleans up."""
    real, ahead, renewals = clock.continuous, 0.0, []
    monkeypatch.setattr(clock, "continuous", lambda: real() + ahead)
    async with ledger_at(server_url) as ledger:
        book = await book_of(ledger)
        once, renew = book._once, book.renew

        def slow(query: str, *values: Any, **options: Any) -> Any:
            nonlocal ahead
            ahead += 11.0
            return once(query, *values, **options)

        monkeypatch.setattr(book, "_once", slow)
        monkeypatch.setattr(book, "renew", lambda: renewals.append(renew()))
        for ago, count in ((1000, 2), (0, 12_000), (1000, 3)):
            rows(server_url, MANY.format(ago=ago, count=count))
        assert await ledger.purge(500) == 5
        assert len(renewals) >= 4
        assert book.lease.is_good()
        assert rows(server_url, "SELECT count(*) FROM attempts WHERE reply IS NOT NULL") == [(12_000,)]
        assert rows(server_url, "SELECT id FROM attempts WHERE reply IS NULL") == [
            (n,) for n in (1, 2, 12003, 12004, 12005)
        ]
        assert await ledger.purge(500) == 0


async def test_what_is_read_of_very_many_is_sorted_by_nobody(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of ids, with those under way at their places; the server goes by its index."""
    from aisolution_async.ledger import postgres, server

    queries: list[str] = []
    real = postgres.rows

    def seen(db: Any, place: Any, query: str) -> Any:
        queries.append(server.named(place, query).decode())
        return real(db, place, query)

    monkeypatch.setattr(postgres, "rows", seen)
    async with ledger_at(server_url) as ledger:
        await start(ledger, "under way")
        await do(ledger, answered(), "over")
        await do(ledger, CHECKING, "to come", callback=b"place")
        await do(ledger, LOST, "held")
        rows(server_url, MANY.format(ago=0, count=12_000))
        rows(server_url, "ANALYZE attempts")
        found = [record.id for record in ledger.attempts()]
        assert (found[:5], found) == ([0, 1, 2, 3, 4], sorted(found))
        assert [record.state for record in ledger.attempts()][:2] == [State.INTENDED, State.INTENDED]
        assert [len(list(each)) for each in (ledger.answers(), ledger.held())] == [12_001, 1]
        with running().connect(server_url) as db:
            for query in {query for query in queries if ".attempts" in query}:
                with db.transaction():
                    plan = db.execute(f"EXPLAIN DECLARE looked CURSOR FOR {query}").fetchall()
                assert "Index Scan" in plan[0][0], plan
