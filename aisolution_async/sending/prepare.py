"""From a call to the form that is sent: read, checked, made to fit, identified, encoded."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping
from hashlib import blake2b, sha256
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

from aisolution_async.api import Call, Endpoint, Kind
from aisolution_async.checks import KEY_TYPES
from aisolution_async.checks import key as check_key
from aisolution_async.errors import InputError
from aisolution_async.hiding import NotPickled
from aisolution_async.inbox import digits_of
from aisolution_async.inputs import images, numbers, texts
from aisolution_async.inputs.fit import LARGEST_FILE, TARGET, Fitter, fit
from aisolution_async.inputs.location import without_location
from aisolution_async.sending.journal import Journal
from aisolution_async.sending.options import Options
from aisolution_async.sending.threads import Threads
from aisolution_async.values import value_class
from aisolution_async.wire.form import Field, Form

# Images smaller than this in all are encoded at once: a hop to a thread, or turns, would cost more.
_AT_ONCE = 128 * 1024
_READERS = 4

_HASH, _SHORT = 16, 64  # bytes of an identity: hashed, and the most that are not

_IMAGE, _NUMBER, _FLAG = Kind.IMAGE, Kind.NUMBER, Kind.FLAG  # looked up for every call: an Enum takes its time

# How the answer is to come does not make it another question.
_HOW_NOT_WHAT = frozenset({"callback", "servstatus"})

_TEXTS: Mapping[Kind, Callable[..., str | None]] = {
    Kind.COUNTRY: texts.country,
    Kind.URL: texts.url,
    Kind.TEXT: texts.text,
    Kind.FLAG: texts.flag,
}

Fields = list[Field]


@value_class
class Read:
    """What a call holds: the `fields` of its form, in order; images decoded, not encoded.

    An image that is a view is in a buffer of `Means`. `call` has the bytes in place of file objects, which can be read
    once. `digits` are those of its number. `identity` is what another call shares that asks the same; None where nobody
    asked for it.
    """

    fields: Fields
    call: Call[Any]
    digits: str
    identity: bytes | None

    def __repr__(self) -> str:
        return f"<Read of {self.call!r}>"  # not what it holds


class Readers(NotPickled):
    """What reads, fits and encodes for one client: single calls do not wait behind a batch's images."""

    def __init__(self) -> None:
        self._lanes = (_Lane(), _Lane())
        self._fitter: Fitter | None = None

    def lane(self, *, alone: bool) -> _Lane:
        """What prepares the calls of batches, or the single ones."""
        return self._lanes[alone]

    async def fit(self, fields: Fields, options: Options, *, alone: bool) -> tuple[Fields, str]:
        """The fields with images that fit, and why not, if one cannot be made to."""
        target = min(TARGET, options.max_image_bytes)
        fitting, problems = [*fields], list[str]()
        for number, (name, value) in enumerate(fields):
            if not isinstance(value, str):
                try:
                    fitting[number] = (name, await self._fit(bytes(value), name, target, alone=alone))
                except InputError as exc:
                    problems.append(str(exc))
        return fitting, "; ".join(problems)

    async def _fit(self, image: bytes, name: str, target: int, *, alone: bool) -> bytes:
        """For a single call in a thread, for a batch in a process, so that two cores are two."""
        if alone:
            return await anyio.to_thread.run_sync(
                functools.partial(fit, image, name=name, target=target),
                limiter=self._lanes[True].fitting,
                abandon_on_cancel=True,
            )
        if self._fitter is None:
            self._fitter = Fitter()
        return await self._fitter.fit(image, name=name, target=target)

    async def aclose(self) -> None:
        """End the threads that read, and the process that fits images."""
        for lane in self._lanes:
            lane.threads.end()
        if self._fitter is not None:
            await self._fitter.aclose()


class Means:
    """What threads that read share: `buffers` for files, and the turn to hash.

    On one core, several that hash keep the event loop waiting for its turn; and one hashes more than a loop can send.
    """

    __slots__ = ("buffers", "hashing")

    def __init__(self) -> None:
        self.buffers = images.Buffers()
        self.hashing = threading.Lock()


class _Lane:
    """How many calls are prepared at once, from the reading to the encoding: so few raw images are held."""

    __slots__ = ("_means", "_places", "encoding", "fitting", "threads")

    def __init__(self) -> None:
        self._means = Means()
        self._places = asyncio.Semaphore(_READERS)
        self.threads = Threads(when_idle=self._means.buffers.clear)
        self.fitting = CapacityLimiter(_READERS)
        self.encoding = asyncio.Lock()  # one form after the other, so that each turn of the loop stays short

    async def enter(self) -> None:
        """Wait for a place. What is read in it is given to `leave`."""
        await self._places.acquire()

    async def read(self, read: Callable[[Means], Read | str], *, enters: bool) -> Read | str:
        """`read(…)` in a thread, in a place. If this is cancelled, the place is free.

        A file that is still being read then is left to itself.
        """
        if enters:
            await self.enter()
        try:
            return await self.threads.run(functools.partial(read, self._means))
        except BaseException:
            self._places.release()
            raise

    def leave(self, held: Read | str) -> None:
        """The images are encoded, or not needed: others are read into their place."""
        self._places.release()
        for _, value in () if isinstance(held, str) else held.fields:
            if isinstance(value, memoryview):
                self._means.buffers.give_back(value)

    async def encode(self, fields: Fields) -> Form:
        """The form, made in turns with everybody else on the loop."""
        async with self.encoding:
            return await Form.in_turns(fields)


