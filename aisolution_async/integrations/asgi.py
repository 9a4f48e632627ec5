"""The receiver of callbacks as a bare ASGI application, and what keeps its addresses out of access logs."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from aisolution_async.errors import AISolutionError
from aisolution_async.inbox import LONGEST_QUERY, Inbox

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger(__name__)
_ACCESS_LOGS = ("uvicorn.access", "aiohttp.access", "hypercorn.access", "gunicorn.access")


def inbox_app(inbox: Inbox) -> InboxApp:
    """The receiver of `inbox`, to be mounted at its address: `app.mount(inbox.path, inbox_app(inbox))`.

    Every GET is answered by an empty HTTP 200, right or wrong, so that a guesser learns nothing ("Callback method").
    An answer that was waited for is recorded by then; where it cannot be, HTTP 503 asks the vendor to call again.
    Other methods are 405, queries over 8 KiB 414.
    """
    hide_from_access_logs(inbox)
    return InboxApp(inbox)


class InboxApp:
    """See `inbox_app`. An object and no function, by which routers know an ASGI application."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        if scope["type"] != "http":
            raise ValueError(
                "callbacks come by HTTP: mount the inbox's receiver as a sub-application, not as the whole"
            )
        status = await answer(self._inbox, scope["method"], scope["path"], scope["query_string"])
        headers = [(b"content-length", b"0")]
        if status == 405:
            headers.append((b"allow", b"GET"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def answer(inbox: Inbox, method: str, path: str, query: bytes) -> int:
    """The HTTP status for one request under an inbox's address; a callback is recorded when this returns 200."""
    if method != "GET":
        return 405
    if len(query) > LONGEST_QUERY:
        return 414
    try:
        # The contract's example has a slash between the address and the query.
        await inbox.receive(path.rstrip("/").rpartition("/")[2], query)
    except AISolutionError as exc:  # the ledger cannot be written, or is not open
        _log.error("a callback could not be recorded, and is refused: %s", exc)
        return 503
    return 200


# ------------------------------------------------------------------------------------------------- access logs


class _Hider(logging.Filter):
    """Cuts what stands below the addresses of inboxes: the part that nobody may guess, numbers, signatures."""

    def __init__(self) -> None:
        super().__init__()
        self._inboxes: WeakSet[Inbox] = WeakSet()
        self._lock = threading.Lock()  # one thread may log while another one makes an inbox

    def add(self, inbox: Inbox) -> None:
        with self._lock:
            self._inboxes.add(inbox)

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            inboxes = list(self._inboxes)
        hidden = _pattern(frozenset(part for inbox in inboxes for part in _parts(inbox)))
        if hidden is not None:
            for name, value in record.__dict__.items():
                if isinstance(value, str | tuple | dict):
                    record.__dict__[name] = _cut(hidden, value)
        return True


_HIDER = _Hider()


def hide_from_access_logs(inbox: Inbox) -> None:
    """Keep what is called below the inbox's address out of the access logs of uvicorn, aiohttp, hypercorn, gunicorn.

    The receivers do this by themselves. A proxy in front, and whatever else logs or traces URLs, has to be told.
    """
    _HIDER.add(inbox)
    for name in _ACCESS_LOGS:
        logging.getLogger(name).addFilter(_HIDER)


def _parts(inbox: Inbox) -> tuple[str, ...]:
    prefix = inbox.path.rstrip("/")
    try:
        # Below another path, where a proxy changes it, it is known by its last part.
        secret = urlsplit(inbox.url).path.rpartition("/")[2]
    except AISolutionError:  # its ledger is not open: nobody knows the part yet
        return (f"{prefix}/",) if prefix else ()
    return (f"{prefix}/", secret) if prefix else (secret,)


@lru_cache(maxsize=8)
def _pattern(parts: frozenset[str]) -> re.Pattern[str] | None:
    if not parts:
        return None
    return re.compile(f'({"|".join(re.escape(part) for part in sorted(parts))})[^\\s"]*')


def _cut(hidden: re.Pattern[str], value: Any) -> Any:
    if isinstance(value, str):
        return hidden.sub(lambda found: found[1] + "…" if found[1].endswith("/") else "…", value)
    if isinstance(value, tuple):
        return tuple(_cut(hidden, part) for part in value)
    if isinstance(value, dict):
        return {name: _cut(hidden, part) for name, part in value.items()}
    return value
