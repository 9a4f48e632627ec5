"""How the text of a file is written."""

from __future__ import annotations

import codecs
import re
from typing import Any

from aisolution_async.errors import ConfigurationError

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    # Before that of UTF-16, with which it begins.
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# What UTF-8 has more than one byte for.
_SEQUENCE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_HIGH = re.compile(rb"[\x80-\xff]+")
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
# Words of Western Europe have one letter with a sign, seldom two, beside those of ASCII; and no other sign inside.
_WITH_SIGN = "\xc0-\xd6\xd8-\xf6\xf8-\xff\u0152\u0153\u0160\u0161\u017d\u017e\u0178"
_SIGNS = "\xa1-\xa9\xab-\xb1\xb4-\xb9\xbb-\xbf\u20ac"
_SMALL = "a-z\xdf-\xf6\xf8-\xff"
_NOT_WESTERN = re.compile(
    f"[^\0-\x7f\xa0-\xff{_WITH_SIGN}{_SIGNS}\u2013\u2014\u2018-\u201e\u2022\u2026\u2122]"
    f"|[{_WITH_SIGN}]{{3}}|[{_SIGNS}](?=[{_SMALL}])|[{_SMALL}][{_SIGNS}]"
)
_WORD = re.compile(r"[^\W\d_]*[^\W\d_\0-\x7f](?:[^\W\d_]|[\u0300-\u036f])*")
# What people have their files in, beside Unicode.
_LIKELY = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("gb18030", "big5", "cp932", "euc-jp", "cp949", "koi8-r", "cp866"),
)
_LARGEST = 1 << 16
_LONGEST_EXAMPLE = 20


class Encoding:
    """How a file is written: the codec and its error handler, what stands before the text, and all in words."""

    def __init__(self, encoding: str, *, bom: bytes = b"", about: str | None = None) -> None:
        self.encoding = encoding
        self.bom = bom
        # surrogateescape: bytes that are no text come out as they went in, and only their cell is in trouble.
        self.errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self.about = about or {"utf-8": "UTF-8", "utf-16-le": "UTF-16 LE", "utf-16-be": "UTF-16 BE"}.get(
            encoding, encoding
        )


def given(head: bytes, encoding: str) -> Encoding:
    """How a file that begins so is written in `encoding`. Raises ConfigurationError."""
    try:
        codec = codecs.lookup(encoding)
        "".encode(encoding)
        b"".decode(encoding)
    except (LookupError, ValueError):
        codec = None
    if codec is None:
        raise ConfigurationError(f"encoding must be one that Python knows, like utf-8 or cp1252, not {encoding!r}")
    name = codec.name
    if name in ("utf-16", "utf-32"):
        found = _by_bom(head)
        return found if found is not None and found.encoding.startswith(name) else Encoding(f"{name}-le")
    name = "utf-8" if name == "utf-8-sig" else name
    bom = next((bom for bom, own in _BOMS.items() if own == name and head.startswith(bom)), b"")
    return Encoding(name, bom=bom)


def guessed(head: bytes, is_whole: bool, *, guesses: bool) -> Encoding:
    """How the file is written that begins so; `guesses` if it may be neither UTF-8 nor UTF-16."""
    if (found := _by_bom(head)) is not None:
        return found
    # Text has no NULs, and the first line, if any, has characters of one byte of two: those beside the others.
    first = head[: head.find(b"\n") + 1] or head
    even, odd = first[::2].count(0), first[1::2].count(0)
    if even != odd:
        name = "utf-16-le" if odd > even else "utf-16-be"
        return Encoding(name, about=f"UTF-16 {name[-2:].upper()} (a guess, by its NULs)")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, is_whole)
    except UnicodeDecodeError:
        if guesses:
            good = len(_SEQUENCE.findall(head))
            bad = len(_HIGH.findall(_SEQUENCE.sub(b"", head)))
            # In cp1252 hardly any could be UTF-8; in those with two bytes for a character, now and then some are.
            found = _by_words(head) if 2 * bad > good else None
            if found is not None and (bad > good or found.encoding != "cp1252"):
                return found
        return Encoding("utf-8", about="UTF-8, but for some bytes, which are kept as they are")
    return Encoding("utf-8")


def _by_bom(head: bytes) -> Encoding | None:
    for bom, name in _BOMS.items():
        if head.startswith(bom):
            return Encoding(name, bom=bom)
    return None


def _by_words(head: bytes) -> Encoding | None:
    lines = b"\n".join(line for line in head.splitlines() if not line.isascii())[:_LARGEST]
    name = _detected(lines)
    if _NOT_CP1252.search(lines) is None and _NOT_WESTERN.search(lines.decode("cp1252")) is None:
        name = name if name == "cp1258" else "cp1252"
    if name is None:
        return None
    words = _WORD.findall(lines.decode(name, "replace"))
    example = max(words, key=len, default="")[:_LONGEST_EXAMPLE]
    return Encoding(name, about=f"{name} (a guess: it is not UTF-8{f'; it reads {example!r}' if example else ''})")


def _detected(lines: bytes) -> str | None:
    try:
        import chardet  # noqa: PLC0415  # an extra
    except ImportError:
        return None
    try:
        found: Any = chardet.detect(lines, include_encodings=_LIKELY)["encoding"]
        lines.decode(found, "strict" if len(lines) < _LARGEST else "replace")
        return codecs.lookup(found).name
    # Of some bytes chardet finds nothing to say, not even that.
    except (LookupError, TypeError, UnicodeDecodeError, RuntimeError):
        return None
