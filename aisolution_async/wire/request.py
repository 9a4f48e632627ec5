"""The request of an attempt: URL, headers, body. The token is in the URL, so neither shows itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import httpx

from aisolution_async.api import ENDPOINTS, WORDS
from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import HIDDEN, SHORTEST, NotPickled, Redactor, Secret
from aisolution_async.wire.form import CONTENT_TYPE, Form
from aisolution_async.wire.reach import is_loopback
from aisolution_async.wire.transport import origin_of

USER_AGENT = "aisolution-async"

_log = logging.getLogger(__name__)


class _SecretURL(NotPickled, httpx.URL):
    """A URL with the token in it: its repr says the endpoint at most."""

    def __repr__(self) -> str:
        name = self.path.rpartition("/")[2]
        return f"URL('{self.scheme}://…{f'/v1/{name}?token=…' if name in ENDPOINTS else ''}')"


class _SecretRequest(NotPickled, httpx.Request):
    def __repr__(self) -> str:
        return f"<Request({self.method!r}, {self.url!r})>"


class Requests(NotPickled):
    """Makes the requests of one token and base URL; whatever is the same for every call is made once."""

    def __init__(self, base_url: Secret, token: Secret) -> None:
        secret = _quoted(token)
        self.redact = Redactor(token, WORDS).text
        """Takes the token out of text, whoever put it there."""
        base = _base(base_url, token)
        self.address = Secret(
            f"{base.scheme}://{base.netloc.decode('ascii')}{base.raw_path.decode('ascii').rstrip('/')}"
        )
        """The base URL, whose path may hold the token."""
        self.base = _shown(self.address.value, token)
        """The base URL, without anything secret."""
        self.vendor = "loopback" if is_loopback(base.host) else base.host
        """Who is asked: a host, or whatever is on this machine."""
        self._urls = {
            name: _SecretURL(f"{self.address.value}{endpoint.path}?token={secret.value}")
            for name, endpoint in ENDPOINTS.items()
        }
        self.origin = origin_of(base)
        """What the pool keeps connections by."""
        self._headers = [
            (b"Host", base.netloc),
            (b"User-Agent", USER_AGENT.encode()),
            (b"Accept", b"application/json"),
            (b"Content-Type", CONTENT_TYPE.encode()),
        ]
        self.headers_now: Callable[[], Iterable[tuple[bytes, bytes]]] | None = None
        """What headers an attempt has besides: asked for at each one, on the loop, in the context of who asked."""
        lines = b"".join(b"%s: %s\r\n" % header for header in self._headers)
        self._heads = {
            name: b"POST %s HTTP/1.1\r\n%sContent-Length: %%d\r\n" % (url.raw_path.replace(b"%", b"%%"), lines)
            for name, url in self._urls.items()
        }

    def head(self, endpoint: str, form: Form) -> bytes:
        """The request line and headers that ask `endpoint` with `form`: what `make` says, for the pool's short way."""
        head = self._heads[endpoint] % form.length
        return head if self.headers_now is None else head + b"".join(b"%s: %s\r\n" % more for more in self._more())

    def make(self, endpoint: str, form: Form, extensions: Mapping[str, Any]) -> httpx.Request:
        """The request that asks `endpoint` with `form`."""
        url = self._urls[endpoint]
        request = _SecretRequest(
            "POST",
            url,
            headers=[*self._headers, (b"Content-Length", str(form.length).encode()), *self._more()],
            stream=form,
            extensions=dict(extensions),
        )
        request.url = url  # httpx.Request makes a plain copy, which would show the token
        return request

    def _more(self) -> list[tuple[bytes, bytes]]:
        """What `headers_now` says; nothing where it fails, since no call may suffer for it."""
        if self.headers_now is None:
            return []
        try:
            return [more for more in self.headers_now() if not _BREAK.search(b"%s%s" % more)]
        except Exception as exc:  # whatever tells the headers, the request is the same
            _log.error("a hook for headers failed: %s", type(exc).__name__, extra={"error": type(exc).__name__})
        return []


_BREAK = re.compile(rb"[\r\n\0]")


def _quoted(token: Secret) -> Secret:
    try:
        return Secret(quote(token.value, safe=""))
    except UnicodeEncodeError:
        pass
    raise ConfigurationError("the token has bytes that are no text: copy it again from the vendor")


def _shown(address: str, token: Secret) -> str:
    """`address` without the token: in its host, which is in small letters, or as a part of its path."""
    shown = "/".join(HIDDEN if unquote(part) == token.value else part for part in address.split("/"))
    if len(token.value) < SHORTEST:
        return shown
    for spelling in (token.value, quote(token.value, safe="")):
        shown = re.sub(re.escape(spelling), HIDDEN, shown, flags=re.IGNORECASE)
    return shown


def _base(text: Secret, token: Secret) -> httpx.URL:
    """The base URL, checked. Its text is not in the errors: it may hold a password."""
    try:
        url: httpx.URL = _SecretURL(text.value.strip())
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if not url.host or url.scheme not in ("http", "https"):
        raise ConfigurationError("base_url is no http(s) URL: it looks like https://api.aisolution.credit")
    if url.port is not None and not 0 < url.port < 65536:
        raise ConfigurationError(f"base_url has the port {url.port}: a port is 1 to 65535")
    if url.userinfo or url.query or url.fragment:
        raise ConfigurationError("base_url may have a host, a port and a path, and no user, query or fragment")
    if url.scheme == "http" and not is_loopback(url.host):
        raise ConfigurationError(
            f"base_url is plain http to {_shown(url.host, token)}: the token would travel in the clear; use https "
            "(plain http is for loopback only)"
        )
    path = url.raw_path.rstrip(b"/").removesuffix(b"/v1") or b"/"  # with its escapes as they are
    return _SecretURL(url.copy_with(raw_path=path))
