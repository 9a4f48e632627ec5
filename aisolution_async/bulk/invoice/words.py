"""What is written in the cells of an invoice: the names of columns and services, numbers, days, states of requests.

All of it from text to a value, and nothing guessed: what can be two things is `None`, or both of them, and whoever
reads the invoice looks for what tells them apart.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from aisolution_async.api import CALLS, endpoint_of

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")

# ------------------------------------------------------------------------------------------------------- columns

Role = Literal["day", "from", "to", "service", "count", "price", "amount", "either", "status", "currency", "request"]
"""What a column holds. "either": a count or an amount, which its cells tell. "request": what one request alone has."""


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", text))]


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DAY = _set("day date dates time timestamp datetime month period tanggal tgl waktu hari bulan periode ngày tháng petsa")
_OTHER_DAY = _set("due response responded update updated invoice issued issue paid payment elapsed duration tempo zone")
_FROM, _TO = _set("from start begin since dari mulai awal từ"), _set("to until end till sampai hingga akhir đến")
_SERVICE = _set(
    "service services endpoint api product item description descriptions layanan produk uraian keterangan deskripsi "
    "jasa path url uri feature interface sku particulars resource vụ serbisyo"
)
_COUNT = _set(
    "count counts qty quantity kuantitas banyaknya calls requests hits charges volume vol units usage transactions "
    "transaksi pcs lượng panggilan permintaan queries lookups hit checks"
)
_PRICE = _set("price rate tarif tariff harga giá satuan")
_AMOUNT = _set("amount subtotal fee fees cost costs biaya nilai tiền value")
_EITHER = _set("jumlah total charge charged billed billable sum halaga")
_COUNTED = _set(
    "charges charged billed billable chargeable"
)  # of these, whole numbers are counts; of the others they may be money
_STATUS = _set("status result outcome state hasil")
_CURRENCY = _set("currency ccy curr valuta")
_REQUEST = _set("id number msisdn phone nomor reference ref trace uuid ip recipient")
_TAX = _set("tax vat ppn pajak gst discount diskon percent")


def role_of(name: str) -> Role | None:
    """What a column of that name holds, as far as its name tells."""
    words = frozenset(_words(re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", name)))
    rules: tuple[tuple[Role, bool], ...] = (
        ("currency", bool(words & _CURRENCY) or {"mata", "uang"} <= words),
        ("status", bool(words & _STATUS)),
        (
            "price",
            bool(words & _PRICE or ("per" in words and words & (_AMOUNT | _EITHER)) or {"unit", "cost"} <= words)
            and not words & _set("total"),
        ),
        ("count", bool(words & _COUNT)),
        ("request", bool(words & _REQUEST)),
        ("from", bool(words & _FROM) and words <= _FROM | _DAY),
        ("to", bool(words & _TO) and words <= _TO | _DAY),
        ("day", bool(words & _DAY) and not words & _OTHER_DAY),
        ("amount", bool(words & (_AMOUNT | _PRICE)) and not words & _TAX),
        ("either", bool(words & _EITHER) and not words & _TAX),
        ("service", bool(words & _SERVICE)),
    )
    return next((role for role, fits in rules if fits), None)


def is_of_months(name: str) -> bool:
    """Whether a column of that name holds months: workbooks have their first day there."""
    return not _set("month bulan tháng").isdisjoint(_words(name))


def is_of_sums(name: str) -> bool:
    """Whether a column of that name holds sums of money, if another one beside it holds counts."""
    return not _set("total sum").isdisjoint(_words(name))


def is_of_charges(name: str) -> bool:
    """Whether whole numbers in a column of that name are counts of charges, not of requests or money."""
    return not _COUNTED.isdisjoint(_words(name))


# ------------------------------------------------------------------------------------------------------ services

# The words of the vendor's page and of those who write invoices, beside the spellings that `endpoint_of` knows: one of
# each group has to begin a word.
_SERVICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gliswadetail", ("whatsapp wa wadetail",)),
    ("idholding", ("id ktp card", "hold hand handheld selfie")),
    ("facecompare", ("face", "compar match perbandingan")),
    ("searchface", ("face", "search same pencarian")),
    ("addface", ("face", "add regist enrol")),
    ("delface", ("face", "del delet remov")),
)
_WHOLE = _set("wa id add del")  # too short to be the beginning of any word


@lru_cache(4096)
def service_of(text: str) -> str | None:
    """The endpoint that is meant, by the vendor's name; None if none is, or more than one could be."""
    name = re.sub(r"^[a-z]+://[^/]*", "", text.strip(), flags=re.IGNORECASE).partition("?")[0].rstrip("/")
    known = endpoint_of(name) or endpoint_of(name.rpartition("/")[2])
    if known is not None:
        return known.name
    words = [*_words(name), *(word.lower() for word in _WORD.findall(name))]  # "WhatsApp" is one word
    joined = "".join(_words(name))
    found = {
        e.name for e in (call.endpoint for call in CALLS) if e.name in joined or e.command.replace("-", "") in joined
    }
    if not found:
        found = {service for service, groups in _SERVICES if all(_has(words, group.split()) for group in groups)}
        if "idholding" in found:
            found.discard("facecompare")  # "Hand-held ID Card (Face) Comparison"
    return found.pop() if len(found) == 1 else None


