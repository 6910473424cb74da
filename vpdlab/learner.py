"""What a step acts on and what it leaves: the batch, the learner, and the results of both steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpdlab import processes
from vpdlab.errors import RunFailed
from vpdlab.types import Feedback, Rollout, View

if TYPE_CHECKING:
    from vpdlab.batch import TokenBatch
    from vpdlab.config import RunConfig
    from vpdlab.policy import Policy
    from vpdlab.teacher import Copy, Teacher

EXACT = 1e-3  # nats a token between a sampler and a scorer that compute the same in float32
CHECKED = 4  # rows that an E-step scores again where it could do without


@dataclass(frozen=True)
class Batch:
    """The rollouts of one iteration that a method learns from, in both views.

    Attributes:
        rollouts, notes: B rollouts and their feedback.
        student, teacher: their views; row i of each is rollout i, with the same response ids. `teacher` is empty for
            a method that looks at no teacher; the teacher's view of a rollout without feedback is the plain one.
        success: [B] bool, r of the paper.
        signal: [B] bool, m of the paper: whether there is feedback.
    """

    rollouts: Sequence[Rollout]
    notes: Sequence[Feedback]
    student: Sequence[View]
    teacher: Sequence[View]
    success: Tensor
    signal: Tensor

    def __len__(self) -> int:
        return len(self.rollouts)

    @cached_property
    def response_tokens(self) -> int:
        return sum(len(rollout.response_ids) for rollout in self.rollouts)

    @cached_property
    def lengths(self) -> Tensor:
        """[B] response tokens of each rollout."""
        return self._column([float(len(rollout.response_ids)) for rollout in self.rollouts])

    @cached_property
    def rewards(self) -> Tensor:
        """[B] float."""
        return self._column([rollout.verified.reward for rollout in self.rollouts])

    @cached_property
    def sampled_logp(self) -> Tensor:
        """[B] log pi(y|x) by the sampler: the sum over each response."""
        return self._column([float(sum(rollout.logps)) for rollout in self.rollouts])

    def sampled_by(self, policy: Policy) -> bool:
        """Whether the policy, as it is now, has sampled all of it."""
        return all(rollout.version == policy.version for rollout in self.rollouts)

    @cached_property
    def groups(self) -> Tensor:
        """[B] int: rollouts of the same problem share a number."""
        return self._column([rollout.group for rollout in self.rollouts])

    def logps(self, view: TokenBatch) -> Tensor:
        """[N] log-probability, when it was sampled, of each response token of a minibatch."""
        return self._column([value for row in view.rows.tolist() for value in self.rollouts[row].logps])

    def select(self, rows: Tensor) -> Batch:
        """The rollouts at which `rows` ([B] bool) is true."""
        if bool(rows.all()):
            return self
        at = rows.nonzero()[:, 0].tolist()
        return Batch(
            [self.rollouts[i] for i in at],
            [self.notes[i] for i in at],
            [self.student[i] for i in at],
            [self.teacher[i] for i in at] if self.teacher else [],
            self.success[rows],
            self.signal[rows],
        )

    def _column(self, values: Sequence[float] | Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.success.device)


@dataclass
class Learner:
    """What a step acts on: the weights, the teacher, the settings, and what is carried from step to step.

    Attributes:
        step: the iteration, from 1.
        beta: of the next E-step; where `kl_target` is set it follows the measured KL.
        shift: moving average of the E-step's shift.
        anchor: the initial weights, where the E-step's prior is fixed.
        exact: whether the sampler's log-probabilities are the policy's own (`Sampler.exact`).
        mismatch: of the iteration's rollouts; None where no pass saw the weights that sampled them.
    """

    config: RunConfig
    policy: Policy
    teacher: Teacher
    anchor: Copy | None = None
    exact: bool = False
    mismatch: Mismatch | None = None
    step: int = 1
    beta: float = field(init=False)
    shift: float | None = None

    def __post_init__(self) -> None:
        self.beta = self.config.beta

    def prior(self, batch: Batch) -> Tensor:
        """[B] log pi_ref(y|x) on the plain prompt: the student's as it is (the sliding trust region), or the initial
        one's (`anchor=fixed`). What the sampler has found already is not computed again."""
        fresh = batch.sampled_by(self.policy)
        known = self.anchor is not None or (fresh and self.exact)
        prior = None if known else self._looked(batch, len(batch), fresh)
        if known and fresh:
            self._looked(batch, CHECKED, fresh)  # enough to see that sampler and scorer still agree
        if self.anchor is not None:
            with torch.no_grad(), self.anchor.lent():
                return self.policy.score(batch.student)
        return batch.sampled_logp if prior is None else prior

    def _looked(self, batch: Batch, rows: int, fresh: bool) -> Tensor:
        """[rows] log-probabilities of the first responses; where the policy has sampled them, the mismatch is taken."""
        found = Mismatch()
        logp = self.policy.score(batch.student[:rows], found.watching(batch) if fresh else None)
        if fresh:
            self.measured(found.everywhere())
        return logp

    def measured(self, mismatch: Mismatch) -> None:
        """Keep the iteration's mismatch of sampler and scorer.

        Raises:
            RunFailed: where a sampler whose log-probabilities are the policy's own gave others: what would be trained
                is not what was sampled.
        """
        self.mismatch = mismatch
        most = EXACT / min(1.0, self.config.temperature)  # a temperature below 1 stretches all differences
        if self.exact and mismatch.worst > most:
            raise RunFailed(
                f"iteration {self.step}: the sampler's log-probabilities are up to {mismatch.worst:.2g} nats a token"
                f" off the scorer's at the same weights, and may be {most:.2g} off: this model is not sampled as it is"
                " trained, so its numbers cannot be trusted; please report the model and its config.json"
            )

    def after_iteration(self, e: EStep, m: MStep) -> None:
        """Let the teacher follow; after an E-step, let beta follow the KL that it led to."""
        self.teacher.after_iteration()
        c = self.config
        if c.kl_target and e.loss is not None and m.kl_teacher is not None:
            self.beta = adapted(self.beta, m.kl_teacher, c.kl_target, c.beta_min, c.beta_max)


