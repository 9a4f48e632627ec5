"""What must not be shown: how it is held, found in other people's text, and forgotten by our frames. No I/O."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

SECRET_FIELDS = frozenset({"group_id"})
"""Fields of the vendor's answers that nothing shows or keeps unasked."""

SHORTEST = 8
"""Characters of the shortest secret that can be told from ordinary words."""

HIDDEN = "…"
"""What stands where a secret was."""

# Whose frames may hold what a call was made of.
_OURS = "aisolution_async"
_LIBRARIES = frozenset({"anyio", "httpcore", "httpx"})
_GROUP_ID = re.compile(rb'("group_id"\s*:\s*")[^"]*')


class NotPickled:
    """What holds a secret, or something open: it is neither pickled nor copied. A subclass says the remedy."""

    __slots__ = ()

    _instead = "make a new one where you need it"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # TypeError, as Python itself raises it for locks and sockets.
        raise TypeError(f"{type(self).__name__} is neither pickled nor copied: {self._instead}")


class Secret(NotPickled):
    """A value that shows itself to nobody, not even in the locals of a traceback."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return HIDDEN


# ---------------------------------------------------------------------------------------------- in other people's text


class Redactor(NotPickled):
    """Takes a secret out of text, however it is spelt there: escaped for a URL, for JSON or HTML, or in base64.

    Not searched for: a secret under 8 characters, and one that is part of a contract's word (`words`). Such a secret
    cannot be told from what the vendor says to everybody, and the answer would be damaged. A secret of digits is found
    where no other digits are beside it: else it is a part of a number.
    """

    def __init__(self, secret: Secret, words: Collection[str]) -> None:
        value: str = secret.value
        is_plain = any(value.casefold() in word.casefold() for word in words)
        self._literals = Secret([] if len(value) < SHORTEST or is_plain else _spellings(value))
        self._digits = value.isdecimal()

    def text(self, text: str) -> str:
        """`text` without the secret."""
        literals: list[str] = self._literals.value
        if not literals:
            return text
        if any(map(text.__contains__, literals)):  # seldom: the rest takes ten times as long
            for literal in literals:
                if literal in text:
                    text = self._bare.sub(HIDDEN, text) if self._digits else text.replace(literal, HIDDEN)
        # The spellings that are searched for by pattern have one of these in them.
        if "%" in text or "\\" in text or "&" in text:
            text = self._escaped.sub(HIDDEN, text)
        return text

    @cached_property
    def _bare(self) -> re.Pattern[str]:
        """Any of the literals, with no other digits beside it; what follows an escape, like %3D, has none before it."""
        anyone = "|".join(map(re.escape, self._literals.value))
        return re.compile(rf"(?:(?<![0-9])|(?<=%[0-9A-Fa-f]{{2}}))(?:{anyone})(?![0-9])")

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        first = self._literals.value[0]
        return re.compile("".join(map(_escapes, first)) if not self._digits else _between_digits(first))


def _spellings(value: str) -> list[str]:
    """The secret, and what it looks like where all of it is spelt otherwise; the secret itself first."""
    raw = value.encode("utf-8", "replace")
    # In small letters it may be a part of a host.
    found = {value: None, value.lower(): None, quote(raw, safe=""): None, quote(raw): None, quote_plus(raw): None}
    for start in range(3):
        # Within the base64 of something longer, the characters that the secret alone decides.
        coded = base64.b64encode(b"\0" * start + raw).decode()
        inner = coded[(0, 2, 3)[start] : (start + len(raw)) * 8 // 6]
        if len(inner) >= SHORTEST:
            found |= {inner: None, inner.translate(_URL_SAFE): None}
    return list(found)


_URL_SAFE = str.maketrans("+/", "-_")
_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


def _escapes(char: str) -> str:
    """A pattern for one character, as it is or in any escape: %2F (or %252F), u002f or / behind backslashes, &#x2f;.

    Every repetition has an end: the text may be a megabyte of backslashes.
    """
    units = [char] if ord(char) < 0x10000 else _pair(char)
    ways = [
        rf"\\{{0,8}}{re.escape(char)}",
        "".join(rf"%(?:25){{0,3}}(?i:{byte:02x})" for byte in char.encode("utf-8", "replace")),
        "".join(rf"\\{{1,8}}u(?i:{ord(unit):04x})" for unit in units),
        rf"&#(?:[xX]0{{0,6}}(?i:{ord(char):x})|0{{0,6}}{ord(char)});",
    ]
    if char in _ENTITIES:
        ways.append(f"&{_ENTITIES[char]};")
    if char == " ":
        ways.append(r"\+")
    return f"(?:{'|'.join(ways)})"


def _between_digits(value: str) -> str:
    return rf"(?:(?<![0-9])|(?<=%[0-9A-Fa-f]{{2}})){''.join(map(_escapes, value))}(?![0-9])"


def _pair(char: str) -> list[str]:
    raw = char.encode("utf-16-be")
    return [chr(int.from_bytes(raw[at : at + 2], "big")) for at in (0, 2)]


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """A JSON value with every text in it redacted, its shape and its numbers left as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for said, held in value.items():
            name = redact(said)
            while name in found:  # two names that differed in the secret alone
                name = f"{name}_{len(found)}"
            found[name] = redacted(held, redact)
        return found
    if isinstance(value, list):
        return [redacted(held, redact) for held in value]
    return value


def redacted_bytes(body: bytes, redact: Callable[[str], str]) -> bytes:
    """`body` redacted, whatever it is."""
    return redact(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def without_secret_fields(value: Any) -> Any:
    """A JSON value, or bytes that may be one, without what `SECRET_FIELDS` hold."""
    if isinstance(value, bytes):
        return _GROUP_ID.sub(rb"\1", value)
    if isinstance(value, dict):
        return {name: without_secret_fields(held) for name, held in value.items() if name not in SECRET_FIELDS}
    if isinstance(value, list):
        return [without_secret_fields(held) for held in value]
    return value


# ------------------------------------------------------------------------------------------------------- in our frames


def forget_locals(exc: BaseException) -> None:
    """Clear the frames that `exc` came through, ours and those of libraries below them: reporters show their locals.

    Numbers, images and ids are in them. Frames that still run, and the user's own, stay as they are.
    """
    for error in _chain(exc):
        trace, below = error.__traceback__, False
        while trace is not None:
            frame, trace = trace.tb_frame, trace.tb_next
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            below = below or package == _OURS
            if package == _OURS or (below and package in _LIBRARIES):
                with contextlib.suppress(RuntimeError):  # of a frame that still runs, and has to see to its own
                    frame.clear()


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and what led to it, the members of groups included."""
    seen: set[int] = set()
    waiting = [exc]
    while waiting:
        error = waiting.pop()
        if id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += filter(None, (error.__cause__, error.__context__))
            if isinstance(error, BaseExceptionGroup):
                waiting += error.exceptions
