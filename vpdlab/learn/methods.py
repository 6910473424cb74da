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
from vpdlab.model.distributions import Measure
from vpdlab.model.policy import TEACHER


def distillation(seen: Seen) -> Tensor:
    """SDPO (arXiv 2601.20802), and the M-step of VPD: the divergence of student and teacher at each token."""
    return seen.heard_mean(seen.both.divergence * seen.truncation)


def _surrogate(seen: Seen, advantage: Tensor) -> Tensor:
    """The clipped surrogate under the given advantages, over all rollouts."""
    c = seen.config
    return seen.mean(losses.clipped_surrogate(seen.logp, seen.old_logp, advantage, c.clip_low, c.clip_high))


def grpo(seen: Seen) -> Tensor:
    """GRPO (arXiv 2402.03300): outcomes against the mean of their group; where `kl_coef` asks for it, with its KL
    penalty, which keeps the student near a moving average of itself."""
    loss = _surrogate(seen, seen.advantage)
    if "reference" not in seen.prepared:
        return loss
    view, table = seen.view, seen.prepared["reference"]
    reference = table[view.rows.to(table.device), : view.mask.shape[1]][view.mask].to(seen.logp.dtype)
    return loss + seen.config.kl_coef * seen.mean(losses.kl_penalty(seen.logp, reference))


def _reference(learner: Learner, batch: Batch, method: Method) -> dict[str, Tensor]:
    """[B, R] log-probability of each token under the reference policy, where there is one: one more pass."""
    if learner.reference is None:
        return {}
    table = _empty(batch)
    with torch.no_grad(), learner.reference.lent():
        for (view,) in learner.policy.minibatches(batch.student):
            _fill(table, view, _spread(learner.policy.token_logp(view), view))
    return {"reference": processes.add(table)}


def nsr(seen: Seen) -> Tensor:
    """Negative sample reinforcement (arXiv 2506.01347): one fixed negative advantage on failures, and nothing else.

    The control without a teacher: what distillation gains only by making wrong tokens less likely, this gains too.
    """
    failure = (~seen.batch.success).to(seen.logp.dtype)[seen.rows]
    return _surrogate(seen, -seen.config.nsr_weight * failure)


def rltf(seen: Seen) -> Tensor:
    """RLTF-SD (arXiv 2602.02482): attempts made with feedback, taught to the plain prompt by their advantage.

    The baseline is the mean reward of the student's own rollouts: where feedback makes every attempt right, the mean of
    the attempts would leave nothing to learn. As in the paper there are no importance weights.
    """
    advantage = (seen.batch.rewards - seen.batch.baseline).to(seen.logp.dtype)[seen.rows]
    return seen.mean(-advantage * seen.logp)


def pi_distill(seen: Seen) -> Tensor:
    """pi-Distill (arXiv 2602.04942): teacher and student learn together from the teacher's own responses.

    The teacher maximises E_q[A] - beta KL(q || sg pi), with the weight `pi_alpha`; the student, with the rest,
    E_q[(pi / sg q) A] - beta KL(sg q || pi). A is the group advantage; ratios are per token and clipped; the KLs are
    exact at each token.
    """
    c, teacher = seen.config, seen.reverse
    assert teacher is not None  # of a joint method
    student = _surrogate(seen, seen.advantage) + c.beta * seen.mean(seen.both.divergence)
    terms = losses.clipped_surrogate(teacher.student_logp, seen.old_logp, seen.advantage, c.clip_low, c.clip_high)
    return c.pi_alpha * seen.mean(terms + c.beta * teacher.divergence) + (1.0 - c.pi_alpha) * student


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
    """SDAR (arXiv 2605.15155): GRPO, and gated distillation on the sampled tokens. Its gradient is -g_t grad log pi.

    Of an episode the outcome weights all of the policy's turns, each token has a gate of its own, and the environment's
    tokens have neither.
    """
    c = seen.config
    entropy = seen.entropy / math.log(seen.vocabulary)  # as a share of the largest there can be
    score = {
        "difference": seen.difference,
        "entropy": entropy,
        "either": 1.0 - (1.0 - entropy) * (1.0 - seen.difference),
    }[c.sdar_gate]
    pull = losses.gate(score, c.sdar_sharpness) * (seen.both.teacher_logp - seen.logp)
    return grpo(seen) + c.sdar_weight * seen.heard_mean(pull)


def distil(seen: Seen) -> Tensor:
    """DistIL (arXiv 2606.05152): cross-entropy to the teacher, and the credit of each token for what comes after it.

    The value of the second term means nothing; its gradient is the score function's share of the gradient of the
    expected sum of cross-entropies.
    """
    c, view, cost = seen.config, seen.view, seen.both.divergence
    loss = cost if c.distil_local else torch.zeros_like(cost)
    if c.distil_future:
        later = cost_to_go(_spread(cost.detach() * seen.heard, view), view.mask, c.distil_discount)
        if "baseline" in seen.prepared:
            later = later - seen.prepared["baseline"][view.rows.to(later.device), : later.shape[1]]
        loss = loss + later[view.mask] * seen.logp
    return seen.heard_mean(loss)


def _spread(values: Tensor, view: TokenBatch) -> Tensor:
    """[b, R] from [N] values of the active tokens; 0 elsewhere."""
    return torch.zeros(view.mask.shape, dtype=values.dtype, device=values.device).masked_scatter(view.mask, values)


def _empty(batch: Batch) -> Tensor:
    """[B, R] zeros for numbers of all response tokens."""
    longest = max(len(rollout.response_ids) for rollout in batch.rollouts)
    return torch.zeros(len(batch), longest, device=batch.success.device)


def _fill(table: Tensor, view: TokenBatch, values: Tensor) -> None:
    """Enter the [b, R] values of a minibatch."""
    table[view.rows.to(table.device), : values.shape[1]] = values.to(table.dtype)


def _distil_baseline(learner: Learner, batch: Batch, method: Method) -> dict[str, Tensor]:
    """[B, R] mean cost to come of the siblings at the same place, where the settings ask for it: one more pass."""
    c = learner.config
    if not (c.distil_baseline and c.distil_future):
        return {}
    table = _empty(batch)
    with torch.no_grad():
        for seen, _, _ in survey(learner, batch, method):
            cost = _spread(seen.both.divergence, seen.view)
            _fill(table, seen.view, cost_to_go(cost, seen.view.mask, c.distil_discount))
    return {"baseline": leave_one_out_mean(processes.add(table), batch.groups)}


def _cross_entropy(config: RunConfig) -> Measure:
    return losses.forward_cross_entropy


def _forward_kl(config: RunConfig) -> Measure:
    return partial(losses.token_divergence, alpha=0.0)


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
        Method("grpo", "outcomes alone, against the mean of their group", grpo, views="student", prepare=_reference,
               settings=(*OUTCOMES, "kl_coef", "ref_rate")),
        Method("nsr", "one fixed negative advantage on failures", nsr, views="student",
               settings=("nsr_weight", "clip_low", "clip_high")),
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
        Method("rltf", "attempts made with feedback, taught to the plain prompt by their advantage", rltf,
               samples=TEACHER, settings=()),
        Method("pi-distill", "teacher and student by policy gradient, on the teacher's own responses", pi_distill,
               samples=TEACHER, joint=True, measure=_forward_kl, needs={"teacher": "shared"},
               settings=("support", "top_k", "tail", *OUTCOMES, "pi_alpha")),
    )
}  # fmt: skip


def get_method(name: str) -> Method:
    """Raises UserError for a name that is not in `METHODS`."""
    refuse_handed_in("method", name)
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]
