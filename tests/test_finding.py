"""What came back, judged: each row of the table of charges, and each way to leave it. Nothing is sent here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aisolution_async import (
    AISolutionError,
    Charge,
    FaceNotFoundError,
    NotSentError,
    OutcomeUnknownError,
    RefusedError,
    RetryLaterError,
    StatusError,
    UnknownStatusError,
)
from aisolution_async.api import CALLS, Endpoint
from aisolution_async.charges import Attempt
from aisolution_async.limits import Signal
from aisolution_async.sending.finding import Finding, may_be_bought, of_fault, of_loss, of_response
from aisolution_async.wire.exchange import Lost
from aisolution_async.wire.transport import Response

from .contract import CONTRACT
from .steps import CHARGED, FREE, UNKNOWN, attempt_of

ENDPOINTS: dict[str, Endpoint[Any]] = {call.endpoint.name: call.endpoint for call in CALLS}
NEVER = [name for name, endpoint in ENDPOINTS.items() if endpoint.never_charges]
OTHERS = [name for name in ENDPOINTS if name not in NEVER]
ASKED, ANOTHER = "+6281387300008", "+6281387300009"
FITS = {name: told.message for name, told in CONTRACT.items()} | {"gliswadetail": {"number": ASKED, "whatsapp": "yes"}}
REFUSALS = [(400, b""), (404, b"<html>"), (422, b"[]"), (429, b"slow down"), (503, b"")]
NOTHING = [(200, b""), (200, b"<html>"), (204, b""), (301, b""), (500, b"{}"), (502, b"x"), (504, b'{"status": 1}')]


def said(status: str, message: object = None) -> bytes:
    return json.dumps({"status": status, "message": message}).encode()


def judged(  # what `of_response` makes of an answer
    name: str,
    body: bytes,
    http: int = 200,
    *,
    early: bool = False,
    retry_after: str | None = None,
    rules: Mapping[str, Charge] | None = None,
    before: Sequence[Attempt] = (),
    called_back: bool = False,
    redact: Callable[[str], str] = str,
) -> Finding[Any]:
    headers = [] if retry_after is None else [(b"Retry-After", retry_after.encode())]
    return of_response(
        ENDPOINTS[name],
        Response(http, headers, body, early=early, retry_after=retry_after),
        rules=rules,
        redact=redact,
        names_another=lambda number: number == ANOTHER,
        before=before,
        called_back=called_back,
    )


def error_of(found: Finding[Any], name: str = "facecompare") -> AISolutionError:
    attempts = (found.attempt(attempt_of().started_at, 0.1, 1),)
    error = found.error(name, "a key", attempts)
    assert (error.endpoint, error.key, error.attempts, error.charge) == (name, "a key", attempts, found.charge)
    return error


# --------------------------------------------------------------------------------------------- the table's rows


@pytest.mark.parametrize("http", [200, 400, 500, 503])
@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_documented_status_costs_what_the_contract_says_whatever_the_http_code(name: str, http: int) -> None:
    for status, charge in ENDPOINTS[name].charges.items():
        if ":" in status:
            continue
        found = judged(name, said(status, FITS[name] if status == "OK" else "why"), http)
        assert (found.charge, found.status, found.http_status, found.sent) == (charge, status, http, True)
        assert (found.reply is not None) == (status == "OK") == (found.problem is None)
        assert found.repeatable == (status == "RETRY_LATER")
        assert found.signal is (Signal.OVERLOADED if status == "RETRY_LATER" else Signal.ANSWERED)


@pytest.mark.parametrize(
    ("whatsapp", "charge"),
    [("yes", CHARGED), ("no", CHARGED), ("new", CHARGED), ("checking", FREE), ("unavailable", FREE)],
)
def test_what_whatsapp_says_refines_the_charge(whatsapp: str, charge: Charge) -> None:
    found = judged("gliswadetail", said("OK", {"number": ASKED, "whatsapp": whatsapp}))
    assert (found.charge, getattr(found.reply, "whatsapp", None)) == (charge, whatsapp)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        said("WHAT"),
        said("OK:checking"),
        said("OK:unavailable"),
        b'{"status": "OK", "status": "FAIL"}',
        b'{"status": "FAIL", "status": 1}',
    ],
)
def test_an_undocumented_status_or_two_of_them_is_unknown_but_where_nothing_is_charged(name: str, body: bytes) -> None:
    found = judged(name, body)
    assert found.charge is (FREE if name in NEVER else UNKNOWN)
    assert (found.reply, found.repeatable) == (None, False)
    assert isinstance(error_of(found, name), UnknownStatusError | OutcomeUnknownError)


def test_an_undocumented_status_is_recorded_as_far_as_it_is_a_few_plain_words() -> None:
    assert judged("facecompare", said("what " * 60)).status == ("what " * 16)[:80]
    assert judged("facecompare", said("FAIL")).status == "FAIL"


def test_the_headers_of_a_reply_are_nobodys_business() -> None:
    assert not judged("delface", said("OK"), retry_after="7").headers


@pytest.mark.parametrize(
    ("charges", "lost", "may"),
    [
        ([FREE], False, False),
        ([FREE, CHARGED], False, True),
        ([UNKNOWN, FREE], False, True),
        ([CHARGED], True, True),
        ([FREE], True, True),
    ],
)
def test_a_call_that_cost_money_or_may_have_is_not_bought_for_who_asks_the_same(
    charges: list[Charge], lost: bool, may: bool
) -> None:
    error = (OutcomeUnknownError if lost else RetryLaterError)("it failed")
    assert may_be_bought([attempt_of(charge) for charge in charges], error) is may


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(("http", "body"), REFUSALS)
def test_a_refusal_without_an_envelope_is_free(name: str, http: int, body: bytes) -> None:
    found = judged(name, body, http, retry_after="7")
    later = http in (429, 503)
    assert (found.status, found.headers) == (None, [(b"Retry-After", b"7")])
    assert (found.charge, found.repeatable, found.retry_after) == (FREE, later, 7.0 if later else None)
    assert found.signal is (Signal.OVERLOADED if later else Signal.ANSWERED)
    assert type(error_of(found)) is (RetryLaterError if later else RefusedError)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(("http", "body"), NOTHING)
def test_anything_else_without_an_envelope_is_unknown_and_kept(name: str, http: int, body: bytes) -> None:
    found = judged(name, body, http)
    assert (found.charge, found.repeatable, found.signal, found.status) == (UNKNOWN, False, Signal.BROKEN, None)
    error = error_of(found)
    assert isinstance(error, OutcomeUnknownError)
    assert (error.body, error.http_status) == (body, http)


@pytest.mark.parametrize("name", [name for name in ENDPOINTS if name != "delface"])
def test_an_ok_that_does_not_fit_is_unknown(name: str) -> None:
    found = judged(name, said("OK", {"strange": 1}))
    assert (found.charge, found.reply, found.status) == (UNKNOWN, None, "OK")
    assert isinstance(error_of(found), OutcomeUnknownError)


@pytest.mark.parametrize("timed_out", [True, False, None])
def test_what_never_left_is_free_and_what_may_have_left_is_unknown(timed_out: bool | None) -> None:
    signal = {True: Signal.OVERLOADED, False: Signal.BROKEN, None: None}[timed_out]
    kept = of_loss(Lost(False, "no connection", timed_out))  # type: Finding[Any]
    assert (kept.charge, kept.repeatable, kept.sent, kept.signal) == (FREE, True, False, signal)
    assert type(error_of(kept)) is NotSentError
    lost = of_loss(Lost(True, "reset", timed_out))  # type: Finding[Any]
    assert (lost.charge, lost.repeatable, lost.sent, lost.signal) == (UNKNOWN, False, True, signal)
    assert type(error_of(lost)) is OutcomeUnknownError
    assert (kept.problem, lost.problem) == ("no connection", "reset")


def test_a_refusal_of_ours_ends_the_call_at_once() -> None:
    found = of_loss(Lost(False, "not that host", refusal=StatusError))  # type: Finding[Any]
    assert (found.charge, found.repeatable, found.is_final) == (FREE, False, True)
    assert type(error_of(found)) is StatusError


# ----------------------------------------------------------------------------------------------- the deviations


def test_a_users_rules_come_before_the_contract() -> None:
    endpoint = ENDPOINTS["facecompare"]
    rules = {**endpoint.charges, "RETRY_LATER": CHARGED, "OK": UNKNOWN, "NEW": FREE}
    later = judged("facecompare", said("RETRY_LATER"), rules=rules)
    assert (later.charge, later.repeatable) == (CHARGED, False)  # what is charged is not repeated
    assert judged("facecompare", said("OK", FITS["facecompare"]), rules=rules).charge is UNKNOWN
    assert judged("facecompare", said("NEW"), rules=rules).charge is FREE


def test_a_photo_without_a_face_does_not_fare_better_later() -> None:
    found = judged("searchface", said("RETRY_LATER", "x FACE_DETECT_FAILED"))
    assert (found.charge, found.repeatable, found.signal) == (FREE, False, Signal.ANSWERED)
    assert isinstance(error_of(found), FaceNotFoundError)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_early_answer_is_believed_only_where_it_refuses(name: str) -> None:
    for status in ENDPOINTS[name].charges:
        if ":" not in status and status != "OK":
            assert judged(name, said(status), early=True).charge is FREE
    for http, body in REFUSALS:
        assert judged(name, body, http, early=True).charge is FREE
    for http, body in [*NOTHING, (200, said("OK", FITS[name])), (200, said("WHAT"))]:
        found = judged(name, body, http, early=True)
        assert (found.charge, found.reply, found.repeatable, found.signal) == (UNKNOWN, None, False, Signal.BROKEN)
        error = error_of(found)
        assert isinstance(error, OutcomeUnknownError)
        assert error.body == body


@pytest.mark.parametrize("whatsapp", ["yes", "no", "checking", "unavailable"])
def test_an_answer_about_another_number_is_unknown_even_where_it_is_free(whatsapp: str) -> None:
    found = judged("gliswadetail", said("OK", {"number": ANOTHER, "whatsapp": whatsapp}))
    assert (found.charge, found.reply, found.is_of_another, found.status) == (UNKNOWN, None, True, "OK")
    assert isinstance(error_of(found, "gliswadetail"), OutcomeUnknownError)
    assert not judged("gliswadetail", said("OK", {"number": ASKED, "whatsapp": whatsapp})).is_of_another


def test_what_a_callback_brought_before_is_charged_once() -> None:
    answer = judged("gliswadetail", said("OK", FITS["gliswadetail"]), called_back=True)
    assert (answer.charge, getattr(answer.reply, "whatsapp", None)) == (FREE, "yes")
    assert of_loss(Lost(True, "reset"), called_back=True).charge is FREE
    assert of_fault(ValueError(), called_back=True).charge is FREE
    # What is not this request's, or cannot be read, says nothing of the callback's question.
    assert judged("gliswadetail", b"", 500, called_back=True).charge is UNKNOWN
    assert (
        judged("gliswadetail", said("OK", {"number": ANOTHER, "whatsapp": "yes"}), called_back=True).charge is UNKNOWN
    )


@pytest.mark.parametrize(
    ("before", "done"),
    [((), False), ((FREE,), False), ((UNKNOWN,), True), ((UNKNOWN, FREE), True), ((CHARGED,), False)],
)
def test_a_person_that_is_gone_after_a_lost_deletion_was_deleted_by_it(before: tuple[Charge, ...], done: bool) -> None:
    attempts = [attempt_of(charge) for charge in before]
    found = judged("delface", said("PERSON_ID_NOT_EXIST", "x"), before=attempts)
    assert (found.reply is not None, found.charge, found.repeatable, found.is_final) == (done, FREE, False, done)
    assert judged("facecompare", said("PERSON_ID_NOT_EXIST"), before=attempts).reply is None


def test_an_attempt_does_not_vouch_for_itself() -> None:
    """Also where a user's rules make the answer itself unknown."""
    rules = {**ENDPOINTS["delface"].charges, "PERSON_ID_NOT_EXIST": UNKNOWN}
    assert judged("delface", said("PERSON_ID_NOT_EXIST"), rules=rules).reply is None


