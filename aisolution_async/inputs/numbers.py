"""Phone numbers: from what people type, and what spreadsheets make of it, to what the API takes.

With a country, or with a plus or 00 in front, a number becomes E.164: `+6281387300008`, whichever way it was written,
so that one number is one call. Bare digits without a country stay as they are: whose they are, the vendor decides, as
in its own example (`number=81387300008`).

Bare digits with a country can be read as a national number, with or without its leading zero, and, where they begin
with the country's calling code, as an international one that lost its plus. The first of these that there is:
1. a valid number that can be a mobile one (WhatsApp is what numbers are asked for), national before international;
2. any valid number, in the same order;
3. any possible number, in the same order, except that digits which are in no range of the country count as
   international where what is behind the calling code is in one.
So in India 9123456789 is national and 919123456789 is not. `00` is a plus, unless only dialling abroad in the country's
own way makes a valid number of it.

"Possible" is a length that the country has; "valid" is within a range that it has handed out, as far as the metadata of
the `phonenumbers` package know. They are behind the networks by months: that is why possible is enough by default.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from aisolution_async.errors import InputError
from aisolution_async.inputs import texts

if TYPE_CHECKING:
    from phonenumbers import PhoneMetadata, PhoneNumber

_SEPARATORS = re.compile(r"[\s().\-\u2010-\u2015\u2212/]+")
_AS_FRACTION = re.compile(r"(\+?[0-9]{5,17})[.,]0{1,2}")
_TRUNK_ZERO = re.compile(r"^((?:\+|00)[\s0-9.\-]{1,6})\(0\)")
_NUMBER = re.compile(r"\+?[0-9]{5,17}")
_SCIENTIFIC = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[eE][+-]?[0-9]+")
_FORMULA = re.compile(r'=?"(.*)"|=(.*)', re.DOTALL)
_SCHEME = re.compile(r"(?:tel|whatsapp):\s*", re.IGNORECASE)
_APOSTROPHES = "'\u2018\u2019`\u00b4\u02bc"
_LONGEST = 64
_EXACT = 2**53

_AS_TEXT = "format the column as text"
_NO_NUMBER = "{} is no phone number: 5 to 17 digits, with or without a leading plus"


def normalise(number: object, *, name: str = "number", country: str | None = None, strict: bool = False) -> str:
    """`number` as E.164, or as bare digits where it has neither a plus, 00 nor a `country` (two letters, ISO 3166).

    Mended: separators, characters without width, digits of other scripts, a leading apostrophe, `tel:`, `="…"`, and
    whole numbers (int, float, "6281387300008.0"). `strict` asks for a valid number, not only a possible one.

    Raises InputError for what cannot be a phone number, or is more than one. The text of the error never holds it.
    """
    plan = _plan(country) if country is not None else None
    if not strict and type(number) is str and number.isascii():
        if plan is None and number.isdigit() and 5 <= len(number) <= 17 and number[:2] != "00":
            return number
        if (quick := _quick(number, plan)) is not None:
            return quick
    text = _text(number, name)
    with_zero, without_zero = _SEPARATORS.sub("", text), _SEPARATORS.sub("", _TRUNK_ZERO.sub(r"\1", text))
    if not _NUMBER.fullmatch(without_zero):
        raise InputError(_NO_NUMBER.format(name))
    if without_zero[0] != "+" and without_zero[:2] != "00" and plan is None:
        if strict:
            raise InputError(f"{name} cannot be told valid or not: give its country, or write it with a plus")
        return without_zero
    if not strict and with_zero == without_zero and (quick := _quick(with_zero, plan)) is not None:
        return quick
    return _best(dict.fromkeys((with_zero, without_zero)), plan, name, strict=strict)


def canonical(number: str) -> str:
    """What two ways of writing one normalised number have in common: since it is E.164, or bare digits, itself."""
    return number


# ----------------------------------------------------------------------------------------------------------- cleaning


def _text(number: object, name: str) -> str:
    """`number` as one line of ASCII, without what surrounds it in a cell."""
    if isinstance(number, float):
        if not (number.is_integer() and 0 < number < _EXACT):
            raise InputError(f"{name} is a fraction, or too large to be exact: {_AS_TEXT}")
        number = int(number)
    if isinstance(number, Integral) and not isinstance(number, bool):  # numpy's too
        if not 0 < int(number) < 10**17:
            raise InputError(_NO_NUMBER.format(name))
        return str(int(number))
    if not isinstance(number, str):
        raise InputError(f"{name} is a {type(number).__name__}: pass the phone number as text")
    if len(number) > _LONGEST * 4:
        raise InputError(f"{name} is too long to be one phone number")
    text = "".join(_ascii(number)).strip()
    if (formula := _FORMULA.fullmatch(text)) is not None:
        text = formula[1] if formula[1] is not None else formula[2]
    text = _SCHEME.sub("", text.strip().lstrip(_APOSTROPHES), count=1).strip()
    if not text:
        raise InputError(f"{name} is empty: there is no phone number to ask for")
    if _SCIENTIFIC.fullmatch(text):
        raise InputError(f"{name} was shortened by a spreadsheet (like 6.28E+12), and digits are lost: {_AS_TEXT}")
    if (fraction := _AS_FRACTION.fullmatch(text)) is not None:  # a spreadsheet took it for a number
        return fraction[1]
    if len(text.splitlines()) > 1 or ("/" in text and _is_two(text.split("/"))):
        raise InputError(f"{name} is more than one phone number: give each a row of its own")
    return text


def _ascii(text: str) -> Iterator[str]:
    for char in text:
        if char.isascii():
            yield char
            continue
        category = unicodedata.category(char)
        if category == "Nd":
            yield str(unicodedata.decimal(char))
        elif category == "No":
            yield "?"  # a footnote's ² is not a digit of the number
        elif category != "Cf":  # of no width, or a direction
            yield unicodedata.normalize("NFKC", char)


def _is_two(pieces: list[str]) -> bool:
    """Whether slashes part numbers, and not an area code from the rest: "0812345678/79" is two as well."""
    digits = [_SEPARATORS.sub("", piece) for piece in pieces]
    return any(piece[:1] == "+" or (piece[:1] == "0" and len(piece) > 5) for piece in digits[1:]) or any(
        len(piece) > (8 if piece[:1] == "+" or piece[:2] == "00" else 6) for piece in digits[:-1]
    )


# ------------------------------------------------------------------------------------------------------------ reading


def _best(written: dict[str, None], plan: _Plan | None, name: str, *, strict: bool) -> str:
    """E.164 of the best reading: one that can be a mobile number, else a valid one, else a possible one."""
    import phonenumbers  # noqa: PLC0415  # takes 15 ms, and most programs do without

    best: PhoneNumber | None = None
    rank, reason = _POSSIBLE + 1, ""
    for text, region in _readings(written, plan):
        try:
            parsed = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException as exc:
            reason = reason or _WHY_NOT_PARSED.get(exc.error_type, "")
            continue
        length = phonenumbers.is_possible_number_with_reason(parsed)
        if length != phonenumbers.ValidationResult.IS_POSSIBLE:
            reason = reason or _WHY_IMPOSSIBLE.get(length, "")
            continue
        kind = phonenumbers.number_type(parsed)
        can_be_mobile = kind in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE)
        unknown = kind == phonenumbers.PhoneNumberType.UNKNOWN
        found = _MOBILE if can_be_mobile else _POSSIBLE if unknown else _VALID
        if found < rank:
            best, rank = parsed, found
    if best is None:
        raise InputError(f"{name} is no phone number: {reason or 'no number of its country has that many digits'}")
    if strict and rank == _POSSIBLE:
        raise InputError(f"{name} is no valid phone number: its country has handed out no such number")
    return phonenumbers.format_number(best, phonenumbers.PhoneNumberFormat.E164)


_MOBILE, _VALID, _POSSIBLE = range(3)
_WHY_NOT_PARSED = {
    0: "no country has its calling code",
    2: "it is too short",
    3: "it is too short",
    4: "it is too long",
}
_WHY_IMPOSSIBLE = {2: "it is too short", 3: "it is too long", 4: "it lacks its area code"}


def _readings(written: dict[str, None], plan: _Plan | None) -> Iterator[tuple[str, str | None]]:
    for text in written:
        if text[0] == "+":
            yield text, None
            continue
        if text[:2] == "00":
            yield f"+{text[2:]}", None
        if plan is not None:
            yield text, plan.region
            if text.startswith(plan.code):
                yield f"+{text}", None


# ------------------------------------------------------------------------------------------------- the common shapes
# A parse of phonenumbers costs 20 to 60 us, and a whole call 100. What follows gives the same answer, or none.


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the metadata say of a country, in a form that is quick to ask."""

    region: str
    code: str
    lengths: frozenset[int]
    general: re.Pattern[str]
    abroad: re.Pattern[str] | None
    trunk: re.Pattern[str] | None
    transforms: bool
    is_main: bool


