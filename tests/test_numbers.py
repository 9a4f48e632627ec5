"""Phone numbers: what people and spreadsheets write becomes one E.164, or is refused without being shown."""

from __future__ import annotations

import itertools
import re
from typing import Any

import phonenumbers
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from aisolution_async import InputError
from aisolution_async.inputs.numbers import normalise, remark

from . import phones

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
EXAMPLES = {
    region: found
    for region in REGIONS
    if (found := phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)) is not None
}
E164 = PhoneNumberFormat.E164


def refused(number: Any, **options: Any) -> str:
    with pytest.raises(InputError, match="^number ") as caught:
        normalise(number, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    line = str(caught.value)
    assert "\n" not in line
    return line


def rank(e164: str | None) -> int:
    """0 for what can be a mobile number, 1 for another valid one, 2 for a possible one, 3 for none."""
    if e164 is None:
        return 3
    kind = phonenumbers.number_type(phonenumbers.parse(e164))
    if kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE):
        return 0
    return 2 if kind == PhoneNumberType.UNKNOWN else 1


def lengths(code: int | None) -> set[int]:
    """How long numbers of mobile and fixed lines are."""
    assert code is not None
    region = phonenumbers.region_code_for_country_code(code)
    found = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(code, region)
    assert found is not None
    assert found.general_desc is not None
    every = set(found.general_desc.possible_length)
    kinds = [kind for kind in (found.mobile, found.fixed_line) if kind is not None]
    some = {length for kind in kinds for length in kind.possible_length or every if length > 0}
    return (some or every) - set(found.general_desc.possible_length_local_only)


def trunk(code: int | None) -> str | None:
    """What is dialled before national numbers."""
    assert code is not None
    region = phonenumbers.region_code_for_country_code(code)
    found = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(code, region)
    assert found is not None
    return found.national_prefix_for_parsing


def verdict(text: str, region: str | None, *, in_full: bool = False) -> str | None:
    """What phonenumbers itself makes of it: E.164 if it is valid, or as long as a phone number is, else None.

    `in_full`: it was written with a plus, so that any length that its country has will do.
    """
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(parsed) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    e164 = phonenumbers.format_number(parsed, E164)
    # Of two zeros one was taken off, and the other would be if it were read once more.
    if phonenumbers.format_number(phonenumbers.parse(e164), E164) != e164:
        return None
    national = phonenumbers.national_significant_number(parsed)
    if rank(e164) == 2 and (
        (not in_full and len(national) not in lengths(parsed.country_code))
        or len(set(national)) == 1
        or (national[0] == "0" and trunk(parsed.country_code))
        or re.fullmatch(r"\+841[2-9]\d{8}", e164)
    ):
        return None
    return e164 if len(e164) <= 16 else None


@pytest.mark.parametrize(
    "typed",
    [
        "081387300008",
        "81387300008",
        "6281387300008",
        "+6281387300008",
        "006281387300008",
        "62081387300008",
        "+62081387300008",
        "+62 (0)813 8730 0008",
        "(0813) 8730.0008",
        "0813/8730/0008",
        "0813-8730\u20110008",
        "\u202a+62\u00a0813\u2009873\u200b00008\u202c",
        "\ufeff081387300008\n",
        "'081387300008",
        "\u2019081387300008",
        "tel:+62-813-8730-0008",
        "TEL: 0813 8730 0008",
        "whatsapp:+6281387300008",
        '="081387300008"',
        "=081387300008",
        '="+6281387300008"',
        "６２８１３８７３００００８",  # noqa: RUF001  # as an Asian keyboard types it
        "＋６２（８１３）８７３０－０００８",  # noqa: RUF001  # as an Asian keyboard types it
        "٠٨١٣٨٧٣٠٠٠٠٨",
        "०८१३८७३००००८",
        "6281387300008.0",
        "6281387300008,00",
        "81387300008.0",
        81387300008,
        6281387300008,
        6281387300008.0,
    ],
)
def test_every_way_to_write_one_number_is_one_number(typed: Any) -> None:
    assert normalise(typed, country="ID") == "+6281387300008"
    assert normalise(typed, country=" id ") == "+6281387300008"


