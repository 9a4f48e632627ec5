"""What the vendor answers: from method, path, query and body to HTTP status, headers and body. No sockets.

Where the vendor's page is silent, something had to be assumed. Which is which:

Every endpoint
    documented  POST /v1/NAME?token=TOKEN, form-encoded; answers are JSON objects of `status` and `message`
    documented  which statuses an endpoint has, and which of them are charged
    assumed     envelopes come with HTTP 200
    assumed     a wrong or missing token is HTTP 401 in plain text; an unknown path 404, a method other than
                POST 405
    assumed     those refusals, and requests that are too large, are free
    assumed     of a parameter that is given twice the first counts; unknown parameters do not matter

facecompare
    documented  similarity 0..100; SAME PERSON, NOT SAME PERSON or NOT SURE; OK is charged, all else is free
    documented  IMAGE_INVALID_SIZE "image larger than 2M"; RETRY_LATER "IMAGEB_FACE_DETECT_FAILED"
    assumed     2M is 2 MiB of decoded image
    assumed     INVALID_REQUEST for an image that is missing, not strict base64 or no picture, saying which
    assumed     RETRY_LATER "IMAGEA_FACE_DETECT_FAILED" for the first image
    assumed     SAME PERSON from a similarity of 70, NOT SURE from 45

idholding
    documented  as facecompare; INVALID_FACE_NUM "0 faces found"
    assumed     the person is on the left half and the card on the right (top and bottom where the picture is
                taller than wide), and the halves are compared; "1 faces found" where one half shows nothing

addface
    documented  group_id, person_id and person_count; FACE_DETECT_FAILED with all three and a count of 0;
                always free
    assumed     the same person from a similarity of 70 to the first picture of theirs
    assumed     the person_id beside FACE_DETECT_FAILED is a fresh one that nobody gets
    assumed     FAIL for an image that is missing, not base64, larger than 2 MiB or no picture, saying why

searchface
    documented  a list of confidence and person_id; FACE_DETECT_FAILED with []; OK is charged, all else is
                free
    assumed     everybody from a similarity of 70, best first; [] where there is nobody, and charged; FAIL as
                addface

delface
    documented  OK or PERSON_ID_NOT_EXIST, message null, always free
    assumed     PERSON_ID_NOT_EXIST for a missing person_id

gliswadetail
    documented  the message's fields; whatsapp yes, no, checking or unavailable; OK of the last two is free,
                else charged
    documented  servstatus=y answers `unavailable` while the service is
    documented  the callback is a GET with the same fields in its query
    assumed     RETRY_LATER while the service is unavailable and servstatus is not y
    assumed     one number in ten is `checking` when first asked for, and has its answer from the next time on
    assumed     `checking` at once where a callback is given
    assumed     a number is 7 to 15 digits after its country code is complete; a leading + or 00 says that it
                is, a leading 0 is for a known `country` only; with neither it is taken as complete (the
                page's own example), unless `country` is given and the number does not begin with its code
    assumed     INVALID_INPUT for a bad number, country, servstatus or callback, saying why; FAIL never
                happens
    assumed     what a callback brings is charged once for each request that asked for it, and not at all where the
                number was answered, and charged, to another request meanwhile
    ours        callbacks go to loopback addresses only, unless told otherwise: others are not made

The faces are told apart by `faces`, which see: it compares pictures, not people. WhatsApp answers are made up
from a hash of the number, so the same number always has the same one. Numbers of `magic` and pictures of `images`
are answered as they say themselves.
"""

from __future__ import annotations

import asyncio
import binascii
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlencode, urlsplit

from aisolution_async.api import ENDPOINTS
from aisolution_async.charges import Charge
from aisolution_async.sandbox import images
from aisolution_async.sandbox.faces import Face, Faces, UnreadablePictureError, similarity
from aisolution_async.sandbox.faults import BUSY, Fault
from aisolution_async.sandbox.images import LARGEST_IMAGE, Tagged
from aisolution_async.sandbox.magic import HOSTILE, LATE, MagicNumber, find_magic

PREFIX = "/v1/"
SAME_FROM = 70
NOT_SURE_FROM = 45
_BUSY = BUSY
_MOST_PARAMETERS = 64
# Base64 of less than that is decoded at once: a thread costs more.
_SMALL = 8 * 1024

