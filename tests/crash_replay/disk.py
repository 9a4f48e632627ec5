"""A disk that loses power: what it may hold afterwards, as POSIX allows it and no file system exceeds.

Each change waits in memory until something makes it durable, and of what waits any part may be there after a loss of
power, in any order:

- data: each sector by itself, as it was after any of the writes to it, until the file is synced (a write of more than
  one may be torn);
- a file's size: apart from the data, so that a file may have grown by zeros, until the file is synced;
- a name that was made, removed or renamed: each by itself, until its *folder* is synced. A rename within one folder is
  one change; from one folder to another it is two.

Journaling file systems keep more than that (ext4 keeps the order of all names, and makes a file's name durable with the
file): what they may hold is a part of what is tried here. Modes and times are left out: nothing depends on them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SECTOR = 512
PAGE = 4096
ROOT = 0
"""The node of the folder that is watched."""
_FEW = 7
"""So many changes that wait are kept and lost in every combination."""

Keeps = Callable[[int, int], bool]
"""Whether the change of this number is kept, in the sector at this place (-1 for what is not data)."""
Image = dict[str, bytes]
"""The files of a folder, by their names from there."""


@dataclass(slots=True)
class _Node:
    """A file, or a folder, and what waits for it."""

    is_folder: bool
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    sectors: dict[int, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    """Data that waits: for each sector what was written there and where, the oldest first."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    entries: list[tuple[int, str, int | None]] = field(default_factory=list)
    size: int = 0
    """As programs see it."""

    @property
    def waits(self) -> bool:
        return bool(self.sectors or self.sizes or self.entries)


