"""Runs summarised for a person: lines of text and rows of tables. A run folder suffices: no torch and no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab.config import RunConfig
from vpdlab.errors import HANDED_IN, UserError, part_name
from vpdlab.record import RunRecord, kind_of, load_run
from vpdlab.show.widget_data import eval_points
from vpdlab.types import conversation

Row = Mapping[str, Any]


def gain(evals: Sequence[Row]) -> dict[str, Any] | None:
    """Held-out accuracy at the first, last and best evaluation, and the gain in points; None for fewer than two."""
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
    """An evaluation as text, one line per measure."""
    names = {"accuracy": f"avg@{row['k']}", "pass_at_k": f"pass@{row['k']}", "maj_at_k": f"maj@{row['k']}"}
    lines = [
        f"{label:8} {measured(row[name], row[f'{name}_low'], row[f'{name}_high'])}" for name, label in names.items()
    ]
    return [*lines, f"over {drawn(row)}; {row['length']:.1f} tokens per response"]


def drawn(row: Row) -> str:
    """Which problems an evaluation and its intervals refer to.

    >>> drawn({"problems": 128, "held_out": 872}), drawn({"problems": 20, "held_out": 20}), drawn({"problems": 20})
    ('128 of 872 held-out problems, drawn by eval_seed', 'all 20 held-out problems', '20 problems')
    """
    count, held_out = row["problems"], row.get("held_out")
    if held_out is None:  # recorded before evaluations drew their problems
        return f"{count} problems"
    if count == held_out:
        return f"all {count} held-out problems"
    return f"{count} of {held_out} held-out problems, drawn by eval_seed"


def scored_lines(records: Sequence[Row]) -> list[str]:
    """Rollouts that were scored, as text: how likely each side finds them, and how far the two are apart."""
    heard = [record for record in records if record.get("teacher_sum") is not None]
    tokens = sum(len(record["response_ids"]) for record in records)
    lines = [f"{len(records)} rollout{'s' * (len(records) != 1)}, {tokens} tokens, {len(heard)} with feedback"]
    if heard:
        kl = [value for record in heard for value in record.get("kl") or () if value is not None]
        spoken = sum(len(record["response_ids"]) for record in heard)
        sides = {side: sum(record[f"{side}_sum"] for record in heard) / spoken for side in ("student", "teacher")}
        lines.append(
            f"with feedback, per token: student {sides['student']:.3f}, teacher {sides['teacher']:.3f}"
            + (f", KL {sum(kl) / len(kl):.3f} nats" if kl else "")
        )
    return lines


def span(steps: Sequence[int]) -> str:
    """Ascending steps in words.

    >>> span([10, 20, 30]), span([3])
    ('steps 10 to 30', 'step 3')
    """
    return f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"


def title_of(run: RunRecord, steps: Sequence[int]) -> str:
    """What the rollouts of some iterations are called above a widget: "iterations 3, 4"."""
    if not run.has_steps:
        return "rollouts"
    return f"iteration{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"


def conclusion(evals: Sequence[Row]) -> str:
    """The evaluations of a run in one sentence."""
    found = gain(evals)
    if found is None:
        return "no held-out evaluation before and after"
    text = {name: measured(e["accuracy"], e["low"], e["high"]) for name, e in found.items() if name != "points"}
    part = f"; on {drawn(evals[-1])}" if evals[-1].get("held_out", 0) > evals[-1].get("problems", 0) else ""
    return (
        f"held-out accuracy {text['start']} before, {text['final']} after ({found['points']:+.1f} points);"
        f" best {text['best']} at iteration {found['best']['step']}{part}"
    )


def training_seconds(rows: Iterable[Row]) -> float:
    """Total seconds of all phases of these iterations, evaluations excluded."""
    return sum(row[f"seconds_{phase}"] for row in rows for phase in ("rollout", "feedback", "e", "m"))


def progress_line(row: Row, steps: int) -> str:
    """One iteration in one line; a missing value is a dash."""

    def show(name: str, form: str) -> str:
        text = "-" if row[name] is None else format(row[name], form)
        return text.rjust(len(format(0.0, form)))

    phases, seconds = "E+M" if row["e_loss"] is not None else "  M", training_seconds([row])
    return (
        f"iteration {row['step']:>{len(str(steps))}}/{steps}  success {show('success_rate', '.2f')}"
        f"  kl {show('kl', '.3f')}  margin {show('margin', '+.2f')}  entropy {show('entropy', '.3f')}"
        f"  length {row['length']:5.1f}  {phases}  {seconds:.1f} s"
    )


def fresh_warnings(row: Row, seen: set[str]) -> list[str]:
    """The iteration's warnings whose names are not in `seen`, which is updated."""
    fresh = [warning for warning in row["warnings"] if warning.partition(":")[0] not in seen]
    seen.update(warning.partition(":")[0] for warning in fresh)
    return [f"warning, iteration {row['step']}: {warning}" for warning in fresh]


def rollout_table(records: Sequence[Row]) -> list[dict[str, Any]]:
    """Iteration, problem, response, outcome and feedback of each rollout, a plain dict each."""
    return [
        {
            "iteration": r["step"],
            "problem": r["prompt"],
            "response": response_text(r),
            "right": r["success"],
            "feedback": r["critique"] or r["demonstration"] or f"({r['reason']})",
            "implicit reward": r["implicit_reward"],
        }
        for r in records
    ]


