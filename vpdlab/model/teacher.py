"""The teacher of the M-step: which weights read the feedback prompt.

The paper's tables list a teacher update rate, its text speaks of shared weights; both are here. The E-step always
trains the live weights (or the teacher's own adapter); a kind decides what of that the M-step sees. A new kind is one
class here with its entry in `KINDS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch

from vpdlab.errors import UserError
from vpdlab.model import sharding
from vpdlab.model.batch import TokenBatch
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import Policy


class Copy:
    """A copy of a policy's trainable weights that can be lent to the model for a while."""

    def __init__(self, policy: Policy) -> None:
        self._live = policy.parameters
        self.values = [p.detach().clone() for p in self._live]

    def follow(self, rate: float) -> None:
        """Move toward the live weights; a rate of 1 copies them."""
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
    """A teacher that computes with the very weights that the E-step trains: kind "shared" and base of the others.

    Attributes:
        live: whether the M-step's teacher computes with the weights that the E-step trains.
        kept: a copy of weights that it holds beside the live ones; None for none.
        settings: fields of RunConfig that only this kind reads.
    """

    live: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.kept: Copy | None = None if self.live else Copy(policy)

    def token_dist(self, batch: TokenBatch) -> TokenDist:
        """The teacher's distributions at the active response tokens of a feedback-view batch; no gradient."""
        with torch.no_grad(), self.playing():
            return self.policy.token_dist(batch)

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Within the block the model is this teacher, for sampling or scoring without gradient."""
        with torch.no_grad(), self.policy.as_teacher() if self.kept is None else self.kept.lent():
            yield

    def after_e_step(self) -> None:
        """Called at the end of each E-step."""

    def after_iteration(self) -> None:
        """Called at the end of each iteration, after the M-step."""


class AdapterTeacher(Teacher):
    """A LoRA adapter of its own on the shared base, trained by the E-step alone (`Policy.as_teacher` switches it)."""

    settings = ("adapter_rank",)


class EMATeacher(Teacher):
    """The moving average of the live weights: w' = (1 - rate) w' + rate w, after each iteration."""

    live = False
    settings = ("teacher_rate",)

    def after_iteration(self) -> None:
        assert self.kept is not None
        self.kept.follow(self.policy.config.teacher_rate)


class SnapshotTeacher(Teacher):
    """A copy of the live weights, taken at the start and after each E-step."""

    live = False

    def after_e_step(self) -> None:
        assert self.kept is not None
        self.kept.follow(1.0)


class FrozenTeacher(Teacher):
    """The initial weights."""

    live = False


class TrustRegionTeacher(Teacher):
    """q proportional to exp((1 - a) log q_frozen + a log q_live), both on the feedback prompt (SDPO, arXiv 2601.20802).

    Sampling plays its live half: the mixture exists for scoring only.
    """

    live = False
    settings = ("trust_mix",)

    def token_dist(self, batch: TokenBatch) -> TokenDist:
        assert self.kept is not None
        with torch.no_grad():
            with self.policy.as_teacher():
                live = self.policy.token_dist(batch)
            with self.kept.lent():
                frozen = self.policy.token_dist(batch)
        mix = self.policy.config.trust_mix
        terms = replace(frozen.terms[0], weight=1.0 - mix), replace(live.terms[0], weight=mix)
        return TokenDist(terms, frozen.temperature)

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        with torch.no_grad(), self.policy.as_teacher():
            yield


KINDS: dict[str, type[Teacher]] = {
    "shared": Teacher, "ema": EMATeacher, "snapshot": SnapshotTeacher, "frozen": FrozenTeacher,
    "trust-region": TrustRegionTeacher, "adapter": AdapterTeacher,
}  # fmt: skip
"""Value of `teacher` -> class."""


def teacher_kind(name: str) -> type[Teacher]:
    """The class of a teacher kind. Raises UserError for a name that is not in `KINDS`."""
    if name not in KINDS:
        raise UserError(f"teacher is {name!r}: choose one of {', '.join(KINDS)}")
    return KINDS[name]
