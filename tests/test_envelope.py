"""What an answer means and costs: the contract's tables, and everything outside them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import (
    AISolutionError,
    Charge,
    FaceNotFoundError,
    ImageTooLargeError,
    InvalidRequestError,
    Judgment,
    OutcomeUnknownError,
    PersonNotFoundError,
    RefusedError,
    RetryLaterError,
    ServiceFailedError,
    UnknownStatusError,
    WhatsAppState,
)
from aisolution_async.api import CALLS, ENDPOINTS
from aisolution_async.wire import envelope

from .contract import CONTRACT

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN

FITTING = {name: told.message for name, told in CONTRACT.items()}
CHARGES = {name: told.charges for name, told in CONTRACT.items()}
ERRORS: dict[str, type[AISolutionError]] = {
    "INVALID_REQUEST": InvalidRequestError,
    "INVALID_INPUT": InvalidRequestError,
    "IMAGE_INVALID_SIZE": ImageTooLargeError,
    "FACE_DETECT_FAILED": FaceNotFoundError,
    "INVALID_FACE_NUM": FaceNotFoundError,
    "PERSON_ID_NOT_EXIST": PersonNotFoundError,
    "FAIL": ServiceFailedError,
    "RETRY_LATER": RetryLaterError,
}
EVERY_STATUS = sorted({status for table in CHARGES.values() for status in table} | {"BRAND_NEW", "ok", ""})


def answer(endpoint: str, status: object, message: object = None, *, http: int = 200, **options: Any) -> Any:
    body = json.dumps({"status": status, "message": message}).encode()
    return envelope.read(ENDPOINTS[endpoint], http, body, **options)


def test_the_table_covers_every_endpoint() -> None:
    assert set(CONTRACT) == set(ENDPOINTS)
    assert len(CALLS) == len(ENDPOINTS) >= 6


@pytest.mark.parametrize("http", [200, 400, 404, 429, 500, 503])
@pytest.mark.parametrize("status", EVERY_STATUS)
@pytest.mark.parametrize("endpoint", CHARGES)
def test_every_endpoint_status_and_charge(endpoint: str, status: str, http: int) -> None:
    found = answer(endpoint, status, FITTING[endpoint] if status == "OK" else "words", http=http)
    never_charges = CHARGED not in CHARGES[endpoint].values()
    assert found.charge is CHARGES[endpoint].get(status, FREE if never_charges else UNKNOWN)
    assert found.status == status
    assert found.http_status == http
    if status == "OK":
        assert found.kind is None
        assert found.reply is not None
    else:
        assert found.reply is None
        assert found.kind is ERRORS.get(status, UnknownStatusError)
        error = found.error(endpoint, "k", ())
        assert (error.status, error.message, error.http_status, error.key) == (status, "words", http, "k")
        assert error.endpoint == endpoint
    # Only a vendor that asks for it is asked again.
    assert found.repeatable is (status == "RETRY_LATER")


@pytest.mark.parametrize(
    ("endpoint", "body", "kind", "charge"),
    [
        ("facecompare", {"status": "INVALID_REQUEST", "message": "error message"}, InvalidRequestError, FREE),
        ("facecompare", {"status": "IMAGE_INVALID_SIZE", "message": "image larger than 2M"}, ImageTooLargeError, FREE),
        ("facecompare", {"status": "RETRY_LATER", "message": "IMAGEB_FACE_DETECT_FAILED"}, FaceNotFoundError, FREE),
        ("idholding", {"status": "INVALID_REQUEST", "message": "error message"}, InvalidRequestError, FREE),
        ("idholding", {"status": "IMAGE_INVALID_SIZE", "message": "image larger than 2M"}, ImageTooLargeError, FREE),
        ("idholding", {"status": "INVALID_FACE_NUM", "message": "0 faces found"}, FaceNotFoundError, FREE),
        (
            "addface",
            {
                "status": "FACE_DETECT_FAILED",
                "message": {"group_id": "LxiKPLIMGFpXzXas", "person_id": "c5r7jedkujdbnasarhn0", "person_count": 0},
            },
            FaceNotFoundError,
            FREE,
        ),
        (
            "addface",
            {"status": "RETRY_LATER", "message": "Service is not available right now, please try again later"},
            RetryLaterError,
            FREE,
        ),
        ("searchface", {"status": "FACE_DETECT_FAILED", "message": []}, FaceNotFoundError, FREE),
        (
            "searchface",
            {"status": "RETRY_LATER", "message": "Service is not available right now, please try again later"},
            RetryLaterError,
            FREE,
        ),
        ("delface", {"status": "PERSON_ID_NOT_EXIST", "message": None}, PersonNotFoundError, FREE),
        (
            "delface",
            {"status": "RETRY_LATER", "message": "Service is not available right now, please try again later"},
            RetryLaterError,
            FREE,
        ),
    ],
)
def test_the_contracts_sample_errors(endpoint: str, body: Any, kind: type[AISolutionError], charge: Charge) -> None:
    found = envelope.read(ENDPOINTS[endpoint], 200, json.dumps(body).encode())
    assert found.kind is kind
    assert found.charge is charge
    error: Any = found.error(endpoint, None, ())
    assert error.message == body["message"]
    assert str(error).startswith(f"{endpoint}: {body['status']}")


@pytest.mark.parametrize(
    ("similarity", "result", "judgment"),
    [
        (97.501, "SAME PERSON", Judgment.SAME_PERSON),
        (27.501, "NOT SAME PERSON", Judgment.NOT_SAME_PERSON),
        (50.501, "NOT SURE", Judgment.NOT_SURE),
    ],
)
@pytest.mark.parametrize("endpoint", ["facecompare", "idholding"])
def test_the_contracts_sample_judgments(endpoint: str, similarity: float, result: str, judgment: Judgment) -> None:
    found = answer(endpoint, "OK", {"similarity": similarity, "result": result})
    assert (found.reply.similarity, found.reply.result) == (similarity, judgment)
    assert isinstance(found.reply.result, Judgment)
    assert found.charge is CHARGED


@pytest.mark.parametrize(
    ("whatsapp", "charge"),
    [("yes", CHARGED), ("no", CHARGED), ("checking", FREE), ("unavailable", FREE), ("brand new", CHARGED)],
)
def test_what_whatsapp_says_decides_the_charge(whatsapp: str, charge: Charge) -> None:
    found = answer("gliswadetail", "OK", {"number": "+6284921089722", "whatsapp": whatsapp})
    assert found.charge is charge
    assert found.reply.whatsapp == whatsapp
    assert isinstance(found.reply.whatsapp, WhatsAppState) is (whatsapp != "brand new")


def test_the_contracts_other_sample_replies() -> None:
    added = answer("addface", "OK", FITTING["addface"])
    assert (added.reply.group_id, added.reply.person_id, added.reply.person_count, added.charge) == (
        "LxiKPLIMGFpXzXas",
        "c5r7jedkujdbnasarhn0",
        3,
        FREE,
    )
    found = answer("searchface", "OK", FITTING["searchface"])
    assert [(m.confidence, m.person_id) for m in found.reply.matches] == [(100, "c5r7jedkujdbnasarhn0")]
    assert answer("searchface", "OK", []).reply.matches == []
    assert answer("delface", "OK", None).reply is not None
    profile = answer("gliswadetail", "OK", FITTING["gliswadetail"]).reply
    assert profile.model_dump() == FITTING["gliswadetail"]


def test_unknown_fields_are_kept() -> None:
    found = answer("facecompare", "OK", {"similarity": 1, "result": "NOT SURE", "model": "v7", "charge": "no"})
    assert found.reply.model == "v7"
    assert found.reply.charge is Charge.FREE  # the property: nothing was attempted yet
    assert found.reply.model_extra == {"model": "v7", "charge": "no"}


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("facecompare", None),
        ("facecompare", "SAME PERSON"),
        ("facecompare", {"similarity": "high", "result": "SAME PERSON"}),
        ("facecompare", {"similarity": True, "result": "SAME PERSON"}),
        ("facecompare", {"similarity": 100.5, "result": "SAME PERSON"}),
        ("facecompare", {"similarity": 97.5}),
        ("idholding", []),
        ("addface", {"group_id": "x"}),
        ("searchface", {"confidence": 1, "person_id": "x"}),
        ("searchface", None),
        ("searchface", [{"confidence": 1}]),
        ("gliswadetail", {"number": "+62"}),
        ("gliswadetail", "checking"),
    ],
)
def test_an_ok_that_does_not_fit_is_unknown_and_kept(endpoint: str, message: Any) -> None:
    found = answer(endpoint, "OK", message)
    assert found.charge is UNKNOWN
    assert found.kind is OutcomeUnknownError
    assert not found.repeatable
    error: Any = found.error(endpoint, None, ())
    assert (error.status, error.message, error.http_status) == ("OK", message, 200)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"42", b'"OK"', b"{}", b'{"status": 7}', b"<html>", b'{"status"']
)
@pytest.mark.parametrize(
    ("http", "kind", "charge", "repeatable"),
    [
        (200, OutcomeUnknownError, UNKNOWN, False),
        (204, OutcomeUnknownError, UNKNOWN, False),
        (302, OutcomeUnknownError, UNKNOWN, False),
        (400, RefusedError, FREE, False),
        (401, RefusedError, FREE, False),
        (413, RefusedError, FREE, False),
        (429, RetryLaterError, FREE, True),
        (500, OutcomeUnknownError, UNKNOWN, False),
        (502, OutcomeUnknownError, UNKNOWN, False),
        (503, RetryLaterError, FREE, True),
        (504, OutcomeUnknownError, UNKNOWN, False),
    ],
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_envelope(
    endpoint: str, http: int, kind: type[AISolutionError], charge: Charge, *, repeatable: bool, body: bytes
) -> None:
    found = envelope.read(ENDPOINTS[endpoint], http, body)
    assert (found.kind, found.charge, found.repeatable) == (kind, charge, repeatable)
    error: Any = found.error(endpoint, None, ())
    assert error.http_status == http
    if kind is OutcomeUnknownError:
        assert error.body == body


def test_a_users_charge_rules_come_first() -> None:
    rules = {"OK": FREE, "RETRY_LATER": CHARGED}
    assert answer("facecompare", "OK", FITTING["facecompare"], rules=rules).charge is FREE
    charged = answer("facecompare", "RETRY_LATER", "x", rules=rules)
    assert charged.charge is CHARGED
    assert not charged.repeatable  # what costs money is not repeated by itself


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("-3", 0.0),
        ("1.5", 1.5),
        ("soon", None),
        ("nan", None),
        ("10s", 10.0),
        ("10 S", 10.0),
        ("2.5sec.", 2.5),
        ("1 second", 1.0),
        ("90 seconds", 90.0),
        ("1500ms", 1.5),
        ("2m", 120.0),
        ("3 mins", 180.0),
        ("1h", 3600.0),
        ("-5s", 0.0),
        ("10x", None),
        ("s", None),
        ("10s20", None),
        ("1" * 400, None),
        ("", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert envelope.seconds(header) == expected


def test_retry_after_as_a_date() -> None:
    wait = envelope.seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert wait is not None
    assert 80 < wait <= 90
    assert envelope.seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert envelope.seconds("Wed, 21 Oct 2015 07:28:00 -0000") == 0


@pytest.mark.parametrize("signature", [rb'"half \ud83d a pair"', b'"stray \xff byte"'])
def test_a_strangers_broken_text_does_not_cost_the_answer(signature: bytes) -> None:
    body = b'{"status":"OK","message":{"number":"+62","whatsapp":"yes","signature":' + signature + b"}}"
    found = envelope.read(ENDPOINTS["gliswadetail"], 200, body)
    assert found.charge is CHARGED
    assert found.reply is not None
    assert found.reply.signature.encode()  # it can be written to a file


OK_FACE = '"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON"}'


@pytest.mark.parametrize(
    "body",
    [
        '{"status":"FAIL",' + OK_FACE + "}",
        "{" + OK_FACE + ',"status":"FAIL"}',
        "{" + OK_FACE + ',"st\\u0061tus":"FAIL"}',
        '{"\\u0073tatus" : "FAIL",' + OK_FACE + "}",
        "{" + OK_FACE + ',"status":null}',
        "{" + OK_FACE + ',"message":{"similarity":12.5,"result":"NOT SAME PERSON"}}',
        '{"message":"no face",' + OK_FACE + "}",
        "{" + OK_FACE + ',"mess\\u0061ge":null}',
        '{"status":"OK","message":{"similarity":12.5,"result":"SAME PERSON","similarity":97.5}}',
        '{"status":"RETRY_LATER","message":"a: b","message":"c"}',
        '{"status":"FAIL","status":"RETRY_LATER","message":"a"}',
        '{"status":"FAIL",' + OK_FACE + ',"signature":"\xff"}',  # one that has to be mended
    ],
)
@pytest.mark.parametrize("http", [200, 400, 500, 503])
def test_an_envelope_that_says_two_things_is_unknown(body: str, http: int) -> None:
    raw = body.encode("latin-1")
    found = envelope.read(ENDPOINTS["facecompare"], http, raw)
    assert (found.kind, found.charge, found.repeatable) == (OutcomeUnknownError, UNKNOWN, False)
    error: Any = found.error("facecompare", None, ())
    assert error.body == raw
    assert error.message == raw.decode("utf-8", "replace")
    assert "contradicts itself" in str(error)


def test_what_never_charges_contradicts_itself_for_free() -> None:
    found = envelope.read(ENDPOINTS["delface"], 200, b'{"status":"OK","status":"RETRY_LATER","message":null}')
    assert (found.kind, found.charge, found.repeatable) == (OutcomeUnknownError, FREE, False)


@pytest.mark.parametrize(
    "body",
    [
        '{"status":"OK",' + OK_FACE + "}",
        "{" + OK_FACE + "," + OK_FACE + "}",
        "{" + OK_FACE + ',"note":"status: \\"status\\":\\"FAIL\\"","status":"OK"}',
        '{"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON","status":"FAIL","message":{"status":"x"}}}',
        '{"status":"OK","message":{"similarity":97.50,"result":"SAME PERSON","similarity":97.5}}',
        "{" + OK_FACE + ',"trace":1,"trace":2}',  # of no concern to the answer
    ],
)
def test_what_says_the_same_twice_is_read(body: str) -> None:
    found = envelope.read(ENDPOINTS["facecompare"], 200, body.encode())
    assert found.charge is CHARGED
    assert found.reply is not None
    assert found.reply.similarity == 97.5


@given(st.sampled_from(sorted(ENDPOINTS)), st.lists(st.sampled_from(["OK", "FAIL", "RETRY_LATER", "NEW"]), min_size=1))
def test_any_number_of_statuses(endpoint: str, statuses: list[str]) -> None:
    said = ",".join(f'"status":"{status}"' for status in statuses)
    found = envelope.read(ENDPOINTS[endpoint], 200, f'{{{said},"message":{json.dumps(FITTING[endpoint])}}}'.encode())
    one = answer(endpoint, statuses[-1], FITTING[endpoint])
    never = endpoint in ("addface", "delface")
    assert found.charge is (one.charge if len(set(statuses)) == 1 else FREE if never else UNKNOWN)


NEARLY_JSON = [
    '{"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON",}}',
    '{"status":"OK","message":{"similarity":NaN,"result":"SAME PERSON"}}',
    '{"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON"}}}',
    '{"status":"OK","message":{"similarity":97.5,"result":"SAME PERSON"}} OK',
    '{"status":"OK","message":{"similarity":97.5,"result":"SAME',
    "{'status':'OK','message':{'similarity':97.5,'result':'SAME PERSON'}}",
]


@pytest.mark.parametrize("http", [200, 503])
def test_a_number_that_is_too_large_for_us_is_no_reason_to_take_an_answer_for_none(http: int) -> None:
    body = b'{"status": "OK", "message": {"number": "+62", "whatsapp": "yes", "new": 1e999}}'
    found = envelope.read(ENDPOINTS["gliswadetail"], http, body)
    assert (found.charge, found.status, found.reply is not None) == (CHARGED, "OK", True)
    body = b'{"status": "OK", "message": {"similarity": 1e999, "result": "SAME PERSON"}}'
    found = envelope.read(ENDPOINTS["facecompare"], http, body)
    assert (found.kind, found.charge, found.status) == (OutcomeUnknownError, UNKNOWN, "OK")


@pytest.mark.parametrize("body", NEARLY_JSON)
def test_what_is_nearly_json_is_unknown_and_kept(body: str) -> None:
    found = envelope.read(ENDPOINTS["facecompare"], 200, body.encode())
    assert (found.kind, found.charge, found.status) == (OutcomeUnknownError, UNKNOWN, None)
    assert (found.body, found.message) == (body.encode(), body)


def test_what_is_kept_holds_no_secret_and_is_bounded() -> None:
    def redact(text: str) -> str:
        return text.replace("tok/en", "…")

    said = r'{"status":"OK","echo":"tok\/en","u":"t\u006fk/en","message":{"group_id":"LxiKPLIMGFpXzXas","n":3,}}'
    found = envelope.read(ENDPOINTS["addface"], 200, said.encode(), redact=redact)
    assert found.message == '{"status":"OK","echo":"…","u":"…","message":{"group_id":"…","n":3,}}'
    found = envelope.read(ENDPOINTS["facecompare"], 502, b"\xff" * 500_000)
    assert len(found.message) == envelope.LONGEST_KEPT
    assert found.body is not None
    assert len(found.body) == 500_000


@given(st.binary(max_size=300), st.integers(100, 599), st.sampled_from(sorted(ENDPOINTS)))
def test_any_bytes_are_classed(body: bytes, http: int, endpoint: str) -> None:
    found = envelope.read(ENDPOINTS[endpoint], http, body)
    assert (found.reply is None) is (found.kind is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(ENDPOINTS)), st.sampled_from(["OK", "RETRY_LATER", "FAIL", "X Y"]) | st.text(), JSON)
def test_any_envelope_is_classed_and_never_free_by_mistake(endpoint: str, status: str, message: Any) -> None:
    found = answer(endpoint, status, message)
    assert (found.reply is None) is (found.kind is not None)
    if endpoint not in ("addface", "delface") and found.charge is FREE:
        assert status in CHARGES[endpoint]
    if found.kind is not None:
        error = found.error(endpoint, None, ())
        assert len(str(error)) < 600


def test_deep_nesting_is_no_envelope() -> None:
    assert envelope.read(ENDPOINTS["delface"], 200, b'{"status":' + b"[" * 100_000).charge is UNKNOWN
