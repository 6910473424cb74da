"""Records as plain dicts for widgets and plots. No torch, no model: what a run folder holds is enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import RunRecord, load_run

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


def eval_lines(row: Row) -> list[str]:
    """An evaluation in words, a line a measure."""
    names = {"accuracy": f"avg@{row['k']}", "pass_at_k": f"pass@{row['k']}", "maj_at_k": f"maj@{row['k']}"}
    lines = [
        f"{words:8} {measured(row[name], row[f'{name}_low'], row[f'{name}_high'])}" for name, words in names.items()
    ]
    return [*lines, f"over {drawn(row)}; {row['length']:.1f} tokens a response"]


def drawn(row: Row) -> str:
    """Which problems an evaluation, and its intervals, speak of.

    >>> drawn({"problems": 128, "held_out": 872}), drawn({"problems": 20, "held_out": 20}), drawn({"problems": 20})
    ('128 of 872 held-out problems, drawn by eval_seed', 'all 20 held-out problems', '20 problems')
    """
    count, there = row["problems"], row.get("held_out")
    if there is None:  # recorded before evaluations drew their problems
        return f"{count} problems"
    return (
        f"all {count} held-out problems"
        if count == there
        else f"{count} of {there} held-out problems, drawn by eval_seed"
    )


def conclusion(evals: Sequence[Row]) -> str:
    """What the evaluations say, in words."""
    found = gain(evals)
    if found is None:
        return "no held-out evaluation before and after"
    words = {name: measured(e["accuracy"], e["low"], e["high"]) for name, e in found.items() if name != "points"}
    part = f"; on {drawn(evals[-1])}" if evals[-1].get("held_out", 0) > evals[-1].get("problems", 0) else ""
    return (
        f"held-out accuracy {words['start']} before, {words['final']} after ({found['points']:+.1f} points);"
        f" best {words['best']} at step {found['best']['step']}{part}"
    )


def training_seconds(rows: Iterable[Row]) -> float:
    """Seconds that iterations took, all phases together; evaluations are apart."""
    return sum(row[f"seconds_{phase}"] for row in rows for phase in ("rollout", "feedback", "e", "m"))


def progress_line(row: Row, steps: int) -> str:
    """One iteration in one line; what does not exist is a dash."""

    def show(name: str, form: str) -> str:
        text = "-" if row[name] is None else format(row[name], form)
        return text.rjust(len(format(0.0, form)))

    phases, seconds = "E+M" if row["e_loss"] is not None else "  M", training_seconds([row])
    return (
        f"step {row['step']:>{len(str(steps))}}/{steps}  success {show('success_rate', '.2f')}"
        f"  kl {show('kl', '.3f')}  margin {show('margin', '+.2f')}  entropy {show('entropy', '.3f')}"
        f"  length {row['length']:5.1f}  {phases}  {seconds:.1f} s"
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
    beta: float | Mapping[int, float | None] | None = None,
    weights: Mapping[str, Sequence[Sequence[float] | None]] | None = None,
) -> list[dict[str, Any]]:
    """Rollouts as `vpdlab_widgets.TokenLens` wants them, in the order given: item i is record i.

    Args:
        records: rollouts of a run, of one iteration or of several (`load_run(folder).rollouts(5)`).
        beta: for each token's part in the implicit reward: a number, or that of each step (`RunRecord.betas`), which
            differs from the config's where `kl_target` moves it; None leaves that out.
        weights: further numbers a token, by name: for each record a list as long as its response, or None.
    """
    items = []
    for place, record in enumerate(records):
        own = beta.get(record["step"]) if isinstance(beta, Mapping) else beta
        item = {name: record.get(name) for name in _LENS_FIELDS} | {"beta": own}
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


# -- a whole run, looked back at -------------------------------------------------------------------------------


def newest_run(*places: str | Path) -> Path | None:
    """The folder of the newest complete run that lies in one of these folders, or one level below; None without any."""
    found = []
    for status in (
        path for place in places for depth in ("*", "*/*") for path in Path(place).glob(f"{depth}/status.json")
    ):
        try:
            run = load_run(status.parent)
            if run.status["state"] == "complete" and run.steps:
                found.append((status.stat().st_mtime, run.folder))
        except (UserError, KeyError, OSError):
            continue  # half a run, or none of ours
    return max(found)[1] if found else None


def changed_settings(config: Row) -> list[dict[str, Any]]:
    """The settings of a run that are not the defaults: setting, this run, default. Its place on disk is none."""
    defaults = RunConfig().to_dict()
    return [
        {"setting": name, "this run": _words(value), "default": _words(defaults.get(name))}
        for name, value in config.items()
        if value != defaults.get(name) and name not in ("out", "resume", "resume_anyway")
    ]


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "(none)"
    return "(none)" if value in ("", None) else str(value)


def columns(run: RunRecord, names: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of all recorded rollouts as plain dicts (`RunRecord.columns`)."""
    return run.columns(names).to_pylist()


