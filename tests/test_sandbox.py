"""The pretended vendor: over a real socket, and its picture engine by itself."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import logging
import random
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl, quote, urlencode

import httpx
import pytest
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from aisolution_async.charges import Charge, Tally
from aisolution_async.sandbox import MAGIC_NUMBERS, Clock, Fault, Sandbox, faces, images, magic_number, vendor
from aisolution_async.sandbox.connection import LARGEST_BODY, Visitor
from aisolution_async.sandbox.faces import Face, Faces, UnreadablePictureError, similarity
from aisolution_async.sandbox.magic import HOSTILE

ENDPOINTS = ("facecompare", "idholding", "addface", "searchface", "delface", "gliswadetail")
TOKEN = "sandbox-token"

# Pictures


def portrait(seed: int, size: tuple[int, int] = (240, 300)) -> Image.Image:
    """A head and shoulders, always in the same place."""
    draw_from = random.Random(seed)
    width, height = size

    def colour(low: int = 0) -> tuple[int, int, int]:
        return (draw_from.randrange(low, 256), draw_from.randrange(low, 256), draw_from.randrange(low, 256))

    def ellipse(x: float, y: float, wide: float, high: float, fill: tuple[int, int, int]) -> None:
        x, y, wide, high = x * width, y * height, wide * width, high * height
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=fill)

    image = Image.new("RGB", size, colour(120))
    draw = ImageDraw.Draw(image)
    hair, skin = colour(), colour(60)
    head, jaw = draw_from.uniform(0.17, 0.24), draw_from.uniform(0.2, 0.28)
    ellipse(0.5, 1.0, 0.42, draw_from.uniform(0.2, 0.3), colour())
    ellipse(0.5, 0.4, head * draw_from.uniform(1.1, 1.6), jaw * draw_from.uniform(1.1, 1.5), hair)
    ellipse(0.5, 0.45, head, jaw, skin)
    eyes, size_of_eyes = draw_from.uniform(0.06, 0.11), draw_from.uniform(0.02, 0.04)
    for side in (-1, 1):
        ellipse(0.5 + side * eyes, 0.42, size_of_eyes, size_of_eyes * 0.6, (250, 250, 250))
        ellipse(0.5 + side * eyes, 0.42, size_of_eyes * 0.5, size_of_eyes * 0.4, (30, 20, 10))
    ellipse(0.5, 0.58, draw_from.uniform(0.05, 0.11), draw_from.uniform(0.01, 0.03), (170, 60, 60))
    return image.filter(ImageFilter.GaussianBlur(1))


def scene(seed: int, size: tuple[int, int] = (280, 210)) -> Image.Image:
    """Coloured clouds of every size, and some things with edges before them."""
    draw_from = random.Random(seed)

    def clouds() -> Image.Image:
        layers = [
            Image.frombytes("L", (side, side), draw_from.randbytes(side * side)).resize(size)
            for side in (65, 33, 17, 9, 5, 3)
        ]
        image = layers[0]
        for layer in layers[1:]:
            image = Image.blend(image, layer, 0.55)
        return image

    image = Image.merge("RGB", [clouds(), clouds(), clouds()])
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = draw_from.randrange(size[0]), draw_from.randrange(size[1])
        colour = (draw_from.randrange(256), draw_from.randrange(256), draw_from.randrange(256))
        draw.ellipse((x - 40, y - 30, x + 40, y + 30), fill=colour)
    return image


def noise(seed: int, size: tuple[int, int] = (150, 150)) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


def gradient(seed: int, size: tuple[int, int] = (200, 200)) -> Image.Image:
    return Image.frombytes("RGB", (2, 2), random.Random(seed).randbytes(12)).resize(size, Image.Resampling.BILINEAR)


def drawing(seed: int, size: int = 210) -> Image.Image:
    """Nine shapes in the same nine places."""
    draw_from = random.Random(seed)
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for cell in range(9):
        left, top = cell % 3 * size / 3 + 10, cell // 3 * size / 3 + 10
        right, bottom = left + size / 3 - 20, top + size / 3 - 20
        colour = (draw_from.randrange(256), draw_from.randrange(256), draw_from.randrange(256))
        match draw_from.randrange(3):
            case 0:
                draw.ellipse((left, top, right, bottom), fill=colour)
            case 1:
                draw.rectangle((left, top, right, bottom), fill=colour)
            case _:
                draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)
    return image


PICTURES: dict[str, Callable[[int], Image.Image]] = {
    "portrait": portrait,
    "scene": scene,
    "noise": noise,
    "gradient": gradient,
    "drawing": drawing,
}


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


FIRST = encoded(portrait(1))
SECOND = encoded(portrait(2))
FLAT = encoded(Image.new("RGB", (80, 80), (90, 120, 60)), quality=40)
TOO_LARGE = b"\xff\xd8\xff" + bytes(images.LARGEST_IMAGE)


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


# The engine


def found(image: Image.Image, **options: Any) -> Face:
    face = Faces().find(encoded(image, **options))
    assert face is not None
    return face


@pytest.mark.parametrize("kind", ["portrait", "scene", "drawing", "gradient"])
@settings(max_examples=12, deadline=None)
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


@settings(max_examples=25, deadline=None)
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


# The vendor


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


def client_of(sandbox: Sandbox) -> httpx.AsyncClient:
    # Without certificates, which there is no use for here: they take longer to load than most tests to run.
    return httpx.AsyncClient(base_url=sandbox.url, trust_env=False, verify=False, timeout=20)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(sandbox) as running:
        yield running


async def ask(client: httpx.AsyncClient, endpoint: str, token: str = TOKEN, **form: str) -> tuple[str, Any]:
    response = await client.post(f"/v1/{endpoint}", params={"token": token}, data=form)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    envelope = response.json()
    assert list(envelope) == ["status", "message"]
    return envelope["status"], envelope["message"]


def bill(**counts: tuple[int, int]) -> Tally:
    """Charged and free, by endpoint."""
    tally = Tally()
    for endpoint, (charged, free) in counts.items():
        tally.add(endpoint, Charge.CHARGED, charged)
        tally.add(endpoint, Charge.FREE, free)
    return tally


def numbers(whatsapp: str) -> list[str]:
    """Numbers that have this answer at once; "checking" are those that have none at first."""
    found_numbers = []
    for serial in range(300):
        number = f"+62813873{serial:05d}"
        slow = sha256(b"slow" + number.encode()).digest()[0] % 10 == 0
        if (whatsapp == "checking") == slow and (slow or vendor._profile(number)["whatsapp"] == whatsapp):
            found_numbers.append(number)
    return found_numbers


YES, NO, SLOW = numbers("yes")[0], numbers("no")[0], numbers("checking")[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_the_vendors_own_curl_examples_are_answered(sandbox: Sandbox, tmp_path: Path) -> None:
    grainy = Image.blend(scene(1, (1200, 900)), noise(1, (1200, 900)), 0.6)
    large = b64(encoded(grainy, quality=93))
    assert len(large) > 1_000_000  # from where on curl asks before it sends
    (tmp_path / "large").write_text(large)
    holding = b64(encoded(side_by_side(portrait(1), portrait(1))))
    examples: list[tuple[str, tuple[str, ...]]] = [
        ("facecompare", (f"img1={b64(FIRST)}", f"img2={b64(SECOND)}")),
        # From a file: a megabyte is more than an argument may be.
        ("facecompare", (f"img1@{tmp_path}/large", f"img2@{tmp_path}/large")),
        ("idholding", (f"img={holding}",)),
        ("addface", (f"img={b64(FIRST)}",)),
        ("searchface", (f"img={b64(FIRST)}",)),
        ("delface", ("person_id=personId",)),
        ("gliswadetail", ("callback=", "number=81387300008")),
    ]
    said = []
    for name, data in examples:
        process = await asyncio.create_subprocess_exec(
            str(shutil.which("curl")),
            *("--disable", "--silent", "--show-error", "--noproxy", "*"),
            *("--location", "--request", "POST", f"{sandbox.url}/v1/{name}?token={sandbox.token}"),
            *("--header", "Content-Type: application/x-www-form-urlencoded"),
            *(word for item in data for word in ("--data-urlencode", item)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        said.append(json.loads(output))
    different, same, held, added, searched, deleted, whatsapp = said
    assert different["message"]["result"] == "NOT SAME PERSON"
    assert same == {"status": "OK", "message": {"similarity": 100.0, "result": "SAME PERSON"}}
    assert held["message"]["result"] == "SAME PERSON"
    assert added["status"] == "OK"
    assert added["message"]["person_count"] == 1
    assert searched == {
        "status": "OK",
        "message": [{"confidence": 100.0, "person_id": added["message"]["person_id"]}],
    }
    assert deleted == {"status": "PERSON_ID_NOT_EXIST", "message": None}
    assert whatsapp["status"] == "OK"
    assert whatsapp["message"]["number"] == "+81387300008"
    assert sandbox.requests == {
        "facecompare": 2,
        "idholding": 1,
        "addface": 1,
        "searchface": 1,
        "delface": 1,
        "gliswadetail": 1,
    }
    assert sandbox.bill.charged == 5 - (whatsapp["message"]["whatsapp"] == "checking")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_wrong_token_path_or_method_is_refused_without_an_envelope(
    sandbox: Sandbox, client: httpx.AsyncClient, endpoint: str
) -> None:
    wrong = await client.post(f"/v1/{endpoint}?token=guess")
    missing = await client.post(f"/v1/{endpoint}")
    method = await client.get(f"/v1/{endpoint}", params={"token": TOKEN})
    head = await client.head(f"/v1/{endpoint}", params={"token": TOKEN})
    assert [r.status_code for r in (wrong, missing, method, head)] == [401, 401, 405, 405]
    assert method.headers["allow"] == "POST"
    assert head.content == b""
    assert wrong.headers["content-type"].startswith("text/plain")
    for path in ("/", "/v1/", f"/{endpoint}", f"/v1/{endpoint}/", f"/v2/{endpoint}", "/v1/nothing"):
        assert (await client.post(path, params={"token": TOKEN})).status_code == 404
    assert sandbox.bill == bill(**{endpoint: (0, 4)})
    assert sandbox.requests == {endpoint: 4}


async def test_facecompare_compares(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    small = encoded(portrait(1).resize((100, 125)), quality=40)
    status, message = await ask(client, "facecompare", img1=b64(FIRST), img2=b64(small))
    assert status == "OK"
    assert message["result"] == "SAME PERSON"
    assert 90 < message["similarity"] <= 100
    _, message = await ask(client, "facecompare", img1=b64(FIRST), img2=b64(SECOND))
    assert message["result"] == "NOT SAME PERSON"
    # A different mouth, as it were: most of the picture is the same.
    image = portrait(1)
    image.paste(portrait(2).crop((0, 210, 240, 300)), (0, 210))
    _, message = await ask(client, "facecompare", img1=b64(FIRST), img2=b64(encoded(image)))
    assert message["result"] == vendor._judgment(message["similarity"])
    assert sandbox.bill == bill(facecompare=(3, 0))


def test_judgments_begin_where_they_say() -> None:
    assert [vendor._judgment(score) for score in (100, 70, 69.999, 45, 44.999, 0)] == [
        *("SAME PERSON", "SAME PERSON"),
        *("NOT SURE", "NOT SURE"),
        *("NOT SAME PERSON", "NOT SAME PERSON"),
    ]


UNUSABLE = {
    "missing": ({}, "is missing"),
    "empty": ({"img": ""}, "is missing"),
    "not base64": ({"img": "no base64!"}, "is not base64"),
    "no padding": ({"img": b64(FIRST).rstrip("=") + "A"}, "is not base64"),
    "two lines": ({"img": b64(FIRST)[:76] + "\n" + b64(FIRST)[76:]}, "is not base64"),
    "url-safe": ({"img": b64(b"\xfb\xff\xfe").replace("+", "-").replace("/", "_")}, "is not base64"),
    "no picture": ({"img": b64(b"text")}, "is not a readable picture: neither JPEG, PNG nor BMP"),
    "cut off": ({"img": b64(FIRST[:900])}, "is not a readable picture: damaged or cut off"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_images_that_cannot_be_used_are_refused_by_name(
    sandbox: Sandbox, client: httpx.AsyncClient, case: str
) -> None:
    form, why = UNUSABLE[case]
    image = {"img": b64(FIRST)}
    first = {f"{name}1": value for name, value in form.items()}
    second = {f"{name}2": value for name, value in form.items()}
    assert await ask(client, "facecompare", **first, img2=image["img"]) == ("INVALID_REQUEST", f"img1 {why}")
    assert await ask(client, "facecompare", img1=image["img"], **second) == ("INVALID_REQUEST", f"img2 {why}")
    assert await ask(client, "idholding", **form) == ("INVALID_REQUEST", f"img {why}")
    assert await ask(client, "addface", **form) == ("FAIL", f"img {why}")
    assert await ask(client, "searchface", **form) == ("FAIL", f"img {why}")
    assert sandbox.bill == bill(facecompare=(0, 2), idholding=(0, 1), addface=(0, 1), searchface=(0, 1))


async def test_images_over_two_mebibytes_are_too_large(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    message = "image larger than 2M"
    large = quote(b64(TOO_LARGE), safe="")
    for endpoint, form, status in (
        ("facecompare", f"img1={quote(b64(FIRST), safe='')}&img2={large}", "IMAGE_INVALID_SIZE"),
        ("idholding", f"img={large}", "IMAGE_INVALID_SIZE"),
        ("addface", f"img={large}", "FAIL"),
        ("searchface", f"img={large}", "FAIL"),
    ):
        response = await client.post(f"/v1/{endpoint}?token={TOKEN}", content=form)
        assert response.json() == {"status": status, "message": message}
    just = quote(b64(TOO_LARGE[: images.LARGEST_IMAGE]), safe="")
    response = await client.post(f"/v1/idholding?token={TOKEN}", content=f"img={just}")
    assert response.json() == {
        "status": "INVALID_REQUEST",
        "message": "img is not a readable picture: damaged or cut off",
    }
    assert sandbox.bill.charged == 0


async def test_base64_that_was_not_escaped_breaks(client: httpx.AsyncClient) -> None:
    assert "+" in b64(FIRST)
    response = await client.post(f"/v1/addface?token={TOKEN}", content=f"img={b64(FIRST)}")
    assert response.json() == {"status": "FAIL", "message": "img is not base64"}
    lower = re.sub("%..", lambda escape: escape[0].lower(), quote(b64(FIRST), safe=""))
    response = await client.post(f"/v1/addface?token={TOKEN}", content=f"%69mg={lower}&img=again")
    assert response.json()["status"] == "OK"


async def test_a_face_that_is_not_found_is_named(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    for img1, img2, which in ((FLAT, FIRST, "A"), (FIRST, FLAT, "B"), (FLAT, FLAT, "A")):
        said = await ask(client, "facecompare", img1=b64(img1), img2=b64(img2))
        assert said == ("RETRY_LATER", f"IMAGE{which}_FACE_DETECT_FAILED")
    assert sandbox.bill == bill(facecompare=(0, 3))


async def test_idholding_compares_the_halves(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    nobody = Image.new("RGB", (240, 300), "white")
    wide, tall = side_by_side(portrait(1), portrait(1)), Image.new("RGB", (240, 600))
    tall.paste(portrait(1), (0, 0))
    tall.paste(portrait(1), (0, 300))
    for image, result in (
        (wide, "SAME PERSON"),
        (tall, "SAME PERSON"),
        (side_by_side(portrait(1), portrait(2)), "NOT SAME PERSON"),
    ):
        status, message = await ask(client, "idholding", img=b64(encoded(image)))
        assert (status, message["result"]) == ("OK", result)
    for image, count in (
        (side_by_side(portrait(1), nobody), 1),
        (side_by_side(nobody, portrait(1)), 1),
        (side_by_side(nobody, nobody), 0),
    ):
        said = await ask(client, "idholding", img=b64(encoded(image)))
        assert said == ("INVALID_FACE_NUM", f"{count} faces found")
    assert sandbox.bill == bill(idholding=(3, 3))


async def test_faces_are_added_found_and_deleted(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    assert await ask(client, "searchface", img=b64(FIRST)) == ("OK", [])
    status, first = await ask(client, "addface", img=b64(FIRST))
    assert status == "OK"
    assert re.fullmatch("[A-Za-z]{16}", first["group_id"])
    assert re.fullmatch("[0-9a-v]{20}", first["person_id"])
    assert first["person_count"] == 1
    _, again = await ask(client, "addface", img=b64(encoded(portrait(1), quality=40)))
    assert again == first | {"person_count": 2}
    _, second = await ask(client, "addface", img=b64(SECOND))
    assert second["person_id"] != first["person_id"]
    assert second["group_id"] == first["group_id"]
    status, matches = await ask(client, "searchface", img=b64(encoded(portrait(1).resize((120, 150)))))
    assert status == "OK"
    assert [match["person_id"] for match in matches] == [first["person_id"]]
    assert 90 < matches[0]["confidence"] <= 100
    for expected in ("OK", "PERSON_ID_NOT_EXIST"):
        assert await ask(client, "delface", person_id=first["person_id"]) == (expected, None)
    assert await ask(client, "delface") == ("PERSON_ID_NOT_EXIST", None)
    assert await ask(client, "searchface", img=b64(FIRST)) == ("OK", [])
    assert sandbox.bill == bill(searchface=(3, 0), addface=(0, 3), delface=(0, 3))


async def test_matches_are_listed_best_first(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [(await ask(client, "addface", img=b64(encoded(portrait(n)))))[1]["person_id"] for n in range(4)]
    scores = dict(zip((found(portrait(n)).coarse for n in range(4)), (71.5, 69.9, 98.0, 70), strict=True))
    monkeypatch.setattr(vendor, "similarity", lambda _face, other: scores[other.coarse])
    _, matches = await ask(client, "searchface", img=b64(encoded(scene(1))))
    assert matches == [
        {"confidence": 98.0, "person_id": ids[2]},
        {"confidence": 71.5, "person_id": ids[0]},
        {"confidence": 70, "person_id": ids[3]},
    ]


async def test_no_face_is_no_person(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    status, message = await ask(client, "addface", img=b64(FLAT))
    assert status == "FACE_DETECT_FAILED"
    assert list(message) == ["group_id", "person_id", "person_count"]
    assert message["person_count"] == 0
    assert await ask(client, "delface", person_id=message["person_id"]) == ("PERSON_ID_NOT_EXIST", None)
    assert await ask(client, "searchface", img=b64(FLAT)) == ("FACE_DETECT_FAILED", [])
    assert sandbox.bill == bill(addface=(0, 1), delface=(0, 1), searchface=(0, 1))


async def test_one_new_face_added_many_times_at_once_is_one_person(client: httpx.AsyncClient) -> None:
    said = await asyncio.gather(
        *(ask(client, "addface", img=b64(encoded(portrait(1), quality=50 + n))) for n in range(10))
    )
    assert len({message["person_id"] for _, message in said}) == 1
    assert sorted(message["person_count"] for _, message in said) == list(range(1, 11))


async def test_each_token_has_a_group_of_its_own() -> None:
    async with (
        Sandbox(token="main", tokens=("other ü&", "x")) as sandbox,
        client_of(sandbox) as client,
    ):
        assert sandbox.token == "main"
        groups = {}
        for token in ("main", "other ü&", "x"):
            assert await ask(client, "searchface", token=token, img=b64(FIRST)) == ("OK", [])
            _, message = await ask(client, "addface", token=token, img=b64(FIRST))
            assert message["person_count"] == 1
            groups[token] = message["group_id"]
            assert token not in message["group_id"]
        assert len(set(groups.values())) == 3
    async with Sandbox(token="x") as sandbox, client_of(sandbox) as client:
        _, message = await ask(client, "addface", token="x", img=b64(FIRST))
        assert message["group_id"] == groups["x"]
    assert all("e" not in vendor._Group("e").id for _ in range(2))


# WhatsApp


@pytest.mark.parametrize(
    ("number", "country", "normal"),
    [
        ("+6281387300008", "", "+6281387300008"),
        ("+62 (813) 873-00.008", "", "+6281387300008"),
        ("006281387300008", "", "+6281387300008"),
        ("006281387300008", "PH", "+6281387300008"),
        ("+6281387300008", "PH", "+6281387300008"),
        ("+6281387300008", "ZZ", "+6281387300008"),
        ("81387300008", "", "+81387300008"),
        ("6281387300008", "", "+6281387300008"),
        ("081387300008", "ID", "+6281387300008"),
        ("81387300008", "id", "+6281387300008"),
        ("6281387300008", "ID", "+6281387300008"),
        ("09171234567", "PH", "+639171234567"),
        ("0912345678", "VN", "+84912345678"),
        ("9123456789", "IN", "+919123456789"),
        ("919123456789", "IN", "+919123456789"),
    ],
)
async def test_numbers_are_normalised(client: httpx.AsyncClient, number: str, country: str, normal: str) -> None:
    status, message = await ask(client, "gliswadetail", number=number, country=country)
    assert (status, message["number"]) == ("OK", normal)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({}, "number is missing"),
        ({"number": "telephone"}, "number is not a phone number"),
        ({"number": "62+81387300008"}, "number is not a phone number"),
        ({"number": "٦٢٨١٣٨٧٣٠٠٠٠٨"}, "number is not a phone number"),
        ({"number": "081387300008"}, "number begins with 0: give country, or + and the country code"),
        (
            {"number": "081387300008", "country": "ZZ"},
            "country is not known: give the number with + and its country code",
        ),
        ({"number": YES, "country": "IDN"}, "country is not two letters"),
        ({"number": "+628138"}, "number is not 7 to 15 digits with a country code"),
        ({"number": "+1234567890123456"}, "number is not 7 to 15 digits with a country code"),
        ({"number": "+081387300008"}, "number is not 7 to 15 digits with a country code"),
        ({"number": "..."}, "number is not 7 to 15 digits with a country code"),
        ({"number": YES, "servstatus": "yes"}, "servstatus is neither y nor n"),
        ({"number": YES, "callback": "nowhere"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "ftp://127.0.0.1/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http:///path"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://me@127.0.0.1/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://127.0.0.1:99999/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://[::1/"}, "callback is not an http or https address"),
        ({"number": YES, "callback": "http://127.0.0.1/\r\nx: y"}, "callback is not an http or https address"),
    ],
)
async def test_bad_input_is_refused_and_free(
    sandbox: Sandbox, client: httpx.AsyncClient, form: dict[str, str], why: str
) -> None:
    assert await ask(client, "gliswadetail", **form) == ("INVALID_INPUT", why)
    assert sandbox.bill == bill(gliswadetail=(0, 1))
    assert not sandbox.callbacks


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.com", "0.0.0.0", "2130706433", "localhost.evil.example", "[::]", "YOUR_CALLBACK_URL"]
)
async def test_nobody_else_is_called_back(sandbox: Sandbox, client: httpx.AsyncClient, host: str) -> None:
    answer = await ask(client, "gliswadetail", number=YES, callback=f"https://{host}/")
    assert answer == ("OK", {"number": YES, "whatsapp": "checking"})
    while not sandbox.callbacks:
        await asyncio.sleep(0)
    (delivery,) = sandbox.callbacks
    assert delivery.http_status is None
    assert delivery.error == "not made: only loopback addresses are called back"


async def test_answers_have_the_documented_form_and_stay_the_same(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    status, message = await ask(client, "gliswadetail", number=YES)
    assert status == "OK"
    assert list(message) == ["number", "whatsapp", "status_update", "signature", "business_user", "avatar"]
    assert message["number"] == YES
    assert message["whatsapp"] == "yes"
    assert re.fullmatch("20[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]", message["status_update"])
    assert await ask(client, "gliswadetail", number=YES, servstatus="y") == (status, message)
    assert await ask(client, "gliswadetail", number=NO) == ("OK", {"number": NO, "whatsapp": "no"})
    checking = ("OK", {"number": SLOW, "whatsapp": "checking"})
    assert await ask(client, "gliswadetail", number=SLOW) == checking
    resolved = await ask(client, "gliswadetail", number=SLOW)
    assert resolved == ("OK", vendor._profile(SLOW))
    assert await ask(client, "gliswadetail", number=SLOW) == resolved
    assert sandbox.bill == bill(gliswadetail=(5, 1))


def test_about_seven_in_ten_have_whatsapp() -> None:
    profiles = [vendor._profile(f"+62812{serial:07d}") for serial in range(3000)]
    yes = [profile for profile in profiles if profile["whatsapp"] == "yes"]
    assert 0.66 < len(yes) / len(profiles) < 0.74
    for name in ("business_user", "avatar"):
        assert {profile[name] for profile in yes} == {"yes", "no"}
    assert {profile["signature"] for profile in yes} == set(vendor._SIGNATURES)
    assert 0.07 < len(numbers("checking")) / 300 < 0.14


async def test_a_service_that_is_down_says_so_if_asked() -> None:
    async with (
        Sandbox(whatsapp_available=False) as sandbox,
        client_of(sandbox) as client,
    ):
        assert not sandbox.whatsapp_available
        unavailable = ("OK", {"number": YES, "whatsapp": "unavailable"})
        assert await ask(client, "gliswadetail", number=YES, servstatus="y") == unavailable
        assert await ask(client, "gliswadetail", number=YES) == ("RETRY_LATER", vendor._BUSY)
        assert (await ask(client, "gliswadetail", number="bad"))[0] == "INVALID_INPUT"
        assert sandbox.bill == bill(gliswadetail=(0, 3))
        sandbox.whatsapp_available = True
        assert (await ask(client, "gliswadetail", number=YES))[1]["whatsapp"] == "yes"
        assert sandbox.bill == bill(gliswadetail=(1, 3))


# Callbacks


async def settled(sandbox: Sandbox) -> None:
    """Until nothing is under way in the sandbox."""
    while sandbox._tasks:
        await asyncio.wait(sandbox._tasks)


@asynccontextmanager
async def receiver(
    answer: bytes | None = b"HTTP/1.1 204 No Content\r\n\r\n",
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[str, list[str]]]:
    """An address that is called back, and what came in there. With no `answer` it hangs."""
    heads: list[str] = []
    gone = asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if answer is None:
            await gone.wait()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    serving = await asyncio.start_server(receive, host, 0, ssl=tls)
    async with serving:
        port = serving.sockets[0].getsockname()[1]
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", heads
        gone.set()


async def test_a_callback_brings_the_answer(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    async with receiver() as (url, heads):
        for number, address in ((YES, url), (NO, f"{url}/a/b?mine=1#part"), (YES, url)):
            said = await ask(client, "gliswadetail", number=number, callback=address)
            assert said == ("OK", {"number": number, "whatsapp": "checking"})
            await settled(sandbox)
    first, second, third = heads
    assert first == third
    line, host, *_ = first.split("\r\n")
    query = urlencode(vendor._profile(YES))
    assert line == f"GET /?{query} HTTP/1.1"
    assert query.startswith(f"number=%2B{YES[1:]}&whatsapp=yes&status_update=20")
    assert host == f"host: {url.removeprefix('http://')}"
    assert dict(parse_qsl(query)) == vendor._profile(YES)
    assert second.split("\r\n")[0] == f"GET /a/b?mine=1&number=%2B{NO[1:]}&whatsapp=no HTTP/1.1"
    # One free answer each, and what each callback brought is charged.
    assert sandbox.bill == bill(gliswadetail=(3, 3))
    assert [(d.number, d.http_status, d.error) for d in sandbox.callbacks] == [
        (YES, 204, None),
        (NO, 204, None),
        (YES, 204, None),
    ]
    assert sandbox.callbacks[0].url == f"{url}/?{query}"
    assert YES not in repr(sandbox.callbacks)


async def test_a_number_that_was_called_back_is_known(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    async with receiver() as (url, _):
        await ask(client, "gliswadetail", number=SLOW, callback=url)
        await settled(sandbox)
    assert await ask(client, "gliswadetail", number=SLOW) == ("OK", vendor._profile(SLOW))


@pytest.mark.parametrize(
    ("answer", "http_status", "error"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\n\r\n", 302, None),
        (b"HTTP/1.0 500 Oh\r\n\r\n", 500, None),
        (b"SSH-2.0-server\r\n\r\n", None, "ValueError"),
        (b"", None, "IncompleteReadError"),
        (b"x" * 200_000, None, "LimitOverrunError"),
    ],
)
async def test_what_comes_of_a_callback_is_recorded(
    sandbox: Sandbox, client: httpx.AsyncClient, answer: bytes, http_status: int | None, error: str | None
) -> None:
    async with receiver(answer) as (url, heads):
        await ask(client, "gliswadetail", number=YES, callback=url)
        await settled(sandbox)
    assert len(heads) == 1
    (delivery,) = sandbox.callbacks
    assert (delivery.http_status, delivery.error) == (http_status, error)


async def test_a_callback_to_nobody_or_to_one_that_hangs_fails() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        async with receiver(None) as (hanging, _):
            for address, patience, error in ((nobody, 600, "ConnectionRefusedError"), (hanging, 0.05, "timed out")):
                async with Sandbox(callback_timeout=patience) as sandbox, client_of(sandbox) as client:
                    await ask(client, "gliswadetail", number=YES, callback=address)
                    await settled(sandbox)
                    assert [delivery.error for delivery in sandbox.callbacks] == [error]


def record_of_connections(monkeypatch: pytest.MonkeyPatch, working: str | None = None) -> list[str]:
    tried: list[str] = []
    original = asyncio.open_connection

    async def connect(host: str, *rest: Any, **options: Any) -> Any:
        tried.append(host)
        if host != working:
            raise ConnectionRefusedError
        return await original("127.0.0.1", *rest, **options)

    monkeypatch.setattr(asyncio, "open_connection", connect)
    return tried


async def test_localhost_is_this_machine_whatever_the_resolver_says(
    sandbox: Sandbox, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as (url, heads):
        named = url.replace("127.0.0.1", "localhost")
        await ask(client, "gliswadetail", number=YES, callback=named)
        await settled(sandbox)
        tried = record_of_connections(monkeypatch, working="::1")
        await ask(client, "gliswadetail", number=YES, callback=named)
        await settled(sandbox)
    assert tried == ["127.0.0.1", "::1"]
    assert len(heads) == 2
    assert f"host: {named.removeprefix('http://')}" in heads[0]


async def test_callbacks_go_anywhere_if_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Sandbox(callbacks_anywhere=True) as sandbox,
        client_of(sandbox) as client,
    ):
        tried = record_of_connections(monkeypatch)
        for url in ("http://example.com", "https://93.184.215.14/x"):
            await ask(client, "gliswadetail", number=YES, callback=url)
            await settled(sandbox)
    assert tried == ["example.com", "93.184.215.14"]
    assert [delivery.error for delivery in sandbox.callbacks] == ["ConnectionRefusedError"] * 2


async def test_a_callback_by_https_checks_the_certificate(
    sandbox: Sandbox, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the receiver's failed handshake
    async with receiver(tls=context) as (url, heads):
        await ask(client, "gliswadetail", number=YES, callback=url.replace("127.0.0.1", "localhost"))
        await settled(sandbox)
        assert sandbox.callbacks[0].error == "SSLCertVerificationError"
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr("aisolution_async.sandbox.callbacks._tls", lambda: trusting)
        await ask(client, "gliswadetail", number=YES, callback=url.replace("127.0.0.1", "localhost"))
        await settled(sandbox)
    assert sandbox.callbacks[1].http_status == 204
    assert len(heads) == 1
    assert vendor._callback("https://localhost/", YES, anywhere=False).port == 443
    assert vendor._callback("http://[::1]", YES, anywhere=False).addresses == ("::1",)


# HTTP


def post(
    form: dict[str, str] | None = None,
    *headers: str,
    endpoint: str = "gliswadetail",
    version: str = "1.1",
) -> bytes:
    body = urlencode({"number": YES} if form is None else form).encode()
    lines = (
        f"POST /v1/{endpoint}?token={TOKEN} HTTP/{version}",
        "host: 127.0.0.1",
        f"content-length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "\r\n")).encode() + body


@asynccontextmanager
async def connected(sandbox: Sandbox) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def one_answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", head)
    return int(head.split()[1]), head, await reader.readexactly(int(length[1]) if length else 0)


async def last_answer(sandbox: Sandbox, data: bytes) -> tuple[int, str, bytes]:
    """The answer to `data` from a server that closes the connection afterwards."""
    async with connected(sandbox) as (reader, writer):
        writer.write(data)
        answer = await one_answer(reader)
        writer.write_eof()
        assert await reader.read() == b""
        return answer


async def test_requests_of_one_connection_are_answered_in_order(sandbox: Sandbox) -> None:
    asked = [YES, NO, *numbers("no")[1:60]]
    picture = post({"img": b64(FIRST)}, endpoint="addface")
    async with connected(sandbox) as (reader, writer):
        writer.write(picture + b"".join(post({"number": number}) for number in asked))
        assert b'"person_count": 1' in (await one_answer(reader))[2]
        for number in asked:
            status, head, body = await one_answer(reader)
            assert status == 200
            assert "connection:" not in head
            assert json.loads(body)["message"]["number"] == number
        writer.write(post())
        assert (await one_answer(reader))[0] == 200
    assert sandbox.bill == bill(addface=(0, 1), gliswadetail=(len(asked) + 1, 0))


async def test_a_request_may_come_one_byte_at_a_time(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        for byte in post():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await one_answer(reader))[0] == 200


async def test_connections_stay_open_unless_asked_otherwise(sandbox: Sandbox) -> None:
    for data in (post(None, "connection: close"), post(version="1.0")):
        status, head, _ = await last_answer(sandbox, data + post())
        assert status == 200
        assert "connection: close" in head
    async with connected(sandbox) as (reader, writer):
        writer.write(post(None, "connection: keep-alive", version="1.0"))
        status, head, _ = await one_answer(reader)
        assert status == 200
        assert "connection: keep-alive" in head
        writer.write(post())
        assert (await one_answer(reader))[0] == 200
    assert sandbox.requests == {"gliswadetail": 4}


async def test_a_client_that_ends_its_side_still_gets_its_answer(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(post({"img": b64(FIRST)}, endpoint="searchface"))
        writer.write_eof()
        assert (await one_answer(reader))[0] == 200
        assert await reader.read() == b""
    async with connected(sandbox) as (reader, writer):
        writer.write(post()[:-5])
        writer.write_eof()
        assert await reader.read() == b""


async def test_chunked_bodies_are_read(sandbox: Sandbox) -> None:
    head = f"POST /v1/gliswadetail?token={TOKEN} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"number=%2B" + YES[1:].encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    async with connected(sandbox) as (reader, writer):
        writer.write(head.encode() + chunks)
        status, _, answer = await one_answer(reader)
        assert status == 200
        assert json.loads(answer)["message"]["number"] == YES


async def test_a_client_that_asks_first_is_told_to_go_on(sandbox: Sandbox) -> None:
    head, body = post(None, "Expect: 100-Continue").split(b"\r\n\r\n")
    async with connected(sandbox) as (reader, writer):
        for _ in range(2):
            writer.write(head + b"\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await one_answer(reader))[0] == 200
        # Behind another request: in its turn.
        writer.write(post({"img": b64(FIRST)}, endpoint="addface") + head + b"\r\n\r\n")
        assert b"person_count" in (await one_answer(reader))[2]
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await one_answer(reader))[0] == 200
        # Without waiting, or by HTTP/1.0: not at all.
        writer.write(head + b"\r\n\r\n" + body)
        await settled(sandbox)
        assert (await one_answer(reader))[0] == 200
    async with connected(sandbox) as (reader, writer):
        old = head.replace(b"HTTP/1.1", b"HTTP/1.0")
        writer.write(old + b"\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        writer.write(body)
        assert (await one_answer(reader))[0] == 200


async def test_whole_addresses_are_paths_too(sandbox: Sandbox) -> None:
    data = post().replace(b"POST /v1", b"POST http://127.0.0.1/v1")
    async with connected(sandbox) as (reader, writer):
        writer.write(data)
        assert (await one_answer(reader))[0] == 200


async def test_nobody_is_upgraded(sandbox: Sandbox) -> None:
    data = post(None, "connection: Upgrade", "upgrade: h2c")
    status, head, _ = await last_answer(sandbox, data + b"PRI * HTTP/2.0\r\n\r\n")
    assert status == 200
    assert "connection: close" in head


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/delface HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/delface HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/delface HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_cut(sandbox: Sandbox, data: bytes) -> None:
    status, head, _ = await last_answer(sandbox, data)
    assert status == 400
    assert "connection: close" in head
    assert sandbox.bill == Tally()


async def test_a_refusal_comes_after_the_answers_before_it(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(post({"img": b64(FIRST)}, endpoint="addface") + b"garbage\r\n\r\n")
        assert (await one_answer(reader))[0] == 200
        assert (await one_answer(reader))[0] == 400
        writer.write_eof()
        assert await reader.read() == b""


async def test_bodies_over_eight_mebibytes_are_refused_unread(sandbox: Sandbox) -> None:
    head = f"POST /v1/facecompare?token={TOKEN} HTTP/1.1\r\nhost: x\r\n"
    announced = f"{head}expect: 100-continue\r\ncontent-length: {LARGEST_BODY + 1}\r\n\r\n".encode()
    status, answer_head, _ = await last_answer(sandbox, announced)
    assert status == 413
    assert "connection: close" in answer_head
    # It goes on sending, and still can read the refusal.
    status, _, _ = await last_answer(sandbox, announced + bytes(LARGEST_BODY + 1))
    assert status == 413
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    chunked = f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk * 9 + b"0\r\n\r\n"
    status, _, _ = await last_answer(sandbox, chunked)
    assert status == 413
    assert sandbox.requests == {"facecompare": 3}
    assert sandbox.bill == bill(facecompare=(0, 3))


async def test_whoever_never_stops_sending_is_cut(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.sandbox.connection._LINGER", 0.01)
    async with connected(sandbox) as (reader, writer):
        writer.write(b"hello\r\n\r\n")
        assert (await one_answer(reader))[0] == 400
        assert await reader.read() == b""
        (connection,) = sandbox._connections
        await connection.lost


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /", b"x" * 70_000, b" HTTP/1.1\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nx: ", *[b"y" * 10_000] * 60],
        [b"\r\n" * 40_000],
    ],
)
async def test_floods_of_headers_are_refused(sandbox: Sandbox, pieces: list[bytes]) -> None:
    async with connected(sandbox) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        assert (await one_answer(reader))[0] == 431
        writer.write_eof()
        assert await reader.read() == b""


async def test_an_answer_counts_though_the_client_is_gone(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    original = sandbox._vendor.answer

    async def held(request: vendor.Request) -> vendor.Served:
        arrived.set()
        await go_on.wait()
        return await original(request)

    monkeypatch.setattr(sandbox._vendor, "answer", held)
    async with connected(sandbox) as (_, writer):
        writer.write(post() + post({"number": NO}))
        await arrived.wait()
        (connection,) = sandbox._connections
        writer.transport.abort()
        connection.cut()
        await connection.lost
    go_on.set()
    await settled(sandbox)
    assert sandbox.bill == bill(gliswadetail=(2, 0))


async def test_a_client_that_does_not_read_gets_no_more_answers(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(post())
        await one_answer(reader)
        (connection,) = sandbox._connections
        connection.pause_writing()
        writer.write(post() + post())
        while not connection._serving:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert sandbox.bill.total == 1
        connection.resume_writing()
        await one_answer(reader)
        await one_answer(reader)
    assert sandbox.bill.total == 3


async def test_a_bug_is_an_internal_error_and_is_reported(sandbox: Sandbox) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def broken(*_: object) -> Any:
        raise RuntimeError("a bug")

    sandbox._vendor._handlers["delface"] = broken
    async with connected(sandbox) as (reader, writer):
        writer.write(post(endpoint="delface") + post())
        assert (await one_answer(reader))[0] == 500
        assert (await one_answer(reader))[0] == 200
    assert [str(context["exception"]) for context in reported] == ["a bug"]
    assert sandbox.bill == bill(delface=(0, 1), gliswadetail=(1, 0))


# Opening and closing


async def test_closing_cuts_connections_and_drops_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox()
    assert repr(sandbox) == "<Sandbox not started>"
    with pytest.raises(RuntimeError, match="not started"):
        _ = sandbox.url
    await sandbox.start()
    assert repr(sandbox) == f"<Sandbox {sandbox.url}>"
    assert sandbox.url == f"http://127.0.0.1:{sandbox.port}"
    with pytest.raises(RuntimeError, match="once"):
        await sandbox.start()
    arrived = asyncio.Event()

    async def never(_request: vendor.Request) -> vendor.Served:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(sandbox._vendor, "answer", never)
    async with connected(sandbox) as (reader, writer), connected(sandbox) as (idle, _):
        writer.write(post())
        await arrived.wait()
        await sandbox.aclose()
        assert await reader.read() == b""
        assert await idle.read() == b""
    assert not sandbox._tasks
    assert not sandbox._connections
    assert sandbox.bill.total == 0
    assert repr(sandbox) == "<Sandbox closed>"
    await sandbox.aclose()
    with pytest.raises(RuntimeError, match="once"):
        await sandbox.start()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", sandbox.port)


async def test_a_connection_that_comes_in_while_closing_is_cut() -> None:
    sandbox = Sandbox()
    await sandbox.aclose()
    late = Visitor(sandbox)
    transport = Mock(spec=asyncio.Transport)
    late.connection_made(transport)
    transport.abort.assert_called_once_with()
    late.connection_lost(None)
    assert late.lost.done()


@pytest.mark.parametrize("ending", ["close", "cancel"])
async def test_serving_for_ever_ends_when_closed_or_cancelled(ending: str) -> None:
    sandbox = Sandbox()
    if ending == "close":
        await sandbox.start()
    serving = asyncio.create_task(sandbox.serve_forever())
    while sandbox._server is None:
        await asyncio.sleep(0)
    async with client_of(sandbox) as client:
        assert (await ask(client, "gliswadetail", number=YES))[0] == "OK"
    if ending == "close":
        await sandbox.aclose()
        await serving
    else:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert repr(sandbox) == "<Sandbox closed>"


def test_it_runs_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def everything() -> Tally:
        async with Sandbox() as sandbox:
            assert (await last_answer(sandbox, b"hello\r\n\r\n"))[0] == 400
            assert (await last_answer(sandbox, post(None, "connection: close")))[0] == 200
            async with receiver() as (url, _), connected(sandbox) as (reader, writer):
                writer.write(post({"number": NO, "callback": url}) + post() * 100)
                for _ in range(101):
                    assert (await one_answer(reader))[0] == 200
                await settled(sandbox)
            assert [delivery.http_status for delivery in sandbox.callbacks] == [204]
            async with connected(sandbox) as (reader, writer):
                writer.write(post({"img": b64(FIRST)}, endpoint="addface"))
                writer.write_eof()
                assert (await one_answer(reader))[0] == 200
                assert await reader.read() == b""
            async with connected(sandbox) as (reader, writer):
                writer.write(post()[:-5])
                await writer.drain()
                await sandbox.aclose()
                with suppress(ConnectionResetError):  # where the last bytes were not read yet
                    assert await reader.read() == b""
            return sandbox.bill

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(everything()) == bill(gliswadetail=(102, 1), addface=(0, 1))


async def test_a_port_may_be_chosen_and_may_be_taken(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"):
        await Sandbox(sandbox.port).start()


def test_an_empty_token_is_refused() -> None:
    for options in ({"token": ""}, {"tokens": ("good", "")}):
        with pytest.raises(ValueError, match="empty"):
            Sandbox(**options)


async def test_pillow_is_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RuntimeError, match=r"aisolution-async\[cli\]"):
        await Sandbox().start()


def test_pillow_is_imported_at_the_first_picture() -> None:
    # Whatever the package itself imports is not the sandbox's doing.
    code = (
        "import sys, aisolution_async; before = 'PIL' in sys.modules; "
        "import aisolution_async.sandbox; assert ('PIL' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


async def test_nothing_is_logged_or_printed(
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    async with receiver() as (url, _), connected(sandbox) as (reader, writer):
        writer.write(post({"number": YES, "callback": url}) + post({"img": b64(FIRST)}, endpoint="addface"))
        await one_answer(reader)
        await one_answer(reader)
        await settled(sandbox)
    for secret in (TOKEN, YES, YES[1:], b64(FIRST)[:40]):
        assert secret not in caplog.text
        assert secret not in repr(sandbox)
    assert capfd.readouterr() == ("", "")
    assert TOKEN not in repr(vendor.Request("POST", "/", b"token=" + TOKEN.encode(), b""))
    assert YES not in repr(vendor._callback(url, YES, anywhere=False))


# Numbers that are answered as they say


def said_by_page(number: str, **differences: str) -> dict[str, str]:
    """The page's own example."""
    return {
        "number": number,
        "whatsapp": "yes",
        "status_update": "20180825",
        "signature": "Saya suka global",
        "business_user": "no",
        "avatar": "yes",
    } | differences


