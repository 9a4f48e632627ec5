"""What the user's hooks are told, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sysconfig
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

_log = logging.getLogger(__name__)


def call_hook(name: str, hook: Callable[..., object], *arguments: object) -> None:
    """Call what the user gave as `name`. Its errors are logged and go no further: no call may suffer for them."""
    try:
        hook(*arguments)
    except (Exception, asyncio.CancelledError) as exc:  # it is the user's code, and this call was not cancelled
        # Not its text: it may quote what the hook was given.
        while isinstance(hook, functools.partial):
            hook = hook.func
        told = {"error": type(exc).__name__, "hook": name, "function": _called(hook), "where": _where(hook, exc)}
        _log.error("a hook failed: %(error)s in %(hook)s, %(function)s, at %(where)s", told, extra=told)


def _called(hook: Any) -> str:
    """The qualified name of a hook, as in `app.metrics.Meter.count`."""
    with contextlib.suppress(Exception):  # it may be any object
        found = hook if isinstance(getattr(hook, "__qualname__", None), str) else type(hook)
        return f"{found.__module__}.{found.__qualname__}"
    return type(hook).__name__


def _where(hook: Any, exc: BaseException) -> str:
    """The file and line of the user's code that `exc` came from: the innermost, with only libraries below it."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(exc.__traceback__)]
    frames = [(frame, line) for frame, line in frames if not frame.f_code.co_filename.startswith(_OURS)]
    if not frames:  # it could not even be called so
        with contextlib.suppress(Exception):
            return f"{hook.__code__.co_filename}:{hook.__code__.co_firstlineno}"
        return "code that is not Python's"
    own = _package(frames[0][0])  # the hook's own, which may be installed beside the libraries
    place = frames[0]
    for frame, line in frames:
        if _package(frame) == own or not frame.f_code.co_filename.startswith(_LIBRARIES):
            place = (frame, line)
    return f"{place[0].f_code.co_filename}:{place[1]}"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


_OURS = __file__.rpartition("sending")[0]
_LIBRARIES = (
    "<frozen ",
    *{
        os.path.join(path, "")  # noqa: PTH118  # a prefix of texts
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_path(name))
    },
)
