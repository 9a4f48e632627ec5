"""What came of each applicant: a file of results read into counts, problems by kind, and the rows to look at.

A row that never became an attempt, as one with a bad number or photo, stands in no ledger: only here. The file is gone
through once, and of its rows only those are kept that are listed, so that memory stays flat. Of a row, the page shows
its number and its key. What else is in its cells stays where it is: numbers, names, the paths of photos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisolution_async.api import CALLS, Judgment, Kind
from aisolution_async.bulk import words
from aisolution_async.bulk.cells import text
from aisolution_async.bulk.report.figures import amount_of
from aisolution_async.bulk.results import Results, RowState
from aisolution_async.errors import ConfigurationError
from aisolution_async.inputs import columns, numbers
from aisolution_async.inputs.columns import Fit, Role

if TYPE_CHECKING:
    from aisolution_async.bulk.earlier import Source

MOST_LISTED = 200
"""How many rows are listed of each kind."""
MOST_NAMED = 12
"""How many rows of a problem are named."""
MOST_PROBLEMS = 40
"""How many kinds of problems are told apart."""
TORN, TOTALS = "torn", "totals"
"""What stands in no count."""

_LONGEST = 80  # characters of a key
_LONGEST_PROBLEM = 600
_LONGEST_WORD = 40
_WORST_FIRST = (words.HELD, words.PROBLEM, words.CHECKING, words.ANSWERED)
_TO_JUDGE = (Judgment.NOT_SURE, Judgment.NOT_SAME_PERSON)
_ROLES = {
    "facecompare.img1": Role.FIRST_PHOTO,
    "facecompare.img2": Role.CARD_PHOTO,
    "idholding.img": Role.HELD_PHOTO,
}
_SAME_COLUMNS = ("facecompare", "idholding")


@dataclass(frozen=True, slots=True)
class RowName:
    """A row of the file, as a spreadsheet counts them, and its key, if it has one.

    `place` is where the list has it, if its problem says so and that is another number. `shard` is the file, where
    there are several.
    """

    number: int
    key: str | None
    place: str | None = None
    shard: str | None = None


@dataclass(slots=True)
class ListedProblem:
    """What rows have in common that have no answer, and the remedy. `rows` are the first of them."""

    said: str
    remedy: str
    count: int = 0
    rows: list[RowName] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToJudge:
    """A row that a person should look at. `cells` are those of its photos, with the parameters' names.

    `inputs` are the short ones of those that the list has too, by which the row is known there.
    """

    row: RowName
    endpoint: str
    judgment: str
    similarity: float | None
    cells: Sequence[tuple[str, Any]]
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Photograph:
    """A JPEG, or why there is none. `name` is the parameter's."""

    name: str
    jpeg: bytes | None
    problem: str = ""


Photographs = dict[tuple[int, str], list[Photograph]]
"""By the row's number and the endpoint."""


