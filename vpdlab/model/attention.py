"""Attention of one query over a padded cache, without copying the cache.

Where several query heads share one head of keys (grouped-query attention), transformers repeats the keys and values for
each of them as soon as there is a mask: in decoding that copies the whole cache in every layer of every step. The heads
of a group are queries of the same keys, so they can stand where the positions of a query usually stand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "vpdlab"


def grouped(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: [B, heads, Q, width] and [B, shared heads, K, width] -> [B, Q, heads, width].

    All but the case above goes to transformers' own function.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

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


def install(model: Any) -> bool:
    """Let a model that uses torch's attention use `grouped`; returns whether it does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, grouped)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
