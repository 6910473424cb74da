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


# -- for the widgets -------------------------------------------------------------------------------------------

_TOKEN_NUMBERS = ("student_logp", "teacher_logp", "kl", "divergence", "student_entropy", "teacher_entropy")
_LENS_FIELDS = (
    "step", "problem_id", "group", "index", "prompt", "text", "success", "reward", "finished", "source", "reason",
    "critique", "demonstration", "truncated", "implicit_reward", "tokens", *_TOKEN_NUMBERS, "student_top",
    "student_top_logp", "teacher_top", "teacher_top_logp", "student_context", "teacher_context",
)  # fmt: skip


def lens_records(
    records: Sequence[Row],
    beta: float | None = None,
    weights: Mapping[str, Sequence[Sequence[float] | None]] | None = None,
) -> list[dict[str, Any]]:
    """Rollouts as `vpdlab_widgets.TokenLens` wants them, in the order given: item i is record i.

    Args:
        records: rollouts of a run, of one iteration or of several (`load_run(folder).rollouts(5)`).
        beta: of the run's config, for each token's part in the implicit reward; None leaves that out.
        weights: further numbers a token, by name: for each record a list as long as its response, or None.
    """
    items = []
    for place, record in enumerate(records):
        item = {name: record.get(name) for name in _LENS_FIELDS} | {"beta": beta}
        for side in ("student", "teacher"):
            item[f"{side}_rank"] = token_ranks(record.get("response_ids"), record.get(f"{side}_top_ids"))
        item["weights"] = {name: lists[place] for name, lists in (weights or {}).items()}
        items.append(item)
    return items


def token_ranks(tokens: Sequence[int] | None, top_ids: Sequence[Sequence[int]] | None) -> list[int | None] | None:
    """Place of each token in its list of likeliest tokens, from 1; None for one that is not in the list.

    >>> token_ranks([7, 9], [[7, 8], [7, 8]])
    [1, None]
    """
    if tokens is None or top_ids is None:
        return None
    places = [{id: rank for rank, id in enumerate(ids, start=1)} for ids in top_ids]
    return [ranks.get(token) for token, ranks in zip(tokens, places, strict=True)]


def rollout_rows(records: Sequence[Row]) -> list[dict[str, Any]]:
    """Rollouts as `vpdlab_widgets.RolloutTable` wants them, in the order given: row i is record i.

    `kl` is the mean over the response's tokens in nats, null outside the recorded subset; `implicit_reward` is null
    where the rollout has no signal.
    """
    return [
        {
            **{name: record.get(name) for name in _ROW_FIELDS},
            "length": len(record["response_ids"]),
            "kl": sum(record["kl"]) / len(record["kl"]) if record.get("kl") else None,
            "recorded": record.get("tokens") is not None,
        }
        for record in records
    ]


_ROW_FIELDS = (
    "step", "problem_id", "group", "index", "prompt", "text", "success", "reward", "finished", "parsed", "answer",
    "source", "signal", "reason", "critique", "demonstration", "truncated", "implicit_reward",
)  # fmt: skip


def compared_runs(runs: Sequence[Any], labels: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Recorded runs as `vpdlab_widgets.RunCompare` wants them.

    Args:
        runs: what `load_run` returns.
        labels: what each run is an instance of; runs with one label are seeds of one another. Default: their method.
    """
    return [
        {
            "name": run.folder.name,
            "method": labels[place] if labels else run.config["method"],
            "seed": run.config["seed"],
            "rollouts_per_step": run.config["prompts"] * run.config["group"],
            "rows": [{name: row.get(name) for name in _COMPARED} for row in run.rows],
            "evals": [{"step": e["step"], "accuracy": e["accuracy"]} for e in run.eval_rows],
        }
        for place, run in enumerate(runs)
    ]


_COMPARED = (
    "step", "success_rate", "margin", "kl", "kl_teacher", "entropy", "length", "signal_share", "tokens_rollout",
    "seconds_rollout", "seconds_feedback", "seconds_e", "seconds_m",
)  # fmt: skip
