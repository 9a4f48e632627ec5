"""`Adaptive()` beside fixed concurrencies, against a vendor whose strength changes; drawn as an SVG.

The vendor is a transport of httpx's kind in this process, on an event loop whose time jumps from timer to timer: half a
minute passes in seconds, and the drawing is the same each time.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from aisolution_async import Adaptive, AsyncClient, WhatsAppDetail
from aisolution_async.integrations.instant import InstantLoop
from benchmarks.table import print_table

SUMMARY = "Adaptive() beside 10 and 100 at once: a vendor that answers 300 calls/s, then 150, then 300 again"
_DRAWING = Path(__file__).with_name("adaptive.svg")

SECONDS = 30.0
STEP = 1.0  # seconds that a point of the curves stands for
LATENCY = 0.05  # of an answer; the vendor says RETRY_LATER in a tenth of that

_CAPACITY = ((10.0, 300.0), (20.0, 150.0), (float("inf"), 300.0))  # until when, how many a second


@dataclass(frozen=True, slots=True)
class Curve:
    """A concurrency, and how it is drawn."""

    name: str
    concurrency: int | Adaptive
    look: str


CURVES = (Curve("Adaptive()", Adaptive(), "a"), Curve("100 at once", 100, "b"), Curve("10 at once", 10, "c"))

_OK = b'{"status":"OK","message":{"whatsapp":"yes"}}'
_REJECTED = b'{"status":"RETRY_LATER","message":"too many"}'


def capacity(second: float) -> float:
    """What the vendor can answer a second, then."""
    return next(rate for until, rate in _CAPACITY if second < until)


def elapsed() -> float:
    """Seconds on the loop since it was made: only waiting takes time there, and none of ours."""
    return asyncio.get_running_loop().time() - _START


_START = 1000.0  # where an InstantLoop begins


class Vendor(httpx.AsyncBaseTransport):
    """Answers as many calls a second as it can, a tenth of a second's worth at once, and rejects the others."""

    def __init__(self, capacity: Callable[[float], float] = capacity, seconds: float = SECONDS) -> None:
        self.answered = [0] * int(seconds / STEP)
        self.rejected = [0] * int(seconds / STEP)
        self._capacity = capacity
        self._tokens = capacity(0) / 10
        self._filled_at = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002  # the interface
        now = elapsed()
        rate = self._capacity(now)
        self._tokens = min(rate / 10, self._tokens + rate * (now - self._filled_at))
        self._filled_at = now
        counts = self.answered if self._tokens >= 1 else self.rejected
        if now < len(counts) * STEP:
            counts[int(now / STEP)] += 1
        if counts is self.rejected:
            await asyncio.sleep(LATENCY / 10)
            return httpx.Response(200, content=_REJECTED)
        self._tokens -= 1
        await asyncio.sleep(LATENCY)
        return httpx.Response(200, content=_OK)


async def ask(
    concurrency: int | Adaptive, seconds: float, *, vendor: Vendor | None = None, first: int = 81_200_000_000
) -> Vendor:
    """So many seconds of look-ups."""
    vendor = vendor or Vendor()
    calls = (WhatsAppDetail(f"+62{number}") for number in itertools.count(first))
    async with (
        AsyncClient("benchmark", base_url="https://vendor.example", transport=vendor) as client,
        client.batch(calls, concurrency=concurrency, drain_timeout=0.1) as batch,
    ):
        async for _ in batch:
            if elapsed() >= seconds:
                break
    return vendor


def together(workers: int, rate: float, seconds: float) -> tuple[float, float]:
    """Workers of one vendor, who know nothing of each other: what part of `rate` is answered, and of all rejected.

    Both after five seconds, in which each finds its height.
    """

    async def work() -> Vendor:
        vendor = Vendor(lambda _: rate, seconds)
        firsts = (81_200_000_000 + number * 10**8 for number in range(workers))
        await asyncio.gather(*(ask(Adaptive(), seconds, vendor=vendor, first=first) for first in firsts))
        return vendor

    random.seed(1)  # of the waits before repeats
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        vendor = runner.run(work())
    after = min(5, len(vendor.answered) - 1)
    answered, rejected = sum(vendor.answered[after:]), sum(vendor.rejected[after:])
    return answered / (rate * (len(vendor.answered) - after) * STEP), rejected / (answered + rejected)


def main(path: Path | None, *, quick: bool) -> None:
    """Print what came of each concurrency, and draw it to `path`; a quick run draws only where it is told to."""
    seconds = 4.0 if quick else SECONDS
    vendors = {}
    for curve in CURVES:
        random.seed(1)  # of the waits before repeats
        with asyncio.Runner(loop_factory=InstantLoop) as runner:
            vendors[curve.name] = runner.run(ask(curve.concurrency, seconds))
    possible = sum(capacity(STEP * number) * STEP for number in range(int(seconds / STEP)))
    rows = [("concurrency", "answered", "of what could be", "rejected", "of all attempts")]
    for name, vendor in vendors.items():
        answered, rejected = sum(vendor.answered), sum(vendor.rejected)
        parts = (f"{100 * answered / possible:.0f} %", f"{100 * rejected / (answered + rejected):.1f} %")
        rows.append((name, f"{answered:,}", parts[0], f"{rejected:,}", parts[1]))
    print(f"\n### adaptive: {SUMMARY}\n")
    print_table(rows)
    if path is None and not quick:
        path = _DRAWING
    if path is not None:
        path.write_text(draw(vendors, seconds))


