"""What came back, read: the vendor's envelope as a reply or an error, and what it cost. No I/O.

The charge table of the whole project is here and in `api.py`, row by row:

- an envelope (a JSON object with a `status` string, whatever the HTTP code) costs what the endpoint documents
  for the status; an undocumented status, or one that says two things, is UNKNOWN (FREE where the endpoint never
  charges); an OK whose message does not fit the contract, or is about another number than was asked, is UNKNOWN;
- an answer that came before its request was out is another request's: UNKNOWN, unless it refuses;
- no envelope and HTTP 4xx, or 503: FREE; 429 and 503 may be tried again;
- no envelope and anything else: UNKNOWN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic

from pydantic import ValidationError
from pydantic_core import from_json

from aisolution_async.api import ERRORS, Endpoint, R
from aisolution_async.charges import Attempt, Charge
from aisolution_async.errors import (
    AISolutionError,
    FaceNotFoundError,
    Key,
    OutcomeUnknownError,
    RefusedError,
    RetryLaterError,
    StatusError,
    UnknownStatusError,
    quotable,
)
from aisolution_async.hiding import SECRET_FIELDS, redacted, redacted_bytes

LONGEST_KEPT = 64 * 1024
"""Characters that are kept, in the error's message and in a ledger, of an answer that cannot be read."""

_GROUP_ID = re.compile(r"""(group_?id\W{0,9})[^\s"',&}<]+""", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)

_NOT_IMPLEMENTED = 501
_HINTS = {
    "INVALID_REQUEST": "check that every image is a readable photo",
    "INVALID_INPUT": "check the number and the country",
    "IMAGE_INVALID_SIZE": "make the photo smaller",
    "FACE_DETECT_FAILED": "no face was found on the photo; use another one",
    "INVALID_FACE_NUM": "the photo must show a person holding a card, and nobody else",
    "PERSON_ID_NOT_EXIST": "no such person was added, or the person was deleted already",
    "FAIL": "the vendor could not work on it",
    "RETRY_LATER": "the vendor asks to try again later",
}


@dataclass(slots=True)
class Answer(Generic[R]):
    """What one HTTP response means.

    Either `reply` is there, or `kind` says which error it becomes; `repeatable` marks what is free and may
    pass: the same request can be sent again without asking anyone. `retry_after` is in seconds.
    """

    charge: Charge
    http_status: int
    status: str | None = None
    message: Any = None
    body: bytes | None = None
    reply: R | None = None
    kind: type[AISolutionError] | None = None
    repeatable: bool = False
    retry_after: float | None = None
    text: str = ""
    of_another: bool = False
    """Whether it is about another number than was asked."""
    redacted: bool = False
    """Whether a secret was taken out of the reply."""

    @property
    def refuses(self) -> bool:
        """Whether it says that nothing was done, and that this is free: by HTTP, or by a status of the contract."""
        return self.charge is Charge.FREE and self.reply is None and self.kind is not UnknownStatusError

    def error(self, endpoint: str, key: Key, attempts: tuple[Attempt, ...]) -> AISolutionError:
        """The error that this answer is, on the last of `attempts`."""
        assert self.kind is not None
        details: dict[str, Any] = {
            "endpoint": endpoint,
            "key": key,
            "attempts": attempts,
            "http_status": self.http_status,
        }
        if self.kind is OutcomeUnknownError:
            details["body"] = self.body
        if self.kind is not RefusedError:
            details |= {"status": self.status, "message": self.message}
        if self.kind is RetryLaterError:
            details["retry_after"] = self.retry_after
        return self.kind(f"{endpoint}: {self.text}", **details)


