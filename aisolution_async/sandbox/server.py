"""The pretended vendor on a socket: HTTP/1.1 on one side, `Vendor.answer` on the other."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import re
import ssl
from collections import Counter, deque
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, cast

from httptools import (
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from aisolution_async.charges import Tally
from aisolution_async.sandbox.vendor import Answer, Callback, Request, Vendor

HOST = "127.0.0.1"
LARGEST_BODY = 8 * 1024 * 1024
LARGEST_HEAD = 64 * 1024
MOST_HEADERS = 100
# Requests of one connection that may wait for their answers before no more are read from it.
_MOST_PIPELINED = 8
_CALLBACKS_AT_ONCE = 64
_LINGER = 2.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback that was made: `http_status` of what the address answered, or `error` why it did not."""

    number: str = field(repr=False)
    url: str = field(repr=False)
    http_status: int | None
    error: str | None


class Sandbox:
    """The vendor, pretended, on a socket of 127.0.0.1, in the running event loop.

    ::

        async with Sandbox() as sandbox:
            async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
                ...
            sandbox.bill  # what the server says it charged

    `port` 0 takes a free one. `token` and `tokens` are all accepted, each with face groups of its own.
    `whatsapp_available` may be changed at any time: False is a vendor whose WhatsApp service is down.
    `callbacks_anywhere` lets callbacks go to addresses other than loopback; each is given `callback_timeout`
    seconds. Raises ValueError for an empty token. What is documented by the vendor and what is assumed of it
    is listed in `aisolution_async.sandbox.vendor`. A sandbox that was closed cannot be started again.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        token: str = "sandbox-token",  # noqa: S107  # opens nothing but this sandbox
        tokens: Iterable[str] = (),
        whatsapp_available: bool = True,
        callbacks_anywhere: bool = False,
        callback_timeout: float = 5.0,
    ) -> None:
        accepted = (token, *tokens)
        if not all(accepted):
            raise ValueError("a token is not empty")
        self.token = token
        """The token that is accepted, or the first of them."""
        self.bill = Tally()
        """What was answered, by endpoint and charge. An answer counts when it is written, and also when the
        client was gone by then: the vendor did the work. Callbacks are no answers and cost nothing more."""
        self.requests: Counter[str] = Counter()
        """Whole requests that came in, by endpoint, whatever was answered."""
        self.callbacks: deque[Delivery] = deque(maxlen=10_000)
        """The latest callbacks, in the order in which they ended."""
        self._port = port
        self._vendor = Vendor(accepted, whatsapp_available=whatsapp_available, callbacks_anywhere=callbacks_anywhere)
        self._callback_timeout = callback_timeout
        self._delivering = asyncio.Semaphore(_CALLBACKS_AT_ONCE)
        self._server: asyncio.Server | None = None
        self._closing = False
        self._closed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        where = "closed" if self._closing else self.url if self._server is not None else "not started"
        return f"<Sandbox {where}>"

    @property
    def port(self) -> int:
        """The port it listens on. Raises RuntimeError before it was started."""
        if self._server is None:
            raise RuntimeError("the sandbox was not started: `async with Sandbox() as sandbox:`")
        return self._port

    @property
    def url(self) -> str:
        """The base URL, as "http://127.0.0.1:PORT". Raises RuntimeError before it was started."""
        return f"http://{HOST}:{self.port}"

    @property
    def whatsapp_available(self) -> bool:
        """Whether gliswadetail has answers; False is a vendor whose WhatsApp service is down."""
        return self._vendor.whatsapp_available

    @whatsapp_available.setter
    def whatsapp_available(self, available: bool) -> None:
        self._vendor.whatsapp_available = available

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken, RuntimeError if started before or without Pillow."""
        if self._server is not None or self._closing:
            raise RuntimeError("a sandbox can be started once")
        if importlib.util.find_spec("PIL") is None:
            raise RuntimeError("the sandbox needs Pillow: pip install 'aisolution-async[cli]'")
        loop = asyncio.get_running_loop()
        # A client may open a thousand connections at once, and a full backlog costs it a second.
        self._server = await loop.create_server(lambda: _Connection(self), HOST, self._port, backlog=2048)
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop: every connection is cut, and every answer and callback under way is dropped, unbilled."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        while self._tasks or self._connections:
            for task in self._tasks:
                task.cancel()
            for connection in self._connections:
                connection.cut()
            await asyncio.wait([*self._tasks, *(connection.lost for connection in self._connections)])
            # A task leaves its set in a callback that the loop has yet to run.
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
        self._closed.set()

    async def serve_forever(self) -> None:
        """Start if need be, serve until cancelled or closed from elsewhere, and close."""
        if self._server is None:
            await self.start()
        try:
            await self._closed.wait()
        finally:
            await self.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # What the connections use.

    def joined(self, connection: _Connection) -> bool:
        """Whether a connection that has just come in is welcome."""
        self._connections.add(connection)
        return not self._closing

    def left(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the sandbox is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def received(self, path: str) -> str | None:
        """Count a request; its endpoint, if it has one."""
        endpoint = self._vendor.endpoint(path)
        if endpoint is not None:
            self.requests[endpoint] += 1
        return endpoint

    async def answer(self, request: Request) -> Answer:
        """What the vendor answers. A bug of ours is HTTP 500, and the loop's exception handler is told."""
        try:
            return await self._vendor.answer(request)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the sandbox failed to answer", "exception": error}
            )
            return Answer(500, b"the sandbox failed\n", endpoint=self._vendor.endpoint(request.path))

    def account(self, answer: Answer) -> None:
        """Put an answer on the bill."""
        if answer.endpoint is not None:
            self.bill.add(answer.endpoint, answer.charge)

    async def deliver(self, callback: Callback) -> None:
        """Make one callback, once, and record what came of it."""
        http_status: int | None = None
        error: str | None = None
        if not callback.addresses:
            error = "not made: only loopback addresses are called back"
            self.callbacks.append(Delivery(callback.number, callback.url, None, error))
            return
        async with self._delivering:
            try:
                async with asyncio.timeout(self._callback_timeout):
                    http_status = await _get(callback)
            except TimeoutError:
                error = "timed out"
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as failure:
                error = type(failure).__name__  # its text may hold the URL
        self.callbacks.append(Delivery(callback.number, callback.url, http_status, error))


