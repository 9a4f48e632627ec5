"""What can go wrong with an answer, as data: which requests it hits, what they get instead, and whether it is billed.

=============  ======================================================================================  ======
kind           what the client gets                                                                    billed
=============  ======================================================================================  ======
latency        the answer, `seconds` late; with `spread`, log-normal about that median                  as it is
capacity       RETRY_LATER (or plain HTTP `http_status`) for all over `per_second` in any one second    no
reset-before   a reset, once the head of the request is in; the vendor never saw it                    no
reset-after    a reset instead of an answer                                                            yes
reset-middle   half the answer, and a reset                                                            yes
hang           nothing, and the connection is closed after `seconds` (never, if not given)             yes
drip           the answer in 20 pieces, spread over `seconds` (2 if not given)                         yes
garbage        bytes that are not HTTP                                                                 yes
not-json       HTTP 200 with a page of HTML                                                            yes
truncated      HTTP 200 with the first half of the JSON                                                yes
huge           the answer, filled up to `size` bytes (4 MiB if not given)                              yes
content-type   the answer, called text/html                                                            yes
message        the answer's status, with `message` instead of its own                                  yes
http           HTTP `http_status`, plain text; an envelope where `status` is given                     no
status         an envelope of `status` and `message`                                                   no
=============  ======================================================================================  ======

*Billed* means that the vendor had made up its mind: the request has had its effect and costs what its own answer
costs, which may be nothing. Where it is not billed, the vendor knows nothing of it. `billed=` says it otherwise: an
HTTP 502 may be either.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import cos, exp, inf, isfinite, log, pi, sqrt
from typing import Any, Self

from aisolution_async.api import ENDPOINTS, ERRORS, endpoint_of
from aisolution_async.checks import is_one_of, kind_of

KINDS: Mapping[str, bool | None] = {
    "latency": None,
    "capacity": False,
    "reset-before": False,
    "reset-after": True,
    "reset-middle": True,
    "hang": True,
    "drip": True,
    "garbage": True,
    "not-json": True,
    "truncated": True,
    "huge": True,
    "content-type": True,
    "message": True,
    "http": False,
    "status": False,
}
"""The kinds of faults, and whether each is billed: None where nothing is changed about that."""

# What each kind takes beside what all take. Whatever is needed has no default to fall back on.
_TAKES: Mapping[str, frozenset[str]] = {
    "latency": frozenset({"seconds", "spread"}),
    "capacity": frozenset({"per_second", "http_status", "retry_after", "message"}),
    "hang": frozenset({"seconds"}),
    "drip": frozenset({"seconds"}),
    "huge": frozenset({"size"}),
    "message": frozenset({"message"}),
    "http": frozenset({"http_status", "status", "message", "retry_after"}),
    "status": frozenset({"status", "message", "retry_after"}),
}
_NEEDS: Mapping[str, str] = {
    "latency": "seconds",
    "capacity": "per_second",
    "http": "http_status",
    "status": "status",
}
_OWN = frozenset({"seconds", "spread", "per_second", "http_status", "status", "message", "retry_after", "size"})
_ALWAYS_AS_THEY_ARE = frozenset({"latency", "capacity", "reset-before"})
BUSY = "Service is not available right now, please try again later"
_MESSAGES: Mapping[str, Any] = {
    "FACE_DETECT_FAILED": [],
    "IMAGE_INVALID_SIZE": "image larger than 2M",
    "INVALID_FACE_NUM": "0 faces found",
    "PERSON_ID_NOT_EXIST": None,
    "RETRY_LATER": BUSY,
}
# Bodies whose repetitions are counted at a time: memory stays bounded in a sandbox that serves for weeks.
_MOST_COUNTED = 100_000
_JSON, _HTML = "application/json", "text/html; charset=utf-8"
_LARGEST_SIZE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: `Fault("reset-after", rate=0.02)`. The kinds are listed at the top of this module.

    `rate` is the share of requests that it hits; `endpoint` the only one whose requests it hits, by the vendor's name;
    `start` and `end` the seconds on the sandbox's clock between which it hits (an outage is
    `Fault("http", http_status=503, start=10, end=20)`); `times` how many requests it hits at most. `billed` says
    whether the vendor had answered; None is what is usual for the kind. The rest is what some kinds need, see there:
    `retry_after` is a header's seconds. Raises ValueError for what does not make sense, saying what would.
    """

    kind: str
    rate: float = 1.0
    endpoint: str | None = None
    start: float = 0.0
    end: float = inf
    times: int | None = None
    billed: bool | None = None
    seconds: float | None = None
    spread: float | None = None
    per_second: float | None = None
    http_status: int | None = None
    status: str | None = None
    message: Any = None
    retry_after: float | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}{_status_of(self.kind) or _nearest(self.kind, KINDS)}")
        given = {name for name in _OWN if getattr(self, name) is not None}
        if foreign := sorted(given - _TAKES.get(self.kind, frozenset())):
            raise ValueError(f"{foreign[0]} says nothing about a fault of kind {self.kind}")
        needed = _NEEDS.get(self.kind)
        if needed is not None and needed not in given:
            raise ValueError(f"a fault of kind {self.kind} needs {needed}")
        if self.endpoint is not None:
            endpoint = endpoint_of(self.endpoint)
            if endpoint is None:
                raise ValueError(f"endpoint {self.endpoint!r} is none{_nearest(self.endpoint, ENDPOINTS)}")
            object.__setattr__(self, "endpoint", endpoint.name)  # of all its spellings, the one that requests have
        if self.billed is not None and self.kind in _ALWAYS_AS_THEY_ARE:
            raise ValueError(f"billed says nothing about a fault of kind {self.kind}")
        checks = (
            ("rate", 0 <= self.rate <= 1, "0 to 1"),
            ("start", 0 <= self.start < inf, "seconds, 0 or more"),
            ("end", self.end > self.start, "more than start"),
            ("times", self.times is None or self.times >= 0, "0 or more"),
            ("seconds", self.seconds is None or (isfinite(self.seconds) and self.seconds >= 0), "seconds, 0 or more"),
            ("spread", self.spread is None or 0 <= self.spread <= 5, "0 to 5"),
            ("per_second", self.per_second is None or 0 < self.per_second < inf, "more than 0"),
            ("http_status", self.http_status is None or 200 <= self.http_status <= 599, "200 to 599"),
            ("retry_after", self.retry_after is None or 0 <= self.retry_after < inf, "seconds, 0 or more"),
            ("size", self.size is None or 0 < self.size <= _LARGEST_SIZE, f"1 to {_LARGEST_SIZE}"),
        )
        for name, right, wanted in checks:
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it is {wanted}")

    @property
    def is_billed(self) -> bool:
        """Whether the vendor had answered by then."""
        usual = KINDS[self.kind]
        return usual is not False if self.billed is None else self.billed

    @classmethod
    def parse(cls, text: str) -> Self:
        """A fault from "KIND[:RATE][,name=value…]", as `aisolution sandbox --fault` takes it.

        "reset-after:0.02", "http-503,start=10,end=20", "status-FAIL:0.1,endpoint=addface", "hang,times=1,billed=no".
        Raises ValueError.
        """
        head, *options = text.split(",")
        kind, colon, rate = head.strip().partition(":")
        given: dict[str, Any] = {}
        if colon:
            given["rate"] = _number("rate", rate)
        for short, name in (("http-", "http_status"), ("status-", "status")):
            if kind.startswith(short):
                given[name] = kind.removeprefix(short)
                kind = short[:-1]
        if "http_status" in given:
            given["http_status"] = _number("http_status", given["http_status"], int)
        for option in options:
            name, equals, value = (part.strip() for part in option.partition("="))
            if not equals or name not in _READERS:
                raise ValueError(f"{option.strip()!r} is no name=value that a fault has{_nearest(name, _READERS)}")
            given[name] = _READERS[name](name, value)
        return cls(kind, **given)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """A fault from a text as `parse` takes it, or from an object of this class's fields. Raises ValueError."""
        if isinstance(value, str):
            return cls.parse(value)
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise ValueError("a fault is a text, or an object with a kind")
        given = dict(value)
        for name, held in value.items():
            if name not in _TYPES:
                raise ValueError(f"a fault has no {name!r}{_nearest(name, _TYPES)}")
            if held is None:
                del given[name]
            elif not is_one_of(held, _TYPES[name]):
                raise ValueError(f"{name} is not of the right type")
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, as `from_json` takes it."""
        fields = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {field.name: value for field, value in fields if value != field.default}


def _number(name: str, text: str, kind: type[int] | type[float] = float) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} is {text.strip()!r}: it is a number") from None


def _whole(name: str, text: str) -> float:
    return _number(name, text, int)


def _yes_or_no(name: str, text: str) -> bool:
    if text not in {"yes", "no"}:
        raise ValueError(f"{name} is {text!r}: it is yes or no")
    return text == "yes"


def _as_it_is(_name: str, text: str) -> str:
    return text


_READERS: Mapping[str, Any] = {
    "rate": _number,
    "endpoint": _as_it_is,
    "start": _number,
    "end": _number,
    "times": _whole,
    "billed": _yes_or_no,
    "seconds": _number,
    "spread": _number,
    "per_second": _number,
    "http_status": _whole,
    "status": _as_it_is,
    "message": _as_it_is,
    "retry_after": _number,
    "size": _whole,
}
_TYPES: Mapping[str, Any] = {
    "kind": str,
    "rate": (int, float),
    "endpoint": str,
    "start": (int, float),
    "end": (int, float),
    "times": int,
    "billed": bool,
    "seconds": (int, float),
    "spread": (int, float),
    "per_second": (int, float),
    "http_status": int,
    "status": str,
    "message": object,
    "retry_after": (int, float),
    "size": int,
}


def _nearest(name: str, names: Iterable[str]) -> str:
    """What there is in place of `name`; all of it, since a word that looks like it may mean another thing."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    there = f"there are {', '.join(names)}"
    return f": did you mean {close[0]!r}? {there[0].upper()}{there[1:]}" if close else f": {there}"


