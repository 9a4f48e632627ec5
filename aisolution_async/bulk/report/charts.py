"""The charts, as SVG that takes its colours from the page's style sheet, and so follows light and dark.

They are drawn here, and by no library: one that can draw everything takes longer to be imported than the page takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby

from aisolution_async.bulk.report.html import Content, Html, tag

WIDE, HALF, NARROW = 860, 418, 328
"""Widths in pixels: the page's, half of it, and a phone's."""

_HEIGHT, _TOP, _LEFT, _RIGHT, _BOTTOM = 220, 26, 52, 14, 44
_ROW = 30
_LETTER = 7.2  # as wide as a letter or a digit is at most, on average
_SHORTEST = 0.0001
_LONGEST_NAME = 22


@dataclass(frozen=True, slots=True)
class Series:
    """One of the things a chart shows: its name, its colour (a variable of the style sheet), its values.

    `mark`: stripes, where it is an area, or the dashes of a line.
    """

    name: str
    role: str
    values: Sequence[float | None]
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Where an axis has words, for a chart of any width: `few` on a phone."""

    label: str
    many: Sequence[tuple[float, str]]
    few: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class _Axis:
    """What lies between two values, from one place in pixels to another."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


_Draw = Callable[[int, str], Iterator[Content]]
"""What draws a chart of some width; its ids begin so."""


class Charts:
    """Draws charts, each in the width that is asked for and in a phone's; ids differ from chart to chart."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def bars(
        self,
        title: str,
        text: str,
        series: Sequence[Series],
        x: Ticks,
        y: str,
        *,
        width: int = WIDE,
        marked: Iterable[tuple[float, float]] = (),
    ) -> tuple[str, str]:
        """Columns at 0, 1, 2 … of the x axis, one series on top of the other.

        `marked` are stretches of the axis, shown above the columns.
        """
        stretches = list(marked)
        places = len(series[0].values)
        # A few columns stand apart; many of them are one shape.
        broad = 0.6 if places <= 8 else 0.8 if places <= 20 else 1.0
        margin = 0.5 if places > 8 else 1.0
        sums = [sum(value or 0.0 for value in values) for values in zip(*(each.values for each in series), strict=True)]
        most = max(1.0, *sums) * (1.15 if stretches else 1.06)

        def draw(wide: int, prefix: str) -> Iterator[Content]:
            across = _Axis(-margin, places - 1 + margin, _LEFT, wide - _RIGHT)
            up = _Axis(0, most, _HEIGHT - _BOTTOM, _TOP)
            ticks = [(value, compact(value)) for value in _counts(most, 4)]
            yield _frame(wide, (across, x), (up, ticks, y))
            strips = [(across(start), across(end)) for start, end in stretches]
            yield _area("ink", [(a, _TOP, b - a, (_HEIGHT - _BOTTOM - _TOP) * 0.05) for a, b in strips], edge=False)
            below = [0.0] * places
            half = (across(broad) - across(0)) / 2
            for each in series:
                above = [low + (value or 0.0) for low, value in zip(below, each.values, strict=True)]
                shapes = [
                    (across(place) - half, up(high), 2 * half, up(low) - up(high))
                    for place, (low, high) in enumerate(zip(below, above, strict=True))
                    if high > low
                ]
                yield _area(each.role, shapes, each.mark, prefix)
                below = above

        return self._both(title, text, width, _HEIGHT, draw)

    def lines(
        self, title: str, text: str, series: Sequence[Series], x: Ticks, y: str, *, width: int = WIDE
    ) -> tuple[str, str]:
        """Lines over steps 0, 1, 2 …, on a logarithmic axis of seconds, with gaps where there is no value."""
        known = [max(value, _SHORTEST) for each in series for value in each.values if value is not None]
        low, high = min(known) / 1.5, max(known) * 1.5

        def draw(wide: int, _: str) -> Iterator[Content]:
            across = _Axis(-0.6, max(len(series[0].values) - 0.4, 0.6), _LEFT, wide - _RIGHT)
            up = _Axis(math.log(low), math.log(high), _HEIGHT - _BOTTOM, _TOP)
            ticks = [(math.log(tick), seconds(tick)) for tick in _round_seconds(low, high)]
            yield _frame(wide, (across, x), (up, ticks, y))
            for each in series:
                points = [
                    None if value is None else (across(place), up(math.log(max(value, _SHORTEST))))
                    for place, value in enumerate(each.values)
                ]
                line, dots = "", ""
                for is_gap, run in groupby(points, lambda point: point is None):
                    if not is_gap:
                        there = [point for point in run if point is not None]
                        line += "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in there)
                        dots += "".join(f"M{a - 2:.1f} {b:.1f}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0" for a, b in there)
                stroke = f"fill: none; stroke: var(--{each.role}); stroke-width: 1.8"
                yield tag("path", d=line, style=stroke + (f"; stroke-dasharray: {each.mark}" if each.mark else ""))
                yield tag("path", d=dots, style=f"fill: var(--{each.role})")

        return self._both(title, text, width, _HEIGHT, draw)

    def rows(
        self, title: str, text: str, names: Sequence[str], series: Sequence[Series], x: str, *, width: int = WIDE
    ) -> tuple[str, str]:
        """Bars that lie, one for each name from top to bottom, with the sum behind it."""
        labels = [shortened(name) for name in names]
        sums = [sum(value or 0.0 for value in values) for values in zip(*(each.values for each in series), strict=True)]
        most = max(1.0, *sums)
        left = 14 + _LETTER * max(map(len, labels))
        room = 10 + _LETTER * max(len(f"{total:,.0f}") for total in sums)
        height = _ROW * len(names) + _BOTTOM + 8

        def draw(wide: int, prefix: str) -> Iterator[Content]:
            across = _Axis(0, most, left, max(wide - room, left + 40))
            for value in _counts(most, 3 if wide == NARROW else 5):
                at = f"{across(value):.1f}"
                yield tag("path", d=f"M{at} 8V{height - _BOTTOM}", style="stroke: var(--line)")
                yield _text(across(value), height - _BOTTOM + 18, compact(value), "middle")
            yield tag("path", d=f"M{left:.1f} 8V{height - _BOTTOM}", style="stroke: var(--soft)")
            yield _text((left + wide - room) / 2, height - 6, x, "middle")
            begun = [0.0] * len(names)
            for each in series:
                ended = [start + (value or 0.0) for start, value in zip(begun, each.values, strict=True)]
                shapes = [
                    (across(start), 8 + _ROW * (row + 0.19), across(end) - across(start), _ROW * 0.62)
                    for row, (start, end) in enumerate(zip(begun, ended, strict=True))
                    if end > start
                ]
                yield _area(each.role, shapes, each.mark, prefix)
                begun = ended
            for row, (label, total) in enumerate(zip(labels, sums, strict=True)):
                middle = 8 + _ROW * (row + 0.5) + 4
                yield _text(left - 8, middle, label, "end")
                yield _text(across(total) + 7, middle, f"{total:,.0f}", "start", "ink")

        return self._both(title, text, width, height, draw)

    def _both(self, title: str, text: str, width: int, height: int, draw: _Draw) -> tuple[str, str]:
        wide, narrow = (self._drawn(title, text, each, height, draw) for each in (width, NARROW))
        return wide, narrow

    def _drawn(self, title: str, text: str, width: int, height: int, draw: _Draw) -> Html:
        prefix = f"chart{next(self._numbers)}"
        return tag(
            "svg",
            tag("title", title, id=f"{prefix}-title"),
            tag("desc", text, id=f"{prefix}-text"),
            draw(width, prefix),
            viewBox=f"0 0 {width} {height}",
            role="img",
            aria_labelledby=f"{prefix}-title {prefix}-text",
            style=f"max-width: {width}px; aspect-ratio: {width} / {height}",
        )


