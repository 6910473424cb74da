"""The forward passes of sampling and scoring, as functions of a transformers model.

The sampler, the scorer and the probe all call these, so the probe measures what a run computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vpdlab.model.batch import TokenBatch
from vpdlab.model.caches import context_cache, decoding_cache, depth, evened, keys_only, one_block
from vpdlab.model.compiling import whole_layers
from vpdlab.model.stages import Stage, Stages


def response_states(model: Any, batch: TokenBatch) -> Float[Tensor, "n h"]:
    """The last hidden state before each active response token, from which the head computes its logits."""
    hidden = _hidden(model, batch)
    if not len(batch.rows):
        return hidden[0, :0]
    row = torch.arange(len(batch.rows), device=hidden.device) if batch.stages is None else batch.stages.row_of
    at = (row[:, None] * hidden.shape[1] + batch.positions)[batch.mask]
    return hidden.flatten(0, 1).index_select(0, at)  # its gradient adds whole states up, not element by element


def decoder_of(model: Any) -> Any:
    """The model without its head. For a few architectures `get_decoder` returns the whole model."""
    decoder = model.get_decoder()
    names = [name for name in (model.base_model_prefix, "model", "transformer") if hasattr(model, name)]
    return getattr(model, names[0]) if decoder is model and names else decoder


def layers_of(model: Any) -> list[Any]:
    """The decoder's layers, in order; none where the model has no list of them."""
    count = depth(model)
    lists = [m for m in decoder_of(model).modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return list(lists[0]) if lists else []


def _hidden(model: Any, batch: TokenBatch) -> Float[Tensor, "b s h"]:
    """Last hidden states of the rows, or of the parts of their last stage."""
    if batch.stages is not None:
        return _staged(model, batch.stages)
    # Other ranks wait for the pass over an empty batch; it needs one token.
    ids = batch.ids if len(batch.rows) else batch.ids.new_zeros(1, 1)
    with whole_layers(model):
        return decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state


def _staged(model: Any, stages: Stages) -> Float[Tensor, "n t h"]:
    """Last hidden states of the last stage."""
    cache = context_cache(model)
    *before, last = stages.parts
    seen = stages.parts[0].filled[:, :0]  # what the parts of a stage may attend to before it: nothing yet
    for part in before:
        seen = _behind(cache, seen, part)
        with keys_only(cache):
            _continued(model, cache, part, seen)
        seen = torch.cat([seen, part.filled], dim=1)
    return _continued(model, cache, last, _behind(cache, seen, last))


def _behind(cache: Any, seen: Bool[Tensor, "m c"], part: Stage) -> Bool[Tensor, "n c"]:
    """Select what precedes each part, in a cache (differentiable: gradients sum over the parts behind one) and in what
    may be attended to of it."""
    if not seen.shape[1]:
        return seen
    seen = evened(cache, seen, part.ids.shape[1])
    if torch.equal(part.after, torch.arange(len(seen), device=part.after.device)):
        return seen
    select(cache, part.after)
    one_block(cache)
    return seen[part.after]


def _continued(model: Any, cache: Any, part: Stage, seen: Bool[Tensor, "n c"]) -> Float[Tensor, "n t h"]:
    """Read a stage's parts behind what the cache holds; returns their last hidden states."""
    placed: dict[str, Tensor] = {}
    if seen.shape[1]:
        # At its own padding too: no later token sees it, and attention to nothing at all would not be a number.
        mask = torch.cat([seen, torch.ones_like(part.ids, dtype=torch.bool)], dim=1)
        placed = {"attention_mask": mask.long(), "position_ids": part.positions}
    return decoder_of(model)(input_ids=part.ids, past_key_values=cache, use_cache=True, **placed).last_hidden_state


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