def _status_of(name: str) -> str | None:
    """What to say of a fault that is called as a status of the vendor's is: there is one for all of these."""
    status = name.upper().replace("-", "_")
    if status not in ERRORS:
        return None
    return f": it is a status, which is Fault('status', status={status!r}), or 'status-{status}' in a command"


# ----------------------------------------------------------------------------------------------- which are hit


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request: how many `seconds` late it is answered, and the fault that it gets, if any."""

    seconds: float = 0.0
    fault: Fault | None = None


class _Armed:
    __slots__ = ("fault", "hits", "recent", "serial")

    def __init__(self, fault: Fault, serial: int) -> None:
        self.fault = fault
        self.serial = serial
        self.forget()

    def forget(self) -> None:
        self.hits = 0
        self.recent: deque[float] = deque()

    def hits_at(self, endpoint: str, now: float) -> bool:
        fault = self.fault
        if fault.endpoint is not None and fault.endpoint != endpoint:
            return False
        return fault.start <= now < fault.end and (fault.times is None or self.hits < fault.times)

    def over_capacity(self, now: float) -> bool:
        assert self.fault.per_second is not None
        # Less than one a second is one in more than a second.
        most, span = max(1, int(self.fault.per_second)), max(1.0, 1 / self.fault.per_second)
        while self.recent and self.recent[0] <= now - span:
            self.recent.popleft()
        if len(self.recent) >= most:
            return True
        self.recent.append(now)
        return False


class Faults:
    """The faults of a sandbox, in order: `add`, `remove`, `clear`, iterate, `hits`.

    Delays add up; of all others that would hit a request, the first does. What is hit depends on `seed`, on the
    fault's place, on what the request asks, and on how often just that was asked before: not on the order in which
    different requests arrive, so a run of many at once is as repeatable as one after the other. (`reset-before` goes
    by how many requests of its endpoint came before: nothing else is known then.)
    """

    def __init__(self, faults: Iterable[Fault] = (), *, seed: int = 0) -> None:
        self.seed = seed
        """What chance depends on."""
        self._armed: list[_Armed] = []
        self._serial = 0
        self._counted: OrderedDict[bytes, int] = OrderedDict()
        self._begun: dict[str, int] = {}
        for fault in faults:
            self.add(fault)

    def __iter__(self) -> Iterator[Fault]:
        return iter([armed.fault for armed in self._armed])

    def __len__(self) -> int:
        return len(self._armed)

    def add(self, fault: Fault) -> Fault:
        """Let it hit from now on; the fault itself."""
        if not isinstance(fault, Fault):
            raise TypeError(f"{kind_of(fault)} is no Fault: Fault.parse(...) makes one of a text")
        self._armed.append(_Armed(fault, self._serial))
        self._serial += 1
        return fault

    def remove(self, fault: Fault) -> None:
        """Let it hit no more. Raises ValueError where it is not here."""
        for armed in self._armed:
            if armed.fault == fault:
                self._armed.remove(armed)
                return
        raise ValueError("this fault is not here")

    def clear(self) -> None:
        """Remove them all, and begin chance again."""
        self._armed.clear()
        self._serial = 0
        self.forget()

    def forget(self) -> None:
        """Count from nothing again: chance begins again with the same seed."""
        self._counted.clear()
        self._begun.clear()
        for armed in self._armed:
            armed.forget()

    def hits(self, fault: Fault) -> int:
        """How many requests it hit."""
        return sum(armed.hits for armed in self._armed if armed.fault == fault)

    def begins(self, endpoint: str, now: float) -> Fault | None:
        """The fault that hits a request of which only the head is in."""
        before = self._begun.get(endpoint, 0)
        self._begun[endpoint] = before + 1
        for armed in self._armed:
            if armed.fault.kind == "reset-before" and armed.hits_at(endpoint, now):
                key = b"%d/%d/%b/%d" % (self.seed, armed.serial, endpoint.encode(), before)
                if armed.fault.rate == 1 or _chances(key)[0] < armed.fault.rate:
                    armed.hits += 1
                    return armed.fault
        return None

    def fate(self, endpoint: str, body: bytes, now: float) -> Fate:
        """What happens to a whole request."""
        key = b""
        seconds = 0.0
        hit: Fault | None = None
        for armed in self._armed:
            fault = armed.fault
            if fault.kind == "reset-before" or not armed.hits_at(endpoint, now):
                continue
            if hit is not None and fault.kind != "latency":
                continue
            chance = normal = 0.0
            if fault.rate < 1 or fault.spread:
                key = key or self._key(endpoint, body)
                chance, normal = _chances(b"%b%d" % (key, armed.serial))
            if chance >= fault.rate:
                continue
            if fault.kind == "capacity" and not armed.over_capacity(now):
                continue
            armed.hits += 1
            if fault.seconds is not None and fault.kind == "latency":
                seconds += fault.seconds * exp((fault.spread or 0.0) * normal)
            else:
                hit = fault
        return Fate(seconds, hit)

    def _key(self, endpoint: str, body: bytes) -> bytes:
        digest = blake2b(b"%d/%b/" % (self.seed, endpoint.encode()), digest_size=16)
        digest.update(body)
        name = digest.digest()
        times = self._counted.pop(name, 0)
        self._counted[name] = times + 1
        if len(self._counted) > _MOST_COUNTED:
            self._counted.popitem(last=False)
        return b"%b%d/" % (name, times)


def _chances(key: bytes) -> tuple[float, float]:
    """A number of 0 up to 1, all equally likely, and one of the normal distribution; the same for the same key."""
    digest = blake2b(key, digest_size=24).digest()
    first, second, third = (int.from_bytes(digest[at : at + 8]) / 2**64 for at in (0, 8, 16))
    return min(first, 1 - 2**-53), sqrt(-2 * log(1 - min(second, 1 - 2**-53))) * cos(2 * pi * third)


# --------------------------------------------------------------------------------------------- what they get


def spoiled(
    fault: Fault, endpoint: str, http_status: int, body: bytes, content_type: str
) -> tuple[int, bytes, str, tuple[tuple[str, str], ...], str | None]:
    """HTTP status, body, content type, headers and the vendor's status, made of the answer as it would have been.

    For the kinds that change what is said. The others change how it is sent, and are the server's to do.
    """
    headers: tuple[tuple[str, str], ...] = ()
    if fault.retry_after is not None:
        headers = (("retry-after", f"{fault.retry_after:.15g}"),)
    enveloped = content_type == _JSON
    status: str | None = json.loads(body)["status"] if enveloped else None
    match fault.kind:
        case "status" | "http" | "capacity":
            new = "RETRY_LATER" if fault.kind == "capacity" and fault.http_status is None else fault.status
            code = fault.http_status or 200
            if new is None:
                return code, b"out of order\n", "text/plain; charset=utf-8", headers, None
            return code, _envelope(new, _message(fault, endpoint, new)), _JSON, headers, new
        case "not-json":
            return 200, b"<!doctype html><title>Gateway</title><p>It works!\n", _HTML, headers, status
        case "message" if enveloped:
            message = "nothing that fits" if fault.message is None else fault.message
            return 200, _envelope(str(status), message), _JSON, headers, status
        case "truncated" if enveloped:
            return 200, body[: len(body) // 2], _JSON, headers, status
        case "content-type" if enveloped:
            return 200, body, _HTML, headers, status
        case "huge" if enveloped:
            size = fault.size or 4 * 1024 * 1024
            opened = body.removesuffix(b"}") + b', "filling": "'
            return 200, opened + b"x" * (size - len(opened) - 2) + b'"}', _JSON, headers, status
    # A refusal in plain text has nothing to be spoiled.
    return http_status, body, content_type, headers, status


SPOILING = frozenset({"status", "capacity", "http", "message", "truncated", "not-json", "content-type", "huge"})
"""The kinds that `spoiled` does."""


def garbage(body: bytes) -> bytes:
    """Bytes that are not HTTP, the same for the same body."""
    return b"\x00\x15" + b"".join(blake2b(b"%d" % n + body).digest() for n in range(8))


def _envelope(status: str, message: Any) -> bytes:
    return json.dumps({"status": status, "message": message}).encode()


ENVELOPE_OF_BUSY = _envelope("RETRY_LATER", BUSY)
"""What is sent (in part) where the vendor was never asked."""


def _message(fault: Fault, endpoint: str, status: str) -> Any:
    if fault.message is not None:
        return fault.message
    if (endpoint, status) == ("addface", "FACE_DETECT_FAILED"):
        # The page's own example.
        return {"group_id": "LxiKPLIMGFpXzXas", "person_id": "c5r7jedkujdbnasarhn0", "person_count": 0}
    return _MESSAGES.get(status, "error message")
