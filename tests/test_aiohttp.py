"""aiohttp: the guide's service under aiohttp's own server, and what `install` promises on any application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp import web

from aisolution_async import AsyncClient, ConfigurationError, LedgerError, RetryLaterError
from aisolution_async.integrations.aiohttp import CLIENT, client_of, install
from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.faults import Fault

from .services import (
    UNDER_AIOHTTP,
    assert_clean,
    curl,
    done,
    example,
    needs_curl,
    serving,
    state_of,
    two_workers_run_a_list,
)
from .support import Vendor, in_turn, picture, says
from .support import client_of as client_on


@pytest.fixture
def source() -> str:
    return example("integrations.aiohttp import")


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[httpx.AsyncClient]:
    """The application on a socket, and an HTTP client of it."""
    runner = web.AppRunner(app)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as http:
            yield http
    finally:
        await runner.cleanup()


@needs_curl
async def test_the_service_answers_and_ends_with_requests_in_flight(source: str, tmp_path: Path) -> None:
    clock = Clock(ticking=False)
    async with (
        Sandbox(clock=clock) as sandbox,
        serving(source, UNDER_AIOHTTP, tmp_path, sandbox) as service,
        aiohttp.ClientSession(service.url) as user,
    ):
        (tmp_path / "a.jpg").write_bytes(picture(1))
        form = ("-F", f"selfie=@{tmp_path}/a.jpg", "-F", f"card=@{tmp_path}/a.jpg", f"{service.url}/faces")
        assert json.loads(await curl(*form)) == {"similarity": 100, "result": "SAME PERSON", "charge": "charged"}

        async def ask(selfie: bytes, card: bytes) -> tuple[int, str, dict[str, object]]:
            images = aiohttp.FormData()
            images.add_field("selfie", selfie, filename="selfie.jpg")
            images.add_field("card", card, filename="card.jpg")
            async with user.post("/faces", data=images) as answer:
                return answer.status, answer.content_type, await answer.json(content_type=None)

        assert (await ask(picture(2), picture(3)))[2]["result"] == "NOT SAME PERSON"
        status, kind, problem = await ask(b"no picture", picture(3))
        assert (status, kind, problem["charge"]) == (422, "application/problem+json", "free")

        sandbox.faults.add(Fault("latency", seconds=20))
        asked = sandbox.requests["facecompare"]
        under_way = [asyncio.create_task(ask(picture(2), picture(n))) for n in range(4, 9)]
        while sandbox.requests["facecompare"] < asked + 5:
            await asyncio.sleep(0.01)
        service.terminate()
        await service.refuses()
        while not all(task.done() for task in under_way):
            clock.advance(20)
            await asyncio.sleep(0.01)
        assert [status for status, _, _ in await asyncio.gather(*under_way)] == [200] * 5
        assert_clean(await service.ended())


async def test_a_list_survives_a_restart_and_is_paid_for_once(source: str, tmp_path: Path) -> None:
    numbers = {f"applicant-{n}": f"+62813873{n:05}" for n in range(400)}
    async with Sandbox() as sandbox, httpx.AsyncClient() as user:
        sandbox.faults.add(Fault("hang", rate=0.5))
        async with serving(source, UNDER_AIOHTTP, tmp_path, sandbox) as service:
            url = f"{service.url}/lists/monday"
            assert (await user.put(url, json=numbers)).status_code == 202
            while (await state_of(user, url))["done"] < 5:
                await asyncio.sleep(0.02)
            assert (await user.get(f"{url}/results")).status_code == 409
            service.kill()
            await service.ended()
        sandbox.faults.clear()
        paid = sandbox.bill.charged
        assert paid
        async with serving(source, UNDER_AIOHTTP, tmp_path, sandbox) as service:
            state, results = await done(user, f"{service.url}/lists/monday")
            for path in ("other", "other/results", ".hidden", "monday.results"):
                assert (await user.get(f"{service.url}/lists/{path}")).status_code == 404
            service.terminate()
            assert_clean(await service.ended())
    assert [row["key"] for row in results] == list(numbers)
    # What was under way when the power went may have been charged: it is held, and not asked again.
    held = sum(row["error"] == "OutcomeUnknownError" for row in results)
    assert 0 < held < len(numbers)
    assert state["held"] == held
    assert paid < sandbox.bill.charged <= len(numbers)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which process has a file open is told by /proc")
async def test_a_list_of_a_killed_worker_is_finished_by_the_other(source: str, tmp_path: Path) -> None:
    await two_workers_run_a_list(source, UNDER_AIOHTTP, tmp_path)


async def test_one_client_for_the_life_of_the_application() -> None:
    vendor = in_turn(says("OK", None))
    seen: list[AsyncClient] = []

    async def own(app: web.Application) -> AsyncIterator[None]:
        seen.append(client_of(app))
        yield
        await client_of(app).delete_face("at the end")  # it is still open

    async def handle(request: web.Request) -> web.Response:
        seen.extend((client_of(request), request.config_dict[CLIENT]))
        return web.Response()

    app, below = web.Application(), web.Application()
    install(app, lambda: client_on(vendor))
    app.cleanup_ctx.append(own)
    app.router.add_get("/", handle)
    below.router.add_get("/", handle)
    app.add_subapp("/below/", below)
    async with running(app) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/below/")).status_code == 200
    assert len(seen) == 5
    assert len(set(map(id, seen))) == 1
    assert len(vendor.requests) == 1
    assert vendor.closed == 1


async def test_errors_are_answered_wherever_they_are_raised() -> None:
    @web.middleware
    async def check(request: web.Request, handler: object) -> web.StreamResponse:
        await client_of(request).delete_face("p")
        raise AssertionError

    app, below = web.Application(), web.Application(middlewares=[check])
    install(app, lambda: client_on(in_turn(says("PERSON_ID_NOT_EXIST"))))

    async def busy(request: web.Request) -> web.Response:
        raise RetryLaterError("facecompare: sandbox-token", key="applicant-7", retry_after=3)

    app.router.add_get("/busy", busy)
    app.add_subapp("/below/", below)
    async with running(app) as http:
        answer = await http.get("/busy")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "3"
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["charge"] == "free"
        assert "sandbox-token" not in answer.text
        assert "applicant-7" not in answer.text
        assert (await http.get("/below/")).status_code == 404
        assert (await http.get("/below/")).json()["type"].endswith(":person-not-found")


async def test_an_answer_under_way_is_cut_off_and_gets_no_second_head() -> None:
    app = web.Application()
    install(app, lambda: client_on(Vendor(lambda r, n: says("OK"))))

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"so far")
        raise RetryLaterError("busy")

    app.router.add_get("/", stream)
    async with running(app) as http:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert said.count(b"HTTP/1.1") == 1
    assert b"so far" in said
    assert not said.endswith(b"0\r\n\r\n")


async def test_a_client_that_cannot_be_opened_keeps_the_application_from_starting(tmp_path: Path) -> None:
    app = web.Application()
    install(app, lambda: AsyncClient("t", ledger=tmp_path))
    with pytest.raises(LedgerError):
        async with running(app):
            raise AssertionError


async def test_what_makes_no_client_is_refused() -> None:
    app = web.Application()
    with pytest.raises(ConfigurationError, match="install"):
        client_of(app)
    with pytest.raises(ConfigurationError, match="lambda"):
        install(app, AsyncClient("t"))  # type: ignore[arg-type]
    install(app, lambda: AsyncClient("t"))
    with pytest.raises(ConfigurationError, match="once"):
        install(app)
