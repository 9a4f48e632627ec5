"""One call on its way: attempts, retries by the money rule, deadlines, options, lifecycle."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from urllib.parse import parse_qs

import httpx
import pytest

from aisolution_async import (
    AddFace,
    AISolutionError,
    AsyncClient,
    BudgetExhaustedError,
    Charge,
    ConfigurationError,
    DeletedFace,
    DeleteFace,
    FaceCompare,
    FaceNotFoundError,
    IdHolding,
    InputError,
    NotSentError,
    OutcomeUnknownError,
    RefusedError,
    Retry,
    RetryLaterError,
    SearchFace,
    StatusError,
    WhatsAppDetail,
    WhatsAppState,
)
from aisolution_async.integrations.instant import InstantLoop
from aisolution_async.wire import transport

from . import forks
from .crash import CountingSandbox
from .support import TOKEN, Vendor, client_of, in_turn, ok_whatsapp, picture, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
NUMBER = "81387300008"


def charges(attempts: Any) -> list[Charge]:
    return [attempt.charge for attempt in attempts]


# ------------------------------------------------------------------------------------------ what goes out


async def test_what_goes_out() -> None:
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor) as client:
        await client.whatsapp_detail(NUMBER, country="id", callback="https://x.example/cb", servstatus=True, key="k")
    (request,) = vendor.requests
    assert request.method == "POST"
    assert request.url.raw_path == b"/v1/gliswadetail?token=tok-3n%2Fsecret%2Bvalue%3D%3D"
    assert request.content == (b"callback=https%3A%2F%2Fx.example%2Fcb&number=%2B6281387300008&country=ID&servstatus=y")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers["host"] == "vendor.example"
    # The token is in the query string and nowhere else.
    assert b"secret" not in request.content
    assert not any("secret" in value for value in request.headers.values())


async def test_the_six_methods_ask_the_six_endpoints(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(picture(1))
    comparison = says("OK", {"similarity": 97.501, "result": "SAME PERSON"})
    vendor = in_turn(
        comparison,
        comparison,
        says("OK", {"group_id": "G", "person_id": "p", "person_count": 1}),
        says("OK", [{"confidence": 99.5, "person_id": "p"}]),
        says("OK", None),
        ok_whatsapp("no"),
    )
    async with client_of(vendor) as client:
        face = await client.face_compare(file, picture(2))
        assert (face.similarity, face.result, face.charge) == (97.501, "SAME PERSON", CHARGED)
        assert (await client.id_holding(io.BytesIO(picture(1)))).charge is CHARGED
        assert (await client.add_face(str(file))).person_id == "p"
        with file.open("rb") as opened:
            found = await client.search_face(opened)
        assert found.matches[0].confidence == 99.5
        assert isinstance(await client.delete_face("p"), DeletedFace)
        assert (await client.whatsapp_detail(NUMBER)).whatsapp is WhatsAppState.NO
        counts = {name: (c.charged, c.free, c.unknown) for name, c in client.tally.by_endpoint.items()}
    assert counts == {
        "facecompare": (1, 0, 0),
        "idholding": (1, 0, 0),
        "addface": (0, 1, 0),
        "searchface": (1, 0, 0),
        "delface": (0, 1, 0),
        "gliswadetail": (1, 0, 0),
    }
    assert [request.url.path.removeprefix("/v1/") for request in vendor.requests] == list(counts)
    assert [sorted(parse_qs(r.content.decode())) for r in vendor.requests] == [
        ["img1", "img2"],
        ["img"],
        ["img"],
        ["img"],
        ["person_id"],
        ["number"],
    ]


def test_calls_are_values_that_show_nothing() -> None:
    call = FaceCompare("a.jpg", b"bytes", key="k")
    assert call == FaceCompare(img1="a.jpg", img2=b"bytes", key="k")
    with pytest.raises(AttributeError):
        call.img1 = "b.jpg"  # type: ignore[misc]
    for one in (call, WhatsAppDetail(NUMBER, key="k"), IdHolding("a", key="k"), DeleteFace("p", key="k")):
        assert repr(one) == f"{type(one).__name__}(key='k')"


# ---------------------------------------------------------------------------------- retries by the money rule


@virtual
async def test_free_and_passing_is_repeated() -> None:
    vendor = in_turn(
        says("RETRY_LATER", "busy"),
        httpx.Response(503),
        httpx.Response(429),
        httpx.ConnectError("refused"),
        ok_whatsapp(),
    )
    async with client_of(vendor) as client:
        reply = await client.whatsapp_detail(NUMBER)
        assert charges(reply.attempts) == [FREE, FREE, FREE, FREE, CHARGED]
        assert reply.charge is CHARGED
        assert [a.status for a in reply.attempts] == ["RETRY_LATER", None, None, None, "OK"]
        assert [a.http_status for a in reply.attempts] == [200, 503, 429, None, 200]
        assert [a.error is None for a in reply.attempts] == [False, False, False, False, True]
        assert (client.tally.charged, client.tally.free, client.tally.unknown) == (1, 4, 0)


@virtual
async def test_the_retries_are_used_up() -> None:
    vendor = in_turn(says("RETRY_LATER", "Service is not available right now"))
    async with client_of(vendor, retry=2) as client:
        with pytest.raises(RetryLaterError) as caught:
            await client.whatsapp_detail(NUMBER, key=7)
    error = caught.value
    assert (error.status, error.message, error.endpoint, error.key) == (
        "RETRY_LATER",
        "Service is not available right now",
        "gliswadetail",
        7,
    )
    assert len(error.attempts) == len(vendor.requests) == 3
    assert error.charge is FREE


LOST = (b'{"status": "O', b"<html>")


@pytest.mark.parametrize(
    "answer",
    [
        says("INVALID_INPUT", "x"),
        says("FAIL", "x"),
        says("RETRY_LATER", "IMAGEA_FACE_DETECT_FAILED"),
        says("NEW", "x"),
        says("OK", {"unfit": 1}),
        httpx.Response(401),
        httpx.Response(500),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(302, headers={"Location": "https://elsewhere.example/?token=x"}),
        httpx.ReadTimeout("t"),
        httpx.ReadError("t"),
        httpx.WriteError("t"),
        httpx.WriteTimeout("t"),
        httpx.RemoteProtocolError("t"),
        httpx.DecodingError("t"),
        ValueError("whatever a transport of yours raises"),
        OSError(5, "t"),
    ],
    ids=repr,
)
async def test_nothing_else_is_repeated(answer: Any) -> None:
    vendor = in_turn(answer)
    async with client_of(vendor) as client:
        with pytest.raises(AISolutionError) as caught:
            await client.whatsapp_detail(NUMBER)
        assert len(vendor.requests) == len(caught.value.attempts) == 1
        assert client.tally.total == 1
        assert isinstance(caught.value, OutcomeUnknownError) is (
            isinstance(answer, Exception)
            or answer.status_code in (302, 500)
            or b"OK" in answer.content
            or b"<" in answer.content
        )
        assert caught.value.__cause__ is caught.value.__context__ is None


async def test_what_the_face_endpoints_say_of_faces() -> None:
    vendor = in_turn(says("RETRY_LATER", "IMAGEB_FACE_DETECT_FAILED"))
    async with client_of(vendor) as client:
        with pytest.raises(FaceNotFoundError, match="no face was found") as caught:
            await client.face_compare(picture(1), picture(2))
    assert (caught.value.charge, caught.value.message) == (FREE, "IMAGEB_FACE_DETECT_FAILED")


@virtual
async def test_unknown_is_repeated_only_when_told() -> None:
    lost = httpx.ReadTimeout("lost")
    async with client_of(in_turn(lost, lost, ok_whatsapp()), retry_unknown=2) as client:
        reply = await client.whatsapp_detail(NUMBER)
        assert charges(reply.attempts) == [UNKNOWN, UNKNOWN, CHARGED]
        assert reply.charge is CHARGED
    async with client_of(in_turn(lost, lost, ok_whatsapp()), retry=Retry(unknown=1)) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.whatsapp_detail(NUMBER)
        assert charges(caught.value.attempts) == [UNKNOWN, UNKNOWN]
        assert caught.value.charge is UNKNOWN
    async with client_of(in_turn(lost, ok_whatsapp("checking")), retry_unknown=1) as client:
        # The last attempt was free, and yet nobody can tell what the call cost.
        assert (await client.whatsapp_detail(NUMBER)).charge is UNKNOWN


@virtual
async def test_deleting_is_repeated_and_gone_means_deleted() -> None:
    gone = says("PERSON_ID_NOT_EXIST", None)
    async with client_of(in_turn(httpx.ReadTimeout("lost"), gone)) as client:
        reply = await client.delete_face("p")
        assert charges(reply.attempts) == [UNKNOWN, FREE]
    async with client_of(in_turn(gone)) as client:
        with pytest.raises(StatusError, match="PERSON_ID_NOT_EXIST"):
            await client.delete_face("p")
    async with client_of(in_turn(says("RETRY_LATER", "x"), gone)) as client:
        with pytest.raises(StatusError, match="PERSON_ID_NOT_EXIST"):
            await client.delete_face("p")


@virtual
async def test_every_attempt_sends_the_whole_form() -> None:
    vendor = in_turn(
        says("RETRY_LATER", "x"), says("RETRY_LATER", "x"), says("OK", [{"confidence": 1, "person_id": "p"}])
    )
    async with client_of(vendor, deadline=None) as client:
        await client.send(SearchFace(io.BytesIO(picture(3))))  # an object that can be read once
    assert len({request.content for request in vendor.requests}) == 1
    assert len(vendor.requests) == 3


# --------------------------------------------------------------------------------------------- time


@virtual
async def test_retry_after_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    times = []

    def script(request: httpx.Request, number: int) -> httpx.Response:
        times.append(loop.time())
        return ok_whatsapp() if number else httpx.Response(429, headers={"Retry-After": "30"})

    async with client_of(Vendor(script), retry=Retry(first=0.5)) as client:
        await client.whatsapp_detail(NUMBER)
    assert 30 <= times[1] - times[0] <= 30.5


@virtual
async def test_a_retry_after_beyond_the_deadline_ends_it() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    vendor = in_turn(httpx.Response(429, headers={"Retry-After": "3600"}))
    async with client_of(vendor, deadline=100) as client:
        with pytest.raises(RetryLaterError) as caught:
            await client.whatsapp_detail(NUMBER)
    assert caught.value.retry_after == 3600
    assert loop.time() - start < 1
    assert len(vendor.requests) == 1


@virtual
async def test_the_deadline_is_over_all_attempts() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def slow(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(3)
        return says("RETRY_LATER", "x")

    async with client_of(Vendor(slow), deadline=10, retry=100) as client:
        with pytest.raises(AISolutionError) as caught:
            await client.whatsapp_detail(NUMBER)
    assert loop.time() - start <= 10.001
    assert len(caught.value.attempts) in (2, 3, 4)


@virtual
async def test_a_server_that_hangs_is_left_at_the_deadline() -> None:
    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1e6)
        raise AssertionError

    async with client_of(Vendor(hang), deadline=5) as client:
        with pytest.raises(OutcomeUnknownError, match="the deadline passed"):
            await client.whatsapp_detail(NUMBER)
        assert client.tally.unknown == 1


@virtual
async def test_waits_are_full_jitter_under_a_growing_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    roofs: list[float] = []

    def whole(roof: float) -> float:
        roofs.append(roof)
        return roof

    monkeypatch.setattr("backoff.full_jitter", whole)
    async with client_of(in_turn(says("RETRY_LATER", "x")), retry=Retry(max_retries=5, first=1, longest=6)) as client:
        with pytest.raises(RetryLaterError):
            await client.whatsapp_detail(NUMBER)
    assert roofs == [1, 2, 4, 6, 6]


# --------------------------------------------------------------------------------------- input and cancelling


@pytest.mark.parametrize(
    "call",
    [
        WhatsAppDetail("12"),
        WhatsAppDetail(NUMBER, country="Indonesia"),
        WhatsAppDetail(NUMBER, callback="x"),
        WhatsAppDetail(NUMBER, servstatus="y"),  # type: ignore[arg-type]
        FaceCompare(b"", picture(1)),
        FaceCompare(Path("missing.jpg"), picture(1)),
        FaceCompare(picture(1), b"hello"),
        IdHolding(io.BytesIO(b"<html>502 Bad Gateway</html>")),
        SearchFace(base64.b64encode(b"%PDF-1.7\n%\xe2" + bytes(4000)).decode()),
        AddFace(b"x" * 3_000_000),
        DeleteFace(""),
    ],
)
async def test_bad_input_is_not_sent(call: Any) -> None:
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor) as client:
        with pytest.raises(InputError) as caught:
            await client.send(call)
        assert client.tally.total == 0
    assert caught.value.attempts == ()
    assert caught.value.charge is FREE
    assert caught.value.endpoint == call.endpoint.name
    assert not vendor.requests


async def test_no_call_at_all() -> None:
    async with client_of(in_turn(ok_whatsapp())) as client:
        with pytest.raises(InputError, match="a str is no call"):
            await client.send("number")  # type: ignore[arg-type]


async def test_a_cancelled_call_is_counted() -> None:
    entered = asyncio.Event()

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        entered.set()
        await asyncio.sleep(1e6)
        raise AssertionError

    async with client_of(Vendor(hang)) as client:
        task = asyncio.create_task(client.whatsapp_detail(NUMBER))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.tally.unknown == 1


# --------------------------------------------------------------------------------------------- the tree


def test_errors_travel_between_processes() -> None:
    error = RetryLaterError(
        "text", status="RETRY_LATER", message={"a": 1}, retry_after=3.0, endpoint="delface", key="k"
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)


def test_the_tree() -> None:
    assert issubclass(BudgetExhaustedError, NotSentError)
    assert not issubclass(RefusedError, StatusError)
    assert BudgetExhaustedError("x").charge is FREE


# --------------------------------------------------------------------------------------- lifecycle, options


async def test_a_closed_client_says_so() -> None:
    vendor = in_turn(ok_whatsapp())
    client = client_of(vendor)
    await client.whatsapp_detail(NUMBER)  # no `async with` needed
    await client.aclose()
    await client.aclose()
    assert vendor.closed == 1
    assert "closed" in repr(client)
    with pytest.raises(ConfigurationError, match="the client is closed"):
        await client.whatsapp_detail(NUMBER)
    with pytest.raises(ConfigurationError, match="the client is closed"):
        async with client:
            pass
    with pytest.raises(ConfigurationError, match="the client is closed"):
        async with client.batch([]):
            pass


def test_one_client_from_two_loops_says_so() -> None:
    client = client_of(in_turn(ok_whatsapp()))
    asyncio.run(_ask(client))
    with pytest.raises(ConfigurationError, match="close it there"):
        asyncio.run(client.aclose())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(_ask(client))


async def _ask(client: AsyncClient) -> None:
    await client.whatsapp_detail(NUMBER)


@virtual
async def test_a_view_has_other_options_on_the_same_pool() -> None:
    vendor = in_turn(says("RETRY_LATER", "x"))
    async with client_of(vendor, retry=Retry(max_retries=3, unknown=1)) as client:
        async with client.with_options(retry=0, deadline=None, timeout=3, max_image_bytes=10) as view:
            with pytest.raises(RetryLaterError):
                await view.whatsapp_detail(NUMBER)
            assert len(vendor.requests) == 1
            with pytest.raises(InputError):
                await view.add_face(picture(1))
            assert view.tally is client.tally
            assert vendor.requests[0].extensions["timeout"]["read"] == 3
        with pytest.raises(RetryLaterError):  # closing the view closed nothing
            await client.whatsapp_detail(NUMBER)
        assert len(vendor.requests) == 5
        other = client.with_options(charge_rules={"gliswadetail": {"RETRY_LATER": Charge.CHARGED}})
        with pytest.raises(RetryLaterError) as caught:
            await other.whatsapp_detail(NUMBER)
        assert caught.value.charge is CHARGED


@virtual
async def test_views_and_the_unknown() -> None:
    vendor = in_turn(httpx.ReadTimeout("lost"))
    async with client_of(vendor) as client:
        for view, attempts in (
            (client.with_options(retry_unknown=2), 3),
            (client.with_options(retry=Retry(unknown=1)), 2),
            (client.with_options(retry_unknown=2).with_options(retry=1), 3),
        ):
            with pytest.raises(OutcomeUnknownError) as caught:
                await view.whatsapp_detail(NUMBER)
            assert len(caught.value.attempts) == attempts


async def test_charge_rules() -> None:
    rules = {"gliswadetail": {"OK:checking": "charged", "NEW": Charge.FREE}}
    async with client_of(in_turn(ok_whatsapp("checking"), says("NEW")), charge_rules=rules) as client:
        assert (await client.whatsapp_detail(NUMBER)).charge is CHARGED
        with pytest.raises(StatusError) as caught:
            await client.whatsapp_detail(NUMBER)
        assert caught.value.charge is FREE


@pytest.mark.parametrize(("endpoint", "goes"), [("gliswadetail", True), ("addface", False)])
async def test_what_never_charges_needs_no_budget_unless_charge_rules_say_otherwise(endpoint: str, goes: bool) -> None:
    vendor = in_turn(says("OK", {"group_id": "G", "person_id": "p", "person_count": 1}))
    async with client_of(vendor, charge_rules={endpoint: {"OK": "charged"}}) as client:
        (outcome,) = await client.collect([AddFace(picture(1))], max_charges=0)
    assert (outcome.ok, len(vendor.requests)) == (goes, goes)
    assert goes or isinstance(outcome.error, BudgetExhaustedError)


async def test_a_tally_adds_up() -> None:
    answers = [ok_whatsapp("no"), ok_whatsapp("checking"), *[httpx.Response(500)] * 2, says("OK", None)]
    async with client_of(in_turn(*answers)) as client:
        for call in [WhatsAppDetail(number=NUMBER)] * 4 + [DeleteFace(person_id="p")]:
            with contextlib.suppress(OutcomeUnknownError):
                await client.send(call)
        assert client.tally.total == 5
        totals = {name: counts.total for name, counts in client.tally.by_endpoint.items()}
        assert totals == {"gliswadetail": 4, "delface": 1}
        assert client.tally == ANY  # what is no tally is asked for its own word


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", " tok \n")
    monkeypatch.setenv("AISOLUTION_BASE_URL", "http://127.0.0.1:9/v1/")
    assert repr(AsyncClient()) == "<AsyncClient of http://127.0.0.1:9, open, Tally(charged=0, free=0, unknown=0)>"
    monkeypatch.delenv("AISOLUTION_BASE_URL")
    assert "https://api.aisolution.credit" in repr(AsyncClient())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": None}, "set the environment variable AISOLUTION_TOKEN"),
        ({"token": "  "}, "no token"),
        ({"token": b"x"}, "the token is a bytes"),
        ({"token": "secret\x00"}, "control characters"),
        ({"token": "secret\udc80"}, "bytes that are no text"),
        ({"base_url": "http://api.aisolution.credit"}, "plain http"),
        ({"base_url": "http://localhost.evil.example"}, "plain http"),
        ({"base_url": "http://10.0.0.1"}, "plain http"),
        ({"base_url": "api.aisolution.credit"}, "no http.s. URL"),
        ({"base_url": "ftp://x.example"}, "no http.s. URL"),
        ({"base_url": "https://[::1"}, "no http.s. URL"),
        ({"base_url": "https://user:hunter2@x.example"}, "no user"),
        ({"base_url": "https://x.example/?a=secret"}, "no user, query"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "x"}, "timeout"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"retry": -1}, "max_retries"),
        ({"retry": True}, "retry must be"),
        ({"retry": "x"}, "retry must be"),
        ({"retry_unknown": -1}, "unknown"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_image_bytes": 1.5}, "max_image_bytes"),
        ({"charge_rules": {"nothing": {}}}, "no endpoint 'nothing'"),
        ({"charge_rules": {"delface": Charge.FREE}}, "charge_rules look like"),
        ({"charge_rules": [1]}, "charge_rules look like"),
        ({"charge_rules": {"delface": {"okk": "free"}}}, "charge_rules look like"),
        ({"deadline": True}, "deadline"),
        ({"timeout": True}, "timeout"),
        ({"transport": httpx.HTTPTransport()}, "transport is an HTTPTransport"),
        ({"charge_rules": {"delface": {"OK": "cheap"}}}, "none of charged, free, unknown"),
        ({"proxy": "gopher://x"}, "the proxy cannot be used"),
        ({"proxy": "http://x", "transport": httpx.MockTransport(lambda _: httpx.Response(200))}, "either transport"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AISOLUTION_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match=words) as caught:
        AsyncClient(**{"token": TOKEN, **options})
    assert "secret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("retry", [{"max_retries": 1.5}, {"first": 0}, {"first": 9, "longest": 3}, {"unknown": True}])
def test_a_bad_retry(retry: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Retry"):
        Retry(**retry)


@pytest.mark.parametrize(
    "base_url",
    ["http://localhost:1", "http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]:8", "https://x.example/api/v1/"],
)
def test_good_base_urls(base_url: str) -> None:
    assert AsyncClient(TOKEN, base_url=base_url).base_url == base_url.removesuffix("/v1/")


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"status": "OK", "status": "FAIL", "message": null}', b'{"status": 1, "status": 2}']
)
@virtual
async def test_a_server_says_how_long_to_wait_after_an_unknown_outcome_too(body: bytes) -> None:
    vendor = in_turn(httpx.Response(502, content=body, headers={"Retry-After": "3s"}), ok_whatsapp())
    async with client_of(vendor, retry_unknown=1) as client:
        started = asyncio.get_running_loop().time()
        await client.whatsapp_detail(NUMBER)
        assert 3 <= asyncio.get_running_loop().time() - started < 10


@virtual
async def test_a_wait_with_a_unit_is_waited_for() -> None:
    """As some vendors say it, beside an envelope and HTTP 200."""
    vendor = in_turn(says("RETRY_LATER", "busy", headers={"Retry-After": "10s"}), ok_whatsapp())
    async with client_of(vendor) as client:
        began = asyncio.get_running_loop().time()
        assert (await client.whatsapp_detail("+6281387300008")).whatsapp == "yes"
        assert asyncio.get_running_loop().time() - began >= 10


@pytest.mark.parametrize("port", [0, 65536, 99999])
async def test_a_callback_to_a_port_that_cannot_be(port: int) -> None:
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor) as client:
        with pytest.raises(InputError, match="callback is no http"):
            await client.whatsapp_detail("+6281387300008", callback=f"https://x.example:{port}/")
    assert vendor.requests == []


def test_virtual_time_is_virtual() -> None:
    loop = InstantLoop()
    start = loop.time()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() - start == pytest.approx(3600, abs=1)
    loop.close()


# ---------------------------------------------------------------------------------------------- photos made to fit


def phone_photo(seed: int) -> bytes:
    """A photo on its side, of more than 2 MiB."""
    from PIL import Image

    small = Image.frombytes("RGB", (500, 400), random.Random(seed).randbytes(500 * 400 * 3))
    image = small.resize((3000, 2400), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100, exif=exif)
    return file.getvalue()


def sent(request: httpx.Request) -> list[bytes]:
    return [base64.b64decode(value[0]) for value in parse_qs(request.content.decode()).values()]


async def test_photos_are_made_to_fit(tmp_path: Path) -> None:
    from PIL import Image

    photo, small = phone_photo(1), picture(2)
    assert len(photo) > 2 * 1024 * 1024
    (tmp_path / "a.jpg").write_bytes(photo)
    vendor = in_turn(says("OK", {"similarity": 1, "result": "NOT SURE"}))
    async with client_of(vendor, ledger=tmp_path / "a.ledger") as client:
        with pytest.raises(InputError, match=r"over the limit of 2 MiB"):
            await client.face_compare(photo, small)
        fitting = client.with_options(fit=True)
        await fitting.face_compare(tmp_path / "a.jpg", small)
        # The same photo is the same call, in whatever form it is sent.
        again = await fitting.face_compare(io.BytesIO(photo), small)
        assert again.answered_at is not None
        calls = [IdHolding(photo, key=n) for n in range(3)] + [IdHolding(photo[:-50_000], key=3)]
        async with fitting.batch(calls, ordered=True) as batch:
            outcomes = [outcome async for outcome in batch]
    assert [outcome.answered_by is None for outcome in outcomes].count(True) == 2
    error = outcomes[3].error
    assert isinstance(error, InputError)
    assert "cut off" in str(error)
    assert len(vendor.requests) == 2
    first, untouched = sent(vendor.requests[0])
    assert untouched == small
    for image in (first, *sent(vendor.requests[1])):
        assert len(image) <= 1_400_000
        opened = Image.open(io.BytesIO(image))
        assert 800 <= opened.height <= 2016
        assert opened.width < opened.height
        assert dict(opened.getexif()) == {}


FORK = """
import os
from aisolution_async.wire import transport

before = transport._forks
if not (child := os.fork()):
    os._exit(transport._forks - before)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
assert transport._forks == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_knows_that_it_is_one() -> None:
    code, said = forks.run(["-c", FORK])
    assert code == 0, said


async def test_a_fork_of_a_client_sends_nothing(ledger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the fork: the call has its leave to be sent already."""
    async with CountingSandbox() as sandbox:
        async with AsyncClient(sandbox.token, base_url=sandbox.url, ledger=ledger_path) as client:
            monkeypatch.setattr(transport, "_forks", transport._forks + 1)
            with pytest.raises(ConfigurationError, match="this process is a fork of the client's") as caught:
                await client.whatsapp_detail("+6281387300000")
        assert caught.value.charge is Charge.FREE
        assert sandbox.charged.total() == 0