def tally(rows: Iterable[Row], kind: str) -> list[dict[str, Any]]:
    """How often each value of a column stands in some rollouts, the most frequent first, and how many were right."""
    groups: dict[str, list[Row]] = {}
    total = 0
    for row in rows:
        total += 1
        if row[kind] not in (None, "", False):
            groups.setdefault("yes" if row[kind] is True else str(row[kind]), []).append(row)
    return [
        {
            kind: value,
            "rollouts": len(members),
            "share": f"{100 * len(members) / total:.1f} %",
            "right": f"{100 * sum(bool(row['success']) for row in members) / len(members):.1f} %",
        }
        for value, members in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def phase_times(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where the time of a run went: seconds, share, and tokens a second in each phase that took any."""
    phases = {"rollout": "rollout", "feedback": "feedback", "e": "E-step", "m": "M-step"}
    seconds = {key: sum(row.get(f"seconds_{key}") or 0.0 for row in rows) for key in phases}
    whole = sum(seconds.values()) or 1.0
    found = []
    for key, name in phases.items():
        tokens = sum(row.get(f"tokens_{key}") or 0 for row in rows)
        speed = f"{tokens / seconds[key]:,.0f}" if tokens and seconds[key] else "–"
        line = {"phase": name, "seconds": f"{seconds[key]:.1f}", "share": f"{100 * seconds[key] / whole:.0f} %"}
        found.append(line | {"tokens": f"{tokens:,}" if tokens else "–", "tokens a second": speed})
    return [line for line, took in zip(found, seconds.values(), strict=True) if took]


def warning_spans(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each kind of warning once: how often it came, from which iteration to which, and what it said the last time."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for warning in row.get("warnings") or ():
            name, _, words = warning.partition(":")
            one = found.setdefault(name, {"warning": name, "iterations": 0, "first": row["step"]})
            one |= {"iterations": one["iterations"] + 1, "last": row["step"], "the last time": words.strip()}
    return list(found.values())


def drift(rows: Sequence[Row], keys: Sequence[str], window: int = 5) -> list[dict[str, Any]]:
    """Where some metrics went: the mean of the first iterations and of the last ones (a third of the run at most).

    A metric that no row has is left out.
    """
    window = max(1, min(window, len(rows) // 3))
    found = []
    for key in (key for key in keys if any(row.get(key) is not None for row in rows)):
        ends = [[row[key] for row in part if row.get(key) is not None] for part in (rows[:window], rows[-window:])]
        first, last = (sum(values) / len(values) if values else None for values in ends)
        change = f"{last - first:+.3g}" if first is not None and last is not None else "–"
        shown = ["–" if value is None else f"{value:.3g}" for value in (first, last)]
        found.append({"metric": key, f"first {window}": shown[0], f"last {window}": shown[1], "change": change})
    return found