@pytest.mark.parametrize(
    ("typed", "country", "sent"),
    [
        ("6281234567890", "ID", "+6281234567890"),
        ("81234567890", "ID", "+6281234567890"),
        ("62812345678", "ID", "+62812345678"),
        ("639171234567", "PH", "+639171234567"),
        ("9171234567", "PH", "+639171234567"),
        ("84912345678", "VN", "+84912345678"),
        ("912345678", "VN", "+84912345678"),
        ("9123456789", "IN", "+919123456789"),
        ("919123456789", "IN", "+919123456789"),
        ("09123456789", "IN", "+919123456789"),
        ("12015550123", "US", "+12015550123"),
        ("006591234567", "SG", "+6591234567"),  # there, 006 is itself a way to dial abroad
        ("011 62 81387300008", "US", "+6281387300008"),
        ("+39 06 6982 1234", "IT", "+390669821234"),
        ("+39 (0)6 6982 1234", None, "+390669821234"),
        ("+44 (0)20 7946 0018", None, "+442079460018"),
        ("+1 (0) 201 555 0123", None, "+12015550123"),
        ("+6281387300008", "PH", "+6281387300008"),
        ("00 62 813 8730 0008", None, "+6281387300008"),
        ("+49 171/1234567", None, "+491711234567"),
    ],
)
def test_which_country_digits_are_of(typed: str, country: str | None, sent: str) -> None:
    assert normalise(typed, country=country) == sent


@pytest.mark.parametrize("typed", ["81387300008", "081387300008", "6281387300008", "12345"])
def test_bare_digits_without_a_country_stay_as_they_are(typed: str) -> None:
    assert normalise(typed) == normalise(typed, country="") == typed
    assert normalise(f" {typed[:2]}-{typed[2:]}") == typed
    assert "give its country" in refused(typed, strict=True)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("6.28123E+12", "format the column as text"),
        ("6,28123e12", "format the column as text"),
        ("6.28E+12", "format the column as text"),
        (2.0**60, "format the column as text"),
        (1.5, "format the column as text"),
        (float("nan"), "format the column as text"),
        (float("inf"), "format the column as text"),
        ("081234567890/081345678901", "more than one"),
        ("0812345678/79", "more than one"),
        ("081234567890 / +6281345678901", "more than one"),
        ("081234567\n081345678", "more than one"),
        ("081234567890, 081345678901", "more than one"),
        ("081234567890 081345678901", "more than one"),
        ("+6281387300008 ext 5", "no phone number"),
        ("+6281387300008x5", "no phone number"),
        ("+6281387300008;ext=5", "no phone number"),
        ("1-800-FLOWERS", "no phone number"),
        ("081387300008²", "no phone number"),
        ("08138730000½", "no phone number"),
        ("++6281387300008", "no phone number"),
        ("62+81387300008", "no phone number"),
        ("+999123456789", "no country has its calling code"),
        ("00999123456789", "no country has its calling code"),
        ("+62813", "too short"),
        ("+44201", "too short"),
        ("+1201555012345", "too long"),
        ("12345", "phone number"),
        ("", "is empty"),
        ("\u200b \ufeff", "is empty"),
        ('=""', "is empty"),
        ("'", "is empty"),
        ("1" * 100_000, "too long"),
        (10**20, "no phone number"),
        (-6281387300008, "no phone number"),
        (True, "is a bool"),
        (None, "is None: pass the phone number"),
        (b"081387300008", "is a bytes"),
    ],
)
def test_what_is_refused(typed: Any, words: str) -> None:
    line = refused(typed, country="ID")
    assert words in line
    shown = set(re.findall(r"\d{4,}", line))
    assert not shown, shown


def test_a_whole_number_of_any_size() -> None:
    assert "no phone number" in refused(10**5000)  # which Python refuses to write out


def test_a_number_without_its_area_code() -> None:
    assert "area code" in refused("2530000", country="US")


def test_a_country_without_numbers() -> None:
    for country in ("UK", "XX", "AQ"):
        with pytest.raises(InputError, match="country"):
            normalise("81387300008", country=country)
    with pytest.raises(InputError, match="two-letter"):
        normalise("81387300008", country="IDN")


