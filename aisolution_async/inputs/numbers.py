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
own way makes a valid number of it. A zero before the calling code, two zeros before a national number, and a plus
before a zero are slips: they are read so where that makes a valid number, and nothing else does.

"Possible" is a length that mobile or fixed lines of the country have; "valid" is within a range that it has handed out,
as far as the metadata of the `phonenumbers` package know. They are behind the networks by months: that is why possible
is enough by default.

What is not surely one number is refused, since each question costs money: dates, fractions, ID-card numbers, one digit
over and over that is in no range, and digits behind a number that look like a second one or an extension.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from aisolution_async.checks import kind_of
from aisolution_async.errors import InputError
from aisolution_async.inputs import texts

if TYPE_CHECKING:
    from phonenumbers import PhoneMetadata

_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")
_SEPARATORS = re.compile(r"[\s().\-/]+")
_TRUNK_ZERO = re.compile(r"^((?:\+|00)[\s0-9.\-]{1,6})\(0\)")
_NUMBER = re.compile(r"\+?[0-9]{4,17}")
_SCIENTIFIC = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[eE][+-]?[0-9]+")
_FORMULA = re.compile(r'=?"(.*)"|=(.*)', re.DOTALL)
_SCHEME = re.compile(r"(?:tel|whatsapp):(?!//)\s*", re.IGNORECASE)
# What people write before a number to say what it is, without what may be of something else ("fax", "no.", "ID").
_LABELLED = re.compile(r"([^0-9+(:]{1,30}?)(\s*[.:][.:\s]*|\s+)(?=([+(0-9]))")
_DEVICES = frozenset(
    (
        *("wa", "whatsapp", "whats app", "hp", "hape", "handphone", "hand phone", "phone", "telephone", "telepon"),
        *("telefon", "telp", "tlp", "tel", "mobile", "mobile phone", "mob", "cell", "cellphone", "cell phone", "cp"),
        *("contact", "kontak", "dien thoai", "dt", "sdt"),
    )
)
_BESIDE = frozenset(("no", "nomor", "nomer", "number", "so", "aktif", "active"))
_APOSTROPHES = "'\u2018\u2019`\u00b4\u02bc"
_LONGEST = 64
_DOUBLED = frozenset(digit * 2 for digit in "0123456789")
_FEWEST_DIGITS, _MOST_DIGITS = 5, 15  # of E.164, the calling code among them
_EXACT = 2**53

# WhatsApp's own ways to name an account: links to a chat, and the ids that its clients show.
_LINK = re.compile(
    r"(?:https?://)?(?:www\.)?wa\.me/([^/?#]+)/?(?:[?#].*)?"
    r"|(?:(?:https?://)?(?:api|web|www)\.whatsapp\.com/send/?|whatsapp://send/?)\?(?:.*&)?phone=([^&#]+)(?:[&#].*)?"
    r"|([0-9+]+)(?:[.:_][0-9]+)*@(?:s\.whatsapp\.net|c\.us)",
    re.IGNORECASE,
)
_LIKE_A_LINK = re.compile(r"://|www\.|wa\.me|whatsapp\.|@")

# As spreadsheets write large numbers: by thousands, or by hundreds as in India, and with decimals.
_GROUPED = re.compile(
    r"([1-9][0-9]{0,2}(?=([,']))(?:\2[0-9]{2,3})*\2[0-9]{3})(?:\.([0-9]*))?"
    r"|([1-9][0-9]{0,2}(?:\.[0-9]{3})+),([0-9]+)"
)
_SPACED = re.compile(r"([1-9][0-9]{0,2}(?:\s[0-9]{3})+)(?:,0+|\.0{1,2})")
_COMMA = re.compile(r"[^,]*[0-9]\)?,[0-9]{1,2}")
_NEGATIVE = re.compile(r"-[1-9][0-9\s.,']*")
_DECIMAL = re.compile(r"(\+?[0-9]{5,17})([.,])([0-9]+)")
_TAIL = re.compile(r"(.*[0-9)])\s*([-.(])\s*([0-9]{1,3})\s*\)?", re.DOTALL)
_GROUPS = re.compile(r"([^0-9]*)([0-9]+)")
_TWO = re.compile(r"[0-9]{5,}[^0-9+]+[0-9]{5,}")

