"""Read a run folder, lazily and without torch. Every file may be damaged, or somebody else's: what does not fit is a
UserError that names the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vpdlab.config import RunConfig
from vpdlab.errors import UserError, first_line
from vpdlab.manifest import ordinary, read_small
from vpdlab.record import checks
from vpdlab.record.schema import METRICS, arrow_type

LONGEST, MOST_ROWS = 1 << 30, 200_000  # bytes of a file of lines, or of an iteration's rollouts; rollouts


@dataclass(frozen=True)
class RunRecord:
    """A recorded run, read lazily. `metrics` and `evals` are pandas DataFrames, `rollouts` gives plain dicts."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config.json", checks.config_fault)

    def settings(self) -> RunConfig:
        """The settings as this version's record. Raises UserError where it does not know one of them."""
        place = self.folder / "config.json"
        if reason := checks.fault(self.config, {}, checks.NEEDED[place.name]):
            raise UserError(f"{place} cannot be used: {reason}")
        try:
            return RunConfig.make(**self.config)
        except UserError as error:
            raise UserError(f"{place} cannot be used: {error}") from error

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json", lambda found: checks.fault(found, checks.ENVIRONMENT))

    @property
    def status(self) -> dict[str, Any]:
        """state, reason, step, started, updated, pid; read anew each time."""
        return self._json("status.json", lambda found: checks.fault(found, checks.STATUS, ("state", "step")))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl as plain dicts; what an older version did not write is None."""
        return self.lines("metrics.jsonl")

    @property
    def eval_rows(self) -> list[dict[str, Any]]:
        """The lines of eval.jsonl as plain dicts."""
        return self.lines("eval.jsonl")

    def check(self) -> RunRecord:
        """The same record, every small file of it looked at.

        Raises:
            UserError: for a file that is damaged, or lacks what those who show a run need.
        """
        places = [
            (name, "", getattr(self, Path(name).stem)) for name in ("config.json", "environment.json", "status.json")
        ]
        places += [("eval.jsonl", f" line {number}", row) for number, row in enumerate(self.eval_rows, 1)]
        for name, line, value in places:
            if reason := checks.fault(value, {}, checks.NEEDED[name]):
                raise UserError(f"{self.folder / name}{line} cannot be read: {reason}")
        self.rows  # noqa: B018 (reads every line)
        return self

    @property
    def betas(self) -> dict[int, float | None]:
        """The beta that each iteration used: with `kl_target` it is not the config's."""
        return {row["step"]: row["beta"] for row in self.rows}

    @property
    def metrics(self) -> Any:
        """A DataFrame with a row an iteration."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(METRICS))

    @property
    def evals(self) -> Any:
        """A DataFrame with a row an evaluation."""
        import pandas as pd

        return pd.DataFrame(self.eval_rows)

    @property
    def steps(self) -> list[int]:
        """The iterations whose rollouts are on disk."""
        names = (
            re.fullmatch(r"step-(\d{6,9})", path.stem) for path in (self.folder / "rollouts").glob("step-*.parquet")
        )
        return sorted(int(name[1]) for name in names if name)

    def rollouts(self, step: int | None = None) -> list[dict[str, Any]]:
        """The rollouts of one iteration, or of all, as plain dicts.

        Raises:
            UserError: for an iteration that is not recorded.
        """
        wanted = self.steps if step is None else [step]
        records = []
        for number in wanted:
            path = self.folder / "rollouts" / f"step-{number:06d}.parquet"
            if not path.exists():
                raise UserError(f"{self.folder} has no rollouts of step {number}: it has {_ranges(self.steps)}")
            records += _read_parquet(path)
        return records

    def _json(self, name: str, fault: Callable[[Any], str]) -> dict[str, Any]:
        try:
            found = checks.parse(read_small(self.folder / name).decode("utf-8"))
            reason = fault(found)
        except (OSError, ValueError) as error:
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if reason:
            raise UserError(f"{self.folder / name} cannot be read: {reason}")
        return found

    def lines(self, name: str, size: int | None = None) -> list[dict[str, Any]]:
        """The lines of a file, or of its first `size` bytes, as plain dicts. Raises UserError for a damaged one."""
        path = self.folder / name
        if not path.exists():
            return []
        # A last line without its newline was being written when the run was killed: it never happened.
        # As bytes: it may end within a character.
        try:
            whole = read_small(path, LONGEST)[:size].split(b"\n")[:-1]
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        kinds, rows = checks.ROW if name == "metrics.jsonl" else checks.EVAL, []
        for number, line in enumerate(whole, start=1):
            try:
                row = checks.parse(line.decode("utf-8"))
                reason = checks.fault(row, kinds, ("step",))
            except ValueError as error:  # UnicodeDecodeError is one
                reason = " ".join(str(error).split())
            if reason:
                raise UserError(f"{path} line {number} is damaged: {reason}")
            rows.append(_whole(row) if name == "metrics.jsonl" else row)
        return rows


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics with all keys: what the version that wrote it did not know is None; warnings are texts."""
    return dict.fromkeys(METRICS) | row | {"warnings": [str(warning) for warning in row.get("warnings") or []]}


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of one file, with every column that this version knows. Raises UserError where it does not fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = checks.columns()
    try:
        ordinary(path)
        file = pq.ParquetFile(path)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        if file.metadata.num_rows > MOST_ROWS or sum(group.total_byte_size for group in groups) > LONGEST:
            raise ValueError(f"it holds {file.metadata.num_rows} rows, more than an iteration's rollouts")
        table = file.read(columns=list(kinds))
        for name in table.column_names:
            if table.schema.field(name).type != arrow_type(kinds[name]):
                raise ValueError(f"column {name!r} is of type {table.schema.field(name).type}, not {kinds[name]}")
        records = [dict.fromkeys(kinds) | record for record in table.to_pylist()]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # Arrow's errors are OSErrors for damaged pages
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    for number, record in enumerate(records, 1):
        if reason := checks.rollout_fault(record):
            raise UserError(f"{path} row {number} is damaged: {reason}")
    return records


def _ranges(steps: Sequence[int]) -> str:
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}" if steps else "none"


def load_run(path: str | Path) -> RunRecord:
    """Open a run folder. Needs neither torch nor the model. Raises UserError where there is no run."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no run: there is no config.json in it")
    return RunRecord(folder)


def state_of(folder: Path) -> str:
    """How the run in a folder stands, in a few words."""
    try:
        status = RunRecord(folder).status
    except UserError:
        return "its status.json cannot be read"
    return f"{status['state']} at step {status['step']}"
