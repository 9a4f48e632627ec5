"""`aisolution bulk --resume OUTPUT`: all that a person has to know of a list that was begun."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import openpyxl
import pytest
from click.testing import CliRunner

from aisolution_async.bulk import alike
from aisolution_async.bulk.books import records
from aisolution_async.bulk.rows import Rows
from aisolution_async.cli import main
from aisolution_async.cli.commands import aisolution

from . import forks
from .commands import COMMAND, left, run, the_error
from .servers import running
from .support import TOKEN, ThreadVendor, VendorOf, picture

pytestmark = pytest.mark.usefixtures("command_environment")

PROFILE = {"number": "+6281387300008", "whatsapp": "yes"}
FACES = {"similarity": 97.5, "result": "SAME PERSON"}
LIST = "ref,phone,face\nA,081200000000,a.jpg\nB,12,a.jpg\nC,081200000003,x.jpg\n"
FIRST = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--errors", "mend.csv", "--country", "ID"]
GO_ON = "once mend.csv is mended: aisolution bulk --resume out.csv"


@pytest.fixture
def vendor(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> ThreadVendor:
    """It asks for no more than the token in the environment, and where it is."""
    found = vendor_of(lambda n: {"status": "OK", "message": PROFILE if "number" in found.requests[n] else FACES})
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    monkeypatch.setenv("AISOLUTION_BASE_URL", found.url)
    return found


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def mend(**numbers: str) -> None:
    """Mend numbers by their refs."""
    text = Path("mend.csv").read_text()
    for row in rows("mend.csv"):
        if row["ref"] in numbers:
            text = text.replace(f"{row['ref']},{row['phone']},", f"{row['ref']},{numbers[row['ref']]},")
    Path("mend.csv").write_text(text)


def test_all_options_are_remembered(vendor: ThreadVendor, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those of the file of options and of the environment too, in any folder, and in all that was moved together."""
    Path("in.csv").write_text(LIST.replace("phone", "p").replace(",", ";"))
    Path("pictures").mkdir()
    for name in ("a.jpg", "x.jpg"):
        Path("pictures", name).write_bytes(picture(ord(name[0])))
    Path("aisolution.toml").write_text('[bulk]\nkey = "ref"\nmax-charges = 100\n')
    words = [*FIRST[:-4], "--errors", "mend.csv", "--endpoint", "id-holding", "--column", "whatsapp-detail.number=p"]
    words += ["--column", "img=face", "--value", "country=ID", "--images", "pictures", "--reuse-for", "30d"]
    words += ["--price", "whatsapp-detail=0.05", "--delimiter", ";", "--any-order", "--give-up", "90s", "--no-fit"]
    result = run(*words)
    assert result.exit_code == 1, result.stderr
    assert result.stderr.splitlines()[-1] == GO_ON
    assert len(vendor.requests) == 4
    note = json.loads(Path("out.csv.run").read_text())
    assert TOKEN not in Path("out.csv.run").read_text()
    assert note["input"] == "in.csv"
    text = Path("mend.csv").read_text()
    Path("mend.csv").write_text(text.replace(";12;", ";081200000002;"))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "all"
    shutil.copytree(Path.cwd(), elsewhere)
    os.chdir(elsewhere.parent)
    result = run("bulk", "--resume", "all/out.csv")
    assert result.exit_code == 0, result.stderr
    assert len(vendor.requests) == 5
    again = json.loads(Path("all/out.csv.run").read_text())
    assert (again["command"], again["reading"]) == (note["command"], note["reading"])
    result = run("bulk", "--resume", "all/out.csv")
    assert (result.exit_code, len(vendor.requests)) == (0, 5)
    assert result.stderr == "all/out.csv is finished: all rows of all/in.csv are answered, and nothing has to be done\n"