def is_small(call: Call[Any], options: Options) -> bool:
    """Whether there is nothing to read, and little to encode."""
    if not call.endpoint.takes_images:
        return True
    if options.fit:
        return False
    size = 0
    for parameter in call.endpoint.parameters:
        if parameter.kind is _IMAGE:
            value = getattr(call, parameter.name)
            if not isinstance(value, bytes):
                return False
            size += len(value)
    return size < _AT_ONCE


def read(
    call: Call[Any],
    options: Options,
    callback: str | None,
    vendor: str,
    *,
    identify: bool,
    means: Means | None = None,
) -> Read | str:
    """What `call` holds, read and checked; or what is wrong with it.

    `callback` is the URL to name where the call itself names none. `means` are those of a thread, None on the
    event loop. The text, and not its InputError, is returned: the frames of that one hold the image.
    """
    fields: Fields = []
    held, digits = call, ""
    problems: list[str] = []
    buffers = None if means is None else _buffers(means, options)
    try:
        if type(call.key) not in KEY_TYPES:
            check_key(call.key)
        for name, kind, required in call.endpoint.fields:
            value = getattr(call, name)
            if not value and name == "callback":
                value = callback or value
            if not required and (value is None or (value is False and kind is _FLAG)):
                continue
            if kind is _NUMBER:
                number, digits = _number(value, name, call, options)
                fields.append((name, number))
            elif kind is _IMAGE:
                most = LARGEST_FILE if options.fit else options.max_image_bytes
                try:
                    data = images.load(value, name=name, max_bytes=most, buffers=buffers)
                except InputError as exc:
                    problems.append(str(exc))  # who mends one photo wants to know of the others too
                    continue
                # It can be read once, and another attempt needs it again. What is a path too is read as one, anew.
                if not isinstance(data, memoryview) and hasattr(value, "read"):
                    again: dict[str, Any] = {name: data}
                    held = dataclasses.replace(held, **again)
                fields.append((name, data))
            elif (text := _TEXTS[kind](value, name=name)) is not None:
                fields.append((name, text))
        if problems:
            return "; ".join(problems)
        # By the bytes as they were given: what is sent of them may change from one version to the next.
        identity = _identified(call, fields, options, vendor, means) if identify else None
    except InputError as exc:
        return str(exc)
    return Read(_as_sent(call, fields, options), held, digits, identity)


def _buffers(means: Means, options: Options) -> images.Buffers | None:
    """What files are read into, if they are encoded as they are."""
    return None if options.fit or not options.keep_metadata else means.buffers


def _identified(call: Call[Any], fields: Fields, options: Options, vendor: str, means: Means | None) -> bytes:
    if means is None:
        return identity_of(call, fields, options.journal, vendor)
    with means.hashing:
        return identity_of(call, fields, options.journal, vendor)


def _as_sent(call: Call[Any], fields: Fields, options: Options) -> Fields:
    if options.keep_metadata or not call.endpoint.takes_images:
        return fields
    return [(name, held if isinstance(held, str) else without_location(bytes(held))) for name, held in fields]


def identity_of(call: Call[Any], fields: Fields, journal: Journal | None, vendor: str) -> bytes:
    """What two calls share when they ask the same: same endpoint, same images, same number.

    Without a ledger that is what they ask, where it is short: longer than the 16 bytes of a hash, and cheaper.
    """
    endpoint: Endpoint[Any] = call.endpoint
    asked = fields if len(fields) == 1 else _what_is_asked(fields)
    if journal is not None:
        # A pretended vendor's answers are not the vendor's.
        payload: list[tuple[str, str | bytes]] = [("vendor", vendor)]
        payload += [(name, held if isinstance(held, str) else sha256(held).digest()) for name, held in asked]
        # What adds or deletes a face does something each time: it is the same only under the same key.
        return journal.identity(endpoint.name, payload, call.key if endpoint.never_charges else None)
    text = endpoint.name
    for name, held in asked:
        # SHA-256 has instructions of its own on today's processors: 0.6 ms a megabyte, without the lock.
        shown = held if isinstance(held, str) else sha256(held).hexdigest()
        text += f"\0{name}\0{len(shown)}\0{shown}"
    identity = text.encode()
    return identity if _HASH < len(identity) <= _SHORT else blake2b(identity, digest_size=_HASH).digest()


def _what_is_asked(fields: Fields) -> Fields:
    """Without how the answer is to come, and without the country of a number in full, which says it itself."""
    is_international = any(name == "number" and isinstance(held, str) and held[:1] == "+" for name, held in fields)
    left_out = _HOW_NOT_WHAT | {"country"} if is_international else _HOW_NOT_WHAT
    return [field for field in fields if field[0] not in left_out]


def _number(number: object, name: str, call: Call[Any], options: Options) -> tuple[str, str]:
    """The number as it is sent, and its digits as an inbox knows it by."""
    country = getattr(call, "country", None)
    if country is not None:
        country = texts.country(country, name="country")
    sent = numbers.normalise(number, name, country, options.strict_numbers)
    return sent, sent[1:] if sent[0] == "+" else digits_of(sent)
