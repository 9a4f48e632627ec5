"""The bytes of the form: servers decode from them what `curl --data-urlencode` would have sent."""

from __future__ import annotations

import base64
import io
import random
import shutil
import socket
import string
import subprocess
import threading
from pathlib import Path
from urllib.parse import parse_qsl, quote_plus

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from werkzeug.formparser import FormDataParser

from aisolution_async.wire.form import CONTENT_TYPE, Form

STEP = 192 * 1024  # bytes of an image that are encoded in one go
_ALPHABET = string.ascii_letters + string.digits + "+/"


def body_of(*fields: tuple[str, str | bytes]) -> bytes:
    form = Form(fields)
    body = b"".join(form)
    assert len(body) == form.length
    return body


def test_the_contracts_examples() -> None:
    # The commands of the contract's page, and what curl makes of them.
    assert body_of(("callback", "https://YOUR_CALLBACK_URL"), ("number", "81387300008")) == (
        b"callback=https%3A%2F%2FYOUR_CALLBACK_URL&number=81387300008"
    )
    assert body_of(("person_id", "personId")) == b"person_id=personId"
    image = bytes(range(256))
    # Of the characters of base64, a form gives a meaning of its own to these two only.
    encoded = base64.b64encode(image).replace(b"+", b"%2B").replace(b"=", b"%3D")
    assert b"/" in encoded
    assert body_of(("img1", image), ("img2", image)) == b"img1=" + encoded + b"&img2=" + encoded