def test_the_loop(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST).exit_code == 1
    mend(B="13")
    result = run("bulk", "--resume", "out.csv")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, GO_ON)
    assert "1 row is taken as mended in 'mend.csv' (kept in 'out.csv.mended')" in result.stderr
    assert [(row["ref"], row["phone"], row["row"]) for row in rows("mend.csv")] == [("B", "13", "3")]
    mend(B="081200000002")
    assert run("bulk", "--resume=out.csv", "--quiet").exit_code == 0
    assert [(row["ref"], row["ok"]) for row in rows("out.csv")] == [("A", "true"), ("B", "true"), ("C", "true")]
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("more", [[], ["--country", "ID", "--concurrency", "3"]])
def test_the_file_of_problems_as_the_input(more: list[str], vendor: ThreadVendor) -> None:
    """What was said of the list holds for its rows, whatever is left unsaid now."""
    Path("in.csv").write_text(LIST)
    assert run(*FIRST).exit_code == 1
    mend(B="081200000002")
    for endpoint in ("face-compare", "whatsapp-detail"):
        result = run("bulk", endpoint, "mend.csv", "-o", "out.csv", *more)
        if endpoint == "face-compare":
            assert result.exit_code == 2
            assert "'out.csv' has the results of whatsapp-detail: ask the same" in the_error(result)
    assert result.exit_code == 0, result.stderr
    assert [row["phone"] for row in rows("out.csv")] == ["081200000000", "081200000002", "081200000003"]
    assert len(vendor.requests) == 3


def test_what_takes_minutes_is_said_where_it_is_remembered(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST, "--recheck").exit_code == 1
    line = "with --recheck, as last time: "
    assert line in run("bulk", "--resume", "out.csv").stderr
    for more in ("--no-recheck", "--recheck", "--quiet"):
        assert line not in run("bulk", "--resume", "out.csv", more).stderr


