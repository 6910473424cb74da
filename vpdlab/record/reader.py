"""Read a run folder lazily and without torch.

Files may be damaged or somebody else's: a fault is a UserError that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpdlab.config import RunConfig
from vpdlab.errors import UserError, reason
from vpdlab.files import read_small
from vpdlab.paths import user_path
from vpdlab.record import changes, checks, influence, rollouts
from vpdlab.record.changes import EVENTS, Change, Origin
from vpdlab.record.influence import INFLUENCE
from vpdlab.record.schema import FOLLOWED, LINES, METRICS, ROLLOUTS, SCHEMA, arrow_type, columns, flat, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST = 1 << 30  # bytes of a file of lines


@dataclass(frozen=True)
class RunRecord:
    """A recorded run, read lazily.

    `metrics` and `evals` are pandas DataFrames, `rollouts()` gives plain dicts, `columns()` an Arrow table.
    """

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config.json", checks.config_fault)

    def settings(self) -> RunConfig:
        """The recorded settings as a RunConfig. Raises UserError for one that this version does not know."""
        place = self.folder / "config.json"
        if wrong := checks.fault(self.config, {}, checks.NEEDED[place.name]):
            raise UserError(f"{place} cannot be used: {wrong}")
        try:
            return RunConfig.make(**self.config)
        except UserError as error:
            raise UserError(f"{place} cannot be used: {error}") from error

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json", lambda found: checks.fault(found, _ENVIRONMENT))

    @property
    def origin(self) -> Origin | None:
        """The run that this one is a branch of, and where it left it; None for any other run."""
        there = (self.folder / "environment.json").exists()  # an incomplete copy of a run may lack it
        return changes.origin_of(self.environment.get("origin")) if there else None

    @property
    def changes(self) -> list[Change]:
        """Settings that were changed while the run went on, in order; of a branch also those before and at its fork.

        `config` holds what the run began with, a branch at its fork; `config_at` what an iteration ran with.
        """
        before = self.origin.changes if self.origin is not None else ()
        return [*before, *self.own_changes()]

    def own_changes(self, upto: int | None = None) -> list[Change]:
        """The lines of events.jsonl; with `upto` those of changes up to that step."""
        found = changes.parse(self.lines(EVENTS))
        return [change for change in found if upto is None or change.step <= upto]

    def config_at(self, step: int) -> dict[str, Any]:
        """The settings that iteration `step` ran with: `config` with the changes before it.

        >>> record.config_at(13)["lr"]  # doctest: +SKIP
        """
        found = dict(self.config)
        before = self.origin.changes if self.origin is not None else ()
        for change in reversed(before):  # of a branch, config.json is what it began with at its fork
            if change.step >= step:
                found[change.setting] = change.was
        return found | {change.setting: change.now for change in self.own_changes(step - 1)}

    @property
    def status(self) -> dict[str, Any]:
        """state, reason, step, started, updated, pid; read again each time."""
        return self._json("status.json", lambda found: checks.fault(found, checks.STATUS, ("state", "step")))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl as plain dicts; keys that an older version did not write are None."""
        return self.lines("metrics.jsonl")

    @property
    def eval_rows(self) -> list[dict[str, Any]]:
        """The lines of eval.jsonl as plain dicts."""
        return self.lines("eval.jsonl")

    def check(self) -> RunRecord:
        """Validate every small file of the record; returns the record itself.

        Raises:
            UserError: for a file that is damaged, or lacks a field that reports need.
        """
        places = [
            (name, "", getattr(self, Path(name).stem)) for name in ("config.json", "environment.json", "status.json")
        ]
        places += [("eval.jsonl", f" line {number}", row) for number, row in enumerate(self.eval_rows, 1)]
        for name, line, value in places:
            if wrong := checks.fault(value, {}, checks.NEEDED[name]):
                raise UserError(f"{self.folder / name}{line} cannot be read: {wrong}")
        self.rows  # noqa: B018 (reads every line)
        return self

    @property
    def betas(self) -> dict[int, float | None]:
        """The beta of each iteration; with `kl_target` it differs from the config's."""
        return {row["step"]: row["beta"] for row in self.rows}

    @property
    def metrics(self) -> Any:
        """A DataFrame with one row per iteration."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(METRICS))

    @property
    def evals(self) -> Any:
        """A DataFrame with a row an evaluation; each probe of the task has a column, as "probes/belief/Ada"."""
        import pandas as pd

        return pd.DataFrame([flat(row) for row in self.eval_rows])

    @property
    def has_steps(self) -> bool:
        """Whether its rollouts belong to iterations; the `step` of others (scored, or imported without one) is 1."""
        kind = kind_of(self.config)
        return kind == "trained" or (kind == "imported" and self.environment.get("has_steps", True))

    @property
    def steps(self) -> list[int]:
        """Iterations whose rollouts are on disk."""
        return list(rollouts.index(self.folder / ROLLOUTS))

    def rollouts(self, step: int | None = None) -> list[dict[str, Any]]:
        """The rollouts of one iteration, or of all, as plain dicts; without `has_steps`, each with `has_step` False.

        Raises:
            UserError: for an iteration that is not recorded, or a damaged file.
        """
        found = self._records(ROLLOUTS, None if step is None else [step])
        return found if self.has_steps else [record | {"has_step": False} for record in found]

    @property
    def followed_steps(self) -> list[int]:
        """The numbers of iterations after which followed responses were scored."""
        return list(rollouts.index(self.folder / FOLLOWED))

    def followed(self, steps: int | Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The followed responses, as rollouts whose `step` is the number of iterations done when they were scored.

        Args:
            steps: the points to read, one or several in ascending order; None: all of them.

        Raises:
            UserError: they were not scored there, or a file is damaged.
        """
        return self._records(FOLLOWED, [steps] if isinstance(steps, int) else steps)

    def followed_numbers(self) -> dict[int, set[int]]:
        """Number of iterations -> the responses, by `group`, that were scored then; far faster than `followed`."""
        found: dict[int, set[int]] = {}
        for _, table in rollouts.read(self.folder / FOLLOWED, None, ["step", "group"]):
            for row in table.to_pylist():
                found.setdefault(row["step"], set()).add(row["group"])
        return found

    def _records(self, folder: str, steps: Sequence[int] | None) -> list[dict[str, Any]]:
        records = []
        for part, table in rollouts.read(self.folder / folder, steps, list(columns())):
            for number, record in enumerate(table.to_pylist(), 1):
                if wrong := checks.rollout_fault(record):
                    raise UserError(f"{part.path} step {record['step']} row {number} is damaged: {wrong}")
                records.append(record)
        return records

    def columns(self, names: Sequence[str], steps: Sequence[int] | None = None) -> pa.Table:
        """Some columns of all rollouts, in order: far faster than `rollouts()`.

        Args:
            names: of the columns.
            steps: iterations in ascending order; None for all.

        Returns:
            An Arrow table; use `.to_pandas()` for a DataFrame, `.to_pylist()` for plain dicts. Columns that an older
            version did not record are null.

        Raises:
            UserError: for an unknown column, an iteration that is not recorded, or a damaged file.
        """
        import pyarrow as pa

        for name in names:
            if name not in columns():
                raise UserError(f"rollouts have no column {name!r}: choose from {', '.join(columns())}")
        empty = pa.schema([(name, arrow_type(columns()[name])) for name in names]).empty_table()
        found = rollouts.read(self.folder / ROLLOUTS, steps, names)
        return pa.concat_tables([empty, *(table for _, table in found)])

    @property
    def influences(self) -> list[dict[str, Any]]:
        """Of some rollouts that were scored: step, group, index, and `influence` for `CritiqueInfluence`."""
        return self.lines(INFLUENCE)

    def _json(self, name: str, fault: Callable[[Any], str]) -> dict[str, Any]:
        try:
            found = checks.parse(read_small(self.folder / name).decode("utf-8"))
            wrong = fault(found)
        except (OSError, ValueError) as error:
            wrong = reason(error)
        if wrong:
            raise UserError(f"{self.folder / name} cannot be read: {wrong}")
        return found

    def lines(self, name: str, size: int | None = None) -> list[dict[str, Any]]:
        """The lines of a file, or of its first `size` bytes, as plain dicts. Raises UserError for a damaged line."""
        path = self.folder / name
        if not path.exists():
            return []
        # A last line without a newline was cut off by a kill and does not count. Split as bytes: the cut may lie within
        # a character.
        try:
            whole = read_small(path, LONGEST)[:size].split(b"\n")[:-1]
        except OSError as error:
            raise UserError(f"{path} cannot be read: {reason(error)}") from error
        fault, rows = _FAULTS[name], []
        for number, line in enumerate(whole, start=1):
            try:
                row = checks.parse(line.decode("utf-8"))
                wrong = fault(row)
            except ValueError as error:  # UnicodeDecodeError is one
                wrong = reason(error)
            if not wrong and name in LINES and rows and row["step"] <= rows[-1]["step"]:
                wrong = f"step {row['step']} stands after step {rows[-1]['step']}"
            if wrong:
                raise UserError(f"{path} line {number} is damaged: {wrong}")
            rows.append(_whole(row) if name == "metrics.jsonl" else row)
        return rows