def test_a_fault_of_ours_is_unknown_and_not_tried_again() -> None:
    found = of_fault(RecursionError("something secret"))  # type: Finding[Any]
    assert (found.charge, found.repeatable, found.is_final, found.sent) == (UNKNOWN, False, True, True)
    assert found.signal is Signal.BROKEN
    error = error_of(found)
    assert isinstance(error, OutcomeUnknownError)
    assert "RecursionError while the answer was read" in str(error)
    assert "secret" not in str(error)


def test_a_lost_attempt_says_how_many_hold_the_question() -> None:
    lost = of_loss(Lost(True, "reset"))  # type: Finding[Any]
    error = lost.error("facecompare", None, (attempt_of(UNKNOWN), attempt_of(FREE), attempt_of(UNKNOWN)))
    assert isinstance(error, OutcomeUnknownError)
    assert error.holds == 2


def test_the_record_holds_plain_words_only() -> None:
    found = judged("facecompare", said("BASE64+/abc== " * 20), redact=lambda text: text)
    assert found.status is not None
    assert len(found.status) <= 80
    assert "+/" not in found.status
    attempt = found.attempt(attempt_of().started_at, 1.5, 3)
    assert (attempt.charge, attempt.status, attempt.http_status, attempt.elapsed, attempt.number) == (
        UNKNOWN,
        found.status,
        200,
        1.5,
        3,
    )
    assert attempt.error == found.problem


