"""Answers that come by callback: who waits for which number, and what to believe.

The vendor answers a look-up that named a callback by one GET, unsigned, with the result in its query ("Callback
method"). So the address has a part that nobody can guess, and only what was asked for and is not answered yet is
believed. Everybody else is told nothing, and counted.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from aisolution_async import clock
from aisolution_async.api import WORDS, WhatsAppDetail, WhatsAppProfile, WhatsAppState
from aisolution_async.charges import Attempt, Charge
from aisolution_async.checks import running_loop, seconds
from aisolution_async.errors import AISolutionError, ConfigurationError, Key
from aisolution_async.hiding import NotPickled, Redactor, Secret, forget_locals
from aisolution_async.ledger.store import LedgerError, Result, Store, problem_of

LONGEST_QUERY = 8 * 1024
"""Bytes of a callback's query: more is none of the vendor's."""

_REMEMBERED = 10_000
_SHORTEST_NATIONAL = 7


class Waiter(Protocol):
    """A call that waits for its answer."""

    @property
    def digits(self) -> str:
        """The number that was asked for, without plus or 00."""

    @property
    def has_asked(self) -> bool:
        """Whether a request of its own may be called back."""

    @property
    def known_by(self) -> bytes | None:
        """What a ledger knows its question by, None without one: two writings of a number are two questions."""

    @property
    def charges(self) -> Mapping[str, Charge]:
        """The charge by status, as its client has it."""

    async def called_back(self, reply: WhatsAppProfile, callbacks: Sequence[str], *, doubtful: bool = False) -> bool:
        """Here is the answer, to one of these numbers. Returns when it is recorded; False if it was there already.

        `doubtful`: it may be the callback of an earlier request for the number. Raises LedgerError if it cannot be
        recorded.
        """

    def follow(self, reply: WhatsAppProfile | None, error: AISolutionError | None) -> None:
        """The call that asked in this one's place has `reply`, or gives up with `error`; or, with neither, ask now."""


class Keeper(Protocol):
    """Who keeps what a call has set aside, or spent, for a callback that may come when it waits no longer."""

    def called_back_late(self, charge: Charge) -> bool:
        """It came, and cost this. False if nothing is set aside for it."""

    def called_back_to_another(self) -> bool:
        """It came, and another call has its charge. False if nothing was spent on the request that named it."""


@dataclass(slots=True, eq=False)
class _Kept:
    """The money that a call kept as it left: see `Inbox.owe`."""

    keeper: Keeper
    has_asked: bool


@dataclass(slots=True)
class InboxCounts:
    """What came: `accepted` answers; `repeated` ones; `unfinished`, which said neither yes nor no; `strange`:
    a number that nobody waits for, no number at all, or the wrong address.
    """

    accepted: int = 0
    repeated: int = 0
    unfinished: int = 0
    strange: int = 0


