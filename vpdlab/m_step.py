"""The M-step: one pass over the batch, one update of the student. What is minimised is the method's own loss.

A method's loss is a function of what one minibatch shows (`Seen`); it returns that minibatch's part of the loss. The
means it takes are those of the whole batch, so that the result does not depend on the minibatches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from vpdlab import processes
from vpdlab.batch import TokenBatch
from vpdlab.config import RunConfig
from vpdlab.credit import group_advantage
from vpdlab.learner import Batch, EStep, Learner, Mismatch, MStep
from vpdlab.losses import truncated_weight
from vpdlab.policy import row_sums
from vpdlab.scoring import Comparison, Measure, Support, TokenDist, compare, logp_and_entropy


@dataclass(frozen=True)
class Seen:
    """What one minibatch of N response tokens shows to a method's loss.

    Attributes:
        config, batch: the settings; the whole batch.
        view: the minibatch, in the student's view.
        rows: [N] row of the batch that each token belongs to.
        logp: [N] log pi(y_t), with gradient.
        entropy: [N] of the student, nats.
        found: all numbers of student and teacher; None for a method that looks at no teacher.
        told: what the method's `prepare` has found out about the whole batch.
        step: the iteration, from 1.
        vocabulary: V.
    """

    config: RunConfig
    batch: Batch
    view: TokenBatch
    rows: Tensor
    logp: Tensor
    entropy: Tensor
    found: Comparison | None
    told: Mapping[str, Tensor]
    step: int
    vocabulary: int

    @property
    def both(self) -> Comparison:
        """The numbers of student and teacher. Raises ValueError for a method whose views are the student's alone."""
        if self.found is None:
            raise ValueError('this method looks at no teacher: its views must be "both" or "all"')
        return self.found

    @property
    def difference(self) -> Tensor:
        """[N] log q(y_t) - log pi(y_t), without gradient: 0 where the rollout has no feedback."""
        found = self.both
        return (found.teacher_logp - found.student_logp.detach()) * self.batch.signal[self.rows]

    @cached_property
    def old_logp(self) -> Tensor:
        """[N] log-probability of each token under the policy that sampled it."""
        return self.batch.logps(self.view).to(self.logp.dtype)

    @cached_property
    def advantage(self) -> Tensor:
        """[N] group advantage of the token's rollout."""
        values = group_advantage(self.batch.rewards, self.batch.groups, self.config.advantage)
        return values.to(self.logp.dtype)[self.rows]

    @property
    def truncation(self) -> Tensor | float:
        """[N] truncated importance weights of the distillation (`is_clip`); 1 where that is off."""
        return truncated_weight(self.logp, self.old_logp, self.config.is_clip) if self.config.is_clip else 1.0

    def mean(self, values: Tensor, chosen: Tensor | None = None) -> Tensor:
        """This minibatch's part of the mean over the whole batch, a mean of tokens or of sequences (`aggregate`).

        Args:
            values: [N], a number for each token.
            chosen: [B] bool, the rollouts that the mean is taken over; default all.
        """
        lengths = self.batch.lengths
        chosen = torch.ones_like(self.batch.success) if chosen is None else chosen
        kept = chosen[self.rows]  # what is left out is left out before it can turn a product into NaN
        if self.config.aggregate == "token":
            return values[kept].sum() / max(1, int(lengths[chosen].sum()))
        return (values[kept] / lengths[self.rows[kept]].to(values.dtype)).sum() / max(1, int(chosen.sum()))


