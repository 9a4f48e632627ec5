"""A pool of HTTP/1.1 connections behind httpx's transport interface, which says whether any byte of a request left.

That is what money hangs on: no byte left means free, and may be tried again; some byte left and no answer means that
nobody knows. So a request is handed to a socket once, and never again.

    await transport.handle_async_request(request)

    no byte left       ConnectError, ConnectTimeout, PoolTimeout, UnsupportedProtocol, and LocalProtocolError for a head
                       that cannot be sent; also ConnectError where bytes left and the server refused the TLS
                       handshake by an alert: with TLS 1.3 the first request leaves before the alert comes
    some byte left     WriteError, WriteTimeout, ReadError, ReadTimeout, RemoteProtocolError, and LocalProtocolError for
                       a body that is not as long as its Content-Length says

`Flight` says it in every case, cancellation and errors of the caller's own body stream included.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import logging
import math
import os
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import certifi
import httpx

from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import NotPickled
from aisolution_async.names import is_folder
from aisolution_async.values import value_class
from aisolution_async.wire.connection import Connection, decode_body, frame_head
from aisolution_async.wire.dial import AddressInfo, dial
from aisolution_async.wire.form import Form, Parts
from aisolution_async.wire.reach import Refused
from aisolution_async.wire.reuse import Reuse
from aisolution_async.wire.tls import Tls

Origin = tuple[str, str, int]
Headers = list[tuple[bytes, bytes]]

_log = logging.getLogger(__name__)

_PORTS = {"https": 443, "http": 80}
_TICK = 0.05  # seconds that the timer rests at least; what a timeout may come late by in a busy pool
_LENGTHS = frozenset(map(len, ("content-encoding", "keep-alive", "retry-after")))  # of names that mean something here
_LONGEST_REST = 1.0  # seconds; see `_rest_is_due`
_forks = 0  # how many forks this process is away from the one that was started
_GRACE = 0.001  # seconds that a loop's timer may fire early by (uvloop counts in milliseconds)


class Flight:
    """How far one request got; put it in `request.extensions["aisolution.flight"]`.

    `left`: whether any byte of the request was handed to a socket; None where the transport does not say.
    `deadline`: the loop time, in seconds, by which the whole exchange must be over. `may_leave` says whether the first
    byte may still leave, None where nobody has to be asked. `answer` is there if all of it had come as the request was
    cancelled.
    """

    __slots__ = ("answer", "deadline", "left", "may_leave")

    def __init__(self, deadline: float | None = None, may_leave: Callable[[], bool] | None = None) -> None:
        self.left: bool | None = None
        self.answer: Response | None = None
        self.deadline = deadline
        self.may_leave = may_leave

    def check(self, now: float) -> None:
        """Raise where nothing may leave any more."""
        if self.deadline is not None and now >= self.deadline:
            raise TooLate("the deadline passed before anything was sent")
        if self.may_leave is not None and not self.may_leave():
            raise Withdrawn


class TooLate(httpx.PoolTimeout):
    """The deadline passed before anything was sent, and nothing on the wire is to blame."""


class Withdrawn(Exception):  # noqa: N818  # it is an answer, and no fault
    """The leave to send was withdrawn before the first byte left."""


@value_class
class Response:
    """An HTTP answer, its body whole and decoded.

    `early`: it was complete before the request was out, so that it is another request's, or a refusal. `reused`:
    another request was sent on its connection before this one. Both as far as the transport says.
    """

    http_status: int
    headers: Headers
    body: bytes
    early: bool = False
    reused: bool = False
    retry_after: str | None = None
    """The header of that name."""

    def __repr__(self) -> str:
        return f"<Response, HTTP {self.http_status}>"  # not what it says of people


def default_ssl_context() -> ssl.SSLContext:
    """A client's TLS settings: certificates and host names checked, trust as `SSL_CERT_FILE` or `SSL_CERT_DIR` says.

    Otherwise trust is certifi's list: httpx brings it anyhow, it is the same list on every machine, and it needs no
    system store, which slim containers lack. Who needs the system's store passes a truststore context.
    Raises ConfigurationError for a file or folder of the environment's that has no certificates.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := os.environ.get(name):
            return _trusting(name, path)
    return ssl.create_default_context(cafile=certifi.where())


