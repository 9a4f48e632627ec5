"""The pretended vendor: HTTP over a real socket, good and bad."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aisolution_async.charges import Tally
from aisolution_async.sandbox import Sandbox, vendor
from aisolution_async.sandbox.connection import LARGEST_BODY

from .pictures import FIRST, b64
from .sandboxes import NO, TOKEN, YES, bill, connected, last_answer, numbers, one_answer, post, settled


async def test_requests_of_one_connection_are_answered_in_order(sandbox: Sandbox) -> None:
    asked = [YES, NO, *numbers("no")[1:60]]
    picture = post({"img": b64(FIRST)}, endpoint="addface")
    async with connected(sandbox) as (reader, writer):
        writer.write(picture + b"".join(post({"number": number}) for number in asked))
        assert b'"person_count": 1' in (await one_answer(reader))[2]
        for number in asked:
            status, head, body = await one_answer(reader)
            assert status == 200
            assert "connection:" not in head
            assert json.loads(body)["message"]["number"] == number
        writer.write(post())
        assert (await one_answer(reader))[0] == 200
    assert sandbox.bill == bill(addface=(0, 1), gliswadetail=(len(asked) + 1, 0))


async def test_a_request_may_come_one_byte_at_a_time(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        for byte in post():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await one_answer(reader))[0] == 200


async def test_connections_stay_open_unless_asked_otherwise(sandbox: Sandbox) -> None:
    for data in (post(None, "connection: close"), post(version="1.0")):
        status, head, _ = await last_answer(sandbox, data + post())
        assert status == 200
        assert "connection: close" in head
    async with connected(sandbox) as (reader, writer):
        writer.write(post(None, "connection: keep-alive", version="1.0"))
        status, head, _ = await one_answer(reader)
        assert status == 200
        assert "connection: keep-alive" in head
        writer.write(post())
        assert (await one_answer(reader))[0] == 200
    assert sandbox.requests == {"gliswadetail": 4}


async def test_a_client_that_ends_its_side_still_gets_its_answer(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(post({"img": b64(FIRST)}, endpoint="searchface"))
        writer.write_eof()
        assert (await one_answer(reader))[0] == 200
        assert await reader.read() == b""
    async with connected(sandbox) as (reader, writer):
        writer.write(post()[:-5])
        writer.write_eof()
        assert await reader.read() == b""


async def test_chunked_bodies_are_read(sandbox: Sandbox) -> None:
    head = f"POST /v1/gliswadetail?token={TOKEN} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"number=%2B" + YES[1:].encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    async with connected(sandbox) as (reader, writer):
        writer.write(head.encode() + chunks)
        status, _, answer = await one_answer(reader)
        assert status == 200
        assert json.loads(answer)["message"]["number"] == YES


async def test_a_client_that_asks_first_is_told_to_go_on(sandbox: Sandbox) -> None:
    head, body = post(None, "Expect: 100-Continue").split(b"\r\n\r\n")
    async with connected(sandbox) as (reader, writer):
        for _ in range(2):
            writer.write(head + b"\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await one_answer(reader))[0] == 200
        # Behind another request: in its turn.
        writer.write(post({"img": b64(FIRST)}, endpoint="addface") + head + b"\r\n\r\n")
        assert b"person_count" in (await one_answer(reader))[2]
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await one_answer(reader))[0] == 200
        # Without waiting, or by HTTP/1.0: not at all.
        writer.write(head + b"\r\n\r\n" + body)
        await settled(sandbox)
        assert (await one_answer(reader))[0] == 200
    async with connected(sandbox) as (reader, writer):
        old = head.replace(b"HTTP/1.1", b"HTTP/1.0")
        writer.write(old + b"\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        writer.write(body)
        assert (await one_answer(reader))[0] == 200


async def test_whole_addresses_are_paths_too(sandbox: Sandbox) -> None:
    data = post().replace(b"POST /v1", b"POST http://127.0.0.1/v1")
    async with connected(sandbox) as (reader, writer):
        writer.write(data)
        assert (await one_answer(reader))[0] == 200


async def test_nobody_is_upgraded(sandbox: Sandbox) -> None:
    data = post(None, "connection: Upgrade", "upgrade: h2c")
    status, head, _ = await last_answer(sandbox, data + b"PRI * HTTP/2.0\r\n\r\n")
    assert status == 200
    assert "connection: close" in head


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/delface HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/delface HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/delface HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_cut(sandbox: Sandbox, data: bytes) -> None:
    status, head, _ = await last_answer(sandbox, data)
    assert status == 400
    assert "connection: close" in head
    assert sandbox.bill == Tally()


async def test_a_refusal_comes_after_the_answers_before_it(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(post({"img": b64(FIRST)}, endpoint="addface") + b"garbage\r\n\r\n")
        assert (await one_answer(reader))[0] == 200
        assert (await one_answer(reader))[0] == 400
        writer.write_eof()
        assert await reader.read() == b""


async def test_bodies_over_eight_mebibytes_are_refused_unread(sandbox: Sandbox) -> None:
    head = f"POST /v1/facecompare?token={TOKEN} HTTP/1.1\r\nhost: x\r\n"
    announced = f"{head}expect: 100-continue\r\ncontent-length: {LARGEST_BODY + 1}\r\n\r\n".encode()
    status, answer_head, _ = await last_answer(sandbox, announced)
    assert status == 413
    assert "connection: close" in answer_head
    # It goes on sending, and still can read the refusal.
    status, _, _ = await last_answer(sandbox, announced + bytes(LARGEST_BODY + 1))
    assert status == 413
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    chunked = f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk * 9 + b"0\r\n\r\n"
    status, _, _ = await last_answer(sandbox, chunked)
    assert status == 413
    assert sandbox.requests == {"facecompare": 3}
    assert sandbox.bill == bill(facecompare=(0, 3))


async def test_whoever_never_stops_sending_is_cut(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.sandbox.connection._LINGER", 0.01)
    async with connected(sandbox) as (reader, writer):
        while not sandbox._connections:
            await asyncio.sleep(0)
        (connection,) = sandbox._connections
        writer.write(b"hello\r\n\r\n")
        assert (await one_answer(reader))[0] == 400
        assert await reader.read() == b""
        await connection.lost


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /", b"x" * 70_000, b" HTTP/1.1\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nx: ", *[b"y" * 10_000] * 60],
        [b"\r\n" * 40_000],
    ],
)
async def test_floods_of_headers_are_refused(sandbox: Sandbox, pieces: list[bytes]) -> None:
    async with connected(sandbox) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        assert (await one_answer(reader))[0] == 431
        writer.write_eof()
        assert await reader.read() == b""


async def test_an_answer_counts_though_the_client_is_gone(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    original = sandbox._vendor.answer

    async def held(request: vendor.Request) -> vendor.Served:
        arrived.set()
        await go_on.wait()
        return await original(request)

    monkeypatch.setattr(sandbox._vendor, "answer", held)
    async with connected(sandbox) as (_, writer):
        writer.write(post() + post({"number": NO}))
        await arrived.wait()
        (connection,) = sandbox._connections
        writer.transport.abort()
        connection.cut()
        await connection.lost
    go_on.set()
    await settled(sandbox)
    assert sandbox.bill == bill(gliswadetail=(2, 0))


async def test_a_client_that_does_not_read_gets_no_more_answers(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (reader, writer):
        writer.write(post())
        await one_answer(reader)
        (connection,) = sandbox._connections
        connection.pause_writing()
        writer.write(post() + post())
        while not connection._serving:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert sandbox.bill.total == 1
        connection.resume_writing()
        await one_answer(reader)
        await one_answer(reader)
    assert sandbox.bill.total == 3


async def test_a_bug_is_an_internal_error_and_is_reported(sandbox: Sandbox) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def broken(*_: object) -> Any:
        raise RuntimeError("a bug")

    sandbox._vendor._handlers["delface"] = broken
    async with connected(sandbox) as (reader, writer):
        writer.write(post(endpoint="delface") + post())
        assert (await one_answer(reader))[0] == 500
        assert (await one_answer(reader))[0] == 200
    assert [str(context["exception"]) for context in reported] == ["a bug"]
    assert sandbox.bill == bill(delface=(0, 1), gliswadetail=(1, 0))
