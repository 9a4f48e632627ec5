"""What the command line adds: options in a file and in the environment, completion, dry runs, several endpoints."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import xlsxwriter
from click.testing import CliRunner, Result

from aisolution_async.api import CALLS
from aisolution_async.bulk.books import records
from aisolution_async.cli import config as config_file
from aisolution_async.cli.commands import aisolution
from aisolution_async.cli.lacking import examples_of
from aisolution_async.cli.paths import FileName

from .commands import left, numbers, run, the_error
from .support import picture

pytestmark = pytest.mark.usefixtures("command_environment")

BULK = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.jsonl", "--sandbox"]


def config(text: str, name: str = "aisolution.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def found(name: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


# ----------------------------------------------------------------------------------------------- the file of options


def test_options_from_a_file() -> None:
    """From the narrowest table that says it; and the command line goes before all of them."""
    Path("in.csv").write_text("a,b,c\n+6281387300001,+6281387300002,+6281387300003\n")
    config('[bulk]\nnumber = "a"\nconcurrency = 3\nquiet = true\n[bulk.whatsapp-detail]\nnumber = "b"\n')
    result = run(*BULK)
    assert (result.exit_code, result.stderr) == (0, "")
    assert found()[0]["answer_number"] == "+6281387300002"
    Path("out.jsonl.sandbox.ledger").unlink()
    assert run(*BULK, "--number", "c", "--overwrite").exit_code == 0
    assert found()[0]["answer_number"] == "+6281387300003"


@pytest.mark.parametrize("place", ["before", "after", "environment"])
def test_a_file_that_is_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config('[bulk]\nnumber = "nowhere"\n')
    path = str(config('[bulk]\nnumber = "x"\n', "other.toml"))
    Path("in.csv").write_text("phone,x\n,+6281387300002\n")
    arguments = [*BULK, "--config", path] if place == "after" else BULK
    if place == "before":
        arguments = ["--config", path, *BULK]
    if place == "environment":
        monkeypatch.setenv("AISOLUTION_CONFIG", path)
    assert run(*arguments).exit_code == 0
    assert found()[0]["answer_number"] == "+6281387300002"


def test_prices_in_a_file_are_as_written() -> None:
    numbers(3)
    config("[bulk.price]\nwhatsapp-detail = 0.10\nfacecompare = 1\n")
    result = run(*BULK, "--dry-run", "--json", "--quiet")
    assert json.loads(result.stdout)["cost"] == "0.30"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[bulk]\nconcurency = 3\n", ", [bulk]: there is no option 'concurency': did you mean 'concurrency'?"),
        ("[bulk.whatsap]\nkey = 1\n", ", [bulk]: there is no option 'whatsap': did you mean 'whatsapp-detail'?"),
        ("[bluk]\nkey = 1\n", ": there is no option 'bluk': did you mean 'bulk'?"),
        ("[bulk.face-compare]\nzzzzzz = 1\n", ", [bulk.face-compare]: there is no option 'zzzzzz': there are "),
        ('token = "x"\n', ": the token does not belong into 'token', where it is copied and committed: set AISOLUTION"),
        ('[call]\ntoken = "x"\n', ", [call]: the token does not belong into 'token'"),
        ("[bulk]\nconcurrency = true\n", ", [bulk]: 'concurrency' is a value, and neither"),
        ('[bulk]\nquiet = "yes"\n', ", [bulk]: 'quiet' is true or false"),
        ("[bulk]\nkey = [1]\n", ", [bulk]: 'key' takes one value"),
        ("[bulk\n", " is no TOML: "),
        ('base-url = "https://evil.example"\n', ": 'base-url' says where data goes: name the file with --config"),
        ('[bulk]\ncallback = "https://evil.example"\n', ", [bulk]: 'callback' says where data goes"),
    ],
)
def test_files_that_cannot_be_used(text: str, problem: str) -> None:
    numbers(1)
    config(text)
    result = run(*BULK)
    assert result.exit_code == 2
    assert the_error(result).startswith(f"the configuration 'aisolution.toml'{problem}")
    assert not Path("out.jsonl").exists()
    assert run("--version").exit_code == 0


REFUSED = {
    "base-url": '"http://127.0.0.1:8080"',  # another user of this machine may listen there
    "by-id": "true",
    "callback": '"http://localhost/"',
    "callbacks-anywhere": "true",
    "defuse": "false",
    "endpoint": '["whatsapp-detail"]',
    "fit": "false",
    "give-up": '"1d"',
    "keep-metadata": "true",
    "invoice": '"invoice.csv"',
    "no-ledger": "true",
    "no-limit": "true",
    "older-than": '"0d"',
    "output": '"out.csv"',
    "results": '"results.csv"',
    "rescued": '["rescued.jsonl"]',
    "overwrite": "true",
    "photos": "true",
    "plan": '"plan.txt"',
    "recheck": "true",
    "recheck-for": '"1d"',
    "retry-unknown": "1",
    "reuse-for": '"0s"',
    "sandbox": "true",
    "show-group-id": "true",
    "token-file": '"token"',
}


@pytest.fixture(scope="module", autouse=True)
def _all_commands() -> None:
    """A command is imported as it is called: whichever test comes first here, it finds all of them."""
    aisolution.load_all()


def test_every_option_is_decided() -> None:
    """An option that is added later needs a file that is named, until somebody says otherwise here and there."""
    known = {name for command in config_file._leaves(aisolution) for name in config_file._options(command)}
    lists = [*config_file.HARMLESS, *config_file.INSIDE, *config_file.BY_KIND]
    assert sorted([*lists, *(name.replace("-", "_") for name in REFUSED), "token"]) == sorted(known)


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("table", ["top", "own"])
def test_what_a_file_that_nobody_named_may_not_say(option: str, table: str) -> None:
    numbers(1)
    name = option.replace("-", "_")
    paths = [path for path, command in config_file._commands(aisolution, ()) if name in config_file._options(command)]
    head = "" if table == "top" else f"[{'.'.join(paths[-1])}]\n"
    path = config(f"{head}{option} = {REFUSED[option]}\n")
    result = run(*BULK)
    assert result.exit_code == 2
    assert f"{option!r} " in the_error(result)
    assert the_error(result).endswith(
        ": name the file with --config or AISOLUTION_CONFIG, or say it on the command line"
    )
    assert not Path("out.jsonl").exists()
    # The remedy that it names is one, wherever it is said: then the file is read, and another error is another thing.
    for words in (["--config", path, *BULK], [*BULK, "--config", path]):
        result = run(*words, "--sheet", "x")
        assert "name the file" not in result.stderr


@pytest.mark.parametrize("said", ["defuse = true", "fit = true", "overwrite = false", "recheck = false"])
def test_what_is_so_anyhow_may_be_said(said: str) -> None:
    numbers(1)
    config(f"[bulk]\n{said}\n")
    assert run(*BULK).exit_code == 0


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('value = ["callback=https://evil.example"]', "'value' gives 'callback'"),
        ('value = "whatsapp-detail.callback=https://evil.example"', "'value' gives 'callback'"),
        ('value = ["country=ID", " whatsapp-detail.callback =http://127.0.0.1"]', "'value' gives 'callback'"),
        ('[bulk.value]\n"gliswadetail.callback" = "https://evil.example"', "'value' gives 'callback'"),
        ('value = ["img1=/etc/passwd"]', "'value' gives 'img1'"),
        ('value = ["number=+6281387300008"]', "'value' gives 'number'"),
        ('value = ["new=1"]', "'value' gives 'new'"),
        ('column = ["callback=c"]', "'column' gives 'callback'"),
        ('[bulk.whatsapp-detail.column]\nwhatsapp-detail.callback = "c"', "'column' gives 'whatsapp-detail'"),
        ('ledger = "../other.ledger"', "'ledger' leads out of this folder"),
        ('ledger = "/tmp/other.ledger"', "'ledger' leads out of this folder"),
        ('ledger = "~/other.ledger"', "'ledger' leads out of this folder"),
        ('ledger = "~nobody-of-this-name/x.ledger"', "'ledger' leads out of this folder"),
        ('errors = "out/mend.csv"', "'errors' leads out of this folder"),
        ('errors = "link.csv"', "'errors' leads out of this folder"),
        ('errors = "dangling.csv"', "'errors' leads out of this folder"),
        ('errors = "beside.csv"', "'errors' leads out of this folder"),
        ('errors = "gone/mend.csv"', "'errors' leads out of this folder"),
        ('errors = "a\\u0000b.csv"', "'errors' leads out of this folder"),
    ],
)
def test_values_that_a_file_that_nobody_named_may_not_say(said: str, problem: str) -> None:
    Path("work").mkdir()
    os.chdir("work")
    numbers(1)
    Path("../other.csv").write_text("theirs")
    Path("out").symlink_to("..")
    Path("link.csv").symlink_to("../other.csv")
    Path("dangling.csv").symlink_to("../nowhere.csv")
    Path("beside.csv.of").symlink_to("../other.csv")
    path = config(said if said.startswith("[") else f"[bulk]\n{said}\n")
    result = run(*BULK)
    assert result.exit_code == 2
    assert problem in the_error(result)
    assert Path("../other.csv").read_text() == "theirs"
    if "\\u" not in said:
        assert "name the file" not in run(*BULK, "--dry-run", "--config", path).stderr


def test_files_in_the_folder_may_be_named_by_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.csv").write_text("number\n+6281387300001\nx\n")
    Path("sub").mkdir()
    here = Path.cwd()
    config(f'[bulk]\nledger = "sub/mine.sandbox.ledger"\nerrors = "{here}/mend.csv"\nvalue = ["country=ID"]\n')
    for _ in range(2):
        assert run(*BULK).exit_code == 1
    assert Path("mend.csv").exists()
    assert Path("sub/mine.sandbox.ledger").exists()
    monkeypatch.setenv("AISOLUTION_BULK_RETRY_UNKNOWN", "1")  # the environment is set by whoever runs it
    assert run(*BULK).exit_code == 1


def test_a_limit_is_not_counted_by_the_prices_of_a_file_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers(3)
    path = config("[bulk.price]\nwhatsapp-detail = 0.0001\n")
    refused = run(*BULK, "--max-cost", "1")
    assert refused.exit_code == 2
    assert the_error(refused).startswith("--max-cost is counted by the prices of 'aisolution.toml', which nobody named")
    assert run(*BULK, "--max-cost", "1", "--price", "whatsapp-detail=0.02").exit_code == 0
    assert run(*BULK, "--max-cost", "1", "--config", path).exit_code == 0
    monkeypatch.setenv("AISOLUTION_BULK_MAX_COST", "1")
    assert run(*BULK).exit_code == 2
    monkeypatch.setenv("AISOLUTION_CONFIG", str(path))
    assert run(*BULK).exit_code == 0


def test_a_file_that_is_named_goes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers(1)
    monkeypatch.setenv("AISOLUTION_CONFIG", "nowhere.toml")
    assert run(*BULK).exit_code == 2
    path = config("[bulk]\nquiet = true\n", "mine.toml")
    result = run("--config", path, *BULK)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_file_that_is_not_there() -> None:
    assert the_error(run("--config", "nowhere.toml", *BULK)).startswith("the configuration 'nowhere.toml' cannot be re")


def test_an_address_in_a_file_that_is_named() -> None:
    numbers(1)
    path = config('base-url = "https://vendor.example"\n', "mine.toml")
    result = run("--config", path, "bulk", "whatsapp-detail", "in.csv", "--dry-run")
    assert result.exit_code == 0, result.stderr


def test_options_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_BULK_NUMBER", "a")
    monkeypatch.setenv("AISOLUTION_BULK_WHATSAPP_DETAIL_NUMBER", "b")
    monkeypatch.setenv("AISOLUTION_BULK_QUIET", "1")
    monkeypatch.setenv("AISOLUTION_VERSION", "7")  # somebody else's
    Path("in.csv").write_text("a,b\n+6281387300001,+6281387300002\n")
    result = run(*BULK)
    assert (result.exit_code, result.stderr) == (0, "")
    assert found()[0]["answer_number"] == "+6281387300002"


# ------------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = run("completion", shell).stdout
    assert f"_AISOLUTION_COMPLETE={shell}_complete" in script
    words = {"COMP_WORDS": "aisolution bulk face", "COMP_CWORD": "2"}
    env = {**words, "_AISOLUTION_COMPLETE": "bash_complete"}
    said = CliRunner().invoke(aisolution, [], prog_name="aisolution", env=env)
    assert said.output == "plain,face-compare\n"


def test_every_command_has_examples() -> None:
    for words in (["call"], ["bulk"], *(["bulk", call.endpoint.command] for call in CALLS), ["completion"], ["demo"]):
        assert f"aisolution {words[0]}" in run(*words, "--help").output.partition("Usage")[2].partition("\n")[2]


# ------------------------------------------------------------------------------------------------- what is not given


def every_command() -> list[tuple[tuple[str, ...], click.Command]]:
    """The names of each command that is no group, and the command."""
    return [*config_file._commands(aisolution, ())]


def test_the_examples_lack_nothing() -> None:
    for path, command in every_command():
        examples = examples_of(command)
        assert examples, path
        for example in examples:
            words = shlex.split(re.split(r" [<>]|&&", example)[0])
            assert words[: len(path) + 1] == ["aisolution", *path]
            with command.make_context("", words[len(path) + 1 :]):
                pass


def test_a_command_without_its_arguments_says_what_it_needs() -> None:
    for path, command in every_command():
        required = [param for param in command.params if param.required]
        if not required:
            continue
        result = run(*path)
        assert result.exit_code == 2
        needs, _, example = the_error(result).partition("; for example: ")
        assert needs.startswith(f"aisolution {' '.join(path)} needs ")
        assert needs.endswith(f" (see aisolution {' '.join(path)} --help)")
        assert example == examples_of(command)[0]
        with click.Context(command) as ctx:
            for param in required:
                assert (param.make_metavar(ctx) if isinstance(param, click.Argument) else param.opts[-1]) in needs


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["call", "face-compare", "a.jpg"], "IMG2"),
        (["ledger", "resolve", "a.ledger"], "KEY and {charged|free}"),
        (["ledger", "resolve", "a.ledger", "A"], "{charged|free}"),
        (["report"], "FILE and --output"),
        (["report", "a.csv"], "--output"),
        (["report", "-o", "page.html"], "FILE"),
        (["ledger", "purge", "--older-than", "30d"], "LEDGER"),
    ],
)
def test_what_is_given_is_not_missing(words: list[str], needs: str) -> None:
    assert f" needs {needs} (see " in the_error(run(*words))


def test_what_the_environment_or_a_file_gives_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_LEDGER_PURGE_OLDER_THAN", "30d")
    assert " needs LEDGER (see " in the_error(run("ledger", "purge"))
    path = config('[report]\noutput = "page.html"\n', "mine.toml")
    assert " needs FILE (see " in the_error(run("--config", path, "report"))


def test_an_option_without_its_value_is_told_with_an_example_that_has_it() -> None:
    for path, command in [*every_command(), (("bulk",), aisolution.commands["bulk"]), ((), aisolution)]:
        for param in command.params:
            if not isinstance(param, click.Option) or param.is_flag or (param.is_eager and path):
                continue
            for name in param.opts:
                said = the_error(run(*path, name))
                where, _, example = said.partition("; for example: ")
                assert where.startswith(f"{' '.join(('aisolution', *path))}: option '{name}' requires an argument")
                assert {*param.opts} & {*example.split()}, said


def test_a_name_that_is_empty_is_no_file() -> None:
    """A variable of the shell that is not set is not the current folder, of which all lists would be asked."""
    for path, command in every_command():
        for param in command.params:
            assert type(param.type) is not click.Path, (path, param.name)
            if isinstance(param.type, FileName):
                result = run(*path, "" if isinstance(param, click.Argument) else f"{param.opts[-1]}=")
                assert result.exit_code == 2
                assert "the name is empty: name a file or a folder" in result.stderr
    assert "the name is empty: name a file or a folder" in run("bulk", "--resume", "out.csv", "--input=").stderr


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_is_no_ledger(place: str) -> None:
    assert run("ledger", "show", place).exit_code == 2


# ----------------------------------------------------------------------------------------------------------- a list


def applicants() -> None:
    Path("a.jpg").write_bytes(picture(1))
    Path("b.jpg").write_bytes(picture(1, quality=60))
    Path("in.csv").write_text(
        "id,selfie,ktp,no_hp\nA,a.jpg,b.jpg,081387300001\nB,a.jpg,gone.jpg,081387300002\nC,b.jpg,a.jpg,\n"
    )


def several(*options: str) -> Result:
    return run(
        "bulk", "face-compare", "in.csv", "--endpoint", "whatsapp-detail", "--country", "ID", "--sandbox", *options
    )


def test_several_endpoints() -> None:
    applicants()
    result = several("-o", "out.jsonl", "--errors", "mend.csv", "--price", "face-compare=0.05", "--concurrency", "1")
    assert result.exit_code == 1
    oks = [(row["face_compare_ok"], row["whatsapp_detail_ok"]) for row in found()]
    assert oks == [(True, True), (False, True), (True, False)]
    assert "face-compare.img1 from 'selfie'" in result.stderr
    assert "  facecompare   charged 2" in result.stderr
    assert "cost 0.10" in result.stderr
    assert "to be mended    mend.csv" in result.stderr
    lines = Path("mend.csv").read_text().splitlines()
    assert [line[0] for line in lines[1:]] == ["B", "C"]


def test_a_column_of_one_endpoint() -> None:
    applicants()
    arguments = ["bulk", "search-face", "in.csv", "-o", "out.jsonl", "--endpoint", "id-holding", "--sandbox"]
    wrong = run(*arguments)
    assert "has no column 'img' for img (say which with --column id-holding.img=COLUMN)" in the_error(wrong)
    result = run(*arguments, "--column", "id-holding.img=ktp", "--img", "selfie")
    assert "search-face.img from 'selfie', id-holding.img from 'ktp'" in result.stderr
    assert run(*arguments, "--column", "ktp").exit_code == 2


def test_a_dry_run_for_people_and_for_machines() -> None:
    applicants()
    before = left()
    result = several("--dry-run", "--price", "face-compare=0.05", "--price", "whatsapp-detail=0.02")
    assert result.exit_code == 1
    assert "cost            0.14 at most" in result.stderr
    assert "line 3: column 'ktp': img2 " in result.stderr
    assert result.stderr.splitlines()[-1] == "nothing was sent, and nothing was written"
    said = json.loads(several("--dry-run", "--json", "--quiet").stdout)
    assert (said["rows"], said["failed"], said["cost"]) == (3, 2, None)
    assert said["calls"] == {"facecompare": 2, "gliswadetail": 2}
    assert left() == before


def test_a_dry_run_needs_no_token() -> None:
    numbers(2)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--dry-run")
    assert result.exit_code == 0
    assert "to be sent      2 calls" in result.stderr
    assert "cost            not known: say --price whatsapp-detail=MONEY" in result.stderr
    assert not Path("out.csv.ledger").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "say where the results go: -o results.csv"),
        (["-o", "-", "--json"], "--json prints on stdout, where the results go"),
        (["-o", "out.csv", "--errors", "out.csv"], "the file of problems 'out.csv' is the output"),
        (["-o", "out.csv", "--errors", "mend.xls"], "the file of problems 'mend.xls' must end in "),
        (["-o", "out.csv", "--errors", "in.csv"], "the file of problems 'in.csv' is the input"),
        (["-o", "out.csv", "--images-root", "nowhere"], "the images' folder 'nowhere' is not there"),
        (["-o", "out.csv", "--reuse-for", "long"], "'long' is no time: it is like 30d"),
        (["-o", "out.csv", "--delimiter", "ab"], "'ab' is no single character"),
        (["-o", "out.csv", "--endpoint", "face"], "'face' is not one of"),
        (["-o", "out.csv", "--img1", "number"], "WhatsAppDetail has no 'img1': it takes"),
        (["-o", "out.csv", "--value", "country=Java"], "country is no two-letter country code"),
    ],
)
def test_options_that_cannot_be(options: list[str], problem: str) -> None:
    numbers(1)
    result = run("bulk", "whatsapp-detail", "in.csv", "--sandbox", *options)
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())
    assert left() == {"in.csv"}


def test_old_answers_are_asked_for_again() -> None:
    Path("in.csv").write_text("number\n+6281387300001\n")
    for options, now in (([], 1), (["--reuse-for", "30d"], 0), (["--reuse-for", "0s"], 1)):
        said = json.loads(run(*BULK, *options, "--json", "--quiet").stdout)
        assert said["charged"] + said["free"] == now


# ------------------------------------------------------------------------------------------ sheets for people


def a_workbook() -> Path:
    book = xlsxwriter.Workbook("list.xlsx")
    sheet = book.add_worksheet()
    for row, cells in enumerate([["ref", "phone"], ["0007", "+6281387300001"], ["0008", "+6281387300002"]]):
        sheet.write_row(row, 0, cells)
    book.close()
    return Path("list.xlsx")


def test_the_results_of_a_workbook_are_one_beside_it() -> None:
    a_workbook()
    dry = run("bulk", "whatsapp-detail", "list.xlsx", "--sandbox", "--dry-run")
    assert (dry.exit_code, left()) == (0, {"list.xlsx"})
    first = run("bulk", "whatsapp-detail", "list.xlsx", "--sandbox")
    assert "list-results.xlsx\n" in first.stderr
    assert left() == {"list.xlsx", "list-results.xlsx", "list-results.xlsx.sandbox.ledger"}
    before = Path("list-results.xlsx").read_bytes()
    again = run("bulk", "whatsapp-detail", "list.xlsx", "--sandbox")
    assert "resuming: 2 answers are in the ledger already" in again.stderr
    assert Path("list-results.xlsx").read_bytes() == before
    [row, _] = records(Path("list-results.xlsx"))
    assert (row["ref"], row["phone"]) == ("0007", "+6281387300001")


def test_csv_that_excel_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the locale of whoever runs it, where the input says nothing of what stands between cells."""
    a_workbook()
    for name in ("LC_ALL", "LC_NUMERIC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "id_ID.UTF-8")
    arguments = ["bulk", "whatsapp-detail", "list.xlsx", "--sandbox", "--excel"]
    run(*arguments, "-o", "out.csv")
    lines = Path("out.csv").read_bytes().decode("utf-8-sig").splitlines()
    assert lines[0].startswith("ref;phone;ok;")
    assert lines[1].startswith('"=""0007""";"=""+6281387300001""";true;')
    refused = run(*arguments, "-o", "out.jsonl")
    assert refused.exit_code == 2
    assert the_error(refused) == "what Excel opens is .csv or .xlsx: give the output 'out.jsonl' such an ending"
