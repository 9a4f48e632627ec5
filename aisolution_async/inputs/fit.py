"""Photos that are too large, or not what the vendor reads, made into JPEGs that it takes.

`fit` does it here and now; `Fitter` does it off the event loop, in processes of its own.

A worker is a plain `python -c` on two pipes, and neither multiprocessing nor a process pool of the standard library:
it needs no `if __name__ == "__main__"` in the user's program, a worker that dies takes one photo with it and not the
pool, one that hangs can be killed, and when this process is killed its pipe ends, and with it the worker. Workers are
in a session of their own, so that Ctrl-C in a terminal reaches this process only.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from aisolution_async import clock
from aisolution_async.api import ImageSource
from aisolution_async.checks import is_whole
from aisolution_async.errors import ConfigurationError, InputError
from aisolution_async.inputs import images

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_log = logging.getLogger(__name__)

TARGET = 1_400_000
"""Bytes that a fitted photo has at most: under every reading of the vendor's "2M", with its base64 too."""

LARGEST_FILE = 64 * 1024 * 1024
"""Bytes of a file that is looked at at all."""

_LONG_SIDE = 2016  # half of a 12-megapixel photo's: libjpeg halves while it decodes, at hardly any cost
_DRAFT_SIDE = 1600
_LEAST_SIDE = 800
_QUALITY = 85
_MOST_PIXELS = 210_000_000  # a phone of 200 megapixels writes JPEG or HEIC
_MOST_PIXELS_ELSE = 64_000_000  # what no camera writes is more likely a bomb
_CAMERAS = frozenset({"JPEG", "HEIF"})
_SANE_SIDE = 10_000
_LARGEST_PROFILE = 4096
_CUT_OFF = "cut off: send the whole file"
_WHITES = (1.0, 255.0, 4095.0, 65535.0)
_AS_IT_IS = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})


# ------------------------------------------------------------------------------------------------------- one photo


def fit(source: ImageSource, *, name: str, target: int = TARGET) -> bytes:
    """An upright image of at most `target` bytes; `source` is a path, bytes, base64 or a file, as for a call.

    A JPEG, PNG or BMP that is small enough and upright is returned as it is, byte for byte. All else that can be
    decoded (HEIC, WebP, TIFF, AVIF and a still GIF too) becomes a JPEG: turned upright, 2016 pixels on its long side at
    most and 800 at least (or as many as it has), transparency on white, without any metadata. An RGB colour profile of
    up to 4 KiB (a phone's has 500 bytes) is kept with it, which costs nothing, where converting every pixel would.

    Blocks, for about 0.1 s a photo; other threads run meanwhile. Raises InputError for what is no image, cut off,
    animated, of more pixels than any camera makes, or not to be had in so few bytes. A HEIC's main picture is taken,
    and the first page of a TIFF, with a warning in the log where there are more. `name` is the parameter's.
    """
    _check_target(target)
    return _made(source, name, lambda data: _fitted(data, name, target))


def thumbnail(source: ImageSource, *, name: str, side: int) -> bytes:
    """A small upright JPEG of `source`, of `side` pixels at most on its long side, without any metadata.

    Blocks, for about 0.03 s a photo. Raises InputError as `fit` does.
    """
    return _made(source, name, lambda data: _shrunk(data, name, side))


def _made(source: ImageSource, name: str, make: Callable[[bytes], bytes]) -> bytes:
    """What is made of an image. Raises InputError, whatever a decoder makes of it."""
    data = images.load(source, name=name, max_bytes=LARGEST_FILE)
    try:
        with _quiet():
            return make(data)
    except InputError:
        raise
    except ModuleNotFoundError as exc:
        error: Exception = ConfigurationError(
            f"photos cannot be fitted without {exc.name}: pip install 'aisolution-async[cli]'"
        )
    except MemoryError:
        error = InputError(f"{name} needs more memory than there is: make the photo smaller")
    except Exception as exc:  # whatever a decoder makes of a stranger's file
        cut = isinstance(exc, EOFError) or "truncated" in str(exc).lower()
        error = InputError(f"{name} is {_CUT_OFF}" if cut else f"{name} is damaged, or no image that can be read")
    # Outside of the handler: the decoder's frames hold the photo.
    raise error


