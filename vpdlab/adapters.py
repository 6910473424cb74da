"""LoRA adapters within a model: which one it computes with, its weights with that one merged in, its files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def add_adapter(model: Any, name: str, rank: int) -> None:
    """Put a LoRA adapter on each linear layer but the head; B is 0, so that nothing changes yet."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), model, name)


def adapter_layers(model: Any) -> dict[str, Any]:
    """The layers that have adapters, by their places in the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def adapter_in_use(model: Any) -> str:
    """Name of the adapter that the model computes with now; "" for none."""
    layer = next(iter(adapter_layers(model).values()), None)
    return "" if layer is None or layer.disable_adapters else layer.active_adapters[0]


@torch.no_grad()
def plain_weights(model: Any) -> dict[str, Tensor]:
    """What the model computes with now, by the names of the ordinary model. The adapter in use is merged into copies:
    the weights under it stay what they are, to the last bit."""
    found = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if ".lora_" not in name
    }
    if adapter := adapter_in_use(model):
        for name, layer in adapter_layers(model).items():
            weight = found[f"{name}.weight"]
            found[f"{name}.weight"] = weight + layer.get_delta_weight(adapter).to(weight.dtype)
    return found


def save_adapter(model: Any, folder: Path, base: str = "") -> None:
    """Write the adapter in use as peft does: adapter_config.json and adapter_model.safetensors.

    Args:
        base: the model that it belongs to, as the files will name it; default the one that was loaded.
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
