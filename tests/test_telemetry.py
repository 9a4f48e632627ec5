"""Traces and metrics: what they say of calls, attempts and clients, and what they never say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import math
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.semconv._incubating.attributes import url_attributes as incubating_url
from opentelemetry.semconv._incubating.metrics import http_metrics as incubating_http
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import NoOpTracerProvider, SpanContext, SpanKind, StatusCode, TraceState

from aisolution_async import (
    AISolutionError,
    AsyncClient,
    Attempt,
    Charge,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    InputError,
    Outcome,
    OutcomeUnknownError,
    Retry,
    WhatsAppDetail,
    WhatsAppProfile,
    errors,
)
from aisolution_async.api import ENDPOINTS
from aisolution_async.integrations import telemetry
from aisolution_async.integrations.telemetry import instrument

from .support import TOKEN, Vendor, client_of, examples, in_turn, ok_whatsapp, says, virtual
from .test_secrets import CALLS, GROUP, HOSTILE, SECRETS

NUMBER = "6281387300008"
SERVER = {"server.address": "vendor.example", "server.port": 443}
REQUEST = {"http.request.method": "POST", "url.template": "/v1/gliswadetail", **SERVER}

Points = dict[frozenset[tuple[str, Any]], Any]


def about(**attributes: Any) -> frozenset[tuple[str, Any]]:
    """Attributes as a key; `__` stands for a dot, and a name without one is ours."""
    return frozenset(
        (name.replace("__", ".") if "__" in name else f"aisolution.{name}", value) for name, value in attributes.items()
    )


class Seen:
    """What an exporter is given."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    def client(self, transport: httpx.AsyncBaseTransport, **options: Any) -> AsyncClient:
        made = instrument(client_of, tracer_provider=self.tracers, meter_provider=self.meters)
        return made(transport, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Calls before their attempts, otherwise as they were exported."""
        spans = self.exporter.get_finished_spans()
        return sorted(spans, key=lambda span: span.kind is SpanKind.CLIENT)

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith("aisolution")]

    @property
    def attempts(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]

    def metrics(self) -> dict[str, Points]:
        """Name → attributes → value, or the count of a histogram."""
        found: dict[str, Points] = {}
        data = self.reader.get_metrics_data()
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                assert scope.scope.name == "aisolution_async"
                for metric in scope.metrics:
                    found[metric.name] = {
                        frozenset((point.attributes or {}).items()): getattr(point, "count", getattr(point, "value", 0))
                        for point in metric.data.data_points
                    }
        return found

    def everything(self) -> str:
        data = self.reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans), "" if data is None else data.to_json()])


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# ------------------------------------------------------------------------------------------------------ spans


async def test_a_call_and_its_attempts() -> None:
    seen = Seen()
    vendor = in_turn(says("RETRY_LATER", "x"), ok_whatsapp())
    async with seen.client(vendor, retry=Retry(first=0.001)) as client:
        reply = await client.whatsapp_detail(NUMBER, key="A-1")
    call, first, second = seen.spans
    assert (call.name, call.kind, call.parent) == ("aisolution gliswadetail", SpanKind.INTERNAL, None)
    assert attributes(call) == {
        "aisolution.endpoint": "gliswadetail",
        "aisolution.charge": "charged",
        "aisolution.source": "vendor",
        "aisolution.attempts": 2,
        "aisolution.index": 0,
    }
    full = "https://vendor.example/v1/gliswadetail?token=REDACTED"
    assert attributes(first) == REQUEST | {
        "url.full": full,
        "http.response.status_code": 200,
        "error.type": "RETRY_LATER",
        "aisolution.endpoint": "gliswadetail",
        "aisolution.charge": "free",
        "aisolution.status": "RETRY_LATER",
    }
    assert attributes(second) == REQUEST | {
        "url.full": full,
        "http.response.status_code": 200,
        "http.request.resend_count": 1,
        "aisolution.endpoint": "gliswadetail",
        "aisolution.charge": "charged",
        "aisolution.status": "OK",
    }
    assert [span.status.status_code for span in seen.spans] == [StatusCode.UNSET, StatusCode.ERROR, StatusCode.UNSET]
    for span, attempt in zip((first, second), reply.attempts, strict=True):
        assert span.name == "POST /v1/gliswadetail"
        assert span.parent == call.context
        start = (attempt.started_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
        assert (span.start_time, span.end_time) == (start, start + round(attempt.elapsed * 1e9))
    assert call.start_time == first.start_time
    assert call.end_time is not None
    assert second.end_time is not None
    assert 0 <= call.end_time - second.end_time < 10e9
    assert call.instrumentation_scope is not None
    assert call.instrumentation_scope.schema_url == Schemas.V1_44_0.value == telemetry.SCHEMA_URL


async def test_the_callers_span_is_the_parent_and_for_a_batch_the_one_it_was_entered_in() -> None:
    seen = Seen()
    tracer = seen.tracers.get_tracer("the application")
    vendor = in_turn(says("RETRY_LATER", "x"), ok_whatsapp())
    async with seen.client(vendor, retry=Retry(first=0.001)) as client:
        with tracer.start_as_current_span("single") as single:
            await client.whatsapp_detail(NUMBER)
        vendor.requests.clear()  # the first answer of the batch is RETRY_LATER again: its end comes from a timer
        with tracer.start_as_current_span("entered") as entered:
            batch = await client.batch([WhatsAppDetail(NUMBER)]).__aenter__()
        with tracer.start_as_current_span("read"):
            assert [outcome.ok async for outcome in batch] == [True]
            await batch.__aexit__(None, None, None)
    assert [span.parent for span in seen.calls] == [single.get_span_context(), entered.get_span_context()]
    assert len({span.context.trace_id for span in seen.attempts if span.context is not None}) == 2
    assert len(seen.attempts) == 4


# ------------------------------------------------------------------------------------------- the trace context


class Listening:
    """The heads of what a socket hears, which answers as the vendor, or as a proxy before it."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its address. Whoever connects has to be done by the end."""
        talks: list[asyncio.Task[None]] = []

        def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            talks.append(asyncio.create_task(self.serve(reader, writer)))

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await asyncio.gather(*talks)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                await reader.readexactly(int(length[1]))
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{"status":"OK","message": null}')
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def sent(self, name: bytes) -> list[str]:
        found = [re.findall(rb"(?im)^%b: (.*)\r$" % name, head) for head in self.heads]
        return [b"|".join(values).decode() for values in found]


@pytest.mark.parametrize("via", ["the pool", "a proxy", "a transport of one's own"])
async def test_the_active_span_goes_to_the_vendor(via: str) -> None:
    seen = Seen()
    tracer = seen.tracers.get_tracer("the application")
    vendor = Listening()
    with baggage_of("customer", "budi"):
        async with vendor.listening() as url:
            options: dict[str, Any] = {}
            if via == "a proxy":
                options["proxy"] = url
            elif via != "the pool":
                options["transport"] = httpx.AsyncHTTPTransport()
            make = instrument(AsyncClient, tracer_provider=seen.tracers, meter_provider=NoOpMeterProvider())
            async with make(TOKEN, base_url=url, **options) as client:
                await client.delete_face("nobody asks")
                with tracer.start_as_current_span("single") as single:
                    await client.with_options(deadline=60).delete_face("p")
                state = TraceState([("us", "1")])
                remote = SpanContext(single.get_span_context().trace_id, 7, is_remote=True, trace_state=state)
                with trace.use_span(trace.NonRecordingSpan(remote)):  # of a request that was traced elsewhere
                    batch = await client.batch([DeleteFace(f"p{n}") for n in range(2)]).__aenter__()
                assert [outcome.ok async for outcome in batch] == [True, True]
                await batch.__aexit__(None, None, None)
    spans = [single.get_span_context(), remote, remote]
    assert vendor.sent(b"traceparent") == [
        "",
        *(f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" for span in spans),
    ]
    assert vendor.sent(b"tracestate") == ["", "", "us=1", "us=1"]
    assert vendor.sent(b"baggage") == [""] * 4
    assert seen.calls[1].parent == single.get_span_context()


@contextlib.contextmanager
def baggage_of(name: str, value: str) -> Iterator[None]:
    token = context.attach(baggage.set_baggage(name, value))
    try:
        yield
    finally:
        context.detach(token)


@pytest.mark.parametrize("own", [True, False])
async def test_headers_that_fail_or_break_the_head_are_left_out(own: bool, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> list[tuple[bytes, bytes]]:
        raise ValueError(TOKEN)

    vendor = Listening()
    async with vendor.listening() as url:
        async with AsyncClient(TOKEN, base_url=url, transport=None if own else httpx.AsyncHTTPTransport()) as client:
            for hook in (fails, lambda: [(b"a", b"1\r\nb: 2"), (b"c\n", b"3"), (b"d", b"4")], None):
                client.send_along(hook)
                assert (await client.delete_face("p")).charge is Charge.FREE
    assert vendor.sent(b"d") == ["", "4", ""]
    assert not any(re.search(rb"(?m)^[abc]\b", head) for head in vendor.heads)
    assert [record.getMessage() for record in caplog.records] == ["a hook for headers failed: ValueError"]


async def test_who_answered(tmp_path: Path) -> None:
    seen = Seen()
    calls: list[Any] = [
        WhatsAppDetail(NUMBER, key="A"),
        WhatsAppDetail(NUMBER, key="B"),
        WhatsAppDetail("no number", key="C"),
        "no call",
        InputError("row 5 of applicants.csv", endpoint="facecompare"),
    ]
    async with seen.client(in_turn(ok_whatsapp()), ledger=tmp_path / "l") as client:
        async with client.batch(calls, ordered=True) as batch:
            assert [outcome.ok async for outcome in batch] == [True, True, False, False, False]
        await client.whatsapp_detail(NUMBER)
    found = sorted((attributes(span) for span in seen.calls[:-1]), key=lambda each: each["aisolution.index"])
    assert [each["aisolution.source"] for each in found] == ["vendor", "batch", "nobody", "nobody", "nobody"]
    assert [each.get("aisolution.answered_by") for each in found] == [None, 0, None, None, None]
    assert [each.get("aisolution.endpoint") for each in found] == ["gliswadetail"] * 3 + [None] * 2
    assert [each.get("error.type") for each in found] == [None, None, "InputError", "InputError", "InputError"]
    assert attributes(seen.calls[-1])["aisolution.source"] == "ledger"
    assert attributes(seen.calls[-1])["aisolution.charge"] == "free"
    assert len(seen.attempts) == 1
    metrics = seen.metrics()
    counted = metrics["aisolution.calls"]
    assert counted[about(endpoint="gliswadetail", charge="free", source="ledger")] == 1
    assert counted[about(endpoint="gliswadetail", charge="free", source="batch")] == 1
    assert counted[about(charge="free", source="nobody", error__type="InputError")] == 2
    # What took no attempt took no time, and would only hide how long the others take.
    assert list(metrics["aisolution.call.duration"].values()) == [1]


ENDS: dict[str, tuple[httpx.Response | Exception, str | None, str | None, str, int | None]] = {
    # the vendor → the attempt's error.type, the call's, the attempt's charge and HTTP code
    "answered": (ok_whatsapp(), None, None, "charged", 200),
    "answered with 500": (says("OK", {"whatsapp": "no"}, http=500), None, None, "charged", 500),
    "documented": (says("FAIL", "x"), "FAIL", "ServiceFailedError", "free", 200),
    "undocumented": (says("BUDI", "x"), "UnknownStatusError", "UnknownStatusError", "unknown", 200),
    "does not fit": (says("OK", "x"), "OutcomeUnknownError", "OutcomeUnknownError", "unknown", 200),
    "refused": (httpx.Response(401), "401", "RefusedError", "free", 401),
    "busy": (httpx.Response(503), "503", "RetryLaterError", "free", 503),
    "broken": (httpx.Response(500), "500", "OutcomeUnknownError", "unknown", 500),
    "no envelope": (httpx.Response(200), "OutcomeUnknownError", "OutcomeUnknownError", "unknown", 200),
    "redirect": (httpx.Response(302), "OutcomeUnknownError", "OutcomeUnknownError", "unknown", 302),
    "no connection": (httpx.ConnectError("x"), "NotSentError", "NotSentError", "free", None),
    "lost": (httpx.ReadError("x"), "OutcomeUnknownError", "OutcomeUnknownError", "unknown", None),
}


@pytest.mark.parametrize("case", ENDS)
async def test_how_it_ended(case: str) -> None:
    answer, attempted, called, charge, code = ENDS[case]
    seen = Seen()
    async with seen.client(in_turn(answer), retry=0) as client:
        (outcome,) = [each async for each in await client.batch([WhatsAppDetail(NUMBER)]).__aenter__()]
    call, attempt = seen.spans
    assert called == (type(outcome.error).__name__ if outcome.error else None)
    assert [attributes(span).get("error.type") for span in (call, attempt)] == [called, attempted]
    assert [attributes(span)["aisolution.charge"] for span in (call, attempt)] == [charge, charge]
    assert attributes(attempt).get("http.response.status_code") == code
    for span in (call, attempt):
        assert (span.status.status_code is StatusCode.ERROR) is ("error.type" in attributes(span))
        assert span.status.description is None
        assert not span.events
    (measured,) = seen.metrics()["http.client.request.duration"]
    assert dict(measured) == {
        name: value
        for name, value in attributes(attempt).items()
        if name != "url.full" and not name.startswith("aisolution")
    }


async def test_a_call_that_is_cancelled_is_traced() -> None:
    seen = Seen()
    entered = asyncio.Event()

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        entered.set()
        await asyncio.sleep(1e6)
        raise AssertionError

    async with seen.client(Vendor(hang)) as client:
        task = asyncio.create_task(client.whatsapp_detail(NUMBER))
        await entered.wait()
        active = seen.metrics()["http.client.active_requests"]
        assert active == {frozenset({"http.request.method": "POST", **SERVER}.items()): 1}
        task.cancel()
        await asyncio.wait({task})
        assert set(seen.metrics()["http.client.active_requests"].values()) == {0}
    assert [attributes(span)["aisolution.charge"] for span in seen.spans] == ["unknown", "unknown"]


class Keep(Sampler):
    """Keeps what may have cost something: what a sampler can only do if it is told at the start."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, *given: Any, **named: Any) -> SamplingResult:
        self.asked += 1
        said = named.get("attributes") or given[4]
        keep = said["aisolution.charge"] != "free"
        return SamplingResult(Decision.RECORD_AND_SAMPLE if keep else Decision.DROP, said)

    def get_description(self) -> str:
        return "Keep"


async def test_a_sampler_can_keep_what_may_have_been_charged() -> None:
    sampler = Keep()
    seen = Seen(sampler)
    async with seen.client(in_turn(says("FAIL", "x"), ok_whatsapp(), says("FAIL", "x")), retry=0) as client:
        async with client.batch([WhatsAppDetail(f"62813873000{n:02}") for n in range(5)]) as batch:
            async for _ in batch:
                pass
    assert [attributes(span)["aisolution.charge"] for span in seen.spans] == ["charged", "charged"]
    assert sampler.asked == 6  # the attempts of a call that is not kept are not worth asking for
    assert sum(seen.metrics()["aisolution.calls"].values()) == 5


async def test_without_an_sdk_nothing_is_done_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    off = Seen(ALWAYS_OFF)
    for tracers in (NoOpTracerProvider(), off.tracers, None):
        made = instrument(client_of, tracer_provider=tracers, meter_provider=NoOpMeterProvider())
        async with made(in_turn(says("RETRY_LATER", "x"), ok_whatsapp()), retry=Retry(first=0.001)) as client:
            assert (await client.whatsapp_detail(NUMBER)).charge is Charge.CHARGED
    assert not off.spans
    assert not caplog.records


# ---------------------------------------------------------------------------------------------------- secrets

NAME = "budi"
MORE_HOSTILE: dict[str, Any] = {
    "a name for a status": lambda r: says(f"{NAME} santoso", NAME),
    "a name where a word belongs": lambda r: says("OK", {"whatsapp": NAME, "number": NAME, "signature": NAME}),
}
MORE_CALLS: list[Any] = [
    FaceCompare(f"/home/{NAME}/selfie.jpg", f"/home/{NAME}/card.jpg", key=NAME),
    WhatsAppDetail(NUMBER, key=f"{NAME} {NUMBER}"),
    DeleteFace(NAME, key=NAME),
    InputError(f"row of {NAME}: {NUMBER}", endpoint=NAME, key=NAME),
    StopIteration(NAME),
]
# All that strings in spans and metrics may be.
VOCABULARY = {
    *ENDPOINTS,
    *(endpoint.path for endpoint in ENDPOINTS.values()),
    *(f"https://vendor.example{endpoint.path}?token=REDACTED" for endpoint in ENDPOINTS.values()),
    *(status for endpoint in ENDPOINTS.values() for status in endpoint.charges),
    *(charge.value for charge in Charge),
    *("vendor", "ledger", "batch", "nobody", "_OTHER", "POST", "vendor.example"),
    *(name for name in vars(errors) if name.endswith("Error")),
    *(str(code) for code in range(400, 600)),
}
NUMBERS = {
    "server.port",
    "http.response.status_code",
    "http.request.resend_count",
    "aisolution.attempts",
    "aisolution.index",
    "aisolution.answered_by",
}


def assert_says_only_what_it_may(seen: Seen) -> None:
    said = [attributes(span) for span in seen.spans]
    said += [dict(point) for points in seen.metrics().values() for point in points]
    for each in said:
        for name, value in each.items():
            assert value in VOCABULARY if isinstance(value, str) else name in NUMBERS, (name, value)
    for span in seen.spans:
        assert span.name in {"aisolution", *(f"aisolution {name}" for name in ENDPOINTS)} | {
            f"POST {endpoint.path}" for endpoint in ENDPOINTS.values()
        }
        assert not span.events
        assert not span.links
        assert span.status.description is None


@pytest.mark.parametrize("hostile", [*HOSTILE, *MORE_HOSTILE])
async def test_a_hostile_vendor_gets_nothing_into_it(hostile: str) -> None:
    seen = Seen()
    vendor = Vendor(lambda request, number: (HOSTILE | MORE_HOSTILE)[hostile](request))
    async with seen.client(vendor, retry=0) as client:
        for call in [*CALLS, *MORE_CALLS[:3]]:
            with contextlib.suppress(AISolutionError):
                await client.send(call)
        async with client.batch([*CALLS, *CALLS, *MORE_CALLS]) as batch:
            async for _ in batch:
                pass
    # Those without an image, a number or a person that can be sent make no attempt.
    assert len(seen.calls) == 3 * len(CALLS) + 2 * len(MORE_CALLS) - 2
    assert len(seen.attempts) >= len(CALLS)
    assert_says_only_what_it_may(seen)
    text = seen.everything()
    for secret in [*SECRETS, json.dumps(TOKEN)[1:-1], NAME, "selfie"]:
        assert secret not in text, secret


def attempts_of(starts: st.SearchStrategy[datetime]) -> st.SearchStrategy[Attempt]:
    words = st.sampled_from(["OK", "OK:checking", "RETRY_LATER", TOKEN, NUMBER, GROUP, ""]) | st.text()
    return st.builds(
        Attempt,
        st.sampled_from(Charge),
        st.none() | words,
        st.none() | st.integers(100, 599),
        starts,
        st.floats(0, 1e5),
        st.none() | words,
        number=st.integers(1, 100),
    )


@settings(deadline=None, max_examples=examples(200))
@given(
    st.lists(attempts_of(st.datetimes(timezones=st.just(UTC))), max_size=4),
    st.sampled_from([None, OutcomeUnknownError(NUMBER), InputError(NAME, endpoint=NAME)]),
    st.none() | st.integers(0),
    st.integers(0, 10**9),
)
def test_whatever_it_is_told(
    attempts: list[Attempt], error: AISolutionError | None, answered_by: int | None, index: int
) -> None:
    seen = Seen()
    hooks: dict[str, Any] = {}

    def make(**options: Any) -> AsyncClient:
        hooks.update(options)
        return client_of(in_turn(ok_whatsapp()), **options)

    instrument(make, tracer_provider=seen.tracers, meter_provider=seen.meters)()
    call = WhatsAppDetail(NUMBER, key=NAME)
    for attempt in attempts:
        hooks["on_attempt"](call, attempt)
    reply = WhatsAppProfile(whatsapp=NAME) if error is None else None
    # Times that go back, as they do when a clock is set.
    now = time.time_ns()
    hooks["on_outcome"](Outcome(index, call.key, call, reply, error, tuple(attempts), answered_by))
    assert_says_only_what_it_may(seen)
    (parent,) = seen.calls
    assert len(seen.attempts) == len(attempts)
    assert parent.start_time is not None
    assert parent.end_time is not None
    assert max(parent.start_time, now) <= parent.end_time
    for span in seen.attempts:
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time <= parent.end_time
    assert sum(seen.metrics().get("aisolution.attempts", {}).values()) == len(attempts)


# ---------------------------------------------------------------------------------------------------- metrics


async def test_the_metrics_agree_with_the_tally_and_the_outcomes() -> None:
    seen = Seen()

    def script(request: httpx.Request, number: int) -> httpx.Response:
        answers = [ok_whatsapp(), says("RETRY_LATER", "x"), says("FAIL", "x"), httpx.Response(500), ok_whatsapp("no")]
        return answers[number % 5]

    async with seen.client(Vendor(script), retry=Retry(first=0.001)) as client:
        calls = [WhatsAppDetail(f"628138730{n:04}") for n in range(40)]
        async with client.batch([*calls, *calls], concurrency=7) as batch:
            outcomes = [outcome async for outcome in batch]
    metrics = seen.metrics()
    for charge in Charge:
        attempts = [v for k, v in metrics["aisolution.attempts"].items() if ("aisolution.charge", charge.value) in k]
        assert sum(attempts) == getattr(client.tally, charge.value) > 0
        counted = [v for k, v in metrics["aisolution.calls"].items() if ("aisolution.charge", charge.value) in k]
        assert sum(counted) == sum(outcome.charge is charge for outcome in outcomes)
    assert sum(metrics["http.client.request.duration"].values()) == client.tally.total == len(seen.attempts)
    assert sum(metrics["aisolution.calls"].values()) == len(outcomes) == len(seen.calls) == 80
    sent = sum(1 for outcome in outcomes if outcome.attempts)
    assert sum(metrics["aisolution.call.duration"].values()) == sent


@virtual
async def test_how_long_it_took() -> None:
    seen = Seen()

    async def slow(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(3)
        return ok_whatsapp()

    async with seen.client(Vendor(slow)) as client:
        await client.whatsapp_detail(NUMBER)
    data = seen.reader.get_metrics_data()
    assert data is not None
    durations = {
        metric.name: (metric.unit, metric.data.data_points[0])
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if "duration" in metric.name
    }
    assert len(durations) == 2
    for unit, point in durations.values():
        assert unit == "s"
        assert math.isclose(point.sum, 3, abs_tol=0.01)  # type: ignore[union-attr]
        bounds = point.explicit_bounds  # type: ignore[union-attr]
        assert list(bounds)[:14] == [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
    (call,) = seen.calls
    assert call.start_time is not None
    assert call.end_time is not None
    assert math.isclose(call.end_time - call.start_time, 3e9, rel_tol=0.01)


@virtual
async def test_the_gauges_of_clients_that_run_batches() -> None:
    seen = Seen()
    down = asyncio.Event()

    async def answer(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        if down.is_set():
            raise httpx.ConnectError("x")
        return ok_whatsapp()

    server = frozenset(SERVER.items())
    # As two parts of an application would: each has its own wrapper, and both have one vendor.
    one, two = seen.client(Vendor(answer)), seen.client(Vendor(answer))
    calls = [WhatsAppDetail(f"628138730{n:04}") for n in range(100)]
    async with one, two:
        async with one.batch(calls, concurrency=3) as batch, two.batch(calls, concurrency=4):
            await anext(batch)
            metrics = seen.metrics()
            assert metrics["aisolution.batches"] == {server: 2}
            assert metrics["aisolution.limit"] == {server: 7}
            assert metrics["aisolution.braked"] == {server: 0}
            assert list(metrics["http.client.active_requests"].values()) == [7]
            down.set()
            while not one.load.braked:
                await asyncio.sleep(0.1)
            assert seen.metrics()["aisolution.braked"][server] >= 1
        metrics = seen.metrics()
        assert metrics["aisolution.batches"] == {server: 0}
        assert metrics["aisolution.braked"] == {server: 0}
        assert "aisolution.limit" not in metrics


async def test_the_gauges_are_read_from_an_exporters_thread() -> None:
    seen = Seen()
    answered = asyncio.Event()

    async def answer(request: httpx.Request, number: int) -> httpx.Response:
        await answered.wait()
        return ok_whatsapp()

    async with seen.client(Vendor(answer)) as client, client.batch([WhatsAppDetail(NUMBER)], concurrency=3) as batch:
        while not client.load.in_flight:
            await asyncio.sleep(0)
        metrics = await asyncio.to_thread(seen.metrics)
        answered.set()
        assert [outcome.ok async for outcome in batch] == [True]
    assert metrics["aisolution.limit"] == {frozenset(SERVER.items()): 3}
    assert list(metrics["http.client.active_requests"].values()) == [1]


async def test_the_gauges_hold_no_client(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    async with seen.client(in_turn(ok_whatsapp())) as client:
        assert seen.metrics()["aisolution.batches"]
        other = seen.client(in_turn(ok_whatsapp()))
        await client.whatsapp_detail(NUMBER)
    await other.aclose()
    del client, other
    gc.collect()
    assert "aisolution.batches" not in seen.metrics()
    with caplog.at_level(logging.WARNING):
        async with seen.client(in_turn(ok_whatsapp())):
            assert seen.metrics()["aisolution.batches"]
    assert not caplog.records  # an SDK complains of instruments that are made differently twice


@pytest.mark.parametrize(
    ("base_url", "address", "port"),
    [
        ("https://Vendor.Example/", "vendor.example", 443),
        ("https://vendor.example:8443/gateway", "vendor.example", 8443),
        ("http://127.0.0.1", "127.0.0.1", 80),
        ("http://[::1]:8000/v1", "::1", 8000),
    ],
)
async def test_where_the_vendor_is(base_url: str, address: str, port: int) -> None:
    seen = Seen()
    made = instrument(AsyncClient, tracer_provider=seen.tracers, meter_provider=seen.meters)
    vendor = in_turn(ok_whatsapp())
    async with made(TOKEN, base_url=base_url, transport=vendor) as client:
        await client.whatsapp_detail(NUMBER)
    (attempt,) = seen.attempts
    assert (attributes(attempt)["server.address"], attributes(attempt)["server.port"]) == (address, port)
    sent = vendor.requests[0].url
    assert attributes(attempt)["url.full"] == str(sent.copy_with(query=b"token=REDACTED"))
    assert attributes(attempt)["url.template"] == "/v1/gliswadetail"
    for points in seen.metrics().values():
        for point in points:
            assert dict(point).get("server.address", address) == address


# ------------------------------------------------------------------------------------------------------- face


async def test_hooks_of_ones_own_are_called_too(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    told: list[str] = []

    def on_attempt(call: object, attempt: Attempt) -> None:
        told.append(attempt.charge)
        raise RuntimeError

    vendor = in_turn(ok_whatsapp())
    async with seen.client(
        vendor, on_attempt=on_attempt, on_outcome=lambda outcome: told.append(outcome.key)
    ) as client:
        await client.whatsapp_detail(NUMBER, key="A")
        await client.with_options(deadline=5).whatsapp_detail(NUMBER, key="B")
        await client.with_options(on_attempt=None, on_outcome=None).whatsapp_detail(NUMBER)
    assert told == ["charged", "A", "charged", "B"]
    assert len(seen.calls) == len(seen.attempts) == 2
    assert caplog.messages
    assert all(said.startswith("a hook failed: RuntimeError in on_attempt, ") for said in caplog.messages)
    assert all("test_telemetry.py:" in said for said in caplog.messages)


async def test_hooks_of_ones_own_are_called_where_an_exporter_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *given: Any, **named: Any) -> Any:
            raise_it = type("T", (), {"start_span": lambda *given, **named: 1 / 0})
            return raise_it()

    told: list[Outcome] = []
    made = instrument(client_of, tracer_provider=Broken(shutdown_on_exit=False), meter_provider=NoOpMeterProvider())
    async with made(in_turn(ok_whatsapp()), on_outcome=told.append) as client:
        assert (await client.whatsapp_detail(NUMBER)).charge is Charge.CHARGED
    assert len(told) == 1
    (said,) = caplog.messages
    assert said.startswith("a hook failed: ZeroDivisionError in on_")


@pytest.mark.parametrize("name", ["on_attempt", "on_outcome"])
def test_a_hook_that_is_none_is_refused(name: str) -> None:
    async def hook(*given: object) -> None:
        raise AssertionError

    for bad in (hook, 5):
        with pytest.raises(ConfigurationError, match=f"{name} must be a plain function"):
            Seen().client(in_turn(), **{name: bad})


def test_providers_that_are_none_are_refused() -> None:
    seen = Seen()
    with pytest.raises(ConfigurationError, match="tracer_provider is a MeterProvider: pass a TracerProvider"):
        instrument(AsyncClient, tracer_provider=seen.meters)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="meter_provider is a TracerProvider: pass a MeterProvider"):
        instrument(AsyncClient, meter_provider=seen.tracers)  # type: ignore[arg-type]


async def test_an_application_without_spans_of_its_own_has_one_trace_for_each_call() -> None:
    seen = Seen()
    async with seen.client(in_turn(ok_whatsapp())) as client:
        await client.whatsapp_detail(NUMBER)
        await client.whatsapp_detail(NUMBER)
    assert not trace.get_current_span().get_span_context().is_valid
    assert len({span.context.trace_id for span in seen.spans if span.context is not None}) == 2


def test_the_names_are_those_of_the_conventions() -> None:
    documented = telemetry.__doc__ or ""
    for name in (
        http_attributes.HTTP_REQUEST_METHOD,
        http_attributes.HTTP_RESPONSE_STATUS_CODE,
        http_attributes.HTTP_REQUEST_RESEND_COUNT,
        server_attributes.SERVER_ADDRESS,
        server_attributes.SERVER_PORT,
        url_attributes.URL_FULL,
        incubating_url.URL_TEMPLATE,
        error_attributes.ERROR_TYPE,
        http_metrics.HTTP_CLIENT_REQUEST_DURATION,
        incubating_http.HTTP_CLIENT_ACTIVE_REQUESTS,
    ):
        assert f"`{name}`" in documented
    assert {each.value for each in http_attributes.HttpRequestMethodValues} >= {"POST"}


async def test_all_that_is_said_is_documented() -> None:
    seen = Seen()
    async with seen.client(in_turn(says("RETRY_LATER", "x"), ok_whatsapp()), retry=Retry(first=0.001)) as client:
        items: Any = [WhatsAppDetail(NUMBER), WhatsAppDetail(NUMBER), "no call"]
        async with client.batch(items) as batch:
            async for _ in batch:
                pass
            metrics = seen.metrics()
    said: Sequence[str] = [*metrics, *(name for span in seen.spans for name in attributes(span))]
    said = [*said, *(name for points in metrics.values() for point in points for name, _ in point)]
    for name in said:
        assert f"`{name}`" in (telemetry.__doc__ or ""), name


GLOBAL = """
import asyncio, httpx
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aisolution_async import AsyncClient
from aisolution_async.integrations.telemetry import instrument

def client(made):
    answer = httpx.MockTransport(lambda request: httpx.Response(200, json={"status": "OK", "message": None}))
    return made("token", base_url="https://vendor.example", transport=answer)

async def main():
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    early = client(instrument(AsyncClient))
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader]))
    late = client(instrument(AsyncClient))
    told = client(instrument(AsyncClient, meter_provider=metrics.get_meter_provider()))
    async def waits():
        await asyncio.Event().wait()
        yield

    async with early, late, told, early.batch(waits()), late.batch(waits()), told.batch(waits()):
        for each in (early, late, told):
            await each.delete_face("p")
        data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    print(len(exporter.get_finished_spans()))
    found = {m.name: [point.value for point in m.data.data_points] for m in data if "duration" not in m.name}
    print(found["aisolution.calls"], found["aisolution.batches"], found["aisolution.braked"])

asyncio.run(main())
"""

ABSENT = """
import sys
sys.modules["opentelemetry"] = None
import aisolution_async.integrations.telemetry
"""


def run(code: str) -> tuple[int, str]:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def test_the_global_providers_may_be_set_later() -> None:
    assert run(GLOBAL) == (0, "6\n[3] [3] [0]\n")


def test_without_opentelemetry_it_says_what_to_install() -> None:
    status, output = run(ABSENT)
    assert status == 1
    assert "ImportError: opentelemetry-api is missing: pip install 'aisolution-async[telemetry]'" in output
