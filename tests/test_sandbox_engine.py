"""The picture engine of the sandbox: who is whom."""

from __future__ import annotations

import struct
import zlib
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aisolution_async.sandbox import faces, vendor
from aisolution_async.sandbox.faces import Faces, UnreadablePictureError, similarity

from .pictures import FIRST, PICTURES, SECOND, encoded, found, portrait
from .support import examples


@pytest.mark.parametrize("kind", ["portrait", "scene", "drawing", "gradient"])
@settings(max_examples=examples(12), deadline=None)
@given(
    seed=st.integers(0, 100_000),
    scale=st.sampled_from([1.0, 0.75, 0.5, 0.3, 0.25, 1.6]),
    form=st.sampled_from(["JPEG", "PNG", "BMP"]),
    resample=st.sampled_from([Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]),
)
def test_one_photo_encoded_or_sized_another_way_is_one_person(
    kind: str, seed: int, scale: float, form: str, resample: Image.Resampling
) -> None:
    image = PICTURES[kind](seed)
    other = image.resize((round(image.width * scale), round(image.height * scale)), resample)
    score = similarity(found(image, quality=92), found(other, form=form, quality=40))
    assert score > 80 > vendor.SAME_FROM


@pytest.mark.parametrize("kind", PICTURES)
def test_unrelated_pictures_of_a_kind_are_not_one_person(kind: str) -> None:
    found_faces = [found(PICTURES[kind](seed)) for seed in range(30)]
    scores = sorted(similarity(one, other) for one, other in combinations(found_faces, 2))
    assert scores[-1] < vendor.SAME_FROM
    assert scores[int(len(scores) * 0.97)] < vendor.NOT_SURE_FROM


@settings(max_examples=examples(25), deadline=None)
@given(
    kinds=st.tuples(st.sampled_from(sorted(PICTURES)), st.sampled_from(sorted(PICTURES))),
    seeds=st.tuples(st.integers(0, 400), st.integers(401, 800)),
)
def test_similarity_is_a_number_that_is_the_same_either_way_round(
    kinds: tuple[str, str], seeds: tuple[int, int]
) -> None:
    one, other = (found(PICTURES[kind](seed)) for kind, seed in zip(kinds, seeds, strict=True))
    assert 0 <= similarity(one, other) == similarity(other, one) < 100
    assert similarity(one, one) == 100
    assert kinds[0] == kinds[1] or similarity(one, other) < vendor.NOT_SURE_FROM


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 40, 90)])
@pytest.mark.parametrize("options", [{"form": "PNG"}, {"form": "BMP"}, {"quality": 5}, {"quality": 40}])
def test_one_flat_colour_has_no_face(colour: tuple[int, int, int], options: dict[str, Any]) -> None:
    assert Faces().find(encoded(Image.new("RGB", (123, 77), colour), **options)) is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation: int, form: str) -> None:
    upright = portrait(3)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Faces().find(encoded(stored, form, exif=exif))
    assert turned is not None
    assert similarity(found(upright), turned) > 95
    top, bottom = Faces().find_halves(encoded(stored, form, exif=exif))
    upright_top, upright_bottom = Faces().find_halves(encoded(upright))
    assert top is not None
    assert bottom is not None
    assert upright_top is not None
    assert upright_bottom is not None
    assert similarity(top, upright_top) > 90
    assert similarity(bottom, upright_bottom) > 90


def with_exif(exif: bytes) -> bytes:
    return FIRST[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + FIRST[2:]


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"nonsense",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff" + bytes(24),
        b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x63\0\0",
        b"II*\0\x08\0\0\0\x02\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f\x1b\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f",
    ],
)
def test_odd_metadata_changes_nothing_and_warns_of_nothing(exif: bytes) -> None:
    face = Faces().find(with_exif(exif))
    assert face is not None
    assert similarity(face, found(portrait(1))) == 100


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_png_is_read(mode: str) -> None:
    grey = portrait(4).convert("L")
    if mode == "I;16":
        data = b"".join(struct.pack("<H", value * 257) for value in grey.tobytes())
        image = Image.frombytes("I;16", grey.size, data)
    else:
        image = grey.convert("RGB").convert(mode)
    options: dict[str, Any] = {"transparency": bytes(range(256))} if mode == "P" else {}
    # One bit is all that is left of it in mode "1": dithered.
    assert similarity(found(grey), found(image, form="PNG", **options)) > (50 if mode == "1" else 85)


def test_cmyk_and_fill_bytes_in_jpeg_are_read() -> None:
    assert Faces().find(encoded(portrait(4).convert("CMYK"))) is not None
    assert Faces().find(FIRST[:2] + b"\xff\xff" + FIRST[2:]) is not None


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"acTL", bytes(8))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "picture",
    [
        b"",
        b"not a picture at all",
        FIRST[:3],
        FIRST[: len(FIRST) // 2],
        FIRST[:-200],
        encoded(portrait(1), "PNG")[:-500],
        encoded(portrait(1), "PNG")[:40],
        encoded(portrait(1), "BMP")[:-500],
        b"BM",
        encoded(portrait(1), "GIF"),
        encoded(portrait(1), "TIFF"),
        png_claiming(20_000, 20_000),
        png_claiming(2_000_000_000, 2_000_000_000),
        png_claiming(100, 100),
    ],
)
def test_what_is_damaged_or_huge_or_of_another_kind_is_unreadable(picture: bytes) -> None:
    with pytest.raises(UnreadablePictureError):
        Faces().find(picture)


def test_a_picture_is_decoded_once_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    original = faces._thumbnails

    def spy(picture: bytes, *, halves: bool) -> list[tuple[Image.Image, Image.Image]]:
        decoded.append(picture)
        return original(picture, halves=halves)

    monkeypatch.setattr(faces, "_thumbnails", spy)
    engine = Faces(remembered=2)
    third = encoded(portrait(3))
    for picture in (FIRST, SECOND, FIRST, third, FIRST, SECOND):
        engine.find(picture)
    assert decoded == [FIRST, SECOND, third, SECOND]
