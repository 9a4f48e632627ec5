"""From what a person writes of a photo to the file that is meant.

A path is tried as it stands, then without what copying adds to it: quotes, `file://`, `%20`, backslashes. If there is
no such file, the folder is searched, with the folders in it, for one of that name, whatever its case, its spaces and
its Unicode form, and with or without its ending. Folders that are written before the name have to agree, since two
applicants may each have a `selfie.jpg`. Only of a path of another computer, which starts at its root (`C:\\…`), is the
name alone enough, if it is no name that cameras and forms give to everybody's photo. What fits several files is
refused, with their names; so is a file that two different paths would come to. Where a folder cannot be looked at,
what may be in it counts as much as what is found elsewhere: a photo of somebody else is worse than none.

A list is a stranger's: with a root, no file outside of it is read, whatever links there are.
"""

from __future__ import annotations

import difflib
import os
import re
import sqlite3
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from aisolution_async.bulk.disk import reason_of
from aisolution_async.bulk.source import UnreadableInputError
from aisolution_async.errors import ConfigurationError
from aisolution_async.inputs import images, texts
from aisolution_async.names import is_folder, is_taken

MOST_FILES = 5_000_000
"""Files and folders of a folder that is searched: of more, nobody knows which one is meant."""

_ENDINGS = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif", "pjpeg"), "jpg"),
    **dict.fromkeys(("heic", "heif", "hif"), "heic"),
    **dict.fromkeys(("tif", "tiff"), "tif"),
    **{ending: ending for ending in ("png", "webp", "bmp", "gif", "avif", "jp2", "jxl")},
}
_FOLDER = "/"  # in the place of an ending
# What systems put beside photos: thumbnails, and what was thrown away.
_NOT_SEARCHED = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
_QUOTES = "\"'`<>\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|www\.", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(/*)", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")
_FROM_A_ROOT = re.compile(r"[A-Za-z]:[\\/]|[\\/~]")
_APART = re.compile(r"[\\/]+")
_ANYBODYS = re.compile(
    r"(?:img|dsc[nf]?|pic|pxl|vid|images?|photos?|foto|picture|gambar|whatsapp|screenshot|scan|camera|file|download|wa|"
    r"unnamed|selfie|swafoto|face|wajah|e?ktp|nik|id|card|kartu|sim|passport|paspor|front|back|depan|belakang|left|right|"
    r"with|dengan|at|copy|salinan|am|pm|[\W_]|(?<!\d)\d{1,4}(?!\d)|(?<=img.)\d+|(?<=dsc.)\d+|(?<!\d)20\d{6}(?!\d))*"
)
_BETWEEN = re.compile(r"[,;|\n\r\t]+")
_DIGITS = re.compile(r"\d+")
_MOST_SHOWN = 5
_MOST_FITTING = 1000
_MOST_COMPARED = 2000  # cells for which names that are alike are looked for, as each takes a few milliseconds
_LOOKED_AT = 60  # names, of those that begin or end alike


_BEGIN_SO = "SELECT stem, rowid, path, ending FROM files WHERE stem >= ? AND stem < ? AND ending <> '/' LIMIT ?"
_END_SO = "SELECT stem, rowid, path, ending FROM files WHERE backward >= ? AND backward < ? AND ending <> '/' LIMIT ?"


class Unreadable(str):
    """Why a cell gives no photo. It follows on the column's name."""

    __slots__ = ()


class Unseen(Unreadable):
    """The file that is meant may be where nobody can look: no other one is to be taken for it."""

    __slots__ = ()


class NotThere(Unreadable):
    """There is no such file. It follows on the parameter's name."""

    __slots__ = ()


class _Named(NamedTuple):
    """What a path says: the names of folders, and its own, as they are compared."""

    folders: tuple[str, ...]
    name: str
    from_a_root: bool


class _File(NamedTuple):
    """A file, or a folder, below the folder that is searched."""

    number: int
    path: str
    ending: str

    @property
    def folders(self) -> tuple[str, ...]:
        return _folders(self.path)

    @property
    def name(self) -> tuple[str, str]:
        """Its own name, and the ending of an image, as they are compared."""
        return _split(_key(self.path.rpartition("/")[2]))


class Photos:
    """The photos of a list, by what its cells say.

    Paths are relative to `folder`, and where there is a `root`, to that too, and lead nowhere out of it. What is
    searched is the root, else the folder. Raises ConfigurationError where the root is no folder.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self._folder = folder
        self._root = None if root is None else _resolved(root)
        self._base = self._root or folder
        self._lock = threading.Lock()
        self._found: _Match | None = None
        self._closed = False
        self._compared = 0

    def find(self, said: str) -> Path | Unreadable:
        """The file that `said` means. Searches where `must_search` says so.

        Raises UnreadableInputError where what is found cannot be noted.
        """
        found = self._as_it_stands(said)
        if found is None:
            self.search()
            with _noting():
                found = self._by_name(said)
                if isinstance(found, NotThere) and self._found is not None and self._found.unread is not None:
                    found = NotThere(f"{found}; {self._found.unread}")
        return found

    def must_search(self, said: str) -> bool:
        """Whether the folder has yet to be searched for it."""
        return self._found is None and self._as_it_stands(said) is None

    def search(self) -> None:
        """Look the folder through, once, and note on the disk what is in it. Blocks: seconds for a million files.

        Raises UnreadableInputError where it cannot be noted.
        """
        with self._lock, _noting():
            if self._found is None:
                self._found = _Match(self._base, lambda: self._closed)

    def close(self) -> None:
        """Forget what was found. A search under way ends soon."""
        self._closed = True
        with self._lock:
            if self._found is not None:
                self._found.close()

    # --------------------------------------------------------------------------------------------- as it is written

    def _as_it_stands(self, said: str) -> Path | Unreadable | None:
        """What can be told of it without a search."""
        forms = _forms(said)
        plain = forms[-1]
        leads_out = False
        for form in forms:
            found, is_outside = self._at(form)
            if found is not None:
                return found
            leads_out = leads_out or is_outside
        if texts.says_none(plain):
            return Unreadable(f"says {plain!r}, which names no photo: fill it in, or delete the row in the list itself")
        if _URL.match(plain):
            return Unreadable("is a URL: download the image, and name its file")
        named = _named(plain)
        if named is None or (leads_out and (named.folders or named.from_a_root)):
            return self._missing_at(plain) if self._root is None else _outside()
        return None

    def _at(self, form: str) -> tuple[Path | Unseen | None, bool]:
        """The file at this path, if there is one, or why nobody can tell; and whether there is one that is outside."""
        is_outside = False
        for folder in (self._folder,) if self._root is None else (self._folder, self._root):
            path = folder / form
            try:
                is_there = is_taken(path)
            except OSError as exc:
                if path.is_relative_to(folder):
                    return Unseen(f"names {images.shown(form)}, which cannot be looked at: {reason_of(exc)}"), False
                continue  # another machine's path is searched for by its name
            if is_there:
                inside = self._inside(path)
                if inside is not None:
                    return inside, False
                is_outside = True
        return None, is_outside

    def _inside(self, path: Path) -> Path | None:
        """`path`, or where it leads to if there is a root, and that is in it."""
        if self._root is None:
            return path
        try:
            # What is opened later is what was looked at here, whatever links there are.
            resolved = Path(os.path.realpath(path))
        except (OSError, ValueError):
            return None
        return resolved if resolved.is_relative_to(self._root) else None

    def _missing_at(self, plain: str) -> NotThere:
        return NotThere(f"{images.shown(str(self._base / plain))} does not exist: check the path")

    # ------------------------------------------------------------------------------------------------------ by name

    def _by_name(self, said: str) -> Path | Unreadable:
        assert self._found is not None
        plain = _forms(said)[-1]
        names = _names(said)
        shown = images.shown(plain)
        for named in names:
            fitting = self._fitting(named)
            if len(fitting) > 1:
                listed = _list([repr(file.path) for file in fitting], "and")
                return Unreadable(f"names {shown}, which may be {listed}: write which, with its folder")
            if fitting and self._found.is_whole:
                if self._found.unread is not None and not (named == names[0] and self._is_sure(fitting[0], named)):
                    which = f"{fitting[0].path!r} or another, as {self._found.unread}"
                    return Unseen(f"names {shown}, which may be {which}: mend that, or write the photo's whole path")
                if (other := self._other_claim(fitting[0], named)) is not None:
                    theirs = f"{fitting[0].path!r} was taken for another row's {other!r}"
                    return NotThere(f"{shown} does not exist, and {theirs}: write its path below the folder")
                return self._inside(self._base / fitting[0].path) or _outside()
        if not self._found.is_whole:
            where = f"{str(self._base)!r} has more than {MOST_FILES:,} files"
            return NotThere(f"{shown} does not exist, and {where}: say where the photos are (--images DIR)")
        if several := self._several(plain):
            return Unreadable(f"names {len(several)} photos, {_list(several, 'and')}: leave one")
        if any(self._at(form)[1] for form in _forms(said)):
            return _outside()
        if names and (folder := self._found.named(names[-1].name, _FOLDER)):
            return NotThere(f"{folder[0].path!r} is a directory: name an image file in it")
        near = [repr(name) for named in names[-1:] for name in self._alike(named)]
        if near:
            return NotThere(f"{shown} does not exist: did you mean {_list(near, 'or')}?")
        if names and names[-1].from_a_root:
            return NotThere(f"{shown} does not exist, and there is no such name below {str(self._base)!r}")
        return self._missing_at(plain)

    def _fitting(self, named: _Named) -> list[_File]:
        """The files that the name may mean: of those that fit, the ones that fit best."""
        assert self._found is not None
        stem, ending = _split(named.name)
        # Without its ending, or with one that a program has put behind another.
        for files in (
            self._found.named(stem, ending, named.folders),
            self._found.named(named.name, None, named.folders),
        ):
            ranked = [(rank, file) for file in files if (rank := self._rank(named, file.folders)) is not None]
            if ranked:
                best = max(rank for rank, _ in ranked)
                return [file for rank, file in ranked if rank == best]
        return self._by_name_alone(named)

    def _is_sure(self, file: _File, named: _Named) -> bool:
        """Whether a file is just what is named: nothing in the folders that could not be searched fits as well."""
        assert self._found is not None
        is_exact = file.folders == named.folders and file.name == _split(named.name)
        return is_exact and not self._found.may_hide(named.folders)

    def _rank(self, named: _Named, folders: tuple[str, ...]) -> tuple[int, int] | None:
        """How well a file in these folders fits the folders that are named; None if it does not."""
        if folders == named.folders:
            return 3, 0
        if _is_suffix(named.folders, folders):
            return 2, 0
        above = named.folders[: len(named.folders) - len(folders)]
        if not above or named.folders[len(above) :] != folders:
            return None
        # What is above the folder that is searched, most likely; but another applicant's folder may be meant.
        is_certain = named.from_a_root or above[-1] == _key(self._base.name)
        return (1, len(folders)) if is_certain or not _ANYBODYS.fullmatch(_split(named.name)[0]) else None

    def _by_name_alone(self, named: _Named) -> list[_File]:
        assert self._found is not None
        stem, ending = _split(named.name)
        if not named.from_a_root or not named.folders or _ANYBODYS.fullmatch(stem):
            return []
        if self._found.named(named.folders[-1], _FOLDER):  # the folder is here, and the photo is not in it
            return []
        files = [file for file in self._found.named(stem, None) if file.ending != _FOLDER]
        return files if len(files) != 1 or ending in ("", files[0].ending) else []

    def _other_claim(self, file: _File, named: _Named) -> str | None:
        """The other path by which this file was found already, if it agrees with neither."""
        assert self._found is not None
        if _is_suffix(named.folders, file.folders):
            return None
        path = "/".join((*named.folders, _split(named.name)[0]))
        other = self._found.claimed(file, path)
        return (
            None
            if _is_suffix(path.split("/"), other.split("/")) or _is_suffix(other.split("/"), path.split("/"))
            else other
        )

    def _several(self, plain: str) -> list[str]:
        parts = [part for part in map(str.strip, _BETWEEN.split(plain)) if part]
        if not 1 < len(parts) <= _MOST_SHOWN:
            return []
        found = [part for part in parts if self._at(part)[0] or any(map(self._fitting, _names(part)))]
        return list(map(repr, found)) if len(found) > 1 else []

    def _alike(self, named: _Named) -> list[str]:
        """Files whose names are like this one, but for a slip; numbers in it have to be the same."""
        assert self._found is not None
        stem, _ = _split(named.name)
        same = [file.path for file in self._found.named(stem, None) if file.ending != _FOLDER]
        if same or self._compared >= _MOST_COMPARED:
            return same[:3]
        self._compared += 1
        numbers = _numbers(stem)
        near = {file.path: other for other, file in self._found.near(stem, _LOOKED_AT) if _numbers(other) == numbers}
        best = difflib.get_close_matches(stem, set(near.values()), 3, 0.75)
        return sorted((path for path, other in near.items() if other in best), key=lambda path: best.index(near[path]))[
            :3
        ]


class _Match:
    """What is in a folder and the folders in it, in a database on the disk: a million names would fill the memory."""

    def __init__(self, base: Path, given_up: Callable[[], bool]) -> None:
        self.is_whole = True
        self.unread: str | None = None
        """A folder that could not be searched, and why."""
        self._unread: set[tuple[str, ...]] = set()
        self._given_up = given_up
        self._db = db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            for statement in (
                "PRAGMA journal_mode = OFF",
                "PRAGMA synchronous = OFF",
                "CREATE TABLE files (stem TEXT, parent TEXT, ending TEXT, backward TEXT, path BLOB, claimed TEXT)",
                "BEGIN",
            ):
                db.execute(statement)
            db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, NULL)", self._walk(base))
            db.execute("CREATE INDEX by_stem ON files (stem, parent)")
            db.execute("CREATE INDEX by_end ON files (backward)")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def may_hide(self, folders: tuple[str, ...]) -> bool:
        """Whether these folders, one in the other, lead into one that could not be searched."""
        return any(folders[:depth] in self._unread for depth in range(len(folders) + 1))

    def named(self, stem: str, ending: str | None, folders: Sequence[str] = ()) -> list[_File]:
        """What has this name: with this ending, or with any; where folders are named, in the last one or in none."""
        query, given = "SELECT rowid, path, ending FROM files WHERE stem = ?", [stem]
        if ending is not None:
            query, given = f"{query} AND ending = ?", [*given, ending]
        else:
            query = f"{query} AND ending <> '{_FOLDER}'"
        if folders:
            query, given = f"{query} AND parent IN (?, '')", [*given, folders[-1]]
        return [
            _File(n, os.fsdecode(path), found)
            for n, path, found in self._db.execute(f"{query} LIMIT {_MOST_FITTING}", given)
        ]

    def near(self, stem: str, most: int) -> Iterator[tuple[str, _File]]:
        """Files whose names begin as this one does, or end so, with the names: one slip leaves one of the halves."""
        half = -(-len(stem) // 2)
        for query, start in ((_BEGIN_SO, stem[:half]), (_END_SO, stem[::-1][:half])):
            for other, number, path, ending in self._db.execute(query, (start, start + chr(0x10FFFF), most)):
                yield other, _File(number, os.fsdecode(path), ending)

    def claimed(self, file: _File, path: str) -> str:
        """By which path `file` was found first; if it was not yet, by this one."""
        self._db.execute("UPDATE files SET claimed = ? WHERE rowid = ? AND claimed IS NULL", (path, file.number))
        (claimed,) = self._db.execute("SELECT claimed FROM files WHERE rowid = ?", (file.number,)).fetchone()
        return str(claimed)

    def _walk(self, base: Path) -> Iterator[tuple[str, str, str, str, bytes]]:
        """Every file and folder; links to folders are not followed."""
        waiting, count = [""], 0
        while waiting:
            where = waiting.pop()
            parent = _key(where.rstrip("/").rpartition("/")[2])
            for entry in self._entries(base, where):
                if entry.name.startswith(".") or entry.name in _NOT_SEARCHED:
                    continue
                count += 1
                if count > MOST_FILES or (count % 1000 == 0 and self._given_up()):
                    self.is_whole = False
                    return
                path = where + entry.name
                is_below = self._is_folder(entry, path)
                if is_below:
                    waiting.append(f"{path}/")
                stem, ending = (_key(entry.name), _FOLDER) if is_below else _split(_key(entry.name))
                yield stem, parent, ending, stem[::-1], os.fsencode(path)

    def _entries(self, base: Path, where: str) -> Iterator[os.DirEntry[str]]:
        folder = base / where
        try:
            with os.scandir(folder) as entries:
                yield from entries
        except OSError as exc:  # also of one that is not there any more: it may have got another name
            self._miss(folder, where, exc)

    def _is_folder(self, entry: os.DirEntry[str], path: str) -> bool:
        try:
            return entry.is_dir(follow_symlinks=False)
        except OSError as exc:
            self._miss(Path(entry.path), f"{path}/", exc)
            return False

    def _miss(self, folder: Path, where: str, exc: OSError) -> None:
        self.unread = self.unread or f"the folder {str(folder)!r} cannot be searched: {reason_of(exc)}"
        self._unread.add(_folders(where))


@contextmanager
def _noting() -> Iterator[None]:
    """Tell of a temporary folder that is full, or cannot be written, in words for people."""
    try:
        yield
    except sqlite3.Error as exc:
        problem = str(exc)
    else:
        return
    raise UnreadableInputError(f"the temporary folder {tempfile.gettempdir()!r} cannot be used: {problem}; set TMPDIR")


def _resolved(folder: Path) -> Path:
    try:
        root = Path(os.path.realpath(folder, strict=True))
        if is_folder(root):
            return root
        problem = "is no folder"
    except (FileNotFoundError, ValueError):
        problem = "is not there"
    except OSError as exc:
        problem = f"cannot be looked at: {reason_of(exc)}"
    raise ConfigurationError(f"the images' folder {str(folder)!r} {problem}: check the path")


def _outside() -> Unreadable:
    return Unreadable("leads out of the images' folder (--images): name a file in it")


def _forms(said: str) -> list[str]:
    """What is written, and the same without what copying adds; the last has least of it."""
    bare = "".join(char for char in said if unicodedata.category(char) != "Cf").strip().strip(_QUOTES).strip()
    url = _FILE_URL.match(bare)
    if url is not None:
        rest = bare[url.end() :].removeprefix("localhost/")
        bare = rest if _DRIVE.match(rest) else f"{url[1][:1]}{rest}"
    forms = [said.strip(), bare]
    if url is not None or "%" in bare:
        forms.append(unquote(bare, errors="replace"))
    if os.sep == "/":
        forms = [form for each in forms for form in (each, each.replace("\\", "/"))]  # as Windows writes paths
    return list(dict.fromkeys(forms))


def _names(said: str) -> list[_Named]:
    return list(
        dict.fromkeys(named for form in _forms(said)[1:] or _forms(said) if (named := _named(form)) is not None)
    )


def _named(form: str) -> _Named | None:
    """What is to be searched for; None where that is not to be told."""
    parts: list[str] = []
    for part in _APART.split(_DRIVE.sub("", form, 1)):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif (key := _key(part)) not in ("", ".") and not (key.startswith("~") and not parts):
            parts.append(key)
    return _Named(tuple(parts[:-1]), parts[-1], _FROM_A_ROOT.match(form) is not None) if parts else None


def _key(name: str) -> str:
    """A name as it is compared: without case, Unicode forms, and how many spaces there are."""
    if not name.isascii():
        name = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
        name = unicodedata.normalize("NFKC", name.casefold()).encode("utf-8", "replace").decode()
    return " ".join(name.casefold().split())


def _folders(path: str) -> tuple[str, ...]:
    """The folders of a path, as they are compared; of one that ends in a slash, all of it."""
    return tuple(map(_key, path.split("/")[:-1]))


def _split(key: str) -> tuple[str, str]:
    """A name, and the ending of an image: none where it has another one."""
    stem, _, ending = key.rpartition(".")
    return (stem.rstrip(), _ENDINGS[ending]) if stem and ending in _ENDINGS else (key, "")


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in _DIGITS.findall(name[:255])]


def _is_suffix(one: Sequence[str], other: Sequence[str]) -> bool:
    return not one or tuple(other[-len(one) :]) == tuple(one)


def _list(names: Sequence[str], last: str) -> str:
    shown = list(names[:_MOST_SHOWN])
    if len(names) > _MOST_SHOWN:
        return f"{', '.join(shown)} {last} {len(names) - _MOST_SHOWN} more"
    return f" {last} ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
