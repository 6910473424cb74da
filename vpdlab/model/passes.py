"""The forward passes of sampling and scoring, as functions of a transformers model.

The sampler, the scorer and the probe all call these, so the probe measures what a run computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpdlab.model.batch import TokenBatch
from vpdlab.model.compiling import whole_layers
from vpdlab.model.growing import decoding_cache


def response_states(model: Any, batch: TokenBatch) -> Float[Tensor, "n h"]:
    """The last hidden state before each active response token, from which the head computes its logits."""
    hidden = _hidden(model, batch)
    at = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, at)[batch.mask] if len(batch.rows) else hidden[0, :0]


def decoder_of(model: Any) -> Any:
    """The model without its head. For a few architectures `get_decoder` returns the whole model."""
    decoder = model.get_decoder()
    names = [name for name in (model.base_model_prefix, "model", "transformer") if hasattr(model, name)]
    return getattr(model, names[0]) if decoder is model and names else decoder


def layers_of(model: Any) -> list[Any]:
    """The decoder's layers, in order; none where the model has no list of them."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = [m for m in decoder_of(model).modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    return list(lists[0]) if lists else []


def _hidden(model: Any, batch: TokenBatch) -> Float[Tensor, "b s h"]:
    """Last hidden states of the rows, or of their suffixes where a group's shared prefix is read once."""
    from transformers import DynamicCache

    decoder, shared = decoder_of(model), batch.shared
    if shared is None:
        # Other ranks wait for the pass over an empty batch; it needs one token.
        ids = batch.ids if len(batch.rows) else batch.ids.new_zeros(1, 1)
        with whole_layers(model):
            return decoder(input_ids=ids, use_cache=False).last_hidden_state
    cache = DynamicCache(config=model.config)
    decoder(input_ids=shared.prefix, past_key_values=cache, use_cache=True)
    select(cache, shared.prefix_of)  # differentiable: gradients sum over a group's rows
    hidden = decoder(
        input_ids=shared.suffix,
        attention_mask=shared.attention_mask,
        position_ids=shared.positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[shared.suffix_of]


def read(
    model: Any, contexts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Float[Tensor, "d v"], Any, Int[Tensor, "d s"], Int[Tensor, " d"], Int[Tensor, " b"]]:
    """Read each distinct context once, padded on the left.

    Returns:
        Of the D distinct contexts: next-token logits [D, V], the cache, the mask [D, S], the last position [D]; and
        which of them each of the B contexts is.
    """
    distinct = {tuple(context): None for context in contexts}
    index = {context: row for row, context in enumerate(distinct)}
    width = max(len(context) for context in distinct)
    ids = torch.tensor([[0] * (width - len(c)) + list(c) for c in distinct], device=device)
    mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in distinct], device=device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache = decoding_cache(model)
    logits = next_logits(model, ids, mask, position, cache)
    spread = torch.tensor([index[tuple(context)] for context in contexts], device=device)
    return logits, cache, mask, position[:, -1], spread


def prefill(
    model: Any, contexts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Float[Tensor, "b v"], Any, Int[Tensor, "b s"], Int[Tensor, " b"]]:
    """`read`, spread over all rows: next-token logits [B, V], the cache, the mask [B, S], each row's last position."""
    logits, cache, mask, position, spread = read(model, contexts, device)
    select(cache, spread)
    return logits[spread], cache, mask[spread], position[spread]


def next_logits(
    model: Any, ids: Int[Tensor, "b s"], mask: Int[Tensor, "b c"], position: Int[Tensor, "b s"], cache: Any
) -> Float[Tensor, "b v"]:
    """Next-token logits after the last of `ids`, float32; `ids` are appended to the cache."""
    # Without padding the mask is redundant, and leaving it out enables attention's fast path.
    out = model(
        input_ids=ids,
        attention_mask=None if bool(mask.all()) else mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1].float()


def select(cache: Any, rows: Int[Tensor, " b"]) -> None:
    """Select rows of a cache, in this order, with repeats allowed. Unlike `Cache.batch_select_indices`, this includes
    convolution and recurrent states."""
    cache.reorder_cache(rows)
