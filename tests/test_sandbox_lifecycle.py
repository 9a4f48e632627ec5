"""The pretended vendor: how it is started, closed, and begun again."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from aisolution_async.charges import Tally
from aisolution_async.sandbox import Clock, Fault, Sandbox, images, vendor
from aisolution_async.sandbox.connection import Visitor

from .pictures import FIRST, PERSON, b64
from .sandboxes import (
    NO,
    SLOW,
    TOKEN,
    YES,
    ask,
    bill,
    connected,
    http_client_of,
    last_answer,
    one_answer,
    post,
    receiver,
    settled,
)


async def test_closing_cuts_connections_and_drops_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox()
    assert repr(sandbox) == "<Sandbox not started>"
    with pytest.raises(RuntimeError, match="not started"):
        _ = sandbox.url
    await sandbox.start()
    assert repr(sandbox) == f"<Sandbox {sandbox.url}>"
    assert sandbox.url == f"http://127.0.0.1:{sandbox.port}"
    with pytest.raises(RuntimeError, match="once"):
        await sandbox.start()
    arrived = asyncio.Event()

    async def never(_request: vendor.Request) -> vendor.Served:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(sandbox._vendor, "answer", never)
    async with connected(sandbox) as (reader, writer), connected(sandbox) as (idle, _):
        writer.write(post())
        await arrived.wait()
        await sandbox.aclose()
        assert await reader.read() == b""
        assert await idle.read() == b""
    assert not sandbox._tasks
    assert not sandbox._connections
    assert sandbox.bill.total == 0
    assert repr(sandbox) == "<Sandbox closed>"
    await sandbox.aclose()
    with pytest.raises(RuntimeError, match="once"):
        await sandbox.start()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", sandbox.port)


async def test_a_connection_that_comes_in_while_closing_is_cut() -> None:
    sandbox = Sandbox()
    await sandbox.aclose()
    late = Visitor(sandbox)
    transport = Mock(spec=asyncio.Transport)
    late.connection_made(transport)
    transport.abort.assert_called_once_with()
    late.connection_lost(None)
    assert late.lost.done()


@pytest.mark.parametrize("ending", ["close", "cancel"])
async def test_serving_for_ever_ends_when_closed_or_cancelled(ending: str) -> None:
    sandbox = Sandbox()
    if ending == "close":
        await sandbox.start()
    serving = asyncio.create_task(sandbox.serve_forever())
    while sandbox._server is None:
        await asyncio.sleep(0)
    async with http_client_of(sandbox) as http_client:
        assert (await ask(http_client, "gliswadetail", number=YES))[0] == "OK"
    if ending == "close":
        await sandbox.aclose()
        await serving
    else:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert repr(sandbox) == "<Sandbox closed>"


def test_it_runs_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def everything() -> Tally:
        async with Sandbox() as sandbox:
            assert (await last_answer(sandbox, b"hello\r\n\r\n"))[0] == 400
            assert (await last_answer(sandbox, post(None, "connection: close")))[0] == 200
            async with receiver() as (url, _), connected(sandbox) as (reader, writer):
                writer.write(post({"number": NO, "callback": url}) + post() * 100)
                for _ in range(101):
                    assert (await one_answer(reader))[0] == 200
                await settled(sandbox)
            assert [delivery.http_status for delivery in sandbox.callbacks] == [204]
            async with connected(sandbox) as (reader, writer):
                writer.write(post({"img": b64(FIRST)}, endpoint="addface"))
                writer.write_eof()
                assert (await one_answer(reader))[0] == 200
                assert await reader.read() == b""
            async with connected(sandbox) as (reader, writer):
                writer.write(post()[:-5])
                await writer.drain()
                await sandbox.aclose()
                with suppress(ConnectionResetError):  # where the last bytes were not read yet
                    assert await reader.read() == b""
            return sandbox.bill

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(everything()) == bill(gliswadetail=(102, 1), addface=(0, 1))


async def test_a_port_may_be_chosen_and_may_be_taken(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"):
        await Sandbox(sandbox.port).start()


def test_an_empty_token_is_refused() -> None:
    for options in ({"token": ""}, {"tokens": ("good", "")}):
        with pytest.raises(ValueError, match="empty"):
            Sandbox(**options)


async def test_pillow_is_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RuntimeError, match=r"aisolution-async\[cli\]"):
        await Sandbox().start()


def test_pillow_is_imported_at_the_first_picture() -> None:
    # Whatever the package itself imports is not the sandbox's doing.
    code = (
        "import sys, aisolution_async; before = 'PIL' in sys.modules; "
        "import aisolution_async.sandbox; assert ('PIL' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


async def test_nothing_is_logged_or_printed(
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    async with receiver() as (url, _), connected(sandbox) as (reader, writer):
        writer.write(post({"number": YES, "callback": url}) + post({"img": b64(FIRST)}, endpoint="addface"))
        await one_answer(reader)
        await one_answer(reader)
        await settled(sandbox)
    for secret in (TOKEN, YES, YES[1:], b64(FIRST)[:40]):
        assert secret not in caplog.text
        assert secret not in repr(sandbox)
    assert capfd.readouterr() == ("", "")
    assert TOKEN not in repr(vendor.Request("POST", "/", b"token=" + TOKEN.encode(), b""))
    assert YES not in repr(vendor._callback(url, YES, anywhere=False))


async def test_reset_makes_it_as_it_was_when_it_was_started() -> None:
    first = Fault("latency", seconds=100, endpoint="delface")
    async with (
        Sandbox(clock=Clock(ticking=False), faults=[first]) as sandbox,
        http_client_of(sandbox) as http_client,
        receiver() as (url, heads),
    ):
        await ask(http_client, "addface", img=b64(PERSON))
        await ask(http_client, "gliswadetail", number=sandbox.number("checking-twice"))
        await ask(http_client, "gliswadetail", number=SLOW)
        await ask(http_client, "addface", img=b64(images.retry_once()))
        await ask(http_client, "gliswadetail", number=sandbox.number("callback-late"), callback=url)
        await ask(http_client, "gliswadetail", number=YES, callback="http://127.0.0.1:1/")
        while not sandbox.callbacks:
            await asyncio.sleep(0)
        sandbox.faults.add(Fault("hang", endpoint="searchface"))
        sandbox.whatsapp_available = False
        held = [
            asyncio.create_task(http_client.post(f"/v1/{endpoint}?token={TOKEN}", data={"img": b64(PERSON)}))
            for endpoint in ("delface", "searchface")
        ]
        while sandbox.requests.total() < 8:
            await asyncio.sleep(0)
        sandbox.clock.advance(30)
        # Held by reference, as tests do.
        its_bill, its_faults = sandbox.bill, sandbox.faults
        assert sandbox.outstanding
        sandbox.reset()
        assert not sandbox.outstanding
        for task in held:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await task
        sandbox.clock.advance(1000)
        await settled(sandbox)
        assert its_bill is sandbox.bill
        assert its_bill == its_bill.delivered == its_bill.by_callback == Tally()
        assert (len(its_bill.entries), sandbox.requests, len(sandbox.callbacks), sandbox.outstanding) == (0, {}, 0, ())
        assert [*its_faults] == [first]
        assert its_faults.hits(first) == 0
        assert [*sandbox.faces.values()] == [{}]
        assert sandbox.whatsapp_available
        assert heads == []
        # It knows of nothing that was asked.
        for number in (sandbox.number("checking-twice"), SLOW):
            assert (await ask(http_client, "gliswadetail", number=number))[1]["whatsapp"] == "checking"
        assert (await ask(http_client, "addface", img=b64(images.retry_once())))[0] == "RETRY_LATER"
        assert await ask(http_client, "searchface", img=b64(PERSON)) == ("OK", [])
        assert sandbox.bill == bill(gliswadetail=(0, 2), addface=(0, 1), searchface=(1, 0))


async def test_delays_below_nothing_are_refused() -> None:
    for options in ({"callback_timeout": -1}, {"callback_delay": -0.1}):
        with pytest.raises(ValueError, match="0 or more"):
            Sandbox(**options)
