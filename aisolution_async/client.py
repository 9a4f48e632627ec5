"""The client: one pool, and the doors to it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import os
import re
import urllib.request
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from aisolution_async.api import (
    ENDPOINTS,
    AddedFace,
    AddFace,
    Call,
    DeletedFace,
    DeleteFace,
    FaceCompare,
    FaceComparison,
    FaceMatches,
    IdHolding,
    ImageSource,
    R,
    SearchFace,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.batch import DRAIN_TIMEOUT, Batch, Load, Recheck
from aisolution_async.charges import Attempt, Charge, Tally
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError, Key
from aisolution_async.hiding import NotPickled, Secret, forget_locals
from aisolution_async.inbox import Inbox
from aisolution_async.inputs.images import MAX_IMAGE_BYTES
from aisolution_async.ledger import Ledger, Store
from aisolution_async.limits import Adaptive, Budget
from aisolution_async.outcome import Outcome, outcome_of
from aisolution_async.retry import Retry
from aisolution_async.sending.call import Sending
from aisolution_async.sending.hooks import call_hook
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.options import Options
from aisolution_async.sending.shared import Shared
from aisolution_async.sending.states import Over
from aisolution_async.spending import Spending, by_endpoint, seconds_of
from aisolution_async.wire import reach
from aisolution_async.wire.proxy import ProxyTransport
from aisolution_async.wire.request import Requests
from aisolution_async.wire.transport import PoolTransport, default_ssl_context

BASE_URL = "https://api.aisolution.credit"
TOKEN_VARIABLE = "AISOLUTION_TOKEN"  # noqa: S105  # the variable's name
BASE_URL_VARIABLE = "AISOLUTION_BASE_URL"

TIMEOUT = httpx.Timeout(connect=10.0, read=30.0, write=30.0, pool=60.0)
DEADLINE = 120.0
MAX_CONNECTIONS = 500


class _NotGiven:
    def __repr__(self) -> str:
        return "…"


_NOT_GIVEN: Any = _NotGiven()


class AsyncClient(NotPickled):
    """A client of the identity-verification API: one connection pool, shared by every call and batch on it.

    ```python
    async with AsyncClient() as client:
        face = await client.face_compare("selfie.jpg", "card.jpg")
    ```

    `token`: the vendor's access token, else the environment's AISOLUTION_TOKEN.
    `base_url`: else AISOLUTION_BASE_URL, else the vendor's address. https only, loopback aside.
    `timeout`: seconds (or an `httpx.Timeout`) to connect, to write, to wait for an answer's next bytes, and
    for a free connection. `deadline`: seconds for one call over all its attempts and the waits between them,
    None for no end. `retry`: a `Retry`, or just how often an attempt that was free may be repeated.
    `retry_unknown`: how often an attempt that may have been charged is repeated: 0 unless you say so.
    `max_connections`: connections open at once. `rate`: attempts a second, over all calls and batches.
    `max_image_bytes`: larger images are refused here. `strict_numbers`: phone numbers have to be in a range that their
    country has handed out, and not only of a possible length. `fit`: make photos that are too large, on their side or
    of another format into upright JPEGs that the vendor takes, off the event loop (needs Pillow, in the extra `cli`);
    what fits already is sent as it is.
    `transport`: any `httpx.AsyncBaseTransport` in place of the library's own pool; the client closes it. The pool looks
    at a connection before it uses it again, and learns when a server closes them; httpx's own transports do not let us,
    so that more attempts can end as unknown there.
    `proxy`: a proxy's URL; without it, and without `transport`, the environment's proxies are used unless
    `trust_env=False`. `charge_rules`: where your invoice differs from the vendor's page, as
    `{"facecompare": {"RETRY_LATER": Charge.CHARGED}}`; the charge of an OK that depends on what WhatsApp said
    is under "OK:checking" and the like.
    `ledger`: a file's path, or an open `Ledger`: every attempt is recorded there before it leaves, what was
    answered before is answered from it (`reuse_for` says how many seconds an answer is good for; None: for
    ever), and what may have been charged is not sent again. `max_charges` and `max_cost` (money, by
    `prices={"facecompare": Decimal("0.05"), …}`) limit what is spent: in a ledger given by path over all its
    runs and processes, else by this client. In options, an endpoint may be named as the vendor, the command, the
    method or the call names it: gliswadetail, whatsapp-detail, whatsapp_detail, WhatsAppDetail.
    `on_attempt(call, attempt)` is called after every attempt and `on_outcome(outcome)` once for every call, on the
    event loop and in the context of who asked: plain functions that return at once. Their errors are logged.

    Raises ConfigurationError for options that cannot work. Nothing is opened before the first call; the
    client belongs to the event loop of that call, and is done for good once closed. It is neither pickled nor copied.
    """

    _instead = (
        "it holds the token and open connections. Make a client in each process, AsyncClient() with the token in "
        f"{TOKEN_VARIABLE}; calls, replies, outcomes and errors can be pickled. For other options, use with_options(…)"
    )

    def __init__(
        self,
        token: str | None = None,
        *,
        base_url: str | httpx.URL | None = None,
        timeout: float | httpx.Timeout | None = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | int | None = None,
        retry_unknown: int | None = None,
        max_connections: int = MAX_CONNECTIONS,
        rate: float | None = None,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        strict_numbers: bool = False,
        fit: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        proxy: str | httpx.URL | httpx.Proxy | None = None,
        trust_env: bool = True,
        charge_rules: Mapping[str, Mapping[str, Charge | str]] | None = None,
        ledger: Store | str | os.PathLike[str] | None = None,
        reuse_for: float | None = None,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        on_attempt: Callable[[Call[Any], Attempt], object] | None = None,
        on_outcome: Callable[[Outcome], object] | None = None,
    ) -> None:
        secret = Secret(token)
        del token  # tracebacks show locals
        address = Secret(str(base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL))
        del base_url
        via = Secret(proxy)  # it may hold a password
        del proxy
        _check_token(secret)
        requests = Requests(address, secret)
        journal, budgets = _journal(ledger, reuse_for, max_charges, prices, max_cost)
        self._options = Options(
            timeout=_timeout(timeout),
            deadline=_deadline(deadline),
            retry=_retry(Retry() if retry is None else retry, retry_unknown),
            rules=_rules(charge_rules),
            max_image_bytes=_positive("max_image_bytes", max_image_bytes),
            strict_numbers=strict_numbers,
            fit=fit,
            budgets=budgets,
            journal=journal,
            on_attempt=_hook("on_attempt", on_attempt),
            on_outcome=_hook("on_outcome", on_outcome),
        )
        _positive("max_connections", max_connections)
        places = max_connections if transport is None else None  # a transport of the user's has bounds of its own
        if transport is None:
            if not via.value and trust_env:
                via = _environment_proxy(requests.address)
            transport = _transport(requests.base, via, max_connections)
        elif not isinstance(transport, httpx.AsyncBaseTransport):
            raise ConfigurationError(f"transport is a {type(transport).__name__}: pass an httpx.AsyncBaseTransport")
        elif via.value is not None:
            raise ConfigurationError("give either transport= or proxy=: a transport of yours has its own proxy")
        self._shared = Shared(requests, transport, places=places, rate=rate, journal=journal)
        self._owner = True

    def with_options(
        self,
        *,
        timeout: float | httpx.Timeout | None = _NOT_GIVEN,
        deadline: float | None = _NOT_GIVEN,
        retry: Retry | int = _NOT_GIVEN,
        retry_unknown: int = _NOT_GIVEN,
        charge_rules: Mapping[str, Mapping[str, Charge | str]] | None = _NOT_GIVEN,
        max_image_bytes: int = _NOT_GIVEN,
        strict_numbers: bool = _NOT_GIVEN,
        fit: bool = _NOT_GIVEN,
        on_attempt: Callable[[Call[Any], Attempt], object] | None = _NOT_GIVEN,
        on_outcome: Callable[[Outcome], object] | None = _NOT_GIVEN,
    ) -> AsyncClient:
        """A view of this client with other options, on the same pool and the same tally.

        Closing the view closes nothing: the pool belongs to the client it was made from.
        """
        old = self._options
        unknown = old.retry.unknown if retry_unknown is _NOT_GIVEN else retry_unknown
        if retry_unknown is _NOT_GIVEN and isinstance(retry, Retry):
            unknown = retry.unknown
        view = object.__new__(type(self))
        view._shared = self._shared
        view._owner = False
        view._options = dataclasses.replace(
            old,
            timeout=old.timeout if timeout is _NOT_GIVEN else _timeout(timeout),
            deadline=old.deadline if deadline is _NOT_GIVEN else _deadline(deadline),
            retry=_retry(old.retry if retry is _NOT_GIVEN else retry, unknown),
            rules=old.rules if charge_rules is _NOT_GIVEN else _rules(charge_rules),
            max_image_bytes=(
                old.max_image_bytes if max_image_bytes is _NOT_GIVEN else _positive("max_image_bytes", max_image_bytes)
            ),
            strict_numbers=old.strict_numbers if strict_numbers is _NOT_GIVEN else strict_numbers,
            fit=old.fit if fit is _NOT_GIVEN else fit,
            on_attempt=old.on_attempt if on_attempt is _NOT_GIVEN else _hook("on_attempt", on_attempt),
            on_outcome=old.on_outcome if on_outcome is _NOT_GIVEN else _hook("on_outcome", on_outcome),
        )
        return view

    @property
    def tally(self) -> Tally:
        """What every attempt on this pool was charged, so far."""
        return self._shared.tally

    @property
    def shared(self) -> Shared:
        """What every call and batch on this pool shares, for the library's own use."""
        return self._shared

    @property
    def options(self) -> Options:
        """What calls are made with, for the library's own use."""
        return self._options

    @property
    def base_url(self) -> str:
        """Where the vendor is, without the token."""
        return self._shared.requests.base

    @property
    def load(self) -> Load:
        """What all calls and batches on this pool are doing now. May be asked from any thread."""
        running = tuple(self._shared.batches)  # at once: the loop may go on meanwhile
        return Load(
            in_flight=self._shared.in_flight,
            limit=sum(batch.limit for batch in running) if running else None,
            braked=any(batch.braked for batch in running),
            batches=len(running),
        )

    # ------------------------------------------------------------------------------------- the six endpoints
    # What the vendor is asked leaves each frame with the call: error reporters show the locals of a traceback.

    async def face_compare(self, img1: ImageSource, img2: ImageSource, *, key: Key = None) -> FaceComparison:
        """Are these two faces one person? Charged if answered. Raises the errors of `send`."""
        call = FaceCompare(img1, img2, key=key)
        del img1, img2
        return await self.send(call)

    async def id_holding(self, img: ImageSource, *, key: Key = None) -> FaceComparison:
        """Is the person holding the card the person on it? Charged if answered. Raises the errors of `send`."""
        call = IdHolding(img, key=key)
        del img
        return await self.send(call)

    async def add_face(self, img: ImageSource, *, key: Key = None) -> AddedFace:
        """Remember a face, to be searched for later. Free. Raises the errors of `send`."""
        call = AddFace(img, key=key)
        del img
        return await self.send(call)

    async def search_face(self, img: ImageSource, *, key: Key = None) -> FaceMatches:
        """Was this face added before? Charged if answered. Raises the errors of `send`."""
        call = SearchFace(img, key=key)
        del img
        return await self.send(call)

    async def delete_face(self, person_id: str, *, key: Key = None) -> DeletedFace:
        """Forget a person. Free; repeated by itself where an answer was lost. Raises the errors of `send`."""
        call = DeleteFace(person_id, key=key)
        del person_id
        return await self.send(call)

    async def whatsapp_detail(
        self,
        number: str,
        *,
        country: str | None = None,
        callback: str | None = None,
        servstatus: bool = False,
        wait: Inbox | None = None,
        key: Key = None,
    ) -> WhatsAppProfile:
        """What does WhatsApp know of this number? Charged unless "checking" or "unavailable".

        With `wait`, an `Inbox`, the vendor answers there, and this returns when it has, or when the number was asked
        for again because the callback is late; "checking" is then returned only after an hour. Raises the errors of
        `send`.
        """
        call, calls_back = WhatsAppDetail(number, country, callback, servstatus, key=key), callback is not None
        del number, country, callback
        if wait is None:
            return await self.send(call)
        if calls_back:
            raise InputError("give either callback= or wait=: the inbox is where the vendor calls back", key=key)
        async with self.batch([call], inbox=wait, drain_timeout=0) as batch:
            async for outcome in batch:
                if outcome.error is not None:
                    raise outcome.error
                assert isinstance(outcome.reply, WhatsAppProfile)
                return outcome.reply
        raise AssertionError("a batch of one has one outcome")

    # ---------------------------------------------------------------------------------------- any call, many

    async def send(self, call: Call[R]) -> R:
        """Ask the vendor `call` and return its reply, trying again where that costs nothing.

        Raises an AISolutionError, whose `.charge` and `.attempts` say what it cost: InputError,
        NotSentError, a StatusError, RefusedError or OutcomeUnknownError; ConfigurationError if the client is
        closed or belongs to another event loop.
        """
        if not isinstance(call, Call):
            kind = type(call).__name__
            del call
            raise InputError(f"a {kind} is no call: pass FaceCompare(…), WhatsAppDetail(…) or the like")
        sending = Sending(self._shared, self._options, call)
        try:
            while not isinstance(sending.state, Over):
                if await sending.enter():
                    try:
                        await sending.step()
                    finally:
                        self._shared.gate.leave()
        except BaseException as exc:
            forget_locals(exc)
            raise
        finally:
            over = sending.state
            if self._options.on_outcome is not None and isinstance(over, Over):
                call_hook(self._options.on_outcome, outcome_of(0, call, over.reply, over.error, sending.attempts))
        if over.reply is None:
            assert over.error is not None
            raise over.error
        reply: R = over.reply
        return reply

    def batch(
        self,
        calls: Iterable[Call[R] | AISolutionError] | AsyncIterable[Call[R] | AISolutionError],
        *,
        concurrency: int | Adaptive = 100,
        rate: float | None = None,
        ordered: bool = False,
        dedupe: bool = True,
        total: int | None = None,
        recheck: Recheck | None = None,
        retry_unknown: int | None = None,
        drain_timeout: float = DRAIN_TIMEOUT,
        ledger: Store | str | os.PathLike[str] | None = None,
        reuse_for: float | None = None,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        inbox: Inbox | None = None,
    ) -> Batch[R]:
        """Ask the vendor many calls at once, and get the outcomes as they finish. See `Batch`.

        `calls` is read lazily, as outcomes are taken. `concurrency` is how many attempts are made at once, or
        an `Adaptive` that finds out; the pool's `max_connections` bounds it too. `rate` is how many attempts
        a second, evenly spaced. `ordered` yields in the input's order. `dedupe` asks what is asked more than
        once only once: the others get the same reply, free, with `answered_by`; the latest 10,000 answers
        are remembered (not for `AddFace` and `DeleteFace`, which do something). `total` is the number of
        calls if you know it, for the progress. `recheck` asks again for numbers that WhatsApp is still
        checking. `retry_unknown` overrides the client's for this batch. `drain_timeout` is how long, in
        seconds, a batch that is left or stopped early waits for the answers under way. `ledger`, `reuse_for`,
        `max_charges`, `prices` and `max_cost` are as for the client: the first two in place of the client's, the limits
        besides the client's. With `inbox`, look-ups that name no callback are answered there: a call whose
        answer is to come waits without a place, and is asked for again when the callback is late.
        """
        if inbox is not None and not isinstance(inbox, Inbox):
            raise ConfigurationError(f"inbox is a {type(inbox).__name__}: pass an Inbox")
        options = self._options
        if retry_unknown is not None:
            options = dataclasses.replace(options, retry=_retry(options.retry, retry_unknown))
        journal, budgets = _journal(ledger, reuse_for, max_charges, prices, max_cost, shared=options.journal)
        if journal is not None:
            options = dataclasses.replace(options, journal=journal)
        if budgets:
            options = dataclasses.replace(options, budgets=(*options.budgets, *budgets))
        return Batch(
            self._shared,
            options,
            calls,
            concurrency=concurrency if isinstance(concurrency, Adaptive) else _positive("concurrency", concurrency),
            rate=rate,
            ordered=ordered,
            dedupe=dedupe,
            total=total,
            recheck=recheck,
            drain_timeout=drain_timeout,
            journal=None if ledger is None else journal,
            inbox=inbox,
        )

    # ------------------------------------------------------------------------------------------- open, close

    async def __aenter__(self) -> Self:
        self._shared.check()
        if self._owner and self._options.journal is not None:
            await self._options.journal.open()  # so that a ledger that cannot be used is known at once
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the pool for good. What is in flight ends in an error. Closing twice does no harm."""
        if self._owner:
            await self._shared.aclose()

    def __repr__(self) -> str:
        if not hasattr(self, "_shared"):
            return "<AsyncClient, not made>"
        state = "closed" if self._shared.closed else "open"
        return f"<AsyncClient of {self._shared.requests.base}, {state}, {self.tally!r}>"


# ------------------------------------------------------------------------------------------ options, checked


def _check_token(secret: Secret) -> None:
    """Find the token, and refuse what cannot be one. No local variable here may hold it."""
    if secret.value is not None and not isinstance(secret.value, str):
        raise ConfigurationError(f"the token is a {type(secret.value).__name__}: pass it as text")
    secret.value = (os.environ.get(TOKEN_VARIABLE, "") if secret.value is None else secret.value).strip()
    if not secret.value:
        raise ConfigurationError(f"no token: set the environment variable {TOKEN_VARIABLE}, or pass token=")
    if re.search(r"[\x00-\x1f\x7f]", secret.value):
        raise ConfigurationError("the token has control characters in it: copy it again from the vendor")


def _timeout(timeout: float | httpx.Timeout | None) -> Mapping[str, float | None]:
    try:
        seconds: dict[str, float | None] = httpx.Timeout(timeout).as_dict()
        good = all(value is None or (value is not True and 0 < value < math.inf) for value in seconds.values())
    except (TypeError, AssertionError):
        good = False
    if not good:
        raise ConfigurationError("timeout must be seconds above 0, an httpx.Timeout of such, or None")
    return seconds


def _deadline(deadline: float | None) -> float | None:
    is_number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    if deadline is not None and not (is_number and 0 < deadline < math.inf):
        raise ConfigurationError("deadline must be seconds above 0, or None for no end")
    return deadline


def _retry(retry: Retry | int, unknown: int | None) -> Retry:
    if isinstance(retry, int) and not isinstance(retry, bool):
        retry = Retry(max_retries=retry)
    if not isinstance(retry, Retry):
        raise ConfigurationError("retry must be a Retry(…), or how many times to repeat what was free")
    if unknown is None:
        return retry
    return Retry(max_retries=retry.max_retries, first=retry.first, longest=retry.longest, unknown=unknown)


def _rules(given: Mapping[str, Mapping[str, Charge | str]] | None) -> Mapping[str, Mapping[str, Charge]]:
    """The charges of the endpoints that `given` says something of, each whole."""
    rules = {}
    shape = 'charge_rules look like {"facecompare": {"RETRY_LATER": Charge.CHARGED}}'
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(shape)
    for name, charges in by_endpoint("charge_rules", given).items():
        endpoint = ENDPOINTS[name]
        if not isinstance(charges, Mapping) or not all(
            isinstance(status, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*(:.+)?", status) for status in charges
        ):
            raise ConfigurationError(f"{shape}, with statuses in capitals as the vendor says them")
        with contextlib.suppress(ValueError):
            rules[name] = {**endpoint.charges, **{status: Charge(charge) for status, charge in charges.items()}}
        if name not in rules:
            raise ConfigurationError(f"charge_rules: a charge of {name} is none of {', '.join(Charge)}")
    return rules


def _journal(
    ledger: Store | str | os.PathLike[str] | None,
    reuse_for: float | None,
    max_charges: int | None,
    prices: Mapping[str, Decimal] | None,
    max_cost: Decimal | None,
    *,
    shared: Journal | None = None,
) -> tuple[Journal | None, tuple[Budget, ...]]:
    """The ledger as it is used, and the limits that are kept in memory."""
    spending, reuse_for = Spending.of(max_charges, prices, max_cost), seconds_of("reuse_for", reuse_for)
    if isinstance(ledger, str | os.PathLike):
        store = Ledger(ledger, max_charges=max_charges, prices=spending.prices, max_cost=max_cost)
        return Journal(store, owned=True, reuse_for=reuse_for), ()
    if ledger is not None and not isinstance(ledger, Store):
        raise ConfigurationError(f"ledger is a {type(ledger).__name__}: pass a path or a Ledger")
    budgets = (Budget(spending),) if spending.is_limited else ()
    if ledger is not None:
        return Journal(ledger, owned=False, reuse_for=reuse_for), budgets
    if reuse_for is not None and shared is None:
        raise ConfigurationError("reuse_for says how old an answer from the ledger may be: give ledger= too")
    return None if reuse_for is None or shared is None else shared.reusing(reuse_for), budgets


def _hook(name: str, hook: Any) -> Any:
    if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
        raise ConfigurationError(f"{name} must be a plain function: start a task in it for what has to be awaited")
    return hook


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number, 1 or more")
    return value


def _environment_proxy(base: Secret) -> Secret:
    """The proxy that the environment names for the base URL, by the usual variables; None in it for none."""
    parts = urlsplit(base.value)
    if urllib.request.proxy_bypass(parts.netloc) or (parts.hostname or "") in ("localhost", "127.0.0.1", "::1"):
        return Secret(None)
    proxies = urllib.request.getproxies()
    return Secret(proxies.get(parts.scheme) or proxies.get("all"))


def _transport(base: str, proxy: Secret, max_connections: int) -> ProxyTransport | PoolTransport:
    """The transport to the vendor. Raises ConfigurationError for a proxy or certificates that cannot be used."""
    if proxy.value:
        return ProxyTransport(proxy, max_connections=max_connections, ssl_context=default_ssl_context())
    # certifi's list is read off the loop, once it is needed; what the user named, is looked at now.
    named = base.startswith("https:") and (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"))
    context = default_ssl_context() if named else None
    return PoolTransport(max_connections=max_connections, ssl_context=context, may_dial=reach.check)
