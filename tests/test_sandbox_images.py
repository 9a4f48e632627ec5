"""The pretended vendor: pictures that are answered as they say."""

from __future__ import annotations

from io import BytesIO
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from aisolution_async.sandbox import MAGIC_NUMBERS, Sandbox, images, magic_number, vendor

from .pictures import FIRST, FLAT, OTHER, PERSON, b64, encoded
from .sandboxes import TOKEN, ask, bill
from .support import examples

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


@settings(max_examples=examples(100), deadline=None)
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
    sandbox: Sandbox, http_client: httpx.AsyncClient, img1: bytes, img2: bytes, said: tuple[str, Any]
) -> None:
    form = "&".join(f"{name}={quote(b64(image), safe='')}" for name, image in (("img1", img1), ("img2", img2)))
    answer = await http_client.post(f"/v1/facecompare?token={TOKEN}", content=form)
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
    sandbox: Sandbox, http_client: httpx.AsyncClient, endpoint: str, name: str
) -> None:
    status, message = SINGLE[endpoint][name]
    form = f"img={quote(b64(ONE_PICTURE[name]), safe='')}"
    answer = await http_client.post(f"/v1/{endpoint}?token={TOKEN}", content=form)
    assert answer.json() == {"status": status, "message": message}
    charged = status == "OK" and endpoint != "addface"
    assert sandbox.bill == bill(**{endpoint: (int(charged), int(not charged))})


async def test_tagged_people_are_added_found_and_deleted(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    _, alice = await ask(http_client, "addface", img=b64(PERSON))
    _, bob = await ask(http_client, "addface", img=b64(OTHER))
    _, again = await ask(http_client, "addface", img=b64(images.holding("alice", "bob")))
    assert again == alice | {"person_count": 2}
    _, stranger = await ask(http_client, "addface", img=b64(FIRST))
    assert len({alice["person_id"], bob["person_id"], stranger["person_id"]}) == 3
    found = [{"confidence": 97.501, "person_id": alice["person_id"]}]
    assert await ask(http_client, "searchface", img=b64(PERSON)) == ("OK", found)
    _, matches = await ask(http_client, "searchface", img=b64(images.similarity(81.25)))
    assert {match["confidence"] for match in matches} == {81.25}
    assert len(matches) == 3
    status, nobody = await ask(http_client, "addface", img=b64(images.nobody()))
    assert (status, nobody["person_count"]) == ("FACE_DETECT_FAILED", 0)
    assert sandbox.faces == {alice["group_id"]: {alice["person_id"]: 2, bob["person_id"]: 1, stranger["person_id"]: 1}}
    assert await ask(http_client, "delface", person_id=bob["person_id"]) == ("OK", None)
    assert await ask(http_client, "searchface", img=b64(OTHER)) == ("OK", [])


@pytest.mark.parametrize("endpoint", ["facecompare", "idholding", "addface", "searchface"])
async def test_a_picture_may_be_for_later_once(http_client: httpx.AsyncClient, endpoint: str) -> None:
    image = b64(images.retry_once("alice"))
    form = {"img1": image, "img2": b64(PERSON)} if endpoint == "facecompare" else {"img": image}
    assert await ask(http_client, endpoint, **form) == ("RETRY_LATER", vendor._BUSY)
    for _ in range(2):
        expected = "INVALID_FACE_NUM" if endpoint == "idholding" else "OK"
        assert (await ask(http_client, endpoint, **form))[0] == expected


@pytest.mark.parametrize("endpoint", ["facecompare", "idholding", "addface", "searchface"])
async def test_a_picture_may_go_wrong(sandbox: Sandbox, http_client: httpx.AsyncClient, endpoint: str) -> None:
    image = b64(images.fault("http-502,billed=yes"))
    form = {"img1": b64(PERSON), "img2": image, "img": image}
    answer = await http_client.post(f"/v1/{endpoint}", params={"token": TOKEN}, data=form)
    assert answer.status_code == 502
    assert sandbox.bill.charged == (endpoint != "addface")


async def test_the_comment_is_lost_where_a_picture_is_encoded_anew(http_client: httpx.AsyncClient) -> None:
    again = encoded(Image.open(BytesIO(PERSON)), comment=b"")
    assert await ask(http_client, "searchface", img=b64(again)) == ("FACE_DETECT_FAILED", [])


@settings(max_examples=examples(200), deadline=None)
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


async def test_pictures_and_numbers_are_had_over_http(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
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
        answer = await http_client.get(f"/_sandbox/images/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.content == picture
    numbers_shown = (await http_client.get("/_sandbox/numbers")).json()
    assert set(numbers_shown) == set(MAGIC_NUMBERS)
    assert numbers_shown["no"]["numbers"]["VN"] == magic_number("no", country="VN")
