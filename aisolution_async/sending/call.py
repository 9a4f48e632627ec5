"""One call on its way: driven from state to state, until it is over or has to wait."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, assert_never, cast

import anyio

from aisolution_async import clock
from aisolution_async.api import Call, R, WhatsAppDetail, WhatsAppProfile
from aisolution_async.charges import Attempt, Charge, Tally, noted
from aisolution_async.echo import STOPPED, Seen
from aisolution_async.errors import (
    AISolutionError,
    BudgetExhaustedError,
    ConfigurationError,
    InputError,
    NotSentError,
    OutcomeUnknownError,
)
from aisolution_async.hiding import NotPickled
from aisolution_async.inbox import Inbox
from aisolution_async.ledger.store import (
    Ask,
    Busy,
    Exhausted,
    Expected,
    Held,
    LedgerError,
    Result,
    Stored,
    Verdict,
    ask_of,
    result_of,
)
from aisolution_async.ledger.store import Started as Intent
from aisolution_async.limits import Signal
from aisolution_async.retry import Course
from aisolution_async.sending import finding
from aisolution_async.sending.admission import Reservation, enter
from aisolution_async.sending.callback import Callback
from aisolution_async.sending.finding import Finding
from aisolution_async.sending.hooks import call_hook
from aisolution_async.sending.journal import CLOSED, Journal, ended, held_error, record, to_record
from aisolution_async.sending.options import Options
from aisolution_async.sending.prepare import Means, Read, is_small, read
from aisolution_async.sending.shared import Shared
from aisolution_async.sending.states import (
    NEW,
    RESTING,
    UNSENT,
    Admitted,
    Again,
    Awaiting,
    Following,
    Found,
    New,
    Over,
    Prepared,
    Resting,
    Started,
    State,
)
from aisolution_async.wire.exchange import Lost, exchange, loss_of
from aisolution_async.wire.form import Form
from aisolution_async.wire.reply_headers import support_headers
from aisolution_async.wire.transport import Flight, PoolTransport, Response

_log = logging.getLogger(__name__)

_CONVENTION = Seen.CONVENTION  # looked up for every attempt: an Enum takes its time


class Sending(NotPickled, Generic[R]):
    """One call on its way: `step()` until `state` is `Over`. See `states` for what it goes through.

    `tally` is the batch's, None for a single call; `inbox` is where its callback arrives, if it names none of its own.
    """

    __slots__ = (
        "_checking",
        "_last",
        "_options",
        "_reservation",
        "_shared",
        "_source",
        "_tally",
        "attempts",
        "call",
        "callback",
        "course",
        "digits",
        "identity",
        "state",
    )

    def __init__(
        self,
        shared: Shared,
        options: Options,
        call: Call[R],
        tally: Tally | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.call = call
        self.state: New | Prepared | Resting[R] = NEW
        self.attempts: tuple[Attempt, ...] = ()
        self.identity: bytes | None = None
        """What makes another call the same question; known once it is prepared with `identify=True`."""
        self.digits = ""
        """The number that it asks for, as an inbox knows it."""
        self.course = Course(options.retry, options.deadline)
        self.callback: Callback | None = None
        if inbox is not None and isinstance(call, WhatsAppDetail) and not call.callback:
            self.callback = Callback(self, inbox)
        self._reservation: Reservation | None = None
        if options.budgets and options.may_charge(call.endpoint):
            self._reservation = Reservation(options.budgets, call.endpoint.name)
        self._source = call  # with bytes in place of files that can be read once
        self._shared = shared
        self._options = options
        self._tally = tally
        self._last: Finding[R] | None = None  # of the newest attempt in this round of asking, if it brought no reply
        self._checking: R | None = None  # a reply that is no answer yet, and is asked for again

    # ------------------------------------------------------------------------------------------- a call by itself

    def try_enter(self) -> bool:
        """Take a place for its first attempt, if nothing has to be waited for."""
        return self.state is NEW and self._shared.rate is None and self._shared.gate.try_enter()

    async def enter(self) -> bool:
        """Wait until its next attempt may be made, and take a place before any batch does. False if it is over."""
        if isinstance(self.state, Again):
            await self.rest(self.state.wait)
        if self._barred() is not None:
            return False
        late = await enter(self._shared, self.course, self._options.timeout.get("pool"))
        if late:
            self._last = finding.of_loss(Lost(False, late))
            self._tell(self._count(self._last.attempt(clock.today(), 0.0, self.next_number)))
            self.conclude("")
        return not late

    async def rest(self, wait: float | Busy) -> None:
        """Wait before the next attempt: so many seconds, or until the same call elsewhere is over, or the deadline."""
        if not isinstance(wait, Busy):
            await clock.sleep(wait)
            return
        start = clock.now()
        try:
            with anyio.move_on_after(self.course.left):
                await ended(wait)
        finally:
            self.course.spend(clock.now() - start)

    # ------------------------------------------------------------------------------------------------ the driver

    async def step(self, *, trial: bool = False) -> Resting[R]:
        """Make one attempt, unless the call can end without one. Returns the state that it rests in then.

        The time spent here and the wait that follows count against the call's deadline; what passes between the end of
        that wait and the next step does not. `trial`: the attempt only tries whether the vendor is there again, and
        uses up no repeat. When cancelled, the attempt is counted, and is UNKNOWN if a byte may have left.
        """
        shared, options = self._shared, self._options
        if shared.closed and (barred := self._barred()) is not None:
            return barred
        began = clock.now()
        ends = self.course.ends(began)
        state: State[R] = self.state if isinstance(self.state, Prepared) else NEW
        state = self._start_at_once(state, began, ends) or state
        answer: Response | Lost | None = None
        try:
            if isinstance(state, UNSENT):
                state = await self._get_leave(state, ends)
            if isinstance(state, Started):
                flight, name = state.flight, self.call.endpoint.name
                try:
                    answer = await exchange(
                        shared.transport, shared.requests, name, state.form, flight, options.timeout
                    )
                except Exception as exc:
                    answer = loss_of(exc, flight, options.timeout, shared.requests.redact)
                if self.callback is not None:
                    await self.callback.settled()
                state = self._find(state, answer)
            if isinstance(state, Found):
                if state.intent is not None:
                    await self._record(state)
                found, state = state, self._ended(state.finding)  # which it is, should the hook not return
                if options.on_attempt is not None:
                    self._tell(found.number)
                state = self._decide(found.finding, state, ends, trial)
        except BaseException as exc:
            await self._cut_off(state, answer, exc)
            raise
        finally:
            rests = self._rest(state, None if trial or ends is None else began)
        assert rests is not None
        return rests

    async def _get_leave(self, state: New | Prepared, ends: float | None) -> Started | Found[R] | Resting[R]:
        """What it takes until the call may go out, or ends before that."""
        reached: State[R] = state
        while True:
            match reached:
                case New():
                    reached = await self._prepare(identify=self._options.journal is not None)
                case Prepared():
                    reached = await self._admit(reached)
                case Admitted():
                    reached = await self._begin(reached, ends)
                case _:
                    return reached

    async def _cut_off(self, state: State[R], answer: Response | Lost | None, exc: BaseException) -> None:
        """An attempt that was cancelled is counted and recorded all the same: by its `answer`, if that is there.

        Where the program is to end at once, there is no time to record it: a ledger has its intent.
        """
        if not isinstance(state, Started):
            return
        answer = answer or state.flight.answer or Lost(state.flight.left is not False, "cancelled")
        if not isinstance(exc, asyncio.CancelledError):
            self._rest(self._find(state, answer), None)
            return
        with anyio.CancelScope(shield=True):
            try:
                if self.callback is not None:
                    await self.callback.settled()
            finally:  # also when it is cancelled once more
                found = self._find(state, answer)
                try:
                    await self._record(found)
                finally:
                    self._rest(found, None)

    def _barred(self) -> Over[R] | None:
        """The end of a call whose client cannot be used any more: what was sent must not be forgotten.

        None if the client can be used. Raises ConfigurationError where nothing was sent.
        """
        try:
            self._shared.check()
        except ConfigurationError as exc:
            if not self.attempts:
                raise
            return self.conclude(str(exc))
        return None

    def _rest(self, state: State[Any], began: float | None) -> Resting[R] | None:
        """The step is over, or was cut off in `state`. `began` is when it began, None if its time does not count."""
        number = 0
        if isinstance(state, Found):  # cut off when it was counted
            number, state = state.number, self._ended(state.finding)
        if self._options.journal is not None:
            self._options.journal.leave(self)
        rests: Resting[R] | None = None
        if isinstance(state, RESTING):
            if began is not None and not (isinstance(state, Over) and state.reply is not None):
                self.course.spend(clock.now() - began + (state.seconds if isinstance(state, Again) else 0.0))
            self.state = rests = state if self.callback is None else self._unless_called_back(state)
        if self._reservation is not None:
            callback = self.callback
            self._reservation.attempt_over(
                may_come=callback is not None and callback.may_come,
                overdue=callback is not None and callback.is_overdue,
            )
        if number:
            self._tell(number)  # last: the hook may raise what ends the program
        return rests

    def _unless_called_back(self, state: Resting[R]) -> Resting[R]:
        """`state`, or the answer that came by callback meanwhile. An answer to the request is as good."""
        return state if _is_answered(state) else self._called_back(state.signal) or state

    def _called_back(self, signal: Signal | None = None) -> Over[R] | None:
        """The end, if the callback came."""
        answer = None if self.callback is None else self.callback.answer
        return None if answer is None else Over(cast("R", answer).made_by(self.attempts), None, signal)

    def _start_at_once(self, state: State[R], now: float, ends: float | None) -> Started | Over[R] | None:
        """The start of a call that has nobody to ask for leave, and nothing to wait for; None if it is none."""
        options = self._options
        if options.journal is not None or self.callback is not None or self._reservation is not None:
            return None
        if self._is_stopped:
            return None
        if isinstance(state, Prepared):
            return self._start(state.form, None, now, ends)
        if not is_small(self._source, options):
            return None
        held = self._read(None, identify=False)
        return self._unreadable(held) if isinstance(held, str) else self._start(Form(held.fields), None, now, ends)

    # ------------------------------------------------------------------------------------------ New → Prepared

    async def prepare(self, *, is_known: Callable[[bytes], bool] | None = None) -> None:
        """Read and identify what the call holds, and encode it, but for what `is_known` by its identity.

        `state` is then Prepared; New where it is known; Over where it cannot be sent, or need not be.
        """
        if not self.prepare_at_once():
            state = await self._prepare(identify=True, is_known=is_known, ahead=True)
            if self.state is NEW:  # else it was called back meanwhile
                self.state = state

    def prepare_at_once(self) -> bool:
        """The same, if nothing has to be waited for; False if something has."""
        if self.state is NEW:
            journal = self._options.journal
            if (journal is not None and not journal.is_open) or not is_small(self._source, self._options):
                return False
            self.state = self._prepare_at_once(identify=True)
        return True

    async def _prepare(
        self, *, identify: bool, is_known: Callable[[bytes], bool] | None = None, ahead: bool = False
    ) -> New | Prepared | Over[R]:
        if identify and (error := await self._open_journal()) is not None:
            return Over(None, error)
        if is_small(self._source, self._options):
            return self._prepare_at_once(identify=identify)
        lane = self._shared.readers.lane(alone=self._tally is None)
        if ahead:  # of its step: the wait in line does not count
            await lane.enter()
        held = await self._within_deadline(
            lane.read(functools.partial(self._read, identify=identify), enters=not ahead)
        )
        if held is None:
            return self._as_it_stands("the deadline passed before its images were read")
        try:  # a place in the lane until they are encoded, so that few raw images are held at a time
            if isinstance(held, str):
                return self._unreadable(held)
            if is_known is not None and self.identity is not None and is_known(self.identity):
                return NEW
            if identify and (stored := await self._stored()) is not None:
                return stored
            fields, problem = held.fields, ""
            if self._options.fit:
                fields, problem = await self._shared.readers.fit(fields, self._options, alone=self._tally is None)
            return self._unreadable(problem) if problem else Prepared(await lane.encode(fields))
        finally:
            lane.leave(held)

    async def _within_deadline(self, work: Coroutine[Any, Any, Read | str]) -> Read | str | None:
        """What comes of `work`; None where the call's deadline passes before."""
        left = self.course.left
        timeout = asyncio.timeout(None if left == math.inf else left)  # anyio's scopes take longer to set up
        try:
            async with timeout:
                return await work
        except TimeoutError:
            if not timeout.expired():
                raise
        return None

    def _prepare_at_once(self, *, identify: bool) -> Prepared | Over[R]:
        held = self._read(None, identify=identify)
        return self._unreadable(held) if isinstance(held, str) else Prepared(Form(held.fields))

    def _read(self, means: Means | None, *, identify: bool) -> Read | str:
        callback, known = self.callback, self.identity
        held = read(
            self._source,
            self._options,
            None if callback is None or callback.is_overdue else callback.inbox.url,
            self._shared.requests.vendor,
            identify=identify if known is None else self.call.endpoint.takes_images,
            means=means,
        )
        if isinstance(held, str):
            return held
        if known is not None and held.identity is not None and held.identity != known:
            # Others who ask what was asked before would get this one's answer.
            return "a photo was changed after it was first read: ask again, and the new one is sent"
        self._source, self.digits, self.identity = held.call, held.digits, held.identity or known
        return held

    async def _open_journal(self) -> AISolutionError | None:
        if self._options.journal is None:
            return None
        try:
            await self._options.journal.open()
        except LedgerError as exc:
            problem = str(exc)
        else:
            return None
        return self._problem(LedgerError, f"not sent: {problem}")

    # ------------------------------------------------------------------- Prepared → Admitted → Started, or an end

    async def _admit(self, prepared: Prepared) -> Admitted | Following | Over[R]:
        if (over := self._called_back()) is not None:  # while it was prepared
            return over
        refused: Over[R] | None = None
        if self._is_stopped:
            refused = self._as_it_stands(STOPPED)
        elif self.callback is not None and self.callback.stands_back():
            return Following()
        elif self._reservation is not None and (why := self._reservation.take()):
            refused = Over(None, self._problem(BudgetExhaustedError, f"not sent: {why}"))
        if refused is None:
            return Admitted(prepared.form)
        return await self._stored() or refused

    async def _begin(
        self, admitted: Admitted, ends: float | None
    ) -> Started | Found[R] | Again | Awaiting[R] | Over[R]:
        """Ask the ledger, if there is one, for leave to send."""
        store = self._options.journal
        if store is None:
            return self._start(admitted.form, None, clock.now(), ends)
        if self._shared.closed:
            return self._as_it_stands(CLOSED)
        store.enter(self)
        try:
            verdict = await store.begin(self.ask(None if ends is None else ends - clock.now()))
        except LedgerError as exc:
            problem = str(exc)
        except ConfigurationError as exc:  # it was closed
            if not self.attempts:
                raise
            return self._as_it_stands(str(exc))
        else:
            return await self._heed(verdict, admitted.form, ends)
        return Over(None, self._problem(LedgerError, f"not sent: {problem}"))

    async def _heed(
        self, verdict: Verdict, form: Form, ends: float | None
    ) -> Started | Found[R] | Again | Awaiting[R] | Over[R]:
        call = self.call
        match verdict:
            case Intent():
                if (over := self._called_back()) is not None:
                    await self._take_back(verdict)
                    return over
                started = self._start(form, verdict, clock.now(), ends)
                return self._find(started, Lost(False, CLOSED)) if self._shared.closed else started
            case Stored():
                damaged = "not sent: a reply in the ledger does not fit this version: use the version that wrote it"
                return self._accepted(verdict) or Over(None, self._problem(LedgerError, damaged))
            case Held():
                return Over(None, held_error(verdict, call.endpoint.name, call.key, self.attempts))
            case Exhausted():
                return Over(None, self._problem(BudgetExhaustedError, f"not sent: {verdict.why}"))
            case Expected():
                assert self.callback is not None
                self.callback.expected(verdict.since)
                return Awaiting(None)
            case Busy():
                if ends is None or clock.now() < ends:
                    return Again(verdict)
                busy = "not sent: the same call is under way elsewhere; ask again later"
                return Over(None, self._problem(NotSentError, busy))
            case _:
                assert_never(verdict)

    async def _take_back(self, intent: Intent) -> None:
        """The callback came while leave was asked for: nothing need be sent."""
        attempt = Attempt(Charge.FREE, None, None, clock.today(), 0.0, "answered by callback", number=self.next_number)
        with contextlib.suppress(AISolutionError):
            assert self._options.journal is not None
            await self._options.journal.end(intent, Result(attempt, sent=False))

    def _start(self, form: Form, intent: Intent | None, now: float, ends: float | None) -> Started:
        at = clock.today()
        if self.callback is not None:
            self.callback.asked(at)
        self._shared.in_flight += 1
        lease = None if intent is None else intent.lease
        return Started(form, intent, Flight(ends, None if lease is None else lease.is_good), at, now)

    # --------------------------------------------------------------------------------------- Started → Found

    def _find(self, started: Started, answer: Response | Lost) -> Found[R]:
        """Judge what came of the attempt, and count it."""
        shared, endpoint = self._shared, self.call.endpoint
        shared.in_flight -= 1
        called_back = self.callback is not None and self.callback.has_paid
        if isinstance(answer, Response):
            try:
                found = finding.of_response(
                    endpoint,
                    answer,
                    rules=self._options.rules.get(endpoint.name),
                    redact=shared.requests.redact if self.callback is None else self._redact,
                    names_another=functools.partial(shared.echo.is_another, self.digits),
                    before=self.attempts,
                    called_back=called_back,
                )
                if found.reply is None and found.is_of_another:
                    self._doubt(answer)
            except Exception as exc:  # a fault of ours must not make an answer that was sent for look free
                found = finding.of_fault(exc, called_back=called_back)
        else:
            found = finding.of_loss(answer, called_back=called_back)
        if found.retry_after and found.signal is Signal.OVERLOADED:
            shared.pause(found.retry_after)
        if self.callback is not None:
            self.callback.heard(found.reply, found.charge)
        if self._reservation is not None:
            self._reservation.spend(found.charge)
        self._last = found if found.reply is None else None  # a reply is kept by the state
        elapsed = clock.now() - started.since
        return Found(found, self._count(found.attempt(started.at, elapsed, len(self.attempts) + 1)), started.intent)

    def _doubt(self, response: Response) -> None:
        """An answer was about another number. On a connection that was used before, it may be the one to that use."""
        shared = self._shared
        if (
            response.reused
            and isinstance(shared.transport, PoolTransport)
            and shared.transport.distrust(shared.requests.origin)
            and shared.echo.state is Seen.ECHO
        ):
            name = self.call.endpoint.name
            text = "%s: an answer is about another number than was asked: each request gets a connection of its own now"
            _log.error(text, name, extra={"endpoint": name})

    def _count(self, attempt: Attempt) -> int:
        """Count an attempt. Returns its number."""
        self.attempts = (*self.attempts, attempt)
        name = self.call.endpoint.name
        self._shared.tally.add(name, attempt.charge)
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
        return attempt.number

    def _tell(self, number: int) -> None:
        """Tell the user's hook of an attempt."""
        if self._options.on_attempt is not None:
            call_hook("on_attempt", self._options.on_attempt, self.call, self.attempts[number - 1])

    # ----------------------------------------------------------------------- Found → Over, Again or Awaiting

    def _decide(
        self, found: Finding[R], over: Over[R], ends: float | None, trial: bool
    ) -> Again | Awaiting[R] | Over[R]:
        """Is the call `over`, is it asked again, or is its answer to come by callback?"""
        callback = self.callback
        if callback is not None and callback.is_awaited:
            return Awaiting(over, found.signal)
        if found.is_final or self._is_stopped:
            return over
        wait = self.course.again(
            self.call.endpoint,
            self.attempts,
            repeatable=found.repeatable and not (self._shared.closed and isinstance(found.source, Lost)),
            asked=found.retry_after,
            left=math.inf if ends is None else ends - clock.now(),
            forgiven=trial,
        )
        return over if wait is None else Again(wait, found.signal)

    async def _record(self, state: Found[R]) -> None:
        """Put the attempt into the ledger, with what was answered."""
        if state.intent is None:
            return
        assert self._options.journal is not None
        found, echo = state.finding, self._shared.echo
        result = result_of(
            self.attempts[state.number - 1],
            to_record(found, self._redact),
            sent=found.sent,
            answer=found.reply is not None and found.reply.is_answer,
            expected=self.callback is not None and self.callback.is_awaited,
            holds=echo.holds or not found.is_of_another,
        )
        recorded = False  # as far as is known, where this is cut off
        try:
            recorded = await record(self._options.journal, echo, state.intent, result, of_another=found.is_of_another)
        finally:
            *before, attempt = self.attempts[: state.number]
            self.attempts = (
                *before,
                noted(attempt, recorded=recorded, id_=state.intent.id),
                *self.attempts[state.number :],
            )

    # ----------------------------------------------------------------------------------------------- the ledger

    def ask(self, within: float | None = None) -> Ask:
        """What the ledger is asked of this call, once it is identified; `within` as in `Ask`."""
        call, store, callback = self.call, self._options.journal, self.callback
        assert store is not None
        assert self.identity is not None
        return ask_of(
            call.endpoint.name,
            self.identity,
            key=call.key,
            may_charge=self._options.may_charge(call.endpoint),
            reusable=not call.endpoint.never_charges or call.key is not None,
            reuse_for=store.reuse_for,
            retry_unknown=None if call.endpoint.idempotent else self._options.retry.unknown,
            within=within,
            callback=None if callback is None else store.place(self.digits),
            patience=0.0 if callback is None else callback.inbox.patience,
            overdue=callback is not None and callback.is_overdue,
        )

    def question(self) -> Ask | None:
        """The same before the call is prepared; None where images have to be read first, or it cannot be sent."""
        if self.call.endpoint.takes_images:
            return None
        try:
            return None if isinstance(self._read(None, identify=True), str) else self.ask()
        except Exception:  # whatever is wrong is told when its turn comes
            return None

    def accept(self, stored: Stored) -> bool:
        """Take the answer that the ledger has: the call is over. False if it cannot be read."""
        over = self._accepted(stored)
        self.state = over or self.state
        return over is not None

    def _accepted(self, stored: Stored) -> Over[R] | None:
        try:
            reply: R = self.call.endpoint.reply.from_record(stored.reply, stored.attempt)
            if self.callback is not None and self.callback.was_ours(stored.attempt):
                reply = self.call.endpoint.reply.from_record(stored.reply)
        except (ValueError, TypeError):  # whatever stands there
            return None
        return Over(reply.made_by(self.attempts), None, recorded=stored.reply)

    async def _stored(self) -> Over[R] | None:
        """The end, if the ledger has the answer: then nothing need be encoded, or paid."""
        store = self._options.journal
        if store is None or self.attempts:
            return None
        try:
            (stored,) = await store.find([self.ask()])
        except AISolutionError:
            return None  # to be told when it is asked for leave
        return None if stored is None else self._accepted(stored)

    # ----------------------------------------------------------------------------------------------- a batch's call

    @property
    def is_repeat(self) -> bool:
        """Whether an attempt of this round of asking was made."""
        return self.course.is_repeat(len(self.attempts))

    def release(self) -> None:
        """Let go of what was read and encoded: somebody else asks the same."""
        if isinstance(self.state, Prepared):
            self.state = NEW

    def ask_again(self) -> None:
        """Forget the reply, which is no answer yet, and start another round of attempts."""
        over = self.state.otherwise if isinstance(self.state, Awaiting) else self.state
        self._checking = over.reply if isinstance(over, Over) else None
        self._last = None
        self.course.start_round(len(self.attempts))
        self.state = NEW

    def give_up_callback(self) -> None:
        """The callback is late: `state` is New if the number is to be asked for again, without a callback, else Over.

        Where the attempt that asked for the callback was lost, only `retry_unknown` lets the number be asked for again.
        """
        assert self.callback is not None
        otherwise = self.state.otherwise if isinstance(self.state, Awaiting) else None
        lost = otherwise is not None and otherwise.error is not None  # whatever was said: its charge is UNKNOWN
        for_good = lost and not self.course.allows(self.call.endpoint, self.attempts, repeatable=True)
        self.callback.give_up(for_good=for_good)
        if for_good:
            assert otherwise is not None
            self.state = otherwise
        else:
            self._reopen(lost=lost)

    def watch(self, waits: Callable[[], bool], tell: Callable[[], object]) -> None:
        """Have `tell` called if the callback is not to come any more, says the ledger, and it `waits` still."""
        if self._options.journal is not None and self.identity is not None:
            self._options.journal.watch(self.identity, waits, tell)

    def look_again(self) -> None:
        """The callback came to another process, or is not to come: `state` is New, for the ledger to be asked."""
        otherwise = self.state.otherwise if isinstance(self.state, Awaiting) else None
        self._reopen(lost=otherwise is not None and otherwise.error is not None)

    def _reopen(self, *, lost: bool) -> None:
        """`lost`: whether the attempt that asked for the callback was; asking again is a repeat of it."""
        if lost:
            self.state = NEW
        else:
            self.ask_again()

    def leave(self, *, share: bool) -> None:
        """The call is over. `share`: whether others that wait for its number are to have what came of it."""
        callback = self.callback
        if callback is None:
            return
        reply, error = (self.state.reply, self.state.error) if isinstance(self.state, Over) and share else (None, None)
        bought = error is not None and finding.may_be_bought(self.attempts, error)
        callback.leave(reply, error if bought else None)
        if self._reservation is not None:
            late = 0.0 if callback.answer is not None or callback.is_overdue else callback.patience_left
            self._reservation.release(late)
            if callback.is_awaited and 0 < late < math.inf:
                callback.inbox.owe(callback.digits, self._reservation, late, has_asked=callback.has_asked)

    # ------------------------------------------------------------------------------- its callback: see `Asker`

    @property
    def journal(self) -> Journal | None:
        return self._options.journal

    @property
    def charges(self) -> Mapping[str, Charge]:
        return self._options.charges_of(self.call.endpoint)

    @property
    def next_number(self) -> int:
        return len(self.attempts) + 1

    def count_callback(self, attempt: Attempt) -> None:
        number = self._count(attempt)
        if self._reservation is not None:
            callback = self.callback
            assert callback is not None
            # Awaited, while an attempt is still being recorded: that is the one that named it.
            is_own = callback.has_paid or callback.is_awaited
            if callback.is_doubtful:
                self._reservation.add(attempt.charge)
            else:
                self._reservation.called_back(attempt.charge, for_request=is_own)
        self._tell(number)

    def doubt_callback(self) -> None:
        if self._reservation is not None:
            self._reservation.keep()

    def end_by_callback(self, reply: WhatsAppProfile) -> WhatsAppProfile:
        mine = reply.model_copy().made_by(self.attempts)
        if not _is_answered(self.state):
            self.state = Over(cast("R", mine), None)
        return mine

    def follow_failure(self, error: AISolutionError | None) -> None:
        if error is not None:
            text = f"not sent: another call asked the same, and that ended so: {error}"
            self.state = Over(None, self._problem(OutcomeUnknownError, text))
        elif isinstance(self.state, Following):
            self.state = NEW

    # ------------------------------------------------------------------------------------------------ the end

    def conclude(self, text: str) -> Over[R]:
        """End the call as it stands: by what its last attempt came to, or by why there was none."""
        self.state = over = self._as_it_stands(text)
        return over

    def fail(self, error: AISolutionError) -> Over[R]:
        """End the call by what kept it from a step. If it is over already, that stands."""
        if not isinstance(self.state, Over):
            self.state = Over(None, error.with_traceback(None))
        return self.state

    def _as_it_stands(self, text: str) -> Over[R]:
        if isinstance(self.state, Over):
            return self.state
        if isinstance(self.state, Awaiting) and self.state.otherwise is not None:
            return self.state.otherwise
        if self._last is not None:
            over = self._ended(self._last)
            return Over(over.reply, over.error)  # the signal was told
        if self._checking is not None:
            return Over(self._checking, None)
        return Over(None, self._problem(NotSentError, f"not sent: {text}"))

    def _ended(self, found: Finding[R]) -> Over[R]:
        if found.reply is not None:
            return Over(found.reply.made_by(self.attempts), None, found.signal, None, found.body)
        return Over(None, self._error(found), found.signal)

    def _error(self, found: Finding[R]) -> AISolutionError:
        error = found.error(self.call.endpoint.name, self.call.key, self.attempts)
        error.headers = support_headers(found.headers, self._redact)
        return error

    def _unreadable(self, text: str) -> Over[R]:
        # Made anew: the frames of the first one hold the image.
        return Over(None, InputError(text, endpoint=self.call.endpoint.name, key=self.call.key, attempts=self.attempts))

    def _problem(self, kind: type[AISolutionError], text: str) -> AISolutionError:
        name = self.call.endpoint.name
        return kind(f"{name}: {text}", endpoint=name, key=self.call.key, attempts=self.attempts)

    @property
    def _is_stopped(self) -> bool:
        """Whether nothing more is sent, as its answers cannot be told from another call's."""
        return self._shared.echo.state is _CONVENTION and isinstance(self.call, WhatsAppDetail)

    def _redact(self, text: str) -> str:
        text = self._shared.requests.redact(text)
        return text if self.callback is None else self.callback.inbox.redact(text)


def _is_answered(state: State[Any]) -> bool:
    return isinstance(state, Over) and state.reply is not None and bool(state.reply.is_answer)
