"""Commands as people paste them into a shell: every command of ours that is told is made here."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aisolution_async.ledger.urls import Place

HIDDEN = "…"
"""What stands in a command for a value that may be secret."""

_PLAIN = re.compile(r"[\w.,:=+@/\\~-]+")  # what the shells of Windows take as it is


def shown(*words: object) -> str:
    """The words as one line of a shell: what is special to it (a blank, &, ?) is quoted."""
    return " ".join(map(_quoted if os.name == "nt" else shlex.quote, map(str, words)))


def go_on_with(output: Path, ledger: Place | None, command: Sequence[Any] = ()) -> list[str]:
    """The words of the command that goes on with `output`, which was made by one of the words `command`.

    What its note may not say (`{"ask": …}` among them) is said again, as far as it is known here.
    """
    words = ["aisolution", "bulk", "--resume", str(output)]
    asked = {str(word["ask"]): word for word in command if isinstance(word, dict) and "ask" in word}
    for said, word in asked.items():
        option, _, parameter = said.partition(" ")
        value = HIDDEN if option != "--ledger" or ledger is None else str(ledger)
        words += [option] if word.get("flag") else [option, f"{parameter}={value}" if parameter else value]
    return words


def _quoted(word: str) -> str:
    """As the shells of Windows have it, which know no single quotes."""
    if _PLAIN.fullmatch(word):
        return word
    return '"{}"'.format(word.replace('"', '\\"'))
