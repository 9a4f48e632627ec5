"""The pretended vendor on a socket: `Sandbox`, and who is connected to it."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from aisolution_async.hiding import NotPickled
from aisolution_async.sandbox import control, images
from aisolution_async.sandbox.bill import Entry
from aisolution_async.sandbox.callbacks import Outstanding
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.connection import Visitor
from aisolution_async.sandbox.desk import Desk
from aisolution_async.sandbox.faults import Fault
from aisolution_async.sandbox.magic import magic_number
from aisolution_async.sandbox.vendor import DueCallback, Request, Served, Vendor

HOST = "127.0.0.1"


class Sandbox(NotPickled):
    """The vendor, pretended, on a socket of 127.0.0.1, in the running event loop.

    ::

        async with Sandbox() as sandbox:
            async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
                ...
            sandbox.bill  # what the server says it charged

    `port` 0 takes a free one. `token` and `tokens` are all accepted, each with face groups of its own.
    `whatsapp_available` may be changed at any time: False is a vendor whose WhatsApp service is down.
    `callbacks_anywhere` lets callbacks go to addresses other than loopback; each is given `callback_timeout`
    seconds, and is made `callback_delay` seconds (on `clock`) after it was asked for. `faults` go wrong from the
    start, and `seed` decides which requests they hit. Raises ValueError for an empty token or delays below 0. What is
    documented by the vendor and what is assumed of it is listed in `aisolution_async.sandbox.vendor`. A sandbox that
    was closed cannot be started again.

    Any documented answer can be had without configuration: `sandbox.number("checking-twice")` is a number that is
    answered so, `sandbox.images.status("FAIL")` such a picture. `{url}/_sandbox/` shows and sets all of this to
    programs in any language on the same machine; see `aisolution_async.sandbox.control`.
    """

    _instead = "it listens on a socket. Hand over its url and token"

    images = images
    """Pictures that say themselves what they are answered: `sandbox.images.person("alice")`."""

    number = staticmethod(magic_number)
    """A number that is answered as its name says: `sandbox.number("no", country="PH")`."""

    def __init__(
        self,
        port: int = 0,
        *,
        token: str = "sandbox-token",  # noqa: S107  # opens nothing but this sandbox
        tokens: Iterable[str] = (),
        whatsapp_available: bool = True,
        callbacks_anywhere: bool = False,
        callback_timeout: float = 5.0,
        callback_delay: float = 0.0,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        accepted = (token, *tokens)
        if not all(accepted):
            raise ValueError("a token is not empty")
        if callback_timeout < 0 or callback_delay < 0:
            raise ValueError("callback_timeout and callback_delay are seconds, 0 or more")
        self.token = token
        """The token that is accepted, or the first of them."""
        self.clock = Clock() if clock is None else clock
        """The sandbox's time: `sandbox.clock.advance(20)`."""
        self._vendor = Vendor(
            accepted,
            whatsapp_available=whatsapp_available,
            callbacks_anywhere=callbacks_anywhere,
            now=self.clock.now,
        )
        self.desk = Desk(
            self._vendor, self.clock, faults, seed, callback_timeout=callback_timeout, callback_delay=callback_delay
        )
        """What is answered, and what that costs, apart from the socket."""
        self.bill = self.desk.bill
        """What was answered, by endpoint and charge, delivered or not; see `Bill` for what counts."""
        self.requests = self.desk.requests
        """Whole requests that came in, by endpoint, whatever was answered."""
        self.callbacks = self.desk.callbacks.made
        """The latest callbacks, in the order in which they ended."""
        self.faults = self.desk.faults
        """What goes wrong: `sandbox.faults.add(Fault("reset-after", rate=0.02))`."""
        self._port = port
        self._server: asyncio.Server | None = None
        self._closing = False
        self._closed = asyncio.Event()
        self._connections: set[Visitor] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        where = "closed" if self._closing else self.url if self._server is not None else "not started"
        return f"<Sandbox {where}>"

    @property
    def port(self) -> int:
        """The port it listens on. Raises RuntimeError before it was started."""
        if self._server is None:
            raise RuntimeError("the sandbox was not started: `async with Sandbox() as sandbox:`")
        return self._port

    @property
    def url(self) -> str:
        """The base URL, as "http://127.0.0.1:PORT". Raises RuntimeError before it was started."""
        return f"http://{HOST}:{self.port}"

    @property
    def whatsapp_available(self) -> bool:
        """Whether gliswadetail has answers; False is a vendor whose WhatsApp service is down."""
        return self._vendor.whatsapp_available

    @whatsapp_available.setter
    def whatsapp_available(self, available: bool) -> None:
        self._vendor.whatsapp_available = available

    @property
    def faces(self) -> Mapping[str, Mapping[str, int]]:
        """How often each person was added, by person id, by group id."""
        return self._vendor.faces

    @property
    def outstanding(self) -> tuple[Outstanding, ...]:
        """The callbacks that were asked for and are not made yet, in the order in which they were asked for."""
        return self.desk.callbacks.outstanding

    def reset(self) -> None:
        """Be as when it was started: nothing asked, added or billed, its first faults, the clock at 0.

        Answers and callbacks under way are dropped, unbilled, and their connections cut; others stay open. Like all of
        this class it belongs to the event loop that the sandbox was started in: from another thread, `POST
        /_sandbox/reset` does the same.
        """
        # It may be asked for by a request to the sandbox itself, which is still to be answered.
        current = asyncio.current_task()
        for connection in self._connections:
            if connection.serving not in (None, current):
                connection.cut()
        for task in self._tasks - {current}:
            task.cancel()
        self.desk.reset()
        if self._server is not None:
            self.clock.start()

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken, RuntimeError if started before or without Pillow."""
        if self._server is not None or self._closing:
            raise RuntimeError("a sandbox can be started once")
        if importlib.util.find_spec("PIL") is None:
            raise RuntimeError("the sandbox needs Pillow: pip install 'aisolution-async[cli]'")
        loop = asyncio.get_running_loop()
        self.clock.start()
        # A client may open a thousand connections at once, and a full backlog costs it a second.
        self._server = await loop.create_server(lambda: Visitor(self), HOST, self._port, backlog=2048)
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop: every connection is cut, and every answer and callback under way is dropped, unbilled."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        while self._tasks or self._connections:
            for task in self._tasks:
                task.cancel()
            for connection in self._connections:
                connection.cut()
            await asyncio.wait([*self._tasks, *(connection.lost for connection in self._connections)])
            # A task leaves its set in a callback that the loop has yet to run.
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
        self._closed.set()

    async def serve_forever(self) -> None:
        """Start if need be, serve until cancelled or closed from elsewhere, and close."""
        if self._server is None:
            await self.start()
        try:
            await self._closed.wait()
        finally:
            await self.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # What the connections use: see `connection.Host`.

    def joined(self, connection: Visitor) -> bool:
        """Whether a connection that has just come in is welcome."""
        self._connections.add(connection)
        return not self._closing

    def left(self, connection: Visitor) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the sandbox is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def answer(self, request: Request) -> Served:
        """What a request is answered, by the vendor or about the sandbox itself."""
        if control.is_at(request.path):
            return control.answer(self.desk, request, self.reset)
        return await self.desk.answer(request)

    def account(self, answer: Served) -> Entry | None:
        """Put an answer on the bill."""
        return self.desk.account(answer)

    def call_back(self, callbacks: tuple[DueCallback, ...]) -> None:
        """Make these callbacks, one after the other, each when it is due."""
        self.run(self.desk.callbacks.make(callbacks, self.desk.clock.now()))
