"""The client: one pool, and the doors to it."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import re
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import urlsplit

import httpx

from aisolution_async import __version__
from aisolution_async.api import (
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
from aisolution_async.batching import DRAIN_TIMEOUT, Batch, Load, Recheck
from aisolution_async.batching.intake import call_instead
from aisolution_async.charges import Attempt, Charge, Tally
from aisolution_async.checks import flag, kind_of, running_loop, whole
from aisolution_async.errors import AISolutionError, ConfigurationError, InputError, Key
from aisolution_async.hiding import NotPickled, Secret, forget_locals
from aisolution_async.inbox import Inbox
from aisolution_async.inputs.images import MAX_IMAGE_BYTES
from aisolution_async.ledger import Store, open_ledger
from aisolution_async.limits import Adaptive, Budget
from aisolution_async.outcome import Answered, Failed, Outcome, outcome_of
from aisolution_async.retry import Retry
from aisolution_async.sending.call import Sending
from aisolution_async.sending.hooks import call_hook
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.options import DEADLINE, NOT_GIVEN, TIMEOUT, Options
from aisolution_async.sending.shared import Shared
from aisolution_async.sending.states import Over
from aisolution_async.spending import Spending, seconds_of
from aisolution_async.wire import reach
from aisolution_async.wire.proxy import ProxyTransport
from aisolution_async.wire.request import Requests
from aisolution_async.wire.transport import PoolTransport, default_ssl_context

BASE_URL = "https://api.aisolution.credit"
TOKEN_VARIABLE = "AISOLUTION_TOKEN"  # noqa: S105  # the variable's name
BASE_URL_VARIABLE = "AISOLUTION_BASE_URL"

MAX_CONNECTIONS = 500
USER_AGENT = f"aisolution-async/{__version__} python/{sys.version_info[0]}.{sys.version_info[1]}"


class BatchOptions(TypedDict, total=False):
    """The options of `AsyncClient.batch`, where they are explained, for who hands them on."""

    concurrency: int | Adaptive
    rate: float | None
    ordered: bool
    dedupe: bool
    total: int | None
    recheck: Recheck | None
    retry_unknown: int | None
    drain_timeout: float
    give_up: float
    ledger: Store | str | os.PathLike[str] | None
    reuse_for: float | None
    max_charges: int | None
    prices: Mapping[str, Decimal] | None
    max_cost: Decimal | None
    inbox: Inbox | None


class AsyncClient(NotPickled):
    """A client of the AI Solution identity-verification API. Its calls and batches share one pool of connections.

    ```python
    async with AsyncClient() as client:
        face = await client.face_compare("selfie.jpg", "card.jpg")
    ```

    Who asks, and whom:

    - `token`: the vendor's access token. Default: the environment's AISOLUTION_TOKEN.
    - `base_url`: the vendor's address. Default: the environment's AISOLUTION_BASE_URL, else the real one. It begins
      with https://; http:// is for loopback addresses only.
    - `headers`: more headers for every request. Their values are kept secret. A User-Agent replaces the library's.

    Time and repeats:

    - `timeout`: seconds, or an `httpx.Timeout`: to connect, to write, until the next bytes of an answer, and for a free
      connection.
    - `deadline`: seconds for one call, over all its attempts and the waits between them. None: no end.
    - `max_retries`: how often an attempt is repeated that was free, and may work the next time. Default: 4. In its
      place, `retry` is a `Retry` that also says how long to wait in between.
    - `retry_unknown`: how often an attempt that may have been charged is repeated. Default: 0.
    - `rate`: attempts a second, over all calls and batches. Processes that have a ledger on a server open divide it.
      `max_connections`: connections that are open at once.

    What is sent:

    - `max_image_bytes`: larger images are refused before they are sent. Default: 2 MiB.
    - `fit`: True makes photos that are too large, on their side or of another format into upright JPEGs that the vendor
      takes. A photo that fits already is sent as it is. Needs Pillow, in the extra `cli`.
    - `keep_metadata`: False leaves out where a photo was taken (GPS). Nothing is encoded again for that.
    - `strict_numbers`: True also refuses phone numbers in ranges that their country has handed out to nobody.

    Money:

    - `ledger`: the path of a file, the URL of a schema on a PostgreSQL server, which machines share
      (`postgresql://host/database?schema=applicants`), or an open `Ledger`. Every attempt is recorded there before it
      leaves. What was answered before is answered from it, and what may have been charged is not sent again.
    - `reuse_for`: how many seconds an answer in the ledger is good for. None: for ever.
    - `max_charges`, `max_cost`: limits on what is spent. `max_cost` is money, by `prices={"facecompare":
      Decimal("0.05")}`. With a ledger that is given by its path or URL, they count all its runs and processes; else
      this client.
    - `charge_rules`: where your invoice differs from the vendor's page: `{"facecompare": {"RETRY_LATER":
      Charge.CHARGED}}`. The charge of an OK that depends on what WhatsApp says is under "OK:checking" and the like.

    An endpoint in these options has the name of the vendor, the command, the method or the call: gliswadetail,
    whatsapp-detail, whatsapp_detail, WhatsAppDetail.

    The network:

    - `ssl_context`: whom to trust, and who we are (mTLS), to the vendor and to an https proxy. Default: certifi's list,
      or what SSL_CERT_FILE or SSL_CERT_DIR names. It has to check certificates and host names. Its ALPN becomes
      http/1.1.
    - `proxy`: the URL of a proxy. Default: the environment's proxies, unless `trust_env=False`.
    - `transport`: any `httpx.AsyncBaseTransport`, in place of the library's own pool. The client closes it. httpx's own
      transports do not let the library look at connections, so more attempts may end as unknown there.

    Hooks: `on_attempt(call, attempt)` is called after every attempt, and `on_outcome(outcome)` once for every call, on
    the event loop, in the context of the caller. They are plain functions that return at once. Their errors are logged.

    Every method takes `key`, your own id of the call. It comes back on errors and in the ledger, and is never sent.

    Raises ConfigurationError for options that cannot work. Nothing is opened before the first call. The client belongs
    to the event loop of that call. Once closed, it stays closed. It is neither pickled nor copied.
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
        max_retries: int | None = None,
        retry_unknown: int | None = None,
        max_connections: int = MAX_CONNECTIONS,
        rate: float | None = None,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        strict_numbers: bool = False,
        fit: bool = False,
        keep_metadata: bool = True,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
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
        extra = Secret(headers)
        del headers
        _check_token(secret)
        requests = Requests(address, secret, extra, user_agent=USER_AGENT)
        journal, budgets = _journal(ledger, reuse_for, max_charges, prices, max_cost)
        options = Options.of(
            timeout=timeout,
            deadline=deadline,
            retry=retry,
            max_retries=max_retries,
            retry_unknown=retry_unknown,
            charge_rules=charge_rules,
            max_image_bytes=max_image_bytes,
            strict_numbers=strict_numbers,
            fit=fit,
            keep_metadata=keep_metadata,
            on_attempt=on_attempt,
            on_outcome=on_outcome,
        )
        self._options = dataclasses.replace(options, budgets=budgets, journal=journal)
        whole("max_connections", max_connections, 1)
        flag("trust_env", trust_env)
        places = max_connections if transport is None else None  # a transport of the user's has bounds of its own
        if transport is None:
            if not via.value and trust_env:
                via = _environment_proxy(requests.address)
            transport = _transport(requests.base, via, max_connections, ssl_context)
        else:
            _check_transport(transport, with_proxy=via.value is not None, with_context=ssl_context is not None)
        self._shared = Shared(requests, transport, places=places, rate=rate, journal=journal)
        self._owner = True

    def with_options(
        self,
        *,
        timeout: float | httpx.Timeout | None = NOT_GIVEN,
        deadline: float | None = NOT_GIVEN,
        retry: Retry | int | None = None,
        max_retries: int | None = None,
        retry_unknown: int | None = None,
        charge_rules: Mapping[str, Mapping[str, Charge | str]] | None = NOT_GIVEN,
        max_image_bytes: int = NOT_GIVEN,
        strict_numbers: bool = NOT_GIVEN,
        fit: bool = NOT_GIVEN,
        keep_metadata: bool = NOT_GIVEN,
        on_attempt: Callable[[Call[Any], Attempt], object] | None = NOT_GIVEN,
        on_outcome: Callable[[Outcome], object] | None = NOT_GIVEN,
    ) -> Self:
        """A view of this client with other options, on the same pool and the same tally.

        Closing the view closes nothing: the pool belongs to the client it was made from.
        """
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        view._owner = False
        view._options = self._options.changed(
            timeout=timeout,
            deadline=deadline,
            retry=retry,
            max_retries=max_retries,
            retry_unknown=retry_unknown,
            charge_rules=charge_rules,
            max_image_bytes=max_image_bytes,
            strict_numbers=strict_numbers,
            fit=fit,
            keep_metadata=keep_metadata,
            on_attempt=on_attempt,
            on_outcome=on_outcome,
        )
        return view

    @property
    def shared(self) -> Shared:
        """What every call and batch on this pool shares. For the library's own use."""
        return self._shared

    @property
    def options(self) -> Options:
        """The options of this client or view, checked: `client.options.deadline` and so on."""
        return self._options

    @property
    def is_closed(self) -> bool:
        """Whether the pool is closed: the client's, and that of all its views."""
        return self._shared.closed

    def redact(self, text: str) -> str:
        """`text` with … in place of the token, and of what the client's `headers` say, however they are spelt there."""
        return self._shared.requests.redact(text)

    @property
    def tally(self) -> Tally:
        """What every attempt on this pool was charged, so far."""
        return self._shared.tally

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

    def send_along(self, headers: Callable[[], Iterable[tuple[bytes, bytes]]] | None) -> None:
        """Send the headers that `headers()` gives with each attempt on this pool: for tracing. None: no more.

        `headers` is called on the event loop, in the context of the caller. It must return at once, and must give none
        of the headers that a request has already.
        """
        self._shared.requests.headers_now = headers

    # ----------------------------------------------------------------------------------------- the endpoints
    # What the vendor is asked leaves each frame with the call: error reporters show the locals of a traceback.

    async def face_compare(self, img1: ImageSource, img2: ImageSource, *, key: Key = None) -> FaceComparison:
        """Are these two faces one person? ("Face Comparison" of the vendor's page.)

        Each image is a path, the bytes of a file, a binary file or base64 text. The reply has `similarity`, 0 to 100,
        and `result`, a `Judgment`. CHARGED if answered.

        Raises InputError for what is no image or is too large, FaceNotFoundError if a photo shows no face (both free),
        and the other errors of `send`.
        """
        call = FaceCompare(img1, img2, key=key)
        del img1, img2
        return await self.send(call)

    async def id_holding(self, img: ImageSource, *, key: Key = None) -> FaceComparison:
        """Is the person who holds an ID card the person on it? ("Hand-held ID Card Comparison")

        One photo shows both; it is given as in `face_compare`. The reply has `similarity`, 0 to 100, and `result`, a
        `Judgment`. CHARGED if answered.

        Raises FaceNotFoundError (free) if it is no such photo, and the other errors of `face_compare`.
        """
        call = IdHolding(img, key=key)
        del img
        return await self.send(call)

    async def add_face(self, img: ImageSource, *, key: Key = None) -> AddedFace:
        """Let the vendor remember a face, to be searched for later. ("Face Search", "add face image")

        The reply has `person_id`, `person_count` (how often this face was added) and `group_id` (a secret). FREE.

        Raises FaceNotFoundError if there is no face, and the other errors of `face_compare`.
        """
        call = AddFace(img, key=key)
        del img
        return await self.send(call)

    async def search_face(self, img: ImageSource, *, key: Key = None) -> FaceMatches:
        """Was this face added before? ("Face Search", "search the same face")

        The reply has `matches`, a list that is empty if nobody looks like the photo; each has `confidence`, 0 to 100,
        and `person_id`. CHARGED if answered, also if nobody is found.

        Raises FaceNotFoundError (free) if there is no face, and the other errors of `face_compare`.
        """
        call = SearchFace(img, key=key)
        del img
        return await self.send(call)

    async def delete_face(self, person_id: str, *, key: Key = None) -> DeletedFace:
        """Let the vendor forget a person, by the `person_id` of `add_face`. ("Face Search", "delete face")

        The reply is empty. FREE. It is repeated by itself if an answer was lost, since asking twice does no harm.

        Raises PersonNotFoundError if there is no such person, and the other errors of `send`.
        """
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
        """What does WhatsApp know of this phone number? ("WhatsApp Detail Detection")

        `country` is a code of two letters, for numbers that do not say theirs. The reply has `whatsapp`, a
        `WhatsAppState`, and where the vendor says them `signature`, `status_update` (YYYYMMDD), `business_user` and
        `avatar` ("yes" or "no"). CHARGED, unless `whatsapp` is "checking" or "unavailable": these are no answers yet.
        `servstatus=True` asks for "unavailable" in place of a RetryLaterError while the service is down.

        With `callback`, the vendor sends the answer to that URL as well, by GET. With `wait`, an `Inbox`, the vendor
        answers there, and this method returns when it has, or when the number was asked for again because the callback
        is late; "checking" is then returned only after an hour.

        Raises InputError for what is surely no phone number (free), and the other errors of `send`.
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
        """Ask the vendor `call`, a value such as `FaceCompare(img1, img2)`, and return its reply.

        An attempt that was free, and may work the next time, is repeated; one that may have been charged only as
        `retry_unknown` allows. The reply's `.charge` and `.attempts` say what it cost.

        Raises an AISolutionError if there is no reply. Its `.charge` counts all attempts; here it is said for the last:

        - InputError: it cannot be sent. NotSentError: nothing left this machine; BudgetExhaustedError: a limit on
          spending was reached. LedgerError: the ledger cannot be used. All of these are FREE.
        - StatusError: the vendor said something other than OK. InvalidRequestError, ImageTooLargeError,
          FaceNotFoundError, PersonNotFoundError, ServiceFailedError and RetryLaterError are FREE; an UnknownStatusError
          is UNKNOWN, but for AddFace and DeleteFace, which are never charged.
        - RefusedError: HTTP 4xx and no answer. FREE; most often the token is wrong.
        - OutcomeUnknownError: it was sent, and no usable answer came, now or before (a ledger holds it). UNKNOWN.
        - ConfigurationError: the client is closed, or belongs to another event loop.

        `aisolution_async.errors` has the whole tree.
        """
        if not isinstance(call, Call):
            what = f"{kind_of(call)} is no call: {call_instead(call)}"
            del call
            raise InputError(what)
        self._shared.check()
        sending = Sending(self._shared, self._options, call)
        try:
            while not isinstance(sending.state, Over):
                if sending.try_enter() or await sending.enter():
                    try:
                        await sending.step()
                    finally:
                        self._shared.gate.leave()
        except BaseException as exc:
            forget_locals(exc)
            if sending.attempts:
                sending.conclude("cancelled")  # also between two attempts: what was sent has an outcome
            raise
        finally:
            over = sending.state
            if self._options.on_outcome is not None and isinstance(over, Over):
                call_hook(
                    "on_outcome",
                    self._options.on_outcome,
                    outcome_of(0, call, over.reply, over.error, sending.attempts),
                )
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
        give_up: float = math.inf,
        ledger: Store | str | os.PathLike[str] | None = None,
        reuse_for: float | None = None,
        max_charges: int | None = None,
        prices: Mapping[str, Decimal] | None = None,
        max_cost: Decimal | None = None,
        inbox: Inbox | None = None,
    ) -> Batch[R]:
        """Ask the vendor many calls at once, and get the outcomes when they are ready. See `Batch`.

        - `calls`: an iterable or async iterable of calls, to one endpoint or several. It is read as outcomes are taken.
        - `concurrency`: how many attempts are under way at once, or an `Adaptive` that finds out how many the vendor
          can take. There are never more than the client's `max_connections`.
        - `rate`: how many attempts a second, evenly spaced. Processes that have a ledger on a server open divide it.
        - `ordered`: True yields outcomes in the input's order.
        - `dedupe`: what is asked more than once is asked once; the others get the same reply, free, with `answered_by`.
          The latest 10,000 answers are remembered. Not for `AddFace` and `DeleteFace`, which do something.
        - `total`: the number of calls, if you know it, for the progress.
        - `recheck`: a `Recheck`, which asks again for numbers that WhatsApp is still checking.
        - `retry_unknown`: how often an attempt that may have been charged is repeated, in place of the client's.
        - `drain_timeout`: how many seconds a batch that is left or stopped early waits for the answers under way.
        - `give_up`: how many seconds a vendor that seems to be down is tried (the batch is `braked`). Then the batch
          stops: calls that were read, and not sent, fail with a NotSentError and are free, and no more are read.
        - `ledger`, `reuse_for`: in place of the client's. `max_charges`, `prices`, `max_cost`: limits besides the
          client's.
        - `inbox`: an `Inbox`, to which the vendor sends the answers of look-ups that name no callback of their own. A
          call that waits for its callback does not count for `concurrency`. If the callback is late, its number is
          asked for again.

        Raises ConfigurationError for options that cannot work. A call that fails raises nothing: it is a `Failed`.
        """
        running_loop()
        if inbox is not None and not isinstance(inbox, Inbox):
            raise ConfigurationError(f"inbox is {kind_of(inbox)}: pass an Inbox")
        options = self._options
        if retry_unknown is not None:
            options = options.changed(retry_unknown=retry_unknown)
        journal, budgets = _journal(ledger, reuse_for, max_charges, prices, max_cost, shared=options.journal)
        if journal is not None:
            options = dataclasses.replace(options, journal=journal)
        if budgets:
            options = dataclasses.replace(options, budgets=(*options.budgets, *budgets))
        return Batch(
            self._shared,
            options,
            calls,
            concurrency=concurrency if isinstance(concurrency, Adaptive) else whole("concurrency", concurrency, 1),
            rate=rate,
            ordered=ordered,
            dedupe=dedupe,
            total=total,
            recheck=recheck,
            drain_timeout=drain_timeout,
            give_up=give_up,
            journal=None if ledger is None else journal,
            inbox=inbox,
        )

    async def collect(
        self,
        calls: Iterable[Call[R] | AISolutionError] | AsyncIterable[Call[R] | AISolutionError],
        *,
        into: list[Answered[R] | Failed] | None = None,
        **options: Unpack[BatchOptions],
    ) -> list[Answered[R] | Failed]:
        """Ask the vendor many calls at once, and return the outcomes, in the input's order. They have to fit in memory.

        The options are those of `batch`. Where an exception of the input, a cancellation or a time limit ends it early,
        no outcome is lost: what was answered until then, and while it drained, is in the attribute `collected` of that
        exception. It is also in `into`, an empty list of yours that takes the outcomes when they are ready. Give `into`
        where you do not get that exception: cancel scopes, task groups and time limits keep it or replace it.
        """
        outcomes: list[Answered[R] | Failed] = [] if into is None else into
        if not isinstance(outcomes, list) or outcomes:
            raise ConfigurationError("into must be an empty list, which takes the outcomes")
        batch = self.batch(calls, **options)
        del calls  # tracebacks show locals
        in_order = operator.attrgetter("index")
        try:
            async with batch:
                async for outcome in batch:
                    outcomes.append(outcome)  # noqa: PERF401  # each at once: a comprehension that is cut off has none
        except BaseException as exc:
            outcomes += batch.unread
            outcomes.sort(key=in_order)
            # The exception may have a `__setattr__` of its own, or have gone through another collect before.
            before = vars(exc).get("collected")
            vars(exc)["collected"] = [*(before if isinstance(before, list) else ()), *outcomes]
            raise
        outcomes.sort(key=in_order)
        return outcomes

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
        """Close the pool for good. An attempt that is in flight ends in an error. Closing twice does no harm."""
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
        raise ConfigurationError(f"the token is {kind_of(secret.value)}: pass it as text")
    secret.value = (os.environ.get(TOKEN_VARIABLE, "") if secret.value is None else secret.value).strip()
    if not secret.value:
        raise ConfigurationError(f"no token: set the environment variable {TOKEN_VARIABLE}, or pass token=")
    if re.search(r"[\x00-\x1f\x7f]", secret.value):
        raise ConfigurationError("the token has control characters in it: copy it again from the vendor")


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
        store = open_ledger(ledger, max_charges=max_charges, prices=spending.prices, max_cost=max_cost)
        return Journal(store, owned=True, reuse_for=reuse_for), ()
    if ledger is not None and not isinstance(ledger, Store):
        raise ConfigurationError(f"ledger is {kind_of(ledger)}: pass a path or a Ledger")
    budgets = (Budget(spending),) if spending.is_limited else ()
    if ledger is not None:
        return Journal(ledger, owned=False, reuse_for=reuse_for), budgets
    if reuse_for is not None and shared is None:
        raise ConfigurationError("reuse_for says how old an answer from the ledger may be: give ledger= too")
    return None if reuse_for is None or shared is None else shared.reusing(reuse_for), budgets


def _environment_proxy(base: Secret) -> Secret:
    """The proxy that the environment names for the base URL, by the usual variables; None in it for none."""
    parts = urlsplit(base.value)
    if urllib.request.proxy_bypass(parts.netloc) or (parts.hostname or "") in ("localhost", "127.0.0.1", "::1"):
        return Secret(None)
    proxies = urllib.request.getproxies()
    return Secret(proxies.get(parts.scheme) or proxies.get("all"))


def _transport(
    base: str, proxy: Secret, max_connections: int, context: ssl.SSLContext | None
) -> ProxyTransport | PoolTransport:
    """The transport to the vendor. Raises ConfigurationError for a proxy or certificates that cannot be used."""
    if context is not None:
        _check_context(context)
    if proxy.value:
        return ProxyTransport(
            proxy, max_connections=max_connections, ssl_context=default_ssl_context() if context is None else context
        )
    # certifi's list is read off the loop, once it is needed; what the user named, is looked at now.
    named = base.startswith("https:") and (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"))
    if context is None and named:
        context = default_ssl_context()
    return PoolTransport(max_connections=max_connections, ssl_context=context, may_dial=reach.check)


def _check_context(context: object) -> None:
    if not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(
            f"ssl_context is {kind_of(context)}: pass an ssl.SSLContext, such as "
            'ssl.create_default_context(cafile="company-ca.pem")'
        )
    if not context.check_hostname or context.verify_mode is not ssl.CERT_REQUIRED:
        raise ConfigurationError(
            "ssl_context must check certificates and host names, or anybody could read the token: to trust a "
            'certificate of your own, use ssl.create_default_context(cafile="company-ca.pem")'
        )


def _check_transport(transport: object, *, with_proxy: bool, with_context: bool) -> None:
    """Refuse what is no transport, and beside one what it has of its own."""
    right = "AsyncClient(transport=httpx.AsyncHTTPTransport(…))"
    if isinstance(transport, type):
        raise ConfigurationError(f"transport is {kind_of(transport)}: pass an object of it, {right}")
    if not isinstance(transport, httpx.AsyncBaseTransport):
        why = f"transport is {kind_of(transport)}"
        if isinstance(transport, httpx.AsyncClient | httpx.Client):
            raise ConfigurationError(
                f"{why} of httpx, which logs each URL with the token in it: pass a transport, and to that what the "
                f"client was given: {right} takes verify=, proxy=, limits= and uds="
            )
        if isinstance(transport, httpx.BaseTransport):
            raise ConfigurationError(f"{why}, which blocks the event loop: pass its asynchronous one, such as {right}")
        raise ConfigurationError(f"{why}: pass an httpx.AsyncBaseTransport, such as {right}")
    if with_proxy:
        raise ConfigurationError(
            "give either transport= or proxy=: a transport of yours has its own proxy, "
            'httpx.AsyncHTTPTransport(proxy="http://…")'
        )
    if with_context:
        raise ConfigurationError(
            "give either transport= or ssl_context=: a transport of yours has its own, "
            "httpx.AsyncHTTPTransport(verify=ssl_context)"
        )
