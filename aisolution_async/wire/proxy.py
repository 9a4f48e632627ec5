"""httpx's own transport through a proxy, with the proxy's failures told from the vendor's."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import Secret
from aisolution_async.wire import reach

_REMEDIES = {
    "407": "it wants a user and a password: http://USER:PASSWORD@HOST:PORT in HTTPS_PROXY or proxy=",
    "403": "it lets nobody through to the vendor's address: have it allowed there",
    "502": "it cannot reach the vendor: try again later, or ask who runs it",
    "503": "it is not available: try again later, or ask who runs it",
    "504": "the vendor did not answer it: try again later, or ask who runs it",
}
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|PACKET_LENGTH|RECORD_LAYER|UNEXPECTED_EOF|UNEXPECTED_MESSAGE|HTTP_REQUEST")


class ProxyTransport(httpx.AsyncHTTPTransport):
    """Every request through one proxy. What fails before a request has left is a ConnectError that says so.

    `proxy` holds a URL, which may hold a password, or an `httpx.Proxy`. Without a scheme it is http://, as httpx takes
    what the environment says. Raises ConfigurationError.
    """

    def __init__(self, proxy: Secret, *, max_connections: int, ssl_context: ssl.SSLContext) -> None:
        try:
            if isinstance(proxy.value, str):
                proxy = Secret(proxy.value.strip() if "://" in proxy.value else f"http://{proxy.value.strip()}")
            made = proxy.value if isinstance(proxy.value, httpx.Proxy) else httpx.Proxy(proxy.value)
            url = made.url
            if not url.host or (url.port is not None and not 0 < url.port < 65536):
                raise ValueError
            if url.scheme == "https" and made.ssl_context is None:
                made.ssl_context = ssl_context
            self._name = f"{url.host}:{url.port or {'https': 443, 'http': 80}.get(url.scheme, 1080)}"
            super().__init__(
                verify=ssl_context,
                proxy=made,
                trust_env=False,
                limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            )
        except (ValueError, httpx.InvalidURL, ImportError, TypeError):
            pass
        else:
            return
        # Not its text: a proxy's URL may hold a password.
        raise ConfigurationError(
            "the proxy cannot be used: it is http://host:port, https:// or (with httpx[socks]) socks5://, "
            "and a port is 1 to 65535"
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx. It reaches no host that the client's own pool would not dial."""
        reach.check(request.url.host, by_httpx=True)
        known = request.extensions.get("trace")
        last, left = "", False

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal last, left
            last = event
            # The proxy is first asked for a tunnel by a request of its own.
            left = left or (event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT")
            if known is not None:
                await known(event, info)

        request.extensions = {**request.extensions, "trace": trace}
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError as exc:
            problem = None if left else self._problem(exc, last)
            if problem is None:
                raise
        raise httpx.ConnectError(f"the proxy {self._name} {problem}")

    def _problem(self, exc: httpx.TransportError, last: str) -> str | None:
        """What is wrong with the proxy; None if it is not the proxy that failed. `last` is the last step begun."""
        said = str(exc)
        if isinstance(exc, httpx.ProxyError):
            if status := re.match(r"\d{3}\b", said):
                remedy = _REMEDIES.get(status[0], "it makes no tunnel to the vendor: check that it is one for https")
                return f"answered HTTP {status[0]}: {remedy}"
            return f"makes no connection to the vendor: {said[:80]}"
        late = isinstance(exc, httpx.TimeoutException)
        if last.startswith("connection."):
            cause = "no answer in time" if late else said[:80] or "refused"
            return f"cannot be reached ({cause}): check HTTPS_PROXY or proxy="
        if last.startswith(("proxy.start_tls", "socks.start_tls", "socks5.start_tls")):
            if said and not _NO_TLS.search(said):
                return None  # the vendor's certificate, or what the vendor's side says of ours
            what = (
                "nobody answered in it in time"
                if late
                else "what came through it is no TLS"
                if said
                else "it broke off"
            )
            return f"made a tunnel to the vendor, but {what}: check HTTPS_PROXY or proxy=, or ask who runs it"
        if last.startswith(("http11.", "socks")):
            what = "did not answer in time" if late else "broke the connection off, or is no HTTP proxy"
            return f"{what}: check HTTPS_PROXY or proxy="
        return None
