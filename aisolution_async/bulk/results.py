"""The result columns: what came of a row, under names that stay.

For every endpoint: `ok`; the fields of its reply, each as `answer_FIELD`; where the endpoint charges,
`answer_raw`, the vendor's own words of an OK that did not fit the contract and may have been paid for; then
`charge`, `status` (the vendor's, of the last attempt), `attempts` (how many), `error` (the error's class) and
`problem` (what is wrong, and the remedy). A name that the input has already gets `_2` behind it, or the next
number that is free. `group_id` is the vendor's access key and is never among them. A row that asks the same as
an earlier one has that one's answer, after 0 attempts, and is free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from enum import Enum
from typing import Any

from pydantic import BaseModel

from aisolution_async.api import Call, Reply
from aisolution_async.batch import Outcome
from aisolution_async.errors import OutcomeUnknownError

SECRET_FIELDS = frozenset({"group_id"})
"""Fields of replies that are never written or shown unasked."""

# What a spreadsheet would take for a formula, full-width forms included. +6281… is read as a number and harmless.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_PLAIN_NUMBER = re.compile(r"\+?[0-9]+")


class Results:
    """The result columns of one endpoint beside the input columns `taken`."""

    def __init__(self, call: type[Call[Any]], taken: Collection[str]) -> None:
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
            values.append(_raw(outcome))
        last = outcome.attempts[-1] if outcome.attempts else None
        values += [outcome.charge.value, last and last.status, len(outcome.attempts)]
        values += [outcome.error and type(outcome.error).__name__, problem and " ".join(problem.split())]
        return values


def answered(reply: Reply) -> dict[str, Any]:
    """The documented fields of `reply` as plain values, without what is secret."""
    plain: dict[str, Any] = _plain(reply)
    return plain


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


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return {name: _plain(getattr(value, name)) for name in names if name not in SECRET_FIELDS}
    if isinstance(value, dict):
        return {name: _plain(held) for name, held in value.items() if name not in SECRET_FIELDS}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is no text that can be written
    return value


def _raw(outcome: Outcome) -> str | None:
    error = outcome.error
    if isinstance(error, OutcomeUnknownError) and error.status == "OK":
        return json.dumps(_plain(error.message), ensure_ascii=False)
    return None


def _free(name: str, taken: Collection[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
