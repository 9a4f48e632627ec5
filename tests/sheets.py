"""Lists of calls in files: how they are written, run and read here, and files that fail."""

from __future__ import annotations

import asyncio
import csv
import errno
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async import (
    Call,
    WhatsAppDetail,
)
from aisolution_async.bulk import Summary, run_bulk
from aisolution_async.bulk.disk import Appender

from .support import GROUP_ID, NUMBER, Vendor, client_of, ok_whatsapp, says

MESSAGES: dict[str, Any] = {
    "facecompare": {"similarity": 97.501, "result": "SAME PERSON"},
    "idholding": {"similarity": 27.501, "result": "SOMETHING NEW"},
    "addface": {"group_id": GROUP_ID, "person_id": "c5r7jedkujdbnasarhn0", "person_count": 3},
    "searchface": [{"confidence": 100, "person_id": "c5r7jedkujdbnasarhn0", "group_id": GROUP_ID}],
    "delface": None,
    "gliswadetail": {"number": NUMBER, "whatsapp": "yes", "status_update": 20180825, "avatar": "no"},
}


def sane(request: httpx.Request, number: int) -> httpx.Response:
    return says("OK", MESSAGES[request.url.path.rsplit("/", 1)[1]])


def read(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


async def bulk(
    source: Path, output: Path, call: type[Call[Any]] = WhatsAppDetail, *, vendor: Vendor | None = None, **options: Any
) -> Summary:
    async with client_of(vendor or Vendor(sane)) as client:
        return await run_bulk(client, call, source, output, **options)


def left(folder: Path) -> set[str]:
    """The files, without what a ledger was when it was last used, and the notes of runs."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(("-mark", ".run"))}


class FullDisk:
    """A file on a disk that is full once the file has `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, data: memoryview) -> int:
        room = self._room - self._file.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken: int = self._file.write(data[:room])
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def fill_disk(monkeypatch: pytest.MonkeyPatch, room: int, *, rescue_too: bool = False) -> None:
    """Let the part file, and the rescue file too if asked, be on a disk that fills up."""

    begin = Appender.__init__

    def fill(self: Any, number: int) -> None:
        begin(self, number)
        name = Path(f"/proc/self/fd/{number}").readlink().name
        if rescue_too or name.endswith(".part"):
            self._file = FullDisk(self._file, room)

    monkeypatch.setattr(Appender, "__init__", fill)


def many(tmp_path: Path, count: int = 100) -> Path:
    return write(tmp_path / "in.csv", "number\n" + "".join(f"+62813{n:08}\n" for n in range(count)))


class Gate:
    """A vendor that answers at once until `shut_at` requests came, and the others when it is opened."""

    def __init__(self, shut_at: int, waiting: int) -> None:
        self.vendor = Vendor(self._answer)
        self.full = asyncio.Event()
        self.opened = asyncio.Event()
        self._shut_at = shut_at
        self._waiting = waiting

    def _answer(self, request: httpx.Request, number: int) -> Any:
        return ok_whatsapp() if number < self._shut_at else self.wait()

    async def wait(self) -> httpx.Response:
        if self.vendor.in_flight == self._waiting:
            self.full.set()
        await self.opened.wait()
        return ok_whatsapp()
