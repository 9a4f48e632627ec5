"""`aisolution bulk`: a list through one endpoint, or several. The commands are made from the table in `api.py`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from aisolution_async import clock
from aisolution_async.api import CALLS, Call, Endpoint, Kind, Parameter
from aisolution_async.batching import GRACE, Recheck
from aisolution_async.bulk import (
    BulkError,
    BulkOptions,
    BulkRun,
    Estimate,
    FolderRun,
    FolderSummary,
    ListSample,
    Summary,
    pretended,
)
from aisolution_async.bulk.forecast import foresee
from aisolution_async.bulk.options import CONCURRENCY, GIVE_UP
from aisolution_async.bulk.origins import origin_of
from aisolution_async.bulk.outputs import BOOK, STDOUT
from aisolution_async.bulk.rows import format_of
from aisolution_async.bulk.sample import check_list
from aisolution_async.bulk.shards import foresee_folder, is_folder
from aisolution_async.cli import after, ahead, resuming, show
from aisolution_async.cli.ahead import PlanFile
from aisolution_async.cli.config import check_price
from aisolution_async.cli.ending import EXIT_CODES, Ending, Exit, unwritable
from aisolution_async.cli.options import (
    HELP,
    METAVARS,
    EndpointName,
    LedgerPlace,
    access_options,
    delimiter,
    duration,
    fit_options,
    money,
    option,
    pairs,
    prices,
    seconds,
)
from aisolution_async.cli.paths import PATH, PATH_OR_DASH
from aisolution_async.cli.running import (
    Access,
    check_stdout,
    connected,
    disconnected,
    foreseen,
    keep_stdin,
    on_interrupt,
    run,
    say_whom,
)
from aisolution_async.client import AsyncClient
from aisolution_async.ledger.urls import Place, Server, is_there, place_of

# Kinds of optional parameters that may differ from row to row.
_BY_COLUMN = (Kind.NUMBER, Kind.COUNTRY, Kind.TEXT)
_MOST_AT_ONCE = 1000
_CALLS = {call.endpoint.command: call for call in CALLS}


def _options(call: type[Call[Any]]) -> list[click.Parameter]:
    endpoint: Endpoint[Any] = call.endpoint
    own = {parameter.name for parameter in endpoint.parameters}
    every: dict[str, Parameter] = {}
    for each in (call, *CALLS):
        for parameter in each.endpoint.parameters:
            every.setdefault(parameter.name, parameter)
    file = PATH
    params: list[click.Parameter] = [
        click.Argument(["source"], metavar="INPUT", type=PATH_OR_DASH),
        click.Option(
            ["-o", "--output"],
            type=PATH_OR_DASH,
            help="The results: .xlsx, .csv, .tsv, .jsonl or .parquet, or - for JSONL on stdout.  "
            "[default, for a workbook: INPUT-results.xlsx]  A folder, where INPUT is one.",
        ),
        click.Option(["--key"], metavar="COLUMN", help="The column of your own ids.  [default: found by its name]"),
    ]
    for parameter in every.values():
        params += _parameter_options(parameter, hidden=parameter.name not in own)
    return [
        *params,
        click.Option(
            ["--endpoint", "endpoints"],
            multiple=True,
            type=EndpointName([name for name in _CALLS if name != endpoint.command]),
            metavar="ENDPOINT",
            help="Ask this of each row too; its options can be given here. May be repeated.",
        ),
        click.Option(
            ["--column", "columns"],
            multiple=True,
            callback=pairs,
            metavar="[ENDPOINT.]NAME=COLUMN",
            help="The column of a parameter, of one endpoint: id-holding.img=selfie. May be repeated.",
        ),
        click.Option(
            ["--value", "values"],
            multiple=True,
            callback=pairs,
            metavar="[ENDPOINT.]NAME=VALUE",
            help="A parameter that is the same in all rows. May be repeated.",
        ),
        click.Option(
            ["--images"],
            type=file,
            metavar="DIR",
            help="The folder of the photos: searched, with the folders in it, and nothing outside of it is read.",
        ),
        click.Option(["--images-root"], type=file, hidden=True, help="The same."),
        click.Option(["--sheet"], help="The sheet of a workbook: its name, or its number.  [default: the first]"),
        click.Option(
            ["--header-row"],
            type=click.IntRange(0),
            metavar="N",
            help="The row, or the line of CSV, that names the columns; 0 if none does.  [default: found out]",
        ),
        click.Option(["--skip-hidden"], is_flag=True, help="Leave out the rows of a workbook that are hidden."),
        click.Option(["--delimiter"], callback=delimiter, help="What stands between cells.  [default: found out]"),
        click.Option(["--encoding"], help="How INPUT's text is written, as in cp1252.  [default: found out]"),
        click.Option(
            ["--errors", "problems"],
            type=file,
            metavar="FILE",
            help="Write the rows with problems here too, as they came, to be mended and run again. A folder, where "
            "INPUT is one.",
        ),
        click.Option(["--any-order"], is_flag=True, help="Write rows as they finish, and not in INPUT's order."),
        click.Option(
            ["--defuse/--no-defuse"],
            default=True,
            show_default=True,
            help="In .csv and .tsv, put an apostrophe before what a spreadsheet takes for a formula.",
        ),
        click.Option(
            ["--excel"],
            is_flag=True,
            help="Write .csv so that Excel opens it as it is: 0007 stays 0007, and numbers keep their digits.",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Check all, say what it would cost, send and write nothing."),
        click.Option(
            ["--sample"],
            type=click.IntRange(1),
            metavar="N",
            help="Ask N rows, drawn at random, and say what the whole would cost and answer; then stop. The run of the "
            "whole does not pay for them again.",
        ),
        click.Option(
            ["--plan"],
            type=file,
            metavar="FILE",
            help="Write what --dry-run or --sample says here too: .txt or .md, or .json for machines.",
        ),
        *fit_options(list(every.values())),
        click.Option(["--keep-metadata"], is_flag=True, help="Send where a photo was taken (GPS) with it."),
        click.Option(
            ["--concurrency"],
            type=click.IntRange(1, _MOST_AT_ONCE),
            default=CONCURRENCY,
            show_default=True,
            help="How many calls to make at once.",
        ),
        click.Option(
            ["--ledger"],
            type=LedgerPlace(),
            help="Where all is recorded, to go on from: a file, or postgresql://…, which machines share.  "
            "[default: OUTPUT.ledger]",
        ),
        click.Option(["--no-ledger"], is_flag=True, help="Record nothing: a stopped run begins from nothing again."),
        click.Option(
            ["--reuse-for"],
            callback=duration,
            metavar="TIME",
            help="How long an answer in the ledger is good for: 30d, 12h.  [default: for ever]",
        ),
        click.Option(
            ["--retry-unknown"],
            type=click.IntRange(0),
            metavar="N",
            help="Send what may have been charged again, N times at most.",
        ),
        click.Option(
            ["--max-charges"],
            type=click.IntRange(0),
            metavar="N",
            help="Spend N charges at most, over all runs with the ledger.",
        ),
        click.Option(
            ["--max-cost"],
            callback=money,
            metavar="MONEY",
            help="Spend that much at most, over all runs with the ledger.",
        ),
        click.Option(
            ["--price", "prices"],
            callback=prices,
            multiple=True,
            metavar="ENDPOINT=MONEY",
            help=f"What a charge costs: {endpoint.command}=0.05. May be repeated.",
        ),
        click.Option(
            ["--give-up", "give_up"],
            callback=seconds,
            default=f"{GIVE_UP:.0f}s",
            show_default=True,
            metavar="TIME",
            help="How long to try a vendor that does not answer any more; one that never did, 60s at most.",
        ),
        click.Option(
            ["--recheck/--no-recheck"],
            default=False,
            show_default=True,
            help="Ask again for numbers that are still being checked; in order, the rows behind them wait.",
        ),
        click.Option(
            ["--recheck-for"],
            callback=seconds,
            default="10m",
            show_default=True,
            metavar="TIME",
            help="For how long to ask again, with --recheck.",
        ),
        click.Option(
            ["--rescued"],
            type=file,
            multiple=True,
            metavar="FILE",
            help="Take answers that the ledger has not from there; those beside OUTPUT are found. May be repeated.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace results that exist already, even if paid for."),
        click.Option(["--quiet"], is_flag=True, help="Print nothing but errors."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the summary as one line of JSON on stdout."),
        *access_options(),
    ]


def _parameter_options(parameter: Parameter, *, hidden: bool) -> list[click.Option]:
    name, kind = parameter.name, parameter.kind
    if parameter.required:
        text = f"The column of {name}.  [default: found by its name]"
        return [click.Option([option(name), f"column_{name}"], metavar="COLUMN", help=text, hidden=hidden)]
    flag: dict[str, Any] = {"is_flag": True} if kind is Kind.FLAG else {"metavar": METAVARS.get(kind)}
    text = f"For all rows: {HELP[kind]}."
    options = [click.Option([option(name), f"value_{name}"], help=text, hidden=hidden, **flag)]
    if kind in _BY_COLUMN:
        text = f"The column of {name}.{'  [default: found by its name]' if kind is Kind.COUNTRY else ''}"
        names = [f"{option(name)}-column", f"column_{name}"]
        options.append(click.Option(names, metavar="COLUMN", help=text, hidden=hidden))
    return options


def command_of(call: type[Call[Any]]) -> click.Command:
    """The command of one endpoint."""
    endpoint: Endpoint[Any] = call.endpoint

    def command(
        *,
        source: Path,
        output: Path | None,
        endpoints: Sequence[str],
        columns: Mapping[str, str],
        values: Mapping[str, str],
        ledger: Place | None,
        no_ledger: bool,
        dry_run: bool,
        sample: int | None,
        plan: Path | None,
        any_order: bool,
        recheck: bool,
        recheck_for: float,
        fit: bool,
        strict_numbers: bool,
        images: Path | None,
        images_root: Path | None,
        quiet: bool,
        as_json: bool,
        sandbox: bool,
        token_file: Path | None,
        base_url: str | None,
        **chosen: Any,
    ) -> None:
        if no_ledger and ledger is not None:
            raise Ending("give either --ledger or --no-ledger", Exit.USAGE)
        ahead.check(plan, sample, is_dry=dry_run, no_ledger=no_ledger)
        with foreseen():
            of_folder = is_folder(source)
        if of_folder:
            _check_folder(source, output, sample, no_ledger=no_ledger, is_dry=dry_run)
        else:
            output = _checked_output(source, output, is_dry=dry_run)
        if as_json and not (dry_run or sample) and STDOUT in (str(output), str(chosen["problems"])):
            raise Ending("--json prints on stdout, where the results go: leave one of them out", Exit.USAGE)
        if as_json:
            check_stdout()
        context = click.get_current_context()
        check_price(context)
        file = None if plan is None else PlanFile(plan)
        if not of_folder:
            resuming.run_mended(context, source, output)
        given = [
            (*name.split("_", 1), chosen.pop(name)) for name in [*chosen] if name.startswith(("column_", "value_"))
        ]
        given = [each for each in given if each[2] not in (None, False)]
        with foreseen():
            options = BulkOptions(
                **chosen,
                columns={**{name: value for what, name, value in given if what == "column"}, **columns},
                values={**{name: value for what, name, value in given if what == "value"}, **values},
                images_root=images or images_root,
                ledger=None if no_ledger else _ledger_of(source, output, ledger, sandbox=sandbox, quiet=quiet),
                ordered=not any_order,
                recheck=Recheck(give_up=recheck_for) if recheck else None,
                command=resuming.command_of(context, output),
                on_start=None if quiet else show.say,
                on_warning=None if quiet else show.say,
                on_resume=None if quiet else _say_resumed,
            )
        if sample is not None:
            with foreseen():
                check_list(source, options)
        if str(source) == STDOUT:
            keep_stdin()
        access = Access(sandbox, token_file, base_url)
        of_client = {"fit": fit, "strict_numbers": strict_numbers}
        calls = [call, *(_CALLS[name] for name in dict.fromkeys(endpoints))]
        if dry_run:
            code = run(
                _forecast(access, of_client, (calls, source, output), options, file, quiet=quiet, as_json=as_json)
            )
        else:
            assert output is not None
            drawn = None if sample is None else ListSample(sample)
            kind = _CommandRun if not of_folder else _FolderCommandRun
            job = kind(calls, source, output, options, of_client, sample=drawn, plan=file)
            with _named_worker(of_folder, options):
                code = run(job.run(access, quiet=quiet, as_json=as_json))
        context.exit(code)

    parameters = [parameter.name for parameter in endpoint.parameters if parameter.required]
    images = any(parameter.kind is Kind.IMAGE for parameter in endpoint.parameters)
    return click.Command(
        endpoint.command,
        callback=command,
        params=_options(call),
        short_help=endpoint.summary,
        help=_HELP.format(
            summary=endpoint.summary,
            command=endpoint.command,
            first=option(parameters[0]),
            other="whatsapp-detail" if images else "face-compare",
            images=_IMAGES if images else "",
        ),
        epilog=EXIT_CODES,
    )


_IMAGES = (
    "Images are named\nby their paths, relative to INPUT's folder or to --images, or by their names there, or stand in "
    "it as base64."
)
_HELP = """{summary}

