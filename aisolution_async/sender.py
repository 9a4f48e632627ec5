"""The one send path: a pool with what it needs to ask, and a call on its way through its attempts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b, sha256
from typing import Any, Generic, ParamSpec, TypeVar, cast

import anyio.to_thread
import httpx
from anyio import CapacityLimiter

from aisolution_async import clock
from aisolution_async.api import Call, Endpoint, Kind, R, WhatsAppDetail, WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Attempt, Charge, Tally, overall
from aisolution_async.echo import STOPPED, Echo, Seen
from aisolution_async.errors import (
    AISolutionError,
    BudgetExhaustedError,
    ConfigurationError,
    InputError,
    Key,
    NotSentError,
    OutcomeUnknownError,
    RetryLaterError,
    quotable,
)
from aisolution_async.hiding import NotPickled, redacted, without_secret_fields
from aisolution_async.inbox import Inbox, digits_of, place, result_of
from aisolution_async.inputs import images, numbers, texts
from aisolution_async.inputs.fit import LARGEST_FILE, TARGET, Fitter, fit
from aisolution_async.ledger.store import (
    POLL,
    Ask,
    Busy,
    Exhausted,
    Expected,
    Held,
    LedgerError,
    Result,
    Started,
    Store,
    Stored,
    Verdict,
    problem_of,
)
from aisolution_async.limits import Budget, Gate, Rate, Signal
from aisolution_async.retry import Retry
from aisolution_async.wire import envelope
from aisolution_async.wire.connection import CERTIFICATE_HINT, refusal_of
from aisolution_async.wire.form import Form
from aisolution_async.wire.reach import Refused
from aisolution_async.wire.request import Requests
from aisolution_async.wire.transport import Flight, Headers, PoolTransport

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Images smaller than this in all are encoded at once: a hop to a thread, or turns, would cost more.
_AT_ONCE = 128 * 1024
_READERS = 4

LONGEST_PAUSE = 600.0
"""Seconds that one Retry-After can hold up the batches for."""
MAX_ANSWER_BYTES = 1024 * 1024

# From a transport that does not say whether bytes left: these are raised before any byte can have.
_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from call to call on one pool."""

    timeout: Mapping[str, float | None]
    deadline: float | None
    retry: Retry
    rules: Mapping[str, Mapping[str, Charge]]
    max_image_bytes: int
    strict_numbers: bool = False
    fit: bool = False
    budgets: tuple[Budget, ...] = ()
    journal: Journal | None = None
    on_attempt: Callable[[Call[Any], Attempt], object] | None = None
    on_outcome: Callable[[Any], object] | None = None

    def charges_of(self, endpoint: Endpoint[Any]) -> Mapping[str, Charge]:
        """The charge by status, as the user would have it."""
        return self.rules.get(endpoint.name, endpoint.charges)


async def _ended(busy: Busy) -> None:
    try:
        await busy.wait()
    except BaseException as exc:
        if not problem_of(exc):
            raise
    else:
        return
    await clock.sleep(POLL)  # the next look tells what is wrong


