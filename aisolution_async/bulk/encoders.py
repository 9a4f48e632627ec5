"""Rows to bytes: CSV and its like, JSONL, Parquet. What comes out depends on the rows alone."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

from aisolution_async.bulk.excel import shielded
from aisolution_async.bulk.results import bare, defused, is_phone_number
from aisolution_async.bulk.rows import MISSING, text

GROUP_ROWS = 10_000
"""Rows of a row group of Parquet, at most."""
GROUP_BYTES = 32 * 1024 * 1024
"""Size of the texts of a row group, more or less: a cell may hold an image."""

_QUOTED = ";\t\r\n"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file of cells is written: as another one that it is to be like.

    `errors` is the codec's handler under which bytes that are no text go out as they came in, `bom` what the file
    begins with. `excel`: cells are written so that Excel shows them as they are.
    """

    delimiter: str
    encoding: str = "utf-8"
    errors: str = "surrogateescape"
    bom: bytes = b""
    excel: bool = False


class Encoder(Protocol):
    """A format: rows to bytes."""

    def start(self) -> bytes:
        """What the file begins with."""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:
        """Take a row; what is to be appended now. Raises OSError for what the format cannot hold."""

    def end(self) -> bytes:
        """What the file ends with."""

    def settle(self) -> None:
        """All that was handed out is in the file."""

    def pending(self) -> list[bytes]:
        """The rows that may not be in the file, as lines of JSONL."""


class Cells:
    """CSV and its like."""

    def __init__(self, names: Sequence[str], like: Dialect, *, defuse: bool) -> None:
        self._names = list(names)
        self._like = like
        self._defuse = defuse
        self._last: tuple[Sequence[Any], Sequence[Any]] = ((), ())

    def start(self) -> bytes:
        return self._like.bom + self._encoded(self._line(map(self._value, self._names)))

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        self._last = (cells, values)
        return self._encoded(self._line([*map(self._cell, cells), *map(self._value, values)]))

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """One row at a time is on its way."""

    def pending(self) -> list[bytes]:
        return [as_json(self._names, *self._last)]

    def _cell(self, value: Any) -> str:
        found = "" if value is MISSING else text(value)
        # A number of the list stays what people look it up by. Nobody looks up what a stranger wrote.
        return found if not self._like.excel and is_phone_number(found) else self._safe(value, found)

    def _value(self, value: Any) -> str:
        return self._safe(value, bare(value))

    def _safe(self, value: Any, found: str) -> str:
        if self._like.excel and (shield := shielded(value, found, self._like.delimiter)) is not found:
            return shield
        return defused(found) if self._defuse else found

    def _line(self, cells: Iterable[str]) -> str:
        line = io.StringIO()
        # The csv module quotes what has a character of its line end: so newlines, and what else a spreadsheet
        # may take for the end of a cell, whatever is behind it for a formula.
        quoted = _QUOTED.replace(self._like.delimiter, "")
        csv.writer(line, delimiter=self._like.delimiter, lineterminator=quoted).writerow(cells)
        return line.getvalue()[: -len(quoted)] + "\n"

    def _encoded(self, line: str) -> bytes:
        with suppress(UnicodeEncodeError):
            return line.encode(self._like.encoding, self._like.errors)
        # A problem's text may have characters that the input's encoding lacks.
        return b"".join(map(self._encoded_char, line))

    def _encoded_char(self, char: str) -> bytes:
        with suppress(UnicodeEncodeError):
            return char.encode(self._like.encoding, self._like.errors)
        return char.encode("ascii", "backslashreplace").decode().encode(self._like.encoding)


