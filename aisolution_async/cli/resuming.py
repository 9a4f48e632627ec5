"""`aisolution bulk --resume OUTPUT`: the command that a list was run by, again, with the options that it had then.

The run keeps them in the note beside its output (`bulk/notes.py`). Whoever gives somebody the output may have written
the note. So it is not obeyed in what spends, replaces files, turns a safety off, or says where the token and the data
go: that is not kept in the first place, and has to be said again (`config.is_kept`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from aisolution_async.api import ENDPOINTS
from aisolution_async.bulk import looks, pretended, shell
from aisolution_async.bulk.disk import relative
from aisolution_async.bulk.notes import Note, is_finished, note_of, path_of, whole_of
from aisolution_async.bulk.outputs import STDOUT
from aisolution_async.bulk.shards import is_folder
from aisolution_async.cli import show
from aisolution_async.cli.config import NAMED, is_inside, is_kept
from aisolution_async.cli.ending import Ending, Exit
from aisolution_async.cli.lazy import Lazy
from aisolution_async.cli.running import foreseen, whom_now
from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger.urls import Server
from aisolution_async.names import exists, perhaps

# What is of one run alone. How much is spent on what is held is said each time.
_OF_ONE_RUN = (
    *("source", "output", "no_ledger", "dry_run", "sample", "plan", "overwrite", "quiet", "as_json"),
    *("retry_unknown", "rescued"),
)
_FIXED = ("no_ledger", "overwrite")
_SECRET = ("--value",)
_LINE, _DEFAULT = click.core.ParameterSource.COMMANDLINE, (None, click.core.ParameterSource.DEFAULT)
_MERGED = "aisolution_async.resuming.merged"
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def resumed(ctx: click.Context, args: Sequence[str], options: Sequence[click.Parameter]) -> list[str]:
    """The words that `--resume OUTPUT …` stands for, read by these `options` of the group."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    asking = click.Command(
        "bulk", params=[copy(option) for option in options], context_settings=settings, add_help_option=False
    )
    for param in asking.params:
        param.expose_value = True
    said = asking.make_context(ctx.info_name, [*args], parent=ctx.parent)
    output, source, more = said.params["resume"], said.params["input"], said.args
    if output is None:
        raise Ending("--input goes with --resume OUTPUT", Exit.USAGE)
    if not output.name:
        raise Ending(f"--resume goes on with the file OUTPUT, and {str(output)!r} is a directory", Exit.USAGE)
    with foreseen():
        note = note_of(output)
    if note is None or not note.command:
        what = "is not there" if note is None else "names no command"
        with foreseen():
            note_path, again = path_of(output), f"give the whole command again{_with_part(output)}"
        raise Ending(f"nothing says how {str(output)!r} was made: {str(note_path)!r} {what}; {again}", Exit.USAGE)
    name, command = _command_of(ctx, note, output)
    with command.make_context(name, [*more, "--", str(source or note.source)], parent=ctx) as now:
        fixed = [name for name in _FIXED if now.params[name]]
        if now.get_parameter_source("output") is _LINE:
            fixed.insert(0, "output")
        if fixed:
            option = fixed[0].replace("_", "-")
            raise Ending(f"--resume goes on with {str(output)!r} as it is: leave --{option} out", Exit.USAGE)
        is_quiet = now.params["quiet"]
        words = _words(command, note, output, now)
    with foreseen():
        is_over = source is None and not more and is_finished(output, note) and _is_same_vendor(note, now)
    if is_over:
        show.say(f"{output} is finished: all rows of {note.source} are answered, and nothing has to be done")
        ctx.exit(Exit.OK)
    is_noted, source = source is None, source or note.source
    with foreseen():
        is_there = str(source) == STDOUT or looks.is_file(source) or is_folder(source)
        lacks_mend = note.problems is not None and looks.is_file(output) and not looks.is_file(note.problems)
    if not is_there:
        raise Ending(f"the list {str(source)!r} is not there: say where it is now, with --input FILE", Exit.USAGE)
    if lacks_mend and not is_quiet:
        show.say(f"the file of problems {str(note.problems)!r} is not there: nothing of it is taken in")
    if is_noted and str(source) != STDOUT and not (is_quiet or is_inside(source.absolute(), output.parent)):
        show.say(f"reading {source}")
    if "--recheck" in words and not is_quiet and now.get_parameter_source("recheck") is not _LINE:
        show.say("with --recheck, as last time: --no-recheck leaves what is still being checked for later")
    return [name, *words, "-o", str(output), *more, "--", str(source)]


