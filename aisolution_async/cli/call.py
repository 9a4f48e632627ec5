"""`aisolution call`: one question, one answer. The commands are made from the table in `api.py`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from aisolution_async.api import Call, Endpoint, Kind, Reply
from aisolution_async.bulk.results import answered
from aisolution_async.charges import Attempt
from aisolution_async.cli import show
from aisolution_async.cli.ending import EXIT_CODES, Ending, Exit, unwritable
from aisolution_async.cli.options import HELP, METAVARS, access_options, fit_options, option
from aisolution_async.cli.running import Access, check_stdout, connected, run, say_whom
from aisolution_async.errors import AISolutionError, NotSentError
from aisolution_async.hiding import redacted

_EXAMPLES = {
    Kind.IMAGE: "photo.jpg",
    Kind.NUMBER: "+6281387300008",
    Kind.TEXT: "c5r7jedkujdbnasarhn0",
}


def command_of(call: type[Call[Any]]) -> click.Command:
    """The command of one endpoint."""
    endpoint: Endpoint[Any] = call.endpoint
    params: list[click.Parameter] = []
    for parameter in endpoint.parameters:
        if parameter.required:
            params.append(click.Argument([parameter.name]))
        elif parameter.kind is Kind.FLAG:
            params.append(click.Option([option(parameter.name)], is_flag=True, help=HELP[parameter.kind]))
        else:
            metavar = METAVARS.get(parameter.kind)
            params.append(click.Option([option(parameter.name)], metavar=metavar, help=HELP[parameter.kind]))
    params += [
        click.Option(["--json", "as_json"], is_flag=True, help="Print one line of JSON."),
        *fit_options(endpoint.parameters),
        *access_options(),
    ]
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
        fit: bool = False,
        strict_numbers: bool = False,
        show_group_id: bool = False,
        **values: Any,
    ) -> None:
        check_stdout()
        access = Access(sandbox, token_file, base_url)
        options = {"fit": fit, "strict_numbers": strict_numbers}
        result, redact = run(_send(access, call(**values), options))
        if isinstance(result, AISolutionError):
            if as_json:
                _print(show.json_line(_account(endpoint, result.attempts, result.charge.value, error=result)))
            code = Exit.UNREACHABLE if isinstance(result, NotSentError) else Exit.PROBLEMS
            raise Ending(str(result), code)
        answer = redacted(answered(result), redact)
        if show_group_id:
            answer["group_id"] = getattr(result, "group_id", None)
        if as_json:
            _print(show.json_line(_account(endpoint, result.attempts, result.charge.value, answer=answer)))
        else:
            _print(_answer_text(answer, result))

    arguments = [p for p in endpoint.parameters if p.required]
    takes = "\n".join(f"  {p.name.upper():<10} {HELP[p.kind]}" for p in arguments)
    example = " ".join(_EXAMPLES.get(p.kind, p.name) for p in arguments)
    return click.Command(
        endpoint.command,
        callback=command,
        params=params,
        short_help=endpoint.summary,
        help=f"{endpoint.summary}\n\n\b\n{takes}\n\n\b\nExample:\n"
        f"  aisolution call {endpoint.command} {example}\n  aisolution call {endpoint.command} {example} --json",
        epilog=EXIT_CODES,
    )


async def _send(
    access: Access, call: Call[Any], options: Mapping[str, Any]
) -> tuple[Reply | AISolutionError, Callable[[str], str]]:
    """What came of the call, and a function that takes the token out of the vendor's words: they may go to a file."""
    async with connected(access, **options) as client:
        say_whom(access, client)
        try:
            reply: Reply = await client.send(call)
        except AISolutionError as exc:
            return exc, client.redact
        return reply, client.redact


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
    """On stdout; where that cannot be, on stderr, and Ending is raised: it may have been paid for."""
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
