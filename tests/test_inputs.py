"""From what people have to what the API takes: images in every guise, numbers, small texts."""

from __future__ import annotations

import asyncio
import base64
import bz2
import contextlib
import errno
import gzip
import io
import lzma
import mmap
import os
import pickle
import random
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from fastapi import UploadFile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aisolution_async import InputError
from aisolution_async.inputs import images, numbers, texts

from .support import examples, picture

PHOTO = picture(1)
TEXT = base64.b64encode(PHOTO).decode()


def load(source: Any, **options: Any) -> bytes:
    image: bytes = images.load(source, name="img1", **options)
    return image


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert caught.value.__cause__ is None
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("img1")
    return line


def wrapped(text: str) -> str:
    return "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))


@pytest.mark.parametrize(
    "source",
    [
        PHOTO,
        bytearray(PHOTO),
        base64.b64encode(PHOTO),
        io.BytesIO(base64.encodebytes(PHOTO)),
        b" data:image/jpeg;base64," + base64.b64encode(PHOTO),
        memoryview(PHOTO),
        io.BytesIO(PHOTO),
        TEXT,
        TEXT.rstrip("="),
        wrapped(TEXT),
        f"  {TEXT}\n",
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:;BASE64,{wrapped(TEXT)}",
        base64.b64encode(PHOTO * 9).decode()[:-4] + base64.b64encode(PHOTO)[-4:].decode(),
    ],
)
def test_every_guise_of_an_image(source: Any) -> None:
    data = load(source)
    assert data == PHOTO or data.startswith(PHOTO)
    assert type(data) is bytes


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_base64_of_other_formats_is_known_too(form: str) -> None:
    photo = picture(2, form=form)
    assert load(base64.b64encode(photo).decode()) == photo


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "selfie of Ünal.jpg"
    file.write_bytes(PHOTO)
    assert load(file) == load(str(file)) == PHOTO
    monkeypatch.chdir(tmp_path)
    assert load(file.name) == PHOTO
    with file.open("rb") as opened:
        assert load(opened) == PHOTO
        assert "at its end" in refused(opened)


def test_text_that_could_be_both_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A short JPEG, whose base64 is a legal relative path here.
    monkeypatch.chdir(tmp_path)
    tiny = b"\x89PNG\r\n\x1a\n" + bytes(16)
    text = base64.b64encode(tiny).decode()
    assert load(text) == tiny
    Path(text).write_bytes(PHOTO)
    assert "also names a file" in refused(text)
    assert load(Path(text)) == PHOTO
    assert load(f"data:;base64,{text}") == tiny


@pytest.mark.parametrize(("why", "is_read"), [(errno.EACCES, True), (errno.EIO, False)])
def test_base64_where_the_folder_cannot_be_looked_into(
    why: int, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that was started in a folder of another's cannot mean a file there."""
    tiny = b"\x89PNG\r\n\x1a\n" + bytes(16)
    text = base64.b64encode(tiny).decode()

    def fail(*_: object, **__: object) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "stat", fail)
    if is_read:
        assert load(text) == tiny
    else:
        assert "also names a file" in refused(text)


def test_a_path_is_never_taken_for_base64() -> None:
    # Valid base64, all of them; no image's.
    for text in ("selfies1", "photos/2024/ab", "abcd", "/9j", "AAAA" * 100, "AAAA" * 20):
        assert "does not exist" in refused(text) or "neither base64 of an image nor a path" in refused(text)


