"""The switches of a deterministic run: set when it opens or starts, put back when it ends or another one opens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.toy import toy_run
from vpdlab.errors import UserError
from vpdlab.model.determinism import VARIABLE, caveat, settle


def switches() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    settle(False, "cpu")
    os.environ.pop(VARIABLE, None)


def test_the_switches_are_set_twice_and_put_back_once() -> None:
    before = switches()
    settle(True, "cpu")
    settle(True, "cpu")
    assert switches() == (True, False)
    assert os.environ[VARIABLE] == ":4096:8"
    settle(False, "cpu")
    assert switches() == before == (False, True)


def test_a_person_s_own_settings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        settle(True, "cpu")
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ[VARIABLE] == ":16:8"
        settle(False, "cpu")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_cuda_that_has_started_without_the_variable_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for device in ("auto", "cuda", "cuda:1"):
        with pytest.raises(UserError, match=r"before Python starts \(export CUBLAS_WORKSPACE_CONFIG=:4096:8\)"):
            settle(True, device)
    assert switches() == (False, True)
    settle(True, "cpu")  # needs no cuBLAS
    assert switches() == (True, False)


def test_a_run_holds_them_from_opening_to_its_end(tmp_path: Path) -> None:
    run = toy_run(True, deterministic=True, device="cpu", steps=2, eval_every=-1, out=str(tmp_path / "run"))
    assert switches() == (True, False)
    toy_run(device="cpu")
    assert switches() == (False, True)  # another run opened
    seen = []
    for _ in run.steps():
        seen.append(switches())
    assert seen == [(True, False)] * 2
    assert switches() == (False, True)


def test_what_a_resumed_run_promises() -> None:
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert "up to rounding, not bit for bit" in caveat(gpu, deterministic=False)
    assert caveat(gpu, deterministic=True) == caveat(cpu, deterministic=False) == ""
