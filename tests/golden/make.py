"""Write a golden ledger with the code as it is now: `python -m tests.golden.make v3`.

To be run once for each new version of the ledger, by the code that brings it in, before anybody has it. The file
`tests/golden/v3.sql` is SQL text; the suite makes a ledger of it, and asks it the questions of `questions.py`. A file
that is there is never written again: it is what people have on their disks.

`v1.sql` was written like this by the code of commit f5ce467: without callbacks, and without the questions that are
known today by something else (`Question.since`).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx

from aisolution_async import AddFace, AISolutionError, AsyncClient, Call, Charge, Inbox, Ledger, WhatsAppDetail

from . import questions
from .questions import Question

FOLDER = Path(__file__).parent
PRICES = {"facecompare": Decimal("0.05"), "gliswadetail": Decimal("0.01")}

MESSAGES: dict[str, Any] = {
    "facecompare": {"similarity": 97.501, "result": "SAME PERSON"},
    "idholding": {"similarity": 27.501, "result": "NOT SAME PERSON"},
    "addface": {"group_id": "LxiKPLIMGFpXzXas", "person_id": "c5r7jedkujdbnasarhn0", "person_count": 3},
    "searchface": [{"confidence": 100, "person_id": "c5r7jedkujdbnasarhn0"}],
    "delface": None,
    "gliswadetail": {
        "whatsapp": "yes",
        "status_update": "20180825",
        "signature": "Saya suka global",
        "business_user": "no",
        "avatar": "yes",
    },
}
"""What is answered, by endpoint; to a number with the number."""

MISFIT = {"similarity": "very", "whatsapp": ["yes"]}


class Vendor:
    """The vendor under its own name, by a script: no request leaves this process."""

    def __init__(self) -> None:
        self.script: Callable[[str, dict[str, str]], Any] = answer
        self.asked = asyncio.Semaphore(0)
        """Released with every request."""
        self.transport = httpx.MockTransport(self._handle)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.asked.release()
        said = self.script(request.url.path.rpartition("/")[2], form)
        if said is None:
            await asyncio.Event().wait()
        if isinstance(said, Exception):
            raise said
        return httpx.Response(200, content=json.dumps(said))


def answer(endpoint: str, form: dict[str, str]) -> Any:
    message = MESSAGES[endpoint]
    if "number" in form:
        message = {"number": form["number"], **message}
    return {"status": "OK", "message": message}


def lose(endpoint: str, form: dict[str, str]) -> Any:
    return httpx.ReadError("the connection broke")


def break_it(endpoint: str, form: dict[str, str]) -> Any:
    return {"status": "OK", "message": MISFIT}


def be_strange(endpoint: str, form: dict[str, str]) -> Any:
    return {"status": "QUOTA_EXCEEDED", "message": "no more"}


def be_checking(endpoint: str, form: dict[str, str]) -> Any:
    return {"status": "OK", "message": {"number": form["number"], "whatsapp": "checking"}}


def hang(endpoint: str, form: dict[str, str]) -> Any:
    return None


async def write(path: Path, folder: Path, *, since: int | None = None) -> str:
    """Ask the questions with the ledger `path`, and give what is in it, as SQL, while some are under way.

    `since`: leave out the questions that came later, and all that is awaited.
    """

    def those(found: Iterable[Question]) -> list[Question]:
        return [question for question in found if since is None or question.since <= since]

    vendor = Vendor()
    # The ledger is this function's, so that what it has under way is still so when it is written down.
    ledger = Ledger(path, prices=PRICES, synchronous="off")
    await ledger.open()
    client = AsyncClient(
        questions.TOKEN, base_url=questions.VENDOR, transport=vendor.transport, ledger=ledger, retry=0, deadline=None
    )
    for script, asked, fails in (
        (answer, questions.ANSWERED, False),
        (lose, questions.RESET + questions.SETTLED + questions.FORGIVEN, True),
        (break_it, questions.BROKEN, True),
        (be_strange, questions.STRANGE, True),
    ):
        vendor.script = script
        for question in those(asked):
            async with client.batch([question.asked(folder)]) as batch:
                assert [outcome.ok async for outcome in batch] == [not fails], question.name
    for questions_of, charge in ((questions.SETTLED, Charge.CHARGED), (questions.FORGIVEN, Charge.FREE)):
        for question in those(questions_of):
            assert await ledger.resolve(question.name, charge) == 1
    inbox = Inbox(questions.INBOX, ledger=ledger, patience=1e9) if since is None else None
    vendor.asked = asyncio.Semaphore(0)
    tasks = []
    try:
        if inbox is not None:
            for script, names in ((be_checking, ("checking", "bare checking")), (lose, ("lost",)), (hang, ("sent",))):
                vendor.script = script
                for name in names:
                    number = questions.AWAITED[name][0]
                    tasks.append(asyncio.create_task(_wait(client, WhatsAppDetail(number, key=name), inbox)))
                    await _settle(vendor, ledger)
        vendor.script = hang
        last: list[Call[Any]] = [question.asked(folder) for question in those(questions.UNDER_WAY)]
        for call in [*last, AddFace(questions.BMP)]:
            tasks.append(asyncio.create_task(_send(client, call)))
            await _settle(vendor, ledger)
        return dump(path, None if inbox is None else inbox.url)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()
        await ledger.aclose()


async def _wait(client: AsyncClient, call: WhatsAppDetail, inbox: Inbox) -> None:
    async with client.batch([call], inbox=inbox, drain_timeout=0) as batch:
        async for _ in batch:
            raise AssertionError(f"{call.key} is over")


async def _send(client: AsyncClient, call: Call[Any]) -> None:
    try:
        await client.send(call)
    except AISolutionError:
        return
    raise AssertionError(f"{call.key} was answered")


async def _settle(vendor: Vendor, ledger: Ledger) -> None:
    """Return once one more request came, and what follows from it stands in the ledger."""
    await vendor.asked.acquire()
    for _ in range(20):
        await asyncio.sleep(0)
        await ledger.resolve("nobody", Charge.FREE)  # it is done behind what was asked of the ledger before


def dump(path: Path, inbox: str | None) -> str:
    """The ledger as SQL. `inbox` is where the vendor was told to call back: it follows from the ledger."""
    with closing(sqlite3.connect(path)) as db:
        first = [] if inbox is None else [f"-- inbox {inbox}"]
        pragmas = [(name, db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")]
        return "\n".join([*first, *(f"PRAGMA {name} = {value};" for name, value in pragmas), *db.iterdump()]) + "\n"


def rebuild(text: str, path: Path) -> None:
    """Make the file `path` of what `dump` gave."""
    data, owners = _rebuilt(text)
    path.write_bytes(data)
    for owner in owners:
        path.with_name(f"{path.name}-owner-{owner}").touch()
    path.with_name(f"{path.name}-wal").touch()  # a killed process leaves both


@functools.cache
def _rebuilt(text: str) -> tuple[bytes, Sequence[int]]:
    """The file, and the owners of what is under way in it."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(text)
        return db.serialize(), [owner for (owner,) in db.execute("SELECT DISTINCT owner FROM intents")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden.make", description="Write a new golden ledger.")
    parser.add_argument("name", help="its name, by the version of the ledger: v3")
    target = FOLDER / f"{parser.parse_args().name}.sql"
    if target.exists():
        sys.exit(f"{target} is there, and is never written again: give the new one another name")
    with tempfile.TemporaryDirectory() as folder:
        text = asyncio.run(write(Path(folder) / "golden.ledger", Path(folder)))
    with target.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
    print(f"{target}: {len(text)} bytes")


if __name__ == "__main__":
    main()
