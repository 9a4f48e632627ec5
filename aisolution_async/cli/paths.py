"""Paths on the command line. Click looks at none of them: who reads a file or writes it says what is wrong, and what
helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class FileName(click.Path):
    """The path of a file or a folder. A name that is empty, as of a variable that is not set, is not this folder."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(allow_dash=allow_dash, path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click."""
        if value == "":
            self.fail("the name is empty: name a file or a folder ('.' is this one)", param, ctx)
        return super().convert(value, param, ctx)


PATH = FileName()
PATH_OR_DASH = FileName(allow_dash=True)
