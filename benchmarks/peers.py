"""The peers: for each library what its users write, what an expert in it would, and our own.

Users gather a coroutine for each call behind a semaphore, pass `data=` and leave the timeouts alone. Experts keep
`at_once` workers on one iterator, prepare the body's bytes themselves and set what slows the library down. Both open as
many connections as calls are made at once: with fewer, a peer would be measured at another height than the others.

Every library is imported where it is used: a process that measures one of them holds none of the others.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

Job = tuple[str, ...]
"""A phone number, or the paths of two images."""

Ask = Callable[[Job], Awaitable[Any]]
Run = Callable[[Iterable[Job]], Awaitable[int]]
"""Makes the calls and counts the OKs."""

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TOKEN = "benchmark"  # nobody checks it


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the calls go. `cafile` is what to trust over TLS."""

    base_url: str
    faces: bool
    at_once: int
    cafile: str | None

    @property
    def url(self) -> str:
        return f"{self.base_url}/v1/{'facecompare' if self.faces else 'gliswadetail'}?token={TOKEN}"


Open = Callable[[Setting], AbstractAsyncContextManager[Run]]


@dataclass(frozen=True, slots=True)
class Peer:
    """`package` is what pip installs; `slow` peers are asked less often, `slow_faces` less often for faces.

    `only` is the one case that a peer is for.
    """

    name: str
    package: str
    open: Open
    slow: bool = False
    slow_faces: bool = False
    only: str | None = None


PEERS: dict[str, Peer] = {}


def peer(
    name: str, package: str, *options: Any, fast: bool = False, **flags: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into `PEERS`, the lowest of several first; `options` go to it, after the setting.

    `fast`: over aiofastnet's transports, in place of the event loop's.
    """

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        @asynccontextmanager
        async def opened(setting: Setting) -> AsyncIterator[Run]:
            if fast:
                importlib.import_module("aiofastnet").patch_loop()
            async with asynccontextmanager(function)(setting, *options) as run:
                yield run

        PEERS[name] = Peer(name, package, opened, **flags)
        return function

    return enter


# ----------------------------------------------------------------------------------- what the peers have in common


def fields(job: Job) -> dict[str, str]:
    """The form, as users write it."""
    if len(job) == 1:
        return {"number": job[0]}
    return {f"img{n}": base64.b64encode(Path(path).read_bytes()).decode() for n, path in enumerate(job, 1)}


def body(job: Job) -> bytes:
    """The form's bytes, as an expert writes them: base64 by SIMD, and only what base64 has is escaped."""
    if len(job) == 1:
        return b"number=" + quote_plus(job[0]).encode()
    b64encode = importlib.import_module("pybase64").b64encode
    encoded = [
        b64encode(Path(path).read_bytes()).replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D")
        for path in job
    ]
    return b"img1=%b&img2=%b" % tuple(encoded)


def gathered(ask: Ask, at_once: int) -> Run:
    """A coroutine for each call, behind a semaphore."""
    places = asyncio.Semaphore(at_once)

    async def one(job: Job) -> Any:
        async with places:
            return await ask(job)

    async def run(jobs: Iterable[Job]) -> int:
        answers = await asyncio.gather(*(one(job) for job in jobs))
        return sum(answer["status"] == "OK" for answer in answers)

    return run


def worked(ask: Ask, at_once: int) -> Run:
    """A few workers, which take their calls from one iterator."""

    async def run(jobs: Iterable[Job]) -> int:
        queue = iter(jobs)

        async def work() -> int:
            done = 0
            for job in queue:
                done += (await ask(job))["status"] == "OK"
            return done

        return sum(await asyncio.gather(*(work() for _ in range(at_once))))

    return run


# ----------------------------------------------------------------------------------------------------------- ours


def _calls(setting: Setting, jobs: Iterable[Job]) -> Iterable[Any]:
    ours = importlib.import_module("aisolution_async")
    return ((ours.FaceCompare if setting.faces else ours.WhatsAppDetail)(*job) for job in jobs)


def _client(setting: Setting) -> Any:
    ours = importlib.import_module("aisolution_async")
    return ours.AsyncClient(TOKEN, base_url=setting.base_url, max_connections=setting.at_once)


@peer("ours: batch, aiofastnet", "aiofastnet", fast=True, only="tls")
@peer("ours: batch", "aisolution-async")
async def _batch(setting: Setting) -> AsyncIterator[Run]:
    async with _client(setting) as client:

        async def run(jobs: Iterable[Job]) -> int:
            ok = 0
            async with client.batch(_calls(setting, jobs), concurrency=setting.at_once) as batch:
                async for outcome in batch:
                    ok += outcome.ok
            return ok

        yield run


@peer("ours: send, gathered", "aisolution-async")
async def _send(setting: Setting) -> AsyncIterator[Run]:
    async with _client(setting) as client:

        async def run(jobs: Iterable[Job]) -> int:
            return len(await asyncio.gather(*(client.send(call) for call in _calls(setting, jobs))))

        yield run


# -------------------------------------------------------------------------------------------------------- aiohttp


@peer("aiohttp, data=", "aiohttp", slow_faces=True)
async def _aiohttp_users(setting: Setting) -> AsyncIterator[Run]:
    aiohttp = importlib.import_module("aiohttp")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=setting.at_once)) as session:

        async def ask(job: Job) -> Any:
            async with session.post(setting.url, data=fields(job)) as response:
                return await response.json()

        yield gathered(ask, setting.at_once)


