"""The result columns: what came of a row, under names that stay.

For every endpoint: `ok`, whether the question is settled; the fields of its reply, each as `answer_FIELD`; where the
endpoint charges, `answer_raw`, the vendor's own words of an answer that may have been paid for and does not fit the
contract; then `charge`, `status` (the vendor's, of the last attempt), `attempts` (how many), `error` (the error's
class) and `problem` (what is wrong, and the remedy). A reply that settles nothing, since WhatsApp is still checking or
was not available, has `ok` false and no error, and `problem` says what to do. Where several endpoints are asked of each
row, every name begins with the endpoint's: `face_compare_ok`. A name that the input has already gets `_2` behind it, or
the next number that is free. `group_id` is the vendor's access key and is never among them, and where the vendor echoes
the token, … stands in its place. A row that asks the same as an earlier one has that one's answer, after 0 attempts,
and is free; its `status` says which row that is.

Types, where a format has them: `ok` is a truth value, `attempts` and counts are whole numbers, scores are floating
numbers, a list in a reply is a list of records (`answer_matches`), and all else is text.

So that a run that was stopped and resumed writes what an unbroken one writes, an answer from the ledger has the
charge, status and attempts that it had when it was asked for, and so has a call that is held. (So has a row that asks
the same as one 10,000 answers before it, which the batch has forgotten and the ledger has not.)
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, get_args

from aisolution_async.api import Call, Endpoint, Reply, WhatsAppState
from aisolution_async.charges import Attempt, Charge, overall
from aisolution_async.errors import OutcomeUnknownError, UnknownStatusError
from aisolution_async.hiding import SECRET_FIELDS, redacted
from aisolution_async.outcome import Outcome, plain, raw_answer, result_columns

# What a spreadsheet would take for a formula: = + - @, | and % (DDE), their other forms included, and what it may not
# see before them. A number is harmless: +6281… or -12.5.
_UNSEEN = r"[\s\x00-\x20\x7f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*"
_SIGNS = (
    r"=+\-@|%"
    r"\uff1d\uff0b\uff0d\uff20\uff5c\uff05"  # full-width
    r"\ufe66\ufe62\ufe63\ufe6b\ufe6a"  # small
    r"\u2212\u207a\u207b\u207c\u208a\u208b\u208c\u2a75\u2a76\ufb29"  # what else is the same for who compares so
)
_FORMULA = re.compile(_UNSEEN + rf"[{_SIGNS}]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]{1,3})?")
# A phone number as people write it. With only dashes in it, it is a sum: a spreadsheet makes -875 of +62-813-124.
# Where numbers or brackets meet without a sign in between, or a number has a second point, it is no formula at all, and
# a spreadsheet leaves the text as it is.
_PHONE_NUMBER = re.compile(r"[ \xa0]*\+[0-9 \xa0().-]+")
_NO_SUM = re.compile(r"[0-9.][ \xa0]+[0-9.]|[0-9.][ \xa0]*\(|\)[ \xa0]*[0-9(]|\.[0-9]+\.")
_BUY_AGAIN = "say --retry-unknown {} to buy it again"
_ADVICE = "it may have been charged: settle it in the ledger, or say --retry-unknown {} to send it again"
_UNSETTLED = {
    WhatsAppState.CHECKING: "WhatsApp is still checking this number: run it again later, or say --recheck",
    WhatsAppState.UNAVAILABLE: "WhatsApp was not available: run it again later",
}
_WHERE_IT_IS = ", see .message", ", see answer_raw"  # of an error in a program, and of one in a sheet
_SHARED = re.compile(r"\bitem \d+ asked the same, and that ended so: ")


class RowState(StrEnum):
    """What came of a call, or of a row: a settled answer, a reply that settles nothing yet, or neither."""

    OK = "ok"
    CHECKING = "checking"
    FAILED = "failed"

    @classmethod
    def of(cls, outcome: Outcome) -> RowState:
        """What came of a call."""
        if outcome.reply is None:
            return cls.FAILED
        return cls.OK if outcome.reply.is_answer else cls.CHECKING


class Results:
    """The result columns of one endpoint beside the columns `taken`.

    `redact` takes the token out of text. `several`: other endpoints have columns too, so the names say whose they are.
    """

    def __init__(
        self, call: type[Call[Any]], taken: Collection[str], redact: Callable[[str], str], *, several: bool = False
    ) -> None:
        endpoint = self.endpoint = call.endpoint
        self._redact = redact
        self._reply = endpoint.reply
        self._fields = [name for name in endpoint.reply.model_fields if name not in SECRET_FIELDS]
        self._may_wait = endpoint.reply.is_answer is not Reply.is_answer  # whether a reply may settle nothing
        self._keeps_raw = not endpoint.never_charges
        types = result_columns(endpoint)
        self.types: list[Any] = [*types.values()]
        """What the columns hold: bool, int, float, str, or `[{name: type}]` for a list of records."""
        prefix = f"{endpoint.command.replace('-', '_')}_" if several else ""
        names = [prefix + name for name in types]
        # What is another result's name is no free one either.
        self.names = [free_name(name, {*taken, *names}) if name in taken else name for name in names]
        """Their names."""

    @property
    def verdicts(self) -> list[int]:
        """The places, among the values, of the vendor's verdicts: fields of which there are only so many words."""
        fields = self._reply.model_fields
        return [place for place, name in enumerate(self._fields, 1) if _is_word(fields[name].annotation)]

    def values(self, outcome: Outcome, problem: str | None, like: str | None = None) -> list[Any]:
        """What goes into the columns: text, numbers, truth values, lists and None.

        `like` says which other row had the answer, where nothing was sent for this one.
        """
        answer = {} if outcome.reply is None else redacted(answered(outcome.reply), self._redact)
        values = [RowState.of(outcome) is RowState.OK, *(answer.get(name) for name in self._fields)]
        if self._keeps_raw:
            values.append(raw_answer(outcome.error, self._redact))
        last = outcome.attempts[-1] if outcome.attempts else None
        charge, status, attempts = outcome.charge, last.status if last else like, len(outcome.attempts)
        recorded = outcome.recorded if outcome.answered_by is None else None
        if recorded is not None:
            charge = overall((*outcome.attempts, recorded))
            status, attempts = recorded.status, attempts + recorded.number
        values += [charge.value, status and self._redact(status), attempts]
        values += [_error_name(outcome), problem and self._redact(" ".join(problem.split()))]
        return values

    def fields_of(self, reply: Reply) -> list[Any]:
        """What goes into the columns of its fields."""
        said = answered(reply)
        return [redacted(said.get(name), self._redact) for name in self._fields]

    # ------------------------------------------------------------------------------------- from a file to be read

    def read(self, record: Mapping[str, Any]) -> list[Any] | None:
        """The values of a row of an earlier output, each of its type; None if it has not all of these columns.

        An earlier version wrote that a reply which settles nothing is ok.
        """
        if not all(name in record for name in self.names):
            return None
        values = [_typed(record[name], kind) for name, kind in zip(self.names, self.types, strict=True)]
        if (
            values[0] is True
            and self._may_wait
            and (reply := self._reply_of(values)) is not None
            and not reply.is_answer
        ):
            values[0], values[-1] = False, unsettled_problem(reply)
        return values

    def state(self, values: Sequence[Any]) -> RowState:
        """What came of the call that has these values."""
        if values[0] is True:
            return RowState.OK
        if values[-2] is not None:
            return RowState.FAILED
        reply = self._reply_of(values)
        return RowState.FAILED if reply is None or reply.is_answer else RowState.CHECKING

    def verdict(self, reply: Reply) -> str | None:
        """The vendor's verdict in a reply; None where it says none."""
        word = self.fields_of(reply)[self.verdicts[0] - 1] if self.verdicts else None
        return None if word is None else str(word)

    def said(self, values: Sequence[Any]) -> str:
        """What was answered, in one word: the verdict; else whether anything was found, or that there is an answer."""
        if (verdicts := self.verdicts) and (word := values[verdicts[0]]) is not None:
            return str(word)
        answer = self.answer(values)
        if len(answer) == 1 and isinstance(answer[0], list):
            return "found" if answer[0] else "not found"
        return "answered"

    def answer(self, values: Sequence[Any]) -> Sequence[Any]:
        """Of the values, those of the reply's fields."""
        return values[1 : 1 + len(self._fields)]

    def _reply_of(self, values: Sequence[Any]) -> Reply | None:
        """The reply that the values were made of; None where they are of none."""
        try:
            reply: Reply = self._reply.model_validate(dict(zip(self._fields, self.answer(values), strict=True)))
        except ValueError:
            return None
        return reply

    def raw(self, values: Sequence[Any]) -> Any:
        """Of the values, the vendor's own words of an OK that did not fit; None if there are none."""
        return values[1 + len(self._fields)] if self._keeps_raw else None

    def charge(self, values: Sequence[Any]) -> Any:
        """Of the values, the charge."""
        return values[-5]


