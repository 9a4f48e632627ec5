"""A dry run: what a run would ask, and at most cost. Everything is read and checked; nothing is sent or written."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast

from aisolution_async.api import Call
from aisolution_async.batching import REMEMBERED
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.facts import Asked, Facts, calls_of, gather, in_thread
from aisolution_async.bulk.options import BulkOptions, StrPath, by_keyword
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.plan import dialect_of, look_at_part
from aisolution_async.bulk.questions import Questions
from aisolution_async.bulk.rows import Row
from aisolution_async.charges import Charge
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, InputError
from aisolution_async.ledger import Ask, Held, Stored
from aisolution_async.ledger.peek import Peek
from aisolution_async.ledger.schema import file_of
from aisolution_async.sending.options import Options

P = ParamSpec("P")

_AT_ONCE = 32
SHOWN = 20
"""Problems that are kept to be shown."""


@dataclass(slots=True)
class Forecast:
    """What a run would do.

    `rows` of the input, `failed` of them with problems, counted in `errors` by class for each call; `problems` are
    the first of these. `warnings` are lines on what would be sent all the same, as landlines, and `columns` lines on
    which column is used for what, and why.
    Of the calls, `from_ledger` would be answered by earlier ones, `shared` by others that ask the
    same, `held` would not be sent because they may have been charged before, and `calls` would be sent, by endpoint.
    `charges` is how many charges that makes at most, by endpoint, and `cost` what those cost by the prices known: None
    if one is not. `hidden` is how many rows of a workbook nobody sees, as in `Summary`, and so are `totals`.
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
    warnings: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    cost: Decimal | None = None
    hidden: int | None = 0
    totals: int = 0


async def foresee(
    client: AsyncClient, call: Asked, source: StrPath, output: StrPath | None, options: BulkOptions
) -> Forecast:
    """What a run would do; see `forecast_bulk`."""
    gathering = partial(gather, calls_of(call), source, output, options, client.redact)
    with closing(await in_thread(gathering, Facts.close)) as facts:
        return await _foresee(client, facts)


async def _foresee(client: AsyncClient, facts: Facts) -> Forecast:
    found, options, maker = Forecast(hidden=facts.rows.hidden), facts.options, facts.calls
    target = None if facts.target is None else await asyncio.to_thread(_target_of, facts, facts.target)
    retries = options.retry_unknown
    view = client if retries is None else client.with_options(retry_unknown=retries)
    file = None if facts.ledger is None else file_of(facts.ledger)
    found.columns = maker.reasons()
    if options.on_start is not None:
        for line in (*maker.lines(), *maker.reasons()):
            options.on_start(line)
    with Peek(file) as peek:
        questions = Questions(view, peek, reuse_for=options.reuse_for)
        check = _Count(view.options, questions, peek, maker, found, limit=None if file is not None else REMEMBERED)
        chunk: list[_Asked] = []
        for row in facts.rows:
            if row.is_total:
                found.totals += 1
                continue
            found.rows += 1
            await maker.ready(row)
            chunk += [_Asked(row, number, call) for number, call in enumerate(maker.make(row))]
            if len(chunk) >= _AT_ONCE:
                await check.see(chunk)
                chunk = []
        await check.see(chunk)
    if target is not None:
        target.check_room(found.rows + found.totals)
    found.warnings = maker.warnings
    repeats = 1 + view.options.retry.unknown
    found.charges = Counter({name: found.charges[name] * repeats for name in found.charges})
    if not options.known_prices.missing(found.charges):
        found.cost = options.known_prices.cost(found.charges)
    return found


def _target_of(facts: Facts, path: Path) -> Output:
    """The output, as far as it can be checked before anything is written. Blocks."""
    target = Output(path, facts.source.path, like=dialect_of(path, facts.rows, excel=facts.options.excel))
    target.check_room(facts.rows.total)
    if not facts.options.overwrite and not facts.resumes:
        look_at_part(target, facts.columns.names)
        target.check_free()
    return target


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
        self, options: Options, questions: Questions, peek: Peek, maker: Calls, found: Forecast, *, limit: int | None
    ) -> None:
        self._options = options
        self._questions = questions
        self._peek = peek
        self._maker = maker
        self._found = found
        self._limit = limit  # without a ledger, a batch remembers so many answers
        self._seen: OrderedDict[int, None] | set[int] = set() if limit is None else OrderedDict()
        self._failed_row = 0

    async def see(self, chunk: Sequence[_Asked]) -> None:
        """Look at these calls, together; count them in their order."""
        for asked, ask in zip(chunk, await asyncio.gather(*map(self._ask, chunk)), strict=True):
            self._count(asked, ask)

    async def _ask(self, asked: _Asked) -> Ask | AISolutionError:
        if isinstance(asked.call, InputError):
            return asked.call
        return await self._questions.of(asked.call, as_sent=True)

    def _count(self, asked: _Asked, ask: Ask | AISolutionError) -> None:
        found, call = self._found, asked.call
        if isinstance(call, InputError) or not isinstance(ask, Ask):
            text = str(ask)
            if not isinstance(call, InputError) and isinstance(ask, InputError):
                text = self._maker.explain(asked.row, asked.number, text)
            self._fail(asked.row, type(ask).__name__, text)
            return
        endpoint = call.endpoint
        if ask.reusable and (self._limit is None or not endpoint.never_charges) and self._was_seen(ask.identity):
            found.shared += 1
            return
        earlier = self._peek.look(ask)
        if isinstance(earlier, Stored):
            found.from_ledger += 1
        elif isinstance(earlier, Held):
            found.held += 1
            found.holds = max(found.holds, earlier.attempts)
            self._fail(asked.row, "OutcomeUnknownError", f"{endpoint.name}: held: it may have been charged before")
        else:
            found.calls[endpoint.name] += 1
            if any(charge is not Charge.FREE for charge in self._options.charges_of(endpoint).values()):
                found.charges[endpoint.name] += 1

    def _fail(self, row: Row, error: str, text: str) -> None:
        found = self._found
        found.errors[error] += 1
        if self._failed_row != row.line:
            self._failed_row = row.line
            found.failed += 1
        if len(found.problems) < SHOWN and text not in found.problems:
            found.problems.append(text)

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