def _has(words: Iterable[str], stems: Iterable[str]) -> bool:
    return any(word == stem or (stem not in _WHOLE and word.startswith(stem)) for word in words for stem in stems)


_TOTALS = re.compile(
    r"\W*(grand|sub|invoice|net|gross)?[\s-]*(totals?|jumlah|tổng|kabuuan|sum)\b"
    r"|\W*(amount (due|payable)|balance due)\b",
    re.IGNORECASE,
)
_EXTRAS = re.compile(
    r"(?<!\w)(tax|vat|ppn|pph|pajak|gst|cgst|sgst|igst|discount|diskon|rounding|pembulatan)(?!\w)", re.IGNORECASE
)


@lru_cache(4096)
def is_total(text: str) -> bool:
    """Whether a row with this label adds up others."""
    return _TOTALS.match(text) is not None


@lru_cache(4096)
def is_extra(text: str) -> bool:
    """Whether a row with this label is money that no request is charged: taxes, a discount."""
    return _EXTRAS.search(text) is not None


# -------------------------------------------------------------------------------------------------------- states

_CHARGED = _set(
    "ok success successful succeeded charged billed billable paid yes y true 1 200 berhasil sukses completed"
)
_FREE = _set(
    "free fail failed failure error no n false 0 uncharged unbilled unbillable gagal gratis timeout rejected "
    "notcharged notbilled nonbillable checking unavailable"
) | {status.lower() for call in CALLS for status in call.endpoint.charges if status != "OK" and ":" not in status}


@lru_cache(1024)
def is_charged(text: str) -> bool | None:
    """Whether a request that ended so is charged; None if nobody knows the word."""
    word = text.strip().lower()
    joined = re.sub(r"[\W_]+", "", word)
    if word in _FREE or joined in _FREE:
        return False
    return True if word in _CHARGED or joined in _CHARGED else None


# ------------------------------------------------------------------------------------------------------- numbers

Point = Literal[".", ","]
"""What stands before the decimals."""

