"""`aisolution sandbox`: the vendor, pretended, until Ctrl-C."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.console import Console

from aisolution_async.bulk import shell
from aisolution_async.cli import show
from aisolution_async.cli.running import on_interrupt, run
from aisolution_async.client import BASE_URL_VARIABLE, TOKEN_VARIABLE
from aisolution_async.errors import ConfigurationError
from aisolution_async.sandbox import Fault, Sandbox
from aisolution_async.sandbox.faults import KINDS

_HELP = f"""Serve the vendor, pretended, until Ctrl-C: no token, no internet, no bill.

\b
Examples:
  aisolution sandbox --port 8080
  aisolution sandbox --fault reset-after:0.02 --latency 0.3

\b
Answers without configuration: numbers that end in 000 to 999 after
+6281200000 (ID), +639170000 (PH), +919000000 (IN) or +84900000 (VN) are
answered as /_sandbox/numbers lists them; /_sandbox/images/NAME has such
pictures. /_sandbox/ shows the bill, and sets faults and the clock.

\b
Faults: KIND[:RATE][,name=value...]
  --fault reset-after:0.02             2 in 100 are charged, and never answered
  --fault http-503,start=10,end=20     an outage, 10 to 20 s after the start
  --fault hang:0.01,endpoint=addface   of one endpoint
  --fault status-FAIL,times=3          three times
Kinds: {", ".join(list(KINDS)[:7])},
  {", ".join(list(KINDS)[7:-2])}, http-NNN, status-NAME.
"""


def _fault(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> list[Fault]:
    try:
        return [Fault.parse(text) for text in texts]
    except ValueError as error:
        problem = str(error)
    raise click.BadParameter(problem)


@click.command("sandbox", help=_HELP, short_help="Serve the vendor, pretended, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where to listen on 127.0.0.1.  [default: free]")
@click.option("--token", default="sandbox-token", show_default=True, help="The token to accept; it opens nothing else.")
@click.option(
    "--callbacks-anywhere", is_flag=True, help="Let callbacks go to any address.  [default: to this machine only]"
)
@click.option("--callback-delay", type=click.FloatRange(0), default=0.0, help="Seconds until a number is called back.")
@click.option("--whatsapp-down", is_flag=True, help="A vendor whose WhatsApp service is down.")
@click.option("--latency", type=click.FloatRange(0), help="Answer so many seconds late.")
@click.option(
    "--latency-spread", type=click.FloatRange(0, 5), help="How much that varies: log-normal, with this sigma."
)
@click.option(
    "--capacity", type=click.FloatRange(0, min_open=True), help="Calls a second; all over that are told RETRY_LATER."
)
@click.option("--fault", "faults", callback=_fault, multiple=True, metavar="FAULT", help="See above; may be repeated.")
@click.option("--seed", type=int, default=0, help="Which requests are hit by faults: the same for the same seed.")
def sandbox_command(
    *,
    port: int,
    token: str,
    callbacks_anywhere: bool,
    callback_delay: float,
    whatsapp_down: bool,
    latency: float | None,
    latency_spread: float | None,
    capacity: float | None,
    faults: list[Fault],
    seed: int,
) -> None:
    """See `_HELP`."""
    if latency_spread is not None and latency is None:
        raise click.UsageError("--latency-spread says how --latency varies: give both")
    if latency:
        faults = [Fault("latency", seconds=latency, spread=latency_spread), *faults]
    if capacity is not None:
        faults = [Fault("capacity", per_second=capacity), *faults]
    options: dict[str, Any] = {
        "token": token,
        "callbacks_anywhere": callbacks_anywhere,
        "callback_delay": callback_delay,
        "whatsapp_available": not whatsapp_down,
        "faults": faults,
        "seed": seed,
    }
    run(_serve(port, options))


async def _serve(port: int, options: dict[str, Any]) -> None:
    console = Console(highlight=False)
    ended = asyncio.Event()
    sandbox = await _started(port, options)
    try:
        with on_interrupt(ended.set):
            console.print("[bold]The vendor, pretended.[/] Answers are made up, and nothing is charged. To use it:\n")
            click.echo(f"  export {BASE_URL_VARIABLE}={sandbox.url}")
            click.echo(f"  export {TOKEN_VARIABLE}={_quoted(sandbox.token)}\n")
            click.echo(f"  curl '{sandbox.url}/v1/gliswadetail?token=…' -d number=%2B6281387300008")
            click.echo(f"  {sandbox.url}/_sandbox/ shows the bill, and sets what goes wrong.\n")
            for fault in sandbox.faults:
                said = ", ".join(f"{name} {value}" for name, value in fault.to_json().items())
                click.echo(f"  goes wrong: {show.clean(said)}")
            console.print("Ctrl-C ends it.")
            await ended.wait()
    finally:
        await sandbox.aclose()
    console.print("\nWhat it would have billed:", show.money(sandbox.bill))


async def _started(port: int, options: dict[str, Any]) -> Sandbox:
    try:
        sandbox = Sandbox(port, **options)
        await sandbox.start()
    except OSError as exc:
        problem = f"port {port} cannot be used ({exc.strerror or type(exc).__name__}): choose another one with --port"
    except (RuntimeError, ValueError) as exc:  # Pillow is missing; the token is empty
        problem = str(exc)
    else:
        return sandbox
    raise ConfigurationError(problem)


def _quoted(token: str) -> str:
    """The token as a shell takes it, and as a terminal is safe from it."""
    return shell.shown(show.clean(token))
