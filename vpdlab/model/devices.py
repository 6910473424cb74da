"""The device of a run."""

from __future__ import annotations

import ctypes
import functools
import os

import torch

from vpdlab import processes
from vpdlab.errors import UserError, first_line

# glibc's parameters for mallopt, by number, and what they are set to.
MALLOC = {-3: 32 << 20, -1: 256 << 20}  # M_MMAP_THRESHOLD: as high as glibc itself would go; M_TRIM_THRESHOLD
CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def pick_device(name: str) -> torch.device:
    """The device of a run: what accelerate finds for "auto" (a process's own GPU under its launcher), or the named one.
    On a CPU `keep_freed_memory` is called.

    Raises:
        UserError: for a device that is not available.
    """
    device = processes.join(name) if name == "auto" or processes.launched() > 1 else _named(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _named(name: str) -> torch.device:
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


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep up to 256 MiB of freed memory for the next pass; returns whether it does.

    On a CPU glibc returns the memory of activations to the system after each pass and fetches it again, page by page:
    some 5 % of the time of an iteration of a small model. What the user has set in the environment stays.
    """
    if any(name in os.environ for name in CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None  # glibc's alone
    return mallopt is not None and all([mallopt(which, size) == 1 for which, size in MALLOC.items()])
