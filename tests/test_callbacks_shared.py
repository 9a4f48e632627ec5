"""Callbacks that come to another process than the one that waits: two clients, one ledger on a server."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from aisolution_async import Charge, Inbox, Outcome, WhatsAppDetail
from aisolution_async.ledger import State
from aisolution_async.ledger.watching import Watching

from .ledgers import check, crash, ledger_at, rows, sums
from .steps import ADDRESS, CHARGED, FREE, UNKNOWN, call_back
from .support import Vendor, client_of, in_turn, ok_whatsapp, virtual

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")

LOST = httpx.ReadError("lost")


def number_of(index: int) -> str:
    return f"+62813{index:08}"


class Asking:
    """A batch that is read in a task of its own, with its inbox."""

    def __init__(self, vendor: Vendor, ledger: Any, *, count: int = 1, patience: float = 120.0, **options: Any) -> None:
        self.client = client_of(vendor, ledger=ledger, **options)
        self.inbox = Inbox(ADDRESS, ledger=ledger, patience=patience)
        self.batch = self.client.batch(
            (WhatsAppDetail(number_of(n), key=n) for n in range(count)), inbox=self.inbox, ordered=True
        )
        self.outcomes: list[Outcome] = []
        self._count = count

    async def read(self) -> list[Outcome]:
        async with self.batch as batch:
            self.outcomes.extend([outcome async for outcome in batch])
        return self.outcomes

    async def asked(self) -> None:
        """Until the answers to all of its calls are to come."""
        while self.inbox.outstanding < self._count or self.batch.progress.in_flight:
            await asyncio.sleep(0)


def said(outcome: Outcome) -> object:
    return getattr(outcome.reply, "whatsapp", None)


def charges(outcome: Outcome) -> list[Charge]:
    return [attempt.charge for attempt in outcome.attempts]


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("answer", "charge"), [(ok_whatsapp("checking"), FREE), (LOST, UNKNOWN)])
@virtual
async def test_the_answer_reaches_the_process_that_waits_and_is_charged_once(
    server_url: str, answer: Any, charge: Charge, limited: bool
) -> None:
    loop = asyncio.get_running_loop()
    limits: dict[str, Any] = {"max_charges": 1} if limited else {}
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        vendor = in_turn(answer)
        asking = Asking(vendor, ledger, **limits)
        there = Inbox(ADDRESS, ledger=other)
        async with asking.client, asyncio.TaskGroup() as group:
            reading = group.create_task(asking.read())
            await asking.asked()
            assert there.url == asking.inbox.url
            began = loop.time()
            await call_back(there, number_of(0))
            await reading
            assert loop.time() - began <= 1.5
            (outcome,) = asking.outcomes
            assert (said(outcome), outcome.from_ledger) == ("yes", False)
            assert charges(outcome) == [charge, CHARGED]
            assert [attempt.number for attempt in outcome.attempts] == [1, 2]
            assert (asking.client.tally.charged, asking.client.tally.unknown) == (1, int(charge is UNKNOWN))
            await call_back(asking.inbox, number_of(0))  # once more, to the other address
            assert asking.inbox.counts.repeated == 1
        assert asking.client.tally.charged == there.counts.accepted == len(vendor.requests) == 1
        assert asking.inbox.outstanding == 0
        assert sums(ledger)[0] == 1
    check(server_url)


@virtual
async def test_many_wait_by_one_look(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aisolution_async.ledger.shared import SharedBook

    looks: list[int] = []
    real = SharedBook.still_awaited

    def still_awaited(book: SharedBook, identities: Any) -> set[bytes]:
        looks.append(len(identities))
        return real(book, identities)

    monkeypatch.setattr(SharedBook, "still_awaited", still_awaited)  # before the ledger is made
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        vendor = in_turn(ok_whatsapp("checking"))
        asking, there = Asking(vendor, ledger, count=50), Inbox(ADDRESS, ledger=other)
        async with asking.client, asyncio.TaskGroup() as group:
            reading = group.create_task(asking.read())
            await asking.asked()
            for n in range(50):
                await call_back(there, number_of(n), "yes" if n % 2 else "no")
            await reading
        found = [said(outcome) for outcome in asking.outcomes]
        assert found == ["no", "yes"] * 25
        assert asking.client.tally.charged == len(vendor.requests) == 50
        assert looks[0] == 50
        assert len(looks) < 10
    check(server_url)


@virtual
async def test_the_next_to_ask_has_the_answer_of_a_dead_process_for_nothing(server_url: str) -> None:
    ledger = ledger_at(server_url)
    await ledger.open()
    asking = Asking(in_turn(ok_whatsapp("checking")), ledger)
    reading = asyncio.create_task(asking.read())
    await asking.asked()
    reading.cancel()
    await asyncio.wait({reading})
    await crash(ledger)
    async with ledger_at(server_url) as other:
        await call_back(Inbox(ADDRESS, ledger=other), number_of(0))
        vendor = in_turn(ok_whatsapp("no"))
        async with client_of(vendor, ledger=other) as client:
            reply = await client.whatsapp_detail(number_of(0))
        assert (reply.whatsapp, reply.charge, vendor.requests) == ("yes", FREE, [])
        assert sums(other) == (1, 1, 0, 0)
    check(server_url)


@virtual
async def test_who_waits_for_what_another_asked_has_it_from_the_ledger(server_url: str) -> None:
    """Both wait, and the callback comes to neither: it is charged to who asked."""
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as second, ledger_at(server_url) as third:
        vendor, silent = in_turn(ok_whatsapp("checking")), in_turn(ok_whatsapp("no"))
        asking, waiting = Asking(vendor, ledger), Asking(silent, second)
        async with asking.client, waiting.client, asyncio.TaskGroup() as group:
            group.create_task(asking.read())
            await asking.asked()
            group.create_task(waiting.read())
            await waiting.asked()
            await call_back(Inbox(ADDRESS, ledger=third), number_of(0))
        assert [outcome.from_ledger for outcome in (*asking.outcomes, *waiting.outcomes)] == [False, True]
        assert (asking.client.tally.charged, waiting.client.tally.charged) == (1, 0)
        assert silent.requests == []
    check(server_url)


@virtual
async def test_what_was_settled_by_hand_is_waited_for_no_more(server_url: str) -> None:
    """Settled as free, it is asked for again; the ledger has the say."""
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        vendor = in_turn(ok_whatsapp("checking"), ok_whatsapp("no"))
        asking = Asking(vendor, ledger)
        async with asking.client, asyncio.TaskGroup() as group:
            reading = group.create_task(asking.read())
            await asking.asked()
            assert await other.resolve(0, FREE) == 1
            await reading
        assert [said(outcome) for outcome in asking.outcomes] == ["no"]
        states = Counter(record.state for record in ledger.attempts())
        assert states == {State.FREE: 1, State.CHARGED: 1}
    check(server_url)


@virtual
async def test_a_look_that_fails_ends_no_wait(server_url: str) -> None:
    async with ledger_at(server_url) as ledger, ledger_at(server_url) as other:
        asking = Asking(in_turn(ok_whatsapp("checking")), ledger)
        async with asking.client, asyncio.TaskGroup() as group:
            reading = group.create_task(asking.read())
            await asking.asked()
            rows(server_url, "ALTER TABLE outstanding RENAME TO elsewhere")
            await asyncio.sleep(3.5)
            rows(server_url, "ALTER TABLE elsewhere RENAME TO outstanding")
            assert not reading.done()
            await call_back(Inbox(ADDRESS, ledger=other), number_of(0))
            await reading
        assert asking.client.tally.charged == 1
    check(server_url)


@virtual
async def test_a_batch_that_is_left_is_looked_after_no_more() -> None:
    asked: list[list[bytes]] = []

    def look(identities: list[bytes]) -> asyncio.Future[set[bytes]]:
        asked.append(identities)
        looked: asyncio.Future[set[bytes]] = asyncio.get_running_loop().create_future()
        looked.set_result(set(identities))
        return looked

    watching, waits, told = Watching(1.0, look, tells_faults=False), True, []
    watching.add(b"question", lambda: waits, lambda: told.append(1))
    await asyncio.sleep(2.5)
    assert asked == [[b"question"], [b"question"]]
    waits = False
    await asyncio.sleep(10)
    assert (len(asked), told) == (2, [])
    waits = True
    watching.add(b"another", lambda: waits, lambda: told.append(2))
    await asyncio.sleep(1.5)
    assert asked[2:] == [[b"another"]]
