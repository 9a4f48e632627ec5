"""The page: figures and charts, in the order in which somebody asks for them."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files

import aisolution_async
from aisolution_async.bulk.report import answers_part, failures_part, money_part, pieces, time_part
from aisolution_async.bulk.report.charts import Charts
from aisolution_async.bulk.report.figures import Figures
from aisolution_async.bulk.report.html import Content, Html, stranger, tag
from aisolution_async.bulk.report.words import CAUSES

# Nothing is loaded and nothing runs, whatever may have got into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


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
    sections = (
        [_top(found, made_at), money_part.money(found, charts)] if found.money.attempts else [_empty(found, made_at)]
    )
    if found.money.attempts:
        sections += [
            answers_part.faces(found, charts),
            answers_part.whatsapp(found, charts),
            failures_part.failures(found),
            failures_part.held(found),
            time_part.pace(found, charts),
            time_part.latency(found, charts),
            time_part.repeats(found),
        ]
    body = tag("body", tag("main", sections, _foot()))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _title(found: Figures, made_at: datetime) -> Content:
    period = ""
    if found.first and found.last:
        period = (
            f"{pieces.when(found.first)} to {pieces.when(found.last)}, "
            if found.first != found.last
            else f"{pieces.when(found.first)}, "
        )
    return [
        tag("h1", "Ledger report"),
        tag("p", stranger(found.name), ": ", period, f"made {pieces.when(made_at)}. All times are UTC.", class_="soft"),
    ]


def _empty(found: Figures, made_at: datetime) -> Content:
    text = "No attempt is recorded in this ledger: nothing was asked, and nothing was spent."
    if found.under_way:
        text = f"{pieces.attempts_are(found.under_way)} under way, or of a process that has died. None is over yet."
    return [_title(found, made_at), tag("p", text)]


def _top(found: Figures, made_at: datetime) -> Content:
    money = found.money
    repeats = sum(sum(ends.values()) for number, ends in found.numbers.items() if number > 1)
    paid = bool(money.cost or money.at_risk or found.under_way_price)
    tiles = [
        pieces.tile(
            "Attempts", money.attempts, f"{repeats:,} of them repeats" if repeats else "requests to the vendor"
        ),
        pieces.tile("Answered", found.answered, f"{pieces.share(found.answered, money.attempts)} of the attempts"),
        pieces.tile("Charged", money.charged, f"cost {found.amount(money.cost)}" if paid else "attempts", "charged"),
        pieces.tile("Free", money.free, f"{money.not_sent:,} never left" if money.not_sent else "attempts", "free"),
        pieces.tile(
            "Unknown",
            money.unknown,
            f"may cost {found.amount(money.at_risk)}" if paid else "may have been charged",
            "unknown",
        ),
        pieces.tile("Held calls", found.held_count, f"{found.unsettled:,} to settle", "held"),
    ]
    notes = []
    if money.unpriced and paid:
        notes.append(
            f"{pieces.attempts_are(money.unpriced)} charged without a recorded price: the cost is that of the others."
        )
    if found.under_way:
        price = f", and may cost {found.amount(found.under_way_price)}" if found.under_way_price else ""
        notes.append(
            f"{pieces.attempts_are(found.under_way)} under way, wait for a callback, or are of a process that has died"
            f"{price}: the next run finds out. They are not counted here."
        )
    if found.emptied:
        notes.append(
            f"{pieces.attempts_are(found.emptied)} answered and purged since: what was answered is gone, "
            "and only the counts are left."
        )
    if found.strange_times:
        notes.append(
            f"{pieces.attempts_are(found.strange_times)} recorded with a time that cannot be: counted, but in no "
            "chart over time."
        )
    return [
        _title(found, made_at),
        tag("dl", tiles, class_="tiles"),
        [tag("p", note, class_="soft small") for note in notes],
        _notice(found),
    ]


def _notice(found: Figures) -> Content:
    """What cannot wait."""
    said = []
    if found.held_count:
        said.append(
            tag(
                "p",
                tag("strong", f"{pieces.plural(found.held_count, 'call is', 'calls are')} held"),
                ", and not sent again unasked. ",
                f"Of {found.unsettled:,} nobody knows whether it was charged: settle them with the invoice. "
                if found.unsettled
                else None,
                tag("a", "See the held calls", href="#held"),
                ".",
            )
        )
    said += [
        tag(
            "p",
            tag("strong", f"{pieces.attempts_are(failure.attempts)} refused for the token. "),
            CAUSES["token"].remedy,
        )
        for failure in found.failures
        if failure.cause == "token"
    ]
    return tag("div", said, class_="notice") if said else None


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
