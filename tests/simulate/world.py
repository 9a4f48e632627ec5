"""A plan, carried out: processes that begin, ask, are struck, end and begin again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from anyio._backends._asyncio import CancelScope

from aisolution_async import (
    AISolutionError,
    AsyncClient,
    Attempt,
    Call,
    Charge,
    ConfigurationError,
    FaceCompare,
    Inbox,
    LedgerError,
    Recheck,
    Retry,
    SearchFace,
    WhatsAppDetail,
    clock,
)
from aisolution_async import client as client_module
from aisolution_async.batching import Batch
from aisolution_async.hiding import Secret
from aisolution_async.ledger import Store, owners, schema
from aisolution_async.outcome import Outcome
from aisolution_async.wire import connection, form, transport
from aisolution_async.wire.request import Requests

from . import shelf as shelves
from .laws import Laws
from .loop import SimulatedLoop
from .network import Network, Pool, Socket, enter, image_of, question_in
from .plan import ClientPlan, Job, Plan, Strike
from .shelf import Shelf, SimulatedLedger
from .vendor import UNKNOWN, Request, Vendor, Wire

if TYPE_CHECKING:
    from .server_shelf import Shelf as SharedShelf
    from .server_shelf import SimulatedSharedLedger

ADDRESS = "https://app.example.com/whatsapp"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_PRICE = Decimal("0.5")
_ENDPOINTS = ("gliswadetail", "facecompare", "searchface")
_LONGEST = 20_000.0
"""Seconds of its own time that a simulation may take: whatever waits longer waits for nothing."""

_now: World | None = None


class Process:
    """A client and its ledger, until they are closed, or crash."""

    def __init__(self, world: World, place: int, plan: ClientPlan) -> None:
        self.place, self.plan, self.world = place, plan, world
        self.number = len(world.processes)
        self.name = f"client {place}" + "'" * sum(each.place == place for each in world.processes)
        self.is_dead = self.is_closed = self.is_over = False
        self.store_failed = False  # once
        self.stalled_until = 0.0  # by the loop's time
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.batches: dict[int, Batch[Any]] = {}
        self.ledger: SimulatedLedger | SimulatedSharedLedger | None = None
        self.client: AsyncClient
        self.inbox: Inbox
        self._wire: Wire | Pool

    ends_twice = property(lambda self: self.plan.ends_twice)

    @property
    def has_failed(self) -> bool:
        """Whether its store failed once, or the server of all of them."""
        return self.store_failed or self.world.server_failed

    @property
    def is_unseen(self) -> bool:
        """Whether others cannot know that it is alive."""
        book = None if self.ledger is None else self.ledger.book
        return book is not None and self.world.shelf.alive[book.owner] is not True

    async def open(self) -> None:
        """Begin. Raises LedgerError."""
        world, plan = self.world, self.plan
        limits: dict[str, Any] = {}
        store: Store | str | None = None
        if world.plan.has_ledger:
            limits = world.limits
            if plan.owns:
                store = "calls.ledger"
            else:
                self.ledger = world.shelf.ledger(self, None, **limits)
                await self.ledger.open()
                store = self.ledger
        memory = {} if plan.most is None else {"max_charges": plan.most}
        world.opening = self
        self._wire = Pool(world, self) if world.plan.over_network else Wire(world, self)
        self.client = AsyncClient(
            "TOKEN",
            base_url="http://127.0.0.1:8080" if world.plan.over_network else "https://vendor.example",
            transport=self._wire,
            deadline=plan.deadline,
            retry=Retry(max_retries=plan.max_retries, unknown=plan.retry_unknown),
            ledger=store,
            reuse_for=plan.reuse_for,
            on_attempt=self._attempt,
            on_outcome=self._outcome,
            **(limits if plan.owns else memory),
        )
        if plan.owns:
            await self.client.__aenter__()
        secret = None if self.ledger is not None else f"secret-of-process-{self.number}"
        self.inbox = Inbox(ADDRESS, ledger=self.ledger, secret=secret, patience=plan.patience)
        if self.is_dead:
            raise LedgerError("dead")

    async def close(self, *, all_of_it: bool = True) -> None:
        """End as a program does, or close the client alone. One that was cancelled is done again at the end."""
        if self.is_over or self.is_dead:
            return
        if not self.is_closed:
            self.world.note(f"{self.name} closes")
        self.is_closed = True
        await self.client.aclose()
        if not all_of_it:
            return
        if self.ledger is not None and not self.plan.owns:
            await self.ledger.aclose()
        self.is_over = True
        self.world.note(f"{self.name} is closed")
        self.world.laws.closed(self)

    def crash(self) -> None:
        """End at once. What its tasks still do changes nothing any more."""
        if self.is_dead:
            return
        self.world.note(f"{self.name} crashes")
        self.is_dead = True
        if hasattr(self, "_wire"):
            self._wire.die()
        if self.ledger is not None:
            self.ledger.die()
        for task in self.tasks:
            task.cancel()

    def event(self, text: str) -> None:
        """See `shelf.Life`."""
        self.world.event(f"{self.name}: {text}")

    def store_delay(self) -> float:
        """See `shelf.Life`."""
        return self.world.store_delay()

    def _attempt(self, call: Call[Any], attempt: Attempt) -> None:
        self.world.laws.attempt(self, _question(call), str(call.key), attempt)

    def _outcome(self, outcome: Outcome) -> None:
        assert outcome.call is not None
        self.world.laws.outcome(self, _question(outcome.call), outcome)


class World:
    """One simulation."""

    def __init__(self, plan: Plan, *, tells: bool = False, store: str = "sqlite") -> None:
        self.plan = plan
        self.history: list[str] = []
        self.loop = SimulatedLoop()
        self.shelf: Shelf | SharedShelf = Shelf()
        if store == "postgresql":
            from .server_shelf import Shelf as SharedShelf

            self.shelf = SharedShelf(self.loop, plan)
        self.vendor = Vendor(self)
        self.network = Network(self)
        self.loop.connect = self.network.connect
        self.laws = Laws(self)
        self.processes: list[Process] = []
        self.server_failed = False  # once
        self.opening: Process | None = None
        self.errors: list[str] = []
        self.has_jumped = False
        self.events = 0
        self.limits: dict[str, Any] = {}
        if plan.most is not None and plan.priced:
            self.limits = {"max_cost": plan.most * _PRICE, "prices": dict.fromkeys(_ENDPOINTS, _PRICE)}
        elif plan.most is not None:
            self.limits = {"max_charges": plan.most}
        self._tells = tells
        self._ahead = 0.0  # of the wall clock
        self._late = 0.0
        self._rng = random.Random(plan.seed + 0.5)
        self._live: dict[int, Process] = {}
        self._opening: dict[int, asyncio.Lock] = {}
        self._strikes: dict[int | tuple[str, int], list[Strike]] = {}
        for strike in plan.strikes:
            self._strikes.setdefault((strike.event, strike.at) if strike.event else strike.at, []).append(strike)
        self._named = {strike.event: 0 for strike in plan.strikes if strike.event}
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self.numbered: set[int] = set()

    # ------------------------------------------------------------------------------------------ what happens

    def note(self, text: str) -> None:
        """For who reads what happened."""
        if self._tells:
            self.history.append(f"{self.loop.time() - 1000:10.4f} {text}")

    def event(self, text: str) -> None:
        """Something happened: a strike may follow."""
        if self._tells:
            self.note(f"[{self.events}] {text}")
        strikes = self._strikes.pop(self.events, [])
        self.events += 1
        if self._named:
            name = text.rpartition(": ")[2]
            if (count := self._named.get(name)) is not None:
                self._named[name] = count + 1
                strikes = strikes + self._strikes.pop((name, count), [])
        for strike in strikes:
            self.loop.call_soon(self._hop_on, self._strike, strike.hops, strike)

    def today(self) -> float:
        """Seconds on the wall clock."""
        return self.loop.time() - 1000 + self._ahead

    def store_delay(self) -> float:
        """How long the store takes."""
        return self._late + self._rng.random() ** 3 * 0.005

    def _hop_on(self, function: Callable[..., object], hops: int, *arguments: object) -> None:
        """Do it after so many turns."""
        if hops:
            self.loop.call_soon(self._hop_on, function, hops - 1, *arguments)
        else:
            function(*arguments)

    def _strike(self, strike: Strike) -> None:
        self.note(f"STRIKE {strike.kind} {strike.target} {strike.amount or ''}")
        process = self._live.get(strike.target)
        match strike.kind:
            case "cancel" | "cancel twice":
                if (task := self._jobs.get(strike.target)) is not None:
                    task.cancel()
                    if strike.kind == "cancel twice":
                        self.loop.call_later(0.0005, task.cancel)
            case "stop":
                for each in self.processes:
                    if (batch := each.batches.get(strike.target)) is not None:
                        batch.stop()
            case "jump":
                self._ahead += strike.amount
                self.has_jumped = True
            case "late":
                self._late = strike.amount
            case "restart" if not isinstance(self.shelf, Shelf):
                self.server_failed = True
                self.shelf.restart(strike.amount)
            case _ if process is None:
                pass
            case "crash":
                process.crash()
            case "stall":
                process.stalled_until = self.loop.time() + strike.amount
            case "close" | "close the client":
                self._spawn(process, process.close(all_of_it=strike.kind == "close"))
            case "close, cancelled":
                self._hop_on(self._spawn(process, process.close()).cancel, int(strike.amount))
            case _ if process.ledger is None:
                pass
            case "crash in the store":
                process.store_failed = True
                process.ledger.faults.crash_after = int(strike.amount)
            case "disk" | "locked":
                process.store_failed = True
                faults = process.ledger.faults
                faults.left, faults.after = int(strike.amount), round(strike.amount % 1 * 100)
                faults.code = sqlite3.SQLITE_FULL if strike.kind == "disk" else sqlite3.SQLITE_BUSY
            case "unseen":
                process.store_failed = True
                if process.ledger.book is not None and not process.ledger.book.closed:
                    self.shelf.alive[process.ledger.book.owner] = None

    def _spawn(self, process: Process, work: Any) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        process.tasks[task] = None
        return task

    async def receive(self, request: Request, secret: str, query: str) -> bool:
        """The vendor calls back. Whether anybody was there, and took it."""
        there = [
            each
            for each in self._live.values()
            if hasattr(each, "inbox")
            and not (each.is_closed or each.is_dead)
            and each.inbox.url.rpartition("/")[2] == secret
        ]
        if not there:
            return False
        process = there[self._rng.randrange(len(there))]
        before = self.laws.callbacks_counted(request.question, process)
        self.event("a callback is made")
        self.note(f"{process.name} is called back for {request}")
        task = self.loop.create_task(process.inbox.receive(secret, query))
        process.tasks[task] = None
        await asyncio.wait({task})
        process.tasks.pop(task)
        if self.laws.callbacks_counted(request.question, process) > before:
            request.is_counted_as_callback = True
            # Another process was told of the charge by a response, and the ledger did not have that yet.
            told = any(each.is_billed and each.process is not process for each in self.vendor.of(request.question))
            request.is_counted_elsewhere |= process is not request.process or (told and not request.is_billed)
        if task.cancelled():
            return False
        if (error := task.exception()) is not None:
            if not isinstance(error, LedgerError | ConfigurationError):
                self.laws.hold(False, f"a callback raised {error!r}")
            return False
        if "whatsapp=checking" not in query:  # which says nothing yet, and costs nothing
            request.called_back = process
            request.takers.append(process)
        self.event("a callback is taken")
        return not process.is_dead

    # ------------------------------------------------------------------------------------------------ jobs

    async def _process(self, place: int) -> Process | None:
        """The process of a client, begun if it is not there. None if it cannot begin."""
        async with self._opening.setdefault(place, asyncio.Lock()):
            process = self._live.get(place)
            if process is None or process.is_dead or process.is_closed:
                process = Process(self, place, self.plan.clients[place])
                self.processes.append(process)
                self._live[place] = process
                me = asyncio.current_task()
                assert me is not None
                process.tasks[me] = None
                try:
                    await process.open()
                except LedgerError:
                    process.crash()
                    return None
                except asyncio.CancelledError:
                    process.crash()
                    raise
                finally:
                    process.tasks.pop(me, None)
            return process

    async def _do(self, place: int, job: Job) -> None:
        await asyncio.sleep(job.at)
        process = await self._process(job.client)
        if process is None:
            return
        me = asyncio.current_task()
        assert me is not None
        process.tasks[me] = None
        enter(process)
        self.event(f"{process.name}: job {place}, {job.kind}")
        try:
            await getattr(self, f"_{job.kind}")(process, place, job)
        except AISolutionError:
            pass
        finally:
            process.tasks.pop(me, None)

    def _call(self, question: int, ask: str) -> Call[Any]:
        key, pictures = f"q{question}.{ask}", self.plan.pictures
        match pictures[question] if question < len(pictures) else "":
            case "facecompare":
                return FaceCompare(image_of(question), image_of(500), key=key)
            case "searchface":
                return SearchFace(image_of(question, is_small=True), key=key)
            case _:
                return WhatsAppDetail(f"+6281387300{question:03}", key=key)

    async def _send(self, process: Process, place: int, job: Job) -> None:
        await process.client.send(self._call(job.asks[0], f"{place}.0"))

    async def _wait(self, process: Process, place: int, job: Job) -> None:
        call = self._call(job.asks[0], f"{place}.0")
        if isinstance(call, WhatsAppDetail):
            await process.client.whatsapp_detail(call.number, wait=process.inbox, key=call.key)
        else:
            await process.client.send(call)

    async def _batch(self, process: Process, place: int, job: Job) -> None:
        calls = [self._call(question, f"{place}.{index}") for index, question in enumerate(job.asks)]
        batch: Batch[Any] = process.client.batch(
            calls,
            concurrency=job.concurrency,
            dedupe=job.dedupe,
            ordered=job.ordered,
            inbox=process.inbox if job.inbox else None,
            drain_timeout=job.drain,
            recheck=Recheck(give_up=100.0) if job.recheck else None,
            max_charges=job.max_charges,
        )
        process.batches[place] = batch
        taken: list[Outcome] = []
        try:
            async with batch:
                async for outcome in batch:
                    taken.append(outcome)
                    process.event("an outcome is taken")
                    if job.leave_after is not None and len(taken) > job.leave_after:
                        break
        finally:
            if not process.is_dead:
                whole = [outcome.index for outcome in (*taken, *batch.unread)]
                read = batch.progress.read
                self.laws.hold(sorted(whole) == [*range(read)], f"of {read} calls read, these came out: {whole}")
                if job.dedupe and not batch.braked:
                    self.laws.batch(process, place, job.asks)
                if job.max_charges is not None:
                    spent = batch.tally.charged
                    within = spent <= job.max_charges + self.laws.late(process)
                    self.laws.hold(within, f"job {place} spent {spent}, over its limit")

    async def _resolve(self, process: Process, place: int, job: Job) -> None:
        """A person looks at the bill, and settles what is on it, or is not."""
        ledger, question = process.ledger, job.asks[0]
        if ledger is None or not self.vendor.is_done_with(question):
            return
        requests = self.vendor.of(question)
        rows = self.shelf.rows(
            "SELECT id, holds FROM attempts WHERE state = 'unknown' AND holds <> 0 AND key LIKE ? ORDER BY id",
            f'"q{question}.%',
        )
        ((charged,),) = self.shelf.rows(
            "SELECT count(*) FROM attempts WHERE state = 'charged' AND key LIKE ?", f'"q{question}.%'
        )
        ((others,),) = self.shelf.rows("SELECT (SELECT count(*) FROM intents) + (SELECT count(*) FROM outstanding)")
        if others or any(each.view not in ("free", "checking", "answered", UNKNOWN) for each in requests):
            return
        owed = sum(each.is_billed for each in requests) - charged
        lost = [each for each in requests if each.view == UNKNOWN and not each.is_settled]
        if len(rows) != len(lost) or owed != sum(each.is_billed for each in lost):
            return  # nobody could tell which is which
        for (id_, _), request in zip(rows, lost, strict=True):
            if request.is_billed and not job.charged:
                continue
            charge = Charge.CHARGED if request.is_billed else Charge.FREE
            request.is_resolved_free = not request.is_billed  # also where a crash keeps us from hearing of it
            request.is_settled = bool(await ledger.resolve(None, charge, attempt=id_))
            request.is_resolved_free &= request.is_settled
            self.note(f"{request} is settled as {charge}")

    async def _purge(self, process: Process, place: int, job: Job) -> None:
        if process.ledger is not None:
            self.laws.purged()
            await process.ledger.purge(job.older)

    async def _close(self, process: Process, place: int, job: Job) -> None:
        await process.close()

    # ------------------------------------------------------------------------------------------- all of it

    async def _run(self) -> None:
        for place, job in enumerate(self.plan.jobs):
            self._jobs[place] = self.loop.create_task(self._do(place, job))
        if self._jobs:
            await asyncio.wait(self._jobs.values())
        for task in self._jobs.values():
            if not task.cancelled() and (error := task.exception()) is not None:
                self.laws.hold(False, f"a job raised {error!r}")
        self._strikes.clear()
        for process in self.processes:
            if process.ledger is not None:
                process.ledger.faults.left = 0
                process.ledger.faults.crash_after = None
        await self.vendor.rest()
        for process in self.processes:
            with contextlib.suppress(LedgerError):  # it crashes in this moment
                await process.close()
        others = [task for process in self.processes for task in process.tasks if not task.done()]
        if others:
            await asyncio.wait(others)
        await asyncio.sleep(100.0)  # what was set aside for callbacks is given back
        if self.plan.has_ledger:
            self.note("a last look")
            last = Process(self, 0, ClientPlan())
            ledger = self.shelf.ledger(last, None, **self.limits)
            await ledger.open()
            await ledger.aclose()
        self.laws.end()

    def run(self) -> list[str]:
        """Carry it out. Returns the laws that it breaks."""
        random.seed(self.plan.seed)
        try:
            with _pretended(self):
                main = self.loop.create_task(self._run())
                self.loop.call_later(_LONGEST, main.cancel)
                try:
                    self.loop.run_until_complete(main)
                except asyncio.CancelledError:
                    self.laws.hold(False, "it does not come to an end")
                except Exception as exc:  # a fault of the simulation, or of the code
                    if not isinstance(exc, AISolutionError | AssertionError | LookupError | TypeError | ValueError):
                        raise
                    self.laws.hold(False, f"it raised {type(exc).__name__}: {exc}")
                self._clean_up()
        finally:
            self.loop.close()
        return self.laws.broken

    def _clean_up(self) -> None:
        left = self.loop.tasks()
        for task in left:
            task.cancel()
        if left and not self.laws.broken:
            self.laws.hold(False, f"{len(left)} tasks are left")
        for _ in range(50):
            if not left:
                break
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            left = self.loop.tasks()


class _Errors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if _now is not None and record.levelno >= logging.ERROR:
            _now.errors.append(record.getMessage())


@contextlib.contextmanager
def _pretended(world: World) -> Iterator[None]:
    """Whatever is not of the loop is of the world meanwhile."""
    global _now  # noqa: PLW0603  # one simulation at a time
    _now = world
    try:
        yield
    finally:
        _now = None


def _world() -> World:
    assert _now is not None
    return _now


def _today() -> datetime:
    return _EPOCH + timedelta(seconds=_world().today())


def _loop_time() -> float:
    return _world().loop.time()


def _number(batch: Batch[Any]) -> int:
    """A hash that is the same each time: batches stand in a set, and are ended in its order."""
    found: int = batch.__dict__.setdefault("_number", len(_world().numbered))
    _world().numbered.add(found)
    return found


def _number_of_scope(scope: Any) -> int:
    """The same for the scopes that stand in a set within another: no two of them are of one task."""
    return hash(scope._host_task)


def _ledger(path: object, **options: Any) -> SimulatedLedger | SimulatedSharedLedger:
    """In place of `Ledger`, for a client that is given a path."""
    process = _world().opening
    assert process is not None
    ledger = process.world.shelf.ledger(process, path, **options)
    process.ledger = ledger
    return ledger


async def _dial(loop: asyncio.AbstractEventLoop, addresses: object) -> Socket:
    return await _world().network.dial()


def _watch(number: int) -> Callable[[int], object]:
    return _world().network.watch(number)


@cache
def _same_requests(address: str, token: str, user_agent: str) -> Requests:
    return Requests(Secret(address), Secret(token), Secret(None), user_agent=user_agent)


def _requests(address: Secret, token: Secret, _: Secret, *, user_agent: str) -> Requests:
    """In place of `Requests`, whose URLs take as long to make as all else of a client: the same for each of them."""
    return _same_requests(address.value, token.value, user_agent)


@contextlib.contextmanager
def simulating(store: str = "sqlite") -> Iterator[None]:
    """Within it, worlds may run."""
    with contextlib.ExitStack() as stack:
        if store == "postgresql":
            from . import server_shelf

            stack.enter_context(server_shelf.simulating(_loop_time))
        stack.enter_context(_simulating())
        yield


@contextlib.contextmanager
def _simulating() -> Iterator[None]:
    logger = logging.getLogger("aisolution_async")
    handler = _Errors()
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        with (
            mock.patch.object(clock, "today", _today),
            mock.patch.object(owners, "is_alive", shelves.is_alive(lambda: cast(Shelf, _world().shelf))),
            mock.patch.object(client_module, "open_ledger", _ledger),
            mock.patch.object(client_module, "Requests", _requests),
            mock.patch.object(schema, "file_of", return_value=shelves.PATH),  # which asks the disk
            mock.patch.object(transport, "dial", _dial),
            mock.patch.object(connection, "_watch", _watch),
            mock.patch.object(form, "_PIECE", 48),  # so that small pictures are bodies of several pieces
            mock.patch.object(Batch, "__hash__", _number),
            mock.patch.object(CancelScope, "__hash__", _number_of_scope),
        ):
            yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


def _question(call: Call[Any]) -> int:
    if isinstance(call, WhatsAppDetail):
        return int(call.number[-3:])
    image = call.img1 if isinstance(call, FaceCompare) else call.img if isinstance(call, SearchFace) else None
    assert isinstance(image, bytes)
    return question_in(image)