\b
Examples:
  aisolution bulk {command} applicants.xlsx --dry-run --price {command}=0.05
  aisolution bulk {command} applicants.xlsx -o results.xlsx --errors mend.xlsx
  aisolution bulk {command} list.csv -o results.parquet {first} COLUMN --key id
  aisolution bulk {command} list.csv -o results.csv --endpoint {other}
  aisolution bulk {command} lists -o results --ledger postgresql://host/database
  aisolution bulk {command} - -o - <list.jsonl >results.jsonl

INPUT is a workbook (.xlsx and others), .csv, .tsv, .jsonl or .parquet, or - for JSONL on stdin; or a folder of such
lists, or a pattern ('lists/*.csv'): then OUTPUT is a folder too, and machines divide the lists where --ledger is
one on a server. Columns are found by their names, a phone number's also by its cells, and what was found is said;
options say what is not. A country stands in a cell by its name, its code (ID, IDN) or its calling code (+62).
{images}

The output has every row of it, in order and with all its columns, and after them the results: ok, answer_…,
charge, status, attempts, error, problem. With several endpoints their names begin with the endpoint's, as in
face_compare_ok. While it runs, and if it was stopped, the rows are in OUTPUT.part. In .csv and .tsv, a cell that a
spreadsheet could take for a formula gets an apostrophe in front, unless --no-defuse. A phone number such as
+62 813 8730 0008 is none; +62-813-8730-0008, with nothing but dashes in it, is one: Excel reckons it out.
A .csv has the delimiter of an INPUT that is CSV too, and is UTF-8. It has a byte order mark, which lets Excel see
that, where INPUT has one or is in another encoding (Windows-1252). An .xlsx has the types and the number
formats of INPUT, colours, filters and a summary; its .part is JSONL, and it is made at the end. A sheet has
1,048,576 rows at most.

