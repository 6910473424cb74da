"""`vpdlab doctor --model NAME`: what a run would need on this device, item by item, and what to set where it is too
much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vpdlab.config import RunConfig
from vpdlab.errors import UserError

GIB = 2**30
SPARE = 0.9  # of a device's free memory that a run may plan with
REMEDIES: tuple[dict[str, Any], ...] = (
    {"minibatch_tokens": 4096},
    {"checkpointing": "on"},
    {"sampler_rows": 32},
    {"precision": "bfloat16-mixed"},
    {"lora_rank": 16},
    {"precision": "bfloat16"},
    {"minibatch_tokens": 1024},
    {"sampler_rows": 8},
)
"""What to set where memory will not do, what costs least first; each on top of those before it."""


def memory_lines(config: RunConfig) -> tuple[list[str], bool]:
    """The report, and whether the run fits on the device that `config` names.

    Raises:
        UserError: for a model whose config cannot be read or counted, or a device that is unavailable.
    """
    from vpdlab.model.devices import pick_device
    from vpdlab.model.memory import peak

    device = pick_device(config.device)
    free, total = free_memory(device)
    items = _needs(config, device.type == "cuda")
    width = max(len(item.name) for item in items)
    when = {"always": "", "sampling": "  while sampling", "update": "  in the update"}
    lines = [f"memory of {config.model}, {config.method}, {config.precision}, GiB ({_words(config)})"]
    for item in items:
        how = "" if item.exact else "  estimated"
        lines.append(f"  {item.name:<{width}}  {item.size / GIB:8.2f}{when[item.when]}{how}")
    lines.append(f"  {'at the peak':<{width}}  {peak(items) / GIB:8.2f}")
    fits = peak(items) <= SPARE * free
    lines.append(f"{device}: {free / GIB:.1f} of {total / GIB:.1f} GiB free: it {'fits' if fits else 'does not fit'}")
    if not fits:
        lines.append(_advice(config, SPARE * free, device.type == "cuda"))
    return lines, fits


def free_memory(device: Any) -> tuple[int, int]:
    """Free and total bytes of a device; of a CPU and of Apple's GPUs, those of the machine."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _needs(config: RunConfig, gpu: bool) -> list[Any]:
    from vpdlab.learn.methods import get_method
    from vpdlab.model.memory import estimate, read_model

    method = get_method(config.method)
    return estimate(config, read_model(config.model), joint=method.joint, e_step=method.e_step is not None, gpu=gpu)


def _words(config: RunConfig) -> str:
    size = f"rank {config.lora_rank} adapter" if config.lora_rank else "all weights"
    kept = "recomputed" if config.checkpointing == "on" else "kept"
    return f"{size} trained, {config.prompts} x {config.group} rollouts, activations {kept}"


def _advice(config: RunConfig, room: float, gpu: bool) -> str:
    found = remedy(config, room, gpu)
    if found is None:
        return "-> no setting makes it fit here: choose a smaller model or another device"
    options, size = found
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    return f"-> {words}: about {size / GIB:.2f} GiB"


def remedy(config: RunConfig, room: float, gpu: bool) -> tuple[dict[str, Any], int] | None:
    """The settings to change so that the peak is at most `room` bytes, and the peak with them; None where none do."""
    from vpdlab.model.memory import peak

    def size(changes: dict[str, Any]) -> int:
        return peak(_needs(config.but(**changes), gpu))

    for changes in _growing(config):
        if size(changes) > room:
            continue
        for name in list(changes):  # what a later change has made unnecessary
            fewer = {key: value for key, value in changes.items() if key != name}
            if fewer and _possible(config, fewer) and size(fewer) <= room:
                changes = fewer
        return changes, size(changes)
    return None


def _growing(config: RunConfig) -> Iterator[dict[str, Any]]:
    """More and more of `REMEDIES`, but for those that ask for more than the settings do or contradict them."""
    changes: dict[str, Any] = {}
    for step in REMEDIES:
        ((name, value),) = step.items()
        now = changes.get(name, getattr(config, name))
        more = isinstance(value, int) and name != "lora_rank" and now and value >= now
        if now == value or more or (name == "lora_rank" and now) or now == "bfloat16":
            continue
        if _possible(config, changes | step):
            changes = changes | step
            yield changes


def _possible(config: RunConfig, changes: dict[str, Any]) -> bool:
    try:
        config.but(**changes)
    except UserError:
        return False
    return True
