"""From what people have to what the API takes: images in every guise, numbers, small texts."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import InputError
from aisolution_async.inputs import images, numbers, texts

from .support import picture

PHOTO = picture(1)
TEXT = base64.b64encode(PHOTO).decode()


def load(source: Any, **options: Any) -> bytes:
    return images.load(source, name="img1", **options)


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
        (7, "is a int: pass a path"),
        (None, "is a NoneType: pass a path"),
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
