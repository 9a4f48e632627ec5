"""The bytes of the form: what `curl --data-urlencode` sends."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
from urllib.parse import parse_qsl, quote_plus

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aisolution_async.wire.form import Form

PIECE = 3 * 48 * 1024


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
    encoded = base64.b64encode(image).replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D")
    assert body_of(("img1", image), ("img2", image)) == b"img1=" + encoded + b"&img2=" + encoded


@given(st.lists(st.tuples(st.sampled_from(["img1", "number", "a b"]), st.binary(max_size=200) | st.text()), max_size=4))
@example([("img", b"\xfb\xff" * (PIECE // 2 + 1))])
@example([("img", b"x" * PIECE), ("img", b"y" * (PIECE + 1)), ("img", b"z" * (PIECE - 1))])
def test_a_form_parses_to_what_it_was_made_of(fields: list[tuple[str, str | bytes]]) -> None:
    body = body_of(*fields)
    parsed = parse_qsl(body.decode("ascii"), keep_blank_values=True)
    expected = [(n, v if isinstance(v, str) else base64.b64encode(v).decode()) for n, v in fields]
    assert parsed == expected


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
    form = Form([("img1", b"\xff" * 1_000_000), ("img2", b"\xff" * 1_000_000)])
    sizes = [len(piece) for piece in form]
    assert max(sizes) <= 3 * PIECE * 4 // 3 + 16  # every character of such an image takes three bytes
    assert sum(sizes) == form.length
    with pytest.raises(httpx.StreamConsumed):
        next(iter(form))


async def test_it_is_an_async_stream_too() -> None:
    assert b"".join([piece async for piece in Form([("a", b"1"), ("b", "2")])]) == b"a=MQ%3D%3D&b=2"
    assert repr(Form([("secret", "value")])) == "<Form of 12 bytes>"
