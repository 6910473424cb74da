"""A key-value cache for decoding that has room to grow: a step writes one slot, where transformers' own cache copies
all keys and values into a tensor one slot longer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # slots that are added where there is none left


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are views of larger tensors. Not for training: it writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[Tensor | None] = [None, None]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, new, width]; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended(0, self.keys, key_states)
        self.values = self._appended(1, self.values, value_states)
        return self.keys, self.values

    def _appended(self, side: int, held: Any, new: Tensor) -> Tensor:
        count = held.shape[-2] if held.numel() else 0
        total, room = count + new.shape[-2], self._rooms[side]
        # Selected or cropped rows lie elsewhere.
        if room is None or held.data_ptr() != room.data_ptr() or len(held) != len(room) or total > room.shape[-2]:
            room = new.new_empty(*new.shape[:-2], total + ROOM, new.shape[-1])
            if count:
                room[..., :count, :] = held
            self._rooms[side] = room
        room[..., count:total, :] = new
        return room[..., :total, :]


def decoding_cache(model: Any) -> DynamicCache:
    """An empty cache for a model; other kinds of layers than plain attention's are transformers' own."""
    cache = DynamicCache(config=model.config)
    if not torch.is_grad_enabled():
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
