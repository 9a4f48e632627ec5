"""A secret is found in the vendor's words however it is spelt, and nothing else of them is changed."""

from __future__ import annotations

import base64
import json
import pickle
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from aisolution_async import (
    AddedFace,
    AddFace,
    AISolutionError,
    AsyncClient,
    Call,
    FaceComparison,
    FaceMatches,
    Judgment,
    Ledger,
    OutcomeUnknownError,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.api import CALLS, WORDS, Reply
from aisolution_async.hiding import HIDDEN, Redactor, Secret, redacted
from aisolution_async.wire import envelope

from .support import picture, says

GROUP = "LxiKPLIMGFpXzXas"
NUMBER = "+6281387300008"
TOKEN = 'a+b/c=d"e\\f é~1'
OKS: dict[str, Any] = {
    "facecompare": {"similarity": 97.501, "result": "SAME PERSON"},
    "idholding": {"similarity": 27, "result": "NOT SAME PERSON"},
    "searchface": [{"confidence": 100, "person_id": "c5r7jedkujdbnasarhn0"}],
    "addface": {"group_id": GROUP, "person_id": "c5r7jedkujdbnasarhn0", "person_count": 3},
    "delface": None,
    "gliswadetail": {"number": NUMBER, "whatsapp": "yes", "status_update": "20180825", "signature": "yes, app of t"},
}
SHORT = ["t", "app", "yes", '"', ",", "{", "0", "OK", "person", "null", "SAME", "97.501", "similar", "é", "\\"]


def asks(client: AsyncClient) -> list[Any]:
    photo = picture(1)
    return [
        client.face_compare(photo, picture(2)),
        client.id_holding(photo),
        client.search_face(photo),
        client.add_face(photo, key="k"),
        client.delete_face("p", key="k"),
        client.whatsapp_detail(NUMBER),
    ]


def answer(request: httpx.Request) -> httpx.Response:
    return says("OK", OKS[request.url.path.rpartition("/")[2]])


def client_of(token: str, handler: Any = answer, **options: Any) -> AsyncClient:
    return AsyncClient(token, base_url="https://vendor.example", transport=httpx.MockTransport(handler), **options)


@pytest.mark.parametrize("token", [*SHORT, "whatsapp", "similarity", "SAME PERSON", "not same person", "gliswadetail"])
async def test_a_token_that_is_an_ordinary_word_damages_nothing(token: str, tmp_path: Path) -> None:
    first: list[Any] = []
    for run in range(2):
        async with client_of(token, ledger=tmp_path / "a.ledger") as client:
            replies = [await ask for ask in asks(client)]
            assert client.tally.total == (0 if run else 6)
            first = first or replies
    assert [r.to_record() for r in replies] == [r.to_record() for r in first]
    for record in Ledger(tmp_path / "a.ledger").answers():
        assert record.reply is not None
        assert HIDDEN not in json.dumps(json.loads(record.reply), ensure_ascii=False)


def spellings(secret: str) -> dict[str, str]:
    coded = base64.b64encode(secret.encode())
    return {
        "plain": secret,
        "within words": f"xx{secret}yy",
        "a URL": f"https://v.example/?token={quote(secret, safe='')}&x=1",
        "small escapes": quote(secret, safe="").lower() if secret.islower() else quote(secret, safe="~"),
        "every byte": "".join(f"%{byte:02x}" for byte in secret.encode()),
        "twice escaped": quote(quote(secret, safe=""), safe=""),
        "a form": quote_plus(secret),
        "JSON": json.dumps(secret),
        "JSON in JSON": json.dumps(json.dumps({"token": secret})),
        "slashes": secret.replace("/", "\\/"),
        "every character": "".join(f"\\u{ord(char):04X}" for char in secret),
        "HTML": "".join(f"&#x{ord(char):X};" for char in secret),
        "HTML names": secret.replace("&", "&amp;").replace('"', "&quot;"),
        "base64": coded.decode(),
        "safe base64": base64.urlsafe_b64encode(secret.encode()).decode(),
        **{f"base64 {n}": base64.b64encode(b"x" * n + secret.encode() + b"yy").decode() for n in (1, 2, 3, 4)},
    }


@pytest.mark.parametrize("way", spellings(TOKEN))
@pytest.mark.parametrize("field", ["signature", "new", "deep"])
async def test_a_secret_is_found_however_it_is_spelt(way: str, field: str, tmp_path: Path) -> None:
    said = spellings(TOKEN)[way]
    profile = {"number": NUMBER, "whatsapp": "yes", "n": 12345678901234567890, "f": 0.1, field: said}
    if field == "deep":
        profile["deep"] = [{"a": [said, {said: said, "token": 1}]}]

    async with client_of(TOKEN, lambda r: says("OK", profile), ledger=tmp_path / "a.ledger") as client:
        await client.whatsapp_detail(NUMBER)
    async with client_of(TOKEN, ledger=tmp_path / "a.ledger") as client:
        reply = await client.whatsapp_detail(NUMBER)
        assert client.tally.total == 0
    assert (reply.whatsapp, reply.number) == ("yes", NUMBER)
    assert reply.model_extra is not None
    assert (reply.model_extra["n"], reply.model_extra["f"]) == (12345678901234567890, 0.1)
    (record,) = Ledger(tmp_path / "a.ledger").answers()
    assert record.reply is not None
    kept = str(record.reply, "utf-8") if isinstance(record.reply, bytes) else record.reply
    assert HIDDEN in json.dumps(json.loads(kept), ensure_ascii=False)
    for text in (kept, json.dumps(json.loads(kept), ensure_ascii=False)):
        # What is left of it, if the beginning or the end was spelt together with its neighbours.
        assert said not in text
        assert TOKEN not in text


@pytest.mark.parametrize(
    ("token", "text", "shown"),
    [
        ("secret-77", "Saya secret-77 suka", "Saya … suka"),
        ("Alexandria", "Alexandra, Alexandria", "Alexandra, …"),
        (
            "12345678",
            "id 12345678 of +6212345678, 123456789 and 0.12345678x",
            "id … of +6212345678, 123456789 and 0.…x",
        ),
        ("12345678", "?token=12345678&token%3D12345678&%20%31%32345678", "?token=…&token%3D…&%20…"),
        ("short", "a short word", "a short word"),
        ("charged", "it was charged", "it was charged"),
        ("FACE_DETECT", "IMAGEB_FACE_DETECT_FAILED", "IMAGEB_FACE_DETECT_FAILED"),
        ("unavailable", "unavailable", "unavailable"),
        ("tok\U0001f600-emoji", json.dumps("tok\U0001f600-emoji"), '"…"'),
    ],
)
def test_what_is_a_secret_and_what_is_a_word(token: str, text: str, shown: str) -> None:
    assert Redactor(Secret(token), WORDS).text(text) == shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """A JSON value without what its texts say."""
    if isinstance(value, dict):
        return [shape(held) for held in value.values()]
    if isinstance(value, list):
        return [[shape(held)] for held in value]
    return "text" if isinstance(value, str) else value


@pytest.mark.no_cover
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), JSON)
@example("12345678", {"a": 12345678, "12345678": "12345678", "…": 1})
@example("aaaaaaaa", ["a" * 9, "a" * 16])
def test_only_the_texts_of_a_value_change(token: str, value: Any) -> None:
    redactor = Redactor(Secret(token), WORDS)
    found = redacted(value, redactor.text)
    assert shape(found) == shape(value)
    hostile = redacted([value, {"x": f"<{token}>", token: token}], redactor.text)
    assert shape(hostile)[0] == [shape(value)]
    if len(token) >= 8 and not any(token.casefold() in word.casefold() for word in WORDS):
        assert token not in hostile[1]["x"]
        assert token not in hostile[1]


