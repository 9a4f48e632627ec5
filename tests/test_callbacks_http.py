"""Receivers of callbacks: a bare ASGI application and a FastAPI router under uvicorn, routes under aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware.base import BaseHTTPMiddleware

from aisolution_async import AsyncClient, Inbox, Ledger, WhatsAppDetail
from aisolution_async.integrations.aiohttp import inbox_routes
from aisolution_async.integrations.asgi import answer, hide_from_access_logs, inbox_app
from aisolution_async.integrations.fastapi import inbox_router
from aisolution_async.ledger import LedgerError
from aisolution_async.sandbox import Sandbox

from .support import examples

SECRET = "s3cret_part_of-the-address"
NUMBER = "6281387300008"
FOUND = f"number=%2B{NUMBER}&whatsapp=yes&status_update=20180825&signature=Saya+suka+global&business_user=no&avatar=yes"


@asynccontextmanager
async def under_uvicorn(app: Any, sock: socket.socket, **options: Any) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="info", timeout_graceful_shutdown=5, **options))
    signals: Any = server
    signals.capture_signals = contextlib.nullcontext  # they are the tests' own
    task = asyncio.create_task(server.serve([sock]))
    while not server.started:
        assert not task.done(), task
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await task


def asgi(inbox: Inbox, sock: socket.socket) -> AbstractAsyncContextManager[None]:
    return under_uvicorn(inbox_app(inbox), sock, lifespan="off", http="h11")


def mounted(inbox: Inbox, sock: socket.socket) -> AbstractAsyncContextManager[None]:
    app = FastAPI()
    app.mount(inbox.path, inbox_app(inbox))
    return under_uvicorn(app, sock)


def fastapi(inbox: Inbox, sock: socket.socket) -> AbstractAsyncContextManager[None]:
    app = FastAPI()
    app.include_router(inbox_router(inbox))
    assert "/whatsapp" not in str(app.openapi())

    async def copy(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=copy)
    return under_uvicorn(app, sock, http="httptools")


@asynccontextmanager
async def aiohttp(inbox: Inbox, sock: socket.socket) -> AsyncIterator[None]:
    app = web.Application()
    app.add_routes(inbox_routes(inbox))
    runner = web.AppRunner(app, access_log=logging.getLogger("aiohttp.access"))
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()


Serve = Callable[[Inbox, socket.socket], AbstractAsyncContextManager[None]]
SERVERS: list[Serve] = [asgi, mounted, fastapi, aiohttp]
every_server = pytest.mark.parametrize("serve", SERVERS, ids=lambda serve: serve.__name__)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def url(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


class Spy(Inbox):
    """An inbox that notes what it was given, and may fail."""

    def __init__(
        self, address: str = "http://127.0.0.1/whatsapp", *, secret: str = SECRET, fails: bool = False
    ) -> None:
        super().__init__(address, secret=secret)
        self.given: list[tuple[str, bytes | str]] = []
        self.fails = fails

    async def receive(self, secret: str, query: bytes | str) -> None:
        self.given.append((secret, query))
        if self.fails:
            raise LedgerError("the disk is full")


@every_server
async def test_everything_gets_the_same_empty_200(serve: Serve, sock: socket.socket, url: str) -> None:
    inbox = Inbox("http://127.0.0.1/whatsapp", secret=SECRET)
    paths = [
        f"/whatsapp/{SECRET}?{FOUND}",  # a stranger: nobody waits
        f"/whatsapp/{SECRET}?{FOUND}",
        f"/whatsapp/{SECRET}/?{FOUND}",
        f"/whatsapp/wrong?{FOUND}",
        "/whatsapp",
        "/whatsapp/",
        f"/whatsapp/{SECRET}",
        f"/whatsapp/{SECRET}?number=%00%ff&whatsapp=%zz",
        f"/whatsapp/a/b/c/{SECRET}?x",
        "/whatsapp/%F0%9F%92%A9%00/..%2F..",
        f"/whatsapp/{SECRET}?{'x' * 8000}",
    ]
    async with serve(inbox, sock), httpx.AsyncClient(base_url=url) as vendor:
        # Starlette itself sends who calls the address of a mounted application on to the same with a slash.
        answers = [await vendor.get(path) for path in paths if serve is not mounted or path != "/whatsapp"]
        heads = [{k: v for k, v in a.headers.items() if k != "date"} for a in answers]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} == {b""}
    assert all(head == heads[0] for head in heads)
    assert inbox.counts.accepted == 0
    assert inbox.counts.strange == len(answers)


@every_server
async def test_the_query_arrives_as_it_was_sent(serve: Serve, sock: socket.socket, url: str) -> None:
    inbox = Spy()
    queries = [FOUND, "number=+62&signature=a%26b%3Dc+%2B", "&&=;%", "a=%FF", "a=%41%2b%zz&&"]
    async with serve(inbox, sock), httpx.AsyncClient() as vendor:
        for query in queries:
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            slash = "/" * (query == FOUND)  # as the contract's example has one
            writer.write(
                f"GET /whatsapp/{SECRET}{slash}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()
        await vendor.get(f"{url}/whatsapp/{SECRET}")
    assert inbox.given == [(SECRET, query.encode()) for query in [*queries, ""]]


@every_server
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
async def test_other_methods_are_405(serve: Serve, sock: socket.socket, url: str, method: str) -> None:
    inbox = Spy()
    async with serve(inbox, sock), httpx.AsyncClient() as vendor:
        answers = [await vendor.request(method, f"{url}/whatsapp/{last}?{FOUND}") for last in (SECRET, "x", "")]
    assert [answer.status_code for answer in answers] == [405] * 3
    assert all(answer.headers["allow"] == "GET" for answer in answers)
    assert inbox.given == []


@every_server
async def test_a_query_over_8_kib_is_not_looked_at(serve: Serve, sock: socket.socket, url: str) -> None:
    inbox = Spy()
    async with serve(inbox, sock), httpx.AsyncClient() as vendor:
        answer = await vendor.get(f"{url}/whatsapp/{SECRET}?{'x' * 8193}")
    # aiohttp refuses lines of that length by itself.
    assert answer.status_code == (400 if serve is aiohttp else 414)
    assert inbox.given == []


@every_server
async def test_what_cannot_be_recorded_is_503(
    serve: Serve, sock: socket.socket, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(Spy(fails=True), sock), httpx.AsyncClient() as vendor:
        answer = await vendor.get(f"{url}/whatsapp/{SECRET}?{FOUND}")
    assert (answer.status_code, answer.content) == (503, b"")
    assert "the disk is full" in caplog.text


@every_server
async def test_access_logs_hold_neither_the_secret_nor_numbers(
    serve: Serve, sock: socket.socket, url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    # Of its own for each server: what hides one must not have hidden another.
    path, secret = f"/whatsapp-{serve.__name__}", f"{SECRET}-{serve.__name__}"
    with caplog.at_level(logging.DEBUG):
        for name in ("uvicorn.access", "uvicorn", "aiohttp.access"):
            logging.getLogger(name).addHandler(caplog.handler)
        try:
            async with serve(Spy(f"{url}{path}", secret=secret), sock), httpx.AsyncClient() as vendor:
                logging.getLogger("uvicorn.access").addHandler(caplog.handler)  # uvicorn sets its own at the start
                for place in (f"{path}/{secret}", f"{path}/wrong", f"/elsewhere/{secret}", f"/elsewhere{path}"):
                    await vendor.get(f"{url}{place}?{FOUND}", headers={"Referer": f"{url}{path}/{secret}?{NUMBER}"})
        finally:
            for name in ("uvicorn.access", "uvicorn", "aiohttp.access"):
                logging.getLogger(name).removeHandler(caplog.handler)
    records = [record for record in caplog.records if record.name in ("uvicorn.access", "aiohttp.access")]
    assert len({record.created for record in records}) >= 4
    out, err = capfd.readouterr()
    assert f"{path}/…" in out + err + caplog.text
    known = [record for record in records if f"/elsewhere{path}" not in record.getMessage()]
    for text in (out, err, *(record.getMessage() + repr(record.__dict__) for record in known)):
        assert secret not in text
    for record in known:
        assert NUMBER not in record.getMessage() + repr(record.__dict__)


class Joined(Inbox):
    """As this inbox is asked for its address, another thread makes an inbox too."""

    other: Inbox | None = None

    @property
    def path(self) -> str:
        if self.other is None:
            self.other = Inbox("https://example.com/other", secret=SECRET)
            maker = threading.Thread(target=hide_from_access_logs, args=(self.other,))
            maker.start()
            maker.join()
        return super().path


def test_a_record_is_logged_while_another_thread_makes_an_inbox(caplog: pytest.LogCaptureFixture) -> None:
    secret = f"{SECRET}-joined"
    inbox = Joined("https://example.com/joined", secret=secret)
    hide_from_access_logs(inbox)
    with caplog.at_level(logging.INFO, "hypercorn.access"):
        logging.getLogger("hypercorn.access").info("GET %s", f"/joined/{secret}")
    assert secret not in caplog.text
    assert inbox.other is not None


@every_server
async def test_a_callback_is_recorded_and_answers_who_waits(
    serve: Serve, sock: socket.socket, url: str, tmp_path: Path
) -> None:
    async with Sandbox() as sandbox, Ledger(tmp_path / "numbers.ledger") as ledger:
        inbox = Inbox(f"{url}/whatsapp", ledger=ledger)
        async with serve(inbox, sock), AsyncClient(sandbox.token, base_url=sandbox.url, ledger=ledger) as client:
            profile = await client.whatsapp_detail(NUMBER, wait=inbox)
            calls = [WhatsAppDetail(f"+62813873{n:05}", key=n) for n in range(20)]
            async with client.batch(calls, inbox=inbox) as batch:
                outcomes = [outcome async for outcome in batch]
            assert profile.is_answer
            assert [outcome.error for outcome in outcomes] == [None] * 20
            assert inbox.counts.accepted == 21
            assert {delivery.http_status for delivery in sandbox.callbacks} == {200}
            assert (await client.whatsapp_detail(NUMBER)).recorded is not None
        assert sandbox.bill.charged == client.tally.charged == 21


async def test_a_router_at_another_path_and_at_the_root(sock: socket.socket, url: str) -> None:
    moved, root = Spy(), Spy("http://127.0.0.1/")
    app = FastAPI()
    app.include_router(inbox_router(moved, path="/hooks"), prefix="/v2")
    app.include_router(inbox_router(root))
    async with under_uvicorn(app, sock), httpx.AsyncClient() as vendor:
        assert (await vendor.get(f"{url}/v2/hooks/{SECRET}?{FOUND}")).status_code == 200
        assert (await vendor.get(f"{url}/{SECRET}?{FOUND}")).status_code == 200
        assert (await vendor.get(url)).status_code == 200
    assert moved.given == [(SECRET, FOUND.encode())]
    assert root.given == [(SECRET, FOUND.encode()), ("", b"")]


async def test_a_ledger_that_is_not_open_is_503_and_no_riddle_to_access_logs(tmp_path: Path) -> None:
    inbox = Inbox("http://127.0.0.1/whatsapp", ledger=Ledger(tmp_path / "numbers.ledger"))
    inbox_app(inbox)
    assert await answer(inbox, "GET", f"/whatsapp/{SECRET}", FOUND.encode()) == 503
    logging.getLogger("uvicorn.access").warning("%s", f"/whatsapp/{SECRET}?{FOUND}")


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [("fastapi", "fastapi", "fastapi"), ("fastapi", "starlette", "fastapi"), ("aiohttp", "aiohttp", "aiohttp")],
)
def test_without_its_framework_an_integration_names_its_extra(module: str, framework: str, extra: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules['{framework}'] = None\n"
        f"try: import aisolution_async.integrations.{module}\n"
        "except ImportError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"pip install 'aisolution-async[{extra}]'" in said


@given(st.binary(max_size=60), st.text(max_size=60), st.sampled_from(["GET", "POST", "get", ""]))
@settings(max_examples=examples(150), deadline=None)
def test_no_request_breaks_the_receiver(query: bytes, path: str, method: str) -> None:
    inbox = Inbox("http://127.0.0.1/whatsapp", secret=SECRET)
    for place in (path, f"/whatsapp/{SECRET}{path}", f"/whatsapp/{SECRET}"):
        status = asyncio.run(answer(inbox, method, place, query))
        assert status == (200 if method == "GET" else 405)
    assert inbox.counts.accepted == 0
