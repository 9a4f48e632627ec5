"""What may differ from call to call on one pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aisolution_async.api import Call, Endpoint
from aisolution_async.charges import Attempt, Charge
from aisolution_async.limits import Budget
from aisolution_async.retry import Retry

if TYPE_CHECKING:
    from aisolution_async.sending.journal import Journal


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
