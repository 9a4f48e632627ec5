"""Ask very much of a vendor at whom everything goes wrong, and hold what the client says against what the vendor knows.

`python -m tests.chaos 100000 [--seed S]` prints a summary; the test suite asks a little.

Half of the calls go through a batch with a ledger and half through one without, both at once on one pool of
connections; then those with the ledger are asked once more. The sandbox is another process, which notes whom each
request was about and what became of the answer. What an answer costs, and what the client makes of it, is written down
here once more, by the contract and not by the client.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import faulthandler
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any
from urllib.parse import parse_qs

import httpx

from aisolution_async import (
    AddedFace,
    AddFace,
    AISolutionError,
    AsyncClient,
    Batch,
    Call,
    Charge,
    DeletedFace,
    DeleteFace,
    FaceCompare,
    FaceComparison,
    FaceMatches,
    FaceNotFoundError,
    IdHolding,
    ImageTooLargeError,
    InvalidRequestError,
    Ledger,
    Outcome,
    OutcomeUnknownError,
    PersonNotFoundError,
    RefusedError,
    Reply,
    Retry,
    RetryLaterError,
    SearchFace,
    ServiceFailedError,
    Tally,
    UnknownStatusError,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.ledger import State
from aisolution_async.sandbox import Entry, Fault, Sandbox, images
from aisolution_async.sandbox.faults import KINDS
from aisolution_async.sandbox.vendor import Request, Served

# ------------------------------------------------------------------------------------------------- the contract

DOCUMENTED: Mapping[str, frozenset[str]] = {
    "facecompare": frozenset({"INVALID_REQUEST", "IMAGE_INVALID_SIZE", "RETRY_LATER"}),
    "idholding": frozenset({"INVALID_REQUEST", "IMAGE_INVALID_SIZE", "INVALID_FACE_NUM", "RETRY_LATER"}),
    "addface": frozenset({"FACE_DETECT_FAILED", "FAIL", "RETRY_LATER"}),
    "searchface": frozenset({"FAIL", "RETRY_LATER", "FACE_DETECT_FAILED"}),
    "delface": frozenset({"PERSON_ID_NOT_EXIST", "RETRY_LATER"}),
    "gliswadetail": frozenset({"FAIL", "INVALID_INPUT", "RETRY_LATER"}),
}
"""The statuses other than OK that the vendor documents; all of them are free."""

NEVER_CHARGES = frozenset({"addface", "delface"})

REPLIES: Mapping[str, type[Reply]] = {
    "facecompare": FaceComparison,
    "idholding": FaceComparison,
    "addface": AddedFace,
    "searchface": FaceMatches,
    "delface": DeletedFace,
    "gliswadetail": WhatsAppProfile,
}

ERRORS: Mapping[str, type[AISolutionError]] = {
    "INVALID_REQUEST": InvalidRequestError,
    "INVALID_INPUT": InvalidRequestError,
    "IMAGE_INVALID_SIZE": ImageTooLargeError,
    "FACE_DETECT_FAILED": FaceNotFoundError,
    "INVALID_FACE_NUM": FaceNotFoundError,
    "PERSON_ID_NOT_EXIST": PersonNotFoundError,
    "FAIL": ServiceFailedError,
    "RETRY_LATER": RetryLaterError,
}

LETTERS = {Charge.CHARGED: "C", Charge.FREE: "F", Charge.UNKNOWN: "U"}


def of_status(endpoint: str, status: str) -> tuple[type[AISolutionError], str]:
    """The error that an envelope of this status other than OK becomes, and the letter of its charge."""
    unknown = "F" if endpoint in NEVER_CHARGES else "U"
    return ERRORS.get(status, UnknownStatusError), "F" if status in DOCUMENTED[endpoint] else unknown


def of_http(http_status: int) -> tuple[type[AISolutionError], str]:
    """The same for an answer without an envelope."""
    if http_status in (429, 503):
        return RetryLaterError, "F"
    if 400 <= http_status < 500:
        return RefusedError, "F"
    return OutcomeUnknownError, "U"


# --------------------------------------------------------------------------------------------------- the vendor

FAULTS = (
    "latency:0.02,seconds=0.05",
    "capacity:0.02,per_second=5",
    "reset-before:0.02",
    "reset-after:0.02",
    "reset-middle:0.02",
    "hang:0.02",
    "drip:0.02,seconds=0.2",
    "garbage:0.02",
    "not-json:0.02",
    "truncated:0.02",
    "huge:0.02,size=1100000",
    "content-type:0.02",
    "message:0.02",
    "http-401:0.02",
    "http-429:0.02,retry_after=0.005",
    "http-500:0.02,status=RETRY_LATER",
    "http-502:0.02,billed=yes",
    "http-503:0.02",
    "http-504:0.02",
    "status-FAIL:0.02",
    "status-RETRY_LATER:0.02",
    "status-QUOTA_EXCEEDED:0.02",
)
assert {Fault.parse(text).kind for text in FAULTS} == set(KINDS), "a kind of fault is missing"


@dataclass(frozen=True, slots=True)
class Noted:
    """What the vendor knows of one request: what it was about, and what became of it."""

    key: int
    endpoint: str
    charged: bool
    status: str | None
    http_status: int
    fault: str | None
    delivered: bool

    @property
    def due(self) -> tuple[type[Reply | AISolutionError], str]:
        """What the client has to make of it, and the letter of the charge."""
        if self.fault == "message" and self.status == "OK":
            # The vendor has nothing to say when a face is deleted, so nothing that it says is wrong.
            return (DeletedFace, "F") if self.endpoint == "delface" else (OutcomeUnknownError, "U")
        if not self.delivered and self.fault != "message":
            return OutcomeUnknownError, "U"
        if self.status is None:
            return of_http(self.http_status)
        if self.status == "OK":
            return REPLIES[self.endpoint], "C" if self.charged else "F"
        return of_status(self.endpoint, self.status)


class NotingSandbox(Sandbox):
    """A sandbox that notes whom each request was about."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.noted: list[tuple[int, Entry]] = []
        self._about: Request | None = None

    async def answer(self, request: Request) -> Served:
        found = await super().answer(request)
        self._about = request  # it is put on the bill before anything else runs
        return found

    def account(self, answer: Served) -> Entry | None:
        entry = super().account(answer)
        if entry is not None and self._about is not None:
            self.noted.append((_key(self._about), entry))
        self._about = None
        return entry


