"""The invoice beside the ledgers: what they charge, what we count, and what the unknown attempts can explain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from aisolution_async.api import ENDPOINTS
from aisolution_async.bulk.invoice.reading import Invoice
from aisolution_async.bulk.invoice.words import Days
from aisolution_async.ledger import Sum


@dataclass(frozen=True, slots=True)
class Difference:
    """Some days of an endpoint: what we count, what nobody knows, what they charge.

    `is_known` says whether the invoice's name for it is understood: else nothing of ours was compared with it.
    """

    ours: int
    unknown: int
    theirs: int
    is_known: bool = True

    @property
    def difference(self) -> int:
        """How much more they charge."""
        return self.theirs - self.ours

    @property
    def explained(self) -> bool:
        """Whether there is no difference, or the unknown attempts may be all of it."""
        return 0 <= self.difference <= self.unknown

    @property
    def verdict(self) -> str:
        """In words."""
        more = self.difference
        if not self.is_known:
            return f"they charge {more:,} of a service that is not known by this name"
        if more < 0:
            return f"they charge {-more:,} fewer"
        if more > self.unknown:
            return f"they charge {more:,} more, and the unknown explain {self.unknown:,} at most"
        if more:
            return f"they charge {more:,} more, and the unknown may explain it"
        return "agrees, if no unknown was charged" if self.unknown else "agrees"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole: `lines` by days and endpoint, `totals` by endpoint; `outside` was charged on days not compared.

    The days of a line are None where the invoice says none: then all that the ledgers have is in it.
    """

    lines: Mapping[tuple[Days | None, str], Difference]
    totals: Mapping[str, Difference]
    outside: int

    @property
    def explained(self) -> bool:
        """Whether there is no difference that the unknown attempts do not explain."""
        return all(line.explained for line in self.lines.values())

    @property
    def comes_out_even(self) -> bool:
        """Whether it is so over all days together."""
        return all(total.explained for total in self.totals.values())


def compare(invoice: Invoice, ledgers: Iterable[Mapping[tuple[object, ...], Sum]]) -> Comparison:
    """Compare the invoice with ledgers, each by day and endpoint, on the days that the invoice is of."""
    theirs = Counter(invoice.charges)
    spans: dict[str, list[Days]] = {}
    for span, name in theirs:
        if span is not None:
            spans.setdefault(name, []).append(span)
    ours: Counter[tuple[Days | None, str]] = Counter()
    unknown: Counter[tuple[Days | None, str]] = Counter()
    outside = 0
    for found in ledgers:
        for (when, endpoint), counts in found.items():
            assert isinstance(when, date)
            name = str(endpoint)
            if invoice.period is not None and when not in invoice.period:
                outside += counts.charged
                continue
            place = (_span_of(when, spans.get(name, ()), invoice), name)
            ours[place] += counts.charged
            if name not in ENDPOINTS or not ENDPOINTS[name].never_charges:
                unknown[place] += counts.unknown + counts.intended
    places = [place for place in {*theirs, *ours, *unknown} if theirs[place] or ours[place] or unknown[place]]
    places.sort(key=lambda place: (place[0] or Days(date.min, date.min), place[1]))
    lines = {
        place: Difference(ours[place], unknown[place], theirs[place], is_known=place[1] in ENDPOINTS or ours[place] > 0)
        for place in places
    }
    totals = {}
    for name in sorted({name for _, name in places}):
        own, open_, charged = (sum(n for (_, e), n in found.items() if e == name) for found in (ours, unknown, theirs))
        totals[name] = Difference(own, open_, charged, is_known=name in ENDPOINTS or own > 0)
    return Comparison(lines, totals, outside)


def _span_of(day: date, spans: Iterable[Days], invoice: Invoice) -> Days | None:
    """The days of the line that this day belongs to."""
    if invoice.period is None:
        return None
    return next((span for span in spans if day in span), invoice.period if invoice.is_one_period else Days(day, day))
