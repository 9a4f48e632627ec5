"""Images: from a path, bytes, a file object or base64 text to the bytes of an image file.

Reading blocks, so `load` is called off the event loop.
"""

from __future__ import annotations

import binascii
import inspect
import io
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import pybase64

from aisolution_async.api import ImageSource
from aisolution_async.checks import kind_of
from aisolution_async.errors import InputError
from aisolution_async.names import is_taken, perhaps

Data = TypeVar("Data", bound=bytes | memoryview)

MAX_IMAGE_BYTES = 2 * 1024 * 1024
"""The widest reading of the vendor's "2M"; larger images would be refused there."""

# How base64 of an image is told from a path.
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\x00\x00\x00\x0cJXL \r\n\x87\n",
)
_NOT_IMAGES = {
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"PK\x03\x04": "a ZIP or Office file",
    b"PK\x05\x06": "an empty ZIP file",
    b"PK\x07\x08": "a part of a ZIP file",
    b"MSCF": "a CAB file",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office file",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"Rar!\x1a\x07": "a RAR file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"SQLite format 3\x00": "a database",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\0asm": "a program",
    b"\xfe\xed\xfa\xce": "a program",
    b"\xfe\xed\xfa\xcf": "a program",
    b"\xce\xfa\xed\xfe": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"HTTP/1.": "an HTTP response with its headers",
    b"bplist00": "a property list",
    b"\x1aE\xdf\xa3": "a video",
    b"\x00\x00\x01\xba": "a video",
    b"\x00\x00\x01\xb3": "a video",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "a video",
    b"FLV\x01": "a video",
    b"OggS": "a video or sound",
    b"ID3": "a sound",
    b"fLaC": "a sound",
}
_MOVIES = re.compile(rb"isom|iso[2-9]|mp4|mp71|avc1|qt  |M4|MSNV|3g|dash|f4|mmp4|NDSC|XAVC")
_STILLS = frozenset({b"mif1", b"mif2", b"miaf", b"msf1", b"heic", b"heix", b"heim", b"heis", b"avif", b"avis", b"jpeg"})
_PNM = re.compile(rb"P[1-6fF]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d")  # an image format that begins as text
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # none of them is in a text
_STRAY = re.compile(rb"[\x00\x07\x1a]")  # but these are, now and then: an end, a bell, an end of CP/M's
_MULTIPART = re.compile(rb"--[^\r\n]{1,200}\r?\nContent-", re.IGNORECASE)
_ENCODINGS = ("shift_jis", "gb18030", "euc_kr", "cp1252", "cp1251")
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_PUNCTUATION = frozenset(" \t\r\n,.;:!?-'\"()/@_")
_TOO_SHORT = 64
_PADDING = b" \t\r\n\x00\xef\xbb\xbf"
_LINE_ENDS = re.compile(r"[^\S ]+")
_URL_SAFE = str.maketrans("-_", "+/")
_NARROWEST_LINE, _SHORTEST_LINE, _LONGEST_LINE = 4, 60, 1024  # characters: any that is known, and the usual ones
_WIDEST_END = 8  # spaces: a line end and an indentation, each character a space
_NO_CHANCE = 6
_SURE_OF_A_PLUS = 2000  # characters: of so many, none is a plus once in 10**13 times
_NOT_DECODED = "does not decode as base64: it is cut off or altered (a '+' that became a space, two alphabets mixed)"
_LONGEST_PATH = 4096
# A FIFO without a writer would block the thread for ever, and Windows would change line ends.
_READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_HEAD = 512


