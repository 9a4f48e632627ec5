"""Countries as people write them."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import InputError
from aisolution_async.inputs import texts
from aisolution_async.inputs.countries import codes_of

WRITTEN = {
    "ID": "ID id IDN idn Indonesia INDONESIA indonesia. +62 62 0062 (+62) RI Republic_of_Indonesia 🇮🇩",
    "PH": "PH PHL Philippines Filipina Pilipinas The_Philippines Philippines_(the) +63 Republika_ng_Pilipinas RP",
    "VN": "VN VNM Vietnam Viet_Nam VIỆT_NAM việt_nam Viet-Nam +84 Socialist_Republic_of_Viet_Nam",
    "IN": "IN IND India Bharat Hindustan Ấn_Độ +91 Republic_of_India",
    "MY": "MY MYS Malaysia +60",
    "US": "US USA U.S.A. United_States_of_America Amerika_Serikat Hoa_Kỳ Mỹ America +1",
    "GB": "GB GBR UK United_Kingdom Inggris England",
    "KR": "KR KOR South_Korea Korea,_Republic_of Republic_of_Korea Korea_Selatan Hàn_Quốc",
    "AT": "AT AUT Austria Áo",
    "AO": "AO AGO Angola Ao",
    "AD": "AND Andorra",
    "TT": "Trinidad_and_Tobago Trinidad_&_Tobago",
    "CI": "Côte_d\u2019Ivoire Cote_d'Ivoire Ivory_Coast",
    "CN": "China Tiongkok People's_Republic_of_China Trung_Quốc",
    "TW": "Taiwan Republic_of_China Đài_Loan",
    "DO": "Dominican_Republic",
    "DM": "Dominica",
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, all_ in WRITTEN.items() for text in all_.split()])
def test_as_people_write_them(code: str, text: str) -> None:
    assert texts.written_country(text.replace("_", " "), name="country") == code


@pytest.mark.parametrize(
    "text",
    ["Indonesia (+62)", "Indonesia +62", "+62 Indonesia", "62 - Indonesia", "ID - Indonesia", "ID/IDN", "🇮🇩 Indonesia"],
)
def test_what_is_said_twice_alike(text: str) -> None:
    assert codes_of(text) == ("ID",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Nga", "country may be NG or RU"),  # Russia in Vietnamese, and Nigeria's code
        ("NGA", "country may be NG or RU"),
        ("Korea", "country may be KP or KR"),
        ("Congo", "country may be CD or CG"),
        ("Indonesia / Malaysia", "no country's name"),
        ("Indonesia (+60)", "no country's name"),
        ("Java", "country is no two-letter country code"),
        ("DKI Jakarta", "no country's name"),
        ("1", "no country's name"),  # as a form numbers its choices
        ("+999", "no country's name"),
        ("-", "no country's name"),
        ("081387300008", "no country's name"),
        ("x" * 500, "no country's name"),
    ],
)
def test_what_is_not_surely_one(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        texts.written_country(text, name="country")


def test_every_country_with_phone_numbers() -> None:
    for code in phonenumbers.SUPPORTED_REGIONS:
        assert codes_of(code) == codes_of(code.lower()) == (code,)
        assert codes_of(f"+{phonenumbers.country_code_for_region(code)}")


def test_an_option_names_the_code() -> None:
    with pytest.raises(InputError, match="country is no two-letter country code: use ID for it"):
        texts.country("Indonesia", name="country")


@given(st.text(max_size=60))
def test_whatever_is_written(text: str) -> None:
    assert all(len(code) == 2 and code.isupper() for code in codes_of(text))
