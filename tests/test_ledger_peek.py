"""A look into a ledger: it says what the ledger says of earlier attempts, and nothing shows that it was there."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aisolution_async import ConfigurationError, Ledger, LedgerError
from aisolution_async.charges import Charge
from aisolution_async.ledger import Ask, Held, Store, Stored
from aisolution_async.ledger.peek import Peek

from .ledgers import LATER, LOST, UNSENT, answered, ask, do, start
from .support import examples
from .test_ledger_memory import killed, wal

ENDINGS = {
    "answered": answered(),
    "answered long ago": answered(ago=3600.0),
    "lost": LOST,
    "refused": LATER,
    "unsent": UNSENT,
}


def files(folder: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@given(
    history=st.lists(st.sampled_from([*ENDINGS, "purged", "charged by hand", "free by hand"]), max_size=6),
    options=st.fixed_dictionaries(
        {
            "reuse_for": st.sampled_from([None, 60.0, 7200.0]),
            "retry_unknown": st.sampled_from([None, 0, 1, 2]),
            "reusable": st.booleans(),
        }
    ),
)
@settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_it_says_what_the_ledger_says(
    tmp_path_factory: pytest.TempPathFactory, history: list[str], options: dict[str, Any]
) -> None:
    ledger_path = tmp_path_factory.mktemp("ledger") / "calls.ledger"
    async with Ledger(ledger_path, synchronous="off") as ledger:
        for what in history:
            if what == "purged":
                await ledger.purge(-1.0)
            elif what.endswith("by hand"):
                charge = Charge.CHARGED if what.startswith("charged") else Charge.FREE
                await ledger.resolve(ask(ledger).identity, charge)
            else:
                await do(ledger, ENDINGS[what], reuse_for=0.0, retry_unknown=None)
        with Peek(ledger_path) as peek:
            asked = Ask("gliswadetail", peek.identity("gliswadetail", [("number", "1")]), within=60.0, **options)
            assert asked == ask(ledger, **options)
            said, found, is_known = peek.look(asked), await peek.find([asked]), peek.knows(asked)
        assert found == await ledger.find([asked])
        assert found == [said if isinstance(said, Stored) else None]
        verdict = await ledger.begin(asked)
        assert said == (verdict if isinstance(verdict, Stored | Held) else None)
        # Of what never left, or was purged, nothing is known.
        left = [what for what in history if what not in ("unsent", "charged by hand", "free by hand")]
        if "purged" not in history:
            assert is_known is bool(left)


async def test_it_looks_beside_who_writes(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        started = await start(ledger)
        with Peek(ledger_path) as peek:
            assert peek.look(started.ask) is None
            assert peek.knows(started.ask)
            assert not peek.knows(ask(ledger, 2))
            await ledger.end(started, answered())
            assert isinstance(peek.look(started.ask), Stored)
        assert isinstance(await ledger.begin(started.ask), Stored)
    assert not wal(ledger_path).exists()


@pytest.mark.parametrize("state", ["closed", "killed"])
async def test_nothing_shows_that_it_was_there(ledger_path: Path, tmp_path: Path, state: str) -> None:
    if state == "killed":
        await asyncio.to_thread(killed, ledger_path)
    else:
        async with Ledger(ledger_path) as ledger:
            await do(ledger, answered(), 29)
    before = files(tmp_path)
    with Peek(ledger_path) as peek:
        identity = peek.identity("gliswadetail", [("number", "29")])
        assert isinstance(peek.look(Ask("gliswadetail", identity)), Stored)
    after = files(tmp_path)
    # The index of the log, which SQLite makes anew for whoever opens it, says nothing.
    assert {name: data for name, data in after.items() if not name.endswith("-shm")} == {
        name: data for name, data in before.items() if not name.endswith("-shm")
    }
    assert after.keys() == before.keys()


@pytest.mark.parametrize("named", [True, False])
async def test_a_ledger_that_is_not_there_knows_nothing(ledger_path: Path, tmp_path: Path, named: bool) -> None:
    with Peek(ledger_path if named else None) as peek:
        asked = Ask("gliswadetail", peek.identity("gliswadetail", [("number", "1")]))
        assert asked.identity == peek.identity("gliswadetail", [("number", "1")])
        assert asked.identity != peek.identity("gliswadetail", [("number", "2")])
        assert peek.look(asked) is None
        assert not peek.knows(asked)
        assert await peek.find([asked, asked]) == [None, None]
    assert files(tmp_path) == {}


def test_what_is_no_ledger_is_refused(ledger_path: Path, tmp_path: Path) -> None:
    ledger_path.write_bytes(b"letters to a friend" * 100)
    before = files(tmp_path)
    with pytest.raises(LedgerError, match="is no ledger, or damaged"):
        Peek(ledger_path)
    assert files(tmp_path) == before
    with pytest.raises(LedgerError, match="is a folder"):
        Peek(tmp_path)
    for name in ("calls.ledger-wal", "calls.ledger-mark", "calls.ledger-owner-0a"):
        with pytest.raises(ConfigurationError, match="named like a file beside a ledger"):
            Peek(tmp_path / name)


async def test_a_ledger_that_is_not_what_it_was_is_refused(ledger_path: Path) -> None:
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered())
    older = ledger_path.read_bytes()
    async with Ledger(ledger_path) as ledger:
        await do(ledger, answered(), 2)
    ledger_path.write_bytes(older)
    with pytest.raises(LedgerError, match="has 1 attempts now, and it had 2"):
        Peek(ledger_path)


def test_it_is_no_store() -> None:
    """Nobody can begin anything with one, by mistake or through a base class."""
    assert not issubclass(Peek, Store)
    public = {name for name, _ in inspect.getmembers(Peek) if not name.startswith("_")}
    assert public == {"close", "find", "identity", "knows", "look"}
