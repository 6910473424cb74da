"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of being kept.

transformers has this too, but only for layers in training mode, which would turn on the dropout that some layers apply
themselves (OPT, Falcon). Here each layer's `forward` is wrapped, and the model stays in eval mode.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from vpdlab.errors import UserError
from vpdlab.model.passes import layers_of


def checkpoint_layers(model: Any) -> None:
    """Let the decoder's layers recompute in the backward pass of passes with gradient; their values do not change.

    Raises:
        UserError: if the model has no list of decoder layers.
    """
    layers = layers_of(model)
    if not layers:
        raise UserError(f"{type(model).__name__} has no list of decoder layers: set checkpointing to off")
    for layer in layers:
        if "forward" not in vars(layer):
            layer.forward = functools.partial(_recomputed, layer.forward)


def keep_layers(model: Any) -> None:
    """Undo `checkpoint_layers`."""
    for layer in layers_of(model):
        vars(layer).pop("forward", None)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    from transformers import Cache

    # A cache would be filled a second time; without gradient there is nothing to keep.
    if not torch.is_grad_enabled() or any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
        return forward(*args, **kwargs)
    # Non-reentrant: with LoRA, the first layer's input has no gradient. Without dropout no random state is needed.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