def _key(request: Request) -> int:
    form = parse_qs(request.body.decode("ascii"))
    if "number" in form:
        return int(form["number"][0][-8:])
    if "person_id" in form:
        return int(form["person_id"][0][-8:])
    tagged = images.read(binascii.a2b_base64(form.get("img", form.get("img1", [""]))[0]))
    assert tagged is not None
    return int(tagged.people[-1])


async def serve(seed: int) -> None:
    """Be the vendor until the standard input ends; tell what was noted since the last time for each line of it."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with NotingSandbox(faults=map(Fault.parse, FAULTS), seed=seed) as sandbox:
        print(sandbox.url, flush=True)
        while await lines.readline():
            for key, entry in sandbox.noted:
                charged = entry.charge is Charge.CHARGED
                values = key, entry.endpoint, charged, entry.status, entry.http_status, entry.fault, entry.delivered
                print(json.dumps(values))
            sandbox.noted.clear()
            bill = sandbox.bill
            hits = Counter[str]()
            for fault in sandbox.faults:
                hits[fault.kind] += sandbox.faults.hits(fault)
            print(json.dumps({"charged": bill.charged, "delivered": bill.delivered.charged, "hits": hits}), flush=True)


@dataclass(slots=True)
class Told:
    """What the vendor says: of each call its requests, oldest first, and its whole bill."""

    requests: dict[int, list[Noted]]
    charged: int
    delivered: int
    hits: dict[str, int]


class Vendor:
    """The vendor in its own process, as this one sees it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    async def tell(self) -> Told:
        """All that it noted since it was last asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        requests: dict[int, list[Noted]] = defaultdict(list)
        async for line in self._process.stdout:
            said = json.loads(line)
            if isinstance(said, dict):
                return Told(requests, said["charged"], said["delivered"], said["hits"])
            noted = Noted(*said)
            requests[noted.key].append(noted)
        raise AssertionError("the vendor is gone")


@asynccontextmanager
async def vendor(seed: int) -> AsyncIterator[Vendor]:
    """A vendor that ends with the block, and with this process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos", "--vendor", "--seed", str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        assert url, "the vendor did not start"  # an empty base URL would be that of the real one
        yield Vendor(process, url)
    finally:
        process.stdin.close()
        await process.wait()