def _is_same_vendor(note: Note, now: click.Context) -> bool:
    """Whether who was asked then would be asked now: what a sandbox answered, the vendor did not."""
    return "--sandbox" in note.command or note.whom == pretended.noted(whom_now(now.params["base_url"]))


def _command_of(ctx: click.Context, note: Note, output: Path) -> tuple[str, click.Command]:
    """The command that the note names. Raises Ending."""
    group, name = ctx.command, str(note.command[0])
    assert isinstance(group, Lazy)
    group.load(name)
    command = group.commands.get(name)
    if command is None:
        raise _unreadable(output)
    return name, command


def _unreadable(output: Path) -> Ending:
    return Ending(
        f"{str(path_of(output))!r} cannot be read, which says what {str(output)!r} is of: take it away, and give the "
        "whole command again",
        Exit.USAGE,
    )


def _with_part(output: Path) -> str:
    """What else to say where a run without a ledger was stopped: its answers are in the part file alone."""
    part = output.with_name(f"{output.name}.part")
    ledgers = (output.with_name(f"{output.name}{ending}") for ending in (".ledger", ".sandbox.ledger"))
    has_ledger = any(map(looks.exists, ledgers))
    if has_ledger or not looks.is_file(part) or output.suffix.lower() == ".parquet":
        return ""
    return f", with {shell.shown('--rescued', part)}: the answers of a run without a ledger are there, and are paid for"


def run_mended(ctx: click.Context, source: Path, output: Path | None) -> None:
    """Where INPUT has rows with problems of OUTPUT: run the command that this was made by, with the options given now.

    It does not return then.
    """
    if ctx.meta.get(_MERGED) or ctx.parent is None or ctx.params["overwrite"] or ctx.params["no_ledger"]:
        return
    with foreseen():
        whole = whole_of(source, output)
    if whole is None or not whole.note.command:
        return
    ctx.meta[_MERGED] = True
    given = [word for word in _options_of(ctx, Path.cwd(), by_line=True) if isinstance(word, str)]
    assert output is not None
    name, command = _command_of(ctx.parent, whole.note, output)
    if ctx.command.name not in (name, *_endpoints(whole.note)):
        raise Ending(
            f"{str(output)!r} has the results of {' and '.join((name, *_endpoints(whole.note)))}: ask the same, or "
            "give the output another name",
            Exit.USAGE,
        )
    words = [*_words(command, whole.note, output, ctx), *given, "-o", str(output), "--", str(source)]
    with command.make_context(name, words, parent=ctx.parent) as again:
        command.invoke(again)
    ctx.exit(Exit.OK)


def _endpoints(note: Note) -> list[str]:
    return [str(value) for option, value in pairwise(note.command) if option == "--endpoint"]


def command_of(ctx: click.Context, output: Path | None) -> list[Any]:
    """The words of the command that is run, for the note: without INPUT and OUTPUT, and paths as seen from OUTPUT."""
    if output is None or str(output) == STDOUT:
        return []
    return [ctx.command.name, *_options_of(ctx, output.parent)]


def _words(command: click.Command, note: Note, output: Path, now: click.Context) -> list[str]:
    """The options that the note has. `now` has those that are said again, which a note may not say: else Ending."""
    try:
        words, asked = _read_words(command, note.command[1:], output.parent)
    except (KeyError, TypeError, ValueError, StopIteration):
        asked = None
    if asked is None:
        raise _unreadable(output)
    if "--price" in words and now.get_parameter_source("max_cost") not in _DEFAULT:
        asked.append("--price")  # whoever sets a limit says what it is counted by
        words = [word for option, word in pairwise(["", *words]) if "--price" not in (option, word)]
    missing = [option for option in dict.fromkeys(asked) if not _is_said(command, option, now)]
    if not missing:
        return words
    is_secret = all(option.partition(" ")[0] in _SECRET for option in missing)
    noted = {str(word["ask"]): word for word in note.command if _is_asked(word)}
    again = shell.go_on_with(output, None, [noted.get(option, {"ask": option}) for option in missing])
    show.say_command(f"the whole command is: {shell.shown(*again)}")
    one, why = len(missing) == 1, "may hold a secret" if is_secret else "may not be said by a file beside an output"
    raise Ending(
        f"{', '.join(missing)} {'is' if one else 'are'} not kept, as {'it' if one else 'they'} {why}: say "
        f"{'it again, with its value' if one else 'them again, with their values'}",
        Exit.USAGE,
    )


