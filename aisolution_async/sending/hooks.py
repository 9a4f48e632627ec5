"""What the user's hooks are told, and what becomes of their errors."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)


def call_hook(hook: Callable[..., object], *arguments: object) -> None:
    """Call what the user gave. Its errors are logged and go no further: no call may suffer for them."""
    try:
        hook(*arguments)
    except Exception as exc:  # it is the user's code
        # Not its text: it may quote what the hook was given.
        _log.error("a hook failed: %s", type(exc).__name__, extra={"error": type(exc).__name__})
