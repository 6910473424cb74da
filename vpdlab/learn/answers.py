"""The teacher's own responses: what it answers itself, shown the feedback on each rollout of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpdlab.learn.state import Batch
from vpdlab.model.policy import TEACHER
from vpdlab.sampling import Sampling
from vpdlab.types import Rollout, View

if TYPE_CHECKING:
    from vpdlab.learn.parts import Parts


def answered(parts: Parts, batch: Batch, most: int = 0) -> Batch:
    """One response y ~ q(y|x,C) to each rollout with feedback, verified by the task; C is the feedback on that rollout.

    The weights that sample are those that the E-step trains, and temperature and length are the rollouts'. Random
    streams are functions of seed, iteration, problem and index, like those of the rollouts, and differ from them.

    Args:
        most: above 0, respond to this many rollouts of each problem, the first ones with feedback (`e_answers`).

    Returns:
        The responses in both views, as many as `batch` has such rollouts and in their order. Their `logps` are log q,
        so that `batch.sampled_from` says "teacher".
    """
    batch = batch.select(batch.signal)
    batch = batch.select(_first(batch.groups, most)) if most else batch
    rollouts = _sampled(parts, batch) if len(batch) else []
    success = [rollout.success for rollout in rollouts]
    return replace(
        batch, rollouts=rollouts, student=_moved(batch.student, rollouts), teacher=_moved(batch.teacher, rollouts),
        success=torch.tensor(success, dtype=torch.bool, device=batch.success.device), sampled_from=TEACHER,
    )  # fmt: skip


def _first(groups: Tensor, most: int) -> Tensor:
    """[B] bool: the first `most` rows of each group."""
    row = torch.arange(len(groups), device=groups.device)
    earlier = (groups == groups[:, None]) & (row < row[:, None])
    return earlier.sum(1) < most


def _sampled(parts: Parts, batch: Batch) -> list[Rollout]:
    """The verified responses; each keeps the group, the index and the plain prompt of the rollout that it follows."""
    config = parts.config
    with torch.no_grad(), parts.policy.as_teacher():
        drawn = parts.sample(
            [rollout.problem for rollout in batch.rollouts], 1,
            Sampling(config.temperature, 1.0, config.max_new_tokens), purpose="teacher answers", step=batch.step,
            version=parts.policy.version, contexts=[view.context_ids for view in batch.teacher],
        )  # fmt: skip
    return parts.verify(
        [
            replace(answer, group=rollout.group, index=rollout.index, prompt_ids=rollout.prompt_ids)
            for answer, rollout in zip(drawn, batch.rollouts, strict=True)
        ]
    )


def _moved(views: Sequence[View], rollouts: Sequence[Rollout]) -> list[View]:
    """The same contexts with other responses."""
    return [
        replace(view, response_ids=rollout.response_ids, mask=rollout.mask)
        for view, rollout in zip(views, rollouts, strict=True)
    ]
