"""A ledger on a server: who is alive, what that allows, and what the server itself refuses, where two meet."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock
from uuid import UUID

import httpx
import pytest

from aisolution_async import AsyncClient, LedgerError, clock
from aisolution_async.charges import Charge
from aisolution_async.ledger import Busy, Exhausted, Held, Started, State, Stored, server
from aisolution_async.ledger.postgres import LEASE, SharedLedger
from aisolution_async.ledger.rows import DIED
from aisolution_async.ledger.shards import Took
from aisolution_async.ledger.store import Lease
from aisolution_async.ledger.taking import SharedShards

from .ledgers import (
    CHARGED,
    CHECKING,
    FREE,
    LOST,
    AnyLedger,
    answered,
    ask,
    book_of,
    check,
    do,
    expire,
    ledger_at,
    on_book,
    rows,
    start,
    sums,
    waits,
)
from .servers import running
from .support import LAST_RESORT, TOKEN, ok_whatsapp, raw_server

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


@pytest.fixture
async def two(server_url: str) -> AsyncIterator[tuple[AnyLedger, AnyLedger]]:
    """Two owners of one ledger."""
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        yield ledger, other


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By how many seconds the clock of leases is ahead: its sum."""
    real, seconds = clock.continuous, [0.0]
    monkeypatch.setattr(clock, "continuous", lambda: real() + sum(seconds))
    return seconds


# -------------------------------------------------------------------------------------------------- who is alive


async def test_the_lease_is_renewed_while_it_is_asked_all_the_time(server_url: str, ahead: list[float]) -> None:
    """As who waits for others does: when one thing is done, the next is there, and none of them renews it."""
    begun, there = threading.Event(), threading.Event()

    def take_a_third_of_the_lease(_: object) -> None:
        begun.set()
        there.wait(LAST_RESORT)
        ahead.append(LEASE / 3)

    def look(_: object) -> list[Any]:
        return rows(server_url, "SELECT expires_at FROM owners")

    async with ledger_at(server_url) as ledger:
        first = await on_book(ledger, look)
        ledger._submit(take_a_third_of_the_lease)
        await asyncio.to_thread(begun.wait, LAST_RESORT)
        second = ledger._submit(look)
        await asyncio.sleep(0)  # until it is handed over
        there.set()
        assert await second != first


