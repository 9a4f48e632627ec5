"""The command line, as people and scripts use it: in this process where that will do, as a process where it matters."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from openpyxl import load_workbook
from rich.cells import cell_len
from rich.console import Console

import aisolution_async
from aisolution_async.api import CALLS
from aisolution_async.batching import Progress
from aisolution_async.batching.outlet import Parked
from aisolution_async.bulk import Summary, facts
from aisolution_async.bulk.durations import clock
from aisolution_async.bulk.rows import Rows
from aisolution_async.charges import Charge, Tally
from aisolution_async.cli import bulk as bulk_commands
from aisolution_async.cli import demo, ending, main, running, show
from aisolution_async.cli.commands import aisolution
from aisolution_async.cli.lazy import Lazy
from aisolution_async.errors import AISolutionError
from aisolution_async.sandbox import Sandbox

from . import forks
from .commands import (
    COMMAND,
    FULL,
    MAIN,
    PROFILE,
    Stall,
    left,
    numbers,
    ok,
    onto_a_full_disk,
    python,
    run,
    settled,
    the_error,
)
from .sheets import fill_disk
from .support import GROUP_ID, LAST_RESORT, TOKEN, VendorOf, picture

pytestmark = pytest.mark.usefixtures("command_environment")

# ------------------------------------------------------------------------------------------------------- as a whole


def test_version_and_help() -> None:
    assert run("--version").output == f"aisolution, version {aisolution_async.__version__}\n"
    text = run("--help").output
    assert "aisolution demo" in text
    for code in (0, 1, 2, 3, 4, 130):
        assert re.search(rf"^ +{code} +\w", text, re.MULTILINE)


@pytest.mark.parametrize("group", ["call", "bulk"])
def test_every_endpoint_has_its_commands(group: str) -> None:
    text = run(group, "--help").output
    for call in CALLS:
        assert call.endpoint.command in text
        help_text = run(group, call.endpoint.command, "--help").output
        assert call.endpoint.summary in help_text
        for parameter in call.endpoint.parameters:
            assert re.search(rf"\b{parameter.name.replace('_', '[-_]')}\b", help_text, re.IGNORECASE)


def test_the_token_is_no_option() -> None:
    for arguments in (["call", "delete-face", "x"], ["bulk", "delete-face", "x.csv", "-o", "y.csv"]):
        result = CliRunner().invoke(aisolution, [*arguments, "--token", "secret"])
        assert result.exit_code == 2
        assert "No such option" in result.output


_SLOW = ("rich", "PIL", "httpx", "phonenumbers", "uvloop", "sqlite3")
_OURS = ("client", "batching", "sending", "wire", "ledger", "bulk", "sandbox", "cli.running", "cli.show")


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["--help"], ["pydantic", "asyncio", "tomllib", "aisolution_async.api"]),
        (["--version"], ["pydantic", "asyncio", "tomllib", "aisolution_async.api"]),
        (["bulk", "--help"], ["tomllib"]),
        (["call", "--help"], ["tomllib"]),
        (["ledger", "--help"], ["PIL", "aisolution_async.sandbox"]),
    ],
)
def test_help_imports_nothing_that_it_does_not_need(arguments: list[str], others: list[str]) -> None:
    script = f"import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules))); {MAIN}"
    done = python(script, *arguments)
    assert done.returncode == 0
    unwanted = (
        {*others} if arguments[0] == "ledger" else {*others, *_SLOW, *(f"aisolution_async.{name}" for name in _OURS)}
    )
    assert unwanted & {*done.stderr.split()} - _imported_by_itself() == set()


def _imported_by_itself() -> set[str]:
    """What Python imports here before any script: what the packages that are installed ask for."""
    return {*python("import sys; print(*sys.modules)").stdout.split()}


def test_a_run_imports_no_sandbox_and_no_report() -> None:
    """Nor what draws pictures: they take as long to import as a row takes to be asked."""
    script = "import sys, aisolution_async.cli.bulk; print(*sys.modules)"
    unwanted = {"PIL", "matplotlib", "aisolution_async.sandbox", "aisolution_async.bulk.report.page", "tomllib"}
    assert unwanted & {*python(script).stdout.split()} - _imported_by_itself() == set()


def _groups() -> Iterator[Lazy]:
    aisolution.load_all()  # each is imported as it is called
    yield aisolution
    yield from (each for each in aisolution.commands.values() if isinstance(each, Lazy))


def test_the_list_of_commands_says_of_each_what_it_says_itself() -> None:
    for group in _groups():
        assert group.offers()
        for name, offered in group.offers().items():
            command = group.imported(name)
            assert (command.name, command.get_short_help_str(300)) == (name, offered.get_short_help_str(300))


@pytest.mark.parametrize("missing", ["click", "rich", "PIL"])
def test_without_the_extra(missing: str) -> None:
    done = python(f"import sys; sys.modules[{missing!r}] = None; {MAIN}", "--help")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {missing} is missing, and the command needs it: pip install ")
    assert "pip install 'aisolution-async[cli]'" in done.stderr
    assert "pip install '.[cli]'" in done.stderr


def test_a_bug_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aisolution_async.cli.commands", None)
    with pytest.raises(ModuleNotFoundError):
        main()


def test_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aisolution", "--version"])
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    out.write("2 · 3 … क")  # characters that it lacks are no reason to fail
    out.flush()
    assert written.getvalue().endswith(b"2 - 3 ... ?")


# --------------------------------------------------------------------------------------------------------- one call


def test_call_for_people_and_for_machines() -> None:
    Path("a.jpg").write_bytes(picture(1))
    Path("b.jpg").write_bytes(picture(1, quality=60))
    result = run("call", "face-compare", "a.jpg", "b.jpg", "--sandbox")
    assert result.exit_code == 0
    found = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert float(found.pop("similarity")) > 90
    assert found == {"result": "SAME PERSON", "charge": "charged", "attempts": "1"}
    result = run("call", "face-compare", "a.jpg", "b.jpg", "--sandbox", "--json")
    said = json.loads(result.stdout)
    assert said.pop("answer")["result"] == "SAME PERSON"
    assert said == {
        "ok": True,
        "endpoint": "facecompare",
        "charge": "charged",
        "status": "OK",
        "attempts": 1,
        "error": None,
        "problem": None,
    }


def test_call_of_every_other_endpoint() -> None:
    Path("a.jpg").write_bytes(picture(1))
    assert run("call", "search-face", "a.jpg", "--sandbox").stdout.split()[:2] == ["matches", "0"]
    assert run("call", "whatsapp-detail", "081387300008", "--country", "ID", "--servstatus", "--sandbox").exit_code == 0
    result = run("call", "id-holding", "a.jpg", "--sandbox")
    assert "similarity" in result.stdout or "INVALID_FACE_NUM" in the_error(result)
    result = run("call", "delete-face", "nobody", "--sandbox", "--json")
    assert result.exit_code == 1
    assert the_error(result).startswith("delface: PERSON_ID_NOT_EXIST: no such person was added")
    said = json.loads(result.stdout)
    assert (said["ok"], said["error"], said["charge"]) == (False, "PersonNotFoundError", "free")
    assert the_error(result) == said["problem"]


def test_matches_are_listed(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.jpg").write_bytes(picture(1))
    vendor = vendor_of(lambda n: ok([{"confidence": 99.5, "person_id": "c5r7"}, {"confidence": 71, "person_id": "d6"}]))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    result = run("call", "search-face", "a.jpg", "--base-url", vendor.url)
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["matches", "2"],
        ["confidence", "99.5", "person_id", "c5r7"],
        ["confidence", "71.0", "person_id", "d6"],
        ["charge", "charged"],
        ["attempts", "1"],
    ]


def test_the_group_id_is_shown_to_who_asks_for_it(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.jpg").write_bytes(picture(1))
    vendor = vendor_of(lambda n: ok({"group_id": GROUP_ID, "person_id": "c5r7", "person_count": 2}))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor.url)
    for form in ([], ["--json"]):
        assert GROUP_ID not in run("call", "add-face", "a.jpg", *form).output
        assert GROUP_ID in run("call", "add-face", "a.jpg", *form, "--show-group-id").output


def test_strangers_have_no_power_over_the_terminal(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "[bold]\x1b]0;owned\x07\x1b[31mred\x9b2J\u202eevil\r\nerror: [/]\x00\u2028x 💪🏽\u200d"
    vendor = vendor_of(lambda n: ok({**PROFILE, "signature": hostile, "avatar": "\x1b"}))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor.url)
    result = run("call", "whatsapp-detail", "+6281387300008")
    assert re.search(r"^signature +\[bold\]redevil error: \[/\] x 💪🏽", result.stdout, re.MULTILINE)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", result.stdout)
    result = run("call", "whatsapp-detail", "+6281387300008", "--json")
    assert result.stdout.isascii()
    assert json.loads(result.stdout)["answer"]["signature"] == hostile


def test_a_token_that_is_echoed_is_not_printed(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendor_of(lambda n: ok({**PROFILE, "signature": f"a {TOKEN} b {quote(TOKEN, safe='')}"}))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    for form in ([], ["--json"]):
        result = run("call", "whatsapp-detail", "+6281387300008", "--base-url", vendor.url, *form)
        assert quote(TOKEN, safe="") not in result.stdout
        assert ("a \\u2026 b \\u2026" if form else "a … b …") in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["face-compare", "a.jpg", "nowhere.jpg"], 1, "img2 'nowhere.jpg' does not exist"),
        (["face-compare", "folder", "a.jpg"], 1, "img1 'folder' is a directory: name an image file in it"),
        (["search-face", "text.jpg"], 1, "img 'text.jpg' is not an image but text"),
        (["search-face", "empty.jpg"], 1, "img 'empty.jpg' is empty"),
        (["search-face", "huge.jpg", "--no-fit"], 1, "img 'huge.jpg' is 19.1 MiB"),
        (["whatsapp-detail", "6.28E+12"], 1, "number was shortened by a spreadsheet"),
        (["whatsapp-detail", "081387300008", "--country", "Indonesia"], 1, "country is no two-letter country code"),
    ],
)
def test_calls_that_cannot_be_sent(arguments: list[str], code: int, problem: str) -> None:
    Path("a.jpg").write_bytes(picture(1))
    Path("folder").mkdir()
    Path("text.jpg").write_text("not a photo at all")
    Path("empty.jpg").write_bytes(b"")
    Path("huge.jpg").write_bytes(picture(1) + bytes(20_000_000))
    result = run("call", *arguments, "--sandbox")
    assert result.exit_code == code
    assert the_error(result).startswith(problem)
    assert result.stdout == ""


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    monkeypatch.setattr(aisolution_async.Retry, "allows", lambda *_, **__: False)  # the waits are real here
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = run("call", "whatsapp-detail", "+6281387300008", "--base-url", url)
        assert result.exit_code == 3
        assert "gliswadetail: not sent: no connection" in the_error(result)
        numbers(3)
        result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", url)
    assert result.exit_code == 3
    assert len(Path("out.csv").read_text().splitlines()) == 4


# ------------------------------------------------------------------------------------------------------ being let in


def test_no_token() -> None:
    numbers(1)
    for arguments in (["call", "delete-face", "x"], ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert the_error(result) == "no token: set AISOLUTION_TOKEN, name a --token-file, or try it with --sandbox"
    assert left() == {"in.csv"}


def test_token_file(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendor_of(lambda n: ok(PROFILE))
    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor.url)
    path = Path("token")
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    result = run("call", "whatsapp-detail", "+6281387300008", "--token-file", path)
    assert (result.exit_code, "token file" in result.stderr) == (0, False)
    path.chmod(0o644)
    result = run("call", "whatsapp-detail", "+6281387300008", "--token-file", path)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        0,
        "warning: the token file 'token' can be read by others: chmod 600 it",
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b" \n", "it is empty"),
        (b"x" * 5000, "it is too long for a token"),
        (b"\xff\xfe", "it is no text"),
    ],
)
def test_token_files_that_are_none(content: bytes | None, problem: str) -> None:
    if content is not None:
        Path("token").write_bytes(content)
    result = run("call", "delete-face", "x", "--token-file", "token")
    assert result.exit_code == 2
    assert the_error(result) == f"the token file 'token' cannot be used: {problem}"


def test_tokens_and_addresses_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    result = run("call", "delete-face", "x", "--base-url", "http://vendor.example")
    assert result.exit_code == 2
    assert "https" in the_error(result)
    result = run("call", "delete-face", "x", "--sandbox", "--base-url", "https://vendor.example")
    assert result.exit_code == 2
    assert the_error(result).startswith("--sandbox has its own token and address")
    monkeypatch.setenv("AISOLUTION_TOKEN", "two\nlines")
    assert "control characters" in the_error(run("call", "delete-face", "x", "--base-url", "https://vendor.example"))


def test_a_token_that_needs_quoting() -> None:
    token = "a b&c=d%2Fé+?#/🗝"
    with SandboxThread(token) as sandbox:
        env = {"AISOLUTION_TOKEN": token, "AISOLUTION_BASE_URL": sandbox.url}
        result = CliRunner().invoke(aisolution, ["call", "whatsapp-detail", "+6281387300008"], env=env)
    assert result.exit_code == 0, result.output
    assert token not in result.output


def test_a_refused_token(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendor_of(lambda n: b"no")
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    result = run("call", "whatsapp-detail", "+6281387300008", "--base-url", vendor.url)
    assert result.exit_code == 1
    assert "401" in the_error(result)


class SandboxThread:
    """A sandbox on a loop of its own, for tests whose own thread is busy."""

    def __init__(self, token: str = "sandbox-token") -> None:
        self._token = token
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with Sandbox(token=self._token) as sandbox:
            self.url, self.bill = sandbox.url, sandbox.bill
            self._started.set()
            await self._ended.wait()

    def __enter__(self) -> SandboxThread:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


# ----------------------------------------------------------------------------------------------------------- a list


def test_bulk() -> None:
    Path("in.csv").write_text("ref,phone,land\nA,081387300008,ID\nB,6.28E+12,ID\nC,+6281387300009,\n")
    arguments = ["bulk", "whatsapp-detail", "in.csv", "--number", "phone", "--country-column", "land", "--key", "ref"]
    result = run(*arguments, "-o", "out.csv", "--sandbox")
    assert result.exit_code == 1
    assert result.stdout == ""
    said, *lines = result.stderr.splitlines()
    assert said.startswith("CSV, ")
    assert said.endswith(": number from 'phone', country from 'land', key from 'ref'")
    shown = [line.split(maxsplit=1) for line in lines]
    assert shown[0] == ["against", "the sandbox: the answers are made up, and nothing was really charged"]
    assert shown[1:3] == [["rows", "3"], ["answered", "2"]]
    assert shown[3] == ["with", "problems   1  (InputError 1)"]
    assert re.fullmatch(r"charged \d · free \d · unknown 0", shown[4][1])
    assert shown[7:9] == [["results", "out.csv"], ["ledger", "out.csv.sandbox.ledger"]]
    assert lines[9] == "2 of 3 rows are answered; left to do: 1 with problems"
    assert lines[10].startswith("- line 3: column 'phone': number was shortened by a spreadsheet")
    assert lines[11].endswith(": aisolution bulk --resume out.csv")
    result = run(*arguments, "-o", "out.jsonl", "--sandbox", "--json", "--quiet")
    assert result.stderr == ""
    said = json.loads(result.stdout)
    assert said.pop("seconds") >= 0
    counts = said["by_endpoint"]["gliswadetail"]
    assert counts["charged"] + counts["free"] == 2
    assert {name: said.pop(name) for name in ("charged", "free", "unknown")} == counts
    assert said == {
        "complete": True,
        "rows": 3,
        "ok": 2,
        "from_ledger": 0,
        "shared": 0,
        "failed": 1,
        "held": 0,
        "checking": 0,
        "over_budget": 0,
        "unsent": 0,
        "left_out": 0,
        "taken_back": 0,
        "errors": {"InputError": 1},
        "by_endpoint": {"gliswadetail": counts},
        "output": "out.jsonl",
        "cost": None,
        "part": None,
        "problems": None,
        "rescued": [],
        "warnings": [],
        "gave_up": None,
        "whom": "sandbox",
        "ledger": "out.jsonl.sandbox.ledger",
    }


def test_bulk_of_images_from_another_folder() -> None:
    folder = Path("list")
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture(1))
    (folder / "b.jpg").write_bytes(picture(1, quality=50))
    (folder / "in.csv").write_text("selfie,card\na.jpg,b.jpg\nb.jpg,a.jpg\n")
    result = run(
        "bulk", "face-compare", "list/in.csv", "--img1", "selfie", "--img2", "card", "-o", "out.tsv", "--sandbox"
    )
    assert result.exit_code == 0, result.stderr
    assert Path("out.tsv").read_text().count("SAME PERSON") == 2


def test_bulk_options_for_all_rows(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendor_of(lambda n: ok(PROFILE))
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    numbers(2)
    options = ["--country", "id", "--servstatus", "--callback", "https://lender.example/in", "--concurrency", "2"]
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, *options)
    assert result.exit_code == 0, result.stderr
    for form in vendor.requests:
        assert form["country"] == ["ID"]
        assert form["servstatus"] == ["y"]
        assert form["callback"] == ["https://lender.example/in"]
    again = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--no-ledger"]
    refused = run(*again)
    assert refused.exit_code == 2
    assert the_error(refused).startswith("'out.csv' exists already")
    assert len(vendor.requests) == 2
    assert run(*again, "--overwrite").exit_code == 0
    assert len(vendor.requests) == 4


def test_a_list_without_rows() -> None:
    numbers(0)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox")
    assert result.exit_code == 0
    assert re.search(r"^rows +0: the input has a header and nothing else$", result.stderr, re.MULTILINE)
    assert Path("out.csv").read_text().startswith("number,ok,")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.csv", "-o", "out.csv"], "the input 'nowhere.csv' does not exist: check the path"),
        (["folder.csv", "-o", "out.csv"], "the input 'folder.csv' is a directory: name a file in it"),
        (["empty.csv", "-o", "out.csv"], "'empty.csv' is empty: its first line must name the columns"),
        (["in.csv", "-o", "out.csv", "--number", "tel"], "'in.csv' has no column 'tel' for number (say which with"),
        (
            ["in.csv", "-o", "out.csv", "--key", "id"],
            "'in.csv' has no column 'id' for the key: its columns are 'number'",
        ),
        (
            ["in.csv", "-o", "out.xls"],
            "the output 'out.xls' must end in .xlsx, .csv, .tsv, .jsonl, .ndjson, .parquet: that says the format (a",
        ),
        (["in.csv", "-o", "nowhere/out.csv"], "the output's folder 'nowhere' does not exist: make it first"),
        (["in.csv", "-o", "in.csv"], "the output 'in.csv' is the input: give it another name"),
        (["in.csv", "-o", "folder.csv"], "the output 'folder.csv' is a directory: name a file in it"),
        (["in.csv", "-o", "/proc/out.csv"], "the output '/proc/out.csv.part' cannot be written: "),
        (["in.csv", "-o", "out.csv", "--country", "Java"], "country is no two-letter country code"),
        (
            ["in.csv", "-o", "out.csv", "--country", "ID", "--country-column", "number"],
            "country comes from a column or",
        ),
    ],
)
def test_lists_that_cannot_be_run(arguments: list[str], problem: str) -> None:
    Path("folder.csv").mkdir()
    Path("empty.csv").write_bytes(b"")
    numbers(3)
    before = left()
    result = run("bulk", "whatsapp-detail", *arguments, "--sandbox")
    assert result.exit_code == 2
    assert the_error(result).startswith(problem)
    assert len(result.stderr.splitlines()) <= 2  # what the columns are may be known by then
    assert left() == before
    assert result.stdout == ""


def test_what_was_rescued_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 1000)
    numbers(50)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox", "--concurrency", "5")
    assert result.exit_code == 1
    found = re.search(r"^rescued rows +(/\S+\.jsonl)$", result.stderr, re.MULTILINE)
    assert found is not None
    assert the_error(result).endswith(f"rows went to {found[1]}: make room there first")
    assert Path(found[1]).read_text().count("\n") > 0


def test_a_disk_that_fills_up() -> None:
    """With a real limit on the size of files: the results are in three places, and none is missing."""
    numbers(200)
    script = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); {MAIN}"
    arguments = ("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox", "--json", "--no-ledger")
    done = python(script, *arguments)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(
        "error: the output 'out.csv.part' cannot be written: File too large; the run was stopped"
    )
    on_stderr = [json.loads(line)["number"] for line in lines if line.startswith("{")]
    files = [place for place in said["rescued"] if place != "stderr"]
    assert files
    assert said["rescued"][len(files) :] == (["stderr"] if on_stderr else [])
    rescued = [json.loads(line)["number"] for file in files for line in Path(file).read_text().splitlines()]
    written = [line.split(",")[0] for line in Path("out.csv.part").read_text().splitlines()[1:]]
    kept = [*written, *rescued, *on_stderr]
    assert kept == [f"+62813{n:08}" for n in range(len(kept))]
    assert len(kept) == said["rows"] == said["charged"] + said["free"] < 200
    assert written
    assert rescued


# ---------------------------------------------------------------------------------------------------- with a ledger


@pytest.fixture
def token(command_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)


def lines_of(file: Path) -> int:
    """How many lines it has; a run that begins its part file anew takes the old one away first."""
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@pytest.mark.no_cover
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_killed_and_run_again(ending: str) -> None:
    """Killed twice in the middle: one full pass is paid for, and the file is that of an unbroken run."""
    rows = settled(600)
    lines = [f"A-{place},{number}\n" for place, number in enumerate([*rows, *rows[:100]])]
    Path("in.csv").write_text("ref,number\n" + "".join(lines))
    concurrency = 20
    bulk = ["bulk", "whatsapp-detail", "in.csv", "--key", "ref", "--json", "--concurrency", str(concurrency)]
    output = f"out.{ending}"
    with SandboxThread() as sandbox:
        env = {**os.environ, "AISOLUTION_TOKEN": "sandbox-token", "AISOLUTION_BASE_URL": sandbox.url}
        heading = ending == "csv"
        for wanted in (150, 350):
            with Path(os.devnull).open("wb") as nowhere:
                process = forks.start([*COMMAND[1:], *bulk, "-o", output], env=env, stdout=nowhere, stderr=nowhere)
            while lines_of(Path(f"{output}.part")) < wanted + heading:
                assert process.poll() is None
                time.sleep(0.002)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not Path(output).exists()
        done = CliRunner().invoke(aisolution, [*bulk, "-o", output], env=env)
        said = json.loads(done.stdout)
        held = said["held"]
        assert (said["complete"], said["rows"], said["ok"]) == (True, 700, 700 - held)
        assert said["from_ledger"] >= 350 - concurrency  # of the rows written, those that the first run held
        assert held <= 2 * 2 * concurrency  # the rows that ask the same as a row that is held are held too
        assert len(Path(output).read_text().splitlines()) == 700 + heading
        assert re.search(r"^resuming: [\d,]+ answers are in the ledger already$", done.stderr, re.MULTILINE)
        # Every call was charged once, whether its answer arrived or not.
        distinct = 600 - len({r["key"] for r in attempts_of(f"{output}.ledger", "--unknown")})
        assert distinct <= sandbox.bill.charged <= 600
        # To send what is held again is to risk paying for it twice; then no row is without its answer.
        again = CliRunner().invoke(aisolution, [*bulk, "-o", output, "--retry-unknown", "1", "--quiet"], env=env)
        assert (again.exit_code, again.stderr) == (0, "")
        assert sandbox.bill.charged <= 600 + 2 * concurrency
        unbroken = CliRunner().invoke(aisolution, [*bulk, "-o", f"whole.{ending}", "--no-ledger"], env=env)
        assert unbroken.exit_code == 0
    assert Path(output).read_bytes() == Path(f"whole.{ending}").read_bytes()
    assert left() == {"in.csv", output, f"{output}.ledger", f"whole.{ending}"}


def test_a_ledger_that_lost_its_memory() -> None:
    """Nothing is sent, and the results can be taken back with one option."""
    Path("in.csv").write_text("ref,number\n" + "".join(f"A-{n},{number}\n" for n, number in enumerate(settled(20))))
    bulk = ["bulk", "whatsapp-detail", "in.csv", "--key", "ref", "-o", "out.csv"]
    with SandboxThread() as sandbox:
        env = {"AISOLUTION_TOKEN": "sandbox-token", "AISOLUTION_BASE_URL": sandbox.url}
        assert CliRunner().invoke(aisolution, bulk, env=env).exit_code == 0
        paid_for, billed = Path("out.csv").read_bytes(), sandbox.bill.charged
        Path("out.csv.ledger").write_bytes(b"")
        refused = CliRunner().invoke(aisolution, bulk, env=env)
        assert refused.exit_code == 2
        assert "is empty now, and it had 20 attempts" in refused.stderr
        Path("out.csv.ledger-mark").unlink()
        refused = CliRunner().invoke(aisolution, bulk, env=env)
        assert refused.exit_code == 2
        assert "20 of the answers paid for are not in its ledger any more" in refused.stderr
        assert Path("out.csv").read_bytes() == paid_for
        back = CliRunner().invoke(aisolution, [*bulk, "--rescued", "out.csv"], env=env)
        assert back.exit_code == 0
        assert re.search(r"^answered +20: 0 now, 20 taken back$", back.stderr, re.MULTILINE)
        assert Path("out.csv").read_bytes() == paid_for
        assert sandbox.bill.charged == billed
        missing = CliRunner().invoke(aisolution, [*bulk, "--rescued", "missing.jsonl"], env=env)
        assert (missing.exit_code, "cannot be read: No such file" in missing.stderr) == (2, True)


def attempts_of(file: str, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("ledger", "attempts", file, "--json", *options).stdout.splitlines()]


@pytest.mark.usefixtures("token")
def test_the_budget(vendor_of: VendorOf) -> None:
    vendor = vendor_of(lambda n: ok(PROFILE))
    numbers(10)
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--max-charges"]
    result = run(*arguments, 4)
    assert result.exit_code == 4
    assert "with problems   6  (BudgetExhaustedError 6)\n" in result.stderr
    assert "over the limit  6 not sent: run it again with a higher limit\n" in result.stderr
    assert len(Path("out.csv").read_text().splitlines()) == 11
    result = run(*arguments, 9, "--json")
    assert (result.exit_code, len(vendor.requests)) == (4, 9)
    said = json.loads(result.stdout)
    assert (said["from_ledger"], said["charged"], said["over_budget"]) == (4, 5, 1)
    # Four charges and five of no known price: all that is left is for one.
    result = run(*arguments, 100, "--price", "whatsapp-detail=0.05", "--max-cost", "0.05")
    assert (result.exit_code, len(vendor.requests)) == (0, 10)
    assert "answered        10: 1 now, 9 from the ledger\n" in result.stderr


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--price", "gliswadetail"], "Invalid value for '--price': '' is no amount of money"),
        (["--price", "face=1"], "Invalid value for '--price': 'face' is none of facecompare, idholding,"),
        (["--max-cost", "much"], "Invalid value for '--max-cost': 'much' is no amount of money"),
        (["--max-cost", "5"], "a limit on the cost needs the price of gliswadetail: --price whatsapp-detail=MONEY"),
        (["--max-cost", "nan", "--price", "gliswadetail=1"], "max_cost must be a Decimal from 0"),
        (["--max-charges", "-1"], "Invalid value for '--max-charges'"),
        (["--ledger", "a.ledger", "--no-ledger"], "give either --ledger or --no-ledger"),
        (["--ledger", "in.csv"], "the ledger 'in.csv' is the input: give it a file of its own"),
        (["--ledger", "folder"], "folder is a folder: name a file in it"),
        (["--ledger", "a.ledger", "--sandbox"], "--sandbox has a ledger of its own: leave --ledger out"),
    ],
)
def test_ledgers_and_budgets_that_cannot_be(options: list[str], problem: str) -> None:
    numbers(1)
    Path("folder").mkdir()
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", *options)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert left() == {"in.csv", "folder"}


def test_made_up_answers_are_kept_apart() -> None:
    """What the sandbox said must never pass for what the vendor said."""
    numbers(3)
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv"]
    assert run(*arguments, "--sandbox").exit_code == 0
    assert left() == {"in.csv", "out.csv", "out.csv.sandbox.ledger"}
    assert "resuming: " in run(*arguments, "--sandbox").stderr
    with SandboxThread() as sandbox:
        env = {"AISOLUTION_TOKEN": "sandbox-token", "AISOLUTION_BASE_URL": sandbox.url}
        result = CliRunner().invoke(aisolution, arguments, env=env)
        assert sandbox.bill.total == 0
    assert result.exit_code == 2
    assert the_error(result).startswith("'out.csv' exists already and may hold results of an earlier run, and its led")


def test_the_summary_adds_up() -> None:
    """What is held is no row with a problem: not on the terminal, not in the workbook, not in JSON; now and later."""
    lines = [f"{number},+62812{number:08}\n" for number in (200, 203, 205, 210, 211)]
    Path("in.csv").write_text("id,phone\n" + "".join(lines))
    for _ in range(2):
        result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.xlsx", "--sandbox", "--json")
        shown = [re.split(r"  +", line, maxsplit=1) for line in result.stderr.splitlines() if "  " in line]
        assert [shown[0], *shown[2:5]] == [
            ["rows", "5"],
            ["still checking", "1: still being checked, or not available: run it again"],
            ["held", "2: may have been charged: settle them, or say --retry-unknown 1"],
            ["with problems", "1  (InvalidRequestError 1)"],
        ]
        assert shown[1][1][0] == "1"
        said = json.loads(result.stdout)
        assert [said[name] for name in ("rows", "ok", "checking", "held", "failed")] == [5, 1, 1, 2, 3]
        counts = {row[0].value: row[1].value for row in load_workbook("out.xlsx")["Summary"].iter_rows()}
        assert [counts[name] for name in ("all", "answered", "checking", "held", "problems")] == [5, 1, 1, 2, 1]


@pytest.mark.parametrize("output", ["out.csv", "out.xlsx", "out.jsonl", "out.parquet"])
def test_held_rows_have_their_file_without_errors_too(output: str) -> None:
    """It is there as long as a row is held, and no trace of it where none is."""
    Path("in.csv").write_text("id,phone\nA,+6281200000210\nB,+6281200000211\n")
    held = Path(output.replace(".", "-held."))
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", output, "--sandbox"]
    assert f"to be settled   {held}\n" in run(*arguments).stderr
    with Rows(held) as rows:
        found = [dict(zip(rows.header, row.cells, strict=True)) for row in rows]
    assert [(row["id"], str(row["row"])) for row in found] == [("A", "2"), ("B", "3")]
    assert "aisolution ledger resolve" in found[0]["what to do"]
    Path("in.csv").write_text("id,phone\nC,+6281200000001\n")
    # A run that was killed left its part.
    Path(f"{held}.part").write_text("torn")
    said = run(*arguments, "--overwrite")
    assert "to be settled" not in said.stderr
    assert not list(Path().glob("out-held*"))


def test_nothing_is_to_be_mended(capsys: pytest.CaptureFixture[str]) -> None:
    """The file is there, and nobody is sent to look into it."""
    Path("in.csv").write_text("id,phone\nA,+6281200000001\nB,+6281200000003\nC,+6281200000004\n")
    words = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--errors", "mend.csv", "--sandbox"]
    said = run(*words, "--max-charges", "1", "--concurrency", "1").stderr
    assert "(BudgetExhaustedError " in said
    assert "mended" not in said
    assert Path("mend.csv").read_text() == "id,phone,row,problem\n"
    show.summary(Summary(rows=3, failed=3, errors=Counter(RetryLaterError=2, NotSentError=1)), None)
    said = capsys.readouterr().err
    assert "to ask again    3: the vendor was busy, or not reached: run it again later\n" in said


def test_what_was_mended_is_not_paid_for_twice() -> None:
    """In an output of their own, too, the rows know their ledger."""
    Path("in.csv").write_text("ref,phone\nA,081200000000\nB,12\nC,081200000901\nD,13\n")
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--errors", "mend.csv", "--country", "ID"]
    with SandboxThread() as sandbox:
        env = {"AISOLUTION_TOKEN": "sandbox-token", "AISOLUTION_BASE_URL": sandbox.url}

        def again(*words: str) -> Result:
            return CliRunner().invoke(aisolution, [*words], env=env, prog_name="aisolution")

        first = again(*arguments)
        total = sandbox.bill.total
        assert first.stderr.splitlines()[-1] == "once mend.csv is mended: aisolution bulk --resume out.csv"
        rows = Path("mend.csv").read_text().splitlines()
        assert [row[0] for row in rows[1:]] == ["B", "D"]
        assert "held: it may have been charged" in Path("out-held.csv").read_text()
        Path("mend.csv").write_text("\n".join(rows).replace(",12,", ",081200000001,") + "\n")
        result = again("bulk", "whatsapp-detail", "mend.csv", "-o", "two.csv", "--country", "ID")
        assert [row[0] for row in Path("two.csv").read_text().splitlines()] == ["r", "B", "D"]
        assert sandbox.bill.total == total + 1
        result = again("bulk", "whatsapp-detail", "mend.csv", "-o", "three.csv", "--country", "ID")
        assert sandbox.bill.total == total + 1
        assert "whose ledger is used: out.csv.ledger\n" in result.stderr
        assert not Path("three.csv.ledger").exists()
        Path("out.csv.ledger").rename("gone")
        result = again("bulk", "whatsapp-detail", "mend.csv", "-o", "four.csv", "--country", "ID")
        assert result.exit_code == 2
        assert "'out.csv.ledger' is not there: name it with --ledger" in the_error(result)
        # Made-up answers and the vendor's stay apart.
        again("bulk", "whatsapp-detail", "mend.csv", "-o", "made.csv", "--country", "ID", "--sandbox")
        assert Path("made.csv.sandbox.ledger").exists()
        assert sandbox.bill.total == total + 1


@pytest.mark.parametrize("source", [".", "..", "nowhere.csv", "in.csv/below.csv", "n" * 250 + ".csv"])
def test_inputs_that_are_no_files(source: str) -> None:
    numbers(1)
    assert run("bulk", "whatsapp-detail", source, "-o", "out.csv", "--sandbox").exit_code == 2


def test_a_sandbox_may_share_a_ledger_of_made_up_answers() -> None:
    numbers(2)
    arguments = ["bulk", "whatsapp-detail", "in.csv", "--sandbox", "--ledger", "mine.sandbox.ledger", "-o"]
    assert run(*arguments, "out.csv").exit_code == 0
    assert "resuming: 2 answers" in run(*arguments, "two.csv").stderr


def test_a_vendor_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    numbers(30)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = run(
            "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", url, "--give-up", "1", "--quiet"
        )
    assert result.exit_code == 3
    assert re.fullmatch(
        r"the vendor has not answered for \d s: .*; the run was stopped: run it again to go on", the_error(result)
    )
    assert "no connection" in the_error(result)


def test_what_is_still_being_checked_is_told() -> None:
    Path("in.csv").write_text("number\n+6281200000000\n+6281200000012\n")
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox"]
    result = run(*arguments)
    assert result.exit_code == 1
    assert re.search(r"^answered +1$", result.stderr, re.MULTILINE)
    assert re.search(
        r"^still checking +1: still being checked, or not available: run it again$", result.stderr, re.MULTILINE
    )
    assert json.loads(run(*arguments, "--json", "--quiet").stdout)["checking"] == 1


@pytest.mark.usefixtures("token")
def test_a_ledger_elsewhere_holds_no_secret(vendor_of: VendorOf) -> None:
    Path("a.jpg").write_bytes(picture(1))
    Path("in.csv").write_text("ref,img\nA,a.jpg\n")
    vendor = vendor_of(lambda n: ok({"group_id": GROUP_ID, "person_id": "c5r7", "person_count": 2}))
    arguments = ["bulk", "add-face", "in.csv", "-o", "out.csv", "--key", "ref", "--ledger", "mine", "--base-url"]
    for _ in range(2):
        assert run(*arguments, vendor.url).exit_code == 0
    assert left() == {"a.jpg", "in.csv", "out.csv", "mine"}
    assert len(vendor.requests) == 1
    for file in ("mine", "out.csv"):
        assert not any(secret.encode() in Path(file).read_bytes() for secret in (TOKEN, GROUP_ID))


# ------------------------------------------------------------------------------------------------- Ctrl-C, in process


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_the_answers(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stall = Stall(20, number)
    vendor = vendor_of(stall)
    say = show.say

    def said(text: str) -> None:
        say(text)
        if text.startswith("stopping"):
            stall.released.set()

    monkeypatch.setattr(show, "say", said)
    numbers(1000)
    result = run(
        "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--concurrency", 5, "--json"
    )
    assert result.exit_code == 130
    assert the_error(result) == "interrupted: the rows so far are in 'out.csv.part'"
    assert "stopping: waiting for the answers under way (Ctrl-C again: only a moment longer)" in result.stderr
    done = json.loads(result.stdout)
    assert (done["complete"], done["unknown"], done["part"]) == (False, 0, "out.csv.part")
    assert done["charged"] == done["ok"] == done["rows"] == len(vendor.requests) < 100
    assert len(Path("out.csv.part").read_text().splitlines()) == done["rows"] + 1
    assert left() == {"in.csv", "out.csv.part", "out.csv.ledger"}
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url]
    refused = run(*arguments, "--no-ledger")
    assert refused.exit_code == 2
    assert "may hold what a stopped run had: say --rescued 'out.csv.part'" in the_error(refused)
    assert the_error(refused).endswith("move it away, or say --overwrite")
    again = run(*arguments)
    assert again.exit_code == 0
    assert f"resuming: {done['ok']} answers are in the ledger already\n" in again.stderr
    shown = f"answered        1,000: {1000 - done['ok']} now, {done['ok']} from the ledger\n"
    assert shown in again.stderr
    assert len(vendor.requests) == 1000
    assert left() == {"in.csv", "out.csv", "out.csv.ledger"}


@pytest.mark.usefixtures("token")
def test_ctrl_c_three_times(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    stall = Stall(20)
    vendor = vendor_of(stall)
    say = show.say

    def said(text: str) -> None:
        say(text)
        if text.startswith(("stopping", "waiting")):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(show, "say", said)
    numbers(1000)
    result = run(
        "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--concurrency", 5, "--json"
    )
    stall.released.set()
    assert result.exit_code == 130
    assert "waiting 5 s more at most\nnot waiting any longer\n" in result.stderr
    done = json.loads(result.stdout)
    assert done["unknown"] >= 1
    # What was under way and had not left yet was not sent.
    assert done["charged"] + done["unknown"] <= done["rows"] <= done["charged"] + 5
    assert Path("out.csv.part").read_text().count("OutcomeUnknownError") == done["unknown"]


@pytest.mark.usefixtures("token")
def test_ctrl_c_where_signals_cannot_be_handled(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of the main thread: the run is cancelled, and says what it did all the same."""
    stall = Stall(20)
    vendor = vendor_of(stall)

    def refuse(self: object, number: int, *arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(running, "new_event_loop", asyncio.new_event_loop)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", refuse)
    monkeypatch.setattr("aisolution_async.batching.batch.GRACE", 0.0)
    numbers(1000)
    result = run(
        "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--concurrency", 5, "--json"
    )
    stall.released.set()
    assert result.exit_code == 130
    assert the_error(result) == "interrupted: what was under way may have been charged"
    assert json.loads(result.stdout)["part"] == "out.csv.part"


@pytest.mark.usefixtures("token")
def test_ctrl_c_before_anything_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    real = running.connected

    def slow(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(bulk_commands, "connected", slow)
    numbers(10)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox")
    assert result.exit_code == 130
    assert the_error(result) == "interrupted: no row has a result"
    assert left() == {"in.csv"}


@pytest.mark.usefixtures("token")
def test_ctrl_c_during_one_call(vendor_of: VendorOf) -> None:
    stall = Stall(0)
    vendor = vendor_of(stall)
    result = run("call", "whatsapp-detail", "+6281387300008", "--base-url", vendor.url)
    stall.released.set()
    assert result.exit_code == 130
    assert the_error(result) == "interrupted: what was under way may have been charged"


def test_other_errors_are_one_line_too() -> None:
    async def fail() -> None:
        raise AISolutionError("something else")

    with pytest.raises(ending.Ending) as caught:
        running.run(fail())
    assert (caught.value.exit_code, caught.value.message) == (1, "something else")


# --------------------------------------------------------------------------------------------------------- progress


def test_what_progress_says() -> None:
    def progress(**values: Any) -> Progress:
        known: dict[str, Any] = dict.fromkeys((field.name for field in fields(Progress)), 0)
        return Progress(**{**known, "tally": Tally(), "braked": False, **values})

    for shown, total, line in [
        (progress(), None, "0 rows · 0 rows/s · 0 in flight of 0 · 0 with problems"),
        (
            progress(ok=1000, failed=2, rate=50.2, share=1.0, in_flight=7, limit=8),
            2002,
            "1,002 of 2,002 rows · 50 rows/s · 20 s left · 7 in flight of 8 · 2 with problems · charged 0 · free 0",
        ),
        (
            progress(ok=1000, from_ledger=990, rate=5.0, share=0.5),
            2000,
            "1,000 of 2,000 rows · 5 rows/s · 1 min 40 s left · 0 in flight of 0 · 0 with problems · 990 from the l",
        ),
        (
            progress(ok=1000, from_ledger=1000),
            2000,
            "1,000 of 2,000 rows · 0 rows/s · 0 in flight of 0 · 0 with problems · 1,000 from the ledger",
        ),
        (progress(ok=5, rate=1.0, braked=True), 9, "5 of 9 rows · the vendor does not answer: trying now and then · 0"),
        (progress(braked=True), 9, "0 of 9 rows · the vendor does not answer (re[fused): trying now and then · 0"),
        (
            progress(ok=2, waiting=31, parked=Parked(31, 18.2)),
            33,
            "2 of 33 rows · 31 numbers are still being checked: next look in 18 s · 0 with problems · charged 0",
        ),
        (
            progress(waiting=1, parked=Parked(1, 18.2)),
            1,
            "0 of 1 rows · 1 number is still being checked: next look in 18 s · 0 with problems · charged 0",
        ),
        (
            progress(in_flight=2, waiting=1, parked=Parked(1, None)),
            3,
            "0 of 3 rows · 0 rows/s · 2 in flight of 0 · 0 with problems · 1 still being checked · charged 0",
        ),
    ]:
        trouble = "re\x1b[2J[fused" if "re[fused" in line else None
        said = io.StringIO()
        with redirect_stderr(said):
            show.Lines().update(shown, total, trouble)
        assert said.getvalue().startswith(line)


def test_a_log_is_not_filled_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(show, "say", said.append)
    known: dict[str, Any] = dict.fromkeys((field.name for field in fields(Progress)), 0)
    lines, idle = show.Lines(), Progress(**{**known, "tally": Tally(), "braked": False})
    for total in [3] * 7 + [4]:
        lines.update(idle, total)
    assert [line.split(" · ")[0] for line in said] == ["0 of 3 rows", "0 of 3 rows", "0 of 4 rows"]


@pytest.mark.usefixtures("token")
def test_progress_in_a_log(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "PLAIN_EVERY", 0.001)
    vendor = vendor_of(lambda n: ok(PROFILE))
    numbers(300)
    arguments = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--concurrency", 4]
    result = run(*arguments, "--price", "whatsapp-detail=0.02")
    assert result.exit_code == 0
    assert "\n                cost 6.00\n" in result.stderr
    lines = [line for line in result.stderr.splitlines() if "rows/s · " in line]
    assert re.fullmatch(
        r"[\d,]+ of 300 rows · [\d,]+ rows/s · [\d.]+ s left · \d in flight of 4 · 0 with problems · "
        r"charged \d+ · free 0 · unknown 0 · cost \d+\.\d\d",
        lines[-1],
    )


@pytest.mark.usefixtures("token")
def test_progress_on_a_terminal(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "REDRAW_EVERY", 0.001)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(show, "display", lambda *options: show.Bar(console, *options))
    counted = threading.Event()

    def answer(number: int) -> object:
        if number == 100:
            counted.wait(LAST_RESORT)
        return ok(PROFILE)

    real = facts.count_rows

    def count(source: Path, given_up: threading.Event, **reading: str | None) -> int | None:
        while not vendor.requests[100:] and not given_up.wait(0.001):
            pass
        counted.set()
        return real(source, given_up, **reading)

    monkeypatch.setattr(facts, "count_rows", count)
    vendor = vendor_of(answer)
    numbers(300)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--base-url", vendor.url, "--concurrency", 4)
    assert result.exit_code == 0
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert " of … rows" in drawn
    assert " of 300 rows" in drawn
    assert re.search(r"charged \d+ · free 0 · unknown 0", drawn)


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_progress_fits_any_terminal(width: int) -> None:
    """Whole words on lines that leave room for the terminal's own "^C", and nothing wrapped."""
    counts = Tally()
    counts.add("facecompare", Charge.CHARGED)
    counts.add("facecompare", Charge.UNKNOWN)
    known: dict[str, Any] = dict.fromkeys((field.name for field in fields(Progress)), 0)
    busy = {"ok": 1_200_000, "from_ledger": 900_000, "failed": 1234, "rate": 1234.0, "share": 1.0, "in_flight": 500}
    for braked in (False, True):
        screen = io.StringIO()
        bar = show.Bar(Console(file=screen, force_terminal=True, width=width), {"facecompare": Decimal("0.05")})
        progress = Progress(**{**known, **busy, "limit": 500, "tally": counts, "braked": braked})
        with bar:
            bar.update(progress, 12_000_000, "a long story of what went wrong, and where, and how often, and why")
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").split("\n")
        drawn = [line for line in lines if line.strip()]
        assert max(map(cell_len, drawn)) <= width - 4
        assert any("1,201,234 of 12,000,000 rows" in line for line in drawn)
        for words in ("500 in flight of 500", "900,000 from the ledger", "charged 1", "cost 0.05, and 0.05 unknown"):
            assert any(words in line for line in drawn), (words, drawn)
        assert braked or any("1,234 rows/s" in line for line in drawn)
    screen = io.StringIO()
    with show.Bar(Console(file=screen, force_terminal=True, width=width)) as bar:
        bar.update(progress, 1_201_234, making=True)
    assert "all rows are done: making the workbook" in screen.getvalue()
    assert "rows/s" not in screen.getvalue()


def test_display(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(show.display(), show.Lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(show.display(), show.Bar)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (12.34, "12 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (7322.2, "2 h 2 min"),
        (90061, "1 d 1 h"),
        (9e6, "104 d 4 h"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_real_terminal() -> None:
    """Through a pty: the bar is drawn, and the summary is what stays."""
    numbers(2000)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    ) as process:
        os.close(theirs)
        drawn = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break
            if not chunk:
                break
            drawn += chunk
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert " of 2,000 rows" in text
    answered, checking = (re.search(rf"{name} +([\d,]+)", text) for name in ("answered", "still checking"))
    assert answered is not None
    assert checking is not None  # of so many, the sandbox still checks some
    assert sum(int(found[1].replace(",", "")) for found in (answered, checking)) == 2000
    assert process.returncode == 1


# ----------------------------------------------------------------------------------------------- sandbox and demo


def test_sandbox_serves_until_ctrl_c() -> None:
    with subprocess.Popen([*COMMAND, "sandbox"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        env = {}
        for line in process.stdout:
            if found := re.fullmatch(r"  export (\w+)=(\S+)\n", line):
                env[found[1]] = found[2]
            if line.startswith("Ctrl-C"):
                break
        result = CliRunner().invoke(aisolution, ["call", "whatsapp-detail", "+6281387300008"], env=env)
        assert result.exit_code == 0, result.output
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert re.search(r"What it would have billed: (charged 1 · free 0|charged 0 · free 1) · unknown 0", rest)


@pytest.mark.parametrize("options", [[], ["--callbacks-anywhere"]])
def test_sandbox_in_process(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    real, made = Sandbox.start, Sandbox.__init__
    anywhere = []

    def make(self: Sandbox, *arguments: Any, **given: Any) -> None:
        anywhere.append(given["callbacks_anywhere"])
        made(self, *arguments, **given)

    monkeypatch.setattr(Sandbox, "__init__", make)

    async def start(self: Sandbox) -> None:
        await real(self)
        asyncio.get_running_loop().call_later(0, os.kill, os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Sandbox, "start", start)
    monkeypatch.setattr(signal, "SIGTERM", signal.SIGINT)  # whichever comes before the handlers are there, is ours
    result = run("sandbox", *options)
    assert anywhere == [bool(options)]
    assert "export AISOLUTION_BASE_URL=http://127.0.0.1:" in result.stdout
    assert result.exit_code == 0


def test_a_port_that_is_taken() -> None:
    with SandboxThread() as sandbox:
        result = run("sandbox", "--port", sandbox.url.rsplit(":", 1)[1])
    assert result.exit_code == 2
    assert re.fullmatch(r"port \d+ cannot be used \(.+\): choose another one with --port", the_error(result))


def test_a_sandbox_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Sandbox) -> None:
        raise RuntimeError("the sandbox needs Pillow")

    monkeypatch.setattr(Sandbox, "start", refuse)
    result = run("call", "delete-face", "x", "--sandbox")
    assert (result.exit_code, the_error(result)) == (2, "the sandbox needs Pillow")


def test_demo() -> None:
    result = run("demo")
    assert result.exit_code == 0
    text = result.output
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert len([name for name in rows if name in {applicant.name for applicant in demo.APPLICANTS}]) == 12
    assert "12 rows, 10 answered, 2 with problems" in text
    assert "12 rows, 10 answered, 1 still checking, 1 with problems" in text
    assert len(re.findall(r" SAME PERSON +charged", text)) == 9
    assert text.count("NOT SAME PERSON") == 2
    assert text.count("NOT SURE") == 1
    for error in ("FaceNotFoundError", "InputError"):
        assert error in text
    assert "kartika-card.jpg' does not exist" in text
    assert "format the column as text" in text
    assert "\n  client and server count the same\n" in text
    found = re.search(r"The files stay in (\S+)", text)
    assert found is not None
    assert {path.name for path in Path(found[1]).iterdir()} == {
        "applicants.csv",
        "pictures",
        "faces.csv",
        "whatsapp.csv",
    }


def test_the_demo_hides_no_difference() -> None:
    ours, theirs = Tally(), Tally()
    ours.add("facecompare", aisolution_async.Charge.CHARGED)
    screen = io.StringIO()
    Console(file=screen, width=80).print(demo._verdict(ours, theirs))
    assert "do not count the same" in screen.getvalue()


# --------------------------------------------------------------------------------------------------- as a process


def test_a_reader_that_goes_away() -> None:
    """`aisolution demo | head -1` ends without a traceback."""
    with subprocess.Popen([*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert "Traceback" not in error
    assert "Exception" not in error


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_answer_that_stdout_does_not_take(form: list[str]) -> None:
    """It is paid for: so it goes to stderr."""
    done = onto_a_full_disk("call", "whatsapp-detail", "+6281387300008", "--sandbox", *form)
    *answer, error = done.stderr.splitlines()
    assert (done.returncode, error) == (1, FULL)
    if form:
        assert json.loads(answer[0])["answer"]["number"] == "+6281387300008"
    else:
        assert ["number", "+6281387300008"] in [line.split() for line in answer]


def test_an_answer_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [*COMMAND, "call", "whatsapp-detail", "+6281387300008", "--sandbox", "--json"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    answer, error = done.stderr.splitlines()
    assert (done.returncode, error) == (1, "error: standard output cannot be written: Broken pipe")
    assert json.loads(answer)["ok"]


def test_a_summary_that_stdout_does_not_take() -> None:
    numbers(3)
    bulk = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox", "--json", "--quiet"]
    done = onto_a_full_disk(*bulk)
    assert (done.returncode, done.stderr) == (1, f"{FULL}\n")
    assert len(Path("out.csv").read_text().splitlines()) == 4
    assert left() == {"in.csv", "out.csv", "out.csv.sandbox.ledger"}


def test_a_run_that_fails_and_cannot_say_so_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(show, "say_json", refuse)
    fill_disk(monkeypatch, 1000)
    numbers(50)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox", "--json")
    assert result.exit_code == 1
    said = the_error(result)
    assert said.startswith("the output 'out.csv.part' cannot be written")
    assert said.endswith("; and standard output cannot be written: No space left on device")


@pytest.mark.parametrize("arguments", [["--help"], ["demo"], ["sandbox"]])
def test_what_else_stdout_does_not_take(arguments: list[str]) -> None:
    done = onto_a_full_disk(*arguments)
    assert (done.returncode, done.stderr) == (1, f"{FULL}\n")


def test_other_errors_of_the_system_are_not_laid_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "somewhere")

    monkeypatch.setattr(show, "say_json", refuse)
    numbers(1)
    run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox", "--quiet")
    result = CliRunner().invoke(aisolution, ["ledger", "show", "out.csv.sandbox.ledger", "--json"])
    assert isinstance(result.exception, FileNotFoundError)


def test_a_demo_that_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(demo, "write_list", refuse)
    result = run("demo")
    assert (result.exit_code, the_error(result)) == (
        2,
        "the demo's files cannot be made: No space left on device; TMPDIR says where they go",
    )


def test_a_terminal_that_knows_ascii_only() -> None:
    done = python(MAIN, "call", "whatsapp-detail", "+6281387300008", "--sandbox", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_without_uvloop() -> None:
    script = f"import sys; sys.modules['uvloop'] = None; {MAIN}"
    done = python(script, "call", "whatsapp-detail", "+6281387300008", "--sandbox", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ok"]
