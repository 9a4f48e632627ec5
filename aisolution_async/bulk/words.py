"""What services are called, why there is no answer, and what to do about it, in words for those who keep the list."""

from __future__ import annotations

import re
from typing import NamedTuple

SERVICES = {
    "facecompare": "Face comparison",
    "idholding": "Person holding ID card",
    "addface": "Add face",
    "searchface": "Face search",
    "delface": "Delete face",
    "gliswadetail": "WhatsApp detail",
    "facecompare or idholding": "Faces compared",
}
"""What people call an endpoint, by the vendor's names."""


class Cause(NamedTuple):
    """`what` happened, and the `remedy`."""

    what: str
    remedy: str


_SETTLE = (
    "It may have been charged: look it up in the invoice and settle it with aisolution ledger resolve, "
    "or have all that is held sent again with --retry-unknown 1."
)

CAUSES = {
    "busy": Cause(
        "The vendor was busy",
        "Free, and repeated without asking. Calls that are still without an answer: run the list again, later "
        "or with a smaller --concurrency.",
    ),
    "no face": Cause(
        "No face on the photo, or not the one that is needed",
        "Free. The same photo fails again: ask for another one, from the front, in good light, nothing before "
        "the face.",
    ),
    "invalid": Cause(
        "The vendor could not read what it was sent",
        "Free. The same would fail again: mend what was sent.",
    ),
    "too large": Cause("The photo is too large", "Free. Make it smaller than 2 MB and send it again."),
    "failed": Cause(
        "The vendor could not work on it",
        "Free. Where it fails again, what was sent is to be mended.",
    ),
    "no person": Cause(
        "There is no such person",
        "Free. The person was deleted already, and nothing is left to do, or was never added: check the person_id.",
    ),
    "undocumented": Cause(
        "A status that the vendor does not document",
        "Ask the vendor what it means and whether it is charged. " + _SETTLE,
    ),
    "token": Cause(
        "The vendor refused the token",
        "Free. Check the token (AISOLUTION_TOKEN or --token-file), and that the account is active; then run "
        "the list again.",
    ),
    "refused": Cause(
        "The request was refused before the vendor's service saw it",
        "Free. Check the base URL, and what stands between: a proxy, a gateway, a firewall.",
    ),
    "unreachable": Cause(
        "No connection to the vendor",
        "Free: nothing was sent. Check network, DNS, proxy and firewall, then run the list again.",
    ),
    "late": Cause(
        "No time was left to send it",
        "Free: nothing was sent. Allow a longer deadline or more connections, or a smaller --concurrency, "
        "and run the list again.",
    ),
    "cancelled": Cause("Cancelled before it was sent", "Free: nothing was sent. Run the list again."),
    "not sent": Cause("It did not leave this machine", "Free: nothing was sent. Run the list again."),
    "unfit": Cause(
        "Answered OK, but not as the contract has it",
        "It was probably charged. What the vendor said is kept in the ledger: show it to the vendor. " + _SETTLE,
    ),
    "unreadable": Cause("An error page in place of an answer", _SETTLE),
    "lost": Cause(
        "Sent, and no answer came",
        _SETTLE + " Where it happens often, allow a longer timeout or a smaller --concurrency.",
    ),
    "ended": Cause(
        "The program ended before the answer",
        _SETTLE + " The first Ctrl-C waits for the answers under way: give it the time.",
    ),
}
"""By the names that `figures` has for them."""


_A_PHOTO = "See that the file opens and is a photo."
_OF_SERVICES = {
    ("no face", "idholding"): "It has to show one person and the card in their hand.",
    ("invalid", "gliswadetail"): "See that it is a telephone number and that its country is right (--country).",
    **{("invalid", name): _A_PHOTO for name in ("facecompare", "idholding", "addface", "searchface")},
    ("failed", "gliswadetail"): "Check the number.",
    ("failed", "searchface"): "The photo does not pass as one of a live person, so take another one.",
    ("failed", "addface"): "Run it again.",
}
"""What is to be done besides, by cause and endpoint."""


