"""Spark, as it is: Python workers that ask, die, and are asked to do rows again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import ConfigurationError, FaceCompare, SearchFace, WhatsAppDetail
from aisolution_async.sandbox import images

from .crash import CountingSandbox
from .engines import OPTIONS, TOKEN, DeadlySandbox, check, needs_proc, workers_that_paid, write_files

sql: Any = pytest.importorskip("pyspark.sql", reason="Spark is not installed: pip install -e '.[spark]'")
calls: Any = pytest.importorskip("aisolution_async.integrations.spark").calls

# What Spark itself warns of, and leaves open, is its own.
pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = 400


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """Spark on this machine: its Python workers have the token from the environment that it was started in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AISOLUTION_TOKEN", TOKEN)
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        builder = sql.SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", "false")
        for option in ("spark.driver.host", "spark.driver.bindAddress"):
            builder = builder.config(option, "127.0.0.1")
        session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
        yield session
        session.stop()


async def test_each_row_is_answered_once_and_a_second_pass_is_free(
    spark: Any, tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CountingSandbox() as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        df = calls(spark.read.parquet(write_files(tmp_path, ROWS)), WhatsAppDetail, ledger=server_url, **OPTIONS)
        assert await asyncio.to_thread(df.count) == ROWS  # a lazy plan is run each time that somebody reads it
        assert sandbox.bill.charged == ROWS
        assert workers_that_paid(server_url) == 2
        rows = await asyncio.to_thread(df.collect)
        assert check(rows, sandbox, ROWS) == 0
        assert sandbox.requests.total() == ROWS
    assert {(row["from_ledger"], row["charge"], row["recorded_charge"]) for row in rows} == {(True, "free", "charged")}


@needs_proc
async def test_a_python_worker_that_is_killed(
    spark: Any, tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DeadlySandbox(ROWS // 4, server_url) as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        df = calls(spark.read.parquet(write_files(tmp_path, ROWS)), WhatsAppDetail, ledger=server_url, **OPTIONS)
        rows = await asyncio.to_thread(df.collect)
        assert sandbox.killed is not None
        held = check(rows, sandbox, ROWS)
        before = sandbox.bill.total
        assert check(await asyncio.to_thread(df.collect), sandbox, ROWS) == held <= 20
        assert sandbox.bill.total == before


async def test_a_part_that_is_shown_is_recorded(
    spark: Any, tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark stops reading in the middle: what was under way is in the ledger then, and nothing is held."""
    async with CountingSandbox() as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        monkeypatch.setitem(OPTIONS, "workers", 1)
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 10)
        try:
            df = calls(spark.read.parquet(write_files(tmp_path, ROWS)), WhatsAppDetail, ledger=server_url, **OPTIONS)
            assert len(await asyncio.to_thread(df.take, 5)) == 5
            assert 5 <= sandbox.bill.charged < ROWS
            assert check(await asyncio.to_thread(df.collect), sandbox, ROWS) == 0
        finally:
            spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


async def test_photos_and_lists_of_records(spark: Any, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = images.person("ann"), images.person("bob")
    df = spark.createDataFrame(
        [(1, ann, ann), (2, ann, bob), (3, ann, None)], "id int not null, selfie binary, card binary"
    )
    async with CountingSandbox() as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        options = {"key": "id", "ledger": server_url, "workers": 2}
        faces = calls(df, FaceCompare, columns={"img1": "selfie", "img2": "card"}, **options)
        found = calls(faces, SearchFace, columns={"img": "selfie"}, prefix="search_", **options)
        rows = await asyncio.to_thread(found.collect)
        assert [row["result"] for row in sorted(rows)] == ["SAME PERSON", "NOT SAME PERSON", None]
        assert [row["error"] for row in sorted(rows)] == [None, None, "InputError"]
        assert {(row["search_ok"], str(row["search_matches"])) for row in rows} == {(True, "[]")}
        assert sandbox.bill.charged == 3
    simple = {field.name: field.dataType.simpleString() for field in found.schema}
    assert simple["search_matches"] == "array<struct<confidence:double,person_id:string>>"
    assert (simple["similarity"], simple["attempts"], simple["ok"]) == ("double", "bigint", "boolean")


def test_what_cannot_be_is_refused_before_money(spark: Any, server_url: str) -> None:
    df = spark.createDataFrame([("A", "+6281387300008", True)], "id string, phone string, ok boolean")
    with pytest.raises(ConfigurationError, match="without_shared_ledger"):
        calls(df, WhatsAppDetail, columns={"number": "phone"})
    with pytest.raises(ConfigurationError, match="give them a prefix"):
        calls(df, WhatsAppDetail, columns={"number": "phone"}, ledger=server_url)
    with pytest.raises(ConfigurationError, match="no column 'number'"):
        calls(df, WhatsAppDetail, ledger=server_url)
    with pytest.raises(ConfigurationError, match="workers must be"):
        calls(df, WhatsAppDetail, columns={"number": "phone"}, ledger=server_url, workers=0)
