"""The page: figures and charts, in the order in which somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from shlex import quote

import aisolution_async
from aisolution_async.api import ENDPOINTS, Judgment, WhatsAppState
from aisolution_async.bulk.durations import clock
from aisolution_async.bulk.report.charts import HALF, WIDE, Charts, Series, Ticks, seconds
from aisolution_async.bulk.report.figures import (
    IN_A_ROW,
    MOST_HELD,
    OTHERS,
    PAUSE,
    Figures,
    Money,
    Percentiles,
    Span,
    Steps,
    moment,
)
from aisolution_async.bulk.report.html import Content, Html, html, stranger, tag
from aisolution_async.bulk.report.words import CAUSES

# Nothing is loaded and nothing runs, whatever may have got into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_DAY = 86_400_000_000
_LONGEST_NAME = 40
_SHORT = 12  # rows that should stand on one page
_STATES = (("charged", "charged", ""), ("free", "free", ""), ("unknown", "unknown", "//"))
_UNITS = {"day": "day", "week": "week, from its Monday", "month": "month", "year": "year"}


def page(found: Figures, made_at: datetime) -> str:
    """The whole document."""
    charts = Charts()
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="robots", content="noindex"),
        tag("title", f"Ledger report: {found.name}"),
        tag("style", Html((files(__package__) / "style.css").read_text("utf-8"))),
    )
    sections = [_top(found, made_at), _money(found, charts)] if found.money.attempts else [_empty(found, made_at)]
    if found.money.attempts:
        sections += [
            _faces(found, charts),
            _whatsapp(found, charts),
            _failures(found),
            _held(found),
            _pace(found, charts),
            _latency(found, charts),
            _repeats(found),
        ]
    body = tag("body", tag("main", sections, _foot()))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


# ---------------------------------------------------------------------------------------------------------- the top


def _title(found: Figures, made_at: datetime) -> Content:
    period = ""
    if found.first and found.last:
        period = (
            f"{_when(found.first)} to {_when(found.last)}, " if found.first != found.last else f"{_when(found.first)}, "
        )
    return [
        tag("h1", "Ledger report"),
        tag("p", stranger(found.name), ": ", period, f"made {_when(made_at)}. All times are UTC.", class_="soft"),
    ]


def _empty(found: Figures, made_at: datetime) -> Content:
    text = "No attempt is recorded in this ledger: nothing was asked, and nothing was spent."
    if found.under_way:
        text = f"{_attempts(found.under_way)} under way, or of a process that has died. None is over yet."
    return [_title(found, made_at), tag("p", text)]


def _top(found: Figures, made_at: datetime) -> Content:
    money = found.money
    repeats = sum(sum(ends.values()) for number, ends in found.numbers.items() if number > 1)
    paid = bool(money.cost or money.at_risk or found.under_way_price)
    tiles = [
        _tile("Attempts", money.attempts, f"{repeats:,} of them repeats" if repeats else "requests to the vendor"),
        _tile("Answered", found.answered, f"{_share(found.answered, money.attempts)} of the attempts"),
        _tile("Charged", money.charged, f"cost {_amount(money.cost)}" if paid else "attempts", "charged"),
        _tile("Free", money.free, f"{money.not_sent:,} never left" if money.not_sent else "attempts", "free"),
        _tile(
            "Unknown",
            money.unknown,
            f"may cost {_amount(money.at_risk)}" if paid else "may have been charged",
            "unknown",
        ),
        _tile("Held calls", found.held_count, f"{found.unsettled:,} to settle", "held"),
    ]
    notes = []
    if money.unpriced and paid:
        notes.append(f"{_attempts(money.unpriced)} charged without a recorded price: the cost is that of the others.")
    if found.under_way:
        price = f", and may cost {_amount(found.under_way_price)}" if found.under_way_price else ""
        notes.append(
            f"{_attempts(found.under_way)} under way, wait for a callback, or are of a process that has died"
            f"{price}: the next run finds out. They are not counted here."
        )
    if found.emptied:
        notes.append(
            f"{_attempts(found.emptied)} answered and purged since: what was answered is gone, "
            "and only the counts are left."
        )
    if found.strange_times:
        notes.append(
            f"{_attempts(found.strange_times)} recorded with a time that cannot be: counted, but in no chart over time."
        )
    return [
        _title(found, made_at),
        tag("dl", tiles, class_="tiles"),
        [tag("p", note, class_="soft small") for note in notes],
        _notice(found),
    ]


def _tile(name: str, value: int, more: str, kind: str = "") -> Html:
    inside = [tag("div", f"{value:,}", class_="value"), tag("div", more, class_="more")]
    return tag("div", tag("dt", name), tag("dd", inside), class_=f"tile {kind}".strip())


def _notice(found: Figures) -> Content:
    """What cannot wait."""
    said = []
    if found.held_count:
        said.append(
            tag(
                "p",
                tag("strong", f"{_plural(found.held_count, 'call is', 'calls are')} held"),
                ", and not sent again unasked. ",
                f"Of {found.unsettled:,} nobody knows whether it was charged: settle them with the invoice. "
                if found.unsettled
                else None,
                tag("a", "See the held calls", href="#held"),
                ".",
            )
        )
    said += [
        tag("p", tag("strong", f"{_attempts(failure.attempts)} refused for the token. "), CAUSES["token"].remedy)
        for failure in found.failures
        if failure.cause == "token"
    ]
    return tag("div", said, class_="notice") if said else None


# ------------------------------------------------------------------------------------------------------------ money


def _money(found: Figures, charts: Charts) -> Content:
    money = found.money
    paid = bool(money.cost or money.at_risk)
    names = [*found.by_endpoint]
    series = [
        Series(name, role, [getattr(found.by_endpoint[n], name) for n in names], mark) for name, role, mark in _STATES
    ]
    text = "; ".join(
        f"{name}: {m.charged:,} charged, {m.free:,} free, {m.unknown:,} unknown"
        for name, m in found.by_endpoint.items()
    )
    by_endpoint = _figure(
        "Attempts by endpoint",
        charts.rows("Attempts by endpoint and charge", text, names, series, "attempts"),
        series,
    )
    head = ["endpoint", "charged", "free", "unknown", *(["cost", "at risk"] if paid else [])]
    rows = [[_name(name), *_counts(m, paid=paid)] for name, m in found.by_endpoint.items()]
    rows.append([tag("strong", "all"), *_counts(money, paid=paid)])
    return [
        tag("h2", "Money"),
        tag(
            "p",
            "An attempt is one request to the vendor. ",
            tag("strong", "Charged"),
            " is what the contract says is charged, ",
            tag("strong", "free"),
            " what it says is free or what never left, and ",
            tag("strong", "unknown"),
            " what was sent and had no usable answer: only the invoice can tell.",
        ),
        by_endpoint,
        tag("div", _table(head, rows, class_="stacked")),
        _by_day(found, charts, paid=paid) if len(found.by_day) > 1 else None,
    ]


def _by_day(found: Figures, charts: Charts, *, paid: bool) -> Content:
    unit = found.unit
    sums = {}
    for day, by_endpoint in found.by_day.items():
        sums[day] = total = Money()
        for money in by_endpoint.values():
            for name in ("charged", "free", "unknown", "cost", "at_risk"):
                setattr(total, name, getattr(total, name) + getattr(money, name))
    days = _all_periods(min(sums), max(sums), unit)
    dates = [moment(day * _DAY) for day in days]
    form = {"day": "%d %b", "week": "%d %b", "month": "%b %Y", "year": "%Y"}[unit]
    labels = [_trimmed(date.strftime(form)) for date in dates]
    nothing = Money()
    series = [
        Series(name, role, [getattr(sums.get(day, nothing), name) for day in days], mark)
        for name, role, mark in _STATES
    ]
    most = max(sums, key=lambda day: sums[day].attempts)
    text = (
        f"{len(days)} {unit}s from {dates[0]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}. "
        f"Most attempts, {sums[most].attempts:,}, on {moment(most * _DAY):%Y-%m-%d}."
    )
    x = Ticks(f"{_UNITS[unit]} (UTC), {_years(dates)}", _spread(labels, 10), _spread(labels, 4))
    rows = [
        [f"{moment(day * _DAY):%Y-%m-%d}", _name(name), *_counts(m, paid=paid)]
        for day, by_endpoint in found.by_day.items()
        for name, m in by_endpoint.items()
    ]
    head = [unit, "endpoint", "charged", "free", "unknown", *(["cost", "at risk"] if paid else [])]
    return _figure(
        f"Attempts by {unit}",
        charts.bars(f"Attempts by {unit} and charge", text, series, x, "attempts"),
        series,
        table=_table(head, rows),
    )


def _counts(money: Money, *, paid: bool) -> list[Content]:
    counts: list[Content] = [_number(money.charged), _number(money.free), _number(money.unknown)]
    return [*counts, _number(_amount(money.cost)), _number(_amount(money.at_risk))] if paid else counts


# ---------------------------------------------------------------------------------------------------------- answers


_JUDGMENTS = (
    (Judgment.NOT_SAME_PERSON, "differs", ""),
    (Judgment.NOT_SURE, "unsure", "//"),
    (Judgment.SAME_PERSON, "same", ""),
    ("another word", "free", "xx"),
)
_SCORES = [(n / 2 - 0.5, str(n)) for n in range(0, 101, 20)]


def _faces(found: Figures, charts: Charts) -> Content:
    parts: list[Content] = []
    names = {"facecompare": "Two faces compared (facecompare)", "idholding": "Person and card compared (idholding)"}
    width = HALF if len(found.similarity) + bool(found.searched) > 1 else WIDE
    for endpoint, judgments in found.similarity.items():
        series = [
            Series(str(name), role, [judgments[name][low] for low in range(0, 100, 2)], mark)
            for name, role, mark in _JUDGMENTS
            if name in judgments
        ]
        total = sum(sum(counts.values()) for counts in judgments.values())
        shares = [
            f"{name} {judgments[name].total():,} ({_share(judgments[name].total(), total)})" for name in judgments
        ]
        rows = [
            [f"{low} to {low + 2}", *(_number(judgments[each.name][low]) for each in series)]
            for low in range(0, 100, 2)
            if any(judgments[each.name][low] for each in series)
        ]
        parts.append(
            _figure(
                names[endpoint],
                charts.bars(
                    f"Similarity, {endpoint}",
                    f"{total:,} comparisons by similarity and judgment: {', '.join(sorted(shares))}.",
                    series,
                    Ticks("similarity, 0 to 100", _SCORES, _SCORES),
                    "comparisons",
                    width=width,
                ),
                series,
                values=[
                    f"{judgments[each.name].total():,}, {_share(judgments[each.name].total(), total)}"
                    for each in series
                ],
                table=_table(["similarity", *(each.name for each in series)], rows),
            )
        )
    if found.searched:
        parts.append(_search(found, charts, width))
    if not parts:
        return None
    return [tag("h2", "Faces"), tag("div", parts, class_="pair") if len(parts) > 1 else parts]


def _search(found: Figures, charts: Charts, width: int) -> Content:
    series = [Series("best match", "charged", [found.confidence[low] for low in range(0, 100, 2)])]
    known = found.searched - found.nobody
    text = f"{found.searched:,} searches: {known:,} found somebody, {found.nobody:,} found nobody."
    rows = [[f"{low} to {low + 2}", _number(count)] for low, count in sorted(found.confidence.items())]
    title = "Faces searched for (searchface)"
    if not known:
        return tag("figure", tag("h3", title), tag("p", text))
    return _figure(
        title,
        charts.bars(
            "Confidence of the best match, searchface",
            text,
            series,
            Ticks("confidence of the best match, 0 to 100", _SCORES, _SCORES),
            "searches",
            width=width,
        ),
        series,
        values=[f"{known:,}; nobody found: {found.nobody:,}"],
        table=_table(["confidence", "searches"], rows),
    )


_SAID = {
    WhatsAppState.YES: "is on WhatsApp",
    WhatsAppState.NO: "is not on WhatsApp",
    WhatsAppState.CHECKING: "was still being checked: free, and worth asking again",
    WhatsAppState.UNAVAILABLE: "could not be looked up: free, and worth asking again",
    "another word": "was said something that the contract does not know",
}


def _whatsapp(found: Figures, charts: Charts) -> Content:
    if not found.whatsapp:
        return None
    names = [name for name in _SAID if found.whatsapp[name]]
    total = found.whatsapp.total()
    series = [Series("numbers", "charged", [found.whatsapp[name] for name in names])]
    text = ", ".join(f"{name} {found.whatsapp[name]:,}" for name in names)
    yes = found.whatsapp[WhatsAppState.YES]
    rows: list[list[Content]] = [
        [
            [name, tag("p", f"The number {_SAID[name]}.", class_="said")],
            _number(found.whatsapp[name]),
            _share_of(found.whatsapp[name], total),
        ]
        for name in names
    ]
    for field, counts in (("a business account", found.business), ("a picture (avatar)", found.avatar)):
        if counts["yes"] or counts["no"]:
            words = [f"yes, with {field}", tag("p", "Share of the numbers on WhatsApp.", class_="said")]
            rows.append([words, _number(counts["yes"]), _share_of(counts["yes"], yes)])
    return [
        tag("h2", "WhatsApp"),
        tag("p", "What was said last of each number that was looked up (gliswadetail)."),
        _figure(None, charts.rows("WhatsApp answers", text, names, series, "numbers"), []),
        tag("div", _table(["answer", "numbers", "share"], rows)),
    ]


# --------------------------------------------------------------------------------------------------------- failures


def _failures(found: Figures) -> Content:
    if not found.failures:
        return [tag("h2", "Failures"), tag("p", "No attempt failed.")]
    rows: list[list[Content]] = []
    for failure in found.failures:
        cause = CAUSES[failure.cause]
        where = [[_name(name), f" {count:,}, "] for name, count in failure.by_endpoint.most_common()]
        where[-1][1] = where[-1][1].removesuffix(", ")
        said = "; ".join(failure.said)
        rows.append(
            [
                [
                    cause.what,
                    tag("p", cause.remedy, class_="remedy"),
                    tag("p", where, [" · ", stranger(said)] if said else None, class_="said"),
                ],
                _number(failure.attempts),
                _number(failure.open if failure.tied else "not known"),
            ]
        )
    return [
        tag("h2", "Why attempts brought no answer, and what to do"),
        tag(
            "p",
            "Most that fail once are answered when they are repeated. The last column counts the calls that "
            "ended so, and have no answer to this day. Attempts that never left, and those that were purged, cannot be "
            "told apart by call.",
        ),
        tag("div", _table(["cause and remedy", "attempts", "calls without an answer"], rows, class_="causes stacked")),
    ]


def _held(found: Figures) -> Content:
    if not found.held_count:
        return None
    paid = any(held.price for held in found.held)
    ledger = quote(f"./{found.name}" if found.name.startswith("-") else found.name)
    rows = [
        [
            tag("span", "no key", class_="soft") if held.key is None else stranger(held.key),
            _name(held.endpoint),
            _cell_of(held.started_at) if held.started_at else "not known",
            [
                "charged, answer lost" if held.state == "charged" else "unknown",
                [": ", stranger(held.problem)] if held.problem else None,
            ],
            _number(str(held.id)),
            *([_number(_amount(held.price))] if paid else []),
        ]
        for held in found.held
    ]
    head = ["key", "endpoint", "sent (UTC)", "what is known", "attempt", *(["price"] if paid else [])]
    more = f"The newest {MOST_HELD} of {found.held_count:,}: aisolution ledger attempts --unknown lists all."
    return [
        tag("h2", f"Held calls: {found.held_count:,}", id="held"),
        tag(
            "p",
            tag("strong", "Unknown"),
            " means: the request was sent, and no usable answer came back, because the connection broke, the time was "
            "up, or the program ended. The vendor may have worked on it and charge it, or may never have seen it. So "
            "that nothing is paid for twice, such a call is held: it is not sent again.",
        ),
        tag("p", "Look it up in the vendor's invoice, and settle it by its key, or by the number of the attempt:"),
        [
            tag("pre", tag("code", f"aisolution ledger resolve {ledger} {line}"))
            for line in ("KEY free", "KEY charged", "ATTEMPT free --by-id")
        ],
        tag(
            "p",
            "Settled as free, the next run sends it again. Settled as charged, it was paid for and its answer is lost: "
            "it stays held, so that nothing buys it again unasked. To send held calls again without looking them up, "
            "and maybe pay twice, run the list with ",
            tag("code", "--retry-unknown 1"),
            ".",
        ),
        tag("div", _table(head, rows, class_="stacked")),
        tag("p", more, class_="soft small") if found.held_count > len(found.held) else None,
    ]


# ------------------------------------------------------------------------------------------------------------- time


def _pace(found: Figures, charts: Charts) -> Content:
    steps = found.steps
    if steps is None:
        return None
    assert found.busiest is not None
    series = [Series(name, role, found.through[name], mark) for name, role, mark in _STATES]
    sums = [sum(values) for values in zip(*found.through.values(), strict=True)]
    marked = [_place(span, steps) for span in found.troubles]
    text = (
        f"Attempts that ended in each {_length(steps)}, by charge. Most at once: {found.busiest[1]:,} in the minute "
        f"of {_when(found.busiest[0])}."
    )
    rows = [
        [_step_name(steps, number), *(_number(found.through[name][number]) for name, *_ in _STATES)]
        for number, total in enumerate(sums)
        if total
    ]
    figure = steps.count > 1 and _figure(
        f"Attempts in each {_length(steps)}",
        charts.bars("Attempts over time", text, series, _ticks(steps), "attempts", marked=marked),
        series,
        extra="above: when the vendor was busy or away" if marked else "",
        table=_table(["from (UTC)", "charged", "free", "unknown"], rows),
    )
    runs = [
        [
            _cell_of(moment(run.start)),
            _number(clock(run.seconds)),
            _number(run.attempts),
            _number(_rate(run)),
        ]
        for run in reversed(found.runs)
    ]
    some = f"The latest {len(runs)} of {found.run_count:,} runs." if found.run_count > len(runs) else ""
    return [
        tag("h2", "Pace"),
        tag(
            "p",
            f"The busiest minute was {_when(found.busiest[0])}, with "
            f"{_plural(found.busiest[1], 'attempt', 'attempts')}. "
            f"A pause of {PAUSE // 60} minutes without any attempt ends a run. ",
            some,
        ),
        figure or None,
        tag("div", _table(["run from (UTC)", "for", "attempts", "a second"], runs, class_="stacked")),
        _troubles(found),
    ]


_TROUBLES = {
    "busy": "busy",
    "unreachable": "no connection",
    "lost": "sent, no answer",
    "unreadable": "an error page",
}


def _troubles(found: Figures) -> Content:
    if not found.troubles:
        return tag("p", f"Never did {IN_A_ROW} attempts in a row find the vendor busy or away.", class_="soft small")
    rows = [
        [
            _cell_of(moment(span.start)),
            _number(clock(span.seconds)),
            _number(span.attempts),
            ", ".join(f"{_TROUBLES[kind]} {count:,}" for kind, count in span.kinds.most_common()),
        ]
        for span in found.troubles
    ]
    longest = found.trouble_count > len(rows)
    return [
        tag("h3", "When the vendor was busy or away"),
        tag(
            "p",
            f"{IN_A_ROW} attempts in a row, or more, that found it busy, could not reach it or had no usable answer, "
            "and none in between that was answered. Counted from this side: it may have been the network in between.",
            f" The longest {len(rows)} of {found.trouble_count:,}." if longest else "",
        ),
        tag("div", _table(["from (UTC)", "for", "attempts", "that found"], rows, class_="stacked")),
    ]


_CURVES = (("p50", "-"), ("p90", (0, (5, 2))), ("p99", (0, (1.2, 1.6))))


def _latency(found: Figures, charts: Charts) -> Content:
    steps = found.steps
    if steps is None or not found.latency:
        return None
    rows: list[list[Content]] = [
        [_name(name), _number(p.count), *(_number(seconds(v)) for v in (p.p50, p.p90, p.p99, p.longest))]
        for name, p in found.latency.items()
    ]
    parts = []
    drawn = {name: over_time for name, over_time in found.latency_over_time.items() if len(over_time) > 1}
    width = HALF if len(drawn) > 1 else WIDE
    for name, over_time in drawn.items():
        first, last = min(over_time), max(over_time)
        shown = Steps(steps.first + first * steps.length, steps.length, last - first + 1)
        series: Sequence[Series] = [
            Series(curve, curve, [_of(over_time.get(n), curve) for n in range(first, last + 1)], dashes)
            for curve, dashes in _CURVES
        ]
        whole = found.latency[name]
        text = f"Over all: p50 {seconds(whole.p50)}, p90 {seconds(whole.p90)}, p99 {seconds(whole.p99)}."
        table = [
            [_step_name(steps, n), _number(p.count), *(_number(seconds(v)) for v in (p.p50, p.p90, p.p99))]
            for n, p in sorted(over_time.items())
        ]
        parts.append(
            _figure(
                _name(name),
                charts.lines(f"Latency, {name}", text, series, _ticks(shown), "time to the answer", width=width),
                series,
                lines=True,
                table=_table(["from (UTC)", "answers", "p50", "p90", "p99"], table),
            )
        )
    return [
        tag("h2", "Latency"),
        tag(
            "p",
            "From the start of an attempt to the end of the vendor's answer, whatever it said; attempts without any "
            "answer are not among them. Half of the answers took p50 at most, nine in ten p90, 99 in 100 p99.",
            f" The curves have a point for each {_length(steps)} with an answer.",
        ),
        tag("div", _table(["endpoint", "answers", "p50", "p90", "p99", "longest"], rows, class_="stacked")),
        tag("div", parts, class_="pair") if len(parts) > 1 else parts,
    ]


def _repeats(found: Figures) -> Content:
    if len(found.numbers) < 2:
        return None
    rows = [
        [
            f"{number}{' and more' if number == 6 else ''}",
            _number(sum(ends.values())),
            _number(ends["answered"]),
            _share_of(ends["answered"], sum(ends.values())),
        ]
        for number, ends in found.numbers.items()
    ]
    return [
        tag("h2", "Repeats"),
        tag(
            "p",
            "What is free and may pass is repeated without asking: the vendor was busy, or was not reached. So is a "
            "number that is still being checked, where that was asked for.",
        ),
        tag("div", _table(["attempt of a call", "attempts", "answered", "share"], rows), class_="scroll", tabindex="0"),
    ]


def _foot() -> Html:
    return tag(
        "footer",
        tag(
            "p",
            "Made from the ledger alone. All counts and percentiles are exact. Attempts stand on the day on which they "
            "were begun, and in the charts over time where they ended. This file holds your keys of held calls: keep "
            "it where you keep the ledger.",
        ),
        tag("p", f"aisolution-async {aisolution_async.__version__}"),
    )


# ------------------------------------------------------------------------------------------------------------ pieces


def _figure(
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


class _Number(Html):
    """What stands on the right in a table."""

    __slots__ = ()


def _number(value: int | str) -> _Number:
    return _Number(html(f"{value:,}" if isinstance(value, int) else value))


def _table(head: Sequence[str], rows: Sequence[Sequence[Content]], *, class_: str | None = None) -> Html:
    """The first cell of a row is its head; the narrow page shows the head of a column beside each cell."""
    right = [isinstance(cell, _Number) for cell in rows[0]] if rows else []
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
                "td", cell, class_="number" if isinstance(cell, _Number) else "words", data_name=name if named else None
            )
            for name, cell in zip(head[1:], rest, strict=True)
        ]
        lines.append(tag("tr", tag("th", first, scope="row"), cells))
    kinds = [kind for kind in (class_, "short" if len(rows) <= _SHORT else None) if kind]
    return tag("table", tag("thead", tag("tr", names)), tag("tbody", lines), class_=" ".join(kinds) or None)


def _name(endpoint: str) -> Html:
    """An endpoint's name, which in a ledger that was tampered with is anybody's text."""
    if endpoint in ENDPOINTS or endpoint == OTHERS:
        return html(endpoint)
    return stranger(endpoint if len(endpoint) <= _LONGEST_NAME else f"{endpoint[:_LONGEST_NAME]}…")


def _of(percentiles: Percentiles | None, name: str) -> float | None:
    return None if percentiles is None else float(getattr(percentiles, name))


def _amount(millionths: int) -> str:
    """Money, with the digits that it has, and two behind the point at least."""
    whole, _, rest = f"{Decimal(millionths).scaleb(-6):,.6f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2}"


def _share(part: int, whole: int) -> str:
    """Never "100 %" or "0 %" of what is not all or nothing."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if part and part != whole:
        share = min(max(share, 0.1), 99.9)
    return f"{share:.1f} %".replace(".0 ", " ") if share in (0, 100) else f"{share:.1f} %"


