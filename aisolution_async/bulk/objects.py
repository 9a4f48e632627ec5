"""JSONL: an object a line, in UTF-8, or in UTF-16 as PowerShell writes it.

The columns are the keys of all objects, in the order in which they first appear; to know them, the file is read
once before. Blank lines are no rows. What does not parse, what is no object, and what has one key twice, is a row
with a problem, and so is one with half a surrogate pair in it, which no other format can hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from aisolution_async.bulk import source
from aisolution_async.bulk.delimited import open_text
from aisolution_async.bulk.source import MISSING, Reader, Row, UnreadableInputError, is_text, shown, surplus
from aisolution_async.errors import ConfigurationError

SAVE_AS = "save the file as JSONL in UTF-8: one object a line"
_NO_JSON = "this is no JSON"


class ObjectReader(Reader):
    """The rows of one JSONL file. `file` is the file, open: it can be read more than once, and is closed in the end."""

    format = "jsonl"

    def __init__(self, path: Path, file: BinaryIO, encoding: str | None) -> None:
        self._name = "standard input" if str(path) == "-" else repr(str(path))
        self._file, _, said = open_text(path, file, encoding, newline="\n", save_as=SAVE_AS, guesses=False)
        self.encoding, self.errors, self.bom = said.encoding, said.errors, said.bom
        self._doubled: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=_float, parse_constant=_no_constant
        )
        try:
            self.header = self._survey()
            self._file.seek(0)
            if self.bom:
                self._file.read(1)  # where it is one character, as it always is
        except BaseException:
            self._file.close()
            raise
        self.about = f"JSONL, {said.about}"

    def __iter__(self) -> Iterator[Row]:
        header = self.header
        known = set(header)
        for read, (number, line) in enumerate(self._lines(), 1):
            self.blank = number - read
            value, problem = self._parse(line)
            if value is None:
                yield Row(number, [MISSING] * len(header), f"line {number}: {problem}", line.rstrip("\r\n"))
                continue
            if not value.keys() <= known:
                unknown = [f"{key}: {json.dumps(held)}" for key, held in value.items() if key not in known]
                why = problem or "keys that were not there when the file was read before: was it changed meanwhile?"
                problem = f"{why}; {surplus(unknown)}"
            cells = [value.get(name, MISSING) for name in header]
            yield Row(number, cells, None if problem is None else f"line {number}: {problem}")

    def close(self) -> None:
        self._file.close()

    def _survey(self) -> list[str]:
        """The keys of all objects. Counts the rows, too."""
        keys: dict[str, None] = {}
        rows = objects = lists = 0
        is_array = False  # one that goes on over more lines
        try:
            for number, line in self._lines():
                rows += 1
                value, problem = self._parse(line)
                if value is None:
                    begins = rows == 1 and line.lstrip().startswith("[")
                    is_array = begins and problem is not None and problem.startswith(_NO_JSON)
                    if is_array:
                        break
                    lists += begins
                    continue
                objects += 1
                if not value.keys() <= keys.keys():
                    keys.update((key, None) for key in value if is_text(key))
                    self._check_keys(keys, number)
        except UnreadableInputError as exc:
            problem = str(exc)
        else:
            if objects:
                if not keys:
                    raise ConfigurationError(f"{self._name} has no keys: its objects must name the columns")
                self.total = rows
                return list(keys)
            if not rows:
                problem = f"{self._name} is empty: it must have one JSON object a line"
            elif is_array or lists == rows:
                problem = f"{self._name} is a JSON array: it must have one object a line, as `jq -c '.[]'` writes it"
            else:
                problem = f"{self._name} is no JSONL, which has one object a line (`jq -c .` writes it)"
        raise ConfigurationError(problem)

    def _check_keys(self, keys: dict[str, None], number: int) -> None:
        problem = None
        if len(keys) > source.MAX_COLUMNS:
            problem = f"has more than {source.MAX_COLUMNS} different keys"
        elif sum(map(len, keys)) > source.MAX_NAMES:
            problem = f"has keys of more than {source.MAX_NAMES} characters"
        if problem is not None:
            raise ConfigurationError(
                f"{self._name} {problem} by line {number}: an object a line must have the columns for its keys, "
                "and no data"
            )

    def _lines(self) -> Iterator[tuple[int, str]]:
        number = 0
        while True:
            number += 1
            try:
                line = self._file.readline(source.MAX_LINE)
            except UnicodeError:
                problem = f"it is not {self.encoding} there"
            except OSError as exc:
                problem = exc.strerror or type(exc).__name__
            else:
                if not line:
                    return
                if len(line) < source.MAX_LINE:
                    if not line.isspace():
                        yield number, line
                    continue
                problem = f"a line of more than {source.MAX_LINE} characters"
            raise UnreadableInputError(f"{self._name} cannot be read on from line {number}: {problem}")

    def _parse(self, line: str) -> tuple[dict[str, Any] | None, str | None]:
        """The object, and what is wrong with it; without the former, it is none."""
        self._doubled.clear()
        if len(line) > source.MAX_VALUES and sum(map(line.count, "[{,")) > source.MAX_VALUES:
            return None, f"this has more than {source.MAX_VALUES} values: leave out what is not needed"
        try:
            value = self._decoder.decode(line)
        except json.JSONDecodeError as exc:
            return None, f"{_NO_JSON}: {exc.msg} at column {exc.pos + 1}"
        except _NumberError as exc:
            return None, f"this cannot be kept: {exc}"
        except ValueError:  # of an integer of thousands of digits
            return None, "this cannot be kept: it has a number of too many digits"
        except RecursionError:
            return None, "this is nested too deeply"
        if not isinstance(value, dict):
            kind = {list: "an array", str: "text", type(None): "null", bool: "true or false"}.get(
                type(value), "a number"
            )
            return None, f"this is {kind} and not an object"
        problem = None
        if self._doubled:
            problem = f"the key {shown(self._doubled[0])} is there twice: remove one of them"
        elif not is_text(line):
            problem = f"this is not {self.encoding}: {SAVE_AS}"
        # All else that is no text can only come from an escape.
        elif "\\ud" in line.lower() and not is_text(json.dumps(value, ensure_ascii=False)):
            problem = "this has half of a surrogate pair in it, which is no text: remove it"
        return value, problem

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            self._doubled += [name for name in value if names.count(name) > 1]
        return value


class _NumberError(Exception):
    pass


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _NumberError("it has a number that is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _NumberError(f"{name} is no JSON")