Ctrl-C stops it, and waits for the answers under way; Ctrl-C again waits only a moment longer. However it was
ended, run it again, or say aisolution bulk --resume OUTPUT, to go on: what was answered is in OUTPUT.ledger, is not
paid for twice, and is written as if the run had never been stopped. A call that may have been charged, and has no
answer, is held: it is not sent again unless --retry-unknown says so. Where the vendor does not answer any more, the
run ends (--give-up), to be gone on with later. A number that is still being checked is not ok, and told at the end:
run it again later, or say --recheck.

Rows are to be mended in the file of --errors, whose column "row" says which row of INPUT each is, or in INPUT. Then
--resume, or the same command, fills them in, in the same OUTPUT, and pays for nothing twice. Rows that are held are in
OUTPUT-held instead, also without --errors, with what to do about each. The ledger holds personal data; see
`aisolution ledger`. With -o -, there is a ledger only where --ledger names one.
"""


def _output_of(source: Path) -> Path | None:
    """Where the results go that nobody gave a place: of a workbook, or what is named so, into one beside it."""
    if format_of(source) not in ("xlsx", "html"):
        return None
    return source.with_name(f"{source.stem}-results{BOOK}")


def _ledger_of(source: Path, output: Path | None, chosen: Place | None, *, sandbox: bool, quiet: bool) -> Place | None:
    """Where the ledger is. Answers that are made up must never be taken for the vendor's."""
    if sandbox and chosen is not None and not pretended.is_made_up(chosen):
        remedy = f"leave --ledger out, or name one in {pretended.LEDGER}, or a URL's ?schema=…sandbox"
        raise Ending(f"--sandbox has a ledger of its own: {remedy}", Exit.USAGE)
    if chosen is not None:
        return chosen
    with foreseen():
        origin = None if str(source) == STDOUT else origin_of(source)
    if origin is not None and pretended.is_made_up(origin.ledger) is sandbox:
        shown = f"{str(source)!r} has the rows with problems of {str(origin.output)!r}, whose ledger"
        if origin.other is not None:
            ledgers = f"{str(origin.ledger)!r} or {str(origin.other)!r}"
            raise Ending(f"{str(source)!r} may belong to the ledger {ledgers}: name it with --ledger", Exit.USAGE)
        with foreseen():
            is_gone = not is_there(origin.ledger)
        if is_gone:
            raise Ending(f"{shown} {str(origin.ledger)!r} is not there: name it with --ledger", Exit.USAGE)
        if not quiet:
            show.say(f"{shown} is used: {origin.ledger}")
        return origin.ledger
    if output is None or str(output) == STDOUT:
        return None
    return output.with_name(f"{output.name}{pretended.LEDGER if sandbox else '.ledger'}")