# -------------------------------------------------------------------------------------------------------- drawing

_WIDTH, _LEFT, _RIGHT = 760, 64, 20
_TOP_PANEL, _BOTTOM_PANEL = (88, 200), (336, 120)  # where they start, and how high they are
_MOST_ANSWERED, _MOST_REJECTED = 400, 300  # a second, at their top

_STYLE = """
  .ground{fill:#fff} text{fill:#1f2328;font:13px system-ui,sans-serif} .title{font-size:15px;font-weight:600}
  .grid{stroke:#d1d9e0} .axis{stroke:#59636e} .possible{fill:#eaeef2} .line{fill:none;stroke-width:2}
  .a{stroke:#0969da} .b{stroke:#bc4c00;stroke-dasharray:6 3} .c{stroke:#8250df;stroke-dasharray:2 3}
  @media (prefers-color-scheme:dark){
    .ground{fill:#0d1117} text{fill:#f0f6fc} .grid{stroke:#3d444d} .axis{stroke:#9198a1} .possible{fill:#262c36}
    .a{stroke:#58a6ff} .b{stroke:#f0883e} .c{stroke:#bc8cff}
  }"""


def draw(vendors: dict[str, Vendor], seconds: float) -> str:
    """The curves as an SVG that is readable on light and on dark ground."""
    height = sum(_BOTTOM_PANEL) + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{SUMMARY}</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_LEFT}" y="24">A vendor that answers 300 calls/s, then 150, then 300 again</text>',
        *_legend(),
        _possible(seconds),
        *_panel(_TOP_PANEL, "answered a second", _MOST_ANSWERED, 100, seconds),
        *_panel(_BOTTOM_PANEL, "rejected a second (RETRY_LATER)", _MOST_REJECTED, 100, seconds, numbered=True),
    ]
    for curve in reversed(CURVES):  # the first on top
        vendor = vendors[curve.name]
        parts.append(_line(curve.look, vendor.answered, _TOP_PANEL, _MOST_ANSWERED, seconds))
        parts.append(_line(curve.look, vendor.rejected, _BOTTOM_PANEL, _MOST_REJECTED, seconds))
    parts.append(f'<text x="{_WIDTH / 2}" y="{height - 12}" text-anchor="middle">seconds</text>')
    return "\n".join([*parts, "</svg>\n"])


def _x(second: float, seconds: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * second / seconds, 1)


def _y(value: float, panel: tuple[int, int], most: float) -> float:
    start, height = panel
    return round(start + height * (1 - min(value, most) / most), 1)


def _legend() -> Iterator[str]:
    x = float(_LEFT)
    for curve in CURVES:
        yield f'<path class="line {curve.look}" d="M{x:.0f} 42h28"/><text x="{x + 34:.0f}" y="46">{curve.name}</text>'
        x += 70 + 7 * len(curve.name)
    yield f'<rect class="possible" x="{x:.0f}" y="35" width="28" height="14"/>'
    yield f'<text x="{x + 34:.0f}" y="46">all that the vendor can answer</text>'


def _panel(
    panel: tuple[int, int], title: str, most: int, step: int, seconds: float, *, numbered: bool = False
) -> Iterator[str]:
    start, height = panel
    for value in range(0, most + 1, step):
        y = _y(value, panel, most)
        look = "grid" if value else "axis"
        yield f'<path class="{look}" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
    yield f'<path class="axis" d="M{_LEFT} {start}V{start + height}"/>'
    yield f'<text x="{_LEFT}" y="{start - 8}">{title}</text>'
    for second in range(0, int(seconds) + 1, 5):
        x = _x(second, seconds)
        yield f'<path class="axis" d="M{x} {start + height}v5"/>'
        if numbered:
            yield f'<text x="{x}" y="{start + height + 20}" text-anchor="middle">{second}</text>'


def _possible(seconds: float) -> str:
    bottom = _y(0, _TOP_PANEL, _MOST_ANSWERED)
    path = f"M{_x(0, seconds)} {bottom}"
    start = 0.0
    for until, rate in _CAPACITY:
        if start < seconds:
            y = _y(rate, _TOP_PANEL, _MOST_ANSWERED)
            path += f"L{_x(start, seconds)} {y}H{_x(min(until, seconds), seconds)}"
        start = until
    return f'<path class="possible" d="{path}V{bottom}Z"/>'


def _line(look: str, counts: list[int], panel: tuple[int, int], most: float, seconds: float) -> str:
    points = (
        f"{_x((number + 0.5) * STEP, seconds)} {_y(count / STEP, panel, most)}"
        for number, count in enumerate(counts)
        if (number + 0.5) * STEP < seconds
    )
    return f'<path class="line {look}" d="M{"L".join(points)}"/>'
