"""Key-value caches for what transformers' own do slowly or not at all.

Decoding: `GrowingLayer` has room to grow, so that a step writes one slot, where transformers' own cache copies all keys
and values into a tensor one slot longer. Reading a context: nothing is wanted but its keys and values, so a pass can
stop as soon as the last layer has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

EVEN = 8  # keys in a vector of float32
ROOM = 8  # slots that are added at least where there is none left; more than an eighth would lie empty between heads


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
            room = new.new_empty(*new.shape[:-2], total + max(ROOM, total // 8), new.shape[-1])
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


class LastLayer(DynamicLayer):
    """A `DynamicLayer` that ends a pass, on request, once it has the keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, new, width]; returns all of them."""
        found = super().update(key_states, value_states, *args, **kwargs)
        if self.ends:
            raise _Ended
        return found


class _Ended(Exception):
    """The last layer has the keys and values."""


def context_cache(model: Any) -> DynamicCache:
    """An empty cache for `keys_only`, with gradients. Where the model's last layer is not plain attention, passes run
    to their end."""
    cache = DynamicCache(config=model.config)
    if len(cache.layers) == depth(model) and type(cache.layers[-1]) is DynamicLayer:
        cache.layers[-1] = LastLayer()
    return cache


@contextlib.contextmanager
def keys_only(cache: DynamicCache) -> Iterator[None]:
    """Within the block, a pass that fills this cache ends at the last layer's keys and values: what a pass would return
    is not computed, and the rest of the block is skipped."""
    last = cache.layers[-1]
    if not isinstance(last, LastLayer):
        yield
        return
    last.ends = True
    try:
        yield
    except _Ended:
        pass
    finally:
        last.ends = False


def evened(cache: DynamicCache, seen: Bool[Tensor, "n c"], new: int) -> Bool[Tensor, "n c2"]:
    """Put empty slots before what a cache holds, so that with `new` ones attention gets a whole number of vectors of
    keys: on a CPU it takes longer for 47 keys than for 48.

    Returns:
        `seen`, which slots may be attended to, with the empty ones.
    """
    layers: list[Any] = cache.layers
    extra, plain = -(seen.shape[1] + new) % EVEN, (DynamicLayer, LastLayer)
    if not extra or seen.device.type != "cpu" or any(type(layer) not in plain for layer in layers):
        return seen
    for layer in layers:
        layer.keys, layer.values = (pad(held, (0, 0, extra, 0)) for held in (layer.keys, layer.values))
    return pad(seen, (extra, 0))


def one_block(cache: DynamicCache) -> None:
    """On a CPU, let the gradients of what a cache holds arrive in one block.

    They come as parts of larger tensors, and those of selected rows are added up far faster in one.
    """
    for layer in cache.layers:
        for held in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if isinstance(held, Tensor) and held.requires_grad and held.device.type == "cpu":
                held.register_hook(Tensor.contiguous)


def spared(model: Any) -> float:
    """The share of a pass that `keys_only` saves: the last layer's output projection and MLP, in common shapes about
    three quarters of a layer."""
    return 0.75 / depth(model) if isinstance(context_cache(model).layers[-1], LastLayer) else 0.0


def depth(model: Any) -> int:
    """The number of a model's layers."""
    return model.config.get_text_config().num_hidden_layers
