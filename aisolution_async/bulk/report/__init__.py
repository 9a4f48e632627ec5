"""The report of a list and its ledger: one HTML file that a person can look at, and that needs nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from aisolution_async import clock
from aisolution_async.bulk import looks, pretended
from aisolution_async.bulk.notes import Note, note_of
from aisolution_async.bulk.report.applicants import Asked, read_shards
from aisolution_async.bulk.report.applicants import read as read_applicants
from aisolution_async.bulk.report.counting import read
from aisolution_async.bulk.report.page import Report, page
from aisolution_async.bulk.report.sources import Sources, files_of
from aisolution_async.bulk.report.thumbnails import noted_of, photographs_of
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Place, Server, place_of
from aisolution_async.names import is_taken

__all__ = ["ReportOptions", "make_report", "write_report"]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report has besides what its file says.

    `ledger` (a path, or a `Server`) and `results` name what is not beside the other. `key` is the column of your ids,
    which rows are named by (the default: the one that `bulk` was told, else found by its name). `photos` puts the
    photographs of the first 100 rows on the page that are NOT SURE or NOT SAME PERSON; `columns` says which column has
    which, by parameter, where their names do not; relative paths start at the results' folder, or at `images`, outside
    of which nothing is read. What is not there, as pictures on the cells of a workbook, is taken from the list that the
    results are of. `prices` are by endpoint, for what has no recorded price; amounts are shown in `currency`.
    """

    ledger: Place | None = None
    results: Path | None = None
    key: str | None = None
    photos: bool = False
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    currency: str = ""


def make_report(
    file: str | os.PathLike[str] | Server, *, options: ReportOptions | None = None, made_at: datetime | None = None
) -> str:
    """The report of `file`, a ledger (its path or URL) or what `bulk` wrote (a folder too), as one HTML document.

    The other of the two is read too if it stands beside it; what is missing is said. The same files give the same
    text, but for `made_at` (the default: now, in UTC). They are only read, whoever writes to the ledger meanwhile. No
    number, token or group id is in it, and no image unless `options.photos` asks for some; your keys are.
    Raises LedgerError where the ledger is not there, or of another version, or damaged; ConfigurationError and
    UnreadableInputError where the results cannot be read.
    """
    options = options or ReportOptions()
    return _made(files_of(place_of(file), ledger=options.ledger, results=options.results), options, made_at)


def _made(files: Sources, options: ReportOptions, made_at: datetime | None) -> str:
    figures = applicants = None
    note = _note_of(files.output)
    command = () if note is None else note.command
    prices = {name: int(price.scaleb(6)) for name, price in options.prices.items()}
    if files.ledger is not None:
        figures = read(files.ledger, prices=prices)
        figures.currency = options.currency
    if files.results is not None:
        asked = Asked(
            options.key or _key_of(command),
            options.photos,
            options.columns,
            () if figures is None else {*figures.by_endpoint},
        )
        if files.shards:
            if options.photos:
                raise ConfigurationError("photos are shown of one list: name its file in the folder, and the ledger")
            applicants = read_shards(files.results.name, files.shards, asked)
        else:
            applicants = read_applicants(files.results, files.ending, asked, is_part=files.is_part)
        applicants.prices, applicants.currency = prices, options.currency
        if options.photos:
            folder = files.results.absolute().parent
            noted = noted_of(files.results.absolute(), options.images, options.columns)
            applicants.photographs = photographs_of(applicants.worst_first(), folder, options.images, noted)
    is_made_up = pretended.is_made_up(files.ledger, command)
    notice = pretended.told(pretended.SANDBOX if is_made_up else None if note is None else note.whom)
    return page(Report(figures, applicants, files.notes, notice), made_at or clock.today())


def _note_of(output: Path | None) -> Note | None:
    """What is noted of the run that wrote the results, if anything is."""
    with suppress(ConfigurationError):
        return None if output is None else note_of(output)
    return None


def _key_of(command: Sequence[Any]) -> str | None:
    """The column of keys, where these words of a command name one."""
    return next((str(value) for option, value in pairwise(command) if option == "--key"), None)


def write_report(
    file: str | os.PathLike[str] | Server,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    options: ReportOptions | None = None,
) -> None:
    """Write the report of `file` to the file `output`, readable by its owner only.

    It has another name until it is whole. Raises ConfigurationError where there is such a file already, unless
    `overwrite`, or where it cannot be written; else as `make_report` does.
    """
    options = options or ReportOptions()
    path = Path(output)
    shown = repr(str(path))
    if looks.is_folder(path):
        raise ConfigurationError(f"the report {shown} is a folder: name a file in it")
    if not looks.is_folder(path.parent):
        raise ConfigurationError(f"the report's folder {str(path.parent)!r} does not exist: make it first")
    files = files_of(place_of(file), ledger=options.ledger, results=options.results)
    for source, what in ((files.ledger, "the ledger"), (files.results, "the file of results")):
        if isinstance(source, Path) and looks.exists(path) and looks.exists(source) and path.samefile(source):
            raise ConfigurationError(f"the report {shown} is {what}: give it another name")
    if looks.is_taken(path) and not overwrite:
        raise ConfigurationError(f"{shown} exists already: move it away, or say --overwrite")
    text = _made(files, options, None)
    part = None
    try:
        # 0600, as the ledger is: it has keys in it.
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        with os.fdopen(number, "w", encoding="utf-8") as whole:
            whole.write(text)
            whole.flush()
            os.fsync(whole.fileno())
        if not overwrite and is_taken(path):
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
