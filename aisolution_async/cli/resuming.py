"""`aisolution bulk --resume OUTPUT`: the command that a list was run by, again, with the options that it had then.

The run keeps them in the note beside its output (`bulk/notes.py`), the token aside, and addresses that may hold a
secret: those have to be said again.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx

from aisolution_async.bulk.notes import Note, is_finished, note_of, path_of, whole_of
from aisolution_async.bulk.outputs import STDOUT, relative
from aisolution_async.cli import show
from aisolution_async.cli.ending import Ending, Exit
from aisolution_async.cli.lazy import Lazy
from aisolution_async.cli.running import foreseen
from aisolution_async.ledger.urls import Server

# What is of one run alone. How much is spent on what is held is said each time.
_OF_ONE_RUN = (
    *("source", "output", "no_ledger", "dry_run", "sample", "plan", "overwrite", "quiet", "as_json"),
    *("retry_unknown", "rescued"),
)
_FIXED = ("-o", "--output", "--no-ledger", "--overwrite")
_PLAIN_PATHS = ("", "/", "/v1", "/v1/")
_MERGED = "aisolution_async.resuming.merged"
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def resumed(ctx: click.Context, args: Sequence[str], options: Sequence[click.Parameter]) -> list[str]:
    """The words that `--resume OUTPUT …` stands for, read by these `options` of the group."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    asking = click.Command("bulk", params=[copy(option) for option in options], context_settings=settings)
    for param in asking.params:
        param.expose_value = True
    said = asking.make_context(ctx.info_name, [*args], parent=ctx.parent)
    output, source, more = said.params["resume"], said.params["input"], said.args
    if output is None:
        raise Ending("--input goes with --resume OUTPUT", Exit.USAGE)
    fixed = next((word for word in more if word.partition("=")[0] in _FIXED), None)
    if fixed is not None:
        raise Ending(f"--resume goes on with {str(output)!r} as it is: leave {fixed} out", Exit.USAGE)
    with foreseen():
        note = note_of(output)
    if note is None or not note.command:
        what = "is not there" if note is None else "names no command"
        again = f"give the whole command again{_with_part(output)}"
        raise Ending(f"nothing says how {str(output)!r} was made: {str(path_of(output))!r} {what}; {again}", Exit.USAGE)
    if source is None and is_finished(output, note) and not more:
        show.say(f"{output} is finished: all rows of {note.source} are answered, and nothing has to be done")
        ctx.exit(Exit.OK)
    source = source or note.source
    if str(source) != STDOUT and not source.is_file():
        raise Ending(f"the list {str(source)!r} is not there: say where it is now, with --input FILE", Exit.USAGE)
    return [str(note.command[0]), *_words(note, output, more), "-o", str(output), *more, "--", str(source)]


def _with_part(output: Path) -> str:
    """What else to say where a run without a ledger was stopped: its answers are in the part file alone."""
    part = output.with_name(f"{output.name}.part")
    has_ledger = any(output.with_name(f"{output.name}{ending}").exists() for ending in (".ledger", ".sandbox.ledger"))
    if has_ledger or not part.is_file() or output.suffix.lower() == ".parquet":
        return ""
    return f", with --rescued {_quoted(part)}: the answers of a run without a ledger are there, and are paid for"


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
    group = ctx.parent.command
    assert isinstance(group, Lazy)
    name = str(whole.note.command[0])
    group.load(name)
    command = group.get_command(ctx.parent, name)
    assert command is not None
    assert output is not None
    if ctx.command.name not in (name, *_endpoints(whole.note)):
        raise Ending(
            f"{str(output)!r} has the results of {' and '.join((name, *_endpoints(whole.note)))}: ask the same, or "
            "give the output another name",
            Exit.USAGE,
        )
    words = [*_words(whole.note, output, given), *given, "-o", str(output), "--", str(source)]
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


def _words(note: Note, output: Path, more: Sequence[str]) -> list[str]:
    """The options that the note has. Raises Ending for one that it must not have, and that is not said again."""
    found = []
    for word in note.command[1:]:
        if isinstance(word, str):
            found.append(word)
        elif "path" in word:
            found.append(str(output.parent / word["path"]))
        elif not any(said == word["ask"] or said.startswith(f"{word['ask']}=") for said in more):
            raise Ending(
                f"{word['ask']} is not kept, as it may hold a secret: say it again, with its value", Exit.USAGE
            )
    return found


def _options_of(ctx: click.Context, folder: Path, *, by_line: bool = False) -> Iterator[Any]:
    """The options that were given; `by_line`: those of the command line, just as they are, and of this run too."""
    default, line = (None, click.core.ParameterSource.DEFAULT), click.core.ParameterSource.COMMANDLINE
    for param in ctx.command.params:
        name, source = str(param.name), ctx.get_parameter_source(str(param.name))
        is_kept = source is line if by_line else source not in default and name not in _OF_ONE_RUN
        if isinstance(param, click.Option) and is_kept and name in ctx.params and name != "output":
            yield from _words_of(param, ctx.params[name], None if by_line else folder)


def _words_of(param: click.Option, value: Any, folder: Path | None) -> Iterator[Any]:
    """An option as it is typed, or as it is kept in a note in `folder`."""
    long = max(param.opts, key=len)
    if param.is_flag:
        yield long if value else (param.secondary_opts or [long])[0]
        return
    for each in _each(value):
        if folder is None:
            yield from (long, each.url.value if isinstance(each, Server) else str(each))
        elif isinstance(each, Path):
            yield from (long, {"path": relative(folder, each)})
        elif param.name == "value_callback" or _may_hide(param, each):
            yield {"ask": long}
        elif param.name == "values" and each.partition("=")[0].rpartition(".")[2] == "callback":
            yield {"ask": each.partition("=")[0]}
        else:
            yield from (long, str(each))


def _each(value: Any) -> list[Any]:
    """The values of an option, as words; an option that says no more than its default has none."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{name}={held}" for name, held in value.items()]
    if isinstance(value, float):
        whole = next((f"{value // size:.0f}{unit}" for size, unit in _UNITS if value % size == 0), None)
        return [whole or f"{value:.3f}s"]
    return [*value] if isinstance(value, list | tuple) else [value]


def _may_hide(param: click.Option, value: Any) -> bool:
    """Whether a value is an address that may have a secret in it."""
    return value.hides if isinstance(value, Server) else param.name == "base_url" and not _is_plain(value)


def _is_plain(address: str) -> bool:
    """Whether an address can hold no secret: nothing but where the vendor is."""
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        return False
    return not (url.userinfo or url.query or url.fragment) and url.path in _PLAIN_PATHS


def told(ctx: click.Context | None, output: Path) -> str:
    """The command that goes on with `output`."""
    name = "aisolution bulk" if ctx is None or ctx.parent is None else ctx.parent.command_path
    return f"{name} --resume {_quoted(output)}"


def _quoted(path: Path) -> str:
    text = str(path)
    if os.name == "nt":
        return f'"{text}"' if " " in text else text
    return shlex.quote(text)
