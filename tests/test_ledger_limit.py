"""The limit that a ledger keeps for all who use it, and how many owners share what is left of it."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import ConfigurationError
from aisolution_async.ledger import Busy, Exhausted, Held, Started, Stored

from .commands import run
from .ledgers import (
    LATER,
    LOST,
    WHATSAPP,
    AnyLedger,
    answered,
    ask,
    check,
    crash,
    do,
    ledger_at,
    rows,
    start,
)
from .servers import running

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_of_two_limits_the_smaller_holds(place: Path | str) -> None:
    async with ledger_at(place) as ledger:
        await ledger.limit(2)
        assert ledger.summary().max_charges == 2
        for number in range(2):
            await do(ledger, answered(), number)
        refused = await ledger.begin(ask(ledger, 3))
        assert isinstance(refused, Exhausted)
        assert "max_charges=2 is reached: 2 charged, 0 unknown, 0 under way" in refused.why
        assert isinstance(await ledger.begin(ask(ledger, 1)), Stored)
    async with ledger_at(place, max_charges=5) as ledger:  # it stays
        assert isinstance(await ledger.begin(ask(ledger, 3)), Exhausted)
        await ledger.limit(10)
        for number in range(3, 6):
            await do(ledger, LOST, number)
        refused = await ledger.begin(ask(ledger, 7))
        assert isinstance(refused, Exhausted)
        assert "max_charges=5 is reached: 2 charged, 3 unknown, 0 under way" in refused.why
        await ledger.limit(None)
        assert isinstance(await ledger.begin(ask(ledger, 7)), Exhausted)
    async with ledger_at(place) as ledger:
        await start(ledger, 7)
        check(place)


async def test_a_limit_below_what_was_spent_stops_everybody_at_once(place: Path | str) -> None:
    async with ledger_at(place) as ledger, ledger_at(place) as other:
        for number in range(5):
            await do(ledger, answered(), number)
        started = await start(other, 5)
        await ledger.limit(3)
        for each in (ledger, other):
            assert isinstance(await each.begin(ask(each, 9)), Exhausted)
        await other.end(started, LATER)
        assert isinstance(await other.begin(ask(other, 9)), Exhausted)
        check(place)
        await ledger.limit(6)
        assert isinstance(await ledger.begin(ask(ledger, 9)), Started)
        assert isinstance(await other.begin(ask(other, 10)), Exhausted)
        check(place)


async def test_limits_that_are_as_good_as_none(place: Path | str) -> None:
    for limit in (2**63 - 1, 10**20):
        async with ledger_at(place, max_charges=limit) as ledger:
            await ledger.limit(limit)
            await do(ledger, answered(), limit)
            check(place)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3"])
async def test_limits_that_cannot_be(ledger: AnyLedger, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_charges"):
        await ledger.limit(limit)
    assert ledger.summary().max_charges is None


@pytest.mark.usefixtures("command_environment")
def test_the_command(place: Path | str) -> None:
    made = run("ledger", "limit", place, "--max-charges", "7", "--json")
    assert json.loads(made.stdout) == {"max_charges": 7, "spent": 0}
    assert json.loads(run("ledger", "show", place, "--json").stdout)["max_charges"] == 7
    assert "7 charges at most" in run("ledger", "show", place).stdout
    assert "any number of charges" in run("ledger", "limit", place, "--no-limit").stderr
    assert json.loads(run("ledger", "show", place, "--json").stdout)["max_charges"] is None
    for words in ((), ("--max-charges", "1", "--no-limit"), ("--max-charges", "x")):
        assert run("ledger", "limit", place, *words).exit_code == 2
    # What a file of options says of runs is none of all runs together.
    Path("aisolution.toml").write_text("max-charges = 3\n")
    assert run("ledger", "limit", place).exit_code == 2


# ------------------------------------------------------------------------------------------ shared, by leave


def leaves(place: str) -> list[tuple[int, int]]:
    """What each living owner has leave for, and what it has used of that."""
    return rows(place, "SELECT granted, used FROM owners WHERE NOT ended ORDER BY id")


async def test_leave_is_handed_out_in_blocks_and_taken_back_where_it_is_needed(server_url: str) -> None:
    async with ledger_at(server_url, max_charges=80) as ledger, ledger_at(server_url, max_charges=80) as other:
        await start(ledger, 0)
        assert leaves(server_url) == [(10, 1), (0, 0)]  # of 80, among two
        started = [await start(other, number) for number in range(1, 75)]
        assert sum(granted for granted, _ in leaves(server_url)) <= 80
        # The other needs more than is left, and has it of what the first does not use.
        started += [await start(other, number) for number in range(75, 80)]
        assert leaves(server_url) == [(1, 1), (79, 79)]
        assert isinstance(await other.begin(ask(other, 99)), Exhausted)
        assert isinstance(await ledger.begin(ask(ledger, 99)), Exhausted)
        check(server_url)
        await other.end(started[0], LATER)
        await other.end(started[1], answered())
        assert leaves(server_url) == [(1, 1), (79, 78)]
        await other.aclose()
        assert rows(server_url, "SELECT granted FROM book") == [(79,)]
        check(server_url)


async def test_the_budget_is_used_up_only_when_nobody_has_leave_that_is_not_used(server_url: str) -> None:
    async with ledger_at(server_url, max_charges=8) as ledger, ledger_at(server_url, max_charges=8) as other:
        await start(ledger, 0)
        for number in range(1, 7):
            await start(other, number)
        with running().connect(
            server_url
        ) as db:  # somebody is at the leave of the first, and nobody knows what comes of it
            db.execute("UPDATE owners SET granted = granted + 1 WHERE id = 1")
            db.execute("UPDATE book SET granted = granted + 1, cap = 8")
            with db.transaction():
                db.execute("SELECT FROM owners WHERE id = 1 FOR UPDATE")
                assert isinstance(await other.begin(ask(other, 8)), Busy)
        assert isinstance(await other.begin(ask(other, 8)), Started)
        assert isinstance(await other.begin(ask(other, 9)), Exhausted)
        check(server_url)


async def test_what_is_left_by_the_dead_is_given_back(server_url: str) -> None:
    ledger = ledger_at(server_url, max_charges=40)
    await ledger.open()
    await start(ledger, 0)
    assert leaves(server_url) == [(10, 1)]
    await crash(ledger)
    async with ledger_at(server_url, max_charges=40) as other:
        assert rows(server_url, "SELECT granted FROM book") == [(1,)]
        assert isinstance(await other.begin(ask(other, 0)), Held)
        check(server_url)


async def test_money_has_leases_too(server_url: str) -> None:
    prices = {WHATSAPP: Decimal("0.1"), "facecompare": Decimal("0.35")}
    options: dict[str, Any] = {"prices": prices, "max_cost": Decimal("1.0")}
    async with ledger_at(server_url, **options) as ledger, ledger_at(server_url, **options) as other:
        spent = 0
        for number in range(20):
            each = (ledger, other)[number % 2]
            endpoint = "facecompare" if number % 3 == 0 else WHATSAPP
            verdict = await each.begin(ask(each, number, endpoint=endpoint))
            if isinstance(verdict, Started):
                spent += verdict.price
        assert 900_000 < spent <= 1_000_000
        check(server_url)


async def test_the_database_itself_refuses_an_overspend_and_keeps_what_ended(server_url: str) -> None:
    """Where the handing out goes wrong, a constraint refuses the begins of a group, and none of its ends is lost."""
    async with ledger_at(server_url, max_charges=3) as ledger:
        await ledger.limit(3)
        started = [await start(ledger, number) for number in range(3)]
        source = rows(server_url, "SELECT pg_get_functiondef('borrow'::regproc)")[0][0]
        broken = source.replace("room := least(", "room := 1000 + least(")
        assert broken != source
        rows(server_url, broken)
        # Another's charges came in between, so that what this owner has is not enough.
        rows(server_url, "UPDATE book SET granted = 3, cap = 3")
        ends = [ledger.end(each, answered()) for each in started]
        begins = [ledger.begin(ask(ledger, number)) for number in range(10, 14)]
        found = await asyncio.gather(*ends, *begins)
        assert [type(each) for each in found[3:]] == [Exhausted] * 4
        assert len(list(ledger.answers())) == 3
        assert rows(server_url, "SELECT count(*) FROM intents") == [(0,)]
        check(server_url)


async def test_budget_equal_to_the_need(server_url: str) -> None:
    """Four owners, each with a part of the questions: all are answered, and nothing is over."""
    ledgers = [ledger_at(server_url, max_charges=200) for _ in range(4)]
    for ledger in ledgers:
        await ledger.open()

    async def work(ledger: AnyLedger, numbers: range) -> int:
        done = 0
        for number in numbers:
            while isinstance(verdict := await ledger.begin(ask(ledger, number)), Busy):
                await asyncio.sleep(0.01)
            assert isinstance(verdict, Started), (verdict, leaves(server_url))
            await ledger.end(verdict, answered())
            done += 1
        return done

    parts = [range(20), range(20, 110), range(110, 115), range(115, 200)]
    done = await asyncio.gather(*(work(ledger, part) for ledger, part in zip(ledgers, parts, strict=True)))
    assert sum(done) == 200
    assert isinstance(await ledgers[0].begin(ask(ledgers[0], 999)), Exhausted)
    check(server_url)
    for ledger in ledgers:
        await ledger.aclose()
    assert rows(server_url, "SELECT granted FROM book") == [(200,)]
