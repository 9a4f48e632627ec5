"""What the sandbox would have charged, as a vendor counts it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from aisolution_async.charges import Charge, Tally

_MOST_ENTRIES = 10_000


@dataclass(slots=True)
class Entry:
    """One line of the bill: a request that was answered, or the answer that a callback brought.

    `at` is in seconds on the sandbox's clock. `status` is the vendor's word, None where it was a plain HTTP answer
    (`http_status`), where a callback brought it, or where the vendor never came to answer. `fault` is the kind of what
    was done to it. `delivered` is whether it went out whole and as the vendor meant it: the client may still have been
    gone.
    """

    at: float
    endpoint: str
    by: Literal["request", "callback"]
    charge: Charge
    status: str | None = None
    http_status: int | None = None
    fault: str | None = None
    delivered: bool = False


class Bill(Tally):
    """A tally of all that the vendor answered, delivered or not: that is what a vendor's invoice says.

    A request counts once the vendor has made up its mind, also where the client was gone by then, or where a fault kept
    the answer from it. An answer by callback is two entries: "checking", free, for the request, and its charge for the
    callback, once for each request, however often (or vainly) the address is called. A number that is never called back
    costs nothing. Requests that a fault kept from the vendor are counted as free, other than `reset-before`, of which
    nothing is known.
    """

    __slots__ = ("by_callback", "delivered", "entries")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin again with nothing on it."""
        super().__init__()
        self.delivered = Tally()
        """The part of it that went out whole: what a client can know of."""
        self.by_callback = Tally()
        """The part of it that callbacks brought."""
        self.entries: deque[Entry] = deque(maxlen=_MOST_ENTRIES)
        """The latest 10,000 lines, oldest first."""

    def enter(self, entry: Entry) -> Entry:
        """Put a line on it."""
        self.add(entry.endpoint, entry.charge)
        if entry.by == "callback":
            self.by_callback.add(entry.endpoint, entry.charge)
        self.entries.append(entry)
        return entry

    def deliver(self, entry: Entry) -> None:
        """Note that what the line is about went out whole."""
        if not entry.delivered:
            entry.delivered = True
            self.delivered.add(entry.endpoint, entry.charge)
