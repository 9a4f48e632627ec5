"""The endpoints, as data: what a call takes, what it answers, what each status costs.

Everything that loops over endpoints (the form, the charges, the command line, the tests) loops over `CALLS`.
Another endpoint is one more section here. The charges follow the "Status code" tables of the vendor's page, and each
call and reply names its section of that page in quotes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from os import PathLike
from typing import Annotated, Any, ClassVar, Generic, NewType, Protocol, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from aisolution_async.charges import Attempt, Charge, overall
from aisolution_async.errors import (
    FaceNotFoundError,
    ImageTooLargeError,
    InvalidRequestError,
    Key,
    PersonNotFoundError,
    RetryLaterError,
    ServiceFailedError,
    StatusError,
)
from aisolution_async.hiding import SECRET_FIELDS, without_secret_fields


class SupportsRead(Protocol):
    """A binary file, or whatever else gives bytes when it is read: an upload, a member of a ZIP file, a pipe."""

    def read(self, size: int, /) -> bytes | bytearray | memoryview: ...


ImageSource = str | PathLike[str] | bytes | bytearray | memoryview | SupportsRead
"""An image: a path, the file's bytes, a binary file object, or base64 text (bare or as a `data:` URL).

Text is told apart like this: `data:` opens base64; text that decodes strictly as base64 to the first bytes of
an image format, or that is too long for a path, is base64; all other text is a path. Text that could be both
(it names a file and decodes to an image) is refused: say `Path(...)` or pass bytes.
"""

NewWord = NewType("NewWord", str)
"""A word of the vendor's that the contract does not list: a plain `str`, told from the listed ones by type checkers."""

R = TypeVar("R", bound="Reply")
R_co = TypeVar("R_co", bound="Reply", covariant=True)

CHARGED, FREE = Charge.CHARGED, Charge.FREE


class Kind(Enum):
    """What a parameter of a call is, and so how it is checked and written."""

    IMAGE = "image"
    NUMBER = "number"
    COUNTRY = "country"
    URL = "url"
    TEXT = "text"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of the form. The order of an endpoint's parameters is their order on the wire."""

    name: str
    kind: Kind
    required: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[R]):
    """What the vendor's page says of one endpoint.

    `charges` maps each documented status to its charge; where the charge of OK depends on a field of the
    reply (`refined_by`), "OK:value" says it for that value.
    """

    name: str
    command: str
    summary: str
    reply: type[R]
    parameters: tuple[Parameter, ...]
    charges: Mapping[str, Charge]
    refined_by: str | None = None
    idempotent: bool = False
    """Asking twice does what asking once does and costs nothing: an UNKNOWN attempt may be repeated."""
    done_already: frozenset[str] = frozenset()
    """Statuses that, after an UNKNOWN attempt, mean that the attempt had worked."""
    fields: tuple[tuple[str, Kind, bool], ...] = field(init=False, repr=False, compare=False)
    """Each parameter's name and kind, and whether it is required: plain tuples, which are quickly read."""
    takes_images: bool = field(init=False, repr=False, compare=False)
    """Whether a call has to be read before it can be sent."""
    never_charges: bool = field(init=False, repr=False, compare=False)
    """Whether no documented status of this endpoint is charged."""
    read_reply: Callable[[object], R] = field(init=False, repr=False, compare=False)
    """What reads the `message` of an OK: see `Reply.from_message`."""

    def __post_init__(self) -> None:
        # What each call asks is worked out once.
        fields = tuple((parameter.name, parameter.kind, parameter.required) for parameter in self.parameters)
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "read_reply", self.reply.reader())
        object.__setattr__(self, "takes_images", any(kind is Kind.IMAGE for _, kind, _ in fields))
        object.__setattr__(self, "never_charges", all(charge is FREE for charge in self.charges.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, each.name) for each in fields(self) if each.init)

    @property
    def path(self) -> str:
        """The path below the base URL."""
        return f"/v1/{self.name}"


_get_extra = BaseModel.__dict__["__pydantic_extra__"].__get__


