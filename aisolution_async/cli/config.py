"""`aisolution.toml`: options that are the same each time, said once.

A key is the long name of an option. Keys at the top, or of a group ([bulk]), are for every command below that has the
option; those of a command ([bulk.whatsapp-detail]) are for that one. What is said on the command line, or by the
environment, goes before.

A file that is named, by --config or AISOLUTION_CONFIG, may say all of them but the token. One that merely lies in the
current folder may be anybody's: it may say how the input is read, how many calls are made at once, what is shown, and
what limits a run further, and nothing that spends, replaces files, sends data elsewhere or turns a safety off. The
lists below have what it may say; what is on none of them, as an option that is added later, needs a file that is named.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from aisolution_async.cli.ending import Ending, Exit
from aisolution_async.cli.paths import PATH
from aisolution_async.names import is_file, perhaps, scheme_of

FILE = "aisolution.toml"
"""The file that is looked for in the current folder."""

_NOT_HERE = ("help", "version", "config")
NAMED = "aisolution_async.config.named"
"""What the context has once a file was named: its path."""

# What a file that nobody named may say, whatever it says.
HARMLESS = frozenset(
    (
        *("key", "img", "img1", "img2", "number", "person_id", "country", "country_column"),  # what stands where
        *("sheet", "skip_hidden", "header_row", "delimiter", "encoding"),  # how it is read
        *("images", "images_root"),  # a list may name any file without it, and none outside of it
        *("concurrency", "any_order", "strict_numbers", "servstatus"),  # how it is asked
        *("max_charges", "max_cost", "price", "dry_run", "sample"),  # what limits a run; see `check_price`
        *("quiet", "json", "unknown", "excel", "currency"),  # what is shown
        *("day", "count", "amount", "status", "decimal", "dates", "period"),  # how an invoice is read
        # The vendor, pretended.
        *("port", "latency", "latency_spread", "capacity", "fault", "seed", "callback_delay", "whatsapp_down"),
    )
)
# Files that it may name in the current folder, and below.
INSIDE = frozenset(("errors", "ledger"))
# Of what is given as NAME=…, the kinds of parameters that it may give: no address, and no file to be sent.
BY_KIND = {"column": frozenset(("image", "number", "country", "text")), "value": frozenset(("country", "flag"))}
# What the note of an output may say too, which may be anybody's just so: how its list was asked.
KEPT = frozenset(("endpoint", "fit", "give_up", "reuse_for", "recheck", "recheck_for", "sandbox"))
_WHERETO = ("base_url", "callback", "output", "token_file")


def config_option(*, of_root: bool = False, hidden: bool = False) -> click.Option:
    """`--config FILE`, which takes effect as it is read: before all other options."""
    return click.Option(
        ["--config"],
        type=PATH,
        envvar="AISOLUTION_CONFIG" if of_root else None,
        is_eager=True,
        hidden=hidden,
        expose_value=False,
        callback=_configure,
        help=f"A file of options, TOML.  [default: ./{FILE}, if it is there]",
    )


def name_variables(root: click.Command, path: tuple[str, ...]) -> None:
    """Let the environment say what the file may say: AISOLUTION_BULK_CONCURRENCY, AISOLUTION_BULK_ADD_FACE_KEY.

    That is for `root`, to which the names of `path` lead, and the commands below that are imported.
    """
    for names, command in _commands(root, path):
        if not any("--config" in param.opts for param in command.params):
            command.params.append(config_option(hidden=True))  # the file of the folder is read for it too
        prefixes = ["_".join(("AISOLUTION", *names[:length])) for length in range(len(names), 0, -1)]
        for name, param in _options(command).items():
            param.envvar = [f"{prefix}_{name}".upper().replace("-", "_") for prefix in prefixes]


def check_price(ctx: click.Context) -> None:
    """Raise Ending where a limit that somebody gave would be counted by the prices of a file that nobody named."""
    given = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    theirs = ctx.get_parameter_source("prices") is click.core.ParameterSource.DEFAULT_MAP
    if theirs and ctx.get_parameter_source("max_cost") in given and not ctx.meta.get(NAMED):
        raise Ending(
            f"--max-cost is counted by the prices of {FILE!r}, which nobody named: say --price, or --config {FILE}",
            Exit.USAGE,
        )


def is_kept(name: str, value: str | None, folder: Path) -> bool:
    """Whether the note of an output in `folder` may say that; `name` is that of the option, a flag has no `value`."""
    if name in INSIDE:
        return is_inside(value, folder)
    if name in BY_KIND:
        return not _foreign(name, value)
    return name in HARMLESS or name in KEPT


def _configure(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:  # noqa: ARG001  # click's
    from aisolution_async.cli.lazy import Lazy  # noqa: PLC0415  # which names the variables of what it imports

    root = ctx.find_root()
    if ctx.resilient_parsing:
        return
    if path is not None:
        ctx.meta[NAMED] = path
    # The file of the folder is read last, by the command itself: it may be given the name of another.
    elif ctx is root or ctx.meta.get(NAMED) or not perhaps(is_file, Path(FILE)):
        return
    assert isinstance(root.command, Lazy)
    root.command.load_all()  # the file may speak of any of them
    found = _read(path or Path(FILE), root.command, is_named=path is not None)
    for name in _path(ctx):
        found = found.get(name, {})
    ctx.default_map = found


def _read(path: Path, root: click.Group, *, is_named: bool) -> dict[str, Any]:
    """What the file says, as click's default map. Raises Ending."""
    import tomllib  # noqa: PLC0415  # slow to import, and there is seldom a file

    try:
        # Prices are money: they stay as they are written.
        said = tomllib.loads(path.read_bytes().decode("utf-8-sig"), parse_float=str)
    except OSError as exc:
        problem = f"cannot be read: {exc.strerror or type(exc).__name__}"
    except UnicodeDecodeError:
        problem = "is no text in UTF-8"
    except tomllib.TOMLDecodeError as exc:
        problem = f"is no TOML: {exc}"
    else:
        return _Map(path, is_named=is_named).of(root, said, {}, "")
    raise Ending(f"the configuration {str(path)!r} {problem}", Exit.USAGE)


