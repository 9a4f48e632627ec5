"""Photos of 12 megapixels made to fit: through Fitter, and by Pillow as two people use it, on two processes each."""

from __future__ import annotations

import asyncio
import functools
import io
import math
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from PIL import Image, ImageChops, ImageOps

from aisolution_async.inputs.fit import TARGET, Fitter
from benchmarks.table import print_table

SUMMARY = "Photos of 12 megapixels made to fit under 1.4 MB: Fitter, beside plain Pillow, on two processes each"

_COUNT, _QUICK_COUNT = 1000, 6
_DISTINCT = 12
_SIZE, _QUICK_SIZE = (4032, 3024), (2016, 1512)
_PROCESSES = 2


def photo(seed: int, size: tuple[int, int]) -> bytes:
    """Like a phone's: soft shapes, the sensor's grain, lying on its side, and telling where it was taken."""
    rng = random.Random(seed)
    soft = Image.frombytes("RGB", (40, 30), rng.randbytes(3600)).resize(size, Image.Resampling.BICUBIC)
    grain = Image.effect_noise(size, 16).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "S", 2: (6.0, 12.0, 30.0)})
    out = io.BytesIO()
    ImageChops.add(soft, grain, 1, -128).save(out, "JPEG", quality=88, exif=exif)
    return out.getvalue()


def plainly(path: str) -> bytes:
    """As it is mostly written: decode it all, turn it, scale it well, and find the quality that fits by halving."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((2016, 2016), Image.Resampling.LANCZOS)
    low, high, best = 30, 95, b""
    while low <= high:
        quality = (low + high) // 2
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if out.tell() <= TARGET:
            best, low = out.getvalue(), quality + 1
        else:
            high = quality - 1
    return best


def drafted(path: str) -> bytes:
    """As an expert writes it who knows these photos: libjpeg halves while it decodes, and one quality is right."""
    with Image.open(path) as opened:
        opened.draft(None, (2016, 1512))
        image = ImageOps.exif_transpose(opened)
    image.thumbnail((2016, 2016), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def main(*, quick: bool, count: int | None = None) -> None:
    """Print the table. `count` photos, of which a dozen are different."""
    count = count or (_QUICK_COUNT if quick else _COUNT)
    size = _QUICK_SIZE if quick else _SIZE
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for seed in range(min(_DISTINCT, count)):
            paths.append(str(Path(folder, f"{seed}.jpg")))
            Path(paths[-1]).write_bytes(photo(seed, size))
        mega = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1e6
        every = [paths[n % len(paths)] for n in range(count)]
        ours = asyncio.run(_through_fitter(every))
        expert = _through_pillow(drafted, every)
        # The plain way is slow, and as fast for a part of them.
        plain = _through_pillow(plainly, every[: max(math.ceil(count / 5), 2)])
    print(f"\n### fit: {SUMMARY}\n\n{count:,} JPEGs of {size[0]} x {size[1]} pixels, {mega:.1f} MB each.\n")
    rows: list[tuple[str, ...]] = [("", "photos/s", "x ours")]
    rates = {"ours: Fitter": ours, "Pillow, draft and one save": expert, "Pillow, as it is mostly written": plain}
    rows += [(name, f"{rate:.1f}", f"{rate / ours:.2f}") for name, rate in rates.items()]
    print_table(rows)
    print(f"\nAll under {TARGET:,} bytes, upright, without EXIF.")


async def _through_fitter(paths: list[str]) -> float:
    async with Fitter(workers=_PROCESSES) as fitter:
        await asyncio.gather(*(fitter.fit(Path(paths[0]), name="img") for _ in range(_PROCESSES)))  # to start them
        todo, began = iter(paths), time.perf_counter()

        async def some() -> None:
            for path in todo:
                _check(await fitter.fit(Path(path), name="img"))

        await asyncio.gather(*(some() for _ in range(_PROCESSES * 2)))
        return len(paths) / (time.perf_counter() - began)


def _through_pillow(fit: Callable[[str], bytes], paths: list[str]) -> float:
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(fit, paths[:_PROCESSES]))
        began = time.perf_counter()
        for data in pool.map(fit, paths):
            _check(data)
        return len(paths) / (time.perf_counter() - began)


def _check(data: bytes) -> None:
    assert 0 < len(data) <= TARGET
    _check_once(data)


@functools.lru_cache(maxsize=64)
def _check_once(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        assert image.height > image.width, "it still lies on its side"
        assert not image.getexif(), "it still has EXIF"