class _Said(BaseModel):
    """What the vendor said: fields that the contract does not name are kept, and shown to nobody; frozen.

    What `hiding.SECRET_FIELDS` name is an attribute, and in no dump, JSON or pickle; within other fields that the
    contract does not name it is left out.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002  # pydantic's signature
        extra = _get_extra(self)
        if extra:
            for name in [*extra]:
                if name in SECRET_FIELDS:
                    # As a cached property is kept: pydantic dumps fields and extras only.
                    self.__dict__[name] = extra.pop(name)
                else:
                    extra[name] = without_secret_fields(extra[name])

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = without_secret_fields(state["__dict__"])
        known = SECRET_FIELDS & type(self).model_fields.keys()
        state["__dict__"] = {name: "" if name in known else fields[name] for name in (*fields, *known)}
        return state

    def __iter__(self) -> Generator[tuple[str, Any], None, None]:
        # So that dict(reply) shows no more than its dumps.
        yield from ((name, value) for name, value in super().__iter__() if name not in SECRET_FIELDS)

    def __repr_args__(self) -> Any:
        # Numbers, access keys and what nobody documented are for code that asks for them by name, not for logs.
        for name, value in super().__repr_args__():
            shown = value is None or (name in type(self).model_fields and name not in _SECRET_FIELDS)
            yield name, (value if shown else "…")


_SECRET_FIELDS = SECRET_FIELDS | {"number", "signature"}


# A reply is frozen; and what pydantic has of its own is found three times as fast by its slot.
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__
_get_private = BaseModel.__dict__["__pydantic_private__"].__get__


class Reply(_Said):  # noqa: PLW1641  # pydantic gives frozen models their hash
    """What an OK carries. Fields the contract does not name are kept; frozen."""

    sole_field: ClassVar[str | None] = None
    """The field that a message goes into which is no object; None where a message is an object, or says nothing."""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts that led to this reply, oldest first; the last one brought it."""
        noted = self.__pydantic_private__
        return () if noted is None else noted.get("attempts", ())

    @property
    def charge(self) -> Charge:
        """What the call cost, over all its attempts."""
        return overall(self.attempts)

    @property
    def is_answer(self) -> bool:
        """Whether the question is answered: "checking" and "unavailable" are no answers."""
        return True

    @property
    def recorded(self) -> Attempt | None:
        """The attempt of an earlier call that brought this reply, where it comes from a ledger; else None."""
        noted = self.__pydantic_private__
        return None if noted is None else noted.get("recorded")

    @property
    def answered_at(self) -> datetime | None:
        """When the vendor said so, in UTC, where the reply comes from a ledger; None where it was asked for now."""
        attempt = self.recorded
        return None if attempt is None else attempt.started_at + timedelta(seconds=attempt.elapsed)

    @classmethod
    def from_record(cls, text: bytes, attempt: Attempt | None = None) -> Self:
        """A reply as a ledger keeps it, and the attempt that brought it. Raises pydantic's ValidationError."""
        return cls.model_validate_json(text)._note("recorded", attempt)  # noqa: SLF001  # its own class

    def to_record(self) -> str:
        """The reply as a ledger keeps it: JSON, without access keys."""
        return self.to_json().decode()

    def to_json(self) -> bytes:
        """The same in UTF-8: what `model_dump_json` says, without looking at the options that nobody gave."""
        return self.__pydantic_serializer__.to_json(self)

    @classmethod
    def from_message(cls, message: object) -> Self:
        """Read the `message` of an OK. Raises pydantic's ValidationError where it does not fit."""
        return cls.reader()(message)

    @classmethod
    def reader(cls) -> Callable[[object], Self]:
        """What does so, found once for many."""
        validate = cls._validate()
        sole = cls.sole_field
        return validate if sole is None else lambda message: validate({sole: message})

    @classmethod
    def _validate(cls) -> Callable[[object], Self]:
        """`model_validate`, without looking at the options that nobody gave."""
        validate: Callable[[object], Self] = cls.__pydantic_validator__.validate_python
        return validate

    def made_by(self, attempts: tuple[Attempt, ...]) -> Self:
        """Note the attempts that led to this reply. For who made them."""
        noted = _get_private(self)
        if noted is None:
            _set_private(self, {"attempts": attempts})
        else:
            noted["attempts"] = attempts
        return self

    # What is no part of the answer stands where pydantic keeps private attributes: copies and pickles have it, dumps do
    # not. It is not declared as such: pydantic would make it for each reply, which took a tenth of a whole call.

    def _note(self, name: str, value: Any) -> Self:
        noted = _get_private(self)
        if noted is None:
            _set_private(self, {name: value})
        else:
            noted[name] = value
        return self

    def __eq__(self, other: object) -> bool:
        # What the vendor said, not what it took to hear it.
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__ and self.model_extra == other.model_extra


