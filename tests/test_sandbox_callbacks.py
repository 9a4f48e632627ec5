"""The pretended vendor: answers that come by callback."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest

from aisolution_async.charges import Charge
from aisolution_async.sandbox import Clock, Sandbox, vendor
from aisolution_async.sandbox.magic import HOSTILE

from .sandboxes import NO, SLOW, YES, ask, bill, called, http_client_of, receiver, said_by_page, settled


async def test_a_callback_brings_the_answer(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    async with receiver() as (url, heads):
        for number, address in ((YES, url), (NO, f"{url}/a/b?mine=1#part"), (YES, url)):
            said = await ask(http_client, "gliswadetail", number=number, callback=address)
            assert said == ("OK", {"number": number, "whatsapp": "checking"})
            await settled(sandbox)
    first, second, third = heads
    assert first == third
    line, host, *_ = first.split("\r\n")
    query = urlencode(vendor._profile(YES))
    assert line == f"GET /?{query} HTTP/1.1"
    assert query.startswith(f"number=%2B{YES[1:]}&whatsapp=yes&status_update=20")
    assert host == f"host: {url.removeprefix('http://')}"
    assert dict(parse_qsl(query)) == vendor._profile(YES)
    assert second.split("\r\n")[0] == f"GET /a/b?mine=1&number=%2B{NO[1:]}&whatsapp=no HTTP/1.1"
    # One free answer each, and what each callback brought is charged.
    assert sandbox.bill == bill(gliswadetail=(3, 3))
    assert [(d.number, d.http_status, d.error) for d in sandbox.callbacks] == [
        (YES, 204, None),
        (NO, 204, None),
        (YES, 204, None),
    ]
    assert sandbox.callbacks[0].url == f"{url}/?{query}"
    assert YES not in repr(sandbox.callbacks)


async def test_a_number_that_was_called_back_is_known(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    async with receiver() as (url, _):
        await ask(http_client, "gliswadetail", number=SLOW, callback=url)
        await settled(sandbox)
    assert await ask(http_client, "gliswadetail", number=SLOW) == ("OK", vendor._profile(SLOW))


@pytest.mark.parametrize(
    ("answer", "http_status", "error"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\n\r\n", 302, None),
        (b"HTTP/1.0 500 Oh\r\n\r\n", 500, None),
        (b"SSH-2.0-server\r\n\r\n", None, "ValueError"),
        (b"", None, "IncompleteReadError"),
        (b"x" * 200_000, None, "LimitOverrunError"),
    ],
)
async def test_what_comes_of_a_callback_is_recorded(
    sandbox: Sandbox, http_client: httpx.AsyncClient, answer: bytes, http_status: int | None, error: str | None
) -> None:
    async with receiver(answer) as (url, heads):
        await ask(http_client, "gliswadetail", number=YES, callback=url)
        await settled(sandbox)
    assert len(heads) == 1
    (delivery,) = sandbox.callbacks
    assert (delivery.http_status, delivery.error) == (http_status, error)


async def test_a_callback_to_nobody_or_to_one_that_hangs_fails() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        async with receiver(None) as (hanging, _):
            for address, patience, error in ((nobody, 600, "ConnectionRefusedError"), (hanging, 0.05, "timed out")):
                async with Sandbox(callback_timeout=patience) as sandbox, http_client_of(sandbox) as http_client:
                    await ask(http_client, "gliswadetail", number=YES, callback=address)
                    await settled(sandbox)
                    assert [delivery.error for delivery in sandbox.callbacks] == [error]


def record_of_connections(monkeypatch: pytest.MonkeyPatch, working: str | None = None) -> list[str]:
    tried: list[str] = []
    original = asyncio.open_connection

    async def connect(host: str, *rest: Any, **options: Any) -> Any:
        tried.append(host)
        if host != working:
            raise ConnectionRefusedError
        return await original("127.0.0.1", *rest, **options)

    monkeypatch.setattr(asyncio, "open_connection", connect)
    return tried


async def test_localhost_is_this_machine_whatever_the_resolver_says(
    sandbox: Sandbox, http_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as (url, heads):
        named = url.replace("127.0.0.1", "localhost")
        await ask(http_client, "gliswadetail", number=YES, callback=named)
        await settled(sandbox)
        tried = record_of_connections(monkeypatch, working="::1")
        await ask(http_client, "gliswadetail", number=YES, callback=named)
        await settled(sandbox)
    assert tried == ["127.0.0.1", "::1"]
    assert len(heads) == 2
    assert f"host: {named.removeprefix('http://')}" in heads[0]


async def test_callbacks_go_anywhere_if_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Sandbox(callbacks_anywhere=True) as sandbox,
        http_client_of(sandbox) as http_client,
    ):
        tried = record_of_connections(monkeypatch)
        for url in ("http://example.com", "https://93.184.215.14/x"):
            await ask(http_client, "gliswadetail", number=YES, callback=url)
            await settled(sandbox)
    assert tried == ["example.com", "93.184.215.14"]
    assert [delivery.error for delivery in sandbox.callbacks] == ["ConnectionRefusedError"] * 2


async def test_a_callback_by_https_checks_the_certificate(
    sandbox: Sandbox,
    http_client: httpx.AsyncClient,
    server_tls: Callable[..., ssl.SSLContext],
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the receiver's failed handshake
    async with receiver(tls=server_tls("localhost")) as (url, heads):
        await ask(http_client, "gliswadetail", number=YES, callback=url.replace("127.0.0.1", "localhost"))
        await settled(sandbox)
        assert sandbox.callbacks[0].error == "SSLCertVerificationError"
        monkeypatch.setattr("aisolution_async.sandbox.callbacks._tls", lambda: client_tls)
        await ask(http_client, "gliswadetail", number=YES, callback=url.replace("127.0.0.1", "localhost"))
        await settled(sandbox)
    assert sandbox.callbacks[1].http_status == 204
    assert len(heads) == 1
    assert vendor._callback("https://localhost/", YES, anywhere=False).port == 443
    assert vendor._callback("http://[::1]", YES, anywhere=False).addresses == ("::1",)


@pytest.mark.parametrize("name", ["callback-once", "callback-twice", "callback-no", "yes", "checking-twice", "hostile"])
async def test_magic_numbers_are_called_back(sandbox: Sandbox, http_client: httpx.AsyncClient, name: str) -> None:
    number = sandbox.number(name)
    async with receiver() as (url, heads):
        said = await ask(http_client, "gliswadetail", number=number, callback=url)
        assert said == ("OK", {"number": number, "whatsapp": "checking"})
        await settled(sandbox)
    message = {"callback-no": {"number": number, "whatsapp": "no"}, "hostile": said_by_page(number, signature=HOSTILE)}
    assert called(heads) == [message.get(name, said_by_page(number))] * (2 if name == "callback-twice" else 1)
    assert not any(control in head.split("\r\n")[0] for head in heads for control in "\x1b\n<")
    # Charged once, however often it is said.
    assert sandbox.bill == bill(gliswadetail=(1, 1))
    assert sandbox.bill.by_callback == bill(gliswadetail=(1, 0))
    assert [(entry.by, entry.charge, entry.delivered) for entry in sandbox.bill.entries] == [
        ("request", Charge.FREE, True),
        ("callback", Charge.CHARGED, True),
    ]


async def test_a_late_callback_waits_for_the_clock_and_one_that_never_comes_for_ever() -> None:
    async with (
        Sandbox(clock=Clock(ticking=False), callback_delay=5) as sandbox,
        http_client_of(sandbox) as http_client,
        receiver() as (url, heads),
    ):
        late, never, slow = (
            sandbox.number(f"{name}") for name in ("callback-late", "callback-never", "checking-20-seconds")
        )
        for number in (late, never, slow, sandbox.number("checking-for-ever")):
            await ask(http_client, "gliswadetail", number=number, callback=url)
        assert [(each.number, each.due) for each in sandbox.outstanding][:3] == [(late, 65), (never, None), (slow, 25)]
        assert late not in repr(sandbox.outstanding)
        sandbox.clock.advance(24)
        assert sandbox.bill.charged == 0
        sandbox.clock.advance(1)
        while len(sandbox.callbacks) < 1:
            await asyncio.sleep(0)
        sandbox.clock.advance(40)
        while len(sandbox.callbacks) < 2:
            await asyncio.sleep(0)
        sandbox.clock.advance(1e6)
        assert called(heads) == [said_by_page(slow), said_by_page(late)]
        assert [each.number for each in sandbox.outstanding] == [never, sandbox.number("checking-for-ever")]
        assert sandbox.bill == bill(gliswadetail=(2, 4))
        assert [entry.at for entry in sandbox.bill.entries if entry.by == "callback"] == [25, 65]


async def test_a_callback_is_due_from_when_its_request_is_billed() -> None:
    """Whoever sees that on the bill and moves the clock on is not too early."""
    async with (
        Sandbox(clock=Clock(ticking=False)) as sandbox,
        http_client_of(sandbox) as http_client,
        receiver() as (url, _),
    ):
        number = sandbox.number("callback-late")
        asking = asyncio.create_task(ask(http_client, "gliswadetail", number=number, callback=url))
        while not sandbox.bill.free:
            await asyncio.sleep(0)
        sandbox.clock.advance(60)
        await asking
        while not sandbox.callbacks:
            assert not [each for each in sandbox.outstanding if each.due != 60]
            await asyncio.sleep(0)


async def test_a_callback_for_a_stranger_comes_first_and_is_not_charged(
    sandbox: Sandbox, http_client: httpx.AsyncClient
) -> None:
    number = sandbox.number("callback-stranger")
    async with receiver() as (url, heads):
        await ask(http_client, "gliswadetail", number=number, callback=url)
        await settled(sandbox)
    assert called(heads) == [said_by_page(f"{number[:-3]}999"), said_by_page(number)]
    assert sandbox.bill == bill(gliswadetail=(1, 1))


async def test_a_callback_whose_plus_is_not_escaped(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    number = sandbox.number("callback-unescaped")
    async with receiver() as (url, heads):
        await ask(http_client, "gliswadetail", number=number, callback=url)
        await settled(sandbox)
    assert f"?number={number}&" in heads[0]
    assert called(heads) == [said_by_page(f" {number[1:]}")]


async def test_a_callback_that_fails_is_charged_and_not_delivered(
    sandbox: Sandbox, http_client: httpx.AsyncClient
) -> None:
    await ask(http_client, "gliswadetail", number=YES, callback="http://127.0.0.1:1/")
    await settled(sandbox)
    assert sandbox.bill == bill(gliswadetail=(1, 1))
    assert sandbox.bill.delivered == bill(gliswadetail=(0, 1))
