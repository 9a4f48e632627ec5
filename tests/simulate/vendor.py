"""The pretended vendor: it bills a request before it answers, and what its bill says is the truth."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from aisolution_async.wire.transport import Withdrawn

from .plan import Behaviour

if TYPE_CHECKING:
    from .world import Process, World

FLYING, UNSENT, FREE, CHECKING, ANSWERED, UNKNOWN = "flying", "not sent", "free", "checking", "answered", "unknown"


class Kind(NamedTuple):
    """How the vendor bills a request, and what whoever sent it can know: `view`, once the answer is there."""

    is_billed: bool
    view: str
    answer: Callable[[Request], httpx.Response | Exception | None]


class Request:
    """One request: on the bill once, at most."""

    def __init__(
        self, number: int, question: int, text: str, process: Process, callback: str | None, endpoint: str
    ) -> None:
        self.number, self.question, self.text, self.process, self.callback = number, question, text, process, callback
        self.endpoint = endpoint
        self.behaviour: Behaviour
        self.is_billed = self.is_billed_by_callback = False
        self.is_counted_as_callback = False  # by a call that waited for it
        self.called_back: Process | None = None  # who took its answer last
        self.takers: list[Process] = []  # whoever took it
        self.is_counted_elsewhere = False  # by a call of another process than the one that asked
        self.view = FLYING
        self.is_over = False  # the vendor has answered
        self.is_over_at = math.inf
        self.is_settled = False  # by a person
        self.is_resolved_free = False
        self.is_lifted = False  # an answer to the question is in the ledger
        self.begun_at = asyncio.get_running_loop().time()  # before it has a connection
        self.left_at = 0.0
        self.answered_at = 0.0
        self.callbacks_left = 0
        self.called_back_at = 0.0  # the loop's time
        self.callbacks_made = 0
        self.future: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        self.has_arrived = False  # over the network: whole, or never will
        self.said: httpx.Response | None = None  # over the network
        self.answer_here: Callable[[httpx.Response | Exception | None], None] | None = None  # in place of the future

    @property
    def token(self) -> str:
        """What its answer says, and no other."""
        return f"answer-to-{self.number}."

    def __repr__(self) -> str:
        return f"request {self.number} (q{self.question}, {self.behaviour.kind}, {self.process.name})"


def _says(status: str, message: object = None, **headers: str) -> httpx.Response:
    return httpx.Response(200, content=json.dumps({"status": status, "message": message}).encode(), headers=headers)


def _profile(request: Request, whatsapp: str) -> httpx.Response:
    if request.endpoint == "facecompare":
        return _says("OK", {"similarity": 97.5, "result": "SAME PERSON", "signature": request.token})
    if request.endpoint == "searchface":
        return _says("OK", [{"confidence": 80, "person_id": request.token}])
    return _says("OK", {"number": request.text, "whatsapp": whatsapp, "signature": request.token})


_ANOTHER = "+6289987654321"

KINDS: dict[str, Kind] = {
    "ok": Kind(True, ANSWERED, lambda r: _profile(r, "yes")),
    "no": Kind(True, ANSWERED, lambda r: _profile(r, "no")),
    "checking": Kind(False, CHECKING, lambda r: _profile(r, "checking")),
    "unavailable": Kind(False, FREE, lambda r: _profile(r, "unavailable")),
    "later": Kind(False, FREE, lambda _: _says("RETRY_LATER", "busy", **{"Retry-After": "1"})),
    "fail": Kind(False, FREE, lambda _: _says("FAIL", "no")),
    "busy": Kind(False, FREE, lambda _: httpx.Response(503, content=b"busy")),
    "slow-down": Kind(False, FREE, lambda _: httpx.Response(429, content=b"", headers={"Retry-After": "2"})),
    "refused": Kind(False, FREE, lambda _: httpx.Response(401, content=b"who are you")),
    "unconnected": Kind(False, UNSENT, lambda _: httpx.ConnectError("refused")),
    "lost": Kind(True, UNKNOWN, lambda _: httpx.ReadError("reset")),
    "lost-unbilled": Kind(False, UNKNOWN, lambda _: httpx.ReadError("reset")),
    "half-written": Kind(False, UNKNOWN, lambda _: httpx.WriteError("reset")),
    "silent": Kind(True, UNKNOWN, lambda _: None),
    "silent-unbilled": Kind(False, UNKNOWN, lambda _: None),
    "broken": Kind(True, UNKNOWN, lambda _: httpx.Response(500, content=b"<html>")),
    "broken-unbilled": Kind(False, UNKNOWN, lambda _: httpx.Response(502, content=b"<html>")),
    "garbage": Kind(True, UNKNOWN, lambda r: httpx.Response(200, content=_profile(r, "yes").content[:-9])),
    "garbage-unbilled": Kind(False, UNKNOWN, lambda _: httpx.Response(200, content=b"welcome to the internet")),
    "odd": Kind(True, UNKNOWN, lambda _: _says("MAYBE", "who knows")),
    "odd-unbilled": Kind(False, UNKNOWN, lambda _: _says("NEVER", "who knows")),
    "contradiction": Kind(
        True, UNKNOWN, lambda _: httpx.Response(200, content=b'{"status": "OK", "status": "FAIL", "message": null}')
    ),
    "misfit": Kind(True, UNKNOWN, lambda _: _says("OK", "a text")),
    "another": Kind(
        True, UNKNOWN, lambda r: _says("OK", {"number": _ANOTHER, "whatsapp": "yes", "signature": r.token})
    ),
}

_OF_NUMBERS = {"checking": "ok", "unavailable": "ok", "another": "ok", "fail": "refused"}
"""What is said of numbers alone, and what is said in its place of pictures."""


class Vendor:
    """Takes requests, bills them, answers them, and calls back."""

    def __init__(self, world: World) -> None:
        self.requests: list[Request] = []
        self._world = world
        self._calls: set[asyncio.Task[None]] = set()

    def take(
        self, question: int, text: str, process: Process, callback: str | None, endpoint: str = "gliswadetail"
    ) -> Request:
        """A request begins."""
        turn = sum(each.question == question for each in self.requests)
        request = Request(len(self.requests) + 1, question, text, process, callback, endpoint)
        behaviour = self._world.plan.behaviours.get((question, turn)) or Behaviour()
        if endpoint != "gliswadetail" and behaviour.kind in _OF_NUMBERS:
            behaviour = behaviour._replace(kind=_OF_NUMBERS[behaviour.kind])
        request.behaviour = behaviour
        self.requests.append(request)
        return request

    def of(self, question: int) -> list[Request]:
        """The requests that left, at a question."""
        return [each for each in self.requests if each.question == question and each.view != UNSENT]

    @property
    def billed(self) -> int:
        return sum(each.is_billed for each in self.requests)

    def is_done_with(self, question: int) -> bool:
        """Whether all is on the bill that will ever be for this question."""
        return all(each.is_over and not each.callbacks_left for each in self.of(question))

    def leave(self, request: Request) -> None:
        """Its first byte is out: nothing that becomes of its process keeps it from the vendor."""
        request.left_at = self._world.loop.time()
        self._later(request.behaviour.receive, self.receive, request)

    async def rest(self) -> None:
        """Until nothing more is to be answered or called back."""
        while any(not (each.is_over and not each.callbacks_left) for each in self.requests if each.view != UNSENT):
            await asyncio.sleep(10)
        while self._calls:
            await asyncio.wait(self._calls)

    def receive(self, request: Request, *, is_whole: bool = True) -> None:
        """It is there, or so much of it that it is answered, and not billed."""
        behaviour = request.behaviour
        kind = KINDS[behaviour.kind]
        if kind.is_billed and is_whole:
            self._bill(request)
        if request.callback is not None:
            for after, word in behaviour.callbacks:
                request.callbacks_left += 1
                self._later(max(behaviour.answer + after, 0.0), self._call_back, request, word)
        self._world.note(f"the vendor has {request}: {'billed' if request.is_billed else 'not billed'}")
        self._later(behaviour.answer, self._answer, request)
        self._world.event("a request is there")

    def _bill(self, request: Request) -> None:
        request.is_billed = True

    def _answer(self, request: Request) -> None:
        request.is_over, request.is_over_at = True, self._world.loop.time()
        answer = KINDS[request.behaviour.kind].answer(request)
        if request.answer_here is not None:
            request.answer_here(answer)
        elif answer is None or request.future.done():
            return
        elif isinstance(answer, Exception):
            request.future.set_exception(answer)
        else:
            request.future.set_result(answer)
        self._world.event("a request is answered")

    def _call_back(self, request: Request, word: str) -> None:
        task = asyncio.get_running_loop().create_task(self._make(request, word))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _make(self, request: Request, word: str, again: int = 2) -> None:
        """A callback; billed when it is first made, if the number was not answered, for money, in the meantime."""
        if word in ("yes", "no") and not request.is_billed and not self._is_answered_since(request):
            request.is_billed = request.is_billed_by_callback = True
        request.called_back_at = self._world.loop.time()
        request.callbacks_made += 1
        self._world.note(f"the vendor calls back: {request} {word}")
        assert request.callback is not None
        query = urlencode({"number": request.text, "whatsapp": word, "signature": request.token})
        taken = await self._world.receive(request, urlsplit(request.callback).path.rpartition("/")[2], query)
        if not taken and again:
            await asyncio.sleep(20)
            await self._make(request, word, again - 1)
        else:
            request.callbacks_left -= 1

    def _is_answered_since(self, request: Request) -> bool:
        """The number was answered to another request, which was charged: the callback of a mild vendor is free then.

        If it knew in time: a callback that is on its way with the answer is charged.
        """
        before = self._world.loop.time() - 1.0
        return not self._world.plan.is_strict and any(
            each.is_billed
            and each.is_over_at < before
            and not each.is_billed_by_callback
            and each.left_at >= request.left_at
            and each is not request
            for each in self.of(request.question)
        )

    def _later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        self._world.loop.call_later(seconds, function, *arguments)


class Wire(httpx.AsyncBaseTransport):
    """The way of one process to the vendor."""

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process
        self._is_closed = False
        self._under_way: dict[int, Request] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        world, process = self._world, self._process
        if self._is_closed or process.is_dead:
            raise httpx.ConnectError("closed")
        await request.aread()
        form = parse_qs(request.content.decode())
        (text,), (callback,) = form["number"], form.get("callback", [None])
        question = int(text[-3:])
        flight = request.extensions["aisolution.flight"]
        flight.left = False
        asked = world.vendor.take(question, text, process, callback)
        asked.view = UNSENT
        kind = KINDS[asked.behaviour.kind]
        process.event("a request begins")
        await asyncio.sleep(asked.behaviour.connect)
        while (left := process.stalled_until - world.loop.time()) > 0:
            await asyncio.sleep(left)
        if kind.view == UNSENT or self._is_closed or process.is_dead:
            raise httpx.ConnectError("refused")
        if flight.may_leave is not None and not flight.may_leave():
            raise Withdrawn
        flight.left = True
        world.laws.departure(asked)
        asked.view = FLYING
        world.vendor.leave(asked)
        self._under_way[asked.number] = asked
        try:
            process.event("a request left")
            response = await asked.future
        except BaseException:
            asked.view = UNKNOWN
            raise
        finally:
            self._under_way.pop(asked.number, None)
        if process.is_dead:
            asked.view = UNKNOWN
            raise httpx.ReadError("dead")
        asked.view, asked.answered_at = kind.view, world.today()
        process.event("an answer is there")
        return response

    def die(self) -> None:
        """Its process is no more."""
        self._is_closed = True
        for request in self._under_way.values():
            request.view = UNKNOWN

    async def aclose(self) -> None:
        """What is under way is lost."""
        self._is_closed = True
        for request in list(self._under_way.values()):
            if not request.future.done():
                request.future.set_exception(httpx.ReadError("closed"))
