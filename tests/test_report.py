"""The report of a ledger: its figures, its file, and how a browser shows it."""

from __future__ import annotations

import asyncio
import base64
import csv
import errno
import fcntl
import html
import json
import os
import random
import re
import select
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import openpyxl
import pyarrow.parquet
import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aisolution_async import FaceCompare, WhatsAppDetail
from aisolution_async.bulk.report import (
    ReportOptions,
    buckets,
    counting,
    figures,
    make_report,
    thumbnails,
    write_report,
)
from aisolution_async.bulk.report.figures import Figures
from aisolution_async.bulk.report.html import tag
from aisolution_async.bulk.results import bare
from aisolution_async.bulk.words import CAUSES
from aisolution_async.charges import Attempt, Charge
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger import Ledger, LedgerError
from aisolution_async.ledger.store import Ask, Result, Started
from aisolution_async.ledger.urls import Server
from aisolution_async.outcome import result_columns

from .commands import run
from .ledgers import ledger_at
from .pictures import portrait
from .sheets import bulk
from .support import LAST_RESORT, Vendor, says

DAY = datetime(2026, 10, 5, 8, tzinfo=UTC)
NOW = datetime(2026, 12, 1, 9, 30, tzinfo=UTC)
YES = {"whatsapp": "yes"}
SAME = {"similarity": 97.5, "result": "SAME PERSON"}
PRICES = {
    "facecompare": Decimal("0.04"),
    "idholding": Decimal("0.05"),
    "searchface": Decimal("0.03"),
    "gliswadetail": Decimal("0.02"),
}
HINT = "the vendor asks to try again later"
LOST = "no answer within 30.0 s"


@dataclass(frozen=True)
class Made:
    """An attempt to be put into a ledger."""

    endpoint: str
    what: str
    attempt: Attempt
    key: str | int | None = None
    sent: bool = True
    reply: dict[str, Any] | None = None
    answer: bool = False


def made(
    endpoint: str,
    what: str,
    when: datetime,
    took: float,
    status: str | None = None,
    *,
    charge: Charge = Charge.FREE,
    http: int | None = 200,
    error: str | None = None,
    number: int = 1,
    **rest: Any,
) -> Made:
    code = http if status is not None or http != 200 else None
    attempt = Attempt(charge, status, code, when, took, error, True, number)
    return Made(endpoint, what, attempt, **{"key": what, **rest})


def reply_of(endpoint: str, rng: random.Random) -> dict[str, Any]:
    """What the vendor might answer."""
    if endpoint in ("facecompare", "idholding"):
        same = rng.random() < 0.78
        alike = min(99.99, rng.gauss(91, 5)) if same else max(0.0, min(88.0, rng.gauss(33, 14)))
        judgment = "SAME PERSON" if alike > 78 else "NOT SURE" if alike > 62 else "NOT SAME PERSON"
        return {"similarity": round(alike, 3), "result": judgment}
    if endpoint == "addface":
        return {"person_id": f"p{rng.randrange(10**9)}", "person_count": 1}
    if endpoint == "searchface":
        found = [
            {"confidence": round(rng.triangular(55, 100, 96), 2), "person_id": "p1"} for _ in range(rng.randrange(3))
        ]
        return {"matches": found}
    if endpoint == "delface":
        return {}
    state = rng.choices(("yes", "no", "unavailable"), (70, 26, 4))[0]
    number = f"+62813{rng.randrange(10**8):08}"
    if state != "yes":
        return {"number": number, "whatsapp": state}
    return {
        "number": number,
        "whatsapp": "yes",
        "status_update": "20180825",
        "signature": "<script>alert(1)</script>",
        "business_user": rng.choices(("yes", "no"), (1, 9))[0],
        "avatar": rng.choices(("yes", "no"), (7, 3))[0],
    }


def weeks_of_work(count: int, *, days: int = 9, seed: int = 7) -> Iterator[Made]:
    """About `count` attempts on mixed endpoints, as a service and its vendor might bring them about: with busy
    hours, an hour in which the vendor was away, photos without faces, lost answers. The same for the same seed."""
    rng = random.Random(seed)
    names = ["facecompare", "idholding", "addface", "searchface", "delface", "gliswadetail"]
    weights = [30, 14, 6, 8, 2, 40]
    slow = {
        "facecompare": 0.9,
        "idholding": 1.1,
        "addface": 0.6,
        "searchface": 0.8,
        "delface": 0.15,
        "gliswadetail": 0.35,
    }
    number = 0
    while number < count:
        day = number * days // count
        share = number * days % count / count
        # A run in the morning and a shorter one in the afternoon.
        hours = share * 3.1 if share < 0.7 else 6 + (share - 0.7) * 4.2
        when = DAY + timedelta(days=day, hours=hours)
        what = f"A-{number:07}"
        endpoint = rng.choices(names, weights)[0]
        away, busy = day == 3 and 1.3 < hours < 1.8, rng.random() < (0.25 if day == 5 and hours < 1 else 0.02)
        for attempt in range(1, 6):
            number += 1
            took = slow[endpoint] * rng.lognormvariate(0, 0.45) * (1.8 if day == 5 else 1)
            at = when + timedelta(seconds=attempt * 2)
            luck = rng.random()
            call = (endpoint, what, at)
            if away:
                error = "no connection ([Errno 111] Connection refused)"
                yield made(*call, 0.02, error=error, number=attempt, sent=False)
                continue
            if busy and attempt < 4:
                yield made(*call, took / 4, "RETRY_LATER", error=f"RETRY_LATER: {HINT}", number=attempt)
                continue
            if luck < 0.03 and endpoint not in ("gliswadetail", "delface"):
                status = {"facecompare": "RETRY_LATER", "idholding": "INVALID_FACE_NUM"}.get(
                    endpoint, "FACE_DETECT_FAILED"
                )
                error = f"{status} (IMAGEB_FACE_DETECT_FAILED): no face was found on the photo; use another one"
                yield made(*call, took, status, error=error, number=attempt)
            elif luck < 0.05 and endpoint == "gliswadetail":
                yield made(*call, took, "INVALID_INPUT", error="INVALID_INPUT: check the number", number=attempt)
            elif luck < 0.052:
                yield made(*call, 30.0, charge=Charge.UNKNOWN, error=LOST, number=attempt)
            elif luck < 0.053:
                error = "HTTP 502 with no answer in it that can be read; it may have been charged"
                yield made(*call, took, charge=Charge.UNKNOWN, http=502, error=error, number=attempt)
            elif luck < 0.12 and endpoint == "gliswadetail" and attempt < 3:
                checking = {"number": "+6281300000000", "whatsapp": "checking"}
                yield made(*call, took, "OK", number=attempt, reply=checking)
                continue
            else:
                reply = reply_of(endpoint, rng)
                paid = endpoint in PRICES and reply.get("whatsapp") != "unavailable"
                charge = Charge.CHARGED if paid else Charge.FREE
                final = reply.get("whatsapp") != "unavailable"
                yield made(*call, took, "OK", charge=charge, number=attempt, reply=reply, answer=final)
            break


