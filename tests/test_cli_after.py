"""What a run says at its end: whether it is finished, the first problems, and the commands to go on by."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from click.testing import CliRunner, Result
from openpyxl import load_workbook

from aisolution_async.batching import Progress
from aisolution_async.bulk import shell
from aisolution_async.bulk.summary import Summary
from aisolution_async.cli import bulk as bulk_commands
from aisolution_async.cli import running as running_commands
from aisolution_async.cli import show
from aisolution_async.cli.commands import aisolution
from aisolution_async.ledger.urls import Server

from .commands import PROFILE, ok, run
from .servers import running
from .sheets import read
from .support import LAST_RESORT, TOKEN, ThreadVendor, VendorOf

pytestmark = pytest.mark.usefixtures("command_environment")

SPACED = "id,phone\nA,081200000000\nB,12\nC,081200000003\n"


@pytest.fixture
def vendor(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> ThreadVendor:
    """It asks for no more than the token in the environment, and where it is."""
    found = vendor_of(lambda n: ok(PROFILE))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    monkeypatch.setenv("AISOLUTION_BASE_URL", found.url)
    return found


def bulk(source: str, output: str, *more: object) -> Result:
    return run("bulk", "whatsapp-detail", source, "-o", output, "--country", "ID", *more)


def commands(result: Result) -> list[list[str]]:
    """The commands that are told, as a shell takes them, without the program's own name."""
    lines = [line.partition("aisolution bulk ")[2] for line in result.stderr.splitlines()]
    found = [line.partition(", where FILE")[0] for line in lines if line]
    return [["bulk", *shlex.split(line)] for line in found]


