"""`vpdlab doctor` with options of train: what memory a run needs, and what to set where it is too much."""

from __future__ import annotations

import pytest

from tests.toy import toy_model
from vpdlab.cli import fitting
from vpdlab.cli.commands import doctor
from vpdlab.config import RunConfig

GIB = 2**30


def test_a_small_model_fits(capsys: pytest.CaptureFixture) -> None:
    assert doctor(["--model", toy_model(), "--device", "cpu", "--prompts", "2"]) == 0
    said = capsys.readouterr().out
    assert "AdamW's moments" in said and "while sampling  estimated" in said and "it fits" in said and "->" not in said


def test_a_large_one_gets_advice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda device: (20 * GIB, 24 * GIB))
    assert doctor(["--model", "qwen3-1.7b", "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "20.0 of 24.0 GiB free: it does not fit" in said
    assert "-> " in said and "--checkpointing on" in said


def test_the_advice_fits_and_nothing_of_it_can_be_left_out() -> None:
    config, room = RunConfig(model="qwen3-1.7b"), 40.0 * GIB
    found = fitting.remedy(config, room, gpu=True)
    assert found is not None
    changes, size = found
    assert size <= room
    for name in changes if len(changes) > 1 else ():
        fewer = {key: value for key, value in changes.items() if key != name}
        rest = fitting.remedy(config.but(**fewer), room, gpu=True)
        assert rest is not None and rest[0], name  # more is needed


def test_settings_that_contradict_each_other_are_no_advice() -> None:
    config = RunConfig(model="qwen3-8b", teacher="ema", precision="bfloat16-mixed")
    found = fitting.remedy(config, 60.0 * GIB, gpu=True)
    assert found is not None and "precision" not in found[0]  # an average needs float32 weights
    assert fitting.remedy(config, 1.0 * GIB, gpu=True) is None


def test_nothing_makes_it_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda device: (GIB, GIB))
    assert doctor(["--model", "qwen3-8b", "--device", "cpu"]) == 1
    assert "choose a smaller model or another device" in capsys.readouterr().out