# --------------------------------------------------------------------------------------------------- anything

statuses = st.sampled_from(
    [*{status for endpoint in ENDPOINTS.values() for status in endpoint.charges}, "WHAT", "", "ok"]
)
messages = (
    st.none()
    | st.text(max_size=20)
    | st.sampled_from(list(FITS.values()))
    | st.just({"number": ANOTHER, "whatsapp": "no"})
)
bodies = (
    st.binary(max_size=40)
    | st.builds(said, statuses, messages)
    | st.sampled_from([b"{}", b"[]", b'{"status":"OK","status":"FAIL"}'])
)


def envelope_of(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("status"), str) else None


def may_be_free(endpoint: Endpoint[Any], http: int, body: bytes, *, early: bool) -> bool:
    """The table, once more: whether an answer may be free."""
    envelope = envelope_of(body)
    if envelope is None:
        return 400 <= http < 500 or http == 503 or endpoint.never_charges
    status, message = envelope["status"], envelope.get("message")
    if status != "OK":
        documented = endpoint.charges.get(status) is FREE
        return documented or endpoint.never_charges
    if endpoint.name == "gliswadetail":
        message = message if isinstance(message, dict) else {}
        free = message.get("whatsapp") in ("checking", "unavailable")
        return free and message.get("number") != ANOTHER and not early
    return endpoint.never_charges and not early


