"""The commands. Those of the endpoints are made from the table in `api.py`."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import aisolution_async
from aisolution_async import clock
from aisolution_async.api import CALLS, ENDPOINTS, Call, Endpoint, Kind, Reply
from aisolution_async.batch import GRACE
from aisolution_async.bulk import BulkError, BulkRun, Summary
from aisolution_async.bulk.results import answered, redacted
from aisolution_async.bulk.runner import CONCURRENCY, count_rows
from aisolution_async.charges import Attempt
from aisolution_async.cli import demo, ledger, show
from aisolution_async.cli.running import (
    EXIT_CODES,
    Access,
    Commands,
    Exit,
    Failed,
    connected,
    on_interrupt,
    run,
    started_sandbox,
    unwritable,
)
from aisolution_async.client import BASE_URL_VARIABLE, TOKEN_VARIABLE
from aisolution_async.errors import AISolutionError, NotSentError

_HELP = {
    Kind.IMAGE: "an image: its path, or base64",
    Kind.NUMBER: "a phone number",
    Kind.COUNTRY: "a two-letter country code, like ID",
    Kind.URL: "an http(s) address",
    Kind.TEXT: "text",
    Kind.FLAG: "set this parameter to y",
}
_METAVARS = {Kind.COUNTRY: "CC", Kind.URL: "URL"}
# Kinds of optional parameters that may differ from row to row.
_BY_COLUMN = (Kind.NUMBER, Kind.COUNTRY, Kind.TEXT)
_MOST_AT_ONCE = 1000


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(aisolution_async.__version__, prog_name="aisolution")
def aisolution() -> None:
    """Identity verification by the AI Solution API: one call, or a whole list.

    \b
    See it work, without a token:       aisolution demo
    One call:                           aisolution call face-compare selfie.jpg card.jpg
    A list:                             aisolution bulk whatsapp-detail list.csv -o results.csv

    The token is taken from the environment variable AISOLUTION_TOKEN or from a file (--token-file), never from
    the command line itself.
    """


@aisolution.group("call", epilog=EXIT_CODES)
def call_group() -> None:
    """Ask the vendor once."""


@aisolution.group("bulk", epilog=EXIT_CODES)
def bulk_group() -> None:
    """Ask the vendor for every row of a CSV file."""


@aisolution.command("sandbox")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where to listen on 127.0.0.1.  [default: free]")
@click.option(
    "--callbacks-anywhere", is_flag=True, help="Let callbacks go to any address.  [default: to this machine only]"
)
def sandbox_command(port: int, *, callbacks_anywhere: bool) -> None:
    """Serve the vendor, pretended, until Ctrl-C: no token, no internet, no bill."""
    run(_serve(port, callbacks_anywhere=callbacks_anywhere))


@aisolution.command("demo")
def demo_command() -> None:
    """Run a small list of made-up applicants through the sandbox, and show what comes out."""
    run(demo.run_demo(Console(highlight=False)))


def _access_options() -> list[click.Parameter]:
    return [
        click.Option(["--sandbox"], is_flag=True, help="Ask a sandbox that is started for this run: needs no token."),
        click.Option(
            ["--token-file"],
            type=click.Path(path_type=Path),
            help=f"A file with the token in it.  [default: ${TOKEN_VARIABLE}]",
        ),
        click.Option(["--base-url"], help=f"The vendor's address.  [default: ${BASE_URL_VARIABLE}, or the real one]"),
    ]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# --------------------------------------------------------------------------------------------------- one call


def _call_command(call: type[Call[Any]]) -> click.Command:
    endpoint: Endpoint[Any] = call.endpoint
    params: list[click.Parameter] = []
    for parameter in endpoint.parameters:
        if parameter.required:
            params.append(click.Argument([parameter.name]))
        elif parameter.kind is Kind.FLAG:
            params.append(click.Option([_option(parameter.name)], is_flag=True, help=_HELP[parameter.kind]))
        else:
            metavar = _METAVARS.get(parameter.kind)
            params.append(click.Option([_option(parameter.name)], metavar=metavar, help=_HELP[parameter.kind]))
    params += [click.Option(["--json", "as_json"], is_flag=True, help="Print one line of JSON."), *_access_options()]
    if "group_id" in endpoint.reply.model_fields:
        params.append(
            click.Option(["--show-group-id"], is_flag=True, help="Print the group id too: it is your access key.")
        )

    def command(
        *,
        as_json: bool,
        sandbox: bool,
        token_file: Path | None,
        base_url: str | None,
        show_group_id: bool = False,
        **values: Any,
    ) -> None:
        access = Access(sandbox, token_file, base_url)
        result, redact = run(_send(access, call(**values)))
        if isinstance(result, AISolutionError):
            if as_json:
                _print(show.json_line(_account(endpoint, result.attempts, result.charge.value, error=result)))
            code = Exit.UNREACHABLE if isinstance(result, NotSentError) else Exit.PROBLEMS
            raise Failed(str(result), code)
        answer = redacted(answered(result), redact)
        if show_group_id:
            answer["group_id"] = getattr(result, "group_id", None)
        if as_json:
            _print(show.json_line(_account(endpoint, result.attempts, result.charge.value, answer=answer)))
        else:
            _print(_answer_text(answer, result))

    arguments = [p for p in endpoint.parameters if p.required]
    takes = "\n".join(f"  {p.name.upper():<10} {_HELP[p.kind]}" for p in arguments)
    return click.Command(
        endpoint.command,
        callback=command,
        params=params,
        short_help=endpoint.summary,
        help=f"{endpoint.summary}\n\n\b\n{takes}",
        epilog=EXIT_CODES,
    )


async def _send(access: Access, call: Call[Any]) -> tuple[Reply | AISolutionError, Callable[[str], str]]:
    """What came of it, and what takes the token out of the vendor's words: they may go to a file."""
    async with connected(access) as client:
        redact = client._sender.requests.redact  # noqa: SLF001  # there is no public way
        try:
            reply: Reply = await client.send(call)
        except AISolutionError as exc:
            return exc, redact
        return reply, redact