def test_strict_asks_for_a_number_that_was_handed_out() -> None:
    assert normalise("81387300008", country="ID") == "+6281387300008"
    assert normalise("+62 812-3456-7890", strict=True) == "+6281234567890"
    assert normalise("81234567890", country="ID", strict=True) == "+6281234567890"
    assert "valid" in refused("+12005550123", strict=True)
    assert normalise("+12005550123") == "+12005550123"


@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_a_valid_number_is_the_same_in_every_form(region: str, data: st.DataObject) -> None:
    found = EXAMPLES[region]
    e164 = phonenumbers.format_number(found, E164)
    national = phonenumbers.format_number(found, PhoneNumberFormat.NATIONAL)
    international = phonenumbers.format_number(found, PhoneNumberFormat.INTERNATIONAL)
    strict = data.draw(st.booleans())
    assume(len(phonenumbers.national_significant_number(found)) >= 5)  # fewer are refused as no phone number
    for form in (e164, f"00{e164[1:]}", international):
        assert normalise(form, strict=strict) == normalise(form, country=region, strict=strict) == e164
    assert normalise(national, country=region, strict=strict) == e164
    # The significant digits alone, as where a spreadsheet ate the leading zero.
    digits = phonenumbers.national_significant_number(found)
    assert normalise(digits, country=region, strict=strict) == verdict(digits, region) == e164
    assert normalise(e164[1:], country=region) == expected(e164[1:], region)


def ours(text: str, region: str | None) -> str | None:
    try:
        return normalise(text, country=region)
    except InputError:
        return None


@given(st.sampled_from(CODES), st.text("0123456789", min_size=1, max_size=16))
@example(62, "0813873000080")
@example(39, "00000000")
@example(62, "8120000000001")
@example(31, "10000")
def test_international_numbers_are_as_phonenumbers_says(code: int, rest: str) -> None:
    digits = f"{code}{rest}"
    assume(5 <= len(digits) <= 17)
    assert ours(f"+{digits}", None) == verdict(f"+{digits}", None, in_full=True)


def expected(text: str, region: str) -> str | None:
    """The rule as it is documented, in so many words."""
    code = str(phonenumbers.country_code_for_region(region))
    readings = [(text, region)] + ([(f"+{text}", None)] if text.startswith(code) else [])
    best = min((verdict(*reading) for reading in readings), key=rank)
    slip = verdict(f"+{text[1:]}", None) if text.startswith(f"0{code}") else None
    if slip == best or rank(slip) > 1 or rank(best) == 0:
        return best
    if rank(best) == 1:
        return None if rank(slip) == 0 else best
    return slip


@given(st.sampled_from(["ID", "PH", "VN", "IN", "US", "GB", "IT", "BR", "AR", "MX", *REGIONS]), st.data())
def test_national_numbers_are_as_phonenumbers_says(region: str, data: st.DataObject) -> None:
    code = str(phonenumbers.country_code_for_region(region))
    example_digits = phonenumbers.national_significant_number(EXAMPLES.get(region) or EXAMPLES["ID"])
    start = data.draw(st.sampled_from(["", "0", "1", "8", code, f"{code}0", code + code, example_digits[:5], "9"]))
    digits = start + data.draw(st.text("0123456789", min_size=0, max_size=17))
    assume(5 <= len(digits) <= 17 and not digits.startswith("00"))
    assert ours(digits, region) == expected(digits, region)


@given(st.one_of(st.text(), st.text("0123456789+-(). /'=\"\u0660\u200b", max_size=20), st.floats(), st.integers()))
@example(")-12")
def test_anything_is_one_of_both(value: Any) -> None:
    for options in ({}, {"country": "ID"}, {"country": "IN", "strict": True}):
        try:
            sent = normalise(value, **options)
        except InputError as exc:
            assert len(str(exc)) < 200
            continue
        assert re.fullmatch(r"\+[1-9]\d{4,14}" if options or sent[0] == "+" else r"\d{5,17}", sent)
        # What was mended once needs no mending.
        assert normalise(sent, **options) == sent


