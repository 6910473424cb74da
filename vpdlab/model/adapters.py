"""LoRA adapters in a model: adding one, merging the active one into the weights, saving it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpdlab.errors import UserError, first_line


def add_adapter(model: Any, name: str, rank: int) -> None:
    """Add a LoRA adapter to each linear layer except the head; B is 0, so the model's outputs do not change.

    Raises:
        UserError: the model takes none, or none of its weights has this rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    full = max(min(weight.shape[-2:]) for weight in model.parameters() if weight.dim() > 1)
    if rank > full:
        raise UserError(
            f"an adapter of rank {rank} (lora_rank, adapter_rank) is no smaller than the weights of"
            f" {type(model).__name__}, whose rank is at most {full}: lower it"
        )
    try:
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), model, name)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{type(model).__name__} takes no LoRA adapter ({first_line(error)}): set lora_rank to 0, and teacher to"
            " another kind than adapter"
        ) from error


def adapter_layers(model: Any) -> dict[str, Any]:
    """The layers that have adapters, by module name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def adapter_in_use(model: Any) -> str:
    """Name of the active adapter; "" for none."""
    layer = next(iter(adapter_layers(model).values()), None)
    return "" if layer is None or layer.disable_adapters else layer.active_adapters[0]


@torch.no_grad()
def plain_weights(model: Any) -> dict[str, Tensor]:
    """The weights that the model computes with now, under the names of the model without adapters. The active adapter
    is merged into copies; the base weights stay bit-identical."""
    merged = {_plain(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    if adapter := adapter_in_use(model):
        for name, layer in adapter_layers(model).items():
            key = f"{_plain(name)}.{getattr(layer, 'parameter_name', 'weight')}"  # experts adapt a bare parameter
            merged[key] = merged[key] + layer.get_delta_weight(adapter).to(merged[key].dtype)
    return merged


def _plain(name: str) -> str:
    """The name of a weight in the model without adapters."""
    return name.replace(".base_layer", "")


@torch.no_grad()
def check_merge(model: Any, ids: Sequence[int]) -> None:
    """Check on a few tokens that the merged weights compute what the model computes with its adapter.

    B is 0 in a new adapter, which would hide any difference, so it holds small random numbers during the check.

    Raises:
        UserError: if they differ or merging fails: the trained student could not be saved.
    """
    layers, adapter, tokens = (
        adapter_layers(model),
        adapter_in_use(model),
        torch.tensor([list(ids)], device=model.device),
    )
    stream = torch.Generator().manual_seed(0)
    factors = [layer.lora_B[adapter].weight for layer in layers.values()]
    refusal = f"{type(model).__name__}: a LoRA adapter cannot be merged into its weights"
    try:
        before = model(input_ids=tokens, use_cache=False).logits.float()
        for factor, layer in zip(factors, layers.values(), strict=True):
            size = layer.lora_A[adapter].weight.float().norm().item() + 1e-6
            factor.copy_(torch.randn(factor.shape, generator=stream) * 0.1 / size)
        live = model(input_ids=tokens, use_cache=False).logits.float()
        merged = _with_weights(model, plain_weights(model), tokens)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{refusal} ({type(error).__name__}: {first_line(error)}): set lora_rank to 0") from error
    finally:
        for factor in factors:
            factor.zero_()
    moved, gap = (live - before).abs().max().item(), (merged - live).abs().max().item()
    if not gap <= 0.05 * moved + 1e-3:
        raise UserError(
            f"{refusal}: a large adapter moves its logits by {moved:.2g}, but the merged weights are off by {gap:.2g}"
            " (some of its layers use their weights without the adapter): set lora_rank to 0"
        )


def _with_weights(model: Any, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The model's logits with other weights (under their names without adapters) and every adapter disabled."""
    names = {_plain(name): name for name in model.state_dict() if ".lora_" not in name}
    layers = adapter_layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        renamed = {names[name]: value for name, value in weights.items()}
        out = torch.func.functional_call(
            model, renamed, kwargs={"input_ids": tokens, "use_cache": False}, tie_weights=False
        )
    finally:
        for layer in layers:
            layer.enable_adapters(True)
    return out.logits.float()


def save_adapter(model: Any, folder: Path, base: str = "") -> None:
    """Write the adapter in use as peft does: adapter_config.json and adapter_model.safetensors.

    Args:
        base: name of the base model to write into the files; default: the one that was loaded.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    role = adapter_in_use(model)
    config = copy.deepcopy(model.peft_config[role])
    config.base_model_name_or_path = base or model.name_or_path
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.target_modules = sorted(config.target_modules)
    weights = get_peft_model_state_dict(model, adapter_name=role)
    save_file(
        {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in weights.items()},
        folder / "adapter_model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    config.save_pretrained(str(folder))
