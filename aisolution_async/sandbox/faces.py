"""The picture engine: are these two files the same picture?

It is no face recognition and claims none. It knows nothing of people: anything that is not one flat colour
counts as "a face", and two faces are "the same person" when they are one picture: the same photo re-encoded
(JPEG quality 40) or resized (down to a quarter, or up) is, another photo of the same person is not.

A picture is boiled down to 24 x 24 cells, in two parts: the coarse one (each cell's mean colour), and the fine one
(each cell's brightness less that of its neighbourhood), which tells two portraits apart that share a composition.
It is without colour because JPEG is nearly so in small things. Each part is correlated with its counterpart, and
the similarity is 100 times the square of the smaller correlation: the share of one picture's variance that the
other explains.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFile

SIDE = 24
_CELLS = SIDE * SIDE
# Decoding takes four bytes a pixel; a 2 MiB PNG can claim thousands of millions of them.
MOST_PIXELS = 40_000_000
# Standard deviation, of 255, under which a picture shows nothing. JPEG's noise on a flat colour is under 1.
_FLAT = 3.0
# Fine structure of this standard deviation, of 255, is what JPEG adds by itself: it must not decide anything.
_DETAIL_NOISE = _CELLS * 4.0**2


class UnreadablePictureError(ValueError):
    """The bytes are no whole JPEG, PNG or BMP of a decent size."""


@dataclass(frozen=True, slots=True, repr=False)
class Face:
    """What is remembered of a picture: a thumbnail, and what compares it."""

    coarse: bytes
    """24 x 24 mean colours, RGB."""
    means: tuple[float, float, float]
    """Of each channel."""
    energy: float
    """Of `coarse` about those means: a sum of squares."""
    fine: array[int]
    """24 x 24 differences in brightness, -255..255."""
    fine_energy: int


def similarity(a: Face, b: Face) -> float:
    """0..100, to three decimals as the vendor gives it; the same either way round."""
    covariance = _dot(a.coarse, b.coarse) - _CELLS * _dot(a.means, b.means)
    # Concordance, not plain correlation: the same shapes in another colour or contrast are another picture.
    apart = _CELLS * sum((x - y) ** 2 for x, y in zip(a.means, b.means, strict=True))
    coarse = 2 * covariance / (a.energy + b.energy + apart)
    if coarse <= 0:
        return 0.0
    fine = (_dot(a.fine, b.fine) + _DETAIL_NOISE) / sqrt(
        (a.fine_energy + _DETAIL_NOISE) * (b.fine_energy + _DETAIL_NOISE)
    )
    return round(100 * min(1.0, max(0.0, min(coarse, fine))) ** 2, 3)


class Faces:
    """Finds the faces in pictures, and remembers them by digest for the latest `remembered` pictures.

    Every method may be called from several threads at once, and takes milliseconds to a second: not for the
    event loop.
    """

    def __init__(self, remembered: int = 1024) -> None:
        self._remembered = remembered
        self._found: OrderedDict[bytes, tuple[Face | None, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, picture: bytes) -> Face | None:
        """The face in the picture, None where there is none. Raises UnreadablePictureError."""
        return self._find(picture, halves=False)[0]

    def find_halves(self, picture: bytes) -> tuple[Face | None, ...]:
        """The faces in the left and right half, or in the top and bottom half if it is taller than wide."""
        return self._find(picture, halves=True)

    def _find(self, picture: bytes, *, halves: bool) -> tuple[Face | None, ...]:
        key = hashlib.sha256(picture).digest() + bytes([halves])
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        # Outside the lock: two threads may decode the same picture, and none waits for another's.
        found = tuple(_face(thumbnail, sample) for thumbnail, sample in _thumbnails(picture, halves=halves))
        with self._lock:
            self._found[key] = found
            while len(self._found) > self._remembered:
                self._found.popitem(last=False)
        return found


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return float(sum(map(mul, a, b)))


def _shows_something(sample: Image.Image) -> bool:
    from PIL import ImageStat  # noqa: PLC0415  # Pillow takes 50 ms to import: at the first picture

    return max(ImageStat.Stat(sample).stddev) >= _FLAT


def _face(thumbnail: Image.Image, sample: Image.Image) -> Face | None:
    from PIL import ImageFilter  # noqa: PLC0415  # as above

    coarse = thumbnail.tobytes()
    red, green, blue = (sum(coarse[channel::3]) / _CELLS for channel in range(3))
    means = (red, green, blue)
    energy = _dot(coarse, coarse) - _CELLS * _dot(means, means)
    if not energy or not _shows_something(sample):
        return None
    bright = thumbnail.convert("L")
    around = bright.filter(ImageFilter.BoxBlur(2))
    fine = array("h", (x - y for x, y in zip(bright.tobytes(), around.tobytes(), strict=True)))
    return Face(coarse, means, energy, fine, sum(map(mul, fine, fine)))


def _thumbnails(picture: bytes, *, halves: bool) -> list[tuple[Image.Image, Image.Image]]:
    """Each part of the picture twice: averaged, to compare it; and single pixels of it, to see if there is anything."""
    from PIL import Image  # noqa: PLC0415  # as above

    image, orientation = _open(picture)
    try:
        if image.width * image.height > MOST_PIXELS:
            raise UnreadablePictureError("more pixels than any photo has")
        # JPEG decodes straight to 1/2, 1/4 or 1/8 of the size: most of the time goes there.
        image.draft("RGB", (8 * SIDE, 8 * SIDE))
        plain = image.convert("RGB") if not image.mode.startswith("I") else _eight_bits(image).convert("RGB")
        small = plain.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
        # Averages of a fine pattern are flat; its pixels are not.
        sample = plain.resize((4 * SIDE, 4 * SIDE), Image.Resampling.NEAREST)
    except UnreadablePictureError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds on files that are damaged
        raise UnreadablePictureError("damaged or cut off") from error
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    # Turning the square thumbnail does what turning the whole picture first would have done.
    if turn is not None:
        small, sample = small.transpose(turn), sample.transpose(turn)
    whole = (0, 0, 2 * SIDE, 2 * SIDE)
    tall = (image.height > image.width) != (orientation >= 5)
    if not halves:
        boxes = [whole]
    elif tall:
        boxes = [(0, 0, 2 * SIDE, SIDE), (0, SIDE, 2 * SIDE, 2 * SIDE)]
    else:
        boxes = [(0, 0, SIDE, 2 * SIDE), (SIDE, 0, 2 * SIDE, 2 * SIDE)]
    return [
        (
            small.resize((SIDE, SIDE), Image.Resampling.BOX, (left, top, right, bottom)),
            sample.crop((2 * left, 2 * top, 2 * right, 2 * bottom)),
        )
        for left, top, right, bottom in boxes
    ]


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey picture, which Pillow would clip instead of scaling."""
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")


