"""The pool of connections: some rest before they serve again."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from .wires import Peer, Pool, Server, ask, everywhere, turns, virtually


@pytest.mark.parametrize("delay", [0.0005, 0.001, 0.004])
@virtually
async def test_a_server_one_answer_behind_is_found_as_its_connection_rests(delay: float) -> None:
    async def script(peer: Peer) -> None:
        for answers in itertools.count(1):
            path = await peer.request()
            await asyncio.sleep(0.005)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path)
            await peer.send(answer)
            if answers % 10 == 0:  # the next request is here by then
                await asyncio.sleep(delay)
                await peer.send(answer)

    async with Server(script) as server, Pool(max_connections=3) as transport:
        paths = [f"/{n}" for n in range(100)]
        wrong = sum([(await ask(transport, server, path)).text != path for path in paths])
        assert 0 < wrong < 10
        assert [reuse.distrusted for reuse in transport.reuse.values()] == [True]


@pytest.mark.parametrize("connections", [1, 2])
@everywhere
async def test_calls_wait_for_a_connection_that_rests(connections: int) -> None:
    async with Server() as server, Pool(max_connections=connections) as transport:
        paths = [f"/{n}" for n in range(40)]
        answers = await asyncio.gather(*[ask(transport, server, path, pool=20.0) for path in paths])
        assert [answer.text for answer in answers] == paths
        assert len(server.peers) == connections
        for path in paths:
            assert (await ask(transport, server, path, pool=20.0)).text == path
        assert len(server.peers) == connections


@virtually
async def test_a_call_does_not_wait_where_another_connection_may_be_made_while_one_rests() -> None:
    async with Server() as server, Pool() as transport:
        await ask(transport, server)
        await ask(transport, server)
        assert len(server.peers) == len(transport.resting) == 2
        await asyncio.sleep(0.1)
        assert not transport.resting
        await ask(transport, server)
        assert len(server.peers) == 2
        await asyncio.sleep(3.99)  # the rest counts as idle time
        await server.until(lambda: server.open == 0)


@everywhere
async def test_a_connection_that_rests_ends_as_others_do() -> None:
    for how in ("closed by us", "closed by the server", "distrusted", "cancelled"):
        async with Server() as server:
            transport = Pool(max_connections=1)
            await ask(transport, server)
            (resting,) = transport.resting
            timer = transport.rest_timer
            assert timer is not None
            if how == "closed by the server":
                server.peers[0].writer.close()
            elif how == "distrusted":
                transport.distrust(resting.origin)
            elif how == "cancelled":
                call = asyncio.ensure_future(ask(transport, server))
                await turns(3)
                is_waiting = resting in transport.resting  # on a real clock, the rest may be over by now
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert (await ask(transport, server, "/next")).text == "/next"
                assert len(server.peers) == 1 or not is_waiting
            if how in ("closed by the server", "distrusted"):
                await server.until(lambda: server.open == 0)
                assert (await ask(transport, server, "/next")).text == "/next"
                assert len(server.peers) == 2
            await transport.aclose()
            assert not transport.resting
            assert not transport.slots
            assert timer.cancelled() or timer.when() <= asyncio.get_running_loop().time() + 0.01  # it is over


@virtually
async def test_a_connection_kept_for_less_than_it_rests_is_closed() -> None:
    async with Server() as server, Pool(idle_expiry=0.001) as transport:
        await ask(transport, server)
        await server.until(lambda: server.open == 0)
        assert not transport.resting


@everywhere
async def test_a_fault_as_a_rest_ends_does_not_make_the_others_rest_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

    async with Server() as server, Pool(max_connections=3) as transport:

        def fail(*_: object) -> None:
            monkeypatch.undo()
            raise RuntimeError

        monkeypatch.setattr(transport, "_release", fail)
        await asyncio.gather(*[ask(transport, server) for _ in range(3)])
        for _ in range(10):
            assert (await ask(transport, server, "/next", pool=20.0)).text == "/next"
        assert len(faults) == 1