# Country code, and the fewest digits that follow it: an Indian 9123456789 does not begin with its code.
_COUNTRIES = {
    "AU": ("61", 9),
    "BD": ("880", 10),
    "BR": ("55", 10),
    "CN": ("86", 11),
    "GB": ("44", 10),
    "HK": ("852", 8),
    "ID": ("62", 9),
    "IN": ("91", 10),
    "KE": ("254", 9),
    "KH": ("855", 8),
    "LK": ("94", 9),
    "MX": ("52", 10),
    "MY": ("60", 9),
    "NG": ("234", 10),
    "PH": ("63", 10),
    "PK": ("92", 10),
    "SG": ("65", 8),
    "TH": ("66", 9),
    "US": ("1", 10),
    "VN": ("84", 9),
}

_SIGNATURES = (
    "Saya suka global",
    "Hidup itu indah",
    "Sibuk, kirim pesan saja",
    "Semangat pagi! 💪",
    "Jangan lupa bahagia",
    "Kerja keras & doa",
    "Sedang di jalan",
    "Tetap tersenyum :)",
    "Hey there! I am using WhatsApp.",
    "At work",
    "Can't talk, WhatsApp only",
    "Café owner, open 8-17",
    "Battery about to die",
    "Available",
)


@dataclass(frozen=True, slots=True, repr=False)  # the query holds the token, the body everything else
class Request:
    """A whole HTTP request, as far as the vendor looks at it."""

    method: str
    path: str
    query: bytes
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Of requests about the sandbox itself only: names in lower case, and values."""
    peer: str = ""
    """The address of whoever asks."""


@dataclass(frozen=True, slots=True)
class DueCallback:
    """A GET that is due: to any one of `addresses`, and with `target` as its request line has it."""

    number: str = field(repr=False)
    url: str = field(repr=False)
    addresses: tuple[str, ...]
    port: int
    tls: bool
    name: str
    """The URL's host."""
    host: str
    """The same as the Host header has it, with the port."""
    target: str = field(repr=False)
    delay: float | None = 0.0
    """Seconds on the sandbox's clock after which it is due; None is never."""
    charge: Charge | None = None
    """What it costs; None where it brings what another one brings."""


@dataclass(frozen=True, slots=True)
class Served:
    """What goes back, what it costs (`endpoint` is None where nothing is billed), and what is due after.

    `callbacks` are made one after the other, and `number` is the one that was looked up. `delay` is how many seconds
    late it is, and `fault` what becomes of it on the way.
    """

    http_status: int
    body: bytes = field(repr=False)
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    endpoint: str | None = None
    charge: Charge = Charge.FREE
    callbacks: tuple[DueCallback, ...] = ()
    number: str | None = None
    status: str | None = None
    delay: float = 0.0
    fault: Fault | None = None


@dataclass(slots=True, repr=False)
class _Person:
    face: Face | Tagged
    count: int = 1


class _Group:
    """The faces that were added with one token."""

    def __init__(self, token: str) -> None:
        # The group's id is published, so it must not give the token away: not even a token of one letter.
        self.id = next(name for salt in count() if token not in (name := _letters(salt, token)))
        self.people: dict[str, _Person] = {}
        # Held from looking for a person until they are added or counted: comparing is awaited in between.
        self.lock = asyncio.Lock()
        self._serial = count(1)

    def new_person_id(self) -> str:
        digest = sha256(f"{self.id}/{next(self._serial)}".encode()).digest()
        return "".join("0123456789abcdefghijklmnopqrstuv"[byte % 32] for byte in digest[:20])

    async def matches(self, face: Face | Tagged) -> list[tuple[float, str]]:
        """The people whom this face may be, best first."""
        people = [(person_id, person.face) for person_id, person in self.people.items()]
        if not people:
            return []
        scores = await asyncio.to_thread(lambda: [(_score(face, other), name) for name, other in people])
        return sorted((score for score in scores if score[0] >= SAME_FROM), key=lambda score: -score[0])


class _Refusal(Exception):  # noqa: N818  # an answer like any other, only found deep inside
    def __init__(self, status: str, message: str) -> None:
        super().__init__(status)
        self.status = status
        self.message = message


class _Statement(NamedTuple):
    status: str
    message: Any
    callbacks: tuple[DueCallback, ...] = ()
    fault: Fault | None = None


# Whom a picture shows, None where it shows nobody; both, of the halves.
_Seen = Face | Tagged | None
_Found = Callable[[bytes], tuple[_Seen, ...]]
_Form = dict[bytes, bytes]
_Handler = Callable[[_Group, _Form], Awaitable[_Statement]]


