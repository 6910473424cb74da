"""The files of rollouts/: their layout, reading them, and merging those of finished iterations.

step-000130.parquet           iteration 130, as first written
steps-000001-000128.parquet   iterations 1 to 128, merged from such files: one row group per iteration, in order

A merged file is complete before its sources are deleted. While both exist, also after a kill, readers use the merged
file, so that no iteration is read twice or missed. `cut`, on resume, deletes leftovers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpdlab.errors import UserError, first_line, notice
from vpdlab.files import fsync, ordinary, staged_file
from vpdlab.record.schema import arrow_type, columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MERGED = 128
"""Iterations in a merged file."""
MOST_STEPS, MOST_ROWS, MOST_BYTES = 1024, 200_000, 1 << 30  # iterations in a file; limits of one iteration
NAME = re.compile(r"step-(\d{6,9})\.parquet|steps-(\d{6,9})-(\d{6,9})\.parquet", re.ASCII)


@dataclass(frozen=True)
class Part:
    """A file of rollouts/ with iterations `first` to `last`."""

    folder: Path
    first: int
    last: int

    @property
    def path(self) -> Path:
        last = f"s-{self.first:06d}-{self.last:06d}" if self.last > self.first else f"-{self.first:06d}"
        return self.folder / f"step{last}.parquet"

    @property
    def steps(self) -> range:
        return range(self.first, self.last + 1)


# -- which file ----------------------------------------------------------------------------------------------------


def parts(folder: Path) -> list[Part]:
    """The files of a rollouts/ folder, by iteration.

    A listing made during a merge may miss both the merged file and its sources, hence it is repeated until two agree.
    """
    found = _listed(folder)
    while (again := _listed(folder)) != found:
        found = again
    return found


def _listed(folder: Path) -> list[Part]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error
    found = []
    for name in names:
        if match := NAME.fullmatch(name):
            numbers = [int(number) for number in match.groups() if number]
            part = Part(folder, numbers[0], numbers[-1])
            if part.path.name == name and len(part.steps) <= MOST_STEPS:
                found.append(part)
    return sorted(found, key=lambda part: (part.first, part.last))


def index(folder: Path) -> dict[int, Part]:
    """The file of each iteration, in order of iterations."""
    found: dict[int, Part] = {}
    for part in sorted(parts(folder), key=lambda part: len(part.steps)):
        found.update(dict.fromkeys(part.steps, part))
    return dict(sorted(found.items()))


def single(folder: Path) -> list[int]:
    """The latest consecutive iterations whose files are not merged."""
    found: list[int] = []
    for step, part in index(folder).items():
        if len(part.steps) > 1 or (found and step != found[-1] + 1):
            found = []
        if len(part.steps) == 1:
            found.append(step)
    return found


# -- reading -------------------------------------------------------------------------------------------------------


def read(folder: Path, steps: Sequence[int] | None, names: Sequence[str]) -> Iterator[tuple[Part, pa.Table]]:
    """Read columns of the rollouts of some iterations; yields each file with its rows.

    Args:
        steps: iterations in ascending order; None for all.
        names: columns; one that a file lacks is null.

    Raises:
        UserError: for an iteration that is not recorded, or a damaged file.
    """
    where = index(folder)
    wanted = list(where) if steps is None else list(steps)
    done = 0
    while done < len(wanted):
        part = where.get(wanted[done])
        if part is None:
            raise UserError(f"{folder} has no rollouts of step {wanted[done]}: it has {_ranges(list(where))}")
        end = done
        while end < len(wanted) and where.get(wanted[end]) == part:
            end += 1
        try:
            table = _read(part, wanted[done:end], names)
        except FileNotFoundError as error:  # merged meanwhile
            where = index(folder)
            if where.get(part.first) == part:
                raise UserError(f"{part.path} cannot be read: {error.strerror}") from error
            continue
        yield part, table
        done = end


def _read(part: Part, steps: Sequence[int], names: Sequence[str], exact: bool = False) -> pa.Table:
    """The rows of some iterations in one file.

    Args:
        exact: refuse a file with other columns than `names`.

    Raises:
        FileNotFoundError: if the file does not exist.
        UserError: if it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = columns()
    try:
        ordinary(part.path)
        with pq.ParquetFile(part.path) as file:
            there = file.schema_arrow.names
            if exact and (other := set(there) - set(names)):
                raise ValueError(f"it has a column {min(other)!r} that this version does not know")
            groups = _groups(file.metadata, part, steps)
            table = file.read_row_groups(groups, columns=[name for name in names if name in there])
        for name in names:
            kind = arrow_type(kinds[name])
            if name not in there:
                table = table.append_column(name, pa.nulls(len(table), kind))
            elif table.schema.field(name).type != kind:
                raise ValueError(f"column {name!r} is of type {table.schema.field(name).type}, not {kinds[name]}")
        if "step" in names and (strange := set(table["step"].unique().to_pylist()) - {*steps, None}):
            raise ValueError(f"it has rollouts of step {min(strange)}")
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # a damaged page is an OSError
        raise UserError(f"{part.path} cannot be read: {first_line(error)}") from error
    return table.select(list(names))