NOT_SENT = "not sent"
"""Of the calls that are free, those of which nothing was sent."""


def counts_of(values: Sequence[Any]) -> Iterator[str]:
    """What a call counts as, by its values: its charge, whichever run it was of, and NOT_SENT if that is so.

    The summary of a run and the one in a workbook both count so.
    """
    charge, attempts = str(values[-5]), values[-3]
    yield charge
    if charge == Charge.FREE and not attempts:
        yield NOT_SENT


def columns_of(
    kinds: Sequence[type[Call[Any]]], header: Sequence[str], redact: Callable[[str], str]
) -> tuple[list[str], list[Results]]:
    """The columns of an output of rows with the columns `header`, and those of each of `kinds` among them."""
    names, found = [*header], []
    for call in kinds:
        results = Results(call, names, redact, several=len(kinds) > 1)
        found.append(results)
        names += results.names
    return names, found


def exchanged(first: Outcome, asked: Outcome) -> tuple[Outcome, Outcome]:
    """The two outcomes with the attempts on the other one: `first` had its answer from `asked`, which stands later.

    Which of two calls that ask the same is sent, chance decides; in a file, it is always the first.
    """
    return (
        dataclasses.replace(asked, index=first.index, key=first.key, call=first.call),
        dataclasses.replace(first, index=asked.index, key=asked.key, call=asked.call, answered_by=first.index),
    )