class Vendor:
    """The vendor's state (face groups by token, numbers that were asked for) and its answers from it.

    `now` is the sandbox's clock, in seconds.
    """

    def __init__(
        self,
        tokens: Iterable[str],
        *,
        whatsapp_available: bool,
        callbacks_anywhere: bool,
        now: Callable[[], float],
    ) -> None:
        self.whatsapp_available = whatsapp_available
        self._callbacks_anywhere = callbacks_anywhere
        self._now = now
        self._tokens = tuple(tokens)
        self._faces = Faces()
        self._handlers: dict[str, _Handler] = {
            "facecompare": self._face_compare,
            "idholding": self._id_holding,
            "addface": self._add_face,
            "searchface": self._search_face,
            "delface": self._delete_face,
            "gliswadetail": self._whatsapp_detail,
        }
        self.forget()

    def forget(self) -> None:
        """Know of no faces and no earlier requests."""
        self._groups = {token.encode(): _Group(token) for token in self._tokens}
        self._asked: set[str] = set()
        # How often, and since when.
        self._asked_by_magic: dict[str, tuple[int, float]] = {}
        self._seen: dict[tuple[str, bytes], int] = {}

    @property
    def faces(self) -> Mapping[str, Mapping[str, int]]:
        """How often each person was added, by person id, by group id."""
        return {
            group.id: {person_id: person.count for person_id, person in group.people.items()}
            for group in self._groups.values()
        }

    def endpoint(self, path: str) -> str | None:
        """The endpoint at this path, None where there is none."""
        name = path.removeprefix(PREFIX)
        return name if name in ENDPOINTS and path.startswith(PREFIX) else None

    async def answer(self, request: Request) -> Served:
        """The answer to one request. Pictures are looked at in a thread; all else is immediate."""
        endpoint = self.endpoint(request.path)
        if endpoint is None:
            return Served(404, b"not found\n")
        if request.method != "POST":
            return Served(405, b"method not allowed\n", headers=(("allow", "POST"),), endpoint=endpoint)
        group = self._groups.get(_form(request.query).get(b"token", b""))
        if group is None:
            return Served(401, b"token not valid\n", endpoint=endpoint)
        handler = self._handlers.get(endpoint)
        if handler is None:
            return _without_a_handler(endpoint)
        try:
            said = await handler(group, _form(request.body))
        except _Refusal as refusal:
            said = _Statement(refusal.status, refusal.message)
        if said.fault is not None and not said.fault.is_billed:
            return Served(200, b"", endpoint=endpoint, fault=said.fault)  # not as far as the vendor knows
        return Served(
            200,
            json.dumps({"status": said.status, "message": said.message}, ensure_ascii=False).encode(),
            content_type="application/json",
            endpoint=endpoint,
            charge=_charge(endpoint, said.status, said.message),
            callbacks=said.callbacks,
            status=said.status,
            fault=said.fault,
            number=said.message["number"] if endpoint == "gliswadetail" and said.status == "OK" else None,
        )

    async def _face_compare(self, _group: _Group, form: _Form) -> _Statement:
        first, second = (seen for (seen,) in await self._look(self._whole, form, "img1", "img2"))
        fault = self._fault("facecompare", first) or self._fault("facecompare", second)
        if _is_nobody(first) and fault is None:
            return _Statement("RETRY_LATER", "IMAGEA_FACE_DETECT_FAILED")
        if _is_nobody(second) and fault is None:
            return _Statement("RETRY_LATER", "IMAGEB_FACE_DETECT_FAILED")
        return _Statement("OK", _judged(first, second), fault=fault)

    async def _id_holding(self, _group: _Group, form: _Form) -> _Statement:
        (halves,) = await self._look(self._faces.find_halves, form, "img")
        tagged = halves[0]
        fault = None
        if isinstance(tagged, Tagged):
            fault = self._fault("idholding", tagged)
            if tagged.card or fault is not None:
                return _Statement("OK", _judged(tagged, replace(tagged, people=tagged.people[1:])), fault=fault)
            return _Statement("INVALID_FACE_NUM", f"{len(tagged.people)} faces found")
        faces = [face for face in halves if face is not None]
        if len(faces) < 2:
            return _Statement("INVALID_FACE_NUM", f"{len(faces)} faces found")
        return _Statement("OK", _judged(*faces))

    async def _add_face(self, group: _Group, form: _Form) -> _Statement:
        face = await self._only_face(form)
        fault = self._fault("addface", face)
        if fault is not None and not fault.is_billed:
            return _Statement("OK", None, fault=fault)
        if face is None or _is_nobody(face):
            return _Statement("FACE_DETECT_FAILED", _member(group, group.new_person_id(), 0))
        async with group.lock:
            matches = await group.matches(face)
            if not matches:
                person_id = group.new_person_id()
                group.people[person_id] = _Person(face)
            else:
                person_id = matches[0][1]
                group.people[person_id].count += 1
            return _Statement("OK", _member(group, person_id, group.people[person_id].count), fault=fault)

    async def _search_face(self, group: _Group, form: _Form) -> _Statement:
        face = await self._only_face(form)
        fault = self._fault("searchface", face)
        if face is None or (_is_nobody(face) and fault is None):
            return _Statement("FACE_DETECT_FAILED", [])
        matches = await group.matches(face)
        found = [{"confidence": score, "person_id": person_id} for score, person_id in matches]
        return _Statement("OK", found, fault=fault)

    async def _only_face(self, form: _Form) -> _Seen:
        try:
            ((face,),) = await self._look(self._whole, form, "img")
        except _Refusal as refusal:
            raise _Refusal("FAIL", refusal.message) from None
        return face

    def _whole(self, image: bytes) -> tuple[_Seen, ...]:
        return (self._faces.find(image),)

    async def _look(self, find: _Found, form: _Form, *names: str) -> list[tuple[_Seen, ...]]:
        """Whom each of these parameters shows; a picture that says so itself is believed."""

        def look() -> list[tuple[_Seen, ...]]:
            pictures = [(name, _image(form, name)) for name in names]
            return [_look(find, name, picture) for name, picture in pictures]

        if sum(len(form.get(name.encode(), b"")) for name in names) < _SMALL:
            tagged = [images.read(_image(form, name)) for name in names]
            if all(tag is not None for tag in tagged):
                return [(tag,) for tag in tagged]
        return await asyncio.to_thread(look)

    def _fault(self, endpoint: str, seen: _Seen) -> Fault | None:
        if not isinstance(seen, Tagged) or seen.fault is None:
            return None
        if seen.times is not None:
            name = endpoint, repr(seen).encode()
            self._seen[name] = self._seen.get(name, 0) + 1
            if self._seen[name] > seen.times:
                return None
        return seen.fault

    async def _delete_face(self, group: _Group, form: _Form) -> _Statement:
        async with group.lock:
            person = group.people.pop(_text(form, "person_id"), None)
        return _Statement("PERSON_ID_NOT_EXIST" if person is None else "OK", None)

    async def _whatsapp_detail(self, _group: _Group, form: _Form) -> _Statement:
        number = _number(_text(form, "number"), _text(form, "country"))
        servstatus = _text(form, "servstatus")
        if servstatus not in {"", "y", "n"}:
            raise _Refusal("INVALID_INPUT", "servstatus is neither y nor n")
        url = _text(form, "callback")
        callback = _callback(url, number, anywhere=self._callbacks_anywhere) if url else None
        magic = find_magic(number)
        said = None if magic is None else self._by_magic(magic, number)
        if isinstance(said, Fault):
            return _Statement("OK", _profile_of("yes", number), fault=said)
        if said == "unavailable" or not self.whatsapp_available:
            if servstatus != "y":
                return _Statement("RETRY_LATER", _BUSY)
            return _Statement("OK", {"number": number, "whatsapp": "unavailable"})
        checking = {"number": number, "whatsapp": "checking"}
        if magic is not None:
            if callback is not None:
                return _Statement("OK", checking, self._callbacks(magic, url, number))
            return _Statement("OK", checking if said is None or said == "checking" else _profile_of(said, number))
        slow = sha256(b"slow" + number.encode()).digest()[0] % 10 == 0 and number not in self._asked
        if slow or callback is not None:
            self._asked.add(number)
            return _Statement("OK", checking, () if callback is None else (callback,))
        return _Statement("OK", _profile(number))

    def _by_magic(self, magic: MagicNumber, number: str) -> str | Fault:
        times, since = self._asked_by_magic.get(number, (0, self._now()))
        self._asked_by_magic[number] = times + 1, since
        if self._now() < since + magic.checking_for:
            return "checking"
        return magic.answers[min(times, len(magic.answers) - 1)]

    def _callbacks(self, magic: MagicNumber, url: str, number: str) -> tuple[DueCallback, ...]:
        last = magic.answers[-1]
        assert isinstance(last, str)  # a number that always fails is never called back
        _, since = self._asked_by_magic[number]
        waiting = max(0.0, since + magic.checking_for - self._now())

        def made(number: str, **how: Any) -> DueCallback:
            profile = _profile_of(last, number)
            escaped = magic.callback != "unescaped"
            made = _callback(url, number, anywhere=self._callbacks_anywhere, profile=profile, escaped=escaped)
            return replace(made, **how)

        final = made(number, delay=waiting)
        match magic.callback:
            case "twice":
                return final, replace(final, charge=None)
            case "late":
                return (replace(final, delay=LATE),)
            case "never":
                return (replace(final, delay=None),)
            case "stranger":
                return made(number[:-3] + "999", delay=waiting, charge=None), replace(final, delay=0.0)
        return (final,)


