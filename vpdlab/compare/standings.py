"""The table and figure of a comparison, computed from its run folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vpdlab.errors import UserError
from vpdlab.record import RunRecord, load_run
from vpdlab.show.markup import in_markdown
from vpdlab.show.summary import training_seconds

if TYPE_CHECKING:
    from vpdlab.compare import Cell

WINDOW = 5  # final length and entropy are means over this many iterations
DRAWS = 2000  # bootstrap resamples


def summarise(cells: Sequence[Cell], level: float | None = None) -> list[dict[str, Any]]:
    """One plain dict per preset and method, from the run folders: means over seeds, with intervals.

    The intervals are percentile bootstraps over seeds and, within each, over held-out problems; with three seeds they
    carry little information about the spread over seeds. `difference` is that to the first method, `against`, on the
    same problems and seeds.

    Args:
        cells: the runs of the comparison, all complete.
        level: the accuracy whose cost in rollouts is reported; default: halfway from the start to the best final mean.
    """
    rows = []
    for preset in dict.fromkeys(cell.preset for cell in cells):
        groups: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.preset == preset:
                groups.setdefault(cell.label, []).append(cell)
        records = {label: [_finished(cell) for cell in group] for label, group in groups.items()}
        refuse_unlike(records)
        ends = {label: _finals(group) for label, group in records.items()}
        start = float(np.mean([r.eval_rows[0]["accuracy"] for group in records.values() for r in group]))
        goal = (start + max(end.mean() for end in ends.values())) / 2 if level is None else level
        first = next(iter(ends))
        for label, group in records.items():
            row = {"preset": preset, "method": label, "seeds": [cell.seed for cell in groups[label]], "start": start}
            row |= spread("final", ends[label]) | _course(group, goal)
            row["against"] = first
            row |= spread("difference", ends[label] - ends[first]) if label != first else {"difference": None}
            rows.append(row)
    return rows


def finals(cells: Sequence[Cell]) -> np.ndarray:
    """[seeds, problems] accuracy of the last evaluation of each run."""
    return _finals([_finished(cell) for cell in cells])


def final_beliefs(cells: Sequence[Cell], voice: str) -> np.ndarray:
    """[seeds] the teacher's belief in a voice at the last evaluation. Raises UserError where it was not measured."""
    found = []
    for cell in cells:
        probes = _finished(cell).eval_rows[-1].get("probes") or {}
        if probes.get(f"belief/{voice}") is None:
            raise UserError(f"{cell.folder / 'eval.jsonl'} has no probe belief/{voice} at the last evaluation")
        found.append(probes[f"belief/{voice}"])
    return np.array(found)


def _finals(records: Sequence[RunRecord]) -> np.ndarray:
    return np.array([record.eval_rows[-1]["by_problem"] for record in records])


def _finished(cell: Cell) -> RunRecord:
    """The record of a run to compare. Raises UserError if it is incomplete."""
    record = load_run(cell.folder)
    if not record.rows or not record.eval_rows:
        raise UserError(f"{cell.folder} has no iteration or no evaluation: remove it and run the comparison again")
    for row in record.eval_rows:
        shares = [row.get("accuracy", -1.0), *row.get("by_problem", [])]
        if len(shares) < 2 or not all(0.0 <= share <= 1.0 for share in shares):
            raise UserError(
                f"{cell.folder / 'eval.jsonl'}: accuracy or by_problem at step {row['step']} is missing or outside 0..1"
            )
    return record


def refuse_unlike(records: Mapping[str, Sequence[RunRecord]]) -> None:
    """Raises UserError for runs (label -> those of its seeds) that were not evaluated alike: all on as many problems,
    those of a seed on the same ones, those of a label after the same iterations."""
    for group in records.values():
        first = next(iter(records.values()))
        for record, same_seed in zip(group, first, strict=True):
            last, ids = record.eval_rows[-1], same_seed.eval_rows[-1].get("problem_ids")
            if len(last["by_problem"]) != len(first[0].eval_rows[-1]["by_problem"]):
                raise _unlike(record, "on another number of problems than", first[0])
            if ids and last.get("problem_ids", ids) != ids:
                raise _unlike(record, "on other problems than", same_seed)
            if [row["step"] for row in record.eval_rows] != [row["step"] for row in group[0].eval_rows]:
                raise _unlike(record, "after other iterations than", group[0])


def _unlike(record: RunRecord, how: str, other: RunRecord) -> UserError:
    return UserError(
        f"{record.folder / 'eval.jsonl'} was evaluated {how} {other.folder}: remove one of the two runs and run the"
        " comparison again"
    )


