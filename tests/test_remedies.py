"""Disks that are full, and files and folders that may not be read or written: what, where, and what helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from aisolution_async import ConfigurationError
from aisolution_async.bulk import BulkError, FolderSummary, books
from aisolution_async.bulk.report import write_report
from aisolution_async.bulk.shards import list_shards
from aisolution_async.bulk.summary import Summary
from aisolution_async.cli import after
from aisolution_async.cli.commands import aisolution
from aisolution_async.cli.lazy import Lazy

from .commands import run, the_error
from .sheets import bulk, write

LIST = "id,phone\nA,+6281387300001\nB,12\nC,+6281387300003\n"


def failing(patch: pytest.MonkeyPatch, owner: Any, name: str, why: int, *paths: Path) -> None:
    """Let `owner.name` fail for these paths."""
    real = getattr(owner, name)

    def fail(path: Any, *args: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and Path(path).absolute() in [each.absolute() for each in paths]:
            raise OSError(why, os.strerror(why), str(path))
        return real(path, *args, **options)

    patch.setattr(owner, name, fail)


def commands(command: click.Command, context: click.Context) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if isinstance(command, Lazy):
                command.load(name)
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, context)


def test_what_may_not_be_read_is_told_by_who_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Click's own check says neither what helps nor 'error:'."""
    every = [*commands(aisolution, click.Context(aisolution))]
    types = [param.type for command in every for param in command.params if isinstance(param.type, click.Path)]
    assert len(types) > 20
    assert not [kind for kind in types if kind.readable or kind.writable or kind.exists or not kind.dir_okay]
    monkeypatch.chdir(tmp_path)
    write(Path("list.csv"), LIST)
    monkeypatch.setattr(os, "access", lambda *_: False)
    failing(monkeypatch, Path, "open", errno.EACCES, Path("list.csv"))
    result = run("bulk", "whatsapp-detail", "list.csv", "-o", "out.csv", "--sandbox")
    assert the_error(result) == "the input 'list.csv' may not be read: check the file's permissions"


def test_a_folder_that_may_not_be_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    failing(monkeypatch, Path, "iterdir", errno.EACCES, tmp_path / "lists")
    failing(monkeypatch, os, "scandir", errno.EACCES, tmp_path / "lists")
    with pytest.raises(ConfigurationError, match=r"lists' cannot be listed: Permission denied; allow it, or name ano"):
        list_shards(tmp_path / "lists", None)
    with pytest.raises(ConfigurationError, match=r"lists' cannot be listed: Permission denied; mend that"):
        write_report(tmp_path / "lists", tmp_path / "report.html")


async def test_a_workbook_that_has_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.csv", LIST), tmp_path / "out.xlsx"
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(books.Workbook, "make", full)
        with pytest.raises(BulkError) as caught:
            await bulk(source, output, columns={"number": "phone"})
    assert str(caught.value) == (
        f"the output {str(output)!r} cannot be finished: No space left on device; the rows are safe in "
        f"'{output}.part': make room there first"
    )
    assert Path(f"{output}.part").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("why", "helps"),
    [
        (errno.EACCES, "choose another place, or allow writing there"),
        (errno.EROFS, "choose another place, or allow writing there"),
        (errno.ENOSPC, "choose another place, or make room there"),
        (errno.EIO, "choose another place"),
    ],
)
async def test_which_file_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: int, helps: str) -> None:
    source = write(tmp_path / "in.csv", LIST)
    for part, called in (("mend.csv.part", "file of problems"), ("out.csv.part", "output")):
        with monkeypatch.context() as patch:
            failing(patch, os, "open", why, tmp_path / part)
            with pytest.raises(ConfigurationError) as caught:
                await bulk(source, tmp_path / "out.csv", problems=tmp_path / "mend.csv")
        assert str(caught.value) == (
            f"the {called} {str(tmp_path / part)!r} cannot be written: {os.strerror(why)}; {helps}"
        )


async def test_the_folder_of_the_problems_is_named_as_what_it_is(tmp_path: Path) -> None:
    source, folder = write(tmp_path / "in.csv", LIST), tmp_path / "none"
    with pytest.raises(ConfigurationError) as caught:
        await bulk(source, tmp_path / "out.csv", problems=folder / "mend.csv")
    assert str(caught.value) == f"the folder of the file of problems {str(folder)!r} does not exist: make it first"


def test_a_folder_of_results_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    write(Path("lists") / "a.csv", LIST)
    failing(monkeypatch, Path, "mkdir", errno.EACCES, Path("res"))
    result = run("bulk", "whatsapp-detail", "lists", "-o", "res", "--sandbox")
    assert the_error(result) == (
        "the folder 'res' cannot be made: Permission denied; choose another place, or allow writing there"
    )


def test_shards_that_could_not_be_run_say_nothing_of_what_is_answered_in_them() -> None:
    folder = FolderSummary(shards=2, problems={"a.csv": "the output cannot be written"})
    first = next(iter(after.lines(Summary(), lambda *_: "", Path("a.ledger"), folder=folder)))  # type: ignore[arg-type]
    assert first.startswith("not finished: 0 rows are answered so far in the other shards, 1 shards that could not be")


@pytest.mark.skipif(os.name == "nt", reason="there, a folder that somebody is in stays")
def test_a_current_folder_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = run("ledger", "show", "a.ledger")
    assert the_error(result) == "the current folder is there no more: go (cd) into one that is there"
    assert result.exit_code == 1


def test_the_exit_codes_of_a_report_are_its_own() -> None:
    said = run("report", "--help").output
    assert "0    the report is made" in said
    assert "rows" not in said.partition("Exit codes:")[2]
