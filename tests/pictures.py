"""Pictures of several kinds, made on the spot, as the sandbox tells people apart."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from aisolution_async.sandbox import images
from aisolution_async.sandbox.faces import Face, Faces


def portrait(seed: int, size: tuple[int, int] = (240, 300)) -> Image.Image:
    """A head and shoulders, always in the same place."""
    return _portrait(seed, size).copy()


@lru_cache(maxsize=64)
def _portrait(seed: int, size: tuple[int, int]) -> Image.Image:
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


def found(image: Image.Image, **options: Any) -> Face:
    face = Faces().find(encoded(image, **options))
    assert face is not None
    return face


PERSON, OTHER = images.person("alice"), images.person("bob")
