"""HTML that is safe by how it is made: text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# Joiners are part of emoji and of Indian scripts, and move nothing.
_JOINERS = "\u200c\u200d"
_EMPTY = frozenset({"meta", "img"})


class Html(str):
    """HTML, and no longer text: nothing escapes it again."""

    __slots__ = ()


Content = str | Iterable["Content"] | None
"""Text, HTML, or many of them; None is nothing."""


def html(content: Content) -> Html:
    """`content` as HTML: text as text, whoever wrote it."""
    if isinstance(content, Html):
        return content
    if content is None:
        return Html()
    if isinstance(content, str):
        return Html(escape(shown(content), quote=False))
    return Html("".join(html(part) for part in content))


def tag(name: str, /, *inside: Content, **attributes: str | None) -> Html:
    """An element. An attribute's name may end in `_` (`class_`), and `_` within stands for `-`; None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html(value).replace(chr(34), "&quot;")}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>") if name in _EMPTY else Html(f"<{name}{given}>{html(inside)}</{name}>")


def stranger(text: str) -> Html:
    """Text that somebody else wrote, which must not turn around what is beside it."""
    return tag("bdi", text)


def shown(text: str) -> str:
    """`text` without what cannot be seen: control characters, half characters, marks that turn the direction."""
    return "".join(char if char.isprintable() or char in _JOINERS else "\ufffd" for char in text)