@dataclass(frozen=True, slots=True, repr=False)
class Call(Generic[R_co]):
    """One question to the vendor: a frozen value. What it holds is checked when it is sent, not here.

    `key` is yours (an applicant's id): it comes back on the outcome and on errors, and is never sent.
    """

    key: Key = field(default=None, kw_only=True)

    endpoint: ClassVar[Endpoint[Any]]

    def __repr__(self) -> str:
        # Images, numbers and callback URLs stay out of logs.
        return f"{type(self).__name__}(key={self.key!r})"


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a truth value where a number belongs")  # pydantic wants ValueError
    return value


Score = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(_no_bool)]
"""0 to 100."""

Text = Annotated[str, Field(coerce_numbers_to_str=True)]
"""Text, also where the vendor's JSON has bare digits."""

# ------------------------------------------------------------------------------------------- face comparison


class Judgment(StrEnum):
    """The vendor's verdict on two faces ("Face Comparison", "Judgment description")."""

    SAME_PERSON = "SAME PERSON"
    NOT_SAME_PERSON = "NOT SAME PERSON"
    NOT_SURE = "NOT SURE"


class FaceComparison(Reply):
    """How alike two faces are.

    The answer of "Face Comparison" and of "Hand-held ID Card Comparison".

    - `similarity`: a score from 0 to 100.
    - `result`: a `Judgment`, or a string if the vendor says a new word.
    """

    similarity: Score
    result: Annotated[Judgment | NewWord, Field(union_mode="left_to_right")]


@dataclass(frozen=True, slots=True, repr=False)
class FaceCompare(Call[FaceComparison]):
    """Are these two faces one person? ("Face Comparison")

    Each of `img1` and `img2` is a path, the bytes of a file, a binary file or base64 text. Answered by a
    `FaceComparison`. CHARGED if answered.
    """

    img1: ImageSource
    img2: ImageSource

    endpoint: ClassVar[Endpoint[FaceComparison]] = Endpoint(
        name="facecompare",
        command="face-compare",
        summary="Compare two faces: one person or two?",
        reply=FaceComparison,
        parameters=(Parameter("img1", Kind.IMAGE), Parameter("img2", Kind.IMAGE)),
        charges={"OK": CHARGED, "INVALID_REQUEST": FREE, "IMAGE_INVALID_SIZE": FREE, "RETRY_LATER": FREE},
    )


# --------------------------------------------------------------------------------------- hand-held ID card


@dataclass(frozen=True, slots=True, repr=False)
class IdHolding(Call[FaceComparison]):
    """Is the person holding the card the person on it? ("Hand-held ID Card Comparison")

    `img` is one photo of both: a path, the bytes of a file, a binary file or base64 text. Answered by a
    `FaceComparison`. CHARGED if answered.
    """

    img: ImageSource

    endpoint: ClassVar[Endpoint[FaceComparison]] = Endpoint(
        name="idholding",
        command="id-holding",
        summary="Compare a person with the ID card in their hand, on one photo.",
        reply=FaceComparison,
        parameters=(Parameter("img", Kind.IMAGE),),
        charges={
            "OK": CHARGED,
            "INVALID_REQUEST": FREE,
            "IMAGE_INVALID_SIZE": FREE,
            "INVALID_FACE_NUM": FREE,
            "RETRY_LATER": FREE,
        },
    )


# ----------------------------------------------------------------------------------------------- face search


class AddedFace(Reply):
    """A face that the vendor remembers.

    The answer of "Face Search", "add face image".

    - `person_id`: names the person.
    - `person_count`: how often this face was added.
    - `group_id`: a secret, which the vendor calls the access key. Dumps do not show it, and it is empty in a reply from
      a ledger or a pickle, which do not keep it.
    """

    group_id: str = Field(exclude=True)
    person_id: str
    person_count: int

    @classmethod
    def from_record(cls, text: bytes, attempt: Attempt | None = None) -> Self:
        return cls._validate()({**from_json(text), "group_id": ""})._note("recorded", attempt)  # noqa: SLF001  # its own


