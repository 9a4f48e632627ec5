"""Where a photo was taken, taken out of its file: in place, without decoding a pixel.

Cameras write it as GPS into EXIF, and some programs into XMP too; a moving photo has it once more in its video. EXIF is
a small TIFF file within the photo, whatever the photo's format is: the entry that leads to GPS is taken out of its
directory, and what it led to becomes zeros. In XMP the text becomes spaces. No byte moves, so that all else stays as
it was: pixels, colours, the camera's notes, and which side is up.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

_GPS = 0x8825
_WITHIN = (0x8769, 0x014A)  # tags that lead to further directories: EXIF's own, and those of a TIFF
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # bytes of one value, by its type
_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 1024
_LONGEST_EXIF = 1 << 16  # bytes: a JPEG has room for no more
_MOST_PLACES = 500  # looked at for one mark: each takes time, and a file may be made of nothing else

_PREFIX = re.compile(rb"[\w-]{1,40}:\Z")
_ATTRIBUTE = re.compile(rb"""[\w-]+:GPS\w*\s*=\s*(?:"[^"<]{0,4096}"|'[^'<]{0,4096}')""", re.IGNORECASE)
_ELEMENT = re.compile(rb"<([\w-]+:GPS\w*)\b[^<>]{0,4096}(?:/>|>.{0,65536}?</\1\s*>)", re.IGNORECASE | re.DOTALL)
_OF_A_VIDEO = re.compile(rb"\xa9xyz.{4}([+-][0-9.+-]{4,64})", re.DOTALL)
_DIGITS = bytes.maketrans(b"123456789", b"000000000")

_PNG = b"\x89PNG\r\n\x1a\n"
_PACKED_METADATA = re.compile(rb"Raw profile type (?:exif|app1|xmp)\0|XML:com\.adobe\.xmp\0\x01", re.IGNORECASE)


def without_location(data: bytes) -> bytes:
    """The same photo without the place it was taken at: `data` itself where it says none.

    The size stays too, but for a PNG's packed copies of EXIF and XMP, which are left out. Never raises: of what is
    damaged as much is taken out as can be found.
    """
    photo = bytearray(data)
    for mark, order in ((b"II*\0", "<"), (b"MM\0*", ">")):
        for at in _places(data, mark):
            _clear_exif(photo, at, order)
    for word in (b"GPS", b"Gps", b"gps"):
        for at in _places(data, word):
            _clear_xmp(photo, at)
    for at in _places(data, b"\xa9xyz"):
        if (found := _OF_A_VIDEO.match(photo, at)) is not None:
            photo[found.start(1) : found.end(1)] = found[1].translate(_DIGITS)
    if data.startswith(_PNG):
        photo = _png(data, photo)
    return data if photo == data else bytes(photo)


def _places(data: bytes, what: bytes) -> Iterator[int]:
    at = -1
    for _ in range(_MOST_PLACES):
        at = data.find(what, at + 1)
        if at < 0:
            return
        yield at


def _clear_exif(photo: bytearray, base: int, order: str) -> None:
    """Take GPS out of the TIFF file that begins at `base`, if one does: the mark may stand there by chance."""
    end = len(photo) if base == 0 else min(len(photo), base + _LONGEST_EXIF)
    short, long = struct.Struct(f"{order}H"), struct.Struct(f"{order}I")
    if base + 8 > end:
        return
    waiting, seen = [long.unpack_from(photo, base + 4)[0]], set[int]()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        offset = waiting.pop()
        at = base + offset
        if offset < 8 or offset in seen or at + 2 > end:
            continue
        seen.add(offset)
        count = short.unpack_from(photo, at)[0]
        if not 0 < count <= _MOST_ENTRIES or at + 2 + 12 * count > end:
            continue
        place = 0
        while place < count:
            entry = at + 2 + 12 * place
            tag, kind = short.unpack_from(photo, entry)[0], short.unpack_from(photo, entry + 2)[0]
            value = long.unpack_from(photo, entry + 8)[0]
            if tag == _GPS and kind in (4, 13):
                _clear_directory(photo, base, value, end, order)
                after = at + 2 + 12 * count + 4  # behind the directory, with where the next one is
                after = after if after <= end else after - 4
                photo[entry:after] = photo[entry + 12 : after] + bytes(12)
                count -= 1
                photo[at : at + 2] = short.pack(count)
                continue
            if tag in _WITHIN and kind in (4, 13):
                waiting.append(value)
            place += 1
        following = at + 2 + 12 * count
        if following + 4 <= end:
            waiting.append(long.unpack_from(photo, following)[0])


def _clear_directory(photo: bytearray, base: int, offset: int, end: int, order: str) -> None:
    """Make a directory, and the values that it leads to, zeros."""
    at = base + offset
    if offset < 8 or at + 2 > end:
        return
    count = struct.unpack_from(f"{order}H", photo, at)[0]
    if count > _MOST_ENTRIES or at + 2 + 12 * count > end:
        return
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        _, kind, values, value = struct.unpack_from(f"{order}HHII", photo, entry)
        size = values * _SIZES[kind] if kind < len(_SIZES) else 0
        if 4 < size <= _MOST_ENTRIES and value >= 8 and base + value + size <= end:
            photo[base + value : base + value + size] = bytes(size)
    photo[at : at + 2 + 12 * count] = bytes(2 + 12 * count)


def _clear_xmp(photo: bytearray, at: int) -> None:
    """Make the property of XMP spaces in whose name the word at `at` stands, if it does."""
    start = max(0, at - 41)
    prefix = _PREFIX.search(photo[start:at])
    if prefix is None:
        return
    begin = start + prefix.start()
    found = _ELEMENT.match(photo, begin - 1) if photo[begin - 1 : begin] == b"<" else _ATTRIBUTE.match(photo, begin)
    if found is not None:
        photo[found.start() : found.end()] = b" " * (found.end() - found.start())


def _png(data: bytes, photo: bytearray) -> bytearray:
    """`photo` with its checksums mended, and without what is packed and may hold the place."""
    whole, at = bytearray(_PNG), len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data):
            break
        if not (kind in (b"tEXt", b"zTXt", b"iTXt") and _PACKED_METADATA.match(data, at + 8)):
            chunk = photo[at:end]
            if chunk != data[at:end]:
                chunk[-4:] = zlib.crc32(chunk[4:-4]).to_bytes(4, "big")
            whole += chunk
        at = end
    return whole + photo[at:]
