"""Files that cannot be looked at: they are told, on every version of Python, and never taken for missing."""

from __future__ import annotations

import ast
import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aisolution_async
from aisolution_async import AISolutionError, ConfigurationError, FaceCompare, SearchFace, WhatsAppDetail
from aisolution_async.bulk import looks, rescue, run_folder
from aisolution_async.bulk.photos import Photos, Unseen
from aisolution_async.bulk.report import write_report
from aisolution_async.ledger import Ledger, LedgerError, Stored
from aisolution_async.names import exists, is_file, is_folder, is_taken, perhaps

from .commands import left, run, the_error
from .ledgers import answered, ask, do
from .sheets import bulk, read, sane, write
from .support import Vendor, client_of, picture

LOOKS = (exists, is_file, is_folder, is_taken)
LIST = "id,phone\nA,+6281387300001\nB,12\nC,+6281387300003\n"


@contextmanager
def unlookable(*paths: Path, why: int = errno.EACCES) -> Iterator[None]:
    """Nobody can look at the files, nor at what is in them if they are folders; they can be opened all the same."""

    def failing(look: Any) -> Any:
        def fail(path: Any, *args: Any, **options: Any) -> Any:
            if not isinstance(path, int):
                found = Path(os.fsdecode(path)).absolute()
                if any(found.is_relative_to(each) for each in paths):
                    raise OSError(why, os.strerror(why), os.fsdecode(path))
            return look(path, *args, **options)

        return fail

    with pytest.MonkeyPatch.context() as patch:
        for name in ("stat", "lstat"):
            patch.setattr(os, name, failing(getattr(os, name)))
        yield


@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ESTALE])
def test_what_cannot_be_looked_at_is_an_error(tmp_path: Path, why: int) -> None:
    with unlookable(tmp_path / "file", why=why):
        for look in LOOKS:
            with pytest.raises(OSError) as caught:
                look(tmp_path / "file")
            assert caught.value.errno == why
            assert perhaps(look, tmp_path / "file")


def test_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "to nowhere").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "too far").symlink_to("x" * 300)
    write(tmp_path / "file", "")

    def told(name: str) -> list[bool | str]:
        found: list[bool | str] = []
        for look in LOOKS:
            try:
                found.append(look(tmp_path / name))
            except OSError as exc:
                found.append(errno.errorcode[exc.errno or 0])
        return found

    assert told("file") == [True, True, False, True]
    assert told(".") == [True, False, True, True]
    assert told("nowhere") == told("file/in it") == told("a\0b") == [False, False, False, False]
    assert told("to nowhere") == [False, False, False, True]
    assert told("round") == ["ELOOP", "ELOOP", "ELOOP", True]
    assert told("round/in it") == ["ELOOP", "ELOOP", "ELOOP", "ELOOP"]
    assert told("too far") == ["ENAMETOOLONG", "ENAMETOOLONG", "ENAMETOOLONG", True]
    assert told("x" * 300) == ["ENAMETOOLONG", "ENAMETOOLONG", "ENAMETOOLONG", False]


@pytest.mark.parametrize(("number", "is_told"), [(123, False), (1921, True)])
def test_windows_has_no_file_of_a_pattern(monkeypatch: pytest.MonkeyPatch, number: int, is_told: bool) -> None:
    failed = OSError(errno.EINVAL, "it fails")
    failed.winerror = number  # type: ignore[attr-defined,unused-ignore]  # as there

    def fail(*_: object, **__: object) -> None:
        raise failed

    monkeypatch.setattr(os, "stat", fail)
    for look in LOOKS:
        if is_told:
            with pytest.raises(OSError, match="it fails"):
                look(Path("lists/*.csv"))
        else:
            assert not look(Path("lists/*.csv"))


def test_nothing_is_looked_at_otherwise() -> None:
    """`Path.resolve()`, too, fails on some versions of Python only, where links go round in a circle."""
    package = Path(aisolution_async.__file__).parent
    otherwise = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, of = node.func.attr, node.func.value
            is_look = name in ("exists", "lexists", "is_file", "is_dir", "isfile", "isdir", "is_symlink", "islink")
            is_ours = isinstance(of, ast.Name) and of.id in ("names", "looks", "entry")
            if (is_look and not is_ours) or (name == "resolve" and not node.args):
                otherwise.append(f"{path.relative_to(package)}:{node.lineno}: {ast.unparse(node)}")
    assert otherwise == []


