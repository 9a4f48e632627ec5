"""The pytest plugin, as a small project of somebody else's uses it: installed from the built wheel."""

from __future__ import annotations

import asyncio
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aisolution_async import AsyncClient, Recheck, WhatsAppDetail, clock
from aisolution_async.integrations.pytest_plugin import skipping
from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.faults import Fault

ROOT = Path(__file__).parent.parent

APP = """
import asyncio, os
from aisolution_async import AsyncClient, Recheck, WhatsAppDetail

async def check(number):
    async with AsyncClient() as client:
        calls = [WhatsAppDetail(number)]
        async with client.batch(calls, recheck=Recheck()) as batch:
            async for outcome in batch:
                await asyncio.sleep(300)
                return outcome.reply.whatsapp
"""

ASYNC_TESTS = """
import asyncio, os, time
import pytest
from aisolution_async import AsyncClient
from aisolution_async.sandbox.faults import Fault
from app import check

{mark}

async def test_the_environment_names_it(aisolution_sandbox):
    async with AsyncClient() as client:
        await client.whatsapp_detail("+6281387300008")
    assert aisolution_sandbox.requests["gliswadetail"] == 1
    assert os.environ["AISOLUTION_BASE_URL"] == aisolution_sandbox.url

async def test_each_test_has_its_own(aisolution_sandbox, aisolution_client):
    assert not aisolution_sandbox.requests
    aisolution_sandbox.faults.add(Fault("status", status="FAIL", times=1))
    with pytest.raises(Exception, match="FAIL"):
        await aisolution_client.whatsapp_detail("+6281387300008")
    await aisolution_client.whatsapp_detail("+6281387300008")
    assert aisolution_sandbox.bill == aisolution_client.tally

async def test_waits_take_no_time(aisolution_instant, aisolution_sandbox):
    start = time.monotonic()
    assert await check(aisolution_sandbox.number("checking-twice")) == "yes"
    assert time.monotonic() - start < 20
    assert aisolution_sandbox.requests["gliswadetail"] == 3

class TestInAClass:
    async def test_it_is_on_this_loop(self, aisolution_sandbox):
        assert asyncio.all_tasks()
        aisolution_sandbox.clock.advance(10)
"""

PLAIN_TESTS = """
import asyncio
from aisolution_async import AsyncClient
from aisolution_async.sandbox.faults import Fault

def test_a_plain_test_has_it_in_a_thread(aisolution_sandbox):
    async def ask():
        async with AsyncClient() as client:
            await client.whatsapp_detail("+6281387300008")
            assert aisolution_sandbox.bill == client.tally
            aisolution_sandbox.faults.add(Fault("latency", seconds=3600, times=1))
            late = asyncio.create_task(client.whatsapp_detail("+6281387300009"))
            while not late.done():
                await asyncio.sleep(0.01)
                aisolution_sandbox.clock.advance(3600)
            await late
    asyncio.run(ask())
    aisolution_sandbox.reset()
    assert not aisolution_sandbox.requests

def test_a_plain_test_has_no_client(aisolution_client): ...
"""

UNUSED = """
import sys

def test_nothing_is_imported():
    assert "aisolution_async.integrations.pytest_plugin" in sys.modules
    assert not {"httpx", "pydantic", "aisolution_async.client", "aisolution_async.sandbox"} & set(sys.modules)
"""


FUNCTION = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built wheel in it, ahead of what the tests' own environment has."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", folder, ROOT], capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"the wheel cannot be built here: {built.stderr[-200:]}")
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], capture_output=True, check=True)
    return folder / "site"


def run(project: Path, installed: Path, *options: str) -> str:
    """What pytest says of `project`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AISOLUTION", "COV", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-W", "error", *options],
        cwd=project,
        env=env | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("", ("-o", "asyncio_mode=auto", *FUNCTION)),
        ("pytestmark = pytest.mark.asyncio(loop_scope='module')", ("-o", "asyncio_mode=strict", *FUNCTION)),
        ("", ("-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session", *FUNCTION)),
        ("pytestmark = pytest.mark.anyio", ("-p", "no:asyncio")),
    ],
    ids=["auto", "strict", "one-loop-for-all", "anyio"],
)
def test_in_asyncio_tests(installed: Path, tmp_path: Path, mark: str, options: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_app.py").write_text(ASYNC_TESTS.format(mark=mark))
    said = run(tmp_path, installed, *options)
    assert "4 passed" in said, said
    assert not {"failed", "error", "skipped", "warning"} & set(said.splitlines()[-1].replace(",", " ").split()), said


def test_in_plain_tests(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(PLAIN_TESTS)
    said = run(tmp_path, installed, "-p", "no:asyncio", "-p", "no:anyio")
    assert "1 passed" in said, said
    assert "1 error" in said, said
    assert "aisolution_client is for asyncio tests" in said


def test_it_costs_nothing_where_it_is_not_used(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(UNUSED)
    # Of the plugins here, others import what must not be imported by ours.
    said = run(tmp_path, installed, *(f"-pno:{name}" for name in ("asyncio", "anyio", "pytest_httpx", "respx")))
    assert "1 passed" in said, said


# ---------------------------------------------------------------------------------------------------- skipping time


async def test_hours_pass_in_no_time_and_answers_are_waited_for() -> None:
    start = time.monotonic()
    with skipping(asyncio.get_running_loop()):
        async with Sandbox(faults=[Fault("status", status="RETRY_LATER", times=3)]) as sandbox:
            async with AsyncClient(sandbox.token, base_url=sandbox.url, deadline=None) as client:
                began = clock.now()
                calls = [WhatsAppDetail(sandbox.number("checking-twice"), key=1)]
                async with client.batch(calls, recheck=Recheck(first=600)) as batch:
                    (outcome,) = [outcome async for outcome in batch]
                assert outcome.ok
                assert outcome.reply is not None
                assert outcome.reply.is_answer
                assert clock.now() - began >= 1200
                await asyncio.sleep(86_400)
    assert time.monotonic() - start < 20


async def test_work_in_threads_is_waited_for() -> None:
    with skipping(asyncio.get_running_loop()):
        async with asyncio.timeout(5):
            await asyncio.to_thread(time.sleep, 0.3)


async def test_the_loop_is_left_as_it_was_but_for_its_time() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(3):
        before = loop.time()
        with skipping(loop):
            await asyncio.sleep(1000)
        assert loop.time() >= before + 1000
    for _ in range(2000):  # the tests of a session may share a loop
        with skipping(loop):
            pass
    assert isinstance(vars(loop)["_selector"], selectors.BaseSelector)
    now, began = time.monotonic(), loop.time()  # in this order: between the two, others may run
    await asyncio.sleep(0.05)
    assert loop.time() - began < time.monotonic() - now + 0.01


async def test_a_deadline_still_passes() -> None:
    with skipping(asyncio.get_running_loop()), pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.get_running_loop().create_future()


def test_a_loop_that_keeps_time_by_itself_is_refused() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def skip() -> None:
        with skipping(asyncio.get_running_loop()):
            raise AssertionError

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match="SelectorEvent"),
    ):
        runner.run(skip())
