"""A key-value cache of fixed size, written in place: what a captured decoding step needs.

transformers' StaticCache serves `generate`: it has one number of rows, attends over all its length, and keeps its own
count of tokens in each layer. Here any number of rows and any length up to the largest can be in use, as views of the
same memory, and one tensor holds the slot of the next token for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from vpdlab.model import passes
from vpdlab.model.traits import windows

TRIED, STEPS = 16, 3  # of `trial`: tokens of the longer context, steps


def unfit(model: Any, longest: int) -> str:
    """Why a model cannot decode with these caches in rows of up to `longest` tokens; "" if it can."""
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if not kinds.issubset(plain):
        return f"its cache has layers of kind {', '.join(sorted(kind.__name__ for kind in kinds.difference(plain)))}"
    short = [window for window in windows(model) if 0 < window < longest]
    return f"its attention window of {short[0]} tokens is shorter than a row" if short else ""


@torch.no_grad()
def trial(model: Any, ids: Sequence[int]) -> float:
    """Largest difference, in nats, between a few steps with these caches and with transformers' own: some models work
    out places from the cache's length, which is not the row's here.

    Args:
        ids: ordinary token ids to try it with.
    """
    contexts = [ids[:TRIED], ids[TRIED : TRIED + TRIED // 2]]
    _, cache, mask, position = passes.prefill(model, contexts, model.device)
    slots, width = Slots(cache, len(contexts), 4 * TRIED), mask.shape[1]
    slots.fill(cache, torch.arange(len(contexts), device=mask.device))
    slots.at.fill_(width)
    seen = additive(mask, slots.layers[0].keys.dtype, 4 * TRIED)
    gap = 0.0
    for token in ids[-STEPS:]:
        tokens = torch.full((len(contexts), 1), token, device=mask.device)
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), position + 1
        plain = passes.next_logits(model, tokens, mask, position[:, None], cache)
        ours = next_logits(model, tokens, seen.index_fill_(3, slots.at, 0.0), position[:, None], slots)
        slots.at.add_(1)
        gap = max(gap, (plain.log_softmax(-1) - ours.log_softmax(-1)).abs().max().item())
    return gap


def additive(mask: Int[Tensor, "b s"], kind: torch.dtype, length: int) -> Float[Tensor, "b 1 1 l"]:
    """The mask that attention adds to its scores: 0 where a row may attend, else the type's least number."""
    full = torch.full((len(mask), 1, 1, length), torch.finfo(kind).min, dtype=kind, device=mask.device)
    full[:, 0, 0, : mask.shape[1]].masked_fill_(mask.bool(), 0.0)
    return full


def next_logits(
    model: Any, ids: Int[Tensor, "b 1"], mask: Float[Tensor, "b 1 1 l"], position: Int[Tensor, "b 1"], slots: Slots
) -> Float[Tensor, "b v"]:
    """Next-token logits after `ids`, float32; the token is written to the present slot. Nothing waits for the
    device."""
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=slots,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1].float()


class SlotLayer(CacheLayerMixin):
    """Keys and values [R, heads, L, width] of one layer; `Slots` says which rows and slots are in use."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, slots: Slots, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._slots, self.keys, self.values = slots, keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The memory is there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values [rows, heads, 1, width] into the present slot; returns those in use."""
        slots = self._slots
        keys, values = self.keys[: slots.rows], self.values[: slots.rows]
        keys.index_copy_(2, slots.at, key_states.to(keys.dtype))
        values.index_copy_(2, slots.at, value_states.to(values.dtype))
        return keys[:, :, : slots.length], values[:, :, : slots.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.length, 0

    def get_seq_length(self) -> int:
        return self._slots.length - 1

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class Slots(Cache):
    """The layers' fixed caches.

    Attributes:
        layers: one `SlotLayer` for each layer.
        at: [1] the slot that the next token is written to.
        rows, length: how many rows and slots are in use.
    """

    layers: Any

    def __init__(self, like: Any, rows: int, length: int) -> None:
        """Room for `rows` rows of `length` slots, for a model whose filled cache is `like`."""
        self.at = torch.zeros(1, dtype=torch.long, device=like.layers[0].keys.device)
        self.rows, self.length = rows, length

        def room(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(rows, tensor.shape[1], length, tensor.shape[3])

        super().__init__(layers=[SlotLayer(self, room(one.keys), room(one.values)) for one in like.layers])

    @property
    def bytes(self) -> int:
        """Memory of all layers."""
        return sum(part.numel() * part.element_size() for one in self.layers for part in (one.keys, one.values))

    def fill(self, cache: Any, rows: Int[Tensor, " b"]) -> None:
        """Copy rows of a filled cache, repeats allowed, to the first rows and slots."""
        for mine, other in zip(self.layers, cache.layers, strict=True):
            mine.keys[: len(rows), :, : other.keys.shape[2]] = other.keys[rows]
            mine.values[: len(rows), :, : other.values.shape[2]] = other.values[rows]

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Move rows to the front, in this order."""
        for one in self.layers:
            one.keys[: len(rows)] = one.keys[rows]
            one.values[: len(rows)] = one.values[rows]
