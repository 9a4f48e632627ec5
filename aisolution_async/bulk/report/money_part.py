"""What attempts cost."""

from __future__ import annotations

from aisolution_async.bulk.report import axes, pieces
from aisolution_async.bulk.report.charts import Charts, Series, Ticks
from aisolution_async.bulk.report.figures import Figures, Money, moment
from aisolution_async.bulk.report.html import Content, tag
from aisolution_async.bulk.words import SERVICES

_UNITS = {"day": "day", "week": "week, from its Monday", "month": "month", "year": "year"}


def money(found: Figures, charts: Charts) -> Content:
    money = found.money
    paid = bool(money.cost or money.at_risk)
    names = [*found.by_endpoint]
    series = [
        Series(name, role, [getattr(found.by_endpoint[n], name) for n in names], mark)
        for name, role, mark in pieces.STATES
    ]
    text = "; ".join(
        f"{SERVICES.get(name, name)}: {m.charged:,} charged, {m.free:,} free, {m.unknown:,} unknown"
        for name, m in found.by_endpoint.items()
    )
    by_endpoint = pieces.figure(
        "Attempts by service",
        charts.rows(
            "Attempts by service and charge", text, [SERVICES.get(name, name) for name in names], series, "attempts"
        ),
        series,
    )
    head = ["service", "charged", "free", "unknown", *(["cost", "at risk"] if paid else [])]
    rows = [[pieces.service(name), *_counts(found, m, paid=paid)] for name, m in found.by_endpoint.items()]
    rows.append([tag("strong", "all"), *_counts(found, money, paid=paid)])
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
        tag("div", pieces.table(head, rows, class_="stacked")),
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
    days = axes.all_periods(min(sums), max(sums), unit)
    dates = [moment(day * pieces.DAY) for day in days]
    form = {"day": "%d %b", "week": "%d %b", "month": "%b %Y", "year": "%Y"}[unit]
    labels = [axes.trimmed(date.strftime(form)) for date in dates]
    nothing = Money()
    series = [
        Series(name, role, [getattr(sums.get(day, nothing), name) for day in days], mark)
        for name, role, mark in pieces.STATES
    ]
    most = max(sums, key=lambda day: sums[day].attempts)
    text = (
        f"{len(days)} {unit}s from {dates[0]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}. "
        f"Most attempts, {sums[most].attempts:,}, on {moment(most * pieces.DAY):%Y-%m-%d}."
    )
    x = Ticks(f"{_UNITS[unit]} (UTC), {axes.years(dates)}", axes.spread(labels, 10), axes.spread(labels, 4))
    rows = [
        [f"{moment(day * pieces.DAY):%Y-%m-%d}", pieces.service(name), *_counts(found, m, paid=paid)]
        for day, by_endpoint in found.by_day.items()
        for name, m in by_endpoint.items()
    ]
    head = [unit, "service", "charged", "free", "unknown", *(["cost", "at risk"] if paid else [])]
    return pieces.figure(
        f"Attempts by {unit}",
        charts.bars(f"Attempts by {unit} and charge", text, series, x, "attempts"),
        series,
        table=pieces.table(head, rows),
    )


def _counts(found: Figures, money: Money, *, paid: bool) -> list[Content]:
    counts: list[Content] = [pieces.number(money.charged), pieces.number(money.free), pieces.number(money.unknown)]
    return (
        [*counts, pieces.number(found.amount(money.cost)), pieces.number(found.amount(money.at_risk))]
        if paid
        else counts
    )
