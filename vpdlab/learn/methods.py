"""The methods: each is a loss of a few lines, the views it needs, and the settings it reads.

VPD is SDPO's M-step with an E-step before it. A new method is one function here and one entry in `METHODS`; in a
notebook, `Run.open(config, method=Method("mine", "what it does", loss=mine))`. docs/methods.md walks through one.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from vpdlab import losses, processes
from vpdlab.config import RunConfig
from vpdlab.credit import cost_to_go, leave_one_out_mean
from vpdlab.errors import UserError, refuse_handed_in
from vpdlab.learn.e_step import e_step
from vpdlab.learn.m_step import Method, Seen, survey
from vpdlab.learn.state import Batch, Learner
from vpdlab.model.batch import TokenBatch
from vpdlab.model.comparison import Measure


def distillation(seen: Seen) -> Tensor:
    """SDPO (arXiv 2601.20802), and the M-step of VPD: the divergence of student and teacher at each token."""
    return seen.mean(seen.both.divergence * seen.truncation, seen.batch.signal)


def _surrogate(seen: Seen, advantage: Tensor) -> Tensor:
    """The clipped surrogate under the given advantages, over all rollouts."""
    c = seen.config
    return seen.mean(losses.clipped_surrogate(seen.logp, seen.old_logp, advantage, c.clip_low, c.clip_high))


def grpo(seen: Seen) -> Tensor:
    """GRPO (arXiv 2402.03300), without KL: outcomes against the mean of their group."""
    return _surrogate(seen, seen.advantage)


def rejection(seen: Seen) -> Tensor:
    """Rejection fine-tuning: the likelihood of the successes."""
    return seen.mean(-seen.logp, seen.batch.success)


def joint(seen: Seen) -> Tensor:
    """Hybrid "joint" (VPD app. B.3): both losses, weighted."""
    return seen.config.opd_weight * distillation(seen) + seen.config.rl_weight * grpo(seen)


def reshape(seen: Seen) -> Tensor:
    """Hybrid "reshape" (VPD app. B.3): the teacher's log-ratio is added to the advantage of each token."""
    c = seen.config
    return _surrogate(seen, c.rl_weight * seen.advantage + c.opd_weight * seen.difference)


def reweight(seen: Seen) -> Tensor:
    """Hybrid "reweight" (VPD app. B.3): the teacher scales the advantage of each token, with a share that decays."""
    c = seen.config
    alpha = c.reweight_alpha * max(0.0, 1.0 - (seen.step - 1) / (c.reweight_steps or c.steps))
    factor = losses.reweighting(seen.advantage, seen.difference, alpha, c.reweight_clip)
    return _surrogate(seen, seen.advantage * factor)


def sdar(seen: Seen) -> Tensor:
    """SDAR (arXiv 2605.15155): GRPO, and gated distillation on the sampled tokens. Its gradient is -g_t grad log pi."""
    c = seen.config
    entropy = seen.entropy / math.log(seen.vocabulary)  # as a share of the largest there can be
    score = {
        "difference": seen.difference,
        "entropy": entropy,
        "either": 1.0 - (1.0 - entropy) * (1.0 - seen.difference),
    }[c.sdar_gate]
    pull = losses.gate(score, c.sdar_sharpness) * (seen.both.teacher_logp - seen.logp)
    return grpo(seen) + c.sdar_weight * seen.mean(pull, seen.batch.signal)


def distil(seen: Seen) -> Tensor:
    """DistIL (arXiv 2606.05152): cross-entropy to the teacher, and the credit of each token for what comes after it.

    The value of the second term means nothing; its gradient is the score function's share of the gradient of the
    expected sum of cross-entropies.
    """
    c, view, cost = seen.config, seen.view, seen.both.divergence
    loss = cost if c.distil_local else torch.zeros_like(cost)
    if c.distil_future:
        later = _to_come(cost.detach(), view, c.distil_discount)
        if "baseline" in seen.prepared:
            later = later - seen.prepared["baseline"][view.rows.to(later.device), : later.shape[1]]
        loss = loss + later[view.mask] * seen.logp
    return seen.mean(loss, seen.batch.signal)


def _to_come(cost: Tensor, view: TokenBatch, discount: float) -> Tensor:
    """[b, R] costs still to come, from [N] costs of the active tokens."""
    table = torch.zeros(view.mask.shape, dtype=cost.dtype, device=cost.device).masked_scatter(view.mask, cost)
    return cost_to_go(table, view.mask, discount)


def _distil_baseline(learner: Learner, batch: Batch, method: Method) -> dict[str, Tensor]:
    """[B, R] mean cost to come of the siblings at the same place, where the settings ask for it: one more pass."""
    c = learner.config
    if not (c.distil_baseline and c.distil_future):
        return {}
    longest = max(len(rollout.response_ids) for rollout in batch.rollouts)
    table = torch.zeros(len(batch), longest, device=batch.success.device)
    with torch.no_grad():
        for seen, _, _ in survey(learner, batch, method):
            later = _to_come(seen.both.divergence, seen.view, c.distil_discount)
            table[seen.view.rows.to(table.device), : later.shape[1]] = later.to(table.dtype)
    return {"baseline": leave_one_out_mean(processes.add(table), batch.groups)}


def _cross_entropy(config: RunConfig) -> Measure:
    return losses.forward_cross_entropy


def _clipped_forward_kl(config: RunConfig) -> Measure:
    return partial(losses.clipped_forward_kl, largest=config.opsd_clip)


DISTILS = ("alpha", "support", "top_k", "tail", "is_clip")
OUTCOMES = ("advantage", "clip_low", "clip_high")
DISTIL = ("support", "top_k", "tail", "distil_local", "distil_future", "distil_discount", "distil_baseline")

METHODS = {
    method.name: method
    for method in (
        Method("vpd", "E-step on outcomes inside a trust region, M-step by distillation", distillation, e_step=e_step,
               settings=DISTILS),
        Method("sdpo", "the M-step alone: distil the feedback-conditioned policy", distillation, settings=DISTILS),
        Method("grpo", "outcomes alone, against the mean of their group", grpo, views="student", settings=OUTCOMES),
        Method("rft", "the likelihood of the successes", rejection, views="student", settings=()),
        Method("distil", "cross-entropy to the teacher, with credit for the future", distil, measure=_cross_entropy,
               prepare=_distil_baseline, settings=DISTIL),
        Method("joint", "sdpo and grpo, weighted", joint, views="all",
               settings=(*DISTILS, *OUTCOMES, "rl_weight", "opd_weight")),
        Method("reshape", "grpo, the teacher's log-ratio added to the advantage", reshape, views="all",
               settings=(*OUTCOMES, "rl_weight", "opd_weight")),
        Method("reweight", "grpo, the advantage scaled by the teacher", reweight, views="all",
               settings=(*OUTCOMES, "reweight_alpha", "reweight_steps", "reweight_clip")),
        Method("sdar", "grpo, and gated distillation on the sampled tokens", sdar, views="all",
               settings=(*OUTCOMES, "sdar_weight", "sdar_gate", "sdar_sharpness")),
        Method("opsd", "distil the initial policy that is shown the reference solution", distillation,
               measure=_clipped_forward_kl, needs={"teacher": "frozen", "feedback": ("reference",)},
               settings=("support", "top_k", "tail", "is_clip", "opsd_clip")),
    )
}  # fmt: skip


def get_method(name: str) -> Method:
    """Raises UserError for a name that is not in `METHODS`."""
    refuse_handed_in("method", name)
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]