def is_e164_if_international(value: object, country: str | None) -> bool:
    try:
        sent = normalise(value, country=country)
    except InputError:
        return True
    return sent[0] != "+" or re.fullmatch(r"\+[1-9]\d{4,14}", sent) is not None


@given(
    st.sampled_from(["", "+", "+0", "+00", "00", "000", "0", "wa.me/", "wa.me/0", "+ (0", "tel:+0"]),
    st.one_of(st.just(""), st.sampled_from(CODES).map(str)),
    st.text("0123456789 -.()", max_size=16),
    st.sampled_from([None, *REGIONS]),
)
def test_what_is_sent_with_a_plus_is_e164(start: str, code: str, rest: str, country: str | None) -> None:
    assert is_e164_if_international(f"{start}{code}{rest}", country)


def test_examples_with_a_plus_before_a_zero_are_themselves_or_nothing() -> None:
    for region, number in phones.EXAMPLES[::5]:
        e164 = phonenumbers.format_number(number, E164)
        for start, country in itertools.product(("+0", "+00", "+0 ", "wa.me/0"), (None, region, "ID")):
            assert is_e164_if_international(f"{start}{e164[1:]}", country)
        assert ours(f"+0{e164[1:]}", None) == (e164 if rank(e164) == 0 else None)


# ------------------------------------------------------------------------------------- what is not surely one number


@pytest.mark.parametrize(
    ("typed", "country", "sent"),
    [
        # Any zeros behind a decimal point, and the signs that spreadsheets put between thousands.
        ("81234567890.000", "ID", "+6281234567890"),
        ("81234567890.000000", "ID", "+6281234567890"),
        ("9171234567.000", "PH", "+639171234567"),
        ("81,234,567,890", "ID", "+6281234567890"),
        ("81,234,567,890.00", "ID", "+6281234567890"),
        ("81.234.567.890,00", "ID", "+6281234567890"),
        ("81 234 567 890,00", "ID", "+6281234567890"),
        ("81 234 567 890.00", None, "81234567890"),
        ("9\u202f171\u202f234\u202f567,0", "PH", "+639171234567"),
        ("- 0812 3456 7890", "ID", "+6281234567890"),
        ("81'234'567'890", "ID", "+6281234567890"),
        ("9,12,34,56,789", "IN", "+919123456789"),
        ("81,234,567,890", None, "81234567890"),
        ("0912345.000", "VN", "+84912345000"),
        ("0812 3456 7890,", "ID", "+6281234567890"),
        ("; 0812 3456 7890 ;", "ID", "+6281234567890"),
        # A zero before the calling code, and two before a national number.
        ("06281234567890", "ID", "+6281234567890"),
        ("0639171234567", "PH", "+639171234567"),
        ("0919123456789", "IN", "+919123456789"),
        ("084912345678", "VN", "+84912345678"),
        ("062-81234567890", "ID", "+6281234567890"),
        ("009171234567", "PH", "+639171234567"),
        ("009123456789", "IN", "+919123456789"),
        ("000812345678", "ID", "+62812345678"),
        ("00919123456789", "IN", "+919123456789"),
        ("0031612345678", "ID", "+31612345678"),
        ("0622812345", "ID", "+62622812345"),
        # A plus before a zero.
        ("+062 81234567890", None, "+6281234567890"),
        ("+062 812345678", "ID", "+62812345678"),
        ("+062 (0)81234567890", "PH", "+6281234567890"),
        ("+00 62 81234567890", None, "+6281234567890"),
        ("+01 415 555 2671", None, "+14155552671"),
        ("+001 415 555 2671", "ID", "+14155552671"),
        ("+091 98765 43210", "IN", "+919876543210"),
        ("+049 1512 3456789", None, "+4915123456789"),
        ("+084 912345678", "VN", "+84912345678"),
        ("+081234567890", "ID", "+6281234567890"),
        ("+09171234567", "PH", "+639171234567"),
        # Twelve digits in groups of four, which are no ID card's.
        ("+9198 7654 3210", "IN", "+919876543210"),
        ("91 98765 43210", "IN", "+919876543210"),
        ("919876543210", "IN", "+919876543210"),
        ("6391 7123 4567", "PH", "+639171234567"),
        ("0812-3456-7890", "ID", "+6281234567890"),
        ("6281 2345 6789", "ID", "+628123456789"),
        # As WhatsApp writes it.
        ("https://wa.me/6281234567890", "ID", "+6281234567890"),
        ("https://wa.me/6281234567890", None, "+6281234567890"),
        ("wa.me/+62-812-3456-7890/?text=hello", None, "+6281234567890"),
        ("HTTPS://API.WHATSAPP.COM/send?text=a&phone=%2B6281234567890&x=1", "ID", "+6281234567890"),
        ("whatsapp://send?phone=6281234567890", "ID", "+6281234567890"),
        ("6281234567890@s.whatsapp.net", "ID", "+6281234567890"),
        ("6281234567890:12@s.whatsapp.net", None, "+6281234567890"),
        ("6281234567890@c.us", "PH", "+6281234567890"),
        ("wa.me/081234567890", "ID", "+6281234567890"),
        ("https://wa.me/06281234567890", None, "+6281234567890"),
        ("06281234567890@c.us", None, "+6281234567890"),
        # The last group of a number is no second one.
        ("8 (912) 345-67-89", "RU", "+79123456789"),
        ("0812-3456-78", "ID", "+62812345678"),
        ("0812-3456-789", "ID", "+628123456789"),
        ("0812-345-678-90", "ID", "+6281234567890"),
        ("01-23-45-67-89", "FR", "+33123456789"),
        ("08-12 34 56 78", "SE", "+46812345678"),
        ("08-12-34-56-78", "SE", "+46812345678"),
        ("812.345.6789", "ID", "+628123456789"),
        ("8123456.789", "ID", "+628123456789"),
        # Dots and spaces are between the groups of a number, whatever it would be as a date.
        ("20.12.2034", None, "20122034"),
        ("22-12-2034", "NO", "+4722122034"),
        ("22 - 12 - 2034", "NO", "+4722122034"),
        # One digit over and over, where it is in a range.
        ("08888888888", "ID", "+628888888888"),
        ("+628888888888", None, "+628888888888"),
    ],
)
def test_what_people_mean(typed: str, country: str | None, sent: str) -> None:
    assert normalise(typed, country=country) == sent


