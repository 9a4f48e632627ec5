"""Photos made to fit: small, upright, without metadata; or refused in one line, whatever the file is."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aisolution_async import ConfigurationError, InputError
from aisolution_async.inputs.fit import TARGET, Fitter, fit

from .support import examples, picture

RED, BLUE = (220, 20, 20), (20, 20, 220)
GPS = b"GPS-OF-A-HOME"


def saved(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    if form == "HEIF":
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(image).save(out, **options)
    else:
        image.save(out, form, **options)
    return out.getvalue()


def halves(size: tuple[int, int] = (1200, 900), mode: str = "RGB") -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, size[1] // 2, *size))
    return image.convert(mode)


def exif(turn: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = turn
    found[0x010F] = GPS.decode()
    found.get_ifd(0x8825)[1] = "S"
    return found


@functools.cache
def noise(size: tuple[int, int], *, turn: int = 1) -> bytes:
    """A JPEG as hard to compress as there is."""
    image = Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1]))
    return saved(image, quality=92, exif=exif(turn))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def refused(data: Any, **options: Any) -> str:
    with pytest.raises(InputError, match="^img1 ") as caught:
        fit(data, name="img1", **options)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_what_fits_already_is_not_touched(form: str) -> None:
    data = saved(halves((400, 300)), form)
    assert fit(data, name="img1") is data or fit(data, name="img1") == data


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"comment": GPS}),
        ("MPO", {}),
        ("PNG", {}),
        ("WEBP", {}),
        ("HEIF", {}),
        ("AVIF", {}),
        ("TIFF", {"compression": "raw"}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"compression": "packbits", "save_all": True, "append_images": [halves((50, 40))]}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("compression", ""),
)
def test_every_orientation_comes_out_upright(form: str, options: dict[str, Any], turn: int) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = halves((400, 300))
    upright.paste((20, 220, 20), (0, 0, 100, 150))  # the left of the upper half, to tell mirrors apart
    turned = upright.transpose(back[turn]) if turn in back else upright
    tags = Image.Exif()
    tags[0x0112] = turn
    image = opened(fit(saved(turned, form, exif=tags.tobytes(), **options), name="img1"))
    assert image.size == (400, 300)
    for at, colour in (((30, 30), (20, 220, 20)), ((360, 30), RED), ((200, 260), BLUE)):
        found = image.convert("RGB").getpixel(at)
        assert isinstance(found, tuple)
        assert all(abs(a - b) < 30 for a, b in zip(found, colour, strict=True)), (turn, at, found)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_metadata_are_dropped(form: str) -> None:
    options: dict[str, Any] = {"exif": exif(6).tobytes()}
    if form == "JPEG":
        options |= {"comment": GPS, "xmp": b"<x:xmpmeta>" + GPS}
    data = saved(halves(), form, **options)
    assert GPS in data
    fitted = fit(data, name="img1")
    assert GPS not in fitted
    assert not opened(fitted).getexif()
    # A HEIC's own container says which way is up, and its EXIF does not count.
    assert opened(fitted).format == "JPEG"


def test_a_phones_photo_is_made_smaller() -> None:
    data = noise((4032, 3024), turn=6)
    assert len(data) > 8_000_000
    image = opened(fitted := fit(data, name="img1"))
    assert len(fitted) <= TARGET
    assert 800 <= image.height <= 2016
    assert abs(image.height / image.width - 4032 / 3024) < 0.01


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("TIFF", "RGB"),
        ("TIFF", "CMYK"),
        ("TIFF", "1"),
        ("TIFF", "F"),
        ("TIFF", "I;16"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("PNG", "I;16"),
        ("PNG", "1"),
        ("HEIF", "RGB"),
        ("AVIF", "RGB"),
    ],
)
def test_every_format_and_mode(form: str, mode: str) -> None:
    image = halves(mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.frombytes("I;16", image.size, b"".join(bytes((0, value)) for value in image.tobytes()))
    if form in ("JPEG", "PNG"):  # else they would stay as they are
        data = saved(image.transpose(Image.Transpose.ROTATE_180), form, exif=exif(3).tobytes())
    else:
        data = saved(image, form)
    fitted = opened(fit(data, name="img1"))
    assert fitted.format == "JPEG"
    assert fitted.mode in ("RGB", "L")
    assert max(fitted.size) == 1200
    shown = fitted.convert("L")
    upper, lower = shown.getpixel((600, 200)), shown.getpixel((600, 700))
    assert isinstance(upper, int | float)
    assert isinstance(lower, int | float)
    assert 5 < upper < 130 or mode == "1"
    assert lower < upper or mode == "1"


def tiff(values: Sequence[float], code: str, *, kind: int, white_is_zero: bool = False) -> bytes:
    """A line of grey pixels, written by hand: Pillow writes none of some kinds."""
    data = struct.pack(f"<{len(values)}{code}", *values)
    tags = {256: len(values), 257: 1, 258: 8 * struct.calcsize(code), 259: 1, 262: 0 if white_is_zero else 1, 273: 0}
    tags |= {277: 1, 278: 1, 279: len(data), 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + data


UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@pytest.mark.parametrize(
    ("low", "white", "code", "kind"),
    [
        (0, 1, "f", FLOAT),
        (0, 1.02, "f", FLOAT),
        (0, 255, "f", FLOAT),
        (0, 65535, "f", FLOAT),
        (-1, 1, "f", FLOAT),
        (0, 65535, "H", UNSIGNED),
        (0, 4095, "H", UNSIGNED),
        (0, 255, "H", UNSIGNED),
        (-32768, 32767, "h", SIGNED),
        (0, 2**31 - 1, "i", SIGNED),
        (0, 255, "i", SIGNED),
    ],
)
def test_grey_of_any_range_is_seen(low: float, white: float, code: str, kind: int) -> None:
    values = [low + (white - low) * (at // 8 / 7) for at in range(64)]
    data = tiff(values if code == "f" else list(map(int, values)), code, kind=kind)
    shown = opened(fit(data, name="img1"))
    assert all(abs(int(value) - at // 8 / 7 * 255) < 12 for at, value in enumerate(shown.tobytes()))


@pytest.mark.parametrize("outlying", [1.5, 300, 70_000, 1e9, -5])
def test_floats_up_to_one_are_seen_whatever_a_single_pixel_is(outlying: float) -> None:
    values = [at // 8 / 7 for at in range(64)] * 4
    shown = opened(fit(tiff([*values[:-1], max(outlying, 300), *values, outlying], "f", kind=FLOAT), name="img1"))
    assert all(abs(value - at % 64 // 8 / 7 * 255) < 12 for at, value in enumerate(shown.tobytes()[:192]))


@pytest.mark.parametrize("white", [255, 65535])
@pytest.mark.parametrize("step", [1, 0.25])
def test_floats_of_a_larger_range_that_are_dark_for_the_most_part_stay_dark(white: float, step: float) -> None:
    data = tiff([step * (at % 2) for at in range(240)] + [white / 2] * 8 + [white] * 8, "f", kind=FLOAT)
    shown = opened(fit(data, name="img1")).tobytes()
    assert max(shown[:230]) < 12
    assert abs(shown[244] - 127) < 12


def test_grey_whose_zero_is_white() -> None:
    shown = opened(fit(tiff([0] * 32 + [65535] * 32, "H", kind=UNSIGNED, white_is_zero=True), name="img1"))
    assert shown.getpixel((4, 0)) == 255
    assert shown.getpixel((60, 0)) == 0


@pytest.mark.parametrize("value", [0, 3, float("nan"), float("inf")])
def test_grey_that_is_one_value_or_none(value: float) -> None:
    data = tiff([value] * 64, "f", kind=FLOAT)
    if value in (0, 3):
        assert fit(data, name="img1")
    else:
        assert "no image that can be read" in refused(data)


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (1000, 800), (0, 0, 0, 0))
    fitted = opened(fit(saved(image, "WEBP", lossless=True), name="img1"))
    assert fitted.getpixel((500, 400)) == (255, 255, 255)


def test_a_small_photo_keeps_its_size() -> None:
    data = noise((500, 400), turn=3)
    assert opened(fit(data, name="img1")).size == (500, 400)


def test_not_to_be_had_in_so_few_bytes() -> None:
    assert "does not fit into 20000 bytes with 800 pixels" in refused(noise((1600, 1200)), target=20_000)
    with pytest.raises(ConfigurationError, match="target"):
        fit(b"", name="img1", target=0)


def test_a_colour_profile_is_kept_and_a_large_one_is_not() -> None:
    small = opened(fit(saved(halves(), icc_profile=bytes(500), exif=exif(3)), name="img1"))
    large = opened(fit(saved(halves(), icc_profile=bytes(50_000), exif=exif(3)), name="img1"))
    assert small.info.get("icc_profile") == bytes(500)
    assert "icc_profile" not in large.info


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_are_refused(form: str) -> None:
    frames = [opened(picture(n)) for n in range(3)]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:])
    assert "is animated: send one picture" in refused(data)


@pytest.mark.parametrize("workers", [0, 1])
async def test_the_first_of_several_pages_is_taken_with_a_word(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    data = saved(halves((400, 300)), "TIFF", save_all=True, append_images=[opened(picture(1)), opened(picture(2))])
    async with Fitter(workers=workers) as fitter:
        assert opened(await fitter.fit(data, name="img1")).size == (400, 300)
        assert caplog.messages == ["img1 has 3 pages: the first one is sent"]
        assert opened(await fitter.fit(sample("TIFF"), name="img1"))
    assert len(caplog.messages) == 1


def test_a_damaged_second_page_does_not_matter() -> None:
    data = saved(halves((400, 300)), "TIFF", save_all=True, append_images=[opened(picture(1))])
    assert opened(fit(data[:-20], name="img1")).size == (400, 300)


def test_a_phones_mpo_is_a_still() -> None:
    frames = [halves(), opened(picture(2))]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:], exif=exif(3))
    assert opened(fit(data, name="img1")).size == (1200, 900)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "HEIF"])
@pytest.mark.parametrize("target", [100, TARGET])
def test_files_that_are_cut_off(form: str, target: int) -> None:
    data = saved(opened(picture(3, (800, 600))), form)
    for part in (0.3, 0.6, 0.9):
        refused(data[: int(len(data) * part)], target=target)


def test_a_small_png_with_a_damaged_middle() -> None:
    data = bytearray(saved(halves((400, 300)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert "is damaged: send the file anew" in refused(bytes(data))


def test_a_thumbnails_end_is_not_the_photos() -> None:
    found = exif(1).tobytes() + picture(1, (80, 60))
    data = saved(halves(), exif=found)
    assert fit(data, name="img1") == data
    assert "cut off" in refused(data[: int(len(data) * 0.8)])


def test_bombs_are_refused_by_their_header() -> None:
    png = saved(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(png) < 100_000
    began = time.process_time()
    assert "20000 x 20000 pixels, over the limit" in refused(png)
    assert time.process_time() - began < 1


def test_one_limit_for_what_cameras_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.inputs.fit._MOST_PIXELS", 100_000)
    lines = {refused(saved(halves((400, 300)), form)) for form in ("JPEG", "HEIF", "MPO")}
    assert len(lines) == 1
    monkeypatch.setattr("aisolution_async.inputs.fit._MOST_PIXELS", 120_000)
    for form in ("JPEG", "HEIF", "MPO"):
        assert fit(saved(halves((400, 300)), form), name="img1")


@pytest.mark.parametrize("data", [b"", b"x" * 5000, b"%PDF-1.7", b"\xff\xd8\xff", b"BM", b"GIF89a", b"RIFF1234WEBP"])
def test_what_is_no_image(data: bytes) -> None:
    refused(data)


FORMS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "HEIF", "MPO", "AVIF"]


@functools.cache
def sample(form: str) -> bytes:
    options = {"exif": exif(6).tobytes()} if form in ("JPEG", "PNG", "WEBP", "MPO", "TIFF") else {}
    return saved(opened(picture(7, (90, 70))), form, **options)


@settings(max_examples=examples(300))
@given(st.sampled_from(FORMS), st.data())
def test_no_file_does_anything_else(form: str, data: st.DataObject) -> None:
    photo = bytearray(sample(form))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(photo) - 1) | st.integers(0, min(200, len(photo) - 1)))
        photo[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]) | st.integers(0, 255))
    photo = photo[: data.draw(st.just(len(photo)) | st.integers(0, len(photo)))]
    target = data.draw(st.sampled_from([500, 3000, TARGET]))
    try:
        assert len(fit(bytes(photo), name="img1", target=target)) <= target
    except InputError as exc:
        assert len(str(exc)) < 200


def test_the_hosts_settings_are_left_alone() -> None:
    from PIL import ImageFile

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters), dict(Image.OPEN))
    fit(noise((500, 400), turn=3), name="img1")
    fit(sample("HEIF"), name="img1")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters), dict(Image.OPEN))


# ---------------------------------------------------------------------------------------------------------- Fitter


@pytest.mark.parametrize("workers", [0, 2])
async def test_many_at_once(workers: int, tmp_path: Path) -> None:
    data = noise((1000, 700), turn=6)
    (tmp_path / "a.jpg").write_bytes(data)
    sources: list[Any] = [data, tmp_path / "a.jpg", str(tmp_path / "a.jpg"), data] * 2 + [io.BytesIO(data)]
    async with Fitter(workers=workers) as fitter:
        found = await asyncio.gather(*(fitter.fit(source, name="img1") for source in sources))
        assert {opened(each).size for each in found} == {(700, 1000)}
        assert len(set(found)) == 1
        with pytest.raises(InputError, match="^img2 'nowhere.jpg' does not exist"):
            await fitter.fit(Path("nowhere.jpg"), name="img2")
        with pytest.raises(InputError, match="^img1 is no image"):
            await fitter.fit(b"\0\1" * 99, name="img1")
    with pytest.raises(ConfigurationError, match="closed"):
        await fitter.fit(data, name="img1")


async def test_workers_that_are_killed_are_replaced() -> None:
    data = noise((500, 400), turn=3)
    async with Fitter(workers=1) as fitter:
        await fitter.fit(data, name="img1")
        for wait in (True, False):
            (process,) = fitter._alive
            os.kill(process.pid, signal.SIGKILL)
            if wait:
                await process.wait()
            assert opened(await fitter.fit(data, name="img1")).size == (500, 400)


async def test_a_photo_that_kills_every_worker_is_refused_and_the_next_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fitter(workers=1) as fitter:
        start = Fitter._process

        async def doomed(self: Fitter) -> asyncio.subprocess.Process:
            process = await start(self)
            os.kill(process.pid, signal.SIGKILL)
            return process

        monkeypatch.setattr(Fitter, "_process", doomed)
        with pytest.raises(InputError, match=r"^img1 cannot be fitted: the process .* died"):
            await fitter.fit(noise((500, 400), turn=3), name="img1")
        monkeypatch.undo()
        assert await fitter.fit(noise((500, 400), turn=3), name="img1")


async def test_what_takes_too_long_is_given_up() -> None:
    async with Fitter(workers=1, timeout=0.001) as fitter:
        with pytest.raises(InputError, match=r"^img1 took more than 0.001 s"):
            await fitter.fit(noise((500, 400), turn=3), name="img1")
        (process,) = fitter._alive
        assert await process.wait() == -signal.SIGKILL


async def test_a_cancelled_photo_is_not_the_next_ones_answer() -> None:
    async with Fitter(workers=1) as fitter:
        await fitter.fit(sample("JPEG"), name="img1")
        task = asyncio.create_task(fitter.fit(noise((4032, 3024), turn=6), name="img1"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert opened(await fitter.fit(noise((500, 400), turn=3), name="img1")).size == (500, 400)
    assert not fitter._alive


SCRIPT = """
import asyncio, sys
from aisolution_async.inputs.fit import Fitter

async def main():
    fitter = Fitter(workers=2)
    await asyncio.gather(*(fitter.fit(sys.argv[1], name="img1") for _ in range(2)))
    print(*(process.pid for process in fitter._alive), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())  # and no guard
"""


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_behind(signum: int, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(sample("JPEG"))
    (tmp_path / "program.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "a.jpg")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        pids = [int(pid) for pid in program.stdout.readline().split()]
        assert len(pids) == 2
        os.killpg(program.pid, signum)
        said = program.stderr.read()
        program.wait()
    assert said.count("Traceback") <= 2  # the program's own
    assert "fit.py" not in said
    while not all(map(gone, pids)):
        time.sleep(0.02)


@pytest.mark.parametrize("options", [{"workers": -1}, {"workers": 1.5}, {"timeout": 0}, {"target": -1}])
async def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Fitter(**options)
