"""What a user gives, checked; and types called by their names, with the right article."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import ConfigurationError, InputError
from aisolution_async.checks import (
    KEY_TYPES,
    flag,
    is_number,
    is_one_of,
    is_whole,
    key,
    kind_of,
    running_loop,
    seconds,
    whole,
    with_article,
)


@pytest.mark.parametrize(
    "spoken",
    """
    an int, a str, a float, a bytes, a dict, an object, a list, an AsyncClient, a Client, an HTTPTransport, a UUID,
    an SSLContext, an IOBase, an X509, a URL, a UserDict, a Union, an Unknown, an ndarray, a uint8, an array, an Enum,
    a European, an EOF, a Path, an _Item, a _Thing, a NoneType, a coroutine, an async_generator, a generator, a method,
    an ABCMeta, a BytesIO, a TextIOWrapper, an LRUCache, a Decimal, an OSError, a JSONDecoder, an MD5, an unusual,
    a unicode, a usage, an undefined, an hour, a house, an Hourly
    """.replace("\n", " ").split(","),
)
def test_articles(spoken: str) -> None:
    assert with_article(spoken.rsplit(maxsplit=1)[-1]) == " ".join(spoken.split())


def test_what_has_no_article() -> None:
    assert kind_of(None) == "None"
    assert kind_of(int) == "the class int"


@given(st.one_of(st.integers(), st.booleans(), st.floats(), st.text(), st.none(), st.decimals()))
def test_numbers_are_numbers(value: Any) -> None:
    assert is_whole(value) is (type(value) is int)
    assert is_number(value) is (type(value) in (int, float) and not math.isnan(value))
    assert is_one_of(value, int) is is_whole(value)
    assert is_one_of(value, (int, float)) is (type(value) in (int, float))
    assert is_one_of(value, bool) is (type(value) is bool)
    assert is_one_of(value, object)
    if type(value) is int and value >= 3:
        assert whole("n", value, 3) == value
    else:
        with pytest.raises(ConfigurationError, match="^n must be a whole number, 3 or more, or else$"):
            whole("n", value, 3, otherwise=", or else")
    for zero in (False, True):
        for endless in (False, True):
            good = is_number(value) and (value > 0 or (zero and value == 0)) and (endless or value != math.inf)
            if good:
                assert seconds("s", value, zero=zero, endless=endless) == value
            else:
                with pytest.raises(ConfigurationError, match="^s must be seconds"):
                    seconds("s", value, zero=zero, endless=endless)


@pytest.mark.parametrize("value", [0, 1, "no", None, Decimal(1)])
def test_flags(value: Any) -> None:
    assert flag("f", True) is True
    with pytest.raises(ConfigurationError, match="^f is (an? .*|None): pass True or False$"):
        flag("f", value)


def test_keys() -> None:
    class Text(str):
        __slots__ = ()

    for good in ("", "a", 0, 10**30, None, uuid4(), Text("a")):
        key(good)
    assert all(type(good) in KEY_TYPES for good in ("a", 1, None, uuid4()))
    for bad, words in (
        (True, "a bool"),
        (1.0, "a float"),
        (b"a", "a bytes"),
        ((1,), "a tuple"),
        (object(), "an object"),
    ):
        assert type(bad) not in KEY_TYPES
        with pytest.raises(InputError, match=f"^key is {words}: pass text, a whole number, a UUID or None"):
            key(bad)


def test_no_loop_is_told_so() -> None:
    with pytest.raises(ConfigurationError, match="asyncio only"):
        running_loop()
