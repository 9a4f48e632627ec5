"""From the addresses of a host to one connected socket, on any event loop."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from typing import Any

AddressInfo = tuple[int, int, int, str, Any]
"""One entry of `socket.getaddrinfo`."""

_ATTEMPT_DELAY = 0.25  # seconds between attempts at the addresses of one host: RFC 8305, section 5


async def dial(loop: asyncio.AbstractEventLoop, addresses: Sequence[AddressInfo]) -> socket.socket:
    """The first socket to connect to any of `addresses`: Happy Eyeballs, RFC 8305.

    Raises the `OSError` of the last to refuse. Our own, as uvloop's `create_connection` has none, and as the socket is
    wanted anyhow: see `Connection.salvage`.
    """
    if len(addresses) == 1:
        return await _attempt(loop, addresses[0])
    families: dict[int, list[AddressInfo]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    queue = [a for turn in itertools.zip_longest(*families.values()) for a in turn if a is not None]
    attempts: list[asyncio.Task[socket.socket]] = []
    winner: socket.socket | None = None
    failure: BaseException = OSError("no address")
    pending: set[asyncio.Task[socket.socket]] = set()
    try:
        while winner is None and (queue or pending):
            if queue:
                attempts.append(loop.create_task(_attempt(loop, queue.pop(0))))
                pending.add(attempts[-1])
            delay = _ATTEMPT_DELAY if queue else None
            done, pending = await asyncio.wait(pending, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                error = attempt.exception()
                if error is not None:
                    failure = error
                elif winner is None:
                    winner = attempt.result()
    finally:
        for attempt in attempts:
            if not attempt.cancel() and attempt.exception() is None and attempt.result() is not winner:
                attempt.result().close()
    if winner is None:
        raise failure
    return winner


async def _attempt(loop: asyncio.AbstractEventLoop, address: AddressInfo) -> socket.socket:
    family, kind, proto, _, where = address
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
