"""What goes wrong in the sandbox on purpose: faults, its clock, what they do to the bill, how they are asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import fmean, median, stdev
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from aisolution_async.charges import Charge
from aisolution_async.cli.commands import aisolution
from aisolution_async.sandbox import Clock, Fault, Faults, Sandbox, faults, magic_number
from aisolution_async.sandbox.faults import KINDS

from .sandboxes import TOKEN, connected
from .support import LAST_RESORT, examples, virtual

YES = magic_number("yes")


@asynccontextmanager
async def sandbox_with(*given_faults: Fault, **options: Any) -> AsyncIterator[Sandbox]:
    """A sandbox whose time stands still."""
    async with Sandbox(faults=given_faults, clock=Clock(ticking=False), **options) as sandbox:
        yield sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """In this file, one whose time stands still."""
    async with sandbox_with() as running:
        yield running


def post(number: str = YES, endpoint: str = "gliswadetail", *, close: bool = False, token: str = TOKEN) -> bytes:
    body = urlencode({"number": number}).encode()
    lines = (f"POST /v1/{endpoint}?token={token} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}")
    return "\r\n".join((*lines, *(["connection: close"] if close else []), "\r\n")).encode() + body


async def ask(sandbox: Sandbox, data: bytes | None = None) -> tuple[bytes, bool]:
    """All that comes back, and whether it ended in a reset."""
    async with connected(sandbox) as (reader, writer):
        writer.write(post(close=True) if data is None else data)
        said = b""
        try:
            while chunk := await reader.read(65536):
                said += chunk
        except ConnectionResetError:
            return said, True
        return said, False


def read(said: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(body) == int(headers.get("content-length", 0))
    return int(first.split()[1]), headers, body


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def accounted(sandbox: Sandbox) -> tuple[int, int, int, int]:
    """Requests, charged, free, charged and delivered."""
    bill = sandbox.bill
    return sandbox.requests["gliswadetail"], bill.charged, bill.free, bill.delivered.charged


WHOLE = {
    "status": "OK",
    "message": {
        "number": YES,
        "whatsapp": "yes",
        "status_update": "20180825",
        "signature": "Saya suka global",
        "business_user": "no",
        "avatar": "yes",
    },
}


# What each does


async def test_without_faults_all_is_delivered(sandbox: Sandbox) -> None:
    said, reset = await ask(sandbox)
    assert (json.loads(read(said)[2]), reset) == (WHOLE, False)
    assert accounted(sandbox) == (1, 1, 0, 1)
    assert sandbox.bill.delivered == sandbox.bill


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_reset_before_is_unknown_to_the_vendor(loop: str) -> None:
    async def everything() -> None:
        async with sandbox_with(Fault("reset-before")) as sandbox:
            assert await ask(sandbox) == (b"", True)
            # Also where the body is yet to come.
            assert await ask(sandbox, post()[:-5]) == (b"", True)
            assert accounted(sandbox) == (0, 0, 0, 0)
            assert sandbox.faults.hits(Fault("reset-before")) == 2

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(everything())


@pytest.mark.parametrize("billed", [None, False])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_reset_after_loses_an_answer_that_is_billed(billed: bool | None, loop: str) -> None:
    async def everything() -> None:
        async with sandbox_with(Fault("reset-after", billed=billed)) as sandbox:
            assert await ask(sandbox) == (b"", True)
            assert accounted(sandbox) == ((1, 1, 0, 0) if billed is None else (1, 0, 1, 0))
            (entry,) = sandbox.bill.entries
            assert (entry.fault, entry.delivered, entry.charge is Charge.CHARGED) == (
                "reset-after",
                False,
                billed is None,
            )

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(everything())


async def test_a_reset_in_the_middle_sends_half_an_answer() -> None:
    async with sandbox_with(Fault("reset-middle")) as sandbox:
        said, reset = await ask(sandbox)
        assert reset
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(ValueError, match="Expecting|Unterminated"):
            json.loads(said.partition(b"\r\n\r\n")[2] or b"{")
        assert accounted(sandbox) == (1, 1, 0, 0)


async def test_a_reset_ends_what_was_asked_behind_it() -> None:
    async with sandbox_with(Fault("reset-after", times=1)) as sandbox:
        assert await ask(sandbox, post() * 3) == (b"", True)
        assert accounted(sandbox)[1] == 1


async def test_a_hang_lasts_until_the_client_gives_up() -> None:
    async with sandbox_with(Fault("hang")) as sandbox:
        async with connected(sandbox) as (reader, writer):
            writer.write(post())
            await until(lambda: sandbox.bill.charged)
            sandbox.clock.advance(1e9)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.02)
        await until(lambda: not sandbox._connections)
        assert accounted(sandbox) == (1, 1, 0, 0)


async def test_a_hang_of_some_seconds_ends_without_an_answer() -> None:
    async with sandbox_with(Fault("hang", seconds=30, billed=False)) as sandbox, connected(sandbox) as (reader, writer):
        writer.write(post())
        await until(lambda: sandbox.bill.free)
        sandbox.clock.advance(29)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.02)
        sandbox.clock.advance(1)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert accounted(sandbox) == (1, 0, 1, 0)


async def test_a_hang_lasts_from_when_it_is_billed() -> None:
    """Whoever sees it on the bill and moves the clock on is not too early."""
    async with sandbox_with(Fault("hang", seconds=30, billed=False)) as sandbox, connected(sandbox) as (reader, writer):
        writer.write(post())
        while not sandbox.bill.free:
            await asyncio.sleep(0)
        sandbox.clock.advance(30)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), LAST_RESORT) == b""


async def test_a_drip_comes_piece_by_piece_and_whole() -> None:
    async with sandbox_with(Fault("drip", seconds=19)) as sandbox, connected(sandbox) as (reader, writer):
        writer.write(post(close=True))
        said = await reader.read(65536)
        pieces = 1
        while chunk := b"" if reader.at_eof() else await _after(sandbox, reader):
            said += chunk
            pieces += 1
        assert pieces == 20
        assert json.loads(read(said)[2]) == WHOLE
        assert sandbox.clock.now() == 19
        assert accounted(sandbox) == (1, 1, 0, 1)


async def _after(sandbox: Sandbox, reader: asyncio.StreamReader) -> bytes:
    # Wherever the answer is over, nobody waits for the clock any more.
    await until(lambda: sandbox.clock._waiting or not sandbox._connections)
    if sandbox.clock._waiting:
        sandbox.clock.advance(1)
    return await reader.read(65536)


async def test_a_drip_ends_with_its_client() -> None:
    async with sandbox_with(Fault("drip")) as sandbox:
        async with connected(sandbox) as (reader, writer):
            writer.write(post())
            await reader.read(1)
        for _ in range(3):  # it is noticed by writing
            await until(lambda: sandbox.clock._waiting or not sandbox._tasks)
            sandbox.clock.advance(0.2)
        await until(lambda: not sandbox._tasks)
        assert accounted(sandbox) == (1, 1, 0, 0)


async def test_garbage_is_not_http() -> None:
    async with sandbox_with(Fault("garbage")) as sandbox:
        said, reset = await ask(sandbox, post())
        assert not reset
        assert len(said) > 100
        assert not said.startswith(b"HTTP")
        assert (await ask(sandbox, post()))[0] == said
        assert accounted(sandbox) == (2, 2, 0, 0)


async def test_what_is_not_json() -> None:
    async with sandbox_with(Fault("not-json")) as sandbox:
        code, headers, body = read((await ask(sandbox))[0])
        assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert body.startswith(b"<!doctype html>")
        assert accounted(sandbox) == (1, 1, 0, 0)


async def test_json_that_is_cut_off() -> None:
    async with sandbox_with(Fault("truncated")) as sandbox:
        code, headers, body = read((await ask(sandbox))[0])
        assert (code, headers["content-type"]) == (200, "application/json")
        assert json.dumps(WHOLE).encode().startswith(body)
        assert len(body) > 20
        assert accounted(sandbox) == (1, 1, 0, 0)


@pytest.mark.parametrize("size", [None, 2_000_000])
async def test_an_answer_that_is_huge(size: int | None) -> None:
    async with sandbox_with(Fault("huge", size=size)) as sandbox:
        _, _, body = read((await ask(sandbox))[0])
        assert len(body) == (size or 4 * 1024 * 1024)
        assert WHOLE.items() < json.loads(body).items()
        assert accounted(sandbox) == (1, 1, 0, 0)


async def test_a_wrong_content_type_changes_nothing_else() -> None:
    async with sandbox_with(Fault("content-type")) as sandbox:
        _, headers, body = read((await ask(sandbox))[0])
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert json.loads(body) == WHOLE
        assert accounted(sandbox) == (1, 1, 0, 1)


@pytest.mark.parametrize("message", [None, {"whatsapp": 7}, "text"])
async def test_a_message_that_does_not_fit(message: object) -> None:
    async with sandbox_with(Fault("message", message=message)) as sandbox:
        code, _, body = read((await ask(sandbox))[0])
        assert (code, json.loads(body)) == (200, {"status": "OK", "message": message or "nothing that fits"})
        assert accounted(sandbox) == (1, 1, 0, 0)


@pytest.mark.parametrize("http_status", [200, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("billed", [None, True])
async def test_http_without_an_envelope(http_status: int, billed: bool | None) -> None:
    fault = Fault("http", http_status=http_status, billed=billed, retry_after=3)
    async with sandbox_with(fault) as sandbox:
        code, headers, body = read((await ask(sandbox))[0])
        assert (code, headers["retry-after"], body) == (http_status, "3", b"out of order\n")
        assert accounted(sandbox) == ((1, 1, 0, 0) if billed else (1, 0, 1, 0))


async def test_http_without_a_body() -> None:
    async with sandbox_with(Fault("http", http_status=204)) as sandbox:
        said = (await ask(sandbox))[0]
        assert read(said)[0] == 204
        assert b"content-length" not in said


async def test_http_with_an_envelope() -> None:
    async with sandbox_with(Fault("http", http_status=500, status="FAIL", message={"why": "é"})) as sandbox:
        code, headers, body = read((await ask(sandbox))[0])
        assert (code, headers["content-type"]) == (500, "application/json")
        assert json.loads(body) == {"status": "FAIL", "message": {"why": "é"}}
        (entry,) = sandbox.bill.entries
        assert (entry.status, entry.http_status, entry.fault) == ("FAIL", 500, "http")


@pytest.mark.parametrize(
    ("status", "endpoint", "message"),
    [
        ("FAIL", "gliswadetail", "error message"),
        ("RETRY_LATER", "delface", "Service is not available right now, please try again later"),
        ("IMAGE_INVALID_SIZE", "facecompare", "image larger than 2M"),
        ("INVALID_FACE_NUM", "idholding", "0 faces found"),
        ("FACE_DETECT_FAILED", "searchface", []),
        ("PERSON_ID_NOT_EXIST", "delface", None),
        ("NEVER_HEARD_OF", "delface", "error message"),
    ],
)
async def test_a_status_with_the_documented_message(status: str, endpoint: str, message: object) -> None:
    async with sandbox_with(Fault("status", status=status)) as sandbox:
        code, _, body = read((await ask(sandbox, post(endpoint=endpoint, close=True)))[0])
        assert (code, json.loads(body)) == (200, {"status": status, "message": message})
        assert (sandbox.bill.charged, sandbox.bill.free) == (0, 1)


async def test_a_refusal_has_nothing_to_be_spoiled() -> None:
    for kind in ("message", "truncated", "content-type", "huge"):
        async with sandbox_with(Fault(kind)) as sandbox:
            code, headers, body = read((await ask(sandbox, post(token="wrong", close=True)))[0])
            assert (code, body) == (401, b"token not valid\n")
            assert headers["content-type"].startswith("text/plain")
            assert sandbox.bill.charged == 0


@pytest.mark.parametrize("kind", sorted(kind for kind, billed in KINDS.items() if billed and kind != "hang"))
async def test_what_is_not_billed_is_unknown_to_the_vendor(kind: str) -> None:
    async with sandbox_with(Fault(kind, billed=False)) as sandbox:
        async with connected(sandbox) as (reader, writer):
            writer.write(post(magic_number("checking-twice"), close=True))
            with suppress(ConnectionResetError):
                while await (_after(sandbox, reader) if kind == "drip" else reader.read(65536)):
                    pass
        assert accounted(sandbox) == (1, 0, 1, 0)
        sandbox.faults.clear()
        # It was not asked for yet.
        answers = [
            json.loads(read((await ask(sandbox, post(magic_number("checking-twice"), close=True)))[0])[2])
            for _ in range(3)
        ]
        assert [answer["message"]["whatsapp"] for answer in answers] == ["checking", "checking", "yes"]


# Delays and capacity


async def test_latency_delays_the_answer_and_not_the_bill() -> None:
    async with sandbox_with(Fault("latency", seconds=5)) as sandbox, connected(sandbox) as (reader, writer):
        writer.write(post(close=True))
        await until(lambda: sandbox.clock._waiting)
        assert accounted(sandbox) == (1, 1, 0, 0)
        sandbox.clock.advance(4.9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.02)
        sandbox.clock.advance(0.1)
        assert json.loads(read(await reader.read())[2]) == WHOLE
        assert accounted(sandbox) == (1, 1, 0, 1)


def test_latency_is_log_normal_about_its_median() -> None:
    from math import log

    many = Faults([Fault("latency", seconds=0.2, spread=0.5)])
    logs = [log(many.fate("delface", b"%d" % n, 0).seconds) for n in range(4000)]
    assert abs(median(logs) - log(0.2)) < 0.05
    assert abs(fmean(logs) - log(0.2)) < 0.05
    assert abs(stdev(logs) - 0.5) < 0.03


def test_delays_add_up_wherever_they_stand() -> None:
    both = Faults([Fault("latency", seconds=1), Fault("hang"), Fault("latency", seconds=2), Fault("garbage")])
    fate = both.fate("delface", b"", 0)
    assert (fate.seconds, fate.fault) == (3, Fault("hang"))
    assert both.hits(Fault("garbage")) == 0


async def test_over_capacity_is_told_to_retry_later() -> None:
    async with sandbox_with(Fault("capacity", per_second=3)) as sandbox:
        async with httpx.AsyncClient(base_url=sandbox.url) as client:

            async def statuses(count: int) -> Counter[str]:
                asked = (
                    client.post(f"/v1/gliswadetail?token={TOKEN}", data={"number": f"+6281200000{n:03}"})
                    for n in range(700, 700 + count)
                )
                return Counter([answer.json()["status"] for answer in await asyncio.gather(*asked)])

            assert await statuses(5) == {"OK": 3, "RETRY_LATER": 2}
            sandbox.clock.advance(0.5)
            assert await statuses(2) == {"RETRY_LATER": 2}
            sandbox.clock.advance(0.5)
            assert await statuses(4) == {"OK": 3, "RETRY_LATER": 1}
        assert sandbox.bill.by_endpoint["gliswadetail"].free >= 5
        refused = [entry for entry in sandbox.bill.entries if entry.fault == "capacity"]
        assert {(entry.status, entry.charge, entry.delivered) for entry in refused} == {
            ("RETRY_LATER", Charge.FREE, True)
        }


async def test_over_capacity_may_be_http_429() -> None:
    async with sandbox_with(Fault("capacity", per_second=0.1, http_status=429, retry_after=10)) as sandbox:
        assert read((await ask(sandbox))[0])[0] == 200
        sandbox.clock.advance(9)
        code, headers, _ = read((await ask(sandbox))[0])
        assert (code, headers["retry-after"]) == (429, "10")
        sandbox.clock.advance(1)
        assert read((await ask(sandbox))[0])[0] == 200


# Which are hit


async def test_an_outage_is_between_two_times() -> None:
    async with sandbox_with(Fault("http", http_status=503, start=10, end=20)) as sandbox:
        codes = []
        for _ in range(4):
            codes.append(read((await ask(sandbox))[0])[0])
            sandbox.clock.advance(9.999 if len(codes) == 1 else 5.001)
        # At 0, 9.999, 15 and 20.001.
        assert codes == [200, 200, 503, 200]


async def test_a_fault_may_be_of_one_endpoint_and_hit_so_many_times() -> None:
    async with sandbox_with() as sandbox:
        fault = sandbox.faults.add(Fault("http", http_status=500, endpoint="delface", times=2))
        codes = [read((await ask(sandbox, post(endpoint="delface", close=True)))[0])[0] for _ in range(3)]
        assert codes == [500, 500, 200]
        assert read((await ask(sandbox))[0])[0] == 200
        assert sandbox.faults.hits(fault) == 2
        sandbox.faults.remove(fault)
        assert not sandbox.faults
        with pytest.raises(ValueError, match="not here"):
            sandbox.faults.remove(fault)


def hit(chosen: Faults, bodies: list[bytes]) -> dict[tuple[bytes, int], bool]:
    """Which of them are hit, by body and how often it came before."""
    seen: Counter[bytes] = Counter()
    found = {}
    for body in bodies:
        found[body, seen[body]] = chosen.fate("delface", body, 0).fault is not None
        seen[body] += 1
    return found


@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    bodies=st.lists(st.binary(max_size=3), max_size=60),
    shuffled=st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_does_not_matter(seed: int, bodies: list[bytes], shuffled: Any) -> None:
    fault = Fault("hang", rate=0.5)
    first = hit(Faults([fault], seed=seed), bodies)
    other = list(bodies)
    shuffled.shuffle(other)
    assert hit(Faults([fault], seed=seed), other) == first


def test_the_seed_matters_and_so_does_the_place() -> None:
    bodies = [b"%d" % n for n in range(2000)]
    fault = Fault("hang", rate=0.1)
    first, second = (hit(Faults([fault], seed=seed), bodies) for seed in (1, 2))
    assert first != second
    for found in (first, second):
        assert 0.07 < fmean(found.values()) < 0.13
    # A repetition is another throw.
    assert 300 < sum(hit(Faults([fault]), [b"same"] * 4000).values()) < 500
    begun = Faults([Fault("reset-before", rate=0.1)])
    assert 140 < sum(begun.begins("delface", 0) is not None for _ in range(2000)) < 260
    independent = Faults([fault, Fault("garbage", rate=0.1)])
    kinds = Counter(fate.fault and fate.fault.kind for fate in (independent.fate("delface", b, 0) for b in bodies))
    assert 120 < kinds["garbage"] < 250


async def test_the_same_requests_go_wrong_in_the_same_way_each_time() -> None:
    async def run() -> list[tuple[int, bytes]]:
        some = (Fault("http", http_status=500, rate=0.2), Fault("truncated", rate=0.2), Fault("message", rate=0.1))
        async with sandbox_with(*some, seed=7) as sandbox, httpx.AsyncClient(base_url=sandbox.url) as client:
            asked = (
                client.post(f"/v1/gliswadetail?token={TOKEN}", data={"number": f"+62813{n:08}"}) for n in range(60)
            )
            return [(answer.status_code, answer.content) for answer in await asyncio.gather(*asked)]

    assert await run() == await run()


def test_what_is_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_MOST_COUNTED", 10)
    many = Faults([Fault("hang", rate=0.5)])
    for n in range(100):
        many.fate("delface", b"%d" % n, 0)
    assert len(many._counted) == 10


# What is a fault


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"kind": "reset-aftr"}, "no fault is called 'reset-aftr': did you mean 'reset-after'"),
        ({"kind": "reset-aftr"}, f"'reset-after'? There are {', '.join(KINDS)}"),
        ({"kind": "busy"}, f"no fault is called 'busy': there are {', '.join(KINDS)}"),
        ({"kind": "retry-later"}, "it is a status, which is Fault('status', status='RETRY_LATER'), or 'status-RETRY_"),
        ({"kind": "FAIL"}, ": it is a status, which is Fault('status', status='FAIL'), or 'status-FAIL' in a command"),
        ({"kind": "hang", "rate": 1.5}, "rate is 1.5: it is 0 to 1"),
        ({"kind": "hang", "rate": float("nan")}, "rate is nan"),
        ({"kind": "hang", "endpoint": "facecmpare"}, "did you mean 'facecompare'"),
        ({"kind": "hang", "start": 5, "end": 5}, "end is 5: it is more than start"),
        ({"kind": "hang", "start": -1}, "start is -1"),
        ({"kind": "hang", "times": -1}, "times is -1"),
        ({"kind": "hang", "seconds": -1}, "seconds is -1"),
        ({"kind": "hang", "size": 5}, "size says nothing about a fault of kind hang"),
        ({"kind": "latency"}, "a fault of kind latency needs seconds"),
        ({"kind": "latency", "seconds": 1, "spread": 9}, "spread is 9"),
        ({"kind": "latency", "seconds": 1, "billed": True}, "billed says nothing about a fault of kind latency"),
        ({"kind": "reset-before", "billed": False}, "billed says nothing"),
        ({"kind": "capacity"}, "needs per_second"),
        ({"kind": "capacity", "per_second": 0}, "per_second is 0"),
        ({"kind": "http"}, "needs http_status"),
        ({"kind": "http", "http_status": 100}, "http_status is 100: it is 200 to 599"),
        ({"kind": "http", "http_status": 429, "retry_after": -1}, "retry_after is -1"),
        ({"kind": "status"}, "needs status"),
        ({"kind": "huge", "size": 10**9}, "size is"),
    ],
)
def test_what_makes_no_sense_is_refused(made: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Fault(**made)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hang", Fault("hang")),
        ("reset-after:0.02", Fault("reset-after", rate=0.02)),
        (
            " http-503 , start = 10, end=20,retry_after=2",
            Fault("http", http_status=503, start=10, end=20, retry_after=2),
        ),
        ("http,http_status=502,billed=yes", Fault("http", http_status=502, billed=True)),
        ("status-FAIL:0.1,endpoint=addface", Fault("status", rate=0.1, status="FAIL", endpoint="addface")),
        ("status,status=X,message=why not", Fault("status", status="X", message="why not")),
        ("hang,times=1,billed=no,seconds=0.5", Fault("hang", times=1, billed=False, seconds=0.5)),
        ("latency,seconds=0.2,spread=0.5", Fault("latency", seconds=0.2, spread=0.5)),
        ("capacity,per_second=50,http_status=429", Fault("capacity", per_second=50, http_status=429)),
        ("huge,size=5000000", Fault("huge", size=5_000_000)),
    ],
)
def test_faults_are_read_from_text(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault
    assert Fault.from_json(json.loads(json.dumps(fault.to_json()))) == fault


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no fault is called ''"),
        ("hang:often", "rate is 'often': it is a number"),
        ("http-many", "http_status is 'many'"),
        ("hang,seconds", "'seconds' is no name=value"),
        ("hang,sceonds=1", "did you mean 'seconds'"),
        ("hang,billed=perhaps", "billed is 'perhaps': it is yes or no"),
        ("hang,times=1.5", "times is '1.5'"),
        ("hang,seconds=inf", "seconds is inf"),
        ("hang,kind=drip", "no name=value"),
    ],
)
def test_texts_that_are_no_faults_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Fault.parse(text)


@settings(max_examples=examples(150), deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="reset-aftrhngp:,=.0123456789 \n")))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with suppress(ValueError):
        fault = Fault.parse(text)
        assert Fault.from_json(fault.to_json()) == fault


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.one_of(
        values,
        st.fixed_dictionaries(
            {"kind": st.sampled_from(sorted(KINDS)) | values},
            optional={field.name: values for field in dataclasses.fields(Fault)[1:]},
        ),
    )
)
def test_no_json_does_anything_but_be_refused(value: object) -> None:
    with suppress(ValueError):
        fault = Fault.from_json(value)
        many = Faults([fault])
        many.begins("delface", 0)
        fate = many.fate("delface", b"", 0)
        if fate.fault is not None and fate.fault.kind in faults.SPOILING:
            faults.spoiled(fate.fault, "delface", 200, faults.ENVELOPE_OF_BUSY, "application/json")


def test_what_is_no_fault_is_not_added() -> None:
    with pytest.raises(TypeError, match=r"Fault\.parse"):
        Faults().add("hang")  # type: ignore[arg-type]


# The clock


async def test_a_clock_that_ticks_can_be_helped_on() -> None:
    clock = Clock()
    assert clock.now() == 0
    clock.start()
    order: list[str] = []

    async def wait(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        order.append(name)

    waiting = [asyncio.create_task(wait(*args)) for args in (("long", 200), ("short", 100), ("now", 0))]
    gone = asyncio.create_task(wait("gone", 50))
    await asyncio.sleep(0)
    gone.cancel()
    assert order == ["now"]
    clock.advance(150)
    await asyncio.sleep(0)
    assert order == ["now", "short"]
    assert 150 <= clock.now() < 160
    # And by itself.
    soon = asyncio.create_task(wait("soon", 0.01))
    await asyncio.wait_for(soon, LAST_RESORT)
    clock.advance(60)
    await asyncio.gather(*waiting)
    assert order == ["now", "short", "soon", "long"]
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="forward only"):
            clock.advance(wrong)


@virtual
async def test_a_clock_that_does_not_tick_stands_still() -> None:
    clock = Clock(ticking=False)
    clock.start()
    waiting = asyncio.create_task(clock.sleep(0.001))
    await asyncio.sleep(3600)
    assert (clock.now(), waiting.done()) == (0, False)
    clock.advance(0.001)
    await waiting


# From outside


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{sandbox.url}/_sandbox") as running:
        yield running


async def test_faults_are_set_over_http(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    added = await client.post("/faults", json="reset-after:0.5")
    assert added.json() == [{"kind": "reset-after", "rate": 0.5, "hits": 0}]
    added = await client.post("/faults", json=[{"kind": "hang", "times": 1}, "drip"])
    assert list(sandbox.faults) == [Fault("reset-after", rate=0.5), Fault("hang", times=1), Fault("drip")]
    assert (await client.get("/faults")).json() == added.json()
    assert (await client.delete("/faults")).json() == []
    assert not sandbox.faults
    # All of a list or nothing of it.
    wrong = await client.post("/faults", json=["drip", {"kind": "hang", "rate": 2}])
    assert (wrong.status_code, wrong.json()) == (400, {"error": "rate is 2: it is 0 to 1"})
    assert not sandbox.faults


async def test_the_clock_and_the_service_are_set_over_http(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    assert (await client.post("/clock", json={"advance": 20})).json() == {"now": 20}
    assert sandbox.clock.now() == 20
    assert (await client.post("/whatsapp", json={"available": False})).json() == {"available": False}
    assert not sandbox.whatsapp_available
    assert (await client.post("/reset")).json() == {"reset": True}
    assert sandbox.clock.now() == 0
    assert sandbox.whatsapp_available


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/clock", b""),
        ("/clock", b"[" * 100_000),
        ("/clock", b"\xff"),
        ("/clock", b'{"advance": true}'),
        ("/clock", b'{"advance": -1}'),
        ("/clock", b'{"advance": NaN}'),
        ("/clock", b'{"advance": 1, "more": 2}'),
        ("/clock", b'{"advance": 1' + b"0" * 400 + b"}"),
        ("/whatsapp", b'{"available": 1}'),
        ("/faults", b"7"),
        ("/faults", b'{"kind": "hang", "rate": true}'),
        ("/faults", b'{"kind": "hang", "nothing": 1}'),
        ("/faults", b'{"kind": null}'),
        ("/faults", b'{"kind": "hang", "end": "late"}'),
    ],
)
async def test_nonsense_is_refused_over_http(
    sandbox: Sandbox, client: httpx.AsyncClient, path: str, content: bytes
) -> None:
    answer = await client.post(path, content=content)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert (sandbox.clock.now(), len(sandbox.faults), sandbox.whatsapp_available) == (0, 0, True)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/", 405),
        ("GET", "/reset", 405),
        ("OPTIONS", "/reset", 405),
        ("PUT", "/faults", 405),
        ("GET", "/nothing", 404),
        ("GET", "/images/cat", 404),
        ("GET", "/images/person", 400),
        ("GET", "/images/person/<script>", 400),
        ("GET", "/images/similarity/much", 400),
        ("GET", "/images/fault/capacity,per_second=1", 400),
    ],
)
async def test_what_is_not_there_over_http(client: httpx.AsyncClient, method: str, path: str, code: int) -> None:
    assert (await client.request(method, path)).status_code == code


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("person", "such pictures are at /_sandbox/images/person/NAME"),
        ("person/a/b", "such pictures are at /_sandbox/images/person/NAME"),
        ("holding", "such pictures are at /_sandbox/images/holding/NAME[/CARD]"),
        ("nobody/a", "such pictures are at /_sandbox/images/nobody"),
        ("similarity", "such pictures are at /_sandbox/images/similarity/SCORE"),
        ("similarity/much", "score is 'much': it is 0 to 100"),
        ("similarity/nan", "score is nan: it is 0 to 100"),
    ],
)
async def test_where_a_picture_is(client: httpx.AsyncClient, path: str, told: str) -> None:
    assert (await client.get(f"/images/{path}")).json() == {"error": told}


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example:80"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/state"), ("POST", "/reset"), ("GET", "/images/nobody")])
async def test_pages_of_other_sites_are_refused(
    sandbox: Sandbox, client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    sandbox.faults.add(Fault("hang", times=0))
    answer = await client.request(method, path, headers=headers)
    assert answer.status_code == 403
    assert len(sandbox.faults) == 1


async def test_whoever_names_no_host_or_two_is_refused(sandbox: Sandbox) -> None:
    for head in (b"HTTP/1.0\r\n\r\n", b"HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\nconnection: close\r\n\r\n"):
        assert read((await ask(sandbox, b"GET /_sandbox/state " + head))[0])[0] == 403


async def test_only_loopback_peers_are_answered(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(b"GET /_sandbox/state HTTP/1.1\r\n")
        await until(lambda: sandbox._connections)
        (connection,) = sandbox._connections

        class Elsewhere:
            def __init__(self, inner: asyncio.Transport) -> None:
                self.inner = inner

            def get_extra_info(self, name: str) -> Any:
                return ("10.0.0.7", 4711) if name == "peername" else self.inner.get_extra_info(name)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.inner, name)

        monkeypatch.setattr(connection, "_transport", Elsewhere(connection._transport))
        writer.write(b"host: localhost\r\nconnection: close\r\n\r\n")
        assert read(await reader.read())[0] == 403


async def test_its_own_page_and_scripts_are_welcome(sandbox: Sandbox) -> None:
    for host in ("127.0.0.1", "localhost", f"127.0.0.1:{sandbox.port}", "LOCALHOST:9", "[::1]:80"):
        data = f"POST /_sandbox/reset HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\nsec-fetch-site: same-origin"
        assert read((await ask(sandbox, f"{data}\r\nconnection: close\r\n\r\n".encode()))[0])[0] == 200


SECRET_TOKEN = "a-very-own-token"


async def test_what_is_seen_holds_no_secrets_and_nothing_hostile() -> None:
    async with sandbox_with(
        Fault("status", status="<b>FAIL</b>", message="<script>", endpoint="addface"), token=SECRET_TOKEN
    ) as sandbox:
        late = magic_number("callback-late")
        async with httpx.AsyncClient(base_url=sandbox.url) as client:
            for endpoint, form in (
                ("gliswadetail", {"number": magic_number("hostile")}),
                ("gliswadetail", {"number": late, "callback": "http://127.0.0.1:9/<hidden>/?capability=1"}),
                ("gliswadetail", {"number": magic_number("callback-once"), "callback": "http://127.0.0.1:9/hidden"}),
                ("addface", {"img": "x"}),
            ):
                await client.post(f"/v1/{endpoint}", params={"token": SECRET_TOKEN}, data=form)
            await until(lambda: sandbox.callbacks)
            state = await client.get("/_sandbox/state")
            asked_for = await client.get("/_sandbox/", headers={"accept": "application/json"})
            page = await client.get("/_sandbox/")
            head = await client.head("/_sandbox/")
        (group_id,) = sandbox.faces
    assert page.headers["content-type"].startswith("text/html")
    assert head.content == b""
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert asked_for.json().keys() == state.json().keys()
    for text in (page.text, state.text):
        for secret in (SECRET_TOKEN, group_id, "hidden", "capability", late, late[1:], "HYPERLINK"):
            assert secret not in text
    assert "<script" not in page.text
    assert "&lt;b&gt;FAIL" in page.text
    shown = state.json()
    assert shown["bill"]["charged"] == 2
    assert shown["bill"]["by_callback"]["charged"] == 1
    assert shown["bill"]["delivered"]["charged"] == 1
    assert shown["requests"] == {"gliswadetail": 3, "addface": 1}
    assert shown["outstanding"] == [{"number": f"…{late[-4:]}", "to": "http://127.0.0.1:9/…", "due": 60.0}]
    assert shown["callbacks"][0]["error"] == "ConnectionRefusedError"
    assert [entry["by"] for entry in shown["entries"]].count("callback") == 1
    assert shown["faults"][0]["hits"] == 1


async def test_looking_is_no_request_and_free(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    sandbox.faults.add(Fault("hang"))
    for path in ("", "/", "/state", "/numbers", "/images/nobody", "/nothing"):
        answer = await client.get(f"{sandbox.url}/_sandbox{path}")
        assert answer.status_code == (404 if path == "/nothing" else 200)
    assert (sandbox.bill.total, sandbox.requests, len(sandbox.bill.entries)) == (0, {}, 0)


# The command


COMMAND = [sys.executable, "-c", "from aisolution_async.cli import main; main()", "sandbox"]


def test_the_command_serves_what_it_is_told_and_closes_cleanly() -> None:
    options = ["--token", "it's mine", "--seed", "3", "--latency", "0.01", "--latency-spread", "0.1"]
    options += ["--capacity", "1000", "--fault", "http-418:1,endpoint=delface", "--callback-delay", "1"]
    with subprocess.Popen(
        [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = ""
        while "Ctrl-C" not in said:
            said += process.stdout.readline()
        url = re.findall(r"AISOLUTION_BASE_URL=(\S+)", said)[0]
        assert "AISOLUTION_TOKEN='it'\"'\"'s mine'" in said
        assert "goes wrong: kind http, endpoint delface, http_status 418" in said
        assert httpx.post(f"{url}/v1/delface", params={"token": "it's mine"}).status_code == 418
        answer = httpx.post(f"{url}/v1/gliswadetail", params={"token": "it's mine"}, data={"number": YES})
        assert answer.json() == WHOLE
        state = httpx.get(f"{url}/_sandbox/state").json()
        assert state["seed"] == 3
        assert [fault["kind"] for fault in state["faults"]] == ["capacity", "latency", "http"]
        assert [fault["hits"] for fault in state["faults"]] == [0, 2, 1]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert "charged 1 · free 1" in rest


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--fault", "reset-aftr"], "did you mean 'reset-after'"),
        (["--latency-spread", "1"], "give both"),
        (["--capacity", "0"], "--capacity"),
        (["--token", ""], "a token is not empty"),
    ],
)
def test_options_that_make_no_sense(options: list[str], why: str) -> None:
    result = CliRunner().invoke(aisolution, ["sandbox", *options])
    assert result.exit_code == 2
    assert why in result.output
