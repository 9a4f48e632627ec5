"""The pretended vendor: its endpoints for faces, and requests that are refused."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from aisolution_async.sandbox import Sandbox, images, vendor

from .pictures import FIRST, FLAT, SECOND, TOO_LARGE, b64, encoded, found, noise, portrait, scene, side_by_side
from .sandboxes import ENDPOINTS, TOKEN, ask, bill, http_client_of


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
    sandbox: Sandbox, http_client: httpx.AsyncClient, endpoint: str
) -> None:
    wrong = await http_client.post(f"/v1/{endpoint}?token=guess")
    missing = await http_client.post(f"/v1/{endpoint}")
    method = await http_client.get(f"/v1/{endpoint}", params={"token": TOKEN})
    head = await http_client.head(f"/v1/{endpoint}", params={"token": TOKEN})
    assert [r.status_code for r in (wrong, missing, method, head)] == [401, 401, 405, 405]
    assert method.headers["allow"] == "POST"
    assert head.content == b""
    assert wrong.headers["content-type"].startswith("text/plain")
    for path in ("/", "/v1/", f"/{endpoint}", f"/v1/{endpoint}/", f"/v2/{endpoint}", "/v1/nothing"):
        assert (await http_client.post(path, params={"token": TOKEN})).status_code == 404
    assert sandbox.bill == bill(**{endpoint: (0, 4)})
    assert sandbox.requests == {endpoint: 4}


async def test_facecompare_compares(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    small = encoded(portrait(1).resize((100, 125)), quality=40)
    status, message = await ask(http_client, "facecompare", img1=b64(FIRST), img2=b64(small))
    assert status == "OK"
    assert message["result"] == "SAME PERSON"
    assert 90 < message["similarity"] <= 100
    _, message = await ask(http_client, "facecompare", img1=b64(FIRST), img2=b64(SECOND))
    assert message["result"] == "NOT SAME PERSON"
    # A different mouth, as it were: most of the picture is the same.
    image = portrait(1)
    image.paste(portrait(2).crop((0, 210, 240, 300)), (0, 210))
    _, message = await ask(http_client, "facecompare", img1=b64(FIRST), img2=b64(encoded(image)))
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
    sandbox: Sandbox, http_client: httpx.AsyncClient, case: str
) -> None:
    form, why = UNUSABLE[case]
    image = {"img": b64(FIRST)}
    first = {f"{name}1": value for name, value in form.items()}
    second = {f"{name}2": value for name, value in form.items()}
    assert await ask(http_client, "facecompare", **first, img2=image["img"]) == ("INVALID_REQUEST", f"img1 {why}")
    assert await ask(http_client, "facecompare", img1=image["img"], **second) == ("INVALID_REQUEST", f"img2 {why}")
    assert await ask(http_client, "idholding", **form) == ("INVALID_REQUEST", f"img {why}")
    assert await ask(http_client, "addface", **form) == ("FAIL", f"img {why}")
    assert await ask(http_client, "searchface", **form) == ("FAIL", f"img {why}")
    assert sandbox.bill == bill(facecompare=(0, 2), idholding=(0, 1), addface=(0, 1), searchface=(0, 1))


async def test_images_over_two_mebibytes_are_too_large(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    message = "image larger than 2M"
    large = quote(b64(TOO_LARGE), safe="")
    for endpoint, form, status in (
        ("facecompare", f"img1={quote(b64(FIRST), safe='')}&img2={large}", "IMAGE_INVALID_SIZE"),
        ("idholding", f"img={large}", "IMAGE_INVALID_SIZE"),
        ("addface", f"img={large}", "FAIL"),
        ("searchface", f"img={large}", "FAIL"),
    ):
        response = await http_client.post(f"/v1/{endpoint}?token={TOKEN}", content=form)
        assert response.json() == {"status": status, "message": message}
    just = quote(b64(TOO_LARGE[: images.LARGEST_IMAGE]), safe="")
    response = await http_client.post(f"/v1/idholding?token={TOKEN}", content=f"img={just}")
    assert response.json() == {
        "status": "INVALID_REQUEST",
        "message": "img is not a readable picture: damaged or cut off",
    }
    assert sandbox.bill.charged == 0


async def test_base64_that_was_not_escaped_breaks(http_client: httpx.AsyncClient) -> None:
    assert "+" in b64(FIRST)
    response = await http_client.post(f"/v1/addface?token={TOKEN}", content=f"img={b64(FIRST)}")
    assert response.json() == {"status": "FAIL", "message": "img is not base64"}
    lower = re.sub("%..", lambda escape: escape[0].lower(), quote(b64(FIRST), safe=""))
    response = await http_client.post(f"/v1/addface?token={TOKEN}", content=f"%69mg={lower}&img=again")
    assert response.json()["status"] == "OK"


async def test_a_face_that_is_not_found_is_named(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    for img1, img2, which in ((FLAT, FIRST, "A"), (FIRST, FLAT, "B"), (FLAT, FLAT, "A")):
        said = await ask(http_client, "facecompare", img1=b64(img1), img2=b64(img2))
        assert said == ("RETRY_LATER", f"IMAGE{which}_FACE_DETECT_FAILED")
    assert sandbox.bill == bill(facecompare=(0, 3))


async def test_idholding_compares_the_halves(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    nobody = Image.new("RGB", (240, 300), "white")
    wide, tall = side_by_side(portrait(1), portrait(1)), Image.new("RGB", (240, 600))
    tall.paste(portrait(1), (0, 0))
    tall.paste(portrait(1), (0, 300))
    for image, result in (
        (wide, "SAME PERSON"),
        (tall, "SAME PERSON"),
        (side_by_side(portrait(1), portrait(2)), "NOT SAME PERSON"),
    ):
        status, message = await ask(http_client, "idholding", img=b64(encoded(image)))
        assert (status, message["result"]) == ("OK", result)
    for image, count in (
        (side_by_side(portrait(1), nobody), 1),
        (side_by_side(nobody, portrait(1)), 1),
        (side_by_side(nobody, nobody), 0),
    ):
        said = await ask(http_client, "idholding", img=b64(encoded(image)))
        assert said == ("INVALID_FACE_NUM", f"{count} faces found")
    assert sandbox.bill == bill(idholding=(3, 3))


async def test_faces_are_added_found_and_deleted(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    assert await ask(http_client, "searchface", img=b64(FIRST)) == ("OK", [])
    status, first = await ask(http_client, "addface", img=b64(FIRST))
    assert status == "OK"
    assert re.fullmatch("[A-Za-z]{16}", first["group_id"])
    assert re.fullmatch("[0-9a-v]{20}", first["person_id"])
    assert first["person_count"] == 1
    _, again = await ask(http_client, "addface", img=b64(encoded(portrait(1), quality=40)))
    assert again == first | {"person_count": 2}
    _, second = await ask(http_client, "addface", img=b64(SECOND))
    assert second["person_id"] != first["person_id"]
    assert second["group_id"] == first["group_id"]
    status, matches = await ask(http_client, "searchface", img=b64(encoded(portrait(1).resize((120, 150)))))
    assert status == "OK"
    assert [match["person_id"] for match in matches] == [first["person_id"]]
    assert 90 < matches[0]["confidence"] <= 100
    for expected in ("OK", "PERSON_ID_NOT_EXIST"):
        assert await ask(http_client, "delface", person_id=first["person_id"]) == (expected, None)
    assert await ask(http_client, "delface") == ("PERSON_ID_NOT_EXIST", None)
    assert await ask(http_client, "searchface", img=b64(FIRST)) == ("OK", [])
    assert sandbox.bill == bill(searchface=(3, 0), addface=(0, 3), delface=(0, 3))


async def test_matches_are_listed_best_first(http_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [(await ask(http_client, "addface", img=b64(encoded(portrait(n)))))[1]["person_id"] for n in range(4)]
    scores = dict(zip((found(portrait(n)).coarse for n in range(4)), (71.5, 69.9, 98.0, 70), strict=True))
    monkeypatch.setattr(vendor, "similarity", lambda _face, other: scores[other.coarse])
    _, matches = await ask(http_client, "searchface", img=b64(encoded(scene(1))))
    assert matches == [
        {"confidence": 98.0, "person_id": ids[2]},
        {"confidence": 71.5, "person_id": ids[0]},
        {"confidence": 70, "person_id": ids[3]},
    ]


async def test_no_face_is_no_person(sandbox: Sandbox, http_client: httpx.AsyncClient) -> None:
    status, message = await ask(http_client, "addface", img=b64(FLAT))
    assert status == "FACE_DETECT_FAILED"
    assert list(message) == ["group_id", "person_id", "person_count"]
    assert message["person_count"] == 0
    assert await ask(http_client, "delface", person_id=message["person_id"]) == ("PERSON_ID_NOT_EXIST", None)
    assert await ask(http_client, "searchface", img=b64(FLAT)) == ("FACE_DETECT_FAILED", [])
    assert sandbox.bill == bill(addface=(0, 1), delface=(0, 1), searchface=(0, 1))


async def test_one_new_face_added_many_times_at_once_is_one_person(http_client: httpx.AsyncClient) -> None:
    said = await asyncio.gather(
        *(ask(http_client, "addface", img=b64(encoded(portrait(1), quality=50 + n))) for n in range(10))
    )
    assert len({message["person_id"] for _, message in said}) == 1
    assert sorted(message["person_count"] for _, message in said) == list(range(1, 11))


async def test_each_token_has_a_group_of_its_own() -> None:
    async with (
        Sandbox(token="main", tokens=("other ü&", "x")) as sandbox,
        http_client_of(sandbox) as http_client,
    ):
        assert sandbox.token == "main"
        groups = {}
        for token in ("main", "other ü&", "x"):
            assert await ask(http_client, "searchface", token=token, img=b64(FIRST)) == ("OK", [])
            _, message = await ask(http_client, "addface", token=token, img=b64(FIRST))
            assert message["person_count"] == 1
            groups[token] = message["group_id"]
            assert token not in message["group_id"]
        assert len(set(groups.values())) == 3
    async with Sandbox(token="x") as sandbox, http_client_of(sandbox) as http_client:
        _, message = await ask(http_client, "addface", token="x", img=b64(FIRST))
        assert message["group_id"] == groups["x"]
    assert all("e" not in vendor._Group("e").id for _ in range(2))