def read(  # noqa: PLR0912  # the whole table, row by row
    endpoint: Endpoint[R],
    http_status: int,
    body: bytes,
    *,
    retry_after: str | None = None,
    rules: Mapping[str, Charge] | None = None,
    redact: Callable[[str], str] = str,
) -> Answer[R]:
    """What an answer of `endpoint` means and costs.

    `body` is the decoded body, `retry_after` the header's value as it came, `rules` the charge by status where
    it differs from what the endpoint documents, `redact` takes secrets out of text: of all that an error carries, and a
    reply but for its access key.
    """
    charges = endpoint.charges if rules is None else rules
    envelope = _json(body)
    status = envelope.get("status") if isinstance(envelope, dict) else None
    if not isinstance(status, str):
        if isinstance(envelope, dict) and _says_two_things(body):
            return _contradiction(endpoint, http_status, body, seconds(retry_after), redact)
        return _without_envelope(http_status, body, seconds(retry_after), redact)
    message = envelope.get("message")
    # Each pair of name and value has a colon: where there are no more colons than pairs, no name stands there twice.
    pairs = len(envelope)
    if isinstance(message, dict):
        pairs += len(message)
    elif isinstance(message, list):
        pairs += sum([len(each) for each in message if isinstance(each, dict)])
    if body.count(b":") > pairs and _says_two_things(body):
        return _contradiction(endpoint, http_status, body, seconds(retry_after), redact)
    if status == "OK":
        text = body.decode("utf-8", "replace")
        if redact(text) == text:  # as it mostly is, and the whole is looked through faster than its parts
            return _ok(endpoint, http_status, message, charges, redact)
        answer = _ok(endpoint, http_status, _redacted_reply(message, redact), charges, redact)
        answer.redacted = True
        return answer

    # "OK:checking" is our name for a row of the contract, and no status of the vendor's.
    charge = None if status.startswith("OK:") else charges.get(status)
    if status not in ERRORS:
        status = redact(status)
    kind: type[StatusError] = ERRORS.get(status, UnknownStatusError)
    repeatable = False
    if kind is RetryLaterError:
        if isinstance(message, str) and message.strip().endswith("FACE_DETECT_FAILED"):
            kind = FaceNotFoundError
        else:
            repeatable = charge is Charge.FREE
    if charge is None:
        charge = Charge.FREE if endpoint.never_charges else Charge.UNKNOWN
    message = redacted(message, redact)
    said = quotable(message)
    text = f"{quotable(status) or 'an empty status'}{f' ({said})' if said else ''}"
    if kind is UnknownStatusError:
        text = f"the vendor answered with a status that its contract does not know: {text}"
    elif http_status == _NOT_IMPLEMENTED:
        pass  # whatever was sent, it is no remedy to send something else
    elif kind is FaceNotFoundError:
        text = f"{text}: {_HINTS.get(status if status != 'RETRY_LATER' else 'FACE_DETECT_FAILED')}"
    else:
        text = f"{text}: {_HINTS[status]}"
    return Answer(
        charge,
        http_status,
        status,
        message,
        kind=kind,
        repeatable=repeatable,
        retry_after=seconds(retry_after),
        text=text,
    )


def not_ours(
    answer: Answer[R], body: bytes, why: str, *, redact: Callable[[str], str], of_another: bool = False
) -> Answer[R]:
    """`answer` as one to another request: what this request's own is, nobody knows. What came is kept."""
    envelope = _json(body)
    message = envelope.get("message") if isinstance(envelope, dict) else None
    return Answer(
        Charge.UNKNOWN,
        answer.http_status,
        answer.status,
        redacted(message, redact),
        body=redacted_bytes(body, redact),
        kind=OutcomeUnknownError,
        text=f"{why}; this call may have been charged, see .message",
        of_another=of_another,
    )


def _json(body: bytes) -> Any:
    """The JSON value of `body`, None if it is none."""
    try:
        return from_json(body, allow_inf_nan=False, cache_strings="keys")  # no cache keeps what it says of people
    except ValueError:
        return _mended(body)


def _mended(body: bytes) -> Any:
    """The JSON value of `body`, None if it is none.

    Half a surrogate pair or a stray byte in a stranger's signature must not cost the whole paid answer.
    """
    try:
        value = json.loads(body.decode("utf-8-sig", "replace"), parse_constant=_refuse)
        # A number that is too large for us is no reason to take an answer for none.
        return from_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), allow_inf_nan=True)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _says_two_things(body: bytes) -> bool:
    """Whether a name stands twice in one object, however it is spelt, with two values."""
    twice: list[set[str]] = []  # by object; the outermost comes last

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        twice.append({name for name, value in pairs if value != found[name]} if len(found) < len(pairs) else set())
        return found

    json.loads(body.decode("utf-8-sig", "replace"), object_pairs_hook=note)
    return not {"status", "message"}.isdisjoint(twice.pop()) or any(twice)