def _groups(metadata: pq.FileMetaData, part: Part, steps: Sequence[int]) -> list[int]:
    """The row groups of some iterations. Raises ValueError if their number or size is implausible."""
    count = metadata.num_row_groups
    if len(part.steps) == 1:
        groups = list(range(count))
    elif count == len(part.steps):
        groups = [step - part.first for step in steps]
    else:
        raise ValueError(f"it has {count} row groups for {len(part.steps)} iterations")
    found = [metadata.row_group(number) for number in groups]
    rows = sum(group.num_rows for group in found)
    if rows > MOST_ROWS * len(steps) or sum(group.total_byte_size for group in found) > MOST_BYTES * len(steps):
        raise ValueError(f"it holds {rows} rows, more than an iteration's rollouts")
    return groups


def _ranges(steps: Sequence[int]) -> str:
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}" if steps else "none"


# -- writing -------------------------------------------------------------------------------------------------------


def schema() -> pa.Schema:
    """The Arrow schema of rollouts/*.parquet."""
    import pyarrow as pa

    return pa.schema([(name, arrow_type(kind)) for name, kind in columns().items()])


def write(part: Part, records: Sequence[Mapping[str, Any]], before: Sequence[pa.Table] = ()) -> None:
    """Write some rollouts, after tables of others, as a file; an earlier one is replaced at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dict(record) for record in records], schema=schema())
    with staged_file(part.path) as staged:
        pq.write_table(pa.concat_tables([*before, table]), staged)


def extend(folder: Path, step: int, records: Sequence[Mapping[str, Any]]) -> None:
    """Add rollouts to those of an iteration, if there are any; the file is replaced at once.

    Raises:
        UserError: the file there cannot be read, or has columns that this version would lose.
        OSError: it cannot be written.
    """
    folder.mkdir(exist_ok=True)
    part = Part(folder, step, step)
    write(part, records, [_whole(part, step)] if part.path.exists() else [])
    fsync(folder)


def merge(folder: Path, first: int, last: int) -> None:
    """Merge the files of iterations `first` to `last` into one.

    Raises:
        UserError: if one cannot be read; nothing is changed.
        OSError: if the merged file cannot be written or a source cannot be deleted.
    """
    sources = [Part(folder, step, step) for step in range(first, last + 1)]
    _join(Part(folder, first, last), sources)
    for source in sources:
        source.path.unlink()


def cut(folder: Path, step: int) -> None:
    """Delete the rollouts after an iteration, and the leftovers of a killed process.

    A damaged file that would have to be split is renamed to *.damaged instead.

    Raises:
        OSError: if a file cannot be written or deleted.
    """
    for path in list(folder.glob("*.new")):
        path.unlink()
    for part in reversed(parts(folder)):  # from the end, so that a kill leaves no gap
        if part.first <= step < part.last:
            try:
                _join(Part(folder, part.first, step), [part])
            except UserError as error:
                aside = part.path.rename(part.path.with_name(f"{part.path.name}.damaged"))
                notice(f"{error}; it is now {aside.name}")
                continue
        if part.last > step:
            part.path.unlink()
    kept = set(index(folder).values())
    for part in parts(folder):
        if part not in kept:
            part.path.unlink()


def extract(folder: Path, target: Path, step: int) -> list[str]:
    """Copy the rollouts up to an iteration into another, empty folder; one line for each file that cannot be read.

    Raises:
        OSError: if a file cannot be written.
    """
    skipped = []
    for part in dict.fromkeys(index(folder).values()):
        if part.first > step:
            continue
        try:
            _join(Part(target, part.first, min(part.last, step)), [part])
        except UserError as error:
            skipped.append(f"{error}; the rollouts of steps {part.first} to {min(part.last, step)} are left out")
    return skipped


def _join(target: Part, sources: Sequence[Part]) -> None:
    import pyarrow.parquet as pq

    kept: Any = ["step"]  # statistics of text columns would multiply the size of the footer, where every read starts
    with staged_file(target.path) as staged, pq.ParquetWriter(staged, schema(), write_statistics=kept) as file:
        for source in sources:
            for step in range(source.first, min(source.last, target.last) + 1):
                file.write_table(_whole(source, step), row_group_size=MOST_ROWS)
    fsync(target.folder)


def _whole(source: Part, step: int) -> pa.Table:
    """All columns of an iteration. Raises UserError if it has no rows or cannot be read."""
    try:
        table = _read(source, [step], list(columns()), exact=True)
    except FileNotFoundError as error:
        raise UserError(f"{source.path} is gone") from error
    if not len(table):
        raise UserError(f"{source.path} has no rollouts of step {step}")
    return table
