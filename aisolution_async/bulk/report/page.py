"""The page: figures and charts, in the order in which somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

import aisolution_async
from aisolution_async.bulk.report import answers_part, applicants_part, failures_part, money_part, pieces, time_part
from aisolution_async.bulk.report.applicants import Applicants
from aisolution_async.bulk.report.charts import Charts
from aisolution_async.bulk.report.figures import Figures
from aisolution_async.bulk.report.html import Content, Html, stranger, tag
from aisolution_async.bulk.words import CAUSES

# Nothing is loaded and nothing runs, whatever may have got into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Report:
    """What a page is made of: attempts, rows, or both.

    `notes` say what is missing, `notice` who was asked, if not the vendor.
    """

    ledger: Figures | None = None
    applicants: Applicants | None = None
    notes: Sequence[str] = ()
    notice: str = ""

    @property
    def title(self) -> str:
        """What it is of."""
        if self.applicants is not None:
            return f"Report: {self.applicants.name}"
        return f"Ledger report: {'' if self.ledger is None else self.ledger.name}"


def page(report: Report, made_at: datetime) -> str:
    """The whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="robots", content="noindex"),
        tag("title", report.title),
        tag("style", Html((files(__package__) / "style.css").read_text("utf-8"))),
    )
    ledger, applicants = report.ledger, report.applicants
    sections: list[Content] = [_title(report, made_at)]
    if applicants is not None:
        sections += [applicants_part.top(applicants), _notice(ledger), applicants_part.sections(applicants)]
        sections.append(tag("h2", "Attempts") if ledger is not None else None)
    if ledger is not None:
        sections.append(_attempts(ledger, None if applicants is not None else _notice(ledger)))
    body = tag("body", tag("main", sections, _foot(report)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _attempts(found: Figures, notice: Content) -> Content:
    """All about the attempts of a ledger."""
    if not found.money.attempts:
        return _empty(found)
    charts = Charts()
    return [
        _top(found),
        notice,
        money_part.money(found, charts),
        answers_part.faces(found, charts),
        answers_part.whatsapp(found, charts),
        failures_part.failures(found),
        failures_part.held(found),
        time_part.pace(found, charts),
        time_part.latency(found, charts),
        time_part.repeats(found),
    ]


def _title(report: Report, made_at: datetime) -> Content:
    found, period = report.ledger, ""
    names = [each.name for each in (report.applicants, found) if each is not None]
    if found is not None and found.first and found.last:
        period = (
            f"{pieces.when(found.first)} to {pieces.when(found.last)}, "
            if found.first != found.last
            else f"{pieces.when(found.first)}, "
        )
    return [
        tag("p", tag("strong", stranger(report.notice)), class_="notice") if report.notice else None,
        tag("h1", "Report" if report.applicants is not None else "Ledger report"),
        tag(
            "p",
            [[stranger(name), ", " if number < len(names) else ": "] for number, name in enumerate(names, 1)],
            period,
            f"made {pieces.when(made_at)}. All times are UTC.",
            class_="soft",
        ),
        [tag("p", note, class_="soft small") for note in report.notes],
    ]


def _empty(found: Figures) -> Content:
    text = "No attempt is recorded in this ledger: nothing was asked, and nothing was spent."
    if found.under_way:
        text = f"{pieces.attempts_are(found.under_way)} under way, or of a process that has died. None is over yet."
    return tag("p", text)


def _top(found: Figures) -> Content:
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
        tag("dl", tiles, class_="tiles"),
        [tag("p", note, class_="soft small") for note in notes],
    ]


def _notice(found: Figures | None) -> Content:
    """What cannot wait."""
    if found is None:
        return None
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


def _foot(report: Report) -> Html:
    said, holds = ["All counts are exact."], []
    if report.ledger is not None:
        said.append(
            "Percentiles are true to 1 %. Attempts stand on the day on which they were begun, and in the charts over "
            "time where they ended."
        )
        holds.append("your keys of held calls")
    if report.applicants is not None:
        holds.append("your keys of rows")
        if report.applicants.photographed:
            holds.append("photographs of your applicants")
    said.append(f"This file holds {' and '.join(holds)}: keep it where you keep what it was made of.")
    return tag(
        "footer",
        tag("p", " ".join(said)),
        tag("p", f"aisolution-async {aisolution_async.__version__}"),
    )