def _without_a_handler(endpoint: str) -> Served:
    """The answer for an endpoint that `api.py` has and the sandbox has not: free, since nothing was done.

    An envelope with a status that the endpoint documents as free, so that the client knows this, and shows what it
    says. Where the endpoint documents none that is sure not to be repeated, a refusal in plain text.
    """
    charges = ENDPOINTS[endpoint].charges
    said = f"the sandbox has no answer for {endpoint} yet: write one, in the class Vendor of the sandbox"
    for status in ("FAIL", "INVALID_REQUEST", "INVALID_INPUT"):
        if charges.get(status) is Charge.FREE:
            body = json.dumps({"status": status, "message": said}).encode()
            return Served(501, body, "application/json", endpoint=endpoint, status=status)
    return Served(404, f"{said}\n".encode(), endpoint=endpoint)


def _charge(endpoint: str, status: str, message: Any) -> Charge:
    # Not by the table in api.py: the client, which goes by that, is checked against this.
    if status != "OK" or endpoint in {"addface", "delface"}:
        return Charge.FREE
    if endpoint == "gliswadetail" and message["whatsapp"] in {"checking", "unavailable"}:
        return Charge.FREE
    return Charge.CHARGED


def _is_nobody(seen: _Seen) -> bool:
    return seen is None or (isinstance(seen, Tagged) and not seen.people)


