"""The picture in the README: the screen of a real run of `aisolution demo`, as an SVG.

    python -m tests.screen

It writes `tests/demo.svg`. The picture loads nothing: its letters are drawn in the reader's own fixed-width font.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from aisolution_async.cli.demo import run_demo

PICTURE = Path(__file__).with_name("demo.svg")
COLUMNS = 80
LEFT_OUT = ("2  What does WhatsApp know", "3  What did it cost")
"""The second table of three is left out, so that the picture fits on one page."""
END = "The files stay in"

_THEME = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)
_FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}" role="img">
<title>The screen of aisolution demo: a table of twelve applicants, and what they cost</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, monospace; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#0d1117" width="{terminal_width}" height="{terminal_height}" rx="8"/>
<g transform="translate(10, 6) scale(0.975)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


async def screen() -> list[str]:
    """The lines that the demo writes to a terminal, with their colours."""
    file = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):  # what the demo writes past its console comes after END
        await run_demo(Console(file=file, force_terminal=True, color_system="standard", width=COLUMNS, _environ={}))
    shown, left_out = ["$ aisolution demo", ""], False
    for line in file.getvalue().splitlines():
        plain = Text.from_ansi(line).plain
        if plain.startswith(LEFT_OUT[0]):
            left_out = True
            shown += ["⋮", ""]
        left_out = left_out and not plain.startswith(LEFT_OUT[1])
        if plain.startswith(END):
            break
        if not left_out:
            shown.append(line)
    return shown


def drawn(lines: list[str]) -> str:
    """The SVG of `lines`."""
    console = Console(record=True, file=io.StringIO(), width=COLUMNS, force_terminal=True, _environ={})
    for line in lines:
        console.print(Text.from_ansi(line))
    return console.export_svg(code_format=_FORMAT, theme=_THEME, unique_id="demo", font_aspect_ratio=0.6)


def words_of(svg: str) -> list[str]:
    """What is written in the picture, word by word."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    return html.unescape(" ".join(texts)).replace("\N{NO-BREAK SPACE}", " ").split()


if __name__ == "__main__":
    PICTURE.write_text(drawn(asyncio.run(screen())), encoding="utf-8")