def test_a_megabyte_of_escapes_takes_no_time() -> None:
    redactor = Redactor(Secret("tok\\\\en/0000000000"), WORDS)
    for unit in ("\\", "%25", "%2525", "&#x0", "tok\\", "\\u"):
        started = time.process_time()
        redactor.text(unit * (2**20 // len(unit)))
        assert time.process_time() - started < 5.0  # minutes, if it grew with the square


@pytest.mark.parametrize("token", ["tok-3n/secret+value==", "12345678901"])
@pytest.mark.parametrize("body", [b'{"status": "OK", "message": {"x": "%s"}}', b"<html>%s</html>", b"\xff %s \xfe"])
def test_an_error_carries_no_secret(token: str, body: bytes) -> None:
    redact = Redactor(Secret(token), WORDS).text
    call = CALLS[0]
    found = envelope.read(call.endpoint, 200, body % token.encode(), redact=redact)
    error = found.error(call.endpoint.name, "k", ())
    assert isinstance(error, OutcomeUnknownError)
    carried = repr(vars(error))
    assert token not in carried
    assert HIDDEN in carried or b"\xe2\x80\xa6" in (error.body or b"")
    if error.body is not None:
        assert error.body == body.replace(b"%s", HIDDEN.encode())  # all else is kept, byte by byte


async def test_a_reply_carries_no_secret_but_its_access_key() -> None:
    token = "tok-3n/secret+value=="
    said = {"whatsapp": f"<{token}>", "number": NUMBER, "signature": quote(token, safe=""), "more": [{token: token}]}
    added = {"group_id": token, "person_id": token, "person_count": 1}
    asked: list[tuple[dict[str, Any], Call[Any]]] = [(said, WhatsAppDetail(NUMBER)), (added, AddFace(picture(1)))]
    for message, call in asked:
        async with client_of(token, lambda r, message=message: says("OK", message)) as client:
            (outcome,) = await client.collect([call])
            reply = outcome.reply
        assert reply is not None
        assert outcome.charge is call.endpoint.charges["OK"]
        copied = pickle.loads(pickle.dumps(reply))
        for text in (repr(reply), reply.model_dump_json(), repr(vars(copied)), str(outcome.to_dict())):
            assert token not in text
            assert quote(token, safe="") not in text
    assert getattr(reply, "group_id", None) == token  # for code that asks for it


@pytest.mark.parametrize("status", ["INVALID_REQUEST", "RETRY_LATER", "NEW tok-3n/secret+value=="])
async def test_the_message_of_an_error_carries_no_secret(status: str) -> None:
    token = "tok-3n/secret+value=="
    message = {"echo": token, "url": quote(token, safe=""), "count": 3, "whatsapp": "yes"}
    async with client_of(token, lambda r: says(status, message), retry=0) as client:
        with pytest.raises(AISolutionError) as caught:
            await client.whatsapp_detail(NUMBER)
    error: Any = caught.value
    assert error.message == {"echo": HIDDEN, "url": HIDDEN, "count": 3, "whatsapp": "yes"}
    assert error.status == status.replace(token, HIDDEN)
    assert token not in repr(pickle.dumps(error))


@pytest.mark.parametrize(
    ("token", "base", "shown"),
    [
        ("secret-token-1", "https://v.example/x/secret-token-1/y", "https://v.example/x/…/y"),
        ("secret-token-1", "https://v.example/xsecret-token-1", "https://v.example/x…"),
        ("Secret-Token-1", "https://Secret-Token-1.v.example", "https://….v.example"),
        ("tok/en+12", "https://v.example/tok%2Fen+12/z", "https://v.example/…/z"),
        ("t", "https://v.example/t/tt", "https://v.example/…/tt"),
        ("v", "https://v.example/v1", "https://v.example"),
    ],
)
async def test_a_base_url_that_holds_the_token(token: str, base: str, shown: str) -> None:
    urls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        urls.extend([str(request.url), repr(request.url), repr(request)])
        raise httpx.ConnectError(f"no way to {request.url}", request=request)

    async with AsyncClient(token, base_url=base, transport=httpx.MockTransport(handler), retry=0) as client:
        assert client.base_url == shown
        with pytest.raises(AISolutionError) as caught:
            await client.delete_face("p")
        texts = [repr(client), repr(client.with_options(retry=1)), str(caught.value), *urls[1:]]
    assert urls[0].startswith(base.lower() if token.lower() in urls[0].split("/")[2] else base.removesuffix("/v1"))
    if len(token) > 1:
        assert not any(token.lower() in text.lower() for text in texts)


# -------------------------------------------------------------------------------------------------- the access key

REPLIES: list[tuple[type[Reply], Any]] = [
    (AddedFace, {"group_id": GROUP, "person_id": "p", "person_count": 1}),
    (AddedFace, {"group_id": GROUP, "person_id": "p", "person_count": 1, "more": [{"group_id": GROUP, "x": 1}]}),
    (FaceComparison, {"similarity": 5, "result": "NOT SURE", "group_id": GROUP}),
    (FaceComparison, {"similarity": 5, "result": "NOT SURE", "new": {"group_id": GROUP, "y": {"group_id": [GROUP]}}}),
    (FaceMatches, [{"confidence": 9, "person_id": "p", "group_id": GROUP, "new": {"group_id": GROUP}}]),
    (WhatsAppProfile, {"whatsapp": "yes", "group_id": {"id": GROUP}}),
]


@pytest.mark.parametrize(("kind", "message"), REPLIES)
def test_no_dump_shows_the_group_id(kind: type[Reply], message: Any) -> None:
    reply = kind.from_message(message)
    copy: Reply = pickle.loads(pickle.dumps(reply))
    for shown in (
        reply.model_dump(),
        reply.model_dump(mode="json"),
        reply.model_dump_json(),
        reply.model_copy().model_dump_json(),
        TypeAdapter(list[Reply]).dump_json([reply], serialize_as_any=True),
        reply.to_record(),
        repr(reply),
        str(reply),
        pickle.dumps(reply),
        copy.__dict__,
        copy.model_extra,
        reply.model_extra,
    ):
        assert GROUP not in str(shown)
    assert kind.model_validate({"group_id": "", **json.loads(reply.to_record())}) is not None
    assert copy.attempts == reply.attempts
    assert "group_id" not in kind.model_json_schema(mode="serialization")["properties"]


def test_the_group_id_is_there_for_code_that_asks() -> None:
    added = AddedFace.from_message(REPLIES[0][1])
    assert (added.group_id, added.model_copy().group_id) == (GROUP, GROUP)
    assert pickle.loads(pickle.dumps(added)).group_id == ""
    assert added == AddedFace.from_message(REPLIES[0][1])
    found: Any = FaceMatches.from_message(REPLIES[4][1])
    assert found.matches[0].group_id == GROUP
    assert found.matches[0].new == {}
    other: Any = FaceComparison.from_message(REPLIES[2][1])
    assert (other.group_id, other.result) == (GROUP, Judgment.NOT_SURE)


async def test_fastapi_answers_with_a_reply_without_the_group_id() -> None:
    app = FastAPI()
    replies = [kind.from_message(message) for kind, message in REPLIES]

    @app.get("/plain")
    async def plain() -> AddedFace:
        reply = replies[0]
        assert isinstance(reply, AddedFace)
        return reply

    @app.get("/any")
    async def anything() -> Any:
        return {"replies": replies}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        answer = await http.get("/plain")
        assert answer.json() == {"person_id": "p", "person_count": 1}
        answer = await http.get("/any")
        assert answer.json()["replies"][1]["more"] == [{"x": 1}]
        assert GROUP not in answer.text
        schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
        assert "group_id" not in schemas["AddedFace"]["properties"]


async def test_an_ok_that_does_not_fit_is_kept_without_secrets(tmp_path: Path) -> None:
    message = {"whatsapp": ["odd"], "group_id": GROUP, "deep": [{"group_id": GROUP, "n": 1}], "t": "secret-token-1"}
    for _ in range(2):
        async with client_of("secret-token-1", lambda r: says("OK", message), ledger=tmp_path / "a") as client:
            with pytest.raises(OutcomeUnknownError) as caught:
                await client.send(WhatsAppDetail(NUMBER))
    assert caught.value.message == {"whatsapp": ["odd"], "deep": [{"n": 1}], "t": HIDDEN}
    assert caught.value.recorded is not None


def test_a_dict_of_a_reply_shows_no_more_than_its_dumps() -> None:
    added = AddedFace.from_message({"group_id": "LxiKPLIMGFpXzXas", "person_id": "p", "person_count": 1, "new": 2})
    assert dict(added) == {"person_id": "p", "person_count": 1, "new": 2}
    assert "LxiKPLIMGFpXzXas" not in repr(list(added))
    assert added.group_id == "LxiKPLIMGFpXzXas"
