"""The store, during a call: what is asked of it, what its verdict means, and what is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar, get_args

import anyio

from aisolution_async import clock
from aisolution_async.charges import Attempt, Charge
from aisolution_async.checks import kind_of
from aisolution_async.echo import Echo
from aisolution_async.errors import AISolutionError, Key, OutcomeUnknownError
from aisolution_async.hiding import NotPickled, redacted, without_secret_fields
from aisolution_async.inbox import place
from aisolution_async.ledger.store import (
    POLL,
    Ask,
    Busy,
    Held,
    LedgerError,
    Result,
    Share,
    Started,
    Store,
    Stored,
    Verdict,
    problem_of,
)
from aisolution_async.sending.finding import Finding
from aisolution_async.wire import envelope

_log = logging.getLogger(__name__)

CLOSED = "the client was closed before it was sent"
GRACE = 5.0
"""Seconds that a closing journal waits for the attempts under way to be recorded."""

_VERDICTS: tuple[type[Any], ...] = get_args(Verdict)  # told from others in half the time that their union takes

P = ParamSpec("P")
T = TypeVar("T")


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
        self._users: set[object] = set()  # whose attempts are to be recorded
        self._unused = asyncio.Event()  # set when the last of them has left

    def reusing(self, reuse_for: float) -> Journal:
        """The same ledger with another `reuse_for`. Whoever has this one closes it."""
        view = Journal(self._store, owned=False, reuse_for=reuse_for)
        view._opener = self._opener or self
        return view

    @property
    def is_open(self) -> bool:
        """Whether `open` has nothing to wait for."""
        if self._opener is not None:
            return self._opener.is_open
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled():
            return not self._owned
        return opening.exception() is None

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

    def enter(self, user: object) -> None:
        """This call begins an attempt that it is to record. `leave` must follow."""
        if self._opener is not None:
            self._opener.enter(user)
        else:
            self._users.add(user)

    def leave(self, user: object) -> None:
        """The call has no attempt to record, or none any more."""
        if self._opener is not None:
            self._opener.leave(user)
            return
        self._users.discard(user)
        if not self._users:
            self._unused.set()

    async def aclose(self) -> None:
        """Wait until what is under way is recorded, for so long as that may take; close it, if it was opened here."""
        if self._users:
            self._unused.clear()
            with anyio.move_on_after(GRACE):
                await self._unused.wait()
        if self._opening is not None:
            await asyncio.wait({self._opening})
            await self._store.aclose()

    @property
    def share(self) -> Share:
        """See `Store.share`."""
        return self._store.share

    def watch(self, identity: bytes, waits: Callable[[], bool], tell: Callable[[], object]) -> None:
        """See `Store.watch`."""
        self._store.watch(identity, waits, tell)

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

    async def begin(self, ask: Ask) -> Verdict:
        """See `Store.begin`."""
        # As `_translated` does it, without a coroutine more for each call.
        try:
            verdict: Verdict = await self._store.begin(ask)
        except BaseException as exc:
            if not (problem := problem_of(exc)):
                raise
        else:
            if isinstance(verdict, _VERDICTS):
                return verdict  # type: ignore[no-any-return]  # what it was just found to be
            problem = f"the ledger failed: it answered with {kind_of(verdict)}, which is no verdict"
        raise LedgerError(problem)

    async def end(self, started: Started, result: Result) -> None:
        """See `Store.end`."""
        try:
            return await self._store.end(started, result)
        except BaseException as exc:
            if not (problem := problem_of(exc)):
                raise
        raise LedgerError(problem)

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


async def ended(busy: Busy) -> None:
    """Return when the same call elsewhere is over, or when it is worth another look."""
    try:
        await busy.wait()
    except BaseException as exc:
        if not problem_of(exc):
            raise
    else:
        return
    await clock.sleep(POLL)  # the next look tells what is wrong


def held_error(held: Held, endpoint: str, key: Key, attempts: tuple[Attempt, ...]) -> OutcomeUnknownError:
    """The error of a call that is not sent, since its question is held."""
    attempt = held.attempt
    is_own = any(own.charge is Charge.UNKNOWN and own.started_at == attempt.started_at for own in attempts)
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
        f"{endpoint}: not sent{' again' if is_own else ''}: {text}",
        status=attempt.status,
        message=None if held.reply is None else json.loads(held.reply),
        http_status=attempt.http_status,
        recorded=None if is_own else attempt,
        holds=held.attempts,
        endpoint=endpoint,
        key=key,
        attempts=attempts,
    )


async def record(journal: Journal, echo: Echo, started: Started, result: Result, *, of_another: bool) -> bool:
    """Put an attempt into the ledger. False, with a line in the log, if it cannot be.

    `of_another`: its answer is about another number than was asked. Such an attempt holds its question until `echo`
    knows better.
    """
    if of_another:
        echo.keep(journal, started, result)
    recorded = True
    try:
        await journal.end(started, result)
    except AISolutionError as exc:
        recorded = False
        name, attempt = started.ask.endpoint, result.attempt
        told = {"endpoint": name, "attempt": attempt.number, "charge": attempt.charge.value}
        _log.error("%s: an attempt that was made is not recorded: %s", name, exc, extra=told)
    if of_another:
        with anyio.CancelScope(shield=True):
            for store, held, found in echo.let_go():
                # A ledger that is closed, or fails, keeps the hold: the safe way to be wrong.
                with contextlib.suppress(AISolutionError):
                    await store.end(held, dataclasses.replace(found, holds=False))
    return recorded


def to_record(finding: Finding[Any], redact: Callable[[str], str]) -> bytes | None:
    """What the ledger keeps of an answer: JSON, without secrets; None where nothing need be kept."""
    answer = finding.source
    text: str
    if finding.reply is not None:
        text = finding.reply.to_record()
    elif isinstance(answer, envelope.Answer) and (answer.status == "OK" or answer.charge is Charge.UNKNOWN):
        # What does not fit, or cannot be read, was probably paid for.
        if answer.message is None and answer.status is None:
            return None
        text = json.dumps(without_secret_fields(answer.message))
    else:
        return None
    if redact(text) != text:  # a secret is somewhere in it: what is text there is redacted, and nothing else
        text = json.dumps(redacted(json.loads(text), redact), ensure_ascii=False)
    return text.encode(errors="replace")
