"""What a test may dial, and the mocks of httpx that a client's own pool does not pass through."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import httpcore
import httpx
import pytest
import respx
from pytest_httpx import HTTPXMock

from aisolution_async import (
    AsyncClient,
    Charge,
    ConfigurationError,
    NotSentError,
    WhatsAppDetail,
    WhatsAppState,
)
from aisolution_async.sandbox import Sandbox
from aisolution_async.wire import reach

NUMBER = "+6281387300008"
BASE = "https://vendor.example"
ANSWER = {"status": "OK", "message": {"number": NUMBER, "whatsapp": "yes"}}


@contextlib.contextmanager
def by_vcr(tmp_path: Path) -> Iterator[None]:
    vcr = pytest.importorskip("vcr")
    with vcr.use_cassette(str(tmp_path / "cassette.yaml")):
        yield


Mocking = Callable[[Path], AbstractContextManager[Any]]
MOCKS: dict[str, tuple[Mocking, str]] = {
    "respx": (lambda _: respx.mock(), "respx is active"),
    "respx of clients": (lambda _: respx.mock(using="httpx"), "respx is active"),
    "vcr": (by_vcr, "VCR is active"),
    "unittest": (
        lambda _: mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request"),
        "unittest.mock is active",
    ),
}
mocks = pytest.mark.parametrize(("mocking", "told"), MOCKS.values(), ids=MOCKS)


@pytest.fixture(autouse=True)
def nobody_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here reaches anybody, even where it fails."""

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host in ("127.0.0.1", b"127.0.0.1"):
            return real(host, *args, **options)
        raise socket.gaierror(socket.EAI_NONAME, "looked up")

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "loopback_only", False)


async def refused(kind: type[NotSentError | ConfigurationError], **options: Any) -> str:
    """What the error says of a call and of a batch that are not sent."""
    async with AsyncClient("tok-secret", base_url=BASE, **options) as client:
        with pytest.raises(kind) as caught:
            await client.whatsapp_detail(NUMBER)
        error = caught.value
        assert (error.charge, [attempt.charge for attempt in error.attempts]) == (Charge.FREE, [Charge.FREE])
        async with client.batch([WhatsAppDetail(f"+62813873{n:05}") for n in range(30)]) as batch:
            outcomes = [outcome async for outcome in batch]
        assert {type(outcome.error) for outcome in outcomes} == {kind}
        assert client.tally.free == 31  # each was tried once
        assert str(error) == str(outcomes[0].error)
        return str(error)


async def test_a_test_dials_this_machine_alone() -> None:
    said = await refused(NotSentError)
    for remedy in ("aisolution_sandbox", "transport=httpx.AsyncHTTPTransport()", "@pytest.mark.aisolution_network"):
        assert remedy in said
    assert "not sent" in said
    assert "vendor.example" in said
    assert "active" not in said


@pytest.mark.aisolution_network
async def test_a_test_may_say_that_it_reaches_the_vendor() -> None:
    async with AsyncClient("tok-secret", base_url=BASE, retry=0) as client:
        with pytest.raises(NotSentError, match="looked up"):
            await client.whatsapp_detail(NUMBER)


@mocks
async def test_a_mock_that_is_walked_past(mocking: Mocking, told: str, tmp_path: Path) -> None:
    with mocking(tmp_path):
        said = await refused(NotSentError)
    assert told in said
    assert "transport=httpx." in said
    assert "active" not in await refused(NotSentError)


@mocks
@pytest.mark.usefixtures("without_plugin")
async def test_a_mock_is_noticed_without_the_plugin(mocking: Mocking, told: str, tmp_path: Path) -> None:
    with mocking(tmp_path):
        said = await refused(ConfigurationError)
    assert told in said
    assert "transport=httpx." in said


@pytest.mark.usefixtures("without_plugin", "httpx_mock")
async def test_pytest_httpx_is_noticed() -> None:
    assert "pytest-httpx is active" in await refused(ConfigurationError)


@pytest.mark.parametrize("mocking", [mocking for mocking, _ in MOCKS.values()], ids=MOCKS)
async def test_this_machine_is_dialled_whatever_is_mocked(mocking: Mocking, tmp_path: Path) -> None:
    async with Sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        with mocking(tmp_path):
            await client.whatsapp_detail(NUMBER)
        assert sandbox.requests["gliswadetail"] == 1


