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
        "the face. For idholding it has to show one person and the card in their hand.",
    ),
    "invalid": Cause(
        "The vendor could not read what it was sent",
        "Free. Photos: see that the file opens and is a photo. Numbers: see that it is a telephone number and "
        "that its country is right (--country).",
    ),
    "too large": Cause("The photo is too large", "Free. Make it smaller than 2 MB and send it again."),
    "failed": Cause(
        "The vendor could not work on it",
        "Free. searchface: the photo does not pass as one of a live person, so take another one. gliswadetail: "
        "check the number. addface: run it again.",
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

BY_ERROR = {
    "InputError": "Free: nothing was sent. Mend the cell, or take the row out, and run the list again.",
    "InvalidRequestError": CAUSES["invalid"].remedy,
    "ImageTooLargeError": CAUSES["too large"].remedy,
    "FaceNotFoundError": CAUSES["no face"].remedy,
    "PersonNotFoundError": CAUSES["no person"].remedy,
    "ServiceFailedError": CAUSES["failed"].remedy,
    "RetryLaterError": CAUSES["busy"].remedy,
    "UnknownStatusError": CAUSES["undocumented"].remedy,
    "RefusedError": CAUSES["refused"].remedy,
    "OutcomeUnknownError": CAUSES["lost"].remedy,
    "NotSentError": CAUSES["not sent"].remedy,
    "BudgetExhaustedError": "Free: nothing was sent. Run the list again with a larger --max-charges or --max-cost.",
    "LedgerError": "See that the ledger's disk has room and can be written; then run the list again.",
}
"""What to do about a call that failed, by the name of its error."""

_HELD = re.compile(r"\bheld: ")
_OF_ONE_ROW = re.compile(r"""('[^']*'|"[^"]*")|\b(?:line|row) \d+(?:: )?""")
_OF_ONE_FILE = re.compile(r"[./\\\d]")


def is_held(problem: str) -> bool:
    """Whether a problem, as its column says it, is that the call is held."""
    return _HELD.search(problem) is not None


def kind_of(problem: str) -> str:
    """A problem without what is another in each row: the row's place, a file's name, a number."""

    def alike(found: re.Match[str]) -> str:
        if found[1] is None:
            return ""
        return "…" if _OF_ONE_FILE.search(found[1]) else found[1]

    return _OF_ONE_ROW.sub(alike, problem)
