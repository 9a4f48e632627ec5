"""`aisolution demo`: a dozen made-up applicants through the sandbox, by the same code as `aisolution bulk`."""

from __future__ import annotations

import csv
import random
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aisolution_async.api import FaceCompare, WhatsAppDetail
from aisolution_async.bulk import Summary, run_bulk
from aisolution_async.charges import Charge, Tally
from aisolution_async.cli import show
from aisolution_async.cli.running import started_sandbox
from aisolution_async.client import AsyncClient
from aisolution_async.errors import ConfigurationError

Colour = tuple[int, int, int]

_SIZE = (480, 600)


@dataclass(frozen=True, slots=True)
class Applicant:
    """One line of the list: whose picture the card shows, and how."""

    name: str
    phone: str
    card: str
    story: str


APPLICANTS = (
    Applicant("Ayu", "0813-8730-0008", "smaller", "same picture, smaller"),
    Applicant("Bima", "0812 1100 2201", "compressed", "same picture, as JPEG"),
    Applicant("Citra", "+62 812 1100 2202", "png", "same picture, as PNG"),
    Applicant("Dewi", "081211002203", "smaller", "same picture, smaller"),
    Applicant("Eko", "(0812) 1100-2204", "compressed", "same picture, as JPEG"),
    Applicant("Fitri", "6281211002205", "faded", "same picture, faded"),
    Applicant("Gilang", "081211002206", "other", "another person"),
    Applicant("Hana", "081211002207", "other", "another person"),
    Applicant("Indra", "081211002218", "recoloured", "same, other colours"),
    Applicant("Joko", "081211002209", "flat", "a card without a face"),
    Applicant("Kartika", "081211002210", "missing", "the card is missing"),
    Applicant("Lestari", "6.28121E+12", "smaller", "same; a spoilt number"),
)


async def run_demo(console: Console) -> None:
    """Make the list, run it, show what came out. Leaves its files in a temporary folder, and says where."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="aisolution-demo-"))
        source = write_list(folder)
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
        raise ConfigurationError(f"the demo's files cannot be made: {problem}; TMPDIR says where they go") from None
    console.rule("[bold]aisolution demo", align="left")
    console.print(
        f"{len(APPLICANTS)} made-up applicants: a selfie, an ID card and a phone number each.\n"
        "They are asked for at a sandbox on this machine, a pretended vendor: it compares\n"
        "pictures and knows nothing of people, it makes its WhatsApp answers up, and\n"
        "nothing is really charged."
    )
    async with started_sandbox() as sandbox, AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        faces = folder / "faces.csv"
        compared = await run_bulk(
            client, FaceCompare, source, faces, columns={"img1": "selfie", "img2": "card"}, key="applicant"
        )
        _title(console, "1", "Is the person on the selfie the person on the card?", "face-compare", compared)
        _show_rows(
            console,
            faces,
            {"story": "what was drawn", "answer_similarity": "similarity", "answer_result": "result"},
        )
        profiles = folder / "whatsapp.csv"
        looked_up = await run_bulk(
            client,
            WhatsAppDetail,
            source,
            profiles,
            columns={"number": "phone"},
            values={"country": "ID"},
            key="applicant",
        )
        _title(console, "2", "What does WhatsApp know of the numbers?", "whatsapp-detail", looked_up)
        _show_rows(
            console,
            profiles,
            {"phone": "phone", "answer_signature": "signature", "answer_whatsapp": "whatsapp"},
        )
        _title(console, "3", "What did it cost? Attempts, as the client counts and as the server bills them")
        console.print(_bill(client.tally, sandbox.bill))
        console.print(_verdict(client.tally, sandbox.bill))
    console.print(f"[bold]The files[/] stay in {folder}\n", soft_wrap=True)
    console.print("[bold]The same with your own files[/], and a token of the vendor's:\n")
    click.echo(
        "  export AISOLUTION_TOKEN=…\n"
        "  aisolution bulk face-compare list.csv --img1 selfie --img2 card -o faces.csv\n"
        "  aisolution bulk whatsapp-detail list.csv --number phone --country ID -o wa.csv\n\n"
        "Without a token, add --sandbox. One call:\n\n"
        "  aisolution call face-compare selfie.jpg card.jpg"
    )


# ------------------------------------------------------------------------------------------------- what is shown


def _title(console: Console, number: str, text: str, command: str = "", done: Summary | None = None) -> None:
    console.print(f"\n[bold]{number}  {text}[/]")
    if done is not None:
        checking = f"{done.checking} still checking, " if done.checking else ""
        counts = f"{done.rows} rows, {done.ok} answered, {checking}{done.failed} with problems"
        console.print(f"[dim]   aisolution bulk {command}: {counts}[/]", soft_wrap=True)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


_VERDICTS = {"SAME PERSON": "green", "NOT SAME PERSON": "red", "NOT SURE": "yellow"}


def _show_rows(console: Console, path: Path, columns: Mapping[str, str]) -> None:
    """The rows of `path` as a table of `columns`, titles by column, and under it what is wrong with which."""
    made = show.table("applicant", *columns.values(), "charge")
    problems = []
    for row in _read(path):
        cells = [Text(show.clean(row[column]), style=_VERDICTS.get(row[column], "")) for column in columns]
        if row["error"]:
            cells[-1] = Text(row["error"], style="red")
        if row["problem"]:
            problems.append((row["applicant"], _plainly(show.clean(row["problem"])).replace(f"{path.parent}/", "")))
        made.add_row(row["applicant"], *cells, show.charge(Charge(row["charge"])))
    console.print(made)
    for name, problem in problems:
        console.print(Text.assemble((f"  {name}: ", "red"), problem), soft_wrap=True)


def _bill(tally: Tally, bill: Tally) -> Table:
    made = show.table("endpoint", "counted by", "charged", "free", "unknown")
    for name in tally.by_endpoint:
        for who, counts in (("client", tally.by_endpoint[name]), ("server", bill.by_endpoint.get(name))):
            numbers: list[Any] = ["-"] * 3 if counts is None else [counts.charged, counts.free, counts.unknown]
            made.add_row(name if who == "client" else "", who, *map(str, numbers))
    return made


def _plainly(problem: str) -> str:
    """`problem`, with the vendor's own words at its end: who sees the demo does not know them."""
    return re.sub(r"^(?:\w+: )?([A-Z_]+(?: \(.*?\))?): (.+)$", r"\2; the vendor says \1", problem)


