"""The code of the README and of the guides, run as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aisolution_async.sandbox import Sandbox

from .check_readme import GUIDES, blocks, name_of
from .support import picture

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXTS = {name_of(guide): guide.read_text(encoding="utf-8") for guide in GUIDES}
README = TEXTS["README.md"]
BLOCKS = [(name, language, code) for name, text in TEXTS.items() for language, code in BLOCK.findall(text)]
# These need a network of their own: see test_network.
(NETWORKS,) = re.findall(r"^## Company networks$.*?(?=^## )", "\n".join(TEXTS.values()), re.MULTILINE | re.DOTALL)
NETWORK = [code for language, code in BLOCK.findall(NETWORKS) if language == "python"]
NETWORK_COMMANDS = [code.strip() for language, code in BLOCK.findall(NETWORKS) if language == "sh"]
PYTHON = [
    pytest.param(code, id=f"{name}-{code.count(chr(10))}")
    for name, language, code in BLOCKS
    if language == "python" and code not in NETWORK
]
SHELL = [line for _, language, code in BLOCKS if language == "sh" for line in code.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("aisolution ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "selfie.jpg").write_bytes(picture(1))
    (tmp_path / "card.jpg").write_bytes(picture(1, quality=50))
    (tmp_path / "applicants.csv").write_text(
        "applicant_id,phone,selfie,card\nA-1,081387300008,selfie.jpg,card.jpg\nA-2,081387300009,card.jpg,selfie.jpg\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.fixture
async def vendor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, str]]:
    async with Sandbox() as sandbox:
        env = {k: v for k, v in os.environ.items() if not k.startswith("AISOLUTION")}
        yield env | {
            "AISOLUTION_TOKEN": sandbox.token,
            "AISOLUTION_BASE_URL": sandbox.url,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }


async def run(command: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def test_the_blocks_are_found() -> None:
    assert len(PYTHON) >= 6
    assert len(COMMANDS) >= 4
    assert {language for _, language, _ in BLOCKS} == {"python", "sh", "text"}


@pytest.mark.parametrize("name", TEXTS)
def test_what_type_checkers_find_has_the_guide_s_lines(name: str) -> None:
    lines = TEXTS[name].splitlines()
    found = blocks("\n".join(lines) + "\n")
    assert len(found) == sum((name, "python") == (where, language) for where, language, _ in BLOCKS)
    for fence, code in found.items():
        assert lines[fence - 1] == "```python"
        for number, line in enumerate(code.splitlines()):
            assert line in ("", lines[number])


@pytest.mark.parametrize("code", PYTHON)
async def test_python(code: str, folder: Path, vendor: dict[str, str]) -> None:
    (folder / "example.py").write_text(code, encoding="utf-8")
    status, output = await run([sys.executable, "-X", "dev", "-W", "error", "example.py"], folder, vendor)
    assert status == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize("line", COMMANDS)
async def test_commands(line: str, folder: Path, vendor: dict[str, str]) -> None:
    status, output = await run(shlex.split(line), folder, vendor)
    assert status == 0, output


def test_the_two_lines_to_paste() -> None:
    """They are run on a fresh clone by `.ci/run`, which reads them from the README."""
    assert [line for line in SHELL if line.startswith("python3 -m venv")] == [
        "python3 -m venv .venv && .venv/bin/pip install '.[cli]' && .venv/bin/aisolution demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/python -m pytest",
    ]
