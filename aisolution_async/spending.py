"""What may be spent: the limits and prices that a user gives, checked once for everybody who keeps to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from aisolution_async.api import ENDPOINTS, endpoint_of
from aisolution_async.errors import ConfigurationError

_MOST = Decimal(10**9)  # below this, sums of millionths stay within 64 bits
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Spending:
    """`max_charges` and `max_cost`, None for no limit, and the price of a charge by the vendor's names of endpoints."""

    max_charges: int | None
    prices: Mapping[str, Decimal]
    max_cost: Decimal | None

    @classmethod
    def of(cls, max_charges: Any = None, prices: Any = None, max_cost: Any = None) -> Self:
        """Raises ConfigurationError for what is no limit and no price. Endpoints may be spelt in any of their ways."""
        if max_charges is not None and (type(max_charges) is not int or max_charges < 0):
            raise ConfigurationError("max_charges must be a whole number, 0 or more, or None for no limit")
        found = {name: _money(f"the price of {name}", price) for name, price in by_endpoint("prices", prices).items()}
        if max_cost is not None:
            max_cost = _money("max_cost", max_cost)
            if not found:
                raise ConfigurationError('max_cost needs prices: prices={"facecompare": Decimal("0.05"), …}')
        return cls(max_charges, found, max_cost)

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_charges is not None or self.max_cost is not None


def by_endpoint(option: str, given: Any) -> dict[str, Any]:
    """What a user gives for each endpoint, by the vendor's names. Raises ConfigurationError."""
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(f'{option} is a {type(given).__name__}: give it by endpoint, as {{"facecompare": …}}')
    found: dict[str, Any] = {}
    for name, value in (given or {}).items():
        endpoint = endpoint_of(name)
        if endpoint is None:
            raise ConfigurationError(f"{option}: no endpoint {name!r}; there are {', '.join(ENDPOINTS)}")
        if endpoint.name in found:
            raise ConfigurationError(f"{option} has {endpoint.name} twice, as {name!r} too: leave one of them out")
        found[endpoint.name] = value
    return found


def seconds_of(option: str, value: Any) -> float | None:
    """How long an answer is good for: seconds, 0 or more, None for ever. Raises ConfigurationError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ConfigurationError(f"{option} must be seconds, 0 or more, or None for ever")
    return value


def _money(name: str, value: Any) -> Decimal:
    if isinstance(value, Decimal) and value.is_finite() and 0 <= value < _MOST and value % _SMALLEST == 0:
        return value
    raise ConfigurationError(
        f'{name} must be a Decimal from 0 to a thousand million, with six decimals at most, like Decimal("0.05")'
    )