def spread(name: str, values: np.ndarray) -> dict[str, Any]:
    """Mean of `values` [seeds, problems] as `name`, its 95 % interval (`name_low`, `name_high`), and the mean of each
    seed (`name_seeds`)."""
    rng = np.random.default_rng(0)
    seeds, problems = values.shape
    means = [
        values[rng.integers(0, seeds, seeds)[:, None], rng.integers(0, problems, (seeds, problems))].mean()
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high),
        f"{name}_seeds": values.mean(1).tolist(),
    }  # fmt: skip


def _course(group: Sequence[RunRecord], goal: float) -> dict[str, Any]:
    """Best evaluation, rollouts to an accuracy of `goal`, final length and entropy; means over seeds."""

    def tail(record: RunRecord, key: str) -> float | None:
        values = [row[key] for row in record.rows[-WINDOW:] if row[key] is not None]
        return float(np.mean(values)) if values else None

    def mean(values: Sequence[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return float(np.mean(found)) if found else None

    reached = [_rollouts_to(record, goal) for record in group]
    return {
        "best": float(np.mean([max(e["accuracy"] for e in record.eval_rows) for record in group])),
        "level": goal,
        "rollouts_to_level": mean(reached) if None not in reached else None,
        "reached": sum(value is not None for value in reached),
        "length": mean([tail(record, "length") for record in group]),
        "entropy": mean([tail(record, "entropy") for record in group]),
        "rollouts": int(np.mean([rollouts_at(record, record.rows[-1]["step"]) for record in group])),
        "seconds": mean([training_seconds(record.rows) for record in group]),
    }


def rollouts_at(record: RunRecord, step: int) -> int:
    """Responses sampled up to a step, the teacher's own included."""
    own = sum(row["teacher_rollouts"] or 0 for row in record.rows if row["step"] <= step)
    return step * record.config["prompts"] * record.config["group"] + own


def _rollouts_to(record: RunRecord, goal: float) -> int | None:
    """Rollouts up to the first evaluation at or above `goal`; None if there is none."""
    steps = [e["step"] for e in record.eval_rows if e["accuracy"] >= goal]
    return rollouts_at(record, steps[0]) if steps else None


def curves(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Learning curves for `plots.compare_figure`: plain dicts with preset, method, seed, rollouts, seconds (of training
    up to each evaluation) and accuracy."""
    found = []
    for cell in cells:
        record = load_run(cell.folder)
        evals = record.eval_rows
        found.append(
            {
                "preset": cell.preset, "method": cell.label, "seed": cell.seed,
                "rollouts": [rollouts_at(record, e["step"]) for e in evals],
                "seconds": [training_seconds(record.rows[: e["step"]]) for e in evals],
                "accuracy": [e["accuracy"] for e in evals],
            }
        )  # fmt: skip
    return found


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `summarise` as Markdown tables, one per preset."""

    def percent(row: Mapping[str, Any], name: str, sign: str = "") -> str:
        return (
            f"{100 * row[name]:{sign}.1f} [{100 * row[f'{name}_low']:{sign}.1f}, {100 * row[f'{name}_high']:{sign}.1f}]"
        )

    lines = []
    for preset in dict.fromkeys(row["preset"] for row in rows):
        mine = [row for row in rows if row["preset"] == preset]
        first, counts = mine[0], sorted({row["rollouts"] for row in mine})  # a teacher may sample as many again
        sampled = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        lines += [
            f"### {in_markdown(preset).strip('`')}",
            "",
            f"Starting from {100 * first['start']:.1f} %; {len(first['seeds'])}"
            f" seed{'s' * (len(first['seeds']) > 1)} of {sampled} rollouts; held-out accuracy in percent,"
            " [95 % interval over seeds and problems].",
            "",
            f"| method | final | seeds | against {in_markdown(first['method']).strip('`')} | best |"
            f" rollouts to {100 * first['level']:.0f} % | length | entropy | seconds |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in mine:
            seeds = ", ".join(f"{100 * value:.1f}" for value in row["final_seeds"])
            difference = "" if row["difference"] is None else percent(row, "difference", "+")
            count = len(row["seeds"])
            to_level = (
                f"{row['rollouts_to_level']:,.0f}" if row["reached"] == count else f"{row['reached']} of {count} seeds"
            )
            entropy = "-" if row["entropy"] is None else f"{row['entropy']:.3f}"
            name = in_markdown(row["method"])
            lines.append(
                f"| {name} | {percent(row, 'final')} | {seeds} | {difference} | {100 * row['best']:.1f} |"
                f" {to_level} | {row['length']:.1f} | {entropy} | {row['seconds']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)