class Inbox(NotPickled):
    """Where the vendor's callbacks arrive.

    ```python
    inbox = Inbox("https://app.example.com/whatsapp")     # and mount a receiver there: see integrations
    profile = await client.whatsapp_detail("+62…", wait=inbox)
    ```

    `address` is where the receiver is mounted, as the vendor reaches it: `url` adds the part that nobody can guess.
    `patience`: seconds after which a callback is late, and the number is asked for again, without one. With a `ledger`
    (open before `url` is read), the address stays the same and what is outstanding is known after a restart; it is to
    be the ledger of the client that asks. `secret` sets the last part yourself, 16 characters or more.

    Raises ConfigurationError. An inbox belongs to one event loop.
    """

    _instead = "it holds the secret of its address. Make one in each process, with the same ledger, or with secret="

    def __init__(
        self, address: str, *, ledger: Store | None = None, secret: str | None = None, patience: float = 120.0
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError("the inbox's address is like https://app.example.com/whatsapp, without a query")
        if secret is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", secret):
            raise ConfigurationError("the inbox's secret is 16 to 200 letters, digits, - or _")
        seconds("patience", patience, endless=True)
        self.counts = InboxCounts()
        """What came so far."""
        self.patience = patience
        self._address = address.rstrip("/")
        self._ledger = ledger
        self._secret = secret or (secrets.token_urlsafe(24) if ledger is None else None)
        self._redactor: Redactor | None = None
        self._waiting: dict[str, list[Waiter]] = {}  # by number; the first of them asks
        self._taking: dict[str, asyncio.Task[bool]] = {}
        self._answered: OrderedDict[str, None] = OrderedDict()
        # By who left since: until when that may be called back, and what a ledger knows it by.
        self._asked: OrderedDict[str, tuple[float, bytes | None]] = OrderedDict()
        self._charges: Mapping[str, Charge] = WhatsAppDetail.endpoint.charges  # those of who asked last
        self._owed: dict[str, list[_Kept]] = {}  # by number: the money that is kept for a callback, oldest first

    @property
    def url(self) -> str:
        """What the vendor is given as `callback`. A secret: who has it can forge answers to what is outstanding."""
        return f"{self._address}/{self._known_secret()}"

    def redact(self, text: str) -> str:
        """`text` without the part that nobody can guess."""
        if self._redactor is None and self._secret is not None:
            self._redactor = Redactor(Secret(self._secret), WORDS)
        return text if self._redactor is None else self._redactor.text(text)

    @property
    def path(self) -> str:
        """The path of the address: where the receiver is mounted."""
        return urlsplit(self._address).path or "/"

    @property
    def outstanding(self) -> int:
        """How many numbers are waited for."""
        return len(self._waiting)

    async def receive(self, secret: str, query: str | bytes) -> None:
        """Take a callback: the last part of the path it came to, and its query as it was sent.

        When this returns, an answer that was waited for is recorded. Raises LedgerError if it cannot be: say so to the
        vendor (HTTP 503), and it may call again.
        """
        running_loop()
        is_ours = hmac.compare_digest(secret.encode(errors="replace"), self._known_secret().encode())
        reply = read(query) if is_ours else None
        del secret, query  # error reporters show the locals of a traceback
        if reply is None:
            self.counts.strange += 1
        elif reply.whatsapp not in (WhatsAppState.YES, WhatsAppState.NO):
            self.counts.unfinished += 1  # of other words, only an answer to a request tells what they cost
        else:
            try:
                await self._take(digits_of(reply.number or ""), reply)
            except BaseException as exc:
                forget_locals(exc)
                raise

    # ------------------------------------------------------------------------------------------- who waits

    def expect(self, call: Waiter) -> bool:
        """`call` waits for its answer. False if another asks for the same number already: then do not ask."""
        self._charges = call.charges
        waiting = self._waiting.setdefault(call.digits, [])
        if call not in waiting:
            waiting.append(call)
        return waiting[0] is call

    def forget(self, call: Waiter, reply: WhatsAppProfile | None = None, error: AISolutionError | None = None) -> None:
        """`call` waits no longer. If it was the one that asked, the others have what it has, or the next one asks."""
        waiting = self._waiting.get(call.digits, [])
        if call not in waiting:
            return
        asked = waiting[0] is call
        waiting.remove(call)
        if call.has_asked:
            self._asked[call.digits] = (clock.now() + self.patience, call.known_by)
            self._asked.move_to_end(call.digits)
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
        if reply is not None and reply.is_answer:
            self._remember(call.digits)
        if asked and (reply is not None or error is not None):
            others, waiting[:] = list(waiting), []
            for other in others:
                other.follow(reply, error)
        elif asked and waiting:
            waiting[0].follow(None, None)
        if not waiting:
            self._waiting.pop(call.digits, None)

    def owe(self, digits: str, keeper: Keeper, seconds: float, *, has_asked: bool) -> None:
        """A call for the number waits no longer: its `keeper` is told of a callback that comes until then.

        `has_asked`: the call named the callback itself, and did not wait for what another process, or an earlier run,
        had asked for.
        """
        kept = _Kept(keeper, has_asked)
        self._owed.setdefault(digits, []).append(kept)
        asyncio.get_running_loop().call_later(seconds, self._owe_no_more, digits, kept)

    def _owe_no_more(self, digits: str, kept: _Kept) -> None:
        owed = self._owed.get(digits, [])
        if kept in owed:
            owed.remove(kept)
        if not owed:
            self._owed.pop(digits, None)

    def _settle_owed(self, digits: str, charge: Charge, *, is_news: bool) -> None:
        """A callback came, and none of those that wait had asked for it: it is of one who left, the first who asked.

        What others keep stays theirs: each may be called back. `is_news`: nobody has this answer yet, as far as is
        known. Else another process has it, or a later answer: that process counts it if it asked, and we do if we did.
        """
        for kept in [*self._owed.get(digits, ())]:
            is_free = not (is_news or kept.has_asked)
            if kept.keeper.called_back_late(Charge.FREE if is_free else charge):
                self._owe_no_more(digits, kept)
                if not is_free:
                    break

    def _give_back_owed(self, digits: str) -> None:
        """A callback came that one who waits has counted, and had not asked for: it is of one who left."""
        owed = self._owed.get(digits, [])
        found = next((kept for kept in owed if kept.keeper.called_back_late(Charge.FREE)), None)
        found = found or next((kept for kept in owed if kept.keeper.called_back_to_another()), None)
        if found is not None:
            self._owe_no_more(digits, found)

    def _known_secret(self) -> str:
        if self._secret is None:
            assert self._ledger is not None
            self._secret = self._ledger.identity("inbox", [("address", self._address)]).hex()
        return self._secret

    async def _take(self, digits: str, reply: WhatsAppProfile) -> None:
        """Record an answer and hand it out. A second callback for the number waits until the first is recorded."""
        asked = self._asked_as(digits)
        if (under_way := self._taking.get(asked)) is None:
            task = self._taking[asked] = asyncio.create_task(self._deliver(asked, digits, reply))
            task.add_done_callback(lambda _: self._taking.pop(asked, None))
            await asyncio.shield(task)
            return
        if await asyncio.shield(under_way):
            self.counts.repeated += 1
        else:
            self.counts.strange += 1
        self._settle_owed(asked, self._result_of(reply).attempt.charge, is_news=self._ledger is None)

    async def _deliver(self, asked: str, digits: str, reply: WhatsAppProfile) -> bool:
        """Whether it was asked for, now or before."""
        accepted, result = False, self._result_of(reply)
        if waiting := self._waiting.get(asked):
            asker = waiting[0]
            until, known_by = self._asked.get(asked, (-math.inf, None))
            # A ledger knows which question waits, of those that it has.
            doubtful = clock.now() < until and asker.known_by in (None, known_by)
            is_anothers = not asker.has_asked
            accepted = await asker.called_back(reply, [digits, asked], doubtful=doubtful)
            if is_anothers and accepted:
                self._give_back_owed(asked)
            elif is_anothers:
                self._settle_owed(asked, result.attempt.charge, is_news=False)
            self.forget(asker, reply)
        else:
            if self._ledger is not None:
                places = [place(self._ledger, text) for text in (digits, *_national(digits))]
                accepted = await _record(self._ledger, places, result)
                if accepted:
                    self._remember(digits)
            self._settle_owed(asked, result.attempt.charge, is_news=accepted or self._ledger is None)
        if accepted:
            self.counts.accepted += 1
        elif waiting or digits in self._answered or asked in self._answered:
            self.counts.repeated += 1
        else:
            self.counts.strange += 1
            return False
        return True

    def _result_of(self, reply: WhatsAppProfile) -> Result:
        """The answer, where nobody who asked for it waits any more."""
        return result_of(reply, clock.today(), self._charges, number=2)

    def _asked_as(self, digits: str) -> str:
        """The number as we asked for it: callbacks add the country code."""
        if digits in self._waiting or digits in self._owed:
            return digits
        known = (self._waiting, self._answered, self._owed)
        national = [text for text in _national(digits) if any(text in some for some in known)]
        return national[0] if len(national) == 1 else digits

    def _remember(self, digits: str) -> None:
        self._answered[digits] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)


