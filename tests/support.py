"""What several tests need: virtual time, a scripted vendor, pictures made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ParamSpec
from urllib.parse import parse_qs

import httpx
from hypothesis import settings

from aisolution_async import AsyncClient
from aisolution_async.integrations.instant import InstantLoop

P = ParamSpec("P")

LAST_RESORT = 600.0
"""Seconds after which a test that hangs fails. No test may need it: how long one takes says how busy the machine is."""

TOKEN = "tok-3n/secret+value=="
GROUP_ID = "LxiKPLIMGFpXzXas"


def examples(count: int) -> int:
    """So many generated examples in the run of the long tests, and a quarter of them every day."""
    return max(1, count * settings().max_examples // 100)


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=InstantLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


Script = Callable[[httpx.Request, int], httpx.Response | Awaitable[httpx.Response]]


NUMBER = "+6281387300008"


class Vendor(httpx.AsyncBaseTransport):
    """A transport that answers by a script: `script(request, number of the request)`.

    `NUMBER` in an answer stands for the number that was asked, as the vendor names it in each answer.
    """

    def __init__(self, script: Script) -> None:
        self.requests: list[httpx.Request] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = 0
        self._script = script

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self._script(request, len(self.requests) - 1)
            return _echoing(request, answer if isinstance(answer, httpx.Response) else await answer)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        self.closed += 1


def _echoing(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
    if not answer.is_stream_consumed or NUMBER.encode() not in answer.content:
        return answer
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    content = echo_number(answer.content, parse_qs(request.content.decode()))
    return httpx.Response(answer.status_code, content=content, headers=headers)


def echo_number(answer: bytes, form: Mapping[str, list[str]]) -> bytes:
    """The answer with the number that was asked in place of `NUMBER`."""
    (asked,) = form.get("number", [NUMBER])
    return answer.replace(json.dumps({"number": NUMBER})[1:-1].encode(), json.dumps({"number": asked})[1:-1].encode())


Answers = Callable[[int], object]
"""What to say to the request of this number: a message as JSON, or bytes, which are refused with 401."""


class ThreadVendor:
    """A vendor in a thread of its own: each request is answered by `answer`, which may block.

    `NUMBER` in an answer stands for the number that was asked.
    """

    def __init__(self, answer: Answers) -> None:
        self.requests: list[dict[str, list[str]]] = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                vendor.requests.append(form)
                said = answer(len(vendor.requests) - 1)
                body = said if isinstance(said, bytes) else echo_number(json.dumps(said).encode(), form)
                self.send_response(401 if isinstance(said, bytes) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Tests are quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 100

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is what several tests are about."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


VendorOf = Callable[[Answers], ThreadVendor]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """The URL of a server that treats each connection so, and closes it then."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def says(
    status: str, message: object = None, *, http: int = 200, headers: dict[str, str] | None = None
) -> httpx.Response:
    """An envelope."""
    return httpx.Response(http, content=json.dumps({"status": status, "message": message}), headers=headers)


def ok_whatsapp(whatsapp: str = "yes") -> httpx.Response:
    return says("OK", {"number": NUMBER, "whatsapp": whatsapp})


def in_turn(*answers: httpx.Response | Exception) -> Vendor:
    """A vendor that gives these answers one after the other, and the last one from then on."""

    def script(request: httpx.Request, number: int) -> httpx.Response:
        answer = answers[min(number, len(answers) - 1)]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    return Vendor(script)


def client_of(transport: httpx.AsyncBaseTransport, **options: Any) -> AsyncClient:
    """A client on `transport`."""
    return AsyncClient(TOKEN, base_url="https://vendor.example", transport=transport, **options)


def picture(seed: int, size: tuple[int, int] = (160, 120), *, form: str = "JPEG", quality: int = 90) -> bytes:
    """A picture with something in it, the same for the same seed."""
    import random

    from PIL import Image, ImageDraw

    rng = random.Random(seed)
    image = Image.new("RGB", (320, 240), tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = rng.randrange(280), rng.randrange(200)
        box = (x, y, x + rng.randrange(20, 160), y + rng.randrange(20, 120))
        colour = tuple(rng.randrange(256) for _ in range(3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    out = io.BytesIO()
    image.resize(size).save(out, form, **({"quality": quality} if form == "JPEG" else {}))
    return out.getvalue()


def flat_picture() -> bytes:
    """A picture with nothing in it."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(out, "JPEG")
    return out.getvalue()
