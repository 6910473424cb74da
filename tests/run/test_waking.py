"""The first passes before the first step: on the CPU nothing is done; what they do changes nothing."""

from __future__ import annotations

import pytest
import torch
from toy import equal, toy_run, weights

from vpdlab.run.train import wake
from vpdlab.run.waking import first_passes


@pytest.mark.parametrize("fields", [{}, {"method": "grpo"}, {"method": "pi-distill"}, {"capture": "on"}])
def test_they_leave_no_trace(fields: dict[str, str]) -> None:
    ends = []
    for woken in (False, True):
        run = toy_run(**fields)
        if woken:
            first_passes(run)
            assert all(parameter.grad is None for parameter in run.policy.parameters)
        list(run.steps())
        ends.append(weights(run))
    assert equal(*ends)


def test_on_a_cpu_there_is_nothing_to_wake(capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run(device="cpu")
    wake(run)
    assert run.policy.waking == 0.0
    assert "waking" not in "".join(capsys.readouterr())
    assert torch.get_num_threads() == 1
