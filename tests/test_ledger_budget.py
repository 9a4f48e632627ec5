"""The ledger: the budget."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import sqlite3
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aisolution_async import Charge, ConfigurationError
from aisolution_async.ledger import (
    Exhausted,
    Held,
    Ledger,
    LedgerError,
    Started,
    Stored,
)

from .ledgers import (
    CHARGED,
    FREE,
    LATER,
    LOST,
    RECOUNT,
    UNSENT,
    WHATSAPP,
    AnyLedger,
    answered,
    ask,
    book_of,
    check,
    crash,
    do,
    fail,
    ledger_at,
    rows,
)
from .servers import running
from .support import examples

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


async def test_the_budget_holds_at_every_instant(place: Path | str) -> None:
    async with ledger_at(place, max_charges=10, synchronous="off") as ledger:
        answers = await asyncio.gather(*(ledger.begin(ask(ledger, n)) for n in range(30)))
        started = [answer for answer in answers if isinstance(answer, Started)]
        assert len(started) == 10
        refused = next(answer for answer in answers if isinstance(answer, Exhausted))
        assert "max_charges=10 is reached: 0 charged, 0 unknown, 10 under way" in refused.why
        # What never charges is not refused, and takes nothing.
        await do(ledger, LOST, endpoint="delface", may_charge=False)
        await ledger.end(started[0], LATER)
        await ledger.end(started[1], UNSENT)
        await ledger.end(started[2], answered())
        await ledger.end(started[3], LOST)
        again = await asyncio.gather(*(ledger.begin(ask(ledger, n)) for n in range(100, 105)))
        assert [type(answer) for answer in again] == [Started, Started, Exhausted, Exhausted, Exhausted]
        # Stored answers cost nothing.
        assert isinstance(await ledger.begin(ask(ledger, answers.index(started[2]))), Stored)
    async with ledger_at(place, max_charges=10) as ledger:
        assert isinstance(await ledger.begin(ask(ledger, "new")), Exhausted)
    async with ledger_at(place, max_charges=11) as ledger, ledger_at(place, max_charges=11) as other:
        assert isinstance(await other.begin(ask(ledger, "new")), Started)
        assert isinstance(await ledger.begin(ask(ledger, "newer")), Exhausted)
    check(place)


async def test_the_budget_in_money_is_exact(place: Path | str) -> None:
    prices = {WHATSAPP: Decimal("0.1"), "facecompare": Decimal("0.000001")}
    async with ledger_at(place, prices=prices, max_cost=Decimal("0.300001"), synchronous="off") as ledger:
        for n in range(3):  # 0.1 three times is not 0.3 in floats
            await do(ledger, answered(), n)
        refused = await ledger.begin(ask(ledger, 3))
        assert isinstance(refused, Exhausted)
        assert "max_cost=0.300001 is reached" in refused.why
        assert isinstance(await ledger.begin(ask(ledger, 3, endpoint="facecompare")), Started)
        refused = await ledger.begin(ask(ledger, 3, endpoint="searchface"))
        assert isinstance(refused, Exhausted)
        assert "prices says nothing of searchface" in refused.why
        sums = ledger.summary().by("endpoint")
        assert sums[WHATSAPP,].cost == Decimal("0.3")
        assert sums["facecompare",].at_risk == Decimal("0.000001")
    check(place)


@pytest.mark.parametrize(
    "options",
    [
        {"max_charges": -1},
        {"max_charges": True},
        {"max_charges": 1.5},
        {"max_cost": 1.5},
        {"max_cost": Decimal("0.0000001")},
        {"max_cost": Decimal(-1)},
        {"max_cost": Decimal("NaN")},
        {"prices": {WHATSAPP: 1}},
        {"prices": {"whatsapp": Decimal(1)}},
        {"synchronous": "maybe"},
    ],
)
def test_options_that_cannot_be(ledger_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Ledger(ledger_path, **options)
    assert not ledger_path.exists()


class Money(RuleBasedStateMachine):
    """Two owners of one file, ends of every kind, files that fail, owners that die: the budget holds throughout."""

    LIMIT = 4
    COST = 11 * 10**6
    path: Path | str

    def __init__(self) -> None:
        super().__init__()
        self.make_place()
        self.runner = asyncio.Runner()
        self.ledgers: list[AnyLedger] = [self.opened(), self.opened()]
        self.under_way: list[tuple[AnyLedger, Started]] = []
        self.tried: set[int] = set()  # ends that failed: made up for at any time

    def make_place(self) -> None:
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"aisolution-ledger-{uuid.uuid4().hex}"
        self.folder.mkdir()
        self.path = self.folder / "ledger"

    def remove_place(self) -> None:
        shutil.rmtree(self.folder)

    def opened(self) -> AnyLedger:
        prices = {WHATSAPP: Decimal(3), "facecompare": Decimal(2)}
        ledger = ledger_at(self.path, max_charges=self.LIMIT, prices=prices, max_cost=Decimal(11), synchronous="off")
        self.runner.run(ledger.open())
        return ledger

    @rule(
        who=st.integers(0, 1),
        number=st.integers(0, 3),
        endpoint=st.sampled_from([WHATSAPP, "facecompare", "delface"]),
        resend=st.booleans(),
        reuse=st.sampled_from([None, -1.0]),
        called_back=st.sampled_from(["", "in time", "late"]),
    )
    def begin(self, who: int, number: int, endpoint: str, resend: bool, reuse: float | None, called_back: str) -> None:
        ledger = self.ledgers[who]
        question = ask(
            ledger,
            number,
            endpoint=endpoint,
            may_charge=endpoint != "delface",
            retry_unknown=1 if resend else 0,
            reuse_for=reuse,
            callback=self.callback(number) if called_back and endpoint == WHATSAPP else None,
            overdue=called_back == "late",
        )
        with contextlib.suppress(LedgerError):
            answer = self.runner.run(ledger.begin(question))
            if isinstance(answer, Started):
                asked = {started.ask.identity for _, started in self.under_way if started.id not in self.tried}
                assert question.identity not in asked
                self.under_way.append((ledger, answer))
            if isinstance(answer, Stored):
                assert reuse is None
            if isinstance(answer, Held):
                assert answer.attempts > resend

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), kind=st.sampled_from(["charged", "free", "not sent", "unknown"]))
    def end(self, data: st.DataObject, kind: str) -> None:
        ledger, started = self.under_way[data.draw(st.integers(0, len(self.under_way) - 1))]
        if kind == "charged" and not started.ask.may_charge:
            kind = "free"
        result = {"charged": answered(), "free": LATER, "not sent": UNSENT, "unknown": LOST}[kind]
        expected = started.ask.callback is not None and kind in ("free", "unknown") and data.draw(st.booleans())
        result = dataclasses.replace(result, expected=expected)
        self.tried.add(started.id)
        with contextlib.suppress(LedgerError):
            self.runner.run(ledger.end(started, result))
            self.under_way.remove((ledger, started))

    def callback(self, number: int) -> bytes:
        return b"callback %d" % number

    @rule(who=st.integers(0, 1), number=st.integers(0, 3))
    def deliver(self, who: int, number: int) -> None:
        with contextlib.suppress(LedgerError):
            before = self.runner.run(self.ledgers[who].find([ask(self.ledgers[who], number)]))
            delivered = self.runner.run(self.ledgers[who].deliver([self.callback(number)], answered()))
            after = self.runner.run(self.ledgers[who].find([ask(self.ledgers[who], number)]))
            assert after != [None] if delivered else after == before
            assert not self.runner.run(self.ledgers[who].deliver([self.callback(number)], answered()))

    @rule(
        who=st.integers(0, 1),
        statement=st.sampled_from(["BEGIN", "INSERT", "DELETE", "REPLACE", "COMMIT"]),
        code=st.sampled_from([sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY]),
        times=st.integers(1, 4),
    )
    def break_down(self, who: int, statement: str, code: int, times: int) -> None:
        ledger = self.ledgers[who]
        assert isinstance(ledger, Ledger)
        self.runner.run(fail(ledger, statement, *[code] * times))

    @rule(who=st.integers(0, 1))
    def die(self, who: int) -> None:
        self.runner.run(crash(self.ledgers[who]))
        self.replace(who)

    @rule(who=st.integers(0, 1))
    def close(self, who: int) -> None:
        self.runner.run(self.ledgers[who].aclose())
        self.replace(who)

    def replace(self, who: int) -> None:
        self.under_way = [pair for pair in self.under_way if pair[0] is not self.ledgers[who]]
        self.ledgers[who] = self.opened()

    @rule(who=st.integers(0, 1), number=st.integers(0, 3), charge=st.sampled_from([CHARGED, FREE]))
    def resolve(self, who: int, number: int, charge: Charge) -> None:
        with contextlib.suppress(LedgerError):
            self.runner.run(self.ledgers[who].resolve(ask(self.ledgers[who], number).identity, charge))

    @invariant()
    def the_budget_holds(self) -> None:
        totals = rows(self.path, "SELECT * FROM totals ORDER BY endpoint")
        assert totals == rows(self.path, RECOUNT)
        doubtful, cost = self.doubtful()
        assert sum(row[6] for row in totals) <= self.LIMIT + doubtful
        assert sum(row[7] for row in totals) <= self.COST + cost
        # What the books call under way, unknown or charged covers all that may ever be charged, but for callbacks of
        # requests that were refused.
        known = {started.id for _, started in self.under_way} - self.tried
        assert known <= {id_ for (id_,) in rows(self.path, "SELECT id FROM intents")}

    def doubtful(self) -> tuple[int, int]:
        """Callbacks that may be of an earlier request, and what they cost. Nobody asked for leave for a charge more."""
        query = "SELECT count(*), coalesce(sum(price), 0) FROM attempts WHERE {}"
        ((count, cost),) = rows(self.path, query.format("state = 'unknown' AND http_status IS NULL AND status = 'OK'"))
        return count, int(cost)

    def teardown(self) -> None:
        for ledger in self.ledgers:
            self.runner.run(ledger.aclose())
        self.runner.close()
        check(self.path)
        self.remove_place()


class SharedMoney(Money):
    """The same on a server, whose connections break."""

    def make_place(self) -> None:
        self.path = running().url()

    def remove_place(self) -> None:
        rows(str(self.path), f"DROP SCHEMA {str(self.path).partition('schema=')[2]} CASCADE")

    @rule(who=st.integers(0, 1))
    def break_down(self, who: int) -> None:
        book = self.runner.run(book_of(self.ledgers[who]))
        rows(self.path, f"SELECT pg_terminate_backend({book._db.info.backend_pid}, 1000)")

    @invariant()
    def the_budget_holds(self) -> None:
        check(self.path)
        ((spent, cost),) = rows(self.path, "SELECT granted, granted_cost FROM book")
        doubtful, their_cost = self.doubtful()
        assert spent <= self.LIMIT + doubtful
        assert cost <= self.COST + their_cost
        known = {started.id for _, started in self.under_way} - self.tried
        assert known <= {id_ for (id_,) in rows(self.path, "SELECT id FROM intents")}


TestSharedMoney = SharedMoney.TestCase
TestSharedMoney.settings = settings(max_examples=examples(12), stateful_step_count=25, deadline=None)

TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=examples(60), stateful_step_count=25, deadline=None)