def remedy_of(cause: str, *endpoints: str) -> str:
    """What to do about a cause, at these endpoints; where there are several, each is named."""
    more = [(name, _OF_SERVICES[cause, name]) for name in endpoints if (cause, name) in _OF_SERVICES]
    own = [said if len(endpoints) == 1 else f"{SERVICES[name]}: {said[0].lower()}{said[1:]}" for name, said in more]
    return " ".join([CAUSES[cause].remedy, *own])


ANSWERED, CHECKING, HELD, PROBLEM = "answered", "checking", "held", "problem"
"""What came of a row, or of one of its calls."""

STATES = {
    ANSWERED: "",
    CHECKING: "The vendor is still checking, or was not available: free. Run the list again later.",
    HELD: "May have been charged, and has no answer: look it up in the invoice and settle it with aisolution ledger "
    "resolve, or have all that is held sent again with --retry-unknown 1.",
    PROBLEM: "Mend the rows, and run the list again: each row says what is wrong.",
}
"""What to do about rows in each state."""

_CAUSE_OF = {
    "InvalidRequestError": "invalid",
    "ImageTooLargeError": "too large",
    "FaceNotFoundError": "no face",
    "PersonNotFoundError": "no person",
    "ServiceFailedError": "failed",
    "RetryLaterError": "busy",
    "UnknownStatusError": "undocumented",
    "RefusedError": "refused",
    "OutcomeUnknownError": "lost",
    "NotSentError": "not sent",
}
_BY_ERROR = {
    "InputError": "Free: nothing was sent. Mend the cell, or delete the row in the list, and run the list again.",
    "BudgetExhaustedError": "Free: nothing was sent. Run the list again with a larger --max-charges or --max-cost.",
    "LedgerError": "See that the ledger's disk has room and can be written; then run the list again.",
}


def remedy_for(error: str, endpoint: str) -> str:
    """What to do about a call that failed, by the name of its error; nothing where nobody knows."""
    cause = _CAUSE_OF.get(error)
    return _BY_ERROR.get(error, "") if cause is None else remedy_of(cause, endpoint)


_HELD = re.compile(r"\bheld: ")
_IN_THE_LIST = re.compile(r"((?:line|row) (\d+)): ")
_OF_ONE_ROW = re.compile(r"""('[^']*'|"[^"]*")|\b(?:line|row) \d+(?:: )?""")
_NEXT_COLUMN = re.compile(r"; (?=column ['\"])")
_OF_ONE_FILE = re.compile(r"[./\\\d]")


def is_held(problem: str) -> bool:
    """Whether a problem, as its column says it, is that the call is held."""
    return _HELD.search(problem) is not None


def place_of(problem: str, number: int) -> str | None:
    """Where the list has the row `number` of the results, as its problem says; None where that is the same number.

    Titles above the list's columns, and cells of several lines, make it another.
    """
    found = _IN_THE_LIST.match(problem)
    return None if found is None or int(found[2]) == number else f"{found[1]} of the list"


def kinds_of(problem: str) -> list[str]:
    """The kinds of a problem, for people: one for each column that it speaks of, and services by their own names."""
    return list(dict.fromkeys(_by_service(kind_of(each)) for each in _NEXT_COLUMN.split(problem)))


def _by_service(kind: str) -> str:
    name, colon, rest = kind.partition(": ")
    return f"{SERVICES[name]}: {rest}" if colon and name in SERVICES else kind


def kind_of(problem: str) -> str:
    """A problem without what is another in each row: the row's place, a file's name, a number."""

    def alike(found: re.Match[str]) -> str:
        if found[1] is None:
            return ""
        return "…" if _OF_ONE_FILE.search(found[1]) else found[1]

    return _OF_ONE_ROW.sub(alike, problem)
