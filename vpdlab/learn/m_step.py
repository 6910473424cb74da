"""The M-step: one pass over the batch, one update of the student, by the method's own loss.

A method's loss is a function of one minibatch (`Seen`) and returns that minibatch's share of the loss. Its means are
over the whole batch, so that the result does not depend on how the batch is split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from vpdlab import processes
from vpdlab.config import RunConfig, read_options
from vpdlab.credit import group_advantage
from vpdlab.errors import UserError
from vpdlab.learn.results import EStep, Mismatch, MStep
from vpdlab.learn.state import Batch, Learner
from vpdlab.losses import truncated_weight
from vpdlab.model.batch import TokenBatch, row_sums
from vpdlab.model.comparison import Comparison, Support, compare_tokens, logp_and_entropy
from vpdlab.model.distributions import Measure, TokenDist
from vpdlab.model.policy import STUDENT, TEACHER, Role
from vpdlab.tasks.common.options import typed


@dataclass(frozen=True)
class Seen:
    """One minibatch of N response tokens, as a method's loss sees it.

    Attributes:
        config, batch: the settings; the whole batch.
        view: the minibatch, in the student's view.
        rows: [N] row of the batch that each token belongs to.
        logp: [N] log pi(y_t), with gradient.
        entropy: [N] of the student, nats.
        found: all numbers of student and teacher; None for a method without a teacher.
        reverse: the same with exchanged roles, so that the gradient goes to the teacher and the divergence is
            KL(teacher || student); None unless the method is `joint`.
        prepared: batch-level values computed by the method's `prepare`.
        options: the method's own options, with their values (`Method.options`, `method_args`).
        vocabulary: V.
    """

    config: RunConfig
    batch: Batch
    view: TokenBatch
    rows: Tensor
    logp: Tensor
    entropy: Tensor
    found: Comparison | None
    reverse: Comparison | None
    prepared: Mapping[str, Tensor]
    options: Mapping[str, Any]
    vocabulary: int

    @property
    def step(self) -> int:
        """The iteration, from 1."""
        return self.batch.step

    @property
    def both(self) -> Comparison:
        """The numbers of student and teacher. Raises ValueError for a method that has only the student's view."""
        if self.found is None:
            raise ValueError('this method has no teacher: its views must be "both" or "all"')
        return self.found

    @property
    def difference(self) -> Tensor:
        """[N] log q(y_t) - log pi(y_t), without gradient: 0 where the rollout has no feedback."""
        found = self.both
        return (found.teacher_logp - found.student_logp.detach()) * self.heard

    @cached_property
    def heard(self) -> Tensor:
        """[N] bool: the tokens that feedback is about (`Feedback.turn`)."""
        return self.batch.heard(self.view)

    def heard_mean(self, values: Tensor) -> Tensor:
        """This minibatch's share of the mean over all tokens that feedback is about, or over the sequences of those.

        Args:
            values: [N], a number for each token.
        """
        return self._share(values, self.heard, self.batch.heard_lengths, self.batch.signal)

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
        """This minibatch's share of the mean over the whole batch, a mean of tokens or of sequences (`aggregate`).

        Args:
            values: [N], a number for each token.
            chosen: [B] bool, the rollouts that the mean is taken over; default all.
        """
        chosen = torch.ones_like(self.batch.success) if chosen is None else chosen
        return self._share(values, chosen[self.rows], self.batch.lengths, chosen)

    def _share(self, values: Tensor, kept: Tensor, lengths: Tensor, chosen: Tensor) -> Tensor:
        """Values at the tokens `kept` ([N]: others are excluded before they can turn a product into NaN), over the
        `lengths` ([B]) of the rollouts `chosen` ([B])."""
        if self.config.aggregate == "token":
            return values[kept].sum() / max(1, int(lengths[chosen].sum()))
        return (values[kept] / lengths[self.rows[kept]].to(values.dtype)).sum() / max(1, int(chosen.sum()))


