"""What can go wrong, as one tree. Every error says what it cost.

    AISolutionError
    ├── ConfigurationError       no token, a base URL that is not https, bad options: nothing was sent
    ├── InputError               this call cannot be sent: nothing was sent, FREE
    ├── NotSentError             no byte of the request left: refused, DNS, TLS, pool or deadline: FREE
    │   └── BudgetExhaustedError the spend limit was reached first
    ├── StatusError              the vendor answered with a status other than OK
    │   ├── InvalidRequestError  INVALID_REQUEST, INVALID_INPUT
    │   ├── ImageTooLargeError   IMAGE_INVALID_SIZE
    │   ├── FaceNotFoundError    FACE_DETECT_FAILED, INVALID_FACE_NUM, RETRY_LATER with IMAGE?_FACE_DETECT_FAILED
    │   ├── PersonNotFoundError  PERSON_ID_NOT_EXIST
    │   ├── ServiceFailedError   FAIL
    │   ├── RetryLaterError      RETRY_LATER, or HTTP 429 / 503 without an envelope, after the retries
    │   └── UnknownStatusError   a status nobody documented
    ├── LedgerError              the ledger cannot be read or written: nothing was sent, FREE (see `ledger.store`)
    ├── RefusedError             any other HTTP 4xx without an envelope: FREE
    └── OutcomeUnknownError      bytes left and no usable answer came: UNKNOWN

The status alone decides which StatusError it is. What it cost is what the endpoint documents for that status.

The text of an error never holds the token, the group id, an image or a phone number. What the vendor said is on
`.message`, for code that asks for it, with … in place of the token. Errors can be pickled, to go from one process to
another; the group id does not go along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self, TypeVar
from uuid import UUID

from aisolution_async.charges import Attempt, Charge, overall
from aisolution_async.hiding import without_secret_fields

E = TypeVar("E", bound="AISolutionError")

Key = str | int | UUID | None
"""What a user calls a call by: an applicant's id, say. A ledger records a UUID as its text."""