@dataclass(slots=True)
class Service:
    """What came of the calls to one endpoint."""

    states: Counter[str] = field(default_factory=Counter)
    charges: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Applicants:
    """All rows of a file of results: each is answered, checking, held, or has a problem.

    `is_part`: the run is not over, or was killed. In `left_out`, TORN are the lines that cannot be read, and TOTALS
    those of which nothing was asked: they add up others.
    """

    name: str
    is_part: bool = False
    states: Counter[str] = field(default_factory=Counter)
    services: dict[str, Service] = field(default_factory=dict)
    problems: list[ListedProblem] = field(default_factory=list)
    others: int = 0
    """Rows with a problem of yet another kind."""
    checking: list[RowName] = field(default_factory=list)
    held: list[RowName] = field(default_factory=list)
    to_judge: dict[str, list[ToJudge]] = field(default_factory=dict)
    """By judgment; counted in `judged`."""
    judged: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """What a person should know of the list."""
    photographs: Photographs = field(default_factory=dict)
    prices: Mapping[str, int] = field(default_factory=dict)
    """What a charge costs, in millionths, by endpoint."""
    currency: str = ""

    @property
    def rows(self) -> int:
        """All of them."""
        return self.states.total()

    @property
    def photographed(self) -> int:
        """How many rows have a photograph on the page."""
        return sum(any(each.jpeg is not None for each in photographs) for photographs in self.photographs.values())

    def worst_first(self) -> Iterator[ToJudge]:
        """The rows that a person should look at: those that nobody is sure of before the others."""
        for judgment in _TO_JUDGE:
            yield from self.to_judge.get(judgment, ())

    def amount(self, millionths: int) -> str:
        """Money as it is shown."""
        return amount_of(millionths, self.currency)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the rows: the column of their keys, and those of their photos by parameter, where said.

    `endpoints` are those that the ledger has: which of two with the same columns it was.
    """

    key: str | None = None
    photos: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    endpoints: Collection[str] = ()


def read(path: Path, ending: str, asked: Asked, *, is_part: bool = False) -> Applicants:
    """Read the results in the file `path`, which is written as `ending` says.

    Raises ConfigurationError where it has no results, and UnreadableInputError.
    """
    from aisolution_async.bulk.earlier import Source  # noqa: PLC0415  # it imports the words of reports

    found, problems = Applicants(path.name, is_part), dict[str, ListedProblem]()
    _read(Source(path, ending, is_part=is_part), asked, found, problems)
    return _sorted(found, problems)


def read_shards(name: str, paths: Sequence[Path], asked: Asked) -> Applicants:
    """The same of the results of a folder of lists, which is called `name`: of all these files together."""
    from aisolution_async.bulk.earlier import Source  # noqa: PLC0415  # it imports the words of reports

    found, problems = Applicants(name), dict[str, ListedProblem]()
    for path in paths:
        _read(Source(path, path.suffix.lower()), asked, found, problems, shard=path.name)
    return _sorted(found, problems)


def _read(
    source: Source, asked: Asked, found: Applicants, problems: dict[str, ListedProblem], *, shard: str | None = None
) -> None:
    """Count the rows of a file in."""
    from aisolution_async.bulk.earlier import records  # noqa: PLC0415  # it imports the words of reports

    header: list[str] = []
    reading: _RowReader | None = None
    for number, record in enumerate(records(source, header), 2):
        if not record:
            found.left_out[TORN] += 1
            continue
        if reading is None:
            reading = _RowReader(source.path, [*record], asked, found, problems)
            reading.shard = shard
        reading.add(number, record)
    if reading is None:
        _RowReader(source.path, header, asked, found, problems)


def _sorted(found: Applicants, problems: Mapping[str, ListedProblem]) -> Applicants:
    found.problems = sorted(problems.values(), key=lambda problem: -problem.count)
    return found


class _RowReader:
    """What goes through the rows of a file with the columns `header`."""

    def __init__(
        self,
        path: Path,
        header: Sequence[str],
        asked: Asked,
        found: Applicants,
        problems: dict[str, ListedProblem],
    ) -> None:
        self.shard: str | None = None
        """What the file is called, where there are several."""
        self._found = found
        self._results, inputs = _results_of(header)
        if header and not self._results:
            raise ConfigurationError(
                f"{str(path)!r} has no columns of results (ok, charge, problem …): name the file that bulk wrote"
            )
        for wanted in (asked.key, *asked.columns.values()):
            if wanted is not None and header and wanted not in header:
                listed = ", ".join(map(repr, header[:20]))
                raise ConfigurationError(f"{str(path)!r} has no column {wanted!r}: its columns are {listed}")
        self._inputs = inputs
        self._key = asked.key or _key_column(inputs)
        self._names = [_name_of(results, self._results, asked, inputs) for results in self._results]
        self._photos = [
            self._photo_columns(name, inputs, asked.columns) if asked.photos else [] for name in self._names
        ]
        self._problems = problems
        for name in self._names:
            found.services.setdefault(name, Service())

    def _photo_columns(self, name: str, inputs: Sequence[str], said: Mapping[str, str]) -> list[tuple[str, str]]:
        """The columns of an endpoint's photos, with the parameters' names."""
        if name == _EITHER:
            self._found.notes.append(
                "Photos are not shown: whether two were compared, or one with the card in it, is not known. Say --img1 "
                "and --img2, or --img."
            )
        if name not in _SAME_COLUMNS:
            return []
        found = []
        call = next(call for call in CALLS if call.endpoint.name == name)
        for parameter in call.endpoint.parameters:
            if parameter.kind is not Kind.IMAGE:
                continue
            column = said.get(parameter.name) or _photo_column(f"{name}.{parameter.name}", parameter.name, inputs)
            if column is None:
                self._found.notes.append(
                    f"The photos of {words.SERVICES[name]} are not shown: which column is {parameter.name} is not "
                    f"known. Say --{parameter.name} COLUMN."
                )
                return []
            found.append((parameter.name, column))
        return found

    def add(self, number: int, record: Mapping[str, Any]) -> None:
        """Count a row in."""
        found, row, states = self._found, None, []
        if self._is_total(record):
            found.left_out[TOTALS] += 1
            return
        for name, results, photos in zip(self._names, self._results, self._photos, strict=True):
            ok = results.names[0]
            if isinstance(record.get(ok), str):  # as a spreadsheet saves it
                record = {**record, ok: str(record[ok]).lower()}
            values = results.read(record)
            if values is None:
                continue
            state = _state_of(results, values)
            states.append(state)
            service = found.services[name]
            service.states[state] += 1
            service.charges[str(results.charge(values))] += 1
            if state in (words.PROBLEM, words.HELD):
                said = str(values[-1] or values[-2] or "no reason is said")
                row = replace(row or self._named(number, record), place=words.place_of(said, number))
                self._problem(row, said, str(values[-2]), name)
                continue
            for place in results.verdicts:
                if values[place] is not None:
                    service.verdicts[str(values[place])[:_LONGEST_WORD]] += 1
            judgment = values[2] if name in _SAME_COLUMNS or name == _EITHER else None
            if judgment in _TO_JUDGE:
                found.judged[judgment] += 1
                listed = found.to_judge.setdefault(judgment, [])
                if len(listed) < MOST_LISTED:
                    row = row or self._named(number, record)
                    cells = [(parameter, record.get(column)) for parameter, column in photos]
                    score = values[1] if isinstance(values[1], float) else None
                    known = {own: record.get(own) for own in self._inputs if len(text(record.get(own))) <= _LONGEST}
                    listed.append(ToJudge(row, name, str(judgment), score, cells, known if photos else {}))
        if not states:
            found.left_out[TORN] += 1
            return
        self._list(number, record, next(state for state in _WORST_FIRST if state in states))

    def _list(self, number: int, record: Mapping[str, Any], state: str) -> None:
        """Count a row by what came of it, and name it where such rows are listed."""
        found = self._found
        found.states[state] += 1
        for kind, rows in ((words.CHECKING, found.checking), (words.HELD, found.held)):
            if state == kind and len(rows) < MOST_LISTED:
                rows.append(self._named(number, record))

    def _is_total(self, record: Mapping[str, Any]) -> bool:
        """Whether nothing was asked of a row: then none of its results says anything."""
        names = [name for results in self._results for name in results.names]
        return all(name in record and record[name] in (None, "") for name in names)

    def _problem(self, row: RowName, said: str, error: str, endpoint: str) -> None:
        for kind in words.kinds_of(said):
            problem = self._problems.get(kind[:_LONGEST_PROBLEM])
            if problem is None:
                if len(self._problems) >= MOST_PROBLEMS:
                    self._found.others += 1
                    continue
                remedy = words.STATES[words.HELD] if words.is_held(said) else words.remedy_for(error, endpoint)
                problem = ListedProblem(kind[:_LONGEST_PROBLEM], remedy)
                self._problems[problem.said] = problem
            problem.count += 1
            if len(problem.rows) < MOST_NAMED and row not in problem.rows:
                problem.rows.append(row)

    def _named(self, number: int, record: Mapping[str, Any]) -> RowName:
        key = None if self._key is None else text(record.get(self._key)).strip()[:_LONGEST]
        if key and (told := numbers.mobile_of(key)) is not None and told[1]:
            key = None  # it is somebody's number
        return RowName(number, key or None, shard=self.shard)


_EITHER = "facecompare or idholding"


def _results_of(header: Sequence[str]) -> tuple[list[Results], Sequence[str]]:
    """The columns of results that the last run wrote, and the columns before them.

    What an earlier run wrote is the input of a later one.
    """
    found: list[tuple[int, Results]] = []
    place = 0
    while place < len(header):
        for call in CALLS:
            for several in (False, True):
                prefix = f"{call.endpoint.command.replace('-', '_')}_" if several else ""
                if not header[place].startswith(f"{prefix}ok"):
                    continue
                results = Results(call, header[:place], str, several=several)
                if list(header[place : place + len(results.names)]) == results.names:
                    found.append((place, results))
                    break
            else:
                continue
            break
        place += len(found[-1][1].names) if found and found[-1][0] == place else 1
    last: list[tuple[int, Results]] = []
    for begin, results in reversed(found):
        is_alone = results.names[0].startswith("ok")
        follows = not last or (begin + len(results.names) == last[-1][0] and not is_alone)
        if not follows or any(results.endpoint is other.endpoint for _, other in last):
            break
        last.append((begin, results))
        if is_alone:
            break
    last.reverse()
    return [results for _, results in last], header[: last[0][0]] if last else header


def _state_of(results: Results, values: Sequence[Any]) -> str:
    state = results.state(values)
    if state is not RowState.FAILED:
        return words.ANSWERED if state is RowState.OK else words.CHECKING
    return words.HELD if words.is_held(str(values[-1])) else words.PROBLEM


def _name_of(results: Results, every: Sequence[Results], asked: Asked, inputs: Sequence[str]) -> str:
    """Which endpoint it was: two of them have the same columns, if nothing else was asked of the rows."""
    name = results.endpoint.name
    if len(every) > 1 or name not in _SAME_COLUMNS:
        return name
    for candidates in (
        [each for each in _SAME_COLUMNS if each in asked.endpoints],
        [each for each in _SAME_COLUMNS if any(key.partition(".")[2] in asked.columns for key in _keys(each))],
        [each for each in _SAME_COLUMNS if all(_photo_column(k, k.partition(".")[2], inputs) for k in _keys(each))],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return _EITHER


def _keys(endpoint: str) -> list[str]:
    return [key for key in _ROLES if key.startswith(f"{endpoint}.")]


def _photo_column(role: str, parameter: str, inputs: Sequence[str]) -> str | None:
    """The one column that is named like it."""

    def is_named(name: str) -> bool:
        return columns.bare(name) == columns.bare(parameter) or columns.fit(name, _ROLES[role]) is Fit.SURE

    return _only(inputs, is_named) or _only(inputs, lambda name: columns.fit(name, _ROLES[role]) is Fit.WEAK)


def _key_column(inputs: Sequence[str]) -> str | None:
    for wanted in (Fit.SURE, Fit.WEAK):
        found = [name for name in inputs if columns.fit(name, Role.KEY) is wanted]
        found = [name for name in found if columns.fit(name, Role.NUMBER) is not Fit.SURE]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _only(names: Sequence[str], fits: Callable[[str], bool]) -> str | None:
    found = [name for name in names if fits(name)]
    return found[0] if len(found) == 1 else None
