"""`phonenumbers`' own example numbers, of every region and type, written in the ways that people write numbers.

`python -m tests.phones` reads them all and counts; the suite reads one in a few.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberFormat

from aisolution_async import InputError
from aisolution_async.inputs.numbers import normalise

EXAMPLES = [
    (region, found)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    for kind in range(11)
    if (found := phonenumbers.example_number_for_type(region, kind)) is not None
]
_SIGNS = (" ", "-", ".", "\u00a0", "\u2011", " - ")


def ways(number: PhoneNumber, region: str) -> Iterator[tuple[str, object, str, str | None]]:
    """Ways to write a number: what each is called, the text or number, what it stands for, and the country with it."""

    def form(style: int) -> str:
        return phonenumbers.format_number(number, style)

    e164, international = form(PhoneNumberFormat.E164), form(PhoneNumberFormat.INTERNATIONAL)
    national, uri = form(PhoneNumberFormat.NATIONAL), form(PhoneNumberFormat.RFC3966)
    digits, bare = phonenumbers.national_significant_number(number), e164[1:]
    code = f"+{number.country_code}"
    for country in (None, region):
        yield "E.164", e164, e164, country
        yield "00", f"00{bare}", e164, country
        yield "international", international, e164, country
        yield "00 and spaces", f"00 {international[1:]}", e164, country
        yield "tel:", uri, e164, country
        yield "wa.me", f"https://wa.me/{bare}", e164, country
        yield "api.whatsapp.com", f"https://api.whatsapp.com/send?phone={bare}&text=hi", e164, country
        yield "WhatsApp's id", f"{bare}@s.whatsapp.net", e164, country
        yield "(+code)", f"({code}) {digits}", e164, country
        for sign in _SIGNS:
            yield f"international {sign!r}", re.sub(r"[\s\-./]+", sign, international), e164, country
    yield "(0)", f"{code} (0){digits}", f"{code}0{digits}", region
    for name, text in (("national", national), ("significant", digits), ("without plus", bare), ("E.164", e164)):
        plain = re.sub(r"[^+0-9]", "", text)
        yield name, text, plain, region
        yield f"{name} '", f"'{text}", plain, region
        yield f"{name} ,", f"{text},", plain, region
        yield f'{name} =""', f'="{text}"', plain, region
        yield f"{name} NBSP", f"\u00a0{text}\u00a0", plain, region
        yield f"{name} .0", f"{plain}.0", plain, region
        yield f"{name} ,00", f"{plain},00", plain, region
        if plain[0] not in "+0":
            yield f"{name} .000000", f"{plain}.000000", plain, region
            yield f"{name} by thousands", f"{int(plain):,}", plain, region
            yield f"{name} int", int(plain), plain, region
            yield f"{name} float", float(plain), plain, region
    for sign in _SIGNS:
        yield f"national {sign!r}", re.sub(r"[\s\-./]+", sign, national), re.sub(r"\D", "", national), region


def misread(number: PhoneNumber, region: str) -> Iterator[tuple[str, object, str | None, str]]:
    """The ways in which `number` is refused, or is another, where phonenumbers itself reads the same digits as it."""
    e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    for name, typed, plain, country in ways(number, region):
        if len(plain.lstrip("+")) < 5 or _by_phonenumbers(plain, country) != e164:
            continue  # fewer digits are no phone number, and some numbers cannot be dialled so
        try:
            sent = normalise(typed, country=country)
        except InputError as exc:
            sent = str(exc)
        if sent != e164:
            yield name, typed, country, sent


def _by_phonenumbers(text: str, region: str | None) -> str | None:
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    possible = phonenumbers.is_possible_number_with_reason(parsed) == phonenumbers.ValidationResult.IS_POSSIBLE
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164) if possible else None


def _main() -> int:
    total, found = 0, Counter[str]()
    for region, number in EXAMPLES:
        total += sum(1 for _ in ways(number, region))
        for name, typed, country, sent in misread(number, region):
            found[name] += 1
            print(f"{region} {name}: {typed!r} with {country}: {sent}")
    print(f"{len(EXAMPLES)} numbers, {total} texts, {found.total()} misread {dict(found.most_common())}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(_main())