# Of every calendar in use, and what programs put where there is no date: the first day they know, or the last.
_YEAR = "(?:[12][0-9]{3}|9999|0001)"
_DATE = re.compile(
    r"\(?\s*(?:"
    rf"{_YEAR}\s*-\s*(?P<m1>[0-9]{{1,2}})\s*-\s*(?P<d1>[0-9]{{1,2}})"
    rf"|{_YEAR}\s*/\s*(?P<m2>[0-9]{{1,2}})\s*/\s*(?P<d2>[0-9]{{1,2}})"
    rf"|(?P<d3>[0-9]{{1,2}})\s*/\s*(?P<m3>[0-9]{{1,2}})\s*/\s*(?:{_YEAR}|[0-9]{{2}})"
    rf"|(?P<d4>[0-9]{{1,2}})\s*-\s*(?P<m4>[0-9]{{1,2}})\s*-\s*(?:{_YEAR}|[0-9]{{2}})"
    r")\s*\)?(?P<time>(?:T|[\s,]+)[0-9]{1,2}(?:[:.]?[0-9]{2}.*)?)?\s*\)?",
    re.DOTALL,
)
_TIME = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9.]+)?(?:\s*[AaPp][Mm])?")

# Ranges that ended, and are possible by their length only: for each calling code, with what stands now instead.
_ENDED = {"84": r"1[2-9][0-9]{8}"}
_WHAT_ENDED = "Viet Nam's mobile numbers of 11 digits ended: write the one of 10 digits that replaced it"

_AS_TEXT = "format the column as text"
_NO_NUMBER = "{} is no phone number: 5 to 15 digits, with or without a leading plus"


def normalise(number: object, name: str = "number", country: str | None = None, strict: bool = False) -> str:
    """`number` as E.164, or as bare digits where it has neither a plus, 00 nor a `country` (two letters, ISO 3166).

    Mended: a label in front (`WA: 0812…`, `HP 0812…`, `Tel. 0812…`), separators, characters without width, digits of
    other scripts, a leading apostrophe, a trailing comma, `tel:`, `="…"`, links to a chat (`wa.me/…`), and whole
    numbers (int, float, "6281387300008.0", "81,387,300,008").
    `strict` asks for a valid number, not only a possible one.

    Raises InputError for what cannot be a phone number, or is more than one. The text of the error never holds it.
    """
    plan = None if country is None else _plan(country)
    if not strict and type(number) is str and number.isascii() and (quick := _quick(number, plan)) is not None:
        return quick
    return _read(_text(number, name), plan, name, strict=strict)


def remark(sent: str) -> str | None:
    """What a person should be told of a normalised number that is sent all the same; None for nearly all."""
    if sent[:1] != "+":
        return _WITHOUT_COUNTRY if sent[:1] == "0" else None
    plan, rest = _split(sent[1:])
    is_one_digit = _is_one_digit(rest)
    if plan is None or (not is_one_digit and plan.mobile.fullmatch(rest)):
        return None
    import phonenumbers  # noqa: PLC0415  # takes 15 ms, and most programs do without

    kind = phonenumbers.number_type(phonenumbers.parse(sent))
    if is_one_digit:
        return _ONE_DIGIT
    return _NOT_MOBILE if kind in _FIXED else None


def mobile_of(number: str, *, country: str | None = None) -> tuple[str, bool] | None:
    """E.164 of what is a mobile number beyond doubt, and whether it looks like a phone number by itself; else None.

    Valid is not enough: without a country, only a number in full is known, or one of the vendor's own markets with its
    leading zero. What looks like nothing but digits (no plus, no calling code, no zero in front) may be any id.
    """
    try:
        sent = normalise(number, country=country, strict=country is not None)
    except InputError:
        return None
    if sent[:1] != "+":
        said: list[tuple[str, str | None]] = [(sent, market) for market in MARKETS if sent[0] == "0"]
        said += [(f"+{sent}", None) for code in _MARKET_CODES if sent.startswith(code)]
    else:
        said = [(sent, None)]
    for text, market in said:
        try:
            sent = normalise(text, country=market, strict=True)
        except InputError:
            continue
        plan, rest = _split(sent[1:])
        if plan is not None and remark(sent) is None:
            return sent, "".join(filter(str.isdecimal, number)) != rest
    return None


def lacks_code(sent: str) -> bool:
    """Whether a normalised number is bare digits that begin with no calling code, by all that is known.

    As a spreadsheet leaves a national number when it drops the zero in front: 812…, which would be one of Japan.
    """
    if sent[:1] in ("+", "0"):
        return False
    try:
        full = normalise(f"+{sent}", strict=True)
    except InputError:
        return True
    return not sent.startswith(_MARKET_CODES) and remark(full) is not None