@dataclass(frozen=True, slots=True, repr=False)
class AddFace(Call[AddedFace]):
    """Remember a face, to be searched for later ("Face Search", "add face image").

    `img` is a path, the bytes of a file, a binary file or base64 text. Answered by an `AddedFace`. FREE.
    """

    img: ImageSource

    endpoint: ClassVar[Endpoint[AddedFace]] = Endpoint(
        name="addface",
        command="add-face",
        summary="Remember a face, to be searched for later.",
        reply=AddedFace,
        parameters=(Parameter("img", Kind.IMAGE),),
        charges={"OK": FREE, "FACE_DETECT_FAILED": FREE, "FAIL": FREE, "RETRY_LATER": FREE},
    )


class FaceMatch(_Said):
    """One remembered person who looks like the photo: `confidence`, 0 to 100, and the `person_id` of `AddedFace`."""

    confidence: Score
    person_id: str


class FaceMatches(Reply):
    """Whom the photo looks like: `matches`, a list that is empty if nobody.

    The answer of "Face Search", "search the same face". The contract does not say how the list is ordered.
    """

    sole_field: ClassVar[str | None] = "matches"

    matches: list[FaceMatch]


@dataclass(frozen=True, slots=True, repr=False)
class SearchFace(Call[FaceMatches]):
    """Was this face added before? ("Face Search", "search the same face")

    `img` is a path, the bytes of a file, a binary file or base64 text. Answered by `FaceMatches`. CHARGED if
    answered, also if nobody is found.
    """

    img: ImageSource

    endpoint: ClassVar[Endpoint[FaceMatches]] = Endpoint(
        name="searchface",
        command="search-face",
        summary="Search for a face among those added before.",
        reply=FaceMatches,
        parameters=(Parameter("img", Kind.IMAGE),),
        charges={"OK": CHARGED, "FAIL": FREE, "RETRY_LATER": FREE, "FACE_DETECT_FAILED": FREE},
    )


class DeletedFace(Reply):
    """The person is forgotten. The vendor sends nothing with it.

    The answer of "Face Search", "delete face".
    """

    @classmethod
    def reader(cls) -> Callable[[object], Self]:
        validate = cls._validate()
        return lambda message: validate(message if isinstance(message, dict) else {})


@dataclass(frozen=True, slots=True, repr=False)
class DeleteFace(Call[DeletedFace]):
    """Forget a person ("Face Search", "delete face").

    `person_id` is that of an `AddedFace`. Answered by a `DeletedFace`. FREE.
    """

    person_id: str

    endpoint: ClassVar[Endpoint[DeletedFace]] = Endpoint(
        name="delface",
        command="delete-face",
        summary="Forget a face that was added before.",
        reply=DeletedFace,
        parameters=(Parameter("person_id", Kind.TEXT),),
        charges={"OK": FREE, "PERSON_ID_NOT_EXIST": FREE, "RETRY_LATER": FREE},
        idempotent=True,
        done_already=frozenset({"PERSON_ID_NOT_EXIST"}),
    )


# ------------------------------------------------------------------------------------------- WhatsApp detail


class WhatsAppState(StrEnum):
    """What is known of a number ("WhatsApp Detail Detection"): YES, it is on WhatsApp, or NO.

    CHECKING is not an answer yet: ask again after 20 seconds or more. UNAVAILABLE is none either: the service is down,
    and `servstatus=True` asked to be told so.
    """

    YES = "yes"
    NO = "no"
    CHECKING = "checking"
    UNAVAILABLE = "unavailable"


_NO_ANSWERS = (WhatsAppState.CHECKING, WhatsAppState.UNAVAILABLE)


class WhatsAppProfile(Reply):
    """What WhatsApp knows of a number.

    The answer of "WhatsApp Detail Detection", and what its callback brings.

    - `whatsapp`: a `WhatsAppState`, or a string if the vendor says a new word.
    - `number`: the number as the vendor says it, with its country code.
    - `status_update`: a date as YYYYMMDD. `business_user`, `avatar`: "yes" or "no".
    - `signature`: text that a stranger wrote: escape it wherever it is shown.

    All but `whatsapp` are None if the vendor says nothing of them.
    """

    whatsapp: Annotated[WhatsAppState | NewWord, Field(union_mode="left_to_right")]
    number: Text | None = None
    status_update: Text | None = None
    signature: str | None = None
    business_user: str | None = None
    avatar: str | None = None

    @property
    def is_answer(self) -> bool:
        return self.whatsapp not in _NO_ANSWERS


