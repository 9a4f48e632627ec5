"""How a run is put together: its options, its plan, the thread that opens the input, and what is not settled."""

from __future__ import annotations

import asyncio
import inspect
import pydoc
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import ConfigurationError, FaceCompare, Outcome, WhatsAppDetail
from aisolution_async.bulk import BulkOptions, BulkRun, Summary, facts, forecast_bulk, run_bulk, run_folder
from aisolution_async.bulk.books import records
from aisolution_async.bulk.files import Files
from aisolution_async.bulk.origins import origin_of
from aisolution_async.bulk.rows import Rows

from .sheets import Gate, bulk, jsonl, many, read, sane, write
from .support import Vendor, client_of, ok_whatsapp, picture, says

CHECKING = "WhatsApp is still checking this number: run it again later, or say --recheck"

# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("door", [run_bulk, forecast_bulk, run_folder])
def test_the_doors_have_each_option_as_a_keyword(door: Any) -> None:
    signature = inspect.signature(door)
    assert [*signature.parameters][:4] == ["client", "call", "source", "output"]
    for field in fields(BulkOptions):
        parameter = signature.parameters[field.name]
        assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, field.default)
    assert len(signature.parameters) == 4 + len(fields(BulkOptions))
    told = pydoc.plain(pydoc.render_doc(door))
    assert "give_up: float = 300.0" in told.replace("'", "")  # Python 3.14 shows an annotation without quotes
    assert all(f"`{field.name}`" in told for field in fields(BulkOptions)), "each option is documented"
    assert inspect.iscoroutinefunction(door)


async def test_all_may_be_given_by_keyword(tmp_path: Path) -> None:
    source = many(tmp_path, 2)
    async with client_of(Vendor(lambda *_: ok_whatsapp())) as client:
        found = await forecast_bulk(client=client, call=WhatsAppDetail, source=source)
        done = await run_bulk(
            client=client, call=WhatsAppDetail, source=source, output=tmp_path / "out.jsonl", concurrency=1
        )
        with pytest.raises(TypeError, match=r"run_bulk\(\) got an unexpected keyword argument 'colums'"):
            await run_bulk(client, WhatsAppDetail, source, tmp_path / "out.jsonl", colums={})  # type: ignore[call-arg]
    assert (found.rows, done.ok) == (2, 2)


def test_options_are_checked_once_and_stay(tmp_path: Path) -> None:
    options = BulkOptions(prices={"whatsapp-detail": Decimal("0.05")}, ledger=tmp_path / "a.ledger")
    assert options.known_prices == {"gliswadetail": Decimal("0.05")}
    with pytest.raises(FrozenInstanceError):
        options.concurrency = 3  # type: ignore[misc]
    wrongs: list[dict[str, Any]] = [{"give_up": -1}, {"prices": {"nothing": Decimal(1)}}, {"max_charges": -1}]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            BulkOptions(**wrong)


async def test_a_run_takes_one_value_and_changes_of_it(tmp_path: Path) -> None:
    async with client_of(Vendor(lambda *_: ok_whatsapp())) as client:
        options = BulkOptions(concurrency=1, ordered=False)
        run = BulkRun(client, WhatsAppDetail, many(tmp_path, 3), tmp_path / "out.csv", options, ordered=True)
        assert (await run.run()).ok == 3
    assert [row["number"][-1] for row in read(tmp_path / "out.csv")] == ["0", "1", "2"]


# ------------------------------------------------------------------------------------------------ opening the input


class Opening(Rows):
    """Rows that tell which thread opens them, and wait for `go`, if there is one."""

    threads: list[int]
    opened: list[Opening]
    closed: int
    started: threading.Event
    go: threading.Event | None

    @classmethod
    def begin(cls, go: threading.Event | None = None) -> None:
        cls.threads, cls.opened, cls.closed, cls.started, cls.go = [], [], 0, threading.Event(), go

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.threads.append(threading.get_ident())
        self.started.set()
        if self.go is not None:
            self.go.wait()
        super().__init__(*args, **kwargs)
        self.opened.append(self)

    def close(self) -> None:
        super().close()
        type(self).closed += 1