MARKETS = ("ID", "PH", "VN", "IN")
"""Where the vendor is."""
_MARKET_CODES = ("62", "63", "84", "91")

_WITHOUT_COUNTRY = "without a country, with a 0 in front: say the country, as in --country ID, or in a column"
_ONE_DIGIT = "one digit over and over, as in a filler, but in a range of their country"
_NOT_MOBILE = "in a range of landlines or service numbers, which are seldom on WhatsApp"
_FIXED = frozenset({0, 3, 4, 5, 8, 9})  # fixed lines, toll-free, premium rate, shared cost, UAN, voicemail


# ----------------------------------------------------------------------------------------------------------- cleaning


def _text(number: object, name: str) -> str:
    """`number` as one line of ASCII, without what surrounds it in a cell."""
    if not isinstance(number, str):
        return _digits(number, name)
    if len(number) > _LONGEST * 4:
        raise InputError(f"{name} is too long to be one phone number")
    text = "".join(_ascii(number)).strip()
    if (formula := _FORMULA.fullmatch(text)) is not None:
        text = formula[1] if formula[1] is not None else formula[2]
    text = _SCHEME.sub("", text.strip().lstrip(_APOSTROPHES), count=1).strip(",; \t\r\n")
    if text[:1].isalpha():
        text = _without_label(text)
    if not text:
        raise InputError(f"{name} is empty: there is no phone number to ask for")
    if "/" in text or "@" in text:
        if (link := _LINK.fullmatch(text)) is not None:
            text = _of_link(link[1] or link[2] or link[3])
        elif _LIKE_A_LINK.search(text) is not None:
            raise InputError(f"{name} is a link or an address: keep the phone number alone, with a plus")
    if _SCIENTIFIC.fullmatch(text):
        raise InputError(f"{name} was shortened by a spreadsheet (like 6.28E+12), and digits are lost: {_AS_TEXT}")
    if _NEGATIVE.fullmatch(text):
        raise InputError(f"{name} is a negative number, and no phone number: leave out the minus in front")
    text = _as_digits(text, name)
    if len(text.splitlines()) > 1 or ("/" in text and _DATE.fullmatch(text) is None and _is_two(text.split("/"))):
        raise InputError(f"{name} is more than one phone number: give each a row of its own")
    return text


def _without_label(text: str) -> str:
    """`text` without what says that a phone number follows: "WA: ", "No. HP ", "Tel. ".

    Behind a blank alone, as in "WA 98101" of an address, only what begins as a number in full or a national one does.
    """
    found = _LABELLED.match(text)
    if found is None or not (found[3] in "+0(" or set(found[2]) & set(".:")):
        return text
    for label in texts.folded(found[1]).split("/"):
        words = label.split()
        while words and words[0] in _BESIDE:
            del words[0]
        while words and words[-1] in _BESIDE:
            del words[-1]
        if " ".join(words) not in _DEVICES:
            return text
    return text[found.end() :]


def _digits(number: object, name: str) -> str:
    if isinstance(number, float):
        if not (number.is_integer() and 0 < number < _EXACT):
            raise InputError(f"{name} is a fraction, or too large to be exact: {_AS_TEXT}")
        number = int(number)
    if isinstance(number, Integral) and not isinstance(number, bool):  # numpy's too
        if not 0 < int(number) < 10**17:
            raise InputError(_NO_NUMBER.format(name))
        return str(int(number))
    raise InputError(f"{name} is {kind_of(number)}: pass the phone number as text")


def _of_link(held: str) -> str:
    """The number that a link holds, which is in full and without a plus: with 00 in its place."""
    digits = _SEPARATORS.sub("", re.sub("%2B|%20|\\+", "", held, flags=re.IGNORECASE))
    if digits[:1] == "0":
        return f"+{digits}"  # a slip, and read as one
    return f"00{digits}" if digits[:1] in "123456789" else digits


