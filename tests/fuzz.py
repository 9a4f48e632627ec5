"""Answers and sheets that are nearly right: none is an error of ours, and none is taken for free that may be charged.

`python -m tests.fuzz answers --seeds 0..100000` (or csv, jsonl, xlsx) spoils something that is right, once for each
seed, and counts what came of it; `--seeds 7..8` repeats the seed 7. The suite runs a few.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from aisolution_async import Charge
from aisolution_async.api import CALLS
from aisolution_async.bulk.rows import Rows
from aisolution_async.errors import AISolutionError
from aisolution_async.wire import envelope

from .contract import CONTRACT

ENDPOINTS = [call.endpoint for call in CALLS]
_FITS = {name: told.message for name, told in CONTRACT.items()} | {
    "gliswadetail": {"number": "+6281387300008", "whatsapp": "yes", "avatar": "exist", "signature": "hi"}
}
_MESSAGES = (*_FITS.values(), {"number": "+6281387300008", "whatsapp": "checking"}, "IMAGEB_FACE_DETECT_FAILED")
_STATUSES = ("OK", "FAIL", "RETRY_LATER", "NO_FACE", "INVALID_PARAM", "ERROR", "image larger than 2M")
_CODES = (200, 200, 200, 201, 204, 301, 400, 401, 404, 422, 429, 500, 502, 503, 504)
_WORDS = (
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b":",
    b"\\",
    b"\0",
    b"\xff",
    b"null",
    b"1e999",
    b"\xef\xbb\xbf",
    b'"status":"OK"',
)
_CELLS = (
    b'"',
    b",",
    b";",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"'",
    b"=",
    b"\x1a",
)
_TAGS = (
    b"<c",
    b"<c r='ZZZ9999999'><v>1</v></c>",
    b"</row>",
    b"<row>",
    b't="s"',
    b't="e"',
    b"<v>",
    b"&#0;",
    b"&lt;",
    b">",
    b'"',
)
_LIST = [
    ["A-1", "0813-8730-0008", "ayu.jpg"],
    ["A-2", "+62 813 8730 0009", 'b"i,ma".jpg'],
    ["", "", ""],
    ["Total", "2", ""],
]


def spoilt(dice: random.Random, whole: bytes, words: Iterable[bytes]) -> bytes:
    """`whole` with a few of its bytes changed, doubled, left out or put in."""
    data = bytearray(whole)
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + int(dice.expovariate(0.1)))
        match dice.randrange(6):
            case 0:
                data[start:end] = b""
            case 1:
                data[start:start] = dice.choice(list(words))
            case 2:
                data[start:end] = dice.choice(list(words))
            case 3:
                data[start:start] = data[start:end] * dice.randint(1, 3)
            case 4:
                data[start:end] = dice.randbytes(end - start)
            case _ if dice.random() < 0.3:
                del data[start:]
    return bytes(data)


def answer(dice: random.Random) -> str:
    """Judge an answer. Returns what it costs."""
    endpoint = dice.choice(ENDPOINTS)
    status = dice.choice([*endpoint.charges, *_STATUSES])
    message = dice.choice(_MESSAGES)
    if dice.random() < 0.3:
        status, message = "OK", _FITS[endpoint.name]
    right = json.dumps({"status": status, "message": message}).encode()
    body, http = spoilt(dice, right, _WORDS), dice.choice(_CODES)
    found = envelope.read(endpoint, http, body)
    is_refused = 400 <= http < 500 or http == 503
    said = _statuses(body)
    if found.charge is Charge.FREE and not endpoint.never_charges:
        documented = {endpoint.charges.get(each) for each in said if ":" not in each} == {Charge.FREE}
        # Of look-ups, the answer itself may say that it is free.
        unfinished = {*said} == {"OK"} and any(word in body for word in (b"checking", b"unavailable"))
        assert documented or unfinished or (is_refused and not said), (endpoint.name, http, body)
    if found.charge is Charge.CHARGED:
        assert {*said} == {"OK"}, (endpoint.name, http, body)
        assert not endpoint.never_charges
    if found.reply is None:
        assert found.text
    return str(found.charge)


def _statuses(body: bytes) -> list[str]:
    """Each text that the outermost object says for `status`."""
    found: list[list[tuple[str, Any]]] = []

    def see(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        found.append(pairs)
        return pairs

    try:
        whole = json.loads(body.decode("utf-8-sig", "replace"), object_pairs_hook=see)
    except (ValueError, RecursionError):
        return []
    if not found or whole is not found[-1]:
        return []
    return [value for name, value in whole if name == "status" and isinstance(value, str)]


@cache
def _sheet() -> bytes:
    import xlsxwriter

    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        for row, cells in enumerate(
            [["id", "phone", "photo"], *_LIST, ["A-3", 6281387300010, 1.5], ["A-4", True, None]]
        ):
            sheet.write_row(row, 0, cells)
        sheet.write_formula(9, 0, "=1/0", None, "#DIV/0!")
        sheet.merge_range(11, 0, 11, 2, "below")
        sheet.set_row(2, None, None, {"hidden": True})
    return file.getvalue()


def _packed(dice: random.Random) -> bytes:
    """A workbook of which one part is spoilt, or the archive itself."""
    if dice.random() < 0.2:
        return spoilt(dice, _sheet(), (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"\0\0\0\0", b"\xff\xff\xff\xff"))
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_sheet())) as archive, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as to:
        names = [name for name in archive.namelist() if "sheet" in name or "hared" in name or "workbook" in name]
        chosen = dice.choice(names)
        for name in archive.namelist():
            part = archive.read(name)
            to.writestr(name, spoilt(dice, part, _TAGS) if name == chosen else part)
    return file.getvalue()


def _file(dice: random.Random, kind: str) -> bytes:
    if kind == "xlsx":
        return _packed(dice)
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(("id", "phone", "photo"), row, strict=True))) for row in _LIST]
        return spoilt(dice, "\n".join(lines).encode(), (*_WORDS, b"\n"))
    text = "\r\n".join(dice.choice(",;\t").join(row) for row in [["id", "phone", "photo"], *_LIST])
    return spoilt(dice, text.encode(dice.choice(("utf-8", "utf-8-sig", "utf-16", "cp1252"))), _CELLS)


def sheet(dice: random.Random, kind: str, folder: Path) -> str:
    """Read a list. Returns how far that went."""
    path = folder / f"list.{kind}"
    path.write_bytes(_file(dice, kind))
    try:
        with Rows(path) as rows:
            found = list(rows)
            assert len({*rows.header}) == len(rows.header) > 0
    except AISolutionError as exc:
        assert path.name in str(exc), exc
        return type(exc).__name__
    for row in found:
        assert row.problem or len(row.cells) == len(rows.header)
    return "with problems" if any(row.problem for row in found) else "read"


KINDS = ("answers", "csv", "jsonl", "xlsx")


def tries(kind: str, folder: Path) -> Callable[[random.Random], str]:
    return answer if kind == "answers" else lambda dice: sheet(dice, kind, folder)


def run(kind: str, seeds: Iterable[int]) -> Iterator[tuple[int, str]]:
    """What came of each seed. Raises what is an error of ours, with the seed in a note."""
    with tempfile.TemporaryDirectory() as folder:
        attempt = tries(kind, Path(folder))
        for seed in seeds:
            try:
                yield seed, attempt(random.Random(f"{kind} {seed}"))
            except BaseException as exc:
                exc.add_note(f"{kind}, seed {seed}")
                raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="See the module.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seeds", metavar="A..B", default="0..10000", help="those from A to B - 1")
    options = parser.parse_args()
    first, _, end = options.seeds.partition("..")
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # what asks for all memory is found
    counts: Counter[str] = Counter()
    cpu = time.process_time()
    for seed, what in run(options.kind, range(int(first), int(end))):
        counts[what] += 1
        if seed % 10_000 == 9_999:
            print(f"to seed {seed}: {dict(counts.most_common())}", file=sys.stderr, flush=True)
    took = time.process_time() - cpu
    print(f"{options.kind}: {counts.total()} seeds, {took:.0f} s of CPU: {dict(counts.most_common())}")


if __name__ == "__main__":
    main()
