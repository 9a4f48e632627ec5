"""The worker behind Ray Data and Spark: tables in, the same rows with their answers out."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aisolution_async import (
    Adaptive,
    AddFace,
    Call,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    IdHolding,
    SearchFace,
    WhatsAppDetail,
)
from aisolution_async.api import CALLS
from aisolution_async.integrations import arrow
from aisolution_async.integrations.arrow import Work
from aisolution_async.sandbox import Fault, Sandbox, images

from .sandboxes import NO, SLOW, YES
from .servers import running
from .support import GROUP_ID, VendorOf, picture

TOKEN = "tok-of-the-workers-1234"


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a token, and no client at the end."""
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    yield
    arrow.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "aisolution-arrow"] == []


@pytest.fixture
async def vendor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """A sandbox that this environment names."""
    async with Sandbox(token=TOKEN) as sandbox:
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        yield sandbox


def numbers(*phones: Any, **columns: Any) -> pa.Table:
    ids = pa.array([f"A-{n}" for n in range(len(phones))], pa.string())
    return pa.table({"id": ids, "phone": pa.array(phones, None if phones else pa.string()), **columns})


def whatsapp(ledger: Path | str, **options: Any) -> Work:
    """Look-ups of the column `phone`."""
    options = {"columns": {"number": "phone"}, "key": "id", "without_shared_ledger": True, **options}
    return Work.of(WhatsAppDetail, ledger=ledger, **options)


async def asked(work: Work, table: Any) -> list[dict[str, Any]]:
    found = await asyncio.to_thread(work.table, table)
    assert type(found) is type(table)
    assert found.schema == pa.schema([*table.schema, *work.added(table.schema)])
    rows: list[dict[str, Any]] = found.to_pylist()
    assert [{name: row[name] for name in table.schema.names} for row in rows] == table.to_pylist()
    return rows


# ----------------------------------------------------------------------------------------------------- rows and columns


async def test_a_table_has_its_answers_and_a_second_pass_is_free(vendor: Sandbox, ledger_path: Path) -> None:
    work = whatsapp(ledger_path)
    table = numbers(YES, NO, SLOW, more=[1.5, None, 2.5])
    yes, no, slow = await asked(work, table)
    assert (yes["ok"], yes["whatsapp"], yes["number"], yes["error"], yes["error_text"]) == (
        True,
        "yes",
        YES,
        None,
        None,
    )
    assert (yes["charge"], yes["recorded_charge"], yes["from_ledger"], yes["attempts"]) == ("charged", None, False, 1)
    assert (no["whatsapp"], no["avatar"]) == ("no", None)
    assert (slow["ok"], slow["whatsapp"], slow["charge"]) == (True, "checking", "free")
    before = vendor.bill.total
    yes, no, slow = await asked(work, table)
    assert (yes["ok"], yes["whatsapp"], yes["charge"]) == (True, "yes", "free")
    assert (yes["recorded_charge"], yes["from_ledger"], yes["attempts"]) == ("charged", True, 0)
    assert (slow["from_ledger"], slow["attempts"]) == (False, 1)
    assert vendor.bill.total == before + 1


async def test_record_batches_and_tables_of_several_chunks(vendor: Sandbox, ledger_path: Path) -> None:
    work = whatsapp(ledger_path)
    table = pa.concat_tables([numbers(YES, NO), numbers(), numbers(NO)])
    assert [row["whatsapp"] for row in await asked(work, table)] == ["yes", "no", "no"]
    assert [row["whatsapp"] for row in await asked(work, numbers(YES, NO).to_batches()[0])] == ["yes", "no"]
    assert await asked(work, numbers(YES).slice(0, 0)) == []
    assert [row["whatsapp"] for row in await asked(work, numbers(NO, YES).slice(1))] == ["yes"]


@pytest.mark.parametrize("call", CALLS)
def test_the_columns_are_typed_for_each_endpoint(call: type[Call[Any]]) -> None:
    names = [each.name for each in call.endpoint.parameters if each.required]
    work = Work.of(call, key="id", columns={name: f"of_{name}" for name in names}, without_shared_ledger=True)
    added = work.added(pa.schema([("id", pa.int64()), *((f"of_{name}", pa.string()) for name in names)]))
    fields = [name for name in call.endpoint.reply.model_fields if name != "group_id"]
    said = ["error", "error_text", "charge", "recorded_charge", "from_ledger", "attempts"]
    assert added.names == ["ok", *fields, *said]
    assert (added.field("ok").type, added.field("attempts").type) == (pa.bool_(), pa.int64())
    assert all(field.nullable for field in added)