async def _forecast(
    access: Access,
    of_client: Mapping[str, Any],
    what: tuple[Sequence[type[Call[Any]]], Path, Path | None],
    options: BulkOptions,
    file: PlanFile | None,
    *,
    quiet: bool,
    as_json: bool,
) -> Exit:
    unread: dict[str, str] | None = None
    async with disconnected(access, **of_client) as client:
        if not quiet:
            say_whom(access, client)
        if is_folder(what[1]):
            found, unread = await foresee_folder(client, *what, options)
        else:
            found = await foresee(client, *what, options)
    lines = [*ahead.unread(unread), *ahead.dry_run(found, options.known_prices)]
    record = ahead.dry_run_as_json(found) | ({} if unread is None else {"unread": unread})
    ahead.say(lines, record if as_json else None, quiet=quiet)
    if file is not None:
        file.write([*found.notes, *found.columns], lines, record)
    if not quiet:
        show.say("nothing was sent, and nothing was written" + (f" but {file.path}" if file is not None else ""))
    return Exit.PROBLEMS if found.failed or unread else Exit.OK


def _checked_output(source: Path, output: Path | None, *, is_dry: bool) -> Path | None:
    """Where the results of a list go. Raises Ending."""
    output = _output_of(source) if output is None else output
    if output is None and not is_dry:
        raise Ending("say where the results go: -o results.csv, or results.xlsx", Exit.USAGE)
    if output is not None and not output.name:
        raise Ending(f"the output {str(output)!r} is a directory: name a file in it", Exit.USAGE)
    return output


