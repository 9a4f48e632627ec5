"""`aisolution report`: a list and its ledger as a page to look at."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import click

from aisolution_async.cli import show
from aisolution_async.cli.ending import REPORT_EXIT_CODES
from aisolution_async.cli.options import KnownLedger, LedgerPlace, prices
from aisolution_async.cli.paths import PATH, PATH_OR_DASH
from aisolution_async.cli.running import foreseen
from aisolution_async.ledger.urls import Place


def _currency(ctx: click.Context, param: click.Parameter, text: str | None) -> str:  # noqa: ARG001  # click's
    if text is None:
        return ""
    if re.fullmatch(r"[A-Za-z]{3}", text.strip()) is None:
        raise click.BadParameter(f"{text!r} is no currency: it is three letters, like IDR")
    return text.strip().upper()


@click.command("report", epilog=REPORT_EXIT_CODES)
@click.argument("file", type=KnownLedger(or_results=True))
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH_OR_DASH,
    help="Where to: a .html file, or - for stdout.",
)
@click.option("--results", type=PATH, help="What bulk wrote.  [default: beside the ledger]")
@click.option("--ledger", type=LedgerPlace(), help="The ledger: a file, or its URL.  [default: FILE.ledger]")
@click.option(
    "--key", metavar="COLUMN", help="The column of your own ids.  [default: as bulk was told, else found by its name]"
)
@click.option(
    "--photos", is_flag=True, help="Show the photos of the first 100 rows that are NOT SURE or NOT SAME PERSON."
)
@click.option(
    "--images",
    type=PATH,
    metavar="DIR",
    help="With --photos: their folder; nothing outside of it is read.  [default: that of the results]",
)
@click.option("--img1", metavar="COLUMN", help="With --photos: the column of img1.  [default: found by its name]")
@click.option("--img2", metavar="COLUMN", help="With --photos: the column of img2.  [default: found by its name]")
@click.option("--img", metavar="COLUMN", help="With --photos: the column of img.  [default: found by its name]")
@click.option(
    "--price",
    "prices",
    callback=prices,
    multiple=True,
    metavar="ENDPOINT=MONEY",
    help="What a charge costs that has no recorded price: face-compare=500. May be repeated.",
)
@click.option("--currency", callback=_currency, metavar="CODE", help="What money is shown in: IDR, PHP, VND, INR, USD.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists already.")
def report_command(
    file: Place,
    output: Path,
    *,
    results: Path | None,
    ledger: Place | None,
    key: str | None,
    photos: bool,
    images: Path | None,
    prices: Mapping[str, Decimal],
    currency: str,
    overwrite: bool,
    **columns: str | None,
) -> None:
    """Make one HTML file of FILE, for a person to look at: on a screen, a telephone or paper.

    FILE is what `bulk` wrote (a folder, where it was given one), or the ledger beside it, which is found, or a ledger's
    URL. The page says what came of every row, what to do about those with problems, whom to look at, what it cost, how
    fast it went, and what is held. It needs nothing else and loads nothing, and only you can read the file: it has your
    keys in it, no number, and photos only with --photos. Nothing is written but the page; a run may be going on.

    \b
    Examples:
      aisolution report results.xlsx -o report.html
      aisolution report results.xlsx -o report.html --photos --price face-compare=500 --currency IDR
      aisolution report results -o report.html --ledger 'postgresql://host/database?schema=applicants'
    """
    from aisolution_async.bulk.report import (  # noqa: PLC0415  # slow to import
        ReportOptions,
        make_report,
        write_report,
    )
    from aisolution_async.bulk.report.sources import files_of  # noqa: PLC0415  # as above

    said = {name: column for name, column in columns.items() if column is not None}
    with foreseen():
        options = ReportOptions(ledger, results, key, photos, images, said, prices, currency)
        if str(output) == "-":
            # As UTF-8, as the page says of itself, whatever the terminal speaks.
            click.echo(make_report(file, options=options).encode(), file=sys.stdout, nl=False)
            return
        write_report(file, output, overwrite=overwrite, options=options)
        show.say(f"the report is in {output}")
        for note in files_of(file, ledger=ledger, results=results).notes:
            show.say(note)