def _share_of(part: int, whole: int) -> _Number:
    return _number(_share(part, whole))


def _plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _attempts(count: int) -> str:
    return _plural(count, "attempt is", "attempts are")


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _cell_of(time: datetime) -> Html:
    return tag("span", _when(time), class_="when")


def _rate(run: Span) -> str:
    return f"{run.attempts / run.seconds:,.1f}" if run.seconds >= 1 else "-"


# --------------------------------------------------------------------------------------------------- words of an axis


def _length(steps: Steps) -> str:
    """How long a step is, as "each … " goes on."""
    length = timedelta(microseconds=steps.length)
    whole = int(length.total_seconds())
    for size, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if whole % size == 0:
            return name if whole == size else f"{whole // size} {name}s"
    raise AssertionError(whole)


def _step_name(steps: Steps, number: int) -> str:
    start = steps.start(number)
    if steps.length >= _DAY:
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d %H:%M}" if steps.length >= 60_000_000 else f"{start:%Y-%m-%d %H:%M:%S}"


def _ticks(steps: Steps) -> Ticks:
    """Where steps begin: the time, and the date where it is another one than before."""
    starts = [steps.start(number) for number in range(steps.count)]
    first, last = starts[0], starts[-1]
    if steps.length >= _DAY:
        words = [_trimmed(start.strftime("%d %b" if (last - first).days < 300 else "%b %Y")) for start in starts]
        label = f"time (UTC), {_years(starts)}"
    elif (last - first) > timedelta(hours=36):
        # Whole days: a time of day says little on an axis of many.
        words = [_trimmed(start.strftime("%d %b")) for start in starts]
        label = f"time (UTC), {_years(starts)}"
        days = [n for n, start in enumerate(starts) if n == 0 or start.date() != starts[n - 1].date()]
        days = [n for n in days if n or first.hour < 12]
        return Ticks(label, _thinned(days, words, 10), _thinned(days, words, 4))
    else:
        form = "%H:%M" if steps.length >= 60_000_000 else "%H:%M:%S"
        words = [start.strftime(form) for start in starts]
        label = f"time (UTC), {first:%Y-%m-%d}" + (f" to {last:%Y-%m-%d}" if first.date() != last.date() else "")
    return Ticks(label, _spread(words, 8), _spread(words, 4))


