"""The command line: `aisolution`."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import cast

from aisolution_async.cli import streams


def main() -> None:
    """Run the command line on `sys.argv`, and exit."""
    try:
        _run()
    except KeyboardInterrupt:  # while all of it is being imported
        sys.stderr.write("error: interrupted: nothing was sent\n")
        sys.exit(130)


def _run() -> None:
    streams.mend()
    for extra in ("click", "rich", "PIL"):  # looked for, and not imported: most commands need only some of them
        if importlib.util.find_spec(extra) is None:
            sys.stderr.write(
                f"error: {extra} is missing, and the command needs it: pip install 'aisolution-async[cli]', or, in a "
                "copy of the repository, pip install '.[cli]'\n"
            )
            sys.exit(2)
    _leave_out()
    from aisolution_async.cli.commands import aisolution  # noqa: PLC0415  # it needs click

    aisolution(prog_name="aisolution")


def _leave_out() -> None:
    """Spare a short run a tenth of its time: what libraries would import for uses that this program has not."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it reads the names of all packages to find them
    modules = cast("dict[str, object]", sys.modules)
    modules.setdefault("httpx._main", None)  # httpx's own command line: it does without where it cannot be imported