_SYMBOLS = {
    "$": "USD",
    "US$": "USD",
    "Rp": "IDR",
    "Rp.": "IDR",
    "₫": "VND",
    "đ": "VND",
    "₱": "PHP",
    "₹": "INR",
    "Rs": "INR",
    "Rs.": "INR",
    "€": "EUR",
    "£": "GBP",
    "RM": "MYR",
    "S$": "SGD",
    "¥": "CNY",
}
_CODES = _set("USD IDR VND PHP INR EUR GBP MYR SGD CNY THB HKD AUD JPY")
_MONEY = re.compile(
    r"(?P<minus>[-\u2212])?\s*(?P<before>[^\W\d]{1,3}\.?|[^\W\d]{0,2}[$€£₫₱₹¥])?\s*(?P<minus2>[-\u2212])?\s*"
    r"(?P<digits>\d[\d.,'\u2019 \u00a0\u202f]*?)\s*(?P<dash>,-|\.-)?"
    r"\s*(?P<after>[^\W\d]{1,3}|[$€£₫₱₹¥])?\s*(?P<minus3>[-\u2212])?"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written: its digits with what stands between them, its sign, its currency if it says one."""

    digits: str
    is_negative: bool
    currency: str | None

    def points(self) -> frozenset[Point]:
        """What may stand before its decimals: both, where it does not tell."""
        return frozenset(point for point in (".", ",") if _read(self.digits, point) is not None)

    def value(self, point: Point) -> Decimal | None:
        """The number, if its decimals are behind `point`."""
        found = _read(self.digits, point)
        return None if found is None else (-found if self.is_negative else found)


@lru_cache(4096)
def written(text: str) -> Number | None:
    """The number that `text` is, with or without a currency; None if it is none."""
    text = text.strip()
    brackets = text.startswith("(") and text.endswith(")")
    found = _MONEY.fullmatch(text[1:-1].strip() if brackets else text)
    if found is None:
        return None
    minus = [found[name] for name in ("minus", "minus2", "minus3") if found[name]]
    marks = [mark for mark in (found["before"], found["after"]) if mark]
    if len(minus) + brackets > 1 or len(marks) > 1:
        return None
    currency = currency_of(marks[0]) if marks else None
    if marks and currency is None:
        return None
    return Number(found["digits"].strip(), bool(minus) or brackets, currency)


def currency_of(text: str) -> str | None:
    """The currency that a symbol or a code stands for."""
    text = text.strip()
    if text in _SYMBOLS:
        return _SYMBOLS[text]
    by_symbol = {symbol.upper(): code for symbol, code in _SYMBOLS.items()}
    return text.upper() if text.upper() in _CODES else by_symbol.get(text.upper())


def has_no_decimals(currency: str | None) -> bool:
    """Whether amounts of it are whole: then three digits behind a mark are thousands."""
    return currency in ("IDR", "VND", "JPY")


@lru_cache(1024)
def currency_in(name: str) -> str | None:
    """The currency that the name of a column, or a line above the table, says: "Amount (USD)"."""
    found = {currency_of(part) for part in re.findall(r"[^\W\d]+\$?|[$€£₫₱₹¥]", name)} - {None}
    return found.pop() if len(found) == 1 else None


@lru_cache(4096)
def _read(digits: str, point: Point) -> Decimal | None:
    whole, has_point, decimals = digits.partition(point)
    if (has_point and not decimals.isdecimal()) or not decimals.isascii():
        return None
    # Threes with one kind of mark between them, or as in India a three behind twos.
    marks = r"[,'\u2019 \u00a0\u202f]" if point == "." else r"[.'\u2019 \u00a0\u202f]"
    threes = rf"(?!0)\d{{1,3}}(?P<mark>{marks})\d{{3}}(?:(?P=mark)\d{{3}})*"
    twos = r"|(?!0)\d{1,2}(?:,\d\d)+,\d{3}" if point == "." else ""
    if re.fullmatch(rf"\d+|{threes}{twos}", whole, re.ASCII) is None:
        return None
    return Decimal(f"{re.sub(r'[^0-9]', '', whole)}{'.' * bool(decimals)}{decimals}")


# ---------------------------------------------------------------------------------------------------------- days

Order = Literal["dmy", "mdy"]
"""What stands first in 05/11/2026: the day, or the month."""


@dataclass(frozen=True, slots=True, order=True)
class Days:
    """Days, from the first to the last."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def __str__(self) -> str:
        if self.first == self.last:
            return str(self.first)
        if self == month(self.first.year, self.first.month):
            return f"{self.first:%Y-%m}"
        return f"{self.first} to {self.last}"

    def meets(self, other: Days) -> bool:
        """Whether they have a day in common."""
        return self.first <= other.last and other.first <= self.last


def month(year: int, number: int) -> Days:
    """All days of a month. Raises ValueError."""
    if not 1 <= number <= 12:
        raise ValueError
    return Days(date(year, number, 1), date(year, number, monthrange(year, number)[1]))


_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januari enero", "february feb februari pebruari pebrero", "march mar maret marso",
            "april apr abril", "may mei mayo", "june jun juni hunyo", "july jul juli hulyo",
            "august aug agustus agu agt ags agosto", "september sep sept septiyembre setyembre",
            "october oct oktober okt oktubre", "november nov nopember nop nobyembre",
            "december dec desember des disyembre",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_ZONE = r"Z|UTC|GMT|WIB|WITA|WIT|[+-]\d\d:?\d\d|[+-]\d\d"
_TIME = (
    r"(?:[T ,]+(?P<hour>\d{1,2})[:.](?P<minute>\d\d)(?:[:.](?P<second>\d\d)(?:[.,]\d+)?)?"
    rf"\s*(?P<half>[AaPp]\.?[Mm]\.?)?\s*(?P<zone>{_ZONE})?)?"
)
_NTH = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?"
_ISO = re.compile(rf"(?P<y>\d{{4}})(?P<sep>[-/.]?)(?P<m>\d\d)(?P=sep)(?P<d>\d\d){_TIME}", re.ASCII)
_SLASHED = re.compile(rf"(?P<a>\d{{1,2}})(?P<sep>[-/.])(?P<b>\d{{1,2}})(?P=sep)(?P<y>\d{{4}}){_TIME}", re.ASCII)
_NAMED = re.compile(rf"(?:[^\W\d]+, *)?{_NTH}[-\s]+(?P<name>[^\W\d]+)\.?,?[-\s]+(?P<y>\d{{4}}){_TIME}")
_NAMED_US = re.compile(rf"(?P<name>[^\W\d]+)\.?\s+{_NTH},\s*(?P<y>\d{{4}}){_TIME}")
_MONTH = re.compile(
    r"(?P<y>\d{4})[-/](?P<m>\d{1,2})|(?P<m2>\d{1,2})[-/](?P<y2>\d{4})|(?P<name>[^\W\d]+)\.?[-\s,]*(?P<y3>\d{4})"
)
_UNIX = re.compile(r"1[5-9]\d{8}(\d{3})?(\.\d+)?")
_ZONES = {"Z": 0, "UTC": 0, "GMT": 0, "WIB": 7, "WITA": 8, "WIT": 9}


@dataclass(frozen=True, slots=True)
class When:
    """The days that a text can mean, by what stands first in it: one and the same, where it tells.

    `has_time` says whether there is a time of day, other than midnight, `has_zone` whether it says whose: then the days
    are those of UTC.
    """

    days: dict[Order, Days]
    has_time: bool = False
    has_zone: bool = False


@lru_cache(65536)
def when(text: str) -> When | None:
    """The day, the moment or the month that `text` is; None if it is none."""
    text = " ".join(text.split())
    try:
        return _moment(text) or _month(text)
    except (ValueError, OverflowError):
        return None


def _moment(text: str) -> When | None:
    if _UNIX.fullmatch(text):
        seconds = int(text.partition(".")[0][:10])
        day = datetime.fromtimestamp(seconds, UTC).date()
        return When({"dmy": Days(day, day), "mdy": Days(day, day)}, has_time=True, has_zone=True)
    if (found := _ISO.fullmatch(text)) is not None:
        ways: dict[Order, tuple[str, str]] = {"dmy": (found["m"], found["d"]), "mdy": (found["m"], found["d"])}
    elif (found := _SLASHED.fullmatch(text)) is not None:
        ways = {"dmy": (found["b"], found["a"]), "mdy": (found["a"], found["b"])}
    elif (found := _NAMED.fullmatch(text) or _NAMED_US.fullmatch(text)) is not None:
        named = _MONTHS.get(found["name"].lower())
        if named is None:
            return None
        ways = {"dmy": (str(named), found["d"]), "mdy": (str(named), found["d"])}
    else:
        return None
    days: dict[Order, Days] = {}
    for order, (number, day_of_month) in ways.items():
        try:
            day = _shifted(date(int(found["y"]), int(number), int(day_of_month)), found)
        except ValueError:
            continue
        days[order] = Days(day, day)
    has_time = any(found[part] and int(found[part]) for part in ("hour", "minute", "second"))
    return When(days, has_time, found["zone"] is not None) if days else None


def _shifted(day: date, found: re.Match[str]) -> date:
    """The day in UTC of a time of day that says its zone; raises ValueError for a time that is none."""
    if found["hour"] is None:
        return day
    hour = int(found["hour"])
    if found["half"]:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + 12 * (found["half"][0] in "Pp")
    at = datetime(day.year, day.month, day.day, hour, int(found["minute"]), int(found["second"] or 0), tzinfo=UTC)
    zone = found["zone"]
    if not zone:
        return day
    if zone in _ZONES:
        return (at - timedelta(hours=_ZONES[zone])).date()
    ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].lstrip(":") or 0))
    return (at - ahead if zone[0] == "+" else at + ahead).date()