def _as_digits(text: str, name: str) -> str:
    """`text`, or its digits where a spreadsheet took them for a number and wrote it with decimals or by thousands."""
    if "." not in text and "," not in text and "'" not in text:
        return text
    if (grouped := _GROUPED.fullmatch(text)) is not None:
        if (grouped[3] or grouped[5] or "").strip("0"):
            raise InputError(_FRACTION.format(name))
        return re.sub("[^0-9]", "", grouped[1] or grouped[4])
    if (spaced := _SPACED.fullmatch(text)) is not None:
        return re.sub("[^0-9]", "", spaced[1])
    if (decimal := _DECIMAL.fullmatch(text)) is not None:
        digits, point, behind = decimal.groups()
        if not behind.strip("0"):
            # What has a plus or a leading zero never was a spreadsheet's number: three zeros may be a group of it.
            if digits[0] not in "+0" or len(behind) <= 2:
                return digits
        elif point == "," and digits[0] != "+":
            raise InputError(_FRACTION.format(name))
    elif _COMMA.fullmatch(text) is not None and sum(map(str.isdigit, text)) > _FEWEST_DIGITS:
        raise InputError(_FRACTION.format(name))
    return text


_FRACTION = f"{{}} is a fraction, and no phone number: {_AS_TEXT}, or keep what stands before the decimal point"


def _date(text: str, name: str) -> str | None:
    """Why `text` may be a date, None if it is none. Raises InputError where it is surely one."""
    if ("-" in text or "/" in text) and (found := _DATE.fullmatch(text)) is not None:
        month, day = (int(value) for key, value in found.groupdict().items() if value is not None and key != "time")
        if 1 <= min(month, day) <= 12 and max(month, day) <= 31:
            why = f"{name} is a date, and no phone number: give the number, in a column formatted as text"
            # Numbers are written in groups of two, two and four as well.
            if found["d4"] is not None and found["time"] is None:
                return why
            raise InputError(why)
    elif ":" in text and _TIME.fullmatch(text) is not None:
        raise InputError(
            f"{name} is a time of day, and no phone number: give the number, in a column formatted as text"
        )
    return None


def _what_it_is(text: str, compact: str, name: str) -> str:
    """What `text` looks like, which is not even 5 to 17 digits."""
    if compact.lstrip("+").isdigit() and len(compact) > _MOST_DIGITS:
        return _too_many(text, compact, name)
    if texts.says_none(text):
        return f"{name} {texts.NONE}"
    if _TWO.search(text):
        return f"{name} is more than one phone number: give each a row of its own"
    if any(char.isalpha() for char in text) and any(char.isdigit() for char in text):
        return f"{_NO_NUMBER.format(name)}, and no letters: keep the number alone"
    return _NO_NUMBER.format(name)


def _too_many(text: str, compact: str, name: str) -> str:
    digits = len(compact.lstrip("+"))
    if _TWO.search(text) and not (digits == _CARD_DIGITS and _is_card(text)):
        return f"{name} has {digits} digits, and is more than one phone number: give each a row of its own"
    if digits == _CARD_DIGITS:
        return f"{name} has {digits} digits: an ID-card or card number, and no phone number; give the phone number"
    return (
        f"{name} has {digits} digits, and a phone number has {_MOST_DIGITS} at most with its country code: "
        "is it an ID-card number, or two numbers?"
    )


def _is_card(text: str) -> bool:
    """Whether 16 digits are in groups as on a card: two phone numbers have 7 and more each, or more between them."""
    groups = re.split(r"[\s.\-]", text)
    return all(group.isdigit() for group in groups) and min(map(len, groups)) < _FEWEST_OF_TWO


_CARD_DIGITS = 16
_FEWEST_OF_TWO = 7


def _is_one_digit(digits: str) -> bool:
    return digits[1:] == digits[:-1]


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
            yield unicodedata.normalize("NFKC", char).translate(_DASHES)


def _is_two(pieces: list[str]) -> bool:
    """Whether slashes part numbers, and not an area code from the rest: "0812345678/79" is two as well."""
    digits = [_SEPARATORS.sub("", piece) for piece in pieces]
    return any(piece[:1] == "+" or (piece[:1] == "0" and len(piece) > 5) for piece in digits[1:]) or any(
        len(piece) > (8 if piece[:1] == "+" or piece[:2] == "00" else 6) for piece in digits[:-1]
    )


# ---------------------------------------------------------------------------------------- behind the number: its tail


@dataclass(frozen=True, slots=True)
class _Tail:
    """Digits at the end that may be no part of the number: what stands `before` them, and what they may be."""

    before: str
    is_fraction: bool
    is_grouped: bool
    """Whether they look like one more group of the digits before them."""


