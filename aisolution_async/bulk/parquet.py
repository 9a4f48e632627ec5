"""Parquet: rows by the batch, so that a file of any size, and one with images in it, is read in little memory.

A few KiB may unpack to gigabytes. What stands once in a dictionary stays so; what the file's own account says would not
fit is refused (`_check_room`), as whole pages are unpacked at once.

Cells are what Python has for the types: text, bytes, int, float, bool, Decimal, dates and times, lists and dicts. What
Python has no value for is its text as Arrow writes it (nanoseconds) or its number (years beyond 9999). `column()`
makes of cells what they were made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aisolution_async.bulk.source import (
    MAX_CELL,
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
# What of a row group's columns is taken for a trap: so many bytes (or values in lists), and so many for each that is
# in the file. Photos hardly pack at all, and texts ten to one.
_MUCH, _PACKED = 256 << 20, 100
_MANY_VALUES = 10_000_000
_LARGEST_ROW = 4 * MAX_CELL
_SMALL = 16 << 20
_WORST = 512 << 20  # bytes of a batch whose values may all be the largest one
_PER_VALUE = 64  # bytes that a value takes in Python at least
_HALF, _SINGLE = 2.0**11, 2.0**24  # up to which floats of 16 and 32 bits hold every whole number


class ParquetReader(Reader):
    """The rows of one Parquet file."""

    format = "parquet"

    def __init__(self, path: Path) -> None:
        arrow = _arrow()
        self._path = path
        self._by_number: set[str] = set()
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
                self._file = _opened(path)
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
            metadata = self._file.metadata
            for group in range(metadata.num_row_groups):
                _check_room(path, metadata.row_group(group))
            if texts := self._texts_by_number():
                self.close()
                self._file = _opened(path, read_dictionary=texts)
        except BaseException:
            self.close()
            raise
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

    def _texts_by_number(self) -> list[str]:
        """The columns of texts that have a dictionary, in which a text stands once for all rows that have it.

        Those of small ones: of all texts that it reads, Arrow makes a dictionary of its own then.
        """
        arrow, metadata = _arrow(), self._file.metadata
        kinds = (arrow.string(), arrow.large_string(), arrow.binary(), arrow.large_binary())
        found = {field.name for field in self.schema if field.type in kinds}
        named = set()
        for chunk in _chunks(metadata):
            if chunk.total_uncompressed_size > _SMALL:
                found.discard(chunk.path_in_schema)
            elif chunk.has_dictionary_page:
                named.add(chunk.path_in_schema)
        self._by_number = found & named
        return sorted(self._by_number)

    def _batch_size(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        rows = max(1, metadata.num_rows)
        weight = metadata.total_byte_size // rows
        most = _BATCH
        for place in range(metadata.num_columns):
            chunk = metadata.column(place)
            weight += chunk.num_values * max(_PER_VALUE, self._file.schema.column(place).length or 0) // rows
            repeats = chunk.has_dictionary_page or "DELTA_BYTE_ARRAY" in chunk.encodings
            if repeats and chunk.physical_type == "BYTE_ARRAY" and chunk.path_in_schema not in self._by_number:
                # What takes no room in the file, as it stands there already, may be as large as all that does.
                most = min(most, _WORST // max(1, chunk.total_uncompressed_size))
        return int(max(1, min(most, _BATCH_BYTES // max(1, weight))))


def _chunks(metadata: Any) -> Iterator[Any]:
    """Each column of each row group."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        yield from map(group.column, range(group.num_columns))


def _opened(path: Path, **options: Any) -> Any:
    return _arrow().parquet.ParquetFile(
        str(path),
        # A row group may be the whole file: it is read by the page.
        buffer_size=1 << 20,
        pre_buffer=False,
        page_checksum_verification=True,
        **options,
    )


def _check_room(path: Path, group: Any) -> None:
    """Raise ConfigurationError for a row group that takes more memory than any list of people needs."""
    problem = None
    for chunk in map(group.column, range(group.num_columns)):
        size, values = chunk.total_uncompressed_size, chunk.num_values
        if size > max(_MUCH, _PACKED * chunk.total_compressed_size):
            problem = (
                f"{chunk.total_compressed_size:,} bytes of column {shown(chunk.path_in_schema)} unpack to {size:,}"
            )
        elif size > _LARGEST_ROW * max(1, group.num_rows):
            problem = f"column {shown(chunk.path_in_schema)} has values of more than {_LARGEST_ROW >> 20} MiB"
        elif values > group.num_rows and values > max(_MANY_VALUES, _PACKED * size):
            problem = f"{size:,} bytes of column {shown(chunk.path_in_schema)} unpack to lists of {values:,} values"
    if problem is not None:
        raise ConfigurationError(
            f"the input {str(path)!r} cannot be read: {problem}, which is too much: save the columns and rows that are "
            "needed as CSV"
        )


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
    if arrow.types.is_dictionary(kind) and not arrow.types.is_dictionary(kind.value_type):
        return _looked_up(column)
    if getattr(kind, "unit", None) == "ns":
        # With pandas installed, and only then, they would be that one's, or lose their last digits.
        try:
            column = column.cast(_in_microseconds(kind))
        except arrow.ArrowInvalid:
            if arrow.types.is_timestamp(kind):
                return column.cast(arrow.string()).to_pylist(), False
            return [_written(scalar) for scalar in column], False
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


def _in_microseconds(kind: Any) -> Any:
    """The type of a moment, a time of day or a duration, as Python has it."""
    arrow = _arrow()
    if arrow.types.is_timestamp(kind):
        return arrow.timestamp("us", kind.tz)
    return arrow.time64("us") if arrow.types.is_time(kind) else arrow.duration("us")


def _looked_up(column: Any) -> tuple[list[Any], bool]:
    """The same, of a column that says by number which value it means: each is made once."""
    places = column.indices.to_pylist()
    used = sorted({place for place in places if place is not None})
    values, is_bad = _values(column.dictionary.take(_arrow().array(used, _arrow().int64())))
    found = dict(zip(used, values, strict=True))
    return [None if place is None else found[place] for place in places], is_bad


def _value(scalar: Any) -> Any:
    arrow = _arrow()
    try:
        return scalar.as_py()
    except (arrow.ArrowException, ValueError, OverflowError):
        return _written(scalar)


def _written(scalar: Any) -> Any:
    """The value as text, or as its number where nothing can read that text back (a year that is too large, say)."""
    arrow = _arrow()
    try:
        written = scalar.cast(arrow.string())
        written.cast(scalar.type)
    except arrow.ArrowException:
        return scalar.value
    return written.as_py()


def _problem(cells: Sequence[Any], bad: Sequence[int], number: int, header: Sequence[str]) -> str | None:
    for place in bad:
        if isinstance(cells[place], str) and not is_text(cells[place]):
            return f"row {number}: column {shown(header[place])} is not UTF-8: {_SAVE_AS}"
    return None


def _arrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415  # it takes half a second
        import pyarrow.parquet  # noqa: PLC0415  # as above
    except ImportError:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'aisolution-async[cli]'") from None
    return pyarrow


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