# ---------------------------------------------------------------------------------------------------- the calls

# A name as long as any key: pictures are made by exchanging it, which is cheaper than drawing them.
_NAME = b"00000000"
_PAIR = images.two_people("alice", _NAME.decode())
_HOLDING = images.holding("alice", _NAME.decode())
_CARD = images.person("alice")


def call_of(key: int) -> Call[Any]:
    """A call of one of the six endpoints; no two are the same."""
    name = b"%08d" % key
    pair = _PAIR.replace(_NAME, name)
    match key % 6:
        case 0:
            return FaceCompare(pair, _CARD, key=key)
        case 1:
            return IdHolding(_HOLDING.replace(_NAME, name), key=key)
        case 2:
            return AddFace(pair, key=key)
        case 3:
            return SearchFace(pair, key=key)
        case 4:
            return DeleteFace(f"person-{key:08}", key=key)
    return WhatsAppDetail(f"+62813{key:08}", key=key)


@dataclass(slots=True)
class Run:
    """What came of many calls: of each key how it ended and its attempts' charges, as "FaceComparison FC answered"."""

    keys: range
    patience: float
    ended: list[str] = field(init=False)
    """By place in `keys`; empty where it has not ended. A list, so that what is noted takes no memory by and by."""
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.ended = [""] * len(self.keys)

    def how(self, key: int) -> str:
        """How a call ended."""
        return self.ended[self.keys.index(key)]

    async def take(self, client: AsyncClient, sampler: Sampler, **options: Any) -> None:
        """Ask them all. AssertionError says what is stuck if nothing happens for so long."""
        calls = (call_of(key) for key in self.keys)
        async with client.batch(calls, total=len(self.keys), drain_timeout=1, **options) as batch:
            while (outcome := await self._next(batch, client)) is not None:
                self._note(outcome)
                sampler.count()
        assert not batch.unread
        assert batch.progress.done == batch.progress.read == len(self.keys)
        self.tally = batch.tally

    async def _next(self, batch: Batch[Any], client: AsyncClient) -> Outcome | None:
        try:
            async with asyncio.timeout(self.patience):
                return await anext(batch, None)
        except TimeoutError:
            stuck = [key for key in self.keys[: batch.progress.read] if not self.how(key)]
            tasks = Counter(_place(task) for task in asyncio.all_tasks())
            raise AssertionError(
                f"nothing ended for {self.patience} s: {batch.progress}, {client.load}; keys {stuck[:20]}, "
                f"of {len(stuck)}; tasks {dict(tasks)}"
            ) from None

    def _note(self, outcome: Outcome) -> None:
        key = outcome.key
        assert isinstance(key, int)
        assert not self.how(key), f"call {key} ended twice"
        came = outcome.error if outcome.reply is None else outcome.reply
        assert (outcome.reply is None) != (outcome.error is None)
        assert outcome.answered_by is None
        letters = "".join(LETTERS[attempt.charge] for attempt in outcome.attempts)
        assert LETTERS[outcome.charge] == next((letter for letter in "CU" if letter in letters), "F")
        kept = "answered" if outcome.reply is not None and outcome.reply.is_answer else "open"
        if outcome.recorded is not None:
            kept = "recorded"
        self.ended[self.keys.index(key)] = intern(f"{type(came).__name__} {letters or '-'} {kept}")

    def letters(self, key: int) -> str:
        """The charges of a call's attempts."""
        return self.how(key).split()[1].strip("-")

    def check(self, told: Told) -> None:
        """Every call ended once, as it had to after what the vendor did."""
        assert all(self.ended), "a call did not end"
        for key in self.keys:
            how, letters = self.how(key), self.letters(key)
            name, _, kept = how.split()
            if kept == "recorded":
                assert not letters, f"call {key} was sent, though the ledger knows it"
                assert key not in told.requests, f"call {key} was asked again"
                continue
            wanted: type[Reply | AISolutionError] = OutcomeUnknownError
            was_lost = False
            waiting = list(told.requests.get(key, ()))
            for letter in letters:
                if waiting and waiting[0].due[1] == letter:
                    wanted = waiting.pop(0).due[0]
                    if wanted is PersonNotFoundError and was_lost:
                        wanted = DeletedFace
                else:
                    assert letter == "U", f"call {key} is {how}, after {told.requests.get(key)}"
                    wanted = OutcomeUnknownError
                was_lost |= letter == "U"
            assert letters, f"call {key} is {how}"
            assert not waiting, f"call {key} is {how}, after {told.requests[key]}"
            assert name == wanted.__name__, f"call {key} is {how}, after {told.requests.get(key)}"
            if "U" in letters[:-1]:
                assert key % 6 == 4, f"call {key} was sent again, though it may have been charged"

    def add_up(self, told: Iterable[Noted]) -> tuple[int, int, int]:
        """What its attempts were charged, held against the same of the vendor's: charged, free, unknown."""
        letters = Counter("".join(map(self.letters, self.keys)))
        found = self.tally.charged, self.tally.free, self.tally.unknown
        assert found == (letters["C"], letters["F"], letters["U"]), f"{self.tally} is not the sum of {letters}"
        told = list(told)
        charged, delivered = sum(n.charged for n in told), sum(n.charged and n.delivered for n in told)
        assert self.tally.charged == delivered, f"{delivered} paid answers came: {self.tally}"
        assert charged <= self.tally.charged + self.tally.unknown, f"the vendor charged {charged}: {self.tally}"
        return found


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: a suspended task's own stack is only its outermost frame."""
    coroutine: Any = task.get_coro()
    place = "over"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return place