def _read_words(command: click.Command, words: Sequence[Any], folder: Path) -> tuple[list[str], list[str]]:
    """The options among the words of a note in `folder` that it may say, and those that have to be said again.

    Raises KeyError, TypeError, ValueError or StopIteration for what is no such note.
    """
    known = {name: param for param in _options(command) for name in (*param.opts, *param.secondary_opts)}
    found, asked, left = list[str](), list[str](), iter(words)
    for word in left:
        if not isinstance(word, str):
            asked.append(str(word["ask"]))
            continue
        param, value, path = known[word], None, None
        if not param.is_flag:
            value = next(left)
            if isinstance(param.type, click.Path):
                path = folder / value["path"]
                value = str(path)
            if not isinstance(value, str):
                raise TypeError(word)
        if is_kept(_long(param), value if path is None else str(path.absolute()), folder):
            found += [word] if value is None else [word, value]
        else:
            asked.append(word)
    return found, asked


def _is_said(command: click.Command, option: str, now: click.Context) -> bool:
    """Whether somebody says the option now: on the command line, in a file that is named, or in the environment."""
    name, _, parameter = option.partition(" ")
    if parameter:
        last = parameter.rpartition(".")[2]
        said = now.params["values"]
        return any(key.rpartition(".")[2] == last for key in said) or now.params.get(f"value_{last}") is not None
    param = next((param for param in _options(command) if name in (*param.opts, *param.secondary_opts)), None)
    return param is not None and now.get_parameter_source(str(param.name)) not in _DEFAULT


def _options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def _long(param: click.Option) -> str:
    return max(param.opts, key=len).lstrip("-").replace("-", "_")


def _options_of(ctx: click.Context, folder: Path, *, by_line: bool = False) -> Iterator[Any]:
    """The options that were given; `by_line`: those of the command line, just as they are, and of this run too."""
    for param in ctx.command.params:
        name, source = str(param.name), ctx.get_parameter_source(str(param.name))
        is_kept = source is _LINE if by_line else source not in _DEFAULT and name not in _OF_ONE_RUN
        if isinstance(param, click.Option) and is_kept and name in ctx.params and name != "output":
            yield from _words_of(param, ctx.params[name], None if by_line else folder)


def _words_of(param: click.Option, value: Any, folder: Path | None) -> Iterator[Any]:
    """An option as it is typed, or as it is kept in a note in `folder`."""
    long = max(param.opts, key=len)
    if param.is_flag:
        word = long if value else (param.secondary_opts or [long])[0]
        if folder is not None and value is (param.default is True):
            return
        yield word if folder is None or is_kept(_long(param), None, folder) else {"ask": word, "flag": True}
        return
    for each in _each(value):
        if folder is None:
            yield from (long, each.url.value if isinstance(each, Server) else str(each))
        elif isinstance(each, Server):
            yield {"ask": long}  # where data goes
        elif not is_kept(_long(param), str(each if not isinstance(each, Path) else each.absolute()), folder):
            yield {"ask": f"{long} {each.partition('=')[0]}" if param.name in ("values", "columns") else long}
        elif isinstance(each, Path):
            yield from (long, {"path": relative(folder, each)})
        else:
            yield from (long, str(each))


def _each(value: Any) -> list[Any]:
    """The values of an option, as words; an option that says no more than its default has none."""
    if value is None:
        return []
    if isinstance(value, Mapping):  # prices are by the vendor's names of the endpoints
        commands = {name: ENDPOINTS[name].command if name in ENDPOINTS else name for name in value}
        return [f"{commands[name]}={held}" for name, held in value.items()]
    if isinstance(value, float):
        whole = next((f"{value // size:.0f}{unit}" for size, unit in _UNITS if value % size == 0), None)
        return [whole or f"{value:.3f}s"]
    return [*value] if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True, slots=True)