async def test_rows_that_cannot_be_sent_are_free_rows(vendor: Sandbox, ledger_path: Path) -> None:
    broken = pa.array([YES.encode(), b"\xff\xfe", None, b"", b"12"], pa.binary()).view(pa.string())
    table = pa.table({"id": [1, 2, 3, 4, 5], "phone": broken})
    work = whatsapp(ledger_path)
    rows = (await asyncio.to_thread(work.table, table)).select(["ok", "error", "charge", "attempts"]).to_pylist()
    good, *others = rows
    assert good == {"ok": True, "error": None, "charge": "charged", "attempts": 1}
    assert others == [{"ok": False, "error": "InputError", "charge": "free", "attempts": 0}] * 4
    assert vendor.bill.total == 1


async def test_numbers_are_whatever_column_they_are_in(vendor: Sandbox, ledger_path: Path) -> None:
    digits = int(YES.removeprefix("+"))
    for cells in (pa.array([digits]), pa.array([float(digits)]), pa.array([YES]).dictionary_encode()):
        (row,) = await asked(whatsapp(ledger_path), pa.table({"id": ["A"], "phone": cells}))
        assert (row["ok"], row["number"]) == (True, YES)
    national = f"0{YES.removeprefix('+62')}"
    work = whatsapp(ledger_path, values={"country": "ID"})
    (row,) = await asked(work, numbers(national))
    assert row["number"] == YES
    work = whatsapp(ledger_path, columns={"number": "phone", "country": "land"})
    ours, nobody = await asked(work, numbers(national, YES, land=["ID", None]))
    assert (ours["number"], nobody["number"]) == (YES, YES)


async def test_photos_are_paths_or_bytes(vendor: Sandbox, ledger_path: Path, tmp_path: Path) -> None:
    one, same, other = images.person("ann"), images.holding("ann"), images.person("bob")
    for name, data in (("one", one), ("same", same), ("other", other)):
        (tmp_path / name).write_bytes(data)
    table = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "selfie": [str(tmp_path / name) for name in ("one", "one", "no such file", "one")],
            "card": pa.array([same, other, same, None], pa.large_binary()),
        }
    )
    work = Work.of(
        FaceCompare,
        columns={"img1": "selfie", "img2": "card"},
        key="id",
        ledger=ledger_path,
        without_shared_ledger=True,
    )
    found = await asked(work, table)
    assert [row["result"] for row in found] == ["SAME PERSON", "NOT SAME PERSON", None, None]
    assert [type(row["similarity"]) for row in found] == [float, float, type(None), type(None)]
    assert [row["error"] for row in found] == [None, None, "InputError", "InputError"]
    assert vendor.bill.charged == 2


async def test_faces_that_are_added_and_found(vendor: Sandbox, ledger_path: Path) -> None:
    table = pa.table({"id": [7, 8, None], "photo": [images.person("ann"), images.person("bob"), images.person("cy")]})
    options: dict[str, Any] = {"columns": {"img": "photo"}, "ledger": ledger_path, "without_shared_ledger": True}
    with pytest.raises(ConfigurationError, match="AddFace needs key="):
        Work.of(AddFace, **options)
    add = Work.of(AddFace, key="id", **options)
    *added, no_key = await asked(add, table)
    assert [(row["ok"], row["person_count"], type(row["person_id"])) for row in added] == [(True, 1, str)] * 2
    assert (no_key["error"], no_key["charge"]) == ("InputError", "free")
    again = await asked(add, table)
    assert [(row["from_ledger"], row["person_count"]) for row in again[:2]] == [(True, 1)] * 2
    found = await asked(Work.of(SearchFace, key="id", **options), table)
    assert [match["person_id"] for match in found[1]["matches"]] == [added[1]["person_id"]]
    gone = Work.of(DeleteFace, columns={"person_id": "person"}, ledger=ledger_path, without_shared_ledger=True)
    (row,) = await asked(gone, pa.table({"person": [added[0]["person_id"]]}))
    assert row["ok"]


async def test_equal_rows_are_paid_for_once(vendor: Sandbox, ledger_path: Path) -> None:
    for work in (
        whatsapp(ledger_path),
        Work.of(WhatsAppDetail, columns={"number": "phone"}, without_shared_ledger=True),
    ):
        vendor.reset()
        found = await asked(work, numbers(*[YES] * 20))
        assert [row["whatsapp"] for row in found] == ["yes"] * 20
        assert sorted(row["charge"] for row in found) == ["charged", *["free"] * 19]
        assert vendor.bill.charged == 1
        assert sum(row["from_ledger"] for row in found) == (19 if work.settings.ledger else 0)