def problem_of(outcome: Outcome, endpoint: Endpoint[Any], *, holds: bool) -> str:
    """What is wrong with a call that has no answer. `holds`: a ledger holds what may have been charged.

    Of such a call it says the same when it is asked and when it is held: its row stays as it was.
    """
    return _problem_of(outcome, endpoint, holds=holds).replace(*_WHERE_IT_IS)


def _problem_of(outcome: Outcome, endpoint: Endpoint[Any], *, holds: bool) -> str:
    error, recorded = outcome.error, outcome.recorded
    unknown = unknown_of(outcome)
    if holds and _may_be_held(outcome, endpoint):
        times = holds_of(outcome)
        if outcome.answered_by is not None and isinstance(error, OutcomeUnknownError | UnknownStatusError):
            return f"{endpoint.name}: another row asked the same, which is held: {_ADVICE.format(times)}"
        if is_held(outcome) and recorded is not None and recorded.charge is Charge.CHARGED:
            text = "held: it was charged, as somebody settled, and its answer is lost"
            return f"{endpoint.name}: {text}: {_BUY_AGAIN.format(times)}"
        if unknown or (is_held(outcome) and recorded is not None):
            last = recorded if recorded is not None and not unknown else unknown[-1]
            reason = f"{last.error}; " if last is not None and last.error else ""
            return f"{endpoint.name}: {reason}held: {_ADVICE.format(times)}"
    return _SHARED.sub("another row asked the same, and that ended so: ", str(outcome.error))