def without_more(whatsapp: str) -> Callable[[str], dict[str, str]]:
    return lambda number: {"number": number, "whatsapp": whatsapp}


Expected = tuple[str, Any, bool]
"""Status, message (or what makes it of the number), and whether it is charged."""

WHOLE_ANSWER: Expected = ("OK", said_by_page, True)
CHECKING: Expected = ("OK", without_more("checking"), False)
BUSY: Expected = ("RETRY_LATER", vendor._BUSY, False)

ENVELOPES: dict[str, list[Expected]] = {
    "yes": [WHOLE_ANSWER] * 2,
    "business": [("OK", lambda number: said_by_page(number, business_user="yes"), True)],
    "no": [("OK", without_more("no"), True)] * 2,
    "bare": [("OK", without_more("yes"), True)],
    "hostile": [("OK", lambda number: said_by_page(number, signature=HOSTILE), True)],
    "checking-twice": [CHECKING, CHECKING, WHOLE_ANSWER, WHOLE_ANSWER],
    "checking-20-seconds": [CHECKING] * 5,
    "checking-for-ever": [CHECKING] * 5,
    "unavailable": [BUSY] * 3,
    "unavailable-once": [BUSY, WHOLE_ANSWER],
    "callback-once": [WHOLE_ANSWER],
    "callback-twice": [WHOLE_ANSWER],
    "callback-late": [WHOLE_ANSWER],
    "callback-never": [WHOLE_ANSWER],
    "callback-stranger": [WHOLE_ANSWER],
    "callback-unescaped": [WHOLE_ANSWER],
    "callback-no": [("OK", without_more("no"), True)],
    "invalid-input": [("INVALID_INPUT", "error message", False)] * 2,
    "fail": [("FAIL", "error message", False)] * 2,
    "retry-later": [BUSY] * 3,
    "retry-later-once": [BUSY, WHOLE_ANSWER, WHOLE_ANSWER],
    "retry-later-twice": [BUSY, BUSY, WHOLE_ANSWER],
    "unknown-status": [("QUOTA_EXCEEDED", "error message", False)],
    "unfitting": [("OK", "nothing that fits", True)],
    "unknown-word": [("OK", without_more("maybe"), True)],
}

