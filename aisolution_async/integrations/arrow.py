"""Arrow tables in, the same rows with their answers out: what a worker of Ray Data, Spark or another engine does.

```python
work = Work.of(WhatsAppDetail, columns={"number": "phone"}, key="id", ledger="postgresql://host/db?schema=applicants")
answered = work.table(table)  # in as many processes as you like
```

Each row of the input is one row of the output, in its place, with these columns behind its own:

| column | what |
| --- | --- |
| `ok` | whether there is an answer; "checking" is one, and a later pass asks again |
| the reply's fields | `whatsapp`, `similarity`, …: null without an answer, or where the vendor said nothing |
| `error`, `error_text` | why there is none: the error's class and its text; else null |
| `charge` | what the call cost now: charged, free or unknown |
| `recorded_charge` | what it cost before, where the ledger answers or holds it: else null |
| `from_ledger` | whether the answer is from the ledger |
| `attempts` | how many requests were sent for it now |

A row that fails is a row. One that cannot be sent (no number, no such photo) is free. A column that the input has
already is refused before anything is sent, unless `prefix` makes it another one. Only a field that the row was asked by
(`number`) stays as the input has it.

**Engines do rows again**: when a worker dies, when a part is lost, when a lazy plan is run twice. The ledger makes that
free, so it has to be one that all machines share. What was under way in a process that was killed may have been
charged: it is busy for the 30 s of that process's lease, and held from then on (`OutcomeUnknownError`, with
`recorded_charge` unknown).

**Secrets.** A `Work` is pickled, and engines write it to disks and logs. It has neither the token, which each process
takes from its own environment (AISOLUTION_TOKEN), nor a password of the ledger: a URL with one in it is refused.
Passwords are libpq's business on each machine (`~/.pgpass`, PGPASSFILE, PGPASSWORD).

**One process** has one thread with an event loop, one client and one ledger for all who have the same settings. They
feed one batch that goes on for as long as the process. So what `Adaptive` found out is kept from table to table, and
the end of one table overlaps the beginning of the next. Cells become Python's a few rows at a time: of a table of
photos, few are held twice.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

try:
    import pyarrow as pa
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "pyarrow":
        raise
    raise ImportError("pyarrow is missing: pip install 'aisolution-async[ray]' or 'aisolution-async[spark]'") from None

from aisolution_async.api import Call, Kind
from aisolution_async.batching import DRAIN_TIMEOUT, Batch
from aisolution_async.bulk.facts import calls_of
from aisolution_async.bulk.source import some
from aisolution_async.charges import Charge
from aisolution_async.checks import whole
from aisolution_async.client import BASE_URL_VARIABLE, MAX_CONNECTIONS, TOKEN_VARIABLE, AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError
from aisolution_async.hiding import NotPickled
from aisolution_async.ledger.urls import Server, place_of
from aisolution_async.limits import Adaptive, Rate
from aisolution_async.outcome import Outcome, plain, result_columns

__all__ = ["ClientOptions", "Settings", "Work", "close"]

CONCURRENCY = Adaptive(max=200)

# Rows that become Python's values at a time: a table of photos would be a lot at once.
_MOST_ROWS, _MOST_BYTES = 256, 4 << 20
# Tables of one stream that are under way together, so that the end of one does not leave places empty.
_TABLES_AHEAD = 2
_UNREADABLE = object()

Tabular = TypeVar("Tabular", bound=Any)
"""A pyarrow.Table or a pyarrow.RecordBatch: the one that was given comes back."""


class ClientOptions(TypedDict, total=False):
    """The options of `AsyncClient` that go to workers: nothing in them is secret or of one process."""

    base_url: str
    timeout: float
    deadline: float
    max_retries: int
    retry_unknown: int
    max_image_bytes: int
    strict_numbers: bool
    fit: bool
    keep_metadata: bool
    charge_rules: Mapping[str, Mapping[str, Charge | str]]
    reuse_for: float
    max_charges: int
    prices: Mapping[str, Decimal]
    max_cost: Decimal


# ----------------------------------------------------------------------------------------------- what is asked, and how


@dataclass(frozen=True, slots=True)
class Settings:
    """What the client of a process is made with. Those who have the same settings share one.

    `rate` is that of one process, or of all that share a ledger on a server: such a ledger divides it.
    """

    ledger: str | None
    concurrency: int | Adaptive
    rate: float | None
    options: ClientOptions

    def client(self) -> AsyncClient:
        """The client of a worker. Raises ConfigurationError where its process has no token."""
        if not os.environ.get(TOKEN_VARIABLE, "").strip():
            raise ConfigurationError(
                f"a worker has no token: set the environment variable {TOKEN_VARIABLE} on each machine with workers"
            )
        most = self.concurrency.max if isinstance(self.concurrency, Adaptive) else self.concurrency
        return AsyncClient(ledger=self.ledger, max_connections=max(most, MAX_CONNECTIONS), **self.options)

    def check(self) -> None:
        """Raise ConfigurationError for what no worker could use. Nothing is opened."""
        if not isinstance(self.concurrency, Adaptive):
            whole("concurrency", self.concurrency, 1, otherwise=", or an Adaptive")
        if self.rate is not None:
            Rate(self.rate)
        AsyncClient("none-is-needed-here", ledger=self.ledger, **self.options)


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of each row: `Work.of(…)` makes it and checks it. It can be pickled, and has no secret in it."""

    call: type[Call[Any]]
    columns: Mapping[str, str]
    values: Mapping[str, Any] = field(repr=False)
    key: str | None
    prefix: str
    settings: Settings

    @classmethod
    def of(
        cls,
        call: type[Call[Any]],
        *,
        columns: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
        key: str | None = None,
        prefix: str = "",
        ledger: str | os.PathLike[str] | None = None,
        without_shared_ledger: bool = False,
        concurrency: int | Adaptive = CONCURRENCY,
        rate: float | None = None,
        workers: int = 1,
        **options: Unpack[ClientOptions],
    ) -> Work:
        """What `call` asks of each row.

        - `columns`: from which column each field of the call is, `{"number": "phone"}`. A field that the call needs
          and that is not named is from the column of its own name. `values`: what is the same for all rows.
        - `key`: the column with your own id of the row, text or whole numbers.
        - `prefix`: stands before the name of each column that is added.
        - `ledger`: the URL of a ledger that machines share, without a password. `without_shared_ledger=True` does
          without: with a file, which the processes of one machine share, or with none, where rows that the engine does
          again are paid for again.
        - `concurrency`: how many attempts a process makes at once. `rate`: how many the `workers` processes make a
          second together.
        - `options`: those of `AsyncClient`. `base_url` is the one of this environment, where this environment says one.

        Raises ConfigurationError for what cannot work.
        """
        (asked,) = calls_of([call])
        columns, values = _sources(asked, dict(columns or {}), dict(values or {}))
        if key is None and _adds(asked):
            raise ConfigurationError(
                f"{asked.__name__} needs key=: without it, a row that is done again is added again"
            )
        if (base_url := options.get("base_url") or os.environ.get(BASE_URL_VARIABLE)) is not None:
            # So that what is tried out at a sandbox here is not asked of the vendor there.
            options["base_url"] = base_url
        place = _shared(ledger, without_shared_ledger)
        if rate is not None and not (place is not None and isinstance(place_of(place), Server)):
            rate /= workers
        settings = Settings(place, concurrency, rate, options)
        settings.check()
        return cls(asked, columns, values, key, prefix, settings)

    def added(self, schema: pa.Schema) -> pa.Schema:
        """The columns that are added to rows of this schema. Raises ConfigurationError where that cannot be."""
        have = Counter(schema.names)
        uses = {**{column: name for name, column in self.columns.items()}, **({self.key: "key"} if self.key else {})}
        for column, purpose in uses.items():
            if have[column] != 1:
                how = "no column" if not have[column] else f"{have[column]} columns"
                raise ConfigurationError(
                    f"there is {how} {column!r} for {purpose}: the columns are {some(schema.names)}"
                )
        if self.key is not None and not _may_be_key(schema.field(self.key).type):
            raise ConfigurationError(
                f"the key {self.key!r} is {schema.field(self.key).type}: make it a column of text or whole numbers"
            )
        asked_by = {name for name, column in self.columns.items() if name == column}
        found = result_columns(self.call.endpoint)
        fields = [(name.removeprefix("answer_"), kind) for name, kind in found.items() if name.startswith("answer_")]
        named = [("ok", bool), *((name, kind) for name, kind in fields if name != "raw")]
        named += [("error", str), ("error_text", str), ("charge", str), ("recorded_charge", str)]
        named += [("from_ledger", bool), ("attempts", int)]
        added = [
            pa.field(f"{self.prefix}{name}", _arrow_type(kind))
            for name, kind in named
            if self.prefix or name not in asked_by
        ]
        if taken := [each.name for each in added if each.name in have]:
            raise ConfigurationError(
                f"the input has a column {some(taken)} already, and the answers would have another one of that name: "
                f'give them a prefix, such as prefix="{self.call.endpoint.command.replace("-", "_")}_"'
            )
        return pa.schema(added)

    def table(self, table: Tabular) -> Tabular:
        """The table with its answers. Blocks. Raises ConfigurationError where nothing can be sent."""
        return next(self.stream([table]))

    def stream(self, tables: Iterable[Tabular]) -> Iterator[Tabular]:
        """The tables with their answers, one after the other, while the next ones are asked already. Blocks.

        Closed early, it waits until what is under way is answered and in the ledger.
        """
        runner = _runner_of(self.settings)
        waiting: deque[Portion] = deque()
        try:
            for table in tables:
                waiting.append(portion := Portion(self, table))
                runner.take(portion)
                if len(waiting) >= _TABLES_AHEAD:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            runner.drop(waiting)

    def close(self) -> None:
        """Close the client and the ledger that this process has for it, unless somebody has work there."""
        with _lock:
            runner = _runners.get(name := repr(self.settings))
            if runner is None or runner.is_busy:
                return
            del _runners[name]
        runner.close()