async def test_the_money_of_rows_that_fail(vendor: Sandbox, ledger_path: Path) -> None:
    vendor.faults.add(Fault("reset-after", times=1))
    (lost,) = await asked(whatsapp(ledger_path), numbers(YES))
    assert (lost["ok"], lost["error"], lost["charge"], lost["attempts"]) == (False, "OutcomeUnknownError", "unknown", 1)
    (held,) = await asked(whatsapp(ledger_path), numbers(YES))
    assert (held["error"], held["charge"], held["recorded_charge"]) == ("OutcomeUnknownError", "free", "unknown")
    (over,) = await asked(whatsapp(ledger_path, max_charges=1), numbers(NO))
    assert (over["error"], over["charge"]) == ("BudgetExhaustedError", "free")
    assert vendor.bill.charged == 1


async def test_what_does_not_fit_its_column_takes_no_others_with_it(
    vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [1, 10**30, 2]

    def answer(number: int) -> object:
        message = {"group_id": GROUP_ID, "person_id": "p", "person_count": counts[number]}
        return {"status": "OK", "message": message}

    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor_of(answer).url)
    table = pa.table({"id": [1, 2, 3], "img": [picture(n) for n in range(3)]})
    work = Work.of(AddFace, key="id", concurrency=1, without_shared_ledger=True)
    found = await asyncio.to_thread(work.table, table)
    assert found.column("ok").to_pylist() == [True] * 3
    assert sorted(found.column("person_count").to_pylist(), key=str) == [1, 2, None]
    assert GROUP_ID not in str(found.to_pylist())


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (numbers(YES, ok=[1]), {}, "'ok' already.*prefix="),
        (numbers(YES, charge=[1], whatsapp=[1]), {}, "'whatsapp', 'charge' already"),
        (numbers(YES, number=[1]), {}, "'number' already"),
        (numbers(YES, x_ok=[1]), {"prefix": "x_"}, "'x_ok' already"),
        (numbers(YES), {"columns": {"number": "fone"}}, "no column 'fone' for number: the columns are 'id', 'phone'"),
        (numbers(YES), {"columns": {}}, "no column 'number' for number"),
        (numbers(YES), {"key": "ident"}, "no column 'ident' for key"),
        (numbers(YES, score=[1.0]), {"key": "score"}, "the key 'score' is double"),
        (pa.table([[1], [YES], [YES]], names=["id", "phone", "phone"]), {}, "2 columns 'phone' for number"),
    ],
)
async def test_columns_that_cannot_be_are_refused_before_money(
    vendor: Sandbox, ledger_path: Path, table: pa.Table, options: dict[str, Any], words: str
) -> None:
    work = whatsapp(ledger_path, **options)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=words):
            await asyncio.to_thread(work.table, table)
    assert vendor.bill.total == 0