class Buffers:
    """What files are read into, again and again. Thread-safe.

    New memory for each large file costs more than to read it: the system hands it out in small pages, each made zeros.
    """

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> memoryview:
        """A view of a buffer, of `size` bytes."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = bytearray()
        return memoryview(buffer if len(buffer) >= size else bytearray(size))[:size]

    def give_back(self, view: memoryview) -> None:
        """Nobody uses what is in it any more."""
        self._free.append(cast(bytearray, view.obj))

    def clear(self) -> None:
        """Give the memory back to the system."""
        self._free.clear()


@overload
def load(source: ImageSource, *, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes: ...
@overload
def load(source: ImageSource, *, name: str, max_bytes: int, buffers: Buffers | None) -> bytes | memoryview: ...
def load(
    source: ImageSource, *, name: str, max_bytes: int = MAX_IMAGE_BYTES, buffers: Buffers | None = None
) -> bytes | memoryview:
    """The bytes of the image that `source` stands for. `name` is the parameter's, for the error.

    A view is of one of `buffers`, and to be given back to them.
    Blocks on files. Raises InputError where there is no image to send: nothing there, not readable, empty,
    surely something else, larger than `max_bytes`, or text that could be a path as well as base64. What nobody here
    knows goes out: the vendor may read more formats.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _checked(_unwrapped(bytes(source), name), f"{name} (bytes)", max_bytes)
    if isinstance(source, str):
        if not source.strip():
            raise InputError(f"{name} is empty: there is no image to send")
        decoded = _from_base64(source, name)
        if decoded is not None:
            return _checked(decoded, f"{name} (base64 text)", max_bytes)
        return _from_path(source, name, max_bytes, buffers)
    if isinstance(source, os.PathLike):
        problem = ""
        try:
            path = os.fsdecode(source)
        except Exception as exc:  # a path of the user's own making
            problem = type(exc).__name__
        if problem:
            raise InputError(f"{name} is a path that cannot be read ({problem})")
        return _from_path(path, name, max_bytes, buffers)
    if hasattr(source, "read"):
        return _from_file(source, name, max_bytes)
    raise InputError(f"{name} is {kind_of(source)}: pass a path, bytes, a binary file object or base64 text")


def is_image(head: bytes) -> bool:
    """Whether `head`, the first bytes of a file, is how an image format begins."""
    return (
        head.startswith(_SIGNATURES)
        or head[4:8] == b"ftyp"
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
    )


def begins_like_an_image(text: str) -> bool:
    """Whether `text` begins as base64 of an image does."""
    # The first 64 characters tell, before megabytes are decoded.
    start = _LINE_ENDS.sub("", text[:256].lstrip())
    return any(
        (head := _decoded(form[:64])) is not None and is_image(head)
        for form in {start.replace(" ", ""), start.replace(" ", "+")}
    )


def _checked(data: Data, what: str, max_bytes: int, verb: str = "send") -> Data:
    if not data:
        raise InputError(f"{what} is empty: there is no image to send")
    if len(data) > max_bytes:
        raise InputError(_too_large(what, len(data), max_bytes))
    if kind := _surely(bytes(data[:_HEAD])) or _surely_by_all(data):
        raise InputError(f"{what} is not an image but {kind}: {verb} a JPEG or PNG file")
    return data


def _surely(head: bytes) -> str:
    """What a file that begins with `head` is, where it is surely no image; else empty."""
    if head.startswith(_SIGNATURES):
        return ""
    start = head.lstrip(_PADDING)
    if not start:
        return "zeros or blanks"
    for signature, kind in _NOT_IMAGES.items():
        if head.startswith(signature) or (signature == b"%PDF" and start.startswith(signature)):
            return kind
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WAVE"):
        return "a video or sound"
    if head[4:8] == b"ftyp":
        length = max(int.from_bytes(head[:4], "big"), 16)
        brands = {head[at : at + 4] for at in range(8, min(length, len(head)), 4) if at != 12}
        return "a video" if _MOVIES.match(head[8:12]) and not brands & _STILLS else ""
    if head[4:8] in (b"moov", b"mdat", b"wide", b"pnot"):
        return "a video"
    if _MULTIPART.match(start):
        return "a part of a multipart form"
    if head[257:262] == b"ustar":
        return "a tar file"
    if re.match(rb"<(!doctype|\?xml|html|head|body|title|script|svg)\b", start, re.IGNORECASE):
        return "HTML or XML"
    return "text" if not _PNM.match(head) and _is_text(head) else ""


