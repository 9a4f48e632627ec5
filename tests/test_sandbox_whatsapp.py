"""The pretended vendor: what it knows of phone numbers."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from aisolution_async.sandbox import Sandbox, vendor

from .sandboxes import NO, SLOW, YES, ask, bill, http_client_of, numbers


@pytest.mark.parametrize(
    ("number", "country", "normal"),
    [
        ("+6281387300008", "", "+6281387300008"),
        ("+62 (813) 873-00.008", "", "+6281387300008"),
        ("006281387300008", "", "+6281387300008"),
        ("006281387300008", "PH", "+6281387300008"),
        ("+6281387300008", "PH", "+6281387300008"),
        ("+6281387300008", "ZZ", "+6281387300008"),
        ("81387300008", "", "+81387300008"),
        ("6281387300008", "", "+6281387300008"),
        ("081387300008", "ID", "+6281387300008"),
        ("81387300008", "id", "+6281387300008"),
        ("6281387300008", "ID", "+6281387300008"),
        ("09171234567", "PH", "+639171234567"),
        ("0912345678", "VN", "+84912345678"),
        ("9123456789", "IN", "+919123456789"),
        ("919123456789", "IN", "+919123456789"),
    ],
)
async def test_numbers_are_normalised(http_client: httpx.AsyncClient, number: str, country: str, normal: str) -> None:
    status, message = await ask(http_client, "gliswadetail", number=number, country=country)
    assert (status, message["number"]) == ("OK", normal)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({}, "number is missing"),
        ({"number": "telephone"}, "number is not a phone number"),
        ({"number": "62+81387300008"}, "number is not a phone number"),
        ({"number": "٦٢٨١٣٨٧٣٠٠٠٠٨"}, "number is not a phone number"),
        ({"number": "081387300008"}, "number begins with 0: give country, or + and the country code"),
        (
            {"number": "081387300008", "country": "ZZ"},
            "country is not known: give the number with + and its country code",
        ),
        ({"number": YES, "country": "IDN"}, "country is not two letters"),
        ({"number": "+628138"}, "number is not 7 to 15 digits with a country code"),
        ({"number": "+1234567890123456"}, "number is not 7 to 15 digits with a country code"),
        ({"number": "+081387300008"}, "number is not 7 to 15 digits with a country code"),
        ({"number": "..."}, "number is not 7 to 15 digits with a country code"),
        ({"number": YES, "servstatus": "yes"}, "servstatus is neither y nor n"),
        ({"number": YES, "callback": "nowhere"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "ftp://127.0.0.1/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http:///path"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://me@127.0.0.1/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://127.0.0.1:99999/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://[::1/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://127.0.0.1/\r\nx: y"}, "callback is not an http or https address"),
    ],
)
async def test_bad_input_is_refused_and_free(
    sandbox: Sandbox, http_client: httpx.AsyncClient, form: dict[str, str], why: str
) -> None:
    assert await ask(http_client, "gliswadetail", **form) == ("INVALID_INPUT", why)
    assert sandbox.bill == bill(gliswadetail=(0, 1))
    assert not sandbox.callbacks


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.com", "0.0.0.0", "2130706433", "localhost.evil.example", "[::]", "YOUR_CALLBACK_URL"]
)
async def test_nobody_else_is_called_back(sandbox: Sandbox, http_client: httpx.AsyncClient, host: str) -> None:
    answer = await ask(http_client, "gliswadetail", number=YES, callback=f"https://{host}/")
    assert answer == ("OK", {"number": YES, "whatsapp": "checking"})
    while not sandbox.callbacks:
        await asyncio.sleep(0)
    (delivery,) = sandbox.callbacks
    assert delivery.http_status is None
    assert delivery.error == "not made: only loopback addresses are called back"


async def test_answers_have_the_documented_form_and_stay_the_same(
    sandbox: Sandbox, http_client: httpx.AsyncClient
) -> None:
    status, message = await ask(http_client, "gliswadetail", number=YES)
    assert status == "OK"
    assert list(message) == ["number", "whatsapp", "status_update", "signature", "business_user", "avatar"]
    assert message["number"] == YES
    assert message["whatsapp"] == "yes"
    assert re.fullmatch("20[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]", message["status_update"])
    assert await ask(http_client, "gliswadetail", number=YES, servstatus="y") == (status, message)
    assert await ask(http_client, "gliswadetail", number=NO) == ("OK", {"number": NO, "whatsapp": "no"})
    checking = ("OK", {"number": SLOW, "whatsapp": "checking"})
    assert await ask(http_client, "gliswadetail", number=SLOW) == checking
    resolved = await ask(http_client, "gliswadetail", number=SLOW)
    assert resolved == ("OK", vendor._profile(SLOW))
    assert await ask(http_client, "gliswadetail", number=SLOW) == resolved
    assert sandbox.bill == bill(gliswadetail=(5, 1))


def test_about_seven_in_ten_have_whatsapp() -> None:
    profiles = [vendor._profile(f"+62812{serial:07d}") for serial in range(3000)]
    yes = [profile for profile in profiles if profile["whatsapp"] == "yes"]
    assert 0.66 < len(yes) / len(profiles) < 0.74
    for name in ("business_user", "avatar"):
        assert {profile[name] for profile in yes} == {"yes", "no"}
    assert {profile["signature"] for profile in yes} == set(vendor._SIGNATURES)
    assert 0.07 < len(numbers("checking")) / 300 < 0.14


async def test_a_service_that_is_down_says_so_if_asked() -> None:
    async with (
        Sandbox(whatsapp_available=False) as sandbox,
        http_client_of(sandbox) as http_client,
    ):
        assert not sandbox.whatsapp_available
        unavailable = ("OK", {"number": YES, "whatsapp": "unavailable"})
        assert await ask(http_client, "gliswadetail", number=YES, servstatus="y") == unavailable
        assert await ask(http_client, "gliswadetail", number=YES) == ("RETRY_LATER", vendor._BUSY)
        assert (await ask(http_client, "gliswadetail", number="bad"))[0] == "INVALID_INPUT"
        assert sandbox.bill == bill(gliswadetail=(0, 3))
        sandbox.whatsapp_available = True
        assert (await ask(http_client, "gliswadetail", number=YES))[1]["whatsapp"] == "yes"
        assert sandbox.bill == bill(gliswadetail=(1, 3))