async def _record(ledger: Store, places: Sequence[bytes], result: Result) -> bool:
    try:
        return await ledger.deliver(places, result)
    except BaseException as exc:
        if not (problem := problem_of(exc)):
            raise
    raise LedgerError(problem)


def _national(digits: str) -> list[str]:
    """The numbers that may have been asked for: `digits` without a country code of one to three digits."""
    found = [digits[n:] for n in (1, 2, 3) if len(digits) - n >= _SHORTEST_NATIONAL]
    return [zero + text for text in found for zero in ("", "0")]


def read(query: str | bytes) -> WhatsAppProfile | None:
    """What a callback says; None if it says nothing of a number, or says a thing twice and differently.

    The person's text (`signature`) with an unescaped `&` in it would otherwise answer in the vendor's place.
    """
    if len(query) > LONGEST_QUERY:
        return None
    text = query.decode("utf-8", "replace") if isinstance(query, bytes) else query
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=50)
        plain: dict[str, str] = {}
        for name, value in pairs:
            folded = name.strip().casefold()
            meant = digits_of(value) or value if folded == "number" else value.strip().casefold()
            if plain.setdefault(folded, meant) != meant:
                return None
        said = dict(pairs)
        number = said.get("number", "")
        # A plus that was not escaped arrives as a space.
        said["number"] = f"+{number.strip()}" if number.startswith(" ") else number
        said["whatsapp"] = said.get("whatsapp", "").strip().lower()
        return WhatsAppProfile.model_validate(said) if digits_of(number) else None
    except (ValueError, ValidationError):
        return None


def digits_of(number: str) -> str:
    """What a number is known by here: its digits, without 00 in front. Empty if it is no number."""
    packed = number.strip().removeprefix("+")
    if not (packed.isascii() and packed.isdigit() and 5 <= len(packed) <= 20):
        return ""
    return packed.removeprefix("00")


class Identifies(Protocol):
    """What a ledger, or who uses one, tells questions apart by."""

    def identity(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        """See `Store.identity`."""


def place(ledger: Identifies, digits: str) -> bytes:
    """What a ledger knows the number's callback by."""
    return ledger.identity("callback", [("number", digits)])


def result_of(reply: WhatsAppProfile, asked_at: datetime, charges: Mapping[str, Charge], *, number: int) -> Result:
    """The answer as an attempt that is over, the `number`th of its call.

    Its charge is that of the same answer to a request. What of it is left for the callback is `charges.of_callback`'s.
    """
    charge = charges.get(f"OK:{reply.whatsapp}", charges["OK"])
    took = max((clock.today() - asked_at) / timedelta(seconds=1), 0.0)
    attempt = Attempt(charge, "OK", None, asked_at, took, number=number)
    return Result(attempt, reply=reply.to_record().encode(errors="replace"), answer=True)
