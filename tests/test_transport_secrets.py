"""The pool of connections: nothing of a request outlives it, or shows."""

from __future__ import annotations

import asyncio
import gc
import sys
import types
import weakref

import httpx
import pytest

from aisolution_async.wire import connection as connection_module
from aisolution_async.wire import dial as dial_module
from aisolution_async.wire import transport as transport_module
from aisolution_async.wire.connection import MAX_HEAD, Connection
from aisolution_async.wire.transport import Flight

from .wires import SECRET, Pool, Server, ask, everywhere, saying, silent, turns

pytestmark = pytest.mark.usefixtures("restless")


@everywhere
async def test_the_flight_says_so_before_the_first_byte_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    flight = Flight()
    said: list[bool | None] = []
    write = Connection.write

    def spy(self: Connection, data: bytes) -> None:
        said.append(flight.left)
        write(self, data)

    monkeypatch.setattr(Connection, "write", spy)
    assert flight.left is None
    async with Server() as server, Pool() as transport:
        await ask(transport, server, flight=flight)
    assert said == [True]


@everywhere
async def test_an_error_does_not_outlive_its_handling() -> None:
    """A cycle would keep the traceback, and the caller's request in it, until the collector comes by."""
    gc.disable()
    try:
        async with Server(saying(b"", "close")) as server, Pool() as transport:
            for where in (server, "http://127.0.0.1:1/"):
                try:
                    await ask(transport, where)
                except httpx.TransportError as error:
                    gone = weakref.ref(error)
                await turns(5)
                assert gone() is None
    finally:
        gc.enable()


@everywhere
async def test_nothing_shows_a_request() -> None:
    async with Server(silent) as server, Pool(max_connections=1) as transport:
        flight = Flight()
        call = asyncio.ensure_future(ask(transport, server, flight=flight, content=SECRET.encode()))
        while not flight.left:
            await asyncio.sleep(0)
        (conn,) = transport.connections
        for thing in (transport, conn, flight):
            assert SECRET not in repr(thing)
        # And the connection holds none of it.
        assert SECRET not in repr([getattr(conn, name, None) for name in conn.__slots__])
        call.cancel()


def test_only_httpx_and_the_standard_library_are_needed() -> None:
    for module in (connection_module, dial_module, transport_module):
        needed = {
            value.__name__.split(".")[0]
            for name, value in vars(module).items()
            if isinstance(value, types.ModuleType) and name[0] != "@"  # pytest's own, for its assertions
        }
        assert needed <= {"httpx", "httptools", "certifi", *sys.stdlib_module_names}
    assert MAX_HEAD == 64 * 1024
