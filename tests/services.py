"""The README's services, as processes of their own under real servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aisolution_async.sandbox import Sandbox

README = Path(__file__).parent.parent / "README.md"

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
    """The README's Python block that imports `names`."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if names in block]
    return str(block)


class Service:
    """A service that listens at `url`, and whose output is read all the time: it would wait for room in a full pipe."""

    def __init__(self, url: str, process: asyncio.subprocess.Process, output: str) -> None:
        assert process.stdout is not None
        self.url = url
        self.process = process
        self._first = output
        self._rest = asyncio.create_task(process.stdout.read())

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()

    async def ended(self) -> str:
        """What it wrote, to the end."""
        rest = (await asyncio.wait_for(self._rest, 60)).decode()
        await self.process.wait()
        return self._first + rest

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
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "main.py"),
        cwd=folder,
        env=own
        | {
            "AISOLUTION_TOKEN": sandbox.token,
            "AISOLUTION_BASE_URL": sandbox.url,
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONUNBUFFERED": "1",
        }
        | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = ""
    while (found := re.search(r"unning on (http://127\.0\.0\.1:\d+)", output)) is None:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, output
        output += line.decode()
    service = Service(found[1], process, output)
    try:
        yield service
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await service.ended()


def assert_clean(output: str) -> None:
    """Nothing went wrong, and nothing is left."""
    assert "left: 0 tasks, 0 sockets" in output, output
    for sign in ("Warning", "Traceback", "Exception ignored", "never retrieved", "was destroyed", "Unclosed"):
        assert sign not in output, output


async def curl(*arguments: str) -> str:
    """What curl says."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return said.decode()
