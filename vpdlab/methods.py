"""Methods: what differs between ways to learn from feedback, and nothing else.

A method is an E-step and an M-step, each a function of the run and one batch; all else is the loop's. VPD is
`Method(bco_e_step, distil)`, SDPO is the same M-step alone. A new method is one
function here and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpdlab import losses
from vpdlab.errors import UserError
from vpdlab.policy import row_sums
from vpdlab.scoring import Support, compare
from vpdlab.types import Feedback, Rollout, View

if TYPE_CHECKING:
    from vpdlab.config import RunConfig
    from vpdlab.policy import Policy
    from vpdlab.teacher import Teacher


@dataclass(frozen=True)
class Batch:
    """The rollouts of one iteration that have a signal, in both views.

    Attributes:
        rollouts, notes: B rollouts and their feedback.
        student, teacher: their views; row i of each is rollout i, with the same response ids.
        success: [B] bool, r of the paper.
    """

    rollouts: Sequence[Rollout]
    notes: Sequence[Feedback]
    student: Sequence[View]
    teacher: Sequence[View]
    success: Tensor

    def __len__(self) -> int:
        return len(self.rollouts)

    @property
    def response_tokens(self) -> int:
        return sum(len(rollout.response_ids) for rollout in self.rollouts)


@dataclass
class Learner:
    """What a step acts on: the weights, the teacher, the settings, and the shift's moving average."""

    config: RunConfig
    policy: Policy
    teacher: Teacher
    shift: float | None = None


@dataclass(frozen=True)
class EStep:
    """What an E-step did. `reason` says why it did nothing; the numbers are None then."""

    reason: str = ""
    loss: float | None = None
    delta: float | None = None
    updates: int = 0
    skipped: int = 0
    tokens: int = 0
    teacher_logp: Tensor | None = None
    """[B] log q(y|x,C) before the first update."""
    teacher_logp_after: Tensor | None = None
    """[B] the same after the last one; None where the M-step's own pass will show it."""


@dataclass(frozen=True)
class MStep:
    """What an M-step did, and what its pass over both views showed (before the update)."""

    reason: str = ""
    loss: float | None = None
    grad_norm: float | None = None
    skipped: int = 0
    tokens: int = 0
    student_logp: Tensor | None = None
    teacher_logp: Tensor | None = None
    """[B] sums over the response under student and teacher."""
    kl: float | None = None
    """Token mean of KL(student || teacher), full vocabulary, nats."""
    entropy: float | None = None
    """Token mean of the student's entropy, nats."""


@dataclass(frozen=True)
class Method:
    """A way to learn: its E-step (None for none) and its M-step."""

    name: str
    summary: str
    e_step: Callable[[Learner, Batch], EStep] | None
    m_step: Callable[..., MStep]


def bco_e_step(learner: Learner, batch: Batch) -> EStep:
    """Train the teacher to tell successes from failures, inside the trust region around the student (VPD Alg. 1).

    The student's log-probabilities and the shift are taken once, before the first update. Gradients flow through
    the feedback view only.
    """
    c, policy, success = learner.config, learner.policy, batch.success
    if not success.any() or success.all():
        which = "success" if not success.any() else "failure"
        return EStep(reason=f"no {which} with feedback in the batch" if len(batch) else "no rollout has feedback")
    policy.fresh()
    prior = policy.score(batch.student)
    with policy.as_teacher():
        before = policy.score(batch.teacher)
    if not (prior.isfinite().all() and before.isfinite().all()):
        return EStep(reason="log-probabilities are not finite", skipped=1)
    shift = _shift(learner, before, prior, success)
    updates = _updates(batch, c.e_minibatch, c.e_unit, c.e_epochs)
    total, tokens, skipped = 0.0, 0, 0
    for rows in updates:
        n_success = int(success[rows].sum())
        n_failure = len(rows) - n_success
        for (view,) in policy.minibatches(batch.teacher, rows=rows):
            at = view.rows.to(policy.device)
            with policy.as_teacher():
                loss = losses.bco_loss(policy.logp(view), prior[at], success[at], c.beta, shift, n_success, n_failure)
                policy.backward(loss)
            total += loss.item()
            tokens += view.ids.numel()
        skipped += policy.e_step() is None
    after = None if learner.teacher.live else policy.score(batch.teacher)
    learner.teacher.after_e_step()
    return EStep("", total / len(updates), shift, len(updates), skipped, tokens, before, after)


def _shift(learner: Learner, teacher: Tensor, prior: Tensor, success: Tensor) -> float:
    """delta of this E-step, or its moving average over E-steps."""
    now = losses.reward_shift(teacher, prior, success, learner.config.beta).item()
    decay = learner.config.shift_decay if learner.config.shift == "ema" and learner.shift is not None else 0.0
    learner.shift = decay * (learner.shift or 0.0) + (1.0 - decay) * now
    return learner.shift


def _updates(batch: Batch, size: int, unit: str, epochs: int) -> list[list[int]]:
    """Rows of each update of an E-step: `size` prompts or rollouts at a time (0: all), in order, `epochs` times."""
    if unit == "rollouts":
        parts = [[row] for row in range(len(batch))]
    else:
        groups: dict[int, list[int]] = {}
        for row, rollout in enumerate(batch.rollouts):
            groups.setdefault(rollout.group, []).append(row)
        parts = list(groups.values())
    size = size or len(parts)
    chunks = [parts[start : start + size] for start in range(0, len(parts), size)]
    return [[row for part in chunk for row in part] for chunk in chunks] * epochs


def distil(learner: Learner, batch: Batch, watch: Callable[..., Any] | None = None) -> MStep:
    """Distil the teacher into the student, token by token (SDPO; the M-step of VPD).

    The loss is the mean over all response tokens of the batch, whatever the minibatches.

    Args:
        watch: called with each minibatch's (student batch, Comparison, student, teacher) before the update: the
            recorder's chance to look.
    """
    c, policy = learner.config, learner.policy
    if not len(batch):
        return MStep(reason="no rollout has feedback")
    policy.fresh()
    support = Support(c.support, c.top_k, c.tail)
    n = batch.response_tokens
    sums = torch.zeros(2, len(batch), device=policy.device)
    loss, kl, entropy, tokens = 0.0, 0.0, 0.0, 0
    for student_view, teacher_view in policy.minibatches(batch.student, batch.teacher):
        teacher = learner.teacher.states(teacher_view)
        student = policy.states(student_view)
        found = compare(student, teacher, student_view.tokens, support, c.alpha, c.logit_mib)
        if watch is not None:
            watch(student_view, found, student, teacher)
        part = found.divergence.sum() / n
        policy.backward(part)
        loss += part.item()
        kl += found.kl.sum().item() / n
        entropy += found.student_entropy.sum().item() / n
        tokens += student_view.ids.numel() + teacher_view.ids.numel()
        rows = student_view.rows.to(sums.device)
        sums[0, rows] = row_sums(found.student_logp, student_view).to(sums.dtype)
        sums[1, rows] = row_sums(found.teacher_logp, student_view).to(sums.dtype)
    norm = policy.step()
    return MStep("", loss, norm, int(norm is None), tokens, sums[0], sums[1], kl, entropy)


METHODS = {
    "vpd": Method("vpd", "E-step on outcomes inside a trust region, M-step by distillation", bco_e_step, distil),
    "sdpo": Method("sdpo", "the M-step alone: distil the feedback-conditioned policy", None, distil),
}


def get_method(name: str) -> Method:
    """Raises UserError for a name that is not in `METHODS`."""
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]