def _tail(text: str) -> _Tail | None:
    decimal = _DECIMAL.fullmatch(text) if "." in text else None
    if decimal is not None and decimal[1][0] not in "+0":
        return _Tail(decimal[1], is_fraction=True, is_grouped=False)
    found = None if text[-4:].isdigit() else _TAIL.fullmatch(text)
    if found is None or (found[2] == "." and text.count(".") > 1):
        return None
    before, sign, digits = found.groups()
    is_grouped = sign == "-" and len(digits) > 1 and _is_next_group(before, len(digits))
    is_fraction = sign == "." and (decimal is not None or len(digits) <= _DECIMALS)
    return _Tail(before, is_fraction=is_fraction, is_grouped=is_grouped)


def _is_next_group(before: str, size: int) -> bool:
    """Whether `size` digits behind a dash look like one more group of the digits `before` it."""
    groups = _GROUPS.findall(before) or [("", "")]
    sign, last = groups[-1]
    if len(last) == size:
        return True
    if "-" not in sign or len(last) > _LONGEST_GROUP:
        return False
    is_even = len(groups) > 1 and len(groups[-2][1]) == len(last)
    return is_even or len(last) < _LONGEST_GROUP or size == _LONGEST_GROUP - 1


_LONGEST_GROUP = 4
_DECIMALS = 2  # of an amount of money, and fewer digits than the last group of a number has


def _check_tail(tail: _Tail, whole: _Found, plan: _Plan | None, name: str) -> None:
    """Raise InputError where a number ends before its tail, and the whole is no better one."""
    before = _SEPARATORS.sub("", _TRUNK_ZERO.sub(r"\1", tail.before))
    if not _NUMBER.fullmatch(before):
        return
    found = _best({before: None}, plan)
    if found.e164 is None or whole.rank < found.rank:
        return
    if tail.is_grouped and (whole.rank <= _VALID or found.rank == _POSSIBLE):
        return
    raise InputError(_of_tail(tail, name))


def _of_tail(tail: _Tail, name: str) -> str:
    if tail.is_fraction:
        return _FRACTION.format(name)
    return (
        f"{name} has digits behind it, like a second number or an extension: keep one number, or leave out the sign "
        "before its last digits"
    )


def _check_bare(digits: str, text: str, date: str | None, tail: _Tail | None, name: str) -> None:
    """Raise InputError for bare digits without a country, of which nobody knows what is possible."""
    if date is not None:
        raise InputError(date)
    if len(digits) < _FEWEST_DIGITS:
        raise InputError(_NO_NUMBER.format(name))
    if len(digits) > _MOST_DIGITS:
        raise InputError(_too_many(text, digits, name))
    if _is_one_digit(digits):
        raise InputError(f"{name} is {_FILLER}, or its country")
    if tail is not None and not tail.is_grouped:
        before = len(_SEPARATORS.sub("", tail.before))
        if before >= (_SURELY_WHOLE - 2 if tail.is_fraction else _SURELY_WHOLE):
            raise InputError(_of_tail(tail, name))


_SURELY_WHOLE = 9  # digits that are a number by themselves, in most countries
_FILLER = "one digit over and over, and no phone number: give the number"


# ------------------------------------------------------------------------------------------------------------ reading

_MOBILE, _VALID, _POSSIBLE, _NONE = range(4)


@dataclass(frozen=True, slots=True)
class _Found:
    """The best reading: how good it is, and E.164, None with the reason where there is none."""

    rank: int
    e164: str | None
    reason: str = ""

    def problem(self, name: str, text: str, compact: str) -> str:
        """Why it is no number."""
        if _is_one_digit(compact.lstrip("+")):
            return f"{name} is {_FILLER}"
        if self.reason and self.reason[0] == "!":
            return f"{name} {self.reason[1:]}"
        if len(compact.lstrip("+0")) > _MOST_DIGITS:
            return _too_many(text, compact, name)
        if self.reason == _TOO_LONG and len(compact) >= _ID_DIGITS and compact[0] != "+":
            return f"{name} has {len(compact)} digits, which no phone number of its country has: {_ID_CARD}"
        return f"{name} is no phone number: {self.reason or _NO_SUCH_LENGTH}; check its digits and its country"


