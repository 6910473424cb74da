"""Sharded weights (FSDP2): each rank keeps its shard of every decoder layer, its gradient and its optimiser moments.

A layer is gathered for the duration of its own pass. Embeddings, final norm and head are replicated, because scoring
multiplies by the head in chunks, outside any layer's pass; their gradients are all-reduced as without sharding.
Everything here also accepts ordinary tensors, and then does what torch does anyway.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from vpdlab import processes
from vpdlab.errors import UserError
from vpdlab.model.batch import TokenBatch
from vpdlab.model.caches import depth
from vpdlab.model.passes import decoder_of, layers_of


def check_shard(wanted: bool) -> None:
    """Raises UserError if weights are to be sharded over a single process."""
    if wanted and processes.count() == 1:
        raise UserError(
            "shard needs several processes: start them with accelerate launch or torchrun, or add --no-shard"
        )


def shard(model: Any, device: torch.device) -> None:
    """Shard the decoder's layers over all ranks, in place; the new parameters are on `device`.

    Raises:
        UserError: if the model has no list of decoder layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    decoder = decoder_of(model)
    layers = layers_of(model)
    if not layers:
        raise UserError(f"{type(model).__name__} has no list of {depth(model)} decoder layers to shard: add --no-shard")
    inside = {id(p) for layer in layers for p in layer.parameters()}
    mesh = init_device_mesh(device.type, (processes.count(),))
    for layer in layers:
        one = fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        one.set_gradient_divide_factor(1.0)  # losses are parts of a sum: a mean over ranks would be too small
        one.set_force_sum_reduction_for_comms(True)
    # The decoder as their root, so that the next layer is gathered while one computes.
    fully_shard(decoder, mesh=mesh, ignored_params={p for p in model.parameters() if id(p) not in inside})


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Within the block every rank has all layers unsharded, and passes without gradient need no other rank.

    FSDP's hooks are disabled meanwhile: they record each pass to prefetch layers in the next backward pass, and these
    records would differ between ranks that have made different numbers of passes.
    """
    from torch.distributed.fsdp import FSDPModule

    modules: list[Any] = [module for module in model.get_decoder().modules() if isinstance(module, FSDPModule)]
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    for module in modules:
        module.unshard()
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after
            module.reshard()


def in_step(mine: list[tuple[TokenBatch, ...]], sides: int, device: torch.device) -> Iterator[tuple[TokenBatch, ...]]:
    """As many minibatches in each process, some of nothing: a sharded layer is gathered by all at once."""
    more = max(processes.gather(len(mine))) - len(mine)
    yield from mine
    for _ in range(more):
        yield tuple(TokenBatch.empty(device) for _ in range(sides))


def sharded(tensor: Tensor) -> bool:
    """Whether each rank has only its shard of the tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor. A collective: all ranks must call it; a sharded tensor is returned on rank 0 only."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if processes.main() else full.new_empty(0)


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a full `value`, sharded as `like` is; `value` itself if `like` is not sharded."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def exchange(live: Tensor, kept: Tensor) -> Tensor:
    """Swap the values of `live` and `kept`; returns the tensor that now holds the old values of `live`."""
    if not isinstance(live, DTensor):
        live.data, kept = kept, live.data
        return kept
    with torch.no_grad():  # FSDP gathers from this memory, so it cannot be replaced
        mine, other = local(live), local(kept)
        before = mine.clone()
        mine.copy_(other)
        other.copy_(before)
    return kept


def clip(parameters: Sequence[Tensor], largest: float) -> float:
    """Clip the global gradient norm to `largest`; returns the norm before clipping."""
    parts = [[p for p in parameters if sharded(p) is side] for side in (False, True)]
    if not parts[1]:
        return float(torch.nn.utils.clip_grad_norm_(parameters, largest))
    norms = [torch.nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]) for part in parts]
    norm = math.hypot(*(float(n.full_tensor() if isinstance(n, DTensor) else n) for n in norms))
    for part in parts:
        torch.nn.utils.clip_grads_with_norm_(part, largest, torch.tensor(norm, device=local(part[0]).device))
    return norm
