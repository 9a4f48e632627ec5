"""Ray Data, as it is: actors that ask, die, and are asked to do rows again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aisolution_async import ConfigurationError, WhatsAppDetail

from .crash import CountingSandbox
from .engines import OPTIONS, TOKEN, DeadlySandbox, check, needs_proc, workers_that_paid, write_files

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
data: Any = pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install -e '.[ray]'")
calls: Any = pytest.importorskip("aisolution_async.integrations.ray").calls

# What Ray itself warns of, and leaves open, is its own.
pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = 400


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Ray on this machine: its actors have the token from the environment that it was started in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AISOLUTION_TOKEN", TOKEN)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # More actors than cores, beside the tasks that read.
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
        data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


async def ask(ds: Any, **options: Any) -> list[dict[str, Any]]:
    """The rows with their answers, as the actors give them."""
    options = {**OPTIONS, "rows_per_block": 20, **options}
    rows: list[dict[str, Any]] = await asyncio.to_thread(lambda: calls(ds, WhatsAppDetail, **options).take_all())
    return rows


async def test_each_row_is_answered_once_and_a_second_pass_is_free(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = await asyncio.to_thread(data.read_parquet, write_files(tmp_path, ROWS))
    async with CountingSandbox() as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        rows = await ask(ds, ledger=server_url)
        assert check(rows, sandbox, ROWS) == 0
        assert sandbox.bill.charged == ROWS
        assert workers_that_paid(server_url) == 2
        again = await ask(ds, ledger=server_url)
        assert check(again, sandbox, ROWS) == 0
        assert sandbox.requests.total() == ROWS
    assert {(row["from_ledger"], row["charge"], row["recorded_charge"]) for row in again} == {(True, "free", "charged")}


@needs_proc
async def test_an_actor_that_is_killed(tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = await asyncio.to_thread(data.read_parquet, write_files(tmp_path, ROWS))
    async with DeadlySandbox(ROWS // 4, server_url) as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        rows = await ask(ds, ledger=server_url)
        assert sandbox.killed is not None
        held = check(rows, sandbox, ROWS)
        before = sandbox.bill.total
        again = await ask(ds, ledger=server_url)
        assert check(again, sandbox, ROWS) == held <= 20
        assert sandbox.bill.total == before


async def test_what_cannot_be_is_refused_before_money(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = data.from_arrow(pa.table({"id": ["A"], "phone": ["+6281387300008"]}))
    with pytest.raises(ConfigurationError, match="without_shared_ledger"):
        calls(ds, WhatsAppDetail, columns={"number": "phone"})
    with pytest.raises(ConfigurationError, match="no column 'number'"):
        calls(ds, WhatsAppDetail, ledger=server_url)
    with pytest.raises(ConfigurationError, match="workers must be"):
        calls(ds, WhatsAppDetail, ledger=server_url, columns={"number": "phone"}, workers=0)
    async with CountingSandbox() as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        twice = calls(ds, WhatsAppDetail, ledger=server_url, **OPTIONS)
        with pytest.raises(Exception, match="give them a prefix"):  # Ray's own error, with ours in its text
            await ask(twice, ledger=server_url)
        (row,) = await ask(twice, ledger=server_url, prefix="wa_")
        assert (row["ok"], row["wa_ok"], row["wa_from_ledger"]) == (True, True, True)
        assert sandbox.bill.charged == 1
