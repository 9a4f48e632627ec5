"""The headers of a response that help a support case. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# fmt: off
SUPPORT = frozenset({
    "age", "cf-cache-status", "cf-ray", "content-length", "content-type", "correlation-id", "date", "ratelimit-limit",
    "ratelimit-remaining", "ratelimit-reset", "request-id", "retry-after", "server", "traceparent", "via",
    "x-amz-cf-id", "x-amz-cf-pop", "x-amzn-errortype", "x-amzn-requestid", "x-amzn-trace-id", "x-azure-ref",
    "x-b3-traceid", "x-cache", "x-cloud-trace-context", "x-correlation-id", "x-envoy-upstream-service-time",
    "x-kong-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id",
    "x-requestid", "x-runtime", "x-served-by", "x-trace-id",
})
# fmt: on
"""Which request it was, whose machine answered, and when. No others: they may hold anything."""

LONGEST = 200
"""Characters that are kept of a header's value."""


def support_headers(headers: Iterable[tuple[bytes, bytes]], redact: Callable[[str], str]) -> dict[str, str]:
    """Those of `headers` that help a support case, by their names in small letters.

    Of each, the value is printable text, cut off and without secrets, which `redact` takes out; the values of one that
    came several times are joined by commas.
    """
    found: dict[str, str] = {}
    for raw, value in headers:
        name = raw.decode("latin-1").lower()
        if name in SUPPORT:
            text = value.decode("utf-8", "replace").strip()
            found[name] = f"{found[name]}, {text}" if name in found else text
    for name, text in found.items():
        clean = redact(text)
        shown = "".join(char if char.isprintable() else "�" for char in clean)
        found[name] = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    return found