PLAIN: dict[str, list[tuple[int, str | None]]] = {
    "http-401": [(401, None)] * 2,
    "http-403": [(403, None)],
    "http-404": [(404, None)],
    "http-429": [(429, "1")] * 2,
    "http-429-once": [(429, "1"), (200, None)],
    "http-500": [(500, None)],
    "http-502": [(502, None)],
    "http-502-charged": [(502, None)],
    "http-503": [(503, None)] * 2,
    "http-503-once": [(503, "1"), (200, None)],
    "http-504": [(504, None)],
}

# What the wire does is tested with the faults that do it.
BY_FAULT = {
    "hang": "hang",
    "reset-after": "reset-after",
    "reset-middle": "reset-middle",
    "drip": "drip",
    "garbage": "garbage",
    "not-json": "not-json",
    "truncated": "truncated",
    "huge": "huge",
    "content-type": "content-type",
    "reset-after-once": "reset-after",
}


def test_every_magic_number_is_tested() -> None:
    assert {*ENVELOPES, *PLAIN, *BY_FAULT} == set(MAGIC_NUMBERS)
    assert all(re.fullmatch("[0-9]{3}", magic.code) for magic in MAGIC_NUMBERS.values())


@pytest.mark.parametrize("name", ENVELOPES)
@pytest.mark.parametrize("country", ["ID", "PH", "IN", "VN"])
async def test_magic_numbers_are_answered_by_their_name(
    sandbox: Sandbox, client: httpx.AsyncClient, name: str, country: str
) -> None:
    number = sandbox.number(name, country=country)
    for status, message, charged in ENVELOPES[name]:
        before = sandbox.bill.charged
        assert await ask(client, "gliswadetail", number=number) == (
            status,
            message(number) if callable(message) else message,
        )
        assert sandbox.bill.charged - before == charged