def _frame(width: int, below: tuple[_Axis, Ticks], beside: tuple[_Axis, Sequence[tuple[float, str]], str]) -> Content:
    """The lines behind a chart, and what is written below and beside it."""
    (across, x), (up, ticks, unit) = below, beside
    words, bottom = x.few if width < WIDE else x.many, _HEIGHT - _BOTTOM
    lines = "".join(f"M{_LEFT} {up(value):.1f}H{width - _RIGHT}" for value, _ in ticks)
    return [
        tag("path", d=lines, style="stroke: var(--line)"),
        tag("path", d=f"M{_LEFT} {bottom}H{width - _RIGHT}", style="stroke: var(--soft)"),
        [_text(_LEFT - 8, up(value) + 4, word, "end") for value, word in ticks],
        [_word(across(place), bottom + 18, word, width) for place, word in words],
        _text((_LEFT + width - _RIGHT) / 2, _HEIGHT - 6, x.label, "middle"),
        # Above the axis and not along it: it is read without turning the head.
        _text(0, 14, unit, "start"),
    ]


def _word(x: float, y: float, word: str, width: int) -> Html:
    """A word below an axis: in the middle, or as far to the right as it has room."""
    return _text(x, y, word, "middle") if x + _LETTER * len(word) / 2 <= width else _text(width, y, word, "end")


