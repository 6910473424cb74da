"""Bit-equal repeats on a GPU (`deterministic`): the switches of torch and cuBLAS, and what holds without them.

A CPU adds in the same order each time. On a GPU some kernels add in the order in which their blocks finish, and cuBLAS
may choose another algorithm for each of several workspaces: the same run then ends in weights that differ in the last
bits. The switches belong to the process, so they are put back when a run ends, or another one opens.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from vpdlab.errors import UserError

VARIABLE, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
FIXED = (WORKSPACE, ":16:8")  # the two workspaces with which cuBLAS promises equal results
ROUNDED = (
    "on a GPU without deterministic, the weights equal those of an undisturbed run up to rounding, not bit for bit"
)


class _Switches(NamedTuple):
    algorithms: bool
    warn_only: bool
    efficient_attention: bool
    cudnn_attention: bool


_before: _Switches | None = None  # as they were before a deterministic run; None where no run holds them


def settle(wanted: bool, device: str) -> None:
    """Set the process's switches for a run that opens or starts, or put them back as they were before.

    Call it before anything runs on the GPU: cuBLAS reads its variable once.

    Args:
        wanted: the run's `deterministic`.
        device: the run's `device`, as it is written in the settings.

    Raises:
        UserError: where CUDA has started in this process without cuBLAS's variable.
    """
    global _before
    if not wanted:
        if _before is not None:
            _set(_before)
            _before = None
        return
    on_gpu = device == "auto" or device.startswith("cuda")
    if on_gpu and torch.cuda.is_initialized() and os.environ.get(VARIABLE) not in FIXED:
        raise UserError(
            f"deterministic needs {VARIABLE}={WORKSPACE}, and CUDA has started in this process without it: set it in"
            f" the environment before Python starts (export {VARIABLE}={WORKSPACE})"
        )
    if os.environ.get(VARIABLE) not in FIXED:
        os.environ[VARIABLE] = WORKSPACE
    if _before is None:
        _before = _Switches(
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
        )
    # Memory-efficient attention's backward only warns that it is not deterministic, and cuDNN's
    # promises nothing; the flash and math kernels are.
    _set(_Switches(True, False, False, False))


def _set(switches: _Switches) -> None:
    torch.use_deterministic_algorithms(switches.algorithms, warn_only=switches.warn_only)
    torch.backends.cuda.enable_mem_efficient_sdp(switches.efficient_attention)
    torch.backends.cuda.enable_cudnn_sdp(switches.cudnn_attention)


def caveat(device: torch.device, deterministic: bool) -> str:
    """What a resumed run cannot promise on this device, in one line; "" where it ends bit-equal."""
    return ROUNDED if device.type == "cuda" and not deterministic else ""