async def test_a_prefix_and_a_field_that_the_row_is_asked_by(vendor: Sandbox, ledger_path: Path) -> None:
    options: dict[str, Any] = {"key": "id", "ledger": ledger_path, "without_shared_ledger": True}
    table = pa.table({"id": ["A"], "number": [YES]})
    work = Work.of(WhatsAppDetail, **options)
    assert "number" not in work.added(table.schema).names
    first = await asyncio.to_thread(work.table, table)
    assert first.column("number").to_pylist() == [YES]
    again = await asyncio.to_thread(Work.of(WhatsAppDetail, prefix="wa_", **options).table, first)
    added = again.schema.names[len(first.schema.names) :]
    assert added[:3] == ["wa_ok", "wa_whatsapp", "wa_number"]
    assert all(name.startswith("wa_") for name in added)
    assert again.column("wa_number").to_pylist() == [YES]
    assert again.column("wa_from_ledger").to_pylist() == [True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": {"phone": "number"}}, "columns has 'phone' for WhatsAppDetail: its fields are number, country"),
        ({"columns": {"number": "n", "callback": "url"}}, "answers by callback need a server"),
        ({"values": {"callback": "https://x.example"}}, "answers by callback need a server"),
        ({"values": {"number": YES}}, "columns and values both have 'number'"),
        ({"columns": {}, "values": {"number": YES}}, "name a column"),
        ({"concurrency": 0}, "concurrency must be"),
        ({"rate": -1.0}, "rate must be"),
        ({"deadline": -1.0}, "deadline"),
        ({"base_url": "http://vendor.example"}, "https"),
        ({"ledger": None, "reuse_for": 3.0}, "reuse_for"),
    ],
)
def test_options_that_cannot_work(ledger_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        whatsapp(**{"ledger": ledger_path, **options})


def test_a_ledger_that_machines_share_is_needed_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for ledger in (None, "calls.ledger", Path("calls.ledger")):
        with pytest.raises(ConfigurationError, match="without_shared_ledger=True"):
            Work.of(IdHolding, ledger=ledger)
    monkeypatch.chdir(tmp_path)
    work = Work.of(IdHolding, ledger="calls.ledger", without_shared_ledger=True)
    assert work.settings.ledger == str(tmp_path / "calls.ledger")  # workers are in other folders
    for url in ("postgresql://me@host/db?schema=x", "postgres://me:@host/db?schema=x"):  # an empty password is none
        assert Work.of(IdHolding, ledger=url).settings.ledger == "postgresql://me@host/db?schema=x"


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("url", ["postgresql://me:pass-w0rd@host/db", "postgresql://host/db?password=pass-w0rd"])
def test_a_password_of_the_ledger_is_no_business_of_engines(url: str) -> None:
    with pytest.raises(ConfigurationError, match="PGPASSFILE") as caught:
        Work.of(WhatsAppDetail, ledger=url)
    assert "pass-w0rd" not in str(caught.value)


def test_what_is_pickled_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_BASE_URL", "https://gateway.example")
    work = Work.of(WhatsAppDetail, ledger="postgresql://me@host/db?schema=x", concurrency=Adaptive(max=20))
    pickled = pickle.dumps(work)
    assert TOKEN.encode() not in pickled
    assert TOKEN not in repr(work)
    assert pickle.loads(pickled) == work
    # What is tried out at one vendor is not asked of another one, whose address is in the environment of the worker.
    monkeypatch.setenv("AISOLUTION_BASE_URL", "https://other.example")
    assert pickle.loads(pickled).settings.client().base_url == "https://gateway.example"


async def test_a_worker_without_a_token_says_so_and_one_that_has_it_then_works(
    vendor: Sandbox, ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISOLUTION_TOKEN")
    work = whatsapp(ledger_path)
    with pytest.raises(ConfigurationError, match="a worker has no token: set the environment variable"):
        await asyncio.to_thread(work.table, numbers(YES))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    (row,) = await asked(work, numbers(YES))
    assert row["ok"], row["error_text"]


# ---------------------------------------------------------------------------------------------------------- one process


def threads() -> int:
    return sum(thread.name == "aisolution-arrow" for thread in threading.enumerate())


async def test_all_work_of_a_process_shares_a_client(vendor: Sandbox, ledger_path: Path) -> None:
    looks = whatsapp(ledger_path)
    faces = Work.of(IdHolding, columns={"img": "photo"}, key="id", ledger=ledger_path, without_shared_ledger=True)
    photos = pa.table({"id": ["A"], "photo": [images.holding("ann")]})
    tables = [(looks, numbers(YES, NO)), (pickle.loads(pickle.dumps(looks)), numbers(YES)), (faces, photos)] * 3
    found = await asyncio.gather(*(asyncio.to_thread(work.table, table) for work, table in tables))
    assert all(all(table.column("ok").to_pylist()) for table in found)
    assert threads() == 1
    await asked(whatsapp(ledger_path, concurrency=3), numbers(YES))
    assert threads() == 2
    await asyncio.to_thread(looks.close)
    assert threads() == 1
    await asyncio.to_thread(looks.close)
    (row,) = await asked(looks, numbers(YES))
    assert row["from_ledger"]
    assert vendor.bill.charged == 3


OK = {"status": "OK", "message": {"number": "+6281387300008", "whatsapp": "yes"}}


class Gate:
    """A vendor that answers each request when it is told to, and tells which are there."""

    def __init__(self, vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.came = threading.Semaphore(0)
        self.vendor = vendor_of(self._answer)
        monkeypatch.setenv("AISOLUTION_BASE_URL", self.vendor.url)

    def wait_for(self, count: int) -> None:
        """Until so many more are there."""
        for _ in range(count):
            assert self.came.acquire(timeout=60)

    def _answer(self, number: int) -> object:
        self.came.release()
        assert self.is_open.wait(60)
        return OK


@pytest.fixture
def gate(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(vendor_of, monkeypatch)
    yield gate
    gate.is_open.set()


def phones(first: int, count: int) -> pa.Table:
    return pa.table({"phone": [f"+62813873{n:05}" for n in range(first, first + count)]})


async def test_the_next_table_is_asked_before_the_first_is_done(gate: Gate, ledger_path: Path) -> None:
    work = whatsapp(ledger_path, key=None, concurrency=10)
    tables = (phones(start, 2) for start in (0, 2, 4))
    reading = asyncio.create_task(asyncio.to_thread(list, work.stream(tables)))
    await asyncio.to_thread(gate.wait_for, 4)  # two tables are under way, and nobody has been answered
    assert not gate.came.acquire(blocking=False)
    gate.is_open.set()
    assert [table.column("ok").to_pylist() for table in await reading] == [[True, True]] * 3
    assert len(gate.vendor.requests) == 6


async def test_a_stream_that_is_closed_early_records_what_is_under_way(gate: Gate, ledger_path: Path) -> None:
    work = whatsapp(ledger_path, key=None, concurrency=3)

    def tables() -> Iterator[pa.Table]:
        yield phones(0, 100)
        gate.wait_for(3)
        gate.is_open.set()
        raise RuntimeError("the engine has had enough")

    with pytest.raises(RuntimeError, match="had enough"):
        await asyncio.to_thread(list, work.stream(tables()))
    sent = len(gate.vendor.requests)
    assert 3 <= sent < 100
    gate.vendor.requests.clear()
    found = await asyncio.to_thread(work.table, phones(0, 100))
    assert sum(found.column("from_ledger").to_pylist()) == sent
    assert len(gate.vendor.requests) == 100 - sent


async def test_closing_lets_what_is_under_way_be_answered(gate: Gate, ledger_path: Path) -> None:
    work = whatsapp(ledger_path, key=None, concurrency=3)
    reading = asyncio.create_task(asyncio.to_thread(work.table, phones(0, 100)))
    await asyncio.to_thread(gate.wait_for, 3)
    closing = asyncio.create_task(asyncio.to_thread(arrow.close))
    gate.is_open.set()
    await closing
    with pytest.raises(ConfigurationError, match="closed before the rows were answered"):
        await reading
    sent = len(gate.vendor.requests)
    found = await asyncio.to_thread(work.table, phones(0, 100))
    assert sum(found.column("from_ledger").to_pylist()) == sent


async def test_a_table_of_photos_is_not_held_twice(gate: Gate) -> None:
    photo = picture(1) + bytes(1 << 20)
    table = pa.table({"img": [photo] * 200})
    work = Work.of(IdHolding, concurrency=2, without_shared_ledger=True)
    gate.is_open.set()
    tracemalloc.start()
    try:
        await asyncio.to_thread(work.table, table)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 130 << 20  # the places and the window of the batch are 66 photos


PROCESS = """
import os, sys
import pyarrow as pa
from aisolution_async import WhatsAppDetail
from aisolution_async.integrations.arrow import Work

work = Work.of(WhatsAppDetail, columns={"number": "phone"}, ledger=sys.argv[1], without_shared_ledger=True)

def ask(number):
    table = work.table(pa.table({"phone": [number]}))
    return table.column("ok").to_pylist() == [True]

assert ask("+6281387300001")
child = os.fork()
if child == 0:
    os._exit(0 if ask("+6281387300002") and ask("+6281387300001") else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert ask("+6281387300002") and ask("+6281387300003")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_a_fork_has_its_own_and_the_end_of_a_process_closes(vendor: Sandbox) -> None:
    url = running().url()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", PROCESS, url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert vendor.requests.total() == 3
    # The child was ended without more ado, as forked workers are: its lease runs out. The parent has closed.
    assert running().rows(url, "SELECT count(*) FROM owners WHERE NOT ended") == [(1,)]
    assert running().rows(url, "SELECT count(*) FROM intents") == [(0,)]


@pytest.mark.parametrize(("ledger", "rate"), [("postgresql://host/db", 500.0), ("a.ledger", 62.5), (None, 62.5)])
def test_a_rate_is_divided_once(ledger: str | None, rate: float) -> None:
    """A ledger on a server divides it among those who have it open."""
    pytest.importorskip("psycopg")
    without = ledger is None or "://" not in ledger
    work = Work.of(WhatsAppDetail, ledger=ledger, without_shared_ledger=without, rate=500.0, workers=8)
    assert work.settings.rate == rate