NOTES = ["out.csv.ledger", "out.csv", "mend.csv", "mend.csv.of", "_bulk"]
OF_A_STOPPED_RUN = ["out.csv.part", "out.csv.rescued-1.jsonl"]


@pytest.mark.parametrize("name", [*NOTES, *OF_A_STOPPED_RUN])
@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO])
async def test_a_file_of_an_earlier_run(tmp_path: Path, name: str, why: int) -> None:
    """The run ends before it asks and writes; once the file can be looked at, nothing is asked again."""
    source, out, vendor = write(tmp_path / "in.csv", LIST), tmp_path / "out.csv", Vendor(sane)
    options: dict[str, Any] = {
        "vendor": vendor,
        "columns": {"number": "phone"},
        "ledger": tmp_path / "out.csv.ledger",
        "problems": tmp_path / "mend.csv",
    }
    await bulk(source, out, **options)
    assert len(vendor.requests) == 2
    if name in OF_A_STOPPED_RUN:
        write(tmp_path / name, "")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with unlookable(tmp_path / name, why=why):
        with pytest.raises((ConfigurationError, LedgerError)) as caught:
            await bulk(source, out, **options)
        assert str(tmp_path / name) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    await bulk(source, out, **options)
    assert len(vendor.requests) == 2
    assert [row["ok"] for row in read(out)] == ["true", "false", "true"]


async def test_an_output_that_cannot_be_looked_at_at_the_end_is_not_written_over(tmp_path: Path) -> None:
    """Somebody has put a file there meanwhile, on a disk that fails: the rows are in the part file."""
    source, out = write(tmp_path / "in.csv", LIST), tmp_path / "out.csv"
    failing = unlookable(out, why=errno.EIO)

    def answer(request: Any, number: int) -> Any:
        if number == 1:
            write(out, "somebody's")
            failing.__enter__()
        return sane(request, number)

    try:
        with pytest.raises(AISolutionError, match=r"Input/output error"):
            await bulk(source, out, vendor=Vendor(answer), columns={"number": "phone"})
    finally:
        failing.__exit__(None, None, None)
    assert out.read_text() == "somebody's"
    assert len(read(tmp_path / "out.csv.part")) == 3


async def test_a_file_of_problems_is_named_though_it_cannot_be_looked_at(tmp_path: Path) -> None:
    source, mend = write(tmp_path / "in.csv", LIST), tmp_path / "mend.csv"
    looks = 0

    def answer(request: Any, number: int) -> Any:
        return sane(request, number)

    with pytest.MonkeyPatch.context() as patch:
        look = Path.stat

        def fail(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            nonlocal looks
            if self.name == mend.name and mend in [*tmp_path.iterdir()]:
                looks += 1
                raise OSError(errno.EIO, "it fails")
            return look(self, follow_symlinks=follow_symlinks)

        patch.setattr(Path, "stat", fail)
        done = await bulk(
            source, tmp_path / "out.csv", vendor=Vendor(answer), columns={"number": "phone"}, problems=mend
        )
    assert (done.problems, done.output, looks) == (mend, tmp_path / "out.csv", 1)


@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO])
async def test_the_results_of_a_shard(tmp_path: Path, why: int) -> None:
    """The other shards are run. The one whose results cannot be looked at is told, and asked nothing again."""
    lists, out, vendor = tmp_path / "lists", tmp_path / "out", Vendor(sane)
    lists.mkdir()
    for n in (1, 2):
        write(lists / f"{n}.csv", f"number\n+628138730000{n}\n")
    async with client_of(vendor) as client:
        ledger = tmp_path / "a.ledger"
        await run_folder(client, aisolution_async.WhatsAppDetail, lists, out, ledger=ledger)
        write(lists / "3.csv", "number\n+6281387300003\n")
        with unlookable(out / "1.csv", why=why):
            done = await run_folder(client, aisolution_async.WhatsAppDetail, lists, out, ledger=ledger)
        assert {*done.problems} == {"1.csv"}
        assert f"{str(out / '1.csv')!r} cannot be looked at: {os.strerror(why)}" in done.problems["1.csv"]
        assert (done.finished, done.elsewhere, len(vendor.requests)) == (1, 1, 3)
        done = await run_folder(client, aisolution_async.WhatsAppDetail, lists, out, ledger=ledger)
    assert (done.complete, len(vendor.requests)) == (True, 3)


