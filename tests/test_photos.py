"""Photos as people name them: which file is meant, and what is said where none is, or several are."""

from __future__ import annotations

import asyncio
import base64
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aisolution_async import FaceCompare, SearchFace
from aisolution_async.bulk import forecast_bulk, photos
from aisolution_async.bulk.photos import Photos, Unreadable
from aisolution_async.bulk.rows import UnreadableInputError
from aisolution_async.errors import ConfigurationError
from aisolution_async.inputs.location import without_location

from .commands import run
from .pictures import encoded, portrait
from .sheets import bulk, read, sane, write
from .support import LAST_RESORT, Vendor, client_of, examples
from .test_location import exif

NFC, NFD = (unicodedata.normalize(form, "José Ünal.jpg") for form in ("NFC", "NFD"))
FILES = [
    "selfie1.jpg",
    "Foto KTP/ayu ktp.JPG",
    "Foto KTP/Bima.jpeg",
    f"Foto KTP/{NFD}",
    "Foto KTP/100%.jpg",
    "2024/01/andi/selfie.jpg",
    "2024/01/budi/ktp.jpg",
    "2024/01/citra/selfie.png",
    "A/twice.jpg",
    "B/Twice.JPG",
    "A/0812345.jpg",
    "scan.pdf",
    "double.jpg.jpg",
    "without an ending",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base, photo = tmp_path / "list", encoded(portrait(1))
    for name in FILES:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    return base


@pytest.fixture(params=["beside the list", "--images"])
def found(request: pytest.FixtureRequest, folder: Path) -> Iterator[Photos]:
    photos_ = Photos(folder) if request.param == "beside the list" else Photos(folder.parent, folder)
    yield photos_
    photos_.close()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("selfie1.jpg", 0),
        ("SELFIE1.JPG", 0),
        (" selfie1.jpeg ", 0),
        ("selfie1", 0),
        ('"selfie1.jpg"', 0),
        ("\u201cselfie1.jpg\u201d", 0),
        ("'selfie1.jpg", 0),
        ("<selfie1.jpg>", 0),
        ("\u202aC:\\Users\\Rina\\Foto\\selfie1.jpg", 0),  # as Windows copies it from a file's properties
        ("\\\\server\\share\\selfie1.jpg", 0),
        ("/sdcard/DCIM/selfie1.jpg", 0),
        ("~/selfie1.jpg", 0),
        ("file:///C:/Users/Rina/selfie1.jpg", 0),
        ("file://localhost/home/rina/selfie1.jpg", 0),
        ("./selfie1.jpg", 0),
        ("Foto KTP/../selfie1.jpg", 0),
        ("foto ktp/AYU KTP.jpg", 1),
        ("Foto%20KTP/ayu%20ktp.JPG", 1),
        ("Foto KTP\\ayu ktp.JPG", 1),
        ("D:\\Foto KTP\\ayu ktp.JPG", 1),
        ("ayu  ktp", 1),
        ("ayu\xa0ktp.jpg", 1),
        ("ａｙｕ ktp.jpg", 1),  # noqa: RUF001  # as Japanese keyboards write it
        ("Bima.jpg", 2),
        ("bima", 2),
        (NFC, 3),
        (NFD.upper(), 3),
        (f"foto ktp/{NFC}", 3),
        ("Foto KTP/100%.jpg", 4),
        ("100%", 4),
        ("andi/selfie.jpg", 5),
        ("01\\andi\\selfie", 5),
        ("C:\\data\\2024\\01\\Andi\\Selfie.JPG", 5),
        ("budi/ktp.jpg", 6),
        ("A/twice", 8),
        ("B\\twice.jpg", 9),
        ("E:\\KTP scans\\0812345.jpg", 10),
        ("scan.PDF", 11),
        ("double.jpg", 12),
        ("Without An Ending", 13),
    ],
)
def test_the_file_that_is_meant(found: Photos, folder: Path, said: str, meant: int) -> None:
    path = found.find(said)
    assert isinstance(path, Path)
    assert path.resolve() == folder / FILES[meant]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("-", "says '-', which names no photo: fill it in, or delete the row in the list itself"),
        ("N/A", "says 'N/A', which names no photo"),
        ("Tidak Ada", "says 'Tidak Ada', which names no photo"),
        ("#N/A", "says '#N/A', which names no photo"),
        ("https://drive.google.com/file/d/1abc/selfie1.jpg", "is a URL: download the image, and name its file"),
        ("www.example.com/selfie1.jpg", "is a URL"),
        ("twice.jpg", "names 'twice.jpg', which may be 'A/twice.jpg' and 'B/Twice.JPG': write which, with its folder"),
        ("selfie1.jpg, Bima.jpeg", "names 2 photos, 'selfie1.jpg' and 'Bima.jpeg': leave one"),
        ("selfie1.jpg\nFoto KTP\\bima", "names 2 photos"),
        ("foto ktp", "'Foto KTP' is a directory: name an image file in it"),
        ("selfie11.jpg", "FOLDER/selfie11.jpg' does not exist: check the path"),  # another number is another photo
        ("selfei1.jpg", "'selfei1.jpg' does not exist: did you mean 'selfie1.jpg'?"),
        ("Bima.png", "'Bima.png' does not exist: did you mean 'Foto KTP/Bima.jpeg'?"),
        ("Foto KPT/Bima.jpg", "'Foto KPT/Bima.jpg' does not exist: did you mean 'Foto KTP/Bima.jpeg'?"),
        ("Z:\\nobody.jpg", "'Z:/nobody.jpg' does not exist, and there is no such name below"),
    ],
)
def test_what_is_said_of_the_others(found: Photos, folder: Path, said: str, problem: str) -> None:
    told = found.find(said)
    assert isinstance(told, Unreadable)
    assert problem in told.replace(str(folder), "FOLDER")