@given(st.lists(st.tuples(st.sampled_from(["img1", "number", "a b"]), st.binary(max_size=200) | st.text()), max_size=4))
@example([("img", b"\xfb\xff" * (STEP // 2 + 1))])
@example([("img", b"x" * STEP), ("img", b"y" * (STEP + 1)), ("img", b"z" * (STEP - 1))])
@example([("img1", b"x" * (STEP - 2)), ("number", "+1"), ("img2", b""), ("img1", b"\xfb\xef\xbe" * STEP)])
def test_a_form_parses_to_what_it_was_made_of(fields: list[tuple[str, str | bytes]]) -> None:
    body = body_of(*fields)
    parsed = parse_qsl(body.decode("ascii"), keep_blank_values=True)
    expected = [(n, v if isinstance(v, str) else base64.b64encode(v).decode()) for n, v in fields]
    assert parsed == expected


# Every character of base64 beside every other, each way to pad it, and more than one piece.
_PAIRS = "".join(a + b for a in _ALPHABET for b in _ALPHABET)
_SERVED: list[tuple[str, str | bytes]] = [
    ("img1", base64.b64decode(_PAIRS)),
    ("img2", base64.b64decode(_PAIRS) + b"\xfb"),
    ("img3", random.Random(1).randbytes(STEP + 2)),
    ("callback", "https://x.example/a/b?c=d&e=f+g%20h"),
    ("number", "+6281387300008"),
]
_DECODED = [(name, value if isinstance(value, str) else base64.b64encode(value).decode()) for name, value in _SERVED]


async def test_the_servers_of_python_decode_what_was_sent() -> None:
    body = body_of(*_SERVED)
    assert parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True) == _DECODED

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", CONTENT_TYPE.encode())]}
    async with Request(scope, receive).form() as form:
        assert form.multi_items() == _DECODED

    _, values, _ = FormDataParser().parse(io.BytesIO(body), CONTENT_TYPE, len(body))
    assert list(values.items(multi=True)) == _DECODED

    async def answer(request: web.Request) -> web.Response:
        assert list((await request.post()).items()) == _DECODED
        return web.Response()

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestClient(TestServer(app)) as client:
        async with client.post("/", data=body, headers={"Content-Type": CONTENT_TYPE}) as response:
            assert response.status == 200


# Each prints the names and values of the form on its input, one a line.
_PROGRAMS = {
    "node": (
        ("node", "form.js"),
        """
        const body = require("fs").readFileSync(0, "latin1");
        const old = Object.entries(require("querystring").parse(body));
        const now = [...new URLSearchParams(body)];
        if (JSON.stringify(old) !== JSON.stringify(now)) throw new Error("its two parsers differ");
        console.log(now.flat().join("\\n"));
        """,
    ),
    "php": (
        ("php", "form.php"),
        """<?php
        parse_str(file_get_contents("php://stdin"), $form);
        foreach ($form as $name => $value) echo "$name\\n$value\\n";
        """,
    ),
    "java": (
        ("java", "Form.java"),
        """
        import java.net.URLDecoder;
        import java.nio.charset.StandardCharsets;
        class Form {
            public static void main(String[] args) throws Exception {
                for (String pair : new String(System.in.readAllBytes(), "ISO-8859-1").split("&"))
                    for (String half : pair.split("=", 2))
                        System.out.println(URLDecoder.decode(half, StandardCharsets.UTF_8));
            }
        }
        """,
    ),
    "go": (
        ("go", "run", "form.go"),
        """
        package main
        import ("fmt"; "net/http"; "os")
        func main() {
            request, _ := http.NewRequest("POST", "/", os.Stdin)
            request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
            if err := request.ParseForm(); err != nil { panic(err) }
            for name, values := range request.PostForm { fmt.Println(name); fmt.Println(values[0]) }
        }
        """,
    ),
    "ruby": (
        ("ruby", "form.rb"),
        """
        require "uri"
        puts URI.decode_www_form(STDIN.binmode.read).flatten
        """,
    ),
}


@pytest.mark.parametrize("language", _PROGRAMS)
def test_the_servers_of_other_languages_decode_what_was_sent(language: str, tmp_path: Path) -> None:
    command, program = _PROGRAMS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    (tmp_path / command[-1]).write_text(program.strip())
    ran = subprocess.run(command, cwd=tmp_path, input=body_of(*_SERVED), stdout=subprocess.PIPE, check=True)
    lines = ran.stdout.decode().splitlines()
    assert dict(zip(lines[::2], lines[1::2], strict=True)) == dict(_DECODED)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("value", ["a b+c/d=e~f*g-h_i.jé!()'\"\\%&", "https://x.example/?a=1&b=2", "+62813", "\n\t"])
def test_byte_for_byte_what_curl_sends(value: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = bytearray()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < len(quote_plus(value)) + 2:
                    got.extend(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        command = ["curl", "-s", "--noproxy", "*", "--max-time", "20", url, "--data-urlencode", f"x={value}"]
        subprocess.run(command, check=True)
        thread.join()
    assert bytes(got.split(b"\r\n\r\n", 1)[1]) == body_of(("x", value))


def test_pieces_are_small_and_given_back() -> None:
    form = Form([("img1", b"\xfb\xef\xbe" * 333_333), ("img2", random.Random(1).randbytes(1_000_000))])
    sizes = [len(piece) for piece in form]
    # Every character of the first image is a plus, which takes three bytes; few are of one like the second.
    assert max(sizes) <= 3 * STEP * 4 // 3 + 16
    assert max(sizes[-4:]) <= 2 * 1.1 * STEP * 4 // 3
    assert sum(sizes) == form.length
    with pytest.raises(httpx.StreamConsumed):
        next(iter(form))


@pytest.mark.parametrize("size", [60_000, 100_000])
def test_two_small_photos_are_one_piece(size: int) -> None:
    # So that the whole request leaves in one write.
    photos = [random.Random(seed).randbytes(size) for seed in range(2)]
    form = Form([("img1", photos[0]), ("img2", photos[1])])
    whole = form.whole()
    assert whole is not None
    assert parse_qsl(b"".join(whole).decode("ascii")) == [
        (f"img{n}", base64.b64encode(photo).decode()) for n, photo in enumerate(photos, 1)
    ]


async def test_it_is_an_async_stream_too() -> None:
    assert b"".join([piece async for piece in Form([("a", b"1"), ("b", "2")])]) == b"a=MQ%3D%3D&b=2"
    assert repr(Form([("secret", "value")])) == "<Form of 12 bytes>"
