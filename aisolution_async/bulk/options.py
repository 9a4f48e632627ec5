"""The options of a run: one frozen value, checked once, that the library's doors take by keywords."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import Any, TypeVar

from aisolution_async.batching import Recheck
from aisolution_async.checks import seconds
from aisolution_async.ledger.urls import Server
from aisolution_async.spending import Prices, Spending

CONCURRENCY = 50

GIVE_UP = 300.0
"""Seconds for which a vendor that does not answer any more is tried."""

StrPath = str | os.PathLike[str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    """How a list is read, asked and written. Raises ConfigurationError for times and prices that are none.

    What is read:

    - `columns`: which column holds a parameter, by the parameter's name or, where two endpoints differ, as
      `"id-holding.img"`. A parameter that is not named is found by the columns' names, a phone number's also by its
      cells (`choice.py`).
    - `values`: the parameters that have one value for all rows, named in the same way.
    - `key`: the column of the calls' keys, else found by its name.
    - `images_root`: the folder in which a photo is searched for that is not where its path says (`photos.py`); no
      image outside of it is read. Without it, that is the folder of the input.
    - `keep_metadata`: send where a photo was taken (GPS) with it.
    - `delimiter`, `encoding`, `sheet`, `header_row`: how the input is written, where that cannot be found out
      (`rows.py`).
    - `skip_hidden`: leave out the rows of a workbook that nobody sees.

    What is written:

    - `ordered`: write rows in the order of the input; else as they finish.
    - `defuse`: put an apostrophe before cells of CSV and TSV that a spreadsheet would take for a formula.
    - `excel`: write CSV so that Excel shows it as it is (`excel.py`).
    - `problems`: a file for the rows with problems, too: as they came, with columns that say which row of the input
      each is, and what is wrong. Where there is a ledger, and somebody mended rows in it, the next run takes that in
      (`mending.py`), and replaces it by what is wrong then. With a ledger, rows that are held are in a file of their
      own instead, OUTPUT-held, with a column that says what to do; a `command` writes that without `problems` too. It
      remembers its ledger in a small file beside it, `problems` + ".of".
    - `overwrite`: replace results that exist already, even if they were paid for, and forget what was mended.
    - `command`: the words of the command that this is, to be kept in the note beside the output (`notes.py`).

    What is asked, and what it may cost:

    - `concurrency`: how many calls are made at once.
    - `ledger`: the path or URL of a ledger. Where it is there already, the run goes on from it: what it answers is
      not asked again.
    - `rescued`: more files to take answers from that the ledger has not.
    - `reuse_for`, `retry_unknown`, `max_charges`, `prices`, `max_cost`: as for `client.batch`, the limits over all runs
      with the ledger.
    - `give_up`: for how many seconds a vendor is tried that does not answer any more (for 60 at most if nothing was
      answered yet); then the run stops.
    - `recheck`: ask again for numbers that WhatsApp is still checking: where order is kept, the rows behind such a one
      wait for it.

    What is told:

    - `on_start`: called, before anything is sent, with each line for people on the input and the columns that are used.
    - `on_warning`: called, while the run goes on, with a line for people on answers that are suspiciously all alike.
    - `on_resume`: called with how many answers the ledger has, if it was there before.
    """

    columns: Mapping[str, str] | None = None
    values: Mapping[str, Any] | None = None
    key: str | None = None
    images_root: StrPath | None = None
    keep_metadata: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    skip_hidden: bool = False
    header_row: int | None = None
    ordered: bool = True
    defuse: bool = True
    excel: bool = False
    problems: StrPath | None = None
    concurrency: int = CONCURRENCY
    overwrite: bool = False
    command: Sequence[Any] | None = None
    rescued: Sequence[StrPath] = ()
    ledger: StrPath | Server | None = None
    reuse_for: float | None = None
    retry_unknown: int | None = None
    max_charges: int | None = None
    prices: Mapping[str, Decimal] | None = None
    max_cost: Decimal | None = None
    give_up: float = GIVE_UP
    recheck: Recheck | None = None
    on_start: Callable[[str], None] | None = None
    on_warning: Callable[[str], None] | None = None
    on_resume: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        Spending.of(self.max_charges, self.prices)  # the limit on the cost is checked by whoever spends
        seconds("give_up", self.give_up, zero=True, endless=True, otherwise=": math.inf to try for ever")

    @property
    def known_prices(self) -> Prices:
        """The prices, by the vendor's names of the endpoints."""
        return Prices.given(self.prices)

    @property
    def budget(self) -> dict[str, Any]:
        """The limits, as a batch or a ledger takes them."""
        return {"max_charges": self.max_charges, "prices": self.known_prices, "max_cost": self.max_cost}

    @property
    def reading(self) -> dict[str, Any]:
        """How the input is written, as `Rows` takes it."""
        return {
            "delimiter": self.delimiter,
            "encoding": self.encoding,
            "sheet": self.sheet,
            "skip_hidden": self.skip_hidden,
            "header_row": self.header_row,
        }


def by_keyword(function: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    """`function`, whose last parameter is `options`, with a keyword for each option in its place.

    Its signature and its documentation have them too. A caller's type checker gets them from the protocol that the
    result is cast to, with the parameters of `BulkOptions`.
    """
    whole = inspect.signature(function)
    own = [parameter for name, parameter in whole.parameters.items() if name != "options"]
    names = {parameter.name for parameter in own}
    known = inspect.signature(BulkOptions).parameters

    @wraps(function)
    async def door(*args: Any, **given: Any) -> T:
        for name in given:
            if name not in names and name not in known:
                raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
        mine = {name: value for name, value in given.items() if name in names}
        options = BulkOptions(**{name: value for name, value in given.items() if name not in names})
        return await function(*args, **mine, options=options)

    door.__signature__ = whole.replace(parameters=[*own, *known.values()])  # type: ignore[attr-defined]  # typeshed has it not
    told = inspect.cleandoc(BulkOptions.__doc__ or "").partition("\n\n")[2]
    door.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nThe options are those of `BulkOptions`.\n\n{told}"
    return door
