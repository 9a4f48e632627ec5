"""Where an axis of time has words, and which."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from aisolution_async.bulk.report import pieces
from aisolution_async.bulk.report.charts import Ticks
from aisolution_async.bulk.report.figures import Span, Steps, moment


def length(steps: Steps) -> str:
    """How long a step is, as "each … " goes on."""
    length = timedelta(microseconds=steps.length)
    whole = int(length.total_seconds())
    for size, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if whole % size == 0:
            return name if whole == size else f"{whole // size} {name}s"
    raise AssertionError(whole)


def step_name(steps: Steps, number: int) -> str:
    start = steps.start(number)
    if steps.length >= pieces.DAY:
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d %H:%M}" if steps.length >= 60_000_000 else f"{start:%Y-%m-%d %H:%M:%S}"


def ticks(steps: Steps) -> Ticks:
    """Where steps begin: the time, and the date where it is another one than before."""
    starts = [steps.start(number) for number in range(steps.count)]
    first, last = starts[0], starts[-1]
    if steps.length >= pieces.DAY:
        words = [trimmed(start.strftime("%d %b" if (last - first).days < 300 else "%b %Y")) for start in starts]
        label = f"time (UTC), {years(starts)}"
    elif (last - first) > timedelta(hours=36):
        # Whole days: a time of day says little on an axis of many.
        words = [trimmed(start.strftime("%d %b")) for start in starts]
        label = f"time (UTC), {years(starts)}"
        days = [n for n, start in enumerate(starts) if n == 0 or start.date() != starts[n - 1].date()]
        days = [n for n in days if n or first.hour < 12]
        return Ticks(label, _thinned(days, words, 10), _thinned(days, words, 4))
    else:
        form = "%H:%M" if steps.length >= 60_000_000 else "%H:%M:%S"
        words = [start.strftime(form) for start in starts]
        label = f"time (UTC), {first:%Y-%m-%d}" + (f" to {last:%Y-%m-%d}" if first.date() != last.date() else "")
    return Ticks(label, spread(words, 8), spread(words, 4))


def _thinned(places: Sequence[int], words: Sequence[str], most: int) -> list[tuple[float, str]]:
    every = -(-len(places) // most)
    return [(place - 0.5, words[place]) for place in places[::every]]


def spread(words: Sequence[str], most: int) -> list[tuple[float, str]]:
    """As many as have room, at equal distances."""
    every = max(1, -(-len(words) // most))
    return [(place, words[place]) for place in range(0, len(words), every)]


def years(dates: Sequence[datetime]) -> str:
    first, last = dates[0].year, dates[-1].year
    return str(first) if first == last else f"{first} to {last}"


def trimmed(text: str) -> str:
    return text.removeprefix("0")


def place(span: Span, steps: Steps) -> tuple[float, float]:
    """Where a stretch of time is on the axis; as wide as to be seen, at least."""
    start, end = ((at - steps.first) / steps.length - 0.5 for at in (span.start, span.end))
    return start, max(end, start + steps.count * 0.008)


def all_periods(first: int, last: int, unit: str) -> list[int]:
    """All days, weeks, months or years from one to another, by the days that they begin with."""
    if unit in ("day", "week"):
        return list(range(first, last + 1, 1 if unit == "day" else 7))
    found, day = [], first
    while day <= last:
        found.append(day)
        date = moment(day * pieces.DAY)
        months = date.year * 12 + date.month - 1 + (1 if unit == "month" else 12)
        following = date.replace(year=months // 12, month=months % 12 + 1)
        day += (following - date).days
    return found
