"""A ledger on a server behind PgBouncer in transaction mode: each transaction may have another session."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from aisolution_async import LedgerError
from aisolution_async.ledger import Busy, Held, Started, State, Stored

from .ledgers import CHECKING, FREE, LOST, AnyLedger, answered, ask, check, do, ledger_at, rows, start
from .servers import running
from .test_ledger_shared import billed, race

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_all_operations(server_url: str) -> None:
    with running().pooled(server_url, sessions=2) as url:
        ledgers = [ledger_at(url, max_charges=100) for _ in range(4)]
        await asyncio.gather(*(ledger.open() for ledger in ledgers))

        async def ask_all(ledger: AnyLedger) -> None:
            for number in range(40):
                while isinstance(verdict := await ledger.begin(ask(ledger, number)), Busy):
                    await verdict.wait()
                if isinstance(verdict, Started):
                    await ledger.end(verdict, answered())
                else:
                    assert isinstance(verdict, Stored)

        await asyncio.gather(*(ask_all(ledger) for ledger in ledgers))
        ledger = ledgers[0]
        assert [record.state for record in ledger.attempts()] == [State.CHARGED] * 40
        await do(ledger, CHECKING, 50, callback=b"place")
        assert await ledgers[1].deliver([b"place"], answered())
        await do(ledger, LOST, 51, key="A")
        assert isinstance(await ledgers[1].begin(ask(ledgers[1], 51)), Held)
        assert await ledgers[2].resolve("A", FREE) == 1
        assert len([each for each in await ledgers[3].find([ask(ledger, n) for n in range(45)]) if each]) == 40
        await ledgers[3].limit(41)
        assert ledger.summary().max_charges == 41
        assert len(list(ledger.answers())) == 41
        assert await ledger.purge(-1.0) == 43
        for each in ledgers:
            await each.aclose()
    check(server_url)


def test_four_processes_pay_once(server_url: str, tmp_path: Path) -> None:
    with running().pooled(server_url, sessions=2) as url:
        race(url, tmp_path / "bill", 300, at_once=10)
    assert sorted(billed(tmp_path / "bill")) == list(range(300))
    check(server_url)


async def test_a_role_whose_transactions_are_of_another_kind(server_url: str) -> None:
    """What was put right at the connection holds for one session: in another one, nothing is begun."""
    name = f"role_{os.urandom(4).hex()}"
    rows(server_url, f"CREATE ROLE {name} LOGIN SUPERUSER")
    rows(server_url, f"ALTER ROLE {name} SET default_transaction_isolation = 'repeatable read'")
    with running().pooled(server_url.replace("postgres@", f"{name}@"), sessions=2) as url:
        async with ledger_at(url) as ledger:
            started = await start(ledger)
            with running().connect(url) as db, db.transaction():  # has the session that was put right
                db.execute("SELECT 1")
                with pytest.raises(LedgerError, match="READ COMMITTED"):
                    await ledger.begin(ask(ledger, 2))
                with pytest.raises(LedgerError, match="READ COMMITTED"):
                    await ledger.end(started, answered())
            assert isinstance(await ledger.begin(ask(ledger)), Stored)  # it is done again by itself
            await do(ledger, answered(), 2)
        assert Counter(record.state for record in ledger.attempts()) == {State.CHARGED: 2}
    check(server_url)


async def test_a_pooler_that_goes_away_and_is_back(server_url: str) -> None:
    """As a server that does: what was answered is recorded, by way of the next one."""
    with running().pooled(server_url, sessions=2) as url:
        ledger = ledger_at(url, patience=0.0)
        await ledger.open()
        started = await start(ledger)
    with pytest.raises(LedgerError, match="cannot be reached"):
        await ledger.end(started, answered())
    folder = url.partition("host=")[2].partition("&")[0]
    with running().pooled(server_url, sessions=2, folder=Path(folder)):
        assert isinstance(await ledger.begin(ask(ledger)), Stored)
        await ledger.aclose()
    check(server_url)