@dataclass(frozen=True, slots=True, repr=False)
class WhatsAppDetail(Call[WhatsAppProfile]):
    """Is this number on WhatsApp, and what does it show there? ("WhatsApp Detail Detection")

    `country` is a two-letter code, such as ID. With `callback`, the result is sent to that URL by GET ("Callback
    method"). `servstatus=True` asks for "unavailable" instead of an error while the service is down. Answered by a
    `WhatsAppProfile`. CHARGED if answered, unless its `whatsapp` is "checking" or "unavailable".
    """

    number: str
    country: str | None = None
    callback: str | None = None
    servstatus: bool = False

    endpoint: ClassVar[Endpoint[WhatsAppProfile]] = Endpoint(
        name="gliswadetail",
        command="whatsapp-detail",
        summary="Look up what WhatsApp knows of a phone number.",
        reply=WhatsAppProfile,
        parameters=(
            Parameter("callback", Kind.URL, required=False),
            Parameter("number", Kind.NUMBER),
            Parameter("country", Kind.COUNTRY, required=False),
            Parameter("servstatus", Kind.FLAG, required=False),
        ),
        charges={
            "OK": CHARGED,
            "OK:checking": FREE,
            "OK:unavailable": FREE,
            "FAIL": FREE,
            "INVALID_INPUT": FREE,
            "RETRY_LATER": FREE,
        },
        refined_by="whatsapp",
    )


# ------------------------------------------------------------------------------------------------ the tables

CALLS: tuple[type[Call[Any]], ...] = (FaceCompare, IdHolding, AddFace, SearchFace, DeleteFace, WhatsAppDetail)
"""The calls, in the order of the vendor's page."""

ENDPOINTS: Mapping[str, Endpoint[Any]] = {call.endpoint.name: call.endpoint for call in CALLS}
"""The endpoints by the vendor's name."""

_SPELLINGS: Mapping[str, Endpoint[Any]] = {
    spelling.lower(): call.endpoint
    for call in CALLS
    for spelling in (
        call.endpoint.name,
        call.endpoint.command,
        call.endpoint.command.replace("-", "_"),
        call.__name__,
        call.endpoint.path,
    )
}


def endpoint_of(name: object) -> Endpoint[Any] | None:
    """The endpoint that a user means: by the name of the vendor, the command, the method or the call, or by the call.

    Capitals and small letters are one. None if there is no such endpoint.
    """
    if isinstance(name, str):
        return ENDPOINTS.get(name) or _SPELLINGS.get(name.strip().lower())
    return name.endpoint if isinstance(name, type) and name in CALLS else None


ERRORS: Mapping[str, type[StatusError]] = {
    "INVALID_REQUEST": InvalidRequestError,
    "INVALID_INPUT": InvalidRequestError,
    "IMAGE_INVALID_SIZE": ImageTooLargeError,
    "FACE_DETECT_FAILED": FaceNotFoundError,
    "INVALID_FACE_NUM": FaceNotFoundError,
    "PERSON_ID_NOT_EXIST": PersonNotFoundError,
    "FAIL": ServiceFailedError,
    "RETRY_LATER": RetryLaterError,
}
"""The error that each documented status other than OK becomes."""

WORDS: frozenset[str] = frozenset(
    [
        *_SPELLINGS,
        *(parameter.name for call in CALLS for parameter in call.endpoint.parameters),
        *(name for call in CALLS for name in call.endpoint.reply.model_fields),
        *FaceMatch.model_fields,
        *(word for call in CALLS for status in call.endpoint.charges for word in status.split(":")),
        *(word.value for words in (Judgment, WhatsAppState, Charge) for word in words),
        *("status", "message", "IMAGEA_FACE_DETECT_FAILED", "IMAGEB_FACE_DETECT_FAILED"),
    ]
)
"""The contract's own words, which the vendor says to everybody: in them no secret is looked for."""

for _call in CALLS:
    _names = {f.name for f in fields(_call)} - {"key"}
    assert _names == {p.name for p in _call.endpoint.parameters}, f"{_call.__name__}: its fields and parameters differ"
del _call, _names
