"""The vendor's side: answers every call with an OK, and the number it was asked, as cheaply as Python allows.

A process of its own: `python -m benchmarks.server '{"core": 0}'`. It prints its port and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import os
import re
import resource
import ssl
import sys
import threading
import time
from collections import deque
from email.utils import formatdate
from typing import Any, cast

_FACE = b'{"status":"OK","message":{"similarity":97.501,"result":"SAME PERSON"}}'
_WHATSAPP = (
    b'{"status":"OK","message":{"number":"+%b","whatsapp":"yes","status_update":"20240131",'
    b'"signature":"Hey there! I am using WhatsApp.","business_user":"no","avatar":"yes"}}'
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"number=%2B(\d+)", re.IGNORECASE)


_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"X-Request-Id: %016x\r\n\r\n%b"
)
_numbers = itertools.count(0x5EED)
_date = (0, b"")


def _response(body: bytes) -> bytes:
    """With a head that is another one each time, as a real server's is."""
    global _date  # noqa: PLW0603  # of this second
    now = int(time.time())
    if now != _date[0]:
        _date = now, formatdate(now, usegmt=True).encode()
    return _HEAD % (_date[1], len(body), next(_numbers) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF, body)


class Answers:
    """Writes answers, `latency` seconds after they were asked for.

    One timer for all of them: one for each would cost the server more than the rest of the call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, latency: float) -> None:
        self._loop = loop
        self._latency = latency
        self._due: deque[tuple[float, asyncio.Transport, bytes]] = deque()

    def give(self, transport: asyncio.Transport, answer: bytes) -> None:
        if not self._latency:
            transport.write(answer)
            return
        if not self._due:
            self._loop.call_later(self._latency, self._flush)
        self._due.append((self._loop.time() + self._latency, transport, answer))

    def _flush(self) -> None:
        now = self._loop.time() + 0.0005
        while self._due and self._due[0][0] <= now:
            _, transport, answer = self._due.popleft()
            if not transport.is_closing():
                transport.write(answer)
        if self._due:
            self._loop.call_at(self._due[0][0], self._flush)


class Vendor(asyncio.Protocol):
    """One connection: a head with a Content-Length, a body of which only a number is read, an answer."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._head = b""
        self._body: bytes | None = None  # kept where a number is to be read in it
        self._left = 0  # bytes of the body still to come

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if self._body is not None:
                self._body += data
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._head, 0, end)
            if length is None:
                self._transport.abort()  # a chunked body: no peer may send one, and none could be timed by it
                return
            self._body = None if b"/facecompare" in self._head[:40] else self._head[end + 4 :]
            self._left = int(length[1]) - (len(self._head) - end - 4)
            self._head = b""
        if self._left <= 0:
            self._left = 0
            said = _FACE
            if self._body is not None:
                asked = _NUMBER.search(self._body)
                said = _WHATSAPP % (asked[1] if asked else b"0")
            self._answers.give(self._transport, _response(said))


async def serve(options: dict[str, Any]) -> None:
    """Serve until standard input ends, that is until whoever started this is gone."""
    loop = asyncio.get_running_loop()
    context = None
    if options.get("certificate"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["certificate"])
        context.set_alpn_protocols(["http/1.1"])
    answers = Answers(loop, options.get("latency", 0.0))
    server = await loop.create_server(lambda: Vendor(answers), "127.0.0.1", 0, backlog=4096, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await ended.wait()


def settle(core: int | None) -> None:
    """Stay on one core, and allow as many sockets as the system does."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if most != resource.RLIM_INFINITY else 65_536, most))


def loop_factory(module: str) -> Any:
    """What makes event loops of `module` (uvloop, asyncio); of asyncio where it is not installed."""
    try:
        return importlib.import_module(module).new_event_loop
    except ImportError:
        return asyncio.new_event_loop


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    settle(given.get("core"))
    with asyncio.Runner(loop_factory=loop_factory("uvloop")) as runner:
        runner.run(serve(given))
