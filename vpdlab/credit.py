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

    A group in which all rewards are equal gets exactly 0 (tested for, not left to rounding). A NaN reward gets a
    NaN advantage of its own and does not touch its siblings.
    """
    advantage = torch.full_like(rewards, float("nan"))
    for g in group.unique():
        rows = (group == g) & ~rewards.isnan()
        values = rewards[rows]
        if values.numel() == 0:
            continue
        centred = values - values.mean()
        if bool((values == values[0]).all()):
            centred = torch.zeros_like(values)
        elif scale == "std":
            centred = centred / values.std(correction=0)
        advantage[rows] = centred
    return advantage


def cost_to_go(cost: Float[Tensor, "b r"], mask: Bool[Tensor, "b r"]) -> Float[Tensor, "b r"]:
    """Sum of the costs strictly after each position: sum over i > t of cost_i (DistIL's future credit).

    Masked positions cost nothing and get 0.
    """
    cost = cost.masked_fill(~mask, 0.0)
    # Shifted before the sum, not subtracted after it: a large cost would take the digits of the small ones with it.
    later = torch.cat([cost[:, 1:], torch.zeros_like(cost[:, :1])], dim=-1)
    return later.flip(-1).cumsum(-1).flip(-1).masked_fill(~mask, 0.0)
