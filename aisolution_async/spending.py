"""What may be spent: the limits and prices that a user gives, checked once for everybody who keeps to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Self

from aisolution_async.api import ENDPOINTS, endpoint_of
from aisolution_async.checks import kind_of, seconds, whole
from aisolution_async.errors import ConfigurationError

_MOST = Decimal(10**9)  # below this, sums of millionths stay within 64 bits
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, slots=True, eq=False)
class Prices(Mapping[str, Decimal]):
    """The price of a charge by the vendor's names of the endpoints. It is a mapping too, and equal to one."""

    known: Mapping[str, Decimal]

    @classmethod
    def given(cls, prices: Any) -> Self:
        """What a user gives, endpoints in any of their spellings. Raises ConfigurationError."""
        found = {name: _money(f"the price of {name}", price) for name, price in by_endpoint("prices", prices).items()}
        return cls(MappingProxyType(found))

    def of(self, endpoint: object) -> Decimal:
        """The price of a charge at `endpoint`, in any of its spellings. Raises KeyError where that is `missing`."""
        known = endpoint_of(endpoint)
        return self.known[endpoint if known is None else known.name]  # type: ignore[index]  # any other is missing

    def cost(self, charges: Mapping[str, int]) -> Decimal:
        """The cost of so many charges, by endpoint. Endpoints that are `missing` add nothing."""
        return sum((self.known[name] * count for name, count in charges.items() if name in self.known), Decimal(0))

    def missing(self, endpoints: Iterable[str]) -> list[str]:
        """The names among `endpoints`, as the vendor spells them, that have no price."""
        return [name for name in endpoints if name not in self.known]

    def __getitem__(self, endpoint: str) -> Decimal:
        return self.known[endpoint]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def __repr__(self) -> str:
        return f"Prices({dict(self.known)})"


@dataclass(frozen=True, slots=True)
class Spending:
    """`max_charges` and `max_cost`, None for no limit, and the prices that the cost is counted by."""

    max_charges: int | None
    prices: Prices
    max_cost: Decimal | None

    @classmethod
    def of(cls, max_charges: Any = None, prices: Any = None, max_cost: Any = None) -> Self:
        """Raises ConfigurationError for what is no limit and no price. Endpoints may be spelt in any of their ways."""
        if max_charges is not None:
            whole("max_charges", max_charges, 0, otherwise=", or None for no limit")
        known = Prices.given(prices)
        if max_cost is not None:
            max_cost = _money("max_cost", max_cost)
            if not known:
                raise ConfigurationError('max_cost needs prices: prices={"facecompare": Decimal("0.05"), …}')
        return cls(max_charges, known, max_cost)

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_charges is not None or self.max_cost is not None


def by_endpoint(option: str, given: Any) -> dict[str, Any]:
    """What a user gives for each endpoint, by the vendor's names. Raises ConfigurationError."""
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(f'{option} is {kind_of(given)}: give it by endpoint, as {{"facecompare": …}}')
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
    return None if value is None else seconds(option, value, zero=True, endless=True, otherwise=", or None for ever")


def _money(name: str, value: Any) -> Decimal:
    if isinstance(value, Decimal) and value.is_finite() and 0 <= value < _MOST and value % _SMALLEST == 0:
        return value
    raise ConfigurationError(
        f'{name} must be a Decimal from 0 to a thousand million, with six decimals at most, like Decimal("0.05")'
    )
