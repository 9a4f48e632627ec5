"""One call driven by hand: a store that keeps notes, a vendor that can be held, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Any
from urllib.parse import urlencode

import httpx

from aisolution_async import AISolutionError, AsyncClient, Call, Charge, Inbox, LedgerError
from aisolution_async.charges import Attempt, Tally
from aisolution_async.clock import today
from aisolution_async.errors import Key
from aisolution_async.ledger import Ask, Result, Started, Store, Stored, Verdict
from aisolution_async.ledger.store import Balance, Record
from aisolution_async.sending.call import Sending
from aisolution_async.sending.states import Over

from .support import Vendor

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
ADDRESS = "https://app.example.com/whatsapp"


class Notes(Store):
    """A store that gives leave to all, or answers as it is told, and notes what it is asked and told.

    `verdicts` are its answers to `begin` in turn, before it gives leave; an exception is raised. `stored` is what it
    finds. An operation named in `blocked` waits until `go` is set.
    """

    def __init__(
        self, *verdicts: Verdict | BaseException, stored: Stored | None = None, blocked: Iterable[str] = ()
    ) -> None:
        self.verdicts = [*verdicts]
        self.stored = stored
        self.blocked = {*blocked}
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.asks: list[Ask] = []
        self.results: list[Result] = []
        self.delivered: list[Result] = []
        self.places: list[Sequence[bytes]] = []
        self.watched: list[tuple[object, ...]] = []
        self.fails_to: set[str] = set()
        self.accepts = True

    async def _do(self, name: str) -> None:
        if name in self.blocked:
            self.reached.set()
            await self.go.wait()
        if name in self.fails_to:
            raise LedgerError(f"no {name}")

    async def open(self) -> None:
        await self._do("open")

    async def aclose(self) -> None:
        pass

    def identity(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        return blake2b(repr((endpoint, [*payload], key)).encode(), digest_size=16).digest()

    async def begin(self, ask: Ask) -> Verdict:
        self.asks.append(ask)
        await self._do("begin")
        verdict = self.verdicts.pop(0) if self.verdicts else Started(len(self.asks), ask)
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    async def end(self, started: Started, result: Result) -> None:
        self.results.append(result)  # on its way from the first step on
        await self._do("end")

    async def deliver(self, callbacks: Sequence[bytes], result: Result) -> bool:
        await self._do("deliver")
        self.delivered.append(result)
        self.places.append(callbacks)
        return self.accepts

    async def find(self, asks: Sequence[Ask]) -> list[Stored | None]:
        await self._do("find")
        return [self.stored for _ in asks]

    def watch(self, identity: bytes, waits: Callable[[], bool], tell: Callable[[], object]) -> None:
        self.watched.append((identity, waits, tell))

    async def resolve(self, call: Key | bytes, charge: Charge, *, attempt: int | None = None) -> int:
        raise NotImplementedError

    async def purge(self, older_than: timedelta | float) -> int:
        raise NotImplementedError

    def summary(self) -> Balance:
        raise NotImplementedError

    def attempts(self, *, unknown_only: bool = False) -> Iterator[Record]:
        raise NotImplementedError

    def held(self) -> Iterator[Record]:
        raise NotImplementedError

    def answers(self) -> Iterator[Record]:
        raise NotImplementedError


class HeldVendor(Vendor):
    """A vendor that answers when `go` is set, and says by `reached` that a request is there."""

    def __init__(self, answer: httpx.Response) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

        async def script(request: httpx.Request, number: int) -> httpx.Response:
            self.reached.set()
            await self.go.wait()
            return answer

        super().__init__(script)


class Fallen(httpx.AsyncBaseTransport):
    """A transport that no call is to reach."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")


def sending_of(client: AsyncClient, call: Call[Any], *, inbox: Inbox | None = None) -> Sending[Any]:
    """`call` on its way, as one of a batch if it has an inbox."""
    return Sending(client.shared, client.options, call, None if inbox is None else Tally(), inbox)


def reply_of(sending: Sending[Any]) -> Any:
    """The reply that it ended in."""
    assert isinstance(sending.state, Over)
    assert sending.state.error is None
    assert sending.state.reply is not None
    return sending.state.reply


def error_of(sending: Sending[Any]) -> AISolutionError:
    """The error that it ended in."""
    assert isinstance(sending.state, Over)
    assert sending.state.reply is None
    assert sending.state.error is not None
    return sending.state.error


def money_left(client: AsyncClient) -> int:
    """How many charges its budget would still set aside."""
    (budget,) = client.options.budgets
    found = 0
    while not budget.reserve("gliswadetail"):
        found += 1
    for _ in range(found):
        budget.settle("gliswadetail", FREE)
    return found


def charges(sending: Sending[Any]) -> list[Charge]:
    """What its attempts were charged."""
    return [attempt.charge for attempt in sending.attempts]


def spent(client: AsyncClient) -> tuple[int, int, int]:
    """What the client counted: charged, free, unknown."""
    return client.tally.charged, client.tally.free, client.tally.unknown


def attempt_of(charge: Charge = CHARGED, *, status: str | None = "OK", number: int = 1) -> Attempt:
    """An attempt of an earlier call."""
    return Attempt(charge, status, 200, today(), 0.5, number=number)


async def call_back(inbox: Inbox, number: str, whatsapp: str = "yes") -> None:
    """The vendor calls back."""
    await inbox.receive(inbox.url.rpartition("/")[2], urlencode({"number": number, "whatsapp": whatsapp}))


async def cut_off(work: Awaitable[Any], reached: asyncio.Event) -> None:
    """Start `work`, and cancel it once it is there."""
    task = asyncio.ensure_future(work)
    await reached.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
