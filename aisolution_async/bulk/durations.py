"""How long something takes, as people read it: the same everywhere."""

from __future__ import annotations

_TIMES = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def clock(seconds: float) -> str:
    """Seconds as people read them: a number and its unit, and of the next smaller one what is left."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, its_unit in _TIMES:
        if whole >= size:
            big, rest = divmod(round(whole / smaller), size // smaller)
            return f"{big:,} {unit} {rest} {its_unit}" if rest else f"{big:,} {unit}"
    return f"{whole} s"