def _read(text: str, plan: _Plan | None, name: str, *, strict: bool) -> str:
    """What to send for `text`, which is clean. Raises InputError."""
    date, tail = (None, None) if text.isdigit() else (_date(text, name), _tail(text))
    with_zero, without_zero = _SEPARATORS.sub("", text), _SEPARATORS.sub("", _TRUNK_ZERO.sub(r"\1", text))
    if not _NUMBER.fullmatch(without_zero):
        raise InputError(_what_it_is(text, without_zero, name))
    if without_zero[0] != "+" and without_zero[:2] != "00" and plan is None:
        if strict:
            raise InputError(f"{name} cannot be told valid or not: give its country, or write it with a plus")
        _check_bare(without_zero, text, date, tail, name)
        return without_zero
    is_card = plan is not None and text.startswith(plan.code) and _FOURS.fullmatch(text) is not None
    is_simple = not (strict or is_card) and date is None and tail is None and with_zero == without_zero
    if is_simple and (quick := _quick(with_zero, plan)) is not None:
        return quick
    found = _best(dict.fromkeys((with_zero, without_zero)), plan)
    if tail is not None:
        _check_tail(tail, found, plan, name)
    if date is not None and (found.rank > _VALID or (found.rank == _VALID and _has_trunk_zero(plan))):
        # A landline is not written without the zero that is dialled first: 31-12-2024 is none of Surabaya's.
        raise InputError(date)
    if found.e164 is None:
        raise InputError(found.problem(name, text, without_zero))
    if is_card and plan is not None and (found.rank == _POSSIBLE or plan.region in _CARDS_IN_FOURS):
        raise InputError(f"{name} has {_ID_DIGITS} digits in groups of four: {_ID_CARD}")
    if strict and found.rank == _POSSIBLE:
        raise InputError(f"{name} is no valid phone number: its country has handed out no such number")
    return found.e164


def _has_trunk_zero(plan: _Plan | None) -> bool:
    return plan is not None and plan.trunk is not None and plan.trunk.match("0") is not None


def _best(written: dict[str, None], plan: _Plan | None) -> _Found:
    """The best reading: one that can be a mobile number, else a valid one, else a possible one."""
    if any(text[:2] == "+0" for text in written):
        return _plus_and_zero(written, plan)
    best, reason = _Found(_NONE, None), ""
    for text, region, in_full in _readings(written, plan):
        found = _parsed(text, region, in_full=in_full)
        reason = reason or found.reason
        if found.rank < best.rank:
            best = found
    if plan is not None:
        for text in written:
            if text[0] == "0" and (slip := _slip(text, plan, best)) is not None:
                return slip
    return best if best.e164 is not None else _Found(_NONE, None, reason)


def _slip(text: str, plan: _Plan, best: _Found) -> _Found | None:
    """What a zero before the calling code, or two before a national number, must be read as, if anything else."""
    if text[:2] != "00":
        if not text.startswith(plan.code, 1) or best.rank == _MOBILE:
            return None
        meant = _parsed(f"+{text[1:]}", None)
        if meant.rank == _MOBILE and best.rank == _VALID:
            return None if meant.e164 == best.e164 else _Found(_NONE, None, _ZERO_BEFORE_CODE)
        return meant if meant.rank < min(best.rank, _POSSIBLE) else None
    meant = _parsed(text.lstrip("0"), plan.region)
    if best.e164 is None:
        return meant if meant.rank <= _VALID else None
    if meant.e164 is None or meant.e164 == best.e164:
        return None
    if best.rank == _POSSIBLE and meant.rank < _POSSIBLE:
        return meant
    is_clear = best.e164.startswith(plan.code, 1) or best.rank < meant.rank
    return None if is_clear else _Found(_NONE, None, _TWO_ZEROS)


def _plus_and_zero(written: dict[str, None], plan: _Plan | None) -> _Found:
    """What a plus before a zero must be read as: the zero is one too many, or the plus is."""
    in_full = _best({f"+{text.lstrip('+0')}": None for text in written}, None)
    national = _best({text[1:]: None for text in written}, plan)
    better = min(national, in_full, key=lambda found: found.rank)
    if in_full.rank == national.rank <= _VALID and in_full.e164 != national.e164:
        return _Found(_NONE, None, _PLUS_OR_ZERO)
    # +0812… of Indonesia, say, is in a range of Japan's landlines: of another country, only a mobile number is clear.
    is_own = plan is not None and (better.e164 or "").startswith(plan.code, 1)
    if better.rank == _MOBILE or (better.rank == _VALID and is_own):
        return better
    return _Found(_NONE, None, _PLUS_AND_ZERO)


