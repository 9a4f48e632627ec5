"""`bulk` killed at every operation on a file, of every kind of run, and run again: the bill, and what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

ROWS = 9
LOST = 7  # the vendor charges the row that ends in this, and its answer never arrives

CHILD = """
import asyncio, gc, json, os, shutil, signal, sys
from pathlib import Path
from aisolution_async import AsyncClient, Ledger, WhatsAppDetail
from aisolution_async.bulk import run_bulk
from aisolution_async.bulk.books import records
from aisolution_async.bulk.origins import origin_of
from aisolution_async.ledger import LedgerError

url, folder, rows, out, which = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]

async def bulk(source="in.csv", output=out, ledger=Path(f"{out}.ledger"), problems="mend.csv", hook=None):
    async with AsyncClient("sandbox-token", base_url=url, on_attempt=hook) as client:
        await run_bulk(
            client, WhatsAppDetail, source, output, ledger=ledger, problems=problems, key="ref", concurrency=1
        )

def told(path):
    # Its rows, a line each, whatever it is.
    path = Path(path)
    if not path.exists() or out.endswith(".csv"):
        return path.read_text() if path.exists() else ""
    with path.open("rb") as file:
        is_book = file.read(2) == b"PK"
    found = records(path) if is_book else map(json.loads, path.read_text().splitlines())
    return "\\n".join(",".join(map(str, record.values())) for record in found)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def forked(work):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        work()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)

def prepare():
    end, ended = Ledger.end, 0
    def count(call, attempt):
        nonlocal ended
        ended += 1
        if ended == 5:
            die()
    async def fails(self, started, result):
        if started.ask.key in ("R2", "R3"):
            raise LedgerError("the disk is full")
        await end(self, started, result)
    if kind == "unrecorded":
        Ledger.end = fails
    asyncio.run(bulk(hook=count if kind == "killed" else None))

def killed_at(number):
    # Before each operation that gives, takes or replaces a name; of all, also each that makes a file safe on the disk.
    done = 0
    def count():
        nonlocal done
        done += 1
        if done == number:
            die()
    def hook(event, arguments):
        if event in ("os.rename", "os.remove") or (event == "open" and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            and (which == "all" or not isinstance(arguments[0], int))
        ):
            count()
    if which == "all":
        os.fsync = lambda file: count()
    sys.addaudithook(hook)
    asyncio.run(bulk())

def run_again():
    # The file of problems first, as it is: what it names as its ledger binds it, even if nobody mended anything.
    if Path("mend.csv").exists():
        origin = origin_of(Path("mend.csv"))
        asyncio.run(bulk("mend.csv", "mended.csv", origin.ledger if origin else None, None))
        Path("mended.csv").unlink()
    asyncio.run(bulk())

def begin(number):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    lines = [f"R{row},+62813{number:04}{row:04}\\n" for row in range(rows)]
    Path("in.csv").write_text("ref,number\\n" + "".join(lines) + "B,bad\\n")

os.fsync = lambda file: None  # a process that is killed loses nothing that it wrote
begin(0)
asyncio.run(bulk())  # what is imported on the way is imported once, and not in each that is forked
gc.freeze()
for place, (kind, step) in enumerate(zip(sys.argv[6::2], map(int, sys.argv[7::2]))):
    number, code = 0, -9
    while code:
        number += step
        asked = place * 1000 + number
        begin(asked)
        if kind != "nothing":
            assert forked(prepare) == (-9 if kind == "killed" else 0)
            if kind == "unrecorded":  # the output and its part have the only copy
                [rescued] = Path().glob("*.rescued-*")
                rescued.unlink()
                os.rename(out, f"{out}.part")
        code = forked(lambda: killed_at(number))
        left = sorted(path.name for path in Path().iterdir())
        texts = [told(out), told(f"{out}.part")]
        again = forked(run_again)
        whole = told(out)
        print(json.dumps([kind, number, asked, code, again, left, texts, whole]), flush=True)
"""


class Billing:
    """A vendor on a socket that counts what it charged for each number."""

    def __init__(self) -> None:
        self.bill: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                asked = re.search(rb"number=%2B(\d+)", await reader.readexactly(int(length[1])))
                assert asked is not None
                number = asked[1].decode()
                self.bill[number] += 1
                if int(number[-1]) == LOST:
                    break
                message = {"number": f"+{number}", "whatsapp": "yes"}
                body = json.dumps({"status": "OK", "message": message}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        writer.close()


KINDS = ("unrecorded", "nothing", "finished", "killed")


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("output", "which", "steps"),
    [
        ("out.csv", "names", {"unrecorded": 5, "nothing": 4, "finished": 9, "killed": 9}),
        ("out.xlsx", "names", {"unrecorded": 19, "nothing": 13}),
        *(pytest.param("out.csv", "names", {kind: 1}, marks=pytest.mark.long) for kind in KINDS),
        *(pytest.param("out.csv", "all", {kind: 1}, marks=pytest.mark.long) for kind in KINDS),
        *(pytest.param("out.xlsx", "all", {kind: 1}, marks=pytest.mark.long) for kind in KINDS[:2]),
    ],
)
async def test_killed_at_every_operation(tmp_path: Path, output: str, which: str, steps: dict[str, int]) -> None:
    """No row is bought twice, no answer that a file had is lost, and the same command comes to its end.

    Where `which` is "names", only those on names count: between two of them, what a killed process leaves is the same
    but for the end of a file. Of a kind, it is killed at each whose number is a multiple of the kind's step.
    """
    vendor = Billing()
    async with await asyncio.start_server(vendor.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, f"http://127.0.0.1:{port}/v1", tmp_path / "run", str(ROWS), output, which),
            *(str(word) for pair in steps.items() for word in pair),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, problems = await child.communicate()
    assert child.returncode == 0, problems.decode()
    rounds = [json.loads(line) for line in printed.splitlines()]
    lasts = {kind: number for kind, number, *_ in rounds}
    assert lasts.keys() == steps.keys()
    assert min(lasts.values()) > 10
    for kind, number, place, code, again, left, texts, whole in rounds:
        last = lasts[kind]
        told = f"{kind}, killed at operation {number}, before {last}, which left {left}: {problems.decode()}"
        assert code == (-9 if number < last else 0), told
        assert again == 0, told
        bill = {asked: count for asked, count in vendor.bill.items() if asked.startswith(f"62813{place:04}")}
        assert set(bill.values()) == {1}, told
        assert len(bill) == ROWS, told
        answered = {line for text in texts for line in text.splitlines() if ",yes," in line}
        assert answered <= set(whole.splitlines()), told
        # What was under way when it was killed is held: nobody knows whether it was charged.
        in_flight = {"nothing": 1, "killed": 2}.get(kind, 0)
        assert sum(",yes," in line for line in whole.splitlines()) >= ROWS - 1 - in_flight, told
        assert f"{output}.part" not in left or f"{output}.ledger" in left or not answered, told
