"""What earlier runs wrote of the same rows, so that no answer in it is lost, and none is bought a second time.

A run with a ledger begins its output anew. Before that, every answer in OUTPUT and OUTPUT.part has to be one that the
ledger has, or one that the new run takes over. `Earlier` finds out which. Most answers stand in the ledger word for
word, under the row's key, and are done with: only the ledger and the files are read for that. For each of the others,
the call is made of the row in the input, and the ledger is asked whether it knows the question:

- it has an answer to it: nothing has to be done;
- it knows the question, and lacks the answer (its disk was full): the answer is taken over;
- it has never heard of the question: this is not the ledger, or no longer all of it. The row would be paid for again.

What came and was no answer is kept only as long as the ledger holds the question, and lacks what came. Whether such a
row is held, is settled, or is sent again is for the ledger to say, and for who runs it.

So it is with the answers in files of rescued rows. Those of a file that somebody names are taken over even where the
ledger has never heard of the question.

A row is known by all of its cells: an answer never goes to a row that differs in one of them.

Memory stays flat: what is found is kept in a temporary database of SQLite's, which is gone when it is closed.
"""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
import json
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any

from aisolution_async.api import Call
from aisolution_async.bulk import looks
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.delimited import DelimitedReader
from aisolution_async.bulk.encoders import as_json, plain_text
from aisolution_async.bulk.excel import unshielded
from aisolution_async.bulk.outputs import BOOK, DELIMITERS, Output
from aisolution_async.bulk.questions import Questions
from aisolution_async.bulk.rescue import keep, put_away, rescues_of
from aisolution_async.bulk.results import Results, RowState, cell, defused
from aisolution_async.bulk.rows import MISSING, Row, Rows, UnreadableInputError, text
from aisolution_async.charges import Charge
from aisolution_async.client import AsyncClient
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.ledger import Ask, Held, Record, State, Store, Stored
from aisolution_async.ledger.peek import Peek
from aisolution_async.ledger.store import Balance
from aisolution_async.ledger.urls import Place, open_peek

