"""The request of an attempt: URL, headers, body. The token is in the URL, so neither shows itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import httpx

from aisolution_async.api import ENDPOINTS, WORDS
from aisolution_async.checks import kind_of
from aisolution_async.errors import ConfigurationError, is_plain_word
from aisolution_async.hiding import HIDDEN, SHORTEST, NotPickled, Redactor, Secret
from aisolution_async.wire.form import CONTENT_TYPE, Form
from aisolution_async.wire.reach import is_loopback
from aisolution_async.wire.transport import origin_of

# Headers that a request's framing, its answer's form or the money rule depend on, and those that are kept elsewhere.
_OWN_HEADERS = {
    **dict.fromkeys(("host", "content-type", "content-length", "content-encoding", "transfer-encoding"), "we say it"),
    **dict.fromkeys(("connection", "keep-alive", "te", "trailer", "upgrade", "http2-settings"), "the pool says it"),
    **dict.fromkeys(("accept", "accept-encoding", "accept-charset"), "we read no other answers"),
    **dict.fromkeys(("range", "if-match", "if-none-match", "if-range"), "part of an answer is none"),
    **dict.fromkeys(("if-modified-since", "if-unmodified-since"), "part of an answer is none"),
    "expect": "a request is sent whole",
    "cookie": "cookies are neither kept nor sent",
    "proxy-authorization": "the vendor would get it: say it in proxy=http://USER:PASSWORD@HOST:PORT",
    "proxy-connection": "the pool says it",
}

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

    def __init__(self, base_url: Secret, token: Secret, headers: Secret, *, user_agent: str) -> None:
        secret = _quoted(token)
        extra = _headers(headers)
        self.redact = _redact(token, extra)
        """Takes the token, and what the user's headers say, out of text, whoever put it there."""
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
        agent = extra.value.pop(b"user-agent", (b"User-Agent", user_agent.encode()))
        self._headers = [
            (b"Host", base.netloc),
            agent,
            (b"Accept", b"application/json"),
            (b"Content-Type", CONTENT_TYPE.encode()),
            *extra.value.values(),
        ]
        self.headers_now: Callable[[], Iterable[tuple[bytes, bytes]]] | None = None
        """What headers an attempt has besides: asked for at each one, on the loop, in the context of who asked."""
        lines = b"".join(b"%s: %s\r\n" % header for header in self._headers)
        self._heads = {
            name: b"POST %s HTTP/1.1\r\n%sContent-Length: %%d\r\n"
            % (url.raw_path.replace(b"%", b"%%"), lines.replace(b"%", b"%%"))
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


# No local variable of these may hold a header's value where an error leaves them: tracebacks show locals.


def _headers(given: Secret) -> Secret:
    """The user's headers as bytes, by their names in small letters. Raises ConfigurationError."""
    problem, found = _read_headers(given.value)
    given.value = None
    if problem:
        raise ConfigurationError(problem)
    return found


def _read_headers(given: Any) -> tuple[str, Secret]:
    found: dict[bytes, tuple[bytes, bytes]] = {}
    if given is None:
        return "", Secret(found)
    if not isinstance(given, Mapping):
        return f'headers is {kind_of(given)}: give them by name, as {{"X-Gateway-Key": "…"}}', Secret(None)
    for name, value in given.items():
        problem = _problem(name, value)
        key = b"" if problem else name.lower().encode()
        if not problem and key in found:
            problem = f"headers has {name} twice: leave one of them out"
        if problem:
            return problem, Secret(None)
        found[key] = (name.encode(), value.encode())
    return "", Secret(found)


def _problem(name: object, value: object) -> str:
    """What is wrong with a header of the user's; empty if nothing is. Never its value."""
    if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", name):
        return "headers: a name is letters, digits and hyphens, such as X-Gateway-Key"
    if why := _OWN_HEADERS.get(name.lower()):
        return f"headers: {name} cannot be set: {why}"
    if not isinstance(value, str):
        return f"headers: the value of {name} is {kind_of(value)}: pass it as text"
    if not re.fullmatch(r"[\x20-\x7e\t]*", value):
        return f"headers: the value of {name} has a line break, or something else that is no ASCII text"
    return "" if value == value.strip() else f"headers: the value of {name} begins or ends with a space"


def _redact(token: Secret, headers: Secret) -> Callable[[str], str]:
    """What takes secrets out of text: the token, and those words of the user's headers that are no plain words.

    A plain word, like an office's name, is no secret, and may be part of an answer.
    """
    redact = Redactor(token, WORDS).text
    others = [
        Redactor(Secret(word.decode()), WORDS).text
        for key, (_, value) in headers.value.items()
        if key != b"user-agent"
        for word in value.split()
        if not is_plain_word(word.decode())
    ]
    if not others:
        return redact

    def redact_all(text: str) -> str:
        text = redact(text)
        for other in others:
            text = other(text)
        return text

    return redact_all


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