def _text(x: float, y: float, words: str, anchor: str, role: str = "soft") -> Html:
    style = f"fill: var(--{role}); font-size: 12px; text-anchor: {anchor}"
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", style=style)


def _area(
    role: str,
    shapes: Sequence[tuple[float, float, float, float]],
    mark: str = "",
    prefix: str = "",
    *,
    edge: bool = True,
) -> Content:
    """Rectangles of one colour, by their left upper corner, width and height."""
    if not shapes:
        return None
    path = "".join(f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z" for x, y, w, h in shapes)
    fill, stripes = f"var(--{role})", None
    if mark:
        fill = f"url(#{prefix}-{role})"
        lines = {"//": "M0 0V5", "xx": "M0 0V5M0 0H5"}[mark]
        stripes = tag(
            "pattern",
            tag("rect", width="5", height="5", style=f"fill: var(--{role})"),
            tag("path", d=lines, style="stroke: var(--page); stroke-width: 3"),
            id=f"{prefix}-{role}",
            width="5",
            height="5",
            patternUnits="userSpaceOnUse",
            patternTransform="rotate(45)",
        )
    return [stripes, tag("path", d=path, style=f"fill: {fill}" + ("; stroke: var(--page); stroke-width: 0.8" * edge))]


def _counts(most: float, parts: int) -> list[float]:
    """Round whole numbers from 0 to `most`, in about so many parts."""
    step = next(size for power in count() for size in (10**power, 2 * 10**power, 5 * 10**power) if most / size <= parts)
    return [float(value) for value in range(0, int(most) + 1, step)]


def _round_seconds(low: float, high: float) -> list[float]:
    usual = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
    usual = [tick for tick in usual if low <= tick <= high]
    return usual if len(usual) <= 6 else [tick for tick in usual if f"{tick:e}".startswith("1")]


def compact(value: float) -> str:
    """A count in few characters: 950, 1.2k, 35k, 2.5M."""
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if value >= size * 0.9995:
            return (
                f"{value / size:.1f}".removesuffix(".0") + sign
                if value < 99.95 * size
                else f"{value / size:,.0f}{sign}"
            )
    return f"{value:,.0f}"


def shortened(name: str) -> str:
    """A name as it can stand beside a bar, in letters that every font has."""
    plain = (
        "".join(char if char.isprintable() else "?" for char in name.encode("ascii", "replace").decode()) or "(empty)"
    )
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}~"


def seconds(value: float) -> str:
    """A duration in the unit it is best read in: 35 ms, 1.2 s, 4 min, 2.5 h."""
    if value < 0.9995:
        milliseconds = value * 1000
        return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{milliseconds:.1f} ms".replace(".0 ", " ")
    if value < 119.5:
        return f"{value:.1f} s".replace(".0 ", " ") if value < 9.95 else f"{value:.0f} s"
    if value < 7170:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h".replace(".0 ", " ") if value < 172800 else f"{value / 86400:.0f} days"