def test_what_is_of_one_run_is_not_remembered(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    words = ["--retry-unknown", "1", "--quiet", "--rescued", "old.jsonl"]
    Path("old.jsonl").write_text("")
    assert run(*FIRST, *words).exit_code == 1
    said = json.loads(Path("out.csv.run").read_text())["command"]
    assert said == ["whatsapp-detail", "--country", "ID", "--errors", {"path": "mend.csv"}]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["--callback", "https://me:secret@example.com/x?key=secret"], ["--callback", "https://example.com/"]),
        (["--value", "whatsapp-detail.callback=https://example.com/secret"], ["--value", "callback=https://e.com"]),
    ],
)
def test_what_may_hold_a_secret_is_said_again(words: list[str], more: list[str], vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    run(*FIRST, *words)
    assert "secret" not in Path("out.csv.run").read_text()
    result = run("bulk", "--resume", "out.csv")
    assert result.exit_code == 2
    why = "hold a secret" if words[0] == "--value" else "not be said by a file beside an output"
    assert the_error(result).endswith(f" is not kept, as it may {why}: say it again, with its value")


def test_what_a_note_may_not_say_is_said_again(
    vendor: ThreadVendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where the token and the data go, what takes safeties off, and files elsewhere: whoever wrote the note."""
    monkeypatch.delenv("AISOLUTION_BASE_URL")
    Path("in.csv").write_text(LIST)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    words = ["--base-url", vendor.url, "--keep-metadata", "--ledger", str(elsewhere / "ledger"), "--no-defuse"]
    assert run(*FIRST, *words).exit_code == 1
    text = Path("out.csv.run").read_text()
    assert vendor.url not in text
    assert str(elsewhere) not in text
    mend(B="081200000002")
    said = the_error(run("bulk", "--resume", "out.csv", "--no-defuse", "--keep-metadata"))
    assert said.startswith(
        "--ledger, --base-url are not kept, as they may not be said by a file beside an output: say them again"
    )
    assert len(vendor.requests) == 2
    Path("all.toml").write_text(f'[bulk]\nbase-url = "{vendor.url}"\n')
    result = run("bulk", "--resume", "out.csv", *words[2:], "--config", "all.toml")
    assert result.exit_code == 0, result.stderr
    assert len(vendor.requests) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--base-url", "http://127.0.0.1:9"],
        ["--callback", "http://127.0.0.1:9"],
        ["--token-file", {"path": "in.csv"}],
        ["--value", "callback=http://127.0.0.1:9"],
        ["--errors", {"path": "../mend.csv"}],
        ["--ledger", {"path": "/tmp/ledger"}],
        ["--retry-unknown", "9"],
        ["--overwrite"],
        ["--no-ledger"],
        ["--output", {"path": "in.csv"}],
    ],
)
def test_a_note_of_somebody_else(words: list[Any], vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST).exit_code == 1
    mend(B="081200000002")
    note = json.loads(Path("out.csv.run").read_text())
    Path("out.csv.run").write_text(json.dumps(note | {"command": ["whatsapp-detail", *words]}))
    result = run("bulk", "--resume", "out.csv")
    assert result.exit_code == 2
    assert f"{words[0]} is not kept, as it may " in the_error(result)
    assert len(vendor.requests) == 2


def test_a_limit_is_not_counted_by_the_prices_of_a_note(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST, "--price", "whatsapp-detail=0.001").exit_code == 1
    mend(B="081200000002")
    more = ["--max-cost", "5"]
    assert the_error(run("bulk", "--resume", "out.csv", *more)).startswith("--price is not kept")
    assert run("bulk", "--resume", "out.csv", *more, "--price", "whatsapp-detail=1").exit_code == 0


def test_a_list_elsewhere_is_told(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    Path("results").mkdir()
    words = ["bulk", "whatsapp-detail", "in.csv", "-o", "results/out.csv", "--country", "ID"]
    assert run(*words).exit_code == 1
    result = run("bulk", "--resume", "results/out.csv")
    assert "reading results/../in.csv\n" in result.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--resume", "nowhere.csv"], "nothing says how 'nowhere.csv' was made: 'nowhere.csv.run' is not there; give"),
        (["--resume", "out.csv", "-o", "other.csv"], "--resume goes on with 'out.csv' as it is: leave --output out"),
        (["--resume", "out.csv", "-oother.csv"], "--resume goes on with 'out.csv' as it is: leave --output out"),
        (["--resume", "out.csv", "--no-ledger"], "--resume goes on with 'out.csv' as it is: leave --no-ledger out"),
        (["--resume", "out.csv", "--input", "gone.csv"], "the list 'gone.csv' is not there: say where it is now"),
        (["--resume", "."], "--resume goes on with the file OUTPUT, and '.' is a directory"),
        (["whatsapp-detail", "in.csv", "-o", "."], "the output '.' is a directory: name a file in it"),
        (["--input", "in.csv"], "--input goes with --resume OUTPUT"),
    ],
)
def test_what_cannot_be_gone_on_with(words: list[str], problem: str, vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    run(*FIRST)
    before = left()
    result = run("bulk", *words)
    assert result.exit_code == 2
    assert the_error(result).startswith(problem)
    assert (left(), len(vendor.requests)) == (before, 2)


def test_a_list_that_was_moved(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    run(*FIRST)
    mend(B="081200000002")
    Path("in.csv").rename("moved.csv")
    result = run("bulk", "--resume", "out.csv")
    assert the_error(result) == "the list 'in.csv' is not there: say where it is now, with --input FILE"
    assert run("bulk", "--resume", "out.csv", "--input", "moved.csv").exit_code == 0
    assert run("bulk", "--resume", "out.csv").stderr.startswith("out.csv is finished: all rows of moved.csv are answ")
    assert len(vendor.requests) == 3


@pytest.mark.parametrize(
    "said",
    [
        {"command": ["whatsapp-detail", 5]},
        {"command": ["nosuchcmd"]},
        {"command": ["whatsapp-detail", "--country"]},
        {"command": ["whatsapp-detail", "--country", 5]},
        {"command": ["whatsapp-detail", "--errors", "mend.csv"]},
        {"command": ["whatsapp-detail", "in.csv"]},
        {"command": [{"path": "x"}]},
        {"command": "whatsapp-detail"},
        {"reading": {"bogus": 1}},
        {"reading": {"header_row": "1"}},
        {"reading": [1]},
        {"endpoints": 5},
        {"finished": [float("inf"), 0]},
        {"input": 5},
    ],
)
@pytest.mark.parametrize("words", [["--resume", "out.csv"], ["whatsapp-detail", "mend.csv", "-o", "out.csv"]])
def test_a_note_that_is_none(said: dict[str, Any], words: list[str], vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST).exit_code == 1
    mend(B="081200000002")
    note = json.loads(Path("out.csv.run").read_text())
    Path("out.csv.run").write_text(json.dumps(note | said))
    result = run("bulk", *words)
    assert result.exit_code == 2
    assert the_error(result).startswith("'out.csv.run' cannot be read, which says what 'out.csv' is of: take it away")
    assert len(vendor.requests) == 2


def test_a_sample_changes_no_note(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST).exit_code == 1
    mend(B="081200000002")
    before = Path("out.csv.run").read_bytes()
    result = run(*FIRST[:5], "--country", "ID", "--sample", "1")
    assert "'mend.csv' has rows of 'out.csv' that were mended, and would be left behind" in the_error(result)
    assert run(*FIRST, "--sample", "3").exit_code == 0
    assert (Path("out.csv.run").read_bytes(), "--country" in before.decode()) == (before, True)
    assert run("bulk", "--resume", "out.csv").exit_code == 0
    assert len(vendor.requests) == 3


def test_a_file_that_was_mended_is_not_left_behind(vendor: ThreadVendor) -> None:
    """Neither by a command that names no file of problems, nor by one that names another, whenever it was mended."""
    Path("in.csv").write_text(LIST)
    other = [*FIRST[:5], "--country", "ID"]
    assert run(*FIRST).exit_code == 1
    assert run(*other).exit_code == 1
    mend(B="081200000002")
    for words in (other, [*other, "--errors", "another.csv"], ["bulk", "--resume", "out.csv"]):
        assert "name it as the file of problems (--errors)" in the_error(run(*words))
    assert len(vendor.requests) == 2
    assert run("bulk", "--resume", "out.csv", "--errors", "mend.csv").exit_code == 0
    assert len(vendor.requests) == 3


def test_a_list_from_standard_input(vendor: ThreadVendor) -> None:
    """What was mended of it is taken in where the list is a file."""
    lines = '{"number": "+6281200000000"}\n{"number": "12"}\n'
    words = ["bulk", "whatsapp-detail", "-", "-o", "out.jsonl", "--errors", "mend.jsonl"]
    result = CliRunner().invoke(aisolution, words, input=lines)
    assert result.stderr.splitlines()[-1].startswith(
        "once mend.jsonl is mended: aisolution bulk --resume out.jsonl --input FILE, where FILE has the rows"
    )
    Path("mend.jsonl").write_text(Path("mend.jsonl").read_text().replace('"12"', '"+6281200000002"'))
    result = CliRunner().invoke(aisolution, ["bulk", "--resume", "out.jsonl"], input=lines)
    assert result.exit_code == 2
    assert "and say aisolution bulk --resume out.jsonl --input FILE" in the_error(result)
    Path("in.jsonl").write_text(lines)
    result = run("bulk", "--resume", "out.jsonl", "--input", "in.jsonl")
    assert result.exit_code == 0, result.stderr
    assert len(vendor.requests) == 2


def test_a_file_of_problems_that_stayed_behind_is_told(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    assert run(*FIRST).exit_code == 1
    Path("mend.csv").rename("elsewhere.csv")
    said = "the file of problems 'mend.csv' is not there: nothing of it is taken in"
    assert said in run("bulk", "--resume", "out.csv").stderr
    assert said not in run("bulk", "--resume", "out.csv").stderr


def test_ctrl_c_before_anything_is_sent(vendor: ThreadVendor, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    Path("in.csv").write_text(LIST)
    monkeypatch.setattr("aisolution_async.cli.bulk.origin_of", press)
    result = run(*FIRST)
    assert (result.exit_code, the_error(result)) == (130, "interrupted: nothing was sent")
    monkeypatch.setattr("aisolution_async.cli.streams.mend", press)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_other_words_are_told(vendor: ThreadVendor) -> None:
    Path("in.csv").write_text(LIST)
    run(*FIRST)
    assert "unexpected extra argument" in run("bulk", "--resume", "out.csv", "whatsapp-detail", "in.csv").stderr
    assert "No such option" in run("bulk", "--resume", "out.csv", "--resme").stderr
    assert "requires an argument" in run("bulk", "--resume").stderr
    assert "--resume OUTPUT" in run("bulk", "--help").stdout


# ------------------------------------------------------------------------------------------------------------ kill -9


class Deadly:
    """A vendor that kills whoever asks it for the `at`th time, instead of answering; what it answers, it charges."""

    def __init__(self) -> None:
        self.bill: Counter[str] = Counter()
        self.at = 0
        self.victims: SimpleQueue[forks.Forked] = SimpleQueue()
        self.requests: list[dict[str, list[str]]] = []

    def __call__(self, number: int) -> object:
        self.at -= 1
        if self.at == 0:
            self.victims.get().kill()
            return b""
        form = self.requests[number]
        self.bill[str(form.get("number") or form["img"])] += 1
        return {"status": "OK", "message": PROFILE if "number" in form else FACES}

    def kill(self, at: int, *words: str) -> None:
        """Run a command of its own process, and kill that."""
        self.at = at
        with Path("said").open("wb+") as said:
            victim = forks.start([*COMMAND[1:], *words], stdout=said, stderr=said)
            self.victims.put(victim)
            assert victim.wait() == -signal.SIGKILL, Path("said").read_text()
        Path("said").unlink()


def cells(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".xlsx":
        return [dict(record) for record in records(path)]
    with Rows(path) as found:
        return [dict(zip(found.header, row.cells, strict=True)) for row in found]


def save(path: Path, found: list[dict[str, Any]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*found[0]])
            writer.writeheader()
            writer.writerows(found)
        return
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append([*found[0]])
    for row in found:
        book.active.append([*row.values()])
    book.save(path)


@pytest.mark.no_cover
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("output", "problems"), [("out.xlsx", "mend.xlsx"), ("out.csv", "mend.csv"), ("out.parquet", "mend.xlsx")]
)
def test_the_loop_twice_with_kills(
    output: str, problems: str, vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finished sheet, and the vendor's bill is that of one pass. Two endpoints, photos by path, a total."""
    deadly = Deadly()
    vendor = vendor_of(deadly)
    deadly.requests = vendor.requests
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor.url)
    Path("photos").mkdir()
    for number in range(6):
        Path("photos", f"{number}.jpg").write_bytes(picture(number))
    people = [(f"R{n}", f"08138730000{n}", f"photos/{n}.jpg") for n in range(6)]
    people[1], people[4] = ("R1", "12", "photos/1.jpg"), ("R4", "081387300004", "gone.jpg")
    people += [("Total", "", "")]
    save(Path("in.xlsx"), [dict(zip(("ref", "phone", "foto"), row, strict=True)) for row in people])
    words = ["bulk", "whatsapp-detail", "in.xlsx", "-o", output, "--errors", problems, "--country", "ID"]
    words += ["--endpoint", "id-holding", "--img", "foto", "--concurrency", "1"]
    resume, held = ["bulk", "--resume", output], Path(f"out-held{Path(problems).suffix}")
    deadly.kill(6, *words)
    deadly.kill(2, *resume)
    result = run(*resume)
    assert result.exit_code == 1
    assert "to be settled" in result.stderr
    # Two questions are held. A row's photo and the next row's number may go in either order, so of one row or of two.
    keys = [row["ref"] for row in cells(held)]
    assert len(keys) in (1, 2)
    assert [row["ref"] for row in cells(Path(problems))] == ["R1", "R4"]
    for key in keys:
        assert run("ledger", "resolve", f"{output}.ledger", key, "free").exit_code == 0
    found = cells(Path(problems))
    found[0]["phone"], found[1]["foto"] = "13", "photos/4.jpg"
    save(Path(problems), found[::-1])
    deadly.kill(1, *resume)
    assert "13" in Path(f"{output}.mended").read_text()
    result = run(*resume)
    assert f"once {problems} is mended: aisolution bulk --resume {output}" in result.stderr
    found = cells(Path(problems))
    assert [row["phone"] for row in found] == ["13"]
    for row in cells(held):
        assert run("ledger", "resolve", f"{output}.ledger", row["ref"], "free").exit_code == 0
    found[0]["phone"] = "081387300001"
    save(Path(problems), found)
    result = run(*resume)
    assert result.exit_code == 0, result.stderr
    assert not held.exists()
    done = cells(Path(output))
    assert [row["ref"] for row in done] == ["R0", "R1", "R2", "R3", "R4", "R5", "Total"]
    for row in done[:-1]:
        assert (row["phone"], row["foto"]) == (f"08138730000{row['ref'][1]}", f"photos/{row['ref'][1]}.jpg")
        assert {str(row[f"{name}_ok"]).lower() for name in ("whatsapp_detail", "id_holding")} == {"true"}
    assert sorted(deadly.bill.values()) == [1] * 12
    result = run(*resume)
    assert (result.exit_code, deadly.bill.total()) == (0, 12)
    assert "is finished: " in result.stderr


def test_a_shared_ledger_is_named_each_time(vendor: ThreadVendor) -> None:
    """Answers go there: a file beside an output does not say where."""
    Path("in.csv").write_text(LIST)
    url = running().url()
    assert run(*FIRST, "--ledger", url).exit_code == 1
    mend(B="081200000001")
    assert "--ledger" in the_error(run("bulk", "--resume", "out.csv"))
    assert run("bulk", "--resume", "out.csv", "--ledger", url).exit_code == 0
    assert [row["ok"] for row in rows("out.csv")] == ["true"] * 3
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("again", [["--resume", "out.csv"], ["whatsapp-detail", "mend.csv", "-o", "out.csv"]])
def test_the_password_in_a_shared_ledger_s_url_is_kept_nowhere(vendor: ThreadVendor, again: list[str]) -> None:
    url = running().url(user="postgres:s3cret")
    Path("in.csv").write_text(LIST)
    assert run(*FIRST, "--ledger", url).exit_code == 1
    assert not [file for file in Path().iterdir() if file.is_file() and b"s3cret" in file.read_bytes()]
    mend(B="081200000001")
    if again[0] == "--resume":
        refused = run("bulk", *again)
        assert refused.exit_code == 2
        assert "--ledger is not kept" in refused.stderr
    assert run("bulk", *again, "--ledger", url).exit_code == 0
    assert [row["ok"] for row in rows("out.csv")] == ["true"] * 3
    assert len(vendor.requests) == 3
    assert not [file for file in Path().iterdir() if file.is_file() and b"s3cret" in file.read_bytes()]


def test_a_run_without_a_ledger_that_was_killed(vendor: ThreadVendor) -> None:
    """It has no note: what is said in its place takes its answers over."""
    Path("in.csv").write_text("ref,phone\nA,081200000000\nB,081200000001\n")
    words = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--country", "ID", "--no-ledger"]
    run(*words)
    Path("out.csv").rename("out.csv.part")
    said = the_error(run("bulk", "--resume", "out.csv"))
    assert "give the whole command again, with --rescued out.csv.part: " in said
    assert run(*words, "--rescued", "out.csv.part").exit_code == 0
    assert [row["ok"] for row in rows("out.csv")] == ["true", "true"]
    assert len(vendor.requests) == 2
    assert "--rescued" not in the_error(run("bulk", "--resume", "out.csv"))


def test_what_is_told_while_it_runs_is_not_told_again(vendor: ThreadVendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "LOOKED_AT", 3)
    Path("in.csv").write_text("phone\n" + "".join(f"08120000000{n}\n" for n in range(5)))
    found = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--country", "ID", "--json")
    assert found.stderr.count("answers are all 'yes'") == 1
    assert found.stderr.index("answers are all") < found.stderr.index("with problems")
    assert len(json.loads(found.stdout)["warnings"]) == 1