class Sampler:
    """This process's memory and sockets, at tenths of the way."""

    def __init__(self, total: int) -> None:
        self.memory: dict[int, float] = {}
        self.sockets = 0
        self._total = total
        self._done = 0

    def count(self) -> None:
        """One call more has ended."""
        self._done += 1
        tenths = 10 * self._done // self._total
        if tenths and 10 * tenths not in self.memory:
            self.memory[10 * tenths] = resident()
            self.sockets = max(self.sockets, sockets())


def resident() -> float:
    """MiB that this process holds in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def sockets() -> int:
    """How many sockets this process has open; 0 where the system does not say."""
    found = 0
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the folder's own, closed by now
            found += str(entry.readlink()).startswith("socket:")
    return found


# ------------------------------------------------------------------------------------------------------ the run


# Of so many calls the first half fills all that is of bounded size, but for the ledger's own cache of 16 MiB.
_MANY, _CACHES = 50_000, 16.0


@dataclass(slots=True)
class Summary:
    """Figures of a whole run."""

    calls: int
    seconds: float
    ended: Counter[str]
    charges: tuple[int, int, int]
    billed: int
    hits: dict[str, int]
    memory: dict[int, float]
    most_sockets: int
    again: Counter[str]

    def __str__(self) -> str:
        charged, free, unknown = self.charges
        memory = ", ".join(f"{size:.1f} at {share} %" for share, size in self.memory.items())
        return "\n".join(
            (
                f"{self.calls} calls in {self.seconds:.0f} s, {self.calls / self.seconds:.0f} a second",
                f"attempts: {charged} charged, {free} free, {unknown} unknown; the vendor charged {self.billed}",
                f"went wrong: {_list(self.hits)}",
                f"ended: {_list(self.ended)}",
                f"memory, MiB: {memory}",
                f"sockets: {self.most_sockets} at most, none left",
                f"asked again over the ledger: {_list(self.again)}",
                "all promises kept",
            )
        )


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


async def one_run(folder: Path, *, calls: int, seed: int, timeout: float, patience: float = 60.0) -> Summary:
    """Ask `calls` calls, and those of the half with the ledger again. AssertionError says what was not kept.

    `timeout` is the seconds after which the client gives up an answer that hangs.
    """
    path = folder / "chaos.ledger"
    options = {
        "timeout": httpx.Timeout(30, read=timeout),
        "retry": Retry(first=0.02, longest=0.2),
        "max_connections": 150,
    }
    start = time.monotonic()
    async with vendor(seed) as other_side:
        before = sockets()
        sampler = Sampler(calls)
        plain, kept = Run(range(calls // 2), patience), Run(range(calls // 2, calls), patience)
        async with AsyncClient("sandbox-token", base_url=other_side.url, **options) as client:  # type: ignore[arg-type]
            await asyncio.gather(plain.take(client, sampler), kept.take(client, sampler, ledger=path))
        assert sockets() == before, "sockets are left open"
        told = await other_side.tell()
        for run in (plain, kept):
            run.check(told)
        if calls >= _MANY:
            assert sampler.memory[100] < sampler.memory[50] + _CACHES, f"memory grows: {sampler.memory}"
        charges = [run.add_up(_of(run, told)) for run in (plain, kept)]
        assert sum(charge[0] for charge in charges) == told.delivered
        assert told.delivered <= told.charged <= told.delivered + sum(charge[2] for charge in charges)
        _check_ledger(path, kept, told)

        again = Run(kept.keys, patience)
        async with AsyncClient("sandbox-token", base_url=other_side.url, ledger=path, **options) as client:  # type: ignore[arg-type]
            await again.take(client, Sampler(calls))
        assert sockets() == before, "sockets are left open"
        told_again = await other_side.tell()
        again.check(told_again)
        again.add_up(_of(again, told_again))
        _check_again(kept, again, told_again)
        _check_ledger(path, again, told_again)
    return Summary(
        calls,
        time.monotonic() - start,
        Counter(how.split()[0] for run in (plain, kept) for how in run.ended),
        (charges[0][0] + charges[1][0], charges[0][1] + charges[1][1], charges[0][2] + charges[1][2]),
        told.charged,
        told.hits,
        sampler.memory,
        sampler.sockets - before,
        Counter(_again(kept.how(key), again.how(key)) for key in kept.keys),
    )


def _of(run: Run, told: Told) -> Iterator[Noted]:
    return (noted for key in run.keys for noted in told.requests.get(key, ()))


def _check_ledger(path: Path, run: Run, told: Told) -> None:
    """Whatever was charged and came is there, and so is every attempt that was not free."""
    store = Ledger(path)
    answered = {record.key for record in store.answers() if record.state is State.CHARGED}
    for noted in _of(run, told):
        if noted.charged and noted.delivered:
            assert noted.key in answered, f"the paid answer to call {noted.key} is not in the ledger"
    states = Counter(record.state for record in store.attempts())
    assert not states[State.INTENDED]
    if not any(how.endswith("recorded") for how in run.ended):  # all that is there is of this run
        letters = Counter("".join(map(run.letters, run.keys)))
        assert (states[State.CHARGED], states[State.FREE], states[State.UNKNOWN]) == (
            letters["C"],
            letters["F"],
            letters["U"],
        )


def _check_again(first: Run, again: Run, told: Told) -> None:
    """What was answered, and what may have been charged, was not asked again."""
    for key in first.keys:
        letters = first.letters(key)
        if first.how(key).endswith("answered"):
            wanted = f"{first.how(key).split()[0]} - recorded"
        elif letters.endswith("U") and key % 6 != 4:
            wanted = "OutcomeUnknownError - recorded"
        else:
            assert again.letters(key), f"call {key} was {first.how(key)}, and was not asked again"
            continue
        assert again.how(key) == wanted, f"call {key} was {first.how(key)}, and then {again.how(key)}"
        assert key not in told.requests, f"call {key} was {first.how(key)}, and was asked again"


def _again(first: str, again: str) -> str:
    if not again.endswith("recorded"):
        return "sent"
    return "answered" if first.endswith("answered") else "held"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("calls", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vendor", action="store_true", help="be the other side")
    given = parser.parse_args()
    if given.vendor:
        asyncio.run(serve(given.seed))
        return
    faulthandler.dump_traceback_later(300, repeat=True)  # where a loop that is stuck is
    with tempfile.TemporaryDirectory() as folder:
        print(asyncio.run(one_run(Path(folder), calls=given.calls, seed=given.seed, timeout=5)))


if __name__ == "__main__":
    main()
