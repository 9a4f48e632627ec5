"""What problems of several rows have in common."""

from __future__ import annotations

import re

_OF_ONE_ROW = re.compile(r"""('[^']*'|"[^"]*")|\b(?:line|row) \d+(?:: )?""")
_OF_ONE_FILE = re.compile(r"[./\\\d]")


def kind_of(problem: str) -> str:
    """`problem`, without what is another in each row: its place, a file, a number in quotes."""
    return _OF_ONE_ROW.sub(_alike, problem)


def _alike(found: re.Match[str]) -> str:
    quoted: str | None = found[1]
    if quoted is None:
        return ""
    return "…" if _OF_ONE_FILE.search(quoted) else quoted