@pytest.mark.parametrize("name", PLAIN)
async def test_magic_numbers_are_refused_without_an_envelope(
    sandbox: Sandbox, client: httpx.AsyncClient, name: str
) -> None:
    for code, retry_after in PLAIN[name]:
        answer = await client.post(
            "/v1/gliswadetail", params={"token": TOKEN}, data={"number": sandbox.number(name, country="PH")}
        )
        assert (answer.status_code, answer.headers.get("retry-after")) == (code, retry_after)
        assert answer.text.startswith("{") == (code == 200)
    charged = name.endswith("-charged") or PLAIN[name][-1][0] == 200
    assert sandbox.bill.charged == charged
    assert sandbox.bill.delivered.charged == (charged and not name.endswith("-charged"))


@pytest.mark.parametrize("name", BY_FAULT)
async def test_magic_numbers_have_their_faults(sandbox: Sandbox, name: str) -> None:
    request = vendor.Request(
        "POST", "/v1/gliswadetail", b"token=" + TOKEN.encode(), b"number=%2B" + sandbox.number(name)[1:].encode()
    )
    answer = await sandbox.answer(request)
    assert answer.fault is not None
    assert (answer.fault.kind, answer.charge) == (BY_FAULT[name], Charge.CHARGED)
    again = (await sandbox.answer(request)).fault
    assert (again is None) == name.endswith("-once")