async def test_who_waits_for_somebody_who_dies_is_told(two: tuple[AnyLedger, AnyLedger]) -> None:
    ledger, other = two
    await start(ledger)
    verdict = await other.begin(ask(other))
    assert isinstance(verdict, Busy)
    waiting = asyncio.create_task(verdict.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    expire(ledger)
    await waiting
    assert isinstance(await other.begin(ask(other)), Held)


async def test_who_renews_while_it_is_being_buried_lives(two: tuple[AnyLedger, AnyLedger], server_url: str) -> None:
    """The expiry is looked at again once the row is locked: its owner had the lock, and renewed."""
    ledger, other = two
    started = await start(ledger)
    owner = (await book_of(ledger))._owner
    expire(ledger)
    with running().connect(server_url) as db, db.transaction():
        db.execute("UPDATE owners SET expires_at = clock_timestamp() + interval '30 s' WHERE id = %s", (owner,))
        bury = "SELECT ledger.bury(%s, false, %s)"
        buried = asyncio.create_task(on_book(other, lambda book: book._once(bury, owner, DIED)))
        await waits(server_url, "bury(")
    assert await buried == [(False,)]
    assert isinstance(await other.begin(ask(other)), Busy)
    await ledger.end(started, answered())
    assert isinstance(await other.begin(ask(other)), Stored)


async def test_who_is_buried_while_it_asks_does_not_send(two: tuple[AnyLedger, AnyLedger], server_url: str) -> None:
    """The group waits for who buries its owner, and is asked anew by the next owner."""
    ledger, other = two
    first = await start(ledger, 1)
    expire(ledger)
    owner = (await book_of(ledger))._owner
    with running().connect(server_url) as db, db.transaction():
        db.execute("SELECT bury(%s, false, %s)", (owner, DIED))
        begun = asyncio.create_task(ledger.begin(ask(ledger, 2)))
        await waits(server_url, "exchange(")
    second = await begun
    assert isinstance(second, Started)
    assert rows(server_url, "SELECT owner FROM intents") != [(owner,)]
    assert isinstance(await other.begin(ask(other, 1)), Held)
    await ledger.end(first, answered())
    await ledger.end(second, answered())
    check(server_url)


async def test_a_lease_counts_from_before_the_group_was_sent(
    server_url: str, ahead: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server sets its end later than that, however long the way there and back takes."""
    async with ledger_at(server_url) as ledger:
        book = await book_of(ledger)

        class Slow:
            """A connection on which each answer comes 20 s late."""

            def __init__(self, db: Any) -> None:
                self._db = db

            def execute(self, *args: Any, **options: Any) -> Any:
                cursor = self._db.execute(*args, **options)
                ahead.append(20.0)
                return cursor

            def __getattr__(self, name: str) -> Any:
                return getattr(self._db, name)

        book._db = Slow(book._db)
        book.renews_at = math.inf  # so that nothing else takes its time
        monkeypatch.setattr(book, "keep_share", lambda: 1.0)
        before = clock.continuous()
        started = await start(ledger)
        assert started.lease is not None
        assert started.lease.until < before + 35.0
        expire(ledger)
        rows(server_url, "SELECT bury(id, false, 'slow') FROM owners")
        before = clock.continuous()
        # Fenced, after 20 s; then an owner anew, after 20 s more, its part of a rate, after 20 s more, and its group.
        started = await start(ledger, 2)
        assert started.lease is not None
        assert started.lease.until < before + 95.0
        book.lease.until = 0.0
        before = clock.continuous()
        await on_book(ledger, lambda book: book._enter_anew())
        assert book.lease.until < before + 35.0


# ------------------------------------------------------------------------------------- who stands still, and holds on


@contextlib.asynccontextmanager
async def standing_still(server_url: str, query: str) -> AsyncIterator[Any]:
    """The session of a process that is frozen, and reads nothing of what it asked for: it has that locked."""
    path, _, schema = server_url.partition("&schema=")
    db = running().psycopg.connect(path, autocommit=True)
    try:
        db.execute(f'SET search_path = "{schema}"')
        db.pgconn.send_query(f"WITH x AS MATERIALIZED ({query}) SELECT count(*), repeat('x', 50000000) FROM x".encode())
        stands = f"SELECT 1 FROM pg_stat_activity WHERE pid = {db.info.backend_pid} AND wait_event = 'ClientWrite'"
        while not rows(running().url(), stands):
            await asyncio.sleep(0.005)
        yield db
    finally:
        db.close()


def is_ended(db: Any) -> bool:
    """Whether the server has ended the session: else it gives the answer."""
    return bool(db.pgconn.get_result().error_message)


def shards_of(ledger: AnyLedger) -> SharedShards:
    assert isinstance(ledger, SharedLedger)
    return ledger.shards(UUID(int=1))


@pytest.fixture
def hurry(server_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """As if time went faster for who waits for a lock in the functions that are named."""
    monkeypatch.setattr(server, "STILL", 0.0)
    monkeypatch.setattr(server, "LOCK_TIMEOUT", "SET LOCAL lock_timeout = '20ms'")

    def hurry(*functions: str) -> None:
        for function in functions:
            rows(server_url, f"ALTER FUNCTION {function} SET lock_timeout = '20ms'")

    return hurry


async def test_who_stands_still_when_its_lease_is_over_keeps_nobody_out(
    server_url: str, hurry: Callable[..., None]
) -> None:
    async with ledger_at(server_url) as ledger:
        await start(ledger)
        expire(ledger)
        hurry("bury")
        async with standing_still(server_url, "SELECT * FROM owners FOR NO KEY UPDATE") as frozen:
            async with ledger_at(server_url) as other:
                assert isinstance(await other.begin(ask(other)), Held)
            assert is_ended(frozen)
    check(server_url)


@pytest.mark.parametrize(
    ("what", "locked"),
    [
        ("begin", "owners"),
        ("end", "intents"),
        ("limit", "book"),
        ("resolve", "attempts"),
        ("shard", "owners"),
        ("open", "book"),
        ("purge", "attempts"),
        ("purge what is awaited", "outstanding"),
    ],
)
async def test_nobody_waits_for_ever_for_who_stands_still(
    server_url: str, hurry: Callable[..., None], what: str, locked: str
) -> None:
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        started = await start(ledger)
        await do(ledger, LOST, 2, key="lost")
        await do(ledger, CHECKING, 4, callback=b"place")
        if what == "shard":
            assert await shards_of(ledger).take("a.csv") is Took.TAKEN
            expire(ledger)
        hurry("exchange", "set_limit", "resolve", "bury", "take_share")
        async with standing_still(server_url, f"SELECT * FROM {locked} FOR NO KEY UPDATE") as frozen:
            match what:
                case "begin":
                    await start(other, 3)
                case "end":
                    await ledger.end(started, answered())
                case "limit":
                    await other.limit(100)
                case "resolve":
                    assert await other.resolve("lost", Charge.CHARGED) == 1
                case "open":
                    async with ledger_at(server_url) as third:
                        await start(third, 3)
                        assert rows(server_url, "SELECT count(*) FROM owners") == [(3,)]  # one for each
                case "purge" | "purge what is awaited":
                    await other.purge(-1.0)
                case _:
                    assert await shards_of(other).take("a.csv") is Took.TAKEN
            assert is_ended(frozen)
    check(server_url)


async def test_who_reads_at_leisure_is_not_ended(server_url: str, hurry: Callable[..., None]) -> None:
    """As `aisolution ledger show` into a pager does: it keeps nobody waiting."""
    async with ledger_at(server_url) as ledger:
        await do(ledger, answered())
        hurry("exchange")
        async with standing_still(server_url, "SELECT * FROM attempts") as reading:
            async with standing_still(server_url, "SELECT * FROM owners FOR NO KEY UPDATE") as frozen:
                await start(ledger, 2)
                assert is_ended(frozen)
            assert not is_ended(reading)


async def test_who_lost_its_connection_does_not_wait_for_ever_either(
    server_url: str, hurry: Callable[..., None]
) -> None:
    """With the connection, it lost the answer to a begin, which it ends first."""
    async with ledger_at(server_url) as ledger:
        await start(ledger)

        def lose(book: Any) -> None:
            book._known.clear()
            book._db.close()

        await on_book(ledger, lose)
        hurry("exchange")
        async with standing_still(server_url, "SELECT * FROM owners FOR NO KEY UPDATE") as frozen:
            await start(ledger, 2)
            assert is_ended(frozen)
        assert [record.state for record in ledger.attempts()] == [State.NOT_SENT, State.INTENDED]
    check(server_url)


async def test_a_session_is_ended_whose_user_takes_on_a_role(server_url: str, hurry: Callable[..., None]) -> None:
    name = f"role_{os.urandom(4).hex()}"
    rows(server_url, f"CREATE ROLE {name}_all; CREATE ROLE {name} LOGIN IN ROLE {name}_all")
    rows(server_url, f"GRANT CREATE ON DATABASE postgres TO {name}_all; ALTER ROLE {name} SET role = {name}_all")
    url = server_url.replace("postgres@", f"{name}@")
    async with ledger_at(url) as ledger:
        await do(ledger, answered())
        hurry("exchange")
        async with standing_still(url, "SELECT * FROM owners FOR NO KEY UPDATE") as frozen:
            await start(ledger, 2)
            assert is_ended(frozen)


async def test_that_somebody_has_it_locked_is_told_in_the_end(
    server_url: str, hurry: Callable[..., None], ahead: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is an administrator, who has a transaction open: that is not ended."""
    end_still = server.end_still

    def look(*known: Any) -> None:
        end_still(*known)
        ahead.append(5.0)

    monkeypatch.setattr(server, "end_still", look)
    async with ledger_at(server_url) as ledger:
        hurry("exchange")
        with running().connect(server_url) as db, db.transaction():
            db.execute("SELECT FROM owners FOR UPDATE")
            with pytest.raises(LedgerError, match="somebody has locked what this takes"):
                await ledger.begin(ask(ledger))
            db.execute("SELECT FROM owners")  # its session is still there
        await start(ledger)


async def test_nobody_needs_the_right_to_end_sessions(
    server_url: str, hurry: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a server gives it to nobody, a worker that opens the ledger buries the dead another time."""
    monkeypatch.setattr(server, "_END_STILL", "SELECT pg_no_such_function(%s, %s)")
    async with ledger_at(server_url) as ledger:
        await start(ledger)
        expire(ledger)
        hurry("bury")
        async with standing_still(server_url, "SELECT * FROM owners FOR NO KEY UPDATE"):
            async with ledger_at(server_url) as other:
                await start(other, 2)
    check(server_url)


# ----------------------------------------------------------------------------------------- from an earlier version


@pytest.fixture
async def earlier(server_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a ledger that was made by version 2."""
    text = server.definition()
    with monkeypatch.context() as patch:
        patch.setattr(server, "VERSION", 2)
        patch.setattr(server, "definition", lambda: text.partition("-- Version 3")[0])
        async with ledger_at(server_url) as ledger:
            await do(ledger, answered())
    return server_url


async def test_a_ledger_is_brought_up_beside_who_stands_still(earlier: str, hurry: Callable[..., None]) -> None:
    hurry()
    async with standing_still(earlier, "SELECT * FROM book FOR UPDATE") as frozen:
        async with ledger_at(earlier) as ledger:
            assert isinstance(await ledger.begin(ask(ledger)), Stored)
        assert is_ended(frozen)
    assert rows(earlier, "SELECT version FROM book") == [(server.VERSION,)]
    check(earlier)


async def test_who_made_a_ledger_brings_it_up(earlier: str) -> None:
    name, schema = f"role_{os.urandom(4).hex()}", earlier.partition("&schema=")[2]
    rows(earlier, f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {name}")
    rows(earlier, f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {name}")
    rows(earlier, f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {name}")
    url = earlier.replace("postgres@", f"{name}@")
    with pytest.raises(LedgerError, match="is of version 2, and only the user who made it"):
        async with ledger_at(url):
            pass
    async with ledger_at(earlier):
        pass
    async with ledger_at(url) as ledger:
        assert isinstance(await ledger.begin(ask(ledger)), Stored)


async def test_a_new_owner_has_nothing_of_the_one_before(two: tuple[AnyLedger, AnyLedger], server_url: str) -> None:
    """Whatever the clocks said: who was buried sends nothing any more that it had leave for."""
    ledger, other = two
    before = await start(ledger)
    expire(ledger)
    assert isinstance(await other.begin(ask(other)), Held)
    assert before.lease is not None
    assert before.lease.is_good()  # the machine's clock went wrong, or the server's
    after = await start(ledger, 2)
    assert after.lease is not None
    assert (before.lease.is_good(), after.lease.is_good()) == (False, True)


@pytest.mark.parametrize("transport", ["pool", "httpx"])
async def test_a_lease_that_ends_on_the_way_to_the_wire(
    server_url: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was good when the call began to look for a connection: nothing leaves, and the call asks anew."""
    asked = []
    answer = ok_whatsapp().content

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                asked.append(await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    looks = iter([True, False])
    monkeypatch.setattr(Lease, "is_good", lambda _: next(looks, True))
    options: dict[str, Any] = {} if transport == "pool" else {"transport": httpx.AsyncHTTPTransport()}
    async with raw_server(serve) as url, ledger_at(server_url) as ledger:
        async with AsyncClient(TOKEN, base_url=url, ledger=ledger, **options) as client:
            reply = await client.whatsapp_detail("6281387300008")
        assert "took this process for dead" in str(reply.attempts[0].error)
        assert len(asked) == 1
        assert Counter(record.state for record in ledger.attempts()) == {State.CHARGED: 1, State.NOT_SENT: 1}


async def test_a_group_that_is_refused_by_the_database_renews_too(server_url: str) -> None:
    async with ledger_at(server_url, max_charges=1) as ledger:
        started = await start(ledger)
        handing_out_too_much(server_url)
        rows(server_url, "UPDATE book SET cap = granted")
        rows(server_url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s'")
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        assert rows(server_url, "SELECT expires_at > clock_timestamp() FROM owners") == [(True,)]
        await ledger.end(started, answered())
        check(server_url)


# ----------------------------------------------------------------------------------------------- what may be spent


def handing_out_too_much(url: str) -> None:
    """As if the handing out of leave were wrong."""
    source = rows(url, "SELECT pg_get_functiondef('borrow'::regproc)")[0][0]
    broken = source.replace("room := least(", "room := 1000 + least(")
    assert broken != source
    rows(url, broken)


async def test_who_wants_leave_waits_for_who_changes_what_there_is(server_url: str, ahead: list[float]) -> None:
    """In both directions: what another takes meanwhile is gone, and what it gives back is there."""
    async with ledger_at(server_url, max_charges=100) as ledger:
        with running().connect(server_url) as db:
            for number, granted, verdict in ((1, 100, Exhausted), (2, 0, Started)):
                with db.transaction():
                    db.execute("UPDATE book SET granted = %s, cap = 100", (granted,))
                    begun = asyncio.create_task(ledger.begin(ask(ledger, number)))
                    await waits(server_url, "exchange(")
                assert isinstance(await begun, verdict)
                ahead.append(1.5)  # that there was nothing is not remembered any more


async def test_the_database_itself_refuses_what_is_beyond_the_leave(server_url: str) -> None:
    """Where the counting goes wrong, a constraint refuses the begins of a group, and none of its ends is lost."""
    async with ledger_at(server_url, max_charges=1) as ledger:
        started = await start(ledger)
        source = rows(server_url, "SELECT pg_get_functiondef('exchange'::regproc)")[0][0]
        broken = source.replace("AND w.used < w.granted AND", "AND")
        assert broken != source
        rows(server_url, broken.replace("w.used_cost + prices[n] <= w.granted_cost", "true"))
        _, *found = await asyncio.gather(
            ledger.end(started, answered()), *(ledger.begin(ask(ledger, number)) for number in range(2, 5))
        )
        assert [type(each) for each in found] == [Exhausted] * 3
        assert len(list(ledger.answers())) == 1
        check(server_url)


async def test_that_the_budget_is_used_up_is_remembered_for_a_second(server_url: str, ahead: list[float]) -> None:
    """Not longer: meanwhile another may have given back what it had."""
    async with (
        ledger_at(server_url, max_charges=1) as ledger,
        ledger_at(server_url, max_charges=1) as other,
    ):
        started = await start(other)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        await other.end(started, LOST)
        assert await other.resolve(started.ask.identity, FREE) == 1
        assert isinstance(await ledger.begin(ask(ledger, 2)), Exhausted)
        ahead.append(1.5)
        assert isinstance(await ledger.begin(ask(ledger, 2)), Started)


# ------------------------------------------------------------------------------------------------- what came of it


async def test_the_first_answer_counts(server_url: str) -> None:
    async with ledger_at(server_url) as ledger:
        started = await do(ledger, answered())
        await ledger.end(started, answered(reply=b'{"another": 1}'))
        assert [record.reply for record in ledger.answers()] == [answered().reply]
        check(server_url)


async def test_an_answer_by_callback_lifts_every_hold(server_url: str) -> None:
    async with ledger_at(server_url) as ledger:
        await do(ledger, LOST)
        await do(ledger, LOST, callback=b"place", retry_unknown=1)
        assert ledger.summary().held == 1
        assert await ledger.deliver([b"place"], answered())
        assert ledger.summary().held == 0
        check(server_url)


async def test_a_purge_leaves_what_is_held(server_url: str) -> None:
    async with ledger_at(server_url) as ledger:
        await do(ledger, LOST)
        await do(ledger, answered(), 2)
        assert await ledger.purge(-1.0) == 1
        assert isinstance(await ledger.begin(ask(ledger)), Held)
        check(server_url)


# -------------------------------------------------------------------------------------------- a connection is lost


async def test_what_is_under_way_stays_so_where_the_connection_is_lost(two: tuple[AnyLedger, AnyLedger]) -> None:
    """Only what nobody was told of is ended with it."""
    ledger, other = two
    started = await start(ledger)
    await on_book(ledger, lambda book: book._disconnect())
    assert await ledger.find([ask(ledger, 2)]) == [None]  # it is connected again
    assert isinstance(await other.begin(ask(other)), Busy)
    await ledger.end(started, answered())
    assert [record.state for record in other.attempts()] == [State.CHARGED]


async def test_a_server_that_is_away_for_a_moment_is_waited_for(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from aisolution_async.ledger import server

    real, left = server.connect, [psycopg.OperationalError("nobody is there")] * 2

    def connect(place: Any) -> Any:
        if left:
            raise left.pop()
        return real(place)

    async with ledger_at(server_url) as ledger:
        await on_book(ledger, lambda book: book._disconnect())
        monkeypatch.setattr(server, "connect", connect)
        await do(ledger, answered())
        assert not left


async def test_an_end_that_did_not_reach_the_server_is_recorded_with_the_next(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from aisolution_async.ledger import server

    async with ledger_at(server_url, patience=0.0) as ledger:
        started = await start(ledger)
        await on_book(ledger, lambda book: book._disconnect())
        with monkeypatch.context() as patch:
            patch.setattr(server, "connect", mock.Mock(side_effect=psycopg.OperationalError("nobody is there")))
            with pytest.raises(LedgerError, match="cannot be reached"):
                await ledger.end(started, answered())
        await start(ledger, 2)
        assert [record.state for record in ledger.attempts()] == [State.CHARGED, State.INTENDED]


# ------------------------------------------------------------------------------------------- servers of other kinds


@pytest.fixture
def role(server_url: str) -> str:
    """A role for which transactions are of another kind, and commits not synced."""
    name = f"role_{os.urandom(4).hex()}"
    rows(server_url, f"CREATE ROLE {name} LOGIN SUPERUSER")
    rows(server_url, f"ALTER ROLE {name} SET synchronous_commit = off")
    return name


async def test_no_operation_works_in_a_transaction_of_another_kind(server_url: str, role: str) -> None:
    """Behind a pooler, what was put right at the connection does not last; and what is done is synced all the same."""
    synced = "SELECT current_setting('synchronous_commit')"
    async with ledger_at(server_url.replace("postgres@", f"{role}@")) as ledger:
        await do(ledger, CHECKING, callback=b"place", key="A")
        await do(ledger, LOST, 2, key="B")

        def within(work: Any) -> Any:
            def do(book: Any) -> Any:
                with book._db.transaction():
                    assert book._once(synced) == [("off",)]
                    work(book)
                    return book._once(synced)

            return do

        assert await on_book(ledger, within(lambda book: book.deliver([b"place"], answered()))) == [("on",)]
        assert await on_book(ledger, within(lambda book: book.resolve("B", FREE, None))) == [("on",)]
        await do(ledger, CHECKING, 3, callback=b"another place", key="C")
        await do(ledger, LOST, 4, key="D")
        rows(server_url, f"ALTER ROLE {role} SET default_transaction_isolation = 'repeatable read'")
        await on_book(ledger, lambda book: book._disconnect())
        await start(ledger, 5)
        await on_book(ledger, lambda book: book._db.execute("DISCARD ALL"))
        for work in (
            lambda: ledger.deliver([b"another place"], answered()),
            lambda: ledger.resolve("D", CHARGED),
            lambda: ledger.begin(ask(ledger, 6)),
        ):
            with pytest.raises(LedgerError, match="READ COMMITTED"):
                await work()
        rows(server_url, f"ALTER ROLE {role} RESET ALL")


async def test_a_server_that_cannot_be_written_is_refused(server_url: str, role: str) -> None:
    """As a standby is: an attempt that is not on the primary is known to nobody."""
    async with ledger_at(server_url) as ledger:
        await do(ledger, answered())
    rows(server_url, f"ALTER ROLE {role} SET default_transaction_read_only = on")
    with pytest.raises(LedgerError, match="name its primary"):
        await ledger_at(server_url.replace("postgres@", f"{role}@")).open()
    # Who may only read may look.
    to_read = ledger_at(server_url.replace("postgres@", f"{role}@"))
    assert sums(to_read) == (1, 0, 0, 0)
    assert [record.state for record in to_read.attempts()] == [State.CHARGED]


@pytest.mark.parametrize("setting", ["statement_timeout", "transaction_timeout"])
async def test_a_server_that_gives_no_time_says_so(server_url: str, role: str, setting: str) -> None:
    try:
        rows(server_url, f"ALTER ROLE {role} SET {setting} = '1s'")
    except running().psycopg.errors.UndefinedObject:
        pytest.skip("this server has no such setting")
    async with ledger_at(server_url):
        """It is made by another user."""
    async with ledger_at(server_url.replace("postgres@", f"{role}@"), patience=0.0) as ledger:
        with running().connect(server_url) as db, db.transaction():
            db.execute("SELECT FROM book FOR UPDATE")
            with pytest.raises(LedgerError, match=f"needs more time.*{setting}"):
                await ledger.begin(ask(ledger))
        await start(ledger)
