"""What holds for every test, and the fixtures of several files."""

from __future__ import annotations

import compileall
import contextlib
import gc
import importlib
import os
import ssl
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import HealthCheck, settings

from aisolution_async.ledger import Ledger
from aisolution_async.sandbox import Sandbox
from aisolution_async.wire import transport

from .ledgers import AnyLedger, ledger_at
from .sandboxes import http_client_of
from .servers import running, stop_all
from .support import Answers, ThreadVendor, VendorOf

# How long an example takes says how busy the machine is, and nothing of the code.
for profile, each in (("daily", 25), ("long", 100)):
    settings.register_profile(profile, max_examples=each, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Where the tests were started.
HERE = Path.cwd()


def leaves_out_the_long_ones(config: pytest.Config) -> bool:
    return "not long" in config.getoption("markexpr")


def pytest_configure(config: pytest.Config) -> None:
    """Children find everything compiled, and compile nothing: some of them write to disks that are full.

    The workers of xdist are no such children: they keep what pytest makes of the tests' files, for the next run.
    """
    settings.load_profile("daily" if leaves_out_the_long_ones(config) else "long")
    is_worker = hasattr(config, "workerinput")
    if not is_worker and not os.environ.get("PYTHONDONTWRITEBYTECODE"):
        compileall.compile_dir(Path(__file__).parent.parent / "aisolution_async", quiet=1)
    if is_worker or not config.getoption("numprocesses", None):
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """With `-n auto`, two more workers than cores: a test that waits for a child or a server leaves its core to others.

    A number that the environment gives stays as it is.
    """
    cores = yield
    return cores if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else cores + 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Workers of the whole suite begin at different files, and find the others' as another worker has made them.

    What fails here is left to the collection itself, which says so. All of it stays: nothing looks for garbage yet.
    """
    gc.disable()
    worker = getattr(session.config, "workerinput", None)
    if worker is not None and session.config.args == session.config.getini("testpaths"):
        names = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))
        first = len(names) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        for name in names[first:] + names[:first]:
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(f"{__package__}.{name}")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported and collected stays, and is 400,000 objects: no collection of garbage goes through it again.

    Nor do collections come as often as they do by default: tests make few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of generated examples are among the long ones, too: there they have all of their examples."""
    if not leaves_out_the_long_ones(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker("long")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test without coverage is not traced. pytest-cov pauses one measurement, and a worker of xdist has several."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(here)
        threading.settrace(in_threads)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A test that leaves the process elsewhere fails itself, and not those that come after it."""
    try:
        return (yield)
    finally:
        try:
            left = Path.cwd()
        except FileNotFoundError:
            left = None
        if left != HERE:
            os.chdir(HERE)
            pytest.fail(f"it left the process in {left or 'a folder that is gone'}")


def pytest_sessionfinish() -> None:
    """While nobody waits: xdist gives a worker that has said that it is done ten seconds, and kills it then."""
    stop_all()


# The command line.


@pytest.fixture
def command_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For commands: no token, a folder of their own, and nothing left in anybody's temporary folder."""
    for name in [*os.environ]:
        if name.startswith("AISOLUTION_"):
            monkeypatch.delenv(name)
    temporary = str(tmp_path_factory.mktemp("temporary"))
    monkeypatch.setenv("TMPDIR", temporary)
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def vendor_of() -> Iterator[VendorOf]:
    """Starts a vendor in a thread, which answers as it is told."""
    started: list[ThreadVendor] = []
    with ThreadPoolExecutor() as threads:

        def start(answer: Answers) -> ThreadVendor:
            vendor = ThreadVendor(answer)
            threads.submit(vendor.server.serve_forever, 0.01)
            started.append(vendor)
            return vendor

        yield start
        for vendor in started:
            vendor.server.shutdown()
            vendor.server.server_close()


# The pretended vendor.


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A running Sandbox, whose time passes."""
    async with Sandbox() as running:
        yield running


@pytest.fixture
async def http_client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever asks `sandbox` without the client of this package."""
    async with http_client_of(sandbox) as running:
        yield running


# The ledger.


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    return tmp_path / "calls.ledger"


@pytest.fixture
async def file_ledger(ledger_path: Path) -> AsyncIterator[Ledger]:
    """A ledger that is open, and leaves it to the system when its file is written."""
    async with Ledger(ledger_path, synchronous="off") as ledger:
        yield ledger


@pytest.fixture
def server_url() -> str:
    """A URL for a ledger on a PostgreSQL server, where there is none yet."""
    return running().url()


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest) -> Path | str:
    """Where a ledger may be: a file, then a server. There is none yet."""
    found: Path | str = request.getfixturevalue("ledger_path" if request.param == "file" else "server_url")
    return found


@pytest.fixture
async def ledger(place: Path | str) -> AsyncIterator[AnyLedger]:
    """A ledger that is open, in a file and then on a server."""
    async with ledger_at(place, synchronous="off") as ledger:
        yield ledger


@pytest.fixture
def no_ledger_is_at_work() -> Iterator[None]:
    """At the end, no thread of a ledger is left."""
    yield
    assert [t.name for t in threading.enumerate() if t.name == "aisolution-ledger" and not t.daemon] == []


# The pool of connections.


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection rests, so that which one serves which call is plain."""
    monkeypatch.setattr(transport, "_rest_is_due", lambda uses: False)


# The network.


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxy, and nobody to trust."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Whoever signs the certificates of the servers here."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Makes what a server of these names uses."""

    def make(*names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    return make


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a client uses that trusts `authority`, and nobody else: to read whom the system trusts takes long."""
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
