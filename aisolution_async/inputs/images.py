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
from pathlib import Path
from typing import IO, Any

import pybase64

from aisolution_async.api import ImageSource
from aisolution_async.errors import InputError

MAX_IMAGE_BYTES = 2 * 1024 * 1024
"""The widest reading of the vendor's "2M"; larger images would be refused there."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8", b"II*\x00", b"MM\x00*")
_NOT_IMAGES = {b"%PDF": "a PDF", b"PK\x03\x04": "a ZIP or Office file", b"\x1f\x8b": "a gzip file"}
_WHITESPACE = re.compile(r"\s+")
_LONGEST_PATH = 4096
_HEAD = 512


def load(source: ImageSource, *, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """The bytes of the image that `source` stands for. `name` is the parameter's, for the error.

    Blocks on files. Raises InputError where there is no image to send: nothing there, not readable, empty,
    plainly something else, larger than `max_bytes`, or text that could be a path as well as base64.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _checked(_unwrapped(bytes(source)), f"{name} (bytes)", max_bytes)
    if isinstance(source, str):
        if not source.strip():
            raise InputError(f"{name} is empty: there is no image to send")
        decoded = _from_base64(source, name)
        if decoded is not None:
            return _checked(decoded, f"{name} (base64 text)", max_bytes)
        return _from_path(source, name, max_bytes)
    if isinstance(source, os.PathLike):
        problem = ""
        try:
            path = os.fsdecode(source)
        except Exception as exc:  # a path of the user's own making
            problem = type(exc).__name__
        if problem:
            raise InputError(f"{name} is a path that cannot be read ({problem})")
        return _from_path(path, name, max_bytes)
    if hasattr(source, "read"):
        return _from_file(source, name, max_bytes)
    raise InputError(f"{name} is a {type(source).__name__}: pass a path, bytes, a binary file object or base64 text")


def is_image(head: bytes) -> bool:
    """Whether `head`, the first bytes of a file, is how an image format begins."""
    return head.startswith(_SIGNATURES) or head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _checked(data: bytes, what: str, max_bytes: int) -> bytes:
    if not data:
        raise InputError(f"{what} is empty: there is no image to send")
    if len(data) > max_bytes:
        raise InputError(_too_large(what, len(data), max_bytes))
    return data


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
            raise InputError(
                f"{name} is a data: URL whose base64 does not decode: it is cut off, altered, or not standard base64"
            )
        return decoded
    # The first 64 characters tell an image from a path before megabytes are decoded.
    start = _decode(_WHITESPACE.sub("", text[:256])[:64])
    if len(text) <= _LONGEST_PATH and (start is None or not is_image(start)):
        return None
    decoded = _decode(text)
    if decoded is None:
        if len(text) > _LONGEST_PATH:
            raise InputError(
                f"{name} is text of {len(text)} characters, too long for a path, and does not decode as base64: "
                "it is cut off or altered"
            )
        return None
    if len(text) <= _LONGEST_PATH and _exists(text):
        raise InputError(
            f"{name} is text that decodes as a base64 image and also names a file: "
            "pass Path(...) for the file, or put 'data:;base64,' before base64"
        )
    return decoded


def _decode(text: str) -> bytes | None:
    packed = _WHITESPACE.sub("", text)
    packed += "=" * (-len(packed) % 4)  # padding is often lost on the way
    try:
        return pybase64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return None


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL inside
        return False


def _from_path(path: str, name: str, max_bytes: int) -> bytes:
    shown = _shown(path, name)
    try:
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:  # Path.open has no opener
            mode = os.fstat(file.fileno())
            if not stat.S_ISREG(mode.st_mode):
                raise InputError(f"{shown} is not a regular file: name an image file")
            if mode.st_size > max_bytes:
                raise InputError(_too_large(shown, mode.st_size, max_bytes))
            # One byte more than it has, to notice its end; a growing file is read as far as it was.
            data = file.read(mode.st_size + 1)
    except IsADirectoryError:
        problem = "is a directory: name an image file in it"
    except FileNotFoundError:
        hint = "" if Path(path).is_absolute() else " (relative paths start at the current directory)"
        problem = f"does not exist: check the path{hint}"
    except PermissionError:
        problem = "may not be read: check the file's permissions"
    except (OSError, ValueError) as exc:
        problem = f"cannot be read ({_reason(exc)})"
    else:
        return _checked_file(data, shown, max_bytes)
    raise InputError(f"{shown} {problem}")


def _open_without_waiting(path: str, flags: int) -> int:
    # A FIFO without a writer would otherwise block this thread for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unwrapped(data: bytes) -> bytes:
    """The image within base64 that came as bytes, as `base64.b64encode` gives it; else `data` as it is."""
    start = data[:256].lstrip()
    if start[:5].lower() != b"data:":
        # No image begins with 64 characters that are base64 of the beginning of an image.
        try:
            head = _decode(_WHITESPACE.sub("", start.decode("ascii"))[:64])
        except UnicodeDecodeError:
            return data
        if head is None or not is_image(head):
            return data
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return data
    return _from_base64(text.strip(), "") or data


def _checked_file(data: bytes, shown: str, max_bytes: int) -> bytes:
    """Refuse what a mistaken column or a wrong ending brings: a file that is plainly no image."""
    data = _checked(_unwrapped(data), shown, max_bytes)
    head = data[:_HEAD]
    for signature, what in _NOT_IMAGES.items():
        if head.startswith(signature):
            raise InputError(f"{shown} is not an image but {what}: name a JPEG or PNG file")
    if not is_image(head) and _is_text(head):
        raise InputError(f"{shown} is not an image but text: name a JPEG or PNG file")
    return data


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as exc:
        # A character cut in two by the end of the head is still text.
        if exc.start < len(head) - 3 or len(head) < _HEAD:
            return False
        text = head[: exc.start].decode("utf-8")
    return all(char.isprintable() or char in "\t\r\n\f\ufeff" for char in text)


def _from_file(file: IO[Any], name: str, max_bytes: int) -> bytes:
    what = f"{name} (file object)"
    if isinstance(file, io.TextIOBase):
        raise InputError(f"{what} is open for text: open it with mode 'rb'")
    data = bytearray()
    try:
        # Pipes and sockets give less than they are asked for; only nothing is the end.
        while len(data) <= max_bytes and (piece := file.read(max_bytes + 1 - len(data))):
            if inspect.iscoroutine(piece):
                piece.close()
                raise InputError(f"{what} is read by await: read it first, and pass bytes")
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise InputError(f"{what} gives {type(piece).__name__} and not bytes: open it with mode 'rb'")
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
        return _unwrapped(bytes(data))
    raise InputError(f"{what} cannot be read ({problem})")


def _shown(path: str, name: str) -> str:
    # Text that is no sensible path may be an image that lost its way: it does not belong into a log.
    coded = len(path) >= 64 and len(path) % 4 == 0 and _decode(path) is not None  # base64 of something, most likely
    if coded or len(path) > 255 or "\n" in path or not path.isprintable():
        return f"{name} (text of {len(path)} characters, neither base64 of an image nor a path)"
    return f"{name} {path!r}"


def _reason(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or type(exc).__name__