def _score(first: _Seen, second: _Seen) -> float:
    """How alike two faces are, 0 to 100; pictures that say who is on them are like none that do not."""
    tagged = [seen for seen in (first, second) if isinstance(seen, Tagged)]
    for tag in tagged:
        if tag.similarity is not None:
            return tag.similarity
    if len(tagged) == 2:
        return images.SAME if tagged[0].people[:1] == tagged[1].people[:1] else images.DIFFERENT
    if first is None or second is None or tagged:
        return images.DIFFERENT
    assert isinstance(first, Face)
    assert isinstance(second, Face)
    return similarity(first, second)


def _judged(first: _Seen, second: _Seen) -> dict[str, Any]:
    score = _score(first, second)
    return {"similarity": score, "result": _judgment(score)}


def _judgment(score: float) -> str:
    if score >= SAME_FROM:
        return "SAME PERSON"
    return "NOT SURE" if score >= NOT_SURE_FROM else "NOT SAME PERSON"


def _member(group: _Group, person_id: str, person_count: int) -> dict[str, Any]:
    return {"group_id": group.id, "person_id": person_id, "person_count": person_count}


def _letters(salt: int, token: str) -> str:
    digest = sha256(f"{salt}/{token}".encode()).digest()
    return "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[byte % 52] for byte in digest[:16])


def _form(body: bytes) -> _Form:
    """The parameters of a form or a query: a megabyte of base64 in milliseconds, unlike parse_qs."""
    form: _Form = {}
    for pair in body.split(b"&", _MOST_PARAMETERS)[:_MOST_PARAMETERS]:
        name, _, value = pair.partition(b"=")
        form.setdefault(_unquoted(name), _unquoted(value))
    return form


def _unquoted(text: bytes) -> bytes:
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    # What base64 needs escaped, first: unquote_to_bytes is slow by the escape. None makes a new escape.
    for escape, plain in ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"=")):
        text = text.replace(escape, plain).replace(escape.lower(), plain)
    return unquote_to_bytes(text)


def _text(form: _Form, name: str) -> str:
    return form.get(name.encode(), b"").decode(errors="replace").strip()