async def fill(place: Path | str, attempts: Iterator[Made] | list[Made], *, prices: Any = PRICES) -> None:
    """Put attempts into a ledger."""
    async with ledger_at(place, prices=prices, synchronous="off") as ledger:
        for each in attempts:
            identity = ledger.identity(each.endpoint, [("what", each.what)])
            charges = each.endpoint in PRICES
            ask = Ask(each.endpoint, identity, each.key, charges, reuse_for=0, retry_unknown=1, within=60.0)
            started = await ledger.begin(ask)
            assert isinstance(started, Started)
            reply = None if each.reply is None else json.dumps(each.reply).encode()
            await ledger.end(started, Result(each.attempt, each.sent, reply, each.answer))


def figures_of(path: Path) -> Figures:
    return counting.read(path)


def ledger_of(path: Path, *attempts: Made, prices: Any = PRICES) -> Path:
    asyncio.run(fill(path, list(attempts), prices=prices))
    return path


def text_of(page: str) -> str:
    """What a page says, without its style."""
    inside = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", inside)).split())


@pytest.fixture(scope="module")
def some() -> list[Made]:
    return list(weeks_of_work(1500))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, some: list[Made]) -> Path:
    return ledger_of(tmp_path_factory.mktemp("report") / "a.ledger", *some)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    faces = [{"similarity": n * 9.0, "result": "NOT SURE"} for n in range(11)]
    when = [DAY + timedelta(hours=n) for n in range(11)]
    attempts = [
        made("facecompare", f"{n}", when[n], 0.5 + n, "OK", charge=Charge.CHARGED, reply=face, answer=True)
        for n, face in enumerate(faces)
    ]
    return ledger_of(tmp_path_factory.mktemp("small") / "a.ledger", *attempts)


@pytest.fixture(scope="module")
def page(file: Path) -> str:
    return make_report(file, made_at=NOW)


def test_a_ledger_on_a_server_has_the_same_figures(some: list[Made], tmp_path: Path, server_url: str) -> None:
    attempts = [*some[:300], made("facecompare", "held", DAY, 1.0, charge=Charge.UNKNOWN, error=LOST)]
    asyncio.run(fill(server_url, attempts))
    in_file, on_server = figures_of(ledger_of(tmp_path / "a.ledger", *attempts)), counting.read(Server(server_url))
    assert in_file.by_endpoint.keys() == on_server.by_endpoint.keys() > {"facecompare", "gliswadetail"}
    in_file.name = on_server.name
    assert on_server == in_file


def changed(file: Path, to: Path, *statements: str) -> Path:
    """A copy of a ledger, changed behind its back."""
    with closing(sqlite3.connect(file)) as db, closing(sqlite3.connect(to)) as copy:
        db.backup(copy)
        for statement in statements:
            copy.execute(statement)
        copy.commit()
    return to


# ------------------------------------------------------------------------------------------------------ the figures


def test_the_money_is_counted(file: Path, some: list[Made]) -> None:
    found = figures_of(file)
    by_endpoint = {name: [m for m in some if m.endpoint == name] for name in {m.endpoint for m in some}}
    for name, attempts in by_endpoint.items():
        counts = Counter(m.attempt.charge for m in attempts)
        money = found.by_endpoint[name]
        assert (money.charged, money.free, money.unknown) == tuple(counts[charge] for charge in Charge)
        assert money.cost == counts[Charge.CHARGED] * PRICES.get(name, Decimal(0)) * 10**6
        assert money.at_risk == counts[Charge.UNKNOWN] * PRICES.get(name, Decimal(0)) * 10**6
        assert money.not_sent == sum(not m.sent for m in attempts)
    days = Counter((m.attempt.started_at.date(), m.endpoint) for m in some)
    assert {
        (figures.moment(day * 86_400_000_000).date(), name): money.attempts
        for day, by_name in found.by_day.items()
        for name, money in by_name.items()
    } == days
    assert found.answered == sum(m.answer for m in some)
    assert found.numbers[1].total() == sum(m.attempt.number == 1 for m in some)
    assert sum(map(sum, found.through.values())) == len(some)
    assert (found.first, found.unit) == (min(m.attempt.started_at for m in some), "day")


def test_the_answers_are_counted(file: Path, some: list[Made]) -> None:
    found = figures_of(file)
    for name in ("facecompare", "idholding"):
        replies = [m.reply for m in some if m.endpoint == name and m.reply]
        counts = Counter((r["result"], min(98, int(r["similarity"] / 2) * 2)) for r in replies)
        seen = {(word, low): n for word, lows in found.similarity[name].items() for low, n in lows.items()}
        assert seen == counts
    searches = [m.reply["matches"] for m in some if m.endpoint == "searchface" and m.reply]
    best = Counter(min(98, int(max(f["confidence"] for f in matches) / 2) * 2) for matches in searches if matches)
    assert (found.searched, found.nobody, found.confidence) == (len(searches), searches.count([]), best)
    last = {m.what: m.reply for m in some if m.endpoint == "gliswadetail" and m.reply}
    assert found.whatsapp == Counter(reply["whatsapp"] for reply in last.values())
    assert found.business == Counter(reply["business_user"] for reply in last.values() if "business_user" in reply)


