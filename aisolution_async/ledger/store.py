"""The interface of a ledger: what it is asked, what it answers, and what each operation promises.

A ledger is the journal of attempts. An attempt is *intended* before its first byte leaves, and ends as
*charged*, *free*, *not sent* or *unknown*. Callers use `Store` only, so a store that many machines share can
take the place of the SQLite file.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from aisolution_async import clock
from aisolution_async.charges import Attempt, Charge, besides_callback
from aisolution_async.errors import AISolutionError, ConfigurationError, Key

POLL = 0.2
"""Seconds between two looks at an attempt that another process has under way."""


class LedgerError(AISolutionError):
    """The ledger cannot be read or written. The text names the file and the remedy.

    From `begin`: nothing may be sent. From `end`: the answer is there, but it is not recorded.
    """


def problem_of(exc: BaseException) -> str:
    """What a store's exception is to a call: the text of a LedgerError, or nothing if it is to be raised as it is."""
    if isinstance(exc, asyncio.CancelledError):
        task = None
        with suppress(RuntimeError):  # on a thread that reads images
            task = asyncio.current_task()
        # Within the store something else was cancelled, and not this call.
        return "" if task is not None and task.cancelling() else "the ledger failed: what it waited for was cancelled"
    if isinstance(exc, AISolutionError | KeyboardInterrupt | SystemExit | GeneratorExit):
        return ""
    return f"the ledger failed: {type(exc).__name__}"  # not its text, which may quote what the store was given


class State(StrEnum):
    """How far an attempt got."""

    INTENDED = "intended"
    CHARGED = "charged"
    FREE = "free"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"

    __hash__ = str.__hash__  # that of an Enum is of its name, and written in Python


_STATES = {charge: State(charge) for charge in Charge}  # looked up for every attempt: an Enum takes its time
_NOT_SENT = State.NOT_SENT


# ------------------------------------------------------------------------------------------ question and answers


@dataclass(frozen=True, slots=True)
class Ask:
    """May this attempt be made?

    `identity` is from `Store.identity`; `key` is the user's, for the record. `may_charge`: whether any answer
    of this endpoint is charged, so that a charge has to be reserved. `reusable=False`: neither answered from the
    ledger nor held nor made to wait for another like it. `reuse_for`: how old an answer may be to be used
    again, in seconds; None for any age. `retry_unknown`: how many attempts that hold the question it may pass, the
    call's own and those of others together; None for any number. `within`: seconds that the attempt may take at most,
    None where nobody can tell. `callback`: what the answer is known by if it comes by callback, from `Store.identity`;
    None where it cannot, and for what is not `reusable`; `patience`: seconds that the callback may take. `overdue`: do
    not wait any longer for the callback of an earlier attempt.
    """

    endpoint: str
    identity: bytes
    key: Key = None
    may_charge: bool = True
    reusable: bool = True
    reuse_for: float | None = None
    retry_unknown: int | None = 0
    within: float | None = None
    callback: bytes | None = None
    patience: float = 120.0
    overdue: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What came of an attempt.

    `sent`: whether a byte of it may have left. `reply`: the vendor's reply as JSON, without its group id;
    `answer`: whether that reply answers the call, so that it need not be asked again. `expected`: whether the answer
    may still come by callback. `holds`: whether the attempt, where its charge is UNKNOWN, holds its question.
    """

    attempt: Attempt
    sent: bool = True
    reply: bytes | None = None
    answer: bool = False
    expected: bool = False
    holds: bool = True

    @property
    def state(self) -> State:
        """The attempt's last state."""
        return _STATES[self.attempt.charge] if self.sent else _NOT_SENT

    @property
    def answers(self) -> bool:
        """Whether it brought an answer that is kept: no attempt holds the question any more, this one neither."""
        return self.answer and self.reply is not None

    @property
    def state_besides_callback(self) -> State:
        """The same, where a callback answered the question before the attempt ended, and has its charge."""
        if not self.sent:
            return State.NOT_SENT
        return State(besides_callback(self.attempt.charge, arrived=self.attempt.http_status is not None))


