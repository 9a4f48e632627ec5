"""Answers of a sandbox are made up, and whoever gets them is told so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aisolution_async.bulk import looks
from aisolution_async.ledger.urls import Place

SAID: Final = "SANDBOX: the answers are made up"
LEDGER: Final = ".sandbox.ledger"
"""How the name of a ledger of such answers ends."""


def ledgers_beside(path: Path) -> list[Path]:
    """The ledgers, made up or not, whose names say that they belong to what `path` names: a ledger, or results."""
    if not path.name:
        return []  # a folder: '.' or '/'
    output = path.name.removesuffix(".ledger").removesuffix(".sandbox")
    names = (output + ending for ending in (".ledger", LEDGER))
    return [found for name in names if name != path.name and looks.is_file(found := path.with_name(name))]


def is_made_up(ledger: Place | None, command: Sequence[Any] = ()) -> bool:
    """Whether a sandbox gave the answers in `ledger`, or those that a `command` of these words got."""
    if "--sandbox" in command or ledger is None:
        return "--sandbox" in command
    return ledger.name.endswith(LEDGER) if isinstance(ledger, Path) else ledger.schema.endswith("sandbox")
