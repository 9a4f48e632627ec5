"""Why attempts brought no answer, and the calls that are held."""

from __future__ import annotations

from aisolution_async.bulk import shell
from aisolution_async.bulk.report import pieces
from aisolution_async.bulk.report.figures import MOST_HELD, Figures
from aisolution_async.bulk.report.html import Content, stranger, tag
from aisolution_async.bulk.words import CAUSES, remedy_of


def failures(found: Figures) -> Content:
    if not found.failures:
        return [tag("h2", "Failures"), tag("p", "No attempt failed.")]
    rows: list[list[Content]] = []
    for failure in found.failures:
        cause = CAUSES[failure.cause]
        where = [[pieces.service(name), f" {count:,}, "] for name, count in failure.by_endpoint.most_common()]
        where[-1][1] = where[-1][1].removesuffix(", ")
        said = "; ".join(failure.said)
        rows.append(
            [
                [
                    cause.what,
                    tag("p", remedy_of(failure.cause, *failure.by_endpoint), class_="remedy"),
                    tag("p", where, [" · ", stranger(said)] if said else None, class_="said"),
                ],
                pieces.number(failure.attempts),
                pieces.number(failure.open if failure.tied else "not known"),
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
        tag(
            "div",
            pieces.table(["cause and remedy", "attempts", "calls without an answer"], rows, class_="causes stacked"),
        ),
    ]


def held(found: Figures) -> Content:
    if not found.held_count:
        return None
    paid = any(held.price for held in found.held)
    ledger = shell.shown(f"./{found.name}" if found.name.startswith("-") else found.name)
    rows = [
        [
            tag("span", "no key", class_="soft") if held.key is None else stranger(held.key),
            pieces.service(held.endpoint),
            pieces.cell_of(held.started_at) if held.started_at else "not known",
            [
                "charged, answer lost" if held.state == "charged" else "unknown",
                [": ", stranger(held.problem)] if held.problem else None,
            ],
            pieces.number(str(held.id)),
            *([pieces.number(found.amount(held.price))] if paid else []),
        ]
        for held in found.held
    ]
    head = ["key", "service", "sent (UTC)", "what is known", "attempt", *(["price"] if paid else [])]
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
        tag("div", pieces.table(head, rows, class_="stacked")),
        tag("p", more, class_="soft small") if found.held_count > len(found.held) else None,
    ]