@pytest.mark.parametrize(
    ("typed", "country", "words"),
    [
        ("3201234567890001", "ID", "16 digits: an ID-card or card number"),
        ("3201 2345 6789 0001", None, "16 digits: an ID-card or card number"),
        ("4111-1111-1111-1111", "IN", "16 digits: an ID-card or card number"),
        (3273010101900001, None, "16 digits: an ID-card or card number"),
        (4111111111111111.0, "ID", "16 digits: an ID-card or card number"),
        ("12345678901234567", None, "17 digits, and a phone number has 15 at most"),
        ("123456789012345678", "ID", "18 digits, and a phone number has 15 at most"),
        ("012345678901000", "ID", "15 digits, which no phone number of its country has: it may be an ID-card"),
        ("0016281234567890", "ID", "16 digits"),
        ("+6281234567890123", None, "16 digits"),
        ("234123412346", "IN", "12 digits, which no phone number of its country has: it may be an ID-card number"),
        ("2341 2341 2346", "IN", "ID-card"),
        ("9123 4567 8901", "IN", "12 digits in groups of four: it may be an ID-card number"),
        ("9198-7654-3210", "IN", "ID-card"),
        ("9198.7654.3210", "IN", "ID-card"),
        ("9198\u00a07654\u00a03210", "IN", "ID-card"),
        ("8190 1234 5678", "JP", "ID-card"),
        ("6312-3456-7890", "PH", "ID-card"),
        ("6312 3456 7890", "PH", "ID-card"),
        ("1234-5678901-2", "PH", "ID-card"),
        ("123456789012", "PH", "ID-card"),
        ("079099012345", "VN", "ID-card"),
        ("001099012345", "VN", "no phone number"),
        ("2024-01-15", "ID", "is a date"),
        ("2024-01-15", None, "is a date"),
        ("2024-1-5", "ID", "is a date"),
        ("2024-01-15 12:00:00", "ID", "is a date"),
        ("2024-01-15T12:00:00+07:00", "ID", "is a date"),
        ("15/01/2024", "ID", "is a date"),
        ("1/15/24", None, "is a date"),
        ("2024/01/15", "ID", "is a date"),
        ("15 / 01 / 2024", "ID", "is a date"),
        ("15-01-2024", "ID", "is a date"),
        ("15-01-2024", None, "is a date"),
        ("1899-12-30", "ID", "is a date"),
        ("1753-01-01", "ID", "is a date"),
        ("2567-01-15", "ID", "is a date"),
        ("9999-12-31", "ID", "is a date"),
        ("0001-01-01", "ID", "is a date"),
        ("9999/12/31", "ID", "is a date"),
        ("31/12/9999", "ID", "is a date"),
        ("01/01/0001", "ID", "is a date"),
        ("31-12-9999", "ID", "is a date"),
        ("31-12-2024", "ID", "is a date"),
        ("15-01-24", None, "is a date"),
        ("(15/01/2024)", "ID", "is a date"),
        ("( 2024-01-15 )", None, "is a date"),
        ("(2024-01-15) 12:00", "ID", "is a date"),
        ("(15-01-2024)", "ID", "is a date"),
        ("2024-01-15 12", "ID", "is a date"),
        ("2024-01-15T12", None, "is a date"),
        ("2024-01-15 120000", "ID", "is a date"),
        ("15/01/2024 7", "ID", "is a date"),
        ("2024 - 01 - 15", "ID", "is a date"),
        ("15 - 01 - 2024", "ID", "is a date"),
        ("15 - 01 - 2024 12:00", None, "is a date"),
        ("2024\u201101\u201115", "ID", "is a date"),
        ("12:00:00", "ID", "is a time of day"),
        ("81234567890.5", "ID", "is a fraction"),
        ("81234567890.5", None, "is a fraction"),
        ("81234567890,5", "ID", "is a fraction"),
        ("81234567890.00002", "ID", "is a fraction"),
        ("+6281234567890.5", None, "is a fraction"),
        ("81,234,567,890.5", "ID", "is a fraction"),
        ("81 234 567 890,50", "ID", "is a fraction"),
        ("81 234 567 890.50", "ID", "is a fraction"),
        ("0812 3456 7890.00", "ID", "is a fraction"),
        ("0812 3456 7890,00", None, "is a fraction"),
        ("+62 812-3456-7890.0", None, "is a fraction"),
        ("(0812) 3456789,00", "ID", "is a fraction"),
        ("-81234567890", "ID", "is a negative number"),
        ("\u221281234567890", None, "is a negative number"),
        ("-81,234,567,890.00", "ID", "is a negative number"),
        ("320123.456789.0001", "ID", "16 digits: an ID-card or card number"),
        ("320123 456789 0001", None, "16 digits: an ID-card or card number"),
        ("3201234567-890001", None, "16 digits: an ID-card or card number"),
        ("08123456 08123457", None, "more than one phone number"),
        ("00812 3456 7890", "ID", "two zeros"),
        ("wa.me/81234567890", "ID", "two countries"),
        ("062812345678", "ID", "write it with a plus"),
        ("+081234567890", None, "zero behind its plus"),
        ("+081234567890", "PH", "zero behind its plus"),
        ("wa.me/081234567890", None, "zero behind its plus"),
        ("+0819012345678", "ID", "can be two numbers"),
        ("+0912345678", None, "zero behind its plus"),
        ("+0999123456789", None, "zero behind its plus"),
        ("+000000000", "ID", "one digit over and over"),
        ("000000000", "ID", "one digit over and over"),
        ("000000000", None, "one digit over and over"),
        ("9999999999", None, "one digit over and over"),
        ("1111111111", "IN", "one digit over and over"),
        ("+911111111111", None, "one digit over and over"),
        ("(021) 5551234-5", "ID", "second number or an extension"),
        ("(021) 5551234-5", None, "second number or an extension"),
        ("0812345678-79", "ID", "second number or an extension"),
        ("0812345678\u201379", "ID", "second number or an extension"),
        ("0812345678-79", None, "second number or an extension"),
        ("0812345678 (2)", "ID", "second number or an extension"),
        ("0812345678 - 12", "ID", "second number or an extension"),
        ("+62 812345678-12", None, "second number or an extension"),
        ("021-5551234-105", "ID", "second number or an extension"),
        ("0812-3456-7890-12", "ID", "second number or an extension"),
        ("021-555-1234-5", "ID", "second number or an extension"),
        ("021 5551234 5551235", "ID", "more than one phone number"),
        ("0168 123 4567", "VN", "11 digits ended"),
        ("+84 168 123 4567", None, "11 digits ended"),
        ("841681234567", "VN", "11 digits ended"),
        ("https://wa.me/message/ABCDEF1", "ID", "link"),
        ("https://chat.whatsapp.com/AbCd1234567", "ID", "link"),
        ("https://wa.me/qr/ABC", "ID", "link"),
        ("6281234567890-1600000000@g.us", "ID", "link"),
        ("budi@example.com", "ID", "link or an address"),
        ("0812 1100 2209 (istri)", "ID", "keep the number alone"),
        ("0812l1002213", "ID", "keep the number alone"),
    ],
)
def test_what_is_not_surely_one_number(typed: Any, country: str | None, words: str) -> None:
    line = refused(typed, country=country)
    assert words in line
    digits = re.sub(r"\D", "", str(typed))
    assert not [run for run in re.findall(r"\d{4,}", line) if run in digits]


