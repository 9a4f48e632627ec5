"""What the golden ledgers were asked, and every way of asking it that is the same question.

Nothing here may change, for what stands in the files was written by these very questions: only add to it.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisolution_async import (
    AddFace,
    Call,
    DeleteFace,
    FaceCompare,
    IdHolding,
    ImageSource,
    SearchFace,
    WhatsAppDetail,
)

TOKEN = "golden-token-0001"
VENDOR = "https://api.aisolution.credit"
CALLBACK = "https://app.example.com/answers"
INBOX = "https://app.example.com/whatsapp"

# ---------------------------------------------------------------------------------------------------- the images
# Byte for byte the same for ever: no encoder has a hand in them. Made to fit, the last two become other bytes.


def _bmp() -> bytes:
    """8 x 8 pixels, as they stand in the file."""
    pixels = bytes((x * 29 + channel * 71) % 256 for x in range(64) for channel in range(3))
    head = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 24, 0, len(pixels), 2835, 2835, 0, 0) + pixels


def _tiff() -> bytes:
    """8 x 4 pixels, uncompressed."""
    pixels = bytes((x * 37 + channel * 53) % 256 for x in range(32) for channel in range(3))
    fields = [
        *((256, 4, 1, 8), (257, 4, 1, 4), (258, 3, 3, 8 + len(pixels)), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, 4), (279, 4, 1, len(pixels))),
    ]
    directory = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", *each) for each in fields) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels) + 6) + pixels + struct.pack("<HHH", 8, 8, 8) + directory


BMP, TIFF = _bmp(), _tiff()
# 16 x 8 pixels, on their side by EXIF.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/4QAiRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAD/2wBDABsSFBcUERsXFhceHBsg"
    "KEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/wAALCAAIABABAREA/8QAFAABAAAAAAAA"
    "AAAAAAAAAAAABf/EABgQAAIDAAAAAAAAAAAAAAAAAAADBCEx/9oACAEBAAA/ADoScofhJyj/2Q=="
)
SUFFIXES = {BMP: ".bmp", TIFF: ".tif", JPEG: ".jpg"}


def ways_of_image(image: bytes, folder: Path) -> Iterator[ImageSource]:
    """The same image, given in every way that there is."""
    path = folder / f"photo{SUFFIXES[image]}"
    if not path.exists():  # it may be being read
        path.write_bytes(image)
    text = base64.b64encode(image).decode()
    yield image
    yield bytearray(image)
    yield memoryview(image)
    yield path
    yield str(path)
    yield io.BytesIO(image)
    yield text
    yield text.encode()
    yield base64.encodebytes(image).decode()
    yield f"data:image/jpeg;base64,{text}"


# ------------------------------------------------------------------------------------------------- the questions


@dataclass(frozen=True, slots=True)
class Question:
    """A question: its name is the key that it was asked under, `ways` makes the calls, the first as it was asked.

    The ways keep the key where it is what makes the question (addface, delface), and elsewhere they have others.
    """

    name: str
    ways: Callable[[Path], Iterator[Call[Any]]]
    since: int = 1
    """The first version of the ledger that knows it by what makes it the same today."""

    def asked(self, folder: Path) -> Call[Any]:
        """The call as it was asked for the ledger."""
        return next(self.ways(folder))


def of_image(name: str, kind: type[IdHolding | SearchFace | AddFace], image: bytes) -> Question:
    def ways(folder: Path) -> Iterator[Call[Any]]:
        for source in ways_of_image(image, folder):
            yield kind(source, key=name)

    return Question(name, ways)


def of_pair(name: str, first: bytes, second: bytes, *, since: int = 1) -> Question:
    def ways(folder: Path) -> Iterator[Call[Any]]:
        for key, (one, other) in enumerate(
            zip(ways_of_image(first, folder), ways_of_image(second, folder), strict=True)
        ):
            yield FaceCompare(one, other, key=name if key == 0 else key)

    return Question(name, ways, since)


def of_person(name: str, person: str) -> Question:
    def ways(folder: Path) -> Iterator[Call[Any]]:
        yield DeleteFace(person, key=name)
        yield DeleteFace(f" {person} ", key=name)

    return Question(name, ways)


def of_number(name: str, *written: tuple[Any, str | None], since: int = 1, **asked: Any) -> Question:
    """A number, as `(number, country)` in each way; `asked` is how the answer was to come."""

    def ways(folder: Path) -> Iterator[Call[Any]]:
        yield WhatsAppDetail(*written[0], **asked, key=name)
        for key, (number, country) in enumerate(written):
            yield WhatsAppDetail(number, country, key=key)
            yield WhatsAppDetail(number, country, servstatus=True)
            yield WhatsAppDetail(number, country, callback=CALLBACK)
            yield WhatsAppDetail(number, country, "https://other.example.com/x", servstatus=True, key=f"again {key}")

    return Question(name, ways, since)


def _indonesian(rest: str) -> list[tuple[Any, str | None]]:
    """Every way to write +62 and `rest`, the usual one first."""
    a, b, c = rest[:3], rest[3:7], rest[7:]
    return [
        (f"+62{rest}", None),
        (f"0062{rest}", None),
        (f"+62 {a}-{b}-{c}", None),
        (f"00 62 {a} {b} {c}", None),
        (f"tel:+62{rest}", None),
        (f"+62{rest}", "ID"),
        (f"0062{rest}", "ID"),
        (f"0{rest}", "ID"),
        (f"0{a}-{b}-{c}", "id"),
        (rest, "ID"),
        (f"62{rest}", "ID"),
        (int(f"62{rest}"), "ID"),
    ]


def _bare(digits: str) -> list[tuple[Any, str | None]]:
    return [(digits, None), (f"{digits[:3]} {digits[3:7]} {digits[7:]}", None), (f"{digits[:5]}-{digits[5:]}", None)]


ANSWERED = (
    of_number("in full", *_indonesian("81387300008")),
    of_number("with 00", ("006281387300011", None), *_indonesian("81387300011")),
    of_number("bare", *_bare("81387300009")),
    of_number("bare with its code", *_bare("6281387300010")),
    of_number("national", ("081387300012", "ID"), *_indonesian("81387300012"), since=2),
    of_number("national, packed", ("81387300013", "ID"), *_indonesian("81387300013"), since=2),
    of_number("Viet Nam", ("0912345678", "VN"), ("+84912345678", None), ("84912345678", "VN"), since=2),
    of_number("Philippines", ("09171234567", "PH"), ("+639171234567", None), ("0917 123 4567", "PH"), since=2),
    of_number("India", ("9123456789", "IN"), ("+919123456789", None), ("+91 91234 56789", "IN"), since=2),
    of_number("servstatus", *_indonesian("81387300014"), since=2, servstatus=True),
    of_number("callback", *_indonesian("81387300015"), since=2, callback=CALLBACK),
    of_pair("pair", BMP, JPEG),
    of_pair("pair with itself", TIFF, TIFF),
    of_image("id-holding", IdHolding, TIFF),
    of_image("search-face", SearchFace, JPEG),
    of_image("search-face, as it is", SearchFace, BMP),
    of_image("add-face", AddFace, JPEG),
    of_person("delete-face", "c5r7jedkujdbnasarhn0"),
)
"""What has an answer."""

RESET = (
    of_number("reset", *_indonesian("81387300020")),
    of_number("bare reset", *_bare("81387300021")),
    of_number("national reset", ("081387300022", "ID"), *_indonesian("81387300022"), since=2),
    of_pair("pair reset", JPEG, TIFF),
    of_image("id-holding reset", IdHolding, BMP),
    of_image("search-face reset", SearchFace, TIFF),
)
"""What was sent, and the answer lost."""

BROKEN = (
    of_number("misfit", *_indonesian("81387300030")),
    of_pair("pair misfit", TIFF, JPEG),
)
"""What an OK came for that did not fit: what it said is kept."""

STRANGE = (of_number("strange", *_indonesian("81387300031")),)
"""What was answered with a status that is not documented."""

SETTLED = (
    of_number("settled", *_indonesian("81387300032"), since=2),
    of_pair("pair settled", BMP, TIFF, since=2),
)
"""What was lost too, and then settled as charged."""

FORGIVEN = (of_number("forgiven", *_indonesian("81387300033")),)
"""What was lost too, and then settled as free: it may be asked."""

UNDER_WAY = (of_number("under way", *_indonesian("81387300040")), of_image("id-holding under way", IdHolding, JPEG))
"""What was under way when the process was killed."""

AWAITED: Mapping[str, tuple[str, str]] = {
    "checking": ("+6281387300050", "6281387300050"),
    "bare checking": ("81387300051", "6281387300051"),
    "lost": ("+6281387300052", "6281387300052"),
    "sent": ("+6281387300053", "6281387300053"),
}
"""What may be answered by callback: as it was asked for, and as the vendor calls back.

Of the first two "checking" came, so that a charge is set aside; of `lost`, no answer; `sent` was under way when the
process was killed.
"""
