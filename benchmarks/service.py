"""How free the event loop of a web service stays while it compares faces: what its other endpoints take meanwhile.

The same FastAPI application twice, as its users write it: on our client, and on httpx with `data=`. `AT_ONCE` callers
compare two images of 1 MB each, without pause, while one more asks an endpoint that does nothing.
`python -m benchmarks.service '{...}'` is the application, in a process of its own.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.compare import cores
from benchmarks.server import settle
from benchmarks.table import print_table

AT_ONCE = 32
SUMMARY = f"A FastAPI service: what other endpoints take while {AT_ONCE} callers compare 2 x 1 MB without pause"

_IMAGE_BYTES, _QUICK_IMAGE_BYTES = 1_000_000, 20_000
_IMAGES = 8
_SECONDS, _QUICK_SECONDS = 15.0, 0.5
_ROUNDS = 3
_PAUSE = 0.005  # between two questions of the one who asks for nothing
_WAYS = ("nothing else", "ours", "httpx with data=")


# --------------------------------------------------------------------------------------------------- the application


def application(way: str, base_url: str, image_bytes: int) -> Any:
    """The service: `POST /compare/0/1` of two images that it has in memory, and `GET /health`."""
    fastapi = importlib.import_module("fastapi")
    # What a JPEG begins with, and then, as in a JPEG, bytes that look random.
    images = [b"\xff\xd8\xff\xe0" + os.urandom(image_bytes - 4) for _ in range(_IMAGES)]

    if way == "httpx with data=":
        httpx = importlib.import_module("httpx")
        url = f"{base_url}/v1/facecompare?token=benchmark"

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            async with httpx.AsyncClient(timeout=60) as app.state.http:
                yield

        app = fastapi.FastAPI(lifespan=lifespan)

        async def compare(first: int, second: int) -> float:
            form = {f"img{n}": base64.b64encode(images[i]).decode() for n, i in ((1, first), (2, second))}
            answer = (await app.state.http.post(url, data=form)).json()
            return float(answer["message"]["similarity"])

    else:
        ours = importlib.import_module("aisolution_async")
        integration = importlib.import_module("aisolution_async.integrations.fastapi")
        app = fastapi.FastAPI()
        integration.install(app, lambda: ours.AsyncClient("benchmark", base_url=base_url))

        async def compare(first: int, second: int) -> float:
            face = await integration.client_of(app).face_compare(images[first], images[second])
            return float(face.similarity)

    async def health() -> None:
        pass

    app.post("/compare/{first}/{second}")(compare)
    app.get("/health")(health)
    return app


async def serve(way: str, base_url: str, image_bytes: int) -> None:
    """Print the port, and serve until standard input ends."""
    uvicorn = importlib.import_module("uvicorn")
    app = application(way, base_url, image_bytes)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", loop="asyncio"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await task


# ------------------------------------------------------------------------------------------------------- the callers


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: str) -> None:
    """One request on an open connection, as cheap as can be."""
    writer.write(f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode())
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))


async def compare_on(port: int, done: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for first, second in itertools.cycle(itertools.permutations(range(_IMAGES), 2)):
            await ask(reader, writer, f"POST /compare/{first}/{second}")
            done.append(time.perf_counter())
    finally:
        writer.close()


async def measure(port: int, seconds: float, *, compares: bool) -> dict[str, float]:
    """Milliseconds of `GET /health`, and comparisons a second, over `seconds`."""
    done: list[float] = []
    took: list[float] = []
    tasks = [asyncio.create_task(compare_on(port, done)) for _ in range(AT_ONCE if compares else 0)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(min(2.0, seconds))  # all connections are open, and everybody waits for somebody
    done.clear()
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        await ask(reader, writer, "GET /health")
        took.append(1000 * (time.perf_counter() - now))
        await asyncio.sleep(_PAUSE)
    rate = len(done) / (time.perf_counter() - start)
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    if failed:
        failed[0].result()
    writer.close()
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(took), "asked": len(took), "rate": rate}


def main(*, quick: bool) -> None:
    """Print the table."""
    if missing := [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        print(f"\nservice: skipped, not installed: {', '.join(missing)} (pip install -e '.[bench]')")
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
    size = _QUICK_IMAGE_BYTES if quick else _IMAGE_BYTES
    vendor_options = json.dumps({"core": cores()[0]})
    vendor_command = [sys.executable, "-m", "benchmarks.server", vendor_options]
    with subprocess.Popen(vendor_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as vendor:
        assert vendor.stdin is not None
        assert vendor.stdout is not None
        base_url = f"http://127.0.0.1:{int(vendor.stdout.readline())}"
        for _ in range(1 if quick else _ROUNDS):
            for way in _WAYS:
                found[way].append(_measured(way, base_url, size, _QUICK_SECONDS if quick else _SECONDS))
        vendor.stdin.close()
    print(f"\n### service: {SUMMARY}\n")
    rows: list[tuple[str, ...]] = [("meanwhile", "p50, ms", "p99, ms", "max, ms", "comparisons/s")]
    for way, runs in found.items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        rows.append((way, *(f"{middle[name]:.1f}" for name in ("p50", "p99", "max", "rate"))))
    print_table(rows)


def _measured(way: str, base_url: str, image_bytes: int, seconds: float) -> dict[str, float]:
    spec = json.dumps({"way": way, "base_url": base_url, "image_bytes": image_bytes, "core": cores()[1]})
    command = [sys.executable, "-m", "benchmarks.service", spec]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        port = int(service.stdout.readline())
        figures = asyncio.run(measure(port, seconds, compares=way != "nothing else"))
        service.stdin.close()
        return figures


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    settle(given["core"])
    asyncio.run(serve(given["way"], given["base_url"], given["image_bytes"]))
