"""The ledger: kill -9, and loss of power."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from aisolution_async.ledger import (
    Ledger,
    LedgerError,
    State,
)

from .ledgers import check, child

pytestmark = pytest.mark.usefixtures("no_ledger_is_at_work")


WORKER = """
    # Works through the calls; each that is sent is written on the vendor's bill.
    path, calls, at_once = sys.argv[1], int(sys.argv[3]), int(sys.argv[4])
    bill = os.open(sys.argv[2], os.O_APPEND | os.O_WRONLY)
    async def main():
        async with Ledger(path, max_charges=calls) as ledger:
            numbers = iter(range(calls))
            async def work():
                for n in numbers:
                    while isinstance(answer := await ledger.begin(ask(ledger, n)), Busy):
                        await answer.wait()
                    if isinstance(answer, Started):
                        os.write(bill, f"{n}\\n".encode())
                        await asyncio.sleep(0)
                        await ledger.end(answer, answered())
                    else:
                        assert isinstance(answer, Stored | Held), answer
            await asyncio.gather(*(work() for _ in range(at_once)))
    asyncio.run(main())
"""


def billed(bill: Path) -> list[int]:
    return [int(line) for line in bill.read_text().split()]


def obeys(path: Path, bill: Path, at_once: int, kills: int) -> None:
    """No call is on the bill twice, and each one that is, is answered or unknown in the ledger."""
    sent = billed(bill)
    assert len(sent) == len(set(sent))
    states = {record.key: record.state for record in Ledger(path).attempts()}
    assert {states[n] for n in sent} <= {State.CHARGED, State.UNKNOWN}
    assert sum(state is State.UNKNOWN for state in states.values()) <= at_once * kills
    check(path)


async def test_kill_9(ledger_path: Path, tmp_path: Path) -> None:
    calls, at_once, kills = 2000, 40, 0
    bill = tmp_path / "bill"
    bill.touch()
    rng = random.Random(5)
    while True:
        with child(WORKER, ledger_path, bill, calls, at_once) as process:
            target = bill.stat().st_size + rng.randrange(200, 4000)
            while process.poll() is None and bill.stat().st_size < target:
                time.sleep(0.002)
            process.kill()
        kills += process.returncode != 0
        async with Ledger(ledger_path):
            obeys(ledger_path, bill, at_once, kills)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills > 2
    assert len(Counter(record.key for record in Ledger(ledger_path).attempts())) == calls


def test_two_processes_over_one_ledger(ledger_path: Path, tmp_path: Path) -> None:
    bill = tmp_path / "bill"
    bill.touch()
    with child(WORKER, ledger_path, bill, 1000, 30) as one, child(WORKER, ledger_path, bill, 1000, 30) as two:
        assert (one.wait(), two.wait()) == (0, 0)
    assert sorted(billed(bill)) == list(range(1000))
    assert Ledger(ledger_path).summary().by()[()].charged == 1000
    obeys(ledger_path, bill, 0, 0)


async def test_copies_of_the_files_taken_at_any_moment_obey(ledger_path: Path, tmp_path: Path) -> None:
    """What a loss of power leaves: the files as they are at one instant."""
    calls, at_once = 6000, 40
    bill = tmp_path / "bill"
    bill.touch()
    rng = random.Random(7)
    with child(WORKER, ledger_path, bill, calls, at_once) as process:
        for copy in range(8):
            target = bill.stat().st_size + rng.randrange(1, 1500)
            while process.poll() is None and bill.stat().st_size < target:
                time.sleep(0.001)
            if process.poll() is not None:
                assert copy > 2
                break
            folder = tmp_path / f"copy{copy}"
            folder.mkdir()
            process.stop()
            for file in (*ledger_path.parent.glob(f"{ledger_path.name}*"), bill):
                if not file.name.endswith("-shm"):
                    shutil.copy(file, folder)
            process.send_signal(signal.SIGCONT)
        process.kill()
    for folder in tmp_path.glob("copy*"):
        async with Ledger(folder / ledger_path.name):
            obeys(folder / ledger_path.name, folder / bill.name, at_once, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_a_log_whose_end_was_torn_off_opens(ledger_path: Path, tmp_path: Path, seed: int) -> None:
    with child(
        """
        async def main():
            ledger = Ledger(sys.argv[1])
            await ledger.open()
            for n in range(20):
                started = await ledger.begin(ask(ledger, n))
                await ledger.end(started, answered())
            os._exit(0)
        asyncio.run(main())
        """,
        ledger_path,
    ) as process:
        assert process.wait() == 0
    log = Path(f"{ledger_path}-wal")
    size = random.Random(seed).randrange(log.stat().st_size // 2, log.stat().st_size)
    with log.open("r+b") as file:
        file.truncate(size)
    before = log.read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerError, match=rf"and it had 20 attempts: .* delete {ledger_path}-mark"):
            await Ledger(ledger_path).open()
    assert log.read_bytes() == before
    Path(f"{ledger_path}-mark").unlink()
    async with Ledger(ledger_path) as ledger:
        check(ledger_path)
        found = [record.key for record in ledger.attempts()]
        assert found == list(range(len(found)))
        assert 0 < len(found) < 20
