"""Groups whose commands are imported when they are asked for: `--help` needs nothing of what they need."""

from __future__ import annotations

import gc
import importlib
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import click

from aisolution_async.cli.config import name_variables
from aisolution_async.cli.ending import BEGUN, Ending, Exit, unwritable
from aisolution_async.cli.lacking import Asking, asking


class Lazy(click.Group):
    """A group that knows what its commands are called and do, and imports each as it is called.

    `path` are the names that lead to the group, from the root.
    """

    context_class = Asking

    def __init__(self, *args: Any, path: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._path = path

    @abstractmethod
    def offers(self) -> Mapping[str, click.Command]:
        """What stands in for each command in the list of them: its line of help is the command's own."""

    @abstractmethod
    def imported(self, name: str) -> click.Command:
        """The command of that name."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """See click. What a command lacks is told in one way, whatever the command."""
        asking(cmd)
        super().add_command(cmd, name)

    def load(self, name: str) -> None:
        """Make the command of that name ready to be called, if there is one."""
        if name not in self.commands and name in self.offers():
            with _without_collector():
                command = self.imported(name)
            self.add_command(command)
            name_variables(command, (*self._path, name))

    def load_all(self) -> None:
        """Make all commands ready, and those of the groups below."""
        for name in self.offers():
            self.load(name)
        for command in self.commands.values():
            if isinstance(command, Lazy):
                command.load_all()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return sorted({*super().list_commands(ctx), *self.offers()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        return super().get_command(ctx, cmd_name) or self.offers().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click."""
        self.load(args[0])
        return super().resolve_command(ctx, args)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Import without the garbage collector, which would look through all modules again and again, and find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Commands(Lazy):
    """All commands. They end in one line where their stdout cannot be written."""

    _OFFERS: ClassVar = {
        "ledger": ("ledger_group", "Look into a ledger, settle what is open, compare it with an invoice."),
        "report": (
            "report_command",
            "Make one HTML file of FILE, for a person to look at: on a screen, a telephone or paper.",
        ),
        "sandbox": ("sandbox_command", "Serve the vendor, pretended, until Ctrl-C."),
    }

    def offers(self) -> Mapping[str, click.Command]:
        """See `Lazy`."""
        return {name: click.Command(name, help=line) for name, (_, line) in self._OFFERS.items()}

    def imported(self, name: str) -> click.Command:
        """See `Lazy`."""
        command: click.Command = getattr(importlib.import_module(f"aisolution_async.cli.{name}"), self._OFFERS[name][0])
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """See click. Ctrl-C before anything was begun ends in one line, as it does afterwards."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            text = "interrupted" if ctx.meta.get(BEGUN) else "interrupted: nothing was sent"
        raise Ending(text, Exit.INTERRUPTED)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """See click. A reader that went away is no error, and click's to deal with."""
        try:
            return super().main(*args, **kwargs)
        except OSError as exc:
            if exc.filename is not None:  # the errors of files that have names are foreseen elsewhere
                raise
            failed = unwritable(exc)
        with suppress(OSError):
            failed.show()
        sys.exit(failed.exit_code)


class Endpoints(Lazy):
    """A command for each endpoint, which may be called by any of the endpoint's spellings.

    They are made by the function `command_of` of the module that has the group's name.
    """

    def offers(self) -> Mapping[str, click.Command]:
        """See `Lazy`."""
        from aisolution_async.api import CALLS  # noqa: PLC0415  # slow to import

        offered = [call.endpoint for call in CALLS]
        return {each.command: click.Command(each.command, short_help=each.summary) for each in offered}

    def imported(self, name: str) -> click.Command:
        """See `Lazy`."""
        from aisolution_async.api import CALLS  # noqa: PLC0415  # slow to import

        module = importlib.import_module(f"aisolution_async.cli.{self.name}")
        command: click.Command = next(module.command_of(call) for call in CALLS if call.endpoint.command == name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click."""
        from aisolution_async.api import endpoint_of  # noqa: PLC0415  # slow to import

        found = endpoint_of(args[0])
        return super().resolve_command(ctx, args if found is None else [found.command, *args[1:]])
