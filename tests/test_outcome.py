"""Outcomes as rows of a table."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import (
    AddFace,
    AISolutionError,
    Answered,
    Call,
    DeleteFace,
    FaceCompare,
    Failed,
    IdHolding,
    InputError,
    OutcomeUnknownError,
    SearchFace,
    UnknownStatusError,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.api import CALLS, ENDPOINTS, Endpoint
from aisolution_async.bulk.results import columns_of
from aisolution_async.outcome import result_columns

from .support import NUMBER, TOKEN, Vendor, client_of, picture, says

PHOTO = picture(1)
GROUP_ID = "gid-which-is-the-access-key"
FACES = {"similarity": 97, "result": "SAME PERSON", "group_id": GROUP_ID}
ANSWERS: dict[str, object] = {
    "facecompare": FACES,
    "idholding": FACES | {"result": "A NEW WORD"},
    "addface": {"group_id": GROUP_ID, "person_id": "p1", "person_count": 2},
    "searchface": [{"confidence": 88.5, "person_id": "p1", "group_id": GROUP_ID}],
    "delface": None,
    "gliswadetail": {"number": NUMBER, "whatsapp": "yes", "signature": '=1+1 "é"\n\ud800', "group_id": GROUP_ID},
}
EACH: tuple[Call[Any], ...] = (
    FaceCompare(PHOTO, PHOTO[:-1], key=1),
    IdHolding(PHOTO, key="A-1"),
    AddFace(PHOTO),
    SearchFace(PHOTO, key="half a pair: \ud800"),
    DeleteFace("p1", key=2**70),
    WhatsAppDetail(NUMBER, key=" two  spaces "),
)
KINDS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
# Whole numbers with gaps between them are floating ones there.
PANDAS = {bool: ["boolean"], int: ["integer", "floating"], float: ["floating"], str: ["string"]}


def answers(request: httpx.Request, number: int) -> httpx.Response:
    return says("OK", ANSWERS[request.url.path.rpartition("/")[2]])


def fails(request: httpx.Request, number: int) -> httpx.Response:
    return says("OK", {"whatsapp": 7, "similarity": "x", "group_id": GROUP_ID, "echo": f"?token={TOKEN}", "n": [1]})


async def outcomes_of(script: Callable[[httpx.Request, int], httpx.Response], *calls: Any) -> list[dict[str, Any]]:
    async def given() -> AsyncIterator[Any]:
        for call in calls:
            yield call

    async with client_of(Vendor(script)) as client:
        return [outcome.to_dict() for outcome in await client.collect(given())]


def check_types(rows: Sequence[dict[str, Any]]) -> None:
    """That no column is mixed, to pyarrow and to pandas, and none is lost, whichever row is the first."""
    names = [*rows[0]]
    types: dict[str, Any] = {"index": int, "key": str, "endpoint": str, "answered_by": int, "from_ledger": bool}
    types |= result_columns(*ENDPOINTS.values())
    assert types["answer_matches"] == [{"confidence": float, "person_id": str}]
    types["answer_matches"] = str
    assert set(names) == set(types)
    for row in rows:
        assert [*row] == names
        for name, value in row.items():
            assert value is None or type(value) is types[name], name
    assert [json.loads(json.dumps(row, allow_nan=False)) for row in rows] == rows
    table = pa.Table.from_pylist(rows)
    assert table.to_pylist() == rows
    for field in table.schema:
        assert field.type in (KINDS[types[field.name]], pa.null()), field
    frame = pd.DataFrame(rows)
    assert [*frame.columns] == names
    for name in names:
        assert pd.api.types.infer_dtype(frame[name], skipna=True) in (*PANDAS[types[name]], "empty"), name
    writer = csv.DictWriter(io.StringIO(), names)
    writer.writerows(rows)


async def test_a_mix_of_all_makes_a_table() -> None:
    no_call = InputError("row 7 is empty", key="A-7")
    for script in (answers, fails):
        rows = await outcomes_of(script, no_call, "no call", *EACH)
        for start in range(len(rows)):
            check_types(rows[start:] + rows[:start])
        assert [row["endpoint"] for row in rows] == [None, None, *(call.endpoint.name for call in EACH)]
        keys = ["A-7", None, "1", "A-1", None, "half a pair: ?", str(2**70), " two  spaces "]
        assert [row["key"] for row in rows] == keys
        said = json.dumps(rows)
        for secret in (GROUP_ID, "group_id", TOKEN, PHOTO.hex()[:20]):
            assert secret not in said


async def test_what_came_of_each() -> None:
    rows = await outcomes_of(answers, *EACH)
    assert [row["ok"] for row in rows] == [True] * 6
    assert [row["charge"] for row in rows] == ["charged", "charged", "free", "charged", "free", "charged"]
    assert [row["answer_similarity"] for row in rows] == [97.0, 97.0, None, None, None, None]
    assert [row["answer_result"] for row in rows[:2]] == ["SAME PERSON", "A NEW WORD"]
    assert (rows[2]["answer_person_id"], rows[2]["answer_person_count"]) == ("p1", 2)
    assert rows[3]["answer_matches"] == '[{"confidence": 88.5, "person_id": "p1"}]'
    assert (rows[5]["answer_number"], rows[5]["answer_whatsapp"]) == (NUMBER, "yes")
    assert rows[5]["answer_signature"] == '=1+1 "é"\n?'
    for row in rows:
        assert (row["status"], row["attempts"], row["error"], row["problem"]) == ("OK", 1, None, None)
        assert (row["answer_raw"], row["answered_by"], row["from_ledger"]) == (None, None, False)


async def test_what_did_not_fit_is_kept_in_the_vendor_s_words() -> None:
    (row,) = await outcomes_of(fails, WhatsAppDetail(NUMBER))
    assert (row["ok"], row["charge"], row["status"], row["error"]) == (False, "unknown", "OK", "OutcomeUnknownError")
    raw = {"whatsapp": 7, "similarity": "x", "echo": "?token=…", "n": [1]}
    assert json.loads(row["answer_raw"]) == raw
    assert "does not fit" in row["problem"]
    (row,) = await outcomes_of(answers, WhatsAppDetail("12"))
    assert (row["ok"], row["charge"], row["attempts"], row["error"]) == (False, "free", 0, "InputError")


async def test_where_an_answer_is_from(tmp_path: Any) -> None:
    calls = [WhatsAppDetail(NUMBER, key=1), WhatsAppDetail(NUMBER, key=2)]
    async with client_of(Vendor(answers), ledger=tmp_path / "a.ledger") as client:
        first, twin = [outcome.to_dict() for outcome in await client.collect(calls)]
        (again,) = [outcome.to_dict() for outcome in await client.collect(calls[:1])]
    told = ("ok", "charge", "attempts", "answered_by", "from_ledger")
    assert sorted([row[name] for name in told] for row in (first, twin)) in (
        [[True, "charged", 1, None, False], [True, "free", 0, 0, False]],
        [[True, "charged", 1, None, False], [True, "free", 0, 1, False]],
    )
    assert [again[name] for name in told] == [True, "free", 0, None, True]


@pytest.mark.parametrize("call", CALLS)
def test_the_names_are_those_of_bulk(call: type[Call[Any]]) -> None:
    names, (results,) = columns_of([call], [], str)
    row = Failed(0, None, None, None, InputError("x"), ()).to_dict()
    assert names == [name for name in row if name in names]
    for name, kind in result_columns(call.endpoint).items():
        assert kind == results.types[names.index(name)]
        # One name is one type, whatever answers it.
        assert kind == result_columns(*ENDPOINTS.values())[name]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(st.text(), st.text() | st.integers() | st.none(), st.none() | st.text(), JSON)
def test_whatever_is_said(text: str, key: str | int | None, status: str | None, message: Any) -> None:
    profile = WhatsAppProfile.model_validate({"whatsapp": text, "signature": status, "more": message})
    errors: list[AISolutionError] = [
        OutcomeUnknownError(text, key=key, status=status, message=message),
        UnknownStatusError(text, key=key, status=status, message=message, endpoint="gliswadetail"),
    ]
    check_types([
        *(Failed(n, key, None, None, error, ()).to_dict() for n, error in enumerate(errors)),
        Answered(2, key, WhatsAppDetail(NUMBER, key=key), profile, None, ()).to_dict(),
    ])  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_an_endpoint_is_pickled(endpoint: Endpoint[Any]) -> None:
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
