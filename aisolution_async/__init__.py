"""Asyncio client for the AI Solution identity-verification API.

One pool, very many calls, and a true account of what was charged, what was free, and what nobody can tell.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from aisolution_async import logs

if TYPE_CHECKING:
    from aisolution_async.api import (
        AddedFace,
        AddFace,
        Call,
        DeletedFace,
        DeleteFace,
        FaceCompare,
        FaceComparison,
        FaceMatch,
        FaceMatches,
        IdHolding,
        ImageSource,
        Judgment,
        NewWord,
        Reply,
        SearchFace,
        WhatsAppDetail,
        WhatsAppProfile,
        WhatsAppState,
    )
    from aisolution_async.batching import Batch, Load, Progress, Recheck
    from aisolution_async.charges import Attempt, Charge, Tally
    from aisolution_async.client import AsyncClient
    from aisolution_async.errors import (
        AISolutionError,
        BudgetExhaustedError,
        ConfigurationError,
        FaceNotFoundError,
        ImageTooLargeError,
        InputError,
        InvalidRequestError,
        NotSentError,
        OutcomeUnknownError,
        PersonNotFoundError,
        RefusedError,
        RetryLaterError,
        ServiceFailedError,
        StatusError,
        UnknownStatusError,
    )
    from aisolution_async.inbox import Inbox
    from aisolution_async.ledger import Ledger, LedgerError
    from aisolution_async.limits import Adaptive
    from aisolution_async.outcome import Answered, Failed, Outcome
    from aisolution_async.retry import Retry

__version__ = "0.1.0"

logs.listen(logging.getLogger(__name__))

__all__ = [
    "AISolutionError",
    "Adaptive",
    "AddFace",
    "AddedFace",
    "Answered",
    "AsyncClient",
    "Attempt",
    "Batch",
    "BudgetExhaustedError",
    "Call",
    "Charge",
    "ConfigurationError",
    "DeleteFace",
    "DeletedFace",
    "FaceCompare",
    "FaceComparison",
    "FaceMatch",
    "FaceMatches",
    "FaceNotFoundError",
    "Failed",
    "IdHolding",
    "ImageSource",
    "ImageTooLargeError",
    "Inbox",
    "InputError",
    "InvalidRequestError",
    "Judgment",
    "Ledger",
    "LedgerError",
    "Load",
    "NewWord",
    "NotSentError",
    "Outcome",
    "OutcomeUnknownError",
    "PersonNotFoundError",
    "Progress",
    "Recheck",
    "RefusedError",
    "Reply",
    "Retry",
    "RetryLaterError",
    "SearchFace",
    "ServiceFailedError",
    "StatusError",
    "Tally",
    "UnknownStatusError",
    "WhatsAppDetail",
    "WhatsAppProfile",
    "WhatsAppState",
]

# Imported when they are first asked for: the pytest plugin and `aisolution --version` need none of it.
_MODULES = {
    "api": (
        "AddFace",
        "AddedFace",
        "Call",
        "DeleteFace",
        "DeletedFace",
        "FaceCompare",
        "FaceComparison",
        "FaceMatch",
        "FaceMatches",
        "IdHolding",
        "ImageSource",
        "Judgment",
        "NewWord",
        "Reply",
        "SearchFace",
        "WhatsAppDetail",
        "WhatsAppProfile",
        "WhatsAppState",
    ),
    "batching": (
        "Batch",
        "Load",
        "Progress",
        "Recheck",
    ),
    "charges": (
        "Attempt",
        "Charge",
        "Tally",
    ),
    "client": ("AsyncClient",),
    "errors": (
        "AISolutionError",
        "BudgetExhaustedError",
        "ConfigurationError",
        "FaceNotFoundError",
        "ImageTooLargeError",
        "InputError",
        "InvalidRequestError",
        "NotSentError",
        "OutcomeUnknownError",
        "PersonNotFoundError",
        "RefusedError",
        "RetryLaterError",
        "ServiceFailedError",
        "StatusError",
        "UnknownStatusError",
    ),
    "inbox": ("Inbox",),
    "ledger": (
        "Ledger",
        "LedgerError",
    ),
    "limits": ("Adaptive",),
    "outcome": (
        "Answered",
        "Failed",
        "Outcome",
    ),
    "retry": ("Retry",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
