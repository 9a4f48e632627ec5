"""What was answered."""

from __future__ import annotations

from aisolution_async.api import Judgment, WhatsAppState
from aisolution_async.bulk.report import pieces
from aisolution_async.bulk.report.charts import HALF, WIDE, Charts, Series, Ticks
from aisolution_async.bulk.report.figures import Figures
from aisolution_async.bulk.report.html import Content, tag
from aisolution_async.bulk.words import SERVICES

_JUDGMENTS = (
    (Judgment.NOT_SAME_PERSON, "differs", ""),
    (Judgment.NOT_SURE, "unsure", "//"),
    (Judgment.SAME_PERSON, "same", ""),
    ("another word", "free", "xx"),
)
_SCORES = [(n / 2 - 0.5, str(n)) for n in range(0, 101, 20)]


def faces(found: Figures, charts: Charts) -> Content:
    parts: list[Content] = []
    width = HALF if len(found.similarity) + bool(found.searched) > 1 else WIDE
    for endpoint, judgments in found.similarity.items():
        series = [
            Series(str(name), role, [judgments[name][low] for low in range(0, 100, 2)], mark)
            for name, role, mark in _JUDGMENTS
            if name in judgments
        ]
        total = sum(sum(counts.values()) for counts in judgments.values())
        shares = [
            f"{name} {judgments[name].total():,} ({pieces.share(judgments[name].total(), total)})" for name in judgments
        ]
        rows = [
            [f"{low} to {low + 2}", *(pieces.number(judgments[each.name][low]) for each in series)]
            for low in range(0, 100, 2)
            if any(judgments[each.name][low] for each in series)
        ]
        parts.append(
            pieces.figure(
                pieces.service(endpoint),
                charts.bars(
                    f"Similarity, {SERVICES[endpoint]}",
                    f"{total:,} comparisons by similarity and judgment: {', '.join(sorted(shares))}.",
                    series,
                    Ticks("similarity, 0 to 100", _SCORES, _SCORES),
                    "comparisons",
                    width=width,
                ),
                series,
                values=[
                    f"{judgments[each.name].total():,}, {pieces.share(judgments[each.name].total(), total)}"
                    for each in series
                ],
                table=pieces.table(["similarity", *(each.name for each in series)], rows),
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
    rows = [[f"{low} to {low + 2}", pieces.number(count)] for low, count in sorted(found.confidence.items())]
    title = SERVICES["searchface"]
    if not known:
        return tag("figure", tag("h3", title), tag("p", text))
    return pieces.figure(
        title,
        charts.bars(
            "Confidence of the best match",
            text,
            series,
            Ticks("confidence of the best match, 0 to 100", _SCORES, _SCORES),
            "searches",
            width=width,
        ),
        series,
        values=[f"{known:,}; nobody found: {found.nobody:,}"],
        table=pieces.table(["confidence", "searches"], rows),
    )


_SAID = {
    WhatsAppState.YES: "is on WhatsApp",
    WhatsAppState.NO: "is not on WhatsApp",
    WhatsAppState.CHECKING: "was still being checked: free, and worth asking again",
    WhatsAppState.UNAVAILABLE: "could not be looked up: free, and worth asking again",
    "another word": "was said something that the contract does not know",
}


def whatsapp(found: Figures, charts: Charts) -> Content:
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
            pieces.number(found.whatsapp[name]),
            pieces.share_of(found.whatsapp[name], total),
        ]
        for name in names
    ]
    for field, counts in (("a business account", found.business), ("a picture (avatar)", found.avatar)):
        if counts["yes"] or counts["no"]:
            words = [f"yes, with {field}", tag("p", "Share of the numbers on WhatsApp.", class_="said")]
            rows.append([words, pieces.number(counts["yes"]), pieces.share_of(counts["yes"], yes)])
    return [
        tag("h2", "WhatsApp"),
        tag("p", "What was said last of each number that was looked up."),
        pieces.figure(None, charts.rows("WhatsApp answers", text, names, series, "numbers"), []),
        tag("div", pieces.table(["answer", "numbers", "share"], rows)),
    ]