def test_what_cannot_be_sent(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("I am no photo. Ich bin kein Föto.\n" * 40, encoding="utf-8")
    (tmp_path / "cut.jpg").write_bytes(b"a" * 511 + "é".encode() + b"a" * 99)
    (tmp_path / "scan.jpg").write_bytes(b"%PDF-1.7\n\xff\xfe\x00")
    (tmp_path / "huge.jpg").write_bytes(PHOTO + bytes(20_000_000))
    (tmp_path / "just.jpg").write_bytes(PHOTO + bytes(2 * 1024 * 1024 - len(PHOTO)))
    assert "empty.jpg' is empty" in refused(tmp_path / "empty.jpg")
    assert "text.jpg' is not an image but text" in refused(tmp_path / "text.jpg")
    assert "cut.jpg' is not an image but text" in refused(tmp_path / "cut.jpg")
    assert "scan.jpg' is not an image but a PDF" in refused(tmp_path / "scan.jpg")
    assert "huge.jpg' is 19.1 MiB, over the limit of 2 MiB: make the photo smaller" in refused(tmp_path / "huge.jpg")
    assert "is a directory" in refused(tmp_path)
    assert "missing.jpg' does not exist" in refused(tmp_path / "missing.jpg")
    assert len(load(tmp_path / "just.jpg")) == 2 * 1024 * 1024
    assert "over the limit of 0.5 MiB" in refused(tmp_path / "just.jpg", max_bytes=512 * 1024)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", "<w:document/>")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("selfie.jpg"))
    return out.getvalue()


def box(kind: bytes, *brands: bytes) -> bytes:
    """The beginning of an MP4 and its like."""
    return (
        (16 + 4 * len(brands[1:])).to_bytes(4, "big") + kind + brands[0] + bytes(4) + b"".join(brands[1:]) + bytes(99)
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello", "text"),
        ("Ünal, Müller\n".encode(), "text"),
        ("Ünal, Müller\n".encode("cp1252") * 60, "text"),
        ("имя,телефон\n".encode("cp1251") * 60, "text"),
        ("\ufeffid,selfie\n".encode(), "text"),
        ("id,selfie\n".encode("utf-16"), "text"),
        ("身份证\u00a0😀".encode(), "text"),
        (b"BM,selfie.jpg\n" * 9, "text"),
        (b'{"error": "not found"}', "text"),
        (b'{"error": "' + "é".encode() * 2000, "text"),
        (b"<!DOCTYPE html><html><body>502 Bad gateway", "HTML or XML"),
        (b"\r\n <HTML lang='id'>\xe9\x00", "HTML or XML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "HTML or XML"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF"),
        (b"\xef\xbb\xbf\n%PDF-1.4\n%\xe2\xe3", "a PDF"),
        (zipped(), "a ZIP or Office file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an old Office file"),
        (gzip.compress(PHOTO), "a gzip file"),
        (bz2.compress(PHOTO), "a bzip2 file"),
        (lzma.compress(PHOTO), "an xz file"),
        (tarred(), "a tar file"),
        (bytes(5), "zeros or blanks"),
        (bytes(100_000), "zeros or blanks"),
        (b" \r\n ", "zeros or blanks"),
        (box(b"ftyp", b"isom", b"isom", b"mp41"), "a video"),
        (box(b"ftyp", b"qt  ", b"qt  "), "a video"),
        (box(b"ftyp", b"3gp5", b"isom"), "a video"),
        (box(b"moov", b"mvhd"), "a video"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", "a video or sound"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81", "a video"),
        (b"ID3\x04\x00\x00", "a sound"),
        (b"SQLite format 3\x00", "a database"),
        *(("id,selfie\n".encode(encoding), "text") for encoding in ("utf-16-le", "utf-16-be", "utf-32", "utf-32-be")),
        ("id,selfie\n".encode("utf-32-le") * 60, "text"),
        *(("имя,телефон\n".encode(encoding) * 9, "text") for encoding in ("utf-16-le", "utf-16-be", "utf-32-be")),
        ("Ünal, Müller\n".encode("latin-1"), "text"),
        ("имя,телефон\n".encode("cp1251"), "text"),
        ("氏名、電話番号".encode("shift_jis"), "text"),
        (b"id,selfie\n\x1a", "text"),
        (b"id\x00selfie\n" * 30, "text"),
        (b"not found\x07\n", "text"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PHOTO, "an HTTP response with its headers"),
        (b"\r\n--x1\r\nContent-Disposition: form-data\r\n\r\n" + PHOTO, "a part of a multipart form"),
        (b"PK\x07\x08" + zipped(), "a part of a ZIP file"),
        (b"MSCF\x00\x00\x00\x00", "a CAB file"),
        (b"MZ\x90\x00\x03", "a program"),
        (b"\x00asm\x01\x00\x00\x00", "a program"),
        *((magic + bytes(20), "a program") for magic in (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf")),
        *((magic + bytes(20), "a program") for magic in (b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")),
        ((b"\xff\xfb\x90\x64" + bytes(413)) * 3, "a sound"),
        ((b"\xff\xf3\x44\xc4" + bytes(92)) * 3, "a sound"),
        (b"ARROW1\x00\x00" + bytes(40), "an Arrow file"),
        *((pickle.dumps([1, "a"], protocol), "a pickle") for protocol in range(2, 6)),
    ],
    # Archives have the time in them: workers of xdist would call a test by two names.
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_surely_no_image_is_refused_whatever_it_comes_as(data: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    text = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    for source in (data, bytearray(data), io.BytesIO(data), text, tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        assert f"is not an image but {kind}: " in refused(source)


@pytest.mark.parametrize(
    "data",
    [
        *(picture(3, form=form) for form in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")),
        *(picture(3, form=form) for form in ("ICO", "TGA", "PCX", "SGI", "DDS")),
        b"P3\n2 1\n255\n255 0 0 0 0 255\n",
        b"P5 # bright\n600 1\n255\n" + b"\xee" * 600,
        b"\xff\x0a\xfa\x1f\x01\x90",  # JPEG XL
        b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(20),
        b"\xff\x4f\xff\x51\x00\x2f",  # JPEG 2000 without a container
        box(b"ftyp", b"heic", b"mif1", b"heic"),
        box(b"ftyp", b"mif1", b"avif", b"isom"),
        box(b"ftyp", b"isom", b"isom", b"mif1", b"heic"),
        box(b"ftyp", b"crx ", b"isom"),
        b"\xff\xd8\xff" + b"as tests have it " * 100,
        b"\x00\x01 nobody knows",
        b"\xff\x0a\xfa\xaf\xc0\x90\xa1",
        b"\xff\xfb\x90\x64" + bytes(range(256)) * 4,
        b"\x80\x02 nobody knows",
        b"\0\1" * 99,
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 454, 0, 54, 40, 20, 20, 1, 8, 0, 400, 0, 0, 0, 0) + b"@" * 400,
        b"farbfeld" + struct.pack(">II", 32, 32) + b"\x00@" * 4096,
        random.Random(1).randbytes(2000),
        bytes(128) + b"DICM" + bytes(600),
    ],
)
def test_what_may_be_an_image_passes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    text = "data:;base64," + base64.b64encode(data).decode()
    for source in (data, io.BytesIO(data), text, tmp_path / "a.jpg"):
        assert load(source) == data


@given(st.binary(max_size=600))
def test_what_begins_as_a_jpeg_always_passes(data: bytes) -> None:
    assert load(b"\xff\xd8\xff" + data) == b"\xff\xd8\xff" + data


def lines(text: str, width: int, end: str) -> str:
    return end.join(text[at : at + width] for at in range(0, len(text), width))


def url_safe(text: str) -> str:
    return text.replace("+", "-").replace("/", "_")


BASE64: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "no padding": lambda text: text.rstrip("="),
    "url-safe": url_safe,
    "url-safe, no padding": lambda text: url_safe(text).rstrip("="),
    "MIME": lambda text: lines(text, 76, "\r\n") + "\r\n",
    "PEM": lambda text: lines(text, 64, "\n"),
    "tabs": lambda text: lines(text, 76, "\n\t"),
    "url-safe lines": lambda text: lines(url_safe(text), 76, "\n"),
    "url-safe, spaces between": lambda text: lines(url_safe(text), 76, " "),
    "spaces between": lambda text: lines(text, 76, " "),
    "indented": lambda text: lines(text, 76, "\n    "),
    "lost": lambda text: text.replace("+", " "),
    "lost, no padding": lambda text: text.replace("+", " ").rstrip("="),
    "lost in lines": lambda text: lines(text, 76, "\r\n").replace("+", " ") + "\r\n",
    "lost, indented": lambda text: lines(text, 76, "\n    ").replace("+", " "),
    "lost, then a blank": lambda text: text.replace("+", " ") + " ",
    "mixed": lambda text: text.replace("+", "-"),
    "mixed otherwise": lambda text: text.replace("/", "_"),
}
ALWAYS_READ = {"plain", "no padding", "url-safe", "url-safe, no padding", "MIME", "PEM", "tabs", "url-safe lines"}


@pytest.mark.parametrize("how", BASE64)
@settings(max_examples=examples(30))
@given(data=st.binary(max_size=400) | st.integers(0, 4000).map(lambda size: random.Random(size).randbytes(size)))
@example(data=random.Random(0).randbytes(6000))
@example(data=random.Random(1).randbytes(6001))
@example(data=random.Random(2).randbytes(6002))
@example(data=b"\xfb\xef\xbe" * 1000)
@example(data=bytes(6000))  # and none
@example(data=bytes(57 * 4) + b"\xfb")
def test_base64_is_read_as_the_image_or_refused(how: str, data: bytes) -> None:
    photo = b"\xff\xd8\xff\xe0" + data
    text = BASE64[how](base64.b64encode(photo).decode())
    for source in (text, f"data:image/jpeg;base64,{text}", text.encode(), io.BytesIO(text.encode())):
        try:
            assert load(source) == photo
        except InputError:
            assert how not in ALWAYS_READ


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(0, 9000),
    width=st.sampled_from([60, 64, 72, 76]) | st.integers(4, 1500),
    end=st.sampled_from(["\n", "\r\n", "\n\t", "\n    "]),
    trailing=st.booleans(),
    padded=st.booleans(),
)
@example(seed=3, size=6000, width=76, end="\r\n", trailing=True, padded=True)
@example(seed=0, size=0, width=4, end="\r\n", trailing=False, padded=False)
@example(seed=7, size=6000, width=75, end="\n", trailing=False, padded=True)
def test_base64_whose_line_ends_and_pluses_are_spaces_is_never_altered(
    seed: int, size: int, width: int, end: str, trailing: bool, padded: bool
) -> None:
    photo = b"\xff\xd8\xff\xe0" + random.Random(seed).randbytes(size)
    text = base64.b64encode(photo).decode()
    if not padded:  # then two lines of the longest look like none
        text, width = text.rstrip("="), min(width, 600)
    text = lines(text, width, end) + end * trailing
    for space in ("+", "+\r\n\t"):
        spaced = text.translate(dict.fromkeys(map(ord, space + "\n"), " "))
        for source in (spaced, "data:;base64," + spaced, spaced.encode()):
            with contextlib.suppress(InputError):
                assert load(source) == photo


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("trailing", [False, True])
@pytest.mark.parametrize("width", [60, 64, 72, 75, 76])
def test_base64_whose_line_ends_and_pluses_are_spaces_is_restored(width: int, trailing: bool, step: int) -> None:
    for size in range(5000, 5100, step):
        photo = b"\xff\xd8\xff\xe0" + random.Random(size).randbytes(size)
        text = base64.b64encode(photo).decode()
        if not text.endswith("+"):
            spaced = lines(text, width, " ").replace("+", " ") + " " * trailing
            assert load(spaced) == load(spaced.encode()) == photo


def test_base64_full_of_spaces_is_refused() -> None:
    for size in range(100, 3000, 41):
        lost = base64.b64encode(b"\xff\xd8\xff" + b"\xfb\xef\xbe" * size).decode().replace("+", " ")
        assert "does not decode as base64" in refused(lost + "A" * 4)


def test_long_base64_that_lost_its_pluses_is_restored() -> None:
    for size in range(5000, 5100):
        photo = b"\xff\xd8\xff\xe0" + random.Random(size).randbytes(size)
        lost = base64.b64encode(photo).decode().replace("+", " ")
        if not lost.endswith(" "):
            assert load(lost) == load(lost.encode()) == photo
        assert "does not decode as base64" in refused("data:;base64," + lost[:-1].rstrip("="))


def test_special_files_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")
    assert "not a regular file" in refused("/dev/zero")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.jpg").write_bytes(PHOTO)
    monkeypatch.setattr(os, "open", no)
    assert "may not be read: check the file's permissions" in refused(tmp_path / "mine.jpg")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "is empty"),
        (base64.b64encode(PHOTO + bytes(2 * 1024 * 1024)), "over the limit"),
        (b"x" * (2 * 1024 * 1024 + 1), "2.0 MiB, over the limit of 2 MiB"),
        (io.BytesIO(b""), "at its end"),
        (io.BytesIO(b"x" * (2 * 1024 * 1024 + 1)), "is too large, over the limit"),
        (io.StringIO("text"), "open for text"),
        (7, "is an int: pass a path"),
        (None, "is None: pass a path"),
        (Path, "is the class Path: pass a path"),
        ("data:image/png,abc", "without ';base64,'"),
        ("data:image/png;base64", "without ';base64,'"),
        ("data:;base64,@@@@", "does not decode"),
        ("data:;base64,", "is empty"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("a\0b", "neither base64 of an image nor a path"),
        ("x" * 300, "neither base64 of an image nor a path"),
        ("?" * 5000, "does not decode as base64"),
        (TEXT[:-9] + "*" + TEXT[-8:], "cut off or altered"),
        (TEXT[:400] + "*", "neither base64"),
    ],
)
def test_what_else_cannot_be_sent(source: Any, words: str) -> None:
    line = refused(source)
    assert words in line
    assert len(line) < 200


def test_base64_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "photo.b64").write_bytes(base64.encodebytes(PHOTO))
    assert load(tmp_path / "photo.b64") == PHOTO


def test_a_file_that_gives_little_at_a_time() -> None:
    class Trickle:
        def __init__(self) -> None:
            self.inner = io.BytesIO(PHOTO)

        def read(self, size: int) -> bytearray:
            return bytearray(self.inner.read(min(size, 100)))

    assert load(Trickle()) == PHOTO


def test_objects_that_raise() -> None:
    class Breaks:
        def read(self, _: int) -> bytes:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")

        def __fspath__(self) -> str:
            raise RuntimeError("no")

    class Async:
        async def read(self, _: int) -> bytes:
            return b""

    class NoPath:
        def __fspath__(self) -> str:
            raise RuntimeError("no")

    class Reads:
        read = Breaks.read

    assert "cannot be read (EOFError)" in refused(Reads())
    assert "cannot be read (RuntimeError)" in refused(NoPath())
    assert "is read by await" in refused(Async())


class _ReadsAll:
    """Gives all at once, and takes no size."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self) -> bytes:
        return self.data

    def close(self) -> None:
        pass


def _spooled(data: bytes) -> tempfile.SpooledTemporaryFile[bytes]:
    file = tempfile.SpooledTemporaryFile[bytes](max_size=100)
    file.write(data)
    file.seek(0)
    return file


def _in_a_zip(data: bytes) -> IO[bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("photo.jpg", data)
    return zipfile.ZipFile(packed).open("photo.jpg")


def _mapped(data: bytes) -> mmap.mmap:
    file = mmap.mmap(-1, len(data))
    file.write(data)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "opened",
    [
        io.BytesIO,
        lambda data: io.BufferedReader(io.BytesIO(data)),
        _spooled,
        _in_a_zip,
        _mapped,
        lambda data: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data))),
        lambda data: UploadFile(io.BytesIO(data)).file,
        _ReadsAll,
    ],
    ids=["memory", "buffered", "spooled", "zip", "mmap", "gzip", "upload", "without a size"],
)
def test_whatever_gives_bytes(opened: Callable[[bytes], Any]) -> None:
    with contextlib.closing(opened(PHOTO)) as file:
        assert load(file) == PHOTO
    with contextlib.closing(opened(bytes(images.MAX_IMAGE_BYTES + 1))) as file:
        assert "over the limit" in refused(file)


async def test_an_upload_itself_is_read_by_await() -> None:
    assert "is read by await" in refused(UploadFile(io.BytesIO(PHOTO)))
    future = asyncio.get_running_loop().create_future()
    assert "is read by await" in refused(SimpleNamespace(read=lambda _: future))


def test_a_type_error_from_within_is_no_reason_to_read_on() -> None:
    class Breaks:
        parts = 0

        def read(self, size: int = -1) -> bytes:
            self.parts += 1
            if self.parts == 2:
                raise TypeError("unsupported operand")
            return PHOTO[:100]

    assert "cannot be read (TypeError)" in refused(Breaks())
    assert "cannot be read (TypeError)" in refused(SimpleNamespace(read=PHOTO))


def test_strange_file_objects() -> None:
    class Texts:
        def read(self, _: int) -> str:
            return "text"

    closed = io.BytesIO(b"x")
    closed.close()
    assert "gives str and not bytes" in refused(Texts())
    assert "cannot be read (ValueError)" in refused(closed)


@given(st.text())
def test_any_text_is_read_or_refused_without_showing_it_all(text: str) -> None:
    try:
        load(text)
    except InputError as exc:
        assert len(str(exc)) < 400


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("81387300008", "81387300008"),
        (" +62 813-8730-0008 ", "+6281387300008"),
        ("(0813) 8730.0008", "081387300008"),
        ("８１３８７３００００８", "81387300008"),  # noqa: RUF001  # as an Asian keyboard types it
        (81387300008, "81387300008"),
        ("6281234567890.0", "6281234567890"),
        ("+6281234567890.00", "+6281234567890"),
        ("+62 (0)813 8730 0008", "+6281387300008"),
        ("+62\u2011813\u20118730\u20110008", "+6281387300008"),
    ],
)
def test_numbers(typed: Any, sent: str) -> None:
    assert numbers.normalise(typed) == sent


@pytest.mark.parametrize(
    "typed", ["", "  ", "0813/0812345", "12", "call me", "+", "6.28123E+12", "1" * 18, "62813+5555", True, None, 1.5]
)
def test_impossible_numbers(typed: Any) -> None:
    with pytest.raises(InputError, match="^number ") as caught:
        numbers.normalise(typed)
    assert str(typed) not in str(caught.value) or len(str(typed)) < 5
    if "E+" in str(typed):
        assert "format the column as text" in str(caught.value)


def test_small_texts() -> None:
    assert texts.text(" p1 ", name="person_id") == "p1"
    assert texts.country(" id ", name="country") == "ID"
    assert texts.country("", name="country") is None
    assert texts.url("https://x.example/cb", name="callback") == "https://x.example/cb"
    assert texts.url("", name="callback") is None
    assert texts.flag(True, name="servstatus") == "y"
    assert texts.flag(False, name="servstatus") is None


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (texts.text, ""),
        (texts.text, b"x"),
        (texts.text, "a\nb"),
        (texts.text, "x" * 3000),
        (texts.country, "IDN"),
        (texts.country, 7),
        (texts.url, "ftp://x.example"),
        (texts.url, "http://[::1"),
        (texts.url, "nonsense"),
        (texts.flag, "y"),
    ],
)
def test_small_texts_that_cannot_be_sent(check: Any, value: Any) -> None:
    with pytest.raises(InputError, match="^field "):
        check(value, name="field")
