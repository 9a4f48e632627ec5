"""What a program does to the files of a folder, and what it sends, as strace saw it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .disk import ROOT, Disk, Image

STRACE = shutil.which("strace")

_CALLS = (
    "open,openat,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,"
    "fallocate,copy_file_range,sendfile,splice,fsync,fdatasync,sync_file_range,sync,syncfs,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,mmap,sendto,sendmsg,sendmmsg"
)
_LONGEST = 4 << 20
_QUOTED = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_PATH = re.compile(r'(?:(\d+), )?"((?:\\x[0-9a-f]{2})*)"')
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+)(?:<[^>]*>)?(?: .*)?$", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_NUMBER = re.compile(rb"number=(?:%2B|\+)?(\d+)")


def command(log: Path, words: Sequence[str]) -> list[str]:
    """`words`, traced into `log`."""
    assert STRACE is not None
    # libuv could hand file operations to the kernel by a ring, which strace does not see into. (Its other ring only
    # says what sockets it waits for.)
    options = ["-f", "-xx", "-s", str(_LONGEST), "--seccomp-bpf", "-E", "UV_USE_IO_URING=0"]
    return [STRACE, *options, "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log), *words]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request for this number began to leave."""

    number: str


@dataclass(frozen=True, slots=True)
class Told:
    """The program said this on its standard output."""

    line: str


@dataclass(frozen=True, slots=True)
class Named:
    """A file has this name from now on, and is whole as far as programs see."""

    name: str


@dataclass(frozen=True, slots=True)
class Syncing:
    """The node is about to be safe on the disk."""

    node: int
    until: int


Event = Sent | Told | Named | Syncing


class UnclearError(AssertionError):
    """Two threads wrote at the same time, and strace does not say which of them was first."""


@dataclass(slots=True)
class _File:
    """What an open descriptor leads to."""

    node: int
    place: int = 0
    appends: bool = False


