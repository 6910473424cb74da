"""Rows of a file that somebody else wrote: JSON lines, a JSON array, or parquet; bounded in size, and nothing is run.

A row that cannot be read is an error with its place, which a caller may skip; a file that cannot be read at all raises.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError, first_line
from vpdlab.files import ordinary
from vpdlab.tasks.common.reading import ENDINGS, check_mark, json_array, lines, parsed, recordable

MOST_BYTES = 1 << 30  # of a file, and of the values that a parquet file unpacks to
MOST_ROWS = 200_000
MOST_LINE = 1 << 26  # bytes of one row
BATCH = 16  # rows of a parquet file that are unpacked at a time

Found = tuple[str, dict[str, Any] | UserError]
"""A row's place, such as "rollouts.jsonl line 3", and its fields; or why it cannot be read."""


def read_rows(path: Path) -> Iterator[Found]:
    """The rows of a file, in order. NaN and infinities are None.

    Raises:
        UserError: the file cannot be read, is of another kind, or holds more than `MOST_ROWS` or `MOST_BYTES`.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path} cannot be read: rollouts come in {', '.join(ENDINGS)} files")
    try:
        ordinary(path)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if size > MOST_BYTES:
        raise UserError(f"{path} has {size} bytes, more than {MOST_BYTES}: split it")
    found = _parquet(path) if ending == ".parquet" else _json(path)
    held = 0
    for number, (where, row) in enumerate(found, 1):
        if number > MOST_ROWS:
            raise UserError(f"{path} has more than {MOST_ROWS} rows: split it")
        checked = _checked(row, where)
        held += 0 if isinstance(checked, UserError) else _size(checked)
        if held > MOST_BYTES:  # a dictionary in a parquet file holds a text once, however often it is repeated
            raise UserError(f"{path} unpacks to more than {MOST_BYTES} bytes: split it")
        yield where, checked


def _checked(row: Any, where: str) -> dict[str, Any] | UserError:
    if isinstance(row, UserError):
        return row
    if not isinstance(row, dict):
        return UserError(f"{where}: expected an object of fields, found {type(row).__name__}")
    try:
        return recordable(_finite(row), where, None)
    except UserError as error:
        return error
    except RecursionError:
        return UserError(f"{where}: nested too deeply")


def _size(value: Any) -> int:
    """About how many bytes a row's values take."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _finite(value: Any) -> Any:
    """NaN and infinities as None: TRL writes NaN where a reward function says nothing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            check_mark(path, head)
            start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
            file.seek(start)
            array = json_array(path, file.read()) if head[start:].lstrip()[:1] == b"[" else None
            if array is not None:
                yield from ((f"{path} {where}", item) for where, item in array)
                return
            file.seek(start)
            for number, line in lines(iter(lambda: file.readline(MOST_LINE + 1), b"")):
                where = f"{path} line {number}"
                if len(line) > MOST_LINE:
                    raise UserError(f"{where} has more than {MOST_LINE} bytes")
                yield where, _parsed(line, where)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _parsed(line: bytes, where: str) -> Any:
    try:
        return parsed(line, where)
    except UserError as error:
        return error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows a few at a time: a small file may unpack to any size, so the sum is bounded on the way."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done, unpacked = 0, 0
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise UserError(f"{path} has {file.metadata.num_rows} rows, more than {MOST_ROWS}: split it")
            groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > MOST_BYTES:
                raise UserError(f"{path} unpacks to more than {MOST_BYTES} bytes: split it")
            names = file.schema_arrow.names
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise UserError(f"{path} has two columns {twice[0]!r}: keep one of them")
            for batch in file.iter_batches(BATCH):
                unpacked += batch.nbytes
                if unpacked > MOST_BYTES:
                    raise UserError(f"{path} unpacks to more than {MOST_BYTES} bytes: split it")
                for place in range(batch.num_rows):
                    done += 1
                    where = f"{path} row {done}"
                    yield where, _values(batch, place, where)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def _values(batch: Any, place: int, where: str) -> Any:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[place].as_py()
        except (ArithmeticError, TypeError, ValueError) as error:  # invalid UTF-8, dates out of range
            return UserError(f"{where}: field {name!r} cannot be read: {first_line(error)}")
    return row