def _account(
    endpoint: Endpoint[Any],
    attempts: Sequence[Attempt],
    charge: str,
    *,
    answer: Mapping[str, Any] | None = None,
    error: AISolutionError | None = None,
) -> dict[str, Any]:
    return {
        "ok": error is None,
        "endpoint": endpoint.name,
        "answer": answer,
        "charge": charge,
        "status": attempts[-1].status if attempts else None,
        "attempts": len(attempts),
        "error": error and type(error).__name__,
        "problem": error and show.clean(error),
    }


def _print(text: str) -> None:
    """On stdout; where that cannot be, on stderr, and Failed is raised: it may have been paid for."""
    try:
        click.echo(text, file=sys.stdout, nl=False, color=True)
    except OSError as exc:
        failed = unwritable(exc)
    else:
        return
    click.echo(text, nl=False, err=True)
    raise failed


def _answer_text(answer: Mapping[str, Any], reply: Reply) -> str:
    text = io.StringIO()
    console = Console(file=text, highlight=False, force_terminal=Console().is_terminal)
    rows: list[tuple[str, object]] = []
    for name, value in answer.items():
        if isinstance(value, list):
            rows.append((name, f"{len(value)}"))
            rows += [("", "  ".join(f"{inner} {held[inner]}" for inner in held)) for held in value]
        elif value is not None:
            rows.append((name, value))
    show.fields(console, [*rows, ("charge", show.charge(reply.charge)), ("attempts", len(reply.attempts))])
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------ a list


