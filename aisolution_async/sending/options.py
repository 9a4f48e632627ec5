"""What may differ from call to call on one pool: one table of options, checked here once for whoever takes them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from aisolution_async.api import ENDPOINTS, Call, Endpoint
from aisolution_async.charges import Attempt, Charge
from aisolution_async.checks import flag, is_whole, seconds, whole
from aisolution_async.errors import ConfigurationError
from aisolution_async.inputs.images import MAX_IMAGE_BYTES
from aisolution_async.limits import Budget
from aisolution_async.retry import Retry
from aisolution_async.spending import by_endpoint

if TYPE_CHECKING:
    from aisolution_async.sending.journal import Journal

TIMEOUT = httpx.Timeout(connect=10.0, read=30.0, write=30.0, pool=60.0)
DEADLINE = 120.0


class _NotGiven:
    def __repr__(self) -> str:
        return "…"


NOT_GIVEN: Any = _NotGiven()
"""Stands for an option that is to stay as it is."""


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from call to call on one pool."""

    timeout: Mapping[str, float | None]
    deadline: float | None
    retry: Retry
    rules: Mapping[str, Mapping[str, Charge]]
    max_image_bytes: int
    strict_numbers: bool = False
    fit: bool = False
    keep_metadata: bool = True
    budgets: tuple[Budget, ...] = ()
    journal: Journal | None = None
    on_attempt: Callable[[Call[Any], Attempt], object] | None = None
    on_outcome: Callable[[Any], object] | None = None

    def charges_of(self, endpoint: Endpoint[Any]) -> Mapping[str, Charge]:
        """The charge by status, as the user would have it."""
        return self.rules.get(endpoint.name, endpoint.charges)

    def may_charge(self, endpoint: Endpoint[Any]) -> bool:
        """Whether any answer of `endpoint` is charged, or nobody knows."""
        if not self.rules:
            return not endpoint.never_charges
        return any(charge is not Charge.FREE for charge in self.charges_of(endpoint).values())

    @classmethod
    def of(cls, **given: Any) -> Options:
        """The options of a new client: what is `given` by the table's names, else the defaults."""
        found = {
            option.field or name: option.check(name, given.get(name, option.default)) for name, option in TABLE.items()
        }
        return cls(**found, retry=_retry(Retry(), given))

    def changed(self, **given: Any) -> Options:
        """These options with what is `given` by the table's names; what is NOT_GIVEN stays."""
        found = {
            option.field or name: option.check(name, given[name])
            for name, option in TABLE.items()
            if given.get(name, NOT_GIVEN) is not NOT_GIVEN
        }
        return dataclasses.replace(self, **found, retry=_retry(self.retry, given))


# ---------------------------------------------------------------------------------------------------- the checks


def _timeout(name: str, timeout: float | httpx.Timeout | None) -> Mapping[str, float | None]:
    try:
        found: dict[str, float | None] = httpx.Timeout(timeout).as_dict()
        good = all(value is None or (value is not True and 0 < value < math.inf) for value in found.values())
    except (TypeError, AssertionError):
        good = False
    if not good:
        raise ConfigurationError(f"{name} must be seconds above 0, an httpx.Timeout of such, or None")
    return found


def _deadline(name: str, deadline: float | None) -> float | None:
    return None if deadline is None else seconds(name, deadline, otherwise=", or None for no end")


def _rules(name: str, given: Mapping[str, Mapping[str, Charge | str]] | None) -> Mapping[str, Mapping[str, Charge]]:
    """The charges of the endpoints that `given` says something of, each whole."""
    rules = {}
    shape = f'{name} look like {{"facecompare": {{"RETRY_LATER": Charge.CHARGED}}}}'
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(shape)
    for called, charges in by_endpoint(name, given).items():
        endpoint = ENDPOINTS[called]
        if not isinstance(charges, Mapping) or not all(
            isinstance(status, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*(:.+)?", status) for status in charges
        ):
            raise ConfigurationError(f"{shape}, with statuses in capitals as the vendor says them")
        with contextlib.suppress(ValueError):
            rules[called] = {**endpoint.charges, **{status: Charge(charge) for status, charge in charges.items()}}
        if called not in rules:
            raise ConfigurationError(f"{name}: a charge of {called} is none of {', '.join(Charge)}")
    return rules


def _hook(name: str, hook: Any) -> Any:
    if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
        raise ConfigurationError(f"{name} must be a plain function: start a task in it for what has to be awaited")
    return hook


def _retry(old: Retry, given: Mapping[str, Any]) -> Retry:
    """`old` with what is given of `retry`, `max_retries` and `retry_unknown`, each None if it is not: one value."""
    retry, most, unknown = (given.get(name) for name in ("retry", "max_retries", "retry_unknown"))
    if retry is not None and most is not None:
        raise ConfigurationError(
            "give either retry= or max_retries=: max_retries=4 says how often what was free is repeated, "
            "retry=Retry(max_retries=4, first=1.0) how patiently too"
        )
    if is_whole(retry):
        old = dataclasses.replace(old, max_retries=retry)
    elif isinstance(retry, Retry):
        old = retry
    elif retry is not None:
        raise ConfigurationError("retry must be a Retry(…), or how many times to repeat what was free")
    if most is not None:
        old = dataclasses.replace(old, max_retries=whole("max_retries", most, 0))
    return old if unknown is None else dataclasses.replace(old, unknown=whole("retry_unknown", unknown, 0))


@dataclass(frozen=True, slots=True)
class _Option:
    check: Callable[[str, Any], Any]
    default: Any
    field: str = ""
    """Of `Options`, where it is not the option's own name."""


TABLE: Mapping[str, _Option] = {
    "timeout": _Option(_timeout, TIMEOUT),
    "deadline": _Option(_deadline, DEADLINE),
    "charge_rules": _Option(_rules, None, "rules"),
    "max_image_bytes": _Option(functools.partial(whole, least=1), MAX_IMAGE_BYTES),
    "strict_numbers": _Option(flag, False),
    "fit": _Option(flag, False),
    "keep_metadata": _Option(flag, True),
    "on_attempt": _Option(_hook, None),
    "on_outcome": _Option(_hook, None),
}
"""Each option by its name: its check, and its default. `retry`, `max_retries` and `retry_unknown` are `_retry`'s."""
