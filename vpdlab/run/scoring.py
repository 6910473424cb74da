"""Responses that student and teacher score as an M-step reads them, and nothing is trained: of a file, or followed.

The numbers are those of a run: the same prompts, passes and columns of the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from typing import Any

import torch

from vpdlab.errors import UserError, part_name
from vpdlab.foreign import Row
from vpdlab.learn.iterate import Iteration
from vpdlab.learn.m_step import Method, Seen, Totals, survey
from vpdlab.learn.parts import Parts
from vpdlab.learn.results import EStep, MStep
from vpdlab.learn.state import Batch
from vpdlab.record import SCORED
from vpdlab.run.observe import TokenWatch
from vpdlab.types import ASSISTANT, Feedback, Outcome, Problem, Rollout, View


def _no_loss(seen: Seen) -> torch.Tensor:
    raise UserError("rollouts are scored here, not learned from")


SCORING = Method(
    part_name(SCORED["method"]), "student and teacher side by side; nothing is trained", _no_loss, views="all"
)


def response(parts: Parts, row: Row, problem: Problem) -> Rollout:
    """A row in the student's tokens; the end-of-turn token follows unless the response was cut off.

    Raises:
        UserError: the model cannot read it.
    """
    render, end = parts.render, parts.policy.tokenizer.eos_token_id
    if [role for role, _ in row.turns] != [ASSISTANT]:
        raise UserError(f"field 'response' has {len(row.turns)} turns: one turn of the assistant can be scored")
    ids = render.encoder.ids(render.encoder.plain(row.text))
    finished = row.finished is not False
    if finished and end is not None:
        ids += (end,)
    if not ids:
        raise UserError("field 'response' has no tokens")
    outcome = Outcome(row.reward or 0.0, row.environment, row.parsed, bool(row.success))
    return Rollout(problem, 0, 0, render.student(problem), ids, (nan,) * len(ids), row.text, finished, outcome)


def words_of(row: Row) -> Feedback:
    """A row's feedback."""
    said = row.critique is not None or row.demonstration is not None
    return Feedback(row.critique, row.demonstration, "file" if said else "", "" if said else "no feedback in the file")


def batch_of(
    parts: Parts, rollouts: Sequence[Rollout], feedback: Sequence[Feedback], student: Sequence[View],
    teacher: Sequence[View],
) -> Batch:  # fmt: skip
    """Rollouts as a batch that is only looked at."""
    device = parts.policy.device
    return Batch(
        rollouts, feedback, student, teacher,
        success=torch.tensor([rollout.success for rollout in rollouts], dtype=torch.bool, device=device),
        signal=torch.tensor([note.signal for note in feedback], dtype=torch.bool, device=device),
    )  # fmt: skip


def scored(parts: Parts, batch: Batch, watch: TokenWatch, step: int) -> Iteration:
    """What student and teacher make of a batch, as an iteration that trained nothing.

    Where it is not known what sampled a response, the student's log-probabilities stand for the sampler's.

    Args:
        watch: keeps the numbers of every row.
        step: the iteration that it is recorded as.
    """
    method = replace(SCORING, options=parts.method.options)  # what the run's method is given, it may be given as well
    totals = Totals(parts.config, batch, teacher=True)
    with torch.no_grad():
        for seen, dists, _ in survey(parts.learner, batch, method):
            watch.tokens(seen, dists)
            totals.add(seen)
    watch.finished()
    m = MStep(**totals.result())
    rollouts = [_with_logps(one, watch.kept.get(row)) for row, one in enumerate(batch.rollouts)]
    seconds = {"rollout": 0.0, "feedback": 0.0, "e": 0.0, "m": 0.0}
    beta = parts.learner.beta
    return Iteration(step, rollouts, batch.feedback, batch, EStep(), m, 0.0, beta, None, seconds)


def _with_logps(rollout: Rollout, kept: Mapping[str, Any] | None) -> Rollout:
    if kept is None or not any(map(isnan, rollout.logps)):
        return rollout
    return replace(rollout, logps=tuple(kept["student_logp"]))
