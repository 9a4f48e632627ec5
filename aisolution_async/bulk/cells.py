"""A cell, whatever it is in its file, as text."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any, Final

import pybase64

from aisolution_async.bulk.source import MISSING

EXACT: Final = float(2**53)
"""Below it a float holds every whole number; from there on, digits may be lost."""


def text(cell: Any) -> str:
    """`cell` as the text that a call needs.

    Text is itself, and None and MISSING are "". A whole number is its digits, also where the file has it as a float:
    6281234567890.0 is "6281234567890"; a float of 2**53 (9e15) or more may have lost digits, and keeps its exponent,
    so that a phone number is refused. Dates and times are ISO 8601, true and false as in JSON, bytes are their
    text in UTF-8 or else base64, lists and objects are JSON.
    """
    if isinstance(cell, str):
        return cell
    if cell is None or cell is MISSING:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return _float(cell)
    if isinstance(cell, Decimal):
        return f"{cell.to_integral_value() if cell == cell.to_integral_value() else cell:f}" if cell.is_finite() else ""
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError:
            return pybase64.b64encode(cell).decode()
    if isinstance(cell, list | tuple | dict):
        return json.dumps(cell, ensure_ascii=False, default=text)
    return str(cell)


def _float(cell: float) -> str:
    if math.isnan(cell):
        return ""
    if not cell.is_integer():
        return repr(cell)  # infinite ones are none
    return str(int(cell)) if abs(cell) < EXACT else f"{Decimal(repr(cell)).normalize():e}"
