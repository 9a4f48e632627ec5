"""Without an event loop of one's own: tasks of forked workers and threads, views, notebooks, as they call."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from aisolution_async import AsyncClient
from aisolution_async.sandbox import Sandbox

from .services import example

SOURCE = example("\ndef look_up(").replace('print(look_up("+6281387300008"))', "")

# As the prefork pool of Celery and the worker of RQ: the task is imported, and then come the children.
WORKERS = """
import json, os, sys
import example

tasks = json.loads(sys.argv[1])
for own in tasks:
    if not os.fork():
        code = 1
        try:
            print(json.dumps({number: example.look_up(number) for number in own}), flush=True)
            code = 0
        finally:
            os._exit(code)
sys.exit(any([os.wait()[1] for _ in tasks]))
"""

CELLS = """
from aisolution_async import AsyncClient
client = AsyncClient()
---
profile = await client.whatsapp_detail(number)
---
async with client.batch([WhatsAppDetail(number) for number in numbers]) as batch:
    outcomes = [outcome async for outcome in batch]
---
await client.aclose()
"""


@pytest.fixture
def look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(SOURCE, names)
    made: Callable[[str], str] = names["look_up"]
    return made


def numbers_of(sandbox: Sandbox, count: int) -> list[str]:
    return [sandbox.number("yes")[:-3] + f"{number}" for number in range(300, 300 + count)]


def point_to(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISOLUTION_TOKEN", sandbox.token)
    monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
async def test_tasks_of_forked_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "example.py").write_text(SOURCE, encoding="utf-8")
    async with Sandbox() as sandbox:
        point_to(sandbox, monkeypatch)
        first, second, third = numbers_of(sandbox, 3)
        tasks = [[first, second], [second, third], [first]]  # some are delivered twice
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error", "-c", WORKERS, json.dumps(tasks)),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, problems = await process.communicate()
        assert process.returncode == 0, problems.decode()
        assert b"Warning" not in problems, problems.decode()
        answers = [json.loads(line) for line in said.splitlines()]
        assert sorted(map(len, answers)) == [1, 2, 2]
        assert {number for answer in answers for number in answer} == {first, second, third}
        for number in (first, second):
            assert len({answer[number] for answer in answers if number in answer}) == 1
        assert sandbox.requests["gliswadetail"] == 3


async def test_views_that_are_plain_functions(look_up: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, be it a server's that has no loop, or beside the loop of one that has: several at once."""
    async with Sandbox() as sandbox:
        point_to(sandbox, monkeypatch)
        numbers = numbers_of(sandbox, 6)
        with ThreadPoolExecutor(4) as threads:
            loop = asyncio.get_running_loop()
            answers = await asyncio.gather(
                *(loop.run_in_executor(threads, look_up, number) for number in [*numbers, *numbers])
            )
        assert answers[:6] == answers[6:]
        assert sandbox.requests["gliswadetail"] == 6


async def test_views_that_are_coroutines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def view(number: str) -> str:
        async with AsyncClient(ledger=tmp_path / "applicants.ledger") as client:
            return (await client.whatsapp_detail(number)).whatsapp

    async with Sandbox() as sandbox:
        point_to(sandbox, monkeypatch)
        numbers = numbers_of(sandbox, 4)
        answers = await asyncio.gather(*(view(number) for number in [*numbers, *numbers]))
        assert answers[:4] == answers[4:]
        assert sandbox.requests["gliswadetail"] == 4


async def test_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is compiled with `await` allowed at its top, and run on the one loop that runs already."""
    async with Sandbox() as sandbox:
        point_to(sandbox, monkeypatch)
        number, *numbers = numbers_of(sandbox, 5)
        names: dict[str, Any] = {"number": number, "numbers": numbers}
        exec("from aisolution_async import WhatsAppDetail", names)
        for cell in CELLS.split("---"):
            compiled: CodeType = compile(cell, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            ran = FunctionType(compiled, names)()
            if inspect.iscoroutine(ran):
                await ran
        assert names["profile"].charge == names["profile"].attempts[-1].charge
        assert [outcome.call.number for outcome in names["outcomes"]]
        assert len(names["outcomes"]) == 4
        assert sandbox.requests["gliswadetail"] >= 5
        assert sandbox.bill == names["client"].tally