@dataclass(slots=True)
class _Turn:
    """A request that waits for its answer, or one whose answer (a refusal) is known already."""

    request: Request | None = None
    refusal: Answer | None = None
    keep_alive: bool = False
    http_1_0: bool = False


class _Connection(asyncio.Protocol):
    """One client: parses what comes in, and answers in the order in which it came."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sandbox = sandbox
        self._parser = HttpRequestParser(self)
        self._turns: deque[_Turn] = deque()
        self._serving = False
        # Nothing more that comes in is a request: it is read and dropped.
        self._deaf = False
        self._lingering: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._messages = 0
        self._begin()

    # From the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if not self._sandbox.joined(self):
            self.cut()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        message = self._messages if self._in_head else None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # raised behind the whole request; on_headers_complete made it the connection's last
        except HttpParserError:
            self._refuse(400, b"not HTTP\n")
        if self._in_head and message == self._messages:
            # One endless header never becomes an event, so what it takes is counted here.
            self._count_head(len(data))
        self._continue()
        if len(self._turns) >= _MOST_PIPELINED:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._deaf = True
        return self._serving  # whoever is done asking may still be listening

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's signature
        self._deaf = True
        self._drained.set()
        if self._lingering is not None:
            self._lingering.cancel()
        self._sandbox.left(self)
        self.lost.set_result(None)

    def cut(self) -> None:
        """Close at once, whatever is unsent."""
        self._transport.abort()

    # From the parser.

    def on_message_begin(self) -> None:
        self._messages += 1
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._count_head(len(name) + len(value))
        match name.lower():
            case b"expect":
                self._expects = value.lower() == b"100-continue"
            case b"content-length" if not self._deaf and int(value) > LARGEST_BODY:
                self._too_large = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._http_1_0 = self._parser.get_http_version() == "1.0"
        # We upgrade to nothing, and what follows a request to upgrade may be in another protocol.
        self._keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        try:
            url = parse_url(bytes(self._target))
            self._path, self._query = url.path.decode("latin-1"), url.query or b""
        except (HttpParserInvalidURLError, AttributeError):  # a host and port alone have no path
            self._refuse(400, b"not a path\n")
        if self._too_large:
            self._refuse_body()

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._expects = False
        self._body += body
        if len(self._body) > LARGEST_BODY:
            self._refuse_body()

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        request = Request(self._parser.get_method().decode(), self._path, self._query, bytes(self._body))
        self._sandbox.received(self._path)
        self._expects = False
        self._take(_Turn(request, None, self._keep_alive, self._http_1_0))

    # Ours.

    def _begin(self) -> None:
        self._in_head = True
        self._head = 0
        self._headers = 0
        self._target = bytearray()
        self._path, self._query = "", b""
        self._body = bytearray()
        self._expects = False
        self._too_large = False
        self._keep_alive = False
        self._http_1_0 = False

    def _count_head(self, size: int) -> None:
        self._head += size
        if self._head > LARGEST_HEAD or self._headers > MOST_HEADERS:
            self._refuse(431, b"too many headers\n")

    def _refuse_body(self) -> None:
        self._refuse(413, b"too large\n", self._path)

    def _refuse(self, http_status: int, why: bytes, path: str = "") -> None:
        if not self._deaf:
            self._take(_Turn(refusal=Answer(http_status, why, endpoint=self._sandbox.received(path))))

    def _take(self, turn: _Turn) -> None:
        self._turns.append(turn)
        self._deaf = not turn.keep_alive
        if not self._serving:
            self._serving = True
            self._sandbox.run(self._serve())

    def _continue(self) -> None:
        # In its turn: a client that pipelines would take it for the beginning of an earlier answer.
        if self._expects and not (self._in_head or self._serving or self._deaf or self._http_1_0):
            self._expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _listen(self) -> None:
        # Asked for first: uvloop raises where asyncio does nothing.
        if not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    async def _serve(self) -> None:
        """Answer what waits. Goes on when the client leaves: the vendor would not notice either."""
        refused = False
        while self._turns:
            turn = self._turns.popleft()
            if turn.request is None:
                assert turn.refusal is not None
                answer, refused = turn.refusal, True
            else:
                answer = await self._sandbox.answer(turn.request)
            await self._drained.wait()
            self._sandbox.account(answer)
            self._put(answer, turn)
            if answer.callback is not None:
                self._sandbox.run(self._sandbox.deliver(answer.callback))
        self._serving = False
        if self._deaf:
            self._finish(linger=refused)
        else:
            self._listen()
            self._continue()

    def _put(self, answer: Answer, turn: _Turn) -> None:
        if self._transport.is_closing():
            return
        head = [
            f"HTTP/1.1 {answer.http_status} {HTTPStatus(answer.http_status).phrase}",
            f"content-type: {answer.content_type}",
            f"content-length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        if not turn.keep_alive:
            head.append("connection: close")
        elif turn.http_1_0:
            head.append("connection: keep-alive")
        body = b"" if turn.request is not None and turn.request.method == "HEAD" else answer.body
        self._transport.write("\r\n".join((*head, "\r\n")).encode("latin-1") + body)

    def _finish(self, *, linger: bool) -> None:
        if not linger or self._transport.is_closing():
            self._transport.close()
            return
        # Closing on a client that is still sending resets the connection, and the refusal is lost with it.
        self._transport.write_eof()
        self._listen()
        self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)


async def _get(callback: Callback) -> int:
    """GET, without following redirects; the HTTP status. Raises OSError, EOFError or ValueError."""
    reader, writer = await _connect(callback)
    try:
        writer.write(f"GET {callback.target} HTTP/1.1\r\nhost: {callback.host}\r\nconnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    found = re.match(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b", head)
    if found is None:
        raise ValueError("not HTTP")
    return int(found[1])


async def _connect(callback: Callback) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # The certificate must name the host of the URL, which is not the address where that is "localhost".
    tls, name = (_tls(), callback.name) if callback.tls else (None, None)
    *others, last = callback.addresses
    for address in others:
        with suppress(ConnectionRefusedError):
            return await asyncio.open_connection(address, callback.port, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(last, callback.port, ssl=tls, server_hostname=name)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