Loss = Callable[[Seen], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to learn: what differs from the others, and nothing else.

    Attributes:
        name, summary: for people.
        loss: what the M-step minimises, from what one minibatch shows.
        e_step: trains the teacher first, on the iterations that `e_every` names; None for none.
        views: "both": rollouts with feedback, in both views. "student": all rollouts, in the plain view alone.
            "all": all rollouts, in both views; those without feedback have the plain view twice.
        measure: what is taken at each position instead of the divergence that `alpha` names.
        prepare: finds out about the whole batch what the loss has to be told.
        needs: settings that the method is defined by.
    """

    name: str
    summary: str
    loss: Loss
    e_step: Callable[[Learner, Batch], EStep] | None = None
    views: Literal["both", "student", "all"] = "both"
    measure: Callable[[RunConfig], Measure] | None = None
    prepare: Callable[[Learner, Batch, Method], dict[str, Tensor]] | None = None
    needs: Mapping[str, Any] = field(default_factory=dict)


States = Callable[[TokenBatch], TokenDist]
Watch = Callable[[Seen, dict[str, TokenDist]], None]


def survey(
    learner: Learner, batch: Batch, method: Method, told: Mapping[str, Tensor] | None = None,
    states: States | None = None,
) -> Iterator[tuple[Seen, dict[str, TokenDist], int]]:  # fmt: skip
    """Walk the batch: what each minibatch shows, the distributions behind it, and how many tokens were read.

    Args:
        states: gives the student's distributions; default the policy's.
    """
    c, policy = learner.config, learner.policy
    sides = [batch.student] if method.views == "student" else [batch.student, batch.teacher]
    measure = method.measure(c) if method.measure else None
    for views in policy.minibatches(*sides):
        view, found = views[0], None
        dists = {} if len(views) == 1 else {"teacher": learner.teacher.states(views[1])}
        dists["student"] = (states or policy.states)(view)
        if "teacher" in dists:
            support = Support(c.support, c.top_k, c.tail)
            found = compare(
                dists["student"], dists["teacher"], view.tokens, support, c.alpha, c.logit_mib, measure=measure
            )
            logp, entropy = found.student_logp, found.student_entropy
        else:
            logp, entropy = logp_and_entropy(dists["student"], view.tokens, c.logit_mib)
        rows = view.rows.to(view.mask.device).repeat_interleave(view.mask.sum(1))
        seen = Seen(c, batch, view, rows, logp, entropy, found, told or {}, learner.step, dists["student"].vocabulary)
        yield seen, dists, sum(v.read for v in views)


def m_step(learner: Learner, batch: Batch, method: Method, watch: Watch | None = None) -> MStep:
    """Update the student once, by the method's loss over the whole batch.

    Args:
        watch: called with what each minibatch shows, and the distributions of each side, before the update: the
            recorder's chance to look.
    """
    policy = learner.policy
    if not len(batch):
        return MStep(reason="no rollout has feedback")
    policy.fresh()
    told = method.prepare(learner, batch, method) if method.prepare else {}
    totals, loss, tokens = _Totals(batch, method.views != "student"), 0.0, 0
    fresh = Mismatch() if batch.sampled_by(policy) else None  # no E-step has moved the student since
    for seen, dists, count in survey(learner, batch, method, told):
        if watch is not None:
            watch(seen, dists)
        part = method.loss(seen)
        policy.backward(part)
        loss += part.item()
        tokens += count
        totals.add(seen)
        if fresh is not None:
            fresh.add(seen.logp.detach(), seen.old_logp)
    if fresh is not None:
        learner.measured(fresh.everywhere())
    loss, tokens = processes.added(loss, tokens)
    norm = policy.step()
    reason = "nothing to learn from this batch: the gradient is 0" if norm == 0.0 else ""
    return MStep(reason, loss, norm, int(norm is None), int(tokens), **totals.result())


class _Totals:
    """Adds up, over minibatches, what an M-step reports of student and teacher."""

    def __init__(self, batch: Batch, teacher: bool) -> None:
        self._batch, self._teacher = batch, teacher
        self._sums = torch.zeros(2, len(batch), device=batch.success.device)
        self._kl = self._kl_teacher = self._entropy = 0.0

    def add(self, seen: Seen) -> None:
        rows = seen.view.rows.to(self._sums.device)
        self._sums[0, rows] = row_sums(seen.logp.detach(), seen.view).to(self._sums.dtype)
        self._entropy += seen.entropy.sum().item()
        if seen.found is not None:
            self._sums[1, rows] = row_sums(seen.found.teacher_logp, seen.view).to(self._sums.dtype)
            signal = self._batch.signal[seen.rows]
            self._kl += seen.found.kl[signal].sum().item()
            self._kl_teacher += seen.found.kl_teacher[signal].sum().item()

    def result(self) -> dict[str, Any]:
        spoken = int(self._batch.lengths[self._batch.signal].sum())
        shown = self._teacher and spoken > 0
        kl, kl_teacher, entropy = processes.added(self._kl, self._kl_teacher, self._entropy)
        processes.add(self._sums)
        return {
            "student_logp": self._sums[0],
            "teacher_logp": self._sums[1] if self._teacher else None,
            "kl": kl / spoken if shown else None,
            "kl_teacher": kl_teacher / spoken if shown else None,
            "entropy": entropy / self._batch.response_tokens,
        }
