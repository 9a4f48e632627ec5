"""Phone numbers that are answered as their last three digits say, whatever else the sandbox is set to.

They are blocks of a thousand in four countries: +6281200000NNN (ID), +639170000NNN (PH), +919000000NNN (IN) and
+84900000NNN (VN), in any spelling that the sandbox takes: with + or 00, bare, or national with its country.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aisolution_async.sandbox.faults import Fault

BLOCKS: Mapping[str, str] = {"ID": "+6281200000", "PH": "+639170000", "IN": "+919000000", "VN": "+84900000"}
"""What comes before the three digits, by country."""

HOSTILE = '=HYPERLINK("http://x.invalid","hi")<script>alert(1)</script>\x1b[2J\r\n\'"&\u202e 💪'
"""A signature as a stranger with bad intentions writes it: for spreadsheets, pages and terminals."""

LATE = 60.0
"""Seconds on the sandbox's clock after which the late callback is made."""

Calls = Literal["once", "twice", "late", "never", "stranger", "unescaped"]


@dataclass(frozen=True, slots=True)
class MagicNumber:
    """What the numbers that end in `code` are answered.

    `answers` are those of the first time it is asked for, the second, …, and of every time after the last: a word for
    `whatsapp`, the name of a profile ("business", "bare", "hostile"), or what goes wrong. Where a callback is asked for
    and nothing goes wrong, the request is answered "checking", and the callback brings the last of them, in the way
    that `callback` says. `checking_for` are seconds on the sandbox's clock, from when it is first asked for.
    """

    code: str
    what: str
    answers: tuple[str | Fault, ...] = ("yes",)
    callback: Calls = "once"
    checking_for: float = 0.0


def _http(http_status: int, retry_after: float | None = None) -> Fault:
    return Fault("http", http_status=http_status, retry_after=retry_after)


def _status(status: str) -> Fault:
    return Fault("status", status=status)


