"""What tests of engines share: a list in files, a vendor that ends one of its clients, and what must hold then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.vendor import Request, Served

from .crash import CountingSandbox
from .servers import running

TOKEN = "sandbox-token"
OPTIONS: dict[str, Any] = {"columns": {"number": "phone"}, "key": "id", "workers": 2, "concurrency": 20}

# A Python worker is found by the socket that it has to the vendor.
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="processes are found in /proc")


def phones(many: int) -> list[str]:
    """Numbers that are answered at once, and for which WhatsApp is not checking first."""
    every = (f"+62813873{serial:05}" for serial in count())
    return list(islice((n for n in every if sha256(b"slow" + n.encode()).digest()[0] % 10), many))


def write_files(folder: Path, many: int, files: int = 8) -> str:
    """The list in several small files. Returns the folder."""
    table = pa.table({"id": [f"A-{n}" for n in range(many)], "phone": phones(many)})
    each = -(-many // files)
    for number in range(files):
        pq.write_table(table.slice(number * each, each), folder / f"part-{number}.parquet")
    return str(folder)


class DeadlySandbox(CountingSandbox):
    """A sandbox that kills a process that has asked it, at the request of this number, and then bills it all the same.

    The lease of whoever was killed runs out at once.
    """

    def __init__(self, kill_at: int, url: str) -> None:
        super().__init__()
        self.killed: int | None = None
        self._kill_at = kill_at
        self._url = url
        self._lease: asyncio.Task[None] | None = None

    async def answer(self, request: Request) -> Served:
        if self.requests.total() >= self._kill_at and self.killed is None:
            self.killed = _client_of(self)
            os.kill(self.killed, signal.SIGKILL)
            self._lease = asyncio.create_task(self._end_lease(self.killed))
        return await super().answer(request)

    async def _end_lease(self, pid: int) -> None:
        # Once more, where the server was still at work for the dead.
        over = "UPDATE owners SET expires_at = clock_timestamp() - interval '1 s' WHERE NOT ended AND pid = "
        while await asyncio.to_thread(
            running().rows, self._url, f"WITH o AS ({over}{pid} RETURNING id) SELECT id FROM o"
        ):
            await asyncio.sleep(0.05)

    async def aclose(self) -> None:
        if self._lease is not None:
            await self._lease
        await super().aclose()


def _client_of(sandbox: Sandbox) -> int:
    """A process that is connected to the sandbox, and is not this one."""
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].partition(":")[2], 16) == sandbox.port:
            sockets.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        pid = int(folder.parent.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and any(str(link.readlink()) in sockets for link in folder.iterdir()):
                return pid
    raise AssertionError("nobody is connected")


def check(rows: Sequence[Any], sandbox: CountingSandbox, many: int) -> int:
    """Each row once, nothing paid twice, and what is not answered is held. Returns how many rows are."""
    assert sorted(row["id"] for row in rows) == sorted(f"A-{n}" for n in range(many))
    held = [row for row in rows if not row["ok"]]
    assert {(row["error"], row["recorded_charge"]) for row in held} <= {("OutcomeUnknownError", "unknown")}
    assert {row["whatsapp"] for row in rows if row["ok"]} == {"yes", "no"}
    assert max(sandbox.charged.values()) == 1
    assert many - len(held) <= sandbox.bill.charged <= many
    assert Counter(row["charge"] for row in rows)["unknown"] == 0
    return len(held)


def workers_that_paid(url: str) -> int:
    """How many owners of the ledger have had something answered that was charged."""
    ((found,),) = running().rows(url, "SELECT count(*) FROM owners WHERE used > 0")
    return int(found)