def _open(picture: bytes) -> tuple[ImageFile.ImageFile, int]:
    """The picture, not decoded yet, and its EXIF orientation (1..8).

    Metadata is read here and cut away before Pillow sees it, and the formats' own classes are called instead
    of `Image.open`: on odd metadata and great sizes Pillow warns, and a thread cannot silence warnings alone.
    """
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin  # noqa: PLC0415  # as above

    try:
        if picture.startswith(b"\xff\xd8\xff"):
            bare, orientation = _bare_jpeg(picture)
            return JpegImagePlugin.JpegImageFile(BytesIO(bare)), orientation
        if picture.startswith(b"\x89PNG\r\n\x1a\n"):
            bare, orientation = _bare_png(picture)
            return PngImagePlugin.PngImageFile(BytesIO(bare)), orientation
        if picture.startswith(b"BM"):
            return BmpImagePlugin.BmpImageFile(BytesIO(picture)), 1
    except Exception as error:  # as in _thumbnails
        raise UnreadablePictureError("damaged or cut off") from error
    raise UnreadablePictureError("neither JPEG, PNG nor BMP")


def _bare_jpeg(picture: bytes) -> tuple[bytes, int]:
    kept = [picture[:2]]
    orientation = 1
    at = 2
    while picture[at : at + 1] == b"\xff":
        marker = picture[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:  # the scan: no segments from here on
            break
        end = at + 2 + int.from_bytes(picture[at + 2 : at + 4])
        if marker == 0xE1 and picture[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(picture[at + 10 : end])
        # APP0 and APP14 say how colours are coded; other APPn and comments are about the picture, not in it.
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            kept.append(picture[at:end])
        at = end
    kept.append(picture[at:])
    return b"".join(kept), orientation


def _bare_png(picture: bytes) -> tuple[bytes, int]:
    kept = [picture[:8]]
    orientation = 1
    at = 8
    while at < len(picture):
        end = at + 12 + int.from_bytes(picture[at : at + 4])
        kind = picture[at + 4 : at + 8]
        if kind == b"eXIf":
            orientation = _orientation(picture[at + 8 : end - 4])
        if kind in {b"IHDR", b"PLTE", b"IDAT", b"IEND"}:
            kept.append(picture[at:end])
        at = end
    return b"".join(kept), orientation


def _orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory of a TIFF block; 1 (upright) where it is missing or nonsense."""
    if exif[:4] not in {b"II*\0", b"MM\0*"}:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], "little" if exif.startswith(b"II") else "big")

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * min(number(start, 2), 1000), 12):
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
