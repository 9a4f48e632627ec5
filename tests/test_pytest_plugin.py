"""The pytest plugin, as a small project of somebody else's uses it, which has it installed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any
from weakref import WeakSet

import anyio.to_thread
import pytest
from PIL import Image

from aisolution_async import AsyncClient, Charge, Outcome, OutcomeUnknownError, Recheck, WhatsAppDetail, clock
from aisolution_async.inputs.fit import Fitter
from aisolution_async.integrations import instant
from aisolution_async.integrations.pytest_plugin import skipping
from aisolution_async.ledger.book import Book
from aisolution_async.ledger.store import Ask, Verdict
from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.faults import Fault
from aisolution_async.sending.threads import Threads

from .support import LAST_RESORT, Vendor, client_of, ok_whatsapp, virtual

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
    loop = asyncio.get_running_loop()
    before = loop.time() - time.monotonic()
    assert await check(aisolution_sandbox.number("checking-twice")) == "yes"
    assert loop.time() - time.monotonic() - before > 250  # of the 300 that it waits, at least
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


# What is here for other tests, and takes a second to import.
PLUGINS = ("schemathesis", "hypothesispytest", "pytest_cov", "xdist", "xdist.looponfail")
OTHERS = [f"-pno:{name}" for name in PLUGINS]
FUNCTION = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture(scope="module", params=["by hand", pytest.param("wheel", marks=pytest.mark.long)])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, ahead of what the tests' own environment has.

    What pytest goes by is the list of the package's files and its entry points: to build the wheel, which has them,
    takes as long as all that is done with it.
    """
    folder = tmp_path_factory.mktemp("wheel")
    if request.param == "by hand":
        package = folder / "site" / "aisolution_async"
        shutil.copytree(ROOT / "aisolution_async", package)
        here, told = metadata.distribution("aisolution-async"), folder / "site" / "aisolution_async-0.dist-info"
        told.mkdir()
        for name in ("METADATA", "entry_points.txt"):
            (told / name).write_text(here.read_text(name) or "", "utf-8")
        files = [path.relative_to(folder / "site") for path in package.rglob("*.py")]
        (told / "RECORD").write_text("".join(f"{path.as_posix()},,\n" for path in files), "utf-8")
        return folder / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", folder, ROOT], capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"the wheel cannot be built here: {built.stderr[-200:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # as installers do, but for what they compile: pytest does that anew
        archive.extractall(folder / "site")
    return folder / "site"


def run(project: Path, installed: Path, *options: str) -> str:
    """What pytest says of `project`."""
    # With its asserts rewritten, as pytest does with packages that have plugins, the package is kept for the next run.
    left_out = ("AISOLUTION", "COV", "PYTEST", "PYTHONDONTWRITEBYTECODE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-rA",
            "-W",
            "error",
            *OTHERS,
            *options,
        ],
        cwd=project,
        env=env | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=LAST_RESORT,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("", ("-o", "asyncio_mode=auto", *FUNCTION)),
        pytest.param(
            "pytestmark = pytest.mark.asyncio(loop_scope='module')",
            ("-o", "asyncio_mode=strict", *FUNCTION),
            marks=pytest.mark.long,
        ),
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
    assert "aisolution_client is for asyncio tests: mark an async test with @pytest.mark.asyncio" in said


def test_it_costs_nothing_where_it_is_not_used(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(UNUSED)
    # Of the plugins here, others import what must not be imported by ours.
    said = run(tmp_path, installed, *(f"-pno:{name}" for name in ("asyncio", "anyio", "pytest_httpx", "respx")))
    assert "1 passed" in said, said


# ---------------------------------------------------------------------------------------------------- skipping time


async def test_hours_pass_in_no_time_and_answers_are_waited_for() -> None:
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
                async with time_is_skipped(86_000):
                    await asyncio.sleep(86_400)


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Blocks its thread until the loop has had nothing to do a few times."""
    asked = threading.Semaphore(0)
    is_at_work = instant.Elsewhere.is_at_work

    def counted(elsewhere: instant.Elsewhere) -> bool:
        asked.release()
        return is_at_work(elsewhere)

    def rest() -> None:
        while asked.acquire(blocking=False):
            pass
        for _ in range(3):
            asked.acquire(timeout=1)  # not for ever, where the loop's end is waited for

    monkeypatch.setattr(instant.Elsewhere, "is_at_work", counted)
    return rest


@contextlib.asynccontextmanager
async def the_clock_stands() -> AsyncIterator[None]:
    """Nothing is skipped within, although somebody waits for an hour to pass."""
    loop = asyncio.get_running_loop()
    with skipping(loop):
        async with asyncio.timeout(3600):
            before = loop.time() - time.monotonic()
            yield
            assert loop.time() - time.monotonic() - before < 0.5


@contextlib.asynccontextmanager
async def time_is_skipped(seconds: float) -> AsyncIterator[None]:
    """At least so many of the seconds that pass within are skipped."""
    loop = asyncio.get_running_loop()
    before = loop.time() - time.monotonic()
    yield
    assert loop.time() - time.monotonic() - before > seconds


async def test_jobs_of_executors_are_waited_for(rest: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    async with the_clock_stands():
        await asyncio.to_thread(rest)
        with ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, rest)
            await asyncio.wrap_future(pool.submit(rest))


async def test_threads_of_anyio_are_waited_for(rest: Callable[[], None]) -> None:
    async with the_clock_stands():
        await anyio.to_thread.run_sync(rest)
        await anyio.to_thread.run_sync(rest, limiter=anyio.CapacityLimiter(1))


async def test_a_slow_ledger_is_waited_for(
    rest: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def slow(name: str) -> None:
        plain = getattr(Book, name)

        def slowed(*args: Any, **options: Any) -> Any:
            rest()
            return plain(*args, **options)

        monkeypatch.setattr(Book, name, slowed)

    slow("__init__")
    slow("begin")
    slow("end")
    async with Sandbox() as sandbox, the_clock_stands():
        async with AsyncClient(sandbox.token, base_url=sandbox.url, ledger=tmp_path / "slow.ledger") as client:
            for index in range(3):
                await client.whatsapp_detail(f"+62813873000{index:02}")
            outcomes = await gather(client, 5)
    assert [outcome.charge for outcome in outcomes] == [Charge.CHARGED] * 5


async def gather(client: AsyncClient, count: int) -> list[Outcome]:
    calls = [WhatsAppDetail(f"+62813874000{index:02}") for index in range(count)]
    async with client.batch(calls) as batch:
        return [outcome async for outcome in batch]


async def test_a_child_process_that_is_read_from_is_waited_for(rest: Callable[[], None]) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        rest()
        os.write(writing, b"word\n")

    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input(), flush=True); input()", stdin=reading, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    thread = threading.Thread(target=write)
    async with the_clock_stands():
        thread.start()
        assert await child.stdout.readline() == b"word\n"
    thread.join()
    with skipping(asyncio.get_running_loop()):
        await asyncio.sleep(10**6)  # it runs, and nobody waits for it
    os.write(writing, b"end\n")
    await child.communicate()
    os.close(reading)
    os.close(writing)


@pytest.mark.skipif(os.name == "nt", reason="loops read from no pipes there")
async def test_pipes_are_not_kept_open() -> None:
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    loop.add_reader(reading, lambda: None)
    with skipping(loop):
        await asyncio.sleep(3600)
    loop.remove_reader(reading)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    os.close(writing)


@contextlib.contextmanager
def stopped(pid: int, rest: Callable[[], None]) -> Iterator[None]:
    """The process goes on only once the loop has had nothing to do."""

    def go_on() -> None:
        rest()
        os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    thread.join()


@pytest.mark.skipif(os.name == "nt", reason="no process can be stopped there")
async def test_a_child_process_that_is_written_to_or_ends_is_waited_for(rest: Callable[[], None]) -> None:
    reads = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.stdin.buffer.read()", stdin=subprocess.PIPE
    )
    assert reads.stdin is not None
    async with the_clock_stands():
        with stopped(reads.pid, rest):
            reads.stdin.write(bytes(2**20))
            await reads.stdin.drain()
    with skipping(asyncio.get_running_loop()):
        await asyncio.sleep(10**6)  # it runs, and nobody waits for it
    reads.stdin.close()
    await reads.wait()
    ends = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    async with the_clock_stands():
        with stopped(ends.pid, rest):
            assert await ends.wait() == 0


@pytest.mark.skipif(os.name == "nt", reason="no process can be stopped there")
@pytest.mark.parametrize("side", [100, 1200], ids=["once it is read", "while it is sent"])
async def test_a_photo_that_takes_long_to_fit_is_waited_for(
    rest: Callable[[], None], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instant, "_is_pipe_of_child", lambda key: False)  # by the Fitter's own word
    photo = BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(photo, "PNG", compress_level=0)
    async with Fitter(workers=1) as fitter:
        await fitter.fit(photo.getvalue(), name="img")
        (worker,) = fitter._alive
        async with the_clock_stands():
            with stopped(worker.pid, rest):
                await fitter.fit(photo.getvalue(), name="img")
        with skipping(asyncio.get_running_loop()):
            await asyncio.sleep(10**6)  # it has nothing to do


@pytest.fixture
def outside(rest: Callable[[], None]) -> Iterator[str]:
    """A server in a thread of its own, which thinks before it answers, and does not answer /v1/delface."""
    answer = b'{"status": "OK", "message": {"number": "+6281387300008", "whatsapp": "yes"}}'

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            while (request := sock.recv(65536)) and b"delface" not in request:
                rest()
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            sock.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of TCP")
async def test_another_program_that_was_asked_is_waited_for(outside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instant, "_PATIENCE", 600.0)
    # The other program serves one connection, and a rest is time to skip.
    monkeypatch.setattr("aisolution_async.wire.transport._rest_is_due", lambda uses: False)
    async with AsyncClient("tok-secret", base_url=outside, retry=0) as client:
        async with the_clock_stands():
            for _ in range(3):
                await client.whatsapp_detail("+6281387300008")
        for _ in range(2):
            with skipping(asyncio.get_running_loop()):
                async with time_is_skipped(0.5):
                    await asyncio.sleep(1)  # less than connections are kept for: nothing is asked meanwhile
                await client.whatsapp_detail("+6281387300008")
                async with time_is_skipped(0.5):
                    await asyncio.sleep(1)
        monkeypatch.setattr(instant, "_PATIENCE", 0.01)
        with skipping(asyncio.get_running_loop()):
            async with time_is_skipped(20):
                with pytest.raises(OutcomeUnknownError, match="no answer within 30"):
                    await client.delete_face("c5r7jedkujdbnasarhn0")


async def test_an_answer_from_the_same_loop_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instant, "_PATIENCE", 600.0)
    async with Sandbox(faults=[Fault("latency", seconds=25)]) as sandbox:
        async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
            with skipping(asyncio.get_running_loop()):
                async with time_is_skipped(20):
                    await client.whatsapp_detail("+6281387300008")


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
    now, began = time.monotonic(), loop.time()
    await asyncio.sleep(0.05)
    assert loop.time() - began < time.monotonic() - now + 0.01


async def test_time_that_is_skipped_already_goes_on_being_skipped() -> None:
    loop = asyncio.get_running_loop()
    with skipping(loop):
        async with time_is_skipped(3000):
            with skipping(loop):
                await asyncio.sleep(1800)
            await asyncio.sleep(1800)


def test_a_loop_that_ends_waits_for_its_threads_however_much_time_is_skipped() -> None:
    """From Python 3.12 on, a runner gives them 300 seconds."""
    may_end = threading.Event()

    class Slow(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            if wait:
                assert may_end.wait(LAST_RESORT)
            super().shutdown(wait, cancel_futures=cancel_futures)

    with contextlib.closing(instant.InstantLoop()) as loop:
        loop.set_default_executor(Slow())
        loop.call_later(400, may_end.set)
        loop.run_until_complete(loop.shutdown_default_executor(300))


@virtual
async def test_an_instant_loop_skips_already() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with skipping(loop):
        await asyncio.sleep(0.001)
    assert loop.time() == began + 0.001
    assert isinstance(loop, instant.InstantLoop)
    due = asyncio.Event()
    loop.call_later(3600, due.set)
    for is_due in (False, True):
        loop.advance(1800)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert due.is_set() is is_due
    assert loop.time() == began + 3600.001


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


# The virtual time of the other tests.


@virtual
async def test_virtual_time_stands_while_work_is_under_way_elsewhere(rest: Callable[[], None]) -> None:
    async with asyncio.timeout(3600):
        began = clock.now()
        await asyncio.to_thread(rest)
        await anyio.to_thread.run_sync(rest)
        assert clock.now() == began
        await asyncio.sleep(1800)
        assert clock.now() == began + 1800


class Crowd(WeakSet[clock.Worker]):
    """Workers, to which another loop in another thread adds one as often as they are looked through, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.late = [Threads(print), Threads(print)]

    def __iter__(self) -> Iterator[clock.Worker]:
        for worker in super().__iter__():
            if len(self) <= len(self.late):
                self.add(self.late[len(self) - 1])
            yield worker


@virtual
async def test_virtual_time_passes_while_another_loop_makes_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd, first = Crowd(), Threads(print)
    crowd.add(first)
    monkeypatch.setattr(clock, "elsewhere", crowd)
    began = clock.now()
    await asyncio.sleep(1800)
    assert clock.now() == began + 1800
    assert len(crowd) == 3


@virtual
async def test_virtual_time_stands_while_a_ledger_is_at_work(
    rest: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin = Book.begin

    def slow(book: Book, ask: Ask) -> Verdict:
        rest()
        return begin(book, ask)

    monkeypatch.setattr(Book, "begin", slow)
    vendor = Vendor(lambda request, number: ok_whatsapp())
    async with asyncio.timeout(3600), client_of(vendor, ledger=tmp_path / "slow.ledger") as client:
        began = clock.now()
        assert len(await gather(client, 5)) == 5
        assert clock.now() == began
