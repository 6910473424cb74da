"""Credit assignment: which number each rollout, or each token, is weighted with."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def group_advantage(
    rewards: Float[Tensor, " b"], group: Int[Tensor, " b"], scale: Literal["none", "std"] = "none"
) -> Float[Tensor, " b"]:
    """A_i = r_i - mean of its group (GRPO); `scale="std"` also divides by the group's standard deviation.

    A group in which all rewards are equal, to rounding, gets exactly 0. A NaN reward gets a
    NaN advantage of its own and does not touch its siblings.
    """
    advantage = torch.full_like(rewards, float("nan"))
    for g in group.unique():
        rows = (group == g) & ~rewards.isnan()
        values = rewards[rows]
        if values.numel() == 0:
            continue
        centred = values - values.mean()
        spread = values.max() - values.min()
        # Equal to rounding is equal: divided by its deviation, rounding would become an advantage of 1.
        if bool(spread <= 8 * torch.finfo(values.dtype).eps * values.abs().max()):
            centred = torch.zeros_like(values)
        elif scale == "std":
            centred = centred / values.std(correction=0)
        advantage[rows] = centred
    return advantage


def group_mean(values: Float[Tensor, " b"], group: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The mean over the group of each rollout."""
    mean = torch.empty_like(values)
    for g in group.unique():
        rows = group == g
        mean[rows] = values[rows].mean()
    return mean


def tilted_weight(
    rewards: Float[Tensor, " b"],
    group: Int[Tensor, " b"],
    beta: float,
    log_ratio: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Self-normalised weights of the reward-tilted prior: exp(r / beta) / its sum over the group.

    Responses that pi has sampled, weighted so, stand for pi*(y|x), which is pi(y|x) exp(r / beta) / Z(x) (VPD section
    3.1). The weights of a group add up to 1.

    Args:
        log_ratio: log pi - log mu of each response where another policy mu has sampled it; added in the exponent.
    """
    exponent = rewards / beta if log_ratio is None else rewards / beta + log_ratio
    weight = torch.zeros_like(exponent)
    for g in group.unique():
        rows = group == g
        weight[rows] = torch.softmax(exponent[rows], dim=0)
    return weight


def leave_one_out_mean(values: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Mean over the other rollouts of the group: a baseline that does not depend on the rollout's own response.

    A rollout that is alone in its group gets 0.
    """
    baseline = torch.zeros_like(values)
    for g in group.unique():
        rows = group == g
        others = int(rows.sum()) - 1
        if others:
            baseline[rows] = (values[rows].sum(0) - values[rows]) / others
    return baseline


def cost_to_go(cost: Float[Tensor, "b r"], mask: Bool[Tensor, "b r"], discount: float = 1.0) -> Float[Tensor, "b r"]:
    """Costs strictly after each position: sum over i > t of discount^(i-t) cost_i (DistIL's future credit).

    Masked positions cost nothing and get 0.
    """
    cost = cost.masked_fill(~mask, 0.0)
    if discount != 1.0:
        later = torch.zeros_like(cost)
        for t in range(cost.shape[1] - 2, -1, -1):
            later[:, t] = discount * (cost[:, t + 1] + later[:, t + 1])
        return later.masked_fill(~mask, 0.0)
    # Shifted before the sum, not subtracted after it: a large cost would take the digits of the small ones with it.
    later = torch.cat([cost[:, 1:], torch.zeros_like(cost[:, :1])], dim=-1)
    return later.flip(-1).cumsum(-1).flip(-1).masked_fill(~mask, 0.0)
