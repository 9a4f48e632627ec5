"""What a run would ask, and at most cost: all is read and checked, and nothing is sent.

A dry run says it of the whole list; `sample.py` draws its rows by it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast

from aisolution_async.api import Call
from aisolution_async.batching import REMEMBERED
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.facts import Asked, Facts, calls_of, gather, in_thread
from aisolution_async.bulk.options import BulkOptions, StrPath, by_keyword
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.photos import Photos
from aisolution_async.bulk.plan import dialect_of, look_at_part
from aisolution_async.bulk.questions import Questions
from aisolution_async.bulk.rows import Row, Rows
from aisolution_async.bulk.words import kind_of
from aisolution_async.charges import Charge
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError
from aisolution_async.ledger import Ask, Held, Stored
from aisolution_async.ledger.peek import Peek
from aisolution_async.ledger.urls import open_peek
from aisolution_async.sending.options import Options

P = ParamSpec("P")

_AT_ONCE = 32
_DIGITS = re.compile(r"\d+")
SHOWN = 20
"""Problems that are kept to be shown, and kinds of problems."""


class Foreseen(Enum):
    """What would become of a call."""

    PROBLEM = "problem"
    """It cannot be sent."""
    SHARED = "shared"
    """It has the answer of one before it that asks the same."""
    STORED = "stored"
    """The ledger answers it, for an attempt that was free."""
    PAID = "paid"
    """The ledger answers it, for an attempt that was charged."""
    HELD = "held"
    """It may have been charged before, and is not sent."""
    NEW = "new"
    """It is sent."""


@dataclass(slots=True)
class ProblemKind:
    """Problems that are alike: how many calls have such a one, and the first of them."""

    example: str
    calls: int = 0


@dataclass(slots=True)
class Forecast:
    """What a run would do.

    `rows` of the input, `failed` of them with problems, counted in `errors` by class for each call; `problems` are
    the first of these, and `kinds` has them by what they have in common, except for `others`, where there are too many
    kinds. `warnings` are lines on what would be sent all the same, as landlines, `notes` on how the input is read, and
    `columns` on which column is used for what, and why.
    Of the calls, `from_ledger` would be answered by earlier ones, `shared` by others that ask the
    same, `held` would not be sent because they may have been charged before, and `calls` would be sent, by endpoint.
    `charges` is how many charges that makes at most, by endpoint, and `cost` what those cost by the prices known: None
    if one is not. `hidden` is how many rows of a workbook nobody sees, as in `Summary`, and so are `totals`,
    `left_out` and `blank`.
    """

    rows: int = 0
    failed: int = 0
    from_ledger: int = 0
    shared: int = 0
    held: int = 0
    holds: int = 1
    calls: Counter[str] = field(default_factory=Counter)
    charges: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    kinds: dict[str, ProblemKind] = field(default_factory=dict)
    others: int = 0
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    cost: Decimal | None = None
    hidden: int | None = 0
    totals: int = 0
    left_out: int = 0
    blank: int = 0


@dataclass(frozen=True, slots=True)
class Among:
    """What lists that are run together have in common: the look into their ledger, and the questions `seen` so far.

    `photos` are those of a list's folder.
    """

    peek: Peek
    seen: set[int]
    photos: Photos


async def foresee(
    client: AsyncClient,
    call: Asked,
    source: StrPath,
    output: StrPath | None,
    options: BulkOptions,
    *,
    among: Among | None = None,
) -> Forecast:
    """What a run would do; see `forecast_bulk`. `among`: it is one of several lists."""
    photos = None if among is None else among.photos
    gathering = partial(gather, calls_of(call), source, output, options, client, photos=photos)
    with closing(await in_thread(gathering, Facts.close)) as facts:
        return await _foresee(client, facts, among)


async def _foresee(client: AsyncClient, facts: Facts, among: Among | None) -> Forecast:
    found, options, maker = Forecast(hidden=facts.rows.hidden), facts.options, facts.calls
    target = None if facts.target is None else await asyncio.to_thread(_target_of, facts, facts.target)
    taken = None if target is None else await asyncio.to_thread(_why_not_free, facts, target)
    found.notes, found.columns = facts.lines(), maker.reasons()
    if taken is not None:
        found.notes.append(f"a run would not begin: {taken}")
    if options.on_start is not None:
        for line in (*found.notes, *found.columns):
            options.on_start(line)
    async for _ in foretell(client, facts, facts.rows, found, among=among):
        pass
    found.left_out, found.blank = facts.rows.left_out, facts.rows.blank
    if target is not None:
        target.check_room(found.rows + found.totals)
    found.warnings = maker.warnings
    if not options.known_prices.missing(found.charges):
        found.cost = options.known_prices.cost(found.charges)
    return found


async def foretell(
    client: AsyncClient,
    facts: Facts,
    rows: Rows,
    found: Forecast,
    *,
    as_sent: bool = True,
    among: Among | None = None,
) -> AsyncGenerator[tuple[Row, Sequence[Foreseen]], None]:
    """What would become of the calls of each of `rows`, which are counted in `found`.

    `as_sent`: images are made to fit and encoded too, which takes its time.
    """
    retries, maker = facts.options.retry_unknown, facts.calls
    view = client if retries is None else client.with_options(retry_unknown=retries)
    with open_peek(facts.ledger) if among is None else nullcontext(among.peek) as peek:
        questions = Questions(view, peek, reuse_for=facts.options.reuse_for)
        limit = None if facts.ledger is not None or among is not None else REMEMBERED
        seen = None if among is None else among.seen
        check = _Count(view.options, questions, peek, maker, found, as_sent=as_sent, limit=limit, seen=seen)
        chunk: list[_Asked] = []
        each = len(facts.kinds)
        for row in rows:
            if row.is_total:
                found.totals += 1
                continue
            found.rows += 1
            await maker.ready(row)
            chunk += [_Asked(row, number, call) for number, call in enumerate(maker.make(row))]
            if len(chunk) >= _AT_ONCE:
                for one in _by_row(chunk, await check.see(chunk), each):
                    yield one
                chunk = []
        for one in _by_row(chunk, await check.see(chunk), each):
            yield one
    repeats = 1 + view.options.retry.unknown
    found.charges = Counter({name: found.charges[name] * repeats for name in found.charges})


def _by_row(chunk: Sequence[_Asked], fates: Sequence[Foreseen], each: int) -> Iterator[tuple[Row, Sequence[Foreseen]]]:
    for start in range(0, len(chunk), each):
        yield chunk[start].row, fates[start : start + each]


def _target_of(facts: Facts, path: Path) -> Output:
    """The output, as far as it can be checked before anything is written. Blocks."""
    target = Output(path, facts.source.path, like=dialect_of(path, facts.rows, excel=facts.options.excel))
    target.check_room(facts.rows.total)
    return target


def _why_not_free(facts: Facts, target: Output) -> str | None:
    """Why a run would not write the output, which a dry run does not: None where it would. Blocks."""
    if facts.options.overwrite or facts.resumes:
        return None
    look_at_part(target, facts.columns.names)
    try:
        target.check_free()
    except ConfigurationError as exc:
        return str(exc)
    return None


class Foresees(Protocol[P]):
    """`forecast_bulk`, with the parameters of `BulkOptions` as its own."""

    def __call__(
        self,
        client: AsyncClient,
        call: Asked,
        source: StrPath,
        output: StrPath | None = None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, Forecast]:
        """See `forecast_bulk`."""


def _typed(_: Callable[P, BulkOptions]) -> Callable[[Callable[..., Coroutine[Any, Any, Forecast]]], Foresees[P]]:
    return lambda function: cast("Foresees[P]", by_keyword(function))


@_typed(BulkOptions)
async def forecast_bulk(
    client: AsyncClient, call: Asked, source: StrPath, output: StrPath | None = None, *, options: BulkOptions
) -> Forecast:
    """What `run_bulk` would do with these, found out by the same checks: images are read, numbers looked at.

    Nothing is sent, and no file is made or changed. The ledger is only looked into. Raises as `run_bulk` does before
    it sends anything, and UnreadableInputError where the input cannot be read on.
    """
    return await foresee(client, call, source, output, options)


@dataclass(slots=True)
class _Asked:
    """One call of a row."""

    row: Row
    number: int
    call: Call[Any] | InputError


class _Count:
    """Counts what would become of each call."""

    def __init__(
        self,
        options: Options,
        questions: Questions,
        peek: Peek,
        maker: Calls,
        found: Forecast,
        *,
        as_sent: bool,
        limit: int | None,
        seen: set[int] | None,
    ) -> None:
        self._options = options
        self._questions = questions
        self._peek = peek
        self._maker = maker
        self._found = found
        self._as_sent = as_sent
        self._limit = limit  # without a ledger, a batch remembers so many answers
        self._seen: OrderedDict[int, None] | set[int] = OrderedDict()
        if limit is None:
            self._seen = set() if seen is None else seen
        self._failed_row = 0

    async def see(self, chunk: Sequence[_Asked]) -> list[Foreseen]:
        """Look at these calls, together; count them in their order, and say what would become of each."""
        asks = await asyncio.gather(*map(self._ask, chunk))
        return [self._count(asked, ask) for asked, ask in zip(chunk, asks, strict=True)]

    async def _ask(self, asked: _Asked) -> Ask | AISolutionError:
        if isinstance(asked.call, InputError):
            return asked.call
        return await self._questions.of(asked.call, as_sent=self._as_sent)

    def _count(self, asked: _Asked, ask: Ask | AISolutionError) -> Foreseen:
        found, call = self._found, asked.call
        if isinstance(call, InputError) or not isinstance(ask, Ask):
            text = str(ask)
            if not isinstance(call, InputError) and isinstance(ask, InputError):
                text = self._maker.explain(asked.row, asked.number, text)
            self._fail(asked.row, type(ask).__name__, text)
            return Foreseen.PROBLEM
        endpoint = call.endpoint
        if ask.reusable and (self._limit is None or not endpoint.never_charges) and self._was_seen(ask.identity):
            found.shared += 1
            return Foreseen.SHARED
        earlier = self._peek.look(ask)
        if isinstance(earlier, Stored):
            found.from_ledger += 1
            return Foreseen.PAID if earlier.attempt.charge is Charge.CHARGED else Foreseen.STORED
        if isinstance(earlier, Held):
            found.held += 1
            found.holds = max(found.holds, earlier.attempts)
            self._fail(asked.row, "OutcomeUnknownError", f"{endpoint.name}: held: it may have been charged before")
            return Foreseen.HELD
        found.calls[endpoint.name] += 1
        if any(charge is not Charge.FREE for charge in self._options.charges_of(endpoint).values()):
            found.charges[endpoint.name] += 1
        return Foreseen.NEW

    def _fail(self, row: Row, error: str, text: str) -> None:
        found = self._found
        found.errors[error] += 1
        if self._failed_row != row.line:
            self._failed_row = row.line
            found.failed += 1
        if len(found.problems) < SHOWN and text not in found.problems:
            found.problems.append(text)
        kind = found.kinds.get(said := _DIGITS.sub("#", kind_of(text)))
        if kind is None:
            if len(found.kinds) >= SHOWN:
                found.others += 1
                return
            kind = found.kinds[said] = ProblemKind(text)
        kind.calls += 1

    def _was_seen(self, identity: bytes) -> bool:
        # Half of it tells a million apart, in half the memory.
        short = int.from_bytes(identity[:8])
        if short in self._seen:
            return True
        if isinstance(self._seen, set):
            self._seen.add(short)
        else:
            self._seen[short] = None
            if self._limit is not None and len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        return False
