"""The charts, as SVG that takes its colours from the page's style sheet, and so follows light and dark.

matplotlib draws them; it is imported when the first one is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from xml.etree import ElementTree

from aisolution_async.bulk.report.html import shown
from aisolution_async.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

WIDE, HALF, NARROW = 860, 418, 328
"""Widths in pixels: the page's, half of it, and a phone's."""

# matplotlib wants colours that it knows: each of these stands for a variable of the style sheet.
ROLES = {
    name: f"#{number:06x}"
    for number, name in enumerate(
        ("ink", "soft", "line", "page", "charged", "free", "unknown", "same", "differs", "unsure", "p50", "p90", "p99"),
        0xA10001,
    )
}
_SIZE = 12
_HEIGHT, _RIGHT, _BOTTOM = 220, 14, 44
_SHORTEST = 0.0001


@dataclass(frozen=True, slots=True)
class Series:
    """One of the things a chart shows: its name, its colour (`ROLES`), its values, its hatch or dashes."""

    name: str
    role: str
    values: Sequence[float | None]
    mark: Any = ""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Where an axis has words, for a chart of any width: `few` on a phone."""

    label: str
    many: Sequence[tuple[float, str]]
    few: Sequence[tuple[float, str]]


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
        places = range(len(series[0].values))
        # A few columns stand apart; many of them are one shape.
        broad = 0.6 if len(places) <= 8 else 0.8 if len(places) <= 20 else 1.0
        margin = 0.5 if len(places) > 8 else 1.0

        def draw(axes: Axes, *, narrow: bool) -> None:
            below = [0.0] * len(places)
            for start, end in stretches:
                axes.axvspan(start, end, ymin=0.95, facecolor=ROLES["ink"], linewidth=0)
            for each in series:
                values = [value or 0.0 for value in each.values]
                axes.bar(places, values, bottom=below, **_fill(each), width=broad)
                below = [a + b for a, b in zip(below, values, strict=True)]
            axes.set_xlim(-margin, len(below) - 1 + margin)
            axes.set_ylim(0, max(1.0, *below) * (1.15 if stretches else 1.06))
            _count_axis(axes.yaxis, 4)
            _words(axes, x, y, narrow=narrow or width < WIDE)

        return self._both(_Frame(title, text, width, _HEIGHT), draw)

    def lines(
        self, title: str, text: str, series: Sequence[Series], x: Ticks, y: str, *, width: int = WIDE
    ) -> tuple[str, str]:
        """Lines over steps 0, 1, 2 …, on a logarithmic axis of seconds, with gaps where there is no value."""
        known = [max(value, _SHORTEST) for each in series for value in each.values if value is not None]
        low, high = min(known) / 1.5, max(known) * 1.5

        def draw(axes: Axes, *, narrow: bool) -> None:
            for each in series:
                values = [math.nan if value is None else max(value, _SHORTEST) for value in each.values]
                shape: dict[str, Any] = {"linestyle": each.mark, "marker": "o", "markersize": 3.4}
                axes.plot(range(len(values)), values, color=ROLES[each.role], linewidth=1.8, clip_on=False, **shape)
            axes.set_yscale("log")
            axes.set_ylim(low, high)
            axes.set_xlim(-0.6, max(len(series[0].values) - 0.4, 0.6))
            _second_ticks(axes, low, high)
            _words(axes, x, y, narrow=narrow or width < WIDE)

        return self._both(_Frame(title, text, width, _HEIGHT), draw)

    def rows(
        self, title: str, text: str, names: Sequence[str], series: Sequence[Series], x: str, *, width: int = WIDE
    ) -> tuple[str, str]:
        """Bars that lie, one for each name from top to bottom, with the sum behind it."""
        labels = [shortened(name) for name in names]

        def draw(axes: Axes, *, narrow: bool) -> None:
            left = [0.0] * len(names)
            for each in series:
                values = [value or 0.0 for value in each.values]
                axes.barh(range(len(names)), values, left=left, height=0.62, **_fill(each))
                left = [a + b for a, b in zip(left, values, strict=True)]
            most = max(1.0, *left)
            for row, total in enumerate(left):
                axes.text(total + most * 0.012, row, f" {total:,.0f}", va="center", color=ROLES["ink"], size=_SIZE)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlim(0, most * (1.25 if narrow else 1.12))
            axes.set_yticks(range(len(names)), labels=labels)
            _count_axis(axes.xaxis, 3 if narrow else 5)
            axes.grid(axis="x", color=ROLES["line"], linewidth=1)
            axes.grid(visible=False, axis="y")
            axes.spines["left"].set_visible(True)
            axes.spines["bottom"].set_visible(False)
            axes.set_xlabel(x)

        left = 14 + 7 * max(map(len, labels))
        return self._both(_Frame(title, text, width, 30 * len(names) + _BOTTOM + 8, left, 8), draw)

    def _both(self, frame: _Frame, draw: _Draw) -> tuple[str, str]:
        return self._draw(frame, draw), self._draw(replace(frame, width=NARROW), draw)

    def _draw(self, frame: _Frame, draw: _Draw) -> str:
        width, height = frame.width, frame.height
        inner = (width - frame.left - _RIGHT, height - _BOTTOM - frame.top)
        with _matplotlib() as figure_of:
            figure = figure_of(figsize=(width / 72, height / 72))
            axes = figure.add_axes((frame.left / width, _BOTTOM / height, inner[0] / width, inner[1] / height))
            axes.set_axisbelow(True)
            axes.patch.set_visible(False)
            axes.tick_params(length=0, pad=6, colors=ROLES["soft"], labelsize=_SIZE)
            axes.xaxis.label.set(color=ROLES["soft"], size=_SIZE)
            for side, spine in axes.spines.items():
                spine.set(visible=side == "bottom", edgecolor=ROLES["soft"], linewidth=1)
            axes.grid(axis="y", color=ROLES["line"], linewidth=1)
            draw(axes, narrow=width == NARROW)
            out = io.StringIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(out, format="svg", metadata=nothing, transparent=True)
        return _for_page(out.getvalue(), f"chart{next(self._numbers)}", frame.title, frame.text)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is around a drawing; lengths in pixels."""

    title: str
    text: str
    width: int
    height: int
    left: int = 52
    top: int = 26


class _Draw(Protocol):
    def __call__(self, axes: Axes, *, narrow: bool) -> None: ...


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
    return plain if len(plain) <= 16 else f"{plain[:15]}~"


def _fill(series: Series) -> dict[str, Any]:
    return {
        "facecolor": ROLES[series.role],
        "edgecolor": ROLES["page"],
        "hatchcolor": ROLES["page"],
        "hatch": series.mark or None,
        "linewidth": 0.8,
    }


def _count_axis(axis: Axis, most: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415  # an extra, and slow to import

    axis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=2, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def _words(axes: Axes, x: Ticks, y: str, *, narrow: bool) -> None:
    ticks = x.few if narrow else x.many
    axes.set_xticks([place for place, _ in ticks], labels=[word for _, word in ticks])
    axes.set_xlabel(x.label)
    # Above the axis and not along it: it is read without turning the head.
    axes.figure.text(0, 1 - 12 / _HEIGHT, y, color=ROLES["soft"], size=_SIZE, va="center")


def _second_ticks(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import NullLocator  # noqa: PLC0415  # as above

    usual = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
    usual = [tick for tick in usual if low <= tick <= high]
    if len(usual) > 6:
        usual = [tick for tick in usual if f"{tick:e}".startswith("1")]
    axes.yaxis.set_major_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(usual, labels=[seconds(tick) for tick in usual])


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


@contextmanager
def _matplotlib() -> Iterator[Any]:
    """matplotlib's Figure; its settings as they come with it, whatever the machine's are, and put back afterwards."""
    try:
        from matplotlib import style  # noqa: PLC0415  # an extra, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415  # as above
    except ImportError:
        problem = ConfigurationError("a report needs matplotlib: pip install 'aisolution-async[cli]'")
    else:
        ours = {
            "svg.fonttype": "none",
            "svg.hashsalt": "aisolution",
            "text.parse_math": False,
            "text.usetex": False,
            "hatch.linewidth": 1.6,
            "figure.dpi": 72,
        }
        with style.context(["default", ours]):
            yield Figure
        return
    raise problem


def _for_page(svg: str, prefix: str, title: str, text: str) -> str:
    """An SVG document as part of an HTML page: its own ids, our colours, words for those who do not see it."""
    for name, colour in ROLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    root = ElementTree.fromstring(svg.encode())  # noqa: S314  # matplotlib wrote it just now
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    _drop(root, "metadata", "style")
    for element in root.iter():
        # In HTML, no namespace has to be named.
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        element.attrib.clear()
        for name, value in attributes.items():
            own = f"{prefix}-{value}" if name == "id" else re.sub(r"(^|url\()#", rf"\1#{prefix}-", value)
            element.set(name, own)
        if element.tag == "text":
            # The page's own letters.
            kept = [part for part in element.get("style", "").split("; ") if not part.startswith("font-family")]
            element.set("style", "; ".join(kept))
    width, height = root.get("viewBox", "").split()[2:]
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-text")
    root.set("style", f"max-width: {width}px; aspect-ratio: {width} / {height}")
    for tag, words in (("desc", text), ("title", title)):
        element = ElementTree.Element(tag, id=f"{prefix}-{'text' if tag == 'desc' else 'title'}")
        element.text = shown(words)
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _drop(root: ElementTree.Element, *names: str) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag.rpartition("}")[2] in names]:
            parent.remove(child)