_AT_ONCE = 32
_YIELD_EVERY = 1000
_LONGEST_HEADER = 1 << 20
_PAID = (Charge.CHARGED.value, Charge.UNKNOWN.value)
_OK = re.compile(r"(\w+_)?ok(_\d+)?")
_CHARGE = re.compile(r"(\w+_)?charge(_\d+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows with results.

    `replaced`: it is OUTPUT or OUTPUT.part, and goes. `named`: somebody said that answers are to be taken from it.
    `between` is what stands between its cells if it is of this run's kind; another kind is found out.
    """

    path: Path
    ending: str
    replaced: bool = False
    named: bool = False
    is_part: bool = False
    between: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What an earlier run wrote of one call of a row: the values of its result columns."""

    values: list[Any]

    @property
    def error(self) -> str:
        """The class of the error that the call ended in."""
        return str(self.values[-2])

    @property
    def problem(self) -> str | None:
        """What was wrong with the call."""
        return None if self.values[-1] is None else str(self.values[-1])


def sources_of(output: Output, named: Sequence[Path], *, resumes: bool, has_ledger: bool) -> list[Source]:
    """The files to look into. Raises ConfigurationError for one that is named and cannot be read."""
    found: list[Source] = []
    if not output.streams and has_ledger:
        ending = output.path.suffix.lower()
        if resumes:
            found.append(Source(output.part, ending, True, is_part=True, between=output.between))
            found.append(Source(output.path, ending, True, between=output.between))
        found += [Source(path, ".jsonl") for path in rescues_of(output.path)]
    found = [source for source in found if looks.is_file(source.path)]
    for path in named:
        try:
            if not S_ISREG(path.stat().st_mode):
                raise OSError(0, "it is no regular file")
            same = [source for source in found if source.path.samefile(path)]
        except (OSError, ValueError) as exc:
            problem = getattr(exc, "strerror", None) or type(exc).__name__
        else:
            for source in same:
                found[found.index(source)] = dataclasses.replace(source, named=True)
            if not same:
                is_part = not output.streams and looks.exists(output.part) and output.part.samefile(path)
                found.append(Source(path, _ending(path), replaced=is_part, named=True, is_part=is_part))
            continue
        raise ConfigurationError(f"the file of rescued rows {str(path)!r} cannot be read: {problem}")
    return found


def _ending(path: Path) -> str:
    """The format of a file of results, also where something was put behind its name."""
    known = (*DELIMITERS, ".jsonl", ".ndjson", ".parquet", BOOK)
    for suffix in reversed(path.suffixes):
        if suffix.lower() in known:
            return suffix.lower()
    raise ConfigurationError(f"the file of rescued rows {str(path)!r} must be named as it was: {', '.join(known)}")


def is_idle(part: Path, ending: str, names: Sequence[str], between: str | None = None) -> bool:
    """Whether a part file is one that a run had only begun: its columns are `names`, and no call was answered.

    `between` is what stands between its cells, unless it is what is usual.
    """
    try:
        if not looks.is_file(part):
            return False
        if part.stat().st_size <= (len(b"PAR1") if ending == ".parquet" else 0):
            return True
        known = {*names, *map(defused, names)}
        if ending in DELIMITERS and _is_begun_header(part, between or DELIMITERS[ending], names, known):
            return True
        header: list[str] = []
        for record in records(Source(part, ending, between=between), header):
            if not record or not known.issuperset(record) or _is_paid(record) or _is_ok(record):
                return False
    except (ConfigurationError, UnreadableInputError, OSError):
        return False
    return known.issuperset(header) and (bool(header) or ending not in DELIMITERS)


def _is_begun_header(part: Path, between: str, names: Sequence[str], known: set[str]) -> bool:
    """Whether there is less than one line in it, and that is the beginning of its header.

    Or what a loss of power left of a header: the rest is zeros.
    """
    with part.open("rb") as file:
        begun = file.read(_LONGEST_HEADER + 1)
    if b"\0" in begun and len(begun) <= _LONGEST_HEADER:
        left = [piece.decode("utf-8-sig", "replace") for piece in begun.split(b"\0") if piece]
        wholes = [f"{between.join(made)}\n" for made in (names, map(defused, names))]
        return any(all(piece in whole for piece in left) for whole in wholes)
    if b"\n" in begun or len(begun) > _LONGEST_HEADER:
        return False
    *whole, last = next(csv.reader([begun.decode("utf-8-sig", "replace")], delimiter=between), [""])
    return set(whole) <= known and any(name.startswith(last.rstrip("\ufffd")) for name in known)


def _is_paid(record: Mapping[str, Any]) -> bool:
    return any(value in _PAID and _CHARGE.fullmatch(name) for name, value in record.items())


def _is_ok(record: Mapping[str, Any]) -> bool:
    return any(_OK.fullmatch(name) and (value is True or value == "true") for name, value in record.items())


def records(source: Source, header: list[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """The rows of a file that a run wrote; `header` gets the columns, where the format has a header.

    Raises UnreadableInputError.
    """
    if source.ending in DELIMITERS:
        between = _between(source)
        with closing(
            DelimitedReader(source.path, source.ending[1:], between, between, "utf-8", header_row=1)
        ) as reader:
            names = [*map(unshielded, reader.header)]
            if header is not None:
                header += names
            for row in reader:
                # Zeros are what a loss of power leaves of what was not on the disk yet.
                is_torn = (source.is_part or source.named) and any("\0" in cell for cell in row.cells)
                yield {} if is_torn else dict(zip(names, map(unshielded, row.cells), strict=True))
    elif source.ending == BOOK and _is_book(source.path):
        from aisolution_async.bulk import books  # noqa: PLC0415  # only where there is a workbook

        yield from books.records(source.path)
    elif source.ending == ".parquet":
        from aisolution_async.bulk.parquet import ParquetReader  # noqa: PLC0415  # it needs pyarrow, which is an extra

        with closing(ParquetReader(source.path)) as table:
            if header is not None:
                header += table.header
            for row in table:
                yield dict(zip(table.header, row.cells, strict=True))
    else:
        with source.path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None  # torn by a loss of power
                yield record if isinstance(record, dict) else {}


def _is_book(path: Path) -> bool:
    """Whether a file is a workbook, and not the rows that one is made of."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _between(source: Source) -> str:
    """What stands between the cells: what makes columns of results of the header, as the run before may have had it."""
    usual: str = DELIMITERS[source.ending]
    expected: str = source.between or usual
    with source.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        begun = file.read(_LONGEST_HEADER)
    candidates: list[str] = [expected, usual, *",;\t|"]
    for between in candidates:
        with suppress(csv.Error):
            header = next(csv.reader(io.StringIO(begun, newline=""), delimiter=between), [])
            if any(map(_CHARGE.fullmatch, header)):
                return between
    return expected


class Earlier:
    """What `sources` hold of the rows of an input; `results` are the columns of each of `kinds`, `names` all there are.

    First `gather`, then, where something is left, `compare`; then `lost` and `keep`, and while the run goes on `take`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        kinds: Sequence[type[Call[Any]]],
        results: Sequence[Results],
        names: Sequence[str],
        *,
        cells_of: Callable[[Row], Sequence[Any]],
        key: str | None,
        is_whole: bool,
    ) -> None:
        self.lost = 0
        """How many answers that were paid for would go, and be paid for again, if the files were replaced."""
        self.where: Path | None = None
        """The file that holds one of these."""
        self._sources = sources
        self._kinds = kinds
        self._results = results
        self._names = names  # the columns of an output
        self._cells_of = cells_of  # what a row of the input has in the first of these
        self._header = names[: len(names) - sum(len(columns.names) for columns in results)]
        self._key = key  # the column of keys
        self._is_whole = is_whole  # whether the ledger is known to have forgotten nothing
        self._strange: Counter[int] = Counter()  # rows, by source, that were paid for, under other columns
        self._times: Counter[bytes] = Counter()  # how often a row was taken that is there more than once
        self._any = False
        self._buys_again = False  # whether what may have been charged once is sent again
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE found (source INTEGER, place INTEGER, kind INTEGER, digest INTEGER, paid INTEGER)",
            """CREATE TABLE left (source INTEGER, mark BLOB, nth INTEGER, kind INTEGER, paid INTEGER, answered INTEGER,
                said TEXT, state TEXT NOT NULL DEFAULT 'unseen')""",
            "CREATE INDEX left_by_mark ON left (mark, kind, source)",
            "CREATE TABLE answers (digest INTEGER PRIMARY KEY, bought INTEGER)",
            "CREATE TABLE copies (line BLOB)",
        ):
            self._db.execute(statement)

    def close(self) -> None:
        """Forget all."""
        self._db.close()

    # ------------------------------------------------------------------- what the ledger has not word for word

    def gather(self, ledger: Store | None, given_up: threading.Event) -> bool:
        """Find the answers that do not stand in the ledger as they are. Whether there are any. Blocks."""
        db = self._db
        db.execute("BEGIN")
        db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?)", self._found(given_up))
        if ledger is not None:
            self._match(ledger, given_up)
        self._look_again(given_up)
        db.execute("COMMIT")
        if ledger is not None and self._strange:
            self._count_strange(ledger.summary())
        return bool(db.execute("SELECT EXISTS (SELECT 1 FROM left)").fetchone()[0])

    def _match(self, ledger: Store, given_up: threading.Event) -> None:
        """Be done with the answers that the ledger has word for word, as often as they were bought."""
        db = self._db
        number = len([source for source in self._sources if source.replaced])  # they come first
        db.execute(
            "INSERT INTO answers SELECT DISTINCT digest, 0 FROM found WHERE digest IS NOT NULL AND source < ?",
            (number,),
        )
        if not db.execute("SELECT EXISTS (SELECT 1 FROM answers)").fetchone()[0]:
            return
        digests = ((digest,) for digest in self._digests(ledger.answers(), given_up))
        db.executemany("UPDATE answers SET bought = bought + 1 WHERE digest = ?", digests)
        # One that was bought accounts for one row that was paid for, and for all that ask the same.
        for source in range(number):
            db.execute(
                """DELETE FROM found WHERE source = ? AND digest IN (
                    SELECT digest FROM found JOIN answers USING (digest) WHERE source = ?
                    GROUP BY digest HAVING bought >= max(1, sum(paid)))""",
                (source, source),
            )

    def _found(self, given_up: threading.Event) -> Iterator[tuple[int, int, int, int | None, bool]]:
        for number, source in enumerate(self._sources):
            try:
                for place, record in enumerate(records(source)):
                    if given_up.is_set():
                        return
                    said = [results.read(record) for results in self._results]
                    if all(values is None for values in said) and _is_paid(record):
                        self._strange[number] += 1
                    yield from ((number, place, *each) for each in self._of_note(record, said))
            except UnreadableInputError as exc:
                if source.replaced:
                    self._lose(source, 1)
                else:
                    raise ConfigurationError(f"the file of rescued rows: {exc}") from None
            except ConfigurationError:
                if source.named:
                    raise
                if source.ending == ".parquet" and source.is_part and source.path.stat().st_size > len(b"PAR1"):
                    self._strange[number] += 1  # it was killed: there are rows in it, and nobody can read them

    def _of_note(
        self, record: Mapping[str, Any], said: Sequence[list[Any] | None]
    ) -> Iterator[tuple[int, int | None, bool]]:
        """The calls of a row that cost something, or have an answer to keep."""
        for kind, values in enumerate(said):
            if values is not None:
                is_paid, is_answered = self._weigh(kind, values)
                if is_paid or is_answered:
                    key, answer = record.get(self._key or ""), self._results[kind].answer(values)
                    has_reply = self._results[kind].state(values) is not RowState.FAILED
                    yield kind, self._digest(kind, key, answer) if has_reply else None, is_paid

    def _weigh(self, kind: int, values: Sequence[Any]) -> tuple[bool, bool]:
        """Whether it was paid for, or done, and must not be once more; and whether there is an answer to keep."""
        endpoint, results = self._kinds[kind].endpoint, self._results[kind]
        if endpoint.idempotent:
            return False, False
        state = results.state(values)
        is_paid = results.charge(values) in _PAID or (endpoint.never_charges and state is not RowState.FAILED)
        if state is RowState.FAILED:
            return is_paid, results.raw(values) is not None
        return is_paid, is_paid or state is RowState.OK

    def _digests(self, answers: Iterable[Record], given_up: threading.Event) -> Iterator[int]:
        kinds = {call.endpoint.name: kind for kind, call in enumerate(self._kinds)}
        for record in answers:
            if given_up.is_set():
                return
            kind = kinds.get(record.endpoint)
            if kind is None or record.reply is None or record.state is State.UNKNOWN:
                continue
            try:
                reply = self._kinds[kind].endpoint.reply.from_record(record.reply)
            except (ValueError, TypeError):  # whatever stands there
                continue
            yield self._digest(kind, self._key and record.key, self._results[kind].fields_of(reply))

    def _digest(self, kind: int, key: object, answer: Sequence[Any]) -> int:
        said = "\0".join((defused(text(key)), *map(cell, answer))).encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(b"%d %b" % (kind, said), digest_size=8).digest(), signed=True)

    def _look_again(self, given_up: threading.Event) -> None:
        """Keep what is left of the files, under the marks of its rows."""
        db = self._db
        for number, source in enumerate(self._sources):
            query = "SELECT place, kind, paid FROM found WHERE source = ? ORDER BY place, kind"
            wanted = db.execute(query, (number,))
            following = wanted.fetchone()
            if following is None:
                continue
            for place, record in enumerate(records(source)):
                if following is None or given_up.is_set():
                    break
                mark = self._mark_of(source, record) if following[0] == place else None
                while following is not None and following[0] == place:
                    _, kind, is_paid = following
                    values = self._results[kind].read(record)
                    if values is not None:
                        _, is_answered = self._weigh(kind, values)
                        (nth,) = db.execute(
                            "SELECT count(*) FROM left WHERE mark = ? AND kind = ? AND source = ?", (mark, kind, number)
                        ).fetchone()
                        row = (number, mark, nth, kind, is_paid, is_answered, json.dumps(values))
                        db.execute("INSERT INTO left VALUES (?, ?, ?, ?, ?, ?, ?, 'unseen')", row)
                    following = wanted.fetchone()

    def _mark_of(self, source: Source, record: Mapping[str, Any]) -> bytes | None:
        if not record.keys() <= {*self._names, *map(defused, self._names)}:
            return None  # a row of another input
        is_text = source.ending in DELIMITERS
        cells = [record.get(defused(name) if is_text else name, MISSING) for name in self._header]
        return _mark(map(defused, map(text, cells)), b"text") if is_text else _mark(map(plain_text, cells), b"typed")

    def _count_strange(self, balance: Balance) -> None:
        """Rows that cannot be told from others can be counted all the same."""
        known = sum(line.attempts for line in balance.lines if line.state in (State.CHARGED, State.UNKNOWN))
        for number, rows in self._strange.items():
            if self._sources[number].replaced:
                self._lose(self._sources[number], max(0, rows - known))

    def _lose(self, source: Source, count: int) -> None:
        if count:
            self.lost += count
            self.where = self.where or source.path

    # ----------------------------------------------------------------------- what the ledger knows of the rest

    async def compare(
        self, rows: Rows | None, calls: Calls, client: AsyncClient, ledger: Place | None, given_up: threading.Event
    ) -> None:
        """Hold what is left against the input, and against what the ledger knows of it.

        `rows` is the input, None where it can be read only once: then what is named is believed, and nothing else is.
        """
        chunk: dict[bytes, tuple[Row, list[_Left]]] = {}
        self._buys_again = client.options.retry.unknown > 0
        with open_peek(ledger) as peek:
            memory = _Memory(Questions(client, peek), peek, calls)
            for number, row in enumerate(rows or ()):
                if number % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                    if given_up.is_set():
                        return
                if (left := self._left_of(row)) and (mark := left[0].mark) not in chunk:
                    chunk[mark] = row, left
                    if len(chunk) >= _AT_ONCE:
                        await self._judge(chunk, memory)
            await self._judge(chunk, memory)
        if rows is None:
            for number, source in enumerate(self._sources):
                if source.named:
                    self._db.execute("UPDATE left SET state = 'taken' WHERE answered AND source = ?", (number,))
        self._any = bool(self._db.execute("SELECT EXISTS (SELECT 1 FROM left WHERE state = 'taken')").fetchone()[0])
        lost = []
        for number, source in enumerate(self._sources):
            # What is in no row of the input any more, or cannot be compared, goes with the file.
            query = """SELECT count(*) FROM left WHERE source = ? AND paid
                AND (state = 'lost' OR (? AND state = 'unseen' AND (answered OR ?)))"""
            (count,) = self._db.execute(query, (number, source.replaced, rows is None)).fetchone()
            lost.append((count, source))
        count, source = max(lost, key=lambda each: each[0])  # they have the same rows, more or less
        self._lose(source, count)

    def _left_of(self, row: Row) -> list[_Left]:
        """What is left of this row, of all calls, and was not judged yet."""
        query = "SELECT rowid, mark, source, kind, paid, answered, said FROM left WHERE mark = ? AND state = 'unseen'"
        return [_Left(*found) for mark in self._marks(row) for found in self._db.execute(query, (mark,))]

    async def _judge(self, chunk: dict[bytes, tuple[Row, list[_Left]]], memory: _Memory) -> None:
        asked = [(row, kind, left) for row, left in chunk.values() for kind in sorted({each.kind for each in left})]
        chunk.clear()
        known = await asyncio.gather(*(memory.of(row, kind) for row, kind, _ in asked))
        for (row, kind, left), knows in zip(asked, known, strict=True):
            self._decide(row, [each for each in left if each.kind == kind], knows)

    def _decide(self, row: Row, left: Sequence[_Left], knows: _Knows) -> None:
        answered = [self._sources[each.source] for each in left if each.answered]
        for each in left:
            state = "taken" if each.answered else "done"
            is_named = any(source.named for source in answered)
            if knows is _Knows.THE_ANSWER:
                state = "done"
            elif self._is_words(each) and (knows is _Knows.THE_WORDS or (knows is _Knows.NOTHING and is_named)):
                state = "done" if knows is _Knows.THE_WORDS or self._buys_again else "taken"
            elif knows is _Knows.NOTHING and not is_named:
                # It may have been another picture of the same name: no answer is given to a question unknown.
                state = "lost" if each.paid else "done"
            elif not self._is_whole and answered and all(source.replaced and not source.named for source in answered):
                # What the ledger's disk could not take is in a file of rescued rows too. This the ledger forgot, and
                # with it, maybe, what was under way.
                state = "lost" if each.paid else "done"
            elif knows is _Knows.RELEASED and self._is_words(each):
                state = "done"
            self._db.execute("UPDATE left SET state = ? WHERE rowid = ?", (state, each.rowid))
            goes = self._sources[each.source].is_part and all(source.replaced for source in answered)
            if state == "taken" and goes:
                values: list[Any] = []
                for kind, results in enumerate(self._results):
                    values += json.loads(each.said) if kind == each.kind else [MISSING] * len(results.names)
                line = as_json(self._names, self._cells_of(row), values)
                self._db.execute("INSERT INTO copies VALUES (?)", (line,))

    def _is_words(self, left: _Left) -> bool:
        """Whether it is what the vendor said, and no answer."""
        return self._results[left.kind].state(json.loads(left.said)) is RowState.FAILED

    # ------------------------------------------------------------------------------------------------- in the run

    def keep(self, output: Path) -> Path | None:
        """Put what is only in the part file into a file of rescued rows before that goes. Raises ConfigurationError."""
        lines = self._db.execute("SELECT line FROM copies ORDER BY rowid")
        first = lines.fetchone()
        return None if first is None else keep(output, (line for (line,) in chain((first,), lines)))

    def put_away(self, output: Path) -> None:
        """The output is whole: mark the files of rescued rows of which it has all that was to be kept."""
        query = "SELECT EXISTS (SELECT 1 FROM left WHERE source = ? AND state = 'unseen')"
        for number, source in enumerate(self._sources):
            is_left = self._db.execute(query, (number,)).fetchone()[0] or self._strange[number]
            if not source.replaced and not is_left:
                with suppress(OSError, ConfigurationError):  # then it is found again the next time
                    put_away(source.path, output)

    def take(self, row: Row) -> dict[int, Written]:
        """The answers to this row's calls that are taken over, by the place of the call."""
        if not self._any:
            return {}
        taken: dict[int, Written] = {}
        marks = self._marks(row)
        # Of rows that are alike in all cells, the first has the first answer, which says what it cost.
        nth = self._times[marks[0]]
        query = """SELECT kind, said FROM left WHERE mark IN (?, ?) AND state = 'taken'
            ORDER BY nth != ?, source, nth DESC"""
        for kind, said in self._db.execute(query, (marks[0], marks[-1], nth)):
            taken.setdefault(kind, Written(json.loads(said)))
        if taken:
            self._times[marks[0]] += 1
        return taken

    def _marks(self, row: Row) -> list[bytes]:
        """What a row is known by, in a file with types, and in one of text."""
        cells = self._cells_of(row)
        marks = [_mark(map(plain_text, cells), b"typed")]
        texts = [*map(text, cells)]
        # In a file of text, nobody can tell such a cell from one that got its apostrophe there.
        if not any(each[:1] == "'" and defused(each[1:]) == each for each in texts):
            marks.append(_mark(map(defused, texts), b"text"))
        return marks


