"""Phone numbers: from what people type to what the API takes."""

from __future__ import annotations

import re
import unicodedata

from aisolution_async.errors import InputError

_SEPARATORS = re.compile(r"[\s().\-\u2010-\u2015]+")
_AS_FRACTION = re.compile(r"(\+?[0-9]{5,17})\.0+")
_TRUNK_ZERO = re.compile(r"^((?:\+|00)[\s0-9.\-]{1,6})\(0\)")
_NUMBER = re.compile(r"\+?[0-9]{5,17}")
_SCIENTIFIC = re.compile(r"[0-9][.,]?[0-9]*[eE]\+?[0-9]+")


def normalise(number: object, *, name: str = "number") -> str:
    """`number` as digits with an optional leading plus; separators and wide digits are mended.

    Raises InputError for what cannot be a phone number. The text of the error never holds the number.
    """
    if type(number) is str and number.isascii() and number.isdigit() and 5 <= len(number) <= 17:
        return number
    if isinstance(number, bool) or not isinstance(number, str | int):
        raise InputError(f"{name} is a {type(number).__name__}: pass the phone number as text")
    text = unicodedata.normalize("NFKC", str(number)).strip()
    if not text:
        raise InputError(f"{name} is empty: there is no phone number to ask for")
    if _SCIENTIFIC.fullmatch(text):
        raise InputError(f"{name} was shortened by a spreadsheet (like 6.28E+12): format the column as text")
    if (fraction := _AS_FRACTION.fullmatch(text)) is not None:  # a spreadsheet took it for a number
        return fraction[1]
    packed = _SEPARATORS.sub("", _TRUNK_ZERO.sub(r"\1", text))
    if not _NUMBER.fullmatch(packed):
        raise InputError(f"{name} is no phone number: 5 to 17 digits, with or without a leading plus")
    return packed


def canonical(number: str) -> str:
    """What two ways of writing one normalised number have in common.

    Only a plus and 00 are the same. A number with neither may be a national one, which depends on the country: it
    is nobody's but its own.
    """
    return f"+{number[2:]}" if number.startswith("00") else number
