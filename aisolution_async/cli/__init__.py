"""The command line: `aisolution`."""

from __future__ import annotations

import sys

from aisolution_async.cli import streams


def main() -> None:
    """Run the command line on `sys.argv`, and exit."""
    streams.mend()
    try:
        from aisolution_async.cli.commands import aisolution  # noqa: PLC0415  # these are an extra
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in ("click", "rich", "PIL"):
            raise
        sys.stderr.write(f"error: {missing} is missing: pip install 'aisolution-async[cli]'\n")
        sys.exit(2)
    aisolution(prog_name="aisolution")
