"""Traces and metrics with OpenTelemetry: `pip install 'aisolution-async[telemetry]'`.

    async with instrument(AsyncClient)(deadline=60) as client:
        ...

Names follow the OpenTelemetry semantic conventions for HTTP clients 1.44; what they have no word for is under
`aisolution.`. Nothing here holds a token, an access key, a number, a name, an image, a call's key, or text of the
vendor's: words come from this list and from the contract, or are the names of classes.

Spans, made when a call is over, with the times at which things happened. The caller's current span is the parent; for
a batch, the span in which it was entered. A sampler is given all attributes, so it can keep what was charged or failed.

| span | kind | from, to |
| --- | --- | --- |
| `aisolution facecompare` (the endpoint) | INTERNAL | a call: start of its first attempt to its outcome |
| `POST /v1/facecompare` | CLIENT | an attempt, child of its call: until the whole answer was read |

| attribute | on | what |
| --- | --- | --- |
| `aisolution.endpoint` | both | the vendor's name of the endpoint; left out where a batch's input held no call |
| `aisolution.charge` | both | `charged`, `free` or `unknown` |
| `aisolution.source` | call | who answered: `vendor`, `ledger`, `batch` (another call asked the same), `nobody` |
| `aisolution.attempts` | call | how many were made for it |
| `aisolution.index` | call | its place in the batch's input, from 0; 0 for a single call |
| `aisolution.answered_by` | call | the index of the call that asked the same, where there was one |
| `aisolution.status` | attempt | the status that the vendor answered, if documented for the endpoint; else `_OTHER` |
| `http.request.method`, `url.template` | attempt | `POST`, `/v1/facecompare` |
| `server.address`, `server.port` | attempt | of the client's base URL |
| `url.full` | attempt | with `token=REDACTED` |
| `http.response.status_code` | attempt | if an answer came |
| `http.request.resend_count` | attempt | from the second attempt of a call on: 1 |
| `error.type` | both | where there is no reply; the span's status is then Error, without a description |

`error.type` of a call is the class of its error (`RetryLaterError`). Of an attempt it is the vendor's status if that is
documented (`RETRY_LATER`); `UnknownStatusError` if it is not; the HTTP code (`503`) of a refusal without an envelope;
`NotSentError` where no byte left; else `OutcomeUnknownError`.

| metric | instrument, unit | attributes |
| --- | --- | --- |
| `aisolution.calls` | counter, `{call}` | endpoint, charge, source, `error.type` |
| `aisolution.call.duration` | histogram, `s`: as the call's span; calls with attempts only | the same |
| `aisolution.attempts` | counter, `{attempt}`: agrees with `client.tally` | endpoint, charge, status |
| `http.client.request.duration` | histogram, `s`: as the attempt's span | of the convention, with `url.template` |
| `http.client.active_requests` | up-down counter, `{request}`: attempts under way now | method, server |
| `aisolution.batches` | up-down counter, `{batch}`: running now | server |
| `aisolution.limit` | gauge, `{attempt}`: how many the running batches may have in flight; none if none runs | server |
| `aisolution.braked` | gauge, `{client}`: clients that take the vendor to be down | server |

The last four are read when they are exported, over all clients alive that were made for the same meter provider.

Where a span is active, each attempt carries it to the vendor, as W3C's trace context: `traceparent`, and `tracestate`
if there is one. Baggage is not sent.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakSet

from aisolution_async import AsyncClient, Attempt, Call, Charge, ConfigurationError, Load, Outcome, __version__
from aisolution_async.checks import kind_of, with_article

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import SpanKind, StatusCode, Tracer, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ImportError("opentelemetry-api is missing: pip install 'aisolution-async[telemetry]'") from None

_SCOPE = "aisolution_async"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The conventions that the names follow."""

# What the conventions advise for http.client.request.duration; calls that wait between attempts take longer.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MORE_SECONDS = (*_SECONDS, 30.0, 60.0, 120.0, 600.0, 3600.0)

P = ParamSpec("P")


