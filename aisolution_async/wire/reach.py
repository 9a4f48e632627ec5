"""Which hosts a client's own transport may dial. A test that believes itself mocked must not pay."""

from __future__ import annotations

import functools
import ipaddress
import sys
from typing import Any

from aisolution_async.errors import AISolutionError, ConfigurationError, NotSentError

loopback_only = False
"""Whether other hosts than this machine are out of reach. The pytest plugin says so while no test opts in."""

_MOCKS = {"respx": "respx", "pytest_httpx": "pytest-httpx", "vcr": "VCR", "pook": "pook", "unittest": "unittest.mock"}
"""What patches httpx, by the package of the function that then stands in httpx's place. Instrumentation is none."""

_PATCHED = (
    ("httpx", "AsyncHTTPTransport", "handle_async_request"),
    ("httpcore", "AsyncConnectionPool", "handle_async_request"),
    ("httpx", "AsyncClient", "_transport_for_url"),
    ("httpx", "AsyncClient", "_send_single_request"),
)
_TRANSPORT = "give the client transport=httpx.AsyncHTTPTransport(), which respx, pytest-httpx and VCR answer for"
_ROUTER = "give the client transport=httpx.MockTransport(router.async_handler)"


class Refused(Exception):  # noqa: N818  # what the call ends in is `error`
    """This host is not dialled, however often it is tried. `error` is the kind of error that tells the user."""

    def __init__(self, text: str, error: type[AISolutionError]) -> None:
        super().__init__(text)
        self.error = error


def check(host: str, *, by_httpx: bool = False) -> None:
    """Raise Refused unless `host` may be dialled: while `loopback_only`, and while a mock of httpx is active.

    `by_httpx`: httpx's own transport would dial, in whose place a mock answers.
    """
    if is_loopback(host) or (not loopback_only and _is_known_plain()):
        return
    mock, remedy = _mock()
    if mock and by_httpx and remedy is _TRANSPORT:
        return
    if loopback_only:
        told = f"{mock} is active, but the client's own pool does not pass through it: " if mock else ""
        raise Refused(
            f"{told}under pytest the client dials no host but this machine ({host} is another): use the fixture "
            f"aisolution_sandbox, or {remedy}; a test that is to reach the vendor, and may have to pay, is marked "
            "@pytest.mark.aisolution_network",
            NotSentError,
        )
    if mock:
        raise Refused(
            f"{mock} is active, but the client's own pool does not pass through it, and would dial {host}: {remedy}",
            ConfigurationError,
        )


@functools.lru_cache(maxsize=64)  # it is asked before each request
def is_loopback(host: str) -> bool:
    """Whether `host` is surely this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_plain: tuple[object, ...] = ()
"""What stands in httpx's places, as it was when it was last found to be no mock."""


def _is_known_plain() -> bool:
    """Whether no mock is active; looked at closely only where something has changed since the last time."""
    global _plain  # noqa: PLW0603  # what is patched is the process's, too
    httpx: Any = sys.modules.get("httpx")  # not imported here, for the pytest plugin's sake
    core: Any = sys.modules.get("httpcore")
    if httpx is None:
        return not _mock()[0]
    found = (
        httpx.AsyncHTTPTransport.handle_async_request,
        httpx.AsyncClient._transport_for_url,  # noqa: SLF001  # mocks do patch it
        httpx.AsyncClient._send_single_request,  # noqa: SLF001  # and this
        None if core is None else core.AsyncConnectionPool.handle_async_request,
    )
    if found == _plain:
        return True
    if _mock()[0]:
        return False
    _plain = found
    return True


def _mock() -> tuple[str, str]:
    """The name of the mock that has patched httpx, or "", and the remedy."""
    for module, owner, method in _PATCHED:
        function = getattr(getattr(sys.modules.get(module), owner, None), method, None)
        while function is not None:
            scope = getattr(function, "__globals__", {})
            package = str(scope.get("__name__", type(function).__module__)).partition(".")[0]
            if package in _MOCKS:
                return _MOCKS[package], _TRANSPORT if method == "handle_async_request" else _ROUTER
            function = getattr(function, "__wrapped__", None)
    return "", _TRANSPORT
