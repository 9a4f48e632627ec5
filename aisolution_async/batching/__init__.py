"""Many calls → a stream of outcomes. How a call walks through the parts of a batch, and which part decides what.

                                  ┌──────────── wait ◀── timers  ◀────────────┐
                                  ▼                                           │ another attempt, or a callback
    input ──▶ intake ──▶ lookup ──▶ lineup ──▶ crew: a worker ──▶ twins ──▶ one attempt
                ▲           │                                       │         │ over
           room │           │ in the ledger            asked before │         ▼
                └───────────┴───────────────────────────────────────┴────▶ outlet ──▶ async for

| part | decides |
| --- | --- |
| `intake` | when the next item of the input is read: only while there is room; and what an item is that is no call |
| `lookup` | which calls a ledger has answered before: these are over at once |
| `lineup` | which call may go now: the endpoints' turns, the concurrency, the rates, the brake, the repeats' budget |
| `twins` | whether a call is asked, or shares the answer of another that asks the same |
| `timers` | when a call that waits is looked at again |
| `outlet` | in what order outcomes come out, and when the batch is complete |
| `crew` | nothing of its own: a worker makes one attempt, and puts the call where its state says |
| `batch` | when it starts, stops and ends |

A `Task` is a call at its place in the input, and the only one that knows how a call is sent. What an attempt came to
is a small value (`sending.states`), and what the twins say is one too; the worker tells them apart in one place,
`Crew._settle`. A part calls no other part but through the crew and the batch.

Workers, as many as attempts may be under way, are permits: a call that waits holds none. None of the limits waits
either: one alarm in the lineup wakes the batch when the earliest of them allows something.
"""

from aisolution_async.batching.batch import DRAIN_TIMEOUT, GRACE, Batch, Load
from aisolution_async.batching.intake import WINDOW
from aisolution_async.batching.outlet import Progress
from aisolution_async.batching.task import Recheck
from aisolution_async.batching.twins import REMEMBERED

__all__ = ["DRAIN_TIMEOUT", "GRACE", "REMEMBERED", "WINDOW", "Batch", "Load", "Progress", "Recheck"]
