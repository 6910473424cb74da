"""What a step acts on: the batch in both views, and the learner with what it carries from iteration to iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpdlab.credit import group_mean
from vpdlab.learn.results import EStep, Mismatch, MStep
from vpdlab.model.policy import STUDENT, TEACHER, Role
from vpdlab.types import Feedback, Rollout, View

if TYPE_CHECKING:
    from vpdlab.config import RunConfig
    from vpdlab.model.batch import TokenBatch
    from vpdlab.model.policy import Policy
    from vpdlab.model.teacher import Copy, Teacher

CHECKED = 4  # rows that an E-step scores again where the sampler's own numbers are exact


@dataclass(frozen=True)
class Batch:
    """The rollouts of one iteration that a method learns from, in both views.

    Attributes:
        rollouts, feedback: B rollouts and their feedback.
        student, teacher: their views; row i of each is rollout i, with the same response ids. `teacher` is empty for
            a method that looks at no teacher; the teacher's view of a rollout without feedback is the plain one.
        success: [B] bool, r of the paper.
        signal: [B] bool, m of the paper: whether there is feedback.
        step: the iteration that it belongs to, from 1.
        sampled_from: whose responses they are: the student's, or the teacher's own (`answers.answered`).
        student_reward: [B] mean reward of all of the student's rollouts of the same problem; None where not known.
    """

    rollouts: Sequence[Rollout]
    feedback: Sequence[Feedback]
    student: Sequence[View]
    teacher: Sequence[View]
    success: Tensor
    signal: Tensor
    step: int = 1
    sampled_from: Role = STUDENT
    student_reward: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rollouts)

    @cached_property
    def response_tokens(self) -> int:
        """Tokens that the policy wrote itself, over all responses."""
        return int(sum(self._own))

    @cached_property
    def lengths(self) -> Tensor:
        """[B] number of response tokens that the policy wrote itself."""
        return self._column([float(count) for count in self._own])

    @cached_property
    def _own(self) -> list[int]:
        return [rollout.own_tokens for rollout in self.rollouts]

    @cached_property
    def heard_lengths(self) -> Tensor:
        """[B] number of tokens that the feedback is about: all own ones, or those of one turn; 0 without feedback."""
        return self._column([float(sum(row)) for row in self._heard])

    def heard(self, view: TokenBatch) -> Tensor:
        """[N] bool: the active response tokens of a minibatch that the feedback is about."""
        return self._column([value for row in view.rows.tolist() for value in self._heard[row]])

    @cached_property
    def _heard(self) -> list[list[bool]]:
        """Of each rollout, which of its own tokens the feedback is about."""
        return [about(rollout, note) for rollout, note in zip(self.rollouts, self.feedback, strict=True)]

    @cached_property
    def rewards(self) -> Tensor:
        """[B] float."""
        return self._column([rollout.verified.reward for rollout in self.rollouts])

    @cached_property
    def baseline(self) -> Tensor:
        """[B] mean reward of the student's rollouts of the same problem; of the batch's own where that is not known."""
        return group_mean(self.rewards, self.groups) if self.student_reward is None else self.student_reward

    @cached_property
    def sampled_logp(self) -> Tensor:
        """[B] log-probability of each response according to the sampler, under the policy that sampled it."""
        return self._column([float(sum(rollout.tokens.own_logps)) for rollout in self.rollouts])

    def sampled_by(self, policy: Policy) -> bool:
        """Whether the policy's current weights sampled all of it."""
        return all(rollout.version == policy.version for rollout in self.rollouts)

    @cached_property
    def groups(self) -> Tensor:
        """[B] int: rollouts of the same problem share a number."""
        return self._column([rollout.group for rollout in self.rollouts])

    def logps(self, view: TokenBatch) -> Tensor:
        """[N] log-probability, when it was sampled, of each active response token of a minibatch."""
        return self._column([value for row in view.rows.tolist() for value in self.rollouts[row].tokens.own_logps])

    def select(self, rows: Tensor) -> Batch:
        """The rollouts at which `rows` ([B] bool) is true."""
        if bool(rows.all()):
            return self
        at = rows.nonzero()[:, 0].tolist()
        return replace(
            self,
            rollouts=[self.rollouts[i] for i in at],
            feedback=[self.feedback[i] for i in at],
            student=[self.student[i] for i in at],
            teacher=[self.teacher[i] for i in at] if self.teacher else [],
            success=self.success[rows],
            signal=self.signal[rows],
            student_reward=self.student_reward[rows] if self.student_reward is not None else None,
        )

    def _column(self, values: Sequence[float] | Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.success.device)


def about(rollout: Rollout, note: Feedback) -> list[bool]:
    """Which of a rollout's own tokens its feedback is about."""
    own = rollout.tokens.mask
    if note.turn is None or not note.signal:
        return [note.signal] * sum(own)
    start, end = rollout.own_turn(note.turn)
    return [start <= place < end for place, mine in enumerate(own) if mine]


