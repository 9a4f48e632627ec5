"""The report of a ledger: one HTML file that a person can look at, and that needs nothing else."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from aisolution_async import clock
from aisolution_async.bulk.report.figures import read
from aisolution_async.bulk.report.page import page
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Server, place_of

__all__ = ["make_report", "write_report"]


def make_report(ledger: str | os.PathLike[str] | Server, *, made_at: datetime | None = None) -> str:
    """The report of the ledger at a path or URL, as one HTML document.

    The same ledger gives the same text, but for `made_at` (the default: now, in UTC). It is only read,
    whoever writes to it meanwhile. No number, image, token or group id is in it; your keys of held calls are.
    Raises LedgerError where it is not there, or of another version, or damaged; ConfigurationError where
    matplotlib is missing (`pip install 'aisolution-async[cli]'`).
    """
    return page(read(place_of(ledger)), made_at or clock.today())


def write_report(
    ledger: str | os.PathLike[str] | Server, output: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the report of `ledger` to the file `output`, readable by its owner only.

    It has another name until it is whole. Raises ConfigurationError where there is such a file already, unless
    `overwrite`, or where it cannot be written; else as `make_report` does.
    """
    path, source = Path(output), place_of(ledger)
    shown = repr(str(path))
    if path.is_dir():
        raise ConfigurationError(f"the report {shown} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise ConfigurationError(f"the report's folder {str(path.parent)!r} does not exist: make it first")
    if isinstance(source, Path) and path.exists() and source.exists() and path.samefile(source):
        raise ConfigurationError(f"the report {shown} is the ledger: give it another name")
    if os.path.lexists(path) and not overwrite:
        raise ConfigurationError(f"{shown} exists already: move it away, or say --overwrite")
    text = make_report(source)
    part = None
    try:
        # 0600, as the ledger is: it has keys in it.
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(0, "a file of that name has appeared meanwhile")
        part.replace(path)
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    else:
        return
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    raise ConfigurationError(f"the report {shown} cannot be written: {problem}; choose another place")