def instrument(
    make: Callable[P, AsyncClient],
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Callable[P, AsyncClient]:
    """`make`, with traces and metrics of whatever the clients do that it makes: spans and metrics are in this module's
    docstring.

    `make` is `AsyncClient`, or any function that returns one and takes its `on_attempt` and `on_outcome`. What is
    returned takes the same arguments; hooks of yours among them are called after these. `with_options` keeps the
    hooks, unless it is given others. Without providers, the global ones are used, also where they are set later.

    Raises ConfigurationError for providers that are none.
    """
    for name, provider, kind in (
        ("tracer_provider", tracer_provider, TracerProvider),
        ("meter_provider", meter_provider, MeterProvider),
    ):
        if provider is not None and not isinstance(provider, kind):
            raise ConfigurationError(
                f"{name} is {kind_of(provider)}: pass {with_article(kind.__name__)} of OpenTelemetry"
            )
    tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, SCHEMA_URL)
    meters = _meters_of(meter_provider)

    def made(*args: P.args, **options: P.kwargs) -> AsyncClient:
        teller = _Teller(tracer, meters)
        options["on_attempt"] = _both(teller.on_attempt, options.get("on_attempt"))
        options["on_outcome"] = _both(teller.on_outcome, options.get("on_outcome"))
        client = make(*args, **options)
        teller.base_url = client.base_url
        client.send_along(_trace_context)
        meters.watch(client)
        return client

    return made


_PROPAGATOR = TraceContextTextMapPropagator()  # and not the global one, which sends baggage too