class Lease:
    """How long who opened a shared ledger is taken to be alive, and may send what it has leave for."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = -math.inf
        """On `clock.continuous`."""

    def is_good(self) -> bool:
        """Whether it is so now."""
        return clock.continuous() < self.until


class Share:
    """What part of a contractual rate is for who opened a ledger: the whole of it, where machines share none."""

    __slots__ = ("part",)

    def __init__(self) -> None:
        self.part = 1.0


WHOLE = Share()


@dataclass(frozen=True, slots=True)
class Started:
    """The intent is recorded and safe on disk: send, then tell `end` what came of it.

    With a `lease`, no byte may leave once that is good no more: others may have taken this process for dead.
    """

    id: int
    ask: Ask
    price: int = 0
    """What a charge costs, in millionths."""
    lease: Lease | None = field(default=None, repr=False, compare=False)
    borrows: bool = False
    """Whether its charge is the one that was set aside for a callback, which is late."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Answered before: `reply` is the JSON that was recorded, `attempt` the attempt that brought it."""

    reply: bytes = field(repr=False)
    attempt: Attempt

    @property
    def answered_at(self) -> datetime:
        """When the answer came, in UTC."""
        return self.attempt.started_at + timedelta(seconds=self.attempt.elapsed)


@dataclass(frozen=True, slots=True)
class Held:
    """The question is held: no answer came of an attempt that may have been charged, or was. Nothing may be sent.

    `attempts` is how many such attempts there are, and `attempt` the last of them. `reply` is what came of it and did
    not fit the contract, as JSON: the message, or the body as a text.
    """

    attempt: Attempt
    reply: bytes | None = field(default=None, repr=False)
    attempts: int = 1


class Busy:
    """The same call is under way. `await wait()`, then ask again."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended: asyncio.Event | None = None
        """Set when the attempt has ended; None where it is another process's."""

    async def wait(self) -> None:
        """Return when that attempt has ended, or when it is worth another look."""
        if self.ended is None:
            await clock.sleep(POLL)
        else:
            await self.ended.wait()


