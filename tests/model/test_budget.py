"""Minibatches as memory allows, with a meter that says what a device would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import architectures
from tests.toy import toy_model, toy_run
from vpdlab.model.budget import LEAST, MOST, choose, extrapolated, fit, resplit, trial
from vpdlab.model.policy import FIXED_TOKENS
from vpdlab.record import load_run

FREE = 10**9


def meter(base: int, per_token: int, limit: float = float("inf")) -> Callable[[int], int | None]:
    def measure(tokens: int) -> int | None:
        return base + per_token * tokens if base + per_token * tokens <= limit else None

    return measure


def test_two_measurements_are_extrapolated() -> None:
    assert extrapolated(meter(0, 100_000), FREE) == 9984  # 10,000, as a multiple of 256
    assert extrapolated(meter(400_000_000, 100_000), FREE) == 5888  # 6,000
    assert extrapolated(meter(0, 10), FREE) == MOST
    assert extrapolated(meter(0, 0), FREE) == MOST
    assert extrapolated(meter(0, 100_000, limit=2 * 10**8), FREE) == 1024  # the larger one ran out of memory
    assert extrapolated(meter(0, 100_000, limit=10**8), FREE) == 0
    assert extrapolated(meter(2 * FREE, 1), FREE) == 0


def test_memory_decides_what_the_settings_leave_open(capsys: pytest.CaptureFixture) -> None:
    policy = architectures.open_policy(toy_model(), minibatch_tokens=0)
    assert policy.minibatch_tokens == FIXED_TOKENS == 16384

    def measure(tokens: int) -> int:
        return (10_000 if policy.checkpointed else 100_000) * tokens

    choose(policy, measure, FREE)
    assert (policy.minibatch_tokens, policy.checkpointed) == (9984, False)
    choose(policy, measure, FREE // 4)  # 2,500 tokens are fewer than LEAST
    assert (policy.minibatch_tokens, policy.checkpointed) == (24832, True)
    assert "2304 tokens of a minibatch would fit without it, 24832 do with it" in capsys.readouterr().err
    assert LEAST > 2304


def test_settings_are_obeyed() -> None:
    policy = architectures.open_policy(toy_model(), minibatch_tokens=5000, checkpointing="off")
    choose(policy, meter(0, 10**6), FREE)
    assert (policy.minibatch_tokens, policy.checkpointed) == (5000, False)
    policy = architectures.open_policy(toy_model(), minibatch_tokens=5000)
    choose(policy, meter(0, 10**5), FREE)
    assert (policy.minibatch_tokens, policy.checkpointed) == (5000, False)  # it fits
    choose(policy, meter(0, 10**6), FREE)
    assert (policy.minibatch_tokens, policy.checkpointed) == (5000, True)
    policy = architectures.open_policy(toy_model(), minibatch_tokens=0, checkpointing="off")
    choose(policy, meter(2 * FREE, 1), FREE)
    assert (policy.minibatch_tokens, policy.checkpointed) == (1024, False)


def test_a_cpu_is_not_measured() -> None:
    policy = architectures.open_policy(toy_model(), minibatch_tokens=0)
    fit(policy, joint=False)
    assert (policy.minibatch_tokens, policy.checkpointed) == (16384, False)
    assert all(p.grad is None for p in policy.parameters)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("checkpointing", ["on", "off"])
def test_the_measured_update_leaves_gradients_alone(joint: bool, checkpointing: str) -> None:
    policy = architectures.open_policy(toy_model(), checkpointing=checkpointing)
    before = [p.detach().clone() for p in policy.parameters]
    state = torch.get_rng_state()
    trial(policy, 512, joint)
    assert all(torch.equal(p, old) for p, old in zip(policy.parameters, before, strict=True))
    assert any(p.grad is not None for p in policy.parameters)
    assert torch.equal(state, torch.get_rng_state())


def test_a_resumed_run_splits_alike(tmp_path: Path) -> None:
    fields = {"out": str(tmp_path / "run"), "eval_every": -1, "checkpoint_every": 1, "device": "cpu"}
    run = toy_run(True, steps=1, **fields)
    run.policy.minibatch_tokens = 300
    run.policy.checkpoint()
    list(run.steps())
    environment = load_run(tmp_path / "run").environment
    assert (environment["minibatch_tokens"], environment["checkpointed"]) == (300, True)
    again = toy_run(True, steps=2, resume_anyway=True, **fields)
    assert (again.policy.minibatch_tokens, again.policy.checkpointed) == (300, True)
    told = toy_run(True, steps=2, resume_anyway=True, minibatch_tokens=500, checkpointing="off", **fields)
    assert (told.policy.minibatch_tokens, told.policy.checkpointed) == (500, False)


def test_another_device_or_an_older_checkpoint_says_nothing() -> None:
    policy = architectures.open_policy(toy_model(), minibatch_tokens=0)
    resplit(policy, {"device_name": "large GPU", "minibatch_tokens": 10, "checkpointed": True}, "small GPU")
    resplit(policy, {"device_name": "small GPU"}, "small GPU")
    assert (policy.minibatch_tokens, policy.checkpointed) == (16384, False)
