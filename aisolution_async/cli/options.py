"""The options that commands have in common, and what they are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from aisolution_async.api import ENDPOINTS, Kind, Parameter, endpoint_of
from aisolution_async.bulk import pretended
from aisolution_async.cli import config
from aisolution_async.cli.ending import Ending, Exit
from aisolution_async.cli.paths import PATH, FileName
from aisolution_async.cli.running import foreseen
from aisolution_async.client import BASE_URL_VARIABLE, TOKEN_VARIABLE
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import place_of
from aisolution_async.names import is_file, perhaps

HELP = {
    Kind.IMAGE: "an image: its path, or base64",
    Kind.NUMBER: "a phone number",
    Kind.COUNTRY: "a two-letter country code, like ID",
    Kind.URL: "an http(s) address",
    Kind.TEXT: "text",
    Kind.FLAG: "set this parameter to y",
}
"""What a parameter of each kind is."""
METAVARS = {Kind.COUNTRY: "CC", Kind.URL: "URL"}
"""What stands for a value of each kind."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def option(name: str) -> str:
    """The option of a parameter."""
    return f"--{name.replace('_', '-')}"


def access_options() -> list[click.Parameter]:
    """Which vendor to ask, how to be let in, and the file that all of it may be said in."""
    return [
        click.Option(["--sandbox"], is_flag=True, help="Ask a sandbox that is started for this run: needs no token."),
        click.Option(
            ["--token-file"],
            type=PATH,
            help=f"A file with the token in it.  [default: ${TOKEN_VARIABLE}]",
        ),
        click.Option(["--base-url"], help=f"The vendor's address.  [default: ${BASE_URL_VARIABLE}, or the real one]"),
        config.config_option(),
    ]


def fit_options(parameters: Sequence[Parameter]) -> list[click.Parameter]:
    """How strictly images and numbers are looked at, where there are any."""
    kinds = {parameter.kind for parameter in parameters}
    options: list[click.Parameter] = []
    if Kind.IMAGE in kinds:
        text = "Make images that are too large, or not upright, fit before they are sent, or send them as they are."
        options.append(click.Option(["--fit/--no-fit"], default=True, show_default=True, help=text))
    if Kind.NUMBER in kinds:
        text = "Refuse numbers that nobody can have, and not only those that are too short or too long."
        options.append(click.Option(["--strict-numbers"], is_flag=True, help=text))
    return options


class LedgerPlace(FileName):
    """Where a ledger is: a file's path, or a URL, which is taken for none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click."""
        if value == "":
            return super().convert(value, param, ctx)
        try:
            return place_of(value)
        except ConfigurationError as exc:
            self.fail(str(exc), param, ctx)


class KnownLedger(LedgerPlace):
    """Where a ledger is that is there already. Where there is none, those beside it are named.

    Most often the run was one with `--sandbox`, or was none. `or_results`: what bulk wrote may be named, too.
    """

    def __init__(self, *, or_results: bool = False) -> None:
        super().__init__()
        self._or_results = or_results

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click."""
        place = super().convert(value, param, ctx)
        if isinstance(place, Path) and not (perhaps(is_file, place) and (self._or_results or _is_database(place))):
            with foreseen():
                beside = [] if self._or_results and place.suffix != ".ledger" else pretended.ledgers_beside(place)
            if beside:
                kinds = ("the sandbox's" if pretended.is_made_up(found) else "the vendor's" for found in beside)
                names = " and ".join(f"{found} ({kind})" for found, kind in zip(beside, kinds, strict=True))
                raise Ending(f"there is no ledger {place.absolute()}: beside it is {names}", Exit.USAGE)
        return place


def _is_database(path: Path) -> bool:
    """Whether it begins as SQLite's files do; True also for what cannot be told."""
    try:
        with path.open("rb") as file:
            return file.read(16) in (b"SQLite format 3\0", b"")
    except OSError:
        return True


class EndpointName(click.Choice):  # type: ignore[type-arg]  # it is generic from click 8.2 on only
    """An endpoint in any of its spellings, as the command's name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click."""
        found = endpoint_of(value)
        return super().convert(value if found is None else found.command, param, ctx)


def money(ctx: click.Context, param: click.Parameter, text: str | None) -> Decimal | None:  # noqa: ARG001  # click's
    """An amount of money."""
    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise click.BadParameter(f"{text!r} is no amount of money, like 0.05") from None


def prices(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, Decimal]:
    """Prices by the vendor's names of the endpoints."""
    found: dict[str, Decimal] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        price, endpoint = money(ctx, param, amount.strip()), endpoint_of(name)
        if price is None or endpoint is None:
            raise click.BadParameter(f"{name!r} is none of {', '.join(ENDPOINTS)}: it is like face-compare=0.05")
        if found.setdefault(endpoint.name, price) != price:
            raise click.BadParameter(f"{endpoint.name} has two prices: say one of them")
    return found


def duration(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:  # noqa: ARG001  # click's
    """A time in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no time: it is like 30d, 12h or 45m")
    return float(int(found[1]) * _SECONDS[found[2]])


def seconds(ctx: click.Context, param: click.Parameter, text: str) -> float:
    """A time in seconds, which may be a bare number."""
    if re.fullmatch(r"\d{1,7}(\.\d{1,3})?s?", text.strip()):
        return float(text.strip().removesuffix("s"))
    found = duration(ctx, param, text)
    assert found is not None
    return found


def pairs(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, str]:  # noqa: ARG001  # click's
    """What is given as NAME=VALUE."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value:
            raise click.BadParameter(f"{text!r} is like id-holding.img=selfie")
        found[name.strip()] = value
    return found


def delimiter(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:  # noqa: ARG001  # click's
    """What stands between cells: one character, or its name."""
    named: Any = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
    found = None if text is None else str(named.get(text.lower(), text))
    if found is not None and len(found) != 1:
        raise click.BadParameter(f"{text!r} is no single character: it is like ';' or tab")
    return found