def _trace_context() -> list[tuple[bytes, bytes]]:
    """The headers that name the active span; none where there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return [(name.encode(), value.encode()) for name, value in carrier.items()]


def _both(ours: Callable[..., object], theirs: Any) -> Any:
    if theirs is None:
        return ours
    if not callable(theirs) or inspect.iscoroutinefunction(theirs):
        return theirs  # the client says what is wrong with it

    def hook(*told: object) -> None:
        try:
            ours(*told)
        finally:
            theirs(*told)

    return hook


class _Teller:
    """The hooks of one client. It does not hold the client: the client holds it."""

    def __init__(self, tracer: Tracer, meters: _Meters) -> None:
        self.base_url = ""
        self._tracer = tracer
        self._meters = meters
        self._requests: dict[str, dict[str, str | int]] = {}

    def on_attempt(self, call: Call[Any], attempt: Attempt) -> None:
        """Count and time an attempt."""
        self._meters.attempts.add(1, _cost(call, attempt))
        self._meters.request_duration.record(attempt.elapsed, {**self._request(call), **_end(call, attempt)})

    def on_outcome(self, outcome: Outcome) -> None:
        """Count and time a call, and trace it with its attempts."""
        call, attempts = outcome.call, outcome.attempts
        name = "aisolution"
        said: dict[str, str | int] = {"aisolution.charge": outcome.charge.value, "aisolution.source": _source(outcome)}
        if call is not None:
            name = f"aisolution {call.endpoint.name}"
            said["aisolution.endpoint"] = call.endpoint.name
        if outcome.error is not None:
            said["error.type"] = type(outcome.error).__name__
        times = [_times(attempt) for attempt in attempts]
        now = time.time_ns()
        start = times[0][0] if times else now
        end = max(now, *(end for _, end in times)) if times else now  # the clock may have been set back
        self._meters.calls.add(1, said)
        if attempts:
            self._meters.call_duration.record((end - start) / 1e9, said)

        said = {**said, "aisolution.attempts": len(attempts), "aisolution.index": outcome.index}
        if outcome.answered_by is not None:
            said["aisolution.answered_by"] = outcome.answered_by
        parent = self._tracer.start_span(name, attributes=said, start_time=start)
        if not parent.is_recording():
            return
        if outcome.error is not None:
            parent.set_status(StatusCode.ERROR)
        if call is not None and attempts:
            context = trace.set_span_in_context(parent)
            request = self._request(call)
            full = f"{self.base_url}{call.endpoint.path}?token=REDACTED"
            for attempt, (began, ended) in zip(attempts, times, strict=True):
                about = {**request, "url.full": full, **_end(call, attempt), **_cost(call, attempt)}
                if attempt.number > 1:
                    about["http.request.resend_count"] = attempt.number - 1
                span = self._tracer.start_span(
                    f"POST {call.endpoint.path}", context, SpanKind.CLIENT, about, start_time=began
                )
                if attempt.error is not None:
                    span.set_status(StatusCode.ERROR)
                span.end(ended)
        parent.end(end)

    def _request(self, call: Call[Any]) -> dict[str, str | int]:
        """What all attempts at an endpoint have in common."""
        endpoint = call.endpoint
        about = self._requests.get(endpoint.name)
        if about is None:
            about = {"http.request.method": "POST", "url.template": endpoint.path, **_server(self.base_url)}
            self._requests[endpoint.name] = about
        return about


def _cost(call: Call[Any], attempt: Attempt) -> dict[str, str | int]:
    about: dict[str, str | int] = {
        "aisolution.endpoint": call.endpoint.name,
        "aisolution.charge": attempt.charge.value,
    }
    if attempt.status is not None:
        # What is not documented may be anything, also a person's name.
        about["aisolution.status"] = attempt.status if attempt.status in call.endpoint.charges else "_OTHER"
    return about


def _end(call: Call[Any], attempt: Attempt) -> dict[str, str | int]:
    """What came of a request, in the words of HTTP."""
    about: dict[str, str | int] = {}
    status, code = attempt.status, attempt.http_status
    if code is not None:
        about["http.response.status_code"] = code
    if attempt.error is None:
        return about
    if code is None and attempt.charge is Charge.FREE:
        kind = "NotSentError"
    elif status is not None and status != "OK":
        kind = status if status in call.endpoint.charges else "UnknownStatusError"
    elif status is None and code is not None and code >= 400:
        kind = str(code)
    else:
        kind = "OutcomeUnknownError"
    about["error.type"] = kind
    return about


def _source(outcome: Outcome) -> str:
    if outcome.answered_by is not None:
        return "batch"
    if outcome.from_ledger:
        return "ledger"
    return "vendor" if any(attempt.http_status is not None for attempt in outcome.attempts) else "nobody"


def _times(attempt: Attempt) -> tuple[int, int]:
    """Start and end, in nanoseconds since 1970."""
    start = round(attempt.started_at.timestamp() * 1e6) * 1000
    return start, start + round(attempt.elapsed * 1e9)


def _server(base_url: str) -> dict[str, str | int]:
    url = urlsplit(base_url)
    return {"server.address": url.hostname or "", "server.port": url.port or (80 if url.scheme == "http" else 443)}


class _Meters:
    """The instruments of one meter provider, and the clients whose doings its gauges read.

    One for each provider, and not for each `instrument`: an SDK takes the callbacks of a gauge's first maker only.
    """

    def __init__(self, meter: Meter) -> None:
        self.calls = meter.create_counter("aisolution.calls", "{call}", "Calls that are over.")
        self.attempts = meter.create_counter("aisolution.attempts", "{attempt}", "Attempts, by what they cost.")
        self.call_duration = meter.create_histogram(
            "aisolution.call.duration",
            "s",
            "From the start of a call's first attempt to its outcome.",
            explicit_bucket_boundaries_advisory=_MORE_SECONDS,
        )
        self.request_duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        meter.create_observable_up_down_counter(
            "http.client.active_requests",
            [self._reading(lambda load: load.in_flight, {"http.request.method": "POST"})],
            "{request}",
            "Number of active HTTP requests.",
        )
        meter.create_observable_up_down_counter(
            "aisolution.batches", [self._reading(lambda load: load.batches)], "{batch}", "Batches that are running."
        )
        meter.create_observable_gauge(
            "aisolution.limit",
            [self._reading(lambda load: load.limit)],
            "{attempt}",
            "How many attempts the running batches may have in flight.",
        )
        meter.create_observable_gauge(
            "aisolution.braked",
            [self._reading(lambda load: int(load.braked))],
            "{client}",
            "Clients that take the vendor to be down.",
        )
        self._clients: WeakSet[AsyncClient] = WeakSet()
        self._lock = threading.Lock()  # exporters read on threads of their own

    def watch(self, client: AsyncClient) -> None:
        """Let the gauges read this client too, for as long as it lives."""
        with self._lock:
            self._clients.add(client)

    def _reading(
        self, what: Callable[[Load], float | None], about: Mapping[str, str] = MappingProxyType({})
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                clients = list(self._clients)
            sums: dict[tuple[tuple[str, str | int], ...], float] = {}
            for client in clients:
                if (number := what(client.load)) is not None:
                    server = tuple(_server(client.base_url).items())
                    sums[server] = sums.get(server, 0) + number
            return [Observation(number, {**dict(server), **about}) for server, number in sums.items()]

        return read


def _meters_of(provider: MeterProvider | None) -> _Meters:
    """The one of `provider`; None is the global provider, whether it is set already or not."""
    current = metrics.get_meter_provider()
    keys = (current, _WHICHEVER) if provider is None or provider is current else (provider,)
    with _meters_lock:
        for key in keys:
            if (found := _meters.get(key)) is not None:
                return found
        meters = _Meters(metrics.get_meter(_SCOPE, __version__, provider, SCHEMA_URL))
        _meters[keys[-1]] = meters
        return meters


_WHICHEVER = metrics.NoOpMeterProvider()  # a key, for the provider that is the global one in the end
_meters: WeakKeyDictionary[MeterProvider, _Meters] = WeakKeyDictionary()
_meters_lock = threading.Lock()