@functools.lru_cache(maxsize=1024)
def _plan(country: str) -> _Plan | None:
    """The plan of a country, None for no country. Raises InputError where there is none with that code."""
    region = texts.country(country, name="country")
    if region is None:
        return None
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata  # noqa: PLC0415  # as above

    found = PhoneMetadata.metadata_for_region(region, None)
    if found is None:
        raise InputError(
            f"country {region} has no phone numbers of its own: use an ISO code such as ID, PH, VN, IN or GB"
        )
    is_main = COUNTRY_CODE_TO_REGION_CODE.get(found.country_code or 0, ("",))[0] == region
    return _plan_of(found, region, is_main=is_main)


@functools.cache
def _plan_by_code() -> dict[str, int]:
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE  # noqa: PLC0415  # as above

    return {str(code): code for code in COUNTRY_CODE_TO_REGION_CODE}


@functools.cache
def _plan_abroad(code: int) -> _Plan:
    """The plan that numbers with this calling code are looked up in."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata  # noqa: PLC0415  # as above

    region = COUNTRY_CODE_TO_REGION_CODE[code][0]
    found = PhoneMetadata.metadata_for_region_or_calling_code(code, region)
    assert found is not None, "a calling code without metadata"
    return _plan_of(found, region, is_main=True)


def _plan_of(found: PhoneMetadata, region: str, *, is_main: bool) -> _Plan:
    general = found.general_desc
    assert general is not None
    pattern, trunk, abroad = (
        general.national_number_pattern,
        found.national_prefix_for_parsing,
        found.international_prefix,
    )
    return _Plan(
        region=region,
        code=str(found.country_code),
        lengths=frozenset(general.possible_length) - frozenset(general.possible_length_local_only),
        general=re.compile(pattern or "(?!)"),
        abroad=re.compile(abroad) if abroad else None,
        trunk=re.compile(trunk) if trunk else None,
        transforms=bool(found.national_prefix_transform_rule),
        is_main=is_main,
    )


def _is_plain(digits: str) -> bool:
    """Whether a plus and these digits are E.164 as they stand: a known code, a possible length, no trunk prefix."""
    codes = _plan_by_code()
    for end in (1, 2, 3):
        code = codes.get(digits[:end])
        if code is not None:
            plan, rest = _plan_abroad(code), digits[end:]
            return len(rest) in plan.lengths and (plan.trunk is None or plan.trunk.match(rest) is None)
    return False


def _quick(text: str, plan: _Plan | None) -> str | None:
    """E.164 of what is digits, with or without a plus, and can be read in one way only; else None."""
    if text[:1] == "+":
        return text if text[1:].isdigit() and _is_plain(text[1:]) else None
    return _quick_national(text, plan) if text.isdigit() else None


def _quick_national(digits: str, plan: _Plan | None) -> str | None:
    if plan is None or not plan.is_main or digits[:2] == "00":
        return None
    if plan.abroad is not None and plan.abroad.match(digits):
        return None
    trunk, general = plan.trunk, plan.general
    if digits.startswith(plan.code):
        rest = digits[len(plan.code) :]
        if (
            general.fullmatch(digits)
            or not general.fullmatch(rest)
            or len(rest) not in plan.lengths
            or (trunk is not None and trunk.match(rest))
        ):
            return None
        return f"+{digits}"
    if trunk is not None and (prefix := trunk.match(digits)) is not None:
        digits = digits[prefix.end() :]
        if plan.transforms or prefix.end() == 0 or not general.fullmatch(digits):
            return None
    return f"+{plan.code}{digits}" if len(digits) in plan.lengths else None