def _thinned(places: Sequence[int], words: Sequence[str], most: int) -> list[tuple[float, str]]:
    every = -(-len(places) // most)
    return [(place - 0.5, words[place]) for place in places[::every]]


def _spread(words: Sequence[str], most: int) -> list[tuple[float, str]]:
    """As many as have room, at equal distances."""
    every = max(1, -(-len(words) // most))
    return [(place, words[place]) for place in range(0, len(words), every)]


def _years(dates: Sequence[datetime]) -> str:
    first, last = dates[0].year, dates[-1].year
    return str(first) if first == last else f"{first} to {last}"


def _trimmed(text: str) -> str:
    return text.removeprefix("0")


def _place(span: Span, steps: Steps) -> tuple[float, float]:
    """Where a stretch of time is on the axis; as wide as to be seen, at least."""
    start, end = ((at - steps.first) / steps.length - 0.5 for at in (span.start, span.end))
    return start, max(end, start + steps.count * 0.008)


def _all_periods(first: int, last: int, unit: str) -> list[int]:
    """All days, weeks, months or years from one to another, by the days that they begin with."""
    if unit in ("day", "week"):
        return list(range(first, last + 1, 1 if unit == "day" else 7))
    found, day = [], first
    while day <= last:
        found.append(day)
        date = moment(day * _DAY)
        months = date.year * 12 + date.month - 1 + (1 if unit == "month" else 12)
        following = date.replace(year=months // 12, month=months % 12 + 1)
        day += (following - date).days
    return found
