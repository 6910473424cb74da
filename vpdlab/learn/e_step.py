"""The E-step: train the teacher on outcomes, inside a trust region around the student (VPD Algorithm 1).

Its objective is a choice (`e_objective`): the paper's `bco`, or `kto`, `awr`, `pg`. Each is a function of what is known
before the first update and returns the shift, if it has one, and a row loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vpdlab import losses, processes
from vpdlab.credit import leave_one_out_mean, tilted_weight
from vpdlab.learn.results import EStep, Mismatch
from vpdlab.learn.state import Batch, Learner
from vpdlab.model.batch import TokenBatch, row_sums
from vpdlab.model.policy import STUDENT, TEACHER, Policy

# How far the teacher moved, where no later pass shows it, is measured on one rollout of DRIFT_SHARE, and on at most
# DRIFT_ROWS: scoring all of them would add a third to the E-step.
DRIFT_ROWS, DRIFT_SHARE = 16, 8

SETTINGS = ("e_every", "e_sample", "e_answers", "e_patience", "e_objective", "beta", "kl_target", "beta_min",
            "beta_max", "anchor", "e_minibatch", "e_unit", "e_epochs", "e_lr")  # fmt: skip
"""Fields of RunConfig that only runs with an E-step read, beside those of the objective."""


class Evidence(NamedTuple):
    """What an E-step knows before its first update; none of it changes or takes a gradient.

    Attributes:
        batch: B rollouts with feedback, of both classes.
        prior: [B] log pi_ref(y|x), plain prompt.
        before: [B] log q(y|x,C), feedback prompt.
    """

    learner: Learner
    batch: Batch
    prior: Tensor
    before: Tensor

    @property
    def own(self) -> bool:
        """Whether the teacher sampled the responses itself (`e_sample=teacher`)."""
        return self.batch.sampled_from == TEACHER


# (log q of some rows, which rows, all rows of the update) -> their share of the update's loss
RowLoss = Callable[[Tensor, Tensor, Sequence[int]], Tensor]


def e_step(learner: Learner, batch: Batch) -> EStep:
    """Update the teacher to tell successes from failures.

    The student's log-probabilities and the shift are computed once, before the first update. Gradients flow through
    the feedback view only. Where the first update is over the whole batch, the pass that finds the shift keeps the
    graph of its first minibatch, which serves as the update's own.
    """
    c, policy, batch = learner.config, learner.policy, batch.select(batch.signal)
    if learner.e_steps_ended:
        return EStep(reason=f"the teacher's held-out accuracy has not risen in {c.e_patience} evaluations")
    if not batch.success.any() or batch.success.all():
        which = "success" if not batch.success.any() else "failure"
        return EStep(reason=f"no {which} with feedback in the batch" if len(batch) else "no rollout has feedback")
    policy.fresh()
    prior, mismatch = learner.prior(batch)
    updates = split(batch, c.e_minibatch, c.e_unit, c.e_epochs)
    own = Mismatch() if batch.sampled_from == TEACHER and batch.sampled_by(policy) else None
    with policy.as_teacher():
        before, kept = _before(policy, batch, updates[0], own.watching(batch) if own is not None else None)
    if not (prior.isfinite().all() and before.isfinite().all()):
        return EStep(reason="log-probabilities are not finite", skipped=1, mismatch=mismatch)
    mismatch = mismatch if own is None else learner.checked(own.everywhere(), batch.step)
    shift, row_loss = OBJECTIVES[c.e_objective].prepare(Evidence(learner, batch, prior, before))
    total, tokens, skipped = 0.0, 0, 0
    for rows in updates:
        loss, read = _accumulate(policy, batch, rows, row_loss, kept)
        kept, total, tokens = [], total + loss, tokens + read
        skipped += policy.update(TEACHER) is None
    total, tokens = processes.added(total, tokens)
    after = None
    if not learner.teacher.live or batch.sampled_from != STUDENT:  # else the M-step's pass will show it
        with policy.as_teacher():
            after = policy.score(batch.teacher[: min(DRIFT_ROWS, -(-len(batch) // DRIFT_SHARE))])
    learner.teacher.after_e_step()
    return EStep(
        "", total / len(updates), shift, len(updates), skipped, int(tokens), before, after, batch.lengths, mismatch
    )


def _accumulate(
    policy: Policy, batch: Batch, rows: Sequence[int], row_loss: RowLoss, kept: list[tuple[TokenBatch, Tensor | None]]
) -> tuple[float, int]:
    """Accumulate the gradient of one update; returns its loss and the number of tokens read.

    Args:
        kept: the minibatches of these rows, each with its log q where that pass was made already, with gradient.
    """
    total, tokens = 0.0, 0
    for view, logp in kept or ((view, None) for (view,) in policy.minibatches(batch.teacher, rows=rows)):
        with policy.as_teacher():
            loss = row_loss(policy.logp(view) if logp is None else logp, view.rows.to(policy.device), rows)
            policy.backward(loss)
        total += loss.item()
        tokens += view.read
    return total, tokens


def _before(
    policy: Policy, batch: Batch, rows: Sequence[int], watch: Callable[[TokenBatch, Tensor], None] | None
) -> tuple[Tensor, list[tuple[TokenBatch, Tensor | None]]]:
    """[B] log q of all rollouts, without gradient; and, where `rows` are all of them, the minibatches of the update,
    the first and largest with its log q, with gradient: one graph is all that is held at a time.

    Args:
        watch: called with each minibatch and the log-probabilities of its tokens, without gradient.
    """
    if len(rows) != len(batch) or policy.config.shard:
        return policy.score(batch.teacher, watch), []
    before, kept = torch.zeros(len(batch), device=policy.device), []
    views = [view for (view,) in policy.minibatches(batch.teacher, rows=rows)]
    for place, view in reversed(list(enumerate(views))):
        with torch.set_grad_enabled(place == 0):
            of_tokens = policy.token_logp(view)
            logp = row_sums(of_tokens, view)
        if watch is not None:
            watch(view, of_tokens.detach())
        before[view.rows.to(logp.device)] = logp.detach().to(before.dtype)
        kept.insert(0, (view, logp if place == 0 else None))
    return processes.add(before), kept


def _bco(known: Evidence) -> tuple[float, RowLoss]:
    success, beta = known.batch.success, known.learner.beta
    shift = _shift(known)

    def loss(logp: Tensor, at: Tensor, rows: Sequence[int]) -> Tensor:
        return losses.bco_loss(logp, known.prior[at], success[at], beta, shift, *_classes(success, rows))

    return shift, loss


def _kto(known: Evidence) -> tuple[float, RowLoss]:
    success, beta = known.batch.success, known.learner.beta
    reference = losses.kto_reference(known.before, known.prior, beta).item()

    def loss(logp: Tensor, at: Tensor, rows: Sequence[int]) -> Tensor:
        return losses.kto_loss(logp, known.prior[at], success[at], beta, reference, *_classes(success, rows))

    return reference, loss


def _awr(known: Evidence) -> tuple[None, RowLoss]:
    groups = known.batch.groups
    # The teacher's own responses stand for pi* only after the ratio of prior and teacher has reweighted them.
    ratio = known.prior - known.before if known.own else None
    weight = tilted_weight(known.batch.rewards, groups, known.learner.beta, ratio)

    def loss(logp: Tensor, at: Tensor, rows: Sequence[int]) -> Tensor:
        return losses.weighted_likelihood_loss(logp, weight[at]) / len(groups[list(rows)].unique())

    return None, loss


def _pg(known: Evidence) -> tuple[None, RowLoss]:
    c, batch, beta = known.learner.config, known.batch, known.learner.beta
    value = batch.rewards - beta * (known.before - known.prior)
    baseline = leave_one_out_mean(value, batch.groups)

    def loss(logp: Tensor, at: Tensor, rows: Sequence[int]) -> Tensor:
        part = losses.elbo_policy_gradient_loss(
            logp, known.prior[at], batch.rewards[at], beta, baseline[at], c.e_ratio_clip,
            known.before[at] if known.own else None,
        )  # fmt: skip
        return part / len(rows)

    return None, loss


class Objective(NamedTuple):
    """A loss of the E-step.

    Attributes:
        prepare: what is known before the first update -> the shift (None for an objective without one), the row loss.
        settings: fields of RunConfig that only this objective reads.
    """

    prepare: Callable[[Evidence], tuple[float | None, RowLoss]]
    settings: tuple[str, ...] = ()


OBJECTIVES: dict[str, Objective] = {
    "bco": Objective(_bco, ("shift", "shift_decay")),
    "kto": Objective(_kto),
    "awr": Objective(_awr),
    "pg": Objective(_pg, ("e_ratio_clip",)),
}
"""Value of `e_objective` -> what it minimises."""


def _shift(known: Evidence) -> float:
    """delta of this E-step, or its moving average over E-steps."""
    c, before = known.learner.config, known.learner.shift
    now = losses.reward_shift(known.before, known.prior, known.batch.success, known.learner.beta).item()
    decay = c.shift_decay if c.shift == "ema" and before is not None else 0.0
    return decay * (before or 0.0) + (1.0 - decay) * now


def _classes(success: Tensor, rows: Sequence[int]) -> tuple[int, int]:
    """Successes and failures among all rows of an update."""
    n_success = int(success[list(rows)].sum())
    return n_success, len(rows) - n_success


def split(batch: Batch, size: int, unit: str, epochs: int) -> list[list[int]]:
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