def _parsed(text: str, region: str | None, *, in_full: bool = False) -> _Found:
    """`in_full`: somebody wrote a plus or 00, so that it is no ID-card number whatever its length."""
    import phonenumbers  # noqa: PLC0415  # takes 15 ms, and most programs do without

    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as exc:
        return _Found(_NONE, None, _WHY_NOT_PARSED.get(exc.error_type, ""))
    length = phonenumbers.is_possible_number_with_reason(parsed)
    if length != phonenumbers.ValidationResult.IS_POSSIBLE:
        return _Found(_NONE, None, _WHY_IMPOSSIBLE.get(length, ""))
    e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    if len(e164) > _MOST_DIGITS + 1:
        return _Found(_NONE, None, _TOO_LONG)
    kind = phonenumbers.number_type(parsed)
    if kind in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE):
        return _Found(_MOBILE, e164)
    if kind != phonenumbers.PhoneNumberType.UNKNOWN:
        return _Found(_VALID, e164)
    plan, rest = _split(e164[1:])
    assert plan is not None, "a parsed number without a calling code"
    if not in_full and len(rest) not in plan.lengths:
        return _Found(_NONE, None, _TOO_LONG if len(rest) > max(plan.lengths) else _NO_SUCH_LENGTH)
    if _is_one_digit(rest):
        return _Found(_NONE, None, f"!is {_FILLER}")
    if rest[0] == "0" and plan.trunk is not None:
        return _Found(_NONE, None, "it has a zero too many in front")
    if plan.ended.match(rest):
        return _Found(_NONE, None, f"!is no phone number: {_WHAT_ENDED}")
    return _Found(_POSSIBLE, e164)


_TOO_LONG = "it is too long"
_WHY_NOT_PARSED = {
    0: "no country has its calling code",
    2: "it is too short",
    3: "it is too short",
    4: _TOO_LONG,
}
_WHY_IMPOSSIBLE = {2: "it is too short", 3: _TOO_LONG, 4: "it lacks its area code"}
_ID_DIGITS = 12  # of an Aadhaar, and of the ids of Viet Nam and the Philippines
_NO_SUCH_LENGTH = "no phone of its country has that many digits"
_ID_CARD = "it may be an ID-card number; give the phone number, with a plus if it is another country's"
# Twelve digits of an ID card as they are printed. Where every card is printed so, not even a valid number is sure.
_FOURS = re.compile(r"[1-9][0-9]{3}(?:[\s.\-]+[0-9]{4}){2}")
_CARDS_IN_FOURS = frozenset({"IN", "JP"})
_ZERO_BEFORE_CODE = "!can be a landline, or a number with its calling code: write it with a plus"
_TWO_ZEROS = "!begins with two zeros, and can be a number of two countries: write it with a plus, or with one zero"
_PLUS_AND_ZERO = "!has a zero behind its plus, and no calling code begins with one: write the calling code there"
_PLUS_OR_ZERO = "!has a zero behind its plus, and can be two numbers: leave out the zero, or the plus"


def _readings(written: dict[str, None], plan: _Plan | None) -> Iterator[tuple[str, str | None, bool]]:
    """What it can mean: text and region for the parser, and whether it says by itself that it is in full."""
    for text in written:
        if text[0] == "+":
            yield text, None, True
            continue
        if text[:2] == "00":
            yield f"+{text[2:]}", None, True
        if plan is not None:
            yield text, plan.region, False
            if text.startswith(plan.code):
                yield f"+{text}", None, False


# ------------------------------------------------------------------------------------------------- the common shapes
# A parse of phonenumbers costs 20 to 60 us, and a whole call 100. What follows gives the same answer, or none.


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the metadata say of a country, in a form that is quick to ask."""

    region: str
    code: str
    lengths: frozenset[int]
    """Of mobile and fixed lines: other digits may be somebody's ID-card number."""
    possible: frozenset[int]
    """Of all its numbers."""
    general: re.Pattern[str]
    mobile: re.Pattern[str]
    trunk: re.Pattern[str] | None
    elsewhere: re.Pattern[str]
    """What digits begin with that are not surely of this country: dialling abroad, and what ended."""
    slow: re.Pattern[str]
    """What the digits behind the calling code begin with, where they are not E.164 as they stand."""
    ended: re.Pattern[str]
    transforms: bool


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