class Disk:
    """What is durable of a folder, and what waits to be. Changes are told in the order in which programs made them."""

    def __init__(self) -> None:
        self._nodes = {ROOT: _Node(is_folder=True)}
        self._changes = 0

    # ------------------------------------------------------------------------------------------------ what changes

    def make(self, folder: int, name: str, *, is_folder: bool = False) -> int:
        """A new file, or folder. Returns its node."""
        node = len(self._nodes)
        self._nodes[node] = _Node(is_folder)
        self._enter((folder, name, node))
        return node

    def remove(self, folder: int, name: str) -> None:
        self._enter((folder, name, None))

    def move(self, source: tuple[int, str], target: tuple[int, str], node: int) -> None:
        self._enter((*target, node), (*source, None), together=source[0] == target[0])

    def write(self, node: int, place: int, data: bytes) -> None:
        """`data` is in the file from there on."""
        file, number = self._nodes[node], self._next()
        if place + len(data) > file.size:
            file.size = place + len(data)
            file.sizes.append((number, file.size))
        at = 0
        while at < len(data):
            sector, within = divmod(place + at, SECTOR)
            length = min(SECTOR - within, len(data) - at)
            file.sectors.setdefault(sector, []).append((number, place + at, data[at : at + length]))
            at += length

    def cut(self, node: int, size: int) -> None:
        """The file has this size now."""
        file = self._nodes[node]
        if size == file.size:
            return
        if size < file.size:
            # What was cut off is zeros where the file grows again: as if it had been written.
            self.write(node, size, bytes(file.size - size))
        file.size = size
        file.sizes.append((self._next(), size))

    def mark(self) -> int:
        """A number that is behind every change so far."""
        return self._changes

    def sync(self, node: int, until: int) -> None:
        """What waits for the node is durable, if it was there at `until`."""
        found = self._nodes[node]
        self._settle(found, lambda number, _: number <= until, found.data, found.names)
        found.sectors = {
            sector: left
            for sector, pieces in found.sectors.items()
            if (left := [piece for piece in pieces if piece[0] > until])
        }
        found.sizes = [size for size in found.sizes if size[0] > until]
        found.entries = [entry for entry in found.entries if entry[0] > until]

    def waits(self, node: int) -> bool:
        """Whether anything waits for the node."""
        return self._nodes[node].waits

    def _next(self) -> int:
        self._changes += 1
        return self._changes

    def _enter(self, *entries: tuple[int, str, int | None], together: bool = True) -> None:
        number = self._next()
        for folder, name, node in entries:
            self._nodes[folder].entries.append((number, name, node))
            if not together:
                number = self._next()

    # -------------------------------------------------------------------------------------------- what may be there

    def image(self, keeps: Keeps) -> Image:
        """What is there if the power goes now, and of what waits that is kept."""
        found: Image = {}
        self._read(ROOT, "", keeps, found)
        return found

    def whole(self) -> Image:
        """What is there if nothing is lost: what programs see."""
        return self.image(lambda _, __: True)

    def images(self, rng: random.Random, most: int) -> Iterator[Image]:
        """What may be there if the power goes now: all of it where that is little, else a sample."""
        waiting = sorted(self._waiting())
        ways = self._ways(waiting, rng)
        return (self.image(keeps) for keeps in itertools.islice(ways, most))

    def _waiting(self) -> set[int]:
        found: set[int] = set()
        for node in self._nodes.values():
            found.update(number for pieces in node.sectors.values() for number, _, _ in pieces)
            found.update(number for number, _ in node.sizes)
            found.update(number for number, _, _ in node.entries)
        return found

    def _ways(self, waiting: list[int], rng: random.Random) -> Iterator[Keeps]:
        yield lambda _, __: False
        yield lambda _, __: True
        if not waiting:
            return
        if len(waiting) <= _FEW:
            for length in range(1, len(waiting)):
                for kept in itertools.combinations(waiting, length):
                    yield lambda number, _, kept=kept: number in kept  # type: ignore[misc]
        else:
            newest = waiting[-3 * _FEW :]
            for one in newest:
                yield lambda number, _, one=one: number != one  # type: ignore[misc]
                yield lambda number, _, one=one: number == one  # type: ignore[misc]
                yield lambda number, _, one=one: number < one  # type: ignore[misc]
        # Torn, and whatever else there is.
        while True:
            salt, share = rng.getrandbits(64), rng.choice((0.1, 0.5, 0.5, 0.9))
            grain, apart = rng.choice((1 << 40, PAGE, SECTOR)), rng.random() < 0.5
            start = rng.choice(waiting) if rng.random() < 0.3 else 0  # what is older is there

            def keeps(
                number: int,
                place: int,
                *,
                salt: int = salt,
                share: float = share,
                grain: int = grain,
                apart: bool = apart,
                start: int = start,
            ) -> bool:
                if number < start:
                    return True
                # The same for a whole page or write; and, half of the time, for all that was written there.
                mixed = hash((salt, number if apart or place < 0 else place // PAGE, place // grain))
                return mixed % 1024 < share * 1024

            yield keeps

    def _read(self, folder: int, prefix: str, keeps: Keeps, found: Image) -> None:
        names = dict(self._nodes[folder].names)
        self._settle(self._nodes[folder], keeps, bytearray(), names)
        for name, number in names.items():
            node = self._nodes[number]
            if node.is_folder:
                self._read(number, f"{prefix}{name}/", keeps, found)
            else:
                data = bytearray(node.data)
                self._settle(node, keeps, data, {})
                found[f"{prefix}{name}"] = bytes(data)

    @staticmethod
    def _settle(node: _Node, keeps: Keeps, data: bytearray, names: dict[str, int]) -> None:
        """Put into `data` and `names` what is kept of what waits."""
        if node.is_folder:
            for number, name, target in node.entries:
                if not keeps(number, -1):
                    continue
                names.pop(name, None)
                if target is not None:
                    names[name] = target
            return
        size = len(data)
        for number, wanted in reversed(node.sizes):
            if keeps(number, -1):
                size = wanted
                break
        for sector, pieces in node.sectors.items():
            newest = next((number for number, *_ in reversed(pieces) if keeps(number, sector * SECTOR)), 0)
            for number, place, piece in pieces:
                if number > newest:
                    break
                if len(data) < place + len(piece):
                    data.extend(bytes(place + len(piece) - len(data)))
                data[place : place + len(piece)] = piece
        del data[size:]
        data.extend(bytes(size - len(data)))