@mocks
@pytest.mark.usefixtures("without_plugin")
async def test_an_open_connection_is_refused_as_a_new_one_is(
    mocking: Mocking, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        monkeypatch.setattr(reach, "is_loopback", lambda host: False)  # from here on it stands for the vendor
        for _ in range(4):
            await client.whatsapp_detail(NUMBER)
            asked = sandbox.requests["gliswadetail"]
            with mocking(tmp_path), pytest.raises(ConfigurationError, match=told) as caught:
                await client.whatsapp_detail(NUMBER)
            assert caught.value.charge is Charge.FREE
            with monkeypatch.context() as patch:
                patch.setattr(reach, "loopback_only", True)
                with pytest.raises(NotSentError, match="aisolution_network"):
                    await client.whatsapp_detail(NUMBER)
            assert sandbox.requests["gliswadetail"] == asked


def watching(owner: type) -> AbstractContextManager[Any]:
    """Instrument httpx as tracers do, over whatever stands there."""
    plain: Any = owner.__dict__["handle_async_request"]

    @functools.wraps(plain)
    async def watched(*args: Any, **options: Any) -> Any:
        return await plain(*args, **options)

    return mock.patch.object(owner, "handle_async_request", watched)


@pytest.mark.parametrize("owner", [httpx.AsyncHTTPTransport, httpcore.AsyncConnectionPool])
@pytest.mark.usefixtures("without_plugin")
async def test_what_only_watches_httpx_is_no_mock(owner: type) -> None:
    async with AsyncClient("tok-secret", base_url=BASE, retry=0) as client:
        with watching(owner), pytest.raises(NotSentError, match="looked up"):
            await client.whatsapp_detail(NUMBER)
        with respx.mock(), watching(owner), pytest.raises(ConfigurationError, match="respx is active"):
            await client.whatsapp_detail(NUMBER)


# ------------------------------------------------------------------------------- the transports that mocks answer for


@pytest.mark.parametrize("early", [True, False], ids=["client before the mock", "mock before the client"])
async def test_respx_answers_for_httpx_own_transport(early: bool) -> None:
    client = AsyncClient("tok-secret", base_url=BASE, transport=httpx.AsyncHTTPTransport()) if early else None
    with respx.mock(base_url=BASE) as router:
        router.post("/v1/gliswadetail", params={"token": "tok-secret"}).respond(json=ANSWER)
        async with client or AsyncClient("tok-secret", base_url=BASE, transport=httpx.AsyncHTTPTransport()) as asking:
            reply = await asking.whatsapp_detail(NUMBER)
        assert router.calls.call_count == 1
    assert (reply.whatsapp, reply.charge) == (WhatsAppState.YES, Charge.CHARGED)


async def test_a_router_of_respx_is_a_transport() -> None:
    router = respx.MockRouter()
    router.post(path="/v1/gliswadetail").respond(json=ANSWER)
    with respx.mock(using="httpx"):
        async with AsyncClient(
            "tok-secret", base_url=BASE, transport=httpx.MockTransport(router.async_handler)
        ) as client:
            assert (await client.whatsapp_detail(NUMBER)).whatsapp is WhatsAppState.YES


async def test_pytest_httpx_answers_for_httpx_own_transport(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(method="POST", url=f"{BASE}/v1/gliswadetail?token=tok-secret", json=ANSWER)
    async with AsyncClient("tok-secret", base_url=BASE, transport=httpx.AsyncHTTPTransport()) as client:
        assert (await client.whatsapp_detail(NUMBER)).whatsapp is WhatsAppState.YES
    (request,) = httpx_mock.get_requests()
    assert b"number=%2B6281387300008" in request.content


async def test_vcr_records_and_answers_for_httpx_own_transport(tmp_path: Path) -> None:
    vcr = pytest.importorskip("vcr")
    cassette = tmp_path / "cassette.yaml"
    recorded = vcr.VCR(filter_query_parameters=["token"], match_on=["method", "path"])
    async with Sandbox() as sandbox:
        for _ in range(2):
            with recorded.use_cassette(str(cassette)):
                async with AsyncClient(
                    sandbox.token, base_url=sandbox.url, transport=httpx.AsyncHTTPTransport()
                ) as client:
                    assert (await client.whatsapp_detail(sandbox.number("yes"))).whatsapp is WhatsAppState.YES
        assert sandbox.requests["gliswadetail"] == 1
    assert sandbox.token not in cassette.read_text()


# -------------------------------------------------------------------------------------------------- through a proxy


@pytest.mark.parametrize("by", ["environment", "option"])
async def test_a_test_does_not_dial_through_a_proxy(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        said = await refused(NotSentError)
    else:
        said = await refused(NotSentError, proxy="http://127.0.0.1:9")
    assert "@pytest.mark.aisolution_network" in said


async def test_a_mock_answers_where_the_environment_has_a_proxy(
    monkeypatch: pytest.MonkeyPatch, httpx_mock: HTTPXMock
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    httpx_mock.add_response(json=ANSWER)
    async with AsyncClient("tok-secret", base_url=BASE) as client:
        assert (await client.whatsapp_detail(NUMBER)).whatsapp is WhatsAppState.YES
