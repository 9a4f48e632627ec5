"""Which row of a table names its columns, what columns without a name are called, and which rows are totals.

People put a title, a date and blank lines above a table, and a total below it. The names are in the first row that is
about as wide as the table; where a wider row of texts follows it at once, with numbers below, that is the one. A first
row that is as wide as all others names the columns, whatever is in it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import islice
from typing import Any, Final

from aisolution_async.bulk.source import Row, is_text, shown

SAMPLE: Final = 200
"""How many rows are looked at; more are not needed."""
_DEEPEST = 50  # rows above a table, at most
_BEHIND = 5  # rows between a first one that is nearly as wide as the table, and the names
_MOST_TOTALS = 6  # rows of totals at the end: total, VAT, grand total, average, least, most
_MOST_BELOW = 12  # rows below them: blank lines, who made the list, who signs it
_LONGEST_TOTAL = 60
_BEFORE = 20  # rows before them, which show in which columns numbers and photos stand

_LETTER = re.compile(r"[^\W\d_]")
_YEAR = re.compile(r"(?:19|20)\d\d")
# In the languages of the vendor's markets, and of those who lend there. What may follow is a count, or who is counted.
_TOTAL = re.compile(
    r"""[\W_]*(?:(?:grand|sub|jumlah|overall|running)[\s._-]*)?
    (?:totals?|jumlah|jml|rata[\s-]*rata|rerata|averages?|avg|mean|median|min(?:imum)?|ma[xk]s?(?:imum)?|std\.?\s*dev
        |trung\s+(?:bình|binh)|katamtaman|औसत|ausat|平均|среднее|tổng(?:\s+(?:cộng|số))?|tong\s+(?:cong|so)|kabuuan(?:g)?|कुल(?:\s+योग)?|योग|kul(?:\s+yog)?
        |合计|合計|总计|總計|итого|всего)
    (?:\s+(?:semua|seluruh(?:nya)?|keseluruhan|akhir|data|baris|rows?|records?|count|nasabah|debitur|pelanggan|pemohon
        |orang|customers?|clients?|applicants?|borrowers?|people|persons?|entries|items?|amount|halaman|page
        |plafon|pinjaman|kredit|tagihan|nilai|loans?|due))*
    \s*[:=-]?\s*(?:[\d.,]+\s*(?:[^\W\d_]{1,12})?)?[\W_]*""",
    re.IGNORECASE | re.VERBOSE,
)

# What a note below a list begins with, where no total stands above it.
_NOTE = re.compile(
    r"""[\W_]*(?:(?:catatan|ket(?:erangan)?|note|notes|nb|ps|remarks?|sumber|source|ghi\s+chú|nguồn|tala|paalala|टिप्पणी|नोट|备注|備註
        |примечание)\s*[:\uff1a]
    |(?:dibuat|dicetak|disusun|disetujui|diperiksa|diketahui|diekspor)\s+(?:oleh|pada|tanggal|tgl)\b|mengetahui\b
    |(?:prepared|printed|generated|exported|approved|checked|created|compiled)\s+(?:by|on|at)\b
    |(?:hal(?:aman)?|page|trang)\.?\s+\d+\s*(?:dari|of|/|từ)\s*\d+|người\s+lập\b|inihanda\s+ni\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_SUBTOTAL = re.compile(r"[\W_]*sub[\s._-]*(?:total|jumlah|jml)", re.IGNORECASE)
_DAY = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_OF_SOMEBODY = re.compile(
    r"(?<!\d)(?:\+|00|[068])[\d\s().-]{7,}|\.(?:jpe?g|png|webp|heic|bmp|gif|tiff?)\b|://|\\", re.IGNORECASE
)


def is_full(cell: object) -> bool:
    """Whether there is anything in a cell."""
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def find(rows: Sequence[Sequence[object]]) -> int:
    """The place of the row that names the columns among `rows`, the first that are not empty."""
    widths = [sum(map(is_full, row)) for row in rows]
    found = 0
    for width in sorted({*widths}, reverse=True):
        if _is_near(widths[0], width):
            break
        place = next(place for place, own in enumerate(widths) if _is_near(own, width))
        # A table goes on to the end, or nearly so; cells beside one are in a few rows.
        rest = widths[place + 1 :]
        wide = sum(_is_near(own, width) for own in rest)
        if place <= _DEEPEST and rest and 2 * wide >= len(rest) and 4 * wide >= place and _names(rows[place]):
            found = place
            break
    for place in range(found + 1, min(found + _BEHIND, len(rows) - 1)):
        if widths[place] > widths[found] and _names(rows[place]) and _has_numbers(rows[place], rows[place + 1 :]):
            return place
    return found


def _is_near(own: int, width: int) -> bool:
    return 5 * own >= 3 * width


def _names(row: Sequence[object]) -> bool:
    """Whether a row is one of names: each cell is text, and different."""
    cells = [cell.strip() if isinstance(cell, str) else str(cell) for cell in row if is_full(cell)]
    return all(_LETTER.search(cell) or _YEAR.fullmatch(cell) for cell in cells)


def _has_numbers(names: Sequence[object], rows: Sequence[Sequence[object]]) -> bool:
    """Whether under one of the names there are mostly numbers, and whether the table goes on as wide as they are."""
    width = sum(map(is_full, names))
    if 2 * sum(_is_near(sum(map(is_full, row)), width) for row in rows) < len(rows):
        return False
    for place, name in enumerate(names):
        if is_full(name):
            cells = [row[place] for row in rows if place < len(row) and is_full(row[place])]
            if cells and 2 * sum(not (isinstance(cell, str) and _LETTER.search(cell)) for cell in cells) > len(cells):
                return True
    return False


def named(names: Sequence[str], label: Callable[[int], str]) -> tuple[list[str], list[str]]:
    """A name for each column, no two alike, and what is to be told of those that got a new one.

    `label` is what a person calls the column at a place.
    """
    found: list[str] = []
    unnamed: list[str] = []
    doubled: list[str] = []
    taken = {name for name in names if name.strip()}
    used: set[str] = set()
    last: dict[str, int] = {}  # of a name, the number that its last namesake got
    for place, name in enumerate(names):
        own = name if is_text(name) else name.encode("utf-8", "replace").decode()
        if not own.strip():
            own = _free(f"column {label(place)}", taken, last)
            unnamed.append(own)
        elif own in used:
            own = _free(own, taken, last)
            doubled.append(own)
        used.add(own)
        taken.add(own)
        found.append(own)
    notes = []
    if unnamed:
        notes.append(
            f"columns without a name are called {_some(unnamed)}"
            if unnamed[1:]
            else f"a column without a name is called {_some(unnamed)}"
        )
    if doubled:
        notes.append(f"columns of the same name are told apart: {_some(doubled)}")
    return found, notes


def told(where: str, *, is_found: bool) -> str:
    """The line on names that do not stand at the top; `is_found` if nobody said so."""
    return f"{where} names the columns, and what stands above is left out" + (
        ": say --header-row (header_row=) if another does" if is_found else ""
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join([shown(name) for name in names[:10]] + ["…"] * (len(names) > 10))


def _free(name: str, taken: set[str], last: dict[str, int]) -> str:
    if name not in taken:
        return name
    number = last.get(name, 1) + 1
    while f"{name} ({number})" in taken:
        number += 1
    last[name] = number
    return f"{name} ({number})"


def letters(place: int) -> str:
    """What a worksheet calls the column at `place`, counted from 1: A, Z, AA."""
    name = ""
    while place:
        place, letter = divmod(place - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def with_totals(rows: Iterable[Row], unit: str) -> Iterator[Row]:
    """`rows`, of which those at the very end that are totals, or stand below one, say so: nothing is asked of them.

    Notes below the last row, without a total, say so too. A subtotal further up is a row like others, which says what
    it is.
    """
    last: deque[Row] = deque()
    try:
        left = iter(rows)
        last.extend(islice(left, _BEFORE + _MOST_TOTALS + _MOST_BELOW))
        for row in left:
            last.append(row)
            yield _as_row(last.popleft(), unit)
    except Exception:
        yield from last
        raise
    asked = _asked(last)
    below = 0
    while below < min(len(last), _MOST_BELOW) and _is_below(last[-1 - below], asked):
        below += 1
    totals = 0
    while totals < min(len(last) - below, _MOST_TOTALS) and is_total(last[-1 - below - totals].cells):
        totals += 1
    end = len(last) - totals - below if totals else len(last) - _notes([*last][len(last) - below :], asked)
    for place, row in enumerate(last):
        if place < end:
            yield _as_row(row, unit)
        elif row.problem is not None:
            yield row
        else:
            what = "is a total" if place < end + totals else f"stands below {'a total' if totals else 'the list'}"
            yield replace(row, problem=f"{unit} {row.line}: this {what}, and no row to be asked", is_total=True)


def _asked(rows: Iterable[Row]) -> frozenset[int]:
    """The places of the columns that hold what is asked: numbers, photos and links, in most of these rows."""
    found: Counter[int] = Counter()
    full: Counter[int] = Counter()
    for row in rows:
        if row.problem is None and not is_total(row.cells) and 2 * sum(map(is_full, row.cells)) > len(row.cells):
            full.update(place for place, cell in enumerate(row.cells) if is_full(cell))
            found.update(place for place, cell in enumerate(row.cells) if _OF_SOMEBODY.search(str(cell)))
    return frozenset(place for place, count in found.items() if 2 * count > full[place])


def _is_below(row: Row, asked: frozenset[int]) -> bool:
    return not is_total(row.cells) and _is_aside(row, asked)


def _notes(below: Sequence[Row], asked: frozenset[int]) -> int:
    """How many of the last rows are notes where there is no total: from the first on that says so by its words."""
    for place, row in enumerate(below):
        first = next((cell for cell in row.cells if is_full(cell)), None)
        if asked and isinstance(first, str) and _NOTE.match(first):
            return len(below) - place
    return 0


def _as_row(row: Row, unit: str) -> Row:
    """A row that is to be asked; a subtotal has nothing to be asked of."""
    if row.problem is None:
        for cell in row.cells:  # of very many rows: what is true of few of them is asked first
            if type(cell) is str and "ub" in cell.lower() and _SUBTOTAL.match(cell) and is_total(row.cells):
                problem = (
                    f"{unit} {row.line}: this is a subtotal, and nobody to be asked: delete the row in the list itself"
                )
                return replace(row, problem=problem)
    return row


def _is_aside(row: Row, asked: frozenset[int]) -> bool:
    """Whether a row below a total is blank, or has words only, in half of its cells at most: who made it, who signs.

    A number is one of theirs where the columns that are `asked` are known, and have nothing in this row.
    """
    if row.problem is not None:
        return False
    full = [cell for cell in row.cells if is_full(cell)]
    is_theirs = bool(asked) and not any(is_full(row.cells[place]) for place in asked if place < len(row.cells))
    return 2 * len(full) <= len(row.cells) + 1 and all(
        isinstance(cell, date) or (isinstance(cell, str) and _is_wording(cell.strip(), is_theirs)) for cell in full
    )


def _is_wording(cell: str, is_theirs: bool) -> bool:
    """Whether a cell holds no id, number, photo or link that somebody could be asked about."""
    if _DAY.fullmatch(cell):
        return True
    if _OF_SOMEBODY.search(cell):
        return is_theirs
    return _LETTER.search(cell) is not None and not re.fullmatch(r"\S*\d\S*", cell)


def is_total(cells: Sequence[Any]) -> bool:
    """Whether a row is one of totals: it says so, and at most about half of its cells have anything in them."""
    full = [cell for cell in cells if is_full(cell)]
    return (
        len(cells) > 1
        and 2 * len(full) <= len(cells) + 1
        and len(full) < len(cells)
        and any(isinstance(cell, str) and len(cell) <= _LONGEST_TOTAL and _TOTAL.fullmatch(cell) for cell in full)
    )
