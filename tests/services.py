"""The guides' services, as processes of their own under real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.faults import Fault

from . import forks
from .check_readme import GUIDES, blocks
from .support import LAST_RESORT

_REPORT = """
def report() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    links = []
    for number in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else ():
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                links.append(socket.socket(fileno=os.dup(int(number))))
        except OSError:
            pass
    # The loop's own pair is of the Unix family.
    inet = [link for link in links if link.family == socket.AF_INET]
    print("left:", len(tasks), "tasks,", len(inet), "sockets", flush=True)
    for link in links:
        link.close()
"""

UNDER_UVICORN = f"""
import asyncio, os, signal, socket, uvicorn
{_REPORT}
async def main() -> None:
    server = uvicorn.Server(uvicorn.Config("service:app", port=0, http=os.environ["HTTP"]))
    await server.serve()
    await asyncio.sleep(0)
    report()

signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more at the end
asyncio.run(main())
"""

UNDER_AIOHTTP = f"""
import asyncio, logging, os, socket, service
from aiohttp import web
{_REPORT}
logging.basicConfig(level=logging.INFO)

async def ended(app: web.Application) -> None:
    report()

app = service.service()
app.on_cleanup.append(ended)  # behind the contexts
web.run_app(app, host="127.0.0.1", port=0)
"""


def example(names: str) -> str:
    """The one Python block of all guides that has `names` in it."""
    found = [code for guide in GUIDES for code in blocks(guide.read_text(encoding="utf-8")).values() if names in code]
    (block,) = found
    return block.lstrip("\n")


class Service:
    """A service that listens at `url`, and whose output is read all the time: it would wait for room in a full pipe."""

    def __init__(self, url: str, process: forks.Forked, rest: asyncio.StreamReader, output: str) -> None:
        self.url = url
        self.process = process
        self._output = output
        self._read = asyncio.Condition()
        self._rest = asyncio.create_task(self._keep_reading(rest))

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()

    async def ended(self) -> str:
        """What it wrote, to the end."""
        await asyncio.wait_for(self._rest, LAST_RESORT)
        await asyncio.to_thread(self.process.wait)
        return self._output

    async def says(self, text: str) -> None:
        """Return once it wrote this."""
        async with asyncio.timeout(LAST_RESORT), self._read:
            await self._read.wait_for(lambda: text in self._output)

    async def _keep_reading(self, output: asyncio.StreamReader) -> None:
        while piece := await output.read(1 << 16):
            async with self._read:
                self._output += piece.decode()
                self._read.notify_all()

    async def refuses(self) -> None:
        """Return once nobody new is let in.

        By the system's table where there is one: a server may drop whoever connects while it closes, and warns of that.
        """
        port = int(self.url.rpartition(":")[2])
        while _is_listened_to(port) if _TABLE.exists() else await _is_let_in(port):
            await asyncio.sleep(0.01)


_TABLE = Path("/proc/net/tcp")


def _is_listened_to(port: int) -> bool:
    sockets = [line.split()[1:4] for line in _TABLE.read_text(encoding="ascii").splitlines()[1:]]
    return any(state == "0A" and int(local.rpartition(":")[2], 16) == port for local, _, state in sockets)


async def _is_let_in(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def serving(source: str, server: str, folder: Path, sandbox: Sandbox, **env: str) -> AsyncIterator[Service]:
    """Run `source` as the module `service` under `server`, a script, with every warning an error."""
    (folder / "service.py").write_text(source, encoding="utf-8")
    (folder / "main.py").write_text(server, encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AISOLUTION", "COV"))}
    ours, theirs = os.pipe()
    rest = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(rest)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(ours, "rb", 0))
    with os.fdopen(theirs, "wb") as to:
        process = forks.start(
            ["main.py"],
            cwd=folder,
            env=own
            | {"AISOLUTION_TOKEN": sandbox.token, "AISOLUTION_BASE_URL": sandbox.url, "PYTHONUNBUFFERED": "1"}
            | env,
            stdout=to,
            stderr=to,
            options=("-X", "dev", "-W", "error"),
            modules=("aisolution_async.client", *(("fastapi", "uvicorn") if "uvicorn" in server else ("aiohttp.web",))),
        )
    output = ""
    while (found := re.search(r"unning on (http://127\.0\.0\.1:\d+)", output)) is None:
        line = await asyncio.wait_for(rest.readline(), LAST_RESORT)
        assert line, output
        output += line.decode()
    service = Service(found[1], process, rest, output)
    try:
        yield service
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await service.ended()


async def state_of(user: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """What a service says of a list."""
    answer = await user.get(url)
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


async def done(user: httpx.AsyncClient, url: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a service says of a list once it is done, and its results."""
    while (state := await state_of(user, url))["status"] != "done":
        assert state["problem"] is None, state
        await asyncio.sleep(0.02)
    return state, [json.loads(line) for line in (await user.get(f"{url}/results")).text.splitlines()]


