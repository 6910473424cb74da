"""One iteration of Variational Policy Distillation, on a page, as a value.

parts = Parts.open(RunConfig.make("tour-common"))
for step in range(1, 11):
    iteration = iterate(parts, step)        # changes the weights; everything else is in the result
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from vpdlab.learn.answers import answered
from vpdlab.learn.critic_update import reinforce_critic
from vpdlab.learn.m_step import Seen, m_step
from vpdlab.learn.parts import Parts
from vpdlab.learn.results import EStep, Mismatch, MStep
from vpdlab.learn.state import Batch
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import STUDENT, TEACHER
from vpdlab.types import Feedback, Rollout


@dataclass(frozen=True)
class Iteration:
    """What one iteration was and what came of it.

    Attributes:
        step: its number, from 1.
        rollouts, feedback: every verified rollout, and its feedback.
        batch: those that the M-step learned from, in both views.
        answers: the teacher's own responses, where the E-step or the method learned from them; else None.
        e, m: results of the two steps.
        lr, beta: learning rate of the M-step; beta of the E-step, before it was adapted.
        critic_loss: of the critic's own update (`critic_learns`); None where there was none.
        seconds: wall time of the phases "rollout" (the teacher's sampling included), "feedback", "e", "m".
    """

    step: int
    rollouts: Sequence[Rollout]
    feedback: Sequence[Feedback]
    batch: Batch
    e: EStep
    m: MStep
    lr: float
    beta: float
    critic_loss: float | None
    seconds: dict[str, float]
    answers: Batch | None = None

    @property
    def mismatch(self) -> Mismatch | None:
        """Of sampler and scorer on this iteration's rollouts; None where no pass saw the weights that sampled them."""
        return self.m.mismatch or self.e.mismatch


class Watch(Protocol):
    """Looks on while an iteration runs, and changes nothing."""

    def sampled(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """The verified rollouts, before any feedback is asked for."""

    def tokens(self, seen: Seen, dists: dict[str, TokenDist]) -> None:
        """One minibatch of the M-step and the distributions of each side, before the update."""

    def finished(self) -> None:
        """The last minibatch is through and the student is updated; called in the clock of the M-step."""


def iterate(parts: Parts, step: int, watch: Watch | None = None) -> Iteration:
    """One iteration: rollouts, feedback, an E-step where it is due, an M-step.

    Args:
        step: number of the iteration, from 1; problems and random streams are functions of it and the seed.
    """
    config, learner, method, clock = parts.config, parts.learner, parts.method, Clock()
    lr, beta = learner.policy.warm_up(step), learner.beta

    with clock("rollout"):
        rollouts = parts.verify(parts.rollouts(step))
    with clock("feedback"):
        if watch is not None:
            watch.sampled(step, rollouts)
        feedback = parts.feedback(rollouts, step)  # C, or the reason why there is none
        batch = parts.pack(rollouts, feedback, step)  # two contexts, one response axis

    e, batches = EStep(), {STUDENT: batch}
    e_step = method.e_step if config.e_every and step % config.e_every == 0 else None
    own = e_step is not None and config.e_sample == TEACHER and not learner.e_steps_ended
    if method.samples == TEACHER or own:
        with clock("rollout"):
            most = 0 if method.samples == TEACHER else config.e_answers
            batches[TEACHER] = answered(parts, batch, most)  # the teacher's own responses, verified
    if e_step is not None:
        with clock("e"):
            e = e_step(learner, batches[TEACHER if own else STUDENT])  # train the teacher, inside the trust region

    with clock("m"):
        batch = batches[method.samples]
        m = m_step(learner, batch, method, watch.tokens if watch else None)  # distil it into the student
        learner.after_iteration(e, m)  # the teacher's weights follow; beta and the shift's average are adapted
        critic_loss = reinforce_critic(learner, batch, m) if config.critic_learns else None
        if watch is not None:
            watch.finished()
    return Iteration(step, rollouts, feedback, batch, e, m, lr, beta, critic_loss, clock.seconds, batches.get(TEACHER))


class Clock:
    """Seconds spent in the phases of an iteration."""

    def __init__(self) -> None:
        self.seconds = {"rollout": 0.0, "feedback": 0.0, "e": 0.0, "m": 0.0}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started
