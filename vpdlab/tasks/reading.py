"""Reading files of items for tasks: JSON lines, parquet, folders with train and test files, `datasets` data sets.

A row comes with the place it stands at, so that a task can name the line of an item that does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError, first_line

ENDINGS = (".json", ".jsonl", ".parquet")
Rows = Iterable[tuple[str, Any]]


def read_splits(task: str, data: str, fields: Sequence[str] | None) -> dict[str, tuple[str, Rows]]:
    """Rows by split: split -> (file or data set, rows as (where in it, fields)).

    Without "test" where the data comes as one piece: the task holds some out itself.

    Args:
        task: who asks, for messages.
        data: a file, a folder with train and test files, a folder that `datasets` wrote, or a name for
            `datasets.load_dataset`.
        fields: the columns that are read where a format lets us choose; None: all.

    Raises:
        UserError: for what cannot be found or read; a line that is no JSON is named by file and number.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return {"train": (str(path), _read_file(task, path, fields))}
    if not path.exists():
        if path.is_absolute() or data.startswith((".", "~")) or path.suffix in ENDINGS:
            raise UserError(f"{task}: there is no file or folder {data}")
        return _read_hub(task, data, fields)
    files = {s: [path / (s + e) for e in ENDINGS if (path / (s + e)).is_file()] for s in ("train", "test")}
    for split, found in files.items():
        if len(found) > 1:
            raise UserError(f"{path}: more than one {split} file ({', '.join(f.name for f in found)}): keep one")
    if any(files.values()):
        return {split: (str(found[0]), _read_file(task, found[0], fields)) for split, found in files.items() if found}
    below = sorted(f.parent.name for e in ENDINGS for f in path.glob(f"*/train{e}"))
    if below:
        raise UserError(f"{path}: no train or test file here, but in the folders {', '.join(below)}: name one of them")
    return _read_hub(task, data, fields)


def shown(value: Any) -> str:
    """A value as a message can quote it: its repr, cut to 60 characters."""
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:59] + "…"


def _read_file(task: str, path: Path, fields: Sequence[str] | None) -> Rows:
    if path.suffix not in ENDINGS:
        raise UserError(f"{task} cannot read {path}: it takes {', '.join(ENDINGS)}")
    if path.suffix != ".parquet":
        return _json_lines(path)
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{task} cannot read {path}: {first_line(error)}") from error
    rows = table.select(_chosen(fields, table.column_names)).to_pylist()
    return ((f"row {n}", row) for n, row in enumerate(rows, 1))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise UserError(f"{path} line {number}: not UTF-8 text ({error.reason})") from error
            except json.JSONDecodeError as error:
                said = f"not one JSON object ({error.msg} at column {error.colno})"
                raise UserError(f"{path} line {number}: {said}: {shown(line.decode().strip())}") from error


def _chosen(fields: Sequence[str] | None, columns: Sequence[str]) -> list[str]:
    return [column for column in columns if fields is None or column in fields]


def _read_hub(task: str, name: str, fields: Sequence[str] | None) -> dict[str, tuple[str, Rows]]:
    import datasets

    try:
        local = Path(name).expanduser()
        saved = any((local / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
        found: Any = datasets.load_from_disk(str(local)) if saved else datasets.load_dataset(name)
    except Exception as error:  # `datasets` passes on the errors of a dozen libraries; all mean the same here
        raise UserError(f"{task} cannot load data set {name!r}: {first_line(error)}") from error
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits["validation"]
    pieces = {}
    for split in ("train", "test"):
        if split in splits:
            rows = splits[split].select_columns(_chosen(fields, splits[split].column_names))
            pieces[split] = (f"{name}[{split}]", ((f"row {n}", row) for n, row in enumerate(rows, 1)))
    if not pieces:
        raise UserError(f"data set {name!r} has the splits {', '.join(splits)}, but neither train nor test")
    return pieces