def _contradiction(
    endpoint: Endpoint[Any], http_status: int, body: bytes, wait: float | None, redact: Callable[[str], str]
) -> Answer[Any]:
    return Answer(
        Charge.FREE if endpoint.never_charges else Charge.UNKNOWN,
        http_status,
        message=_kept(body, redact),
        body=redacted_bytes(body, redact),
        kind=OutcomeUnknownError,
        retry_after=wait,
        text="the answer contradicts itself: it has a field twice, with two values"
        + ("" if endpoint.never_charges else "; it may have been charged"),
    )


def _redacted_reply(message: Any, redact: Callable[[str], str]) -> Any:
    shown = redacted(message, redact)
    if isinstance(message, dict):
        # An access key is for code that asks for it by name, even if it has the token in it.
        shown |= {name: message[name] for name in SECRET_FIELDS & message.keys()}
    return shown


def _ok(
    endpoint: Endpoint[R],
    http_status: int,
    message: Any,
    charges: Mapping[str, Charge],
    redact: Callable[[str], str],
) -> Answer[R]:
    try:
        reply = endpoint.read_reply(message)
    except ValidationError as exc:
        # Only where it failed: the values are the vendor's and may be anything.
        places = {".".join(map(str, problem["loc"][:3])) or "message" for problem in exc.errors(include_input=False)}
        return Answer(
            Charge.UNKNOWN,
            http_status,
            "OK",
            redacted(message, redact),
            kind=OutcomeUnknownError,
            text="answered OK, but the message does not fit the contract "
            f"({', '.join(sorted(filter(None, map(_place, places))))}); it was probably charged, see .message",
        )
    charge = charges["OK"] if "OK" in charges else Charge.UNKNOWN  # noqa: SIM401  # a member of an enum costs 80 ns
    if endpoint.refined_by is not None:
        charge = charges.get("OK:" + getattr(reply, endpoint.refined_by), charge)
    return Answer(charge, http_status, "OK", message, None, reply)


def _place(place: str) -> str:
    return quotable(place.replace("_", " "))


def _without_envelope(http_status: int, body: bytes, wait: float | None, redact: Callable[[str], str]) -> Answer[Any]:
    if http_status in (429, 503):
        said = "too many requests" if http_status == 429 else "the service is not available"
        return Answer(
            Charge.FREE,
            http_status,
            kind=RetryLaterError,
            repeatable=True,
            retry_after=wait,
            text=f"HTTP {http_status}: {said}; try again later",
        )
    if 400 <= http_status < 500:
        hint = "; check the token" if http_status in (401, 403) else ""
        return Answer(Charge.FREE, http_status, kind=RefusedError, text=f"refused with HTTP {http_status}{hint}")
    return Answer(
        Charge.UNKNOWN,
        http_status,
        message=_kept(body, redact),
        body=redacted_bytes(body, redact),
        kind=OutcomeUnknownError,
        retry_after=wait,
        text=f"HTTP {http_status} with no answer in it that can be read; it may have been charged",
    )


def _kept(body: bytes, redact: Callable[[str], str]) -> str | None:
    """What is kept of an answer that cannot be read: its beginning, as text, without secrets."""
    text = body[: 2 * LONGEST_KEPT].decode("utf-8", "replace")
    # A secret may be spelt with JSON's escapes, in what is no JSON.
    bare = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
    clean = _GROUP_ID.sub(r"\1…", redact(bare))
    if clean != bare:
        text = clean.encode("utf-8", "replace").decode()
    return text[:LONGEST_KEPT] or None


_UNITS = {
    "ms": 0.001,
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
}
_WAIT = re.compile(r"([+-]?[0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]*)\.?", re.IGNORECASE | re.ASCII)


def seconds(retry_after: str | None) -> float | None:
    """A Retry-After header as seconds from now: a number, one with a unit ("10s"), or an HTTP date.

    None if it says nothing.
    """
    if retry_after is None:
        return None
    text = retry_after.strip()
    if found := _WAIT.fullmatch(text):
        unit = found[2].lower()
        factor = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s"))
        return None if factor is None else max(0.0, float(found[1])) * factor
    try:
        date = parsedate_to_datetime(text)
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return max(0.0, wait)