def _month(text: str) -> When | None:
    found = _MONTH.fullmatch(text)
    if found is None:
        return None
    if found["name"]:
        named = _MONTHS.get(found["name"].lower())
        span = None if named is None else month(int(found["y3"]), named)
    else:
        span = month(int(found["y"] or found["y2"]), int(found["m"] or found["m2"]))
    return None if span is None else When({"dmy": span, "mdy": span})


_PERIOD = re.compile(r"\b(periode?|billing cycle|masa|usage from|bulan|month|kỳ|tháng)\b", re.IGNORECASE)
_ANY_DAY = re.compile(
    r"\d{4}[-/.]\d\d[-/.]\d\d|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"
    r"|\d{1,2}[-\s]+[^\W\d]{3,}\.?,?[-\s]+\d{4}|[^\W\d]{3,}\.?\s+\d{1,2},\s*\d{4}"
)
_ANY_MONTH = re.compile(r"\b\d{4}[-/]\d{1,2}\b|\b\d{1,2}[-/]\d{4}\b|\b[^\W\d]{3,}\.?[-\s,]+\d{4}\b")


def period_in(line: str) -> list[When]:
    """The first and the last day, or the month, of the period that a line above the table says, if it says one."""
    if _PERIOD.search(line) is None:
        return []
    days = [day for part in _ANY_DAY.findall(line) if (day := when(part)) is not None]
    if len(days) == 2:
        return days
    months = [] if days else [found for part in _ANY_MONTH.findall(line) if (found := when(part)) is not None]
    return months if 1 <= len(months) <= 2 else []


def period_of(text: str) -> Days | None:
    """A period as people give it: 2026-11, 2026-11-01..2026-11-15; None if it is none."""
    ends = [when(part) for part in text.split("..")]
    spans = [span for end in ends if end is not None for span in {*end.days.values()}]
    if len(ends) > 2 or len(spans) != len(ends) or spans[-1].last < spans[0].first:
        return None
    return Days(spans[0].first, spans[-1].last)
