"""One HTTP/1.1 connection: what the server says, read by httptools into one answer at a time.

A connection is owned by one exchange or by none. Bytes that come while none owns it, or after the answer, mean that the
two sides no longer agree where an answer starts: such a connection answers nobody again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import select
import socket
import ssl
import zlib
from collections.abc import Callable, Iterable
from typing import cast

import httptools
import httpx

from aisolution_async.wire.reuse import Reuse
from aisolution_async.wire.tls import Inner

MAX_HEAD = 64 * 1024
"""Most bytes between two bytes of body: a head with the 1xx answers before it, trailers, chunk extensions."""

MAX_INTERIM = 16
"""Most 1xx answers before the real one."""

_RECEIVE = 64 * 1024

_MOST_TURNS = 100
"""Turns of the loop in which a server may go on sending, before the first request, what is no answer: two are usual."""

# RFC 8446, 6.2: how a server says no to a handshake. By what Python's `SSLError.reason` ends with.
_REFUSALS = {
    "HANDSHAKE_FAILURE": 40,
    "BAD_CERTIFICATE": 42,
    "UNSUPPORTED_CERTIFICATE": 43,
    "CERTIFICATE_REVOKED": 44,
    "CERTIFICATE_EXPIRED": 45,
    "CERTIFICATE_UNKNOWN": 46,
    "ILLEGAL_PARAMETER": 47,
    "UNKNOWN_CA": 48,
    "ACCESS_DENIED": 49,
    "CERTIFICATE_REQUIRED": 116,
}


# How load balancers say that a connection idled for too long, before they close it: no answer to anybody.
_IDLE_TIMEOUT = re.compile(
    rb"HTTP/1\.(?:0 408\b|1 408\b(?=(?:(?!\r?\n\r?\n).)*\r?\nconnection:[ \t]*close\b))(?:(?!HTTP/1\.).)*",
    re.DOTALL | re.IGNORECASE,
)


CERTIFICATE_HINT = "; perhaps the server wants a client certificate"


class _Stop(Exception):  # noqa: N818 - leaves the parser, never this module
    pass


class Connection(Inner):
    """One socket, and the answer being read from it.

    `gone` is called once the socket is closed, `strange` when the server sends what nobody asked for. Between `begin`
    and `end` one exchange owns the connection: it waits with `wait` and then reads `done`, `error`, `status`,
    `headers`, `body` and `reusable`.

    `requests`: how many exchanges it had, this one included; `began`: when this one did; `idled`: seconds that it idled
    before this one. `unheard`: whether the server ended it with no byte of an answer. `refused`: whether the server
    refused the TLS handshake, and `alert` by what. `intruded`: whether it sent bytes that nobody asked for.
    """

    # Of more than thirty attributes, Python finds each by a search; slots it does not search.
    __slots__ = (
        "_gone",
        "_headless",
        "_interim",
        "_look",
        "_loop",
        "_max_body",
        "_parser",
        "_quiet",
        "_size",
        "_skipping",
        "_strange",
        "_transport",
        "_waiter",
        "alert",
        "began",
        "body",
        "busy",
        "connecting",
        "deadline",
        "done",
        "error",
        "expires",
        "fd",
        "headers",
        "idle_since",
        "idle_until",
        "idled",
        "intruded",
        "lost",
        "origin",
        "paused",
        "read_timeout",
        "refused",
        "requests",
        "reusable",
        "reuse",
        "sock",
        "status",
        "trial",
        "unheard",
        "writing",
    )

    def __init__(
        self,
        origin: tuple[str, str, int],
        reuse: Reuse,
        *,
        loop: asyncio.AbstractEventLoop,
        max_body: int,
        gone: Callable[[Connection], None],
        strange: Callable[[tuple[str, str, int]], object],
    ) -> None:
        self.origin = origin
        self.reuse = reuse
        self.connecting: asyncio.Timeout | None = None
        self.sock: socket.socket | None = None
        self.fd = -1
        self.began = self.idle_since = self.idled = 0.0
        self.idle_until = math.inf
        self.requests = 0
        self.trial = False
        self.alert = ""
        self.lost = self.busy = self.paused = self.writing = self.unheard = self.refused = self.intruded = False
        self.done = True
        self.error: httpx.TransportError | None = None
        self.expires = math.inf
        self._gone = gone
        self._strange = strange
        self._loop = loop
        self._max_body = max_body
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._look: Callable[[int], object] | None = None

    # What the pool and the exchange call.

    def usable(self) -> bool:
        """Whether a request may still be handed to the socket. `is_closing` knows of a reset one turn before we do."""
        transport = self._transport
        return not self.lost and transport is not None and not transport.is_closing()

    def is_quiet(self) -> bool:
        """Whether nothing waits to be read: neither the server's end nor bytes that nobody asked for.

        The loop may not have come to reading them yet. For a connection that was just made, see `settle`: under TLS the
        server's session tickets wait to be read there. They come before the first answer, so that a connection which
        was used has none.
        """
        if self._look is None:
            self._look = _watch(self.fd)
        return not self._look(0)

    async def settle(self) -> None:
        """For a connection on which nothing was asked yet: returns when the loop has read all that had come by now.

        That is the server's end, or bytes that nobody asked for, which end the connection too; under TLS, session
        tickets, which do not.
        """
        turns = 0
        while not self.lost and not (self.usable() and self.is_quiet()):
            turns += 1
            if turns > _MOST_TURNS:
                self.drop()
            else:
                await asyncio.sleep(0)

    def begin(self, headless: bool, read_timeout: float, deadline: float) -> None:
        """Takes the connection for one exchange. `headless`: the answer has no body whatever its head says (HEAD)."""
        self.busy = True
        self.requests += 1
        self.done = self.reusable = False
        self.error = None
        self.read_timeout = read_timeout
        self.deadline = deadline
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self._headless = headless
        self._interim = self._quiet = self._size = 0
        self._skipping = False

    def end(self) -> None:
        """Gives the connection up; what comes from now on belongs to nobody."""
        self.busy = self.writing = False
        self._waiter = None

    def write(self, data: bytes) -> None:
        """Hands `data` to the socket."""
        assert self._transport is not None
        self._transport.write(data)

    @property
    def settled(self) -> bool:
        """Whether sending more is pointless: answered, failed, or refused by a head that came before its body.

        RFC 9112, 9.3: who sees an error status while sending should stop at once. To go on invites the reset that
        would destroy the answer.
        """
        return self.done or self.error is not None or self.status >= 400

    def wait(self) -> asyncio.Future[None]:
        """To be awaited: the answer is complete, the exchange has failed, or, while writing, there is room again."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def drop(self) -> None:
        """Closes at once. An exchange that owns the connection must have ended or be ending."""
        self.lost = True
        self.end()
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: httpx.TransportError) -> None:
        """Ends the exchange with `error`, unless it is over, and closes."""
        if not self.done and self.error is None:
            self.error = error
            self._wake()
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """Ends the exchange because its time is up."""
        what = "the deadline passed" if self.deadline <= now else "timed out"
        where = f"{self.origin[1]}:{self.origin[2]}"
        if self.writing:
            self.fail(httpx.WriteTimeout(f"{what} sending to {where}"))
        else:
            self.fail(httpx.ReadTimeout(f"{what} waiting for the answer of {where}"))

    def take_error(self) -> httpx.TransportError:
        """The error to raise. The connection lets go of it, lest the two and the traceback hold each other."""
        assert self.error is not None
        error, self.error = self.error, None
        return error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are not even BaseTransport
        if self.lost:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=0)
        self._parser = httptools.HttpResponseParser(self)
        # `Connection: close` on a 1xx answer must not make the parser refuse the answer that follows. Nothing is
        # parsed as a second answer: `on_message_begin` sees to that.
        self._parser.set_dangerous_leniencies(lenient_keep_alive=True)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.writing:
            self._wake()

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.done or self._parser is None:
            self.reusable = False
            self.intruded = True
            if not self.lost and (self.busy or not _IDLE_TIMEOUT.fullmatch(data)):
                self._strange(self.origin)
            if not self.busy:
                self.drop()
            return
        if self.error is not None:
            return
        self._quiet += len(data)
        fault = ""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            fault = str(exc) or "unreadable"
        if self.done:
            if fault:  # bytes after the answer
                self.reusable = False
                self._strange(self.origin)
        elif fault:
            self._refuse(f"unreadable answer: {fault}")
        elif self._quiet > MAX_HEAD:
            self._refuse(f"more than {MAX_HEAD} bytes of head or trailers")
        elif not self.writing:
            self.expires = min(self._loop.time() + self.read_timeout, self.deadline)

    def part_received(self) -> None:
        """Behind an answer, it may be the start of one too many, of which nothing else shows before the next request.

        Or a session ticket; but those come before the first answer.
        """
        if self.requests and (not self.busy or self.done):
            self.reusable = False
            if not self.busy:
                self.drop()

    def eof_received(self) -> None:
        self.lost = True
        self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if exc is not None and self.sock is not None:  # under TLS it is the layer's
            self.salvage(self.sock, self.data_received)
        self.alert = refusal_of(exc)
        self._finish(exc)
        self._wake()
        self._parser = None  # which holds our methods
        self._gone(self)

    def salvage(self, sock: socket.socket, receive: Callable[[bytes], None]) -> None:
        """Reads what had arrived before a failed send.

        A server that refuses a long request answers, closes, and resets as we go on sending. The loop gives the socket
        up at the failed send, with the answer still unread in it. The end of what is found there says nothing: a socket
        reports its reset once, and from then on an orderly end.
        """
        with contextlib.suppress(OSError):
            while self.busy and not self.done and self.error is None and (data := sock.recv(_RECEIVE)):
                receive(data)

    def _finish(self, exc: Exception | None) -> None:
        """The server's side is over: the answer is complete, or never will be."""
        if not self.busy or self.done or self.error is not None:
            return
        where = f"{self.origin[1]}:{self.origin[2]}"
        self.unheard = not (self.status or self._quiet)
        if self.alert and self.unheard and self.requests == 1:
            self.refused = True
            self.fail(httpx.ConnectError(f"{where} refused the TLS handshake: {self.alert}"))
        elif exc is not None:
            reason = (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
            kind = httpx.WriteError if self.writing else httpx.ReadError
            # A reset that follows an alert at once may destroy it unread.
            tls = self.unheard and self.requests == 1 and self.origin[0] == "https"
            hint = CERTIFICATE_HINT if tls and isinstance(exc, ConnectionError) else ""
            self.fail(kind(f"connection to {where} lost: {reason}{hint}"))
        elif not self.status:
            self._refuse(f"{where} closed the connection without answering")
        elif any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            self._refuse(f"{where} closed the connection within the answer")
        else:
            self.done = True
            self._wake()

    def _refuse(self, why: str) -> None:
        self.fail(httpx.RemoteProtocolError(why))

    # What the parser calls. It swallows what is raised here, so the reason is left in `error` first.

    def on_message_begin(self) -> None:
        if self.done:
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # what comes later are trailers
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        # The count of bytes received includes body that came along; the sum is exact, and dearer.
        if self._quiet > MAX_HEAD and sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD:
            self._reject(f"more than {MAX_HEAD} bytes of head")
        if status < 200:
            self._interim += 1
            if status <= 101 and status != 100:
                self._reject(f"status {status}, which nobody asked for")
            if self._interim > MAX_INTERIM:
                self._reject(f"more than {MAX_INTERIM} interim answers")
            self.headers.clear()
            self._skipping = True
            return
        self.status = status
        if not self._parser.should_keep_alive() and self._parser.get_http_version() not in ("1.1", "1.0"):
            self._reject("an HTTP version that is not 1.0 or 1.1")
        if self._headless:
            self.done = True
            self._wake()
        elif self.writing and status >= 400:
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._quiet = 0
        self._size += len(data)
        if self.done or self._size > self._max_body:
            self._reject(f"a body of more than {self._max_body} bytes")
        self.body.append(data)

    def on_message_complete(self) -> None:
        if self._skipping:
            self._skipping = False
        elif not self.done:
            assert self._parser is not None
            self.done = True
            self.reusable = self._parser.should_keep_alive()
            self._wake()

    def _reject(self, why: str) -> None:
        if not self.done:
            self._refuse(f"the server sent {why}")
        raise _Stop


def _watch(fd: int) -> Callable[[int], object]:
    """A function of milliseconds that says what waits to be read from `fd`: false if nothing does."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return poll.poll
    return lambda milliseconds: select.select([fd], [], [], milliseconds / 1000)[0]


def refusal_of(exc: BaseException | None) -> str:
    """The alert by which a server refused a TLS handshake; empty if it did not.

    With TLS 1.3 a client's handshake is over before the server has looked at the client's certificate, so that the
    alert follows the first request. A server that refused has not read the request.
    """
    if not isinstance(exc, ssl.SSLError):
        return ""
    _, _, name = (exc.reason or "").rpartition("ALERT_")
    if name not in _REFUSALS:
        return ""
    hint = "; it wants a client certificate" if name == "CERTIFICATE_REQUIRED" else ""
    return f"alert {_REFUSALS[name]}, {name.lower()}{hint}"


def connect_remedy(problem: str) -> str:
    """What can be done where no connection was made; empty where `problem` says it, or nothing is known to help."""
    if "CERTIFICATE_VERIFY_FAILED" in problem:
        return _certificate_remedy(problem)
    if "proxy=" in problem:
        return ""
    if _NO_SUCH_NAME.search(problem):
        return ": check base_url and this machine's DNS; where only a proxy leads out, name it in HTTPS_PROXY or proxy="
    if "WRONG_VERSION_NUMBER" in problem:
        return ": what answered is no TLS: check base_url, the port too, and what the name resolves to here"
    return ""


# As Linux, macOS and Windows say it.
_NO_SUCH_NAME = re.compile(
    "Name or service not known|name resolution|nodename nor servname|getaddrinfo failed|No address associated"
)


def _certificate_remedy(problem: str) -> str:
    if "expired" in problem or "not yet valid" in problem:
        return ": check this machine's clock, else the certificate has to be renewed"
    if "ostname mismatch" in problem or "IP address mismatch" in problem:
        return ": the certificate is for another host: check base_url, and what the name resolves to here"
    return (
        ": where the certificate is of your company's own authority, name its file in SSL_CERT_FILE, or pass "
        "ssl_context=ssl.create_default_context(cafile=…), or verify= to a transport of yours"
    )


def frame_head(request: httpx.Request) -> tuple[bytes, int | None, bool, str]:
    """The request line and headers as given, the Content-Length if any, whether the body is chunked, and what is wrong.

    Wrong is a head that would be read as something else than was meant.
    """
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode("ascii", "replace"), request.url.raw_path)]
    length: int | None = None
    chunked = False
    for name, value in request.headers.raw:
        lines.append(b"%b: %b\r\n" % (name, value))
        if len(name) == 14 and name.lower() == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif len(name) == 17 and name.lower() == b"transfer-encoding":
            chunked = True
    head = b"".join(lines)
    fault = ""
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        fault = "a line break within the request's head"
    elif length is not None and (length < 0 or chunked):
        fault = "a Content-Length that is no length, or beside Transfer-Encoding"
    return head, length, chunked, fault


def decode_body(body: bytes, codings: Iterable[bytes], limit: int) -> bytes:
    """`body` with its content codings undone, never more than `limit` bytes of it at any step.

    httpx would undo them too, but without a bound: a few kilobytes can unpack to gigabytes.
    """
    for coding in reversed([c.strip().lower() for value in codings for c in value.split(b",")]):
        if coding in (b"", b"identity"):
            continue
        if coding in (b"gzip", b"x-gzip"):
            bits = 16 + zlib.MAX_WBITS
        elif coding == b"deflate":
            # Zlib as the standard says, or bare deflate as some servers send: zlib's two bytes of head tell.
            wrapped = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
            bits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
        else:
            raise httpx.RemoteProtocolError("a content coding other than gzip and deflate")
        decoder = zlib.decompressobj(bits)
        decoded = None
        with contextlib.suppress(zlib.error):
            decoded = decoder.decompress(body, limit + 1)
        if decoded is not None and len(decoded) > limit:
            raise httpx.RemoteProtocolError(f"the server sent a body of more than {limit} bytes, decoded")
        if decoded is None or not decoder.eof:
            raise httpx.RemoteProtocolError("a compressed body that is damaged or cut short")
        body = decoded
        if not body:
            break
    return body
