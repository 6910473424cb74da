"""Whole iterations on a GPU that is pretended: no tensor on the wrong device, the CPU's numbers, where they wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretended_gpu import pretended_gpu
from toy import toy_run

from vpdlab import UserError
from vpdlab.learn.iterate import Iteration, iterate
from vpdlab.learn.methods import METHODS
from vpdlab.model.batch import TokenBatch
from vpdlab.run.waking import first_passes

FIXED = {"minibatch_tokens": 400, "checkpointing": "off", "prompts": 3, "group": 3, "max_new_tokens": 6}
CASES: list[dict[str, Any]] = [
    {"teacher": "adapter", "lora_rank": 2, "compile": "off", "e_objective": "pg"},
    {"teacher": "trust-region", "support": "topk", "top_k": 20, "compile": "on"},
    {"teacher": "ema", "tail": "renormalise", "support": "topk", "top_k": 20, "e_objective": "awr"},
    {"checkpointing": "on", "capture": "off", "e_objective": "kto", "anchor": "fixed"},
    {"minibatch_tokens": 0, "checkpointing": "auto"},
    {"logit_mib": 1, "method": "pi-distill", **METHODS["pi-distill"].needs},
    {"method": "grpo", "kl_coef": 0.1},
    {"support": "sampled", "e_sample": "teacher", "record_telemetry": False},
    {"deterministic": True, "e_minibatch": 1, "warmup": 2},
]


def iterated(device: str, steps: int, fields: dict[str, Any]) -> list[Iteration]:
    run = toy_run(device=device, **{**FIXED, **fields})
    if device != "cpu":
        first_passes(run)
    return [iterate(run, step) for step in range(1, steps + 1)]


def alike(cpu: list[Iteration], gpu: list[Iteration]) -> None:
    for one, other in zip(cpu, gpu, strict=True):
        assert [r.response_ids for r in one.rollouts] == [r.response_ids for r in other.rollouts]
        for name in ("loss", "kl", "kl_teacher", "entropy", "grad_norm"):
            mine, theirs = getattr(one.m, name), getattr(other.m, name)
            assert mine == theirs or theirs == pytest.approx(mine, rel=5e-3, abs=1e-6, nan_ok=True), name


SLOW = [pytest.param(fields, marks=pytest.mark.slow) for fields in CASES]


@pytest.mark.parametrize("fields", [{}, *SLOW], ids=lambda fields: " ".join(map(str, fields.values())) or "defaults")
def test_nothing_mixes(fields: dict[str, Any]) -> None:
    cpu = iterated("cpu", 2, fields)
    with pretended_gpu():
        alike(cpu, iterated("cuda", 2, fields))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16-mixed", "bfloat16"])
def test_nothing_mixes_in_bfloat16(precision: str) -> None:
    with pretended_gpu():
        (one,) = iterated("cuda", 1, {"precision": precision})
    assert one.m.grad_norm


def test_a_mask_on_the_wrong_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def positions(batch: TokenBatch) -> torch.Tensor:
        return batch.context[:, None] - 1 + torch.arange(batch.response.shape[1])

    monkeypatch.setattr(TokenBatch, "positions", property(positions))
    with pretended_gpu(), pytest.raises(UserError, match="Mixed: Expected all tensors to be on the same device"):
        toy_run(device="cuda", **FIXED)


def test_scoring_does_not_wait() -> None:
    """Between the pass and its backward pass nothing asks the device for a number."""
    with pretended_gpu() as gpu:
        iterated("cuda", 1, {"compile": "on", "support": "topk", "top_k": 20})
        places = {place.split()[-1].split(":")[0] for place in gpu.waits}
    assert "sampling/captured.py" in places
    assert not places & {"model/fused.py", "model/comparison.py", "model/chunks.py", "model/distributions.py"}
