"""One table of an invoice, understood: which column is what, which rows are charges, and how many charges each has.

Rows are what the file has, from the first on: lines above the names of the columns, totals, taxes and notes among them.
They are gone through twice, so that what one of them says (which sign stands before decimals, whether the day or the
month comes first) is known before any of them is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any

from aisolution_async.api import ENDPOINTS, endpoint_of
from aisolution_async.bulk.cells import text
from aisolution_async.bulk.invoice import words
from aisolution_async.bulk.invoice.words import Days, Order, Point, Role, When
from aisolution_async.bulk.source import shown, some
from aisolution_async.errors import ConfigurationError

Line = tuple[int, Sequence[Any]]
"""A row as it stands in the file: the number of its line, and its cells."""
Lines = Callable[[], Iterable[Line]]
"""The rows of a table, from the first, as often as they are asked for."""

_MOST_ABOVE = 100
_SAMPLE = 200
_LONGEST = 40
_POINTS: Mapping[Point, str] = {".": "a point", ",": "a comma"}
_ORDERS: Mapping[Order, str] = {"dmy": "the day stands before the month", "mdy": "the month stands before the day"}


@dataclass(frozen=True, slots=True)
class Hints:
    """What a person says of an invoice: names of columns, and what its cells leave open.

    `endpoint` may also be a service, of which the whole invoice is. `prices` are those of a charge, by the vendor's
    name, for invoices of amounts without counts; `ledger_prices` are those that the ledgers know, where none is given.
    """

    day: str | None = None
    endpoint: str | None = None
    count: str | None = None
    amount: str | None = None
    status: str | None = None
    decimal: Point | None = None
    dates: Order | None = None
    period: Days | None = None
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    ledger_prices: Mapping[str, Decimal] = field(default_factory=dict)

    def columns(self) -> dict[Role, str]:
        """The names of columns that were given."""
        service = None if self.endpoint is None or endpoint_of(self.endpoint) is not None else self.endpoint
        given: dict[Role, str | None] = {
            "day": self.day, "service": service, "count": self.count, "amount": self.amount, "status": self.status,
        }  # fmt: skip
        return {role: name for role, name in given.items() if name is not None}


@dataclass(frozen=True, slots=True)
class Invoice:
    """What an invoice charges: `charges` by days and service, the vendor's name where it is an endpoint.

    `period` is the days that it is of, None where it names none: then it is of all that there ever was. `about` says in
    lines for a person how it was read.
    """

    charges: Mapping[tuple[Days | None, str], int]
    period: Days | None
    about: tuple[str, ...]

    @property
    def is_one_period(self) -> bool:
        """Whether it has one line a service, and says no days of its own."""
        return all(span == self.period for span, _ in self.charges)


class NoTableError(ConfigurationError):
    """No row names columns that say what is charged. `fitting` is how many of these one row names at most."""

    fitting = 0


@dataclass(slots=True)
class _Places:
    """Where the columns are, from 0."""

    line: int
    names: list[str]
    day: int | None = None
    until: int | None = None
    service: int | None = None
    count: int | None = None
    price: int | None = None
    amount: int | None = None
    status: int | None = None
    currency: int | None = None
    request: int | None = None

    def numbers(self) -> list[int]:
        return [place for place in (self.count, self.price, self.amount) if place is not None]

    def days(self) -> list[int]:
        return [place for place in (self.day, self.until) if place is not None]

    def told(self) -> str:
        """Which column is what."""
        given = {
            "days": self.day,
            "to": self.until,
            "services": self.service,
            "counts": self.count,
            "prices": self.price,
            "amounts": self.amount,
            "states": self.status,
        }
        return ", ".join(f"{what} from {self.names[at]!r}" for what, at in given.items() if at is not None)


def understand(lines: Lines, path: str, hints: Hints, noun: str = "line") -> Invoice:
    """Read the table; `noun` is what a person calls its rows. Raises ConfigurationError for what is not sure in it."""
    return _Pass(lines, path, hints, noun).read()


def columns_of(lines: Lines, path: str, hints: Hints) -> int:
    """How many columns the table has, where one of its first rows names them. Raises NoTableError."""
    return sum(map(bool, _Pass(lines, path, hints, "line").places.names))


class _Pass:
    """The reading of one table."""

    def __init__(self, lines: Lines, path: str, hints: Hints, noun: str) -> None:
        self._lines = lines
        self._path = path
        self._noun = noun
        self._hints = hints
        self._above: list[str] = []
        self.places = self._find_places()
        self._point: Point | None = hints.decimal
        self._order: Order | None = hints.dates
        self._is_log = False
        self._has_time = False
        self._about: list[str] = []

    def read(self) -> Invoice:
        period = self._look()
        sums = _Sums()
        for number, cells in self._table():
            self._take(number, cells, sums, period)
        if not sums.rows:
            raise ConfigurationError(f"{self._path!r} has no rows")
        self._check_requests(sums)
        self._check_spans(sums)
        spans = [*(span for span, _ in sums.charges if span is not None), *([] if period is None else [period])]
        if spans:
            period = Days(min(span.first for span in spans), max(span.last for span in spans))
        self._tell(sums, period)
        return Invoice(sums.charges, period, tuple(self._about))

    # ---------------------------------------------------------------------------------------------- the columns

    def _find_places(self) -> _Places:
        above: list[Line] = []
        best: tuple[int, NoTableError] | None = None
        rows = iter(self._lines())
        for number, cells in rows:
            if len(above) >= _MOST_ABOVE:
                break
            names = [_label(cell) for cell in cells]
            if any(names):
                sample = self._sample_after(number)
                found = self._as_header(number, names, sample)
                if isinstance(found, _Places):
                    self._above = [" ".join(filter(None, map(_label, row))) for _, row in above]
                    return found
                if best is None or found.fitting > best[0]:
                    best = (found.fitting, found)
            above.append((number, cells))
        if best is None:
            raise ConfigurationError(f"{self._path!r} is empty: it must be an invoice")
        raise best[1]

    def _sample_after(self, line: int) -> list[Sequence[Any]]:
        found: list[Sequence[Any]] = []
        for number, cells in self._lines():
            if number > line:
                found.append(cells)
                if len(found) >= _SAMPLE:
                    break
        return found

    def _as_header(self, line: int, names: list[str], sample: list[Sequence[Any]]) -> _Places | NoTableError:
        """The columns, if this row names them; else what it lacks."""
        places = _Places(line, names)
        if any(words.written(name) or words.when(name) or words.service_of(name) for name in names):
            return self._lacking(names, "charged", "--count")
        given = self._hints.columns()
        chosen: dict[Role, int] = {}
        for role, name in given.items():
            if (at := next((at for at, own in enumerate(names) if own.lower() == name.strip().lower()), None)) is None:
                return self._lacking(names, name, f"--{_OPTION[role]}")
            chosen[role] = at
        free = [at for at, name in enumerate(names) if name and at not in chosen.values()]
        by_role: dict[Role, list[int]] = {}
        for at in free:
            if (found := words.role_of(names[at])) is not None:
                by_role.setdefault(found, []).append(at)

        def first(role: Role) -> int | None:
            found = by_role.get(role, [])
            return chosen.get(role, next((at for at in found if words.is_of_charges(names[at])), (*found, None)[0]))

        places.day, places.until = first("day"), None
        if "day" not in chosen and by_role.get("from") and by_role.get("to"):
            places.day, places.until = by_role["from"][0], by_role["to"][0]
        places.count, places.price, places.amount = first("count"), first("price"), first("amount")
        places.status, places.currency, places.request = first("status"), first("currency"), first("request")
        doubt = self._settle_either(places, by_role.get("either", []), sample, chosen)
        places.service = chosen.get("service", self._find_service(free, by_role, sample))
        fitting = sum(at is not None for at in (places.day, places.service, places.count, places.amount, places.status))
        if places.service is None and not self._is_of_one_service():
            return self._lacking(names, "endpoint", "--endpoint", fitting)
        if doubt is not None and places.service is not None:
            error = NoTableError(
                f"{self._path!r}: column {shown(names[doubt])} may hold counts or amounts: "
                f"say --count or --amount {shown(names[doubt])}"
            )
            error.fitting = 9
            return error
        if places.count is None and places.amount is None and (places.status is None or places.day is None):
            return self._lacking(names, "charged", "--count", fitting)
        if fitting < 2 or sum(bool(name) for name in names) < 2:
            return self._lacking(names, "charged", "--count", fitting)
        return places

    def _is_of_one_service(self) -> bool:
        return self._hints.endpoint is not None and endpoint_of(self._hints.endpoint) is not None

    def _settle_either(
        self, places: _Places, found: list[int], sample: list[Sequence[Any]], given: Collection[Role]
    ) -> int | None:
        """Columns whose names say counts or amounts: which, their cells tell. One that they do not tell is returned."""
        left: list[int] = []
        for at in found:
            cells = [label for row in sample if at < len(row) and (label := _label(row[at]))]
            numbers = [words.written(cell) for cell in cells]
            name = places.names[at]
            if cells and not any(numbers) and any(words.is_charged(cell) is not None for cell in cells):
                places.status = at if places.status is None else places.status
            elif not any(numbers):
                continue
            elif not all(number is None or _may_be_count(number) for number in numbers):
                places.amount = at if places.amount is None else places.amount
            elif words.is_of_charges(name) and "count" not in given:
                places.count = at  # rather than all that was asked
            else:
                left.append(at)
        for at in sorted(left, key=lambda at: not words.is_of_sums(places.names[at])):
            beside = len(left) > 1 and places.price is not None and words.is_of_sums(places.names[at])
            if places.amount is None and (places.count is not None or beside):
                places.amount = at
            elif places.count is None and places.amount is not None:
                places.count = at
            elif places.count is None:
                return at
        return None

    def _find_service(
        self, free: list[int], by_role: Mapping[Role, list[int]], sample: list[Sequence[Any]]
    ) -> int | None:
        """The column that has most services in it, else the one that is named so."""
        hits = {
            at: sum(at < len(row) and words.service_of(_label(row[at])) is not None for row in sample) for at in free
        }
        named = by_role.get("service", [])
        best = max(free, key=lambda at: (hits[at], at in named), default=None)
        if best is not None and hits[best]:
            return best
        return next(iter(named), None)

    def _lacking(self, names: list[str], column: str, option: str, fitting: int = 0) -> NoTableError:
        error = NoTableError(
            f"{self._path!r} has no column {column!r} for the invoice (say which with {option} COLUMN): "
            f"its columns are {some([name for name in names if name])}"
        )
        error.fitting = fitting
        return error

    # ------------------------------------------------------------------------------------------- what it leaves open

    def _table(self) -> Iterator[Line]:
        """The rows below the names of the columns."""
        header = self.places.names
        for number, cells in self._lines():
            if number <= self.places.line or not any(map(_label, cells)):
                continue
            if [*map(_label, cells[: len(header)])] == header:
                continue  # of the next page
            yield number, cells

    def _look(self) -> Days | None:
        """Find out what stands before decimals and which of two comes first in a day. The period that is said above."""
        said = [words.period_in(line) for line in self._above]
        periods = [days for days in said if days]
        numbers: dict[tuple[str, bool], int] = {}
        days: dict[str, int] = {}
        has_time = has_zone = False
        for number, cells in self._table():
            if self._is_aside(cells):
                continue
            for at in self.places.numbers():
                if isinstance(cell := _at(cells, at), str):
                    numbers.setdefault((cell.strip(), at == self.places.count), number)
            for at in self.places.days():
                cell = _at(cells, at)
                has_time |= isinstance(cell, datetime) and cell.time() != time.min
                if isinstance(cell, str) and (found := words.when(cell)) is not None:
                    has_time, has_zone = has_time or found.has_time, has_zone or found.has_zone
                    if len(found.days) == 1 or found.days["dmy"] != found.days["mdy"]:
                        days.setdefault(cell.partition(" ")[0], number)
        self._settle_log(has_time=has_time)
        self._settle_point(numbers)
        for whens in periods:
            for whole in whens:
                if len(whole.days) == 1 or whole.days["dmy"] != whole.days["mdy"]:
                    self._settle_order_by(whole)
        self._settle_order(days)
        if has_time and not has_zone:
            self._about.append("its times say no zone: they are taken for UTC")
        return self._hints.period or self._period(periods)

    def _settle_log(self, *, has_time: bool) -> None:
        """Whether each row is one request: where it has a time of day, or what one request alone has."""
        places = self.places
        self._is_log = places.count is None and (has_time or places.request is not None or places.amount is None)
        self._has_time = has_time

    def _is_aside(self, cells: Sequence[Any]) -> bool:
        """Whether a row is of no charges: a note, as those below a table."""
        return not any(_label(_at(cells, at)) for at in (*self.places.numbers(), *self._status_at()))

    def _status_at(self) -> list[int]:
        return [] if self.places.status is None else [self.places.status]

    def _settle_point(self, numbers: Mapping[tuple[str, bool], int]) -> None:
        if self._point is not None:
            return
        open_: list[tuple[str, int]] = []
        counts: list[str] = []
        surely: dict[Point, tuple[str, int]] = {}
        for (cell, is_count), line in numbers.items():
            found = words.written(cell)
            if found is None:
                continue
            values = {point: found.value(point) for point in found.points()}
            if len(values) == 1:
                surely.setdefault(next(iter(values)), (cell, line))
            elif len(set(values.values())) > 1:
                open_.append((cell, line))
                counts += [cell] * is_count
                if words.has_no_decimals(found.currency or self._named_currency()):
                    surely.setdefault("," if "." in found.digits else ".", (cell, line))
        if len(surely) == 2:
            (one, line), (other, other_line) = surely["."], surely[","]
            raise self._refused(
                line, f"{one!r} has decimals behind a point, and {other!r} in {self._noun} {other_line} behind a comma",
                "write both alike, or say --decimal . or --decimal ,",
            )  # fmt: skip
        if surely:
            self._point = next(iter(surely))
            return
        # Of whole counts only one reading may be left: that of all, or nobody knows.
        if counts:
            fitting = {point for point in _POINTS if all(self._is_whole(cell, point) for cell in counts)}
            if len(fitting) == 1:
                self._point = fitting.pop()
                return
        if open_:
            cell, line = open_[0]
            found = words.written(cell)
            assert found is not None
            ways = " or ".join(f"{value:f}" for value in (found.value("."), found.value(",")) if value is not None)
            raise self._refused(line, f"{cell!r} can be {ways}", "say what stands before decimals: --decimal . or ,")

    def _is_whole(self, cell: str, point: Point) -> bool:
        found = words.written(cell)
        value = None if found is None else found.value(point)
        return value is not None and value == value.to_integral_value()

    def _settle_order_by(self, found: When) -> None:
        if self._order is None and len(found.days) == 1:
            self._order = next(iter(found.days))

    def _settle_order(self, days: Mapping[str, int]) -> None:
        if self._hints.dates is not None:
            return
        surely: dict[Order, tuple[str, int]] = {}
        open_: tuple[str, int] | None = None
        for cell, line in days.items():
            found = words.when(cell)
            if found is None:
                continue
            if len(found.days) == 1:
                surely.setdefault(next(iter(found.days)), (cell, line))
            elif open_ is None:
                open_ = (cell, line)
        if len(surely) == 2:
            (one, line), (other, other_line) = surely["dmy"], surely["mdy"]
            raise self._refused(
                line, f"in {one!r} {_ORDERS['dmy']}, and in {other!r} in {self._noun} {other_line} behind it",
                "write both alike, like 2026-11-23",
            )  # fmt: skip
        if surely:
            order = next(iter(surely))
            if self._order not in (None, order):
                cell, line = surely[order]
                raise self._refused(
                    line, f"in {cell!r} {_ORDERS[order]}, unlike in the period above", "write them alike"
                )
            self._order = order
        elif open_ is not None and self._order is None:
            found = words.when(open_[0])
            assert found is not None
            ways = " or ".join(str(span) for span in found.days.values())
            raise self._refused(open_[1], f"{open_[0]!r} can be {ways}", "say --dates dmy or --dates mdy")

    def _period(self, periods: list[list[When]]) -> Days | None:
        spans: set[Days] = set()
        for days in periods:
            ends = [self._resolved(found) for found in days]
            if all(end is not None for end in ends):
                known = [end for end in ends if end is not None]
                if known[0].first <= known[-1].last:
                    spans.add(Days(known[0].first, known[-1].last))
        if len(spans) > 1:
            several = ", ".join(map(str, sorted(spans)))
            raise ConfigurationError(f"{self._path!r} names several periods: {several}: say which with --period")
        return spans.pop() if spans else None

    def _resolved(self, found: When) -> Days | None:
        values = set(found.days.values())
        if len(values) == 1:
            return values.pop()
        return None if self._order is None else found.days.get(self._order)

    # ----------------------------------------------------------------------------------------------------- the rows

    def _take(self, number: int, cells: Sequence[Any], sums: _Sums, period: Days | None) -> None:
        places = self.places
        labels = [
            label
            for at, cell in enumerate(cells)
            if (label := _label(cell)) and (at not in places.numbers() or _says_total(label))
        ]
        # Behind the question mark of a URL stands what is nobody's to see.
        name = "" if places.service is None else _label(_at(cells, places.service)).partition("?")[0]
        service = words.service_of(name) if name else None
        if self._is_aside(cells):
            if service or (name and self._has_day(cells)) or (_service_in(labels) and any(map(words.written, labels))):
                raise self._refused(number, "it has no count and no amount", "fill them in, or take the row out")
            sums.notes += 1
            return
        if any(map(words.is_total, labels)):
            self._check_total(number, cells, sums, service or _service_in(labels))
            return
        if not service and any(map(words.is_extra, labels)):
            sums.extras.append(number)
            return
        if places.service is None:
            assert self._hints.endpoint is not None
            known = endpoint_of(self._hints.endpoint)
            assert known is not None
            service = known.name
        elif not name:
            raise self._refused(number, f"it names no service in {shown(places.names[places.service])}", _MEND)
        span = self._span(number, cells, period)
        charges = self._charges(number, cells, service or name, sums)
        if service is None:
            sums.unknown.setdefault(name, number)
        sums.charges[span, service or name] += charges
        sums.rows += 1
        sums.lines.setdefault((span, service or name), number)

    def _has_day(self, cells: Sequence[Any]) -> bool:
        return any(isinstance(_at(cells, at), date) or words.when(_label(_at(cells, at))) for at in self.places.days())

    def _span(self, number: int, cells: Sequence[Any], period: Days | None) -> Days | None:
        places = self.places
        if places.day is None:
            return period
        first = self._day(number, cells, places.day)
        last = first if places.until is None else self._day(number, cells, places.until)
        if last.last < first.first:
            raise self._refused(number, f"it goes from {first} back to {last}", _MEND)
        return Days(first.first, last.last)

    def _day(self, number: int, cells: Sequence[Any], at: int) -> Days:
        cell = _at(cells, at)
        if isinstance(cell, datetime):
            cell = cell.date()
        if isinstance(cell, date):
            is_month = cell.day == 1 and words.is_of_months(self.places.names[at])
            return words.month(cell.year, cell.month) if is_month else Days(cell, cell)
        label = _label(cell)
        found = words.when(label) if isinstance(cell, str) or label.isdecimal() else None
        span = None if found is None else self._resolved(found)
        if span is None:
            raise self._refused(number, f"{label[:_LONGEST]!r} is no day like 2026-11-23", _MEND)
        return span

    def _number(self, number: int, cells: Sequence[Any], at: int | None, what: str) -> Decimal | None:
        """What stands there; None where nothing does."""
        cell = None if at is None else _at(cells, at)
        label = _label(cell)
        if not label or label in ("-", "\u2013"):
            return None
        if isinstance(cell, int | float | Decimal) and not isinstance(cell, bool):
            return Decimal(repr(cell) if isinstance(cell, float) else cell)
        found = words.written(label)
        value = None
        if found is not None:
            points = found.points()
            value = found.value(self._point if self._point in points else next(iter(points))) if points else None
            if self._point is not None and self._point not in points:
                value = None
        if value is None:
            raise self._refused(number, f"{label[:_LONGEST]!r} is no {what}", _MEND)
        return value

    def _charges(self, number: int, cells: Sequence[Any], service: str, sums: _Sums) -> int:
        """How many charges a row has. Its counts and amounts are added up as they stand, for the totals below."""
        places = self.places
        count = self._number(number, cells, places.count, "count of charges")
        price = self._number(number, cells, places.price, "price")
        amount = self._number(number, cells, places.amount, "amount")
        if count is not None and count != count.to_integral_value():
            raise self._refused(number, f"{_label(count)!r} is no count of charges", _MEND)
        sums.add(count, amount, self._currency_of(cells))
        if places.count is not None and count is None:
            raise self._refused(number, f"it has no count in {shown(places.names[places.count])}", _MEND)
        charged = self._state(number, cells, amount)
        if (amount is None and charged is False) or (amount == 0 and (not price or charged is False)):
            sums.free += 1 if count is None else int(count)
            return 0
        if count is not None:
            self._check_product(number, count, price, amount)
            return -abs(int(count)) if amount is not None and amount < 0 else int(count)
        if not self._is_log or service in self._hints.prices:
            return self._divided(number, service, price, amount)
        if amount is None:
            if places.amount is not None:
                raise self._refused(number, f"it has no amount in {shown(places.names[places.amount])}", _MEND)
            return 1
        sums.note_request(service, amount, number)
        return 1 if amount > 0 else -1

    def _state(self, number: int, cells: Sequence[Any], amount: Decimal | None) -> bool | None:
        """Whether what the row is of is charged, by its state; None if it has none, or its amount says it."""
        at = self.places.status
        label = "" if at is None else _label(_at(cells, at))
        charged = words.is_charged(label)
        if at is not None and charged is None and amount is None:
            raise self._refused(
                number, f"nobody knows whether {label[:_LONGEST]!r} is charged",
                "take the row out, or write OK or FREE there",
            )  # fmt: skip
        return charged

    def _check_product(self, number: int, count: Decimal, price: Decimal | None, amount: Decimal | None) -> None:
        if price is None or amount is None:
            return
        product = count * price
        exponent = amount.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        if abs(abs(product) - abs(amount)) > max(Decimal(1).scaleb(min(exponent, 0)), Decimal("0.01")):
            raise self._refused(
                number, f"{count:f} at {price:f} is {product.normalize():f}, and its amount is {amount:f}",
                "ask the vendor, or mend the row",
            )  # fmt: skip

    def _divided(self, number: int, service: str, price: Decimal | None, amount: Decimal | None) -> int:
        if amount is None:
            raise self._refused(number, "it has no amount", _MEND)
        price = self._hints.prices.get(service, price or self._hints.ledger_prices.get(service))
        if not price:
            known = ENDPOINTS.get(service)
            remedy = _MEND if known is None else f"say what a charge of it costs: --price {known.command}=MONEY"
            raise self._refused(number, f"it has an amount of {service!r} and no count", remedy)
        charges = amount / price
        if charges != charges.to_integral_value():
            raise self._refused(
                number,
                f"its amount {amount:f} is no multiple of the price {price:f}",
                "ask the vendor, or mend it",
            )
        return int(charges)

    def _currency_of(self, cells: Sequence[Any]) -> str | None:
        places = self.places
        if places.currency is not None and (label := _label(_at(cells, places.currency))):
            return words.currency_of(label) or label[:8]
        for at in (places.amount, places.price):
            if at is not None and (found := words.written(_label(_at(cells, at)))) is not None and found.currency:
                return found.currency
        return self._named_currency()

    def _named_currency(self) -> str | None:
        """The currency that the names of columns say, or a line above them that speaks of it."""
        places = self.places
        names = [places.names[at] for at in (places.amount, places.price) if at is not None]
        lines = [line for line in self._above if "currency" in line.lower() or "mata uang" in line.lower()]
        return next(filter(None, map(words.currency_in, [*names, *lines])), None)

    # ----------------------------------------------------------------------------------------------------- the totals

    def _check_total(self, number: int, cells: Sequence[Any], sums: _Sums, service: str | None) -> None:
        """A row that adds up others: what it says has to be what they come to."""
        places = self.places
        for at, what, sofar in (
            (places.count, "count", sums.counts),
            (places.amount, "amount", sums.amounts),
        ):
            if at is not None and _says_total(_label(_at(cells, at))):
                continue
            said = self._number(number, cells, at, "total")
            if said is None or (what == "amount" and (sums.extras or len(sums.currencies) > 1)):
                continue
            own = self._sum_of(service, what) if service is not None else None
            if said not in (sofar.whole, sofar.part, own):
                raise self._refused(
                    number, f"it says a total of {said:f}, and the rows above it come to {sofar.whole:f}",
                    "ask the vendor, or mend the rows",
                )  # fmt: skip
        sums.totals += 1
        sums.counts.part = sums.amounts.part = Decimal(0)

    def _sum_of(self, service: str, what: str) -> Decimal:
        places, total = self.places, Decimal(0)
        at = places.count if what == "count" else places.amount
        for number, cells in self._table():
            label = "" if places.service is None else _label(_at(cells, places.service))
            if words.service_of(label) == service and not words.is_total(label):
                total += self._number(number, cells, at, what) or 0
        return total

    def _check_requests(self, sums: _Sums) -> None:
        """Raise where rows that seem to be of one request each may be of many: their amounts are not all the price."""
        for service, amounts in sums.requests.items():
            known = self._hints.ledger_prices.get(service)
            (amount, (line, rows)), *others = amounts.items()
            if others:
                other, (other_line, _) = others[0]
                problem = f"{service!r} is {other:f} there, and {amount:f} in {self._noun} {line}"
                line = other_line
            elif rows == 1 and (not self._has_time or (known and amount > known and amount % known == 0)):
                problem = f"nobody knows whether {amount:f} of {service!r} is one request or many"
            else:
                continue
            named = ENDPOINTS[service].command if service in ENDPOINTS else service
            raise self._refused(line, problem, f"say what a charge of it costs: --price {named}=MONEY")

    def _check_spans(self, sums: _Sums) -> None:
        """Raise where one row's days are within another's: then one of them may add up the other."""
        by_service: dict[str, list[Days]] = {}
        for span, service in sums.charges:
            if span is not None:
                by_service.setdefault(service, []).append(span)
        for service, spans in by_service.items():
            ordered = sorted(spans)
            for one, other in pairwise(ordered):
                if one.meets(other):
                    raise self._refused(
                        sums.lines[other, service], f"{other} of {service!r} is within {one} in {self._noun} "
                        f"{sums.lines[one, service]}: one may add up the other", "take one of them out",
                    )  # fmt: skip

    # --------------------------------------------------------------------------------------------------- in words

    def _tell(self, sums: _Sums, period: Days | None) -> None:
        places = self.places
        first = f"{self._noun} {places.line} names its columns: {places.told()}"
        if places.service is None:
            first += f"; all of it is {self._hints.endpoint}"
        about = [first]
        if self._is_log:
            about.append("each row is one request")
        elif places.count is None:
            about.append("it has amounts and no counts: they are divided by the price of a charge")
        if self._point is not None and places.numbers():
            about.append(f"decimals stand behind {_POINTS[self._point]}")
        if self._order is not None and places.day is not None:
            about.append(f"in its days {_ORDERS[self._order]}")
        about += self._about
        if period is None:
            about.append("it says no days: all that the ledger has is compared (say --period if it is of less)")
        else:
            about.append(f"it is of {period}")
        money = ", ".join(f"{name or ''} {total:,f}".strip() for name, total in sums.currencies.items() if total)
        charges = sum(sums.charges.values())
        about.append(
            f"charges: {charges:,} in {sums.rows:,} row{'s' * (sums.rows != 1)}" + (f", for {money}" * bool(money))
        )
        if sums.free:
            about.append(f"free: {sums.free:,} that it lists")
        for count, what in (
            (sums.totals, "of totals, which agree with the others"),
            (len(sums.extras), "of taxes, discounts and the like"),
            (sums.notes, "without numbers"),
        ):
            if count:
                about.append(f"left out: {count:,} row{'s' * (count != 1)} {what}")
        if sums.unknown:
            about.append(
                f"of no known service: {some(list(sums.unknown))}: write there what is meant, as whatsapp-detail"
            )
        self._about = about

    def _refused(self, line: int, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self._noun} {line} of {self._path!r}: {problem}: {remedy}")


@dataclass(slots=True)
class _Total:
    """A sum over all rows, and over those since the last total."""

    whole: Decimal = Decimal(0)
    part: Decimal = Decimal(0)

    def add(self, value: Decimal | None) -> None:
        if value is not None:
            self.whole += value
            self.part += value


@dataclass(slots=True)
class _Sums:
    """What the rows come to."""

    charges: Counter[tuple[Days | None, str]] = field(default_factory=Counter)
    lines: dict[tuple[Days | None, str], int] = field(default_factory=dict)
    counts: _Total = field(default_factory=_Total)
    amounts: _Total = field(default_factory=_Total)
    currencies: dict[str | None, Decimal] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    extras: list[int] = field(default_factory=list)
    requests: dict[str, dict[Decimal, tuple[int, int]]] = field(default_factory=dict)
    """Of each service, what its requests cost: the first line of each amount, and how many there are."""
    rows: int = 0
    free: int = 0
    totals: int = 0
    notes: int = 0

    def add(self, count: Decimal | None, amount: Decimal | None, currency: str | None) -> None:
        self.counts.add(count)
        self.amounts.add(amount)
        if amount is not None:
            self.currencies[currency] = self.currencies.get(currency, Decimal(0)) + amount

    def note_request(self, service: str, amount: Decimal, line: int) -> None:
        """A row is one request, of that amount."""
        of = self.requests.setdefault(service, {})
        first, rows = of.get(abs(amount), (line, 0))
        of[abs(amount)] = (first, rows + 1)


_MEND = "mend it, or take the row out"
_OPTION: Mapping[Role, str] = {
    "day": "day",
    "service": "endpoint",
    "count": "count",
    "amount": "amount",
    "status": "status",
}


def _at(cells: Sequence[Any], at: int) -> Any:
    return cells[at] if at < len(cells) else None


def _says_total(label: str) -> bool:
    """Whether a cell of a column of numbers says that its row is a total: the number stands beside it."""
    return words.is_total(label) and words.written(label) is None


def _label(cell: Any) -> str:
    return _clean(cell if isinstance(cell, str) else text(cell))


@lru_cache(65536)
def _clean(cell: str) -> str:
    return " ".join(cell.split())


def _may_be_count(number: words.Number) -> bool:
    values = [number.value(point) for point in number.points()]
    return number.currency is None and any(value is not None and value == value.to_integral_value() for value in values)


def _service_in(labels: Iterable[str]) -> str | None:
    found = {service for label in labels if (service := words.service_of(label)) is not None}
    return found.pop() if len(found) == 1 else None
