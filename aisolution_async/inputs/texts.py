"""The small parameters of a call, checked: what the vendor would refuse is refused here, in clearer words."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

from aisolution_async.checks import is_whole, kind_of
from aisolution_async.errors import InputError
from aisolution_async.inputs import countries

NONE = "says that there is none: fill it in, or delete the row in the list itself"
"""What is wrong with a cell that `says_none`."""

_LONGEST = 2048
_NONES = frozenset(
    (
        *("n/a", "na", "nil", "none", "null", "no", "not available", "not yet", "unknown", "missing", "tba", "tbd"),
        *("tidak", "ada", "tidak ada", "tdk ada", "tak ada", "gak ada", "ga ada", "belum", "belum ada", "blm ada"),
        *("tidak punya", "belum punya", "kosong", "nihil", "tidak tersedia", "belum tersedia", "menyusul"),
        *("wala", "wala pa", "walang", "khong", "khong co", "chua", "chua co"),
        *("nahi", "nahi hai", "nahin", "nahin hai", "koi nahi"),
    )
)
_OF_WHAT = frozenset(
    (
        *("nomor", "nomer", "number", "hp", "wa", "whatsapp", "telepon", "telp", "phone", "handphone"),
        *("foto", "photo", "image", "picture"),
    )
)


def text(value: object, *, name: str) -> str:
    """`value` as text that is not empty."""
    if not isinstance(value, str) and not is_whole(value):
        raise InputError(f"{name} is {kind_of(value)}: pass it as text")
    stripped = str(value).strip()
    if not stripped:
        raise InputError(f"{name} is empty")
    if len(stripped) > _LONGEST or not stripped.isprintable():
        raise InputError(f"{name} is too long, or has characters that cannot be printed")
    return stripped


def folded(text: str) -> str:
    """`text` in small letters without accents, dots and more than one blank."""
    plain = unicodedata.normalize("NFD", text.casefold().replace("đ", "d"))
    return " ".join("".join(c for c in plain if c != "." and not unicodedata.combining(c)).split())


def says_none(text: str) -> bool:
    """Whether that is what people write where there is nothing: "n/a", "belum ada", "-"."""
    if not any(char.isalnum() for char in text if char not in "xX"):
        return bool(text.strip())
    words = folded(text.strip("()[]<>\"'-?!*# ")).split()
    return " ".join(word for word in words if word not in _OF_WHAT) in _NONES


def country(value: object, *, name: str) -> str | None:
    """A two-letter country code in capitals; empty means none."""
    if value == "":
        return None
    code = text(value, name=name).upper()
    if not re.fullmatch("[A-Z]{2}", code):
        meant = countries.codes_of(str(value))
        use = f"use {' or '.join(meant)} for it" if meant else "use ID, PH, VN, IN or the like"
        raise InputError(f"{name} is no two-letter country code: {use}")
    return code


def written_country(value: object, *, name: str) -> str | None:
    """The same of whatever people write in a sheet: a name, an ISO code of two or three letters, a calling code."""
    if value == "":
        return None
    written = text(value, name=name)
    found = countries.codes_of(written)
    if not found:
        raise InputError(f"{name} is no two-letter country code, and no country's name: use ID, PH, VN, IN or the like")
    if len(found) > 1:
        raise InputError(f"{name} may be {' or '.join(found)}: write one of these codes")
    return found[0]


def url(value: object, *, name: str) -> str | None:
    """An absolute http(s) URL; empty means none."""
    if value == "":
        return None
    address = text(value, name=name)
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # over 65535 it raises
    except ValueError:
        good = False
    if not good:
        raise InputError(f"{name} is no http(s) URL: it looks like https://example.com/answers")
    return address


def flag(value: object, *, name: str) -> str | None:
    """ "y" for true, nothing for false."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {kind_of(value)}: pass True or False")
    return "y" if value else None
