"""The device of a run."""

from __future__ import annotations

import torch

from vpdlab import processes
from vpdlab.errors import UserError, first_line


def pick_device(name: str) -> torch.device:
    """The device of a run: what accelerate finds for "auto" (a process's own GPU under its launcher), or the named one.

    Raises:
        UserError: for a device that is not available.
    """
    if name == "auto" or processes.launched() > 1:
        return processes.join(name)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} is unavailable ({first_line(error)}); use auto") from error
    return device


def forget_peak(device: torch.device) -> None:
    """Count the most memory held on a GPU from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
