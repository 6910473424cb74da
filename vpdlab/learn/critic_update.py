"""An experiment: reinforce the critiques that lowered the teacher's probability of failures (a co-evolving judge)."""

from __future__ import annotations

import torch

from vpdlab import losses, processes
from vpdlab.credit import group_advantage
from vpdlab.learn.results import MStep
from vpdlab.learn.state import Batch, Learner
from vpdlab.model.policy import STUDENT
from vpdlab.types import SampledText, View

SETTINGS = ("critic_weight", "clip_low", "clip_high")
"""Fields of RunConfig that this update reads; the clips are those of the student's policy gradient."""


def reinforce_critic(learner: Learner, batch: Batch, m: MStep) -> float | None:
    """One clipped policy-gradient update on the critiques of the batch's failures that the policy wrote itself.

    The reward of a critique is how much less likely, per token, it made the failed response. Standardised over the
    batch, it weights the critique's own tokens.

    Returns:
        The loss; None where fewer than two critiques can be compared.
    """
    if m.teacher_logp is None or m.student_logp is None:
        return None
    kept = [
        (row, one.sampled) for row, one in enumerate(batch.feedback)
        if one.sampled is not None and one.source == "critique" and not one.noise and not batch.rollouts[row].success
    ]  # fmt: skip
    if len(kept) < 2:
        return None
    rows = [row for row, _ in kept]
    rewards = (m.student_logp - m.teacher_logp)[rows] / batch.lengths[rows]
    return _update(learner, [text for _, text in kept], rewards)


def _update(learner: Learner, critiques: list[SampledText], rewards: torch.Tensor) -> float:
    policy, c = learner.policy, learner.config
    advantage = group_advantage(rewards, torch.zeros(len(critiques), dtype=torch.long, device=rewards.device), "std")
    views = [View(critique.context_ids, critique.tokens.ids, mask=critique.tokens.mask) for critique in critiques]
    count = sum(sum(view.mask) for view in views)
    policy.fresh()
    total = 0.0
    for (view,) in policy.minibatches(views):
        lengths, logp = view.mask.sum(1), policy.token_logp(view)
        old = torch.tensor(
            [x for row in view.rows.tolist() for x in critiques[row].tokens.own_logps], device=logp.device
        )
        weight = advantage[view.rows.to(advantage.device)].repeat_interleave(lengths)
        terms = losses.clipped_surrogate(logp, old.to(logp.dtype), weight.to(logp.dtype), c.clip_low, c.clip_high)
        loss = c.critic_weight * terms.sum() / count
        policy.backward(loss)
        total += loss.item()
    policy.update(STUDENT)
    return processes.added(total)[0]
