"""The methods: each is a loss, a handful of lines, and what it looks at.

VPD is SDPO's M-step with an E-step before it. A new method is one function here and one entry in `METHODS` (or, in a
notebook, `METHODS["mine"] = Method("mine", "what it does", loss=mine)`); docs/methods.md walks through one.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from vpdlab import losses, processes
from vpdlab.batch import TokenBatch
from vpdlab.config import RunConfig
from vpdlab.credit import cost_to_go, leave_one_out_mean
from vpdlab.e_step import e_step
from vpdlab.errors import UserError
from vpdlab.learner import Batch, Learner
from vpdlab.m_step import Method, Seen, survey
from vpdlab.scoring import Measure


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
    """Hybrid "joint" (VPD app. B.3): both losses, weighed."""
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
        if "baseline" in seen.told:
            later = later - seen.told["baseline"][view.rows.to(later.device), : later.shape[1]]
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
    table = torch.zeros(len(batch), int(batch.lengths.max()), device=batch.success.device)
    with torch.no_grad():
        for seen, _, _ in survey(learner, batch, method):
            later = _to_come(seen.both.divergence, seen.view, c.distil_discount)
            table[seen.view.rows.to(table.device), : later.shape[1]] = later.to(table.dtype)
    return {"baseline": leave_one_out_mean(processes.add(table), batch.groups)}


def _cross_entropy(config: RunConfig) -> Measure:
    return losses.forward_cross_entropy


def _clipped_forward_kl(config: RunConfig) -> Measure:
    return partial(losses.clipped_forward_kl, largest=config.opsd_clip)


METHODS = {
    method.name: method
    for method in (
        Method("vpd", "E-step on outcomes inside a trust region, M-step by distillation", distillation, e_step=e_step),
        Method("sdpo", "the M-step alone: distil the feedback-conditioned policy", distillation),
        Method("grpo", "outcomes alone, against the mean of their group", grpo, views="student"),
        Method("rft", "the likelihood of the successes", rejection, views="student"),
        Method("distil", "cross-entropy to the teacher, with credit for the future", distil, measure=_cross_entropy,
               prepare=_distil_baseline),
        Method("joint", "sdpo and grpo, weighed", joint, views="all"),
        Method("reshape", "grpo, the teacher's log-ratio added to the advantage", reshape, views="all"),
        Method("reweight", "grpo, the advantage scaled by the teacher", reweight, views="all"),
        Method("sdar", "grpo, and gated distillation on the sampled tokens", sdar, views="all"),
        Method("opsd", "distil the initial policy that is shown the reference solution", distillation,
               measure=_clipped_forward_kl, needs={"teacher": "frozen", "feedback": ("reference",)}),
    )
}  # fmt: skip


def get_method(name: str) -> Method:
    """Raises UserError for a name that is not in `METHODS`."""
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]


def check(method: Method, config: RunConfig) -> None:
    """Raises UserError where the settings are not those that the method is defined by, or contradict each other."""
    for name, value in method.needs.items():
        if getattr(config, name) != value:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise UserError(f"method {method.name} is defined with {name} {shown}: add --{name} {shown}")
    if config.kl_target and config.beta_min > config.beta_max:
        raise UserError(f"beta_min is {config.beta_min:g}: it must not be above beta_max, which is {config.beta_max:g}")
    if config.support == "sampled" and method.views != "student" and (config.alpha != 1.0 or method.measure):
        what = f"method {method.name} has a measure of its own" if method.measure else f"alpha is {config.alpha}"
        raise UserError(f"support sampled is reverse KL, which takes alpha 1, but {what}: choose full or topk")