@peer("aiohttp, bytes, gathered", "aiohttp", gathered)
@peer("aiohttp, bytes, aiofastnet", "aiofastnet", worked, fast=True, only="tls")
@peer("aiohttp, bytes", "aiohttp", worked)
async def _aiohttp_experts(setting: Setting, drive: Callable[[Ask, int], Run]) -> AsyncIterator[Run]:
    aiohttp = importlib.import_module("aiohttp")
    url = importlib.import_module("yarl").URL(setting.url, encoded=True)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), headers=FORM
    ) as session:

        async def ask(job: Job) -> Any:
            async with session.post(url, data=body(job)) as response:
                return json.loads(await response.read())

        yield drive(ask, setting.at_once)


# ------------------------------------------------------------------------------------- httpx, and what looks like it


def _limits(module: str, at_once: int, *, expert: bool) -> Any:
    """What the client has without `limits=`, and what users write who need more than its 100 connections.

    Who writes no more than that has lifted the default bound of 20 on idle connections, and pays for it: httpx looks at
    each of them for each request. The expert keeps the bound.
    """
    limits = importlib.import_module("httpx2" if module == "httpx2" else "httpx").Limits
    if expert or at_once <= 100:
        return limits(max_connections=max(at_once, 100), max_keepalive_connections=20)
    return limits(max_connections=at_once)


@peer("httpx-aiohttp, data=", "httpx-aiohttp", "httpx_aiohttp", "HttpxAiohttpClient", slow_faces=True)
@peer("httpx2, data=", "httpx2", "httpx2", "AsyncClient", slow=True)
@peer("httpx, data=", "httpx", "httpx", "AsyncClient", slow=True)
async def _httpx_users(setting: Setting, module: str, client_class: str) -> AsyncIterator[Run]:
    limits = _limits(module, setting.at_once, expert=False)
    async with getattr(importlib.import_module(module), client_class)(limits=limits) as client:

        async def ask(job: Job) -> Any:
            return (await client.post(setting.url, data=fields(job))).json()

        yield gathered(ask, setting.at_once)


@peer("httpx-aiohttp, bytes", "httpx-aiohttp", "httpx_aiohttp", "HttpxAiohttpClient")
@peer("httpx2, bytes", "httpx2", "httpx2", "AsyncClient", slow=True)
@peer("httpx, bytes", "httpx", "httpx", "AsyncClient", slow=True)
async def _httpx_experts(setting: Setting, module: str, client_class: str) -> AsyncIterator[Run]:
    limits = _limits(module, setting.at_once, expert=True)
    async with getattr(importlib.import_module(module), client_class)(limits=limits, timeout=60) as client:

        async def ask(job: Job) -> Any:
            return json.loads((await client.post(setting.url, content=body(job), headers=FORM)).content)

        yield worked(ask, setting.at_once)


@peer("aiometer over httpx, bytes", "aiometer", 60, slow=True)
@peer("aiometer over httpx, data=", "aiometer", None, slow=True)
async def _aiometer(setting: Setting, timeout: float | None) -> AsyncIterator[Run]:
    amap = importlib.import_module("aiometer").amap
    httpx = importlib.import_module("httpx")
    limits = _limits("httpx", setting.at_once, expert=timeout is not None)
    async with httpx.AsyncClient(limits=limits, **({"timeout": timeout} if timeout else {})) as client:

        async def ask(job: Job) -> Any:
            if timeout is None:
                return (await client.post(setting.url, data=fields(job))).json()
            return json.loads((await client.post(setting.url, content=body(job), headers=FORM)).content)

        async def run(jobs: Iterable[Job]) -> int:
            async with amap(ask, list(jobs), max_at_once=setting.at_once) as answers:
                return sum([answer["status"] == "OK" async for answer in answers])

        yield run


# ------------------------------------------------------------------------------------------------ pyqwest, niquests


@peer("pyqwest, bytes", "pyqwest", True)
@peer("pyqwest, urlencode", "pyqwest", False, slow_faces=True)
async def _pyqwest(setting: Setting, expert: bool) -> AsyncIterator[Run]:
    pyqwest = importlib.import_module("pyqwest")
    options: dict[str, Any] = {"enable_otel": False, "pool_max_idle_per_host": setting.at_once} if expert else {}
    if setting.cafile:
        options["tls_ca_cert"] = Path(setting.cafile).read_bytes()
    async with pyqwest.HTTPTransport(**options) as transport:
        client = pyqwest.Client(transport)

        async def ask(job: Job) -> Any:
            content = body(job) if expert else urlencode(fields(job)).encode()
            return (await client.post(setting.url, FORM, content)).json()

        yield (worked if expert else gathered)(ask, setting.at_once)


@peer("niquests, bytes", "niquests", True, slow=True)
@peer("niquests, data=", "niquests", False, slow=True)
async def _niquests(setting: Setting, expert: bool) -> AsyncIterator[Run]:
    niquests = importlib.import_module("niquests")
    async with niquests.AsyncSession(pool_maxsize=setting.at_once) as session:

        async def ask(job: Job) -> Any:
            if expert:
                return json.loads((await session.post(setting.url, data=body(job), headers=FORM)).content)
            return (await session.post(setting.url, data=fields(job))).json()

        yield (worked if expert else gathered)(ask, setting.at_once)