async def two_workers_run_a_list(
    source: str, server: str, folder: Path, **env: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two processes of a guide's service and a list; whichever runs it is killed in the middle. How the list ends."""
    clock = Clock(ticking=False)
    async with Sandbox(clock=clock) as sandbox, httpx.AsyncClient() as user, AsyncExitStack() as stack:
        numbers = {f"A-{n}": sandbox.number("yes").removesuffix("000") + f"{n:03}" for n in range(300, 400)}
        # As people write them at home, every other one.
        numbers = {key: f"0{number[3:]}" if int(key[2:]) % 2 else number for key, number in numbers.items()}
        fault = sandbox.faults.add(Fault("latency", seconds=20))
        services = [await stack.enter_async_context(serving(source, server, folder, sandbox, **env)) for _ in range(2)]
        urls = [f"{service.url}/lists/monday" for service in services]
        answer = await user.put(urls[0], json=numbers)
        assert answer.status_code == 202
        while sandbox.requests["gliswadetail"] < 50:  # as many as are in flight at once
            await asyncio.sleep(0.01)
        clock.advance(20)
        while sandbox.requests["gliswadetail"] < 80 or min([(await state_of(user, url))["done"] for url in urls]) < 40:
            await asyncio.sleep(0.01)

        # Whichever worker is asked, and how often: it knows the list.
        states = await asyncio.gather(*(state_of(user, url) for url in urls * 20))
        assert {(state["status"], state["total"]) for state in states} == {("running", len(numbers))}
        assert [(await user.get(f"{url}/results")).status_code for url in urls] == [409, 409]
        assert [(await user.put(url, json=numbers)).status_code for url in urls] == [202, 202]
        assert [(await user.put(url, json={"A": "+1"})).status_code for url in urls] == [422, 422]

        (killed,) = [place for place, service in enumerate(services) if _reads(service, "monday.jsonl")]
        services[killed].kill()
        await services[killed].ended()
        sandbox.faults.remove(fault)
        state, results = await done(user, urls[1 - killed])
        assert [row["key"] for row in results] == list(numbers)
        assert "InvalidRequestError" not in {row["error"] for row in results}
        counts = Counter(row["charge"] for row in results)
        assert counts["charged"] <= sandbox.bill.charged <= counts["charged"] + counts["unknown"]
        assert sandbox.bill.delivered.charged == counts["charged"]
        # Asked again were at most those that were answered "checking" or RETRY_LATER, free.
        assert 0 <= sandbox.requests["gliswadetail"] - sum(row["attempts"] for row in results) <= sandbox.bill.free
        assert state["held"] == counts["unknown"] == sum(row["error"] == "OutcomeUnknownError" for row in results)
        assert state["ok"] + state["failed"] == state["done"] == state["total"] == len(numbers)
        assert 0 < state["held"] <= 50
        assert [(await user.put(urls[1 - killed], json=numbers)).json()["status"]] == ["done"]
        return state, results


def _reads(service: Service, name: str) -> bool:
    """Whether the process has a file of that name open."""
    for link in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if link.readlink().name == name:
                return True
    return False


def assert_clean(output: str) -> None:
    """Nothing went wrong, and nothing is left."""
    assert "left: 0 tasks, 0 sockets" in output, output
    for sign in ("Warning", "Traceback", "Exception ignored", "never retrieved", "was destroyed", "Unclosed"):
        assert sign not in output, output


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


async def curl(*arguments: str) -> str:
    """What curl says."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return said.decode()