@dataclass(slots=True)
class Watcher:
    """Follows one folder, through one program after another, and tells its `disk` what they did."""

    folder: Path
    disk: Disk = field(default_factory=Disk)
    without: Callable[[str], bool] = lambda _: False
    """Which files, by their name ("." is the folder), are to be treated as if no program had ever synced them."""
    _paths: dict[str, tuple[int, bool]] = field(init=False)
    _sizes: dict[int, int] = field(default_factory=dict)
    _files: dict[int, _File] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._paths = {str(self.folder): (ROOT, True)}

    def seed(self, image: Image) -> None:
        """These files are there, and durable."""
        for name, data in image.items():
            node = self._make(f"{self.folder}/{name}")
            self._write(node, 0, data)
            self.disk.sync(node, self.disk.mark())
        self.disk.sync(ROOT, self.disk.mark())

    def name_of(self, node: int) -> str:
        """The newest name of a file or folder."""
        return self._names.get(node, ".")

    def follow(self, log: Path, after: Image) -> Iterator[Event]:
        """What happens, in its order. A sync has happened when the one who reads asks for what is next.

        `after` is what is in the folder when the program has ended.
        """
        self._files = {}
        begun: dict[str, tuple[str, int]] = {}
        with log.open() as lines:
            for line in lines:
                thread, _, rest = line.strip().partition(" ")
                rest = rest.strip()
                since = self.disk.mark()
                if rest.endswith("<unfinished ...>"):
                    start = rest.removesuffix("<unfinished ...>").rstrip()
                    begun[thread] = (start, since)
                    yield from self._leaving(start)
                    if start.startswith("close("):  # its number may be another thread's before this is over
                        self._files.pop(int(start.removeprefix("close(").rstrip(") ")), None)
                    continue
                resumed = _RESUMED.match(rest)
                if resumed is not None:
                    start, since = begun.pop(thread)
                    rest = start + resumed[2]
                if rest.endswith("= ?"):  # the program was killed meanwhile
                    begun[thread] = (rest.removesuffix("= ?").rstrip().removesuffix(")"), since)
                    continue
                found = _LINE.match(rest)
                if found is None or found[3].startswith("-"):
                    continue
                if resumed is None:
                    yield from self._leaving(rest)
                if resumed is None or found[1] != "close":
                    yield from self._do(found[1], found[2], int(found[3], 0), since)
        self._end_of(begun, after)

    def _end_of(self, begun: dict[str, tuple[str, int]], after: Image) -> None:
        """A program that was killed in the middle of a write may have written, or not: the folder says."""
        for start, since in begun.values():
            name, _, text = start.partition("(")
            if self.disk.whole() != after and name in ("write", "pwrite64", "unlink", "ftruncate"):
                for _ in self._do(name, text.rstrip(", "), len(_data_of(text)), since):
                    raise AssertionError("a write tells nothing")
        now = self.disk.whole()
        wrong = sorted(name for name in {*now, *after} if now.get(name) != after.get(name))
        if wrong:
            raise UnclearError(f"what was followed is not what happened to {', '.join(wrong)}")

    # ------------------------------------------------------------------------------------------------- what is told

    def _leaving(self, text: str) -> Iterator[Event]:
        """What a call tells others, which it does as soon as it begins."""
        name, _, rest = text.partition("(")
        if name in ("sendto", "sendmsg", "sendmmsg", "write", "writev"):
            number = int(re.match(r"\d+", rest)[0])  # type: ignore[index]
            if number in self._files:
                return
            data = _data_of(rest)
            if number == 1:
                yield from map(Told, data.decode(errors="replace").splitlines())
            else:
                yield from (Sent(found.decode()) for found in _NUMBER.findall(data))

    def _do(self, name: str, text: str, result: int, since: int) -> Iterator[Event]:
        match name:
            case "open" | "openat" | "creat":
                self._open(text, result, name)
            case "close":
                self._files.pop(int(text), None)
            case "dup" | "dup2" | "dup3":
                self._duplicate(int(text.partition(",")[0]), result)
            case "fcntl":
                if "F_DUPFD" in text:
                    self._duplicate(int(text.partition(",")[0]), result)
            case "lseek" | "write" | "writev" | "pwrite64" | "ftruncate" | "fsync" | "fdatasync":
                if (file := self._files.get(int(text.partition(",")[0]))) is not None:
                    yield from self._on_file(name, file, text, result, since)
            case "rename" | "renameat" | "renameat2":
                yield from self._rename(*self._paths_of(text))
            case "unlink" | "unlinkat" | "rmdir":
                self._unlink(self._paths_of(text)[0])
            case "mkdir" | "mkdirat":
                path = self._paths_of(text)[0]
                if self._is_watched(path):
                    self._make(path, is_folder=True)
            case "mmap":
                self._check_map(text)
            case "sync_file_range":
                pass  # promises nothing of a file's size, nor of the disk's own cache
            case _:
                self._refuse(name, text)

    def _refuse(self, name: str, text: str) -> None:
        """What is not followed must not touch the folder."""
        paths = self._paths_of(text)
        numbers = [int(word) for word in re.findall(r"(?:^|, )(\d+)(?=,|$)", text)]
        touches = any(map(self._is_watched, paths)) or any(number in self._files for number in numbers)
        follows = not touches and name not in ("sync", "syncfs")
        assert follows, f"{name} is not followed: {text[:200]}"

    def _check_map(self, text: str) -> None:
        words = text.split(", ")
        if "MAP_SHARED" in words[3] and "PROT_WRITE" in words[2] and int(words[4]) in self._files:
            raise AssertionError(f"a file is written through memory, which is not followed: {text}")

    # -------------------------------------------------------------------------------------------------- on the disk

    def _open(self, text: str, result: int, call: str) -> None:
        path = self._paths_of(text)[0]
        self._files.pop(result, None)
        if not self._is_watched(path) or path.endswith("-shm"):
            # The index of a log is memory that processes share. SQLite makes it anew after a loss of power.
            return
        flags = "O_WRONLY|O_CREAT|O_TRUNC" if call == "creat" else text
        assert not re.search("O_SYNC|O_DSYNC|O_TMPFILE", flags), text
        if path not in self._paths:
            self._make(path)
        node, _ = self._paths[path]
        self._files[result] = _File(node, appends="O_APPEND" in flags)
        if "O_TRUNC" in flags:
            self._cut(node, 0)

    def _duplicate(self, old: int, new: int) -> None:
        self._files.pop(new, None)
        if old in self._files:
            self._files[new] = self._files[old]  # one place for both

    def _on_file(self, name: str, file: _File, text: str, result: int, since: int) -> Iterator[Event]:
        if name == "lseek":
            file.place = result
        elif name == "ftruncate":
            self._cut(file.node, int(text.split(",")[1]))
        elif name in ("fsync", "fdatasync"):
            if self.disk.waits(file.node) and not self.without(self.name_of(file.node)):
                yield Syncing(file.node, since)
                self.disk.sync(file.node, since)
        elif name == "pwrite64":
            self._write(file.node, int(text.rpartition(",")[2]), _data_of(text)[:result])
        else:
            if file.appends:
                file.place = self._sizes.get(file.node, 0)
            self._write(file.node, file.place, _data_of(text)[:result])
            file.place += result

    def _write(self, node: int, place: int, data: bytes) -> None:
        self.disk.write(node, place, data)
        self._sizes[node] = max(self._sizes.get(node, 0), place + len(data))

    def _cut(self, node: int, size: int) -> None:
        self.disk.cut(node, size)
        self._sizes[node] = size

    def _make(self, path: str, *, is_folder: bool = False) -> int:
        folder, _, name = path.rpartition("/")
        node = self.disk.make(self._paths[folder][0], name, is_folder=is_folder)
        self._paths[path] = (node, is_folder)
        self._names[node] = path.removeprefix(f"{self.folder}/")
        return node

    def _unlink(self, path: str) -> None:
        if path in self._paths:
            folder, _, name = path.rpartition("/")
            self.disk.remove(self._paths[folder][0], name)
            del self._paths[path]

    def _rename(self, source: str, target: str) -> Iterator[Event]:
        if not self._is_watched(source) and not self._is_watched(target):
            return
        node, is_folder = self._paths.pop(source)
        assert not is_folder, f"a folder is renamed, which is not followed: {source}"
        (old, _, old_name), (new, _, new_name) = source.rpartition("/"), target.rpartition("/")
        self.disk.move((self._paths[old][0], old_name), (self._paths[new][0], new_name), node)
        self._paths[target] = (node, False)
        self._names[node] = target.removeprefix(f"{self.folder}/")
        yield Named(self._names[node])

    def _paths_of(self, text: str) -> list[str]:
        """Programs under watch work in the folder, and names without one are from there."""
        found = []
        for number, data in _PATH.findall(text):
            base = str(self.folder)
            if number:
                base = (
                    f"{base}/{self._names.get(self._files[int(number)].node, '.')}"
                    if int(number) in self._files
                    else "/"
                )
            found.append(os.path.normpath(Path(base, os.fsdecode(bytes.fromhex(data.replace("\\x", ""))))))
        return found

    def _is_watched(self, path: str) -> bool:
        return path == str(self.folder) or path.startswith(f"{self.folder}/")


def _data_of(text: str) -> bytes:
    found = []
    for data, is_cut in _QUOTED.findall(text):
        assert not is_cut, "strace cut what was written"
        found.append(bytes.fromhex(data.replace("\\x", "")))
    return b"".join(found)