async def test_a_list_in_a_folder_that_leads_nowhere_or_round_is_told(tmp_path: Path) -> None:
    lists, out, vendor = tmp_path / "lists", tmp_path / "out", Vendor(sane)
    lists.mkdir()
    write(lists / "1.csv", "number\n+6281387300001\n")
    (lists / "2.csv").symlink_to("2.csv")
    (lists / "3.csv").symlink_to("x" * 300)
    async with client_of(vendor) as client:
        for source in (lists, lists / "*.csv"):
            done = await run_folder(client, aisolution_async.WhatsAppDetail, source, out, ledger=tmp_path / "a.ledger")
            assert {*done.problems} == {"2.csv", "3.csv"}
            assert "Too many levels of symbolic links" in done.problems["2.csv"]
            assert "File name too long" in done.problems["3.csv"]
    assert len(vendor.requests) == 1


TREE = ["1.csv", "a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "b/1.csv", ".h/4.csv", "a/.5.csv", "d[1]/6.csv", "a/b/x.jpg"]
PARTS = ["*", "**", "a", "b", "?", "[!a]", "*.csv", "1.csv", "d[[]1]", ".*", "a*", "a/..", "none", "a**"]


@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), is_whole=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_pattern_names_what_it_does_everywhere(tmp_path: Path, parts: list[str], is_whole: bool) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, "")
    for name, target in {"link": "a/b", "round": "round", "nowhere": "none", "file.csv": "1.csv"}.items():
        if not (tmp_path / name).is_symlink():
            (tmp_path / name).symlink_to(target)
    start = tmp_path if is_whole else Path()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        pattern = str(start.joinpath(*parts))
        found = glob.glob(pattern, recursive=True)  # noqa: PTH207  # what is meant
        usual = sorted({Path(each) for each in found if os.path.lexists(each)})  # some versions name a folder unseen
        assert looks.named_by(Path(pattern)) == usual


@pytest.mark.parametrize(
    "pattern", ["*/*.csv", "**/*.csv", "b/*.csv", "*/in.csv", "**/in.csv", "**", "*/*/*.csv", "?/[a-z]*"]
)
async def test_a_folder_of_lists_that_a_pattern_cannot_list(tmp_path: Path, pattern: str) -> None:
    """Lists in it would be left out of a run that says that all is finished."""
    lists, vendor = tmp_path / "lists", Vendor(sane)
    for name in "abc":
        (lists / name / "in").mkdir(parents=True)
        for number, path in enumerate((lists / name / f"{name}.csv", lists / name / "in" / f"{name}{name}.csv")):
            write(path, f"number\n+62813873{number}{ord(name)}\n")
    write(lists / "b/in.csv", "number\n+6281387300009\n")
    options: dict[str, Any] = {"ledger": tmp_path / "a.ledger"}
    async with client_of(vendor) as client:
        is_by_name = pattern == "*/in.csv"  # which lists no folder but the first
        with unlookable(lists / "b/in.csv") if is_by_name else unlistable(lists / "b"):
            with pytest.raises(ConfigurationError) as caught:
                await run_folder(client, WhatsAppDetail, lists / pattern, tmp_path / "out", **options)
        said = f"{str(lists / 'b/in.csv')!r} cannot be looked at" if is_by_name else f"the folder {str(lists / 'b')!r}"
        assert said in str(caught.value)
        assert not vendor.requests
        assert (await run_folder(client, WhatsAppDetail, lists / pattern, tmp_path / "out", **options)).complete