def test_percentiles_are_of_the_nearest_rank_to_1_percent(file: Path, some: list[Made]) -> None:
    found = figures_of(file)
    for name, percentiles in found.latency.items():
        took = sorted(m.attempt.elapsed for m in some if m.endpoint == name and m.attempt.http_status is not None)
        ranks = [took[-(-share * len(took) // 100) - 1] for share in (50, 90, 99, 100)]
        shown = [percentiles.p50, percentiles.p90, percentiles.p99, percentiles.longest]
        assert shown == pytest.approx(ranks, rel=0.008)
        assert percentiles.count == sum(p.count for p in found.latency_over_time[name].values()) == len(took)


def test_what_came_by_callback_is_no_latency(tmp_path: Path) -> None:
    late = made("gliswadetail", "a", DAY, 600.0, "OK", charge=Charge.CHARGED, http=None, reply=YES, answer=True)
    found = figures_of(ledger_of(tmp_path / "a.ledger", late))
    assert (found.latency, found.whatsapp) == ({}, {"yes": 1})


CAUSES_SAID: list[tuple[str, dict[str, Any]]] = [
    ("busy", {"status": "RETRY_LATER", "error": f"RETRY_LATER: {HINT}"}),
    ("busy", {"http": 429, "error": "HTTP 429: too many requests; try again later"}),
    ("busy", {"http": 503, "error": "HTTP 503: the service is not available; try again later"}),
    ("no face", {"status": "RETRY_LATER", "error": "RETRY_LATER (IMAGEB_FACE_DETECT_FAILED): no face was found"}),
    ("no face", {"status": "FACE_DETECT_FAILED", "error": "x"}),
    ("no face", {"status": "INVALID_FACE_NUM", "error": "x"}),
    ("invalid", {"status": "INVALID_REQUEST", "error": "x"}),
    ("invalid", {"status": "INVALID_INPUT", "error": "x"}),
    ("too large", {"status": "IMAGE_INVALID_SIZE", "error": "x"}),
    ("failed", {"status": "FAIL", "error": "x"}),
    ("no person", {"status": "PERSON_ID_NOT_EXIST", "error": "x"}),
    ("undocumented", {"status": "SOMETHING", "error": "x", "charge": Charge.UNKNOWN}),
    ("token", {"http": 401, "error": "refused with HTTP 401; check the token"}),
    ("refused", {"http": 418, "error": "refused with HTTP 418"}),
    ("unreachable", {"sent": False, "error": "no connection within 10.0 s"}),
    ("late", {"sent": False, "error": "the deadline passed before it could be sent"}),
    ("late", {"sent": False, "error": "no free connection within 60.0 s"}),
    ("cancelled", {"sent": False, "error": "cancelled"}),
    ("not sent", {"sent": False, "error": "ValueError"}),
    ("unfit", {"status": "OK", "charge": Charge.UNKNOWN, "error": "answered OK, but the message does not fit"}),
    ("unreadable", {"http": 502, "charge": Charge.UNKNOWN, "error": "HTTP 502 with no answer in it"}),
    ("lost", {"charge": Charge.UNKNOWN, "error": LOST}),
    ("lost", {"charge": Charge.UNKNOWN, "error": "the connection broke before the answer was whole"}),
    ("ended", {"charge": Charge.UNKNOWN, "error": "cancelled"}),
    ("ended", {"charge": Charge.UNKNOWN, "error": "the process ended before the answer"}),
    ("ended", {"charge": Charge.UNKNOWN, "error": "the ledger was closed before the answer"}),
]


def test_every_cause_is_told_apart_and_has_a_remedy(tmp_path: Path) -> None:
    attempts = [made("facecompare", f"{n}", DAY, 0.1, **said) for n, (_, said) in enumerate(CAUSES_SAID)]
    file = ledger_of(tmp_path / "a.ledger", *attempts)
    found = {failure.cause: failure.attempts for failure in figures_of(file).failures}
    assert found == Counter(cause for cause, _ in CAUSES_SAID)
    assert found.keys() == CAUSES.keys()
    text = text_of(make_report(file))
    for cause in CAUSES.values():
        assert cause.what in text
        assert cause.remedy in text


def test_only_calls_without_an_answer_are_left(tmp_path: Path) -> None:
    busy: dict[str, Any] = {"status": "RETRY_LATER", "error": f"RETRY_LATER: {HINT}"}
    attempts = [
        made("gliswadetail", "a", DAY, 0.1, **busy),
        made("gliswadetail", "a", DAY, 0.1, "OK", charge=Charge.CHARGED, number=2, reply=YES, answer=True),
        made("gliswadetail", "b", DAY, 0.1, **busy),
        made("gliswadetail", "b", DAY, 0.1, number=2, **busy),
    ]
    (failure,) = figures_of(ledger_of(tmp_path / "a.ledger", *attempts)).failures
    assert (failure.cause, failure.attempts, failure.open) == ("busy", 3, 1)


def test_times_of_trouble(tmp_path: Path) -> None:
    def at(second: float, what: str = "busy") -> Made:
        when = DAY + timedelta(seconds=second)
        if what == "busy":
            return made("gliswadetail", f"{second}", when, 0.0, "RETRY_LATER", error=f"RETRY_LATER: {HINT}")
        if what == "away":
            return made("gliswadetail", f"{second}", when, 0.0, error="no connection (refused)", sent=False)
        return made("gliswadetail", f"{second}", when, 0.0, "OK", charge=Charge.CHARGED, reply=YES, answer=True)

    attempts = [at(n) for n in range(9)]  # too few
    attempts += [at(10, "ok")]
    attempts += [at(20 + n, "away" if n % 3 else "busy") for n in range(12)]
    attempts += [at(40, "ok")]
    attempts += [at(50 + n) for n in range(6)] + [at(5000 + n) for n in range(6)]  # a night lies in between
    found = figures_of(ledger_of(tmp_path / "a.ledger", *attempts))
    (trouble,) = found.troubles
    assert (figures.moment(trouble.start), trouble.seconds) == (DAY + timedelta(seconds=20), 11)
    assert trouble.kinds == {"unreachable": 8, "busy": 4}
    assert (found.run_count, found.trouble_count) == (2, 1)
    assert found.busiest == (DAY, 9 + 1 + 12 + 1 + 6)


def test_held_calls_are_shown_by_their_keys(tmp_path: Path) -> None:
    lost: dict[str, Any] = {"charge": Charge.UNKNOWN, "error": LOST}
    attempts = [made("facecompare", f"call {n}", DAY, 30.0, key=f"A-{n}", **lost) for n in range(40)]
    attempts += [
        made("facecompare", "number", DAY, 30.0, key=17, **lost),
        made("facecompare", "none", DAY, 1.0, key=None, **lost),
    ]
    file = ledger_of(tmp_path / "-a b.ledger", *attempts)
    found = figures_of(file)
    assert (found.held_count, found.unsettled, len(found.held)) == (42, 42, 30)
    assert [held.key for held in found.held[:3]] == [None, "17", "A-39"]
    text = text_of(make_report(file))
    assert "42 calls are held" in text
    assert "aisolution ledger resolve './-a b.ledger' KEY free" in text
    assert "The newest 30 of 42" in text

    async def settle() -> None:
        async with Ledger(file) as ledger:
            assert await ledger.resolve("A-39", Charge.CHARGED)
            assert await ledger.resolve("A-38", Charge.FREE)

    asyncio.run(settle())
    found = figures_of(file)
    assert (found.held_count, found.unsettled) == (41, 40)
    assert "charged, answer lost" in text_of(make_report(file))


# ----------------------------------------------------------------------------------------------- ledgers of all kinds


def test_an_empty_ledger(tmp_path: Path) -> None:
    text = text_of(make_report(ledger_of(tmp_path / "a.ledger")))
    assert "No attempt is recorded in this ledger" in text


def test_one_attempt(tmp_path: Path) -> None:
    file = ledger_of(tmp_path / "a.ledger", made("addface", "a", DAY, 0.5, "OK", reply={"person_id": "p"}, answer=True))
    text = text_of(make_report(file))
    assert "Attempts 1 " in text
    assert "Answered 1 100 % of the attempts" in text
    assert "No attempt failed." in text
    assert "cost" not in text  # nobody said what anything costs


def test_attempts_under_way_are_said(tmp_path: Path) -> None:
    async def begin() -> None:
        async with Ledger(tmp_path / "a.ledger", prices=PRICES) as ledger:
            await ledger.begin(Ask("facecompare", ledger.identity("facecompare", [("what", "a")])))
            assert "1 attempt is under way" in text_of(make_report(ledger.path))

    asyncio.run(begin())


def test_a_purged_ledger(tmp_path: Path, file: Path, some: list[Made]) -> None:
    copy = changed(file, tmp_path / "a.ledger")

    async def purge() -> None:
        async with Ledger(copy) as ledger:
            await ledger.purge(0)

    asyncio.run(purge())
    found = figures_of(copy)
    # What was answered is told by what it cost; all of it was, and nothing of it is left to be shown.
    assert found.answered == found.emptied == sum(m.answer for m in some)
    assert (found.similarity, found.whatsapp, found.searched) == ({}, {}, 0)
    text = text_of(make_report(copy))
    assert "purged since" in text
    assert "What was said last" not in text


@pytest.mark.parametrize(
    ("days", "unit", "count"), [(44, "day", 45), (200, "week", 29), (900, "month", 31), (9000, "year", 26)]
)
def test_years_of_days(tmp_path: Path, days: int, unit: str, count: int) -> None:
    first = datetime(2020, 11, 16, 12, tzinfo=UTC)
    attempts = [
        made(
            "facecompare",
            f"{day}",
            first + timedelta(days=day),
            0.5,
            "OK",
            charge=Charge.CHARGED,
            reply=SAME,
            answer=True,
        )
        for day in {0, days // 2, days}
    ]
    file = ledger_of(tmp_path / "a.ledger", *attempts)
    found = figures_of(file)
    assert found.unit == unit
    assert found.steps is not None
    assert found.steps.count <= figures.MOST_BINS
    assert sum(money.attempts for by_name in found.by_day.values() for money in by_name.values()) == 3
    drawn = make_report(file)
    assert f"Attempts by {unit}" in text_of(drawn)
    assert f"{count} {unit}s from" in text_of(drawn)


@given(first=st.integers(0, 4 * 10**15), length=st.integers(0, 3 * 10**15))
def test_steps_of_time_are_few_and_hold_everything(first: int, length: int) -> None:
    steps = figures.Steps.over(first, first + length)
    assert 1 <= steps.count <= figures.MOST_BINS
    assert steps.first <= first
    assert steps.first + steps.count * steps.length > first + length
    assert steps.first + steps.length > first


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["PRAGMA user_version = 1"], "older version"),
        (["PRAGMA user_version = 99"], "install the newer aisolution-async"),
        (["PRAGMA application_id = 7"], "no ledger"),
    ],
)
def test_a_ledger_that_cannot_be_read(tmp_path: Path, file: Path, statements: list[str], said: str) -> None:
    copy = changed(file, tmp_path / "a.ledger", *statements)
    result = run("report", copy, "-o", tmp_path / "report.html")
    assert result.exit_code == 2
    assert said in result.stderr
    assert str(copy) in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_ledger(tmp_path: Path, file: Path) -> None:
    copy = changed(file, tmp_path / "a.ledger")
    data = bytearray(copy.read_bytes())
    data[5000:60000] = os.urandom(55000)
    copy.write_bytes(data)
    with pytest.raises(LedgerError, match="damaged"):
        make_report(copy)


def test_what_cannot_be_is_survived(tmp_path: Path, file: Path) -> None:
    """Whatever types and values somebody put into the columns."""
    copy = changed(
        file,
        tmp_path / "a.ledger",
        "UPDATE attempts SET started_at = 9223372036854775807 WHERE id % 50 = 0",
        "UPDATE attempts SET started_at = 'yesterday' WHERE id % 50 = 1",
        "UPDATE attempts SET elapsed = -5 WHERE id % 50 = 2",
        "UPDATE attempts SET elapsed = x'ff' WHERE id % 50 = 3",
        "UPDATE attempts SET price = 9223372036854775807 WHERE id % 50 = 4",
        "UPDATE attempts SET number = 'many' WHERE id % 50 = 5",
        "UPDATE attempts SET reply = '{\"similarity\": ' WHERE id % 50 IN (6, 7)",
        'UPDATE attempts SET reply = \'{"similarity": 1e999, "result": [1], "whatsapp": {}, "matches": [7, {}]}\''
        " WHERE id % 50 IN (8, 9)",
        "UPDATE attempts SET key = x'ff00', error = x'fe', endpoint = x'fd' WHERE id % 50 = 10",
        "UPDATE attempts SET endpoint = '' WHERE id % 50 = 11",
        "UPDATE attempts SET endpoint = 'e' || id WHERE id % 50 > 40",
        "UPDATE attempts SET key = '\"\\ud800\"' WHERE state = 'unknown'",
    )
    found = figures_of(copy)
    assert found.strange_times == 60
    assert sum(money.attempts for money in found.by_endpoint.values()) == found.money.attempts == 1500
    assert len(found.by_endpoint) <= 13
    assert "60 attempts are recorded with a time that cannot be" in text_of(make_report(copy))


# -------------------------------------------------------------------------------------------------------- the page


TAGS = set(
    """html head meta title style body main h1 h2 h3 p a strong span bdi code pre dl dt dd div ul li table thead
    tbody tr th td figure details summary footer svg g path text desc defs use pattern rect clippath""".split()  # noqa: SIM905  # a list of them fills a page
)


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def check_is_safe(page: str) -> None:
    read = Reader(page)
    assert {tag for tag, _ in read.found} <= TAGS
    ids = [attributes["id"] for _, attributes in read.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in read.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
        for name in ("href", "clip-path", "style"):
            for pointed in re.findall(r"url\(#([^)]*)\)|^#(.+)", attributes.get(name, "")):
                assert "".join(pointed) in ids
        assert "src" not in attributes
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page


def test_the_page_holds_nothing_foreign(page: str) -> None:
    check_is_safe(page)
    assert "default-src 'none'" in page
    assert "://" not in page


def test_nothing_secret_is_in_it(tmp_path: Path) -> None:
    reply = {**YES, "number": "+6281387300008", "signature": "Saya suka", "group_id": "LxiKPLIMGFpXzXas"}
    file = ledger_of(
        tmp_path / "a.ledger",
        made(
            "gliswadetail", "6281387300008", DAY, 0.5, "OK", charge=Charge.CHARGED, key="A-1", reply=reply, answer=True
        ),
        made("addface", "a", DAY, 0.5, "OK", key="A-2", reply={"person_id": "c5r7jedkujdbnasarhn0"}, answer=True),
    )
    page = make_report(file)
    for secret in ("81387300008", "Saya suka", "LxiKPLIMGFpXzXas", "c5r7jedkujdbnasarhn0", "A-1"):
        assert secret not in page


HOSTILE = (
    "</title></style><script>document.title='gone'</script><img src=x onerror=alert(1)>"
    "\u202e\x1b[31m$\\frac{1}$&amp;\"'"
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a ledger in which strangers wrote wherever they could."""
    lost: dict[str, Any] = {"charge": Charge.UNKNOWN, "error": HOSTILE}
    reply = {"number": HOSTILE, "whatsapp": "yes", "signature": HOSTILE, "business_user": HOSTILE, "avatar": HOSTILE}
    face = {"similarity": 50.0, "result": HOSTILE}
    attempts = [
        made("gliswadetail", "a", DAY, 0.5, "OK", charge=Charge.CHARGED, reply=reply, answer=True),
        made("facecompare", "b", DAY, 0.5, "OK", charge=Charge.CHARGED, reply=face, answer=True),
        made("facecompare", "c", DAY, 0.5, HOSTILE[:50], key=HOSTILE, **lost),
        made("facecompare", "d", DAY + timedelta(hours=9), 0.5, key="x" * 5000, **lost),
        made(HOSTILE, "e", DAY, 0.5, key=HOSTILE, **lost),
        made("y" * 5000, "f", DAY + timedelta(hours=9), 0.5, "OK", key="f", reply={}, answer=True),
        made("y" * 5000, "g", DAY, 0.5, "OK", key="g", reply={}, answer=True),
    ]
    folder = tmp_path_factory.mktemp("hostile")
    file = ledger_of(folder / "plain.ledger", *attempts)
    write_report(file.rename(folder / "<b onclick=x>a.ledger"), folder / "report.html")
    return folder / "report.html"


def test_strangers_text_is_text(hostile: Path) -> None:
    page = hostile.read_text("utf-8")
    check_is_safe(page)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert not [tag for tag, _ in Reader(page).found if tag in ("script", "img", "b")]


@given(text=st.text())
def test_all_text_is_escaped(text: str) -> None:
    made = tag("p", text, tag("span", [text, None]), title=text, data_x=None)
    read = Reader(made)
    assert [name for name, _ in read.found] == ["p", "span"]
    assert read.found[0][1].keys() == {"title"}
    assert tag("p", made) == f"<p>{made}</p>"  # and once only
    made.encode()


def test_it_is_the_same_each_time(small: Path) -> None:
    page = make_report(small, made_at=NOW)
    assert make_report(small, made_at=NOW) == page
    later = make_report(small, made_at=NOW + timedelta(days=1))
    assert later != page
    assert later.replace("2026-12-02", "2026-12-01") == page


def test_charts_have_words_units_and_numbers(page: str) -> None:
    charts = [attributes for name, attributes in Reader(page).found if name == "svg"]
    assert len(charts) > 20
    for chart in charts:
        assert chart["role"] == "img"
        for name in chart["aria-labelledby"].split():
            assert f'id="{name}"' in page
    text = text_of(page)
    for words in ("similarity, 0 to 100", "time (UTC), 2026", "day (UTC), 2026", "attempts", "The numbers"):
        assert words in text
    # Every colour is the style sheet's, so that it can be dark.
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): (?!var\(--|none|url\(#)[^;\"]+", drawn)
    sheet = page[page.index("<style>") : page.index("</style>")]
    for name in set(re.findall(r"var\((--\w+)\)", page)):
        assert f"{name}:" in sheet


def test_no_library_is_imported_to_draw(small: Path) -> None:
    """Which would take longer than the report does."""
    script = """if True:
        import sys
        import aisolution_async.bulk.report, aisolution_async.cli.report
        aisolution_async.bulk.report.make_report(sys.argv[1])
        assert not {"matplotlib", "numpy", "PIL", "pyarrow"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-W", "error", "-c", script, small], check=True)


# --------------------------------------------------------------------------------------------------- by applicant


def pictures_in(folder: Path, count: int) -> None:
    """Photos that have everything in them that a phone writes."""
    for number in range(count):
        exif = Image.Exif()
        exif[0x010F] = "a maker of phones"
        exif.get_ifd(0x8825).update({1: "S", 2: (6.0, 12.0, 30.0)})
        portrait(number, (480, 600)).save(folder / f"face{number}.jpg", exif=exif, comment=b"written by hand")


HEAD = ["applicant id", "full name", "phone", "selfie", "ktp photo"]


def face(number: int, **said: Any) -> dict[str, Any]:
    """A row as `bulk face-compare` writes it."""
    cells = [f"A-{number}", f"Name {number}", f"+62813872{number:05}", f"face{number}.jpg", f"face{number + 1}.jpg"]
    results: dict[str, Any] = {
        "ok": True,
        "answer_similarity": None,
        "answer_result": None,
        "answer_raw": None,
        "charge": "charged",
    }
    results |= {"status": "OK", "attempts": 1, "error": None, "problem": None}
    return dict(zip(HEAD, cells, strict=True)) | results | said


def bad(number: int, error: str, problem: str, **said: Any) -> dict[str, Any]:
    given = {"ok": False, "charge": "free", "status": None, "attempts": 0, "error": error, "problem": problem}
    return face(number, **given | said)


def list_of(count: int) -> list[dict[str, Any]]:
    """As many rows: answered of each judgment, with problems of two kinds, and held."""
    rows = []
    for number in range(count):
        kind = number % 8
        if kind < 3:
            row = face(number, answer_similarity=95.5, answer_result="SAME PERSON")
        elif kind == 3:
            row = face(number, answer_similarity=55.25, answer_result="NOT SURE")
        elif kind == 4:
            row = face(number, answer_similarity=7.5, answer_result="NOT SAME PERSON")
        elif kind == 5:
            missing = (
                f"line {number + 2}: column 'selfie': img1 '/photos/face{number}.jpg' does not exist: check the path"
            )
            row = bad(number, "InputError", missing)
        elif kind == 6:
            status = {"charge": "free", "status": "RETRY_LATER", "attempts": 3}
            row = bad(number, "FaceNotFoundError", "facecompare: no face was found on img2; use another one", **status)
        else:
            held = "facecompare: no answer within 30.0 s; held: it may have been charged: settle it in the ledger"
            row = bad(number, "OutcomeUnknownError", held, charge="unknown", attempts=1)
        rows.append(row)
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of results in the format that its name says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in ([*rows[0]], *([*row.values()] for row in rows)):
            book.active.append(row)
        book.save(path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([[*rows[0]], *([bare(value) for value in row.values()] for row in rows)])
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"])
def test_every_row_is_of_one_kind(tmp_path: Path, ending: str) -> None:
    text = text_of(make_report(written(tmp_path / f"results{ending}", list_of(400))))
    assert "400 rows = 250 answered + 0 still being checked + 50 held + 100 with a problem." in text
    assert "Face comparison SAME PERSON 150, NOT SURE 50, NOT SAME PERSON 50 250 0 50 100 250 100 50" in text
    # Problems by kind, in the words of the column, with the remedy and the rows.
    assert "column 'selfie': img1 … does not exist: check the path Free: nothing was sent. Mend the cell" in text
    assert CAUSES["no face"].remedy in text
    assert "row 7 A-5 , row 15 A-13 , " in text
    assert "and 38 more" in text
    assert "For a person to judge: 100" in text
    assert "row 5 A-3 Face comparison 55.2" in text
    assert "No ledger was found beside the results" in text


def test_numbers_names_and_paths_are_not_on_the_page(tmp_path: Path) -> None:
    rows = list_of(64)
    rows[3]["applicant id"] = "+6281387200003"  # somebody's number where an id should be
    page = make_report(written(tmp_path / "results.csv", rows))
    for secret in ("+62813872", "81387200003", "Name ", "face3.jpg", "/photos"):
        assert secret not in page
    assert "img" not in {tag for tag, _ in Reader(page).found}
    check_is_safe(page)


def test_results_that_a_spreadsheet_saved_again(tmp_path: Path) -> None:
    """With other truth values, another delimiter, a byte order mark, and a column behind the results."""
    rows = list_of(16)
    with (tmp_path / "results.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow([*rows[0], "remark"])
        for row in rows:
            writer.writerow([*(bare(value).replace("true", "TRUE") for value in row.values()), "seen"])
    text = text_of(make_report(tmp_path / "results.csv"))
    assert "16 rows = 10 answered + 0 still being checked + 2 held + 4 with a problem." in text


def test_checking_is_neither_answered_nor_a_problem(tmp_path: Path) -> None:
    def number(state: str | None, *, ok: bool, **said: Any) -> dict[str, Any]:
        results = {"ok": ok, **dict.fromkeys(result_columns(WhatsAppDetail.endpoint)), "charge": "free"}
        return {"id": "x"} | results | {"ok": ok, "answer_whatsapp": state, **said}

    rows = [number("checking", ok=True), number("checking", ok=False, problem="it is still being checked")]
    rows += [number("unavailable", ok=False), number("yes", ok=True, charge="charged"), number("no", ok=True)]
    rows += [number(None, ok=False, error="InputError", problem="number is empty: fill it in")]
    text = text_of(make_report(written(tmp_path / "results.jsonl", rows)))
    assert "6 rows = 2 answered + 3 still being checked + 0 held + 1 with a problem." in text
    assert "WhatsApp detail" in text


@pytest.mark.parametrize("ending", ["csv", "jsonl", "xlsx", "parquet"])
async def test_totals_are_no_applicants(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "list.csv"
    source.write_text("id,phone,loan\n1,+6281211002201,5\n2,+6281211002202,6\nTotal,,11\n")
    results = tmp_path / f"results.{ending}"
    await bulk(source, results)
    said = text_of(make_report(results))
    assert "2 rows = 2 answered + 0 still being checked + 0 held + 0 with a problem." in said
    assert "1 row is a total or below one: nothing was asked of it, and no count has it." in said
    assert "no reason is said" not in said


@pytest.mark.parametrize("above", [0, 2])
async def test_a_row_is_named_by_its_places_in_the_results_and_in_the_list(tmp_path: Path, above: int) -> None:
    """Titles stand above a list, and not above its results."""
    source = tmp_path / "list.csv"
    source.write_text("DAFTAR\n" * above + "id,phone,loan\n1,+6281211002201,5\n2,+6281211002202,6\n3,xyz,7\n")
    await bulk(source, tmp_path / "results.xlsx")
    summary = openpyxl.load_workbook(tmp_path / "results.xlsx")["Summary"]
    (first,) = [row[2] for row in summary.iter_rows(values_only=True) if "is no phone number" in str(row[0])]
    assert first == ("4 (line 6 of the list)" if above else 4)
    said = text_of(make_report(tmp_path / "results.xlsx"))
    assert ("row 4 (line 6 of the list) 3" if above else "row 4 3") in said


def test_results_of_several_endpoints_and_of_an_earlier_run(tmp_path: Path) -> None:
    """A row is as well off as the worst of its calls; columns of results in the input are input."""
    source = tmp_path / "in.csv"
    with source.open("w", newline="") as file:
        rows = [["id", "selfie", "ktp", "number", "ok", "problem"]]
        rows += [[f"A-{n}", "none.jpg", "none.jpg", f"+628120000000{n}", "true", "before"] for n in range(4)]
        csv.writer(file).writerows(rows)
    output = tmp_path / "out.csv"
    arguments = ("--endpoint", "face-compare", "--sandbox", "--img1", "selfie", "--img2", "ktp")
    assert run("bulk", "whatsapp-detail", source, "-o", output, *arguments).exit_code == 1
    text = text_of(make_report(output))
    assert "4 rows = 0 answered + 0 still being checked + 0 held + 4 with a problem." in text
    assert "WhatsApp detail yes 3, no 1 4 0 0 0 " in text
    assert "Face comparison 0 0 0 4 " in text
    assert "before" not in text
    # The ledger beside it was found: it has what was sent.
    assert "out.csv.sandbox.ledger" in text
    assert "Attempts 4 " in text


def test_what_a_sandbox_answered_says_so_first(tmp_path: Path) -> None:
    """In the workbook, with and without a ledger, and in the report: they look like real ones else."""
    source, output = written(tmp_path / "in.csv", [{"number": "+6281387300008"}]), tmp_path / "out.xlsx"
    said = "SANDBOX: the answers are made up"

    def first() -> Any:
        return openpyxl.load_workbook(output)["Summary"]["A1"]

    command = ("bulk", "whatsapp-detail", source, "-o", output, "--sandbox")
    run(*command, "--no-ledger")
    assert (first().value, first().font.color.rgb) == (said, "FFC00000")
    run(*command, "--overwrite")
    assert first().value == said
    ledger = tmp_path / "out.xlsx.sandbox.ledger"
    assert text_of(make_report(output)).count(said) == text_of(make_report(ledger)).count(said) == 1
    other = ledger.rename(tmp_path / "other.ledger")  # the note says it, too
    text = make_report(output, options=ReportOptions(ledger=other))
    assert text.index(said) < text.index("<h1>")
    (tmp_path / "out.xlsx.run").unlink()
    assert said not in make_report(output, options=ReportOptions(ledger=other))


def test_rows_are_named_by_the_column_that_the_run_had_for_its_keys(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    rows = [{"id": "7", "Nama": name, "number": "12"} for name in ("Ayu", "Bima")]
    source = written(tmp_path / "in.csv", rows)
    run("bulk", "whatsapp-detail", source, "-o", output, "--sandbox", "--key", "Nama")
    assert "Ayu" in text_of(make_report(output))
    assert "Ayu" not in text_of(make_report(output, options=ReportOptions(key="id")))


def test_either_file_finds_the_other(tmp_path: Path) -> None:
    results = written(tmp_path / "results.csv", list_of(8))
    ledger = ledger_of(
        tmp_path / "results.csv.ledger", made("facecompare", "a", DAY, 0.5, "OK", reply=SAME, answer=True)
    )
    both = text_of(make_report(results, made_at=NOW))
    assert "8 rows = " in both
    assert "Attempts 1 " in both
    assert text_of(make_report(ledger, made_at=NOW)) == both
    elsewhere = ledger.rename(tmp_path / "other.ledger")
    assert "Say --results FILE" in text_of(make_report(elsewhere))
    assert text_of(make_report(elsewhere, options=ReportOptions(results=results), made_at=NOW)).count("8 rows = ") == 1
    named = run("report", results, "--ledger", elsewhere, "-o", tmp_path / "r.html")
    assert named.exit_code == 0
    assert "Attempts 1 " in text_of((tmp_path / "r.html").read_text())


def test_a_run_that_is_not_over(tmp_path: Path) -> None:
    written(tmp_path / "part.jsonl", list_of(8)).rename(tmp_path / "results.xlsx.part")
    with (tmp_path / "results.xlsx.part").open("a") as file:
        file.write('{"applicant id": "A-')  # a kill
    for named in ("results.xlsx", "results.xlsx.part"):
        text = text_of(make_report(tmp_path / named))
        assert "8 rows = " in text
        assert "The run is not over" in text
        assert "1 line could not be read" in text


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("none.csv", (), "there are no results"),
        ("list.csv", (), "has no columns of results"),
        ("notes.txt", (), "neither a ledger nor results"),
        ("results.csv", ("--results", "results.csv"), "leave one out"),
        ("results.csv", ("--key", "nik"), "has no column 'nik'"),
        ("results.csv", ("--photos", "--images", "nowhere"), "the images' folder"),
        ("results.csv", ("--currency", "rupiah"), "three letters"),
    ],
)
def test_what_makes_no_report_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "results.csv", list_of(8))
    (tmp_path / "list.csv").write_text("id,number\n1,+6281200000000\n")
    (tmp_path / "notes.txt").write_text("call them back")
    (tmp_path / "damaged.xlsx").write_bytes(b"PK\x03\x04 and no more")
    result = run("report", name, "-o", "r.html", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "no workbook that can be read" in run("report", "damaged.xlsx", "-o", "r.html").stderr
    assert not Path("r.html").exists()


def test_results_are_not_replaced_by_their_report(tmp_path: Path) -> None:
    results = written(tmp_path / "results.csv", list_of(8))
    before = results.read_bytes()
    assert "is the file of results" in run("report", results, "-o", results, "--overwrite").stderr
    assert results.read_bytes() == before


def test_photographs_are_small_few_and_bare(tmp_path: Path) -> None:
    pictures_in(tmp_path, 8)
    results = written(tmp_path / "results.xlsx", list_of(8))
    page = make_report(results, options=ReportOptions(photos=True))
    shown = [attributes for tag, attributes in Reader(page).found if tag == "img"]
    assert [each["alt"] for each in shown] == ["img1 of row 5", "img2 of row 5", "img1 of row 6", "img2 of row 6"]
    for each in shown:
        kind, _, data = each["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        photo = base64.b64decode(data)
        assert len(photo) < 20_000
        with Image.open(BytesIO(photo)) as image:
            assert (image.format, max(image.size)) == ("JPEG", thumbnails.SIDE)
            assert not image.getexif()
        assert b"written by hand" not in photo
    assert "photographs of your applicants" in text_of(page)


def test_photographs_are_bounded_and_the_unsure_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures_in(tmp_path, 41)
    monkeypatch.setattr(thumbnails, "MOST_ROWS", 6)
    page = make_report(written(tmp_path / "results.csv", list_of(40)), options=ReportOptions(photos=True))
    shown = [attributes["alt"] for tag, attributes in Reader(page).found if tag == "img"]
    assert shown[:10:2] == [f"img1 of row {number}" for number in (5, 13, 21, 29, 37)]  # NOT SURE
    assert shown[10:] == ["img1 of row 6", "img2 of row 6"]
    assert "row 14 A-12 Face comparison 7.5" in text_of(page)


def test_a_photograph_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    inside = tmp_path / "photos"
    inside.mkdir()
    pictures_in(inside, 5)
    pictures_in(tmp_path, 6)
    (inside / "face3.jpg").write_bytes((inside / "face3.jpg").read_bytes()[:2000])
    rows = list_of(8)
    rows[4]["ktp photo"] = "../face5.jpg"
    results = written(tmp_path / "results.csv", rows)
    page = make_report(results, options=ReportOptions(photos=True, images=inside))
    assert [attributes["alt"] for tag, attributes in Reader(page).found if tag == "img"] == [
        "img2 of row 5",
        "img1 of row 6",
    ]
    text = text_of(page)
    assert "img1 is cut off" in text
    assert "img2: leads out of the images' folder" in text


@pytest.mark.parametrize("ending", ["xlsx", "csv"])
async def test_photographs_that_only_the_list_has_are_taken_from_it(tmp_path: Path, ending: str) -> None:
    """Pictures on and in cells, and links, which no results have."""
    pictures_in(tmp_path, 2)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    source = tmp_path / "list.xlsx"
    with xlsxwriter.Workbook(source) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["DAFTAR"])
        sheet.write_row(2, 0, ["id", "Foto Selfie", "Foto KTP"])
        sheet.write_column(3, 0, ["A-1", "A-2", "A-3", "A-4"])
        for row in (3, 5):
            sheet.insert_image(row, 1, tmp_path / "face0.jpg", {"x_scale": 0.01, "y_scale": 0.01})
            sheet.embed_image(row, 2, tmp_path / "face1.jpg")
        sheet.write_url(4, 1, "external:face0.jpg", string="Lihat")
        sheet.write_url(4, 2, "external:face1.jpg", string="Lihat")
        sheet.write_row(6, 1, ["gone.jpg", "face1.jpg"])
        sheet.write_row(7, 0, ["Total", 4])
    vendor = Vendor(lambda request, number: says("OK", {"similarity": 55.5, "result": "NOT SURE"}))
    results = folder / f"results.{ending}"
    said: list[str] = []
    await bulk(source, results, FaceCompare, vendor=vendor, ledger=folder / "l", on_start=said.append)
    assert "the results have the text of the cells, and no pictures or links: keep this list" in said
    page = make_report(results, options=ReportOptions(photos=True, ledger=folder / "l"))
    shown = [attributes["alt"] for tag, attributes in Reader(page).found if tag == "img"]
    assert shown == [f"img{place} of row {row}" for row in (2, 3, 4) for place in (1, 2)]
    assert "With the photographs of 3 rows" in text_of(page)
    book = openpyxl.load_workbook(source)
    book.active["A5"] = "A-9"
    book.save(source)  # it is another list now, and has no pictures in its cells any more
    page = text_of(make_report(results, options=ReportOptions(photos=True, ledger=folder / "l")))
    assert "Of " in page
    assert "none can be shown: each says why." in page
    assert "img1: " in page


def test_columns_of_photographs_may_be_said(tmp_path: Path) -> None:
    pictures_in(tmp_path, 8)
    rows = [{"one": row.pop("selfie"), "two": row.pop("ktp photo"), **row} for row in list_of(8)]
    results = written(tmp_path / "results.csv", rows)
    unnamed = run("report", results, "--photos", "-o", "-").stdout
    assert "Say --img1 and --img2, or --img." in text_of(unnamed)
    assert "data:image" not in unnamed
    named = run("report", results, "--photos", "--img1", "one", "--img2", "two", "-o", "-").stdout
    assert named.count("data:image/jpeg") == 4
    ledger_of(tmp_path / "results.csv.ledger", made("facecompare", "a", DAY, 0.5, "OK", reply=SAME, answer=True))
    assert "Say --img1 COLUMN." in text_of(run("report", results, "--photos", "-o", "-").stdout)


@pytest.mark.parametrize(
    ("currency", "price", "shown"),
    [
        ("idr", "500", "IDR 125,000"),
        ("USD", "0.04", "USD 10.00"),
        ("VND", "0.5", "VND 125"),
        (None, "500", "125,000.00"),
    ],
)
def test_money_is_shown_in_its_currency(tmp_path: Path, currency: str | None, price: str, shown: str) -> None:
    results = written(tmp_path / "results.csv", list_of(400))
    said = ("--currency", currency) if currency else ()
    text = text_of(run("report", results, "-o", "-", "--price", f"face-compare={price}", *said).stdout)
    assert f" {shown} " in text


def test_a_price_is_for_what_has_none_recorded(tmp_path: Path) -> None:
    attempts = [
        made("facecompare", f"{n}", DAY, 0.5, "OK", charge=Charge.CHARGED, reply=SAME, answer=True) for n in range(3)
    ]
    file = ledger_of(tmp_path / "a.ledger", *attempts, prices={})
    assert "cost" not in text_of(make_report(file))
    prices = {"facecompare": Decimal(500)}
    assert "cost IDR 1,500" in text_of(make_report(file, options=ReportOptions(prices=prices, currency="IDR")))


def test_strangers_text_in_results_is_text(tmp_path: Path) -> None:
    rows = list_of(8)
    for row in rows:
        row["applicant id"] = HOSTILE
        row["problem"] = row["problem"] and HOSTILE
    page = make_report(written(tmp_path / "<i>results.csv", rows))
    check_is_safe(page)
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert not [tag for tag, _ in Reader(page).found if tag in ("script", "img", "i")]


@given(st.lists(st.integers(0, 86_400_000_000), min_size=1, max_size=50))
def test_buckets_are_true_to_1_percent(durations: list[int]) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        (query,) = {f"SELECT {buckets.bucket_in_sql('?1')}"}
        found = [db.execute(query, (each,)).fetchone()[0] for each in durations]
    for each, bucket in zip(durations, found, strict=True):
        assert bucket < 1 << buckets.BITS
        assert buckets.middle(bucket) == pytest.approx(each, rel=0.008)
    spread = buckets.percentiles(Counter(found))
    durations.sort()
    ranks = [durations[-(-share * len(durations) // 100) - 1] / 1e6 for share in (50, 90, 99, 100)]
    assert [spread.p50, spread.p90, spread.p99, spread.longest] == pytest.approx(ranks, rel=0.008)
    assert spread.count == len(durations)


def test_more_attempts_than_are_counted_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = figures_of(file)
    monkeypatch.setattr(counting, "_AT_ONCE", 7)
    assert figures_of(file) == whole


def test_no_row_of_an_attempt_leaves_the_database(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a ledger ten times as large, not ten times as much is read."""
    rows = Counter[str]()

    class Counted(sqlite3.Cursor):
        def __next__(self) -> Any:
            rows["read"] += 1
            return super().__next__()

    class Counting(sqlite3.Connection):
        def execute(self, *arguments: Any) -> Any:
            return self.cursor(Counted).execute(*arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Counting, **k))
    figures_of(file)
    assert 0 < rows["read"] < 300


# -------------------------------------------------------------------------------------------------------- the file


def test_the_command(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = small.read_bytes()
    result = run("report", small, "-o", "report.html")
    assert (result.exit_code, result.stdout) == (0, "")
    made = Path("report.html")
    assert made.read_text("utf-8").startswith("<!doctype html>")
    assert made.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
    assert small.read_bytes() == before

    made.write_text("mine")
    result = run("report", small, "-o", "report.html")
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert made.read_text() == "mine"
    assert run("report", small, "-o", "report.html", "--overwrite").exit_code == 0
    assert len(made.read_text()) > 1000
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_onto_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = ledger_of(tmp_path / "ü.ledger")
    result = run("report", file, "-o", "-")
    assert result.exit_code == 0
    assert result.stdout_bytes.startswith(b"<!doctype html>")
    assert "ü.ledger" in result.stdout_bytes.decode()
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("ledger", "output", "said"),
    [
        ("none.ledger", "r.html", "there is no ledger"),
        ("a.sandbox.ledger", "r.html", "beside it is a.ledger (the vendor's)"),
        ("a.ledger", "a.ledger", "is the ledger"),
        ("a.ledger", "folder", "is a folder"),
        ("a.ledger", "none/r.html", "does not exist"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: str, output: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger_of(tmp_path / "a.ledger")
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "a.ledger").read_bytes()
    result = run("report", ledger, "-o", output, "--overwrite")
    assert result.exit_code == 2
    assert said in result.stderr
    assert (tmp_path / "a.ledger").read_bytes() == before
    assert not (tmp_path / "r.html").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ledger_of(tmp_path / "a.ledger")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "r.html").write_text("mine")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_report(file, tmp_path / "out" / "r.html", overwrite=True)
    assert [found.name for found in (tmp_path / "out").iterdir()] == ["r.html"]
    assert (tmp_path / "out" / "r.html").read_text() == "mine"


# -------------------------------------------------------------------------------------------------------- a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ENDS = b"\0"
# The two ends of the pipe become what the browser expects: it reads from 3 and writes to 4.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """Chromium, driven through a pipe by its own protocol."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._left = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        theirs, self._to = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())
        self._from, theirs_too = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())
        options = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        options += " disable-component-update disable-sync disable-dev-shm-usage remote-debugging-pipe"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(theirs), str(theirs_too), CHROMIUM]
            + [f"--{option}" for option in options.split()]
            # Whatever it should ask for by name leads nowhere.
            + [f"--user-data-dir={self._folder}", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"],
            pass_fds=(theirs, theirs_too),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(theirs_too)
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        with suppress(OSError, AssertionError):
            self("Browser.close")
        try:
            self._process.wait(LAST_RESORT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    _session: str | None = None

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + _ENDS)
        while True:
            said = self._next()
            if said.get("id") == self._number:
                assert "error" not in said, said
                return dict(said["result"])
            self.events.append(said)

    def _next(self) -> dict[str, Any]:
        while _ENDS not in self._left:
            assert select.select([self._from], [], [], 30)[0], "the browser says nothing"
            more = os.read(self._from, 1 << 20)
            assert more, "the browser is gone"
            self._left += more
        message, _, self._left = self._left.partition(_ENDS)
        return dict(json.loads(message))

    def show(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Open the file, and wait until it is loaded."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, script: str) -> Any:
        """What JavaScript of ours finds on the page."""
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def of(self, method: str) -> list[dict[str, Any]]:
        """The events of one kind since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def check_is_quiet(browser: Browser, path: Path) -> None:
    """Nothing was asked for but the file, and nothing was complained of."""
    assert [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")] == [path.as_uri()]
    assert browser.of("Runtime.exceptionThrown") == []
    assert browser.of("Log.entryAdded") == []
    assert browser.of("Page.javascriptDialogOpening") == []


def test_the_browser_would_notice(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><div style='width:900px'><img src='http://vendor.example/x.png'><script>nothing.at.all()</script>"
    )
    browser.show(bad, width=360)
    assert len(browser.of("Network.requestWillBeSent")) == 2
    assert len(browser.of("Runtime.exceptionThrown")) == 1
    assert browser.value("document.documentElement.scrollWidth") > 360


def looks(narrow: int) -> list[Any]:
    """Widths, and whether it is dark: each once every day, and all pairs in the long run."""
    rest = [pytest.param(*look, marks=pytest.mark.long) for look in ((1280, False), (narrow, True))]
    return [(1280, True), (narrow, False), *rest]


@pytest.mark.parametrize(("width", "dark"), looks(360))
def test_in_a_browser(browser: Browser, tmp_path: Path, page: str, width: int, dark: bool) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, "utf-8")
    browser.show(path, width=width, dark=dark)
    check_is_quiet(browser, path)
    browser.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    # One drawing of each chart is seen, and none is wider than the page.
    shown = browser.value(
        "[...document.querySelectorAll('figure')].map(figure => [...figure.querySelectorAll('svg')].filter(svg =>"
        " svg.checkVisibility() && svg.getBoundingClientRect().width > 100 &&"
        " svg.getBoundingClientRect().right <= innerWidth).length)"
    )
    assert shown
    assert set(shown) == {1}
    # No words of a chart are cut off or too small to be read.
    cut = browser.value(
        "[...document.querySelectorAll('svg text')].filter(t => t.checkVisibility()).filter(t => { const a ="
        " t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect(); return a.left < b.left - 1 ||"
        " a.right > b.right + 1 || a.bottom > b.bottom + 1 || a.height < 10 }).map(t => t.textContent)"
    )
    assert cut == []
    light = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    assert light is not dark


@pytest.mark.parametrize(("width", "dark"), looks(390))
def test_applicants_in_a_browser(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    pictures_in(tmp_path, 25)
    rows = list_of(24)
    rows[3]["applicant id"] = "x" * 80  # in one word
    results = written(tmp_path / "results.xlsx", rows)
    path = tmp_path / "report.html"
    write_report(results, path, options=ReportOptions(photos=True))
    browser.show(path, width=width, dark=dark)
    asked = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:image/jpeg;base64,")] == [path.as_uri()]
    assert browser.of("Log.entryAdded") == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    # Every photograph was decoded, is seen whole, and is as small as it should be.
    sizes = browser.value(
        "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.getBoundingClientRect().width,"
        " i.getBoundingClientRect().right <= innerWidth])"
    )
    assert len(sizes) == 12
    assert all(is_there and 60 < wide <= 240 and is_inside for is_there, wide, is_inside in sizes)


@pytest.mark.parametrize("width", [1280, 360])
def test_strangers_text_in_a_browser(browser: Browser, hostile: Path, width: int) -> None:
    browser.show(hostile, width=width)
    check_is_quiet(browser, hostile)
    assert browser.value("document.title") == "Ledger report: <b onclick=x>a.ledger"
    assert browser.value("document.querySelectorAll('script, img, b').length") == 0
    assert "<img src=x onerror=alert(1)>" in browser.value("document.body.innerText")
    browser.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.value("document.documentElement.scrollWidth") <= width
