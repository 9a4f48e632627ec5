"""The result columns: what came of a row, under names that stay.

For every endpoint: `ok`; the fields of its reply, each as `answer_FIELD`; where the endpoint charges,
`answer_raw`, the vendor's own words of an OK that did not fit the contract and may have been paid for; then
`charge`, `status` (the vendor's, of the last attempt), `attempts` (how many), `error` (the error's class) and
`problem` (what is wrong, and the remedy). A name that the input has already gets `_2` behind it, or the next
number that is free. `group_id` is the vendor's access key and is never among them, and where the vendor echoes
the token, … stands in its place. A row that asks the same as an earlier one has that one's answer, after 0
attempts, and is free.

So that a run that was stopped and resumed writes what an unbroken one writes, an answer from the ledger has the
charge that it had when it was asked for, and the one attempt that brought it; a call that is held has the unknown
charge, and the attempt, for which it is held. (So has a row that asks the same as one 10,000 answers before it,
which the batch has forgotten and the ledger has not.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any

from pydantic import BaseModel

from aisolution_async.api import Call, Endpoint, Reply
from aisolution_async.batch import Outcome
from aisolution_async.charges import Charge
from aisolution_async.errors import OutcomeUnknownError

SECRET_FIELDS = frozenset({"group_id"})
"""Fields of replies that are never written or shown unasked."""

# What a spreadsheet would take for a formula, full-width forms included. +6281… is read as a number and harmless.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_PLAIN_NUMBER = re.compile(r"\+?[0-9]+")


class Results:
    """The result columns of one endpoint beside the input columns `taken`. `redact` takes the token out of text."""

    def __init__(self, call: type[Call[Any]], taken: Collection[str], redact: Callable[[str], str]) -> None:
        self._endpoint: Endpoint[Any] = call.endpoint
        self._redact = redact
        self._fields = [name for name in call.endpoint.reply.model_fields if name not in SECRET_FIELDS]
        self._keeps_raw = not call.endpoint.never_charges
        names = ["ok", *(f"answer_{name}" for name in self._fields)]
        if self._keeps_raw:
            names.append("answer_raw")
        names += ["charge", "status", "attempts", "error", "problem"]
        self.names = [_free(name, {*taken, *names}) if name in taken else name for name in names]

    def values(self, outcome: Outcome, problem: str | None) -> list[Any]:
        """What goes into the columns: text, numbers, truth values, lists and None."""
        answer = {} if outcome.reply is None else answered(outcome.reply)
        values = [outcome.ok, *(answer.get(name) for name in self._fields)]
        if self._keeps_raw:
            values.append(self._raw(outcome))
        last = outcome.attempts[-1] if outcome.attempts else None
        charge, status, attempts = outcome.charge, last and last.status, len(outcome.attempts)
        if outcome.answered_by is None and outcome.reply is not None and outcome.from_ledger:
            charge, status, attempts = _charge_of(self._endpoint, outcome.reply), "OK", attempts + 1
        elif outcome.answered_by is None and is_held(outcome):
            charge, attempts = Charge.UNKNOWN, 1
        values += [charge.value, status, attempts]
        values += [outcome.error and type(outcome.error).__name__, problem and " ".join(problem.split())]
        return [redacted(value, self._redact) for value in values]

    def _raw(self, outcome: Outcome) -> str | None:
        error = outcome.error
        if isinstance(error, OutcomeUnknownError) and error.status == "OK":
            # Before it is JSON, in which a token may be spelt otherwise.
            return json.dumps(redacted(plain(error.message), self._redact), ensure_ascii=False)
        return None


def is_held(outcome: Outcome) -> bool:
    """Whether nothing was sent because an earlier attempt at the same may have been charged."""
    return isinstance(outcome.error, OutcomeUnknownError) and not outcome.attempts


def answered(reply: Reply) -> dict[str, Any]:
    """The documented fields of `reply` as plain values, without what is secret."""
    found: dict[str, Any] = plain(reply)
    return found


def cell(value: Any) -> str:
    """`value` as the text of a cell that no spreadsheet runs as a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and _FORMULA.match(text) and not _PLAIN_NUMBER.fullmatch(text):
        return f"'{text}"
    return text


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


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """`value`, as `plain` makes it, with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(name): redacted(held, redact) for name, held in value.items()}
    if isinstance(value, list):
        return [redacted(held, redact) for held in value]
    return value


def _charge_of(endpoint: Endpoint[Any], reply: Reply) -> Charge:
    charge = endpoint.charges["OK"]
    if endpoint.refined_by is not None:
        charge = endpoint.charges.get(f"OK:{getattr(reply, endpoint.refined_by)}", charge)
    return charge


def _free(name: str, taken: Collection[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