@example(name="addface", http=200, body=b'{"status":"OK","status":"FAIL"}', early=True, called_back=False, lost=False)
@given(
    name=st.sampled_from([*ENDPOINTS]),
    http=st.integers(100, 599),
    body=bodies,
    early=st.booleans(),
    called_back=st.booleans(),
    lost=st.booleans(),
)
def test_a_finding_agrees_with_itself(
    name: str, http: int, body: bytes, early: bool, called_back: bool, lost: bool
) -> None:
    endpoint = ENDPOINTS[name]
    before = [attempt_of(UNKNOWN)] if lost else []
    found = judged(name, body, http, early=early, before=before, called_back=called_back)
    alone = judged(name, body, http, early=early, before=before)
    if found.charge is FREE:
        assert may_be_free(endpoint, http, body, early=early) or (called_back and alone.charge is CHARGED)
    assert alone.charge is found.charge or (alone.charge, found.charge) == (CHARGED, FREE)
    if alone.charge is CHARGED:
        assert alone.reply is not None
        assert (alone.status, endpoint.never_charges, early) == ("OK", False, False)
    if found.repeatable:
        assert (found.charge, found.reply, found.is_final) == (FREE, None, False)
    if found.reply is None:
        assert error_of(found, name).charge is found.charge
        assert found.problem
    else:
        assert found.is_final
        assert found.status == "OK" or (lost and found.status in endpoint.done_already)
    assert found.sent
    assert (found.signal is Signal.OVERLOADED) == (found.reply is None and isinstance(error_of(found), RetryLaterError))


@given(st.builds(Lost, st.booleans(), st.text(max_size=9), st.none() | st.booleans(), st.none() | st.just(StatusError)))
def test_a_loss_agrees_with_itself(lost: Lost) -> None:
    for called_back in (False, True):
        found = of_loss(lost, called_back=called_back)  # type: Finding[Any]
        assert found.charge is (UNKNOWN if lost.left and not called_back else FREE)
        assert found.repeatable == (not lost.left and lost.refusal is None)
        assert (found.reply, found.sent, found.is_of_another) == (None, lost.left, False)
        assert error_of(found).charge is found.charge
        assert isinstance(error_of(found), OutcomeUnknownError if lost.left else lost.refusal or NotSentError)