Loss = Callable[[Seen], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to learn: what differs from the others, and nothing else.

    Attributes:
        name, summary: for people.
        loss: what the M-step minimises, as a function of one minibatch.
        e_step: trains the teacher first, on the iterations that `e_every` names; None for none.
        views: "both": rollouts with feedback, in both views. "student": all rollouts, in the plain view alone.
            "all": all rollouts, in both views; those without feedback have the plain view twice.
        samples: whose responses the M-step learns from: the rollouts, or the teacher's own (`answers.answered`).
        joint: whether the loss also trains the teacher, by `Seen.reverse`: live weights, which the student shares.
        measure: replaces, at each position, the divergence that `alpha` names.
        prepare: computes batch-level values that the loss needs (`Seen.prepared`).
        needs: settings that the method is defined by.
        settings: fields of RunConfig that it reads beside those that every method, or every E-step, reads; None where
            that is not declared: then none of any method's settings is reported as unused.
        options: options of its own and their defaults; set by `method_args`, read as `Seen.options`.
    """

    name: str
    summary: str
    loss: Loss
    e_step: Callable[[Learner, Batch], EStep] | None = None
    views: Literal["both", "student", "all"] = "both"
    samples: Role = STUDENT
    joint: bool = False
    measure: Callable[[RunConfig], Measure] | None = None
    prepare: Callable[[Learner, Batch, Method], dict[str, Tensor]] | None = None
    needs: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def option_values(self, config: RunConfig) -> dict[str, Any]:
        """The method's options: defaults, replaced by `method_args`, whose words are read as the default's type.

        Raises:
            UserError: for an option that it does not have, or a value of another type.
        """
        given = read_options(config.method_args)
        for name in given:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise UserError(f"method {self.name} has no option {name!r}: it takes {known}")
        hints = {name: type(value) for name, value in self.options.items()}
        return {**self.options, **typed(f"method {self.name}", given, hints)}


Forward = Callable[[TokenBatch], TokenDist]
Watch = Callable[[Seen, dict[str, TokenDist]], None]


def survey(
    learner: Learner, batch: Batch, method: Method, prepared: Mapping[str, Tensor] | None = None,
    forward: Forward | None = None,
) -> Iterator[tuple[Seen, dict[str, TokenDist], int]]:  # fmt: skip
    """Walk the batch: each minibatch, the distributions behind it, and how many tokens were read.

    Args:
        forward: gives the student's distributions; default the policy's own forward pass.
    """
    c, policy = learner.config, learner.policy
    sides = [batch.student] if method.views == "student" else [batch.student, batch.teacher]
    measure, options = method.measure(c) if method.measure else None, method.option_values(c)
    support = Support(c.support, c.top_k, c.tail)
    for views in policy.minibatches(*sides):
        view, found, reverse = views[0], None, None
        reader = policy if method.joint else learner.teacher  # with gradient, or without
        dists = {} if len(views) == 1 else {"teacher": reader.token_dist(views[1])}
        dists["student"] = student = (forward or policy.token_dist)(view)
        if "teacher" in dists:
            found = compare_tokens(
                student, dists["teacher"], view.tokens, support, c.alpha, c.logit_mib, measure, c.record_telemetry
            )
            logp, entropy = found.student_logp, found.student_entropy
            if method.joint:
                reverse = compare_tokens(
                    dists["teacher"], student, view.tokens, support, 1.0, c.logit_mib, telemetry=False
                )
        else:
            logp, entropy = logp_and_entropy(student, view.tokens, c.logit_mib, c.record_telemetry)
        rows = view.rows.to(view.mask.device).repeat_interleave(view.mask.sum(1))
        known = prepared or {}
        seen = Seen(c, batch, view, rows, logp, entropy, found, reverse, known, options, student.vocabulary)
        yield seen, dists, sum(v.read for v in views)


def m_step(learner: Learner, batch: Batch, method: Method, watch: Watch | None = None) -> MStep:
    """Update the student once, by the method's loss over the whole batch.

    Args:
        watch: called with each minibatch and the distributions of each side, before the update.

    Raises:
        RunFailed: where a sampler that should be exact is not.
    """
    policy = learner.policy
    if not len(batch):
        return MStep(reason="no rollout has feedback")
    policy.fresh()
    prepared = method.prepare(learner, batch, method) if method.prepare else {}
    totals, loss, tokens = Totals(learner.config, batch, method.views != "student"), 0.0, 0
    own = batch.sampled_from == TEACHER
    mismatch = learner.mismatch_of_answers(batch) if own else None
    fresh = Mismatch() if batch.sampled_by(policy) and not own else None  # no E-step has moved the student since
    for seen, dists, count in survey(learner, batch, method, prepared):
        if watch is not None:
            watch(seen, dists)
        part = method.loss(seen)
        policy.backward(part)
        loss += part.item()
        tokens += count
        totals.add(seen)
        if fresh is not None:
            fresh.add(seen.logp.detach(), seen.old_logp)
    mismatch = learner.checked(fresh.everywhere(), batch.step) if fresh is not None else mismatch
    loss, tokens = processes.added(loss, tokens)
    norm = policy.update(STUDENT)
    reason = "nothing to learn from this batch: the gradient is 0" if norm == 0.0 else ""
    return MStep(reason, loss, norm, int(norm is None), int(tokens), **totals.result(), mismatch=mismatch)


class Totals:
    """Accumulates, over minibatches, what an M-step reports of student and teacher."""

    def __init__(self, config: RunConfig, batch: Batch, teacher: bool) -> None:
        self._batch, self._teacher, self._measured = batch, teacher, config.record_telemetry
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
        shown = self._teacher and spoken > 0 and self._measured
        kl, kl_teacher, entropy = processes.added(self._kl, self._kl_teacher, self._entropy)
        processes.add(self._sums)
        return {
            "student_logp": self._sums[0],
            "teacher_logp": self._sums[1] if self._teacher else None,
            "kl": kl / spoken if shown else None,
            "kl_teacher": kl_teacher / spoken if shown else None,
            "entropy": entropy / self._batch.response_tokens if self._measured else None,
        }
