"""Pictures that say what is on them: small JPEGs of one flat colour with a comment that the sandbox reads.

To everybody else they are pictures of nothing. The comment is lost where a picture is encoded anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from aisolution_async.sandbox.faults import Fault

LARGEST_IMAGE = 2 * 1024 * 1024
"""Bytes that an image may have: our reading of the vendor's 2M."""

SAME, DIFFERENT = 97.501, 27.501
"""How alike pictures of one person are, and of two: the page's own examples."""

_MARK = b"aisolution-sandbox "
_SIDE = 128
_NAME = re.compile(r"[\w .-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a picture says of itself: who is on it, and what it is answered.

    `people` are names; on a picture of somebody holding a card the second is on the card (`card`). `similarity`, where
    there is one, is that to any other face. `fault` is what goes wrong, `times` how often, None always.
    """

    people: tuple[str, ...] = ()
    card: bool = False
    similarity: float | None = None
    fault: Fault | None = None
    times: int | None = None


def person(name: str) -> bytes:
    """One person, of that name: two pictures of one name are SAME PERSON, of two names NOT SAME PERSON.

    Names are 1 to 64 letters, digits, spaces, dots, dashes and underscores; else ValueError.
    """
    return _tagged(f"person {_named(name)}")


def nobody() -> bytes:
    """No face: IMAGEA_FACE_DETECT_FAILED or IMAGEB_…, FACE_DETECT_FAILED, or INVALID_FACE_NUM "0 faces found"."""
    return _tagged("nobody")


def two_people(first: str = "alice", second: str = "bob") -> bytes:
    """Two people and no card: INVALID_FACE_NUM on idholding; elsewhere the first of them is looked at."""
    return _tagged(f"people {_named(first)}/{_named(second)}")


def holding(name: str, card: str | None = None) -> bytes:
    """Somebody holding an ID card: their own, or that of the person called `card`. Elsewhere as `person(name)`."""
    return _tagged(f"holding {_named(name)}/{_named(name if card is None else card)}")


def similarity(score: float) -> bytes:
    """Somebody (holding a card) whose similarity to any other face is `score`, 0 to 100.

    SAME PERSON from 70, NOT SURE from 45, else NOT SAME PERSON. Raises ValueError.
    """
    if not 0 <= score <= 100:
        raise ValueError(f"score is {score!r}: it is 0 to 100")
    return _tagged(f"similarity {score:.3f}")


def too_large() -> bytes:
    """A valid JPEG that is one byte over 2 MiB: IMAGE_INVALID_SIZE, FAIL of addface and searchface.

    The client refuses it before it is sent, unless told otherwise.
    """
    small = _tagged("nobody")
    missing = LARGEST_IMAGE + 1 - len(small)
    padding = []
    while missing:
        # A segment holds 65,533 bytes at most, and takes 4 more: what is left over must be enough for one.
        size = missing if missing <= 65_537 else 60_000
        padding.append(b"\xff\xfe" + (size - 2).to_bytes(2) + bytes(size - 4))
        missing -= size
    return small[:2] + b"".join(padding) + small[2:]


def status(name: str) -> bytes:
    """Answered with this status, whatever the endpoint; undocumented ones too. Raises ValueError.

    FAIL, INVALID_REQUEST, INVALID_FACE_NUM, IMAGE_INVALID_SIZE, FACE_DETECT_FAILED, RETRY_LATER, …
    """
    return _tagged(f"status {_named(name)}")


def retry_once(name: str = "alice") -> bytes:
    """RETRY_LATER the first time that the sandbox sees it at an endpoint, `person(name)` from then on."""
    return _tagged(f"retry-once {_named(name)}")


def unfitting() -> bytes:
    """OK, and charged as such, with a message that does not fit the contract."""
    return _tagged("fault message")


def fault(text: str) -> bytes:
    """Whatever `Fault.parse` makes of `text`: "hang", "reset-after", "http-502,billed=yes".

    The picture itself says whom it hits: `rate`, `endpoint`, `times`, `start` and `end` do not count. Raises ValueError
    for what is no fault, or is one that does not depend on what is asked (latency, capacity, reset-before).
    """
    if Fault.parse(text).kind in ("latency", "capacity", "reset-before"):
        raise ValueError(f"{text!r} is nothing that a picture can do: add it to the sandbox's faults")
    return _tagged(f"fault {text}")


def _similarity_of(score: str) -> bytes:
    try:
        number = float(score)
    except ValueError:
        raise ValueError(f"score is {score!r}: it is 0 to 100") from None
    return similarity(number)


MAKERS: Mapping[str, Callable[..., bytes]] = {
    "person": person,
    "holding": holding,
    "two-people": two_people,
    "retry-once": retry_once,
    "nobody": nobody,
    "too-large": too_large,
    "unfitting": unfitting,
    "status": status,
    "fault": fault,
    "similarity": _similarity_of,
}
"""The same by the names that `/_sandbox/images/NAME/ARGUMENT…` has for them: text goes in."""


def read(image: bytes) -> Tagged | None:
    """What the picture says of itself; None where it says nothing that we understand."""
    if _MARK not in image[:512] or not image.startswith(b"\xff\xd8\xff\xfe"):
        return None
    said = image[6 : 4 + int.from_bytes(image[4:6])]
    if not said.startswith(_MARK):
        return None
    word, _, rest = said.removeprefix(_MARK).decode("ascii", "replace").partition(" ")
    names = tuple(rest.split("/"))
    try:
        match word:
            case "nobody":
                return Tagged()
            case "person":
                return Tagged((rest,))
            case "people":
                return Tagged(names)
            case "holding":
                return Tagged(names, card=True)
            case "similarity":
                return Tagged(("somebody", "somebody else"), card=True, similarity=min(100.0, max(0.0, float(rest))))
            case "status":
                return Tagged(("somebody",), fault=Fault("status", status=rest))
            case "retry-once":
                return Tagged((rest,), fault=Fault("status", status="RETRY_LATER"), times=1)
            case "fault":
                return Tagged(("somebody", "somebody"), card=True, fault=Fault.parse(rest))
    except ValueError:
        pass
    return None


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name here: letters, digits, spaces, dots, dashes and underscores, 64 at most")
    return name


def _tagged(text: str) -> bytes:
    said = _MARK + text.encode("ascii")
    flat = _flat_jpeg(*sha256(said).digest()[:3])
    return flat[:2] + b"\xff\xfe" + (len(said) + 2).to_bytes(2) + said + flat[2:]


def _flat_jpeg(*levels: int) -> bytes:
    """A baseline JPEG of 128 x 128 pixels of one colour: `levels` are its Y, Cb and Cr, 0..255."""
    bits = ""
    for level in levels:
        # The quantisation is by 8, so the mean of a block is coded as it is.
        value = level - 128
        size = abs(value).bit_length()
        bits += f"{size:04b}"
        if size:
            bits += f"{value if value > 0 else value + (1 << size) - 1:0{size}b}"
        bits += "0"  # the end of the block
    # All other blocks differ by 0 from it: a size of 0 in four bits, and the end of the block.
    bits += "00000" * len(levels) * ((_SIDE // 8) ** 2 - 1)
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data

    return b"".join(
        (
            b"\xff\xd8",
            segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            segment(0xDB, bytes([0, *[8] * 64])),
            segment(0xC0, b"\x08" + _SIDE.to_bytes(2) * 2 + b"\3\1\x11\0\2\x11\0\3\x11\0"),
            # Nine sizes of differences in codes of four bits, 0 to 8; and one code, 0, for the end of a block.
            segment(0xC4, bytes([0x00, 0, 0, 0, 9, *[0] * 12, *range(9)])),
            segment(0xC4, bytes([0x10, 1, *[0] * 15, 0])),
            segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0"),
            scan,
            b"\xff\xd9",
        )
    )
