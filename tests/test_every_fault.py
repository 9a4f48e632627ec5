"""Everything that the sandbox can do wrong, and what the client makes of it: how it ends, what each attempt costs.

What is expected is written down here and in `tests/chaos.py` by the contract, not by the client. The sandbox's bill is
the other side of every row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from aisolution_async import (
    AddedFace,
    AddFace,
    AISolutionError,
    AsyncClient,
    Call,
    Charge,
    DeletedFace,
    DeleteFace,
    FaceCompare,
    FaceComparison,
    FaceMatches,
    FaceNotFoundError,
    IdHolding,
    ImageTooLargeError,
    InputError,
    InvalidRequestError,
    Judgment,
    OutcomeUnknownError,
    RefusedError,
    Reply,
    Retry,
    RetryLaterError,
    SearchFace,
    ServiceFailedError,
    UnknownStatusError,
    WhatsAppDetail,
    WhatsAppProfile,
    WhatsAppState,
)
from aisolution_async.api import ENDPOINTS
from aisolution_async.sandbox import MAGIC_NUMBERS, Clock, Fault, Sandbox, images
from aisolution_async.sandbox.faults import KINDS
from aisolution_async.sandbox.magic import HOSTILE

from .chaos import DOCUMENTED, ERRORS, LETTERS, NEVER_CHARGES, REPLIES, of_http, of_status

RETRIES = 2
RETRY = Retry(max_retries=RETRIES, first=0.001, longest=0.001)
PATIENT, IMPATIENT = httpx.Timeout(30), httpx.Timeout(30, read=0.15)
"""The real seconds that the client waits, and those that it waits for what hangs; all else comes at once."""

SAME, OTHER = Judgment.SAME_PERSON, Judgment.NOT_SAME_PERSON
YES, NO, CHECKING, UNAVAILABLE = WhatsAppState
Ends = type[Reply | AISolutionError]


@dataclass(frozen=True, slots=True)
class Row:
    """What one call comes to.

    `ends`: as which reply or error, exactly. `charges`: a letter for each attempt, C, F or U. `says`: what the reply or
    the error holds. `lost`: how many attempts the vendor charged whose answers did not come, or came unfit. `unseen`:
    how many the vendor knows nothing of. `waits`: the seconds that it was told to wait.
    """

    ends: Ends
    charges: str
    says: Mapping[str, object] = field(default_factory=dict)
    lost: int = 0
    unseen: int = 0
    waits: float = 0.0
    servstatus: bool = False
    after: float = 0.0
    """How much later than the row before it this one is asked, in seconds of the sandbox."""


Seen = Callable[..., Awaitable[None]]


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Ask `call` of a sandbox and hold what comes of it against `row`; the client's waits take no time."""
    waits: list[float] = []
    vendor: Sandbox

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        vendor.clock.advance(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr("aisolution_async.clock.sleep", sleep)

    async def see(sandbox: Sandbox, call: Call[Any], row: Row, *, kind: str = "", **options: Any) -> None:
        nonlocal vendor
        if kind == "hang":
            options["timeout"] = IMPATIENT
        vendor = sandbox
        waits.clear()
        sandbox.bill.clear()
        came: Reply | AISolutionError
        async with hurry(sandbox, kind in ("latency", "drip")):
            async with client_of(sandbox, **options) as client:
                try:
                    came = await client.send(call)
                except AISolutionError as error:
                    came = error
        assert type(came) is row.ends, came
        assert "".join(LETTERS[attempt.charge] for attempt in came.attempts) == row.charges
        assert [attempt.number for attempt in came.attempts] == list(range(1, len(row.charges) + 1))
        assert came.charge is dearest(row.charges)
        assert {name: getattr(came, name) for name in row.says} == row.says
        assert row.waits <= sum(waits) < row.waits + 0.01

        endpoint, tally, bill = call.endpoint.name, client.tally, sandbox.bill
        assert set(tally.by_endpoint) | set(bill.by_endpoint) <= {endpoint}
        charged, free, unknown = (row.charges.count(letter) for letter in "CFU")
        assert (tally.charged, tally.free, tally.unknown) == (charged, free, unknown)
        assert bill.delivered.charged == charged
        assert bill.charged == charged + row.lost
        assert bill.free == free + unknown - row.lost - row.unseen
        if not unknown:
            assert bill == tally

    return see


@asynccontextmanager
async def hurry(sandbox: Sandbox, wanted: bool) -> AsyncIterator[None]:
    """Let the sandbox's time pass much faster than it does."""

    async def run() -> None:
        while True:
            await asyncio.sleep(0.001)
            sandbox.clock.advance(1)

    task = asyncio.create_task(run() if wanted else asyncio.sleep(0))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def client_of(sandbox: Sandbox, **options: Any) -> AsyncClient:
    options = {"timeout": PATIENT, "retry": RETRY, **options}
    return AsyncClient(sandbox.token, base_url=sandbox.url, **options)


def dearest(charges: str) -> Charge:
    letter = next((letter for letter in "CU" if letter in charges), "F")
    return next(charge for charge, of in LETTERS.items() if of == letter)


def sandbox_of(*faults: Fault) -> Sandbox:
    """A sandbox whose time stands still."""
    return Sandbox(faults=faults, clock=Clock(ticking=False))


# ------------------------------------------------------------------------------------------- the magic numbers


def answers(whatsapp: object, charges: str = "C", **how: Any) -> Row:
    """A profile."""
    lost = how.pop("lost", 0)
    waits = how.pop("waits", 0.0)
    servstatus = how.pop("servstatus", False)
    after = how.pop("after", 0.0)
    return Row(WhatsAppProfile, charges, {"whatsapp": whatsapp, **how}, lost, 0, waits, servstatus, after)


def fails(ends: Ends, charges: str, *, lost: int = 0, waits: float = 0.0, servstatus: bool = False, **says: Any) -> Row:
    """An error."""
    return Row(ends, charges, says, lost, 0, waits, servstatus)


NOTHING_MORE: Mapping[str, Any] = {"status_update": None, "signature": None, "business_user": None, "avatar": None}
LOST = fails(OutcomeUnknownError, "U", lost=1, http_status=None, status=None)

# By name; what is asked more than once, of one sandbox, has more than one row.
NUMBERS: tuple[tuple[str, *tuple[Row, ...]], ...] = (
    ("yes", answers(YES, status_update="20180825", signature="Saya suka global", business_user="no", avatar="yes")),
    ("business", answers(YES, business_user="yes")),
    ("no", answers(NO, **NOTHING_MORE)),
    ("bare", answers(YES, **NOTHING_MORE)),
    ("hostile", answers(YES, signature=HOSTILE)),
    ("checking-twice", answers(CHECKING, "F"), answers(CHECKING, "F"), answers(YES), answers(YES)),
    (
        "checking-20-seconds",
        answers(CHECKING, "F"),
        answers(CHECKING, "F", after=19.9),
        answers(YES, after=0.2),
        answers(YES),
    ),
    ("checking-for-ever", answers(CHECKING, "F"), answers(CHECKING, "F", after=1e6)),
    ("unavailable", fails(RetryLaterError, "FFF", status="RETRY_LATER"), answers(UNAVAILABLE, "F", servstatus=True)),
    ("unavailable-once", answers(YES, "FC"), answers(YES)),
    ("unavailable-once", answers(UNAVAILABLE, "F", servstatus=True), answers(YES, servstatus=True)),
    # Without a callback to make.
    ("callback-once", answers(YES)),
    ("callback-twice", answers(YES)),
    ("callback-late", answers(YES)),
    ("callback-never", answers(YES)),
    ("callback-stranger", answers(YES)),
    ("callback-unescaped", answers(YES)),
    ("callback-no", answers(NO)),
    ("invalid-input", fails(InvalidRequestError, "F", status="INVALID_INPUT")),
    ("fail", fails(ServiceFailedError, "F", status="FAIL")),
    ("retry-later", fails(RetryLaterError, "FFF", status="RETRY_LATER", retry_after=None)),
    ("retry-later-once", answers(YES, "FC"), answers(YES)),
    ("retry-later-twice", answers(YES, "FFC"), answers(YES)),
    ("unknown-status", fails(UnknownStatusError, "U", status="QUOTA_EXCEEDED")),
    ("unfitting", fails(OutcomeUnknownError, "U", lost=1, status="OK", message="nothing that fits", http_status=200)),
    ("unknown-word", answers("maybe")),
    ("http-401", fails(RefusedError, "F", http_status=401)),
    ("http-403", fails(RefusedError, "F", http_status=403)),
    ("http-404", fails(RefusedError, "F", http_status=404)),
    ("http-429", fails(RetryLaterError, "FFF", http_status=429, status=None, retry_after=1.0, waits=2.0)),
    ("http-429-once", answers(YES, "FC", waits=1.0), answers(YES)),
    ("http-500", fails(OutcomeUnknownError, "U", http_status=500, body=b"out of order\n")),
    ("http-502", fails(OutcomeUnknownError, "U", http_status=502, body=b"out of order\n")),
    ("http-502-charged", fails(OutcomeUnknownError, "U", lost=1, http_status=502, body=b"out of order\n")),
    ("http-503", fails(RetryLaterError, "FFF", http_status=503, status=None, retry_after=None)),
    ("http-503-once", answers(YES, "FC", waits=1.0), answers(YES)),
    ("http-504", fails(OutcomeUnknownError, "U", http_status=504, body=b"out of order\n")),
    ("hang", LOST),
    ("reset-after", LOST),
    ("reset-middle", LOST),
    ("drip", answers(YES, signature="Saya suka global")),
    ("garbage", LOST),
    ("not-json", fails(OutcomeUnknownError, "U", lost=1, http_status=200, status=None)),
    ("truncated", fails(OutcomeUnknownError, "U", lost=1, http_status=200, status=None)),
    ("huge", LOST),
    ("content-type", answers(YES, signature="Saya suka global")),
    ("reset-after-once", LOST, answers(YES)),
)


@pytest.mark.parametrize(("name", "rows"), [pytest.param(name, rows, id=name) for name, *rows in NUMBERS])
async def test_a_magic_number(see: Seen, name: str, rows: list[Row]) -> None:
    async with sandbox_of() as sandbox:
        for row in rows:
            sandbox.clock.advance(row.after)
            call = WhatsAppDetail(sandbox.number(name), servstatus=row.servstatus)
            await see(sandbox, call, row, kind=name)


@pytest.mark.parametrize("country", ["ID", "PH", "IN", "VN"])
async def test_a_magic_number_of_each_country(see: Seen, country: str) -> None:
    async with sandbox_of() as sandbox:
        number = sandbox.number("fail", country=country)
        await see(sandbox, WhatsAppDetail(number), fails(ServiceFailedError, "F"))
        await see(sandbox, WhatsAppDetail(f"0{number[3:]}", country), fails(ServiceFailedError, "F"))


async def test_a_lost_answer_is_bought_again_where_that_is_wished(see: Seen) -> None:
    async with sandbox_of() as sandbox:
        call = WhatsAppDetail(sandbox.number("reset-after-once"))
        await see(sandbox, call, answers(YES, "UC", lost=1), retry_unknown=1)
        call = WhatsAppDetail(sandbox.number("reset-after"))
        await see(sandbox, call, replace(LOST, charges="UU", lost=2), retry_unknown=1)


# ------------------------------------------------------------------------------------------- the tagged images

IMAGE_ENDPOINTS = ("facecompare", "idholding", "addface", "searchface")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's maker and its arguments, and its row at each endpoint; compared with alice."""

    maker: str
    arguments: tuple[str, ...]
    rows: tuple[Row, Row, Row, Row]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "/".join((self.maker, *self.arguments, *self.options))


def alike(similarity: float, result: Judgment, charges: str = "C") -> Row:
    return Row(FaceComparison, charges, {"similarity": similarity, "result": result})


ALICE, SOMEBODY_ELSE = alike(97.501, SAME), alike(27.501, OTHER)
ADDED, FOUND_NOBODY = Row(AddedFace, "F", {"person_count": 1}), Row(FaceMatches, "C", {"matches": []})
NOT_HOLDING = fails(FaceNotFoundError, "F", status="INVALID_FACE_NUM")
NO_FACE = fails(FaceNotFoundError, "F", status="FACE_DETECT_FAILED")
UNFIT = fails(OutcomeUnknownError, "U", lost=1, status="OK", message="nothing that fits")
NOT_SENT = Row(InputError, "")

PICTURES = (
    Picture("person", ("alice",), (ALICE, NOT_HOLDING, ADDED, FOUND_NOBODY)),
    Picture("person", ("bob",), (SOMEBODY_ELSE, NOT_HOLDING, ADDED, FOUND_NOBODY)),
    Picture("holding", ("alice",), (ALICE, ALICE, ADDED, FOUND_NOBODY)),
    Picture("holding", ("alice", "bob"), (ALICE, SOMEBODY_ELSE, ADDED, FOUND_NOBODY)),
    Picture("two-people", ("alice", "bob"), (ALICE, NOT_HOLDING, ADDED, FOUND_NOBODY)),
    Picture("nobody", (), (fails(FaceNotFoundError, "F", status="RETRY_LATER"), NOT_HOLDING, NO_FACE, NO_FACE)),
    Picture(
        "retry-once",
        ("alice",),
        (
            replace(ALICE, charges="FC"),
            replace(NOT_HOLDING, charges="FF"),
            replace(ADDED, charges="FF"),
            replace(FOUND_NOBODY, charges="FC"),
        ),
    ),
    Picture("unfitting", (), (UNFIT, UNFIT, replace(UNFIT, lost=0), UNFIT)),
    Picture("similarity", ("70",), (alike(70, SAME), alike(70, SAME), ADDED, FOUND_NOBODY)),
    Picture(
        "similarity",
        ("69.999",),
        (alike(69.999, Judgment.NOT_SURE), alike(69.999, Judgment.NOT_SURE), ADDED, FOUND_NOBODY),
    ),
    Picture("similarity", ("44.999",), (alike(44.999, OTHER), alike(44.999, OTHER), ADDED, FOUND_NOBODY)),
    Picture("too-large", (), (NOT_SENT,) * 4),
    Picture(
        "too-large",
        (),
        (
            fails(ImageTooLargeError, "F", status="IMAGE_INVALID_SIZE"),
            fails(ImageTooLargeError, "F", status="IMAGE_INVALID_SIZE"),
            fails(ServiceFailedError, "F", status="FAIL"),
            fails(ServiceFailedError, "F", status="FAIL"),
        ),
        {"max_image_bytes": 3 * 1024 * 1024},
    ),
)


def calls_of(endpoint: str, picture: bytes) -> list[Call[Any]]:
    """What can be asked about a picture."""
    alice = images.person("alice")
    match endpoint:
        case "facecompare":
            return [FaceCompare(picture, alice), FaceCompare(alice, picture)]
        case "idholding":
            return [IdHolding(picture)]
        case "addface":
            return [AddFace(picture)]
        case "searchface":
            return [SearchFace(picture)]
    raise AssertionError(endpoint)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
@pytest.mark.parametrize("endpoint", IMAGE_ENDPOINTS)
async def test_a_tagged_image(see: Seen, endpoint: str, picture: Picture) -> None:
    row = picture.rows[IMAGE_ENDPOINTS.index(endpoint)]
    for place, call in enumerate(calls_of(endpoint, images.MAKERS[picture.maker](*picture.arguments))):
        async with sandbox_of() as sandbox:
            await see(sandbox, call, row, **picture.options)
            if picture.maker == "nobody" and endpoint == "facecompare":
                says = {"message": f"IMAGE{'AB'[place]}_FACE_DETECT_FAILED"}
                await see(sandbox, call, replace(row, says=says))


# ------------------------------------------------------------------------------------------------- the faults


@dataclass(frozen=True, slots=True)
class Wrong:
    """What goes wrong with every request: which row it makes at each endpoint, and whether the vendor charged."""

    what: str
    becomes: Callable[[str], Row]
    billed: bool = False

    @property
    def fault(self) -> Fault:
        return Fault.parse(self.what)

    def row(self, endpoint: str) -> Row:
        row = self.becomes(endpoint)
        lost = row.charges.count("U") if self.billed and endpoint not in NEVER_CHARGES else 0
        return replace(row, lost=lost)


def answered(endpoint: str) -> Row:
    return Row(REPLIES[endpoint], "F" if endpoint in NEVER_CHARGES else "C")


def lost(endpoint: str, **says: object) -> Row:
    # Asked again only where that is as good as asking once, and free.
    return Row(OutcomeUnknownError, "U" * (1 + RETRIES) if endpoint == "delface" else "U", says)


def unseen(endpoint: str) -> Row:
    row = lost(endpoint, http_status=None)
    return replace(row, unseen=len(row.charges))


def not_understood(endpoint: str) -> Row:
    return lost(endpoint, http_status=200, status=None)


def unfit(endpoint: str) -> Row:
    if endpoint == "delface":  # whose OK has nothing in it that could be wrong
        return Row(DeletedFace, "F")
    return replace(lost(endpoint, status="OK", message="nothing that fits"), charges="U")


def busy(endpoint: str, **says: object) -> Row:
    return Row(RetryLaterError, "F" * (1 + RETRIES), says)


def _status(status: str, http_status: int = 200) -> Callable[[str], Row]:
    def becomes(endpoint: str) -> Row:
        ends, letter = of_status(endpoint, status)
        times = 1 + RETRIES if ends is RetryLaterError else 1
        return Row(ends, letter * times, {"status": status, "http_status": http_status})

    return becomes


def _http(http_status: int) -> Callable[[str], Row]:
    ends, letter = of_http(http_status)

    def becomes(endpoint: str) -> Row:
        if ends is OutcomeUnknownError:
            return lost(endpoint, http_status=http_status)
        if ends is RetryLaterError:
            return busy(endpoint, http_status=http_status, status=None)
        return Row(ends, letter, {"http_status": http_status})

    return becomes


def _no_face(endpoint: str) -> Row:
    return Row(FaceNotFoundError, "F", {"status": "RETRY_LATER"})


FAULTS = (
    Wrong("latency,seconds=5", answered),
    Wrong("latency,seconds=1,spread=0.5", answered),
    Wrong("capacity,per_second=1", busy),
    Wrong("capacity,per_second=1,http_status=429", busy),
    Wrong("capacity,per_second=1,http_status=503", busy),
    Wrong(
        "capacity,per_second=1,retry_after=1",
        # Which is long enough.
        lambda endpoint: replace(answered(endpoint), charges="F" + answered(endpoint).charges, waits=1.0),
    ),
    Wrong("reset-before", unseen),
    Wrong("reset-after", lost, billed=True),
    Wrong("reset-after,billed=no", lost),
    Wrong("reset-middle", lost, billed=True),
    Wrong("reset-middle,billed=no", lost),
    Wrong("hang", lost, billed=True),
    Wrong("hang,billed=no", lost),
    Wrong("hang,seconds=0", lost, billed=True),
    Wrong("drip", answered),
    Wrong("drip,billed=no", busy),
    Wrong("garbage", lost, billed=True),
    Wrong("garbage,billed=no", lost),
    Wrong("not-json", not_understood, billed=True),
    Wrong("not-json,billed=no", not_understood),
    Wrong("truncated", not_understood, billed=True),
    Wrong("truncated,billed=no", not_understood),
    Wrong("huge", lost, billed=True),
    Wrong("huge,size=1048577", lost, billed=True),
    Wrong("huge,billed=no", lost),
    Wrong("content-type", answered),
    Wrong("content-type,billed=no", busy),
    Wrong("message", unfit, billed=True),
    Wrong("message,billed=no", busy),
    *(Wrong(f"http-{code}", _http(code)) for code in (200, 201, 204, 301, 302, 307, 400, 401, 402, 403, 404, 405, 408)),
    *(Wrong(f"http-{code}", _http(code)) for code in (409, 413, 418, 422, 429, 451, 499, 500, 501, 502, 503, 504, 599)),
    Wrong("http-500,billed=yes", _http(500), billed=True),
    Wrong("http-502,billed=yes", _http(502), billed=True),
    Wrong("http-504,billed=yes", _http(504), billed=True),
    # With an envelope, whatever the code: that is the vendor's word.
    Wrong("http-500,status=FAIL", _status("FAIL", 500)),
    Wrong("http-401,status=RETRY_LATER", _status("RETRY_LATER", 401)),
    Wrong("http-503,status=INVALID_REQUEST", _status("INVALID_REQUEST", 503)),
    Wrong("http-429,status=QUOTA_EXCEEDED", _status("QUOTA_EXCEEDED", 429)),
    *(Wrong(f"status-{status}", _status(status)) for status in (*ERRORS, "QUOTA_EXCEEDED", "ok", "retry_later")),
    Wrong("status-RETRY_LATER,message=IMAGEA_FACE_DETECT_FAILED", _no_face),
)

# What a picture cannot do to itself.
_FROM_OUTSIDE = frozenset({"latency", "capacity", "reset-before"})


@asynccontextmanager
async def asked_wrong(wrong: Wrong, endpoint: str) -> AsyncIterator[tuple[Sandbox, Call[Any]]]:
    """A sandbox of which everything goes wrong from now on, and a call that would be answered."""
    async with sandbox_of() as sandbox, client_of(sandbox) as client:
        added = await client.add_face(images.person("carol"))
        alice = images.holding("alice")
        calls: Mapping[str, Call[Any]] = {
            "facecompare": FaceCompare(alice, alice),
            "idholding": IdHolding(alice),
            "addface": AddFace(alice),
            "searchface": SearchFace(alice),
            "delface": DeleteFace(added.person_id),
            "gliswadetail": WhatsAppDetail(sandbox.number("yes")),
        }
        sandbox.faults.add(wrong.fault)
        if wrong.fault.kind == "capacity":  # which this takes up
            await client.add_face(images.person("carol"))
        yield sandbox, calls[endpoint]


@pytest.mark.parametrize("wrong", FAULTS, ids=lambda wrong: wrong.what)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_fault(see: Seen, endpoint: str, wrong: Wrong) -> None:
    async with asked_wrong(wrong, endpoint) as (sandbox, call):
        before = sandbox.faults.hits(wrong.fault)
        row = wrong.row(endpoint)
        await see(sandbox, call, row, kind=wrong.fault.kind)
        hit = len(row.charges) - (wrong.fault.retry_after is not None and wrong.fault.kind == "capacity")
        assert sandbox.faults.hits(wrong.fault) - before == hit


@pytest.mark.parametrize(
    "wrong", [wrong for wrong in FAULTS if wrong.fault.kind not in _FROM_OUTSIDE], ids=lambda wrong: wrong.what
)
@pytest.mark.parametrize("endpoint", IMAGE_ENDPOINTS)
async def test_a_picture_with_a_fault(see: Seen, endpoint: str, wrong: Wrong) -> None:
    for call in calls_of(endpoint, images.fault(wrong.what)):
        async with sandbox_of() as sandbox:
            await see(sandbox, call, wrong.row(endpoint), kind=wrong.fault.kind)


@pytest.mark.parametrize("status", [*ERRORS, "QUOTA_EXCEEDED"])
@pytest.mark.parametrize("endpoint", IMAGE_ENDPOINTS)
async def test_a_picture_with_a_status(see: Seen, endpoint: str, status: str) -> None:
    for call in calls_of(endpoint, images.status(status)):
        async with sandbox_of() as sandbox:
            await see(sandbox, call, _status(status)(endpoint))


@pytest.mark.parametrize(
    "wrong", [wrong for wrong in FAULTS if wrong.row("delface").charges == "UUU"], ids=lambda wrong: wrong.what
)
async def test_a_deletion_that_nobody_confirmed(see: Seen, wrong: Wrong) -> None:
    """It is asked again, and then it does not matter whether it had worked the first time."""
    once = replace(wrong.fault, times=1)
    async with asked_wrong(wrong, "delface") as (sandbox, call):
        sandbox.faults.clear()
        sandbox.faults.add(once)
        await see(sandbox, call, Row(DeletedFace, "UF", unseen=once.kind == "reset-before"), kind=once.kind)
        assert not any(sandbox.faces.values())
        assert sandbox.faults.hits(once) == 1


# --------------------------------------------------------------------------------------------- nothing is left out


def test_nothing_is_left_out() -> None:
    assert {name for name, *_ in NUMBERS} == set(MAGIC_NUMBERS)
    assert {wrong.fault.kind for wrong in FAULTS} == set(KINDS)
    assert {picture.maker for picture in PICTURES} | {"fault", "status"} == set(images.MAKERS)
    assert set(DOCUMENTED) == set(REPLIES) == set(ENDPOINTS)
    assert {name for name in ENDPOINTS if ENDPOINTS[name].takes_images} == set(IMAGE_ENDPOINTS)
    for name, endpoint in ENDPOINTS.items():
        assert {status.partition(":")[0] for status in endpoint.charges} == {*DOCUMENTED[name], "OK"}