def _surely_by_all(data: bytes | memoryview) -> str:
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and data[-1:] == b".":
        return "a pickle"
    if data[:2] in (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2") and len(data) > 4:  # an MP3 without a tag
        newer, index, rate = data[1] & 0x08, data[2] >> 4, data[2] >> 2 & 3
        if 0 < index < 15 and rate < 3:
            kbits = (_KBITS_1 if newer else _KBITS_2)[index]
            size = (144_000 if newer else 72_000) * kbits // ((44100, 48000, 32000)[rate] // (1 if newer else 2))
            size += data[2] >> 1 & 1
            if data[size : size + 2] == data[:2]:
                return "a sound"
    return ""


def _too_large(what: str, size: int | None, limit: int) -> str:
    has = "too large" if size is None else f"{size / 1024 / 1024:.1f} MiB"
    return f"{what} is {has}, over the limit of {limit / 1024 / 1024:.3g} MiB: make the photo smaller"


def _from_base64(text: str, name: str) -> bytes | None:
    """The decoded bytes if `text` is base64, None if it is a path. See `ImageSource` for the rule."""
    if text[:5].lower() == "data:":
        head, comma, payload = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise InputError(f"{name} is a data: URL without ';base64,': only base64 data URLs can be sent")
        decoded = _decode(payload)
        if decoded is None:
            raise InputError(f"{name} is a data: URL, and {_NOT_DECODED}")
        return decoded
    if len(text) <= _LONGEST_PATH and not begins_like_an_image(text):
        return None
    decoded = _decode(text)
    if decoded is None:
        if len(text) > _LONGEST_PATH:
            raise InputError(f"{name} is text of {len(text)} characters, too long for a path, and {_NOT_DECODED}")
        if " " in text.strip() and not perhaps(is_taken, Path(text)):
            raise InputError(f"{name} begins as base64 of an image, and {_NOT_DECODED}")
        return None
    if len(text) <= _LONGEST_PATH and _may_be_a_path(text):
        raise InputError(
            f"{name} is text that decodes as a base64 image and also names a file: "
            "pass Path(...) for the file, or put 'data:;base64,' before base64"
        )
    return decoded


def _may_be_a_path(text: str) -> bool:
    """Whether it may name a file to be read; it may where nobody can tell."""
    try:
        return is_taken(Path(text))
    except PermissionError:  # in a folder that may not be searched nobody means any
        return False
    except OSError:
        return True


def _decode(text: str) -> bytes | None:
    """What base64 stands for, in lines or not, of the usual or the URL-safe alphabet; None where that is not sure."""
    packed = _LINE_ENDS.sub("", text.strip())
    lines = packed.replace(" ", "")
    if "+" in lines or "-" in lines:
        return _decoded(lines)
    # A space stands between lines, or is a plus that a form made a space.
    behind = 0 if lines[-1:] == "=" else text[len(text.rstrip()) :].count(" ")
    before = text[: len(text) - len(text.lstrip())].count(" ")
    if before and not begins_like_an_image(packed):
        return None  # pluses at the very beginning, perhaps
    if lines == packed and not behind:
        return _decoded(lines)
    rows = text.strip().splitlines()
    if len(rows) > 1 and all(row[:1] == " " and row.strip() for row in rows[1:]):  # indented, if there are several
        indents = {len(row) - len(row.lstrip()) for row in rows[1:]}
        plain = len(rows) > 2 and len(indents) == 1 and not behind and not any(" " in row.lstrip() for row in rows)
        return _decoded(lines) if plain else None
    body = _the_one_reading(packed, behind)
    return None if body is None else _decoded(body.replace(" ", "+"))


def _the_one_reading(packed: str, behind: int) -> str | None:
    """`packed` without the spaces that are line ends; all others are pluses. None where it can be read in two ways.

    `behind` is how many spaces came behind it. Lines have one width, and a line end is one space or several.
    """
    readings: dict[tuple[int, int, int], int] = {}  # width, spaces between, characters left: line ends
    periods: set[int] = set()
    short = len(packed) < _SURE_OF_A_PLUS
    for tail in range(min(behind, _WIDEST_END) + 1):
        whole = packed + " " * tail
        if len(whole) % 4 != 1:
            readings[0, 0, len(whole)] = 0
        for width, gap, ends in _in_lines(whole):
            usual = _SHORTEST_LINE <= width <= _LONGEST_LINE and width % 4 == 0
            left = (len(whole) - ends) % 4
            # Lost padding on top of that is thought of where the lines look like lines, or anything may be meant.
            if left == 0 or (left != 1 and (short or usual or ends >= 3)):
                readings[width, gap, len(whole) - ends] = ends
            if ends >= _NO_CHANCE:
                period = width + gap
                if not any(period % known == 0 for known in periods):
                    periods.add(period)
                if len(periods) > 1:
                    return None  # it is full of spaces
    if not readings:
        return None
    (width, gap, size), most = max(readings.items(), key=lambda item: item[1])
    # Pluses stand one to 64 characters: so many more are not in line by chance.
    if size % 4 or sum(most - ends < _NO_CHANCE for ends in readings.values()) > 1:
        return None
    if not width:
        # No line ends, then; or the spaces of a short text stand anywhere between its parts.
        rest = len(packed.replace(" ", "")) % 4
        apart = " " in packed and (rest == 0 or (rest != 1 and packed[-1:] != "="))
        return None if apart and short else packed + " " * (size - len(packed))
    if most < _NO_CHANCE and (width < _SHORTEST_LINE or width % 4):
        return None
    step = width + gap
    whole = packed + " " * behind
    return "".join(whole[at : at + width] for at in range(0, len(whole), step))[:size]


def _in_lines(text: str) -> Iterator[tuple[int, int, int]]:
    """Every width, and number of spaces between, of lines that `text` may be in, with the spaces that end lines."""
    width = text.find(" ", _NARROWEST_LINE)
    while width > 0:
        for gap in range(1, _WIDEST_END + 1):
            if text[width : width + gap].strip(" "):
                break
            step = width + gap
            if text[width + step : width + step + 1].strip(" "):  # the next line's
                continue
            columns = [text[width + at :: step] for at in range(gap)]
            if not any(column.strip(" ") for column in columns):
                yield width, gap, sum(map(len, columns))
        width = text.find(" ", width + 1)


def _decoded(packed: str) -> bytes | None:
    # Of the 64 characters each alphabet has two of its own: text that has some of both is of neither.
    if "-" in packed or "_" in packed:
        if "+" in packed or "/" in packed:
            return None
        packed = packed.translate(_URL_SAFE)
    packed += "=" * (-len(packed) % 4)  # padding is often lost on the way
    try:
        return pybase64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_path(path: str, name: str, max_bytes: int, buffers: Buffers | None) -> bytes | memoryview:
    what = f"{name} {shown(path)}"
    try:
        file = os.open(path, _READ_ONLY)  # Path.open has no such flags, and lets other threads in once more
        try:
            state = os.fstat(file)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError
            if not stat.S_ISREG(state.st_mode):
                raise InputError(f"{what} is not a regular file: name an image file")
            if state.st_size > max_bytes:
                raise InputError(_too_large(what, state.st_size, max_bytes))
            # One byte more than it has, to notice its end; a growing file is read as far as it was.
            data: bytes | memoryview
            if buffers is None or not hasattr(os, "readv"):
                data = os.read(file, state.st_size + 1)
            else:
                view = buffers.take(state.st_size + 1)
                data = view[: os.readv(file, [view])]
        finally:
            os.close(file)
    except IsADirectoryError:
        problem = "is a directory: name an image file in it"
    except FileNotFoundError:
        hint = "" if Path(path).is_absolute() else " (relative paths start at the current directory)"
        problem = f"does not exist: check the path{hint}"
        if perhaps(is_taken, Path(path)):
            problem = "is a link to a file that does not exist: check what it leads to"
    except PermissionError:
        problem = "may not be read: check the file's permissions"
    except (OSError, ValueError) as exc:
        problem = f"cannot be read ({_reason(exc)})"
    else:
        return _checked(_unwrapped(data, what), what, max_bytes, "name")
    raise InputError(f"{what} {problem}")


def _unwrapped(data: Data, name: str) -> Data | bytes:
    """The image within base64 that came as bytes, as `base64.b64encode` gives it; else `data` as it is."""
    start = bytes(data[:256]).lstrip()
    # No image begins with 64 characters that are base64 of the beginning of an image.
    if start[:5].lower() != b"data:" and not (start.isascii() and begins_like_an_image(start.decode("ascii"))):
        return data
    try:
        text = bytes(data).decode("ascii")
    except UnicodeDecodeError:
        return data
    return _from_base64(text.lstrip(), name) or data


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and _reads(head, "utf-16"):
        return True
    if any(_reads(head, encoding) for encoding in ("utf-32", "utf-32-be", "utf-16-le", "utf-16-be")):
        return True
    full, head = len(head) == _HEAD, head.rstrip(b"\0")
    bare = _STRAY.sub(b"", head)
    if _CONTROLS.search(bare) or _CONTROLS.match(head) or b"\0\0" in head:
        return False
    strays = len(head) - len(bare)
    if strays > max(2, len(head) // 8):
        return False
    try:
        bare.decode("utf-8")
    except UnicodeDecodeError:
        # Of another encoding, or cut within a character. 512 bytes of anything else have control characters.
        if strays or bare.startswith(b"\xff\x0a"):  # JPEG XL
            return full and not strays
        return len(bare) >= _TOO_SHORT or any(_is_words(bare, encoding) for encoding in _ENCODINGS)
    return True


def _reads(head: bytes, encoding: str) -> bool:
    """Whether `head` is text of an encoding of two or four bytes a character; without a mark, some of it is ASCII."""
    unit = 4 if "32" in encoding else 2
    try:
        text = head[: len(head) // unit * unit].decode(encoding, "replace" if unit == 2 else "strict")
    except UnicodeDecodeError:
        return False
    text = text.lstrip("\ufeff").rstrip("\ufffd")
    if len(text) < 2 or not all(char.isprintable() or char.isspace() for char in text):
        return False
    # Pairs of bytes are often the number of some letter; that of a comma, a space or a line end is rarer.
    plain = sum(char.isascii() for char in text)
    return encoding == "utf-16" or plain * 2 >= len(text) or (len(text) >= 16 and plain * 16 >= len(text))


def _is_words(short: bytes, encoding: str) -> bool:
    try:
        text = short.decode(encoding)
    except UnicodeDecodeError:
        return False
    return sum(char.isalnum() or char in _PUNCTUATION for char in text) >= 0.85 * len(text)


def _from_file(file: Any, name: str, max_bytes: int) -> bytes:
    what = f"{name} (file object)"
    if isinstance(file, io.TextIOBase):
        raise InputError(f"{what} is open for text: open it with mode 'rb'")
    data = bytearray()
    try:
        if not _takes_a_size(file.read):
            data += _piece(file.read(), what)
        else:
            # Pipes and sockets give less than they are asked for; only nothing is the end.
            while len(data) <= max_bytes and (piece := _piece(file.read(max_bytes + 1 - len(data)), what)):
                data += piece
    except InputError:
        raise
    except Exception as exc:  # whatever an object of the user's raises
        problem = _reason(exc)
    else:
        if not data:
            raise InputError(f"{what} is at its end: it is empty, or was read before; seek(0) or pass bytes")
        if len(data) > max_bytes:
            raise InputError(_too_large(what, None, max_bytes))
        return _checked(_unwrapped(bytes(data), what), what, max_bytes)
    raise InputError(f"{what} cannot be read ({problem})")


def _takes_a_size(read: Callable[..., object]) -> bool:
    # Asked before, since a TypeError may also come from within, after a part was read.
    try:
        inspect.signature(read).bind(1)
    except TypeError:
        return False
    except ValueError:  # it is not written in Python, and says nothing of itself
        return True
    return True


def _piece(piece: object, what: str) -> bytes | bytearray | memoryview:
    if piece is None:  # there is nothing now, where reading does not wait
        return b""
    if isinstance(piece, Awaitable):
        if inspect.iscoroutine(piece):
            piece.close()  # else Python warns that nobody awaited it
        raise InputError(f"{what} is read by await: read it first, and pass bytes")
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise InputError(f"{what} gives {type(piece).__name__} and not bytes: open it with mode 'rb'")
    return piece


def shown(path: str) -> str:
    """The path, for an error; only its length where it may be an image that lost its way, which is not for a log."""
    coded = len(path) >= 64 and len(path) % 4 == 0 and _decode(path) is not None  # base64 of something, most likely
    if coded or len(path) > 255 or "\n" in path or not path.isprintable():
        return f"(text of {len(path)} characters, neither base64 of an image nor a path)"
    return repr(path)


def _reason(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or type(exc).__name__