@pytest.mark.parametrize("door", [run_bulk, forecast_bulk])
async def test_the_input_is_opened_in_a_thread(door: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on meanwhile."""
    go = threading.Event()
    Opening.begin(go)
    monkeypatch.setattr(facts, "Rows", Opening)
    async with client_of(Vendor(lambda *_: ok_whatsapp())) as client:
        running = asyncio.create_task(door(client, WhatsAppDetail, many(tmp_path, 2), tmp_path / "out.csv"))
        await asyncio.to_thread(Opening.started.wait)
        go.set()  # by the loop, which is not waiting for the thread
        assert (await running).rows == 2
    assert threading.get_ident() not in Opening.threads
    assert Opening.closed == len(Opening.opened) > 0


async def test_cancelled_while_the_input_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of it all the same is closed, and nothing is written."""
    go = threading.Event()
    Opening.begin(go)
    monkeypatch.setattr(facts, "Rows", Opening)
    closed, close = threading.Event(), facts.Facts.close

    def closing(self: facts.Facts) -> None:
        close(self)
        closed.set()

    monkeypatch.setattr(facts.Facts, "close", closing)
    async with client_of(Vendor(lambda *_: ok_whatsapp())) as client:
        run = BulkRun(client, WhatsAppDetail, many(tmp_path, 2), tmp_path / "out.csv")
        running = asyncio.create_task(run.run())
        await asyncio.to_thread(Opening.started.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        go.set()
        await asyncio.to_thread(closed.wait)
    assert (Opening.closed, len(Opening.opened)) == (1, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv"}


# ------------------------------------------------------------------------------------------------ what is not settled


def script(*said: str) -> Vendor:
    return Vendor(lambda request, number: ok_whatsapp(said[number]))


def whole(done: Summary) -> bool:
    return done.rows == done.ok + done.checking + done.failed


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "xlsx"])
async def test_checking_is_not_ok(ending: str, tmp_path: Path) -> None:
    """In the row, in the summary and in the file to be mended."""
    source = write(tmp_path / "in.csv", "number\n+6281387300001\n+6281387300002\n+6281387300003\nabc\n")
    output, mend = tmp_path / f"out.{ending}", tmp_path / "mend.csv"
    done = await bulk(source, output, vendor=script("yes", "checking", "unavailable"), problems=mend, concurrency=1)
    assert (done.ok, done.checking, done.failed, done.errors) == (1, 2, 1, {"InputError": 1})
    assert whole(done)
    with Rows(output) as rows:
        found = [dict(zip(rows.header, row.cells, strict=True)) for row in rows]
    assert [row["ok"] in (True, "true") for row in found] == [True, False, False, False]
    assert [row["ok"] in (False, "false") for row in found] == [False, True, True, True]
    assert [row["answer_whatsapp"] or None for row in found] == ["yes", "checking", "unavailable", None]
    assert [row["error"] or None for row in found] == [None, None, None, "InputError"]
    assert [row["problem"] or None for row in found][:3] == [
        None,
        CHECKING,
        "WhatsApp was not available: run it again later",
    ]
    assert [row["number"] for row in read(mend)] == ["abc"]


async def test_a_row_is_what_its_worst_call_is(tmp_path: Path) -> None:
    """One that failed is mended for what failed."""
    for name in "ab":
        write(tmp_path / f"{name}.jpg", picture(1))
    source = write(
        tmp_path / "in.csv",
        "selfie,ktp,phone\na.jpg,b.jpg,+6281387300001\na.jpg,none.jpg,+6281387300002\n",
    )

    def answer(request: httpx.Request, number: int) -> httpx.Response:
        if request.url.path.endswith("facecompare"):
            return says("OK", {"similarity": 97.5, "result": "SAME PERSON"})
        return ok_whatsapp("checking")

    async with client_of(Vendor(answer)) as client:
        done = await run_bulk(
            client,
            [FaceCompare, WhatsAppDetail],
            source,
            tmp_path / "out.jsonl",
            problems=tmp_path / "mend.csv",
        )
    assert (done.ok, done.checking, done.failed) == (0, 1, 1)
    found = jsonl(tmp_path / "out.jsonl")
    assert [(row["face_compare_ok"], row["whatsapp_detail_ok"]) for row in found] == [(True, False), (False, False)]
    assert [row["whatsapp_detail_problem"] for row in found] == [CHECKING, CHECKING]
    [mend] = read(tmp_path / "mend.csv")
    assert "none.jpg" in mend["problem"]
    assert "checking" not in mend["problem"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "xlsx"])
