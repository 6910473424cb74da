"""From a diagnosis to the rollouts that caused it: what a warning of `record.diagnose` was computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpdlab.errors import UserError
from vpdlab.record import RunRecord
from vpdlab.record.diagnose import COLLAPSED, WINDOW, mean_of
from vpdlab.show import widget_data

Row = Mapping[str, Any]
_COLUMNS = (
    "step", "problem_id", "success", "finished", "truncated", "signal", "implicit_reward", "mask", "response_ids", "kl",
    "student_entropy", "logps", "student_logp",
)  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """The rollouts behind one warning.

    Attributes:
        warning: name of the diagnosis, "length-collapse".
        step: iteration that was warned of.
        places: (step, place among the rollouts of that step) of each rollout, in order.
        why: which rollouts these are, in one line.
    """

    warning: str
    step: int
    places: tuple[tuple[int, int], ...]
    why: str


@dataclass(frozen=True)
class _Rule:
    """Which rollouts of the last `window` iterations count: those for which `holds(row, start)`, where `start` is the
    mean of `metric` over the first iterations."""

    window: int
    why: str
    holds: Callable[[Row, float], bool]
    metric: str = ""


def _gap(row: Row) -> float | None:
    """Mean distance between the sampler's and the trainer's log-probabilities in nats."""
    both = zip(row.get("logps") or (), row.get("student_logp") or (), strict=False)
    return widget_data.mean([abs(a - b) for a, b in both if a is not None and b is not None])


def _beyond(found: float | None, limit: float, more: bool = True) -> bool:
    return found is not None and (found > limit if more else found < limit)


def _divided(row: Row) -> bool:
    reward = row.get("implicit_reward")
    return reward is not None and (reward > 0.5 if row["success"] else reward < -0.5)


RULES: dict[str, _Rule] = {
    "no-success": _Rule(3, "every rollout of three iterations is wrong", lambda row, start: not row["success"]),
    "all-success": _Rule(3, "every rollout of three iterations is right", lambda row, start: bool(row["success"])),
    "no-signal": _Rule(1, "no feedback: the reason is in the details", lambda row, start: row["signal"] is False),
    "length-collapse": _Rule(
        WINDOW, "at most a third as long as responses at the start",
        lambda row, start: widget_data.own_length(row) <= start / 3, "length",
    ),
    "length-explosion": _Rule(
        WINDOW, "at least three times as long as responses at the start",
        lambda row, start: widget_data.own_length(row) >= 3 * start, "length",
    ),
    "entropy-collapse": _Rule(
        COLLAPSED, "entropy below a tenth of that at the start, where it was recorded",
        lambda row, start: _beyond(widget_data.mean(row["student_entropy"]), 0.1 * start, more=False), "entropy",
    ),
    "kl-explosion": _Rule(
        WINDOW, "KL above five times that at the start, where it was recorded",
        lambda row, start: _beyond(widget_data.mean(row["kl"]), 5 * start), "kl",
    ),
    "past-target": _Rule(
        WINDOW, "right with an implicit reward above 1/2, or wrong with one below -1/2",
        lambda row, start: _divided(row),
    ),
    "truncated-contexts": _Rule(1, "the teacher's prompt was cut", lambda row, start: bool(row["truncated"])),
    "unfinished-responses": _Rule(1, "cut at max_new_tokens", lambda row, start: row["finished"] is False),
    "mismatch": _Rule(
        1, "sampler and trainer more than 0.1 nats apart, where it was recorded",
        lambda row, start: _beyond(_gap(row), 0.1),
    ),
    "not-finite": _Rule(
        1, "all rollouts of the update that was skipped: the record does not tell which one", lambda row, start: True
    ),
}  # fmt: skip


def cause(run: RunRecord, warning: str, step: int) -> Cause:
    """The recorded rollouts that caused a warning. Thresholds are those of the diagnosis; where only some rollouts have
    the numbers, only these can be named.

    Args:
        warning: its name, with or without the explanation: "length-collapse: responses shrank ...".
        step: an iteration that has this warning.

    Raises:
        UserError: for a warning that this iteration does not have.
    """
    name = warning.partition(":")[0]
    rows = [row for row in run.rows if row["step"] <= step]
    own = [one.partition(":")[0] for one in (rows[-1].get("warnings") or ())] if rows else []
    if not rows or rows[-1]["step"] != step or name not in own:
        had = f"it has {', '.join(own)}" if own else "it has none"
        raise UserError(f"{run.folder}: iteration {step} has no warning {name!r}: {had}")
    if name == "reward-falls":
        return _unlearned(run, step)
    rule = RULES.get(name, _Rule(1, "all of its rollouts", lambda row, start: True))  # one of another version
    told, start = {row["step"] for row in rows[-rule.window :]}, mean_of(rows[:WINDOW], rule.metric) or 0.0
    steps = sorted(told.intersection(run.steps))
    return _chosen(run, name, step, steps, lambda row: rule.holds(row, start), rule.why)


def _unlearned(run: RunRecord, step: int) -> Cause:
    """The wrong rollouts of the last two windows on problems that were solved before these."""
    steps = [one for one in run.steps if one <= step]
    late = [one for one in steps if one > step - 2 * WINDOW]
    early = run.columns(["problem_id", "success"], [one for one in steps if one <= step - 2 * WINDOW]).to_pylist()
    solved = {row["problem_id"] for row in early if row["success"]}
    why = "wrong, on problems that were solved before"

    def lost(row: Row) -> bool:
        return not row["success"] and row["problem_id"] in solved

    found = _chosen(run, "reward-falls", step, late, lost, why)
    if found.places:
        return found
    return _chosen(run, "reward-falls", step, late, lambda row: not row["success"], "wrong; no problem came up twice")


def _chosen(
    run: RunRecord, name: str, step: int, steps: Sequence[int], holds: Callable[[Row], bool], why: str
) -> Cause:
    places, at = [], dict[int, int]()
    for row in run.columns(list(_COLUMNS), steps).to_pylist() if steps else ():
        place = at[row["step"]] = at.get(row["step"], -1) + 1
        if holds(row):
            places.append((row["step"], place))
    return Cause(name, step, tuple(places), why if steps else "no rollouts of these iterations were recorded")


def alarms(run: RunRecord, most: int = 40) -> list[dict[str, Any]]:
    """The rollouts behind the latest warning of each kind, for a `RolloutTable` that an `EMTimeline` drives: records
    with the names of the warnings that they caused as `alarms`.

    Args:
        most: rollouts of one kind, evenly spaced where there are more.
    """
    latest = {one.partition(":")[0]: row["step"] for row in run.rows for one in row.get("warnings") or ()}
    named: dict[tuple[int, int], list[str]] = {}
    for name, step in latest.items():
        places = cause(run, name, step).places
        for place in widget_data.thinned(places, most):
            named.setdefault(place, []).append(name)
    places = sorted(named)
    return [record | {"alarms": named[place]} for place, record in zip(places, rollouts_at(run, places), strict=True)]


def rollouts_at(run: RunRecord, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The rollouts at some (step, place among those of the step), in the order of `places`; their `rollout` is the
    place."""
    by_step = {step: run.rollouts(step) for step in sorted({step for step, _ in places})}
    return [by_step[step][place] | {"rollout": place} for step, place in places]