def _first(waiting: deque[Portion]) -> Any:
    """The first of the tables, once it is done. Until then it is among those that wait."""
    done = waiting[0].done.result()
    waiting.popleft()
    return done


def _sources(
    call: type[Call[Any]], columns: dict[str, str], values: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Where each field of the call is from."""
    parameters = {each.name: each for each in call.endpoint.parameters if each.kind is not Kind.URL}
    for option, given in (("columns", columns), ("values", values)):
        for name in given:
            if name not in parameters:
                why = "answers by callback need a server: leave it out" if name == "callback" else "its fields are "
                why += "" if name == "callback" else ", ".join(parameters)
                raise ConfigurationError(f"{option} has {name!r} for {call.__name__}: {why}")
    if twice := columns.keys() & values.keys():
        raise ConfigurationError(f"columns and values both have {some(sorted(twice))}: name each field once")
    needed = {name: name for name, each in parameters.items() if each.required and name not in values}
    if not (sources := {**needed, **columns}):
        raise ConfigurationError("all fields are in values, and each row would ask the same: name a column")
    return sources, values


def _shared(ledger: str | os.PathLike[str] | None, without_shared_ledger: bool) -> str | None:
    """The ledger as workers are told it: a URL without secrets, or the whole path of a file."""
    place = None if ledger is None else place_of(ledger)
    if isinstance(place, Server):
        if place.hides:
            raise ConfigurationError(
                f"the ledger's URL ({place}) has a password in it, or what may be one, and would be written wherever "
                "the engine keeps its plans: leave it out, and give it to libpq on each machine with workers "
                "(~/.pgpass, PGPASSFILE or PGPASSWORD)"
            )
        return str(place)
    if not without_shared_ledger:
        what = "a file, which other machines do not see" if place else "none"
        raise ConfigurationError(
            f"the ledger is {what}, and engines do rows again, which would be paid for again: "
            'ledger="postgresql://host/database?schema=applicants", or without_shared_ledger=True'
        )
    return None if place is None else str(Path(place).absolute())


# ------------------------------------------------------------------------------------------------------------ one table


class Portion(NotPickled):
    """A table whose rows are asked. But for `done`, it is the business of the runner's thread."""

    def __init__(self, work: Work, table: Any) -> None:
        self.done: Future[Any] = Future()
        """The table with its answers."""
        self.under_way = 0
        """Rows that were handed on and have no outcome yet."""
        self.is_dropped = False
        self._work = work
        self._table = table
        self._added: pa.Schema = work.added(table.schema)
        self._left = table.num_rows
        self._cells: dict[str, list[Any]] = {name: [None] * table.num_rows for name in self._added.names}

    def items(self) -> Iterator[tuple[int, Call[Any] | AISolutionError]]:
        """The calls of its rows, and their places. A row of which none can be made is an error."""
        work = self._work
        names = list(dict.fromkeys([*work.columns.values(), *([work.key] if work.key else [])]))
        narrow = self._table.select(names)
        table = pa.Table.from_batches([narrow]) if isinstance(narrow, pa.RecordBatch) else narrow
        weight = table.nbytes // max(1, table.num_rows)
        at_once = max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, weight)))
        row = 0
        for batch in table.to_batches(max_chunksize=at_once):
            columns = dict(zip(names, map(_values, batch.columns), strict=True))
            for place in range(batch.num_rows):
                yield row, _call(work, {name: cells[place] for name, cells in columns.items()})
                row += 1

    def put(self, row: int, outcome: Outcome) -> None:
        """The outcome of a row."""
        self.under_way -= 1
        self._left -= 1
        recorded = outcome.recorded
        found: dict[str, Any] = {} if outcome.reply is None else plain(outcome.reply)
        if outcome.error is not None:
            found |= {"error": type(outcome.error).__name__, "error_text": outcome.to_dict()["problem"]}
        found |= {"ok": outcome.ok, "charge": outcome.charge.value, "from_ledger": outcome.from_ledger}
        found |= {"attempts": len(outcome.attempts)}
        found |= {"recorded_charge": None if recorded is None else recorded.charge.value}
        prefix = self._work.prefix
        for name, value in found.items():
            if (cells := self._cells.get(f"{prefix}{name}")) is not None:
                cells[row] = value
        self.finish()

    def finish(self) -> None:
        """See whether it is done."""
        if self._left or self.done.done():
            if self.is_dropped and not self.under_way and not self.done.done():
                self.done.set_result(None)
            return
        arrays = [_array(self._cells[each.name], each.type) for each in self._added]
        schema = self._table.schema
        for each in self._added:
            schema = schema.append(each)
        self.done.set_result(type(self._table).from_arrays([*self._table.columns, *arrays], schema=schema))

    def fail(self, error: BaseException) -> None:
        """It cannot be done."""
        if not self.done.done():
            self.done.set_exception(error)


