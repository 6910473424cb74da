"""Attention that saves what transformers' own function wastes: copies of a cache, and bfloat16 on a CPU.

Where several query heads share one head of keys (grouped-query attention), transformers repeats the keys and values for
each of them as soon as there is a mask: in decoding that copies the whole cache in every layer of every step. The heads
of a group are queries of the same keys, so they can stand where the positions of a query usually stand.

On a CPU torch's fused attention is slower in bfloat16 than in float32, most of all its backward pass on short rows
(several times): there bfloat16 queries, keys and values are attended to in float32, and the result is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "vpdlab"
LONG = 384  # queries from which on a CPU the fused backward pass is the faster one in bfloat16


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: [B, heads, Q, width] and [B, shared heads, K, width] -> [B, Q, heads, width].

    All but the two cases above goes to transformers' own function.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.device.type == "cpu":
        if _low(value) and not (query.shape[2] >= LONG and torch.is_grad_enabled()):
            return _raised(module, query, key, value, attention_mask, **rest), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    heads, shared = query.shape[1], key.shape[1]
    plain = rest.get("position_bias") is None and not rest.get("dropout")
    if query.shape[2] != 1 or attention_mask is None or heads == shared or not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    queries = query.view(len(query), shared, heads // shared, query.shape[-1])
    mask = attention_mask.expand(-1, -1, heads // shared, -1) if attention_mask.shape[1] == 1 else attention_mask
    out = torch.nn.functional.scaled_dot_product_attention(
        queries, key, value, attn_mask=mask, scale=rest.get("scaling")
    )
    return out.reshape(len(query), 1, heads, -1), None


def _low(value: Tensor) -> bool:
    """Whether torch would attend in bfloat16. Under autocast it does whatever the inputs are."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return value.dtype == torch.bfloat16


def _raised(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> Tensor:
    """Attention in float32, rounded to bfloat16: [B, Q, heads, width]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast("cpu", enabled=False):  # it would cast back to bfloat16
        query, key, value = query.float(), key.float(), value.float()
        mask, bias = (_added(one) for one in (attention_mask, rest.pop("position_bias", None)))
        if mask is None or bias is not None or rest.get("dropout"):
            out, _ = sdpa_attention_forward(module, query, key, value, mask, position_bias=bias, **rest)
            return out.bfloat16()
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=rest.get("scaling"), enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2).to(torch.bfloat16, memory_format=torch.contiguous_format)


def _added(mask: Tensor | None) -> Tensor | None:
    """A mask for scores in float32: what is added to them must be of their type."""
    return mask.float() if mask is not None and mask.is_floating_point() else mask


def install(model: Any) -> bool:
    """Let a model that uses torch's attention use `attend`; returns whether it does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
