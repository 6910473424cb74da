"""How many padded tokens a minibatch of the update may have, where the settings leave that to the device's memory.

On an NVIDIA GPU the memory of one update is measured at two sizes when a run opens, and extrapolated to what is free.
On other devices a minibatch has `policy.FIXED_TOKENS` and layers keep their activations: results there do not depend on
how much memory happens to be free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vpdlab import processes
from vpdlab.errors import notice
from vpdlab.model.batch import collate
from vpdlab.model.comparison import Support, compare_tokens
from vpdlab.model.policy import Policy
from vpdlab.types import View

SIZES = (1024, 4096)  # padded tokens of the two measured updates
SHARE = 0.8  # of the free memory that a minibatch may take: fragments, and what sampling keeps, need the rest
LEAST = 4096  # fewer tokens than this make small products: then `checkpointing` auto recomputes
MOST = 131072  # more tokens than this are no faster
STEP = 256
WIDTH = 1024  # tokens of a measured row, where the settings allow as many

Measure = Callable[[int], int | None]


def extrapolated(measure: Measure, free: int) -> int:
    """The largest number of padded tokens, a multiple of 256, whose update fits; 0 where not even the smaller one does.

    Args:
        measure: padded tokens -> bytes that their update takes at its peak; None where memory was not enough.
        free: bytes that may be taken.
    """
    small = measure(SIZES[0])
    if small is None or small > free:
        return 0
    large = measure(SIZES[1])
    if large is None:
        return SIZES[0]
    per_token = max(1.0, (large - small) / (SIZES[1] - SIZES[0]))
    tokens = SIZES[0] + (free - small) / per_token
    return min(MOST, int(tokens) // STEP * STEP)


def choose(policy: Policy, measure: Measure, free: int) -> None:
    """Set the policy's `minibatch_tokens` and, where memory would not do without it, checkpointing.

    Args:
        measure, free: as in `extrapolated`; measured again once layers are recomputed.
    """
    config = policy.config
    needed = config.minibatch_tokens or max(LEAST, _longest_row(policy))
    fitting = _least(extrapolated(measure, free))
    if fitting < needed and config.checkpointing == "auto":
        policy.checkpoint()
        before, fitting = fitting, _least(extrapolated(measure, free))
        if processes.main():
            notice(f"checkpointing is on: {before} tokens of a minibatch would fit without it, {fitting} do with it")
    if not config.minibatch_tokens:
        policy.minibatch_tokens = max(SIZES[0], fitting)


def measures(policy: Policy) -> bool:
    """Whether `fit` measures: the settings and the device leave a choice, and layers are not sharded, which cannot be
    measured alone."""
    open_choice = not policy.config.minibatch_tokens or policy.config.checkpointing == "auto"
    return policy.device.type == "cuda" and not policy.config.shard and open_choice


def fit(policy: Policy, joint: bool) -> None:
    """`choose`, by what this device has free: once, when a run opens, where there is a choice (`measures`). Its passes
    are a GPU's first, in which kernels are compiled: a progress line says so, and `waking` has their seconds.

    Args:
        joint: whether the method's loss has a gradient in both views.
    """
    if not measures(policy):
        return
    if processes.main():
        notice("measuring what fits on the GPU (its first passes: up to two minutes where torch must compile them)")
    started = time.perf_counter()
    free, _ = torch.cuda.mem_get_info(policy.device)
    free += torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
    choose(policy, lambda tokens: _measured(policy, tokens, joint), int(SHARE * max(0, free - _moments(policy))))
    torch.cuda.reset_peak_memory_stats(policy.device)
    policy.waking += time.perf_counter() - started


def resplit(policy: Policy, then: Mapping[str, Any], device_name: str) -> None:
    """Split a resumed run's minibatches as before the checkpoint, where the settings leave it open and the device is
    the same.

    Args:
        then: the checkpoint's environment; of older versions it does not say.
        device_name: the device of now.
    """
    if then.get("device_name") != device_name or "minibatch_tokens" not in then:
        return
    if not policy.config.minibatch_tokens:
        policy.minibatch_tokens = then["minibatch_tokens"]
    if policy.config.checkpointing == "auto":
        policy.checkpoint(then["checkpointed"])


def _least(tokens: int) -> int:
    """The smallest of all processes: their devices may have different amounts free."""
    return min(processes.gather(tokens)) if processes.count() > 1 else tokens


def _longest_row(policy: Policy) -> int:
    config = policy.config
    return min(policy.longest, config.max_context + config.max_new_tokens) if config.max_context else 0


def _moments(policy: Policy) -> int:
    """Bytes of AdamW's two moments of every trained weight, which the first update will add."""
    optimizers = {id(one): one for one in (policy.optimizer, policy.e_optimizer)}.values()
    trained = [p for one in optimizers for group in one.param_groups for p in group["params"]]
    return sum(2 * p.numel() * p.element_size() for p in trained)


def _measured(policy: Policy, tokens: int, joint: bool) -> int | None:
    """Bytes that an update of `tokens` padded tokens takes at its peak, with gradients; None where memory ran out."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(policy.device)
    before = torch.cuda.memory_allocated(policy.device)
    try:
        trial(policy, tokens, joint)
    except torch.OutOfMemoryError:
        return None
    finally:
        policy.fresh()
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated(policy.device) - before


def trial(policy: Policy, tokens: int, joint: bool) -> None:
    """Both passes of an M-step over rows of `tokens` padded tokens together, and its backward pass; no update."""
    config, some = policy.config, policy.some_ids()
    width = min(policy.longest, (config.max_context or WIDTH) + config.max_new_tokens, WIDTH, tokens)
    answer = min(config.max_new_tokens, width // 2)
    ids = tuple(some[place % len(some)] for place in range(width))
    views = [View(ids[: width - answer], ids[width - answer :])] * (tokens // width)
    batch = collate(views, range(len(views)), policy.device)
    with torch.set_grad_enabled(joint):
        teacher = policy.token_dist(batch)
    student, support = policy.token_dist(batch), Support(config.support, config.top_k, config.tail)
    found = compare_tokens(student, teacher, batch.tokens, support, config.alpha, config.logit_mib)
    loss = found.divergence.sum()
    if joint:
        loss = loss + compare_tokens(teacher, student, batch.tokens, support, 1.0, config.logit_mib).divergence.sum()
    policy.backward(loss)