def unsettled_problem(reply: Reply) -> str | None:
    """What to do about a reply that settles nothing; None for an answer."""
    if reply.is_answer:
        return None
    return _UNSETTLED.get(
        getattr(reply, "whatsapp", WhatsAppState.UNAVAILABLE), "it is not settled: run it again later"
    )


def unknown_of(outcome: Outcome) -> list[Attempt]:
    """The attempts of a call that may have been charged."""
    return [attempt for attempt in outcome.attempts if attempt.charge is Charge.UNKNOWN]


def holds_of(outcome: Outcome) -> int:
    """How many attempts hold a call that is held: `--retry-unknown` passes so many."""
    return max(len(unknown_of(outcome)), getattr(outcome.error, "holds", 1))


def _may_be_held(outcome: Outcome, endpoint: Endpoint[Any]) -> bool:
    """Whether the ledger knows another call to be the same."""
    return not endpoint.idempotent and (not endpoint.never_charges or outcome.key is not None)


def _error_name(outcome: Outcome) -> str | None:
    recorded = outcome.recorded
    if is_held(outcome) and recorded is not None and recorded.status not in (None, "OK"):
        return UnknownStatusError.__name__  # as it was when it was asked
    return None if outcome.error is None else type(outcome.error).__name__


def is_held(outcome: Outcome) -> bool:
    """Whether nothing was sent because an earlier attempt at the same may have been charged."""
    error = outcome.error
    return isinstance(error, OutcomeUnknownError) and (error.recorded is not None or not outcome.attempts)


def is_unsettled(outcome: Outcome, endpoint: Endpoint[Any]) -> bool:
    """Whether a ledger holds a call that failed: an attempt at it, now or before, may have been charged."""
    if not _may_be_held(outcome, endpoint):
        return False
    shared = outcome.answered_by is not None and isinstance(outcome.error, OutcomeUnknownError | UnknownStatusError)
    return shared or is_held(outcome) or any(attempt.charge is Charge.UNKNOWN for attempt in outcome.attempts)


def answered(reply: Reply) -> dict[str, Any]:
    """The documented fields of `reply` as plain values, without what is secret."""
    found: dict[str, Any] = plain(reply)
    return found


def cell(value: Any) -> str:
    """`value` as the text of a cell that no spreadsheet runs as a formula."""
    return defused(value) if isinstance(value, str) else bare(value)


def bare(value: Any) -> str:
    """`value` as the text of a cell, whatever it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def defused(text: str) -> str:
    """`text`, with an apostrophe in front if a spreadsheet would take it for a formula."""
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def is_phone_number(text: str) -> bool:
    """Whether `text` is a phone number, as people write it, of which no spreadsheet can make a formula."""
    return _PHONE_NUMBER.fullmatch(text) is not None and _NO_SUM.search(text) is not None


def _is_word(annotation: Any) -> bool:
    """Whether a field is one of the words of an enumeration, or may be."""
    if isinstance(annotation, type):
        return issubclass(annotation, StrEnum)
    return any(map(_is_word, get_args(annotation)))


def _typed(value: Any, kind: Any) -> Any:
    """A value as its column has it, also where it stands in a file of text, or in a workbook."""
    if kind is float and isinstance(value, int):
        return float(value)  # a workbook does not tell 97 from 97.0
    if not isinstance(value, str) or kind is str:
        return None if value == "" else value
    if kind is float:
        value = value.replace(",", ".")
    try:
        return None if value == "" else json.loads(value)
    except ValueError:
        return None


def free_name(name: str, taken: Collection[str]) -> str:
    """`name` if it is not taken, else with the first number behind it that makes it so."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