def _bulk_command(call: type[Call[Any]]) -> click.Command:
    endpoint: Endpoint[Any] = call.endpoint
    params: list[click.Parameter] = [
        click.Argument(["source"], metavar="INPUT", type=click.Path(path_type=Path)),
        click.Option(
            ["-o", "--output"],
            required=True,
            type=click.Path(path_type=Path),
            help="The results: .csv, .tsv or .jsonl.",
        ),
        click.Option(["--key"], metavar="COLUMN", help="The column of your own ids."),
    ]
    for parameter in endpoint.parameters:
        name, kind = parameter.name, parameter.kind
        if parameter.required:
            text = f"The column of {name}.  [default: {name}]"
            params.append(click.Option([_option(name), f"column_{name}"], metavar="COLUMN", help=text))
        else:
            flag: dict[str, Any] = {"is_flag": True} if kind is Kind.FLAG else {"metavar": _METAVARS.get(kind)}
            text = f"For all rows: {_HELP[kind]}."
            params.append(click.Option([_option(name), f"value_{name}"], help=text, **flag))
            if kind in _BY_COLUMN:
                option = [f"{_option(name)}-column", f"column_{name}"]
                params.append(click.Option(option, metavar="COLUMN", help=f"The column of {name}."))
    params += [
        click.Option(
            ["--concurrency"],
            type=click.IntRange(1, _MOST_AT_ONCE),
            default=CONCURRENCY,
            show_default=True,
            help="How many rows to ask at once.",
        ),
        click.Option(
            ["--ledger"],
            type=click.Path(path_type=Path),
            help="Where all is recorded, to be gone on from.  [default: OUTPUT.ledger]",
        ),
        click.Option(["--no-ledger"], is_flag=True, help="Record nothing: a stopped run begins from nothing again."),
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
            callback=_money,
            metavar="MONEY",
            help="Spend that much at most, over all runs with the ledger.",
        ),
        click.Option(
            ["--price", "prices"],
            callback=_prices,
            multiple=True,
            metavar="ENDPOINT=MONEY",
            help=f"What a charge costs: {endpoint.name}=0.05. May be repeated.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace results that exist already, even if paid for."),
        click.Option(["--quiet"], is_flag=True, help="Print nothing but errors."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the summary as one line of JSON on stdout."),
        *_access_options(),
    ]

    def command(
        *,
        source: Path,
        output: Path,
        key: str | None,
        concurrency: int,
        ledger: Path | None,
        no_ledger: bool,
        retry_unknown: int | None,
        max_charges: int | None,
        max_cost: Decimal | None,
        prices: Mapping[str, Decimal],
        overwrite: bool,
        quiet: bool,
        as_json: bool,
        sandbox: bool,
        token_file: Path | None,
        base_url: str | None,
        **chosen: Any,
    ) -> None:
        given = [(*name.split("_", 1), value) for name, value in chosen.items() if value not in (None, False)]
        job = _Job(
            call,
            source,
            output,
            columns={name: value for what, name, value in given if what == "column"},
            values={name: value for what, name, value in given if what == "value"},
            key=key,
            concurrency=concurrency,
            overwrite=overwrite,
            ledger=None if no_ledger else _ledger_of(output, ledger, sandbox=sandbox),
            retry_unknown=retry_unknown,
            max_charges=max_charges,
            max_cost=max_cost,
            prices=prices,
        )
        if no_ledger and ledger is not None:
            raise Failed("give either --ledger or --no-ledger", Exit.USAGE)
        code = run(job.run(Access(sandbox, token_file, base_url), quiet=quiet, as_json=as_json))
        click.get_current_context().exit(code)

    images = any(parameter.kind is Kind.IMAGE for parameter in endpoint.parameters)
    return click.Command(
        endpoint.command,
        callback=command,
        params=params,
        short_help=endpoint.summary,
        help=f"{endpoint.summary}\n\n{_BULK_HELP.format(images=_BULK_IMAGES if images else '')}",
        epilog=EXIT_CODES,
    )


_BULK_IMAGES = "Images are named by their paths, relative to INPUT's folder, or stand in it as base64."
_BULK_HELP = """
INPUT is a CSV (or TSV) file in UTF-8 whose first line names the columns. {images}

The output has every row of it, in order and with all its columns, and after them the results: ok, answer_…,
charge, status, attempts, error, problem. While it runs, and if it was stopped, the rows are in OUTPUT.part.
In .csv and .tsv, a result that a spreadsheet could take for a formula gets an apostrophe in front.

Ctrl-C stops it, and waits for the answers under way; Ctrl-C again waits only a moment longer. However it was
ended, run it again to go on: what was answered is in OUTPUT.ledger, is not paid for twice, and is written as if
the run had never been stopped. A call that may have been charged, and has no answer, is held: it is not sent
again unless --retry-unknown says so. The ledger holds personal data; see `aisolution ledger`.
"""


def _money(ctx: click.Context, param: click.Parameter, text: str | None) -> Decimal | None:  # noqa: ARG001  # click's
    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise click.BadParameter(f"{text!r} is no amount of money, like 0.05") from None


def _prices(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, Decimal]:
    prices = {}
    for text in texts:
        name, _, money = text.partition("=")
        price = _money(ctx, param, money.strip())
        if price is None or name.strip() not in _NAMES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(ENDPOINTS)}: it is like facecompare=0.05")
        prices[_NAMES[name.strip()]] = price
    return prices


_NAMES = {name: call.endpoint.name for call in CALLS for name in (call.endpoint.name, call.endpoint.command)}


def _ledger_of(output: Path, chosen: Path | None, *, sandbox: bool) -> Path:
    """Where the ledger is. Answers that are made up must never be taken for the vendor's."""
    if sandbox and chosen is not None:
        raise Failed("--sandbox has a ledger of its own: leave --ledger out", Exit.USAGE)
    return chosen or output.with_name(f"{output.name}{'.sandbox' if sandbox else ''}.ledger")


