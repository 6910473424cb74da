"""Optimiser steps: AdamW, gradient clipping, learning-rate warm-up; over several processes, the all-reduce before
it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vpdlab import processes
from vpdlab.model import sharding


def adamw(parameters: list[torch.nn.Parameter], rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the parameters; sharded and whole ones in separate groups, since torch updates a group together."""
    fused = parameters[0].device.type in ("cpu", "cuda")  # one pass over the weights instead of a dozen
    sides = [[p for p in parameters if sharding.sharded(p) is side] for side in (False, True)]
    groups = [{"params": side} for side in sides if side]
    return torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay, fused=fused)


def update(optimizer: torch.optim.Optimizer, grad_clip: float) -> float | None:
    """Sum the gradients over all processes, clip, step and clear.

    Args:
        grad_clip: maximum norm; 0: no clipping.

    Returns:
        The gradient norm before clipping; None where it was not finite. Then, and where it is exactly 0, no weight
        changes: momentum and weight decay alone are no learning.
    """
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    processes.add_gradients([p for p in parameters if not sharding.sharded(p)])
    norm = sharding.clip(parameters, grad_clip or math.inf)
    if math.isfinite(norm) and norm > 0.0:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm if math.isfinite(norm) else None


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