class _Abroad(dict[str, "_Plan | None"]):
    """By calling code, the plan that numbers with it are looked up in; None for what is no calling code."""

    def __missing__(self, code: str) -> _Plan | None:
        from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata  # noqa: PLC0415  # as above

        plan = None
        # None begins with a zero, which int() would drop.
        if code[0] != "0" and (regions := COUNTRY_CODE_TO_REGION_CODE.get(int(code))) is not None:
            found = PhoneMetadata.metadata_for_region_or_calling_code(int(code), regions[0])
            assert found is not None, "a calling code without metadata"
            plan = _plan_of(found, regions[0], is_main=True)
        self[code] = plan
        return plan


_ABROAD = _Abroad()


def _plan_of(found: PhoneMetadata, region: str, *, is_main: bool) -> _Plan:
    general = found.general_desc
    assert general is not None
    trunk, abroad = found.national_prefix_for_parsing, found.international_prefix
    code = str(found.country_code)
    every = set(general.possible_length)
    lines = [desc for desc in (found.mobile, found.fixed_line) if desc is not None]
    # A description without lengths has those of all; one that there is no such number of has -1.
    lengths = {length for desc in lines for length in desc.possible_length or every} - {-1} or every
    local = set(general.possible_length_local_only)
    ended = f"(?:{_ENDED[code]})$" if code in _ENDED else ""
    # Where there is a trunk prefix, a zero in front is one, or one too many.
    zero = "0" if trunk and not re.match(trunk, "0") else ""
    pattern = general.national_number_pattern or "(?!)"
    return _Plan(
        region=region,
        code=code,
        lengths=frozenset(length for length in lengths - local if len(code) + length <= _MOST_DIGITS),
        possible=frozenset(length for length in every - local if len(code) + length <= _MOST_DIGITS),
        general=re.compile(f"(?!{ended})(?:{pattern})" if ended else pattern),
        mobile=re.compile((found.mobile.national_number_pattern if found.mobile else None) or "(?!)"),
        trunk=re.compile(trunk) if trunk else None,
        elsewhere=re.compile(_either("00", abroad, ended, zero) if is_main else ""),
        slow=re.compile(_either(trunk, ended, zero)),
        ended=re.compile(_either(ended)),
        transforms=bool(found.national_prefix_transform_rule),
    )


def _either(*patterns: str | None) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns if pattern) or "(?!)"


def _split(digits: str) -> tuple[_Plan | None, str]:
    """The plan of E.164 without its plus, and what is behind its calling code; None if no country has such a code."""
    for end in (2, 1, 3):  # no code begins with another; most have two digits
        plan = _ABROAD[digits[:end]]
        if plan is not None:
            return plan, digits[end:]
    return None, digits


def _is_plain(digits: str) -> bool:
    """Whether a plus and these digits are E.164 as they stand: a known code, a possible length, no trunk prefix."""
    plan, rest = _ABROAD[digits[:2]], digits[2:]  # as most codes are
    if plan is None:
        plan, rest = _split(digits)
    if plan is None or len(rest) not in plan.possible or plan.slow.match(rest) is not None:
        return False
    return rest[0] != rest[1] or not _is_one_digit(rest)


def _quick(text: str, plan: _Plan | None) -> str | None:
    """As `normalise` gives it: what is digits, with or without a plus, and can be read in one way only; else None."""
    if text[:1] == "+":
        digits = text[1:]
        return text if digits.isdigit() and _is_plain(digits) else None
    if not text.isdigit():
        return None
    if plan is not None:
        return _quick_national(text, plan)
    return text if 5 <= len(text) <= 15 and text[:2] not in _DOUBLED else None


def _quick_national(digits: str, plan: _Plan) -> str | None:
    if plan.elsewhere.match(digits) is not None:
        return None
    trunk, general = plan.trunk, plan.general
    if digits.startswith(plan.code):
        rest = digits[len(plan.code) :]
        if (
            general.fullmatch(digits)
            or not general.fullmatch(rest)
            or len(rest) not in plan.lengths
            or (trunk is not None and trunk.match(rest))
            or _is_one_digit(rest)
        ):
            return None
        return f"+{digits}"
    if trunk is not None and (prefix := trunk.match(digits)) is not None:
        digits = digits[prefix.end() :]
        if plan.transforms or prefix.end() == 0 or not general.fullmatch(digits) or digits.startswith(plan.code):
            return None
    if len(digits) not in plan.lengths or (digits[0] == digits[1] and _is_one_digit(digits)):
        return None
    return f"+{plan.code}{digits}"