@pytest.mark.parametrize(
    "said",
    [
        "budi/selfie.jpg",  # whose folder is there, and has no selfie: another's must not be sent
        "C:\\data\\budi\\selfie.jpg",
        "dewi/selfie.jpg",
        "dewi/selfie1.jpg",
        "C:\\data\\dewi\\selfie.jpg",  # what everybody's is called
        "C:\\DCIM\\IMG_0001.jpg",
        "selfie.jpg",
        "2023/01/andi/selfie.jpg",
        "E:\\A\\0812345.png",
    ],
)
def test_another_applicants_photo_is_never_taken(found: Photos, folder: Path, said: str) -> None:
    write(folder / "A" / "IMG_0001.jpg", encoded(portrait(2)))
    write(folder / "B" / "selfie.jpg", encoded(portrait(2)))
    assert isinstance(found.find(said), Unreadable)


def test_one_file_is_not_two_applicants(folder: Path) -> None:
    write(folder / "ayu.jpg", encoded(portrait(2)))
    found = Photos(folder)
    for said in ("C:\\2023\\ayu.jpg", "C:\\2023\\ayu.jpg", "D:\\foto\\2023\\AYU.jpg", "ayu"):
        assert found.find(said) == folder / "ayu.jpg"
    told = found.find("C:\\2024\\ayu.jpg")
    assert isinstance(told, Unreadable)
    assert "'ayu.jpg' was taken for another row's '2023/ayu'" in told
    found.close()