def _image(form: _Form, name: str) -> bytes:
    encoded = form.get(name.encode())
    if not encoded:
        raise _Refusal("INVALID_REQUEST", f"{name} is missing")
    try:
        image = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise _Refusal("INVALID_REQUEST", f"{name} is not base64") from None
    if len(image) > LARGEST_IMAGE:
        raise _Refusal("IMAGE_INVALID_SIZE", "image larger than 2M")
    return image


def _look(find: _Found, name: str, image: bytes) -> tuple[_Seen, ...]:
    tagged = images.read(image)
    if tagged is not None:
        return (tagged,)
    try:
        return find(image)
    except UnreadablePictureError as error:
        raise _Refusal("INVALID_REQUEST", f"{name} is not a readable picture: {error}") from None


def _number(text: str, country: str) -> str:
    """`text` as "+" and digits."""
    country = country.upper()
    if country and not re.fullmatch("[A-Z]{2}", country):
        raise _Refusal("INVALID_INPUT", "country is not two letters")
    if not re.fullmatch(r"\+?[0-9 ().-]+", text):
        raise _Refusal("INVALID_INPUT", "number is missing" if not text else "number is not a phone number")
    digits = re.sub("[^0-9]", "", text)
    if not text.startswith("+"):
        if digits.startswith("00"):
            digits = digits[2:]
        elif country in _COUNTRIES:
            code, shortest = _COUNTRIES[country]
            if digits.startswith("0"):
                digits = code + digits[1:]
            elif not (digits.startswith(code) and len(digits) >= len(code) + shortest):
                digits = code + digits
        elif country:
            raise _Refusal("INVALID_INPUT", "country is not known: give the number with + and its country code")
        elif digits.startswith("0"):
            raise _Refusal("INVALID_INPUT", "number begins with 0: give country, or + and the country code")
    if not 7 <= len(digits) <= 15 or digits.startswith("0"):
        raise _Refusal("INVALID_INPUT", "number is not 7 to 15 digits with a country code")
    return f"+{digits}"


def _profile(number: str) -> dict[str, str]:
    luck = sha256(number.encode()).digest()
    if luck[0] >= 179:  # of 256: three in ten
        return {"number": number, "whatsapp": "no"}
    updated = date(2016, 1, 1) + timedelta(days=int.from_bytes(luck[1:3]) % 3000)
    return {
        "number": number,
        "whatsapp": "yes",
        "status_update": f"{updated:%Y%m%d}",
        "signature": _SIGNATURES[luck[3] % len(_SIGNATURES)],
        "business_user": "yes" if luck[4] < 64 else "no",
        "avatar": "yes" if luck[5] < 192 else "no",
    }


def _profile_of(word: str, number: str) -> dict[str, str]:
    """The message of a magic number: the page's own example, but for what its word says."""
    whole = {
        "number": number,
        "whatsapp": "yes",
        "status_update": "20180825",
        "signature": "Saya suka global",
        "business_user": "no",
        "avatar": "yes",
    }
    match word:
        case "yes":
            return whole
        case "business":
            return whole | {"business_user": "yes"}
        case "hostile":
            return whole | {"signature": HOSTILE}
        case "bare":
            return {"number": number, "whatsapp": "yes"}
    return {"number": number, "whatsapp": word}


def _callback(
    url: str, number: str, *, anywhere: bool, profile: Mapping[str, str] | None = None, escaped: bool = True
) -> DueCallback:
    try:
        # urlsplit drops newlines, and the target goes into a request line as it is.
        if re.search(r"[^!-~]", url):
            raise ValueError
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in {"http", "https"} or not host or "@" in parts.netloc:
            raise ValueError
    except ValueError:
        raise _Refusal("INVALID_INPUT", "callback is not an http or https address") from None
    if host == "localhost":
        # Never looked up: nobody's name server says where this goes.
        addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    elif anywhere or _is_loopback(host):
        addresses = (host,)
    else:
        addresses = ()
    tls = parts.scheme == "https"
    found = urlencode(_profile(number) if profile is None else profile)
    if not escaped:
        found = found.replace("%2B", "+", 1)
    query = "&".join(filter(None, (parts.query, found)))
    target = f"{parts.path or '/'}?{query}"
    return DueCallback(
        number=number,
        url=f"{parts.scheme}://{parts.netloc}{target}",
        addresses=addresses,
        port=port or (443 if tls else 80),
        tls=tls,
        name=host,
        host=parts.netloc,
        target=target,
        charge=Charge.CHARGED,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