class JsonLines:
    """JSONL."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._last = b""

    def start(self) -> bytes:
        return b""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        self._last = as_json(self._names, cells, values)
        return self._last

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """One row at a time is on its way."""

    def pending(self) -> list[bytes]:
        return [self._last]


class Table:
    """Parquet, a row group at a time. When a group ends depends on the rows alone."""

    def __init__(self, names: Sequence[str], types: Sequence[Any]) -> None:
        import pyarrow  # noqa: PLC0415  # heavy, and an extra
        from pyarrow import parquet  # noqa: PLC0415  # as above

        self._arrow = pyarrow
        self._names = list(names)
        kinds = [_arrow_type(kind) for kind in types]
        self._schema = pyarrow.schema([*zip(self._names, kinds, strict=True)])
        self._is_text = [kind == pyarrow.string() for kind in kinds]
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(pyarrow.PythonFile(self._sink, mode="w"), self._schema)
        self._rows: list[tuple[Sequence[Any], Sequence[Any]]] = []
        self._size = 0
        self._ended = False

    def start(self) -> bytes:
        return self._sink.take()

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        self._rows.append((cells, values))
        self._size += sum(len(value) for value in (*cells, *values) if isinstance(value, str | bytes))
        return self._group() if len(self._rows) >= GROUP_ROWS or self._size >= GROUP_BYTES else b""

    def end(self) -> bytes:
        if self._ended:
            return b""
        data = self._group() if self._rows else b""
        self._ended = True
        self._writer.close()
        return data + self._sink.take()

    def settle(self) -> None:
        self._rows.clear()
        self._size = 0

    def pending(self) -> list[bytes]:
        return [as_json(self._names, *row) for row in self._rows]

    def _group(self) -> bytes:
        columns = zip(*((*cells, *values) for cells, values in self._rows), strict=True)
        arrays = []
        for field, is_text, column in zip(self._schema, self._is_text, columns, strict=True):
            held = [None if value is MISSING else value for value in column]
            if is_text:
                held = [None if value is None else unicode_text(text(value)) for value in held]
            try:
                arrays.append(self._arrow.array(held, type=field.type))
            except (self._arrow.ArrowException, ValueError, TypeError, OverflowError):
                problem = f"the values of column {field.name!r} are not of one type"
            else:
                continue
            raise OSError(0, f"{problem}: choose JSONL")
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema), row_group_size=GROUP_ROWS)
        return self._sink.take()


class Ended:
    """What is left of a format when its file takes no more."""

    def start(self) -> bytes:
        return b""

    def add(self, cells: Sequence[Any], values: Sequence[Any], formats: Sequence[int | str] = ()) -> bytes:  # noqa: ARG002
        raise OSError(0, "it takes no more rows")

    def end(self) -> bytes:
        return b""

    def settle(self) -> None:
        """Nothing is on its way."""

    def pending(self) -> list[bytes]:
        return []


class _Sink(io.RawIOBase):
    """Where Parquet is written to, to be taken away."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self._size += len(self._chunks[-1])
        return len(self._chunks[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """What was written since the last time."""
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


def _arrow_type(kind: Any) -> Any:
    import pyarrow  # noqa: PLC0415  # heavy, and an extra

    if isinstance(kind, list):
        (fields,) = kind
        return pyarrow.list_(pyarrow.struct([(name, _arrow_type(held)) for name, held in fields.items()]))
    simple = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    simple |= {date: pyarrow.date32(), datetime: pyarrow.timestamp("us")}
    return simple[kind] if isinstance(kind, type) else kind


def as_json(names: Sequence[str], cells: Sequence[Any], values: Sequence[Any]) -> bytes:
    """One line of JSONL. A byte that was no text is a lone surrogate there: \\udc80 to \\udcff."""
    record = {
        name: value if type(value) in (str, int, bool) else _plain(value)
        for name, value in zip(names, (*cells, *values), strict=True)
        if value is not MISSING
    }
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    """`value` as what JSON knows."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return value if value is None or isinstance(value, str | int | float) else text(value)


def plain_text(value: Any) -> str:
    """The text of a cell, the same before it was written as JSON and after."""
    return value if isinstance(value, str) else text(None if value is MISSING else _plain(value))


def unicode_text(found: str) -> str:
    """`found`, with what is no Unicode text written out: Parquet and workbooks take nothing else."""
    return found if found.isascii() else found.encode("utf-8", "backslashreplace").decode()
