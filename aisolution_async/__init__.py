"""Asyncio client for the AI Solution identity-verification API.

One pool, very many calls, and a true account of what was charged, what was free, and what nobody can tell.
"""

import logging

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
    Reply,
    SearchFace,
    WhatsAppDetail,
    WhatsAppProfile,
    WhatsAppState,
)
from aisolution_async.batch import Batch, Load, Outcome, Progress, Recheck
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
from aisolution_async.retry import Retry

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet until somebody listens

__all__ = [
    "AISolutionError",
    "Adaptive",
    "AddFace",
    "AddedFace",
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
