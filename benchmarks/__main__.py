"""`python -m benchmarks [CASE ...]`: run the cases and print the table, as Markdown."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import adaptive, engines, fit, ledger, report, runner, scale, service, startup, workbook
from benchmarks.cases import CASES
from benchmarks.compare import OURS, Result, cores, is_installed, run_case
from benchmarks.peers import PEERS, Peer
from benchmarks.table import print_table

_OTHERS = {"adaptive": adaptive.SUMMARY, "runner": runner.SUMMARY, "ledger": ledger.SUMMARY, "fit": fit.SUMMARY}
_OTHERS |= {"service": service.SUMMARY, "scale": scale.SUMMARY, "report": report.SUMMARY, "workbook": workbook.SUMMARY}
_OTHERS |= {"startup": startup.SUMMARY, "engines": engines.SUMMARY}
_PACKAGES = ("aisolution-async", "aiohttp", "aiometer", "httpcore", "httptools", "httpx", "httpx-aiohttp", "httpx2")
_MORE_PACKAGES = ("aiofastnet", "niquests", "pybase64", "pydantic", "pyqwest", "uvloop")

_COLUMNS = (
    "",
    "CPU/call, ms",
    "x ours (range)",
    "calls/s",
    "x ours",
    "peak MB",
    "x ours",
    "longest stall, ms",
    "x ours",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What a call costs, beside its peers.")
    parser.add_argument("cases", metavar="CASE", nargs="*", choices=[[], *CASES, *_OTHERS], help="see --list")
    parser.add_argument("--quick", action="store_true", help="see only that everything runs; the figures mean nothing")
    parser.add_argument("--list", action="store_true", help="the cases and the peers, and nothing else")
    parser.add_argument("-o", metavar="SVG", type=Path, help="where `adaptive` draws; else benchmarks/adaptive.svg")
    parser.add_argument("--rows", metavar="N", type=int, help="`scale` of a ledger with so many rows: size and reading")
    options = parser.parse_args(arguments)
    if options.list:
        print_lists()
        return
    started = time.monotonic()
    names = options.cases or [*CASES, *_OTHERS]
    print_machine()
    missing = print_missing()
    peers = [peer for peer in PEERS.values() if peer.package not in missing]
    for number, name in enumerate(names):
        if name == "adaptive":
            adaptive.main(options.o, quick=options.quick)
        elif name == "runner":
            runner.main(quick=options.quick)
        elif name == "ledger":
            ledger.main(quick=options.quick)
        elif name == "fit":
            fit.main(quick=options.quick)
        elif name == "service":
            service.main(quick=options.quick)
        elif name == "scale":
            scale.main(quick=options.quick, count=options.rows)
        elif name == "report":
            report.main(quick=options.quick)
        elif name == "workbook":
            workbook.main(quick=options.quick)
        elif name == "startup":
            startup.main(quick=options.quick)
        elif name == "engines":
            engines.main(quick=options.quick)
        else:
            few = options.quick and len(names) > 1
            chosen = _some(peers, number, len(CASES)) if few else peers
            print_results(name, run_case(CASES[name], chosen, quick=options.quick))
        sys.stdout.flush()
    print(f"\n{time.monotonic() - started:.0f} s in all.")


def _some(peers: list[Peer], number: int, of: int) -> list[Peer]:
    """Ours and a few others, so that over `of` cases each peer has its turn."""
    return [PEERS[OURS], *(peer for peer in peers[number::of] if peer.name != OURS)]


# -------------------------------------------------------------------------------------------------------- printing


def print_lists() -> None:
    for case in CASES.values():
        print(f"{case.name:15} {case.summary}")
    for name, summary in _OTHERS.items():
        print(f"{name:15} {summary}")
    print()
    for peer in PEERS.values():
        print(f"{peer.name:27} {_version(peer.package)}")


def print_machine() -> None:
    """What the figures depend on: nothing that tells whose machine it is."""
    apart = "server and client on one core each" if cores()[0] is not None else "server and client not kept apart"
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores ({apart})"
    )
    print(", ".join(f"{package} {_version(package)}" for package in _PACKAGES + _MORE_PACKAGES))


def print_missing() -> set[str]:
    missing = {peer.package for peer in PEERS.values() if not is_installed(peer)}
    if missing:
        print(f"\nNot installed, skipped: {', '.join(sorted(missing))} (pip install -e '.[bench]')")
    return missing


def print_results(name: str, results: dict[str, Result]) -> None:
    print(f"\n### {name}: {CASES[name].summary}\n")
    rows: list[tuple[str, ...]] = [_COLUMNS]
    ours = results[OURS]
    for peer, result in results.items():
        if result.error or not result.runs:
            rows.append((peer, result.error, *[""] * 7))
            continue
        cells = [peer]
        for figure, shape in (("cpu", "{:.3f}"), ("rate", "{:,.0f}"), ("memory", "{:.0f}"), ("stall", "{:.1f}")):
            value = result.median(figure)
            cells.append(shape.format(value))
            ratios = result.beside(ours, figure)
            told = f"{statistics.median(ratios):.2f}" if ratios else ""
            wide = figure == "cpu" and peer != OURS and len(ratios) > 1
            cells.append(f"{told} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if wide else told)
        rows.append(tuple(cells))
    print_table(rows)
    runs = [run for result in results.values() for run in result.runs]
    if runs:
        disturbed = sum(run["disturbed"] > 10 for run in runs)
        print(
            f"\nThe server was busy for {max(run['server'] for run in runs):.0f} % of the time at most; "
            f"{disturbed} of {len(runs)} runs shared their core with something else for more than 10 %."
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a processor")


if __name__ == "__main__":
    main()
