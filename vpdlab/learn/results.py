"""What the two steps of an iteration return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vpdlab import processes
from vpdlab.errors import RunFailed

if TYPE_CHECKING:
    from vpdlab.learn.state import Batch
    from vpdlab.model.batch import TokenBatch

EXACT = 1e-3  # nats per token between a sampler and a scorer that compute the same in float32


@dataclass
class Mismatch:
    """How far the scorer's log-probabilities of the sampled tokens are from the sampler's own; nats.

    Same weights, other kernels: in bfloat16, and with another engine, sampler and trainer policies differ slightly.
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
        """The mismatch over the tokens of all processes."""
        worst = max(processes.gather(self.worst))
        return Mismatch(worst, *processes.added(self._sum, self._k3, self._count))

    def check(self, step: int, temperature: float) -> None:
        """For a sampler whose log-probabilities should be the policy's own.

        Raises:
            RunFailed: where they are not: sampler and trainer policies differ.
        """
        most = EXACT / min(1.0, temperature)  # a temperature below 1 stretches all differences
        if self.worst > most:
            raise RunFailed(
                f"iteration {step}: the sampler's log-probabilities differ from the scorer's by up to"
                f" {self.worst:.2g} nats per token at the same weights (limit {most:.2g}): this model is not sampled as"
                " it is trained, so its numbers cannot be trusted; please report the model and its config.json"
            )

    @property
    def mean(self) -> float:
        """Mean |difference| a token."""
        return self._sum / max(1, self._count)

    @property
    def kl(self) -> float:
        """KL(sampler || scorer) a token, by the estimator "k3": mean of exp(d) - 1 - d, never negative."""
        return self._k3 / max(1, self._count)


@dataclass(frozen=True)
class EStep:
    """Result of an E-step. `reason` says why it did not run; the numbers are None then."""

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
    """The same after the last update, of the first few; None where the M-step's own pass will show it."""
    lengths: Tensor | None = None
    """[B'] tokens of these rollouts."""
    mismatch: Mismatch | None = None
    """Of the rollouts that it scored at the weights that sampled them; None where there were none."""


@dataclass(frozen=True)
class MStep:
    """Result of an M-step, and what its pass over the batch measured before the update.

    The teacher's numbers are None for a method without a teacher; the KLs cover rollouts with feedback.
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
    mismatch: Mismatch | None = None
    """As of `EStep`: None where an E-step has moved the student since it sampled."""