def _call(work: Work, cells: Mapping[str, Any]) -> Call[Any] | AISolutionError:
    key = None if work.key is None else cells[work.key]
    if key is _UNREADABLE:
        return InputError("the key cannot be read: it is no UTF-8", endpoint=work.call.endpoint.name)
    given: dict[str, Any] = {**work.values, **{name: cells[column] for name, column in work.columns.items()}}
    for name, value in given.items():
        if value is _UNREADABLE:
            return InputError(f"{name} cannot be read: it is no UTF-8", endpoint=work.call.endpoint.name, key=key)
    if key is None and _adds(work.call):
        return InputError(
            "the key is empty: without one, the row is added anew each time", endpoint=work.call.endpoint.name
        )
    return work.call(**given, key=key)


def _adds(call: type[Call[Any]]) -> bool:
    """Whether asking twice does something twice, unless the key says that it is one."""
    return call.endpoint.never_charges and not call.endpoint.idempotent


def _values(column: Any) -> list[Any]:
    """The values of a column. What is none of its type is `_UNREADABLE`."""
    try:
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # text that is no UTF-8, say
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return _UNREADABLE


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):
        # One value that does not fit, a count of 20 digits say, must not take the others with it: the ledger has it.
        return pa.array([value if _fits(value, kind) else None for value in values], kind)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _arrow_type(kind: Any) -> pa.DataType:
    if isinstance(kind, list):
        return pa.list_(pa.struct([(name, _arrow_type(inner)) for name, inner in kind[0].items()]))
    return {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}[kind]