class _Map:
    """The options of a file, told apart by command."""

    def __init__(self, path: Path, *, is_named: bool) -> None:
        self._path = path
        self._is_named = is_named

    def of(
        self, command: click.Command, said: Mapping[str, Any], above: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        """The default map of `command`, of what is `said` for it and, `above`, for all like it."""
        below = command.commands if isinstance(command, click.Group) else {}
        known = {name: param for each in _leaves(command) for name, param in _options(each).items()}
        own = dict(above)
        for key, value in said.items():
            name = key.replace("-", "_")
            if key in below and isinstance(value, dict):
                continue
            if name == "token":
                raise self._failed(
                    f"the token does not belong into {key!r}, where it is copied and committed: set AISOLUTION_TOKEN, "
                    "or name a file that only you can read as token-file",
                    where,
                )
            if name not in known:
                near = difflib.get_close_matches(key, [*(n.replace("_", "-") for n in known), *below], 1, 0.5)
                hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(sorted(known))}"
                raise self._failed(f"there is no option {key!r}{hint}", where)
            self._check(known[name], name, value, where)
            own[name] = self._value(known[name], key, value, where)
        if isinstance(command, click.Group):
            return {
                name: self.of(each, self._table(said, name), own, f"{where}{name}.") for name, each in below.items()
            }
        options = _options(command)
        return {str(options[name].name): value for name, value in own.items() if name in options}

    def _table(self, said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = said.get(name, {})
        return found if isinstance(found, dict) else {}

    def _check(self, param: click.Option, name: str, value: Any, where: str) -> None:
        """Raise Ending for what a file that nobody named may not say."""
        if self._is_named or name in HARMLESS or (param.is_flag and value is (param.default is True)):
            return
        why = "says where data goes" if name in _WHERETO else "may spend money, replace files, or turn a safety off"
        if name in INSIDE:
            if is_inside(value, Path.cwd()):
                return
            why = "leads out of this folder"
        elif name in BY_KIND:
            foreign = _foreign(name, value)
            if not foreign:
                return
            why = f"gives {foreign[0]!r}, which may say where data goes"
        raise self._failed(
            f"{name.replace('_', '-')!r} {why}: name the file with --config or AISOLUTION_CONFIG, or say it on the "
            "command line",
            where,
        )

    def _value(self, param: click.Option, key: str, value: Any, where: str) -> Any:
        if param.multiple and isinstance(value, dict):  # price = {facecompare = 0.05}
            value = [f"{name}={held}" for name, held in value.items()]
        if param.multiple and not isinstance(value, list):
            value = [value]
        if isinstance(value, dict) or (isinstance(value, list) and not param.multiple):
            raise self._failed(f"{key!r} takes one value", where)
        if (param.is_flag and not isinstance(value, bool)) or (not param.is_flag and isinstance(value, bool)):
            raise self._failed(f"{key!r} is {'true or false' if param.is_flag else 'a value, and neither'}", where)
        return [str(held) for held in value] if isinstance(value, list) else value if param.is_flag else str(value)

    def _failed(self, text: str, where: str) -> Ending:
        table = f", [{where.rstrip('.')}]" if where else ""
        return Ending(f"the configuration {str(self._path)!r}{table}: {text}", Exit.USAGE)


def _foreign(name: str, value: Any) -> list[str]:
    """The parameters that are spoken of, and that a file which nobody named may not give."""
    from aisolution_async.api import CALLS  # noqa: PLC0415  # slow to import, and there is seldom a file

    kinds = {parameter.name: parameter.kind.value for call in CALLS for parameter in call.endpoint.parameters}
    return [said for said in _names(value) if kinds.get(said) not in BY_KIND[name]]


def is_inside(value: Any, folder: Path) -> bool:
    """Whether the path stays in the folder, and so does all that is beside it under its name: FILE.part."""
    if scheme_of(str(value)) is not None:
        return False  # a URL
    try:
        here = Path(os.path.realpath(folder))
        path = here / Path(str(value)).expanduser()
        beside = [other for other in path.parent.iterdir() if other.name.startswith(path.name)]
        return all(Path(os.path.realpath(other)).is_relative_to(here) for other in (path.parent, path, *beside))
    except (OSError, RuntimeError, ValueError):  # no home folder is known
        return False


def _names(value: Any) -> list[str]:
    """The parameters that are spoken of: of "id-holding.img=selfie", "img"."""
    texts = value if isinstance(value, list | dict) else [value]
    return [str(text).partition("=")[0].strip().rpartition(".")[2] for text in texts]


def _path(ctx: click.Context) -> list[str]:
    """The names that lead to the command from the root."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return names


def _leaves(command: click.Command) -> Iterator[click.Command]:
    for _, each in _commands(command, ()):
        yield each


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands that are no groups, with the names that lead to them."""
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _commands(each, (*path, name))
    else:
        yield path, command


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command, by their long names."""
    return {
        name: param
        for param in command.params
        if isinstance(param, click.Option)
        for name in (max(param.opts, key=len).lstrip("-").replace("-", "_"),)
        if name not in _NOT_HERE
    }
