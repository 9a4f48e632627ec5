"""A seventh endpoint is one section in `api.py`: the guide's, put into a copy of the package, and used everywhere."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from . import forks
from .services import example
from .support import picture, raw_server

ROOT = Path(__file__).parent.parent
TABLES = re.compile(r"^# -+ the tables$", re.MULTILINE)
FRAGMENT = re.compile(r"^```text\n( {4}.*?)^```$", re.MULTILINE | re.DOTALL)
CALLS = re.compile(r"^(CALLS: [^=]*= \([^)]*?),?\s*\)$", re.MULTILINE)
USED = """
import asyncio
from decimal import Decimal
from aisolution_async import Answered, AsyncClient, BudgetExhaustedError, Charge
from aisolution_async.api import ENDPOINTS, CheckLiveness, endpoint_of

for spelling in ("liveness", "check-liveness", "check_liveness", "CheckLiveness", CheckLiveness):
    assert endpoint_of(spelling) is ENDPOINTS["liveness"]

async def main():
    prices = {"check-liveness": Decimal("0.03")}
    rules = {"CheckLiveness": {"RETRY_LATER": Charge.FREE}}
    async with AsyncClient(ledger="own.ledger", prices=prices, max_cost=Decimal("0.06"), charge_rules=rules) as client:
        reply = await client.send(CheckLiveness("a.jpg", key="A-1"))
        assert (reply.score, reply.charge) == (97.5, Charge.CHARGED), reply
        outcomes = await client.collect([CheckLiveness("a.jpg"), CheckLiveness("b.jpg")])
        assert [outcome.from_ledger for outcome in outcomes] == [True, False]
        assert isinstance(outcomes[1], Answered)
        assert outcomes[1].to_dict()["answer_score"] == 97.5
        assert client.tally.by_endpoint["liveness"].charged == 2
        try:
            await client.send(CheckLiveness("c.jpg"))
        except BudgetExhaustedError:
            pass
        else:
            raise AssertionError("it was sent beyond the limit")

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the package with the guide's section in it, and three photos and a list."""
    package = tmp_path / "copy" / "aisolution_async"
    shutil.copytree(ROOT / "aisolution_async", package)  # and what is compiled, for all that is as it was
    api = (package / "api.py").read_text(encoding="utf-8")
    if "class CheckLiveness" not in api:  # once it is there, nothing is to be added
        section = example("class CheckLiveness")
        tables = TABLES.search(api)
        assert tables is not None
        api = f"{api[: tables.start()]}{section[section.index('class Liveness') :]}\n\n{api[tables.start() :]}"
        api, count = CALLS.subn(r"\1, CheckLiveness)", api)
        assert count == 1
        (package / "api.py").write_text(api, encoding="utf-8")
    for seed, name in enumerate("abc"):
        (tmp_path / f"{name}.jpg").write_bytes(picture(seed))
    (tmp_path / "list.csv").write_text("applicant_id,selfie\nA-1,a.jpg\nA-2,b.jpg\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
async def vendor() -> AsyncIterator[tuple[str, list[str]]]:
    """The URL of a vendor that has the new endpoint, and the paths that were asked for."""
    asked: list[str] = []
    body = json.dumps({"status": "OK", "message": {"score": 97.5}}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            assert length is not None
            await reader.readexactly(int(length[1]))
            asked.append(head.split()[1].partition("?")[0])
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )

    async with raw_server(serve) as url:
        yield url, asked


NOT_IN_THE_SANDBOX = """
import asyncio
from aisolution_async import AISolutionError, AsyncClient, Charge
from aisolution_async.api import CheckLiveness
from aisolution_async.sandbox import Sandbox

async def main():
    async with Sandbox() as sandbox:
        async with AsyncClient(sandbox.token, base_url=sandbox.url, ledger="own.ledger") as client:
            for _ in range(2):  # nothing is held
                try:
                    await client.send(CheckLiveness("a.jpg"))
                except AISolutionError as error:
                    print(error)
                    assert error.charge is Charge.FREE
                    assert len(error.attempts) == 1
        assert (sandbox.bill.charged, sandbox.requests["liveness"]) == (0, 2)

asyncio.run(main())
"""


IN_THE_SANDBOX = """
import asyncio
from aisolution_async import AsyncClient, Charge
from aisolution_async.sandbox import Sandbox

async def main():
    async with Sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        reply = await client.check_liveness("a.jpg")
        assert (reply.score, reply.charge) == (87.5, Charge.CHARGED), reply
        assert sandbox.bill == client.tally

asyncio.run(main())
"""


@pytest.mark.parametrize("documented", ["INVALID_REQUEST", "FAIL", "INVALID_INPUT", "FACE_DETECT_FAILED"])
async def test_the_sandbox_says_that_it_has_no_answer_for_it_and_that_is_free(folder: Path, documented: str) -> None:
    vendor = folder / "copy" / "aisolution_async" / "sandbox" / "vendor.py"
    text = vendor.read_text(encoding="utf-8")
    vendor.write_text(re.sub(r'^ *"liveness": self\..*\n', "", text, flags=re.MULTILINE), encoding="utf-8")
    api = folder / "copy" / "aisolution_async" / "api.py"
    before, section = api.read_text(encoding="utf-8").rsplit("class Liveness", 1)
    section = section.replace('"INVALID_REQUEST": FREE', f'"{documented}": FREE', 1)
    api.write_text(f"{before}class Liveness{section}", encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")} | {"PYTHONPATH": str(folder / "copy")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NOT_IN_THE_SANDBOX),
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert "may have been charged" not in said
    assert "check that" not in said
    if documented == "FACE_DETECT_FAILED":  # the vendor would speak of the photo
        assert said.count("liveness: refused with HTTP 404") == 2
    else:
        assert said.count("the sandbox has no answer for liveness yet: write one, in the class Vendor") == 2


async def test_it_is_used_everywhere(folder: Path, vendor: tuple[str, list[str]]) -> None:
    url, asked = vendor
    env = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")}
    env |= {"PYTHONPATH": str(folder / "copy"), "AISOLUTION_BASE_URL": url, "AISOLUTION_TOKEN": "token-of-a-test"}

    async def run(*command: str) -> str:
        how: dict[str, Any] = {"cwd": folder, "env": env, "path": folder / "copy"}
        code, said = await asyncio.to_thread(forks.run, [*command], **how)
        assert code == 0, said
        return said

    cli = ("-m", "aisolution_async.cli")
    await run("-c", USED)
    assert asked == ["/v1/liveness"] * 2
    said = await run(*cli, "call", "check-liveness", "a.jpg", "--json")
    (answer,) = (line for line in said.splitlines() if line.startswith("{"))
    assert json.loads(answer)["answer"] == {"score": 97.5}
    await run(*cli, "bulk", "check-liveness", "list.csv", "-o", "out.csv", "--price", "liveness=0.03")
    rows = [*csv.DictReader((folder / "out.csv").read_text(encoding="utf-8").splitlines())]
    assert [(row["ok"], row["answer_score"], row["charge"]) for row in rows] == [("true", "97.5", "charged")] * 2
    assert asked == ["/v1/liveness"] * 5
    assert "liveness" in await run(*cli, "ledger", "show", "out.csv.ledger")
    await run(*cli, "ledger", "export", "out.csv.ledger", "-o", "replies.csv")
    await run(*cli, "report", "out.csv.ledger", "-o", "report.html")
    assert "liveness" in (folder / "report.html").read_text(encoding="utf-8")


def put(text: str, at: str, what: str) -> str:
    """`text` with `what` before the one place that reads `at`."""
    assert text.count(at) == 1
    return text.replace(at, what + at)


async def test_with_all_that_the_guide_says_the_tests_know_it(folder: Path) -> None:
    """Each of its steps, done as it stands there: the tests that it names have nothing to say."""
    method, answer, told = FRAGMENT.findall((ROOT / "aisolution_async" / "sending" / "README.md").read_text("utf-8"))
    copy = folder / "copy"
    shutil.copytree(ROOT / "tests", copy / "tests")  # and what is compiled
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    changes = {
        copy / "aisolution_async" / "client.py": [
            ("from aisolution_async.api import (\n", "from aisolution_async.api import CheckLiveness, Liveness\n"),
            ("    async def id_holding(", f"{method}\n"),
        ],
        copy / "aisolution_async" / "sandbox" / "vendor.py": [
            ('            "facecompare": self._', '            "liveness": self._check_liveness,\n'),
            ("    async def _face_compare(", f"{answer}\n"),
        ],
        copy / "tests" / "contract.py": [('    "facecompare": Told(', told)],
    }
    for path, added in changes.items():
        text = path.read_text(encoding="utf-8")
        if "iveness" not in text:
            for at, what in added:
                text = put(text, at, what)
            path.write_text(text, encoding="utf-8")
    files = [f"tests/test_{name}.py" for name in ("envelope", "finding", "shape", "openapi")]
    concerned = "liveness or covers or any_number_of_statuses or described"  # the rest takes too long here
    deselected = "tests/test_openapi.py::test_the_sandbox_is_as_described"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-v", "-x", "-n", "0", "-p", "no:cacheprovider"),
        *(*files, "-k", concerned, "--deselect", deselected),
        cwd=copy,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "AISOLUTION", "COV"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert "test_help_says_what_an_endpoint_asks_answers_and_costs[CheckLiveness] PASSED" in said
    env = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")} | {"PYTHONPATH": str(copy)}
    how: dict[str, Any] = {"cwd": folder, "env": env, "path": copy}
    assert await asyncio.to_thread(forks.run, ["-c", IN_THE_SANDBOX], **how) == (0, "")
