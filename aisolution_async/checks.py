"""What a user gives, checked: one function for each kind of value, and the words that name its type. No I/O."""

from __future__ import annotations

import asyncio
import math
import re
from typing import TypeGuard
from uuid import UUID

from aisolution_async.errors import ConfigurationError, InputError


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a number; True, False and NaN are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124  # NaN


def is_one_of(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Whether `value` is of one of `kinds`. True and False are bool or object, and no int."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return bool in kinds or object in kinds if isinstance(value, bool) else isinstance(value, kinds)


def whole(name: str, value: object, least: int, *, otherwise: str = "") -> int:
    """`value`, a whole number of `least` or more. `otherwise` is said of what else the option takes."""
    if is_whole(value) and value >= least:
        return value
    raise ConfigurationError(f"{name} must be a whole number, {least} or more{otherwise}")


def seconds(name: str, value: object, *, zero: bool = False, endless: bool = False, otherwise: str = "") -> float:
    """`value` as seconds above 0. `zero` and `endless` say whether 0 and math.inf are seconds too."""
    if is_number(value) and (value > 0 or (zero and value == 0)) and (endless or value < math.inf):
        return value
    raise ConfigurationError(f"{name} must be seconds{', 0 or more' if zero else ' above 0'}{otherwise}")


def flag(name: str, value: object) -> bool:
    """`value`, True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} is {kind_of(value)}: pass True or False")


KEY_TYPES = frozenset({str, int, UUID, type(None)})
"""The types that a call's key mostly has: what is none of them, `key` looks at."""


def key(value: object) -> None:
    """Raise InputError for a key that is no text, whole number or UUID, and not None."""
    if value is not None and not isinstance(value, str | UUID) and not is_whole(value):
        raise InputError(f"key is {kind_of(value)}: pass text, a whole number, a UUID or None, such as str(key)")


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs this. Raises ConfigurationError where none does, as under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise ConfigurationError(
        "aisolution-async runs on asyncio only: use asyncio.run(main()), or anyio.run(main) without backend='trio'; "
        "a process that was forked while a loop ran needs a loop of its own"
    )


def is_cancelled() -> bool:
    """Whether the task that runs is being cancelled: else a CancelledError is of something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# ------------------------------------------------------------------------------------------------- names of types


def kind_of(value: object) -> str:
    """What `value` is, in words: its type with the article, as in "an AsyncClient", else None, or the class itself."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return with_article(type(value).__name__)


def with_article(name: str) -> str:
    """A type's name with the article that it is spoken with: "an int", "a UUID", "an SSLContext"."""
    word = name.lstrip("_")
    if re.match("[A-Z]+(?![a-z])", word):  # letter by letter
        is_an = word[0] in "AEFHILMNORSX"
    else:
        is_an = re.match(_SPOKEN_WITH_AN, word, re.IGNORECASE) is not None
    return f"{'an' if is_an else 'a'} {name}"


_SPOKEN_WITH_AN = "[aio]|e(?!u|w)|u(?!ni(?!n|m)|s[ae]|rl|uid|int|tf|func)|html|http|hour|honest|nd|xml|mp|rgb|ssl|sql"