@dataclass(frozen=True, slots=True)
class Expected:
    """The same was asked before, and its answer is to come by callback; `since` says when. Nothing need be sent."""

    since: datetime


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The budget is used up, by charges, by attempts of unknown charge and by those under way. `why` says how."""

    why: str


Verdict = Started | Stored | Held | Busy | Expected | Exhausted
"""What `begin` answers."""


class _OpenResult:
    """A `Result` while it is made."""

    __slots__ = ("answer", "attempt", "expected", "holds", "reply", "sent")


class _OpenAsk:
    """An `Ask` while it is made."""

    __slots__ = (
        "callback",
        "endpoint",
        "identity",
        "key",
        "may_charge",
        "overdue",
        "patience",
        "retry_unknown",
        "reusable",
        "reuse_for",
        "within",
    )


class _OpenStarted:
    """A `Started` while it is made."""

    __slots__ = ("ask", "borrows", "id", "lease", "price")


def ask_of(
    endpoint: str,
    identity: bytes,
    *,
    key: Key,
    may_charge: bool,
    reusable: bool,
    reuse_for: float | None,
    retry_unknown: int | None,
    within: float | None,
    callback: bytes | None,
    patience: float,
    overdue: bool,
) -> Ask:
    """An `Ask`, as `charges.attempt_of` makes an `Attempt`."""
    made: Any = _OpenAsk()
    made.endpoint, made.identity, made.key = endpoint, identity, key
    made.may_charge, made.reusable, made.reuse_for, made.retry_unknown = may_charge, reusable, reuse_for, retry_unknown
    made.within, made.callback, made.patience, made.overdue = within, callback, patience, overdue
    made.__class__ = Ask
    return made  # type: ignore[no-any-return]  # what it is from now on


def result_of(
    attempt: Attempt, reply: bytes | None, *, sent: bool, answer: bool, expected: bool, holds: bool
) -> Result:
    """A `Result`, likewise."""
    made: Any = _OpenResult()
    made.attempt, made.sent, made.reply, made.answer = attempt, sent, reply, answer
    made.expected, made.holds = expected, holds
    made.__class__ = Result
    return made  # type: ignore[no-any-return]  # what it is from now on


def started_of(id_: int, ask: Ask, price: int) -> Started:
    """A `Started` without a lease, likewise."""
    made: Any = _OpenStarted()
    made.id, made.ask, made.price, made.lease, made.borrows = id_, ask, price, None, False
    made.__class__ = Started
    return made  # type: ignore[no-any-return]  # what it is from now on


# --------------------------------------------------------------------------------------------------- the read side


@dataclass(frozen=True, slots=True)
class Record:
    """An attempt as it stands in the ledger.

    `elapsed` is in seconds. `cost` is what it costs or, while nobody knows, may cost; 0 without prices.
    """

    id: int
    endpoint: str
    key: Key
    state: State
    status: str | None
    http_status: int | None
    started_at: datetime
    elapsed: float
    error: str | None
    cost: Decimal
    reply: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Line:
    """How many attempts of one kind on one day (UTC), and what they cost or may cost together."""

    endpoint: str
    day: date
    state: State
    status: str | None
    attempts: int
    cost: Decimal


@dataclass(slots=True)
class Sum:
    """Counts of attempts. `cost` is that of the charged ones, `at_risk` that of the unknown and those under way."""

    intended: int = 0
    charged: int = 0
    free: int = 0
    not_sent: int = 0
    unknown: int = 0
    cost: Decimal = Decimal(0)
    at_risk: Decimal = Decimal(0)

    def add(self, line: Line) -> None:
        """Count `line` in."""
        name = line.state.replace(" ", "_")
        setattr(self, name, getattr(self, name) + line.attempts)
        if line.state is State.CHARGED:
            self.cost += line.cost
        else:
            self.at_risk += line.cost


@dataclass(frozen=True, slots=True)
class Balance:
    """A ledger in numbers: `lines`, by endpoint, day, state and status.

    `held` is how many questions are held, `answers` how many attempts brought an answer that is still there, and
    `lost` how many charged ones brought one that is not there any more: it was purged, or the file is damaged.
    `max_charges` is the ledger's own limit, None for none.
    """

    lines: tuple[Line, ...]
    held: int
    answers: int
    lost: int = 0
    max_charges: int | None = None

    def by(self, *names: str) -> dict[tuple[object, ...], Sum]:
        """The sums for each combination of the named fields of `Line`: `by("day", "endpoint")`; `by()` for all."""
        sums: dict[tuple[object, ...], Sum] = {}
        for line in self.lines:
            sums.setdefault(tuple(getattr(line, name) for name in names), Sum()).add(line)
        return sums


# ---------------------------------------------------------------------------------------------------- the interface


class Store(ABC):
    """A ledger.

    States: new, open, closed for good. It belongs to the event loop that opened it. Every operation raises
    LedgerError where the store fails, and ConfigurationError where it is misused. A store with a thread of its own is a
    `clock.Worker`: tests that skip time then wait for it.
    """

    @abstractmethod
    async def open(self) -> None:
        """Make the ledger usable, creating or migrating it.

        Every attempt under way whose owner is not alive becomes UNKNOWN, before this returns. An owner is alive
        as long as its process is, and no longer: neither a reboot nor another process with its pid keeps it. Where
        nobody can tell, the attempt is under way until it must be over (`Ask.within`).

        Machines that share a ledger see nothing of each other's processes: there an owner is alive as long as it renews
        its lease. One that was wrongly taken for dead sends nothing any more that it had leave for (`Started.lease`),
        and goes on as a new owner; what comes of its attempts replaces UNKNOWN. Until such an attempt must be over, it
        is neither sent again nor settled as FREE.

        A ledger that is not what it was (emptied, replaced, older than it was, or short of a part of its files) is
        refused: what it forgot would be bought again.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Finish what was asked, and let go. Attempts of this owner that were never ended become UNKNOWN."""

    @abstractmethod
    def identity(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        """What makes two calls the same: 16 bytes, for the endpoint and the fields in their order.

        Images are given as decoded bytes (or a digest of them, always alike), texts as they are sent. Give `key`
        where calls of the same content are not the same call (addface, delface). The bytes say nothing to who
        lacks the ledger's own key. Pure and thread-safe, but it reads every byte: 1 ms a megabyte.
        """

    @abstractmethod
    async def begin(self, ask: Ask) -> Verdict:
        """Ask whether an attempt may be made, and record the intent if so.

        All of it is one atomic step among all users of the ledger, in this order: an answer that is young enough
        is `Stored`; a question whose answer is to come by callback is `Expected` (overdue, or asked without a callback,
        it goes on here); a question under way with a living owner is `Busy`, with a dead one becomes UNKNOWN; one that
        is held by more attempts than the call may pass is `Held`; where a charge is possible and `charged + unknown +
        under way` has reached the budget, the opening's or the ledger's own (`limit`), `Exhausted`. Otherwise the
        intent, and with it the reservation of one charge, is durable when `Started` is returned.

        An attempt holds its question, for every user of the ledger, from the moment that its charge is UNKNOWN or that
        somebody settles it as CHARGED without its answer. The hold ends by that attempt's own late answer, by a
        callback, by `resolve`, or by a usable answer to the question; never by another attempt that was free. A call
        passes as many holding attempts, its own and those of others together, as `Ask.retry_unknown` says.

        When cancelled, an intent that was recorded is ended as not sent.
        """

    @abstractmethod
    async def end(self, started: Started, result: Result) -> None:
        """Record what came of an attempt: outcome, reply and the use of its reservation, in one atomic step.

        Durable when this returns. It is on its way from the first step of this coroutine: cancelling the wait
        takes nothing back. Ending twice does no harm: the first reply counts, and `holds=False` lifts the hold of an
        attempt that is UNKNOWN. When it raises, the attempt stays under way, with its reservation; the store tries
        again by itself with the next operation, and when it is closed.
        """

    @abstractmethod
    async def deliver(self, callbacks: Sequence[bytes], result: Result) -> bool:
        """Record an answer that came by callback. False, with nothing recorded, if it is not waited for.

        `callbacks` is what it may have been asked for by: the first, or the only one of the others that is waited for.
        One atomic step, durable when this returns: the first answer counts. Its charge is the one of the attempt that
        asked for the callback, where that is under way or has no answer (which this settles), else the one set aside.
        Where more than one question waits for it (one number, written two ways), it answers all, and is charged once.
        One that comes in time, and after another answer to the question, is UNKNOWN, and holds nothing.
        """

    @abstractmethod
    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        """What is stored for each of these: the answer that `begin` would give, None where it would give another.

        A look that records nothing and promises nothing: many calls for the price of one.
        """

    @abstractmethod
    async def resolve(self, call: Key | bytes, charge: Charge, *, attempt: int | None = None) -> int:
        """Settle by hand every UNKNOWN attempt of a user's key (or of an identity, in bytes) as CHARGED or FREE.

        So is what still waits for a callback. With `attempt`, the one of that id (`Record.id`), whatever its key.
        Returns how many. Atomic and durable. An attempt settled as FREE holds its question no longer. One settled as
        CHARGED was paid for, and its answer is lost: it goes on holding, so that nothing buys the answer again unasked;
        a callback can still bring it.
        """

    @abstractmethod
    async def purge(self, older_than: timedelta | float) -> int:
        """Remove the replies, and the identities, of attempts that ended longer ago than this (seconds).

        What has waited longer than this for a callback waits no more. Returns how many attempts were emptied. They are
        gone from the store's files when this returns; the counts stay. A purged call is unknown to the ledger: it would
        be sent, and paid for, again. Calls that are held stay held.
        """

    def watch(self, identity: bytes, waits: Callable[[], bool], tell: Callable[[], object]) -> None:  # noqa: B027
        """Call `tell`, once, when no callback to the question is to come any more, if it still `waits` then.

        Another process may have taken it. Who waits asks the store again. Stores that only one process has do nothing.
        """

    @property
    def share(self) -> Share:
        """What part of a contractual rate is for who opened this. Its `part` may change at any time.

        The parts of all who use a ledger at one time make the whole together, or less.
        """
        return WHOLE

    async def limit(self, max_charges: int | None) -> None:  # noqa: ARG002  # for those who keep one
        """Set how many charges there may ever be in this ledger, by whoever uses it; None for no limit of its own.

        It stays in the ledger. Of it and the `max_charges` of an opening, the smaller one holds.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no limit of its own: give max_charges where it is used")

    @abstractmethod
    def summary(self) -> Balance:
        """Counts and cost. This and the following need no loop and no `open`, and may run beside any writer."""

    @abstractmethod
    def attempts(self, *, unknown_only: bool = False) -> Iterator[Record]:
        """Every attempt, those under way included, oldest first; without replies."""

    @abstractmethod
    def held(self) -> Iterator[Record]:
        """The attempts that hold their question, oldest first: UNKNOWN, or settled as CHARGED.

        With what came and did not fit the contract: the message, or the body as a text.
        """

    @abstractmethod
    def answers(self) -> Iterator[Record]:
        """Every attempt that brought an answer, with its reply, oldest first.

        Also what did not fit the contract and may have been paid for: UNKNOWN, with its message, or its body as text.
        """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
