"""A run on a GPU against the same run on the CPU: every method, teacher, objective and precision (`make test-gpu`).

Tests of single parts that a GPU must pass too stand beside their twins on the CPU (`devices.DEVICES`).
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import GPU
from toy import Parity, equal, toy_run, weights

from vpdlab.learn.methods import METHODS
from vpdlab.model.teacher import KINDS
from vpdlab.run import Run, iterate

pytestmark = GPU
OBJECTIVES = ("bco", "kto", "awr", "pg")
COMPILED = [(name, "on") for name in ("grpo", "pi-distill", "vpd")]  # no teacher, two gradients, a teacher: all passes
MIB = 2**20


def pair(steps: int = 2, **fields: Any) -> tuple[Run, Run]:
    """The same run on both devices, after some steps; on the CPU nothing is compiled."""
    runs = toy_run(**{**fields, "device": "cpu", "compile": "off"}), toy_run(device="cuda", **fields)
    for run in runs:
        for step in range(1, steps + 1):
            run.last = iterate(run, step)  # type: ignore[attr-defined]
    return runs


def moved_alike(cpu: Run, gpu: Run, tolerance: float) -> None:
    """The weights have moved, and by the same."""
    start = weights(toy_run(**{"device": "cpu", "lora_rank": cpu.config.lora_rank, "teacher": cpu.config.teacher}))
    ours, theirs = weights(cpu), weights(gpu)
    shared = [name for name in ours if name in start and ours[name].is_floating_point()]
    moved = torch.cat([(ours[name] - start[name]).float().flatten() for name in shared])
    apart = torch.cat([(ours[name] - theirs[name].cpu()).float().flatten() for name in shared])
    assert moved.norm() > 0
    assert apart.norm() <= tolerance * moved.norm()


@pytest.mark.parametrize(("method", "compile"), [*((name, "off") for name in sorted(METHODS)), *COMPILED])
def test_every_method(method: str, compile: str) -> None:
    fields: dict[str, Any] = dict(METHODS[method].needs)
    if "feedback" in fields:
        pytest.skip("extra: the toy task has no reference solutions")
    cpu, gpu = pair(1, method=method, compile=compile, **fields)
    one, other = cpu.last, gpu.last  # type: ignore[attr-defined]
    assert [r.response_ids for r in one.rollouts] == [r.response_ids for r in other.rollouts]
    for name in ("loss", "kl", "kl_teacher", "entropy", "grad_norm"):
        mine, theirs = getattr(one.m, name), getattr(other.m, name)
        assert mine == theirs or theirs == pytest.approx(mine, rel=2e-3, abs=1e-6), name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_teacher(kind: str) -> None:
    moved_alike(*pair(teacher=kind, compile="off"), 0.05)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective(objective: str) -> None:
    moved_alike(*pair(e_objective=objective, beta=0.5, compile="off"), 0.05)


@pytest.mark.parametrize("precision", ["bfloat16-mixed", "bfloat16"])
def test_every_precision(precision: str) -> None:
    gpu = toy_run(device="cuda", precision=precision)
    assert all(iterate(gpu, step).m.loss is not None for step in (1, 2))
    assert all(value.isfinite().all() for value in weights(gpu).values())


def test_lora() -> None:
    moved_alike(*pair(lora_rank=4), 0.05)


def recorded(out: Path, **fields: Any) -> Run:
    """A run to its end, with its folder. The task is handed in, so that a resumed one has it from the start."""
    run = toy_run(record=True, task=Parity(), out=str(out), device="cuda", **fields)
    list(run.steps())
    return run


def test_a_deterministic_run_repeats_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    fields = {"deterministic": True, "checkpoint_every": 2}
    ends = [weights(recorded(tmp_path / name, steps=4, **fields)) for name in ("one", "two")]
    assert equal(*ends)
    recorded(tmp_path / "half", steps=2, **fields)
    assert equal(ends[0], weights(recorded(tmp_path / "half", steps=4, resume=True, **fields)))


def test_several_runs_in_one_session_and_their_memory_comes_back() -> None:
    used = []
    for seed in range(4):
        run = toy_run(device="cuda", seed=seed, steps=2)
        list(run.steps())
        del run
        gc.collect()
        torch.cuda.empty_cache()
        used.append(torch.cuda.memory_allocated())
    assert used[3] - used[1] < 4 * MIB


def test_the_first_passes_are_made_before_the_first_step(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["waking_seconds"] == round(run.policy.waking, 1)
    assert run.policy.waking > 0
    assert max(row[name] for row in run.rows for name in row if name.startswith("seconds_")) < run.policy.waking + 5
