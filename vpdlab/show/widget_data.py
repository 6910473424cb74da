"""Run records in the form that each widget of `vpdlab_widgets` takes: plain dicts, no torch and no model needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from vpdlab.errors import part_name
from vpdlab.record import Change, Origin
from vpdlab.types import ASSISTANT

Row = Mapping[str, Any]
T = TypeVar("T")

_TOKEN_NUMBERS = (
    "student_logp", "teacher_logp", "kl", "divergence", "student_entropy", "teacher_entropy", "alpha_divergence",
    "alpha_divergence_push", "alpha_divergence_part", "cross_entropy", "cross_entropy_push", "clipped_kl",
    "clipped_kl_push", "clipped_kl_part", "to_come", "entropy_share", "reference_logp",
)  # fmt: skip
_ROLLOUT_FIELDS = (
    "step", "problem_id", "group", "index", "prompt", "text", "success", "reward", "finished", "source", "reason",
    "critique", "demonstration", "truncated", "implicit_reward", "turn_roles", "turn_texts", "feedback_turn",
    "has_step",
)  # fmt: skip
_LENS_FIELDS = (
    *_ROLLOUT_FIELDS, "tokens", *_TOKEN_NUMBERS, "student_top", "student_top_logp", "teacher_top", "teacher_top_logp",
    "student_context", "teacher_context", "mask", "turn_ends", "signal", "advantage", "token_weight", "heard_weight",
    "success_weight",
)  # fmt: skip
_ROW_FIELDS = (*_ROLLOUT_FIELDS, "parsed", "answer", "signal", "alarms")
LOSS_SETTINGS = (
    "method", "steps", "temperature", "aggregate", "alpha", "support", "top_k", "tail", "is_clip", "clip_low",
    "clip_high", "kl_coef", "nsr_weight", "rl_weight", "opd_weight", "reweight_alpha", "reweight_steps",
    "reweight_clip", "sdar_weight", "sdar_gate", "sdar_sharpness", "distil_local", "distil_future", "distil_discount",
    "distil_baseline", "opsd_clip",
)  # fmt: skip
MOST_TOKENS, MOST_POINTS = 60_000, 400  # of a history: a page stays below a few MB
_COMPARED = (
    "step", "success_rate", "margin", "kl", "kl_teacher", "entropy", "length", "signal_share", "tokens_rollout",
    "seconds_rollout", "seconds_feedback", "seconds_e", "seconds_m",
)  # fmt: skip


def eval_points(evals: Sequence[Row]) -> list[dict[str, Any]]:
    """Held-out accuracy for `EMTimeline(evals=...)`: step, accuracy, low, high; probes, where the task has any."""
    return [
        {"step": e["step"], "accuracy": e["accuracy"], "low": e["accuracy_low"], "high": e["accuracy_high"]}
        | ({"probes": e["probes"]} if e.get("probes") else {})
        for e in evals
    ]


def change_marks(changes: Sequence[Change], origin: Origin | None = None) -> list[dict[str, Any]]:
    """Settings that were changed while a run went on, and the fork of a branch, for `EMTimeline(changes=...)`.

    Args:
        changes, origin: of a `RunRecord`.
    """
    marks = [{"step": change.step, "text": str(change)} for change in changes]
    while origin is not None:
        marks.append({"step": origin.step, "text": f"branched from {origin.run}"})
        origin = origin.before
    return sorted(marks, key=lambda mark: mark["step"])


def lens_records(
    records: Sequence[Row],
    beta: float | Mapping[int, float | None] | None = None,
    weights: Mapping[str, Sequence[Sequence[float] | None]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Rollouts for `TokenLens`, in the order given: item i is record i.

    Args:
        records: rollouts of a run, of one iteration or of several (`load_run(folder).rollouts(5)`).
        beta: turns log-ratios into each token's part of the implicit reward: one number, or one per step
            (`RunRecord.betas`), which differs from the config's where `kl_target` adapts it; None omits that part.
        weights: name -> further per-token numbers: for each record a list as long as its response, or None.
        config: the run's settings (`RunRecord.config`), with which the lens fills in the formulas of the methods; None
            omits these.
    """
    items, settings = [], {name: config[name] for name in LOSS_SETTINGS if name in config} if config else None
    for place, record in enumerate(records):
        own = beta.get(record["step"]) if isinstance(beta, Mapping) else beta
        item = {name: record.get(name) for name in _LENS_FIELDS} | {"beta": own, "settings": settings}
        item["sampled_logp"] = record.get("logps") if record.get("tokens") is not None else None
        for side in ("student", "teacher"):
            item[f"{side}_rank"] = token_ranks(record.get("response_ids"), record.get(f"{side}_top_ids"))
        item["weights"] = {name: lists[place] for name, lists in (weights or {}).items()}
        items.append(item)
    return items