def test_a_stranger_reads_nothing_outside(tmp_path: Path, folder: Path) -> None:
    write(tmp_path / "secret.jpg", encoded(portrait(2)))
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "hidden.jpg", encoded(portrait(2)))
    (folder / "Leads out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "outside").symlink_to(tmp_path / "other")
    (folder / "round").symlink_to(folder / "round")
    found = Photos(tmp_path, folder)
    out = "leads out of the images' folder (--images): name a file in it"
    for said in (
        "../secret.jpg",
        "%2e%2e/secret.jpg",
        "..\\secret.jpg",
        "'../secret.jpg'",
        str(tmp_path / "secret.jpg"),
        f"file://{tmp_path}/secret.jpg",
        "secret.jpg",
        "Leads out.jpg",
        "leads OUT",
        "outside/hidden.jpg",
        "list/../secret.jpg",
    ):
        assert found.find(said) == out, said
    for said in ("hidden.jpg", "OUTSIDE/hidden.jpg", "round/x.jpg", "secret", "a\0b.jpg", "x" * 4000):
        assert isinstance(found.find(said), Unreadable), said
    found.close()
    with pytest.raises(ConfigurationError, match="images' folder .*nowhere' is not there"):
        Photos(tmp_path, tmp_path / "nowhere")


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.text(max_size=60)
    | st.lists(
        st.sampled_from(["..", "%2e", "/", "\\", "secret.jpg", "list", "C:", "~", '"', "file:"]), max_size=8
    ).map("".join)
)
def test_whatever_a_cell_says(said: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp() / "fuzz"
    (base / "list").mkdir(parents=True, exist_ok=True)
    write(base / "secret.jpg", b"x")
    write(base / "list" / "ayu.jpg", b"x")
    found = Photos(base, base / "list")
    told = found.find(said)
    assert isinstance(told, Unreadable) or told.is_relative_to((base / "list").resolve())
    found.close()


def test_names_that_are_no_text_in_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"Jos\xe9.JPG")
    try:
        write(tmp_path / "deep.jpg", b"x")
        (tmp_path / name).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system has none")
    found = Photos(tmp_path)
    assert found.find(name.lower()) == tmp_path / name
    assert found.find("DEEP") == tmp_path / "deep.jpg"
    found.close()