class _Job:
    """A run with what the command line adds to it: Ctrl-C, progress, and what is said at the end."""

    def __init__(self, call: type[Call[Any]], source: Path, output: Path, **options: Any) -> None:
        self._call = call
        self._source = source
        self._output = output
        self._options = options
        self._bulk: BulkRun | None = None
        self._running: asyncio.Task[Summary] | None = None
        self._pressed = 0
        self._unsaid: Failed | None = None

    async def run(self, access: Access, *, quiet: bool, as_json: bool) -> Exit:
        """Run it, and say what came of it; raises Failed where that is an error."""
        failed: Failed | None = None
        # Up to the last word: whoever presses Ctrl-C twice still wants to know where the results are.
        with on_interrupt(self._interrupt):
            try:
                await self._run(access, quiet=quiet)
            except BulkError as exc:
                failed = Failed(str(exc), Exit.PROBLEMS)
            except asyncio.CancelledError:  # Ctrl-C where signals cannot be handled
                self._report(access, quiet=quiet, as_json=as_json)
                raise
            done = self._report(access, quiet=quiet, as_json=as_json)
        if self._pressed and failed is None and not done.complete:
            where = "no row has a result" if done.part is None else f"the rows so far are in {str(done.part)!r}"
            if self._options["ledger"] is not None:
                where += "; run it again to go on"
            failed = Failed(f"interrupted: {where}", Exit.INTERRUPTED)
        if self._unsaid is not None:
            failed = Failed(f"{failed.message}; and {self._unsaid.message}", failed.code) if failed else self._unsaid
        if failed is not None:
            raise failed
        return _exit_code(done)

    async def _run(self, access: Access, *, quiet: bool) -> None:
        async with connected(access, max_connections=self._options["concurrency"]) as client:
            resumed = None if quiet else _say_resumed
            bulk = self._bulk = BulkRun(
                client, self._call, self._source, self._output, on_resume=resumed, **self._options
            )
            if self._pressed:
                return
            running = self._running = asyncio.create_task(bulk.run())
            with _followed(bulk, self._source, None if quiet else show.display()):
                try:
                    await asyncio.wait({running})
                finally:
                    if not running.done():
                        running.cancel()
                        await asyncio.wait({running})
            if not running.cancelled():
                running.result()

    def _interrupt(self) -> None:
        self._pressed += 1
        if self._pressed == 1:
            if self._bulk is not None:
                self._bulk.stop()
            show.say("stopping: waiting for the answers under way (Ctrl-C again: only a moment longer)")
        elif self._running is not None and not self._running.done():
            self._running.cancel()
            show.say(f"waiting {GRACE:.0f} s more at most" if self._pressed == 2 else "not waiting any longer")

    def _report(self, access: Access, *, quiet: bool, as_json: bool) -> Summary:
        done = Summary() if self._bulk is None else self._bulk.summary
        if as_json:
            try:
                show.say_json(show.as_json(done, self._options["ledger"]))
            except OSError as exc:
                self._unsaid = unwritable(exc)
        if not quiet:
            if access.sandbox:
                show.say("against the sandbox: the answers are made up, and nothing was really charged")
            show.summary(done, self._options["ledger"])
        return done


def _say_resumed(answers: int) -> None:
    show.say(f"resuming: {answers:,} answers are in the ledger already")


def _exit_code(done: Summary) -> Exit:
    if not done.failed:
        return Exit.OK
    if done.over_budget:
        return Exit.BUDGET
    unreachable = "NotSentError" in done.errors and not done.ok and done.errors.keys() <= {"InputError", "NotSentError"}
    return Exit.UNREACHABLE if unreachable else Exit.PROBLEMS


@contextmanager
def _followed(bulk: BulkRun, source: Path, display: show.Display | None) -> Iterator[None]:
    """Show on `display` how far `bulk` is, as long as this is open."""
    if display is None:
        yield
        return
    given_up = threading.Event()
    counting = asyncio.create_task(asyncio.to_thread(count_rows, source, given_up))

    async def follow() -> None:
        while True:
            await clock.sleep(display.every)
            progress = bulk.progress
            if progress is not None:
                display.update(progress, counting.result() if counting.done() else None)

    with display:
        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            given_up.set()


# ------------------------------------------------------------------------------------------------- the sandbox


async def _serve(port: int, *, callbacks_anywhere: bool) -> None:
    console = Console(highlight=False)
    ended = asyncio.Event()
    async with started_sandbox(port, callbacks_anywhere=callbacks_anywhere) as sandbox:
        with on_interrupt(ended.set):
            console.print("[bold]The vendor, pretended.[/] Answers are made up, and nothing is charged. To use it:\n")
            click.echo(f"  export {BASE_URL_VARIABLE}={sandbox.url}")
            click.echo(f"  export {TOKEN_VARIABLE}={sandbox.token}\n")
            console.print("Ctrl-C ends it.")
            await ended.wait()
    console.print("\nWhat it would have billed:", show.money(sandbox.bill))


aisolution.add_command(ledger.ledger_group)
for _each in CALLS:
    call_group.add_command(_call_command(_each))
    bulk_group.add_command(_bulk_command(_each))
del _each