def _verdict(tally: Tally, bill: Tally) -> Text:
    if tally == bill:
        return Text("  client and server count the same", style="green")
    return Text("  client and server do not count the same", style="bold red")


# ------------------------------------------------------------------------------------------------- what is drawn


def write_list(folder: Path) -> Path:
    """Draw the pictures into `folder`, and write the list beside them; its path."""
    pictures = folder / "pictures"
    pictures.mkdir()
    source = folder / "applicants.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["applicant", "phone", "selfie", "card", "story"])
        for place, applicant in enumerate(APPLICANTS):
            portrait = draw(place)
            selfie, card = (f"pictures/{applicant.name.lower()}-{what}" for what in ("selfie.jpg", "card"))
            portrait.save(folder / selfie, quality=90)
            card = _save_card(folder, card, portrait, applicant.card, other=place + len(APPLICANTS))
            writer.writerow([applicant.name, applicant.phone, selfie, card, applicant.story])
    return source


def _save_card(folder: Path, name: str, portrait: Image.Image, how: str, *, other: int) -> str:
    if how == "png":
        portrait.save(folder / f"{name}.png")
        return f"{name}.png"
    name += ".jpg"
    if how == "smaller":
        portrait = portrait.resize((_SIZE[0] // 4, _SIZE[1] // 4))
    elif how == "faded":
        portrait = Image.blend(portrait, Image.new("RGB", _SIZE, (235, 230, 220)), 0.15)
    elif how == "recoloured":
        red, green, blue = portrait.split()
        portrait = Image.merge("RGB", (green, red, blue))
    elif how == "other":
        portrait = draw(other)
    elif how == "flat":
        portrait = Image.new("RGB", _SIZE, (120, 150, 170))
    if how != "missing":
        portrait.save(folder / name, quality=35 if how == "compressed" else 85)
    return name


def draw(seed: int) -> Image.Image:
    """A portrait, the same for the same `seed`: background, shoulders, hair, face."""
    chance = random.Random(seed)  # noqa: S311  # for pictures
    width, height = _SIZE
    top, bottom = _colour(chance, 60, 240), _colour(chance, 60, 240)
    image = Image.new("RGB", _SIZE)
    pen = ImageDraw.Draw(image)
    for y in range(height):
        pen.line([(0, y), (width, y)], fill=_between(top, bottom, y / height))
    skin = _between((245, 205, 170), (95, 60, 40), chance.random())
    hair = _between((25, 20, 20), (150, 95, 50), chance.random())
    shirt = _colour(chance, 20, 235)
    x, y = width // 2 + chance.randint(-45, 45), height // 2 - chance.randint(0, 60)
    wide, tall = chance.randint(95, 130), chance.randint(130, 165)

    def oval(dx: float, dy: float, w: float, h: float, fill: Colour) -> None:
        pen.ellipse([x + dx - w, y + dy - h, x + dx + w, y + dy + h], fill=fill)

    long = chance.random() < 0.5
    oval(0, -30 if not long else 45, wide + 28, tall + 12 + 60 * long, hair)
    pen.rounded_rectangle([x - 210, y + tall + 35, x + 210, height + 90], 90, fill=shirt)
    pen.rounded_rectangle([x - 38, y + tall - 30, x + 38, y + tall + 70], 25, fill=_between(skin, (0, 0, 0), 0.15))
    oval(0, 0, wide, tall, skin)
    pen.chord([x - wide - 8, y - tall - 22, x + wide + 8, y + chance.randint(-20, 40)], 180, 360, fill=hair)
    dark = (35, 28, 28)
    apart = wide * 0.42
    for side in (-1, 1):
        oval(side * apart, 5, 21, 12, (250, 250, 250))
        oval(side * apart + chance.randint(-4, 4), 5, 9, 10, dark)
        pen.line([(x + side * (apart - 24), y - 22), (x + side * (apart + 24), y - 26)], fill=hair, width=8)
    if chance.random() < 0.4:
        for side in (-1, 1):
            pen.ellipse([x + side * apart - 34, y - 24, x + side * apart + 34, y + 36], outline=dark, width=6)
        pen.line([(x - apart + 34, y + 2), (x + apart - 34, y + 2)], fill=dark, width=6)
    pen.line([(x, y + 10), (x - 12, y + 55), (x + 8, y + 58)], fill=_between(skin, dark, 0.4), width=5)
    pen.chord([x - 42, y + 62, x + 42, y + 110], 10, 170, fill=(165, 60, 65))
    return image


def _colour(chance: random.Random, low: int, high: int) -> Colour:
    return chance.randint(low, high), chance.randint(low, high), chance.randint(low, high)


def _between(a: Colour, b: Colour, part: float) -> Colour:
    red, green, blue = (round(x + (y - x) * part) for x, y in zip(a, b, strict=True))
    return red, green, blue