@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO])
def test_a_photo(tmp_path: Path, why: int) -> None:
    """It is not looked for by its name in other folders: the one that is found may be another applicant's."""
    base = tmp_path / "list"
    for name in ("a/b/1.jpg", "x/a/b/1.jpg", "only.jpg"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(picture(1))
    for root in (None, base):
        photos = Photos(base, root)
        with unlookable(base / "a", why=why):
            assert photos.find("a/b/1.jpg") == f"names 'a/b/1.jpg', which cannot be looked at: {os.strerror(why)}"
            assert photos.find("only.jpg") == base / "only.jpg"
        assert photos.find("a/b/1.jpg") == base / "a/b/1.jpg"
        photos.close()
    # A path of another machine may begin with a folder that is forbidden here.
    photos = Photos(base)
    with unlookable(tmp_path / "forbidden", why=why):
        assert photos.find(str(tmp_path / "forbidden/list/only.jpg")) == base / "only.jpg"
    photos.close()


def test_a_photo_beside_the_list_or_in_the_images_folder(tmp_path: Path) -> None:
    """The one in the images' folder is another applicant's, as long as nobody can look beside the list."""
    root, beside = tmp_path / "p", tmp_path / "p/branch"
    for name in ("x/1.jpg", "branch/x/1.jpg", "a b/2.jpg", "branch/a b/2.jpg", "branch/a%20b/2.jpg", "x/3.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(1))
    with closing(Photos(beside, root)) as photos:
        with unlookable(beside / "x"):
            for said in ("x/1.jpg", "'x/1.jpg'", "x\\1.jpg", "x/1", "x/3.jpg"):
                assert isinstance(photos.find(said), Unseen), said
        assert photos.find("x/1.jpg") == beside / "x/1.jpg"
        assert photos.find("x/3.jpg") == root / "x/3.jpg"
        with unlookable(beside / "a%20b"):  # what is written goes before what a link would write so
            assert isinstance(photos.find("a%20b/2.jpg"), Unseen)
        assert photos.find("a%20b/2.jpg") == beside / "a%20b/2.jpg"


async def test_photos_that_are_links_which_lead_nowhere(tmp_path: Path) -> None:
    """The link is there: who is told that it is not looks for the wrong fault."""
    for name, target in (
        ("round.jpg", "round.jpg"),
        ("one.jpg", "two.jpg"),
        ("two.jpg", "one.jpg"),
        ("gone.jpg", "gone"),
    ):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "folder").symlink_to("folder")
    source = write(tmp_path / "in.csv", "img\nround.jpg\nROUND\none.jpg\ngone.jpg\nGone\nfolder/1.jpg\nfar.jpg\n")
    vendor = Vendor(sane)
    await bulk(source, tmp_path / "out.csv", SearchFace, vendor=vendor)
    said = [row["problem"].partition(": ")[2].replace(str(tmp_path), "DIR") for row in read(tmp_path / "out.csv")]
    loops, nowhere = "(Too many levels of symbolic links)", "is a link to a file that does not exist"
    assert said == [
        f"img 'DIR/round.jpg' cannot be read {loops}",
        f"img 'DIR/round.jpg' cannot be read {loops}",
        f"img 'DIR/one.jpg' cannot be read {loops}",
        f"img 'DIR/gone.jpg' {nowhere}: check what it leads to",
        f"img 'DIR/gone.jpg' {nowhere}: check what it leads to",
        f"column 'img' names 'folder/1.jpg', which cannot be looked at: {loops[1:-1]}",
        "column 'img': img 'DIR/far.jpg' does not exist: check the path",
    ]
    assert not vendor.requests


@contextmanager
def unsearchable(folder: Path, why: int = errno.EACCES) -> Iterator[None]:
    """What is in the folder is not to be listed."""
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == folder:
            raise OSError(why, os.strerror(why))
        return scan(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        yield


@pytest.mark.parametrize("why", [errno.EACCES, errno.EIO, errno.ENOENT])
async def test_folders_of_photos_that_cannot_be_searched(tmp_path: Path, why: int) -> None:
    """There, too, may be a photo of that name, and the one that is found be another applicant's."""
    write(tmp_path / "in.csv", "img\nopen/1.jpg\n1.jpg\n2.jpg\n")
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(picture(1))
    vendor = Vendor(sane)
    with unsearchable(tmp_path / "shut", why):
        await bulk(tmp_path / "in.csv", tmp_path / "out.csv", SearchFace, vendor=vendor)
    found = read(tmp_path / "out.csv")
    assert [row["ok"] for row in found] == ["true", "false", "false"]
    shut = f"the folder {str(tmp_path / 'shut')!r} cannot be searched: {os.strerror(why)}"
    assert f"column 'img' names '1.jpg', which may be 'open/1.jpg' or another, as {shut}:" in found[1]["problem"]
    assert "does not exist" in found[2]["problem"]
    assert found[2]["problem"].endswith(f"; {shut}")
    assert len(vendor.requests) == 1


def test_photos_that_nothing_in_a_folder_that_cannot_be_searched_could_be(tmp_path: Path) -> None:
    """What is just as it is named is the best there may be, unless the folders in its path are those."""
    for name in ("1.jpg", "a/2.jpg", "b/a/3.jpg", "shut/4.jpg", "A /5.jpg", "lost+found/6.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    sure = {"1.JPG": "1.jpg", "1.jpeg": "1.jpg", "A/2.jpg": "a/2.jpg", "./1.Jpg": "1.jpg"}
    unsure = ("1", "2.jpg", "A/3.jpg", "b/a/3", "C:\\photos\\a\\2.jpg")
    with unsearchable(tmp_path / "shut"), closing(Photos(tmp_path)) as photos:
        for said, name in sure.items():
            assert photos.find(said) == tmp_path / name, said
        for said in unsure:
            assert isinstance(photos.find(said), Unseen), said
    with unsearchable(tmp_path / "a"), closing(Photos(tmp_path)) as photos:
        assert isinstance(photos.find("a/5.jpg"), Unseen)  # which may be in the folder of just that name
        assert photos.find("1.JPG") == tmp_path / "1.jpg"
    with unsearchable(tmp_path / "lost+found"), closing(Photos(tmp_path)) as photos:
        assert photos.find("2.jpg") == tmp_path / "a/2.jpg"  # the system's own folder has nobody's photos


def test_a_folder_that_may_be_a_file_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems do not say in the list of names what is a folder."""
    scan = os.scandir
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(picture(1))

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path, self._entry = entry.name, entry.path, entry

        def is_dir(self, *, follow_symlinks: bool = True) -> bool:
            if self.name == "b":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return self._entry.is_dir(follow_symlinks=follow_symlinks)

    @contextmanager
    def entries(path: Any) -> Iterator[Iterator[Entry]]:
        with scan(path) as found:
            yield map(Entry, found)

    monkeypatch.setattr(os, "scandir", entries)
    with closing(Photos(tmp_path)) as photos:
        assert isinstance(photos.find("1.jpg"), Unseen)
        assert photos.find("a/1.jpg") == tmp_path / "a/1.jpg"


async def test_the_folder_of_photos(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    source = write(tmp_path / "in.csv", "img1,img2\n1.jpg,2.jpg\n")
    write(tmp_path / "file", "")
    for name, said in (
        ("round", "cannot be looked at: Too many levels of symbolic links: check the path"),
        ("nowhere", "is not there: check the path"),
        ("file", "is no folder: check the path"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await bulk(source, tmp_path / "out.csv", FaceCompare, images_root=tmp_path / name)
        assert str(caught.value) == f"the images' folder {str(tmp_path / name)!r} {said}"


def test_results_of_a_report(tmp_path: Path) -> None:
    results = write(tmp_path / "out.csv", "number,ok\n+6281387300001,true\n")
    for path in (results, tmp_path / "page.html"):
        with unlookable(path), pytest.raises(ConfigurationError, match="cannot be looked at: Permission denied"):
            write_report(results, tmp_path / "page.html")
    assert [*tmp_path.iterdir()] == [results]


@pytest.mark.usefixtures("command_environment")
@pytest.mark.parametrize(
    ("target", "said"),
    [("x" * 300, "(File name|name of the ledger .*) (is )?too long"), ("shut", "Too many levels|look at")],
)
def test_the_command_line_says_it_in_one_line(target: str, said: str) -> None:
    Path("in.csv").write_text("number\n+6281387300001\n")
    Path("shut").symlink_to(target)
    start, end = ["bulk", "whatsapp-detail"], ["-o", "out.csv", "--sandbox", "--quiet"]
    for words in (
        [*start, "shut", *end],
        [*start, "in.csv", "-o", "shut/out.csv", "--sandbox"],
        [*start, "in.csv", *end, "--ledger", "shut/a.sandbox.ledger"],
        [*start, "in.csv", *end, "--errors", "shut/mend.csv"],
        [*start, "in.csv", *end, "--rescued", "shut"],
        [*start, "in.csv", *end, "--images", "shut"],
        ["bulk", "--resume", "shut/out.csv"],
        ["report", "shut/out.csv", "-o", "page.html"],
        ["report", "in.csv", "-o", "shut/page.html"],
        ["ledger", "show", "shut"],
    ):
        result = run(*words)
        assert result.exit_code == 2, (words, result.output)
        assert re.search(said, the_error(result)), (words, the_error(result))
    assert left() == {"in.csv", "shut"}


@pytest.mark.usefixtures("command_environment")
def test_options_of_a_folder_that_cannot_be_read_are_told() -> None:
    Path("in.csv").write_text("number\n+6281387300001\n")
    Path("aisolution.toml").symlink_to("x" * 300)
    result = run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox")
    assert result.exit_code == 2
    assert the_error(result) == "the configuration 'aisolution.toml' cannot be read: File name too long"


@pytest.mark.parametrize(("why", "is_told"), [(errno.EIO, True), (errno.EACCES, False)])
async def test_a_folder_that_cannot_be_searched_for_rescued_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int, is_told: bool
) -> None:
    """On a disk that fails, they may be there. A folder that may be written and not be listed is no such disk."""
    source, vendor, find = write(tmp_path / "in.csv", LIST), Vendor(sane), os.listdir

    def fail(folder: Any = ".") -> list[Any]:
        if folder == tmp_path:
            raise OSError(why, os.strerror(why))
        return find(folder)

    monkeypatch.setattr(os, "listdir", fail)
    options: dict[str, Any] = {"vendor": vendor, "columns": {"number": "phone"}, "ledger": tmp_path / "b/a.ledger"}
    (tmp_path / "b").mkdir()
    if is_told:
        with pytest.raises(ConfigurationError, match="cannot be searched for rescued rows: Input/output error"):
            await bulk(source, tmp_path / "out.csv", **options)
        assert not vendor.requests
    else:
        assert (await bulk(source, tmp_path / "out.csv", **options)).complete


@contextmanager
def unlistable(folder: Path) -> Iterator[None]:
    """The folder keeps the names in it to itself (mode 0300, for who is not root); all else can be done with it."""

    def failing(find: Any) -> Any:
        def fail(of: Any = ".") -> Any:
            if not isinstance(of, int) and Path(os.fsdecode(of)).absolute() == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(of))
            return find(of)

        return fail

    with pytest.MonkeyPatch.context() as patch:
        for name in ("listdir", "scandir"):
            patch.setattr(os, name, failing(getattr(os, name)))
        yield


@pytest.mark.parametrize("which", ["the output's", "the temporary folder"])
async def test_a_folder_that_cannot_be_listed_is_told_before_anything_is_asked(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Rows that were rescued there are not found, and have to be named. Once they are, there is nothing to tell."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    folder = tmp_path if which == "the output's" else Path(tempfile.gettempdir())
    source, out, vendor, said = write(tmp_path / "in.csv", LIST), tmp_path / "out.csv", Vendor(sane), list[str]()

    def tell(line: str) -> None:
        if "cannot be listed" in line:
            assert not vendor.requests
            said.append(line)

    ledger = tmp_path_factory.mktemp("elsewhere") / "a.ledger"
    options: dict[str, Any] = {"vendor": vendor, "columns": {"number": "phone"}, "ledger": ledger, "on_start": tell}
    with unlistable(folder):
        assert (await bulk(source, out, **options)).complete
        (line,) = said
        assert line.startswith(f"the folder {str(folder)!r} cannot be listed: ")
        assert "name them with --rescued FILE" in line
        named = rescue.keep(out, [b"{}\n"])
        assert (await bulk(source, out, **options, rescued=[named])).complete
    assert (await bulk(source, out, **options)).complete
    assert len(said) == 1


async def test_a_ledger_in_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    """Who else uses it could not be seen. Nothing is asked, and no ledger is begun that would look like a lost one."""
    source, vendor, folder = write(tmp_path / "in.csv", LIST), Vendor(sane), tmp_path / "shut"
    folder.mkdir()
    options: dict[str, Any] = {"vendor": vendor, "columns": {"number": "phone"}, "ledger": folder / "a.ledger"}
    with unlistable(folder), pytest.raises(LedgerError) as caught:
        await bulk(source, tmp_path / "out.csv", **options)
    assert f"the folder of the ledger {folder / 'a.ledger'} cannot be listed" in str(caught.value)
    assert "allow reading the folder, or use a ledger in another folder" in str(caught.value)
    assert not [*folder.iterdir()]
    assert not vendor.requests
    assert (await bulk(source, tmp_path / "out.csv", **options)).complete


def opened_in(folder: Path) -> set[str]:
    """What this process has open in the folder, as far as the system tells."""
    opened = set()
    for number in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the one of the glob itself is closed by now
            opened.add(str(number.readlink()))
    return {name for name in opened if name.startswith(f"{folder}/")}


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("what", ["cannot be listed", "cannot be changed", "is gone"])
async def test_a_ledger_whose_folder_is_shut_while_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str, others: int
) -> None:
    """The ledger is closed whole all the same. When the folder is as it was, so is the ledger."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "a.ledger"
    async with AsyncExitStack() as stack:
        for _ in range(others):
            await stack.enter_async_context(Ledger(path))
        before = opened_in(folder)
        ledger = Ledger(path)
        await ledger.open()
        await do(ledger, answered())
        with monkeypatch.context() as patch, unlistable(folder if what == "cannot be listed" else Path("nowhere")):
            if what == "cannot be changed":
                refusal = OSError(errno.EROFS, os.strerror(errno.EROFS))
                patch.setattr(os, "unlink", Mock(side_effect=refusal))
            elif what == "is gone":
                shutil.rmtree(folder)
            await ledger.aclose()
        if what != "is gone":
            assert opened_in(folder) == before
    assert not opened_in(folder)
    # What the thread of the ledger logs is that its file is gone, once for each who had it open.
    assert len(caplog.records) == (1 + others if what == "is gone" else 0)
    if what != "is gone":
        async with Ledger(path) as ledger:
            assert isinstance(await ledger.begin(ask(ledger)), Stored)


@pytest.mark.parametrize("why", [errno.EIO, errno.EACCES])
def test_rescued_rows_that_cannot_be_looked_at(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    """They may be the user's own, and be paid for."""
    folder = tmp_path_factory.mktemp("rescues")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with closing(rescue.Rescue(tmp_path / "out.csv")):
        (there,) = folder.iterdir()
        with unlookable(there, why=why), pytest.raises(ConfigurationError, match="cannot be searched for rescued rows"):
            rescue.rescues_of(tmp_path / "out.csv")


def test_rescued_rows_that_somebody_takes_away_hide_no_others(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two files in the temporary folder, the first is gone when it is looked at."""
    folder = tmp_path_factory.mktemp("rescues")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    rescues = [rescue.Rescue(tmp_path / "out.csv") for _ in range(2)]
    gone, there = sorted(folder.iterdir())
    with unlookable(gone, why=errno.ENOENT):
        assert [path for path in rescue.rescues_of(tmp_path / "out.csv") if path.parent == folder] == [there]
    for each in rescues:
        each.close()