MAGIC_NUMBERS: Mapping[str, MagicNumber] = {
    "yes": MagicNumber("000", "yes, with all fields"),
    "business": MagicNumber("001", "yes, a business account", ("business",)),
    "no": MagicNumber("002", "no", ("no",)),
    "bare": MagicNumber("003", "yes, and nothing else is known", ("bare",)),
    "hostile": MagicNumber("004", "yes, with a signature that attacks whoever shows it", ("hostile",)),
    "checking-twice": MagicNumber("010", "checking, checking, yes", ("checking", "checking", "yes")),
    "checking-20-seconds": MagicNumber("011", "checking for 20 s on the sandbox's clock, then yes", checking_for=20.0),
    "checking-for-ever": MagicNumber("012", "checking, always; never called back", ("checking",), "never"),
    "unavailable": MagicNumber(
        "020", "unavailable with servstatus=y, RETRY_LATER without, always; never called back", ("unavailable",)
    ),
    "unavailable-once": MagicNumber("021", "as unavailable once, then yes", ("unavailable", "yes")),
    "callback-once": MagicNumber("100", "one callback, yes"),
    "callback-twice": MagicNumber("101", "the same callback twice", callback="twice"),
    "callback-late": MagicNumber("102", "a callback after 60 s on the sandbox's clock", callback="late"),
    "callback-never": MagicNumber("103", "no callback", callback="never"),
    "callback-stranger": MagicNumber(
        "104", "a callback for a number that was not asked for, and then the right one", callback="stranger"
    ),
    "callback-unescaped": MagicNumber(
        "105", "a callback whose + is not escaped: it arrives as a space", callback="unescaped"
    ),
    "callback-no": MagicNumber("106", "one callback, no", ("no",)),
    "invalid-input": MagicNumber("200", "INVALID_INPUT", (_status("INVALID_INPUT"),)),
    "fail": MagicNumber("201", "FAIL", (_status("FAIL"),)),
    "retry-later": MagicNumber("202", "RETRY_LATER, always", (_status("RETRY_LATER"),)),
    "retry-later-once": MagicNumber("203", "RETRY_LATER, then yes", (_status("RETRY_LATER"), "yes")),
    "retry-later-twice": MagicNumber(
        "204", "RETRY_LATER twice, then yes", (_status("RETRY_LATER"), _status("RETRY_LATER"), "yes")
    ),
    "unknown-status": MagicNumber("210", "a status that nobody documented", (_status("QUOTA_EXCEEDED"),)),
    "unfitting": MagicNumber("211", "OK with a message that does not fit; charged", (Fault("message"),)),
    "unknown-word": MagicNumber("212", "OK with whatsapp=maybe; charged", ("maybe",)),
    "http-401": MagicNumber("401", "HTTP 401 without an envelope", (_http(401),)),
    "http-403": MagicNumber("403", "HTTP 403 without an envelope", (_http(403),)),
    "http-404": MagicNumber("404", "HTTP 404 without an envelope", (_http(404),)),
    "http-429": MagicNumber("429", "HTTP 429 with Retry-After: 1, always", (_http(429, 1),)),
    "http-429-once": MagicNumber("430", "HTTP 429 with Retry-After: 1, then yes", (_http(429, 1), "yes")),
    "http-500": MagicNumber("500", "HTTP 500 without an envelope; not charged", (_http(500),)),
    "http-502": MagicNumber("502", "HTTP 502 without an envelope; not charged", (_http(502),)),
    "http-502-charged": MagicNumber(
        "512", "HTTP 502 without an envelope; charged", (Fault("http", http_status=502, billed=True),)
    ),
    "http-503": MagicNumber("503", "HTTP 503 without an envelope, always", (_http(503),)),
    "http-503-once": MagicNumber("513", "HTTP 503 with Retry-After: 1, then yes", (_http(503, 1), "yes")),
    "http-504": MagicNumber("504", "HTTP 504 without an envelope; not charged", (_http(504),)),
    "hang": MagicNumber("900", "no answer at all until the client gives up; charged", (Fault("hang"),)),
    "reset-after": MagicNumber("901", "a reset instead of the answer; charged", (Fault("reset-after"),)),
    "reset-middle": MagicNumber("902", "half the answer and a reset; charged", (Fault("reset-middle"),)),
    "drip": MagicNumber("903", "the answer in 20 pieces, over 2 s on the sandbox's clock", (Fault("drip"),)),
    "garbage": MagicNumber("904", "bytes that are not HTTP; charged", (Fault("garbage"),)),
    "not-json": MagicNumber("905", "HTTP 200 with a page of HTML; charged", (Fault("not-json"),)),
    "truncated": MagicNumber("906", "HTTP 200 with half of the JSON; charged", (Fault("truncated"),)),
    "huge": MagicNumber("907", "an answer of 4 MiB; charged", (Fault("huge"),)),
    "content-type": MagicNumber("908", "the answer, called text/html; charged", (Fault("content-type"),)),
    "reset-after-once": MagicNumber(
        "911", "a reset instead of the answer, charged; then the answer, charged again", (Fault("reset-after"), "yes")
    ),
}
"""The magic numbers by name. Other endings in the blocks are answered like any other number."""

_BY_CODE = {magic.code: magic for magic in MAGIC_NUMBERS.values()}
assert len(_BY_CODE) == len(MAGIC_NUMBERS), "two magic numbers have one code"


def magic_number(name: str, *, country: str = "ID") -> str:
    """The magic number of this name, as "+" and digits; `country` is one of `BLOCKS`. Raises ValueError.

    ::

        reply = await client.whatsapp_detail(magic_number("checking-twice", country="PH"))
    """
    if name not in MAGIC_NUMBERS:
        close = difflib.get_close_matches(name, MAGIC_NUMBERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "MAGIC_NUMBERS lists them"
        raise ValueError(f"no magic number is called {name!r}: {hint}")
    if country not in BLOCKS:
        raise ValueError(f"there are no magic numbers in {country!r}: there are some in {', '.join(BLOCKS)}")
    return BLOCKS[country] + MAGIC_NUMBERS[name].code


def find_magic(number: str) -> MagicNumber | None:
    """What a number (as "+" and digits) is answered by magic; None where it is like any other."""
    return _BY_CODE.get(number[-3:]) if number[:-3] in _PREFIXES else None


_PREFIXES = frozenset(BLOCKS.values())
