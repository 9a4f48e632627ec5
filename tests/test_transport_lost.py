"""The pool of connections: what is learned from requests that were lost."""

from __future__ import annotations

import asyncio
import math

import httpx
import pytest

from aisolution_async.wire.reuse import Reuse

from .wires import NO_FUTURE, OK, Peer, Pool, Server, ask, virtually

pytestmark = pytest.mark.usefixtures("restless")


@virtually
async def test_a_server_that_closes_early_is_learned_and_forgotten() -> None:
    hasty = True

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        while True:
            await peer.request()
            if hasty:
                return
            await peer.send(OK)

    async def lost(idle: float) -> bool:
        await asyncio.sleep(idle)
        try:
            await ask(transport, server)
        except httpx.RemoteProtocolError:
            return True
        return False

    async with Server(script) as server, Pool() as transport:
        assert not await lost(0)
        assert await lost(2.0)
        assert not await lost(0)  # a connection of its own
        assert await lost(0.8)  # half of two seconds is one
        assert not await lost(0)
        assert not await lost(0.5)  # longer than four tenths
        assert await lost(0.0)  # then not at all
        for _ in range(100):
            assert not await lost(0.0)
        assert len(server.peers) == 104
        hasty = False
        # It comes back, at any pace.
        for _ in range(40):
            assert not await lost(3.5)
        made = len(server.peers)
        for _ in range(20):
            assert not await lost(3.5)
            assert not await lost(0.0)
        assert len(server.peers) == made


@pytest.mark.no_cover
@virtually
async def test_a_server_that_never_keeps_connections_costs_a_request_a_trial() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    failures = 0
    async with Server(script) as server, Pool(max_connections=5) as transport:
        for _ in range(200):
            for outcome in await asyncio.gather(*[ask(transport, server) for _ in range(6)], return_exceptions=True):
                failures += isinstance(outcome, httpx.RemoteProtocolError)
            await asyncio.sleep(1.0)
        assert failures <= 5 + 6  # those under way at first, and a trial after each rest, which doubles


@pytest.mark.parametrize("how", ["timeout", "partial", "fresh"])
@virtually
async def test_other_losses_teach_nothing(how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if how == "fresh" and peer.number == 1:
            return
        await peer.send(OK)
        await peer.request()
        if how == "partial" and peer.number == 0:
            await peer.send(OK[:5])
        elif how == "timeout" and peer.number == 0:
            await peer.reader.read()
        elif how == "fresh" and peer.number == 0:
            await peer.send(NO_FUTURE)
        else:
            while True:
                await peer.send(OK)
                await peer.request()

    async with Server(script) as server, Pool() as transport:
        await ask(transport, server)
        if how == "fresh":
            await ask(transport, server)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadTimeout)):
            await ask(transport, server, read=3.0)
        made = len(server.peers)
        for _ in range(5):
            await ask(transport, server)
            await asyncio.sleep(0.1)
        assert len(server.peers) == made + 1


def test_how_reuse_comes_back() -> None:
    reuse = Reuse(4.0)
    assert reuse.longest(0.0) == math.inf
    reuse.lost(1.0, 100.0, trial=False)
    reuse.lost(3.0, 100.0, trial=False)
    assert reuse.limit == reuse.longest(109.9) == 0.5
    assert reuse.longest(110.0) == 1.0
    assert reuse.longest(120.0) == 2.0
    reuse.tried(110.0)
    assert reuse.longest(110.1) == 0.5  # one at a time
    reuse.lost(0.4, 110.2, trial=False)
    reuse.answered(0.9, 110.5)  # it says nothing of what was lost since
    assert reuse.limit == 0.2
    reuse.tried(130.0)
    reuse.answered(0.3, 130.1)
    assert reuse.limit == 0.6
    reuse.tried(130.2)
    reuse.lost(0.7, 130.3, trial=True)
    assert reuse.limit == 0.35
    assert reuse.longest(150.2) == 0.35  # a trial that failed makes the rest longer
    assert reuse.longest(150.4) > 0.6
    reuse.tried(151.0)
    reuse.answered(2.0, 151.0)
    assert reuse.limit == math.inf
    reuse.lost(0.001, 200.0, trial=False)
    assert reuse.limit == 0.0
    assert reuse.longest(10.0**9) < math.inf
    reuse.distrust()
    reuse.answered(0.0, 10.0**9)
    reuse.lost(1.0, 10.0**9, trial=True)
    assert reuse.longest(10.0**9) == 0.0
