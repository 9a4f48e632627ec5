"""One request and what came of it. Every foreign error is translated here.

No repeats and no money: whether a byte may have left is all that is said of a request that was lost.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import httpx

from aisolution_async import clock
from aisolution_async.errors import AISolutionError
from aisolution_async.values import value_class
from aisolution_async.wire.connection import CERTIFICATE_HINT, connect_remedy, refusal_of
from aisolution_async.wire.form import Form
from aisolution_async.wire.reach import Refused
from aisolution_async.wire.request import Requests
from aisolution_async.wire.transport import Flight, PoolTransport, Response, TooLate, Withdrawn

MAX_ANSWER_BYTES = 1024 * 1024

# From a transport that does not say whether bytes left: these are raised before any byte can have.
_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@value_class
class Lost:
    """No answer, and `text` says why.

    `left`: whether a byte of the request may have left. `timed_out`: whether it took too long, None if the wire is not
    to blame. `refusal`: the error that ends the call at once, None if another attempt may fare better.
    """

    left: bool
    text: str
    timed_out: bool | None = None
    refusal: type[AISolutionError] | None = None


def exchange(  # noqa: PLR0917  # made for each call: to match names takes time
    transport: httpx.AsyncBaseTransport,
    requests: Requests,
    endpoint: str,
    form: Form,
    flight: Flight,
    timeout: Mapping[str, float | None],
) -> Coroutine[Any, Any, Response]:
    """Ask `endpoint` with `form`, once. `flight` has the deadline, and says whether bytes left.

    To be awaited; whatever that raises, `loss_of` says what it means.
    """
    if isinstance(transport, PoolTransport):  # it keeps the deadline itself, at less cost
        return transport.exchange(requests.origin, requests.head(endpoint, form), form, form.length, flight, timeout)
    return _exchange(transport, requests, endpoint, form, flight, timeout)


def loss_of(exc: Exception, flight: Flight, timeout: Mapping[str, float | None], redact: Callable[[str], str]) -> Lost:
    """What became of a request whose exchange raised `exc`: whatever that is, the money question is the same."""
    if isinstance(exc, Refused):
        return Lost(False, str(exc), refusal=exc.error)
    if isinstance(exc, TooLate):
        return Lost(False, _TOO_LATE)
    if isinstance(exc, Withdrawn):
        return Lost(False, _WITHDRAWN)
    left = not isinstance(exc, _NEVER_LEFT) if flight.left is None else flight.left
    text = _explain(exc, timeout, redact, left=left, over=_is_over(flight.deadline))
    return Lost(left, text, isinstance(exc, TimeoutError | httpx.TimeoutException))


async def _exchange(  # noqa: PLR0917  # made for each call: to match names takes time
    transport: httpx.AsyncBaseTransport,
    requests: Requests,
    endpoint: str,
    form: Form,
    flight: Flight,
    timeout: Mapping[str, float | None],
) -> Response:
    """The same over any other transport of httpx's."""
    flight.check(clock.now())
    extensions: dict[str, Any] = {"timeout": timeout, "aisolution.flight": flight}
    if isinstance(transport, httpx.AsyncHTTPTransport):
        flight.left = False
        extensions["trace"] = _watch(flight)
    async with asyncio.timeout_at(flight.deadline):
        return await _respond(transport, requests.make(endpoint, form, extensions))


async def _respond(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> Response:
    response = await transport.handle_async_request(request)
    if response.is_stream_consumed:
        body = response.content
    else:
        try:
            chunks = []
            size = 0
            async for chunk in response.aiter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    break
            body = b"".join(chunks)
        finally:
            await response.aclose()
    if len(body) > MAX_ANSWER_BYTES:
        raise httpx.RemoteProtocolError("the answer is over 1 MiB")
    headers = response.headers.raw
    asked = [value.decode("latin-1") for name, value in headers if name.lower() == b"retry-after"]
    return Response(response.status_code, headers, body, retry_after=asked[0] if asked else None)


def _watch(flight: Flight) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    """A trace for httpx's own transport: it says when the first byte of the request is about to leave."""

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        # A proxy is first asked for a tunnel by a request of its own.
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            if flight.may_leave is not None and not flight.may_leave():
                raise Withdrawn
            flight.left = True

    return trace


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and clock.now() >= deadline


def _explain(
    exc: Exception, timeout: Mapping[str, float | None], redact: Callable[[str], str], *, left: bool, over: bool
) -> str:
    """What went wrong on the wire, in words that hold nothing of the request and nothing the server said."""
    if over and isinstance(exc, TimeoutError | httpx.TimeoutException):
        return "the deadline passed" if left else _TOO_LATE
    for kind, name, what in _TIMEOUTS:
        if isinstance(exc, kind):
            return f"{what} within {timeout.get(name)} s"
    if isinstance(exc, httpx.ConnectError):
        lines = redact(str(exc)).splitlines()
        why = lines[0] if lines else type(exc).__name__
        return f"no connection ({why[:200]}){connect_remedy(why)}"
    if isinstance(exc, httpx.RemoteProtocolError):
        return next((words for words, pattern in _FAULTS if pattern.search(str(exc))), _NO_ANSWER)
    if alert := refusal_of(exc) or refusal_of(exc.__cause__ or exc.__context__):
        return f"the server broke the TLS connection off: {alert}"
    hint = CERTIFICATE_HINT if isinstance(exc, httpx.NetworkError) and str(exc).endswith(CERTIFICATE_HINT) else ""
    return _WORDS.get(type(exc), type(exc).__name__) + hint


_TIMEOUTS = (
    (httpx.PoolTimeout, "pool", "no free connection"),
    (httpx.ConnectTimeout, "connect", "no connection"),
    (httpx.WriteTimeout, "write", "the request could not be written"),
    (httpx.ReadTimeout, "read", "no answer"),
)
_WORDS: Mapping[type[Exception], str] = {
    httpx.ReadError: "the connection broke before the answer was whole",
    httpx.WriteError: "the connection broke while the request was written",
    httpx.DecodingError: "the answer's compression is damaged",
}
_TOO_LATE = "the deadline passed before it could be sent"
_WITHDRAWN = "the ledger took this process for dead before it could be sent"
# By what our pool, and h11 and h2 below httpx's own, say of them. Their words may quote the server.
_FAULTS = (
    ("the server closed the connection without answering", re.compile("without answering|without sending a response")),
    (
        "the server closed the connection before the answer was whole",
        re.compile("closed the connection within|without sending complete"),
    ),
    ("the answer is over 1 MiB, or its head over 64 KiB", re.compile("more than [0-9]+ bytes|over 1 MiB")),
)
_NO_ANSWER = "what the server sent is no HTTP answer"