@dataclass(frozen=True, slots=True)
class _Left:
    """One call of one row of one file, whose answer does not stand in the ledger word for word."""

    rowid: int
    mark: bytes
    source: int
    kind: int
    paid: bool
    answered: bool
    said: str


class _Knows(Enum):
    """What the ledger knows of a question."""

    THE_ANSWER = "the answer"
    THE_WORDS = "what came, which is no answer and holds the question"
    RELEASED = "the question, which nothing holds: it would be sent"
    THE_QUESTION = "the question"
    NOTHING = "nothing"


class _Memory:
    """What the ledger knows of the calls of a row."""

    def __init__(self, questions: Questions, peek: Peek, calls: Calls) -> None:
        self._questions = questions
        self._peek = peek
        self._calls = calls

    async def of(self, row: Row, kind: int) -> _Knows:
        """What the ledger knows of one call. A call that cannot be sent any more can only have been asked before."""
        await self._calls.ready(row)
        call = self._calls.make(row)[kind]
        if isinstance(call, InputError):
            return _Knows.THE_QUESTION
        ask = await self._questions.of(call, as_sent=False)
        if not isinstance(ask, Ask):
            return _Knows.THE_QUESTION
        found = self._peek.look(ask)
        if isinstance(found, Stored) or not ask.reusable:
            return _Knows.THE_ANSWER
        if isinstance(found, Held):
            return _Knows.THE_QUESTION if found.reply is None else _Knows.THE_WORDS
        return _Knows.RELEASED if self._peek.knows(ask) else _Knows.NOTHING


def _mark(texts: Iterable[str], kind: bytes) -> bytes:
    return blake2b(json.dumps([*texts]).encode(), digest_size=16, person=kind).digest()
