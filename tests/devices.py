"""The devices of a test that a GPU must pass as well: the CPU, and an NVIDIA GPU where there is one."""

from __future__ import annotations

import pytest
import torch

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="extra: an NVIDIA GPU (make test-gpu)"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
