"""Where a photo was taken is not sent with it, and nothing else of it changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pillow_heif import from_pillow

from aisolution_async import AsyncClient, SearchFace
from aisolution_async.api import Kind
from aisolution_async.inputs.location import without_location
from aisolution_async.sending.prepare import read

from .pictures import encoded, portrait

ORIENTATION, GPS, MAKE = 0x0112, 0x8825, 0x010F
PLACE = {
    1: "S",
    2: (6.0, 12.0, 31.25),
    3: "E",
    4: (106.0, 50.0, 12.5),
    27: b"ASCII\0\0\0GPS and cells",
    29: "2026:01:02",
}
XMP = b"""<?xpacket begin='\xef\xbb\xbf' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:drone-dji="http://x/" xmp:Rating="5" exif:GPSLatitude="6,12.5S" drone-dji:GpsLongitude='+106.83'>
 <exif:GPSTimeStamp>2026-01-02T03:04:05Z</exif:GPSTimeStamp><exif:GPSDestBearing/>
 <exif:GPSAreaInformation><rdf:Alt><rdf:li xml:lang="x-default">Jakarta</rdf:li></rdf:Alt></exif:GPSAreaInformation>
 <dc:title>Ayu and her GPS</dc:title></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"""
TOLD = (b"6,12.5S", b"106.83", b"03:04:05", b"Jakarta", b"GPSDestBearing")


def exif(order: str = "<", turn: int = 6, **more: Any) -> Image.Exif:
    found = Image.Exif()
    found.endian = order
    found[ORIENTATION], found[MAKE] = turn, "A maker of telephones"
    found.get_ifd(GPS).update(PLACE)
    return found


def tiff() -> bytes:
    # Pillow writes no GPS of an `Image.Exif` into a TIFF.
    tags = ImageFileDirectory_v2()
    tags[ORIENTATION], tags[MAKE], tags[GPS] = 6, "A maker of telephones", dict(PLACE)
    return encoded(portrait(1), "TIFF", tiffinfo=tags)


FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 80},
    "PNG": {},
    "WEBP": {"quality": 60},
    "TIFF": {},
    "MPO": {},
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", FORMATS)
def test_gps_goes_and_all_else_stays(form: str, order: str) -> None:
    image = portrait(1)
    given_ = tiff() if form == "TIFF" else encoded(image, form, exif=exif(order), **FORMATS[form])
    sent = without_location(given_)
    assert len(sent) == len(given_)
    if form == "PNG":
        Image.open(io.BytesIO(sent)).verify()  # the checksums
    before, after = (Image.open(io.BytesIO(data)) for data in (given_, sent))
    assert before.getexif().get_ifd(GPS)[2] == PLACE[2]
    assert not after.getexif().get_ifd(GPS)
    assert GPS not in after.getexif()
    assert {tag: after.getexif()[tag] for tag in after.getexif()} == {
        tag: before.getexif()[tag] for tag in before.getexif() if tag != GPS
    }
    assert after.getexif().get(ORIENTATION) == 6
    assert after.tobytes() == before.tobytes()
    for told in (b"GPS and cells", b"2026:01:02"):
        assert told in given_
        assert told not in sent
    assert without_location(sent) is sent


def test_a_heic_and_an_avif() -> None:
    image = portrait(1)
    out = io.BytesIO()
    heif = from_pillow(image)
    heif.info["exif"] = exif(turn=1).tobytes()
    heif.save(out)
    for given_ in (out.getvalue(), encoded(image, "AVIF", exif=exif(turn=1))):
        sent = without_location(given_)
        assert b"GPS and cells" in given_
        assert b"GPS and cells" not in sent
        assert b"A maker of telephones" in sent
        assert len(sent) == len(given_)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_xmp_says_it_no_more(form: str) -> None:
    options: dict[str, Any] = {"xmp": XMP}
    if form == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"pnginfo": info}
    given_ = encoded(portrait(1), form, **options)
    sent = without_location(given_)
    assert len(sent) == len(given_)
    for told in TOLD:
        assert told in given_
        assert told not in sent
    assert b'xmp:Rating="5"' in sent
    assert b"Ayu and her GPS" in sent
    Image.open(io.BytesIO(sent)).load()


def test_what_a_png_has_packed_is_left_out() -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    info.add_text("Raw profile type exif", "\nexif\n 4\n45786966", zip=True)
    info.add_text("Comment", "Ayu", zip=True)
    given_ = encoded(portrait(1), "PNG", pnginfo=info)
    image = Image.open(io.BytesIO(without_location(given_)))
    assert image.tobytes() == portrait(1).tobytes()
    assert image.info["Comment"] == "Ayu"
    assert not {"XML:com.adobe.xmp", "Raw profile type exif"} & image.info.keys()


def test_the_video_behind_a_photo_says_it_no_more() -> None:
    video = b"\0\0\0\x20udta\0\0\0\x1e\xa9xyz\0\x12\x15\xc7-06.2088+106.8456/"
    sent = without_location(encoded(portrait(1)) + video)
    assert sent.endswith(b"\xa9xyz\0\x12\x15\xc7-00.0000+000.0000/")


def test_a_photo_that_says_no_place_is_itself() -> None:
    found = Image.Exif()
    found[ORIENTATION] = 6
    for data in (encoded(portrait(1), exif=found), encoded(portrait(1), "PNG"), b"", b"II*\0", b"\x89PNG\r\n\x1a\n"):
        assert without_location(data) is data


@given(st.binary(max_size=300), st.sampled_from([b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"<a:GPS", b"\xa9xyz", b""]))
def test_whatever_a_stranger_sends_is_no_error(tail: bytes, head: bytes) -> None:
    assert len(without_location(head + tail)) == len(head + tail)


@given(st.data(), st.sampled_from(["JPEG", "PNG", "TIFF"]))
def test_a_damaged_photo_is_no_error(data: st.DataObject, form: str) -> None:
    photo = bytearray(encoded(portrait(1, (24, 30)), form, exif=exif()))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(photo) - 1), st.integers(0, 255)), max_size=20)):
        photo[at] = byte
    without_location(bytes(photo[: data.draw(st.integers(0, len(photo)))]))


@pytest.mark.parametrize("keep", [True, False])
async def test_the_same_question_with_or_without_the_place(keep: bool, tmp_path: Path) -> None:
    """By the bytes as they were given: or every answer in a ledger would be bought again."""
    photo = encoded(portrait(1), exif=exif())
    async with AsyncClient("t", keep_metadata=keep) as client:
        found = read(SearchFace(photo), client.options, callback=None, vendor="v", identify=True)
        plain = read(
            SearchFace(photo), client.with_options(keep_metadata=True).options, callback=None, vendor="v", identify=True
        )
    assert not isinstance(found, str)
    assert not isinstance(plain, str)
    assert found.identity == plain.identity
    assert (found.fields == plain.fields) is keep
    assert SearchFace.endpoint.parameters[0].kind is Kind.IMAGE