def _check_folder(source: Path, output: Path | None, sample: int | None, *, no_ledger: bool, is_dry: bool) -> None:
    """Raise Ending for what goes with one list, and not with the lists of a folder."""
    problem = ""
    if sample is not None:
        problem = "--sample draws from one list, and this is a folder of them: name one, with an output of its own"
    elif no_ledger:
        problem = "the lists of a folder need a ledger, to go on from: leave --no-ledger out"
    elif output is None and not is_dry:
        problem = f"say which folder the results of {str(source)!r} go to: -o results"
    elif output is not None and not output.name:
        problem = f"the output {str(output)!r} is this folder, or its parent: name another one"
    if problem:
        raise Ending(problem, Exit.USAGE)


class _CommandRun:
    """A run with what the command line adds to it: Ctrl-C, progress, and what is said at the end."""

    def __init__(
        self,
        calls: Sequence[type[Call[Any]]],
        source: Path,
        output: Path,
        options: BulkOptions,
        of_client: Mapping[str, Any],
        *,
        sample: ListSample | None,
        plan: PlanFile | None,
    ) -> None:
        self._calls = calls
        self._source = source
        self._output = output
        self._told: list[str] = []  # what was said while it ran
        self._options = options if options.on_warning is None else replace(options, on_warning=self._warn)
        self._of_client = of_client
        self._sample = sample
        self._plan = plan
        self._bulk: BulkRun | FolderRun | None = None
        self._running: asyncio.Task[object] | None = None
        self._pressed = 0
        self._unsaid: Ending | None = None

    async def run(self, access: Access, *, quiet: bool, as_json: bool) -> Exit:
        """Run it, and say what came of it; raises Ending where that is an error."""
        failed: Ending | None = None
        # Up to the last word: whoever presses Ctrl-C twice still wants to know where the results are.
        with on_interrupt(self._interrupt):
            try:
                await self._run(access, quiet=quiet)
            except BulkError as exc:
                failed = Ending(str(exc), Exit.PROBLEMS if exc.summary.gave_up is None else Exit.UNREACHABLE)
                if str(self._output) == STDOUT:
                    unwritable(OSError())
            except asyncio.CancelledError:  # Ctrl-C where signals cannot be handled
                self._report(quiet=quiet, as_json=as_json)
                raise
            done = self._report(quiet=quiet, as_json=as_json)
        if self._pressed and failed is None and not self._is_whole(done):
            where = self._where(done)
            if quiet and self._options.ledger is not None:  # else the command was just said
                where += "; run it again to go on"
            failed = Ending(f"interrupted: {where}", Exit.INTERRUPTED)
        if self._unsaid is not None:
            failed = Ending(f"{failed.message}; and {self._unsaid.message}", failed.code) if failed else self._unsaid
        if failed is not None:
            raise failed
        return self._exit_code(done) if self._sample is None or done.over_budget else Exit.OK

    def _exit_code(self, done: Summary) -> Exit:
        return _exit_code(done)

    def _is_whole(self, done: Summary) -> bool:
        """Whether all is done that was to be."""
        return done.complete if self._sample is None else self._sample.estimate is not None

    def _where(self, done: Summary) -> str:
        """How far it was when it was interrupted."""
        if self._sample is not None:
            return f"{done.rows:,} rows of the sample were asked"
        if done.rows and str(self._output) == STDOUT:
            return "the rows so far were written"
        return "no row has a result" if done.part is None else f"the rows so far are in {str(done.part)!r}"

    def _make(self, client: AsyncClient) -> BulkRun | FolderRun:
        return BulkRun(client, self._calls, self._source, self._output, self._options, sample=self._sample)

    async def _run(self, access: Access, *, quiet: bool) -> None:
        options, each = self._options, len(self._calls)
        async with connected(access, max_connections=options.concurrency, **self._of_client) as client:
            bulk = self._bulk = self._make(client)
            if not quiet:
                say_whom(access, client)
            if self._pressed:
                return
            running = self._running = asyncio.create_task(cast("Coroutine[Any, Any, object]", bulk.run()))
            display = None if quiet else show.display(options.known_prices, each)
            with _followed(bulk, display):
                try:
                    await asyncio.wait({running})
                finally:
                    if not running.done():
                        running.cancel()
                        await asyncio.wait({running})
            if not running.cancelled():
                running.result()

    def _warn(self, line: str) -> None:
        self._told.append(line)
        show.say(line)

    def _interrupt(self) -> None:
        self._pressed += 1
        if self._pressed == 1:
            if self._bulk is not None:
                self._bulk.stop()
            show.say("stopping: waiting for the answers under way (Ctrl-C again: only a moment longer)")
        elif self._running is not None and not self._running.done():
            self._running.cancel()
            show.say(f"waiting {GRACE:.0f} s more at most" if self._pressed == 2 else "not waiting any longer")

    def _report(self, *, quiet: bool, as_json: bool) -> Summary:
        done = self._bulk.summary if isinstance(self._bulk, BulkRun) else Summary()
        ledger = None if self._options.ledger is None else place_of(self._options.ledger)
        prices = self._options.known_prices
        if self._sample is not None and (found := self._sample.estimate) is not None:
            return self._report_sample(found, done, quiet=quiet, as_json=as_json)
        if as_json:
            try:
                show.say_json(show.as_json(done, ledger, prices))
            except OSError as exc:
                self._unsaid = unwritable(exc)
        if not quiet:
            show.whom(done.whom)
            show.summary(done, ledger, prices, told=self._told)
            self._say_what_is_left(done, ledger)
        return done

    def _say_what_is_left(self, done: Summary, ledger: Place | None, folder: FolderSummary | None = None) -> None:
        for line in after.lines(done, self._again, ledger, folder=folder):
            show.say_command(line)

    @property
    def _again(self) -> resuming.NextCommand:
        context = click.get_current_context(silent=True)
        return resuming.NextCommand(context, self._source, self._output, is_kept=self._options.ledger is not None)

    def _report_sample(self, found: Estimate, done: Summary, *, quiet: bool, as_json: bool) -> Summary:
        lines, record = ahead.sample(found), ahead.sample_as_json(found, done.whom)
        if not quiet:
            show.whom(done.whom)
        try:
            ahead.say(lines, record if as_json else None, quiet=quiet)
        except OSError as exc:
            self._unsaid = unwritable(exc)
        if self._plan is not None:
            try:
                notes = [*filter(None, [pretended.told(done.whom)]), *found.foreseen.notes, *found.foreseen.columns]
                self._plan.write(notes, lines, record)
            except Ending as ending:
                self._unsaid = ending
        if done.rescued:
            show.say(f"rows that the ledger could not take are in {', '.join(done.rescued)}: the whole run takes them")
        if not quiet:
            show.say(f"the answers are in {self._options.ledger}: the same command without --sample reuses them")
            show.say_command(f"to ask the rest: {self._again.whole()}")
        return done


