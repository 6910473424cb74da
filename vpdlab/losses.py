"""The losses: pure functions, no model, no batch, no reduction that is not named.

All take normalised log-probabilities in nats. `alpha` is SDPO's (arXiv 2601.20802): 0 is forward KL(T||S),
1 is reverse KL(S||T), between is the generalised Jensen-Shannon divergence, which tends to 0 at both ends, so
that 0 and 1 are cases of their own and not limits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def kl(p_logp: Float[Tensor, "*n k"], q_logp: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """KL(P||Q) over the last axis, in nats.

    A token with P = 0 (log-probability -inf, or so low that its exponential underflows) adds exactly 0, to the value
    and to the gradient. The input is masked, not the output: `where` on the output would hide a NaN in the value and
    leave it in the gradient.
    """
    absent = p_logp < math.log(torch.finfo(p_logp.dtype).tiny)
    p, q = p_logp.masked_fill(absent, 0.0), q_logp.masked_fill(absent, 0.0)
    return (p.exp() * (p - q)).masked_fill(absent, 0.0).sum(-1)


def token_divergence(
    student_logp: Float[Tensor, "*n k"], teacher_logp: Float[Tensor, "*n k"], alpha: float
) -> Float[Tensor, "*n"]:
    """Divergence of student S and teacher T at each position, in nats (METHOD: VPD section 3.3, SDPO eq. 3).

    Args:
        student_logp, teacher_logp: log-probabilities on a common support of K tokens, each summing to 1.
        alpha: 0: KL(T||S). 1: KL(S||T). Between: (1-a) KL(S||M) + a KL(T||M) with M = (1-a) S + a T; the
            gradient also goes through M.

    Raises:
        ValueError: for alpha outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, but must be between 0 and 1")
    if alpha == 0.0:
        return kl(teacher_logp, student_logp)
    if alpha == 1.0:
        return kl(student_logp, teacher_logp)
    # Where both are 0 the mixture is too, and the gradient of logaddexp(-inf, -inf) is NaN: mask the input.
    absent = torch.isneginf(student_logp) & torch.isneginf(teacher_logp)
    student, teacher = student_logp.masked_fill(absent, 0.0), teacher_logp.masked_fill(absent, 0.0)
    mixture = torch.logaddexp(student + math.log(1.0 - alpha), teacher + math.log(alpha))
    return (1.0 - alpha) * kl(student_logp, mixture) + alpha * kl(teacher_logp, mixture)


def add_tail(logp: Float[Tensor, "*n k"], tail: Float[Tensor, "*n 1"] | None = None) -> Float[Tensor, "*n k+1"]:
    """Append the mass outside the support as one more outcome: log(1 - sum p).

    Computed as log(-expm1(logsumexp)). Where the support holds all the mass (to rounding), the tail is held at
    the type's epsilon, with gradient 0: log(0) would make both value and gradient useless.

    Args:
        tail: its logarithm, where the caller has summed the other tokens: exact where the support holds nearly all
            the mass and 1 - sum p would lose its digits.
    """
    if tail is not None:
        return torch.cat([logp, tail], dim=-1)
    total = logp.logsumexp(-1, keepdim=True)
    total = total.clamp(max=-torch.finfo(logp.dtype).eps)
    return torch.cat([logp, torch.log(-torch.expm1(total))], dim=-1)


