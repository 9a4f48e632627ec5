"""The pretended vendor: numbers that are answered as they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aisolution_async.charges import Charge
from aisolution_async.sandbox import MAGIC_NUMBERS, Clock, Sandbox, magic_number, vendor
from aisolution_async.sandbox.magic import HOSTILE

from .sandboxes import TOKEN, ask, bill, http_client_of, said_by_page


def without_more(whatsapp: str) -> Callable[[str], dict[str, str]]:
    return lambda number: {"number": number, "whatsapp": whatsapp}


Expected = tuple[str, Any, bool]
"""Status, message (or what makes it of the number), and whether it is charged."""

WHOLE_ANSWER: Expected = ("OK", said_by_page, True)
CHECKING: Expected = ("OK", without_more("checking"), False)
BUSY: Expected = ("RETRY_LATER", vendor._BUSY, False)

ENVELOPES: dict[str, list[Expected]] = {
    "yes": [WHOLE_ANSWER] * 2,
    "business": [("OK", lambda number: said_by_page(number, business_user="yes"), True)],
    "no": [("OK", without_more("no"), True)] * 2,
    "bare": [("OK", without_more("yes"), True)],
    "hostile": [("OK", lambda number: said_by_page(number, signature=HOSTILE), True)],
    "checking-twice": [CHECKING, CHECKING, WHOLE_ANSWER, WHOLE_ANSWER],
    "checking-20-seconds": [CHECKING] * 5,
    "checking-for-ever": [CHECKING] * 5,
    "unavailable": [BUSY] * 3,
    "unavailable-once": [BUSY, WHOLE_ANSWER],
    "callback-once": [WHOLE_ANSWER],
    "callback-twice": [WHOLE_ANSWER],
    "callback-late": [WHOLE_ANSWER],
    "callback-never": [WHOLE_ANSWER],
    "callback-stranger": [WHOLE_ANSWER],
    "callback-unescaped": [WHOLE_ANSWER],
    "callback-no": [("OK", without_more("no"), True)],
    "invalid-input": [("INVALID_INPUT", "error message", False)] * 2,
    "fail": [("FAIL", "error message", False)] * 2,
    "retry-later": [BUSY] * 3,
    "retry-later-once": [BUSY, WHOLE_ANSWER, WHOLE_ANSWER],
    "retry-later-twice": [BUSY, BUSY, WHOLE_ANSWER],
    "unknown-status": [("QUOTA_EXCEEDED", "error message", False)],
    "unfitting": [("OK", "nothing that fits", True)],
    "unknown-word": [("OK", without_more("maybe"), True)],
}

PLAIN: dict[str, list[tuple[int, str | None]]] = {
    "http-401": [(401, None)] * 2,
    "http-403": [(403, None)],
    "http-404": [(404, None)],
    "http-429": [(429, "1")] * 2,
    "http-429-once": [(429, "1"), (200, None)],
    "http-500": [(500, None)],
    "http-502": [(502, None)],
    "http-502-charged": [(502, None)],
    "http-503": [(503, None)] * 2,
    "http-503-once": [(503, "1"), (200, None)],
    "http-504": [(504, None)],
}

# What the wire does is tested with the faults that do it.
BY_FAULT = {
    "hang": "hang",
    "reset-after": "reset-after",
    "reset-middle": "reset-middle",
    "drip": "drip",
    "garbage": "garbage",
    "not-json": "not-json",
    "truncated": "truncated",
    "huge": "huge",
    "content-type": "content-type",
    "reset-after-once": "reset-after",
}


def test_every_magic_number_is_tested() -> None:
    assert {*ENVELOPES, *PLAIN, *BY_FAULT} == set(MAGIC_NUMBERS)
    assert all(re.fullmatch("[0-9]{3}", magic.code) for magic in MAGIC_NUMBERS.values())


@pytest.mark.parametrize("name", ENVELOPES)
@pytest.mark.parametrize("country", ["ID", "PH", "IN", "VN"])
async def test_magic_numbers_are_answered_by_their_name(
    sandbox: Sandbox, http_client: httpx.AsyncClient, name: str, country: str
) -> None:
    number = sandbox.number(name, country=country)
    for status, message, charged in ENVELOPES[name]:
        before = sandbox.bill.charged
        assert await ask(http_client, "gliswadetail", number=number) == (
            status,
            message(number) if callable(message) else message,
        )
        assert sandbox.bill.charged - before == charged


@pytest.mark.parametrize("name", PLAIN)
async def test_magic_numbers_are_refused_without_an_envelope(
    sandbox: Sandbox, http_client: httpx.AsyncClient, name: str
) -> None:
    for code, retry_after in PLAIN[name]:
        answer = await http_client.post(
            "/v1/gliswadetail", params={"token": TOKEN}, data={"number": sandbox.number(name, country="PH")}
        )
        assert (answer.status_code, answer.headers.get("retry-after")) == (code, retry_after)
        assert answer.text.startswith("{") == (code == 200)
    charged = name.endswith("-charged") or PLAIN[name][-1][0] == 200
    assert sandbox.bill.charged == charged
    assert sandbox.bill.delivered.charged == (charged and not name.endswith("-charged"))


@pytest.mark.parametrize("name", BY_FAULT)
async def test_magic_numbers_have_their_faults(sandbox: Sandbox, name: str) -> None:
    request = vendor.Request(
        "POST", "/v1/gliswadetail", b"token=" + TOKEN.encode(), b"number=%2B" + sandbox.number(name)[1:].encode()
    )
    answer = await sandbox.answer(request)
    assert answer.fault is not None
    assert (answer.fault.kind, answer.charge) == (BY_FAULT[name], Charge.CHARGED)
    again = (await sandbox.answer(request)).fault
    assert (again is None) == name.endswith("-once")


async def test_a_magic_number_that_is_lost_once_is_charged_twice(
    sandbox: Sandbox, http_client: httpx.AsyncClient
) -> None:
    form = {"number": sandbox.number("reset-after-once")}
    with pytest.raises(httpx.ReadError):
        await http_client.post("/v1/gliswadetail", params={"token": TOKEN}, data=form)
    assert (await ask(http_client, "gliswadetail", **form))[0] == "OK"
    assert (sandbox.bill.charged, sandbox.bill.delivered.charged) == (2, 1)


@pytest.mark.parametrize(
    ("spelling", "country"),
    [
        ("+6281200000002", ""),
        ("006281200000002", ""),
        ("6281200000002", ""),
        ("081200000002", "ID"),
        ("81200000002", "id"),
        ("+62 (812) 0000-0002", "PH"),
        ("+639170000002", ""),
        ("00639170000002", "VN"),
        ("639170000002", "PH"),
        ("09170000002", "PH"),
        ("9170000002", "PH"),
        ("+919000000002", ""),
        ("919000000002", ""),
        ("9000000002", "IN"),
        ("09000000002", "IN"),
        ("+84900000002", ""),
        ("0084900000002", ""),
        ("0900000002", "VN"),
        ("900000002", "VN"),
    ],
)
async def test_magic_numbers_in_any_spelling(http_client: httpx.AsyncClient, spelling: str, country: str) -> None:
    _, message = await ask(http_client, "gliswadetail", number=spelling, country=country)
    assert message["whatsapp"] == "no"
    assert message["number"] in {magic_number("no", country=each) for each in ("ID", "PH", "IN", "VN")}


async def test_other_numbers_are_like_any_other(http_client: httpx.AsyncClient) -> None:
    for number in ("+6281200000777", "+62812000000022", "+6281200001002", "+649170000002"):
        _, message = await ask(http_client, "gliswadetail", number=number)
        expected = vendor._profile(number)
        assert message in (expected, {"number": number, "whatsapp": "checking"})


def test_names_that_no_magic_number_has() -> None:
    with pytest.raises(ValueError, match="did you mean 'checking-twice'"):
        magic_number("checking-twise")
    with pytest.raises(ValueError, match="MAGIC_NUMBERS lists them"):
        magic_number("")
    with pytest.raises(ValueError, match="there are some in ID, PH, IN, VN"):
        magic_number("yes", country="DE")


async def test_checking_ends_by_the_clock() -> None:
    async with Sandbox(clock=Clock(ticking=False)) as sandbox, http_client_of(sandbox) as http_client:
        number = sandbox.number("checking-20-seconds")
        sandbox.clock.advance(1000)
        for seconds in (0, 10, 9.9):
            sandbox.clock.advance(seconds)
            assert (await ask(http_client, "gliswadetail", number=number))[1]["whatsapp"] == "checking"
        sandbox.clock.advance(0.1)
        assert await ask(http_client, "gliswadetail", number=number) == ("OK", said_by_page(number))


@pytest.mark.parametrize("callback", ["", "http://127.0.0.1:1/"])
async def test_unavailable_is_said_where_it_is_asked_for(
    sandbox: Sandbox, http_client: httpx.AsyncClient, callback: str
) -> None:
    number = sandbox.number("unavailable")
    said = await ask(http_client, "gliswadetail", number=number, servstatus="y", callback=callback)
    assert said == ("OK", {"number": number, "whatsapp": "unavailable"})
    assert (await ask(http_client, "gliswadetail", number=number, servstatus="n", callback=callback))[
        0
    ] == "RETRY_LATER"
    assert not sandbox.outstanding
    assert sandbox.bill == bill(gliswadetail=(0, 2))
