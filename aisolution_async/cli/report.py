"""`aisolution report`: a ledger as a page to look at."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from aisolution_async.cli import show
from aisolution_async.cli.options import LedgerPlace
from aisolution_async.cli.running import EXIT_CODES, foreseen
from aisolution_async.ledger.urls import Place


@click.command("report", epilog=EXIT_CODES)
@click.argument("ledger", type=LedgerPlace())
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where to: a .html file, or - for stdout.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists already.")
def report_command(ledger: Place, output: Path, *, overwrite: bool) -> None:
    """Make one HTML file of LEDGER, for a person to look at: on a screen, a telephone or paper.

    What was asked and answered, what it cost, why calls failed and what to do, how fast it went, and the calls
    that are held. It needs nothing else and loads nothing, and only you can read the file: it has your keys of
    held calls in it, and no number and no photo. The ledger is only read; a run may be writing to it.

    \b
    aisolution report results.csv.ledger -o report.html
    """
    from aisolution_async.bulk.report import make_report, write_report  # noqa: PLC0415  # slow to import

    with foreseen():
        if str(output) == "-":
            # As UTF-8, as the page says of itself, whatever the terminal speaks.
            click.echo(make_report(ledger).encode(), file=sys.stdout, nl=False)
            return
        write_report(ledger, output, overwrite=overwrite)
    show.say(f"the report is in {output}")
