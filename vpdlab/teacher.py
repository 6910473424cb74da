"""The teacher of the M-step: which weights read the feedback prompt.

The paper's tables list a teacher update rate, its text speaks of shared weights; both are here. The E-step always
trains the live weights (or the teacher's own adapter); a kind decides what of that the M-step sees.

============  =============================================================================================
shared        the live weights
ema           their moving average: w' = (1 - rate) w' + rate w, after each iteration
snapshot      a copy taken at the start and after each E-step
frozen        the initial weights
trust-region  q proportional to exp((1 - a) log q_frozen + a log q_live), both on the feedback prompt (SDPO)
adapter       a LoRA adapter of its own on the shared base, which the E-step alone trains
============  =============================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from vpdlab import sharding
from vpdlab.batch import TokenBatch
from vpdlab.policy import Policy
from vpdlab.scoring import TokenDist


class Copy:
    """A copy of a policy's trainable weights that can be lent to the model for a while."""

    def __init__(self, policy: Policy) -> None:
        self._live = policy.parameters
        self.values = [p.detach().clone() for p in self._live]

    def follow(self, rate: float) -> None:
        """Move toward the live weights; a rate of 1 takes them over."""
        for mine, live in zip(self.values, self._live, strict=True):
            sharding.local(mine).lerp_(sharding.local(live.detach()), rate)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Within the block the model computes with these weights. Only for passes without gradient."""
        if torch.is_grad_enabled():
            raise RuntimeError("weights are lent for passes without gradient only")
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, live in enumerate(self._live):
            self.values[index] = sharding.exchange(live, self.values[index])


class Teacher:
    """The M-step's teacher of the kind that the config names, or of `kind`.

    Attributes:
        live: whether the M-step's teacher computes with the very weights that the E-step trains.
    """

    def __init__(self, policy: Policy, kind: str = "") -> None:
        self._policy, self._config = policy, policy.config
        self.kind = kind or policy.config.teacher
        self.live = self.kind in ("shared", "adapter")
        self._copy = None if self.live else Copy(policy)

    @property
    def kept(self) -> Copy | None:
        """The weights that it keeps beside the live ones; None for a kind that keeps none."""
        return self._copy

    def states(self, batch: TokenBatch) -> TokenDist:
        """The teacher's distributions at the active response tokens of a feedback-view batch; no gradient."""
        with torch.no_grad():
            if self._copy is None or self.kind == "trust-region":
                with self._policy.as_teacher():
                    live = self._policy.states(batch)
                if self._copy is None:
                    return live
            with self._copy.lent():
                copied = self._policy.states(batch)
        if self.kind != "trust-region":
            return copied
        mix = self._config.trust_mix
        return TokenDist(
            (replace(copied.terms[0], weight=1.0 - mix), replace(live.terms[0], weight=mix)), copied.temperature
        )

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Let the model be this teacher for sampling. The trust-region mixture samples its live half."""
        with torch.no_grad(), contextlib.ExitStack() as stack:
            if self._copy is not None and self.kind != "trust-region":
                stack.enter_context(self._copy.lent())
            else:
                stack.enter_context(self._policy.as_teacher())
            yield

    def after_e_step(self) -> None:
        """Called when the E-step has ended."""
        if self.kind == "snapshot" and self._copy is not None:
            self._copy.follow(1.0)

    def after_iteration(self) -> None:
        """Called when the M-step has ended."""
        if self.kind == "ema" and self._copy is not None:
            self._copy.follow(self._config.teacher_rate)