class NextCommand:
    """The commands that go on with a run, whole, to be pasted into a shell. `ctx` is that of the run's own command.

    `is_kept`: there is a ledger to go on from. What may be secret (a password, the value of a parameter) is left out.
    """

    ctx: click.Context | None
    source: Path
    output: Path
    is_kept: bool

    def __call__(self, *more: str) -> str:
        """The command that goes on with the run; `more` are options of it."""
        is_noted = False
        with suppress(ConfigurationError):  # the whole command says all
            is_noted = self.is_kept and str(self.output) != STDOUT and looks.is_file(path_of(self.output))
        return self._resume(*more) if is_noted or self.ctx is None else self.whole(*more)

    def whole(self, *more: str, mend: Path | None = None, output: Path | None = None) -> str:
        """The run's own command, without what is of one run alone; of the file `mend` of rows with problems, if named.

        Those have an `output` of their own then.
        """
        assert self.ctx is not None
        output = output or self.output
        named = self.ctx.meta.get(NAMED)
        config = [] if named is None else ["--config", str(named)]
        words = [*self._said(leaves="problems" if mend is not None else ""), *config, *more]
        if self.source_is_stdin and mend is None:
            return f"{self._shown(self.ctx.command.name, STDOUT, '-o', output, *words)} < FILE{_AS_READ}"
        source = mend or self.source
        first = f"./{source}" if str(source).startswith("-") else str(source)
        return self._shown(self.ctx.command.name, first, "-o", output, *words)

    def given(self, name: str) -> bool:
        """Whether an option was given."""
        return self.ctx is not None and self.ctx.params.get(name) is not None

    @property
    def source_is_stdin(self) -> bool:
        """Whether the rows came by standard input, and have to come again."""
        return str(self.source) == STDOUT

    def _resume(self, *more: str) -> str:
        asked = self._said(self.output.parent)
        if self.source_is_stdin:
            return f"{self._shown('--resume', self.output, '--input', 'FILE', *asked, *more)}{_AS_READ}"
        return self._shown("--resume", self.output, *asked, *more)

    def _said(self, folder: Path | None = None, *, leaves: str = "") -> list[str]:
        """The options that were given, as they are given again, but for the one that `leaves` names.

        With a `folder`: only those that no note in it may say.
        """
        words = list[str]()
        if self.ctx is None:
            return words
        for param in _options(self.ctx.command):
            name, source = str(param.name), self.ctx.get_parameter_source(str(param.name))
            is_said = source is _LINE or (source is click.core.ParameterSource.DEFAULT_MAP and folder is not None)
            if not is_said or name in (*_OF_THAT_RUN, leaves) or name not in self.ctx.params:
                continue
            value = self.ctx.params[name]
            if name == "rescued" and not all(perhaps(exists, path) for path in value):
                continue  # they are taken
            if folder is None or any(_is_asked(word) for word in _words_of(param, value, folder)):
                words += _harmless(param, value)
        return words

    def _shown(self, *words: object) -> str:
        name = "aisolution bulk" if self.ctx is None or self.ctx.parent is None else self.ctx.parent.command_path
        return f"{name} {shell.shown(*words)}"


_AS_READ = ", where FILE has the rows that were read here"
_OF_THAT_RUN = tuple(name for name in _OF_ONE_RUN if name not in ("no_ledger", "rescued"))


def _is_asked(word: Any) -> bool:
    return isinstance(word, dict) and "ask" in word


def _harmless(param: click.Option, value: Any) -> Iterator[str]:
    """The words of an option, without what may be secret."""
    long = max(param.opts, key=len)
    if param.is_flag:
        yield from _words_of(param, value, None)
        return
    for each in _each(value):
        text = str(each)  # the URL of a server without its password
        if not is_kept(_long(param), text, Path.cwd()):
            if str(param.name) == "values":
                text = f"{text.partition('=')[0]}={shell.HIDDEN}"
            elif str(param.name).startswith("value_"):
                text = shell.HIDDEN
        yield from (long, text)