def test_what_is_not_searched(tmp_path: Path) -> None:
    for name in ("__MACOSX/ayu.jpg", ".thumbnails/ayu.jpg", "@eaDir/ayu.jpg", "sub/._ayu.jpg", "sub/ayu.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"x")
    found = Photos(tmp_path)
    assert found.find("ayu") == tmp_path / "sub" / "ayu.jpg"
    found.close()


def test_of_too_many_files_nobody_knows_which_is_meant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MOST_FILES", 3)
    found = Photos(folder)
    told = found.find("bima")
    assert isinstance(told, Unreadable)
    assert "has more than 3 files: say where the photos are (--images DIR)" in told
    assert found.find("selfie1.jpg") == folder / "selfie1.jpg"
    found.close()


def test_a_folder_is_searched_once_and_only_when_it_has_to_be(folder: Path) -> None:
    found = Photos(folder)
    assert not any(map(found.must_search, ["selfie1.jpg", "-", "https://x/y.jpg", "../x.jpg", "Foto%20KTP/Bima.jpeg"]))
    assert found.must_search("bima")
    found.search()
    assert not found.must_search("bima")
    write(folder / "later.jpg", b"x")
    assert isinstance(found.find("LATER"), Unreadable)
    found.close()


def test_a_temporary_folder_that_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", connect)
    found = Photos(folder)
    with pytest.raises(UnreadableInputError, match="the temporary folder .* disk is full; set TMPDIR"):
        found.find("bima")
    found.close()


# ---------------------------------------------------------------------------------------------------------- in a run


def pairs(folder: Path, *rows: str) -> Path:
    return write(folder / "in.csv", "\n".join(["selfie;ktp", *rows, ""]))


async def test_all_bad_images_of_a_row_are_told_at_once(folder: Path) -> None:
    write(folder / "letter.jpg", "this is a letter, and no photo")
    write(folder / "empty.jpg", b"")
    source = pairs(
        folder, "ada.jpg;-", "ada.jpg;letter.jpg", "empty.jpg;letter.jpg", ";selfie1.jpg", "twice;letter.jpg"
    )
    vendor = Vendor(sane)
    await bulk(source, folder / "out.csv", FaceCompare, vendor=vendor)
    problems = [row["problem"].replace(str(folder), "FOLDER") for row in read(folder / "out.csv", ";")]
    assert not vendor.requests
    ada = "column 'selfie': img1 'FOLDER/ada.jpg' does not exist: check the path"
    letter = "column 'ktp': img2 'FOLDER/letter.jpg' is not an image but text: name a JPEG or PNG file"
    assert problems[:3] == [
        f"line 2: {ada}; column 'ktp' says '-', which names no photo: fill it in, or delete the row in the list itself",
        f"line 3: {ada}; {letter}",
        f"line 4: column 'selfie': img1 'FOLDER/empty.jpg' is empty: there is no image to send; {letter}",
    ]
    assert problems[3] == "line 5: column 'selfie': img1 is empty: fill it in, or delete the row in the list itself"
    assert problems[4].startswith("line 6: column 'selfie': img1 names 'twice', which may be 'A/twice.jpg' and")
    assert problems[4].endswith(letter)


async def test_the_folder_is_searched_off_the_event_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[bool] = []
    search = Photos.search

    def watched(self: Photos) -> None:
        searched.append(threading.current_thread() is threading.main_thread())
        search(self)

    monkeypatch.setattr(Photos, "search", watched)
    source = pairs(folder, "SELFIE1;bima", "selfie1;Bima", "selfie1.jpg;AYU KTP")
    async with client_of(Vendor(sane)) as client:
        foreseen = await forecast_bulk(client, FaceCompare, source)
    assert (foreseen.rows, foreseen.failed) == (3, 0)
    assert searched[0] is False
    searched.clear()
    summary = await bulk(source, folder / "out.csv", FaceCompare)
    assert (summary.rows, summary.ok) == (3, 3)
    assert searched[0] is False


async def test_a_run_that_is_stopped_while_it_searches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, and so does the search."""
    begun, go_on = threading.Event(), threading.Event()
    scandir = os.scandir

    def slow(path: Any) -> Any:
        begun.set()
        go_on.wait(LAST_RESORT)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    found = Photos(folder)
    search = asyncio.create_task(asyncio.to_thread(found.search))
    await asyncio.to_thread(begun.wait, 30)
    closing = asyncio.create_task(asyncio.to_thread(found.close))
    go_on.set()
    await asyncio.gather(search, closing)


@pytest.mark.parametrize("keep", [True, False])
async def test_no_photo_says_where_it_was_taken(tmp_path: Path, keep: bool) -> None:
    photo = encoded(portrait(1), exif=exif(turn=1))
    write(tmp_path / "a.jpg", photo)
    source = write(tmp_path / "in.csv", "img\na.jpg\n")
    vendor = Vendor(sane)
    await bulk(source, tmp_path / "out.csv", SearchFace, vendor=vendor, keep_metadata=keep)
    (request,) = vendor.requests
    (sent,) = parse_qs(request.content.decode())["img"]
    assert base64.b64decode(sent) == (photo if keep else without_location(photo))
    assert without_location(photo) != photo


async def test_an_answer_is_not_bought_again_for_the_place(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", encoded(portrait(1), exif=exif(turn=1)))
    source = write(tmp_path / "in.csv", "img\na.jpg\n")
    vendor = Vendor(sane)
    for keep in (True, False, True):
        output = tmp_path / f"out-{keep}.csv"
        await bulk(source, output, SearchFace, vendor=vendor, keep_metadata=keep, ledger=tmp_path / "x.ledger")
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("option", ["--images", "--images-root"])
def test_on_the_command_line(option: str, folder: Path) -> None:
    source = write(folder.parent / "in.csv", "selfie,ktp\nSelfie1,C:\\Foto KTP\\bima.jpg\n")
    words = ("bulk", "face-compare", str(source), "-o", str(folder.parent / "out.csv"), "--sandbox")
    assert run(*words, option, str(folder), "--dry-run").exit_code == 0
    assert run(*words, option, str(folder), "--keep-metadata").exit_code == 0
    assert [row["ok"] for row in read(folder.parent / "out.csv")] == ["true"]
