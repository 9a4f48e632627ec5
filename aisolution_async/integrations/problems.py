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

import functools
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    status, name, title, detail = _kind_of(error)
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


def document(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the problems to the OpenAPI schema of a service: to each operation, since any may ask the vendor.

    What an operation says of a status itself stays, beside this. May be done again on the same schema.
    """
    schema.setdefault("components", {}).setdefault("schemas", {}).setdefault("AISolutionProblem", _SCHEMA)
    for path in schema.get("paths", {}).values():
        for method, operation in path.items():
            if method in _METHODS:
                responses = operation.setdefault("responses", {})
                for status, response in _responses().items():
                    there = responses.setdefault(status, {"description": response["description"]})
                    there.setdefault("content", {}).setdefault(CONTENT_TYPE, response["content"][CONTENT_TYPE])
                    for name, header in response["headers"].items():
                        there.setdefault("headers", {}).setdefault(name, header)
    return schema


_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_SCHEMA: Mapping[str, Any] = {
    "title": "AISolutionProblem",
    "description": "Why a request could not be answered, as problem details (RFC 9457), and what it cost.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "charge"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri",
            "enum": [_TYPE + name for _, name, _, _ in _KINDS.values()],
            "description": "Which problem it is.",
        },
        "title": {"type": "string", "description": "The same for all problems of the type."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What can be done, for a person to read."},
        "charge": {"type": "string", "enum": [*Charge], "description": "What the request cost."},
    },
}


@functools.cache
def _responses() -> Mapping[str, Any]:
    """The problems by HTTP status, each as an example."""
    found: dict[str, Any] = {}
    for status, name, title, detail in sorted(_KINDS.values()):
        response = found.setdefault(str(status), {"titles": [], "examples": {}})
        response["titles"].append(title)
        value = {"type": _TYPE + name, "title": title, "status": status, "detail": detail}
        charge = Charge.UNKNOWN if name in ("outcome-unknown", "unknown-status") else Charge.FREE
        response["examples"][name] = {"summary": title, "value": {**value, "charge": charge.value}}
    for code, response in found.items():
        response["description"] = "; ".join(dict.fromkeys(response.pop("titles")))
        schema = {"$ref": "#/components/schemas/AISolutionProblem"}
        response["content"] = {CONTENT_TYPE: {"schema": schema, "examples": response.pop("examples")}}
        seconds = {"description": "Seconds to wait, if the service is busy.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds} if code == "503" else {}
    return found


def title_of(error: AISolutionError) -> str:
    """What went wrong, in a few words for anybody."""
    return _kind_of(error)[2]


def _kind_of(error: AISolutionError) -> tuple[int, str, str, str]:
    return next(_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS)


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
