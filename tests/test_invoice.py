"""Invoices as vendors send them: whatever kind one is of, it is read right or refused, and never wrong."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aisolution_async.api import CALLS
from aisolution_async.bulk.invoice import Days, Hints, Invoice, compare, read, understand
from aisolution_async.bulk.invoice.words import Point, period_of, role_of, service_of, when, written
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger import Sum

from .support import examples

NOVEMBER = Days(date(2026, 11, 1), date(2026, 11, 30))


def rows_of(text: str, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    return [*enumerate(csv.reader(io.StringIO(text), delimiter=delimiter), 1)]


def of(text: str, delimiter: str = ",", **hints: Any) -> Invoice:
    rows = rows_of(text, delimiter)
    return understand(lambda: rows, "i.csv", Hints(**hints))


def charges(invoice: Invoice) -> dict[tuple[str, str], int]:
    return {(str(span), name): count for (span, name), count in invoice.charges.items() if count}


def refused(text: str, **hints: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        of(text, **hints)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (
            "WhatsApp Detail Detection|WHATSAPP-DETAIL|Cek WhatsApp|WA check|v1/gliswadetail|GlisWaDetail",
            "gliswadetail",
        ),
        ("https://api.aisolution.credit/v1/gliswadetail?token=x|whatsapp_detail()|WhatsappDetail|wa", "gliswadetail"),
        ("Face Comparison|FaceCompare|face_compare v2|FACE MATCH|POST /v1/facecompare|face-compare", "facecompare"),
        ("Hand-held ID Card Comparison|Handheld ID|ID Holding|idholding|id-holding|Selfie with ID Card", "idholding"),
        ("Face Search|search the same face|Search Face|searchface", "searchface"),
        ("add face image|AddFace|Face registration", "addface"),
        ("delete face|face deletion|delface", "delface"),
    ],
)
def test_services_in_any_spelling(spellings: str, name: str) -> None:
    assert {text: service_of(text) for text in spellings.split("|")} == dict.fromkeys(spellings.split("|"), name)


@pytest.mark.parametrize("text", ["", "shipping", "Face", "Swamp", "Platform fee", "Wallet", "compare prices"])
def test_what_is_none_of_the_services(text: str) -> None:
    assert service_of(text) is None


@given(st.sampled_from([call.endpoint for call in CALLS]), st.data())
def test_a_spelling_with_anything_between_its_words(endpoint: Any, data: st.DataObject) -> None:
    between = data.draw(st.sampled_from([" ", "_", "-", ".", "  "]))
    change = data.draw(st.sampled_from([str.lower, str.upper, str.title]))
    after = data.draw(st.sampled_from(["", " API", " (per call)", " v1"]))
    assert service_of(change(endpoint.command).replace("-", between) + after) == endpoint.name


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("7,04", {",": "7.04"}),
        ("7.04", {".": "7.04"}),
        ("1.234", {".": "1.234", ",": "1234"}),
        ("0,020", {",": "0.020"}),
        ("1.234.567,89", {",": "1234567.89"}),
        ("1,23,456.78", {".": "123456.78"}),
        ("1 234,5", {",": "1234.5"}),
        ("1'234.50", {".": "1234.50"}),
        ("Rp 7.040,-", {".": "7.040", ",": "7040"}),
        ("US$ 7.04", {".": "7.04"}),
        ("(7.04)", {".": "-7.04"}),
        ("-7", {".": "-7", ",": "-7"}),
        ("7.04-", {".": "-7.04"}),
        ("₫70.400", {".": "70.400", ",": "70400"}),
    ],
)
def test_numbers(text: str, values: dict[Point, str]) -> None:
    found = written(text)
    assert found is not None
    assert {point: found.value(point) for point in found.points()} == {k: Decimal(v) for k, v in values.items()}


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1,23,4", "+62813 0000 0001", "--1", "1-2", "12:30", "352 calls", "1_000"]
)
def test_what_is_no_number(text: str) -> None:
    found = written(text)
    assert found is None or not found.points()


@given(
    st.decimals(0, 10**12, places=2), st.sampled_from([".", ","]), st.sampled_from(["", ".", ",", " ", "'", "\u00a0"])
)
def test_a_number_is_what_was_written(value: Decimal, point: Point, between: str) -> None:
    text = f"{value:,.2f}".translate({ord(","): between, ord("."): point})
    found = written(text)
    if between == point:
        assert found is None or found.value(point) in (None, value)
        return
    assert found is not None
    assert found.value(point) == value
    assert found.points() == {point}


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("2026-11-23", "2026-11-23"),
        ("2026/11/23 10:00", "2026-11-23"),
        ("20261123T10:00", "2026-11-23"),
        ("23/11/2026 19:14:15", "2026-11-23"),
        ("11/23/2026", "2026-11-23"),
        ("23.11.2026", "2026-11-23"),
        ("23 Nov 2026", "2026-11-23"),
        ("23-Nov-2026 07:00 PM", "2026-11-23"),
        ("November 23, 2026", "2026-11-23"),
        ("23 Desember 2026", "2026-12-23"),
        ("2026-11-23T23:30:00-01:00", "2026-11-24"),
        ("2026-11-23 00:30:00+07:00", "2026-11-22"),
        ("2026-11-23 00:30 WIB", "2026-11-22"),
        ("2026-11-23T00:30:00.123Z", "2026-11-23"),
        ("1795434855", "2026-11-23"),
        ("2026-11", "2026-11"),
        ("11/2026", "2026-11"),
        ("Nov 2026", "2026-11"),
        ("Agustus 2026", "2026-08"),
    ],
)
def test_days(text: str, days: str) -> None:
    found = when(text)
    assert found is not None
    assert {str(span) for span in found.days.values()} == {days}


@pytest.mark.parametrize(
    "text",
    ["", "2026-13-01", "2026-02-30", "25/11/26", "Nov-26", "45987", "31/31/2026", "Foo 2026", "2026-11-23 25:00", "7"],
)
def test_what_is_no_day(text: str) -> None:
    assert when(text) is None


def test_periods_as_people_give_them() -> None:
    assert period_of("2026-11") == NOVEMBER
    assert period_of("2026-11-01..2026-11-30") == NOVEMBER
    for text in ("", "x", "2026-11-30..2026-11-01", "2026-11..", "05/11/2026", "2026-11..2026-12..2027-01"):
        assert period_of(text) is None


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("count", "Count|Qty|Total Calls|No. of requests|Number of hits|charges|Kuantitas|Usage (calls)|Volume"),
        ("price", "Unit Price (USD)|Price|Rate|Harga Satuan|Fee per call|Unit cost"),
        ("amount", "Amount (USD)|Subtotal|Fee|Cost|Biaya|Total Amount|Harga Total"),
        ("either", "Jumlah|Total|Charge|Charged?|Billed"),
        ("day", "Date|request_time|Timestamp|Tanggal|Month|Billing period|createdDate"),
        ("status", "Status|Result|Hasil"),
        ("service", "Service|Endpoint|API|Description|Layanan|Produk"),
        ("request", "number|Request ID|msisdn|Nomor HP"),
    ],
)
def test_names_of_columns(role: str, names: str) -> None:
    assert {name: role_of(name) for name in names.split("|")} == dict.fromkeys(names.split("|"), role)


# --------------------------------------------------------------------------------------------------- by their kinds

LOG = "request_time,api,number,status,fee\n25/11/2026 19:14:15,/v1/gliswadetail,+6281200000001,OK,0.02\n"


@pytest.mark.parametrize(
    ("text", "delimiter", "found"),
    [
        (
            "Date,Service,Status,Count,Unit Price (USD),Amount (USD)\n2026-11-25,WhatsApp Detail,OK,352,0.02,7.04\n"
            "2026-11-25,WhatsApp Detail,FAIL,9,0.02,0\n2026-11-25,WhatsApp Detail,RETRY_LATER,3,,\n",
            ",",
            {("2026-11-25", "gliswadetail"): 352},
        ),
        (
            "INVOICE No. INV-2026-11-0042;;;\nPeriod: 01/11/2026 - 30/11/2026;;;\n;;;\nNo;Description;Qty;Amount\n"
            "1;gliswadetail;352;7,04\n;TOTAL;352;7,04\n\nBank: BCA 1234567;;;\n",
            ";",
            {("2026-11", "gliswadetail"): 352},
        ),
        (LOG, ",", {("2026-11-25", "gliswadetail"): 1}),
        ("endpoint,charges\ngliswadetail,352\n", ",", {("None", "gliswadetail"): 352}),
        (
            "Layanan;Jumlah;Harga Satuan;Total\nCek WhatsApp;352;Rp 200;Rp 70.400\nFace Comparison;1.000;Rp 500;"
            "Rp 500.000\nSubtotal;1.352;;570.400\nPPN 11%;;;62.744\nGrand Total;;;633.144\n",
            ";",
            {("None", "gliswadetail"): 352, ("None", "facecompare"): 1000},
        ),
        (
            "Billing period,November 2026\nProduct,Calls,Charged\nFace Comparison,1000,990\nFace Search,5,5\n"
            "Total,1005,995\n",
            ",",
            {("2026-11", "facecompare"): 990, ("2026-11", "searchface"): 5},
        ),
        (
            "From,To,Service,Usage\n1 Nov 2026,15 Nov 2026,face_compare,12\n16 Nov 2026,30 Nov 2026,face_compare,13\n",
            ",",
            {("2026-11-01 to 2026-11-15", "facecompare"): 12, ("2026-11-16 to 2026-11-30", "facecompare"): 13},
        ),
        (
            "timestamp,endpoint,status\n2026-11-25T19:14:15Z,/v1/gliswadetail,OK\n2026-11-25T19:14:15Z,gliswadetail,FAIL\n"
            "2026-11-25T23:14:15-07:00,facecompare,OK\n",
            ",",
            {("2026-11-25", "gliswadetail"): 1, ("2026-11-26", "facecompare"): 1},
        ),
        ("Service,Requests,Charged?\nWhatsApp,400,yes\nWhatsApp,3,no\n", ",", {("None", "gliswadetail"): 400}),
        ("Service,Qty,Amount\nWhatsApp,352,7.04\nWhatsApp credit,2,-0.04\n", ",", {("None", "gliswadetail"): 350}),
        (
            "endpoint,qty\ngliswadetail,1\nendpoint,qty\nfacecompare,2\n",
            ",",
            {("None", "gliswadetail"): 1, ("None", "facecompare"): 2},
        ),
        (
            "Service,Qty,Currency,Amount\nWhatsApp,352,USD,7.04\nFace compare,3,IDR,1500\n",
            ",",
            {("None", "gliswadetail"): 352, ("None", "facecompare"): 3},
        ),
    ],
)
def test_kinds_of_invoices(text: str, delimiter: str, found: dict[tuple[str, str], int], tmp_path: Path) -> None:
    assert charges(of(text, delimiter)) == found
    (tmp_path / "i.csv").write_text(text)
    assert charges(read(tmp_path / "i.csv", Hints())) == found


def test_how_it_was_read_is_said() -> None:
    about = "\n".join(of(LOG).about)
    for words in (
        "days from 'request_time'",
        "each row is one request",
        "behind a point",
        "the day stands before",
        "UTC",
    ):
        assert words in about
    about = "\n".join(of("Service,Amount\nWhatsApp,7.04\n", prices={"gliswadetail": Decimal("0.02")}).about)
    assert "charges: 352 in 1 row, for 7.04" in about
    assert "divided by the price" in about


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "Service,Amount\nWhatsApp,7.04\n",
            "line 2 of 'i.csv': it has an amount of 'gliswadetail' and no count: say what a ch",
        ),
        (
            "Service,Qty\nWhatsApp,1.000\n",
            "line 2 of 'i.csv': '1.000' can be 1.000 or 1000: say what stands before decimals",
        ),
        (
            "Date,Service,Qty\n05/11/2026,WhatsApp,7\n",
            "line 2 of 'i.csv': '05/11/2026' can be 2026-11-05 or 2026-05-11: say",
        ),
        (
            'Service,Amount,Qty\nWA,"7,04",2\nWA,7.04,2\n',
            "line 3 of 'i.csv': '7.04' has decimals behind a point, and '7,04' in l",
        ),
        (
            "Date,Service,Qty\n13/11/2026,WA,7\n11/13/2026,WA,7\n",
            "line 2 of 'i.csv': in '13/11/2026' the day stands before",
        ),
        (
            "Service,Qty\nWhatsApp,352\nTotal,353\n",
            "line 3 of 'i.csv': it says a total of 353, and the rows above it come to 352",
        ),
        (
            "Service,Qty,Price,Amount\nWA,352,0.02,8.04\n",
            "line 2 of 'i.csv': 352 at 0.02 is 7.04, and its amount is 8.04: ask",
        ),
        (
            "Month,Service,Qty\n2026-11,WA,5\n2026-11-03,WA,6\n",
            "line 3 of 'i.csv': 2026-11-03 of 'gliswadetail' is within 2026-",
        ),
        ("Service,Qty\nWhatsApp,352\n,5\n", "line 3 of 'i.csv': it names no service in 'Service'"),
        ("Service,Qty\nWhatsApp,352\nFace Search,\n", "line 3 of 'i.csv': it has no count and no amount"),
        ("Service,Qty\nWA,1\n\nService,Amount\nWA,7.04\n", "line 4 of 'i.csv': 'Amount' is no count of charges"),
        (
            "time,api,status\n2026-11-25T19:14:15Z,WA,WEIRD\n",
            "line 2 of 'i.csv': nobody knows whether 'WEIRD' is charged",
        ),
        (
            "Invoice ID,Service,Amount\nX1,WA,7.04\n",
            "line 2 of 'i.csv': nobody knows whether 7.04 of 'gliswadetail' is one requ",
        ),
        (
            LOG + "25/11/2026 19:14:16,gliswadetail,+62,OK,7.04\n",
            "line 3 of 'i.csv': 'gliswadetail' is 7.04 there, and 0.02 in",
        ),
        ("Service,Jumlah\nWA,70400\n", "'i.csv': column 'Jumlah' may hold counts or amounts: say --count or --amount"),
        ("Date,WhatsApp Detail,Face Comparison\n2026-11-01,4,5\n", "'i.csv' has no column 'charged' for the invoice"),
        ("Qty,Price\n1,2\n", "'i.csv' has no column 'endpoint' for the invoice"),
        ("", "'i.csv' is empty"),
        (
            "Period: 2026-10\nPeriod: 2026-11\nService,Qty\nWA,1\n",
            "'i.csv' names several periods: 2026-10, 2026-11: say which",
        ),
    ],
)
def test_what_is_not_sure_is_refused(text: str, problem: str) -> None:
    assert refused(text).startswith(problem)


def test_no_secret_of_a_url_is_shown() -> None:
    found = of("path,calls\n/v2/unknown?token=SECRET,3\n/v1/gliswadetail?token=SECRET,4\n")
    assert charges(found) == {("None", "/v2/unknown"): 3, ("None", "gliswadetail"): 4}
    assert "SECRET" not in " ".join(found.about)


def test_what_a_person_says_of_it() -> None:
    assert charges(of("Service,Qty\nWA,1.000\n", decimal=",")) == {("None", "gliswadetail"): 1000}
    assert charges(of("Date,Service,Qty\n05/11/2026,WA,7\n", dates="mdy")) == {("2026-05-11", "gliswadetail"): 7}
    assert charges(of("Service,Jumlah\nWA,352\n", count="Jumlah")) == {("None", "gliswadetail"): 352}
    assert charges(of("Date,Qty\n2026-11-01,4\n", endpoint="WhatsAppDetail")) == {("2026-11-01", "gliswadetail"): 4}
    assert charges(of("Service,Qty\nWA,4\n", period=NOVEMBER)) == {("2026-11", "gliswadetail"): 4}
    prices = {"gliswadetail": Decimal("0.02")}
    assert charges(of("Service,Amount\nWA,7.04\n", ledger_prices=prices)) == {("None", "gliswadetail"): 352}
    assert "no multiple of the price" in refused("Service,Amount\nWA,7.05\n", prices=prices)
    assert "--count" in refused("Service,Qty\nWA,1\n", count="calls")


# ------------------------------------------------------------------------------------------------------- generated


@dataclass(frozen=True)
class Style:
    """How a vendor writes."""

    kind: str
    point: str
    between: str
    day: str
    delimiter: str
    above: bool
    total: bool
    currency: str
    names: dict[str, str]
    workbook: bool


NAMES = {
    "day": ["Date", "Tanggal", "request_date", "DAY"],
    "service": ["Service", "endpoint", "Layanan", "Description", "API"],
    "count": ["Qty", "Count", "charges", "Jumlah Panggilan", "No. of calls"],
    "price": ["Unit Price", "Harga Satuan", "Rate (USD)"],
    "amount": ["Amount", "Subtotal", "Total Amount (USD)", "Biaya"],
}
SPELLINGS = {
    "gliswadetail": ["gliswadetail", "WhatsApp Detail", "WHATSAPP DETAIL DETECTION", "/v1/gliswadetail"],
    "facecompare": ["Face Comparison", "face-compare", "facecompare"],
    "idholding": ["Hand-held ID Card Comparison", "ID_HOLDING"],
}
STYLES = st.builds(
    Style,
    kind=st.sampled_from(["counts", "priced", "amounts", "log", "months"]),
    point=st.sampled_from([".", ","]),
    between=st.sampled_from(["", "thousands"]),
    day=st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d %b %Y", "%d.%m.%Y"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    above=st.booleans(),
    total=st.booleans(),
    currency=st.sampled_from(["", "USD ", "$"]),
    names=st.fixed_dictionaries({role: st.sampled_from(names) for role, names in NAMES.items()}),
    workbook=st.booleans(),
)
LINES = st.lists(
    st.tuples(st.sampled_from(sorted(SPELLINGS)), st.integers(0, 27), st.integers(1, 20_000), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)
PRICE = Decimal("0.02")


def number(value: Decimal | int, style: Style) -> str:
    text = f"{value:,}" if style.between else str(value)
    return text.translate({ord(","): {".": ",", ",": "."}[style.point], ord("."): style.point})


def table(lines: list[tuple[str, int, int, int]], style: Style) -> tuple[list[list[Any]], Counter[tuple[str, str]]]:
    """The rows of an invoice, and what it charges."""
    names, truth = style.names, Counter[tuple[str, str]]()
    columns = {
        "counts": ["day", "service", "count"],
        "priced": ["day", "service", "count", "price", "amount"],
        "amounts": ["day", "service", "amount"],
        "log": ["day", "service", "amount"],
        "months": ["service", "count", "amount"],
    }[style.kind]
    rows: list[list[Any]] = []
    if style.above or style.kind == "months":
        rows += [["INVOICE INV-0042"], ["Period: 2026-11-01 - 2026-11-30"], []]
    rows.append([names[column] for column in columns])
    counts, amounts = 0, Decimal(0)
    for name, ahead, count, spelling in lines:
        day = date(2026, 11, 1) + timedelta(days=ahead)
        spelled = SPELLINGS[name][spelling % len(SPELLINGS[name])]
        times = min(count, 5) if style.kind == "log" else 1
        each = 1 if style.kind == "log" else count
        for second in range(times):
            written_day = day.strftime(style.day) + (f" 10:00:{second + 1:02}" if style.kind == "log" else "")
            values = {
                "day": written_day,
                "service": spelled,
                "count": number(each, style),
                "price": style.currency + number(PRICE, style),
                "amount": style.currency + number(each * PRICE, style),
            }
            rows.append([values[column] for column in columns])
            counts, amounts = counts + each, amounts + each * PRICE
        when_ = "2026-11" if style.kind == "months" else str(day)
        truth[when_, name] += times * each
    if style.total:
        totals = {"service": "TOTAL", "count": number(counts, style), "amount": style.currency + number(amounts, style)}
        rows.append([totals.get(column, "") for column in columns])
    return rows, truth


def write(path: Path, rows: list[list[Any]], style: Style) -> None:
    if not style.workbook:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=style.delimiter).writerows(rows)
        return
    with xlsxwriter.Workbook(str(path), {"strings_to_numbers": False}) as book:
        book.add_worksheet("Cover").write(0, 0, "Thank you for your business")
        sheet = book.add_worksheet("Usage")
        for at, row in enumerate(rows):
            sheet.write_row(at, 0, row)


@settings(max_examples=examples(150), deadline=None)
@given(LINES, STYLES)
@example(
    [("gliswadetail", 4, 1000, 0)],
    Style("counts", ",", "x", "%d/%m/%Y", ";", False, False, "", {r: n[0] for r, n in NAMES.items()}, False),
)
def test_a_generated_invoice_is_read_right_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, int, int, int]], style: Style
) -> None:
    rows, truth = table(lines, style)
    path = tmp_path_factory.mktemp("i") / ("i.xlsx" if style.workbook else "i.csv")
    write(path, rows, style)
    point: Any = style.point
    order: Any = "mdy" if style.day.startswith("%m") else "dmy"
    said: dict[str, Any] = {"prices": dict.fromkeys(SPELLINGS, PRICE) if style.kind == "amounts" else {}}
    try:
        found = read(path, Hints(**said))
    except ConfigurationError as exc:
        # It names the option that says which; with that, nothing is left to refuse.
        assert "--decimal" in str(exc) or "--dates" in str(exc), exc
        found = read(path, Hints(**said, decimal=point, dates=order))
    assert charges(found) == dict(truth)
    assert found.about


@settings(max_examples=examples(100), deadline=None)
@given(LINES, STYLES, st.data())
def test_a_total_that_is_not_that_of_the_rows_is_refused(
    lines: list[tuple[str, int, int, int]], style: Style, data: st.DataObject
) -> None:
    rows, _ = table(lines, style)
    at = data.draw(st.sampled_from([n for n, row in enumerate(rows) if len(row) > 2 and row[-1][-1:].isdigit()]))
    extra = rows[at]
    total = {len(rows[-1]) - 1: "987654,01" if style.point == "," else "987654.01"}
    rows.append([total.get(place, "TOTAL" if place == 0 else "") for place in range(len(extra))])
    numbered = [*enumerate(rows, 1)]
    prices = dict.fromkeys(SPELLINGS, PRICE)
    order: Any = "mdy" if style.day.startswith("%m") else "dmy"
    point: Any = style.point
    with pytest.raises(ConfigurationError, match=r"total of 987654.01|is no count"):
        understand(lambda: numbered, "i", Hints(prices=prices, dates=order, decimal=point))


ANY_CELL = st.one_of(
    st.none(),
    st.integers(-5, 5000),
    st.floats(-10, 1e6, allow_nan=False),
    st.dates(),
    st.datetimes(),
    st.text(max_size=8),
    st.sampled_from(
        ["gliswadetail", "TOTAL", "Qty", "Service", "7,04", "1.234", "OK", "FAIL", "05/11/2026", "2026-11", "(3)"]
    ),
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.lists(ANY_CELL, max_size=5), max_size=8), st.booleans())
def test_whatever_a_table_holds_is_read_or_refused(rows: list[list[Any]], has_names: bool) -> None:
    head: list[Any] = ["Date", "Service", "Qty", "Amount", "Status"]
    numbered = [*enumerate([head, *rows] if has_names else rows, 1)]
    try:
        found = understand(lambda: numbered, "i", Hints())
    except ConfigurationError:
        return
    assert all(isinstance(count, int) for count in found.charges.values())


# ----------------------------------------------------------------------------------------------------------- files


def book_of(path: Path, **sheets: list[list[Any]]) -> Path:
    with xlsxwriter.Workbook(str(path), {"default_date_format": "yyyy-mm-dd"}) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for at, row in enumerate(rows):
                sheet.write_row(at, 0, row)
    return path


def test_workbooks(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["ACME Pte Ltd"],
        ["Period", "November 2026"],
        [],
        [None, "Month", "Service", "Qty", "Amount (USD)"],
        [None, date(2026, 11, 1), "WhatsApp Detail", 352, 7.04],
        [None, date(2026, 11, 1), "Face Comparison", 1000.0, 50],
        [None, None, "Total", 1352, 57.04],
        [None, "Thank you"],
    ]
    path = book_of(tmp_path / "i.xlsx", Cover=[["Thank you"]], Usage=rows)
    wanted = {("2026-11", "gliswadetail"): 352, ("2026-11", "facecompare"): 1000}
    assert charges(read(path, Hints())) == wanted
    assert "row 4 names its columns" in read(path, Hints()).about[0]
    assert charges(read(path.rename(tmp_path / "i.csv"), Hints())) == wanted  # its content says what it is
    path = book_of(tmp_path / "two.xlsx", A=rows, B=rows)
    with pytest.raises(ConfigurationError, match=r"several sheets that can be the invoice: 'A', 'B': say --sheet"):
        read(path, Hints())
    assert charges(read(path, Hints(), "b")) == wanted
    with pytest.raises(ConfigurationError, match=r"no sheet 'C': its sheets are 'A', 'B'"):
        read(path, Hints(), "C")
    moment: list[list[Any]] = [
        ["Time", "Service", "Fee"],
        [datetime(2026, 11, 25, 19, 14, tzinfo=UTC).replace(tzinfo=None), "WA", 0.02],
    ]
    assert charges(read(book_of(tmp_path / "log.xlsx", Log=moment), Hints())) == {("2026-11-25", "gliswadetail"): 1}


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("i.pdf", b"%PDF-1.7 ...", "is a PDF"),
        ("i.xls", b"<html><table>", "is a web page or XML: open it in Excel"),
        ("i.xlsx", b"PK\x03\x04 and no more", "is no workbook that can be read"),
        ("i.csv", b'Service,Qty\nWA,"352\nFace Search,1\n', "line 2 of .* cannot be read: .* quote left open there"),
    ],
)
def test_files_that_are_no_invoice(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=problem):
        read(tmp_path / name, Hints())
    if not name.endswith("xlsx"):
        with pytest.raises(ConfigurationError, match="--sheet is for workbooks"):
            read(tmp_path / name, Hints(), "A")


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("Service,Qty,Amount\nWA,352,7.04\n,Total,7.04\n", ","),
        ("Service;Price;Qty;Amount\nWA;0,02;352;7,04\n;;Total;7,04\n;Grand total;;7,04\n", ";"),
        ("Service;Qty;Price;Amount\nWA;352;Rp 2.000;Rp 704.000\n;352;Total;Rp 704.000\n", ";"),
        ("Month,Service,Price,Qty\nNov 2026,WA,0.02,352\n,,Total:,352\n", ","),
    ],
)
def test_the_word_total_stands_in_a_column_of_numbers(text: str, delimiter: str) -> None:
    found = of(text, delimiter)
    assert [*found.charges.values()] == [352]
    assert any("totals, which agree" in line for line in found.about)
    with pytest.raises(ConfigurationError, match="says a total of"):
        of(text.replace("7.04\n,Total,7", "7.04\n,Total,8").replace("704.000\n;352", "704.000\n;351")
           .replace("l;7,04\n;", "l;8,04\n;").replace("Total:,352", "Total:,351"), delimiter)  # fmt: skip


# -------------------------------------------------------------------------------------------------- the comparison


def test_a_service_that_is_not_known_is_said_beside_the_difference() -> None:
    found = compare(of("Service,Qty\nWA,2\nLiveness,10\n"), [{(date(2026, 11, 1), "gliswadetail"): Sum(charged=2)}])
    assert {name: line.verdict for (_, name), line in found.lines.items()} == {
        "gliswadetail": "agrees",
        "Liveness": "they charge 10 of a service that is not known by this name",
    }
    about = of("Service,Qty\nWA,2\nLiveness,10\n").about
    assert "of no known service: 'Liveness': write there what is meant, as whatsapp-detail" in about


def test_months_days_and_all_there_is_are_compared() -> None:
    ledger: dict[tuple[object, ...], Sum] = {
        (date(2026, 10, 31), "gliswadetail"): Sum(charged=7),
        (date(2026, 11, 1), "gliswadetail"): Sum(charged=100, unknown=2),
        (date(2026, 11, 30), "gliswadetail"): Sum(charged=250),
        (date(2026, 11, 2), "facecompare"): Sum(charged=4),
        (date(2026, 11, 3), "addface"): Sum(unknown=5),
    }

    def lines(text: str) -> dict[tuple[str, str], tuple[int, int, int]]:
        found = compare(of(text), [ledger]).lines
        return {(str(span), name): (x.ours, x.unknown, x.theirs) for (span, name), x in found.items()}

    assert lines("Month,Service,Qty\nNov 2026,WA,352\n") == {
        ("2026-11", "gliswadetail"): (350, 2, 352),
        ("2026-11", "facecompare"): (4, 0, 0),
    }
    assert lines("Service,Qty\nWA,352\n") == {
        ("None", "gliswadetail"): (357, 2, 352),
        ("None", "facecompare"): (4, 0, 0),
    }
    assert lines("Date,Service,Qty\n2026-11-01,WA,102\n2026-11-30,WA,250\n2026-11-30,face compare,4\n") == {
        ("2026-11-01", "gliswadetail"): (100, 2, 102),
        ("2026-11-02", "facecompare"): (4, 0, 0),
        ("2026-11-30", "gliswadetail"): (250, 0, 250),
        ("2026-11-30", "facecompare"): (0, 0, 4),
    }
    found = compare(of("Month,Service,Qty\nNov 2026,WA,352\nNov 2026,face compare,4\n"), [ledger])
    assert (found.explained, found.comes_out_even, found.outside) == (True, True, 7)