def response_text(record: Row) -> str:
    """A recorded response as text; of an episode all turns, each under its role."""
    turns = zip(record.get("turn_roles") or (), record.get("turn_texts") or (), strict=True)
    return conversation(turns) or record["text"]


# -- a whole run ---------------------------------------------------------------------------------------------------


def newest_run(*places: str | Path) -> Path | None:
    """Folder of the newest complete run in any of these folders or one level below; None if there is none."""
    found = []
    for status in (
        path for place in places for depth in ("*", "*/*") for path in Path(place).glob(f"{depth}/status.json")
    ):
        try:
            run = load_run(status.parent)
            if run.status["state"] == "complete" and run.steps:
                found.append((status.stat().st_mtime, run.folder))
        except (UserError, KeyError, OSError):
            continue  # an incomplete run, or not a run folder
    return max(found)[1] if found else None


def find_run(folder: str | Path = "", above: str | Path = "..") -> Path | None:
    """The run that a notebook is about: runs of a working folder are beside the folder of its notebooks.

    Args:
        folder: of a run, relative to the notebook or to the folder above it; empty for the newest complete run in
            `runs` of either.
        above: the folder above.

    Returns:
        The run's folder; None if `folder` is empty and there is no complete run.

    Raises:
        UserError: there is no run in `folder`.
    """
    if not str(folder):
        return newest_run("runs", Path(above) / "runs")
    places = [Path(folder), Path(above) / folder]
    found = [place for place in places if (place / "config.json").is_file()]
    return load_run((found or places)[0]).folder


def changed_settings(config: Row) -> list[dict[str, Any]]:
    """The settings of a run that differ from the defaults: setting, this run, default. Its folder is not listed.

    Of rollouts from elsewhere, those that only describe their shape are left out: of imported ones, all of them.
    """
    kind, defaults = kind_of(config), RunConfig().to_dict()
    shape = {"trained": (), "scored": _SET_BY_SCORING, "imported": tuple(config)}[kind]
    return [
        {"setting": name, "this run": _text(value), "default": _text(defaults.get(name))}
        for name, value in config.items()
        if value != defaults.get(name) and name not in ("out", "resume", "resume_anyway", *shape)
    ]


_SET_BY_SCORING = (
    "task", "method", "steps", "seed", "prompts", "group", "capture", "e_every", "lr", "eval_every", "eval_teacher",
    "record_tokens",
)  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "(none)"
    own = isinstance(value, str) and value.startswith(HANDED_IN)
    return "(none)" if value in ("", None) else f"{part_name(value)} (passed from Python)" if own else str(value)


def tally(rows: Iterable[Row], kind: str) -> list[dict[str, Any]]:
    """Frequency of each value of the column `kind` over some rollouts, most frequent first, and the share right."""
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
    """Time by phase: seconds, share and tokens per second of each phase that took any."""
    phases = {"rollout": "rollout", "feedback": "feedback", "e": "E-step", "m": "M-step"}
    seconds = {key: sum(row.get(f"seconds_{key}") or 0.0 for row in rows) for key in phases}
    whole = sum(seconds.values()) or 1.0
    found = []
    for key, name in phases.items():
        tokens = sum(row.get(f"tokens_{key}") or 0 for row in rows)
        speed = f"{tokens / seconds[key]:,.0f}" if tokens and seconds[key] else "–"
        line = {"phase": name, "seconds": f"{seconds[key]:.1f}", "share": f"{100 * seconds[key] / whole:.0f} %"}
        found.append(line | {"tokens": f"{tokens:,}" if tokens else "–", "tokens per second": speed})
    return [line for line, took in zip(found, seconds.values(), strict=True) if took]


def warning_spans(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per kind of warning: in how many iterations, the first and last of them, and the latest message."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for warning in row.get("warnings") or ():
            name, _, message = warning.partition(":")
            one = found.setdefault(name, {"warning": name, "iterations": 0, "first": row["step"]})
            one |= {"iterations": one["iterations"] + 1, "last": row["step"], "latest message": message.strip()}
    return list(found.values())


def drift(rows: Sequence[Row], keys: Sequence[str], window: int = 5) -> list[dict[str, Any]]:
    """Change of some metrics: mean over the first and over the last `window` iterations (at most a third of the run).

    A metric that no row has is omitted. Of one row there is no change to show: each metric has its value.
    """
    if len(rows) == 1:
        known = {key: rows[0][key] for key in keys if rows[0].get(key) is not None}
        return [{"metric": key, "value": f"{value:.3g}"} for key, value in known.items()]
    window = max(1, min(window, len(rows) // 3))
    found = []
    for key in (key for key in keys if any(row.get(key) is not None for row in rows)):
        ends = [[row[key] for row in part if row.get(key) is not None] for part in (rows[:window], rows[-window:])]
        first, last = (sum(values) / len(values) if values else None for values in ends)
        change = f"{last - first:+.3g}" if first is not None and last is not None else "–"
        shown = ["–" if value is None else f"{value:.3g}" for value in (first, last)]
        found.append({"metric": key, f"first {window}": shown[0], f"last {window}": shown[1], "change": change})
    return found