class AISolutionError(Exception):
    """The root of the tree. Catch it to catch them all.

    - `charge`: what the whole call cost. FREE where nothing was sent.
    - `attempts`: what was tried, oldest first.
    - `endpoint`: the vendor's name of the endpoint; None where no endpoint was involved.
    - `key`: your key of the call.
    - `headers`: those of the response that help the vendor's support, by their names in small letters: `date`,
      `server`, `x-request-id` and the like. Empty where there was no response.
    """

    def __init__(
        self,
        text: str,
        *,
        endpoint: str | None = None,
        key: Key = None,
        attempts: tuple[Attempt, ...] = (),
        charge: Charge | None = None,
    ) -> None:
        super().__init__(text)
        self.endpoint = endpoint
        self.key = key
        self.attempts = attempts
        self.charge: Charge = overall(attempts) if charge is None else charge
        self.headers: Mapping[str, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, and not by calling `__init__` again: each class has its own. What the vendor said goes along, but
        # for the access key.
        state = {**vars(self)}
        for name in ("message", "body"):
            if name in state:
                state[name] = without_secret_fields(state[name])
        return _remade, (type(self), self.args, state)

    def __copy__(self) -> Self:
        return _remade(type(self), self.args, vars(self))


def _remade(kind: type[E], args: tuple[Any, ...], state: Mapping[str, Any]) -> E:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


class ConfigurationError(AISolutionError):
    """The client cannot work as it was set up or used. Nothing was sent."""


class InputError(AISolutionError):
    """This call cannot be sent: an unreadable or oversized image, an impossible number. FREE."""


class NotSentError(AISolutionError):
    """No byte of the last attempt left this machine: refused, DNS, TLS, a full pool, the deadline. FREE."""


class BudgetExhaustedError(NotSentError):
    """The spend limit was reached before this call could be sent. FREE."""


class StatusError(AISolutionError):
    """The vendor answered, and not with OK. Its subclasses say which status it was.

    - `status`: the vendor's word. None where an HTTP 429 or 503 came without an envelope.
    - `message`: the raw JSON value that came with it.
    - `http_status`: the HTTP code.
    """

    def __init__(
        self,
        text: str,
        *,
        status: str | None = None,
        message: Any = None,
        http_status: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(text, **common)
        self.status = status
        self.message = message
        self.http_status = http_status


class InvalidRequestError(StatusError):
    """INVALID_REQUEST or INVALID_INPUT: the vendor could not read what was sent. FREE. Mend the call."""


class ImageTooLargeError(StatusError):
    """IMAGE_INVALID_SIZE: the image is larger than the vendor's 2M. FREE. Make it smaller, or say `fit=True`."""


class FaceNotFoundError(StatusError):
    """The photo does not have the face, or the number of faces, that the endpoint needs. FREE. Use another photo."""


class PersonNotFoundError(StatusError):
    """PERSON_ID_NOT_EXIST: no such person was added, or the person was deleted. FREE."""


class ServiceFailedError(StatusError):
    """FAIL: the vendor's own error, an invalid query, or a photo that is not of a live person. FREE."""


class RetryLaterError(StatusError):
    """RETRY_LATER, or HTTP 429 or 503, and the retries are used up. FREE. Ask again later.

    `retry_after`: how many seconds the server last asked to wait, or None.
    """

    def __init__(self, text: str, *, retry_after: float | None = None, **common: Any) -> None:
        super().__init__(text, **common)
        self.retry_after = retry_after


class UnknownStatusError(StatusError):
    """A status that the vendor does not document. UNKNOWN: only the invoice can tell whether it was charged."""


class RefusedError(AISolutionError):
    """HTTP 4xx without an envelope. FREE. The code is `http_status`; 401 and 403 usually mean the token."""

    def __init__(self, text: str, *, http_status: int | None = None, **common: Any) -> None:
        super().__init__(text, **common)
        self.http_status = http_status


class OutcomeUnknownError(AISolutionError):
    """Bytes left, and no answer came that can be used. UNKNOWN: it may have been charged.

    What did come is kept:

    - `status` and `message`: of an OK whose message does not fit the contract, or is about another number.
    - `http_status`, `body` (bytes) and `message` (the beginning of it as text): of an answer that cannot be read, or
      that says two things. `body` alone: of an answer that is not this call's.

    - `recorded`: where nothing was sent, the attempt of another call that holds the question; else None.
    - `holds`: how many attempts hold the question, as far as the call knows. `retry_unknown` has to allow as many.
    """

    def __init__(
        self,
        text: str,
        *,
        status: str | None = None,
        message: Any = None,
        http_status: int | None = None,
        body: bytes | None = None,
        recorded: Attempt | None = None,
        holds: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(text, **common)
        self.status = status
        self.message = message
        self.http_status = http_status
        self.body = body
        self.recorded = recorded
        self.holds = holds


# Words a person would write, and codes in capitals. A token, a group id, a number or base64 is none of these.
_PLAIN_WORD = re.compile(
    r"[(\"']*(?:[A-Za-z]?[a-z]{0,19}|[A-Z]{1,12}(?:_[A-Z]{1,12})*|\d{1,3}[A-Za-z]{0,2}|img\d?)[)\"'.,:;!?]*"
)


def is_plain_word(word: str) -> bool:
    """Whether a person would write this, or it is a code in capitals: then it is no secret."""
    return _PLAIN_WORD.fullmatch(word) is not None


def quotable(message: object) -> str:
    """As much of the vendor's `message` as may stand in an error's text: plain words, and few of them.

    The vendor may echo anything it was sent, so whatever does not look like a word is left out.
    """
    if not isinstance(message, str):
        return ""
    words = [word if is_plain_word(word) else "…" for word in message[:200].split()]
    return " ".join(words)
