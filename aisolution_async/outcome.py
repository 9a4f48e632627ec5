"""What came of one call of a batch: an answer or a failure, each a value; and the columns that a table of them has."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Generic, Literal, get_args, get_origin

from pydantic import BaseModel

from aisolution_async.api import ENDPOINTS, Call, Endpoint, R, R_co, Reply
from aisolution_async.charges import Attempt, Charge, overall
from aisolution_async.errors import AISolutionError, Key, OutcomeUnknownError, UnknownStatusError
from aisolution_async.hiding import SECRET_FIELDS, redacted


# Of its fields in their order, pyright would make patterns for the two below, in place of theirs.
@dataclass(frozen=True, slots=True, match_args=False)
class Outcome:
    """What came of one call: `reply` or `error`, never both, never neither. It is an `Answered` or a `Failed`.

    - `index`: the call's place in the input, from 0.
    - `key`: your key of the call. `call`: what was asked; None where the input held no call.
    - `reply`, `error`: the vendor's answer, or why there is none; the other one is None.
    - `attempts`: the requests that were sent for this call, oldest first. `charge`: what they cost together.
    - `answered_by`: where the same was asked before, the `index` of the call whose reply this is; else None. Nothing
      was sent for this call then, and it was free. So it is with a reply `from_ledger`.
    """

    index: int
    key: Key
    call: Call[Any] | None
    reply: Reply | None
    error: AISolutionError | None
    attempts: tuple[Attempt, ...]
    answered_by: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a reply."""
        return self.error is None

    @property
    def charge(self) -> Charge:
        """What the call cost."""
        return overall(self.attempts) if self.error is None else self.error.charge

    @property
    def from_ledger(self) -> bool:
        """Whether the reply was in the ledger, from an earlier call; `reply.answered_at` says when."""
        return self.reply is not None and self.reply.recorded is not None

    @property
    def recorded(self) -> Attempt | None:
        """The attempt of an earlier call that the ledger answers from, or holds this call for; else None.

        `recorded.charge` is what that call cost then, and `recorded.number` how many attempts it took.
        """
        return getattr(self.error if self.reply is None else self.reply, "recorded", None)

    def to_dict(self) -> dict[str, bool | int | float | str | None]:
        """The outcome as one row of a table, for JSON, pandas, pyarrow or `csv.DictWriter`.

        Every outcome has the same names, whatever was asked and whatever came of it; what its endpoint does not answer
        is None. `index`, `key` and `endpoint` say whose row it is, `ok` whether there is a reply, `answer_…` what its
        fields say. `answer_raw` is the vendor's own words of an answer that may have been paid for and does not fit the
        contract. `charge`, `status` (the vendor's, of the last attempt) and `attempts` (how many) are those of this
        call, `error` is the error's class and `problem` its text. `answered_by` and `from_ledger` say where an answer
        is from that nothing was sent for.

        Each name holds one type: `ok` and `from_ledger` are truth values; `index`, `attempts`, `answered_by` and counts
        are whole numbers; scores are floating numbers; all else is text: the key too, since a list may have keys of
        several types, and a list in a reply (`answer_matches`) as JSON. No image, token or group id is among them.
        """
        call, error = self.call, self.error
        endpoint = call.endpoint.name if call is not None else error and error.endpoint
        row: dict[str, Any] = dict.fromkeys(_row_names())
        row |= {"index": self.index, "key": _text(self.key), "endpoint": endpoint, "ok": self.ok}
        if self.reply is not None:
            row |= {f"answer_{name}": _cell(value) for name, value in plain(self.reply).items()}
        if error is not None:
            problem = _text(" ".join(str(error).split()))
            row |= {"answer_raw": raw_answer(error), "error": type(error).__name__, "problem": problem}
        status = self.attempts[-1].status if self.attempts else None
        row |= {"charge": self.charge.value, "status": _text(status), "attempts": len(self.attempts)}
        return row | {"answered_by": self.answered_by, "from_ledger": self.from_ledger}


