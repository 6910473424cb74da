"""Reading files of items for tasks: JSON lines or one JSON array, parquet, folders with train and test files, data sets
of `datasets`.

Each row comes with its location, so that a task can name the line of an invalid item. Values that cannot be recorded
(lone surrogates, non-finite numbers) are rejected here, with file, line and field.
"""

from __future__ import annotations

import codecs
import datetime
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError, first_line, shown
from vpdlab.paths import user_path

ENDINGS = (".json", ".jsonl", ".parquet")
HELD_OUT = ("test", "validation", "valid", "val", "dev")
"""Names of the file of held-out problems beside one of training problems; the first that there is counts."""
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
BETWEEN = re.compile(r"[\s,]*")
Rows = Iterable[tuple[str, Any]]


def read_splits(task: str, data: str, fields: Sequence[str] | None) -> dict[str, tuple[str, Rows]]:
    """Rows by split: split -> (file or data set, rows as (location, fields)).

    Without "test" if the data has only one split: the task then holds some rows out itself.

    Args:
        task: name of the task, for messages.
        data: a file, a folder with a train file and perhaps one of `HELD_OUT`, a folder that `datasets` wrote, or a
            name for `datasets.load_dataset`.
        fields: the columns to read, for formats that allow a choice; None: all.

    Raises:
        UserError: for missing or unreadable data; the message names file and line of invalid JSON.
    """
    path = user_path(f"{task}: data", data)
    if path.is_file():
        return {"train": (str(path), _read_file(task, path, fields))}
    if not path.exists():
        if path.is_absolute() or data.startswith((".", "~")) or path.suffix.lower() in ENDINGS:
            raise UserError(f"{task}: there is no file or folder {data}")
        return _read_hub(task, data, fields)
    held_out = (found for name in HELD_OUT if (found := _named(path, name)))
    files = {"train": _named(path, "train"), "test": next(held_out, [])}
    for split, several in files.items():
        if len(several) > 1:
            raise UserError(f"{path}: more than one {split} file ({', '.join(f.name for f in several)}): keep one")
    if any(files.values()):
        return {split: (str(one[0]), _read_file(task, one[0], fields)) for split, one in files.items() if one}
    below = sorted(f.parent.name for e in ENDINGS for f in path.glob(f"*/train{e}"))
    if below:
        raise UserError(f"{path}: no train or test file here, but in the folders {', '.join(below)}: name one of them")
    return _read_hub(task, data, fields)


def _named(folder: Path, name: str) -> list[Path]:
    return [folder / (name + ending) for ending in ENDINGS if (folder / (name + ending)).is_file()]


def _read_file(task: str, path: Path, fields: Sequence[str] | None) -> Rows:
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{task} cannot read {path}: it takes {', '.join(ENDINGS)}")
    rows = _parquet(task, path, fields) if path.suffix.lower() == ".parquet" else _json(task, path)
    return ((where, recordable(row, f"{path} {where}", fields)) for where, row in rows)


# -- JSON ----------------------------------------------------------------------------------------------------------


def _json(task: str, path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a file of JSON lines, or the items of a file that is one JSON array."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            check_mark(path, head)
            file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
            array = json_array(path, file.read()) if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[" else None
            if array is not None:
                yield from array
                return
            file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
            for number, line in lines(file):
                yield f"line {number}", parsed(line, f"{path} line {number}")
    except OSError as error:
        raise UserError(f"{task} cannot read {path}: {error.strerror or error}") from error


def check_mark(path: Path, head: bytes) -> None:
    """Raises UserError for a file that begins with the byte order mark of another encoding than UTF-8."""
    for mark, name in OTHER_MARKS.items():
        if head.startswith(mark):
            raise UserError(
                f"{path} line 1: not UTF-8 text (the file starts with the byte order mark of {name}): save it as UTF-8"
            )


def lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line) for any line ending; blank lines are skipped."""
    number = 0
    for piece in file:
        for line in piece.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):  # JSON strings contain no raw line ends
            number += 1
            if line.strip():
                yield number, line


def parsed(line: bytes, where: str) -> Any:
    """The JSON value of a line. Raises UserError, naming `where`."""
    try:
        text = line.decode()
        return _loads(text, where)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        utf16 = " (is it UTF-16? save it as UTF-8)" if b"\0" in line else ""
        why = f"not one JSON object ({error.msg} at column {error.colno})"
        raise UserError(f"{where}: {why}{utf16}: {shown(text.strip())}") from error


def json_array(path: Path, data: bytes) -> list[tuple[str, Any]] | None:
    """The items of a file that is a single JSON array; None if each line is an array of its own."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: not UTF-8 text ({error.reason})") from error
    try:
        items = _loads(text, f"{path} line 1")
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        why = f"not a JSON array of objects ({error.msg} at column {error.colno})"
        raise UserError(f"{path} line {error.lineno}: {why}") from error
    return list(zip(_places(text, len(items)), items, strict=True))


