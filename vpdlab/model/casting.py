"""Weights in the type that autocast computes in, kept in place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Lowered:
    """bfloat16 copies of a model's linear layers, for decoding under autocast.

    Autocast casts a weight at its first use, which a graph would repeat in every step, or would read at a place that is
    gone. The copies stay in place and are filled before each phase.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._copies: dict[int, torch.nn.Parameter] = {}

    def release(self) -> None:
        """Give the copies back."""
        self._copies.clear()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Within the block, and under autocast, linear layers have their weights in its type already."""
        device = next(self._model.parameters()).device.type
        if not torch.is_autocast_enabled(device):
            yield
            return
        kind = torch.get_autocast_dtype(device)
        layers = [m for m in self._model.modules() if isinstance(m, torch.nn.Linear) and m.weight.dtype != kind]
        live = [layer._parameters["weight"] for layer in layers]
        for layer in layers:
            layer._parameters["weight"] = self._copy(layer.weight, kind)
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # what one graph casts lies in memory that the next one reuses
        try:
            yield
        finally:
            torch.set_autocast_cache_enabled(cached)
            for layer, weight in zip(layers, live, strict=True):
                layer._parameters["weight"] = weight

    def _copy(self, weight: Tensor, kind: torch.dtype) -> torch.nn.Parameter:
        if id(weight) not in self._copies:
            self._copies[id(weight)] = torch.nn.Parameter(torch.empty_like(weight, dtype=kind), requires_grad=False)
        self._copies[id(weight)].data.copy_(weight.data)
        return self._copies[id(weight)]
