"""Walk distributions in chunks of logits, so that the N x V logits never exist at once.

Where they take more than `mib` MiB they are computed in chunks of a quarter of that; where a gradient is wanted, a
chunk is recomputed in the backward pass instead of being kept, and the head's gradient is accumulated in one place. The
memory is that of a few chunks, whatever N, and the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpdlab.model.distributions import Term, TokenDist


def chunk_rows(dist: TokenDist, mib: int) -> int:
    """Rows of float32 logits that fit in `mib` MiB; at least one."""
    return max(1, mib * 2**20 // (4 * dist.vocabulary))


One = Callable[[slice, Tensor], tuple[Tensor, ...]]
"""(some rows, their log-probabilities [n, V]) -> the results of these rows, [n] each."""


def walk(one: One, dist: TokenDist, mib: int, wanted: int) -> tuple[Tensor, ...]:
    """Apply `one` to chunks of rows and concatenate the results.

    Args:
        mib: logits up to this size are computed at once and kept for the backward pass.
        wanted: how many of the results, from the first on, carry a gradient.
    """
    size, (term, *others) = chunk_rows(dist, mib), dist.terms
    if len(dist) > size:  # chunks that are not kept may be small: about three arrays of their size exist at a time
        size = max(1, size // 4)
    chunks = [slice(start, start + size) for start in range(0, max(1, len(dist)), size)]
    if len(chunks) > 1 and torch.is_grad_enabled() and term.hidden.requires_grad and not others:
        return _Recomputed.apply(one, dist, chunks, wanted, term.hidden, term.head)
    pieces = [one(rows, dist.logp(rows)) for rows in chunks]
    return tuple(torch.cat(list(part)) for part in zip(*pieces, strict=True))


class _Recomputed(torch.autograd.Function):
    """A walk that keeps no chunk: the backward pass computes its log-probabilities and `one` again."""

    @staticmethod
    def forward(
        ctx: Any, one: One, dist: TokenDist, chunks: list[slice], wanted: int, hidden: Tensor, head: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.one, ctx.chunks, ctx.wanted, ctx.temperature = one, chunks, wanted, dist.temperature
        ctx.save_for_backward(hidden, head)
        pieces = [one(rows, dist.logp(rows)) for rows in chunks]
        parts = tuple(torch.cat(list(part)) for part in zip(*pieces, strict=True))
        ctx.mark_non_differentiable(*parts[wanted:])
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden, head = ctx.saved_tensors
        dist = TokenDist((Term(hidden, head),), ctx.temperature)
        for_hidden = torch.empty_like(hidden)
        for_head = torch.zeros_like(head) if ctx.needs_input_grad[5] else None
        for rows in ctx.chunks:
            logp = dist.logp(rows).requires_grad_()
            with torch.enable_grad():
                found = ctx.one(rows, logp)[: ctx.wanted]
                (slope,) = torch.autograd.grad(found, logp, [gradient[rows] for gradient in gradients[: ctx.wanted]])
            # Through the softmax and the temperature, in place: these arrays are not needed again.
            slope -= logp.detach_().exp_().mul_(slope.sum(-1, keepdim=True))
            slope = slope.div_(ctx.temperature).to(hidden.dtype)
            for_hidden[rows] = slope if head is None else slope @ head
            if for_head is not None:
                for_head.addmm_(slope.T, hidden[rows])
        return None, None, None, None, for_hidden, for_head
