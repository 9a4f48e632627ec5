"""Lists as files: what is taken, what every process says of them, and how they go on after whatever end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

if sys.platform == "win32":
    pytest.skip("there are no such file locks", allow_module_level=True)

from aisolution_async import AddFace, ConfigurationError, FaceCompare, InputError, Ledger, WhatsAppDetail
from aisolution_async.clock import today
from aisolution_async.integrations.lists import Lists, ListState
from aisolution_async.integrations.problems import problem_of

from .support import Vendor, client_of, ok_whatsapp, picture, says

ROWS = [{"key": f"A-{n}", "number": f"+62813{n:08}"} for n in range(12)]


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path / "lists", WhatsAppDetail, concurrency=4)


def answering() -> Vendor:
    return Vendor(lambda request, number: ok_whatsapp())


async def until(lists: Lists, name: str, status: str = "done") -> ListState:
    while (state := lists.state(name)) is None or state.status != status:
        await asyncio.sleep(0.005)
    return state


async def run(lists: Lists, name: str, vendor: Vendor) -> list[dict[str, Any]]:
    """Run until the list is done; its results."""
    async with client_of(vendor) as client, lists.running(client, look_every=0.01):
        await until(lists, name)
    return results_of(lists, name)


def results_of(lists: Lists, name: str) -> list[dict[str, Any]]:
    file = lists.results(name)
    assert file is not None
    return [json.loads(line) for line in file.read_text().splitlines()]


async def run_half(lists: Lists, name: str) -> int:
    """Run a list, and end in its middle as a service ends. How many requests there were."""
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        if number >= 6:
            reached.set()
            await may_go_on.wait()
        return ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client, AsyncExitStack() as stack:
        await stack.enter_async_context(lists.running(client, look_every=0.01))
        await reached.wait()
        ending = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)
        may_go_on.set()
        await ending
    return len(vendor.requests)


# --------------------------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a.b", ".x", "-x", "_x", "a" * 101, "x\n", "x\0", "é", "a b", "monday.results"],
)
def test_a_name_cannot_leave_the_folder(lists: Lists, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name has"):
        lists.put(name, ROWS)
    assert lists.state(name) is None
    assert lists.results(name) is None
    assert list(tmp_path.rglob("*")) == []


def test_a_list_is_there_whole_and_once(lists: Lists, tmp_path: Path) -> None:
    lists.put("monday", ROWS)
    lists.put("monday", ROWS)  # as a request is repeated whose answer was lost
    assert lists.state("monday") == ListState("waiting")
    with pytest.raises(InputError, match="other rows") as caught:
        lists.put("monday", [*ROWS, ROWS[0]])
    assert problem_of(caught.value).status == 422
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["monday.jsonl"]
    written = (tmp_path / "lists" / "monday.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == ROWS
    assert (tmp_path / "lists" / "monday.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rows", [[], [{"number": object()}], ["+6281387300008"], [{"number": float("nan")}], [None]])
def test_what_is_no_list_leaves_nothing(lists: Lists, tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(InputError):
        lists.put("monday", rows)
    assert list((tmp_path / "lists").iterdir()) == []
    assert lists.state("monday") is None


async def test_options_that_cannot_work_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Lists(tmp_path, [])
    lists = Lists(tmp_path, WhatsAppDetail, prices={"nothing": Decimal(1)})
    async with client_of(answering()) as client:
        with pytest.raises(ConfigurationError):
            async with lists.running(client):
                raise AssertionError


async def test_an_image_is_read_from_the_folder_only(tmp_path: Path) -> None:
    lists = Lists(tmp_path / "lists", FaceCompare)
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    lists.put("monday", [{"img1": path, "img2": path} for path in (str(tmp_path / "secret.jpg"), "../secret.jpg")])
    vendor = Vendor(lambda request, number: says("OK", {"similarity": 1, "result": "NOT SURE"}))
    assert {row["error"] for row in await run(lists, "monday", vendor)} == {"InputError"}
    assert not vendor.requests


# ------------------------------------------------------------------------------------------------- how they are run


async def test_two_processes_run_each_list_once_and_say_the_same(tmp_path: Path) -> None:
    both = [Lists(tmp_path, WhatsAppDetail) for _ in range(2)]
    vendor = answering()
    for day in range(6):
        both[day % 2].put(f"day-{day}", [{"number": f"+62813{day:04}{n:04}"} for n in range(10)])
    async with client_of(vendor) as one, client_of(vendor) as two:
        async with both[0].running(one, look_every=0.01), both[1].running(two, look_every=0.01):
            for day in range(6):
                await until(both[day % 2], f"day-{day}")
    assert len(vendor.requests) == 60
    for day in range(6):
        assert both[0].state(f"day-{day}") == both[1].state(f"day-{day}") == ListState("done", 10, 10, 10)


async def test_what_a_stopped_run_left_is_gone_on_with(lists: Lists) -> None:
    lists.put("monday", ROWS)
    made = await run_half(lists, "monday")
    state = lists.state("monday")
    assert state is not None
    assert (state.status, state.total, state.held) == ("waiting", 12, 0)
    assert 6 < state.done < 12
    assert lists.results("monday") is None
    vendor = answering()
    rows = await run(lists, "monday", vendor)
    assert [row["key"] for row in rows] == [row["key"] for row in ROWS]
    assert {row["charge"] for row in rows} == {"charged"}
    assert made + len(vendor.requests) == 12
    assert lists.state("monday") == ListState("done", 12, 12, 12)


async def test_answers_that_were_purged_meanwhile_are_not_bought_again(lists: Lists, tmp_path: Path) -> None:
    lists.put("monday", ROWS)
    made = await run_half(lists, "monday")
    async with Ledger(tmp_path / "lists" / "lists.ledger") as ledger:
        await ledger.purge(0)
    vendor = answering()
    rows = await run(lists, "monday", vendor)
    assert {row["charge"] for row in rows} == {"charged"}
    assert made + len(vendor.requests) == 12


async def test_without_its_ledger_nothing_is_sent_again(
    lists: Lists, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists.put("monday", ROWS)
    await run_half(lists, "monday")
    for path in (tmp_path / "lists").glob("lists.ledger*"):
        path.unlink()
    vendor = answering()
    async with client_of(vendor) as client, lists.running(client, look_every=0.01):
        while (state := lists.state("monday")) is None or state.problem is None:
            await asyncio.sleep(0.005)
        lists.put("tuesday", [{"number": "+6281387300008"}])  # the others go on
        await until(lists, "tuesday")
    assert (state.status, state.problem) == ("waiting", "This service is not set up")
    assert len(vendor.requests) == 1
    assert "its ledger" in caplog.text  # with the remedy, for the operator
    assert str(tmp_path) not in json.dumps(asdict(state))


async def test_a_list_without_the_column_is_told_and_tried_again_later(lists: Lists, tmp_path: Path) -> None:
    lists.put("monday", [{"name": "A-1"}])
    async with client_of(answering()) as client, lists.running(client, look_every=0.001):
        while (state := lists.state("monday")) is None or state.problem is None:
            await asyncio.sleep(0.005)
        told = (tmp_path / "lists" / "monday.state.json").stat().st_mtime_ns
        lists.put("tuesday", ROWS)
        await until(lists, "tuesday")
        assert (tmp_path / "lists" / "monday.state.json").stat().st_mtime_ns == told


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"status": "done", "more": 1}', None])
async def test_a_process_that_ended_before_it_said_so(lists: Lists, tmp_path: Path, torn: bytes | None) -> None:
    """The results are whole, and the state was not written, or was torn: it is found out again, for nothing."""
    lists.put("monday", ROWS)
    rows = await run(lists, "monday", answering())
    state = tmp_path / "lists" / "monday.state.json"
    state.unlink()
    if torn is not None:
        state.write_bytes(torn)
    assert lists.results("monday") is None
    vendor = answering()
    assert await run(lists, "monday", vendor) == rows
    assert not vendor.requests
    assert lists.state("monday") == ListState("done", 12, 12, 12)


async def test_what_was_left_of_a_list_that_was_never_taken_goes(lists: Lists, tmp_path: Path) -> None:
    lists.put("monday", ROWS)
    folder = tmp_path / "lists"
    for name, hours in ((".old.new", 25), (".young.new", 1)):
        (folder / name).write_text("{}")
        then = (today() - timedelta(hours=hours)).timestamp()
        os.utime(folder / name, (then, then))
    await run(lists, "monday", answering())
    assert [path.name for path in folder.glob(".*")] == [".young.new"]
    (folder / "monday.results.jsonl").unlink()
    assert lists.results("monday") is None


async def test_faces_are_added_once(tmp_path: Path) -> None:
    lists = Lists(tmp_path, AddFace)
    (tmp_path / "a.jpg").write_bytes(picture(1))
    lists.put("monday", [{"key": "A-1", "img": "a.jpg"}])
    vendor = Vendor(lambda r, n: says("OK", {"group_id": "LxiKPLIMGFpXzXas", "person_id": "p", "person_count": 1}))
    await run(lists, "monday", vendor)
    (tmp_path / "monday.state.json").unlink()
    assert [row["answer_person_id"] for row in await run(lists, "monday", vendor)] == ["p"]
    assert len(vendor.requests) == 1
    assert b"LxiKPLIMGFpXzXas" not in b"".join(path.read_bytes() for path in tmp_path.glob("monday*"))


async def test_a_list_that_is_taken_away_and_put_again_is_another(lists: Lists, tmp_path: Path) -> None:
    vendor = answering()
    async with client_of(vendor) as client, lists.running(client, look_every=0.01):
        for number in ("+6281387300008", "+6281387300009"):
            lists.put("monday", [{"number": number}])
            await until(lists, "monday")
            for path in (tmp_path / "lists").glob("monday.*"):
                path.unlink()
            assert lists.state("monday") is None
    assert len(vendor.requests) == 2


async def test_several_calls_a_row(tmp_path: Path) -> None:
    lists = Lists(tmp_path, [FaceCompare, WhatsAppDetail])
    (tmp_path / "a.jpg").write_bytes(picture(1))
    lists.put("monday", [{"img1": "a.jpg", "img2": "a.jpg", "number": "+6281387300008"}] * 2)

    def script(request: httpx.Request, number: int) -> httpx.Response:
        is_face = request.url.path.endswith("facecompare")
        return says("OK", {"similarity": 1, "result": "NOT SURE"}) if is_face else ok_whatsapp()

    rows = await run(lists, "monday", Vendor(script))
    assert [row["whatsapp_detail_answer_whatsapp"] for row in rows] == ["yes", "yes"]
    assert lists.state("monday") == ListState("done", 2, 2, 2)


async def test_what_may_have_been_charged_in_this_run_is_held_too(tmp_path: Path) -> None:
    lists = Lists(tmp_path, WhatsAppDetail, concurrency=1)
    lists.put("monday", [*ROWS[:4], {**ROWS[1], "key": "again"}, {"key": "wrong", "number": "no number"}])

    def script(request: httpx.Request, number: int) -> httpx.Response:
        answers = (ok_whatsapp(), httpx.Response(500), says("SOMETHING_NEW", "x"), says("FAIL", "x"))
        return answers[number]

    rows = await run(lists, "monday", Vendor(script))
    assert [row["key"] for row in rows if "held" in (row["problem"] or "")] == ["A-1", "A-2", "again"]
    assert lists.state("monday") == ListState("done", 6, 6, 1, 5, held=3)


FORKING = """
import os, socket, sys
from aisolution_async import WhatsAppDetail
from aisolution_async.integrations.lists import Lists

lists = Lists(sys.argv[1], WhatsAppDetail)
here, there = socket.socketpair()
with lists.claimed("monday") as is_held:
    assert is_held and lists.state("monday").status == "running"
    with lists.claimed("monday") as again:
        assert not again
    child = os.fork()
    if not child:
        there.sendall(b"here")
        there.recv(1)
        os._exit(0)
assert here.recv(4) == b"here"
with lists.claimed("monday") as is_held:
    here.sendall(b".")
    os.waitpid(child, 0)
    assert is_held
"""


async def test_a_forked_child_does_not_go_on_holding_a_list(lists: Lists, tmp_path: Path) -> None:
    lists.put("monday", ROWS)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, tmp_path / "lists")
    assert await child.wait() == 0