_ENVIRONMENT = checks.ENVIRONMENT | {"origin": changes.is_origin}
_FAULTS: dict[str, Callable[[Any], str]] = {
    "metrics.jsonl": lambda row: checks.fault(row, checks.ROW, ("step",)), "eval.jsonl": checks.evaluation_fault,
    EVENTS: changes.fault, INFLUENCE: influence.fault,
}  # fmt: skip


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics with all keys of this version (None if not recorded), and warnings as strings."""
    return dict.fromkeys(METRICS) | row | {"warnings": [str(warning) for warning in row.get("warnings") or []]}


def load_run(path: str | Path) -> RunRecord:
    """Open a run folder. Needs neither torch nor the model.

    Raises:
        UserError: if there is no run, or a newer version recorded it.
    """
    folder = user_path("the run", path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no run: there is no config.json in it")
    refuse_newer(folder)
    return RunRecord(folder)


def refuse_newer(folder: Path) -> None:
    """Raises UserError for a run whose schema is newer than this version reads."""
    try:
        schema = RunRecord(folder).environment.get("schema", 1)
    except UserError:
        return  # missing or damaged: an error only for callers that need its content
    if schema > SCHEMA:
        raise UserError(
            f"{folder} was recorded by a newer vpdlab (schema {schema}, this version reads up to {SCHEMA}):"
            " upgrade vpdlab to open it"
        )


def state_of(folder: Path) -> str:
    """The state of the run in a folder, for messages."""
    try:
        status = RunRecord(folder).status
    except UserError:
        return "its status.json cannot be read"
    return f"{status['state']} at step {status['step']}"
