"""The cases, as data."""

from __future__ import annotations

from dataclasses import dataclass

_LATENCY = (
    "WhatsApp look-ups, 1000 at once, 50 ms of server latency: the most there can be is 20,000 calls/s (peers whose "
    "core is full at a tenth of that are left out: see whatsapp-1000)"
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, how many at once, and how often.

    `calls` of a peer, `slow_calls` of one that is slow at this. `rounds` for those that the goals are about, fewer for
    the others, `slow_rounds` for the slow; none: they are left out. `image_bytes`: of each of the two images of a face
    comparison; 0 for a WhatsApp look-up. `latency`: the server's, in seconds.
    """

    name: str
    summary: str
    at_once: int
    calls: int
    slow_calls: int
    rounds: int = 7
    slow_rounds: int = 1
    image_bytes: int = 0
    latency: float = 0.0
    tls: bool = False
    uvloop: bool = False


CASES = {
    case.name: case
    for case in (
        Case("tls", "WhatsApp look-ups over TLS, 100 at once", 100, 4000, 300, tls=True),
        Case("whatsapp-10", "WhatsApp look-ups, 10 at once", 10, 4000, 400, rounds=3),
        Case("whatsapp-100", "WhatsApp look-ups, 100 at once", 100, 4000, 300, slow_rounds=3),
        Case("whatsapp-500", "WhatsApp look-ups, 500 at once", 500, 4000, 500, rounds=3),
        Case("whatsapp-1000", "WhatsApp look-ups, 1000 at once", 1000, 5000, 1000),
        Case("faces-100k", "Face comparisons, 2 x 100 KB, 32 at once", 32, 500, 64, image_bytes=100_000),
        Case("faces-1m", "Face comparisons, 2 x 1 MB, 32 at once", 32, 128, 32, image_bytes=1_000_000),
        Case("latency", _LATENCY, 1000, 6000, 0, rounds=3, slow_rounds=0, latency=0.05),
        Case("uvloop", "WhatsApp look-ups on uvloop, 100 at once", 100, 4000, 300, uvloop=True),
    )
}
