"""A dry run: what a run would ask, and at most cost. Everything is read and checked; nothing is sent or written."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from aisolution_async.api import Call
from aisolution_async.batching import REMEMBERED
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.earlier import is_idle
from aisolution_async.bulk.outputs import Output
from aisolution_async.bulk.questions import Questions
from aisolution_async.bulk.results import columns_of
from aisolution_async.bulk.rows import Row, Rows
from aisolution_async.bulk.runner import calls_of, dialect_of
from aisolution_async.charges import Charge
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, InputError
from aisolution_async.ledger import Ask, Held, Stored
from aisolution_async.ledger.peek import Peek
from aisolution_async.ledger.urls import Server, is_there, open_peek, place_of
from aisolution_async.sending.options import Options
from aisolution_async.spending import Spending

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
    if one is not. `hidden` is how many rows of a workbook nobody sees, as in `Summary`.
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


async def forecast_bulk(
    client: AsyncClient,
    call: type[Call[Any]] | Sequence[type[Call[Any]]],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    key: str | None = None,
    images_root: str | os.PathLike[str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    skip_hidden: bool = False,
    header_row: int | None = None,
    excel: bool = False,
    overwrite: bool = False,
    ledger: str | os.PathLike[str] | Server | None = None,
    reuse_for: float | None = None,
    retry_unknown: int | None = None,
    prices: Mapping[str, Decimal] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> Forecast:
    """What `run_bulk` would do with these, found out by the same checks: images are read, numbers looked at.

    Nothing is sent, and no file is made or changed. The ledger is only looked into. Raises as `run_bulk` does before
    it sends anything, and UnreadableInputError where the input cannot be read on.
    """
    found, target = Forecast(), None
    known = Spending.of(prices=prices).prices
    view = client if retry_unknown is None else client.with_options(retry_unknown=retry_unknown)
    repeats = 1 + view.options.retry.unknown
    place = None if ledger is None else place_of(ledger)
    calls = calls_of(call)
    reading: dict[str, Any] = {
        "delimiter": delimiter,
        "encoding": encoding,
        "sheet": sheet,
        "skip_hidden": skip_hidden,
        "header_row": header_row,
    }
    with ExitStack() as opened:
        rows = opened.enter_context(Rows(source, **reading))
        found.hidden = rows.hidden
        maker = Calls(
            calls,
            rows,
            columns=columns or {},
            values=values or {},
            key=key,
            images_root=None if images_root is None else Path(images_root),
        )
        opened.callback(maker.close)
        if output is not None:
            like = dialect_of(Path(output), rows, excel=excel)
            target = Output(Path(output), Path(source), like=like)
            target.check_room(rows.total)
            if not overwrite and (place is None or not is_there(place)):
                if not target.streams:
                    names, _ = columns_of(calls, rows.header, client.redact)
                    target.part_is_idle = is_idle(target.part, target.path.suffix.lower(), names, target.between)
                target.check_free()
        found.columns = maker.reasons()
        if on_start is not None:
            for line in (*maker.lines(), *maker.reasons()):
                on_start(line)
        with open_peek(place) as peek:
            questions = Questions(view, peek, reuse_for=reuse_for)
            check = _Count(view.options, questions, peek, maker, found, limit=None if place is not None else REMEMBERED)
            chunk: list[_Asked] = []
            for row in rows:
                found.rows += 1
                await maker.ready(row)
                chunk += [_Asked(row, number, call) for number, call in enumerate(maker.make(row))]
                if len(chunk) >= _AT_ONCE:
                    await check.see(chunk)
                    chunk = []
            await check.see(chunk)
    if target is not None:
        target.check_room(found.rows)
    found.warnings = maker.warnings
    found.charges = Counter({name: found.charges[name] * repeats for name in found.charges})
    if not known.missing(found.charges):
        found.cost = known.cost(found.charges)
    return found


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
