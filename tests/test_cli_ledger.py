"""`aisolution ledger`, on ledgers that `aisolution bulk` made."""

from __future__ import annotations

import asyncio
import csv
import errno
import json
import os
import re
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aisolution_async import clock
from aisolution_async.bulk import outputs
from aisolution_async.bulk.books import records
from aisolution_async.charges import Attempt, Charge
from aisolution_async.cli import ledger as commands
from aisolution_async.cli.commands import aisolution
from aisolution_async.ledger import Ledger, schema
from aisolution_async.ledger.store import Ask, Started
from aisolution_async.ledger.store import Result as Outcome

from .commands import COMMAND, FULL, PROFILE, ok, onto_a_full_disk, run, the_error
from .commands import left as everything
from .sheets import fill_disk
from .support import GROUP_ID, TOKEN, VendorOf, picture

pytestmark = pytest.mark.usefixtures("command_environment")

DAY = datetime(2026, 11, 22, 13, 30, tzinfo=UTC)
LOST = "the server closed the connection without answering"
HOSTILE = "=cmd|' /C calc'!A0 \x1b[31mred\x9b2J\u202e"


class Calendar:
    """The wall clock of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.today = DAY
        monkeypatch.setattr(clock, "today", lambda: self.today)


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    return Calendar(monkeypatch)


def answer(number: int) -> object:
    """Every fifth answer is lost, every fifth number is no good."""
    if number % 5 == 3:
        raise ConnectionAbortedError
    return {"status": "INVALID_INPUT", "message": "bad"} if number % 5 == 4 else ok({**PROFILE, "signature": HOSTILE})


@pytest.fixture
def file(vendor_of: VendorOf, calendar: Calendar, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger of two days: on the first 3 charged, 1 unknown, 1 free, on the second twice that, at a price of 0.05."""
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    url = vendor_of(answer).url
    for start, end in ((0, 5), (5, 15)):
        rows = [f"A-{n},+62812{n:08}\n" for n in range(start, end)]
        Path("in.csv").write_text("ref,number\n" + "".join(rows))
        options = ["--ledger", "a.ledger", "--price", "gliswadetail=0.05", "--concurrency", 1, "--overwrite", "--quiet"]
        run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--key", "ref", "--base-url", url, *options)
        calendar.today += timedelta(days=1)
    return "a.ledger"


def lines(result: Result) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines() if line.strip()]


def left() -> set[str]:
    """The files, without those that SQLite leaves beside a ledger that was read."""
    return {name for name in everything() if not name.endswith(("-wal", "-shm"))}


def said(*arguments: object) -> Any:
    result = run("ledger", *arguments, "--json")
    assert result.stdout.isascii()
    return json.loads(result.stdout)


# ------------------------------------------------------------------------------------------------------- to look


def test_show(file: str) -> None:
    result = run("ledger", "show", file)
    assert result.exit_code == 0
    assert lines(result) == [
        ["attempts", "charged 9 · free 3 · unknown 3"],
        ["cost", "0.45, and 0.15 that may have been charged"],
        ["held calls", "3"],
        ["day", "endpoint", "charged", "free", "unknown", "cost", "at risk"],
        ["2026-11-22", "gliswadetail", "3", "1", "1", "0.15", "0.05"],
        ["2026-11-23", "gliswadetail", "6", "2", "2", "0.30", "0.10"],
        ["endpoint", "status", "charged", "free", "unknown", "cost", "at risk"],
        ["gliswadetail", "OK", "9", "0", "0", "0.45", "0.00"],
        ["gliswadetail", "INVALID_INPUT", "0", "3", "0", "0.00", "0.00"],
        ["gliswadetail", "-", "0", "0", "3", "0.00", "0.15"],
        ["Held: the last attempt may have been charged, or was, and its answer is not known"],
        ["id", "key", "endpoint", "started (UTC)", "problem"],
        ["4", "A-3", "gliswadetail", "2026-11-22 13:30:00", LOST],
        ["9", "A-8", "gliswadetail", "2026-11-23 13:30:00", LOST],
        ["14", "A-13", "gliswadetail", "2026-11-23 13:30:00", LOST],
        ["Settle them (aisolution ledger resolve), or have them sent again (--retry-unknown 1)"],
    ]