def _translated(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    @functools.wraps(method)
    async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except BaseException as exc:
            if not (problem := problem_of(exc)):
                raise
        raise LedgerError(problem)  # here, so that what the store raised is not its context

    return bounded


class Journal(NotPickled):
    """A ledger as a client or a batch uses it, and the boundary where whatever it raises becomes a LedgerError.

    One given by path is opened with the first use and closed by whoever was given the path; one given as an
    object is its owner's to open and close. `reuse_for` is how old an answer may be, in seconds.
    """

    def __init__(self, store: Store, *, owned: bool, reuse_for: float | None) -> None:
        self.reuse_for = reuse_for
        self._store = store
        self._owned = owned
        self._opening: asyncio.Task[None] | None = None
        self._opener: Journal | None = None  # who opens and closes it in this one's place

    def reusing(self, reuse_for: float) -> Journal:
        """The same ledger with another `reuse_for`. Whoever has this one closes it."""
        view = Journal(self._store, owned=False, reuse_for=reuse_for)
        view._opener = self._opener or self
        return view

    async def open(self) -> None:
        """Make sure that it is open. Raises LedgerError."""
        if self._opener is not None:
            await self._opener.open()
        elif self._owned:
            if self._opening is None:
                self._opening = asyncio.create_task(self._store.open())
            if not self._opening.done():
                await asyncio.wait({self._opening})
            if (problem := self._opening.exception()) is not None:
                raise type(problem)(str(problem)) from None

    async def aclose(self) -> None:
        """Close it, if it was opened here."""
        if self._opening is not None:
            await asyncio.wait({self._opening})
            await self._store.aclose()

    def identity(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        """See `Store.identity`."""
        try:
            return self._store.identity(endpoint, payload, key)
        except BaseException as exc:
            if not (problem := problem_of(exc)):
                raise
        raise LedgerError(problem)

    def place(self, digits: str) -> bytes:
        """What the ledger knows the number's callback by."""
        return place(self, digits)

    @_translated
    async def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`."""
        verdict = await self._store.begin(ask)
        if not isinstance(verdict, Verdict):
            raise LedgerError(f"the ledger failed: it answered with a {type(verdict).__name__}, which is no verdict")
        return verdict

    @_translated
    async def end(self, started: Started, result: Result) -> None:
        """See `Store.end`."""
        await self._store.end(started, result)

    @_translated
    async def deliver(self, callbacks: Sequence[bytes], result: Result) -> bool:
        """See `Store.deliver`."""
        return await self._store.deliver(callbacks, result)

    @_translated
    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """See `Store.find`."""
        found = await self._store.find(asks)
        if not (
            isinstance(found, list)
            and len(found) == len(asks)
            and all(stored is None or isinstance(stored, Stored) for stored in found)
        ):
            raise LedgerError("the ledger failed: what it found is no answer, or none for each question")
        return found


class Sender(NotPickled):
    """One pool and its account: what every call and batch on a client shares.

    States: open, then closed for good. It belongs to the event loop that first uses it. `places` bounds the
    attempts at once and `rate` their pace, over all calls and batches; None for no bound of ours.
    """

    def __init__(
        self,
        requests: Requests,
        transport: httpx.AsyncBaseTransport,
        *,
        places: int | None = None,
        rate: float | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.tally = Tally()
        self.journal = journal  # to be closed with the pool
        self.echo = Echo()
        self.gate = Gate(places)
        self.rate = None if rate is None else Rate(rate)
        self.paused_until = -math.inf
        self.requests = requests
        self.transport = transport
        # For batches, and for single calls, which do not wait behind a batch's images.
        self.preparing = (asyncio.Semaphore(_READERS), asyncio.Semaphore(_READERS))
        self.readers = (CapacityLimiter(_READERS), CapacityLimiter(_READERS))
        # One form after the other, so that each turn of the loop stays short.
        self.encoding = (asyncio.Lock(), asyncio.Lock())
        self.in_flight = 0
        self.batches: set[Any] = set()
        """The batches that are running."""
        self.closed = False
        self._fitter: Fitter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hush(True)

    async def fit(self, image: bytes, name: str, target: int, *, alone: bool) -> bytes:
        """The image made to fit: for a single call in a thread, for a batch in a process, so that two cores are two."""
        if alone:
            return await anyio.to_thread.run_sync(
                functools.partial(fit, image, name=name, target=target),
                limiter=self.readers[True],
                abandon_on_cancel=True,
            )
        if self._fitter is None:
            self._fitter = Fitter()
        return await self._fitter.fit(image, name=name, target=target)

    def check(self) -> None:
        """Raise ConfigurationError unless this may be used here and now."""
        if self.closed:
            raise ConfigurationError("the client is closed: make a new one, and keep it open while calls are made")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "the client was first used on another event loop: make one client for each loop (asyncio.run)"
            )

    def _hush(self, on: bool) -> None:
        """Keep the token out of httpcore's debug log, where what a server echoes is written as it comes."""
        if not isinstance(self.transport, PoolTransport):
            for name in ("http11", "http2", "proxy", "connection"):
                logger = logging.getLogger(f"httpcore.{name}")
                (logger.addFilter if on else logger.removeFilter)(self._censor)

    def _censor(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        shown = self.requests.redact(said)
        if shown != said:
            record.msg, record.args = shown, ()
        return True

    async def aclose(self) -> None:
        """Close the pool; what is in flight ends in an error. Idempotent."""
        if not self.closed:
            if self._loop not in (None, asyncio.get_running_loop()):
                raise ConfigurationError("the client belongs to another event loop: close it there")
            self.closed = True
            running = tuple(self.batches)
            for batch in running:
                batch.client_closed()
            self._hush(False)
            await self.transport.aclose()
            await asyncio.gather(*(batch.ended() for batch in running))  # what came in is recorded
            if self._fitter is not None:
                await self._fitter.aclose()
            if self.journal is not None:
                await self.journal.aclose()


class Work(NotPickled, Generic[R]):
    """One call on its way: `attempt()` until it returns None, then `reply` or `error` is there."""

    __slots__ = (
        "_alone",
        "_awaits",
        "_call",
        "_called",
        "_checking",
        "_covered",
        "_delivering",
        "_digits",
        "_flying",
        "_form",
        "_inbox",
        "_last",
        "_options",
        "_overdue",
        "_own",
        "_reserved",
        "_round",
        "_sender",
        "_since",
        "_spent",
        "_tally",
        "_waits",
        "attempts",
        "call",
        "call_back",
        "error",
        "identity",
        "reply",
        "retry_after",
        "signal",
        "trial",
    )

    def __init__(
        self,
        sender: Sender,
        options: Options,
        call: Call[R],
        tally: Tally | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.call = call
        self.attempts: tuple[Attempt, ...] = ()
        self.reply: R | None = None
        self.error: AISolutionError | None = None
        self._call = call
        self._sender = sender
        self._options = options
        self._tally = tally
        self.identity: bytes | None = None
        """What makes another call the same question: known after `prepare(identify=True)`."""
        self.signal: Signal | None = None
        """What the newest attempt says of the vendor; None if there was none."""
        self.retry_after: float | None = None
        """Seconds that the newest answer asks everyone to wait."""
        self.trial = False
        """Whether the next attempt only tries whether the vendor is there again: then it uses up no repeat."""
        self._alone = tally is None  # not one of a batch: it has ways past them
        self._form: Form | None = None
        self._last: envelope.Answer[R] | _Failure | None = None  # what the newest attempt came to
        self._checking: R | None = None  # a reply that is no answer yet, and is asked for again
        self._round = 0  # the number of attempts before this round of asking
        self._spent = 0.0
        self._waits: Iterator[float] | None = None
        self._own = 0  # the number of the newest request's attempt
        # Answers by callback: for calls that name no callback of their own.
        self._inbox = inbox if isinstance(call, WhatsAppDetail) and not call.callback else None
        self.call_back: Callable[[], None] | None = None
        """Called when there is an answer by callback, or when it is time to ask."""
        self._digits = ""  # of the number that the inbox waits for
        self._since: datetime | None = None  # when a callback was asked for; None if another call asks for the number
        self._awaits = False
        self._overdue = False
        self._called: R | None = None  # what came by callback
        self._delivering: asyncio.Event | None = None  # while that is being recorded
        self._flying = False  # an attempt is being made, with a charge set aside
        self._covered = False  # the charge of the callback is that of an attempt which is unknown
        self._reserved: tuple[Budget, ...] = ()  # set aside for a charge that may come by callback

    async def finish(self) -> None:
        """Make attempts until the call is over, as a call by itself: past the batches, in the client's pace."""
        while True:
            wait: float | Busy | None = None
            if await self._enter():
                try:
                    wait = await self.attempt()
                finally:
                    self._sender.gate.leave()
            if wait is None:
                return
            if isinstance(wait, Busy):
                await self.wait_for(wait)
            else:
                await clock.sleep(wait)

    async def wait_for(self, busy: Busy) -> None:
        """Wait until the same call, under way elsewhere, is worth another look, or until the deadline."""
        start = clock.now()
        left = math.inf if self._options.deadline is None else self._options.deadline - self._spent
        try:
            with anyio.move_on_after(left):
                await _ended(busy)
        finally:
            self._spent += clock.now() - start

    async def _enter(self) -> bool:
        """Take a place for an attempt; False if none comes free in time, with `error` set."""
        sender = self._sender
        sender.check()
        patience = self._options.timeout.get("pool")
        left = math.inf if self._options.deadline is None else self._options.deadline - self._spent
        if sender.rate is not None:
            pause = sender.rate.wait(clock.now())
            if pause >= left:
                return self._is_late("the rate leaves no time for it before the deadline")
            sender.rate.start(clock.now() + pause)
            await clock.sleep(pause)
            self._spent += pause
        if sender.gate.try_enter():
            return True
        start = clock.now()
        left = math.inf if self._options.deadline is None else self._options.deadline - self._spent
        with anyio.move_on_after(min(math.inf if patience is None else patience, left)):
            await sender.gate.enter()
            self._spent += clock.now() - start
            return True
        return self._is_late("no free connection in time")

    def _is_late(self, text: str) -> bool:
        self._last = _Failure(False, text)
        self._count(Attempt(Charge.FREE, None, None, clock.today(), 0.0, text, number=self._next))
        self._tell(self._own)
        self.conclude("")
        return False

    async def prepare(self, *, identify: bool = False, is_known: Callable[[bytes], bool] | None = None) -> bool:
        """Read, fit and encode what the call holds. False if it need not or cannot be sent: `reply` or `error` is set.

        A file that is still being read at the deadline is left to itself. What `is_known` by its identity is not
        encoded.
        """
        if self._form is not None:
            return True
        if identify and self._options.journal is not None and not await self._open_journal():
            return False
        if _is_small(self._call) and not (self._options.fit and self.call.endpoint.takes_images):
            fields = self._load(identify)
            if isinstance(fields, InputError):
                self.error = fields
                return False
            self._form = Form(fields)
            return True
        # From the reading to the encoding, so that few raw images are held at a time.
        async with self._sender.preparing[self._alone]:
            left = math.inf if self._options.deadline is None else self._options.deadline - self._spent
            with anyio.move_on_after(left) as scope:
                fields = await anyio.to_thread.run_sync(
                    self._load, identify, limiter=self._sender.readers[self._alone], abandon_on_cancel=True
                )
            if scope.cancelled_caught:
                self.conclude("the deadline passed while its images were read")
                return False
            if isinstance(fields, InputError):
                self.error = fields
                return False
            if is_known is not None and self.identity is not None and is_known(self.identity):
                return True
            if identify and await self._is_stored():
                return False
            if self._options.fit and not await self._fit(fields):
                return False
            async with self._sender.encoding[self._alone]:
                self._form = await Form.in_turns(fields)
        return True

    async def _fit(self, fields: list[tuple[str, str | bytes]]) -> bool:
        """Make the images fit, in place. False if one cannot be, with `error` set."""
        target = min(TARGET, self._options.max_image_bytes)
        problem = ""
        for number, (name, value) in enumerate(fields):
            if isinstance(value, bytes):
                try:
                    fields[number] = (name, await self._sender.fit(value, name, target, alone=self._alone))
                except InputError as exc:
                    problem = str(exc)
        if problem:
            self.error = InputError(problem, endpoint=self.call.endpoint.name, key=self.call.key)
        return not problem

    def question(self) -> Ask | None:
        """What a ledger is asked of this call; None where its images have to be read first, or it cannot be sent."""
        if self.call.endpoint.takes_images:
            return None
        try:
            return None if isinstance(self._load(True), InputError) else self._ask()
        except Exception:  # whatever is wrong is told when its turn comes
            return None

    async def _is_stored(self) -> bool:
        """Whether the ledger has the answer, with `reply` set: then nothing need be encoded."""
        journal = self._options.journal
        if journal is None or self.attempts:
            return False
        try:
            (stored,) = await journal.find([self._ask()])
        except AISolutionError:
            return False  # to be told when it is asked for leave
        return stored is not None and self.accept(stored)

    def accept(self, stored: Stored) -> bool:
        """Take the answer that the ledger has; False if it cannot be read."""
        try:
            self.reply = self.call.endpoint.reply.from_record(stored.reply, stored.attempt)
        except (ValueError, TypeError):  # whatever stands there
            return False
        self.reply._made_by(self.attempts)  # noqa: SLF001  # the place that fills it in, with _send
        return True

    async def _open_journal(self) -> bool:
        assert self._options.journal is not None
        try:
            await self._options.journal.open()
        except LedgerError as exc:
            problem = str(exc)
        else:
            return True
        self.error = self._problem(LedgerError, f"not sent: {problem}")
        return False

    @property
    def _next(self) -> int:
        """The number of the next attempt."""
        return len(self.attempts) + 1

    @property
    def is_repeat(self) -> bool:
        """Whether an attempt of this round of asking was made."""
        return len(self.attempts) > self._round

    def ask_again(self) -> None:
        """Forget the reply, which is no answer yet, and start another round of attempts."""
        self._checking, self.reply = self.reply, None
        self._round = len(self.attempts)
        self._last = self._waits = None
        self._spent = 0.0

    async def attempt(self) -> float | Busy | None:
        """Make one attempt. None when the call is over, else what to wait for before the next: seconds, or another.

        The time spent here and the wait asked for count against the call's deadline; what passes between
        the end of that wait and the next attempt does not. When cancelled, the attempt is counted, and is
        UNKNOWN if a byte may have left.
        """
        self._sender.check()
        started = clock.now()
        ends = None if self._options.deadline is None else started + self._options.deadline - self._spent
        wait = await self._attempt(ends)
        if not self.trial:
            self._spent += clock.now() - started + (wait if isinstance(wait, float) else 0.0)
        self.trial = False
        return wait

    def release(self) -> None:
        """Let go of what was read and encoded: somebody else asks the same."""
        self._form = None

    async def _attempt(self, ends: float | None) -> float | Busy | None:
        self.signal = self.retry_after = None
        journal = self._options.journal
        if not await self.prepare(identify=journal is not None):
            return None
        if self._is_stopped:
            if not await self._is_stored():
                self.conclude(STOPPED)
            return None
        self._awaits = self._inbox is not None and not self._inbox.expect(self)
        if self._awaits:
            return None  # another call asks for the number, and this one is told
        before, own = len(self.attempts), self._own
        budgets = self._reserve()
        if budgets is None and self._reserved:  # what was set aside for the callback is spent on asking again
            budgets, self._reserved, self.error = self._reserved, (), None
        if budgets is None:
            if journal is not None and await self._is_stored():
                self.error = None
            return None
        self._flying = True
        try:
            if journal is None:
                return await self._send(ends, None)
            verdict = await self._begin(journal, ends)
            if isinstance(verdict, Started) and self._called is not None:
                await self._take_back(journal, verdict)
                return None
            return await self._send(ends, verdict) if isinstance(verdict, Started) else verdict
        finally:
            self._flying = False
            if self._own != own:
                self._tell(self._own)
            self._settle(budgets, overall(self.attempts[before:]))

    @property
    def _is_stopped(self) -> bool:
        """Whether nothing more is sent, as its answers cannot be told from another call's."""
        return not self._sender.echo.holds and isinstance(self.call, WhatsAppDetail)

    def _settle(self, budgets: tuple[Budget, ...], charge: Charge) -> None:
        """The attempt is over: its charge was used, goes back, or is set aside for the callback."""
        may_come = self._called is None and self._since is not None and (self._awaits or self._overdue)
        if may_come and charge is Charge.FREE and not self._reserved:
            self._reserved = budgets
            return
        self._covered = may_come and charge is Charge.UNKNOWN and not self._overdue
        for budget in budgets:
            budget.settle(self.call.endpoint.name, charge)

    async def _take_back(self, journal: Journal, started: Started) -> None:
        """The callback came while leave was asked for: nothing need be sent."""
        attempt = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "answered by callback", number=self._next)
        with contextlib.suppress(AISolutionError):
            await journal.end(started, Result(attempt, sent=False))

    def _reserve(self) -> tuple[Budget, ...] | None:
        """Set one charge aside in every budget; None if one has none left, with `error` set."""
        endpoint = self.call.endpoint
        if not self._options.budgets or not self._may_charge():
            return ()
        for number, budget in enumerate(self._options.budgets):
            if why := budget.reserve(endpoint.name):
                for earlier in self._options.budgets[:number]:
                    earlier.settle(endpoint.name, Charge.FREE)
                self.error = self._problem(BudgetExhaustedError, f"not sent: {why}")
                return None
        return self._options.budgets

    def _may_charge(self) -> bool:
        if not self._options.rules:
            return not self.call.endpoint.never_charges
        return any(charge is not Charge.FREE for charge in self._options.charges_of(self.call.endpoint).values())

    def _problem(self, kind: type[AISolutionError], text: str) -> AISolutionError:
        name = self.call.endpoint.name
        return kind(f"{name}: {text}", endpoint=name, key=self.call.key, attempts=self.attempts)

    async def _send(self, ends: float | None, started: Started | None) -> float | None:
        """The attempt itself: out, back, counted, recorded."""
        form, self._form = self._form, None  # it can be sent once
        assert form is not None
        flight = Flight(ends)
        began, start = clock.today(), clock.now()
        if self._inbox is not None and not self._overdue:
            self._since = began
        self._sender.in_flight += 1
        try:
            result = await self._exchange(form, flight)
            if self._delivering is not None:
                await self._delivering.wait()  # which of the two came first is settled before they are counted
        except asyncio.CancelledError:
            result = _Failure(flight.left is not False, "cancelled")
            self._fail(result, began, clock.now() - start)
            self.conclude("")
            if started is not None:
                with anyio.CancelScope(shield=True):
                    await self._record(started, sent=result.left)
            raise
        finally:
            self._sender.in_flight -= 1
        return await self._hear(result, began, clock.now() - start, ends, started)

    async def _hear(
        self, result: _Response | _Failure, began: datetime, elapsed: float, ends: float | None, started: Started | None
    ) -> float | None:
        """What came of a request: counted, recorded, and what follows from it."""
        left, answer = True, None
        if isinstance(result, _Failure):
            self._fail(result, began, elapsed)
            left = result.left
        else:
            answer = self._understand(result, began, elapsed)
        self._awaits = self._asked_for_callback()
        if self.reply is not None:
            self.reply._made_by(self.attempts)  # noqa: SLF001  # the recording may be cut off
        if started is not None:
            await self._record(started, sent=left, answer=answer)
        if self._called is not None and not (self.reply is not None and self.reply.is_answer):
            self.reply = self._called  # the callback came before the answer to the request
        if self.reply is not None:
            self.reply._made_by(self.attempts)  # noqa: SLF001  # the one place that fills it in, with called_back
            return None
        wait = None
        if self._awaits:
            pass  # the request was lost, and may be answered all the same
        elif answer is not None:
            wait = self._again(answer.retry_after, ends, repeatable=answer.repeatable)
        elif isinstance(result, _Failure):
            wait = self._again(None, ends, repeatable=not self._sender.closed and result.refusal is None)
        if wait is None:
            self.conclude("")
        return wait

    def _understand(self, response: _Response, began: datetime, elapsed: float) -> envelope.Answer[R] | None:
        try:
            return self._read(response, began, elapsed)
        except Exception as exc:  # a fault of ours must not make an answer that was sent for look free
            text = f"{type(exc).__name__} while the answer was read"
        self._fail(_Failure(True, text, Signal.BROKEN), began, elapsed)
        return None

    def _fail(self, failure: _Failure, began: datetime, elapsed: float) -> None:
        self._last = failure
        self.signal = failure.signal
        # Where the callback came first, the question is answered, and charged once.
        charge = Charge.UNKNOWN if failure.left and self._called is None else Charge.FREE
        self._count(Attempt(charge, None, None, began, elapsed, failure.text, number=self._next))

    async def _begin(self, journal: Journal, ends: float | None) -> Started | Busy | None:
        """Ask the ledger for leave. Else None, with `reply` or `error` set, or what to wait for before asking again."""
        problem = None
        try:
            verdict = await journal.begin(self._ask(None if ends is None else ends - clock.now()))
        except LedgerError as exc:
            problem = str(exc)
        else:
            if isinstance(verdict, Stored) and not self.accept(verdict):
                problem = "a reply in the ledger does not fit this version: use the version that wrote it"
        if problem is not None:
            self.error = self._problem(LedgerError, f"not sent: {problem}")
        elif isinstance(verdict, Held):
            self.error = self._held(verdict)
        elif isinstance(verdict, Exhausted):
            self.error = self._problem(BudgetExhaustedError, f"not sent: {verdict.why}")
        elif isinstance(verdict, Expected):
            self._since, self._awaits = verdict.since, True
        elif isinstance(verdict, Busy) and not (ends is None or clock.now() < ends):
            self.error = self._problem(NotSentError, "not sent: the same call is under way elsewhere; ask again later")
        elif isinstance(verdict, Started | Busy):
            return verdict
        return None

    def _ask(self, within: float | None = None) -> Ask:
        call, journal = self.call, self._options.journal
        assert journal is not None
        assert self.identity is not None
        return Ask(
            endpoint=call.endpoint.name,
            identity=self.identity,
            key=call.key,
            may_charge=self._may_charge(),
            reusable=not call.endpoint.never_charges or call.key is not None,
            reuse_for=journal.reuse_for,
            retry_unknown=None if call.endpoint.idempotent else self._options.retry.unknown,
            within=within,
            callback=None if self._inbox is None else journal.place(self._digits),
            patience=0.0 if self._inbox is None else self._inbox.patience,
            overdue=self._overdue,
        )

    def _held(self, held: Held) -> AISolutionError:
        attempt, name = held.attempt, self.call.endpoint.name
        is_own = any(own.charge is Charge.UNKNOWN and own.started_at == attempt.started_at for own in self.attempts)
        when = f"an attempt of {attempt.started_at:%Y-%m-%d %H:%M} UTC"
        again = f"retry_unknown={held.attempts}"
        if attempt.charge is Charge.CHARGED:
            text = f"{when} was charged, as somebody settled, and its answer is lost: {again} buys it again"
        else:
            text = (
                f"{when} may have been charged, and nobody knows its answer; settle it in the ledger, or send it "
                f"again with {again}"
            )
        return OutcomeUnknownError(
            f"{name}: not sent{' again' if is_own else ''}: {text}",
            status=attempt.status,
            message=None if held.reply is None else json.loads(held.reply),
            http_status=attempt.http_status,
            recorded=None if is_own else attempt,
            holds=held.attempts,
            endpoint=name,
            key=self.call.key,
            attempts=self.attempts,
        )

    async def _record(self, started: Started, *, sent: bool = True, answer: envelope.Answer[R] | None = None) -> None:
        """Put the newest request's attempt into the ledger, with what was answered."""
        journal = self._options.journal
        assert journal is not None
        final = self.reply is not None and self.reply.is_answer
        of_another, echo = answer is not None and answer.of_another, self._sender.echo
        recorded = True
        result = Result(
            self.attempts[self._own - 1],
            sent=sent,
            reply=self._to_record(answer),
            answer=final,
            expected=self._awaits,
            holds=echo.holds or not of_another,
        )
        if of_another:
            echo.keep(journal, started, result)
        try:
            await journal.end(started, result)
        except AISolutionError as exc:
            recorded = False
            name, attempt = self.call.endpoint.name, self.attempts[self._own - 1]
            told = {"endpoint": name, "attempt": attempt.number, "charge": attempt.charge.value}
            _log.error("%s: an attempt that was made is not recorded: %s", name, exc, extra=told)
        attempts = list(self.attempts)
        attempts[self._own - 1] = dataclasses.replace(attempts[self._own - 1], recorded=recorded)
        self.attempts = tuple(attempts)
        if of_another:
            with anyio.CancelScope(shield=True):
                for store, held, found in echo.let_go():
                    # A ledger that is closed, or fails, keeps the hold: the safe way to be wrong.
                    with contextlib.suppress(AISolutionError):
                        await store.end(held, dataclasses.replace(found, holds=False))

    def _to_record(self, answer: envelope.Answer[R] | None) -> bytes | None:
        """What the ledger keeps of the answer: JSON, without secrets."""
        if self.reply is not None:
            text = self.reply.to_record()
        elif answer is not None and (answer.status == "OK" or answer.charge is Charge.UNKNOWN):
            # What does not fit, or cannot be read, was probably paid for.
            if answer.message is None and answer.status is None:
                return None
            text = json.dumps(without_secret_fields(answer.message))
        else:
            return None
        if self._redact(text) != text:  # a secret is somewhere in it: what is text there is redacted, and nothing else
            text = json.dumps(redacted(json.loads(text), self._redact), ensure_ascii=False)
        return text.encode(errors="replace")

    def _redact(self, text: str) -> str:
        text = self._sender.requests.redact(text)
        return text if self._inbox is None else self._inbox.redact(text)

    # --------------------------------------------------------------------------------------- answers by callback

    @property
    def digits(self) -> str:
        """The number that was asked for, as an inbox knows it."""
        return self._digits

    @property
    def awaits_callback(self) -> bool:
        """Whether the answer may come by callback: nothing need be done until it is late."""
        return self._awaits

    def _asked_for_callback(self) -> bool:
        """Whether the newest request asked for a callback, and is not answered."""
        if self._inbox is None or self._overdue or self._called is not None:
            return False
        if isinstance(self.reply, WhatsAppProfile):
            return self.reply.whatsapp == WhatsAppState.CHECKING
        return self.attempts[self._own - 1].charge is Charge.UNKNOWN

    @property
    def patience_left(self) -> float:
        """Seconds until the callback is late."""
        assert self._inbox is not None
        if self._since is None:  # who asks in this call's place looks after it
            return math.inf
        return max(self._inbox.patience - (clock.today() - self._since) / timedelta(seconds=1), 0.0)

    def give_up_callback(self) -> bool:
        """The callback is late. Whether the number is to be asked for again: without one.

        It is not where the attempt that asked for it was lost: what may have been charged is not sent again unasked.
        """
        retry, lost = self._options.retry, isinstance(self.error, OutcomeUnknownError)
        self._awaits = False
        if lost and not retry.allows(self.call.endpoint, self.attempts, since=self._round, repeatable=True):
            return False
        self._overdue = True
        self._form = None
        if lost:
            self.error = None
        else:
            self.ask_again()
        return True

    async def called_back(self, reply: WhatsAppProfile, callbacks: Sequence[str]) -> bool:
        """See `inbox.Waiting`."""
        journal, charges = self._options.journal, self._options.charges_of(self.call.endpoint)
        result = result_of(reply, self._since or clock.today(), charges, number=self._next)
        recorded = None
        self._delivering = asyncio.Event()
        try:
            if journal is not None:
                places = [journal.place(digits) for digits in dict.fromkeys((self._digits, *callbacks))]
                recorded = await journal.deliver(places, result)
            if recorded is not False:  # else it was answered before
                self._count(dataclasses.replace(result.attempt, recorded=recorded, number=self._next), own=False)
                self._tell(len(self.attempts))
                self._charge_callback(result.attempt.charge)
            self._answer(reply)
        finally:
            self._delivering.set()
            self._delivering = None
        return recorded is not False

    def _charge_callback(self, charge: Charge) -> None:
        budgets, self._reserved = self._reserved, ()
        for budget in budgets:
            budget.settle(self.call.endpoint.name, charge)
        if not (budgets or self._flying or self._covered) and charge is not Charge.FREE:
            for budget in self._options.budgets:
                budget.add(self.call.endpoint.name)

    def _answer(self, reply: WhatsAppProfile) -> None:
        self._awaits, self.error = False, None
        self._called = self.reply = cast("R", reply.model_copy())._made_by(self.attempts)  # noqa: SLF001
        if self.call_back is not None:
            self.call_back()

    def follow(self, reply: WhatsAppProfile | None, error: AISolutionError | None) -> None:
        """See `inbox.Waiting`."""
        if reply is not None:
            self._answer(reply)
            return
        self._awaits = False
        if isinstance(error, OutcomeUnknownError):
            text = f"not sent: another call asked the same, and that ended so: {error}"
            self.error = self._problem(OutcomeUnknownError, text)
        if self.call_back is not None:
            self.call_back()

    def leave_inbox(self, *, share: bool) -> None:
        """The call is over. `share`: whether others that wait for the number are to have what came of it."""
        if self._inbox is not None and self._digits:
            reply = self.reply if isinstance(self.reply, WhatsAppProfile) else None
            error = self.error if isinstance(self.error, OutcomeUnknownError) else None
            self._inbox.forget(self, *(reply, error) if share else ())
        if self._reserved:
            # A callback may come after another answer, and be charged: what is set aside stays so until it is late.
            late = 0.0 if self._called is not None or self._overdue else self.patience_left
            release = functools.partial(_release, self._reserved, self.call.endpoint.name)
            asyncio.get_running_loop().call_later(late, release) if 0 < late < math.inf else release()
        self._reserved, self._awaits = (), False

    # ------------------------------------------------------------------------------------------------ the end

    def conclude(self, text: str) -> None:
        """End the call as it stands: by what its last attempt came to, or by why there was none."""
        name, key, last = self.call.endpoint.name, self.call.key, self._last
        if last is None and self._checking is not None:
            self.reply = self._checking
            return
        if isinstance(last, envelope.Answer):
            self.error = last.error(name, key, self.attempts)
            return
        if last is not None and last.left:
            text = f"{name}: sent, but no usable answer came, and it may have been charged: {last.text}"
            holds = sum(attempt.charge is Charge.UNKNOWN for attempt in self.attempts)
            self.error = OutcomeUnknownError(text, endpoint=name, key=key, attempts=self.attempts, holds=holds)
            return
        kind: type[AISolutionError] = NotSentError
        if last is not None:
            text, kind = last.text, last.refusal or kind
        self.error = kind(f"{name}: not sent: {text}", endpoint=name, key=key, attempts=self.attempts)

    def _read(self, response: _Response, began: datetime, elapsed: float) -> envelope.Answer[R]:
        """What was answered, counted; `reply` is set if it is one."""
        endpoint: Endpoint[R] = self.call.endpoint
        answer = envelope.read(
            endpoint,
            response.http_status,
            response.body,
            retry_after=response.retry_after,
            rules=self._options.rules.get(endpoint.name),
            redact=self._redact,
        )
        if response.early and not answer.refuses:
            why = "an answer came before the request was out, so that it is another request's"
            answer = envelope.not_ours(answer, response.body, why, redact=self._redact)
        elif isinstance(answer.reply, WhatsAppProfile) and self._sender.echo.is_another(
            self._digits, answer.reply.number
        ):
            why = "answered OK, but for another number than was asked"
            answer = envelope.not_ours(answer, response.body, why, redact=self._redact, of_another=True)
            self._doubt(response)
        self._last = answer
        if answer.kind is RetryLaterError:
            self.signal, self.retry_after = Signal.OVERLOADED, answer.retry_after
            if answer.retry_after:
                pause = clock.now() + min(answer.retry_after, LONGEST_PAUSE)
                self._sender.paused_until = max(self._sender.paused_until, pause)
        else:
            self.signal = Signal.BROKEN if answer.body is not None else Signal.ANSWERED
        status, problem = answer.status, None
        if answer.reply is None:
            problem = answer.text
            if status is not None and status not in endpoint.charges:
                # It may be anything, even what the vendor was sent: the record keeps plain words.
                status = quotable(status)[:80]
        charge = answer.charge
        if self._called is not None and charge is Charge.CHARGED:
            charge = Charge.FREE  # the callback came first, and said the same: that is charged once
        self._count(Attempt(charge, status, answer.http_status, began, elapsed, problem, number=self._next))
        self.reply = answer.reply
        if answer.status in endpoint.done_already and any(a.charge is Charge.UNKNOWN for a in self.attempts):
            self.reply = endpoint.reply.from_message(None)
        return answer

    def _doubt(self, response: _Response) -> None:
        """An answer was about another number. On a connection that was used before, it may be the one to that use."""
        sender = self._sender
        if (
            response.reused
            and isinstance(sender.transport, PoolTransport)
            and sender.transport.distrust(sender.requests.origin)
            and sender.echo.state is Seen.ECHO
        ):
            name = self.call.endpoint.name
            text = "%s: an answer is about another number than was asked: each request gets a connection of its own now"
            _log.error(text, name, extra={"endpoint": name})

    def _load(self, identify: bool) -> list[tuple[str, str | bytes]] | InputError:
        """What the form is made of: files read, texts checked."""
        try:
            fields: list[tuple[str, str | bytes]] = []
            for parameter in self.call.endpoint.parameters:
                value = getattr(self._call, parameter.name)
                if parameter.name == "callback" and self._inbox is not None and not self._overdue:
                    value = self._inbox.url
                if value is None and not parameter.required:
                    continue
                if parameter.kind is Kind.IMAGE:
                    most = LARGEST_FILE if self._options.fit else self._options.max_image_bytes
                    data = images.load(value, name=parameter.name, max_bytes=most)
                    if hasattr(value, "read"):  # it can be read once; another attempt needs it again
                        again: dict[str, Any] = {parameter.name: data}
                        self._call = dataclasses.replace(self._call, **again)
                    fields.append((parameter.name, data))
                elif parameter.kind is Kind.NUMBER:
                    number = self._number(value, parameter.name)
                    self._digits = digits_of(number)
                    fields.append((parameter.name, number))
                elif (text := _TEXTS[parameter.kind](value, name=parameter.name)) is not None:
                    fields.append((parameter.name, text))
            if identify and self.identity is None:
                self.identity = self._identify(fields)
        except InputError as exc:
            text = str(exc)
        else:
            return fields
        # Made anew: the frames of the first one hold the image.
        return InputError(text, endpoint=self.call.endpoint.name, key=self.call.key)

    def _number(self, number: object, name: str) -> str:
        country = getattr(self._call, "country", None)
        if country is not None:
            country = texts.country(country, name="country")
        return numbers.normalise(number, name=name, country=country, strict=self._options.strict_numbers)

    def _identify(self, fields: list[tuple[str, str | bytes]]) -> bytes:
        """16 bytes that two calls share when they ask the same: same endpoint, same images, same number."""
        endpoint, journal = self.call.endpoint, self._options.journal
        payload: list[tuple[str, str | bytes]] = []
        for name, value in fields:
            # A number in full says its country itself.
            if name in _HOW_NOT_WHAT or (name == "country" and self._is_international(fields)):
                continue
            if isinstance(value, bytes):
                # SHA-256 has instructions of its own on today's processors: 0.6 ms a megabyte, without the lock.
                payload.append((name, sha256(value).digest()))
            else:
                payload.append((name, value))
        if journal is not None:
            # What adds or deletes a face does something each time: it is the same only under the same key.
            # A pretended vendor's answers are not the vendor's.
            payload.insert(0, ("vendor", self._sender.requests.vendor))
            return journal.identity(endpoint.name, payload, self.call.key if endpoint.never_charges else None)
        digest = blake2b(endpoint.name.encode(), digest_size=16)
        for name, value in payload:
            data = value.encode() if isinstance(value, str) else value
            digest.update(b"\0%s\0%d\0" % (name.encode(), len(data)))
            digest.update(data)
        return digest.digest()

    def _is_international(self, fields: list[tuple[str, str | bytes]]) -> bool:
        return any(name == "number" and isinstance(value, str) and value[:1] == "+" for name, value in fields)

    async def _exchange(self, form: Form, flight: Flight) -> _Response | _Failure:
        """One request and its answer. Every foreign error is translated here, and none goes further."""
        sender = self._sender
        transport, requests, timeout = sender.transport, sender.requests, self._options.timeout
        name = self.call.endpoint.name
        if _is_over(flight.deadline):
            return _Failure(False, "the deadline passed before it could be sent")
        try:
            if isinstance(transport, PoolTransport):  # it keeps the deadline itself, at less cost
                received = await transport.exchange(
                    requests.origin, requests.head(name, form), form, form.length, flight=flight, timeout=timeout
                )
                status, headers, body, early, reused = received
                return _Response(status, _retry_after(headers), body, early, reused)
            extensions: dict[str, Any] = {"timeout": timeout, "aisolution.flight": flight}
            if isinstance(transport, httpx.AsyncHTTPTransport):
                flight.left = False
                extensions["trace"] = _watch(flight)
            async with asyncio.timeout_at(flight.deadline):
                return await _respond(transport, requests.make(name, form, extensions))
        except Refused as exc:
            return _Failure(False, str(exc), refusal=exc.error)
        except Exception as exc:  # whatever a transport raises, the money question is the same
            left = not isinstance(exc, _NEVER_LEFT) if flight.left is None else flight.left
            text = _explain(exc, timeout, requests.redact, over=_is_over(flight.deadline))
            busy = isinstance(exc, TimeoutError | httpx.TimeoutException)
            return _Failure(left, text, Signal.OVERLOADED if busy else Signal.BROKEN)

    def _count(self, attempt: Attempt, *, own: bool = True) -> None:
        self.attempts = (*self.attempts, attempt)
        if own:
            self._own = attempt.number
        name = self.call.endpoint.name
        self._sender.tally.add(name, attempt.charge)
        if self._tally is not None:
            self._tally.add(name, attempt.charge)
        if _log.isEnabledFor(logging.DEBUG):
            # Neither an undocumented status nor an error's text: they may hold the vendor's words.
            status = attempt.status if attempt.status in self.call.endpoint.charges else None
            told = {
                "endpoint": name,
                "attempt": attempt.number,
                "charge": attempt.charge.value,
                "status": status,
                "http_status": attempt.http_status,
                "elapsed": attempt.elapsed,
            }
            text = "%(endpoint)s attempt %(attempt)d: %(charge)s, %(status)s, HTTP %(http_status)s, %(elapsed).3f s"
            _log.debug(text, told, extra=told)

    def _tell(self, number: int) -> None:
        """Tell the user's hook of an attempt."""
        if self._options.on_attempt is not None:
            call_hook(self._options.on_attempt, self.call, self.attempts[number - 1])

    def _again(self, retry_after: float | None, ends: float | None, *, repeatable: bool) -> float | None:
        """Seconds to wait before another attempt; None if there may be none, or no time for one."""
        retry = self._options.retry
        if self._is_stopped:
            return None
        forgiven = self.trial and repeatable and self.attempts[-1].charge is Charge.FREE
        if not forgiven and not retry.allows(
            self.call.endpoint, self.attempts, since=self._round, repeatable=repeatable
        ):
            return None
        if forgiven:
            self._round = len(self.attempts)
        if self._waits is None:
            self._waits = retry.waits()
        asked = retry_after or 0.0
        left = math.inf if ends is None else ends - clock.now()
        if asked >= left:
            return None
        wait = min(asked, LONGEST_PAUSE) + next(self._waits)
        return wait if wait < left else asked


def _release(budgets: tuple[Budget, ...], endpoint: str) -> None:
    for budget in budgets:
        budget.settle(endpoint, Charge.FREE)


def call_hook(hook: Callable[..., object], *arguments: object) -> None:
    """Call what the user gave. Its errors are logged and go no further: no call may suffer for them."""
    try:
        hook(*arguments)
    except Exception as exc:  # it is the user's code
        # Not its text: it may quote what the hook was given.
        _log.error("a hook failed: %s", type(exc).__name__, extra={"error": type(exc).__name__})


@dataclass(slots=True)
class _Response:
    http_status: int
    retry_after: str | None
    body: bytes = field(repr=False)
    early: bool = False
    """Whether it came before the request was out: as far as the transport says."""
    reused: bool = False
    """Whether the connection was used before: as far as the transport says."""


@dataclass(slots=True)
class _Failure:
    left: bool
    text: str
    signal: Signal | None = None
    refusal: type[AISolutionError] | None = None
    """The error to end in at once; None if another attempt may fare better."""


# How the answer is to come does not make it another question.
_HOW_NOT_WHAT = frozenset({"callback", "servstatus"})

_TEXTS: Mapping[Kind, Callable[..., str | None]] = {
    Kind.COUNTRY: texts.country,
    Kind.URL: texts.url,
    Kind.TEXT: texts.text,
    Kind.FLAG: texts.flag,
}


def _is_small(call: Call[Any]) -> bool:
    """Whether there is nothing to read, and little to encode."""
    size = 0
    for parameter in call.endpoint.parameters:
        if parameter.kind is Kind.IMAGE:
            value = getattr(call, parameter.name)
            if not isinstance(value, bytes):
                return False
            size += len(value)
    return size < _AT_ONCE


async def _respond(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> _Response:
    response = await transport.handle_async_request(request)
    if response.is_stream_consumed:
        body = response.content
    else:
        try:
            chunks = []
            size = 0
            async for chunk in response.aiter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    break
            body = b"".join(chunks)
        finally:
            await response.aclose()
    if len(body) > MAX_ANSWER_BYTES:
        raise httpx.RemoteProtocolError("the answer is over 1 MiB")
    return _Response(response.status_code, response.headers.get("Retry-After"), body)


def _retry_after(headers: Headers) -> str | None:
    for name, value in headers:
        if len(name) == 11 and name.lower() == b"retry-after":
            return value.decode("latin-1")
    return None


def _watch(flight: Flight) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    """A trace for httpx's own transport: it says when the first byte of the request is about to leave."""

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        # A proxy is first asked for a tunnel by a request of its own.
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            flight.left = True

    return trace


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and clock.now() >= deadline


def _explain(exc: Exception, timeout: Mapping[str, float | None], redact: Callable[[str], str], *, over: bool) -> str:
    """What went wrong on the wire, in words that hold nothing of the request and nothing the server said."""
    if over and isinstance(exc, TimeoutError | httpx.TimeoutException):
        return "the deadline passed"
    for kind, name, what in _TIMEOUTS:
        if isinstance(exc, kind):
            return f"{what} within {timeout.get(name)} s"
    if isinstance(exc, httpx.ConnectError):
        lines = redact(str(exc)).splitlines()
        return f"no connection ({lines[0][:200] if lines else type(exc).__name__})"
    if isinstance(exc, httpx.RemoteProtocolError):
        return next((words for words, pattern in _FAULTS if pattern.search(str(exc))), _NO_ANSWER)
    if alert := refusal_of(exc) or refusal_of(exc.__cause__ or exc.__context__):
        return f"the server broke the TLS connection off: {alert}"
    hint = CERTIFICATE_HINT if isinstance(exc, httpx.NetworkError) and str(exc).endswith(CERTIFICATE_HINT) else ""
    return _WORDS.get(type(exc), type(exc).__name__) + hint


_TIMEOUTS = (
    (httpx.PoolTimeout, "pool", "no free connection"),
    (httpx.ConnectTimeout, "connect", "no connection"),
    (httpx.WriteTimeout, "write", "the request could not be written"),
    (httpx.ReadTimeout, "read", "no answer"),
)
_WORDS: Mapping[type[Exception], str] = {
    httpx.ReadError: "the connection broke before the answer was whole",
    httpx.WriteError: "the connection broke while the request was written",
    httpx.DecodingError: "the answer's compression is damaged",
}
# By what our pool, and h11 and h2 below httpx's own, say of them. Their words may quote the server.
_FAULTS = (
    ("the server closed the connection without answering", re.compile("without answering|without sending a response")),
    (
        "the server closed the connection before the answer was whole",
        re.compile("closed the connection within|without sending complete"),
    ),
    ("the answer is over 1 MiB, or its head over 64 KiB", re.compile("more than [0-9]+ bytes|over 1 MiB")),
)
_NO_ANSWER = "what the server sent is no HTTP answer"