def test_numbers_that_are_sent_and_told() -> None:
    assert "landlines" in (remark("+62215551234") or "")
    assert "landlines" in (remark("+442079460018") or "")
    assert "landlines" in (remark("+18002345678") or "")
    assert "one digit" in (remark("+628888888888") or "")
    for usual in ("+6281387300008", "+639171234567", "+919123456789", "+84912345678", "+12015550123", "81387300008"):
        assert remark(usual) is None


def test_no_number_of_the_world_is_refused_however_it_is_written() -> None:
    """One in ten; `python -m tests.phones` takes all of them."""
    assert [found for region, number in phones.EXAMPLES[::10] for found in phones.misread(number, region)] == []


LABELS = ["WA: ", "wa.", "W.A. ", "HP: ", "hp ", "No. HP: ", "nomor wa ", "Tel. ", "Tel.: ", "Telp: ", "WhatsApp "]
LABELS += ["hp/wa ", "phone no. ", "Mobile number: ", "CP:", "SĐT: ", "Số điện thoại: ", "Kontak: ", "handphone: "]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_in_front_is_read_over(label: str) -> None:
    for number in ("081387300008", "+62 813-8730-0008", "(0813) 87300008", "0062 81387300008"):
        assert normalise(label + number, country="ID") == normalise(number, country="ID")
    for number in ("31-12-2024", "3174012345678901", "081387300008 / 081387300009", "10:30", "12.5", "1"):
        refused(label + number, country="ID")


@pytest.mark.parametrize(
    "said",
    [
        *("Fax: 0215550123", "No. 081387300008", "ID: 081387300008", "NIK 081387300008", "WA 98101", "HP 81387300008"),
        *("wa081387300008", "081387300008 WA", "rumah: 081387300008", "WA fax: 081387300008", "Tel/Fax: 0215550123"),
        *("WA: HP: 081387300008", "hp2: 081387300008", "x: 081387300008", "Budi 081387300008"),
    ],
)
def test_what_is_no_label_that_is_known_is_refused(said: str) -> None:
    assert "keep the number alone" in refused(said, country="ID")


@pytest.mark.parametrize(
    "said",
    [
        *("n/a", "N.A.", "#N/A", "-", "--", "\u2014", "?", "xxx", "belum ada", " Tidak  Ada ", "(kosong)"),
        *("tidak ada nomor HP", "blm ada", "wala pa"),
        *("không có", "Chưa có", "nahi hai", "None", "no phone", "TBA", "'-", "..."),
    ],
)
def test_what_says_that_there_is_none(said: str) -> None:
    line = "number says that there is none: fill it in, or delete the row in the list itself"
    assert refused(said) == refused(said, country="ID") == line