class _FolderCommandRun(_CommandRun):
    """The same, of the lists of a folder."""

    def _make(self, client: AsyncClient) -> FolderRun:
        return FolderRun(client, self._calls, self._source, self._output, self._options)

    @property
    def _found(self) -> FolderSummary:
        return self._bulk.summary if isinstance(self._bulk, FolderRun) else FolderSummary()

    def _is_whole(self, done: Summary) -> bool:  # noqa: ARG002  # the folder's own says it
        return self._found.shards > 0 and not self._found.left

    def _where(self, done: Summary) -> str:  # noqa: ARG002  # as above
        return f"{self._found.left:,} of {self._found.shards:,} shards are not done"

    def _report(self, *, quiet: bool, as_json: bool) -> Summary:
        found, prices = self._found, self._options.known_prices
        assert self._options.ledger is not None
        ledger = place_of(self._options.ledger)
        if as_json:
            try:
                show.say_json(show.folder_as_json(found, ledger, prices))
            except OSError as exc:
                self._unsaid = unwritable(exc)
        if not quiet:
            show.whom(found.run.whom)
            show.folder(found, ledger, prices, self._told)
            self._say_what_is_left(found.run, ledger, found)
        else:
            for line in show.unread(found):
                show.say(f"error: {line}")
        return found.run

    def _exit_code(self, done: Summary) -> Exit:
        code, found = _exit_code(done), self._found
        if code is not Exit.OK:
            return code
        return Exit.PROBLEMS if found.problems or found.failed or found.checking or found.left else Exit.OK


