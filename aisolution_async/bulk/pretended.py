"""Answers of a sandbox are made up, and whoever gets them is told so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SAID: Final = "SANDBOX: the answers are made up"
LEDGER: Final = ".sandbox.ledger"
"""How the name of a ledger of such answers ends."""


def is_made_up(ledger: Path | None, command: Sequence[Any] | None) -> bool:
    """Whether a sandbox gave the answers in `ledger`, or those that a `command` of these words got."""
    return "--sandbox" in (command or ()) or (ledger is not None and ledger.name.endswith(LEDGER))