def test_a_run_that_is_finished_says_so(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text("phone\n081200000000\n081200000001\n")
    for _ in range(2):
        result = bulk("in.csv", "out.csv")
        assert result.exit_code == 0
        assert result.stderr.splitlines()[-1] == "finished: all 2 rows are answered, and nothing is left to do"
        assert commands(result) == []
    assert "finished" not in bulk("in.csv", "out.csv", "--quiet").stderr


@pytest.mark.parametrize("mend", [None, "mend it.csv"])
def test_the_next_command_is_whole(mend: str | None, vendor: ThreadVendor) -> None:
    """It is pasted as it is, with any name of a file, and comes to the same end."""
    Path("a  list & more.csv").write_text(SPACED)
    Path("else where").mkdir()
    words = ["--ledger", "else where/my ledger"] + ([] if mend is None else ["--errors", mend])
    result = bulk("a  list & more.csv", "my  out's.csv", *words, "--base-url", vendor.url)
    [again] = commands(result)
    ledger = ["--ledger", "else where/my ledger"]
    assert again[:3] == ["bulk", "--resume", "my  out's.csv"]
    assert sorted(again[3:]) == sorted(["--base-url", vendor.url] + ([] if "--ledger" not in again else ledger))
    for name in (mend, "a  list & more.csv"):
        if name is not None:
            Path(name).write_text(Path(name).read_text().replace("B,12", "B,081200000002"))
            break
    result = run(*again)
    assert (result.exit_code, len(vendor.requests)) == (0, 3)
    assert "finished: all 3 rows are answered" in result.stderr


def test_the_url_of_a_ledger_is_quoted_and_its_password_is_not_told(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(SPACED)
    url = running().url(user="postgres:s3cret") + "&connect_timeout=7"
    result = bulk("in.csv", "out.csv", "--ledger", url)
    shown = str(Server(url))
    assert "&" in shown
    assert f"aisolution bulk --resume out.csv --ledger '{shown}'" in result.stderr
    assert "s3cret" not in result.stderr
    refused = run("bulk", "--resume", "out.csv")
    assert refused.stderr.startswith("the whole command is: aisolution bulk --resume out.csv --ledger '…'\nerror: ")
    Path("in.csv").write_text(SPACED.replace("B,12", "B,081200000002"))
    assert run(*commands(result)[0]).exit_code == 0
    assert len(vendor.requests) == 3


def test_a_folder_is_gone_on_with_by_a_whole_command_too(vendor: ThreadVendor) -> None:
    Path("my lists").mkdir()
    Path("my lists/a.csv").write_text(SPACED)
    Path("my lists/b.csv").write_text("phone\n081200000005\n")
    Path("aside").mkdir()
    result = bulk("my lists", "the results", "--ledger", "../" + Path.cwd().name + "/aside/x.ledger")
    assert "3 of 4 rows of all 2 shards are answered; left to do: 1 with problems\n" in result.stderr
    assert "- a.csv: line 3: column 'phone': number is no phone number" in result.stderr
    [again] = commands(result)
    assert again[:3] == ["bulk", "--resume", "the results"]
    assert Path("my lists/a.csv").write_text(SPACED.replace("B,12", "B,081200000002"))
    result = run(*again)
    assert "finished: all 4 rows of all 2 shards are answered, and nothing is left to do\n" in result.stderr
    assert len(vendor.requests) == 4


def test_the_first_problems_are_told_without_what_is_personal(vendor: ThreadVendor) -> None:
    rows = "".join(f"{n},62812000{n}x,0812-3456-70{n}\n" for n in range(10, 20))
    Path("in.csv").write_text("id,phone,img\n" + rows)
    result = bulk("in.csv", "out.csv", "--endpoint", "id-holding")
    lines = [line for line in result.stderr.splitlines() if line.startswith("- ")]
    assert len(lines) == 6
    assert lines[0].startswith("- line 2: column 'phone': ")
    assert lines[1].startswith("- line 2: column 'img': ")
    assert lines[-1] == "- and so on: the column 'problem' of the results says it of each row (5 more)"
    assert "3456" not in result.stderr
    assert vendor.requests == []


def test_what_the_vendor_finds_wrong_is_told_with_its_column(
    vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    vendor = vendor_of(lambda n: {"status": "INVALID_INPUT", "message": "no"})
    Path("in.csv").write_text("\nthe phone\n081200000000\n")
    result = bulk("in.csv", "out.csv", "--number", "the phone", "--base-url", vendor.url)
    assert "- line 3: column 'the phone': gliswadetail: INVALID_INPUT" in result.stderr


def test_what_is_being_checked_is_asked_again_by_a_command(
    vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    states = iter(["checking", "yes", "yes"])
    vendor = vendor_of(lambda n: ok({**PROFILE, "whatsapp": next(states)}))
    Path("in.csv").write_text("phone\n081200000000\n081200000001\n")
    result = bulk("in.csv", "out.csv", "--base-url", vendor.url, "--concurrency", 1)
    assert "1 of 2 rows are answered; left to do: 1 still being checked\n" in result.stderr
    [again] = commands(result)
    assert again == ["bulk", "--resume", "out.csv", "--base-url", vendor.url, "--recheck"]
    assert run(*again).exit_code == 0


def test_a_limit_is_raised_by_a_command(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text("phone\n081200000000\n081200000001\n081200000002\n")
    limits = ["--max-cost", "0.05", "--price", "whatsapp-detail=0.05"]
    for options, name in ((["--max-charges", 1], "--max-charges"), (limits, "--max-cost")):
        result = bulk("in.csv", "out.csv", *options, "--overwrite")
        assert "with a higher one for N: aisolution bulk --resume out.csv " in result.stderr
        assert commands(result)[0][3:] == [name, "N"]


@pytest.mark.parametrize("output", ["out.jsonl", "-"])
def test_rows_from_standard_input_are_named(output: str, vendor: ThreadVendor) -> None:
    words = ["bulk", "whatsapp-detail", "-", "-o", output, "--max-charges", "1", "--ledger", "in here.ledger"]
    lines = '{"number": "+6281200000000"}\n{"number": "+6281200000001"}\n'
    result = CliRunner().invoke(aisolution, words, input=lines, prog_name="aisolution")
    assert "FILE, where FILE has the rows that were read here" in result.stderr.replace(" N,", ",").replace(
        " --max-charges", ""
    )
    [again] = commands(result)
    assert "--ledger" not in again or "in here.ledger" in again
    if output == "-":
        assert again[:5] == ["bulk", "whatsapp-detail", "-", "-o", "-"]
        assert again[-2:] == ["<", "FILE"]
    else:
        assert again[:5] == ["bulk", "--resume", "out.jsonl", "--input", "FILE"]


def test_without_a_ledger_what_was_mended_has_an_output_of_its_own(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(SPACED)
    result = bulk("in.csv", "out.csv", "--no-ledger", "--errors", "mend.csv")
    [again] = commands(result)
    assert again[:5] == ["bulk", "whatsapp-detail", "mend.csv", "-o", "out-mended.csv"]
    Path("mend.csv").write_text(Path("mend.csv").read_text().replace("B,12", "B,081200000002"))
    assert run(*again).exit_code == 0
    assert len(vendor.requests) == 3
    assert "pays for, all rows again; --ledger FILE changes" in bulk("in.csv", "-", "--no-ledger").stderr


def test_what_was_stopped_before_it_began_is_begun_again(vendor: ThreadVendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no note to go on from yet."""
    real = running_commands.connected

    def slow(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(bulk_commands, "connected", slow)
    Path("in.csv").write_text("phone\n081200000000\n")
    result = bulk("in.csv", "out.csv")
    monkeypatch.setattr(bulk_commands, "connected", real)
    assert (result.exit_code, "not finished: 0 rows are answered so far\n" in result.stderr) == (130, True)
    [again] = commands(result)
    assert again == ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--country", "ID"]
    assert run(*again).exit_code == 0


def test_a_sample_says_how_to_ask_the_rest(vendor: ThreadVendor) -> None:
    Path("the list.csv").write_text("phone\n081200000000\n081200000001\n081200000002\n")
    result = bulk("the list.csv", "out.csv", "--sample", 2, "--concurrency", 3)
    [again] = commands(result)
    assert again == [
        *("bulk", "whatsapp-detail", "the list.csv", "-o", "out.csv", "--country", "ID", "--concurrency", "3"),
    ]
    assert run(*again).exit_code == 0
    assert len(vendor.requests) == 3


def test_no_command_holds_what_may_be_secret(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(SPACED)
    url = "https://lender.example/in?key=s3cret"
    for options, shown in (
        (["--callback", url], ["--callback", "…"]),
        (["--value", f"callback={url}"], ["--value", "callback=…"]),
    ):
        for more in ([], ["--sample", "1"]):
            result = bulk("in.csv", "out.csv", *options, *more)
            [again] = commands(result)
            assert again[again.index(options[0]) :][:2] == shown
            assert "s3cret" not in result.stderr


def test_a_named_file_of_options_is_named_again(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(SPACED)
    Path("my options.toml").write_text('[bulk]\nprice = {whatsapp-detail = "0.5"}\n')
    words = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--country", "ID", "--sample", "2"]
    result = run("--config", "my options.toml", *words)
    [again] = commands(result)
    assert again[-2:] == ["--config", "my options.toml"]


def test_commands_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["aisolution", "C:\\my lists\\a.csv", "b.csv", "postgresql://h/d?a=b&c=d", 'the "new" one']
    assert shlex.split(shell.shown(*words)) == words
    monkeypatch.setattr(os, "name", "nt")
    said = r'aisolution "C:\my lists\a.csv" b.csv "postgresql://h/d?a=b&c=d" "the \"new\" one"'
    assert shell.shown(*words) == said


def test_only_the_first_problems_are_kept() -> None:
    done, other = Summary(), Summary()
    for number in range(9):
        other.show(f"line {number}: photo '62812-3456-789 {number}.jpg' is not there")
    done.add(other, "a.csv")
    assert [line[:14] for line in done.first_problems] == [f"a.csv: line {n}:"[:14] for n in range(5)]
    assert "3456" not in str(done.first_problems)


# ------------------------------------------------------------------------------------- rows that nobody is asked about

TABLE: list[list[str | None]] = [
    ["id", "phone", "note"],
    ["A", "081200000000", "x"],
    [],
    [],
    ["B", "081200000001", "x"],
    ["Total", None, None],
]


def sheet(ending: str) -> Path:
    """A list with two empty rows among the others."""
    path = Path(f"in{ending}")
    if ending == ".xlsx":
        book = openpyxl.Workbook()
        assert book.active is not None
        for row in TABLE:
            book.active.append(row)
        book.save(path)
    elif ending == ".csv":
        path.write_text("\n".join(",".join(cell or "" for cell in row) for row in TABLE) + "\n\n")
    elif ending == ".jsonl":
        lines = [json.dumps(dict(zip(TABLE[0], row, strict=True))) if row else "" for row in TABLE[1:-1]]
        path.write_text("\n".join(lines) + "\n\n")
    else:
        lines = ["".join(f"<td>{cell or ''}" for cell in row) for row in TABLE]
        path.write_text(f"<table>{''.join(f'<tr>{row}' for row in lines)}</table>")
    return path


@pytest.mark.parametrize("ending", [".xlsx", ".csv", ".jsonl", ".xls"])
def test_empty_rows_are_told(ending: str, vendor: ThreadVendor) -> None:
    words = ["bulk", "whatsapp-detail", sheet(ending), "-o", "out.csv", "--country", "ID"]
    for more in (["--dry-run"], []):
        result = run(*words, *more)
        assert result.exit_code == 0, result.stderr
        [left_out] = [line for line in result.stderr.splitlines() if line.startswith("left out ")]
        assert "2 empty rows among the others" in left_out
    assert json.loads(run(*words, "--json").stdout)["blank"] == 2
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("ending", [".xlsx", ".csv"])
def test_progress_comes_to_its_end_where_there_are_totals(
    ending: str, vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last answer is kept back until the total is right."""
    is_right = threading.Event()

    class Seen(show.Lines):
        def update(self, progress: Progress, total: int | None, *_: Any, **__: Any) -> None:
            if total == 2:
                is_right.set()

    def answer(number: int) -> object:
        return ok(PROFILE) if number == 0 or is_right.wait(LAST_RESORT) else None

    monkeypatch.setattr(show, "PLAIN_EVERY", 0.001)
    monkeypatch.setattr(show, "display", lambda *_: Seen())
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    vendor = vendor_of(answer)
    assert bulk(str(sheet(ending)), "out.csv", "--base-url", vendor.url).exit_code == 0
    assert is_right.is_set()


def test_the_workbook_and_the_screen_count_the_same(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever run a call was of, and whether anything was sent: still checking, not sent, like another row."""
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    is_known = False

    def answer(number: int) -> object:
        is_checking = "1" in asked.requests[number]["number"][0][-1] and not is_known
        return ok({**PROFILE, "whatsapp": "checking" if is_checking else "yes"})

    asked = vendor_of(answer)
    numbers = ["081200000000", "081200000001", "081200000002", "12", "081200000000", "n/a"]
    Path("in.csv").write_text("phone\n" + "".join(f"{number}\n" for number in numbers))
    for free in (4, 3):
        result = bulk("in.csv", "out.xlsx", "--base-url", asked.url)
        [line] = [line for line in result.stderr.splitlines() if line.startswith("calls ")]
        rows = {str(row[0]): row for row in load_workbook("out.xlsx")["Summary"].iter_rows(values_only=True)}
        counts = {charge: rows[f"WhatsApp detail: {charge}"][1] for charge in ("charged", "free", "unknown")}
        said = " · ".join(f"{charge} {count}" for charge, count in counts.items())
        assert line == f"calls           {said}: 3 of the free were not sent"
        assert counts["free"] == free
        assert rows["WhatsApp detail: free"][3] == "Not charged, or not sent: 3 not sent."
        is_known = True


@pytest.mark.parametrize("concurrency", [1, 5])
def test_a_row_that_is_like_another_says_which(concurrency: int, vendor: ThreadVendor) -> None:
    """By the line of the list, whatever stands between, and whether it was asked, cannot be asked, or is resumed."""
    numbers = ["081200000000", "081200000001", '"081200000002"', "081200000001", "+6281200000001", "12", "12"]
    Path("in.csv").write_text("phone,note\n" + "".join(f'{n},"a\n\nb"\n\n' for n in numbers))
    for _ in range(2):
        bulk("in.csv", "out.csv", "--concurrency", concurrency, "--endpoint", "id-holding", "--img", "note")
        rows = read(Path("out.csv"))
        said = [row["whatsapp_detail_status"] for row in rows]
        assert said[:5] == ["OK", "OK", "OK", "the same as line 6", "the same as line 6"]
        assert not any("the same as" in status for status in said[5:])
        assert [row["whatsapp_detail_ok"] for row in rows[:5]] == ["true"] * 5
    assert len(vendor.requests) == 3


def test_a_row_that_fails_like_another_says_which(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    vendor = vendor_of(lambda n: {"status": "QUOTA_EXCEEDED", "message": "no"})  # it may have been charged
    Path("in.csv").write_text("phone\n081200000000\n081200000001\n081200000000\n081200000001\n")
    for options in (["--no-ledger"], []):
        bulk("in.csv", "out.csv", "--base-url", vendor.url, *options, "--overwrite")
        statuses = [row["status"] for row in read(Path("out.csv"))]
        assert statuses == [*["QUOTA_EXCEEDED"] * 2, "the same as line 2", "the same as line 3"]


def test_a_dry_run_does_without_a_place(vendor: ThreadVendor) -> None:
    """It writes nothing: that the run itself would not begin is a note."""
    Path("in.csv").write_text("phone\n081200000000\n")
    Path("out.csv").write_text("something else\n")
    result = bulk("in.csv", "out.csv", "--dry-run")
    assert (result.exit_code, Path("out.csv").read_text()) == (0, "something else\n")
    assert "a run would not begin: 'out.csv' exists already and may hold results" in result.stderr
    assert "to be sent      1 call\n" in result.stderr
    assert bulk("in.csv", "out.csv").exit_code == 2
    assert "would not begin" not in bulk("in.csv", "out.csv", "--dry-run", "--overwrite").stderr


def test_a_report_says_what_it_lacks(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text("phone\n081200000000\n")
    url = running().url()
    assert bulk("in.csv", "out.csv", "--ledger", url).exit_code == 0
    result = run("report", "out.csv", "-o", "a.html")
    assert result.exit_code == 0
    assert "Say where it is, a file or a URL: --ledger 'postgresql://host/database?schema=applicants'." in result.stderr
    result = run("report", "out.csv", "-o", "b.html", "--ledger", url)
    assert result.stderr == "the report is in b.html\n"
    result = run("report", "nowhere", "-o", "c.html", "--ledger", url)
    assert "there are no results 'nowhere': check the path" in result.stderr


def test_formulas_that_were_never_calculated(vendor: ThreadVendor) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["phone", "note"], ['="0812"&"00000000"', "x"], ["081200000001", "x"]):
        book.active.append(row)
    book.save("in.xlsx")
    result = bulk("in.xlsx", "out.csv")
    said = "column 'phone' is a formula that was never calculated: open and save the list in a spreadsheet program"
    remedy = "(Excel, LibreOffice), which calculates it; until then it reads #UNCALCULATED"
    assert f"- row 2: {said} {remedy}\n" in result.stderr


def test_workers_that_share_a_log_name_themselves(vendor: ThreadVendor) -> None:
    """In each line; a run that has no others beside it says no name."""
    Path("lists").mkdir()
    Path("lists/a.csv").write_text(SPACED)
    alone = bulk("lists", "alone")
    assert "worker" not in alone.stderr
    words = ("--ledger", running().url(), "--max-charges", 1)
    for more in ((), ("--endpoint", "face-compare")):
        result = bulk("lists", f"out{len(more)}", *words, *more)
        assert result.stderr
        me = f"worker {os.getpid()}: "
        assert [line for line in result.stderr.splitlines() if not line.removeprefix("error: ").startswith(me)] == []