def _may_be_key(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    is_uuid = getattr(kind, "extension_name", None) == "arrow.uuid"
    return is_text or is_uuid or pa.types.is_integer(kind) or pa.types.is_null(kind)


# ---------------------------------------------------------------------------------------------------------- one process


class Runner(NotPickled):
    """A thread with an event loop, and on it one client, one ledger and one batch that takes portions until the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._portions: set[Portion] = set()
        self._error: BaseException | None = None  # why it takes nothing any more
        # The rest is the business of the thread.
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._queue: deque[Portion] = deque()
        self._asked: dict[int, tuple[Portion, int]] = {}
        self._batch: Batch[Any] | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="aisolution-arrow", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it takes nothing any more."""
        return self._error is not None

    @property
    def is_busy(self) -> bool:
        """Whether it has something to ask."""
        return bool(self._portions)

    def take(self, portion: Portion) -> None:
        """Ask its rows. From any thread."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._portions.add(portion)
            self._loop.call_soon_threadsafe(self._begin, portion)
        portion.done.add_done_callback(lambda _: self._forget(portion))

    def drop(self, portions: Iterable[Portion]) -> None:
        """Read nothing more of them, and wait until what was read is over. From any thread."""
        left = [portion for portion in portions if not portion.done.done()]
        with self._lock:
            if not left or self.is_over:
                return
            for portion in left:
                self._loop.call_soon_threadsafe(self._drop, portion)
        wait_for([portion.done for portion in left], DRAIN_TIMEOUT)

    def close(self) -> None:
        """Let what is under way be answered, and close the client and the ledger. From any thread but its own."""
        with self._lock:
            if not self.is_over:
                self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(DRAIN_TIMEOUT + 5)

    def _forget(self, portion: Portion) -> None:
        with self._lock:
            self._portions.discard(portion)

    # ------------------------------------------------------------------------------------------------- in its thread

    def _run(self) -> None:
        error: BaseException = ConfigurationError("the worker was closed before the rows were answered")
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as exc:  # whatever it is, those who wait are told
            error = exc
        with self._lock:
            self._error = error
            left = [*self._portions]
        for portion in left:
            portion.fail(error)

    async def _serve(self) -> None:
        settings = self._settings
        async with (
            settings.client() as client,
            client.batch(
                self._calls(),
                concurrency=settings.concurrency,
                rate=settings.rate,
                # With a ledger, that one knows who asks the same, and how old its answers may be.
                dedupe=settings.ledger is None,
            ) as batch,
        ):
            self._batch = batch
            if self._is_closing:
                batch.stop()
            async for outcome in batch:
                portion, row = self._asked.pop(outcome.index)
                try:
                    portion.put(row, outcome)
                except Exception as exc:  # the others go on
                    portion.fail(exc)

    async def _calls(self) -> AsyncIterator[Call[Any] | AISolutionError]:
        """All calls of all portions, one portion after the other."""
        index = 0
        while True:
            while not self._queue:
                self._news.clear()
                await self._news.wait()
            portion = self._queue.popleft()
            try:
                for row, item in portion.items():
                    if portion.is_dropped:
                        break
                    self._asked[index] = (portion, row)
                    portion.under_way += 1
                    index += 1
                    yield item
            except Exception as exc:  # as above
                portion.fail(exc)

    def _begin(self, portion: Portion) -> None:
        self._queue.append(portion)
        self._news.set()
        portion.finish()  # it may have no rows

    def _drop(self, portion: Portion) -> None:
        portion.is_dropped = True
        with suppress(ValueError):
            self._queue.remove(portion)
        portion.finish()

    def _stop(self) -> None:
        self._is_closing = True
        if self._batch is not None:
            self._batch.stop()


_runners: dict[str, Runner] = {}
_lock = threading.Lock()


def _runner_of(settings: Settings) -> Runner:
    """The runner of this process that has these settings."""
    with _lock:
        runner = _runners.get(name := repr(settings))
        if runner is None or runner.is_over:
            runner = _runners[name] = Runner(settings)
        return runner


def close() -> None:
    """Close the clients and ledgers of this process, as its end does by itself."""
    with _lock:
        runners = [*_runners.values()]
        _runners.clear()
    for runner in runners:
        runner.close()


def _forget() -> None:
    """A fork has neither the threads nor the right to the connections."""
    global _lock  # noqa: PLW0603  # whoever held it is not here
    _lock = threading.Lock()
    _runners.clear()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