@contextmanager
def _named_worker(of_folder: bool, options: BulkOptions) -> Iterator[None]:  # as `command` has it
    """Where a folder has its ledger on a server, workers may share a log: each names itself in all of its lines."""
    if not (of_folder and options.ledger is not None and isinstance(place_of(options.ledger), Server)):
        yield
        return
    name = f"worker {os.getpid()}"
    try:
        with show.as_worker(name):
            yield
    except Ending as exc:
        failed = Ending(f"{name}: {exc.message}", exc.code)
    else:
        return
    raise failed


def _say_resumed(answers: int) -> None:
    show.say(f"resuming: {answers:,} answers are in the ledger already")


def _exit_code(done: Summary) -> Exit:
    if not done.failed:
        return Exit.PROBLEMS if done.checking else Exit.OK
    if done.over_budget:
        return Exit.BUDGET
    return Exit.UNREACHABLE if done.unreached else Exit.PROBLEMS


@contextmanager
def _followed(bulk: BulkRun | FolderRun, display: show.Display | None) -> Iterator[None]:
    """Show on `display` how far `bulk` is, as long as this is open."""
    if display is None:
        yield
        return
    given_up = threading.Event()

    async def follow() -> None:
        counting: asyncio.Task[int | None] | None = None
        watched: BulkRun | None = None
        while True:
            await clock.sleep(display.every)
            now, where = (bulk.current, bulk.where) if isinstance(bulk, FolderRun) else (bulk, "")
            if now is None or (progress := now.progress) is None:
                continue
            if now is not watched:
                watched, counting = now, None
            if now.total is None and counting is None:
                counting = asyncio.create_task(asyncio.to_thread(now.count, given_up))
            counted = counting.result() if counting is not None and counting.done() else None
            total = counted if now.total is None else now.total
            if total is not None:
                total -= now.totals  # nothing is asked of them
            display.update(progress, total, now.trouble, making=now.making, where=where)

    with display:
        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            given_up.set()