def _trusting(name: str, path: str) -> ssl.SSLContext:
    """What trusts the certificates that the environment names. Raises ConfigurationError where there are none."""
    try:
        if name == "SSL_CERT_FILE":
            context = ssl.create_default_context(cafile=path)
            if not context.cert_store_stats()["x509"]:
                raise OSError(0, "there is no certificate in it")
            return context
        # One folder or several; OpenSSL says nothing of those that are not there.
        places = [Path(part) for part in path.split(os.pathsep) if part]
        if not any(map(is_folder, places)):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder")
        if not any(file for place in places if is_folder(place) for file in place.iterdir()):
            raise OSError(0, "there is no file in it")
        return ssl.create_default_context(capath=path)
    except ssl.SSLError:
        problem = "there is no certificate in it that can be read, in PEM"
    except (OSError, ValueError) as exc:
        problem = getattr(exc, "strerror", None) or type(exc).__name__
    raise ConfigurationError(f"{name} is {path!r}, which cannot be used: {problem}; correct it or unset it")


class PoolTransport(NotPickled, httpx.AsyncBaseTransport):
    """One pool of connections, for one event loop.

    `max_connections`: sockets open at once, over all origins; who comes later waits in line.
    `idle_expiry`: seconds that an idle connection is kept. Short on purpose: a request that meets the server's own
    closing is an unknown charge. A server's `Keep-Alive: timeout=` shortens it further, and so does what was lost: see
    `Reuse`. A connection is looked at before each reuse: one that the server has closed, or with something unread, is
    not used again. Now and then one rests before it is used again, so that an answer too many shows: `_rest_is_due`.
    `max_body`: most bytes of an answer's body, as received and as decoded.
    `ssl_context`: instead of `default_ssl_context()`; it must check certificates and host names. Its ALPN is set.
    `may_dial`: called with a host before it is looked up, and before each request to it, on a connection that is open
    too; what it raises ends the request, of which nothing has left.
    """

    _instead = "it has sockets open. Make one in each process"

    def __init__(
        self,
        *,
        max_connections: int = 100,
        idle_expiry: float = 4.0,
        max_body: int = 1024 * 1024,
        ssl_context: ssl.SSLContext | None = None,
        may_dial: Callable[[str], None] | None = None,
    ) -> None:
        if max_connections < 1 or idle_expiry < 0 or max_body < 0:
            raise ValueError("max_connections must be at least 1, idle_expiry and max_body not negative")
        if ssl_context is not None:
            if not ssl_context.check_hostname or ssl_context.verify_mode is not ssl.CERT_REQUIRED:
                raise ValueError("ssl_context must check certificates and host names")
            ssl_context.set_alpn_protocols(["http/1.1"])
        self._max_connections = max_connections
        self._idle_expiry = idle_expiry
        self._max_body = max_body
        self._ssl_context = ssl_context
        self._may_dial = may_dial or _no_limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._forks = _forks
        self._emptied = asyncio.Event()
        # A slot is a connection, or leave to make one: `_slots` >= len(`_connections`), and nobody waits while there is
        # a slot to take. Whoever frees a slot hands it to the first in line, so that none is lost and none overtakes.
        self._slots = 0
        self._connections: set[Connection] = set()
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._rests: list[tuple[float, int, Connection, float]] = []  # when each ends, and how long it may idle: a heap
        self._resting: set[Connection] = set()
        self._rest_timer: asyncio.TimerHandle | None = None
        self._reuse: dict[Origin, Reuse] = {}
        self._line: OrderedDict[asyncio.Future[Connection | Exception | None], tuple[Origin, float]] = OrderedDict()
        self._shared: dict[object, asyncio.Task[Any]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends `request` once and returns its answer, whole and decoded."""
        extensions = request.extensions
        flight: Flight = extensions.get("aisolution.flight") or Flight()
        flight.left = False
        timeout = extensions.get("timeout") or {}
        origin = origin_of(request.url)
        headless = request.method == "HEAD"
        body = _Body(*frame_head(request), request.stream)
        # Many tools log the locals of a traceback, and this one's repr shows the URL, token and all.
        del request
        found = await self._exchange(origin, body, flight, timeout, headless=headless)
        content = found.body
        response = httpx.Response(found.http_status, headers=found.headers, stream=httpx.ByteStream(content))
        # As `Response.read` leaves it, without its 11 us for what is done already, a tenth of a whole call: looking up
        # the codings, undoing them once more, going through the stream.
        response._content = content  # noqa: SLF001  # as httpx itself hands over a body that is read
        response.is_stream_consumed = response.is_closed = True
        return response

    def exchange(  # noqa: PLR0917  # made for each call: to match names takes time
        self,
        origin: Origin,
        head: bytes,
        stream: httpx.SyncByteStream,
        length: int,
        flight: Flight,
        timeout: Mapping[str, float | None],
    ) -> Coroutine[Any, Any, Response]:
        """Sends a request as `handle_async_request` does, without httpx's objects, which cost a third of a small call.

        `head` is the request line and the headers, Content-Length of `length` included, each line ended, without the
        empty line.
        """
        whole = stream.whole() if isinstance(stream, Form) else None
        body = _Body(head, length, False, "", stream) if whole is None else _Whole(head, whole)
        del head, whole  # it holds the token, and tracebacks show locals
        return self._exchange(origin, body, flight, timeout)

    async def _exchange(
        self,
        origin: Origin,
        body: _Body,
        flight: Flight,
        timeout: Mapping[str, float | None],
        headless: bool = False,
    ) -> Response:
        flight.left = False
        loop = asyncio.get_running_loop()
        deadline = math.inf if flight.deadline is None else flight.deadline
        if loop is not self._loop:
            self._bind(loop)
        if self._closed or body.fault or origin[0] not in _PORTS or not origin[1]:
            raise self._refusal(body.fault)
        if body.asynchronous:
            # Before there is a connection, as it may take for ever; other bodies encode only once there is one.
            await body.fetch(deadline, httpx.PoolTimeout)
        now = loop.time()
        conn = self._take_idle(origin, now)
        if conn is None:
            flight.check(now)
            conn = await self._acquire(origin, timeout, deadline)
            now = loop.time()
        try:
            self._may_dial(origin[1])
            if body.more and not body.asynchronous:
                await self._encode(conn, body)
                now = loop.time()
            if now >= deadline or flight.may_leave is not None or self._forks != _forks:
                self._check(flight, now)
            read_timeout = _seconds(timeout.get("read"))
            conn.begin(headless, read_timeout, deadline)
            conn.began, conn.expires = now, min(now + read_timeout, deadline)
            if conn.expires < self._timer_at:
                self._arm(conn.expires)
            flight.left = True
            conn.write(body.take())
            if body.more or conn.paused:
                await self._send_rest(conn, body, _seconds(timeout.get("write")), deadline)
                conn.expires = min(loop.time() + read_timeout, deadline)
                self._arm(conn.expires)
            while not conn.done and conn.error is None:
                await conn.wait()
        except BaseException:
            self._cut_off(conn, flight, not (body.more or conn.paused))
            raise
        return self._finish(conn, flight, not (body.more or conn.paused))

    def distrust(self, origin: Origin) -> bool:
        """Uses no connection to `origin` for a second request any more: its answers may be those of other requests.

        False if it is distrusted already.
        """
        reuse = self._reuse_of(origin)
        if reuse.distrusted:
            return False
        reuse.distrust()
        for conn in [*self._idle.get(origin, ()), *(conn for conn in self._resting if conn.origin == origin)]:
            conn.drop()
        return True

    async def aclose(self) -> None:
        """Closes every connection and returns once their sockets are closed. Calls under way end with an error."""
        self._closed = True
        if self._loop is None:
            return
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the transport belongs to another event loop")
        for waiter in self._line:
            if not waiter.done():
                waiter.set_result(httpx.ConnectError("the transport was closed"))
        self._line.clear()
        for conn in self._connections:
            if conn.connecting is None:
                conn.fail((httpx.WriteError if conn.writing else httpx.ReadError)("the transport was closed"))
            elif not conn.connecting.expired():
                conn.connecting.reschedule(0)  # ends the attempt as its timeout would
        for task in self._shared.values():
            task.cancel()
        for timer in filter(None, (self._timer, self._rest_timer)):
            timer.cancel()
        self._rests.clear()  # its connections hold the pool
        while self._connections:
            await self._emptied.wait()
        # A connection given up before its protocol saw it has nobody to report its end; the loops need two turns.
        for _ in range(4):
            await asyncio.sleep(0)

    # One exchange.

    def _refusal(self, fault: str) -> Exception:
        """Why a request is not even tried; `fault` is what is wrong with its head."""
        if self._closed:
            return RuntimeError("the transport is closed")
        if fault:
            return httpx.LocalProtocolError(fault)
        return httpx.UnsupportedProtocol("only https:// and http:// with a host")

    def _check(self, flight: Flight, now: float) -> None:
        """Raise where nothing may leave any more."""
        if self._forks != _forks:  # the other process goes on with what is under way, and with the connections
            raise Refused("this process is a fork of the client's: make a client in each process", ConfigurationError)
        flight.check(now)

    async def _encode(self, conn: Connection, body: _Body) -> None:
        """Makes the first piece of a body. On a connection that is new, something may have come meanwhile."""
        body.encode()
        if not conn.requests:
            await conn.settle()
            if not conn.usable():
                raise _unusable(conn)

    async def _send_rest(self, conn: Connection, body: _Body, write_timeout: float, deadline: float) -> None:
        """Sends piece after piece, each when the one before it has left our memory, until the answer forbids more."""
        assert self._loop is not None
        conn.writing = True
        while True:
            conn.expires = min(self._loop.time() + write_timeout, deadline)
            self._arm(conn.expires)
            while conn.paused and not conn.settled:
                await conn.wait()
            if not body.more:
                break
            # One turn of the loop, so that an answer or an end that has come is read before the next piece is sent.
            await asyncio.sleep(0)
            if conn.settled:
                break
            if body.asynchronous:
                conn.expires = deadline
                await body.fetch(deadline, httpx.WriteTimeout)
            else:
                body.encode()
            if not conn.settled:
                conn.write(body.take())
        conn.writing = False

    def _cut_off(self, conn: Connection, flight: Flight, whole: bool) -> None:
        """The request was cancelled, or the caller's body raised. What left cannot be called back."""
        if not flight.left:
            self._release(conn)
        elif conn.done and conn.error is None:  # its answer came in this turn, too, and is paid for
            with contextlib.suppress(httpx.HTTPError):
                flight.answer = self._finish(conn, flight, whole)
        else:
            conn.drop()

    def _finish(self, conn: Connection, flight: Flight, whole: bool) -> Response:
        """Parts from the connection, and gives what it read, or raises its error."""
        assert self._loop is not None
        reused = conn.requests > 1
        if conn.error is not None:
            flight.left = not conn.refused
            if conn.unheard and reused:
                conn.reuse.lost(conn.idled, self._loop.time(), trial=conn.trial)
            conn.drop()
            raise conn.take_error() from None
        conn.idle_since = now = self._loop.time()
        if conn.trial:
            conn.reuse.answered(conn.idled, now)
        status, headers, pieces = conn.status, conn.headers, conn.body
        codings = []
        retry_after = None
        keep = self._idle_expiry
        for name, value in headers:
            if len(name) in _LENGTHS:
                match name.lower():
                    case b"content-encoding":
                        codings.append(value)
                    case b"keep-alive":
                        keep = min(keep, _promised(value))
                    case b"retry-after":
                        retry_after = retry_after or value.decode("latin-1")
        if not (conn.reusable and whole):
            conn.drop()
        elif _rest_is_due(conn.requests):
            self._let_rest(conn, keep, now)
        else:
            self._release(conn, keep)
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if codings and content:
            content = decode_body(content, codings, self._max_body)
        return Response(status, headers, content, not whole, reused, retry_after)

    # The pool.

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            raise RuntimeError("the transport belongs to another event loop")
        self._loop = loop

    def _take_idle(self, origin: Origin, now: float) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            conn, _ = idle.popitem()
            if conn.idle_until <= now:
                conn.drop()
            elif self._take_again(conn, now):
                return conn
        return None

    def _take_again(self, conn: Connection, now: float) -> bool:
        """Whether another request may be sent on `conn`. If not, it is closed, or about to be."""
        idled = now - conn.idle_since
        reuse = conn.reuse
        conn.trial = idled >= reuse.limit
        if not conn.usable() or (conn.trial and idled >= reuse.longest(now)):
            conn.drop()
            return False
        if not conn.is_quiet():
            # Only the loop can tell, with its next look at the socket, whether these are the server's end or bytes
            # that nobody asked for. It gets the time to do so, and the connection nothing more to do.
            conn.idle_until = now + _TICK
            self._arm(conn.idle_until)
            return False
        if conn.trial:
            reuse.tried(now)
        conn.idled = idled
        conn.idle_until = math.inf
        return True

    def _reuse_of(self, origin: Origin) -> Reuse:
        reuse = self._reuse.get(origin)
        if reuse is None:
            reuse = self._reuse[origin] = Reuse(self._idle_expiry)
        return reuse

    async def _acquire(self, origin: Origin, timeout: Mapping[str, float | None], deadline: float) -> Connection:
        assert self._loop is not None
        expires = min(self._loop.time() + _seconds(timeout.get("pool")), deadline)
        served: Connection | Exception | None = None
        while True:
            if self._closed:
                raise httpx.ConnectError("the transport was closed")
            conn = self._take_idle(origin, self._loop.time())
            if conn is not None:
                return conn
            if self._slots < self._max_connections:
                self._slots += 1
                break
            self._make_room()
            waiter = self._loop.create_future()
            self._line[waiter] = (origin, expires)
            if served is not None:  # a connection that died on its way here: this call's turn had come
                self._line.move_to_end(waiter, last=False)
            self._arm(expires)
            try:
                served = await waiter
            except asyncio.CancelledError:
                self._line.pop(waiter, None)
                if not waiter.cancelled():
                    self._pass_on(waiter.result())
                raise
            if isinstance(served, Exception):
                raise served from None
            # Here, and not as it was handed over: the server may have closed it since.
            if served is not None and self._take_again(served, self._loop.time()):
                return served
            if served is None:
                break
        return await self._connect(origin, _seconds(timeout.get("connect")), deadline)

    def _release(self, conn: Connection, keep: float | None = None) -> None:
        """Gives a connection that is fit for another exchange to the first in line, or lets it idle."""
        assert self._loop is not None
        conn.end()
        keep = self._idle_expiry if keep is None else keep
        if conn.reuse.limit != math.inf:
            keep = min(keep, conn.reuse.longest(self._loop.time()))
        if keep <= 0 or conn.lost:
            conn.drop()
        elif not self._line or (waiter := self._first_in_line()) is None:
            conn.idle_until = until = conn.idle_since + keep
            idle = self._idle.get(conn.origin)
            if idle is None:
                idle = self._idle[conn.origin] = {}
            idle[conn] = None
            if until < self._timer_at:
                self._arm(until)
        elif self._line[waiter][0] == conn.origin:
            del self._line[waiter]
            waiter.set_result(conn)
        else:
            conn.drop()  # its slot goes to the first in line, who wants another origin

    def _let_rest(self, conn: Connection, keep: float, now: float) -> None:
        """Leaves a connection with nothing to do for as long as an answer too many would take to come."""
        assert self._loop is not None
        conn.end()
        rest = min(2 * (now - conn.began) + 0.002, _LONGEST_REST)
        if conn.reuse.limit != math.inf:
            keep = min(keep, conn.reuse.longest(now + rest))
        if rest >= keep or conn.lost:
            conn.drop()
            return
        self._resting.add(conn)
        heapq.heappush(self._rests, (now + rest, id(conn), conn, keep))
        if self._rest_timer is None or self._rests[0][2] is conn:
            self._await_rests()

    def _await_rests(self) -> None:
        """Looks again when the first of the rests ends. One timer for all: a loop's own, each by itself, cost more."""
        assert self._loop is not None
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        self._rest_timer = self._loop.call_at(self._rests[0][0], self._end_rests) if self._rests else None

    def _end_rests(self) -> None:
        assert self._loop is not None
        self._rest_timer = None
        now = self._loop.time() + _GRACE
        try:
            while self._rests and self._rests[0][0] <= now:
                _, _, conn, keep = heapq.heappop(self._rests)
                if conn not in self._resting:  # it is closed
                    continue
                self._resting.remove(conn)
                if conn.idle_since + keep <= now:
                    conn.drop()
                else:
                    # What came while the loop was busy is still to be read: it is seen as a call takes the connection.
                    self._release(conn, keep)
        finally:  # also where Ctrl-C comes meanwhile: the others are not to rest for ever
            self._await_rests()

    def _pass_on(self, served: Connection | Exception | None) -> None:
        """Hands on what a call was served with as it was cancelled."""
        if served is None:
            self._free_slot()
        elif isinstance(served, Connection):
            self._release(served)

    def _free_slot(self) -> None:
        waiter = self._first_in_line()
        if waiter is None:
            self._slots -= 1
        else:
            del self._line[waiter]
            waiter.set_result(None)

    def _first_in_line(self) -> asyncio.Future[Connection | Exception | None] | None:
        while self._line:
            waiter = next(iter(self._line))
            if not waiter.done():
                return waiter
            del self._line[waiter]  # cancelled; its call has not run since
        return None

    def _make_room(self) -> None:
        """Closes an idle connection, necessarily to another origin: the line wants its slot."""
        for idle in self._idle.values():
            for conn in idle:
                del idle[conn]
                conn.drop()
                return

    def _on_strange(self, origin: Origin) -> None:
        if self.distrust(origin):
            where = f"{origin[1]}:{origin[2]}"
            text = "%s sent bytes that nobody asked for: each request to it gets a connection of its own from now on"
            _log.error(text, where, extra={"origin": where})

    def _gone(self, conn: Connection) -> None:
        if conn in self._connections:
            self._connections.discard(conn)
            self._idle.get(conn.origin, {}).pop(conn, None)
            self._resting.discard(conn)
            self._free_slot()
            if not self._connections:
                self._emptied.set()

    # Connecting.

    async def _connect(self, origin: Origin, timeout: float, deadline: float) -> Connection:
        """Makes a connection for a slot already taken."""
        assert self._loop is not None
        if self._closed:
            self._slots -= 1
            raise httpx.ConnectError("the transport was closed")
        conn = Connection(
            origin,
            self._reuse_of(origin),
            loop=self._loop,
            max_body=self._max_body,
            gone=self._gone,
            strange=self._on_strange,
        )
        self._connections.add(conn)
        self._emptied.clear()
        until = min(self._loop.time() + timeout, deadline)
        conn.connecting = asyncio.timeout_at(None if until == math.inf else until)
        reason, is_made = "", False
        try:
            async with conn.connecting:
                await self._open(conn)
                await conn.settle()
                is_made = True  # else uvloop may have closed it without a word: it would look usable
        except (OSError, ValueError) as exc:  # ValueError: a host name that cannot be encoded
            if not conn.connecting.expired():
                reason = str(exc) or type(exc).__name__
        except BaseException:
            self._give_up(conn)
            raise
        if is_made and conn.usable() and not self._closed:
            conn.connecting = None
            conn.idle_since = self._loop.time()
            return conn
        expired = conn.connecting.expired()
        self._give_up(conn)
        if self._closed:
            raise httpx.ConnectError("the transport was closed")
        if expired:
            raise httpx.ConnectTimeout(f"timed out connecting to {origin[1]}:{origin[2]}")
        raise _unusable(conn, reason)

    def _give_up(self, conn: Connection) -> None:
        # uvloop does not report the end of a connection whose making was cancelled, so this does not wait for it.
        conn.connecting = None
        conn.drop()
        self._gone(conn)

    async def _open(self, conn: Connection) -> None:
        loop = asyncio.get_running_loop()
        scheme, host, port = conn.origin
        self._may_dial(host)
        context = None
        if scheme == "https":
            if self._ssl_context is None:
                await self._share("ssl", self._load_ssl_context)
            context = self._ssl_context
        layer = None if context is None else Tls(conn, context, host)
        sock = await dial(loop, await self._addresses(host, port))
        conn.fd = sock.fileno()
        if layer is None:
            conn.sock = sock
        else:
            layer.sock = sock
        try:
            await loop.create_connection(lambda: layer or conn, sock=sock)
            if layer is not None:
                await layer.made()
        except BaseException:
            if layer is not None:
                layer.abort()
            if type(loop).__module__.startswith("uvloop"):
                # libuv closes the descriptor; before 0.23 uvloop did not tell the socket object, which then closed
                # whatever had the same number by then (uvloop#738). No version tells it of what `connection_made`
                # closed, as a handshake does that cannot even start.
                sock.detach()
            raise

    async def _load_ssl_context(self) -> None:
        # Reading a hundred and forty certificates takes some 20 ms: too long to hold up a loop.
        context = await asyncio.get_running_loop().run_in_executor(None, default_ssl_context)
        context.set_alpn_protocols(["http/1.1"])
        self._ssl_context = context

    async def _addresses(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Where `host` is. A thousand calls that start at once ask once."""
        try:
            # An address needs no asking, and this call then does not block.
            return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        loop = asyncio.get_running_loop()
        found: Sequence[AddressInfo] = await self._share(
            (host, port),
            lambda: loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP),
        )
        return found

    async def _share(self, key: object, start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The outcome of `start()`, run once for all who want it at the same time, whoever of them is cancelled."""
        task = self._shared.get(key)
        if task is None:
            task = self._shared[key] = asyncio.get_running_loop().create_task(start())
            task.add_done_callback(lambda _: self._shared.pop(key))
        return await asyncio.shield(task)

    # Time.

    def _arm(self, at: float) -> None:
        """Sees to it that the timer fires at `at` or before.

        One timer for all, set to the earliest end that it found when it last looked. Ends mostly move away before it
        fires, so under load it fires once a timeout, not once a call.
        """
        if at < self._timer_at:
            assert self._loop is not None
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        assert self._loop is not None
        now = self._loop.time() + _GRACE
        self._timer = None
        self._timer_at = nearest = math.inf
        for conn in self._connections:
            at = conn.expires if conn.busy else conn.idle_until
            if at > now:
                nearest = min(nearest, at)
            elif conn.busy:
                conn.expire(now)
            else:
                conn.drop()
        for waiter, (_, at) in list(self._line.items()):
            if at > now:
                nearest = min(nearest, at)
            elif not waiter.done():
                del self._line[waiter]
                waiter.set_result(httpx.PoolTimeout("timed out waiting for a free connection"))
        self._arm(max(nearest, now + _TICK))


class _Body:
    """A request as it goes out: the head and the first piece of the body, then piece after piece, framed."""

    __slots__ = ("_chunked", "_later", "_pending", "_pieces", "_remaining", "asynchronous", "fault", "more")

    def __init__(
        self,
        head: bytes,
        length: int | None,
        chunked: bool,
        fault: str,
        stream: httpx.SyncByteStream | httpx.AsyncByteStream,
    ) -> None:
        self._pending, self._remaining, self._chunked = head, length, chunked
        self.fault = fault
        """Why the head would be read as something else than was meant; empty if it would not."""
        self.more = True
        self.asynchronous = not isinstance(stream, httpx.SyncByteStream)
        if isinstance(stream, httpx.SyncByteStream):
            self._pieces: Iterator[bytes] = filter(None, stream)
        else:
            self._later = (piece async for piece in stream if piece)

    def encode(self) -> None:
        """Makes the next piece of the caller's synchronous stream."""
        self._frame(next(self._pieces, b""))

    async def fetch(self, deadline: float, expired: type[httpx.TimeoutException]) -> None:
        """Awaits the next piece of the caller's asynchronous stream."""
        timeout = asyncio.timeout_at(None if deadline == math.inf else deadline)
        try:
            async with timeout:
                self._frame(await anext(self._later, b""))
                return
        except TimeoutError:
            if not timeout.expired():
                raise
        raise expired("the deadline passed waiting for the request's own body")

    def take(self) -> bytes:
        """The bytes that are ready to be sent, which are not kept here."""
        data, self._pending = self._pending, b""
        return data

    def _frame(self, piece: bytes) -> None:
        head = self._pending
        if head and piece and self._remaining is None and not self._chunked:
            self._chunked = True
            head += b"Transfer-Encoding: chunked\r\n"
        if self._chunked:
            self.more = bool(piece)
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)  # without a piece, the end of the body
        else:
            remaining = (self._remaining or 0) - len(piece)
            if remaining < 0 or (remaining and not piece):
                del head, piece  # which a traceback would show
                raise httpx.LocalProtocolError("the body is not as long as its Content-Length says")
            self._remaining = remaining
            self.more = remaining > 0
        self._pending = b"".join((head, b"\r\n", piece)) if head else piece


class _Whole(_Body):
    """A request of a head that is right and a body in one piece, made in a third of the time."""

    __slots__ = ()

    def __init__(self, head: bytes, parts: Parts) -> None:
        self._pending = b"".join((head, b"\r\n", *parts))
        self.fault, self.asynchronous, self.more = "", False, False


def _no_limit(host: str) -> None:
    """Lets every host be dialled."""


def _unusable(conn: Connection, reason: str = "") -> httpx.ConnectError:
    """Why nothing can be asked on a connection that is new."""
    where = f"{conn.origin[1]}:{conn.origin[2]}"
    if conn.alert:
        return httpx.ConnectError(f"{where} refused the TLS handshake: {conn.alert}")
    if conn.intruded:
        reason = reason or "it sent something before it was asked anything"
    return httpx.ConnectError(f"cannot connect to {where}: {reason or 'closed at once'}")


def _rest_is_due(uses: int) -> bool:
    """Whether a connection rests after so many uses: after the first, the second, the fourth, and every eighth.

    A server that sent one answer too many after the next request had left is one answer behind from then on: each
    request is answered with what the one before it asked, and nothing shows, as no byte ever comes unasked. While the
    connection rests, the answer that is still owed comes when nobody waits for it. Two requests are under way then, so
    that it takes no more than twice as long as the last one.
    """
    return not uses & 7 or uses in (1, 2, 4)


def origin_of(url: httpx.URL) -> Origin:
    """Scheme, host and port: what connections are kept by."""
    return (url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme, 0))


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else timeout


def _promised(keep_alive: bytes) -> float:
    """How long a server's `Keep-Alive: timeout=N` lets a connection idle, less a margin for bytes under way."""
    found = re.search(rb"timeout\s*=\s*(\d{1,9})", keep_alive, re.IGNORECASE)
    return max(int(found[1]) - 1, int(found[1]) / 2) if found else math.inf


def _forked() -> None:
    global _forks  # noqa: PLW0603  # the one place that knows
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
