"""Errors as a web service answers them: problem details (RFC 9457), the same under every framework.

=====================  ====  ================================================================================
error                  HTTP  why
=====================  ====  ================================================================================
InputError             422   what was given cannot be sent; an image over the limit too, so that a photo gets one
InvalidRequestError          code whoever refuses it (413 is left to the limit on the request's own body)
ImageTooLargeError
FaceNotFoundError      422   another photo is needed
PersonNotFoundError    404
RetryLaterError        503   with Retry-After: what the vendor asked for, else 10 seconds
NotSentError           503   nothing left this machine
BudgetExhaustedError   503   not 402: whoever asks is not who pays. Not 429: they did not ask too often, and 429 is
                             tried again by itself. No Retry-After: a person has to raise the limit
LedgerError            503
OutcomeUnknownError    502   it may have been charged, and asking again may be charged again
ServiceFailedError     502
UnknownStatusError     502
RefusedError           502   most often the token: nobody's business but the operator's
ConfigurationError     500
=====================  ====  ================================================================================

Texts are ours and fixed: of what the vendor said, of keys, paths and the token nothing gets out. What goes to the
caller as 5xx goes to the log of this module with the error's own text, which holds no secrets.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aisolution_async.charges import Charge
from aisolution_async.errors import (
    AISolutionError,
    BudgetExhaustedError,
    ConfigurationError,
    FaceNotFoundError,
    ImageTooLargeError,
    InputError,
    InvalidRequestError,
    NotSentError,
    OutcomeUnknownError,
    PersonNotFoundError,
    RefusedError,
    RetryLaterError,
    ServiceFailedError,
    UnknownStatusError,
)
from aisolution_async.ledger.store import LedgerError

CONTENT_TYPE = "application/problem+json"
_TYPE = "urn:problem-type:aisolution:"
_RETRY_AFTER = 10
_LONGEST_RETRY_AFTER = 3600

_log = logging.getLogger(__name__)

# Which of the two images: the vendor's IMAGEA_FACE_DETECT_FAILED and IMAGEB_….
_WHICH_IMAGE = {"IMAGEA": "first image", "IMAGEB": "second image"}

_KINDS: Mapping[type[AISolutionError], tuple[int, str, str, str]] = {
    AISolutionError: (500, "error", "Something went wrong", "The request could not be answered."),
    ConfigurationError: (500, "configuration", "This service is not set up", "Its operator has to look into it."),
    InputError: (422, "input", "The input cannot be used", "What was given cannot be sent."),
    NotSentError: (503, "not-sent", "The verification service was not reached", "Nothing was sent: try again later."),
    BudgetExhaustedError: (503, "budget-exhausted", "No more can be asked for now", "A limit on usage is reached."),
    InvalidRequestError: (422, "invalid-request", "The input cannot be used", "The verification service refused it."),
    ImageTooLargeError: (422, "image-too-large", "The image is too large", "It takes images of 2 MB at most."),
    FaceNotFoundError: (
        422,
        "face-not-found",
        "No face was found",
        "There is no face, or not the right number of faces, in the image: another photo is needed.",
    ),
    PersonNotFoundError: (404, "person-not-found", "No such person", "This person was not added, or was deleted."),
    ServiceFailedError: (502, "service-failed", "The verification service failed", "It could not answer this."),
    RetryLaterError: (503, "retry-later", "The verification service is busy", "Try again later."),
    UnknownStatusError: (
        502,
        "unknown-status",
        "The verification service's answer is not understood",
        "It may have been charged, and asking again may be charged again.",
    ),
    LedgerError: (503, "ledger", "This service cannot keep its records", "Nothing can be asked until it can."),
    RefusedError: (502, "refused", "The verification service refused", "The operator has to look into it."),
    OutcomeUnknownError: (
        502,
        "outcome-unknown",
        "The outcome is unknown",
        "It was sent, and no usable answer came. It may have been charged, and asking again may be charged again.",
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is answered: `status` is the HTTP code, `retry_after` seconds or None, `charge` what it cost."""

    type: str
    title: str
    status: int
    detail: str
    charge: Charge
    retry_after: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send, but for the content type, which is `CONTENT_TYPE`."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return headers

    @property
    def body(self) -> bytes:
        """The JSON to send: `type`, `title`, `status`, `detail`, and the extension member `charge`."""
        members = {name: getattr(self, name) for name in ("type", "title", "status", "detail", "charge")}
        return json.dumps(members).encode()


def problem_of(error: AISolutionError) -> Problem:
    """How `error` is answered. Writes a line to the log where the caller cannot help it (5xx)."""
    status, name, title, detail = next(_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS)
    retry_after = None
    if isinstance(error, RetryLaterError):
        asked = _RETRY_AFTER if error.retry_after is None else error.retry_after
        retry_after = max(1, math.ceil(min(asked, _LONGEST_RETRY_AFTER)))
    elif isinstance(error, InputError):
        detail = _without_paths(str(error)) or detail
    elif isinstance(error, FaceNotFoundError):
        image = _WHICH_IMAGE.get(str(error.message).partition("_")[0], "image")
        detail = detail.replace("image", image, 1)
    elif isinstance(error, OutcomeUnknownError) and error.recorded is not None:
        detail = "It was asked before, and may have been charged then: it is not sent again until that is settled."
    if status >= 500:
        level = logging.WARNING if status == 503 else logging.ERROR
        # Without its text, in which the vendor may name a person.
        told = {
            "http_status": status,
            "error": type(error).__name__,
            "endpoint": error.endpoint,
            "charge": error.charge.value,
        }
        _log.log(level, "answered with HTTP %(http_status)d: %(endpoint)s: %(error)s, %(charge)s", told, extra=told)
    return Problem(_TYPE + name, title, status, detail, error.charge, retry_after)


def worst_of(group: BaseExceptionGroup[BaseException]) -> AISolutionError | None:
    """The error to answer a group with, as a task group raises it: what may have been charged before all else.

    None if there is anything else in it than errors of calls.
    """
    found: list[AISolutionError] = []
    for error in group.exceptions:
        inner = worst_of(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(inner, AISolutionError):
            return None
        found.append(inner)
    order = (Charge.UNKNOWN, Charge.CHARGED, Charge.FREE)
    return min(found, key=lambda error: order.index(error.charge))


def _without_paths(text: str) -> str:
    """What an InputError says, but nothing of the files of this machine, nor whether they exist."""
    file = re.match(r"(\w+) ['\"]", text)  # an image's name, and the path that was given
    if file is not None:
        return f"{file[1]} cannot be used."
    return f"{text[:1].upper()}{text[1:]}" if text.startswith("a ") else text
