"""What came of the applicants: every row once, what to do about those without an answer, and whom to look at."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from aisolution_async.bulk import words
from aisolution_async.bulk.report import pieces
from aisolution_async.bulk.report.applicants import (
    MOST_LISTED,
    MOST_PROBLEMS,
    TORN,
    TOTALS,
    Applicants,
    Photograph,
    RowName,
    ToJudge,
)
from aisolution_async.bulk.report.html import Content, Html, stranger, tag
from aisolution_async.bulk.report.thumbnails import MOST_ROWS
from aisolution_async.charges import Charge

_TILES = (
    ("Answered", words.ANSWERED, "same"),
    ("Checking", words.CHECKING, "unsure"),
    ("Held", words.HELD, "held"),
    ("Problems", words.PROBLEM, "differs"),
)


def top(found: Applicants) -> Content:
    """How many there are of each kind."""
    states, rows = found.states, found.rows
    tiles = [
        pieces.tile(name, states[state], f"{pieces.share(states[state], rows)} of the rows", f"state {role}")
        for name, state, role in _TILES
    ]
    sums = (
        f"{pieces.plural(rows, 'row', 'rows')} = {states[words.ANSWERED]:,} answered + {states[words.CHECKING]:,} "
        f"still being checked + {states[words.HELD]:,} held + {states[words.PROBLEM]:,} with a problem."
    )
    notes = list(found.notes)
    if found.is_part:
        notes.append("The run is not over, or was stopped: these are its rows so far. Run the same command to go on.")
    if totals := found.left_out[TOTALS]:
        notes.append(
            f"{pieces.plural(totals, 'row is a total', 'rows are totals')} or below one: nothing was asked of "
            f"{'it' if totals == 1 else 'them'}, and no count has {'it' if totals == 1 else 'them'}."
        )
    if torn := found.left_out[TORN]:
        notes.append(f"{pieces.plural(torn, 'line', 'lines')} could not be read, and stand in no count.")
    return [
        tag("dl", tiles, class_="tiles four"),
        tag("p", sums),
        [tag("p", note, class_="soft small") for note in notes],
    ]


def sections(found: Applicants) -> Content:
    """All about the rows."""
    return [_services(found), _problems(found), _waiting(found), _judging(found)]


def _services(found: Applicants) -> Content:
    paid = bool(found.prices)
    head = ["service", "answered", "checking", "held", "problems", "charged", "free", "unknown"]
    rows: list[list[Content]] = []
    for name, service in found.services.items():
        verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in service.verdicts.most_common(6))
        price = found.prices.get(name)
        counts = [service.states[state] for _, state, _ in _TILES] + [service.charges[charge] for charge in Charge]
        rows.append(
            [
                [pieces.service(name), tag("p", stranger(verdicts), class_="said") if verdicts else None],
                *map(pieces.number, counts),
            ]
        )
        if paid:
            cost = "not known" if price is None else found.amount(price * service.charges[Charge.CHARGED])
            rows[-1].append(pieces.number(cost))
    if not rows:
        return None
    text = "Charges are those of these rows. A row that asks the same as an earlier one has its answer for free."
    table = pieces.table([*head, *(["cost"] if paid else [])], rows, class_="stacked")
    return [tag("h2", "By service"), tag("p", text), tag("div", table)]


def _problems(found: Applicants) -> Content:
    if not found.problems:
        return [tag("h2", "Problems"), tag("p", "No row has a problem.")]
    rows: list[list[Content]] = []
    for problem in found.problems:
        more = problem.count - len(problem.rows)
        names: list[Content] = [_named(row) for row in problem.rows]
        named = [[name, ", " if number < len(names) else None] for number, name in enumerate(names, 1)]
        also = f" and {more:,} more" if more else None
        rows.append(
            [
                [
                    stranger(problem.said),
                    tag("p", problem.remedy, class_="remedy") if problem.remedy else None,
                    tag("p", named, also, class_="said"),
                ],
                pieces.number(problem.count),
            ]
        )
    others = (
        f"{pieces.plural(found.others, 'more has', 'more have')} other problems than these {MOST_PROBLEMS}: "
        "see the problem column."
    )
    return [
        tag("h2", "Problems by kind, and what to do"),
        tag(
            "p",
            "In the words of the problem column; a row is the one that a spreadsheet counts in the results, with your "
            "key behind it. A row may have more than one.",
        ),
        tag("div", pieces.table(["problem and remedy", "calls"], rows, class_="causes stacked")),
        tag("p", others, class_="soft small") if found.others else None,
    ]


def _waiting(found: Applicants) -> Content:
    parts: list[Content] = []
    titles = ((words.CHECKING, "Still being checked", found.checking), (words.HELD, "Held", found.held))
    for state, title, rows in titles:
        if count := found.states[state]:
            parts += [
                tag("h2", f"{title}: {count:,}"),
                tag("p", words.STATES[state]),
                _listed([_named(row) for row in rows], count),
            ]
    return parts


def _judging(found: Applicants) -> Content:
    if not found.judged:
        return None
    total = found.judged.total()
    parts: list[Content] = [tag("h2", f"For a person to judge: {total:,}")]
    if found.photographs:
        count = found.photographed
        without = len(found.photographs) - count
        parts.append(
            tag(
                "p",
                f"With the photographs of {pieces.plural(count, 'row', 'rows')}"
                + (f", of {MOST_ROWS} at most" if total > len(found.photographs) else "")
                + (": small, and without metadata." if count else ".")
                + (f" Of {pieces.plural(without, 'row', 'rows')} none can be shown: each says why." if without else ""),
            )
        )
    for judgment, rows in sorted(found.to_judge.items(), key=lambda each: each[0] != "NOT SURE"):
        count = found.judged[judgment]
        shown = [row for row in rows if (row.row.number, row.endpoint) in found.photographs]
        cards = [_card(row, found.photographs[row.row.number, row.endpoint]) for row in shown]
        others = [row for row in rows if row not in shown]
        lines: list[list[Content]] = [
            [
                _named(row.row),
                pieces.service(row.endpoint),
                pieces.number("not said" if row.similarity is None else f"{row.similarity:.1f}"),
            ]
            for row in others
        ]
        parts += [
            tag("h3", f"{judgment}: {count:,}"),
            tag("div", cards, class_="cards") if cards else None,
            tag("div", pieces.table(["row", "service", "similarity"], lines, class_="stacked")) if lines else None,
            tag("p", f"The first {MOST_LISTED} of {count:,}.", class_="soft small") if count > len(rows) else None,
        ]
    return parts


def _card(row: ToJudge, photographs: Sequence[Photograph]) -> Html:
    score = "" if row.similarity is None else f" · similarity {row.similarity:.1f}"
    inside = [_picture(photograph, row) for photograph in photographs]
    return tag(
        "div",
        tag("div", inside, class_="photos"),
        tag("p", _named(row.row), score, class_="small"),
        class_="photographed",
    )


def _picture(photograph: Photograph, row: ToJudge) -> Html:
    if photograph.jpeg is None:
        return tag("p", stranger(photograph.problem), class_="soft small")
    data = base64.b64encode(photograph.jpeg).decode()
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=f"{photograph.name} of row {row.row.number}")


def _named(row: RowName) -> Html:
    key = None if row.key is None else [" ", stranger(row.key)]
    place = None if row.place is None else f" ({row.place})"
    shard = None if row.shard is None else f"{row.shard}, "
    return tag("span", shard, f"row {row.number:,}", place, key, class_="row")


def _listed(names: Sequence[Html], count: int) -> Content:
    more = f" The first {len(names)} of {count:,}." if count > len(names) else None
    return tag("p", [[name, ", " if number < len(names) else "."] for number, name in enumerate(names, 1)], more)