@dataclass(frozen=True, slots=True, match_args=False)
class Answered(Outcome, Generic[R_co]):
    """The vendor answered, now or before: `case Answered(key, reply)`."""

    __match_args__ = ("key", "reply")

    call: Call[R_co]
    reply: R_co
    error: None

    @property
    def ok(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True, match_args=False)
class Failed(Outcome):
    """There is no answer: `case Failed(key, error)`. `error.charge` says what that cost."""

    __match_args__ = ("key", "error")

    reply: None
    error: AISolutionError

    @property
    def ok(self) -> Literal[False]:
        return False


class _OpenOutcome:
    """An `Outcome` while it is made."""

    __slots__ = Outcome.__slots__


def outcome_of(
    index: int, call: Call[R], reply: R | None, error: AISolutionError | None, attempts: tuple[Attempt, ...]
) -> Answered[R] | Failed:
    """The outcome of a call that ended in `reply` or in `error`."""
    # As `charges.attempt_of`: a frozen class takes its time to set its fields.
    made: Any = _OpenOutcome()
    made.index, made.key, made.call, made.reply, made.error = index, call.key, call, reply, error
    made.attempts, made.answered_by = attempts, None
    made.__class__ = Failed if reply is None else Answered
    assert (reply is None) is not (error is None)
    return made  # type: ignore[no-any-return]  # what it is from now on


# ------------------------------------------------------------------------------------- what a table of outcomes has


def result_columns(*endpoints: Endpoint[Any]) -> dict[str, Any]:
    """The names of what comes of a call to one of `endpoints`, and what they hold.

    That is bool, int, float, str, or `[{name: type}]` for a list of records.
    """
    columns: dict[str, Any] = {"ok": bool}
    for endpoint in endpoints:
        for name, field in endpoint.reply.model_fields.items():
            if name not in SECRET_FIELDS:
                columns[f"answer_{name}"] = _type_of(field.annotation)
    if not all(endpoint.never_charges for endpoint in endpoints):
        columns["answer_raw"] = str
    return columns | {"charge": str, "status": str, "attempts": int, "error": str, "problem": str}


def raw_answer(error: AISolutionError | None, redact: Callable[[str], str] = str) -> str | None:
    """The vendor's own words, as JSON, of an answer that may have been paid for and does not fit the contract."""
    if isinstance(error, OutcomeUnknownError | UnknownStatusError) and (
        error.status == "OK" or error.message is not None
    ):
        # Before it is JSON, in which a token may be spelt otherwise.
        return json.dumps(redacted(plain(error.message), redact), ensure_ascii=False)
    return None


def plain(value: Any) -> Any:
    """`value` as what JSON knows, without what is secret."""
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return {name: plain(getattr(value, name)) for name in names if name not in SECRET_FIELDS}
    if isinstance(value, dict):
        return {name: plain(held) for name, held in value.items() if name not in SECRET_FIELDS}
    if isinstance(value, list):
        return [plain(held) for held in value]
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is no text that can be written
    return value


@functools.cache
def _row_names() -> tuple[str, ...]:
    return ("index", "key", "endpoint", *result_columns(*ENDPOINTS.values()), "answered_by", "from_ledger")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _text(value: object) -> str | None:
    return None if value is None else plain(str(plain(value)))


def _type_of(annotation: Any) -> Any:
    """The type of a column for a field of a reply."""
    if get_origin(annotation) is Annotated:
        return _type_of(get_args(annotation)[0])
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        if isinstance(item, type) and issubclass(item, BaseModel):
            fields = {n: _type_of(f.annotation) for n, f in item.model_fields.items() if n not in SECRET_FIELDS}
            return [fields]
    kinds = [_type_of(kind) for kind in get_args(annotation) if kind is not type(None)]
    if kinds and all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    return annotation if annotation in (bool, int, float) else str