def lens_pairs(left: Any, right: Any, steps: Sequence[int] | None = None) -> dict[str, Any]:
    """Rollouts of two recorded runs for `LensPair`: the same problem at the same iteration, in each run's own words.

    Rollouts of a problem are paired in their order. Only those with per-token numbers in both runs are taken.

    Args:
        left, right: `RunRecord`s, as returned by `load_run`.
        steps: iterations; default: the last one that both have recorded.

    Returns:
        Keywords of `LensPair`: records of both sides, item i of one beside item i of the other, and their names.
    """
    shared = sorted({*left.steps} & {*right.steps})
    sides: tuple[list[Row], list[Row]] = ([], [])
    for step in shared[-1:] if steps is None else steps:
        ours, theirs = (_by_problem(run.rollouts(step)) for run in (left, right))
        for problem in ours:
            for pair in zip(ours[problem], theirs.get(problem, ()), strict=False):
                for side, record in zip(sides, pair, strict=True):
                    side.append(record)
    lenses = [
        lens_records(side, beta=run.betas, config=run.config) for side, run in zip(sides, (left, right), strict=True)
    ]
    return {"left": lenses[0], "right": lenses[1], "names": _run_names([left, right])}


def histories(runs: Sequence[Any], labels: Sequence[str] | None = None, most: int = MOST_TOKENS) -> dict[str, Any]:
    """The followed responses of recorded runs for `LensHistory`, those that several runs followed side by side.

    Args:
        runs: `RunRecord`s, as returned by `load_run`.
        labels: a name per run; default: its method, or its folder where methods are the same.
        most: tokens in all; where there are more, points between the first and the last are left out evenly.

    Returns:
        Keywords of `LensHistory`: records, each with the place of its run, and the names.
    """
    names = list(labels) if labels else _run_names(runs)
    share = most // max(1, len(runs))
    found = [followed_records(_points(run, share), place, run.betas) for place, run in enumerate(runs)]
    return {"records": [record for each in found for record in each], "names": names}