def _shrunk(data: bytes, name: str, side: int) -> bytes:
    image = _within_limits(data, name)
    turn = 1 if image.format == "TIFF" else _orientation(image)
    long = max(image.size)
    if image.format == "JPEG":
        wanted = min(long, 2 * side)
        image.draft(None, (max(image.width * wanted // long, 1), max(image.height * wanted // long, 1)))
    image.load()
    if image.format == "TIFF":
        turn = _orientation(image)
    return _encoded(_upright(_sized(_plain(image), side), turn), None)


def _within_limits(data: bytes, name: str) -> ImageFile:
    """The image, opened, if it has as many pixels as can be decoded."""
    image = _opened(data, name)
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{name} has no pixels: its width or height is 0")
    most = _MOST_PIXELS if image.format in _CAMERAS else _MOST_PIXELS_ELSE
    if width * height > most:
        raise InputError(
            f"{name} has {width} x {height} pixels, over the limit of {most // 1_000_000} million: "
            "make the photo smaller"
        )
    return image


def _fitted(data: bytes, name: str, target: int) -> bytes:
    image = _within_limits(data, name)
    width, height = image.size
    pages = _frames(image)
    if pages > 1 and image.format != "TIFF":
        raise InputError(f"{name} is animated: send one picture")
    if pages > 1:
        _log.warning("%s has %d pages: the first one is sent", name, pages)
    turn = 1 if image.format == "TIFF" else _orientation(image)
    if (
        len(data) <= target
        and turn == 1
        and image.format in ("JPEG", "PNG", "BMP")
        and image.mode in _AS_IT_IS
        and max(width, height) <= _SANE_SIDE
    ):
        _check_whole(data, image, name)
        return data
    profile = image.info.get("icc_profile")
    long = max(width, height)
    if image.format == "JPEG":
        side = min(long, _DRAFT_SIDE)
        image.draft(None, (max(width * side // long, 1), max(height * side // long, 1)))
        _check_whole(data, None, name)
    image.load()
    if image.format == "TIFF":
        # Pillow may turn a TIFF while it loads it, and then takes the tag away: what is left is still to be done.
        turn = _orientation(image)
    keep = profile if image.mode == "RGB" and isinstance(profile, bytes) and len(profile) <= _LARGEST_PROFILE else None
    plain = _upright(_sized(_plain(image), _LONG_SIDE), turn)
    encoded = _encoded(plain, keep)
    for _ in range(2):
        if len(encoded) <= target:
            return encoded
        long = max(plain.size)
        # A little less than in proportion: small pictures have more detail to the pixel.
        wanted = max(int(long * (target / len(encoded)) ** 0.5 * 0.9), _LEAST_SIDE)
        if wanted >= long:
            break
        plain = _sized(plain, wanted)
        encoded = _encoded(plain, keep)
    if len(encoded) <= target:
        return encoded
    raise InputError(
        f"{name} does not fit into {target} bytes with {max(plain.size)} pixels on its long side: "
        "the photo has too much noise, or the target is too low"
    )


def _opened(data: bytes, name: str) -> ImageFile:
    """The image with its header read. Not by `Image.open`, which goes by what the host has registered and set."""
    file, head = io.BytesIO(data), data[:16]
    if head.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile  # noqa: PLC0415  # heavy, and part of an extra

        return JpegImageFile(file)  # an MPO too: its first picture is the photo
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        from PIL.PngImagePlugin import PngImageFile  # noqa: PLC0415  # Pillow is optional

        return PngImageFile(file)
    if head.startswith(b"BM"):
        from PIL.BmpImagePlugin import BmpImageFile  # noqa: PLC0415  # Pillow is optional

        return BmpImageFile(file)
    if head.startswith(b"GIF8"):
        from PIL.GifImagePlugin import GifImageFile  # noqa: PLC0415  # Pillow is optional

        return GifImageFile(file)
    if head.startswith((b"II*\x00", b"MM\x00*")):
        from PIL.TiffImagePlugin import TiffImageFile  # noqa: PLC0415  # Pillow is optional

        return TiffImageFile(file)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        from PIL.WebPImagePlugin import WebPImageFile  # noqa: PLC0415  # Pillow is optional

        return WebPImageFile(file)
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis"):
            from PIL.AvifImagePlugin import AvifImageFile  # noqa: PLC0415  # Pillow is optional

            return AvifImageFile(file)
        from pillow_heif import HeifImageFile  # noqa: PLC0415  # Pillow is optional

        heif: ImageFile = HeifImageFile(file)  # type: ignore[no-untyped-call]
        return heif
    raise InputError(f"{name} is no image that can be read: send JPEG, PNG, HEIC, WebP, TIFF, BMP or GIF")


def _frames(image: ImageFile) -> int:
    if image.format in ("JPEG", "BMP", "HEIF"):  # a HEIC's other pictures are bursts and depth maps
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        if image.format == "TIFF":  # a page behind the first is damaged
            return 1
        raise


def _orientation(image: ImageFile) -> int:
    """As EXIF says, 1 (upright) to 8; EXIF that cannot be read says nothing. HEIC is upright once it is decoded."""
    if image.format == "HEIF":
        return 1
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # it is a stranger's, and the photo may be good all the same
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _check_whole(data: bytes, image: ImageFile | None, name: str) -> None:
    """Refuse what ends too early, without decoding it where its form shows that."""
    whole = True
    if data.startswith(b"\xff\xd8"):
        # libjpeg fills up with grey what is missing at the very end. A thumbnail's end comes before the scan.
        whole = data.rfind(b"\xff\xd9") > _jpeg_scan(data) > 0
    elif data.startswith(b"\x89PNG"):
        whole = data.rfind(b"IEND") > 0
        if whole and not _png_is_sound(data):
            raise InputError(f"{name} is damaged: send the file anew")
    elif image is not None:
        image.load()
    if not whole:
        raise InputError(f"{name} is {_CUT_OFF}")


def _jpeg_scan(data: bytes) -> int:
    """Where the first scan begins, or -1."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        if marker == 0xDA:
            return at
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
    return -1


def _png_is_sound(data: bytes) -> bool:
    """Whether every chunk, up to the last, has the checksum that is written behind it."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _plain(image: Image) -> Image:
    """The image as L or RGB."""
    from PIL import Image as pillow  # noqa: N813, PLC0415  # Pillow is optional

    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = pillow.new("RGB", clear.size, (255, 255, 255))
        ground.paste(clear, mask=clear.getchannel("A"))
        return ground
    return image.convert("RGB")


def _grey(image: Image) -> Image:
    """The image, of 16 bits, 32 bits or floats, as L. No file says which value is white: the usual ones are tried."""
    deep = image.convert("F")
    low, top = cast("tuple[float, float]", deep.getextrema())
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    if not math.isfinite(top - low) or (low < 0 and image.mode == "I" and tags.get(339, (1,))[0] == 1):
        raise ValueError("pixels that are no numbers, or that Pillow reads as negative ones")
    if image.mode == "F" and top > _WHITES[0] * 1.1 and _is_up_to_one(deep):
        low, top = 0.0, _WHITES[0]
    white = next((white for white in _WHITES if top <= white * 1.1), top)
    if low < 0 or top * 16 < white:  # signed, or all but black: of a range that is not among them
        white = top
    black = min(low, 0.0)
    scale = 255.0 / ((white - black) or 1.0)
    grey = deep.point(lambda value: value * scale + -black * scale).convert("L")
    return grey.point(lambda value: 255 - value) if tags.get(262) == 0 else grey  # here 0 is white


def _is_up_to_one(deep: Image) -> bool:
    """Whether floats are of 0 to 1 but for a few: hot pixels, which would make all others black."""
    pixels = deep.width * deep.height
    above = deep.point(lambda value: value * 200.0 + 0.0).convert("L").histogram()  # what is above 255 becomes 255
    below = deep.point(lambda value: value * -200.0 + 0.0).convert("L").histogram()
    outlying = sum(above[221:]) + sum(below[1:])
    # Whole numbers are of a larger range, and its dark part.
    return outlying <= pixels * 0.03 and sum(above[4:197]) >= pixels * 0.25


def _sized(image: Image, long_side: int) -> Image:
    from PIL.Image import Resampling  # noqa: PLC0415  # Pillow is optional

    long = max(image.size)
    if long <= long_side:
        return image
    size = (max(round(image.width * long_side / long), 1), max(round(image.height * long_side / long), 1))
    return image.resize(size, Resampling.BICUBIC, reducing_gap=2.0)


def _upright(image: Image, turn: int) -> Image:
    from PIL.Image import Transpose  # noqa: PLC0415  # Pillow is optional

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(methods[turn]) if turn in methods else image


def _encoded(image: Image, profile: bytes | None) -> bytes:
    image.info = {}  # Pillow writes comments and XMP that it finds there
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, icc_profile=profile)
    return out.getvalue()


def _check_target(target: int) -> None:
    if not is_whole(target) or target < 1:
        raise ConfigurationError(f"target is a number of bytes, such as {TARGET}")


_quiet_lock = threading.Lock()
_quiet_now: list[warnings.catch_warnings[None]] = []
_quiet_count = 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of Pillow's: what it has to say of a stranger's file is no concern of the host's log.

    Filters are the whole process's: the first thread in sets them, the last one out puts them back.
    """
    global _quiet_count  # noqa: PLW0603  # it counts threads of the process
    with _quiet_lock:
        if _quiet_count == 0:
            caught = warnings.catch_warnings()
            caught.__enter__()
            _quiet_now.append(caught)
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
        _quiet_count += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_count -= 1
            if _quiet_count == 0:
                _quiet_now.pop().__exit__(None, None, None)


# ------------------------------------------------------------------------------------------------------ many photos


class Fitter:
    """Fits photos in `workers` processes (default: one for each core), or with `workers=0` in threads of this one.

    `async with`, or `aclose()`. Processes start when they are first needed. Each has one photo at a time, so that
    memory is bounded by `workers`; where a path is given, the file is read there. A process that dies of a photo, or is
    at it for more than `timeout` seconds, is replaced, and the photo is refused. For one event loop. It is a
    `clock.Worker`: tests that skip time then wait for it.
    """

    def __init__(self, *, workers: int | None = None, target: int = TARGET, timeout: float = 60.0) -> None:
        if workers is not None and not (is_whole(workers) and workers >= 0):
            raise ConfigurationError("workers is a number of processes, or 0 for threads")
        if not timeout > 0:
            raise ConfigurationError("timeout is a number of seconds above 0")
        _check_target(target)
        self._target, self._timeout = target, timeout
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # A frozen program is its own interpreter: to start it again would start the program again.
        self._in_threads = workers == 0 or getattr(sys, "frozen", False) or not sys.executable
        self._free = asyncio.Semaphore(workers or cores)
        self._idle: list[asyncio.subprocess.Process] = []
        self._alive: set[asyncio.subprocess.Process] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = 0  # photos that processes have, or that a process is started for
        clock.elsewhere.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def fit(self, source: ImageSource, *, name: str, target: int | None = None) -> bytes:
        """What `fit` returns and raises for this photo; InputError too where it killed its process or took too long.

        Raises ConfigurationError when closed, or where Pillow is not installed.
        """
        target = self._target if target is None else target
        _check_target(target)
        async with self._free:
            if self._closed:
                raise ConfigurationError("this Fitter is closed: make a new one")
            if self._in_threads:
                return await asyncio.to_thread(fit, source, name=name, target=target)
            if not isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):
                source = await asyncio.to_thread(images.load, source, name=name, max_bytes=LARGEST_FILE)
            request = _request(source, name, target)
            for last in (False, True):  # what killed the first may have been meant for another
                kind, answer = await self._ask(request, name)
                if kind == _INPUT:
                    raise InputError(answer.decode())
                if kind == _CONFIGURATION:
                    raise ConfigurationError(answer.decode())
                if kind == _FITTED:
                    return answer
                if last or self._closed:
                    break
        raise InputError(f"{name} cannot be fitted: the process that decoded it died, most likely out of memory")

    async def aclose(self) -> None:
        """End the processes, and wait until they have ended. Photos under way are refused."""
        self._closed = True
        self._idle.clear()
        for process in self._alive:
            _kill(process)
        while self._alive:
            await self._alive.pop().wait()

    def is_awaited(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See `clock.Worker`."""
        return self._asked > 0 and loop is self._loop

    async def _ask(self, request: tuple[bytes, bytes], name: str) -> tuple[bytes, bytes]:
        """The kind of answer and the answer; the kind is empty where the process died."""
        self._loop = asyncio.get_running_loop()
        self._asked += 1
        try:
            return await self._answer(request, name)
        finally:
            self._asked -= 1

    async def _answer(self, request: tuple[bytes, bytes], name: str) -> tuple[bytes, bytes]:
        process = await self._process()
        well = False
        try:
            async with asyncio.timeout(self._timeout):
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.writelines(request)
                await process.stdin.drain()
                kind = _WARNING
                while kind == _WARNING:
                    kind, size = _ANSWER.unpack(await process.stdout.readexactly(_ANSWER.size))
                    answer = await process.stdout.readexactly(size)
                    if kind == _WARNING:
                        _log.warning("%s", answer.decode())
            well = True
        except TimeoutError:
            raise InputError(f"{name} took more than {self._timeout:g} s to decode: it was given up") from None
        except (OSError, EOFError):
            return b"", b""
        finally:
            if well and not self._closed:
                self._idle.append(process)
            else:  # also when cancelled: an answer to come would be taken for the next photo's
                _kill(process)
        return kind, answer

    async def _process(self) -> asyncio.subprocess.Process:
        self._alive -= {process for process in self._alive if process.returncode is not None}
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        apart: dict[str, Any] = {"creationflags": 0x200} if os.name == "nt" else {"start_new_session": True}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _START,
            json.dumps([os.fspath(entry) for entry in sys.path]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            limit=2**20,
            # The token is no business of a process that decodes what strangers send.
            env={name: value for name, value in os.environ.items() if not name.startswith("AISOLUTION_")},
            **apart,
        )
        self._alive.add(process)
        return process


_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from aisolution_async.inputs.fit import _work; _work()"
)
_REQUEST, _ANSWER = struct.Struct(">IQ"), struct.Struct(">cQ")
_FITTED, _INPUT, _CONFIGURATION, _WARNING = b"f", b"i", b"c", b"w"


def _request(
    source: str | bytes | bytearray | memoryview | os.PathLike[str], name: str, target: int
) -> tuple[bytes, bytes]:
    asked: dict[str, Any] = {"name": name, "target": target}
    data = b""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    else:
        with contextlib.suppress(OSError):  # the directory may be gone; relative paths then are too
            asked["cwd"] = str(Path.cwd())
        if isinstance(source, str):
            asked["text"] = source
        else:
            problem = ""
            try:
                asked["path"] = os.fsdecode(source)
            except Exception as exc:  # a path of the user's own making
                problem = type(exc).__name__
            if problem:
                raise InputError(f"{name} is a path that cannot be read ({problem})")
    head = json.dumps(asked).encode()
    return _REQUEST.pack(len(head), len(data)) + head, data


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    if process.stdin is not None:
        process.stdin.close()


def _work() -> None:
    """The worker: requests on stdin, answers on stdout, until stdin ends."""
    warnings.simplefilter("ignore")
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    _log.addHandler(_Relay(answers))
    while len(head := requests.read(_REQUEST.size)) == _REQUEST.size:
        size, data_size = _REQUEST.unpack(head)
        asked = json.loads(requests.read(size))
        source: ImageSource = requests.read(data_size)
        try:
            if "cwd" in asked:
                with contextlib.suppress(OSError):
                    os.chdir(asked["cwd"])
                source = asked["text"] if "text" in asked else Path(asked["path"])
            kind, answer = _FITTED, fit(source, name=asked["name"], target=asked["target"])
        except InputError as exc:
            kind, answer = _INPUT, str(exc).encode(errors="replace")
        except ConfigurationError as exc:
            kind, answer = _CONFIGURATION, str(exc).encode(errors="replace")
        del source
        try:
            _write(answers, kind, answer)
        except BrokenPipeError:
            os._exit(0)  # nobody is left to answer; and no text about it
        del answer


class _Relay(logging.Handler):
    """Has what a worker logs logged by the process that it works for."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        _write(self._answers, _WARNING, record.getMessage().encode(errors="replace"))


def _write(answers: BinaryIO, kind: bytes, answer: bytes) -> None:
    answers.write(_ANSWER.pack(kind, len(answer)))
    answers.write(answer)
    answers.flush()