def _places(text: str, count: int) -> Iterator[str]:
    """The location of each item of an array."""
    end, line, reader = text.index("[") + 1, 1 + text.count("\n", 0, text.index("[")), json.JSONDecoder()
    for n in range(1, count + 1):
        start = BETWEEN.match(text, end).end()  # type: ignore[union-attr]
        line += text.count("\n", end, start)
        yield f"line {line}, item {n}"
        end = reader.raw_decode(text, start)[1]
        line += text.count("\n", start, end)


def _loads(text: str, where: str) -> Any:
    """Parse JSON strictly. Raises JSONDecodeError, or UserError for duplicate keys, deep nesting and huge integers."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{where}: field {shown(twice)} appears twice in one object")
        return fields

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply") from error
    except (json.JSONDecodeError, UserError):
        raise
    except ValueError as error:  # Python limits the number of digits of an integer
        raise UserError(f"{where}: {first_line(error).partition(':')[0]}: write such a number as text") from error


# -- tables --------------------------------------------------------------------------------------------------------


def _parquet(task: str, path: Path, fields: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{task} cannot read {path}: {first_line(error)}") from error
    columns = {name: table.column(name) for name in _chosen(fields, table.column_names)}
    for n in range(table.num_rows):
        row = {}
        for name, column in columns.items():
            try:
                row[name] = column[n].as_py()
            except (
                ArithmeticError,
                TypeError,
                ValueError,
                ArrowException,
            ) as error:  # invalid UTF-8, dates out of range
                raise UserError(f"{path} row {n + 1}: field {name!r} cannot be read: {first_line(error)}") from error
        yield f"row {n + 1}", row


def _chosen(fields: Sequence[str] | None, columns: Sequence[str]) -> list[str]:
    return [column for column in columns if fields is None or column in fields]


def _read_hub(task: str, name: str, fields: Sequence[str] | None) -> dict[str, tuple[str, Rows]]:
    import datasets

    try:
        local = Path(name).expanduser()
        saved = any((local / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
        loaded: Any = datasets.load_from_disk(str(local)) if saved else datasets.load_dataset(name)
    except Exception as error:  # `datasets` passes on the errors of a dozen libraries, all with the same meaning here
        raise UserError(f"{task} cannot load data set {name!r}: {first_line(error)}") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits["validation"]
    pieces = {}
    for split in ("train", "test"):
        if split in splits:
            rows = splits[split].select_columns(_chosen(fields, splits[split].column_names))
            source = f"{name}[{split}]"
            pieces[split] = (source, _numbered(source, rows, fields))
    if not pieces:
        raise UserError(f"data set {name!r} has the splits {', '.join(splits)}, but neither train nor test")
    return pieces


def _numbered(source: str, rows: Iterable[Any], fields: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    for n, row in enumerate(rows, 1):
        yield f"row {n}", recordable(row, f"{source} row {n}", fields)


# -- recordable values ---------------------------------------------------------------------------------------------


def recordable(row: Any, where: str, fields: Sequence[str] | None) -> Any:
    """Convert the fields that are read to plain values; UserError, naming the field, if that is not possible."""
    if not isinstance(row, Mapping):
        return row
    plain = {}
    for name, value in row.items():
        try:
            plain[_plain(name)] = _plain(value) if fields is None or name in fields else value
        except ValueError as why:
            raise UserError(f"{where}: field {name!r} contains {why}") from None
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        if not value.isascii():
            for char in value:
                if 0xD800 <= ord(char) < 0xE000:
                    raise ValueError(
                        f"the lone surrogate {char!r}, which is not valid text: fix the escapes in the file"
                    )
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value}, which is not a finite number: leave the field out, or write it as text")
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value