def _points(run: Any, most: int) -> list[dict[str, Any]]:
    """What followed responses gave, at as many points as have at most about `most` tokens; the first and the last at
    least. No other point is read."""
    steps = run.followed_steps
    tokens = sum(len(one["response_ids"]) for one in run.followed(steps[-1])) if steps else 0
    kept = thinned(steps, min(MOST_POINTS, max(2, most // max(1, tokens)))) if steps else []
    return run.followed(sorted({*kept, *steps[-1:]}))


def followed_records(
    records: Sequence[Row], run: int = 0, betas: Mapping[int, float | None] | None = None
) -> list[dict[str, Any]]:
    """What followed responses gave (`RunRecord.followed`), as records of `LensHistory`.

    Args:
        run: the place of their run among the names.
        betas: of the run's iterations; the beta after an iteration is the next one's.
    """
    known = dict(betas or {})
    after = {step - 1: beta for step, beta in known.items()} | ({max(known): known[max(known)]} if known else {})
    return [item | {"run": run} for item in lens_records([one for one in records if one.get("tokens")], beta=after)]


def _run_names(runs: Sequence[Any]) -> list[str]:
    """The method of each run; its folder where two have the same."""
    methods = [part_name(run.config["method"]) for run in runs]
    return methods if len(set(methods)) == len(methods) else [run.folder.name for run in runs]


def _by_problem(records: Sequence[Row]) -> dict[str, list[Row]]:
    """The rollouts with per-token numbers, by problem."""
    found: dict[str, list[Row]] = {}
    for record in records:
        if record.get("tokens") is not None:
            found.setdefault(record["problem_id"], []).append(record)
    return found


def token_ranks(tokens: Sequence[int] | None, top_ids: Sequence[Sequence[int]] | None) -> list[int | None] | None:
    """Rank of each token in its top-k list, counted from 1; None for a token that is not in the list.

    >>> token_ranks([7, 9], [[7, 8], [7, 8]])
    [1, None]
    """
    if tokens is None or top_ids is None:
        return None
    places = [{id: rank for rank, id in enumerate(ids, start=1)} for ids in top_ids]
    return [ranks.get(token) for token, ranks in zip(tokens, places, strict=True)]


def rollout_rows(records: Sequence[Row]) -> list[dict[str, Any]]:
    """Rollouts for `RolloutTable`, in the order given: row i is record i.

    `kl` is the mean over the policy's own tokens in nats, None outside the recorded subset; `length` counts those
    tokens, None where none were recorded (an import); `implicit_reward` is None where the rollout has no signal;
    `turns` counts the policy's turns, None where no record is an episode; `rollout` is the place among the rollouts of
    its iteration where the record has one, else among those given.
    """
    seen: Counter[Any] = Counter()
    places = [seen.update([record["step"]]) or seen[record["step"]] - 1 for record in records]
    episodes = any(record.get("turn_roles") for record in records)
    return [
        {
            **{name: record.get(name) for name in _ROW_FIELDS},
            "turns": _own_turns(record) if episodes else None,
            "length": own_length(record) or None,
            "kl": mean(record.get("kl")),
            "recorded": record.get("tokens") is not None,
            "rollout": record.get("rollout", place),
        }
        for record, place in zip(records, places, strict=True)
    ]


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` of some items, evenly spaced.

    >>> thinned(range(10), 4)
    range(0, 10, 3)
    """
    return items[:: max(1, -(-len(items) // most))]


def most_divided(records: Sequence[Row]) -> int | None:
    """Index of the rollout with the largest KL at one of the policy's tokens; None where no KL was recorded."""
    peaks = {i: max(known) for i, record in enumerate(records) if (known := _known(record.get("kl")))}
    return max(peaks, key=lambda i: peaks[i]) if peaks else None


def _own_turns(record: Row) -> int:
    """How many turns of a recorded rollout the policy wrote: 1 where it is no episode."""
    return (record.get("turn_roles") or [ASSISTANT]).count(ASSISTANT)


def own_length(record: Row) -> int:
    """How many tokens of a recorded response the policy wrote."""
    return sum(record.get("mask") or [True] * len(record["response_ids"]))


def mean(values: Sequence[float | None] | None) -> float | None:
    """Mean of the numbers that are known; None for none."""
    known = _known(values)
    return sum(known) / len(known) if known else None


def _known(values: Sequence[float | None] | None) -> list[float]:
    return [value for value in values or () if value is not None]  # null at tokens that the policy did not write


def compared_runs(runs: Sequence[Any], labels: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Recorded runs for `RunCompare`.

    Args:
        runs: `RunRecord`s, as returned by `load_run`.
        labels: one per run; runs with the same label are seeds of one another. Default: each run's method; of a
            branch, its name and what it changed, since it is no seed of the run that it left.
    """
    return [
        {
            "name": run.folder.name,
            "method": labels[place] if labels else _label(run),
            "origin": {"run": run.origin.run, "step": run.origin.step} if run.origin else None,
            "seed": run.config["seed"],
            "rollouts_per_step": run.config["prompts"] * run.config["group"],
            "rows": [{name: row.get(name) for name in _COMPARED} for row in run.rows],
            "evals": [{"step": e["step"], "accuracy": e["accuracy"]} for e in run.eval_rows],
        }
        for place, run in enumerate(runs)
    ]


def _label(run: Any) -> str:
    """What a run is called beside others: its method; of a branch, where it comes from and what it changed there."""
    method = part_name(run.config["method"])
    if run.origin is None:
        return method
    at_fork = {one.setting: one.result for one in run.origin.changes if one.step == run.origin.step}
    return f"{method} from {run.origin.step}: {', '.join(at_fork.values()) or run.folder.name}"