def test_show_as_json(file: str) -> None:
    found = said("show", file)
    numbers = {"charged": 9, "free": 3, "not_sent": 0, "unknown": 3, "open": 0, "cost": "0.450000"}
    assert {name: found[name] for name in numbers} == numbers
    assert (found["ledger"], found["held"], found["at_risk"]) == ("a.ledger", 3, "0.150000")
    assert [(line["day"], line["endpoint"], line["charged"]) for line in found["by_day"]] == [
        ("2026-11-22", "gliswadetail", 3),
        ("2026-11-23", "gliswadetail", 6),
    ]
    assert {line["status"]: line["free"] for line in found["by_status"]} == {"OK": 0, "INVALID_INPUT": 3, None: 0}


def test_show_on_a_terminal(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = run("ledger", "show", file).stdout
    assert "\x1b[33mcharged\x1b[0m 9" in text
    assert "───" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert re.search(r"^ 2026-11-22 +gliswadetail +3 +1 +1 +0\.15 +0\.05 *$", plain, re.MULTILINE)


def test_show_more_than_fits(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_MOST_HELD", 2)
    result = run("ledger", "show", file)
    assert "A-8" in result.stdout
    assert "A-13" not in result.stdout
    assert "… and 1 more: aisolution ledger attempts --unknown\n" in result.stdout


async def _begin(path: str, key: str, *, end: bool) -> None:
    async with Ledger(path) as ledger:
        identity = ledger.identity("facecompare", [("img1", key)])
        started = await ledger.begin(Ask("facecompare", identity, key))
        assert isinstance(started, Started)
        if end:
            attempt = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "no connection")
            await ledger.end(started, Outcome(attempt, sent=False))
        else:
            os.kill(os.getpid(), 9)


def test_what_is_under_way_or_never_left() -> None:
    asyncio.run(_begin("a.ledger", "A", end=True))
    child = os.fork()
    if not child:
        asyncio.run(_begin("a.ledger", "B", end=False))
    os.waitpid(child, 0)
    result = run("ledger", "show", "a.ledger")
    assert lines(result)[:4] == [
        ["attempts", "charged 0 · free 0 · unknown 0 · not sent 1 · open 1"],
        ["open", "under way, or of a process that has died: the next run finds out"],
        ["held calls", "0"],
        ["day", "endpoint", "charged", "free", "unknown", "not sent", "open"],
    ]
    assert [(row["key"], row["state"]) for row in attempts("a.ledger")] == [("A", "not sent"), ("B", "intended")]
    # What nobody ends is unknown, and can be settled.
    assert run("ledger", "resolve", "a.ledger", "B", "free").exit_code == 0
    assert [(row["key"], row["state"]) for row in attempts("a.ledger")] == [("A", "not sent"), ("B", "free")]


def test_an_empty_ledger() -> None:
    async def make() -> None:
        async with Ledger("a.ledger"):
            pass

    asyncio.run(make())
    assert lines(run("ledger", "show", "a.ledger")) == [
        ["attempts", "charged 0 · free 0 · unknown 0"],
        ["held calls", "0"],
    ]
    assert run("ledger", "attempts", "a.ledger").stdout == ""
    assert run("ledger", "export", "a.ledger", "-o", "out.csv").exit_code == 0
    assert Path("out.csv").read_text() == "key,endpoint,answered_at,charge,status,cost,reply\n"


def attempts(file: str, *options: str) -> list[dict[str, Any]]:
    result = run("ledger", "attempts", file, "--json", *options)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_attempts(file: str) -> None:
    found = lines(run("ledger", "attempts", file))
    assert found[0] == ["id", "started (UTC)", "endpoint", "key", "state", "status", "http", "seconds", "problem"]
    assert found[1][:7] == ["1", "2026-11-22 13:30:00", "gliswadetail", "A-0", "charged", "OK", "200"]
    assert found[4][:5] == ["4", "2026-11-22 13:30:00", "gliswadetail", "A-3", "unknown, held"]
    assert found[4][-1] == LOST
    assert len(found) == 16
    records = attempts(file)
    assert [row["key"] for row in records] == [f"A-{n}" for n in range(15)]
    assert [row["key"] for row in records if row["held"]] == ["A-3", "A-8", "A-13"]
    assert {name: records[0][name] for name in ("started_at", "state", "status", "http_status", "cost", "error")} == {
        "started_at": "2026-11-22T13:30:00+00:00",
        "state": "charged",
        "status": "OK",
        "http_status": 200,
        "cost": "0.050000",
        "error": None,
    }
    assert [row["key"] for row in attempts(file, "--unknown")] == ["A-3", "A-8", "A-13"]
    assert len(lines(run("ledger", "attempts", file, "--unknown"))) == 4


def test_many_attempts_are_shown_a_few_at_a_time(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("ledger", "attempts", file).stdout
    monkeypatch.setattr("aisolution_async.cli.show._ROWS_AT_ONCE", 10)
    assert [line.split() for line in run("ledger", "attempts", file).stdout.splitlines()] == [
        line.split() for line in whole.splitlines()
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run("ledger", "attempts", file).stdout.count("started") == 2


def test_keys_are_no_danger_to_a_terminal(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    url = vendor_of(lambda n: ok(PROFILE)).url
    Path("in.csv").write_text(f'ref,number\n"{HOSTILE}",+6281200000001\n')
    run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--key", "ref", "--base-url", url)
    result = run("ledger", "attempts", "out.csv.ledger")
    assert "=cmd|' /C calc'!A0 red" in result.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stdout)
    assert said("attempts", "out.csv.ledger")["key"] == HOSTILE
    run("ledger", "export", "out.csv.ledger", "-o", "r.csv")
    with Path("r.csv").open(newline="") as found:
        assert next(csv.DictReader(found))["key"] == f"'{HOSTILE}"


# -------------------------------------------------------------------------------------------------- to take along


def test_export(file: str) -> None:
    result = run("ledger", "export", file, "-o", "replies.csv")
    assert (result.exit_code, result.stderr) == (0, "9 answers are in replies.csv\n")
    with Path("replies.csv").open(newline="") as found:
        rows = [*csv.DictReader(found)]
    assert [row["key"] for row in rows] == [f"A-{n}" for n in range(15) if n % 5 < 3]
    first = rows[0]
    assert list(first) == [
        *("key", "endpoint", "answered_at", "charge", "status", "cost", "answer_whatsapp", "answer_number"),
        *("answer_status_update", "answer_signature", "answer_business_user", "answer_avatar", "reply"),
    ]
    assert first["answered_at"].startswith("2026-11-22T13:30:0")
    assert (first["charge"], first["status"], first["cost"]) == ("charged", "OK", "0.05")
    assert (first["answer_whatsapp"], first["answer_signature"]) == ("yes", f"'{HOSTILE}")
    assert json.loads(first["reply"])["signature"] == HOSTILE
    assert said("export", file, "-o", "replies.jsonl") == {"answers": 9, "output": "replies.jsonl"}
    typed = [json.loads(line) for line in Path("replies.jsonl").read_text().split("\n")[:-1]]
    assert list(typed[0]) == list(first)
    assert typed[0]["reply"]["signature"] == typed[0]["answer_signature"] == HOSTILE
    assert said("export", file, "-o", "replies.xlsx") == {"answers": 9, "output": "replies.xlsx"}
    book = [*records(Path("replies.xlsx"))]
    assert [row["key"] for row in book] == [row["key"] for row in rows]
    assert (book[0]["answer_signature"], json.loads(book[0]["reply"])["signature"]) == (HOSTILE, HOSTILE)
    held = {"out-held.csv", "out-held.csv.of"}
    assert left() == {"in.csv", "out.csv", "a.ledger", "replies.csv", "replies.jsonl", "replies.xlsx", *held}


def test_export_of_several_endpoints_has_no_secret(
    vendor_of: VendorOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    Path("a.jpg").write_bytes(picture(1))
    Path("in.csv").write_text("img\na.jpg\n")
    messages = [
        [{"confidence": 99.5, "person_id": "c5r7", "group_id": GROUP_ID}],
        {"group_id": GROUP_ID, "person_id": "c5r7", "person_count": 2},
    ]
    url = vendor_of(lambda n: ok(messages[n])).url
    for name in ("search-face", "add-face"):
        run("bulk", name, "in.csv", "-o", f"{name}.csv", "--base-url", url, "--ledger", "a.ledger")
    run("ledger", "export", "a.ledger", "-o", "out.jsonl")
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(row["endpoint"], row["charge"], row["answer_person_count"]) for row in found] == [
        ("searchface", "charged", None),
        ("addface", "free", 2),
    ]
    assert found[0]["answer_matches"] == [{"confidence": 99.5, "person_id": "c5r7"}]
    for secret in (GROUP_ID, TOKEN):
        assert secret not in Path("out.jsonl").read_text()


def test_export_of_what_this_version_does_not_know(file: str) -> None:
    with sqlite3.connect(file) as db:
        db.execute("UPDATE attempts SET endpoint = 'newface' WHERE key = '\"A-0\"'")
        db.execute("UPDATE attempts SET reply = '{\"new\": [1]}' WHERE key = '\"A-1\"'")
    db.close()
    run("ledger", "export", file, "-o", "out.jsonl")
    first, second, third, *_ = (json.loads(line) for line in Path("out.jsonl").read_text().split("\n")[:-1])
    assert (first["endpoint"], first["answer_whatsapp"], first["reply"]["whatsapp"]) == ("newface", None, "yes")
    assert (second["answer_whatsapp"], second["reply"]) == (None, {"new": [1]})
    assert third["answer_whatsapp"] == "yes"


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("out.xls", "the output 'out.xls' must end in .xlsx, .csv, .tsv, .jsonl"),
        ("out.csv", "'out.csv' exists already and may hold results of an earlier run: move it away, or say --over"),
        ("nowhere/out.csv", "the output's folder 'nowhere' does not exist: make it first"),
    ],
)
def test_exports_that_cannot_be(file: str, output: str, problem: str) -> None:
    before = left()
    result = run("ledger", "export", file, "-o", output)
    assert result.exit_code == 2
    assert the_error(result).startswith(problem)
    assert left() == before


def test_an_export_that_fails_leaves_nothing(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, old = left(), Path("out.csv").read_bytes()
    fill_disk(monkeypatch, 1000)
    result = run("ledger", "export", file, "-o", "out.csv", "--overwrite")
    assert result.exit_code == 1
    assert the_error(result) == "the output 'out.csv' cannot be written: No space left on device"
    assert (left(), Path("out.csv").read_bytes()) == (before, old)


def test_a_ledger_that_breaks_while_it_is_exported(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = left()

    def broken(self: Ledger) -> Any:
        yield from list(real(self))[:2]
        raise schema.fault(self.path, OSError(errno.EIO, "Input/output error"))

    real = Ledger.answers
    monkeypatch.setattr(Ledger, "answers", broken)
    result = run("ledger", "export", file, "-o", "new.csv")
    assert result.exit_code == 2
    assert "the disk of the ledger" in the_error(result)
    assert left() == before


# -------------------------------------------------------------------------------------------------- the invoice


def invoice(text: str, name: str = "invoice.csv") -> str:
    Path(name).write_text(text)
    return name


@pytest.mark.parametrize(
    ("first", "second", "verdicts"),
    [
        (3, 6, ["agrees, if no unknown was charged", "agrees, if no unknown was charged"]),
        (4, 8, ["they charge 1 more, and the unknown may explain it", "they charge 2 more, and the unknown may ex"]),
        (5, 5, ["they charge 2 more, and the unknown explain 1 at most", "they charge 1 fewer"]),
    ],
)
def test_reconcile(file: str, first: int, second: int, verdicts: list[str]) -> None:
    text = f"Date,Endpoint,Charged\n2026-11-22,gliswadetail,{first}\n2026-11-23,WhatsApp-Detail,{second}.00\n"
    explained = first < 5
    result = run("ledger", "reconcile", file, "--invoice", invoice(text))
    assert result.exit_code == (0 if explained else 1)
    head, one, two, both, *more = lines(result)
    assert head == ["day", "endpoint", "ours", "unknown", "theirs", "difference"]
    assert one[:6] == ["2026-11-22", "gliswadetail", "3", "1", str(first), str(first - 3)]
    assert two[:6] == ["2026-11-23", "gliswadetail", "6", "2", str(second), str(second - 6)]
    assert both[:6] == ["all days", "gliswadetail", "9", "3", str(first + second), str(first + second - 9)]
    assert [one[6][: len(verdicts[0])], two[6][: len(verdicts[1])]] == verdicts
    if not explained:
        assert the_error(result) == "the invoice and the ledger differ by more than the unknown can explain"
        assert more == [["Over all days it comes out even: their days may not begin at midnight UTC, as ours do."]]
    found = said("reconcile", file, "--invoice", "invoice.csv")
    assert (found["explained"], found["first_day"], found["last_day"]) == (explained, "2026-11-22", "2026-11-23")
    assert [line["difference"] for line in found["lines"]] == [first - 3, second - 6]
    assert found["totals"][0]["theirs"] == first + second


@pytest.mark.parametrize(
    ("text", "options", "read"),
    [
        (
            "Period: 01/11/2026 - 30/11/2026\nNo;Description;Qty;Amount\n1;WhatsApp Detail;10;0,50\n;TOTAL;10;0,50\n",
            [],
            "- it is of 2026-11",
        ),
        ("Service,Amount (USD)\nCek WhatsApp,0.50\n", [], "- it has amounts and no counts: they are divided"),
        ("Service,Fee (USD)\nCek WhatsApp,1.00\n", ["--price", "whatsapp-detail=0.1"], "- charges: 10 in 1 row"),
        ("endpoint,charges\ngliswadetail,10\n", [], "- it says no days: all that the ledger has is compared"),
    ],
)  # fmt: skip
def test_invoices_as_vendors_send_them(file: str, text: str, options: list[str], read: str) -> None:
    """How one was read is said before the difference, in JSON too."""
    result = run("ledger", "reconcile", file, "--invoice", invoice(text), *options)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("invoice.csv was read like this:\n- line ")
    assert read in result.stderr
    assert lines(result)[1][1:] == [
        "gliswadetail",
        "9",
        "3",
        "10",
        "1",
        "they charge 1 more, and the unknown may explain it",
    ]
    found = said("reconcile", file, "--invoice", "invoice.csv", *options)
    assert any(line in read for line in found["read"]) or any(read[2:] in line for line in found["read"])
    assert found["totals"][0]["difference"] == 1


def test_a_period_that_is_none(file: str) -> None:
    name = invoice("endpoint,charges\ngliswadetail,10\n")
    result = run("ledger", "reconcile", file, "--invoice", name, "--period", "November")
    assert (result.exit_code, the_error(result)) == (
        2,
        "--period 'November' is none: it is like 2026-11 or 2026-11-01..2026-11-15",
    )
    found = said("reconcile", file, "--invoice", name, "--period", "2026-11-22..2026-11-23")
    assert (found["first_day"], found["last_day"], found["lines"][0]["day"]) == (
        "2026-11-22",
        "2026-11-23",
        "2026-11-22 to 2026-11-23",
    )


def test_reconcile_several_ledgers_and_other_columns(file: str) -> None:
    for key in "AB":
        asyncio.run(_begin("b.ledger", key, end=True))
    text = "when\tproduct\tcalls\n2026/11/22\t/v1/gliswadetail\t1,003\n20261122T10:00\tfacecompare\t0\n"
    name = invoice(text, "invoice.tsv")
    result = run(
        *("ledger", "reconcile", file, file, "b.ledger", "--invoice", name),
        *("--day", "when", "--endpoint", "product", "--count", "calls"),
    )
    assert result.exit_code == 1
    assert lines(result)[1][2:] == [
        "3",
        "1",
        "1,003",
        "1,000",
        "they charge 1,000 more, and the unknown explain 1 at most",
    ]
    assert lines(result)[-1] == ["Not compared: 6 charged on days before 2026-11-22 or after 2026-11-22."]


def test_what_is_always_free_explains_nothing(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    Path("a.jpg").write_bytes(picture(1))
    Path("in.csv").write_text("img\na.jpg\n")
    run("bulk", "add-face", "in.csv", "-o", "out.csv", "--base-url", vendor_of(lambda n: answer(3)).url)
    assert said("show", "out.csv.ledger")["unknown"] == 1
    today = datetime.now(UTC).date()
    text = f"day,endpoint,count\n{today - timedelta(1)},addface,0\n{today},addface,1\n{today},shipping,2\n"
    result = run("ledger", "reconcile", "out.csv.ledger", "--invoice", invoice(text))
    assert result.exit_code == 1
    assert [line[1:] for line in lines(result)[1:3]] == [
        ["addface", "0", "0", "1", "1", "they charge 1 more, and the unknown explain 0 at most"],
        ["shipping", "0", "0", "2", "2", "they charge 2 of a service that is not known by this name"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("day,endpoint\n", "'invoice.csv' has no column 'charged' for the invoice (say which with --count COLUMN)"),
        ("day,endpoint,count\n", "'invoice.csv' has no rows"),
        ("day,endpoint,count\n23/31/2026,x,1\n", "line 2 of 'invoice.csv': '23/31/2026' is no day like 2026-11-23: me"),
        ("day,endpoint,count\n2026-13-01,x,1\n", "line 2 of 'invoice.csv': '2026-13-01' is no day like"),
        ("day,endpoint,count\n2026-11-23,x,1.5\n", "line 2 of 'invoice.csv': '1.5' is no count of charges: mend it"),
        (
            "day,endpoint,count\n\n2026-11-23,x\n",
            "line 3 of 'invoice.csv': it has no count and no amount: fill them in",
        ),
        ("", "'invoice.csv' is empty"),
        (None, "the input 'invoice.csv' does not exist"),
    ],
)
def test_invoices_that_cannot_be_read(file: str, text: str | None, problem: str) -> None:
    if text is not None:
        invoice(text)
    result = run("ledger", "reconcile", file, "--invoice", "invoice.csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert the_error(result).startswith(problem)


# ----------------------------------------------------------------------------------------------------- to settle


def test_resolve(file: str) -> None:
    result = run("ledger", "resolve", file, "A-3", "charged")
    assert (result.exit_code, result.stderr) == (
        0,
        "1 of 'A-3' settled as charged: it stays held, and --retry-unknown 1 buys the answer again\n",
    )
    assert said("resolve", file, "A-8", "free") == {"resolved": 1}
    found = said("show", file)
    assert [found[name] for name in ("charged", "free", "unknown", "held", "cost")] == [10, 4, 1, 2, "0.500000"]
    again = run("ledger", "resolve", file, "A-3", "charged", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (1, {"resolved": 0})
    assert the_error(again).startswith("no attempt of 'A-3' is unknown: aisolution ledger attempts --unknown lists")
    assert run("ledger", "resolve", file, "A-13", "unknown").exit_code == 2
    assert said("resolve", file, "14", "free", "--by-id") == {"resolved": 1}
    assert the_error(run("ledger", "resolve", file, "A-13", "free", "--by-id")).startswith("--by-id: 'A-13' is no id")


def test_purge(file: str, calendar: Calendar) -> None:
    """By age, for good, and what is held stays."""
    calendar.today = DAY + timedelta(days=1, hours=12)
    assert run("ledger", "purge", file, "--older-than", "90d").stderr.startswith("0 attempts were emptied")
    assert said("purge", file, "--older-than", "13h") == {"purged": 4}
    assert b"calc" in Path(file).read_bytes()
    run("ledger", "export", file, "-o", "out.jsonl")
    assert len(Path("out.jsonl").read_text().splitlines()) == 6
    result = run("ledger", "purge", file, "--older-than", "0d")
    assert result.stderr == "8 attempts were emptied: what they answered would be asked, and paid for, again\n"
    assert b"calc" not in Path(file).read_bytes()
    found = said("show", file)
    assert [found[name] for name in ("charged", "free", "unknown", "held")] == [9, 3, 3, 3]


@pytest.mark.parametrize("age", ["90", "d", "-1d", "1.5d", "1y", "9999999d"])
def test_ages_that_are_none(file: str, age: str) -> None:
    result = run("ledger", "purge", file, f"--older-than={age}")
    assert (result.exit_code, the_error(result)) == (2, f"--older-than {age!r} is no age: it is like 90d, 12h or 0d")


# ------------------------------------------------------------------------------------------------------ no ledger

USES = [
    ["show"],
    ["attempts"],
    ["export", "-o", "new.csv"],
    ["reconcile", "--invoice", "invoice.csv"],
    ["resolve", "KEY", "free"],
    ["purge", "--older-than", "0d"],
]


def use(words: list[str], file: str) -> Result:
    command, *rest = words
    return run("ledger", command, file, *rest)


@pytest.mark.parametrize("words", USES, ids=lambda words: words[0])
def test_files_that_are_no_ledger(words: list[str]) -> None:
    invoice("day,endpoint,count\n2026-11-23,x,1\n")
    Path("folder").mkdir()
    Path("text").write_text("no ledger at all")
    Path("text").chmod(0o644)
    with sqlite3.connect("other") as db:
        db.execute("CREATE TABLE x (y)")
    db.close()
    asyncio.run(_begin("new", "A", end=True))
    with sqlite3.connect("new") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = left()
    here = Path.cwd()
    for file, problem in (
        ("nowhere", f"there is no ledger {here}/nowhere: check the path"),
        ("folder", f"the ledger {here}/folder is a folder: name a file in it"),
        ("text", f"{here}/text is no ledger, or damaged: name another file, or restore this one from a copy"),
        ("other", f"{here}/other is a database of something else, and no ledger: give the ledger a file of its own"),
        (
            "new",
            f"the ledger {here}/new is of version 99, and this aisolution-async knows 4 at most: install the newer",
        ),
    ):
        result = use(words, file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert the_error(result).startswith(problem)
        assert len(result.stderr.splitlines()) == 1
        assert left() == before
    assert Path("text").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("words", USES, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("there", "named", "said"),
    [
        ("out.csv.sandbox.ledger", "out.csv.ledger", "out.csv.sandbox.ledger (the sandbox's)"),
        ("out.csv.ledger", "out.csv.sandbox.ledger", "out.csv.ledger (the vendor's)"),
        ("out.csv.ledger", "out.csv", "out.csv.ledger (the vendor's)"),
        ("out.csv.sandbox.ledger", "results", None),
    ],
)
def test_the_other_ledger_is_named(words: list[str], there: str, named: str, said: str | None) -> None:
    invoice("day,endpoint,count\n2026-11-23,x,1\n")
    Path("out.csv").write_text("phone,ok\n1,true\n")
    asyncio.run(_begin(there, "A", end=True))
    before = left()
    result = use(words, named)
    assert (result.exit_code, result.stdout) == (2, "")
    beside = "check the path" if said is None else f"beside it is {said}"
    assert the_error(result) == f"there is no ledger {Path.cwd()}/{named}: {beside}"
    assert left() == before


def test_help() -> None:
    text = CliRunner().invoke(aisolution, ["ledger", "--help"]).output
    for words in USES:
        assert words[0] in text
        assert CliRunner().invoke(aisolution, ["ledger", words[0], "--help"]).exit_code == 0


def test_a_reader_that_goes_away(file: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "ledger", "attempts", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["attempts"], ["attempts", "--json"]])
def test_what_stdout_does_not_take(file: str, words: list[str]) -> None:
    done = onto_a_full_disk("ledger", words[0], file, *words[1:])
    assert (done.returncode, done.stderr) == (1, f"{FULL}\n")


def test_outputs_are_only_taken_from_the_dead(file: str) -> None:
    """An export does not write into what another program is writing."""
    output = outputs.Output(Path("new.csv"), Path(file))
    output.open(["a"], replace=False)
    result = run("ledger", "export", file, "-o", "new.csv", "--overwrite")
    assert (result.exit_code, "another run is writing it" in the_error(result)) == (2, True)
    output.close()
    assert run("ledger", "export", file, "-o", "new.csv").exit_code == 0