@dataclass
class Mismatch:
    """How far the scorer's log-probabilities of the sampled tokens are from the sampler's own; nats.

    Same weights, other kernels: in bfloat16, and with another engine, they are not the same numbers, and what is
    trained is not quite what has sampled.
    """

    worst: float = 0.0
    _sum: float = 0.0
    _k3: float = 0.0
    _count: float = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Some tokens, [N] each."""
        gap = (ours - theirs).cpu().double()  # not every device has it
        self.worst = max([self.worst, *gap.abs().tolist()])
        self._sum += gap.abs().sum().item()
        self._k3 += (gap.expm1() - gap).sum().item()
        self._count += len(gap)

    def watching(self, batch: Batch) -> Callable[[TokenBatch, Tensor], None]:
        """What `Policy.score` is to call with each minibatch of `batch.student`."""
        return lambda view, logp: self.add(logp, batch.logps(view))

    def everywhere(self) -> Mismatch:
        """That of all processes' tokens together."""
        worst = max(processes.gather(self.worst))
        return Mismatch(worst, *processes.added(self._sum, self._k3, self._count))

    @property
    def mean(self) -> float:
        """Mean |difference| a token."""
        return self._sum / max(1, self._count)

    @property
    def kl(self) -> float:
        """KL(sampler || scorer) a token, by the estimator "k3": mean of exp(d) - 1 - d, never negative."""
        return self._k3 / max(1, self._count)


def adapted(beta: float, kl: float, target: float, low: float, high: float) -> float:
    """beta doubled where the KL is above 1.5 times its target, halved where it is below target / 1.5, within bounds
    (the rule of PPO with an adaptive KL penalty, arXiv 1707.06347, section 4)."""
    factor = 2.0 if kl > 1.5 * target else 0.5 if kl < target / 1.5 else 1.0
    return min(max(beta * factor, low), high)


@dataclass(frozen=True)
class EStep:
    """What an E-step did. `reason` says why it did nothing; the numbers are None then."""

    reason: str = ""
    loss: float | None = None
    delta: float | None = None
    """The shift, or KTO's reference point; None for an objective without one."""
    updates: int = 0
    skipped: int = 0
    tokens: int = 0
    teacher_logp: Tensor | None = None
    """[B'] log q(y|x,C) of the rollouts with feedback, before the first update."""
    teacher_logp_after: Tensor | None = None
    """The same after the last one, of the first `e_step.DRIFT_ROWS`; None where the M-step's own pass will show it."""


@dataclass(frozen=True)
class MStep:
    """What an M-step did, and what its pass over the batch showed (before the update).

    The teacher's numbers are None for a method that looks at none; the KLs are those of rollouts with feedback.
    """

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
    kl_teacher: float | None = None
    """Token mean of KL(teacher || student), the same."""
    entropy: float | None = None
    """Token mean of the student's entropy, nats."""
