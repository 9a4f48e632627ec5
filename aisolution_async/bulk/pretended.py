"""Who was asked, if not the vendor: answers of a sandbox are made up, and whoever gets them is told so."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aisolution_async.bulk import looks
from aisolution_async.client import BASE_URL, AsyncClient
from aisolution_async.hiding import HIDDEN
from aisolution_async.ledger.urls import Place
from aisolution_async.wire.reach import is_loopback

SANDBOX: Final = "sandbox"
"""Who was asked, where that is known to be one."""
TOKEN: Final = "sandbox-token"  # noqa: S105  # opens nothing but a sandbox
"""The token of a sandbox that was given no other: the vendor has given it to nobody."""
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


def whom(client: AsyncClient, ledger: Place | None = None, command: Sequence[Any] = ()) -> str | None:
    """Who is asked by this client: None for the vendor, SANDBOX, or the address of somebody who may be either."""
    if is_made_up(ledger, command):
        return SANDBOX
    if client.base_url.rstrip("/") == BASE_URL:
        return None
    # A gateway to the vendor may be on this machine too: its token is a real one.
    is_sandbox = is_loopback(host_of(client.base_url)) and client.redact(TOKEN) == HIDDEN
    return SANDBOX if is_sandbox else client.base_url


def host_of(whom: str) -> str:
    """Of who is asked, what stays the same: each machine may reach a gateway by a port of its own."""
    return urlsplit(whom).hostname or whom


def noted(whom: str | None) -> str | None:
    """The same for a note beside results, which goes where they go: an address as no more than a mark of its own."""
    return whom if whom in (None, SANDBOX) else sha256(host_of(str(whom)).encode()).hexdigest()[:16]


def told(asked: str | None) -> str:
    """What is said of answers by who was `asked`; nothing of the vendor's."""
    if asked is None:
        return ""
    if asked == SANDBOX:
        return SAID
    where = asked if "://" in asked else "an address"
    return f"asked at {where}, which is not the vendor's{' address' if where is asked else ''}"


def is_made_up(ledger: Place | None, command: Sequence[Any] = ()) -> bool:
    """Whether a sandbox gave the answers in `ledger`, or those that a `command` of these words got."""
    if "--sandbox" in command or ledger is None:
        return "--sandbox" in command
    return ledger.name.endswith(LEDGER) if isinstance(ledger, Path) else ledger.schema.endswith("sandbox")
