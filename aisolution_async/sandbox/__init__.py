"""The vendor, pretended: all six endpoints on a real socket, with no token and no internet."""

from __future__ import annotations

from aisolution_async.sandbox.server import Sandbox

__all__ = ["Sandbox"]
