"""The lines of a paper's figure from run folders: means over seeds, with 95 % intervals.

from vpdlab.compare import paper
from vpdlab.show.plots import paper_figure

runs = {"": {"vpd": [load_run("runs/a"), load_run("runs/b")], "sdpo": [load_run("runs/c")]}}
paper_figure(paper.lines(runs, ["accuracy", "margin"])).save("figure.pdf")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vpdlab.compare.standings import DRAWS, rollouts_at, spread
from vpdlab.errors import UserError
from vpdlab.record import METRICS, RunRecord, load_run
from vpdlab.show.summary import training_seconds

if TYPE_CHECKING:
    from vpdlab.compare import Cell

NUMBERS = tuple(name for name in METRICS if name not in ("step", "notes", "warnings"))
OVER = ("rollouts", "iterations", "seconds")
Runs = Mapping[str, Mapping[str, Sequence[RunRecord]]]
"""Condition -> method -> its runs, one a seed."""


def runs_of(cells: Sequence[Cell]) -> dict[str, dict[str, list[RunRecord]]]:
    """The runs of a comparison, as `lines` takes them."""
    found: dict[str, dict[str, list[RunRecord]]] = {}
    for cell in cells:
        found.setdefault(cell.preset, {}).setdefault(cell.label, []).append(load_run(cell.folder))
    return found


def lines(runs: Runs, measures: Sequence[str] = ("accuracy",), over: str = "rollouts", window: int = 1) -> list[dict]:
    """Plain dicts for `plots.paper_figure`: a line for each measure, condition and method that has numbers.

    The interval of the accuracy is a percentile bootstrap over seeds and, within each, over held-out problems, as in a
    comparison's table; that of any other measure is over seeds alone, and there is none with a single seed.

    Args:
        runs: condition -> method -> its runs. With a single condition its name is not drawn.
        measures: "accuracy" (held-out), and keys of metrics.jsonl such as "margin".
        over: the x axis: rollouts (the teacher's own included), iterations, or seconds of training; means over seeds.
        window: iterations that a metric is averaged over, up to its own.

    Raises:
        UserError: for an unknown measure or axis, or runs of one method that have no iteration in common.
    """
    check(measures, over)
    found = []
    for measure in measures:
        for panel, methods in runs.items():
            for name, records in methods.items():
                line = _line(records, measure, over, window, name)
                if any(value is not None for value in line["mean"]):
                    found.append({"panel": panel, "name": name, "measure": measure, "over": over} | line)
    return found


def check(measures: Sequence[str], over: str) -> None:
    """Raises UserError for a measure or an axis that `lines` does not know."""
    if over not in OVER:
        raise UserError(f"a paper's figure has no axis {over!r}: choose one of {', '.join(OVER)}")
    for measure in measures:
        if measure not in ("accuracy", *NUMBERS):
            raise UserError(f"there is no measure {measure!r}: choose accuracy or a metric, such as margin or kl")


def _line(records: Sequence[RunRecord], measure: str, over: str, window: int, name: str) -> dict[str, Any]:
    """x, mean, low and high of one line."""
    tables = [_by_step(record, measure, window) for record in records]
    steps = sorted(set(tables[0]).intersection(*tables[1:]))
    if not steps:
        raise UserError(
            f"the runs of {name} have no {'evaluation' if measure == 'accuracy' else 'iteration'} in common"
        )
    x = [float(np.mean([_place(record, step, over) for record in records])) for step in steps]
    if measure == "accuracy":
        bands = [spread("value", np.array([table[step] for table in tables])) for step in steps]
        keys = {"mean": "value", "low": "value_low", "high": "value_high"}
        return {"x": x} | {end: [band[key] for band in bands] for end, key in keys.items()}
    values = np.array([[table[step] for step in steps] for table in tables], dtype=float)  # [seeds, steps]; None is NaN
    return {"x": x} | _over_seeds(values)


def _by_step(record: RunRecord, measure: str, window: int) -> dict[int, Any]:
    """Step -> the accuracies of all problems, or the metric's mean over the window (None where it has no number)."""
    if measure == "accuracy":
        return {row["step"]: row["by_problem"] for row in record.eval_rows}
    values = [row[measure] for row in record.rows]
    return {row["step"]: _mean(values[max(0, i + 1 - window) : i + 1]) for i, row in enumerate(record.rows)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _place(record: RunRecord, step: int, over: str) -> float:
    if over == "iterations":
        return step
    return rollouts_at(record, step) if over == "rollouts" else training_seconds(record.rows[:step])


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
    """Mean and interval at each step of [seeds, steps]; a step that some seeds lack has those of the others."""
    seeds = len(values)
    drawn = np.random.default_rng(0).integers(0, seeds, (DRAWS, seeds))
    columns: dict[str, list[float | None]] = {"mean": [], "low": [], "high": []}
    for column in values.T:
        known = column[~np.isnan(column)]
        columns["mean"].append(float(known.mean()) if len(known) else None)
        means = column[drawn]
        means = means[~np.isnan(means).all(1)]
        ends = np.quantile(np.nanmean(means, axis=1), [0.025, 0.975]) if len(known) else (None, None)
        columns["low"].append(None if ends[0] is None else float(ends[0]))
        columns["high"].append(None if ends[1] is None else float(ends[1]))
    return columns if seeds > 1 else columns | {"low": None, "high": None}
