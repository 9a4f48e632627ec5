"""The vendor, pretended: its endpoints on a real socket, with no token and no internet.

`Sandbox` is the vendor, `Sandbox.bill` what it would have charged. `MAGIC_NUMBERS` and `images` are inputs that are
answered as they say themselves, `Fault` what can go wrong, `Clock` its time.
"""

from __future__ import annotations

from aisolution_async.sandbox import images
from aisolution_async.sandbox.bill import Bill, Entry
from aisolution_async.sandbox.callbacks import Delivery, Outstanding
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.faults import Fault, Faults
from aisolution_async.sandbox.magic import MAGIC_NUMBERS, MagicNumber, magic_number
from aisolution_async.sandbox.server import Sandbox

__all__ = [
    "MAGIC_NUMBERS",
    "Bill",
    "Clock",
    "Delivery",
    "Entry",
    "Fault",
    "Faults",
    "MagicNumber",
    "Outstanding",
    "Sandbox",
    "images",
    "magic_number",
]
