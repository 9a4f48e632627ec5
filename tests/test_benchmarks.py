"""The benchmarks run, with whatever peers are installed. What they measure is nobody's to assert."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xlsxwriter

from benchmarks import adaptive, compare, roundtrip
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.peers import PEERS

from .support import LAST_RESORT

ROOT = Path(__file__).parent.parent


def benchmarks(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LAST_RESORT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


CHEAP = ("whatsapp-10", "adaptive", "report", "startup")
DEAR = ("faces-100k", "adaptive", "runner", "workbook")


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("cases", "least"), [(CHEAP, 1), pytest.param(DEAR, 2, marks=pytest.mark.long)], ids=["cheap", "dear"]
)
def test_a_quick_run_measures_what_it_names_and_every_peer_that_is_there(
    tmp_path: Path, cases: tuple[str, ...], least: int
) -> None:
    drawing = tmp_path / "adaptive.svg"
    printed = benchmarks(*cases, "--quick", "-o", str(drawing))
    for case in cases:
        assert f"### {case}: " in printed
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| ")]
    measured = {cells[1].strip() for cells in rows if cells[2].strip()}
    for peer in PEERS.values():
        if not compare.is_installed(peer):
            assert peer.name not in measured
            assert peer.package in printed.partition("Not installed, skipped: ")[2].splitlines()[0]
    ours = [cells for cells in rows if cells[1].strip().startswith("ours: ")]
    assert len(ours) >= least
    assert len(measured) > least
    assert all(float(cells[2]) > 0 for cells in ours)  # and not the name of an error
    assert ET.fromstring(drawing.read_text()).tag.endswith("svg")


def test_sheets_go_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no sheet is named, and nothing of the others is another one in the results."""
    (tmp_path / "a.csv").write_text('id;no\n0007;"x\ny"\n')
    (tmp_path / "b.csv").write_text("id\n")
    with xlsxwriter.Workbook(tmp_path / "c.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["id", "rate", "ok"])
        sheet.write_number(1, 0, 7, book.add_format({"num_format": "0000"}))
        sheet.write_number(1, 1, 0.125, book.add_format({"num_format": "0.0%"}))
        sheet.write_boolean(1, 2, True)
    assert roundtrip.main([str(tmp_path)]) == 0
    printed, problems = capsys.readouterr()
    assert problems == ""
    assert "files: 3, sheets: 2, rows: 2, cells: 5" in printed
    assert "refused, 1: no rows (b.csv)" in printed
    assert "differs" not in printed
    assert roundtrip.difference("0007", 7) == "str is int"
    assert roundtrip.difference(1, 2) == "another number"


def test_the_list_names_cases_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*CASES, *PEERS, "adaptive", "runner"))


def test_the_drawing_in_the_repository_is_small_and_has_both_grounds() -> None:
    drawing = Path(adaptive.__file__).with_name("adaptive.svg").read_text()
    assert len(drawing) < 60_000
    assert "prefers-color-scheme:dark" in drawing
