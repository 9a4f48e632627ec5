"""What a command was not given: told in one line, with an example of the command as it should be.

The example is one of those in the command's help. `--help` needs no more than this imports.
"""

from __future__ import annotations

import re
from types import TracebackType

import click

from aisolution_async.cli.ending import Ending, Exit

_EXAMPLE = re.compile(r"^ *(?:.+: {2,})?(aisolution .+)$", re.MULTILINE)


class Asking(click.Context):
    """The context of every command. It ends the command in one line where an argument or an option is missing."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        """See click."""
        left = super().__exit__(exc_type, exc_value, tb)
        if isinstance(exc_value, click.MissingParameter):
            missing = " and ".join(_name(self, param) for param in self.command.get_params(self) if _lacks(self, param))
            example = examples_of(self.command)[0]
            raise self._told(f"needs {missing}", example) from None
        if isinstance(exc_value, click.BadOptionUsage):  # it has no value, or one that it does not take
            name = exc_value.option_name
            param = next(each for each in self.command.get_params(self) if name in (*each.opts, *each.secondary_opts))
            problem = exc_value.message.rstrip(".")
            raise self._told(problem[:1].lower() + problem[1:], _example_with(self, param, name)) from None
        return left

    def _told(self, problem: str, example: str) -> Ending:
        path = self.command_path
        colon = "" if problem.startswith("needs ") else ":"
        return Ending(f"{path}{colon} {problem} (see {path} --help); for example: {example}", Exit.USAGE)


def asking(command: click.Command) -> None:
    """Let the command, and those below it, say what they lack."""
    command.context_class = Asking
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        asking(each)


def examples_of(command: click.Command) -> list[str]:
    """The examples in a command's help, each a line that can be copied."""
    return _EXAMPLE.findall(command.help or "")


def _lacks(ctx: click.Context, param: click.Parameter) -> bool:
    """Whether a parameter that has to be given is not: by the line, which was looked at first, or by anything else."""
    if not param.required or param.name in ctx.params:
        return False
    value, _ = param.consume_value(ctx, {})
    return param.value_is_missing(value)


def _name(ctx: click.Context, param: click.Parameter) -> str:
    return param.make_metavar(ctx) if isinstance(param, click.Argument) else max(param.opts, key=len)


def _example_with(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """An example of the command that has the option."""
    examples = examples_of(ctx.command)
    is_flag = isinstance(param, click.Option) and param.is_flag
    given = name if is_flag else f"{name} {param.make_metavar(ctx)}"
    return next((each for each in examples if {*param.opts} & {*each.split()}), f"{examples[0]} {given}")
