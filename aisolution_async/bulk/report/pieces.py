"""Pieces of the page: tables, charts with their legends, tiles, and how numbers, money and times are written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from aisolution_async.bulk.report.charts import Series
from aisolution_async.bulk.report.figures import OTHERS
from aisolution_async.bulk.report.html import Content, Html, html, stranger, tag
from aisolution_async.bulk.words import SERVICES

DAY = 86_400_000_000
STATES = (("charged", "charged", ""), ("free", "free", ""), ("unknown", "unknown", "//"))
"""What an attempt cost, its colour and its mark in charts."""

_LONGEST_NAME = 40
_SHORT = 12  # rows that should stand on one page


def figure(
    title: Content,
    drawn: tuple[str, str],
    series: Sequence[Series],
    *,
    values: Sequence[str] = (),
    lines: bool = False,
    extra: str = "",
    table: Html | None = None,
) -> Html:
    """A chart in both widths, its legend, and its numbers as a table."""
    legend = []
    for number, each in enumerate(series):
        if lines:
            dashes = ("solid", "dashed", "dotted")[number]
            swatch = tag("span", class_="swatch line", style=f"border-top: 3px {dashes} var(--{each.role})")
        else:
            swatch = tag(
                "span",
                class_="swatch hatched" if each.mark else "swatch",
                style=f"background-color: var(--{each.role})",
            )
        legend.append(tag("li", swatch, f"{each.name}{': ' + values[number] if values else ''}"))
    if extra:
        legend.append(tag("li", tag("span", class_="swatch strip"), extra))
    wide, narrow = drawn
    return tag(
        "figure",
        tag("h3", title) if title else None,
        tag("ul", legend, class_="legend") if legend else None,
        tag("div", Html(wide), class_="wide"),
        tag("div", Html(narrow), class_="narrow"),
        tag("details", tag("summary", "The numbers"), tag("div", table, class_="scroll", tabindex="0"))
        if table
        else None,
    )


class RightCell(Html):
    """What stands on the right in a table."""

    __slots__ = ()


def number(value: int | str) -> RightCell:
    """A cell with a number."""
    return RightCell(html(f"{value:,}" if isinstance(value, int) else value))


def table(head: Sequence[str], rows: Sequence[Sequence[Content]], *, class_: str | None = None) -> Html:
    """The first cell of a row is its head; the narrow page shows the head of a column beside each cell."""
    right = [isinstance(cell, RightCell) for cell in rows[0]] if rows else []
    named = class_ is not None and "stacked" in class_
    names = [
        tag("th", name, scope="col", class_="number" if number else None)
        for name, number in zip(head, right, strict=True)
    ]
    lines = []
    for row in rows:
        first, *rest = row
        cells = [
            tag(
                "td",
                cell,
                class_="number" if isinstance(cell, RightCell) else "words",
                data_name=name if named else None,
            )
            for name, cell in zip(head[1:], rest, strict=True)
        ]
        lines.append(tag("tr", tag("th", first, scope="row"), cells))
    kinds = [kind for kind in (class_, "short" if len(rows) <= _SHORT else None) if kind]
    return tag("table", tag("thead", tag("tr", names)), tag("tbody", lines), class_=" ".join(kinds) or None)


def service(endpoint: str) -> Html:
    """An endpoint's name, which in a ledger that was tampered with is anybody's text."""
    if endpoint in SERVICES or endpoint == OTHERS:
        return html(SERVICES.get(endpoint, endpoint))
    return stranger(endpoint if len(endpoint) <= _LONGEST_NAME else f"{endpoint[:_LONGEST_NAME]}…")


def share(part: int, whole: int) -> str:
    """Never "100 %" or "0 %" of what is not all or nothing."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if part and part != whole:
        percent = min(max(percent, 0.1), 99.9)
    return f"{percent:.1f} %".replace(".0 ", " ") if percent in (0, 100) else f"{percent:.1f} %"


def share_of(part: int, whole: int) -> RightCell:
    """A cell with a share."""
    return number(share(part, whole))


def plural(count: int, one: str, many: str) -> str:
    """A count, and what is counted."""
    return f"{count:,} {one if count == 1 else many}"


def attempts_are(count: int) -> str:
    """How many attempts, as the beginning of a sentence."""
    return plural(count, "attempt is", "attempts are")


def when(time: datetime) -> str:
    """A time, to the minute."""
    return f"{time:%Y-%m-%d %H:%M}"


def cell_of(time: datetime) -> Html:
    """A time that is not broken into two lines."""
    return tag("span", when(time), class_="when")


def tile(name: str, value: int, more: str, kind: str = "") -> Html:
    """A number in large letters, and what it is."""
    inside = [tag("div", f"{value:,}", class_="value"), tag("div", more, class_="more")]
    return tag("div", tag("dt", name), tag("dd", inside), class_=f"tile {kind}".strip())
