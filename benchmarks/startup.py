"""What it takes to start: the bare library, a command's help, and the run of a list with one row.

CPU of whole processes, user and system, with all that they start: `resource.getrusage`. The vendor is a process of its
own, which is not counted. Beside them, what Python itself takes, and a command of click's that does nothing.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.compare import cores
from benchmarks.numbers import number_of
from benchmarks.table import print_table

SUMMARY = "Starting: CPU of Python, a command of click's, the import of the library, --help, and bulk of one row"

_ROUNDS = 15
_CLICK = "import click; click.command()(lambda: None)(['--help'])"
_IMPORT = "import aisolution_async; aisolution_async.AsyncClient('benchmark')"
_COMMAND = "from aisolution_async.cli import main; main()"


def main(*, quick: bool) -> None:
    """Print the table."""
    server = [sys.executable, "-m", "benchmarks.server", json.dumps({"core": cores()[0]})]
    found: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as where,
        subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as vendor,
    ):
        assert vendor.stdin is not None
        assert vendor.stdout is not None
        folder, base = Path(where), f"http://127.0.0.1:{int(vendor.stdout.readline())}"
        (folder / "one.csv").write_text(f"number\n{number_of(1)}\n", "utf-8")
        bulk = ["bulk", "whatsapp-detail", "one.csv", "-o", "out.csv", "--overwrite", "--base-url", base]
        commands = {
            "python -c pass": ["pass"],
            "a command of click's, --help": [_CLICK],
            "import aisolution_async, and a client": [_IMPORT],
            "aisolution --help": [_COMMAND, "--help"],
            "aisolution bulk --help": [_COMMAND, "bulk", "--help"],
            "aisolution bulk of one row, without a ledger": [_COMMAND, *bulk, "--no-ledger"],
            "aisolution bulk of one row, with a ledger": [_COMMAND, *bulk],
        }
        for number in range(1 if quick else _ROUNDS + 1):
            for name, command in commands.items():
                for left in folder.glob("out.csv*"):
                    left.unlink()
                cost = _cpu([sys.executable, "-c", *command], folder)
                if number or quick:  # the first may compile
                    found.setdefault(name, []).append(cost)
        vendor.stdin.close()
    print(f"\n### startup: {SUMMARY}\n")
    rows: list[tuple[str, ...]] = [("", "CPU, ms", "from", "to")]
    for name, runs in found.items():
        rows.append((name, *(f"{1000 * each:.0f}" for each in (statistics.median(runs), min(runs), max(runs)))))
    print_table(rows)


def _cpu(command: list[str], folder: Path) -> float:
    """Seconds of CPU of a command, which must succeed."""
    environment = {**os.environ, "AISOLUTION_TOKEN": "benchmark", "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[3:]}: {done.stderr[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(quick=False)
