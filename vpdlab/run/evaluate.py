"""Evaluation of a student on held-out problems, and of the teacher on those that the student failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vpdlab.errors import UserError
from vpdlab.learn.parts import Parts
from vpdlab.run.measures import average_at_k, interval, summarise
from vpdlab.run.probing import probed
from vpdlab.sampling import Sampling
from vpdlab.tasks.common.probes import Answer
from vpdlab.types import Feedback, Outcome, Rollout


def evaluate(parts: Parts, step: int) -> dict[str, Any]:
    """Sample the held-out problems, and the teacher where the student failed: a line of eval.jsonl.

    Raises:
        UserError: where the task has no held-out problems.
    """
    config, started, problems = parts.config, time.perf_counter(), parts.held_out
    if not problems:
        raise UserError(f"task {config.task} has no held-out problems to evaluate on")
    sampling = Sampling(config.eval_temperature, config.eval_top_p, config.max_new_tokens)
    rollouts = parts.verify(parts.sample(problems, config.eval_samples, sampling, purpose="eval"))
    groups: dict[int, list[Outcome]] = {}  # by place, not by id: two problems are two, whatever they are called
    for rollout in rollouts:
        groups.setdefault(rollout.group, []).append(rollout.verified)
    return {
        "step": step,
        **summarise(groups),
        "length": float(np.mean([rollout.own_tokens for rollout in rollouts])),
        "by_problem": [average_at_k(outcomes) for outcomes in groups.values()],  # the same problems in every run
        "problem_ids": [problem.id for problem in problems],
        "held_out": len(parts.task.load("test")),
        **(_of_the_teacher(parts, rollouts, sampling, step) if config.eval_teacher else {}),
        "seconds": time.perf_counter() - started,
    }


def _of_the_teacher(parts: Parts, rollouts: Sequence[Rollout], sampling: Sampling, step: int) -> dict[str, Any]:
    """Accuracy of the teacher on the student's failures, and the task's probes."""
    answers = _teacher_on_failures(parts, rollouts, sampling, step)
    return {**_teacher_accuracy([float(answer.success) for answer in answers]), **probed(parts, step, answers)}


def _teacher_on_failures(parts: Parts, rollouts: Sequence[Rollout], sampling: Sampling, step: int) -> list[Answer]:
    """The teacher's answer to the first failure of each held-out problem that has feedback."""
    first: dict[int, tuple[Rollout, Feedback]] = {}
    for rollout, feedback in zip(rollouts, parts.feedback(rollouts, step, "eval"), strict=True):
        if not rollout.success and feedback.signal:
            first.setdefault(rollout.group, (rollout, feedback))
    if not first:
        return []
    failed, given = zip(*first.values(), strict=True)
    answers = teacher_answers(parts, failed, given, sampling, purpose="eval teacher")
    return [Answer(feedback, answer.success) for feedback, answer in zip(given, answers, strict=True)]


def _teacher_accuracy(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"teacher_accuracy": None, "teacher_problems": 0}
    low, high = interval(values)
    return {
        "teacher_accuracy": float(np.mean(values)),
        "teacher_accuracy_low": low,
        "teacher_accuracy_high": high,
        "teacher_problems": len(values),
    }


def teacher_answers(
    parts: Parts,
    rollouts: Sequence[Rollout],
    feedback: Sequence[Feedback],
    sampling: Sampling | None = None,
    purpose: str = "teacher",
) -> list[Rollout]:
    """What the M-step's teacher itself answers, shown the feedback on each rollout: one verified response each.

    Args:
        sampling: by default that of training.
    """
    config = parts.config
    sampling = sampling or Sampling(config.temperature, 1.0, config.max_new_tokens)
    contexts = [parts.render.teacher(r.problem, one)[0] for r, one in zip(rollouts, feedback, strict=True)]
    with parts.learner.teacher.playing():
        answers = parts.sample([r.problem for r in rollouts], 1, sampling, purpose=purpose, contexts=contexts)
    return parts.verify(answers)


def teacher_success(parts: Parts, rollouts: Sequence[Rollout], feedback: Sequence[Feedback]) -> float:
    """Share of failures with feedback on which the teacher, shown it, answers correctly; NaN without any."""
    rows = [row for row, one in enumerate(feedback) if one.signal and not rollouts[row].success]
    answers = teacher_answers(parts, [rollouts[row] for row in rows], [feedback[row] for row in rows]) if rows else []
    return float(np.mean([answer.success for answer in answers])) if answers else float("nan")
