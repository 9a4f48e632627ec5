"""CSV for Excel: what stands between its cells, and texts that it would take for something else.

Excel opens a CSV file without asking. It takes the text for UTF-8 where a byte order mark says so, splits it where
the computer's list separator stands (a semicolon where the decimal mark is a comma), and makes a number, a date or a
formula of whatever looks like one: 0007 becomes 7, a number of an ID card 3.2E+15, 1-2 the first of February. A cell
that reads ="0007" stays that text.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

# Languages whose decimal mark is a comma, so that a semicolon stands between cells.
_DECIMAL_COMMA = re.compile(
    "a[fz]|b[egs]|c[as]|d[ae]|e[lstu]|f[ir]|gl|h[ruy]|i[dst]|k[aky]|l[btv]|mk|n[bnlo]|p[lt]|r[ou]|s[klqrv]|t[gkr]|u[kz]|vi"
)
# Their countries where it is a point all the same.
_DECIMAL_POINT = frozenset(f"es_{country}" for country in ("MX", "US", "PR", "GT", "HN", "NI", "PA", "PE", "SV", "DO"))
_VARIABLES = ("LC_ALL", "LC_NUMERIC", "LANG")

# As much as Excel shows of a number without changing how it looks. The rest that it would take for a number or a date:
# digits and their marks, or digits beside one word ("1-Mar", "MARCH1", "2 Agu 2024", "1E5"). No quote can be in one.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,9})(?:([.,])[0-9]{0,4}[1-9])?")
_ONLY_MARKS = re.compile(r"\s*[-+(.,$%€£¥₹₱₫]*\s*(?:Rp\.?\s*)?[0-9][-+0-9.,:/\s()%$€£¥₹₱₫]*")
_WITH_A_WORD = re.compile(
    r"\s*(?:[-+]?[0-9][-+0-9.,:/]*[\s\-/.,]*[^\W\d_]{1,9}\.?[\s\-/.,+]*[0-9:]{0,8}|[^\W\d_]{3,9}\.?[\s\-/.,]*[0-9]{1,4}"
    r"(?:[\s\-/.,]+[0-9]{1,4})?)\s*"
)
_LONGEST = 40
_SHIELDED = re.compile(r'="([^"]*)"')


def separator(environment: Mapping[str, str] = os.environ) -> str:
    """What stands between the cells of a CSV file for the Excel of whoever runs this: a comma or a semicolon."""
    if sys.platform == "win32":
        import winreg  # noqa: PLC0415  # only there

        try:
            with winreg.OpenKey(winreg.HKEY_CURRENT_USER, r"Control Panel\International") as settings:
                said = str(winreg.QueryValueEx(settings, "sList")[0])
        except OSError:
            said = ""
        if len(said) == 1 and said not in '\r\n"\0':
            return said
    name = next((environment[each] for each in _VARIABLES if environment.get(each)), "")
    place = name.partition(".")[0].partition("@")[0]
    is_comma = _DECIMAL_COMMA.fullmatch(place.partition("_")[0]) is not None and place not in _DECIMAL_POINT
    return ";" if is_comma else ","


def shielded(value: Any, found: str, between: str) -> str:
    """`found`, the text of the cell `value`, so that Excel shows it as it is; `between` stands between the cells."""
    comma = between == ";"
    if isinstance(value, float):
        return found.replace(".", ",") if comma else found
    if not found or len(found) > _LONGEST or isinstance(value, bool):
        return found
    if (number := _NUMBER.fullmatch(found)) is not None and number[1] in (None, "," if comma else "."):
        return found
    if _ONLY_MARKS.fullmatch(found) or _WITH_A_WORD.fullmatch(found):
        return f'="{found}"'
    return found


def unshielded(found: str) -> str:
    """The text of a cell that may have been `shielded`."""
    shield = _SHIELDED.fullmatch(found) if found.startswith('="') else None
    return found if shield is None else shield[1]
