"""What came of an attempt: the one place where its charge is decided. No I/O, and nothing is changed.

The charge of an answer is the contract's (`wire.envelope`), except that
- an answer which is not this request's own tells nothing of it: UNKNOWN;
- an answer that a callback brought before is charged once, with the callback (`charges.besides_callback`).
The charge of a lost request is UNKNOWN if a byte of it may have left, else FREE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from typing import Generic

from aisolution_async.api import Endpoint, R, WhatsAppProfile
from aisolution_async.charges import Attempt, Charge, attempt_of, besides_callback, overall
from aisolution_async.errors import (
    AISolutionError,
    Key,
    NotSentError,
    OutcomeUnknownError,
    RetryLaterError,
    quotable,
)
from aisolution_async.limits import Signal
from aisolution_async.values import value_class
from aisolution_async.wire import envelope
from aisolution_async.wire.exchange import Lost
from aisolution_async.wire.transport import Response

EARLY = "an answer came before the request was out, so that it is another request's"
_ANSWERED = Signal.ANSWERED  # looked up for every attempt: an Enum takes its time
_SHORT = 4096  # bytes of a body that is kept as it came
ANOTHER = "answered OK, but for another number than was asked"


@value_class
class Finding(Generic[R]):
    """One attempt, judged.

    `source` is what it was judged by: the answer as it was read, or why there is none. `reply` is there if it is one.
    `repeatable`: whether it was free and may pass; `retry_after` what the server asks to wait, in seconds. `status` and
    `problem` are for the record: words that hold nothing of what was sent. `headers` are there where there is no reply,
    and `body` where that is all that the reply was read from, short, and without a secret.
    """

    source: envelope.Answer[R] | Lost
    charge: Charge
    reply: R | None = None
    repeatable: bool = False
    retry_after: float | None = None
    signal: Signal | None = None
    status: str | None = None
    http_status: int | None = None
    problem: str | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes | None = field(default=None, repr=False)

    @property
    def sent(self) -> bool:
        """Whether a byte of it may have left."""
        return not isinstance(self.source, Lost) or self.source.left

    @property
    def is_of_another(self) -> bool:
        """Whether the answer is about another number than was asked."""
        return isinstance(self.source, envelope.Answer) and self.source.of_another

    @property
    def is_final(self) -> bool:
        """Whether another attempt would fare no better, whatever it is allowed to cost."""
        return self.reply is not None or (isinstance(self.source, Lost) and self.source.refusal is not None)

    def attempt(self, at: datetime, elapsed: float, number: int) -> Attempt:
        """The attempt for the record, the `number`th of its call."""
        return attempt_of(self.charge, self.status, self.http_status, at, elapsed, self.problem, None, number)

    def error(self, endpoint: str, key: Key, attempts: tuple[Attempt, ...]) -> AISolutionError:
        """The error in which a call ends whose last attempt this was."""
        source = self.source
        if isinstance(source, envelope.Answer):
            return source.error(endpoint, key, attempts)
        if source.left:
            text = f"{endpoint}: sent, but no usable answer came, and it may have been charged: {source.text}"
            holds = sum(attempt.charge is Charge.UNKNOWN for attempt in attempts)
            return OutcomeUnknownError(text, endpoint=endpoint, key=key, attempts=attempts, holds=holds)
        kind = source.refusal or NotSentError
        return kind(f"{endpoint}: not sent: {source.text}", endpoint=endpoint, key=key, attempts=attempts)


def may_be_bought(attempts: Sequence[Attempt], error: AISolutionError) -> bool:
    """Whether a call that failed cost money, or may have: that is not bought again for who asks the same."""
    return overall(attempts) is not Charge.FREE or isinstance(error, OutcomeUnknownError)


def of_loss(lost: Lost, *, called_back: bool = False) -> Finding[R]:
    """No answer came. `called_back`: a callback has answered the question, and has the charge of this request."""
    charge = Charge.UNKNOWN if lost.left else Charge.FREE
    if called_back:
        charge = besides_callback(charge, arrived=False)
    signal = None if lost.timed_out is None else Signal.OVERLOADED if lost.timed_out else Signal.BROKEN
    repeatable = not lost.left and lost.refusal is None
    return Finding(lost, charge, repeatable=repeatable, signal=signal, problem=lost.text)


def of_fault(fault: Exception, *, called_back: bool = False) -> Finding[R]:
    """An answer came, and reading it failed. It may have been charged, and another would fail in the same way."""
    text = f"{type(fault).__name__} while the answer was read"
    return of_loss(Lost(True, text, timed_out=False, refusal=OutcomeUnknownError), called_back=called_back)


def of_response(
    endpoint: Endpoint[R],
    response: Response,
    *,
    rules: Mapping[str, Charge] | None,
    redact: Callable[[str], str],
    names_another: Callable[[str | None], bool],
    before: Sequence[Attempt] = (),
    called_back: bool = False,
) -> Finding[R]:
    """An answer came.

    `rules` are the charges by status where the user's differ from the contract's; `names_another` says whether the
    number in an answer is surely another one than was asked; `before` are the call's earlier attempts.
    """
    answer = envelope.read(
        endpoint, response.http_status, response.body, retry_after=response.retry_after, rules=rules, redact=redact
    )
    if response.early and not answer.refuses:
        answer = envelope.not_ours(answer, response.body, EARLY, redact=redact)
    elif isinstance(answer.reply, WhatsAppProfile) and names_another(answer.reply.number):
        answer = envelope.not_ours(answer, response.body, ANOTHER, redact=redact, of_another=True)
    charge, reply, status, problem = answer.charge, answer.reply, answer.status, None
    if called_back:
        charge = besides_callback(charge, arrived=True)
    if reply is None:
        problem = answer.text
        if status is not None and status not in endpoint.charges:
            # It may be anything, even what the vendor was sent: the record keeps plain words.
            status = quotable(status)[:80]
        if answer.status in endpoint.done_already and any(attempt.charge is Charge.UNKNOWN for attempt in before):
            reply = endpoint.read_reply(None)  # the attempt that was lost had worked
    if answer.kind is RetryLaterError:
        signal = Signal.OVERLOADED
    else:
        signal = _ANSWERED if answer.body is None else Signal.BROKEN
    return Finding(
        answer,
        charge,
        reply,
        answer.repeatable,
        answer.retry_after,
        signal,
        status,
        answer.http_status,
        problem,
        response.headers if reply is None else (),
        response.body if answer.reply is not None and not answer.redacted and len(response.body) <= _SHORT else None,
    )