async def test_files_that_say_checking_is_ok(ending: str, tmp_path: Path) -> None:
    """An earlier version wrote so. One that was charged is not bought again, and is written as it is today."""
    source, old, charged = many(tmp_path, 3), tmp_path / "old.jsonl", {"gliswadetail": {"OK:checking": "charged"}}
    vendor = script("yes", "checking", "no")
    async with client_of(vendor, charge_rules=charged) as client:
        await run_bulk(client, WhatsAppDetail, source, old, concurrency=1)
        new = old.read_bytes()
        before = new.decode().replace('"ok": false', '"ok": true').replace(f'"{CHECKING}"', "null")
        assert before.count('"ok": true') == 3
        write(old, before)
        done = await run_bulk(client, WhatsAppDetail, source, tmp_path / f"out.{ending}", rescued=[old])
        assert (done.ok, done.taken_back, done.checking, len(vendor.requests)) == (2, 2, 1, 3)
        again = await run_bulk(
            client, WhatsAppDetail, source, tmp_path / "again.jsonl", rescued=[tmp_path / f"out.{ending}"]
        )
    assert (again.ok, again.checking, len(vendor.requests)) == (2, 1, 3)
    assert (tmp_path / "again.jsonl").read_bytes() == new
    if ending == "xlsx":
        assert [row["ok"] for row in records(tmp_path / "out.xlsx")] == [True, False, True]


async def test_a_run_goes_on_over_what_an_earlier_version_wrote(tmp_path: Path) -> None:
    """What is still checked is asked again, whatever the output says of it."""
    source, output, vendor = many(tmp_path, 3), tmp_path / "out.jsonl", script("yes", "checking", "no", "yes")
    await bulk(source, output, vendor=vendor, ledger=tmp_path / "a.ledger", concurrency=1)
    before = output.read_text().replace('"ok": false', '"ok": true').replace(f'"{CHECKING}"', "null")
    write(output, before)
    done = await bulk(source, output, vendor=vendor, ledger=tmp_path / "a.ledger", concurrency=1)
    assert (done.ok, done.from_ledger, done.checking, len(vendor.requests)) == (3, 2, 0, 4)
    assert [row["ok"] for row in jsonl(output)] == [True, True, True]


async def test_nothing_is_to_be_mended_where_all_else_is_checked(tmp_path: Path) -> None:
    mend = tmp_path / "mend.csv"
    done = await bulk(many(tmp_path, 2), tmp_path / "out.csv", vendor=script("checking", "yes"), problems=mend)
    assert (done.failed, done.checking, read(mend), origin_of(mend)) == (0, 1, [], None)


async def test_it_is_known_while_a_workbook_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []
    real = Files.make

    async def make(files: Files, is_given_up: Callable[[], bool]) -> None:
        known.append(run.making)
        await real(files, is_given_up)

    monkeypatch.setattr(Files, "make", make)
    source = many(tmp_path, 2)
    async with client_of(Vendor(lambda *_: ok_whatsapp())) as client:
        for ending in ("xlsx", "csv"):
            run = BulkRun(client, WhatsAppDetail, source, tmp_path / f"out.{ending}")
            assert (await run.run()).ok == 2
            assert not run.making
    assert known == [True, False]


async def test_what_a_stopped_run_leaves_is_no_problem(tmp_path: Path) -> None:
    """Neither the calls that were not sent, nor a bad row's real problem is hidden; who listens hears of each."""
    gate, heard = Gate(5, 4), list[Outcome]()
    source = write(tmp_path / "in.csv", "phone\nabc\n" + "".join(f"+62813873{n:05}\n" for n in range(500)))
    async with client_of(gate.vendor, on_outcome=heard.append) as client:
        run = BulkRun(client, WhatsAppDetail, source, tmp_path / "out.csv", columns={"number": "phone"}, concurrency=4)
        running = asyncio.create_task(run.run())
        await gate.full.wait()
        run.stop()
        gate.opened.set()
        done = await running
    assert done.unsent > 0
    assert run.progress is not None
    assert (run.progress.ok, run.progress.failed) == (9, 1)
    assert len(heard) == done.rows + done.unsent


async def test_what_is_taken_back_is_no_problem(tmp_path: Path) -> None:
    source, kept, output = many(tmp_path, 3), tmp_path / "kept.csv", tmp_path / "out.csv"
    await bulk(source, kept)
    async with client_of(Vendor(sane)) as client:
        run = BulkRun(client, WhatsAppDetail, source, output, rescued=[kept])
        assert (await run.run()).taken_back == 3
    assert run.progress is not None
    assert (run.progress.ok, run.progress.failed) == (3, 0)
