"""Runs a case: a server, and one peer after the other in processes of their own, round by round."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.peers import Peer

OURS = "ours: batch"

_CLOSE = ("ours: batch", "ours: send, gathered", "aiohttp, bytes", "aiohttp, bytes, aiofastnet")
"""The peers that the goals are about: measured in every round, the others in three."""

_IMAGES = 24  # 552 pairs, no two the same
_TIME_LIMIT = 60.0  # seconds for one measurement of a peer
_TRIES = 3
_DISTURBED = 10.0  # per cent of the client's core that others may have had before a measurement is made again

_MODULES = {"aisolution-async": "aisolution_async"}
_HERE = Path(__file__).parent.parent


@dataclass(slots=True)
class Result:
    """The figures of one peer in one case, one of each per run; or why there are none."""

    runs: list[dict[str, float]] = field(default_factory=list)
    error: str = ""

    def median(self, figure: str) -> float:
        return statistics.median(run[figure] for run in self.runs)

    def beside(self, other: Result, figure: str) -> list[float]:
        """This peer's figure by the other's, of each round that has both, the least first."""
        pairs = zip(self.runs, other.runs, strict=False)
        return sorted(own[figure] / others[figure] for own, others in pairs if others[figure])


def is_installed(peer: Peer) -> bool:
    module = _MODULES.get(peer.package, peer.package.replace("-", "_"))
    return importlib.util.find_spec(module) is not None


def cores() -> tuple[int | None, int | None]:
    """A core for the server and another for the client; None where there are not two, or they cannot be chosen."""
    if not hasattr(os, "sched_getaffinity") or len(usable := sorted(os.sched_getaffinity(0))) < 2:
        return None, None
    return usable[0], usable[-1]


def run_case(case: Case, peers: list[Peer], *, quick: bool) -> dict[str, Result]:
    """Measure `peers`, in turn and several times over. By name, in the order of `peers`."""
    peers = [peer for peer in peers if peer.only in (None, case.name)]
    results = {peer.name: Result() for peer in peers if quick or _rounds(case, peer)}
    with _materials(case) as (images, certificate, cafile), _server(case, certificate) as (port, pid):
        for number in range(1 if quick else case.rounds):
            _say(f"{case.name}: round {number + 1}")
            for peer in peers:
                result = results.get(peer.name)
                if result is None or result.error or number >= (1 if quick else _rounds(case, peer)):
                    continue
                slow = _is_slow(case, peer)
                calls = min(case.at_once, 40) if quick else case.slow_calls if slow else case.calls
                spec = {
                    "peer": peer.name,
                    "base_url": f"https://localhost:{port}" if case.tls else f"http://127.0.0.1:{port}",
                    "images": images,
                    "at_once": case.at_once,
                    "cafile": cafile,
                    "warm_up": 2 if quick else case.at_once if slow or images else 2 * case.at_once,
                    "calls": calls,
                    "server": pid,
                    "core": cores()[1],
                    "loop": "uvloop" if case.uvloop else "asyncio",
                }
                run = _measure(spec, tries=1 if quick or slow else _TRIES)
                if "error" in run:
                    result.error = run["error"]
                    _say(f"{case.name}: {peer.name}: {run['error']} {run.get('details', '')}")
                else:
                    result.runs.append(run)
    return results


def _is_slow(case: Case, peer: Peer) -> bool:
    return peer.slow or (peer.slow_faces and case.image_bytes > 0)


def _rounds(case: Case, peer: Peer) -> int:
    if _is_slow(case, peer):
        return case.slow_rounds
    return case.rounds if peer.name in _CLOSE else min(case.rounds, 3)


def _say(text: str) -> None:
    print(text.rstrip(), file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------ processes


def _environment(cafile: str | None = None) -> dict[str, str]:
    """Ours, without proxies, which would be measured in the peers' place; `cafile` is what every peer trusts."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    if cafile is not None:
        environment |= {"SSL_CERT_FILE": cafile, "REQUESTS_CA_BUNDLE": cafile}
    return environment


def _measure(spec: dict[str, Any], *, tries: int) -> dict[str, Any]:
    """One measurement, the least disturbed of `tries` at most."""
    best: dict[str, Any] = {}
    for _ in range(tries):
        run = run_module("benchmarks.measure", spec, cafile=spec["cafile"], seconds=_TIME_LIMIT)
        if "error" in run:
            return run
        if not best or run["disturbed"] < best["disturbed"]:
            best = run
        if best["disturbed"] <= _DISTURBED:
            break
    return best


def run_module(
    module: str, spec: dict[str, Any], *, cafile: str | None = None, seconds: float = 1800.0
) -> dict[str, Any]:
    """Run a module of ours as a process, for `seconds` at most, and read the JSON of its last line."""
    command = [sys.executable, "-m", module, json.dumps(spec)]
    try:
        done = subprocess.run(
            command,
            cwd=_HERE,
            env=_environment(cafile),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"over {seconds:.0f} s"}
    try:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"exit code {done.returncode}", "details": done.stderr[-500:]}
    return result


@contextlib.contextmanager
def _server(case: Case, certificate: str | None) -> Iterator[tuple[int, int]]:
    """The server's port and process id."""
    options = {"core": cores()[0], "latency": case.latency, "certificate": certificate}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", json.dumps(options)],
        cwd=_HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.stdin.close()


@contextlib.contextmanager
def _materials(case: Case) -> Iterator[tuple[list[str], str | None, str | None]]:
    """Paths of images, and of the server's certificate and of what vouches for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = []
        for number in range(_IMAGES if case.image_bytes else 0):
            path = folder / f"{number}.jpg"
            # What a JPEG begins with, and then, as in a JPEG, bytes that look random.
            path.write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(case.image_bytes - 4))
            images.append(str(path))
        if not case.tls:
            yield images, None, None
            return
        trustme = importlib.import_module("trustme")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        yield images, str(folder / "server.pem"), str(folder / "ca.pem")
