"""When attempts were made, how fast they went, and how often they were repeated."""

from __future__ import annotations

from collections.abc import Sequence

from aisolution_async.bulk.durations import clock
from aisolution_async.bulk.report import axes, pieces
from aisolution_async.bulk.report.charts import HALF, WIDE, Charts, Series, seconds
from aisolution_async.bulk.report.figures import IN_A_ROW, PAUSE, Figures, Percentiles, Span, Steps, moment
from aisolution_async.bulk.report.html import Content, tag
from aisolution_async.bulk.words import SERVICES


def pace(found: Figures, charts: Charts) -> Content:
    steps = found.steps
    if steps is None:
        return None
    assert found.busiest is not None
    series = [Series(name, role, found.through[name], mark) for name, role, mark in pieces.STATES]
    sums = [sum(values) for values in zip(*found.through.values(), strict=True)]
    marked = [axes.place(span, steps) for span in found.troubles]
    text = (
        f"Attempts that ended in each {axes.length(steps)}, by charge. Most at once: {found.busiest[1]:,} in the "
        f"minute of {pieces.when(found.busiest[0])}."
    )
    rows = [
        [axes.step_name(steps, number), *(pieces.number(found.through[name][number]) for name, *_ in pieces.STATES)]
        for number, total in enumerate(sums)
        if total
    ]
    figure = steps.count > 1 and pieces.figure(
        f"Attempts in each {axes.length(steps)}",
        charts.bars("Attempts over time", text, series, axes.ticks(steps), "attempts", marked=marked),
        series,
        extra="above: when the vendor was busy or away" if marked else "",
        table=pieces.table(["from (UTC)", "charged", "free", "unknown"], rows),
    )
    runs = [
        [
            pieces.cell_of(moment(run.start)),
            pieces.number(clock(run.seconds)),
            pieces.number(run.attempts),
            pieces.number(_rate(run)),
        ]
        for run in reversed(found.runs)
    ]
    some = f"The latest {len(runs)} of {found.run_count:,} runs." if found.run_count > len(runs) else ""
    return [
        tag("h2", "Pace"),
        tag(
            "p",
            f"The busiest minute was {pieces.when(found.busiest[0])}, with "
            f"{pieces.plural(found.busiest[1], 'attempt', 'attempts')}. "
            f"A pause of {PAUSE // 60} minutes without any attempt ends a run. ",
            some,
        ),
        figure or None,
        tag("div", pieces.table(["run from (UTC)", "for", "attempts", "a second"], runs, class_="stacked")),
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
            pieces.cell_of(moment(span.start)),
            pieces.number(clock(span.seconds)),
            pieces.number(span.attempts),
            ", ".join(f"{_TROUBLES[kind]} {count:,}" for kind, count in span.kinds.most_common()),
        ]
        for span in found.troubles
    ]
    longest = found.trouble_count > len(rows)
    return [
        tag("h3", "When the vendor was busy or away"),
        tag(
            "p",
            f"{IN_A_ROW} attempts in a row, or more, as they were begun, that found it busy, could not reach it or had "
            "no usable answer, and none in between that was answered. Counted from this side: it may have been the "
            "network in between.",
            f" The longest {len(rows)} of {found.trouble_count:,}." if longest else "",
        ),
        tag("div", pieces.table(["from (UTC)", "for", "attempts", "that found"], rows, class_="stacked")),
    ]


_CURVES = (("p50", ""), ("p90", "9 4"), ("p99", "2 3"))


def latency(found: Figures, charts: Charts) -> Content:
    steps = found.steps
    if steps is None or not found.latency:
        return None
    rows: list[list[Content]] = [
        [
            pieces.service(name),
            pieces.number(p.count),
            *(pieces.number(seconds(v)) for v in (p.p50, p.p90, p.p99, p.longest)),
        ]
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
            [
                axes.step_name(steps, n),
                pieces.number(p.count),
                *(pieces.number(seconds(v)) for v in (p.p50, p.p90, p.p99)),
            ]
            for n, p in sorted(over_time.items())
        ]
        parts.append(
            pieces.figure(
                pieces.service(name),
                charts.lines(
                    f"Latency, {SERVICES.get(name, name)}",
                    text,
                    series,
                    axes.ticks(shown),
                    "time to the answer",
                    width=width,
                ),
                series,
                lines=True,
                table=pieces.table(["from (UTC)", "answers", "p50", "p90", "p99"], table),
            )
        )
    return [
        tag("h2", "Latency"),
        tag(
            "p",
            "From the start of an attempt to the end of the vendor's answer, whatever it said; attempts without any "
            "answer are not among them. Half of the answers took p50 at most, nine in ten p90, 99 in 100 p99.",
            f" The curves have a point for each {axes.length(steps)} with an answer.",
        ),
        tag("div", pieces.table(["service", "answers", "p50", "p90", "p99", "longest"], rows, class_="stacked")),
        tag("div", parts, class_="pair") if len(parts) > 1 else parts,
    ]


def repeats(found: Figures) -> Content:
    if len(found.numbers) < 2:
        return None
    rows = [
        [
            f"{number}{' and more' if number == 6 else ''}",
            pieces.number(sum(ends.values())),
            pieces.number(ends["answered"]),
            pieces.share_of(ends["answered"], sum(ends.values())),
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
        tag(
            "div",
            pieces.table(["attempt of a call", "attempts", "answered", "share"], rows),
            class_="scroll",
            tabindex="0",
        ),
    ]


def _of(percentiles: Percentiles | None, name: str) -> float | None:
    return None if percentiles is None else float(getattr(percentiles, name))


def _rate(run: Span) -> str:
    return f"{run.attempts / run.seconds:,.1f}" if run.seconds >= 1 else "-"
