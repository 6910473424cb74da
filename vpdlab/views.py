"""Records as plain dicts for widgets and plots. No torch, no model: what a run folder holds is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def eval_points(evals: Sequence[Row]) -> list[dict[str, Any]]:
    """Held-out accuracy as the timeline wants it: step, accuracy, low, high."""
    return [
        {"step": e["step"], "accuracy": e["accuracy"], "low": e["accuracy_low"], "high": e["accuracy_high"]}
        for e in evals
    ]


def gain(evals: Sequence[Row]) -> dict[str, Any] | None:
    """Held-out accuracy before and after, and the best in between; None before there are two evaluations."""
    if len(evals) < 2:
        return None
    start, final = eval_points(evals[:1])[0], eval_points(evals[-1:])[0]
    best = max(eval_points(evals), key=lambda e: e["accuracy"])
    return {"start": start, "final": final, "best": best, "points": 100 * (final["accuracy"] - start["accuracy"])}


def measured(value: float, low: float, high: float) -> str:
    """A share with its interval, in percent.

    >>> measured(0.5, 0.45, 0.551)
    '50.0 % [45.0, 55.1]'
    """
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def conclusion(evals: Sequence[Row]) -> str:
    """What the evaluations say, in words."""
    found = gain(evals)
    if found is None:
        return "no held-out evaluation before and after"
    words = {name: measured(e["accuracy"], e["low"], e["high"]) for name, e in found.items() if name != "points"}
    return (
        f"held-out accuracy {words['start']} before, {words['final']} after ({found['points']:+.1f} points);"
        f" best {words['best']} at step {found['best']['step']}"
    )


def progress_line(row: Row, steps: int) -> str:
    """One iteration in one line; what does not exist is a dash."""

    def show(name: str, form: str) -> str:
        text = "-" if row[name] is None else format(row[name], form)
        return text.rjust(len(format(0.0, form)))

    seconds = sum(row[f"seconds_{phase}"] for phase in ("rollout", "feedback", "e", "m"))
    return (
        f"step {row['step']:>{len(str(steps))}}/{steps}  success {show('success_rate', '.2f')}"
        f"  kl {show('kl', '.3f')}  margin {show('margin', '+.2f')}  entropy {show('entropy', '.3f')}"
        f"  length {row['length']:5.1f}  {'E+M' if row['e_loss'] is not None else '  M'}  {seconds:.1f} s"
    )


def fresh_warnings(row: Row, seen: set[str]) -> list[str]:
    """The diagnoses of an iteration whose names were not seen before; adds them to `seen`."""
    fresh = [warning for warning in row["warnings"] if warning.partition(":")[0] not in seen]
    seen.update(warning.partition(":")[0] for warning in fresh)
    return [f"warning, step {row['step']}: {warning}" for warning in fresh]


def rollout_table(records: Sequence[Row]) -> list[dict[str, Any]]:
    """What was asked, answered and said, one plain dict a rollout: the columns that a person reads first."""
    return [
        {
            "step": r["step"],
            "problem": r["prompt"],
            "response": r["text"],
            "right": r["success"],
            "feedback": r["critique"] or r["demonstration"] or f"({r['reason']})",
            "implicit reward": r["implicit_reward"],
        }
        for r in records
    ]