def sampled_divergence(student_logp: Float[Tensor, "*n"], teacher_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Reverse KL on the sampled token, in score-function form: sg(log S - log T) log S.

    Its gradient is an unbiased estimate of that of KL(S||T) where the token was sampled from S; its value is
    not a divergence.
    """
    return (student_logp - teacher_logp).detach() * student_logp


def forward_cross_entropy(
    student_logp: Float[Tensor, "*n k"], teacher_logp: Float[Tensor, "*n k"]
) -> Float[Tensor, "*n"]:
    """H(T, S) = -sum T log S at each position, in nats (DistIL, arXiv 2606.05152). T takes no gradient."""
    teacher = teacher_logp.detach().exp()
    absent = teacher == 0
    return -(teacher * student_logp.masked_fill(absent, 0.0)).sum(-1)


def implicit_reward(
    teacher_logp: Float[Tensor, " b"], prior_logp: Float[Tensor, " b"], beta: float
) -> Float[Tensor, " b"]:
    """r~ = beta (log q(y|x,C) - log pi(y|x)): sums over response tokens, in units of reward."""
    return beta * (teacher_logp - prior_logp)


def margin(reward: Float[Tensor, " b"], success: Bool[Tensor, " b"]) -> float | None:
    """Mean implicit reward of successes minus that of failures (the paper's Figure 1); None if one is absent."""
    if not success.any() or success.all():
        return None
    return (reward[success].mean() - reward[~success].mean()).item()


def reward_shift(
    teacher_logp: Float[Tensor, " b"], prior_logp: Float[Tensor, " b"], success: Bool[Tensor, " b"], beta: float
) -> Float[Tensor, ""]:
    """delta = (mean r~ of successes + mean r~ of failures) / 2, without gradient (VPD Algorithm 1).

    Raises:
        ValueError: where one of the classes is absent, since half of the mean does not exist then.
    """
    if not success.any() or success.all():
        raise ValueError("the shift needs at least one success and one failure")
    reward = implicit_reward(teacher_logp, prior_logp, beta).detach()
    return (reward[success].mean() + reward[~success].mean()) / 2


def bco_loss(
    teacher_logp: Float[Tensor, " b"],
    prior_logp: Float[Tensor, " b"],
    success: Bool[Tensor, " b"],
    beta: float,
    shift: Float[Tensor, ""] | float,
    n_success: int | None = None,
    n_failure: int | None = None,
) -> Float[Tensor, ""]:
    """Binary classifier optimisation of the teacher, unpaired (VPD eq. for the E-step; BCO, arXiv 2404.04656).

    -mean over successes of log sigmoid(r~ - shift) - mean over failures of log sigmoid(-(r~ - shift)).

    Args:
        teacher_logp: sums over response tokens under the feedback view; the only input that takes gradient.
        prior_logp: sums under the student's plain view, frozen for the whole E-step.
        n_success, n_failure: class sizes of the whole update, where these rows are a minibatch of it: the losses
            of the minibatches then add up to the loss of the whole. Default: the sizes found in `success`.

    Returns:
        A scalar that is attached to the graph even where a class, or everything, is absent (then 0 for it).
    """
    logit = implicit_reward(teacher_logp, prior_logp.detach(), beta) - shift
    return _by_class(-F.logsigmoid(torch.where(success, logit, -logit)), success, n_success, n_failure)


def _by_class(
    loss: Float[Tensor, " b"], success: Bool[Tensor, " b"], n_success: int | None, n_failure: int | None
) -> Float[Tensor, ""]:
    """Mean over successes plus mean over failures; an absent class adds 0."""
    right = loss[success].sum() / max(1, int(success.sum()) if n_success is None else n_success)
    wrong = loss[~success].sum() / max(1, int((~success).sum()) if n_failure is None else n_failure)
    return right + wrong


def kto_loss(
    teacher_logp: Float[Tensor, " b"],
    prior_logp: Float[Tensor, " b"],
    success: Bool[Tensor, " b"],
    beta: float,
    reference: Float[Tensor, ""] | float,
    n_success: int | None = None,
    n_failure: int | None = None,
) -> Float[Tensor, ""]:
    """Kahneman-Tversky optimisation of the teacher, unpaired (KTO, arXiv 2402.01306, eq. 8), the classes in balance.

    mean over successes of 1 - sigmoid(r~ - z) + mean over failures of 1 - sigmoid(z - r~). Unlike BCO's, its gradient
    vanishes at both ends: a hopeless rollout pulls as little as one that is settled.

    Args:
        reference: z, the reference point, without gradient (`kto_reference`).
        n_success, n_failure: as in `bco_loss`.
    """
    logit = implicit_reward(teacher_logp, prior_logp.detach(), beta) - reference
    return _by_class(torch.sigmoid(torch.where(success, -logit, logit)), success, n_success, n_failure)


def kto_reference(teacher_logp: Float[Tensor, " b"], prior_logp: Float[Tensor, " b"], beta: float) -> Float[Tensor, ""]:
    """KTO's reference point z = max(0, mean r~) over the batch, without gradient.

    KTO estimates beta KL(q||pi) on responses to other prompts; here the batch's own responses stand in, so that no
    pass over mismatched pairs is needed.
    """
    return implicit_reward(teacher_logp, prior_logp, beta).detach().mean().clamp(min=0.0)


def weighted_likelihood_loss(teacher_logp: Float[Tensor, " b"], weight: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """-sum_i w_i log q(y_i|x,C_i): advantage-weighted regression (AWR, arXiv 1910.00177).

    With `credit.tilted_weight` it is the importance-sampled KL(pi*||q) up to a constant, where pi* is the prior tilted
    by exp(r / beta).
    """
    return -(weight.detach() * teacher_logp).sum()


def elbo_policy_gradient_loss(
    teacher_logp: Float[Tensor, " b"],
    prior_logp: Float[Tensor, " b"],
    reward: Float[Tensor, " b"],
    beta: float,
    baseline: Float[Tensor, " b"] | float = 0.0,
    max_ratio: float = math.inf,
    sampled_logp: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Policy gradient of E_q[r] - beta KL(q||pi), from responses that pi, or another mu, has sampled; a sum over them.

    -sum_i sg(w_i (r_i - beta log(q_i / pi_i) - b_i)) log q_i, with the ratio of whole sequences w = q / mu cut at
    `max_ratio`. Where nothing is cut and the baseline does not depend on the response, the mean of its gradient is
    exact.

    Args:
        prior_logp: sums under pi, the anchor of the KL.
        sampled_logp: sums under mu, the distribution that sampled; default pi.
    """
    log_ratio = (teacher_logp - prior_logp).detach()
    weight = log_ratio if sampled_logp is None else (teacher_logp - sampled_logp).detach()
    weight = weight.clamp(max=LARGEST_LOG_RATIO).exp().clamp(max=max_ratio)
    return -(weight * (reward - beta * log_ratio - baseline) * teacher_logp).sum()


# exp() of anything above 88 is inf in float32; a ratio of e^20 is far outside every clip anyway.
LARGEST_LOG_RATIO = 20.0


def importance_ratio(logp: Float[Tensor, "*n"], old_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """pi / pi_old, with the logarithm held within +-20 so that nothing overflows."""
    return (logp - old_logp.detach()).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def truncated_weight(logp: Float[Tensor, "*n"], old_logp: Float[Tensor, "*n"], largest: float) -> Float[Tensor, "*n"]:
    """Truncated importance weight min(pi / pi_old, largest), without gradient (SDPO's importance-sampling clip)."""
    return importance_ratio(logp, old_logp).detach().clamp(max=largest)


def clipped_surrogate(
    logp: Float[Tensor, "*n"],
    old_logp: Float[Tensor, "*n"],
    advantage: Float[Tensor, "*n"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "*n"]:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) at each token (PPO; `high` > `low` is DAPO's clip-higher)."""
    ratio = importance_ratio(logp, old_logp)
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage)


def kl_penalty(logp: Float[Tensor, "*n"], reference_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """KL(pi||reference) at each token that pi has sampled, by k3: exp(d) - 1 - d, d = log ref - log pi (2402.03300)."""
    gap = (reference_logp.detach() - logp).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return gap.expm1() - gap


def policy_gradient_loss(
    logp: Float[Tensor, "b r"],
    old_logp: Float[Tensor, "b r"],
    advantage: Float[Tensor, " b"] | Float[Tensor, "b r"],
    mask: Bool[Tensor, "b r"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, ""]:
    """GRPO's loss: `clipped_surrogate` as a mean over active tokens.

    Masked positions may hold anything, NaN included: they are masked before they are used.
    """
    advantage = advantage[:, None].expand_as(logp) if advantage.dim() == 1 else advantage
    logp, old_logp, advantage = (values.masked_fill(~mask, 0.0) for values in (logp, old_logp, advantage))
    return clipped_surrogate(logp, old_logp, advantage, clip_low, clip_high).sum() / mask.sum().clamp(min=1)


def reweighting(
    advantage: Float[Tensor, "*n"], difference: Float[Tensor, "*n"], alpha: float, clip: float
) -> Float[Tensor, "*n"]:
    """The factor of hybrid "reweight" on an advantage: (1 - a) + a clip(exp(sign(A) D), 1 - e, 1 + e) (VPD app. B.3).

    Args:
        difference: D = log q - log pi of the sampled token. Where the teacher agrees with the sign of the advantage
            the token counts for more, where it disagrees for less.
        alpha: share of the teacher's say; it decays over a run.
        clip: e.
    """
    ratio = (advantage.sign() * difference).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    return ((1.0 - alpha) + alpha * ratio.clamp(1.0 - clip, 1.0 + clip)).detach()


def gate(score: Float[Tensor, "*n"], sharpness: float) -> Float[Tensor, "*n"]:
    """SDAR's gate sigmoid(b score), without gradient (arXiv 2605.15155)."""
    return torch.sigmoid(sharpness * score).detach()


def clipped_forward_kl(
    student_logp: Float[Tensor, "*n k"], teacher_logp: Float[Tensor, "*n k"], largest: float
) -> Float[Tensor, "*n"]:
    """Forward KL(T||S) whose term of each vocabulary entry is cut from above: sum_v min(T (log T - log S), c).

    OPSD (arXiv 2601.18734): a few entries, often of style, would lead the whole update. A term that is cut has no
    gradient.
    """
    teacher = teacher_logp.detach()
    absent = teacher < math.log(torch.finfo(teacher.dtype).tiny)  # as in `kl`: exactly 0, in value and gradient
    t, s = teacher.masked_fill(absent, 0.0), student_logp.masked_fill(absent, 0.0)
    return (t.exp() * (t - s)).clamp(max=largest).masked_fill(absent, 0.0).sum(-1)