async def test_a_magic_number_that_is_lost_once_is_charged_twice(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    form = {"number": sandbox.number("reset-after-once")}
    with pytest.raises(httpx.ReadError):
        await client.post("/v1/gliswadetail", params={"token": TOKEN}, data=form)
    assert (await ask(client, "gliswadetail", **form))[0] == "OK"
    assert (sandbox.bill.charged, sandbox.bill.delivered.charged) == (2, 1)


@pytest.mark.parametrize(
    ("spelling", "country"),
    [
        ("+6281200000002", ""),
        ("006281200000002", ""),
        ("6281200000002", ""),
        ("081200000002", "ID"),
        ("81200000002", "id"),
        ("+62 (812) 0000-0002", "PH"),
        ("+639170000002", ""),
        ("00639170000002", "VN"),
        ("639170000002", "PH"),
        ("09170000002", "PH"),
        ("9170000002", "PH"),
        ("+919000000002", ""),
        ("919000000002", ""),
        ("9000000002", "IN"),
        ("09000000002", "IN"),
        ("+84900000002", ""),
        ("0084900000002", ""),
        ("0900000002", "VN"),
        ("900000002", "VN"),
    ],
)
async def test_magic_numbers_in_any_spelling(client: httpx.AsyncClient, spelling: str, country: str) -> None:
    _, message = await ask(client, "gliswadetail", number=spelling, country=country)
    assert message["whatsapp"] == "no"
    assert message["number"] in {magic_number("no", country=each) for each in ("ID", "PH", "IN", "VN")}


async def test_other_numbers_are_like_any_other(client: httpx.AsyncClient) -> None:
    for number in ("+6281200000777", "+62812000000022", "+6281200001002", "+649170000002"):
        _, message = await ask(client, "gliswadetail", number=number)
        expected = vendor._profile(number)
        assert message in (expected, {"number": number, "whatsapp": "checking"})


def test_names_that_no_magic_number_has() -> None:
    with pytest.raises(ValueError, match="did you mean 'checking-twice'"):
        magic_number("checking-twise")
    with pytest.raises(ValueError, match="MAGIC_NUMBERS lists them"):
        magic_number("")
    with pytest.raises(ValueError, match="there are some in ID, PH, IN, VN"):
        magic_number("yes", country="DE")


async def test_checking_ends_by_the_clock() -> None:
    async with Sandbox(clock=Clock(ticking=False)) as sandbox, client_of(sandbox) as client:
        number = sandbox.number("checking-20-seconds")
        sandbox.clock.advance(1000)
        for seconds in (0, 10, 9.9):
            sandbox.clock.advance(seconds)
            assert (await ask(client, "gliswadetail", number=number))[1]["whatsapp"] == "checking"
        sandbox.clock.advance(0.1)
        assert await ask(client, "gliswadetail", number=number) == ("OK", said_by_page(number))


@pytest.mark.parametrize("callback", ["", "http://127.0.0.1:1/"])
async def test_unavailable_is_said_where_it_is_asked_for(
    sandbox: Sandbox, client: httpx.AsyncClient, callback: str
) -> None:
    number = sandbox.number("unavailable")
    said = await ask(client, "gliswadetail", number=number, servstatus="y", callback=callback)
    assert said == ("OK", {"number": number, "whatsapp": "unavailable"})
    assert (await ask(client, "gliswadetail", number=number, servstatus="n", callback=callback))[0] == "RETRY_LATER"
    assert not sandbox.outstanding
    assert sandbox.bill == bill(gliswadetail=(0, 2))


def called(heads: list[str]) -> list[dict[str, str]]:
    return [dict(parse_qsl(head.split(" ")[1].partition("?")[2])) for head in heads]


@pytest.mark.parametrize("name", ["callback-once", "callback-twice", "callback-no", "yes", "checking-twice", "hostile"])
async def test_magic_numbers_are_called_back(sandbox: Sandbox, client: httpx.AsyncClient, name: str) -> None:
    number = sandbox.number(name)
    async with receiver() as (url, heads):
        said = await ask(client, "gliswadetail", number=number, callback=url)
        assert said == ("OK", {"number": number, "whatsapp": "checking"})
        await settled(sandbox)
    message = {"callback-no": {"number": number, "whatsapp": "no"}, "hostile": said_by_page(number, signature=HOSTILE)}
    assert called(heads) == [message.get(name, said_by_page(number))] * (2 if name == "callback-twice" else 1)
    assert not any(control in head.split("\r\n")[0] for head in heads for control in "\x1b\n<")
    # Charged once, however often it is said.
    assert sandbox.bill == bill(gliswadetail=(1, 1))
    assert sandbox.bill.by_callback == bill(gliswadetail=(1, 0))
    assert [(entry.by, entry.charge, entry.delivered) for entry in sandbox.bill.entries] == [
        ("request", Charge.FREE, True),
        ("callback", Charge.CHARGED, True),
    ]


async def test_a_late_callback_waits_for_the_clock_and_one_that_never_comes_for_ever() -> None:
    async with (
        Sandbox(clock=Clock(ticking=False), callback_delay=5) as sandbox,
        client_of(sandbox) as client,
        receiver() as (url, heads),
    ):
        late, never, slow = (
            sandbox.number(f"{name}") for name in ("callback-late", "callback-never", "checking-20-seconds")
        )
        for number in (late, never, slow, sandbox.number("checking-for-ever")):
            await ask(client, "gliswadetail", number=number, callback=url)
        assert [(each.number, each.due) for each in sandbox.outstanding][:3] == [(late, 65), (never, None), (slow, 25)]
        assert late not in repr(sandbox.outstanding)
        sandbox.clock.advance(24)
        assert sandbox.bill.charged == 0
        sandbox.clock.advance(1)
        while len(sandbox.callbacks) < 1:
            await asyncio.sleep(0)
        sandbox.clock.advance(40)
        while len(sandbox.callbacks) < 2:
            await asyncio.sleep(0)
        sandbox.clock.advance(1e6)
        assert called(heads) == [said_by_page(slow), said_by_page(late)]
        assert [each.number for each in sandbox.outstanding] == [never, sandbox.number("checking-for-ever")]
        assert sandbox.bill == bill(gliswadetail=(2, 4))
        assert [entry.at for entry in sandbox.bill.entries if entry.by == "callback"] == [25, 65]


async def test_a_callback_for_a_stranger_comes_first_and_is_not_charged(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    number = sandbox.number("callback-stranger")
    async with receiver() as (url, heads):
        await ask(client, "gliswadetail", number=number, callback=url)
        await settled(sandbox)
    assert called(heads) == [said_by_page(f"{number[:-3]}999"), said_by_page(number)]
    assert sandbox.bill == bill(gliswadetail=(1, 1))


async def test_a_callback_whose_plus_is_not_escaped(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    number = sandbox.number("callback-unescaped")
    async with receiver() as (url, heads):
        await ask(client, "gliswadetail", number=number, callback=url)
        await settled(sandbox)
    assert f"?number={number}&" in heads[0]
    assert called(heads) == [said_by_page(f" {number[1:]}")]


async def test_a_callback_that_fails_is_charged_and_not_delivered(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    await ask(client, "gliswadetail", number=YES, callback="http://127.0.0.1:1/")
    await settled(sandbox)
    assert sandbox.bill == bill(gliswadetail=(1, 1))
    assert sandbox.bill.delivered == bill(gliswadetail=(0, 1))


# Pictures that are answered as they say


PERSON, OTHER = images.person("alice"), images.person("bob")

SAME, NOT_SAME = {"similarity": 97.501, "result": "SAME PERSON"}, {"similarity": 27.501, "result": "NOT SAME PERSON"}

ONE_PICTURE = {
    "person": PERSON,
    "nobody": images.nobody(),
    "two people": images.two_people(),
    "holding": images.holding("alice"),
    "another's card": images.holding("alice", "bob"),
    "not sure": images.similarity(50.501),
    "too large": images.too_large(),
    "no face": images.status("FACE_DETECT_FAILED"),
    "unknown": images.status("QUOTA_EXCEEDED"),
    "invalid": images.status("INVALID_REQUEST"),
    "unfitting": images.unfitting(),
}


@pytest.mark.parametrize("name", [*ONE_PICTURE, "retry", "fault"])
def test_tagged_pictures_are_small_valid_jpegs_of_one_colour(name: str) -> None:
    picture = {"retry": images.retry_once(), "fault": images.fault("hang")}.get(name) or ONE_PICTURE[name]
    assert len(picture) < 1000 or name == "too large"
    image = Image.open(BytesIO(picture))
    image.load()
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 128))
    assert len(image.getcolors() or ()) == 1
    assert (len(picture) > images.LARGEST_IMAGE) == (name == "too large")


@settings(max_examples=100, deadline=None)
@example(levels=(128, 255, 128))  # the byte that marks segments, in the midst of the scan
@given(levels=st.tuples(*[st.integers(0, 255)] * 3))
def test_every_flat_colour_is_a_valid_jpeg(levels: tuple[int, int, int]) -> None:
    image = Image.open(BytesIO(images._flat_jpeg(*levels)))
    image.draft("YCbCr", image.size)
    assert image.getcolors() == [(128 * 128, levels)]


def test_pictures_of_one_name_are_the_same_and_of_two_are_not() -> None:
    assert PERSON == images.person("alice") != OTHER
    colours = {Image.open(BytesIO(images.person(f"{n}"))).convert("RGB").getpixel((5, 5)) for n in range(50)}
    assert len(colours) > 25


@pytest.mark.parametrize(
    ("img1", "img2", "said"),
    [
        (PERSON, PERSON, ("OK", SAME)),
        (PERSON, images.holding("alice"), ("OK", SAME)),
        (PERSON, OTHER, ("OK", NOT_SAME)),
        (PERSON, images.similarity(50.501), ("OK", {"similarity": 50.501, "result": "NOT SURE"})),
        (images.similarity(0), PERSON, ("OK", {"similarity": 0.0, "result": "NOT SAME PERSON"})),
        (PERSON, FIRST, ("OK", NOT_SAME)),
        (FIRST, images.similarity(100), ("OK", {"similarity": 100.0, "result": "SAME PERSON"})),
        (images.nobody(), PERSON, ("RETRY_LATER", "IMAGEA_FACE_DETECT_FAILED")),
        (PERSON, images.nobody(), ("RETRY_LATER", "IMAGEB_FACE_DETECT_FAILED")),
        (FIRST, images.nobody(), ("RETRY_LATER", "IMAGEB_FACE_DETECT_FAILED")),
        (PERSON, images.too_large(), ("IMAGE_INVALID_SIZE", "image larger than 2M")),
        (images.status("INVALID_REQUEST"), PERSON, ("INVALID_REQUEST", "error message")),
        (PERSON, images.status("RETRY_LATER"), ("RETRY_LATER", vendor._BUSY)),
        (images.nobody(), images.status("QUOTA_EXCEEDED"), ("QUOTA_EXCEEDED", "error message")),
        (PERSON, images.unfitting(), ("OK", "nothing that fits")),
    ],
)
async def test_tagged_pictures_are_compared(
    sandbox: Sandbox, client: httpx.AsyncClient, img1: bytes, img2: bytes, said: tuple[str, Any]
) -> None:
    form = "&".join(f"{name}={quote(b64(image), safe='')}" for name, image in (("img1", img1), ("img2", img2)))
    answer = await client.post(f"/v1/facecompare?token={TOKEN}", content=form)
    assert answer.json() == {"status": said[0], "message": said[1]}
    charged = said[0] == "OK"
    assert sandbox.bill == bill(facecompare=(int(charged), int(not charged)))


SINGLE: dict[str, dict[str, tuple[str, Any]]] = {
    "idholding": {
        "person": ("INVALID_FACE_NUM", "1 faces found"),
        "nobody": ("INVALID_FACE_NUM", "0 faces found"),
        "two people": ("INVALID_FACE_NUM", "2 faces found"),
        "holding": ("OK", SAME),
        "another's card": ("OK", NOT_SAME),
        "not sure": ("OK", {"similarity": 50.501, "result": "NOT SURE"}),
        "too large": ("IMAGE_INVALID_SIZE", "image larger than 2M"),
        "no face": ("FACE_DETECT_FAILED", []),
        "unknown": ("QUOTA_EXCEEDED", "error message"),
        "invalid": ("INVALID_REQUEST", "error message"),
        "unfitting": ("OK", "nothing that fits"),
    },
    "searchface": {
        "person": ("OK", []),
        "nobody": ("FACE_DETECT_FAILED", []),
        "two people": ("OK", []),
        "too large": ("FAIL", "image larger than 2M"),
        "no face": ("FACE_DETECT_FAILED", []),
        "unknown": ("QUOTA_EXCEEDED", "error message"),
        "unfitting": ("OK", "nothing that fits"),
    },
    "addface": {
        "too large": ("FAIL", "image larger than 2M"),
        "unknown": ("QUOTA_EXCEEDED", "error message"),
        "unfitting": ("OK", "nothing that fits"),
    },
}


@pytest.mark.parametrize(("endpoint", "name"), [(endpoint, name) for endpoint in SINGLE for name in SINGLE[endpoint]])
async def test_tagged_pictures_are_answered_as_they_say(
    sandbox: Sandbox, client: httpx.AsyncClient, endpoint: str, name: str
) -> None:
    status, message = SINGLE[endpoint][name]
    form = f"img={quote(b64(ONE_PICTURE[name]), safe='')}"
    answer = await client.post(f"/v1/{endpoint}?token={TOKEN}", content=form)
    assert answer.json() == {"status": status, "message": message}
    charged = status == "OK" and endpoint != "addface"
    assert sandbox.bill == bill(**{endpoint: (int(charged), int(not charged))})


async def test_tagged_people_are_added_found_and_deleted(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    _, alice = await ask(client, "addface", img=b64(PERSON))
    _, bob = await ask(client, "addface", img=b64(OTHER))
    _, again = await ask(client, "addface", img=b64(images.holding("alice", "bob")))
    assert again == alice | {"person_count": 2}
    _, stranger = await ask(client, "addface", img=b64(FIRST))
    assert len({alice["person_id"], bob["person_id"], stranger["person_id"]}) == 3
    found = [{"confidence": 97.501, "person_id": alice["person_id"]}]
    assert await ask(client, "searchface", img=b64(PERSON)) == ("OK", found)
    _, matches = await ask(client, "searchface", img=b64(images.similarity(81.25)))
    assert {match["confidence"] for match in matches} == {81.25}
    assert len(matches) == 3
    status, nobody = await ask(client, "addface", img=b64(images.nobody()))
    assert (status, nobody["person_count"]) == ("FACE_DETECT_FAILED", 0)
    assert sandbox.faces == {alice["group_id"]: {alice["person_id"]: 2, bob["person_id"]: 1, stranger["person_id"]: 1}}
    assert await ask(client, "delface", person_id=bob["person_id"]) == ("OK", None)
    assert await ask(client, "searchface", img=b64(OTHER)) == ("OK", [])


@pytest.mark.parametrize("endpoint", ["facecompare", "idholding", "addface", "searchface"])
async def test_a_picture_may_be_for_later_once(client: httpx.AsyncClient, endpoint: str) -> None:
    image = b64(images.retry_once("alice"))
    form = {"img1": image, "img2": b64(PERSON)} if endpoint == "facecompare" else {"img": image}
    assert await ask(client, endpoint, **form) == ("RETRY_LATER", vendor._BUSY)
    for _ in range(2):
        expected = "INVALID_FACE_NUM" if endpoint == "idholding" else "OK"
        assert (await ask(client, endpoint, **form))[0] == expected


@pytest.mark.parametrize("endpoint", ["facecompare", "idholding", "addface", "searchface"])
async def test_a_picture_may_go_wrong(sandbox: Sandbox, client: httpx.AsyncClient, endpoint: str) -> None:
    image = b64(images.fault("http-502,billed=yes"))
    form = {"img1": b64(PERSON), "img2": image, "img": image}
    answer = await client.post(f"/v1/{endpoint}", params={"token": TOKEN}, data=form)
    assert answer.status_code == 502
    assert sandbox.bill.charged == (endpoint != "addface")


async def test_the_comment_is_lost_where_a_picture_is_encoded_anew(client: httpx.AsyncClient) -> None:
    again = encoded(Image.open(BytesIO(PERSON)), comment=b"")
    assert await ask(client, "searchface", img=b64(again)) == ("FACE_DETECT_FAILED", [])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_no_comment_does_anything_but_be_ignored(comment: bytes) -> None:
    for said in (comment, images._MARK + comment, images._MARK + b"fault " + comment, images._MARK + b"similarity nan"):
        picture = b"\xff\xd8\xff\xfe" + (len(said) + 2).to_bytes(2) + said + FLAT[2:]
        tagged = images.read(picture)
        assert tagged is None or tagged.similarity is None or 0 <= tagged.similarity <= 100
        images.read(picture[: len(said)])


def test_names_that_no_picture_can_have() -> None:
    for wrong in ("", "a/b", "x" * 65, "ü", "a\nb", "<b>"):
        for make in (images.person, images.status, images.retry_once, images.holding):
            with pytest.raises(ValueError, match="no name here"):
                make(wrong)
    for score in (-1, 101, float("nan")):
        with pytest.raises(ValueError, match="0 to 100"):
            images.similarity(score)
    for fault in ("nothing", "latency,seconds=1", "capacity,per_second=1", "reset-before"):
        with pytest.raises(ValueError, match="fault"):
            images.fault(fault)


async def test_pictures_and_numbers_are_had_over_http(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    for path, picture in (
        ("person/alice", PERSON),
        ("person/alice.jpg", PERSON),
        ("nobody.jpg", images.nobody()),
        ("holding/alice/bob", images.holding("alice", "bob")),
        ("two-people", images.two_people()),
        ("similarity/50.501", images.similarity(50.501)),
        ("status/FAIL", images.status("FAIL")),
        ("retry-once/alice", images.retry_once("alice")),
        ("unfitting", images.unfitting()),
        ("too-large", images.too_large()),
        ("fault/http-502%2Cbilled=yes", images.fault("http-502,billed=yes")),
    ):
        answer = await client.get(f"/_sandbox/images/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.content == picture
    numbers_shown = (await client.get("/_sandbox/numbers")).json()
    assert set(numbers_shown) == set(MAGIC_NUMBERS)
    assert numbers_shown["no"]["numbers"]["VN"] == magic_number("no", country="VN")


# From the beginning again


async def test_reset_makes_it_as_it_was_when_it_was_started() -> None:
    first = Fault("latency", seconds=100, endpoint="delface")
    async with (
        Sandbox(clock=Clock(ticking=False), faults=[first]) as sandbox,
        client_of(sandbox) as client,
        receiver() as (url, heads),
    ):
        await ask(client, "addface", img=b64(PERSON))
        await ask(client, "gliswadetail", number=sandbox.number("checking-twice"))
        await ask(client, "gliswadetail", number=SLOW)
        await ask(client, "addface", img=b64(images.retry_once()))
        await ask(client, "gliswadetail", number=sandbox.number("callback-late"), callback=url)
        await ask(client, "gliswadetail", number=YES, callback="http://127.0.0.1:1/")
        while not sandbox.callbacks:
            await asyncio.sleep(0)
        sandbox.faults.add(Fault("hang", endpoint="searchface"))
        sandbox.whatsapp_available = False
        held = [
            asyncio.create_task(client.post(f"/v1/{endpoint}?token={TOKEN}", data={"img": b64(PERSON)}))
            for endpoint in ("delface", "searchface")
        ]
        while sandbox.requests.total() < 8:
            await asyncio.sleep(0)
        sandbox.clock.advance(30)
        # Held by reference, as tests do.
        its_bill, its_faults = sandbox.bill, sandbox.faults
        assert sandbox.outstanding
        sandbox.reset()
        assert not sandbox.outstanding
        for task in held:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await task
        sandbox.clock.advance(1000)
        await settled(sandbox)
        assert its_bill is sandbox.bill
        assert its_bill == its_bill.delivered == its_bill.by_callback == Tally()
        assert (len(its_bill.entries), sandbox.requests, len(sandbox.callbacks), sandbox.outstanding) == (0, {}, 0, ())
        assert [*its_faults] == [first]
        assert its_faults.hits(first) == 0
        assert [*sandbox.faces.values()] == [{}]
        assert sandbox.whatsapp_available
        assert heads == []
        # It knows of nothing that was asked.
        for number in (sandbox.number("checking-twice"), SLOW):
            assert (await ask(client, "gliswadetail", number=number))[1]["whatsapp"] == "checking"
        assert (await ask(client, "addface", img=b64(images.retry_once())))[0] == "RETRY_LATER"
        assert await ask(client, "searchface", img=b64(PERSON)) == ("OK", [])
        assert sandbox.bill == bill(gliswadetail=(0, 2), addface=(0, 1), searchface=(1, 0))


async def test_delays_below_nothing_are_refused() -> None:
    for options in ({"callback_timeout": -1}, {"callback_delay": -0.1}):
        with pytest.raises(ValueError, match="0 or more"):
            Sandbox(**options)
