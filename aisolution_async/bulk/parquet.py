"""Parquet: rows by the batch, so that a file of any size, and one with images in it, is read in little memory.

Cells are what Python has for the types: text, bytes, int, float, bool, Decimal, dates and times, lists and dicts. What
Python has no value for is its text as Arrow writes it (nanoseconds) or its number (years beyond 9999). `column()`
makes of cells what they were made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aisolution_async.bulk.source import (
    Narrow,
    Reader,
    Row,
    UnreadableInputError,
    check_names,
    is_text,
    open_bytes,
    remedy,
    shown,
    what_it_is,
)
from aisolution_async.errors import ConfigurationError

# Rows of a batch, and what they may weigh: an image in each of a thousand rows would be a lot at once.
_BATCH = 1024
_BATCH_BYTES = 8 << 20
_SAVE_AS = "write the file anew as Parquet"
_HALF, _SINGLE = 2.0**11, 2.0**24  # up to which floats of 16 and 32 bits hold every whole number


class ParquetReader(Reader):
    """The rows of one Parquet file."""

    format = "parquet"

    def __init__(self, path: Path) -> None:
        arrow = _arrow()
        self._path = path
        with open_bytes(path) as file:
            head = file.read(16)
        problem = None
        if not head:
            problem = "is empty: it must be a Parquet file"
        elif head[:4] != b"PAR1":
            what = what_it_is(head) or "no Parquet file"
            problem = f"is {what}: {remedy(what, _SAVE_AS)}"
        else:
            try:
                self._file = arrow.parquet.ParquetFile(
                    str(path),
                    # A row group may be the whole file: it is read by the page.
                    buffer_size=1 << 20,
                    pre_buffer=False,
                    page_checksum_verification=True,
                )
            except (arrow.ArrowException, OSError, ValueError) as exc:
                problem = f"cannot be read as Parquet ({_first_line(exc)}): it may be cut off or damaged; copy it again"
        if problem is not None:
            raise ConfigurationError(f"the input {str(path)!r} {problem}")
        try:
            self.schema = self._file.schema_arrow.remove_metadata()
            self.header = list(self.schema.names)
            if not self.header:
                raise ConfigurationError(f"{str(path)!r} has no columns")
            check_names(self.header, repr(str(path)))
        except BaseException:
            self.close()
            raise
        metadata = self._file.metadata
        self.total = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self.about = f"Parquet, {metadata.num_row_groups} row group{'s' if metadata.num_row_groups != 1 else ''}"

    def __iter__(self) -> Iterator[Row]:
        arrow = _arrow()
        number = end = 0
        for group in range(self._file.num_row_groups):
            try:
                for batch in self._file.iter_batches(self._batch_size(group), row_groups=[group], use_threads=False):
                    columns = [_values(column) for column in batch.columns]
                    bad = [place for place, (_, is_bad) in enumerate(columns) if is_bad]
                    for cells in zip(*(values for values, _ in columns), strict=True):
                        number += 1
                        yield Row(number, list(cells), _problem(cells, bad, number, self.header))
                if number != (end := end + self._file.metadata.row_group(group).num_rows):
                    raise ValueError(f"there are {number} rows where it says {end}")
            except (arrow.ArrowException, OSError, ValueError) as exc:
                problem = _first_line(exc)
            else:
                continue
            raise UnreadableInputError(
                f"{str(self._path)!r} cannot be read on from row {number + 1}: {problem}; copy the file again"
            )

    def close(self) -> None:
        self._file.close(force=True)

    def _batch_size(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        weight = metadata.total_byte_size // max(1, metadata.num_rows)
        return int(max(1, min(_BATCH, _BATCH_BYTES // max(1, weight))))


def column(cells: Sequence[Any], type_: Any) -> Any:
    """The cells of a column, as `Rows` had them, as a pyarrow.Array of the type that they have in its `schema`."""
    arrow = _arrow()
    try:
        return arrow.array(cells, type_)
    except (arrow.ArrowException, TypeError, ValueError, OverflowError):
        return arrow.array([None if cell is None else str(cell) for cell in cells], arrow.string()).cast(type_)


def _values(column: Any) -> tuple[list[Any], bool]:
    """The values of a column, and whether some are no text."""
    arrow = _arrow()
    kind = column.type
    if arrow.types.is_timestamp(kind) and kind.unit == "ns":
        # With pandas installed, and only then, they would be that one's.
        try:
            column = column.cast(arrow.timestamp("us", kind.tz))
        except arrow.ArrowInvalid:
            return column.cast(arrow.string()).to_pylist(), False
    exact = _HALF if arrow.types.is_float16(kind) else _SINGLE if arrow.types.is_float32(kind) else None
    try:
        values = column.to_pylist()
        if exact is not None:
            values = [Narrow(v) if v is not None and abs(v) > exact else v for v in values]
        return values, False
    except UnicodeDecodeError:
        binary = column.cast(arrow.large_binary())
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in binary.to_pylist()], True
    except (arrow.ArrowException, ValueError, OverflowError):
        return [_value(scalar) for scalar in column], False


def _value(scalar: Any) -> Any:
    arrow = _arrow()
    try:
        return scalar.as_py()
    except (arrow.ArrowException, ValueError, OverflowError):
        pass
    try:
        written = scalar.cast(arrow.string())
        written.cast(scalar.type)
    except arrow.ArrowException:
        return scalar.value  # of a year that nothing can read back
    return written.as_py()


def _problem(cells: Sequence[Any], bad: Sequence[int], number: int, header: Sequence[str]) -> str | None:
    for place in bad:
        if isinstance(cells[place], str) and not is_text(cells[place]):
            return f"row {number}: column {shown(header[place])} is not UTF-8: {_SAVE_AS}"
    return None


def _arrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415  # it takes half a second
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'aisolution-async[cli]'") from None
    return pyarrow


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
