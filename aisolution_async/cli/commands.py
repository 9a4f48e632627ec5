"""The command line as a whole: its groups, and what needs no file of its own."""

from __future__ import annotations

import click

import aisolution_async
from aisolution_async.cli.config import config_option, name_variables
from aisolution_async.cli.ending import EXIT_CODES
from aisolution_async.cli.lazy import Commands, Endpoints
from aisolution_async.cli.paths import PATH

_PROGRAM = "aisolution"


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.version_option(aisolution_async.__version__, prog_name=_PROGRAM)
def aisolution() -> None:
    """Identity verification by the AI Solution API: one call, or a whole list.

    \b
    See it work, without a token:       aisolution demo
    One call:                           aisolution call face-compare selfie.jpg card.jpg
    A list:                             aisolution bulk whatsapp-detail list.csv -o results.csv
    What a list would cost:             aisolution bulk whatsapp-detail list.csv --dry-run

    The token is taken from the environment variable AISOLUTION_TOKEN or from a file (--token-file), never from
    the command line itself. All other options can be in a file, --config FILE: their long names, under [bulk] or
    [bulk.whatsapp-detail] and so on; or in the environment, as in AISOLUTION_BULK_CONCURRENCY=100 or
    AISOLUTION_BULK_WHATSAPP_DETAIL_COUNTRY=ID. An aisolution.toml in this folder that nobody named may say how INPUT
    is read and what limits a run, and nothing that spends, replaces files, or sends data elsewhere.
    """


@aisolution.group("call", cls=Endpoints, path=("call",), epilog=EXIT_CODES)
def call_group() -> None:
    """Ask the vendor once.

    \b
    Example:
      aisolution call face-compare selfie.jpg card.jpg
    """


class ListCommands(Endpoints):
    """The commands for lists; `--resume OUTPUT` in their place stands for the one that OUTPUT was made by."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        if args and args[0].partition("=")[0] in ("--resume", "--input") and not ctx.resilient_parsing:
            from aisolution_async.cli import resuming  # noqa: PLC0415  # slow to import

            args = resuming.resumed(ctx, args, _RESUME)
        return super().parse_args(ctx, args)


_RESUME = (
    click.Option(
        ["--resume"],
        type=PATH,
        metavar="OUTPUT",
        expose_value=False,
        help="Go on with OUTPUT, by the command that it is of: after any end of a run, and once rows were mended. "
        "More options of that command may follow.",
    ),
    click.Option(
        ["--input"],
        type=PATH,
        metavar="FILE",
        expose_value=False,
        help="With --resume: where the list is now, if it was moved.",
    ),
)


@aisolution.group("bulk", cls=ListCommands, path=("bulk",), params=[*_RESUME], epilog=EXIT_CODES)
def bulk_group() -> None:
    """Ask the vendor for every row of a list: a workbook, CSV, JSONL or Parquet.

    \b
    Examples:
      aisolution bulk whatsapp-detail applicants.xlsx -o checked.csv --country ID
      aisolution bulk face-compare applicants.csv -o all.csv --endpoint whatsapp-detail --errors mend.csv
      aisolution bulk --resume all.csv
    """


@aisolution.command("demo")
def demo_command() -> None:
    """Run a small list of made-up applicants through the sandbox, and show what comes out.

    \b
    Example:
      aisolution demo
    """
    from rich.console import Console  # noqa: PLC0415  # these are slow to import

    from aisolution_async.cli import demo  # noqa: PLC0415
    from aisolution_async.cli.running import run  # noqa: PLC0415

    run(demo.run_demo(Console(highlight=False)))


@aisolution.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete commands, options and files.

    \b
    To have it in every new shell:
      aisolution completion bash > ~/.aisolution-complete && echo '. ~/.aisolution-complete' >> ~/.bashrc
      aisolution completion zsh > ~/.aisolution-complete && echo '. ~/.aisolution-complete' >> ~/.zshrc
      aisolution completion fish > ~/.config/fish/completions/aisolution.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class  # noqa: PLC0415  # slow to import

    found = get_completion_class(shell)
    assert found is not None
    # Not the class's own source(): for bash it runs the bash of this machine first.
    click.echo(ShellComplete.source(found(aisolution, {}, _PROGRAM, f"_{_PROGRAM.upper()}_COMPLETE")))


aisolution.params.append(config_option(of_root=True))
name_variables(aisolution, ())