@dataclass
class Learner:
    """Weights, teacher and settings, and what is carried from iteration to iteration.

    Attributes:
        exact: whether the sampler's log-probabilities are the policy's own (`Sampler.exact`).
        anchor: the initial weights, where the E-step's prior is fixed.
        reference: the policy that grpo's KL penalty refers to, a moving average of the student (`kl_coef`).
        beta: of the next E-step; where `kl_target` is set it follows the measured KL.
        shift: moving average of the E-step's shift, for `shift=ema`; None before the first.
        teacher_accuracy: of the teacher on held-out problems, at each evaluation that measured it.
    """

    config: RunConfig
    policy: Policy
    teacher: Teacher
    anchor: Copy | None = None
    reference: Copy | None = None
    exact: bool = False
    beta: float = field(init=False)
    shift: float | None = None
    teacher_accuracy: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.beta = self.config.beta

    def prior(self, batch: Batch) -> tuple[Tensor, Mismatch | None]:
        """[B] log pi_ref(y|x) on the plain prompt: the current student's (the sliding trust region), or the initial
        one's (`anchor=fixed`). What the sampler knows exactly is not computed again.

        Returns:
            The prior, and the mismatch of sampler and scorer where the current student sampled the batch; that of the
            teacher's own responses shows in the feedback view, which this does not read.

        Raises:
            RunFailed: where a sampler that should be exact is not.
        """
        if batch.sampled_from == TEACHER:
            return self._plain_logp(batch), None
        fresh = batch.sampled_by(self.policy)
        known = self.anchor is not None or (fresh and self.exact)
        rows = len(batch) if not known else CHECKED if fresh else 0  # a few show whether sampler and scorer agree
        prior, mismatch = self._scored(batch, batch.student[:rows], fresh) if rows else (batch.sampled_logp, None)
        if self.anchor is not None:
            prior = self._plain_logp(batch)
        elif known:
            prior = batch.sampled_logp
        return prior, mismatch

    def _plain_logp(self, batch: Batch) -> Tensor:
        """[B] log pi_ref(y|x), computed."""
        with torch.no_grad(), self.anchor.lent() if self.anchor is not None else nullcontext():
            return self.policy.score(batch.student)

    def mismatch_of_answers(self, batch: Batch) -> Mismatch | None:
        """Of sampler and scorer on a few of the teacher's own responses; None where an update has followed them."""
        if not batch.sampled_by(self.policy):
            return None
        with self.policy.as_teacher():
            return self._scored(batch, batch.teacher[:CHECKED], fresh=True)[1]

    def _scored(self, batch: Batch, views: Sequence[View], fresh: bool) -> tuple[Tensor, Mismatch | None]:
        """Log-probabilities of the first responses in these views, and their mismatch with the sampler's."""
        found = Mismatch()
        logp = self.policy.score(views, found.watching(batch) if fresh else None)
        return logp, self.checked(found.everywhere(), batch.step) if fresh else None

    def checked(self, mismatch: Mismatch, step: int) -> Mismatch:
        """The same mismatch. Raises RunFailed for too large a one where the sampler should be exact."""
        if self.exact:
            mismatch.check(step, self.config.temperature)
        return mismatch

    def after_iteration(self, e: EStep, m: MStep) -> None:
        """Update teacher and reference; after an E-step, the shift's average, and beta by the KL that it led to."""
        self.teacher.after_iteration()
        c = self.config
        if self.reference is not None:
            self.reference.follow(c.ref_rate)
        if c.e_objective == "bco" and e.delta is not None:
            self.shift = e.delta
        if c.kl_target and e.loss is not None and m.kl_teacher is not None:
            self.beta = adapted(self.beta, m.kl_teacher, c.kl_target, c.beta_min, c.beta_max)

    @property
    def e_steps_ended(self) -> bool:
        """Whether the teacher's held-out accuracy has stopped rising (`e_patience`); no E-step runs from then on."""
        patience = self.config.e_patience
        return patience > 0 and stalled(self.teacher_accuracy, patience)


def stalled(values: Sequence[float], patience: int) -> bool:
    """Whether the best of the values so far has ever stayed unsurpassed by the next `patience` ones."""
    best, since = -math.inf, 0
    for value in values:
        best, since = (value, 0) if value > best else (best, since + 1)
        if since >= patience:
            return True
    return False


def adapted(beta: float, kl: float, target: float, low: float, high: float) -> float:
    """beta doubled above 1.5 times the target KL and halved below target / 1.5, within bounds (the rule of PPO with an
    adaptive KL penalty, arXiv 1707.06347, section 4)."""
    factor = 2.0 if kl > 1.5 * target else 0.5 if kl < target / 1.5 else 1.0
    return min(max(beta * factor, low), high)
